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

__all__ = [
    "choose",
    "exp",
    "expm1",
    "formula",
    "log",
    "log1p",
    "log1p_unit",
    "log_gamma",
    "log_one_minus_exp",
    "log_rising",
    "mills",
    "positive",
]

_INLINED: Any = {"forceinline": True, "fastmath": {"contract"}}

#: Decorates a formula: numpy evaluates it as it stands, kernels have it inlined.
formula = register_jitable(**_INLINED)

_LOG2_E = 1.4426950408889634
#: log 2 in two parts, the first short enough that its multiples up to 2^11 are exact.
_LOG2_HIGH, _LOG2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
#: Adding it rounds a number to the nearest integer, which is then in its last bits.
_ROUND = 6755399441055744.0
_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
_LOG2, _SQRT_HALF, _SQRT_HALF_PI = math.log(2.0), math.sqrt(0.5), math.sqrt(0.5 * math.pi)
_SQRT_HALF_BITS, _ROUND_BITS = (int(np.float64(of).view(np.int64)) for of in (_SQRT_HALF, _ROUND))
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


@formula
def _artanh(z):
    """2 artanh(s) / s - 2 with z = s^2 up to 0.03."""
    p = 2.0 / 19.0 + z * (2.0 / 21.0)
    p = 2.0 / 13.0 + z * (2.0 / 15.0 + z * (2.0 / 17.0 + z * p))
    return z * (
        2.0 / 3.0 + z * (2.0 / 5.0 + z * (2.0 / 7.0 + z * (2.0 / 9.0 + z * (2.0 / 11.0 + z * p))))
    )


def log1p_unit(u):
    """log(1 + u) for u in [0, 1]."""
    return np.log1p(u)


@overload(log1p_unit, jit_options=_INLINED)
def _log1p_unit(u):
    def compiled(u):
        # 2 artanh(s) of s = u / (2 + u), above sqrt(2) - 1 of (1 + u) / 2
        large = u > 0.41421356
        s = (u - choose(large, 1.0, 0.0)) / (u + choose(large, 3.0, 2.0))
        return 2.0 * s + s * _artanh(s * s) + choose(large, _LOG2, 0.0)

    return compiled


def log(x):
    """log x of positive normal numbers."""
    return np.log(x)


@overload(log, jit_options=_INLINED)
def _log(x):
    def compiled(x):
        # x = 2^e m with m in [sqrt(1/2), sqrt(2)), log m = 2 artanh((m - 1) / (m + 1))
        bits = np.float64(x).view(np.int64)
        e = (bits - _SQRT_HALF_BITS) >> 52
        m = np.int64(bits - (e << 52)).view(np.float64)
        k = np.int64(e + _ROUND_BITS).view(np.float64) - _ROUND
        s = (m - 1.0) / (m + 1.0)
        value = k * _LOG2_HIGH + (2.0 * s + (s * _artanh(s * s) + k * _LOG2_LOW))
        return choose(x == x, value, x)

    return compiled


@formula
def log1p(x):
    """log(1 + x) for x > -1."""
    u = 1.0 + x
    return log(u) + (x - (u - 1.0)) / u


#: Of (1 + t) M(t) as a polynomial in u, from 28 Chebyshev nodes with 70 digits.
_MILLS = (
    1.2962058207066682,
    -0.09458816819436543,
    -0.08432785339036528,
    0.047537644546588605,
    -0.007109243641196305,
    -0.001252884592037359,
    0.00032254727146901276,
    7.58015524816689e-05,
    -9.6493915246646e-06,
    -5.4166281706932264e-06,
    -3.1004400635401505e-07,
    2.6999942432585975e-07,
    7.641729535347675e-08,
    8.398224444810303e-11,
    -5.140606839466046e-09,
    -1.376561828414037e-09,
    -5.9401988673107554e-12,
    9.685563636350529e-11,
    2.1904462444903167e-11,
)


def mills(t):
    """(1 - F(t)) / F'(t) of the normal distribution for t in [0, 5] (Mills' ratio)."""
    from scipy.special import erfcx

    return _SQRT_HALF_PI * erfcx(t * _SQRT_HALF)


@overload(mills, jit_options=_INLINED)
def _mills(t):
    m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18 = _MILLS

    def compiled(t):
        u = ((t - 3.0) / (t + 3.0) + 0.375) * 1.6
        p = ((((m18 * u + m17) * u + m16) * u + m15) * u + m14) * u + m13
        p = (((((p * u + m12) * u + m11) * u + m10) * u + m9) * u + m8) * u + m7
        p = ((((((p * u + m6) * u + m5) * u + m4) * u + m3) * u + m2) * u + m1) * u + m0
        return p / (1.0 + t)

    return compiled


