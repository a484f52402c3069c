"""Models whose residuals are correlated or have unequal variances.

V = blockdiag(V_g) over independent blocks of rows, V_g = Z_g Sigma Z_g' + R_g, R_g = D C D with
correlations C of a :class:`~bayeslmm.residual.structures.Structure` and standard deviations D.
Each block is factorized densely; blocks of the same design share one factorization. Unequal
variances alone need no blocks: :mod:`~bayeslmm.residual.cells` adds up cross-products of cells.
numpy, scipy and numba only; knows no formula, no PyMC, no pandas.
"""

from __future__ import annotations

import numpy as np

__all__ = ["correlations"]


def correlations(
    kind: str, c: np.ndarray, group: np.ndarray, time: np.ndarray, n_times: int = 0
) -> np.ndarray:
    """Residual correlation matrices of rows, for many parameter values at once.

    Parameters
    ----------
    kind : str
        A name in ``structures.STRUCTURES``.
    c : (..., k) array
        Natural parameters: rho, range, or all entries of the correlation matrix of the times.
    group, time : (m,) arrays
    n_times : int

    Returns
    -------
    (..., m, m) array

    Examples
    --------
    >>> correlations("ar1", np.array([0.5]), np.zeros(3), np.arange(3.0))[0].tolist()
    [1.0, 0.5, 0.25]
    """
    same = group[:, None] == group
    gap = np.abs(time[:, None] - time)
    c = np.asarray(c, dtype=float)
    scalar = c[..., :1, None] if c.shape[-1] else None
    off = ~np.eye(len(group), dtype=bool)
    if kind == "ar1":
        value = scalar ** np.round(gap).astype(int)
    elif kind == "car1":
        value = np.exp(-gap / scalar)
    elif kind == "cs":
        value = np.where(off, scalar, 1.0)
    elif kind == "unstructured":
        at = time.astype(int)
        value = c.reshape(*c.shape[:-1], n_times, n_times)[..., at[:, None], at]
    else:
        value = np.eye(len(group)) * np.ones((*c.shape[:-1], 1, 1))
    return np.where(same, value, 0.0) + 0.0
