"""Replicated data, test statistics that know the groups, and leave-one-out PIT."""

from __future__ import annotations

import warnings
from functools import cache

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

from bayeslmm.bayes.coefficients import coefficient_priors
from bayeslmm.bayes.importance import importance_sample
from bayeslmm.bayes.marginal import marginal_density
from bayeslmm.bayes.mode import find_mode
from bayeslmm.gaussian import single_threaded_blas
from bayeslmm.results.left_out import without_rows
from tests.conftest import dataset, quietly

FORMULA = "Reaction ~ Days + (Days | Subject)"


@cache
def _sleepstudy():
    return quietly(FORMULA, dataset("sleepstudy")).fit(random_seed=3, progressbar=False)


@cache
def _ergostool():
    model = quietly("effort ~ Type + (1 | Subject)", dataset("ergostool"))
    return model.fit(draws=1000, random_seed=11, progressbar=False)


def test_replications_for_new_groups_have_the_marginal_covariance():
    fit = _sleepstudy()
    kept = fit.idata["posterior_predictive"]["Reaction"].copy()
    tree = fit.posterior_predictive("new", random_seed=1)
    xr.testing.assert_identical(kept, fit.idata["posterior_predictive"]["Reaction"])
    y = tree["posterior_predictive"]["Reaction"].to_numpy().reshape(-1, 180)
    first = fit.model.design.blocks[0].codes == 0
    mean = fit.predict(random="population", draws=True).to_numpy().reshape(-1, 180)
    gap = (y - mean)[:, first]
    covariance = gap.T @ gap / len(gap)
    expected = fit.implied_covariance().to_numpy()
    # 4,000 draws of a product of heavy-tailed normals: 6 standard errors are about 17 %
    np.testing.assert_allclose(covariance, expected, atol=0.17 * expected.max())
    other = (y - mean)[:, fit.model.design.blocks[0].codes == 5]
    across = np.abs((gap.T @ other) / len(gap)).max()
    assert across < 0.12 * expected.max()


def test_replications_for_the_same_groups_keep_their_effects():
    fit = _sleepstudy()
    y = fit.posterior_predictive(random_seed=1)["posterior_predictive"]["Reaction"]
    fitted = fit.predict(kind="response", random_seed=2)
    np.testing.assert_allclose(y.mean(("chain", "draw")), fitted["mean"], atol=3)
    with pytest.raises(ValueError, match="groups must be"):
        fit.posterior_predictive("old")


def test_checks_of_a_right_model_are_not_extreme_and_of_a_wrong_one_are():
    fit = _sleepstudy()
    for groups in ("same", "new"):
        table = fit.predictive_check(groups=groups, random_seed=1)
        inside = table.loc[["sd", "sd of means | Subject", "sd of slopes of Days | Subject"]]
        assert ((inside["p"] > 0.02) & (inside["p"] < 0.98)).all()
        assert ((table["lower"] <= table["mean"]) & (table["mean"] <= table["upper"])).all()
    # subjects' own slopes are not in this model: it cannot make them differ enough
    slopes = fit.predictive_check(random_seed=1).index[-1]
    centered = {
        slopes: lambda y, codes: np.std(
            [np.polyfit(np.arange(10.0), y[codes == j], 1)[0] for j in range(18)], ddof=1
        )
    }
    observed = fit.predictive_check(centered, draws=5)["observed"].iloc[0]
    assert observed == pytest.approx(fit.predictive_check(draws=5).loc[slopes, "observed"])
    poor = quietly("Reaction ~ Days + (1 | Subject)", dataset("sleepstudy"))
    poor = poor.fit(draws=300, random_seed=1, progressbar=False)
    assert poor.predictive_check(centered, random_seed=1)["p"].iloc[0] < 0.01


def test_ties_count_half_and_seeds_repeat():
    fit = _ergostool()
    table = fit.predictive_check({"n": lambda y, codes: len(y)}, random_seed=1)
    assert table.loc["n", "p"] == 0.5
    one, two = (fit.predictive_check(random_seed=4, draws=20) for _ in range(2))
    pd.testing.assert_frame_equal(one, two)


def test_statistics_that_are_none_are_refused():
    fit = _ergostool()
    with pytest.raises(ValueError, match="one finite number"):
        fit.predictive_check({"all": lambda y, codes: y})
    with pytest.raises(ValueError, match="not a function"):
        fit.predictive_check({"all": 3})
    with pytest.raises(ValueError, match="dict"):
        fit.predictive_check([np.mean])
    with pytest.raises(KeyError, match="Subject"):
        fit.predictive_check(factor="Type")
    with pytest.raises(ValueError, match="draws must be"):
        fit.predictive_check(draws=0)
    pooled = quietly("effort ~ Type", dataset("ergostool"))
    pooled = pooled.fit(draws=50, chains=2, random_seed=1, progressbar=False)
    assert pooled.predictive_check(draws=5).index.tolist() == ["mean", "sd", "min", "max"]


