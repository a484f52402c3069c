"""One grouping factor with one or two effects: levels are independent, so loops run across them.

The same elimination as in ``_elimination`` and ``_backward``, written over all levels at a time on
arrays with one row per entry of a block and one column per level, which compilers turn into vector
instructions. With M_j = I + L'A_j L = C_j C_j' and R_j = C_j^-1 L'B_j, the sums over levels that
the gradient needs are

    sum_j T_jj = L^-T sum_j M_j^-1 L'A_j,   sum_j U_j O U_j' = L^-T (sum_j w_j O w_j') L^-1,

w_j = C_j^-T R_j: L is the same at every level and leaves the sum.
"""

from __future__ import annotations

import numpy as np

from bayeslmm.compiling import in_numpy, kernel, summing_kernel

from ._small import invertible_factors

#: Levels worked on at a time: few enough to stay in the cache. Sums are taken chunk by chunk and
#: added in the order of the chunks, so that they are the same whoever works on which.
_CHUNK = 256
#: Rows and columns of the lower triangle of a block of one or two effects.
_LOWER = {1: ([0], [0]), 2: ([0, 1, 1], [0, 0, 1])}


def level_columns(diag: np.ndarray, rhs: np.ndarray, q: int) -> np.ndarray:
    """Blocks with one column per level.

    Parameters
    ----------
    diag : (J q^2,) array
        Diagonal blocks, level after level.
    rhs : (J q, m) array
        Right-hand sides.
    q : {1, 2}

    Returns
    -------
    (q (q + 1) / 2 + q m, J) array: the lower triangle, then the rows of the right-hand sides.
    """
    blocks = diag.reshape(-1, q, q)
    lower = blocks[:, *_LOWER[q]]
    return np.ascontiguousarray(np.hstack((lower, rhs.reshape(len(blocks), -1))).T)


@summing_kernel
def dot(x, y):
    """x'y."""
    total = 0.0
    for j in range(x.shape[0]):
        total += x[j] * y[j]
    return total


in_numpy(dot)(np.dot)


@kernel
def _log_product(x):
    """Sum of logs, one logarithm per many factors."""
    total = 0.0
    product = 1.0
    for j in range(x.shape[0]):
        v = x[j]
        if v < 1e100 and product < 1e200:
            product *= v
        else:
            total += np.log(v)
    return total + np.log(product)


@kernel
def _roots(levels, begin, end, q, L, roots, determinant):
    """1 / c_00, c_10 and 1 / c_11 of the roots C_j, one row each, and |M_j|."""
    # rows are sliced one by one: a compiler sees that they are contiguous
    if q == 1:
        a, inverse = levels[0, begin:end], roots[0]
        square = L[0] * L[0]
        for j in range(end - begin):
            pivot = 1.0 + square * a[j]
            determinant[j] = pivot
            inverse[j] = 1.0 / np.sqrt(pivot)
        return
    l00, l10, l11 = L[0], L[2], L[3]
    a00, a10, a11 = levels[0, begin:end], levels[1, begin:end], levels[2, begin:end]
    r00, r10, r11 = roots[0], roots[1], roots[2]
    for j in range(end - begin):
        g10 = a10[j] * l00 + a11[j] * l10
        pivot = 1.0 + l00 * (a00[j] * l00 + a10[j] * l10) + l10 * g10
        inverse = 1.0 / np.sqrt(pivot)
        low = l11 * g10 * inverse
        rest = 1.0 + l11 * l11 * a11[j] - low * low
        r00[j] = inverse
        r10[j] = low
        r11[j] = 1.0 / np.sqrt(rest)
        determinant[j] = pivot * rest


@kernel
def _eliminate(levels, begin, end, q, m, L, roots, R):
    """R_j = C_j^-1 L'B_j, row a m + c for effect a and column c."""
    first = q * (q + 1) // 2
    for c in range(m):
        if q == 1:
            r, out, i00 = levels[first + c, begin:end], R[c], roots[0]
            scale = L[0]
            for j in range(end - begin):
                out[j] = scale * r[j] * i00[j]
        else:
            l00, l10, l11 = L[0], L[2], L[3]
            r0, r1 = levels[first + c, begin:end], levels[first + m + c, begin:end]
            top, low = R[c], R[m + c]
            i00, c10, i11 = roots[0], roots[1], roots[2]
            for j in range(end - begin):
                t = (l00 * r0[j] + l10 * r1[j]) * i00[j]
                top[j] = t
                low[j] = (l11 * r1[j] - c10[j] * t) * i11[j]


