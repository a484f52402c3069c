"""Marginal likelihoods of responses that are not Gaussian, against integration on a grid."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import logsumexp

import bayeslmm as blm
from bayeslmm.errors import DataError

Y = np.array([1, 1, 0, 1, 0, 0, 0, 1, 1, 1, 1, 0])
G = np.repeat(list("abcd"), 3)
DATA = pd.DataFrame({"y": Y, "g": G})
PRIORS = {
    "Intercept": blm.Prior("Normal", mu=0.0, sigma=1.5),
    "sd": blm.Prior("HalfNormal", sigma=1.0),
}


def evidence():
    """log p(y) of y ~ 1 + (1 | g)."""
    b, s, u = np.linspace(-7, 7, 181), np.linspace(-9.0, 1.8, 217), np.linspace(-7, 7, 141)
    sd = np.exp(s)
    total = stats.norm(0, 1.5).logpdf(b)[:, None] + (stats.halfnorm.logpdf(sd) + s)[None]
    w = stats.norm.logpdf(u) + np.log(u[1] - u[0])
    eta = b[:, None, None] + sd[None, :, None] * u
    yes, no = -np.logaddexp(0, -eta), -np.logaddexp(0, eta)
    for level in "abcd":
        own = Y[level == G]
        total = total + logsumexp(own.sum() * yes + (1 - own).sum() * no + w, axis=2)
    return logsumexp(total) + np.log(b[1] - b[0]) + np.log(s[1] - s[0])


def evidence_without():
    """log p(y) of y ~ 0 + (1 | g)."""
    s, u = np.linspace(-9.0, 1.8, 217), np.linspace(-7, 7, 141)
    sd = np.exp(s)
    eta = sd[:, None] * u
    w = stats.norm.logpdf(u) + np.log(u[1] - u[0])
    total = stats.halfnorm.logpdf(sd) + s
    for level in "abcd":
        own = Y[level == G]
        yes, no = -np.logaddexp(0, -eta), -np.logaddexp(0, eta)
        total = total + logsumexp(own.sum() * yes + (1 - own).sum() * no + w, axis=1)
    return logsumexp(total) + np.log(s[1] - s[0])


def none():
    """log p(y) of y ~ 1."""
    b = np.linspace(-9, 9, 2001)
    log = Y.sum() * -np.logaddexp(0, -b) + (1 - Y).sum() * -np.logaddexp(0, b)
    return logsumexp(log + stats.norm(0, 1.5).logpdf(b)) + np.log(b[1] - b[0])


@pytest.fixture(scope="module")
def fits():
    return [
        blm.MixedModel(formula, DATA, family="bernoulli", priors=priors).fit(
            draws=250, random_seed=1, progressbar=False
        )
        for formula, priors in (
            ("y ~ 1 + (1 | g)", PRIORS),
            ("y ~ 1", {"Intercept": PRIORS["Intercept"]}),
        )
    ]


@pytest.mark.parametrize("method", ["bridge", "importance"])
def test_the_marginal_likelihood_is_the_integral(fits, method):
    """Six standard errors; 0.01 is less than a lost constant or a factor of two would be."""
    for fit, expected in zip(fits, (evidence(), none()), strict=True):
        found = blm.log_marginal_likelihood(fit, method=method, random_seed=2)
        assert found.error < 0.05
        assert found.value == pytest.approx(expected, abs=6 * found.error + 0.01)


def test_an_importance_fit_has_the_same(fits):
    fit = fits[0].model.fit(method="importance", random_seed=3, progressbar=False)
    found = blm.log_marginal_likelihood(fit)
    assert found.value == fit.info.log_marginal_likelihood
    assert found.value == pytest.approx(evidence(), abs=6 * found.error + 0.01)


def test_bayes_factors_are_their_ratio(fits):
    found = blm.bayes_factor(*fits, random_seed=4)
    gap = 6 * found.relative_error + 0.01
    assert found.log_bf10 == pytest.approx(evidence() - none(), abs=gap)


def test_tests_of_components_are_refused_by_name(fits):
    with pytest.raises(DataError, match=r'family="bernoulli".*blm.bayes_factor'):
        blm.savage_dickey(fits[0], "sd(Intercept | g)")


def test_a_coefficient_against_zero_is_a_ratio_of_marginal_likelihoods(fits):
    """That of the model without it, whose value is an integral over the standard deviation."""
    found = blm.savage_dickey(fits[0], "Intercept", draws=8000, random_seed=5)
    gap = 6 * found.relative_error + 0.01
    assert found.relative_error < 0.03
    assert found.log_bf10 == pytest.approx(evidence() - evidence_without(), abs=gap)
