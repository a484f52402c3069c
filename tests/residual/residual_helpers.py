"""Dense counterparts of what the blocks compute."""

from __future__ import annotations

import numpy as np


def correlation(kind: str, c: np.ndarray, s: float, t: float, n_times: int) -> float:
    """Correlation of two different rows of a group, written down a second time."""
    if kind == "ar1":
        return float(c[0] ** abs(round(s - t)))
    if kind == "car1":
        return float(np.exp(-abs(s - t) / c[0]))
    if kind == "cs":
        return float(c[0])
    return float(np.reshape(c, (n_times, n_times))[int(s), int(t)])


def dense_residual_covariance(design, eta: np.ndarray, c: np.ndarray) -> np.ndarray:
    """R (n, n) of a design at log standard deviations eta and natural parameters c."""
    residual = design.residual
    rows, n, n_times = residual.rows, design.n_rows, len(residual.times)
    sd = np.exp(rows.scale @ eta)
    if design.weights is not None:
        sd = sd / np.sqrt(design.weights)
    R = np.diag(sd**2)
    if residual.kind == "independent":
        return R
    for i in range(n):
        for j in range(n):
            if i != j and rows.group[i] == rows.group[j]:
                value = correlation(
                    residual.kind, c, rows.time[i], rows.time[j], len(residual.times)
                )
                R[i, j] = sd[i] * sd[j] * value
    return R
