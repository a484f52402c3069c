"""Nearly collinear columns: as accurate as the rows, whatever is asked of the products.

The same model is written in columns that are far from collinear, of which the nearly collinear
ones are combinations without any rounding that matters: both must say the same.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from bayeslmm.gaussian import (
    CrossProducts,
    FactorRows,
    FixedPrior,
    RunningProducts,
    aliased_columns,
    prepare,
    profiled_criterion_and_gradient,
    solve,
    with_prior,
)
from bayeslmm.gaussian.aliasing import (
    plainly_independent,
    remaining_shares,
    remaining_shares_of_products,
)
from bayeslmm.gaussian.orthogonal import with_coefficient_fixed
from bayeslmm.parts.patterns import CovariancePattern

from .gaussian_helpers import aliased_in, draws_at, log_marginal_and_gradient, row_moments

N = 96
GAPS = [1e-3, 1e-5, 1e-6, 2e-7]


def rational_least_squares(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Coefficients by normal equations in exact arithmetic."""
    rows = [[Fraction(float(v)) for v in (*x, value)] for x, value in zip(X, y, strict=True)]
    p = X.shape[1]
    A = [[sum(r[i] * r[j] for r in rows) for j in range(p + 1)] for i in range(p)]
    for i in range(p):
        A[i] = [v / A[i][i] for v in A[i]]
        for k in range(p):
            if k != i:
                A[k] = [v - A[k][i] * w for v, w in zip(A[k], A[i], strict=True)]
    return np.array([float(row[p]) for row in A])


class Pair:
    """A model in [1, x, x + gap z] and in [1, x, z]."""

    def __init__(self, gap: float, *, weighted: bool = False, intercept: bool = True):
        rng = np.random.default_rng(3)
        x = rng.normal(size=N) + 2
        near = x + gap * rng.normal(size=N)
        z = (near - x) / gap  # the difference of neighboring numbers is exact
        first = [np.ones(N)] if intercept else []
        self.X, self.clean = np.column_stack([*first, x, near]), np.column_stack([*first, x, z])
        g, h = np.arange(N) % 12, rng.integers(0, 5, N)
        self.factors = [
            FactorRows(g, np.column_stack([np.ones(N), z]), 12),
            FactorRows(h, np.ones((N, 1)), 5),
        ]
        self.patterns = [CovariancePattern(2, ((0, 1),)), CovariancePattern(1, ((0,),))]
        self.y = 1 + 2 * x - 0.5 * z + rng.normal(size=12)[g] + rng.normal(size=N)
        self.weights = rng.uniform(0.2, 3.0, N) if weighted else None
        # near = x + gap z: coefficients of the clean columns from those of the near ones
        self.A = np.eye(self.X.shape[1])
        self.A[-2, -1], self.A[-1, -1] = 1.0, gap
        self.log_gap = np.log(gap)
        self.theta = np.array([0.8, 0.3, 0.6, 0.5])

    def problem(self, X: np.ndarray):
        return prepare(
            CrossProducts.from_rows(self.y, X, self.factors, self.weights), self.patterns
        )

    @property
    def problems(self):
        return self.problem(self.X), self.problem(self.clean)


@pytest.mark.parametrize("gap", GAPS)
def test_least_squares_is_that_of_exact_arithmetic(gap):
    pair = Pair(gap)
    problem = prepare(CrossProducts.from_rows(pair.y, pair.X, []), [])
    beta = solve(problem, np.zeros(0)).beta
    # a relative error of the rows' rounding over the gap, some 1e-16 / 2e-7, and a margin
    np.testing.assert_allclose(beta, rational_least_squares(pair.X, pair.y), rtol=3e-8)


@pytest.mark.parametrize("powers", [(1, 2), (1, 2, 3)])
def test_raw_powers_of_years_have_the_digits_of_their_rows(powers):
    rng = np.random.default_rng(0)
    year = np.repeat(np.arange(2010.0, 2020.0), 4)
    X = np.column_stack([np.ones(40), *(year**k for k in powers)])
    y = 0.3 * (year - 2014) + 0.05 * (year - 2014) ** 2 + rng.normal(size=40)
    assert len(aliased_columns(X)) == 0
    cp = CrossProducts.from_rows(y, X, [])
    assert len(aliased_in(cp)) == 0
    beta = solve(prepare(cp, []), np.zeros(0)).beta
    np.testing.assert_allclose(beta, rational_least_squares(X, y), rtol=1e-8)


