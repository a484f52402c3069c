"""Who is missing when: complete, dropped out, or missing in between."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError, DataWarning, listed
from bayeslmm.formula.columns import as_frame, find_column, missing_in
from bayeslmm.formula.labels import time_order

if TYPE_CHECKING:
    import matplotlib.axes

__all__ = ["Missingness", "missingness"]

_KINDS = ("complete", "drop-out", "intermittent", "never seen")


@dataclass(frozen=True)
class Missingness:
    """Pattern of missing occasions of each group; see :func:`bayeslmm.missingness`.

    Attributes
    ----------
    observed : pandas.DataFrame
        True where a group was observed; groups as rows, times as columns.
    groups : pandas.DataFrame
        Per group: ``pattern`` (complete, drop-out, intermittent, never seen), ``n_observed``,
        and ``last``, the last time at which it was observed.
    table : pandas.DataFrame
        Per pattern: ``groups`` with it, their ``share``, and the occasions ``missing``.
    by_time : pandas.DataFrame
        Per time: groups ``observed`` and ``missing``, and ``dropped_out``: those that were not
        seen any more from then on.
    """

    observed: pd.DataFrame = field(repr=False)
    groups: pd.DataFrame = field(repr=False)
    table: pd.DataFrame
    by_time: pd.DataFrame = field(repr=False)

    def plot(self, ax: matplotlib.axes.Axes | None = None) -> matplotlib.axes.Axes:
        """One line per group, filled where observed; complete ones on top, then by last time.

        Parameters
        ----------
        ax : matplotlib axes, optional
        """
        return _plot(self, ax)

    def __str__(self) -> str:
        n, times = self.observed.shape
        return f"{n} groups, {times} times\n{self.table.to_string()}"


def missingness(data, group: str, time: str, columns: str | list[str] | None = None) -> Missingness:
    """Table and picture of which groups are missing at which times.

    A group is observed at a time if it has a row there without a missing value in `columns`. A
    time of measurement is missing whether its row is absent or empty.

    Parameters
    ----------
    data : data frame
        One row per group and time.
    group, time : str
        Columns. Times are those that occur in the data, in order.
    columns : str or list of str, optional
        Columns that must not be missing; by default all others.

    Returns
    -------
    Missingness
        Drop-out is monotone: once missing, always missing. Anything else that is not complete,
        late arrival included, is intermittent.

    Raises
    ------
    FormulaError
        If there is no such column.
    DataError
        If a group or a time is missing, or a group has two rows at one time.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> data = blm.load_dataset("sleepstudy").iloc[:-3]
    >>> print(blm.missingness(data, "Subject", "Days").table)
                  groups     share  missing
    pattern
    complete          17  0.944444        0
    drop-out           1  0.055556        3
    intermittent       0  0.000000        0
    """
    frame = as_frame(data)
    keys = {name: find_column(frame, name) for name in (group, time)}
    for name, column in keys.items():
        if missing_in(column).any():
            raise DataError(f"Column {name!r} has missing values: whose row, or when, is unknown.")
    if isinstance(columns, str):
        columns = [columns]
    elif columns is None:
        columns = [str(c) for c in frame.columns if str(c) not in (group, time)]
    seen = np.ones(len(frame), dtype=bool)
    for name in columns:
        seen &= ~missing_in(find_column(frame, name))
    rows = pd.DataFrame({"g": keys[group].to_numpy(), "t": keys[time].to_numpy(), "seen": seen})
    if rows.duplicated(["g", "t"]).any():
        first = rows[rows.duplicated(["g", "t"])].iloc[0]
        raise DataError(
            f"{group} {first['g']!r} has more than one row at {time} {first['t']!r}: a pattern "
            "over time needs one."
        )
    observed = rows.pivot(index="g", columns="t", values="seen")
    observed = observed.astype("boolean").fillna(False).astype(bool)
    observed = observed[_times_in_order(keys[time], observed.columns.tolist(), time)]
    observed.index.name, observed.columns.name = group, time
    groups = _by_group(observed)
    return Missingness(observed, groups, _table(observed, groups), _by_time(observed))


def _times_in_order(column: pd.Series, levels: list, name: str) -> list:
    """Sorted times that occur, categories in their own order and text by the numbers in it."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        levels = column.cat.remove_unused_categories().cat.categories.tolist()
    order = time_order(levels)
    if order != levels:
        warnings.warn(
            f"The times {name!r} are text. They are taken in this order: {listed(order, 12)}.",
            DataWarning,
            stacklevel=3,
        )
    return order


