"""Backward passes: effects, the blocks of the inverse, derivatives, draws.

For node j with later neighbors N, K_j and its panel A_jN as left by the elimination, and E_j =
(I + A_jj L L')^-1:

    b_j = K_j v_j,  U_j = E_j v_j,  v_j = B_j - A_jN b_N             (Z_j'V^-1 y up to sigma^2)
    Q_jj = K_j + K_j Y_j K_j,  Q_jN = -K_j A_jN Q_NN,  Y_j = A_jN Q_NN A_Nj
    T_jj = E_j A_jj - E_j Y_j E_j'                                   (Z_j'V^-1 Z_j)

Q = L M^-1 L' is the conditional covariance of the effects over sigma^2.  This is the recursion of
Takahashi, Fagan & Chin (1973) for the entries of a sparse inverse on the pattern of its factor,
written for unscaled blocks so that it holds for singular L.
"""

from __future__ import annotations

import numpy as np

from bayeslmm.compiling import kernel

from ._small import (
    apply_root,
    divide_by_factor_transposed,
    invertible_factors,
    max_sizes,
    multiply_factor,
    node_shrinkage,
    shrink,
    solve_root_transposed,
)


@kernel
def _panel_times_inverse(lay, e, panel, Qdiag, Qpanel, products, PQ):
    """PQ = A_jN Q_NN for head node e, Q on the pattern; ``products`` holds the tail's part."""
    hpat_node = lay.hpat_node
    hpat_off = lay.hpat_off
    hpat_ptr = lay.hpat_ptr
    node_q = lay.node_q
    pcol_ptr = lay.pcol_ptr
    rel_ptr = lay.rel_ptr
    q = node_q[e]
    width = pcol_ptr[e + 1] - pcol_ptr[e]
    p_at = lay.panel_ptr[e]
    first = lay.tail_off[e]
    for a in range(q):
        row = panel[p_at + a * width : p_at + (a + 1) * width]
        product = PQ[a]
        product[:width] = 0.0
        for h in range(hpat_ptr[e], hpat_ptr[e + 1]):
            r = hpat_node[h]
            off = hpat_off[h]
            q_r = node_q[r]
            d_at = lay.diag_ptr[r]
            r_width = pcol_ptr[r + 1] - pcol_ptr[r]
            further = off + q_r
            positions = lay.rel[rel_ptr[h] : rel_ptr[h] + width - further]
            for i in range(q_r):
                v = row[off + i]
                for j in range(q_r):
                    product[off + j] += v * Qdiag[d_at + i * q_r + j]
                source = Qpanel[lay.panel_ptr[r] + i * r_width :]
                product[off + i] += _add_row(source, positions, v, row[further:], product[further:])
        for i in range(first, width):
            product[i] += products[p_at + a * width + i]


@kernel
def _add_row(source, positions, x, v, out):
    """out += x source[positions]; returns source[positions]'v."""
    total = 0.0
    for t in range(positions.shape[0]):
        entry = source[positions[t]]
        out[t] += x * entry
        total += v[t] * entry
    return total


@kernel
def inverse_blocks(lay, panel, K, products):
    """Q on the pattern of the head: diagonal blocks (flat) and panels (flat).

    ``products`` is A_jt Q_tt of the head nodes and the tail, see ``_tail.head_products``.
    """
    diag_ptr = lay.diag_ptr
    node_q = lay.node_q
    panel_ptr = lay.panel_ptr
    pcol_ptr = lay.pcol_ptr
    n_head = lay.sizes[1]
    Qdiag = np.empty(diag_ptr[n_head])
    Qpanel = np.empty(panel.shape[0])
    q_max, width_max = max_sizes(lay)
    PQ = np.empty((q_max, width_max))
    Y = np.empty((q_max, q_max))
    for e in range(n_head - 1, -1, -1):
        q = node_q[e]
        d_at = diag_ptr[e]
        p_at = panel_ptr[e]
        width = pcol_ptr[e + 1] - pcol_ptr[e]
        if width:
            _panel_times_inverse(lay, e, panel, Qdiag, Qpanel, products, PQ)
        _finish_inverse(q, width, d_at, p_at, panel, K, PQ, Y, Qdiag, Qpanel)
    return Qdiag, Qpanel


