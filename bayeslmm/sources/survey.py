"""The first pass: what the columns are, which rows are used, and the levels of factors.

What a data frame in memory is asked directly is collected here batch by batch: the kind of each
column, levels, missing values, weights, distinct combinations of interacting grouping columns,
and a few rows on which the formula can be tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError
from bayeslmm.formula.columns import find_column, missing_in, plain_column, weight_values

__all__ = ["ColumnSummary", "Survey", "SurveyPass", "known_frame", "used_rows"]

#: Numpy's types of the kinds of columns that are not categories.
NUMBERS = {"int": np.int64, "float": np.float64, "bool": bool}
#: Rows of each batch kept to try the formula on, and rows kept in all.
_SAMPLE, _MOST_SAMPLED = 200, 4096


class Distinct:
    """Distinct values, gathered in pieces that are joined whenever they have doubled."""

    def __init__(self) -> None:
        self.pieces: list = []
        self.size, self.joined = 0, 0

    def add(self, values) -> None:
        """More values, repeated or not; numbers of one dtype kind or text."""
        self.pieces.append(self._unique([values]))
        self.size += len(self.pieces[-1])
        if self.size > 2 * self.joined + 100_000:
            self.values()

    def merge(self, other: Distinct) -> None:
        """The values of both."""
        for piece in other.pieces:
            self.add(piece)

    def values(self):
        """All of them, in no order that means anything."""
        if not self.pieces:
            return np.empty(0)
        joined = self._unique(self.pieces)
        self.pieces, self.size, self.joined = [joined], len(joined), len(joined)
        return joined

    @staticmethod
    def _unique(pieces: list) -> Any:
        return pd.unique(np.concatenate(pieces))


class Combinations(Distinct):
    """Distinct rows of several columns, as frames."""

    @staticmethod
    def _unique(pieces: list[pd.DataFrame]) -> pd.DataFrame:
        return pd.concat(pieces, ignore_index=True).drop_duplicates(ignore_index=True)


@dataclass
class ColumnSummary:
    """What is known of one column.

    Attributes
    ----------
    kinds : set of str
        Kinds met: ``"int"``, ``"float"``, ``"bool"``, ``"category"``.
    order : list or None
        The categories in their own order where every batch has the same; None where they differ,
        or where the column is text.
    is_ordered : bool
        Whether the order is declared to mean something.
    used : dict
        Categories met, as keys.
    conflict : bool
        Whether batches declare different orders.
    """

    kinds: set[str] = field(default_factory=set)
    order: list | None = None
    is_ordered: bool = False
    conflict: bool = False
    used: dict = field(default_factory=dict)
    _first: bool = True

    def see_categories(self, categories: list, used: list, ordered: bool, text: bool) -> None:
        """One batch's categories."""
        self.used.update(dict.fromkeys(used))
        self._see_order(None if text else categories, ordered)

    def _see_order(self, order: list | None, ordered: bool) -> None:
        if self._first:
            self.order, self.is_ordered, self._first = order, ordered, False
        elif self.order != order:
            self.conflict |= ordered or self.is_ordered
            self.order = None

    def merge(self, other: ColumnSummary) -> None:
        """What both know."""
        self.kinds |= other.kinds
        self.used.update(other.used)
        self.conflict |= other.conflict
        if not other._first:
            self._see_order(other.order, other.is_ordered)

    def kind(self, name: str) -> str:
        """The kind of the whole column.

        Raises
        ------
        DataError
            If batches disagree.
        """
        kinds = self.kinds
        if len(kinds) == 1:
            return next(iter(kinds))
        if kinds == {"int", "float"}:
            return "float"
        shown = " in some batches and ".join(sorted(kinds))
        raise DataError(
            f"Column {name!r} has values of kind {shown} in others. Make it all numbers or all "
            "text."
        )

    def categories(self, name: str) -> list:
        """Levels in use, in their order.

        Raises
        ------
        DataError
            If parts of the data declare different orders, or levels cannot be sorted.
        """
        if self.conflict:
            raise DataError(
                f"The parts of the data give the levels of {name!r} in different orders. Give them "
                "one order, or make the column text."
            )
        if self.order is not None:
            return [level for level in self.order if level in self.used]
        try:
            return sorted(self.used)
        except TypeError:
            raise DataError(
                f"The levels of {name!r} are of different types. Make the column all numbers or "
                "all text."
            ) from None


