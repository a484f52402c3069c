"""Ordered categories."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeslmm.parts.families import formulas
from bayeslmm.parts.families.family import Family, first_where, not_a_count

__all__ = ["Ordinal"]


class Ordinal(Family):
    """Categories y = 0, ..., K - 1 with P(y <= k) = F(c_k - eta) (McCullagh 1980).

    phi are the thresholds c, in order. The log probability is concave in eta for all three links
    (Pratt 1981, J. Am. Stat. Assoc. 76, 103-106).
    """

    kind = formulas.ORDINAL
    links = ("logit", "probit", "cloglog")
    concave = links

    @property
    def n_categories(self) -> int:
        """K."""
        return self.n_phi + 1

    def pair(self, y: Any, phi: np.ndarray) -> tuple[Any, Any]:
        below, above = np.asarray(-np.inf), np.asarray(np.inf)
        for k in range(self.n_phi):
            below = np.where(y == k + 1, phi[..., k], below)
            above = np.where(y == k, phi[..., k], above)
        return below, above

    def of_phi(self, y: Any, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.stack(
            [
                np.where(np.equal(y, k + 1), first, 0.0) + np.where(np.equal(y, k), second, 0.0)
                for k in range(self.n_phi)
            ]
        )

    def probabilities(self, eta: Any, phi: Any) -> np.ndarray:
        """Of every category, (..., K)."""
        each = [self.log_density(float(k), eta, phi) for k in range(self.n_categories)]
        return np.exp(np.stack(np.broadcast_arrays(*each), axis=-1))

    def information(self, eta: Any, phi: Any = (), trials: Any = 1.0) -> np.ndarray:
        total = np.float64(0.0)
        for k in range(self.n_categories):
            l0, l1, *_ = self.slopes(float(k), eta, phi)
            total = total + np.exp(l0) * l1**2
        return np.asarray(total)

    def mean(self, eta: Any, phi: Any = (), trials: Any = 1.0) -> np.ndarray:
        return self.probabilities(eta, phi) @ np.arange(self.n_categories)

    def variance(self, eta: Any, phi: Any = (), trials: Any = 1.0) -> np.ndarray:
        k = np.arange(self.n_categories)
        off = k - self.mean(eta, phi)[..., None]
        return np.sum(self.probabilities(eta, phi) * off**2, axis=-1)

    def draw(self, rng, eta, phi=(), trials=1.0):
        up_to = np.cumsum(self.probabilities(eta, phi)[..., :-1], axis=-1)
        return np.sum(rng.random(up_to.shape[:-1])[..., None] > up_to, axis=-1).astype(float)

    def cdf(self, y, eta, phi=(), trials=1.0):
        y, phi = np.asarray(y, dtype=float), np.asarray(phi, dtype=float)
        out = np.where(y < 0.0, 0.0, 1.0)
        for k in range(self.n_phi):
            out = np.where(np.floor(y) == k, self.link.inverse(phi[..., k] - eta), out)
        return out

    def check(self, y, trials=None):
        wrong = not_a_count(y) | (np.asarray(y) >= self.n_categories)
        return first_where(wrong, f"is none of the categories 0 to {self.n_categories - 1}")

    def start(self, y, trials=1.0):
        return np.zeros(np.shape(y))

    def null_variance(self, eta: Any, phi: Any = (), method: str = "default") -> np.ndarray:
        return super().null_variance(eta, phi)
