"""Cross-products add, subtract and keep their digits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayeslmm.gaussian import (
    CrossProducts,
    FactorRows,
    FixedPrior,
    log_marginal,
    prepare,
    profiled_criterion,
    profiled_criterion_and_gradient,
    solve,
    with_prior,
)

from .gaussian_helpers import check, designs, random_design


def part(design, rows):
    weights = None if design.weights is None else design.weights[rows]
    return CrossProducts.from_rows(
        design.y[rows], design.X[rows], [f.take(rows) for f in design.factors], weights
    )


def assert_same(a, b, rtol=1e-10):
    b = b.shifted_to(a.shift)
    assert (a.n, a.n_dropped) == (b.n, b.n_dropped)
    assert a.sum_log_weights == pytest.approx(b.sum_log_weights, abs=1e-12)
    np.testing.assert_allclose(a.gram, b.gram, rtol=rtol, atol=1e-10)
    np.testing.assert_allclose(a.gram_unweighted, b.gram_unweighted, rtol=rtol, atol=1e-10)
    for f, g in zip(a.factors, b.factors, strict=True):
        np.testing.assert_array_equal(f.counts, g.counts)
        np.testing.assert_allclose(f.zz, g.zz, rtol=rtol, atol=1e-12)
        np.testing.assert_allclose(f.zr, g.zr, rtol=rtol, atol=1e-10)
        np.testing.assert_allclose(f.zz_unweighted, g.zz_unweighted, rtol=rtol, atol=1e-12)
    for key, pair in a.pairs.items():
        np.testing.assert_array_equal(pair.rows, b.pairs[key].rows)
        np.testing.assert_array_equal(pair.columns, b.pairs[key].columns)
        np.testing.assert_allclose(pair.values, b.pairs[key].values, rtol=rtol, atol=1e-12)


@check
@given(designs(), st.integers(0, 36), st.integers(0, 36))
def test_any_split_of_the_rows_adds_up(design, i, j):
    i, j = sorted((i, j))
    rows = np.random.default_rng(i * 40 + j).permutation(36)
    parts = [part(design, rows[:i]), part(design, rows[i:j]), part(design, rows[j:])]
    total = parts[0] + parts[1] + parts[2]
    assert_same(design.cp, total)
    whole = profiled_criterion(prepare(design.cp, design.patterns), design.theta)
    added = profiled_criterion(prepare(total, design.patterns), design.theta)
    assert added == pytest.approx(whole, rel=1e-11)


@check
@given(designs(), st.integers(1, 12))
def test_rows_can_be_taken_away_and_the_symbolic_analysis_reused(design, size):
    rows = np.random.default_rng(size).permutation(36)
    full = design.cp
    left = full - part(design, rows[:size])
    direct = part(design, rows[size:])
    problem = prepare(left, design.patterns, symbolic=prepare(full, design.patterns).symbolic)
    expected = prepare(direct, design.patterns)
    value, gradient = profiled_criterion_and_gradient(problem, design.theta)
    value0, gradient0 = profiled_criterion_and_gradient(expected, design.theta)
    assert value == pytest.approx(value0, rel=1e-9)
    np.testing.assert_allclose(gradient, gradient0, rtol=1e-7, atol=1e-8)


def test_leaving_a_group_out_is_the_difference_of_two_densities():
    design = random_design(4, 2, [2, 1], "crossed", n=40)
    gone = design.factors[0].codes == 2
    prior = FixedPrior.normal([0, 0], np.eye(2))
    model = with_prior(prepare(design.cp, design.patterns), prior)
    left = design.cp - part(design, gone)
    rest = with_prior(prepare(left, design.patterns, symbolic=model.problem.symbolic), prior)
    K = design.covariance() + design.X @ design.X.T
    a, b = np.flatnonzero(gone), np.flatnonzero(~gone)
    gain = np.linalg.solve(K[np.ix_(b, b)], K[np.ix_(b, a)])
    mean, V = gain.T @ design.y[b], K[np.ix_(a, a)] - K[np.ix_(a, b)] @ gain
    r = design.y[a] - mean
    expected = -0.5 * (
        len(a) * np.log(2 * np.pi) + np.linalg.slogdet(V)[1] + r @ np.linalg.solve(V, r)
    )
    Ls = design.absolute
    difference = log_marginal(model, Ls, design.sigma) - log_marginal(rest, Ls, design.sigma)
    assert difference == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("coding", ["intercept", "cells"])
def test_a_response_and_covariate_far_from_zero_keep_their_digits(coding):
    rng = np.random.default_rng(0)
    n = 300
    codes = rng.integers(0, 20, n)
    cell = rng.integers(0, 3, n)
    first = np.ones((n, 1)) if coding == "intercept" else np.eye(3)[cell]
    x = np.round(rng.normal(size=n), 6)  # survives the addition of a million exactly enough
    y = np.round(rng.normal(size=n) + 0.3 * x + rng.normal(size=20)[codes], 6)
    factors = [FactorRows(codes, np.ones((n, 1)), 20)]
    far_y, far_x = y + 1e9, x + 1e6
    near_y, near_x = far_y - 1e9, far_x - 1e6  # what rounding has left of the noise
    patterns = random_design(0, 1, [1], "crossed").patterns
    far = prepare(
        CrossProducts.from_rows(far_y, np.column_stack([first, far_x]), factors), patterns
    )
    near = prepare(
        CrossProducts.from_rows(near_y, np.column_stack([first, near_x]), factors), patterns
    )
    a, b = solve(far, np.array([0.7])), solve(near, np.array([0.7]))
    assert a.loglik == pytest.approx(b.loglik, rel=1e-10)
    assert a.sigma == pytest.approx(b.sigma, rel=1e-10)
    assert a.beta[-1] == pytest.approx(b.beta[-1], rel=1e-9)
    np.testing.assert_allclose(a.b[0], b.b[0], rtol=1e-8, atol=1e-11)
    centre = a.beta[0] + a.beta[-1] * 1e6 - 1e9
    assert centre == pytest.approx(b.beta[0], abs=1e-6)
    halves = [
        CrossProducts.from_rows(far_y[s], np.column_stack([first, far_x])[s], [factors[0].take(s)])
        for s in (np.arange(n) < 120, np.arange(n) >= 120)
    ]
    added = solve(prepare(halves[0] + halves[1], patterns), np.array([0.7]))
    assert added.loglik == pytest.approx(b.loglik, rel=1e-10)


def test_without_an_intercept_the_shift_is_undone():
    rng = np.random.default_rng(1)
    n = 60
    x = rng.normal(size=(n, 1)) + 5.0
    y = 2.0 * x[:, 0] + rng.normal(size=n) + 10
    codes = rng.integers(0, 6, n)
    design = random_design(0, 1, [1], "crossed")
    cp = CrossProducts.from_rows(y, x, [FactorRows(codes, np.ones((n, 1)), 6)])
    beta = solve(prepare(cp, design.patterns), np.zeros(1)).beta
    np.testing.assert_allclose(beta, np.linalg.lstsq(x, y)[0], rtol=1e-11)


def test_rows_of_zero_weight_are_dropped_and_counted():
    design = random_design(2, 2, [2, 1], "crossed", weighted=True)
    weights = design.weights.copy()
    weights[:7] = 0.0
    cp = CrossProducts.from_rows(design.y, design.X, design.factors, weights)
    assert (cp.n, cp.n_dropped) == (29, 7)
    kept = part(design, np.arange(36) >= 7)
    np.testing.assert_allclose(cp.gram, kept.gram, rtol=1e-13)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": -np.ones(36)}, "weights"),
        ({"weights": np.full(36, np.nan)}, "weights"),
        ({"weights": np.ones(35)}, "weights"),
        ({"y": np.full(36, np.inf)}, "finite"),
        ({"X": np.full((36, 2), np.nan)}, "finite"),
        ({"X": np.ones((35, 2))}, "expected"),
    ],
)
def test_bad_rows_are_refused(change, message):
    design = random_design(2, 1, [2], "crossed")
    arguments = {"y": design.y, "X": design.X, "factors": design.factors} | change
    with pytest.raises(ValueError, match=message):
        CrossProducts.from_rows(**arguments)


def test_bad_factors_are_refused():
    with pytest.raises(ValueError, match="integers"):
        FactorRows(np.array([0.0, 1.0]), np.ones((2, 1)), 2)
    with pytest.raises(ValueError, match="must lie in"):
        FactorRows(np.array([0, 2]), np.ones((2, 1)), 2)
    with pytest.raises(ValueError, match="finite"):
        FactorRows(np.array([0, 1]), np.array([[1.0], [np.nan]]), 2)


def test_taking_away_what_is_not_there_is_refused():
    design = random_design(2, 2, [1, 1], "crossed")
    small = part(design, np.arange(36) < 5)
    with pytest.raises(ValueError, match="take away"):
        _ = small - design.cp


def test_variances_of_predictors_come_without_rows():
    design = random_design(2, 2, [2, 1], "crossed", weighted=True, p=3)
    cp = design.cp
    G, sums = cp.gram_unweighted[:3, :3], cp.gram_unweighted[-1, :3]
    covariance = (G - np.outer(sums, sums) / cp.n) / (cp.n - 1)
    np.testing.assert_allclose(covariance, np.cov(design.X.T), rtol=1e-12, atol=1e-12)
    for k, L in enumerate(design.absolute):
        S = L @ L.T
        expected = np.mean(np.einsum("ia,ab,ib->i", design.factors[k].Z, S, design.factors[k].Z))
        found = np.sum(S * cp.factors[k].zz_unweighted) / cp.n
        assert found == pytest.approx(expected, rel=1e-12)
