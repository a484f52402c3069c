"""Levels with a known covariance: every quantity equals that of dense n x n matrices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import scipy.linalg as sl
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from bayeslmm.gaussian import (
    CrossProducts,
    FactorRows,
    FixedPrior,
    Relationship,
    conditional_moments,
    effect_covariances,
    log_marginal,
    profiled_criterion_and_gradient,
    rotated_for_draws,
    solve,
    variance_derivative_terms,
    with_prior,
)
from bayeslmm.gaussian.related.coupled import CoupledProblem
from bayeslmm.gaussian.related.relationship import NotPositiveError, semidefinite_root
from bayeslmm.gaussian.related.rotation import RotatedProblem, prepare_related
from bayeslmm.gaussian.sparse import sparse_pattern
from bayeslmm.likelihood.satterthwaite import _first_derivatives
from bayeslmm.parts.patterns import CovariancePattern, pack_theta

from .gaussian_helpers import draws_at, log_marginal_and_gradient, row_moments

J, SIGMA = 30, 0.8


@cache
def related() -> np.ndarray:
    """Additive relationships of 30 animals over several generations, some inbred."""
    rng = np.random.default_rng(1)
    A = np.eye(J)
    for i in range(6, J):
        s, d = 2 * rng.integers(0, i // 2), 2 * rng.integers(0, i // 2) + 1
        A[i, :i] = A[:i, i] = 0.5 * (A[s, :i] + A[d, :i])
        A[i, i] = 1 + 0.5 * A[s, d]
    return A


def clones() -> np.ndarray:
    """The same with two pairs of identical twins: singular."""
    A = related().copy()
    for twin, other in ((29, 28), (11, 10)):
        A[twin], A[twin, twin] = A[other], A[other, other]
        A[:, twin] = A[twin]
    return A


@dataclass(frozen=True)
class Case:
    problem: object
    y: np.ndarray
    X: np.ndarray
    factors: list
    As: list
    Ls: list

    @property
    def Z(self):
        return [_dense_z(f) for f in self.factors]

    def V(self, Ls=None, sigma=SIGMA):
        Ls = self.Ls if Ls is None else Ls
        V = sigma**2 * np.eye(len(self.y))
        for Z, A, L in zip(self.Z, self.As, Ls, strict=True):
            V = V + Z @ np.kron(A, L @ L.T) @ Z.T
        return V

    def log_likelihood(self, Ls=None, sigma=SIGMA):
        """Restricted, as with a flat prior on beta."""
        V, X = self.V(Ls, sigma), self.X
        n, p = X.shape
        Vi = np.linalg.inv(V)
        P = X.T @ Vi @ X
        e = self.y - X @ np.linalg.solve(P, X.T @ Vi @ self.y)
        log_det = np.linalg.slogdet(V)[1] + np.linalg.slogdet(P)[1]
        return -0.5 * ((n - p) * np.log(2 * np.pi) + log_det + e @ Vi @ e)


def _dense_z(f: FactorRows) -> np.ndarray:
    Z = np.zeros((len(f.codes), f.n_levels, f.q))
    Z[np.arange(len(f.codes)), f.codes] = f.Z
    return Z.reshape(len(f.codes), -1)


#: form of the relationship, records, effects, permanent environment, number of herds, type wanted
CASES = {
    "sparse precision": ("precision", "unbalanced", 1, False, 0, CoupledProblem),
    "sparse, everything": ("precision", "unbalanced", 2, True, 5, CoupledProblem),
    "sparse, balanced": ("precision", "three", 1, True, 0, CoupledProblem),
    "dense, unbalanced": ("covariance", "unbalanced", 1, True, 5, CoupledProblem),
    "dense, slopes": ("covariance", "unbalanced", 2, True, 0, CoupledProblem),
    "rotated": ("covariance", "one", 1, False, 0, RotatedProblem),
    "rotated, permanent": ("covariance", "three", 1, True, 0, RotatedProblem),
    "rotated, slopes": ("covariance", "three", 2, False, 0, RotatedProblem),
    "rotated, clones": ("clones", "one", 1, False, 0, RotatedProblem),
    "rotated, unbalanced": ("covariance", "unbalanced", 1, False, 0, RotatedProblem),
    "rotated, clones, herds": ("clones", "unbalanced", 1, False, 5, RotatedProblem),
    "rotated, permanent, herds": ("covariance", "three", 1, True, 5, RotatedProblem),
    "rotated, slopes, herds": ("covariance", "three", 2, False, 5, RotatedProblem),
    "rotated, many herds": ("covariance", "unbalanced", 1, False, 12, RotatedProblem),
}


@cache
def case(key: str) -> Case:
    form, records, q, permanent, herds, _ = CASES[key]
    rng = np.random.default_rng(sorted(CASES).index(key))
    if records == "unbalanced":
        codes = rng.integers(4, J, 80)
    elif records == "one":
        codes = rng.permutation(np.arange(4, J))
    else:
        codes = np.repeat(np.arange(4, J), 3)
    n = len(codes)
    X = np.column_stack([np.ones(n), rng.normal(5, 1, n), codes % 2])
    slope = np.tile([-1.0, 0.0, 1.0], n // 3) if records == "three" else X[:, 1] - 5
    Z = np.ones((n, 1)) if q == 1 else np.column_stack([np.ones(n), slope])
    A = clones() if form == "clones" else related()
    if form == "precision":
        inverse = np.linalg.inv(A)
        relationship = Relationship(
            precision=sparse.csr_array(np.where(np.abs(inverse) > 1e-9, inverse, 0.0))
        )
    else:
        relationship = Relationship(covariance=A)
    factors, As, relationships = [FactorRows(codes, Z, J)], [A], [relationship]
    if permanent:
        levels, own = np.unique(codes, return_inverse=True)
        factors.append(FactorRows(own, np.ones((n, 1)), len(levels)))
        As.append(np.eye(len(levels)))
        relationships.append(None)
    if herds:
        factors.insert(0, FactorRows(rng.integers(0, herds, n), np.ones((n, 1)), int(herds)))
        As.insert(0, np.eye(int(herds)))
        relationships.insert(0, None)
    y = X @ [100.0, 2.0, 1.0] + rng.normal(size=n) + rng.normal(size=J)[codes]
    Ls = []
    for f in factors:
        L = np.tril(rng.normal(size=(f.q, f.q)))
        np.fill_diagonal(L, np.abs(np.diag(L)) + 0.3)
        Ls.append(L)
    cp = CrossProducts.from_rows(y, X, factors)
    patterns = [CovariancePattern.full(f.q) for f in factors]
    problem = prepare_related(cp, patterns, relationships)
    return Case(problem, y, X, factors, As, Ls)


every_case = pytest.mark.parametrize("key", CASES)


def _related_position(c: Case) -> int:
    return next(k for k, A in enumerate(c.As) if len(A) == J)


@every_case
def test_the_factorization_is_chosen_by_structure(key):
    assert type(case(key).problem) is CASES[key][-1]


@every_case
def test_the_log_likelihood_is_that_of_the_dense_covariance(key):
    c = case(key)
    value = log_marginal(with_prior(c.problem), c.Ls, SIGMA)
    # twelve digits: both sides round differently
    assert value == pytest.approx(c.log_likelihood(), rel=1e-12)


@every_case
def test_the_gradient_is_that_of_finite_differences(key):
    c, h = case(key), 1e-5
    _, D, d_sigma2 = log_marginal_and_gradient(with_prior(c.problem), c.Ls, SIGMA)
    for k, L in enumerate(c.Ls):
        exact = 2 * D[k] @ L
        for a, b in zip(*np.tril_indices(len(L)), strict=True):
            sides = []
            for sign in (1, -1):
                Ls = [x.copy() for x in c.Ls]
                Ls[k][a, b] += sign * h
                sides.append(c.log_likelihood(Ls))
            # central differences: error h^2 times a third derivative, and rounding over h
            assert exact[a, b] == pytest.approx((sides[0] - sides[1]) / (2 * h), abs=2e-6)
    sides = [c.log_likelihood(sigma=SIGMA + s * h) for s in (1, -1)]
    assert 2 * SIGMA * d_sigma2 == pytest.approx((sides[0] - sides[1]) / (2 * h), abs=2e-6)


@every_case
def test_at_a_vanishing_variance_the_derivative_in_the_covariance_is_exact(key):
    c = case(key)
    k = _related_position(c)
    Ls = [L.copy() for L in c.Ls]
    Ls[k][-1] = 0.0
    value, D, _ = log_marginal_and_gradient(with_prior(c.problem), Ls, SIGMA)
    assert value == pytest.approx(c.log_likelihood(Ls), rel=1e-12)
    h = 1e-5

    def inward(step):
        moved = [L.copy() for L in Ls]
        moved[k][-1, -1] = np.sqrt(step)
        return c.log_likelihood(moved)

    slope = (-3 * inward(0) + 4 * inward(h) - inward(2 * h)) / (2 * h)
    # one-sided differences of second order: their error is of order h^2 times a third derivative
    assert D[k][-1, -1] == pytest.approx(slope, rel=1e-4, abs=1e-3)


@every_case
def test_conditional_means_and_covariances_are_those_of_dense_algebra(key):
    c = case(key)
    n, p = c.X.shape
    Vi = np.linalg.inv(c.V())
    P = np.linalg.inv(c.X.T @ Vi @ c.X)
    beta = P @ c.X.T @ Vi @ c.y
    Z = np.concatenate(c.Z, axis=1)
    G = sl.block_diag(*[np.kron(A, L @ L.T) for A, L in zip(c.As, c.Ls, strict=True)])
    b = G @ Z.T @ Vi @ (c.y - c.X @ beta)
    bX = G @ Z.T @ Vi @ c.X
    covariance = G - G @ Z.T @ Vi @ Z @ G + bX @ P @ bX.T
    moments = conditional_moments(with_prior(c.problem), c.Ls, SIGMA)
    np.testing.assert_allclose(moments.beta, beta, rtol=1e-9)
    np.testing.assert_allclose(np.concatenate([x.ravel() for x in moments.b]), b, atol=1e-9)
    blocks = effect_covariances(c.problem, c.Ls, SIGMA, FixedPrior.flat(p))
    diagonal = np.concatenate([np.einsum("jaa->ja", x).ravel() for x in blocks])
    np.testing.assert_allclose(diagonal, np.diag(covariance), atol=1e-10)
    fitted, variance = row_moments(c.problem, c.Ls, SIGMA, (c.y, c.X, c.factors, None))
    both = np.concatenate([c.X, Z], axis=1)
    whole = np.block([[P, -P @ bX.T], [-bX @ P, covariance]])
    np.testing.assert_allclose(variance, np.einsum("ij,jk,ik->i", both, whole, both), atol=1e-10)
    np.testing.assert_allclose(fitted, c.X @ beta + Z @ b, rtol=1e-10)


@every_case
def test_draws_have_the_conditional_mean_and_covariance(key):
    c, m = case(key), 4000
    model = with_prior(c.problem)
    normals = np.random.default_rng(3).normal(size=(m, model.n_normals))
    _, draws = draws_at(model, c.Ls, SIGMA, normals)
    moments = conditional_moments(model, c.Ls, SIGMA)
    blocks = effect_covariances(c.problem, c.Ls, SIGMA, FixedPrior.flat(c.X.shape[1]))
    for drawn, mean, block in zip(draws, moments.b, blocks, strict=True):
        sd = np.sqrt(np.maximum(np.einsum("jaa->ja", block), 1e-300))
        # at most 120 normal means: one beyond 7 standard errors in 4e9 runs of a right program
        assert np.max(np.abs(drawn.mean(axis=0) - mean) / sd) < 7 / np.sqrt(m)
        # sd of a sample variance is sqrt(2/m) of it: 7 of them
        assert np.max(np.abs(drawn.var(axis=0) / sd**2 - 1)) < 7 * np.sqrt(2 / m)


@every_case
def test_terms_of_kenward_roger_are_those_of_dense_matrices(key):
    c = case(key)
    terms = variance_derivative_terms(c.problem, c.Ls, SIGMA)
    derivatives = []
    for Z, A, pattern in zip(c.Z, c.As, c.problem.patterns, strict=True):
        for a, b in zip(*pattern.entries, strict=True):
            D = np.zeros((pattern.q, pattern.q))
            D[a, b] = D[b, a] = 1.0
            derivatives.append(Z @ np.kron(A, D) @ Z.T)
    derivatives.append(np.eye(len(c.y)))
    Vi = np.linalg.inv(c.V())
    half = [Vi @ D for D in derivatives]
    for i, left in enumerate(half):
        P = c.X.T @ left @ Vi @ c.X
        np.testing.assert_allclose(terms.P[i], P, atol=1e-10 * np.abs(P).max())
        assert terms.trace_first[i] == pytest.approx(np.trace(left), rel=1e-9)
        for j, right in enumerate(half):
            assert terms.trace[i, j] == pytest.approx(np.trace(left @ right), rel=1e-9)
            Q = c.X.T @ left @ right @ Vi @ c.X
            np.testing.assert_allclose(terms.Q[i, j], Q, atol=1e-10 * np.abs(Q).max())


@every_case
def test_slopes_for_satterthwaite_are_those_of_finite_differences(key):
    c = case(key)
    theta = pack_theta(c.problem.patterns, [L / SIGMA for L in c.Ls])
    slopes, derivatives = _first_derivatives(c.problem, solve(c.problem, theta))
    for i in range(len(theta)):
        sides = []
        for sign in (1, -1):
            moved = theta.copy()
            moved[i] += sign * 1e-6
            sides.append(solve(c.problem, moved))
        scale = [np.log(s.sigma**2) for s in sides]
        vcov = [s.vcov / s.sigma**2 for s in sides]
        # rounding of about 1e-13 of the largest entries, over 2e-6
        assert slopes[i] == pytest.approx((scale[0] - scale[1]) / 2e-6, abs=1e-5)
        np.testing.assert_allclose(derivatives[i], (vcov[0] - vcov[1]) / 2e-6, atol=1e-5)


@every_case
def test_another_response_or_fewer_rows_give_the_same_as_a_fresh_start(key):
    c = case(key)
    rng = np.random.default_rng(8)
    theta = pack_theta(c.problem.patterns, c.Ls)
    relationships = c.problem.relationships
    kept = np.flatnonzero(c.factors[_related_position(c)].codes != 7)
    for rows, y in ((slice(None), rng.normal(size=len(c.y))), (kept, c.y)):
        factors = [f.take(rows) for f in c.factors]
        cp = CrossProducts.from_rows(y[rows], c.X[rows], factors)
        if rows is not kept:
            fresh = prepare_related(cp, c.problem.patterns, relationships)
        else:  # as leaving a group out does it
            part = np.setdiff1d(np.arange(len(c.y)), kept)
            gone = CrossProducts.from_rows(
                c.y[part], c.X[part], [f.take(part) for f in c.factors],
                shift=getattr(c.problem, "original", c.problem.cp).shift,
            )  # fmt: skip
            fresh = prepare_related(cp, c.problem.patterns, relationships)
            cp = getattr(c.problem, "original", c.problem.cp) - gone
        renewed = c.problem.renewed(cp)
        for reml in (True, False):
            one = profiled_criterion_and_gradient(renewed, theta, reml)
            two = profiled_criterion_and_gradient(fresh, theta, reml)
            assert one[0] == pytest.approx(two[0], rel=1e-10)
            np.testing.assert_allclose(one[1], two[1], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("key", ["sparse precision", "sparse, balanced"])
def test_a_precision_rotated_for_sampling_is_the_same_model(key):
    c = case(key)
    rotated = rotated_for_draws(c.problem)
    assert type(rotated) is RotatedProblem
    assert rotated.head_only
    one, two = (with_prior(p) for p in (c.problem, rotated))
    value, D, d_sigma2 = log_marginal_and_gradient(two, c.Ls, SIGMA)
    assert value == pytest.approx(c.log_likelihood(), rel=1e-12)
    expected = log_marginal_and_gradient(one, c.Ls, SIGMA)
    for found, wanted in zip(D, expected[1], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-9)
    assert d_sigma2 == pytest.approx(expected[2], rel=1e-8)
    # ancestors without rows too
    moments = [conditional_moments(m, c.Ls, SIGMA) for m in (one, two)]
    for found, wanted in zip(moments[1].b, moments[0].b, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-9)
    blocks = [effect_covariances(m.problem, c.Ls, SIGMA) for m in (one, two)]
    for found, wanted in zip(blocks[1], blocks[0], strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-9)


def test_a_rotation_that_does_not_pay_is_left():
    for key in ("sparse, everything", "dense, unbalanced", "rotated"):
        problem = case(key).problem
        assert rotated_for_draws(problem) is problem


@pytest.mark.parametrize("A", [related(), clones()], ids=["regular", "clones"])
def test_simulated_levels_have_the_covariance(A):
    relationship = Relationship(covariance=A)
    root = relationship.dense_root
    np.testing.assert_allclose(root @ root.T, A, atol=1e-12)
    np.testing.assert_allclose(relationship.diagonal, np.diag(A))


def test_a_precision_knows_its_covariance():
    A = related()
    relationship = Relationship(precision=sparse.csr_array(np.linalg.inv(A)))
    np.testing.assert_allclose(relationship.diagonal, np.diag(A), rtol=1e-11)
    np.testing.assert_allclose(relationship.dense(), A, atol=1e-11)
    np.testing.assert_allclose(
        relationship.between(np.array([3, 20, 3])), A[np.ix_([3, 20, 3], [3, 20, 3])], atol=1e-11
    )
    root = relationship.dense_root
    np.testing.assert_allclose(root @ root.T, A, atol=1e-11)
    assert relationship.log_det_precision == pytest.approx(-np.linalg.slogdet(A)[1], rel=1e-11)


def test_an_indefinite_matrix_has_no_root():
    A = np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.9], [0.0, 0.9, 1.0]])
    with pytest.raises(NotPositiveError):
        semidefinite_root(A)
    with pytest.raises(NotPositiveError):
        _ = Relationship(precision=sparse.csr_array(A)).factor


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 140), st.floats(0.0, 0.3), st.integers(1, 3), st.integers(0, 2**31 - 1)
)  # fmt: skip
def test_the_sparse_factor_solves_and_inverts_like_a_dense_one(nodes, density, q, seed):
    rng = np.random.default_rng(seed)
    links = sparse.random_array((nodes, nodes), density=density, rng=rng)
    links = sparse.csr_array(abs(links) + abs(links).T + sparse.eye_array(nodes))
    pattern = sparse_pattern(links, np.full(nodes, q))
    full = np.kron(links.toarray() != 0, np.ones((q, q)))
    A = np.where(full, rng.normal(size=full.shape), 0.0)
    A = A + A.T
    A[np.diag_indices(len(A))] = np.abs(A).sum(axis=1) + 1.0
    order = (pattern.order[:, None] * q + np.arange(q)).ravel()
    A = A[np.ix_(order, order)]
    h = pattern.n_head
    columns = np.repeat(np.arange(h), np.diff(pattern.ptr))
    factor = pattern.factorize(A[pattern.rows, columns].copy(), A[h:, h:].copy())
    assert factor.log_det == pytest.approx(np.linalg.slogdet(A)[1], rel=1e-12, abs=1e-12)
    B = rng.normal(size=(len(A), 2))
    np.testing.assert_allclose(factor.solve(B), np.linalg.solve(A, B), atol=1e-11)
    inverse = np.linalg.inv(A)
    head, tail = factor.inverse
    np.testing.assert_allclose(head, inverse[pattern.rows, columns], atol=1e-12)
    np.testing.assert_allclose(tail, inverse[h:, h:], atol=1e-12)
