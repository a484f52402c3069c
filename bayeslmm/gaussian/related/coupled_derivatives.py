"""Terms in the derivatives of V, for Kenward-Roger, where levels are related.

With T = Z'V^-1Z over the latent effects, U = Z'V^-1X and V_i = Z (A (x) D_i) Z':
X'V^-1 V_i V^-1 X = U'(A (x) D_i) U, X'V^-1 V_i V^-1 V_j V^-1 X = U'(A (x) D_i) T (A (x) D_j) U
and tr(V^-1 V_i V^-1 V_j) = tr(T (A (x) D_i) T (A (x) D_j)), for which T is formed over the levels
that have rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bayeslmm.gaussian.derivatives import (
    TooManyEffectsError,
    VarianceDerivatives,
    _units,
    _with_residual,
    variance_derivative_terms,
)
from bayeslmm.gaussian.factor import eliminate
from bayeslmm.gaussian.related.coupled import CoupledProblem

#: Effects with rows above which the matrix of traces would not fit in memory or patience.
MAX_EFFECTS = 6000


@variance_derivative_terms.register
def _(problem: CoupledProblem, Ls: Sequence[np.ndarray], sigma: float) -> VarianceDerivatives:
    state = eliminate(problem, problem.flat(Ls) / sigma)
    U = state.U[:, :-1] @ problem.coordinates.G
    information = problem.coordinates.information_to_user(state.S[:-1, :-1])
    units = _units(problem)
    r, p = len(units), problem.p
    related = problem.related(U)
    W = [_times(problem, unit, related) for unit in units]
    P = np.array([U.T @ w for w in W]).reshape(r, p, p)
    Q = np.zeros((r, r, p, p))
    for j in range(r):
        product = _apply(state, W[j])
        for i in range(r):
            Q[i, j] = W[i].T @ product
    trace, first = _traces(problem, state, units)
    return _with_residual(problem, Ls, sigma, information, P, Q, trace, first)


def _times(problem: CoupledProblem, unit, rows: np.ndarray) -> np.ndarray:
    """(I (x) D) on the rows of one factor, zero elsewhere."""
    k, D = unit
    out = np.zeros_like(rows)
    columns = problem.symbolic.factor_columns(k)
    out[columns] = np.einsum("ab,jbp->jap", D, rows[columns])
    return out


def _apply(state, rows: np.ndarray) -> np.ndarray:
    """T rows = B rows - B Lambda M^-1 Lambda'B rows."""
    B = state.problem.matrix
    product = B @ rows
    inner = state.cholesky.solve(state._scaled(product, transpose=True))
    return product - B @ state._scaled(inner)


def _traces(problem: CoupledProblem, state, units) -> tuple[np.ndarray, np.ndarray]:
    """tr(V^-1 V_i V^-1 V_j) and tr(V^-1 V_i), sigma = 1."""
    B = problem.matrix
    touched = np.flatnonzero(B.diagonal() > 0)
    if len(touched) > MAX_EFFECTS:
        raise TooManyEffectsError(f"{len(touched)} effects, more than {MAX_EFFECTS}")
    dense = B[:, touched].toarray()
    half = state.cholesky.half_solve(state._scaled(dense, transpose=True))
    T = np.zeros((B.shape[0], len(touched)))
    T[touched] = dense[touched] - half.T @ half
    R = problem.related(T)[touched]  # (A (x) I) T
    place = np.full(B.shape[0], -1)
    place[touched] = np.arange(len(touched))
    r = len(units)
    K = []
    for k, D in units:
        columns = place[problem.symbolic.factor_columns(k)]
        columns = columns[columns[:, 0] >= 0]
        K.append((columns, np.einsum("ab,jbn->jan", D, R[columns])))
    trace, first = np.zeros((r, r)), np.zeros(r)
    for i, (at, left) in enumerate(K):
        first[i] = np.einsum("jaja->", left[:, :, at])
        for j, (other, right) in enumerate(K):
            trace[i, j] = np.einsum(
                "janb,nbja->", left[:, :, other], right[:, :, at], optimize=True
            )
    return trace, first
