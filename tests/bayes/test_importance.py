"""Importance sampling: right weights, an honest k-hat, the marginal likelihood."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bayeslmm as blm
from bayeslmm.bayes import importance
from bayeslmm.bayes.importance import SplitT, importance_sample, split_t
from bayeslmm.bayes.mode import find_mode
from tests.bayes.test_marginal import _density, _model
from tests.bayes.test_marginal_nuts import assert_same_posterior, marginal_fit
from tests.conftest import dataset, quietly


def _fit(key="correlated", **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", blm.SamplingWarning)
        return _model(key).fit(method="importance", progressbar=False, random_seed=5, **options)


def test_the_split_t_has_the_density_it_draws_from():
    axes = np.array([[1.0, 0.0], [0.5, 2.0]])
    one = SplitT(np.array([1.0, -1.0]), axes, np.array([0.5, 2.0]), np.array([3.0, 1.0]), 5.0)
    x, log_q = one.draw(200_000, np.random.default_rng(1))
    other = stats.multivariate_t([1.5, -1.0], 4 * axes @ axes.T, df=3)
    ratio = np.exp(other.logpdf(x) - log_q)  # integrates to one whatever the split
    assert ratio.mean() == pytest.approx(1.0, abs=6 * ratio.std() / np.sqrt(len(x)))


def test_symmetric_scales_give_the_multivariate_t():
    axes = np.array([[1.0, 0.0], [0.5, 2.0]])
    one = SplitT(np.zeros(2), axes, np.ones(2), np.ones(2), 5.0)
    x, log_q = one.draw(10, np.random.default_rng(2))
    np.testing.assert_allclose(log_q, stats.multivariate_t(None, axes @ axes.T, 5).logpdf(x))


def test_the_smoother_takes_negative_log_weights():
    from arviz_stats.base import array_stats

    # weights |Cauchy| have no mean: their tail index is one
    log_weights = np.log(np.abs(np.random.default_rng(0).standard_cauchy(4000)))
    assert array_stats.psislw(-log_weights)[1] == pytest.approx(1.0, abs=0.25)


def test_it_is_the_posterior_of_nuts():
    assert_same_posterior(_fit(), marginal_fit())


def test_the_marginal_likelihood_is_that_of_quadrature():
    lmm = quietly("Reaction ~ Days + (1 | Subject)", dataset("sleepstudy"))
    density = _density(lmm)
    mode = find_mode(density)
    grid = np.linspace(-8, 8, 161)
    points = np.array([(a, b) for a in grid for b in grid])
    values = density.values(mode.x + points @ mode.scale.T)
    step = np.log(grid[1] - grid[0])
    expected = np.logaddexp.reduce(values) + 2 * step + mode.log_det
    fit = lmm.fit(method="importance", random_seed=1, progressbar=False)
    error = fit.info.log_marginal_likelihood_error
    assert 0 < error < 0.02
    assert fit.info.log_marginal_likelihood == pytest.approx(expected, abs=6 * error)
    assert "log marginal likelihood" in repr(fit)


def test_a_flat_prior_has_no_marginal_likelihood():
    fit = _fit("flat")
    assert fit.info.log_marginal_likelihood is None
    assert "marginal likelihood" not in repr(fit)


def test_the_record_is_printed_and_survives_a_file(tmp_path):
    fit = _fit(draws=250)
    assert fit.info.k_hat < 0.7
    assert 500 < fit.info.effective_draws <= 1000
    assert "k-hat" in repr(fit)
    fit.save(tmp_path / "a.nc")
    back = blm.load(tmp_path / "a.nc")
    assert back.info == fit.info
    pd.testing.assert_frame_equal(back.summary(), fit.summary())


def test_the_same_seed_gives_the_same_draws_whatever_the_cores():
    one, two = _fit(draws=100, cores=1), _fit(draws=100, cores=2)
    np.testing.assert_array_equal(one.posterior["b_Subject"], two.posterior["b_Subject"])


def test_a_poor_proposal_is_refused_with_its_k_hat(monkeypatch):
    def narrow(density, mode, df=5.0):
        scale = 0.15 * np.ones(density.n_dim)
        return SplitT(mode.x, mode.scale, scale, scale, 200.0)

    monkeypatch.setattr(importance, "split_t", narrow)
    monkeypatch.setattr(importance, "_ADAPT_ABOVE", np.inf)
    with pytest.raises(blm.SamplingError, match=r"k-hat .*above 0\.7.*method=\"nuts\""):
        _fit()


def test_a_round_of_adaptation_helps_where_the_curvature_is_poor(monkeypatch):
    density = _density(_model("correlated"))
    mode = find_mode(density)
    first = split_t(density, mode)

    def shifted(density, mode, df=5.0):
        return SplitT(mode.x + 2.0 * mode.scale[:, 0], first.axes * 0.7, first.left, first.right, 9)

    monkeypatch.setattr(importance, "split_t", shifted)
    monkeypatch.setattr(importance, "_ADAPT_ABOVE", -np.inf)
    adapted = importance_sample(density, mode, 4000, np.random.default_rng(1))
    monkeypatch.setattr(importance, "_ADAPT_ABOVE", np.inf)
    plain = importance_sample(density, mode, 4000, np.random.default_rng(1))
    assert adapted.k_hat < plain.k_hat
    assert adapted.effective_draws > plain.effective_draws


def test_options_are_refused():
    with pytest.raises(blm.SamplingError, match="no option 'target_accept'"):
        _fit(target_accept=0.9)


def test_drawing_the_rest_with_each_proposal_is_the_same_posterior_on_any_number_of_cores():
    from bayeslmm.gaussian import prepare

    fits = []
    for cores in (1, 2):
        lmm = quietly("Reaction ~ Days + (Days | Subject)", dataset("sleepstudy"))
        lmm.__dict__["problem"] = prepare(lmm.problem.cp, lmm.problem.patterns, route="dense")
        fits.append(
            lmm.fit(method="importance", random_seed=5, draws=500, cores=cores, progressbar=False)
        )
    one, two = (fit.posterior for fit in fits)
    for name in one.data_vars:
        np.testing.assert_array_equal(one[name], two[name])
    assert_same_posterior(fits[0], marginal_fit())


def test_few_effective_draws_are_said():
    from bayeslmm.bayes.diagnostics import weighting_problems

    assert weighting_problems(400.0, 4) == []
    assert "Only 120 effective draws" in weighting_problems(120.0, 4)[0]
