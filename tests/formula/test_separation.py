"""Directions in which the likelihood never falls off are found, and only these."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bayeslmm as blm
from bayeslmm.formula import separation
from bayeslmm.parts.families import links_of
from tests.formula.test_responses import RESPONSES, data


def design(formula: str, family: str, frame: pd.DataFrame, **options):
    return blm.MixedModel(formula, frame, family=family, **options).design


def pushes(made):
    return separation.pushes(made.family, made.y, made.trials)


def separating_direction(made):
    return separation.separating_direction(made.X, *pushes(made))


def kept(made, direction: np.ndarray, far: float) -> np.ndarray:
    """Log density of each row, relative to where the predictor is 0, far along a direction."""
    phi = np.array([0.9 + 0.05 * k for k in range(made.family.n_phi)])
    trials = 1.0 if made.trials is None else made.trials
    at = [made.family.log_density(made.y, eta, phi, trials) for eta in (far * direction, 0.0)]
    return at[0] - at[1]


@pytest.mark.parametrize("family", RESPONSES)
def test_pushes_are_the_ways_in_which_the_likelihood_of_a_row_never_falls(family):
    for link in links_of(family):
        if link in ("identity", "inverse") or (family, link) == ("bernoulli", "log"):
            continue
        if (family, link) == ("binomial", "log"):
            continue
        made = design(f"{RESPONSES[family]} ~ x", family, data(), link=link)
        for way, stays in zip((1.0, -1.0), pushes(made), strict=True):
            left = kept(made, way * np.ones(made.n_rows), 30.0)
            np.testing.assert_array_equal(left >= 0.0, stays, err_msg=f"{family} {link} {way}")


SPLIT = pd.DataFrame({"x": [1.0, 2, 3, 4, 5, 6, 7, 8], "z": [1.0, -1, 2, 0, -2, 1, 0, 3]})


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog"])
@pytest.mark.parametrize("origin", [0.0, 1000.0])
def test_a_perfect_predictor_separates(link, origin):
    frame = SPLIT.assign(y=SPLIT["x"] > 4, x=SPLIT["x"] + origin)
    made = design("y ~ z + x", "bernoulli", frame, link=link)
    found = separating_direction(made)
    assert found is not None
    assert found[2] > 0
    moved = made.X @ found * np.where(made.y == 1, 1, -1)
    assert moved.min() >= -1e-7
    assert moved.max() > 0


def test_one_row_in_common_is_still_a_separation_and_two_are_none():
    touching = SPLIT.assign(y=[0, 0, 0, 0, 1, 1, 1, 1], x=[1.0, 2, 3, 4, 4, 5, 6, 7])
    assert separating_direction(design("y ~ x", "bernoulli", touching)) is not None
    overlap = touching.assign(y=[0, 0, 0, 1, 0, 1, 1, 1], x=np.arange(8.0))
    assert separating_direction(design("y ~ x", "bernoulli", overlap)) is None


def test_a_group_without_events_separates_counts_and_trials():
    frame = data()
    frame["arm"] = np.where(frame["g"] == 3, "a", "b")
    quiet = frame.assign(**{c: np.where(frame["arm"] == "a", 0, frame[c]) for c in ("count", "s")})
    for family, left in (
        ("poisson", "count"),
        ("negativebinomial", "count"),
        ("binomial", "s of m"),
    ):
        found = separating_direction(design(f"{left} ~ arm + x", family, quiet))
        assert found is not None
        np.testing.assert_allclose(found[2], 0.0, atol=1e-6)
        assert found[1] > 0  # of arm b over a
        assert separating_direction(design(f"{left} ~ arm + x", family, frame)) is None


@pytest.mark.parametrize("family", ["gamma", "beta", "lognormal"])
def test_continuous_responses_are_never_separated(family):
    assert separating_direction(design(f"{RESPONSES[family]} ~ x * f", family, data())) is None


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), p=st.integers(1, 3), separated=st.booleans())
def test_what_is_found_keeps_the_likelihood_of_every_row(seed, p, separated):
    rng = np.random.default_rng(seed)
    X = rng.integers(-3, 4, (24, p)).astype(float)
    y = X @ rng.normal(size=p) + (0.0 if separated else rng.normal(0, 3, 24)) > 0
    frame = pd.DataFrame(X, columns=[f"x{j}" for j in range(p)]).assign(y=y)
    if y.all() or not y.any() or np.linalg.matrix_rank(np.c_[np.ones(24), X]) <= p:
        return
    made = design("y ~ " + " + ".join(f"x{j}" for j in range(p)), "bernoulli", frame)
    found = separating_direction(made)
    if found is None:
        assert not separated
        return
    left = kept(made, made.X @ found, 1e3)
    assert left.min() > -1e-3


FLAT = blm.Prior("Flat")


def test_a_flat_coefficient_that_separates_is_refused_by_name():
    from bayeslmm.priors.propriety import refuse_improper_posterior

    frame = SPLIT.assign(y=SPLIT["x"] > 4)
    model = blm.MixedModel("y ~ z + x", frame, family="bernoulli", priors={"x": FLAT})
    with pytest.raises(blm.PriorError, match="flat prior of x leaves the posterior improper"):
        refuse_improper_posterior(model.design, model.priors)
    model = blm.MixedModel("y ~ z + x", frame, family="bernoulli", priors={"z": FLAT})
    refuse_improper_posterior(model.design, model.priors)


def test_a_flat_standard_deviation_needs_levels_with_both_outcomes():
    from bayeslmm.priors.propriety import refuse_improper_posterior

    frame = pd.DataFrame({"g": np.repeat(np.arange(6), 4), "x": np.arange(24.0) % 5})
    priors = {"sd": blm.Prior("HalfFlat")}
    for mixed, family in ((1, "bernoulli"), (2, "bernoulli"), (1, "poisson"), (2, "poisson")):
        events = np.where(frame["g"] < mixed, np.arange(24) % 2, frame["g"] == 5)
        if family == "poisson":  # levels with a count above zero are held
            events = np.where(frame["g"] < mixed, np.arange(24) % 2, 0)
        model = blm.MixedModel(
            "y ~ x + (1 | g)", frame.assign(y=events), family=family, priors=priors
        )
        if mixed > 1:
            refuse_improper_posterior(model.design, model.priors)
            continue
        with pytest.raises(blm.PriorError, match="flat prior of sd"):
            refuse_improper_posterior(model.design, model.priors)
