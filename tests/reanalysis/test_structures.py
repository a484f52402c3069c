"""Bayes factors, reanalysis and power-scaling beside residual structures and relationships.

Against numpy: the covariance matrix written out, and integrals over a grid of its parameters.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bayeslmm as blm
from bayeslmm.bayes.draws import coefficient_draws
from bayeslmm.bayes.marginal import marginal_density
from bayeslmm.reanalysis.power_scaling import log_prior_draws, power_scaling_tree
from bayeslmm.reanalysis.theta import fitted_factors
from tests.conftest import correlation_matrix

PRIORS = {
    "Intercept": blm.Prior("Normal", mu=0, sigma=5),
    "x": blm.Prior("Normal", mu=0, sigma=1),
    "sigma": blm.Prior("HalfNormal", sigma=2),
}
OPTIONS = {"draws": 1000, "chains": 4, "random_seed": 5, "progressbar": False}


@cache
def rows() -> pd.DataFrame:
    rng = np.random.default_rng(11)
    g, t = np.repeat(np.arange(8), 4), np.tile(np.arange(4.0), 8)
    x = rng.normal(size=32)
    noise = rng.normal(size=(8, 4))
    for k in range(1, 4):
        noise[:, k] = 0.6 * noise[:, k - 1] + 0.8 * noise[:, k]
    y = 1 + 0.5 * x + noise.ravel() + rng.normal(0, 0.7, 8)[g]
    arm = np.where(g % 2, "b", "a")
    return pd.DataFrame({"y": y, "x": x, "g": [f"g{i}" for i in g], "t": t, "arm": arm})


#: Prior covariance of the coefficients; the intercept's prior is at the mean of x.
MIX = np.linalg.inv([[1.0, rows()["x"].mean()], [0.0, 1.0]])
S0 = MIX @ np.diag([25.0, 1.0]) @ MIX.T


@cache
def relationship() -> pd.DataFrame:
    A = 0.5 ** np.abs(np.subtract.outer(np.arange(8), np.arange(8)))
    labels = [f"g{i}" for i in range(8)]
    return pd.DataFrame(A, labels, labels)


KINDS = {
    "ar1": {"residual": "ar1(t | g)"},
    "cs": {"residual": "cs(g)"},
    "cells": {"sigma": "~ arm"},
    "log-linear": {"sigma": "~ x"},
    "unstructured": {"residual": "unstructured(t | g)"},
    "relationship": {"relationship": {"g": relationship()}},
}


@cache
def fitted(kind: str):
    random = {"relationship": " + (1 | g)", "log-linear": " + (1 | g)"}.get(kind, "")
    priors = {k: p for k, p in PRIORS.items() if kind != "unstructured" or k != "sigma"}
    if random:
        priors |= {"sd(Intercept | g)": blm.Prior("HalfNormal", sigma=1.5)}
    return blm.LMM(f"y ~ x{random}", rows(), priors=priors, **KINDS[kind]).fit(**OPTIONS)


def covariance(kind: str, **theta) -> np.ndarray:
    """Of the responses given the coefficients, for every point of the parameters."""
    data = rows()
    same = np.equal.outer(data["g"].to_numpy(), data["g"].to_numpy())
    gap = np.abs(np.subtract.outer(data["t"].to_numpy(), data["t"].to_numpy()))
    theta = {name: np.asarray(value)[..., None, None] for name, value in theta.items()}
    sigma = theta["sigma"]
    if kind == "ar1":
        return sigma**2 * np.where(same, theta["rho"] ** gap, 0.0)
    if kind == "relationship":
        at = [int(g[1:]) for g in data["g"]]
        return theta["sd"] ** 2 * relationship().to_numpy()[np.ix_(at, at)] + sigma**2 * np.eye(
            len(at)
        )
    raise AssertionError(kind)


def grid(kind: str):
    """Covariances, log weights (quadrature and priors) of a grid over two parameters."""
    sigma, w = _panel(0.2, 4.0, 60)
    log_p = np.log(w) + stats.halfnorm(scale=2).logpdf(sigma)
    if kind == "ar1":
        other, v = _panel(-0.9999, 0.9999, 60)
        name, log_q = "rho", np.log(v) - np.log(2.0)
    else:
        other, v = _panel(0.0, 7.0, 80)
        name, log_q = "sd", np.log(v) + stats.halfnorm(scale=1.5).logpdf(other)
    for s, ls in zip(sigma, log_p, strict=True):
        yield covariance(kind, sigma=s, **{name: other}), ls + log_q


def _panel(low: float, high: float, n: int):
    node, weight = np.polynomial.legendre.leggauss(n)
    half = 0.5 * (high - low)
    return low + half * (node + 1), half * weight


@cache
def exact(kind: str) -> dict[str, float]:
    """log p(y), log p(y) with x = 0, mean and sd of the coefficient of x."""
    data = rows()
    X, y = np.column_stack([np.ones(32), data["x"]]), data["y"].to_numpy()
    parts = []
    for V, weight in grid(kind):
        K = V + X @ S0 @ X.T
        gain = S0 @ np.swapaxes(np.linalg.solve(K, X), -1, -2)
        mean, spread = (gain @ y)[:, 1], (S0 - gain @ X @ S0)[:, 1, 1]
        null = weight + _log_normal(V + 25.0 * np.ones((32, 32)), y)
        parts.append((weight + _log_normal(K, y), null, mean, spread + mean**2))
    logs, nulls, means, seconds = np.concatenate(parts, axis=1)
    weights = np.exp(logs - np.logaddexp.reduce(logs))
    mean = weights @ means
    return {
        "evidence": np.logaddexp.reduce(logs), "null": np.logaddexp.reduce(nulls),
        "mean": mean, "sd": np.sqrt(weights @ seconds - mean**2),
    }  # fmt: skip


def _log_normal(K: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Log density of y of mean 0 for every covariance."""
    log_det = np.linalg.slogdet(K)[1]
    squares = np.linalg.solve(K, y[:, None])[..., 0] @ y
    return -0.5 * (len(y) * np.log(2 * np.pi) + log_det + squares)


