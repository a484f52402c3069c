"""What a Student-t posterior says that a Gaussian one need not: variances, weights of outliers.

sigma and the standard deviations of a Student-t posterior are scales. The variance of a t
distribution is scale^2 nu / (nu - 2), and infinite for nu <= 2, where it counts as 1e12 squared
scales: shares of variance tend to 0 or 1 there and are never undefined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.bayes.names import ModelNames
from bayeslmm.bayes.residuals import (
    effect_nu,
    outlier_weights,
    residual_nu,
    residual_scale,
    t_variance_ratio,
)
from bayeslmm.bayes.tree import linear_predictor
from bayeslmm.priors.residual_priors import log_scale_keys
from bayeslmm.results.estimates import Estimates

if TYPE_CHECKING:
    import xarray as xr

    from bayeslmm.protocols import PosteriorResult

__all__ = ["is_robust", "median_estimates", "row_weights_of_outliers", "variances"]


def is_robust(names: ModelNames, posterior: xr.Dataset) -> bool:
    """Whether residuals or any factor's effects are Student-t."""
    return "nu" in posterior or any(factor.nu in posterior for factor in names.factors)


def variances(
    names: ModelNames, posterior: xr.Dataset, scales: list[np.ndarray]
) -> tuple[list[np.ndarray], np.ndarray]:
    """Covariance matrices and residual standard deviation of each draw, from the scales.

    Parameters
    ----------
    scales : list of (chains, draws, q_k, q_k) arrays
        Scale matrices of the random effects.

    Returns
    -------
    list of (chains, draws, q_k, q_k) arrays, and a (chains, draws) array
    """
    matrices = []
    for factor, scale in zip(names.factors, scales, strict=True):
        nu = effect_nu(posterior, factor)
        matrices.append(scale if nu is None else scale * t_variance_ratio(nu)[..., None, None])
    return matrices, posterior["sigma"].to_numpy() * np.sqrt(
        t_variance_ratio(residual_nu(posterior))
    )


def median_estimates(fit: PosteriorResult, draws: Estimates) -> Estimates:
    """Variances at posterior medians, which exist where the means do not; no draws."""
    posterior, axes = fit.posterior, (0, 1)
    middle = []
    for matrix in variances(fit.names, posterior, draws.Sigmas)[0]:
        root = np.sqrt(np.einsum("...ii->...i", matrix))
        sd = np.median(root, axis=axes)
        correlation = (matrix / (root[..., :, None] * root[..., None, :])).mean(axis=axes)
        middle.append(correlation * np.outer(sd, sd))
    sds = np.exp(draws.eta)
    own = slice(1) if log_scale_keys(fit.model.design) else slice(None)
    sds[..., own] *= np.sqrt(t_variance_ratio(residual_nu(posterior)))[..., None]
    eta = np.log(np.median(sds, axis=axes))
    return Estimates(np.median(draws.beta, axis=axes), middle, eta, draws.c.mean(axis=axes))


def row_weights_of_outliers(fit: PosteriorResult) -> pd.Series:
    """See :meth:`bayeslmm.PosteriorFit.outlier_weights`."""
    design, posterior = fit.model.design, fit.posterior
    weights = np.ones(design.n_rows)
    if "nu" in posterior:
        block = max(1, int(5e6 // (design.n_rows * posterior.sizes["chain"])))
        weights[:] = 0.0
        for start in range(0, posterior.sizes["draw"], block):
            part = posterior.isel(draw=slice(start, start + block))
            gap = design.y - linear_predictor(design, fit.names, part)
            mean = outlier_weights(gap, residual_scale(design, part), part["nu"].to_numpy())
            weights += mean * part.sizes["draw"] / posterior.sizes["draw"]
    return pd.Series(weights, index=design.index, name="weight")
