"""Mixed models whose levels are coupled by a known relationship.

With b = (T (x) I) v, v ~ N(0, G^-1 (x) Sigma) (see ``relationship``) and v = Lambda u, all of the
core's mathematics stays, with Z T in place of Z and

    M = Lambda' T'Z'WZ T Lambda + G (x) I,     log|V| = log|M| - log|G|     (sigma = 1).

Levels of one factor now are neighbors of each other, so there is no leading factor to eliminate
level by level: M is factorized by a sparse Cholesky with a dense tail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from bayeslmm.gaussian.coordinates import working_products
from bayeslmm.gaussian.crossproducts import CrossProducts, same_effects
from bayeslmm.gaussian.derivatives import _block_diagonal, _sparse_pair
from bayeslmm.gaussian.problem import Problem
from bayeslmm.gaussian.related import _coupled
from bayeslmm.gaussian.related.relationship import (
    Relationship,
    families,
    root_with_rows_first,
    semidefinite_root,
)
from bayeslmm.gaussian.sparse import SparseCholesky, SparsePattern, sparse_pattern
from bayeslmm.parts.patterns import CovariancePattern, flat_positions


class FactorLayout(NamedTuple):
    """The part of ``symbolic.Layout`` that concerns factors.

    Attributes
    ----------
    f_ptr : (factors + 1,) start of L_k in the flat buffer of relative factors
    factor_q : (factors,) q_k
    sizes : leading nodes, head nodes, head columns, tail columns, all in the tail
    """

    f_ptr: np.ndarray
    factor_q: np.ndarray
    sizes: np.ndarray


class Blocks(NamedTuple):
    """Blocks of B = T'Z'WZ T and of G for pairs of nodes; see ``_coupled``.

    Attributes
    ----------
    row, column : (blocks,) nodes r >= s in elimination order
    value_ptr, value : flat (q_r, q_s) blocks of B
    coupling : (blocks,) entry of G, 0 between factors
    at : (blocks,) position in the factor, -1 in the tail
    node_factor, node_col : per node in elimination order
    f_ptr, factor_q : as in FactorLayout
    """

    row: np.ndarray
    column: np.ndarray
    value_ptr: np.ndarray
    value: np.ndarray
    coupling: np.ndarray
    at: np.ndarray
    node_factor: np.ndarray
    node_col: np.ndarray
    f_ptr: np.ndarray
    factor_q: np.ndarray


class CoupledValues(NamedTuple):
    """Numbers in elimination order: blocks, Z'W[X y] (N, p + 1), [X y]'W[X y] (p + 1, p + 1)."""

    blocks: Blocks
    rhs: np.ndarray
    gram: np.ndarray


@dataclass(frozen=True)
class CoupledSymbolic:
    """Order and positions; the counterpart of ``symbolic.Symbolic``.

    Attributes
    ----------
    layout : FactorLayout
    pattern : SparsePattern
        Of M.
    base : (factors + 1,) int array
        First node of each factor.
    """

    layout: FactorLayout
    pattern: SparsePattern
    base: np.ndarray

    @property
    def n_columns(self) -> int:
        """Latent effects in all."""
        return self.pattern.n_columns

    def factor_columns(self, k: int) -> np.ndarray:
        """(r_k, q_k) columns, in elimination order, of the latent effects of factor k."""
        nodes = self.pattern.position[self.base[k] : self.base[k + 1]]
        return self.pattern.node_col[nodes][:, None] + np.arange(self.layout.factor_q[k])

    @property
    def scalar_order(self) -> np.ndarray:
        """(N,) column in elimination order of every column, factor by factor."""
        parts = [self.factor_columns(k).ravel() for k in range(len(self.layout.factor_q))]
        return np.concatenate([np.zeros(0, np.int64), *parts])


@dataclass(frozen=True)
class CoupledProblem(Problem):
    """A :class:`Problem` with a relationship between levels.

    Attributes
    ----------
    relationships : tuple of Relationship or None
        One per factor.
    log_det_coupling : float
        log|G (x) I|.
    """

    relationships: tuple[Relationship | None, ...] = ()
    log_det_coupling: float = 0.0

    def blocks_matrix(self, values: np.ndarray):
        """Symmetric scipy sparse (N, N) matrix of values given block by block."""
        from scipy import sparse

        blocks = self.values.blocks
        row, column = self._block_index
        N = self.symbolic.n_columns
        lower = sparse.csr_array((values, (row, column)), shape=(N, N))
        off = np.repeat(blocks.row != blocks.column, np.diff(blocks.value_ptr))
        upper = sparse.csr_array((values[off], (column[off], row[off])), shape=(N, N))
        return lower + upper

    @cached_property
    def _block_index(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of every value of the blocks."""
        blocks = self.values.blocks
        sizes = np.diff(blocks.value_ptr)
        inside = np.arange(blocks.value_ptr[-1]) - np.repeat(blocks.value_ptr[:-1], sizes)
        width = np.repeat(blocks.factor_q[blocks.node_factor[blocks.column]], sizes)
        row = np.repeat(blocks.node_col[blocks.row], sizes) + inside // width
        return row, np.repeat(blocks.node_col[blocks.column], sizes) + inside % width

    @cached_property
    def matrix(self):
        """B, scipy sparse (N, N), in elimination order."""
        return self.blocks_matrix(self.values.blocks.value)

    @cached_property
    def _uncoupled(self):
        """Cholesky factor of G (x) I: that of M where every L_k is zero."""
        return factorize_system(self, np.zeros(self.layout.f_ptr[-1]))

    def related(self, columns: np.ndarray) -> np.ndarray:
        """(A (x) I) times rows in elimination order, A = G^-1 of the latent effects."""
        if all(r is None or r.precision is None for r in self.relationships):
            return columns
        return self._uncoupled.solve(columns)

    def with_products(self, cp: CrossProducts) -> CoupledProblem:
        """The same model for other columns."""
        return self.renewed(cp)

    def renewed(self, cp: CrossProducts) -> CoupledProblem:
        """The same model for other cross-products of the same levels."""
        blocks = self.values.blocks
        if not same_effects(cp, self.cp):
            blocks = blocks._replace(value=_block_values(cp, self.roots, self.symbolic, blocks))
        fresh = _assembled(cp, self.patterns, self.relationships, self.roots, self.symbolic, blocks)
        return replace(fresh, known_sigma=self.known_sigma)


