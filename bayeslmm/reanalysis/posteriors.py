"""The posterior of one effect under one prior: exact conditionals, averaged."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import ndtr

from bayeslmm.errors import PriorError
from bayeslmm.parts.prior import Prior
from bayeslmm.reanalysis.integrated import EffectLikelihood, log_normal
from bayeslmm.reanalysis.theta import smooth_weights

__all__ = [
    "EffectPosterior",
    "grid_of",
    "integrated",
    "log_prior_density",
    "normal_parameters",
    "posterior_under",
    "prior_tails",
]

_GRID = 801
_BLOCK = 400


def normal_parameters(prior: Prior) -> tuple[float, float] | None:
    """(mean, sd) of a normal prior, sd infinite for a flat one; None for another family."""
    if prior.name == "Flat":
        return 0.0, np.inf
    if prior.name != "Normal":
        return None
    given = prior.parameters
    sd = given["tau"] ** -0.5 if "tau" in given else given.get("sigma", 1.0)
    return float(given.get("mu", 0.0)), float(sd)


def log_prior_density(prior: Prior, e: np.ndarray) -> np.ndarray:
    """Log density of a prior on an effect; a flat one has density 1.

    Raises
    ------
    PriorError
        If the family is not known here.
    """
    if prior.name == "Flat":
        return np.zeros(np.shape(e))
    return _distribution(prior).logpdf(e)


def prior_quantiles(prior: Prior) -> np.ndarray:
    """199 quantiles of a prior on an effect, evenly spread.

    Raises
    ------
    PriorError
        If the family is not known here.
    """
    return _distribution(prior).ppf(np.linspace(0.005, 0.995, 199))


def prior_tails(prior: Prior) -> tuple[float, float]:
    """Values with a probability of 1e-9 beyond them on either side; infinite of a flat prior."""
    if not prior.is_proper:
        return -np.inf, np.inf
    low, high = _distribution(prior).ppf([1e-9, 1 - 1e-9])
    return float(low), float(high)


def _distribution(prior: Prior):
    """The scipy distribution of a prior, in PyMC's parameters."""
    from scipy import stats

    p = prior.parameters
    mu = p.get("mu", 0.0)
    sigma = p["tau"] ** -0.5 if "tau" in p else p.get("sigma", 1.0)
    if prior.name == "Normal":
        return stats.norm(mu, sigma)
    if prior.name == "StudentT":
        return stats.t(p["nu"], mu, p["lam"] ** -0.5 if "lam" in p else sigma)
    if prior.name == "Cauchy":
        return stats.cauchy(p["alpha"], p["beta"])
    if prior.name == "Laplace":
        return stats.laplace(mu, p["b"])
    if prior.name == "Logistic":
        return stats.logistic(mu, p.get("s", 1.0))
    if prior.name == "SkewNormal":
        return stats.skewnorm(p.get("alpha", 1.0), mu, sigma)
    if prior.name == "Uniform":
        return stats.uniform(p.get("lower", 0.0), p.get("upper", 1.0) - p.get("lower", 0.0))
    if prior.name == "TruncatedNormal":
        low, high = p.get("lower", -np.inf), p.get("upper", np.inf)
        return stats.truncnorm((low - mu) / sigma, (high - mu) / sigma, mu, sigma)
    raise PriorError(
        f"A prior on an effect is Normal, StudentT, Cauchy, Laplace, Logistic, SkewNormal, "
        f"Uniform, TruncatedNormal or Flat, not {prior!r}."
    )


