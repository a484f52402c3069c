"""Profile likelihood intervals of a fit with structured residuals.

A component that is a coordinate of its own is held there and the rest optimized; one that is a
function of several coordinates (a correlation, the standard deviation of a later effect) is held by
an augmented Lagrangian. A coefficient is profiled by moving its column to the response.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.errors import ModelWarning, listed
from bayeslmm.formula.components import time_pairs
from bayeslmm.gaussian import single_threaded_blas
from bayeslmm.likelihood.blockwise import optimize_blocks
from bayeslmm.likelihood.coordinates import Coordinates
from bayeslmm.likelihood.profile import profile_interval
from bayeslmm.parts.correlations import correlations_from_factors
from bayeslmm.parts.patterns import lower_factor
from bayeslmm.priors.table import coef_key
from bayeslmm.progress import progress

if TYPE_CHECKING:
    from bayeslmm.gaussian.system import StructuredProblem
    from bayeslmm.protocols import StructuredResult

__all__ = ["profile_intervals"]

_PENALTY = 1e4


def profile_intervals(
    fit: StructuredResult, level: float, parameters: list[str] | None, progressbar: bool
) -> pd.DataFrame:
    """Intervals from the ML deviance, also for a REML fit.

    Raises
    ------
    ValueError
        If there is no such parameter.
    """
    from bayeslmm.results.intervals import all_estimates

    estimates = all_estimates(fit)
    wanted = [parameters] if isinstance(parameters, str) else parameters
    wanted = list(estimates.index) if wanted is None else list(wanted)
    unknown = [name for name in wanted if name not in estimates.index]
    if unknown:
        raise ValueError(
            f"There is no parameter {unknown[0]!r}. Parameters: {listed(estimates.index)}."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelWarning)
        best = fit if not fit.reml else fit.model.ml()
        values = all_estimates(best)
        steps = pd.concat(
            [
                pd.Series(np.sqrt(np.diag(best.vcov)), index=values.index[: len(best.kept)]),
                best.varcomp()["se"],
            ]
        )
    rows = {}
    for name in progress(wanted, "Profiles", show=progressbar):
        lowest, highest = _limits(name, best)
        at = list(values.index).index(name)
        if at < len(best.kept):
            deviance = _coefficient_deviance(best, at)
        elif (own := _coordinate_of(best, name)) is not None:
            deviance = _held_deviance(best._problem, best.theta, *own)
        elif name in (pairs := _time_correlations(best)):
            deviance = _correlation_deviance(best, *pairs[name])
        else:
            deviance = _component_deviance(best, name)
        value, step = float(values[name]), float(steps[name])
        step = step if np.isfinite(step) and step > 0 else 0.2 * max(abs(value), 0.1 * best.sigma)
        with single_threaded_blas():
            rows[name] = profile_interval(
                deviance, float(np.clip(value, lowest, highest)), best.deviance,
                step=step, level=level, lowest=lowest, highest=highest,
            )  # fmt: skip
        if not np.isfinite(rows[name]).all():
            warnings.warn(
                f"The profile of {name} could not be followed to the end of its interval.",
                ModelWarning,
                stacklevel=4,
            )
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["lower", "upper"])
    table.insert(0, "estimate", estimates[wanted])
    table.index.name = "parameter"
    return table


def _limits(name: str, fit: StructuredResult) -> tuple[float, float]:
    structure = fit._problem.structure
    if name in {coef_key(n) for n in fit.design.coef_names} or name.startswith("log_sigma["):
        return -np.inf, np.inf
    if name.startswith("corr("):
        return -1 + 1e-7, 1 - 1e-7
    if name == "rho":
        margin = 1e-7 * (structure.upper - structure.lower)
        return structure.lower + margin, structure.upper - margin
    floor = 0.0 if name.startswith("sd(") else 1e-6 * float(fit.components()[name])
    return floor, np.inf


def _coefficient_deviance(fit: StructuredResult, at: int) -> Callable[[float], float]:
    from bayeslmm.assembly import structured_problem

    design = fit.design
    others = np.delete(fit.kept, at)
    column = design.X[:, fit.kept[at]]
    base = structured_problem(design, columns=others)
    state = {"x": fit.theta}

    def deviance(value: float) -> float:
        y = design.y - design.offset - value * column
        problem = base.with_response(y, design.X[:, others])
        # the same units as the fit, so that its coordinates are a start
        problem = replace(problem, rest=fit._problem.rest)
        found = optimize_blocks(problem, reml=False, start=state["x"])
        state["x"] = found.theta
        return found.criterion

    return deviance


def _coordinate_of(fit: StructuredResult, name: str):
    """Position in the coordinates and the map from the component to it, where there is one."""
    from bayeslmm.results.residual_tables import transform_of

    coordinates = fit._coordinates
    start, variance = coordinates.n_effect_parameters, fit.design.stated_residual.variance
    if name in variance.names:
        forward = (lambda v: v) if name.startswith("log_sigma[") else np.log
        return start + variance.names.index(name), forward
    if name in ("rho", "range"):
        # logit of rho between its limits, log of the range: the structure's own coordinates
        return start + coordinates.n_scales, transform_of(name, fit)[0]
    at = 0
    for block, pattern in zip(fit.design.blocks, fit._problem.patterns, strict=True):
        first = {part[0] for part in pattern.blocks}
        for row, column in zip(*pattern.entries, strict=True):
            effect = f"sd({block.effects[row]} | {block.name})"
            if row == column and row in first and name == effect:
                unit = coordinates.units[at]
                return at, lambda v, unit=unit: v / unit
            at += 1
    return None


def _time_correlations(fit: StructuredResult) -> dict[str, tuple[int, int]]:
    """Correlations of an unstructured covariance and the times they belong to."""
    residual = fit.design.stated_residual
    times = residual.times
    return {f"corr({times[i]}, {times[j]})": (i, j) for i, j in time_pairs(residual)}


def _correlation_deviance(fit: StructuredResult, i: int, j: int) -> Callable[[float], float]:
    """As :func:`_held_deviance`, with the two times put first: their partial correlation is then
    the correlation itself.
    """
    problem, T = fit._problem, len(fit.design.stated_residual.times)
    order = np.array([i, j, *(t for t in range(T) if t not in (i, j))])
    position = np.argsort(order).astype(float)
    layout = problem.blocks.layout
    layout = layout._replace(time=position[layout.time.astype(int)])
    permuted = replace(problem, blocks=replace(problem.blocks, layout=layout))
    R = fit._theta.c.reshape(T, T)[np.ix_(order, order)]
    w = correlations_from_factors(problem.structure.layout, lower_factor(R).ravel())[1]
    start = len(fit.theta) - len(w)
    x = np.concatenate([fit.theta[:start], w])
    return _held_deviance(permuted, x, start, np.arctanh)


def _held_deviance(
    problem: StructuredProblem, optimum: np.ndarray, at: int, forward
) -> Callable[[float], float]:
    """The deviance minimized with coordinate `at` held."""
    from scipy.optimize import minimize

    coordinates, flat = Coordinates(problem), problem.prior(None)
    free = np.arange(len(optimum)) != at
    state = {"x": optimum}

    def deviance(value: float) -> float:
        fixed = float(forward(value))

        def objective(part):
            x = np.empty(len(free))
            x[free], x[at] = part, fixed
            theta = coordinates.theta(x)
            log_lik, *slopes = problem.evaluate(theta, flat, True, True)
            if not np.isfinite(log_lik):
                return 1e10, np.zeros(len(part))
            return -2.0 * log_lik, -2.0 * coordinates.gradient(x, theta, *slopes)[free]

        if not free.any():
            return float(objective(np.zeros(0))[0])
        nonzero = np.where(np.abs(optimum) < 1e-3, 0.1, optimum)  # off a vanished variance
        with np.errstate(all="ignore"):
            found = min(
                (
                    minimize(
                        objective, start[free], jac=True, method="L-BFGS-B",
                        options={"maxiter": 500, "ftol": 1e-13, "gtol": 1e-6},
                    )
                    for start in (state["x"], nonzero)
                ),
                key=lambda result: result.fun,
            )  # fmt: skip
        x = np.empty(len(free))
        x[free], x[at] = found.x, fixed
        state["x"] = x
        return float(found.fun)

    return deviance


def _component_deviance(fit: StructuredResult, name: str) -> Callable[[float], float]:
    """The deviance minimized with one component held by an augmented Lagrangian.

    A component may be any smooth function of the coordinates, so this needs no coordinates of its
    own; the multiplier makes the constraint exact.
    """
    from scipy.optimize import minimize

    from bayeslmm.results.residual_tables import transform_of

    coordinates, flat = Coordinates(fit._problem), fit._problem.prior(None)
    at = list(fit.components().index).index(name)
    forward, _, _ = transform_of(name, fit)
    at_zero = name.startswith("sd(")
    state = {"x": fit.theta.copy()}
    scale = max(float(fit.components()[name]), 1e-3 * fit.sigma) if at_zero else 1.0

    def held(x):
        value = fit._components_at(coordinates.theta(x)).to_numpy()[at]
        return value / scale if at_zero else forward(value)

    def slope(x):
        step = 1e-6
        return np.array(
            [(held(x + step * e) - held(x - step * e)) / (2 * step) for e in np.eye(len(x))]
        )

    def deviance(value: float) -> float:
        goal = value / scale if at_zero else float(forward(value))
        x, multiplier = state["x"].copy(), 0.0
        for _ in range(12):

            def objective(point, multiplier=multiplier):
                theta = coordinates.theta(point)
                log_lik, *slopes = fit._problem.evaluate(theta, flat, True, True)
                gap = held(point) - goal
                if not np.isfinite(log_lik) or not np.isfinite(gap):
                    return 1e10, np.zeros_like(point)
                gradient = -2.0 * coordinates.gradient(point, theta, *slopes)
                total = -2.0 * log_lik + multiplier * gap + 0.5 * _PENALTY * gap**2
                return total, gradient + (multiplier + _PENALTY * gap) * slope(point)

            with np.errstate(all="ignore"):
                found = minimize(
                    objective, x, jac=True, method="L-BFGS-B",
                    options={"maxiter": 500, "ftol": 1e-13, "gtol": 1e-6},
                )  # fmt: skip
            x, gap = found.x, held(found.x) - goal
            multiplier += _PENALTY * gap
            if abs(gap) < 1e-7:
                break
        if abs(held(x) - goal) > 1e-5:
            return np.nan
        state["x"] = x
        log_lik = fit._problem.evaluate(coordinates.theta(x), flat, True, False)[0]
        # what is left of the gap, to first order
        return float(-2.0 * log_lik + multiplier * (held(x) - goal))

    return deviance
