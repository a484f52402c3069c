"""Effects on the scale of the question: averages of predictions, their comparisons and slopes.

All are transformed linear combinations of averages of means: with W the weights of rows in the
averages and D those of the averages in a comparison, h(D s(W mu)), where mu are the means of rows,
s is the scale on which is compared (logarithms for ratios) and h the way back. Where mu is linear
in the coefficients so is a difference, with the t tests of the model; elsewhere intervals of a
likelihood fit are by the delta method, those of a posterior are of its draws. The vocabulary is
that of Arel-Bundock, Greifer and Heiss (2024, Journal of Statistical Software 111(9)).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.special import ndtr, ndtri

from bayeslmm.errors import DataError, listed
from bayeslmm.formula import Design
from bayeslmm.parts.families import LINKS, Link
from bayeslmm.protocols import is_posterior
from bayeslmm.results.averages import (
    EVENTS,
    interval_scale,
    mean_rows,
    means_of_likelihood,
    not_estimable,
    with_categories,
)
from bayeslmm.results.marginal_means import METHODS, pairs_of
from bayeslmm.results.population_average import refuse_without_mean
from bayeslmm.results.reference_grid import (
    GRID_WEIGHTS,
    Averages,
    averages_of_data,
    averages_of_grid,
    grid_values,
    has_levels,
)
from bayeslmm.results.response_prediction import posterior_prediction
from bayeslmm.results.support import refuse_heavy_averages
from bayeslmm.results.tables import apart, check_level, summarize_draws

__all__ = [
    "Asked",
    "checked",
    "comparisons_table",
    "own_groups",
    "predictions_table",
    "slopes_table",
]

_RANDOM = ("population", "marginal", "conditional", "new")
_MEASURES = ("difference", "ratio", "odds_ratio")
#: Steps of slopes, as a share of the range of a column.
_STEP = 1e-4


@dataclass(frozen=True)
class Asked:
    """Where effects are asked for, and how they are reported.

    Attributes
    ----------
    by, at, newdata, weights, random, kind
        As the arguments of ``fits.effects.Effects.predictions``.
    level, interval, ddf, random_seed
        Likewise.

    Raises
    ------
    ValueError
        If `by` or `at` is of another type, or `weights` are asked for rows of new data.
    """

    by: str | list[str] | None = None
    at: Mapping[str, Any] | None = None
    newdata: Any = None
    weights: str = "data"
    random: str | None = None
    kind: str = "mean"
    level: float = 0.95
    interval: str = "eti"
    ddf: str | None = None
    random_seed: int | None = None

    def __post_init__(self):
        if not all(isinstance(name, str) for name in self.columns):
            raise ValueError(f"by= is a name of a column or a list of them, not {self.by!r}.")
        if not isinstance(self.at or {}, Mapping):
            raise ValueError(f'at= is a dict, such as {{"x": 0}}, not {self.at!r}.')
        if self.newdata is not None and self.weights != "data":
            raise ValueError("Rows of newdata count once each: leave weights= out.")

    @property
    def columns(self) -> list[str]:
        """Those of `by`."""
        by: Any = () if self.by is None else self.by
        return list(by) if pd.api.types.is_list_like(by) else [by]

    @property
    def on_grid(self) -> bool:
        """Whether rows are those of the reference grid, not of data."""
        return self.newdata is None and self.weights != "data"


@dataclass(frozen=True)
class _Combination:
    """What is reported of averages: D of them on a scale, and the way back from there."""

    D: np.ndarray
    scale: Link
    back: Link

    @property
    def linear(self) -> bool:
        return self.scale.name == "identity" and self.back.name == "identity"


def predictions_table(fit: Any, asked: Asked) -> pd.DataFrame:
    """See ``fits.effects.Effects.predictions``."""
    asked, averages = checked(fit, asked), _averages(fit, asked)
    linear, family = _is_linear(fit, asked), fit.model.design.family
    scale = LINKS["identity"] if linear else interval_scale(family)
    D = np.eye(len(averages.members))
    return _table(fit, averages, _Combination(D, scale, scale), averages.labels, asked)


def comparisons_table(
    fit: Any, variables: Any, asked: Asked, measure: str, method: str
) -> pd.DataFrame:
    """See ``fits.effects.Effects.comparisons``."""
    asked, family = checked(fit, asked), fit.model.design.family
    if measure not in _MEASURES:
        raise ValueError(f"measure must be one of {listed(_MEASURES)}, not {measure!r}.")
    if measure == "odds_ratio" and (family.name not in EVENTS or asked.kind == "link"):
        raise ValueError('measure="odds_ratio" compares probabilities: kind="mean" of events.')
    if measure == "ratio" and asked.kind == "link":
        raise ValueError('measure="ratio" compares means: kind="mean".')
    scales = {"difference": "identity", "ratio": "log", "odds_ratio": "logit"}
    backs = {"difference": "identity", "ratio": "log", "odds_ratio": "log"}
    tables = []
    for name, what in _named(fit, variables, method, asked).items():
        values, pairs, labels = what
        averages = _averages_of_values(fit, asked, name, values)
        k = len(averages.labels)
        D = np.zeros((len(pairs) * k, len(values) * k))
        for r, (high, low) in enumerate(pairs):
            rows = np.arange(r * k, (r + 1) * k)
            D[rows, high * k + np.arange(k)] += 1.0
            D[rows, low * k + np.arange(k)] -= 1.0
        found = pd.concat([averages.labels] * len(pairs), ignore_index=True)
        found = apart(found, ("variable", "contrast"))
        found.insert(0, "variable", name)
        found.insert(1, "contrast", np.repeat(labels, k))
        combination = _Combination(D, LINKS[scales[measure]], LINKS[backs[measure]])
        tables.append(_table(fit, averages, combination, found, asked))
    return pd.concat(tables, ignore_index=True)


def slopes_table(fit: Any, variables: Any, asked: Asked) -> pd.DataFrame:
    """See ``fits.effects.Effects.slopes``."""
    asked, tables = checked(fit, asked), []
    for name in _variables(fit, variables):
        column = _column(fit, name)
        if not _is_number(fit, name):
            raise ValueError(
                f"{name!r} is no number in the formula: slopes are of numbers. Use comparisons()."
            )
        spread = float(np.ptp(column.to_numpy(dtype=float))) or 1.0
        step = _STEP * spread
        averages = _averages_of_values(fit, asked, name, [_Moved(step), _Moved(-step)])
        k = len(averages.labels)
        D = np.hstack([np.eye(k), -np.eye(k)]) / (2 * step)
        found = apart(averages.labels, ("variable",))
        found.insert(0, "variable", name)
        identity = LINKS["identity"]
        tables.append(_table(fit, averages, _Combination(D, identity, identity), found, asked))
    return pd.concat(tables, ignore_index=True)


def own_groups(design: Design) -> set[str]:
    """Columns of grouping factors that the fixed part has not: their levels have own effects."""
    groups = {c for block in design.blocks for c in block.factor.columns}
    return groups - set(design._predictor_columns(random=False))


def checked(fit: Any, asked: Asked) -> Asked:
    """What is asked, with the random effects that go with it.

    Raises
    ------
    ValueError, DataError
    """
    check_level(asked.level, asked.interval)
    design = fit.model.design
    groups = own_groups(design)
    own = [name for name in asked.columns if name in groups]
    random = asked.random or ("conditional" if own else "population")
    if random not in _RANDOM:
        raise ValueError(f"random must be one of {listed(_RANDOM)}, not {random!r}.")
    if asked.kind not in ("mean", "link"):
        raise ValueError(f'kind must be "mean" or "link", not {asked.kind!r}.')
    if random == "marginal":
        if asked.kind == "link":
            raise ValueError('The population\'s linear predictor is that of random="population".')
        refuse_heavy_averages(fit.model)
        refuse_without_mean(design.family)
    if asked.weights not in ("data", *GRID_WEIGHTS):
        raise ValueError(
            f"weights must be one of {listed(('data', *GRID_WEIGHTS))}, not {asked.weights!r}."
        )
    if asked.on_grid and (own or random == "conditional"):
        raise ValueError(
            'Effects of the groups themselves are averaged over rows: weights="data", or newdata '
            "with their columns."
        )
    if design.modeled and asked.newdata is None and not asked.on_grid:
        names = listed([covariate.name for covariate in design.modeled])
        raise DataError(
            f"Rows with unknown values of {names} cannot be averaged over: give newdata, or "
            'weights="equal" for a grid.'
        )
    if is_posterior(fit) and asked.ddf is not None:
        raise ValueError("ddf is of likelihood fits: a posterior's intervals need none.")
    if not is_posterior(fit) and not _is_linear(fit, asked):
        if asked.ddf not in (None, "normal"):
            raise DataError(f"ddf={asked.ddf!r} is for Gaussian responses.")
        if random in ("conditional", "new"):
            raise DataError(
                f'random="{random}" of means that are not linear in the effects needs their '
                'posterior: model.fit(). Here: kind="link", random="population" or "marginal".'
            )
    return replace(asked, random=random)


def _is_linear(fit: Any, asked: Asked) -> bool:
    return fit.model.design.family.gaussian or asked.kind == "link"


def _averages(fit: Any, asked: Asked, at: Mapping | None = None) -> Averages:
    at = {**(asked.at or {}), **(at or {})}
    if asked.on_grid:
        random = asked.random != "population"
        return averages_of_grid(fit, asked.columns, at, asked.weights, random=random)
    return averages_of_data(fit.model.design, asked.columns, at, asked.newdata)


@dataclass(frozen=True)
class _Moved:
    """A number's own value and so much more."""

    by: float


