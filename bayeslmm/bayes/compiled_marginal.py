"""The marginal density as a C function; see :mod:`bayeslmm.bayes.compiled`."""

from __future__ import annotations

import numpy as np
from numba import carray, cfunc, njit

from bayeslmm.bayes.marginal import MarginalDensity, density_head
from bayeslmm.bayes.tables import (
    LOGP,
    correlations,
    doubles,
    layout,
    matrix,
    point,
    report,
    scale_priors,
)
from bayeslmm.gaussian.problem import Values

__all__ = ["N_ARRAYS", "arrays", "logp"]

N_ARRAYS = 42


def arrays(density: MarginalDensity) -> list[np.ndarray]:
    """Entries of the table from the third on."""
    cor, sc, exponent, constant, arguments = density.kernel()
    lay, val, n, sum_log_weights, root, target, log_det = arguments
    numbers = np.array([constant, float(n), sum_log_weights, log_det])
    return [*cor, *sc, *lay, *val, root, target, exponent, numbers]


@njit
def _evaluate(x, t):
    val = Values(
        doubles(t, 32), doubles(t, 33), matrix(t, 34), matrix(t, 35), matrix(t, 36), matrix(t, 37),
    )  # fmt: skip
    numbers = doubles(t, 41)
    root, target = matrix(t, 38), doubles(t, 39)
    arguments = (layout(t, 15), val, int(numbers[1]), numbers[2], root, target, numbers[3])
    return density_head(
        x, correlations(t, 2), scale_priors(t, 9), doubles(t, 40), numbers[0], arguments, True
    )


@cfunc(LOGP, cache=True)
def logp(n_dim, z, out, value, user_data):
    t = carray(user_data, (3 * N_ARRAYS,), np.int64)
    log_density, gradient = _evaluate(point(carray(z, (n_dim,)), t), t)
    return report(log_density, gradient, t, carray(out, (n_dim,)), carray(value, (1,)))
