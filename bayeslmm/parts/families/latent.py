"""Logarithms of probabilities p(x) and 1 - p(x), with three derivatives, stable in both tails.

p is the inverse of a link: a latent distribution function (logistic for logit, normal for
probit, Gumbel's of minima for the complementary log-log link: McCullagh & Nelder 1989, section
4.3), x itself or e^x. Every function gives (f, f', f'', f''').
"""

from __future__ import annotations

import math

import numpy as np

from bayeslmm.parts.families.special import (
    choose,
    exp,
    formula,
    log,
    log1p,
    log1p_unit,
    mills,
    positive,
)

__all__ = [
    "CLOGLOG",
    "IDENTITY",
    "INVERSE",
    "LOG",
    "LOGIT",
    "PROBIT",
    "inside",
    "latent",
    "log_both",
    "log_density",
    "logarithm",
    "logistic",
]

#: Numbers of links in codes of families.
LOGIT, PROBIT, CLOGLOG, IDENTITY, LOG, INVERSE = range(6)

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
def normal(x):
    """log F and log(1 - F) of the normal distribution.

    With t = |x|, T the probability beyond t and h = f / T (the inverse of Mills' ratio), log T has
    the derivatives -h, -h g and -h (g^2 + h g - 1) in t, g = h - t. Beyond t = 5 they are from the
    continued fraction g = 1/(t + 2/(t + 3/(t + ...))) (Abramowitz & Stegun 26.2.14), without
    cancellation.
    """
    t = np.abs(x)
    far = t > 5.0
    near, z = choose(far, 5.0, t), choose(far, choose(t > 1e8, 1e8, t), 5.0)
    # p = 3/(z + 4/(z + ... 28/z)) as a fraction
    above, below = 28.0, z
    for i in range(24):
        above, below = (27.0 - i) * below, z * below + above
    p = 3.0 * below / (z * below + above)
    q = 2.0 / (z + p)
    g_far = 1.0 / (z + q)
    log_f = -0.5 * t * t - _LOG_SQRT_2PI
    f = exp(log_f)
    h = choose(far, t + g_far, 1.0 / mills(near))
    g = choose(far, g_far, h - t)
    t3 = -h * choose(far, g * g * q * (p - q), g * g + h * g - 1.0)
    t0, t1, t2 = log_f - log(h), -h, -h * g
    # the other side, log(1 - T)
    T = f / h
    r = f / (1.0 - T)
    e = t + r
    s0, s1, s2, s3 = log1p(-T), r, -r * e, r * (e * e + r * e - 1.0)
    up = x > 0.0
    return (
        (choose(up, s0, t0), choose(up, s1, -t1), choose(up, s2, t2), choose(up, s3, -t3)),
        (choose(up, t0, s0), choose(up, t1, -s1), choose(up, t2, s2), choose(up, t3, -s3)),
    )


@formula
def _gumbel_log_lower(x, z):
    """log F of F = 1 - e^-z, z = e^x.

    With r = z / (e^z - 1): f' = r, f'' = r (1 - z - r), f''' = f'' (1 - z - r) - r (z + f'').
    Below z = 0.1 u = 1 - z - r is from the series of r in Bernoulli numbers.
    """
    z = choose(z < 700.0, z, 700.0)  # r is 0 beyond
    small = z < 0.1
    w = choose(small, 0.1, z)
    F = 1.0 - exp(-w)
    zz = choose(small, z * z, 0.01)
    # r = 1 - z / 2 + z^2 / 12 - z^4 / 720 + z^6 / 30240 - z^8 / 1209600
    even = zz / 12.0 * (1.0 - zz / 60.0 * (1.0 - zz / 42.0 * (1.0 - zz / 40.0)))
    r = choose(small, 1.0 - 0.5 * z + even, w * exp(-w) / F)
    u = choose(small, -0.5 * z - even, 1.0 - w - r)
    second = r * u
    f = choose(small, x + _log_ratio(choose(small, z, 0.1)), log(F))
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
    return log(positive(x)), i, -i * i, 2.0 * i * i * i


@formula
def inside(link, x):
    """Whether the inverse of a link for probabilities is one at x."""
    if link == IDENTITY:
        return (x > 0.0) & (x < 1.0)
    if link == LOG:
        return x < 0.0
    return x == x


@formula
def latent(link, x):
    """log F and log(1 - F) of the latent distribution of a link."""
    if link == LOGIT:
        return logistic(x)
    if link == PROBIT:
        return normal(x)
    return gumbel(x)


@formula
def log_both(link, x):
    """(log p, ...), (log(1 - p), ...) for the inverse of a link.

    Parameters
    ----------
    link : int
    x : float or array
    """
    if link <= CLOGLOG:
        return latent(link, x)
    if link == IDENTITY:
        s, s1, s2, s3 = logarithm(1.0 - x)
        return logarithm(x), (s, -s1, s2, -s3)
    # log: log(1 - e^x) is log F of gumbel's at z = -x, with derivatives in z
    z = positive(-x)
    i = 1.0 / z
    s, r, s2, s3 = _gumbel_log_lower(log(z), z)
    s1, second, third = r * i, (s2 - r) * i * i, (s3 - 3.0 * s2 + 2.0 * r) * i * i * i
    return (x, 1.0 + 0.0 * x, 0.0 * x, 0.0 * x), (s, -s1, second, -third)


@formula
def log_density(link, x):
    """log F' of a latent distribution, with two derivatives."""
    if link == LOGIT:
        f, s = logistic(x)
        return f[0] + s[0], f[1] + s[1], f[2] + s[2]
    if link == PROBIT:
        return -0.5 * x * x - _LOG_SQRT_2PI, -x, -1.0 + 0.0 * x
    z = exp(x)
    return x - z, 1.0 - z, -z
