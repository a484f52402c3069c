"""What the C functions of compiled densities share: the table of arrays they get, and reports."""

from __future__ import annotations

import numpy as np
from numba import types

from bayeslmm.addresses import doubles, matrix
from bayeslmm.compiling import kernel

__all__ = ["DOUBLES", "LOGP", "point", "report"]

DOUBLES = types.CPointer(types.double)
#: Signature of a log density: dimensions, z, gradient, value, table.
LOGP = types.int64(types.uint64, DOUBLES, DOUBLES, DOUBLES, types.voidptr)


@kernel
def point(z, t, i):
    """x = center + scale z; center (d,) and scale (d, d) are entries i and i + 1."""
    x, scale = doubles(t, i).copy(), matrix(t, i + 1)
    for row in range(x.shape[0]):
        for j in range(x.shape[0]):
            x[row] += scale[row, j] * z[j]
    return x


@kernel
def report(found, t, i, out, logp):
    """Write value and gradient in z; nutpie's code: positive is a divergence, zero is fine."""
    value, gradient = found
    scale = matrix(t, i + 1)
    logp[0] = value
    fine = np.isfinite(value)
    for j in range(out.shape[0]):
        total = 0.0
        for row in range(out.shape[0]):
            total += scale[row, j] * gradient[row]
        out[j] = total
        fine = fine and np.isfinite(total)
    return 0 if fine else 3
