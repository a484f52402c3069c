"""The density of models with structured residuals as a C function, as ``compiled_marginal``."""

from __future__ import annotations

import numpy as np
from numba import carray, cfunc, njit

from bayeslmm.bayes.residual_density import ResidualDensity, density_blocks
from bayeslmm.bayes.tables import (
    LOGP,
    correlations,
    doubles,
    integer_matrix,
    integers,
    matrix,
    point,
    report,
    scale_priors,
)
from bayeslmm.gaussian.blocks._kernel import Data, Layout

__all__ = ["N_ARRAYS", "arrays", "logp"]

N_ARRAYS = 44


def arrays(density: ResidualDensity) -> list[np.ndarray]:
    """Entries of the table from the third on."""
    cor, times, sc, n_log, exponent, constant, n_scales, lay, data, n, *prior = density.kernel()
    root, target, log_det = prior
    numbers = np.array([float(n_log), constant, float(n_scales), float(n), log_det])
    return [*cor, *times, *sc, *lay, *data, root, target, exponent, numbers]


@njit
def _layout(t):
    return Layout(
        integers(t, 22), integers(t, 23), integers(t, 24), integers(t, 25), integers(t, 26),
        doubles(t, 27), doubles(t, 28), integers(t, 29), matrix(t, 30), matrix(t, 31),
        integer_matrix(t, 32), integers(t, 33), integers(t, 34), integers(t, 35), integers(t, 36),
        integers(t, 37),
    )  # fmt: skip


@njit
def _evaluate(x, t):
    data, numbers = Data(doubles(t, 38), doubles(t, 39)), doubles(t, 43)
    return density_blocks(
        x, correlations(t, 2), correlations(t, 9), scale_priors(t, 16), int(numbers[0]),
        doubles(t, 42), numbers[1], int(numbers[2]), _layout(t), data, int(numbers[3]),
        matrix(t, 40), doubles(t, 41), numbers[4], True,
    )  # fmt: skip


@cfunc(LOGP, cache=True)
def logp(n_dim, z, out, value, user_data):
    t = carray(user_data, (3 * N_ARRAYS,), np.int64)
    log_density, gradient = _evaluate(point(carray(z, (n_dim,)), t), t)
    return report(log_density, gradient, t, carray(out, (n_dim,)), carray(value, (1,)))
