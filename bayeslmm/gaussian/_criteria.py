"""From the eliminated Gram matrix S = [X y]'V^-1[X y] (sigma = 1) to the criteria.

Each function also returns ``omega``, the (p + 1, p + 1) matrix for which the derivative of the
criterion with respect to a covariance matrix is sum_j T_jj against sum_j U_j omega U_j'.
"""

from __future__ import annotations

import numpy as np

from bayeslmm.compiling import in_numpy, kernel

from . import _plain
from ._backward import derivative_sums, draw_effects, effects
from ._coefficients import (
    draw_coefficients,
    marginal_statistics,
    moments,
    omega_plain,
    residual_form,
    solve_fixed,
)
from ._elimination import eliminate_head
from ._levels import all_sums, can_differentiate, draw_levels, eliminated, level_derivatives

_LOG_2PI = float(np.log(2.0 * np.pi))

#: In numpy: up to how many levels a stack of small systems is quicker than loops across levels,
#: and how many numbers the draws worked on at a time have.
_MANY_LEVELS, _AT_A_TIME = 60, 500_000


@kernel
def profile_statistics(S, log_det, n, sum_log_weights, reml):
    """Profiled -2 log-likelihood (Bates et al. 2015, eq. 34 and 42), beta, pwrss, omega."""
    p = S.shape[0] - 1
    inverse, beta, log_det_x = solve_fixed(S[:p, :p].copy(), S[:p, p].copy())
    pwrss = residual_form(S, beta)
    df = n - p if reml else n
    value = log_det - sum_log_weights + df * (1.0 + _LOG_2PI + np.log(pwrss / df))
    if reml:
        value += log_det_x
    omega = np.zeros((p + 1, p + 1))
    weight = df / pwrss
    for i in range(p):
        for j in range(p):
            omega[i, j] = weight * beta[i] * beta[j]
            if reml:
                omega[i, j] += inverse[i, j]
        omega[i, p] = -weight * beta[i]
        omega[p, i] = -weight * beta[i]
    omega[p, p] = weight
    return value, beta, pwrss, inverse, omega


@in_numpy(profile_statistics)
def _profile_statistics_plain(S, log_det, n, sum_log_weights, reml):
    p = S.shape[0] - 1
    inverse, beta, log_det_x = solve_fixed(S[:p, :p], S[:p, p])
    gap = np.append(-beta, 1.0)
    pwrss, df = gap @ S @ gap, n - p if reml else n
    value = log_det - sum_log_weights + df * (1.0 + _LOG_2PI + np.log(pwrss / df))
    omega = omega_plain(inverse if reml else 0.0, beta, df / pwrss)
    return value + (log_det_x if reml else 0.0), beta, pwrss, inverse, omega


@kernel
def theta_to_factors(theta, theta_index, size):
    """Flat buffer of relative factors from the free entries."""
    F = np.zeros(size)
    for i in range(theta.shape[0]):
        F[theta_index[i]] = theta[i]
    return F


@kernel
def gradient_to_theta(f_ptr, factor_q, D, F, theta_index):
    """2 D_k L_k at the free entries, D flat with the layout of F."""
    out = np.empty(theta_index.shape[0])
    k = 0
    for i in range(theta_index.shape[0]):
        while theta_index[i] >= f_ptr[k + 1]:
            k += 1
        q = factor_q[k]
        at = f_ptr[k]
        a = (theta_index[i] - at) // q
        b = (theta_index[i] - at) % q
        total = 0.0
        for c in range(q):
            total += D[at + a * q + c] * F[at + c * q + b]
        out[i] = 2.0 * total
    return out


@kernel
def use_levels(lay, val, F, want_gradient):
    """The passes over all levels at a time apply; their gradient wants an invertible factor."""
    return val.levels.shape[1] > 0 and (not want_gradient or can_differentiate(lay, F))


@kernel
def head_derivatives(lay, F, diag, panel, roots, K, rhs, omega):
    """sum T and sum U omega U' when there is no dense tail."""
    b = np.empty(rhs.shape)
    U = effects(lay, diag, panel, rhs, roots, F, b)
    T = np.zeros(F.shape[0])
    Q = np.zeros(F.shape[0])
    derivative_sums(lay, diag, panel, roots, K, F, U, omega, np.empty(0), T, Q)
    return T, Q


