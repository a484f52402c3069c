"""The deviance of a response that is not Gaussian with a coefficient or a component held.

A coefficient's column goes to the offset. A standard deviation is an entry of its factor where the
effect is the first of its block, and a correlation the direction of a row where its effects are the
first two; the family's parameters are coordinates or, thresholds, a sum of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bayeslmm.gaussian import single_threaded_blas
from bayeslmm.laplace.transforms import is_ordered, unbounded
from bayeslmm.likelihood.components import Component
from bayeslmm.likelihood.optimize import best_of, central_differences
from bayeslmm.likelihood.response_coordinates import ResponseCoordinates, mapped_factors
from bayeslmm.likelihood.response_search import ResponseSearch
from bayeslmm.parts.patterns import lower_factor

__all__ = ["coefficient_deviance", "component_deviance"]

Parameters = tuple[np.ndarray, np.ndarray, np.ndarray]
#: An entry of a factor this small, in coordinates, is lifted off zero to search from.
_TINY, _LIFTED = 1e-3, 0.5


def coefficient_deviance(
    coordinates: ResponseCoordinates,
    maps: list[np.ndarray | None],
    optimum: Parameters,
    at: int,
) -> Callable[[float], float]:
    """The deviance with a coefficient held, the rest optimized.

    Parameters
    ----------
    maps : list
        K of the effects that are searched over.
    optimum : (F, phi, beta)
    at : int
        Which coefficient.
    """
    F, phi, beta = optimum
    whole = coordinates.system
    F = mapped_factors(whole.template.split, F, maps, np.linalg.solve)
    held = whole.with_coefficient_held(at, float(beta[at]))
    inner = ResponseCoordinates.of(held, coordinates.n_quadrature).mapped(maps)
    state = {"x": inner.x_of(F, phi, np.delete(beta, at))}

    def deviance(value: float) -> float:
        moved = replace(
            inner,
            system=inner.system.with_offset(whole.offset + value * whole.X[:, at]),
        )
        found = ResponseSearch(moved).optimum(state["x"])
        state["x"] = found.theta
        return found.criterion

    return deviance


def component_deviance(
    coordinates: ResponseCoordinates, optimum: Parameters, component: Component
) -> Callable[[float], float]:
    """The deviance with a component held, the rest optimized.

    Parameters
    ----------
    optimum : (F, phi, beta)
    component : Component
    """
    first = component.at[1:] if component.kind in ("sd", "corr") else ()
    if first:
        F, phi, beta = optimum
        k = component.at[0]
        L = coordinates.system.template.split(F)
        order = [*first, *(e for e in range(len(L[k])) if e not in first)]
        L[k] = lower_factor((L[k] @ L[k].T)[np.ix_(order, order)], checked=False)
        coordinates = coordinates.permuted(k, first)
        optimum = np.concatenate([part.ravel() for part in L]), phi, beta
    return _Held(coordinates, optimum, component)


class _Held:
    """The deviance over what is left free; see :func:`component_deviance`."""

    def __init__(self, coordinates: ResponseCoordinates, optimum: Parameters, component: Component):
        self.coordinates, self.component = coordinates, component
        self.search = ResponseSearch(coordinates)
        x = coordinates.x_of(*optimum)
        self.left_out, self.row = self._positions()
        self.free = np.delete(x, self.left_out)
        if component.kind == "corr":  # the length of the row in place of its second entry
            units = coordinates.units
            entries = x[[self.left_out, self.row]] * units[[self.left_out, self.row]]
            self.free[self._after(self.row)] = np.hypot(*entries) / units[self.row]

    def _positions(self) -> tuple[int, int]:
        """The coordinate that is not free, and of a correlation the other of its row."""
        coordinates, component = self.coordinates, self.component
        if component.kind == "family":
            ordered = is_ordered(coordinates.system.family)
            return coordinates.n_factors + (0 if ordered else component.at[0]), -1
        k = component.at[0]
        before = sum(p.n_parameters for p in coordinates.system.patterns[:k])
        rows, columns = coordinates.system.patterns[k].entries
        row = 1 if component.kind == "corr" else 0
        at = before + int(np.flatnonzero((rows == row) & (columns == 0))[0])
        if component.kind == "sd":
            return at, -1
        return at, before + int(np.flatnonzero((rows == 1) & (columns == 1))[0])

    def _after(self, position: int) -> int:
        return position - (position > self.left_out)

    def _filled(self, free: np.ndarray, value: float) -> np.ndarray:
        """All coordinates."""
        coordinates, at = self.coordinates, self.left_out
        x = np.insert(free, at, 0.0)
        if self.component.kind == "sd":
            x[at] = value / coordinates.units[at]
        elif self.component.kind == "corr":
            size = free[self._after(self.row)] * coordinates.units[self.row]
            x[at] = size * value / coordinates.units[at]
            x[self.row] = size * np.sqrt(1.0 - value**2) / coordinates.units[self.row]
        else:
            x[at] = self._family_coordinate(x, value)
        return x

    def _family_coordinate(self, x: np.ndarray, value: float) -> float:
        coordinates, k = self.coordinates, self.component.at[0]
        family = coordinates.system.family
        if is_ordered(family):  # the first threshold follows from this one, in natural units
            return (value - coordinates.natural(x)[1][k]) / coordinates.phi_unit
        _, phi, _ = coordinates.natural(x)
        phi[k] = value
        return float(unbounded(family, phi)[k] / coordinates.phi_unit)

    def __call__(self, value: float) -> float:
        value = float(value)

        def objective(free: np.ndarray):
            x = self._filled(free, value)
            deviance, slope = self.search.slope(x)
            if not np.isfinite(deviance):
                return 1e10, np.zeros(len(free))
            steps = np.full(len(free), 1e-6)
            J = central_differences(lambda part: self._filled(part, value), free, steps)
            return deviance, J.reshape(len(free), len(x)) @ slope

        if not len(self.free):
            return float(objective(self.free)[0])
        starts = [self.free]
        entries = np.arange(len(self.free)) < self.coordinates.n_factors - (
            self.component.kind in ("sd", "corr")
        )
        vanished = entries & (np.abs(self.free) < _TINY)
        if vanished.any():
            starts.append(np.where(vanished, _LIFTED, self.free))
        with single_threaded_blas():
            found = best_of(objective, starts)
        self.free = found.x
        return float(found.fun)
