"""Summaries of random effects are those of the draws they stand for."""

from __future__ import annotations

import numpy as np
import pytest

import bayeslmm as blm
from bayeslmm.bayes import effect_summaries
from bayeslmm.bayes.effect_summaries import PROBABILITIES, EffectSink
from bayeslmm.errors import SamplingError
from tests.conftest import quietly

OPTIONS = {"draws": 150, "chains": 2, "random_seed": 3, "progressbar": False}
CROSSED = "y ~ x + (1 + z | g) + (1 | item)"


@pytest.mark.parametrize(
    "residuals",
    [{"sigma": "~ part"}, {"residual": "cs(g)"}],
    ids=["variance cells", "compound symmetry"],
)
def test_summaries_beside_structured_residuals_are_those_of_the_draws(toy, residuals):
    rng = np.random.default_rng(2)
    toy["part"] = np.where(rng.uniform(size=len(toy)) < 0.5, "one", "two")
    toy["y"] += rng.normal(0, 2, 8)[toy["item"]]
    factor = "item" if "sigma" in residuals else "g"
    formula = "y ~ x + (1 | item)" if "sigma" in residuals else "y ~ x + (0 + z | g)"
    model = quietly(formula, toy, **residuals)
    full = model.fit(method="importance", **OPTIONS)
    short = model.fit(method="importance", random_effects="summary", **OPTIONS)
    assert full.summary().equals(short.summary())
    one, two = full.ranef(factor, diagnostics=False), short.ranef(factor)
    numbers = ["mean", "sd", "lower", "upper"]
    np.testing.assert_allclose(one[numbers], two[numbers], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nuts", "importance"])
def test_summaries_are_those_of_the_draws(toy, method):
    rng = np.random.default_rng(1)
    b, c = rng.normal(0, 2, 12), rng.normal(0, 2, 8)
    toy["y"] += b[toy["g"]] + c[toy["item"]]
    model = quietly(CROSSED, toy)
    full = model.fit(method=method, **OPTIONS)
    short = model.fit(method=method, random_effects="summary", **OPTIONS)
    assert full.summary().equals(short.summary())
    assert not [name for name in short.posterior if name.startswith("b_")]
    for level in (0.5, 0.95, 0.99):
        one, two = full.ranef(level=level, diagnostics=False), short.ranef(level=level)
        assert list(one.columns) == list(two.columns)
        assert one[["group", "level", "effect"]].equals(two[["group", "level", "effect"]])
        # single precision in between
        numbers = ["mean", "sd", "lower", "upper"]
        np.testing.assert_allclose(one[numbers], two[numbers], rtol=1e-5, atol=1e-6)
    assert short.ranef("item").equals(short.ranef().query("group == 'item'").reset_index(drop=True))


def test_what_needs_the_draws_says_so(toy):
    fit = quietly("y ~ x + (1 | g)", toy).fit(
        method="importance", random_effects="summary", **OPTIONS
    )
    for needs_draws in (
        fit.coef,
        fit.predict,
        fit.posterior_predictive,
        lambda: fit.loo(conditional=True),
    ):
        with pytest.raises(SamplingError, match="summaries of random effects"):
            needs_draws()
    with pytest.raises(ValueError, match=r"0\.95"):
        fit.ranef(level=0.93)
    with pytest.raises(ValueError, match="equal-tailed"):
        fit.ranef(interval="hdi")
    assert len(fit.predict(toy.head(3), random="population")) == 3
    assert len(fit.predict(toy.head(3), random="new", random_seed=1)) == 3


def test_summaries_go_with_the_marginal_posterior(toy):
    model = quietly("y ~ x + (1 | g)", toy)
    with pytest.raises(ValueError, match="marginal posterior only"):
        model.fit(parameterization="noncentered", random_effects="summary", **OPTIONS)
    with pytest.raises(ValueError, match="random_effects"):
        model.fit(random_effects="none", **OPTIONS)


def test_draws_in_any_order_and_size_give_their_summaries(monkeypatch):
    monkeypatch.setattr(effect_summaries, "_WRITE_VALUES", 130)  # several small blocks
    monkeypatch.setattr(effect_summaries, "_READ_BYTES", 4 * 101 * 3)
    rng = np.random.default_rng(0)
    n, shapes = 101, [(7, 2), (5, 1)]
    draws = [rng.normal(size=(n, *shape)) for shape in shapes]
    sink = EffectSink(n, shapes)
    pieces = np.array_split(np.arange(n), 17)
    for at in rng.permutation(17):
        sink.put(int(pieces[at][0]), [d[pieces[at]] for d in draws])
    for found, d in zip(sink.summaries(), draws, strict=True):
        np.testing.assert_allclose(found.mean, d.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(found.sd, d.std(axis=0, ddof=1), rtol=1e-5)
        np.testing.assert_allclose(
            found.quantiles, np.quantile(d, PROBABILITIES, axis=0), atol=1e-6
        )


def test_a_saved_fit_keeps_its_summaries(toy, tmp_path):
    fit = quietly("y ~ x + (1 | g)", toy).fit(
        method="importance", random_effects="summary", **OPTIONS
    )
    fit.save(tmp_path / "fit.nc")
    assert blm.load(tmp_path / "fit.nc").ranef().equals(fit.ranef())