@dataclass
class Survey:
    """State of the first pass.

    Attributes
    ----------
    n_rows, n_used, n_dropped, n_zero_weight : int
        Rows, those used, those with a missing value, those of weight 0.
    absent : dict of str to int
        Missing values per column.
    columns : dict of str to ColumnSummary
    distinct : dict of tuple of str
        Distinct values of a column (one name), or a frame of distinct combinations.
    lost : dict of str to Distinct
        Values of one-column grouping factors in rows left out.
    sample : list of pandas.DataFrame
        A few rows of each batch, as they were read.
    """

    columns: dict[str, ColumnSummary]
    distinct: dict[tuple[str, ...], Any]
    lost: dict[str, Distinct]
    n_rows: int = 0
    n_used: int = 0
    n_dropped: int = 0
    n_zero_weight: int = 0
    absent: dict[str, int] = field(default_factory=dict)
    sample: list[pd.DataFrame] = field(default_factory=list)


@dataclass(frozen=True)
class SurveyPass:
    """The first pass.

    Attributes
    ----------
    names : tuple of str
        Columns the formula uses.
    weights : str or None
        Column of prior weights.
    factors : tuple of tuple of str
        Columns of each grouping factor.
    text : frozenset of str
        Columns known to be text.
    """

    names: tuple[str, ...]
    weights: str | None
    factors: tuple[tuple[str, ...], ...]
    text: frozenset[str]

    def fingerprint(self) -> str:
        """The same for passes that give the same state."""
        return repr(("survey", self.names, self.weights, self.factors, sorted(self.text)))

    def start(self) -> Survey:
        return Survey(
            columns={name: ColumnSummary() for name in self.names},
            distinct={f: Distinct() if len(f) == 1 else Combinations() for f in self.factors},
            lost={f[0]: Distinct() for f in self.factors if len(f) == 1},
        )

    def add(self, state: Survey, frame: pd.DataFrame) -> Survey:
        n = len(frame)
        state.n_rows += n
        keep, missing = used_rows(frame, self.names, self.weights)
        for name in dict.fromkeys((*self.names, self.weights)):
            if name is not None:
                count = int(missing_in(find_column(frame, name)).sum())
                state.absent[name] = state.absent.get(name, 0) + count
        n_dropped = int(missing.sum())
        state.n_dropped += n_dropped
        state.n_used += len(keep)
        state.n_zero_weight += n - n_dropped - len(keep)
        if len(keep) < n:
            left_out = np.ones(n, dtype=bool)
            left_out[keep] = False
            for name, found in state.lost.items():
                column = find_column(frame, name)[left_out & ~missing_in(frame[name])]
                found.add(column.astype(object).to_numpy())
        if not len(keep):
            return state
        used = frame if len(keep) == n else frame.iloc[keep]
        plain = {name: self._see(state, used, name) for name in self.names}
        for factor, found in state.distinct.items():
            if len(factor) > 1:
                found.add(pd.DataFrame({c: _labels(plain[c]) for c in factor}))
            elif not isinstance(plain[factor[0]].dtype, pd.CategoricalDtype):
                found.add(plain[factor[0]].to_numpy())
        at = np.unique(np.linspace(0, len(used) - 1, _SAMPLE).astype(int))
        state.sample.append(used.iloc[at].copy())
        return self._thinned(state)

    def _see(self, state: Survey, used: pd.DataFrame, name: str) -> pd.Series:
        """Note the kind and the levels of a column; gives it plain."""
        raw = find_column(used, name)
        plain = plain_column(raw, name)
        summary = state.columns[name]
        if not isinstance(plain.dtype, pd.CategoricalDtype):
            summary.kinds.add({"i": "int", "f": "float", "b": "bool"}[plain.dtype.kind])
            return plain
        summary.kinds.add("category")
        levels = plain.cat.categories.tolist()
        if isinstance(raw.dtype, pd.CategoricalDtype) and name not in self.text:
            given = raw.cat.categories.tolist()
            summary.see_categories(given, levels, bool(raw.cat.ordered), False)
        else:
            summary.see_categories(levels, levels, False, True)
        return plain

    def merge(self, a: Survey, b: Survey) -> Survey:
        for name, summary in b.columns.items():
            a.columns[name].merge(summary)
        for factor, found in b.distinct.items():
            a.distinct[factor].merge(found)
        for name, found in b.lost.items():
            a.lost[name].merge(found)
        for name, count in b.absent.items():
            a.absent[name] = a.absent.get(name, 0) + count
        for counter in ("n_rows", "n_used", "n_dropped", "n_zero_weight"):
            setattr(a, counter, getattr(a, counter) + getattr(b, counter))
        a.sample += b.sample
        return self._thinned(a)

    @staticmethod
    def _thinned(state: Survey) -> Survey:
        """Keep the sample small: every other row of each batch once it has grown too large."""
        while sum(map(len, state.sample)) > 2 * _MOST_SAMPLED:
            state.sample = [f.iloc[::2] for f in state.sample]
            if len(state.sample) > _MOST_SAMPLED:
                state.sample = state.sample[::2]
        return state


