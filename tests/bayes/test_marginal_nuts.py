"""NUTS on the marginal density: repeatable, converged, and the same posterior by every route."""

from __future__ import annotations

import subprocess
import sys
import warnings
from functools import cache

import numpy as np
import pytest
import xarray as xr

import bayeslmm as blm
from bayeslmm.bayes import compiled, nuts
from bayeslmm.bayes.marginal import marginal_density
from bayeslmm.bayes.mode import find_mode
from bayeslmm.bayes.sampling import Sampling
from bayeslmm.parts.correlations import correlations_from_factors, log_lkj
from bayeslmm.parts.scales import scale_terms, unconstrain
from tests.bayes.test_hierarchical import (
    _evaluate,
    _log_density,
    _own_factors,
    _random_point,
    _value,
)
from tests.bayes.test_marginal import MODELS, _density, _model
from tests.conftest import dataset, quietly, sleepstudy_fit

QUICK = {"draws": 200, "tune": 100, "chains": 2, "progressbar": False, "random_seed": 11}


@cache
def marginal_fit():
    model = quietly("Reaction ~ Days + (Days | Subject)", dataset("sleepstudy"))
    return model.fit(draws=1000, chains=4, random_seed=3, progressbar=False)


def _quick(key="correlated", **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", blm.SamplingWarning)
        return _model(key).fit(**{**QUICK, **options})


def standard_errors(one, two):
    """Differences in mean and in sd of every scalar, in Monte Carlo standard errors.

    Effective sample sizes are estimates and those of small samples may be too large: each is
    taken at half its value, and at no more than the number of draws.
    """
    from bayeslmm.bayes.diagnostics import convergence

    out = {}
    for name in one.posterior.data_vars:
        a, b = (p.posterior[name].to_numpy() for p in (one, two))
        a, b = (v.reshape(*v.shape[:2], -1) for v in (a, b))
        varies = np.ptp(a, axis=(0, 1)) > 0
        a, b = a[..., varies], b[..., varies]
        moments = []
        for v in (a, b):
            center = v.mean(axis=(0, 1))
            square = (v - center) ** 2
            size = v.shape[0] * v.shape[1]
            ess = [np.minimum(convergence(w)[0] / 2, size) for w in (v, square)]
            var = square.mean(axis=(0, 1))
            # standard error of the sd by the delta method: se(variance) / (2 sd)
            se_sd = square.std(axis=(0, 1)) / np.sqrt(ess[1]) / (2 * np.sqrt(var))
            moments.append((center, np.sqrt(var / ess[0]), np.sqrt(var), se_sd))
        (m1, s1, d1, e1), (m2, s2, d2, e2) = moments
        out[name] = np.abs(m1 - m2) / np.hypot(s1, s2), np.abs(d1 - d2) / np.hypot(e1, e2)
    return out


def assert_same_posterior(one, two):
    for name, (mean, sd) in standard_errors(one, two).items():
        # about 100 comparisons per pair: six standard errors of a correct program are
        # exceeded by one of them with probability 2e-7
        assert mean.max() < 6, f"mean of {name}"
        assert sd.max() < 6, f"sd of {name}"


def test_it_converges_and_says_how_it_was_made():
    fit = marginal_fit()
    table = fit.summary()
    assert (table["r_hat"] < 1.01).all()
    assert fit.info.parameterization == "marginal"
    assert fit.info.tune == 150
    assert "integrated out exactly" in repr(fit)
    assert fit.info.problems == ()
    stats = fit.idata["sample_stats"]
    for name in ("diverging", "tree_depth", "n_steps", "energy", "lp"):
        assert stats[name].dims == ("chain", "draw")


@pytest.mark.slow
def test_marginal_and_noncentered_nuts_draw_from_the_same_posterior():
    assert_same_posterior(marginal_fit(), sleepstudy_fit("noncentered"))


def test_both_parameterizations_have_the_same_tree():
    one, two = marginal_fit().idata, sleepstudy_fit("noncentered").idata
    assert set(one.children) == set(two.children)
    a, b = one["posterior"].to_dataset(), two["posterior"].to_dataset()
    assert set(a.data_vars) == set(b.data_vars)
    for name in a.data_vars:
        assert a[name].dims == b[name].dims
        assert a[name].shape == b[name].shape
        assert a[name].dtype == b[name].dtype
    for name in a.coords:
        np.testing.assert_array_equal(a[name], b[name])


def test_the_same_seed_gives_the_same_bits_on_one_core_and_on_two():
    one, two, other = _quick(cores=1), _quick(cores=2), _quick(random_seed=12)
    xr.testing.assert_identical(one.posterior.drop_attrs(), two.posterior.drop_attrs())
    assert not np.array_equal(one.posterior["b_Subject"], other.posterior["b_Subject"])


def test_chains_differ_from_each_other():
    sigma = _quick().posterior["sigma"].to_numpy()
    assert not np.isin(sigma[0], sigma[1]).any()


@pytest.mark.parametrize("key", MODELS)
def test_every_kind_of_model_can_be_sampled(key):
    fit = _quick(key)
    assert np.isfinite(fit.summary()["mean"]).all()
    assert fit.info.parameterization == "marginal"


@pytest.mark.parametrize("way", ["nutpie's own", "without nutpie's Python"])
def test_sampling_as_c_function_and_as_callback_is_the_same(monkeypatch, way):
    density = _density(_model("correlated"))
    mode = find_mode(density)
    arguments = {
        "draws": 30, "tune": 30, "chains": 2, "cores": 2, "random_seed": 5, "progressbar": False,
        "options": {},
    }  # fmt: skip
    assert compiled.supported()
    assert density.compiled is not None
    fast, _ = nuts.sample_density(density, mode, Sampling(**arguments))
    if way == "nutpie's own":
        monkeypatch.setattr(compiled, "supported", lambda: False)
    else:
        monkeypatch.setattr(type(density), "compiled", None)
    slow, _ = nuts.sample_density(density, mode, Sampling(**arguments))
    np.testing.assert_allclose(fast, slow, rtol=1e-6, atol=1e-6)


def test_the_dense_route_samples_the_same_chain():
    lmm = _model("crossed")
    arguments = {
        "draws": 30, "tune": 30, "chains": 1, "cores": 1, "random_seed": 5, "progressbar": False,
        "options": {},
    }  # fmt: skip
    draws = []
    mode = find_mode(_density(lmm))
    for route in ("auto", "dense"):
        draws.append(nuts.sample_density(_density(lmm, route), mode, Sampling(**arguments))[0])
    np.testing.assert_allclose(draws[0], draws[1], rtol=1e-5, atol=1e-5)


def test_an_error_inside_the_density_is_ours_and_not_a_panic(monkeypatch, capfd):
    density = _density(_model("correlated"))
    mode = find_mode(density)
    monkeypatch.setattr(compiled, "supported", lambda: False)

    def broken(density, mode):
        def evaluate(z):
            if abs(z).max() > 2.0:
                raise ZeroDivisionError("on purpose")
            return -0.5 * float(z @ z), -z

        return evaluate

    monkeypatch.setattr(nuts, "log_density", broken)
    with pytest.raises(blm.SamplingError, match="on purpose"):
        nuts.sample_density(
            density, mode, Sampling(draws=50, tune=50, chains=1, cores=1, random_seed=1)
        )
    assert "panicked" not in capfd.readouterr().err


def test_an_interrupted_run_is_refused(monkeypatch):
    density = _density(_model("correlated"))
    mode = find_mode(density)
    complete = nuts._sample

    def interrupted(*arguments, **options):
        z, stats = complete(*arguments, **options)
        z[1, 20:] = np.nan
        return z, stats

    monkeypatch.setattr(nuts, "_sample", interrupted)
    with pytest.raises(blm.SamplingError, match="stopped before"):
        nuts.sample_density(
            density, mode, Sampling(draws=50, tune=50, chains=2, cores=1, random_seed=1)
        )  # fmt: skip


def test_the_mode_is_a_maximum_and_the_scale_its_curvature():
    for key in ("correlated", "factor slopes", "nested"):
        density = _density(_model(key))
        mode = find_mode(density)
        gradient = density(mode.x)[1]
        # the distance to the top in posterior standard deviations
        assert np.linalg.norm(mode.scale.T @ gradient) < 0.05
        for z in np.random.default_rng(1).normal(size=(20, density.n_dim)) * 0.5:
            assert density.value(mode.x + mode.scale @ z) < mode.log_density + 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"no_such_option": 1}, "no option 'no_such_option'"),
        ({"target_accept": 2.0}, "between 0 and 1"),
        ({"max_treedepth": 0}, "positive whole number"),
        ({"tune": 0}, "tune"),
    ],
)
def test_a_wrong_option_is_refused(options, message):
    with pytest.raises(blm.SamplingError, match=message):
        _quick(**options)


