"""Known covariance between the levels of a grouping factor: b ~ N(0, A (x) Sigma).

A comes as a covariance matrix (kinship, phylogeny), perhaps singular (clones), or as a sparse
precision (a pedigree's inverse, Henderson 1976, Biometrics 32, 69-83).  Either way b = (T (x) I) v
with v ~ N(0, G^-1 (x) Sigma):

- precision: T = I and G = A^-1, every level kept, ancestors without rows too;
- covariance: G = I and A = T T' of full column rank, the levels with rows first: those without rows
  add columns of their own, which no row touches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from bayeslmm.gaussian.sparse import SparseCholesky, sparse_pattern

#: What is left of a diagonal element below this share of the largest is rounding error.
_RANK = 1e-11
#: A residual above this share of the largest diagonal element is not positive semidefinite.
_INDEFINITE = 1e-7


class NotPositiveError(ValueError):
    """A relationship is not positive (semi)definite."""


@dataclass(frozen=True)
class Relationship:
    """Covariance A or precision A^-1 between the J levels of one factor; one of them is given.

    Attributes
    ----------
    covariance : (J, J) array or None
    precision : scipy sparse (J, J) or None
    """

    covariance: np.ndarray | None = None
    precision: Any = None

    def __post_init__(self) -> None:
        if (self.covariance is None) == (self.precision is None):
            raise ValueError("give a covariance or a precision")

    @property
    def n_levels(self) -> int:
        """J."""
        return (self.precision if self.covariance is None else self.covariance).shape[0]

    @cached_property
    def trivial(self) -> bool:
        """A multiple of the identity: the levels are not related."""
        if self.covariance is not None:
            diagonal = np.diag(self.covariance)
            off = np.count_nonzero(self.covariance) - np.count_nonzero(diagonal)
        else:
            diagonal = self.precision.diagonal()
            off = self.precision.count_nonzero() - np.count_nonzero(diagonal)
        return off == 0 and bool(np.ptp(diagonal) <= 1e-12 * np.max(np.abs(diagonal), initial=0.0))

    @cached_property
    def factor(self) -> SparseCholesky:
        """Sparse Cholesky factor of the precision.

        Raises
        ------
        NotPositiveError
            If the precision is not positive definite.
        """
        pattern = sparse_pattern(self.precision, np.ones(self.n_levels, dtype=np.int64))
        coo = self.precision.tocoo()
        rows, columns = pattern.position[coo.row], pattern.position[coo.col]
        lower = rows >= columns
        rows, columns, values = rows[lower], columns[lower], coo.data[lower]
        h = pattern.n_head
        head, tail = np.zeros(len(pattern.rows)), np.zeros((pattern.n_tail, pattern.n_tail))
        inside = columns < h
        head[pattern.find(columns[inside], rows[inside])] = values[inside]
        tail[rows[~inside] - h, columns[~inside] - h] = values[~inside]
        factor = pattern.factorize(head, tail)
        if not np.isfinite(factor.log_det):
            raise NotPositiveError("the precision is not positive definite")
        return factor

    @cached_property
    def log_det_precision(self) -> float:
        """log|A^-1|; 0 for a covariance, which is taken into account by its root."""
        return 0.0 if self.precision is None else self.factor.log_det

    @cached_property
    def diagonal(self) -> np.ndarray:
        """(J,) diagonal of A: one plus the inbreeding coefficient in a pedigree."""
        if self.covariance is not None:
            return np.diag(self.covariance).copy()
        pattern = self.factor.pattern
        head, tail = self.factor.inverse
        ordered = np.concatenate((head[pattern.ptr[:-1]], np.diag(tail)))
        return ordered[pattern.position]

    @cached_property
    def full_root(self) -> np.ndarray:
        """(J, r) root of the covariance, all levels alike."""
        assert self.covariance is not None  # the caller's case
        return semidefinite_root(self.covariance)

    @cached_property
    def dense_root(self) -> np.ndarray:
        """(J, r) root of A as a dense matrix."""
        return self.times_root(np.eye(self.n_normals))

    def times_root(self, z: np.ndarray) -> np.ndarray:
        """Root of A times standard normals of shape (n_normals, ...), for simulation."""
        flat = np.reshape(z, (len(z), -1))
        if self.precision is None:
            out = self.full_root @ flat
        else:
            out = self.factor.half_solve_transposed(flat)[self.factor.pattern.position]
        return out.reshape(self.n_levels, *np.shape(z)[1:])

    @property
    def n_normals(self) -> int:
        """Standard normals that one draw of the levels takes."""
        return self.n_levels if self.precision is not None else self.full_root.shape[1]

    def between(self, levels: np.ndarray) -> np.ndarray:
        """(m, m) block of A."""
        if self.covariance is not None:
            return self.covariance[np.ix_(levels, levels)]
        position = self.factor.pattern.position
        unique, at = np.unique(levels, return_inverse=True)
        unit = np.zeros((self.n_levels, len(unique)))
        unit[position[unique], np.arange(len(unique))] = 1.0
        half = self.factor.half_solve(unit)
        return (half.T @ half)[np.ix_(at, at)]

    def times(self, values: np.ndarray) -> np.ndarray:
        """A times values, (J, c)."""
        if self.covariance is not None:
            return self.covariance @ values
        position = self.factor.pattern.position
        ordered = np.empty_like(values)
        ordered[position] = values
        return self.factor.solve(ordered)[position]

    def dense(self) -> np.ndarray:
        """(J, J) matrix A."""
        return self.between(np.arange(self.n_levels))


def draw_levels(
    relationship: Relationship | None, n_levels: int, L: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """(J, q) effects drawn from N(0, A (x) L L'), or with independent levels."""
    if relationship is None:
        return rng.standard_normal((n_levels, len(L))) @ L.T
    normals = rng.standard_normal((relationship.n_normals, len(L)))
    return relationship.times_root(normals) @ L.T


def semidefinite_root(A: np.ndarray) -> np.ndarray:
    """(J, r) matrix T of full column rank with T T' = A, by Cholesky with complete pivoting.

    Raises
    ------
    NotPositiveError
        If A is not positive semidefinite up to rounding.
    """
    T, order, rank = _pivoted(A)
    largest = float(np.max(np.diag(A), initial=0.0))
    left = A - T @ T.T
    if len(A) and np.max(np.abs(left)) > _INDEFINITE * largest:
        raise NotPositiveError("the matrix is not positive semidefinite")
    return T


def _pivoted(A: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """T = P L with its pivots and the rank."""
    from scipy.linalg.lapack import dpstrf

    n = len(A)
    if n == 0:
        return np.zeros((0, 0)), np.zeros(0, dtype=np.int64), 0
    largest = float(np.max(np.diag(A)))
    if not largest > 0:
        return np.zeros((n, 0)), np.arange(n), 0
    factor, pivots, rank, _ = dpstrf(np.asfortranarray(A), tol=_RANK * largest, lower=1)
    order = pivots.astype(np.int64) - 1
    T = np.empty((n, rank))
    T[order] = np.tril(factor)[:, :rank]
    return T, order, int(rank)


def families(A: np.ndarray) -> list[np.ndarray]:
    """Sets of levels without a relative outside."""
    from scipy import sparse
    from scipy.sparse.csgraph import connected_components

    count, label = connected_components(sparse.csr_array(A != 0), directed=False)
    order = np.argsort(label, kind="stable")
    bounds = np.searchsorted(label[order], np.arange(count + 1))
    return [order[low:high] for low, high in pairwise(bounds)]


def root_with_rows_first(A: np.ndarray, observed: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Extend a root of the observed levels to all levels.

    Parameters
    ----------
    A : (J, J) array
    observed : (J,) boolean array
    root : (J_o, r) array
        root root' = A of the observed levels, full column rank.

    Returns
    -------
    (J, r + s) array
        Rows of observed levels are zero in the last s columns.
    """
    rest = ~observed
    if not rest.any():
        return root
    across = A[np.ix_(observed, rest)]
    if root.size and root.shape[0] == root.shape[1] and np.all(np.any(root != 0, axis=0)):
        loading = np.linalg.solve(root, across).T  # of full rank
    elif root.size:
        loading = np.linalg.lstsq(root, across, rcond=1e-12)[0].T
    else:
        loading = np.zeros((int(rest.sum()), root.shape[1]))
    left = A[np.ix_(rest, rest)] - loading @ loading.T
    own = semidefinite_root(0.5 * (left + left.T))
    out = np.zeros((len(A), root.shape[1] + own.shape[1]))
    out[observed, : root.shape[1]] = root
    out[rest, : root.shape[1]] = loading
    out[rest, root.shape[1] :] = own
    return out
