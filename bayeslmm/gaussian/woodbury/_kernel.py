"""Blocks of rows against the effects outside them: products, their adjoint, and derivatives.

``code`` and ``z`` (n, w) are the columns of Z that are not zero in a row, and their values, in the
order of the blocks. What is "flat" has (m, m) numbers per pattern, as V_b^-1 has.
"""

from __future__ import annotations

import numpy as np

from bayeslmm.compiling import kernel
from bayeslmm.gaussian.blocks._kernel import _add_row_product, _adjoint, _pull_back


@kernel
def solve_blocks(lay, inverses, W, columns):
    """U = V_b^-1 W (flat as W) and W'U."""
    U = np.empty(W.shape[0])
    S = np.zeros((columns, columns))
    for k in range(lay.m.shape[0]):
        _add_row_product(lay, k, inverses, W, columns, U, S)
    return U, 0.5 * (S + S.T)


@kernel
def scatter(lay, values, code, z, size):
    """Z'KZ (size, size), K block diagonal with the symmetric matrices in ``values`` (flat)."""
    G = np.zeros((size, size))
    w, done = code.shape[1], 0
    for k in range(lay.m.shape[0]):
        m, n_rep, start = lay.m[k], lay.n_rep[k], lay.v_ptr[k]
        for i in range(m):
            for j in range(i + 1):
                v = values[start + i * m + j]
                for g in range(n_rep):
                    r, s = done + i * n_rep + g, done + j * n_rep + g
                    for a in range(w):
                        for b in range(w):
                            product = v * z[r, a] * z[s, b]
                            G[code[r, a], code[s, b]] += product
                            if i != j:
                                G[code[s, b], code[r, a]] += product
        done += m * n_rep
    return G


@kernel
def gather(lay, Q, code, z):
    """Blocks of ZQZ' summed over the blocks of every pattern (flat): adjoint of ``scatter``."""
    out = np.empty(lay.v_ptr[-1])
    w, done = code.shape[1], 0
    for k in range(lay.m.shape[0]):
        m, n_rep, start = lay.m[k], lay.n_rep[k], lay.v_ptr[k]
        for i in range(m):
            for j in range(i + 1):
                total = 0.0
                for g in range(n_rep):
                    r, s = done + i * n_rep + g, done + j * n_rep + g
                    for a in range(w):
                        for b in range(w):
                            total += z[r, a] * Q[code[r, a], code[s, b]] * z[s, b]
                out[start + i * m + j] = total
                out[start + j * m + i] = total
        done += m * n_rep
    return out


@kernel
def derivatives(lay, inverses, gathered, U, columns, B, F, eta, c):
    """dl/dSigma of the effects inside the blocks (flat), dl/deta and dl/dc.

    D = (U omega U' - [V^-1]_bb) / 2 with [V^-1]_bb = V_b^-1 - V_b^-1 (ZQZ')_bb V_b^-1.
    """
    d_Sigma, d_eta, d_c = np.zeros(F.shape[0]), np.zeros(eta.shape[0]), np.zeros(c.shape[0])
    for k in range(lay.m.shape[0]):
        m, here = lay.m[k], slice(lay.v_ptr[k], lay.v_ptr[k + 1])
        V_inverse = inverses[here].reshape(m, m)
        D = _adjoint(lay, k, V_inverse, U[lay.data_ptr[k] : lay.data_ptr[k + 1]], columns, B)
        D += 0.5 * np.dot(V_inverse, np.dot(gathered[here].reshape(m, m), V_inverse))
        _pull_back(lay, k, D, eta, c, d_Sigma, d_eta, d_c)
    return d_Sigma, d_eta, d_c
