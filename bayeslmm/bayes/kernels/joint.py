"""The joint density of parameters and effects, in effects that follow the parameters.

Given the covariance Sigma = F F' of a level's effects b, and with P and r the information that its
rows have about them near the mode, b is about N(Q r, Q), Q = (P + Sigma^-1)^-1. So b is written as

    M = I + F'P F = C C',   u = C^-T (C^-1 F'r + v),   b = F u,

and v is near a standard normal whatever Sigma is: for levels without information this is the
non-centered form, for levels with much of it the centered one, and nothing is divided by an F that
may be singular (Papaspiliopoulos, Roberts & Skold 2007, Statistical Science 22(1), on the two
forms). The map is exact: its Jacobian -log|C| is part of the density, whatever P and r are.

In z, where NUTS moves, parameters are center + scale z and v is what makes the Hessian at the mode
the identity: levels of the first factor are independent there given the others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import carray

from bayeslmm.addresses import reader
from bayeslmm.bayes.kernels.coordinates import CovariancePrior, natural
from bayeslmm.bayes.kernels.tables import LOGP
from bayeslmm.compiling import Doubles, IntegerMatrix, Integers, Matrix, c_function, kernel
from bayeslmm.parts.correlations import pullback_to_correlations
from bayeslmm.parts.families.kernels import log_density_rows
from bayeslmm.parts.scales import Scales, scale_terms

__all__ = [
    "N_JOINT",
    "JointArguments",
    "Levels",
    "Rows",
    "Whitening",
    "family_parameters",
    "joint",
    "logp",
    "natural_draws",
    "ordered_pullback",
    "read_joint",
    "spread_out",
    "whitened",
    "whitened_many",
]

_LOG_2PI = float(np.log(2.0 * np.pi))


class Rows(NamedTuple):
    """Rows of the data.

    Attributes
    ----------
    family : int
        Code of family and link.
    y, trials, weights, offset : (n,) arrays
    X : (n, p) array
    Z : (n, sum q_k) array
        Columns of all factors, the first factor's first.
    codes : (n, K) int array
        Levels.
    """

    family: int
    y: Doubles
    trials: Doubles
    weights: Doubles
    offset: Doubles
    X: Matrix
    Z: Matrix
    codes: IntegerMatrix


class Levels(NamedTuple):
    """What is known of the levels' effects near the mode.

    Attributes
    ----------
    q : (K,) int array
        Effects of each factor.
    z, b, p, f : (K + 1,) int arrays
        Where each factor begins in the columns of Z, in the effects, in the flat P and in the flat
        covariance factors (whose order is the design's).
    P : flat (q_k, q_k) of every level
        Information.
    r : (N,) array
        Information times the effects it is about.
    """

    q: Integers
    z: Integers
    b: Integers
    p: Integers
    f: Integers
    P: Doubles
    r: Doubles


class Whitening(NamedTuple):
    """From z to parameters and v.

    Attributes
    ----------
    center : (d,) array
    scale : (d, d) array
    along : (N, p) array
        How v moves with the coefficients.
    tail : (m, m) array
        Upper triangular, of the v of all factors but the first, m of them.
    ptr, column, value : arrays
        Rows of the first factor's v, and what they lose of each v of the others.
    """

    center: Doubles
    scale: Matrix
    along: Matrix
    tail: Matrix
    ptr: Integers
    column: Integers
    value: Doubles


class JointArguments(NamedTuple):
    """All that the density takes.

    Attributes
    ----------
    rows : Rows
    levels : Levels
    covariances : CovariancePrior
    phi, coefficients : Scales
        Priors of the family's parameters and of the coefficients.
    ordered : int
        1 where the family's parameters are thresholds, in increasing order.
    constant : float
        What the log density of all rows adds whatever the parameters.
    whitening : Whitening
    """

    rows: Rows
    levels: Levels
    covariances: CovariancePrior
    phi: Scales
    coefficients: Scales
    ordered: int
    constant: float
    whitening: Whitening


read_joint, N_JOINT = reader(JointArguments)


@kernel
def family_parameters(x, phi, ordered):
    """Log prior with Jacobians and its gradient, the parameters and their slopes in x.

    Of ordered ones x holds the first and the logs of the gaps.
    """
    if ordered == 0:
        return scale_terms(phi, x)
    k = x.shape[0]
    natural_x, slope = np.empty(k), np.empty(k)
    natural_x[0], slope[0] = x[0], 1.0
    log_jacobian = 0.0
    for i in range(1, k):
        slope[i] = np.exp(x[i])
        natural_x[i] = natural_x[i - 1] + slope[i]
        log_jacobian += x[i] + np.log(i + 1.0)
    value, gradient, at, _ = scale_terms(phi, natural_x)
    gradient = ordered_pullback(gradient, slope)
    for i in range(1, k):
        gradient[i] += 1.0
    return value + log_jacobian, gradient, at, slope


@kernel
def ordered_pullback(d_at, slope):
    """Derivatives in the first and the log gaps, from those in the thresholds."""
    out, total = np.empty(d_at.shape[0]), 0.0
    for i in range(d_at.shape[0] - 1, -1, -1):
        total += d_at[i]
        out[i] = total * slope[i]
    return out


@kernel
def _forward(levels, F, v, C, first, u, b):
    """C, C^-1 F'r, u and b of every level; log|C| of all."""
    log_det = 0.0
    for k in range(levels.q.shape[0]):
        q, f_at = levels.q[k], levels.f[k]
        b_at, p_at = levels.b[k], levels.p[k]
        n_levels = (levels.b[k + 1] - b_at) // q
        if q == 1:
            f = F[f_at]
            for j in range(n_levels):
                at = b_at + j
                square = 1.0 + f * f * levels.P[p_at + j]
                c = np.sqrt(square)
                log_det += 0.5 * np.log(square)
                C[p_at + j] = c
                first[at] = f * levels.r[at] / c
                u[at] = (first[at] + v[at]) / c
                b[at] = f * u[at]
            continue
        PF = np.empty((q, q))
        for j in range(n_levels):
            at, m = b_at + j * q, p_at + j * q * q
            for i in range(q):
                for c in range(q):
                    total = 0.0
                    for a in range(c, q):
                        total += levels.P[m + i * q + a] * F[f_at + a * q + c]
                    PF[i, c] = total
            for i in range(q):
                for c in range(i + 1):
                    total = 1.0 if i == c else 0.0
                    for a in range(i, q):
                        total += F[f_at + a * q + i] * PF[a, c]
                    for a in range(c):
                        total -= C[m + i * q + a] * C[m + c * q + a]
                    if i == c:
                        C[m + i * q + c] = np.sqrt(total)
                        log_det += 0.5 * np.log(total)
                    else:
                        C[m + i * q + c] = total / C[m + c * q + c]
            for i in range(q):
                total = 0.0
                for a in range(i, q):
                    total += F[f_at + a * q + i] * levels.r[at + a]
                for a in range(i):
                    total -= C[m + i * q + a] * first[at + a]
                first[at + i] = total / C[m + i * q + i]
            for i in range(q - 1, -1, -1):
                total = first[at + i] + v[at + i]
                for a in range(i + 1, q):
                    total -= C[m + a * q + i] * u[at + a]
                u[at + i] = total / C[m + i * q + i]
            for i in range(q):
                total = 0.0
                for a in range(i + 1):
                    total += F[f_at + i * q + a] * u[at + a]
                b[at + i] = total
    return log_det


@kernel
def _backward(levels, F, C, first, u, g, d_F, d_v):
    """Derivatives in F and v from g, those in b; of -|u|^2 / 2 and -log|C| too.

    The Cholesky factor's by Murray (2016, arXiv:1602.07527).
    """
    for k in range(levels.q.shape[0]):
        q, f_at = levels.q[k], levels.f[k]
        b_at, p_at = levels.b[k], levels.p[k]
        n_levels = (levels.b[k + 1] - b_at) // q
        if q == 1:
            f, total = F[f_at], 0.0
            for j in range(n_levels):
                at = b_at + j
                c = C[p_at + j]
                alpha = (f * g[at] - u[at]) / c
                rho = alpha / c
                d_c = -u[at] * alpha - rho * first[at] - 1.0 / c
                total += levels.r[at] * rho + g[at] * u[at] + levels.P[p_at + j] * f * d_c / c
                d_v[at] = alpha
            d_F[f_at] += total
            continue
        alpha, rho = np.empty(q), np.empty(q)
        D, W = np.empty((q, q)), np.empty((q, q))
        for j in range(n_levels):
            at, m = b_at + j * q, p_at + j * q * q
            for i in range(q):  # alpha = C^-1 (F'g - u)
                total = -u[at + i]
                for a in range(i, q):
                    total += F[f_at + a * q + i] * g[at + a]
                for a in range(i):
                    total -= C[m + i * q + a] * alpha[a]
                alpha[i] = total / C[m + i * q + i]
                d_v[at + i] = alpha[i]
            for i in range(q - 1, -1, -1):  # rho = C^-T alpha
                total = alpha[i]
                for a in range(i + 1, q):
                    total -= C[m + a * q + i] * rho[a]
                rho[i] = total / C[m + i * q + i]
            for i in range(q):  # dL/dC, lower triangle
                for c in range(i + 1):
                    D[i, c] = -u[at + i] * alpha[c] - rho[i] * first[at + c]
                D[i, i] -= 1.0 / C[m + i * q + i]
            for i in range(q):  # lower triangle of C'D, half its diagonal
                for c in range(i + 1):
                    total = 0.0
                    for a in range(i, q):
                        total += C[m + a * q + i] * D[a, c]
                    W[i, c] = total if i > c else 0.5 * total
                for c in range(i + 1, q):
                    W[i, c] = 0.0
            for c in range(q):  # W = C^-T W
                for i in range(q - 1, -1, -1):
                    total = W[i, c]
                    for a in range(i + 1, q):
                        total -= C[m + a * q + i] * W[a, c]
                    W[i, c] = total / C[m + i * q + i]
            for i in range(q):  # W = W C^-1
                for c in range(q - 1, -1, -1):
                    total = W[i, c]
                    for a in range(c + 1, q):
                        total -= W[i, a] * C[m + a * q + c]
                    W[i, c] = total / C[m + c * q + c]
            for i in range(q):  # D = F (W + W'), dL/dF += P D
                for c in range(q):
                    total = 0.0
                    for a in range(i + 1):
                        total += F[f_at + i * q + a] * (W[a, c] + W[c, a])
                    D[i, c] = total
            for i in range(q):
                for c in range(i + 1):
                    total = levels.r[at + i] * rho[c] + g[at + i] * u[at + c]
                    for a in range(q):
                        total += levels.P[m + i * q + a] * D[a, c]
                    d_F[f_at + i * q + c] += total


@kernel
def _predictor(rows, levels, beta, b):
    """eta of every row."""
    eta = rows.offset.copy()
    n, p = rows.X.shape
    K = levels.q.shape[0]
    for i in range(n):
        total = eta[i]
        for c in range(p):
            total += rows.X[i, c] * beta[c]
        for k in range(K):
            q, column = levels.q[k], levels.z[k]
            at = levels.b[k] + rows.codes[i, k] * q
            for a in range(q):
                total += rows.Z[i, column + a] * b[at + a]
        eta[i] = total
    return eta


@kernel
def _transposed(rows, levels, score, d_beta, g):
    """X' score and Z' score, added to zeros."""
    n, p = rows.X.shape
    K = levels.q.shape[0]
    for i in range(n):
        s = score[i]
        for c in range(p):
            d_beta[c] += rows.X[i, c] * s
        for k in range(K):
            q, column = levels.q[k], levels.z[k]
            at = levels.b[k] + rows.codes[i, k] * q
            for a in range(q):
                g[at + a] += rows.Z[i, column + a] * s


@kernel
def joint(low, v, a):
    """Log density of the parameters and of v, and its derivatives in both.

    Parameters
    ----------
    low : (d,) array
        Coordinates of the covariances, of the family's parameters, and coefficients.
    v : (N,) array
    a : JointArguments
    """
    levels, prior = a.levels, a.covariances
    n_cov = prior.scales.code.shape[0] + prior.exponent.shape[0]
    n_phi, p = a.phi.code.shape[0], a.coefficients.code.shape[0]
    m, k = prior.effects.diagonal.shape[0], prior.scales.code.shape[0]
    d_low, d_v = np.empty(low.shape[0]), np.empty(v.shape[0])
    at = natural(low[:n_cov], prior)
    log_phi, d_log_phi, phi, slope = family_parameters(low[n_cov : n_cov + n_phi], a.phi, a.ordered)
    log_beta, d_log_beta, beta, slope_beta = scale_terms(a.coefficients, low[n_cov + n_phi :])
    N = v.shape[0]
    C, first, u, b = np.empty(levels.P.shape[0]), np.empty(N), np.empty(N), np.empty(N)
    log_det = _forward(levels, at.F, v, C, first, u, b)
    eta = _predictor(a.rows, levels, beta, b)
    score, d_phi = np.empty(eta.shape[0]), np.zeros(n_phi)
    value = log_density_rows(
        a.rows.family, a.rows.y, a.rows.trials, a.rows.weights, eta, phi, score, d_phi
    )
    for i in range(N):
        value -= 0.5 * u[i] * u[i]
    value += a.constant + at.value + log_phi + log_beta - log_det - 0.5 * N * _LOG_2PI
    d_beta, g, d_F = np.zeros(p), np.zeros(N), np.zeros(at.F.shape[0])
    _transposed(a.rows, levels, score, d_beta, g)
    _backward(levels, at.F, C, first, u, g, d_F, d_v)
    d_low[:n_cov] = at.gradient
    # at unit sds the derivative in log sd is that in sd: nothing is divided by an sd
    d_sd, d_u = pullback_to_correlations(prior.effects, np.ones(m), low[k:n_cov], d_F)
    for i in range(m):
        d_low[i] += d_sd[i] * at.slope[i]
        for t in range(prior.effects.row_ptr[i], prior.effects.row_ptr[i + 1]):
            number = prior.effects.number[t]
            d_low[k + number] += d_u[number] * at.scalar[i]
    if a.ordered:
        d_phi = ordered_pullback(d_phi, slope)
        slope = np.ones(n_phi)
    for i in range(n_phi):
        d_low[n_cov + i] = d_log_phi[i] + d_phi[i] * slope[i]
    for i in range(p):
        d_low[n_cov + n_phi + i] = d_log_beta[i] + d_beta[i] * slope_beta[i]
    return value, d_low, d_v


@kernel
def spread_out(z, w):
    """Parameters and v at z."""
    d, p = w.center.shape[0], w.along.shape[1]
    N, m = w.along.shape[0], w.tail.shape[0]
    low, v = w.center.copy(), np.zeros(N)
    for i in range(d):
        for j in range(d):
            low[i] += w.scale[i, j] * z[j]
    head, first = N - m, d + N - m
    for i in range(m):
        total = 0.0
        for j in range(i, m):
            total += w.tail[i, j] * z[first + j]
        v[head + i] = total
    for i in range(head):
        total = z[d + i]
        for s in range(w.ptr[i], w.ptr[i + 1]):
            total -= w.value[s] * v[head + w.column[s]]
        v[i] = total
    for i in range(N):
        for c in range(p):
            v[i] += w.along[i, c] * (low[d - p + c] - w.center[d - p + c])
    return low, v


@kernel
def _gathered(d_low, d_v, w, out):
    """Derivatives in z from those in the parameters and v, which are used up."""
    d, p = w.center.shape[0], w.along.shape[1]
    N, m = w.along.shape[0], w.tail.shape[0]
    head = N - m
    for i in range(N):
        for c in range(p):
            d_low[d - p + c] += w.along[i, c] * d_v[i]
    for i in range(head):
        out[d + i] = d_v[i]
        for s in range(w.ptr[i], w.ptr[i + 1]):
            d_v[head + w.column[s]] -= w.value[s] * d_v[i]
    for j in range(m):
        out[d + head + j] = 0.0
    for i in range(m):
        for j in range(i, m):
            out[d + head + j] += w.tail[i, j] * d_v[head + i]
    for j in range(d):
        total = 0.0
        for i in range(d):
            total += w.scale[i, j] * d_low[i]
        out[j] = total


@kernel
def whitened(z, a, out):
    """Log density of parameters and v at z, gradient in z into ``out``."""
    low, v = spread_out(z, a.whitening)
    value, d_low, d_v = joint(low, v, a)
    _gathered(d_low, d_v, a.whitening, out)
    return value


@kernel
def whitened_many(Z, a):
    """Log density at each row of Z."""
    out, gradient = np.empty(Z.shape[0]), np.empty(Z.shape[1])
    for i in range(Z.shape[0]):
        out[i] = whitened(Z[i], a, gradient)
    return out


@kernel
def natural_draws(Z, a):
    """Scalars of the effects, flat factors, phi, coefficients and effects at rows of Z."""
    n, prior, levels = Z.shape[0], a.covariances, a.levels
    m, k = prior.effects.diagonal.shape[0], prior.scales.code.shape[0]
    n_cov, n_phi = k + prior.exponent.shape[0], a.phi.code.shape[0]
    N, p = levels.r.shape[0], a.coefficients.code.shape[0]
    sds, F = np.empty((n, m)), np.empty((n, prior.effects.buffer[0]))
    phi, beta, b = np.empty((n, n_phi)), np.empty((n, p)), np.empty((n, N))
    C, first, u = np.empty(levels.P.shape[0]), np.empty(N), np.empty(N)
    for i in range(n):
        low, v = spread_out(Z[i], a.whitening)
        at = natural(low[:n_cov], prior)
        sds[i], F[i] = at.scalar[:m], at.F
        phi[i] = family_parameters(low[n_cov : n_cov + n_phi], a.phi, a.ordered)[2]
        beta[i] = scale_terms(a.coefficients, low[n_cov + n_phi :])[2]
        _forward(levels, at.F, v, C, first, u, b[i])
    return sds, F, phi, beta, b


@c_function(LOGP)
def logp(n_dim, z, out, value, user_data):
    """Log density and gradient in z."""
    t = carray(user_data, (3 * N_JOINT,), np.int64)
    gradient, total = carray(out, (n_dim,)), carray(value, (1,))
    total[0] = whitened(carray(z, (n_dim,)), read_joint(t, 0), gradient)
    fine = np.isfinite(total[0])
    for i in range(gradient.shape[0]):
        fine = fine and np.isfinite(gradient[i])
    return 0 if fine else 3
