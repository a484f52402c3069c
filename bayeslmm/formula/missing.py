"""Which rows are left out because a value is missing, and the words for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from bayeslmm.errors import listed

__all__ = ["MissingRows"]


@dataclass(frozen=True)
class MissingRows:
    """Rows of the data that could not be used.

    Attributes
    ----------
    n_rows : int
        Rows of the data.
    dropped : ndarray of int
        Positions of the rows left out because a used column is missing.
    by_column : mapping of str to int
        Missing values per used column, among all rows.
    levels_lost : mapping of str to list
        Per grouping factor, levels all of whose rows were left out.
    n_zero_weight : int
        Rows left out because their weight is 0.
    modeled : mapping of str to int
        Missing values per covariate whose rows are kept because the model has them as unknowns.
    levels_touched : mapping of str to list
        Per grouping factor, levels some of whose rows were left out.
    """

    n_rows: int
    dropped: np.ndarray
    by_column: Mapping[str, int]
    levels_lost: Mapping[str, list] = field(default_factory=dict)
    n_zero_weight: int = 0
    modeled: Mapping[str, int] = field(default_factory=dict)
    levels_touched: Mapping[str, list] = field(default_factory=dict)

    @property
    def n_dropped(self) -> int:
        """Rows left out because a value is missing."""
        return len(self.dropped)

    def describe(self) -> str:
        """One sentence, empty where every row is used."""
        parts = []
        if self.n_dropped:
            columns = listed(f"{name} ({n})" for name, n in self.by_column.items() if n)
            parts.append(
                f"{self.n_dropped} of {self.n_rows} rows left out: missing values in {columns}"
            )
            for factor, levels in self.levels_touched.items():
                shown = ", ".join(map(str, levels[:5])) + (", ..." if len(levels) > 5 else "")
                parts[-1] += f"; they belong to {len(levels)} level(s) of {factor}: {shown}"
        if self.modeled:
            columns = listed(f"{name} ({n})" for name, n in self.modeled.items())
            parts.append(f"missing values are part of the model: {columns}")
        for factor, levels in self.levels_lost.items():
            shown = ", ".join(map(str, levels[:5])) + (", ..." if len(levels) > 5 else "")
            parts.append(f"no rows remain for {len(levels)} level(s) of {factor}: {shown}")
        if self.n_zero_weight:
            parts.append(f"{self.n_zero_weight} rows left out: weight 0")
        return "; ".join(parts)
