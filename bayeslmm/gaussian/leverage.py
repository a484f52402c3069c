"""Variances of rows' random parts given theta, by what is stored of the inverse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import singledispatch

import numpy as np

from bayeslmm.compiling import kernel

from .factor import eliminate
from .rows import FactorRows

#: Entries of right-hand sides that are solved for together.
_RIGHT_HAND_SIDES = 4_000_000


@singledispatch
def effect_variance(problem, state, factors: Sequence[FactorRows]) -> np.ndarray:
    """z_i' (Lambda M^-1 Lambda') z_i of each row, by the type of the problem.

    O(1) look-ups per row and pair of factors. Pairs of levels that never share a row in the data
    have no stored covariance: such rows are solved for, some hundreds at a time.
    """
    return _node_quadratic(state, factors)


def _node_quadratic(state, factors: Sequence[FactorRows], used=None) -> np.ndarray:
    """The same for the nodes of the layout; ``used`` are the factors that take part."""
    symbolic = state.problem.symbolic
    used = range(len(factors)) if used is None else used
    nodes = np.column_stack([symbolic.position[symbolic.base[k] + factors[k].codes] for k in used])
    Z = np.ascontiguousarray(np.concatenate([factors[k].Z for k in used], axis=1))
    offsets = np.concatenate(([0], np.cumsum([factors[k].q for k in used]))).astype(np.int64)
    Qdiag, Qpanel = state._head_inverse
    out = _row_quadratic(
        state.problem.layout, np.ascontiguousarray(nodes), Z, offsets, Qdiag, Qpanel,
        state.tail_covariance,
    )  # fmt: skip
    apart = np.flatnonzero(np.isnan(out))
    if len(apart) and len(used) > 1:
        rows = [FactorRows(f.codes[apart], f.Z[apart], f.n_levels) for f in factors]
        out[apart] = _solved_quadratic(state, rows, list(used))
    return out


def _solved_quadratic(state, factors: Sequence[FactorRows], used: list[int]) -> np.ndarray:
    """z'Qz of rows whose pairs of levels need not have met, Q = Lambda M^-1 Lambda'.

    Q is solved for in the columns of the levels of all factors but the one with most of them,
    some hundreds at a time.
    """
    symbolic = state.problem.symbolic
    largest = max(used, key=lambda k: len(np.unique(factors[k].codes)))
    used = [largest, *(k for k in used if k != largest)]
    at = np.hstack([symbolic.factor_columns(k)[factors[k].codes] for k in used])
    Z = np.hstack([factors[k].Z for k in used])
    q = factors[largest].q
    weighted = Z * np.where(np.arange(Z.shape[1]) < q, 2.0, 1.0)  # both sides of the diagonal
    out = _node_quadratic(state, factors, [largest])
    wanted = np.unique(at[:, q:][Z[:, q:] != 0])
    together = int(np.clip(_RIGHT_HAND_SIDES // max(symbolic.n_columns, 1), 8, 256))
    for start in range(0, len(wanted), together):
        columns = wanted[start : start + together]
        m = len(columns)
        unit = np.zeros((symbolic.n_columns, m))
        unit[columns, np.arange(m)] = 1.0
        values = state.problem.values._replace(
            rhs=unit, gram=np.zeros((m, m)), levels=np.empty((0, 0))
        )
        Q = eliminate(replace(state.problem, values=values), state.F).b
        for j in range(q, at.shape[1]):
            mine = np.flatnonzero(np.isin(at[:, j], columns))
            column = np.searchsorted(columns, at[mine, j])
            products = Q[at[mine], column[:, None]] * weighted[mine]
            out[mine] += Z[mine, j] * products.sum(axis=1)
    return out


@kernel
def _row_quadratic(lay, nodes, Z, offsets, Qdiag, Qpanel, Qtail):
    """(n,) z'Qz; nan for rows of a pair of levels without a stored covariance."""
    n, n_factors = nodes.shape
    n_head = lay.sizes[1]
    head_columns = lay.sizes[2]
    out = np.zeros(n)
    for i in range(n):
        total = 0.0
        for k in range(n_factors):
            e = nodes[i, k]
            q = lay.node_q[e]
            row = lay.node_col[e] - head_columns
            for a in range(q):
                for b in range(q):
                    if e < n_head:
                        entry = Qdiag[lay.diag_ptr[e] + a * q + b]
                    else:
                        entry = Qtail[row + max(a, b), row + min(a, b)]
                    total += Z[i, offsets[k] + a] * entry * Z[i, offsets[k] + b]
            for m in range(k):
                first, second = k, m
                if nodes[i, m] < e:
                    first, second = m, k
                r, s = nodes[i, first], nodes[i, second]
                column = lay.node_col[s]
                if r < n_head:
                    low = lay.pcol_ptr[r]
                    high = lay.pcol_ptr[r + 1]
                    c = np.searchsorted(lay.pcol[low:high], column)
                    stored = low + c < high and lay.pcol[low + c] == column
                    at = lay.panel_ptr[r] + c
                    for a in range(lay.node_q[r]):
                        for b in range(lay.node_q[s]):
                            weight = Z[i, offsets[first] + a] * Z[i, offsets[second] + b]
                            if stored:
                                total += 2 * weight * Qpanel[at + a * (high - low) + b]
                            elif weight != 0.0:
                                total = np.nan
                else:
                    top = lay.node_col[r] - head_columns
                    for a in range(lay.node_q[r]):
                        for b in range(lay.node_q[s]):
                            entry = Qtail[column - head_columns + b, top + a]
                            total += (
                                2 * Z[i, offsets[first] + a] * entry * Z[i, offsets[second] + b]
                            )
        out[i] = total
    return out
