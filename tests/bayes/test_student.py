"""Student-t residuals and effects in whitened coordinates."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import logsumexp

import bayeslmm as blm
from bayeslmm.bayes import whitening
from bayeslmm.results.loo_result import efficiency
from bayeslmm.results.response_left_out import LeavingOut
from tests.bayes.test_hierarchical import _log_density
from tests.bayes.test_joint import (
    _flat,
    _free,
    _point,
    check_density,
    check_gradients,
    density_of,
    differences,
    made,
    points,
)
from tests.bayes.test_whitened_posterior import _grid_moments, check_moments
from tests.results.test_response_loo import close


@pytest.mark.parametrize(
    ("name", "structure", "worth"),
    [("student", "three", np.inf), ("gaussian", "three factors", np.inf),
     ("poisson", "crossed", 0.0)],
)  # fmt: skip
def test_gradients_are_those_of_the_density(name, structure, worth, monkeypatch):
    monkeypatch.setattr(whitening, "_WORTH", worth)
    check_gradients(density_of(made(name, structure=structure, random="student")))


@pytest.mark.parametrize(
    "structure", ["crossed", *(pytest.param(s, marks=pytest.mark.slow) for s in ("three", "none"))]
)
def test_the_density_of_student_residuals_is_that_of_the_hierarchical_model(structure):
    model = made("student", structure=structure)
    check_density(model, density_of(model, signed=False))


@pytest.mark.parametrize(
    ("name", "structure"),
    [
        ("gaussian", "slopes"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [("student", "nested"), ("bernoulli", "independent"), ("gaussian", "three")]
        ),
    ],
)
def test_student_effects_are_multivariate_t_in_an_otherwise_equal_model(name, structure):
    """The hierarchical model of normal effects, scipy's t in place of their density."""
    model, normal = (made(name, structure=structure, random=r) for r in ("student", "gaussian"))
    density = density_of(model, signed=False)
    z = points(density, 1)[0]
    values = _free(model, density, z[None])
    J = differences(lambda Z: _flat(_free(model, density, Z)), z)
    pymc_model = normal.pymc_model("noncentered")
    expected = float(_log_density(pymc_model, _point(pymc_model, values), jacobian=False))
    for block, factor in zip(model.design.blocks, model.names.factors, strict=True):
        u, nu = values[factor.z][0], float(values[factor.nu][0])
        heavy = stats.multivariate_t(shape=np.eye(block.n_effects), df=nu)
        expected += np.sum(heavy.logpdf(u)) - np.sum(stats.norm.logpdf(u))
        expected += stats.gamma(2, scale=10).logpdf(nu)
    expected += np.linalg.slogdet(J)[1]
    found = density(z)[0] + density.log_scale
    assert found == pytest.approx(expected, abs=1e-9 * max(abs(expected), 10.0))


#: Three groups, one of them or one row of another far from the rest.
Y = np.array([[0.3, 1.1, -0.4, 6.0], [-0.6, 0.2, -1.3, 0.1], [3.9, 4.8, 3.1, 4.4]])
FRAME = pd.DataFrame({"y": Y.ravel(), "g": np.repeat(list("abc"), 4)})
NU = blm.Prior("Gamma", alpha=4, beta=1)
PRIORS = {
    "Intercept": blm.Prior("Normal", mu=0, sigma=2),
    "sd(Intercept | g)": blm.Prior("HalfNormal", sigma=1.5),
    "sigma": blm.Prior("Fixed", value=0.8),
}
KINDS = {"nu": {"family": "student"}, "nu(g)": {"random": "student"}}


@cache
def tiny_fit(key):
    model = blm.LMM("y ~ 1 + (1 | g)", FRAME, priors={**PRIORS, key: NU}, **KINDS[key])
    return model.fit(draws=3000, random_seed=5, progressbar=False)


def log_density_of(z, nu):
    """Standard t or, without nu, normal: scipy's constants, and a formula that is quick."""
    if nu is None:
        return stats.norm.logpdf(0.0) - 0.5 * z * z
    return stats.t.logpdf(0.0, nu) - 0.5 * (nu + 1) * np.log1p(z * z / nu)


