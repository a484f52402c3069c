"""Grouping factors and the random-effects block of each.

All random terms on one factor form one block: a row-wise covariate matrix Z (n x q), integer
level codes, and a partition of the q effects into correlated sub-blocks. The n x (levels q)
matrix of textbooks is never formed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError, FormulaError
from bayeslmm.formula.combinations import (
    combination_codes,
    component_codes,
    find_combinations,
)
from bayeslmm.formula.matrices import ModelMatrix
from bayeslmm.formula.syntax import Bar
from bayeslmm.formula.table import PlainTable

__all__ = ["GroupingFactor", "RandomBlock", "grouping_factor", "plain_label", "random_block"]


#: What a label is as it is.
_LABELS = {int, float, str, bool}


@dataclass(frozen=True)
class GroupingFactor:
    """A grouping factor: its levels and how to find them again in new data.

    Attributes
    ----------
    name : str
        ``g`` or ``a:b``.
    columns : tuple of str
    levels : tuple
        Labels (int, str, bool or float) in order; combinations are ``"a1:b1"``.
    codes : ndarray of int, shape (n,)
        Level of each row used.
    """

    name: str
    columns: tuple[str, ...]
    levels: tuple
    codes: np.ndarray = field(repr=False)
    _component_levels: tuple[tuple, ...] = field(repr=False, default=())
    _keys: tuple[np.ndarray, ...] | None = field(repr=False, default=None)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Levels of each column."""
        return tuple(len(levels) for levels in self._component_levels)

    def find(self, frame: pd.DataFrame) -> tuple[np.ndarray, list]:
        """Codes of new rows (-1 where the level is new) and the label of each row.

        Parameters
        ----------
        frame : pandas.DataFrame
            Has the factor's columns, in any dtype, without missing values.
        """
        parts = self._component_codes(frame)
        if len(parts) == 1:
            codes, labels = parts[0]
            return codes.astype(np.int64), list(labels)
        assert self._keys is not None  # of several columns
        found = find_combinations([codes for codes, _ in parts], self.sizes, self._keys)
        joined = [":".join(map(str, row)) for row in zip(*(p[1] for p in parts), strict=True)]
        return found, joined

    def with_rows(self, frame: pd.DataFrame) -> GroupingFactor:
        """The factor with more rows, whose levels may be new; see :meth:`find`.

        New levels of a column come after the old ones, in the order in which they appear.

        Raises
        ------
        DataError
            If labels of combinations are ambiguous.
        """
        old = [self.codes] if len(self.columns) == 1 else self._decoded()
        levels, codes = [], []
        for (found, labels), known, before in zip(
            self._component_codes(frame), self._component_levels, old, strict=True
        ):
            fresh = list(dict.fromkeys(labels[found < 0]))
            at = {label: len(known) + i for i, label in enumerate(fresh)}
            added = [at[v] if c < 0 else c for c, v in zip(found, labels, strict=True)]
            levels.append((*known, *fresh))
            codes.append(np.concatenate([before, np.array(added, dtype=np.int64)]))
        return _coded_factor(self.columns, tuple(levels), codes)

    def _component_codes(self, frame: pd.DataFrame) -> list[tuple[np.ndarray, pd.Index]]:
        """Codes (-1 where new) and labels of each column."""
        parts = []
        for column, levels in zip(self.columns, self._component_levels, strict=True):
            labels = _labels(frame[column])
            found = pd.Index(list(levels), dtype=object).get_indexer(labels)
            if (found < 0).any():  # "1" is the level 1
                text = pd.Index([str(level) for level in levels], dtype=object)
                by_text = text.get_indexer(pd.Index([str(v) for v in labels], dtype=object))
                found = np.where(found < 0, by_text, found)
            parts.append((found, labels))
        return parts

    def _decoded(self) -> list[np.ndarray]:
        """Codes of each column, row by row, from the keys of their combinations."""
        assert self._keys is not None  # of several columns
        return [codes[self.codes] for codes in component_codes(self.sizes, self._keys)]


