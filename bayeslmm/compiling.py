"""How numerical kernels are compiled: once, cached beside their source, without the GIL."""

from __future__ import annotations

from typing import Any

from numba import njit

__all__ = ["kernel"]

#: Decorates a function that numba compiles. A cache does not notice a change in a function of
#: another file that it calls: delete the caches (``find bayeslmm -name '*.nb[ic]' -delete``)
#: after editing one. Division by zero gives infinity, as in numpy.
kernel: Any = njit(cache=True, nogil=True, error_model="numpy")
