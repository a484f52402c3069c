"""Coefficients given the eliminated Gram matrix S = [X y]'V^-1[X y]: the criterion and moments.

Their prior is |root delta - target|^2 with gamma = delta, or gamma = known + basis delta where some
combinations are given (``known``) and others have scales of their own (in ``basis``): then
everything is that of y - X known on the columns X basis.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bayeslmm.compiling import Doubles, Integers, Matrix, in_numpy, kernel

from ._small import cholesky_lower, invert_from_cholesky, solve_lower_transposed

__all__ = [
    "CoefficientPrior",
    "Solved",
    "draw_coefficients",
    "marginal_statistics",
    "moments",
    "n_columns",
    "omega_plain",
    "residual_form",
    "solve_fixed",
    "statistics",
]

_LOG_2PI = float(np.log(2.0 * np.pi))


class CoefficientPrior(NamedTuple):
    """Prior of p coefficients gamma, in the coordinates computed with.

    Attributes
    ----------
    root, target : (r, f), (r,) arrays
        root delta - target ~ N(0, I); the f - r directions left alone are flat.
    log_det : float
        log|root'root| of the proper part.
    known, basis : (p,), (p, f) arrays
        gamma = known + basis delta; both empty where gamma = delta.
    pins : (p, k) array
        What ``known`` gains per unit of k given numbers.
    shrunk : int array
        Columns of the basis that have scales of their own.
    """

    root: Matrix
    target: Doubles
    log_det: float
    known: Doubles
    basis: Matrix
    pins: Matrix
    shrunk: Integers


class Solved(NamedTuple):
    """Coefficients given theta.

    Attributes
    ----------
    value : float
        log p(y | theta).
    gamma, covariance : (p,), (p, p) arrays
    omega : (p + 1, p + 1) array
        Expected [-gamma; 1][-gamma; 1]'.
    half : float
        Half the sum that gives the derivative with respect to sigma^2 by homogeneity.
    free : (f, f) array
        Covariance of delta.
    slopes : (p + f,) array
        Derivatives of the value in ``known`` and in the logs of the lengths of the basis' columns
        where these have a standard normal prior; empty without a basis.
    """

    value: float
    gamma: np.ndarray
    covariance: np.ndarray
    omega: np.ndarray
    half: float
    free: np.ndarray
    slopes: np.ndarray


@kernel
def n_columns(prior):
    """Columns of [X y]."""
    p = prior.known.shape[0]
    return (p if p > 0 else prior.root.shape[1]) + 1


@kernel
def _reduced(S, prior):
    """[X basis, y - X known]'V^-1[X basis, y - X known]."""
    p, f = prior.basis.shape
    T = np.zeros((p + 1, f + 1))
    T[:p, :f] = prior.basis
    T[:p, f] = -prior.known
    T[p, f] = 1.0
    return np.dot(T.T, np.dot(S, T))


@kernel
def solve_fixed(P, h):
    """Inverse of P (symmetric), P^-1 h and log|P|; nan where P is not positive definite."""
    p = P.shape[0]
    inverse = P.copy()
    log_det = cholesky_lower(inverse)
    invert_from_cholesky(inverse)
    solution = np.zeros(p)
    for i in range(p):
        for j in range(i):
            inverse[j, i] = inverse[i, j]
    for i in range(p):
        for j in range(p):
            solution[i] += inverse[i, j] * h[j]
    for i in range(p):  # one step of refinement: the inverse is only used for this and for traces
        residual = h[i]
        for j in range(p):
            residual -= P[i, j] * solution[j]
        for j in range(p):
            h_j = inverse[j, i] * residual
            solution[j] += h_j
    return inverse, solution, log_det


@in_numpy(solve_fixed)
def _solve_fixed_plain(P, h):
    try:
        C = np.linalg.cholesky(P)
    except np.linalg.LinAlgError:
        return np.full(P.shape, np.nan), np.full(h.shape, np.nan), np.nan
    half = np.linalg.inv(C)
    inverse = half.T @ half
    solution = inverse @ h
    solution += inverse @ (h - P @ solution)
    return inverse, solution, 2.0 * np.log(np.diag(C)).sum()


