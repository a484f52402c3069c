"""Factorization of V block by block, the criteria and their adjoints.

For every pattern of design, V (m, m) is formed and inverted once; its n_rep blocks are the columns
of one product, or are there as sums of products only (``_grams``).  With D =
dl/dV = (V^-1 r r' V^-1 - V^-1 + V^-1 X P^-1 X'V^-1) / 2, derivatives in every parameter are sums of
D against dV.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bayeslmm.compiling import Doubles, IntegerMatrix, Integers, Matrix, kernel
from bayeslmm.gaussian._coefficients import CoefficientPrior, n_columns, statistics
from bayeslmm.gaussian._small import cholesky_lower, invert_from_cholesky
from bayeslmm.gaussian.blocks._grams import add_gram_product, gram_adjoint
from bayeslmm.parts.structures import add_kernel_gradient, kernel_correlation


class Layout(NamedTuple):
    """Blocks of rows by pattern of design; "pattern rows" are the rows of one block of each.

    Attributes
    ----------
    m, n_rep : (P,) int arrays
        Rows of a block, and number of blocks, of each pattern.
    row_ptr, data_ptr, v_ptr : (P + 1,) int arrays
        Starts in pattern rows, in the data (of size m n_rep c) and in squares (of size m^2).
    time, root : (PR,) arrays
        Times, 1 / sqrt(weight).
    group : (PR,) int array
        Residual group, counted within the block.
    scale : (PR, s) array
        log sd = scale eta.
    Z : (PR, sum q_k) array
    level : (PR, K) int array
        Level of each factor, counted within the block.
    q, z_ptr, f_ptr : (K,), (K + 1,), (K + 1,) int arrays
        Effects of each factor, starts in the columns of Z and in the flat factors.
    kind : (2,) int array
        Code of the correlation structure, number of times.
    gram_ptr : (P + 1,) int array
        Starts in the sums of products of the blocks; nothing for patterns computed by their rows.
    """

    m: Integers
    n_rep: Integers
    row_ptr: Integers
    data_ptr: Integers
    v_ptr: Integers
    time: Doubles
    root: Doubles
    group: Integers
    scale: Matrix
    Z: Matrix
    level: IntegerMatrix
    q: Integers
    z_ptr: Integers
    f_ptr: Integers
    kind: Integers
    gram_ptr: Integers


class Data(NamedTuple):
    """Columns [X y] of a model, c of them.

    Attributes
    ----------
    W : flat array
        Pattern by pattern (m, n_rep, c).
    gram : flat array
        Sums of products over the blocks of patterns, see :mod:`bayeslmm.gaussian.blocks._grams`.
    """

    W: Doubles
    gram: Doubles


class BlockArguments(NamedTuple):
    """What :func:`evaluate` takes beside theta.

    Attributes
    ----------
    layout : Layout
    data : Data
    n : int
        Rows.
    prior : CoefficientPrior
    """

    layout: Layout
    data: Data
    n: int
    prior: CoefficientPrior


@kernel
def pattern_residual(lay, k, eta, c):
    """R (m, m) of pattern k."""
    m, at = lay.m[k], lay.row_ptr[k]
    sd = np.empty(m)
    for i in range(m):
        total = 0.0
        for s in range(eta.shape[0]):
            total += lay.scale[at + i, s] * eta[s]
        sd[i] = np.exp(total) * lay.root[at + i]
    R = np.zeros((m, m))
    for i in range(m):
        R[i, i] = sd[i] * sd[i]
        for j in range(i):
            if lay.group[at + i] == lay.group[at + j]:
                value = (
                    sd[i]
                    * sd[j]
                    * kernel_correlation(lay.kind, c, lay.time[at + i], lay.time[at + j])
                )
                R[i, j] = value
                R[j, i] = value
    return R


@kernel
def _add_random(lay, k, F, V):
    """Add Z Sigma Z' of every factor, Sigma = F F'."""
    m, at = lay.m[k], lay.row_ptr[k]
    for f in range(lay.q.shape[0]):
        q, start, z = lay.q[f], lay.f_ptr[f], lay.z_ptr[f]
        ZF = np.zeros((m, q))
        for i in range(m):
            for a in range(q):
                for b in range(a + 1):
                    ZF[i, b] += lay.Z[at + i, z + a] * F[start + a * q + b]
        for i in range(m):
            for j in range(i + 1):
                if lay.level[at + i, f] == lay.level[at + j, f]:
                    total = 0.0
                    for a in range(q):
                        total += ZF[i, a] * ZF[j, a]
                    V[i, j] += total
                    if i != j:
                        V[j, i] += total


@kernel
def _inverse(V):
    """V^-1 in place and log|V|; nan where V is not positive definite."""
    m = V.shape[0]
    for i in range(m):
        if not (V[i, i] > 0.0 and np.isfinite(V[i, i])):
            return np.nan
    if m <= 24:
        log_det = cholesky_lower(V)
        if not np.isfinite(log_det):
            return np.nan
        invert_from_cholesky(V)
        for i in range(m):
            for j in range(i):
                V[j, i] = V[i, j]
        return log_det
    scale = np.empty(m)
    for i in range(m):
        scale[i] = np.sqrt(V[i, i])
    A = np.empty((m, m))
    for i in range(m):
        for j in range(m):
            A[i, j] = V[i, j] / (scale[i] * scale[j])
    # LAPACK raises where the matrix is not positive definite: a cheap look first
    C = np.empty((m, m))
    C[:, :] = A
    log_det = cholesky_lower(C)
    if not np.isfinite(log_det):
        return np.nan
    inverse = np.linalg.inv(A)
    for i in range(m):
        log_det += 2.0 * np.log(scale[i])
        for j in range(m):
            V[i, j] = 0.5 * (inverse[i, j] + inverse[j, i]) / (scale[i] * scale[j])
    return log_det


@kernel
def _invert_patterns(lay, F, eta, c):
    """log|V| and V^-1 per pattern (flat); nan where a V is not positive definite."""
    P = lay.m.shape[0]
    log_det = 0.0
    inverses = np.empty(lay.v_ptr[P])
    for k in range(P):
        V = pattern_residual(lay, k, eta, c)
        _add_random(lay, k, F, V)
        part = _inverse(V)
        if not np.isfinite(part):
            return np.nan, inverses
        log_det += lay.n_rep[k] * part
        inverses[lay.v_ptr[k] : lay.v_ptr[k + 1]] = V.ravel()
    return log_det, inverses


@kernel
def _add_row_product(lay, k, inverses, W, columns, U, S):
    """Write V^-1 [X y] of pattern k into U (flat as W), add [X y]'V^-1[X y] to S."""
    m, n_rep = lay.m[k], lay.n_rep[k]
    V_inverse = inverses[lay.v_ptr[k] : lay.v_ptr[k + 1]].reshape(m, m)
    w = W[lay.data_ptr[k] : lay.data_ptr[k + 1]]
    u = np.dot(V_inverse, w.reshape(m, n_rep * columns))
    U[lay.data_ptr[k] : lay.data_ptr[k + 1]] = u.ravel()
    S += np.dot(w.reshape(m * n_rep, columns).T, u.reshape(m * n_rep, columns))


