"""The studentized range of k independent normal means: Tukey's distribution, for many at once.

With W the range of k standard normals and s^2 an independent chi-squared over its degrees of
freedom, P(W / s > q) is the mean of P(W > q s) over s (Tukey 1953; Miller 1981, Simultaneous
Statistical Inference, section 2.1). P(W > w) depends on k alone, so it is tabulated once; what is
left is one integral over log s per value.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.special import gammainc, gammaln, log_ndtr

__all__ = ["studentized_range_ppf", "studentized_range_sf"]

_LARGEST = 50.0  # P(W > 50) is below 1e-260 for any k of use
_SMALLEST = 1e-13  # P(W > 1e-13) is 1 to the last digits
_PANELS, _NODES = 32, 13
_BITS = 115.0  # log s is integrated to where its density is e^-115 of the largest


def studentized_range_sf(q: np.ndarray, k: int, df: np.ndarray) -> np.ndarray:
    """P(Q > q) for the studentized range Q of k means.

    Parameters
    ----------
    q : array
    k : int
        At least 2.
    df : array
        Degrees of freedom, as many as `q`; may be infinite.

    Returns
    -------
    array
        Accurate to about 1e-9 of its size down to 1e-30; NaN where an argument is.
    """
    q, df = np.broadcast_arrays(np.asarray(q, dtype=float), np.asarray(df, dtype=float))
    return _upper_tail(q, df, _log_range_tail(k))


def studentized_range_ppf(probability: float, k: int, df: np.ndarray) -> np.ndarray:
    """The q with P(Q <= q) = probability, for each of `df`.

    Parameters
    ----------
    probability : float
        Between 0 and 1.
    k : int
    df : array

    Returns
    -------
    array
        NaN where `df` is.
    """
    log_tail = _log_range_tail(k)
    distinct, place = np.unique(np.asarray(df, dtype=float), return_inverse=True)

    def excess(log_q):
        """Negative beyond the quantile; close to linear in log q."""
        tail = _upper_tail(np.exp(log_q), distinct, log_tail)
        return np.log(np.maximum(tail, 1e-300)) - np.log1p(-probability)

    low, high = np.full(len(distinct), -10.0), np.full(len(distinct), 2.0)
    at_low, at_high = excess(low), excess(high)
    while np.any(at_high > 0) and high.max() < 600:
        high = np.where(at_high > 0, high + 20.0, high)
        at_high = excess(high)
    moved = np.zeros(len(distinct))  # regula falsi; an end that stays twice is halved (Illinois)
    for _ in range(60):
        with np.errstate(invalid="ignore"):
            middle = high - at_high * (high - low) / (at_high - at_low)
        value = excess(middle)
        if not np.any(np.abs(value) > 1e-10):
            break
        beyond = value <= 0
        at_low = np.where(beyond, np.where(moved > 0, 0.5, 1.0) * at_low, value)
        at_high = np.where(beyond, value, np.where(moved < 0, 0.5, 1.0) * at_high)
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
        moved = np.where(beyond, 1.0, -1.0)
    return np.where(np.isnan(distinct), np.nan, np.exp(middle))[place]


def _upper_tail(q: np.ndarray, df: np.ndarray, log_tail: Callable) -> np.ndarray:
    """The mean of P(W > q s) over s, by Gauss-Legendre panels in log s; flat arrays."""
    out = np.full(q.shape, np.nan)
    out[q <= 0] = 1.0
    known = np.isinf(df) & (q > 0)
    out[known] = _range_tail(q[known], log_tail)
    rest = np.isfinite(df) & (df > 0) & (q > 0)
    if not rest.any():
        return out
    nu, size = df[rest], q[rest]
    a = _BITS / nu  # bounds of a chi-squared by Laurent and Massart (2000), Lemma 1
    with np.errstate(divide="ignore", invalid="ignore"):
        near = np.where(2 * np.sqrt(a) < 1, 0.5 * np.log1p(-2 * np.sqrt(a)), -np.inf)
    low = np.maximum(np.maximum(near, -a - 0.5), np.log(_SMALLEST / size))
    high = np.minimum(0.5 * np.log1p(2 * np.sqrt(a) + 2 * a), np.log(_LARGEST / size))
    width = np.maximum(high - low, 0.0) / _PANELS
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    offsets = (np.arange(_PANELS)[:, None] + 0.5 * (nodes + 1)).ravel()
    log_s = low[:, None] + width[:, None] * offsets
    constant = np.log(2) + 0.5 * nu * np.log(nu / 2) - gammaln(nu / 2)
    log_density = constant[:, None] + nu[:, None] * (log_s - 0.5 * np.exp(2 * log_s))
    tail = _range_tail(size[:, None] * np.exp(log_s), log_tail)
    integral = np.exp(log_density) * tail @ np.tile(0.5 * weights, _PANELS) * width
    out[rest] = np.minimum(integral + gammainc(nu / 2, 0.5 * nu * np.exp(2 * low)), 1.0)
    return out


def _range_tail(w: np.ndarray, log_tail: Callable) -> np.ndarray:
    return np.where(w < _LARGEST, np.exp(log_tail(np.minimum(w, _LARGEST))), 0.0)


@lru_cache(maxsize=16)
def _log_range_tail(k: int) -> Callable:
    """log P(W > w) as a spline on [0, 50], its error about 1e-9.

    P(W > w) = k times the integral of phi(z) [Phi(z)^(k-1) - (Phi(z) - Phi(z - w))^(k-1)] over
    the largest z, written so that small tails keep their digits.
    """
    w = np.linspace(0.0, _LARGEST, 4001)[:, None]
    nodes, weights = np.polynomial.legendre.leggauss(160)
    z = w / 2 + 10.0 * nodes
    below = log_ndtr(z)
    with np.errstate(divide="ignore"):
        share = -np.expm1((k - 1) * np.log1p(-np.exp(np.minimum(log_ndtr(z - w) - below, 0.0))))
    log_density = -0.5 * z**2 - 0.5 * np.log(2 * np.pi) + (k - 1) * below
    tail = k * (np.exp(log_density) * share) @ weights * 10.0
    return CubicSpline(w[:, 0], np.log(tail))
