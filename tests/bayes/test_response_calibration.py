"""Simulation-based calibration of responses that are not Gaussian."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bayeslmm as blm
from bayeslmm.bayes import response_calibration
from bayeslmm.bayes.response_calibration import ResponseSimulator
from bayeslmm.parts.scales import draw_scales, scales

#: A correct program has p-values uniform on (0, 1): the smallest of 40 is below 1e-7 with
#: probability 4e-6.
SMALLEST_P = 1e-7
PRIORS = {
    "Intercept": blm.Prior("Normal", mu=0, sigma=1),
    "beta": blm.Prior("Normal", mu=0, sigma=1),
    "sd": blm.Prior("HalfNormal", sigma=1),
}
OWN = {"negativebinomial": {"alpha": blm.Prior("LogNormal", mu=1, sigma=0.7)}}


def _model(family, formula="y ~ x + (1 | a)"):
    rng = np.random.default_rng(4)
    data = pd.DataFrame({"a": np.repeat(np.arange(8), 6), "b": np.tile(np.arange(6), 8)})
    data["x"], data["y"] = rng.normal(size=48), rng.integers(0, 2, 48)
    if family == "ordinal":
        data["y"] = pd.Categorical(np.tile(["lo", "mid", "hi"], 16), ["lo", "mid", "hi"], True)
    given = PRIORS | OWN.get(family, {})
    if family == "ordinal":
        del given["Intercept"]
    return blm.MixedModel(formula, data, family=family, priors=given)


@pytest.mark.parametrize(
    ("family", "formula", "method"),
    [
        ("bernoulli", "y ~ x + (1 | a) + (1 | b)", "nuts"),
        ("ordinal", "y ~ x + (x | a)", "importance"),
    ],
)
def test_the_posterior_is_calibrated(family, formula, method):
    found = blm.sbc(_model(family, formula), 25, method=method, random_seed=8, progressbar=False)
    assert found.uniformity()["p"].min() > SMALLEST_P
    assert found.ranks.shape[0] == 25
    assert found.ranks.to_numpy().min() >= 0
    assert found.ranks.to_numpy().max() <= 99


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "formula"),
    [
        *((family, "y ~ x + (1 | a)") for family in ("bernoulli", "poisson", "ordinal")),
        # crossed effects beside the family with a parameter of its own; 0/1 responses above
        ("negativebinomial", "y ~ x + (1 | a) + (1 | b)"),
    ],
)
def test_the_posterior_is_calibrated_in_many_simulations(family, formula):
    found = blm.sbc(_model(family, formula), 300, random_seed=9, progressbar=False)
    assert found.uniformity()["p"].min() > SMALLEST_P


def test_ranks_have_the_names_of_the_parameters():
    found = blm.sbc(_model("negativebinomial"), 2, random_seed=1, progressbar=False)
    assert found.ranks.columns.tolist() == ["Intercept", "x", "sd(Intercept | a)", "alpha"]
    found = blm.sbc(_model("ordinal"), 2, random_seed=1, progressbar=False)
    assert found.ranks.columns.tolist() == [
        "x", "sd(Intercept | a)", "threshold(lo|mid)", "threshold(mid|hi)",
    ]  # fmt: skip


def test_a_response_that_is_not_that_of_the_truth_is_found(monkeypatch):
    """The check must be able to fail."""
    original = ResponseSimulator._simulated
    monkeypatch.setattr(
        ResponseSimulator, "_simulated", lambda self, x, rng: np.ceil(2 * original(self, x, rng))
    )
    found = blm.sbc(_model("poisson"), 30, method="importance", random_seed=8, progressbar=False)
    assert found.uniformity().loc["Intercept", "p"] < 1e-6


def test_results_do_not_depend_on_the_cores():
    ranks = [
        blm.sbc(_model("poisson"), 4, random_seed=2, cores=cores, progressbar=False).ranks
        for cores in (1, 2)
    ]
    pd.testing.assert_frame_equal(*ranks)


def test_refused_importance_samples_fall_back_to_nuts(monkeypatch):
    monkeypatch.setattr(response_calibration, "MAX_K_HAT", -np.inf)
    found = blm.sbc(_model("poisson"), 2, method="importance", random_seed=1, progressbar=False)
    assert found.fallbacks == 2


def test_flat_and_unknown_priors_are_refused():
    model = _model("bernoulli")
    model.priors["x"] = blm.Prior("Flat")
    with pytest.raises(blm.PriorError, match="flat prior of x"):
        blm.sbc(model, 5)
    model.priors["x"] = blm.Prior("Moyal", mu=0, sigma=1)
    with pytest.raises(blm.PriorError, match="compiled joint density, but the prior of x"):
        blm.sbc(model, 5)


@pytest.mark.parametrize(
    ("prior", "law"),
    [
        (blm.Prior("Logistic", mu=1, s=2), stats.logistic(1, 2)),
        (blm.Prior("GumbelMin", mu=1, beta=2), stats.gumbel_l(1, 2)),
        (blm.Prior("StudentT", nu=4, mu=1, sigma=2), stats.t(4, 1, 2)),
        (blm.Prior("Laplace", mu=1, b=2), stats.laplace(1, 2)),
        (blm.Prior("Beta", alpha=2, beta=3), stats.beta(2, 3)),
        (blm.Prior("SkewNormal", mu=1, sigma=2, alpha=-3), stats.skewnorm(-3, 1, 2)),
        (blm.Prior("TruncatedNormal", mu=1, sigma=2, upper=2), stats.truncnorm(-np.inf, 0.5, 1, 2)),
        (blm.Prior("Normal", mu=1, sigma=2), stats.norm(1, 2)),
    ],
)
def test_draws_of_a_prior_have_its_distribution(prior, law):
    draws = draw_scales(scales([prior]), 4000, np.random.default_rng(1))[:, 0]
    assert stats.kstest(draws, law.cdf).pvalue > 1e-6
