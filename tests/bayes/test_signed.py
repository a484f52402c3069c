"""Signed coordinates of standard deviations near zero: the same posterior, explored faster."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.bayes import compiled, nuts
from bayeslmm.bayes.diagnostics import convergence
from bayeslmm.bayes.marginal import marginal_density
from bayeslmm.bayes.mode import find_mode
from bayeslmm.bayes.sampling import Sampling
from bayeslmm.bayes.signed import fold, reaches_zero, signed_density, signed_mode
from bayeslmm.gaussian import single_threaded_blas
from bayeslmm.parts.scales import even_priors, scales, signed_scales, unconstrain
from tests.bayes.test_marginal import FAMILIES, MODELS, _density, _model
from tests.bayes.test_marginal_nuts import assert_same_posterior
from tests.conftest import dataset, quietly

#: MODELS with even priors on every standard deviation.
EVEN = [key for key in MODELS if key not in ("mixed priors", "pooled")]


def _all_signed(key, route="auto"):
    density = _density(_model(key), route)
    m = density.correlations.n_effects
    unit = np.exp(density.starting_points((0.5,))[0][:m])
    return density, signed_density(density, np.ones(m, dtype=bool), unit)


def _points(signed, n=6):
    """Of both signs, around the unit."""
    rng = np.random.default_rng(7)
    m = signed.correlations.n_effects
    start = signed.starting_points((0.5,))[0]
    W = start + 0.5 * rng.normal(size=(n, len(start)))
    W[:, m] = start[m] + 0.1 * rng.normal(size=n)
    W[:, :m] *= rng.choice([-1.0, 1.0], size=(n, m))
    W[0, :m] = -np.abs(W[0, :m])
    return W


@pytest.mark.parametrize("key", EVEN)
@pytest.mark.parametrize("route", ["auto", "dense"])
def test_the_density_is_that_of_the_log_coordinates_and_their_jacobian(key, route):
    density, signed = _all_signed(key, route)
    W = _points(signed)
    X, log_jacobian = fold(signed, W)
    assert (W[:, : signed.correlations.n_effects] < 0).any()
    expected = density.values(X) - log_jacobian
    np.testing.assert_allclose(signed.values(W), expected, rtol=1e-10)
    # and what the coordinates stand for is the same
    sd, F, eta, _ = density.constrained(X)
    signed_sd, signed_F, signed_eta, _ = signed.constrained(W)
    np.testing.assert_allclose(np.abs(signed_sd), sd, rtol=1e-12)
    np.testing.assert_allclose(signed_eta, eta, rtol=1e-12)
    for one, two in zip(density.system.split(F), signed.system.split(signed_F), strict=True):
        covariance = one @ one.transpose(0, 2, 1)
        flipped = two @ two.transpose(0, 2, 1)
        np.testing.assert_allclose(flipped, covariance, rtol=1e-9, atol=1e-12 * covariance.max())


def test_the_density_of_relatives_is_that_of_the_log_coordinates_too():
    from tests.bayes.test_relationship import _model as related

    lmm = related("pedigree, slopes")
    density = marginal_density(lmm.design, lmm.priors, lmm.problem)
    m = density.correlations.n_effects
    unit = np.exp(density.starting_points((0.5,))[0][:m])
    signed = signed_density(density, np.ones(m, dtype=bool), unit)
    W = _points(signed)
    X, log_jacobian = fold(signed, W)
    np.testing.assert_allclose(signed.values(W), density.values(X) - log_jacobian, rtol=1e-10)


def test_the_jacobian_is_that_of_the_map():
    _, signed = _all_signed("factor slopes")
    m, h = signed.correlations.n_effects, 1e-6
    for w in _points(signed):
        steps = h * np.eye(len(w))
        derivative = (fold(signed, w + steps)[0] - fold(signed, w - steps)[0]) / (2 * h)
        # 2^m points go to one
        expected = m * np.log(2.0) - np.linalg.slogdet(derivative)[1]
        assert fold(signed, w)[1] == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("key", EVEN)
@pytest.mark.parametrize("route", ["auto", "dense"])
def test_the_gradient_is_exact_below_and_at_zero(key, route):
    _, signed = _all_signed(key, route)
    m = signed.correlations.n_effects
    below, one_zero, all_zero = _points(signed)[:3]
    one_zero[0] = 0.0
    all_zero[:m] = 0.0
    h = 1e-3
    for w in (below, one_zero, all_zero):
        steps = h * np.eye(len(w))
        ends = [[signed.value(w + k * s) - signed.value(w - k * s) for s in steps] for k in (1, 2)]
        expected = (8 * np.array(ends[0]) - ends[1]) / (12 * h)
        gradient = signed(w)[1]
        size = max(abs(gradient).max(), 1.0)
        # truncation h^4 times a fifth derivative, rounding 1e-12 / h
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6 * size)
    # symmetric, so that it is flat across zero
    np.testing.assert_allclose(signed(all_zero)[1][:m], 0.0, atol=1e-9)


def test_a_draw_of_exactly_zero_stays_finite():
    density, signed = _all_signed("correlated")
    w = _points(signed)[1]
    w[:2] = 0.0
    x, _ = fold(signed, w)
    sd, F, *_ = density.constrained(x)
    assert np.all(np.isfinite(x))
    assert np.all(np.isfinite(F))
    assert np.all(sd < 1e-250)


def test_only_even_priors_get_them():
    found = {prior.name for prior in FAMILIES if even_priors(scales([prior]))[0]}
    assert found == {"HalfFlat", "HalfNormal", "HalfStudentT", "HalfCauchy"}
    half = blm.Prior("TruncatedNormal", mu=0, sigma=2, lower=0)
    assert even_priors(scales([half]))[0]
    with pytest.raises(ValueError, match="even"):
        signed_scales(scales([blm.Prior("Exponential", lam=1)]), np.ones(1))
    sc = signed_scales(scales([half]), np.array([2.0]))
    assert unconstrain(sc, [2.0])[0] == pytest.approx(np.arcsinh(1.0))


def _near_zero(priors=None):
    return quietly("Yield ~ 1 + (1 | Batch)", dataset("dyestuff2"), priors=priors)


def test_they_are_used_where_zero_is_within_reach_and_only_there():
    for key in ("correlated", "crossed", "factor slopes"):
        density = _density(_model(key))
        mode = find_mode(density)
        assert not reaches_zero(density, mode).any()
        assert signed_mode(density, mode) == (density, mode)
    assert reaches_zero(_density(_model("nested")), find_mode(_density(_model("nested")))).any()
    density = _density(_near_zero())
    mode = find_mode(density)
    assert reaches_zero(density, mode).all()
    signed, top = signed_mode(density, mode)
    assert np.linalg.norm(top.scale.T @ signed(top.x)[1]) < 0.05
    # a prior with a corner at zero keeps the log
    density = _density(_near_zero({"sd": blm.Prior("Exponential", lam=1)}))
    assert not reaches_zero(density, find_mode(density)).any()


ARGUMENTS = {
    "draws": 1000, "tune": 150, "chains": 4, "cores": 2, "random_seed": 5, "progressbar": False,
    "options": {},
}  # fmt: skip


def test_lp_is_the_log_density_of_the_returned_draws():
    density = _density(_near_zero())
    x, stats = nuts.sample_density(
        density, find_mode(density), Sampling(**{**ARGUMENTS, "draws": 50})
    )
    expected = [[density.value(point) for point in chain] for chain in x]
    np.testing.assert_allclose(stats["lp"], expected, rtol=1e-9)


def test_the_callback_samples_the_same_chain(monkeypatch):
    density = _density(_near_zero())
    mode = find_mode(density)
    arguments = {**ARGUMENTS, "draws": 30, "tune": 30, "chains": 2}
    fast, _ = nuts.sample_density(density, mode, Sampling(**arguments))
    monkeypatch.setattr(compiled, "supported", lambda: False)
    slow, _ = nuts.sample_density(density, mode, Sampling(**arguments))
    np.testing.assert_allclose(fast, slow, rtol=1e-6, atol=1e-6)


@cache
def _weak_slopes():
    """A correlated slope of almost no variance."""
    rng = np.random.default_rng(3)
    g, x = np.repeat(np.arange(30), 8), rng.normal(size=240)
    b = rng.normal(size=(30, 2)) * [0.5, 0.1]
    y = 1 + b[g, 0] + (0.3 + b[g, 1]) * x + rng.normal(size=240)
    return quietly("y ~ x + (x | g)", pd.DataFrame({"y": y, "x": x, "g": g}))


def _log_coordinates(monkeypatch):
    monkeypatch.setattr(nuts, "signed_mode", lambda density, mode: (density, mode))


@pytest.mark.parametrize("which", ["one intercept", "correlated slopes"])
def test_log_coordinates_and_importance_sampling_give_the_same_posterior(monkeypatch, which):
    lmm = _near_zero() if which == "one intercept" else _weak_slopes()
    density = _density(lmm)
    assert reaches_zero(density, find_mode(density)).any()
    common = {"draws": 2000, "progressbar": False}
    signed = lmm.fit(random_seed=1, **common)
    importance = lmm.fit(random_seed=2, method="importance", **common)
    _log_coordinates(monkeypatch)
    logs = lmm.fit(random_seed=3, **common)
    for other in (importance, logs):
        assert_same_posterior(signed, other)
        for name in ("sd_Batch",) if which == "one intercept" else ("sd_g", "corr_g"):
            _assert_same_quantiles(signed, other, name)


def _assert_same_quantiles(one, two, name):
    a, b = (fit.posterior[name].to_numpy() for fit in (one, two))
    a, b = (v.reshape(*v.shape[:2], -1) for v in (a, b))
    for j in range(a.shape[2]):
        if np.ptp(a[..., j]) == 0:
            continue
        for p in (0.05, 0.25, 0.5, 0.75, 0.95):
            cut = np.quantile(np.concatenate((a[..., j].ravel(), b[..., j].ravel())), p)
            below = [(v[..., j] < cut).astype(float) for v in (a, b)]
            # as in standard_errors: half the estimated effective size; 45 comparisons in all,
            # six standard errors are exceeded by a right program with probability 1e-7
            ess = [min(convergence(v[..., None])[0][0] / 2, v.size) for v in below]
            error = np.sqrt(p * (1 - p) * (1 / ess[0] + 1 / ess[1]))
            assert abs(below[0].mean() - below[1].mean()) < 6 * error, (name, j, p)


@pytest.mark.parametrize("data", ["slopes of MathAchieve", "casks in batches"])
def test_they_explore_a_left_tail_faster(monkeypatch, data):
    if data == "casks in batches":
        lmm = _model("nested")
    else:
        lmm = quietly("MathAch ~ SES + (SES | School)", blm.load_dataset("mathachieve"))
    density = _density(lmm)
    mode = find_mode(density)
    rates = []
    for _ in range(2):
        with single_threaded_blas():
            x, stats = nuts.sample_density(density, mode, Sampling(**ARGUMENTS))
        sd = density.constrained(x.reshape(-1, x.shape[-1]))[0].reshape(*x.shape[:2], -1)
        bulk, tail, r_hat = convergence(sd)
        assert r_hat.max() < 1.02
        steps = float(stats["n_steps"].sum())
        rates.append(np.array([bulk.min(), tail.min()]) / steps)
        _log_coordinates(monkeypatch)
    # bulk and tail effective draws per gradient, over ten seeds: MathAchieve 2.0-3.1 and 2.8-6.5
    # times those in log coordinates, pastes 1.4-3.1 and 1.9-4.4
    assert np.all(rates[0] > [1.2, 1.4] * rates[1])
