"""Scales of coefficients that share a shrinkage prior: their draws, and their PyMC variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.bayes.coefficients import fixed_prior
from bayeslmm.bayes.kernels.shrinkage import HORSESHOE, R2D2, log_scales
from bayeslmm.bayes.variables import positive
from bayeslmm.formula import Design
from bayeslmm.priors.shrinkage import Shrinkage
from bayeslmm.priors.table import Priors

if TYPE_CHECKING:
    import xarray as xr

    from bayeslmm.bayes.marginal import MarginalDensity

__all__ = [
    "SHRUNK",
    "drawn_scalars",
    "fitted_priors",
    "scale_dataset",
    "scale_draws",
    "scale_variables",
    "shrunk_coefficients",
]

#: Dimension of the coefficients that share a prior.
SHRUNK = "shrunk"


def scale_variables(together: Shrinkage | None) -> list[str]:
    """Variables that a posterior has beside those of every model."""
    if together is None:
        return []
    if together.is_horseshoe:
        return ["hs_global", "hs_slab", "hs_local"]
    return ["r2d2_R2", "r2d2_phi"]


def scale_draws(
    together: Shrinkage | None, density: MarginalDensity, x: np.ndarray, chains: int
) -> xr.Dataset | None:
    """Draws of the scales from those of the coordinates.

    Parameters
    ----------
    together : Shrinkage or None
    density : MarginalDensity
    x : (n, d) array
        Draws of its coordinates, chain after chain.
    chains : int

    Returns
    -------
    xarray.Dataset or None
        Of a horseshoe tau (``hs_global``), c (``hs_slab``) and l (``hs_local``), of R2D2
        ``r2d2_R2`` and ``r2d2_phi``; None without a shrinkage prior.
    """
    if together is None:
        return None
    scalars = density.scalars(x)[:, density.prior.coefficients.n_pins :]
    if together.is_horseshoe:
        sigma = np.exp(density.constrained(x)[2][:, 0])
        values = [together.tau_0 * sigma * scalars[:, 0], np.sqrt(scalars[:, 1]), scalars[:, 2:]]
    else:
        values = [scalars[:, 0], scalars[:, 1:] / scalars[:, 1:].sum(axis=1, keepdims=True)]
    named = zip(scale_variables(together), values, strict=True)
    return scale_dataset(
        together, {name: value.reshape(chains, -1, *value.shape[1:]) for name, value in named}
    )


def scale_dataset(
    together: Shrinkage | None, values: Mapping[str, np.ndarray]
) -> xr.Dataset | None:
    """Draws (chains, draws, ...) of scales with their labels; None without a shrinkage prior."""
    import xarray as xr

    if together is None:
        return None
    dims = ("chain", "draw", SHRUNK)
    found = {name: (dims[: value.ndim], value) for name, value in values.items()}
    chains, draws = next(iter(values.values())).shape[:2]
    coords = {"chain": np.arange(chains), "draw": np.arange(draws)}
    return xr.Dataset(found, coords={**coords, SHRUNK: np.array(together.names)})


def drawn_scalars(
    together: Shrinkage, posterior: xr.Dataset, rng: np.random.Generator
) -> np.ndarray:
    """The way back from :func:`scale_draws`: scalars (n, e) of the coordinates.

    The sum of R2D2's gamma variables, of which draws are not kept, is independent of all else.
    """
    values = {
        name: posterior[name].to_numpy().reshape(posterior["sigma"].size, -1)
        for name in [*scale_variables(together), "sigma"]
    }
    if together.is_horseshoe:
        tau = values["hs_global"] / (together.tau_0 * values["sigma"])
        return np.hstack([tau, values["hs_slab"] ** 2, values["hs_local"]])
    phi = values["r2d2_phi"]
    shape = phi.shape[1] * together.prior.parameters["concentration"]
    return np.hstack([values["r2d2_R2"], phi * rng.gamma(shape, 1.0, (len(phi), 1))])


def fitted_priors(design: Design, priors: Priors, posterior: xr.Dataset):
    """Prior of the coefficients given what is not integrated out, at draw i, as a function of i.

    Returns
    -------
    callable
        To a :class:`bayeslmm.gaussian.FixedPrior`.
    """
    fixed, together = fixed_prior(design, priors), priors.shrinkage
    if fixed.lifted is None:
        return lambda i: fixed
    beta = posterior["beta"].to_numpy()
    numbers = fixed.lifted.numbers(beta.reshape(-1, beta.shape[-1]))
    if together is None:
        return lambda i: fixed.at(numbers[i], np.ones(0))
    scalars = drawn_scalars(together, posterior, np.random.default_rng(0))
    sigma = posterior["sigma"].to_numpy().ravel()
    kind = HORSESHOE if together.is_horseshoe else R2D2

    def at_draw(i: int):
        log_unit = float(np.log(together.tau_0 * sigma[i]))
        return fixed.at(numbers[i], np.exp(log_scales(kind, log_unit, scalars[i].copy())))

    return at_draw


def shrunk_coefficients(together: Shrinkage, sigma):
    """Coefficients (D,) as PyMC variables, non-centered.

    Parameters
    ----------
    together : Shrinkage
    sigma : variable
    """
    import pymc as pm
    import pytensor.tensor as pt

    pm.modelcontext(None).add_coord(SHRUNK, list(together.names))
    at = together.prior.parameters
    if together.is_horseshoe:
        tau = pm.HalfStudentT("hs_global", nu=float(at["df_global"]), sigma=together.tau_0 * sigma)
        squared = positive("hs_slab_squared", together.scalars[1:2], None)
        c = pm.Deterministic("hs_slab", pt.sqrt(squared))
        local = positive("hs_local", together.scalars[2:], SHRUNK)
        size = tau * local / pt.sqrt(1.0 + (tau * local / c) ** 2)
    else:
        share = positive("r2d2_R2", together.scalars[:1], None)
        parts = np.full(len(together.names), float(at["concentration"]))
        phi = pm.Dirichlet("r2d2_phi", a=parts, dims=SHRUNK)
        size = sigma * pt.sqrt(phi * share / (1.0 - share))
    z = pm.Normal("beta_standardized", 0.0, 1.0, dims=SHRUNK)
    return z * size / together.spread
