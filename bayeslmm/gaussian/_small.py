"""Linear algebra on the q x q blocks of one level and on the small dense tail, in loops.

A LAPACK call costs more than the whole computation at these sizes.
"""

from __future__ import annotations

import numpy as np

from bayeslmm.compiling import kernel


@kernel
def node_root(diag, at, F, f_at, q, M, X, K):
    """log|M| for M = I + L'AL = C C'; C and K = L M^-1 L' are written to M and K from ``at`` on.

    A is ``diag[at:]``, L is ``F[f_at:]`` (lower triangular), X is a (q, q) work array.  Nothing is
    divided by L, so zeros on its diagonal are allowed.
    """
    if q == 1:
        f = F[f_at]
        pivot = 1.0 + f * f * diag[at]
        M[at] = np.sqrt(pivot)
        K[at] = f * f / pivot
        return np.log(pivot)
    if q == 2:
        l00, l10, l11 = F[f_at], F[f_at + 2], F[f_at + 3]
        g00 = diag[at] * l00 + diag[at + 1] * l10  # A L
        g10 = diag[at + 2] * l00 + diag[at + 3] * l10
        pivot = 1.0 + l00 * g00 + l10 * g10
        c00 = np.sqrt(pivot)
        c10 = l11 * g10 / c00
        rest = 1.0 + l11 * l11 * diag[at + 3] - c10 * c10
        c11 = np.sqrt(rest)
        M[at], M[at + 2], M[at + 3] = c00, c10, c11
        x00, x01 = l00 / c00, l10 / c00
        x10, x11 = -c10 * x00 / c11, (l11 - c10 * x01) / c11
        K[at] = x00 * x00 + x10 * x10
        K[at + 1] = x00 * x01 + x10 * x11
        K[at + 2] = K[at + 1]
        K[at + 3] = x01 * x01 + x11 * x11
        return np.log(pivot * rest)
    for a in range(q):
        for b in range(q):  # X holds A L for the moment
            total = 0.0
            for c in range(b, q):
                total += diag[at + a * q + c] * F[f_at + c * q + b]
            X[a, b] = total
    determinant = 1.0
    for a in range(q):
        for b in range(a + 1):
            total = 1.0 if a == b else 0.0
            for c in range(a, q):
                total += F[f_at + c * q + a] * X[c, b]
            for c in range(b):
                total -= M[at + a * q + c] * M[at + b * q + c]
            if a == b:
                M[at + a * q + a] = np.sqrt(total)
                determinant *= total
            else:
                M[at + a * q + b] = total / M[at + b * q + b]
    for a in range(q):
        for b in range(q):
            total = F[f_at + b * q + a] if b >= a else 0.0
            for c in range(a):
                total -= M[at + a * q + c] * X[c, b]
            X[a, b] = total / M[at + a * q + a]
    for a in range(q):
        for b in range(a + 1):
            total = 0.0
            for c in range(q):
                total += X[c, a] * X[c, b]
            K[at + a * q + b] = total
            K[at + b * q + a] = total
    return np.log(determinant)


@kernel
def apply_root(C, at, F, f_at, q, B, b_at, stride, m, out, row):
    """C^-1 L'B for the (q, m) block of the flat B from ``b_at``, rows ``stride`` apart.

    The result goes to the rows of ``out`` from ``row`` on.

    Scaling first and then substituting is what keeps the digits when L is large and A singular
    (a level with fewer rows than effects); C^-1 L' or L M^-1 L' formed first would cancel.
    """
    if q == 1:
        scale = F[f_at] / C[at]
        for c in range(m):
            out[row, c] = scale * B[b_at + c]
        return
    if q == 2:
        l00, l10, l11 = F[f_at], F[f_at + 2], F[f_at + 3]
        i00, c10, i11 = 1.0 / C[at], C[at + 2], 1.0 / C[at + 3]
        for c in range(m):
            low = B[b_at + stride + c]
            top = (l00 * B[b_at + c] + l10 * low) * i00
            out[row, c] = top
            out[row + 1, c] = (l11 * low - c10 * top) * i11
        return
    for a in range(q):
        pivot = C[at + a * q + a]
        for c in range(m):
            total = 0.0
            for b in range(a, q):
                total += F[f_at + b * q + a] * B[b_at + b * stride + c]
            for b in range(a):
                total -= C[at + a * q + b] * out[row + b, c]
            out[row + a, c] = total / pivot


@kernel
def solve_root_transposed(C, at, q, B, m):
    """B = C^-T B in place for the (q, m) array B."""
    for a in range(q - 1, -1, -1):
        for c in range(m):
            total = B[a, c]
            for b in range(a + 1, q):
                total -= C[at + b * q + a] * B[b, c]
            B[a, c] = total / C[at + a * q + a]


@kernel
def multiply_factor(F, f_at, q, B, m):
    """B = L B in place for the (q, m) array B."""
    for a in range(q - 1, -1, -1):
        for c in range(m):
            total = 0.0
            for b in range(a + 1):
                total += F[f_at + a * q + b] * B[b, c]
            B[a, c] = total


@kernel
def divide_by_factor_transposed(F, f_at, q, B, m):
    """B = L^-T B in place for the (q, m) array B."""
    for a in range(q - 1, -1, -1):
        for c in range(m):
            total = B[a, c]
            for b in range(a + 1, q):
                total -= F[f_at + b * q + a] * B[b, c]
            B[a, c] = total / F[f_at + a * q + a]


