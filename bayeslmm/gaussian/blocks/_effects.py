"""Draws of effects and residuals, and what the data say on each level, block by block."""

from __future__ import annotations

import numpy as np

from bayeslmm.compiling import kernel
from bayeslmm.gaussian._coefficients import statistics
from bayeslmm.gaussian._small import cholesky_lower
from bayeslmm.gaussian.blocks._kernel import pattern_residual, products


@kernel
def draw_effects(lay, inverses, W, columns, F, eta, c, beta, code, effect_ptr, z_b, z_e, b):
    """One exact draw of the random effects given beta, by Matheron's rule, into b (flat).

    A prior draw (b*, e*) is moved by Sigma Z' V^-1 (y - X beta - Z b* - e*); Sigma may be singular.

    Parameters
    ----------
    code : flat (m n_rep, K) int array per pattern
        Level of each row, over the whole data.
    effect_ptr : (K + 1,) int array
        Start of each factor's effects in b, level by level.
    z_b, z_e : standard normals, one per effect and per row.
    """
    K = lay.q.shape[0]
    for f in range(K):
        q, start = lay.q[f], lay.f_ptr[f]
        for level in range((effect_ptr[f + 1] - effect_ptr[f]) // q):
            at = effect_ptr[f] + level * q
            for a in range(q):
                total = 0.0
                for d in range(a + 1):
                    total += F[start + a * q + d] * z_b[at + d]
                b[at + a] = total
    shift = np.zeros(b.shape[0])
    done = 0
    for k in range(lay.m.shape[0]):
        m, n_rep, at = lay.m[k], lay.n_rep[k], lay.row_ptr[k]
        V_inverse = inverses[lay.v_ptr[k] : lay.v_ptr[k + 1]].reshape(m, m)
        w = W[lay.data_ptr[k] : lay.data_ptr[k + 1]].reshape(m, n_rep, columns)
        C = pattern_residual(lay, k, eta, c)
        cholesky_lower(C)
        left = np.empty((m, n_rep))
        for i in range(m):
            for g in range(n_rep):
                total = 0.0
                for j in range(i + 1):
                    total += C[i, j] * z_e[done + j * n_rep + g]
                for f in range(K):
                    level = code[done + i * n_rep + g, f]
                    for a in range(lay.q[f]):
                        total += (
                            lay.Z[at + i, lay.z_ptr[f] + a]
                            * b[effect_ptr[f] + level * lay.q[f] + a]
                        )
                left[i, g] = w[i, g, columns - 1] - total
                for j in range(columns - 1):
                    left[i, g] -= w[i, g, j] * beta[j]
        weighted = np.dot(V_inverse, left)
        for i in range(m):
            for g in range(n_rep):
                gap = weighted[i, g]
                for f in range(K):
                    level = code[done + i * n_rep + g, f]
                    for a in range(lay.q[f]):
                        shift[effect_ptr[f] + level * lay.q[f] + a] += (
                            lay.Z[at + i, lay.z_ptr[f] + a] * gap
                        )
        done += m * n_rep
    _add_covariance_times(lay, F, shift, effect_ptr, b)


@kernel
def _add_covariance_times(lay, F, shift, effect_ptr, b):
    """b += Sigma shift, level by level."""
    for f in range(lay.q.shape[0]):
        q, start = lay.q[f], lay.f_ptr[f]
        work = np.empty(q)
        for level in range((effect_ptr[f + 1] - effect_ptr[f]) // q):
            at = effect_ptr[f] + level * q
            for d in range(q):
                work[d] = 0.0
                for a in range(d, q):
                    work[d] += F[start + a * q + d] * shift[at + a]
            for a in range(q):
                for d in range(a + 1):
                    b[at + a] += F[start + a * q + d] * work[d]


@kernel
def draws(lay, data, columns, F, eta, c, prior, code, effect_ptr, normals):
    """A draw of (beta, b) at each row of F, eta, c and normals; nan where V is not definite."""
    count, p = F.shape[0], columns - 1
    n_effects = effect_ptr[-1]
    beta = np.empty((count, p))
    b = np.empty((count, n_effects))
    for d in range(count):
        log_det, inverses, _, S = products(lay, data, columns, F[d], eta[d], c[d])
        _, mean, _, B, _ = statistics(S, log_det, 1, prior, False)
        for i in range(p):
            total = mean[i]
            for j in range(i + 1 if prior.known.shape[0] == 0 else p):
                total += B[i, j] * normals[d, j]
            beta[d, i] = total
        if n_effects:
            draw_effects(
                lay, inverses, data.W, columns, F[d], eta[d], c[d], beta[d], code, effect_ptr,
                normals[d, p : p + n_effects], normals[d, p + n_effects :], b[d],
            )  # fmt: skip
    return beta, b


@kernel
def effect_information(lay, inverses, code, effect_ptr, f, q, n_levels):
    """Z_j' V^-1 Z_j of every level of factor f, (J, q, q)."""
    T = np.zeros((n_levels, q, q))
    done = 0
    z = lay.z_ptr[f]
    for k in range(lay.m.shape[0]):
        m, n_rep, at = lay.m[k], lay.n_rep[k], lay.row_ptr[k]
        V = inverses[lay.v_ptr[k] : lay.v_ptr[k + 1]].reshape(m, m)
        for i in range(m):
            for j in range(m):
                if lay.level[at + i, f] != lay.level[at + j, f]:
                    continue
                for g in range(n_rep):
                    level = code[done + i * n_rep + g, f]
                    for a in range(q):
                        for b in range(q):
                            T[level, a, b] += V[i, j] * lay.Z[at + i, z + a] * lay.Z[at + j, z + b]
        done += m * n_rep
    return T


@kernel
def noise(lay, eta, c, z):
    """Residuals with covariance R from standard normals (draws, n), in the order of the blocks."""
    out = np.empty(z.shape)
    for d in range(z.shape[0]):
        done = 0
        for k in range(lay.m.shape[0]):
            m, n_rep = lay.m[k], lay.n_rep[k]
            C = pattern_residual(lay, k, eta[d], c[d])
            cholesky_lower(C)
            for i in range(m):
                for g in range(n_rep):
                    total = 0.0
                    for j in range(i + 1):
                        total += C[i, j] * z[d, done + j * n_rep + g]
                    out[d, done + i * n_rep + g] = total
            done += m * n_rep
    return out
