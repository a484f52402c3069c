"""Variances at zero, or next to it: which they are, and what is said about them."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm


def quiet_fit(formula, data, reml=True, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = blm.LMM(formula, data, **options)
        return model.reml() if reml else model.ml()


def one_way(rng, J: int, k: int, ratio: float) -> pd.DataFrame:
    """A balanced one-way layout whose mean squares have a given ratio, between over within."""
    y = rng.normal(size=(J, k))
    means = y.mean(axis=1, keepdims=True)
    within = y - means
    msw = (within**2).sum() / (J * (k - 1))
    between = means - means.mean()
    between *= np.sqrt(ratio * msw * (J - 1) / (k * (between**2).sum()))
    return pd.DataFrame({"y": (between + within).ravel(), "g": np.repeat(np.arange(J), k)})


@pytest.mark.parametrize("reml", [True, False])
def test_a_variance_is_zero_exactly_where_its_closed_form_is(reml):
    # Searle, Casella and McCulloch (1992), chapter 4: with balanced groups REML has
    # max(0, MSB - MSW) / k, and ML the same with (J - 1) / J MSB
    rng = np.random.default_rng(20)
    for trial in range(160):
        J, k = int(rng.choice([6, 15, 60])), int(rng.choice([2, 3, 5]))
        away = 10.0 ** rng.uniform(-4, -0.3) * (-1) ** trial
        ratio = (1 + away) * (1 if reml else J / (J - 1))
        fit = quiet_fit("y ~ 1 + (1 | g)", one_way(rng, J, k, ratio), reml)
        assert fit.singular == (away < 0), (J, k, away)
        assert fit.theta[0] == pytest.approx(np.sqrt(max(away, 0) / k), rel=2e-3, abs=0)
        assert fit.converged


def test_a_vanished_variance_leaves_least_squares_with_its_degrees_of_freedom():
    rng = np.random.default_rng(3)
    for _ in range(10):
        data = one_way(rng, 6, 2, 0.9995)
        fit = quiet_fit("y ~ 1 + (1 | g)", data)
        with pytest.warns(blm.ModelWarning, match="boundary"):
            table = fit.fixef()
        assert table["df"].iloc[0] == pytest.approx(11)
        assert table["se"].iloc[0] == pytest.approx(data["y"].std() / np.sqrt(12))


def dense_deviance(fit, Sigmas, variance) -> float:
    """-2 log-likelihood from the n x n covariance matrix."""
    design = fit.design
    V = np.diag(variance)
    for block, Sigma in zip(design.blocks, Sigmas, strict=True):
        related = block.codes[:, None] == block.codes
        if block.relationship is not None:
            related = RELATED[np.ix_(block.codes, block.codes)]
        V += related * (block.Z @ Sigma @ block.Z.T)
    L = np.linalg.cholesky(V)
    white = np.linalg.solve(L, np.column_stack([design.X, design.y]))
    R = np.linalg.qr(white, mode="r")
    p = design.X.shape[1]
    value = 2 * np.log(np.diag(L)).sum() + R[p, p] ** 2
    value += (design.n_rows - p * fit.reml) * np.log(2 * np.pi)
    return value + fit.reml * 2 * np.log(np.abs(np.diag(R)[:p])).sum()


def moves(Sigma: np.ndarray, scale: np.ndarray, rng):
    """Covariance matrices nearby: each eigenvalue zeroed or changed, each direction raised."""
    S = Sigma * np.outer(scale, scale)
    values, vectors = np.linalg.eigh(S)
    values = np.maximum(values, 0.0)
    for j, v in enumerate(vectors.T):
        for factor in (0.0, 0.9, 1.1):
            changed = np.where(np.arange(len(values)) == j, factor * values, values)
            yield (vectors * changed) @ vectors.T / np.outer(scale, scale)
        for raised in (1e-4, 1e-2):
            for w in (v, rng.normal(size=len(S))):
                yield (S + raised * np.outer(w, w)) / np.outer(scale, scale)


RELATED = np.kron(np.eye(3), 0.5 * np.eye(4) + 0.5)  # three families of four

MODELS = {
    "slopes": ("y ~ x + (x | g)", {}),
    "slopes, ML": ("y ~ x + (x | g)", {"reml": False}),
    "three effects": ("y ~ x + (x + z | g)", {}),
    "independent effects": ("y ~ x + (x + z || g)", {}),
    "crossed": ("y ~ x + (x | g) + (1 | h)", {}),
    "weights": ("y ~ x + (x | g) + (1 | h)", {"weights": "w"}),
    "relationship": ("y ~ x + (1 | g) + (1 | h)", {"relationship": {"g": RELATED}}),
    "cells": ("y ~ x + (x | g)", {"sigma": "~ arm"}),
    "cells, ML": ("y ~ x + (1 | g) + (1 | h)", {"sigma": "~ arm", "reml": False}),
    "ar1": ("y ~ x + (x | g)", {"residual": "ar1(t | g)"}),
}


@pytest.mark.parametrize("name", MODELS)
def test_no_covariance_nearby_is_better(name):
    formula, options = MODELS[name]
    options = dict(options)
    if "relationship" in options:
        labels = [f"{i:02d}" for i in range(12)]
        options["relationship"] = {"g": blm.RelationshipMatrix(labels, RELATED)}
    singular = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        g, t = np.repeat(np.arange(12), 4), np.tile(np.arange(4), 12)
        data = pd.DataFrame(rng.normal(size=(48, 2)), columns=["x", "z"])
        data = data.assign(g=[f"{i:02d}" for i in g], h=rng.permutation(48) % 5, t=t)
        data = data.assign(arm=np.array(list("ab"))[g % 2], w=rng.uniform(0.5, 2, 48))
        noise = rng.normal(size=48) * (1 + (g % 2 if "sigma" in options else 0))
        u = rng.normal(size=(12, 2)) * rng.choice([0, 0.3], size=2)
        data["y"] = u[g, 0] + u[g, 1] * data["x"] + noise
        fit = quiet_fit(formula, data, **options)
        variance, singular = residual_variance(fit), singular + fit.singular
        Sigmas = [S.to_numpy() for S in fit.covariances.values()]
        if "residual" not in options:
            assert dense_deviance(fit, Sigmas, variance) == pytest.approx(fit.deviance, abs=1e-6)
        for k, (block, Sigma) in enumerate(zip(fit.design.blocks, Sigmas, strict=True)):
            scale = np.sqrt((block.Z**2).mean(axis=0)) / fit.sigma
            for other in moves(Sigma, scale, rng):
                if len(block.pattern) > 1:
                    other = np.diag(np.diag(other))
                near = [*Sigmas[:k], other, *Sigmas[k + 1 :]]
                # what a stop short of zero costs is 1e-6 to 1e-4
                assert deviance_at(fit, near, variance) > fit.deviance - 1e-7, (seed, block.name)
    assert singular > 0


def residual_variance(fit) -> np.ndarray:
    if fit.design.residual is not None:
        return fit._problem.row_variances(fit._engine.natural(fit._solution).eta)
    weights = 1.0 if fit.design.weights is None else fit.design.weights
    return fit.sigma**2 / weights * np.ones(fit.design.n_rows)


def deviance_at(fit, Sigmas, variance) -> float:
    if fit.design.residual is None or fit.design.residual.kind == "independent":
        return dense_deviance(fit, Sigmas, variance)
    from bayeslmm.gaussian.system import Theta
    from bayeslmm.parts.patterns import lower_factor

    F = np.concatenate([lower_factor(0.5 * (S + S.T)).ravel() for S in Sigmas])
    theta = Theta(F, fit._engine.natural(fit._solution).eta, fit._engine.natural(fit._solution).c)
    return -2 * fit._problem.evaluate(theta, fit._problem.prior(None), not fit.reml, False)[0]


def test_no_wald_interval_within_reach_of_the_boundary():
    rng = np.random.default_rng(8)
    for away in (1e-4, 1e-2, 0.1):
        fit = quiet_fit("y ~ 1 + (1 | g)", one_way(rng, 15, 3, 1 + away))
        row = fit.varcomp().loc["sd(Intercept | g)"]
        assert row["estimate"] > 0
        assert row[["se", "lower", "upper"]].isna().all()
        limits = fit.confint("wald").loc["sd(Intercept | g)"]
        assert limits[["lower", "upper"]].isna().all()
        exact = fit.confint(parameters=["sd(Intercept | g)"], progressbar=False)
        assert exact["lower"].iloc[0] == 0 < exact["upper"].iloc[0] < 1
    row = quiet_fit("y ~ 1 + (1 | g)", one_way(rng, 15, 3, 6.0)).varcomp().iloc[0]
    assert 0 < row["lower"] < row["estimate"] < row["upper"] < 10 * row["estimate"]


def test_no_wald_interval_for_a_residual_correlation_within_reach_of_its_limit():
    rng = np.random.default_rng(5)
    g, t = np.repeat(np.arange(6), 3), np.tile(np.arange(3), 6)
    data = pd.DataFrame({"g": g, "t": t, "y": 3 * rng.normal(size=6)[g]})
    data["y"] += 0.1 * rng.normal(size=18)
    for residual in ("cs(g)", "ar1(t | g)", "unstructured(t | g)"):
        table = quiet_fit("y ~ 1", data, residual=residual).varcomp()
        width = (table["upper"] / table["lower"])[table.index.str.startswith("sigma")]
        assert not (width > np.exp(4)).any()  # a standard error below 1 on the log scale
