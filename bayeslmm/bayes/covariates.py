"""Unknown values of covariates: missing ones, and those read with error.

Of every unit (a row, or a group where the covariate is constant within groups)
x_u ~ Normal(W_u alpha + c_g(u), sd), or of two values P(x_u = 1) = expit(W_u alpha), whether it is
observed or not; what is not known of x then also learns from the response of its rows. Rubin
(1976), Biometrika 63(3): this is right where values are missing at random given what the model
has. Readings with known errors are x_u + Normal(0, error_u), the classical error of Carroll,
Ruppert, Stefanski and Crainiceanu (2006), Measurement Error in Nonlinear Models, section 1.6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.bayes.names import ModelNames, storable
from bayeslmm.bayes.variables import positive, stacked
from bayeslmm.errors import DataError
from bayeslmm.formula import Design
from bayeslmm.formula.covariates import ModeledCovariate
from bayeslmm.priors.table import Priors

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "CovariateNames",
    "add_covariates",
    "covariate_coords",
    "covariate_dims",
    "covariate_names",
    "missing_part",
    "refuse_same_names",
]


@dataclass(frozen=True)
class CovariateNames:
    """Variables and dimensions of one covariate with unknown values.

    Attributes
    ----------
    missing : str
        The unknown values, of dimension ``dim``.
    mean : str
        Mean of x at the means of the predictors; of two values its log-odds.
    sd : str
        Standard deviation of x given these; there is none of two values.
    slope : str
        Coefficients of the predictors, of dimension ``term_dim``.
    effect, effect_sd : str
        Random intercepts, of dimension ``level_dim``, and their standard deviation.
    dim, term_dim, level_dim : str
    """

    missing: str
    mean: str
    sd: str
    slope: str
    effect: str
    effect_sd: str
    dim: str
    term_dim: str
    level_dim: str


def covariate_names(covariate: ModeledCovariate) -> CovariateNames:
    """Names in a posterior: ``missing_x``, of a measured covariate ``true_x``, and so on."""
    base = f"{'true' if covariate.measured else 'missing'}_{storable(covariate.name)}"
    factor = storable(covariate.model.factor or "")
    parts = ("mean", "sd", "slope", "effect", f"sd_{factor}", "unit", "term", "level")
    return CovariateNames(base, *(f"{base}_{part}" for part in parts))


def covariate_dims(covariate: ModeledCovariate) -> dict[str, tuple[str, ...]]:
    """The variables there are of a covariate, with their dimensions after chain and draw."""
    own, model = covariate_names(covariate), covariate.model
    dims: dict[str, tuple[str, ...]] = {own.missing: (own.dim,), own.mean: ()}
    if covariate.values is None:
        dims[own.sd] = ()
    if len(model.names) > 1:
        dims[own.slope] = (own.term_dim,)
    if model.factor is not None:
        dims |= {own.effect_sd: (), own.effect: (own.level_dim,)}
    return dims


def covariate_coords(covariate: ModeledCovariate) -> dict[str, list]:
    """Labels of the dimensions of :func:`covariate_dims`."""
    own, model = covariate_names(covariate), covariate.model
    labels: dict[str, list] = {
        own.dim: list(range(covariate.n_unknown)),
        own.term_dim: list(model.names[1:]),
        own.level_dim: list(model.levels),
    }
    used = {dim for dims in covariate_dims(covariate).values() for dim in dims}
    return {dim: values for dim, values in labels.items() if dim in used}


def refuse_same_names(design: Design) -> None:
    """Refuse covariates of which a posterior would call two things alike.

    Raises
    ------
    DataError
    """
    taken: dict[str, str] = {}
    for covariate in design.modeled:
        dims = covariate_dims(covariate)
        for name in {*dims, *(dim for of in dims.values() for dim in of)}:
            other = taken.setdefault(name, covariate.name)
            if other != covariate.name:
                raise DataError(
                    f"{other!r} and {covariate.name!r} have unknown values, and a posterior would "
                    f"call something of both {name!r}. Rename one of the columns."
                )


def add_covariates(design: Design, priors: Priors, beta, effects: list):
    """PyMC variables of the unknown values, and what they add to the linear predictor.

    Parameters
    ----------
    beta : tensor (p,)
    effects : list of tensor (J_k, q_k)

    Returns
    -------
    tensor (n,)
    """
    import pytensor.tensor as pt

    total = pt.zeros(design.n_rows)
    for covariate in design.modeled:
        x = _unknown_values(covariate, priors)
        slope = pt.dot(covariate.X_slope, beta) if len(design.coef_names) else 0.0
        for block, Z_slope, b in zip(design.blocks, covariate.Z_slopes, effects, strict=True):
            if np.any(Z_slope):
                slope = slope + (Z_slope * b[block.codes[covariate.rows]]).sum(axis=-1)
        total = total[covariate.rows].inc((x[covariate.unit] - covariate.fill) * slope)
    return total


def _unknown_values(covariate: ModeledCovariate, priors: Priors):
    """PyMC variables of a normal covariate: its regression, what is known, the unknowns (U,)."""
    import pymc as pm

    own, model = covariate_names(covariate), covariate.model
    center = positive(own.mean, priors.of("covariate_mean", covariate.name), dims=None)
    sd = positive(own.sd, priors.of("covariate_sd", covariate.name), dims=None)
    center = center * np.ones(len(model.reading))
    if slopes := priors.of("covariate_slope", covariate.name):
        center = center + pm.math.dot(model.W[:, 1:], stacked(own.slope, slopes, own.term_dim))
    if model.factor is not None:
        spread = positive(
            own.effect_sd, priors.of("covariate_effect_sd", covariate.name), dims=None
        )
        z = pm.Normal(f"{own.effect}_z", 0.0, 1.0, dims=own.level_dim)
        effect = pm.Deterministic(own.effect, spread * z, dims=own.level_dim)
        center = center + effect[model.codes]
    exact = np.flatnonzero(model.unknown < 0)
    unknown = np.flatnonzero(model.unknown >= 0)
    unknown = unknown[np.argsort(model.unknown[unknown])]
    if len(exact):
        pm.Normal(f"{own.missing}_observed", center[exact], sd, observed=model.reading[exact])
    x = pm.Normal(own.missing, center[unknown], sd, dims=own.dim)
    read = np.flatnonzero(model.error[unknown] > 0)
    if len(read):
        at = unknown[read]
        pm.Normal(f"{own.missing}_reading", x[read], model.error[at], observed=model.reading[at])
    return x


def missing_part(
    design: Design,
    names: ModelNames,
    posterior: xr.Dataset,
    *,
    random: bool = True,
    rows: slice | np.ndarray = slice(None),
) -> np.ndarray:
    """What the missing values add to the linear predictor, shape (chains, draws, rows).

    Parameters
    ----------
    random : bool
        Whether random slopes on them count.
    rows : slice or array of int
        Rows wanted, all by default.
    """
    wanted = np.arange(design.n_rows)[rows]
    place = np.full(design.n_rows, -1)
    place[wanted] = np.arange(len(wanted))
    total = np.zeros((posterior.sizes["chain"], posterior.sizes["draw"], len(wanted)))
    for covariate in design.modeled:
        here = place[covariate.rows] >= 0
        at = covariate.rows[here]
        x = posterior[covariate_names(covariate).missing].to_numpy()
        slope = np.zeros((*total.shape[:2], len(at)))
        if design.coef_names:
            slope += posterior["beta"].to_numpy() @ covariate.X_slope[here].T
        for block, factor, Z in zip(design.blocks, names.factors, covariate.Z_slopes, strict=True):
            if random and np.any(Z):
                b = posterior[factor.b].to_numpy()[:, :, block.codes[at]]
                slope += (b * Z[here]).sum(axis=-1)
        total[:, :, place[at]] += (x[..., covariate.unit[here]] - covariate.fill[here]) * slope
    return total