@dataclass(frozen=True)
class EffectPosterior:
    """Posterior of e: a mixture of normals, or a density on a grid where the prior is not normal.

    Attributes
    ----------
    prior : Prior
    likelihood : EffectLikelihood
    log_weights : (n,) array
        Of the components under this prior, Pareto-smoothed and normalized.
    k_hat : float
        Of these weights; -inf where nothing had to be reweighted.
    log_integrals : (n,) array
        Log of the integral of each component against the prior.
    mean_i, sd_i : (n,) arrays
        Conditional normals (a normal or flat prior).
    grid, grid_density : arrays or None
        Any other prior.
    """

    prior: Prior
    likelihood: EffectLikelihood
    log_weights: np.ndarray
    k_hat: float
    log_integrals: np.ndarray
    mean_i: np.ndarray
    sd_i: np.ndarray
    grid: np.ndarray | None = None
    grid_density: np.ndarray | None = None

    @cached_property
    def weights(self) -> np.ndarray:
        """Normalized weights of the components."""
        return np.exp(self.log_weights)

    @property
    def effective_draws(self) -> float:
        """Independent draws of theta behind the averages."""
        return float(1.0 / (self.weights**2).sum() / self.likelihood.inefficiency)

    @cached_property
    def mean(self) -> float:
        """Posterior mean."""
        if self.grid is not None and self.grid_density is not None:
            return float(np.trapezoid(self.grid * self.grid_density, self.grid))
        return float(self.weights @ self.mean_i)

    @cached_property
    def sd(self) -> float:
        """Posterior standard deviation."""
        if self.grid is not None and self.grid_density is not None:
            gap = (self.grid - self.mean) ** 2
            return float(np.sqrt(np.trapezoid(gap * self.grid_density, self.grid)))
        return float(np.sqrt(self.weights @ (self.sd_i**2 + (self.mean_i - self.mean) ** 2)))

    def cdf(self, x: float) -> float:
        """P(e < x | y)."""
        if self.grid is not None:
            return float(np.interp(x, self.grid, self._cumulative, left=0.0, right=1.0))
        return float(self.weights @ ndtr((x - self.mean_i) / self.sd_i))

    def survival(self, x: float) -> float:
        """P(e > x | y), without cancellation."""
        if self.grid is not None:
            return float(np.interp(x, self.grid, self._cumulative_above, left=1.0, right=0.0))
        return float(self.weights @ ndtr((self.mean_i - x) / self.sd_i))

    def density(self, x: np.ndarray) -> np.ndarray:
        """p(e | y) at x."""
        x = np.asarray(x, dtype=float)
        if self.grid is not None:
            heights = np.asarray(self.grid_density)
            return np.interp(x, self.grid, heights, left=0.0, right=0.0)
        out = np.empty(x.shape)
        for i in np.ndindex(x.shape):
            log_terms = log_normal(x[i], self.mean_i, self.sd_i**2)
            out[i] = self.weights @ np.exp(log_terms)
        return out

    def quantile(self, probability: float) -> float:
        """The value below which e lies with this probability."""
        if self.grid is not None:
            return float(np.interp(probability, self._cumulative, self.grid))
        from scipy.optimize import brentq

        low, high = self.mean - 8 * self.sd, self.mean + 8 * self.sd
        while self.cdf(low) > probability:
            low -= 8 * self.sd
        while self.survival(high) > 1 - probability:
            high += 8 * self.sd
        return float(brentq(lambda x: self.cdf(x) - probability, low, high, xtol=1e-9 * self.sd))

    def interval(self, level: float) -> tuple[float, float]:
        """Equal-tailed interval."""
        tail = (1 - level) / 2
        return self.quantile(tail), self.quantile(1 - tail)

    def log_evidence_ratio(self) -> tuple[float, float]:
        """log p(y | this prior) - log p(y | base prior), and its Monte Carlo error."""
        base = self.likelihood.log_weights
        raw = self.likelihood.flat_log_weights + self.log_integrals
        total = np.logaddexp.reduce(raw)
        gap = np.exp(raw - total) - np.exp(base)
        error = np.sqrt((gap**2).sum() * self.likelihood.inefficiency)
        return float(total - np.logaddexp.reduce(base)), float(error)

    def log_bayes_factor(self, value: float = 0.0) -> tuple[float, float]:
        """log p(y | prior) - log p(y | e = value) and its Monte Carlo standard error.

        Savage-Dickey (Dickey 1971, Ann. Math. Statist. 42(1)): the ratio of prior to posterior
        density at ``value``, the conditional density averaged over theta. The error is that of a
        ratio of two averages over the same draws.
        """
        flat = self.likelihood.flat_log_weights
        at_prior = flat + self.log_integrals
        at_null = flat + self.likelihood.at(value)
        top, bottom = np.logaddexp.reduce(at_prior), np.logaddexp.reduce(at_null)
        gap = np.exp(at_prior - top) - np.exp(at_null - bottom)
        error = (
            0.0 if self.likelihood.exact else np.sqrt((gap**2).sum() * self.likelihood.inefficiency)
        )
        return float(top - bottom), float(error)

    def null_k_hat(self, value: float = 0.0) -> float:
        """Pareto shape of the weights that move the draws to e = value."""
        if self.likelihood.exact:
            return -np.inf
        flat = self.likelihood.flat_log_weights
        return smooth_weights(flat + self.likelihood.at(value))[1]

    @cached_property
    def _cumulative(self) -> np.ndarray:
        return np.concatenate([[0.0], np.cumsum(self._steps())])

    @cached_property
    def _cumulative_above(self) -> np.ndarray:
        return np.concatenate([np.cumsum(self._steps()[::-1])[::-1], [0.0]])

    def _steps(self) -> np.ndarray:
        """Probability between neighboring points of the grid."""
        grid, heights = np.asarray(self.grid), np.asarray(self.grid_density)
        return 0.5 * np.diff(grid) * (heights[1:] + heights[:-1])