def test_the_users_acceptance_rate_wins_over_the_default():
    assert nuts.nuts_options({})["target_accept"] == 0.7
    assert nuts.nuts_options({"target_accept": 0.95})["target_accept"] == 0.95
    # the rate reached on average; the adaptation comes within a few hundredths of its aim
    for asked, low, high in ((None, 0.55, 0.85), (0.95, 0.9, 1.0)):
        chosen = {} if asked is None else {"target_accept": asked}
        stats = _quick(draws=500, **chosen).idata["sample_stats"]
        assert low < float(stats["acceptance_rate"].mean()) < high


def test_a_prior_that_no_density_knows_goes_to_the_hierarchical_model():
    from bayeslmm.bayes.choice import choose_parameterization

    lmm = _model("correlated")
    lmm.priors["Days"] = blm.Prior("Moyal", mu=0, sigma=10)
    chosen, reason = choose_parameterization(lmm.design, lmm.priors, "auto", "nuts", {})
    assert chosen == "noncentered"
    assert "Days is Moyal" in reason
    with pytest.raises(blm.SamplingError, match="Days is Moyal.*noncentered"):
        lmm.fit(parameterization="marginal", progressbar=False)
    with pytest.raises(blm.PriorError, match="Days is Moyal"):
        lmm.pymc_model("marginal")
    with pytest.raises(ValueError, match="importance"):
        lmm.fit(method="importance", parameterization="centered")
    plain = _model("correlated")
    chosen, reason = choose_parameterization(
        plain.design, plain.priors, "auto", "nuts", {"nuts_sampler": "pymc"}
    )
    assert (chosen, reason) == ("noncentered", "auto: nuts_sampler is an option of pm.sample")


