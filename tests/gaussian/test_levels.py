"""The passes over all levels at a time give what the general elimination gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayeslmm.gaussian import (
    CrossProducts,
    FactorRows,
    _lapack,
    draw_conditional_many,
    log_marginal_and_draw,
    log_marginal_flat,
    prepare,
    profiled_criterion,
    profiled_criterion_and_gradient,
    with_prior,
)
from bayeslmm.gaussian._levels import _log_product
from bayeslmm.parts.patterns import CovariancePattern


def _problems(seed, q, p=2, levels=7, route="auto"):
    """The same model with and without columns per level; one level has fewer rows than effects."""
    rng = np.random.default_rng(seed)
    codes = np.concatenate(([0], rng.integers(1, levels, 40), np.arange(levels)))
    Z = np.column_stack([np.ones(len(codes)), rng.normal(size=len(codes))])[:, :q]
    X = np.column_stack([np.ones(len(codes)), rng.normal(size=(len(codes), p))])[:, :p]
    y = rng.normal(size=len(codes)) + rng.normal(size=levels)[codes]
    cp = CrossProducts.from_rows(y, X, [FactorRows(codes, Z, levels)])
    fast = prepare(cp, [CovariancePattern(q, [tuple(range(q))])], route=route)
    slow = replace(fast, values=fast.values._replace(levels=np.empty((0, 0))))
    return fast, slow


def _factor(rng, q, size):
    L = np.tril(rng.normal(size=(q, q))) * size
    return L.ravel()


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10_000), st.sampled_from([1, 2]), st.sampled_from([0, 1, 2, 3]),
    st.sampled_from([1e-6, 1e-2, 1.0, 1e3]),
)  # fmt: skip
def test_density_and_gradient_are_those_of_the_general_elimination(seed, q, p, size):
    fast, slow = (with_prior(problem) for problem in _problems(seed, q, p))
    assert fast.problem.values.levels.size
    L = _factor(np.random.default_rng(seed), q, size)
    one, two = log_marginal_flat(fast, L, 0.7), log_marginal_flat(slow, L, 0.7)
    assert one[0] == pytest.approx(two[0], rel=1e-10)
    # digits are lost where L hardly matters or dominates, in both; per unit of log L
    scale = np.abs(two[1]).max() + 1e-300
    np.testing.assert_allclose(one[1] / scale, two[1] / scale, atol=1e-6)
    assert one[2] == pytest.approx(two[2], rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("q", [1, 2])
def test_the_profiled_criterion_is_the_same_at_the_boundary_too(q):
    fast, slow = _problems(3, q)
    inside = np.array([0.8, -0.3, 0.5])[: len(fast.theta_index)]
    boundary = inside.copy()
    boundary[-1] = 0.0  # the gradient then goes the general way
    for theta in (inside, boundary):
        assert profiled_criterion(fast, theta) == pytest.approx(profiled_criterion(slow, theta))
        one = profiled_criterion_and_gradient(fast, theta)[1]
        np.testing.assert_allclose(one, profiled_criterion_and_gradient(slow, theta)[1], atol=1e-9)


@pytest.mark.parametrize("q", [1, 2])
def test_the_same_normals_give_the_same_draws(q):
    fast, slow = (with_prior(problem) for problem in _problems(5, q))
    rng = np.random.default_rng(1)
    normals = rng.standard_normal((6, fast.n_normals))
    Ls = [np.stack([_factor(rng, q, 1.0).reshape(q, q) for _ in range(6)])]
    sigma = rng.uniform(0.5, 2.0, 6)
    one, two = (draw_conditional_many(m, Ls, sigma, normals) for m in (fast, slow))
    np.testing.assert_allclose(one[0], two[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(one[1][0], two[1][0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("route", ["auto", "dense"])
def test_density_and_draw_from_one_factorization_are_those_of_two(route):
    problem = with_prior(_problems(8, 2, route=route)[0])
    normals = np.random.default_rng(2).standard_normal(problem.n_normals)
    L = np.array([1.1, 0.0, -0.4, 0.6])
    value, fixed, effects = log_marginal_and_draw(problem, L, 0.7, normals)
    assert value == pytest.approx(log_marginal_flat(problem, L, 0.7, False)[0], rel=1e-12)
    beta, b = draw_conditional_many(problem, [L.reshape(1, 2, 2)], np.array([0.7]), normals[None])
    np.testing.assert_allclose(problem.problem.coordinates.to_user(fixed[None]), beta, rtol=1e-10)
    columns = problem.problem.symbolic.factor_columns(0)
    np.testing.assert_allclose(effects[columns], b[0][0], rtol=1e-8, atol=1e-12)


def test_the_product_of_many_determinants_neither_overflows_nor_hides_a_failure():
    x = np.concatenate((np.full(50, 1e90), np.full(3, 1e250), np.full(2000, 3.0)))
    assert _log_product(x) == pytest.approx(np.log(x).sum(), rel=1e-12)
    assert np.isnan(_log_product(np.array([2.0, np.nan, 1e300, 2.0])))


def test_lapack_without_the_lock_is_numpy_on_lower_triangles():
    rng = np.random.default_rng(0)
    A, B = rng.normal(size=(50, 30)), rng.normal(size=(30, 4))
    S = A.T @ A + np.eye(30)
    garbage = np.triu(np.full((30, 30), 99.0), 1)
    C = np.tril(S) + garbage
    assert _lapack.cholesky(C)
    np.testing.assert_allclose(np.tril(C), np.linalg.cholesky(S), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(_lapack.cholesky_solve(C, B), np.linalg.solve(S, B), atol=1e-10)
    expected = np.linalg.solve(np.linalg.cholesky(S).T, B)
    np.testing.assert_allclose(_lapack.solve_transposed(C, B), expected, atol=1e-10)
    inverse = C.copy()
    _lapack.cholesky_inverse(inverse)
    np.testing.assert_allclose(np.tril(inverse), np.tril(np.linalg.inv(S)), atol=1e-10)
    Q = np.tril(S) + garbage
    np.testing.assert_allclose(_lapack.times_symmetric(A, Q), A @ S, atol=1e-9)
    _lapack.subtract_gram(A, Q)
    np.testing.assert_allclose(np.tril(Q), np.eye(30), atol=1e-10)
    assert Q[0, 5] == 99.0
    assert not _lapack.cholesky(-np.eye(3))