@pytest.mark.parametrize("kind", ["ar1", "relationship"])
def test_the_marginal_likelihood_is_the_integral(kind):
    for method in ("bridge", "importance"):
        found = blm.log_marginal_likelihood(fitted(kind), method=method, random_seed=1)
        assert found.error < 0.05
        assert abs(found.value - exact(kind)["evidence"]) < 4 * found.error + 1e-3


@pytest.mark.parametrize("kind", ["ar1", "relationship"])
def test_the_bayes_factor_of_a_coefficient_is_the_ratio_of_integrals(kind):
    expected = exact(kind)["evidence"] - exact(kind)["null"]
    for given in (fitted(kind), fitted(kind).model):
        found = blm.savage_dickey(given, "x", curve=False, random_seed=2)
        assert abs(found.log_bf10 - expected) < 4 * found.relative_error + 1e-3
    null = blm.LMM(
        fitted(kind).model.design.formula.text.replace("~ x", "~ 1"),
        rows(),
        priors={k: p for k, p in fitted(kind).priors.items() if k != "x"},
        **KINDS[kind],
    ).fit(**OPTIONS)
    found = blm.bayes_factor(fitted(kind), null, random_seed=3)
    assert abs(found.log_bf10 - expected) < 4 * found.relative_error + 1e-3


@pytest.mark.parametrize("kind", ["ar1", "relationship"])
def test_a_reanalysis_has_the_moments_of_the_integral(kind):
    from bayeslmm.reanalysis.integrated import effect_source
    from bayeslmm.reanalysis.posteriors import posterior_under

    fit = fitted(kind)
    source = effect_source(fit.model, fit.priors, "x", random_seed=4)
    posterior = posterior_under(source.likelihood(), blm.Prior("Normal", mu=0, sigma=1))
    assert posterior.mean == pytest.approx(exact(kind)["mean"], abs=0.01)
    assert posterior.sd == pytest.approx(exact(kind)["sd"], rel=0.03)
    null = source.null_evidence()
    assert abs(null.value - exact(kind)["null"]) < 4 * null.error + 1e-3
    table = blm.reanalyze(fit, "x", random_seed=1)
    assert "x" in repr(table)