def prepare_coupled(
    cp: CrossProducts,
    patterns: Sequence[CovariancePattern],
    relationships: Sequence[Relationship | None],
) -> CoupledProblem:
    """Lay cross-products out for evaluation; see ``problem.prepare``."""
    roots = tuple(
        None if r is None or r.covariance is None else _root(r.covariance, f.counts > 0)
        for r, f in zip(relationships, cp.factors, strict=True)
    )
    widths = [
        f.n_levels if T is None else T.shape[1] for f, T in zip(cp.factors, roots, strict=True)
    ]
    factor_q = np.array([f.q for f in cp.factors], dtype=np.int64)
    base = np.concatenate(([0], np.cumsum(widths))).astype(np.int64)
    B = _transformed(cp, roots)
    coupling = _coupling(relationships, widths)
    node_factor = np.repeat(np.arange(len(widths)), widths)
    links = (_node_links(B, factor_q[node_factor]) + abs(coupling)).tocsr()
    pattern = sparse_pattern(links, factor_q[node_factor])
    f_ptr = np.concatenate(([0], np.cumsum(factor_q**2))).astype(np.int64)
    sizes = np.array([0, 0, 0, max(pattern.n_columns, 1)], dtype=np.int64)
    symbolic = CoupledSymbolic(FactorLayout(f_ptr, factor_q, sizes), pattern, base)
    blocks = _blocks(links, coupling, symbolic, node_factor)
    blocks = blocks._replace(value=_block_values(cp, roots, symbolic, blocks, B))
    return _assembled(cp, tuple(patterns), tuple(relationships), roots, symbolic, blocks)


def _assembled(cp, patterns, relationships, roots, symbolic, blocks) -> CoupledProblem:
    working, coordinates = working_products(cp)
    rhs = np.zeros((symbolic.n_columns, cp.p + 1))
    for k, (f, T) in enumerate(zip(working.factors, roots, strict=True)):
        zr = f.zr[:, :, :-1]
        rhs[symbolic.factor_columns(k)] = zr if T is None else np.tensordot(T, zr, (0, 0))
    values = CoupledValues(blocks, rhs, np.ascontiguousarray(working.gram[:-1, :-1]))
    log_det = sum(
        p.q * r.log_det_precision for p, r in zip(patterns, relationships, strict=True) if r
    )
    return CoupledProblem(
        cp=cp,
        patterns=patterns,
        symbolic=symbolic,
        values=values,
        coordinates=coordinates,
        theta_index=flat_positions(patterns),
        roots=roots,
        relationships=relationships,
        log_det_coupling=float(log_det),
    )


