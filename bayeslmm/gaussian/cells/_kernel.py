"""Cross-products cell by cell, added up under one weight per cell, and their second moments.

The numbers of ``gaussian.problem.Values`` stand one after the other in one flat vector: diagonal
blocks, panels, dense tail, right-hand sides, Gram matrix.  Each cell keeps the entries that its own
rows touch: ``index[ptr[c]:ptr[c + 1]]`` and ``data`` likewise.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bayeslmm.compiling import Doubles, Integers, Matrix, kernel
from bayeslmm.gaussian._backward import derivative_sums, effects, inverse_blocks
from bayeslmm.gaussian._coefficients import CoefficientPrior, n_columns, statistics
from bayeslmm.gaussian._elimination import eliminate_head
from bayeslmm.gaussian.problem import Values
from bayeslmm.gaussian.symbolic import Layout


class CellProducts(NamedTuple):
    """Cross-products of [Z X y] of every cell.

    Attributes
    ----------
    ptr : (cells + 1,) int array
    index : (nnz,) int array
    data : (nnz,) array
    starts : (6,) int array
        Sections of the flat vector.
    counts : (cells,) array
        Rows of each cell.
    contrasts : (cells, s) array
        Log standard deviations of the cells are contrasts @ eta.
    sum_log_weights : float
        sum log w_i of the prior weights.
    """

    ptr: Integers
    index: Integers
    data: Doubles
    starts: Integers
    counts: Doubles
    contrasts: Matrix
    sum_log_weights: float


class CellArguments(NamedTuple):
    """What :func:`evaluate_head` takes beside theta.

    Attributes
    ----------
    cells : CellProducts
    layout : Layout
    prior : CoefficientPrior
    """

    cells: CellProducts
    layout: Layout
    prior: CoefficientPrior


@kernel
def section_starts(lay, columns):
    """Where diagonal blocks, panels, tail, right-hand sides and Gram matrix start, and the end."""
    out = np.zeros(6, dtype=np.int64)
    n_tail = lay.sizes[3]
    out[1] = lay.diag_ptr[-1]
    out[2] = out[1] + lay.panel_ptr[-1]
    out[3] = out[2] + n_tail * n_tail
    out[4] = out[3] + lay.node_col[-1] * columns
    out[5] = out[4] + columns * columns
    return out


@kernel
def _contributions(lay, starts, nodes, Z, z_ptr, R, weight, places, values):
    """Positions and values that one row adds to the flat vector; their number."""
    n_head, head_columns, n_tail = lay.sizes[1], lay.sizes[2], lay.sizes[3]
    columns = R.shape[0]
    count = 0
    for k in range(nodes.shape[0]):
        e = nodes[k]
        q = lay.node_q[e]
        row = lay.node_col[e]
        for a in range(q):
            z = weight * Z[z_ptr[k] + a]
            for b in range(q):
                places[count] = lay.diag_ptr[e] + a * q + b
                values[count] = z * Z[z_ptr[k] + b]
                count += 1
                if e >= n_head:
                    at = row - head_columns
                    places[count] = starts[2] + (at + a) * n_tail + at + b
                    values[count] = z * Z[z_ptr[k] + b]
                    count += 1
            for c in range(columns):
                places[count] = starts[3] + (row + a) * columns + c
                values[count] = z * R[c]
                count += 1
        for m in range(k):
            first, second = k, m
            if nodes[m] < e:
                first, second = m, k
            r, s = nodes[first], nodes[second]
            column = lay.node_col[s]
            width, at, c = 0, 0, 0
            if r < n_head:
                low = lay.pcol_ptr[r]
                width = lay.pcol_ptr[r + 1] - low
                c = np.searchsorted(lay.pcol[low : low + width], column)
                at = starts[1] + lay.panel_ptr[r] + c
            for a in range(lay.node_q[r]):
                z = weight * Z[z_ptr[first] + a]
                for b in range(lay.node_q[s]):
                    v = z * Z[z_ptr[second] + b]
                    if r < n_head:
                        places[count] = at + a * width + b
                        values[count] = v
                        count += 1
                        continue
                    i = lay.node_col[r] - head_columns + a
                    j = column - head_columns + b
                    places[count] = starts[2] + i * n_tail + j
                    values[count] = v
                    places[count + 1] = starts[2] + j * n_tail + i
                    values[count + 1] = v
                    count += 2
    for i in range(columns):
        for j in range(columns):
            places[count] = starts[4] + i * columns + j
            values[count] = weight * R[i] * R[j]
            count += 1
    return count


@kernel
def _row_size(lay, z_ptr, columns):
    """The most entries that one row touches."""
    total = z_ptr[-1]
    return 2 * total * total + total * columns + columns * columns


@kernel
def count_entries(lay, nodes, Z, z_ptr, R, weights, order, cell_ptr):
    """Start of each cell's entries, and their number, (cells + 1,); see :func:`accumulate`."""
    columns = R.shape[1]
    starts = section_starts(lay, columns)
    size = _row_size(lay, z_ptr, columns)
    places, values = np.empty(size, np.int64), np.empty(size)
    stamp = np.full(starts[5], -1)
    ptr = np.zeros(cell_ptr.shape[0], np.int64)
    for c in range(cell_ptr.shape[0] - 1):
        total = 0
        for t in range(cell_ptr[c], cell_ptr[c + 1]):
            i = order[t]
            count = _contributions(
                lay, starts, nodes[i], Z[i], z_ptr, R[i], weights[i], places, values
            )
            for s in range(count):
                if stamp[places[s]] != c:
                    stamp[places[s]] = c
                    total += 1
        ptr[c + 1] = ptr[c] + total
    return ptr


