"""Numba kernels: M = Lambda'B Lambda + G (x) I assembled block by block, and its derivative.

Blocks are the (q_r, q_s) ones of pairs of nodes r >= s in elimination order; ``at`` is where the
first row of r stands in the first column of s, or -1 where s belongs to the dense tail.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}


@njit(**_OPTIONS)
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


@njit(**_OPTIONS)
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


@njit(**_OPTIONS)
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


@njit(**_OPTIONS)
def _entry(diagonal, a, b, position, column, row, ptr, n_head, head, tail):
    """Entry (row + a, column + b) of the symmetric inverse."""
    if position < 0:
        return tail[row + a - n_head, column + b - n_head]
    if diagonal and b > a:
        a, b = b, a
    return head[ptr[column + b] + (position - ptr[column]) - b + a]
