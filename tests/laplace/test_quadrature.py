"""Adaptive Gauss-Hermite quadrature against Laplace's approximation and brute force."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import trapezoid

from bayeslmm.gaussian.rows import FactorRows
from bayeslmm.laplace.quadrature import evaluate_by_quadrature
from bayeslmm.likelihood.response_coordinates import ResponseCoordinates
from bayeslmm.parts.patterns import CovariancePattern
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


def by_brute_force(system, phi, beta) -> float:
    """The integral on a fine grid, where the trapezoidal rule is exact for smooth functions."""
    (factor,), total = system.factors, 0.0
    q = factor.q
    L, axis = F.reshape(2, 2)[:q, :q], np.linspace(-9, 9, 181 if q == 2 else 2001)
    u = np.stack(np.meshgrid(*[axis] * q, indexing="ij"), axis=-1)
    for level in range(factor.n_levels):
        rows = factor.codes == level
        fixed = (system.offset + system.X @ beta)[rows]
        eta = fixed + (u @ L.T) @ factor.Z[rows].T
        log_density = system.family.log_density(system.y[rows], eta, phi, system.trials[rows])
        log_h = log_density @ system.weights[rows] - 0.5 * (u**2).sum(axis=-1)
        inside = np.exp(log_h - log_h.max())
        for _ in range(q):
            inside = trapezoid(inside, axis, axis=0)
        total += np.log(inside) + log_h.max() - 0.5 * q * np.log(2 * np.pi)
    return float(total)


@pytest.mark.parametrize("name", ["bernoulli", "poisson"])
def test_two_effects_are_the_integral_by_brute_force(name):
    system, phi, beta = simulated(name, "logit" if name == "bernoulli" else "log", n=24, levels=3)
    wanted = by_brute_force(system, phi, beta)
    assert value(system, phi, beta, 25) == pytest.approx(wanted, abs=1e-7)


@pytest.mark.parametrize(("name", "link"), CASES)
def test_a_single_effect_is_the_integral_by_brute_force(name, link):
    system, phi, beta = simulated(name, link, n=16, levels=3)
    factor = FactorRows(system.factors[0].codes, np.ones((16, 1)), 3)
    system = replace(system, factors=(factor,), patterns=(CovariancePattern.full(1),))
    found = evaluate_by_quadrature(system, F[:1], phi, beta, 40)[0].value
    assert found == pytest.approx(by_brute_force(system, phi, beta), abs=2e-6)


def test_nodes_bring_the_value_to_its_limit():
    system, phi, beta = simulated("bernoulli", "logit", n=40, levels=8)
    limit = value(system, phi, beta, 41)
    errors = [abs(value(system, phi, beta, nodes) - limit) for nodes in (1, 3, 7, 15)]
    assert errors[0] > 1e-3
    assert all(later < 0.3 * before for before, later in zip(errors, errors[1:], strict=False))