def omega_plain(inverse, beta, weight):
    gap = np.append(beta, -1.0)
    omega = weight * np.outer(gap, gap)
    omega[:-1, :-1] += inverse
    return omega


@kernel
def residual_form(S, beta):
    """[-beta; 1]' S [-beta; 1], the generalized residual sum of squares."""
    p = beta.shape[0]
    total = S[p, p]
    for i in range(p):
        row = -2.0 * S[i, p]
        for j in range(p):
            row += S[i, j] * beta[j]
        total += row * beta[i]
    return total


@kernel
def posterior_precision(S, sigma2, root, target):
    """P = S_XX / sigma^2 + R'R and h = S_Xy / sigma^2 + R't for the prior |R beta - t|^2."""
    p = S.shape[0] - 1
    P = S[:p, :p] / sigma2
    h = S[:p, p] / sigma2
    for i in range(p):
        for c in range(root.shape[0]):
            here = root[c, i]
            if here != 0.0:
                h[i] += here * target[c]
                for j in range(p):
                    P[i, j] += here * root[c, j]
    return P, h


@in_numpy(posterior_precision)
def _posterior_precision_plain(S, sigma2, root, target):
    return S[:-1, :-1] / sigma2 + root.T @ root, S[:-1, -1] / sigma2 + root.T @ target


@kernel
def _integrated(S, log_det, n, sum_log_weights, sigma2, root, target, log_det_P0):
    """log p(y | theta), posterior mean and covariance of delta, omega, and ``half``."""
    p = S.shape[0] - 1
    P, h = posterior_precision(S, sigma2, root, target)
    inverse, beta, log_det_P = solve_fixed(P, h)
    n_flat = p - root.shape[0]
    quadratic = residual_form(S, beta) / sigma2
    prior = 0.0
    trace = 0.0
    for c in range(root.shape[0]):
        gap = -target[c]
        for j in range(p):
            gap += root[c, j] * beta[j]
        prior += gap * gap
    for i in range(p):
        for j in range(p):
            trace += inverse[i, j] * S[i, j] / sigma2
    log_det_V = n * np.log(sigma2) + log_det - sum_log_weights
    value = -0.5 * (
        (n - n_flat) * _LOG_2PI + log_det_V - log_det_P0 + log_det_P + quadratic + prior
    )
    omega = np.zeros((p + 1, p + 1))
    for i in range(p):
        for j in range(p):
            omega[i, j] = beta[i] * beta[j] + inverse[i, j]
        omega[i, p] = -beta[i]
        omega[p, i] = -beta[i]
    omega[p, p] = 1.0
    return value, beta, inverse, omega, 0.5 * (quadratic + trace - n)


@in_numpy(_integrated)
def _integrated_plain(S, log_det, n, slw, sigma2, root, target, log_det_P0):
    P, h = posterior_precision(S, sigma2, root, target)
    inverse, beta, log_det_P = solve_fixed(P, h)
    gap, prior = np.append(-beta, 1.0), root @ beta - target
    quadratic = gap @ S @ gap / sigma2
    trace = np.vdot(inverse, S[:-1, :-1]) / sigma2
    log_det_V = n * np.log(sigma2) + log_det - slw
    n_known = n - len(beta) + len(root)
    value = n_known * _LOG_2PI + log_det_V - log_det_P0 + log_det_P + quadratic + prior @ prior
    omega = omega_plain(inverse, beta, 1.0)
    return -0.5 * value, beta, inverse, omega, 0.5 * (quadratic + trace - n)


