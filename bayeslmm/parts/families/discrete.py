"""Successes of trials, and counts."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from bayeslmm.parts.families import formulas
from bayeslmm.parts.families.family import Family, first_where, not_a_count
from bayeslmm.parts.families.latent import log_both

__all__ = [
    "Bernoulli",
    "Binomial",
    "NegativeBinomial",
    "Poisson",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
]

#: numpy draws no Poisson numbers of larger means.
_LARGEST_MEAN = 1e18


class Binomial(Family):
    """Successes y of m trials: p = g^-1(eta) (McCullagh & Nelder 1989, chapter 4)."""

    kind = formulas.BINOMIAL
    links = ("logit", "probit", "cloglog", "identity", "log")

    concave = links

    def information(self, eta: Any, phi: Any = (), trials: Any = 1.0) -> np.ndarray:
        with np.errstate(all="ignore"):
            (_, up, *_), (_, down, *_) = log_both(self.link.number, np.asarray(eta, dtype=float))
            return -trials * up * down

    def variance(self, eta: Any, phi: Any = (), trials: Any = 1.0) -> np.ndarray:
        p = self.link.inverse(eta)
        return trials * p * (1.0 - p)

    def draw(
        self, rng: np.random.Generator, eta: Any, phi: Any = (), trials: Any = 1.0
    ) -> np.ndarray:
        trials = np.asarray(trials).astype(np.int64)
        return rng.binomial(trials, self.link.inverse(eta)).astype(float)

    def cdf(self, y: Any, eta: Any, phi: Any = (), trials: Any = 1.0) -> np.ndarray:
        from scipy.special import betaincc

        y, trials = np.floor(np.asarray(y, dtype=float)), np.asarray(trials, dtype=float)
        left = np.maximum(trials - y, 1.0)
        inside = betaincc(np.maximum(y, 0.0) + 1.0, left, self.link.inverse(eta))
        return np.where(y < 0.0, 0.0, np.where(y >= trials, 1.0, inside))

    def check(self, y, trials=None):
        return first_where(not_a_count(y), "is not a count of successes") or first_where(
            np.asarray(y) > (1.0 if trials is None else trials), "is more than there are trials"
        )

    def start(self, y: np.ndarray, trials: Any = 1.0) -> np.ndarray:
        return self.link.link((np.asarray(y) + 0.5) / (np.asarray(trials) + 1.0))


class Bernoulli(Binomial):
    """One trial."""

    def check(self, y, trials=None):
        y = np.asarray(y)
        return first_where((y != 0.0) & (y != 1.0), "is neither 0 nor 1")


class Poisson(Family):
    """Counts with variance mu (McCullagh & Nelder 1989, chapter 6)."""

    kind = formulas.POISSON
    links: ClassVar[tuple[str, ...]] = ("log", "identity")
    concave: ClassVar[tuple[str, ...]] = links

    def variance(self, eta: Any, phi: Any = (), trials: Any = 1.0) -> np.ndarray:
        return self.link.inverse(eta)

    def draw(self, rng, eta, phi=(), trials=1.0):
        return rng.poisson(np.minimum(self.link.inverse(eta), _LARGEST_MEAN)).astype(float)

    def cdf(self, y, eta, phi=(), trials=1.0):
        from scipy.special import gammaincc

        y = np.floor(np.asarray(y, dtype=float))
        at = gammaincc(np.maximum(y, 0.0) + 1.0, self.link.inverse(eta))
        return np.where(y < 0.0, 0.0, at)

    def check(self, y, trials=None):
        return first_where(not_a_count(y), "is not a count (0, 1, 2, ...)")

    def start(self, y, trials=1.0):
        return self.link.link(np.asarray(y) + 0.1)


class NegativeBinomial(Poisson):
    """Counts with variance mu + mu^2 / alpha, Poisson with gamma distributed means."""

    kind = formulas.NEGATIVE_BINOMIAL
    concave = ("log",)

    def variance(self, eta: Any, phi: Any = (), trials: Any = 1.0) -> np.ndarray:
        mu, alpha = self.link.inverse(eta), np.asarray(phi)[..., 0]
        return mu * (1.0 + mu / alpha)

    def draw(self, rng, eta, phi=(), trials=1.0):
        mu, alpha = np.broadcast_arrays(self.link.inverse(eta), np.asarray(phi)[..., 0])
        return rng.poisson(np.minimum(rng.gamma(alpha, mu / alpha), _LARGEST_MEAN)).astype(float)

    def cdf(self, y, eta, phi=(), trials=1.0):
        from scipy.special import betainc, expit

        alpha, y = np.asarray(phi)[..., 0], np.floor(np.asarray(y, dtype=float))
        p = expit(np.log(alpha) - np.log(self.link.inverse(eta)))
        return np.where(y < 0.0, 0.0, betainc(alpha, np.maximum(y, 0.0) + 1.0, p))


class ZeroInflatedPoisson(Poisson):
    """Zero with probability zi, a count otherwise (Lambert 1992, Technometrics 34, 1-14)."""

    kind = formulas.ZERO_INFLATED_POISSON
    links = ("log",)
    concave = ()
    counts: ClassVar[type[Poisson]] = Poisson

    def pair(self, y: Any, phi: np.ndarray) -> tuple[Any, Any]:
        return np.float64(1.0), phi[..., 0]

    def of_phi(self, y: Any, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return second[None]

    def _split(self, phi: Any) -> tuple[Poisson, np.ndarray, np.ndarray]:
        """The counts, their phi and zi."""
        phi = np.asarray(phi, dtype=float)
        return self.counts("", self.link, self.parameters[:-1]), phi[..., :-1], phi[..., -1]

    def information(self, eta: Any, phi: Any = (), trials: Any = 1.0) -> np.ndarray:
        counts, own, zi = self._split(phi)
        # the expectation of l'^2: of a count's, what zeros have of it exchanged
        l0, l1, *_ = counts.slopes(0.0, eta, own)
        zeros, slope = np.exp(self.log_density(0.0, eta, phi)), self.slopes(0.0, eta, phi)[1]
        kept = counts.information(eta, own) - np.exp(l0) * l1**2
        return (1.0 - zi) * np.maximum(kept, 0.0) + zeros * slope**2

    def mean(self, eta: Any, phi: Any = (), trials: Any = 1.0) -> np.ndarray:
        return (1.0 - np.asarray(phi)[..., -1]) * self.link.inverse(eta)

    def variance(self, eta: Any, phi: Any = (), trials: Any = 1.0) -> np.ndarray:
        counts, own, zi = self._split(phi)
        return (1.0 - zi) * (counts.variance(eta, own) + zi * self.link.inverse(eta) ** 2)

    def draw(self, rng, eta, phi=(), trials=1.0):
        counts, own, zi = self._split(phi)
        y = counts.draw(rng, eta, own)
        shape = np.broadcast_shapes(y.shape, zi.shape)
        return np.where(rng.random(shape) < zi, 0.0, y)

    def cdf(self, y, eta, phi=(), trials=1.0):
        counts, own, zi = self._split(phi)
        at = zi + (1.0 - zi) * counts.cdf(y, eta, own)
        return np.where(np.asarray(y) < 0.0, 0.0, at)


class ZeroInflatedNegativeBinomial(ZeroInflatedPoisson):
    """Zero with probability zi, a negative binomial count otherwise."""

    kind = formulas.ZERO_INFLATED_NEGATIVE_BINOMIAL
    counts = NegativeBinomial

    def pair(self, y: Any, phi: np.ndarray) -> tuple[Any, Any]:
        return phi[..., 0], phi[..., 1]

    def of_phi(self, y: Any, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.stack([first, second])
