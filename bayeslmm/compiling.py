"""How numerical kernels are compiled: once, cached beside their source, without the GIL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from numba import cfunc, njit, types

__all__ = [
    "Doubles",
    "IntegerMatrix",
    "Integers",
    "Matrix",
    "c_function",
    "kernel",
    "summing_kernel",
]

# Fields of the records that kernels take: contiguous arrays of float64 and int64. The names are
# those of the functions that read such an array from a table, see :mod:`bayeslmm.bayes.kernels`.
Doubles = Annotated[np.ndarray, "doubles"]
Matrix = Annotated[np.ndarray, "matrix"]
Integers = Annotated[np.ndarray, "integers"]
IntegerMatrix = Annotated[np.ndarray, "integer_matrix"]


def _cached(decorator: Callable, function: Callable, *signature: Any, **options: Any) -> Any:
    """Compiled with a cache on disk, or without where no directory for one can be written."""
    try:
        return decorator(*signature, cache=True, **options)(function)
    except RuntimeError as err:
        if "cache" not in str(err):
            raise
        return decorator(*signature, **options)(function)


def _compiled(**options: Any) -> Callable[[Callable], Any]:
    def decorate(function: Callable) -> Any:
        made = _cached(njit, function, nogil=True, error_model="numpy", **options)
        template = made.get_call_template

        def one_type(args, kws):
            # numba takes the constants True and 0 of a caller for types of their own, and would
            # compile the function for each beside that for any bool and int
            args = tuple(types.unliteral(a) for a in args)
            return template(args, {name: types.unliteral(a) for name, a in kws.items()})

        made.get_call_template = one_type
        return made

    return decorate


#: Decorates a function that numba compiles. A cache does not notice a change in a function of
#: another file that it calls: delete the caches (``find bayeslmm -name '*.nb[ic]' -delete``)
#: after editing one. Division by zero gives infinity, as in numpy.
kernel = _compiled()

#: As :data:`kernel`, for sums that may be taken in any order; nan and infinity keep their meaning.
summing_kernel = _compiled(fastmath={"reassoc", "contract", "nsz"})


def c_function(signature: Any) -> Callable[[Callable], Any]:
    """Decorates a function that is compiled for C to call."""
    return lambda function: _cached(cfunc, function, signature)
