"""Profile likelihood intervals (of the ML deviance, as in lme4, whatever the fit).

For a variance component the others are optimized in log standard deviations and canonical
partial correlations, with the one of interest held fixed; a correlation is made the first
partial correlation of its block, where it is the correlation itself. For a coefficient its
column is moved to the offset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import chdtri

from bayeslmm.gaussian import Problem, single_threaded_blas
from bayeslmm.gaussian._criteria import profile_statistics
from bayeslmm.gaussian.factor import eliminate
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
#: The root of the deviance's excess is farther from its quantile only where searches end apart.
_CROSSES = 1e-5


def ml_deviance(problem: Problem, F: np.ndarray, sigma: float) -> tuple[float, np.ndarray, float]:
    """-2 log-likelihood at given (co)variances, beta profiled out, with derivatives.

    Parameters
    ----------
    F : flat absolute factors
        Lower triangular, see ``Problem.flat``.
    sigma : float

    Returns
    -------
    value : float
    dSigmas : flat array
        Derivatives in the entries of the covariance matrices, with the layout of ``F``.
    dsigma2 : float
        Derivative in sigma^2, from the homogeneity of V.
    """
    state = eliminate(problem, F / sigma)
    cp = problem.cp
    _, gamma, pwrss, _, _ = profile_statistics(
        state.S, state.log_det, cp.n, cp.sum_log_weights, False
    )
    s2 = sigma**2
    value = cp.n * np.log(2 * np.pi * s2) + state.log_det - cp.sum_log_weights + pwrss / s2
    combination = np.append(-gamma, 1.0)
    T, Q = state.derivative_sums(np.outer(combination, combination))
    D = T / s2 - Q / s2**2
    inner = 0.0
    for k, pattern in enumerate(problem.patterns):
        part = slice(problem.layout.f_ptr[k], problem.layout.f_ptr[k + 1])
        own, L = D[part].reshape(pattern.q, pattern.q), F[part].reshape(pattern.q, pattern.q)
        if len(pattern.blocks) > 1:
            own[~pattern.mask] = 0.0
        inner += float(np.vdot(own @ L, L))
    return float(value), D, float((cp.n - pwrss / s2 - inner) / s2)


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

    @cached_property
    def permuted(self) -> bool:
        """Whether effects are in another order than the model's."""
        return any(np.any(np.diff(order) < 0) for order in self.order)

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
        ends = zip(self.offsets, self.offsets[1:], self.order, strict=False)
        parts = [(slice(a, b), order) for a, b, order in ends]
        natural = F
        if self.permuted:
            natural = F.copy()
            for part, order in parts:
                L, place = F[part].reshape(len(order), -1), np.argsort(order)
                natural[part] = lower_factor((L @ L.T)[np.ix_(place, place)], checked=False).ravel()
        value, D, dsigma2 = ml_deviance(self.problem, natural, sigma)
        G = np.empty(len(F))
        for part, order in parts:
            own = D[part].reshape(len(order), -1)
            if self.permuted:
                own = own[np.ix_(order, order)]
            G[part] = (2 * own @ F[part].reshape(len(order), -1)).ravel()
        d_log_sd, d_u = pullback_to_correlations(self.layout, sd, u, G)
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
    return _ComponentProfile(problem, Sigmas, sigma, target)


