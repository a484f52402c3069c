"""Leave-one-out: integrated over coefficients and effects, equal to refitting."""

from __future__ import annotations

from functools import cache

import arviz as az
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bayeslmm as blm
from bayeslmm.bayes.importance import importance_sample
from bayeslmm.bayes.marginal import marginal_density
from bayeslmm.bayes.mode import find_mode
from bayeslmm.gaussian import single_threaded_blas
from bayeslmm.results.left_out import row_densities, without_rows
from bayeslmm.results.loo import _units
from tests.conftest import dataset, quietly


@cache
def _fit(name: str = "ergostool", formula: str = "effort ~ Type + (1 | Subject)"):
    model = quietly(formula, dataset(name))
    return model.fit(draws=1000, chains=4, random_seed=11, progressbar=False)


def _exact(fit, unit: str, n_draws: int = 5000) -> np.ndarray:
    """log p(y_u | y_-u) by refitting without each unit, with importance draws."""
    design, priors = fit.model.design, fit.priors
    whole = marginal_density(design, priors, fit.model.problem)
    out = []
    for rows in _units(fit, unit):
        reduced = marginal_density(design, priors, without_rows(fit.model, rows))
        rng = np.random.default_rng(len(out))
        with single_threaded_blas():
            sample = importance_sample(reduced, find_mode(reduced), n_draws, rng)
        assert sample.k_hat < 0.7
        gain = whole.values(sample.x) - reduced.values(sample.x) + sample.log_weights
        out.append(np.logaddexp.reduce(gain[np.isfinite(gain)]))
    return np.array(out)


@pytest.mark.parametrize("unit", ["observation", "Subject"])
def test_leave_one_out_equals_refitting(unit):
    fit = _fit()
    result = fit.loo(unit, progressbar=False)
    exact = _exact(fit, unit)
    # the Monte Carlo error of a log density from 4,000 draws with k-hat below 0.7 is below 0.05
    np.testing.assert_allclose(result.elpd_i.to_numpy(), exact, atol=0.12)
    assert result.elpd == pytest.approx(exact.sum(), abs=0.25)


def test_the_density_of_a_left_out_row_is_the_dense_one():
    fit = _fit()
    design, priors = fit.model.design, fit.priors
    from bayeslmm.bayes.coefficients import coefficient_priors
    from bayeslmm.results.estimates import posterior_estimates
    from bayeslmm.results.loo import _thinned

    posterior = _thinned(fit, 36, 3)
    theta = posterior_estimates(fit, posterior).theta()
    values = row_densities(fit, theta, progressbar=False)
    A = np.linalg.inv(priors.combinations())
    mean, sd = coefficient_priors(design, priors)
    X, g = design.X, design.blocks[0].codes
    m0, S0 = X @ A @ mean, X @ A @ np.diag(sd**2) @ A.T @ X.T
    for d in (0, 5, 11):
        F, sigma = theta.F[d, 0], np.exp(theta.eta[d, 0])
        K = S0 + F**2 * (g[:, None] == g) + sigma**2 * np.eye(36)
        whole = stats.multivariate_normal(m0, K, allow_singular=False).logpdf(design.y)
        for i in (0, 17, 35):
            rest = np.arange(36) != i
            part = stats.multivariate_normal(m0[rest], K[np.ix_(rest, rest)]).logpdf(design.y[rest])
            assert values[d, i] == pytest.approx(whole - part, rel=1e-6)


def test_one_or_two_rows_per_group_need_fewer_refits_than_the_conditional_loo():
    fit = _pairs()
    conditional = fit.loo(conditional=True, progressbar=False)
    integrated = fit.loo(exact=False, progressbar=False)
    exact = fit.loo(progressbar=False)
    assert (conditional.pareto_k > 0.7).sum() > 10
    assert (integrated.pareto_k > 0.7).sum() == 0
    assert exact.elpd == pytest.approx(integrated.elpd)


@cache
def _pairs():
    """Groups of one or two rows."""
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(60), 2)[:110]
    frame = pd.DataFrame({"g": g, "x": rng.normal(size=110)})
    frame["y"] = frame["x"] + 1.5 * rng.normal(size=60)[g] + 0.7 * rng.normal(size=110)
    model = quietly("y ~ x + (1 | g)", frame)
    return model.fit(draws=1000, chains=4, random_seed=2, progressbar=False)


@cache
def _sleepstudy():
    return _fit("sleepstudy", "Reaction ~ Days + (Days | Subject)")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "unit"),
    [("sleepstudy", "observation"), ("sleepstudy", "Subject"), ("pairs", "observation")],
)
def test_leave_one_out_equals_refitting_on_larger_designs(name, unit):
    fit = _sleepstudy() if name == "sleepstudy" else _pairs()
    result = fit.loo(unit, progressbar=False)
    exact = _exact(fit, unit)
    # log densities of 4,000 Pareto-smoothed and of 5,000 importance draws; those of k-hat above
    # 0.7 were refitted, and k-hat up to 0.7 leaves errors of about 0.1 (Vehtari et al. 2024)
    np.testing.assert_allclose(result.elpd_i.to_numpy(), exact, atol=0.25)
    assert result.elpd == pytest.approx(exact.sum(), abs=0.5)
    assert (result.pareto_k < 0.7).all()


def test_rows_of_high_k_hat_are_fewer_than_conditionally_and_each_is_refitted():
    fit = _sleepstudy()
    conditional = (fit.loo(conditional=True, progressbar=False).pareto_k > 0.7).sum()
    integrated = (fit.loo(exact=False, progressbar=False).pareto_k > 0.7).sum()
    assert integrated <= conditional
    assert (fit.loo(progressbar=False).pareto_k < 0.7).all()


