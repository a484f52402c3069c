"""The model without random effects, where searches begin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from bayeslmm.laplace.transforms import natural, pullback, unbounded

if TYPE_CHECKING:
    from bayeslmm.parts.families import Family

__all__ = ["coefficients_without_effects", "fit_without_effects"]


class ResponseRows(Protocol):
    """What of a :class:`bayeslmm.laplace.system.ResponseSystem` is there without its effects."""

    @property
    def y(self) -> np.ndarray: ...
    @property
    def trials(self) -> np.ndarray: ...
    @property
    def weights(self) -> np.ndarray: ...
    @property
    def offset(self) -> np.ndarray: ...
    @property
    def X(self) -> np.ndarray: ...
    @property
    def family(self) -> Family: ...

    def slopes(self, eta: np.ndarray, phi: np.ndarray) -> np.ndarray:
        """Weighted log densities and three derivatives, (4, n)."""

    def phi_slopes(self, eta: np.ndarray, phi: np.ndarray) -> np.ndarray:
        """Their derivatives in phi, (n_phi, 3, n)."""


_STEPS, _GAIN = 50, 1e-8
#: Rounds of coefficients given the family's parameters, and these given the coefficients.
_ROUNDS = 4
#: Degrees of freedom to start from, and how far their logarithm may go from there in a round: no
#: outlier at all would send them to infinity, where no prior follows.
_TYPICAL_NU, _NU_BOUNDS = 10.0, (-0.4, 0.4)


def fit_without_effects(system: ResponseRows) -> tuple[np.ndarray, np.ndarray]:
    """phi and coefficients of the model without random effects, about as likely as they get."""
    family = system.family
    eta = np.asarray(family.start(system.y, system.trials), dtype=float)
    phi = _first_parameters(system, eta)
    beta = coefficients_without_effects(system, phi, eta)
    for _ in range(_ROUNDS if len(phi) else 0):
        eta = system.offset + system.X @ beta
        phi = _parameters_at(system, eta, phi)
        beta = coefficients_without_effects(system, phi, eta)
    return phi, beta


def _first_parameters(system: ResponseRows, eta: np.ndarray) -> np.ndarray:
    """phi to start from: thresholds as without predictors, a tenth of extra zeros, the spread of
    what sigma is about, else 1.
    """
    family, y, parts = system.family, system.y, [np.zeros(0)]
    for parameter in family.parameters:
        if parameter.transform == "ordered":
            counts = np.bincount(y.astype(int), system.weights, parameter.size + 1) + 0.5
            parts.append(family.link.link(np.cumsum(counts)[:-1] / counts.sum()))
        elif parameter.transform == "logit":
            parts.append(np.full(parameter.size, 0.1))
        elif parameter.key == "sigma":
            parts.append(np.array([max(float(np.std(eta)), 1e-8)]))
        elif parameter.key == "nu":
            parts.append(np.array([_TYPICAL_NU]))
        else:
            parts.append(np.ones(parameter.size))
    return np.concatenate(parts)


def _parameters_at(system: ResponseRows, eta: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """phi at the largest likelihood with the linear predictor held."""
    from scipy.optimize import minimize

    family, start = system.family, unbounded(system.family, phi)

    def objective(step: np.ndarray):
        w = start + step
        at = natural(family, w)
        value = -system.slopes(eta, at)[0].sum()
        slope = -(system.phi_slopes(eta, at)[:, 0].sum(axis=1))
        slope = pullback(family, w, slope)
        if not np.isfinite(value) or not np.all(np.isfinite(slope)):
            return 1e300, np.zeros(len(w))
        return value, slope

    with np.errstate(all="ignore"):
        keys = [parameter.key for parameter in family.parameters for _ in range(parameter.size)]
        bounds = [_NU_BOUNDS if key == "nu" else (-12.0, 12.0) for key in keys]
        found = minimize(objective, np.zeros(len(start)), jac=True, bounds=bounds)
    return natural(family, start + found.x)


def coefficients_without_effects(
    system: ResponseRows, phi: np.ndarray, eta: np.ndarray
) -> np.ndarray:
    """Coefficients of the model without random effects at given phi, near the maximum.

    Iteratively reweighted least squares (McCullagh & Nelder 1989, Generalized Linear Models, 2.5)
    from a linear predictor (n,) that suits the responses; a step that leads nowhere is halved.
    Separated data have no maximum: the search ends after some steps.
    """
    if not system.X.shape[1]:
        return np.zeros(0)
    # as if all rows were alike: inside the range of a link that has one
    beta = np.linalg.lstsq(system.X, np.full(len(eta), np.mean(eta - system.offset)))[0]
    found, value, first = system.slopes(eta, phi), -np.inf, True
    for _ in range(_STEPS):
        w = _curvature(system, eta, phi, found)
        root = np.sqrt(w)
        target = root * (eta - system.offset + found[1] / w)
        aim = np.linalg.lstsq(root[:, None] * system.X, target, rcond=1e-10)[0]
        step, share = aim - beta, 1.0
        while share > 1e-6:
            trial = beta + share * step
            eta_trial = system.offset + system.X @ trial
            slopes = system.slopes(eta_trial, phi)
            reached = slopes[0].sum()
            if np.isfinite(reached) and (first or reached >= value - 1e-12 * abs(value)):
                break
            share *= 0.5
        else:
            return beta
        gain, value, first = reached - value, reached, False
        beta, eta, found = trial, eta_trial, slopes
        if abs(gain) < _GAIN * (1.0 + abs(value)):
            break
    return beta


def _curvature(system: ResponseRows, eta, phi, slopes: np.ndarray) -> np.ndarray:
    """Positive weights (n,): observed where they are, else expected."""
    w = -slopes[2]
    if not system.family.log_concave:
        steps = system.family.step_weight(system.y, eta, phi, system.trials)
        w = np.where(w > 0, w, system.weights * steps)
    return np.maximum(w, 1e-10 * np.abs(w).max(initial=1e-300))