class _ComponentProfile:
    """See :func:`component_profile`.

    A search starts where that of the nearest value ended, of those that are nearer to the estimate:
    what is farther may have left the others at a bound, where the density is flat.
    """

    def __init__(self, problem: Problem, Sigmas: list[np.ndarray], sigma: float, target: tuple):
        first = tuple(target[1:]) if target[0] == "corr" else None
        self.coordinates = coordinates = _Components.of(problem, first)
        self.start = coordinates.pack(Sigmas, sigma)
        self.at, self.transform, inverse = _position(coordinates, target)
        self.may_vanish = target[0] == "sd"
        self.estimate = float(inverse(self.start[self.at]))
        self.free = np.arange(len(self.start)) != self.at
        if problem.known_sigma is not None:
            self.free[-1] = False
        lowest = coordinates.deviance(self.start)[0]
        self.lowest = lowest - 1e-6 * (1.0 + abs(lowest))
        bounds = zip(_bounds(coordinates), self.free, strict=True)
        self.bounds = [b for b, keep in bounds if keep]
        self.known: dict[float, tuple[float, np.ndarray]] = {}
        self.thorough = False

    def __call__(self, value: float) -> float:
        """The deviance."""
        value = float(value)
        if value not in self.known:  # the search must see one value per point
            self.known[value] = self._lowest(value, self.thorough)
        return self.known[value][0]

    def confirmed(self, value: float) -> bool:
        """Whether searches from elsewhere find the same; if not, all are made from now on."""
        if self.thorough or self._lowest(value, True)[0] > self(value) - 1e-6:
            return True
        self.search_thoroughly()
        return False

    def search_thoroughly(self) -> None:
        """Search from everywhere, also where that has been done from one point."""
        self.thorough = True
        self.known.clear()

    def _nearest(self, value: float) -> np.ndarray:
        way = value - self.estimate
        inside = [v for v in self.known if 0 < (v - self.estimate) / way < 1] if way else []
        if not inside:
            return self.start[self.free]
        return self.known[min(inside, key=lambda v: abs(v - value))][1]

    def _lowest(self, value: float, thorough: bool) -> tuple[float, np.ndarray]:
        zero = self.at if self.may_vanish and value <= 0 else None
        fixed = 0.0 if zero is not None else self.transform(value)
        start, free = self.start, self.free

        def objective(part: np.ndarray):
            x = start.copy()
            x[free], x[self.at] = part, fixed
            result, gradient = self.coordinates.deviance(x, zero)
            # below the optimum only where rounding has eaten the residuals: sigma next to nothing
            if not np.isfinite(result) or result < self.lowest:
                return 1e300, np.zeros(len(part))
            return result, gradient[free]

        if not free.any():
            return objective(np.empty(0))[0], np.empty(0)
        starts = [self._nearest(value)]
        if thorough:
            # from the optimum, and from the middle: near a bound the density is flat, and a
            # search that starts there stays there
            starts += [start[free], self.coordinates.middle(start)[free]]
        with single_threaded_blas():
            found = best_of(objective, starts, self.bounds, maxfun=2000)
        return float(found.fun), found.x


def _bounds(coordinates: _Components) -> list[tuple]:
    """Standard deviations from next to nothing to far too large; correlations short of one."""
    r = coordinates.layout.n_correlations
    spread = coordinates.spread
    limit = np.arctanh(_EDGE)
    low = np.log(1e-2 * _FLOOR * spread * coordinates.unit)
    high = np.log(1e3 * spread * coordinates.unit)
    bounds = [*zip(low, high, strict=True)] + [(-limit, limit)] * r
    return [*bounds, (np.log(1e-9 * spread), np.log(1e3 * spread))]


def _position(coordinates: _Components, target: tuple) -> tuple[int, Callable, Callable]:
    """Coordinate of the target, the map from its value, and the way back."""
    starts = np.concatenate([[0], np.cumsum([len(o) for o in coordinates.order])])
    m, r = coordinates.layout.n_effects, coordinates.layout.n_correlations
    if target[0] == "sigma":
        return m + r, np.log, np.exp
    if target[0] == "sd":
        _, k, i = target
        return int(starts[k] + np.flatnonzero(coordinates.order[k] == i)[0]), np.log, np.exp
    row = int(starts[target[1]]) + 1  # the second effect of the permuted factor
    number = int(coordinates.layout.number[coordinates.layout.row_ptr[row]])
    return m + number, np.arctanh, np.tanh


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
        About a standard error.
    lowest, highest : float
        Limits of the parameter; returned where the deviance stays below the quantile.

    Returns
    -------
    lower, upper : float
    """
    cut = float(np.sqrt(chdtri(1, 1 - level)))

    known = {float(estimate): -cut}

    def excess(value: float) -> float:
        value = float(value)
        if value not in known:
            known[value] = float(np.sqrt(max(deviance(value) - minimum, 0.0))) - cut
        return known[value]

    def end(way: int, limit: float) -> float:
        # a little beyond where a quadratic deviance would cross
        first = way * 1.1 * cut * step
        found = _crossing(excess, estimate, first, limit)
        if isinstance(deviance, _ComponentProfile) and not deviance.thorough:
            crosses = np.isfinite(found) and (found == limit or abs(excess(found)) < _CROSSES)
            if not crosses:
                deviance.search_thoroughly()
            if not (crosses and deviance.confirmed(found)):
                known.clear()
                found = _crossing(excess, estimate, first, limit)
        return found

    return end(-1, lowest), end(1, highest)


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
