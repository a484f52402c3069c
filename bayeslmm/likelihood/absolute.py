"""Structured residuals: all covariance parameters are absolute, none is profiled out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.assembly import structured_problem
from bayeslmm.errors import DataError, PriorError
from bayeslmm.gaussian import Solution, single_threaded_blas
from bayeslmm.gaussian.blocks.problem import BlockProblem
from bayeslmm.gaussian.cells.derivatives import cell_derivatives
from bayeslmm.gaussian.cells.problem import CellProblem
from bayeslmm.gaussian.system import StructuredProblem, Theta
from bayeslmm.gaussian.woodbury.problem import WoodburySystem
from bayeslmm.likelihood.absolute_profile import (
    coefficient_deviance,
    constrained_deviance,
    held_component_deviance,
)
from bayeslmm.likelihood.block_derivatives import block_derivatives
from bayeslmm.likelihood.components import Component, component_values, components_of
from bayeslmm.likelihood.coordinates import Coordinates
from bayeslmm.likelihood.engine import estimated_coefficients, one_by_one
from bayeslmm.likelihood.kenward_roger import KenwardRoger, adjustment
from bayeslmm.likelihood.optimize import AbsoluteSearch, Optimum, central_differences
from bayeslmm.likelihood.satterthwaite import VarianceCurvature, pseudo_inverse
from bayeslmm.likelihood.undetermined import (
    refuse_confounded,
    refuse_determined_cells,
    refuse_unbounded_structure,
    vanishing_cells,
)
from bayeslmm.likelihood.woodbury_derivatives import woodbury_derivatives

if TYPE_CHECKING:
    from bayeslmm.formula import Design
    from bayeslmm.priors.table import Priors
    from bayeslmm.protocols import Model

__all__ = ["AbsoluteLikelihood", "absolute_curvature", "absolute_kenward_roger"]


@dataclass(frozen=True)
class AbsoluteLikelihood:
    """See :class:`bayeslmm.likelihood.engine.LikelihoodEngine`.

    theta are the unbounded coordinates of :class:`bayeslmm.likelihood.coordinates.Coordinates`,
    and the curvature is in them.
    """

    design: Design
    problem: StructuredProblem
    kept: np.ndarray

    @classmethod
    def of(cls, model: Model) -> AbsoluteLikelihood:
        """That of a model; refuses residual parameters that likelihood cannot determine."""
        design = model.design
        _refuse_known(model.priors)
        refuse_confounded(design)
        kept = estimated_coefficients(model)
        refuse_determined_cells(design, kept)
        problem = structured_problem(design, columns=kept) if model.aliased else model.problem
        return cls(design, problem, kept)

    @property
    def components(self) -> tuple[Component, ...]:
        return components_of(self.design, self.problem.structure)

    @property
    def least_squares_sigma(self) -> float:
        return self.problem.spread

    @property
    def known_sigma(self) -> float | None:
        """None: it is estimated."""
        return None

    @cached_property
    def coordinates(self) -> Coordinates:
        """Between theta and natural parameters."""
        return Coordinates(self.problem)

    def natural(self, solution: Solution) -> Theta:
        """(F, eta, c) at the estimates."""
        return self.coordinates.theta(solution.theta)

    def moved_to(self, problem: StructuredProblem, solution: Solution) -> tuple[Theta, np.ndarray]:
        """The estimates, and their coordinates in a problem of other rows.

        Raises
        ------
        DataError
            If its residual structure does not have them.
        """
        theta, other = self.natural(solution), Coordinates(problem)
        x = other.with_factors(solution.theta, problem.split(theta.F))
        c = other.theta(x).c
        if c.shape != theta.c.shape or not np.allclose(c, theta.c, rtol=1e-10):
            raise DataError(
                "With these rows residual groups are larger than those of the fit, whose residual "
                "correlations may not extend to them. Fit the model to all rows together."
            )
        return theta, x

    @property
    def n_variances(self) -> int:
        """Covariance parameters, those of residuals included."""
        coordinates, structure = self.coordinates, self.problem.structure
        effects = coordinates.n_effect_parameters
        return effects + coordinates.n_scales + len(structure.starts()[0])

    def describe(self) -> list[str]:
        """Nothing: the likelihood is exact."""
        return []

    def optimize(self, *, reml: bool, start: np.ndarray | None = None) -> Optimum:
        return AbsoluteSearch(self.problem, reml).optimum(start)

    def solution(self, theta: np.ndarray, reml: bool) -> Solution:
        """Estimates at theta; sigma is the root of the rows' mean variance of weight 1."""
        problem, natural = self.problem, self.coordinates.theta(theta)
        found = problem.solve(natural, ml=not reml)
        sigma = self.mean_sigma(natural.eta)
        return Solution(
            theta=theta,
            beta=found.beta,
            sigma=sigma,
            vcov=found.vcov,
            b=found.b,
            loglik=found.value,
            reml=reml,
            Ls=[L / sigma for L in problem.split(natural.F)],
            root=found.root,
        )

    def refuse_unbounded(self, solution: Solution) -> None:
        """Refuse a likelihood that grows forever as residual variances vanish."""
        refuse_unbounded_structure(
            self.design, self.problem, self.natural(solution), self.kept, reml=solution.reml
        )

    def limits(self, solution: Solution) -> list[str]:
        """In words, what vanished or reached its limit."""
        theta = self.natural(solution)
        found = vanishing_cells(self.design, self.problem, theta, solution)
        limit = self.problem.structure.boundary(theta.c)
        return [*(f"{name} tends to 0" for name in found), *([limit] if limit else [])]

    def at_limit(self, solution: Solution) -> np.ndarray:
        """Whether a component is rho or the range, at its limit."""
        reached = self.problem.structure.boundary(self.natural(solution).c) is not None
        return np.array([reached and c.kind in ("rho", "range") for c in self.components])

    def values(self, solution: Solution) -> np.ndarray:
        return self.values_at(solution.theta)

    def values_at(self, x: np.ndarray) -> np.ndarray:
        """The components' values at coordinates."""
        return component_values(self.design, self.coordinates, x)

    def jacobian(self, solution: Solution) -> np.ndarray:
        """Derivative of the components in the coordinates, by central differences."""
        x = solution.theta
        rows = central_differences(self.values_at, x, np.full(len(x), 1e-6))
        return np.nan_to_num(np.ascontiguousarray(rows.T))

    def slope(self, solution: Solution, function: Callable) -> np.ndarray:
        """Derivative of a function of (Sigmas, sigma) in the coordinates."""

        def at(x: np.ndarray):
            natural = self.coordinates.theta(x)
            return function(self.problem.covariances(natural.F), self.mean_sigma(natural.eta))

        x = solution.theta
        return central_differences(at, x, np.full(len(x), 1e-6))

    def mean_sigma(self, eta: np.ndarray) -> float:
        """Root of the rows' mean residual variance of weight 1."""
        weights = self.problem.weights
        unit = 1.0 if weights is None else np.mean(1.0 / weights)
        return float(np.sqrt(self.problem.row_variances(eta).mean() / unit))

    def curvature(self, solution: Solution) -> VarianceCurvature:
        """Of the deviance in the coordinates."""
        return absolute_curvature(self.problem, solution.theta, reml=solution.reml)

    def kenward_roger(self, solution: Solution) -> KenwardRoger:
        """The adjustment at a REML optimum."""
        log_linear = self.design.stated_residual.variance.kind == "log-linear"
        return absolute_kenward_roger(self.problem, self.natural(solution), log_linear=log_linear)

    def effect_covariances(self, solution: Solution) -> list[np.ndarray]:
        return self.problem.effect_covariances(self.natural(solution))

    def predictor_variance(self, solution: Solution, X, Z, codes, residual=None) -> np.ndarray:
        theta = self.natural(solution)
        if residual is None:
            return self.problem.predictor_variance(theta, X, Z, codes)
        assert isinstance(self.problem, BlockProblem | WoodburySystem)  # residuals are correlated
        return self.problem.predictor_variance(theta, X, Z, codes, residual)

    def residual_parameters(self, solution: Solution) -> tuple[np.ndarray, np.ndarray]:
        theta = self.natural(solution)
        return theta.eta, theta.c

    def residual_root(self, solution: Solution, values: np.ndarray, *, inverse: bool) -> np.ndarray:
        return self.problem.residual_root(self.natural(solution))(values, inverse=inverse)

    def with_response(self, y: np.ndarray) -> AbsoluteLikelihood:
        design = self.design
        problem = self.problem.with_response(y - design.offset, design.X[:, self.kept])
        return AbsoluteLikelihood(design, problem, self.kept)

    def estimator(self, *, reml: bool, start: np.ndarray | None = None):
        """See :meth:`LikelihoodEngine.estimator`: one by one."""
        return one_by_one(self, reml=reml, start=start)

    def coefficient_profile(self, solution: Solution, at: int) -> Callable[[float], float]:
        return coefficient_deviance(self, solution.theta, at)

    def component_profile(
        self, solution: Solution, component: Component
    ) -> Callable[[float], float]:
        held = held_component_deviance(self, solution.theta, component)
        if held is None:
            held = constrained_deviance(self, solution.theta, component, solution.sigma)
        return held


