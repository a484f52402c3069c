"""Effects as functions of their covariances and of numbers that are near standard normal.

Near the mode the rows say about the effects b what H = Z'WZ and r = Z'W(Z b + l'/W) say, W being
minus the second derivatives of the log densities l. Under a covariance Lambda Lambda' the effects
are then about N(Q r, Q), Q = (H + (Lambda Lambda')^-1)^-1, so that they are written as

    M = I + Lambda'H Lambda = L L',   u = L^-T (L^-1 Lambda'r + v),   b = Lambda u,

and v is near a standard normal whatever the covariances are: without information this is the
non-centered form, with much of it the centered one, and nothing is divided by a Lambda that may be
singular (on the two forms Papaspiliopoulos, Roberts & Skold 2007, Statistical Science 22(1)). The
map is exact whatever H and r are: -log|L| belongs to the density of v. So H may be a part of Z'WZ
only, such as the blocks of single levels, and r may move with the coefficients beta, as it does
when they take something off eta: the effects then make up for it, at any covariance.

L is found node by node as in :mod:`bayeslmm.gaussian._elimination`, nodes being levels: with C_e
the root of a node's block and R_e = C_e^-1 M_e* its panel, L' has the rows [C_e', R_e].
Derivatives go the same way backwards (Murray 2016, arXiv:1602.07527, on Cholesky factors).
"""

from __future__ import annotations

import numpy as np

from bayeslmm.compiling import kernel

__all__ = ["follow", "lower_solve", "products", "pull_back", "scale", "upper_solve"]


@kernel
def lower_solve(lay, C, R, x):
    """L^-1 x in place."""
    for e in range(lay.sizes[1]):
        q, at, low = lay.node_q[e], lay.node_col[e], lay.pcol_ptr[e]
        width = lay.pcol_ptr[e + 1] - low
        c_at, p_at = lay.diag_ptr[e], lay.panel_ptr[e]
        for i in range(q):
            total = x[at + i]
            for a in range(i):
                total -= C[c_at + i * q + a] * x[at + a]
            x[at + i] = total / C[c_at + i * q + i]
        for i in range(width):
            column = lay.pcol[low + i]
            for a in range(q):
                x[column] -= R[p_at + a * width + i] * x[at + a]


@kernel
def upper_solve(lay, C, R, x):
    """L^-T x in place."""
    for e in range(lay.sizes[1] - 1, -1, -1):
        q, at, low = lay.node_q[e], lay.node_col[e], lay.pcol_ptr[e]
        width = lay.pcol_ptr[e + 1] - low
        c_at, p_at = lay.diag_ptr[e], lay.panel_ptr[e]
        for i in range(q - 1, -1, -1):
            total = x[at + i]
            for t in range(width):
                total -= R[p_at + i * width + t] * x[lay.pcol[low + t]]
            for a in range(i + 1, q):
                total -= C[c_at + a * q + i] * x[at + a]
            x[at + i] = total / C[c_at + i * q + i]


@kernel
def _assemble(lay, diag, panel, F, C, R):
    """M: blocks of nodes into C, panels into R."""
    HF = _work(lay)
    for e in range(lay.sizes[1]):
        q, f_at, at = lay.node_q[e], lay.f_ptr[lay.node_factor[e]], lay.diag_ptr[e]
        for i in range(q):
            for c in range(q):
                total = 0.0
                for a in range(c, q):
                    total += diag[at + i * q + a] * F[f_at + a * q + c]
                HF[i, c] = total
        for i in range(q):
            for c in range(q):
                total = 1.0 if i == c else 0.0
                for a in range(i, q):
                    total += F[f_at + a * q + i] * HF[a, c]
                C[at + i * q + c] = total
        p_at = lay.panel_ptr[e]
        width = lay.pcol_ptr[e + 1] - lay.pcol_ptr[e]
        for h in range(lay.hpat_ptr[e], lay.hpat_ptr[e + 1]):
            r, off = lay.hpat_node[h], lay.hpat_off[h]
            q_r, g_at = lay.node_q[r], lay.f_ptr[lay.node_factor[r]]
            for i in range(q):
                for c in range(q_r):
                    total = 0.0
                    for a in range(c, q_r):
                        total += panel[p_at + i * width + off + a] * F[g_at + a * q_r + c]
                    HF[i, c] = total
            for i in range(q):
                for c in range(q_r):
                    total = 0.0
                    for a in range(i, q):
                        total += F[f_at + a * q + i] * HF[a, c]
                    R[p_at + i * width + off + c] = total


