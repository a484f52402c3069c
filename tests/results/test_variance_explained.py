"""Shares of variance: R2, intraclass correlation, terms; posteriors and bootstrap intervals."""

from __future__ import annotations

import warnings

import arviz as az
import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from tests.conftest import correlation_matrix, dataset, quietly

FORMULA = "Reaction ~ Days + (Days | Subject)"


def _reml(formula, data, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", blm.ModelWarning)
        return quietly(formula, data, **options).reml()


def _few_draws(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", blm.SamplingWarning)
        return model.fit(draws=50, chains=2, random_seed=1, progressbar=False)


def test_gelman_r2_is_variance_of_predictions_over_itself_plus_residual(sleepstudy_posterior):
    fit = sleepstudy_posterior
    ours = fit.r2("gelman", draws=True)
    post, design = fit.posterior, fit.model.design
    mean = fit.predict(draws=True).to_numpy()
    population = fit.predict(random="population", draws=True).to_numpy()
    sigma2 = post["sigma"].to_numpy() ** 2
    for d in ((0, 0), (3, 999)):
        explained = mean[d].var(ddof=1)
        expected = explained / (explained + sigma2[d])
        assert float(ours["conditional"][d]) == pytest.approx(expected, rel=1e-10)
        explained = population[d].var(ddof=1)
        left = (mean - population)[d].var(ddof=1) + sigma2[d]
        assert float(ours["marginal"][d]) == pytest.approx(explained / (explained + left))
    assert design.n_rows == 180


def test_gelman_r2_does_not_depend_on_the_size_of_its_blocks(sleepstudy_posterior, monkeypatch):
    whole = sleepstudy_posterior.r2("gelman")
    monkeypatch.setattr("bayeslmm.results.explained._BLOCK", 100_000)
    pd.testing.assert_frame_equal(sleepstudy_posterior.r2("gelman"), whole)


def test_an_offset_explains_nothing(toy):
    plain = quietly("y ~ x + (1 | g)", toy)
    moved = quietly("I(y + 5 * z) ~ x + offset(5 * z) + (1 | g)", toy)
    fit = _few_draws(plain)
    other = blm.PosteriorFit(moved, fit.priors, fit.idata, fit.info)  # the same draws
    for method in ("nakagawa", "gelman"):
        np.testing.assert_allclose(fit.r2(method)["mean"], other.r2(method)["mean"], rtol=1e-9)


def test_icc_at_a_covariate_is_z_sigma_z_over_itself_plus_residual(sleepstudy):
    fit = _reml(FORMULA, sleepstudy)
    table = fit.icc({"Days": [0, 5, 9]})
    Sigma = fit.covariances["Subject"].to_numpy()
    for days in (0, 5, 9):
        z = np.array([1.0, days])
        expected = z @ Sigma @ z / (z @ Sigma @ z + fit.sigma**2)
        rows = table[table["Days"] == days]
        assert rows["icc"].tolist() == ["adjusted", "Subject"]
        np.testing.assert_allclose(rows["estimate"], expected, rtol=1e-12)
    frame = pd.DataFrame({"Days": [5.0], "other": ["a"]})
    assert fit.icc(frame)["estimate"][0] == pytest.approx(table["estimate"][2])
    # the share of one row with itself is the correlation of two rows at the same point
    twice = fit.implied_correlation(pd.DataFrame({"Days": [5.0, 5.0]})).to_numpy()
    assert twice[0, 1] == pytest.approx(table["estimate"][2])


def test_posterior_icc_at_a_covariate_is_that_of_each_draw(sleepstudy_posterior):
    fit = sleepstudy_posterior
    found = fit.icc({"Days": [0, 9]}, draws=True)
    assert dict(found.sizes) == {"chain": 4, "draw": 1000, "at": 2}
    post = fit.posterior
    sd, corr = post["sd_Subject"].to_numpy(), correlation_matrix(post["corr_Subject"])
    Sigma = corr * sd[..., :, None] * sd[..., None, :]
    z = np.array([1.0, 9.0])
    between = np.einsum("a,cdab,b->cd", z, Sigma, z)
    expected = between / (between + post["sigma"].to_numpy() ** 2)
    np.testing.assert_allclose(found["adjusted"].sel(at=9), expected, rtol=1e-10)
    table = fit.icc({"Days": [0, 9]})
    assert table["mean"][2] == pytest.approx(expected.mean())


def test_icc_refuses_points_that_say_nothing(sleepstudy):
    fit = _reml(FORMULA, sleepstudy)
    with pytest.raises(ValueError, match="'Weight' is not in the random effects.*Days"):
        fit.icc({"Weight": 1})
    with pytest.raises(ValueError, match="points"):
        fit.icc({"Days": []})
    with pytest.raises(blm.DataError, match="missing value"):
        fit.icc({"Days": [1.0, np.nan]})
    with pytest.raises(ValueError, match="same everywhere"):
        _reml("Reaction ~ Days + (1 | Subject)", sleepstudy).icc({"Days": 1})
    two = sleepstudy.assign(x=np.arange(180) % 7)
    with pytest.raises(ValueError, match="'x' as well"):
        _reml("Reaction ~ Days + (Days + x || Subject)", two).icc({"Days": 1})


@pytest.mark.parametrize(
    ("formula", "data"),
    [
        (FORMULA, "sleepstudy"),
        ("Reaction ~ Days + (Days || Subject)", "sleepstudy"),
        ("score ~ Machine + (1 | Worker/Machine)", "machines"),
        ("diameter ~ 1 + (1 | plate) + (1 | sample)", "penicillin"),
        ("MathAch ~ SES * Minority + (SES | School)", "mathachieve"),
        ("Yield ~ 1 + (1 | Batch)", "dyestuff2"),
    ],
)
def test_shares_of_terms_add_up_to_one_and_to_r2(formula, data):
    fit = _reml(formula, dataset(data))
    table = fit.variance_shares()
    assert table["estimate"].sum() == pytest.approx(1)
    by_kind = table.groupby("kind")["estimate"].sum()
    r2 = fit.r2()
    assert by_kind.get("fixed", 0.0) == pytest.approx(r2["marginal"])
    assert by_kind["residual"] == pytest.approx(1 - r2["conditional"])
    assert table["term"].tolist()[-1] == "residual"
    assert np.all(np.isfinite(table["estimate"]))


def test_draws_are_what_arviz_takes(sleepstudy_posterior):
    fit = sleepstudy_posterior
    for draws, table in (
        (fit.r2(draws=True), fit.r2()),
        (fit.r2("gelman", draws=True), fit.r2("gelman")),
        (fit.icc(draws=True), fit.icc()),
        (fit.variance_shares(draws=True), fit.variance_shares()),
    ):
        summary = az.summary(draws, ci_prob=0.95, round_to="none")
        np.testing.assert_allclose(summary["mean"].astype(float), table["mean"], rtol=1e-10)
        np.testing.assert_allclose(summary["eti95_lb"].astype(float), table["lower"], rtol=1e-6)


def test_bootstrap_intervals_are_seeded_and_contain_the_estimate(sleepstudy):
    fit = _reml(FORMULA, sleepstudy)
    first = fit.r2(n_sims=100, random_seed=4, progressbar=False)
    pd.testing.assert_frame_equal(first, fit.r2(n_sims=100, random_seed=4, progressbar=False))
    assert ((first["lower"] < first["estimate"]) & (first["estimate"] < first["upper"])).all()
    np.testing.assert_allclose(first["estimate"], fit.r2())
    shares = fit.variance_shares(n_sims=100, random_seed=4, progressbar=False)
    # the same simulations, so the marginal R2 and the share of its only term agree
    assert shares["lower"][0] == pytest.approx(first.loc["marginal", "lower"])
    narrow = fit.icc({"Days": 0}, n_sims=100, level=0.5, random_seed=4, progressbar=False)
    wide = fit.icc({"Days": 0}, n_sims=100, level=0.9, random_seed=4, progressbar=False)
    assert (wide["upper"] - wide["lower"] > narrow["upper"] - narrow["lower"]).all()


def test_bootstrap_at_the_boundary_is_never_missing():
    fit = _reml("Yield ~ 1 + (1 | Batch)", dataset("dyestuff2"))
    table = fit.icc(n_sims=60, random_seed=1, progressbar=False)
    assert np.all(np.isfinite(table))
    assert table.loc["adjusted", "lower"] == 0
    assert table.loc["adjusted", "upper"] > 0


def test_gelman_needs_a_posterior_and_other_methods_do_not_exist(sleepstudy, sleepstudy_posterior):
    fit = _reml(FORMULA, sleepstudy)
    with pytest.raises(ValueError, match="posterior"):
        fit.r2("gelman")
    for one in (fit, sleepstudy_posterior):
        with pytest.raises(ValueError, match="method must be"):
            one.r2("cox")
    with pytest.raises(ValueError, match="n_sims"):
        fit.r2(n_sims=1)


def test_factors_called_like_a_share_or_a_dimension_keep_their_own(toy):
    frame = toy.rename(columns={"g": "adjusted", "item": "draw"})
    model = quietly("y ~ x + (x | adjusted) + (1 | draw)", frame)
    fit = _few_draws(model)
    assert fit.icc().index.tolist() == ["adjusted", "unadjusted", "adjusted_", "draw"]
    assert set(fit.icc(draws=True).data_vars) == {"adjusted", "unadjusted", "adjusted_", "draw_"}
    assert fit.icc({"x": [0, 1]}, draws=True)["adjusted_"].dims == ("chain", "draw", "at")
