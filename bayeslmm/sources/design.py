"""The design of a model whose rows are read in batches: everything but the rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError
from bayeslmm.formula import Design
from bayeslmm.formula.statistics import BlockStatistics, RowStatistics
from bayeslmm.gaussian import CrossProducts
from bayeslmm.gaussian.orthogonal import column_lengths, gram_root
from bayeslmm.sources.base import Source
from bayeslmm.sources.rows import ModelRows, RowBatch

__all__ = ["NotHeld", "StreamedDesign"]


class NotHeld:
    """Stands where an array of rows would be; any use is an error that says what to do."""

    def __init__(self, what: str):
        self._what = what

    def _refuse(self, *_, **__):
        raise DataError(
            f"This needs {self._what} row by row, and the model was made from data that are read "
            "in batches, of which only sums are kept. Fitted values and residuals come in batches "
            "from blm.fitted_batches(fit); for anything else make the model from a data frame in "
            "memory (a sample of the rows, or of the groups)."
        )

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return self._refuse()

    def __repr__(self) -> str:
        return f"<{self._what}: not in memory>"

    __array__ = __len__ = __iter__ = __getitem__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse
    __truediv__ = __rtruediv__ = __matmul__ = __rmatmul__ = __pow__ = __neg__ = _refuse


def not_held(what: str) -> Any:
    """A :class:`NotHeld` in the place of an array."""
    return NotHeld(what)


@dataclass(frozen=True)
class StreamedDesign(Design):
    """A formula applied to rows that are not in memory.

    As :class:`Design`, but ``y``, ``X``, ``weights``, and a block's ``Z`` and ``codes`` raise;
    ``columns`` has the types and levels of the used columns and no rows.

    Attributes
    ----------
    cross_products : CrossProducts
        Of [Z X y 1], the offset subtracted from y.
    prototype : pandas.DataFrame
        A few plain rows that have every level of every factor of the fixed part.
    numbers : dict of str to (float, ndarray or None)
        Mean and, where they are few, distinct values of each numeric predictor.
    row_model : ModelRows
        Makes rows of batches.
    source : Source or None
        Where the rows are; None for a model read from a file.
    row_hash : int or None
        Of the rows the sums were made of (:func:`bayeslmm.sources.reduction.row_hash`).
    source_mark : object
        The mark of the source when they were made.
    """

    held_statistics: RowStatistics = field(repr=False, kw_only=True)
    cross_products: CrossProducts = field(repr=False, default=None)
    prototype: pd.DataFrame = field(repr=False, default=None)
    numbers: dict[str, Any] = field(repr=False, default_factory=dict)
    row_model: ModelRows = field(repr=False, kw_only=True)
    source: Source | None = field(repr=False, default=None)
    row_hash: int | None = field(repr=False, default=None)
    source_mark: Any = field(repr=False, default=None)

    @property
    def n_rows(self) -> int:
        return self.held_statistics.n

    @property
    def rows_in_memory(self) -> bool:
        return False

    @cached_property
    def statistics(self) -> RowStatistics:
        return self.held_statistics

    @cached_property
    def block_statistics(self) -> tuple[BlockStatistics, ...]:
        return self.held_statistics.blocks

    @cached_property
    def sd_y(self) -> float:
        return self.held_statistics.sd_y

    @cached_property
    def X_reduced(self) -> np.ndarray:
        cp = self.cross_products
        p = cp.p
        # rows of [(X - x0) T, 1] with the right products; then X itself, x0 added back
        root = gram_root(np.delete(np.delete(cp.gram_unweighted, p, 0), p, 1))
        reduced = root[:, :p] @ cp.shift.unmixing + np.outer(root[:, p], cp.shift.X)
        # the column of an empty cell is 0, not a rounding error
        empty = (column_lengths(cp) == 0)[:p]
        return np.where(empty, 0.0, reduced)

    def column_values(self, name: str) -> tuple[float, np.ndarray | None]:
        return self.numbers[name]

    def batches(self) -> Iterator[tuple[int, RowBatch]]:
        """Read the rows once more: number of the first row of each batch, and its used rows.

        Raises
        ------
        DataError
            If the model came from a file and its source is not known; or, at the latest after
            the last batch, if the rows are not those the model was made from.
        """
        from bayeslmm.sources.reduction import RowHashPass, row_hash

        if self.source is None:
            raise DataError(
                "This model was read from a file, which has no rows: make it anew from its data."
            )
        rows = self.row_model
        names = dict.fromkeys((*rows.plain.names, rows.plain.weights))
        columns = [name for name in names if name is not None]
        if self.source.mark() != self.source_mark:  # before any row is handed out
            self._refuse_other_rows(self.source.run(RowHashPass(rows), columns))
        start, found = 0, 0
        for frame in self.source.frames(columns):
            batch = rows(frame)
            if batch is not None:
                found = (found + row_hash(batch)) % 2**64
                yield start, batch
            start += len(frame)
        self._refuse_other_rows(found)

    def _refuse_other_rows(self, found: int) -> None:
        if found != self.row_hash:
            name = "the source" if self.source is None else self.source.name
            raise DataError(
                f"The rows of {name} are not those the model was made from: they "
                "changed since. Make the model and its fit anew; what is read of them now does not "
                "belong to this fit."
            )
