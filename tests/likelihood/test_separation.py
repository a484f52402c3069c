"""Separated data are named before anything is fitted."""

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.errors import DataError


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    n = 200
    data = pd.DataFrame({"g": rng.integers(0, 10, n).astype(str), "x": rng.normal(size=n)})
    data["f"] = rng.choice(["a", "b", "c"], n)
    data["fair"] = (rng.random(n) < 0.4).astype(float)
    data["size"] = 3
    data["category"] = np.digitize(data["x"] + rng.logistic(size=n), [-1.0, 1.0])
    data["count"] = rng.poisson(2, n)
    return data


def ml(response, data, family, **options):
    return blm.MixedModel(f"{response} ~ x + f + (1 | g)", data, family=family, **options).ml()


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog"])
def test_a_category_with_events_only_is_named(data, link):
    event = data["fair"].where(data["f"] != "c", 1.0)
    with pytest.raises(DataError, match=r"as f\[c\] goes to plus infinity, so .* model.fit\(\)"):
        ml("fair", data.assign(fair=event), "bernoulli", link=link)


def test_a_number_that_tells_events_from_others_is_named(data):
    with pytest.raises(DataError, match="x goes to plus infinity"):
        ml("fair", data.assign(fair=(data["x"] > 0.1).astype(float)), "bernoulli")


@pytest.mark.parametrize("family", ["poisson", "negativebinomial", "zero_inflated_poisson"])
def test_a_category_without_counts_is_named(data, family):
    counts = data["count"].where(data["f"] != "b", 0)
    with pytest.raises(DataError, match=r"as f\[b\] goes to minus infinity"):
        ml("count", data.assign(count=counts), family)


def test_trials_that_all_succeed_in_a_category_are_named(data):
    counts = pd.Series(np.where(data["f"] == "c", 3, data["fair"] + 1), dtype=float)
    with pytest.raises(DataError, match=r"as f\[c\] goes to plus infinity"):
        ml("count of size", data.assign(count=counts), "binomial")


def test_ordered_categories_whose_highest_is_a_level_are_named(data):
    category = data["category"].where(data["f"] != "c", 2).where(data["f"] == "c", 0)
    category = category.where((data["f"] == "c") | (data["x"] < 0), 1)
    with pytest.raises(DataError, match=r"f\[c\] goes to plus infinity"):
        ml("category", data.assign(category=category), "ordinal")


@pytest.mark.parametrize(
    ("response", "family"),
    [("fair", "bernoulli"), ("count", "poisson"), ("category", "ordinal")],
)
def test_data_that_overlap_are_fitted(data, response, family):
    assert ml(response, data, family).converged


def test_a_single_exception_to_separation_is_enough(data):
    event = data["fair"].where(data["f"] != "c", 1.0)
    event[np.flatnonzero(data["f"] == "c")[0]] = 0.0
    fit = ml("fair", data.assign(fair=event), "bernoulli")
    assert 2 < fit.fixef()["estimate"]["f[c]"] < 10


def test_the_cheap_certificate_agrees_with_the_linear_program(data):
    from bayeslmm.assembly import response_system
    from bayeslmm.likelihood.separation import _surely_overlaps, separating_direction

    certified = 0
    for seed in range(30):
        few = data.sample(24, random_state=seed)
        if few["fair"].nunique() < 2 or few["f"].nunique() < 3:
            continue
        model = blm.MixedModel("fair ~ x * f", few, family="bernoulli")
        system = response_system(model.design)
        sure = _surely_overlaps(system)
        certified += sure
        assert not (sure and separating_direction(system) is not None)
    assert certified > 3
