"""Kernels for the dense tail: what the head leaves of it, and its share of the derivatives.

What joins head and tail goes through the tail row by row: the row stays in the cache while the
head nodes with an entry in it (``symbolic.TailRows``) are visited.
"""

from __future__ import annotations

import numpy as np

from bayeslmm.compiling import kernel

from ._small import apply_root, max_sizes


@kernel
def scaled_panels(lay, panel, roots, F):
    """C_j^-1 L' A_jN of all head nodes, in the layout of the panels."""
    pcol_ptr = lay.pcol_ptr
    out = np.empty(panel.shape[0])
    R = np.empty(max_sizes(lay))
    for e in range(lay.sizes[1]):
        q, at, f_at = lay.node_q[e], lay.panel_ptr[e], lay.f_ptr[lay.node_factor[e]]
        width = pcol_ptr[e + 1] - pcol_ptr[e]
        apply_root(roots, lay.diag_ptr[e], F, f_at, q, panel, at, width, width, R, 0)
        for a in range(q):
            out[at + a * width : at + (a + 1) * width] = R[a, :width]
    return out


@kernel
def subtract_head(lay, rows, scaled, tail):
    """Lower triangle of tail - R'R in place, R the tail's part of the scaled panels."""
    ptr, nodes, columns = rows
    above = np.zeros(lay.sizes[1], np.int64)  # entries of each node in the rows before
    for i in range(tail.shape[0]):
        row = tail[i]
        for s in range(ptr[i], ptr[i + 1]):
            e = nodes[s]
            first = lay.tail_off[e]
            low = lay.pcol_ptr[e]
            width = lay.pcol_ptr[e + 1] - low
            index = columns[low + first : low + width]
            for a in range(lay.node_q[e]):
                v = scaled[lay.panel_ptr[e] + a * width + first :]
                x = v[above[e]]
                for t in range(above[e] + 1):
                    row[index[t]] -= x * v[t]
            above[e] += 1


@kernel
def head_products(lay, rows, panel, Q):
    """A_jt Q on the pattern of A_jt, in the layout of the panels.

    Of the symmetric Q the lower triangle is looked at; entries for columns of the head are zero.
    """
    ptr, nodes, columns = rows
    out = np.zeros(panel.shape[0])
    above = np.zeros(lay.sizes[1], np.int64)
    for i in range(Q.shape[0]):
        row = Q[i]
        for s in range(ptr[i], ptr[i + 1]):
            e = nodes[s]
            first = lay.tail_off[e]
            low = lay.pcol_ptr[e]
            width = lay.pcol_ptr[e + 1] - low
            index = columns[low + first : low + width]
            n = above[e]
            for a in range(lay.node_q[e]):
                at = lay.panel_ptr[e] + a * width + first
                v, product = panel[at:], out[at:]
                x, total = v[n], 0.0
                for t in range(n):
                    entry = row[index[t]]
                    product[t] += x * entry
                    total += v[t] * entry
                product[n] += total + x * row[i]
            above[e] += 1
    return out


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
