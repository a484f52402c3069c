"""The factorization of a model with a relationship, and what can be asked of it.

Answers the same questions as ``factor.Elimination``.  Here the scaled matrix M itself is
factorized, so with U = Z'V^-1[X y] and u = M^-1 Lambda'Z'W[X y] (sigma = 1)

    U = Z'W[X y] - B Lambda u,      Lambda'U = (G (x) I) u,

and with E_k = dSigma_k the derivatives are sums over *pairs* of related levels, which the second
identity turns into sums over levels: for the gradient D_k in Sigma_k only D_k L_k is ever needed,

    [sum_ij A_ij T_ij] L_k = sum_j [B Lambda M^-1]_jj,
    [sum_ij A_ij U_i omega U_j'] L_k = sum_j U_j omega u_j',

with M^-1 on the pattern of its factor.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bayeslmm.gaussian.derivatives import factor_matrix
from bayeslmm.gaussian.factor import eliminate
from bayeslmm.gaussian.leverage import effect_variance
from bayeslmm.gaussian.related import _coupled
from bayeslmm.gaussian.related.coupled import CoupledProblem, factorize_system
from bayeslmm.gaussian.rows import FactorRows
from bayeslmm.gaussian.sparse import SparseCholesky
from bayeslmm.parts.patterns import lower_factor

#: Added to a singular relative covariance matrix (scaled by its columns) to divide by its root.
_NUDGE = 1e-8
#: Right-hand sides solved at a time.
_CHUNK = 512


@dataclass(frozen=True)
class CoupledElimination:
    """The factorized system at one value of the relative factors.

    Attributes
    ----------
    problem : CoupledProblem
    F : flat relative factors
    cholesky : SparseCholesky
        Of M.
    log_det : float
        log|M| - log|G|.
    S : (p + 1, p + 1) array
        [X y]'V^-1[X y], sigma = 1.
    half : (N, p + 1) array
        C^-1 Lambda'Z'W[X y].
    """

    problem: CoupledProblem
    F: np.ndarray
    cholesky: SparseCholesky
    log_det: float
    S: np.ndarray
    half: np.ndarray

    @property
    def rhs(self) -> np.ndarray:
        """(N, p + 1) array Z'W[X y]."""
        return self.problem.values.rhs

    @cached_property
    def _Ls(self) -> list[np.ndarray]:
        return self.problem.split(self.F, masked=False)

    def _scaled(self, rows: np.ndarray, transpose: bool = False) -> np.ndarray:
        """Lambda or Lambda' times rows in elimination order."""
        rows = np.ascontiguousarray(rows)
        return _coupled.scale_rows(self.problem.values.blocks, self.F, rows, transpose)

    @cached_property
    def _derivatives(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """u, U and the sums of ``_slopes``."""
        pattern, values = self.cholesky.pattern, self.problem.values
        if not pattern.n_tail:
            return _coupled.derivatives_sparse(
                values.blocks, self.F, pattern.ptr, pattern.rows, self.cholesky.head, self.half,
                values.rhs,
            )  # fmt: skip
        u = self.cholesky.half_solve_transposed(self.half)
        slopes = _coupled.slope_sums(
            values.blocks, self.F, pattern.ptr, pattern.n_head, *self.cholesky.inverse
        )
        return u, _coupled.scores(values.blocks, self.F, values.rhs, u), slopes

    @property
    def u(self) -> np.ndarray:
        """(N, p + 1) array M^-1 Lambda'Z'W[X y]."""
        return self._derivatives[0]

    @cached_property
    def b(self) -> np.ndarray:
        """(N, p + 1) array Lambda u: latent effects given beta are b_y - b_X beta."""
        return self._scaled(self.u)

    @property
    def U(self) -> np.ndarray:
        """(N, p + 1) array Z'V^-1[X y], sigma = 1."""
        return self._derivatives[1]

    @property
    def _slopes(self) -> np.ndarray:
        """Per factor [sum_ij A_ij Z_i'V^-1 Z_j] L_k, flat."""
        return self._derivatives[2]

    def derivative_sums(self, omega: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Per factor sum_ij A_ij Z_i'V^-1 Z_j and sum_ij A_ij U_i omega U_j', flat.

        Where L_k is regular both are made by dividing by it; they are only ever multiplied by it
        again.
        """
        blocks = self.problem.values.blocks
        T = self._slopes.copy()
        Q = _coupled.score_sums(blocks, self.U, omega, self.u, len(self.F))
        singular = _coupled.divide_by_factors(blocks, self.F, T)
        _coupled.divide_by_factors(blocks, self.F, Q)
        if singular.any():
            nudged, related = self._nudged(np.flatnonzero(singular)), self.outer_products()
            slopes = nudged._slopes.copy()
            _coupled.divide_by_factors(blocks, nudged.F, slopes)
            ptr = self.problem.layout.f_ptr
            for k in np.flatnonzero(singular):
                part = slice(ptr[k], ptr[k + 1])
                T[part] = slopes[part]
                Q[part] = np.einsum("abps,ps->ab", related[k], omega).ravel()
        return T, Q

    def _nudged(self, singular: np.ndarray) -> CoupledElimination:
        """The same system where singular covariances are made regular by next to nothing."""
        Ls = [L.copy() for L in self._Ls]
        for k in singular:
            scale = self.problem.cp.factors[k].column_scales
            Ls[k] = lower_factor(Ls[k] @ Ls[k].T + _NUDGE * np.diag(1.0 / scale**2))
        return eliminate_coupled(self.problem, self.problem.flat(Ls))

    def outer_products(self) -> list[np.ndarray]:
        """Per factor (q, q, p + 1, p + 1): sum_ij A_ij U_ia U_jb'."""
        related = self.problem.related(self.U)
        out = []
        for k in range(len(self._Ls)):
            columns = self.problem.symbolic.factor_columns(k)
            out.append(np.einsum("jap,jbs->abps", self.U[columns], related[columns], optimize=True))
        return out

    def effect_covariances(self) -> list[np.ndarray]:
        """Blocks of T L M^-1 L'T' of every level, (J_k, q_k, q_k); over sigma^2."""
        out = []
        for k, T in enumerate(self.problem.roots):
            columns = self.problem.symbolic.factor_columns(k)
            if T is None:
                out.append(self._node_covariances(k, columns))
                continue
            J, q = len(T), columns.shape[1]
            blocks = np.empty((J, q, q))
            for start in range(0, J, _CHUNK):
                part = T[start : start + _CHUNK]
                Z = np.zeros((len(self.half), len(part), q))
                for a in range(q):
                    Z[columns[:, a], :, a] = part.T
                half = self._half(Z.reshape(len(self.half), -1)).reshape(Z.shape)
                blocks[start : start + len(part)] = np.einsum("nja,njb->jab", half, half)
            out.append(blocks)
        return out

    def _half(self, Z: np.ndarray) -> np.ndarray:
        """C^-1 Lambda'Z: its columns' squared lengths are conditional variances."""
        return self.cholesky.half_solve(self._scaled(Z, transpose=True))

    def _node_covariances(self, k: int, columns: np.ndarray) -> np.ndarray:
        pattern, L = self.cholesky.pattern, self._Ls[k]
        head, tail = self.cholesky.inverse
        q, first = columns.shape[1], columns[:, 0]
        inside = first < pattern.n_head
        blocks = np.empty((len(columns), q, q))
        for a in range(q):
            for b in range(a + 1):
                at = np.where(inside, first, 0)
                value = np.empty(len(columns))
                value[inside] = head[pattern.ptr[at[inside] + b] + a - b]
                late = first[~inside] - pattern.n_head
                value[~inside] = tail[late + a, late + b]
                blocks[:, a, b] = blocks[:, b, a] = value
        return L @ blocks @ L.T

    def draw_effects(self, fixed: np.ndarray, sigma: float, z: np.ndarray) -> np.ndarray:
        """Latent effects given beta; as ``Elimination.draw_effects``."""
        combine = np.vstack((-fixed, np.ones((1, fixed.shape[1]))))
        noise = self.cholesky.half_solve_transposed(z)
        return self._scaled(self.u @ combine + sigma * noise)

    def row_variance(self, factors: list[FactorRows]) -> np.ndarray:
        """z_i' (T Lambda M^-1 Lambda' T') z_i of each row."""
        if all(T is None for T in self.problem.roots):
            found = self._row_variance_on_pattern(factors)
            if found is not None:
                return found
        n = len(factors[0].codes)
        out = np.empty(n)
        for start in range(0, n, _CHUNK):
            rows = slice(start, min(start + _CHUNK, n))
            Z = np.zeros((len(self.half), rows.stop - rows.start))
            for k, f in enumerate(factors):
                columns, T = self.problem.symbolic.factor_columns(k), self.problem.roots[k]
                for a in range(f.q):
                    if T is None:
                        at = columns[f.codes[rows], a]
                        Z[at, np.arange(Z.shape[1])] += f.Z[rows, a]
                    else:
                        Z[columns[:, a]] += (T[f.codes[rows]] * f.Z[rows, a, None]).T
            out[rows] = np.sum(self._half(Z) ** 2, axis=0)
        return out

    def _row_variance_on_pattern(self, factors: list[FactorRows]) -> np.ndarray | None:
        """From the inverse on the pattern; None where a row joins levels that never met."""
        from scipy import sparse

        n, N = len(factors[0].codes), len(self.half)
        parts = [
            (
                np.tile(np.arange(n), f.q),
                self.problem.symbolic.factor_columns(k)[f.codes].T.ravel(),
                f.Z.T.ravel(),
            )
            for k, f in enumerate(factors)
        ]
        row, column, value = (np.concatenate(x) for x in zip(*parts, strict=True))
        Z = sparse.csr_array((value, (row, column)), shape=(n, N))
        touch = sparse.csr_array((np.ones(len(value)), (row, column)), shape=(n, N))
        inverse = self.problem.blocks_matrix(
            _coupled.inverse_entries(
                self.problem.values.blocks,
                self.cholesky.pattern.ptr,
                self.cholesky.pattern.n_head,
                *self.cholesky.inverse,
            )  # fmt: skip
        )
        pattern = self.problem.blocks_matrix(np.ones(len(self.problem.values.blocks.value)))
        met = np.asarray(((touch @ pattern) * touch).sum(axis=1)).ravel()
        width = len(value) // n
        if np.any(met < width**2 - 0.5):
            return None
        scaled = sparse.csr_array(Z @ factor_matrix(self.problem.symbolic, self._Ls))
        return np.asarray(((scaled @ inverse) * scaled).sum(axis=1)).ravel()


@eliminate.register
def eliminate_coupled(problem: CoupledProblem, F: np.ndarray) -> CoupledElimination:
    """Factorize M at the relative factors ``F``."""
    values, pattern = problem.values, problem.symbolic.pattern
    if not pattern.n_tail:
        log_det, head, half, S = _coupled.eliminate_sparse(
            values.blocks, F, pattern.ptr, pattern.rows, values.rhs, values.gram
        )
        cholesky = SparseCholesky(pattern, head, np.empty((0, 0)), log_det)
    else:
        cholesky = factorize_system(problem, F)
        half = _coupled.scale_rows(values.blocks, F, values.rhs, True)
        if np.isfinite(cholesky.log_det):
            half = cholesky.half_solve(half)
        S = values.gram - half.T @ half
    log_det = cholesky.log_det - problem.log_det_coupling
    return CoupledElimination(problem, F, cholesky, log_det, 0.5 * (S + S.T), half)


@effect_variance.register
def _(problem: CoupledProblem, state, factors) -> np.ndarray:
    """Row variances from the coupled system."""
    return state.row_variance(list(factors))
