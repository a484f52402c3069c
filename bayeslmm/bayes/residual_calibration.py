"""Simulation-based calibration of models with structured residuals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bayeslmm.bayes.calibration import _Simulator
from bayeslmm.formula.components import component_map
from bayeslmm.gaussian.system import Theta
from bayeslmm.parts.scales import draw_scales, unconstrain

__all__ = ["ResidualSimulator"]


class ResidualSimulator(_Simulator):
    """What stays fixed over simulations, where residuals have a structure."""

    def _parameters(self, rng) -> tuple[np.ndarray, np.ndarray]:
        density = self.density
        beta = self.uncenter @ rng.normal(self.coef_mean, self.coef_sd)
        at = unconstrain(density.scales, draw_scales(density.scales, 1, rng)[0])
        u = np.arctanh(2 * rng.beta(density.exponent, density.exponent) - 1)
        return beta, np.concatenate([at, u])

    def _simulated(self, beta, x, rng) -> tuple[np.ndarray, np.ndarray]:
        design, problem = self.model.design, self.density.problem
        sd, F, eta, c = self.density.constrained(x)
        y = design.X @ beta
        for block, L in zip(design.blocks, problem.split(F[0]), strict=True):
            b = rng.standard_normal((block.n_levels, block.n_effects)) @ L.T
            y = y + (block.Z * b[block.codes]).sum(axis=1)
        root = problem.residual_root(Theta(F[0], eta[0], c[0]))
        y = y + root(rng.standard_normal(design.n_rows), inverse=False)
        return self._all_named(beta[None], sd, F, eta, c)[0], y

    def _density_of(self, y: np.ndarray):
        problem = self.density.problem.with_response(y, self.model.design.X)
        return replace(self.density, problem=problem)

    def _posterior(self, density, draws, rng) -> np.ndarray:
        sd, F, eta, c = density.computed(draws)
        normals = rng.standard_normal((len(draws), density.problem.n_normals))
        beta = density.problem.draw(F, eta, c, density.prior, normals)[0]
        return self._all_named(beta, *density.to_formula(sd, F), eta, c)

    def _all_named(self, beta, sd, F, eta, c) -> np.ndarray:
        factors = self.density.problem.split(F)
        one = np.ones(len(beta))
        head = self._named(beta, sd, factors, one)[:, :-1]
        residual = component_map(self.model.design.stated_residual, eta, c)
        return np.concatenate([head, residual], axis=1)
