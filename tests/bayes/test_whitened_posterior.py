"""Whitened posteriors are those of brute-force integration and of PyMC's NUTS."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from arviz_stats.base import array_stats
from scipy import stats

import bayeslmm as blm
from tests.bayes.test_joint import made


def _errors(draws):
    """Monte Carlo standard errors of mean and sd of (chains, draws)."""
    # the sd's error from that of the squares about the mean
    mean, sd = draws.mean(), draws.std()
    squares = (draws - mean) ** 2
    size = array_stats.ess(squares, method="mean")
    return (
        sd / np.sqrt(array_stats.ess(draws, method="mean")),
        squares.std() / np.sqrt(size) / (2 * sd),
    )


def check_moments(draws, mean, sd):
    error_of_mean, error_of_sd = _errors(draws)
    assert abs(draws.mean() - mean) < 6 * error_of_mean
    assert abs(draws.std() - sd) < 6 * error_of_sd


def _grid_moments(grids, log_density):
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    for grid in grids:
        mean = (weight * grid).sum()
        yield mean, np.sqrt((weight * (grid - mean) ** 2).sum())


@pytest.mark.parametrize("name", ["bernoulli", "poisson"])
def test_one_standard_deviation_is_that_of_integration(name):
    y = np.array([[1.0, 1, 0, 1], [0, 0, 1, 0], [1, 1, 1, 1]])
    frame = pd.DataFrame({"y": y.ravel(), "g": np.repeat(list("abc"), 4)})
    priors = {
        "Intercept": blm.Prior("Normal", mu=0, sigma=1.5),
        "sd(Intercept | g)": blm.Prior("HalfNormal", sigma=1),
    }
    model = blm.MixedModel("y ~ 1 + (1 | g)", frame, family=name, priors=priors)
    fit = model.fit(draws=4000, random_seed=3, progressbar=False)
    beta, sd = np.meshgrid(np.linspace(-8, 8, 161), np.linspace(0.005, 5.995, 150))
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    eta = beta[..., None] + sd[..., None] * nodes
    density = {
        "bernoulli": lambda y: stats.bernoulli.logpmf(y, 1 / (1 + np.exp(-eta))),
        "poisson": lambda y: stats.poisson.logpmf(y, np.exp(np.minimum(eta, 60))),
    }[name]
    at = {value: density(value) for value in (0.0, 1.0)}
    log_density = stats.norm(0, 1.5).logpdf(beta) + stats.norm(0, 1).logpdf(sd)
    for group in y:
        rows = sum(at[value] for value in group)
        log_density += np.log(np.exp(rows) @ (weights / np.sqrt(2 * np.pi)))
    posterior = fit.idata["posterior"]
    draws = posterior["beta"].to_numpy()[..., 0], posterior["sd_g"].to_numpy()[..., 0]
    for own, (mean, spread) in zip(draws, _grid_moments((beta, sd), log_density), strict=True):
        check_moments(own, mean, spread)


def test_two_standard_deviations_are_those_of_integration():
    """Two crossed factors of two levels: effects by products of quadratures."""
    counts = np.array([[2.0, 5.0], [0.0, 3.0]])
    frame = pd.DataFrame({"y": counts.ravel(), "g": list("aabb"), "h": list("cdcd"), "one": 1.0})
    model = blm.MixedModel(
        "y ~ 0 + offset(one) + (1 | g) + (1 | h)", frame, family="poisson",
        priors={"sd": blm.Prior("HalfNormal", sigma=1)},
    )  # fmt: skip
    fit = model.fit(draws=4000, random_seed=4, progressbar=False)
    sds = np.linspace(0.02, 4.98, 125)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    log_weights = np.log(weights / np.sqrt(2 * np.pi))
    pair = (log_weights[:, None] + log_weights).ravel()
    log_density = np.empty((len(sds), len(sds)))
    for i, s in enumerate(sds):  # of g
        for j, t in enumerate(sds):
            # given h's two effects, groups of g are independent
            per_h = pair.copy()
            for row in counts:
                eta = 1 + s * nodes[:, None] + t * nodes  # (g, h level)
                one, other = (y * eta - np.exp(np.minimum(eta, 50)) for y in row)
                joint = np.exp(log_weights[:, None] + one).T @ np.exp(other)
                per_h = per_h + np.log(np.maximum(joint.ravel(), 1e-300))
            log_density[i, j] = np.log(np.exp(per_h).sum())
    s, t = np.meshgrid(sds, sds, indexing="ij")
    log_density += stats.norm.logpdf(s) + stats.norm.logpdf(t)
    posterior = fit.idata["posterior"]
    draws = [posterior[name].to_numpy()[..., 0] for name in ("sd_g", "sd_h")]
    for own, (mean, spread) in zip(draws, _grid_moments((s, t), log_density), strict=True):
        check_moments(own, mean, spread)


SAMPLED = [
    ("bernoulli", "logit", "slopes"),
    ("bernoulli", "probit", "crossed"),
    ("binomial", "logit", "nested"),
    ("poisson", "log", "three factors"),
    ("negativebinomial", "log", "slopes"),
    ("gamma", "log", "one"),
    ("beta", "logit", "crossed"),
    ("ordinal", "logit", "slopes"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "link", "structure"), SAMPLED)
def test_nuts_of_the_hierarchical_model_agrees(name, link, structure):
    model = made(name, link, structure, fixed="x", n=120)
    own = model.fit(draws=2000, random_seed=1, progressbar=False)
    other = model.fit(
        draws=1500, tune=1000, random_seed=2, progressbar=False, target_accept=0.95,
        parameterization="noncentered",
    )  # fmt: skip
    for variable, draws in own.idata["posterior"].data_vars.items():
        ours = draws.to_numpy().reshape(*draws.shape[:2], -1)
        theirs = other.idata["posterior"][variable]
        theirs = theirs.to_numpy().reshape(*theirs.shape[:2], -1)
        for k in range(ours.shape[-1]):
            a, b = ours[..., k], theirs[..., k]
            for x, y, e, f in zip(
                (a.mean(), a.std()), (b.mean(), b.std()), _errors(a), _errors(b), strict=True
            ):
                assert abs(x - y) < 6 * np.hypot(e, f), (variable, k)
