"""What Kenward-Roger needs of a model with a residual variance per cell, without n x n matrices.

The residual parameters psi are the variances s_c^2, in which R is linear, or the coefficients of
the log standard deviations.  With R_i = dR/dpsi_i diagonal, Omega = R^-1, Q the conditional
covariance of the effects, A = Z'Omega Z, B = I - Q A, b_X = Q Z'Omega X, e = X - Z b_X, and the
products under other diagonal weights

    A_i = Z'Omega R_i Omega Z,    S_i = Z'Omega R_i Omega e,

all terms are (D_u = dSigma/dphi_u at every level)

    T = Z'V^-1 Z = A B,    U = Z'V^-1 X = Z'Omega e,
    X'V^-1 R_i V^-1 X = e'Omega R_i Omega e,
    X'V^-1 V_u V^-1 R_i V^-1 X = U'D_u B'S_i,
    X'V^-1 R_i V^-1 R_j V^-1 X = e'Omega R_i Omega R_j Omega e - S_i'Q S_j,
    tr(V^-1 V_u V^-1 R_i) = tr(D_u B'A_i B),
    tr(V^-1 R_i V^-1 R_j) = tr(Omega R_i Omega R_j) - 2 tr(Q Z'Omega R_i Omega R_j Omega Z)
                            + tr(Q A_i Q A_j).

Every product is a sum of the cells' products under some weights.  Q is dense within a connected
component of levels: one large component is a dense matrix, many small ones are a sparse one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bayeslmm.gaussian import TooManyEffectsError, VarianceDerivatives
from bayeslmm.gaussian.cells import _kernel as _cells
from bayeslmm.gaussian.cells.problem import CellProblem
from bayeslmm.gaussian.derivatives import factor_matrix
from bayeslmm.gaussian.system import Theta

__all__ = ["MAX_EFFECTS", "cell_derivatives"]

#: Largest connected set of effects whose covariance is made as one dense matrix.
MAX_EFFECTS = 6000

#: Components of fewer effects are kept together in one sparse matrix.
_SMALL = 200


@dataclass(frozen=True)
class _Products:
    """Products of [Z X] under the weights of cells, effects in elimination order.

    Attributes
    ----------
    A : (N, N) sparse array
        Z'WZ.
    rhs : (N, p) array
        Z'WX.
    gram : (p, p) array
        X'WX.
    """

    A: Any
    rhs: np.ndarray
    gram: np.ndarray

    def rest(self, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Z'We and e'We, e = X - Z b."""
        across = self.A @ b
        both = self.rhs.T @ b
        return self.rhs - across, self.gram - both - both.T + b.T @ across


@dataclass(frozen=True)
class _Maker:
    """Adds up products under weights of cells."""

    problem: CellProblem

    @cached_property
    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and column in Z'WZ of every entry of the flat vector."""
        return _cells.matrix_places(self.problem.layout, self.problem.products.starts)

    def __call__(self, weights: np.ndarray) -> _Products:
        from scipy import sparse

        products, p = self.problem.products, self.problem.p
        starts, N = products.starts, self.problem.whole.symbolic.n_columns
        flat = _cells.add_up(
            products.ptr, products.index, products.data, weights, products.starts[-1]
        )
        rows, columns = self.places
        at = np.flatnonzero((flat[: starts[3]] != 0) & (rows >= 0))
        i, j, v = rows[at], columns[at], flat[at]
        panel = (at >= starts[1]) & (at < starts[2])  # one triangle only
        A = sparse.coo_array(
            (
                np.concatenate((v, v[panel])),
                (np.concatenate((i, j[panel])), np.concatenate((j, i[panel]))),
            ),
            shape=(N, N),
        )
        rhs = flat[starts[3] : starts[4]].reshape(N, p + 1)[:, :p]
        return _Products(A.tocsr(), rhs, flat[starts[4] :].reshape(p + 1, p + 1)[:p, :p])