@kernel
def _finish_inverse(q, width, d_at, p_at, panel, K, PQ, Y, Qdiag, Qpanel):
    """Y_j, Q_jj and Q_jN from PQ = A_jN Q_NN."""
    for a in range(q):
        for b in range(q):
            total = 0.0
            for i in range(width):
                total += PQ[a, i] * panel[p_at + b * width + i]
            Y[a, b] = total
        for i in range(width):
            total = 0.0
            for b in range(q):
                total -= K[d_at + a * q + b] * PQ[b, i]
            Qpanel[p_at + a * width + i] = total
    for a in range(q):
        for b in range(q):
            total = K[d_at + a * q + b]
            for c in range(q):
                ky = 0.0
                for d in range(q):
                    ky += K[d_at + a * q + d] * Y[d, c]
                total += ky * K[d_at + c * q + b]
            Qdiag[d_at + a * q + b] = total


@kernel
def effects(lay, diag, panel, rhs, roots, F, b):
    """Fill the head rows of b (its tail rows are given) and return U = Z'V^-1 [X y] of the head."""
    diag_ptr = lay.diag_ptr
    f_ptr = lay.f_ptr
    node_col = lay.node_col
    node_factor = lay.node_factor
    node_q = lay.node_q
    panel_ptr = lay.panel_ptr
    pcol = lay.pcol
    pcol_ptr = lay.pcol_ptr
    n_head = lay.sizes[1]
    m = rhs.shape[1]
    U = np.empty((lay.sizes[2], m))
    q_max, _ = max_sizes(lay)
    invertible = invertible_factors(lay, F)
    v = np.empty((q_max, m))
    flat = v.reshape(q_max * m)
    s = np.empty((q_max, m))
    G = np.empty((q_max, q_max))
    E = np.empty((q_max, q_max))
    for e in range(n_head - 1, -1, -1):
        q = node_q[e]
        row = node_col[e]
        d_at = diag_ptr[e]
        p_at = panel_ptr[e]
        low = pcol_ptr[e]
        width = pcol_ptr[e + 1] - low
        for a in range(q):
            for c in range(m):
                v[a, c] = rhs[row + a, c]
            for i in range(width):
                entry = panel[p_at + a * width + i]
                if entry != 0.0:
                    column = pcol[low + i]
                    for c in range(m):
                        v[a, c] -= entry * b[column, c]
        f_at = f_ptr[node_factor[e]]
        if q == 1:
            share = 1.0 / (roots[d_at] * roots[d_at])
            scale = F[f_at] * F[f_at]
            for c in range(m):
                U[row, c] = share * v[0, c]
                b[row, c] = scale * U[row, c]
            continue
        ok = invertible[node_factor[e]]
        if q == 2 and ok:
            l00, l10, l11 = F[f_at], F[f_at + 2], F[f_at + 3]
            i00, c10, i11 = 1.0 / roots[d_at], roots[d_at + 2], 1.0 / roots[d_at + 3]
            j00, j11 = 1.0 / l00, 1.0 / l11
            for c in range(m):
                top = (l00 * v[0, c] + l10 * v[1, c]) * i00
                w1 = (l11 * v[1, c] - c10 * top) * i11 * i11
                w0 = (top - c10 * w1) * i00
                low = w1 * j11
                U[row + 1, c] = low
                U[row, c] = (w0 - l10 * low) * j00
                b[row, c] = l00 * w0
                b[row + 1, c] = l10 * w0 + l11 * w1
            continue
        apply_root(roots, d_at, F, f_at, q, flat, 0, m, m, s, 0)
        solve_root_transposed(roots, d_at, q, s, m)  # M^-1 L'v
        if ok:
            for a in range(q):
                for c in range(m):
                    v[a, c] = s[a, c]
            divide_by_factor_transposed(F, f_at, q, v, m)
            for a in range(q):
                for c in range(m):
                    U[row + a, c] = v[a, c]
        else:
            node_shrinkage(diag, d_at, F, f_at, q, G, E)
            for a in range(q):
                for c in range(m):
                    total = 0.0
                    for d in range(q):
                        total += E[a, d] * v[d, c]
                    U[row + a, c] = total
        multiply_factor(F, f_at, q, s, m)
        for a in range(q):
            for c in range(m):
                b[row + a, c] = s[a, c]
    return U