@pytest.mark.parametrize("key", ["correlated", "factor slopes", "mixed priors", "pooled"])
def test_the_pymc_model_has_the_same_density_and_gradient(key):
    lmm = _model(key)
    density, model = _density(lmm), lmm.pymc_model("marginal")
    point = _random_point(model)
    free = [rv for rv in model.free_RVs if not rv.name.startswith("chol_")]
    own = list(_own_factors(lmm, model, point))
    sd = np.concatenate([*(part[0] for part in own), [float(_value(model, "sigma", point))]])
    flat = np.concatenate([np.zeros(0), *(part[1].ravel() for part in own)])
    u = correlations_from_factors(density.correlations, flat)[1]
    at = unconstrain(density.scales, sd)
    x = np.concatenate((at, u))
    log_prior = scale_terms(density.scales, at)[0]
    log_lik = (
        density.value(x) - log_prior - log_lkj(u, density.prior.exponent, density.prior.constant)[0]
    )
    potential = model.replace_rvs_by_values([model["log_marginal"]])[0]
    assert float(_evaluate(model, [potential], point)[0]) == pytest.approx(log_lik, rel=1e-10)
    # the pullback, along the coordinates both share: logs of scales
    values = [model.rvs_to_values[rv] for rv in free]
    gradient = _evaluate(model, [model.dlogp(vars=free)], point)[0]
    steps = 0
    for value in values:
        base = np.asarray(point[value.name], dtype=float)
        for i in range(base.size):
            ends = []
            for sign in (1, -1):
                moved = base.copy().reshape(-1)
                moved[i] += sign * 1e-5
                shifted = {**point, value.name: moved.reshape(base.shape)}
                ends.append(float(_log_density(model, shifted)))
            expected = (ends[0] - ends[1]) / 2e-5
            assert gradient[steps] == pytest.approx(expected, rel=1e-5, abs=1e-5)
            steps += 1


