"""An effect beside Student-t residuals and effects, and beside coefficients whose priors are not
normal, under other priors: as integration on a grid and fits under these priors have it.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import logsumexp

import bayeslmm as blm
from bayeslmm.errors import DataError, PriorError
from bayeslmm.reanalysis.posteriors import log_prior_density, posterior_under
from bayeslmm.reanalysis.power_scaling import log_prior_draws, power_scaling_tree
from bayeslmm.reanalysis.sources import source_and_likelihood
from tests.bayes.test_student import FRAME, KINDS, NU, PRIORS, Y, by_integration

OTHERS = [
    blm.Prior("Normal", mu=2.0, sigma=0.6),
    blm.Prior("StudentT", nu=3, mu=-0.5, sigma=0.8),
    blm.Prior("Uniform", lower=-1.5, upper=3),
]


@cache
def sliced(key):
    """The intercept of the model that :func:`by_integration` is about."""
    model = blm.LMM("y ~ 1 + (1 | g)", FRAME, priors={**PRIORS, key: NU}, **KINDS[key])
    return source_and_likelihood(model, "Intercept", random_seed=3)[1]


@pytest.mark.parametrize("key", KINDS)
@pytest.mark.parametrize("prior", OTHERS, ids=lambda p: p.name)
def test_posteriors_are_those_of_integration(key, prior):
    """Six standard errors of the means of some 400 slices; a factor of a prior more or less moves
    the mean by ten.
    """
    (_, _, nu), log_density, grids = by_integration(key)
    known = logsumexp(log_density + np.log(nu), axis=(1, 2)) - stats.norm(0, 2).logpdf(grids[0])
    e = np.linspace(-6, 6, 1201)
    log_likelihood = np.interp(e, grids[0], known)  # smooth, in steps of 0.3
    logs = log_likelihood + log_prior_density(prior, e)
    p = np.exp(logs - logs.max())
    p /= p.sum()
    mean = p @ e
    sd = np.sqrt(p @ (e - mean) ** 2)
    found = posterior_under(sliced(key), prior)
    places = 6 * found.mean_i.std() / np.sqrt(found.effective_draws)
    assert found.mean == pytest.approx(mean, abs=places)
    assert found.sd == pytest.approx(sd, rel=0.05)
    below = np.cumsum(p) - 0.5 * p
    for x in (-0.5, 0.5, 1.5):
        assert found.cdf(x) == pytest.approx(np.interp(x, e, below), abs=0.03)
    log_bf, error = found.log_bayes_factor(0.0)
    expected = logsumexp(logs) + np.log(e[1] - e[0]) - np.interp(0.0, e, log_likelihood)
    assert error < 0.05
    assert log_bf == pytest.approx(expected, abs=6 * error)


def test_slices_between_nodes_are_the_exact_density():
    likelihood = sliced("nu")
    posterior_under(likelihood, blm.Prior("Normal", mu=-6.0, sigma=0.5))  # reaches far
    e = np.linspace(-8.0, 8.0, 9) + 0.137
    found = likelihood.on(e, slice(None))
    exact = np.array([likelihood.at(value) for value in e]).T
    gap = np.abs(found - exact)[exact > exact.max() - 15]
    assert gap.max() < 0.005  # a log density: half a percent


@cache
def frame():
    """Eight groups of six rows, of which two are outliers."""
    rng = np.random.default_rng(12)
    data = pd.DataFrame({"g": np.repeat(list("abcdefgh"), 6), "f": list("uuvvww") * 8})
    data["x"], effects = rng.normal(size=48), np.repeat(rng.normal(0, 0.7, 8), 6)
    data["y"] = 1.0 + 0.6 * data["x"] + 0.4 * (data["f"] == "w") + effects + rng.normal(size=48)
    data.loc[[5, 31], "y"] += 9.0
    data["z"] = (data["f"] == "w") - data["x"]
    data["n"] = rng.poisson(np.exp(0.3 + 0.4 * data["x"] + 0.5 * effects))
    return data


OWN = blm.Prior("Laplace", mu=0.5, b=0.3)
MODELS = {
    "residuals": ("y ~ x + f + (x | g)", {"family": "student"}, "x"),
    "both": ("y ~ x + (1 | g)", {"family": "student", "random": "student"}, "x"),
    "effects of counts": ("n ~ x + (1 | g)", {"family": "poisson", "random": "student"}, "x"),
    "beside another prior": (
        "y ~ z + x + (1 | g)",
        {"priors": {"z": OWN, "x": blm.Prior("Normal", mu=0, sigma=1)}},
        "x",
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_reanalysis_is_a_fit_under_the_other_prior(name):
    formula, options, effect = MODELS[name]
    prior = blm.Prior("Normal", mu=0.0, sigma=0.15)
    model = blm.MixedModel(formula, frame(), **options)
    found = blm.reanalyze(model, effect, {"other": prior}, draws=2000, random_seed=2).posteriors[
        "other"
    ]
    priors = options.get("priors", {}) | {effect: prior}
    again = blm.MixedModel(formula, frame(), **options | {"priors": priors})
    own = again.fit(draws=600, random_seed=4, progressbar=False).fixef().loc[effect]
    places = found.mean_i.std() ** 2 / found.effective_draws
    error = np.sqrt(own["sd"] ** 2 / own["ess_bulk"] + places)
    assert found.mean == pytest.approx(own["mean"], abs=6 * error)
    # of 1,000 independent draws an sd has a relative error of 0.022
    assert found.sd == pytest.approx(own["sd"], rel=0.15)


def test_sensitivity_and_bayes_factors_are_those_of_the_slices():
    formula, options, effect = MODELS["both"]
    model = blm.MixedModel(formula, frame(), **options)
    prior = blm.Prior("Normal", mu=0, sigma=0.5)
    same = {"draws": 2000, "random_seed": 2}
    test = blm.savage_dickey(model, effect, prior=prior, curve=False, **same)
    path = blm.sensitivity(model, effect, scale=[0.5, 2.0], **same).table
    assert test.relative_error < 0.15
    assert path.loc[0.5, "bf10"] == pytest.approx(test.bf10, rel=1e-9)  # the same draws
    assert path.loc[0.5, "estimate"] < path.loc[2.0, "estimate"]
    pair = ((formula, {effect: prior}), ("y ~ 1 + (1 | g)", {}))
    evidences = [
        blm.log_marginal_likelihood(
            blm.MixedModel(text, frame(), **options, priors=own).fit(
                draws=10, tune=10, chains=1, random_seed=3, progressbar=False
            ),
            draws=2000,
        )
        for text, own in pair
    ]
    error = np.linalg.norm([test.relative_error, *(found.error for found in evidences)])
    assert test.log_bf10 == pytest.approx(evidences[0].value - evidences[1].value, abs=6 * error)


def test_what_is_not_available_is_named():
    student = blm.LMM("y ~ x + (1 | g)", frame(), random="student")
    with pytest.raises(DataError, match=r'random="student": that of several .* blm.bayes_factor'):
        blm.savage_dickey(student, "sd(Intercept | g)")
    counts = blm.MixedModel("n ~ x + (1 | g)", frame(), family="poisson", random="student")
    result = blm.reanalyze(counts, "x", "sceptical", draws=500, random_seed=1)
    assert result.risks is None
    assert any("over normal effects" in note for note in result.notes)
    ar1 = blm.LMM(
        "y ~ x + (1 | g)", frame().assign(t=list(range(6)) * 8), residual="ar1(t | g)",
        random="student",
    )  # fmt: skip
    with pytest.raises(PriorError, match="residuals are correlated or unequal"):
        blm.reanalyze(ar1, "x")
    pinned = {"x": OWN, "f[v]": blm.Prior("Normal", mu=0, sigma=1)}
    beside = blm.LMM("y ~ x + f + (1 | g)", frame(), priors=pinned)
    with pytest.raises(PriorError, match=r"set a prior on f\[w\] itself"):
        blm.reanalyze(beside, "f[w]")
    unequal = blm.LMM("y ~ x + f + (1 | g)", frame(), priors={"x": OWN}, sigma="~ f")
    with pytest.raises(PriorError, match="residuals are correlated or unequal"):
        blm.reanalyze(unequal, "Intercept")


def test_power_scaling_takes_the_likelihood_of_groups():
    model = blm.LMM("y ~ 1 + (1 | g)", FRAME, priors={"nu": NU}, family="student")
    fit = model.fit(draws=100, chains=4, random_seed=5, progressbar=False)
    draw, u = fit.posterior.isel(chain=0, draw=3), np.linspace(-9.0, 9.0, 4001)
    eta = float(draw["beta"].squeeze()) + float(draw["sd_g"].squeeze()) * u
    sigma = float(draw["sigma"])
    rows = stats.t.logpdf((Y[..., None] - eta) / sigma, float(draw["nu"])) - np.log(sigma)
    groups = rows.sum(axis=1) + stats.norm.logpdf(u) + np.log(u[1] - u[0])
    tree = power_scaling_tree(fit)
    found = float(tree["log_likelihood"]["y"].isel(chain=0, draw=3))
    assert found == pytest.approx(logsumexp(groups, axis=1).sum(), abs=6e-4)
    own = log_prior_draws(fit)["nu"][0, 3]
    assert own == pytest.approx(stats.gamma(4).logpdf(float(draw["nu"])))
    assert blm.power_scaling(fit).loc["nu", "nu"] > 0.05  # twelve rows say little of it


def test_power_scaling_beside_student_effects_is_refused():
    model = blm.LMM("y ~ 1 + (1 | g)", FRAME, random="student")
    fit = model.fit(draws=20, tune=20, chains=1, random_seed=5, progressbar=False)
    with pytest.raises(DataError, match='random="student": it takes the likelihood'):
        blm.power_scaling(fit)
