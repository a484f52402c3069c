"""What a posterior says does not depend on how it was made; simulated coverage of its intervals."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from tests.conftest import dataset, quietly, sleepstudy_fit

FORMULA = "Reaction ~ Days + (Days | Subject)"
ROUTES = ("marginal", "importance", "noncentered")


@cache
def _fit(route: str):
    if route == "noncentered":
        return sleepstudy_fit("noncentered")
    options = {"method": "importance"} if route == "importance" else {"parameterization": route}
    model = quietly(FORMULA, dataset("sleepstudy"))
    return model.fit(draws=1000, random_seed=17, progressbar=False, **options)


def _agree(tables: list[pd.DataFrame], effective: float) -> None:
    """Means of independent posteriors within 6 standard errors, and sds within 6 of theirs."""
    first = tables[0]
    for other in tables[1:]:
        gap = (first["mean"] - other["mean"]) / first["sd"]
        assert np.abs(gap).max() < 6 * np.sqrt(2 / effective)
        # the relative standard error of the sd of a heavy-tailed quantity is about 1.5 / sqrt(n)
        np.testing.assert_allclose(first["sd"], other["sd"], rtol=6 * 1.5 * np.sqrt(2 / effective))


@pytest.mark.parametrize(
    "says",
    [
        lambda fit: fit.r2(),
        lambda fit: fit.r2("gelman"),
        lambda fit: fit.icc(),
        lambda fit: fit.icc({"Days": [0, 9]}),
        lambda fit: fit.variance_shares(),
        lambda fit: fit.predict(),
        lambda fit: fit.predict(_new(), random="new", kind="response", random_seed=1),
        lambda fit: fit.predict(_new().assign(Days=9), given=_told(), random_seed=1),
    ],
    ids=["r2", "gelman", "icc", "icc at", "shares", "fitted", "new groups", "given rows"],
)
def test_every_route_says_the_same(says):
    # the smallest effective sample size among the quantities of these fits is about 1,000
    _agree([says(_fit(route)) for route in ROUTES], 1000)


def test_every_route_has_the_same_leave_one_out():
    results = [_fit(route).loo(draws=500, progressbar=False) for route in ROUTES]
    elpds = [result.elpd for result in results]
    # Monte Carlo standard errors of elpd on these data are below 0.15
    assert np.ptp(elpds) < 1.0
    assert np.abs(results[0].elpd_i - results[2].elpd_i).max() < 0.3


def _new() -> pd.DataFrame:
    return pd.DataFrame({"Days": [0.0, 4.0, 9.0], "Subject": ["new"] * 3})


def _told() -> pd.DataFrame:
    return _new().assign(Reaction=[240.0, 300.0, 390.0])


def test_conditional_and_population_predictions_of_a_posterior_average_to_one_line():
    fit = _fit("marginal")
    conditional = fit.predict(draws=True).to_numpy().reshape(4, 1000, 18, 10).mean(axis=2)
    days = pd.DataFrame({"Days": np.arange(10.0)})
    population = fit.predict(days, random="population", draws=True).to_numpy()
    gap = conditional - population
    # the prior of beta is worth less than 1 % of the data: 0.3 ms; and 6 standard errors
    error = 6 * gap.std(axis=(0, 1)) / np.sqrt(2500)
    assert np.all(np.abs(gap.mean(axis=(0, 1))) < 0.3 + error)
    # a line for a new group is wider than its own group's, and centered on the population's
    new = fit.predict(days.assign(Subject="new"), random="new", random_seed=1)
    table = fit.predict(days, random="population")
    assert (new["upper"] - new["lower"] > 1.5 * (table["upper"] - table["lower"])).all()
    assert (np.abs(new["mean"] - table["mean"]) < 6 * new["sd"] / np.sqrt(2500)).all()


@pytest.mark.slow
def test_posterior_intervals_for_new_groups_cover_at_their_rate():
    rng = np.random.default_rng(16)
    g, x = np.repeat(np.arange(25), 4), np.tile(np.arange(4.0), 25)
    frame = pd.DataFrame({"x": x, "g": g, "y": rng.normal(size=100)})
    model = quietly("y ~ x + (x | g)", frame)
    new = pd.DataFrame({"x": [0.0, 3.0], "g": ["a", "b"]})
    told = pd.DataFrame({"x": [0.0, 1.0, 2.0], "g": ["c"] * 3})
    later = pd.DataFrame({"x": [3.0], "g": ["c"]})
    hits, hits_told, n = 0, 0, 160
    for s in range(n):
        b = rng.multivariate_normal([0, 0], [[1.0, 0.2], [0.2, 0.3]], 28)
        y = 1 + b[g, 0] + (0.5 + b[g, 1]) * x + rng.normal(size=100)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", blm.SamplingWarning)
            fit = model.with_response(y).fit(
                draws=250, method="importance", random_seed=s, progressbar=False
            )
        options = {"kind": "response", "level": 0.9, "random_seed": s}
        table = fit.predict(new, random="new", **options)
        future = 1 + b[25:27, 0] + (0.5 + b[25:27, 1]) * new["x"] + rng.normal(size=2)
        hits += ((table["lower"] <= future) & (future <= table["upper"])).sum()
        line = 1 + b[27, 0] + (0.5 + b[27, 1]) * np.arange(4.0) + rng.normal(size=4)
        table = fit.predict(later, given=told.assign(y=line[:3]), **options)
        hits_told += int(table["lower"].iloc[0] <= line[3] <= table["upper"].iloc[0])
    # standard errors 0.017 (320 intervals) and 0.024 (160); five, and 0.01 for weak priors.
    # Without the effects' variance coverage would be about 0.6
    assert hits / (2 * n) == pytest.approx(0.9, abs=0.095)
    assert hits_told / n == pytest.approx(0.9, abs=0.13)
