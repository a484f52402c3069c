"""Reanalysis and Bayes factors of models whose covariates have unknown values."""

from __future__ import annotations

import numpy as np
import pytest

import bayeslmm as blm
from tests.bayes.test_unknowns import frame
from tests.conftest import quietly

SKEPTIC = blm.Prior("Normal", mu=0, sigma=0.3)
OPTIONS = {"draws": 1000, "random_seed": 2, "progressbar": False}
PROPER = {"beta": blm.Prior("Normal", mu=0, sigma=2)}


@pytest.mark.parametrize("formula", ["y ~ x + sick + (1 | g)", "y ~ me(x, s) + (1 | g)"])
def test_another_prior_of_a_coefficient_of_unknown_values_is_that_of_a_new_fit(formula):
    data = frame()
    model = quietly(formula, data, missing="model", priors=PROPER)
    name = model.design.coef_names[1]
    found = blm.reanalyze(model, name, {"own": PROPER["beta"], "skeptic": SKEPTIC}, random_seed=1)
    for label, prior in (("own", PROPER["beta"]), ("skeptic", SKEPTIC)):
        fit = quietly(formula, data, missing="model", priors={**PROPER, name: prior}).fit(**OPTIONS)
        row, expected = found.table.loc[label], fit.fixef().loc[name]
        # some 400 slices, and at least 500 effective draws: six standard errors of both
        assert row["estimate"] == pytest.approx(expected["mean"], abs=0.4 * expected["sd"])
        assert row["sd"] == pytest.approx(expected["sd"], rel=0.25)


def test_bayes_factors_compare_models_of_the_same_readings():
    data = frame()
    fits = {
        formula: quietly(formula, data, missing="model", priors=PROPER).fit(**OPTIONS)
        for formula in ("y ~ x + z + (1 | g)", "y ~ x + (1 | g)", "y ~ x + age + (1 | g)")
    }
    own = fits["y ~ x + z + (1 | g)"]
    found = blm.bayes_factor(own, fits["y ~ x + (1 | g)"], random_seed=1)
    expected = blm.savage_dickey(own.model, "z", random_seed=1)
    error = np.hypot(found.relative_error, expected.relative_error)
    assert found.log_bf10 == pytest.approx(expected.log_bf10, abs=6 * error)
    with pytest.raises(ValueError, match="unknown values of 'age' and the other has none"):
        blm.bayes_factor(own, fits["y ~ x + age + (1 | g)"])
    other = quietly("y ~ x + (1 | g)", data, missing={"x": "~ z"}, priors=PROPER).fit(**OPTIONS)
    with pytest.raises(ValueError, match="different regressions"):
        blm.bayes_factor(own, other)


def test_flat_priors_of_a_measured_coefficient_are_refused():
    """With sd(x) near zero nothing but the prior holds it."""
    model = quietly("y ~ me(x, s) + (1 | g)", frame(), missing="model", priors=PROPER)
    with pytest.raises(blm.BayesLMMError, match="improper"):
        blm.reanalyze(model, "me(x, s)", {"flat": blm.Prior("Flat")}, random_seed=1)
