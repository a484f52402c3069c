"""Densities of the data, and of rows left out, given the covariance parameters.

With K = V + X S0 X', a row left out has the predictive mean y_i - [K^-1 (y - X m0)]_i / [K^-1]_ii
and variance 1 / [K^-1]_ii, coefficients, random effects and the residuals of its group integrated
out (Sundararajan and Keerthi 2001, Neural Computation 13(5), section 2). K^-1 = V^-1 - U P^-1 U'
with U = V^-1 X, and K^-1 (y - X m0) = V^-1 (y - X beta^). A group left out has the difference of
two marginal likelihoods.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.assembly import system_of
from bayeslmm.bayes.coefficients import fixed_prior
from bayeslmm.errors import SamplingError
from bayeslmm.gaussian import Problem, log_marginals, single_threaded_blas, with_prior
from bayeslmm.gaussian.marginal import FixedPrior
from bayeslmm.gaussian.shared import SharedSystem
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


def _system(model: Model) -> System:
    """What evaluates a model, its rows at hand."""
    if isinstance(model.problem, System):
        return model.problem
    return system_of(model.design, whole=model.problem)


def log_likelihoods(problem: Problem | System, prior: FixedPrior, theta: Theta) -> np.ndarray:
    """log p(y | theta) of m draws, coefficients and effects integrated out, (m,)."""
    with single_threaded_blas():
        if not isinstance(problem, System):
            return log_marginals(with_prior(problem, prior), theta.F, np.exp(theta.eta[:, 0]))
        root = problem.prior(prior)
        return np.array([problem.evaluate(at, root, False, False)[0] for at in theta.rows()])


def row_predictives(
    fit: PosteriorResult, theta: Theta, rows=slice(None), *, progressbar: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of y_i given all other rows and each of m draws, (m, rows) each.

    Parameters
    ----------
    rows : index
        Rows wanted.

    Raises
    ------
    SamplingError
        If a row determines a coefficient with a flat prior by itself.
    """
    system, design = _system(fit.model), fit.model.design
    prior, y = fixed_prior(design, fit.priors), design.y[rows]
    mean, variance = np.empty((2, len(theta.eta), len(y)))
    steps = progress(list(theta.rows()), "Leave-one-out", show=progressbar)
    for d, at in enumerate(steps):
        found = system.row_information(at, prior, rows)
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


def row_densities(fit: PosteriorResult, theta: Theta, progressbar: bool) -> np.ndarray:
    """log p(y_i | y_-i, theta), shape (m, n)."""
    mean, variance = row_predictives(fit, theta, progressbar=progressbar)
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
    fit: PosteriorResult, theta: Theta, units: list[np.ndarray], progressbar: bool
) -> np.ndarray:
    """log p(y_g | y_-g, theta), shape (m, groups)."""
    model, prior = fit.model, fixed_prior(fit.model.design, fit.priors)
    whole = log_likelihoods(model.problem, prior, theta)
    out = np.empty((len(theta.eta), len(units)))
    for g, rows in enumerate(progress(units, "Leave-one-group-out", show=progressbar)):
        out[:, g] = whole - log_likelihoods(without_rows(model, rows), prior, theta)
    return out
