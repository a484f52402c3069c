"""Means of the average group and of the population of groups, side by side.

With another link than the identity the two differ: the mean of the population is
E g^-1(x'beta + z'b) over the distribution of b (:mod:`bayeslmm.results.population_average`), that
of the average group g^-1(x'beta).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.bayes.draws import coefficient_draws, covariance_draws
from bayeslmm.bayes.responses import phi_draws
from bayeslmm.formula.columns import as_frame
from bayeslmm.formula.design import NewRows
from bayeslmm.parts.families import LINKS, Family, Link
from bayeslmm.protocols import is_posterior
from bayeslmm.results.averages import (
    EVENTS,
    MeanRows,
    both_means,
    interval_scale,
    mean_rows,
    means_of_likelihood,
    not_estimable,
    with_categories,
)
from bayeslmm.results.population_average import effect_variances, refuse_without_mean
from bayeslmm.results.posterior_prediction import warn_of_priors_alone
from bayeslmm.results.prediction import effect_rows
from bayeslmm.results.reference_grid import averages_of_data, averages_of_grid
from bayeslmm.results.support import refuse_heavy_averages
from bayeslmm.results.tables import check_level, interval_bounds

if TYPE_CHECKING:
    from bayeslmm.protocols import LikelihoodResult, PosteriorResult

__all__ = [
    "average_contrasts_table",
    "average_effects_table",
    "average_prediction",
]

#: The two means, as columns.
_MEANS = ("average_group", "population_average")
_MOST_PAIRS = 10_000

#: Estimates (k, C), lower and upper limits.
Limits = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class _Measure:
    """Means, or comparisons of pairs of them, on the scale on which intervals are made.

    Attributes
    ----------
    name : str
    scale : Link
        Of the means; what is compared are differences on it.
    back : Link
        From there to what is shown.
    first, second : int arrays or None
        Positions of the means that are compared; None for the means themselves.
    """

    name: str
    scale: Link
    back: Link
    first: np.ndarray | None = None
    second: np.ndarray | None = None

    def of(self, values: np.ndarray) -> np.ndarray:
        """Differences of values (..., k, C) along k."""
        if self.first is None:
            return values
        return values[..., self.first, :] - values[..., self.second, :]


def average_effects_table(
    fit: PosteriorResult | LikelihoodResult, terms, newdata, at, level: float, interval: str
) -> pd.DataFrame:
    """See ``fits.shared.SharedResults.average_effects``."""
    check_level(level, interval)
    refuse_heavy_averages(fit.model)
    design = fit.model.design
    rows, scale = _rows(fit, terms, newdata, at), interval_scale(design.family)
    columns = _columns(fit, rows, [_Measure("mean", scale, scale)], level, interval)
    labels = with_categories(rows.labels, design)
    return pd.concat([labels, columns.set_index(labels.index)], axis=1)


def average_contrasts_table(
    fit: PosteriorResult | LikelihoodResult, terms, newdata, at, level: float, interval: str
) -> pd.DataFrame:
    """See ``fits.shared.SharedResults.average_contrasts``.

    Raises
    ------
    ValueError
        If there is only one mean, or there are too many.
    """
    check_level(level, interval)
    refuse_heavy_averages(fit.model)
    design = fit.model.design
    rows = _rows(fit, terms, newdata, at)
    names = [" ".join(map(str, row)) for row in rows.labels.itertuples(index=False)]
    pairs = np.array(list(combinations(range(len(names)), 2)), dtype=int).reshape(-1, 2)
    if not 0 < len(pairs) <= _MOST_PAIRS:
        raise ValueError(
            f"There are {len(names)} means, so {len(pairs)} pairs to compare (at most "
            f"{_MOST_PAIRS}): name terms or values, or give newdata with the rows that matter."
        )
    measures = _measures(design.family, *pairs.T)
    labels = [
        pd.DataFrame(
            {"contrast": [f"{names[i]} - {names[j]}" for i, j in pairs], "measure": m.name}
        )
        for m in measures
    ]
    found = with_categories(pd.concat(labels, ignore_index=True), design)
    return pd.concat([found, _columns(fit, rows, measures, level, interval)], axis=1)


def _measures(family: Family, first: np.ndarray, second: np.ndarray) -> list[_Measure]:
    found = [_Measure("difference", LINKS["identity"], LINKS["identity"], first, second)]
    if not family.gaussian:
        found.append(_Measure("ratio", LINKS["log"], LINKS["log"], first, second))
    if family.name in EVENTS:
        found.append(_Measure("odds_ratio", LINKS["logit"], LINKS["log"], first, second))
    return found


def _rows(fit: PosteriorResult | LikelihoodResult, terms, newdata, at) -> MeanRows:
    """The rows asked for: of new data, or of the grid of the levels.

    Raises
    ------
    ValueError
        If both are given, or a column is not in the formula.
    """
    design = fit.model.design
    refuse_without_mean(design.family)
    if newdata is None:
        wanted = [terms] if isinstance(terms, str) else terms
        averages = averages_of_grid(fit, wanted, at, random=True)
    else:
        if terms is not None or at is not None:
            raise ValueError("newdata says at which rows: leave terms and at out.")
        averages = averages_of_data(design, [], newdata=newdata)
    return mean_rows(design, averages)


def _columns(fit, rows: MeanRows, measures: list[_Measure], level: float, interval: str):
    """Both means and their limits for each measure, one below the other."""
    of = _of_posterior if is_posterior(fit) else _of_likelihood
    tables = []
    for found in of(fit, rows, measures, level, interval):
        columns: dict[str, np.ndarray] = {}
        for name, (center, lower, upper) in zip(_MEANS, found, strict=True):
            columns |= {name: center, f"{name}_lower": lower, f"{name}_upper": upper}
        tables.append(pd.DataFrame({name: each.ravel() for name, each in columns.items()}))
    return pd.concat(tables, ignore_index=True)


def average_prediction(fit: LikelihoodResult, newdata, random: str, level: float) -> pd.DataFrame:
    """Mean responses of rows for the average group or the population, of a likelihood fit.

    Parameters
    ----------
    random : {"population", "marginal"}

    Returns
    -------
    pandas.DataFrame
        As ``LikelihoodFit.predict``; by the delta method, every parameter estimated.
    """
    from scipy.special import ndtri

    design = fit.model.design
    if random == "marginal":
        refuse_without_mean(design.family)
    if newdata is None:
        labels, found = design.index.to_frame(), NewRows(design.X, design.offset)
    else:
        labels, found = as_frame(newdata), design.evaluate(newdata, random=False)
    each, ones = [np.array([i]) for i in range(len(labels))], [np.ones(1)] * len(labels)
    rows = MeanRows(labels, found.X, found.offset, effect_rows(design, newdata), each, ones)
    unknown = not_estimable(fit, rows)
    means, J, covariance = means_of_likelihood(fit, rows, ordinal_means=True)
    at = int(random == "marginal")
    mean, slope = means[at, :, 0], J[at, :, 0]
    se = np.sqrt(np.einsum("kp,pq,kq->k", slope, covariance, slope))
    scale = LINKS["identity"] if design.family.name == "ordinal" else interval_scale(design.family)
    center = scale.link(mean)
    half = ndtri(0.5 + level / 2) * se / np.abs(scale.inverse_slope(center))
    lower, upper = np.sort([scale.inverse(center - half), scale.inverse(center + half)], axis=0)
    columns = {"estimate": mean, "se": se, "lower": lower, "upper": upper}
    table = pd.DataFrame(columns, index=labels.index)
    table[unknown] = np.nan
    return table


def _of_posterior(
    fit: PosteriorResult, rows: MeanRows, measures: list[_Measure], level: float, interval: str
) -> Iterator[list[Limits]]:
    design, posterior = fit.model.design, fit.posterior
    warn_of_priors_alone(fit, rows.X, [*range(len(rows.X))])
    beta = coefficient_draws(design, posterior)[1]
    Sigmas = covariance_draws(design, fit.names, posterior)
    phi = np.empty((1, 1, 1, 0))
    if not design.family.gaussian:
        phi = phi_draws(design, posterior)[:, :, None]
    parts: tuple[list, list] = ([], [])
    for mine, weights in zip(rows.members, rows.weights, strict=True):
        eta = beta @ rows.X[mine].T + rows.offset[mine]
        variance = effect_variances(Sigmas, [Z[mine] for Z in rows.Z])
        for part, mean in zip(parts, both_means(design.family, eta, variance, phi), strict=True):
            part.append(np.einsum("...mc,m->...c", mean, weights))
    both = [np.stack(part, axis=-2) for part in parts]
    for measure in measures:
        out = []
        for means in both:
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                draws = measure.back.inverse(measure.of(measure.scale.link(means)))
            # a ratio may have no posterior mean
            center = np.median if measure.name.endswith("ratio") else np.mean
            lower, upper = interval_bounds(draws, level, interval)
            out.append((np.asarray(center(draws, axis=(0, 1))), lower, upper))
        yield out


def _of_likelihood(
    fit: LikelihoodResult, rows: MeanRows, measures: list[_Measure], level: float, interval: str
) -> Iterator[list[Limits]]:
    """Estimates and Wald intervals by the delta method."""
    from scipy.special import ndtri

    unknown, z = not_estimable(fit, rows), ndtri(0.5 + level / 2)
    means, J, covariance = means_of_likelihood(fit, rows)
    both = [
        (np.where(unknown[:, None], np.nan, m), slope) for m, slope in zip(means, J, strict=True)
    ]
    for measure in measures:
        out = []
        for means, J in both:
            at = measure.scale.link(means)
            center = measure.of(at)
            moved = J / measure.scale.inverse_slope(at)[..., None]
            moved = np.moveaxis(measure.of(np.moveaxis(moved, -1, 0)), 0, -1)
            half = z * np.sqrt(np.einsum("kcp,pq,kcq->kc", moved, covariance, moved))
            ends = [measure.back.inverse(center + side * half) for side in (-1.0, 1.0)]
            lower, upper = np.sort(ends, axis=0)  # the inverse link turns them round
            out.append((measure.back.inverse(center), lower, upper))
        yield out
