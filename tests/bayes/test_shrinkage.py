"""Priors of many coefficients together: the regularized horseshoe and R2D2."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bayeslmm as blm
from bayeslmm.bayes.marginal import marginal_density
from bayeslmm.errors import PriorError
from bayeslmm.parts.scales import scale_terms, unconstrain
from tests.bayes.test_hierarchical import _log_density, _random_point, _value
from tests.conftest import quietly

NAMES = [f"x{j}" for j in range(6)]
FORMULA = f"y ~ {' + '.join(NAMES)} + (1 | g)"
PRIORS = {"horseshoe": blm.horseshoe(expected=2, df=3), "r2d2": blm.r2d2(0.4, 3)}
both = pytest.mark.parametrize("key", PRIORS)


@cache
def _data(n=60, size=6, seed=0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, size)) * np.arange(1, size + 1)
    g = np.arange(n) % 10
    y = 3 + X[:, 0] - 0.5 * X[:, 2] + rng.normal(size=10)[g] + rng.normal(size=n)
    return pd.DataFrame(X, columns=[f"x{j}" for j in range(size)]).assign(y=y, g=g)


@cache
def _model(key):
    own = {"x5": blm.Prior("Normal", mu=0, sigma=1), "x4": blm.Prior("Laplace", mu=0, b=1)}
    return quietly(FORMULA, _data(), priors={"beta": PRIORS[key], **own})


def _density(key):
    model = _model(key)
    return marginal_density(model.design, model.priors, model.problem)


@both
def test_the_gradient_is_exact(key):
    density = _density(key)
    rng = np.random.default_rng(1)
    x = density.starting_points((0.5,))[0] + 0.4 * rng.normal(size=density.n_dim)
    steps = 1e-4 * np.eye(density.n_dim)
    near = np.array([density.value(x + s) - density.value(x - s) for s in steps])
    far = np.array([density.value(x + 2 * s) - density.value(x - 2 * s) for s in steps])
    gradient, expected = density(x)[1], (8 * near - far) / 12e-4
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6 * abs(gradient).max())


@both
def test_it_is_the_joint_density_of_the_pymc_model_less_what_is_integrated_out(key):
    model, density = _model(key), _density(key)
    design, together, A = model.design, model.priors.shrinkage, model.priors.combinations()
    joint = model.pymc_model()
    point = _random_point(joint)
    value = {name: np.asarray(_value(joint, name, point)) for name in ("beta", "sigma", "sd_g")}
    sigma = float(value["sigma"])
    if together.is_horseshoe:
        names = ("hs_global", "hs_slab_squared", "hs_local")
        tau, squared, local = (np.asarray(_value(joint, name, point)) for name in names)
        size = tau * local / np.sqrt(1 + tau**2 * local**2 / squared)
        unit = together.tau_0 * sigma
        scalars = np.concatenate([[tau / unit], [squared], local])
        more = np.log(unit)  # p(t) = p(tau) dtau / dt
    else:
        share, phi = (np.asarray(_value(joint, name, point)) for name in ("r2d2_R2", "r2d2_phi"))
        size, total = sigma * np.sqrt(phi * share / (1 - share)), 1.3
        scalars = np.concatenate([[share], total * phi])
        shape = len(phi) * together.prior.parameters["concentration"]
        more = stats.gamma(shape).logpdf(total) - (len(phi) - 1) * np.log(total)
    alpha = A @ value["beta"]
    x = np.concatenate(
        [
            unconstrain(density.scales, np.append(value["sd_g"], sigma)),
            unconstrain(
                density.prior.coefficients.scales,
                np.concatenate([density.fixed.lifted.numbers(value["beta"]), scalars]),
            ),
        ]
    )
    slopes = np.concatenate(
        [
            scale_terms(density.scales, x[:2])[3],
            scale_terms(density.prior.coefficients.scales, x[2:])[3],
            [1.0 / np.abs(density.fixed.lifted.rows).max()],
        ]
    )
    # what is integrated out: intercept, x5, standardized coefficients and effects
    block = design.blocks[0]
    Z = np.zeros((design.n_rows, block.n_levels))
    Z[np.arange(design.n_rows), block.codes] = value["sd_g"][0]
    columns, mask = design.X @ np.linalg.inv(A), together.mask
    wide = np.column_stack([columns[:, [0, 6]], columns[:, mask] * size / together.spread, Z])
    first = model.priors["Intercept"].parameters
    sds = np.concatenate([[first["sigma"], 1.0], np.ones(wide.shape[1] - 2)])
    means = np.concatenate([[first["mu"]], np.zeros(wide.shape[1] - 1)])
    at = np.concatenate([alpha[[0, 6]], point["beta_standardized"], point["z_g"].ravel()])
    Q = wide.T @ wide / sigma**2 + np.diag(sds**-2.0)
    right = wide.T @ (design.y - columns[:, 5] * alpha[5]) / sigma**2 + means / sds**2
    covariance = np.linalg.inv(Q)
    left = stats.multivariate_normal(covariance @ right, covariance).logpdf(at)
    expected = float(_log_density(joint, point, jacobian=False)) - left + more
    value = density.value(x) - np.log(np.abs(slopes)).sum()
    assert value == pytest.approx(expected, rel=1e-8)


def test_words_say_what_the_prior_is_about():
    model = quietly(FORMULA, _data(), priors={"beta": blm.horseshoe(expected=2)})
    tau_0 = 2 / 4 / np.sqrt(60)
    assert f"global scale {tau_0:.3g} sigma" in repr(model.priors)
    assert "x0, x1, x2, x3, x4, x5: together" in repr(model.priors)
    assert model.priors["Intercept"].name == "Normal"
    model.priors["beta"] = blm.r2d2(0.3)
    assert "the share of variance they explain has mean 0.3" in repr(model.priors)


@pytest.mark.parametrize(
    ("priors", "options", "words"),
    [
        ({"Intercept": blm.horseshoe(expected=2)}, {}, "several coefficients together"),
        ({"sigma": blm.r2d2()}, {}, "several coefficients together"),
        ({"x1": blm.r2d2()}, {}, "of one alone"),
        ({"x1": blm.r2d2(), "x2": blm.horseshoe(expected=1)}, {}, "different shrinkage priors"),
        ({"beta": blm.horseshoe(expected=6)}, {}, "expected must be smaller"),
        ({"beta": blm.r2d2()}, {"sigma": "~ h"}, "several standard deviations"),
        ({"beta": blm.r2d2()}, {"family": "poisson"}, "in units of sigma"),
    ],
)
def test_what_a_shrinkage_prior_cannot_be_of_is_refused(priors, options, words):
    data = _data()
    if "family" in options:
        data = data.assign(y=np.arange(len(data)) % 4)
    data = data.assign(h=np.where(np.arange(len(data)) % 2, "a", "b"))

    def fit():
        model = quietly(FORMULA, data, priors=priors, **options)
        model.fit(draws=10, tune=10, progressbar=False)

    with pytest.raises(PriorError, match=words):
        fit()


def test_parameters_of_shrinkage_priors_are_checked():
    for make, words in (
        (lambda: blm.horseshoe(), "expected or scale"),
        (lambda: blm.horseshoe(2, scale=1), "not both"),
        (lambda: blm.horseshoe(-1), "positive"),
        (lambda: blm.horseshoe(2, df=0), "positive"),
        (lambda: blm.r2d2(1.0), "between 0 and 1"),
        (lambda: blm.r2d2(precision=-1), "positive"),
    ):
        with pytest.raises(PriorError, match=words):
            make()


@both
def test_a_fit_has_draws_of_the_scales_and_comes_back_from_a_file(key, tmp_path):
    fit = _model(key).fit(draws=250, chains=2, random_seed=4, progressbar=False)
    assert fit.info.parameterization == "marginal"
    posterior = fit.posterior
    if key == "horseshoe":
        assert posterior["hs_local"].dims == ("chain", "draw", "shrunk")
        assert posterior["shrunk"].to_numpy().tolist() == ["x0", "x1", "x2", "x3"]
        assert float(posterior["hs_global"].min()) > 0
    else:
        np.testing.assert_allclose(posterior["r2d2_phi"].sum("shrunk"), 1.0, rtol=1e-12)
    fit.save(tmp_path / "fit.nc")
    back = blm.load(tmp_path / "fit.nc")
    assert back.priors["x1"] == PRIORS[key]
    for name in posterior.data_vars:
        np.testing.assert_array_equal(back.posterior[name], posterior[name])
    found = blm.log_marginal_likelihood(back)
    assert np.isfinite(found.value)
    assert found.error < 0.5
    with pytest.raises(PriorError, match="of single parameters"):
        blm.power_scaling(back)


def test_a_student_prior_of_many_degrees_of_freedom_is_a_normal_one():
    """In posterior, evidence and leave-one-out: pinned and integrated coefficients agree."""
    found = []
    for prior in (
        blm.Prior("Normal", mu=0, sigma=0.7),
        blm.Prior("StudentT", nu=1e7, mu=0, sigma=0.7),
    ):
        model = quietly("y ~ x0 + x2 + (1 | g)", _data(), priors={"x0": prior})
        fit = model.fit(method="importance", draws=1000, random_seed=3, progressbar=False)
        loo = fit.loo(progressbar=False)
        summary = fit.posterior["beta"].to_numpy().reshape(-1, 3)
        found.append((fit.info.log_marginal_likelihood, float(loo.elpd), summary))
    (evidence, elpd, beta), (evidence_t, elpd_t, beta_t) = found
    # standard errors of some 0.01 in logs; of 4000 draws with 2000 effective, five standard
    # errors of a difference of means are 0.16 sds, of a ratio of sds 0.11
    assert evidence_t == pytest.approx(evidence, abs=0.1)
    assert elpd_t == pytest.approx(elpd, abs=0.15)
    gap = np.abs(beta_t.mean(axis=0) - beta.mean(axis=0))
    np.testing.assert_array_less(gap, 0.16 * beta.std(axis=0))
    np.testing.assert_allclose(beta_t.std(axis=0), beta.std(axis=0), rtol=0.12)


def _agrees(one, two, names):
    """Means and sds by number, in units of their Monte Carlo errors at 400 effective draws."""
    for name in names:
        a, b = (fit.posterior[name].stack(s=("chain", "draw")).to_numpy() for fit in (one, two))
        sd = b.std(axis=-1)
        # 400 effective draws or more on either side: 5 standard errors of a difference are 0.36 sds
        np.testing.assert_array_less(np.abs(a.mean(axis=-1) - b.mean(axis=-1)), 0.36 * sd)
        np.testing.assert_allclose(np.log(a.std(axis=-1)), np.log(sd), atol=0.35)


@pytest.mark.slow
@pytest.mark.parametrize(
    "priors",
    [{"beta": blm.horseshoe(expected=2)}, {"x0": blm.Prior("StudentT", nu=3, mu=0, sigma=0.3)}],
    ids=["horseshoe", "student"],
)
def test_nuts_of_the_pymc_model_gives_the_same_posterior(priors):
    model = quietly(FORMULA, _data(), priors=priors)
    ours = model.fit(draws=2000, random_seed=1, progressbar=False)
    theirs = model.fit(
        parameterization="noncentered", draws=2000, tune=2000, random_seed=2, progressbar=False,
        target_accept=0.99,
    )  # fmt: skip
    _agrees(ours, theirs, ["beta", "sigma", "sd_g"])
