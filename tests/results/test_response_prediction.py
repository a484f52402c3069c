"""Predictions, residuals and ratios of posteriors of responses that are not Gaussian."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, kstest, norm

import bayeslmm as blm
from bayeslmm.bayes.responses import phi_draws
from bayeslmm.bayes.tree import linear_predictor
from bayeslmm.errors import DataError


@pytest.fixture(scope="module")
def cbpp() -> pd.DataFrame:
    return blm.load_dataset("cbpp")


@pytest.fixture(scope="module")
def binomial(cbpp):
    model = blm.MixedModel("incidence of size ~ period + (1 | herd)", cbpp, family="binomial")
    return model.fit(draws=250, random_seed=1, progressbar=False)


@pytest.fixture(scope="module")
def ordinal():
    wine = blm.load_dataset("wine")
    model = blm.MixedModel("rating ~ temp + contact + (1 | judge)", wine, family="ordinal")
    return model.fit(draws=250, random_seed=1, progressbar=False)


def eta_of(fit) -> np.ndarray:
    return linear_predictor(fit.model.design, fit.names, fit.posterior)


def test_means_are_per_trial_and_links_linear(binomial, cbpp):
    eta = eta_of(binomial)
    p = 1.0 / (1.0 + np.exp(-eta))
    np.testing.assert_allclose(binomial.predict()["mean"], p.mean(axis=(0, 1)))
    np.testing.assert_allclose(binomial.fitted(kind="link")["mean"], eta.mean(axis=(0, 1)))
    new = binomial.predict(cbpp.drop(columns=["incidence", "size"]), draws=True)
    np.testing.assert_allclose(new, p)


def test_new_responses_have_the_moments_of_their_draws(binomial, cbpp):
    """Mean and variance over 1,000 draws: bounds of 6 standard errors."""
    y = binomial.predict(cbpp, kind="response", draws=True, random_seed=3).to_numpy()
    p, m = 1.0 / (1.0 + np.exp(-eta_of(binomial))), cbpp["size"].to_numpy()
    variance = (m * p * (1 - p)).mean(axis=(0, 1))
    assert np.all(np.abs((y - m * p).mean(axis=(0, 1))) < 6 * np.sqrt(variance / 1000))
    assert np.all(y <= m)
    assert np.all(y == np.round(y))


def test_a_row_has_the_same_new_responses_among_others_and_alone(binomial, cbpp):
    one = binomial.predict(cbpp.iloc[:1], kind="response", draws=True, random_seed=3)
    all_rows = binomial.predict(cbpp, kind="response", draws=True, random_seed=3)
    np.testing.assert_array_equal(one[..., 0], all_rows[..., 0])
    again = binomial.predict(cbpp, kind="response", draws=True, random_seed=4)
    assert not np.array_equal(again, all_rows)


def test_new_counts_need_their_trials(binomial, cbpp):
    with pytest.raises(blm.FormulaError, match="size"):
        binomial.predict(cbpp.drop(columns="size"), kind="response")
    with pytest.raises(DataError, match="numbers of trials"):
        binomial.predict(cbpp.assign(size=np.nan), kind="response")


def test_a_new_herd_varies_as_the_population(binomial, cbpp):
    """Linear predictors of new herds: sd of effects and posterior together, within 10 %."""
    new = cbpp.iloc[:1].assign(herd="new")
    eta = binomial.predict(new, kind="link", random="new", draws=True, random_seed=1).to_numpy()
    sd = binomial.posterior["sd_herd"].to_numpy()
    average = binomial.predict(new, kind="link", random="population", draws=True).to_numpy()
    expected = np.sqrt(np.mean(sd**2) + average.var())
    assert eta.std() == pytest.approx(expected, rel=0.1)


def test_category_probabilities_are_columns(ordinal):
    eta, design = eta_of(ordinal), ordinal.model.design
    phi = phi_draws(design, ordinal.posterior)[:, :, None]
    expected = design.family.probabilities(eta, phi)
    draws = ordinal.predict(kind="probabilities", draws=True)
    assert draws.dims == ("chain", "draw", "row", "category")
    np.testing.assert_allclose(draws, expected)
    table = ordinal.predict(kind="probabilities")
    assert list(table.columns) == ["1", "2", "3", "4", "5"]
    np.testing.assert_allclose(table, expected.mean(axis=(0, 1)))
    scores = ordinal.predict(kind="mean")["mean"]
    np.testing.assert_allclose(scores, table.to_numpy() @ np.arange(5))
    drawn = ordinal.predict(kind="response", draws=True, random_seed=1).to_numpy()
    assert set(np.unique(drawn)) <= {0.0, 1.0, 2.0, 3.0, 4.0}


def test_probabilities_of_categories_are_for_ordinal_responses(binomial):
    with pytest.raises(DataError, match='family="ordinal"'):
        binomial.predict(kind="probabilities")


def test_residuals_are_averages_over_the_draws(binomial):
    design, p = binomial.model.design, 1.0 / (1.0 + np.exp(-eta_of(binomial)))
    y, m = design.y, design.trials
    raw = y - m * p.mean(axis=(0, 1))
    np.testing.assert_allclose(binomial.residuals(), raw)
    pearson = raw / np.sqrt((m * p * (1 - p)).mean(axis=(0, 1)))
    np.testing.assert_allclose(binomial.residuals(kind="pearson"), pearson)
    at = 1.0 / (1.0 + np.exp(-eta_of(binomial).mean(axis=(0, 1))))
    gap = binom.logpmf(y, m, y / m) - binom.logpmf(y, m, at)
    expected = np.sign(y - m * at) * np.sqrt(2 * gap)
    np.testing.assert_allclose(binomial.residuals(kind="deviance"), expected, atol=1e-7)
    below, up_to = (binom.cdf(y - k, m, p).mean(axis=(0, 1)) for k in (1, 0))
    place = norm.cdf(binomial.residuals(kind="quantile", random_seed=2))
    assert np.all((below - 1e-9 <= place) & (place <= up_to + 1e-9))


def test_quantile_residuals_are_normal_where_the_model_holds():
    """Kolmogorov-Smirnov: a right program has p below 1e-6 once in a million runs."""
    rng = np.random.default_rng(2)
    g, x = np.repeat(np.arange(60), 8), rng.normal(size=480)
    y = rng.poisson(np.exp(0.5 + 0.4 * x + rng.normal(0, 0.5, 60)[g]))
    data = pd.DataFrame({"y": y, "x": x, "g": g.astype(str)})
    post = blm.MixedModel("y ~ x + (1 | g)", data, family="poisson").fit(
        draws=250, random_seed=1, progressbar=False
    )
    values = post.residuals("conditional", "quantile", random_seed=1)
    assert kstest(values, "norm").pvalue > 1e-6
    wrong = blm.MixedModel("y ~ 1 + (1 | g)", data.assign(y=y * 3), family="poisson").fit(
        draws=250, random_seed=1, progressbar=False
    )
    assert kstest(wrong.residuals(kind="quantile", random_seed=1), "norm").pvalue < 1e-6


def test_residuals_that_are_not_there_are_refused(binomial, ordinal):
    with pytest.raises(DataError, match="no deviance residuals"):
        ordinal.residuals(kind="deviance")
    with pytest.raises(ValueError, match="kind must be one of"):
        binomial.residuals(kind="normalized")
    with pytest.raises(ValueError, match="given its group"):
        binomial.residuals("marginal", "pearson")
    average = binomial.predict(random="marginal")["mean"]
    design = binomial.model.design
    np.testing.assert_allclose(binomial.residuals("marginal"), design.y - design.trials * average)


def test_ratios_are_exponentials_of_the_draws(binomial, ordinal):
    beta = binomial.posterior["beta"].to_numpy()
    table = binomial.fixef(level=0.9)
    np.testing.assert_allclose(table["odds_ratio"], np.median(np.exp(beta), axis=(0, 1)))
    np.testing.assert_allclose(table["ratio_lower"], np.exp(table["lower"]), rtol=1e-3)
    assert "odds_ratio" in ordinal.fixef()
    assert "odds_ratio" not in binomial.summary()
    pairs = binomial.pairwise("period").set_index("contrast")
    assert pairs.attrs["scale"] == "linear predictor (logit)"
    expected = np.median(np.exp(beta[..., 2] - beta[..., 3]))
    assert pairs.loc["3 - 4", "odds_ratio"] == pytest.approx(expected)
    contrast = binomial.contrast({"period[2]": 1, "period[4]": -1})
    expected = np.median(np.exp(beta[..., 1] - beta[..., 3]))
    assert contrast["odds_ratio"].item() == pytest.approx(expected)


def test_ratios_of_likelihood_fits_are_exponentials_of_estimates(cbpp):
    model = blm.MixedModel("incidence of size ~ period + (1 | herd)", cbpp, family="binomial")
    table = model.ml().fixef()
    np.testing.assert_allclose(table["odds_ratio"], np.exp(table["estimate"]))
    np.testing.assert_allclose(table["ratio_upper"], np.exp(table["upper"]))
    pairs = model.ml().pairwise("period")
    np.testing.assert_allclose(pairs["odds_ratio"], np.exp(pairs["estimate"]))
    assert "odds_ratio" not in model.ml().summary()


@pytest.mark.parametrize(
    ("family", "link", "name"),
    [
        ("bernoulli", "logit", "odds_ratio"),
        ("bernoulli", "log", "risk_ratio"),
        ("binomial", "cloglog", "hazard_ratio"),
        ("bernoulli", "probit", None),
        ("poisson", "log", "rate_ratio"),
        ("poisson", "identity", None),
        ("zero_inflated_negativebinomial", "log", "rate_ratio"),
        ("gamma", "log", "ratio"),
        ("gamma", "inverse", None),
        ("lognormal", None, "ratio"),
        ("beta", "logit", "odds_ratio"),
        ("beta", "cloglog", None),
        ("ordinal", "logit", "odds_ratio"),
        ("ordinal", "cloglog", None),
        ("gaussian", None, None),
    ],
)
def test_exponentials_are_named_by_what_they_are(family, link, name):
    from bayeslmm.parts.families import family_of

    assert family_of(family, link).ratio == name