@kernel
def profiled_levels(lay, val, sums, F, theta_index, n, sum_log_weights, reml, want_gradient):
    """Profiled criterion and its gradient from ``_levels.chunk_sums``."""
    log_det, S = eliminated(sums, val.gram)
    value, _, _, _, omega = profile_statistics(S, log_det, n, sum_log_weights, reml)
    if not want_gradient:
        return value, np.empty(0)
    T, Q = level_derivatives(sums, lay.factor_q[0], F, omega)
    for i in range(T.shape[0]):
        T[i] -= Q[i]
    return value, gradient_to_theta(lay.f_ptr, lay.factor_q, T, F, theta_index)


@kernel
def profiled_head(lay, val, theta, theta_index, n, sum_log_weights, reml, want_gradient):
    """Profiled criterion, and its gradient in theta, in one call; no dense tail."""
    F = theta_to_factors(theta, theta_index, lay.f_ptr[-1])
    if use_levels(lay, val, F, want_gradient):
        sums = all_sums(val.levels, lay.factor_q[0], val.gram.shape[0], F, want_gradient)
        return profiled_levels(
            lay, val, sums, F, theta_index, n, sum_log_weights, reml, want_gradient
        )
    log_det, roots, K, diag, panel, rhs, S = eliminate_head(lay, val, F)
    value, _, _, _, omega = profile_statistics(S, log_det, n, sum_log_weights, reml)
    if not want_gradient:
        return value, np.empty(0)
    T, Q = head_derivatives(lay, F, diag, panel, roots, K, rhs, omega)
    for i in range(T.shape[0]):
        T[i] -= Q[i]
    return value, gradient_to_theta(lay.f_ptr, lay.factor_q, T, F, theta_index)


@kernel
def marginal_levels(lay, val, sums, L, sigma, n, sum_log_weights, prior, want_gradient):
    """As :func:`marginal_head`, from ``_levels.chunk_sums``."""
    sigma2 = sigma * sigma
    log_det, S = eliminated(sums, val.gram)
    at = marginal_statistics(S, log_det, n, sum_log_weights, sigma2, prior)
    if not want_gradient:
        return at.value, np.empty(0), 0.0, at.slopes
    T, Q = level_derivatives(sums, lay.factor_q[0], L / sigma, at.omega)
    D, d_sigma2 = marginal_gradient(lay, T, Q, L, sigma2, at.half)
    return at.value, D, d_sigma2, at.slopes


@kernel
def marginal_head(lay, val, L, sigma, n, sum_log_weights, prior, want_gradient):
    """log p(y | theta) for *absolute* factors L (Sigma_k = L_k L_k', flat), no dense tail.

    Returns the value, dl/dSigma_k (flat, symmetric, all entries), dl/dsigma^2 and the slopes of
    :class:`bayeslmm.gaussian._coefficients.Solved`.
    """
    sigma2 = sigma * sigma
    F = L / sigma
    if use_levels(lay, val, F, want_gradient):
        sums = all_sums(val.levels, lay.factor_q[0], val.gram.shape[0], F, want_gradient)
        return marginal_levels(lay, val, sums, L, sigma, n, sum_log_weights, prior, want_gradient)
    log_det, roots, K, diag, panel, rhs, S = eliminate_head(lay, val, F)
    at = marginal_statistics(S, log_det, n, sum_log_weights, sigma2, prior)
    if not want_gradient:
        return at.value, np.empty(0), 0.0, at.slopes
    T, Q = head_derivatives(lay, F, diag, panel, roots, K, rhs, at.omega)
    D, d_sigma2 = marginal_gradient(lay, T, Q, L, sigma2, at.half)
    return at.value, D, d_sigma2, at.slopes


@in_numpy(marginal_head)
def _marginal_plain(lay, val, L, sigma, n, slw, prior, want_gradient):
    if val.levels.shape[1] > _MANY_LEVELS:
        return marginal_head.py_func(lay, val, L, sigma, n, slw, prior, want_gradient)
    sigma2 = sigma * sigma
    state = _plain.stacked(lay, val).eliminated(L / sigma)
    at = marginal_statistics(state.S, state.log_det, n, slw, sigma2, prior)
    if not want_gradient or not np.isfinite(state.log_det):
        return at.value, np.full(L.shape, np.nan), np.nan, at.slopes
    T, Q = state.derivative_sums(at.omega)
    D, d_sigma2 = marginal_gradient(lay, T, Q, L, sigma2, at.half)
    return at.value, D, d_sigma2, at.slopes