@cache
def by_integration(key):
    """Grids of beta, sd and nu, and the log density there."""
    grids = np.linspace(-6, 6, 41), np.linspace(0.04, 6.92, 44), np.exp(np.linspace(-1.6, 3, 20))
    beta, sd, nu = np.meshgrid(*grids, indexing="ij")
    t = np.linspace(-7.0, 7.0, 85)
    u = np.sinh(t / 2) if key == "nu(g)" else t
    log_step = np.log(np.gradient(u, t) * (t[1] - t[0]))
    log_density = (
        stats.norm(0, 2).logpdf(beta) + stats.halfnorm(0, 1.5).logpdf(sd)
        + stats.gamma(4).logpdf(nu)
    )  # fmt: skip
    eta = grids[0][:, None, None] + grids[1][:, None] * u
    for k, own in enumerate(grids[2]):
        effects = log_density_of(u, own if key == "nu(g)" else None) + log_step
        for group in Y:
            gaps = ((y - eta) / 0.8 for y in group)
            rows = sum(log_density_of(gap, own if key == "nu" else None) for gap in gaps)
            log_density[..., k] += np.log(np.exp(rows + effects).sum(axis=2)) - 4 * np.log(0.8)
    return (beta, sd, nu), log_density, grids


@pytest.mark.parametrize("key", KINDS)
def test_the_posterior_is_that_of_integration(key):
    posterior = tiny_fit(key).idata["posterior"]
    (beta, sd, nu), log_density, _ = by_integration(key)
    log_density = log_density + np.log(nu)  # points are evenly spaced in log nu
    draws = [posterior[name].to_numpy() for name in ("beta", "sd_g", key.replace("(g)", "_g"))]
    for own, (mean, spread) in zip(draws, _grid_moments((beta, sd, nu), log_density), strict=True):
        check_moments(own.reshape(4, 3000), mean, spread)


@pytest.mark.parametrize("key", KINDS)
@pytest.mark.parametrize("method", ["bridge", "importance"])
def test_the_marginal_likelihood_is_that_of_integration(key, method):
    found = blm.log_marginal_likelihood(tiny_fit(key), method=method, random_seed=3)
    (_, _, nu), log_density, grids = by_integration(key)
    steps = [
        grids[0][1] - grids[0][0],
        grids[1][1] - grids[1][0],
        np.log(grids[2][1] / grids[2][0]),
    ]
    expected = logsumexp(log_density + np.log(nu)) + np.log(steps).sum()
    assert found.error < 0.05
    # the grid ends where 1e-3 of the mass is left
    assert found.value == pytest.approx(expected, abs=6 * found.error + 5e-3)


def test_rows_and_groups_left_out_have_their_density_given_the_rest():
    """Student-t residuals with weights, normal effects, integrated on a grid draw by draw."""
    frame = FRAME.assign(w=np.linspace(0.5, 2.0, 12))
    model = blm.LMM("y ~ 1 + (1 | g)", frame, weights="w", family="student")
    fit = model.fit(draws=100, chains=4, random_seed=2, progressbar=False)
    loo = fit.loo(exact=False)
    assert loo.likelihood == "integrated"
    leaving, posterior = LeavingOut.of(fit, 0), fit.posterior
    rows, groups = leaving.by_rows(posterior, distribution=True), leaving.by_groups(posterior)
    u = np.linspace(-9.0, 9.0, 4001)
    log_u = stats.norm.logpdf(u) + np.log(u[1] - u[0])
    one = {name: posterior[name].to_numpy()[0] for name in ("beta", "sd_g", "sigma", "nu")}
    weights = frame["w"].to_numpy().reshape(3, 4)
    for m in range(0, 50, 10):
        scale, nu = one["sigma"][m] / np.sqrt(weights), one["nu"][m]
        eta = one["beta"][m, 0] + one["sd_g"][m, 0] * u
        gap = (Y[..., None] - eta) / scale[..., None]
        each = stats.t.logpdf(gap, nu) - np.log(scale)[..., None]
        whole = each.sum(axis=1) + log_u
        np.testing.assert_allclose(groups[m], logsumexp(whole, axis=1), atol=2e-4)
        rest = whole[:, None] - each
        expected = logsumexp(whole, axis=1)[:, None] - logsumexp(rest, axis=2)
        np.testing.assert_allclose(rows.log_density[m], expected.ravel(), atol=2e-4)
        share = np.exp(rest - logsumexp(rest, axis=2)[..., None])
        below = (share * stats.t.cdf(gap, nu)).sum(axis=2)
        np.testing.assert_allclose(rows.upper[m], below.ravel(), atol=2e-4)


