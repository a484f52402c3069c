"""What both fits say: shares of variance, implied covariance, prediction, comparison."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from tests.conftest import DATA, correlation_matrix, dataset, quietly

REFERENCES = json.loads((DATA / "lme4.json").read_text())


def _reml(formula, data, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", blm.ModelWarning)
        return quietly(formula, data, **options).reml()


# performance 0.10.2 leaves the slope's variance out of models with ||
@pytest.mark.parametrize(
    "reference",
    [r for r in REFERENCES if r["name"] != "sleepstudy_uncorrelated"],
    ids=lambda r: r["name"],
)
def test_r2_and_icc_of_reml_fits_are_those_of_performance(reference):
    fit = _reml(reference["formula"], dataset(reference["data"]))
    for ours, key in ((fit.r2(), "r2"), (fit.icc(), "icc")):
        assert np.all(np.isfinite(ours))
        for name, value in (reference["reml"].get(key) or {}).items():
            if value is not None:
                assert ours[name] == pytest.approx(value, abs=1e-4)


def test_shares_at_the_boundary_are_zero_and_not_missing():
    fit = _reml("Yield ~ 1 + (1 | Batch)", dataset("dyestuff2"))
    assert fit.icc()["adjusted"] == 0
    assert fit.r2().tolist() == [0, 0]


def test_posterior_shares_are_near_the_reml_ones(sleepstudy_posterior, sleepstudy):
    reml = _reml("Reaction ~ Days + (Days | Subject)", sleepstudy)
    for ours, theirs in (
        (sleepstudy_posterior.r2(), reml.r2()),
        (sleepstudy_posterior.icc(), reml.icc()),
    ):
        assert ours.index.tolist() == theirs.index.tolist()
        for name in theirs.index:
            assert abs(ours.loc[name, "mean"] - theirs[name]) < ours.loc[name, "sd"]


def test_a_random_intercept_implies_compound_symmetry(sleepstudy):
    fit = _reml("Reaction ~ Days + (1 | Subject)", sleepstudy)
    correlation = fit.implied_correlation().to_numpy()
    off = correlation[~np.eye(10, dtype=bool)]
    np.testing.assert_allclose(off, fit.icc()["adjusted"])
    np.testing.assert_allclose(np.diag(correlation), 1)


def test_implied_covariance_is_z_sigma_z_plus_sigma2(sleepstudy, sleepstudy_posterior):
    fit = _reml("Reaction ~ Days + (Days | Subject)", sleepstudy)
    days = np.array([0.0, 2.5, 12.0])
    Z = np.column_stack([np.ones(3), days])
    expected = Z @ fit.covariances["Subject"].to_numpy() @ Z.T + fit.sigma**2 * np.eye(3)
    frame = pd.DataFrame({"Days": days})
    np.testing.assert_allclose(fit.implied_covariance(frame), expected, rtol=1e-10)
    two = frame.assign(Subject=["308", "308", "309"])
    separate = fit.implied_covariance(two).to_numpy()
    assert separate[0, 2] == 0
    assert separate[0, 1] == pytest.approx(expected[0, 1])
    post = sleepstudy_posterior.posterior
    sd, corr = post["sd_Subject"].to_numpy(), correlation_matrix(post["corr_Subject"])
    Sigma = (corr * sd[..., :, None] * sd[..., None, :]).mean(axis=(0, 1))
    mean = Z @ Sigma @ Z.T + float((post["sigma"] ** 2).mean()) * np.eye(3)
    np.testing.assert_allclose(sleepstudy_posterior.implied_covariance(frame), mean, rtol=1e-8)


def test_predictions_for_the_fitted_rows_are_the_fitted_values(sleepstudy, sleepstudy_posterior):
    fit = _reml("Reaction ~ Days + (Days | Subject)", sleepstudy)
    for random in ("conditional", "population"):
        np.testing.assert_allclose(
            fit.predict(random=random)["estimate"], fit.fitted(random), rtol=1e-10
        )
        np.testing.assert_allclose(
            fit.predict(sleepstudy, random=random)["estimate"], fit.fitted(random), rtol=1e-10
        )
    beta = sleepstudy_posterior.fixef()["mean"]
    population = sleepstudy_posterior.predict(sleepstudy, random="population")["mean"]
    np.testing.assert_allclose(population, beta["Intercept"] + beta["Days"] * sleepstudy["Days"])
    residuals = sleepstudy_posterior.residuals()
    fitted = sleepstudy_posterior.fitted()["mean"]
    np.testing.assert_allclose(residuals + fitted, sleepstudy["Reaction"])


def test_conditional_and_population_predictions_average_to_the_same_line(sleepstudy):
    fit = _reml("Reaction ~ Days + (Days | Subject)", sleepstudy)
    conditional = fit.predict()["estimate"].groupby(sleepstudy["Days"]).mean()
    population = fit.predict(random="population")["estimate"].groupby(sleepstudy["Days"]).mean()
    np.testing.assert_allclose(conditional, population, rtol=1e-6)


def test_prediction_variances_equal_the_mixed_model_equations(sleepstudy):
    # crossed factors: [X Z]' [X Z] / sigma^2 + prior precision of b, inverted whole
    data = dataset("penicillin")
    fit = _reml("diameter ~ 1 + (1 | plate) + (1 | sample)", data)
    blocks = fit.design.blocks
    W = np.column_stack([np.ones(144)] + [np.eye(b.n_levels)[b.codes] for b in blocks])
    sds = fit.components()
    prior = np.concatenate([[0], np.repeat(1 / sds.to_numpy()[:2] ** 2, [24, 6])])
    covariance = np.linalg.inv(W.T @ W / fit.sigma**2 + np.diag(prior))
    expected = np.einsum("ia,ab,ib->i", W, covariance, W)
    np.testing.assert_allclose(fit.predict()["se"] ** 2, expected, rtol=1e-8)
    response = fit.predict(kind="response")["se"] ** 2
    np.testing.assert_allclose(response, expected + fit.sigma**2, rtol=1e-8)


def test_pairs_of_levels_that_never_met_are_predicted_too():
    data = dataset("penicillin")
    kept = data[~((data["plate"] == "a") & (data["sample"] == "A"))]
    fit = _reml("diameter ~ 1 + (1 | plate) + (1 | sample)", kept)
    new = pd.DataFrame({"plate": ["a", "b"], "sample": ["A", "A"]})
    blocks = fit.design.blocks
    W = np.column_stack([np.ones(143)] + [np.eye(b.n_levels)[b.codes] for b in blocks])
    sds = fit.components().to_numpy()
    prior = np.concatenate([[0], np.repeat(1 / sds[:2] ** 2, [24, 6])])
    covariance = np.linalg.inv(W.T @ W / fit.sigma**2 + np.diag(prior))
    rows = np.zeros((2, 31))
    rows[[0, 1], [1, 2]] = rows[:, 0] = rows[:, 25] = 1
    expected = np.einsum("ia,ab,ib->i", rows, covariance, rows)
    np.testing.assert_allclose(fit.predict(new)["se"] ** 2, expected, rtol=1e-8)


def test_new_groups_are_wider_and_share_their_effects(sleepstudy, sleepstudy_posterior):
    new = pd.DataFrame({"Days": [0.0, 9.0, 0.0], "Subject": ["n1", "n1", "n2"]})
    options = {"random": "new", "draws": True, "random_seed": 3}
    draws = sleepstudy_posterior.predict(new, **options).to_numpy().reshape(-1, 3)
    assert abs(np.corrcoef(draws[:, 0], draws[:, 2])[0, 1]) < 0.25
    effect = sleepstudy_posterior.predict(new, random="population", draws=True)
    extra = draws - effect.to_numpy().reshape(-1, 3)
    Z = np.array([[1, 0], [1, 9]])
    post = sleepstudy_posterior.posterior
    sd, corr = post["sd_Subject"].to_numpy(), correlation_matrix(post["corr_Subject"])
    Sigma = (corr * sd[..., :, None] * sd[..., None, :]).mean(axis=(0, 1))
    expected = Z @ Sigma @ Z.T
    sample = np.cov(extra[:, :2].T)
    # 4,000 heavy-tailed draws: six standard errors of a variance is about 20 %
    np.testing.assert_allclose(sample, expected, atol=0.2 * expected.max())
    again = sleepstudy_posterior.predict(new, **options).to_numpy().reshape(-1, 3)
    np.testing.assert_array_equal(draws, again)
    fit = _reml("Reaction ~ Days + (Days | Subject)", sleepstudy)
    assert (
        fit.predict(new, random="new")["se"] > fit.predict(new, random="population")["se"]
    ).all()


@pytest.mark.parametrize("random", ["conditional", "population", "new"])
def test_new_data_without_what_the_model_needs_is_refused(random, sleepstudy, sleepstudy_posterior):
    fits = (_reml("Reaction ~ Days + (Days | Subject)", sleepstudy), sleepstudy_posterior)
    for fit in fits:
        with pytest.raises(blm.FormulaError, match="no column 'Days'"):
            fit.predict(pd.DataFrame({"Subject": ["308"]}), random=random)
        if random == "conditional":
            unseen = pd.DataFrame({"Subject": ["999"], "Days": [1.0]})
            with pytest.raises(blm.DataError, match="'999' of 'Subject'.*random=\"new\""):
                fit.predict(unseen)
    with pytest.raises(ValueError, match="random must be"):
        fits[0].predict(random="magic")
    with pytest.raises(ValueError, match="kind must be"):
        fits[1].predict(kind="magic")


@pytest.mark.slow
def test_intervals_for_new_groups_cover_at_their_rate():
    rng = np.random.default_rng(6)
    g, x = np.repeat(np.arange(40), 5), np.tile(np.arange(5.0), 40)
    frame = pd.DataFrame({"x": x, "g": g, "y": rng.normal(size=200)})
    model = quietly("y ~ x + (x | g)", frame)
    new = pd.DataFrame({"x": [0.0, 2.0, 4.0], "g": ["a", "b", "c"]})
    hits, n = 0, 300
    for _ in range(n):
        b = rng.multivariate_normal([0, 0], [[1.0, 0.2], [0.2, 0.3]], 43)
        y = 1 + b[g, 0] + (0.5 + b[g, 1]) * x + rng.normal(size=200)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", blm.ModelWarning)
            table = model.with_response(y).reml().predict(new, random="new", kind="response")
        future = 1 + b[40:, 0] + (0.5 + b[40:, 1]) * new["x"].to_numpy() + rng.normal(size=3)
        hits += ((table["lower"] <= future) & (future <= table["upper"])).sum()
    # 900 intervals: standard error 0.007; five of them and 0.015 for plug-in variances
    assert hits / (3 * n) == pytest.approx(0.95, abs=0.05)


def test_estimates_stand_side_by_side(sleepstudy, sleepstudy_posterior):
    fit = _reml("Reaction ~ Days + (Days | Subject)", sleepstudy)
    table = blm.compare_estimates(sleepstudy_posterior, fit, fit.model.ml())
    assert table.columns.get_level_values(0).unique().tolist() == ["posterior", "REML", "ML"]
    assert table.index.tolist() == sleepstudy_posterior.summary().index.tolist()
    assert table.loc["Days", ("REML", "estimate")] == pytest.approx(10.467286, rel=1e-5)
    named = blm.compare_estimates(fit, fit, names=["a", "b"])
    assert named.columns.get_level_values(0).unique().tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="different names"):
        blm.compare_estimates(fit, fit, names=["a"])