def _averages_of_values(fit: Any, asked: Asked, name: str, values: list) -> Averages:
    """Averages for one value of a column after the other, of all labels each."""
    if name in asked.columns or name in (asked.at or {}):
        raise ValueError(f"{name!r} is compared and stands in by= or at=: leave it out of one.")
    design, means = fit.model.design, ["population"] + ["marginal"] * _is_linear(fit, asked)
    if asked.random in means and name not in design._predictor_columns(random=False):
        raise ValueError(
            f"{name!r} is not a column of the fixed part: no mean over groups depends on it. For "
            'effects in each group, give by= a grouping column and random="conditional".'
        )
    if isinstance(values[0], _Moved) or not asked.on_grid:
        part = _averages(fit, asked)
    parts = []
    for value in values:
        if isinstance(value, _Moved):
            moved = part.frame[name].astype(float) + value.by
            parts.append(replace(part, frame=part.frame.assign(**{name: moved})))
        elif asked.on_grid:
            parts.append(_averages(fit, asked, {name: value}))
        else:
            parts.append(replace(part, frame=part.frame.assign(**{name: value})))
    start = np.cumsum([0, *(len(part.frame) for part in parts)])
    labels = parts[0].labels.reset_index(drop=True)
    if any(len(part.labels) != len(labels) for part in parts):
        raise DataError(
            f"Some levels of {name!r} do not occur with all of {listed(asked.columns)}: compare "
            "them with pairwise()."
        )
    return Averages(
        labels.drop(columns=[name], errors="ignore"),
        pd.concat([part.frame.astype({name: object}) for part in parts], ignore_index=True),
        [mine + s for part, s in zip(parts, start[:-1], strict=True) for mine in part.members],
        [w for part in parts for w in part.weights],
    )


