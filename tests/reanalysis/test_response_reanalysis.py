"""An effect of a response that is not Gaussian under other priors, against integration on a grid."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import gammaln, logsumexp

import bayeslmm as blm
from bayeslmm.reanalysis.posteriors import log_prior_density, posterior_under
from bayeslmm.reanalysis.sources import source_and_likelihood

X = np.tile([-0.5, -0.5, 0.5, 0.5, 0.5, -0.5], 4)
G = np.repeat(list("abcd"), 6)
Y = {
    "bernoulli": np.array([0, 1, 1, 1, 0, 0, 0, 0, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 0, 1, 1, 0]),
    "poisson": np.array([0, 1, 3, 1, 2, 1, 1, 0, 0, 2, 1, 1, 2, 3, 4, 3, 6, 1, 0, 0, 1, 2, 1, 1]),
}
DATA = pd.DataFrame({"x": X, "g": G, **Y})
PRIORS = {
    "Intercept": blm.Prior("Normal", mu=0.3, sigma=1.5),
    "x": blm.Prior("Normal", mu=0.0, sigma=2.0),
    "sd": blm.Prior("HalfNormal", sigma=1.0),
}
OTHERS = [
    blm.Prior("Flat"),
    blm.Prior("Normal", mu=0.5, sigma=0.3),
    blm.Prior("StudentT", nu=3, mu=-0.5, sigma=0.4),
    blm.Prior("Laplace", mu=0, b=0.4),
    blm.Prior("Uniform", lower=0, upper=1),
]


def model(family="bernoulli", formula="x + (1 | g)", data=DATA, **priors):
    return blm.MixedModel(f"{family} ~ {formula}", data, family=family, priors=PRIORS | priors)


@cache
def likelihood_on_grid(family):
    """Values e of the coefficient of x and log p(y | e): Intercept, sd and effects integrated out."""
    e = np.linspace(-5.0, 7.0, 241) if family == "bernoulli" else np.linspace(-3.0, 4.0, 241)
    b, s, u = np.linspace(-5.5, 5.5, 67), np.linspace(-7.0, 1.6, 60), np.linspace(-6, 6, 49)
    sd = np.exp(s)
    known = stats.norm(0.3, 1.5).logpdf(b)[:, None] + (stats.halfnorm.logpdf(sd) + s)[None]
    w = stats.norm.logpdf(u) + np.log(u[1] - u[0])
    base = b[:, None, None] + sd[None, :, None] * u

    def rows(y, eta):
        if family == "bernoulli":
            return y.sum() * eta - len(y) * np.logaddexp(0, eta)
        return y.sum() * eta - len(y) * np.exp(eta) - gammaln(y + 1).sum()

    out = []
    for value in e:
        total = known.copy()
        for level in "abcd":
            own = [(Y[family][(level == G) & (x == X)], base + value * x) for x in (-0.5, 0.5)]
            total += logsumexp(sum(rows(*part) for part in own) + w, axis=2)
        out.append(logsumexp(total))
    return e, np.array(out) + np.log((b[1] - b[0]) * (s[1] - s[0]))


@cache
def sliced(family):
    return source_and_likelihood(model(family), "x", random_seed=3)


@pytest.mark.parametrize("family", ["bernoulli", "poisson"])
@pytest.mark.parametrize("prior", OTHERS, ids=lambda p: p.name)
def test_posteriors_are_those_of_integration(family, prior):
    e, log_likelihood = likelihood_on_grid(family)
    found = posterior_under(sliced(family)[1], prior)
    p = np.exp(log_likelihood - log_likelihood.max() + log_prior_density(prior, e))
    p /= p.sum()
    mean = p @ e
    sd = np.sqrt(p @ (e - mean) ** 2)
    print(
        family, prior, found.mean - mean, found.sd / sd - 1, sd, found.effective_draws, found.k_hat
    )
    for x in (-0.5, 0.3, 0.8):
        print(x, found.cdf(x) - (np.cumsum(p) - 0.5 * p)[np.searchsorted(e, x)])
    if prior.is_proper:
        value = 0.0
        print(
            found.log_bayes_factor(value),
            logsumexp(log_likelihood + log_prior_density(prior, e))
            + np.log(e[1] - e[0])
            - np.interp(value, e, log_likelihood),
        )
