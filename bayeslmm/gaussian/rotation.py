"""One rotation by the eigenvectors of a kinship matrix, and every evaluation is linear in levels.

Where one factor has the covariance A (x) Sigma between its levels, every level has the same
Z_j'WZ_j (one record per individual, or the same number of them), and every other factor has the
same levels (a permanent-environment effect), the eigenvectors Q of A = Q D Q' diagonalize all
there is: with b = (Q D^1/2 (x) I) v the latent effects v_l are independent and no row joins two of
them (Kang et al. 2008, Genetics 178, 1709-1723; Lippert et al. 2011, Nature Methods 8, 833-835;
Zhou and Stephens 2012, Nature Genetics 44, 821-824).  What results is an ordinary problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .crossproducts import CrossProducts, FactorProducts, PairProducts
from .leverage import _node_quadratic, effect_variance
from .patterns import CovariancePattern
from .problem import Problem, prepare
from .relationship import (
    _INDEFINITE,
    _RANK,
    NotPositiveError,
    Relationship,
    root_with_rows_first,
)
from .rows import FactorRows

#: Differences between levels below this share are rounding errors.
_SAME = 1e-12


@dataclass(frozen=True)
class RotatedProblem(Problem):
    """A :class:`Problem` of rotated cross-products; ``cp`` are the rotated ones.

    Attributes
    ----------
    relationships : tuple of Relationship or None
    original : CrossProducts
        As given by the caller.
    order : tuple of (J,) int array
        Per factor, its level that meets each observed level of the related factor.
    """

    relationships: tuple[Relationship | None, ...] = ()
    original: CrossProducts | None = None
    order: tuple[np.ndarray, ...] = ()

    def renewed(self, cp: CrossProducts) -> Problem:
        """The same model for other cross-products of the same levels."""
        order = balanced_levels(cp, self.relationships)
        if order is None or not all(map(np.array_equal, order, self.order)):
            fresh = prepare(cp, self.patterns, relationships=self.relationships)
        else:
            fresh = _rotated(
                cp, self.patterns, self.relationships, self.order, self.roots, self.symbolic
            )
        return replace(fresh, known_sigma=self.known_sigma)


def prepare_related(
    cp: CrossProducts,
    patterns: Sequence[CovariancePattern],
    relationships: tuple[Relationship | None, ...],
) -> Problem:
    """Lay cross-products with a relationship out, rotated where one rotation is enough."""
    from .coupled import prepare_coupled

    order = balanced_levels(cp, relationships)
    if order is None:
        return prepare_coupled(cp, patterns, relationships)
    lead = _related(relationships)
    A = relationships[lead].covariance
    observed = np.zeros(len(A), dtype=bool)
    observed[order[lead]] = True
    Q, root = _eigen_root(A[np.ix_(order[lead], order[lead])])
    roots = []
    for k, f in enumerate(cp.factors):
        T = np.zeros((f.n_levels, len(Q)))
        T[order[k]] = root if k == lead else Q
        roots.append(T)
    if not observed.all():
        # observed levels in the order of the matrix
        roots[lead] = root_with_rows_first(A, observed, roots[lead][observed])
    return _rotated(cp, tuple(patterns), relationships, order, tuple(roots), None)


def balanced_levels(
    cp: CrossProducts, relationships: tuple[Relationship | None, ...]
) -> tuple[np.ndarray, ...] | None:
    """Matching levels of all factors where a rotation diagonalizes everything; else None."""
    lead = _related(relationships)
    if lead is None or relationships[lead].covariance is None:
        return None
    if any(r is not None for k, r in enumerate(relationships) if k != lead):
        return None
    first = np.flatnonzero(cp.factors[lead].counts > 0)
    order = []
    for k, f in enumerate(cp.factors):
        if k == lead:
            order.append(first)
            continue
        pair = cp.pairs[min(k, lead), max(k, lead)]
        own, other = (pair.rows, pair.columns) if lead < k else (pair.columns, pair.rows)
        met = np.argsort(own, kind="stable")
        if not np.array_equal(own[met], first) or len(np.unique(other)) < len(other):
            return None
        if f.n_levels != len(first):
            return None
        order.append(other[met])
    for f, levels in zip(cp.factors, order, strict=True):
        if not _constant(f.zz[levels]):
            return None
    for (k, m), pair in cp.pairs.items():
        place = np.empty(cp.factors[k].n_levels, dtype=np.int64)
        place[order[k]] = order[m]
        if len(pair.rows) != len(first) or not np.array_equal(place[pair.rows], pair.columns):
            return None
        if not _constant(pair.values):
            return None
    return tuple(order)


def _related(relationships) -> int | None:
    """The first factor with a relationship."""
    return next((k for k, r in enumerate(relationships) if r is not None), None)


def _constant(blocks: np.ndarray) -> bool:
    size = np.abs(blocks).max(initial=0.0)
    return bool(len(blocks) and np.abs(blocks - blocks[0]).max() <= _SAME * size)


def _eigen_root(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Q and Q D^1/2."""
    from scipy.linalg import eigh

    values, Q = eigh(A, driver="evd", check_finite=False)
    largest = max(values[-1], 0.0)
    if values[0] < -_INDEFINITE * max(largest, 1e-300):
        raise NotPositiveError("the matrix is not positive semidefinite")
    values = np.where(values > _RANK * largest, values, 0.0)
    return Q, Q * np.sqrt(values)


