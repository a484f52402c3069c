"""Densities of the data, and of rows left out, given the covariance parameters.

With K = V + X S0 X', a row left out has the predictive mean y_i - [K^-1 (y - X m0)]_i / [K^-1]_ii
and variance 1 / [K^-1]_ii, coefficients, random effects and the residuals of its group integrated
out (Sundararajan and Keerthi 2001, Neural Computation 13(5), section 2). K^-1 = V^-1 - U P^-1 U'
with U = V^-1 X, and K^-1 (y - X m0) = V^-1 (y - X beta^). A group left out has the difference of
two marginal likelihoods.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.assembly import system_of
from bayeslmm.bayes.coefficients import fixed_prior
from bayeslmm.errors import SamplingError
from bayeslmm.gaussian import Problem, log_marginals, single_threaded_blas, with_prior
from bayeslmm.gaussian.marginal import FixedPrior
from bayeslmm.gaussian.shared import SharedSystem, as_system
from bayeslmm.gaussian.system import System, Theta
from bayeslmm.progress import progress

if TYPE_CHECKING:
    from bayeslmm.protocols import Model, PosteriorResult

__all__ = [
    "group_densities",
    "log_likelihoods",
    "normal_log_density",
    "row_densities",
    "row_predictives",
    "without_rows",
]


#: From the number of a draw to the prior of the coefficients.
PriorAt = Callable[[int], FixedPrior]


def _system(model: Model) -> System:
    """What evaluates a model, its rows at hand."""
    if isinstance(model.problem, System):
        return model.problem
    return system_of(model.design, whole=model.problem)


def log_likelihoods(
    problem: Problem | System, prior: FixedPrior, theta: Theta, priors: PriorAt | None = None
) -> np.ndarray:
    """log p(y | theta) of m draws, coefficients and effects integrated out, (m,).

    Under ``priors`` where the prior of the coefficients is not the same for all draws.
    """
    with single_threaded_blas():
        if priors is not None:
            system = as_system(problem)
            return np.array(
                [
                    system.evaluate(at, system.prior(priors(d)), False, False).value
                    for d, at in enumerate(theta.rows())
                ]
            )
        if not isinstance(problem, System):
            return log_marginals(with_prior(problem, prior), theta.F, np.exp(theta.eta[:, 0]))
        root = problem.prior(prior)
        return np.array([problem.evaluate(at, root, False, False)[0] for at in theta.rows()])


def row_predictives(
    fit: PosteriorResult,
    theta: Theta,
    rows=slice(None),
    *,
    priors: PriorAt | None = None,
    progressbar: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of y_i given all other rows and each of m draws, (m, rows) each.

    Parameters
    ----------
    rows : index
        Rows wanted.
    priors : callable, optional
        Prior of the coefficients at draw i, where it is not the same for all.

    Raises
    ------
    SamplingError
        If a row determines a coefficient with a flat prior by itself.
    """
    system, design = _system(fit.model), fit.model.design
    at_draw, y = _prior_at(fit, priors), design.y[rows]
    mean, variance = np.empty((2, len(theta.eta), len(y)))
    steps = progress(list(theta.rows()), "Leave-one-out", show=progressbar)
    for d, at in enumerate(steps):
        found = system.row_information(at, at_draw(d), rows)
        spread = np.einsum("ij,jk,ik->i", found.columns, found.covariance, found.columns)
        precision = found.diagonal - spread
        precision = np.where(precision > 1e-10 * found.diagonal, precision, np.nan)
        mean[d], variance[d] = y - found.residual / precision, 1.0 / precision
    if not np.all(np.isfinite(variance)):
        raise SamplingError(
            "A row has leverage one under flat priors: without it a coefficient is not "
            "identified, so its leave-one-out density does not exist."
        )
    return mean, variance


def _prior_at(fit: PosteriorResult, priors: PriorAt | None) -> PriorAt:
    if priors is not None:
        return priors
    fixed = fixed_prior(fit.model.design, fit.priors)
    return lambda d: fixed


def row_densities(
    fit: PosteriorResult, theta: Theta, progressbar: bool, priors: PriorAt | None = None
) -> np.ndarray:
    """log p(y_i | y_-i, theta), shape (m, n)."""
    mean, variance = row_predictives(fit, theta, priors=priors, progressbar=progressbar)
    return normal_log_density(fit.model.design.y, mean, variance)


def normal_log_density(y: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """log N(y; mean, variance)."""
    return -0.5 * (np.log(2 * np.pi * variance) + (y - mean) ** 2 / variance)


def without_rows(model: Model, rows: np.ndarray) -> Problem | System:
    """The problem with some rows left out; levels, groups, times and limits stay."""
    design = model.design
    keep = np.setdiff1d(np.arange(design.n_rows), rows)
    left = _system(model).with_rows(keep, design.y - design.offset, design.X)
    return left.whole if isinstance(left, SharedSystem) else left


def group_densities(
    fit: PosteriorResult,
    theta: Theta,
    units: list[np.ndarray],
    progressbar: bool,
    priors: PriorAt | None = None,
) -> np.ndarray:
    """log p(y_g | y_-g, theta), shape (m, groups)."""
    model, prior = fit.model, fixed_prior(fit.model.design, fit.priors)
    whole = log_likelihoods(model.problem, prior, theta, priors)
    out = np.empty((len(theta.eta), len(units)))
    for g, rows in enumerate(progress(units, "Leave-one-group-out", show=progressbar)):
        out[:, g] = whole - log_likelihoods(without_rows(model, rows), prior, theta, priors)
    return out
