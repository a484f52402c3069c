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
from bayeslmm.results.loo import _units, _without
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
        reduced = marginal_density(design, priors, _without(fit, rows))
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
    from bayeslmm.bayes.marginal import coefficient_priors
    from bayeslmm.results.loo import _row_densities, _theta, _thinned

    posterior = _thinned(fit, 36, 3)
    theta = _theta(fit, posterior)
    values = _row_densities(fit, theta, progressbar=False)
    A = np.linalg.inv(priors.combinations())
    mean, sd = coefficient_priors(design, priors)
    X, g = design.X, design.blocks[0].codes
    m0, S0 = X @ A @ mean, X @ A @ np.diag(sd**2) @ A.T @ X.T
    for d in (0, 5, 11):
        F, sigma = theta.factors[d, 0], theta.sigma[d]
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


def test_a_wrong_unit_or_prior_is_refused():
    fit = _fit()
    with pytest.raises(ValueError, match="grouping factor \\(Subject\\)"):
        fit.loo("Type")
    with pytest.raises(ValueError, match="conditional"):
        fit.loo("Subject", conditional=True)
    with pytest.raises(ValueError, match="draws must be"):
        fit.loo(draws=10**6)
    odd = fit.priors.copy()
    odd["Type[T2]"] = blm.Prior("StudentT", nu=3, mu=0, sigma=1)
    other = blm.PosteriorFit(fit.model, odd, fit.idata, fit.info)
    with pytest.raises(blm.SamplingError, match="conditional=True"):
        other.loo()