def used_rows(
    frame: pd.DataFrame, names: tuple[str, ...], weights: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the rows used, and a mask of those with a missing value.

    Raises
    ------
    DataError
        If weights are not numbers, or negative or infinite.
    """
    missing = np.zeros(len(frame), dtype=bool)
    for name in names:
        missing |= missing_in(find_column(frame, name))
    if weights is None:
        return np.flatnonzero(~missing), missing
    column = find_column(frame, weights, "weights column")
    missing |= missing_in(column)
    w = np.zeros(len(frame))
    w[~missing] = weight_values(column[~missing])
    return np.flatnonzero(w > 0), missing


def known_frame(
    frame: pd.DataFrame, kinds: Mapping[str, str], levels: Mapping[str, pd.Index]
) -> pd.DataFrame:
    """Rows without missing values as plain columns of the kinds and levels surveyed.

    Parameters
    ----------
    kinds : mapping of str to {"int", "float", "bool", "category"}
    levels : mapping of str to pandas.Index
        Of the categorical columns.

    Raises
    ------
    DataError
        If a value is not of its column's kind: the data changed between passes.
    """
    columns = {}
    for name, kind in kinds.items():
        column = find_column(frame, name)
        if not len(frame):  # a column without any value says nothing of its type
            columns[name] = _nothing(kind, levels.get(name))
            continue
        if kind == "category":
            columns[name] = _coded(column, name, levels[name])
            continue
        plain = plain_column(column, name)
        if isinstance(plain.dtype, pd.CategoricalDtype):
            raise DataError(f"Column {name!r} has text where it had numbers: the data changed.")
        columns[name] = pd.Series(plain.to_numpy().astype(NUMBERS[kind], copy=False))
    return pd.DataFrame(columns, index=pd.RangeIndex(len(frame)), copy=False)


def _nothing(kind: str, levels: pd.Index | None) -> pd.Series:
    if kind == "category":
        return pd.Series(pd.Categorical([], levels))
    return pd.Series([], dtype=NUMBERS[kind])


def _coded(column: pd.Series, name: str, levels: pd.Index) -> pd.Categorical:
    """A column as codes of known levels; a dictionary is looked up, not each row."""
    if not isinstance(column.dtype, pd.CategoricalDtype):
        column = plain_column(column, name)
        if not isinstance(column.dtype, pd.CategoricalDtype):
            raise DataError(f"Column {name!r} has numbers where it had text: the data changed.")
    found = levels.get_indexer(pd.Index(column.cat.categories, dtype=object))
    codes = found[column.cat.codes.to_numpy()]
    if len(codes) and codes.min() < 0:
        raise DataError(f"Column {name!r} has a level that was not there before: the data changed.")
    # not ordered: formulae checks that an ordered column has all of its levels
    return pd.Categorical.from_codes(codes, levels)


def _labels(column: pd.Series) -> np.ndarray:
    if isinstance(column.dtype, pd.CategoricalDtype):
        return np.asarray(column.cat.categories, dtype=object)[column.cat.codes.to_numpy()]
    return column.to_numpy()
