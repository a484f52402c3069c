"""The density of unequal residual variances by cells as a C function, as ``compiled_marginal``."""

from __future__ import annotations

import numpy as np
from numba import carray, cfunc, njit

from bayeslmm.bayes.cell_density import CellDensity, density_cells
from bayeslmm.bayes.tables import (
    LOGP,
    correlations,
    doubles,
    integers,
    layout,
    matrix,
    point,
    report,
    scale_priors,
)
from bayeslmm.gaussian.cells._kernel import CellProducts

__all__ = ["N_ARRAYS", "arrays", "logp"]

N_ARRAYS = 42


def arrays(density: CellDensity) -> list[np.ndarray]:
    """Entries of the table from the third on."""
    (cor, sc, n_log, exponent, constant), likelihood = density.kernel()
    cells, lay, root, target, log_det = likelihood
    *products, sum_log_weights = cells
    numbers = np.array([float(n_log), constant, sum_log_weights, log_det])
    return [*cor, *sc, *lay, *products, root, target, exponent, numbers]


@njit
def _evaluate(x, t):
    numbers = doubles(t, 41)
    cells = CellProducts(
        integers(t, 32), integers(t, 33), doubles(t, 34), integers(t, 35), doubles(t, 36),
        matrix(t, 37), numbers[2],
    )  # fmt: skip
    prior = (
        correlations(t, 2), scale_priors(t, 9), int(numbers[0]), doubles(t, 40), numbers[1]
    )  # fmt: skip
    likelihood = (cells, layout(t, 15), matrix(t, 38), doubles(t, 39), numbers[3])
    return density_cells(x, prior, likelihood, True)


@cfunc(LOGP, cache=True)
def logp(n_dim, z, out, value, user_data):
    t = carray(user_data, (3 * N_ARRAYS,), np.int64)
    log_density, gradient = _evaluate(point(carray(z, (n_dim,)), t), t)
    return report(log_density, gradient, t, carray(out, (n_dim,)), carray(value, (1,)))