@pytest.mark.parametrize("degree", [4, 7, 10])
def test_raw_polynomials_are_as_accurate_as_a_qr_of_the_rows(degree):
    x = np.arange(21.0)
    X = np.column_stack([x**k for k in range(degree + 1)])
    y = X[:, :5].sum(axis=1) + 1e3 * np.random.default_rng(0).normal(size=21)
    expected = rational_least_squares(X, y)
    beta = solve(prepare(CrossProducts.from_rows(y, X, []), []), np.zeros(0)).beta
    Q, R = np.linalg.qr(X)
    error = np.abs(np.linalg.solve(R, Q.T @ y) / expected - 1).max()
    assert np.abs(beta / expected - 1).max() < 10 * error + 1e-12


def test_longley_has_eleven_digits():
    """Certified by NIST (Statistical Reference Datasets, Longley 1967)."""
    columns = [
        [60323, 61122, 60171, 61187, 63221, 63639, 64989, 63761, 66019, 67857, 68169, 66513,
         68655, 69564, 69331, 70551],
        [83.0, 88.5, 88.2, 89.5, 96.2, 98.1, 99.0, 100.0, 101.2, 104.6, 108.4, 110.8, 112.6,
         114.2, 115.7, 116.9],
        [234289, 259426, 258054, 284599, 328975, 346999, 365385, 363112, 397469, 419180, 442769,
         444546, 482704, 502601, 518173, 554894],
        [2356, 2325, 3682, 3351, 2099, 1932, 1870, 3578, 2904, 2822, 2936, 4681, 3813, 3931,
         4806, 4007],
        [1590, 1456, 1616, 1650, 3099, 3594, 3547, 3350, 3048, 2857, 2798, 2637, 2552, 2514,
         2572, 2827],
        [107608, 108632, 109773, 110929, 112075, 113270, 115094, 116219, 117388, 118734, 120445,
         121950, 123366, 125368, 127852, 130081],
        list(range(1947, 1963)),
    ]  # fmt: skip
    y, *x = (np.array(column, dtype=float) for column in columns)
    certified = [
        -3482258.63459582, 15.0618722713733, -0.0358191792925910, -2.02022980381683,
        -1.03322686717359, -0.0511041056535807, 1829.15146461355,
    ]  # fmt: skip
    X = np.column_stack([np.ones(16), *x])
    beta = solve(prepare(CrossProducts.from_rows(y, X, []), []), np.zeros(0)).beta
    np.testing.assert_allclose(beta, certified, rtol=2e-11)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("gap", GAPS)
