"""Forward elimination of the random effects, node by node, in unscaled coordinates.

With A = Z'WZ partly eliminated, node j with relative factor L has M_j = I + L'A_jj L = C_j C_j',
and eliminating it subtracts (C_j^-1 L'A_jr)'(C_j^-1 L'A_js) from the blocks of its neighbors.  What
is left is always Z_r' B^-1 Z_s with B the variance (over sigma^2) of everything but the effects
still present, so no L^-1 is ever needed; in Bates et al. (2015) the same quantities are scaled by
L.
"""

from __future__ import annotations

import numpy as np

from bayeslmm.compiling import kernel

from ._small import apply_root, node_root


@kernel
def eliminate_head(lay, val, F):
    """Eliminate every head node.

    Returns log|M| of the head, the roots C_j and K_j (flat), and the updated copies of diagonal
    blocks, panels, right-hand sides and Gram matrix.  The tail is left to the caller.
    """
    diag_ptr = lay.diag_ptr
    f_ptr = lay.f_ptr
    factor_q = lay.factor_q
    hpat_node = lay.hpat_node
    hpat_off = lay.hpat_off
    hpat_ptr = lay.hpat_ptr
    node_col = lay.node_col
    node_factor = lay.node_factor
    node_q = lay.node_q
    panel_ptr = lay.panel_ptr
    pcol = lay.pcol
    pcol_ptr = lay.pcol_ptr
    rel = lay.rel
    rel_ptr = lay.rel_ptr
    n_head = lay.sizes[1]
    diag = val.diag.copy()
    panel = val.panel.copy()
    rhs = val.rhs.copy()
    m = rhs.shape[1]
    roots = np.empty(diag_ptr[n_head])
    K = np.empty(diag_ptr[n_head])
    q_max = 1
    for k in range(factor_q.shape[0]):
        q_max = max(q_max, factor_q[k])
    width_max = 1
    for e in range(n_head):
        width_max = max(width_max, pcol_ptr[e + 1] - pcol_ptr[e])
    X = np.empty((q_max, q_max))
    R = np.empty((lay.sizes[2], m))  # C^-1 Lambda'Z'W[X y] of the head
    RP = np.empty((q_max, width_max))
    right = rhs.reshape(rhs.size)
    log_det = 0.0
    for e in range(n_head):
        q = node_q[e]
        d_at = diag_ptr[e]
        f_at = f_ptr[node_factor[e]]
        row, low, p_at = node_col[e], pcol_ptr[e], panel_ptr[e]
        width = pcol_ptr[e + 1] - low
        if q == 1:  # in place: a call costs as much as the node
            f = F[f_at]
            pivot = 1.0 + f * f * diag[d_at]
            log_det += np.log(pivot)
            K[d_at] = f * f / pivot
            roots[d_at] = np.sqrt(pivot)
            scale = f / roots[d_at]
            for c in range(m):
                R[row, c] = scale * rhs[row, c]
            for i in range(width):
                RP[0, i] = scale * panel[p_at + i]
        else:
            log_det += node_root(diag, d_at, F, f_at, q, roots, X, K)
            apply_root(roots, d_at, F, f_at, q, right, row * m, m, m, R, row)
            if width:
                apply_root(roots, d_at, F, f_at, q, panel, p_at, width, width, RP, 0)
        for i in range(width):
            column = pcol[low + i]
            for a in range(q):
                v = RP[a, i]
                if v != 0.0:
                    for c in range(m):
                        rhs[column, c] -= v * R[row + a, c]
        for h in range(hpat_ptr[e], hpat_ptr[e + 1]):
            r = hpat_node[h]
            if q > 1 or node_q[r] > 1:
                _update_head(lay, h, q, width, panel, RP, diag)
                continue
            first = hpat_off[h] + 1
            v = RP[0, first - 1]
            diag[diag_ptr[r]] -= v * v
            to, by = panel_ptr[r], rel_ptr[h] - first
            for i in range(first, width):
                panel[to + rel[by + i]] -= v * RP[0, i]
    gram = val.gram - np.dot(R.T, R)
    return log_det, roots, K, diag, panel, rhs, gram


