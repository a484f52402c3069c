"""Independent residuals of one variance: cross-products, with sigma profiled out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.assembly import factor_rows, prepared_problem, reduce_rows
from bayeslmm.errors import DataError, PriorError
from bayeslmm.gaussian import (
    CrossProducts,
    FactorRows,
    Problem,
    Solution,
    effect_covariances,
    single_threaded_blas,
    solve,
)
from bayeslmm.gaussian.shared import SharedSystem
from bayeslmm.gaussian.system import Theta
from bayeslmm.likelihood.components import Component, components_of, effect_component_values
from bayeslmm.likelihood.engine import estimated_coefficients, one_by_one
from bayeslmm.likelihood.kenward_roger import KenwardRoger, kenward_roger
from bayeslmm.likelihood.optimize import Optimum, can_search, central_differences, optimize
from bayeslmm.likelihood.profile import coefficient_profile, component_profile
from bayeslmm.likelihood.refits import ManyEstimates, ManyResponses
from bayeslmm.likelihood.satterthwaite import VarianceCurvature, theta_scales, variance_curvature
from bayeslmm.likelihood.unbounded import refuse_unbounded
from bayeslmm.parts.patterns import unpack_theta

if TYPE_CHECKING:
    from bayeslmm.formula import Design
    from bayeslmm.priors.table import Priors
    from bayeslmm.protocols import Model

__all__ = ["ProfiledLikelihood", "least_squares_sigma"]


@dataclass(frozen=True)
class ProfiledLikelihood:
    """See :class:`bayeslmm.likelihood.engine.LikelihoodEngine`.

    theta are free entries of the relative factors, Sigma_k = sigma^2 L_k L_k'; the curvature is in
    (theta, sigma).
    """

    design: Design
    problem: Problem
    kept: np.ndarray

    @classmethod
    def of(cls, model: Model) -> ProfiledLikelihood:
        """That of a model, with sigma where it is known."""
        design, sigma = model.design, _known_sigma(model.priors)
        if sigma is None:
            _refuse_unidentified(design)
        kept = estimated_coefficients(model)
        with single_threaded_blas():
            if model.aliased:
                problem = prepared_problem(design, reduce_rows(design, columns=kept))
            else:
                problem = model.problem
        return cls(design, problem if sigma is None else replace(problem, known_sigma=sigma), kept)

    @property
    def components(self) -> tuple[Component, ...]:
        """The variance components, sigma last unless the formula has standard errors."""
        return components_of(self.design)

    @property
    def least_squares_sigma(self) -> float:
        return least_squares_sigma(self.problem.cp)

    @property
    def known_sigma(self) -> float | None:
        return self.problem.known_sigma

    @property
    def n_variances(self) -> int:
        """Covariance parameters, and sigma unless it is known."""
        return self.problem.n_parameters + (self.known_sigma is None)

    def describe(self) -> list[str]:
        """Nothing: the likelihood is exact."""
        return []

    def optimize(self, *, reml: bool, start: np.ndarray | None = None) -> Optimum:
        return optimize(self.problem, reml=reml, start=start)

    def solution(self, theta: np.ndarray, reml: bool) -> Solution:
        if self.problem.head_only:  # no BLAS to speak of: limiting it takes longer
            return solve(self.problem, theta, reml)
        with single_threaded_blas():
            return solve(self.problem, theta, reml)

    def refuse_unbounded(self, solution: Solution) -> None:
        """Refuse a likelihood that grows forever as sigma vanishes."""
        with single_threaded_blas():
            refuse_unbounded(self.problem, solution.theta, reml=solution.reml)

    def limits(self, solution: Solution) -> list[str]:
        """None: sigma does not vanish."""
        return []

    def at_limit(self, solution: Solution) -> np.ndarray:
        """None of the components."""
        return np.zeros(len(self.components), dtype=bool)

    def values(self, solution: Solution) -> np.ndarray:
        return self._shown(solution.Sigmas, float(solution.sigma))

    def _shown(self, Sigmas: list[np.ndarray], sigma: float) -> np.ndarray:
        values = np.append(effect_component_values(self.design, Sigmas), sigma)
        return values[: len(self.components)]

    def jacobian(self, solution: Solution) -> np.ndarray:
        """Derivative of the components in (theta, sigma), by central differences."""
        return np.nan_to_num(self.slope(solution, self._shown).T)

    def slope(self, solution: Solution, function: Callable) -> np.ndarray:
        """Derivative of a function of (Sigmas, sigma) in (theta, sigma)."""
        point = np.append(solution.theta, solution.sigma)

        def at(x: np.ndarray):
            Ls = unpack_theta(self.problem.patterns, x[:-1])
            return function([x[-1] ** 2 * L @ L.T for L in Ls], x[-1])

        steps = 1e-6 * np.append(theta_scales(self.problem, solution.theta), solution.sigma)
        return central_differences(at, point, steps)

    def curvature(self, solution: Solution) -> VarianceCurvature:
        """Of the deviance in (theta, sigma)."""
        return variance_curvature(self.problem, solution.theta, reml=solution.reml)

    def kenward_roger(self, solution: Solution) -> KenwardRoger:
        return kenward_roger(self.problem, _absolute(solution), solution.sigma)

    def effect_covariances(self, solution: Solution) -> list[np.ndarray]:
        return effect_covariances(self.problem, _absolute(solution), solution.sigma)

    def predictor_variance(self, solution: Solution, X, Z, codes) -> np.ndarray:
        factors = tuple(map(FactorRows, codes, Z, [b.n_levels for b in self.design.blocks]))
        theta = Theta(self.problem.flat(_absolute(solution)), np.log([solution.sigma]), np.zeros(0))
        system = SharedSystem(self.problem, None, None, factors)
        return system.predictor_variance(theta, X, Z, codes)

    def residual_parameters(self, solution: Solution) -> tuple[np.ndarray, np.ndarray]:
        """log sigma, and nothing."""
        return np.log([solution.sigma]), np.zeros(0)

    def residual_root(self, solution: Solution, values: np.ndarray, *, inverse: bool) -> np.ndarray:
        """Multiplication by sigma W^-1/2, or division."""
        weights = self.design.weights
        root = solution.sigma if weights is None else solution.sigma / np.sqrt(weights)
        return values / root if inverse else values * root

    def with_response(self, y: np.ndarray) -> ProfiledLikelihood:
        cp = reduce_rows(self.design, y=y, columns=self.kept)
        return replace(self, problem=self.problem.renewed(cp))

    def estimator(self, *, reml: bool, start: np.ndarray | None = None):
        """See :meth:`LikelihoodEngine.estimator`: compiled where cross-products have no tail."""
        alone = one_by_one(self, reml=reml, start=start)
        if not can_search(self.problem) or not self.design.rows_in_memory:
            return alone
        design, X = self.design, self.design.X[:, self.kept]
        many = ManyResponses.of(self.problem, X, factor_rows(design), design.weights, reml, start)
        return ManyEstimates(design, many, alone)

    def coefficient_profile(self, solution: Solution, at: int) -> Callable[[float], float]:
        return coefficient_profile(self.problem, solution.theta, at)

    def component_profile(
        self, solution: Solution, component: Component
    ) -> Callable[[float], float]:
        target = (component.kind, *component.at)
        return component_profile(self.problem, solution.Sigmas, solution.sigma, target)


def _absolute(solution: Solution) -> list[np.ndarray]:
    return [solution.sigma * L for L in solution.Ls]


def _known_sigma(priors: Priors) -> float | None:
    """The value sigma is fixed at; None where it is estimated.

    Raises
    ------
    PriorError
        If another parameter is fixed, which no likelihood fit here can do.
    """
    fixed = priors.fixed()
    others = [key for key in fixed if key != "sigma"]
    if others:
        raise PriorError(
            f"{others[0]} has a fixed value, but REML and maximum likelihood know a fixed sigma "
            "only. Use model.fit()."
        )
    return float(fixed["sigma"].parameters["value"]) if fixed else None


def _refuse_unidentified(design: Design) -> None:
    for block in design.blocks:
        if block.relationship is not None and not block.relationship.trivial:
            continue
        total = block.n_levels * block.n_effects
        if total >= design.n_rows and not design.statistics.weights_vary:
            raise DataError(
                f"{block.name!r} has {total} random effects for {design.n_rows} rows, so that "
                "their variances and sigma cannot be told apart by likelihood. Leave an effect "
                "out, or use model.fit(), where the priors decide."
            )


def least_squares_sigma(cp: CrossProducts) -> float:
    """Residual standard deviation of least squares, from the cross-products."""
    p = cp.p
    scale = np.sqrt(np.where(np.diag(cp.gram) > 0, np.diag(cp.gram), 1.0))
    scale[p] = 1.0
    gram = cp.gram / np.outer(scale, scale)
    X = np.column_stack([gram[:, :p], gram[:, p + 1]])[[*range(p), p + 1]]
    y = gram[[*range(p), p + 1], p]
    explained = y @ np.linalg.lstsq(X, y, rcond=1e-12)[0] if len(y) else 0.0
    return float(np.sqrt(max(gram[p, p] - explained, 0.0) / max(cp.n, 1)))