@kernel
def count_chunks(J):
    """Chunks that J levels are worked on in."""
    return (J + _CHUNK - 1) // _CHUNK


@kernel
def sums_size(q, m, want_gradient):
    """Numbers that one chunk adds up to; see :func:`chunk_sums`."""
    return 1 + m * m + (q * q + q * m * q * m if want_gradient else 0)


@kernel
def chunk_sums(levels, q, m, L, first, stop, want_gradient, out):
    """Sums over the levels of each of the chunks ``first`` to ``stop``, into their rows of ``out``.

    Each row holds log|M|, sum_j R_j'R_j (m, m), and for the gradient the entries of
    sum_j M_j^-1 L'A_j (q, q) and the products sum_j w_j w_j' (q m, q m), row a m + c for effect a
    and column c; lower triangles. Whatever omega is, these are all that the gradient needs, so one
    pass over the levels does, and what it works on stays in the cache.
    """
    J = levels.shape[1]
    size = min(J, _CHUNK)
    roots, determinant = np.empty((2 * q - 1, size)), np.empty(size)
    R = np.empty((q * m, size))
    at = 1 + m * m
    for chunk in range(first, stop):
        begin, end = chunk * _CHUNK, min((chunk + 1) * _CHUNK, J)
        n = end - begin
        _roots(levels, begin, end, q, L, roots, determinant)
        _eliminate(levels, begin, end, q, m, L, roots, R)
        row = out[chunk]
        row[0] = _log_product(determinant[:n])
        for c in range(m):
            for d in range(c + 1):
                total = 0.0
                for a in range(q):
                    total += dot(R[a * m + c, :n], R[a * m + d, :n])
                row[1 + c * m + d] = total
        if want_gradient:
            _solve_transposed(q, n, roots, R)
            _sum_shrinkage(levels, begin, end, q, L, roots, row[at : at + q * q])
            for c in range(q * m):
                for d in range(c + 1):
                    row[at + q * q + c * q * m + d] = dot(R[c, :n], R[d, :n])


@kernel
def all_sums(levels, q, m, L, want_gradient):
    """:func:`chunk_sums` of all chunks."""
    n_chunks = count_chunks(levels.shape[1])
    out = np.empty((n_chunks, sums_size(q, m, want_gradient)))
    chunk_sums(levels, q, m, L, 0, n_chunks, want_gradient, out)
    return out


@kernel
def eliminated(sums, gram):
    """log|M| and S = gram - sum_j R_j'R_j; chunks are added in their order."""
    m = gram.shape[0]
    log_det = 0.0
    S = gram.copy()
    for chunk in range(sums.shape[0]):
        log_det += sums[chunk, 0]
        for c in range(m):
            for d in range(c + 1):
                S[c, d] -= sums[chunk, 1 + c * m + d]
    for c in range(m):
        for d in range(c):
            S[d, c] = S[c, d]
    return log_det, S


@kernel
def can_differentiate(lay, L):
    """L can be divided by; the general passes do without."""
    return invertible_factors(lay, L)[0]


@kernel
def level_derivatives(sums, q, L, omega):
    """sum_j T_jj and sum_j U_j omega U_j', flat, from the sums of chunks; L must be invertible."""
    m = omega.shape[0]
    at = 1 + m * m
    shrinkage = np.zeros(q * q)
    inner = np.zeros((q, q))
    G = np.zeros((q * m, q * m))
    for chunk in range(sums.shape[0]):
        for i in range(q * q):
            shrinkage[i] += sums[chunk, at + i]
        for c in range(q * m):
            for d in range(c + 1):
                G[c, d] += sums[chunk, at + q * q + c * q * m + d]
    for c in range(q * m):
        for d in range(c):
            G[d, c] = G[c, d]
    for a in range(q):
        for b in range(q):
            for c in range(m):
                for d in range(m):
                    inner[a, b] += omega[c, d] * G[a * m + c, b * m + d]
    T, Q = np.empty(q * q), np.empty(q * q)
    if q == 1:
        T[0] = shrinkage[0]
        Q[0] = inner[0, 0] / (L[0] * L[0])
        return T, Q
    l00, l10, l11 = L[0], L[2], L[3]
    T[2], T[3] = shrinkage[2] / l11, shrinkage[3] / l11
    T[0], T[1] = (shrinkage[0] - l10 * T[2]) / l00, (shrinkage[1] - l10 * T[3]) / l00
    half = 0.5 * (T[1] + T[2])
    T[1] = half
    T[2] = half
    # L^-T inner L^-1, the columns first
    x10, x11 = inner[1, 0] / l11, inner[1, 1] / l11
    x00, x01 = (inner[0, 0] - l10 * x10) / l00, (inner[0, 1] - l10 * x11) / l00
    Q[1], Q[3] = x01 / l11, x11 / l11
    Q[0] = (x00 - l10 * Q[1]) / l00
    Q[2] = Q[1]
    return T, Q