def _variables(fit: Any, variables: Any) -> list[str]:
    """Names of columns of the formula.

    Raises
    ------
    ValueError
    """
    known = fit.model.design._predictor_columns(random=True)
    if variables is None and not known:
        raise ValueError("The formula has no columns to compare.")
    variables = known if variables is None else variables
    names = list(variables) if pd.api.types.is_list_like(variables) else [variables]
    if not names:
        raise ValueError("No column is named: leave variables= out for all, or name one.")
    for name in names:
        if name not in known:
            raise ValueError(
                f"{name!r} is not a column of the formula. Columns: {listed(known) or 'none'}."
            )
    return names


def _column(fit: Any, name: str) -> pd.Series:
    column = fit.model.design.predictors[name]
    if not len(column):
        raise DataError(
            f"The rows of {name!r} are not kept: comparisons({{{name!r}: (a, b)}}) of two values, "
            "with newdata or weights."
        )
    return column


def _is_number(fit: Any, name: str) -> bool:
    return not has_levels(fit.model.design, name)


def _named(fit: Any, variables: Any, method: str, asked: Asked) -> dict[str, tuple]:
    """For each variable its values, which pairs of them are compared, and the labels of these."""
    given = dict(variables) if isinstance(variables, Mapping) else {}
    return {
        name: _values(fit, name, given.get(name, method))
        for name in _variables(fit, list(given) if given else variables)
    }


