"""Log densities of every family with derivatives, for one row or an array of rows.

A family is one number and a link another, together a code. l(eta) is the log density of a row and
p0, p1 its parameters beside eta:

    binomial, bernoulli        y log p + (m - y) log(1 - p)
    poisson                    y log mu - mu
    negativebinomial           Gamma(a + y) / Gamma(a) (a / (a + mu))^a (mu / (a + mu))^y, p0 = a
    gamma                      a log(y / mu) - a y / mu + ..., p0 = a
    beta                       Beta(mu kappa, (1 - mu) kappa), p0 = kappa (Ferrari & Cribari-Neto
                               2004, J. Appl. Stat. 31, 799-815)
    lognormal                  log y ~ N(eta, p0)
    ordinal                    log(F(p1 - eta) - F(p0 - eta)), p0 and p1 the thresholds below and
                               above the category, infinite at the ends (McCullagh 1980,
                               J. R. Stat. Soc. B 42, 109-142)
    gaussian                   y ~ N(eta, p0 / sqrt(m))
    student                    t with p1 degrees of freedom around eta, its scale p0 / sqrt(m)
                               (Lange, Little & Taylor 1989, JASA 84, 881-896)
    zero_inflated_...          log(z [y = 0] + (1 - z) e^l), p1 = z (Lambert 1992, Technometrics
                               34, 1-14)

The others are in McCullagh & Nelder (1989). What depends on y and trials alone is
:func:`constant` and what depends on phi alone :func:`base`, apart because they are computed once.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bayeslmm.parts.families.latent import (
    CLOGLOG,
    IDENTITY,
    LOG,
    LOGIT,
    PROBIT,
    inside,
    latent,
    log_both,
    log_density,
    logarithm,
    logistic,
)
from bayeslmm.parts.families.special import (
    choose,
    exp,
    expm1,
    formula,
    log,
    log1p,
    log_gamma,
    log_one_minus_exp,
    log_rising,
)

__all__ = [
    "BETA",
    "BINOMIAL",
    "GAMMA",
    "GAUSSIAN",
    "LOGNORMAL",
    "NEGATIVE_BINOMIAL",
    "ORDINAL",
    "POISSON",
    "STUDENT",
    "ZERO_INFLATED_NEGATIVE_BINOMIAL",
    "ZERO_INFLATED_POISSON",
    "base",
    "beta",
    "binomial",
    "code_of",
    "constant",
    "gaussian",
    "ordinal",
    "poisson_log",
    "positive_mean",
    "student",
    "student_shape",
    "terms",
]

#: Numbers of families in codes.
BINOMIAL, POISSON, NEGATIVE_BINOMIAL, GAMMA, BETA, LOGNORMAL, ORDINAL = range(7)
ZERO_INFLATED_POISSON, ZERO_INFLATED_NEGATIVE_BINOMIAL, GAUSSIAN, STUDENT = 7, 8, 9, 10

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


def code_of(kind: int, link: int) -> int:
    """The code of a family and a link."""
    return 10 * kind + link


@formula
def _chain(k1, k2, k3, u1, u2, u3):
    """Derivatives of k(u(eta)) from those of k and u (Faa di Bruno)."""
    return k1 * u1, k2 * u1 * u1 + k1 * u2, k3 * u1 * u1 * u1 + 3.0 * k2 * u1 * u2 + k1 * u3


@formula
def poisson_log(y, eta):
    """Counts with mean e^eta: log density and its derivatives in eta."""
    mu = exp(eta)
    return y * eta - mu, y - mu, -mu, -mu


@formula
def terms(code, y, m, eta, p0, p1):
    """Log density of a row and its derivatives, without :func:`constant` and :func:`base`.

    Parameters
    ----------
    code : int
    y, m : float or array
        Response; trials (1 where there are none), of residuals their precision in units of
        1 / p0^2.
    eta, p0, p1 : float or array

    Returns
    -------
    four values
        The log density and three derivatives in eta.
    two of three values
        Derivatives in p0 and p1 of the log density and its first two derivatives in eta.
    """
    kind, link = code // 10, code % 10
    zero = 0.0 * eta
    none = (zero, zero, zero)
    if kind == BINOMIAL:
        return binomial(link, y, m, eta), none, none
    if kind == BETA:
        of_eta, d0 = beta(link, y, eta, p0)
        return of_eta, d0, none
    if kind == LOGNORMAL:
        of_eta, d0 = _lognormal(y, eta, p0)
        return of_eta, d0, none
    if kind == GAUSSIAN:
        of_eta, d0 = gaussian(y, m, eta, p0)
        return of_eta, d0, none
    if kind == STUDENT:
        (l0, l1, l2, l3), d0, (e0, e1, e2) = student(y, m, eta, p0, p1)
        shape, d_shape = student_shape(1.0, p1)
        return (shape + l0, l1, l2, l3), d0, (d_shape + e0, e1, e2)
    if kind == ORDINAL:
        return ordinal(link, eta, p0, p1)
    of_eta, d0 = positive_mean(kind, link, y, eta, p0)
    if kind >= ZERO_INFLATED_POISSON:
        return _zero_inflated(y, of_eta, d0, p1)
    return of_eta, d0, none


@formula
def binomial(link, y, m, eta):
    """y log p + (m - y) log(1 - p)."""
    f, s = log_both(link, eta)
    n = m - y
    l0, l1 = y * f[0] + n * s[0], y * f[1] + n * s[1]
    if link == LOGIT:
        return l0, l1, m * f[2], m * f[3]
    l0 = choose(inside(link, eta), l0, -np.inf)
    return l0, l1, y * f[2] + n * s[2], y * f[3] + n * s[3]


@formula
def positive_mean(kind, link, y, eta, p0):
    """Poisson, negative binomial and gamma: by the log of their mean, and the chain rule."""
    if link == LOG:
        return _in_log_mean(kind, y, eta, p0)
    u, u1, u2, u3 = logarithm(eta)
    if link != IDENTITY:
        u, u1, u2, u3 = -u, -u1, -u2, -u3
    (k0, k1, k2, k3), (d, d1, d2) = _in_log_mean(kind, y, u, p0)
    l1, l2, l3 = _chain(k1, k2, k3, u1, u2, u3)
    l0 = choose(eta > 0.0, k0, -np.inf)
    return (l0, l1, l2, l3), (d, d1 * u1, d2 * u1 * u1 + d1 * u2)


@formula
def _in_log_mean(kind, y, log_mu, p0):
    """Derivatives in log mu, and in p0."""
    if kind in (NEGATIVE_BINOMIAL, ZERO_INFLATED_NEGATIVE_BINOMIAL):
        return _negative_binomial(y, log_mu, p0)
    if kind == GAMMA:
        log_r = log(y) - log_mu
        r = exp(log_r)
        d = (1.0 + log_r - r, r - 1.0, -r)
        return (p0 * d[0], p0 * d[1], p0 * d[2], p0 * r), d
    zero = 0.0 * log_mu
    return poisson_log(y, log_mu), (zero, zero, zero)


@formula
def _negative_binomial(y, log_mu, a):
    """With p = mu / (a + mu) the logistic function of log mu - log a."""
    lower, upper = logistic(log_mu - log(a))
    rising, d_rising = log_rising(y, a)
    p, q, n = -upper[1], lower[1], y + a
    v = p * q
    of_eta = (
        y * log_mu + rising + n * upper[0],
        y * q - a * p,
        -n * v,
        n * lower[3],
    )
    share = n * p / a
    return of_eta, (
        d_rising + upper[0] + share,
        p * (y * q / a - p),
        q * (share * (q - p) - p),
    )


@formula
def _beta_part(u, log_y, kappa):
    """u + A log y - log Gamma(1 + A) with A = kappa e^u, and its derivatives in u.

    log Gamma(A) = log Gamma(1 + A) - u - log kappa: nothing is infinite where A vanishes.
    """
    A = kappa * exp(u)
    g, g1, g2, g3 = log_gamma(1.0 + A)
    h, r, t = A * (log_y - g1), A * A * g2, A * A * A * g3
    return u + A * log_y - g, 1.0 + h, h - r, h - 3.0 * r - t


@formula
def beta(link, y, eta, kappa):
    """Beta(mu kappa, (1 - mu) kappa): a part for mu and one for 1 - mu, each of its logarithm."""
    (u, u1, u2, u3), (v, v1, v2, v3) = latent(link, eta)
    h, h1, h2, h3 = _beta_part(u, log(y), kappa)
    k, k1, k2, k3 = _beta_part(v, log1p(-y), kappa)
    f1, f2, f3 = _chain(h1, h2, h3, u1, u2, u3)
    s1, s2, s3 = _chain(k1, k2, k3, v1, v2, v3)
    # kappa d/dkappa is d/du and d/dv together, but for u and v themselves
    d1, d2, _ = _chain(h2, h3, 0.0, u1, u2, u3)
    e1, e2, _ = _chain(k2, k3, 0.0, v1, v2, v3)
    i = 1.0 / kappa
    return (h + k, f1 + s1, f2 + s2, f3 + s3), (
        i * (h1 + k1 - 2.0),
        i * (d1 + e1),
        i * (d2 + e2),
    )


@formula
def _lognormal(y, eta, sigma):
    return gaussian(log(y), 1.0, eta, sigma)


@formula
def gaussian(y, m, eta, sigma):
    """-z^2 / 2 with z = sqrt(m) (y - eta) / sigma, and derivatives in eta and in sigma."""
    i = 1.0 / sigma
    r, v = y - eta, m * i * i
    l1 = v * r
    return (-0.5 * l1 * r, l1, -v + 0.0 * r, 0.0 * r), (l1 * r * i, -2.0 * l1 * i, 2.0 * v * i)


@formula
def student(y, m, eta, sigma, nu):
    """-(nu + 1) / 2 log(1 + z^2 / nu) with z as in :func:`gaussian`; also derivatives in nu.

    With the weight w = (nu + 1) m / sigma^2 / (nu + z^2) that a normal residual of the same slope
    had, and s = z^2 / (nu + z^2).
    """
    i = 1.0 / sigma
    r, v, n = y - eta, m * i * i, nu + 1.0
    t = v * r * r
    d = 1.0 / (nu + t)
    s, w = t * d, n * v * d
    l1, spread = w * r, log1p(t / nu)
    l3 = 2.0 * l1 * v * d * (4.0 * s - 3.0)
    of_eta = (-0.5 * n * spread, l1, w * (2.0 * s - 1.0), l3)
    of_sigma = (n * s * i, -2.0 * l1 * i * (1.0 - s), 2.0 * w * i * (1.0 - s) * (1.0 - 4.0 * s))
    u = v * d * d
    of_nu = (
        0.5 * (n * s / nu - spread),
        u * r * (t - 1.0),
        u * (t - nu - n - 2.0 * n * (2.0 * s - 1.0)),
    )
    return of_eta, of_sigma, of_nu


@formula
def student_shape(q, nu):
    """What depends on nu alone in the log density of q numbers of one t, and its derivative.

    log(Gamma((nu + q) / 2) / Gamma(nu / 2)) - q / 2 log(nu / 2): nothing for a normal distribution.
    """
    rising, slope = log_rising(0.5 * q, 0.5 * nu)
    return rising, 0.5 * slope


@formula
def ordinal(link, eta, below, above):
    """log(F(a) - F(b)) with a = above - eta and b = below - eta.

    Logistic: F(a) - F(b) = F(a) (1 - F(b)) (1 - e^(b - a)). Gumbel: log(e^a - e^b) = a', and
    F(a) - F(b) = F(a') (1 - F(b)). Normal: F(x) (1 - F(w) / F(x)) in the lower tail, mirrored in
    the upper one.
    """
    first, last = below == -np.inf, above == np.inf
    between = above - below < np.inf
    gap = choose(between, above - below, 1.0)
    a = choose(last, below + 1.0, above) - eta
    b = choose(first, above - 1.0, below) - eta
    if link == PROBIT:
        upper = last | (between & (a + b > 0.0))
        sign = choose(upper, 1.0, -1.0)
        (x0, x1, x2, x3), _ = latent(link, choose(upper, -b, a))
        (w0, w1, w2, w3), _ = latent(link, choose(upper, -a, b))
        # log(1 - e^d), d = log F(w) - log F(x), has the derivatives -r, -r (1 + r), ...
        apart = choose(between, x0 - w0, 1.0)
        r = choose(between, 1.0 / expm1(apart), 0.0)
        l0 = x0 + choose(between, log_one_minus_exp(apart), 0.0)
        m1, m2, m3 = _chain(
            -r, -r * (1.0 + r), -r * (1.0 + r) * (1.0 + 2.0 * r), w1 - x1, w2 - x2, w3 - x3
        )
        of_eta = (l0, sign * (x1 + m1), x2 + m2, sign * (x3 + m3))
    else:
        shift = choose(between, log_one_minus_exp(gap), 0.0)
        into = 1.0 if link == CLOGLOG else 0.0
        (f0, f1, f2, f3), _ = latent(link, a + into * shift)
        _, (s0, s1, s2, s3) = latent(link, b)
        of_eta = (
            choose(last, 0.0, f0) + choose(first, 0.0, s0) + (1.0 - into) * shift,
            -choose(last, 0.0, f1) - choose(first, 0.0, s1),
            choose(last, 0.0, f2) + choose(first, 0.0, s2),
            -choose(last, 0.0, f3) - choose(first, 0.0, s3),
        )
    e0, e1, e2 = _threshold(link, b, of_eta)
    d0, d1, d2 = _threshold(link, a, of_eta)
    return (
        of_eta,
        (choose(first, 0.0, -e0), choose(first, 0.0, -e1), choose(first, 0.0, -e2)),
        (choose(last, 0.0, d0), choose(last, 0.0, d1), choose(last, 0.0, d2)),
    )


@formula
def _threshold(link, x, of_eta):
    """F'(x) / P and its derivatives in eta, where x = c - eta and log P is the first of of_eta."""
    f, f1, f2 = log_density(link, x)
    r, slope = exp(f - of_eta[0]), -f1 - of_eta[1]
    return r, r * slope, r * (slope * slope + f2 - of_eta[2])


@formula
def _zero_inflated(y, of_eta, d, z):
    """log(z + (1 - z) e^l) where y = 0, log(1 - z) + l elsewhere.

    With w the probability that a zero is one of the counts, w' = w (1 - w) l'.
    """
    l0, l1, l2, l3 = of_eta
    at_zero, more = y == 0.0, log1p(-z)
    # of the zeros of a huge mean nothing is left, however steep they are
    gone = at_zero & (l0 < -700.0)
    l1, l2, l3 = choose(gone, 0.0, l1), choose(gone, 0.0, l2), choose(gone, 0.0, l3)
    d = (choose(gone, 0.0, d[0]), choose(gone, 0.0, d[1]), choose(gone, 0.0, d[2]))
    p = exp(choose(at_zero, l0, 0.0))
    total = z + (1.0 - z) * p
    w = choose(at_zero, (1.0 - z) * p / total, 1.0)
    v = w * choose(at_zero, z / total, 0.0)
    t = v * (1.0 - 2.0 * w)
    i = 1.0 / total
    dw = choose(at_zero, -p * i * i, 0.0)  # dw / dz
    u = dw * (1.0 - 2.0 * w)
    new = (
        choose(at_zero, log(total), more + l0),
        w * l1,
        w * l2 + v * l1 * l1,
        w * l3 + 3.0 * v * l1 * l2 + t * l1 * l1 * l1,
    )
    d0 = (
        w * d[0],
        w * d[1] + v * d[0] * l1,
        w * d[2] + v * (d[0] * l2 + 2.0 * l1 * d[1]) + t * d[0] * l1 * l1,
    )
    d1 = (
        choose(at_zero, (1.0 - p) * i, -1.0 / (1.0 - z)),
        dw * l1,
        dw * l2 + u * l1 * l1,
    )
    return new, d0, d1


@formula
def base(code, p0):
    """The part of the log density that depends on phi alone, and its derivative in p0."""
    kind = code // 10
    if kind == GAMMA:
        g = log_gamma(p0)
        log_a = log(p0)
        return p0 * log_a - p0 - g[0], log_a - g[1]
    if kind == BETA:
        g = log_gamma(p0)
        return g[0] + 2.0 * log(p0), g[1] + 2.0 / p0
    if kind in (LOGNORMAL, GAUSSIAN, STUDENT):
        return -log(p0) - _LOG_SQRT_2PI, -1.0 / p0
    return 0.0, 0.0


def constant(kind: int, y: Any, m: Any) -> np.ndarray:
    """The part of the log density that depends on y and trials alone.

    Parameters
    ----------
    kind : int
    y, m : (...,) arrays
    """
    from scipy.special import gammaln

    y = np.asarray(y, dtype=float)
    m = np.asarray(m, dtype=float)
    if kind == BINOMIAL:
        return gammaln(m + 1.0) - gammaln(y + 1.0) - gammaln(m - y + 1.0)
    if kind in (GAMMA, LOGNORMAL):
        return -np.log(y)
    if kind == BETA:
        return -np.log(y) - np.log1p(-y)
    if kind == ORDINAL:
        return np.zeros(y.shape)
    if kind in (GAUSSIAN, STUDENT):
        return 0.5 * np.log(m) + np.zeros(y.shape)
    return -gammaln(y + 1.0)
