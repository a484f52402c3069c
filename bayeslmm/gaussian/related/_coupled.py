"""Numba kernels: M = Lambda'B Lambda + G (x) I assembled block by block, and its derivative.

Blocks are the (q_r, q_s) ones of pairs of nodes r >= s in elimination order; ``at`` is where the
first row of r stands in the first column of s, or -1 where s belongs to the dense tail.
"""

from __future__ import annotations

import numpy as np

from bayeslmm.compiling import kernel
from bayeslmm.gaussian._sparse import (
    factorize_head,
    inverse_head,
    solve_head,
    solve_head_transposed,
)


@kernel
def assemble(blocks, F, ptr, n_head, head, tail):
    """Write the lower triangle of M into the layout of the factor (zeroed by the caller)."""
    f_ptr, factor_q = blocks.f_ptr, blocks.factor_q
    for t in range(blocks.row.shape[0]):
        r, s = blocks.row[t], blocks.column[t]
        k, m = blocks.node_factor[r], blocks.node_factor[s]
        qr, qs = factor_q[k], factor_q[m]
        value_at = blocks.value_ptr[t]
        for a in range(qr):
            for b in range(qs):
                if r == s and b > a:
                    continue
                total = 0.0
                for c in range(a, qr):  # L lower triangular
                    inner = 0.0
                    for d in range(b, qs):
                        inner += blocks.value[value_at + c * qs + d] * F[f_ptr[m] + d * qs + b]
                    total += F[f_ptr[k] + c * qr + a] * inner
                if a == b and k == m:
                    total += blocks.coupling[t]
                position = blocks.at[t]
                if position < 0:
                    i = blocks.node_col[r] + a - n_head
                    tail[i, blocks.node_col[s] + b - n_head] = total
                else:
                    column = blocks.node_col[s]
                    head[ptr[column + b] + (position - ptr[column]) - b + a] = total


@kernel
def slope_sums(blocks, F, ptr, n_head, head, tail):
    """sum_j [B Lambda M^-1]_jj per factor, flat with the layout of F; M^-1 on the pattern.

    d log|M| / dL_k is twice its lower triangle: nothing is divided by L.
    """
    f_ptr, factor_q = blocks.f_ptr, blocks.factor_q
    out = np.zeros(F.shape[0])
    for t in range(blocks.row.shape[0]):
        r, s = blocks.row[t], blocks.column[t]
        k, m = blocks.node_factor[r], blocks.node_factor[s]
        qr, qs = factor_q[k], factor_q[m]
        value_at = blocks.value_ptr[t]
        position = blocks.at[t]
        column = blocks.node_col[s]
        row = blocks.node_col[r]
        for a in range(qr):
            for b in range(qs):
                v = blocks.value[value_at + a * qs + b]
                if v == 0.0:
                    continue
                for c in range(qs):  # (B_rs L_s M^-1_sr)[a, i] += v L_s[b, c] M^-1[s c, r i]
                    f = F[f_ptr[m] + b * qs + c]
                    if f == 0.0:
                        continue
                    for i in range(qr):
                        entry = _entry(r == s, i, c, position, column, row, ptr, n_head, head, tail)
                        out[f_ptr[k] + a * qr + i] += v * f * entry
                if r == s:
                    continue
                for c in range(qr):  # (B_sr L_r M^-1_rs)[b, i] += v L_r[a, c] M^-1[r c, s i]
                    f = F[f_ptr[k] + a * qr + c]
                    if f == 0.0:
                        continue
                    for i in range(qs):
                        entry = _entry(False, c, i, position, column, row, ptr, n_head, head, tail)
                        out[f_ptr[m] + b * qs + i] += v * f * entry
    return out


@kernel
def inverse_entries(blocks, ptr, n_head, head, tail):
    """M^-1 on the blocks, flat as their values."""
    out = np.empty(blocks.value.shape[0])
    for t in range(blocks.row.shape[0]):
        r, s = blocks.row[t], blocks.column[t]
        qr = blocks.factor_q[blocks.node_factor[r]]
        qs = blocks.factor_q[blocks.node_factor[s]]
        for a in range(qr):
            for b in range(qs):
                out[blocks.value_ptr[t] + a * qs + b] = _entry(
                    r == s, a, b, blocks.at[t], blocks.node_col[s], blocks.node_col[r], ptr,
                    n_head, head, tail,
                )  # fmt: skip
    return out


