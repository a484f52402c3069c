"""Logarithms of probabilities p(x) and 1 - p(x), with three derivatives, stable in both tails.

p is the inverse of a link: a latent distribution function (logistic for logit, normal for
probit, Gumbel's of minima for the complementary log-log link: McCullagh & Nelder 1989, section
4.3), x itself or e^x. Every function gives (f, f', f'', f''').
"""

from __future__ import annotations

import math

import numpy as np

from bayeslmm.parts.families.special import choose, erfc, exp, formula, log1p_unit, positive

__all__ = [
    "CLOGLOG",
    "IDENTITY",
    "INVERSE",
    "LOG",
    "LOGIT",
    "PROBIT",
    "inside",
    "log_both",
    "log_density",
    "logarithm",
    "logistic",
]

#: Numbers of links in codes of families.
LOGIT, PROBIT, CLOGLOG, IDENTITY, LOG, INVERSE = range(6)

_SQRT_HALF = math.sqrt(0.5)
_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


@formula
def logistic(x):
    """log F and log(1 - F) of the logistic distribution."""
    e = exp(-np.abs(x))
    q = 1.0 / (1.0 + e)
    above = x > 0.0
    F, S = choose(above, 1.0, e) * q, choose(above, e, 1.0) * q
    v, log1p_e = e * q * q, log1p_unit(e)
    f = choose(above, 0.0, x) - log1p_e
    s = choose(above, -x, 0.0) - log1p_e
    third = v * (F - S)
    return (f, S, -v, third), (s, -F, -v, third)


@formula
def _log_lower_normal(x):
    """log F of the normal distribution.

    With h = f / F (the inverse of Mills' ratio) and g = x + h: f' = h, f'' = -h g and
    f''' = h (g^2 + h g - 1). Far below zero they are from the continued fraction
    g = 1/(t + 2/(t + 3/(t + ...))), t = -x (Abramowitz & Stegun 26.2.14), without cancellation.
    """
    low = x < -5.0
    t = choose(low, -x, 5.0)
    p = 12.0 / t
    p = 11.0 / (t + p)
    p = 10.0 / (t + p)
    p = 9.0 / (t + p)
    p = 8.0 / (t + p)
    p = 7.0 / (t + p)
    p = 6.0 / (t + p)
    p = 5.0 / (t + p)
    p = 4.0 / (t + p)
    p = 3.0 / (t + p)
    q = 2.0 / (t + p)
    g_low = 1.0 / (t + q)
    h_low = t + g_low
    z = choose(low, 0.0, x)
    tail = 0.5 * erfc(np.abs(z) * _SQRT_HALF)
    F = choose(z > 0.0, 1.0 - tail, tail)
    log_density = -0.5 * x * x - _LOG_SQRT_2PI
    h = choose(low, h_low, exp(log_density) / F)
    g = choose(low, g_low, x + h)
    third = choose(low, h_low * g_low * g_low * q * (p - q), h * (g * g + h * g - 1.0))
    f = choose(z > 0.0, np.log1p(-tail), np.log(tail))
    return choose(low, log_density - np.log(h_low), f), h, -h * g, third


@formula
def normal(x):
    """log F and log(1 - F) of the normal distribution."""
    s, s1, s2, s3 = _log_lower_normal(-x)
    return _log_lower_normal(x), (s, -s1, s2, -s3)


@formula
def _gumbel_log_lower(x, z):
    """log F of F = 1 - e^-z, z = e^x.

    With r = z / (e^z - 1): f' = r, f'' = r (1 - z - r), f''' = f'' (1 - z - r) - r (z + f'').
    Below z = 0.1 u = 1 - z - r is from the series of r in Bernoulli numbers.
    """
    z = choose(z < 700.0, z, 700.0)  # r is 0 beyond
    small = z < 0.1
    w = choose(small, 0.1, z)
    F = -np.expm1(-w)
    zz = choose(small, z * z, 0.01)
    # r = 1 - z / 2 + z^2 / 12 - z^4 / 720 + z^6 / 30240 - z^8 / 1209600
    even = zz / 12.0 * (1.0 - zz / 60.0 * (1.0 - zz / 42.0 * (1.0 - zz / 40.0)))
    r = choose(small, 1.0 - 0.5 * z + even, w * exp(-w) / F)
    u = choose(small, -0.5 * z - even, 1.0 - w - r)
    second = r * u
    f = choose(small, x + _log_ratio(choose(small, z, 0.1)), np.log(F))
    # u' = -z - r u
    return f, r, second, second * u - r * (z + second)


@formula
def _log_ratio(z):
    """log((1 - e^-z) / z) for z up to 0.1."""
    zz = z * z
    return -0.5 * z + zz / 24.0 * (1.0 - zz / 120.0 * (1.0 - zz / 63.0))


@formula
def gumbel(x):
    """log F and log(1 - F) of F = 1 - exp(-e^x)."""
    z = exp(x)
    return _gumbel_log_lower(x, z), (-z, -z, -z, -z)


@formula
def logarithm(x):
    """log x; constant where x is not positive."""
    i = choose(x > 0.0, 1.0 / positive(x), 0.0)
    return np.log(positive(x)), i, -i * i, 2.0 * i * i * i


@formula
def inside(link, x):
    """Whether the inverse of a link for probabilities is one at x."""
    if link == IDENTITY:
        return (x > 0.0) & (x < 1.0)
    if link == LOG:
        return x < 0.0
    return x == x


@formula
def log_both(link, x):
    """(log p, ...), (log(1 - p), ...) for the inverse of a link.

    Parameters
    ----------
    link : int
    x : float or array
    """
    if link == LOGIT:
        return logistic(x)
    if link == PROBIT:
        return normal(x)
    if link == CLOGLOG:
        return gumbel(x)
    if link == IDENTITY:
        s, s1, s2, s3 = logarithm(1.0 - x)
        return logarithm(x), (s, -s1, s2, -s3)
    # log: log(1 - e^x) is log F of gumbel's at z = -x, with derivatives in z
    z = positive(-x)
    i = 1.0 / z
    s, r, s2, s3 = _gumbel_log_lower(np.log(z), z)
    s1, second, third = r * i, (s2 - r) * i * i, (s3 - 3.0 * s2 + 2.0 * r) * i * i * i
    return (x, 1.0 + 0.0 * x, 0.0 * x, 0.0 * x), (s, -s1, second, -third)


@formula
def log_density(link, x):
    """log F' of a latent distribution, with two derivatives."""
    if link == LOGIT:
        (f, f1, f2, _), (s, s1, _, _) = logistic(x)
        return f + s, f1 + s1, 2.0 * f2
    if link == PROBIT:
        return -0.5 * x * x - _LOG_SQRT_2PI, -x, -1.0 + 0.0 * x
    z = exp(x)
    return x - z, 1.0 - z, -z
