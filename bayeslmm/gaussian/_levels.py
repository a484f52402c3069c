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
from numba import njit

from ._small import invertible_factors

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}

#: Sums may be taken in any order; nan and infinity keep their meaning.
_SUMS = {**_OPTIONS, "fastmath": {"reassoc", "contract", "nsz"}}


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
    lower = blocks[:, *np.tril_indices(q)]
    return np.ascontiguousarray(np.hstack((lower, rhs.reshape(len(blocks), -1))).T)


@njit(**_SUMS)
def _dot(x, y):
    total = 0.0
    for j in range(x.shape[0]):
        total += x[j] * y[j]
    return total


@njit(**_OPTIONS)
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


@njit(**_OPTIONS)
def _roots(levels, q, L):
    """1 / c_00, c_10 and 1 / c_11 of the roots C_j, one row each, and |M_j|."""
    J = levels.shape[1]
    roots = np.empty((2 * q - 1, J))
    determinant = np.empty(J)
    if q == 1:
        a, inverse = levels[0], roots[0]
        square = L[0] * L[0]
        for j in range(J):
            pivot = 1.0 + square * a[j]
            determinant[j] = pivot
            inverse[j] = 1.0 / np.sqrt(pivot)
        return roots, determinant
    l00, l10, l11 = L[0], L[2], L[3]
    a00, a10, a11 = levels[0], levels[1], levels[2]
    r00, r10, r11 = roots[0], roots[1], roots[2]
    for j in range(J):
        g10 = a10[j] * l00 + a11[j] * l10
        pivot = 1.0 + l00 * (a00[j] * l00 + a10[j] * l10) + l10 * g10
        inverse = 1.0 / np.sqrt(pivot)
        low = l11 * g10 * inverse
        rest = 1.0 + l11 * l11 * a11[j] - low * low
        r00[j] = inverse
        r10[j] = low
        r11[j] = 1.0 / np.sqrt(rest)
        determinant[j] = pivot * rest
    return roots, determinant


@njit(**_OPTIONS)
def eliminate_levels(levels, gram, q, L):
    """log|M|, the roots, R (row a m + c: effect a, column c) and S = gram - sum_j R_j'R_j."""
    m = gram.shape[0]
    J = levels.shape[1]
    roots, determinant = _roots(levels, q, L)
    R = np.empty((q * m, J))
    first = q * (q + 1) // 2
    for c in range(m):
        if q == 1:
            r, out, i00 = levels[first + c], R[c], roots[0]
            scale = L[0]
            for j in range(J):
                out[j] = scale * r[j] * i00[j]
        else:
            l00, l10, l11 = L[0], L[2], L[3]
            r0, r1 = levels[first + c], levels[first + m + c]
            top, low = R[c], R[m + c]
            i00, c10, i11 = roots[0], roots[1], roots[2]
            for j in range(J):
                t = (l00 * r0[j] + l10 * r1[j]) * i00[j]
                top[j] = t
                low[j] = (l11 * r1[j] - c10[j] * t) * i11[j]
    S = np.empty((m, m))
    for c in range(m):
        for d in range(c + 1):
            total = gram[c, d]
            for a in range(q):
                total -= _dot(R[a * m + c], R[a * m + d])
            S[c, d] = total
            S[d, c] = total
    return _log_product(determinant), roots, R, S


@njit(**_OPTIONS)
def can_differentiate(lay, L):
    """L can be divided by; the general passes do without."""
    return invertible_factors(lay, L)[0]


@njit(**_OPTIONS)
def level_derivatives(levels, q, L, roots, R, omega):
    """sum_j T_jj and sum_j U_j omega U_j', flat; L must be invertible."""
    m = omega.shape[0]
    W = _solve_transposed(q, roots, R)
    inner = np.empty((q, q))
    for a in range(q):
        product = np.dot(omega, W[a * m : (a + 1) * m])
        for b in range(a + 1):
            inner[a, b] = _dot(product.reshape(product.size), W[b * m : (b + 1) * m].ravel())
            inner[b, a] = inner[a, b]
    T, Q = np.empty(q * q), np.empty(q * q)
    if q == 1:
        T[0] = _sum_one(levels[0], roots[0])
        Q[0] = inner[0, 0] / (L[0] * L[0])
        return T, Q
    l00, l10, l11 = L[0], L[2], L[3]
    h00, h01, h10, h11 = _sum_two(
        levels[0], levels[1], levels[2], roots[0], roots[1], roots[2], l00, l10, l11
    )
    T[2], T[3] = h10 / l11, h11 / l11
    T[0], T[1] = (h00 - l10 * T[2]) / l00, (h01 - l10 * T[3]) / l00
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


@njit(**_OPTIONS)
def _solve_transposed(q, roots, R):
    """w = C^-T R."""
    m, J = R.shape[0] // q, R.shape[1]
    W = np.empty(R.shape)
    for c in range(m):
        if q == 1:
            r, w, i00 = R[c], W[c], roots[0]
            for j in range(J):
                w[j] = r[j] * i00[j]
        else:
            r0, r1, w0, w1 = R[c], R[m + c], W[c], W[m + c]
            i00, c10, i11 = roots[0], roots[1], roots[2]
            for j in range(J):
                low = r1[j] * i11[j]
                w1[j] = low
                w0[j] = (r0[j] - c10[j] * low) * i00[j]
    return W


@njit(**_SUMS)
def _sum_one(a, i00):
    """sum_j M_j^-1 A_j, which is L^-T sum_j M_j^-1 L'A_j where L is a number."""
    total = 0.0
    for j in range(a.shape[0]):
        total += a[j] * i00[j] * i00[j]
    return total


@njit(**_SUMS)
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


@njit(**_OPTIONS)
def draw_levels(levels, q, L, roots, beta, sigma, z, out):
    """Effects given beta into ``out`` (J q,), for standard normals ``z`` (J q,).

    L C^-T (C^-1 L'v + sigma z), v the right-hand side less its part for beta.
    """
    p = beta.shape[0]
    J = levels.shape[1]
    first = q * (q + 1) // 2
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
