"""Average information: against n x n matrices, by every route."""

import numpy as np
import pytest

from bayeslmm.gaussian import (
    has_average_information,
    prepare,
    profiled_criterion_and_gradient,
    profiled_information,
)

from .gaussian_helpers import ROUTES, random_design


def dense_information(design, reml):
    """(df / pwrss) [y'P V_i P V_j P y - (y'P V_i P y)(y'P V_j P y) / pwrss], sigma = 1."""
    V = design.covariance(design.relative, 1.0)
    inverse = np.linalg.inv(V)
    VX = inverse @ design.X
    P = inverse - VX @ np.linalg.solve(design.X.T @ VX, VX.T)
    Py = P @ design.y
    pwrss = design.y @ Py
    z = []
    for k, (pattern, L) in enumerate(zip(design.patterns, design.relative, strict=True)):
        Z, J = design.dense_Z(k), design.factors[k].n_levels
        for a, b in zip(*pattern.entries, strict=True):
            E = np.zeros_like(L)
            E[a, b] = 1.0
            z.append(Z @ np.kron(np.eye(J), E @ L.T + L @ E.T) @ Z.T @ Py)
    z = np.column_stack(z)
    n, p = design.X.shape
    q = z.T @ Py
    return (n - p if reml else n) / pwrss * (z.T @ P @ z - np.outer(q, q) / pwrss)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("seed", range(4))
def test_average_information_is_that_of_dense_matrices(seed, route, reml):
    kind = ("crossed", "nested", "mixed")[seed % 3]
    design = random_design(seed, 2 + seed % 2, (2, 1, 3), kind, weighted=seed % 2 == 0)
    problem = prepare(design.cp, design.patterns, route=route)
    assert has_average_information(problem)
    value, gradient, information = profiled_information(problem, design.theta, reml)
    expected = profiled_criterion_and_gradient(problem, design.theta, reml)
    assert value == pytest.approx(expected[0], rel=1e-12)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-9, atol=1e-9)
    dense = dense_information(design, reml)
    np.testing.assert_allclose(information, dense, rtol=1e-7, atol=1e-8 * np.abs(dense).max())
