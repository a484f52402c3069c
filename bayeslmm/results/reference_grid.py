"""The rows that effects are averaged over: a grid of factors' levels, or the rows of the data.

The grid has every combination of the levels of the factors, numeric columns at their means
(Searle, Speed and Milliken 1980, The American Statistician 34(4)); factors that are not asked for
are averaged over with weights, equal ones by default, whose names are those of Lenth's emmeans.
A factor is nested in another if each of its levels occurs with one level of that only: then the
grid has the combinations that exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from bayeslmm.errors import DataError, listed
from bayeslmm.formula import Design
from bayeslmm.formula.columns import as_frame, find_column, refuse_gaps
from bayeslmm.formula.matrices import mentions
from bayeslmm.protocols import is_posterior

__all__ = [
    "GRID_WEIGHTS",
    "Averages",
    "at_posterior_means",
    "averages_of_data",
    "averages_of_grid",
    "grid_values",
    "has_levels",
    "nested_factors",
    "reference_grid",
    "rows_of_labels",
]

#: How combinations of the factors that are averaged over count.
GRID_WEIGHTS = ("equal", "proportional", "outer", "cells", "flat")
_MAX_LEVELS = 50
_MAX_GRID = 200_000


@dataclass(frozen=True)
class Averages:
    """Rows, and the averages of them that are wanted.

    Attributes
    ----------
    labels : pandas.DataFrame
        One row per average; without columns where there is one that needs no name.
    frame : pandas.DataFrame
        Rows with the predictors' columns.
    members : list of int arrays
        Rows of each average.
    weights : list of float arrays
        Of these rows, with sum 1.
    """

    labels: pd.DataFrame
    frame: pd.DataFrame
    members: list[np.ndarray]
    weights: list[np.ndarray]

    def matrix(self) -> csr_array:
        """Weights of all rows in every average, shape (k, m)."""
        k, m = len(self.members), len(self.frame)
        row = np.repeat(np.arange(k), [len(mine) for mine in self.members])
        column = np.concatenate([np.zeros(0, dtype=np.int64), *self.members])
        return csr_array((np.concatenate([np.zeros(0), *self.weights]), (row, column)), (k, m))


def at_posterior_means(fit, terms: str | list[str] | None, at: Mapping | None) -> Mapping | None:
    """``at`` with the means of numbers of which some values are unknown, over all rows.

    The posterior means of the unknown values count: the mean of the known ones would leave out
    what :class:`bayeslmm.formula.covariates.CovariateModel` says of the others.

    Parameters
    ----------
    fit : posterior fit
    terms : str, list of str or None
        Columns whose levels are wanted.
    at : mapping or None
        Values of numeric columns.
    """
    from bayeslmm.bayes.covariates import covariate_names

    design, means = fit.model.design, {}
    wanted = {terms} if isinstance(terms, str) else set(terms or ())
    for covariate in design.modeled:
        name = covariate.name
        known = name in design._predictor_columns(random=False) and name not in wanted
        if known and covariate.values is None:
            values = np.array(design.predictors[name], dtype=float)
            x = fit.posterior[covariate_names(covariate).missing].mean(("chain", "draw"))
            values[covariate.rows] = x.to_numpy()[covariate.unit]
            means[name] = float(values.mean())
    return {**means, **(at or {})} if means else at


def averages_of_grid(
    fit: Any,
    wanted: list[str] | None,
    at: Mapping[str, Any] | None = None,
    weights: str = "equal",
    *,
    random: bool = False,
) -> Averages:
    """Averages over the reference grid.

    Parameters
    ----------
    fit : posterior or likelihood fit
    wanted, at, random
        As in :func:`reference_grid`.
    weights : {"equal", "proportional", "outer", "cells", "flat"}
        Of the combinations of the factors that are not wanted: the same; the frequency of the
        combination in the data; the product of the frequencies of its levels; the frequency of
        its cell, a combination of all factors; or the same for all cells that have data. The
        levels of a nested factor count equally within what they are nested in.

    Raises
    ------
    ValueError
        As :func:`reference_grid`, or if there are no such weights.
    """
    if weights not in GRID_WEIGHTS:
        raise ValueError(
            f"weights must be one of {', '.join(map(repr, GRID_WEIGHTS))}, not {weights!r}."
        )
    design = fit.model.design
    if is_posterior(fit):
        at = at_posterior_means(fit, wanted, at)
    grid, labels = reference_grid(design, wanted, at, random=random)
    columns = design._predictor_columns(random=random)
    factors = [name for name in columns if has_levels(design, name)]
    size = _grid_weights(design, grid, factors, [*labels.columns], weights)
    keep, members, shares = [], [], []
    for i, mine in enumerate(rows_of_labels(grid, labels)):
        rows = np.flatnonzero(mine & (size > 0))
        if len(rows):
            keep.append(i)
            members.append(rows)
            shares.append(size[rows] / size[rows].sum())
    return Averages(labels.iloc[keep].reset_index(drop=True), grid, members, shares)


def has_levels(design: Design, name: str) -> bool:
    """Whether the values of a column in the grid are levels, of which the data have so many."""
    column = design.predictors[name]
    if isinstance(column.dtype, pd.CategoricalDtype) or column.dtype == bool:
        return True
    return _only_as_factor(design, name)


def _grid_weights(
    design: Design, grid: pd.DataFrame, factors: list[str], wanted: list[str], weights: str
) -> np.ndarray:
    """Weight of each row of the grid among those of its label; 0 where it is left out."""
    if not len(design.predictors) and weights != "equal":
        raise DataError(
            f"weights={weights!r} needs frequencies, and of a fit in batches rows are not kept: "
            'weights="equal".'
        )
    if not factors or not len(design.predictors):
        return np.ones(len(grid))
    data = design.predictors[factors]
    count = np.ones(len(data)) if design.weights is None else design.weights
    others = [name for name in factors if name not in wanted]

    def frequency(names: list[str]) -> np.ndarray:
        """How often the combination of some columns of each row of the grid is in the data."""
        if not names:
            return np.ones(len(grid))
        keys = [data[name].astype(object) for name in names]
        found = pd.Series(count).groupby([k.to_numpy() for k in keys]).sum()
        at = pd.MultiIndex.from_frame(grid[names]) if len(names) > 1 else grid[names[0]]
        return found.reindex(at).fillna(0.0).to_numpy()

    if weights == "proportional":
        return frequency(others)
    if weights == "outer":
        return np.prod([np.ones(len(grid)), *(frequency([name]) for name in others)], axis=0)
    if weights == "cells":
        return frequency(factors)
    if weights == "flat":
        return (frequency(factors) > 0).astype(float)
    nests, size = nested_factors(data), np.ones(len(grid))
    for name, outer in nests.items():
        exists = frequency([name, *outer]) > 0
        size *= exists
        if name in others:  # levels within each nest
            each = grid[outer].astype(object).apply(tuple, axis=1)
            levels = grid[name][exists].groupby(each[exists].to_numpy()).nunique()
            size /= np.maximum(levels.reindex(each).fillna(1.0).to_numpy(), 1.0)
    return size


def nested_factors(data: pd.DataFrame) -> dict[str, list[str]]:
    """Which factors are nested in which others.

    Parameters
    ----------
    data : pandas.DataFrame
        Columns of levels.

    Returns
    -------
    dict
        A column, and those of which each of its levels occurs with one level only.
    """
    cells = data.astype(object).drop_duplicates()
    names = [name for name in cells.columns if cells[name].nunique() > 1]
    found: dict[str, list[str]] = {}
    for name in names:
        others = [n for n in names if n != name and name not in found.get(n, [])]
        most = {other: cells.groupby(name)[other].nunique().max() for other in others}
        if inside := [other for other, levels in most.items() if levels == 1]:
            found[name] = inside
    return found


def averages_of_data(
    design: Design,
    by: list[str],
    at: Mapping[str, Any] | None = None,
    newdata: Any = None,
) -> Averages:
    """Averages over rows of data, each of which counts once.

    Parameters
    ----------
    design : Design
    by : list of str
        Columns whose values each have an average. Without them there is one average of the
        fitted rows, or each row of `newdata` is one.
    at : mapping, optional
        Values that all rows get in a column; of several each is a label, and all rows get each.
    newdata : data frame, optional
        The fitted rows by default.

    Raises
    ------
    ValueError
        If a column is not there.
    DataError
        If the fitted rows are not in memory, or there are none; or a column of `by` has missing
        values, or values that cannot be told apart.
    """
    own = newdata is None
    frame = design.predictors if own else as_frame(newdata)
    if not len(frame):
        raise DataError(
            "There are no rows to average over. Of a fit in batches the rows are not kept: give "
            'newdata, or weights="equal" for a grid of levels.'
        )
    columns, at = [*frame.columns], dict(at or {})
    allowed = design._predictor_columns(random=True)
    for name in [*by, *at]:
        known = columns if name in by else allowed
        if name not in known:
            more = " Columns beside the formula's: newdata=data." if own and name in by else ""
            of = "rows" if name in by else "formula's predictors"
            raise ValueError(
                f"{name!r} is not a column of the {of}. Columns: {listed(known)}.{more}"
            )
    index, frame = frame.index, frame.reset_index(drop=True)
    lists = {name: _listed(value) for name, value in at.items()}
    several = [name for name, values in lists.items() if len(values) > 1]
    parts = [
        frame.assign(**dict(zip(lists, values, strict=True))) for values in product(*lists.values())
    ]
    together = pd.concat(parts, ignore_index=True) if lists else frame
    names = list(dict.fromkeys([*by, *several]))
    if not names:
        if own:
            n = len(together)
            return Averages(
                pd.DataFrame(index=range(1)), together, [np.arange(n)], [np.full(n, 1 / n)]
            )
        labels = together[[c for c in together.columns if c in allowed]]
        labels = labels.set_axis(pd.Index(list(index) * (len(together) // len(frame))))
        each = [np.array([i]) for i in range(len(together))]
        return Averages(labels, together, each, [np.ones(1)] * len(each))
    orders = {name: _order(design, frame, name, lists) for name in names}
    place = np.column_stack([together[name].map(orders[name]).to_numpy() for name in names])
    combinations, code = np.unique(place.astype(np.int64), axis=0, return_inverse=True)
    values = {name: [*orders[name]] for name in names}
    labels = pd.DataFrame(
        {name: [values[name][i] for i in combinations[:, j]] for j, name in enumerate(names)}
    )
    members = [np.flatnonzero(code.ravel() == i) for i in range(len(labels))]
    return Averages(labels, together, members, [np.full(len(m), 1 / len(m)) for m in members])


def _order(design: Design, frame: pd.DataFrame, name: str, given: Mapping) -> dict:
    """The values of a column and their places: as given, as the levels are, or sorted."""
    if name in given:
        return {value: i for i, value in enumerate(dict.fromkeys(given[name]))}
    column = refuse_gaps(find_column(frame, name), name, ": they are in no group of by=.")
    if isinstance(column.dtype, pd.CategoricalDtype):
        values = column.cat.categories.tolist()
    else:
        try:
            values = design._categories(name) or sorted(column.unique().tolist())
        except TypeError:
            raise DataError(
                f"Column {name!r} has values that cannot be sorted, such as lists or text beside "
                "numbers. Make it all numbers or all strings (.astype(str))."
            ) from None
    return {value: i for i, value in enumerate(values)}


def reference_grid(
    design: Design,
    wanted: list[str] | None,
    at: Mapping[str, float] | None = None,
    *,
    random: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The grid, and the combinations of the levels of the columns wanted, in their order.

    Parameters
    ----------
    design : Design
    wanted : list of str or None
        Columns; all that have levels where None.
    at : mapping, optional
        A value of numeric columns, or several, which are then wanted as well.
    random : bool
        Whether the grid has the columns of the random effects too.

    Raises
    ------
    ValueError
        If a column is not in the fixed part, or is numeric with many values, or the grid becomes
        too large.
    """
    at, columns = dict(at or {}), design._predictor_columns(random=random)
    for name in [*(wanted or ()), *at]:
        if name not in columns:
            part = "formula" if random else "fixed part"
            raise ValueError(
                f"{name!r} is not a column of the {part}. Columns: {listed(columns) or 'none'}."
            )
    values: dict[str, list] = {}
    for name in columns:
        asked = wanted is not None and name in wanted
        values[name] = _listed(at[name]) if name in at else grid_values(design, name, asked)
    size = int(np.prod([len(v) for v in values.values()]))
    if size > _MAX_GRID:
        raise ValueError(f"The reference grid has {size} rows; give some columns a value in at=.")
    grid = pd.DataFrame(list(product(*values.values())), columns=list(values))
    several = [name for name in columns if len(values[name]) > 1]
    if wanted is None:
        wanted = several
    else:
        wanted = [*wanted, *(name for name in several if name in at and name not in wanted)]
    if not wanted:
        return grid, pd.DataFrame(index=pd.RangeIndex(1))
    labels = grid[wanted].drop_duplicates().sort_values(wanted, key=_positions(values))
    return grid, labels.reset_index(drop=True)


