"""Reweighting gives the posterior that a fit under the prior would give."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import bayeslmm as blm
from bayeslmm.reanalysis.posteriors import posterior_under
from bayeslmm.reanalysis.sources import source_and_likelihood
from tests.conftest import dataset, quietly

NORMAL = blm.Prior("Normal", mu=-2, sigma=3)


def sleep_model(**priors):
    return blm.LMM(
        "Reaction ~ Days + (Days | Subject)", dataset("sleepstudy"), priors=priors or None
    )


@cache
def sleep_result():
    return blm.reanalyze(sleep_model(), "Days", mcid=5, direction="lower is better")


@cache
def sleep_likelihood():
    return source_and_likelihood(sleep_model(), "Days", random_seed=5)


def test_the_reweighted_posterior_is_that_of_a_fit_under_the_prior():
    posterior = posterior_under(sleep_likelihood()[1], NORMAL)
    fit = sleep_model(Days=NORMAL).fit(method="importance", draws=4000, random_seed=8)
    beta = fit.posterior["beta"].sel(coef="Days").to_numpy().ravel()
    # means of about 2,000 effective draws of sd 1.9 on either side: a standard error of 0.06
    assert posterior.mean == pytest.approx(beta.mean(), abs=0.3)
    assert posterior.sd == pytest.approx(beta.std(), rel=0.12)
    for x in (4.0, 7.0, 10.0):
        assert posterior.cdf(x) == pytest.approx((beta < x).mean(), abs=0.06)


def test_the_evidence_follows_the_prior_as_a_fit_under_it_says():
    _, likelihood = sleep_likelihood()
    posterior = posterior_under(likelihood, NORMAL)
    ratio, error = posterior.log_evidence_ratio()
    fit = sleep_model(Days=NORMAL).fit(method="importance", draws=2000, random_seed=9)
    expected, noise = fit.info.log_marginal_likelihood, fit.info.log_marginal_likelihood_error
    total = np.sqrt(error**2 + likelihood.evidence.error**2 + noise**2)
    assert likelihood.evidence.value + ratio == pytest.approx(expected, abs=5 * total)
    assert total < 0.05


def test_a_fits_own_draws_give_the_same_table_as_the_model():
    fit = sleep_model().fit(method="importance", draws=2000, random_seed=2)
    table = blm.reanalyze(fit, "Days", mcid=5, direction="lower is better").table
    columns = ["estimate", "sd", "lower", "upper", "p_rope", "p_harm"]
    # the prior farthest from the data rests on the few draws that go with it
    rows = [name for name in table.index if name != "enthusiastic, strong"]
    found, wanted = (t.loc[rows, columns].dropna() for t in (table, sleep_result().table))
    assert np.allclose(found, wanted, rtol=0.05, atol=0.25)


def test_the_table_has_the_original_analysis_beside_the_priors():
    result = sleep_result()
    fit = sleep_model().reml()
    assert list(result.table.index[-2:]) == ["REML, Satterthwaite", "REML, Kenward-Roger"]
    for name, ddf in zip(result.table.index[-2:], ("satterthwaite", "kenward-roger"), strict=True):
        expected = fit.fixef(ddf).loc["Days"]
        row = result.table.loc[name]
        assert row["estimate"] == pytest.approx(expected["estimate"])
        assert row["sd"] == pytest.approx(expected["se"])
        assert row["p"] == pytest.approx(expected["p"])
    assert len(result.posteriors) == 11
    assert result.table.loc["reference", "bf10":"bf10"].isna().all()


def test_probabilities_add_up_and_follow_the_direction():
    table = sleep_result().table.iloc[:11]
    assert np.allclose(table["p_benefit"] + table["p_harm"], 1)
    assert (table["p_mcid"] <= table["p_benefit"]).all()
    other = blm.reanalyze(sleep_model(), "Days", mcid=5).table.iloc[:11]
    assert other.loc["reference", "p_benefit"] == pytest.approx(table.loc["reference", "p_harm"])
    assert table.loc["enthusiastic, strong", "estimate"] < table.loc["reference", "estimate"]
    assert other.loc["pessimistic, strong", "estimate"] < other.loc["reference", "estimate"]


def test_standard_priors_leave_the_stated_probability_on_the_wrong_side():
    from scipy.stats import norm

    priors = sleep_result().priors
    for strength, wrong in (("weak", 0.30), ("moderate", 0.15), ("strong", 0.05)):
        for name, mean in (("sceptical", 0.0), ("enthusiastic", -5.0), ("pessimistic", 5.0)):
            p = priors[f"{name}, {strength}"].parameters
            assert p["mu"] == pytest.approx(mean)
            assert norm(p["mu"], p["sigma"]).sf(mean + 5.0) == pytest.approx(wrong)


def test_a_t_prior_with_many_degrees_of_freedom_is_the_normal_one():
    _, likelihood = sleep_likelihood()
    normal = posterior_under(likelihood, NORMAL)
    t = posterior_under(likelihood, blm.Prior("StudentT", nu=1e7, mu=-2, sigma=3))
    assert t.mean == pytest.approx(normal.mean, abs=0.02)
    assert t.sd == pytest.approx(normal.sd, rel=0.01)
    assert t.quantile(0.1) == pytest.approx(normal.quantile(0.1), abs=0.03)
    assert t.survival(9.0) == pytest.approx(normal.survival(9.0), abs=0.005)
    assert t.log_bayes_factor()[0] == pytest.approx(normal.log_bayes_factor()[0], abs=1e-4)


def test_a_prior_far_from_the_data_is_drawn_again():
    prior = blm.Prior("Normal", mu=-40, sigma=2)
    result = blm.reanalyze(sleep_model(), "Days", {"far": prior}, mcid=5)
    assert any("drawn again" in note for note in result.notes)
    assert result.posteriors["far"].k_hat < 0.7
    fit = sleep_model(Days=prior).fit(random_seed=3, progressbar=False)
    beta = fit.posterior["beta"].sel(coef="Days").to_numpy().ravel()
    assert result.table.loc["far", "estimate"] == pytest.approx(beta.mean(), abs=0.6)
    assert result.table.loc["far", "sd"] == pytest.approx(beta.std(), rel=0.2)


def test_a_contrast_is_the_coefficient_it_becomes_when_the_factor_is_recoded():
    data = dataset("machines")
    recoded = data.assign(Machine=data["Machine"].astype(str).map({"A": "z", "B": "a", "C": "c"}))
    prior = {"mine": blm.Prior("Normal", mu=0, sigma=4)}
    flat = {"beta": blm.Prior("Flat"), "Intercept": blm.Prior("Flat")}
    one = blm.LMM("score ~ Machine + (1 | Worker)", data, priors=flat)
    two = blm.LMM("score ~ Machine + (1 | Worker)", recoded, priors=flat)
    a = blm.reanalyze(one, {"Machine[C]": 1, "Machine[B]": -1}, prior, draws=2000).table
    b = blm.reanalyze(two, "Machine[c]", prior, draws=2000).table
    columns = ["estimate", "sd", "lower", "upper"]
    assert np.allclose(a[columns].astype(float), b[columns].astype(float), rtol=0.03, atol=0.05)


@pytest.mark.parametrize(
    "formula", ["y ~ x + f", "y ~ x + (x | g) + (1 | item)", "y ~ f:h + x + (1 | g/h)"]
)
def test_it_works_without_groups_and_with_several_factors(toy, formula):
    result = blm.reanalyze(quietly(formula, toy), "x", mcid=0.5, draws=1000)
    assert np.isfinite(result.table.loc["reference", ["estimate", "sd", "p_rope"]]).all()
    assert "Minimal important difference: 0.5" in repr(result)


def test_a_weighted_model_and_an_unknown_scale_prior_are_taken_from_a_fit(toy):
    model = quietly(
        "y ~ x + (1 | g)", toy, weights="z", priors={"x": blm.Prior("Cauchy", alpha=0, beta=1)}
    )
    table = blm.reanalyze(model, "x", draws=1000).table
    assert "weakly informative" in table.index  # the Cauchy prior of the model itself


def test_assurance_of_a_model_for_which_its_formulas_do_not_hold_is_refused(toy):
    model = quietly("y ~ x + (1 | g)", toy, random="student")
    with pytest.raises(blm.DataError, match="not available for a model with Student-t"):
        blm.assurance(model, "x", 1.0, [5], n_sims=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mcid": 0}, "mcid must be a positive number"),
        ({"mcid": "2"}, "mcid must be a positive number"),
        ({"rope": (1, -1)}, "is empty"),
        ({"rope": "a"}, "rope must be"),
        ({"direction": "down"}, "direction must be"),
        ({"level": 95}, "level must be"),
    ],
)
def test_a_wrong_option_says_what_it_should_be(options, message):
    with pytest.raises(ValueError, match=message):
        blm.reanalyze(sleep_model(), "Days", draws=500, **options)


@pytest.mark.parametrize("priors", ["skeptical", {}, {"a": 3}, {"a": blm.Prior("LKJ", eta=1)}])
def test_a_wrong_set_of_priors_is_refused(priors):
    with pytest.raises(blm.PriorError):
        blm.reanalyze(sleep_model(), "Days", priors, draws=500)


def test_plots_show_every_row():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    result = sleep_result()
    ax = result.plot()
    assert [t.get_text() for t in ax.get_yticklabels()] == list(result.table.index)
    assert len([a for a in result.plot("density").flat if a.figure is not None]) == 11
    with pytest.raises(ValueError, match="kind must be"):
        result.plot("violin")
    plt.close("all")
