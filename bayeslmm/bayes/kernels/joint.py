"""The joint density of parameters and effects of a response that is not Gaussian.

Effects are functions of the covariances and of v (:mod:`bayeslmm.bayes.kernels._following`). In z,
where NUTS moves, parameters are center + scale z and v is what makes the Hessian at the mode about
the identity.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bayeslmm.addresses import reader
from bayeslmm.bayes.kernels._covariates import Sums, Unknowns, enter, in_states, leave, summed
from bayeslmm.bayes.kernels._following import follow, pull_back
from bayeslmm.bayes.kernels._regressions import Regressions
from bayeslmm.bayes.kernels._walls import Walls, pull_inside, step_inside
from bayeslmm.bayes.kernels.coordinates import CovariancePrior, natural
from bayeslmm.bayes.kernels.effects import log_effects
from bayeslmm.compiling import (
    Doubles,
    IntegerMatrix,
    Integers,
    Matrix,
    fused,
    kernel,
)
from bayeslmm.gaussian._levels import dot
from bayeslmm.gaussian.symbolic import Layout
from bayeslmm.parts.correlations import pullback_to_correlations
from bayeslmm.parts.families.kernels import log_density_rows
from bayeslmm.parts.scales import Scales, scale_terms

__all__ = [
    "N_JOINT",
    "JointArguments",
    "Levels",
    "Rows",
    "UnknownDraws",
    "Whitening",
    "family_parameters",
    "joint",
    "natural_draws",
    "ordered_pullback",
    "read_joint",
    "spread_out",
    "state_chances",
    "whitened",
]


class Rows(NamedTuple):
    """Rows of the data, in the order of the levels of the first factor.

    Attributes
    ----------
    family : int
        Code of family and link.
    y, trials, weights, offset : (n,) arrays
    X : (p, n) array
    Z : (sum q_k, n) array
        Columns of all factors, the first factor's first.
    first : (K, n) int array
        Where the effects of the row's level begin.
    q : (K,) int array
        Effects of each factor.
    starts : int array
        First rows of the levels of the first factor that have rows, and n.
    """

    family: int
    y: Doubles
    trials: Doubles
    weights: Doubles
    offset: Doubles
    X: Matrix
    Z: Matrix
    first: IntegerMatrix
    q: Integers
    starts: Integers


class Levels(NamedTuple):
    """What is known of the effects near the mode, in elimination order.

    Attributes
    ----------
    layout : Layout
        Without a dense tail.
    diag, panel : flat arrays
        Information, see :mod:`bayeslmm.bayes.kernels._following`.
    r : (N,) array
        Information times the effects it is about, at ``beta``.
    drift : (N, p) array
        What r loses per unit of each coefficient, Z'WX; (N, 0) where effects do not follow them.
    beta : (p,) array
        Coefficients at the mode.
    """

    layout: Layout
    diag: Doubles
    panel: Doubles
    r: Doubles
    drift: Matrix
    beta: Doubles


class Whitening(NamedTuple):
    """From z to parameters and v.

    Attributes
    ----------
    center : (d,) array
    scale : (d, d) array
    along : (N, p) array
        How v moves with the coefficients; (N, 0) where it need not.
    head, rest : int arrays
        Effects that are independent given the m others, and these. What v holds beyond effects is
        z.
    tail : (m, m) array
        Upper triangular, of the v of the others.
    ptr, column, value : arrays
        What each v of the head loses of which of the others.
    """

    center: Doubles
    scale: Matrix
    along: Matrix
    head: Integers
    rest: Integers
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
    tails : Scales
        Of the degrees of freedom of every factor's effects; of nothing where these are normal.
    ordered : int
        1 where the family's parameters are thresholds, in increasing order.
    constant : float
        What the log density of all rows adds whatever the parameters.
    walls : Walls
    regressions : Regressions
    unknowns : Unknowns
    sums : Sums
        Of covariates with unknown values.
    whitening : Whitening
    """

    rows: Rows
    levels: Levels
    covariances: CovariancePrior
    phi: Scales
    coefficients: Scales
    tails: Scales
    ordered: int
    constant: float
    walls: Walls
    regressions: Regressions
    unknowns: Unknowns
    sums: Sums
    whitening: Whitening


