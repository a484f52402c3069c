"""Responses that are not Gaussian: coefficients, covariances and the family's parameters together.

The likelihood is Laplace's approximation or, where effects of one grouping factor are few,
adaptive Gauss-Hermite quadrature. It does not split into a part free of the coefficients, so that
they are parameters as all others, and there is no restricted likelihood.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from bayeslmm.assembly import response_system
from bayeslmm.errors import DataError, PriorError
from bayeslmm.gaussian import FactorRows, single_threaded_blas
from bayeslmm.gaussian.leverage import effect_variance
from bayeslmm.laplace.system import Mode, ResponseSystem
from bayeslmm.laplace.transforms import natural, unbounded
from bayeslmm.likelihood.components import Component, effect_component_values, effect_components
from bayeslmm.likelihood.engine import estimated_coefficients, one_by_one
from bayeslmm.likelihood.optimize import Optimum, central_differences
from bayeslmm.likelihood.response_coordinates import (
    ResponseCoordinates,
    decorrelating_maps,
    mapped_factors,
)
from bayeslmm.likelihood.response_profile import coefficient_deviance, component_deviance
from bayeslmm.likelihood.response_search import ResponseSearch, row_at_end
from bayeslmm.likelihood.satterthwaite import VarianceCurvature, pseudo_inverse
from bayeslmm.likelihood.separation import refuse_separated

if TYPE_CHECKING:
    from bayeslmm.formula import Design
    from bayeslmm.protocols import Model

__all__ = ["MOST_QUADRATURE_EFFECTS", "ResponseLikelihood", "ResponseSolution", "family_components"]

#: Effects per level up to which nodes on a grid are few enough.
MOST_QUADRATURE_EFFECTS = 3
#: A step, in coordinates that vary by about one, over which gradients are differenced.
_STEP = 1e-3
#: Logarithm of odds, or of a parameter over the mean, from which on nothing changes.
_FAR = 8.0


@dataclass(frozen=True)
class ResponseSolution:
    """Estimates of a response that is not Gaussian; as :class:`bayeslmm.gaussian.Solution`.

    Attributes
    ----------
    engine : ResponseLikelihood
    theta : (d,) array
        Free entries of the factors of the covariance matrices, the family's parameters as
        unbounded numbers, coefficients.
    beta, phi : arrays
        Coefficients, and the family's parameters.
    b : list of (J_k, q_k) arrays
        Conditional modes.
    loglik : float
    Ls : list of (q_k, q_k) arrays
        Factors of the covariance matrices.
    mode : Mode
    sigma : float
        1: there is no residual standard deviation that factors are relative to.
    """

    engine: ResponseLikelihood
    theta: np.ndarray
    beta: np.ndarray
    phi: np.ndarray
    b: list[np.ndarray]
    loglik: float
    Ls: list[np.ndarray]
    mode: Mode
    sigma: float = 1.0
    reml: bool = False
    root: None = None

    @cached_property
    def curvature(self) -> VarianceCurvature:
        """Of the deviance in all parameters."""
        return self.engine.curvature_at(self.theta, self.mode)

    @cached_property
    def vcov(self) -> np.ndarray:
        """Covariance of the coefficients (p, p), that of the other parameters included."""
        slope = self.engine.inner.slope_of_coefficients(self.theta)
        return slope @ self.curvature.covariance @ slope.T

    @cached_property
    def vcov_with_phi(self) -> np.ndarray:
        """Covariance of the coefficients and the family's parameters, (p + n_phi, p + n_phi)."""
        slope = self.engine.slope_of_all(self, lambda beta, _, phi: np.concatenate([beta, phi]))
        return slope.T @ self.curvature.covariance @ slope

    @property
    def Sigmas(self) -> list[np.ndarray]:
        """Covariance matrix of the effects of each factor."""
        return [L @ L.T for L in self.Ls]

    def variances(self, rows: np.ndarray) -> np.ndarray:
        """Variance of the estimate of each combination (k, p), (k,)."""
        return np.einsum("ka,ab,kb->k", rows, self.vcov, rows)


