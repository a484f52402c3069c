"""Curves over priors, tipping points, power-scaling."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import bayeslmm as blm
from bayeslmm.reanalysis.power_scaling import log_prior_draws, power_scaling_tree
from tests.conftest import dataset, quietly


def sleep_model(**priors):
    return blm.LMM(
        "Reaction ~ Days + (Days | Subject)", dataset("sleepstudy"), priors=priors or None
    )


@cache
def sleep_fit():
    return sleep_model().fit(method="importance", draws=1000, random_seed=4)


def test_a_curve_goes_through_the_posteriors_of_its_priors():
    curve = blm.sensitivity(sleep_fit(), "Days", scale=[2.0, 10.0, 50.0], mcid=5)
    prior = {"at 10": blm.Prior("Normal", mu=0, sigma=10)}
    row = blm.reanalyze(sleep_fit(), "Days", prior, mcid=5).table.loc["at 10"]
    columns = ["estimate", "sd", "lower", "upper", "p_benefit", "p_mcid", "p_rope", "p_harm"]
    assert np.allclose(curve.table.loc[10.0, columns].astype(float), row[columns].astype(float))


def test_the_tipping_point_is_where_the_probability_crosses_the_threshold():
    curve = blm.sensitivity(
        sleep_model(), "Days", scale=[0.5, 1, 2, 4], threshold=0.9, direction="higher is better"
    )
    (at,) = curve.tipping_points
    again = blm.reanalyze(sleep_model(), "Days", {"p": blm.Prior("Normal", mu=0, sigma=at)})
    assert again.table.loc["p", "p_benefit"] == pytest.approx(0.9, abs=0.02)
    assert f"{at:.4g}" in repr(curve)
    ends = curve.table["p_benefit"].iloc[[0, -1]]
    assert ends.iloc[0] < 0.9 < ends.iloc[1]


def test_without_a_crossing_there_is_no_tipping_point():
    curve = blm.sensitivity(sleep_fit(), "Days", scale=[20.0, 60.0])
    assert curve.tipping_points == ()
    assert "stays above" in repr(curve)


def test_a_moving_center_pulls_the_estimate_along():
    curve = blm.sensitivity(sleep_fit(), "Days", center=[0, 5, 10, 15], scale=4.0)
    assert (np.diff(curve.table["estimate"]) > 0).all()
    assert curve.moving == "center"
    axes = curve.plot()
    assert len(axes) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"scale": [1, 2], "center": [1, 2]},
        {"scale": 3.0},
        {"scale": [1.0, -1.0]},
        {"scale": [1.0]},
        {"center": [0, np.nan]},
        {"scale": ["a", "b"]},
        {"scale": [1, 2], "threshold": 2},
    ],
)
def test_a_path_that_is_none_is_refused(options):
    with pytest.raises(ValueError, match="scale|center|threshold"):
        blm.sensitivity(sleep_fit(), "Days", **options)


def test_power_scaling_finds_the_prior_that_matters():
    table = blm.power_scaling(sleep_fit())
    assert list(table.columns[3:]) == list(sleep_model().priors)
    # with default priors no coefficient depends on its prior, and all on the data
    assert (table.loc[["Intercept", "Days"], "prior"] < 0.05).all()
    assert (table["likelihood"] > 0.05).all()
    tight = sleep_model(Days=blm.Prior("Normal", mu=0, sigma=2))
    strong = blm.power_scaling(tight.fit(method="importance", draws=1000, random_seed=4))
    assert strong.loc["Days", "Days"] > 0.2
    assert strong.loc["Days", "Days"] > 10 * strong.loc["Days", "Intercept"]
    assert strong.loc["Days", "diagnosis"] != "-"


def test_the_power_scaled_parts_are_the_posterior_density():
    """log prior + log likelihood at two draws differ as the marginal density and beta's do."""
    from bayeslmm.bayes.coefficients import fixed_prior
    from bayeslmm.bayes.marginal import marginal_density
    from bayeslmm.gaussian import combination_moments, with_prior
    from bayeslmm.reanalysis.theta import fitted_factors, fitted_theta

    fit = sleep_fit()
    tree = power_scaling_tree(fit)
    total = sum(log_prior_draws(fit).values())
    total = (total + tree["log_likelihood"]["y"].to_numpy()).ravel()
    model = fit.model
    density = marginal_density(model.design, fit.priors, model.problem)
    x, theta = fitted_theta(fit, density).reshape(-1, 4), fitted_factors(fit)
    marginal = with_prior(model.problem, fixed_prior(model.design, fit.priors))
    mean, cov = combination_moments(marginal, theta.factors, theta.sigma, np.eye(2))
    beta = fit.posterior["beta"].to_numpy().reshape(-1, 2)
    gap = beta - mean
    form = np.einsum("na,nab,nb->n", gap, np.linalg.inv(cov), gap)
    joint = density.values(x) - 0.5 * (form + np.linalg.slogdet(cov)[1])
    # from the unconstrained coordinates to sds and the correlation
    joint -= x[:, :3].sum(axis=1) + np.log(1 - np.tanh(x[:, 3]) ** 2)
    difference = total - joint
    assert np.ptp(difference) < 1e-6 * np.ptp(joint) + 1e-6


def test_a_uniform_prior_has_no_power_to_scale(toy):
    priors = {"sigma": blm.Prior("Uniform", lower=0, upper=50), "x": blm.Prior("Flat")}
    model = quietly("y ~ x + (1 | g)", toy, priors=priors)
    table = blm.power_scaling(model.fit(method="importance", draws=500, random_seed=1))
    assert (table[["sigma", "x"]] == 0).all(axis=None)