def cell_derivatives(
    problem: CellProblem, theta: Theta, *, log_linear: bool = False
) -> tuple[VarianceDerivatives, np.ndarray | None]:
    """All first- and second-order terms in the derivatives of V, of the columns computed with.

    Parameters
    ----------
    log_linear : bool
        Whether the residual parameters are eta rather than the cells' variances.

    Returns
    -------
    terms : VarianceDerivatives
        phi is the free entries of each Sigma_k, then the residual parameters.
    second : (r, r, p, p) array or None
        X'V^-1 V_ij V^-1 X, where V is not linear in phi.

    Raises
    ------
    TooManyEffectsError
        If more than :data:`MAX_EFFECTS` effects are connected.
    """
    make, p, C = _Maker(problem), problem.p, problem.contrasts
    w, counts = problem.cell_weights(theta.eta), problem.products.counts
    slopes = 2.0 * C / w[:, None] if log_linear else C  # ds_c^2 / dpsi
    base = make(w)
    units = _units(problem)
    m, s = len(units), slopes.shape[1]
    parts = _components(problem, theta, base, units)
    b = sum((part.spread(part.Q @ base.rhs[part.columns]) for part in parts),
            np.zeros((len(base.rhs), p)))  # fmt: skip
    U, information = base.rest(b)[0], base.gram - b.T @ base.rhs
    first_products = [make(slopes[:, i] * w**2) for i in range(s)]
    S, own = zip(*(product.rest(b) for product in first_products), strict=True)
    r = m + s
    P, Q = np.zeros((r, p, p)), np.zeros((r, r, p, p))
    trace, first = np.zeros((r, r)), np.zeros(r)
    P[m:] = own
    first[m:] = slopes.T @ (counts * w)
    for i in range(s):
        for j in range(i + 1):
            shared = slopes[:, i] * slopes[:, j]
            if not np.any(shared):
                continue
            product = make(shared * w**3)
            Q[m + i, m + j] = product.rest(b)[1]
            trace[m + i, m + j] = shared @ (counts * w**2)
            for part in parts:
                trace[m + i, m + j] -= 2.0 * part.against(part.Q, part.take(product.A))
            if i != j:
                Q[m + j, m + i] = Q[m + i, m + j].T
                trace[m + j, m + i] = trace[m + i, m + j]
    for part in parts:
        part.add(U, S, [product.A for product in first_products], P, Q, trace, first)
    second = None
    if log_linear:
        second = np.zeros((r, r, p, p))
        for i in range(s):
            for j in range(i + 1):
                value = make(4.0 * C[:, i] * C[:, j] * w).rest(b)[1]
                second[m + i, m + j] = second[m + j, m + i] = value
    phi = [np.zeros(0)]
    for pattern, Sigma in zip(problem.patterns, problem.covariances(theta.F), strict=True):
        phi.append(pattern.pack(Sigma))
    phi.append(theta.eta if log_linear else 1.0 / w)
    return VarianceDerivatives(np.concatenate(phi), information, P, Q, trace, first), second


def _units(problem: CellProblem) -> list:
    """dV/dphi as Z D Z': sparse D for every free entry of every Sigma_k."""
    from scipy import sparse

    N, units = problem.whole.symbolic.n_columns, []
    for k, pattern in enumerate(problem.patterns):
        columns = problem.whole.symbolic.factor_columns(k)
        for a, b in zip(*pattern.entries, strict=True):
            i, j = columns[:, a], columns[:, b]
            if a != b:
                i, j = np.concatenate((i, j)), np.concatenate((j, i))
            units.append(sparse.coo_array((np.ones(len(i)), (i, j)), shape=(N, N)).tocsr())
    return units


@dataclass(frozen=True)
class _Part:
    """Effects that are not connected with any others.

    Attributes
    ----------
    columns : (N_part,) int array
        In elimination order.
    n : int
        N, effects in all.
    Q : (N_part, N_part) array, dense or sparse
    B, T : the same kind
        I - Q A and Z'V^-1 Z.
    units : list of sparse arrays
        D_u of the columns.
    """

    columns: np.ndarray
    n: int
    Q: Any
    B: Any
    T: Any
    units: list

    def spread(self, rows: np.ndarray) -> np.ndarray:
        """Rows of these effects among those of all."""
        out = np.zeros((self.n, rows.shape[1]))
        out[self.columns] = rows
        return out

    def take(self, A):
        """Rows and columns of these effects."""
        return A if len(self.columns) == self.n else A[self.columns][:, self.columns]

    @staticmethod
    def against(X, Y) -> float:
        """Sum of X_ij Y_ij."""
        if isinstance(X, np.ndarray):
            return float(np.vdot(X, Y)) if isinstance(Y, np.ndarray) else float((Y * X).sum())
        return float((X * Y).sum())

    def add(self, U, S, A, P, Q, trace, first) -> None:
        """Add this part's terms; U, S and A are of all effects."""
        m, U = len(self.units), U[self.columns]
        S = [rows[self.columns] for rows in S]
        A = [self.take(part) for part in A]
        DU = [D @ U for D in self.units]
        DT = [D @ self.T for D in self.units]
        for u in range(m):
            P[u] += U.T @ DU[u]
            first[u] += self.against(self.T, self.units[u])
            TDU = self.T @ DU[u]
            for v in range(m):
                Q[v, u] += DU[v].T @ TDU
                trace[u, v] += self.against(DT[u], DT[v].T)
        AQ: list[Any] = []
        for i in range(len(A)):
            first[m + i] -= self.against(self.Q, A[i])
            if not A[i].nnz:
                AQ.append(None)
                continue
            BS, AB = self.B.T @ S[i], A[i] @ self.B
            AQ.append(A[i] @ self.Q)
            for u in range(m):
                value = DU[u].T @ BS
                Q[u, m + i] += value
                Q[m + i, u] += value.T
                mixed = self.against(self.B @ self.units[u], AB)
                trace[u, m + i] += mixed
                trace[m + i, u] += mixed
        for i in range(len(A)):
            QS = self.Q @ S[i]
            for j in range(len(A)):
                Q[m + j, m + i] -= S[j].T @ QS
                if j <= i and AQ[i] is not None and AQ[j] is not None:
                    both = self.against(AQ[i], AQ[j].T)
                    trace[m + i, m + j] += both
                    if i != j:
                        trace[m + j, m + i] += both


