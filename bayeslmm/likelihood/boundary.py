"""Where variances are exactly zero: the optimum on the cone of covariance matrices.

A criterion that is smooth in the covariance matrix is flat in its factor wherever a column of the
factor is small, so a descent over factors stops near a zero without reaching it, and cannot tell
a variance that is zero from one that is merely small. The derivative in the matrix can: an optimum
at which Sigma is singular has a derivative that is positive semidefinite on the null space of
Sigma (Karush-Kuhn-Tucker), and where it is not, the criterion falls inward.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np

from bayeslmm.likelihood.thresholds import (
    CLEARLY_WORSE,
    FLAT,
    MAX_ROUNDS,
    MOST_PARAMETERS,
    NEARLY_ZERO,
    SAME,
    SMALL,
    ZERO_ROW,
)
from bayeslmm.parts.patterns import CovariancePattern, lower_factor

__all__ = ["BoundarySearch", "lacks_rank"]


def lacks_rank(ranks: Sequence[Sequence[int]], patterns: Sequence[CovariancePattern]) -> bool:
    """Whether a correlated block has a covariance matrix of less than full rank.

    Parameters
    ----------
    ranks : sequence of sequence of int
        Of every block, factor by factor; empty where there are no parameters.
    patterns : sequence of CovariancePattern
    """
    return any(
        rank < len(block)
        for own, pattern in zip(ranks, patterns, strict=False)
        for rank, block in zip(own, pattern.blocks, strict=True)
    )


class BoundarySearch(ABC):
    """A search over the factors of covariance matrices, and how it settles at a boundary.

    Factors are *scaled*: rows in units in which an effect and the residuals are alike in size.

    Attributes
    ----------
    patterns : sequence of CovariancePattern
    """

    patterns: Sequence[CovariancePattern]

    @abstractmethod
    def descend(self, x: np.ndarray) -> tuple[np.ndarray, float]:
        """A point with a lower criterion, and the criterion there."""

    @abstractmethod
    def value(self, x: np.ndarray) -> float:
        """The criterion."""

    @abstractmethod
    def slope(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """The criterion and its gradient in x."""

    @abstractmethod
    def factors(self, x: np.ndarray) -> list[np.ndarray]:
        """Scaled factors at x."""

    @abstractmethod
    def with_factors(self, x: np.ndarray, factors: list[np.ndarray]) -> np.ndarray:
        """x with other scaled factors."""

    @abstractmethod
    def covariance_slopes(self, x: np.ndarray) -> list[np.ndarray]:
        """Derivatives of the criterion in the scaled covariance matrices."""

    @abstractmethod
    def steps(self, x: np.ndarray) -> np.ndarray:
        """Natural size of a change of each coordinate."""

    def ranks(self, x: np.ndarray) -> tuple[tuple[int, ...], ...]:
        """Rank of every correlated block, factor by factor."""
        return tuple(
            tuple(_rank(F[np.ix_(block, block)]) for block in pattern.blocks)
            for F, pattern in zip(self.factors(x), self.patterns, strict=True)
        )

    def is_singular(self, x: np.ndarray) -> bool:
        """Whether a covariance matrix is singular."""
        return lacks_rank(self.ranks(x), self.patterns)

    def is_stationary(self, x: np.ndarray) -> bool:
        """Whether the gradient vanishes, as far as it matters beside the criterion's rounding.

        Judged at the point that is reported, not by what the last of several descents said.
        """
        value, gradient = self.slope(x)
        limit = 1e-3 * (1 + abs(value)) ** 0.5
        return bool(np.max(np.abs(gradient * self.steps(x)), initial=0.0) < limit)

    def settle(self, x: np.ndarray, value: float) -> tuple[np.ndarray, float]:
        """Zero what vanishes, and leave the boundary where the criterion falls inward."""
        reduced, smallest = self._without_small(x, SMALL)
        if reduced is None:
            return x, value
        if smallest > NEARLY_ZERO and self.value(reduced) > value + CLEARLY_WORSE:
            return x, value
        trial, trial_value = self._polish(*self.descend(reduced))
        for _ in range(MAX_ROUNDS):
            inward = self._inward(trial)
            if inward is None:
                break
            trial, trial_value = self._polish(*self.descend(inward))
        if trial_value <= value + SAME * (1 + abs(value)):
            return trial, trial_value
        return self._polish(x, value)

    def _blocks(self, x: np.ndarray) -> Iterator[tuple[int, tuple, np.ndarray]]:
        """Factor number, positions and scaled covariance matrix of every correlated block."""
        for k, (pattern, F) in enumerate(zip(self.patterns, self.factors(x), strict=True)):
            for block in pattern.blocks:
                part = F[np.ix_(block, block)]
                yield k, block, part @ part.T

    def _without_small(self, x: np.ndarray, limit: float) -> tuple[np.ndarray | None, float]:
        """x with small eigenvalues set to zero (None if none is), and the smallest, relative."""
        factors = [F.copy() for F in self.factors(x)]
        smallest = np.inf
        for k, block, Sigma in self._blocks(x):
            values, vectors = np.linalg.eigh(Sigma)
            small = values < max(limit, min(limit, NEARLY_ZERO) * values[-1])
            if not small.any():
                continue
            smallest = min(smallest, float(values[0]) / max(1.0, float(values[-1])))
            kept = (vectors[:, ~small] * values[~small]) @ vectors[:, ~small].T
            factors[k][np.ix_(block, block)] = lower_factor(0.5 * (kept + kept.T), checked=False)
        if not np.isfinite(smallest):
            return None, smallest
        return self.with_factors(x, factors), smallest

    def _free(self, x: np.ndarray) -> np.ndarray:
        """Coordinates that are not in a column of zeros, where the gradient vanishes anyway."""
        ones = [np.ones_like(F) * (np.abs(F).max(axis=0) > 0) for F in self.factors(x)]
        return self.with_factors(np.ones_like(x), ones) != 0

    def _polish(self, x: np.ndarray, value: float) -> tuple[np.ndarray, float]:
        """Newton's steps on the gradient, which has digits left where the criterion has none."""
        free = np.flatnonzero(self._free(x))
        if not 0 < len(free) <= MOST_PARAMETERS:
            return x, value
        unit = self.steps(x)[free]
        gradient = self.slope(x)[1][free] * unit
        for _ in range(20):
            H = np.empty((len(free), len(free)))
            for row, i in enumerate(free):
                near = x.copy()
                near[i] += (h := 1e-6 * unit[row] + 1e-4 * abs(x[i]))
                H[row] = (self.slope(near)[1][free] * unit - gradient) / h * unit[row]
            step = _newton_step(0.5 * (H + H.T), gradient)
            if step is None:
                break
            near = x.copy()
            near[free] += unit * step
            near_value, slope = self.slope(near)
            slope = slope[free] * unit
            if not (
                np.linalg.norm(slope) < 0.9 * np.linalg.norm(gradient)
                and near_value <= value + SAME * (1 + abs(value))
            ):
                break
            x, value, gradient = near, near_value, slope
        zeroed = self._without_small(x, ZERO_ROW**2)[0]
        return self._positive(x if zeroed is None else zeroed), value

    def _positive(self, x: np.ndarray) -> np.ndarray:
        """The same covariance matrices with nonnegative diagonals of the factors."""
        return self.with_factors(
            x, [F * np.where(np.diag(F) < 0, -1.0, 1.0) for F in self.factors(x)]
        )

    def _inward(self, x: np.ndarray) -> np.ndarray | None:
        """A better point off the boundary, or None where the optimum is at it."""
        if not self.is_singular(x):
            return None
        slopes = self.covariance_slopes(x)
        steepest, found = 0.0, None
        for k, block, Sigma in self._blocks(x):
            null = _null_space(Sigma)
            if not null.shape[1]:
                continue
            D = slopes[k][np.ix_(block, block)]
            values, vectors = np.linalg.eigh(null.T @ D @ null)
            share = values[0] / (1 + np.abs(np.diag(D)).max())
            if share < min(-FLAT, steepest):
                steepest, found = share, (k, block, Sigma, null @ vectors[:, 0])
        return None if found is None else self._release(x, *found)

    def _release(self, x, k: int, block, Sigma: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """The point x + t direction direction' where the slope along it turns, t > 0."""
        from scipy.optimize import brentq

        at = np.ix_(block, block)
        rest = self.factors(x)

        def point(t: float) -> np.ndarray:
            raised = [F.copy() for F in rest]
            moved = Sigma + t * np.outer(direction, direction)
            raised[k][at] = lower_factor(moved, checked=False)
            return self.with_factors(x, raised)

        def slope(t: float) -> float:
            return float(direction @ self.covariance_slopes(point(t))[k][at] @ direction)

        low, high = 0.0, 1e-6
        while high < 1e3 and not slope(high) >= 0:
            low, high = high, 10 * high
        if high >= 1e3 or low == 0.0:
            return point(low if low > 0 else high)
        return point(brentq(slope, low, high, rtol=1e-3))


def _newton_step(H: np.ndarray, gradient: np.ndarray) -> np.ndarray | None:
    """-H^-1 gradient without flat directions; None where H has a negative eigenvalue."""
    if not np.all(np.isfinite(H)):
        return None
    values, vectors = np.linalg.eigh(H)
    flat = 1e-9 * max(abs(values[0]), abs(values[-1]))
    if values[0] < -flat or flat == 0:
        return None
    kept = values > flat
    return -(vectors[:, kept] / values[kept]) @ (vectors[:, kept].T @ gradient)


def _rank(F: np.ndarray) -> int:
    """Rank of a scaled factor: of its correlations, among the effects that vary."""
    size = np.linalg.norm(F, axis=1)
    rows = F[size > ZERO_ROW] / size[size > ZERO_ROW, None]
    return int(np.linalg.matrix_rank(rows, tol=1e-6)) if len(rows) else 0


def _null_space(Sigma: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(Sigma)
    return vectors[:, values <= 1e-12 * max(1.0, float(values[-1]))]
