"""Averages of means over rows, of the average group and of the population, for both fits."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.errors import PACKAGE, ModelWarning
from bayeslmm.formula import Design
from bayeslmm.parts.families import LINKS, Family, Link
from bayeslmm.results.estimability import inestimable_text, undetermined
from bayeslmm.results.population_average import (
    effect_variances,
    population_mean,
    population_probabilities,
)
from bayeslmm.results.reference_grid import Averages

if TYPE_CHECKING:
    from bayeslmm.protocols import LikelihoodResult

__all__ = [
    "EVENTS",
    "MeanRows",
    "both_means",
    "interval_scale",
    "mean_rows",
    "means_of_likelihood",
    "not_estimable",
    "with_categories",
]

#: Families whose means are probabilities, which have odds.
EVENTS = ("bernoulli", "binomial", "ordinal")


@dataclass(frozen=True)
class MeanRows:
    """Rows at which means are wanted, and what they are averaged to.

    Attributes
    ----------
    labels : pandas.DataFrame
        One row per average, k of them.
    X : (m, p) array
    offset : (m,) array
    Z : tuple of (m, q) arrays
        Of every grouping factor; none where means of the average group are enough.
    members, weights
        As in :class:`bayeslmm.results.reference_grid.Averages`.
    """

    labels: pd.DataFrame
    X: np.ndarray
    offset: np.ndarray
    Z: tuple[np.ndarray, ...]
    members: list[np.ndarray]
    weights: list[np.ndarray]

    def average(self, values: np.ndarray) -> np.ndarray:
        """Averages (k, ...) of values (m, ...)."""
        each = zip(self.members, self.weights, strict=True)
        return np.stack([np.tensordot(w, values[mine], axes=1) for mine, w in each])


def mean_rows(design: Design, averages: Averages, *, effects: bool = True) -> MeanRows:
    """The matrices of the rows of averages; grouping columns are not needed.

    Parameters
    ----------
    effects : bool
        Whether means of the population are wanted, for which columns of the random effects count.
    """
    found = design.evaluate(averages.frame, random=False)
    Z = design.evaluate_effects(averages.frame) if effects else ()
    return MeanRows(averages.labels, found.X, found.offset, Z, averages.members, averages.weights)


def interval_scale(family: Family) -> Link:
    """The scale of means on which they are about normal and cannot leave their range."""
    if family.name == "ordinal":
        return LINKS["logit"]
    return LINKS["log"] if family.name == "lognormal" else family.link


def with_categories(labels: pd.DataFrame, design: Design) -> pd.DataFrame:
    """Each label with every category, where the means are probabilities of categories."""
    if design.family.name != "ordinal":
        return labels
    name = "category"
    while name in labels.columns:
        name += "_"
    k = len(design.categories)
    repeated = labels.loc[labels.index.repeat(k)]
    return repeated.assign(**{name: list(design.categories) * len(labels)}).reset_index(drop=True)


def means_of_likelihood(
    fit: LikelihoodResult, rows: MeanRows, *, ordinal_means: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both means (2, k, C), their derivatives (2, k, C, d), and the covariance of parameters.

    Parameters
    ----------
    ordinal_means : bool
        Whether expected numbers of categories are wanted, not the categories' probabilities.
    """
    design, solution, X = fit.model.design, fit._solution, rows.X[:, fit.kept]

    def at(beta: np.ndarray, Sigmas: list[np.ndarray], phi: np.ndarray) -> np.ndarray:
        variance = effect_variances(Sigmas, rows.Z) if rows.Z else np.zeros(())
        both = np.stack(both_means(design.family, X @ beta + rows.offset, variance, phi))
        if ordinal_means and design.family.name == "ordinal":
            both = both @ np.arange(both.shape[-1])[:, None]
        return np.stack([rows.average(means) for means in both])

    if design.family.gaussian:  # both are x'beta
        J = rows.average(X)[None, :, None]
        means = at(solution.beta, solution.Sigmas, np.empty(0))
        return means, np.concatenate([J, J]), fit.vcov.to_numpy()
    J = fit._engine.slope_of_all(solution, at)
    means = at(solution.beta, solution.Sigmas, solution.phi)
    return means, np.moveaxis(J, 0, -1), fit._curvature.covariance


def not_estimable(fit: LikelihoodResult, rows: MeanRows) -> np.ndarray:
    """Which means depend on how aliased columns are resolved.

    Warns
    -----
    ModelWarning
        If there are some.
    """
    found = undetermined(fit.model, rows.X)
    if text := inestimable_text(fit.model, found, range(len(rows.X))):
        warnings.warn(f"{text}. Means are NaN there.", ModelWarning, skip_file_prefixes=PACKAGE)
    by_row = found.any(axis=1)
    return np.array([by_row[mine].any() for mine in rows.members])


def both_means(family: Family, eta, variance, phi) -> tuple[np.ndarray, np.ndarray]:
    """Means of the average group and of the population: of eta (..., n), (..., n, C)."""
    variance = np.broadcast_to(variance, np.shape(eta))
    if family.name == "ordinal":
        average = population_probabilities(family, eta, variance, phi)
        return family.probabilities(eta, phi), average
    own = family.mean(eta, phi)[..., None]
    if family.link.name == "inverse":  # whose population has no mean, and is not asked for it
        return own, np.full_like(own, np.nan)
    return own, population_mean(family, eta, variance, phi)[..., None]
