"""Known sampling errors, ``y | se(s) ~ ...``, in REML and in the posterior: meta-analysis."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

import bayeslmm as blm
from bayeslmm.cli import app
from bayeslmm.report.content import _data, _priors

FORMULA = "yi | se(sei) ~ 1 + (1 | trial)"
MODERATOR = "yi | se(sei) ~ ablat + (1 | trial)"
KNOWN = {"sigma": blm.Prior("Fixed", value=1)}


def bcg() -> pd.DataFrame:
    return blm.load_dataset("bcg")


def model(formula: str = FORMULA, **options) -> blm.LMM:
    return blm.LMM(formula, bcg(), **options)


def weighted(formula: str = "yi ~ 1 + (1 | trial)", data=None, **options) -> blm.LMM:
    """The same by weights and a fixed sigma."""
    data = bcg() if data is None else data
    return blm.LMM(formula, data, weights=(1 / data["sei"] ** 2).to_numpy(), **options)


@cache
def posterior() -> blm.PosteriorFit:
    return model().fit(draws=200, random_seed=1, progressbar=False)


# ---- as published


def test_reml_is_the_random_effects_meta_analysis_that_is_published(recwarn):
    fit = model().reml()
    row = fit.fixef("normal").iloc[0]
    # Viechtbauer (2010), J. Stat. Softw. 36(3), section 3.1: tau^2 0.3132, mu -0.7145 (se 0.1798)
    assert fit.components()["sd(Intercept | trial)"] ** 2 == pytest.approx(0.3132, abs=5e-5)
    assert row["estimate"] == pytest.approx(-0.7145, abs=5e-5)
    assert row["se"] == pytest.approx(0.1798, abs=5e-5)
    assert fit.sigma == 1.0
    assert fit.n_parameters == 2
    fit.summary()
    assert not [w for w in recwarn if issubclass(w.category, blm.ModelWarning)]


def test_knapp_and_hartungs_tests_are_those_of_metafor():
    # README of metafor: rma(yi, vi, data=dat, test="knha"), without and with ablat
    row = model().reml().fixef("knapp-hartung").iloc[0]
    published = [-0.7145, 0.1808, 12, -3.9522, 0.0019, -1.1084, -0.3206]
    np.testing.assert_allclose(row.to_numpy(dtype=float), published, atol=6e-5)
    fit = model(MODERATOR).reml()
    table = fit.fixef("knapp-hartung")
    published = [
        [0.2515, 0.2839, 11, 0.8857, 0.3948, -0.3735, 0.8764],
        [-0.0291, 0.0082, 11, -3.5483, 0.0046, -0.0472, -0.0111],
    ]
    # its search ends where tau^2 changes by less than 1e-5: beside rounding, 5e-5 for the rest
    np.testing.assert_allclose(table.to_numpy(dtype=float), published, atol=1e-4)
    term = fit.anova(ddf="knapp-hartung").loc["ablat"]
    assert term[["numdf", "dendf"]].tolist() == [1, 11]
    assert term["F"] == pytest.approx(12.5905, abs=1e-3)  # t^2, whose error is 7 times that of t
    assert term["p"] == pytest.approx(0.0046, abs=6e-5)


def test_heterogeneity_is_that_of_metafor():
    table = model().reml().heterogeneity()
    assert table.index.tolist() == ["tau2", "I2", "H2", "Q", "new study"]
    published = [0.3132, 0.9222, 12.86, 152.2330]
    for value, wanted, digits in zip(table["estimate"], published, (4, 4, 2, 4), strict=False):
        assert value == pytest.approx(wanted, abs=0.6 * 10.0**-digits)  # as printed
    assert table.loc["Q", "df"] == 12
    assert table.loc["Q", "p"] < 1e-20
    with_ablat = model(MODERATOR).reml().heterogeneity()
    published = [0.0764, 0.6839, 3.16, 30.7331]
    for value, wanted, digits in zip(with_ablat["estimate"], published, (4, 4, 2, 4), strict=True):
        assert value == pytest.approx(wanted, abs=0.6 * 10.0**-digits)  # as printed
    assert with_ablat.loc["Q", "df"] == 11
    assert with_ablat.loc["Q", "p"] == pytest.approx(0.0012, abs=5e-5)


def test_maximum_likelihood_tests_the_moderator_as_metafor_does():
    test = blm.likelihood_ratio_test(model().ml(), model(MODERATOR).ml())
    # metafor, anova() of the fits by method="ML": LRT 9.9588
    assert test["statistic"].iloc[1] == pytest.approx(9.9588, abs=6e-5)
    assert test["df"].iloc[1] == 1


def test_intervals_of_heterogeneity_are_those_of_tau():
    fit = model().reml()
    table = fit.heterogeneity(level=0.9)
    tau = fit.confint(level=0.9, parameters=["sd(Intercept | trial)"], progressbar=False).iloc[0]
    np.testing.assert_allclose(table.loc["tau2", ["lower", "upper"]].astype(float), tau[1:] ** 2)
    v = bcg()["sei"].to_numpy() ** 2
    typical = 12 * np.sum(1 / v) / (np.sum(1 / v) ** 2 - np.sum(v**-2))
    np.testing.assert_allclose(
        table.loc["I2", "upper"], tau["upper"] ** 2 / (tau["upper"] ** 2 + typical)
    )
    row = fit.fixef("normal").iloc[0]
    half = stats.t.ppf(0.95, 11) * np.sqrt(table.loc["tau2", "estimate"] + row["se"] ** 2)
    new = table.loc["new study"]
    np.testing.assert_allclose(
        new[["lower", "upper", "df"]].astype(float),
        [row["estimate"] - half, row["estimate"] + half, 11],
    )


def test_without_random_effects_it_is_the_equal_effects_meta_analysis():
    fit = model("yi | se(sei) ~ 1").reml()
    row = fit.fixef("kenward-roger").iloc[0]
    # metafor, rma(method="EE"): -0.4303, z -10.6247, interval -0.5097 to -0.3509
    np.testing.assert_allclose(
        row[["estimate", "t", "lower", "upper"]].astype(float),
        [-0.4303, -10.6247, -0.5097, -0.3509],
        atol=6e-5,
    )
    assert row["df"] == np.inf
    assert fit.components().empty


# ---- what the likelihood says


def test_the_criterion_is_the_normal_density_of_the_marginal_model():
    fit = model(MODERATOR).ml()
    V = bcg()["sei"].to_numpy() ** 2 + fit.components()["sd(Intercept | trial)"] ** 2
    r = (bcg()["yi"] - fit.fitted("population")).to_numpy()
    expected = -0.5 * np.sum(np.log(2 * np.pi * V) + r**2 / V)
    assert fit.loglik == pytest.approx(expected, abs=1e-10)


def test_the_reml_gradient_vanishes_and_conditional_modes_are_the_closed_form():
    fit, data = model().reml(), bcg()
    tau2, v = fit.components()["sd(Intercept | trial)"] ** 2, data["sei"].to_numpy() ** 2

    def restricted(t2):
        w = 1 / (v + t2)
        mu = np.sum(w * data["yi"]) / np.sum(w)
        return np.sum(np.log(v + t2)) + np.log(np.sum(w)) + np.sum(w * (data["yi"] - mu) ** 2)

    slope = (restricted(tau2 * 1.001) - restricted(tau2 * 0.999)) / (0.002 * tau2)
    assert abs(slope) < 1e-3
    expected = tau2 / (tau2 + v) * (data["yi"] - fit.fixef("normal")["estimate"].iloc[0])
    np.testing.assert_allclose(fit.ranef()["estimate"], expected, rtol=1e-6)


def test_kenward_and_roger_vary_the_variance_between_studies_alone():
    """Beside their formulas with V = diag(v) + tau^2 I, whose one derivative is I."""
    fit, data = model(MODERATOR).reml(), bcg()
    tau2 = fit.components()["sd(Intercept | trial)"] ** 2
    w = 1 / (data["sei"].to_numpy() ** 2 + tau2)
    X = fit.design.X
    Phi = np.linalg.inv(X.T @ (w[:, None] * X))
    P, Q = X.T @ (w[:, None] ** 2 * X), X.T @ (w[:, None] ** 3 * X)
    R = np.diag(w) - (w[:, None] * X) @ Phi @ (w[:, None] * X).T
    W = 2 / np.sum(R * R)
    adjusted = Phi + 2 * W * Phi @ (Q - P @ Phi @ P) @ Phi
    found = fit.fixef("kenward-roger")
    np.testing.assert_allclose(found["se"], np.sqrt(np.diag(adjusted)), rtol=1e-8)
    # of one row l: A1 = A2 = W (l'Phi P Phi l / l'Phi l)^2, whose df are 2 / A1
    slope = np.diag(Phi @ P @ Phi) / np.diag(Phi)
    np.testing.assert_allclose(found["df"], 2 / (W * slope**2), rtol=1e-6)


def test_satterthwaite_varies_the_variance_between_studies_alone():
    fit = model().reml()
    v = bcg()["sei"].to_numpy() ** 2
    tau = fit.components()["sd(Intercept | trial)"]
    y = bcg()["yi"].to_numpy()

    def deviance(s):
        w = 1 / (v + s * s)
        mu = np.sum(w * y) / np.sum(w)
        return -np.sum(np.log(w)) + np.log(np.sum(w)) + np.sum(w * (y - mu) ** 2)

    h = 1e-4
    curvature = (deviance(tau + h) - 2 * deviance(tau) + deviance(tau - h)) / h**2
    w = 1 / (v + tau**2)
    slope = 2 * tau * np.sum(w**2) / np.sum(w) ** 2
    df = 2 * np.sum(w) ** -2.0 / (slope**2 * 2 / curvature)
    assert fit.fixef()["df"].iloc[0] == pytest.approx(df, rel=1e-4)


def test_knapp_and_hartungs_standard_errors_may_be_smaller():
    data = pd.DataFrame({"s": range(6), "e": [1.0] * 6, "y": [0.1, -0.1, 0.2, -0.2, 0.15, -0.1]})
    with pytest.warns(blm.ModelWarning, match="estimated as 0"):
        fit = blm.LMM("y | se(e) ~ 1 + (1 | s)", data).reml()
    se = fit.fixef("knapp-hartung")["se"].iloc[0]
    assert se == pytest.approx(data["y"].std() / np.sqrt(6))
    assert se < fit.fixef("normal")["se"].iloc[0] / 5
    assert fit.heterogeneity()["estimate"][["tau2", "I2", "H2"]].tolist() == [0, 0, 1]


# ---- the same model by weights


def test_it_is_the_model_of_weights_and_a_fixed_sigma():
    one, other = model().reml(), weighted(priors=KNOWN).reml()
    assert one.loglik == pytest.approx(other.loglik, abs=1e-10)
    for ddf in ("satterthwaite", "kenward-roger", "knapp-hartung"):
        pd.testing.assert_frame_equal(one.fixef(ddf), other.fixef(ddf))
    pd.testing.assert_frame_equal(one.heterogeneity(), other.heterogeneity())
    other = weighted(priors=KNOWN).fit(draws=200, random_seed=1, progressbar=False)
    for name in ("beta", "sd_trial", "b_trial", "sigma"):
        # weights differ in their last digit, and chains of the same seed little more
        np.testing.assert_allclose(posterior().posterior[name], other.posterior[name], atol=1e-3)


def test_only_the_products_of_weights_and_fixed_variance_matter():
    scaled = bcg().assign(precision=4 / bcg()["sei"] ** 2)
    fit = blm.LMM(
        "yi ~ 1 + (1 | trial)", scaled, weights="precision",
        priors={"sigma": blm.Prior("Fixed", value=2)},
    ).reml()  # fmt: skip
    one = model().reml()
    assert fit.loglik == pytest.approx(one.loglik, abs=1e-8)
    np.testing.assert_allclose(fit.components().iloc[0], one.components().iloc[0], rtol=1e-5)
    pd.testing.assert_frame_equal(fit.heterogeneity(), one.heterogeneity(), rtol=1e-5)
    profile = fit.confint(parameters=["sigma"], progressbar=False)
    assert profile.loc["sigma", ["lower", "upper"]].isna().all()
    boot = fit.confint("bootstrap", n_sims=20, random_seed=1, progressbar=False)
    assert boot.loc["sigma"].tolist() == [2.0, 2.0, 2.0]


def test_other_fixed_values_are_for_the_posterior_only():
    data = blm.load_dataset("sleepstudy")
    priors = {"sd(Intercept | Subject)": blm.Prior("Fixed", value=25)}
    lmm = blm.LMM("Reaction ~ Days + (1 | Subject)", data, priors=priors)
    with pytest.raises(blm.PriorError, match="fixed sigma only"):
        lmm.reml()
    post = lmm.fit(draws=50, method="importance", random_seed=1)
    assert (post.posterior["sd_Subject"] == 25).all()


@pytest.mark.parametrize("value", [0, -1])
def test_a_scale_cannot_be_fixed_at_nothing(value):
    with pytest.raises(blm.PriorError, match="must be positive"):
        weighted(priors={"sigma": blm.Prior("Fixed", value=value)})


# ---- what fits say


def test_sigma_is_in_no_table_and_has_no_prior_to_set():
    lmm = model()
    assert "sigma =" not in repr(lmm)
    assert "sigma  " not in repr(lmm.priors)
    assert "sigma is known: rows have the standard errors sei" in repr(lmm.priors)
    assert "Standard errors of the rows, known: sei" in repr(lmm)
    fit, post = lmm.reml(), posterior()
    for table in (fit.varcomp(), fit.confint("wald"), post.varcomp(), post.summary()):
        assert "sigma" not in table.index
    assert "error[i] ~ Normal(0, sei[i]^2)" in lmm.equation(format="text")
    model(priors=KNOWN)  # which it is
    for prior in (blm.Prior("HalfNormal", sigma=1), blm.Prior("Fixed", value=2)):
        with pytest.raises(blm.PriorError, match="sigma is known"):
            model(priors={"sigma": prior})
    assert lmm.priors.copy().fixed() == lmm.priors.fixed() == KNOWN


def test_intervals_and_predictions_keep_standard_errors_where_they_are():
    fit = model().reml()
    profile = fit.confint(progressbar=False)
    # metafor's profile of the ML likelihood: tau within (0.32, 0.92)
    assert 0.30 < profile["lower"].iloc[1] < 0.34
    assert 0.88 < profile["upper"].iloc[1] < 0.95
    boot = fit.confint("bootstrap", n_sims=20, random_seed=1, progressbar=False)
    assert boot.index.tolist() == ["Intercept", "sd(Intercept | trial)"]
    new = pd.DataFrame({"trial": ["new"]})
    effect = fit.predict(new, random="new")["se"].iloc[0]
    tau2 = fit.components().iloc[0] ** 2
    assert effect**2 == pytest.approx(tau2 + fit.fixef()["se"].iloc[0] ** 2)
    response = fit.predict(new.assign(sei=0.5), random="new", kind="response")["se"].iloc[0]
    assert response**2 == pytest.approx(effect**2 + 0.25)
    simulated = fit.simulate(400, random_seed=1)
    sd = simulated.std(axis=1).to_numpy()
    # relative error of a standard deviation of 400 is 0.035: bound of 5 standard errors
    np.testing.assert_allclose(sd, np.sqrt(tau2 + bcg()["sei"] ** 2), rtol=0.18)


def test_predicted_responses_of_new_rows_need_their_standard_errors():
    fit, post = model().reml(), posterior()
    new = pd.DataFrame({"trial": ["new"]})
    for one in (fit, post):
        one.predict(new, random="new")
        with pytest.raises(blm.FormulaError, match="standard error column 'sei'"):
            one.predict(new, random="new", kind="response")
        with pytest.raises(blm.DataError, match="'sei' is -1 in row 0"):
            one.predict(new.assign(sei=-1), random="new", kind="response")
        with pytest.raises(blm.DataError, match="'sei' has missing values"):
            one.predict(new.assign(sei=np.nan), random="new", kind="response")
    wide = post.predict(new.assign(sei=100.0), random="new", kind="response", random_seed=1)
    # 800 independent draws: 5 standard errors of their standard deviation are 13 of a hundred
    assert abs(wide["sd"].iloc[0] - 100) < 13


def test_new_estimates_condition_the_fit_by_their_standard_errors():
    fit = model().reml()
    rows = bcg().iloc[:1].assign(trial="other", yi=-3.0, sei=0.2)
    told = fit.predict(rows, given=rows)["estimate"].iloc[0]
    tau2, y = fit.components().iloc[0] ** 2, np.append(bcg()["yi"], -3.0)
    w = 1 / (np.append(bcg()["sei"], 0.2) ** 2 + tau2)
    mean = np.sum(w * y) / np.sum(w)
    assert told == pytest.approx(mean + tau2 / (tau2 + 0.04) * (-3.0 - mean), rel=1e-6)


def test_posterior_predictions_have_the_known_standard_errors():
    post = posterior()
    y = post.posterior_predictive(random_seed=2)["posterior_predictive"]["yi"]
    fitted = post.posterior["beta"].to_numpy()[..., 0, None] + post.posterior["b_trial"][..., 0]
    sd = (y.to_numpy() - fitted.to_numpy()).std(axis=(0, 1))
    # 800 draws: 5 relative standard errors are 0.125
    np.testing.assert_allclose(sd, bcg()["sei"], rtol=0.125)
    assert np.isfinite(post.loo().elpd)


def test_the_posterior_is_the_one_on_a_grid():
    lmm = model(
        priors={
            "Intercept": blm.Prior("Flat"),
            "sd(Intercept | trial)": blm.Prior("HalfNormal", sigma=1),
        }
    )
    post = lmm.fit(draws=2000, random_seed=3, progressbar=False)
    assert post.info.parameterization == "marginal"
    table = post.summary()
    tau = np.linspace(1e-4, 4, 4001)
    y, v = bcg()["yi"].to_numpy()[:, None], bcg()["sei"].to_numpy()[:, None] ** 2
    w = 1 / (v + tau**2)
    mu = (w * y).sum(0) / w.sum(0)
    log_p = 0.5 * (np.log(w).sum(0) - np.log(w.sum(0)) - (w * (y - mu) ** 2).sum(0)) - tau**2 / 2
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    # 8,000 draws, effective in the thousands: 0.1 sd is 5 standard errors or more
    sd = np.sqrt((p * tau**2).sum() - (p * tau).sum() ** 2)
    assert abs(table["mean"]["sd(Intercept | trial)"] - (p * tau).sum()) < 0.1 * sd
    assert abs(table["mean"]["Intercept"] - (p * mu).sum()) < 0.1 * table["sd"]["Intercept"]


def test_calibration_leaves_known_values_out():
    assert "sigma" not in blm.sbc(model(), 2, random_seed=1, progressbar=False).ranks


def test_a_saved_fit_has_its_standard_errors(tmp_path):
    data = bcg().assign(vi=lambda d: d["sei"] ** 2)
    lmm = blm.LMM("yi | se(sqrt(vi)) ~ 1 + (1 | trial)", data)
    post = lmm.fit(draws=200, random_seed=1, progressbar=False)
    post.save(tmp_path / "fit.nc")
    again = blm.load(tmp_path / "fit.nc")
    np.testing.assert_array_equal(again.model.design.weights, lmm.design.weights)
    assert again.model.design.se_name == "sqrt(vi)"
    pd.testing.assert_frame_equal(again.summary(), post.summary())
    assert again.model.reml().loglik == lmm.reml().loglik
    assert repr(again.model.priors) == repr(lmm.priors)


def test_power_scaling_has_no_prior_of_what_is_known():
    columns = blm.power_scaling(posterior()).columns.tolist()
    assert columns == ["prior", "likelihood", "diagnosis", "Intercept", "sd(Intercept | trial)"]


def test_the_command_line_and_the_report_say_what_is_known(tmp_path):
    bcg().to_csv(tmp_path / "bcg.csv", index=False)
    call = ["fit", str(tmp_path / "bcg.csv"), FORMULA, "--reml", "--ddf", "knapp-hartung"]
    said = CliRunner().invoke(app, call).output
    assert "Standard errors of the rows, known: sei" in said
    assert "0.1808  12  -3.952" in said
    assert "The standard error of every row is known: sei." in _data(model().design).paragraphs
    rows = [row[0] for row in _priors(posterior()).tables[0].rows]
    assert rows == ["Intercept", "sd(Intercept | trial)"]


# ---- what is refused


def test_several_estimates_of_a_study_are_rows_of_one_level():
    data = bcg().assign(pair=np.repeat(range(7), 2)[:13])
    with pytest.warns(blm.ModelWarning, match="pair. is estimated as 0"):
        fit = blm.LMM("yi | se(sei) ~ 1 + (1 | pair) + (1 | trial)", data).reml()
    assert len(fit.components()) == 2
    for ask in (lambda f: f.fixef("knapp-hartung"), lambda f: f.heterogeneity()):
        with pytest.raises(blm.DataError, match="grouping factors are pair, trial"):
            ask(fit)
        with pytest.raises(blm.DataError, match="13 rows are of 7 levels of 'pair'"):
            ask(blm.LMM("yi | se(sei) ~ 1 + (1 | pair)", data).reml())
        with pytest.raises(blm.DataError, match="other effects than independent means"):
            ask(blm.LMM("yi | se(sei) ~ 1 + (0 + ablat | trial)", data).reml())
        with pytest.raises(blm.DataError, match="grouping factors are none"):
            ask(blm.LMM("yi | se(sei) ~ 1", data).reml())
        with pytest.raises(blm.DataError, match="standard deviation is estimated"):
            ask(blm.LMM("yi ~ 1 + (1 | pair)", data).reml())


@pytest.mark.parametrize("value", [0.0, -0.2])
def test_a_standard_error_that_is_none_is_refused_by_row_and_column(value):
    data = bcg().set_index("author", drop=False)
    data.iloc[4, data.columns.get_loc("sei")] = np.inf
    with pytest.raises(blm.DataError, match="'sei' has 1 infinite value.s., the first in row 4"):
        blm.LMM(FORMULA, data)
    data.iloc[4, data.columns.get_loc("sei")] = 0.2
    data.iloc[3, data.columns.get_loc("sei")] = value
    with pytest.raises(blm.DataError, match=rf"'sei' is {value:g} in row 'Hart & Sutherland'"):
        blm.LMM(FORMULA, data)


def test_a_row_without_a_standard_error_is_left_out():
    data = bcg()
    data.loc[2, "sei"] = np.nan
    with pytest.warns(blm.DataWarning, match=r"missing values in sei \(1\)"):
        assert blm.LMM(FORMULA, data).design.n_rows == 12
    with pytest.warns(blm.DataWarning, match=r"missing values in sei \(1\)"):
        assert blm.LMM(MODERATOR, data, missing="model").design.n_rows == 12


def test_a_standard_error_that_is_text_or_true_is_refused():
    for values in (["a", "b"] * 6 + ["a"], [True, False] * 6 + [True]):
        with pytest.raises(blm.DataError, match="'sei' is not numeric"):
            blm.LMM(FORMULA, bcg().assign(sei=values))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"weights": "year"}, "leave out weights="),
        ({"sigma": "~ alloc"}, "leave out residual= and sigma="),
        ({"family": "student"}, 'not for family="student"'),
        ({"family": "poisson"}, 'not for family="poisson"'),
    ],
)
def test_what_known_standard_errors_do_not_go_with_is_named(options, match):
    with pytest.raises(blm.FormulaError, match=match):
        model(**options)


def test_rows_read_in_batches_are_told_the_other_way(tmp_path):
    bcg().to_csv(tmp_path / "bcg.csv")
    assert blm.LMM(FORMULA, tmp_path / "bcg.csv").reml().loglik == model().reml().loglik
    with pytest.raises(blm.DataError, match="se.. needs every row in memory"):
        blm.LMM(FORMULA, blm.scan(tmp_path / "bcg.csv"))
