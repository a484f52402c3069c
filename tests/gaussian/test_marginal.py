"""The marginal likelihood, its gradient and exact draws against n x n algebra."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayeslmm.gaussian import (
    CrossProducts,
    FixedPrior,
    conditional_moments,
    draw_conditional_many,
    effect_covariances,
    log_marginal,
    prepare,
    profiled_criterion,
    solve,
    with_prior,
)
from bayeslmm.parts.patterns import lower_factor

from .gaussian_helpers import (
    ROUTES,
    central_difference,
    check,
    designs,
    draws_at,
    log_marginal_and_gradient,
    normal_logpdf,
    random_design,
    row_moments,
)


def proper_prior(design, seed=0):
    rng = np.random.default_rng(seed)
    p = design.X.shape[1]
    A = rng.normal(size=(p, p))
    return rng.normal(size=p), A @ A.T + np.eye(p)


@check
@given(designs(), st.sampled_from(ROUTES))
def test_log_marginal_equals_the_brute_force_density(design, route):
    mean, cov = proper_prior(design)
    model = with_prior(
        prepare(design.cp, design.patterns, route=route), FixedPrior.normal(mean, cov)
    )
    value = log_marginal(model, design.absolute, design.sigma)
    K = design.covariance() + design.X @ cov @ design.X.T
    assert value == pytest.approx(normal_logpdf(design.y, design.X @ mean, K), rel=1e-10)


@check
@given(designs(), st.sampled_from(ROUTES), st.sampled_from(["flat", "proper", "mixed"]))
def test_marginal_gradient_equals_finite_differences(design, route, kind):
    mean, cov = proper_prior(design)
    prior = FixedPrior.normal(mean, cov)
    if kind != "proper":
        variances = np.full(len(mean), np.inf)
        if kind == "mixed":
            variances[1:] = 2.0
        prior = FixedPrior.normal(mean, np.diag(variances)) if len(mean) else prior
    model = with_prior(prepare(design.cp, design.patterns, route=route), prior)
    Ls = design.absolute
    _, gradients, d_sigma2 = log_marginal_and_gradient(model, Ls, design.sigma)
    for k, pattern in enumerate(design.patterns):

        def along(entries, k=k, pattern=pattern):
            moved = list(Ls)
            moved[k] = pattern.unpack(entries)
            return log_marginal(model, moved, design.sigma)

        numeric = central_difference(along, pattern.pack(Ls[k]), step=1e-3)
        exact = pattern.pack(2.0 * gradients[k] @ Ls[k])
        np.testing.assert_allclose(exact, numeric, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(gradients[k], gradients[k].T, atol=1e-9)
    numeric = central_difference(
        lambda v: log_marginal(model, Ls, np.sqrt(v[0])), np.array([design.sigma**2]), step=1e-4
    )
    assert d_sigma2 == pytest.approx(numeric[0], rel=1e-6, abs=1e-7)


@check
@given(designs())
def test_flat_prior_gives_the_reml_likelihood(design):
    problem = prepare(design.cp, design.patterns)
    solution = solve(problem, design.theta)
    Ls = [solution.sigma * L for L in solution.Ls]
    value = log_marginal(with_prior(problem), Ls, solution.sigma)
    assert value == pytest.approx(-0.5 * profiled_criterion(problem, design.theta), rel=1e-11)


def test_prior_at_the_predictors_means_survives_a_large_shift():
    design = random_design(8, 1, [2], "crossed", p=2)
    far_x, far_y = 1e6, 1e9
    near = design.X[:, 1] + far_x - far_x
    values = []
    for x0, y0 in ((0.0, 0.0), (far_x, far_y)):
        X = np.column_stack([design.X[:, 0], near + x0])
        A = np.array([[1.0, near.mean() + x0], [0.0, 1.0]])
        prior = FixedPrior.on_combinations(A, np.array([y0, 0.0]), np.array([2.5, 1.5]))
        y = (design.y + far_y) - far_y + y0
        cp = CrossProducts.from_rows(y, X, design.factors)
        values.append(
            log_marginal(
                with_prior(prepare(cp, design.patterns), prior), design.absolute, design.sigma
            )
        )
    assert values[1] == pytest.approx(values[0], rel=1e-9)


@check
@given(designs(), st.sampled_from(ROUTES))
def test_draws_are_the_exact_linear_map_of_their_normals(design, route):
    """Unit vectors in, columns of the map out: mean and covariance without Monte Carlo error."""
    mean, cov = proper_prior(design)
    prior = FixedPrior.normal(mean, cov)
    model = with_prior(prepare(design.cp, design.patterns, route=route), prior)
    size = model.n_normals
    normals = np.vstack([np.zeros(size), np.eye(size)])
    beta, b = draws_at(model, design.absolute, design.sigma, normals)
    draws = np.concatenate([beta] + [d.reshape(len(d), -1) for d in b], axis=1)
    Z = np.concatenate([design.dense_Z(k) for k in range(len(b))], axis=1)
    C = np.concatenate([design.X, Z], axis=1)
    p, N = design.X.shape[1], Z.shape[1]
    prior_cov = np.zeros((p + N, p + N))
    prior_cov[:p, :p] = cov
    at = p
    for f, L in zip(design.factors, design.absolute, strict=True):
        size = f.n_levels * f.q
        prior_cov[at : at + size, at : at + size] = np.kron(np.eye(f.n_levels), L @ L.T)
        at += size
    prior_mean = np.concatenate([mean, np.zeros(N)])
    K = C @ prior_cov @ C.T + np.diag(design.sigma**2 / design.w)
    gain = np.linalg.solve(K, C @ prior_cov).T
    exact_mean = prior_mean + gain @ (design.y - C @ prior_mean)
    exact_cov = prior_cov - gain @ C @ prior_cov
    root = draws[1:] - draws[0]
    np.testing.assert_allclose(draws[0], exact_mean, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(root.T @ root, exact_cov, rtol=1e-6, atol=1e-9)
    moments = conditional_moments(model, design.absolute, design.sigma)
    np.testing.assert_allclose(moments.beta, exact_mean[:p], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(moments.vcov, exact_cov[:p, :p], rtol=1e-6, atol=1e-9)
    # Covariances of the effects, and leverages, from the same exact posterior.
    covs = effect_covariances(model.problem, design.absolute, design.sigma, prior)
    at = p
    for k, f in enumerate(design.factors):
        for j in range(f.n_levels):
            block = slice(at + j * f.q, at + (j + 1) * f.q)
            np.testing.assert_allclose(covs[k][j], exact_cov[block, block], rtol=1e-6, atol=1e-9)
        at += f.n_levels * f.q
    rows = (design.y, design.X, design.factors, design.weights)
    fitted, spread = row_moments(model.problem, design.absolute, design.sigma, rows, prior)
    np.testing.assert_allclose(fitted, C @ exact_mean, rtol=1e-7, atol=1e-9)
    variance = np.einsum("ij,jk,ik->i", C, exact_cov, C)
    np.testing.assert_allclose(spread, variance, rtol=1e-6, atol=1e-9)


@check
@given(designs())
def test_conditional_variance_of_effects_given_beta_is_the_inverse_of_M(design):
    problem = prepare(design.cp, design.patterns)
    covs = effect_covariances(problem, design.absolute, design.sigma)
    Z = np.concatenate([design.dense_Z(k) for k in range(len(covs))], axis=1)
    Lambda = np.zeros((Z.shape[1],) * 2)
    at = 0
    for f, L in zip(design.factors, design.relative, strict=True):
        size = f.n_levels * f.q
        Lambda[at : at + size, at : at + size] = np.kron(np.eye(f.n_levels), L)
        at += size
    M = np.eye(len(Lambda)) + Lambda.T @ Z.T @ (design.w[:, None] * Z) @ Lambda
    full = design.sigma**2 * Lambda @ np.linalg.solve(M, Lambda.T)
    at = 0
    for cov in covs:
        J, q, _ = cov.shape
        for j in range(J):
            block = slice(at + j * q, at + (j + 1) * q)
            np.testing.assert_allclose(cov[j], full[block, block], rtol=1e-7, atol=1e-10)
        at += J * q


def test_leave_one_out_predictions_follow_from_leverages():
    design = random_design(11, 2, [2, 1], "crossed", weighted=True)
    mean, cov = proper_prior(design)
    problem, prior = prepare(design.cp, design.patterns), FixedPrior.normal(mean, cov)
    rows = (design.y, design.X, design.factors, design.weights)
    fitted, variance = row_moments(problem, design.absolute, design.sigma, rows, prior)
    h, e = design.w * variance / design.sigma**2, design.y - fitted
    K = design.covariance() + design.X @ cov @ design.X.T
    Ki = np.linalg.inv(K)
    r = design.y - design.X @ mean
    np.testing.assert_allclose(e / (1 - h), (Ki @ r) / np.diag(Ki), rtol=1e-8)
    np.testing.assert_allclose(design.sigma**2 / (design.w * (1 - h)), 1 / np.diag(Ki), rtol=1e-8)


@pytest.mark.parametrize("route", ROUTES)
def test_draws_at_many_parameters_equal_draws_one_by_one(route):
    design = random_design(6, 2, [2, 2], "crossed")
    model = with_prior(prepare(design.cp, design.patterns, route=route))
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(3, model.n_normals))
    scales = np.array([0.5, 1.0, 2.0])
    many = [scales[:, None, None] * L for L in design.absolute]
    beta, b = draw_conditional_many(model, many, design.sigma * scales, normals)
    for d in range(3):
        one, effects = draws_at(
            model, [L[d] for L in many], design.sigma * scales[d], normals[d : d + 1]
        )
        np.testing.assert_allclose(beta[d], one[0], rtol=1e-10)
        for k in range(2):
            np.testing.assert_allclose(b[k][d], effects[k][0], rtol=1e-9, atol=1e-12)


def test_singular_covariances_have_a_factor():
    F = np.array([[1.0, 0.0], [2.0, 0.0]])
    L = lower_factor(F @ F.T)
    np.testing.assert_allclose(L @ L.T, F @ F.T, atol=1e-14)
    np.testing.assert_array_equal(lower_factor(np.zeros((2, 2))), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="semidefinite"):
        lower_factor(np.array([[1.0, 2.0], [2.0, 1.0]]))


def test_a_correlated_flat_coefficient_is_refused():
    with pytest.raises(ValueError, match="infinite"):
        FixedPrior.normal([0.0, 0.0], np.array([[np.inf, 0.3], [0.3, 1.0]]))