@kernel
def invertible_factors(lay, F):
    """Per factor: L_k can be divided by.  Rows are scaled, so units do not matter."""
    out = np.ones(lay.factor_q.shape[0], np.bool_)
    for k in range(lay.factor_q.shape[0]):
        q = lay.factor_q[k]
        for a in range(q):
            row = lay.f_ptr[k] + a * q
            size = 1e-150
            for b in range(a + 1):
                size = max(size, 1e-9 * abs(F[row + b]))
            if not abs(F[row + a]) > size:
                out[k] = False
    return out


@kernel
def shrink(diag, C, at, F, f_at, q, invertible, B, m, out, G, E):
    """out = (I + A L L')^-1 B = L^-T M^-1 L'B for the (q, m) array B.

    The second form loses no digits when L is large; the first is for singular L.
    """
    if q == 1:
        e = 1.0 / (C[at] * C[at])
        for c in range(m):
            out[0, c] = e * B[0, c]
    elif invertible and q == 2:
        l00, l10, l11 = F[f_at], F[f_at + 2], F[f_at + 3]
        i00, c10, i11 = 1.0 / C[at], C[at + 2], 1.0 / C[at + 3]
        j00, j11 = 1.0 / l00, 1.0 / l11
        for c in range(m):
            top = (l00 * B[0, c] + l10 * B[1, c]) * i00
            low = (l11 * B[1, c] - c10 * top) * i11 * i11
            out[1, c] = low * j11
            out[0, c] = ((top - c10 * low) * i00 - l10 * out[1, c]) * j00
    elif invertible:
        apply_root(C, at, F, f_at, q, B.reshape(B.size), 0, B.shape[1], m, out, 0)
        solve_root_transposed(C, at, q, out, m)
        divide_by_factor_transposed(F, f_at, q, out, m)
    else:
        node_shrinkage(diag, at, F, f_at, q, G, E)
        for a in range(q):
            for c in range(m):
                total = 0.0
                for b in range(q):
                    total += E[a, b] * B[b, c]
                out[a, c] = total


@kernel
def node_shrinkage(diag, at, F, f_at, q, G, E):
    """E = (I + A L L')^-1 by elimination with row pivoting: no cancellation, singular L allowed."""
    for a in range(q):
        for b in range(q):
            E[a, b] = 0.0  # A L
            for c in range(b, q):
                E[a, b] += diag[at + a * q + c] * F[f_at + c * q + b]
    for a in range(q):
        for b in range(q):
            total = 1.0 if a == b else 0.0
            for c in range(b + 1):
                total += E[a, c] * F[f_at + b * q + c]
            G[a, b] = total
    for a in range(q):
        for b in range(q):
            E[a, b] = 1.0 if a == b else 0.0
    for c in range(q):
        best = c
        for a in range(c + 1, q):
            if abs(G[a, c]) > abs(G[best, c]):
                best = a
        if best != c:
            for b in range(q):
                G[c, b], G[best, b] = G[best, b], G[c, b]
                E[c, b], E[best, b] = E[best, b], E[c, b]
        inverse = 1.0 / G[c, c]
        for a in range(q):
            if a != c:
                ratio = G[a, c] * inverse
                if ratio != 0.0:
                    for b in range(c, q):
                        G[a, b] -= ratio * G[c, b]
                    for b in range(q):
                        E[a, b] -= ratio * E[c, b]
        for b in range(c, q):
            G[c, b] *= inverse
        for b in range(q):
            E[c, b] *= inverse


@kernel
def cholesky_lower(A):
    """Factor the lower triangle of A in place; return log|A| (nan if not positive definite).

    A pivot within rounding of zero counts as zero: a repeated column must not pass by luck.
    """
    n = A.shape[0]
    log_det = 0.0
    for i in range(n):
        least = 2.3e-16 * n * A[i, i]
        for j in range(i + 1):
            total = A[i, j]
            for k in range(j):
                total -= A[i, k] * A[j, k]
            if i == j:
                if not total > max(least, 0.0):
                    return np.nan
                A[i, i] = np.sqrt(total)
                log_det += np.log(total)
            else:
                A[i, j] = total / A[j, j]
    return log_det


@kernel
def invert_from_cholesky(A):
    """Replace the lower Cholesky factor in A by the lower triangle of the inverse."""
    n = A.shape[0]
    for j in range(n):  # inverse of the factor, column by column
        A[j, j] = 1.0 / A[j, j]
        for i in range(j + 1, n):
            total = 0.0
            for k in range(j, i):
                total -= A[i, k] * A[k, j]
            A[i, j] = total / A[i, i]
    for i in range(n):  # C^-T C^-1; row i uses rows >= i only, so it can overwrite
        for j in range(i + 1):
            total = 0.0
            for k in range(i, n):
                total += A[k, i] * A[k, j]
            A[i, j] = total


@kernel
def solve_lower_transposed(C, B):
    """C^-T B in place, B of shape (n, m)."""
    n, m = B.shape
    for i in range(n - 1, -1, -1):
        for c in range(m):
            B[i, c] /= C[i, i]
        for k in range(i):
            v = C[i, k]
            if v != 0.0:
                for c in range(m):
                    B[k, c] -= v * B[i, c]


@kernel
def max_sizes(lay):
    """Most effects of a factor, widest panel of a head node."""
    factor_q = lay.factor_q
    pcol_ptr = lay.pcol_ptr
    q_max = 1
    for k in range(factor_q.shape[0]):
        q_max = max(q_max, factor_q[k])
    width_max = 1
    for e in range(lay.sizes[1]):
        width_max = max(width_max, pcol_ptr[e + 1] - pcol_ptr[e])
    return q_max, width_max
