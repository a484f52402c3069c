"""Numba loops over rows: the only place where cost grows with the number of rows."""

from __future__ import annotations

import numpy as np

from bayeslmm.compiling import kernel


@kernel
def accumulate_factor(codes, Z, R, weights, zz, zr, counts, zz_plain):
    """Add rows to the per-level products of one factor, in place.

    zz (J, q, q) gets sum w z z', zr (J, q, m) sum w z r', counts (J,) the number of rows, zz_plain
    (q, q) the unweighted sum of z z' over all levels.
    """
    n, q = Z.shape
    m = R.shape[1]
    for i in range(n):
        j = codes[i]
        w = weights[i]
        counts[j] += 1
        for a in range(q):
            z = Z[i, a]
            wz = w * z
            for b in range(a + 1):
                zz[j, a, b] += wz * Z[i, b]
                zz_plain[a, b] += z * Z[i, b]
            for c in range(m):
                zr[j, a, c] += wz * R[i, c]


@kernel
def mirror_lower(zz):
    """Copy the lower triangle of each (q, q) slice to the upper one."""
    for j in range(zz.shape[0]):
        for a in range(zz.shape[1]):
            for b in range(a):
                zz[j, b, a] = zz[j, a, b]


@kernel
def rows_by_level(codes, n_levels):
    """Counting sort: start of each level, and the row numbers in level order."""
    start = np.zeros(n_levels + 1, np.int64)
    for i in range(codes.shape[0]):
        start[codes[i] + 1] += 1
    for j in range(n_levels):
        start[j + 1] += start[j]
    cursor = start[:-1].copy()
    order = np.empty(codes.shape[0], np.int64)
    for i in range(codes.shape[0]):
        order[cursor[codes[i]]] = i
        cursor[codes[i]] += 1
    return start, order


@kernel
def cooccurrences(codes_k, codes_l, start, order, n_levels_l):
    """Distinct pairs of levels that share a row, sorted, and the pair each row belongs to."""
    n = codes_k.shape[0]
    n_levels_k = start.shape[0] - 1
    seen_by = np.full(n_levels_l, -1, np.int64)
    slot = np.empty(n_levels_l, np.int64)
    rows = np.empty(n, np.int64)
    columns = np.empty(n, np.int64)
    row_pair = np.empty(n, np.int64)
    nnz = 0
    for j in range(n_levels_k):
        first = nnz
        for s in range(start[j], start[j + 1]):
            level = codes_l[order[s]]
            if seen_by[level] != j:
                seen_by[level] = j
                columns[nnz] = level
                rows[nnz] = j
                nnz += 1
        if nnz - first > 1:
            columns[first:nnz].sort()
        for s in range(first, nnz):
            slot[columns[s]] = s
        for s in range(start[j], start[j + 1]):
            row_pair[order[s]] = slot[codes_l[order[s]]]
    return rows[:nnz].copy(), columns[:nnz].copy(), row_pair


@kernel
def accumulate_pair(row_pair, Zk, Zl, weights, values, counts):
    """Add w z_k z_l' of every row to the block of its pair of levels, in place."""
    for i in range(row_pair.shape[0]):
        s = row_pair[i]
        counts[s] += 1
        for a in range(Zk.shape[1]):
            wz = weights[i] * Zk[i, a]
            for b in range(Zl.shape[1]):
                values[s, a, b] += wz * Zl[i, b]


@kernel
def accumulate_moments(columns, pilot, low, high, total, squares):
    """Range, sum and sum of squares about ``pilot`` of each column, added in place."""
    k = columns.shape[1]
    for i in range(columns.shape[0]):
        for c in range(k):
            v = columns[i, c]
            low[c] = min(low[c], v)
            high[c] = max(high[c], v)
            gap = v - pilot[c]
            total[c] += gap
            squares[c] += gap * gap