@dataclass(frozen=True)
class ResponseLikelihood:
    """See :class:`bayeslmm.likelihood.engine.LikelihoodEngine`.

    theta are free entries of the factors of the covariance matrices, the family's parameters as
    unbounded numbers, and coefficients; the curvature is in the coordinates of ``inner``.

    Attributes
    ----------
    n_quadrature : int
        Nodes per dimension; 1 is Laplace's approximation.
    """

    design: Design
    problem: ResponseSystem
    kept: np.ndarray
    n_quadrature: int = 1

    @classmethod
    def of(cls, model: Model, n_quadrature: int = 1) -> ResponseLikelihood:
        """That of a model; refuses separated data."""
        design = model.design
        _refuse_known(model)
        _check_quadrature(design, n_quadrature)
        kept = estimated_coefficients(model)
        system = response_system(design, columns=kept)
        refuse_separated(system, [design.coef_names[j] for j in kept], design.response)
        return cls(design, system, kept, int(n_quadrature))

    @property
    def components(self) -> tuple[Component, ...]:
        return (*effect_components(self.design), *family_components(self.design))

    @property
    def least_squares_sigma(self) -> float:
        return 1.0

    @property
    def known_sigma(self) -> float | None:
        """1: there is none to estimate."""
        return 1.0

    @property
    def n_variances(self) -> int:
        """Covariance parameters and the family's."""
        return self.coordinates.n_factors + self.coordinates.n_phi

    @cached_property
    def coordinates(self) -> ResponseCoordinates:
        """Of the effects of the formula."""
        return ResponseCoordinates.of(self.problem, self.n_quadrature)

    @cached_property
    def maps(self) -> list[np.ndarray | None]:
        """K of the effects that are searched over."""
        return decorrelating_maps(self.problem)

    @cached_property
    def inner(self) -> ResponseCoordinates:
        """Of the effects that are searched over."""
        return self.coordinates.mapped(self.maps)

    def parts(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Flat factors, phi and coefficients of theta."""
        r, s = self.coordinates.n_factors, self.coordinates.n_phi
        F = np.zeros(int(self.problem.layout.f_ptr[-1]))
        F[self.coordinates.index] = theta[:r]
        return F, natural(self.problem.family, theta[r : r + s]), np.asarray(theta[r + s :])

    def theta_of(self, F: np.ndarray, phi: np.ndarray, beta: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`parts`."""
        entries = F[self.coordinates.index]
        return np.concatenate([entries, unbounded(self.problem.family, phi), beta])

    def inner_x(self, theta: np.ndarray) -> np.ndarray:
        """Coordinates of ``inner``."""
        F, phi, beta = self.parts(theta)
        F = mapped_factors(self.problem.template.split, F, self.maps, np.linalg.solve)
        return self.inner.x_of(F, phi, beta)

    def outer_parts(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Flat factors, phi and coefficients at coordinates of ``inner``."""
        F, phi, beta = self.inner.natural(x)
        return mapped_factors(self.problem.template.split, F, self.maps, np.matmul), phi, beta

    def describe(self) -> list[str]:
        """Family, link and how effects are integrated out."""
        family, n = self.problem.family, self.n_quadrature
        how = "Laplace's approximation"
        if n > 1:
            how = f"adaptive Gauss-Hermite quadrature, {n} nodes per effect"
        return [f"family {family.name}, link {family.link.name}; {how}"]

    def optimize(self, *, reml: bool, start: np.ndarray | None = None) -> Optimum:
        with single_threaded_blas():
            first = None if start is None else self.inner_x(start)
            found = ResponseSearch(self.inner).optimum(first)
            found = replace(found, theta=self.theta_of(*self.outer_parts(found.theta)))
        if found.converged or not np.isfinite(found.criterion):
            return found
        return replace(found, message=self._why_not(found))

    def _why_not(self, found: Optimum) -> str:
        """Why a search did not converge: that it came to an end of the linear predictor, if so."""
        eta, design = self.solution(found.theta, False).mode.eta, self.design
        at = row_at_end(self.problem, eta)
        if at is None:
            return found.message
        row, end = at
        levels = [f"{block.name} {block.levels[block.codes[row]]!r}" for block in design.blocks]
        of = f" of {', '.join(levels)}" if levels else ""
        return (
            f"the linear predictor of row {design.index[row]!r}{of} is {eta[row]:.2g}, and "
            f'link="{self.problem.family.link.name}" has no means beyond {end:g}, so that '
            "the approximation of the likelihood ends there. Use model.fit(), which is exact, or "
            "another link"
        )

    def solution(self, theta: np.ndarray, reml: bool) -> ResponseSolution:
        F, phi, beta = self.parts(theta)
        with single_threaded_blas():
            at = self.coordinates.evaluate(self.coordinates.x_of(F, phi, beta), gradient=False)
        if at.mode is None:
            raise DataError(
                "The likelihood cannot be evaluated at the estimates. Check the scale of the "
                "columns, or use model.fit()."
            )
        return ResponseSolution(
            engine=self,
            theta=np.asarray(theta, dtype=float),
            beta=beta,
            phi=phi,
            b=self.problem.template.effects(at.mode.b),
            loglik=at.value,
            Ls=self.problem.template.split(F),
            mode=at.mode,
        )

    def refuse_unbounded(self, solution: ResponseSolution) -> None:
        """Separated data are refused before; nothing else grows forever."""

    def limits(self, solution: ResponseSolution) -> list[str]:
        """In words, parameters of the family that reached a limit."""
        found = []
        own = family_components(self.design)
        for component, way in zip(own, self._at_limit(solution), strict=True):
            if way:
                end = f"tends to {0 if way < 0 else component.highest:g}"
                end = end if np.isfinite(component.highest) else "grows without bound"
                found.append(f"{component.name} {end}, where the model is a simpler one")
        return found

    def _at_limit(self, solution: ResponseSolution) -> np.ndarray:
        """-1 or 1 for a parameter of the family that goes to an end, else 0.

        A share that is next to 0 or 1, or a spread of counts that is next to none beside their
        mean: the likelihood is flat from there on.
        """
        family, w = self.problem.family, unbounded(self.problem.family, solution.phi)
        found = np.zeros(len(w))
        for k, parameter in enumerate(p for p in family.parameters for _ in range(p.size)):
            if parameter.transform == "logit":
                found[k] = np.sign(w[k]) * (abs(w[k]) > _FAR)
            elif parameter.transform == "log" and "negativebinomial" in family.name:
                found[k] = w[k] - np.log(np.mean(self.problem.y)) > _FAR
        return found

    def at_limit(self, solution: ResponseSolution) -> np.ndarray:
        own = self._at_limit(solution) != 0
        return np.concatenate([np.zeros(len(self.components) - len(own), dtype=bool), own])

    def values(self, solution: ResponseSolution) -> np.ndarray:
        return self._values(solution.Sigmas, solution.phi)

    def _values(self, Sigmas: list[np.ndarray], phi: np.ndarray) -> np.ndarray:
        return np.concatenate([effect_component_values(self.design, Sigmas), phi])

    def jacobian(self, solution: ResponseSolution) -> np.ndarray:
        """Derivative of the components in the coordinates of ``inner``."""

        def at(x: np.ndarray) -> np.ndarray:
            F, phi, _ = self.outer_parts(x)
            return self._values([L @ L.T for L in self.problem.template.split(F)], phi)

        return np.nan_to_num(self._differences(at, solution).T)

    def slope(self, solution: ResponseSolution, function: Callable) -> np.ndarray:
        """Derivative of a function of (Sigmas, sigma) in the coordinates of ``inner``."""

        def at(x: np.ndarray):
            F = self.outer_parts(x)[0]
            return function([L @ L.T for L in self.problem.template.split(F)], 1.0)

        return self._differences(at, solution)

    def slope_of_all(self, solution: ResponseSolution, function: Callable) -> np.ndarray:
        """Derivative (d, ...) of a function of (beta, Sigmas, phi) in the coordinates of ``inner``.

        The curvature has the covariance of these.
        """

        def at(x: np.ndarray):
            F, phi, beta = self.outer_parts(x)
            return function(beta, [L @ L.T for L in self.problem.template.split(F)], phi)

        return self._differences(at, solution)

    def _differences(self, function: Callable, solution: ResponseSolution) -> np.ndarray:
        x = self.inner_x(solution.theta)
        return central_differences(function, x, np.full(len(x), 1e-6))

    def curvature(self, solution: ResponseSolution) -> VarianceCurvature:
        """Of the deviance in the coordinates of ``inner``, coefficients last."""
        return solution.curvature

    def curvature_at(self, theta: np.ndarray, mode: Mode) -> VarianceCurvature:
        """The Hessian by central differences of the exact gradient."""
        x = self.inner_x(theta)
        search, d, p = ResponseSearch(self.inner), len(x), self.problem.p
        with single_threaded_blas():
            H = central_differences(lambda x: search.slope(x)[1], x, np.full(d, _STEP))
        H = 0.5 * (H + H.T).reshape(d, d)
        inverse, flat = pseudo_inverse(H)
        return VarianceCurvature(2.0 * inverse, np.zeros((d, p, p)), H, flat)

    def kenward_roger(self, solution: ResponseSolution) -> NoReturn:
        """Refused: there is no REML fit."""
        _refuse("Kenward and Roger's adjustment")

    def effect_covariances(self, solution: ResponseSolution) -> list[np.ndarray]:
        return solution.mode.state.effect_covariances()

    def predictor_variance(
        self, solution: ResponseSolution, X, Z, codes, shift: np.ndarray | None = None
    ) -> np.ndarray:
        """Var(x'beta + z'b | y) by the normal approximation at the mode.

        Parameters
        ----------
        X, Z, codes
            As in :meth:`bayeslmm.protocols.LikelihoodResult.predictor_variance`.
        shift : (m, n_phi) array, optional
            Of x'beta + z'b + shift'phi instead, phi estimated together with the coefficients.
        """
        system, at = self.problem, solution.mode
        spread, moved, vcov = np.array(X, dtype=float), -at.slopes[2] * system.X.T, solution.vcov
        if shift is not None:
            spread, vcov = np.column_stack([spread, shift]), solution.vcov_with_phi
            of_phi = system.phi_slopes(at.eta, solution.phi)[:, 1]
            moved = np.concatenate([moved, -of_phi])  # the gradient that modes answer to
        factors = [
            FactorRows(code, z, f.n_levels)
            for code, z, f in zip(codes, Z, system.factors, strict=True)
        ]
        variance = np.zeros(len(spread))
        if factors:
            with single_threaded_blas():
                if len(moved):
                    right = np.stack([system.transposed(row) for row in moved], axis=1)
                    along = system.template.effects(system.solve(at, right))
                    for f, own in zip(factors, along, strict=True):
                        spread -= np.einsum("ia,iap->ip", f.Z, own[f.codes])
                variance = effect_variance(at.state.problem, at.state, factors)
        return variance + np.einsum("ia,ab,ib->i", spread, vcov, spread)

    def residual_parameters(self, solution: ResponseSolution) -> NoReturn:
        """Refused: there are none."""
        _refuse("A residual variance")

    def residual_root(self, solution, values, *, inverse: bool) -> NoReturn:
        """Refused: there are none."""
        _refuse("A residual covariance")

    def with_response(self, y: np.ndarray) -> ResponseLikelihood:
        return ResponseLikelihood(
            self.design, self.problem.with_response(y), self.kept, self.n_quadrature
        )

    def estimator(self, *, reml: bool, start: np.ndarray | None = None):
        """See :meth:`LikelihoodEngine.estimator`: one by one."""
        return one_by_one(self, reml=reml, start=start)

    def coefficient_profile(self, solution: ResponseSolution, at: int) -> Callable[[float], float]:
        F, phi, beta = self.parts(solution.theta)
        return coefficient_deviance(self.coordinates, self.maps, (F, phi, beta), at)

    def component_profile(
        self, solution: ResponseSolution, component: Component
    ) -> Callable[[float], float]:
        return component_deviance(self.coordinates, self.parts(solution.theta), component)


def family_components(design: Design) -> tuple[Component, ...]:
    """The parameters of the response's distribution beside its mean."""
    found: list[Component] = []
    for parameter in design.family.parameters:
        low, high = parameter.support
        for k in range(parameter.size):
            name = parameter.key
            if parameter.transform == "ordered":
                name = f"{name}[{design.categories[k]}|{design.categories[k + 1]}]"
                low, high = -np.inf, np.inf
            found.append(Component(name, "family", (len(found),), low, high))
    return tuple(found)


def _refuse(what: str) -> NoReturn:
    raise DataError(
        f"{what} is not defined for a response that is not Gaussian: its variance follows from its "
        "mean."
    )


def _refuse_known(model: Model) -> None:
    for key in model.priors.fixed():
        raise PriorError(
            f"{key} has a fixed value, but maximum likelihood estimates every parameter of this "
            "family. Use model.fit()."
        )


def _check_quadrature(design: Design, n: int) -> None:
    """Refuse quadrature where the integral has too many dimensions.

    Raises
    ------
    ValueError, DataError
    """
    whole = isinstance(n, int | np.integer) and not isinstance(n, bool)
    if not whole or not 1 <= n <= 100:
        raise ValueError(f"n_quadrature must be a whole number from 1 to 100, not {n!r}.")
    if n == 1:
        return
    if len(design.blocks) != 1:
        names = ", ".join(block.name for block in design.blocks) or "none"
        raise DataError(
            "Quadrature is for models with one grouping factor, whose levels are independent; this "
            f"one has {len(design.blocks)} ({names}). Use n_quadrature=1, Laplace's approximation, "
            "or model.fit(), which is exact."
        )
    if (q := design.blocks[0].n_effects) > MOST_QUADRATURE_EFFECTS:
        raise DataError(
            f"Quadrature is for at most {MOST_QUADRATURE_EFFECTS} random effects per level, and "
            f"{design.blocks[0].name!r} has {q}: {n}^{q} nodes. Use n_quadrature=1, Laplace's "
            "approximation, leave an effect out, or model.fit(), which is exact."
        )
