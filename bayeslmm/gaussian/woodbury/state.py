"""V^-1 at given covariance parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bayeslmm.gaussian.blocks._kernel import _invert_patterns
from bayeslmm.gaussian.blocks.layout import Blocks, with_columns
from bayeslmm.gaussian.woodbury import _kernel
from bayeslmm.gaussian.woodbury.outer import Outer

__all__ = ["State", "state_at"]


@dataclass(frozen=True)
class State:
    """V_b^-1 of every pattern of blocks, and M factored.

    Attributes
    ----------
    blocks : Blocks
    outer : Outer
    Ls : list of (q, q) arrays
        Factors of the effects outside the blocks.
    inverses : flat array
        V_b^-1 per pattern.
    G : (N, N) array
        Z'V_b^-1 Z.
    down : (R, N) array
        Lambda'G.
    root : (R, R) array
        Cholesky factor of M, lower.
    log_det : float
        log|V|.
    """

    blocks: Blocks
    outer: Outer
    Ls: Sequence[np.ndarray]
    inverses: np.ndarray
    G: np.ndarray
    down: np.ndarray
    root: np.ndarray
    log_det: float

    def times_block_inverse(self, columns: np.ndarray) -> np.ndarray:
        """V_b^-1 times columns (n, c), both in the order of the blocks."""
        c = columns.shape[1]
        layout = with_columns(self.blocks, c)
        return _kernel.solve_blocks(layout, self.inverses, columns.ravel(), c)[0].reshape(-1, c)

    def solved(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """V^-1 times columns (n, c), and their products with it, (c, c).

        By the columns less their effects: W'V^-1 W = (W - Zb)'V_b^-1 (W - Zb) + v'v, b = Lambda v,
        has no differences to cancel.
        """
        from scipy.linalg.lapack import dpotrs

        c = columns.shape[1]
        columns = np.ascontiguousarray(columns, dtype=float)
        v = self.outer.down(self.Ls, self.outer.Z.T @ self.times_block_inverse(columns))
        if len(v):
            v = dpotrs(self.root, v, lower=1)[0]
        rest = np.ascontiguousarray(columns - self.outer.Z @ self.outer.up(self.Ls, v))
        layout = with_columns(self.blocks, c)
        U, S = _kernel.solve_blocks(layout, self.inverses, rest.ravel(), c)
        return U.reshape(-1, c), S + v.T @ v

    @cached_property
    def Q(self) -> np.ndarray:
        """Lambda M^-1 Lambda', (N, N): covariance of the effects given y and beta."""
        from scipy.linalg.lapack import dpotri

        if not len(self.root):
            return np.zeros((0, 0))
        inverse = dpotri(self.root, lower=1)[0]
        inverse = np.tril(inverse) + np.tril(inverse, -1).T
        return self.outer.up(self.Ls, np.ascontiguousarray(self.outer.up(self.Ls, inverse).T))

    @cached_property
    def _half(self) -> np.ndarray:
        """C with Z'V^-1 Z = G - C'C, (R, N)."""
        from scipy.linalg.lapack import dtrtrs

        return dtrtrs(self.root, self.down, lower=1)[0] if len(self.root) else self.down

    def information(self, k: int) -> np.ndarray:
        """Z_k'V^-1 Z_k of factor k, (L q, L q)."""
        here = self.outer.columns[k]
        C = self._half[:, here]
        return self.G[here, here] - C.T @ C

    def level_information(self, k: int) -> np.ndarray:
        """Z_j'V^-1 Z_j of every level of factor k computed with, (L, q, q)."""
        f, here = self.outer.factors[k], self.outer.columns[k]
        C = self._half[:, here].reshape(-1, len(f.levels), f.q)
        G = self.G[here, here].reshape(len(f.levels), f.q, len(f.levels), f.q)
        return np.einsum("jajb->jab", G) - np.einsum("rja,rjb->jab", C, C, optimize=True)

    @cached_property
    def block_inverse(self):
        """V_b^-1 as a sparse matrix, (n, n)."""
        from scipy.sparse import csr_array

        rows, columns, at = _places(self.blocks)
        n = len(self.blocks.order)
        return csr_array((self.inverses[at], (rows, columns)), shape=(n, n))

    def diagonal(self) -> np.ndarray:
        """[V^-1]_ii, in the order of the blocks."""
        across, out = self.block_inverse @ self.outer.Z, self.block_inverse.diagonal()
        for at in _chunks(len(out), self.outer.size):
            part = across[at]
            out[at] -= np.asarray(part.multiply(part @ self.Q).sum(axis=1)).ravel()
        return out


def state_at(
    blocks: Blocks,
    outer: Outer,
    F: np.ndarray,
    Ls: Sequence[np.ndarray],
    eta: np.ndarray,
    c: np.ndarray,
) -> State | None:
    """Blocks inverted and M factored; None where V is not positive definite.

    Parameters
    ----------
    F : flat array
        Factors of the effects inside the blocks.
    Ls : sequence of (q, q) arrays
        Factors of those outside.
    eta, c : arrays
    """
    from scipy.linalg.lapack import dpotrf

    lay = blocks.layout
    log_det, inverses = _invert_patterns(lay, F, eta, c)
    if not (np.isfinite(log_det) and all(np.all(np.isfinite(L)) for L in Ls)):
        return None
    G = _kernel.scatter(lay, inverses, outer.code, outer.z, outer.size)
    down = outer.down(Ls, G)
    M = outer.down(Ls, np.ascontiguousarray(down.T))
    M[np.diag_indices(len(M))] += 1.0
    if len(M):
        if not np.all(np.isfinite(M)):
            return None
        M, info = dpotrf(np.asfortranarray(0.5 * (M + M.T)), lower=1, overwrite_a=1)
        if info:
            return None
    log_det += 2.0 * float(np.log(np.diag(M)).sum())
    return State(blocks, outer, Ls, inverses, G, down, M, log_det)


def _places(blocks: Blocks) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and place in the flat inverses of every entry of the blocks."""
    lay = blocks.layout
    size = lay.m * lay.n_rep
    start = np.repeat(np.cumsum(size) - size, lay.n_rep)
    copy = np.arange(len(start)) - np.repeat(np.cumsum(lay.n_rep) - lay.n_rep, lay.n_rep)
    m, step = np.repeat(lay.m, lay.n_rep), np.repeat(lay.n_rep, lay.n_rep)
    flat = np.repeat(lay.v_ptr[:-1], lay.n_rep)
    found = np.empty((3, int((lay.m**2 * lay.n_rep).sum())), dtype=np.int64)
    done = 0
    for one in np.unique(m):
        here = m == one
        rows = (start + copy)[here, None] + step[here, None] * np.arange(one)
        at = flat[here, None] + np.arange(one * one)
        part = slice(done, done + at.size)
        for k, values in enumerate((np.repeat(rows, one, axis=1), np.tile(rows, (1, one)), at)):
            found[k, part] = values.ravel()
        done = part.stop
    return found[0], found[1], found[2]


def _chunks(n: int, width: int):
    """Slices of n rows whose (rows, width) arrays have some million numbers."""
    step = max(1, 4_000_000 // max(width, 1))
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]