def dense(kind: str, fit, d: int, center: float | None = None) -> np.ndarray:
    """Covariance of the responses at one draw, from the posterior's own variables."""
    draw = fit.posterior.isel(chain=0, draw=d)
    data, sigma = rows(), float(draw["sigma"])
    same = np.equal.outer(data["g"].to_numpy(), data["g"].to_numpy())
    if kind in ("ar1", "relationship"):
        names = {"rho": "rho"} if kind == "ar1" else {"sd": "sd_g"}
        more = {key: float(draw[name].squeeze()) for key, name in names.items()}
        return covariance(kind, sigma=sigma, **more)
    if kind == "cs":
        R = np.where(same, float(draw["rho"]), 0.0)
        np.fill_diagonal(R, 1.0)
        return sigma**2 * R
    if kind == "cells":
        by = draw["sigma_by"].to_numpy()
        return np.diag(by[(data["arm"] == "b").to_numpy().astype(int)] ** 2)
    if kind == "log-linear":
        center = data["x"].mean() if center is None else center
        log = np.log(sigma) + float(draw["log_sigma"].squeeze()) * (data["x"] - center)
        return np.diag(np.exp(2 * log)) + float(draw["sd_g"].squeeze()) ** 2 * same
    sd, at = draw["sigma_by"].to_numpy(), data["t"].to_numpy().astype(int)
    R = correlation_matrix(draw["corr_residual"])[np.ix_(at, at)]
    return np.where(same, R * sd[at][:, None] * sd[at], 0.0)


@pytest.mark.parametrize("kind", list(KINDS))
def test_power_scaling_has_the_densities_written_out(kind):
    fit = fitted(kind)
    tree, data = power_scaling_tree(fit), rows()
    X = np.column_stack([np.ones(32), data["x"]])
    beta = coefficient_draws(fit.model.design, fit.posterior)[1]
    found = tree["log_likelihood"]["y"].to_numpy()[0, :5]
    expected = [
        stats.multivariate_normal(X @ beta[0, d], dense(kind, fit, d)).logpdf(data["y"])
        for d in range(5)
    ]
    assert np.ptp(found - expected) < 1e-8  # the same but for a constant, which is not scaled
    logs, draws = log_prior_draws(fit), fit.posterior
    x = beta[:, :, 1]
    np.testing.assert_allclose(logs["x"], stats.norm(0, 1).logpdf(x), rtol=1e-9)
    if "sigma" in logs:
        own = stats.halfnorm(scale=2).logpdf(draws["sigma"])
        np.testing.assert_allclose(logs["sigma"], own, rtol=1e-9)
    if kind == "ar1":
        np.testing.assert_allclose(logs["rho"], -np.log(2.0), rtol=1e-9)
    if kind == "log-linear":
        prior = fit.priors["log_sigma[x]"].parameters
        own = stats.norm(prior["mu"], prior["sigma"]).logpdf(draws["log_sigma"].to_numpy()[..., 0])
        np.testing.assert_allclose(logs["log_sigma[x]"], own, rtol=1e-9)
    if kind == "unstructured":
        own = np.linalg.slogdet(correlation_matrix(draws["corr_residual"]))[1]
        np.testing.assert_allclose(logs["corr(residual)"], own, rtol=1e-8)
    table = blm.power_scaling(fit)
    assert np.isfinite(table[["prior", "likelihood"]].to_numpy()).all()


@pytest.mark.parametrize("kind", list(KINDS))
def test_positions_lead_back_to_the_draws(kind):
    fit = fitted(kind)
    density = marginal_density(fit.model.design, fit.priors, fit.model.problem)
    theta = fitted_factors(fit)

    x = np.array([density.position(theta.factors[d], theta.eta[d], theta.c[d]) for d in range(20)])
    for found, expected in zip(
        density.natural(x), (theta.factors, theta.eta, theta.c), strict=True
    ):
        np.testing.assert_allclose(found, expected[:20], atol=1e-7)


@pytest.mark.parametrize("kind", ["ar1", "cells", "unstructured"])
def test_a_bayes_factor_for_a_residual_structure(kind):
    """Both ways to the marginal likelihood agree."""
    fit = fitted(kind)
    one = blm.log_marginal_likelihood(fit, random_seed=1)
    other = blm.log_marginal_likelihood(fit, method="importance", random_seed=1)
    assert abs(one.value - other.value) < 4 * np.hypot(one.error, other.error)


def test_a_standard_deviation_beside_a_residual_structure():
    """Savage-Dickey at zero against both marginal likelihoods."""
    priors = PRIORS | {"sd(Intercept | g)": blm.Prior("HalfNormal", sigma=1)}
    fit = blm.LMM("y ~ x + (1 | g)", rows(), priors=priors, residual="ar1(t | g)").fit(**OPTIONS)
    found = blm.savage_dickey(fit, "sd(Intercept | g)", random_seed=1)
    both = blm.bayes_factor(fit, fitted("ar1"), random_seed=1)
    error = np.hypot(found.relative_error, both.relative_error)
    assert abs(found.log_bf10 - both.log_bf10) < 4 * error + 0.01