def _refuse_known(priors: Priors) -> None:
    """Refuse parameters that have a value.

    Raises
    ------
    PriorError
    """
    for key, prior in priors.items():
        if prior.name == "Fixed":
            raise PriorError(
                f"{key} has a fixed value, but beside residual= and sigma= REML and maximum "
                "likelihood estimate every covariance parameter. Use model.fit()."
            )


def absolute_curvature(
    problem: StructuredProblem, x: np.ndarray, *, reml: bool
) -> VarianceCurvature:
    """Hessian of the deviance and slope of the coefficients' covariance in x.

    Satterthwaite's degrees of freedom do not depend on the coordinates at an inner optimum, where
    the gradient vanishes. Central differences of the exact gradient.
    """
    search = AbsoluteSearch(problem, reml)
    d, p, steps = len(x), problem.p, np.full(len(x), 1e-4)

    def vcov(x: np.ndarray) -> np.ndarray:
        return problem.solve(search.coordinates.theta(x), ml=not reml).vcov

    with single_threaded_blas():
        H = central_differences(lambda x: search.deviance(x)[1], x, steps).reshape(d, d)
        jacobian = central_differences(vcov, x, steps).reshape(d, p, p)
    H = 0.5 * (H + H.T)
    inverse, flat = pseudo_inverse(H)
    return VarianceCurvature(2 * inverse, jacobian, H, flat)


def absolute_kenward_roger(
    problem: StructuredProblem, theta: Theta, *, log_linear: bool = False
) -> KenwardRoger:
    """The Kenward-Roger adjustment at a REML optimum.

    Parameters are the entries of the Sigma_k and, of the residual covariance: its entries where
    they are free (unstructured with a variance per time; compound symmetry with one variance),
    else variances (log standard deviations of a log-linear formula) and rho, range or correlations.
    In the latter V is not linear and its second derivatives enter (Kenward and Roger 1997, eq. 5).
    Information is expected.

    Raises
    ------
    TooManyEffectsError
        If a dense matrix over all connected effects would be too large.
    """
    with single_threaded_blas():
        terms, second = _derivatives(problem, theta, log_linear)
    return adjustment(terms, problem.coordinates, second)


def _derivatives(problem: StructuredProblem, theta: Theta, log_linear: bool):
    if isinstance(problem, CellProblem):
        return cell_derivatives(problem, theta, log_linear=log_linear)
    if isinstance(problem, WoodburySystem):
        return woodbury_derivatives(problem, theta, log_linear=log_linear)
    assert isinstance(problem, BlockProblem)
    return block_derivatives(problem, theta, log_linear=log_linear)