@kernel
def factorize(lay, W, columns, F, eta, c):
    """log|V|, V^-1 per pattern (flat), U = V^-1 [X y] (flat as W), S = [X y]'V^-1[X y]."""
    U = np.empty(W.shape[0])
    S = np.zeros((columns, columns))
    log_det, inverses = _invert_patterns(lay, F, eta, c)
    if np.isfinite(log_det):
        for k in range(lay.m.shape[0]):
            _add_row_product(lay, k, inverses, W, columns, U, S)
    return log_det, inverses, U, 0.5 * (S + S.T)


@kernel
def products(lay, data, columns, F, eta, c):
    """As :func:`factorize`, with U for the patterns computed by their rows only."""
    U = np.empty(0)
    S = np.zeros((columns, columns))
    log_det, inverses = _invert_patterns(lay, F, eta, c)
    if not np.isfinite(log_det):
        return log_det, inverses, U, S
    for k in range(lay.m.shape[0]):
        if lay.gram_ptr[k + 1] > lay.gram_ptr[k]:
            add_gram_product(lay, k, data.gram, inverses, S)
        else:
            if not U.shape[0]:
                U = np.empty(data.W.shape[0])
            _add_row_product(lay, k, inverses, data.W, columns, U, S)
    return log_det, inverses, U, 0.5 * (S + S.T)


