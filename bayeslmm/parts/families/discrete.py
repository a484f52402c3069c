"""Successes of trials, and counts."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeslmm.parts.families import formulas
from bayeslmm.parts.families.family import Family, first_where, not_a_count
from bayeslmm.parts.families.latent import log_both

__all__ = ["Bernoulli", "Binomial", "Poisson"]

#: numpy draws no Poisson numbers of larger means.
_LARGEST_MEAN = 1e18


class Binomial(Family):
    """Successes y of m trials: p = g^-1(eta) (McCullagh & Nelder 1989, chapter 4)."""

    kind = formulas.BINOMIAL
    links = ("logit", "probit", "cloglog", "identity", "log")

    @property
    def log_concave(self) -> bool:
        return True  # log p and log(1 - p) are concave for all five links

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
        from scipy.special import bdtr

        p = self.link.inverse(eta)
        y = np.floor(np.asarray(y, dtype=float))
        inside = bdtr(np.clip(y, 0.0, trials), np.asarray(trials, dtype=float), p)
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
    links = ("log", "identity")

    def information(self, eta: Any, phi: Any = (), trials: Any = 1.0) -> np.ndarray:
        mu = self.link.inverse(eta)
        return self.link.inverse_slope(eta) ** 2 / mu

    def variance(self, eta: Any, phi: Any = (), trials: Any = 1.0) -> np.ndarray:
        return self.link.inverse(eta)

    def draw(
        self, rng: np.random.Generator, eta: Any, phi: Any = (), trials: Any = 1.0
    ) -> np.ndarray:
        return rng.poisson(np.minimum(self.link.inverse(eta), _LARGEST_MEAN)).astype(float)

    def cdf(self, y: Any, eta: Any, phi: Any = (), trials: Any = 1.0) -> np.ndarray:
        from scipy.special import gammaincc

        y = np.floor(np.asarray(y, dtype=float))
        at = gammaincc(np.maximum(y, 0.0) + 1.0, self.link.inverse(eta))
        return np.where(y < 0.0, 0.0, at)

    def check(self, y, trials=None):
        return first_where(not_a_count(y), "is not a count (0, 1, 2, ...)")

    def start(self, y: np.ndarray, trials: Any = 1.0) -> np.ndarray:
        return self.link.link(np.asarray(y) + 0.1)