def test_results_are_what_arviz_compares():
    small = _fit(formula="effort ~ 1 + (1 | Subject)")
    large = _fit()
    table = az.compare({"type": large.loo(progressbar=False), "none": small.loo(progressbar=False)})
    assert table.index[0] == "type"


def test_conditional_loo_is_that_of_arviz_on_the_tree():
    fit = _fit()
    assert fit.loo(conditional=True).elpd == pytest.approx(az.loo(fit.idata).elpd)


def test_a_wrong_unit_is_refused():
    fit = _fit()
    with pytest.raises(ValueError, match="grouping factor \\(Subject\\)"):
        fit.loo("Type")
    with pytest.raises(ValueError, match="conditional"):
        fit.loo("Subject", conditional=True)
    with pytest.raises(ValueError, match="draws must be"):
        fit.loo(draws=10**6)


@cache
def _outlying(method: str = "nuts", seed: int = 3):
    """Four groups, one far out, under the default priors written out."""
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"g": np.arange(14) % 4, "x": rng.normal(size=14)})
    frame["y"] = frame["x"] + 2 * rng.standard_t(2, size=4)[frame["g"]]
    frame["y"] += rng.standard_t(2, size=14)
    size = frame["y"].std()
    priors = {
        "Intercept": blm.Prior("Normal", mu=frame["y"].mean(), sigma=2.5 * size),
        "x": blm.Prior("Normal", mu=0, sigma=2.5 * size / frame["x"].std()),
        "sd": blm.Prior("HalfStudentT", nu=3, sigma=size),
        "sigma": blm.Prior("HalfStudentT", nu=3, sigma=size),
    }
    model = quietly("y ~ x + (1 | g)", frame, priors=priors)
    return model.fit(method=method, draws=500, random_seed=seed, progressbar=False)


def test_with_few_rows_units_are_refitted_above_half_and_their_effective_draws_reported():
    # draws, and with them k-hat, differ by processor: the first with one between both bounds
    fits = (_outlying(seed=seed) for seed in range(3, 13))
    found = ((fit, fit.loo("g", exact=False, progressbar=False)) for fit in fits)
    fit, smoothed = next((f, s) for f, s in found if 0.5 < s.pareto_k.max() < 0.7)
    result = fit.loo("g", progressbar=False)
    refitted = smoothed.pareto_k.to_numpy() > 0.5
    np.testing.assert_array_equal(np.isfinite(result.n_eff_i.to_numpy()), refitted)
    assert result.n_eff_i.min() > 500
    exact = _exact(fit, "g", 20_000)
    # 6 standard errors of a refit, with the reference's own
    gap = np.abs(result.elpd_i.to_numpy() - exact)
    assert np.all(gap < 6 * np.hypot(result.mcse_i.to_numpy(), 0.02))
    assert f"Refitted: {refitted.sum()} units" in repr(result)


@pytest.mark.parametrize("exact", [False, True])
def test_the_standard_error_does_not_depend_on_refits(exact):
    result = _outlying().loo("g", exact=exact, progressbar=False)
    values = result.elpd_i.to_numpy()
    assert result.se == pytest.approx(np.sqrt(len(values) * values.var(ddof=1)))
    assert result.elpd == pytest.approx(values.sum())


def test_the_monte_carlo_error_is_the_spread_over_seeds():
    model = _fit().model
    found = [
        model.fit(method="importance", draws=100, random_seed=seed, progressbar=False).loo(
            exact=False, progressbar=False
        )
        for seed in range(30)
    ]
    stated = np.mean([result.mcse for result in found])
    spread = np.std([result.elpd for result in found], ddof=1)
    # a standard deviation over 30 seeds is within a factor of 2 of the right one but for less than
    # one run in a million
    assert 0.5 < stated / spread < 2.0
    rows = np.mean([result.mcse_i.to_numpy() for result in found], axis=0)
    each = np.std([result.elpd_i.to_numpy() for result in found], axis=0, ddof=1)
    assert 0.6 < np.sqrt((rows**2).sum() / (each**2).sum()) < 1.7


def test_where_k_hat_is_high_no_monte_carlo_error_is_stated():
    result = _pairs().loo(conditional=True, progressbar=False)
    high = result.pareto_k.to_numpy() > 0.7
    assert np.isnan(result.mcse)
    np.testing.assert_array_equal(np.isnan(result.mcse_i.to_numpy()), high)
    assert f"k-hat above 0.7 in {high.sum()} units" in repr(result)


def test_a_unit_that_alone_determines_a_flat_coefficient_is_named():
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"g": np.repeat(np.arange(6), 5), "x": rng.normal(size=30)})
    frame["late"] = (frame["g"] == 5).astype(float)
    frame["y"] = frame["x"] + rng.normal(size=6)[frame["g"]] + rng.normal(size=30)
    flat = {"late": blm.Prior("Flat"), "Intercept": blm.Prior("Flat")}
    flat["x"] = blm.Prior("Normal", mu=0, sigma=5)  # a default would be about x given late
    model = quietly("y ~ x + late + (1 | g)", frame, priors=flat)
    fit = model.fit(method="importance", random_seed=1, progressbar=False)
    assert np.isfinite(fit.loo(progressbar=False).elpd)  # four other rows are left
    with pytest.raises(blm.SamplingError, match="Without 5 of g.*flat prior"):
        fit.loo("g")
    # with its prior the intercept holds the level, of which the other groups then tell
    model.priors["Intercept"] = blm.Prior("Normal", mu=0, sigma=5)
    held = model.fit(method="importance", random_seed=1, progressbar=False)
    assert np.isfinite(held.loo("g", progressbar=False).elpd)
