"""A Gaussian process in place of a density that is expensive to evaluate.

The density is nearly a standard normal in whitened coordinates; the process models what is left,
from exact values and gradients (Rasmussen 2003, Bayesian Statistics 7, 651-659). Points are taken
around the mode first, then where the process itself sends a chain: how far the exact density is
from the predicted one there says whether more are needed.

:mod:`bayeslmm.bayes.trajectories` moves by its gradient and accepts by the exact density.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from bayeslmm.bayes.signed import Mirror, image
from bayeslmm.compiling import kernel

__all__ = ["Surrogate", "fit_surrogate", "follow", "path_length"]


#: Where the density is looked at along each axis, and how far random points spread, in whitened
#: units.
_ON_AXES = (-2.5, -1.2, 1.2, 2.5)
_SPREAD = 1.3

#: Points that fall below the center by more than this (in logs) are where no draw comes.
_DEEPEST = 30.0

#: Length scales tried; those points decide that were predicted before they were known.
_LENGTHS = (1.5, 2.2, 3.3, 5.0, 8.0)
_NUGGET = 1e-7

#: Rounds of further points, the standard deviation of the error of the log density at them that
#: ends the rounds, and the largest one after the last round. With 0.5 about three of four
#: trajectories are accepted.
_ROUNDS = 6
_GOOD, _WORST = 0.15, 0.5

#: Above this many dimensions there are too few points to know the density by.
_MAX_DIMENSIONS = 20

#: Range of path lengths around a quarter turn, the shorter ones, and how often these come.
_LONG = np.pi / 3, 2 * np.pi / 3
_SHORT = 0.05, np.pi / 3
_SHARE_SHORT = 0.1
_STEP = 0.15


@dataclass(frozen=True)
class Surrogate:
    """-|z|^2 / 2 plus a Gaussian process with a squared-exponential kernel.

    Attributes
    ----------
    coordinates : Mirror
        z, and which of its mirror images the process models.
    points : (n, d) array
    value_weights : (n,) array
    gradient_weights : (n, d) array
        Weights of the kernel and of its derivatives in the second argument.
    length : float
        Length scale.
    error : float
        Standard deviation of the error of the log density where a chain goes, at points not
        known before.
    """

    coordinates: Mirror
    points: np.ndarray
    value_weights: np.ndarray
    gradient_weights: np.ndarray
    length: float
    error: float = np.inf

    @property
    def arrays(self) -> tuple:
        """What the compiled functions take after z."""
        return (
            self.coordinates, self.points, self.value_weights, self.gradient_weights, self.length,
        )  # fmt: skip

    def value(self, z: np.ndarray) -> float:
        """Log density at z, less that at the center."""
        return _value(z, *self.arrays)

    def gradient(self, z: np.ndarray) -> np.ndarray:
        """(d,) gradient in z."""
        return _gradient(z, *self.arrays)


@kernel
def _value(z, coordinates, points, value_weights, gradient_weights, length):
    at = image(z, coordinates)[0]
    total = 0.0
    for a in range(at.shape[0]):
        total -= 0.5 * at[a] * at[a]
    for i in range(points.shape[0]):
        square, along = 0.0, 0.0
        for a in range(at.shape[0]):
            u = (at[a] - points[i, a]) / length
            square += u * u
            along += u * gradient_weights[i, a]
        total += np.exp(-0.5 * square) * (value_weights[i] + along / length)
    return total


@kernel
def _gradient(z, coordinates, points, value_weights, gradient_weights, length):
    """At the image of z, carried back to z."""
    at, signs = image(z, coordinates)
    force = -at
    d = z.shape[0]
    u = np.empty(d)
    for i in range(points.shape[0]):
        square, along = 0.0, 0.0
        for a in range(d):
            u[a] = (at[a] - points[i, a]) / length
            square += u[a] * u[a]
            along += u[a] * gradient_weights[i, a]
        k = np.exp(-0.5 * square) / length
        for a in range(d):
            force[a] += k * (
                (gradient_weights[i, a] - u[a] * along) / length - u[a] * value_weights[i]
            )
    if np.all(signs > 0):
        return force
    scale, inverse = coordinates.scale, coordinates.inverse
    out = np.zeros(d)
    for j in range(d):
        total = 0.0
        for i in range(d):
            total += inverse[i, j] * force[i]
        for i in range(d):
            out[i] += scale[j, i] * signs[j] * total
    return out


@kernel
def _leapfrog(z, p, step, n_steps, coordinates, points, value_weights, gradient_weights, length):
    arguments = (coordinates, points, value_weights, gradient_weights, length)
    z, p = z.copy(), p.copy()
    force = _gradient(z, *arguments)
    for _ in range(n_steps):
        p += 0.5 * step * force
        z += step * p
        force = _gradient(z, *arguments)
        p += 0.5 * step * force
    return z, p


def path_length(rng: np.random.Generator) -> float:
    """Around a quarter turn of the standard normal, one in ten shorter."""
    return rng.uniform(*(_SHORT if rng.random() < _SHARE_SHORT else _LONG))


def follow(
    surrogate: Surrogate, z: np.ndarray, p: np.ndarray, length: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Position and momentum at the end of a path under the surrogate's force, and its steps."""
    n_steps = int(np.ceil(length / _STEP))
    return *_leapfrog(z, p, length / n_steps, n_steps, *surrogate.arrays), n_steps


