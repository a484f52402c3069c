"""Unknown values of covariates: missing ones, and those that were read with a known error.

Every covariate has a regression (:class:`bayeslmm.formula.covariates.CovariateModel`). Of a normal
one x_u ~ N(W_u alpha + c_g(u), tau^2), c_g ~ N(0, omega^2), with readings r_u ~ N(x_u, e_u),
nothing has to be sampled that has a closed form: with v_u = tau^2 + e_u, P_g = sum 1 / v_u,
S_g = sum (r_u - W_u alpha) / v_u over the units of g with a reading, and Q_g = 1 + omega^2 P_g,

    log p(r) = sum_u log N(r_u; W_u alpha, v_u) + sum_g [omega^2 S_g^2 / Q_g - log Q_g] / 2,
    c_g | r  = omega^2 S_g / Q_g + omega z_g / sqrt(Q_g),
    x_u | c, r ~ N((1 - k) (W_u alpha + c) + k r_u, e_u k),   k = tau^2 / v_u,

where k = 0 and the variance is tau^2 without a reading. The response then adds to it: x_u enters
eta_i of its rows with the slope gamma_i = X_slope_i beta + Z_slope_i b. With the weights w_i and
working responses of the rows at the mode (:class:`Unknowns`), both times sigma_mode^2 / sigma^2 in
linear models, it is what a normal response would
make of it, and z_u standard deviations of what that leaves open (:func:`_place`). Where the
response is normal, z_u is nearly a standard normal which nothing depends on; the density of z_u is
exact with any response.

Of a covariate with two values P(x_u = 1) is logistic in W_u alpha, and the density of the rows is
summed over the values of what is unknown together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bayeslmm.bayes.kernels._regressions import readings, readings_back, softplus
from bayeslmm.compiling import Doubles, Integers, Matrix, kernel

__all__ = [
    "Placed",
    "Sums",
    "Unknowns",
    "enter",
    "in_states",
    "leave",
    "summed",
]

_LOG_2PI = float(np.log(2.0 * np.pi))


class Unknowns(NamedTuple):
    """Unknown values, the normal ones first, and the rows they are in.

    Attributes
    ----------
    ptr : (m + 1,) int array
        Where the rows of each begin.
    row : (R,) int array
    fill : (R,) array
        The value for which the row's columns stand.
    X, Z : (R, p), (R, sum q_k) arrays
        Slopes of the row's columns.
    weight, push : (R,) arrays
        w_i = -l''_i at the mode, and w_i eta_i + l'_i there.
    n_normal : int
    sigma : float
        Residual standard deviation there, with which both change as 1 / sigma^2; 0 but for linear
        models.
    """

    ptr: Integers
    row: Integers
    fill: Doubles
    X: Matrix
    Z: Matrix
    weight: Doubles
    push: Doubles
    n_normal: int
    sigma: float


class Placed(NamedTuple):
    """Where :func:`enter` put the unknowns.

    Attributes
    ----------
    share : float
        What weights at the mode are multiplied by.
    mean, sd, x : (m,) arrays
        Moments before the response is seen, and values; of two values the logit, 0 and nothing.
    alpha, scales : arrays
        Coefficients and standard deviations of the regressions.
    effects : array
        c.
    gamma, before : (R,) arrays
        Slopes, and the linear predictor as each unknown met it.
    """

    share: float
    mean: Doubles
    sd: Doubles
    x: Doubles
    alpha: Doubles
    scales: Doubles
    effects: Doubles
    gamma: Doubles
    before: Doubles


class Sums(NamedTuple):
    """Rows of the data, and once more those with unknown values of two in every state of these.

    Unknowns that share rows are a component, whose states are the combinations of their values.

    Attributes
    ----------
    members, rows : int arrays
        Unknowns of each component, numbered from the first of two values; its rows.
    member_ptr, row_ptr : int arrays
        Where each component begins.
    at : int array
        Component after component (members, rows) positions of a row among those of
        :class:`Unknowns`, -1 where the member is not in it.
    at_ptr : int array
    block : int array
        Where the rows of the data begin, and those of the states, component after component.
    y, trials, weights : arrays
        Of all of these; the components' rows have weight 0 among those of the data.
    """

    members: Integers
    rows: Integers
    member_ptr: Integers
    row_ptr: Integers
    at: Integers
    at_ptr: Integers
    block: Integers
    y: Doubles
    trials: Doubles
    weights: Doubles


@kernel
def _slopes(a, first, q, beta, b):
    """gamma of every row of the unknowns.

    Parameters
    ----------
    a : Unknowns
    first, q : arrays
        As in :class:`bayeslmm.bayes.kernels.joint.Rows`.
    """
    gamma = np.empty(a.row.shape[0])
    for r in range(gamma.shape[0]):
        total, column = 0.0, 0
        for c in range(beta.shape[0]):
            total += a.X[r, c] * beta[c]
        for k in range(q.shape[0]):
            at = first[k, a.row[r]]
            for t in range(q[k]):
                total += a.Z[r, column + t] * b[at + t]
            column += q[k]
        gamma[r] = total
    return gamma


@kernel
def _slopes_back(a, first, q, d_gamma, d_beta, d_b):
    """Adds derivatives in the slopes to those in coefficients and effects."""
    for r in range(d_gamma.shape[0]):
        column = 0
        for c in range(d_beta.shape[0]):
            d_beta[c] += a.X[r, c] * d_gamma[r]
        for k in range(q.shape[0]):
            at = first[k, a.row[r]]
            for t in range(q[k]):
                d_b[at + t] += a.Z[r, column + t] * d_gamma[r]
            column += q[k]


@kernel
def _place(a, share, mean, sd, gamma, z, eta, x, before):
    """Normal unknowns at z, each after those before it; their log density with Jacobians.

    With T = sum_i gamma_i (push_i - w_i e_i), e_i the linear predictor with x_u at its mean, and
    K = 1 + sd^2 sum_i w_i gamma_i^2, the standardized value is xi = sd T / K + z / sqrt(K).

    Parameters
    ----------
    a : Unknowns
    share : float
        By which weights and push are multiplied.
    mean, sd : (m,) arrays
    gamma : (R,) array
    z : (n_normal,) array
    eta : (n,) array
        Linear predictor at ``fill``; at x afterwards.
    x : (m,) array
        Receives the values.
    before : (R,) array
        Receives eta of the rows as each unknown met it.
    """
    value = 0.0
    for j in range(a.n_normal):
        K, T = 1.0, 0.0
        for r in range(a.ptr[j], a.ptr[j + 1]):
            before[r] = eta[a.row[r]]
            K += share * sd[j] * sd[j] * a.weight[r] * gamma[r] * gamma[r]
            e = before[r] + (mean[j] - a.fill[r]) * gamma[r]
            T += share * gamma[r] * (a.push[r] - a.weight[r] * e)
        xi = sd[j] * T / K + z[j] / np.sqrt(K)
        value -= 0.5 * (xi * xi + _LOG_2PI + np.log(K))
        x[j] = mean[j] + sd[j] * xi
        for r in range(a.ptr[j], a.ptr[j + 1]):
            eta[a.row[r]] += (x[j] - a.fill[r]) * gamma[r]
    return value


@kernel
def _place_back(a, share, mean, sd, gamma, z, x, before, score, d_mean, d_sd, d_gamma, d_z):
    """Derivatives of :func:`_place`'s density, and of what depends on eta.

    Parameters
    ----------
    score : (n,) array
        Derivatives in eta at x; those in eta at ``fill`` afterwards.
    d_mean, d_sd, d_gamma : arrays
        Are added to.
    d_z : array
        Receives derivatives.

    Returns
    -------
    float
        Derivative in the logarithm of ``share``.
    """
    d_share = 0.0
    for j in range(a.n_normal - 1, -1, -1):
        info, T, d_x, s = 0.0, 0.0, 0.0, sd[j]
        for r in range(a.ptr[j], a.ptr[j + 1]):
            info += share * a.weight[r] * gamma[r] * gamma[r]
            e = before[r] + (mean[j] - a.fill[r]) * gamma[r]
            T += share * gamma[r] * (a.push[r] - a.weight[r] * e)
            d_x += score[a.row[r]] * gamma[r]
        K = 1.0 + s * s * info
        root = np.sqrt(K)
        xi = s * T / K + z[j] / root
        d_xi = s * d_x - xi
        d_z[j] = d_xi / root
        d_K = -0.5 / K - d_xi * (s * T / K + 0.5 * z[j] / root) / K
        d_T = d_xi * s / K
        d_share += d_K * (K - 1.0) + d_T * T
        d_mean[j] += d_x
        d_sd[j] += xi * d_x + d_xi * T / K + d_K * 2.0 * s * info
        for r in range(a.ptr[j], a.ptr[j + 1]):
            w, at = share * a.weight[r], mean[j] - a.fill[r]
            e = before[r] + at * gamma[r]
            d_gamma[r] += score[a.row[r]] * (x[j] - a.fill[r])
            d_gamma[r] += d_T * (share * a.push[r] - w * e - w * at * gamma[r])
            d_gamma[r] += d_K * 2.0 * s * s * w * gamma[r]
            d_mean[j] -= d_T * w * gamma[r] * gamma[r]
            score[a.row[r]] -= d_T * w * gamma[r]
    return d_share


@kernel
def enter(low, v, regressions, a, first, q, phi, beta, b, eta):
    """Log density of readings and normal unknowns, which are added to the linear predictor.

    Parameters
    ----------
    low : array
        Coordinates of the regressions.
    v : array
        Standardized effects of their levels, and normal unknowns.
    regressions : Regressions
    a : Unknowns
    first, q, phi, beta, b
        Of the response's effects, its parameters and coefficients.
    eta : (n,) array
        At ``fill``; at the unknowns afterwards.

    Returns
    -------
    float
    Placed
    """
    m, L = a.ptr.shape[0] - 1, regressions.levels[-1]
    n_alpha, n_sds = regressions.coefficients.code.shape[0], regressions.sds.code.shape[0]
    at = Placed(
        (a.sigma / phi[0]) ** 2 if a.sigma > 0.0 else 1.0,
        np.empty(m), np.empty(m), np.zeros(m), np.empty(n_alpha), np.empty(n_sds), np.empty(L),
        _slopes(a, first, q, beta, b), np.empty(a.row.shape[0]),
    )  # fmt: skip
    value = readings(low, v[:L], regressions, at.mean, at.sd, at.alpha, at.scales, at.effects)
    value += _place(a, at.share, at.mean, at.sd, at.gamma, v[L:], eta, at.x, at.before)
    return value, at


@kernel
def leave(
    low, v, regressions, a, first, q, phi, at, score, d_logit, d_gamma, d_low, d_v, d_phi, d_beta,
    d_b,
):  # fmt: skip
    """Derivatives of :func:`enter`.

    Parameters
    ----------
    at : Placed
    score : (n,) array
        Derivatives in the linear predictor; those in it at ``fill`` afterwards.
    d_logit, d_gamma : arrays
        Derivatives by other ways, which are used up.
    d_low, d_v : arrays
        Receive derivatives in the coordinates.
    d_phi, d_beta, d_b : arrays
        Are added to.
    """
    L, d_sd = regressions.levels[-1], np.zeros(at.sd.shape[0])
    d_share = _place_back(
        a,
        at.share,
        at.mean,
        at.sd,
        at.gamma,
        v[L:],
        at.x,
        at.before,
        score,
        d_logit,
        d_sd,
        d_gamma,
        d_v[L:],
    )
    _slopes_back(a, first, q, d_gamma, d_beta, d_b)
    readings_back(low, v[:L], regressions, d_logit, d_sd, d_low, d_v[:L])
    if a.sigma > 0.0:
        d_phi[0] -= 2.0 * d_share / phi[0]


@kernel
def in_states(a, sums, gamma, eta):
    """The linear predictor of every row of :class:`Sums`, of those of the data as it is.

    Parameters
    ----------
    eta : (n,) array
        At ``fill`` of the members.
    """
    if sums.block.shape[0] == 2:
        return eta
    out, n, block = np.empty(sums.y.shape[0]), eta.shape[0], 1
    out[:n] = eta
    for c in range(sums.member_ptr.shape[0] - 1):
        k = sums.member_ptr[c + 1] - sums.member_ptr[c]
        first, size = sums.row_ptr[c], sums.row_ptr[c + 1] - sums.row_ptr[c]
        for s in range(1 << k):
            moved = out[sums.block[block] : sums.block[block + 1]]
            block += 1
            for i in range(size):
                moved[i] = eta[sums.rows[first + i]]
                for t in range(k):
                    r = sums.at[sums.at_ptr[c] + t * size + i]
                    if r >= 0:
                        moved[i] += (float((s >> t) & 1) - a.fill[r]) * gamma[r]
    return out


@kernel
def summed(a, sums, logit, gamma, logs, scores, slopes_phi, d_logit, d_gamma):
    """Log density summed over states.

    Parameters
    ----------
    a : Unknowns
    sums : Sums
    logit : (m,) array
        Of every unknown, the normal ones first.
    gamma : (R,) array
    logs, scores, slopes_phi : arrays
        Log densities of the blocks, the first of which is that of the data; derivatives of the rows
        in their linear predictor, and of the blocks in phi (n_phi,). Probabilities of the states
        afterwards take the place of their logs, and the rows and the block of the data have the
        derivatives of the sum.
    d_logit, d_gamma : arrays
        Are added to.
    """
    value, block, score, d_phi = logs[0], 1, scores[: sums.block[1]], slopes_phi[0]
    for c in range(sums.member_ptr.shape[0] - 1):
        m0, first = sums.member_ptr[c], sums.row_ptr[c]
        k, size = sums.member_ptr[c + 1] - sums.member_ptr[c], sums.row_ptr[c + 1] - first
        states = logs[block : block + (1 << k)]
        for s in range(1 << k):
            for t in range(k):
                j = a.n_normal + sums.members[m0 + t]
                states[s] += float((s >> t) & 1) * logit[j] - softplus(logit[j])
        top, total = np.max(states), 0.0
        for s in range(1 << k):
            states[s] = np.exp(states[s] - top)
            total += states[s]
        value += top + np.log(total)
        for i in range(size):
            score[sums.rows[first + i]] = 0.0
        for s in range(1 << k):
            states[s] /= total
            own = scores[sums.block[block] : sums.block[block + 1]]
            for i in range(size):
                score[sums.rows[first + i]] += states[s] * own[i]
            for i in range(d_phi.shape[0]):
                d_phi[i] += states[s] * slopes_phi[block, i]
            for t in range(k):
                j, one = a.n_normal + sums.members[m0 + t], float((s >> t) & 1)
                d_logit[j] += states[s] * (one - 1.0 / (1.0 + np.exp(-logit[j])))
                for i in range(size):
                    r = sums.at[sums.at_ptr[c] + t * size + i]
                    if r >= 0:
                        d_gamma[r] += states[s] * own[i] * (one - a.fill[r])
            block += 1
    return value