class UnknownDraws(NamedTuple):
    """n draws of what belongs to covariates with unknown values.

    Attributes
    ----------
    alpha, scales, effects : (n, ...) arrays
        Coefficients, standard deviations and effects of their regressions.
    x : (n, m) array
        Values of the normal ones, before those of two values, which are 0.
    """

    alpha: Matrix
    scales: Matrix
    effects: Matrix
    x: Matrix


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
def _predictor(rows, beta, b):
    """eta of every row."""
    eta = rows.offset.copy()
    n, column = eta.shape[0], 0
    for c in range(beta.shape[0]):
        x, size = rows.X[c], beta[c]
        for i in range(n):
            eta[i] += size * x[i]
    for k in range(rows.q.shape[0]):
        first = rows.first[k]
        for a in range(rows.q[k]):
            z = rows.Z[column + a]
            if k == 0:
                for j in range(rows.starts.shape[0] - 1):
                    low, high = rows.starts[j], rows.starts[j + 1]
                    effect = b[first[low] + a]
                    for i in range(low, high):
                        eta[i] += effect * z[i]
            else:
                for i in range(n):
                    eta[i] += z[i] * b[first[i] + a]
        column += rows.q[k]
    return eta


@kernel
def _transposed(rows, score, d_beta, g):
    """X' score and Z' score, added to zeros."""
    n, column = score.shape[0], 0
    for c in range(d_beta.shape[0]):
        d_beta[c] += dot(rows.X[c], score)
    for k in range(rows.q.shape[0]):
        first = rows.first[k]
        for a in range(rows.q[k]):
            z = rows.Z[column + a]
            if k == 0:
                for j in range(rows.starts.shape[0] - 1):
                    low, high = rows.starts[j], rows.starts[j + 1]
                    g[first[low] + a] += dot(z[low:high], score[low:high])
            else:
                for i in range(n):
                    g[first[i] + a] += z[i] * score[i]
        column += rows.q[k]


@kernel
def _information(levels, beta):
    """r at coefficients."""
    r = levels.r.copy()
    for i in range(r.shape[0]):
        for c in range(levels.drift.shape[1]):
            r[i] -= levels.drift[i, c] * (beta[c] - levels.beta[c])
    return r


@fused
def _entered(a, low, v, phi, beta, b, eta):
    """Unknowns at the parameters: log density and :class:`Placed`; see :func:`enter`."""
    own = a.regressions
    end = low.shape[0] - beta.shape[0]
    first = end - own.coefficients.code.shape[0] - own.sds.code.shape[0]
    high = v[a.levels.r.shape[0] :]
    return enter(low[first:end], high, own, a.unknowns, a.rows.first, a.rows.q, phi, beta, b, eta)


@fused
def _blocks(a, gamma, eta, phi):
    """Log densities of the blocks of :class:`Sums` and their derivatives in eta and phi."""
    sums, at = a.sums, in_states(a.unknowns, a.sums, gamma, eta)
    n = sums.block.shape[0] - 1
    logs, scores = np.empty(n), np.empty(at.shape[0])
    slopes_phi = np.zeros((n, phi.shape[0]))
    for i in range(n):
        low, high = sums.block[i], sums.block[i + 1]
        logs[i] = log_density_rows(
            a.rows.family, sums.y[low:high], sums.trials[low:high], sums.weights[low:high],
            at[low:high], phi, scores[low:high], slopes_phi[i],
        )  # fmt: skip
    return logs, scores, slopes_phi


