"""The ML deviance of structured residuals with a component or a coefficient held.

A component that is a coordinate of its own is held there and the rest optimized; one that is a
function of several coordinates (a correlation, the standard deviation of a later effect) is held by
an augmented Lagrangian. A coefficient is profiled by moving its column to the response.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.assembly import structured_problem
from bayeslmm.gaussian import single_threaded_blas
from bayeslmm.likelihood.components import component_values
from bayeslmm.likelihood.coordinates import Coordinates
from bayeslmm.likelihood.optimize import AbsoluteSearch, best_of, central_differences
from bayeslmm.parts.correlations import correlations_from_factors
from bayeslmm.parts.patterns import lower_factor

if TYPE_CHECKING:
    from bayeslmm.gaussian.system import StructuredProblem
    from bayeslmm.likelihood.components import Component
    from bayeslmm.likelihood.engine import LikelihoodEngine

__all__ = ["coefficient_deviance", "constrained_deviance", "held_component_deviance"]

_PENALTY = 1e4


def coefficient_deviance(
    engine: LikelihoodEngine, x: np.ndarray, at: int
) -> Callable[[float], float]:
    """The deviance with coefficient `at` of those kept held; x is the ML optimum."""
    design = engine.design
    others = np.delete(engine.kept, at)
    column = design.X[:, engine.kept[at]]
    base = structured_problem(design, columns=others)
    state = {"x": x}

    def deviance(value: float) -> float:
        y = design.y - design.offset - value * column
        problem = base.with_response(y, design.X[:, others])
        # the same units as the fit, so that its coordinates are a start
        problem = replace(problem, rest=engine.problem.rest)
        found = AbsoluteSearch(problem, reml=False).optimum(state["x"])
        state["x"] = found.theta
        return found.criterion

    return deviance


def held_component_deviance(
    engine: LikelihoodEngine, x: np.ndarray, component: Component
) -> Callable[[float], float] | None:
    """The deviance with a component held that is a coordinate, None where it is none."""
    coordinates = Coordinates(engine.problem)
    start, at = coordinates.n_effect_parameters, component.at
    if component.kind in ("sigma", "log sigma"):
        return _held(engine.problem, x, start + at[0], component.unbounded)
    if component.kind in ("rho", "range"):
        # the structure's coordinates: log of the range, logit (twice Fisher's z) of rho
        factor = 2.0 if component.kind == "rho" else 1.0
        position = start + coordinates.n_scales
        return _held(engine.problem, x, position, lambda v: factor * component.unbounded(v))
    if component.kind == "time corr":
        return _time_correlation(engine, x, *at)
    if component.kind == "sd":
        pattern = engine.problem.patterns[at[0]]
        before = sum(p.n_parameters for p in engine.problem.patterns[: at[0]])
        rows, columns = pattern.entries
        if at[1] in {part[0] for part in pattern.blocks}:
            own = np.flatnonzero((rows == at[1]) & (columns == at[1]))[0]
            unit = coordinates.units[before + own]
            return _held(engine.problem, x, before + int(own), lambda v: v / unit)
    return None


def _time_correlation(engine: LikelihoodEngine, x: np.ndarray, i: int, j: int):
    """With the two times put first their partial correlation is the correlation itself."""
    problem, T = engine.problem, engine.problem.structure.n_times
    order = np.array([i, j, *(t for t in range(T) if t not in (i, j))])
    permuted = problem.with_times(np.argsort(order))
    R = Coordinates(problem).theta(x).c.reshape(T, T)[np.ix_(order, order)]
    w = correlations_from_factors(problem.structure.layout, lower_factor(R).ravel())[1]
    start = len(x) - len(w)
    return _held(permuted, np.concatenate([x[:start], w]), start, np.arctanh)


def _held(
    problem: StructuredProblem, optimum: np.ndarray, at: int, forward
) -> Callable[[float], float]:
    """The deviance minimized with coordinate `at` held."""
    coordinates, flat = Coordinates(problem), problem.prior(None)
    free = np.arange(len(optimum)) != at
    state = {"x": optimum}

    def deviance(value: float) -> float:
        fixed = float(forward(value))

        def objective(part):
            x = np.empty(len(free))
            x[free], x[at] = part, fixed
            theta = coordinates.theta(x)
            log_lik, *slopes, _ = problem.evaluate(theta, flat, True, True)
            if not np.isfinite(log_lik):
                return 1e10, np.zeros(len(part))
            return -2.0 * log_lik, -2.0 * coordinates.gradient(x, theta, *slopes)[free]

        if not free.any():
            return float(objective(np.zeros(0))[0])
        nonzero = np.where(np.abs(optimum) < 1e-3, 0.1, optimum)  # off a vanished variance
        with single_threaded_blas():
            found = best_of(objective, (state["x"][free], nonzero[free]))
        x = np.empty(len(free))
        x[free], x[at] = found.x, fixed
        state["x"] = x
        return float(found.fun)

    return deviance


def constrained_deviance(
    engine: LikelihoodEngine, optimum: np.ndarray, component: Component, sigma: float
) -> Callable[[float], float]:
    """The deviance minimized with one component held by an augmented Lagrangian.

    A component may be any smooth function of the coordinates, so this needs no coordinates of its
    own; the multiplier makes the constraint exact.
    """
    coordinates, flat = Coordinates(engine.problem), engine.problem.prior(None)
    at = engine.components.index(component)
    best = component_values(engine.design, coordinates, optimum)[at]
    scale = max(float(best), 1e-3 * sigma)

    def on_scale(value):  # a standard deviation may be held at 0
        return value / scale if component.kind == "sd" else component.unbounded(value)

    state = {"x": optimum.copy()}

    def held(x):
        return on_scale(component_values(engine.design, coordinates, x)[at])

    def slope(x):
        return central_differences(held, x, np.full(len(x), 1e-6))

    def deviance(value: float) -> float:
        goal = on_scale(value)
        x, multiplier = state["x"].copy(), 0.0
        for _ in range(12):

            def objective(point, multiplier=multiplier):
                theta = coordinates.theta(point)
                log_lik, *slopes, _ = engine.problem.evaluate(theta, flat, True, True)
                gap = held(point) - goal
                if not np.isfinite(log_lik) or not np.isfinite(gap):
                    return 1e10, np.zeros_like(point)
                gradient = -2.0 * coordinates.gradient(point, theta, *slopes)
                total = -2.0 * log_lik + multiplier * gap + 0.5 * _PENALTY * gap**2
                return total, gradient + (multiplier + _PENALTY * gap) * slope(point)

            with single_threaded_blas():
                found = best_of(objective, [x])
            x, gap = found.x, held(found.x) - goal
            multiplier += _PENALTY * gap
            if abs(gap) < 1e-7:
                break
        if abs(held(x) - goal) > 1e-5:
            return np.nan
        state["x"] = x
        log_lik = engine.problem.evaluate(coordinates.theta(x), flat, True, False)[0]
        # what is left of the gap, to first order
        return float(-2.0 * log_lik + multiplier * (held(x) - goal))

    return deviance
