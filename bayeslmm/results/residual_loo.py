"""Leave-one-out densities of models with structured residuals, given the covariance parameters.

With K = V + X S0 X', a row left out has the predictive mean y_i - [K^-1 (y - X m0)]_i / [K^-1]_ii
and variance 1 / [K^-1]_ii, coefficients, random effects and the residuals of its group integrated
out (Sundararajan and Keerthi 2001, Neural Computation 13(5), section 2). K^-1 = V^-1 - U P^-1 U'
with U = V^-1 X, and K^-1 (y - X m0) = V^-1 (y - X beta^).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.bayes.draws import covariance_draws
from bayeslmm.bayes.marginal import fixed_prior
from bayeslmm.bayes.residual_draws import residual_parameters
from bayeslmm.errors import SamplingError
from bayeslmm.gaussian.system import StructuredProblem, Theta
from bayeslmm.parts.patterns import lower_factor
from bayeslmm.progress import progress

if TYPE_CHECKING:
    import xarray as xr

    from bayeslmm.protocols import PosteriorResult

__all__ = [
    "block_group_densities",
    "block_row_densities",
    "block_row_predictives",
    "block_thetas",
    "without_rows",
]


def block_thetas(fit: PosteriorResult, posterior: xr.Dataset) -> list[Theta]:
    """Covariance parameters of every draw."""
    design = fit.model.design
    eta, c = residual_parameters(design, posterior)
    count = eta.shape[0] * eta.shape[1]
    parts = [np.zeros((count, 0))]
    for Sigma in covariance_draws(design, fit.names, posterior):
        flat = Sigma.reshape(-1, *Sigma.shape[2:])
        parts.append(np.array([lower_factor(S).ravel() for S in flat]))
    F = np.ascontiguousarray(np.concatenate(parts, axis=1))
    eta, c = eta.reshape(count, -1), c.reshape(count, c.shape[-1])
    return [
        Theta(F[d], np.ascontiguousarray(eta[d]), np.ascontiguousarray(c[d])) for d in range(count)
    ]


def block_row_predictives(
    fit: PosteriorResult, thetas: list[Theta], rows=slice(None), *, progressbar: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of y_i given all other rows and each theta, (m, rows) each.

    Parameters
    ----------
    rows : index
        Rows wanted.

    Raises
    ------
    SamplingError
        If a row determines a coefficient with a flat prior by itself.
    """
    problem, design = fit.model.problem, fit.model.design
    prior, y = fixed_prior(design, fit.priors), design.y[rows]
    mean, variance = np.empty((2, len(thetas), len(y)))
    for d, theta in enumerate(progress(thetas, "Leave-one-out", show=progressbar)):
        found = problem.row_information(theta, prior)
        spread = np.einsum("ij,jk,ik->i", found.columns, found.covariance, found.columns)
        precision = found.diagonal - spread
        precision = np.where(precision > 1e-10 * found.diagonal, precision, np.nan)[rows]
        mean[d], variance[d] = y - found.residual[rows] / precision, 1.0 / precision
    if not np.all(np.isfinite(variance)):
        raise SamplingError(
            "A row has leverage one under flat priors: without it a coefficient is not "
            "identified, so its leave-one-out density does not exist."
        )
    return mean, variance


def block_row_densities(fit: PosteriorResult, thetas: list[Theta], progressbar: bool) -> np.ndarray:
    """log p(y_i | y_-i, theta), shape (m, n)."""
    mean, variance = block_row_predictives(fit, thetas, progressbar=progressbar)
    gap = fit.model.design.y - mean
    return -0.5 * (np.log(2 * np.pi * variance) + gap**2 / variance)


def without_rows(fit: PosteriorResult, rows: np.ndarray) -> StructuredProblem:
    """The prepared problem with some rows left out; groups, times and limits stay."""
    problem, design = fit.model.problem, fit.model.design
    keep = np.setdiff1d(np.arange(problem.n), rows)
    return problem.with_rows(keep, design.y - design.offset, design.X)


def block_group_densities(
    fit: PosteriorResult, thetas: list[Theta], units: list[np.ndarray], progressbar: bool
) -> np.ndarray:
    """log p(y_g | y_-g, theta), shape (m, groups), as a difference of marginal likelihoods."""
    prior = fixed_prior(fit.model.design, fit.priors)
    whole = _marginals(fit.model.problem, prior, thetas)
    out = np.empty((len(thetas), len(units)))
    for g, rows in enumerate(progress(units, "Leave-one-group-out", show=progressbar)):
        out[:, g] = whole - _marginals(without_rows(fit, rows), prior, thetas)
    return out


def _marginals(problem: StructuredProblem, prior, thetas: list[Theta]) -> np.ndarray:
    root = problem.prior(prior)
    return np.array([problem.evaluate(theta, root, False, False)[0] for theta in thetas])