@dataclass(frozen=True)
class RandomBlock:
    """All random effects of one grouping factor.

    Attributes
    ----------
    factor : GroupingFactor
    effects : tuple of str
        Names of the q effects, such as ``("Intercept", "Days")``.
    Z : ndarray, shape (n, q)
        Covariates of the effects, row by row.
    pattern : tuple of tuple of int
        Partition of the effects into correlated sub-blocks.
    terms : tuple of Bar
        The random terms it came from.
    relationship : object or None
        Known covariance between the levels (``gaussian.relationship.Relationship``), in their
        order.
    """

    factor: GroupingFactor
    effects: tuple[str, ...]
    Z: np.ndarray = field(repr=False)
    pattern: tuple[tuple[int, ...], ...]
    terms: tuple[Bar, ...]
    _matrices: tuple[ModelMatrix, ...] = field(repr=False, default=())
    relationship: Any = field(repr=False, default=None)

    @property
    def name(self) -> str:
        """Name of the grouping factor."""
        return self.factor.name

    @property
    def codes(self) -> np.ndarray:
        """Level of each row, shape (n,)."""
        return self.factor.codes

    @property
    def levels(self) -> tuple:
        """Labels of the levels."""
        return self.factor.levels

    @property
    def n_levels(self) -> int:
        """Number of levels J."""
        return len(self.factor.levels)

    @property
    def n_effects(self) -> int:
        """Number of effects per level q."""
        return len(self.effects)

    @property
    def term_widths(self) -> tuple[int, ...]:
        """Number of effects of each of :attr:`terms`."""
        return tuple(len(matrix.names) for matrix in self._matrices)

    def correlated_pairs(self) -> list[tuple[int, int]]:
        """Pairs of effects (i < j) that have a correlation."""
        return [
            (a, b) for block in self.pattern for i, a in enumerate(block) for b in block[i + 1 :]
        ]

    def evaluate(self, frame: pd.DataFrame) -> np.ndarray:
        """Z for new rows, shape (m, q)."""
        return np.column_stack([matrix.evaluate(frame)[0] for matrix in self._matrices])


def grouping_factor(
    columns: tuple[str, ...], frame: pd.DataFrame | PlainTable, *, at_least: int = 2
) -> GroupingFactor:
    """Levels and codes of a grouping factor on plain columns.

    Parameters
    ----------
    columns : tuple of str
    frame : pandas.DataFrame or PlainTable
    at_least : int
        Levels without which there is no variance to estimate.

    Raises
    ------
    DataError
        If there is only one level, labels of combinations are ambiguous, or labels are floats so
        large that different ones may have become the same.
    """
    for column in columns:
        _refuse_inexact(frame[column], column)
    coded = [_levels_and_codes(frame[column]) for column in columns]
    component_levels = tuple(tuple(levels) for levels, _ in coded)
    factor = _coded_factor(columns, component_levels, [codes for _, codes in coded])
    if len(factor.levels) < at_least:
        raise DataError(
            f"The grouping factor {factor.name!r} has a single level ({factor.levels[0]!r}): a "
            "variance between groups needs at least two, and many more to be estimated well."
        )
    return factor


def _coded_factor(
    columns: tuple[str, ...], component_levels: tuple[tuple, ...], coded: list[np.ndarray]
) -> GroupingFactor:
    """A factor from the levels and codes of each of its columns."""
    name = ":".join(columns)
    if len(columns) == 1:
        levels, codes, keys = component_levels[0], coded[0], None
    else:
        sizes = tuple(len(levels) for levels in component_levels)
        keys, codes = combination_codes(coded, sizes)
        levels = _joined_labels(component_codes(sizes, keys), component_levels)
        if len(set(levels)) < len(levels):
            twice = next(level for level, count in Counter(levels).items() if count > 1)
            raise DataError(
                f"The levels of the grouping factor {name!r} are ambiguous when joined by ':': "
                f"{twice!r}."
            )
    codes = np.ascontiguousarray(codes, dtype=np.int64)
    return GroupingFactor(name, columns, levels, codes, component_levels, keys)


