"""First-order autoregression at whole-numbered times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bayeslmm.compiling import kernel
from bayeslmm.parts.structures.base import Bounded, Symbols, gaps


@dataclass(frozen=True)
class AR1(Bounded):
    """corr = rho^|t - s|, t and s whole numbers (Box and Jenkins); -1 < rho < 1."""

    name, code, uses_time, times = "ar1", 1, True, "whole"

    @classmethod
    def formula(cls, write: Symbols, one: str, two: str) -> str:
        return write.power(write.greek("rho"), f"|{one} - {two}|")

    @staticmethod
    def correlations(xp, c, time: np.ndarray):
        whole = np.round(gaps(time))
        # by the absolute value: a negative base and a real exponent have no derivative
        sign = xp.where((c < 0) & (whole % 2 == 1), -1.0, 1.0)
        power = xp.where(c < 0, -c, c) ** np.maximum(whole, 1.0)
        return xp.where(whole == 0, 1.0, sign * power)


@kernel
def _power(x, n):
    """x^n, n whole and not negative; n = 0 gives 1."""
    result, base = 1.0, x
    while n > 0:
        if n % 2 == 1:
            result *= base
        base *= base
        n //= 2
    return result


@kernel
def ar1(c, s, t):
    """Correlation of two rows at times s and t."""
    return _power(c[0], int(round(abs(s - t))))


@kernel
def add_ar1_gradient(c, s, t, d, out):
    """Add d times the derivative in c."""
    n = int(round(abs(s - t)))
    out[0] += d * n * _power(c[0], n - 1)
