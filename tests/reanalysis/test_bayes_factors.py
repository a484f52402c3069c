"""Savage-Dickey, bridge sampling, importance sampling and dense integrals agree."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pytest
from scipy import stats

import bayeslmm as blm
from bayeslmm.bayes.marginal import marginal_density
from bayeslmm.reanalysis.bridge import optimal_bridge
from bayeslmm.reanalysis.components import log_component_bayes_factor
from bayeslmm.reanalysis.joint import JointTest, term_columns
from bayeslmm.reanalysis.theta import fitted_theta
from tests.conftest import dataset, quietly

PRIORS = {
    "Intercept": blm.Prior("Normal", mu=0, sigma=2),
    "x": blm.Prior("Normal", mu=0, sigma=1),
    "sd(Intercept | g)": blm.Prior("HalfNormal", sigma=1),
    "sigma": blm.Prior("HalfNormal", sigma=1.5),
}


@cache
def small_data():
    import pandas as pd

    rng = np.random.default_rng(4)
    g = np.repeat(np.arange(5), 4)
    x = np.tile([-1.0, -0.3, 0.4, 0.9], 5)
    y = 0.3 + 0.5 * x + 0.6 * rng.standard_normal(5)[g] + 0.8 * rng.standard_normal(20)
    return pd.DataFrame({"y": y, "x": x, "g": g})


def small_model(formula="y ~ x + (1 | g)", data=None):
    keys = set(blm.LMM(formula, small_data()).priors)
    priors = {key: prior for key, prior in PRIORS.items() if key in keys}
    return blm.LMM(formula, small_data() if data is None else data, priors=priors)


@cache
def small_fit(formula="y ~ x + (1 | g)"):
    return small_model(formula).fit(
        draws=1500, random_seed=6, progressbar=False, target_accept=0.95
    )


@cache
def dense_log_evidence(with_x: bool, with_g: bool) -> float:
    """log p(y) by brute force: n x n covariance matrices on a grid of (sd, sigma)."""
    data = small_data()
    y, x, g = data["y"].to_numpy(), data["x"].to_numpy(), data["g"].to_numpy()
    xbar = x.mean()
    same = (g[:, None] == g).astype(float)
    # intercept at the mean of x ~ N(0, 2^2), slope ~ N(0, 1)
    K = 4.0 * np.ones((20, 20))
    if with_x:
        K = K + np.outer(x - xbar, x - xbar)
    sds = np.linspace(0, 6, 401) if with_g else np.zeros(1)
    sigmas = np.linspace(0.2, 5.0, 401)
    values = np.empty((len(sds), len(sigmas)))
    for i, sd in enumerate(sds):
        spectrum, vectors = np.linalg.eigh(K + sd**2 * same)
        variances = spectrum + sigmas[:, None] ** 2
        form = np.log(2 * np.pi * variances) + (vectors.T @ y) ** 2 / variances
        values[i] = -0.5 * form.sum(axis=1) + stats.halfnorm(scale=1.5).logpdf(sigmas)
        if with_g:
            values[i] += stats.halfnorm(scale=1.0).logpdf(sd)
    top = values.max()
    over_sigma = np.trapezoid(np.exp(values - top), sigmas, axis=1)
    total = np.trapezoid(over_sigma, sds) if with_g else over_sigma[0]
    return float(top + np.log(total))


@pytest.mark.parametrize("method", ["bridge", "importance"])
@pytest.mark.parametrize("with_x", [True, False])
def test_log_marginal_likelihoods_are_the_dense_integral(method, with_x):
    formula = "y ~ x + (1 | g)" if with_x else "y ~ 1 + (1 | g)"
    found = blm.log_marginal_likelihood(small_fit(formula), method=method, draws=6000)
    assert found.error < 0.03
    assert found.value == pytest.approx(dense_log_evidence(with_x, True), abs=5 * found.error)


def test_savage_dickey_of_a_coefficient_is_the_dense_ratio():
    expected = dense_log_evidence(True, True) - dense_log_evidence(False, True)
    for source in (small_model(), small_fit()):
        found = blm.savage_dickey(source, "x")
        assert found.relative_error < 0.05
        assert found.log_bf10 == pytest.approx(expected, abs=5 * found.relative_error)


def test_bridge_sampling_of_two_fits_is_the_dense_ratio():
    expected = dense_log_evidence(True, True) - dense_log_evidence(False, True)
    found = blm.bayes_factor(small_fit(), small_fit("y ~ 1 + (1 | g)"))
    assert found.log_bf10 == pytest.approx(expected, abs=5 * found.relative_error)
    assert found.default_priors == ()


def test_a_component_tested_at_zero_is_the_dense_ratio():
    expected = dense_log_evidence(True, True) - dense_log_evidence(True, False)
    found = blm.savage_dickey(small_fit(), "sd(Intercept | g)")
    assert found.log_bf10 == pytest.approx(expected, abs=5 * found.relative_error)
    bridged = blm.bayes_factor(small_fit(), small_fit("y ~ x"))
    assert bridged.log_bf10 == pytest.approx(expected, abs=5 * bridged.relative_error)


def test_the_quadrature_of_a_component_does_not_depend_on_its_nodes():
    fit = small_fit()
    density = marginal_density(fit.model.design, fit.priors, fit.model.problem)
    x = fitted_theta(fit, density)
    few, many = (log_component_bayes_factor(density, x, 0, nodes)[0] for nodes in (8, 24))
    assert few == pytest.approx(many, abs=1e-6)


def test_where_savage_dickey_cannot_reach_both_models_are_sampled():
    model = blm.LMM("Reaction ~ Days + (Days | Subject)", dataset("sleepstudy"))
    found = blm.savage_dickey(model, "Days", curve=False)
    assert found.method == "marginal likelihoods"
    null = blm.LMM("Reaction ~ 1 + (Days | Subject)", dataset("sleepstudy"))
    pair = [m.fit(random_seed=1, progressbar=False) for m in (model, null)]
    bridged = blm.bayes_factor(*pair)
    total = np.hypot(found.relative_error, bridged.relative_error)
    assert found.log_bf10 == pytest.approx(bridged.log_bf10, abs=5 * total)
    far = blm.savage_dickey(pair[0], "sd(Days | Subject)")
    without = blm.LMM(
        "Reaction ~ Days + (1 | Subject)",
        dataset("sleepstudy"),
        priors={k: model.priors[k] for k in ("Intercept", "Days", "sigma")}
        | {"sd(Intercept | Subject)": model.priors["sd(Intercept | Subject)"]},
    ).fit(random_seed=1, progressbar=False)
    bridged = blm.bayes_factor(pair[0], without)
    total = np.hypot(far.relative_error, bridged.relative_error)
    assert far.log_bf10 == pytest.approx(bridged.log_bf10, abs=5 * total)


def test_bayes_factors_of_nested_models_with_default_priors_are_those_of_savage_dickey():
    """A correlated column beside the one that is tested, and years far from zero."""
    data = dataset("sleepstudy").head(60)
    data["year"] = data["Days"] + 2013
    data["z"] = np.sin(np.arange(60)) + 0.3 * data["Days"]
    whole = blm.LMM("Reaction ~ year + z + (1 | Subject)", data)
    null = blm.LMM("Reaction ~ year + (1 | Subject)", data)
    found = blm.savage_dickey(whole, "z", curve=False)
    pair = [m.fit(random_seed=1, progressbar=False) for m in (whole, null)]
    bridged = blm.bayes_factor(*pair)
    total = np.hypot(found.relative_error, bridged.relative_error)
    assert found.log_bf10 == pytest.approx(bridged.log_bf10, abs=5 * total + 1e-3)


def test_priors_about_other_columns_are_not_compared():
    data = dataset("sleepstudy")
    own = {"sd(Intercept | Subject)": blm.Prior("HalfStudentT", nu=3, sigma=data["Reaction"].std())}
    fits = [
        blm.LMM("Reaction ~ Days + (Days | Subject)", data, priors=priors).fit(
            method="importance", random_seed=1, progressbar=False
        )
        for priors in (None, own)
    ]
    with pytest.raises(blm.PriorError, match="Subject"):
        blm.bayes_factor(*fits)


def test_a_null_other_than_zero_shifts_the_response():
    moved = small_data().assign(y=small_data()["y"] - 0.4 * small_data()["x"])
    xbar = float(small_data()["x"].mean())
    prior = blm.Prior("Normal", mu=0, sigma=1)
    one = blm.savage_dickey(small_model(), "x", value=0.4, prior=prior, curve=False)
    shifted = small_model(data=moved)
    shifted.priors["Intercept"] = blm.Prior("Normal", mu=-0.4 * xbar, sigma=2)
    other = blm.Prior("Normal", mu=-0.4, sigma=1)
    two = blm.savage_dickey(shifted, "x", prior=other, curve=False)
    assert one.log_bf10 == pytest.approx(two.log_bf10, abs=0.1)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_bridge_finds_a_known_constant_within_its_error(scale):
    rng = np.random.default_rng(int(10 * scale))
    q = scale * rng.standard_normal((4, 2000))
    g = rng.standard_normal(8000)

    def log_ratio(z):
        return 3.0 - 0.5 * (z / scale) ** 2 + 0.5 * z**2 + 0.5 * np.log(2 * np.pi)

    value, error = optimal_bridge(log_ratio(q), log_ratio(g))
    assert error < 0.05
    exact = 3.0 + np.log(scale) + 0.5 * np.log(2 * np.pi)
    assert value == pytest.approx(exact, abs=5 * error)


def test_posterior_probabilities_follow_from_the_odds():
    found = blm.savage_dickey(small_model(), "x", curve=False)
    assert found.posterior_probability() == pytest.approx(found.bf10 / (1 + found.bf10))
    assert found.posterior_probability(0.2) == pytest.approx(found.bf10 / (found.bf10 + 4))
    assert found.bf01 == pytest.approx(1 / found.bf10)
    with pytest.raises(ValueError, match="between 0 and 1"):
        found.posterior_probability(1.0)


def test_a_default_prior_is_labeled_and_comes_with_a_curve():
    model = blm.LMM("y ~ x + (1 | g)", small_data())
    found = blm.savage_dickey(model, "x", draws=1000)
    assert found.default_priors == ("x",)
    assert len(found.curve) == 9
    assert "default prior" in repr(found)
    assert "default prior" not in repr(blm.savage_dickey(small_model(), "x", draws=1000))


def _fit(formula, data, **priors):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = quietly(formula, data, priors=priors or None)
        return model.fit(method="importance", draws=200, random_seed=1)


def test_improper_priors_are_refused_with_the_reason(toy):
    flat = _fit("y ~ x + (1 | g)", toy, x=blm.Prior("Flat"))
    other = _fit("y ~ x + (1 | g)", toy)
    with pytest.raises(blm.PriorError, match="prior of x is improper"):
        blm.bayes_factor(flat, other)
    with pytest.raises(blm.PriorError, match="infinitely unlikely"):
        blm.savage_dickey(flat, "x")
    with pytest.raises(blm.PriorError, match="needs a proper one"):
        blm.savage_dickey(other, "x", prior=blm.Prior("Flat"))
    half = _fit("y ~ x + (1 | g)", toy, **{"sd(Intercept | g)": blm.Prior("HalfFlat")})
    with pytest.raises(blm.PriorError, match="is flat"):
        blm.savage_dickey(half, "sd(Intercept | g)")


@pytest.mark.parametrize(
    "prior",
    [
        blm.Prior("Gamma", alpha=2, beta=1),
        blm.Prior("InverseGamma", alpha=2, beta=1),
        blm.Prior("Uniform", lower=0, upper=5),
    ],
)
def test_a_component_needs_a_prior_with_height_at_zero(toy, prior):
    fit = _fit("y ~ x + (1 | g)", toy, **{"sd(Intercept | g)": prior})
    with pytest.raises(blm.PriorError, match="HalfNormal"):
        blm.savage_dickey(fit, "sd(Intercept | g)")


def test_models_of_other_data_are_refused(toy):
    fit = _fit("y ~ x + (1 | g)", toy)
    with pytest.raises(ValueError, match="other rows"):
        blm.bayes_factor(fit, _fit("y ~ x + (1 | g)", toy.iloc[:80]))
    with pytest.raises(ValueError, match="different responses"):
        blm.bayes_factor(fit, _fit("z ~ x + (1 | g)", toy))
    weighted = quietly("y ~ x + (1 | g)", toy, weights="z").fit(
        method="importance", draws=200, random_seed=1
    )
    with pytest.raises(ValueError, match="weights"):
        blm.bayes_factor(fit, weighted)
    with pytest.raises(blm.PriorError, match="same prior in both"):
        blm.bayes_factor(fit, _fit("y ~ x + (1 | g)", toy, sigma=blm.Prior("HalfNormal", sigma=1)))
    with pytest.raises(ValueError, match="'w' cannot be tested"):
        blm.savage_dickey(fit, "w")


def test_the_evidence_of_short_importance_fits_is_within_its_error():
    model = small_model()
    expected = dense_log_evidence(True, True)
    z = []
    for seed in range(40):
        fit = model.fit(method="importance", draws=100, random_seed=seed, progressbar=False)
        found = blm.log_marginal_likelihood(fit, random_seed=seed)
        assert found.method == "importance"
        z.append((found.value - expected) / found.error)
    # rms of 40 standard normals: 0.55 to 1.55 but for one run in a million; the bridge between
    # resampled draws had 1.7 at this size
    assert 0.5 < np.sqrt(np.mean(np.square(z))) < 1.55


def test_rows_added_to_a_fit_count_in_its_evidence():
    data = small_data()
    fit = small_model(data=data[:16]).fit(
        method="importance", draws=1000, random_seed=6, progressbar=False
    )
    kept = fit.condition_on(data[16:], random_seed=1)
    assert kept.info.log_marginal_likelihood is None
    fresh = blm.log_marginal_likelihood(kept)
    twice = kept.model.fit(method="importance", draws=1000, random_seed=7, progressbar=False)
    again = blm.log_marginal_likelihood(twice)
    assert fresh.value == pytest.approx(again.value, abs=6 * np.hypot(fresh.error, again.error))
    with pytest.raises(blm.SamplingError, match="variance parameters"):
        blm.savage_dickey(kept, "sd(Intercept | g)")
    one = blm.savage_dickey(kept, "x", curve=False)
    two = blm.savage_dickey(twice, "x", curve=False)
    assert one.log_bf10 == pytest.approx(two.log_bf10, abs=0.1)


def _slopes_data():
    import pandas as pd

    rng = np.random.default_rng(12)
    g = np.repeat(np.arange(12), 6)
    frame = pd.DataFrame({"g": g, "x": rng.normal(size=72), "z": rng.normal(size=72)})
    frame["one"], frame["f"] = 1.0, np.tile(list("abc"), 24)
    b = rng.multivariate_normal(np.zeros(3), 0.5 + 0.5 * np.eye(3), 12)[g]
    frame["y"] = b[:, 0] + b[:, 1] * frame["x"] + b[:, 2] * frame["z"] + rng.normal(size=72)
    return frame


def _slopes_fit(formula, **options):
    priors = {
        "Intercept": blm.Prior("Normal", mu=0, sigma=2),
        "beta": blm.Prior("Normal", mu=0, sigma=1),
        "sd": blm.Prior("HalfNormal", sigma=1),
        "sigma": blm.Prior("HalfNormal", sigma=1.5),
        "corr": blm.Prior("LKJ", eta=1.5),
    }
    model = quietly(formula, _slopes_data())
    if "corr(g)" not in model.priors:
        del priors["corr"]
    for key, prior in priors.items():
        model.priors[key] = prior
    return model.fit(draws=1500, random_seed=3, progressbar=False, **options)


def test_a_correlation_tested_at_zero_is_the_ratio_of_two_models():
    fit = _slopes_fit("y ~ x + (x | g)")
    found = blm.savage_dickey(fit, "corr(Intercept, x | g)")
    assert blm.savage_dickey(fit, "corr(x,Intercept|g)").log_bf10 == found.log_bf10
    bridged = blm.bayes_factor(fit, _slopes_fit("y ~ x + (x || g)"))
    error = np.hypot(found.relative_error, bridged.relative_error)
    assert error < 0.1
    assert found.log_bf10 == pytest.approx(bridged.log_bf10, abs=5 * error)


def test_a_correlation_of_three_effects_does_not_depend_on_their_order():
    first = _slopes_fit("y ~ x + (0 + x + z + one | g)", method="importance")
    last = _slopes_fit("y ~ x + (0 + one + z + x | g)", method="importance")
    # the first two effects, and the last two
    one, two = (blm.savage_dickey(fit, "corr(x, z | g)") for fit in (first, last))
    error = np.hypot(one.relative_error, two.relative_error)
    assert error < 0.15
    assert one.log_bf10 == pytest.approx(two.log_bf10, abs=5 * error)


def test_the_margin_of_a_correlation_is_that_of_lkj():
    """Where nothing is known of the effects, their correlation has Bayes factor one."""
    data = _slopes_data().assign(empty=np.arange(72) % 2)
    model = quietly("y ~ x + (x + z + one | empty)", data)
    priors = {"sd": blm.Prior("HalfNormal", sigma=1e-6), "corr": blm.Prior("LKJ", eta=3)}
    for key, prior in priors.items():
        model.priors[key] = prior
    fit = model.fit(draws=500, random_seed=1, progressbar=False)
    for name in ("corr(Intercept, x | empty)", "corr(z, one | empty)"):
        assert blm.savage_dickey(fit, name).log_bf10 == pytest.approx(0.0, abs=1e-4)


def test_all_coefficients_of_a_factor_at_zero_are_the_ratio_of_two_models():
    fit = _slopes_fit("y ~ x + f + (1 | g)")
    found = blm.savage_dickey(fit, "f")
    assert found.relative_error < 0.05
    null = _slopes_fit("y ~ x + (1 | g)")
    bridged = blm.bayes_factor(fit, null)
    error = np.hypot(found.relative_error, bridged.relative_error)
    assert found.log_bf10 == pytest.approx(bridged.log_bf10, abs=5 * error)
    # and under another prior, whose null model is also sampled by itself
    prior = blm.Prior("Normal", mu=0.2, sigma=0.7)
    one = blm.savage_dickey(fit.model, "f", prior=prior)
    model = fit.model
    model.priors["f[b]"] = model.priors["f[c]"] = prior
    density = marginal_density(model.design, model.priors, model.problem)
    test = JointTest.of(model, model.priors, density, term_columns(model.design, "f"))
    value, noise = test.log_evidences_ratio(1, 4000)
    assert one.log_bf10 == pytest.approx(value, abs=5 * np.hypot(one.relative_error, noise))
    bridged = blm.bayes_factor(model.fit(draws=1500, random_seed=3, progressbar=False), null)
    assert value == pytest.approx(bridged.log_bf10, abs=5 * np.hypot(bridged.relative_error, noise))


def test_a_name_that_cannot_be_tested_says_what_can(toy):
    model = quietly("y ~ x + f + (1 | g)", toy)
    for name in ("sigma", "g", "corr(Intercept, x | g)"):
        with pytest.raises(ValueError, match=r"sd\(Intercept \| g\).*bayes_factor"):
            blm.savage_dickey(model, name)
    with pytest.raises(ValueError, match="against 0 only"):
        blm.savage_dickey(model, "f", value=1.0)
    with pytest.raises(blm.PriorError, match="normal prior"):
        blm.savage_dickey(model, "f", prior=blm.Prior("Cauchy", alpha=0, beta=1))
    model.priors["beta"] = blm.Prior("Flat")
    with pytest.raises(blm.PriorError, match="flat"):
        blm.savage_dickey(model, "f")


def test_the_evidence_of_known_standard_errors_is_that_of_a_grid():
    """A meta-analysis given tau is normal, so that its evidence is an integral over tau."""
    data = blm.load_dataset("bcg")
    priors = {
        "Intercept": blm.Prior("Normal", mu=0, sigma=1),
        "sd(Intercept | trial)": blm.Prior("HalfNormal", sigma=1),
    }
    model = blm.LMM("yi | se(sei) ~ 1 + (1 | trial)", data, priors=priors)
    y, v = data["yi"].to_numpy()[:, None], data["sei"].to_numpy()[:, None] ** 2
    tau = np.linspace(0, 6, 6001)
    w = 1 / (v + tau**2)
    # y ~ N(0, diag(1 / w) + 11'): log determinant and inverse by the matrix of rank one
    quadratic = (w * y**2).sum(0) - (w * y).sum(0) ** 2 / (1 + w.sum(0))
    log_p = -0.5 * (13 * np.log(2 * np.pi) - np.log(w).sum(0) + np.log1p(w.sum(0)) + quadratic)
    density = np.exp(log_p - log_p.max()) * 2 * stats.norm.pdf(tau)
    expected = log_p.max() + np.log(np.trapezoid(density, tau))
    post = model.fit(draws=500, random_seed=1, progressbar=False)
    found = blm.log_marginal_likelihood(post)
    assert found.value == pytest.approx(expected, abs=max(5 * found.error, 1e-3))
    assert found.error < 0.05
    # no heterogeneity: the likelihood at tau = 0 against the evidence
    against = blm.savage_dickey(post, "sd(Intercept | trial)")
    assert against.log_bf10 == pytest.approx(
        expected - log_p[0], abs=5 * max(against.relative_error, 0.01)
    )
