"""Arrays of a density as a table of addresses and shapes, and what compiled code reads from it.

Entry i is (address, length or rows, columns). The first two are where the coordinates z of a chain
lie: center (d,) and scale (d, d), x = center + scale z.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic

from bayeslmm.gaussian.symbolic import Layout
from bayeslmm.parts.correlations import CorrelationLayout
from bayeslmm.parts.scales import Scales

__all__ = ["DOUBLES", "LOGP", "make_table"]

DOUBLES = types.CPointer(types.double)
#: Signature of a log density: dimensions, z, gradient, value, table.
LOGP = types.int64(types.uint64, DOUBLES, DOUBLES, DOUBLES, types.voidptr)


def make_table(arrays: Sequence[np.ndarray], expected: int) -> np.ndarray:
    """The table of C-contiguous arrays, which have to stay alive.

    Raises
    ------
    RuntimeError
        If there are not as many as the compiled code reads.
    """
    if len(arrays) != expected:
        raise RuntimeError("the table of arrays does not match the compiled code")
    return np.array(
        [(a.ctypes.data, *(*a.shape, 0, 0)[:2]) for a in arrays], dtype=np.int64
    ).ravel()


@intrinsic
def _pointer(typing, address):
    """An address as a pointer."""

    def code(context, builder, signature, arguments):
        target = context.get_value_type(types.voidptr)
        return builder.inttoptr(arguments[0], target)

    return types.voidptr(types.int64), code


@njit
def doubles(t, i):
    return carray(_pointer(t[3 * i]), (t[3 * i + 1],), np.float64)


@njit
def matrix(t, i):
    return carray(_pointer(t[3 * i]), (t[3 * i + 1], t[3 * i + 2]), np.float64)


@njit
def integers(t, i):
    return carray(_pointer(t[3 * i]), (t[3 * i + 1],), np.int64)


@njit
def integer_matrix(t, i):
    return carray(_pointer(t[3 * i]), (t[3 * i + 1], t[3 * i + 2]), np.int64)


@njit
def correlations(t, i):
    """A CorrelationLayout from entry i on: 7 entries."""
    return CorrelationLayout(
        integers(t, i), integers(t, i + 1), integers(t, i + 2), integers(t, i + 3),
        integers(t, i + 4), integers(t, i + 5), integers(t, i + 6),
    )  # fmt: skip


@njit
def scale_priors(t, i):
    """Scales from entry i on: 6 entries."""
    return Scales(
        integers(t, i), matrix(t, i + 1), doubles(t, i + 2), doubles(t, i + 3), doubles(t, i + 4),
        doubles(t, i + 5),
    )  # fmt: skip


@njit
def layout(t, i):
    """A gaussian.symbolic.Layout from entry i on: 17 entries."""
    return Layout(
        integers(t, i), integers(t, i + 1), integers(t, i + 2), integers(t, i + 3),
        integers(t, i + 4), integers(t, i + 5), integers(t, i + 6), integers(t, i + 7),
        integers(t, i + 8), integers(t, i + 9), integers(t, i + 10), integers(t, i + 11),
        integers(t, i + 12), integers(t, i + 13), integers(t, i + 14), integers(t, i + 15),
        integers(t, i + 16),
    )  # fmt: skip


@njit
def point(z, t):
    """x = center + scale z."""
    x, scale = doubles(t, 0).copy(), matrix(t, 1)
    for i in range(x.shape[0]):
        for j in range(x.shape[0]):
            x[i] += scale[i, j] * z[j]
    return x


@njit
def report(value, gradient, t, out, logp):
    """Write value and gradient in z; nutpie's code: positive is a divergence, zero is fine."""
    scale = matrix(t, 1)
    logp[0] = value
    fine = np.isfinite(value)
    for j in range(out.shape[0]):
        total = 0.0
        for i in range(out.shape[0]):
            total += scale[i, j] * gradient[i]
        out[j] = total
        fine = fine and np.isfinite(total)
    return 0 if fine else 3
