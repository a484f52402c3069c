"""The REML or ML optimum in the relative covariance factors, boundary included.

The criterion is minimized over the *unbounded* entries of the L_k: flipping the sign of a column
of L_k changes nothing, so a bound at zero would be a wall that is not there, and bounded
optimizers do stop at it. What remains special is a truly vanishing variance: with a zero column
the gradient in L is zero whatever the data say, so there the derivative in the covariance matrix
itself decides (Karush-Kuhn-Tucker conditions on the positive semidefinite cone).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bayeslmm.gaussian import (
    Problem,
    lower_factor,
    pack_theta,
    profiled_covariance_gradient,
    profiled_criterion,
    profiled_criterion_and_gradient,
    single_threaded_blas,
    unpack_theta,
)

__all__ = ["Optimum", "optimize"]

#: An eigenvalue of a (scaled, relative) covariance matrix below this may be an exact zero.
_NEARLY_ZERO = 1e-5
#: The criterion may rise by this when an eigenvalue is set to exactly zero.
_SAME = 1e-9
#: A relative standard deviation below this, times the root of the levels, is looked at closely.
_TENDS_TO_ZERO = 0.1
_MAX_ROUNDS = 8


@dataclass(frozen=True)
class Optimum:
    """Where the criterion is smallest.

    Attributes
    ----------
    theta : (r,) array
        Free entries of the relative factors L_k, nonnegative diagonals.
    criterion : float
        -2 log-likelihood (restricted for REML).
    n_evaluations : int
        Evaluations of the criterion, with or without gradient.
    converged : bool
    message : str
        What the optimizer said if it did not converge.
    rank : tuple of tuple of int
        Per factor and per correlated block, the rank of the covariance matrix.
    """

    theta: np.ndarray
    criterion: float
    n_evaluations: int
    converged: bool
    message: str
    rank: tuple[tuple[int, ...], ...]


def optimize(problem: Problem, *, reml: bool = True, start: np.ndarray | None = None) -> Optimum:
    """Minimize the profiled criterion.

    Parameters
    ----------
    problem : Problem
        Of full column rank.
    reml : bool
        Restricted likelihood, or likelihood.
    start : (r,) array, optional
        Where to start; by default relative standard deviations of 1 on the scale of each
        column.

    Returns
    -------
    Optimum
    """
    search = _Search(problem, reml)
    if problem.n_parameters == 0:
        value = profiled_criterion(problem, np.zeros(0), reml)
        return Optimum(np.zeros(0), float(value), 1, bool(np.isfinite(value)), "", ())
    with single_threaded_blas():
        first = search.default_start() if start is None else np.asarray(start, dtype=float)
        theta, value = search.descend(first)
        theta, value = search.settle_boundary(theta, value)
        if search.is_singular(theta):  # a boundary may be a local optimum: look from elsewhere
            other, other_value = search.descend(0.1 * search.default_start())
            other, other_value = search.settle_boundary(other, other_value)
            if other_value < value - 1e-8 * (1 + abs(value)):
                theta, value = other, other_value
    return Optimum(
        theta=theta,
        criterion=float(value),
        n_evaluations=search.n_evaluations,
        converged=search.converged and bool(np.isfinite(value)),
        message=search.message,
        rank=search.ranks(theta),
    )


class _Search:
    """The criterion on columns scaled to unit size, and the steps of the search."""

    def __init__(self, problem: Problem, reml: bool):
        self.problem, self.reml = problem, reml
        self.n_evaluations = 0
        self.converged, self.message = True, ""
        self.scales = [factor.column_scales for factor in problem.cp.factors]

    def default_start(self) -> np.ndarray:
        return self.pack([np.diag(1.0 / scale) for scale in self.scales])

    def pack(self, Ls: list[np.ndarray]) -> np.ndarray:
        return pack_theta(self.problem.patterns, Ls)

    def unpack(self, theta: np.ndarray) -> list[np.ndarray]:
        return unpack_theta(self.problem.patterns, theta)

    def value(self, theta: np.ndarray) -> float:
        self.n_evaluations += 1
        value = profiled_criterion(self.problem, theta, self.reml)
        return float(value) if np.isfinite(value) else np.inf

    def descend(self, theta: np.ndarray) -> tuple[np.ndarray, float]:
        """Quasi-Newton descent from `theta`.

        Independent effects go over log standard deviations first, which takes half the
        evaluations; where one of them tends to zero the entries of L themselves take over,
        because on the log scale zero is infinitely far away.
        """
        unit = self._unit()
        scalar = all(len(block) == 1 for p in self.problem.patterns for block in p.blocks)
        if not (scalar and np.all(np.abs(theta) > 0)):
            return self._minimize(theta, lambda x: (x * unit, unit), theta / unit)
        start = np.log(np.abs(theta) / unit) * self._size
        theta, value = self._minimize(theta, self._exponential(unit), start)
        if np.any(np.abs(theta) * self._size < _TENDS_TO_ZERO * unit):
            theta, value = self._minimize(theta, lambda x: (x * unit, unit), theta / unit)
        return theta, value

    def _exponential(self, unit: np.ndarray):
        def to_theta(x):
            theta = unit * np.exp(np.clip(x / self._size, -40.0, 40.0))
            return theta, theta / self._size

        return to_theta

    def _minimize(self, theta: np.ndarray, to_theta, x0: np.ndarray) -> tuple[np.ndarray, float]:
        """L-BFGS in x, with theta and the elementwise dtheta/dx given by `to_theta`."""
        from scipy.optimize import minimize

        highest = [0.0]

        def objective(x):
            self.n_evaluations += 1
            point, slope = to_theta(x)
            value, gradient = profiled_criterion_and_gradient(self.problem, point, self.reml)
            if not np.isfinite(value) or not np.all(np.isfinite(gradient)):
                return highest[0] + 1e6, np.zeros_like(x)  # step back
            highest[0] = max(highest[0], value)
            return value, gradient * slope

        result = minimize(
            objective,
            x0,
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 2000, "maxfun": 5000, "ftol": 1e-13, "gtol": 1e-5, "maxcor": 20},
        )
        # an abnormal line search at the limit of rounding is an optimum all the same
        flat = 1e-3 * (1 + abs(result.fun)) ** 0.5
        self.converged = bool(result.success or np.max(np.abs(result.jac)) < flat)
        self.message = "" if self.converged else str(result.message)
        return to_theta(result.x)[0], float(result.fun)

    def _unit(self) -> np.ndarray:
        """Typical change of each entry of theta: its scale over the root of the levels."""
        return self.default_scale() / self._size

    @cached_property
    def _size(self) -> np.ndarray:
        """Root of the number of levels behind each entry: curvature grows with it."""
        return np.concatenate(
            [
                np.full(pattern.n_parameters, np.sqrt(factor.n_levels))
                for pattern, factor in zip(
                    self.problem.patterns, self.problem.cp.factors, strict=True
                )
            ]
        )

    def default_scale(self) -> np.ndarray:
        """Relative standard deviation 1 for every entry of theta, on the scale of its column."""
        rows = [
            1.0 / scale[pattern.entries[0]]
            for scale, pattern in zip(self.scales, self.problem.patterns, strict=True)
        ]
        return np.concatenate(rows)

    def settle_boundary(self, theta: np.ndarray, value: float) -> tuple[np.ndarray, float]:
        """Zero what vanishes, and leave the boundary where the criterion falls inward."""
        for _ in range(_MAX_ROUNDS):
            theta, value = self._zero_what_vanishes(self._positive(theta), value)
            inward = self._inward_direction(theta, value)
            if inward is None:
                return theta, value
            theta, value = self.descend(inward)
        return self._positive(theta), value

    def _positive(self, theta: np.ndarray) -> np.ndarray:
        """The same covariance matrices with nonnegative diagonals of L."""
        Ls = []
        for L in self.unpack(theta):
            signs = np.where(np.diag(L) < 0, -1.0, 1.0)
            Ls.append(L * signs)
        return self.pack(Ls)

    def _zero_what_vanishes(self, theta: np.ndarray, value: float) -> tuple[np.ndarray, float]:
        """Try the covariance matrices with their small eigenvalues set to zero."""
        Ls, changed = self.unpack(theta), False
        for k, pattern in enumerate(self.problem.patterns):
            for block in pattern.blocks:
                at = np.ix_(block, block)
                scale = self.scales[k][list(block)]
                Sigma = (Ls[k] @ Ls[k].T)[at] * np.outer(scale, scale)
                values, vectors = np.linalg.eigh(Sigma)
                small = values < _NEARLY_ZERO * max(1.0, values[-1])
                if not small.any() or np.all(values[small] == 0):
                    continue
                reduced = (vectors[:, ~small] * values[~small]) @ vectors[:, ~small].T
                reduced /= np.outer(scale, scale)
                Ls[k] = Ls[k].copy()
                Ls[k][at] = lower_factor(0.5 * (reduced + reduced.T))
                changed = True
        if not changed:
            return theta, value
        candidate, candidate_value = self.descend(self.pack(Ls))
        candidate = self._positive(candidate)
        if candidate_value <= value + _SAME * (1 + abs(value)):
            return candidate, candidate_value
        return theta, value

    def _inward_direction(self, theta: np.ndarray, value: float) -> np.ndarray | None:
        """A better point off the boundary, or None where the optimum is at it."""
        if not self.is_singular(theta):
            return None
        gradients = profiled_covariance_gradient(self.problem, theta, self.reml)
        Ls = self.unpack(theta)
        for k, pattern in enumerate(self.problem.patterns):
            for block in pattern.blocks:
                at = np.ix_(block, block)
                scale = self.scales[k][list(block)]
                slope, vectors = np.linalg.eigh(gradients[k][at] / np.outer(scale, scale))
                if slope[0] >= -1e-6 * (1 + abs(slope[-1])):
                    continue
                direction = vectors[:, 0] / scale
                Sigma = (Ls[k] @ Ls[k].T)[at]
                for step in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
                    trial = [L.copy() for L in Ls]
                    trial[k][at] = lower_factor(Sigma + step * np.outer(direction, direction))
                    candidate = self.pack(trial)
                    if self.value(candidate) < value - 1e-9 * (1 + abs(value)):
                        return candidate
        return None

    def ranks(self, theta: np.ndarray) -> tuple[tuple[int, ...], ...]:
        return tuple(
            tuple(
                int(np.linalg.matrix_rank(_scaled(L, block, scale), tol=1e-4))
                for block in pattern.blocks
            )
            for L, pattern, scale in zip(
                self.unpack(theta), self.problem.patterns, self.scales, strict=True
            )
        )

    def is_singular(self, theta: np.ndarray) -> bool:
        return any(
            rank < len(block)
            for ranks, pattern in zip(self.ranks(theta), self.problem.patterns, strict=True)
            for rank, block in zip(ranks, pattern.blocks, strict=True)
        )


def _scaled(L: np.ndarray, block: tuple[int, ...], scale: np.ndarray) -> np.ndarray:
    """Rows of L on the scale of their columns, relative to the largest."""
    part = L[np.ix_(block, block)] * scale[list(block)][:, None]
    return part / max(1.0, float(np.max(np.abs(part), initial=0.0)))
