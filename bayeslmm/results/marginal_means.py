"""Marginal means and their comparisons, as rows of a hypothesis matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError, listed, suggestion
from bayeslmm.results.adjustments import adjusted, correlation_of
from bayeslmm.results.reference_grid import Averages, averages_of_grid
from bayeslmm.results.tables import apart

__all__ = [
    "METHODS",
    "Comparisons",
    "adjust_comparisons",
    "comparison_rows",
    "marginal_rows",
    "pairs_of",
]

METHODS = ("pairwise", "reference", "sequential")


@dataclass(frozen=True)
class Comparisons:
    """Differences of marginal means.

    Attributes
    ----------
    labels : pandas.DataFrame
        Columns of `by`, and ``contrast``.
    L : (k, p) array
    offset : (k,) array
    pairs : (k, 2) int array
        Which means are compared.
    family : (k,) int array
        Comparisons with the same number are adjusted for each other.
    """

    labels: pd.DataFrame
    L: np.ndarray
    offset: np.ndarray
    pairs: np.ndarray
    family: np.ndarray


def _names(columns: str | list[str] | None) -> list[str]:
    return [columns] if isinstance(columns, str) else list(columns or ())


def marginal_rows(
    fit: Any,
    terms: str | list[str],
    by: str | list[str] | None = None,
    at: Mapping[str, Any] | None = None,
    weights: str = "equal",
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Labels, rows (k, p) and offsets (k,) of the marginal means.

    Parameters
    ----------
    fit : posterior or likelihood fit
    terms, by : str or list of str
        Columns whose levels are wanted; those of `by` come first.
    at, weights
        As in :func:`bayeslmm.results.reference_grid.averages_of_grid`.

    Raises
    ------
    ValueError
        If a column is not in the fixed part, or is numeric with many values, or the grid
        becomes too large.
    """
    wanted = list(dict.fromkeys([*_names(by), *_names(terms)]))
    averages = averages_of_grid(fit, wanted, at, weights)
    X, offset = _linear(fit, averages)
    return averages.labels, X, offset


def _linear(fit: Any, averages: Averages) -> tuple[np.ndarray, np.ndarray]:
    """Averages of rows of X and of the offset."""
    found = fit.model.design.evaluate(averages.frame, random=False)
    each = [*zip(averages.members, averages.weights, strict=True)]
    X = np.array([w @ found.X[mine] for mine, w in each]).reshape(len(each), found.X.shape[1])
    return X, np.array([w @ found.offset[mine] for mine, w in each])


def comparison_rows(
    fit: Any,
    terms: str | list[str],
    by: str | list[str] | None = None,
    at: Mapping[str, Any] | None = None,
    weights: str = "equal",
    method: str = "pairwise",
    reference: Any = None,
) -> Comparisons:
    """Differences of marginal means within each combination of `by`.

    Parameters
    ----------
    fit, terms, by, at, weights
        As in :func:`marginal_rows`.
    method : {"pairwise", "reference", "sequential"}
        All pairs, the first minus the second; each minus the first; each minus the one before.
    reference : level, optional
        What each is compared with by ``method="reference"``; by default the first.

    Raises
    ------
    ValueError
        As :func:`marginal_rows`, or if there is nothing to compare.
    DataError
        If the reference is no level.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {listed(METHODS)}, not {method!r}.")
    inner, outer = _names(terms), _names(by)
    if reference is not None and method != "reference":
        raise ValueError(
            f'reference={reference!r} goes with method="reference", not with {method!r}.'
        )
    if both := [name for name in outer if name in inner]:
        raise ValueError(f"{both[0]!r} is to be compared and stands in by=: leave it out of one.")
    labels, X, offset = marginal_rows(fit, inner, outer, at, weights)
    compared = [name for name in labels.columns if name not in outer]
    names = [" ".join(map(str, row)) for row in labels[compared].itertuples(index=False)]
    pairs, family = [], []
    for number, rows in enumerate(_families(labels, outer)):
        ordered = rows if reference is None else _reference_first(rows, names, str(reference))
        mine = [*pairs_of(ordered, method)]
        pairs += mine
        family += [number] * len(mine)
    if not pairs:
        raise ValueError("There is only one marginal mean: nothing to compare.")
    first, second = np.array(pairs).T
    found = apart(labels.loc[first, outer].reset_index(drop=True), ("contrast",))
    found["contrast"] = [f"{names[i]} - {names[j]}" for i, j in pairs]
    return Comparisons(
        found, X[first] - X[second], offset[first] - offset[second],
        np.array(pairs), np.array(family),
    )  # fmt: skip


def _families(labels: pd.DataFrame, by: list[str]) -> Iterator[np.ndarray]:
    """Positions of the means of each combination of `by`, in order."""
    if not by:
        yield np.arange(len(labels))
        return
    keys = labels[by].apply(tuple, axis=1)
    for key in dict.fromkeys(keys):
        yield np.flatnonzero([k == key for k in keys])


def _reference_first(rows: np.ndarray, names: list[str], reference: str) -> list[int]:
    """Some means in their order, that of the reference before them."""
    levels = [names[i] for i in rows]
    if reference not in levels:
        raise DataError(
            f"There is no level {reference!r} to compare with.{suggestion(reference, levels)} "
            f"Levels: {listed(levels)}."
        )
    return sorted(rows, key=lambda i: names[i] != reference)


def pairs_of(rows: Sequence[int] | np.ndarray, method: str) -> Iterator[tuple[int, int]]:
    """Which of some means are compared by a method, see :func:`comparison_rows`."""
    if method == "pairwise":
        yield from combinations(rows, 2)
    elif method == "reference":
        yield from ((i, rows[0]) for i in rows[1:])
    else:
        yield from zip(rows[1:], rows[:-1], strict=True)


def adjust_comparisons(
    table: pd.DataFrame, found: Comparisons, adjust: str | None, level: float, vcov: np.ndarray,
    kept: np.ndarray, method: str,
) -> pd.DataFrame:  # fmt: skip
    """Each family of comparisons adjusted for its number.

    Parameters
    ----------
    table : pandas.DataFrame
        Of the tests, in the order of `found`.
    vcov : (kept, kept) array
        Covariance of the estimated coefficients.
    kept : int array
        Their positions.

    Raises
    ------
    ValueError
        If the adjustment is not for comparisons of this kind.
    """
    if adjust == "tukey" and method != "pairwise":
        raise ValueError('adjust="tukey" is for all pairs: leave method out, or adjust="dunnett".')

    parts = []
    for number in np.unique(found.family):
        rows = np.flatnonzero(found.family == number)
        part = table.iloc[rows]
        parts.append(
            adjusted(
                part,
                adjust,
                level,
                found.pairs[rows],
                lambda rows=rows: correlation_of(found.L[rows][:, kept], vcov),
            )
        )
    return pd.concat(parts)