def _root(A: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Root of a covariance, families apart, so that blocks of zeros stay zeros."""
    own = A[np.ix_(observed, observed)]
    parts = families(own)
    pieces = [semidefinite_root(own[np.ix_(part, part)]) for part in parts]
    root = np.zeros((len(own), sum(piece.shape[1] for piece in pieces)))
    at = 0
    for part, piece in zip(parts, pieces, strict=True):
        root[part, at : at + piece.shape[1]] = piece
        at += piece.shape[1]
    return root_with_rows_first(A, observed, root)


def _transformed(cp: CrossProducts, roots):
    """B = T'Z'WZ T, scipy sparse, columns factor by factor."""
    from scipy import sparse

    wide = [None if T is None else _wide(T, f.q) for T, f in zip(roots, cp.factors, strict=True)]
    K = len(cp.factors)
    grid: list[list] = [[None] * K for _ in range(K)]
    for k, f in enumerate(cp.factors):
        own = _block_diagonal(f.zz, 0, f.n_levels * f.q)
        grid[k][k] = _sandwich(wide[k], own, wide[k])
        for m in range(k + 1, K):
            g = cp.factors[m]
            shape = (f.n_levels * f.q, g.n_levels * g.q)
            between = _sparse_pair(cp.pairs[k, m], False, shape, 0, 0)
            grid[k][m] = _sandwich(wide[k], between, wide[m])
            grid[m][k] = grid[k][m].T
    return sparse.block_array(grid, format="csr")


#: Roots with more than this share of nonzeros are multiplied as dense matrices.
_DENSE = 0.2


def _wide(T: np.ndarray, q: int):
    """T (x) I, dense or sparse."""
    from scipy import sparse

    if np.count_nonzero(T) > _DENSE * T.size:
        return T if q == 1 else np.kron(T, np.eye(q))
    narrow = sparse.csr_array(T)
    return narrow if q == 1 else sparse.kron(narrow, sparse.eye_array(q), format="csr")


def _sandwich(left, middle, right):
    """left' middle right, sparse."""
    from scipy import sparse

    product = middle if right is None else middle @ right
    product = product if left is None else left.T @ product
    return sparse.csr_array(product)


def _coupling(relationships, widths):
    """G, node by node."""
    from scipy import sparse

    parts = [
        sparse.eye_array(w) if r is None or r.precision is None else r.precision
        for r, w in zip(relationships, widths, strict=True)
    ]
    return sparse.block_diag(parts, format="csr")


def _node_links(B, node_q: np.ndarray):
    """Pattern of B, node by node."""
    from scipy import sparse

    node = np.repeat(np.arange(len(node_q)), node_q)
    coo = B.tocoo()
    links = sparse.coo_array(
        (np.ones(coo.nnz), (node[coo.row], node[coo.col])), shape=(len(node_q),) * 2
    ).tocsr()
    return links


def _blocks(links, coupling, symbolic: CoupledSymbolic, node_factor: np.ndarray) -> Blocks:
    """Positions of all blocks; the values of B are filled in by the caller."""
    pattern, lay = symbolic.pattern, symbolic.layout
    coo = links.tocoo()
    r, s = pattern.position[coo.row], pattern.position[coo.col]
    lower = r >= s
    n_nodes = len(pattern.order)
    keys = np.unique(s[lower] * n_nodes + r[lower])
    column, row = keys // n_nodes, keys % n_nodes
    factor = node_factor[pattern.order].astype(np.int64)
    g = coupling.tocoo()
    gr, gs = pattern.position[g.row], pattern.position[g.col]
    keep = gr >= gs
    value = np.zeros(len(keys))
    value[np.searchsorted(keys, gs[keep] * n_nodes + gr[keep])] = g.data[keep]
    at = np.full(len(keys), -1, dtype=np.int64)
    head = pattern.node_col[column] < pattern.n_head
    at[head] = pattern.find(pattern.node_col[column[head]], pattern.node_col[row[head]])
    sizes = lay.factor_q[factor[row]] * lay.factor_q[factor[column]]
    ptr = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    return Blocks(
        row, column, ptr, np.zeros(ptr[-1]), value, at, factor, pattern.node_col, lay.f_ptr,
        lay.factor_q,
    )  # fmt: skip


def _block_values(cp, roots, symbolic: CoupledSymbolic, blocks: Blocks, B=None) -> np.ndarray:
    """The values of B, block by block."""
    B = _transformed(cp, roots) if B is None else B
    pattern = symbolic.pattern
    order = symbolic.scalar_order
    coo = B.tocoo()
    i, j = order[coo.row], order[coo.col]
    node = np.repeat(np.arange(len(pattern.order)), np.diff(pattern.node_col))
    r, s = node[i], node[j]
    keep = r >= s
    i, j, r, s, data = i[keep], j[keep], r[keep], s[keep], coo.data[keep]
    n_nodes = len(pattern.order)
    keys = blocks.column * n_nodes + blocks.row
    t = np.searchsorted(keys, s * n_nodes + r)
    q = blocks.factor_q[blocks.node_factor[s]]
    value = np.zeros(blocks.value_ptr[-1])
    at = blocks.value_ptr[t] + (i - pattern.node_col[r]) * q + (j - pattern.node_col[s])
    np.add.at(value, at, data)
    return value


def factorize_system(problem: CoupledProblem, F: np.ndarray) -> SparseCholesky:
    """Cholesky factor of M."""
    pattern = problem.symbolic.pattern
    head = np.zeros(len(pattern.rows))
    tail = np.zeros((pattern.n_tail, pattern.n_tail))
    _coupled.assemble(problem.values.blocks, F, pattern.ptr, pattern.n_head, head, tail)
    return pattern.factorize(head, tail)
