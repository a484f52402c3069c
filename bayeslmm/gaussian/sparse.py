"""Sparse Cholesky factorization with a dense tail: analyzed once, factorized many times.

For symmetric positive definite matrices of one pattern, such as the precision of thousands of
related animals.  Nodes (groups of adjacent columns) are put in minimum-degree order; those with
narrow columns are eliminated sparsely, the rest is one dense matrix for LAPACK.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from . import _ordering, _sparse
from .symbolic import _MAX_BITSET_NODES, DENSE_SHARE, SMALL_TAIL

#: Above this fill of the head's tail rows a symmetric rank-k update beats scattering.
_RANK_K_FILL = 0.1
#: Columns of the head turned into dense rows at a time.
_CHUNK = 4096


@dataclass(frozen=True)
class SparsePattern:
    """Elimination order and positions of the factor of one sparsity pattern.

    Attributes
    ----------
    order : (nodes,) int array
        Nodes in elimination order.
    node_col : (nodes + 1,) int array
        First column of each node in elimination order.
    ptr, rows : int arrays
        Columns of the head: rows increasing, diagonal first.
    tail_at : (H,) int array
        Where the tail's rows begin in each column.
    n_columns : int
    """

    order: np.ndarray
    node_col: np.ndarray
    ptr: np.ndarray
    rows: np.ndarray
    tail_at: np.ndarray
    n_columns: int

    @property
    def n_head(self) -> int:
        """Columns of the head."""
        return len(self.ptr) - 1

    @property
    def n_tail(self) -> int:
        """Columns of the tail."""
        return self.n_columns - self.n_head

    @cached_property
    def position(self) -> np.ndarray:
        """Place of each node in the order."""
        position = np.empty(len(self.order), dtype=np.int64)
        position[self.order] = np.arange(len(self.order))
        return position

    @cached_property
    def touching(self) -> np.ndarray:
        """Columns of the head with rows in the tail."""
        return np.flatnonzero(self.tail_at < self.ptr[1:])

    @cached_property
    def rank_k(self) -> bool:
        """Whether the tail is updated by dense products."""
        filled = int((self.ptr[1:] - self.tail_at).sum())
        return filled > _RANK_K_FILL * max(len(self.touching), 1) * max(self.n_tail, 1)

    def find(self, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Positions in ``rows`` of entries of the head's columns, all in the pattern."""
        keys = np.repeat(np.arange(self.n_head), np.diff(self.ptr)) * self.n_columns + self.rows
        return np.searchsorted(keys, columns * self.n_columns + rows)

    def factorize(self, head: np.ndarray, tail: np.ndarray) -> SparseCholesky:
        """Factor of a matrix given in this layout; both arrays are overwritten.

        Parameters
        ----------
        head : flat lower triangle of the head's columns
        tail : (t, t) row-major array, lower triangle used
        """
        from scipy.linalg.blas import dsyrk
        from scipy.linalg.lapack import dpotrf

        log_det = _sparse.factorize_head(self.ptr, self.rows, head, self.n_columns)
        if self.n_tail and np.isfinite(log_det):
            if self.rank_k:
                for start in range(0, len(self.touching), _CHUNK):
                    dense = self._tail_rows(head, self.touching[start : start + _CHUNK])
                    # the lower triangle of a row-major matrix is LAPACK's upper one
                    dsyrk(-1.0, dense.T, beta=1.0, c=tail.T, trans=0, lower=0, overwrite_c=1)
            else:
                _sparse.scatter_tail(self.ptr, self.rows, head, self.tail_at, tail)
            _, info = dpotrf(tail.T, lower=0, clean=0, overwrite_a=1)
            if info == 0:
                log_det += 2.0 * float(np.log(np.diag(tail)).sum())
            else:
                log_det = np.nan
        return SparseCholesky(self, head, tail, float(log_det))

    def _tail_rows(self, head: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return _sparse.tail_rows(self.ptr, self.rows, head, self.tail_at, columns, self.n_tail)


@dataclass(frozen=True)
class SparseCholesky:
    """A factorization C C' of one matrix.

    Attributes
    ----------
    pattern : SparsePattern
    head, tail : arrays in the pattern's layout
    log_det : float
        Log determinant of the matrix; nan where it is not positive definite, and then nothing
        else is defined.
    """

    pattern: SparsePattern
    head: np.ndarray
    tail: np.ndarray
    log_det: float

    def half_solve(self, B: np.ndarray) -> np.ndarray:
        """C^-1 B for B of shape (n, m), rows in elimination order."""
        from scipy.linalg.lapack import dtrtrs

        B = np.array(B, dtype=float, order="C")
        _sparse.solve_head(self.pattern.ptr, self.pattern.rows, self.head, B)
        if self.pattern.n_tail:
            h = self.pattern.n_head
            B[h:] = dtrtrs(self.tail.T, B[h:], lower=0, trans=1)[0]
        return B

    def half_solve_transposed(self, B: np.ndarray) -> np.ndarray:
        """C^-T B."""
        from scipy.linalg.lapack import dtrtrs

        B = np.array(B, dtype=float, order="C")
        if self.pattern.n_tail:
            h = self.pattern.n_head
            B[h:] = dtrtrs(self.tail.T, B[h:], lower=0)[0]
        _sparse.solve_head_transposed(self.pattern.ptr, self.pattern.rows, self.head, B)
        return B

    def solve(self, B: np.ndarray) -> np.ndarray:
        """Inverse times B."""
        return self.half_solve_transposed(self.half_solve(B))

    @cached_property
    def inverse(self) -> tuple[np.ndarray, np.ndarray]:
        """The inverse on the pattern: head (flat, as the factor) and tail (full, symmetric)."""
        from scipy.linalg.blas import dsymm
        from scipy.linalg.lapack import dpotri

        from ._tail import symmetrize_lower

        pattern = self.pattern
        tail = self.tail.copy()
        if pattern.n_tail:
            dpotri(tail.T, lower=0, overwrite_c=1)
            symmetrize_lower(tail)
        product_row = np.full(pattern.n_head, -1, dtype=np.int64)
        product = np.empty((0, pattern.n_tail))
        if pattern.n_tail and pattern.rank_k:
            product_row[pattern.touching] = np.arange(len(pattern.touching))
            dense = pattern._tail_rows(self.head, pattern.touching)
            product = dsymm(1.0, tail.T, dense.T, side=0, lower=0).T
        head = _sparse.inverse_head(
            pattern.ptr, pattern.rows, self.head, pattern.tail_at, tail,
            np.ascontiguousarray(product), product_row,
        )  # fmt: skip
        return head, tail


def sparse_pattern(links, node_q: np.ndarray) -> SparsePattern:
    """Analyze a pattern.

    Parameters
    ----------
    links : scipy sparse (nodes, nodes)
        Symmetric; nonzero where two nodes are coupled.  Explicit zeros count.
    node_q : (nodes,) int array
        Columns of each node.
    """
    n_nodes = len(node_q)
    node_q = np.asarray(node_q, dtype=np.int64)
    ptr, neighbors = _without_diagonal(links)
    order = _fill_reducing(links, ptr, neighbors)
    head, pat_ptr, pattern = _ordering.fill_patterns(
        ptr, neighbors, order, 0, node_q, DENSE_SHARE, n_nodes
    )
    if 0 < int(node_q[order[head:]].sum()) <= SMALL_TAIL:
        head, pat_ptr, pattern = _ordering.fill_patterns(
            ptr, neighbors, order, 0, node_q, np.inf, n_nodes
        )
    q = node_q[order]
    node_col = np.concatenate(([0], np.cumsum(q))).astype(np.int64)
    columns, rows = _scalar_pattern(head, pat_ptr, pattern, q, node_col)
    n_head = int(node_col[head])
    starts = np.concatenate(([0], np.cumsum(np.bincount(columns, minlength=n_head))))
    in_tail = np.bincount(columns[rows >= n_head], minlength=n_head)
    starts = starts.astype(np.int64)
    return SparsePattern(
        order, node_col, starts, rows, starts[1:] - in_tail.astype(np.int64), int(node_col[-1])
    )


def _without_diagonal(links) -> tuple[np.ndarray, np.ndarray]:
    """Adjacency lists of a symmetric pattern."""
    coo = links.tocoo()
    keep = coo.row != coo.col
    rows, columns = coo.row[keep], coo.col[keep]
    ptr = np.concatenate(([0], np.cumsum(np.bincount(rows, minlength=links.shape[0]))))
    neighbors = columns[np.argsort(rows, kind="stable")]
    return ptr.astype(np.int64), neighbors.astype(np.int64)


def _fill_reducing(links, ptr: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
    """Minimum-degree order; SuperLU's where there are too many nodes for bit sets."""
    n = links.shape[0]
    if n <= _MAX_BITSET_NODES:
        lead = np.zeros(n, dtype=np.bool_)
        return _ordering.minimum_degree(ptr, neighbors, lead, DENSE_SHARE)
    from scipy import sparse
    from scipy.sparse.linalg import splu

    A = abs(links).tocsc().astype(float)
    A.data[:] = -1.0
    A.setdiag(0.0)
    A = A + sparse.diags_array(1.0 - A.sum(axis=1), format="csc")  # diagonally dominant
    options = {"SymmetricMode": True, "DiagPivotThresh": 0.0}
    factor = splu(A.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
    return np.argsort(factor.perm_c).astype(np.int64)


def _scalar_pattern(head, pat_ptr, pattern, q, node_col):
    """Columns and rows of the head's entries, column by column, from the nodes' patterns."""
    nodes = np.arange(head)
    later = np.repeat(nodes, np.diff(pat_ptr))
    left = np.concatenate((nodes, later))  # node of the column, node of the row
    right = np.concatenate((nodes, pattern[: pat_ptr[-1]]))
    columns, rows = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    largest = int(q.max(initial=1))
    for a in range(largest):
        for b in range(largest):
            keep = (q[left] > a) & (q[right] > b) & ((left != right) | (b >= a))
            columns.append(node_col[left[keep]] + a)
            rows.append(node_col[right[keep]] + b)
    columns, rows = np.concatenate(columns), np.concatenate(rows)
    order = np.lexsort((rows, columns))
    return columns[order], rows[order]