@dataclass(frozen=True)
class _Known:
    """Points (n, d), log densities (n,) less that at the center, and gradients (n, d)."""

    points: np.ndarray
    values: np.ndarray
    gradients: np.ndarray

    def __add__(self, other: _Known) -> _Known:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return _Known(*(np.concatenate(pair) for pair in pairs))

    @property
    def usable(self) -> _Known:
        """Without points where no draw comes."""
        good = np.isfinite(self.values) & np.all(np.isfinite(self.gradients), axis=1)
        good &= self.values > -_DEEPEST
        return _Known(self.points[good], self.values[good], self.gradients[good])


def fit_surrogate(
    evaluate: Callable[[np.ndarray], tuple[float, np.ndarray]],
    coordinates: Mirror,
    *,
    random_seed: int,
    cores: int,
) -> Surrogate | None:
    """A process through exact values and gradients at 15 d or more points.

    Parameters
    ----------
    evaluate : callable
        z (d,) to the log density and its gradient; near -|z|^2 / 2 and a constant. Called from
        several threads.
    coordinates : Mirror
    random_seed : int
        The result depends on it and not on ``cores``.
    cores : int
        Threads.

    Returns
    -------
    Surrogate or None
        None where the density is not met well enough.
    """
    d = len(coordinates.center)
    if d > _MAX_DIMENSIONS:
        return None
    rng = np.random.default_rng(np.random.SeedSequence([random_seed, 3]))
    axes = np.concatenate([step * np.eye(d) for step in _ON_AXES])
    scattered = _SPREAD * rng.standard_normal((4 * d + 4, d))
    with ThreadPoolExecutor(max(1, cores)) as pool:

        def look(points) -> _Known:
            points = np.array([image(z, coordinates)[0] for z in points])
            found = list(pool.map(evaluate, points))
            values = np.array([value for value, _ in found])
            return _Known(points, values, np.array([gradient for _, gradient in found]))

        known = look(np.concatenate((np.zeros((1, d)), axes, scattered)))
        top = known.values[0]
        if not np.isfinite(top):
            return None
        known = _Known(known.points, known.values - top, known.gradients).usable
        best = _interpolated(known, _LENGTHS[2], coordinates)
        for _ in range(_ROUNDS):
            found = look(_explore(best, 5 * d + 12, rng))
            found = _Known(found.points, found.values - top, found.gradients)
            fresh = found.usable
            if 2 * len(fresh.values) < len(found.values):
                return None
            tried = [_interpolated(known, length, coordinates) for length in _LENGTHS]
            gaps = [[s.value(z) for z in fresh.points] - fresh.values for s in tried]
            errors = np.array([gap.std() for gap in gaps])
            chosen = int(np.argmin(errors))
            known = known + fresh
            best = _interpolated(known, _LENGTHS[chosen], coordinates, float(errors[chosen]))
            missed = 1 - len(fresh.values) / len(found.values)
            if best.error < _GOOD and missed < 0.05:
                break
    return best if best.error < _WORST and missed < 0.1 else None


def _explore(surrogate: Surrogate, n: int, rng: np.random.Generator) -> np.ndarray:
    """n points (n, d) of a chain under the surrogate alone."""
    z = np.zeros(surrogate.points.shape[1])
    points = np.empty((n, len(z)))
    value = surrogate.value(z)
    for i in range(-3, n):
        p = rng.standard_normal(len(z))
        new, momentum, _ = follow(surrogate, z, p, path_length(rng))
        found = surrogate.value(new)
        gain = found - value + 0.5 * (p @ p - momentum @ momentum)
        if np.log(rng.random()) < gain:
            z, value = new, found
        points[i] = z  # the first three are overwritten
    return points


def _interpolated(
    known: _Known, length: float, coordinates: Mirror, error: float = np.inf
) -> Surrogate:
    """The process through values and gradients: weights are covariance^-1 times the data."""
    points = known.points
    n, d = points.shape
    u = (points[:, None] - points[None]) / length
    k = np.exp(-0.5 * (u**2).sum(axis=-1))
    covariance = np.empty((n, 1 + d, n, 1 + d))
    covariance[:, 0, :, 0] = k
    covariance[:, 0, :, 1:] = k[..., None] * u / length
    covariance[:, 1:, :, 0] = np.swapaxes(-k[..., None] * u / length, 1, 2)
    outer = np.eye(d) - u[..., :, None] * u[..., None, :]
    covariance[:, 1:, :, 1:] = np.swapaxes(k[..., None, None] * outer / length**2, 1, 2)
    flat = covariance.reshape(n * (1 + d), n * (1 + d))
    flat[np.diag_indices_from(flat)] += _NUGGET
    rest = known.values + 0.5 * (points**2).sum(axis=1)
    data = np.concatenate((rest[:, None], known.gradients + points), axis=1).ravel()
    solved = np.linalg.solve(flat, data).reshape(n, 1 + d)
    weights = np.ascontiguousarray(solved[:, 0]), np.ascontiguousarray(solved[:, 1:])
    return Surrogate(coordinates, points, *weights, length, error)
