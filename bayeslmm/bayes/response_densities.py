"""Log densities of responses that are not Gaussian, as PyTensor expressions.

Each function takes the responses y, the linear predictor eta, the name of the link, the family's
own parameters and the trials; all but the name broadcast. They are written in logarithms of
probabilities and of means, so that they and their gradients stay finite far out in a tail: in both
branches of a ``switch`` arguments are such that neither is nan.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytensor.tensor as pt

__all__ = ["RESPONSE_DENSITIES"]

_LARGEST = 700.0  # e^700 is a number
_TINY = -37.0  # 1 - e^-z is z, z = e^-37, to the last bit
_STIRLING = 20.0  # the series below is exact to the last bit from here on


def _logistic(x):
    return -pt.softplus(-x), -pt.softplus(x)


def _normal(x):
    return _log_normal_cdf(x), _log_normal_cdf(-x)


def _log_normal_cdf(x):
    low = pt.lt(x, -1.0)
    z = pt.switch(low, x, -1.0) * np.sqrt(0.5)
    tail = pt.log(0.5 * pt.erfcx(-z)) - z**2
    return pt.switch(low, tail, pt.log1p(-0.5 * pt.erfc(pt.switch(low, 0.0, x) * np.sqrt(0.5))))


def _gumbel(x):
    z = pt.exp(pt.clip(x, _TINY, _LARGEST))
    return pt.switch(pt.lt(x, _TINY), x, pt.log1mexp(-z)), -pt.exp(pt.minimum(x, _LARGEST))


def _identity(x):
    return pt.log(x), pt.log1p(-x)


def _log(x):
    return x, pt.log1mexp(x)


#: log p and log(1 - p) of the linear predictor.
_LOG_BOTH: dict[str, Callable] = {
    "logit": _logistic,
    "probit": _normal,
    "cloglog": _gumbel,
    "identity": _identity,
    "log": _log,
}


def _log_mean(link: str, eta):
    """log mu, and whether eta is one of a mean at all (None where any is)."""
    if link == "log":
        return eta, None
    inside = pt.gt(eta, 0.0)
    log = pt.log(pt.switch(inside, eta, 1.0))
    return (log if link == "identity" else -log), inside


def _only(inside, value):
    return value if inside is None else pt.switch(inside, value, -np.inf)


def _stirling(x):
    """log Gamma(x) less (x - 1/2) log x - x + log(2 pi) / 2 (Abramowitz & Stegun 6.1.40)."""
    r = 1.0 / x**2
    return (1.0 / 12.0 - r * (1.0 / 360.0 - r * (1.0 / 1260.0 - r / 1680.0))) / x


def _binomial(y, eta, link: str, phi, trials):
    inside = None
    if link in ("identity", "log"):
        inside = pt.lt(eta, 0.0) if link == "log" else pt.gt(eta, 0.0) & pt.lt(eta, 1.0)
        eta = pt.switch(inside, eta, -1.0 if link == "log" else 0.5)
    success, failure = _LOG_BOTH[link](eta)
    ways = pt.gammaln(trials + 1.0) - pt.gammaln(y + 1.0) - pt.gammaln(trials - y + 1.0)
    return _only(inside, ways + y * success + (trials - y) * failure)


def _poisson(y, eta, link: str, phi, trials):
    u, inside = _log_mean(link, eta)
    return _only(inside, y * u - pt.exp(pt.minimum(u, _LARGEST)) - pt.gammaln(y + 1.0))


def _negative_binomial(y, eta, link: str, phi, trials):
    u, inside = _log_mean(link, eta)
    alpha = phi[0]
    # log Gamma(y + alpha) / Gamma(alpha) - y log alpha, which tends to 0 for large alpha
    large = pt.maximum(alpha, _STIRLING)
    series = (large + y - 0.5) * pt.log1p(y / large) - y + _stirling(large + y) - _stirling(large)
    direct = pt.gammaln(y + alpha) - pt.gammaln(alpha) - y * pt.log(alpha)
    ways = pt.switch(pt.gt(alpha, _STIRLING), series, direct) - pt.gammaln(y + 1.0)
    return _only(inside, ways + y * u - (y + alpha) * pt.softplus(u - pt.log(alpha)))


def _gamma(y, eta, link: str, phi, trials):
    u, inside = _log_mean(link, eta)
    alpha, r = phi[0], pt.log(y) - u
    large = pt.maximum(alpha, _STIRLING)
    series = 0.5 * pt.log(large / (2.0 * np.pi)) - _stirling(large)
    direct = alpha * pt.log(alpha) - alpha - pt.gammaln(alpha)
    constant = pt.switch(pt.gt(alpha, _STIRLING), series, direct)
    return _only(inside, constant + alpha * (r - pt.expm1(pt.minimum(r, _LARGEST))) - pt.log(y))


def _beta(y, eta, link: str, phi, trials):
    kappa = phi[0]
    log_a, log_b = (of + pt.log(kappa) for of in _LOG_BOTH[link](eta))
    a, b = pt.exp(log_a), pt.exp(log_b)
    # Gamma(a) = Gamma(a + 1) / a, finite where a is too small to be a number
    constant = pt.gammaln(kappa) + log_a + log_b - pt.gammaln(a + 1.0) - pt.gammaln(b + 1.0)
    return constant + (a - 1.0) * pt.log(y) + (b - 1.0) * pt.log1p(-y)


def _lognormal(y, eta, link: str, phi, trials):
    z = (pt.log(y) - eta) / phi[0]
    return -0.5 * z**2 - pt.log(phi[0]) - 0.5 * np.log(2.0 * np.pi) - pt.log(y)


def _ordinal(y, eta, link: str, phi, trials):
    thresholds, k = pt.concatenate([c.flatten() for c in phi]), pt.cast(y, "int64")
    last = len(phi)
    first, final = pt.eq(k, 0), pt.eq(k, last)
    above = thresholds[pt.minimum(k, last - 1)] - eta
    below = thresholds[pt.maximum(k - 1, 0)] - eta
    inner = _log_between(
        link, pt.switch(first, above - 1.0, below), pt.switch(final, below + 1.0, above)
    )
    both = _LOG_BOTH[link]
    return pt.switch(first, both(above)[0], pt.switch(final, both(below)[1], inner))


def _log_between(link: str, a, b):
    """log(F(b) - F(a)) of a latent distribution function, a < b, without cancellation."""
    if link == "logit":
        return _logistic(b)[0] + _logistic(a)[1] + pt.log1mexp(a - b)
    if link == "cloglog":  # 1 - F(a) = exp(-e^a), and what is left of it is F at log(e^b - e^a)
        return _gumbel(a)[1] + _gumbel(b + pt.log1mexp(a - b))[0]
    upper = pt.gt(a + b, 0.0)  # from the nearer tail
    a, b = pt.switch(upper, -b, a), pt.switch(upper, -a, b)
    larger = _log_normal_cdf(b)
    return larger + pt.log1mexp(_log_normal_cdf(a) - larger)


def _zero_inflated(density: Callable) -> Callable:
    def inflated(y, eta, link: str, phi, trials):
        *own, zi = phi
        regular = pt.log1p(-zi) + density(y, eta, link, own, trials)
        return pt.switch(pt.eq(y, 0.0), pt.logaddexp(pt.log(zi), regular), regular)

    return inflated


#: Log density by family, of (y, eta, link, phi, trials).
RESPONSE_DENSITIES: dict[str, Callable[..., object]] = {
    "bernoulli": _binomial,
    "binomial": _binomial,
    "poisson": _poisson,
    "negativebinomial": _negative_binomial,
    "gamma": _gamma,
    "beta": _beta,
    "lognormal": _lognormal,
    "ordinal": _ordinal,
    "zero_inflated_poisson": _zero_inflated(_poisson),
    "zero_inflated_negativebinomial": _zero_inflated(_negative_binomial),
}
