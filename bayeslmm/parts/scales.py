"""Priors on standard deviations as numbers a compiled density takes.

Every family is a code, three numbers and a constant. The constrained standard deviation is
``s = lower + exp(x)``, or ``lower + (upper - lower) / (1 + exp(-x))`` where the prior ends at an
upper bound, so that the sampler never meets a wall; the Jacobian of that map is part of the
density. A number on the whole line (``lower`` minus infinity) is its own coordinate. Where NUTS
meets a standard deviation that may be zero it is ``|unit sinh(x)|``, see
:mod:`bayeslmm.bayes.signed`. Parametrizations are PyMC's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import erfc, lgamma, log, pi, sqrt
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from bayeslmm.parts.prior import Prior

__all__ = [
    "LINE_FAMILIES",
    "SCALE_FAMILIES",
    "Scales",
    "center_and_spread",
    "draw_scales",
    "even_priors",
    "fixed_scales",
    "on_coefficients",
    "scales",
    "signed_scales",
    "standardized",
    "supported_scale",
]

from bayeslmm.compiling import Doubles, Integers, Matrix, kernel
from bayeslmm.errors import PriorError

_LOG_2 = log(2.0)
_SQRT_HALF, _INVERSE_ROOT_2PI = sqrt(0.5), 1.0 / sqrt(2.0 * pi)
_CONSTANT, _NORMAL, _STUDENT, _GAMMA, _INVERSE_GAMMA, _LOG_NORMAL, _WEIBULL, _FIXED = range(8)
_LOGISTIC, _GUMBEL, _CENTERED_STUDENT, _BETA, _LAPLACE, _SKEW_NORMAL = range(8, 14)


class Scales(NamedTuple):
    """Priors of m scalars: standard deviations, and what else has a prior of its own.

    Attributes
    ----------
    code : (m,) int array
        Family.
    parameters : (m, 3) array
        Its numbers; see :func:`_log_prior`.
    constant : (m,) array
        Log of the normalizing constant.
    lower, upper : (m,) arrays
        Support; ``upper`` may be infinite.
    unit : (m,) array
        Positive where x stands for s = unit sinh(x), of either sign, with half the prior's density
        on each side; zero elsewhere.
    """

    code: Integers
    parameters: Matrix
    constant: Doubles
    lower: Doubles
    upper: Doubles
    unit: Doubles


def _sigma(p, default=1.0) -> float:
    """A scale given as sigma or as the precision tau (or lam)."""
    for key in ("tau", "lam"):
        if key in p:
            return 1.0 / sqrt(p[key])
    return p.get("sigma", default)


def _half_normal(p):
    sigma = _sigma(p)
    return _NORMAL, (0.0, sigma, 0.0), 0.5 * log(2 / pi) - log(sigma), 0.0, np.inf


def _student(nu, sigma):
    constant = log(2) + lgamma((nu + 1) / 2) - lgamma(nu / 2) - 0.5 * log(nu * pi) - log(sigma)
    return _STUDENT, (nu, sigma, 0.0), constant, 0.0, np.inf


def _gamma(alpha, beta):
    return _GAMMA, (alpha, beta, 0.0), alpha * log(beta) - lgamma(alpha), 0.0, np.inf


def _gamma_prior(p):
    if "mu" in p:
        return _gamma((p["mu"] / p["sigma"]) ** 2, p["mu"] / p["sigma"] ** 2)
    return _gamma(p["alpha"], p["beta"])


def _inverse_gamma(p):
    if "mu" in p:
        mu2, sigma2 = p["mu"] ** 2, p["sigma"] ** 2
        alpha, beta = (2 * sigma2 + mu2) / sigma2, p["mu"] * (mu2 + sigma2) / sigma2
    else:
        alpha, beta = p["alpha"], p["beta"]
    return _INVERSE_GAMMA, (alpha, beta, 0.0), alpha * log(beta) - lgamma(alpha), 0.0, np.inf


def _log_normal(p):
    mu, sigma = p.get("mu", 0.0), _sigma(p)
    return _LOG_NORMAL, (mu, sigma, 0.0), -0.5 * log(2 * pi) - log(sigma), 0.0, np.inf


def _weibull(p):
    alpha, beta = p["alpha"], p["beta"]
    return _WEIBULL, (alpha, beta, 0.0), log(alpha) - alpha * log(beta), 0.0, np.inf


def _uniform(p):
    lower, upper = p.get("lower", 0.0), p.get("upper", 1.0)
    return _CONSTANT, (0.0, 0.0, 0.0), -log(upper - lower), lower, upper


def _fixed(p):
    # its coordinate is a standard normal that nothing depends on: the posterior stays exact
    return _FIXED, (p["value"], 0.0, 0.0), -0.5 * log(2 * pi), 0.0, np.inf


def _truncated_normal(p):
    from scipy.special import log_ndtr

    mu, sigma = p.get("mu", 0.0), _sigma(p)
    lower, upper = p.get("lower", -np.inf), p.get("upper", np.inf)
    # mass between the bounds from the tail that holds it, so that it never is 1 - 1
    low, high = log_ndtr((mu - lower) / sigma), log_ndtr((mu - upper) / sigma)
    if lower < mu:
        low, high = log_ndtr((upper - mu) / sigma), log_ndtr((lower - mu) / sigma)
    mass = low + np.log1p(-np.exp(high - low))
    constant = -0.5 * log(2 * pi) - log(sigma) - float(mass)
    return _NORMAL, (mu, sigma, 0.0), constant, lower, upper


#: Families of which the marginal density knows the numbers: name -> code, parameters, constant,
#: lower, upper.
SCALE_FAMILIES: dict[str, Callable] = {
    "HalfFlat": lambda p: (_CONSTANT, (0.0, 0.0, 0.0), 0.0, 0.0, np.inf),
    "HalfNormal": _half_normal,
    "HalfStudentT": lambda p: _student(p["nu"], _sigma(p)),
    "HalfCauchy": lambda p: _student(1.0, p["beta"]),
    "Exponential": lambda p: _gamma(1.0, 1.0 / p["scale"] if "scale" in p else p["lam"]),
    "Gamma": _gamma_prior,
    "InverseGamma": _inverse_gamma,
    "LogNormal": _log_normal,
    "Weibull": _weibull,
    "Uniform": _uniform,
    "TruncatedNormal": _truncated_normal,
    "Fixed": _fixed,
}


def supported_scale(prior: Prior) -> bool:
    """Whether the prior is one of :data:`SCALE_FAMILIES` on the positive numbers."""
    lowest = -np.inf if prior.name == "TruncatedNormal" else 0.0
    return prior.name in SCALE_FAMILIES and prior.parameters.get("lower", lowest) >= 0


def on_coefficients(prior: Prior) -> bool:
    """Whether the prior of a number that may lie anywhere is one of those known here."""
    return prior.name in SCALE_FAMILIES or prior.name in LINE_FAMILIES


def _beta(p):
    a, b = p.get("alpha"), p.get("beta")
    if a is None or b is None:
        mu = p["mu"]
        size = p["nu"] if "nu" in p else mu * (1.0 - mu) / p["sigma"] ** 2 - 1.0
        a, b = mu * size, (1.0 - mu) * size
    return _BETA, (a, b, 0.0), lgamma(a + b) - lgamma(a) - lgamma(b), 0.0, 1.0


def _line(code: int, constant: float, *parameters: float):
    """A prior on the whole line."""
    return code, (*parameters, 0.0, 0.0, 0.0)[:3], constant, -np.inf, np.inf


def _normal(p):
    sigma = _sigma(p)
    return _line(_NORMAL, -0.5 * log(2 * pi) - log(sigma), p.get("mu", 0.0), sigma)


def _centered_student(nu, mu, sigma):
    constant = lgamma((nu + 1) / 2) - lgamma(nu / 2) - 0.5 * log(nu * pi) - log(sigma)
    return _line(_CENTERED_STUDENT, constant, nu, sigma, mu)


def _skew_normal(p):
    sigma = _sigma(p)
    constant = 0.5 * log(2 / pi) - log(sigma)
    return _line(_SKEW_NORMAL, constant, p.get("mu", 0.0), sigma, p.get("alpha", 1.0))


def _logistic(p):
    s = p.get("s", 1.0)
    return _line(_LOGISTIC, -log(s), p.get("mu", 0.0), s)


#: Families on the whole line, and on the interval from 0 to 1.
LINE_FAMILIES: dict[str, Callable] = {
    "Flat": lambda p: _line(_CONSTANT, 0.0),
    "Normal": _normal,
    "StudentT": lambda p: _centered_student(p["nu"], p.get("mu", 0.0), _sigma(p)),
    "Cauchy": lambda p: _centered_student(1.0, p["alpha"], p["beta"]),
    "Laplace": lambda p: _line(_LAPLACE, -log(2 * p["b"]), p.get("mu", 0.0), p["b"]),
    "Logistic": _logistic,
    "SkewNormal": _skew_normal,
    "GumbelMin": lambda p: _line(_GUMBEL, -log(p["beta"]), p["mu"], p["beta"]),
    "Beta": _beta,
}


def scales(priors: Sequence[Prior]) -> Scales:
    """Numbers of a sequence of priors, each of :data:`SCALE_FAMILIES` or :data:`LINE_FAMILIES`."""
    known = SCALE_FAMILIES | LINE_FAMILIES
    rows = [known[prior.name](prior.parameters) for prior in priors]
    codes, parameters, constants, lower, upper = zip(*rows, strict=True) if rows else ((),) * 5
    return Scales(
        np.array(codes, dtype=np.int64),
        np.array(parameters, dtype=float).reshape(-1, 3),
        np.array(constants, dtype=float),
        np.array(lower, dtype=float),
        np.array(upper, dtype=float),
        np.zeros(len(rows)),
    )


def log_densities(prior: Prior, x: np.ndarray) -> np.ndarray:
    """Log density at each number of an array of any shape; 0 of a flat prior and a known value."""
    known = SCALE_FAMILIES | LINE_FAMILIES
    if prior.name not in known:
        raise PriorError(f"The density of {prior!r} is not known here.")
    code, (a, b, c), constant, lower, upper = known[prior.name](prior.parameters)
    x = np.asarray(x, dtype=float)
    if code == _FIXED:
        return np.zeros(x.shape)
    with np.errstate(all="ignore"):  # outside of the support
        if code < _LOGISTIC:
            values = _log_prior.plain(code, a, b, x)[0]
        elif code in (_LOGISTIC, _SKEW_NORMAL):  # their formulas ask on which side a number is
            values = np.vectorize(lambda s: _log_line_prior(code, a, b, c, s)[0], otypes=[float])(x)
        else:
            values = _log_line_prior.plain(code, a, b, c, x)[0]
    return np.where((x >= lower) & (x <= upper), values + constant, -np.inf)


def fixed_scales(sc: Scales) -> np.ndarray:
    """(m,) bool: known, so that the coordinate is a standard normal that nothing depends on."""
    return sc.code == _FIXED


def even_priors(sc: Scales) -> np.ndarray:
    """(m,) bool: the density goes on smoothly and symmetrically below zero."""
    even = (sc.code == _CONSTANT) | (sc.code == _STUDENT)
    even |= (sc.code == _NORMAL) & (sc.parameters[:, 0] == 0)
    return even & (sc.lower == 0) & np.isinf(sc.upper)


def center_and_spread(sc: Scales) -> tuple[np.ndarray, np.ndarray]:
    """About the medians (m,) of the priors, and what would be their sds if they were normal."""
    flat = (sc.code == _CONSTANT) & ~np.isfinite(sc.upper - sc.lower)
    proper = Scales(*(part[~flat] for part in sc))
    draws = draw_scales(proper, 1001, np.random.default_rng(1))
    low, middle, high = np.quantile(draws, (0.25, 0.5, 0.75), axis=0)
    center, spread = np.zeros(len(flat)), np.full(len(flat), np.inf)
    # a known value has no spread
    center[~flat], spread[~flat] = middle, np.maximum((high - low) / 1.349, 1e-6)
    return center, spread


def standardized(sc: Scales, center: np.ndarray, unit: np.ndarray) -> Scales:
    """Priors of (s - center) / unit where s may be any number.

    Parameters
    ----------
    center, unit : (m,) arrays
        0 and 1 where s is bounded.
    """
    parameters = sc.parameters.copy()
    for i, code in enumerate(sc.code):
        if code == _CENTERED_STUDENT:
            parameters[i, 1] /= unit[i]
            parameters[i, 2] = (parameters[i, 2] - center[i]) / unit[i]
        elif np.isinf(sc.lower[i]) and np.isinf(sc.upper[i]):
            parameters[i, 0] = (parameters[i, 0] - center[i]) / unit[i]
            parameters[i, 1] /= unit[i]
    return sc._replace(parameters=parameters, constant=sc.constant + np.log(unit))


def signed_scales(sc: Scales, unit: np.ndarray) -> Scales:
    """``sc`` with coordinates s = unit sinh(x) where ``unit`` (m,) is positive."""
    if np.any((unit > 0) & ~even_priors(sc)):
        raise ValueError("only an even prior goes on below zero")
    return sc._replace(constant=sc.constant - _LOG_2 * (unit > 0), unit=unit)


@kernel
def constrain(lower, upper, unit, x):
    """s, ds/dx, log ds/dx and its derivative."""
    if unit > 0.0:
        size = abs(x)
        log_cosh = size + np.log1p(np.exp(-2.0 * size)) - _LOG_2
        return unit * np.sinh(x), unit * np.cosh(x), np.log(unit) + log_cosh, np.tanh(x)
    if np.isinf(lower):
        if np.isinf(upper):
            return x, 1.0, 0.0, 0.0
        s = np.exp(x)
        return upper - s, -s, x, 1.0
    if np.isinf(upper):
        s = np.exp(x)
        return lower + s, s, x, 1.0
    e = np.exp(-abs(x))
    share = 1.0 / (1.0 + e) if x >= 0 else e / (1.0 + e)
    slope = (upper - lower) * e / ((1.0 + e) * (1.0 + e))
    log_slope = np.log(upper - lower) - abs(x) - 2.0 * np.log1p(e)
    return lower + (upper - lower) * share, slope, log_slope, -np.tanh(0.5 * x)  # 1 - 2 share


@kernel
def _log_ndtr(t):
    """log of the standard normal distribution function, and its derivative."""
    if t > -5.0:
        share = 0.5 * erfc(-t * _SQRT_HALF)
        return np.log(share), np.exp(-0.5 * t * t) * _INVERSE_ROOT_2PI / share
    # the continued fraction of Mills' ratio from its tail
    ratio = -t
    for i in range(60, 0, -1):
        ratio = -t + i / ratio
    return -0.5 * t * t + np.log(_INVERSE_ROOT_2PI) - np.log(ratio), ratio


@kernel
def _log_line_prior(code, a, b, c, s):
    """As :func:`_log_prior`, of the families on the line and on the unit interval."""
    if code == 8:  # logistic, mean a, scale b
        t = (s - a) / b
        e = np.exp(-abs(t))
        slope = (1.0 - e) / (1.0 + e)
        return -abs(t) - 2.0 * np.log1p(e), (-slope if t >= 0 else slope) / b
    if code == 9:  # Gumbel of minima, location a, scale b
        t = (s - a) / b
        e = np.exp(t)
        return t - e, (1.0 - e) / b
    if code == 10:  # Student t, a degrees of freedom, scale b, location c
        t = (s - c) / b
        return -0.5 * (a + 1.0) * np.log1p(t * t / a), -(a + 1.0) * t / (b * (a + t * t))
    if code == 11:  # beta
        return (a - 1.0) * np.log(s) + (b - 1.0) * np.log1p(-s), (a - 1.0) / s - (b - 1.0) / (1 - s)
    if code == 13:  # skew normal, location a, scale b, skewness c
        t = (s - a) / b
        log_tail, slope = _log_ndtr(c * t)
        return log_tail - 0.5 * t * t, (c * slope - t) / b
    t = (s - a) / b  # Laplace, location a, scale b
    return -abs(t), -np.sign(t) / b


@kernel
def _log_prior(code, a, b, s):
    """Log density less its constant, and its derivative in s."""
    if code == 1:  # normal, mean a, sd b
        gap = (s - a) / b
        return -0.5 * gap * gap, -gap / b
    if code == 2:  # Student t, a degrees of freedom, scale b
        t = s / b
        return -0.5 * (a + 1.0) * np.log1p(t * t / a), -(a + 1.0) * t / (b * (a + t * t))
    if code == 3:  # gamma, shape a, rate b
        return (a - 1.0) * np.log(s) - b * s, (a - 1.0) / s - b
    if code == 4:  # inverse gamma, shape a, scale b
        return -(a + 1.0) * np.log(s) - b / s, (b / s - a - 1.0) / s
    if code == 5:  # log-normal, mean a and sd b of log s
        gap = (np.log(s) - a) / b
        return -0.5 * gap * gap - np.log(s), -(gap / b + 1.0) / s
    if code == 6:  # Weibull, shape a, scale b
        t = (s / b) ** a
        return (a - 1.0) * np.log(s) - t, ((a - 1.0) - a * t) / s
    return 0.0, 0.0


@kernel
def scale_terms(sc, x):
    """Standard deviations at x (m,), log prior with Jacobians, its gradient, and ds/dx."""
    m = x.shape[0]
    sd, slope, gradient = np.empty(m), np.empty(m), np.empty(m)
    value = 0.0
    for i in range(m):
        if sc.code[i] == 7:  # a known value: x[i] is a standard normal of its own
            value += sc.constant[i] - 0.5 * x[i] * x[i]
            gradient[i], sd[i], slope[i] = -x[i], sc.parameters[i, 0], 0.0
            continue
        s, ds, log_ds, d_log_ds = constrain(sc.lower[i], sc.upper[i], sc.unit[i], x[i])
        code, a, b = sc.code[i], sc.parameters[i, 0], sc.parameters[i, 1]
        if code < 8:
            log_p, d_log_p = _log_prior(code, a, b, s)
        else:
            log_p, d_log_p = _log_line_prior(code, a, b, sc.parameters[i, 2], s)
        value += log_p + sc.constant[i] + log_ds
        gradient[i] = d_log_p * ds + d_log_ds
        sd[i], slope[i] = s, ds
    return value, gradient, sd, slope


def unconstrain(sc: Scales, sd: np.ndarray) -> np.ndarray:
    """x of given standard deviations, kept inside the support by a millionth of its width."""
    sd = np.asarray(sd, dtype=float)
    x = np.empty(len(sd))
    for i, s in enumerate(sd):
        low, high = sc.lower[i], sc.upper[i]
        if sc.unit[i] > 0:
            x[i] = np.arcsinh(s / sc.unit[i])
        elif sc.code[i] == _FIXED:
            x[i] = 0.0
        elif np.isinf(low) and np.isinf(high):
            x[i] = s
        elif np.isinf(low):
            x[i] = np.log(max(high - s, 1e-6 * max(abs(s), 1e-300)))
        elif np.isinf(high):
            x[i] = np.log(max(s - low, 1e-6 * max(abs(s), 1e-300)))
        else:
            share = np.clip((s - low) / (high - low), 1e-6, 1 - 1e-6)
            x[i] = np.log(share) - np.log1p(-share)
    return x


def draw_scales(sc: Scales, n: int, rng: np.random.Generator) -> np.ndarray:
    """(n, m) independent draws from the priors (none of which may be flat)."""
    out = np.empty((n, len(sc.code)))
    for i in range(len(sc.code)):
        out[:, i] = _draw(sc.code[i], sc.parameters[i], (sc.lower[i], sc.upper[i]), n, rng)
    return out


def _skew_draws(location, scale, skewness, n, rng) -> np.ndarray:
    delta = skewness / sqrt(1.0 + skewness**2)
    half, other = np.abs(rng.standard_normal(n)), rng.standard_normal(n)
    return location + scale * (delta * half + sqrt(1.0 - delta**2) * other)


def _draw(code, parameters, bounds, n, rng) -> np.ndarray:
    a, b, c = parameters
    if code == _FIXED:
        return np.full(n, a)
    if code == _CONSTANT:
        return rng.uniform(*bounds, n)
    if code == _NORMAL:
        from scipy import stats

        ends = ((bounds[0] - a) / b, (bounds[1] - a) / b)
        return stats.truncnorm.rvs(*ends, loc=a, scale=b, size=n, random_state=rng)
    draws = {
        _STUDENT: lambda: np.abs(b * rng.standard_t(a, n)),
        _GAMMA: lambda: rng.gamma(a, 1.0 / b, n),
        _INVERSE_GAMMA: lambda: b / rng.gamma(a, 1.0, n),
        _LOG_NORMAL: lambda: rng.lognormal(a, b, n),
        _WEIBULL: lambda: b * rng.weibull(a, n),
        _LOGISTIC: lambda: rng.logistic(a, b, n),
        _GUMBEL: lambda: a - rng.gumbel(0.0, b, n),  # of minima
        _CENTERED_STUDENT: lambda: c + b * rng.standard_t(a, n),
        _BETA: lambda: rng.beta(a, b, n),
        _LAPLACE: lambda: rng.laplace(a, b, n),
        _SKEW_NORMAL: lambda: _skew_draws(a, b, c, n, rng),
    }
    return draws[code]()
