"""Student-t residuals and random effects."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

import bayeslmm as blm
from bayeslmm.bayes.residuals import (
    draw_noise,
    effect_multipliers,
    log_density,
    outlier_weights,
    t_variance_ratio,
)


def _frame(outlier: float = 0.0) -> pd.DataFrame:
    """Five groups of four; the last row of the second group may be grossly wrong."""
    rng = np.random.default_rng(12)
    g = np.repeat(np.arange(5), 4)
    x = np.tile([-1.5, -0.5, 0.5, 1.5], 5)
    y = 10 + 2 * x + rng.normal(0, 1, 5)[g] + rng.normal(0, 0.5, 20)
    y[7] += outlier
    return pd.DataFrame({"y": y, "x": x, "g": g})


FORMULA = "y ~ x + (1 | g)"


@cache
def student_fit(outlier: float = 0.0):
    model = blm.LMM(FORMULA, _frame(outlier), family="student")
    return model.fit(draws=1000, tune=500, chains=2, random_seed=2, progressbar=False)


def test_t_densities_and_draws_are_scipys():
    gap, scale = np.array([[-3.0, 0.1, 8.0]]), np.array([[2.0]])
    nu = np.array([3.5])
    np.testing.assert_allclose(
        log_density(gap, scale, nu), stats.t.logpdf(gap, 3.5, scale=2), rtol=1e-12
    )
    np.testing.assert_allclose(log_density(gap, scale, None), stats.norm.logpdf(gap, scale=2))
    rng = np.random.default_rng(1)
    noise = draw_noise(rng, (1, 100_000), nu).ravel()
    # Kolmogorov-Smirnov: a right program is below a p of 1e-6 once in a million
    assert stats.kstest(noise, stats.t(3.5).cdf).pvalue > 1e-6
    effects = effect_multipliers(rng, nu, 100_000).ravel() * rng.standard_normal(100_000)
    assert stats.kstest(effects, stats.t(3.5).cdf).pvalue > 1e-6


def test_outlier_weights_are_the_mean_mixing_precisions():
    nu, r = 4.0, 2.5

    def density(w):
        return stats.norm.pdf(r, scale=w**-0.5) * stats.gamma.pdf(w, nu / 2, scale=2 / nu)

    mean = integrate.quad(lambda w: w * density(w), 0, 40)[0] / integrate.quad(density, 0, 40)[0]
    ours = outlier_weights(np.full((1, 1, 1), 2 * r), np.full((1, 1, 1), 2.0), np.full((1, 1), nu))
    assert ours[0] == pytest.approx(mean, rel=1e-6)


def test_variances_are_infinite_below_two_degrees_of_freedom_and_never_undefined():
    ratio = t_variance_ratio(np.array([0.5, 2.0, 2.5, 4.0, 1e9]))
    np.testing.assert_allclose(ratio, [1e12, 1e12, 5.0, 2.0, 1.0], rtol=1e-6)
    assert t_variance_ratio(None) == 1.0


def test_the_pymc_model_is_the_t_density():
    data = blm.load_dataset("sleepstudy")
    weights = np.linspace(0.5, 2, len(data))
    lmm = blm.LMM(
        "Reaction ~ Days + (1 | Subject)", data, weights=weights, family="student",
        random="student",
    )  # fmt: skip
    assert list(lmm.priors)[-2:] == ["sigma", "nu"]
    assert lmm.priors["nu"] == blm.Prior("Gamma", alpha=2, beta=0.1)
    model = lmm.pymc_model()
    names = {variable.name for variable in model.free_RVs}
    assert {"nu", "nu_Subject", "tau_Subject", "z_Subject", "sigma", "sd_Subject"} <= names
    point = model.initial_point()
    terms = model.compile_logp(vars=[model["Reaction"]], sum=False, mode="FAST_COMPILE")(point)[0]
    nu, sigma = np.exp(point["nu_log__"]), np.exp(point["sigma_log__"])
    design = lmm.design
    means = design.X.mean(axis=0) * [0, 1]
    mean = (design.X - means) @ point["beta_centered"]
    expected = stats.t.logpdf(design.y, nu, loc=mean, scale=sigma / np.sqrt(weights))
    np.testing.assert_allclose(terms, expected, rtol=1e-9)  # z starts at 0, so b is 0


@pytest.mark.parametrize("options", [{"family": "student"}, {"random": "student"}])
def test_what_a_student_model_cannot_do_is_said(options):
    lmm = blm.LMM(FORMULA, _frame(), **options)
    with pytest.raises(blm.DataError, match='"student"'):
        lmm.reml()
    with pytest.raises(blm.SamplingError, match="Student-t"):
        lmm.fit(parameterization="marginal")
    with pytest.raises(blm.DataError, match="student"):
        lmm.fit(random_effects="summary")
    with pytest.raises(blm.PriorError, match="Student-t"):
        lmm.pymc_model("marginal")
    assert "Student-t" in repr(lmm)
    if "random" in options:
        with pytest.raises(blm.SamplingError, match="non-centered"):
            lmm.pymc_model("centered")


def test_names_of_degrees_of_freedom_do_not_collide():
    data = _frame().rename(columns={"x": "nu"}).assign(tau=lambda d: d["g"])
    lmm = blm.LMM("y ~ nu + (1 | tau)", data, family="student", random="student")
    assert {"nu", "beta(nu)", "nu(tau)"} <= set(lmm.priors)
    gaussian = blm.LMM("y ~ nu + (1 | g)", data)
    with pytest.raises(blm.PriorError, match="beta\\(nu\\)"):
        gaussian.priors["nu"] = blm.Prior("Normal", mu=0, sigma=1)
    named = blm.LMM("y ~ x + (1 | nu)", _frame().rename(columns={"g": "nu"}), family="student")
    assert named.names.factors[0].dim == "nu_"


def test_unknown_families_list_what_there_is():
    for options in ({"family": "cauchy"}, {"random": "cauchy"}):
        with pytest.raises(ValueError, match="'gaussian', 'student'"):
            blm.LMM(FORMULA, _frame(), **options)


@pytest.mark.slow
def test_one_gross_outlier_moves_the_robust_slope_by_less_than_a_quarter_and_clean_data_agree():
    robust = [student_fit(size).fixef() for size in (0.0, 40.0)]
    gaussian = [
        blm.LMM(FORMULA, _frame(size)).fit(random_seed=2, progressbar=False).fixef()
        for size in (0.0, 40.0)
    ]
    moved = [abs(b["mean"]["x"] - a["mean"]["x"]) for a, b in (robust, gaussian)]
    assert moved[0] < 0.25 * moved[1]
    # clean data: 500 effective draws or more, so 0.25 sd is more than 5 standard errors
    assert abs(robust[0]["mean"]["x"] - gaussian[0]["mean"]["x"]) < 0.25 * gaussian[0]["sd"]["x"]
    weights = student_fit(40.0).outlier_weights()
    assert weights.idxmin() == 7
    assert weights[7] < 0.05
    assert weights.drop(7).min() > 0.2


@pytest.mark.slow
def test_everything_a_student_fit_says_takes_the_family_into_account(tmp_path):
    fit = student_fit(40.0)
    assert fit.info.parameterization == "whitened"
    assert list(fit.varcomp().index) == ["sd(Intercept | g)", "sigma", "nu"]
    table = fit.residuals(weights=True)
    assert table["residual"].abs().idxmax() == table["weight"].idxmin() == 7
    assert np.isfinite(fit.r2().to_numpy()).all()
    assert np.isfinite(fit.icc().to_numpy()).all()
    assert fit.icc()["mean"].between(0, 1).all()
    assert fit.implied_covariance().shape == (4, 4)
    loo = fit.loo()
    assert loo.likelihood == "integrated"
    assert np.isfinite(fit.loo("g").elpd)
    assert fit.loo_pit(random_seed=1)["loo_pit"]["y"].to_numpy()[7] > 0.99
    assert loo.outlier_weights.idxmin() == 7
    posterior = fit.posterior
    mean = fit.predict(draws=True).to_numpy()
    expected = stats.t.logpdf(
        fit.model.design.y,
        posterior["nu"].to_numpy()[..., None],
        loc=mean,
        scale=posterior["sigma"].to_numpy()[..., None],
    )
    np.testing.assert_allclose(fit.idata["log_likelihood"]["y"], expected, rtol=1e-9)
    new = fit.predict(_frame().iloc[:1], kind="response", draws=True, random_seed=1).to_numpy()
    gap = (new - fit.predict(_frame().iloc[:1], draws=True).to_numpy())[..., 0]
    u = stats.t.cdf(gap / posterior["sigma"], posterior["nu"])
    # 2,000 uniform values if the noise is t with each draw's own degrees of freedom
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-6
    tree = fit.posterior_predictive(random_seed=1)
    noise = (tree["posterior_predictive"]["y"].to_numpy() - mean)[..., 3]
    u = stats.t.cdf(noise / posterior["sigma"], posterior["nu"])
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-6
    fit.save(tmp_path / "fit.nc")
    loaded = blm.load(tmp_path / "fit.nc")
    assert loaded.model.family == "student"
    pd.testing.assert_frame_equal(loaded.varcomp(), fit.varcomp())


@pytest.mark.slow
def test_implied_correlations_beside_student_effects_have_the_residual_structure():
    from bayeslmm.results.estimates import Estimates
    from bayeslmm.results.implied import implied_covariance

    rng = np.random.default_rng(1)
    data = pd.DataFrame({"g": np.repeat(np.arange(8), 5), "t": np.tile(np.arange(5), 8)})
    data["y"] = rng.normal(size=8)[data["g"]] + rng.normal(size=40)
    lmm = blm.LMM("y ~ 1 + (1 | g)", data, residual="ar1(t | g)", random="student")
    post = lmm.fit(draws=20, tune=50, chains=1, random_seed=1, progressbar=False)
    draws = post.posterior
    ratio = draws["nu_g"].to_numpy()
    ratio = np.where(ratio > 2, ratio / np.where(ratio > 2, ratio - 2, 1), 1e12)
    tau = np.median(np.sqrt(ratio) * draws["sd_g"].to_numpy()[..., 0])
    sigma, rho = np.median(draws["sigma"]), float(draws["rho"].mean())
    lags = np.abs(np.subtract.outer(np.arange(5), np.arange(5)))
    expected = tau**2 + sigma**2 * rho**lags
    np.testing.assert_allclose(post.implied_covariance(), expected, rtol=1e-8)
    one = Estimates(np.zeros(1), [np.eye(1)], np.zeros(1), np.array([0.5]))
    np.testing.assert_allclose(implied_covariance(lmm.design, one)[0], 1 + 0.5**lags)
