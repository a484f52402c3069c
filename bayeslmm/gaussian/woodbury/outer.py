"""Effects outside the blocks of rows: their columns, and roots of their covariance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bayeslmm.gaussian.related.relationship import Relationship, semidefinite_root
from bayeslmm.gaussian.rows import FactorRows

__all__ = ["Outer", "OuterFactor", "outer_factor"]


@dataclass(frozen=True)
class OuterFactor:
    """Effects b ~ N(0, A (x) Sigma) of one factor.

    Attributes
    ----------
    n_levels, q : int
    levels : (L,) int array
        Levels computed with: all of them, or those with rows where levels are related.
    relationship : Relationship or None
    covariance : (L, L) array or None
        A of the levels computed with; None for unrelated ones.
    root : (L, r) array or None
        T with A = T T'.
    """

    n_levels: int
    q: int
    levels: np.ndarray
    relationship: Relationship | None = None
    covariance: np.ndarray | None = None
    root: np.ndarray | None = None

    @property
    def n_columns(self) -> int:
        """Columns of Z."""
        return len(self.levels) * self.q

    @property
    def n_roots(self) -> int:
        """Columns of Lambda."""
        return self.n_columns if self.root is None else self.root.shape[1] * self.q

    def position(self, codes: np.ndarray) -> np.ndarray:
        """Place of levels among those computed with."""
        return codes if self.root is None else np.searchsorted(self.levels, codes)

    def down(self, F: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Lambda' times values (L q, c)."""
        c = values.shape[1]
        values = np.matmul(F.T, values.reshape(-1, self.q, c))
        if self.root is not None:
            values = self.root.T @ values.reshape(len(values), self.q * c)
        return values.reshape(self.n_roots, c)

    def up(self, F: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Lambda times values (r q, c)."""
        c = values.shape[1]
        values = np.matmul(F, values.reshape(-1, self.q, c))
        if self.root is not None:
            values = self.root @ values.reshape(len(values), self.q * c)
        return values.reshape(self.n_columns, c)

    def contracted(self, Sigma_like: np.ndarray) -> np.ndarray:
        """sum_ij A_ij S_ij (q, q) over the blocks of S (L q, L q)."""
        L, q = len(self.levels), self.q
        S = Sigma_like.reshape(L, q, L, q)
        if self.covariance is None:
            return np.einsum("iaib->ab", S)
        return np.einsum("iajb,ij->ab", S, self.covariance, optimize=True)

    def related(self, values: np.ndarray) -> np.ndarray:
        """A of levels computed with times values (L, ...)."""
        if self.covariance is None:
            return values
        return (self.covariance @ values.reshape(len(values), -1)).reshape(values.shape)

    def to_all(self, values: np.ndarray) -> np.ndarray:
        """A between all levels and those computed with, times values (L, c): (J, c)."""
        if self.relationship is None:
            return values
        wide = np.zeros((self.n_levels, values.shape[1]))
        wide[self.levels] = values
        return self.relationship.times(wide)

    def across(self, codes: np.ndarray) -> np.ndarray:
        """A between the levels computed with and others, (L, len(codes))."""
        unit = np.zeros((self.n_levels, len(codes)))
        unit[codes, np.arange(len(codes))] = 1.0
        if self.relationship is None:
            return unit
        return self.relationship.times(unit)[self.levels]

    @cached_property
    def diagonal(self) -> np.ndarray:
        """A_jj of all levels."""
        if self.relationship is None:
            return np.ones(self.n_levels)
        return self.relationship.diagonal


def outer_factor(rows: FactorRows, relationship: Relationship | None) -> OuterFactor:
    """Effects of a factor, with a root of the covariance between its levels that have rows."""
    if relationship is None:
        return OuterFactor(rows.n_levels, rows.q, np.arange(rows.n_levels))
    levels = np.unique(rows.codes)
    A = relationship.between(levels)
    return OuterFactor(rows.n_levels, rows.q, levels, relationship, A, semidefinite_root(A))


@dataclass(frozen=True)
class Outer:
    """All effects outside the blocks, rows in the order of the blocks.

    Attributes
    ----------
    factors : tuple of OuterFactor
    code : (n, w) int array
        Columns of Z that are not zero in a row.
    z : (n, w) array
        Their values.
    """

    factors: tuple[OuterFactor, ...]
    code: np.ndarray
    z: np.ndarray

    @classmethod
    def of_rows(
        cls, factors: Sequence[OuterFactor], rows: Sequence[FactorRows], order: np.ndarray
    ) -> Outer:
        """Columns of the rows of the data at ``order``."""
        code, z, start = [], [np.zeros((len(order), 0))], 0
        for f, own in zip(factors, rows, strict=True):
            first = start + f.position(own.codes[order]) * f.q
            code.append(first[:, None] + np.arange(f.q))
            z.append(own.Z[order])
            start += f.n_columns
        codes = np.hstack([np.zeros((len(order), 0), np.int64), *code])
        return cls(tuple(factors), np.ascontiguousarray(codes), np.ascontiguousarray(np.hstack(z)))

    @cached_property
    def columns(self) -> list[slice]:
        """Columns of Z of every factor."""
        ends = np.cumsum([0, *(f.n_columns for f in self.factors)])
        return [slice(*pair) for pair in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]

    @cached_property
    def roots(self) -> list[slice]:
        """Columns of Lambda of every factor."""
        ends = np.cumsum([0, *(f.n_roots for f in self.factors)])
        return [slice(*pair) for pair in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]

    @property
    def size(self) -> int:
        """Columns of Z."""
        return sum(f.n_columns for f in self.factors)

    @cached_property
    def Z(self):
        """The columns as a sparse matrix, (n, N)."""
        from scipy.sparse import csr_array

        n, w = self.z.shape
        ptr = np.arange(0, n * w + 1, w) if w else np.zeros(n + 1, dtype=np.int64)
        return csr_array((self.z.ravel(), self.code.ravel(), ptr), shape=(n, self.size))

    def down(self, Ls: Sequence[np.ndarray], values: np.ndarray) -> np.ndarray:
        """Lambda' times values (N, c)."""
        out = np.empty((sum(f.n_roots for f in self.factors), values.shape[1]))
        for f, F, here, there in zip(self.factors, Ls, self.columns, self.roots, strict=True):
            out[there] = f.down(F, values[here])
        return out

    def up(self, Ls: Sequence[np.ndarray], values: np.ndarray) -> np.ndarray:
        """Lambda times values (R, c)."""
        out = np.empty((self.size, values.shape[1]))
        for f, F, here, there in zip(self.factors, Ls, self.columns, self.roots, strict=True):
            out[here] = f.up(F, values[there])
        return out

    def times_covariance(self, Ls: Sequence[np.ndarray], values: np.ndarray) -> np.ndarray:
        """A (x) Sigma times values (N, c)."""
        return self.up(Ls, self.down(Ls, values))
