"""Sums of products over the blocks of one pattern, in place of their rows.

With w_i (c,) the columns [X y] of row i of a block and C_ij = sum w_i w_j' over the n_rep blocks of
a pattern, S = sum_ij [V^-1]_ij C_ij and sum V^-1 w omega w' V^-1 = V^-1 Q V^-1 with
Q_ij = <omega, C_ij>: nothing grows with the number of blocks.  C_ij + C_ij' (C_ii once) is kept for
i >= j, its lower triangle row by row: (m (m + 1) / 2, c (c + 1) / 2) numbers per pattern.
"""

from __future__ import annotations

import numpy as np

from bayeslmm.compiling import kernel


@kernel
def make_grams(lay, W, columns):
    """All sums, flat; patterns without room in ``lay.gram_ptr`` are left out."""
    out = np.empty(lay.gram_ptr[-1])
    for k in range(lay.m.shape[0]):
        if lay.gram_ptr[k + 1] == lay.gram_ptr[k]:
            continue
        m, n_rep = lay.m[k], lay.n_rep[k]
        w = W[lay.data_ptr[k] : lay.data_ptr[k + 1]].reshape(m, n_rep, columns)
        wide = np.empty((m * columns, n_rep))
        for i in range(m):
            for g in range(n_rep):
                for a in range(columns):
                    wide[i * columns + a, g] = w[i, g, a]
        C = np.dot(wide, wide.T)
        t = lay.gram_ptr[k]
        for i in range(m):
            for j in range(i + 1):
                for a in range(columns):
                    for b in range(a + 1):
                        out[t] = C[i * columns + a, j * columns + b]
                        if i != j:
                            out[t] += C[i * columns + b, j * columns + a]
                        t += 1
    return out


@kernel
def add_gram_product(lay, k, gram, inverses, S):
    """Add [X y]'V^-1[X y] of pattern k to S (c, c)."""
    m, columns = lay.m[k], S.shape[0]
    size = columns * (columns + 1) // 2
    packed = np.zeros(size)
    start, at = lay.v_ptr[k], lay.gram_ptr[k]
    for i in range(m):
        for j in range(i + 1):
            v = inverses[start + i * m + j]
            for t in range(size):
                packed[t] += v * gram[at + t]
            at += size
    t = 0
    for a in range(columns):
        for b in range(a):
            S[a, b] += packed[t]
            S[b, a] += packed[t]
            t += 1
        S[a, a] += packed[t]
        t += 1


@kernel
def gram_adjoint(lay, k, gram, V_inverse, B):
    """D = dl/dV of pattern k, summed over its blocks; omega = B B'."""
    m, columns = lay.m[k], B.shape[0]
    size = columns * (columns + 1) // 2
    omega = np.dot(B, B.T)
    packed = np.empty(size)
    t = 0
    for a in range(columns):
        for b in range(a):
            packed[t] = 2.0 * omega[a, b]
            t += 1
        packed[t] = omega[a, a]
        t += 1
    sums = np.dot(gram[lay.gram_ptr[k] : lay.gram_ptr[k + 1]].reshape(-1, size), packed)
    Q = np.empty((m, m))
    t = 0
    for i in range(m):
        for j in range(i):
            Q[i, j] = 0.5 * sums[t]
            Q[j, i] = Q[i, j]
            t += 1
        Q[i, i] = sums[t]
        t += 1
    D = np.dot(V_inverse, np.dot(Q, V_inverse))
    for i in range(m):
        for j in range(m):
            D[i, j] = 0.5 * (D[i, j] - lay.n_rep[k] * V_inverse[i, j])
    return D
