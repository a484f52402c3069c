"""Missing covariate values as unknowns of the model.

x_i ~ Normal(mean, sd) for every row (or group), observed or not, with mean and sd estimated; a
missing x_i then also learns from the response of its row. Rubin (1976), Biometrika 63(3): this is
right where values are missing at random given what the model has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.bayes.names import ModelNames, storable
from bayeslmm.bayes.variables import positive
from bayeslmm.formula import Design
from bayeslmm.formula.covariates import ModeledCovariate

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["CovariateNames", "add_covariates", "covariate_names", "missing_part"]


@dataclass(frozen=True)
class CovariateNames:
    """Variables of one modeled covariate: the missing values, their mean and sd, their dim."""

    missing: str
    mean: str
    sd: str
    dim: str


def covariate_names(covariate: ModeledCovariate) -> CovariateNames:
    """Names in a posterior."""
    base = f"missing_{storable(covariate.name)}"
    return CovariateNames(base, f"{base}_mean", f"{base}_sd", f"{base}_unit")


def add_covariates(design: Design, priors, beta, effects: list):
    """PyMC variables of the missing values, and what they add to the linear predictor.

    Parameters
    ----------
    beta : tensor (p,)
    effects : list of tensor (J_k, q_k)

    Returns
    -------
    tensor (n,)
    """
    import pymc as pm
    import pytensor.tensor as pt

    total = pt.zeros(design.n_rows)
    for covariate in design.modeled:
        names = covariate_names(covariate)
        (prior,) = priors.of("covariate_mean", covariate.name)
        mean = getattr(pm, prior.name)(names.mean, **prior.parameters)
        sd = positive(names.sd, priors.of("covariate_sd", covariate.name), dims=None)
        pm.Normal(f"{names.missing}_observed", mean, sd, observed=covariate.observed)
        x = pm.Normal(names.missing, mean, sd, dims=names.dim)
        slope = pt.dot(covariate.X_slope, beta) if len(design.coef_names) else 0.0
        for block, Z_slope, b in zip(design.blocks, covariate.Z_slopes, effects, strict=True):
            if np.any(Z_slope):
                slope = slope + (Z_slope * b[block.codes[covariate.rows]]).sum(axis=-1)
        total = total[covariate.rows].inc((x[covariate.unit] - covariate.fill) * slope)
    return total


def missing_part(
    design: Design,
    names: ModelNames,
    posterior: xr.Dataset,
    *,
    random: bool = True,
    rows: slice = slice(None),
) -> np.ndarray:
    """What the missing values add to the linear predictor, shape (chains, draws, rows).

    Parameters
    ----------
    random : bool
        Whether random slopes on them count.
    rows : slice
        Rows wanted, all by default.
    """
    start, stop, _ = rows.indices(design.n_rows)
    total = np.zeros((posterior.sizes["chain"], posterior.sizes["draw"], stop - start))
    for covariate in design.modeled:
        here = (covariate.rows >= start) & (covariate.rows < stop)
        at = covariate.rows[here]
        x = posterior[covariate_names(covariate).missing].to_numpy()
        slope = np.zeros((*total.shape[:2], len(at)))
        if design.coef_names:
            slope += posterior["beta"].to_numpy() @ covariate.X_slope[here].T
        for block, factor, Z in zip(design.blocks, names.factors, covariate.Z_slopes, strict=True):
            if random and np.any(Z):
                b = posterior[factor.b].to_numpy()[:, :, block.codes[at]]
                slope += (b * Z[here]).sum(axis=-1)
        total[:, :, at - start] += (x[..., covariate.unit[here]] - covariate.fill[here]) * slope
    return total