def _values(fit: Any, name: str, what: Any) -> tuple[list, list[tuple[int, int]], list[str]]:
    number = _is_number(fit, name)
    if isinstance(what, tuple | list) and len(what) == 2:
        low, high = what
        return [low, high], [(1, 0)], [f"{high} - {low}"]
    values = fit.model.design.predictors[name]
    zero_one = number and len(values) > 0 and set(values.unique().tolist()) <= {0, 1}
    if number and not zero_one:
        if what == "reference":
            what = 1
        if isinstance(what, str):
            return _spread(name, _column(fit, name).to_numpy(dtype=float), what)
        if isinstance(what, bool) or not isinstance(what, int | float | np.number):
            raise ValueError(f"{name!r}: give a step, two values (a, b), or a name, not {what!r}.")
        return [_Moved(0.0), _Moved(float(what))], [(1, 0)], [f"+{what:g}"]
    if what not in METHODS:
        raise ValueError(
            f"Levels of {name!r} are compared by one of {listed(METHODS)}, or two of them (a, b); "
            f"not {what!r}."
        )
    levels = grid_values(fit.model.design, name, wanted=True)
    pairs = [*pairs_of(range(len(levels)), what)]
    if what == "pairwise":  # the later minus the earlier, as all comparisons here
        pairs = [(j, i) for i, j in pairs]
    if not pairs:
        raise ValueError(f"{name!r} has one level: nothing to compare.")
    return levels, pairs, [f"{levels[i]} - {levels[j]}" for i, j in pairs]


def _spread(name: str, x: np.ndarray, what: str) -> tuple[list, list[tuple[int, int]], list[str]]:
    """Two values of a number by a name."""
    if what in ("sd", "2sd"):
        half = x.std(ddof=1) * (0.5 if what == "sd" else 1.0)
        return [_Moved(-half), _Moved(half)], [(1, 0)], [f"(x + {what}/2) - (x - {what}/2)"]
    if what == "iqr":
        low, high = np.quantile(x, [0.25, 0.75])
        return [low, high], [(1, 0)], ["Q3 - Q1"]
    if what == "minmax":
        return [x.min(), x.max()], [(1, 0)], ["max - min"]
    raise ValueError(
        f"{name!r} is a number: compare a step such as 1, two values (a, b), "
        f"'sd', '2sd', 'iqr' or 'minmax'; not {what!r}."
    )


def _table(
    fit: Any, averages: Averages, combination: _Combination, labels: pd.DataFrame, asked: Asked
) -> pd.DataFrame:
    """Labels and estimates, of ordered categories one below the other."""
    design = fit.model.design
    if is_posterior(fit):
        columns = _of_posterior(fit, averages, combination, asked)
    elif _is_linear(fit, asked):
        columns = _linear_of_likelihood(fit, averages, combination, asked)
    else:
        columns = _means_of_likelihood(fit, averages, combination, asked)
    if asked.kind == "mean":
        labels = with_categories(labels, design)
    return pd.concat([apart(labels, columns), columns.set_index(labels.index)], axis=1)


def _reported(combination: _Combination, means: np.ndarray) -> np.ndarray:
    """Combinations (..., r, C) of averages (..., k, C)."""
    if not combination.linear and combination.scale.name == "log" and np.any(means <= 0):
        raise DataError("A mean to compare can be 0 or less, so there is no ratio of it.")
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return combination.back.inverse(combination.D @ combination.scale.link(means))