@pytest.mark.slow
def test_the_pymc_model_under_numba_and_any_prior_on_a_scale():
    lmm = quietly(
        "Reaction ~ Days + (Days | Subject)",
        dataset("sleepstudy"),
        priors={"sigma": blm.Prior("Wald", mu=26, lam=300)},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", blm.SamplingWarning)
        one = lmm.fit(parameterization="marginal", random_seed=1, progressbar=False, chains=2)
        two = lmm.fit(random_seed=2, progressbar=False, chains=2)
    assert "through PyMC" in one.info.reason
    assert two.info.parameterization == "noncentered"
    assert "sigma is Wald" in two.info.reason
    assert_same_posterior(one, two)


AGREEMENT = ["correlated", "independent", "crossed", "nested", "factor slopes"]


@pytest.mark.slow
@pytest.mark.parametrize("key", [*AGREEMENT, "near-singular"])
def test_marginal_importance_and_noncentered_agree_in_every_parameter(key):
    if key == "near-singular":
        lmm = quietly("Yield ~ 1 + (1 | Batch)", dataset("dyestuff2"))
    else:
        lmm = _model(key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", blm.SamplingWarning)
        common = {"draws": 1500, "progressbar": False}
        marginal = lmm.fit(random_seed=1, **common)
        importance = lmm.fit(random_seed=2, method="importance", **common)
        joint = lmm.fit(random_seed=3, parameterization="noncentered", target_accept=0.95, **common)
    assert_same_posterior(marginal, importance)
    assert_same_posterior(marginal, joint)


def test_a_marginal_fit_never_imports_pymc_or_plots():
    script = (
        "import bayeslmm as blm, sys;"
        "m = blm.LMM('Yield ~ 1 + (1 | Batch)', blm.load_dataset('dyestuff'));"
        "m.fit(draws=10, tune=10, chains=1, random_seed=1, progressbar=False);"
        "assert not {'pymc', 'pytensor', 'arviz', 'matplotlib'} & set(sys.modules);"
        "import nutpie; assert nutpie.sample"
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == result.stderr == ""


def test_evaluation_does_not_get_slower_with_more_rows():
    import time

    densities = []
    for rows in (20, 400):
        rng = np.random.default_rng(1)
        frame = {"x": rng.normal(size=200 * rows), "g": np.repeat(np.arange(200), rows)}
        frame["y"] = frame["x"] + rng.normal(size=200)[frame["g"]] + rng.normal(size=200 * rows)
        lmm = blm.LMM("y ~ x + (x | g)", frame)
        density = marginal_density(lmm.design, lmm.priors, lmm.problem)
        densities.append((density, density.starting_points((0.5,))[0]))
    best = [np.inf, np.inf]
    for _ in range(500):  # one after the other: what else the machine does slows both
        for i, (density, x) in enumerate(densities):
            start = time.perf_counter()
            density(x)
            best[i] = min(best[i], time.perf_counter() - start)
    # 20 times the rows; the best of 500 is stable to a few percent on a busy machine
    assert best[1] < 1.5 * best[0]


def test_a_single_chain_over_many_levels_does_not_depend_on_threads(monkeypatch):
    """From the size on at which levels are shared out; here every model counts as large."""
    from numba import config

    from bayeslmm.gaussian import threads

    monkeypatch.setattr(threads, "MANY_EFFECTS", 10)
    drawn = []
    for n in (1, 3):
        monkeypatch.setattr(config, "NUMBA_NUM_THREADS", n)
        fit = blm.LMM("Reaction ~ Days + (Days | Subject)", dataset("sleepstudy")).fit(
            draws=500, chains=1, random_seed=4, progressbar=False
        )
        drawn.append(fit.posterior["sigma"].to_numpy())
    np.testing.assert_array_equal(drawn[0], drawn[1])
    # 25.8 with a posterior sd of 1.6: at 50 effective draws this is more than five standard errors
    assert abs(drawn[0].mean() - 25.8) < 1.2
