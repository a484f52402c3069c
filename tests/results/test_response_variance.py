"""R2 and intraclass correlation of responses that are not Gaussian (Nakagawa et al. 2017)."""

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.errors import DataError
from bayeslmm.results.shares import distribution_sd


def simulated(family: str) -> pd.DataFrame:
    rng = np.random.default_rng(8)
    g, h = np.repeat(np.arange(20), 12), np.tile(np.arange(6), 40)
    x = rng.normal(size=240)
    eta = 0.4 + 0.5 * x + rng.normal(0, 0.6, 20)[g] + rng.normal(0, 0.4, 6)[h]
    mu = np.exp(eta)
    y = {
        "poisson": lambda: rng.poisson(mu),
        "negativebinomial": lambda: rng.poisson(mu * rng.gamma(2.0, 0.5, 240)),
        "gamma": lambda: mu * rng.gamma(3.0, 1 / 3.0, 240),
        "lognormal": lambda: mu * np.exp(rng.normal(0, 0.5, 240)),
        "bernoulli": lambda: (rng.random(240) < 1 / (1 + np.exp(-eta))).astype(float),
    }[family]()
    return pd.DataFrame({"y": y, "x": x, "g": g.astype(str), "h": h.astype(str)})


#: Distribution-specific variance of each row of the paper's tables: mean and phi.
BY_HAND = {
    ("bernoulli", "logit"): lambda mu, phi: np.pi**2 / 3,
    ("bernoulli", "probit"): lambda mu, phi: 1.0,
    ("bernoulli", "cloglog"): lambda mu, phi: np.pi**2 / 6,
    ("poisson", "log"): lambda mu, phi: np.log(1 + 1 / mu),
    ("negativebinomial", "log"): lambda mu, phi: np.log(1 + 1 / mu + 1 / phi[0]),
    ("gamma", "log"): lambda mu, phi: np.log(1 + 1 / phi[0]),
    ("lognormal", "identity"): lambda mu, phi: phi[0] ** 2,
}


@pytest.mark.parametrize(("family", "link"), BY_HAND)
def test_shares_are_those_of_the_formulas(family, link):
    data = simulated(family)
    fit = blm.MixedModel("y ~ x + (1 | g) + (1 | h)", data, family=family, link=link).ml()
    s, X = fit._solution, fit.design.X
    fixed = np.var(X @ s.beta, ddof=1)
    random = np.array([Sigma[0, 0] for Sigma in s.Sigmas])
    mu = np.exp(np.mean(X @ s.beta) + 0.5 * (fixed + random.sum()))
    own = BY_HAND[family, link](mu, s.phi)
    total = fixed + random.sum() + own
    expected = [fixed / total, (fixed + random.sum()) / total]
    np.testing.assert_allclose(fit.r2(), expected, rtol=1e-9)
    within = random.sum() + own
    expected = [random.sum() / within, random.sum() / total, *(random / within)]
    np.testing.assert_allclose(fit.icc(), expected, rtol=1e-9)
    shares = fit.variance_shares()["estimate"]
    np.testing.assert_allclose(shares, [fixed / total, *(random / total), own / total], rtol=1e-9)


def test_random_slopes_have_their_mean_variance_over_the_rows():
    data = simulated("poisson")
    fit = blm.MixedModel("y ~ x + (x | g)", data, family="poisson").ml()
    s, X = fit._solution, fit.design.X
    random = np.mean(np.einsum("ia,ab,ib->i", X, s.Sigmas[0], X))
    fixed = np.var(X @ s.beta, ddof=1)
    own = np.log1p(np.exp(-np.mean(X @ s.beta) - 0.5 * (fixed + random)))
    assert fit.r2()["conditional"] == pytest.approx((fixed + random) / (fixed + random + own))
    at = fit.icc(at={"x": [0.0]}).set_index("icc").loc["adjusted", "estimate"]
    zero = s.Sigmas[0][0, 0]
    assert at == pytest.approx(zero / (zero + own))


def test_draws_of_a_posterior_are_shared_one_by_one():
    data = simulated("negativebinomial")
    model = blm.MixedModel("y ~ x + (1 | g)", data, family="negativebinomial")
    post = model.fit(draws=150, random_seed=1, progressbar=False)
    draws, posterior = post.r2(draws=True), post.posterior
    at = {"chain": 1, "draw": 5}
    beta = posterior["beta"].isel(at).to_numpy()
    fixed = np.var(model.design.X @ beta, ddof=1)
    random = float(posterior["sd_g"].isel(at).item()) ** 2
    mu = np.exp(np.mean(model.design.X @ beta) + 0.5 * (fixed + random))
    own = np.log(1 + 1 / mu + 1 / posterior["alpha"].isel(at).item())
    expected = fixed / (fixed + random + own)
    assert draws["marginal"].isel(at).item() == pytest.approx(expected, rel=1e-9)


def test_an_exposure_is_part_of_the_mean():
    """Twice the exposure of every row doubles the overall mean."""
    data = simulated("poisson").assign(t=2.0)
    with_offset = blm.MixedModel("y ~ x + (1 | g) + offset(log(t))", data, family="poisson")
    without = blm.MixedModel("y ~ x + (1 | g)", data, family="poisson")
    np.testing.assert_allclose(with_offset.ml().r2(), without.ml().r2(), rtol=1e-4)


def test_case_weights_do_not_change_what_a_row_says():
    data = simulated("poisson").assign(w=2.0)
    model = blm.MixedModel("y ~ x + (1 | g)", data, family="poisson", weights="w")
    fit = model.ml()
    beta, Sigmas, phi = fit._solution.beta, fit._solution.Sigmas, fit._solution.phi
    own = distribution_sd(model, beta, Sigmas, phi) ** 2
    fixed = np.var(model.design.X @ beta, ddof=1)
    assert fit.r2()["marginal"] == pytest.approx(fixed / (fixed + Sigmas[0][0, 0] + own))


def test_gelman_s_shares_are_of_the_responses():
    cbpp = blm.load_dataset("cbpp")
    model = blm.MixedModel("incidence of size ~ period + (1 | herd)", cbpp, family="binomial")
    post = model.fit(draws=100, random_seed=1, progressbar=False)
    p = post.predict(draws=True).to_numpy()[2, 3]
    left = np.mean(p * (1 - p) / model.design.trials)
    found = post.r2("gelman", draws=True)["conditional"].to_numpy()[2, 3]
    assert found == pytest.approx(p.var(ddof=1) / (p.var(ddof=1) + left))
    average = post.predict(random="marginal", draws=True).to_numpy()[2, 3]
    explained, others = average.var(ddof=1), (p - average).var(ddof=1)
    found = post.r2("gelman", draws=True)["marginal"].to_numpy()[2, 3]
    assert found == pytest.approx(explained / (explained + others + left))


def test_ordered_categories_have_no_variance_of_the_response():
    wine = blm.load_dataset("wine")
    model = blm.MixedModel("rating ~ temp + (1 | judge)", wine, family="ordinal")
    post = model.fit(draws=100, random_seed=1, progressbar=False)
    with pytest.raises(DataError, match="nakagawa"):
        post.r2("gelman")
    sd = post.posterior["sd_judge"].to_numpy().ravel()
    icc = post.icc(draws=True)["adjusted"].to_numpy().ravel()
    np.testing.assert_allclose(icc, sd**2 / (sd**2 + np.pi**2 / 3))