def random_block(
    factor: GroupingFactor, bars: list[Bar], matrices: list[ModelMatrix]
) -> RandomBlock:
    """Join the random terms on one factor.

    Raises
    ------
    FormulaError
        If a term has no effects, or an effect is named in two terms.
    """
    effects: list[str] = []
    pattern: list[tuple[int, ...]] = []
    for bar, matrix in zip(bars, matrices, strict=True):
        if not matrix.names:
            raise FormulaError(
                f"The random term {bar} has no effects left. Write (1 | {bar.factor})."
            )
        if matrix.offset is not None:
            raise FormulaError(f"offset() has no place in the random term {bar}.")
        twice = [name for name in matrix.names if name in effects]
        if twice:
            raise FormulaError(
                f"The effect {twice[0]!r} of {factor.name!r} is in two random terms, so its "
                "variance is not identified. Write it once; "
                f"(0 + x | {factor.name}) has no intercept."
            )
        at = range(len(effects), len(effects) + len(matrix.names))
        pattern.extend([tuple(at)] if bar.correlated else [(i,) for i in at])
        effects.extend(matrix.names)
    Z = np.ascontiguousarray(np.column_stack([matrix.values for matrix in matrices]))
    return RandomBlock(factor, tuple(effects), Z, tuple(pattern), tuple(bars), tuple(matrices))


def _refuse_inexact(column: pd.Series, name: str) -> None:
    """Labels of more than 15 digits that went through floats: some may be the same by now."""
    if column.dtype.kind == "f" and np.abs(column.to_numpy()).max(initial=0.0) > 2**53:
        raise DataError(
            f"The grouping factor {name!r} has numbers beyond 2^53 as floats, which cannot tell "
            "neighbors apart: different labels may have become one (integers with missing values "
            "and integers beyond 2^63 become floats when read). Read the column as text, such as "
            f"pandas.read_csv(..., dtype={{{name!r}: str}}), or as integers that may be missing: "
            '"Int64".'
        )


def _levels_and_codes(column: pd.Series) -> tuple[list, np.ndarray]:
    if isinstance(column.dtype, pd.CategoricalDtype):
        # through an object array: iterating an Arrow-backed index is slow
        labels = np.asarray(column.cat.categories, dtype=object).tolist()
        if not set(map(type, labels)) <= _LABELS:
            labels = [_label(v) for v in labels]
        return labels, column.array.codes.astype(np.int64)
    values = column.to_numpy()
    if values.dtype.kind == "f" and np.all(values == np.round(values)):
        values = values.astype(np.int64)
    if values.dtype.kind == "i" and len(values) and _compact(values):
        low = values.min()
        present = np.bincount(values - low) > 0
        rank = np.cumsum(present) - 1
        return (np.flatnonzero(present) + low).tolist(), rank[values - low]
    levels, codes = np.unique(values, return_inverse=True)
    return levels.tolist(), codes


def _compact(values: np.ndarray) -> bool:
    """Counting beats sorting where integers are dense."""
    return int(values.max()) - int(values.min()) < 4 * len(values) + 1000


def _label(value):
    """A level's label as int, str, bool or float."""
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, int | float | str | bool) else str(value)


def plain_label(value):
    """A label as int, str, bool or float; whole floats are ints."""
    value = _label(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _labels(column: pd.Series) -> pd.Index:
    """Labels of new rows, comparable with those of the fit."""
    return pd.Index([plain_label(v) for v in column.astype(object).to_numpy()], dtype=object)


def _joined_labels(codes: list[np.ndarray], component_levels: tuple[tuple, ...]) -> tuple[str, ...]:
    parts = [
        np.asarray([str(level) for level in levels], dtype=object)[column]
        for column, levels in zip(codes, component_levels, strict=True)
    ]
    return tuple(":".join(row) for row in zip(*parts, strict=True))
