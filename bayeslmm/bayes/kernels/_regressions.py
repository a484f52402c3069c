"""Regressions of covariates with unknown values: density of their readings, and moments given them.

See :mod:`bayeslmm.bayes.kernels._covariates`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bayeslmm.compiling import Doubles, Integers, kernel
from bayeslmm.gaussian._levels import dot
from bayeslmm.parts.scales import Scales, scale_terms

__all__ = ["Regressions", "readings", "readings_back", "softplus"]

_LOG_2PI = float(np.log(2.0 * np.pi))


class Regressions(NamedTuple):
    """Regressions of C covariates, units of one after those of the other.

    Attributes
    ----------
    reading, error : (U,) arrays
        Readings and their variances; nan and infinity where there is none.
    unknown : (U,) int array
        Number of the unknown, -1 where the reading is the value.
    W : array
        Flat model matrices, row after row.
    units, columns, flat : (C + 1,) int arrays
        Where units, coefficients and W of each covariate begin.
    level : (U,) int array
        Level of the unit, numbered over all covariates; -1 without a grouping factor.
    levels : (C + 1,) int array
        Where levels begin.
    sd, effect_sd : (C,) int arrays
        Position of tau and omega among the standard deviations; -1 where there is none, tau of a
        covariate with two values.
    coefficients, sds : Scales
        Priors.
    """

    reading: Doubles
    error: Doubles
    unknown: Integers
    W: Doubles
    units: Integers
    columns: Integers
    flat: Integers
    level: Integers
    levels: Integers
    sd: Integers
    effect_sd: Integers
    coefficients: Scales
    sds: Scales


@kernel
def readings(low, z, a, mean, sd, alpha, scales, effects):
    """Density of the readings, and what every unknown is before the response is seen.

    Parameters
    ----------
    low : array
        Coordinates of the coefficients and standard deviations.
    z : array
        Standardized effects of the levels.
    a : Regressions
    mean, sd : (m,) arrays
        Receive moments of the unknowns; of two values the logit of P(x = 1), and 0.
    alpha, scales : arrays
        Receive coefficients and standard deviations.
    effects : array
        Receives c.
    """
    n_alpha = a.coefficients.code.shape[0]
    value, _, found, _ = scale_terms(a.coefficients, low[:n_alpha])
    alpha[:] = found
    more, _, sds, _ = scale_terms(a.sds, low[n_alpha:])
    scales[:] = sds
    value += more
    P, S = np.zeros(z.shape[0]), np.zeros(z.shape[0])
    for c in range(a.sd.shape[0]):
        binary, own = a.sd[c] < 0, alpha[a.columns[c] : a.columns[c + 1]]
        k, tau2 = own.shape[0], 0.0 if binary else sds[a.sd[c]] ** 2
        for u in range(a.units[c], a.units[c + 1]):
            if np.isnan(a.reading[u]):
                continue
            at = a.flat[c] + (u - a.units[c]) * k
            fitted = dot(a.W[at : at + k], own)
            if binary:
                value += a.reading[u] * fitted - softplus(fitted)
                continue
            v, rest = tau2 + a.error[u], a.reading[u] - fitted
            value -= 0.5 * (_LOG_2PI + np.log(v) + rest * rest / v)
            if a.level[u] >= 0:
                P[a.level[u]] += 1.0 / v
                S[a.level[u]] += rest / v
        for g in range(a.levels[c], a.levels[c + 1]):
            omega = sds[a.effect_sd[c]]
            Q = 1.0 + omega * omega * P[g]
            value += 0.5 * (omega * omega * S[g] * S[g] / Q - np.log(Q) - z[g] * z[g] - _LOG_2PI)
            effects[g] = _effect(omega, P[g], S[g], z[g])
        for u in range(a.units[c], a.units[c + 1]):
            j = a.unknown[u]
            if j < 0:
                continue
            at = a.flat[c] + (u - a.units[c]) * k
            fitted = dot(a.W[at : at + k], own)
            if a.level[u] >= 0:
                fitted += effects[a.level[u]]
            mean[j], sd[j] = fitted, np.sqrt(tau2)
            if not np.isnan(a.reading[u]):
                share = tau2 / (tau2 + a.error[u])
                mean[j] += share * (a.reading[u] - fitted)
                sd[j] = np.sqrt(share * a.error[u])
    return value


@kernel
def softplus(t):
    """log(1 + e^t)."""
    return max(t, 0.0) + np.log1p(np.exp(-abs(t)))


@kernel
def readings_back(low, z, a, d_mean, d_sd, d_low, d_z):
    """Derivatives of :func:`readings`' density and of what depends on the moments it gave.

    Parameters
    ----------
    d_mean, d_sd : (m,) arrays
        Derivatives in the moments.
    d_low, d_z : arrays
        Receive those in the coordinates and in z.
    """
    n_alpha = a.coefficients.code.shape[0]
    _, d_prior, alpha, slope = scale_terms(a.coefficients, low[:n_alpha])
    _, d_prior_sds, sds, slope_sds = scale_terms(a.sds, low[n_alpha:])
    d_alpha, d_sds, n = np.zeros(n_alpha), np.zeros(sds.shape[0]), z.shape[0]
    P, S, d_P, d_S, d_c = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n)
    for c in range(a.sd.shape[0]):
        binary, first, k = a.sd[c] < 0, a.columns[c], a.columns[c + 1] - a.columns[c]
        tau = 0.0 if binary else sds[a.sd[c]]
        low_u, high_u = a.units[c], a.units[c + 1]
        n_units = high_u - low_u
        rest, d_fitted, d_v = np.zeros(n_units), np.zeros(n_units), np.zeros(n_units)
        d_tau = 0.0
        for u in range(low_u, high_u):
            i = u - low_u
            at = a.flat[c] + i * k
            fitted = dot(a.W[at : at + k], alpha[first : first + k])
            rest[i] = a.reading[u] - fitted
            if binary:
                if not np.isnan(a.reading[u]):
                    d_fitted[i] = a.reading[u] - 1.0 / (1.0 + np.exp(-fitted))
            elif not np.isnan(a.reading[u]):
                v = tau * tau + a.error[u]
                d_fitted[i] = rest[i] / v
                d_v[i] = 0.5 * (rest[i] * rest[i] / v - 1.0) / v
                if a.level[u] >= 0:
                    P[a.level[u]] += 1.0 / v
                    S[a.level[u]] += rest[i] / v
        for u in range(low_u, high_u):
            i, j, g = u - low_u, a.unknown[u], a.level[u]
            if j < 0:
                continue
            own = d_mean[j]
            if binary:
                d_fitted[i] += own
                continue
            if np.isnan(a.reading[u]):
                d_tau += d_sd[j]
            else:
                e, v = a.error[u], tau * tau + a.error[u]
                share = tau * tau / v
                # mean and variance of x_u given c and the reading
                centered = rest[i]
                if g >= 0:
                    centered -= _effect(sds[a.effect_sd[c]], P[g], S[g], z[g])
                d_tau += own * centered * 2.0 * tau * e / (v * v)
                d_tau += d_sd[j] * e * np.sqrt(e) / (v * np.sqrt(v))
                own *= 1.0 - share
            d_fitted[i] += own
            if g >= 0:
                d_c[g] += own
        for g in range(a.levels[c], a.levels[c + 1]):
            at = a.effect_sd[c]
            omega, omega2 = sds[at], sds[at] * sds[at]
            Q = 1.0 + omega2 * P[g]
            root = np.sqrt(Q)
            d_S[g] = omega2 * S[g] / Q + d_c[g] * omega2 / Q
            # value and c through Q, and through omega where it stands by itself
            d_Q = -0.5 * (omega2 * S[g] * S[g] / Q + 1.0) / Q
            d_Q -= d_c[g] * (omega2 * S[g] / (Q * Q) + 0.5 * omega * z[g] / (Q * root))
            d_P[g] = d_Q * omega2
            d_sds[at] += 2.0 * omega * d_Q * P[g] + omega * S[g] * S[g] / Q
            d_sds[at] += d_c[g] * (2.0 * omega * S[g] / Q + z[g] / root)
            d_z[g] = -z[g] + d_c[g] * omega / root
        for u in range(low_u, high_u):
            i, g = u - low_u, a.level[u]
            if not np.isnan(a.reading[u]) and not binary:
                v = tau * tau + a.error[u]
                if g >= 0:
                    d_fitted[i] -= d_S[g] / v
                    d_v[i] -= (d_P[g] + d_S[g] * rest[i]) / (v * v)
                d_tau += 2.0 * tau * d_v[i]
            for t in range(k):
                d_alpha[first + t] += d_fitted[i] * a.W[a.flat[c] + i * k + t]
        if not binary:
            d_sds[a.sd[c]] += d_tau
    for i in range(n_alpha):
        d_low[i] = d_prior[i] + d_alpha[i] * slope[i]
    for i in range(sds.shape[0]):
        d_low[n_alpha + i] = d_prior_sds[i] + d_sds[i] * slope_sds[i]


@kernel
def _effect(omega, P, S, z):
    """c of a level."""
    Q = 1.0 + omega * omega * P
    return omega * omega * S / Q + omega / np.sqrt(Q) * z
