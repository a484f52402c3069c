"""Unbounded coordinates of the covariance parameters, for optimization.

The free entries of the absolute factors L_k (whose sign is free, so that there is no wall at zero),
log residual standard deviations, and the unconstrained numbers of the correlation structure.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bayeslmm.gaussian.system import StructuredProblem, Theta
from bayeslmm.parts.patterns import flat_positions

__all__ = ["Coordinates"]


@dataclass(frozen=True)
class Coordinates:
    """Between unbounded x and the covariance parameters.

    Attributes
    ----------
    problem : StructuredProblem
    """

    problem: StructuredProblem

    @cached_property
    def index(self) -> np.ndarray:
        """Position of each free entry in the flat factors."""
        return flat_positions(self.problem.patterns)

    @cached_property
    def column_scales(self) -> list[np.ndarray]:
        """Root mean square of each random-effect column."""
        return [np.sqrt(np.mean(f.Z**2, axis=0)) for f in self.problem.factors]

    @cached_property
    def units(self) -> np.ndarray:
        """Natural size of each free entry: the residual spread on the scale of its column."""
        rows = [
            self.problem.spread / scale[p.entries[0]]
            for scale, p in zip(self.column_scales, self.problem.patterns, strict=True)
        ]
        return np.concatenate([*rows, np.zeros(0)])

    @property
    def n_effect_parameters(self) -> int:
        """Entries of x that belong to random effects."""
        return len(self.index)

    @property
    def n_scales(self) -> int:
        """Log standard deviations in x."""
        return self.problem.scale.shape[1]

    def theta(self, x: np.ndarray) -> Theta:
        """Natural parameters at x."""
        r, s = self.n_effect_parameters, self.n_scales
        F = np.zeros(self.problem.layout.f_ptr[-1])
        F[self.index] = x[:r] * self.units
        return Theta(
            F, np.ascontiguousarray(x[r : r + s]), self.problem.structure.natural(x[r + s :])
        )

    def gradient(self, x: np.ndarray, theta: Theta, d_Sigma, d_eta, d_c) -> np.ndarray:
        """Derivatives in x."""
        problem, r, s = self.problem, self.n_effect_parameters, self.n_scales
        parts = [
            (2.0 * D @ L).ravel()
            for D, L in zip(problem.split(d_Sigma), problem.split(theta.F), strict=True)
        ]
        flat = np.concatenate([*parts, np.zeros(0)])
        return np.concatenate(
            [flat[self.index] * self.units, d_eta, problem.structure.pullback(x[r + s :], d_c)]
        )

    def with_factors(self, x: np.ndarray, Ls: list[np.ndarray]) -> np.ndarray:
        """x with other factors of the random effects."""
        out = x.copy()
        flat = np.concatenate([*(L.ravel() for L in Ls), np.zeros(0)])
        out[: self.n_effect_parameters] = flat[self.index] / self.units
        return out

    def starts(self) -> list[np.ndarray]:
        """Starting points from least-squares residuals."""
        problem = self.problem
        r2 = problem.rest**2 if problem.weights is None else problem.rest**2 * problem.weights
        r2 = np.maximum(r2, 1e-4 * r2.mean() + 1e-300)
        scale = problem.scale
        # regression of log r^2; its mean is 1.27 below the log variance
        eta = problem.on_scale(0.5 * np.log(r2) + 0.635)
        z = np.sqrt(r2) * np.sign(problem.rest) / np.exp(scale @ eta)
        one = problem.on_scale(np.ones(problem.n))
        informed = problem.structure.informed_start(z, problem.group, problem.time)
        corr = [informed] if informed is not None else problem.structure.starts()
        found = []
        for share in (0.5, 0.05, 0.95) if problem.patterns else (0.0,):
            for w in corr:
                count = sum(p.q for p in problem.patterns)
                sd = np.sqrt(share / max(count, 1))
                Ls = [np.diag(problem.spread * sd / scale) for scale in self.column_scales]
                x = np.concatenate(
                    [np.zeros(len(self.index)), eta + 0.5 * np.log(1 - share) * one, w]
                )
                found.append(self.with_factors(x, Ls))
        return found
