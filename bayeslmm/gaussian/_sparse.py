"""Numba kernels: sparse Cholesky of a symmetric matrix with a dense tail, and what follows from it.

The lower triangle of the first H columns (the *head*) is stored column by column, rows increasing,
diagonal first; rows from H on belong to the dense *tail*.  The factorization is the left-looking
one of George and Liu (1981, Computer Solution of Large Sparse Positive Definite Systems, chapter
5), the inverse on the pattern of the factor that of Takahashi, Fagan and Chin (1973).
"""

from __future__ import annotations

import numpy as np

from bayeslmm.compiling import kernel


@kernel
def factorize_head(ptr, rows, X, n):
    """Overwrite the head's columns of the matrix by those of its factor.

    Returns the log determinant of the head, nan where a pivot is not positive.
    """
    n_head = ptr.shape[0] - 1
    link = np.full(n_head, -1, np.int64)
    following = np.full(n_head, -1, np.int64)
    at = np.zeros(n_head, np.int64)
    work = np.zeros(n)
    log_det = 0.0
    for j in range(n_head):
        for s in range(ptr[j], ptr[j + 1]):
            work[rows[s]] = X[s]
        k = link[j]
        while k >= 0:  # every earlier column with an entry in row j
            after = following[k]
            first = at[k]
            scale = X[first]
            for s in range(first, ptr[k + 1]):
                work[rows[s]] -= scale * X[s]
            first += 1
            at[k] = first
            if first < ptr[k + 1] and rows[first] < n_head:
                r = rows[first]
                following[k] = link[r]
                link[r] = k
            k = after
        pivot = work[j]
        if not pivot > 0.0:
            return np.nan
        log_det += np.log(pivot)
        root = np.sqrt(pivot)
        X[ptr[j]] = root
        inverse = 1.0 / root
        for s in range(ptr[j] + 1, ptr[j + 1]):
            X[s] = work[rows[s]] * inverse
        first = ptr[j] + 1
        at[j] = first
        if first < ptr[j + 1] and rows[first] < n_head:
            r = rows[first]
            following[j] = link[r]
            link[r] = j
    return log_det


@kernel
def scatter_tail(ptr, rows, X, tail_at, tail):
    """Subtract the head's part from the lower triangle of the tail, entry by entry."""
    n_head = ptr.shape[0] - 1
    for j in range(n_head):
        for s in range(tail_at[j], ptr[j + 1]):
            target = tail[rows[s] - n_head]
            v = X[s]
            for t in range(tail_at[j], s + 1):
                target[rows[t] - n_head] -= v * X[t]


@kernel
def tail_rows(ptr, rows, X, tail_at, columns, n_tail):
    """Dense (len(columns), n_tail): the tail's rows of some of the head's columns."""
    n_head = ptr.shape[0] - 1
    out = np.zeros((columns.shape[0], n_tail))
    for c in range(columns.shape[0]):
        j = columns[c]
        for s in range(tail_at[j], ptr[j + 1]):
            out[c, rows[s] - n_head] = X[s]
    return out


@kernel
def solve_head(ptr, rows, X, B):
    """C^-1 B in place for the head; the tail's rows of B are updated for it."""
    m = B.shape[1]
    for j in range(ptr.shape[0] - 1):
        inverse = 1.0 / X[ptr[j]]
        for c in range(m):
            B[j, c] *= inverse
        for s in range(ptr[j] + 1, ptr[j + 1]):
            v = X[s]
            i = rows[s]
            for c in range(m):
                B[i, c] -= v * B[j, c]


@kernel
def solve_head_transposed(ptr, rows, X, B):
    """C^-T B in place for the head, the tail's rows of B being solved already."""
    m = B.shape[1]
    for j in range(ptr.shape[0] - 2, -1, -1):
        for s in range(ptr[j] + 1, ptr[j + 1]):
            v = X[s]
            i = rows[s]
            for c in range(m):
                B[j, c] -= v * B[i, c]
        inverse = 1.0 / X[ptr[j]]
        for c in range(m):
            B[j, c] *= inverse


@kernel
def inverse_head(ptr, rows, X, tail_at, tail_inverse, product, product_row):
    """The inverse on the head's pattern, in the layout of the factor.

    Parameters
    ----------
    tail_inverse : (t, t) symmetric inverse of the tail
    product : rows C_tj' (tail inverse) of the columns in ``product_row``, or empty
    product_row : (H,) row of ``product`` for each column, -1 where there is none
    """
    n_head = ptr.shape[0] - 1
    n = n_head + tail_inverse.shape[0]
    Z = np.empty(X.shape[0])
    left = np.zeros(n)
    out = np.zeros(n)
    for j in range(n_head - 1, -1, -1):
        low = ptr[j] + 1
        high = ptr[j + 1]
        inverse = 1.0 / X[ptr[j]]
        for s in range(low, high):
            left[rows[s]] = X[s] * inverse
            out[rows[s]] = 0.0
        for s in range(low, tail_at[j]):
            k = rows[s]
            v = left[k]
            total = Z[ptr[k]] * v
            for t in range(ptr[k] + 1, ptr[k + 1]):
                i = rows[t]
                total += Z[t] * left[i]
                out[i] += Z[t] * v  # what falls outside the column's pattern is never read
            out[k] += total
        if product_row[j] >= 0:
            for s in range(tail_at[j], high):
                out[rows[s]] += product[product_row[j], rows[s] - n_head] * inverse
        else:
            for s in range(tail_at[j], high):
                source = tail_inverse[rows[s] - n_head]
                total = 0.0
                for t in range(tail_at[j], high):
                    total += source[rows[t] - n_head] * left[rows[t]]
                out[rows[s]] += total
        diagonal = inverse * inverse
        for s in range(low, high):
            i = rows[s]
            Z[s] = -out[i]
            diagonal += left[i] * out[i]
            left[i] = 0.0
        Z[ptr[j]] = diagonal
    return Z
