"""Log densities of every family with derivatives, for one row or an array of rows.

A family is a number of :data:`KINDS` and a link another, together a code. What depends on neither
the linear predictor nor the parameters is :func:`constant`, apart from everything else because it
is computed once.
"""

from __future__ import annotations

import numpy as np

from bayeslmm.parts.families.latent import (
    IDENTITY,
    LOG,
    inside,
    log_both,
    logarithm,
    logistic,
)
from bayeslmm.parts.families.special import choose, exp, formula

__all__ = ["BINOMIAL", "POISSON", "code_of", "constant", "phi_slopes", "slopes"]

#: Numbers of families in codes.
BINOMIAL, POISSON, NEGATIVE_BINOMIAL, GAMMA, BETA, LOGNORMAL, ORDINAL = range(7)
ZERO_INFLATED_POISSON, ZERO_INFLATED_NEGATIVE_BINOMIAL = 7, 8


def code_of(kind: int, link: int) -> int:
    """The code of a family and a link."""
    return 10 * kind + link


@formula
def _chain(k1, k2, k3, u1, u2, u3):
    """Derivatives of k(u(eta)) from those of k and u (Faa di Bruno)."""
    return k1 * u1, k2 * u1 * u1 + k1 * u2, k3 * u1 * u1 * u1 + 3.0 * k2 * u1 * u2 + k1 * u3


@formula
def _binomial(link, y, m, eta):
    """Successes y of m trials: y log p + (m - y) log(1 - p)."""
    f, s = log_both(link, eta)
    n = m - y
    l0 = choose(inside(link, eta), y * f[0] + n * s[0], -np.inf)
    return l0, y * f[1] + n * s[1], y * f[2] + n * s[2], y * f[3] + n * s[3]


@formula
def binomial_logit(y, m, eta):
    """The same with the canonical link: y eta - m log(1 + e^eta), without cancellation."""
    f, s = logistic(eta)
    n = m - y
    return y * f[0] + n * s[0], y * f[1] + n * s[1], m * f[2], m * f[3]


@formula
def _log_mean(link, eta):
    """log mu of families of positive means, with three derivatives in eta."""
    if link == LOG:
        return eta, 1.0 + 0.0 * eta, 0.0 * eta, 0.0 * eta
    f, f1, f2, f3 = logarithm(eta)
    if link == IDENTITY:
        return f, f1, f2, f3
    return -f, -f1, -f2, -f3


@formula
def poisson_log(y, eta):
    """Counts with mean e^eta: y eta - e^eta."""
    mu = exp(eta)
    return y * eta - mu, y - mu, -mu, -mu


@formula
def _in_log_mean(kind, y, log_mu, p0):
    """Log density and its derivatives in the log of the mean."""
    return poisson_log(y, log_mu)


@formula
def slopes(code, y, m, eta, p0, p1):
    """Log density and its first three derivatives in eta, without :func:`constant`.

    Parameters
    ----------
    code : int
    y, m : float or array
        Response; trials (1 where there are none).
    eta : float or array
    p0, p1 : float or array
        Parameters beside the linear predictor; of ordinal responses the thresholds below and
        above the category, infinite at the ends.
    """
    kind, link = code // 10, code % 10
    if kind == BINOMIAL:
        return _binomial(link, y, m, eta)
    u, u1, u2, u3 = _log_mean(link, eta)
    l0, k1, k2, k3 = _in_log_mean(kind, y, u, p0)
    l1, l2, l3 = _chain(k1, k2, k3, u1, u2, u3)
    if link != LOG:
        l0 = choose(eta > 0.0, l0, -np.inf)
    return l0, l1, l2, l3


@formula
def phi_slopes(code, y, m, eta, p0, p1):
    """Derivatives in p0 and p1 of the log density and its first two derivatives in eta."""
    zero = 0.0 * eta
    return (zero, zero, zero), (zero, zero, zero)


def constant(kind: int, y: np.ndarray, m: np.ndarray | float) -> np.ndarray:
    """The part of the log density that depends on y and trials alone.

    Parameters
    ----------
    kind : int
    y, m : (...,) arrays
    """
    from scipy.special import gammaln

    y = np.asarray(y, dtype=float)
    if kind == BINOMIAL:
        return gammaln(m + 1.0) - gammaln(y + 1.0) - gammaln(m - y + 1.0)
    if kind == POISSON:
        return -gammaln(y + 1.0)
    return np.zeros(y.shape)
