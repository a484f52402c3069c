"""Links that give means at a part of the line only: effects bend away from its ends."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.bayes import whitening
from tests.bayes.test_joint import check_density, check_gradients, density_of, points
from tests.bayes.test_response_model import _family

LINKS = [
    ("bernoulli", "identity"),
    ("binomial", "log"),
    ("poisson", "identity"),
    ("gamma", "inverse"),
]


def _rare(name, link, random="(1 | g)", *, groups=8, rows=12, seed=2):
    """Few events: groups have none at all; means near zero, or large ones of the inverse link."""
    rng = np.random.default_rng(seed)
    n = groups * rows
    frame = pd.DataFrame(
        {
            "g": np.repeat([f"g{j}" for j in range(groups)], rows),
            "h": np.tile(["a", "b", "c"], n // 3),
            "x": rng.integers(0, 2, n).astype(float),
            "m": 3.0,
        }
    )
    effects = np.repeat(np.exp(np.linspace(-2.0, 1.0, groups)), rows)
    p = (0.12 + 0.1 * frame["x"].to_numpy()) * effects
    eta = {"identity": p, "log": np.log(1.6 * p), "inverse": 2 * p}[link]
    trials = frame["m"].to_numpy() if name == "binomial" else np.ones(n)
    frame["y"] = _family(name, link).draw(rng, eta, np.array([2.0]), trials)
    left = "y of m" if name == "binomial" else "y"
    return blm.MixedModel(f"{left} ~ x + {random}", frame, family=name, link=link)


def _unbent(density, z):
    a = density.arguments
    walls = a.walls._replace(width=np.zeros(0))
    return type(density)(
        density.laplace, density.mode, a._replace(walls=walls), density.symbolic
    ).values(z)


@pytest.fixture
def far(monkeypatch):
    """Effects bend far from the walls, so that they do wherever a test looks."""
    monkeypatch.setattr(whitening, "_BEND", 10.0)


def _bent(density, count=3):
    Z = points(density, count)
    assert np.all(np.isfinite(density.values(Z)))
    return not np.all(np.isclose(density.values(Z), _unbent(density, Z), rtol=0.0, atol=1e-3))


@pytest.mark.parametrize(("name", "link"), LINKS)
def test_gradients_are_those_of_the_density_where_effects_bend(name, link, far):
    density = density_of(_rare(name, link))
    assert len(density.arguments.walls.width) == 8
    assert _bent(density)
    check_gradients(density)


@pytest.mark.parametrize("random", ["(1 | g) + (1 | h)", "(x || g)"])
def test_gradients_hold_beside_other_effects(random, far):
    # no point so near one where two rows are nearest alike, a kink, that differences meet it
    density = density_of(_rare("poisson", "identity", random, seed=5))
    assert _bent(density)
    check_gradients(density)


@pytest.mark.parametrize(("name", "link"), LINKS[:3])
def test_the_density_is_that_of_the_hierarchical_model_where_effects_bend(name, link, far):
    model = _rare(name, link)
    density = density_of(model, signed=False)
    assert _bent(density, 1)
    check_density(model, density)


def test_correlated_intercepts_and_other_links_do_not_bend():
    for link, random in [("identity", "(x | g)"), ("log", "(1 | g)")]:
        assert not len(density_of(_rare("poisson", link, random)).arguments.walls.width)


def test_the_posterior_of_risks_at_a_wall_is_that_of_brute_force():
    """Three groups with 0, 1 and 3 events of 6; risks are b0 + b in (0, 1), integrals are sums."""
    y = np.concatenate([np.arange(6) < events for events in (0, 1, 3)]).astype(int)
    frame = pd.DataFrame({"y": y, "g": np.repeat(["a", "b", "c"], 6)})
    priors = {"Intercept": blm.Prior("Normal", mu=0.2, sigma=0.3)}
    priors["sd(Intercept | g)"] = blm.Prior("HalfNormal", sigma=0.3)
    model = blm.MixedModel(
        "y ~ 1 + (1 | g)", frame, family="bernoulli", link="identity", priors=priors
    )
    post = model.fit(draws=4000, chains=2, random_seed=3, cores=1, progressbar=False)
    b0, sd = np.linspace(-1.2, 1.6, 281), np.linspace(0.0, 1.6, 201)[1:]
    x, w = np.polynomial.legendre.leggauss(200)
    p, w = 0.5 + 0.5 * x, 0.5 * w
    log = -0.5 * ((b0[:, None] - 0.2) / 0.3) ** 2 - 0.5 * (sd / 0.3) ** 2
    risks = [w * p**events * (1 - p) ** (6 - events) for events in (0, 1, 3)]
    z = (p - b0[:, None, None]) / sd[:, None]
    with np.errstate(divide="ignore"):
        log = log + np.log((np.exp(-0.5 * z**2) / sd[:, None]) @ np.transpose(risks)).sum(axis=2)
    share = np.exp(log - log.max())
    share /= share.sum()
    draws = post.idata.posterior.dataset
    for name, grid, weight in [("beta", b0, share.sum(axis=1)), ("sd_g", sd, share.sum(axis=0))]:
        mean = weight @ grid
        spread = np.sqrt(weight @ (grid - mean) ** 2)
        found = draws[name].to_numpy()[..., 0]
        # of 8000 draws, 1000 or more effective ones: five standard errors
        assert found.mean() == pytest.approx(mean, abs=5 * spread / np.sqrt(1000))
        assert found.std() == pytest.approx(spread, rel=0.16)


def test_no_transition_diverges_where_many_groups_have_no_event():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(30), 20)
    frame = pd.DataFrame({"g": groups.astype(str), "x": rng.integers(0, 2, 600)})
    risk = 0.03 + 0.05 * frame["x"] + rng.gamma(0.5, 0.1, 30)[groups]
    frame["y"] = rng.binomial(1, np.minimum(risk, 0.9))
    assert (frame.groupby("g")["y"].sum() == 0).sum() >= 4
    model = blm.MixedModel("y ~ x + (1 | g)", frame, family="bernoulli", link="identity")
    post = model.fit(draws=500, chains=2, random_seed=1, cores=1, progressbar=False)
    # hundreds where effects do not bend
    assert int(post.idata.sample_stats["diverging"].sum()) <= 10
