"""What Kenward-Roger and expected information need, without any n x n matrix.

V is linear in phi = (free entries of each Sigma_k, sigma^2).  With T = Z'V^-1Z and U = Z'V^-1X all
of X'V^-1 V_i V^-1 X, X'V^-1 V_i V^-1 V_j V^-1 X and tr(V^-1 V_i V^-1 V_j) follow for entries of the
Sigma_k; sigma^2 enters by homogeneity, V^-1 V_sigma = (I - sum_i phi_i V^-1 V_i) / sigma^2.

T is never formed over the levels of the leading (largest) factor.  With E_j and panels A_jt as in
``_backward``, H_j = E_j A_jt, and Q the conditional covariance of the other factors' effects,

    T_00 = blockdiag(E_j A_jj) - H Q H',   T_0t = H (I - Q A~),   T_tt = A~ - A~ Q A~,

so that every trace is one over the other factors' levels, taken connected component by component.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from itertools import pairwise

import numpy as np

from .factor import eliminate
from .problem import Problem

_ROWS = 8192


class TooManyEffectsError(ValueError):
    """A dense matrix over all related effects would be too large."""


@dataclass(frozen=True)
class VarianceDerivatives:
    """Terms in the derivatives V_i = dV/dphi_i.

    phi is the concatenation of the free entries of each Sigma_k, in the order of theta, and
    sigma^2 (last).  r = len(phi).

    Attributes
    ----------
    phi : (r,) array
    information : (p, p) array
        X'V^-1X.
    P : (r, p, p) array
        X'V^-1 V_i V^-1 X.
    Q : (r, r, p, p) array
        X'V^-1 V_i V^-1 V_j V^-1 X.
    trace : (r, r) array
        tr(V^-1 V_i V^-1 V_j).
    trace_first : (r,) array
        tr(V^-1 V_i).
    """

    phi: np.ndarray
    information: np.ndarray
    P: np.ndarray
    Q: np.ndarray
    trace: np.ndarray
    trace_first: np.ndarray

    def without_sigma(self) -> VarianceDerivatives:
        """The terms of all parameters but sigma^2, for where it is known."""
        return replace(
            self, phi=self.phi[:-1], P=self.P[:-1], Q=self.Q[:-1, :-1], trace=self.trace[:-1, :-1],
            trace_first=self.trace_first[:-1],
        )  # fmt: skip

    def projected_trace(self) -> np.ndarray:
        """(r, r) array tr(R V_i R V_j), R = V^-1 - V^-1X (X'V^-1X)^-1 X'V^-1.

        Half of it is the expected REML information of phi.
        """
        C = np.linalg.inv(self.information)
        CP = C @ self.P
        return (
            self.trace
            - 2.0 * np.einsum("ab,ijba->ij", C, 0.5 * (self.Q + np.swapaxes(self.Q, 0, 1)))
            + np.einsum("iab,jba->ij", CP, CP)
        )


@singledispatch
def variance_derivative_terms(
    problem: Problem, Ls: Sequence[np.ndarray], sigma: float
) -> VarianceDerivatives:
    """All first- and second-order terms in the derivatives of V.

    Parameters
    ----------
    Ls : sequence of (q_k, q_k) arrays
        Absolute lower triangular factors, Sigma_k = L_k L_k'; singular ones are allowed.
    sigma : float
    """
    state = eliminate(problem, problem.flat(Ls) / sigma)
    G = problem.coordinates.G
    U = [u @ G for u in problem.per_level(state.U[:, :-1])]
    information = problem.coordinates.information_to_user(state.S[:-1, :-1])
    units = _units(problem)
    blocks = _blocks(problem, [np.asarray(L, dtype=float) / sigma for L in Ls])
    r, p = len(units), problem.p
    P = np.zeros((r, p, p))
    for i, (k, D) in enumerate(units):
        P[i] = np.einsum("jap,ab,jbs->ps", U[k], D, U[k])
    Q, trace, first = _second_order(blocks, units, U, p)
    return _with_residual(problem, Ls, sigma, information, P, Q, trace, first)


def _with_residual(problem, Ls, sigma, information, P, Q, trace, first) -> VarianceDerivatives:
    """Terms at sigma = 1 in absolute units, the parameter sigma^2 appended by homogeneity."""
    parts = [pattern.pack(L @ L.T) for pattern, L in zip(problem.patterns, Ls, strict=True)]
    n, scale = problem.n, sigma**2
    phi = np.concatenate([*parts, [scale]])
    information, P, Q = information / scale, P / scale**2, Q / scale**3
    trace, first = trace / scale**2, first / scale
    r, p = len(phi) - 1, information.shape[0]
    inner = phi[:-1]
    P_all, Q_all = np.zeros((r + 1, p, p)), np.zeros((r + 1, r + 1, p, p))
    trace_all, first_all = np.zeros((r + 1, r + 1)), np.zeros(r + 1)
    P_all[:r], Q_all[:r, :r], trace_all[:r, :r], first_all[:r] = P, Q, trace, first
    P_all[r] = (information - np.tensordot(inner, P, 1)) / scale
    first_all[r] = (n - inner @ first) / scale
    for i in range(r):
        Q_all[i, r] = (P[i] - np.tensordot(inner, Q[i], 1)) / scale
        Q_all[r, i] = Q_all[i, r].T
        trace_all[i, r] = trace_all[r, i] = (first[i] - inner @ trace[i]) / scale
    Q_all[r, r] = (P_all[r] - np.tensordot(inner, Q_all[r, :r], 1)) / scale
    trace_all[r, r] = (first_all[r] - inner @ trace_all[r, :r]) / scale
    return VarianceDerivatives(phi, information, P_all, Q_all, trace_all, first_all)


def _units(problem: Problem) -> list[tuple[int, np.ndarray]]:
    """Factor and symmetric matrix dSigma_k/dphi_i of every free entry."""
    units = []
    for k, pattern in enumerate(problem.patterns):
        for a, b in zip(*pattern.entries, strict=True):
            D = np.zeros((pattern.q, pattern.q))
            D[a, b] = D[b, a] = 1.0
            units.append((k, D))
    return units


@dataclass(frozen=True)
class _Lead:
    """The leading factor: T_00 = blockdiag(G) - H Q H'."""

    factor: int
    G: np.ndarray  # (J, q, q)
    H: object  # sparse (J q, n_t)


@dataclass(frozen=True)
class _Component:
    """A connected part of the other factors' levels, dense."""

    rows: np.ndarray  # of H, those of the leading levels that touch it
    columns: np.ndarray  # of H
    levels: dict  # factor -> its levels here, and their first local column
    Q: np.ndarray
    R: np.ndarray  # I - Q A~
    T: np.ndarray


def _blocks(problem: Problem, Ls: Sequence[np.ndarray]) -> tuple[_Lead | None, list[_Component]]:
    """Eliminate the leading factor and solve each component of the rest densely."""
    from scipy import sparse
    from scipy.sparse.csgraph import connected_components

    cp = problem.cp
    if not cp.factors:
        return None, []
    sizes = [f.n_levels * f.q for f in cp.factors]
    lead = int(np.argmax(sizes))
    others = [k for k in range(len(sizes)) if k != lead]
    start = dict(zip(others, np.cumsum([0] + [sizes[k] for k in others])[:-1], strict=True))
    n_tail = sum(sizes[k] for k in others)
    A, L = cp.factors[lead].zz, Ls[lead]
    J, q = A.shape[:2]
    E = np.linalg.inv(np.eye(q) + A @ (L @ L.T))
    G = E @ A
    G = 0.5 * (G + np.swapaxes(G, 1, 2))
    K = (L @ L.T) @ E
    across = sparse.csr_array((J * q, n_tail))
    within = sparse.csr_array((n_tail, n_tail))
    for (k, m), pair in cp.pairs.items():
        if lead in (k, m):
            flip = m == lead
            other = k if flip else m
            block = _sparse_pair(pair, flip, (J * q, n_tail), 0, start[other])
            across = across + block
        else:
            block = _sparse_pair(pair, False, (n_tail, n_tail), start[k], start[m])
            within = within + block + block.T
    for k in others:
        within = within + _block_diagonal(cp.factors[k].zz, start[k], n_tail)
    H = (_block_diagonal(E, 0, J * q) @ across).tocsr()
    reduced = (within - across.T @ (_block_diagonal(K, 0, J * q) @ across)).tocsr()
    if not n_tail:
        return _Lead(lead, G, H), []
    # By structure, not by value: at a zero variance the reduced blocks vanish and the links stay.
    # The columns of one level are never split.
    touched = _block_diagonal(np.ones_like(A), 0, J * q) @ abs(across)
    together = touched.T @ touched + abs(within)
    for k in others:
        f = cp.factors[k]
        together = together + _block_diagonal(np.ones_like(f.zz), start[k], n_tail)
    label = connected_components(together, directed=False)[1]
    return _Lead(lead, G, H), _components(cp, Ls, start, reduced, H, q, label)


def _sparse_pair(pair, flip: bool, shape, row0: int, col0: int):
    """One pair of factors as a sparse matrix."""
    from scipy import sparse

    rows, columns, values = pair.rows, pair.columns, pair.values
    if flip:
        rows, columns, values = columns, rows, np.swapaxes(values, 1, 2)
    qa, qb = values.shape[1:]
    i = row0 + rows[:, None, None] * qa + np.arange(qa)[None, :, None] + np.zeros_like(values)
    j = col0 + columns[:, None, None] * qb + np.arange(qb)[None, None, :] + np.zeros_like(values)
    index = (i.ravel().astype(np.int64), j.ravel().astype(np.int64))
    return sparse.coo_array((values.ravel(), index), shape=shape).tocsr()


def _block_diagonal(blocks: np.ndarray, offset: int, size: int):
    """Sparse matrix with (q, q) blocks along the diagonal from ``offset`` on."""
    from scipy import sparse

    J, q = blocks.shape[:2]
    base = offset + np.arange(J)[:, None, None] * q
    i = base + np.arange(q)[None, :, None] + np.zeros_like(blocks, dtype=np.int64)
    j = base + np.arange(q)[None, None, :] + np.zeros_like(blocks, dtype=np.int64)
    return sparse.coo_array((blocks.ravel(), (i.ravel(), j.ravel())), shape=(size, size)).tocsr()


def factor_matrix(symbolic, Ls: Sequence[np.ndarray]):
    """Lambda, sparse block-diagonal with the factor of each level, in elimination order."""
    from scipy import sparse

    rows, columns, values = [], [], []
    for k, L in enumerate(Ls):
        at = symbolic.factor_columns(k)
        for a, b in zip(*np.tril_indices(len(L)), strict=True):
            rows.append(at[:, a])
            columns.append(at[:, b])
            values.append(np.full(len(at), L[a, b]))
    index = (np.concatenate(rows), np.concatenate(columns))
    shape = (symbolic.n_columns, symbolic.n_columns)
    return sparse.coo_array((np.concatenate(values), index), shape=shape).tocsr()


def _components(cp, Ls, start, reduced, H, q, label) -> list[_Component]:
    """Dense Q, R and T of each connected component."""
    order = np.argsort(label, kind="stable")
    bounds = np.searchsorted(label[order], np.arange(label.max() + 2))
    filled = np.diff(H.indptr) > 0
    row_label = np.full(H.shape[0], -1)
    row_label[filled] = label[H.indices[H.indptr[:-1][filled]]]
    # A row of zeros follows the other rows of its level.
    row_label = np.repeat(row_label.reshape(-1, q).max(axis=1), q)
    row_order = np.argsort(row_label, kind="stable")
    row_bounds = np.searchsorted(row_label[row_order], np.arange(label.max() + 2))
    components = []
    for c, (first, last) in enumerate(pairwise(bounds)):
        columns = order[first:last]  # increasing: the columns of a level stay together
        A = reduced[columns][:, columns].toarray()
        A = 0.5 * (A + A.T)
        Lambda = np.zeros_like(A)
        levels = {}
        for k, at in start.items():
            f = cp.factors[k]
            low, high = np.searchsorted(columns, (at, at + f.n_levels * f.q))
            if low < high:
                levels[k] = ((columns[low : high : f.q] - at) // f.q, int(low))
                Lambda[low:high, low:high] = np.kron(np.eye((high - low) // f.q), Ls[k])
        S = np.eye(len(A)) + Lambda.T @ A @ Lambda
        Q = Lambda @ np.linalg.solve(S, Lambda.T)
        Q = 0.5 * (Q + Q.T)
        R = np.eye(len(A)) - Q @ A
        T = A @ R
        rows = row_order[row_bounds[c] : row_bounds[c + 1]]
        components.append(_Component(rows, columns, levels, Q, R, 0.5 * (T + T.T)))
    return components


def _second_order(blocks, units, U, p):
    """Q_ij, trace_ij and tr(V^-1 V_i) for entries of the Sigma_k, sigma = 1."""
    r = len(units)
    Q, trace, first = np.zeros((r, r, p, p)), np.zeros((r, r)), np.zeros(r)
    lead, components = blocks
    if lead is None:
        return Q, trace, first
    here = [i for i, (k, _) in enumerate(units) if k == lead.factor]
    q = lead.G.shape[1]
    B = {i: np.einsum("ab,jbp->jap", units[i][1], U[lead.factor]) for i in here}
    for i in here:
        D = units[i][1]
        first[i] += np.einsum("ab,jba->", D, lead.G)
        for j in here:
            DG = np.einsum("ab,jbc->jac", units[j][1], lead.G)
            trace[i, j] += np.einsum("ab,jbc,jca->", D, lead.G, DG, optimize=True)
            Q[i, j] += np.einsum("jap,jab,jbs->ps", B[i], lead.G, B[j], optimize=True)
    flat = {i: B[i].reshape(lead.H.shape[0], p) for i in here}
    for component in components:
        H = lead.H[component.rows][:, component.columns]
        part = {i: H.T @ flat[i][component.rows] for i in here}
        _add_lead(lead, component, H, here, units, part, q, Q, trace, first)
        _add_others(component, here, units, U, part, Q, trace, first)
    return Q, trace, first


def _add_lead(lead, component, H, here, units, part, q, Q, trace, first) -> None:
    """Terms of two entries of the leading factor, and of one with an entry of another."""
    levels = component.rows[::q] // q
    Y = np.empty((len(levels), q, q))  # H_j Q H_j'
    step = max(1, _ROWS // q)
    for at in range(0, len(levels), step):
        dense = H[at * q : (at + step) * q].toarray()
        product = (dense @ component.Q).reshape(-1, q, dense.shape[1])
        Y[at : at + step] = product @ np.swapaxes(dense.reshape(product.shape), 1, 2)
    G = lead.G[levels]
    phi = {}
    for i in here:
        D = units[i][1]
        first[i] -= np.einsum("ab,jba->", D, Y)
        phi[i] = (H.T @ _block_diagonal(np.broadcast_to(D, Y.shape), 0, H.shape[0]) @ H).toarray()
        for j in here:
            cross = np.einsum("ab,jbc,cd,jda->", D, G, units[j][1], Y, optimize=True)
            cross += np.einsum("ab,jbc,cd,jda->", D, Y, units[j][1], G, optimize=True)
            trace[i, j] -= cross
            Q[i, j] -= part[i].T @ component.Q @ part[j]
    QP = {i: component.Q @ phi[i] for i in here}
    for i in here:
        for j in here:
            trace[i, j] += np.sum(QP[i] * QP[j].T)
        if not component.levels:
            continue
        W = component.R.T @ phi[i] @ component.R
        for j, (k, D) in enumerate(units):
            if k in component.levels:
                count, at = len(component.levels[k][0]), component.levels[k][1]
                value = np.sum(D * _diagonal_sum(W, at, count, len(D)))
                trace[i, j] += value
                trace[j, i] += value


def _diagonal_sum(W: np.ndarray, at: int, count: int, q: int) -> np.ndarray:
    """Sum of the (q, q) diagonal blocks of one factor's levels."""
    square = W[at : at + count * q, at : at + count * q].reshape(count, q, count, q)
    return np.einsum("jajb->ab", square)


def _add_others(component, here, units, U, part, Q, trace, first) -> None:
    """Terms of two entries of factors other than the leading one."""
    tail = [j for j, (k, _) in enumerate(units) if k in component.levels]
    B = {}
    for j in tail:
        k, D = units[j]
        levels, at = component.levels[k]
        first[j] += np.sum(D * _diagonal_sum(component.T, at, len(levels), len(D)))
        B[j] = np.zeros((len(component.columns), U[k].shape[2]))
        B[j][at : at + len(levels) * len(D)] = np.einsum("ab,jbp->jap", D, U[k][levels]).reshape(
            len(levels) * len(D), U[k].shape[2]
        )
    for i in here:
        for j in tail:
            value = part[i].T @ component.R @ B[j]
            Q[i, j] += value
            Q[j, i] += value.T
    for i in tail:
        for j in tail:
            Q[i, j] += B[i].T @ component.T @ B[j]
            trace[i, j] += _pair_trace(component, units[i], units[j])


def _pair_trace(component: _Component, left, right) -> float:
    """tr(D_i T_kl D_j T_lk) over the levels of two factors."""
    (k, Di), (m, Dj) = left, right
    (levels_k, at_k), (levels_m, at_m) = component.levels[k], component.levels[m]
    rows = slice(at_k, at_k + len(levels_k) * len(Di))
    columns = slice(at_m, at_m + len(levels_m) * len(Dj))
    block = component.T[rows, columns].reshape(len(levels_k), len(Di), len(levels_m), len(Dj))
    total = 0.0
    for a, b in np.argwhere(Di):
        for c, d in np.argwhere(Dj):
            total += np.sum(block[:, b, :, c] * block[:, a, :, d])
    return total
