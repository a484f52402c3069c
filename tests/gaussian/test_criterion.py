"""Profiled criteria against the n x n density, finite differences and each other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayeslmm.gaussian import (
    prepare,
    profiled_covariance_gradient,
    profiled_criterion,
    profiled_criterion_and_gradient,
    solve,
)

from .gaussian_helpers import (
    ROUTES,
    brute_profile,
    central_difference,
    check,
    designs,
    random_design,
)


@check
@given(designs(), st.booleans(), st.sampled_from(ROUTES))
def test_profiled_criterion_equals_the_brute_force_density(design, reml, route):
    problem = prepare(design.cp, design.patterns, route=route)
    value = profiled_criterion(problem, design.theta, reml)
    assert value == pytest.approx(brute_profile(design, reml), rel=1e-10)


@check
@given(designs(), st.booleans(), st.sampled_from(ROUTES))
def test_profiled_gradient_equals_finite_differences(design, reml, route):
    problem = prepare(design.cp, design.patterns, route=route)
    value, gradient = profiled_criterion_and_gradient(problem, design.theta, reml)
    assert value == pytest.approx(profiled_criterion(problem, design.theta, reml), rel=1e-14)
    numeric = central_difference(
        lambda t: profiled_criterion(problem, t, reml), design.theta, step=1e-3
    )
    np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-6)


@check
@given(designs())
def test_all_routes_give_the_same_value_and_gradient(design):
    cp = design.cp
    reference = None
    for route in ROUTES:
        problem = prepare(cp, design.patterns, route=route)
        value, gradient = profiled_criterion_and_gradient(problem, design.theta, True)
        solution = solve(problem, design.theta)
        if reference is None:
            reference = value, gradient, solution
            continue
        assert value == pytest.approx(reference[0], rel=1e-12)
        np.testing.assert_allclose(gradient, reference[1], rtol=1e-8, atol=1e-9)
        for b, b0 in zip(solution.b, reference[2].b, strict=True):
            np.testing.assert_allclose(b, b0, rtol=1e-9, atol=1e-11)


@check
@given(designs())
def test_solution_equals_generalized_least_squares(design):
    if design.X.shape[1] == 0:
        return
    solution = solve(prepare(design.cp, design.patterns), design.theta)
    Vi = np.linalg.inv(design.covariance(design.relative, 1.0))
    A = design.X.T @ Vi @ design.X
    beta = np.linalg.solve(A, design.X.T @ Vi @ design.y)
    r = design.y - design.X @ beta
    sigma2 = r @ Vi @ r / (len(r) - len(beta))
    np.testing.assert_allclose(solution.beta, beta, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(solution.vcov, sigma2 * np.linalg.inv(A), rtol=1e-8, atol=1e-11)
    assert solution.sigma**2 == pytest.approx(sigma2, rel=1e-10)
    for k, L in enumerate(design.relative):
        J = design.factors[k].n_levels
        b = np.kron(np.eye(J), L @ L.T) @ design.dense_Z(k).T @ Vi @ r
        np.testing.assert_allclose(solution.b[k].ravel(), b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", ["crossed", "nested", "mixed"])
def test_covariance_gradient_is_exact_where_a_variance_is_zero(route, kind):
    design = random_design(5, 3, [2, 1, 2], kind)
    design.theta[:] = 0.0
    problem = prepare(design.cp, design.patterns, route=route)
    gradients = profiled_covariance_gradient(problem, design.theta)
    for k, pattern in enumerate(design.patterns):
        for a in range(pattern.q):
            # dd/dSigma_aa at Sigma = 0 is the slope in theta_aa^2.
            index = sum(p.n_parameters for p in design.patterns[:k]) + int(
                np.flatnonzero((pattern.entries[0] == a) & (pattern.entries[1] == a))[0]
            )

            def along(variance, index=index):
                theta = design.theta.copy()
                theta[index] = np.sqrt(variance)
                return profiled_criterion(problem, theta)

            h = 1e-4
            slope = (-3 * along(0) + 4 * along(h) - along(2 * h)) / (2 * h)
            assert gradients[k][a, a] == pytest.approx(slope, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(("scale", "rtol"), [(1e-9, 1e-9), (1e-5, 1e-8), (1e3, 1e-6), (1e4, 1e-3)])
def test_gradient_keeps_its_digits_at_tiny_and_huge_variances(route, scale, rtol):
    design = random_design(3, 2, [2, 1], "crossed")
    theta = design.theta * scale
    reference = prepare(design.cp, design.patterns, route="sparse")
    problem = prepare(design.cp, design.patterns, route=route)
    expected = profiled_criterion_and_gradient(reference, theta)[1]
    gradient = profiled_criterion_and_gradient(problem, theta)[1]
    # Per unit of log theta: what an optimizer or a sampler on log scales sees.
    np.testing.assert_allclose(theta * gradient, theta * expected, rtol=rtol, atol=1e-12)


def test_a_model_without_random_effects_is_least_squares():
    design = random_design(1, 1, [1], "crossed")
    bare = type(design)(design.y, design.X, [], [], None, np.zeros(0), 1.0)
    solution = solve(prepare(bare.cp, []), np.zeros(0))
    expected = np.linalg.lstsq(design.X, design.y)[0]
    np.testing.assert_allclose(solution.beta, expected, rtol=1e-12)


def test_rank_deficient_fixed_effects_give_nan_and_an_error():
    design = random_design(1, 1, [1], "crossed")
    X = np.column_stack([design.X, design.X[:, 0]])
    cp = type(design.cp).from_rows(design.y, X, design.factors)
    problem = prepare(cp, design.patterns)
    assert np.isnan(profiled_criterion(problem, design.theta)) or not np.isfinite(
        profiled_criterion(problem, design.theta)
    )
    with pytest.raises(ValueError, match="linearly dependent"):
        solve(problem, design.theta)
