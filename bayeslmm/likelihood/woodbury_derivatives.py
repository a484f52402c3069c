"""Derivatives of V in blocks of rows and effects that join them, for Kenward-Roger.

With K = V_b^-1, G = Z'KZ, Q the conditional covariance of the effects outside the blocks,
S = Z'V^-1 Z = EG, E = I - GQ, D_i the derivatives of V_b, H_i = Z'K D_i K Z, and Z C_i Z' the
derivatives in the covariances of the effects outside,

    tr(V^-1 D_i V^-1 D_j) = tr(K D_i K D_j) - 2 tr(Q Z'K D_i K D_j K Z) + tr(Q H_i Q H_j),
    tr(V^-1 Z C_i Z' V^-1 D_j) = tr(C_i E H_j E'),
    tr(V^-1 Z C_i Z' V^-1 Z C_j Z') = tr(C_i S C_j S).
"""

from __future__ import annotations

import numpy as np

from bayeslmm.gaussian import TooManyEffectsError, VarianceDerivatives, single_threaded_blas
from bayeslmm.gaussian.blocks.layout import with_columns
from bayeslmm.gaussian.system import Theta
from bayeslmm.gaussian.woodbury import _kernel
from bayeslmm.gaussian.woodbury.problem import WoodburySystem
from bayeslmm.gaussian.woodbury.state import State
from bayeslmm.likelihood.block_derivatives import (
    _effect_derivatives,
    _natural_parameters,
    _residual_derivatives,
    _second_derivatives,
)

__all__ = ["MAX_EFFECTS", "woodbury_derivatives"]

#: Most effects outside the blocks: some dense matrices over them are kept per parameter.
MAX_EFFECTS = 3000


def woodbury_derivatives(problem: WoodburySystem, theta: Theta, *, log_linear: bool):
    """Terms in the derivatives of V, and those in its second derivatives (or None).

    Of the columns computed with.

    Raises
    ------
    TooManyEffectsError
    """
    outer, p = problem.outer, problem.p
    if outer.size > MAX_EFFECTS:
        raise TooManyEffectsError(f"{outer.size} crossed effects, more than {MAX_EFFECTS}")
    with single_threaded_blas():
        state, U, _ = problem.solved_at(theta)
        U = np.ascontiguousarray(U[:, :p])
        inside = _Inside(problem, state, theta, log_linear)
        units = [
            (k, a, b)
            for k, pattern in enumerate(problem.outer_patterns)
            for a, b in zip(*pattern.entries, strict=True)
        ]
        r = len(units) + inside.count
        moved = np.hstack([*(_outside(problem, u, U) for u in units), *inside.times(U)])
        P = np.einsum("na,nib->iab", U, moved.reshape(-1, r, p), optimize=True)
        Q = np.moveaxis(state.solved(moved)[1].reshape(r, p, r, p), 2, 1)
        trace, first = _traces(problem, state, units, inside)
        information = problem.columns[:, :p].T @ U
        second = inside.second(U, len(units))
    terms = VarianceDerivatives(
        np.concatenate([np.zeros(r - len(inside.natural.phi)), inside.natural.phi]),
        0.5 * (information + information.T), P, Q, trace, first,
    )  # fmt: skip
    return terms, second


def _symmetric_unit(q: int, a: int, b: int) -> np.ndarray:
    E = np.zeros((q, q))
    E[a, b] = E[b, a] = 1.0
    return E


def _outside(problem: WoodburySystem, unit, U: np.ndarray) -> np.ndarray:
    """Z C Z'U of an entry of a covariance outside the blocks, (n, p)."""
    outer, (k, a, b) = problem.outer, unit
    f, here = outer.factors[k], outer.columns[k]
    met = np.zeros((outer.size, U.shape[1]))
    own = (outer.Z.T @ U)[here].reshape(len(f.levels), f.q, -1)
    met[here] = np.matmul(_symmetric_unit(f.q, a, b), f.related(own)).reshape(f.n_columns, -1)
    return outer.Z @ met


