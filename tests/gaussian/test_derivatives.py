"""Kenward-Roger's terms against products of n x n matrices."""

import numpy as np
from hypothesis import given

from bayeslmm.gaussian import prepare, variance_derivative_terms

from .gaussian_helpers import check, designs


@check
@given(designs())
def test_variance_derivative_terms_equal_brute_force(design):
    problem = prepare(design.cp, design.patterns)
    terms = variance_derivative_terms(problem, design.absolute, design.sigma)
    V = design.covariance()
    Vi, X = np.linalg.inv(V), design.X
    derivatives = []
    for k, pattern in enumerate(design.patterns):
        Z, J = design.dense_Z(k), design.factors[k].n_levels
        for a, b in zip(*pattern.entries, strict=True):
            D = np.zeros((pattern.q, pattern.q))
            D[a, b] = D[b, a] = 1.0
            derivatives.append(Z @ np.kron(np.eye(J), D) @ Z.T)
    derivatives.append(np.diag(1 / design.w))
    np.testing.assert_allclose(sum(f * D for f, D in zip(terms.phi, derivatives, strict=True)), V)
    VD = [Vi @ D for D in derivatives]
    C = np.linalg.inv(X.T @ Vi @ X) if X.shape[1] else np.zeros((0, 0))
    R = Vi - Vi @ X @ C @ X.T @ Vi
    projected = terms.projected_trace()

    def close(value, expected):
        np.testing.assert_allclose(
            value, expected, rtol=1e-6, atol=1e-8 * (1 + np.abs(expected).max(initial=0))
        )

    close(terms.information, X.T @ Vi @ X)
    for i, Di in enumerate(derivatives):
        close(terms.P[i], X.T @ VD[i] @ Vi @ X)
        close(terms.trace_first[i], np.trace(VD[i]))
        for j, Dj in enumerate(derivatives):
            close(terms.Q[i, j], X.T @ VD[i] @ VD[j] @ Vi @ X)
            close(terms.trace[i, j], np.trace(VD[i] @ VD[j]))
            close(projected[i, j], np.trace(R @ Di @ R @ Dj))
