"""Reliability of predicted effects against closed forms."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm


def _one_way(sizes, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(len(sizes)), sizes)
    y = rng.normal(size=len(sizes))[g] + rng.normal(size=len(g))
    return pd.DataFrame({"y": y, "g": [f"g{i:02d}" for i in g]})


def _lambda(tau, sigma, n):
    return n * tau**2 / (n * tau**2 + sigma**2)


@pytest.mark.parametrize("sizes", [[5] * 12, [1, 2, 3, 8, 20] * 3])
def test_of_a_random_intercept_it_is_the_shrinkage_factor(sizes):
    fit = blm.LMM("y ~ 1 + (1 | g)", _one_way(sizes)).reml()
    table = fit.reliability()
    tau = fit.components()["sd(Intercept | g)"]
    np.testing.assert_allclose(table["estimate"], _lambda(tau, fit.sigma, np.array(sizes)))
    assert table.columns.tolist() == ["group", "level", "effect", "estimate"]


def test_of_a_posterior_it_is_the_mean_over_draws():
    sizes = np.array([2, 5, 9] * 4)
    post = blm.LMM("y ~ 1 + (1 | g)", _one_way(sizes)).fit(
        method="importance", draws=100, random_seed=1
    )
    tau = post.posterior["sd_g"].to_numpy()
    sigma = post.posterior["sigma"].to_numpy()[..., None]
    values = _lambda(tau, sigma, sizes).reshape(-1, len(sizes))
    table = post.reliability("g", level=0.8)
    np.testing.assert_allclose(table["mean"], values.mean(axis=0))
    np.testing.assert_allclose(table["lower"], np.quantile(values, 0.1, axis=0), atol=2e-3)


def test_with_slopes_it_is_what_the_variance_of_the_predictions_says():
    fit = blm.LMM("Reaction ~ Days + (Days | Subject)", blm.load_dataset("sleepstudy")).reml()
    ranef = fit.ranef()
    variance = np.tile(np.diag(fit.covariances["Subject"]), 18)
    expected = 1 - ranef["sd"].to_numpy() ** 2 / variance
    np.testing.assert_allclose(fit.reliability()["estimate"], expected, rtol=1e-8)


@pytest.mark.parametrize("residual", [None, "cs(g)"])
def test_relatives_and_residual_structures_are_the_dense_share(residual):
    data = _one_way([1, 4, 6, 3, 2, 5])
    levels = sorted(data["g"].unique())
    options = {}
    A = np.eye(6)
    if residual is None:
        A += 0.4 * (np.ones((6, 6)) - np.eye(6)) + np.diag([0.2, 0, 0, 0.1, 0, 0])
        options["relationship"] = {"g": blm.RelationshipMatrix(levels, A)}
        formula = "y ~ 1 + (1 | g)"
    else:
        data["x"] = np.random.default_rng(3).normal(size=len(data))
        data["g"] = data["g"].astype(str)
        formula, options["residual"] = "y ~ x + (0 + x | g)", residual
    fit = blm.LMM(formula, data, **options).reml()
    Z = (data["g"].to_numpy()[:, None] == np.array(levels)).astype(float)
    same = Z @ Z.T
    parts = fit.components()
    R = fit.sigma**2 * np.eye(len(data))
    if residual is not None:
        Z = Z * data["x"].to_numpy()[:, None]
        R = fit.sigma**2 * (np.eye(len(data)) + parts["rho"] * (same - np.eye(len(data))))
    G = parts.iloc[0] ** 2 * A
    V = Z @ G @ Z.T + R
    expected = np.diag(G @ Z.T @ np.linalg.solve(V, Z @ G)) / np.diag(G)
    np.testing.assert_allclose(fit.reliability()["estimate"], expected, rtol=1e-6)


def test_an_effect_without_variance_has_reliability_zero():
    data = _one_way([4] * 6)
    data["y"] = np.tile([1.0, 2.0, 3.0, 4.0], 6) + 1e-3 * np.repeat([1, -1, 1, -1, 1, -1], 4)
    with pytest.warns(blm.ModelWarning, match="Singular"):
        fit = blm.LMM("y ~ 1 + (1 | g)", data).reml()
    assert (fit.reliability()["estimate"] == 0).all()


def test_what_it_does_not_know_is_refused():
    fit = blm.LMM("y ~ 1 + (1 | g)", _one_way([4] * 6)).reml()
    with pytest.raises(KeyError, match="No grouping factor 'h'"):
        fit.reliability("h")
    assert blm.LMM("y ~ 1", _one_way([4] * 6)).reml().reliability().empty
