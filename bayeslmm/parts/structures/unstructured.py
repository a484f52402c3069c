"""A free correlation for every two times."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from bayeslmm.parts.correlations import (
    CorrelationLayout,
    correlation_layout,
    correlations_from_factors,
    factors_from_correlations,
    pullback_to_correlations,
)
from bayeslmm.parts.parameters import corr_key, pair_key
from bayeslmm.parts.patterns import CovariancePattern, pair_values
from bayeslmm.parts.prior import Prior
from bayeslmm.parts.structures.base import Structure

#: Key of the LKJ prior of an unstructured residual correlation matrix.
CORR_KEY = corr_key("residual")


def time_pairs(n_times: int) -> list[tuple[int, int]]:
    """Positions of every two times, the earlier first."""
    return list(combinations(range(n_times), 2))


@dataclass(frozen=True)
class Unstructured(Structure):
    """A free correlation for every two times, as canonical partial correlations.

    c are all entries of the correlation matrix of the times, row by row.
    """

    name, code, uses_time, times = "unstructured", 4, True, "labels"

    @classmethod
    def of_rows(cls, group, time, n_times: int, largest: int) -> Unstructured:
        return cls(n_times=n_times)

    @classmethod
    def default_priors(cls, group, time, largest: int) -> dict[str, Prior]:
        return {CORR_KEY: Prior("LKJ", eta=2)}

    @classmethod
    def component_names(cls, labels: tuple[str, ...], group, time) -> list[str]:
        return [pair_key(labels[i], labels[j]) for i, j in time_pairs(len(labels))]

    @classmethod
    def component_values(cls, c: np.ndarray, n_times: int) -> np.ndarray:
        return pair_values(cls.entries(c, n_times), time_pairs(n_times))

    @classmethod
    def random_variables(cls, pm, pt, priors, rows):
        T, eta = int(rows.time.max()) + 1, priors[CORR_KEY].parameters["eta"]
        chol = pm.LKJCorr("chol_corr_residual", n=T, eta=eta)
        c = pt.dot(chol, chol.T)
        pairs = pair_values(c, time_pairs(T))
        pm.Deterministic("corr_residual", pairs, dims="residual_time_pair")
        return c

    @staticmethod
    def entries(c: np.ndarray, n_times: int) -> np.ndarray:
        return c.reshape(*c.shape[:-1], n_times, n_times)

    @staticmethod
    def correlations(xp, c, time: np.ndarray):
        at = time.astype(int)
        return c[(..., at[..., :, None], at[..., None, :])]

    @property
    def n_free(self) -> int:
        return self.n_times * (self.n_times - 1) // 2

    @property
    def layout(self) -> CorrelationLayout:
        """Layout of the correlations."""
        return correlation_layout([CovariancePattern.full(self.n_times)])

    def _factor(self, w: np.ndarray, layout: CorrelationLayout) -> np.ndarray:
        F = factors_from_correlations(layout, np.ones(self.n_times), np.ascontiguousarray(w))
        return F.reshape(self.n_times, self.n_times)

    def natural(self, w: np.ndarray) -> np.ndarray:
        L = self._factor(w, self.layout)
        return (L @ L.T).ravel()

    def pullback(self, w: np.ndarray, d_c: np.ndarray) -> np.ndarray:
        layout = self.layout
        D = d_c.reshape(self.n_times, self.n_times)
        G = (D + D.T) @ self._factor(w, layout)
        ones = np.ones(self.n_times)
        return pullback_to_correlations(layout, ones, np.ascontiguousarray(w), G.ravel())[1]

    def starts(self) -> list[np.ndarray]:
        return [np.full(self.n_free, 0.2)]

    def informed_start(self, z: np.ndarray, group: np.ndarray, time: np.ndarray):
        """Pairwise correlations of the residuals, shrunk until they are positive definite."""
        n_times = self.n_times
        table, seen = np.zeros((group.max() + 1, n_times)), np.zeros((group.max() + 1, n_times))
        at = time.astype(int)
        table[group, at], seen[group, at] = z, 1.0
        count = seen.T @ seen
        size = np.sqrt(np.maximum((table**2).T @ seen, 1e-300) / np.maximum(count, 1))
        R = (table.T @ table) / np.maximum(count, 1) / (size * size.T)
        np.fill_diagonal(R, 1.0)
        for shrink in (0.95, 0.8, 0.6, 0.4, 0.2, 0.0):
            trial = shrink * R + (1 - shrink) * np.eye(n_times)
            if np.linalg.eigvalsh(trial)[0] > 0.01:
                break
        L = np.linalg.cholesky(trial)
        return correlations_from_factors(self.layout, L.ravel())[1]

    def boundary(self, c: np.ndarray) -> str | None:
        R = c.reshape(self.n_times, self.n_times)
        if np.linalg.eigvalsh(R)[0] < 1e-6:
            return "the residual correlation matrix is singular"
        return None
