"""The marginal posterior with residual structures: the PyMC model's, exactly, and its draws."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bayeslmm as blm
from bayeslmm.bayes.marginal import marginal_density
from bayeslmm.parts.correlations import correlations_from_factors, log_lkj
from bayeslmm.parts.scales import scale_terms, unconstrain
from tests.bayes.test_marginal import (
    _log_density,
    _log_jacobian,
    _own_factors,
    _prior_of_coefficients,
    _random_point,
    _value,
)
from tests.conftest import correlation_matrix, quietly
from tests.dense_residuals import dense_residual_covariance

pytestmark = pytest.mark.usefixtures("one_blas_thread")

#: formula, residual, sigma, whether weights
MODELS = {
    "ar1": ("y ~ x", "ar1(t | g)", None, False),
    "ar1, slopes, cells": ("y ~ x + (x | g)", "ar1(t | g)", "~ f", True),
    "car1": ("y ~ x + (1 | g)", "car1(s | g)", None, False),
    "cs": ("y ~ f", "cs(g)", "~ x", False),
    "unstructured": ("y ~ x", "unstructured(t | g)", None, False),
    "unstructured, one sigma": ("y ~ x + (0 + x | g)", "unstructured(t | g)", "~ 1", False),
    "toeplitz": ("y ~ x", "toeplitz(t | g)", "~ f", False),
    "cells": ("y ~ x + (1 | g) + (1 | h)", None, "~ f", False),
    "log-linear": ("y ~ x + (1 | g)", None, "~ x + f", True),
}


@cache
def frame() -> pd.DataFrame:
    """30 groups of 2 to 4 rows, in shuffled order."""
    rng = np.random.default_rng(8)
    rows = []
    for g in range(30):
        times = np.sort(rng.choice(4, rng.integers(2, 5), replace=False))
        for t in times:
            rows.append((f"g{g}", t, t + rng.uniform(-0.3, 0.3)))
    data = pd.DataFrame(rows, columns=["g", "t", "s"]).sample(frac=1, random_state=1)
    n = len(data)
    data["x"] = rng.normal(size=n)
    data["f"] = rng.choice(["u", "v"], n)
    data["h"] = rng.choice(list("abcd"), n)
    data["w"] = rng.choice([0.5, 1.0, 2.0], n)
    data["y"] = 3 + data["x"] + rng.normal(size=n) + 0.3 * data["t"]
    effects = 0.7 * rng.normal(size=(30, 2)) @ np.array([[1.0, 0.3], [0.0, 0.9]])
    at = data["g"].str[1:].astype(int)
    data["y"] += effects[at, 0] + effects[at, 1] * data["x"]
    data["y"] += data["h"].map(dict(zip("abcd", rng.normal(size=4), strict=True)))
    return data


@cache
def model(key: str) -> blm.LMM:
    formula, residual, sigma, weighted = MODELS[key]
    weights = "w" if weighted else None
    return quietly(formula, frame(), residual=residual, sigma=sigma, weights=weights)


def density(key: str):
    lmm = model(key)
    return marginal_density(lmm.design, lmm.priors, lmm.problem)


def near(found, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return found.starting_points((0.5,))[0] + 0.3 * rng.normal(size=found.n_dim)


@pytest.mark.parametrize("key", MODELS)
def test_the_gradient_is_exact(key):
    found = density(key)
    x = near(found, 4)
    value, gradient = found(x)
    assert value == pytest.approx(found.value(x), rel=1e-12)
    steps = 1e-4 * np.eye(found.n_dim)
    # fourth-order central differences: truncation is far below the rounding of about 1e-8
    close = np.array([found.value(x + s) - found.value(x - s) for s in steps])
    far = np.array([found.value(x + 2 * s) - found.value(x - 2 * s) for s in steps])
    expected = (8 * close - far) / 12e-4
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6 * abs(gradient).max())


def _covariance(lmm, found, x):
    """Dense V and the factors at x."""
    _, F, eta, c = found.constrained(x)
    V = dense_residual_covariance(lmm.design, eta[0], c[0])
    roots = found.system.split(F[0])
    for block, L in zip(lmm.design.blocks, roots, strict=True):
        V = V + (block.codes[:, None] == block.codes) * (block.Z @ L @ L.T @ block.Z.T)
    return V, roots, eta[0], c[0]


@pytest.mark.parametrize("key", MODELS)
def test_it_is_the_dense_normal_density_with_beta_integrated_out(key):
    lmm, found = model(key), density(key)
    x = near(found)
    V, _, _, _ = _covariance(lmm, found, x)
    mean, precision = _prior_of_coefficients(lmm)
    X = lmm.design.X @ np.linalg.inv(lmm.priors.combinations())
    log_y = stats.multivariate_normal(X @ mean, V + (X / precision) @ X.T).logpdf(
        lmm.design.y - lmm.design.offset
    )
    k = found.first_correlation
    log_prior = scale_terms(found.scales, x[:k])[0]
    log_prior += log_lkj(x[k:], found.prior.exponent, found.prior.constant)[0]
    assert found.value(x) == pytest.approx(log_y + log_prior, rel=1e-9)


def _log_conditional(lmm, R, roots, centered, z):
    """log p(beta centered, z | theta, y), dense."""
    design = lmm.design
    columns = [design.X @ np.linalg.inv(lmm.priors.combinations())]
    for block, F in zip(design.blocks, roots, strict=True):
        Z = np.zeros((design.n_rows, block.n_levels, block.n_effects))
        Z[np.arange(design.n_rows), block.codes] = block.Z @ F
        columns.append(Z.reshape(design.n_rows, -1))
    C = np.concatenate(columns, axis=1)
    mean, precision = _prior_of_coefficients(lmm)
    CR = np.linalg.solve(R, C).T
    Q = CR @ C + np.diag(np.concatenate((precision, np.ones(C.shape[1] - len(mean)))))
    right = CR @ (design.y - design.offset)
    right[: len(mean)] += precision * mean
    gap = np.concatenate((centered, z)) - np.linalg.solve(Q, right)
    return 0.5 * (np.linalg.slogdet(Q)[1] - len(gap) * np.log(2 * np.pi) - gap @ Q @ gap)


@pytest.mark.parametrize("key", MODELS)
def test_it_is_the_joint_density_of_the_pymc_model_less_the_conditional(key):
    lmm, found = model(key), density(key)
    pymc_model = lmm.pymc_model()
    point = _random_point(pymc_model)
    residual, design = lmm.design.residual, lmm.design
    sds, roots, z, jacobian, u = [], [], [], 0.0, [np.zeros(0)]
    own = []
    for one, names in zip(_own_factors(lmm, pymc_model, point), lmm.names.factors, strict=True):
        sds.append(one[0])
        own.append(one[1])
        roots.append(one[2])
        z.append(np.asarray(point[names.z]).ravel())
    flat = np.concatenate([np.zeros(0), *(F.ravel() for F in own)])
    u.append(correlations_from_factors(found.correlations, flat)[1])
    scalars = [np.zeros(0), *sds]
    if residual.variance.kind == "cells":
        scalars.append(_value(pymc_model, "sigma_by", point))
    else:
        scalars.append(np.atleast_1d(_value(pymc_model, "sigma", point)))
    if residual.variance.kind == "log-linear":
        scalars.append(_value(pymc_model, "log_sigma", point))
    for name in ("rho", "range", "partial"):
        if name in pymc_model.named_vars:
            scalars.append(np.atleast_1d(_value(pymc_model, name, point)))
    if residual.times:
        R = correlation_matrix(_value(pymc_model, "corr_residual", point))
        layout = found.system.structure.layout
        u.append(correlations_from_factors(layout, np.linalg.cholesky(R).ravel())[1])
    u = np.concatenate(u)
    start = 0
    for rv in pymc_model.free_RVs:
        if rv.name.startswith("chol_"):
            q = pymc_model.eval_rv_shapes()[rv.name][0]
            both = [_log_density(pymc_model, point, vars=[rv], jacobian=j) for j in (True, False)]
            size = q * (q - 1) // 2
            jacobian += _log_jacobian(q, u[start : start + size]) - float(both[0] - both[1])
            start += size
    x = np.concatenate([unconstrain(found.scales, np.concatenate(scalars)), u])
    _, _, eta, c = _covariance(lmm, found, x)
    R = dense_residual_covariance(design, eta, c)
    names = [v.name for v in pymc_model.value_vars if v.name.startswith("beta")]
    centered = np.concatenate([np.zeros(0), *(np.atleast_1d(point[n]) for n in names)])
    conditional = _log_conditional(lmm, R, roots, centered, np.concatenate([np.zeros(0), *z]))
    expected = float(_log_density(pymc_model, point)) + jacobian - conditional
    assert found.value(x) == pytest.approx(expected, rel=1e-8)
