"""Positive measurements and shares."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from bayeslmm.parts.families import formulas
from bayeslmm.parts.families.family import Family, first_where
from bayeslmm.parts.families.latent import latent
from bayeslmm.parts.families.special import log_gamma

__all__ = ["Beta", "Gamma", "LogNormal"]

#: Draws stay inside the support where it is finer than numbers are.
_TINY = 1e-300


class Gamma(Family):
    """Positive measurements with variance mu^2 / alpha (McCullagh & Nelder 1989, chapter 8)."""

    kind = formulas.GAMMA
    links: ClassVar[tuple[str, ...]] = ("log", "inverse", "identity")
    concave: ClassVar[tuple[str, ...]] = ("log", "inverse")
    discrete = False

    def variance(self, eta: Any, phi: Any = (), trials: Any = 1.0) -> np.ndarray:
        return self.link.inverse(eta) ** 2 / np.asarray(phi)[..., 0]

    def draw(self, rng, eta, phi=(), trials=1.0):
        mu, alpha = np.broadcast_arrays(self.link.inverse(eta), np.asarray(phi)[..., 0])
        return np.maximum(rng.gamma(alpha, mu / alpha), _TINY)

    def cdf(self, y, eta, phi=(), trials=1.0):
        from scipy.special import gammainc

        alpha = np.asarray(phi)[..., 0]
        return gammainc(alpha, alpha * np.maximum(y, 0.0) / self.link.inverse(eta))

    def check(self, y, trials=None):
        return first_where(~((y > 0.0) & np.isfinite(y)), "is not a positive number")

    def start(self, y, trials=1.0):
        return self.link.link(y)


class LogNormal(Gamma):
    """Positive measurements, log y ~ N(eta, sigma)."""

    kind = formulas.LOGNORMAL
    links = ("identity",)
    concave = links
    ratio = "ratio"

    def information(self, eta: Any, phi: Any = (), trials: Any = 1.0) -> np.ndarray:
        return np.asarray(phi)[..., 0] ** -2.0 + 0.0 * np.asarray(eta)

    def mean(self, eta: Any, phi: Any = (), trials: Any = 1.0) -> np.ndarray:
        return np.exp(np.asarray(eta) + 0.5 * np.asarray(phi)[..., 0] ** 2)

    def variance(self, eta: Any, phi: Any = (), trials: Any = 1.0) -> np.ndarray:
        return np.expm1(np.asarray(phi)[..., 0] ** 2) * self.mean(eta, phi) ** 2

    def draw(self, rng, eta, phi=(), trials=1.0):
        eta, sigma = np.broadcast_arrays(eta, np.asarray(phi)[..., 0])
        return np.maximum(np.exp(rng.normal(eta, sigma)), _TINY)

    def cdf(self, y, eta, phi=(), trials=1.0):
        from scipy.special import ndtr

        with np.errstate(divide="ignore"):
            return ndtr((np.log(np.maximum(y, 0.0)) - eta) / np.asarray(phi)[..., 0])

    def start(self, y, trials=1.0):
        return np.log(y)

    def null_variance(self, eta: Any, phi: Any = (), method: str = "default") -> np.ndarray:
        return np.asarray(phi)[..., 0] ** 2 + 0.0 * np.asarray(eta)


class Beta(Family):
    """Shares in (0, 1) with variance mu (1 - mu) / (1 + kappa) (Ferrari & Cribari-Neto 2004)."""

    kind = formulas.BETA
    links = ("logit", "probit", "cloglog")
    discrete = False

    def _shapes(self, eta: Any, phi: Any) -> tuple[np.ndarray, np.ndarray]:
        (u, *_), (v, *_) = latent(self.link.number, np.asarray(eta, dtype=float))
        kappa = np.asarray(phi)[..., 0]
        return kappa * np.exp(u), kappa * np.exp(v)

    def information(self, eta: Any, phi: Any = (), trials: Any = 1.0) -> np.ndarray:
        with np.errstate(all="ignore"):
            (_, u1, *_), (_, v1, *_) = latent(self.link.number, np.asarray(eta, dtype=float))
            # A^2 trigamma(A) = 1 + A^2 trigamma(1 + A)
            a, b = (1.0 + A**2 * log_gamma(1.0 + A)[2] for A in self._shapes(eta, phi))
            return a * u1**2 + b * v1**2

    def variance(self, eta: Any, phi: Any = (), trials: Any = 1.0) -> np.ndarray:
        mu = self.link.inverse(eta)
        return mu * (1.0 - mu) / (1.0 + np.asarray(phi)[..., 0])

    def draw(self, rng, eta, phi=(), trials=1.0):
        a, b = (np.maximum(A, _TINY) for A in self._shapes(eta, phi))
        return np.clip(rng.beta(a, b), _TINY, 1.0 - 2.0**-53)

    def cdf(self, y, eta, phi=(), trials=1.0):
        from scipy.special import betainc

        return betainc(*self._shapes(eta, phi), np.clip(y, 0.0, 1.0))

    def check(self, y, trials=None):
        return first_where(~((y > 0.0) & (y < 1.0)), "is not between 0 and 1, both excluded")

    def start(self, y, trials=1.0):
        return self.link.link(0.01 + 0.98 * np.asarray(y))
