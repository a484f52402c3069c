"""The model without random effects, where searches begin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bayeslmm.laplace.system import ResponseSystem

__all__ = ["coefficients_without_effects", "starting_phi"]

_STEPS, _GAIN = 50, 1e-8


def coefficients_without_effects(
    system: ResponseSystem, phi: np.ndarray, eta: np.ndarray
) -> np.ndarray:
    """Coefficients of the model without random effects at given phi, near the maximum.

    Iteratively reweighted least squares (McCullagh & Nelder 1989, Generalized Linear Models, 2.5)
    from a linear predictor (n,) that suits the responses; a step that leads nowhere is halved.
    Separated data have no maximum: the search ends after some steps.
    """
    beta = np.zeros(system.p)
    if not system.p:
        return beta
    found, value, first = system.slopes(eta, phi), -np.inf, True
    for _ in range(_STEPS):
        w = np.maximum(-found[2], 1e-10 * np.abs(found[2]).max(initial=1e-300))
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


def starting_phi(system: ResponseSystem) -> np.ndarray:
    """Parameters of the family where searches begin: 1, a half, or what splits the categories."""
    parts = []
    for own in system.family.parameters:
        if own.transform == "ordered":
            counts = np.bincount(system.y.astype(int), system.weights, own.size + 1) + 0.5
            below = np.cumsum(counts)[:-1] / counts.sum()
            parts.append(system.family.link.link(below))
        else:
            parts.append(np.full(own.size, 0.1 if own.transform == "logit" else 1.0))
    return np.concatenate([np.zeros(0), *parts])
