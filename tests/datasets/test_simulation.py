"""Simulated data have the truth they say they have."""

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm


def test_the_same_seed_gives_the_same_rows():
    first, again = (blm.simulate_lmm(seed=3, dropout=0.4, imbalance=0.3) for _ in range(2))
    assert first.data.equals(again.data)
    assert not first.data.equals(blm.simulate_lmm(seed=4, dropout=0.4, imbalance=0.3).data)


def test_reml_recovers_the_truth_of_a_large_simulation():
    sim = blm.simulate_lmm(
        3000, 6, beta=(10, 1, -2, 0.5), sd=(2, 0.7), corr=-0.4, sigma=1.5, seed=1
    )
    fit = blm.LMM(sim.formula, sim.data).reml()
    table = fit.fixef()
    # six standard errors: a right program passes with probability 1 - 8e-9
    error = (table["estimate"] - sim.beta).abs() / table["se"]
    assert (error < 6).all()
    estimates = fit.varcomp()["estimate"]
    assert list(estimates.index) == list(sim.varcomp.index)
    # standard errors are near 0.03 (sds), 0.02 (correlation), 0.01 (sigma)
    assert np.allclose(estimates, sim.varcomp, atol=0.18)
    assert np.std(sim.effects["time"]) == pytest.approx(0.7, abs=0.06)


def test_without_slopes_and_treatment_the_columns_are_not_there():
    sim = blm.simulate_lmm(5, 3, beta=[1.0], sd=2.0, seed=1)
    assert sim.formula == "y ~ 1 + (1 | group)"
    assert list(sim.data) == ["y", "time", "group"]
    assert list(sim.truth.index) == ["Intercept", "sd(Intercept | group)", "sigma"]


def test_a_perfect_correlation_gives_effects_on_a_line():
    sim = blm.simulate_lmm(50, 2, sd=(1, 2), corr=-1.0, seed=1)
    assert np.allclose(sim.effects["time"], -2 * sim.effects["Intercept"])


@pytest.mark.parametrize("mechanism", ["mcar", "mar", "mnar"])
def test_dropout_is_monotone_and_as_frequent_as_asked(mechanism):
    sim = blm.simulate_lmm(4000, 5, dropout=0.4, mechanism=mechanism, seed=2)
    visits = sim.data.groupby("group", observed=False)["time"].agg(["count", "max"])
    assert (visits["count"] == visits["max"] + 1).all()
    # binomial standard error 0.0077: six of them
    assert (visits["count"] < 5).mean() == pytest.approx(0.4, abs=0.047)


def test_missing_at_random_leaves_after_high_values_only_then():
    def gap(mechanism):
        sim = blm.simulate_lmm(
            4000, 2, beta=(0, 0), sd=0.001, dropout=0.5, mechanism=mechanism, seed=5
        )
        first = sim.complete[sim.complete["time"] == 0].set_index("group")["y"]
        stayed = sim.data[sim.data["time"] == 1]["group"]
        return first.loc[stayed].mean() - first.mean()

    # the standard error of a mean of about 2000 standard normals is 0.022
    assert gap("mar") < -0.3
    assert abs(gap("mcar")) < 0.14
    assert abs(gap("mnar")) < 0.14


def test_imbalance_keeps_at_least_one_row_of_every_group():
    sim = blm.simulate_lmm(500, 6, imbalance=1.0, dropout=0.5, seed=1)
    sizes = sim.data["group"].value_counts()
    assert sizes.min() == 1
    assert sizes.max() == 6
    assert len(sizes) == 500
    assert "left out" in repr(sim)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_groups": 1}, "n_groups"),
        ({"beta": ()}, "beta"),
        ({"sd": (1, -1)}, "sd"),
        ({"corr": 1.5}, "corr"),
        ({"sigma": 0}, "sigma"),
        ({"dropout": 1.0}, "dropout"),
        ({"mechanism": "lost"}, "mechanism"),
        ({"imbalance": 2}, "imbalance"),
        ({"n_per_group": 1, "dropout": 0.5}, "visits"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(arguments, message):
    with pytest.raises(blm.DataError, match=message):
        blm.simulate_lmm(**arguments)


def test_items_are_those_of_the_study_in_shape_and_crossed_completely():
    sim = blm.simulate_item_responses(seed=1)
    assert sim.data.shape == (7584, 6)
    assert sim.data.groupby(["person", "item"], observed=True).size().eq(1).all()
    assert sim.data.groupby("person", observed=True)["anger"].nunique().eq(1).all()
    cells = sim.data.drop_duplicates("item").groupby(["mode", "situation"], observed=True).size()
    assert cells.to_list() == [6, 6, 6, 6]
    assert repr(sim).startswith(f"Simulation of {sim.formula}: 7584 rows, 316 persons, 24 items")
    assert list(sim.truth.index[-2:]) == ["sd(Intercept | person)", "sd(Intercept | item)"]


def test_the_same_seed_gives_the_same_answers():
    first, again = (blm.simulate_item_responses(40, 8, seed=3) for _ in range(2))
    assert first.data.equals(again.data)
    assert not first.data.equals(blm.simulate_item_responses(40, 8, seed=4).data)


def test_coefficients_of_items_are_named_as_in_a_fit():
    sim = blm.simulate_item_responses(40, 8, seed=1)
    fit = blm.LMM(sim.formula, sim.data).reml()
    assert list(fit.fixef().index) == list(sim.beta.index)
    assert list(fit.varcomp().index) == [*sim.varcomp.index, "sigma"]


def test_answers_have_the_probabilities_of_the_model():
    sim = blm.simulate_item_responses(1000, 200, beta=(0.4, -0.5, 1.0, -1.5), sd=(1, 0.7), seed=2)
    data, effects = sim.data, sim.effects["Intercept"]
    columns = {
        "Intercept": 1.0,
        "anger": data["anger"],
        "mode": data["mode"] == "do",
        "situation": data["situation"] == "self",
    }
    X = pd.DataFrame(columns, dtype=float).to_numpy()
    own = [effects[factor].loc[data[factor]].to_numpy() for factor in ("person", "item")]
    p = 1 / (1 + np.exp(-(X @ sim.beta.to_numpy() + sum(own))))
    # a score is normal with the information as its variance: six standard deviations
    score, information = X.T @ (data["y"] - p), (X**2).T @ (p * (1 - p))
    assert np.max(np.abs(score) / np.sqrt(information)) < 6
    # standard errors of the sds: 0.022 and 0.035
    assert effects["person"].std() == pytest.approx(1.0, abs=0.14)
    assert effects["item"].std() == pytest.approx(0.7, abs=0.21)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_persons": 1}, "n_persons"),
        ({"n_items": 3}, "n_items"),
        ({"beta": (1, 2)}, "beta"),
        ({"beta": (0, 0, 0, np.nan)}, "beta"),
        ({"sd": 1.0}, "sd"),
        ({"sd": (1, -1)}, "sd"),
    ],
)
def test_arguments_of_items_out_of_range_are_refused_by_name(arguments, message):
    with pytest.raises(blm.DataError, match=message):
        blm.simulate_item_responses(**arguments)
