"""The maximum of the likelihood of a response that is not Gaussian, boundary included."""

from __future__ import annotations

import numpy as np

from bayeslmm.laplace.system import ResponseSystem
from bayeslmm.likelihood.optimize import Search
from bayeslmm.likelihood.response_coordinates import (
    ResponseCoordinates,
    ResponsePoint,
    predictor_unit,
)
from bayeslmm.parts.patterns import pack_theta

__all__ = ["ResponseSearch", "row_at_end"]

#: A slope of the deviance, in coordinates that vary by about one, that is none.
_SLOPE = 2e-3
#: What distance from an end of the linear predictor's range, in its unit, is none.
_AT_END = 0.02


class ResponseSearch(Search):
    """The deviance in the coordinates of :class:`ResponseCoordinates`.

    Evaluations start at the mode of the last one.
    """

    problem: ResponseSystem
    options = {"maxiter": 1000, "maxfun": 2000, "ftol": 1e-13, "gtol": 5e-5, "maxcor": 30}

    def __init__(self, coordinates: ResponseCoordinates):
        super().__init__(coordinates.system, False)
        self.coordinates = coordinates
        self._near: tuple[np.ndarray, np.ndarray] | None = None
        self._latest: tuple[np.ndarray, ResponsePoint] | None = None

    @property
    def n_effects(self) -> int:
        return sum(n_levels * q for n_levels, q in self.problem.effect_shapes)

    def n_others(self, x: np.ndarray) -> int:
        return int(super().n_others(x) > 0)

    def starts(self) -> tuple[np.ndarray, list[np.ndarray]]:
        first, *others = map(self._inside, self.coordinates.starts())
        return first, others

    def _inside(self, x: np.ndarray) -> np.ndarray:
        """With smaller effects where these leave the range of the link."""
        r = self.coordinates.n_factors
        for _ in range(4):
            if np.isfinite(self.value(x)):
                break
            x = np.concatenate([0.1 * x[:r], x[r:]])
        return x

    def point(self, x: np.ndarray) -> ResponsePoint:
        """The log-likelihood and its derivatives."""
        x = np.asarray(x, dtype=float)
        if self._latest is not None and np.array_equal(x, self._latest[0]):
            return self._latest[1]
        self.n_evaluations += 1
        found = self.coordinates.evaluate(x, self._near)
        if found.mode is not None:
            self._near = found.mode.b, found.mode.U
        self._latest = x.copy(), found
        return found

    def descend(self, x: np.ndarray) -> tuple[np.ndarray, float]:
        self._near = None
        x, _ = self.minimize(lambda point: (point, 1.0), x)
        return x, self.value(x)

    def value(self, x: np.ndarray) -> float:
        value = -2.0 * self.point(x).value
        return value if np.isfinite(value) else np.inf

    def slope(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        found = self.point(x)
        if not np.isfinite(found.value):
            return np.inf, np.zeros_like(x)
        return -2.0 * found.value, -2.0 * found.gradient

    @property
    def row_units(self) -> list[np.ndarray]:
        return self.coordinates.sizes

    def unpack(self, x: np.ndarray) -> list[np.ndarray]:
        return self.problem.template.split(self.coordinates.natural(x)[0])

    def repacked(self, x: np.ndarray, Ls: list[np.ndarray]) -> np.ndarray:
        out = x.copy()
        entries = pack_theta(self.patterns, Ls)
        out[: len(entries)] = entries / self.coordinates.units
        return out

    def matrix_slopes(self, x: np.ndarray) -> list[np.ndarray]:
        return self.problem.template.split(-2.0 * self.point(x).d_Sigma)

    def steps(self, x: np.ndarray) -> np.ndarray:
        return np.ones_like(x)

    def is_stationary(self, x: np.ndarray) -> bool:
        """Whether the gradient vanishes beside a standard error's worth of it."""
        value, gradient = self.slope(x)
        return bool(np.isfinite(value) and np.max(np.abs(gradient), initial=0.0) < _SLOPE)


def row_at_end(system: ResponseSystem, eta: np.ndarray) -> tuple[int, float] | None:
    """The row whose linear predictor is where its range ends, and that end; None if none is.

    The effects of its level are most probable right there, or beyond: Laplace's approximation,
    around a point where the density is level, ends with them.

    Parameters
    ----------
    eta : (n,) array
        At the most probable effects.
    """
    gaps = np.abs(eta - np.array(system.family.predictor_range)[:, None])
    side, row = np.unravel_index(np.argmin(gaps), gaps.shape)
    if gaps[side, row] > _AT_END * predictor_unit(system):
        return None
    return int(row), float(system.family.predictor_range[side])