@formula
def positive(x):
    """x where it is positive, the smallest normal number elsewhere: for logarithms of it."""
    return choose(x > 0.0, x, 2.2250738585072014e-308)


@formula
def expm1(x):
    """e^x - 1, by e^x and its rounded logarithm (Higham 2002, section 1.14.1)."""
    u = exp(x)
    log_u = log(u)
    return choose(log_u == 0.0, x, (u - 1.0) * (x / choose(log_u == 0.0, 1.0, log_u)))


@formula
def log_one_minus_exp(x):
    """log(1 - e^-x) for x > 0."""
    near = x < 0.7
    return choose(near, log(positive(-expm1(-choose(near, x, 0.7)))), log1p(-exp(-x)))


@formula
def _stirling(x):
    """What Stirling's series adds to (x - 1/2) log x - x + log(2 pi) / 2, and its derivative.

    For x >= 8 (Abramowitz & Stegun 6.1.41); the coefficients are Bernoulli numbers.
    """
    i = 1.0 / x
    z = i * i
    s = -691.0 / 360360.0 + z * (1.0 / 156.0 - z * 3617.0 / 122400.0)
    s = 1.0 / 12.0 + z * (
        -1.0 / 360.0 + z * (1.0 / 1260.0 + z * (-1.0 / 1680.0 + z * (1.0 / 1188.0 + z * s)))
    )
    d = 691.0 / 32760.0 + z * (-1.0 / 12.0 + z * 3617.0 / 8160.0)
    d = -1.0 / 12.0 + z * (
        1.0 / 120.0 + z * (-1.0 / 252.0 + z * (1.0 / 240.0 + z * (-1.0 / 132.0 + z * d)))
    )
    return i * s, z * d


@formula
def log_gamma(x):
    """log Gamma(x) and its derivatives, digamma, trigamma and tetragamma, for x > 0.

    Below 8 by recurrence from x + 8, from there by Stirling's series.
    """
    low = x < 8.0
    product, first, second, third = 1.0, 0.0, 0.0, 0.0
    at = choose(low, x, 1.0)
    for _ in range(8):
        i = 1.0 / at
        product = product * at
        first, second, third = first + i, second + i * i, third + i * i * i
        at = at + 1.0
    above = choose(low, x + 8.0, x)
    log_x, i = log(above), 1.0 / above
    z = i * i
    s, d = _stirling(above)
    e = -691.0 / 2730.0 + z * (7.0 / 6.0 - z * 3617.0 / 510.0)
    e = 1.0 / 6.0 + z * (
        -1.0 / 30.0 + z * (1.0 / 42.0 + z * (-1.0 / 30.0 + z * (5.0 / 66.0 + z * e)))
    )
    f = 691.0 / 210.0 + z * (-35.0 / 2.0 + z * 3617.0 / 30.0)
    f = -0.5 + z * (1.0 / 6.0 + z * (-1.0 / 6.0 + z * (3.0 / 10.0 + z * (-5.0 / 6.0 + z * f))))
    value = (above - 0.5) * log_x - above + _LOG_SQRT_2PI + s
    digamma = log_x - 0.5 * i + d
    trigamma = i + 0.5 * z + z * i * e
    tetragamma = z * (-1.0 - i + z * f)
    return (
        value - choose(low, log(product), 0.0),
        digamma - choose(low, first, 0.0),
        trigamma + choose(low, second, 0.0),
        tetragamma - choose(low, 2.0 * third, 0.0),
    )


@formula
def log_rising(y, a):
    """log(Gamma(a + y) / (Gamma(a) a^y)) and its derivative in a, for a > 0 and y >= 0.

    The sum of log(1 + k / a) over k < y, without cancellation where a is large.
    """
    low = a < 8.0
    product, total = 1.0, 0.0
    at = choose(low, a, 1.0)
    for _ in range(8):
        product = product * (1.0 + y / at)
        total = total + y / (at * (at + y))
        at = at + 1.0
    b = choose(low, a + 8.0, a)
    grown = log1p(y / b)
    (s1, d1), (s0, d0) = _stirling(b + y), _stirling(b)
    by_shift = y * log1p(choose(low, 8.0, 0.0) / a) - choose(low, log(product), 0.0)
    value = (b + y - 0.5) * grown - y + s1 - s0 + by_shift
    # -1/(2 (b + y)) + 1/(2 b) without cancellation
    slope = grown + 0.5 * y / (b * (b + y)) + d1 - d0 + choose(low, total, 0.0) - y / a
    return value, slope
