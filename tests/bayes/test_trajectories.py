"""Trajectories of a surrogate: exact whatever the surrogate, repeatable, left where it fails."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import bayeslmm as blm
from bayeslmm.bayes import trajectories
from bayeslmm.bayes.marginal import marginal_density
from bayeslmm.bayes.mode import find_mode
from bayeslmm.bayes.sampling import Sampling
from bayeslmm.bayes.signed import Mirror, image, mirror, signed_mode
from bayeslmm.bayes.surrogate import Surrogate, fit_surrogate
from bayeslmm.bayes.trajectories import sample_trajectories
from tests.bayes.test_marginal_nuts import assert_same_posterior
from tests.conftest import quietly

QUICK = {"draws": 60, "chains": 2, "random_seed": 5, "progressbar": False}


@cache
def crossed(formula: str = "y ~ x + (x | s) + (x | i)"):
    """55 subjects by 52 items, half of the cells; the items' slopes hardly differ."""
    rng = np.random.default_rng(8)
    cells = np.argwhere(rng.random((55, 52)) < 0.5)
    s, i = cells.T
    x = rng.normal(size=len(cells))
    subject = rng.normal(size=(55, 2)) @ np.array([[1.0, 0.3], [0.0, 0.5]])
    item = rng.normal(size=(52, 2)) * [0.6, 0.03]
    y = 1 + subject[s, 0] + item[i, 0] + (0.3 + subject[s, 1] + item[i, 1]) * x
    frame = pd.DataFrame({"y": y + rng.normal(size=len(x)), "x": x, "s": s, "i": i})
    return quietly(formula, frame)


