"""Times that are text go by the numbers in them, in fits, in new rows and in saved models."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.formula.labels import natural_order, spaced_evenly, time_order
from tests.conftest import quietly

pytestmark = pytest.mark.usefixtures("one_blas_thread")

LABELS = ["{}", "V{}", "week {}", "{} months", "visit {:02}"]


def _series() -> pd.DataFrame:
    """Twenty series of twelve times with an autocorrelation of 0.8."""
    rng = np.random.default_rng(4)
    e = np.zeros((20, 12))
    e[:, 0] = rng.normal(size=20)
    for t in range(1, 12):
        e[:, t] = 0.8 * e[:, t - 1] + 0.6 * rng.normal(size=20)
    times = np.tile(np.arange(1, 13), 20)
    return pd.DataFrame({"id": np.repeat(np.arange(20), 12), "t": times, "y": e.ravel()})


def _named(data: pd.DataFrame, label: str) -> pd.DataFrame:
    return data.assign(t=[label.format(t) for t in data["t"]])


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("category", [False, True], ids=["text", "category"])
def test_the_correlation_is_that_of_numeric_times(label, category):
    data = _series()
    right = blm.LMM("y ~ 1", data, residual="ar1(t | id)").reml()
    text = _named(data, label)
    text["t"] = text["t"].astype("category") if category else text["t"]
    if label.endswith(":02}"):  # in order anyway: nothing to say
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = blm.LMM("y ~ 1", text, residual="ar1(t | id)")
    else:
        order = ", ".join(label.format(t) for t in range(1, 13))
        with pytest.warns(blm.ModelWarning, match=f"one step apart in this order: {order}"):
            model = blm.LMM("y ~ 1", text, residual="ar1(t | id)")
    fit = model.reml()
    assert fit.loglik == pytest.approx(right.loglik, abs=1e-8)
    assert fit.varcomp().loc["rho", "estimate"] == pytest.approx(
        right.varcomp().loc["rho", "estimate"], abs=1e-6
    )
    new = text.iloc[[9, 1, 0]]  # times 10, 2, 1
    rows = model.design.evaluate_residuals(new)
    assert np.diff(rows.time).tolist() == [-8.0, -1.0]


def test_categories_in_an_order_of_their_own_keep_it():
    data = _named(_series(), "V{}")
    order = [f"V{t}" for t in (12, *range(1, 12))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ordered = data.assign(t=pd.Categorical(data["t"], order))
        model = blm.LMM("y ~ 1", ordered, residual="ar1(t | id)")
    np.testing.assert_array_equal(model.design.residual.rows.time[:12], [*range(1, 12), 0])


@pytest.mark.parametrize("label", ["V{}", "V{:02}"])
def test_unstructured_tables_are_in_the_order_of_time(label):
    data = _series().query("t > 8")
    right = quietly("y ~ 1", data, residual="unstructured(t | id)").reml()
    model = quietly("y ~ 1", _named(data, label), residual="unstructured(t | id)")
    names = [label.format(t) for t in range(9, 13)]
    assert model.design.residual.times == tuple(names)
    assert model.design.residual.variance.names == tuple(f"sigma[t={v}]" for v in names)
    fit = model.reml()
    assert fit.loglik == pytest.approx(right.loglik, abs=1e-8)
    np.testing.assert_allclose(
        fit.varcomp()["estimate"].to_numpy(), right.varcomp()["estimate"].to_numpy(), rtol=1e-5
    )


@pytest.mark.parametrize(
    "times",
    [["start", "middle", "end"], ["week 0", "week 4", "week 12"], ["day 1", "week 1", "month 1"]],
)
def test_an_order_or_spacing_that_text_does_not_say_is_shown(times):
    data = _series().query("t < 4")
    data["t"] = [times[t - 1] for t in data["t"]]
    shown = ", ".join(natural_order(sorted(times)))
    with pytest.warns(blm.ModelWarning, match=f"one step apart in this order: {shown}"):
        blm.LMM("y ~ 1", data, residual="ar1(t | id)")


def test_the_fixed_part_keeps_its_coding():
    data = _named(_series(), "V{}")
    design = quietly("y ~ t", data, residual="ar1(t | id)").design
    assert design.coef_names[1:3] == ("t[V10]", "t[V11]")


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        (["1", "10", "2"], ["1", "2", "10"]),
        (["-1", "-10", "0", "5"], ["-10", "-1", "0", "5"]),
        (["0.5", "1.25", "1.5", "10"], ["0.5", "1.25", "1.5", "10"]),
        (["day -7", "day 0", "day 14", "day 7"], ["day -7", "day 0", "day 7", "day 14"]),
        (["2020-01-31", "2020-02-01", "2020-10-01"], ["2020-01-31", "2020-02-01", "2020-10-01"]),
        (["a10b2", "a2b10", "a2b2"], ["a2b2", "a2b10", "a10b2"]),
        (["end", "middle", "start"], ["end", "middle", "start"]),
    ],
)
def test_numbers_in_labels_are_put_by_size(labels, order):
    assert natural_order(labels) == order
    assert time_order(sorted(labels)) == order
    if order[::-1] != sorted(order):
        assert time_order(order[::-1]) == order[::-1]  # somebody's own


def test_distances_of_labels():
    assert spaced_evenly(["V1", "V2", "V3"])
    assert spaced_evenly(["0.5", "1", "1.5"])
    assert not spaced_evenly(["V1", "V2", "V4"])
    assert not spaced_evenly(["day 1", "week 2", "week 3"])


def test_missingness_follows_text_times_and_categories():
    data = _named(_series(), "week {}")
    left = data[~((data["id"] == 3) & data["t"].isin(["week 11", "week 12"]))]
    with pytest.warns(blm.DataWarning, match="in this order: week 1, week 2, week 3"):
        pattern = blm.missingness(left, "id", "t")
    assert pattern.groups.loc[3].tolist() == ["drop-out", 10, "week 10"]
    backwards = [f"week {t}" for t in range(12, 0, -1)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own = blm.missingness(left.assign(t=pd.Categorical(left["t"], backwards)), "id", "t")
    assert own.observed.columns.tolist() == backwards
    assert own.groups.loc[3, "pattern"] == "intermittent"