@fused
def joint(low, v, a):
    """Log density of the parameters and of v, and its derivatives in both.

    Parameters
    ----------
    low : (d,) array
        Coordinates of the covariances, of the family's parameters, of the degrees of freedom of
        effects, of the regressions of covariates, and coefficients.
    v : array
        Of the N effects, of the levels of the regressions and of the unknowns.
    a : JointArguments
    """
    levels, prior = a.levels, a.covariances
    n_cov = prior.scales.code.shape[0] + prior.exponent.shape[0]
    n_phi, p = a.phi.code.shape[0], a.coefficients.code.shape[0]
    tail = n_cov + n_phi
    own = tail + a.tails.code.shape[0]
    fixed = low.shape[0] - p
    m, k = prior.effects.diagonal.shape[0], prior.scales.code.shape[0]
    d_low, d_v = np.empty(low.shape[0]), np.empty(v.shape[0])
    at = natural(low[:n_cov], prior)
    log_phi, d_log_phi, phi, slope = family_parameters(low[n_cov:tail], a.phi, a.ordered)
    log_nu, d_log_nu, nu, slope_nu = scale_terms(a.tails, low[tail:own])
    log_beta, d_log_beta, beta, slope_beta = scale_terms(a.coefficients, low[fixed:])
    N = levels.r.shape[0]
    lay, diag, panel, r = levels.layout, levels.diag, levels.panel, _information(levels, beta)
    C, R = np.empty(diag.shape[0]), np.empty(panel.shape[0])
    first, u, b = np.empty(N), np.empty(N), np.empty(N)
    log_det = follow(lay, diag, panel, r, at.F, v[:N], C, R, first, u, b)
    eta, J = _predictor(a.rows, beta, b), a.walls.width.shape[0]
    inside, r_wall, nearest, log_bend = u, np.empty((2, J)), np.empty((2, J), np.int64), 0.0
    if J > 0:
        inside = u.copy()
        log_bend = step_inside(a.rows, a.walls, at.F, inside, b, eta, r_wall, nearest)
    log_x, placed = _entered(a, low, v, phi, beta, b, eta)
    d_logit, d_gamma = np.zeros(placed.x.shape[0]), np.zeros(placed.gamma.shape[0])
    logs, scores, slopes_phi = _blocks(a, placed.gamma, eta, phi)
    log_x += summed(
        a.unknowns, a.sums, placed.mean, placed.gamma, logs, scores, slopes_phi, d_logit, d_gamma
    )
    value, score, d_phi = log_x, scores[: eta.shape[0]], slopes_phi[0]
    d_u, d_nu = np.empty(N), np.empty(nu.shape[0])
    value += log_effects(lay, inside, nu, d_u, d_nu) - log_det
    value += a.constant + at.value + log_phi + log_nu + log_beta
    d_beta, g, d_F, d_r = np.zeros(p), np.zeros(N), np.zeros(at.F.shape[0]), np.empty(N)
    if J > 0:
        value += log_bend
        pull_inside(a.rows, a.walls, at.F, d_u, r_wall, nearest, score, d_F)
    leave(
        low[own:fixed], v[N:], a.regressions, a.unknowns, a.rows.first, a.rows.q, phi, placed,
        score, d_logit, d_gamma, d_low[own:fixed], d_v[N:], d_phi, d_beta, g,
    )  # fmt: skip
    _transposed(a.rows, score, d_beta, g)
    pull_back(lay, diag, panel, r, at.F, C, R, first, u, d_u, g, d_F, d_v[:N], d_r)
    for i in range(N):
        for c in range(levels.drift.shape[1]):
            d_beta[c] -= levels.drift[i, c] * d_r[i]
    d_low[:n_cov] = at.gradient
    # at unit sds the derivative in log sd is that in sd: nothing is divided by an sd
    d_sd, d_corr = pullback_to_correlations(prior.effects, np.ones(m), low[k:n_cov], d_F)
    for i in range(m):
        d_low[i] += d_sd[i] * at.slope[i]
        for t in range(prior.effects.row_ptr[i], prior.effects.row_ptr[i + 1]):
            number = prior.effects.number[t]
            d_low[k + number] += d_corr[number] * at.scalar[i]
    if a.ordered:
        d_phi = ordered_pullback(d_phi, slope)
        slope = np.ones(n_phi)
    for i in range(n_phi):
        d_low[n_cov + i] = d_log_phi[i] + d_phi[i] * slope[i]
    for i in range(nu.shape[0]):
        d_low[tail + i] = d_log_nu[i] + d_nu[i] * slope_nu[i]
    for i in range(p):
        d_low[fixed + i] = d_log_beta[i] + d_beta[i] * slope_beta[i]
    return value, d_low, d_v


@kernel
def spread_out(z, w):
    """Parameters and v at z."""
    d, p = w.center.shape[0], w.along.shape[1]
    N, m, head = w.along.shape[0], w.rest.shape[0], w.head.shape[0]
    low, v = w.center.copy(), z[d:].copy()
    for i in range(d):
        for j in range(d):
            low[i] += w.scale[i, j] * z[j]
    for i in range(m):
        total = 0.0
        for j in range(i, m):
            total += w.tail[i, j] * z[d + w.rest[j]]
        v[w.rest[i]] = total
    for i in range(head):
        total = z[d + w.head[i]]
        for s in range(w.ptr[i], w.ptr[i + 1]):
            total -= w.value[s] * v[w.rest[w.column[s]]]
        v[w.head[i]] = total
    for i in range(N):
        for c in range(p):
            v[i] += w.along[i, c] * (low[d - p + c] - w.center[d - p + c])
    return low, v


