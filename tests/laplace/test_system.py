"""Laplace's approximation against direct computation, its gradient against differences."""

import numpy as np
import pytest

from bayeslmm.gaussian.crossproducts import CrossProducts
from bayeslmm.gaussian.problem import prepare
from bayeslmm.laplace.transforms import natural, pullback, unbounded
from bayeslmm.likelihood.response_coordinates import ResponseCoordinates
from tests.laplace.systems import CASES, simulated


def numeric_gradient(function, x, h=1e-4):
    return np.array([(function(x + h * e) - function(x - h * e)) / (2 * h) for e in np.eye(len(x))])


@pytest.mark.parametrize(("name", "link"), CASES)
@pytest.mark.parametrize("crossed", [False, True])
def test_gradient_is_that_of_the_value(name, link, crossed):
    system, _, _ = simulated(name, link, crossed=crossed)
    coordinates = ResponseCoordinates.of(system)
    x = coordinates.starts()[0] + 0.3
    numeric = numeric_gradient(lambda x: coordinates.evaluate(x).value, x)
    gradient = coordinates.evaluate(x).gradient
    np.testing.assert_allclose(gradient, numeric, atol=1e-6 * np.abs(numeric).max())


@pytest.mark.parametrize("name", ["bernoulli", "poisson", "gamma", "ordinal"])
def test_value_is_the_dense_formula_at_a_mode_found_by_a_general_optimizer(name):
    from scipy.optimize import minimize

    link = "logit" if name in ("bernoulli", "ordinal") else "log"
    system, phi, beta = simulated(name, link, crossed=True)
    F = np.array([0.5, 0.0, -0.2, 0.3, 0.4])
    L = np.zeros((21, 21))
    for j in range(8):
        L[2 * j : 2 * j + 2, 2 * j : 2 * j + 2] = F[:4].reshape(2, 2)
    L[16:, 16:] = F[4] * np.eye(5)
    Z = np.zeros((system.n, 21))
    f, g = system.factors
    for i in range(system.n):
        Z[i, 2 * f.codes[i] : 2 * f.codes[i] + 2] = f.Z[i]
        Z[i, 16 + g.codes[i]] = 1.0
    fixed = system.offset + system.X @ beta

    def log_density(u, order):
        eta = fixed + Z @ (L @ u)
        return system.weights * system.family.slopes(system.y, eta, phi, system.trials)[order]

    found = minimize(
        lambda u: 0.5 * u @ u - log_density(u, 0).sum(),
        np.zeros(21),
        jac=lambda u: u - L.T @ Z.T @ log_density(u, 1),
        options={"gtol": 1e-9},
    )
    W = -log_density(found.x, 2)
    M = np.eye(21) + L.T @ Z.T @ (W[:, None] * Z) @ L
    value = system.evaluate(F, phi, beta)[0].value
    assert value == pytest.approx(-found.fun - 0.5 * np.linalg.slogdet(M)[1], rel=1e-10)


def test_products_at_weights_are_those_of_the_rows():
    system, _, _ = simulated("poisson", "log", crossed=True)
    w = np.random.default_rng(2).normal(size=system.n)
    found = system.products.at(w).values
    cp = CrossProducts.of_effects(system.factors, w)
    wanted = prepare(cp, system.patterns, symbolic=system.template.symbolic).values
    for name in ("diag", "panel", "tail"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), atol=1e-12)


def test_a_start_at_another_scale_of_the_effects_leads_to_the_same_mode():
    system, phi, beta = simulated("poisson", "log", crossed=True)
    small, large = np.array([0.01, 0, 0, 0.01, 0.01]), np.array([1.5, 0, 0, 1.5, 1.5])
    near = system.mode(small, phi, beta)
    cold, warm = system.mode(large, phi, beta), system.mode(large, phi, beta, (near.b, near.U))
    np.testing.assert_allclose(warm.b, cold.b, atol=1e-8)


def test_without_random_effects_the_value_is_the_log_likelihood():
    system, phi, beta = simulated("poisson", "log")
    plain = system.__class__(
        system.y, system.trials, system.weights, system.offset, system.X, (), system.family, ()
    )
    found, _ = plain.evaluate(np.zeros(0), phi, beta)
    eta = system.offset + system.X @ beta
    wanted = system.weights @ system.family.log_density(system.y, eta, phi, system.trials)
    assert found.value == pytest.approx(wanted, rel=1e-13)
    np.testing.assert_allclose(found.d_beta, system.X.T @ system.slopes(eta, phi)[1], rtol=1e-12)


@pytest.mark.parametrize("name", ["ordinal", "zero_inflated_negativebinomial", "gamma"])
def test_unbounded_parameters_come_back_and_pull_slopes_back(name):
    system, phi, _ = simulated(name, "logit" if name == "ordinal" else "log")
    family, w = system.family, unbounded(system.family, phi)
    np.testing.assert_allclose(natural(family, w), phi, rtol=1e-13)
    d_phi = np.arange(1.0, 1.0 + len(phi))
    numeric = numeric_gradient(lambda w: natural(family, w) @ d_phi, w)
    np.testing.assert_allclose(pullback(family, w, d_phi), numeric, rtol=1e-7)
