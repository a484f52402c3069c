"""Distribution of the residuals of a posterior: normal, or Student-t where it has ``nu``.

A Student-t residual is a normal one whose precision is multiplied by its own
w_i ~ Gamma(nu/2, nu/2); given everything else w_i has the mean (nu + 1) / (nu + r_i^2), r_i the
residual in units of its scale (Lange, Little and Taylor 1989, JASA 84(408), section 3). A weight
far below 1 is the mark of an outlier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

import numpy as np

from bayeslmm.bayes.names import FactorNames
from bayeslmm.formula import Design

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "draw_noise",
    "effect_multipliers",
    "log_density",
    "outlier_weights",
    "residual_nu",
    "residual_scale",
    "t_variance_ratio",
]

#: A t distribution with at most 2 degrees of freedom has no variance; its variance then counts
#: as this many squared scales.
_INFINITE = 1e12


def residual_nu(posterior: xr.Dataset) -> np.ndarray | None:
    """Draws (chains, draws) of the residuals' degrees of freedom; None where they are normal."""
    return posterior["nu"].to_numpy() if "nu" in posterior else None


def effect_nu(posterior: xr.Dataset, names: FactorNames) -> np.ndarray | None:
    """Draws (chains, draws) of a factor's degrees of freedom; None where effects are normal."""
    return posterior[names.nu].to_numpy() if names.nu in posterior else None


def residual_scale(design: Design, posterior: xr.Dataset) -> np.ndarray:
    """sigma / sqrt(w_i) of each draw, shape (chains, draws, n) or (chains, draws, 1)."""
    sigma = posterior["sigma"].to_numpy()[:, :, None]
    return sigma if design.weights is None else sigma / np.sqrt(design.weights)


def log_density(gap: np.ndarray, scale: np.ndarray, nu: np.ndarray | None) -> np.ndarray:
    """log p of a residual `gap`, shape (..., n); `nu` has shape (...)."""
    z = gap / scale
    if nu is None:
        return -0.5 * z**2 - np.log(scale) - 0.5 * np.log(2 * np.pi)
    from scipy.special import gammaln

    nu = nu[..., None]
    constant = gammaln((nu + 1) / 2) - gammaln(nu / 2) - 0.5 * np.log(np.pi * nu)
    return constant - np.log(scale) - 0.5 * (nu + 1) * np.log1p(z**2 / nu)


def draw_noise(
    rng: np.random.Generator, shape: tuple[int, ...], nu: np.ndarray | None
) -> np.ndarray:
    """Standard residuals; `nu` has the leading dimensions of `shape`."""
    if nu is None:
        return rng.standard_normal(shape)
    return rng.standard_t(np.broadcast_to(nu[..., None], shape))


@overload
def effect_multipliers(rng: np.random.Generator, nu: None, n_levels: int) -> float: ...
@overload
def effect_multipliers(rng: np.random.Generator, nu: np.ndarray, n_levels: int) -> np.ndarray: ...
def effect_multipliers(
    rng: np.random.Generator, nu: np.ndarray | None, n_levels: int
) -> np.ndarray | float:
    """tau^-1/2 per draw and level, shape (m, n_levels, 1), for new Student-t effects."""
    if nu is None:
        return 1.0
    half = np.broadcast_to(nu.reshape(-1, 1, 1) / 2, (nu.size, n_levels, 1))
    return np.sqrt(half / rng.standard_gamma(half))


@overload
def t_variance_ratio(nu: None) -> float: ...
@overload
def t_variance_ratio(nu: np.ndarray) -> np.ndarray: ...
def t_variance_ratio(nu: np.ndarray | None) -> np.ndarray | float:
    """Variance of a t distribution in squared scales, nu / (nu - 2); 1 for the normal.

    Infinite where nu is 2 or less, which counts as 1e12: shares of variance then tend to 0 or 1
    and never become undefined.
    """
    if nu is None:
        return 1.0
    excess = np.maximum(nu - 2.0, 0.0)
    return np.where(excess > 2.0 / _INFINITE, nu / np.maximum(excess, 1e-300), _INFINITE)


def outlier_weights(gap: np.ndarray, scale: np.ndarray, nu: np.ndarray) -> np.ndarray:
    """Mean of w_i over the draws, shape (n,), from residuals (chains, draws, n).

    Parameters
    ----------
    gap, scale : ndarray
        Residuals and their scales.
    nu : ndarray, shape (chains, draws)
    """
    nu = nu[..., None]
    return ((nu + 1) / (nu + (gap / scale) ** 2)).mean(axis=(0, 1))