def rows_of_labels(grid: pd.DataFrame, labels: pd.DataFrame) -> Iterator[np.ndarray]:
    """Which rows of a grid (bool) have the values of each label."""
    for at in range(len(labels)):
        mine = np.ones(len(grid), dtype=bool)
        for name in labels.columns:
            mine &= (grid[name] == labels[name].iloc[at]).to_numpy()
        yield mine


def _listed(value) -> list:
    """One value or several as a list."""
    values = list(value) if pd.api.types.is_list_like(value) else [value]
    if not values:
        raise ValueError("A column of at= has no value: give one or several.")
    return values


def grid_values(design: Design, name: str, wanted: bool) -> list:
    """Values of a column in the grid: its levels, or the mean of a number that is not wanted.

    Raises
    ------
    ValueError
        If a number is wanted that has many values.
    """
    column = design.predictors[name]
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.categories.tolist()
    mean, distinct = design.column_values(name)
    as_levels = wanted or column.dtype == bool or _only_as_factor(design, name)
    if not as_levels:
        return [mean]
    if distinct is None or len(distinct) > _MAX_LEVELS:
        count = "many" if distinct is None else len(distinct)
        raise ValueError(
            f"{name!r} is numeric with {count} different values. Give those wanted as a "
            "factor, or fix it: at={...}."
        )
    return distinct.tolist()


def _only_as_factor(design: Design, name: str) -> bool:
    """Whether a numeric column enters the fixed part through C() only: its mean is no level."""
    terms = [t for t in design.terms for c in t.components if mentions(c, name)]
    return bool(terms) and all(any(mentions(c, name) for c in t.categorical) for t in terms)


def _positions(values: Mapping[str, list]):
    """Sort labels in the order of the levels."""
    return lambda column: column.map({v: i for i, v in enumerate(values[column.name])})
