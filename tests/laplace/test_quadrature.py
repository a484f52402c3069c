"""Adaptive Gauss-Hermite quadrature against Laplace's approximation and brute force."""

import numpy as np
import pytest
from scipy.integrate import dblquad, quad

from bayeslmm.laplace.quadrature import evaluate_by_quadrature
from bayeslmm.likelihood.response_coordinates import ResponseCoordinates
from tests.laplace.systems import CASES, simulated
from tests.laplace.test_system import numeric_gradient

F = np.array([0.8, 0.0, -0.3, 0.5])


def value(system, phi, beta, nodes):
    return evaluate_by_quadrature(system, F, phi, beta, nodes)[0].value


@pytest.mark.parametrize(("name", "link"), CASES)
def test_one_node_is_laplaces_approximation(name, link):
    system, phi, beta = simulated(name, link)
    one, _ = evaluate_by_quadrature(system, F, phi, beta, 1)
    laplace, _ = system.evaluate(F, phi, beta)
    assert one.value == pytest.approx(laplace.value, rel=1e-12)
    L = F.reshape(2, 2)
    d_F = 2 * laplace.d_Sigma.reshape(2, 2) @ L
    scale = np.abs(d_F).max()
    np.testing.assert_allclose(np.tril(one.d_F.reshape(2, 2)), np.tril(d_F), atol=1e-7 * scale)
    for name in ("d_beta", "d_phi"):
        wanted = getattr(laplace, name)
        np.testing.assert_allclose(getattr(one, name), wanted, rtol=1e-7, atol=1e-7 * scale)


@pytest.mark.parametrize(("name", "link"), CASES)
def test_gradient_is_that_of_the_rule(name, link):
    system, _, _ = simulated(name, link)
    coordinates = ResponseCoordinates.of(system, 3)
    x = coordinates.starts()[0] + 0.3
    numeric = numeric_gradient(lambda x: coordinates.evaluate(x).value, x)
    gradient = coordinates.evaluate(x).gradient
    np.testing.assert_allclose(gradient, numeric, atol=1e-6 * np.abs(numeric).max())


def _log_integrand(system, phi, beta, level):
    rows = system.factors[0].codes == level
    Z, y, w = system.factors[0].Z[rows], system.y[rows], system.weights[rows]
    fixed, trials = (system.offset + system.X @ beta)[rows], system.trials[rows]

    def log_h(u):
        eta = fixed + Z @ (F.reshape(2, 2)[: len(u), : len(u)] @ u)
        return w @ system.family.log_density(y, eta, phi, trials) - 0.5 * u @ u

    return log_h


@pytest.mark.parametrize("name", ["bernoulli", "poisson"])
def test_two_effects_are_the_integral_by_brute_force(name):
    system, phi, beta = simulated(name, "logit" if name == "bernoulli" else "log", n=24, levels=3)
    total = 0.0
    for level in range(3):
        log_h = _log_integrand(system, phi, beta, level)
        top = max(log_h(np.array([a, b])) for a in np.arange(-2, 3) for b in np.arange(-2, 3))
        integral = dblquad(
            lambda b, a, h=log_h, top=top: np.exp(h(np.array([a, b])) - top),
            -9, 9, -9, 9, epsabs=1e-10, epsrel=1e-10,
        )[0]  # fmt: skip
        total += np.log(integral) + top - np.log(2 * np.pi)
    assert value(system, phi, beta, 25) == pytest.approx(total, abs=1e-7)


def test_a_single_effect_is_the_integral_by_brute_force_for_every_family():
    from dataclasses import replace

    from bayeslmm.gaussian.rows import FactorRows
    from bayeslmm.parts.patterns import CovariancePattern

    for name, link in CASES:
        system, phi, beta = simulated(name, link, n=16, levels=3)
        factor = FactorRows(system.factors[0].codes, np.ones((16, 1)), 3)
        system = replace(system, factors=(factor,), patterns=(CovariancePattern.full(1),))
        total = 0.0
        for level in range(3):
            log_h = _log_integrand(system, phi, beta, level)
            top = max(log_h(np.array([a])) for a in np.linspace(-4, 4, 33))
            integral = quad(
                lambda a, h=log_h, top=top: np.exp(h(np.array([a])) - top), -12, 12,
                epsabs=1e-12, limit=200,
            )[0]  # fmt: skip
            total += np.log(integral) + top - 0.5 * np.log(2 * np.pi)
        found = evaluate_by_quadrature(system, F[:1], phi, beta, 40)[0].value
        assert found == pytest.approx(total, abs=2e-6), (name, link)


def test_nodes_bring_the_value_to_its_limit():
    system, phi, beta = simulated("bernoulli", "logit", n=40, levels=8)
    limit = value(system, phi, beta, 41)
    errors = [abs(value(system, phi, beta, nodes) - limit) for nodes in (1, 3, 7, 15)]
    assert errors[0] > 1e-3
    assert all(later < 0.3 * before for before, later in zip(errors, errors[1:], strict=False))
