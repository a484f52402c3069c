"""Kernels for the dense tail: derivative blocks without dividing by vanishing factors."""

from __future__ import annotations

import numpy as np

from bayeslmm.compiling import kernel


@kernel
def solve_scaled(lay, v, F):
    """Lambda_t^-T v for the tail's rows, each L_k invertible and lower triangular."""
    f_ptr = lay.f_ptr
    node_col = lay.node_col
    node_factor = lay.node_factor
    node_q = lay.node_q
    out = v.copy()
    for r in range(lay.sizes[1], node_q.shape[0]):
        q = node_q[r]
        at = f_ptr[node_factor[r]]
        row = node_col[r] - lay.sizes[2]
        for c in range(v.shape[1]):
            for a in range(q - 1, -1, -1):
                for b in range(a + 1, q):
                    out[row + a, c] -= F[at + b * q + a] * out[row + b, c]
                out[row + a, c] /= F[at + a * q + a]
    return out


@kernel
def _congruence(B, F, at, q, out):
    """out = L^-T B L^-1 for lower triangular L = F[at:]."""
    for c in range(q):
        for a in range(q - 1, -1, -1):
            total = B[a, c]
            for b in range(a + 1, q):
                total -= F[at + b * q + a] * out[b, c]
            out[a, c] = total / F[at + a * q + a]
    for a in range(q):
        for c in range(q - 1, -1, -1):
            total = out[a, c]
            for b in range(c + 1, q):
                total -= out[a, b] * F[at + b * q + c]
            out[a, c] = total / F[at + c * q + c]


@kernel
def tail_blocks(lay, inverse, F, val_diag, invertible, floor, T):
    """T_rr = L^-T (I - [S^-1]_rr) L^-1 of the tail's nodes, flat from the first tail node.

    Exact in exact arithmetic; where I - S^-1 has lost its digits (below ``floor``) or L_k is not
    invertible the node is reported instead.  Nodes without data have T = 0.
    """
    diag_ptr = lay.diag_ptr
    f_ptr = lay.f_ptr
    factor_q = lay.factor_q
    node_col = lay.node_col
    node_factor = lay.node_factor
    node_q = lay.node_q
    n_head = lay.sizes[1]
    n_nodes = node_q.shape[0]
    lost = np.zeros(n_nodes - n_head, np.bool_)
    q_max = 1
    for k in range(factor_q.shape[0]):
        q_max = max(q_max, factor_q[k])
    B = np.empty((q_max, q_max))
    out = np.empty((q_max, q_max))
    start = diag_ptr[n_head]
    for r in range(n_head, n_nodes):
        q = node_q[r]
        row = node_col[r] - lay.sizes[2]
        d_at = diag_ptr[r]
        k = node_factor[r]
        empty = True
        weakest = 1.0
        for a in range(q):
            empty = empty and val_diag[d_at + a * q + a] == 0.0
            for b in range(q):
                s = inverse[row + max(a, b), row + min(a, b)]
                B[a, b] = 1.0 - s if a == b else -s
            weakest = min(weakest, B[a, a])
        if empty:
            T[d_at - start : d_at - start + q * q] = 0.0
        elif not invertible[k] or weakest < floor:
            lost[r - n_head] = True
        else:
            _congruence(B, F, f_ptr[k], q, out)
            for a in range(q):
                for b in range(q):
                    T[d_at - start + a * q + b] = out[a, b]
    return lost


@kernel
def tail_sums(lay, blocks, U, omega, T, Q):
    """Add the tail's T_rr and U_r omega U_r' to the flat sums per factor; U has the tail's rows."""
    diag_ptr = lay.diag_ptr
    f_ptr = lay.f_ptr
    node_col = lay.node_col
    node_factor = lay.node_factor
    node_q = lay.node_q
    n_head = lay.sizes[1]
    m = U.shape[1]
    start = diag_ptr[n_head]
    for r in range(n_head, node_q.shape[0]):
        q = node_q[r]
        row = node_col[r] - lay.sizes[2]
        at = f_ptr[node_factor[r]]
        d_at = diag_ptr[r] - start
        for a in range(q):
            for b in range(q):
                total = 0.0
                for c in range(m):
                    for d in range(m):
                        total += U[row + a, c] * omega[c, d] * U[row + b, d]
                Q[at + a * q + b] += total
                T[at + a * q + b] += blocks[d_at + a * q + b]


@kernel
def symmetrize_lower(A):
    """Copy the lower triangle to the upper one, in place."""
    n = A.shape[0]
    step = 32  # tiles keep both sides of the copy in cache
    for i0 in range(0, n, step):
        for j0 in range(0, i0 + 1, step):
            for i in range(i0, min(i0 + step, n)):
                for j in range(j0, min(j0 + step, i)):
                    A[j, i] = A[i, j]