def _rotated(cp, patterns, relationships, order, roots, symbolic) -> RotatedProblem:
    """The ordinary problem of the rotated products."""
    lead = _related(relationships)
    factors, first = [], order[lead]
    for f, T, levels in zip(cp.factors, roots, order, strict=True):
        own = T[levels]
        squares = np.sum(own**2, axis=0)  # eigenvalues, or ones; zero for levels without rows
        counts = np.zeros(T.shape[1], dtype=np.int64)
        counts[: len(first)] = f.counts[levels[0]]
        factors.append(
            FactorProducts(
                squares[:, None, None] * f.zz[levels[0]],
                np.tensordot(own, f.zr[levels], (0, 0)),
                counts,
                f.zz_unweighted,
            )
        )
    J = len(first)
    latent = np.arange(J)
    pairs = {}
    for (k, m), pair in cp.pairs.items():
        left, right = roots[k][order[k]][:, :J], roots[m][order[m]][:, :J]
        scale = np.sum(left * right, axis=0)
        pairs[k, m] = PairProducts(
            latent, latent, scale[:, None, None] * pair.values[0], np.full(J, pair.counts[0])
        )
    rotated = replace(cp, factors=tuple(factors), pairs=pairs)
    plain = prepare(rotated, patterns, symbolic=symbolic)
    return RotatedProblem(
        cp=rotated,
        patterns=plain.patterns,
        symbolic=plain.symbolic,
        values=plain.values,
        coordinates=plain.coordinates,
        theta_index=plain.theta_index,
        roots=roots,
        relationships=relationships,
        original=cp,
        order=order,
    )


@effect_variance.register
def _(problem: RotatedProblem, state, factors: Sequence[FactorRows]) -> np.ndarray:
    """Row variances: latent effects are correlated across factors only, one by one."""
    n = len(factors[0].codes)
    out = np.zeros(n)
    for k, f in enumerate(factors):
        for m in range(k + 1):
            g = factors[m]
            J = min(problem.roots[k].shape[1], problem.roots[m].shape[1])
            for a in range(f.q):
                for b in range(g.q if m < k else a + 1):
                    C = _latent_covariance(problem, state, (k, a), (m, b), J)
                    value = f.Z[:, a] * g.Z[:, b]
                    value = value * _weighted(
                        problem.roots[k], problem.roots[m], C, f.codes, g.codes
                    )
                    out += value if (k, a) == (m, b) else 2 * value
    return out


_CHUNK = 2048


def _weighted(left, right, C, rows, columns) -> np.ndarray:
    """sum_l left[i, l] right[j, l] C_l for each pair of levels (i, j)."""
    out = np.empty(len(rows))
    J = len(C)
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        out[part] = np.einsum("il,il,l->i", left[rows[part], :J], right[columns[part], :J], C)
    return out


def _latent_covariance(problem, state, first, second, J: int) -> np.ndarray:
    """(J,) covariances over sigma^2 of two latent effects of each l, by polarization."""

    def quadratic(*chosen) -> np.ndarray:
        factors = []
        for k, pattern in enumerate(problem.patterns):
            Z = np.zeros((J, pattern.q))
            for factor, effect in chosen:
                if factor == k:
                    Z[:, effect] += 1.0
            size = problem.roots[k].shape[1]
            factors.append(FactorRows(np.minimum(np.arange(J), size - 1), Z, size))
        used = [k for k in range(len(factors)) if any(k == factor for factor, _ in chosen)]
        return _node_quadratic(state, factors, used)

    if first == second:
        return quadratic(first)
    return 0.5 * (quadratic(first, second) - quadratic(first) - quadratic(second))