@kernel
def _entry(diagonal, a, b, position, column, row, ptr, n_head, head, tail):
    """Entry (row + a, column + b) of the symmetric inverse."""
    if position < 0:
        return tail[row + a - n_head, column + b - n_head]
    if diagonal and b > a:
        a, b = b, a
    return head[ptr[column + b] + (position - ptr[column]) - b + a]


@kernel
def scale_rows(blocks, F, rows, transpose):
    """Lambda (or Lambda') times rows in elimination order, as a new array."""
    f_ptr, factor_q = blocks.f_ptr, blocks.factor_q
    m = rows.shape[1]
    out = np.zeros(rows.shape)
    for e in range(blocks.node_factor.shape[0]):
        k = blocks.node_factor[e]
        q = factor_q[k]
        row = blocks.node_col[e]
        for a in range(q):
            for b in range(a + 1):
                f = F[f_ptr[k] + a * q + b]
                if f == 0.0:
                    continue
                i, j = (row + b, row + a) if transpose else (row + a, row + b)
                for c in range(m):
                    out[i, c] += f * rows[j, c]
    return out


@kernel
def multiply(blocks, X):
    """B X for X in elimination order."""
    out = np.zeros(X.shape)
    m = X.shape[1]
    for t in range(blocks.row.shape[0]):
        r, s = blocks.row[t], blocks.column[t]
        qr = blocks.factor_q[blocks.node_factor[r]]
        qs = blocks.factor_q[blocks.node_factor[s]]
        for a in range(qr):
            i = blocks.node_col[r] + a
            for b in range(qs):
                v = blocks.value[blocks.value_ptr[t] + a * qs + b]
                if v == 0.0:
                    continue
                j = blocks.node_col[s] + b
                for c in range(m):
                    out[i, c] += v * X[j, c]
                if r != s:
                    for c in range(m):
                        out[j, c] += v * X[i, c]
    return out


@kernel
def multiply_coupling(blocks, X):
    """(G (x) I) X, and the largest absolute row sum of G per factor."""
    out = np.zeros(X.shape)
    m = X.shape[1]
    sums = np.zeros(X.shape[0])
    for t in range(blocks.row.shape[0]):
        v = blocks.coupling[t]
        if v == 0.0:
            continue
        r, s = blocks.row[t], blocks.column[t]
        for a in range(blocks.factor_q[blocks.node_factor[r]]):
            i, j = blocks.node_col[r] + a, blocks.node_col[s] + a
            sums[i] += abs(v)
            for c in range(m):
                out[i, c] += v * X[j, c]
            if r != s:
                sums[j] += abs(v)
                for c in range(m):
                    out[j, c] += v * X[i, c]
    largest = np.zeros(blocks.factor_q.shape[0])
    for e in range(blocks.node_factor.shape[0]):
        k = blocks.node_factor[e]
        largest[k] = max(largest[k], sums[blocks.node_col[e]])
    return out, largest