@kernel
def _update_head(lay, h, q, width, panel, RP, diag):
    """Subtract one node's contribution from the rows of a later head node."""
    diag_ptr = lay.diag_ptr
    hpat_node = lay.hpat_node
    hpat_off = lay.hpat_off
    node_q = lay.node_q
    panel_ptr = lay.panel_ptr
    pcol_ptr = lay.pcol_ptr
    rel = lay.rel
    rel_ptr = lay.rel_ptr
    r = hpat_node[h]
    off = hpat_off[h]
    q_r = node_q[r]
    d_at = diag_ptr[r]
    for i in range(q_r):
        for j in range(q_r):
            total = 0.0
            for a in range(q):
                total += RP[a, off + i] * RP[a, off + j]
            diag[d_at + i * q_r + j] -= total
    r_at = panel_ptr[r]
    r_width = pcol_ptr[r + 1] - pcol_ptr[r]
    first = off + q_r
    rel_at = rel_ptr[h]
    for t in range(width - first):
        position = rel[rel_at + t]
        for i in range(q_r):
            total = 0.0
            for a in range(q):
                total += RP[a, off + i] * RP[a, first + t]
            panel[r_at + i * r_width + position] -= total


@kernel
def scale_tail(lay, tail, F, identity):
    """Lower triangle of identity I + Lambda' A Lambda (or Lambda A Lambda') in place.

    ``identity`` = 1 gives the scaled Schur complement; 0 gives Lambda A Lambda', the way back.
    """
    f_ptr = lay.f_ptr
    factor_q = lay.factor_q
    node_col = lay.node_col
    node_factor = lay.node_factor
    node_q = lay.node_q
    n_head = lay.sizes[1]
    n_nodes = node_q.shape[0]
    head_columns = lay.sizes[2]
    q_max = 1
    for k in range(factor_q.shape[0]):
        q_max = max(q_max, factor_q[k])
    if n_nodes - n_head == tail.shape[0]:  # one column per node
        scale = np.empty(tail.shape[0])
        for i in range(tail.shape[0]):
            scale[i] = F[f_ptr[node_factor[n_head + i]]]
        for i in range(tail.shape[0]):
            row_i, f = tail[i], scale[i]
            for j in range(i + 1):
                row_i[j] *= f * scale[j]
            if identity:
                row_i[i] += 1.0
        return
    left = np.empty((q_max, q_max))
    block = np.empty((q_max, q_max))
    for r in range(n_head, n_nodes):
        q_r = node_q[r]
        f_r = f_ptr[node_factor[r]]
        row = node_col[r] - head_columns
        for s in range(n_head, r + 1):
            q_s = node_q[s]
            f_s = f_ptr[node_factor[s]]
            col = node_col[s] - head_columns
            if q_r == 1 and q_s == 1:
                tail[row, col] *= F[f_r] * F[f_s]
                continue
            for a in range(q_r):
                for b in range(q_s):
                    # The diagonal block is stored in its lower triangle only.
                    block[a, b] = (
                        tail[col + b, row + a] if r == s and b > a else tail[row + a, col + b]
                    )
            for a in range(q_r):
                for b in range(q_s):
                    total = 0.0
                    for c in range(q_r):
                        f = F[f_r + c * q_r + a] if identity else F[f_r + a * q_r + c]
                        total += f * block[c, b]
                    left[a, b] = total
            for a in range(q_r):
                for b in range(q_s):
                    if r == s and b > a:
                        continue
                    total = 0.0
                    for c in range(q_s):
                        f = F[f_s + c * q_s + b] if identity else F[f_s + b * q_s + c]
                        total += left[a, c] * f
                    tail[row + a, col + b] = total
    if identity:
        for i in range(tail.shape[0]):
            tail[i, i] += 1.0


@kernel
def scale_rows(lay, B, F, transpose):
    """Lambda_t' B (``transpose``) or Lambda_t B for the tail's rows, as a new array."""
    f_ptr = lay.f_ptr
    node_col = lay.node_col
    node_factor = lay.node_factor
    node_q = lay.node_q
    n_head = lay.sizes[1]
    out = np.empty_like(B)
    for r in range(n_head, node_q.shape[0]):
        q = node_q[r]
        at = f_ptr[node_factor[r]]
        row = node_col[r] - lay.sizes[2]
        for a in range(q):
            for c in range(B.shape[1]):
                total = 0.0
                for b in range(q):
                    f = F[at + b * q + a] if transpose else F[at + a * q + b]
                    total += f * B[row + b, c]
                out[row + a, c] = total
    return out