def _of_posterior(
    fit: Any, averages: Averages, combination: _Combination, asked: Asked
) -> pd.DataFrame:
    from bayeslmm.bayes.draws import coefficient_draws
    from bayeslmm.results.posterior_prediction import warn_of_priors_alone

    design = fit.model.design
    if _is_linear(fit, asked) and asked.random in ("population", "marginal"):
        rows = mean_rows(design, averages, effects=False)
        X, offset = combination.D @ rows.average(rows.X), rows.average(rows.offset)
        if combination.linear:
            warn_of_priors_alone(fit, X, range(len(X)))
            beta = coefficient_draws(design, fit.posterior)[1]
            draws = beta @ X.T + combination.D @ offset
        else:
            beta = coefficient_draws(design, fit.posterior)[1]
            means = beta @ rows.average(rows.X).T + offset
            draws = _reported(combination, means[..., None])[..., 0]
    else:
        means = _average_draws(fit, averages, asked)
        draws = _reported(combination, means)
        draws = draws.reshape(*draws.shape[:2], -1)
    table = summarize_draws(
        draws, range(draws.shape[-1]), level=asked.level, interval=asked.interval
    )
    compared = not np.array_equal(combination.D, np.eye(len(combination.D)))
    if combination.back.name == "log" and compared:  # a ratio may have no posterior mean
        table.insert(0, "median", np.median(draws, axis=(0, 1)))
        return table.drop(columns=["mean", "sd"]).assign(p_above_1=(draws > 1).mean(axis=(0, 1)))
    if compared:
        table["p_positive"] = (draws > 0).mean(axis=(0, 1))
    return table


def _average_draws(fit: Any, averages: Averages, asked: Asked) -> np.ndarray:
    """Draws (chains, draws, k, C) of the averages of the means of rows."""
    design, frame = fit.model.design, averages.frame
    if asked.random == "new":  # all rows are of one group of each factor
        known = set(design._predictor_columns(random=True))
        groups = {c for block in design.blocks for c in block.factor.columns} - known
        frame = frame.assign(**dict.fromkeys(groups, "a new group"))
    ordinal = asked.kind == "mean" and design.family.name == "ordinal"
    kind = "probabilities" if ordinal else asked.kind
    C = len(design.categories) if ordinal else 1
    prediction = posterior_prediction(fit, frame, str(asked.random), kind, asked.random_seed)
    W, total = averages.matrix().tocsc(), np.zeros(0)
    for part, draws in prediction.blocks():
        each = np.moveaxis(draws.reshape(*draws.shape[:2], -1, C), 2, 0)
        found = W[:, part] @ each.reshape(len(each), -1)
        total = total + found if total.size else found
    chains, draws_each = prediction.shape
    return np.moveaxis(total.reshape(-1, chains, draws_each, C), 0, 2)


def _linear_of_likelihood(
    fit: Any, averages: Averages, combination: _Combination, asked: Asked
) -> pd.DataFrame:
    """Where means are linear in coefficients and effects."""
    design, D = fit.model.design, combination.D
    own = asked.random in ("conditional", "new")
    if not own:
        rows = mean_rows(design, averages, effects=False)
        X, offset = rows.average(rows.X), rows.average(rows.offset)
        if combination.linear:
            return fit._rows(D @ X, asked.ddf, asked.level, D @ offset)
        means = X[:, fit.kept] @ fit._solution.beta + offset
        _reported(combination, means)  # refuses means that have no ratio
        gradient = D @ (X / combination.scale.inverse_slope(combination.scale.link(means))[:, None])
        center = D @ combination.scale.link(means)
        found = fit._rows(
            gradient, asked.ddf, asked.level, center - gradient[:, fit.kept] @ fit._solution.beta
        )
        return _back(found, combination)
    if not combination.linear:
        raise DataError(
            "Ratios of means with random effects need their posterior: model.fit(). Here: "
            'measure="difference".'
        )
    return _with_effects(fit, averages, D, asked)


def _back(table: pd.DataFrame, combination: _Combination) -> pd.DataFrame:
    """A table of the scale of comparison on that of the result; t and p stay."""
    with np.errstate(over="ignore"):
        slope = combination.back.inverse_slope(table["estimate"].to_numpy())
        ends = [combination.back.inverse(table[name].to_numpy()) for name in ("lower", "upper")]
        lower, upper = np.sort(ends, axis=0)
        estimate = combination.back.inverse(table["estimate"].to_numpy())
    return table.assign(estimate=estimate, se=table["se"] * np.abs(slope), lower=lower, upper=upper)


