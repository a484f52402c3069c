"""The used columns of the data, plain; a data frame of them is made when one is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import pandas as pd

__all__ = ["PlainTable", "factor_levels"]


def factor_levels(column: pd.Series) -> list | None:
    """Levels of a plain column that is a factor; None of numbers."""
    dtype = column.dtype
    return dtype.categories.tolist() if isinstance(dtype, pd.CategoricalDtype) else None


class PlainTable:
    """Plain columns of equal length (see :func:`bayeslmm.formula.columns.plain_values`).

    What evaluates a formula takes it in place of a frame of the same columns: most models need no
    frame, and making one takes a tenth of the time that a small model takes.

    Parameters
    ----------
    series : mapping of str to pandas.Series
    n : int
        Rows.
    """

    def __init__(self, series: Mapping[str, pd.Series], n: int):
        self._series, self._n = dict(series), n

    @classmethod
    def of(cls, frame: pd.DataFrame) -> PlainTable:
        """The columns of a frame."""
        table = cls({str(name): column for name, column in frame.items()}, len(frame))
        table.frame = frame
        return table

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The columns as a data frame, rows numbered from 0."""
        return pd.DataFrame(self._series, index=self.index)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self._series)

    @property
    def index(self) -> pd.RangeIndex:
        """Numbers of the rows."""
        return pd.RangeIndex(self._n)

    def __getitem__(self, name: str) -> pd.Series:
        return self._series[name]

    def __len__(self) -> int:
        return self._n

    def levels(self, name: str) -> list | None:
        """Levels of a factor; None of a column of numbers, or where there is no such column."""
        return factor_levels(self._series[name]) if name in self._series else None