@kernel
def scores(blocks, F, rhs, u):
    """U = Z'V^-1[X y] from u = M^-1 Lambda'Z'W[X y], sigma = 1.

    By rhs - B Lambda u or, factor by factor, by L^-T (G (x) I) u where that loses fewer digits.
    """
    f_ptr, factor_q = blocks.f_ptr, blocks.factor_q
    U = rhs - multiply(blocks, scale_rows(blocks, F, u, False))
    through, size = multiply_coupling(blocks, u)
    m = rhs.shape[1]
    n_factors = factor_q.shape[0]
    largest_u = np.zeros((n_factors, m))
    largest_rhs = np.zeros((n_factors, m))
    for e in range(blocks.node_factor.shape[0]):
        k = blocks.node_factor[e]
        for i in range(blocks.node_col[e], blocks.node_col[e + 1]):
            for c in range(m):
                largest_u[k, c] = max(largest_u[k, c], abs(u[i, c]))
                largest_rhs[k, c] = max(largest_rhs[k, c], abs(rhs[i, c]))
    better = np.zeros((n_factors, m), np.bool_)
    for k in range(n_factors):
        q = factor_q[k]
        smallest, largest = np.inf, 0.0
        for a in range(q):
            v = abs(F[f_ptr[k] + a * q + a])
            smallest, largest = min(smallest, v), max(largest, v)
        if smallest > max(1e-6 * largest, 1e-150):
            for c in range(m):
                better[k, c] = size[k] * largest_u[k, c] < smallest * largest_rhs[k, c]
    for e in range(blocks.node_factor.shape[0]):
        k = blocks.node_factor[e]
        q = factor_q[k]
        row = blocks.node_col[e]
        for c in range(m):
            if not better[k, c]:
                continue
            for a in range(q - 1, -1, -1):
                total = through[row + a, c]
                for b in range(a + 1, q):
                    total -= F[f_ptr[k] + b * q + a] * U[row + b, c]
                U[row + a, c] = total / F[f_ptr[k] + a * q + a]
    return U


@kernel
def score_sums(blocks, U, omega, u, size):
    """sum_j U_j omega u_j' per factor, flat with the layout of F."""
    out = np.zeros(size)
    UO = np.dot(U, omega)
    for e in range(blocks.node_factor.shape[0]):
        k = blocks.node_factor[e]
        q = blocks.factor_q[k]
        row = blocks.node_col[e]
        for a in range(q):
            for b in range(q):
                total = 0.0
                for c in range(U.shape[1]):
                    total += UO[row + a, c] * u[row + b, c]
                out[blocks.f_ptr[k] + a * q + b] += total
    return out


@kernel
def divide_by_factors(blocks, F, sums):
    """X_k L_k^-1 of every factor in place; returns which L_k cannot be divided by."""
    f_ptr, factor_q = blocks.f_ptr, blocks.factor_q
    singular = np.zeros(factor_q.shape[0], np.bool_)
    for k in range(factor_q.shape[0]):
        q, at = factor_q[k], f_ptr[k]
        for a in range(q):
            largest = 1e-150
            for b in range(a + 1):
                largest = max(largest, 1e-9 * abs(F[at + a * q + b]))
            singular[k] |= not abs(F[at + a * q + a]) > largest
        if singular[k]:
            continue
        for a in range(q):
            for j in range(q - 1, -1, -1):
                total = sums[at + a * q + j]
                for c in range(j + 1, q):
                    total -= sums[at + a * q + c] * F[at + c * q + j]
                sums[at + a * q + j] = total / F[at + j * q + j]
    return singular


@kernel
def eliminate_sparse(blocks, F, ptr, rows, rhs, gram):
    """log|M|, its factor, C^-1 Lambda'Z'W[X y] and [X y]'V^-1[X y]; no dense tail."""
    head = np.zeros(rows.shape[0])
    assemble(blocks, F, ptr, ptr.shape[0] - 1, head, np.empty((0, 0)))
    log_det = factorize_head(ptr, rows, head, rhs.shape[0])
    half = scale_rows(blocks, F, rhs, True)
    if np.isfinite(log_det):
        solve_head(ptr, rows, head, half)
    return log_det, head, half, gram - np.dot(half.T, half)


@kernel
def derivatives_sparse(blocks, F, ptr, rows, head, half, rhs):
    """u, U and sum_j [B Lambda M^-1]_jj per factor; no dense tail."""
    u = half.copy()
    solve_head_transposed(ptr, rows, head, u)
    U = scores(blocks, F, rhs, u)
    n_head = ptr.shape[0] - 1
    none = np.empty((0, 0))
    row = np.full(n_head, -1, np.int64)
    inverse = inverse_head(ptr, rows, head, ptr[1:], none, none, row)
    return u, U, slope_sums(blocks, F, ptr, n_head, inverse, none)
