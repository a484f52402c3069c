"""Leave-one-out of responses that are not Gaussian, against integrals on grids and refits."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import logsumexp

import bayeslmm as blm
from bayeslmm.errors import SamplingError
from bayeslmm.results.response_left_out import LeavingOut, posterior_without

Y = np.array([0, 2, 1, 3, 5, 2, 1, 0, 0, 2, 1, 4, 1])
G = np.array(list("aaabbbcccddde"))
PRIORS = {
    "Intercept": blm.Prior("Normal", mu=0.0, sigma=1.0),
    "sd": blm.Prior("HalfNormal", sigma=0.8),
}


def log_evidence(y, g):
    """log p(y) of y ~ 1 + (1 | g), Poisson, on a grid of intercept, log sd and effects."""
    b, s = np.linspace(-4.5, 4.5, 61), np.linspace(-9.0, 1.7, 73)
    u = np.linspace(-7.0, 7.0, 141)
    sd = np.exp(s)
    total = stats.norm(0, 1).logpdf(b)[:, None] + (stats.halfnorm(0, 0.8).logpdf(sd) + s)[None]
    w = stats.norm.logpdf(u) + np.log(u[1] - u[0])
    eta = b[:, None, None] + sd[None, :, None] * u
    mean = np.exp(eta)
    for level in np.unique(g):
        own = y[g == level]
        constant = -np.sum(stats.poisson.logpmf(0, 0)) - sum(
            np.log(np.arange(1, v + 1)).sum() for v in own
        )
        total = total + logsumexp(own.sum() * eta - len(own) * mean + w, axis=2) + constant
    return logsumexp(total) + np.log(b[1] - b[0]) + np.log(s[1] - s[0])


@pytest.fixture(scope="module")
def counts():
    model = blm.MixedModel(
        "y ~ 1 + (1 | g)", pd.DataFrame({"y": Y, "g": G}), family="poisson", priors=PRIORS
    )
    return model.fit(draws=1000, random_seed=1, progressbar=False)


@pytest.fixture(scope="module")
def whole():
    return log_evidence(Y, G)


def close(found, i, expected):
    """Six standard errors, and what smoothing weights and the grid may add."""
    error = float(found.mcse_i[i])
    assert error < 0.2
    assert float(found.elpd_i[i]) == pytest.approx(expected, abs=6 * error + 0.01)


@pytest.mark.parametrize("i", [0, 4, 8, 11, 12])
def test_a_row_left_out_has_its_density_given_the_others(counts, whole, i):
    loo = counts.loo(progressbar=False)
    assert loo.likelihood == "integrated"
    close(loo, i, whole - log_evidence(np.delete(Y, i), np.delete(G, i)))


def test_a_group_left_out_has_its_density_given_the_others(counts, whole):
    loo = counts.loo("g", progressbar=False)
    for j, level in enumerate("abcde"):
        close(loo, j, whole - log_evidence(Y[level != G], G[level != G]))


def test_refits_give_the_density_given_the_others(counts, whole):
    """Whatever k-hat is: here as if it were always too large."""
    leaving = LeavingOut.of(counts, 0)
    refits = leaving.refitted(
        "g", [np.flatnonzero(level == G) for level in "ab"], np.ones(2), False
    )
    for level, value, error in zip("ab", refits.elpd, refits.error, strict=True):
        expected = whole - log_evidence(Y[level != G], G[level != G])
        assert value == pytest.approx(expected, abs=6 * error + 0.01)
        assert error < 0.2


def test_rows_left_out_are_not_in_the_posterior_without_them(counts):
    """Without any row the posterior is the prior."""
    posterior, _, effective = posterior_without(counts, np.arange(len(Y)), 0)
    sd = posterior["sd_g"].to_numpy().ravel()
    assert effective > 200
    assert np.mean(sd) == pytest.approx(0.8 * np.sqrt(2 / np.pi), abs=6 * np.std(sd) / 200**0.5)


def test_integrated_and_conditional_estimate_the_same_density(counts):
    """k-hat says where the conditional one does not."""
    integrated = counts.loo(progressbar=False)
    conditional = counts.loo(conditional=True, progressbar=False)
    assert conditional.likelihood == "conditional"
    assert float(integrated.pareto_k.mean()) < float(conditional.pareto_k.mean())
    trusted = conditional.pareto_k.to_numpy() < 0.5
    assert trusted.any()
    gap = (integrated.elpd_i - conditional.elpd_i).to_numpy()[trusted]
    error = np.hypot(integrated.mcse_i, conditional.mcse_i).to_numpy()[trusted]
    assert np.all(np.abs(gap) < 6 * error + 0.02)


def test_pit_lies_between_the_two_probabilities(counts):
    first, second = (counts.loo_pit(random_seed=seed, progressbar=False) for seed in (1, 2))
    lower, upper, pit, other = (
        tree[group].to_dataset()["y"].to_numpy()
        for tree, group in (
            (first, "loo_pit_lower"), (first, "loo_pit_upper"), (first, "loo_pit"),
            (second, "loo_pit"),
        )
    )  # fmt: skip
    assert np.all((lower <= pit) & (pit <= upper))
    assert not np.array_equal(pit, other)
    # their difference is the probability of the row given the others
    loo = counts.loo(progressbar=False)
    np.testing.assert_allclose(upper - lower, np.exp(loo.elpd_i), atol=0.03)
    assert np.all(lower[Y == 0] < 1e-9)


def test_models_are_compared(counts):
    data = pd.DataFrame({"y": Y, "g": G})
    other = blm.MixedModel(
        "y ~ 1", data, family="poisson", priors={"Intercept": PRIORS["Intercept"]}
    )
    fits = {"groups": counts, "none": other.fit(draws=500, random_seed=2, progressbar=False)}
    assert set(blm.compare_models(fits, progressbar=False).index) == {"groups", "none"}


def test_probabilities_are_not_compared_with_densities(counts):
    gaussian = blm.LMM("y ~ 1 + (1 | g)", pd.DataFrame({"y": Y, "g": G}))
    fits = {"a": counts, "b": gaussian.fit(method="importance", random_seed=1, progressbar=False)}
    with pytest.raises(ValueError, match="probabilities"):
        blm.compare_models(fits, progressbar=False)


def test_several_factors_integrate_the_one_of_most_levels():
    rng = np.random.default_rng(4)
    data = pd.DataFrame(
        {"inner": np.repeat(np.arange(12), 4), "outer": np.repeat(np.arange(4), 12)}
    )
    eta = rng.normal(0, 0.7, 12)[data.inner] + rng.normal(0, 0.5, 4)[data.outer]
    data["y"] = rng.poisson(np.exp(0.5 + eta))
    model = blm.MixedModel("y ~ 1 + (1 | outer) + (1 | inner)", data, family="poisson")
    fit = model.fit(draws=500, random_seed=1, progressbar=False)
    loo = fit.loo(progressbar=False, exact=False)
    assert loo.likelihood == "integrated over inner"
    assert "integrated over inner, given the effects of the other factors" in str(loo)
    leaving = LeavingOut.of(fit, 1)
    refits = leaving.refitted("observation", [np.array([i]) for i in range(3)], np.ones(3), False)
    for i, value, error in zip(refits.at, refits.elpd, refits.error, strict=True):
        gap = 6 * np.hypot(error, float(loo.mcse_i[i])) + 0.02
        assert float(loo.elpd_i[i]) == pytest.approx(value, abs=gap)
    with pytest.raises(SamplingError, match="effects of inner are of single levels of outer"):
        fit.loo("outer", progressbar=False)
    assert fit.loo("inner", progressbar=False, exact=False).elpd < 0