def test_likelihood_and_solution_are_those_of_the_clean_columns(gap, intercept, weighted):
    pair = Pair(gap, weighted=weighted, intercept=intercept)
    near, clean = pair.problems
    for reml in (True, False):
        value, slope = profiled_criterion_and_gradient(near, pair.theta, reml)
        expected, expected_slope = profiled_criterion_and_gradient(clean, pair.theta, reml)
        # log|X'V^-1X| changes by twice the log of the determinant of the change of columns
        assert value == pytest.approx(expected + 2 * reml * pair.log_gap, abs=1e-6)
        np.testing.assert_allclose(slope, expected_slope, rtol=1e-6, atol=1e-6)
        a, b = solve(near, pair.theta, reml), solve(clean, pair.theta, reml)
        assert a.sigma == pytest.approx(b.sigma, rel=1e-8)
        np.testing.assert_allclose(pair.A @ a.beta, b.beta, rtol=1e-6)
        np.testing.assert_allclose(
            np.diag(a.vcov)[-1] * pair.A[-1, -1] ** 2, np.diag(b.vcov)[-1], rtol=1e-6
        )
        np.testing.assert_allclose(a.b[0], b.b[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("gap", [1e-4, 2e-7])
def test_marginal_likelihood_and_draws_under_a_prior_are_those_of_the_clean_columns(gap):
    pair = Pair(gap)
    near, clean = pair.problems
    sd = np.array([10.0, 3.0, 2.0])
    prior = FixedPrior.on_combinations(np.eye(3), np.array([0.0, 1.0, 1.0]), sd)
    moved = FixedPrior(
        prior.root @ np.linalg.inv(pair.A), prior.target, prior.log_det - 2 * pair.log_gap
    )
    a, b = with_prior(near, prior), with_prior(clean, moved)
    Ls = [np.array([[0.8, 0.0], [0.3, 0.6]]), np.array([[0.5]])]
    found, expected = (log_marginal_and_gradient(m, Ls, 1.1) for m in (a, b))
    assert found[0] == pytest.approx(expected[0], abs=1e-6)
    for one, other in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)
    rows = [
        row_moments(problem, Ls, 1.1, (pair.y, X, pair.factors, None), given)
        for problem, X, given in ((near, pair.X, prior), (clean, pair.clean, moved))
    ]
    np.testing.assert_allclose(rows[0][0], rows[1][0], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(rows[0][1], rows[1][1], rtol=1e-6)
    normals = np.random.default_rng(1).normal(size=(4000, a.n_normals))
    drawn = [draws_at(m, Ls, 1.1, normals)[0] for m in (a, b)]
    predictors = [drawn[0] @ pair.X.T, drawn[1] @ pair.clean.T]
    # means of 4,000 draws: six of their standard errors
    error = np.sqrt(2 / 4000) * predictors[1].std(axis=0)
    assert np.all(np.abs(predictors[0].mean(axis=0) - predictors[1].mean(axis=0)) < 6 * error)


@pytest.mark.parametrize("gap", [1e-4, 2e-7])
def test_products_are_added_and_taken_away_in_the_mixed_columns(gap):
    pair = Pair(gap)
    whole = CrossProducts.from_rows(pair.y, pair.X, pair.factors)
    assert whole.shift.T is not None
    first = np.arange(N) < 60
    parts = [
        CrossProducts.from_rows(
            pair.y[at], pair.X[at], [f.take(at) for f in pair.factors], shift=shift
        )
        for at, shift in ((first, whole.shift), (~first, None))
    ]
    added = solve(prepare(parts[0] + parts[1], pair.patterns), pair.theta)
    expected = solve(prepare(whole, pair.patterns), pair.theta)
    np.testing.assert_allclose(added.beta, expected.beta, rtol=1e-6)
    left = solve(prepare(whole - parts[1], pair.patterns), pair.theta)
    alone = solve(prepare(parts[0], pair.patterns), pair.theta)
    np.testing.assert_allclose(left.beta, alone.beta, rtol=1e-5)
    running = RunningProducts([(12, 2), (5, 1)], whole.shift)
    for at in (first, ~first):
        running.add(pair.y[at], pair.X[at], [f.take(at) for f in pair.factors])
    np.testing.assert_allclose(running.finish().gram, whole.gram, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kept", [(0, 1), (0, 2), (0, 2, 3), (0, 1, 3), (2, 3)])
def test_a_choice_of_columns_is_that_of_the_rows(kept):
    """Without x its two neighbors are still nearly equal."""
    pair = Pair(1e-6)
    other = pair.X[:, 1] + 1e-6 * np.random.default_rng(7).normal(size=N)
    X = np.column_stack([pair.X, other])
    cp = CrossProducts.from_rows(pair.y, X, pair.factors).with_columns(np.array(kept))
    rows = CrossProducts.from_rows(pair.y, X[:, kept], pair.factors)
    a, b = (solve(prepare(c, pair.patterns), pair.theta) for c in (cp, rows))
    np.testing.assert_allclose(a.beta, b.beta, rtol=1e-6)
    assert a.loglik == pytest.approx(b.loglik, abs=1e-6)
    G, p = cp.gram_unweighted, len(kept)
    gamma = cp.shift.unmixing @ a.beta
    spread = gamma @ G[:p, :p] @ gamma - (G[-1, :p] @ gamma) ** 2 / cp.n
    assert spread == pytest.approx(np.var(X[:, kept] @ a.beta) * cp.n, rel=1e-6)


@pytest.mark.parametrize("column", [1, 2])
def test_a_fixed_coefficient_leaves_the_likelihood_of_the_clean_columns(column):
    pair = Pair(1e-6)
    near = pair.problem(pair.X)
    solution = solve(near, pair.theta, reml=False)
    value = solution.beta[column] + np.sqrt(solution.vcov[column, column])
    reduced = near.with_products(with_coefficient_fixed(near.cp, column, value))
    found = profiled_criterion_and_gradient(reduced, pair.theta, False)[0]
    # y - value x is y + value gap z beside near, and y - value near is y - value gap z beside x
    sign = 1 if column == 1 else -1
    shifted = pair.y + sign * value * 1e-6 * pair.clean[:, 2]
    rest = np.delete(pair.X, column, axis=1)
    direct = prepare(CrossProducts.from_rows(shifted, rest, pair.factors), pair.patterns)
    expected = profiled_criterion_and_gradient(direct, pair.theta, False)[0]
    assert found == pytest.approx(expected, abs=1e-5)


def test_columns_that_are_combinations_up_to_rounding_stay_as_they_are():
    pair = Pair(1e-6)
    X = np.column_stack([pair.clean, pair.clean[:, 1] + pair.clean[:, 2], np.zeros(N)])
    assert CrossProducts.from_rows(pair.y, X, pair.factors).shift.T is None
    both = np.column_stack([pair.X, pair.X[:, 1] + pair.X[:, 2]])
    cp = CrossProducts.from_rows(pair.y, both, pair.factors)
    np.testing.assert_array_equal(cp.shift.T[:, 3], np.eye(4)[:, 3])
    np.testing.assert_array_equal(aliased_columns(both), [3])
    np.testing.assert_array_equal(aliased_in(cp), [3])


def test_ordinary_columns_are_not_mixed():
    pair = Pair(1.0)
    assert CrossProducts.from_rows(pair.y, pair.X, pair.factors).shift.T is None


@pytest.mark.parametrize("gap", GAPS)
def test_shares_that_are_left_are_those_of_the_rows(gap):
    pair = Pair(gap)
    shares = remaining_shares(pair.X)
    left = np.linalg.norm(
        pair.clean[:, 2]
        - pair.clean[:, :2] @ np.linalg.lstsq(pair.clean[:, :2], pair.clean[:, 2], rcond=None)[0]
    )
    centered = pair.X[:, 2] - pair.X[:, 2].mean()
    assert shares[2] == pytest.approx(gap * left / np.linalg.norm(centered), rel=1e-6)
    cp = CrossProducts.from_rows(pair.y, pair.X, [])
    np.testing.assert_allclose(remaining_shares_of_products(cp)[1:], shares[1:], rtol=1e-6)


def test_columns_closer_than_their_digits_are_aliased():
    pair = Pair(1e-5)
    for gap in (5e-8, 1e-12):
        X = np.column_stack([pair.X[:, :2], pair.X[:, 1] + gap * pair.clean[:, 2]])
        np.testing.assert_array_equal(aliased_columns(X), [2])
        np.testing.assert_array_equal(aliased_in(CrossProducts.from_rows(pair.y, X, [])), [2])


def test_a_time_stamp_is_not_aliased_for_being_far_from_zero():
    rng = np.random.default_rng(0)
    stamp = 1.7e12 + np.sort(rng.integers(0, 60_000, 50)).astype(float)  # ms within a minute
    y = 3e-4 * (stamp - 1.7e12) + rng.normal(size=50)
    X = np.column_stack([np.ones(50), stamp])
    assert len(aliased_columns(X)) == 0
    beta = solve(prepare(CrossProducts.from_rows(y, X, []), []), np.zeros(0)).beta
    np.testing.assert_allclose(beta, rational_least_squares(X, y), rtol=1e-8)


@pytest.mark.parametrize("seed", range(40))
def test_products_call_no_columns_independent_that_the_rows_call_dependent(seed):
    rng = np.random.default_rng(seed)
    n = 80
    x = rng.normal(size=(n, 2)) * 10.0 ** rng.integers(-3, 4, 2) + 10.0 ** rng.integers(0, 13, 2)
    cell = (rng.random(n) < 0.3).astype(float)
    noise = 10.0 ** -rng.integers(0, 14)
    near = x[:, 0] + noise * np.std(x[:, 0]) * rng.normal(size=n)
    columns = np.column_stack([np.ones(n), x, cell, near, 1 - cell])
    X = columns[:, [0, *rng.permutation(np.arange(1, 6))[: rng.integers(1, 6)]]]
    cp = CrossProducts.from_rows(rng.normal(size=n), X, ())
    if plainly_independent(cp):
        assert remaining_shares(X).min() > 1e-3


def test_products_of_ordinary_columns_are_plainly_independent():
    rng = np.random.default_rng(2)
    x, cell = rng.normal(1900.0, 30.0, 200), rng.random(200) < 0.1
    X = np.column_stack([np.ones(200), x, cell, (x - 1900) ** 2])
    assert plainly_independent(CrossProducts.from_rows(rng.normal(size=200), X, ()))
    X[:, 3] = 3 - 2 * X[:, 1]
    assert not plainly_independent(CrossProducts.from_rows(rng.normal(size=200), X, ()))
