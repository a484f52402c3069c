"""What nutpie makes of a draw: nothing more than the draw."""

from __future__ import annotations

from numba import carray, types

from bayeslmm.bayes.kernels.tables import DOUBLES
from bayeslmm.compiling import c_function

__all__ = ["expand"]

_SIGNATURE = types.int64(types.uint64, types.uint64, DOUBLES, DOUBLES, types.voidptr)


@c_function(_SIGNATURE)
def expand(n_dim, n_expanded, z_, out_, user_data):
    """Copy z."""
    z, out = carray(z_, (n_dim,)), carray(out_, (n_expanded,))
    for i in range(n_expanded):
        out[i] = z[i]
    return 0