@kernel
def _solve_transposed(q, n, roots, R):
    """w_j = C_j^-T R_j in place, for the first n columns."""
    m = R.shape[0] // q
    for c in range(m):
        if q == 1:
            r, i00 = R[c], roots[0]
            for j in range(n):
                r[j] *= i00[j]
        else:
            r0, r1 = R[c], R[m + c]
            i00, c10, i11 = roots[0], roots[1], roots[2]
            for j in range(n):
                low = r1[j] * i11[j]
                r1[j] = low
                r0[j] = (r0[j] - c10[j] * low) * i00[j]


@kernel
def _sum_shrinkage(levels, begin, end, q, L, roots, out):
    """sum_j M_j^-1 L'A_j (q, q), flat; where L is a number sum_j M_j^-1 A_j."""
    a00 = levels[0, begin:end]
    if q == 1:
        out[0] = _sum_one(a00, roots[0])
        return
    out[0], out[1], out[2], out[3] = _sum_two(
        a00, levels[1, begin:end], levels[2, begin:end], roots[0], roots[1], roots[2],
        L[0], L[2], L[3],
    )  # fmt: skip


@summing_kernel
def _sum_one(a, i00):
    """sum_j M_j^-1 A_j, which is L^-T sum_j M_j^-1 L'A_j where L is a number."""
    total = 0.0
    for j in range(a.shape[0]):
        total += a[j] * i00[j] * i00[j]
    return total


@summing_kernel
def _sum_two(a00, a10, a11, i00, c10, i11, l00, l10, l11):
    """Entries of sum_j M_j^-1 L'A_j."""
    h00, h01, h10, h11 = 0.0, 0.0, 0.0, 0.0
    for j in range(a00.shape[0]):
        s0 = (l00 * a00[j] + l10 * a10[j]) * i00[j]
        s1 = (l11 * a10[j] - c10[j] * s0) * i11[j] * i11[j]
        h10 += s1
        h00 += (s0 - c10[j] * s1) * i00[j]
        s0 = (l00 * a10[j] + l10 * a11[j]) * i00[j]
        s1 = (l11 * a11[j] - c10[j] * s0) * i11[j] * i11[j]
        h11 += s1
        h01 += (s0 - c10[j] * s1) * i00[j]
    return h00, h01, h10, h11


@kernel
def draw_levels(levels, q, L, beta, sigma, z, out):
    """Effects given beta into ``out`` (J q,), for standard normals ``z`` (J q,).

    L C^-T (C^-1 L'v + sigma z), v the right-hand side less its part for beta.
    """
    p = beta.shape[0]
    J = levels.shape[1]
    first = q * (q + 1) // 2
    roots = np.empty((2 * q - 1, J))
    _roots(levels, 0, J, q, L, roots, np.empty(J))
    v = np.empty((q, J))
    for a in range(q):
        at = first + a * (p + 1)
        v_a, last = v[a], levels[at + p]
        for j in range(J):
            v_a[j] = last[j]
        for c in range(p):
            column, b = levels[at + c], beta[c]
            for j in range(J):
                v_a[j] -= b * column[j]
    if q == 1:
        scale, i00, v0 = L[0], roots[0], v[0]
        for j in range(J):
            out[j] = scale * i00[j] * (scale * i00[j] * v0[j] + sigma * z[j])
        return
    l00, l10, l11 = L[0], L[2], L[3]
    v0, v1 = v[0], v[1]
    i00, c10, i11 = roots[0], roots[1], roots[2]
    for j in range(J):
        top = (l00 * v0[j] + l10 * v1[j]) * i00[j]
        low = ((l11 * v1[j] - c10[j] * top) * i11[j] + sigma * z[2 * j + 1]) * i11[j]
        top = (top + sigma * z[2 * j] - c10[j] * low) * i00[j]
        out[2 * j] = l00 * top
        out[2 * j + 1] = l10 * top + l11 * low