def test_a_row_left_out_of_student_residuals_has_its_density_given_the_others():
    fit = tiny_fit("nu")
    loo = fit.loo(progressbar=False)
    _, log_density, grids = by_integration("nu")
    i, u = 3, np.linspace(-7.0, 7.0, 85)  # the outlier
    log_u = stats.norm.logpdf(u) + np.log(u[1] - u[0])
    eta = grids[0][:, None, None] + grids[1][:, None] * u
    without = log_density.copy()
    for k, nu in enumerate(grids[2]):
        each = [log_density_of((y - eta) / 0.8, nu) - np.log(0.8) for y in Y[0]]
        whole = np.exp(sum(each) + log_u)
        without[..., k] += np.log((whole / np.exp(each[i])).sum(axis=2) / whole.sum(axis=2))
    weights = np.log(grids[2])
    close(loo, i, logsumexp(log_density + weights) - logsumexp(without + weights))


@pytest.mark.parametrize(
    ("options", "formula", "method"),
    [({"family": "student"}, "y ~ x + (1 | a)", "importance"),
     ({"random": "student", "family": "student"}, "y ~ x + (x | a)", "nuts")],
)  # fmt: skip
def test_the_posterior_is_calibrated(options, formula, method):
    """p-values of a right program are uniform: one of 13 is below 1e-7 once in a million."""
    data = pd.DataFrame({"a": np.repeat(np.arange(8), 6)})
    data["x"], data["y"] = np.random.default_rng(4).normal(size=(2, 48))
    priors = {
        "Intercept": blm.Prior("Normal", mu=0, sigma=1),
        "beta": blm.Prior("Normal", mu=0, sigma=1),
        "sd": blm.Prior("HalfNormal", sigma=1),
        "sigma": blm.Prior("HalfNormal", sigma=1),
    }
    model = blm.LMM(formula, data, priors=priors, **options)
    found = blm.sbc(model, 30, method=method, random_seed=8, progressbar=False)
    assert set(found.ranks) == set(model.priors.components())
    assert found.uniformity()["p"].min() > 1e-7


@pytest.mark.slow
def test_nuts_of_the_hierarchical_model_agrees_on_sleepstudy():
    data = blm.load_dataset("sleepstudy")
    model = blm.LMM("Reaction ~ Days + (Days | Subject)", data, family="student", random="student")
    own = model.fit(draws=2000, random_seed=1, progressbar=False)
    other = model.fit(
        draws=1000, tune=1000, random_seed=2, progressbar=False, target_accept=0.95,
        parameterization="noncentered",
    )  # fmt: skip
    assert own.info.parameterization == "whitened"
    for name, draws in own.varcomp().iterrows():
        theirs = other.varcomp().loc[name]
        sizes = draws["ess_bulk"], theirs["ess_bulk"]
        error = np.hypot(draws["sd"] / np.sqrt(sizes[0]), theirs["sd"] / np.sqrt(sizes[1]))
        assert abs(draws["mean"] - theirs["mean"]) < 6 * error, name


def test_student_effects_beside_a_family_say_what_is_about_normal_ones():
    frame = pd.DataFrame({"y": [0, 2, 1, 3, 5, 2, 1, 0, 0, 2, 1, 4], "x": np.arange(12) / 5})
    frame["g"] = np.repeat(list("abc"), 4)
    model = blm.MixedModel("y ~ x + (1 | g)", frame, family="poisson", random="student")
    fit = model.fit(draws=100, chains=2, random_seed=1, progressbar=False)
    assert fit.info.parameterization == "whitened"
    assert "nu(g)" in fit.varcomp().index
    assert fit.loo(exact=False).likelihood == "conditional"
    new = pd.DataFrame({"x": [0.5], "g": ["z"]})
    assert np.isfinite(fit.predict(new, random="new", random_seed=1).to_numpy()).all()
    for refused in (fit.r2, fit.average_effects, lambda: fit.predict(random="marginal")):
        with pytest.raises(blm.DataError, match="Student-t|student"):
            refused()
    with pytest.raises(blm.SamplingError, match="Student-t"):
        fit.loo("g")
    with pytest.raises(blm.DataError, match="student"):
        model.ml()


def test_errors_of_leaving_out_count_the_coefficients_that_were_sampled():
    fit = tiny_fit("nu")
    beta = fit.posterior["beta"]
    slow = fit.posterior.assign(beta=beta.copy(data=np.sort(beta.to_numpy(), axis=1)))
    assert efficiency(fit, slow) < 0.01 < 0.1 < efficiency(fit, fit.posterior)