@kernel
def accumulate(lay, nodes, Z, z_ptr, R, weights, order, cell_ptr, ptr):
    """Products of [Z X y] of every cell.

    Parameters
    ----------
    nodes : (n, K) int array
        Node of each row's level of each factor.
    Z : (n, sum q_k) array
    z_ptr : (K + 1,) int array
    R : (n, p + 1) array
        [X y], shifted.
    weights : (n,) array
    order : (n,) int array
        Rows, cell after cell.
    cell_ptr : (cells + 1,) int array
    ptr : (cells + 1,) int array
        Of :func:`count_entries`.

    Returns
    -------
    index and data (nnz,)
    """
    columns = R.shape[1]
    starts = section_starts(lay, columns)
    size = _row_size(lay, z_ptr, columns)
    places, values = np.empty(size, np.int64), np.empty(size)
    index, data = np.empty(ptr[-1], np.int64), np.empty(ptr[-1])
    stamp, slot = np.full(starts[5], -1), np.empty(starts[5], np.int64)
    for c in range(cell_ptr.shape[0] - 1):
        at = ptr[c]
        for t in range(cell_ptr[c], cell_ptr[c + 1]):
            i = order[t]
            count = _contributions(
                lay, starts, nodes[i], Z[i], z_ptr, R[i], weights[i], places, values
            )
            for s in range(count):
                place = places[s]
                if stamp[place] != c:
                    stamp[place] = c
                    slot[place] = at
                    index[at], data[at] = place, values[s]
                    at += 1
                else:
                    data[slot[place]] += values[s]
    return index, data


@kernel
def add_up(ptr, index, data, w, size):
    """sum_c w_c products_c, flat."""
    out = np.zeros(size)
    for c in range(w.shape[0]):
        for t in range(ptr[c], ptr[c + 1]):
            out[index[t]] += w[c] * data[t]
    return out


@kernel
def against(ptr, index, data, moments):
    """Sum of each cell's products against a flat vector, (cells,)."""
    out = np.zeros(ptr.shape[0] - 1)
    for c in range(out.shape[0]):
        total = 0.0
        for t in range(ptr[c], ptr[c + 1]):
            total += data[t] * moments[index[t]]
        out[c] = total
    return out


@kernel
def second_moments(lay, b, omega, Qdiag, Qpanel, tail):
    """Flat vector whose sum against the products of rows is their expected squared residuals.

    With v = (-beta, 1), b = B v + noise of covariance Q and E[v v'] = omega,

        E |y - X beta - Z b|^2 = <[X y]'[X y], omega> - 2 <Z'[X y], B omega>
                                 + <Z'Z, Q + B omega B'>.

    Parameters
    ----------
    b : (N, p + 1) array
        B, in elimination order.
    Qdiag, Qpanel : flat arrays
        Q on the pattern of the head.
    tail : (n_tail, n_tail) array
        Q of the tail, lower triangle.
    """
    n_head, head_columns, n_tail = lay.sizes[1], lay.sizes[2], lay.sizes[3]
    columns = omega.shape[0]
    starts = section_starts(lay, columns)
    out = np.zeros(starts[5])  # the tail's diagonal blocks count once: where they are in the tail
    BO = np.dot(b, omega)
    for e in range(n_head):
        q, row, at = lay.node_q[e], lay.node_col[e], lay.diag_ptr[e]
        low = lay.pcol_ptr[e]
        width = lay.pcol_ptr[e + 1] - low
        p_at = lay.panel_ptr[e]
        for a in range(q):
            for d in range(q):
                total = Qdiag[at + a * q + d]
                for c in range(columns):
                    total += BO[row + a, c] * b[row + d, c]
                out[at + a * q + d] = total
            for i in range(width):
                total = Qpanel[p_at + a * width + i]
                column = lay.pcol[low + i]
                for c in range(columns):
                    total += BO[row + a, c] * b[column, c]
                out[starts[1] + p_at + a * width + i] = 2.0 * total
    if n_tail:
        product = np.dot(BO[head_columns:], b[head_columns:].T)
        for i in range(n_tail):
            for j in range(i + 1):
                total = product[i, j] + tail[i, j]
                out[starts[2] + i * n_tail + j] = total
                out[starts[2] + j * n_tail + i] = total
    for i in range(b.shape[0]):
        for c in range(columns):
            out[starts[3] + i * columns + c] = -2.0 * BO[i, c]
    for i in range(columns):
        for c in range(columns):
            out[starts[4] + i * columns + c] = omega[i, c]
    return out


