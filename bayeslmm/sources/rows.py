"""From a batch as it was read to the rows of a model: y, X, Z, level codes, weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError
from bayeslmm.formula.columns import find_column
from bayeslmm.formula.combinations import find_combinations
from bayeslmm.formula.matrices import ModelMatrix
from bayeslmm.formula.random import GroupingFactor
from bayeslmm.sources.survey import known_frame, used_rows

__all__ = ["FactorCodes", "ModelRows", "PlainRows", "RowBatch"]


@dataclass(frozen=True)
class PlainRows:
    """A frame as it was read to its used rows in plain columns.

    Attributes
    ----------
    names : tuple of str
        Columns the formula uses.
    weights : str or None
    kinds : mapping of str to str
    levels : mapping of str to pandas.Index
    """

    names: tuple[str, ...]
    weights: str | None
    kinds: Mapping[str, str]
    levels: Mapping[str, pd.Index]

    def __call__(self, frame: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray | None, np.ndarray]:
        """Plain rows, their weights (None without), their positions in the frame."""
        keep, _ = used_rows(frame, self.names, self.weights)
        used = frame if len(keep) == len(frame) else frame.iloc[keep]
        weights = None
        if self.weights is not None:
            weights = find_column(used, self.weights).to_numpy(dtype=float)
        return known_frame(used, self.kinds, self.levels), weights, keep


@dataclass(frozen=True)
class FactorCodes:
    """Codes of the levels of a grouping factor in plain rows.

    Attributes
    ----------
    name : str
    columns : tuple of str
    numbers : tuple of ndarray or None
        Per column, its sorted levels where they are numbers; None where the plain column has
        codes itself.
    keys : tuple of ndarray or None
        Keys of the combinations that occur (:mod:`bayeslmm.formula.combinations`); None for a
        single column.
    sizes : tuple of int
        Levels of each column.
    """

    name: str
    columns: tuple[str, ...]
    numbers: tuple[np.ndarray | None, ...]
    keys: tuple[np.ndarray, ...] | None
    sizes: tuple[int, ...]
    _tables: dict = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, factor: GroupingFactor, kinds: Mapping[str, str]) -> FactorCodes:
        """For a factor whose levels are known."""
        numbers = tuple(
            None if kinds[column] == "category" else np.asarray(levels)
            for column, levels in zip(factor.columns, factor._component_levels, strict=True)
        )
        return cls(factor.name, factor.columns, numbers, factor._keys, factor.sizes)

    def __call__(self, rows: pd.DataFrame) -> np.ndarray:
        """Level of each row.

        Raises
        ------
        DataError
            If there is a level that was not there in the first pass.
        """
        parts = [
            rows[column].cat.codes.to_numpy(np.int64)
            if numbers is None
            else self._positions(rows[column].to_numpy(), numbers, column)
            for column, numbers in zip(self.columns, self.numbers, strict=True)
        ]
        if self.keys is None:
            return parts[0]
        if len(self.keys) == 1:
            key = parts[0]
            for codes, size in zip(parts[1:], self.sizes[1:], strict=True):
                key = key * size + codes
            return self._positions(key, self.keys[0], None)
        found = find_combinations(parts, self.sizes, self.keys)
        if len(found) and found.min() < 0:
            self._changed()
        return found

    def _positions(
        self, values: np.ndarray, sorted_values: np.ndarray, slot: str | None
    ) -> np.ndarray:
        if sorted_values.dtype.kind == "i":
            values = values.astype(np.int64, copy=False)
            low, high = int(sorted_values[0]), int(sorted_values[-1])
            gaps = high - low + 1 > len(sorted_values)
            if not gaps or high - low < 8 * len(sorted_values):
                if len(values) and (values.min() < low or values.max() > high):
                    self._changed()
                if not gaps:
                    return values - low
                # a table is faster than a search
                table = self._tables.get(slot)
                if table is None:
                    table = np.full(high - low + 1, -1, dtype=np.int64)
                    table[sorted_values - low] = np.arange(len(sorted_values))
                    self._tables[slot] = table
                codes = table[values - low]
                if len(codes) and codes.min() < 0:
                    self._changed()
                return codes
        at = np.minimum(np.searchsorted(sorted_values, values), len(sorted_values) - 1)
        if not np.array_equal(sorted_values[at], values):
            self._changed()
        return at

    def _changed(self) -> None:
        raise DataError(
            f"The grouping factor {self.name!r} has a level that was not there in the first pass: "
            "the data changed."
        )


@dataclass(frozen=True)
class RowBatch:
    """Rows of a model.

    Attributes
    ----------
    y : ndarray, shape (m,)
        The offset is not subtracted.
    X : ndarray, shape (m, p)
    offset : ndarray, shape (m,)
    weights : ndarray, shape (m,), or None
    Z : list of ndarray, shape (m, q_k)
    codes : list of ndarray of int, shape (m,)
    plain : pandas.DataFrame
    positions : ndarray of int, shape (m,)
        Positions in the batch as it was read.
    """

    y: np.ndarray
    X: np.ndarray
    offset: np.ndarray
    weights: np.ndarray | None
    Z: list[np.ndarray]
    codes: list[np.ndarray]
    plain: pd.DataFrame = field(repr=False)
    positions: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class ModelRows:
    """A frame as it was read to the rows of a model.

    Attributes
    ----------
    plain : PlainRows
    response : str or ModelMatrix
        A column, or the evaluated call.
    fixed : ModelMatrix
    effects : tuple of tuple of ModelMatrix
        Of each grouping factor.
    factors : tuple of FactorCodes
    """

    plain: PlainRows
    response: str | ModelMatrix
    fixed: ModelMatrix
    effects: tuple[tuple[ModelMatrix, ...], ...]
    factors: tuple[FactorCodes, ...]

    def __call__(self, frame: pd.DataFrame) -> RowBatch | None:
        """The rows, or None where the batch has none that are used."""
        rows, weights, positions = self.plain(frame)
        if not len(rows):
            return None
        if isinstance(self.response, str):
            y = rows[self.response].to_numpy(dtype=float)
        else:
            y = self.response.evaluate_batch(rows)[0][:, 0]
        X, offset = self.fixed.evaluate_batch(rows)
        return RowBatch(
            y=y,
            X=X,
            offset=np.zeros(len(rows)) if offset is None else offset,
            weights=weights,
            Z=[
                np.column_stack([matrix.evaluate_batch(rows)[0] for matrix in matrices])
                for matrices in self.effects
            ],
            codes=[factor(rows) for factor in self.factors],
            plain=rows,
            positions=positions,
        )

    def fingerprint(self) -> str:
        """The same for formulas, kinds, levels and transforms that give the same rows."""
        from bayeslmm.sources.states import stateful_calls

        matrices = [self.fixed, *(m for group in self.effects for m in group)]
        response = self.response
        if not isinstance(response, str):
            matrices.append(response)
            response = response.text
        plain = self.plain
        parts: list = [response, plain.names, plain.weights, sorted(plain.kinds.items())]
        parts += [[matrix.text, matrix.names] for matrix in matrices]
        parts += [[name, list(levels)] for name, levels in sorted(self.plain.levels.items())]
        for text, copies in stateful_calls(matrices).items():
            state = vars(copies[0][0].stateful_transform)
            parts.append([text, [[k, _exact(v)] for k, v in sorted(state.items())]])
        digest = hashlib.sha256(repr(parts).encode())
        for factor in self.factors:
            digest.update(repr((factor.name, factor.sizes)).encode())
            for array in (*factor.numbers, *(factor.keys or ())):
                digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def _exact(value) -> str:
    """Text that tells any two states apart."""
    return value.tobytes().hex() if isinstance(value, np.ndarray) else repr(value)