def _components(problem: CellProblem, theta: Theta, base: _Products, units) -> list[_Part]:
    """Q of every large component, and of all small ones together."""
    from scipy import sparse
    from scipy.sparse.csgraph import connected_components

    N = base.A.shape[0]
    if N == 0:
        return []
    Lambda = factor_matrix(problem.whole.symbolic, problem.split(theta.F))
    together = abs(base.A) + sum(
        units, sparse.csr_array((N, N))
    )  # columns of a level stay together
    label = connected_components(together, directed=False)[1]
    sizes = np.bincount(label)
    if sizes.max() > MAX_EFFECTS:
        raise TooManyEffectsError(f"{sizes.max()} connected effects, more than {MAX_EFFECTS}")
    M = (sparse.eye_array(N) + Lambda.T @ base.A @ Lambda).tocsr()
    small = sizes[label] <= _SMALL
    groups = [np.flatnonzero(label == c) for c in np.flatnonzero(sizes > _SMALL)]
    parts = [(columns, np.linalg.inv(M[columns][:, columns].toarray())) for columns in groups]
    if small.any():
        columns = np.flatnonzero(small)
        parts.append((columns, _small_inverses(M[columns][:, columns], label[columns])))
    found = []
    for columns, inverse in parts:
        L, A = Lambda[columns][:, columns], base.A[columns][:, columns]
        Q = L @ inverse @ L.T
        Q = 0.5 * (Q + Q.T)
        eye = sparse.eye_array(len(columns)) if sparse.issparse(Q) else np.eye(len(columns))
        B = eye - (A @ Q).T
        own = [D[columns][:, columns] for D in units]
        found.append(_Part(columns, N, Q, B, A @ B, own))
    return found


def _small_inverses(M, label: np.ndarray):
    """Inverse of a block-diagonal matrix, blocks of the same size at once."""
    from scipy import sparse

    order = np.argsort(label, kind="stable")
    sizes = np.unique(label[order], return_counts=True)[1]
    starts = np.concatenate(([0], np.cumsum(sizes)))[:-1]
    rank = np.empty(len(label), dtype=np.int64)
    rank[order] = np.repeat(np.arange(len(sizes)), sizes)
    place = np.empty(len(label), dtype=np.int64)
    place[order] = np.arange(len(label)) - np.repeat(starts, sizes)
    entries = M.tocoo()
    i, j = entries.coords
    parts = []
    for size in np.unique(sizes):
        mine = np.flatnonzero(sizes == size)
        number = np.full(len(sizes), -1)
        number[mine] = np.arange(len(mine))
        blocks = np.zeros((len(mine), size, size))
        at = sizes[rank[i]] == size
        blocks[number[rank[i[at]]], place[i[at]], place[j[at]]] = entries.data[at]
        columns = order[starts[mine][:, None] + np.arange(size)]
        rows = np.broadcast_to(columns[:, :, None], blocks.shape)
        parts.append((np.linalg.inv(blocks).ravel(), rows.ravel(), np.swapaxes(rows, 1, 2).ravel()))
    v, i, j = (np.concatenate(part) for part in zip(*parts, strict=True))
    return sparse.coo_array((v, (i, j)), shape=M.shape).tocsr()
