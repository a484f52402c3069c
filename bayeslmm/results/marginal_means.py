"""Marginal means: averages over a reference grid, as rows of a hypothesis matrix.

The grid has every combination of the levels of the factors in the fixed part; factors that are
not asked for are averaged over with equal weights, numeric columns stand at their means
(Searle, Speed and Milliken 1980, The American Statistician 34(4); Lenth's emmeans).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations, product

import numpy as np
import pandas as pd

from bayeslmm.errors import listed
from bayeslmm.formula import Design
from bayeslmm.formula.matrices import mentions
from bayeslmm.results.studentized_range import studentized_range_ppf, studentized_range_sf

__all__ = [
    "adjusted",
    "at_posterior_means",
    "pair_rows",
    "reference_grid",
    "reference_rows",
    "rows_of_labels",
]

_MAX_LEVELS = 50
_MAX_GRID = 200_000


def reference_rows(
    design: Design, terms: str | list[str], at: Mapping[str, float] | None = None
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Labels, rows (k, p) and mean offsets (k,) of the marginal means.

    Parameters
    ----------
    design : Design
    terms : str or list of str
        Columns whose levels are wanted.
    at : mapping, optional
        Values of numeric columns.

    Raises
    ------
    ValueError
        If a column is not in the fixed part, or is numeric with many values, or the grid
        becomes too large.
    """
    wanted = [terms] if isinstance(terms, str) else list(terms)
    grid, labels = reference_grid(design, wanted, at)
    evaluated = design.evaluate(grid, random=False)
    rows, offsets = [], []
    for mine in rows_of_labels(grid, labels):
        rows.append(evaluated.X[mine].mean(axis=0))
        offsets.append(evaluated.offset[mine].mean())
    return labels, np.array(rows), np.array(offsets)


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
        As :func:`reference_rows`.
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
        values[name] = _listed(at[name]) if name in at else _grid_values(design, name, asked)
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
    return list(value) if isinstance(value, list | tuple | np.ndarray | pd.Series) else [value]


def pair_rows(
    design: Design, terms: str | list[str], at: Mapping[str, float] | None = None
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, int]:
    """Labels, rows and offsets of all pairwise differences, and the number of means."""
    labels, L, offset = reference_rows(design, terms, at)
    names = [" ".join(map(str, row)) for row in labels.itertuples(index=False)]
    pairs = list(combinations(range(len(names)), 2))
    if not pairs:
        raise ValueError("There is only one marginal mean: nothing to compare.")
    contrast = [f"{names[i]} - {names[j]}" for i, j in pairs]
    rows = np.array([L[i] - L[j] for i, j in pairs])
    differences = np.array([offset[i] - offset[j] for i, j in pairs])
    return pd.DataFrame({"contrast": contrast}), rows, differences, len(names)


def adjusted(table: pd.DataFrame, adjust: str | None, n_means: int, level: float) -> pd.DataFrame:
    """Pairwise tests with p values adjusted for their number.

    Parameters
    ----------
    adjust : {"holm", "tukey", None}
        Holm (1979, Scandinavian Journal of Statistics 6); or Tukey's studentized range, with
        the intervals widened to match. The family is the comparisons that can be made: those
        that are NaN are not counted, nor means that none of the others compares.

    Raises
    ------
    ValueError
        If there is no such adjustment.
    """
    if adjust is None:
        return table
    exists = table["p"].notna().to_numpy()
    if adjust == "holm":
        p = table["p"].to_numpy()[exists]
        order = np.argsort(p)
        steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
        table.loc[exists, "p"] = np.minimum(steps, 1.0)[np.argsort(order)]
        return table
    if adjust == "tukey":
        pairs = np.array(list(combinations(range(n_means), 2)))
        compared = max(len(np.unique(pairs[exists])), 2)
        t, df = table["t"].to_numpy(), table["df"].to_numpy()
        table["p"] = studentized_range_sf(np.sqrt(2) * np.abs(t), compared, df)
        half = studentized_range_ppf(level, compared, df) / np.sqrt(2) * table["se"]
        table["lower"] = table["estimate"] - half
        table["upper"] = table["estimate"] + half
        return table
    raise ValueError(f'adjust must be "holm", "tukey" or None, not {adjust!r}.')


def _grid_values(design: Design, name: str, wanted: bool) -> list:
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
