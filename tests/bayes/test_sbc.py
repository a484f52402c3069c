"""Simulation-based calibration: uniform where all is right, not uniform where it is not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.bayes import calibration
from bayeslmm.bayes.calibration import Calibration
from tests.conftest import dataset, quietly

#: A correct program has p-values uniform on (0, 1): the smallest of 40 is below 1e-7 with
#: probability 4e-6.
SMALLEST_P = 1e-7


def _design(key):
    rng = np.random.default_rng(4)
    if key == "slopes":
        return quietly("Reaction ~ Days + (Days | Subject)", dataset("sleepstudy"))
    if key == "independent":
        return quietly("Reaction ~ Days + (Days || Subject)", dataset("sleepstudy"))
    n = 120
    frame = pd.DataFrame(
        {
            "a": np.arange(n) % 10,
            "b": rng.integers(0, 8, n),
            "x": rng.normal(size=n),
            "f": np.tile(["u", "v", "w"], n // 3),
            "y": rng.normal(size=n),
        }
    )
    if key == "crossed":
        return quietly("y ~ x + (1 | a) + (1 | b)", frame, weights=rng.uniform(0.5, 2, n))
    return quietly("y ~ f + (f | a)", frame)


def _rule(n, right=True, seed=1):
    """Ranks of a correct or of an overconfident posterior."""
    rng = np.random.default_rng(seed)
    u = rng.uniform(size=n) if right else rng.beta(0.5, 0.5, size=n)
    ranks = pd.DataFrame({"a": (u * 100).astype(int)})
    return Calibration(ranks, ranks, 99, "nuts", 0)


def test_uniform_ranks_pass_and_overconfident_ones_fail():
    assert _rule(500).uniformity().loc["a", "p"] > 1e-3
    assert _rule(500, right=False).uniformity().loc["a", "p"] < 1e-6


def test_coverage_is_the_level_for_uniform_ranks():
    table = _rule(4000).coverage((0.5, 0.9))
    # five binomial standard errors
    assert table.loc["a", 0.5] == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(4000))
    assert table.loc["a", 0.9] == pytest.approx(0.9, abs=5 * 0.3 / np.sqrt(4000))
    assert _rule(4000, right=False).coverage((0.5,)).loc["a", 0.5] < 0.45


@pytest.mark.parametrize("n_draws", [9, 99, 100])
def test_coverage_of_every_rank_once_is_the_level(n_draws):
    ranks = pd.DataFrame({"a": np.arange(n_draws + 1)})
    levels = (0.5, 0.8, 0.9, 0.95, 0.99)
    table = Calibration(ranks, ranks, n_draws, "nuts", 0).coverage(levels)
    np.testing.assert_allclose(table.loc["a"], levels, rtol=1e-12)


@pytest.mark.parametrize(
    ("key", "method", "n_sims"),
    [("slopes", "importance", 100), ("crossed", "importance", 60), ("crossed", "nuts", 60)],
)
def test_the_posterior_is_calibrated(key, method, n_sims):
    result = blm.sbc(_design(key), n_sims, method=method, random_seed=8, progressbar=False)
    assert result.uniformity()["p"].min() > SMALLEST_P
    assert result.ranks.shape[0] == n_sims
    assert result.ranks.to_numpy().min() >= 0
    assert result.ranks.to_numpy().max() <= 99
    assert "simulations" in repr(result)


@pytest.mark.slow
@pytest.mark.parametrize("key", ["slopes", "independent", "crossed", "factor slopes"])
@pytest.mark.parametrize("method", ["nuts", "importance"])
def test_the_posterior_is_calibrated_in_many_simulations(key, method):
    result = blm.sbc(_design(key), 500, method=method, random_seed=9, progressbar=False)
    assert result.uniformity()["p"].min() > SMALLEST_P
    # five binomial standard errors of 500 simulations, for each of some 60 numbers
    for level, column in result.coverage().items():
        error = np.sqrt(level * (1 - level) / 500)
        assert (np.abs(column - level) < 5 * error + 0.01).all()


def test_a_wrong_prior_in_the_fit_is_found(monkeypatch):
    """The check must be able to fail: sigma's prior is moved after simulating."""
    lmm = _design("crossed")
    original = calibration._Simulator._density_of

    def wrong(self, y):
        return original(self, y * 1.5)

    monkeypatch.setattr(calibration._Simulator, "_density_of", wrong)
    result = blm.sbc(lmm, 60, method="importance", random_seed=8, progressbar=False)
    assert result.uniformity().loc["sigma", "p"] < 1e-6


def test_results_do_not_depend_on_the_cores():
    lmm = _design("crossed")
    one = blm.sbc(lmm, 6, random_seed=2, cores=1, progressbar=False)
    two = blm.sbc(lmm, 6, random_seed=2, cores=2, progressbar=False)
    pd.testing.assert_frame_equal(one.ranks, two.ranks)


def test_refused_importance_samples_fall_back_to_nuts(monkeypatch):
    monkeypatch.setattr(calibration, "MAX_K_HAT", -np.inf)
    result = blm.sbc(_design("crossed"), 4, method="importance", random_seed=1, progressbar=False)
    assert result.fallbacks == 4
    assert len(result.ranks) == 4


def test_flat_priors_and_wrong_arguments_are_refused():
    lmm = _design("crossed")
    for options in ({"n_sims": 0}, {"n_draws": 2}, {"n_sims": 2.5}):
        with pytest.raises(blm.SamplingError):
            blm.sbc(lmm, **{"n_sims": 5, **options})
    with pytest.raises(ValueError, match="method"):
        blm.sbc(lmm, 5, method="magic")
    lmm.priors["x"] = blm.Prior("Flat")
    with pytest.raises(blm.PriorError, match="flat prior of x"):
        blm.sbc(lmm, 5)
    lmm.priors["x"] = blm.Prior("Moyal", mu=0, sigma=1)
    with pytest.raises(blm.PriorError, match="x is Moyal"):
        blm.sbc(lmm, 5)


def test_ranks_can_be_plotted():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    collection = _rule(100).plot()
    assert collection.viz["figure"] is not None
    plt.close("all")
