"""How models with residual structures are sampled: compiled, in signed coordinates, by sums."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.bayes import compiled, nuts
from bayeslmm.bayes.marginal import marginal_density
from bayeslmm.bayes.mode import find_mode
from bayeslmm.bayes.sampling import Sampling
from bayeslmm.bayes.signed import fold, reaches_zero, signed_density, signed_mode
from bayeslmm.gaussian.blocks import _effects, _kernel
from tests.bayes.test_marginal_nuts import assert_same_posterior
from tests.bayes.test_residual_posterior import MODELS, density, near
from tests.conftest import quietly

pytestmark = pytest.mark.usefixtures("one_blas_thread")

ARGUMENTS = {
    "draws": 30, "tune": 30, "chains": 2, "cores": 2, "random_seed": 5, "progressbar": False,
    "options": {},
}  # fmt: skip


@pytest.mark.parametrize("key", MODELS)
def test_sampling_as_c_function_and_as_callback_is_the_same(monkeypatch, key):
    found = density(key)
    mode = find_mode(found)
    assert compiled.supported()
    assert found.compiled is not None
    fast, stats = nuts.sample_density(found, mode, Sampling(**ARGUMENTS))
    monkeypatch.setattr(compiled, "supported", lambda: False)
    slow, _ = nuts.sample_density(found, mode, Sampling(**ARGUMENTS))
    np.testing.assert_allclose(fast, slow, rtol=1e-6, atol=1e-6)
    expected = [[found.value(x) for x in chain] for chain in fast]
    np.testing.assert_allclose(stats["lp"], expected, rtol=1e-9)


WITH_EFFECTS = [key for key, (formula, *_) in MODELS.items() if "|" in formula]


def _signed(key):
    found = density(key)
    m = found.correlations.n_effects
    unit = np.exp(found.starting_points((0.5,))[0][:m])
    signed = signed_density(found, np.ones(m, dtype=bool), unit)
    return found, signed, m


@pytest.mark.parametrize("key", WITH_EFFECTS)
def test_the_signed_density_is_that_of_the_log_coordinates_and_their_jacobian(key):
    found, signed, m = _signed(key)
    rng = np.random.default_rng(7)
    W = np.array([near(signed, seed) for seed in range(8)])
    W[:, :m] *= rng.choice([-1.0, 1.0], size=(8, m))
    W[0, :m] = -np.abs(W[0, :m])
    X, log_jacobian = fold(signed, W)
    np.testing.assert_allclose(signed.values(W), found.values(X) - log_jacobian, rtol=1e-10)
    steps = 1e-6 * np.eye(found.n_dim)
    derivative = (fold(signed, W[0] + steps)[0] - fold(signed, W[0] - steps)[0]) / 2e-6
    # 2^m points go to one
    expected = m * np.log(2.0) - np.linalg.slogdet(derivative)[1]
    assert log_jacobian[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("key", WITH_EFFECTS)
def test_the_signed_gradient_is_exact_below_and_at_zero(key):
    _, signed, m = _signed(key)
    below, at_zero = near(signed, 1), near(signed, 2)
    below[:m] = -np.abs(below[:m])
    at_zero[:m] = 0.0
    for w in (below, at_zero):
        steps = 1e-3 * np.eye(signed.n_dim)
        close, far = (
            np.array([signed.value(w + k * s) - signed.value(w - k * s) for s in steps])
            for k in (1, 2)
        )
        expected = (8 * close - far) / 12e-3
        gradient = signed(w)[1]
        # truncation h^4 times a fifth derivative, rounding 1e-12 / h
        size = max(abs(gradient).max(), 1.0)
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6 * size)
    # symmetric, so that it is flat across zero
    np.testing.assert_allclose(signed(at_zero)[1][:m], 0.0, atol=1e-9)


@cache
def _serial() -> blm.LMM:
    """No variance between groups beyond a strong serial correlation."""
    rng = np.random.default_rng(1)
    J, T = 30, 8
    e = rng.normal(size=(J, T))
    for t in range(1, T):
        e[:, t] = 0.6 * e[:, t - 1] + 0.8 * e[:, t]
    data = pd.DataFrame({"g": np.repeat(np.arange(J), T), "t": np.tile(np.arange(T), J)})
    data["x"] = rng.normal(size=J * T)
    data["y"] = 1 + 0.5 * data["x"] + e.ravel()
    return quietly("y ~ x + (1 | g)", data, residual="ar1(t | g)")


def test_signed_coordinates_and_logs_give_the_same_posterior(monkeypatch):
    lmm = _serial()
    found = marginal_density(lmm.design, lmm.priors, lmm.problem)
    mode = find_mode(found)
    assert reaches_zero(found, mode).all()
    assert signed_mode(found, mode)[0] is not found
    signed = lmm.fit(draws=2000, random_seed=1, progressbar=False)
    monkeypatch.setattr(nuts, "signed_mode", lambda density, mode: (density, mode))
    logs = lmm.fit(draws=2000, random_seed=2, progressbar=False)
    assert_same_posterior(signed, logs)


def _by_rows(problem):
    """The same data without sums of products."""
    layout = problem.layout
    layout = layout._replace(gram_ptr=np.zeros_like(layout.gram_ptr))
    return layout, _kernel.Data(problem.W, np.empty(0))


@cache
def _trial() -> blm.LMM:
    """60 patients at four visits with drop-out: several patterns, all with many blocks."""
    rng = np.random.default_rng(3)
    g, t = np.repeat(np.arange(60), 4), np.tile(np.arange(4), 60)
    data = pd.DataFrame({"g": g, "t": t, "x": rng.normal(size=240), "base": rng.normal(size=60)[g]})
    data["y"] = 50 + data["x"] + rng.normal(size=60)[g] + (1 + 0.3 * t) * rng.normal(size=240)
    data = data[t < np.repeat(rng.choice([2, 3, 4], 60, p=[0.2, 0.2, 0.6]), 4)]
    return quietly("y ~ x + base * C(t) + (1 | g)", data, residual="unstructured(t | g)")


@pytest.mark.parametrize("ml", [False, True])
def test_sums_of_products_give_what_the_rows_give(ml):
    lmm = _trial()
    problem = lmm.problem
    assert np.all(np.diff(problem.layout.gram_ptr) > 0)
    found = marginal_density(lmm.design, lmm.priors, problem)
    prior = problem.prior(found.fixed)
    layout, data = _by_rows(problem)
    for seed in range(3):
        _, F, eta, c = (v[0] for v in found.constrained(near(found, seed)))
        for gradient in (False, True):
            arguments = (problem.n, F, eta, c, prior, ml, gradient)
            sums = _kernel.evaluate(problem.layout, problem.data, *arguments)
            rows = _kernel.evaluate(layout, data, *arguments)
            assert sums[0] == pytest.approx(rows[0], rel=1e-12)
            for one, two in zip(sums[1:], rows[1:], strict=True):
                np.testing.assert_allclose(
                    one, two, rtol=1e-9, atol=1e-10 * max(1, abs(two).max(initial=0))
                )


def test_draws_are_the_same_by_sums_and_by_rows():
    lmm = _trial()
    problem = lmm.problem
    found = marginal_density(lmm.design, lmm.priors, problem)
    X = np.array([near(found, seed) for seed in range(3)])
    _, F, eta, c = found.constrained(X)
    prior = problem.prior(found.fixed)
    normals = np.random.default_rng(1).normal(size=(3, problem.n_normals))
    rest = (prior, problem.blocks.code, problem.blocks.effect_ptr, normals)
    sums = _effects.draws(problem.layout, problem.data, problem.p + 1, F, eta, c, *rest)
    rows = _effects.draws(*_by_rows(problem), problem.p + 1, F, eta, c, *rest)
    for one, two in zip(sums, rows, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-9)


def test_single_blocks_are_computed_by_their_rows():
    # random slopes: every block has a design of its own, and 24 columns each
    rng = np.random.default_rng(2)
    data = pd.DataFrame({"g": np.repeat(np.arange(20), 30), "t": np.tile(np.arange(30), 20)})
    for name in ("x", "y"):
        data[name] = rng.normal(size=600)
    lmm = quietly("y ~ poly(x, 4) + C(t) + (x | g)", data, residual="ar1(t | g)")
    assert lmm.problem.layout.gram_ptr[-1] == 0
    assert len(lmm.problem.data.gram) == 0
