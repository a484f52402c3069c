"""One rotation by the eigenvectors of a kinship matrix, and every evaluation is linear in levels.

Where one factor has the covariance A (x) Sigma between its levels, latent effects v with
b = (T (x) I) v, T T' = A, can be chosen that are independent a priori and that no row joins:

- every level has the same Z_j'WZ_j (one record per individual, or the same number of them):
  T = Q D^1/2 with the eigenvectors of A = Q D Q' (Kang et al. 2008, Genetics 178, 1709-1723;
  Lippert et al. 2011, Nature Methods 8, 833-835; Zhou and Stephens 2012, Nature Genetics 44,
  821-824). A factor with the same levels (a permanent-environment effect) is rotated by Q with it;
- one effect per level (q = 1), any records: T = R U with a root R R' = A and the eigenvectors U of
  R'Z'WZ R.

Other factors stay as they are and meet every latent effect: a dense border, of which there must not
be much. Families (blocks of zeros in A) are rotated apart. What results is an ordinary problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bayeslmm.gaussian.blas import single_threaded_blas
from bayeslmm.gaussian.crossproducts import (
    CrossProducts,
    FactorProducts,
    PairProducts,
    same_effects,
)
from bayeslmm.gaussian.problem import Problem, prepare
from bayeslmm.gaussian.related.coupled import prepare_coupled
from bayeslmm.gaussian.related.relationship import (
    _INDEFINITE,
    _RANK,
    NotPositiveError,
    Relationship,
    families,
    root_with_rows_first,
    semidefinite_root,
)
from bayeslmm.gaussian.symbolic import analyze
from bayeslmm.parts.patterns import CovariancePattern

#: Differences between levels below this share are rounding errors.
_SAME = 1e-12
#: Effects of other factors per related effect up to which a dense border is cheaper than a dense
#: matrix over the related ones.
_BORDER = 0.5
#: Columns of a border up to which loops are as fast as BLAS.
_NARROW = 8
#: Levels up to which a precision is worth its eigenvectors for sampling.
_MANY_LEVELS = 2500


@dataclass(frozen=True)
class RotatedProblem(Problem):
    """A :class:`Problem` of rotated cross-products; ``cp`` are the rotated ones.

    Attributes
    ----------
    relationships : tuple of Relationship or None
    original : CrossProducts
        As given by the caller.
    order : tuple of (J,) int array or None
        Per factor, its level that meets each observed level of the related factor; None for
        factors that are not rotated.
    """

    relationships: tuple[Relationship | None, ...] = ()
    original: CrossProducts | None = None
    order: tuple[np.ndarray | None, ...] = ()

    @property
    def products(self) -> CrossProducts:
        assert self.original is not None  # every rotated problem is made with it
        return self.original

    @property
    def bordered(self) -> bool:
        """Factors that are not rotated make latent effects dependent given the data."""
        return any(levels is None for levels in self.order)

    def right_sides(self, products: Sequence[np.ndarray]) -> np.ndarray:
        """See :meth:`Problem.right_sides`."""
        latent = [
            own if T is None else np.tensordot(T[levels], own[levels], (0, 0))
            for own, T, levels in zip(products, self.roots, self.order, strict=True)
        ]
        return super().right_sides(latent)

    def renewed(self, cp: CrossProducts) -> Problem:
        """The same model for other cross-products of the same levels."""
        if same_effects(cp, self.products):
            fresh: Problem = _rotated(
                cp, self.patterns, self.relationships, self.order, self.roots, self.symbolic
            )
        else:
            fresh = prepare_related(cp, self.patterns, self.relationships)
        return replace(fresh, known_sigma=self.known_sigma)


def prepare_related(
    cp: CrossProducts,
    patterns: Sequence[CovariancePattern],
    relationships: Sequence[Relationship | None],
) -> Problem:
    """Lay cross-products out as :func:`prepare`, rotated where one rotation is enough.

    Parameters
    ----------
    cp : CrossProducts
    patterns : sequence of CovariancePattern
    relationships : sequence of Relationship or None
        Known covariance between the levels of each factor.
    """
    patterns, relationships = tuple(patterns), tuple(relationships)
    if all(r is None for r in relationships):
        return prepare(cp, patterns)
    order = rotated_levels(cp, relationships)
    if order is None:
        return prepare_coupled(cp, patterns, relationships)
    roots = _rotation(cp, relationships, order)
    return _rotated(cp, patterns, relationships, order, roots, None)


def rotated_for_draws(problem: Any) -> Problem:
    """The same model, with a sparse precision turned into eigenvectors where thousands of
    evaluations repay these: up to a few thousand related levels, hardly a border.

    ``problem`` itself otherwise.
    """
    lead = _related(getattr(problem, "relationships", ()))
    if lead is None or problem.relationships[lead].precision is None:
        return problem
    given = problem.relationships[lead]
    if given.n_levels > _MANY_LEVELS or problem.cp.factors[lead].counts.sum() == 0:
        return problem
    dense = list(problem.relationships)
    # a stand-in: only what kind it is matters to the choice
    dense[lead] = Relationship(covariance=np.empty((0, 0)))
    order = rotated_levels(problem.cp, tuple(dense))
    border = [
        f.n_levels * f.q
        for f, levels in zip(problem.cp.factors, order or (), strict=False)
        if levels is None
    ]
    if order is None or sum(border) > _NARROW:
        return problem
    with single_threaded_blas():
        dense[lead] = Relationship(covariance=given.dense())
        fresh = prepare_related(problem.cp, problem.patterns, dense)
    return replace(fresh, known_sigma=problem.known_sigma)


def rotated_levels(
    cp: CrossProducts, relationships: tuple[Relationship | None, ...]
) -> tuple[np.ndarray | None, ...] | None:
    """Per factor the levels that are rotated, in the order of those of the related factor.

    None for a factor that is not; None in place of the tuple where no rotation helps.
    """
    lead = _related(relationships)
    given = None if lead is None else relationships[lead]
    if lead is None or given is None or given.covariance is None:
        return None
    if any(r is not None for k, r in enumerate(relationships) if k != lead):
        return None
    f = cp.factors[lead]
    first = np.flatnonzero(f.counts > 0)
    balanced = _constant(f.zz[first])
    if not balanced and f.q > 1:
        return None
    order: list[np.ndarray | None] = [None] * len(cp.factors)
    order[lead] = first
    if balanced:
        for k in range(len(cp.factors)):
            if k != lead:
                order[k] = _matching(cp, lead, k, first, order)
    border = sum(g.n_levels * g.q for g, own in zip(cp.factors, order, strict=True) if own is None)
    return tuple(order) if border <= _BORDER * len(first) * f.q else None


def _matching(cp, lead: int, k: int, first: np.ndarray, order) -> np.ndarray | None:
    """Levels of factor k that meet those of the related factor one by one, all alike."""
    f, pair = cp.factors[k], cp.pairs[min(k, lead), max(k, lead)]
    own, other = (pair.rows, pair.columns) if lead < k else (pair.columns, pair.rows)
    met = np.argsort(own, kind="stable")
    if not np.array_equal(own[met], first) or len(np.unique(other)) < len(other):
        return None
    if f.n_levels != len(first):
        return None
    levels = other[met]
    if not _constant(f.zz[levels]) or not _constant(pair.values):
        return None
    for m, others in enumerate(order):
        if others is None:
            continue
        pair = cp.pairs[min(k, m), max(k, m)]
        mine, theirs = (pair.rows, pair.columns) if k < m else (pair.columns, pair.rows)
        place = np.empty(f.n_levels, dtype=np.int64)
        place[levels] = others
        if len(mine) != len(first) or not np.array_equal(place[mine], theirs):
            return None
        if not _constant(pair.values):
            return None
    return levels


def _related(relationships) -> int | None:
    """The first factor with a relationship."""
    return next((k for k, r in enumerate(relationships) if r is not None), None)


def _constant(blocks: np.ndarray) -> bool:
    size = np.abs(blocks).max(initial=0.0)
    return bool(len(blocks) and np.abs(blocks - blocks[0]).max() <= _SAME * size)


def _rotation(cp, relationships, order) -> tuple[np.ndarray | None, ...]:
    """T of every factor, (J_k, r_k); None where it is not rotated."""
    lead = _related(relationships)
    A, first, f = relationships[lead].covariance, order[lead], cp.factors[lead]
    observed = np.zeros(len(A), dtype=bool)
    observed[first] = True
    own = A[np.ix_(first, first)]
    balanced = _constant(f.zz[first])
    J, at = len(first), 0
    root, Q = np.zeros((J, J)), np.zeros((J, J))
    for part in families(own):
        block = own[np.ix_(part, part)]
        if balanced:
            vectors, found = _eigen_root(block)
            Q[part, at : at + len(part)] = vectors
        else:
            found = _record_root(block, f.zz[first[part], 0, 0])
        root[part, at : at + found.shape[1]] = found
        at += found.shape[1]
    root = root_with_rows_first(A, observed, root[:, :at])
    roots: list[np.ndarray | None] = []
    for k, levels in enumerate(order):
        if k == lead or levels is None:
            roots.append(root if k == lead else None)
            continue
        T = np.empty((J, J))
        T[levels] = Q
        roots.append(T)
    return tuple(roots)


def _eigen_root(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Q and Q D^1/2."""
    from scipy.linalg import eigh

    values, Q = eigh(A, driver="evd", check_finite=False)
    largest = max(values[-1], 0.0)
    if values[0] < -_INDEFINITE * max(largest, 1e-300):
        raise NotPositiveError("the matrix is not positive semidefinite")
    values = np.where(values > _RANK * largest, values, 0.0)
    return Q, Q * np.sqrt(values)


