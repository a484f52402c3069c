"""The factorization at given relative factors L_k, and what can be asked of it.

`eliminate` gives log|M| and S = [X y]'V^-1[X y] (sigma = 1); an `Elimination` then answers, without
another pass over the data, for effects, derivative sums, inverse blocks and draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, singledispatch

import numpy as np

from . import _backward, _elimination, _lapack, _tail
from ._small import invertible_factors
from .problem import Problem

#: Below this, I - S^-1 has lost so many digits that T is computed another way.
_LOST_DIGITS = 1e-7


@dataclass(frozen=True)
class Elimination:
    """The eliminated system at one value of the relative factors.

    Attributes
    ----------
    problem : Problem
    F : flat relative factors
    log_det : float
        log|M| = log|V| with sigma = 1 and unit weights' logs left out; nan if the factorization
        failed.
    S : (p + 1, p + 1) array
        [X y]'V^-1[X y], in the coordinates computed with, sigma = 1.
    roots, K, diag, panel, rhs
        Flat per-node arrays, see ``_elimination``.
    tail_factor : (n_tail, n_tail) array
        Lower Cholesky factor of the scaled Schur complement (upper triangle meaningless).
    tail_solution : (n_tail, p + 1) array
        S_t^-1 Lambda_t'Z_t'B^-1[X y].
    """

    problem: Problem
    F: np.ndarray
    log_det: float
    S: np.ndarray
    roots: np.ndarray
    K: np.ndarray
    diag: np.ndarray
    panel: np.ndarray
    rhs: np.ndarray
    tail_factor: np.ndarray
    tail_solution: np.ndarray

    @cached_property
    def _tail_invertible(self) -> np.ndarray:
        """Per factor: L_k can be divided by."""
        return invertible_factors(self.problem.layout, self.F)

    @cached_property
    def _raw_tail(self) -> np.ndarray:
        """Unscaled Schur complement of the tail, symmetric; only asked for near a boundary."""
        tail = _remaining_tail(self.problem, self.panel, self.roots, self.F)
        _tail.symmetrize_lower(tail)
        return tail

    @cached_property
    def tail_inverse(self) -> np.ndarray:
        """Lower triangle of the inverse of the scaled Schur complement."""
        inverse = self.tail_factor.copy()
        if len(inverse):
            _lapack.cholesky_inverse(inverse)
        return inverse

    @cached_property
    def tail_covariance(self) -> np.ndarray:
        """Q_tt = Lambda_t S_t^-1 Lambda_t', lower triangle."""
        covariance = self.tail_inverse.copy()
        _elimination.scale_tail(self.problem.layout, covariance, self.F, False)
        return covariance

    @cached_property
    def _tail_products(self) -> np.ndarray:
        """A_jt Q_tt of the head nodes, in the layout of the panels; empty without head or tail."""
        if not (len(self.panel) and len(self.tail_factor)):
            return np.empty(0)
        if self.problem.symbolic.dense_head:
            panels = self.panel.reshape(-1, len(self.tail_factor))
            return _lapack.times_symmetric(panels, self.tail_covariance).ravel()
        symbolic = self.problem.symbolic
        return _tail.head_products(
            symbolic.layout, symbolic.tail_rows, self.panel, self.tail_covariance
        )

    @cached_property
    def _effects(self) -> tuple[np.ndarray, np.ndarray]:
        lay = self.problem.layout
        head = int(lay.sizes[2])
        b = np.empty(self.rhs.shape)
        b[head:] = _elimination.scale_rows(lay, self.tail_solution, self.F, False)
        U = np.empty(self.rhs.shape)
        U[:head] = _backward.effects(lay, self.diag, self.panel, self.rhs, self.roots, self.F, b)
        if len(self.tail_factor):
            used = np.zeros(len(self._tail_invertible), dtype=bool)
            used[np.unique(lay.node_factor[lay.sizes[1] :])] = True
            if np.all(self._tail_invertible[used]):
                U[head:] = _tail.solve_scaled(lay, self.tail_solution, self.F)
            else:
                U[head:] = self.rhs[head:] - self._raw_tail @ b[head:]
        return b, U

    @property
    def b(self) -> np.ndarray:
        """(N, p + 1) array L M^-1 L'Z'W[X y]: effects given beta are b_y - b_X beta."""
        return self._effects[0]

    @property
    def U(self) -> np.ndarray:
        """(N, p + 1) array Z'V^-1[X y], sigma = 1, rows in elimination order."""
        return self._effects[1]

    def derivative_sums(self, omega: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Per factor sum_j Z_j'V^-1 Z_j and sum_j U_j omega U_j', flat with the layout of F."""
        lay = self.problem.layout
        T, Q = np.zeros(len(self.F)), np.zeros(len(self.F))
        if len(self.tail_factor):
            tail_U = self.U[int(lay.sizes[2]) :]
            _tail.tail_sums(lay, self._tail_blocks, tail_U, omega, T, Q)
        _backward.derivative_sums(
            lay, self.diag, self.panel, self.roots, self.K, self.F, self.U, omega,
            self._tail_products, T, Q,
        )  # fmt: skip
        return T, Q

    @cached_property
    def _tail_blocks(self) -> np.ndarray:
        """T_rr of the tail's nodes, flat."""
        lay = self.problem.layout
        n_head, head = int(lay.sizes[1]), int(lay.sizes[2])
        T = np.empty(int(lay.diag_ptr[-1] - lay.diag_ptr[n_head]))
        lost = _tail.tail_blocks(
            lay, self.tail_inverse, self.F, self.problem.values.diag, self._tail_invertible,
            _LOST_DIGITS, T,
        )  # fmt: skip
        nodes = n_head + np.flatnonzero(lost)
        if len(nodes):
            start = lay.diag_ptr[n_head]
            q = lay.node_q[nodes]
            columns = np.concatenate(
                [np.arange(lay.node_col[r], lay.node_col[r + 1]) - head for r in nodes]
            )
            rows = self._raw_tail[columns]
            covariance = self.tail_covariance.copy()
            _tail.symmetrize_lower(covariance)
            product = rows @ covariance
            first = np.concatenate(([0], np.cumsum(q)))
            for i, r in enumerate(nodes):
                part = slice(first[i], first[i + 1])
                block = rows[part][:, columns[part]] - product[part] @ rows[part].T
                at = lay.diag_ptr[r] - start
                T[at : at + q[i] * q[i]] = (0.5 * (block + block.T)).ravel()
        return T

    @cached_property
    def _head_inverse(self) -> tuple[np.ndarray, np.ndarray]:
        """Q on the pattern of the head: diagonal blocks and panels, flat."""
        return _backward.inverse_blocks(
            self.problem.layout, self.panel, self.K, self._tail_products
        )

    def effect_covariances(self) -> list[np.ndarray]:
        """Cov(b_j | y, beta) over sigma^2, (J_k, q_k, q_k) each: diagonal blocks of L M^-1 L'.

        Latent effects of one factor are independent given the data (see ``rotation``).
        """
        lay = self.problem.layout
        flat = np.concatenate((self._head_inverse[0], self._tail_diagonal()))
        out = []
        for k, pattern in enumerate(self.problem.patterns):
            symbolic = self.problem.symbolic
            nodes = symbolic.position[symbolic.base[k] : symbolic.base[k + 1]]
            square = np.arange(pattern.q**2)
            blocks = flat[lay.diag_ptr[nodes][:, None] + square]
            blocks = blocks.reshape(-1, pattern.q, pattern.q)
            T = self.problem.roots[k]
            out.append(blocks if T is None else np.tensordot(T**2, blocks, (1, 0)))
        return out

    def _tail_diagonal(self) -> np.ndarray:
        """Diagonal blocks of Q_tt, flat in node order."""
        lay = self.problem.layout
        head = int(lay.sizes[2])
        parts = [np.zeros(0)]
        for r in range(int(lay.sizes[1]), len(lay.node_q)):
            c = slice(lay.node_col[r] - head, lay.node_col[r + 1] - head)
            lower = np.tril(self.tail_covariance[c, c])
            parts.append((lower + np.tril(lower, -1).T).ravel())
        return np.concatenate(parts)

    def outer_products(self) -> list[np.ndarray]:
        """Per factor (q, q, p + 1, p + 1): sum_j U_ja U_jb'."""
        return [
            np.einsum("jap,jbs->abps", U, U, optimize=True) for U in self.problem.per_level(self.U)
        ]

    def draw_effects(self, fixed: np.ndarray, sigma: float, z: np.ndarray) -> np.ndarray:
        """Effects given beta, for standard normals ``z``.

        Parameters
        ----------
        fixed : (p, m) array
            beta of each draw, in the coordinates computed with.
        z : (N, m) array
            Standard normals, rows in elimination order.

        Returns
        -------
        (N, m) array, rows in elimination order.
        """
        lay = self.problem.layout
        head = int(lay.sizes[2])
        combine = np.vstack((-fixed, np.ones((1, fixed.shape[1]))))
        rhs = np.ascontiguousarray(self.rhs @ combine)
        b = np.empty(rhs.shape)
        if len(self.tail_factor):
            noise = _lapack.solve_transposed(self.tail_factor, z[head:])
            u = self.tail_solution @ combine + sigma * noise
            b[head:] = _elimination.scale_rows(lay, np.ascontiguousarray(u), self.F, False)
        _backward.draw_effects(lay, self.panel, rhs, self.roots, self.F, sigma, z, b)
        return b


@singledispatch
def eliminate(problem: Problem, F: np.ndarray) -> Elimination:
    """Eliminate all random effects at the relative factors ``F`` (flat, see ``Problem.flat``).

    Chosen by the type of the problem: levels coupled by a relationship have their own.
    """
    lay = problem.layout
    log_det, roots, K, diag, panel, rhs, S = _elimination.eliminate_head(lay, problem.values, F)
    tail = _remaining_tail(problem, panel, roots, F)
    head = int(lay.sizes[2])
    solution = np.zeros((len(tail), rhs.shape[1]))
    if len(tail):
        _elimination.scale_tail(lay, tail, F, True)
        definite = _lapack.cholesky(tail)
        scaled = _elimination.scale_rows(lay, rhs[head:], F, True)
        if not definite or not np.all(np.isfinite(scaled)):
            log_det = np.nan
        else:
            solution = _lapack.cholesky_solve(tail, scaled)
            log_det += 2.0 * np.log(np.diag(tail)).sum()
            S = S - scaled.T @ solution
            S = 0.5 * (S + S.T)
    return Elimination(problem, F, log_det, S, roots, K, diag, panel, rhs, tail, solution)


def _remaining_tail(problem: Problem, panel: np.ndarray, roots: np.ndarray, F: np.ndarray):
    """Lower triangle of the tail without its part of the head, by one rank-k update or by rows."""
    tail, symbolic = problem.values.tail.copy(), problem.symbolic
    if not (len(tail) and len(panel)):
        return tail
    scaled = _tail.scaled_panels(symbolic.layout, panel, roots, F)
    if symbolic.dense_head:
        _lapack.subtract_gram(scaled.reshape(-1, len(tail)), tail)
    else:
        _tail.subtract_head(symbolic.layout, symbolic.tail_rows, scaled, tail)
    return tail
