"""What a likelihood fit asks of the model's rows, and the three that answer.

:class:`~bayeslmm.likelihood.profiled.ProfiledLikelihood` where residuals are independent with one
variance, which is profiled out of cross-products, an ``AbsoluteLikelihood`` (in
``likelihood.absolute``) where they have a structure and everything is a parameter, and a
``ResponseLikelihood`` (in ``likelihood.laplace``) where the response is not Gaussian. A fit holds
one and does not ask which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import batched
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from bayeslmm.formula import Design
    from bayeslmm.gaussian import Solution
    from bayeslmm.likelihood.components import Component
    from bayeslmm.likelihood.kenward_roger import KenwardRoger
    from bayeslmm.likelihood.optimize import Optimum
    from bayeslmm.likelihood.satterthwaite import VarianceCurvature
    from bayeslmm.protocols import Model

__all__ = [
    "Estimates",
    "LikelihoodEngine",
    "estimated_coefficients",
    "one_by_one",
    "reestimate",
    "reestimates",
]

#: Responses at a time: what they and their products take in memory, and how smoothly a bar moves.
_BATCH, _BATCH_NUMBERS = 256, 1 << 21


class LikelihoodEngine(Protocol):
    """A model's rows and their likelihood.

    Coordinates of an optimum are its own; ``solution`` is that at an optimum.

    Attributes
    ----------
    design : Design
    problem : Problem or StructuredProblem
    kept : (p,) int array
        Coefficients that are estimated.
    components : tuple of Component
    """

    @property
    def design(self) -> Design: ...
    @property
    def problem(self) -> Any: ...
    @property
    def kept(self) -> np.ndarray: ...

    @classmethod
    def of(cls, model: Model) -> LikelihoodEngine:
        """That of a model; refuses one that likelihood cannot determine."""

    @property
    def components(self) -> tuple[Component, ...]:
        """The variance components."""

    @property
    def least_squares_sigma(self) -> float:
        """Residual standard deviation of the coefficients alone."""

    @property
    def known_sigma(self) -> float | None:
        """Where it is not estimated."""

    @property
    def n_variances(self) -> int:
        """Parameters estimated besides the coefficients."""

    def describe(self) -> list[str]:
        """Lines on the likelihood, where there is something to say."""

    def optimize(self, *, reml: bool, start: np.ndarray | None = None) -> Optimum:
        """Maximize the (restricted) likelihood."""

    def solution(self, theta: np.ndarray, reml: bool) -> Solution:
        """Estimates at theta."""

    def refuse_unbounded(self, solution: Solution) -> None:
        """Refuse a likelihood that grows forever."""

    def limits(self, solution: Solution) -> list[str]:
        """In words, residual parameters that reached a limit."""

    def at_limit(self, solution: Solution) -> np.ndarray:
        """Which components are at the limit of a correlation structure, bool."""

    def values(self, solution: Solution) -> np.ndarray:
        """The components' values."""

    def jacobian(self, solution: Solution) -> np.ndarray:
        """Their derivatives in the parameters of :meth:`curvature`."""

    def slope(self, solution: Solution, function: Callable) -> np.ndarray:
        """Derivative of a function of (Sigmas, sigma) in the parameters of :meth:`curvature`."""

    def curvature(self, solution: Solution) -> VarianceCurvature:
        """Of the deviance at an optimum."""

    def kenward_roger(self, solution: Solution) -> KenwardRoger:
        """The adjustment at a REML optimum."""

    def effect_covariances(self, solution: Solution) -> list[np.ndarray]:
        """Covariances of the effects of every level given y and the estimates."""

    def predictor_variance(self, solution: Solution, X, Z, codes) -> np.ndarray:
        """Var(x'beta + z'b | y) of rows."""

    def residual_parameters(self, solution: Solution) -> tuple[np.ndarray, np.ndarray]:
        """Log residual standard deviations, and parameters of the residual correlations."""

    def residual_root(self, solution: Solution, values: np.ndarray, *, inverse: bool):
        """C or C^-1 times values (n, ...), R = C C'."""

    def with_response(self, y: np.ndarray) -> LikelihoodEngine:
        """The same for another response of the same rows."""

    def estimator(
        self, *, reml: bool, start: np.ndarray | None = None
    ) -> Callable[[np.ndarray], Iterable[Estimates]]:
        """From responses of the same rows, (m, n), to their estimates."""

    def coefficient_profile(self, solution: Solution, at: int) -> Callable[[float], float]:
        """The ML deviance with a coefficient held; ``solution`` by maximum likelihood."""

    def component_profile(
        self, solution: Solution, component: Component
    ) -> Callable[[float], float]:
        """The ML deviance with a component held; ``solution`` by maximum likelihood."""


def estimated_coefficients(model: Model) -> np.ndarray:
    """Positions of the coefficients that are not aliased, int."""
    names = model.design.coef_names
    return np.array([j for j, name in enumerate(names) if name not in model.aliased], dtype=int)


@dataclass(frozen=True)
class Estimates:
    """Estimates for another response of the same rows.

    Attributes
    ----------
    solution : Solution
        Without effects (``b`` empty) where many responses were fitted at once.
    components : array
        In the order of ``LikelihoodFit.components``.
    deviance : float
    converged, singular : bool
    """

    solution: Solution
    components: np.ndarray
    deviance: float
    converged: bool
    singular: bool


def reestimate(
    engine: LikelihoodEngine, y: np.ndarray, *, reml: bool, start: np.ndarray | None = None
) -> Estimates:
    """Fit another response of the same rows, (n,)."""
    again = engine.with_response(y)
    found = again.optimize(reml=reml, start=start)
    solution = again.solution(found.theta, reml)
    return Estimates(
        solution,
        again.values(solution),
        -2 * solution.loglik,
        found.converged,
        found.singular(again.problem.patterns) or bool(again.limits(solution)),
    )


def one_by_one(
    engine: LikelihoodEngine, *, reml: bool, start: np.ndarray | None = None
) -> Callable[[np.ndarray], Iterator[Estimates]]:
    """An :meth:`LikelihoodEngine.estimator` that fits every response by itself."""
    return lambda Y: (reestimate(engine, y, reml=reml, start=start) for y in Y)


def reestimates(
    engine: LikelihoodEngine,
    responses: Iterable[np.ndarray],
    *,
    reml: bool,
    start: np.ndarray | None = None,
) -> Iterator[Estimates]:
    """Fit many other responses of the same rows, each (n,), a batch at a time."""
    estimate = engine.estimator(reml=reml, start=start)
    n = max(len(engine.design.y), 1)
    for batch in batched(responses, max(1, min(_BATCH, _BATCH_NUMBERS // n))):
        yield from estimate(np.stack(batch))