@kernel
def _factorize(lay, C, R):
    """L of M in place; log|L|."""
    log_det, product = 0.0, 1.0
    for e in range(lay.sizes[1]):
        q, at, p_at = lay.node_q[e], lay.diag_ptr[e], lay.panel_ptr[e]
        width = lay.pcol_ptr[e + 1] - lay.pcol_ptr[e]
        for i in range(q):
            for c in range(i + 1):
                total = C[at + i * q + c]
                for a in range(c):
                    total -= C[at + i * q + a] * C[at + c * q + a]
                if i == c:
                    C[at + i * q + i] = np.sqrt(total)
                    if total < 1e100 and product < 1e200:
                        product *= total
                    else:
                        log_det += 0.5 * np.log(total)
                else:
                    C[at + i * q + c] = total / C[at + c * q + c]
        for i in range(q):
            for t in range(width):
                total = R[p_at + i * width + t]
                for a in range(i):
                    total -= C[at + i * q + a] * R[p_at + a * width + t]
                R[p_at + i * width + t] = total / C[at + i * q + i]
        for h in range(lay.hpat_ptr[e], lay.hpat_ptr[e + 1]):
            r, off, rel_at = lay.hpat_node[h], lay.hpat_off[h], lay.rel_ptr[h]
            q_r, r_at, to = lay.node_q[r], lay.diag_ptr[r], lay.panel_ptr[r]
            r_width = lay.pcol_ptr[r + 1] - lay.pcol_ptr[r]
            first = off + q_r
            for a in range(q):
                row = p_at + a * width
                for i in range(q_r):
                    w = R[row + off + i]
                    for c in range(q_r):
                        C[r_at + i * q_r + c] -= w * R[row + off + c]
                    for t in range(first, width):
                        R[to + i * r_width + lay.rel[rel_at + t - first]] -= w * R[row + t]
    return log_det + 0.5 * np.log(product)


@kernel
def follow(lay, diag, panel, r, F, v, C, R, first, u, b):
    """log|L|; into the last arguments L, L^-1 Lambda'r, u and b.

    Parameters
    ----------
    lay : Layout
        Of levels without a dense tail.
    diag, panel : flat arrays
        H, as in :class:`bayeslmm.gaussian.problem.Values`.
    r, v : (N,) arrays
    F : flat factors of the covariances
    C, R : as diag and panel
    first, u, b : (N,) arrays
    """
    _assemble(lay, diag, panel, F, C, R)
    log_det = _factorize(lay, C, R)
    scale(lay, F, r, first, True)
    lower_solve(lay, C, R, first)
    for i in range(u.shape[0]):
        u[i] = first[i] + v[i]
    upper_solve(lay, C, R, u)
    scale(lay, F, u, b, False)
    return log_det


@kernel
def scale(lay, F, x, out, transpose):
    """Lambda'x or Lambda x."""
    for e in range(lay.sizes[1]):
        q, f_at, at = lay.node_q[e], lay.f_ptr[lay.node_factor[e]], lay.node_col[e]
        for i in range(q):
            total = 0.0
            if transpose:
                for a in range(i, q):
                    total += F[f_at + a * q + i] * x[at + a]
            else:
                for a in range(i + 1):
                    total += F[f_at + i * q + a] * x[at + a]
            out[at + i] = total


