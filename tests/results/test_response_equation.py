"""Equations of responses that are not Gaussian: distribution, link, predictor, parameters."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.report.mathematics import equation_rows
from tests.results.test_equation import _parse

#: Response, link and first lines of the text.
EXPECTED = {
    "bernoulli": ("b", "probit", ["1{b[i] = yes} ~ Bernoulli(mu[i])", "probit(mu[i]) = ETA"]),
    "binomial": ("k of m", "logit", ["k[i] ~ Binomial(m[i], mu[i])", "logit(mu[i]) = ETA"]),
    "poisson": ("k", "identity", ["k[i] ~ Poisson(mu[i])", "mu[i] = ETA"]),
    "negativebinomial": (
        "k", "log",
        [
            "k[i] ~ NegativeBinomial(mu[i], alpha)",
            "Var(k[i]) = mu[i] + mu[i]^2 / alpha",
            "log(mu[i]) = ETA",
        ],
    ),
    "gamma": ("y", "inverse", ["y[i] ~ Gamma(alpha, alpha / mu[i])", "mu[i]^-1 = ETA"]),
    "beta": (
        "y", "cloglog", ["y[i] ~ Beta(mu[i] kappa, (1 - mu[i]) kappa)", "cloglog(mu[i]) = ETA"]
    ),
    "lognormal": ("y", "identity", ["log(y[i]) ~ Normal(mu[i], sigma^2)", "mu[i] = ETA"]),
    "ordinal": (
        "c", "logit",
        ["logit(P(c[i] <= k)) = c[k] - eta[i],  k = 1, ..., 2", "eta[i] = beta1 x[i] + b0[g[i]]"],
    ),
    "zero_inflated_poisson": (
        "k", "log", ["k[i] ~ zi delta[0] + (1 - zi) Poisson(mu[i])", "log(mu[i]) = ETA"]
    ),
    "zero_inflated_negativebinomial": (
        "k", "log",
        ["k[i] ~ zi delta[0] + (1 - zi) NegativeBinomial(mu[i], alpha)", "log(mu[i]) = ETA"],
    ),
}  # fmt: skip


def _model(family: str) -> blm.MixedModel:
    rng, n = np.random.default_rng(1), 60
    data = pd.DataFrame({"g": np.repeat(np.arange(12), 5), "x": rng.normal(size=n)})
    data["y"], data["k"] = rng.beta(2, 3, n), rng.poisson(2, n)
    data["m"] = data["k"] + 3
    data["b"] = np.where(rng.random(n) < 0.5, "yes", "no")
    data["c"] = pd.Categorical(np.array(["lo", "mid", "hi"])[rng.integers(0, 3, n)])
    data["c"] = data["c"].cat.reorder_categories(["lo", "mid", "hi"], ordered=True)
    response, link, _ = EXPECTED[family]
    return blm.MixedModel(f"{response} ~ x + (1 | g)", data, family=family, link=link)


@pytest.mark.parametrize("family", EXPECTED)
def test_the_equation_states_distribution_link_and_predictor(family):
    model = _model(family)
    eta = "beta0 + beta1 x[i] + b0[g[i]]"
    wanted = [line.replace("ETA", eta) for line in EXPECTED[family][2]]
    wanted.append("b0[j] ~ Normal(0, tau0^2),  j = 1, ..., 12 (g)")
    assert model.equation(format="text").split("\n") == wanted
    latex = model.equation()
    _parse(latex)
    assert len(equation_rows(latex)) == len(wanted)


def test_the_marginal_form_is_refused_by_name():
    with pytest.raises(blm.DataError, match='family="poisson"'):
        _model("poisson").equation("marginal")