def _by_group(observed: pd.DataFrame) -> pd.DataFrame:
    seen = observed.to_numpy()
    count = seen.sum(axis=1)
    last = seen.shape[1] - 1 - np.argmax(seen[:, ::-1], axis=1)
    monotone = count == last + 1
    kind = np.select(
        [count == seen.shape[1], count == 0, monotone],
        ["complete", "never seen", "drop-out"],
        "intermittent",
    )
    times = observed.columns.to_numpy()[last].astype(object)
    times[count == 0] = None
    return pd.DataFrame({"pattern": kind, "n_observed": count, "last": times}, index=observed.index)


def _table(observed: pd.DataFrame, groups: pd.DataFrame) -> pd.DataFrame:
    absent = observed.shape[1] - groups["n_observed"]
    rows = {}
    for kind in _KINDS:
        mine = groups["pattern"] == kind
        if kind != "never seen" or mine.any():
            rows[kind] = (int(mine.sum()), float(mine.mean()), int(absent[mine].sum()))
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["groups", "share", "missing"])
    table.index.name = "pattern"
    return table


def _by_time(observed: pd.DataFrame) -> pd.DataFrame:
    seen = observed.to_numpy()
    later = np.cumsum(seen[:, ::-1], axis=1)[:, ::-1] > 0
    before = np.column_stack([np.ones(len(seen), dtype=bool), later[:, :-1]])
    return pd.DataFrame(
        {
            "observed": seen.sum(axis=0),
            "missing": (~seen).sum(axis=0),
            "dropped_out": (before & ~later).sum(axis=0),
        },
        index=observed.columns,
    )


def _plot(pattern: Missingness, ax):
    import matplotlib.pyplot as plt
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    observed = pattern.observed
    order = pd.DataFrame(
        {
            "kind": pattern.groups["pattern"].map({k: i for i, k in enumerate(_KINDS)}),
            "missing": (~observed).sum(axis=1),
        }
    )
    observed = observed.loc[order.sort_values(["kind", "missing"], kind="stable").index]
    kinds = pattern.groups["pattern"].loc[observed.index]
    n, times = observed.shape
    if ax is None:
        height = float(np.clip(0.22 * n, 2.5, 9.0))
        _, ax = plt.subplots(figsize=(max(4.5, 0.45 * times + 3), height), layout="constrained")
    edges = (np.arange(times + 1) - 0.5, np.arange(n + 1) - 0.5)
    colors = ["#d9d9d9", "#2c6fad"]
    ax.pcolormesh(
        *edges,
        observed.to_numpy().astype(int),
        cmap=ListedColormap(colors),
        vmin=0,
        vmax=1,
        edgecolors="white",
        linewidth=0.8 if n <= 100 else 0.0,
    )
    labels = [str(t) for t in observed.columns]
    every = max(1, times // 15)
    ax.set_xticks(range(0, times, every), labels[::every])
    ax.set_yticks(range(n), [str(g) for g in observed.index]) if n <= 40 else ax.set_yticks([])
    ax.tick_params(length=0)
    ax.invert_yaxis()
    ax.set_xlabel(str(observed.columns.name))
    ax.set_ylabel(str(observed.index.name) if n <= 40 else f"{observed.index.name} ({n})")
    for side in ax.spines.values():
        side.set_visible(False)
    _mark_patterns(ax, kinds)
    handles = [
        Patch(color=c, label=t) for c, t in zip(colors, ("missing", "observed"), strict=True)
    ]
    ax.legend(
        handles=handles[::-1], loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False
    )
    return ax


def _mark_patterns(ax, kinds: pd.Series) -> None:
    """The pattern's name beside its groups, and a line between patterns."""
    start = 0
    for kind in _KINDS:
        count = int((kinds == kind).sum())
        if count:
            middle = start + (count - 1) / 2
            ax.annotate(
                f"{kind} ({count})",
                (1.01, middle),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize="small",
            )
            if start:
                ax.axhline(start - 0.5, color="black", linewidth=0.8)
            start += count
