"""Priors that are no distributions, and flat ones the data do not make up for, are refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.bayes.marginal import marginal_density
from bayeslmm.priors.propriety import refuse_improper_posterior
from tests.conftest import quietly

FLAT, HALF_FLAT = blm.Prior("Flat"), blm.Prior("HalfFlat")


def _data() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"g": np.repeat(np.arange(6), 5), "two": np.tile([0, 1], 15)})
    frame["x"], frame["constant"], frame["f"] = rng.normal(size=30), 0.1, list("abc") * 10
    frame["twice"] = 2 * frame["x"] + 1
    frame["y"] = 1 + 2 * frame["x"] + rng.normal(size=6)[frame["g"]] + rng.normal(size=30)
    return frame


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("Gamma", {"alpha": -1, "beta": 1}, "alpha must be positive"),
        ("Gamma", {"alpha": 0, "beta": 1}, "alpha must be positive"),
        ("Gamma", {"mu": -1, "sigma": 1}, "mu must be positive"),
        ("Gamma", {"alpha": 1, "sigma": 1}, "alpha and beta, or mu and sigma"),
        ("InverseGamma", {"alpha": 2, "beta": -1}, "beta must be positive"),
        ("Weibull", {"alpha": -1, "beta": 1}, "alpha must be positive"),
        ("HalfCauchy", {"beta": 0}, "beta must be positive"),
        ("Cauchy", {"alpha": 0, "beta": -1}, "beta must be positive"),
        ("Normal", {"sigma": 1, "tau": 2}, "sigma or tau, not both"),
        ("Uniform", {"lower": 5}, "below upper \\(1 by default"),
        ("TruncatedNormal", {"lower": 1, "upper": 1}, "below upper"),
        ("Beta", {"alpha": -1, "beta": 1}, "alpha must be positive"),
        ("Beta", {"mu": 0.5}, "beta or sigma"),
        ("GumbelMin", {"mu": 0, "beta": -1}, "beta must be positive"),
        # families that only PyMC knows
        ("Triangular", {"lower": 0, "upper": 1, "c": 3}, "not a distribution"),
        ("Kumaraswamy", {"a": 1}, "missing 1 required"),
        ("MvNormal", {}, "several numbers"),
        ("Dirichlet", {"a": 1}, "several numbers"),
        ("LKJCorr", {"n": 2, "eta": 1}, "several numbers"),
    ],
)
def test_what_is_no_distribution_of_one_number_is_refused(name, parameters, message):
    with pytest.raises(blm.PriorError, match=message):
        blm.Prior(name, **parameters)


def test_half_of_a_family_below_zero_is_no_prior_of_a_standard_deviation():
    # no density at -1, where a single look would be
    prior = blm.Prior("Triangular", lower=-0.5, upper=1, c=0.3)
    with pytest.raises(blm.PriorError, match="negative"):
        quietly("y ~ x + (1 | g)", _data(), priors={"sd": prior})


@pytest.mark.parametrize(
    ("formula", "flat", "refused"),
    [
        ("y ~ constant + (1 | g)", ["constant"], "constant is flat"),
        ("y ~ constant", ["constant"], "constant is flat"),
        ("y ~ x + twice + (1 | g)", ["x", "twice"], "twice is flat"),
        ("y ~ x + twice + (1 | g)", ["twice"], None),  # x has a prior, so the sum is determined
        ("y ~ f + (1 | g)", ["beta", "Intercept"], None),
        ("y ~ 0 + f + (1 | g)", ["beta"], None),
    ],
)
def test_a_flat_coefficient_has_to_be_determined_by_the_data(formula, flat, refused):
    model = quietly(formula, _data(), priors=dict.fromkeys(flat, FLAT))
    if refused is None:
        refuse_improper_posterior(model.design, model.priors)
        return
    for method in ("importance", "nuts"):
        with pytest.raises(blm.PriorError, match=refused):
            model.fit(method=method, random_seed=1, progressbar=False)


def test_rows_of_no_weight_determine_nothing():
    weights = (_data()["f"] != "c").to_numpy(dtype=float)
    data = _data().assign(late=1 - weights)
    model = quietly("y ~ late + (1 | g)", data, weights=weights + 0.5, priors={"late": FLAT})
    refuse_improper_posterior(model.design, model.priors)
    with pytest.raises(blm.PriorError, match="late is flat"):
        quietly("y ~ late + (1 | g)", data, weights=weights, priors={"late": FLAT}).fit(
            random_seed=1, progressbar=False
        )


@pytest.mark.parametrize(
    ("formula", "flat", "power"),
    [
        ("y ~ x + (1 | two)", {"sd": HALF_FLAT}, 2),
        ("y ~ x + (1 | two)", {"sd": HALF_FLAT, "Intercept": FLAT}, 1),
        ("y ~ x + (1 | f)", {"sd": HALF_FLAT, "Intercept": FLAT}, 2),
        ("y ~ f + (1 | f)", {"sd": HALF_FLAT, "Intercept": FLAT, "beta": FLAT}, 0),
        ("y ~ x + (0 + x | two)", {"sd": HALF_FLAT, "beta": FLAT}, 2),
        ("y ~ x + (0 + x | two)", {"sd": HALF_FLAT, "Intercept": FLAT, "beta": FLAT}, 1),
    ],
)
def test_a_flat_sd_is_refused_where_the_likelihood_does_not_bound_it(formula, flat, power):
    model = quietly(formula, _data(), priors=flat)
    density = marginal_density(model.design, model.priors, model.problem)
    # density of log sd far out: sd^(1 - power), which has a finite integral for power 2 and more
    far, farther = (density.value(np.array([at, 0.0])) for at in (8.0, 9.0))
    assert farther - far == pytest.approx(1 - power, abs=1e-3)
    if power > 1:
        refuse_improper_posterior(model.design, model.priors)
        return
    with pytest.raises(blm.PriorError, match=f"only {power} independent value"):
        model.fit(method="importance", random_seed=1, progressbar=False)


def test_degrees_of_freedom_and_ranges_have_no_flat_prior():
    with pytest.raises(blm.PriorError, match="improper"):
        quietly("y ~ x", _data(), family="student", priors={"nu": HALF_FLAT})
    with pytest.raises(blm.PriorError, match="improper"):
        quietly("y ~ f", _data(), residual="car1(x | g)", priors={"range": HALF_FLAT})


def test_an_effect_the_data_say_nothing_about_is_not_reanalyzed():
    model = quietly("y ~ x + constant + (1 | g)", _data())
    with pytest.raises(blm.DataError, match="nothing about constant"):
        blm.reanalyze(model, "constant")
    with pytest.raises(blm.DataError, match="nothing about constant"):
        blm.savage_dickey(model, "constant", prior=blm.Prior("Normal", mu=0, sigma=1))