def _record_root(A: np.ndarray, zz: np.ndarray) -> np.ndarray:
    """(J, r) root T of A with T' diag(zz) T diagonal."""
    from scipy.linalg import eigh

    R = semidefinite_root(A)
    B = R.T @ (zz[:, None] * R)
    return R @ eigh(0.5 * (B + B.T), driver="evd", check_finite=False)[1]


def _rotated(cp, patterns, relationships, order, roots, symbolic) -> RotatedProblem:
    """The ordinary problem of the rotated products."""
    factors = []
    for f, T, levels in zip(cp.factors, roots, order, strict=True):
        if T is None:
            factors.append(f)
            continue
        own = T[levels]
        counts = np.zeros(T.shape[1], dtype=np.int64)
        counts[: len(levels)] = f.counts[levels][: T.shape[1]]
        factors.append(
            FactorProducts(
                np.tensordot(own**2, f.zz[levels], (0, 0)),
                np.tensordot(own, f.zr[levels], (0, 0)),
                counts,
                f.zz_unweighted,
            )
        )
    pairs = {
        (k, m): _rotated_pair(pair, (roots[k], roots[m]), (order[k], order[m]), cp.factors[m])
        for (k, m), pair in cp.pairs.items()
    }
    rotated = replace(cp, factors=tuple(factors), pairs=pairs)
    if symbolic is None:
        symbolic = analyze(rotated, "syrk" if _wide_border(rotated, order) else "auto")
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


