"""Mode and curvature of the marginal posterior: where sampling starts, and its scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bayeslmm.bayes.marginal import MarginalDensity, foresee
from bayeslmm.errors import SamplingError

__all__ = ["MODE_EVALUATIONS", "Mode", "climb", "find_mode"]

#: Shares of the response's variance given to the random effects at the starting points.
_SHARES = (0.5, 0.02, 0.95)

#: Coordinates are logs of scales and atanh of correlations: an axis along which the density hardly
#: bends gets this standard deviation (curvature 1/9) and no more.
_FLATTEST = 1.0 / 9.0

_STEP = 1e-4

#: About as many evaluations find a mode.
MODE_EVALUATIONS = 100


@dataclass(frozen=True)
class Mode:
    """Highest point of the density and a Gaussian scale around it.

    Attributes
    ----------
    x : (d,) array
    log_density : float
    scale : (d, d) array
        Lower triangular, scale scale' the inverse of minus the Hessian (regularized).
    """

    x: np.ndarray
    log_density: float
    scale: np.ndarray

    @property
    def log_det(self) -> float:
        """log |scale|."""
        return float(np.log(np.diag(self.scale)).sum())


def find_mode(
    density: MarginalDensity,
    starts: tuple[float, ...] = _SHARES,
    first: np.ndarray | None = None,
) -> Mode:
    """Maximize the density from several starting points.

    Parameters
    ----------
    density : MarginalDensity
        The Jacobians of the log standard deviations are part of it, so there is a mode also where
        a variance is estimated as zero.
    starts : tuple of float
        Shares of the response's variance given to the random effects.
    first : (d,) array, optional
        A starting point of the caller's own, tried before.

    Raises
    ------
    SamplingError
        If the density is not finite anywhere it was tried.
    """
    points = density.starting_points(starts)
    if first is not None:
        points.insert(0, np.asarray(first, dtype=float))
    foresee(density, MODE_EVALUATIONS, points[0])
    best, best_value = None, -np.inf
    for point in points:
        x, value = _ascend(density, point, np.diag(density.spread()))
        if value > best_value:
            best, best_value = x, value
    if best is None or not np.isfinite(best_value):
        raise SamplingError(
            "The posterior density is not finite anywhere it was tried. Look at the priors "
            "(print(model.priors)), at flat priors on coefficients the data cannot determine, and "
            "at the scale of the columns."
        )
    x, value, scale = _polish(density, best, best_value)
    return Mode(x, value, scale)


def climb(density: MarginalDensity, start: np.ndarray, covariance: np.ndarray) -> Mode:
    """The mode uphill from ``start`` (d,), ``covariance`` (d, d) a guess of the inverse curvature.

    ``start`` itself where nothing higher is found.
    """
    x, value = _ascend(density, start, covariance)
    if not value > density.value(start):
        x, value = start, density.value(start)
    return Mode(*_polish(density, x, value))


def _ascend(density: MarginalDensity, start: np.ndarray, covariance: np.ndarray):
    """Local maximum and its value."""
    from scipy.optimize import minimize

    with np.errstate(all="ignore"):
        # not L-BFGS-B: its first step is the raw gradient, far outside, and it stops there
        result = minimize(
            _negative(density), start, jac=True, method="BFGS",
            options={"gtol": 1e-2, "maxiter": 300, "hess_inv0": covariance},
        )  # fmt: skip
    return result.x, density.value(result.x)


def _negative(density: MarginalDensity):
    def negative(x):
        value, gradient = density(x)
        if not np.isfinite(value) or not np.all(np.isfinite(gradient)):
            return 1e300, np.zeros(len(x))
        return -value, -gradient

    return negative


def _polish(density: MarginalDensity, x: np.ndarray, value: float):
    """Newton steps with the inverse curvature, which is needed anyway; the scale at the end."""
    scale = _inverse_root(_curvature(density, x))
    for _ in range(2):
        gradient = density(x)[1]
        step = scale @ (scale.T @ gradient)
        if float(gradient @ step) < 1e-3:  # within 0.03 posterior standard deviations
            break
        for shrink in (1.0, 0.25):
            trial = x + shrink * step
            trial_value = density.value(trial)
            if trial_value > value:
                x, value = trial, trial_value
                scale = _inverse_root(_curvature(density, x))
                break
        else:
            break
    return x, value, scale


def _curvature(density: MarginalDensity, x: np.ndarray) -> np.ndarray:
    """Minus the Hessian, from central differences of the exact gradient."""
    H = np.empty((len(x), len(x)))
    for i in range(len(x)):
        step = np.zeros(len(x))
        step[i] = _STEP
        H[i] = (density(x - step)[1] - density(x + step)[1]) / (2 * _STEP)
    return 0.5 * (H + H.T)


def _inverse_root(H: np.ndarray) -> np.ndarray:
    """Lower triangular L with L L' = H^-1, eigenvalues of H made positive where they are not."""
    if not np.all(np.isfinite(H)):
        return np.eye(len(H))
    values, vectors = np.linalg.eigh(H)
    values = np.maximum(np.abs(values), _FLATTEST)
    return np.linalg.cholesky((vectors / values) @ vectors.T)
