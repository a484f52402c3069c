"""Power and assurance by simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bayeslmm as blm
from bayeslmm.reanalysis.designs import resize
from tests.conftest import dataset, quietly


def trial(n=20, rows=4) -> pd.DataFrame:
    """Two arms of people, measured four times."""
    rng = np.random.default_rng(3)
    person = np.repeat(np.arange(n), rows)
    return pd.DataFrame(
        {
            "y": rng.standard_normal(n * rows),
            "arm": (person % 2).astype(float),
            "visit": np.tile(np.arange(rows), n).astype(float),
            "person": person,
            "site": person % 5,
            "item": np.tile(np.arange(rows), n),
        }
    )


def row_of(model, name):
    return np.eye(len(model.design.coef_names))[list(model.design.coef_names).index(name)]


@pytest.mark.parametrize("n", [4, 10, 20, 31, 60])
def test_arms_keep_their_proportions_at_any_number_of_groups(n):
    model = quietly("y ~ arm + visit + (1 | person)", trial())
    rows = resize(model.design, "person", n, row_of(model, "arm"))
    assert rows.factors[0].n_levels == n
    assert rows.n == 4 * n
    share = rows.X[:, list(model.design.coef_names).index("arm")].mean()
    assert abs(share - 0.5) <= 0.5 / n + 1e-12


def test_nested_levels_are_new_in_every_copy_and_crossed_ones_are_not():
    model = quietly("y ~ arm + (1 | site) + (1 | site:person) + (1 | item)", trial())
    rows = resize(model.design, "site", 10, row_of(model, "arm"))
    levels = {
        block.name: f.n_levels for block, f in zip(model.design.blocks, rows.factors, strict=True)
    }
    assert levels["site"] == 10
    assert levels["site:person"] == 40
    assert levels["item"] == 4


def test_results_do_not_depend_on_cores_and_repeat_with_the_seed():
    model = quietly("y ~ arm + (1 | person)", trial())
    options = {"n_sims": 12, "draws": 300, "random_seed": 5, "progressbar": False}
    prior = blm.Prior("Normal", mu=0.8, sigma=0.4)
    one = blm.assurance(model, "arm", prior, [8, 14], cores=1, **options)
    two = blm.assurance(model, "arm", prior, [8, 14], cores=2, **options)
    pd.testing.assert_frame_equal(one.table, two.table)
    assert "Power at an effect of 0.8" in repr(one)


def test_groups_whose_number_cannot_change_or_estimate_are_named():
    model = quietly("y ~ arm + (1 | person) + (1 | item)", trial())
    prior = blm.Prior("Normal", mu=1, sigma=1)
    with pytest.raises(ValueError, match="factor must be one of"):
        blm.assurance(model, "arm", prior, [8])
    with pytest.raises(ValueError, match="has no groups"):
        blm.assurance(quietly("y ~ arm", trial()), "arm", prior, [8])
    with pytest.raises(ValueError, match="at least 2"):
        blm.assurance(model, "arm", prior, [1], factor="person")
    with pytest.raises(ValueError, match="no parameter 'tau'"):
        blm.assurance(model, "arm", prior, [8], factor="person", parameters={"tau": 1})
    with pytest.raises(blm.PriorError, match="flat effect_prior"):
        blm.assurance(model, "arm", blm.Prior("Flat"), [8], factor="person")
    lone = quietly("y ~ arm + (1 | person)", trial().assign(arm=lambda d: d["person"] == 0))
    with pytest.raises(blm.DataError, match="cannot be estimated"):
        blm.assurance(lone, "arm", prior, [3], n_sims=2)


@pytest.mark.slow
def test_power_is_that_of_the_t_test_where_theory_has_it():
    """Balanced arms, random intercepts: the REML test is the t test of the groups' means.

    600 studies: a standard error of at most 0.0204; 5 of them fail once in a million. With
    infinite degrees of freedom the power at 8 groups is off by more than that.
    """
    parameters = {
        "sd(Intercept | person)": 1.0, "sigma": 0.8, "Intercept": 0.0, "arm": 0.0, "visit": 0.0,
    }  # fmt: skip
    model = quietly("y ~ arm + (1 | person)", trial())
    parameters.pop("visit")
    flat = blm.Prior("Flat")
    result = blm.assurance(
        model, "arm", blm.Prior("Normal", mu=1.5, sigma=0.5), [8, 16], n_sims=600,
        parameters=parameters, analysis_prior=flat, draws=200, random_seed=2, progressbar=False,
    )  # fmt: skip
    for n in (8, 16):
        se = np.sqrt((1.0 + 0.64 / 4) * 4 / n)
        critical = stats.t(n - 2).ppf(0.975)

        def power(effect, se=se, critical=critical, n=n):
            return stats.nct(n - 2, effect / se).sf(critical)

        assert result.table.loc[n, "power"] == pytest.approx(power(1.5), abs=0.102)
        drawn = stats.norm(1.5, 0.5).ppf((np.arange(200) + 0.5) / 200)
        expected = np.mean([power(effect) for effect in drawn])
        assert result.table.loc[n, "assurance"] == pytest.approx(expected, abs=0.102)
        width = 2 * critical * se
        assert result.table.loc[n, "width"] == pytest.approx(width, rel=0.1)


def test_a_posterior_fit_brings_its_own_parameters():
    fit = quietly("y ~ arm + (1 | person)", trial()).fit(
        method="importance", draws=200, random_seed=1
    )
    result = blm.assurance(
        fit, "arm", 1.0, [10], n_sims=6, draws=300, random_seed=1, progressbar=False
    )
    assert result.design_value == 1.0
    assert result.table.loc[10, "power"] == result.table.loc[10, "assurance"]


def test_default_priors_stay_those_of_the_template():
    fit = blm.LMM("Reaction ~ Days + (Days | Subject)", dataset("sleepstudy"))
    result = blm.assurance(fit, "Days", 5.0, [6], n_sims=2, draws=300, random_seed=1)
    assert result.analysis_prior == blm.Prior(
        "Normal", mu=0.0, sigma=fit.priors["Days"].parameters["sigma"]
    )


def test_known_standard_errors_are_refused():
    model = blm.LMM("yi | se(sei) ~ ablat + (1 | trial)", blm.load_dataset("bcg"))
    prior = blm.Prior("Normal", mu=0, sigma=0.1)
    with pytest.raises(blm.DataError, match="standard errors are known"):
        blm.assurance(model, "ablat", prior, 20, n_sims=2, random_seed=1)