def _fit(model, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", blm.SamplingWarning)
        return model.fit(**{**QUICK, **options})


@cache
def _coordinates(formula: str = "y ~ x + (x | s) + (x | i)"):
    model = crossed(formula)
    density = marginal_density(model.design, model.priors, model.problem)
    return signed_mode(density, find_mode(density))


class Known:
    """A density of two dimensions, normal with a bend, whose moments are known."""

    n_dim = 2

    class system:
        n_normals = 3

    def value(self, x):
        return float(-0.5 * x[0] ** 2 - 0.5 * (x[1] - 0.5 * x[0] ** 2) ** 2)

    def value_and_draw(self, x, normals):
        return self.value(x), normals[:1], normals[1:]


def _identity(d: int) -> Mirror:
    return Mirror(np.zeros(d), np.eye(d), np.eye(d), np.full((d, 2), -1))


def test_a_wrong_surrogate_costs_acceptance_and_not_correctness():
    from threading import Event

    wrong = Surrogate(
        _identity(2), np.array([[1.0, 0.5], [-0.7, 0.2]]), np.array([1.0, -1.5]),
        np.array([[0.4, -0.3], [0.2, 0.6]]), 1.5,
    )  # fmt: skip
    target = trajectories._Target(Known(), wrong, draw_rest=True)
    rng = np.random.default_rng(3)
    z, values, fixed, effects, stats = trajectories._chain(
        target, rng, 40_000, 100, Event(), lambda: None
    )
    rate = stats[:, 1].mean()
    assert 0.3 < rate < 0.95
    # x0 ~ N(0, 1), x1 given x0 ~ N(x0^2 / 2, 1): means 0 and 1/2, variances 1 and 3/2
    from bayeslmm.bayes.convergence import convergence

    squares = np.column_stack([z, z**2])
    expected = np.array([0.0, 0.5, 1.0, 1.75])
    ess = convergence(squares[None])[0]
    error = squares.std(axis=0) / np.sqrt(ess / 2)
    # four numbers: six standard errors are exceeded once in 10^8; without the acceptance step the
    # chain has the surrogate's moments, 20 errors away
    assert np.all(np.abs(squares.mean(axis=0) - expected) < 6 * error)
    assert ess.min() > 2000
    np.testing.assert_array_equal(values[:50], [Known().value(x) for x in z[:50]])
    # what is drawn along stays with its draw
    same = np.all(z[1:] == z[:-1], axis=1)
    np.testing.assert_array_equal(np.all(fixed[1:] == fixed[:-1], axis=1), same)
    np.testing.assert_array_equal(np.all(effects[1:] == effects[:-1], axis=1), same)


def test_the_surrogate_meets_the_density_and_its_gradient_is_that_of_its_value():
    sampled, center = _coordinates()
    assert (sampled.scales.unit > 0).any()  # the items' slopes reach zero
    coordinates = mirror(sampled, center)

    def evaluate(z):
        value, gradient = sampled(center.x + center.scale @ z)
        return value, center.scale.T @ gradient

    surrogate = fit_surrogate(evaluate, coordinates, random_seed=1, cores=2)
    assert surrogate.error < 0.5
    rng = np.random.default_rng(2)
    top, step, gaps = evaluate(np.zeros(sampled.n_dim))[0], 1e-5, []
    for z in rng.normal(size=(40, sampled.n_dim)) * 0.8:
        gaps.append(surrogate.value(z) - evaluate(z)[0] + top)
        numeric = [
            (surrogate.value(z + e) - surrogate.value(z - e)) / (2 * step)
            for e in step * np.eye(len(z))
        ]
        np.testing.assert_allclose(surrogate.gradient(z), numeric, rtol=1e-5, atol=1e-5)
    assert np.std(gaps) < 0.5


def test_mirror_images_have_the_same_density():
    sampled, center = _coordinates()
    coordinates = mirror(sampled, center)
    rng = np.random.default_rng(4)
    moved = 0
    for z in 2 * rng.normal(size=(60, sampled.n_dim)):
        at, signs = image(z, coordinates)
        moved += np.any(signs < 0)
        there = center.x + center.scale @ at
        assert np.all(there[: len(sampled.scales.unit) - 1][sampled.scales.unit[:-1] > 0] >= 0)
        value = sampled.value(center.x + center.scale @ z)
        assert sampled.value(there) == pytest.approx(value, rel=1e-9)
    assert moved > 5


@pytest.mark.slow
def test_trajectories_and_nuts_draw_from_the_same_posterior():
    model = crossed()
    one = _fit(model, draws=1500, chains=4)
    two = _fit(model, draws=800, chains=4, target_accept=0.8, random_seed=6)
    assert "surrogate" in repr(one)
    assert two.info.sampler == "NUTS"
    assert_same_posterior(one, two)


def test_the_same_seed_gives_the_same_bits_on_one_core_and_on_two():
    one, two = (_fit(crossed(), cores=cores) for cores in (1, 2))
    assert "surrogate" in one.info.sampler
    assert one.info.tune == trajectories.SURROGATE_TUNE
    xr.testing.assert_identical(one.posterior.drop_attrs(), two.posterior.drop_attrs())
    other = _fit(crossed(), random_seed=6)
    assert not np.isin(other.posterior["sigma"], one.posterior["sigma"]).any()
    stats = one.idata["sample_stats"]
    for name in ("lp", "energy", "acceptance_rate", "n_steps", "diverging"):
        assert stats[name].dims == ("chain", "draw")


def test_effects_drawn_along_are_those_given_the_covariances():
    model = crossed("y ~ x + (1 | s) + (1 | i)")
    post = _fit(model, draws=1500, chains=2)
    reml = model.reml()
    table, expected = post.ranef(), reml.ranef()
    gap = (table["mean"] - expected["estimate"]) / table["sd"]
    # priors and the uncertainty of the covariances move means by a few hundredths of an sd;
    # independent draws of 3,000 by 6 / sqrt(2,000)
    assert np.abs(gap).max() < 0.25


def test_where_the_surrogate_fails_nuts_samples(monkeypatch):
    monkeypatch.setattr(trajectories, "fit_surrogate", lambda *a, **k: None)
    fit = _fit(crossed("y ~ x + (1 | s) + (1 | i)"), tune=40)
    assert fit.info.sampler == "NUTS"
    assert "tree_depth" in fit.idata["sample_stats"]
    monkeypatch.undo()
    monkeypatch.setattr(trajectories, "_LEAST_ACCEPTANCE", 2.0)
    model = crossed("y ~ x + (1 | s) + (1 | i)")
    density = marginal_density(model.design, model.priors, model.problem)
    assert (
        sample_trajectories(
            density, find_mode(density), Sampling(draws=5, tune=5, chains=1, cores=1, random_seed=1)
        )
        is None
    )  # fmt: skip


def test_a_density_far_from_normal_gets_no_surrogate():
    def steps(z):
        return float(-np.floor(3 * np.abs(z)).sum()), np.zeros(3)

    assert fit_surrogate(steps, _identity(3), random_seed=1, cores=1) is None
    assert fit_surrogate(steps, _identity(30), random_seed=1, cores=1) is None

    def nowhere(z):
        return np.nan, np.full(3, np.nan)

    assert fit_surrogate(nowhere, _identity(3), random_seed=1, cores=1) is None


def test_a_density_that_is_nowhere_finite_is_an_error_of_ours():
    class Nowhere(Known):
        def value(self, x):
            return np.nan

    surrogate = Surrogate(_identity(2), np.zeros((1, 2)), np.zeros(1), np.zeros((1, 2)), 1.0)
    target = trajectories._Target(Nowhere(), surrogate, draw_rest=False)
    with pytest.raises(blm.SamplingError, match="not finite around its mode"):
        target.start(np.random.default_rng(1))


def test_summaries_of_effects_are_those_of_the_draws():
    model = crossed("y ~ x + (1 | s) + (1 | i)")
    draws, summary = (_fit(model, random_effects=kind) for kind in ("draws", "summary"))
    one, two = draws.ranef(), summary.ranef()
    np.testing.assert_allclose(one["mean"], two["mean"], atol=1e-5)
    np.testing.assert_allclose(one["sd"], two["sd"], atol=1e-5)
