"""Unconstrained coordinates of the covariance parameters, with their priors.

x holds, in this order: one number per scalar with a prior of its own (standard deviations of the
random effects, factor after factor, then of the residuals; coefficients of a log-linear residual
standard deviation; rho, the range or partial autocorrelations), then atanh of the canonical
partial correlations of the random effects and of the residuals, then what is not integrated out of
the coefficients and their scales (:mod:`bayeslmm.bayes.kernels.shrinkage`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bayeslmm.addresses import reader
from bayeslmm.bayes.kernels.shrinkage import CoefficientScalars
from bayeslmm.compiling import Doubles, inlined, kernel
from bayeslmm.parts.correlations import (
    CorrelationLayout,
    factors_from_correlations,
    log_lkj,
    pullback_from_covariances,
    pullback_to_correlations,
)
from bayeslmm.parts.scales import Scales, scale_terms
from bayeslmm.parts.structures import natural_parameters, pullback_natural

__all__ = [
    "N_PRIOR",
    "CovariancePrior",
    "Natural",
    "add_likelihood",
    "natural",
    "naturals",
    "read_prior",
]


class CovariancePrior(NamedTuple):
    """What x stands for, and the priors.

    Attributes
    ----------
    effects : CorrelationLayout
        Of the random effects, m of them with r correlations.
    times : CorrelationLayout
        Of the residuals where their correlations are free, else empty.
    scales : Scales
        Priors of the k scalars.
    exponent : array
        Of each correlation's LKJ density.
    constant : float
        Log of the LKJ densities' constants.
    kind : int
        Code of the residuals' correlation structure.
    n_scales : int
        Entries of eta, the scalars after those of the effects.
    n_log : int
        How many of them, the first ones, are standard deviations, whose logs are in eta.
    coefficients : CoefficientScalars
    """

    effects: CorrelationLayout
    times: CorrelationLayout
    scales: Scales
    exponent: Doubles
    constant: float
    kind: int
    n_scales: int
    n_log: int
    coefficients: CoefficientScalars


class Natural(NamedTuple):
    """The covariance parameters at x.

    Attributes
    ----------
    value : float
        Log priors, the Jacobians of x included.
    gradient : (d,) array
        Its derivatives.
    scalar, slope : (k,) arrays
        Scalars and their derivatives in x.
    F : (sum q_k^2,) array
        Flat factors of the random effects.
    L : (T^2,) array
        Flat factor of the residuals' free correlations, else empty.
    eta, c : arrays
        As in :class:`bayeslmm.gaussian.system.Theta`.
    coefficient, coefficient_slope : arrays
        Numbers of the last coordinates, and their derivatives in x.
    """

    value: float
    gradient: np.ndarray
    scalar: np.ndarray
    slope: np.ndarray
    F: np.ndarray
    L: np.ndarray
    eta: np.ndarray
    c: np.ndarray
    coefficient: np.ndarray
    coefficient_slope: np.ndarray


@inlined
def natural(x, prior):
    """:class:`Natural` at x (d,)."""
    m, k = prior.effects.diagonal.shape[0], prior.scales.code.shape[0]
    r, T = prior.effects.number.shape[0], prior.times.diagonal.shape[0]
    value, d_scalars, scalar, slope = scale_terms(prior.scales, x[:k])
    end = k + prior.exponent.shape[0]
    log_corr, d_corr = log_lkj(x[k:end], prior.exponent, prior.constant)
    gradient = np.empty(x.shape[0])
    gradient[:k] = d_scalars
    gradient[k:end] = d_corr
    value += log_corr
    own = own_slope = np.empty(0)
    if end < x.shape[0]:
        log_own, gradient[end:], own, own_slope = scale_terms(prior.coefficients.scales, x[end:])
        value += log_own
    F = factors_from_correlations(prior.effects, scalar[:m], x[k : k + r])
    eta = scalar[m : m + prior.n_scales].copy()
    for i in range(prior.n_log):
        eta[i] = np.log(eta[i])
    if T == 0:
        L, c = np.empty(0), natural_parameters(prior.kind, scalar[m + prior.n_scales :])
        return Natural(value, gradient, scalar, slope, F, L, eta, c, own, own_slope)
    L, c = factors_from_correlations(prior.times, np.ones(T), x[k + r : end]), np.zeros(T * T)
    for i in range(T):
        for j in range(T):
            for a in range(min(i, j) + 1):
                c[i * T + j] += L[i * T + a] * L[j * T + a]
    return Natural(value, gradient, scalar, slope, F, L, eta, c, own, own_slope)


read_prior, N_PRIOR = reader(CovariancePrior)


@kernel
def naturals(X, prior):
    """Scalars of the effects (n, m), F, eta and c at rows of X."""
    n, m = X.shape[0], prior.effects.diagonal.shape[0]
    T = prior.times.diagonal.shape[0]
    n_c = T * T if T else prior.scales.code.shape[0] - m - prior.n_scales
    sds, F = np.empty((n, m)), np.empty((n, prior.effects.buffer[0]))
    eta, c = np.empty((n, prior.n_scales)), np.empty((n, n_c))
    for i in range(n):
        at = natural(X[i], prior)
        sds[i], F[i], eta[i], c[i] = at.scalar[:m], at.F, at.eta, at.c
    return sds, F, eta, c


@inlined
def is_finite(at):
    """Whether every parameter of a :class:`Natural` is a number."""
    return (
        np.isfinite(at.value)
        and np.all(np.isfinite(at.F))
        and np.all(np.isfinite(at.eta))
        and np.all(np.isfinite(at.c))
        and np.all(np.isfinite(at.L))
        and np.all(np.isfinite(at.coefficient))
    )


@inlined
def add_likelihood(at, x, prior, q, start, d_Sigma, d_eta, d_c):
    """Chain rule from the likelihood's derivatives, added to ``at.gradient`` in place.

    Parameters
    ----------
    q, start : (K,), (K + 1,) int arrays
        Effects of each grouping factor, starts of its flat factor.
    d_Sigma, d_eta, d_c : arrays
        As in :class:`bayeslmm.gaussian.system.Evaluation`.
    """
    m, k = prior.effects.diagonal.shape[0], prior.scales.code.shape[0]
    r, T = prior.effects.number.shape[0], prior.times.diagonal.shape[0]
    out, scalar, slope, first = at.gradient, at.scalar, at.slope, m + prior.n_scales
    d_sd, d_u = pullback_from_covariances(
        prior.effects, q, start, scalar[:m], slope[:m], x[k : k + r], at.F, d_Sigma
    )
    out[:m] += d_sd
    out[k : k + r] += d_u
    for i in range(prior.n_scales):
        chain = slope[m + i] / scalar[m + i] if i < prior.n_log else slope[m + i]
        out[m + i] += d_eta[i] * chain
    if T == 0:
        out[first:k] += pullback_natural(prior.kind, scalar[first:], d_c) * slope[first:]
        return
    L, H = at.L, np.zeros(T * T)
    for i in range(T):
        for a in range(i + 1):
            for j in range(a, T):
                H[i * T + a] += (d_c[i * T + j] + d_c[j * T + i]) * L[j * T + a]
    end = k + prior.exponent.shape[0]
    out[k + r : end] += pullback_to_correlations(prior.times, np.ones(T), x[k + r : end], H)[1]
