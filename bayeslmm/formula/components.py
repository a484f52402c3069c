"""Names and values of the residual components a user sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.parts.parameters import pair_key

if TYPE_CHECKING:
    from bayeslmm.formula.residual import ResidualDesign

__all__ = ["component_map", "residual_component_names", "time_pairs"]

_SCALAR = {"ar1": "rho", "cs": "rho", "car1": "range"}


def scalar_name(residual: ResidualDesign) -> str | None:
    """``rho`` or ``range``, None where the structure has no such parameter."""
    return _SCALAR.get(residual.kind)


def time_pairs(residual: ResidualDesign) -> list[tuple[int, int]]:
    """Pairs of times (i < j) with a free correlation."""
    T = len(residual.times)
    return [(i, j) for i in range(T) for j in range(i + 1, T)]


def residual_component_names(residual: ResidualDesign) -> list[str]:
    """``sigma`` or ``sigma[treatment=B]``, ``log_sigma[x]``; then ``rho``, ``range`` or
    ``corr(1, 2)`` for two times."""
    scalar = scalar_name(residual)
    pairs = [pair_key(residual.times[i], residual.times[j]) for i, j in time_pairs(residual)]
    return [*residual.variance.names, *([scalar] if scalar else []), *pairs]


def component_map(residual: ResidualDesign, eta: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Values of the components, leading axes of ``eta`` and ``c`` are draws.

    Parameters
    ----------
    eta : (..., s) array
        Log standard deviations, or the coefficients of a log-linear formula.
    c : (..., k) array
        Natural parameters of the correlation structure.
    """
    scales = np.exp(eta)
    if residual.variance.kind == "log-linear":
        scales = np.concatenate([np.exp(eta[..., :1]), eta[..., 1:]], axis=-1)
    T = len(residual.times)
    if T:
        i, j = np.array(time_pairs(residual)).T
        c = c.reshape(*c.shape[:-1], T, T)[..., i, j]
    return np.concatenate([scales, c], axis=-1)