@kernel
def marginal_gradient(lay, T, Q, L, sigma2, half):
    """dl/dSigma_k = [sum U omega U' / sigma^2 - sum T] / (2 sigma^2), and dl/dsigma^2."""
    D = np.empty(T.shape[0])
    for i in range(T.shape[0]):
        D[i] = 0.5 * (Q[i] / sigma2 - T[i]) / sigma2
    inner = 0.0
    for k in range(lay.factor_q.shape[0]):
        q = lay.factor_q[k]
        at = lay.f_ptr[k]
        for a in range(q):
            for b in range(q):
                for c in range(q):
                    inner += D[at + a * q + b] * L[at + a * q + c] * L[at + b * q + c]
    return D, (half - inner) / sigma2


@kernel
def draws_head(lay, val, L, sigma, prior, z, fixed, effects_):
    """One draw of (fixed effects, effects) for each row of L (flat, absolute), sigma and z.

    Written to ``fixed`` (m, p) and ``effects_`` (m, N), in elimination order.
    """
    m, p = L.shape[0], val.gram.shape[0] - 1
    n_effects = val.rhs.shape[0]
    b = np.empty((n_effects, 1))
    noise = np.empty((p, 1))
    effect_noise = np.empty((n_effects, 1))
    right = np.empty((n_effects, 1))
    for d in range(m):
        F = L[d] / sigma[d]
        noise[:, 0] = z[d, :p]
        if val.levels.shape[1] > 0:
            q = lay.factor_q[0]
            _, S = eliminated(all_sums(val.levels, q, p + 1, F, False), val.gram)
            fixed[d] = draw_coefficients(S, sigma[d] * sigma[d], prior, noise)[:, 0]
            draw_levels(val.levels, q, F, fixed[d], sigma[d], z[d, p:], effects_[d])
            continue
        _, roots, _, _, panel, rhs, S = eliminate_head(lay, val, F)
        fixed[d] = draw_coefficients(S, sigma[d] * sigma[d], prior, noise)[:, 0]
        effect_noise[:, 0] = z[d, p:]
        for i in range(n_effects):
            total = rhs[i, p]
            for j in range(p):
                total -= rhs[i, j] * fixed[d, j]
            right[i, 0] = total
        draw_effects(lay, panel, right, roots, F, sigma[d], effect_noise, b)
        effects_[d] = b[:, 0]


@in_numpy(draws_head)
def _draws_plain(lay, val, L, sigma, prior, z, fixed, effects_):
    if len(prior.known):
        draws_head.py_func(lay, val, L, sigma, prior, z, fixed, effects_)
        return
    root, target = prior.root, prior.target
    whole = _plain.stacked(lay, val)
    step = max(1, _AT_A_TIME // max(1, whole.A.size))
    p = val.gram.shape[0] - 1
    try:
        for first in range(0, len(L), step):
            d = slice(first, first + step)
            s, noise = sigma[d], z[d]
            at = whole.factorized(L[d] / s[:, None])
            S = whole.gram_given(*at) / (s * s)[:, None, None]
            P, h = S[:, :p, :p] + root.T @ root, S[:, :p, p] + root.T @ target
            C = np.linalg.cholesky(P)
            fixed[d] = np.linalg.solve(P, h[:, :, None])[:, :, 0]
            fixed[d] += np.linalg.solve(C.swapaxes(1, 2), noise[:, :p, None])[:, :, 0]
            effects_[d] = whole.draws(*at, s, fixed[d], noise[:, p:])
    except np.linalg.LinAlgError:  # one that cannot be factorized: nan of it alone
        draws_head.py_func(lay, val, L, sigma, prior, z, fixed, effects_)


@kernel
def moments_head(lay, val, L, sigma, prior, C):
    """Mean (m, k) and covariance (m, k, k) of C gamma for each row of L (flat, absolute)."""
    m, k, p = L.shape[0], C.shape[0], val.gram.shape[0] - 1
    mean = np.empty((m, k))
    covariance = np.empty((m, k, k))
    for d in range(m):
        F = L[d] / sigma[d]
        if val.levels.shape[1] > 0:
            _, S = eliminated(all_sums(val.levels, lay.factor_q[0], p + 1, F, False), val.gram)
        else:
            _, _, _, _, _, _, S = eliminate_head(lay, val, F)
        gamma, inverse = moments(S, sigma[d] * sigma[d], prior)
        for a in range(k):
            total = 0.0
            for i in range(p):
                total += C[a, i] * gamma[i]
            mean[d, a] = total
            for b in range(k):
                value = 0.0
                for i in range(p):
                    for j in range(p):
                        value += C[a, i] * inverse[i, j] * C[b, j]
                covariance[d, a, b] = value
    return mean, covariance