@kernel
def combined(cells, lay, columns, w):
    """``Values`` of all cells under weights w."""
    s = cells.starts
    n_tail = lay.sizes[3]
    flat = add_up(cells.ptr, cells.index, cells.data, w, s[5])
    return Values(
        flat[: s[1]],
        flat[s[1] : s[2]],
        flat[s[2] : s[3]].reshape((n_tail, n_tail)),
        flat[s[3] : s[4]].reshape((lay.node_col[-1], columns)),
        flat[s[4] :].reshape((columns, columns)),
        np.empty((0, 0)),
    )


@kernel
def cell_weights(contrasts, eta):
    """w_c = s_c^-2, and log|R| up to the prior weights per row of each cell."""
    log_s = np.zeros(contrasts.shape[0])
    for c in range(contrasts.shape[0]):
        for i in range(eta.shape[0]):
            if contrasts[c, i] != 0.0:
                log_s[c] += contrasts[c, i] * eta[i]
    return np.exp(-2.0 * log_s), 2.0 * log_s


@kernel
def evaluate_head(cells, lay, F, eta, prior, ml, want_gradient):
    """Log-likelihood, its derivatives in every Sigma_k (flat) and in eta, and ``slopes``; no dense
    tail.
    """
    columns = n_columns(prior)
    D, d_eta = np.full(F.shape[0], np.nan), np.full(eta.shape[0], np.nan)
    w, log_variance = cell_weights(cells.contrasts, eta)
    if not (np.all(np.isfinite(w)) and np.all(w > 0.0)):
        return np.nan, D, d_eta, np.empty(0)
    log_det_R, n = -cells.sum_log_weights, 0
    for c in range(w.shape[0]):
        log_det_R += cells.counts[c] * log_variance[c]
        n += int(cells.counts[c])
    val = combined(cells, lay, columns, w)
    log_det, roots, K, diag, panel, rhs, S = eliminate_head(lay, val, F)
    value, _, _, B, slopes = statistics(S, log_det + log_det_R, n, prior, ml)
    if not want_gradient or not np.isfinite(value):
        return value, D, d_eta, slopes
    omega = np.dot(B, B.T)
    b = np.empty(rhs.shape)
    U = effects(lay, diag, panel, rhs, roots, F, b)
    T, Q = np.zeros(F.shape[0]), np.zeros(F.shape[0])
    none = np.empty(0)
    derivative_sums(lay, diag, panel, roots, K, F, U, omega, none, T, Q)
    Qdiag, Qpanel = inverse_blocks(lay, panel, K, none)
    moments = second_moments(lay, b, omega, Qdiag, Qpanel, np.empty((0, 0)))
    return value, 0.5 * (Q - T), slope_in_eta(cells, w, moments), slopes


@kernel
def slope_in_eta(cells, w, moments):
    """dl / deta from dl / dlog s_c = w_c E_c - n_c."""
    squares = against(cells.ptr, cells.index, cells.data, moments)
    out = np.zeros(cells.contrasts.shape[1])
    for c in range(w.shape[0]):
        slope = w[c] * squares[c] - cells.counts[c]
        for i in range(out.shape[0]):
            out[i] += cells.contrasts[c, i] * slope
    return out


@kernel
def matrix_places(lay, starts):
    """Row and column in Z'Z, in elimination order, of each entry of the flat vector.

    Panels are one triangle; the tail's diagonal blocks are there a second time, at row -1.
    """
    n_head, head_columns, n_tail = lay.sizes[1], lay.sizes[2], lay.sizes[3]
    rows, columns = np.full(starts[3], -1), np.full(starts[3], -1)
    for e in range(n_head):
        q, first = lay.node_q[e], lay.node_col[e]
        for a in range(q):
            for b in range(q):
                rows[lay.diag_ptr[e] + a * q + b] = first + a
                columns[lay.diag_ptr[e] + a * q + b] = first + b
        low = lay.pcol_ptr[e]
        width = lay.pcol_ptr[e + 1] - low
        for a in range(q):
            for i in range(width):
                at = starts[1] + lay.panel_ptr[e] + a * width + i
                rows[at] = first + a
                columns[at] = lay.pcol[low + i]
    for i in range(n_tail):
        for j in range(n_tail):
            rows[starts[2] + i * n_tail + j] = head_columns + i
            columns[starts[2] + i * n_tail + j] = head_columns + j
    return rows, columns
