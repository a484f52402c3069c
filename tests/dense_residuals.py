"""Dense counterparts of what the blocks compute."""

from __future__ import annotations

import numpy as np


def dense_residual_covariance(design, eta: np.ndarray, c: np.ndarray) -> np.ndarray:
    """R (n, n) of a design at log standard deviations eta and natural parameters c."""
    residual = design.residual
    rows, n_times = residual.rows, len(residual.times)
    sd = np.exp(rows.scale @ eta)
    if design.weights is not None:
        sd = sd / np.sqrt(design.weights)
    gap = rows.time[:, None] - rows.time
    if residual.kind == "ar1":
        C = c[0] ** np.abs(np.round(gap))
    elif residual.kind == "car1":
        C = np.exp(-np.abs(gap) / c[0])
    elif residual.kind == "cs":
        C = np.full(gap.shape, c[0])
    elif residual.kind == "toeplitz":
        C = np.append(c, 1.0)[np.abs(np.round(gap)).astype(int) - 1]  # lag 0 takes the last
    elif residual.kind == "unstructured":
        at = rows.time.astype(int)
        C = np.reshape(c, (n_times, n_times))[at[:, None], at]
    else:
        C = np.eye(len(gap))
    C = C * (rows.group[:, None] == rows.group)
    np.fill_diagonal(C, 1.0)
    return C * np.outer(sd, sd)