@kernel
def draw_effects(lay, panel, rhs, roots, F, sigma, z, b):
    """Fill the head rows of b with draws given its tail rows.

    b_j | b_N ~ N(K_j v_j, sigma^2 K_j), K_j = L C^-T C^-1 L', so L C^-T (C^-1 L'v_j + sigma z_j) is
    a draw.  All arrays have one column per draw.
    """
    diag_ptr = lay.diag_ptr
    f_ptr = lay.f_ptr
    node_col = lay.node_col
    node_factor = lay.node_factor
    node_q = lay.node_q
    panel_ptr = lay.panel_ptr
    pcol = lay.pcol
    pcol_ptr = lay.pcol_ptr
    n_head = lay.sizes[1]
    m = rhs.shape[1]
    q_max, _ = max_sizes(lay)
    v = np.empty((q_max, m))
    flat = v.reshape(q_max * m)
    s = np.empty((q_max, m))
    for e in range(n_head - 1, -1, -1):
        q = node_q[e]
        row = node_col[e]
        d_at = diag_ptr[e]
        p_at = panel_ptr[e]
        low = pcol_ptr[e]
        width = pcol_ptr[e + 1] - low
        for a in range(q):
            for c in range(m):
                v[a, c] = rhs[row + a, c]
            for i in range(width):
                entry = panel[p_at + a * width + i]
                if entry != 0.0:
                    column = pcol[low + i]
                    for c in range(m):
                        v[a, c] -= entry * b[column, c]
        f_at = f_ptr[node_factor[e]]
        apply_root(roots, d_at, F, f_at, q, flat, 0, m, m, s, 0)
        for a in range(q):
            for c in range(m):
                s[a, c] += sigma * z[row + a, c]
        solve_root_transposed(roots, d_at, q, s, m)
        multiply_factor(F, f_at, q, s, m)
        for a in range(q):
            for c in range(m):
                b[row + a, c] = s[a, c]


@kernel
def derivative_sums(lay, diag, panel, roots, K, F, U, omega, products, T, Q):
    """Add sum_j T_jj and sum_j U_j omega U_j' of the head nodes to the flat buffers T and Q.

    Both have the layout of F, one (q_k, q_k) block per factor; ``products`` as in
    :func:`inverse_blocks`.
    """
    diag_ptr = lay.diag_ptr
    f_ptr = lay.f_ptr
    node_col = lay.node_col
    node_factor = lay.node_factor
    node_q = lay.node_q
    panel_ptr = lay.panel_ptr
    pcol_ptr = lay.pcol_ptr
    n_lead = lay.sizes[0]
    n_head = lay.sizes[1]
    m = U.shape[1]
    q_max, width_max = max_sizes(lay)
    n_diag = diag_ptr[n_head] if n_head > n_lead else 0
    Qdiag = np.empty(n_diag)
    Qpanel = np.empty(panel.shape[0] if n_head > n_lead else 0)
    PQ = np.empty((q_max, width_max))
    Y = np.empty((q_max, q_max))
    G = np.empty((q_max, q_max))
    E = np.empty((q_max, q_max))
    A = np.empty((q_max, q_max))
    EA = np.empty((q_max, q_max))
    EY = np.empty((q_max, q_max))
    invertible = invertible_factors(lay, F)
    UO = np.dot(U[: lay.sizes[2]], omega)
    for e in range(n_head - 1, -1, -1):
        q = node_q[e]
        d_at = diag_ptr[e]
        p_at = panel_ptr[e]
        row = node_col[e]
        f_at = f_ptr[node_factor[e]]
        width = pcol_ptr[e + 1] - pcol_ptr[e]
        if width:
            _panel_times_inverse(lay, e, panel, Qdiag, Qpanel, products, PQ)
        if e >= n_lead:  # nobody looks up the inverse at the leading nodes
            _finish_inverse(q, width, d_at, p_at, panel, K, PQ, Y, Qdiag, Qpanel)
        else:
            for a in range(q):
                for b in range(q):
                    total = 0.0
                    for i in range(width):
                        total += PQ[a, i] * panel[p_at + b * width + i]
                    Y[a, b] = total
        if q == 1:
            share = 1.0 / (roots[d_at] * roots[d_at])
            T[f_at] += share * (diag[d_at] - (Y[0, 0] * share if width else 0.0))
            total = 0.0
            for c in range(m):
                total += UO[row, c] * U[row, c]
            Q[f_at] += total
            continue
        ok = invertible[node_factor[e]]
        for a in range(q):
            for b in range(q):
                A[a, b] = diag[d_at + a * q + b]
        shrink(diag, roots, d_at, F, f_at, q, ok, A, q, EA, G, E)
        if width:
            shrink(diag, roots, d_at, F, f_at, q, ok, Y, q, EY, G, E)
            for a in range(q):
                for b in range(q):
                    Y[a, b] = EY[b, a]
            shrink(diag, roots, d_at, F, f_at, q, ok, Y, q, EY, G, E)
            for a in range(q):
                for b in range(q):
                    EA[a, b] -= EY[a, b]
        for a in range(q):
            for b in range(q):
                T[f_at + a * q + b] += EA[a, b]
                total = 0.0
                for c in range(m):
                    total += UO[row + a, c] * U[row + b, c]
                Q[f_at + a * q + b] += total
