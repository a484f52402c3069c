"""The density of standardized effects: normal, or Student-t level by level.

With tau_j ~ Gamma(nu / 2, nu / 2) and u_j | tau_j ~ N(0, I / tau_j) the q effects of a level are
one multivariate t with nu degrees of freedom, tau_j integrated out (Lange, Little & Taylor 1989,
JASA 84, 881-896, equation 2):

    log p(u_j) = -(nu + q) / 2 log(1 + |u_j|^2 / nu) + log(Gamma((nu + q) / 2) / Gamma(nu / 2))
                 - q / 2 log(pi nu).
"""

from __future__ import annotations

import numpy as np

from bayeslmm.compiling import kernel
from bayeslmm.parts.families.formulas import student_shape

__all__ = ["log_effects"]

_LOG_2PI = float(np.log(2.0 * np.pi))


@kernel
def log_effects(lay, u, nu, d_u, d_nu):
    """Log density of all standardized effects.

    Parameters
    ----------
    lay : Layout
    u : (N,) array
        In elimination order.
    nu : (K,) array
        Degrees of freedom of each factor; empty where effects are normal.
    d_u, d_nu : (N,), (K,) arrays
        Receive the derivatives.
    """
    value = -0.5 * u.shape[0] * _LOG_2PI
    if nu.shape[0] == 0:
        for i in range(u.shape[0]):
            value -= 0.5 * u[i] * u[i]
            d_u[i] = -u[i]
        return value
    d_nu[:] = 0.0
    shape, slope = np.empty(nu.shape[0]), np.empty(nu.shape[0])
    for k in range(nu.shape[0]):
        shape[k], slope[k] = student_shape(float(lay.factor_q[k]), nu[k])
    for e in range(lay.sizes[1]):
        q, at, k = lay.node_q[e], lay.node_col[e], lay.node_factor[e]
        size = 0.0
        for i in range(q):
            size += u[at + i] * u[at + i]
        weight, spread = (nu[k] + q) / (nu[k] + size), np.log1p(size / nu[k])
        value += shape[k] - 0.5 * (nu[k] + q) * spread
        d_nu[k] += slope[k] + 0.5 * (weight * size / nu[k] - spread)
        for i in range(q):
            d_u[at + i] = -weight * u[at + i]
    return value