def _with_effects(fit: Any, averages: Averages, D: np.ndarray, asked: Asked) -> pd.DataFrame:
    """Combinations x'beta + z'b with effects of groups, each of one level of a factor."""
    design, frame = fit.model.design, averages.frame
    A = csr_array(D) @ averages.matrix()
    if asked.random == "new":
        found, Zs = design.evaluate(frame, random=False), design.evaluate_effects(frame)
    else:
        found = design.evaluate(frame)
        Zs = found.Z
    X = A @ found.X
    estimate = X[:, fit.kept] @ fit._solution.beta + A @ found.offset
    variance, codes, own = np.zeros(len(X)), [], []
    for j, (block, Z) in enumerate(zip(design.blocks, Zs, strict=True)):
        if asked.random == "new":
            z, code = A @ Z, np.zeros(len(X), dtype=np.int64)
            variance += np.einsum("ia,ab,ib->i", z, fit._solution.Sigmas[j], z)
            own.append(np.zeros_like(z))
        else:
            z, code = _of_one_level(block, A, Z, found.codes[j])
            estimate += np.einsum("iq,iq->i", z, fit._solution.b[j][code])
            own.append(z)
        codes.append(code)
    variance += fit.predictor_variance(X[:, fit.kept], own, codes)
    se = np.sqrt(np.maximum(variance, 0.0))
    estimable = fit._estimable(X)
    estimate[~estimable] = se[~estimable] = np.nan
    return _normal_table(estimate, se, asked.level)


def _of_one_level(block: Any, A: csr_array, Z: np.ndarray, codes: np.ndarray) -> tuple:
    """Covariates (r, q) and levels (r,) of combinations A of rows, each of one level's effects.

    Raises
    ------
    DataError
        If one is of several levels, or of a level that is not in the fit.
    """
    rows = np.arange(len(codes))
    shape = (len(codes), block.n_levels + 1)  # the last for levels that are not in the fit
    at = np.where(codes < 0, block.n_levels, codes)
    sums = [A @ csr_array((z, (rows, at)), shape=shape) for z in Z.T]
    size = sum(abs(part) for part in sums).tocsr()
    size.data[size.data < 1e-12 * max(1.0, float(np.abs(Z).max(initial=0.0)))] = 0.0
    size.eliminate_zeros()
    levels = np.diff(size.indptr)
    if np.any(levels > 1):
        raise DataError(
            f"An average over several levels of {block.name!r} with their own effects needs the "
            f"posterior: model.fit(). Here: by={block.factor.columns[0]!r}, or "
            'random="population".'
        )
    code = np.zeros(A.shape[0], dtype=np.int64)
    code[levels == 1] = size.indices
    if np.any(code == block.n_levels):
        raise DataError(f'A level of {block.name!r} is not in the fit: random="new".')
    picked = np.arange(len(code))
    return np.column_stack([part.tocsr()[picked, code] for part in sums]), code


def _normal_table(estimate: np.ndarray, se: np.ndarray, level: float) -> pd.DataFrame:
    half = ndtri(0.5 + level / 2) * se
    with np.errstate(divide="ignore", invalid="ignore"):
        t = estimate / se
    columns = {
        "estimate": estimate, "se": se, "df": np.full(len(se), np.inf), "t": t,
        "p": 2 * ndtr(-np.abs(t)), "lower": estimate - half, "upper": estimate + half,
    }  # fmt: skip
    return pd.DataFrame(columns)


def _means_of_likelihood(
    fit: Any, averages: Averages, combination: _Combination, asked: Asked
) -> pd.DataFrame:
    """Means of responses that are not Gaussian, by the delta method."""
    rows = mean_rows(fit.model.design, averages, effects=asked.random == "marginal")
    both, J, covariance = means_of_likelihood(fit, rows)
    unknown = not_estimable(fit, rows)
    at = int(asked.random == "marginal")
    means = np.where(unknown[:, None], np.nan, both[at])
    _reported(combination, means)
    values = combination.scale.link(means)
    center = combination.D @ np.where(np.isnan(values), 0.0, values)
    moved = J[at] / combination.scale.inverse_slope(values)[..., None]
    moved = np.einsum("rk,kcp->rcp", combination.D, np.where(np.isnan(moved), 0.0, moved))
    lost = (np.abs(combination.D) @ unknown.astype(float)) > 0
    center[lost], moved[lost] = np.nan, np.nan
    se = np.sqrt(np.einsum("rcp,pq,rcq->rc", moved, covariance, moved))
    table = _normal_table(center.ravel(), se.ravel(), asked.level)
    if np.array_equal(combination.D, np.eye(len(combination.D))):
        table = table.drop(columns=["df", "t", "p"])
    return _back(table, combination)
