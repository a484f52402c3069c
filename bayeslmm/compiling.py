"""How numerical kernels are compiled: once, cached beside their source, without the GIL."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numba import njit

__all__ = ["Doubles", "IntegerMatrix", "Integers", "Matrix", "kernel"]

#: Decorates a function that numba compiles. A cache does not notice a change in a function of
#: another file that it calls: delete the caches (``find bayeslmm -name '*.nb[ic]' -delete``)
#: after editing one. Division by zero gives infinity, as in numpy.
kernel: Any = njit(cache=True, nogil=True, error_model="numpy")

# Fields of the records that kernels take: contiguous arrays of float64 and int64. The names are
# those of the functions that read such an array from a table, see :mod:`bayeslmm.bayes.kernels`.
Doubles = Annotated[np.ndarray, "doubles"]
Matrix = Annotated[np.ndarray, "matrix"]
Integers = Annotated[np.ndarray, "integers"]
IntegerMatrix = Annotated[np.ndarray, "integer_matrix"]
