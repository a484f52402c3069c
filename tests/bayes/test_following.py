"""Effects that follow their covariances, against dense matrices."""

from __future__ import annotations

import numpy as np
import pytest

from bayeslmm.bayes import whitening
from bayeslmm.bayes.kernels._following import follow, lower_solve, products, upper_solve
from tests.bayes.test_joint import density_of, made


def _dense(density):
    """H, and the positions of the effects of every factor (levels, q), in elimination order."""
    layout, diag, panel = density.arguments.levels[:3]
    N = len(density.arguments.levels.r)
    H = np.column_stack([products(layout, diag, panel, e) for e in np.eye(N)])
    factors = density.laplace.system.factors
    return H, [density.symbolic.factor_columns(k) for k in range(len(factors))]


@pytest.mark.parametrize("structure", ["three", "nested", "three factors"])
@pytest.mark.parametrize("worth", [0.0, np.inf])
def test_the_map_is_that_of_dense_matrices(structure, worth, monkeypatch):
    monkeypatch.setattr(whitening, "_WORTH", worth)
    density = density_of(made("poisson", structure=structure))
    levels, rng = density.arguments.levels, np.random.default_rng(3)
    H, columns = _dense(density)
    N = len(H)
    F, Lambda = [], np.zeros((N, N))
    for at in columns:
        q = at.shape[1]
        L = np.tril(rng.normal(size=(q, q)))
        F.append(L.ravel())
        for own in at:
            Lambda[np.ix_(own, own)] = L
    v, F = rng.normal(size=N), np.concatenate(F)
    C, R = np.empty(len(levels.diag)), np.empty(len(levels.panel))
    first, u, b = np.empty((3, N))
    layout = levels.layout
    log_det = follow(layout, levels.diag, levels.panel, levels.r, F, v, C, R, first, u, b)
    M = np.eye(N) + Lambda.T @ H @ Lambda
    L = np.linalg.cholesky(M)
    assert log_det == pytest.approx(np.log(np.diag(L)).sum(), rel=1e-12)
    expected = np.linalg.solve(L.T, np.linalg.solve(L, Lambda.T @ levels.r) + v)
    np.testing.assert_allclose(u, expected, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(b, Lambda @ expected, rtol=1e-9, atol=1e-11)
    for solve, matrix in ((lower_solve, L), (upper_solve, L.T)):
        x = v.copy()
        solve(layout, C, R, x)
        np.testing.assert_allclose(x, np.linalg.solve(matrix, v), rtol=1e-9, atol=1e-11)


def test_the_information_is_that_of_the_rows_at_the_mode():
    density = density_of(made("bernoulli", structure="nested"), signed=False)
    system, at = density.laplace.system, density.laplace.natural(density.mode.x)
    found = system.mode(at.F, at.phi, at.beta)
    H, columns = _dense(density)
    Z = np.zeros((system.n, len(H)))
    for f, own in zip(system.factors, columns, strict=True):
        for i, code in enumerate(f.codes):
            Z[i, own[code]] += f.Z[i]
    w = -found.slopes[2]
    np.testing.assert_allclose(H, Z.T @ (w[:, None] * Z), rtol=1e-10, atol=1e-12)
    working = w * (found.eta - system.offset - system.X @ at.beta) + found.slopes[1]
    levels = density.arguments.levels
    np.testing.assert_allclose(levels.r, Z.T @ working, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(levels.drift, Z.T @ (w[:, None] * system.X), rtol=1e-9, atol=1e-12)
