"""Profile likelihood intervals (of the ML deviance, as in lme4, whatever the fit).

For a variance component the others are optimized in log standard deviations and canonical
partial correlations, with the one of interest held fixed; a correlation is made the first
partial correlation of its block, where it is the correlation itself. For a coefficient its
column is moved to the offset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtri

from bayeslmm.gaussian import Problem, factorize, single_threaded_blas
from bayeslmm.gaussian._criteria import profile_statistics
from bayeslmm.gaussian.orthogonal import with_coefficient_fixed
from bayeslmm.likelihood.optimize import best_of, optimize
from bayeslmm.parts.correlations import (
    CorrelationLayout,
    correlation_layout,
    correlations_from_factors,
    factors_from_correlations,
    pullback_to_correlations,
)
from bayeslmm.parts.patterns import CovariancePattern, lower_factor

__all__ = ["coefficient_profile", "component_profile", "ml_deviance", "profile_interval"]

_FLOOR = 1e-6
_EDGE = 1 - 1e-7


def ml_deviance(
    problem: Problem, Sigmas: list[np.ndarray], sigma: float
) -> tuple[float, list[np.ndarray], float]:
    """-2 log-likelihood at given (co)variances, beta profiled out, with derivatives.

    Parameters
    ----------
    Sigmas : list of (q_k, q_k) arrays
        Absolute covariance matrices, positive semidefinite.
    sigma : float

    Returns
    -------
    value : float
    dSigmas : list of (q_k, q_k) arrays
        Derivatives in the matrix entries.
    dsigma2 : float
        Derivative in sigma^2, from the homogeneity of V.
    """
    state = factorize(problem, [lower_factor(S) / sigma for S in Sigmas])
    cp = problem.cp
    _, gamma, pwrss, _, _ = profile_statistics(
        state.S, state.log_det, cp.n, cp.sum_log_weights, False
    )
    s2 = sigma**2
    value = cp.n * np.log(2 * np.pi * s2) + state.log_det - cp.sum_log_weights + pwrss / s2
    combination = np.append(-gamma, 1.0)
    T, Q = state.derivative_sums(np.outer(combination, combination))
    dSigmas = problem.split(T / s2 - Q / s2**2)
    inner = sum(float(np.sum(S * D)) for S, D in zip(Sigmas, dSigmas, strict=True))
    return float(value), dSigmas, float((cp.n - pwrss / s2 - inner) / s2)


@dataclass(frozen=True)
class _Components:
    """Unconstrained coordinates of all variance components, blocks permuted.

    x = (log sds, atanh partial correlations, log sigma).
    """

    problem: Problem
    order: list[np.ndarray]
    layout: CorrelationLayout
    offsets: np.ndarray
    unit: np.ndarray

    @classmethod
    def of(cls, problem: Problem, first: tuple[int, int, int] | None = None) -> _Components:
        """Coordinates with effects (i, j) of factor k first in their block."""
        orders, patterns = [], []
        for k, pattern in enumerate(problem.patterns):
            order = np.arange(pattern.q)
            if first is not None and first[0] == k:
                rest = [e for e in order if e not in first[1:]]
                order = np.array([*first[1:], *rest])
            place = np.argsort(order)
            blocks = tuple(tuple(sorted(int(place[e]) for e in b)) for b in pattern.blocks)
            orders.append(order)
            patterns.append(CovariancePattern(pattern.q, blocks))
        sizes = [p.q**2 for p in patterns]
        scales = [
            f.column_scales[order] for f, order in zip(problem.cp.factors, orders, strict=True)
        ]
        unit = 1.0 / np.concatenate([*scales, np.zeros(0)])
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
        return cls(problem, orders, correlation_layout(patterns), offsets, unit)

    @property
    def spread(self) -> float:
        """Standard deviation of the response, weights included."""
        cp = self.problem.cp
        gram = cp.gram
        centered = gram[-2, -2] - gram[-1, -2] ** 2 / gram[-1, -1]
        return float(np.sqrt(max(centered / cp.n, np.finfo(float).tiny)))

    def middle(self, x: np.ndarray) -> np.ndarray:
        """`x` with correlations at zero and no standard deviation next to nothing."""
        m, r = self.layout.n_effects, self.layout.n_correlations
        inner = x.copy()
        inner[:m] = np.maximum(x[:m], np.log(0.1 * np.exp(x[-1]) * self.unit))
        inner[m : m + r] = 0.0
        return inner

    def pack(self, Sigmas: list[np.ndarray], sigma: float) -> np.ndarray:
        flat = [
            lower_factor(S[np.ix_(o, o)]).ravel() for S, o in zip(Sigmas, self.order, strict=True)
        ]
        sd, u = correlations_from_factors(self.layout, np.concatenate([*flat, np.zeros(0)]))
        floor = _FLOOR * sigma * self.unit
        limit = np.arctanh(_EDGE)
        return np.concatenate(
            [np.log(np.maximum(sd, floor)), np.clip(u, -limit, limit), [np.log(sigma)]]
        )

    def deviance(self, x: np.ndarray, zero: int | None = None) -> tuple[float, np.ndarray]:
        """ML deviance and its gradient in x; the sd at position `zero` is taken as 0."""
        m, r = self.layout.n_effects, self.layout.n_correlations
        sd, u, sigma = np.exp(x[:m]), x[m : m + r], float(np.exp(x[-1]))
        if zero is not None:
            sd[zero] = 0.0
        F = factors_from_correlations(self.layout, sd, u)
        Sigmas, factors = [], []
        for k, order in enumerate(self.order):
            q = len(order)
            factor = F[self.offsets[k] : self.offsets[k + 1]].reshape(q, q)
            place = np.argsort(order)
            factors.append(factor)
            Sigmas.append((factor @ factor.T)[np.ix_(place, place)])
        value, dSigmas, dsigma2 = ml_deviance(self.problem, Sigmas, sigma)
        G = [2 * D[np.ix_(o, o)] @ f for D, o, f in zip(dSigmas, self.order, factors, strict=True)]
        flat = np.concatenate([*(g.ravel() for g in G), np.zeros(0)])
        d_log_sd, d_u = pullback_to_correlations(self.layout, sd, u, flat)
        return value, np.concatenate([d_log_sd, d_u, [2 * sigma**2 * dsigma2]])


def component_profile(
    problem: Problem,
    Sigmas: list[np.ndarray],
    sigma: float,
    target: tuple,
) -> Callable[[float], float]:
    """The ML deviance with one variance component fixed, the rest optimized.

    Parameters
    ----------
    Sigmas, sigma
        The ML optimum.
    target : tuple
        ``("sd", k, i)``, ``("corr", k, i, j)`` or ``("sigma",)``.

    Returns
    -------
    callable
        From the component's value to the deviance; calls start where the last one ended.
    """
    first = tuple(target[1:]) if target[0] == "corr" else None
    coordinates = _Components.of(problem, first)
    start = coordinates.pack(Sigmas, sigma)
    at, transform = _position(coordinates, target)
    free = np.arange(len(start)) != at
    if problem.known_sigma is not None:
        free[-1] = False
    state = {"x": start[free]}
    lowest = coordinates.deviance(start)[0]
    lowest -= 1e-6 * (1.0 + abs(lowest))
    known: dict[float, float] = {}
    bounds = [b for b, keep in zip(_bounds(coordinates), free, strict=True) if keep]

    def deviance(value: float) -> float:
        value = float(value)
        if value not in known:  # the search must see one value per point
            known[value] = best_of_starts(value)
        return known[value]

    def best_of_starts(value: float) -> float:
        zero = at if target[0] == "sd" and value <= 0 else None
        fixed = 0.0 if zero is not None else transform(value)

        def objective(part: np.ndarray):
            x = start.copy()
            x[free], x[at] = part, fixed
            result, gradient = coordinates.deviance(x, zero)
            # below the optimum only where rounding has eaten the residuals: sigma next to nothing
            if not np.isfinite(result) or result < lowest:
                return 1e300, np.zeros(len(part))
            return result, gradient[free]

        if not free.any():
            return objective(np.empty(0))[0]

        # where the last point ended, from the optimum, and from the middle: near a bound
        # the density is flat, and a search that starts there stays there
        starts = (state["x"], start[free], coordinates.middle(start)[free])
        with single_threaded_blas():
            found = best_of(objective, starts, bounds, maxfun=2000)
        state["x"] = found.x
        return float(found.fun)

    return deviance


def _bounds(coordinates: _Components) -> list[tuple]:
    """Standard deviations from next to nothing to far too large; correlations short of one."""
    r = coordinates.layout.n_correlations
    spread = coordinates.spread
    limit = np.arctanh(_EDGE)
    low = np.log(1e-2 * _FLOOR * spread * coordinates.unit)
    high = np.log(1e3 * spread * coordinates.unit)
    bounds = [*zip(low, high, strict=True)] + [(-limit, limit)] * r
    return [*bounds, (np.log(1e-9 * spread), np.log(1e3 * spread))]


def _position(coordinates: _Components, target: tuple) -> tuple[int, Callable[[float], float]]:
    """Coordinate of the target and the map from its value."""
    starts = np.concatenate([[0], np.cumsum([len(o) for o in coordinates.order])])
    m, r = coordinates.layout.n_effects, coordinates.layout.n_correlations
    if target[0] == "sigma":
        return m + r, np.log
    if target[0] == "sd":
        _, k, i = target
        return int(starts[k] + np.flatnonzero(coordinates.order[k] == i)[0]), np.log
    row = int(starts[target[1]]) + 1  # the second effect of the permuted factor
    number = int(coordinates.layout.number[coordinates.layout.row_ptr[row]])
    return m + number, np.arctanh


def coefficient_profile(problem: Problem, theta: np.ndarray, j: int) -> Callable[[float], float]:
    """The ML deviance with coefficient `j` fixed, the rest optimized."""
    state = {"theta": theta}

    def deviance(value: float) -> float:
        reduced = problem.with_products(with_coefficient_fixed(problem.cp, j, value))
        start = state["theta"] if np.all(np.isfinite(state["theta"])) else None
        found = optimize(reduced, reml=False, start=start)
        state["theta"] = found.theta
        return found.criterion

    return deviance


def profile_interval(
    deviance: Callable[[float], float],
    estimate: float,
    minimum: float,
    *,
    step: float,
    level: float,
    lowest: float = -np.inf,
    highest: float = np.inf,
) -> tuple[float, float]:
    """Values at which the profiled deviance exceeds its minimum by the chi-squared quantile.

    Parameters
    ----------
    deviance : callable
    estimate : float
        Where the deviance is smallest.
    minimum : float
        Its value there.
    step : float
        First guess of the distance.
    lowest, highest : float
        Limits of the parameter; returned where the deviance stays below the quantile.

    Returns
    -------
    lower, upper : float
    """
    cut = float(np.sqrt(chdtri(1, 1 - level)))

    def excess(value: float) -> float:
        return float(np.sqrt(max(deviance(value) - minimum, 0.0))) - cut

    return (
        _crossing(excess, estimate, -step, lowest),
        _crossing(excess, estimate, step, highest),
    )


def _crossing(excess: Callable[[float], float], start: float, step: float, limit: float) -> float:
    from scipy.optimize import brentq

    inside, outside = start, start
    for _ in range(60):
        outside = inside + step
        beyond = outside <= limit if step < 0 else outside >= limit
        if beyond:
            if inside == limit or excess(limit) < 0:
                return limit
            outside = limit
            break
        if excess(outside) >= 0:
            break
        inside, step = outside, 1.6 * step
    else:
        return np.nan
    if not excess(inside) < 0 <= excess(outside):
        return np.nan
    return float(brentq(excess, inside, outside, xtol=1e-7 * abs(step), rtol=1e-9))