class _Inside:
    """Derivatives of V_b, flat per pattern."""

    def __init__(self, problem: WoodburySystem, state: State, theta: Theta, log_linear: bool):
        self.blocks, self.state, self.p = problem.blocks, state, problem.p
        self.natural = _natural_parameters(problem, theta, log_linear)
        self.units = [
            (k, a, b)
            for k, pattern in enumerate(problem.inner.patterns)
            for a, b in zip(*pattern.entries, strict=True)
        ]
        layout = self.blocks.layout
        self.count = len(self.units) + len(self.natural.phi)
        self.D = np.empty((self.count, layout.v_ptr[-1]))
        for k, (start, stop) in enumerate(zip(layout.v_ptr[:-1], layout.v_ptr[1:], strict=True)):
            own = _effect_derivatives(layout, k, self.units)
            D = np.concatenate([own, _residual_derivatives(layout, k, self.natural)])
            self.D[:, start:stop] = D.reshape(self.count, -1)

    def times(self, U: np.ndarray) -> list[np.ndarray]:
        """D_i U, (n, p) each."""
        p = U.shape[1]
        layout = with_columns(self.blocks, p)
        return [_kernel.solve_blocks(layout, D, U.ravel(), p)[0].reshape(-1, p) for D in self.D]

    def traces(self, gathered: np.ndarray):
        """tr(K D_i K D_j) - 2 tr(Q Z'K D_i K D_j K Z), tr(K D_i) - tr(Q H_i), and K D_i K."""
        layout, r = self.blocks.layout, self.count
        trace, first, weighted = np.zeros((r, r)), np.zeros(r), np.empty_like(self.D)
        for m, n_rep, start, stop in zip(
            layout.m, layout.n_rep, layout.v_ptr[:-1], layout.v_ptr[1:], strict=True
        ):
            K = self.state.inverses[start:stop].reshape(m, m)
            KD = K @ self.D[:, start:stop].reshape(r, m, m)
            both, Q = KD @ K, gathered[start:stop].reshape(m, m)
            weighted[:, start:stop] = both.reshape(r, -1)
            trace += n_rep * np.einsum("iab,jba->ij", KD, KD, optimize=True)
            trace -= 2.0 * np.einsum("iab,jbc,ca->ij", KD, both, Q, optimize=True)
            first += n_rep * np.einsum("iaa->i", KD) - np.einsum("iab,ab->i", both, Q)
        return 0.5 * (trace + trace.T), first, weighted

    def second(self, U: np.ndarray, offset: int) -> np.ndarray | None:
        """X'V^-1 V_ij V^-1 X; None where V is linear in all parameters."""
        if self.natural.linear:
            return None
        layout, p, before = self.blocks.layout, self.p, offset + len(self.units)
        r, done = offset + self.count, 0
        out = np.zeros((r * r, p * p))
        for k, (m, n_rep) in enumerate(zip(layout.m, layout.n_rep, strict=True)):
            u = U[done : done + m * n_rep].reshape(m, n_rep, p)
            done += m * n_rep
            G = np.einsum("sra,trb->stab", u, u, optimize=True).reshape(m * m, p * p)
            out += _second_derivatives(layout, k, self.natural, before) @ G
        return out.reshape(r, r, p, p)


def _traces(problem: WoodburySystem, state: State, units, inside: _Inside):
    """tr(V^-1 V_i V^-1 V_j) and tr(V^-1 V_i)."""
    outer, layout, s = problem.outer, problem.blocks.layout, len(units)
    trace, first = np.zeros((s + inside.count,) * 2), np.zeros(s + inside.count)
    gathered = _kernel.gather(layout, state.Q, outer.code, outer.z)
    trace[s:, s:], first[s:], weighted = inside.traces(gathered)
    H = [_kernel.scatter(layout, w, outer.code, outer.z, outer.size) for w in weighted]
    QH = [state.Q @ h for h in H]
    E = np.eye(outer.size) - state.G @ state.Q
    S = E @ state.G
    C = [_times_unit(problem, unit, 0.5 * (S + S.T)) for unit in units]
    columns = [outer.columns[k] for k, _, _ in units]
    for i in range(inside.count):
        for j in range(i + 1):
            trace[s + i, s + j] += np.vdot(QH[i].T, QH[j])
            trace[s + j, s + i] = trace[s + i, s + j]
        EHE = E @ H[i] @ E.T
        for u, unit in enumerate(units):
            mixed = _times_unit(problem, unit, EHE)[:, columns[u]]
            trace[u, s + i] = trace[s + i, u] = np.trace(mixed)
    for u, own in enumerate(columns):
        first[u] = np.trace(C[u][:, own])
        for v, other in enumerate(columns):
            trace[u, v] = np.vdot(C[u][:, other].T, C[v][:, own])
    return trace, first


def _times_unit(problem: WoodburySystem, unit, values: np.ndarray) -> np.ndarray:
    """C_i times the rows of its factor of values (N, N)."""
    k, a, b = unit
    f, rows = problem.outer.factors[k], values[problem.outer.columns[k]]
    moved = np.matmul(_symmetric_unit(f.q, a, b), rows.reshape(len(f.levels), f.q, -1))
    return f.related(moved).reshape(f.n_columns, -1)
