"""Known sampling variances: sigma fixed, in REML and in the posterior."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm


@cache
def bcg() -> pd.DataFrame:
    """Log relative risks of 13 trials of the BCG vaccine (Colditz et al. 1994, JAMA 271(9))."""
    counts = np.array(
        [
            [4, 119, 11, 128, 44], [6, 300, 29, 274, 55], [3, 228, 11, 209, 42],
            [62, 13536, 248, 12619, 52], [33, 5036, 47, 5761, 13], [180, 1361, 372, 1079, 44],
            [8, 2537, 10, 619, 19], [505, 87886, 499, 87892, 13], [29, 7470, 45, 7232, 27],
            [17, 1699, 65, 1600, 42], [186, 50448, 141, 27197, 18], [5, 2493, 3, 2338, 33],
            [27, 16886, 29, 17825, 33],
        ],
        dtype=float,
    )  # fmt: skip
    a, b, c, d, latitude = counts.T
    variance = 1 / a - 1 / (a + b) + 1 / c - 1 / (c + d)
    return pd.DataFrame(
        {
            "trial": np.arange(13),
            "y": np.log(a / (a + b) / (c / (c + d))),
            "variance": variance,
            "precision": 1 / variance,
            "latitude": latitude,
        }
    )


KNOWN = {"sigma": blm.Prior("Fixed", value=1)}


def model(formula: str = "y ~ 1 + (1 | trial)", **options) -> blm.LMM:
    return blm.LMM(formula, bcg(), **{"weights": "precision", "priors": KNOWN, **options})


def test_reml_is_the_random_effects_meta_analysis_that_is_published():
    fit = model().reml()
    row = fit.fixef("normal").iloc[0]
    # Viechtbauer (2010), J. Stat. Softw. 36(3), section 3.1: tau^2 0.3132, mu -0.7145 (se 0.1798)
    assert fit.components()["sd(Intercept | trial)"] ** 2 == pytest.approx(0.3132, abs=5e-5)
    assert row["estimate"] == pytest.approx(-0.7145, abs=5e-5)
    assert row["se"] == pytest.approx(0.1798, abs=5e-5)
    assert fit.sigma == 1.0
    assert fit.n_parameters == 2


def test_the_criterion_is_the_normal_density_of_the_marginal_model():
    fit = model("y ~ latitude + (1 | trial)").ml()
    tau = fit.components()["sd(Intercept | trial)"]
    V = bcg()["variance"].to_numpy() + tau**2
    r = (bcg()["y"] - fit.fitted("population")).to_numpy()
    expected = -0.5 * np.sum(np.log(2 * np.pi * V) + r**2 / V)
    assert fit.loglik == pytest.approx(expected, abs=1e-10)


def test_the_reml_gradient_vanishes_and_conditional_modes_are_the_closed_form():
    fit = model().reml()
    tau2 = fit.components()["sd(Intercept | trial)"] ** 2
    v = bcg()["variance"].to_numpy()

    def restricted(t2):
        w = 1 / (v + t2)
        mu = np.sum(w * bcg()["y"]) / np.sum(w)
        return np.sum(np.log(v + t2)) + np.log(np.sum(w)) + np.sum(w * (bcg()["y"] - mu) ** 2)

    slope = (restricted(tau2 * 1.001) - restricted(tau2 * 0.999)) / (0.002 * tau2)
    assert abs(slope) < 1e-3
    expected = tau2 / (tau2 + v) * (bcg()["y"] - fit.fixef("normal")["estimate"].iloc[0])
    np.testing.assert_allclose(fit.ranef()["estimate"], expected, rtol=1e-6)


def test_only_the_products_of_weights_and_fixed_variance_matter():
    scaled = bcg().assign(precision=4 * bcg()["precision"])
    fit = blm.LMM(
        "y ~ 1 + (1 | trial)", scaled, weights="precision",
        priors={"sigma": blm.Prior("Fixed", value=2)},
    ).reml()  # fmt: skip
    one = model().reml()
    assert fit.loglik == pytest.approx(one.loglik, abs=1e-8)
    np.testing.assert_allclose(fit.components().iloc[0], one.components().iloc[0], rtol=1e-5)


def test_no_warning_that_single_rows_cannot_be_told_from_sigma(recwarn):
    model().reml().summary()
    assert not [w for w in recwarn if issubclass(w.category, blm.ModelWarning)]


def test_intervals_tests_and_prediction_keep_sigma_where_it_is():
    fit = model().reml()
    profile = fit.confint(progressbar=False)
    # metafor's profile of the ML likelihood: tau within (0.32, 0.92)
    assert 0.30 < profile["lower"].iloc[1] < 0.34
    assert 0.88 < profile["upper"].iloc[1] < 0.95
    assert profile.loc["sigma", ["lower", "upper"]].isna().all()
    boot = fit.confint("bootstrap", n_sims=20, random_seed=1, progressbar=False)
    assert boot.loc["sigma"].tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="Kenward"):
        fit.fixef("kenward-roger")
    new = fit.predict(pd.DataFrame({"trial": [99]}), random="new")
    tau2 = fit.components().iloc[0] ** 2
    assert new["se"].iloc[0] ** 2 == pytest.approx(tau2 + fit.fixef()["se"].iloc[0] ** 2)
    larger = model("y ~ latitude + (1 | trial)").ml()
    test = blm.likelihood_ratio_test(model().ml(), larger)
    assert test["df"].iloc[1] == 1
    assert test["p"].iloc[1] < 0.01


def test_the_posterior_is_the_one_on_a_grid():
    lmm = model(
        priors={
            **KNOWN,
            "Intercept": blm.Prior("Flat"),
            "sd(Intercept | trial)": blm.Prior("HalfNormal", sigma=1),
        }
    )
    post = lmm.fit(draws=2000, random_seed=3, progressbar=False)
    assert post.info.parameterization == "marginal"
    table = post.summary()
    assert (table.loc["sigma", ["mean", "sd"]] == [1.0, 0.0]).all()
    tau = np.linspace(1e-4, 4, 4001)
    y, v = (bcg()[c].to_numpy()[:, None] for c in ("y", "variance"))
    w = 1 / (v + tau**2)
    mu = (w * y).sum(0) / w.sum(0)
    log_p = 0.5 * (np.log(w).sum(0) - np.log(w.sum(0)) - (w * (y - mu) ** 2).sum(0)) - tau**2 / 2
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    # 8,000 draws, effective in the thousands: 0.1 sd is 5 standard errors or more
    sd = np.sqrt((p * tau**2).sum() - (p * tau).sum() ** 2)
    assert abs(table["mean"]["sd(Intercept | trial)"] - (p * tau).sum()) < 0.1 * sd
    assert abs(table["mean"]["Intercept"] - (p * mu).sum()) < 0.1 * table["sd"]["Intercept"]


def test_without_random_effects_it_is_the_fixed_effect_meta_analysis():
    fit = model("y ~ 1").reml()
    w = bcg()["precision"]
    row = fit.fixef().iloc[0]
    assert row["estimate"] == pytest.approx(np.sum(w * bcg()["y"]) / w.sum())
    assert row["se"] == pytest.approx(w.sum() ** -0.5)
    assert row["df"] == np.inf


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
        model(priors={"sigma": blm.Prior("Fixed", value=value)})


def test_calibration_leaves_known_values_out():
    lmm = model()
    assert "sigma" not in blm.sbc(lmm, 2, random_seed=1, progressbar=False).ranks