@kernel
def _adjoint(lay, k, V_inverse, u, columns, B):
    """D = dl/dV of pattern k, summed over its blocks."""
    m, n_rep = lay.m[k], lay.n_rep[k]
    UB = np.dot(u.reshape(m * n_rep, columns), B).reshape(m, n_rep * columns)
    D = np.dot(UB, UB.T)
    for i in range(m):
        for j in range(m):
            D[i, j] = 0.5 * (D[i, j] - n_rep * V_inverse[i, j])
    return D


@kernel
def _pull_back(lay, k, D, eta, c, d_Sigma, d_eta, d_c):
    """Add the derivatives of pattern k in Sigma (flat), eta and c."""
    m, at = lay.m[k], lay.row_ptr[k]
    R = pattern_residual(lay, k, eta, c)
    sd = np.empty(m)
    for i in range(m):
        sd[i] = np.sqrt(R[i, i])
    for i in range(m):
        row = 0.0
        for j in range(m):
            if lay.group[at + i] != lay.group[at + j]:
                continue
            row += D[i, j] * R[i, j]
            if i != j:
                add_kernel_gradient(
                    lay.kind, c, lay.time[at + i], lay.time[at + j], D[i, j] * sd[i] * sd[j], d_c
                )
        for s in range(eta.shape[0]):
            d_eta[s] += 2.0 * row * lay.scale[at + i, s]
    for f in range(lay.q.shape[0]):
        q, start, z = lay.q[f], lay.f_ptr[f], lay.z_ptr[f]
        for i in range(m):
            for j in range(m):
                if lay.level[at + i, f] == lay.level[at + j, f]:
                    for a in range(q):
                        for b in range(q):
                            d_Sigma[start + a * q + b] += (
                                D[i, j] * lay.Z[at + i, z + a] * lay.Z[at + j, z + b]
                            )


@kernel
def evaluate(lay, data, n, F, eta, c, prior, ml, want_gradient):
    """Criterion, its derivatives in Sigma (flat), eta and c, and ``slopes``; nan where V is not
    definite.

    With ``ml`` the likelihood at the estimated coefficients, else log p(y) with the coefficients
    integrated out under their prior (flat: the restricted likelihood).
    """
    columns = n_columns(prior)
    d_Sigma = np.zeros(F.shape[0])
    d_eta = np.zeros(eta.shape[0])
    d_c = np.zeros(c.shape[0])
    log_det, inverses, U, S = products(lay, data, columns, F, eta, c)
    if not np.isfinite(log_det):
        return np.nan, d_Sigma, d_eta, d_c, np.empty(0)
    value, _, _, B, slopes = statistics(S, log_det, n, prior, ml)
    if not want_gradient or not np.isfinite(value):
        return value, d_Sigma, d_eta, d_c, slopes
    for k in range(lay.m.shape[0]):
        m = lay.m[k]
        V_inverse = inverses[lay.v_ptr[k] : lay.v_ptr[k + 1]].reshape(m, m)
        if lay.gram_ptr[k + 1] > lay.gram_ptr[k]:
            D = gram_adjoint(lay, k, data.gram, V_inverse, B)
        else:
            u = U[lay.data_ptr[k] : lay.data_ptr[k + 1]]
            D = _adjoint(lay, k, V_inverse, u, columns, B)
        _pull_back(lay, k, D, eta, c, d_Sigma, d_eta, d_c)
    return value, d_Sigma, d_eta, d_c, slopes
