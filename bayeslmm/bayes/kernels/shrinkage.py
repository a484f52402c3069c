"""Scales of sets of coefficients, and the coordinates of all that is not integrated out of them.

The coordinates of the coefficients come last in x: the numbers of the pins, then the scalars that
the scales s of the shrunk coefficients are functions of. Given these the coefficients are normal.

Regularized horseshoe (Piironen and Vehtari 2017, Electron. J. Stat. 11(2), eq. 2.8), of scalars
t, c^2 and l_1 ... l_D, tau = t times sigma times a number:

    s_j = tau l_j / sqrt(1 + tau^2 l_j^2 / c^2).

R2D2 (Zhang, Naughton, Bondell and Reich 2022, JASA 117(538)), of scalars R^2 and g_1 ... g_D, gamma
distributed, which makes phi = g / sum g Dirichlet distributed:

    s_j^2 = phi_j sigma^2 R^2 / (1 - R^2).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bayeslmm.compiling import inlined, kernel
from bayeslmm.gaussian._coefficients import CoefficientPrior
from bayeslmm.parts.scales import Scales

__all__ = [
    "HORSESHOE",
    "R2D2",
    "CoefficientScalars",
    "add_coefficients",
    "coefficient_prior",
    "log_scales",
]

_NONE, HORSESHOE, R2D2 = range(3)


class CoefficientScalars(NamedTuple):
    """What the last coordinates stand for.

    Attributes
    ----------
    scales : Scales
        Priors of the pins' numbers and of the scalars of the shrunk coefficients' scales.
    n_pins : int
    kind : int
        Code of the prior of the shrunk coefficients, zero for none.
    log_unit : float
        Log of what multiplies sigma in the scales, in tau of a horseshoe.
    """

    scales: Scales
    n_pins: int
    kind: int
    log_unit: float


@kernel
def log_scales(kind, log_unit, scalar):
    """Logs (D,) of the scales s; ``log_unit`` is the log of what multiplies them, or tau."""
    if kind == 1:
        out = np.empty(scalar.shape[0] - 2)
        log_tau, log_c2 = log_unit + np.log(scalar[0]), np.log(scalar[1])
        for j in range(out.shape[0]):
            plain = log_tau + np.log(scalar[2 + j])
            ratio = 2.0 * plain - log_c2
            out[j] = plain - 0.5 * (max(ratio, 0.0) + np.log1p(np.exp(-abs(ratio))))
        return out
    out = np.empty(scalar.shape[0] - 1)
    total = np.sum(scalar[1:])
    common = np.log(scalar[0]) - np.log1p(-scalar[0]) - np.log(total)
    for j in range(out.shape[0]):
        out[j] = log_unit + 0.5 * (common + np.log(scalar[1 + j]))
    return out


@kernel
def _pull_back(kind, log_unit, scalar, slopes, out):
    """Add to ``out`` derivatives in the scalars from those in the logs of the scales.

    Returns that in log sigma, whose multiples the scales are.
    """
    d_sigma = 0.0
    if kind == 1:
        log_tau, log_c2 = log_unit + np.log(scalar[0]), np.log(scalar[1])
        for j in range(slopes.shape[0]):
            ratio = 2.0 * (log_tau + np.log(scalar[2 + j])) - log_c2
            kept = 1.0 / (1.0 + np.exp(ratio))  # the share of log tau l_j in log s_j
            out[2 + j] += slopes[j] * kept / scalar[2 + j]
            out[0] += slopes[j] * kept / scalar[0]
            out[1] += 0.5 * slopes[j] * (1.0 - kept) / scalar[1]
            d_sigma += slopes[j] * kept
        return d_sigma
    total = np.sum(scalar[1:])
    for j in range(slopes.shape[0]):
        out[1 + j] += 0.5 * slopes[j] / scalar[1 + j]
        d_sigma += slopes[j]
    out[0] += 0.5 * d_sigma / (scalar[0] * (1.0 - scalar[0]))
    for j in range(slopes.shape[0]):
        out[1 + j] -= 0.5 * d_sigma / total
    return d_sigma


@inlined
def coefficient_prior(base, coefficients, at):
    """Prior of the coefficients at a :class:`bayeslmm.bayes.kernels.coordinates.Natural`."""
    scalar = at.coefficient
    if scalar.shape[0] == 0:
        return base
    known, basis = base.known.copy(), base.basis.copy()
    n = coefficients.n_pins
    for i in range(known.shape[0]):
        for j in range(n):
            known[i] += base.pins[i, j] * scalar[j]
    if coefficients.kind > 0:
        log_s = log_scales(coefficients.kind, coefficients.log_unit + at.eta[0], scalar[n:])
        for j in range(log_s.shape[0]):
            basis[:, base.shrunk[j]] *= np.exp(log_s[j])
    return CoefficientPrior(
        base.root, base.target, base.log_det, known, basis, base.pins, base.shrunk
    )


@inlined
def add_coefficients(at, base, coefficients, slopes, d_eta):
    """Chain rule from ``slopes`` of the likelihood, added to ``at.gradient`` and to ``d_eta``.

    Parameters
    ----------
    slopes : (p + f,) array
        As in :class:`bayeslmm.gaussian._coefficients.Solved`.
    d_eta : (s,) array
    """
    scalar, n, p = at.coefficient, coefficients.n_pins, base.known.shape[0]
    size = scalar.shape[0]
    if size == 0:
        return
    found = np.zeros(size)
    for j in range(n):
        for i in range(p):
            found[j] += base.pins[i, j] * slopes[i]
    if coefficients.kind > 0:
        own = np.empty(base.shrunk.shape[0])
        for j in range(own.shape[0]):
            own[j] = slopes[p + base.shrunk[j]]
        d_eta[0] += _pull_back(
            coefficients.kind, coefficients.log_unit + at.eta[0], scalar[n:], own, found[n:]
        )
    first = at.gradient.shape[0] - size
    for i in range(size):
        at.gradient[first + i] += found[i] * at.coefficient_slope[i]
