"""Means of a population of groups: integrated over the distribution of random effects.

Given the linear predictor eta of the average group and the variance v = sum_k z_k' Sigma_k z_k of
what groups add, the population's mean is E g^-1(eta + sqrt(v) u) with u ~ N(0, 1): in closed form
for the probit, log and identity links (Zeger, Liang & Albert 1988, Biometrics 44, 1049-1060), by
quadrature for the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bayeslmm.errors import DataError
from bayeslmm.parts.families import Family, Link

__all__ = ["effect_variances", "population_mean", "population_probabilities", "refuse_without_mean"]

#: Integrals of the normal distribution leave out what lies beyond.
_END = 8.3
#: An error of exp(-30), and how many nodes at most.
_DIGITS, _MOST_NODES = 30.0, 1000
#: Half of the strip of complex numbers in which the inverse is bounded.
_STRIP = {"logit": 0.95 * np.pi, "cloglog": 0.5 * np.pi}


def effect_variances(Sigmas: Sequence[np.ndarray], Z: Sequence[np.ndarray]) -> np.ndarray:
    """Variance of what the groups add to the linear predictor of each row.

    Parameters
    ----------
    Sigmas : sequence of (..., q_k, q_k) arrays
        Of every grouping factor; their variances add up.
    Z : sequence of (n, q_k) arrays

    Returns
    -------
    (..., n) array, or 0 where there are no random effects
    """
    total = np.zeros(())
    for Sigma, z in zip(Sigmas, Z, strict=True):
        total = total + np.einsum("...ia,ia->...i", np.einsum("ib,...ab->...ia", z, Sigma), z)
    return np.maximum(total, 0.0)


def refuse_without_mean(family: Family) -> None:
    """Refuse links whose means have no average over normal effects.

    Raises
    ------
    DataError
    """
    if family.link.name == "inverse":
        raise DataError(
            "The inverse link has no population-average mean: normal random effects reach linear "
            'predictors of 0, where the mean is infinite. random="population" is for the average '
            'group; link="log" has both.'
        )


def population_mean(family: Family, eta, variance, phi=()) -> np.ndarray:
    """Mean of the responses of many groups, as ``Family.mean`` is that of one.

    Parameters
    ----------
    eta : (...) array
        Linear predictor of the average group.
    variance : (...) array
        Of :func:`effect_variances`.
    phi : (..., n_phi) array

    Raises
    ------
    DataError
        If there is none.
    """
    refuse_without_mean(family)
    eta, variance = np.asarray(eta, dtype=float), np.asarray(variance, dtype=float)
    if family.name == "ordinal":
        return population_probabilities(family, eta, variance, phi) @ np.arange(family.n_phi + 1)
    if family.link.name in _STRIP:
        return _averaged(family.link, eta, variance)
    if family.link.name == "probit":
        return family.mean(eta / np.sqrt(1.0 + variance), phi)
    exponential = family.link.name == "log" or family.name == "lognormal"
    return family.mean(eta + (0.5 * variance if exponential else 0.0), phi)


def population_probabilities(family: Family, eta, variance, phi) -> np.ndarray:
    """Of every category of an ordinal response, (..., K)."""
    eta, variance = np.asarray(eta, dtype=float), np.asarray(variance, dtype=float)
    phi = np.asarray(phi, dtype=float)
    below = np.zeros(np.broadcast_shapes(eta.shape, variance.shape, phi.shape[:-1]))
    parts = []
    for k in range(phi.shape[-1]):
        up_to = _averaged(family.link, phi[..., k] - eta, variance)
        parts.append(np.maximum(up_to - below, 0.0))
        below = up_to
    return np.stack(np.broadcast_arrays(*parts, 1.0 - below), axis=-1)


def _averaged(link: Link, eta: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """E g^-1(eta + sqrt(v) u).

    The trapezoidal rule converges geometrically on an analytic function (Trefethen & Weideman
    2014, SIAM Review 56, 385-458): with d the distance of the nearest singularity and a step h
    its error is about exp(d^2 / 2 - 2 pi d / h). So few nodes are enough for every sd, where those
    of Gauss and Hermite must become many for a large one.
    """
    if link.name == "probit":
        return link.inverse(eta / np.sqrt(1.0 + variance))
    sd = np.sqrt(variance)
    largest = max(float(np.max(sd, initial=0.0)), 1e-3)
    d = min(_STRIP[link.name] / largest, np.sqrt(2.0 * _DIGITS))
    n = min(int(_END * (_DIGITS + 0.5 * d**2) / (2.0 * np.pi * d)) + 1, _MOST_NODES // 2)
    nodes = np.linspace(-_END, _END, 2 * n + 1)
    weights = np.exp(-0.5 * nodes**2)
    weights /= weights.sum()
    total = np.zeros(np.broadcast_shapes(eta.shape, sd.shape))
    for node, weight in zip(nodes, weights, strict=True):
        total += weight * link.inverse(eta + node * sd)
    return total