@kernel
def _gathered(d_low, d_v, w, out):
    """Derivatives in z from those in the parameters and v, which are used up."""
    d, p = w.center.shape[0], w.along.shape[1]
    N, m, head = w.along.shape[0], w.rest.shape[0], w.head.shape[0]
    for i in range(N):
        for c in range(p):
            d_low[d - p + c] += w.along[i, c] * d_v[i]
    for i in range(head):
        slope = d_v[w.head[i]]
        out[d + w.head[i]] = slope
        for s in range(w.ptr[i], w.ptr[i + 1]):
            d_v[w.rest[w.column[s]]] -= w.value[s] * slope
    for j in range(m):
        total = 0.0
        for i in range(j + 1):
            total += w.tail[i, j] * d_v[w.rest[i]]
        out[d + w.rest[j]] = total
    out[d + N :] = d_v[N:]
    for j in range(d):
        total = 0.0
        for i in range(d):
            total += w.scale[i, j] * d_low[i]
        out[j] = total


@fused
def whitened(z, a, out):
    """Log density of parameters and v at z, gradient in z into ``out``."""
    low, v = spread_out(z, a.whitening)
    value, d_low, d_v = joint(low, v, a)
    _gathered(d_low, d_v, a.whitening, out)
    return value


@kernel
def natural_draws(Z, a):
    """Parameters and effects at rows of Z.

    Returns
    -------
    sds, F, phi, beta, nu : arrays
        Scalars of the effects, flat factors, the family's parameters, coefficients, and degrees of
        freedom of effects.
    unknown : UnknownDraws
    b : (n, N) array
        Effects in elimination order.
    """
    n, prior, levels = Z.shape[0], a.covariances, a.levels
    m, k = prior.effects.diagonal.shape[0], prior.scales.code.shape[0]
    n_cov, n_phi = k + prior.exponent.shape[0], a.phi.code.shape[0]
    N, p = levels.r.shape[0], a.coefficients.code.shape[0]
    tail = n_cov + n_phi
    own, fixed = tail + a.tails.code.shape[0], a.whitening.center.shape[0] - p
    sds, F = np.empty((n, m)), np.empty((n, prior.effects.buffer[0]))
    phi, beta, b = np.empty((n, n_phi)), np.empty((n, p)), np.empty((n, N))
    nu = np.empty((n, own - tail))
    alpha = np.empty((n, a.regressions.coefficients.code.shape[0]))
    scales, c = np.empty((n, fixed - own - alpha.shape[1])), np.empty((n, a.regressions.levels[-1]))
    x = np.empty((n, a.unknowns.ptr.shape[0] - 1))
    C, R = np.empty(levels.diag.shape[0]), np.empty(levels.panel.shape[0])
    first, u, J = np.empty(N), np.empty(N), a.walls.width.shape[0]
    r_wall, nearest = np.empty((2, J)), np.empty((2, J), np.int64)
    for i in range(n):
        low, v = spread_out(Z[i], a.whitening)
        at = natural(low[:n_cov], prior)
        sds[i], F[i] = at.scalar[:m], at.F
        phi[i] = family_parameters(low[n_cov:tail], a.phi, a.ordered)[2]
        nu[i] = scale_terms(a.tails, low[tail:own])[2]
        beta[i] = scale_terms(a.coefficients, low[fixed:])[2]
        r = _information(levels, beta[i])
        follow(levels.layout, levels.diag, levels.panel, r, at.F, v[:N], C, R, first, u, b[i])
        if J == 0 and x.shape[1] == 0:
            continue
        eta = _predictor(a.rows, beta[i], b[i])
        if J > 0:
            step_inside(a.rows, a.walls, at.F, u, b[i], eta, r_wall, nearest)
        _, placed = _entered(a, low, v, phi[i], beta[i], b[i], eta)
        alpha[i], scales[i], c[i], x[i] = placed.alpha, placed.scales, placed.effects, placed.x
    return sds, F, phi, beta, nu, UnknownDraws(alpha, scales, c, x), b


@kernel
def state_chances(Z, a):
    """Conditional probabilities of the states of unknown values of two, at rows of Z.

    Returns
    -------
    (n, n_states) array
        Component after component of :class:`bayeslmm.bayes.kernels._covariates.Sums`.
    """
    _, _, phi, beta, _, _, b = natural_draws(Z, a)
    out = np.empty((Z.shape[0], a.sums.block.shape[0] - 2))
    for i in range(Z.shape[0]):
        low, v = spread_out(Z[i], a.whitening)
        eta = _predictor(a.rows, beta[i], b[i])
        _, at = _entered(a, low, v, phi[i], beta[i], b[i], eta)
        logs, scores, slopes_phi = _blocks(a, at.gamma, eta, phi[i])
        summed(
            a.unknowns, a.sums, at.mean, at.gamma, logs, scores, slopes_phi,
            np.zeros(at.x.shape[0]), np.zeros(at.gamma.shape[0]),
        )  # fmt: skip
        out[i] = logs[1:]
    return out