@kernel
def marginal_statistics(S, log_det, n, sum_log_weights, sigma2, prior):
    """:class:`Solved` at S for sigma = 1, the residual variance being sigma2."""
    R = S if prior.known.shape[0] == 0 else _reduced(S, prior)
    value, delta, free, omega, half = _integrated(
        R, log_det, n, sum_log_weights, sigma2, prior.root, prior.target, prior.log_det
    )
    if prior.known.shape[0] == 0:
        return Solved(value, delta, free, omega, half, free, np.empty(0))
    p, f = prior.basis.shape
    gamma = prior.known + np.dot(prior.basis, delta)
    covariance = np.dot(prior.basis, np.dot(free, prior.basis.T))
    omega = np.empty((p + 1, p + 1))
    slopes = np.empty(p + f)
    for i in range(p):
        score = S[i, p]
        for j in range(p):
            score -= S[i, j] * gamma[j]
            omega[i, j] = gamma[i] * gamma[j] + covariance[i, j]
        omega[i, p] = -gamma[i]
        omega[p, i] = -gamma[i]
        slopes[i] = score / sigma2
    omega[p, p] = 1.0
    for j in range(f):
        slopes[p + j] = delta[j] * delta[j] + free[j, j] - 1.0
    return Solved(value, gamma, covariance, omega, half, free, slopes)


@kernel
def moments(S, sigma2, prior):
    """Mean and covariance of gamma."""
    R = S if prior.known.shape[0] == 0 else _reduced(S, prior)
    P, h = posterior_precision(R, sigma2, prior.root, prior.target)
    free, delta, _ = solve_fixed(P, h)
    if prior.known.shape[0] == 0:
        return delta, free
    B = prior.basis
    return prior.known + np.dot(B, delta), np.dot(B, np.dot(free, B.T))


@kernel
def draw_fixed(P, beta, z):
    """beta + C^-T z with P = C C': a draw from N(beta, P^-1) for standard normal z (p, m)."""
    C = P.copy()
    cholesky_lower(C)
    out = z.copy()
    solve_lower_transposed(C, out)
    for i in range(out.shape[0]):
        for c in range(out.shape[1]):
            out[i, c] += beta[i]
    return out


@kernel
def draw_coefficients(S, sigma2, prior, noise):
    """A draw of gamma, (p, 1), from standard normals (p, 1)."""
    R = S if prior.known.shape[0] == 0 else _reduced(S, prior)
    P, h = posterior_precision(R, sigma2, prior.root, prior.target)
    _, delta, _ = solve_fixed(P, h)
    out = draw_fixed(P, delta, noise[: prior.root.shape[1]])
    if prior.known.shape[0] == 0:
        return out
    gamma = np.dot(prior.basis, out)
    for i in range(gamma.shape[0]):
        gamma[i, 0] += prior.known[i]
    return gamma


@kernel
def statistics(S, log_det, n, prior, ml):
    """Criterion, coefficients, their covariance, a root B of omega, and ``slopes``.

    omega is such that D = (U omega U' - V^-1) / 2; with ``ml`` beta is estimated, not integrated.
    """
    p = S.shape[0] - 1
    B = np.zeros((p + 1, p + 1))
    if ml:
        slopes, free = np.empty(0), B
        inverse, beta, log_det_P = solve_fixed(S[:p, :p].copy(), S[:p, p].copy())
        quadratic = residual_form(S, beta)
        value = -0.5 * (n * _LOG_2PI + log_det + quadratic)
        if not np.isfinite(log_det_P):
            value = np.nan
    else:
        at = marginal_statistics(S, log_det, n, 0.0, 1.0, prior)
        value, beta, inverse, free, slopes = at.value, at.gamma, at.covariance, at.free, at.slopes
    for i in range(p):
        B[i, p] = -beta[i]
    B[p, p] = 1.0
    if not ml:
        C = free.copy()
        cholesky_lower(C)
        for i in range(p):
            if prior.known.shape[0] == 0:
                for j in range(i + 1):
                    B[i, j] = C[i, j]
                continue
            for j in range(C.shape[0]):
                for k in range(j, C.shape[0]):
                    B[i, j] += prior.basis[i, k] * C[k, j]
    return value, beta, inverse, B, slopes