def _wide_border(rotated: CrossProducts, order) -> bool:
    """Whether the border is best taken off by dense products: one rotated factor, most of its
    latent effects meeting most of more than a few other effects.
    """
    lead = [k for k, levels in enumerate(order) if levels is not None]
    border = [f for f, levels in zip(rotated.factors, order, strict=True) if levels is None]
    if len(lead) > 1 or sum(f.n_levels * f.q for f in border) <= _NARROW:
        return False
    met = sum(len(pair.rows) for key, pair in rotated.pairs.items() if lead[0] in key)
    return met > 0.5 * rotated.factors[lead[0]].n_levels * sum(f.n_levels for f in border)


def _rotated_pair(pair: PairProducts, roots, order, second: FactorProducts) -> PairProducts:
    """Products of two factors of which none, one or both are rotated."""
    (T, S), (own, other) = roots, order
    if T is None and S is None:
        return pair
    if T is not None and S is not None:
        J = len(own)
        left, right = T[own][:, :J], S[other][:, :J]
        size = min(left.shape[1], right.shape[1])
        latent = np.arange(size)
        scale = np.sum(left[:, :size] * right[:, :size], axis=0)
        values = scale[:, None, None] * pair.values[0]
        return PairProducts(latent, latent, values, np.full(size, pair.counts[0]))
    if T is None:
        flipped = PairProducts(pair.columns, pair.rows, np.swapaxes(pair.values, 1, 2), pair.counts)
        found = _bordering(flipped, S, int(pair.rows.max(initial=-1)) + 1)
        return PairProducts(
            found.columns,
            found.rows,
            np.ascontiguousarray(np.swapaxes(found.values, 1, 2)),
            found.counts,
        )
    return _bordering(pair, T, second.n_levels)


def _bordering(pair: PairProducts, T: np.ndarray, n_levels: int) -> PairProducts:
    """T' times the products with a factor that is not rotated; families meet their own levels."""
    wide = np.zeros((len(T), n_levels, *pair.values.shape[1:]))
    wide[pair.rows, pair.columns] = pair.values
    values = np.tensordot(T, wide, (0, 0))
    rows, columns = np.nonzero(np.any(values != 0, axis=(2, 3)))
    return PairProducts(
        rows, columns, np.ascontiguousarray(values[rows, columns]), np.ones(len(rows), np.int64)
    )
