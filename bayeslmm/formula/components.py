"""Names and values of the residual components a user sees.

Without a residual structure (None) the only component is ``sigma``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.parts.structures import STRUCTURES

if TYPE_CHECKING:
    from bayeslmm.formula.residual import ResidualDesign

__all__ = ["component_map", "residual_component_names", "time_pairs"]


def scalar_name(residual: ResidualDesign | None) -> str | None:
    """``rho`` or ``range``, None where the structure has no such parameter."""
    return None if residual is None else STRUCTURES[residual.kind].parameter


def time_pairs(residual: ResidualDesign) -> list[tuple[int, int]]:
    """Pairs of times (i < j) with a free correlation."""
    T = len(residual.times)
    return [(i, j) for i in range(T) for j in range(i + 1, T)]


def residual_component_names(residual: ResidualDesign | None) -> list[str]:
    """``sigma`` or ``sigma[treatment=B]``, ``log_sigma[x]``; then ``rho``, ``range`` or
    ``corr(1, 2)`` for two times.
    """
    if residual is None:
        return ["sigma"]
    rows, made = residual.rows, STRUCTURES[residual.kind]
    return [
        *residual.variance.names,
        *made.component_names(residual.times, rows.group, rows.time),
    ]


def component_map(residual: ResidualDesign | None, eta: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Values of the components, leading axes of ``eta`` and ``c`` are draws.

    Parameters
    ----------
    eta : (..., s) array
        Log standard deviations, or the coefficients of a log-linear formula.
    c : (..., k) array
        Natural parameters of the correlation structure.
    """
    scales = np.exp(eta)
    if residual is None:
        return scales
    if residual.variance.kind == "log-linear":
        scales = np.concatenate([np.exp(eta[..., :1]), eta[..., 1:]], axis=-1)
    c = STRUCTURES[residual.kind].component_values(c, len(residual.times))
    return np.concatenate([scales, c], axis=-1)