@kernel
def products(lay, diag, panel, x):
    """H x."""
    out = np.zeros(x.shape[0])
    for e in range(lay.sizes[1]):
        q, at, low = lay.node_q[e], lay.node_col[e], lay.pcol_ptr[e]
        width = lay.pcol_ptr[e + 1] - low
        for i in range(q):
            for a in range(q):
                out[at + i] += diag[lay.diag_ptr[e] + i * q + a] * x[at + a]
            for t in range(width):
                h, column = panel[lay.panel_ptr[e] + i * width + t], lay.pcol[low + t]
                out[at + i] += h * x[column]
                out[column] += h * x[at + i]
    return out


@kernel
def pull_back(lay, diag, panel, r, F, C, R, first, u, d_u, g, d_F, d_v, d_r):
    """Derivatives in F, added, in v and in r, of functions of b and of u, less log|L|.

    Parameters
    ----------
    lay, diag, panel, r, F, C, R, first, u
        As in :func:`follow`.
    d_u, g : (N,) arrays
        The functions' derivatives in u, and in b.
    d_F, d_v, d_r : flat factors and (N,) arrays
    """
    N = u.shape[0]
    alpha, rho = d_v, np.empty(N)
    scale(lay, F, g, alpha, True)
    for i in range(N):
        alpha[i] += d_u[i]
    lower_solve(lay, C, R, alpha)
    rho[:] = alpha
    upper_solve(lay, C, R, rho)
    scale(lay, F, rho, d_r, False)
    D, P = np.empty(C.shape[0]), np.empty(R.shape[0])
    _factorization_slopes(lay, C, R, first, u, alpha, rho, D, P)
    _factor_slopes(lay, diag, panel, r, F, u, rho, g, D, P, d_F)


@kernel
def _work(lay):
    """A square of the largest number of effects."""
    q_max = 1
    for k in range(lay.factor_q.shape[0]):
        q_max = max(q_max, lay.factor_q[k])
    return np.empty((q_max, q_max))


@kernel
def _factorization_slopes(lay, C, R, first, u, alpha, rho, D, P):
    """Derivatives in M: in blocks, symmetric, into D; in panels into P.

    From those in L, -u alpha' - rho first' and -1 / C_ii, through the elimination backwards.
    """
    node_q, node_col, diag_ptr, panel_ptr = lay.node_q, lay.node_col, lay.diag_ptr, lay.panel_ptr
    pcol_ptr, pcol, hpat_ptr, hpat_node = lay.pcol_ptr, lay.pcol, lay.hpat_ptr, lay.hpat_node
    hpat_off, rel_ptr, rel = lay.hpat_off, lay.rel_ptr, lay.rel
    W = _work(lay)
    for e in range(lay.sizes[1] - 1, -1, -1):
        q, at, c_at = node_q[e], node_col[e], diag_ptr[e]
        low, p_at = pcol_ptr[e], panel_ptr[e]
        width = pcol_ptr[e + 1] - low
        for t in range(width):
            column = pcol[low + t]
            for a in range(q):
                P[p_at + a * width + t] = -alpha[at + a] * u[column] - first[at + a] * rho[column]
        for h in range(hpat_ptr[e], hpat_ptr[e + 1]):  # what eliminating e did to later nodes
            r, off, rel_at = hpat_node[h], hpat_off[h], rel_ptr[h]
            q_r, r_at, to = node_q[r], diag_ptr[r], panel_ptr[r]
            r_width = pcol_ptr[r + 1] - pcol_ptr[r]
            first_t = off + q_r
            for a in range(q):
                row = p_at + a * width
                for i in range(q_r):
                    w, total = R[row + off + i], 0.0
                    for c in range(q_r):
                        total += 2.0 * R[row + off + c] * D[r_at + c * q_r + i]
                    for t in range(first_t, width):
                        slope = P[to + i * r_width + rel[rel_at + t - first_t]]
                        total += R[row + t] * slope
                        P[row + t] -= w * slope
                    P[row + off + i] -= total
        for t in range(width):  # C^-T
            for i in range(q - 1, -1, -1):
                total = P[p_at + i * width + t]
                for a in range(i + 1, q):
                    total -= C[c_at + a * q + i] * P[p_at + a * width + t]
                P[p_at + i * width + t] = total / C[c_at + i * q + i]
        for i in range(q):  # in C, lower triangle
            for c in range(i + 1):
                total = -u[at + i] * alpha[at + c] - rho[at + i] * first[at + c]
                for t in range(width):
                    total -= P[p_at + i * width + t] * R[p_at + c * width + t]
                D[c_at + i * q + c] = total
            D[c_at + i * q + i] -= 1.0 / C[c_at + i * q + i]
        if q == 1:
            D[c_at] *= 0.5 / C[c_at]
        else:
            _root_slopes(C, D, c_at, q, W)


