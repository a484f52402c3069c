"""What the C functions of compiled densities share: the table of arrays they get, and reports.

NUTS calls them from C for one point after the other, Python by :func:`c_density` for any number.
"""

from __future__ import annotations

import ctypes
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
from numba import types

from bayeslmm.addresses import doubles, integers, matrix
from bayeslmm.compiling import kernel

__all__ = [
    "DOUBLES",
    "LOGP",
    "N_PLACE",
    "c_density",
    "kernels_of",
    "place",
    "point",
    "report",
    "task",
]

DOUBLES = types.CPointer(types.double)
#: Signature of a log density: dimensions, z, gradient, value, table.
LOGP = types.int64(types.uint64, DOUBLES, DOUBLES, DOUBLES, types.voidptr)


#: Entries of a table that :func:`place` gives.
N_PLACE = 3


def place(n: int, want_gradient: bool, center: np.ndarray | None = None, scale=None) -> tuple:
    """What a table says beside a density: n points z are given, x = center + scale z.

    Parameters
    ----------
    center : (d,) array, optional
    scale : (d, d) array, optional
        The points are x where there is none.
    """
    if scale is None:
        center, scale = np.zeros(0), np.zeros((0, 0))
    return center, scale, np.array([n, want_gradient], dtype=np.int64)


@kernel
def task(t, i):
    """Number of points, and whether gradients are wanted: entry i + 2."""
    asked = integers(t, i + 2)
    return asked[0], asked[1] != 0


@kernel
def point(z, t, i):
    """x = center + scale z; center (d,) and scale (d, d) are entries i and i + 1."""
    x, scale = doubles(t, i).copy(), matrix(t, i + 1)
    if scale.shape[0] == 0:
        return z.copy()
    for row in range(x.shape[0]):
        for j in range(x.shape[0]):
            x[row] += scale[row, j] * z[j]
    return x


@kernel
def report(found, t, i, want_gradient, out, logp):
    """Write value and gradient in z; nutpie's code: positive is a divergence, zero is fine."""
    value, gradient = found
    scale = matrix(t, i + 1)
    logp[0] = value
    fine = np.isfinite(value)
    if not want_gradient:
        return 0 if fine else 3
    for j in range(out.shape[0]):
        total = 0.0
        for row in range(scale.shape[0]):
            total += scale[row, j] * gradient[row]
        out[j] = total if scale.shape[0] else gradient[j]
        fine = fine and np.isfinite(out[j])
    return 0 if fine else 3


_PROTOTYPE = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_uint64, *(4 * [ctypes.c_void_p]))


@cache
def kernels_of(engine: str) -> ModuleType:
    """The module of an engine's density, which is compiled at its import."""
    return import_module(f"bayeslmm.bayes.kernels.{engine}")


@cache
def c_density(engine: str) -> Any:
    """Its C function for Python: dimensions, then addresses of all else of :data:`LOGP`."""
    return _PROTOTYPE(kernels_of(engine).logp.address)
