"""An effect's prior can be taken out of the model's and replaced, exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bayeslmm as blm
from bayeslmm.bayes.coefficients import fixed_prior
from bayeslmm.reanalysis.effects import effect_row, split_effect
from tests.conftest import dataset, quietly


def log_density(prior, beta):
    """Of the normal part of a prior on beta, density 1 along its flat directions."""
    gap = prior.root @ beta - prior.target
    return -0.5 * (len(gap) * np.log(2 * np.pi) - prior.log_det + gap @ gap)


def log_normal(x, mean, sd):
    return -0.5 * np.log(2 * np.pi) - np.log(sd) - 0.5 * ((x - mean) / sd) ** 2


def machines_model(priors=None):
    return blm.LMM("score ~ Machine + (1 | Worker)", dataset("machines"), priors=priors)


EFFECTS = [
    "Machine[B]",
    "Intercept",
    {"Machine[B]": 1, "Machine[C]": -1},
    {"Intercept": 1, "Machine[C]": 0.5},
    [0.2, -1.0, 3.0],
]


@settings(max_examples=25, deadline=None)
@given(
    effect=st.sampled_from(range(len(EFFECTS))),
    mean=st.floats(-20, 20),
    sd=st.floats(0.01, 100),
    seed=st.integers(0, 1000),
)
def test_the_new_prior_is_the_old_one_with_the_effects_margin_exchanged(effect, mean, sd, seed):
    model = machines_model()
    split = split_effect(model.design, model.priors, EFFECTS[effect])
    beta = np.random.default_rng(seed).normal(0, 30, 3)
    e = split.row @ beta
    old = log_density(fixed_prior(model.design, model.priors), beta)
    expected = old + log_normal(e, mean, sd) - log_normal(e, split.mean, split.sd)
    assert log_density(split.with_normal(mean, sd), beta) == pytest.approx(expected, rel=1e-9)
    flat = old - log_normal(e, split.mean, split.sd)
    assert log_density(split.rest, beta) == pytest.approx(flat, rel=1e-9)


def test_a_single_coefficients_prior_is_simply_replaced():
    model = machines_model({"Machine[B]": blm.Prior("Normal", mu=1, sigma=2)})
    split = split_effect(model.design, model.priors, "Machine[B]")
    assert (split.mean, split.sd) == pytest.approx((1, 2))
    other = machines_model({"Machine[B]": blm.Prior("Normal", mu=-3, sigma=0.5)})
    beta = np.array([50.0, 7.0, -2.0])
    expected = log_density(fixed_prior(other.design, other.priors), beta)
    assert log_density(split.with_normal(-3, 0.5), beta) == pytest.approx(expected)


@pytest.mark.parametrize("effect", EFFECTS)
def test_the_direction_moves_the_effect_and_not_the_rest(effect):
    model = machines_model()
    split = split_effect(model.design, model.priors, effect)
    assert split.row @ split.direction == pytest.approx(1)
    assert split.rest.root @ split.direction == pytest.approx(np.zeros(2), abs=1e-12)


@pytest.mark.parametrize("effect", EFFECTS)
def test_the_prior_given_the_effect_is_joint_over_margin(effect):
    model = machines_model()
    split = split_effect(model.design, model.priors, effect)
    B = split.basis_without()
    assert split.row @ B == pytest.approx(np.zeros(2), abs=1e-12)
    gamma, value = np.array([3.0, -1.5]), 2.5
    beta = value * split.direction + B @ gamma
    jacobian = np.linalg.slogdet(np.column_stack([split.direction, B]))[1]
    joint = log_density(fixed_prior(model.design, model.priors), beta) + jacobian
    margin = log_normal(value, split.mean, split.sd)
    assert log_density(split.pinned(B), gamma) == pytest.approx(joint - margin)


def test_a_flat_coefficient_makes_the_effect_flat():
    model = machines_model({"Machine[C]": blm.Prior("Flat")})
    split = split_effect(model.design, model.priors, {"Machine[B]": 1, "Machine[C]": -1})
    assert np.isinf(split.sd)
    beta = np.array([50.0, 7.0, -2.0])
    base = log_density(fixed_prior(model.design, model.priors), beta)
    expected = base + log_normal(9.0, 1.0, 2.0)
    assert log_density(split.with_normal(1.0, 2.0), beta) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("effect", "message"),
    [
        ("Dayz", "There is no coefficient 'Dayz'. Coefficients: Intercept, Days"),
        ({"Dayz": 1}, "no coefficient 'Dayz'"),
        ({"a": {"Days": 1}, "b": {"Days": 2}}, "One effect at a time"),
        ({"Days": 0.0}, "All weights"),
        ([1, 2, 3], "one column per coefficient"),
        ({"Days": "x"}, "not a number"),
    ],
)
def test_an_effect_that_is_not_there_is_named(effect, message):
    model = blm.LMM("Reaction ~ Days + (Days | Subject)", dataset("sleepstudy"))
    with pytest.raises(ValueError, match=message.split("(")[0]):
        effect_row(model.design, effect)


def test_other_coefficients_need_normal_priors(toy):
    model = quietly("y ~ x + z + (1 | g)", toy, priors={"z": blm.Prior("Laplace", mu=0, b=1)})
    with pytest.raises(blm.PriorError, match="z is Laplace"):
        blm.reanalyze(model, "x")
    assert split_effect(model.design, model.priors, "z").sd == np.inf