@kernel
def _root_slopes(C, D, c_at, q, W):
    """D, the derivatives in a Cholesky factor, become those in its symmetric matrix."""
    for i in range(q):  # lower triangle of C'D, half its diagonal
        for c in range(q):
            total = 0.0
            if c <= i:
                for a in range(i, q):
                    total += C[c_at + a * q + i] * D[c_at + a * q + c]
            W[i, c] = 0.5 * total if i == c else total
    for c in range(q):  # C^-T W
        for i in range(q - 1, -1, -1):
            total = W[i, c]
            for a in range(i + 1, q):
                total -= C[c_at + a * q + i] * W[a, c]
            W[i, c] = total / C[c_at + i * q + i]
    for i in range(q):  # W C^-1
        for c in range(q - 1, -1, -1):
            total = W[i, c]
            for a in range(c + 1, q):
                total -= W[i, a] * C[c_at + a * q + c]
            W[i, c] = total / C[c_at + c * q + c]
    for i in range(q):
        for c in range(q):
            D[c_at + i * q + c] = 0.5 * (W[i, c] + W[c, i])


@kernel
def _factor_slopes(lay, diag, panel, r, F, u, rho, g, D, P, d_F):
    """Derivatives in the covariance factors from those in M, Lambda'r and b."""
    node_q, node_col, diag_ptr, panel_ptr = lay.node_q, lay.node_col, lay.diag_ptr, lay.panel_ptr
    pcol_ptr, hpat_ptr, hpat_node, hpat_off = (
        lay.pcol_ptr, lay.hpat_ptr, lay.hpat_node, lay.hpat_off,
    )  # fmt: skip
    f_ptr, node_factor = lay.f_ptr, lay.node_factor
    W = _work(lay)
    for e in range(lay.sizes[1]):
        q, f_at, at, c_at = node_q[e], f_ptr[node_factor[e]], node_col[e], diag_ptr[e]
        p_at = panel_ptr[e]
        width = pcol_ptr[e + 1] - pcol_ptr[e]
        for i in range(q):  # 2 F D
            for c in range(q):
                total = 0.0
                for a in range(i + 1):
                    total += F[f_at + i * q + a] * D[c_at + a * q + c]
                W[i, c] = 2.0 * total
        for i in range(q):
            for c in range(i + 1):
                total = r[at + i] * rho[at + c] + g[at + i] * u[at + c]
                for a in range(q):
                    total += diag[c_at + i * q + a] * W[a, c]
                d_F[f_at + i * q + c] += total
        for h in range(hpat_ptr[e], hpat_ptr[e + 1]):
            node, off = hpat_node[h], hpat_off[h]
            q_r, g_at = node_q[node], f_ptr[node_factor[node]]
            for i in range(q_r):  # F_r P'
                for c in range(q):
                    total = 0.0
                    for a in range(i + 1):
                        total += F[g_at + i * q_r + a] * P[p_at + c * width + off + a]
                    W[i, c] = total
            for i in range(q):
                for c in range(i + 1):
                    total = 0.0
                    for a in range(q_r):
                        total += panel[p_at + i * width + off + a] * W[a, c]
                    d_F[f_at + i * q + c] += total
            for i in range(q):  # F_e P
                for c in range(q_r):
                    total = 0.0
                    for a in range(i + 1):
                        total += F[f_at + i * q + a] * P[p_at + a * width + off + c]
                    W[i, c] = total
            for i in range(q_r):
                for c in range(i + 1):
                    total = 0.0
                    for a in range(q):
                        total += panel[p_at + a * width + off + i] * W[a, c]
                    d_F[g_at + i * q_r + c] += total