def posterior_under(likelihood: EffectLikelihood, prior: Prior) -> EffectPosterior:
    """Posterior of the effect under a prior, by reweighting the components.

    Parameters
    ----------
    likelihood : EffectLikelihood
    prior : Prior
        Normal, Flat, or a family of :func:`log_prior_density`.

    Raises
    ------
    PriorError
        If the family is not known, or the prior has no mass where the data put the effect.
    """
    normal = normal_parameters(prior)
    if normal is None or not likelihood.normal:
        return _on_grid(likelihood, prior)
    mean, sd = normal
    m, v = likelihood.mean, likelihood.variance
    if np.isfinite(sd):
        log_integrals = log_normal(m, mean, v + sd**2)
        share = sd**2 / (v + sd**2)
        mean_i, sd_i = mean + share * (m - mean), np.sqrt(share * v)
    else:
        log_integrals, mean_i, sd_i = np.zeros(len(m)), m, np.sqrt(v)
    log_weights, k_hat = _reweighted(likelihood, log_integrals)
    return EffectPosterior(prior, likelihood, log_weights, k_hat, log_integrals, mean_i, sd_i)


def _reweighted(likelihood: EffectLikelihood, log_integrals) -> tuple[np.ndarray, float]:
    raw = likelihood.flat_log_weights + log_integrals
    if likelihood.exact:
        return raw - np.logaddexp.reduce(raw), -np.inf
    if np.ptp(raw - likelihood.log_weights) < 1e-9:  # the base prior itself
        return likelihood.log_weights, likelihood.k_hat
    return smooth_weights(raw)


def _on_grid(likelihood: EffectLikelihood, prior: Prior) -> EffectPosterior:
    grid = grid_of(likelihood, prior)
    log_integrals, log_density = integrated(likelihood, prior, grid, likelihood.flat_log_weights)
    top = log_density.max()
    if not np.isfinite(top):
        raise PriorError(f"{prior!r} leaves no probability where the data put the effect.")
    density = np.exp(log_density - top)
    density /= np.trapezoid(density, grid)
    log_weights, k_hat = _reweighted(likelihood, log_integrals)
    m, v = likelihood.mean, likelihood.variance
    return EffectPosterior(
        prior, likelihood, log_weights, k_hat, log_integrals, m, np.sqrt(v), grid, density
    )


def integrated(
    likelihood: EffectLikelihood, prior: Prior, grid: np.ndarray, log_weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Components against a prior, and all of them together.

    Parameters
    ----------
    grid : (m,) array
    log_weights : (n,) array

    Returns
    -------
    log_integrals : (n,) array
    log_density : (m,) array
        Of the weighted sum of the components times the prior.
    """
    log_p = log_prior_density(prior, grid)
    edges = np.concatenate([[0.0], np.diff(grid)]), np.concatenate([np.diff(grid), [0.0]])
    log_steps = np.log(0.5 * (edges[0] + edges[1]))
    log_integrals = np.empty(len(log_weights))
    log_density = np.full(len(grid), -np.inf)
    for start in range(0, len(log_integrals), _BLOCK):
        rows = slice(start, start + _BLOCK)
        terms = likelihood.on(grid, rows) + (log_p + log_steps)
        top = terms.max(axis=1, keepdims=True)
        top = np.where(np.isfinite(top), top, 0.0)
        terms = np.exp(terms - top)
        with np.errstate(divide="ignore"):
            log_integrals[rows] = np.log(terms.sum(axis=1)) + top[:, 0]
            raised = log_weights[rows] + top[:, 0]
            highest = raised.max()
            block = np.log(np.exp(raised - highest) @ terms) + highest - log_steps
        log_density = np.logaddexp(log_density, block)
    return log_integrals, log_density


def grid_of(likelihood: EffectLikelihood, prior: Prior) -> np.ndarray:
    """Points that resolve both the likelihood and the prior, within the prior's support.

    Even steps where each has its bulk, and steps that grow with the distance out to where neither
    matters: a t likelihood with few degrees of freedom reaches far.
    """
    low, high = likelihood.reach(prior)
    center, unit = float(np.median(likelihood.mean)), float(np.median(likelihood.variance)) ** 0.5
    parts = [center + unit * np.linspace(-8, 8, _GRID), _growing(center, unit, low, high)]
    left, right = -np.inf, np.inf
    if prior.is_proper:
        distribution = _distribution(prior)
        quartiles = distribution.ppf([0.25, 0.5, 0.75])
        tails = distribution.ppf([1e-9, 1 - 1e-9])
        parts += [_growing(quartiles[1], quartiles[2] - quartiles[0], *tails), quartiles]
        left, right = distribution.support()
    points = np.unique(np.concatenate(parts))
    if not likelihood.normal:  # which is known only there
        left, right = max(left, low), min(right, high)
    inside = points[(points >= left) & (points <= right) & np.isfinite(points)]
    bounds = [edge for edge in (left, right) if np.isfinite(edge)]
    return np.unique(np.concatenate([inside, bounds]))


def _growing(center: float, unit: float, low: float, high: float) -> np.ndarray:
    """Points from low to high, dense around the center, their steps growing with the distance."""
    first, last = np.arcsinh([(low - center) / unit * 4, (high - center) / unit * 4])
    return center + 0.25 * unit * np.sinh(np.linspace(first, last, _GRID))
