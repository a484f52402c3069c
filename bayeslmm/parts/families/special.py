"""Functions of numbers for formulas that numpy evaluates on arrays and numba on scalars.

A formula is written once, in these functions and in arithmetic. Compiled ones have no branches,
so that LLVM makes vector instructions of a loop over rows; that needs every function in it inlined.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic, overload, register_jitable

__all__ = ["choose", "erfc", "exp", "formula", "log1p_unit", "positive"]

_INLINED: Any = {"forceinline": True, "fastmath": False}

#: Decorates a formula: numpy evaluates it as it stands, kernels have it inlined.
formula = register_jitable(**_INLINED)

_LOG2_E = 1.4426950408889634
#: log 2 in two parts, the first short enough that its multiples up to 2^11 are exact.
_LOG2_HIGH, _LOG2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
#: Adding it rounds a number to the nearest integer, which is then in its last bits.
_ROUND = 6755399441055744.0
_LOWEST, _HIGHEST = -708.0, 690.0


@intrinsic
def _select(context, condition, one, other):
    def codegen(context, builder, signature, args):
        return builder.select(*args)

    return types.float64(types.boolean, types.float64, types.float64), codegen


def choose(condition, one, other):
    """``np.where`` for arrays and scalars; both values are computed."""
    return np.where(condition, one, other)


@overload(choose, jit_options=_INLINED)
def _choose(condition, one, other):
    return lambda condition, one, other: _select(condition, one, other)


def exp(x):
    """e^x, with x taken into [-708, 690] so that e^x and small multiples are finite and normal."""
    return np.exp(np.clip(x, _LOWEST, _HIGHEST))


@overload(exp, jit_options=_INLINED)
def _exp(x):
    c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13 = (
        1.0 / math.factorial(k) for k in range(2, 14)
    )

    def compiled(x):
        # x = k log 2 + r with |r| <= log(2) / 2, Taylor's series of e^r, then k into the exponent
        x = choose(x < _LOWEST, _LOWEST, choose(x > _HIGHEST, _HIGHEST, x))
        shifted = x * _LOG2_E + _ROUND
        k = shifted - _ROUND
        r = (x - k * _LOG2_HIGH) - k * _LOG2_LOW
        p = ((((c13 * r + c12) * r + c11) * r + c10) * r + c9) * r + c8
        p = (((((p * r + c7) * r + c6) * r + c5) * r + c4) * r + c3) * r + c2
        power = np.float64(shifted).view(np.int64) << 52
        return np.int64(np.float64(1.0 + (r + r * r * p)).view(np.int64) + power).view(np.float64)

    return compiled


def log1p_unit(u):
    """log(1 + u) for u in [0, 1]."""
    return np.log1p(u)


@overload(log1p_unit, jit_options=_INLINED)
def _log1p_unit(u):
    c1, c2, c3, c4, c5, c6, c7, c8, c9, c10 = (2.0 / (2 * k + 1) for k in range(1, 11))
    log2 = math.log(2.0)

    def compiled(u):
        # 2 artanh(s) of s = u / (2 + u), above sqrt(2) - 1 of (1 + u) / 2
        large = u > 0.41421356
        s = (u - choose(large, 1.0, 0.0)) / (u + choose(large, 3.0, 2.0))
        z = s * s
        p = ((((c10 * z + c9) * z + c8) * z + c7) * z + c6) * z + c5
        p = (((p * z + c4) * z + c3) * z + c2) * z + c1
        return 2.0 * s + s * z * p + choose(large, log2, 0.0)

    return compiled


def erfc(x):
    """The complementary error function."""
    from scipy.special import erfc

    return erfc(x)


@overload(erfc, jit_options=_INLINED)
def _erfc(x):
    return lambda x: math.erfc(x)


@formula
def positive(x):
    """x where it is positive, the smallest normal number elsewhere: for logarithms of it."""
    return choose(x > 0.0, x, 2.2250738585072014e-308)