def _exact_pit(fit) -> np.ndarray:
    """P(y <= y_i | y_-i) from dense conditional distributions, refitting without each row."""
    design, priors = fit.model.design, fit.priors
    A = np.linalg.inv(priors.combinations())
    mean, sd = coefficient_priors(design, priors)
    m = design.X @ A @ mean
    S0 = design.X @ A @ np.diag(sd**2) @ A.T @ design.X.T
    g = design.blocks[0].codes
    out = np.empty(design.n_rows)
    with single_threaded_blas():
        for i in range(design.n_rows):
            reduced = marginal_density(design, priors, without_rows(fit.model, np.array([i])))
            draws = importance_sample(reduced, find_mode(reduced), 2000, np.random.default_rng(i))
            _, F, eta, _ = reduced.constrained(draws.x)
            sigma = np.exp(eta[:, 0])
            rest = np.arange(design.n_rows) != i
            below = np.empty(2000)
            for d in range(2000):
                K = S0 + F[d, 0] ** 2 * (g[:, None] == g) + sigma[d] ** 2 * np.eye(len(g))
                gain = np.linalg.solve(K[np.ix_(rest, rest)], K[rest, i])
                center = m[i] + gain @ (design.y - m)[rest]
                spread = np.sqrt(K[i, i] - gain @ K[rest, i])
                below[d] = stats.norm.cdf(design.y[i], center, spread)
            weights = np.exp(draws.log_weights)
            out[i] = (weights * below).sum() / weights.sum()
    return out


@pytest.mark.slow
def test_loo_pit_equals_refitting_without_each_row():
    fit = _ergostool()
    pit = fit.loo_pit(random_seed=1, progressbar=False)["loo_pit"]["effort"].to_numpy()
    # a mean of values in (0, 1) over 2,000 and 4,000 draws; their sd given the data is below 0.05
    np.testing.assert_allclose(pit, _exact_pit(fit), atol=0.01)


def test_loo_pit_is_what_arviz_takes_and_estimates():
    fit = _ergostool()
    tree = fit.loo_pit(random_seed=1, progressbar=False)
    pit = tree["loo_pit"]["effort"]
    assert ((pit > 0) & (pit < 1)).all()
    # az.loo_pit counts predictive draws: 4,000 of them, 6 standard errors of a share
    theirs = az.loo_pit(tree)["effort"]
    np.testing.assert_allclose(pit, theirs, atol=6 * 0.5 / np.sqrt(3000))
    elpd = az.loo(tree).elpd
    assert elpd == pytest.approx(fit.loo(exact=False, progressbar=False).elpd, rel=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        az.plot_loo_pit(tree)
        az.plot_ecdf_pit(tree, group="loo_pit", sample_dims=["obs"])
        az.plot_ppc_dist(fit.posterior_predictive("new", draws=20, random_seed=1))
    plt.close("all")


def test_loo_pit_of_simulated_data_is_uniform_where_conditional_pit_is_not():
    rng = np.random.default_rng(8)
    g = np.repeat(np.arange(100), 2)
    frame = pd.DataFrame({"g": g, "x": rng.normal(size=200)})
    frame["y"] = frame["x"] + 1.5 * rng.normal(size=100)[g] + 0.7 * rng.normal(size=200)
    fit = quietly("y ~ x + (1 | g)", frame).fit(draws=250, random_seed=2, progressbar=False)
    pit = fit.loo_pit(progressbar=False)["loo_pit"]["y"].to_numpy()
    assert stats.kstest(pit, "uniform").pvalue > 1e-6
    replicated = fit.predict(kind="response", draws=True, random_seed=1).to_numpy()
    seen = (replicated < frame["y"].to_numpy()).mean(axis=(0, 1))
    # two rows per group: the predictions have used much of what they are tested on. The variance
    # of 200 uniform values has a relative standard error of 0.063; five of them
    assert np.var(seen) * 12 < 1 - 5 * 0.063 < np.var(pit) * 12


def test_weights_are_those_of_arviz_and_exist_where_the_largest_are_equal():
    from arviz_stats.base import array_stats

    from bayeslmm.results.smoothing import smoothed_weights

    raw = np.random.default_rng(1).standard_t(4, size=(3, 800))
    weights, k_hat = smoothed_weights(raw)
    expected, k_expected = array_stats.psislw(-raw)
    np.testing.assert_allclose(k_hat, k_expected)
    np.testing.assert_allclose(np.log(weights), expected, atol=1e-8)
    raw[1, :700] = 20.0
    weights, k_tied = smoothed_weights(raw)
    np.testing.assert_array_equal(np.isnan(k_tied), [False, True, False])
    np.testing.assert_allclose(k_tied[[0, 2]], k_expected[[0, 2]])
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_allclose(weights[1, :700], 1 / 700, rtol=1e-3)
