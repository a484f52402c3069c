"""Data sets: there, described, and as published."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm

SHAPES = {
    "sleepstudy": (180, 3),
    "dyestuff": (30, 2),
    "dyestuff2": (30, 2),
    "penicillin": (144, 3),
    "pastes": (60, 4),
    "cake": (270, 5),
    "machines": (54, 3),
    "orthodont": (108, 4),
    "oats": (72, 4),
    "ergostool": (36, 3),
    "mathachieve": (7185, 6),
    "insteval": (73421, 7),
    "chem97": (31022, 8),
    "beatblues": (280, 7),
    "flock": (1065, 5),
    "flock_pedigree": (580, 3),
    "cbpp": (56, 5),
    "contraception": (1934, 6),
    "epilepsy": (236, 9),
    "grouseticks": (403, 7),
    "wine": (72, 6),
    "bcg": (13, 11),
}


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_every_data_set_is_there_complete_and_described(name):
    data = blm.load_dataset(name)
    assert data.shape == SHAPES[name]
    assert not data.isna().any().any()
    text = blm.describe_dataset(name)
    assert "Source" in text
    for column in data.columns:
        assert f"{column} :" in text
    factors = [c for c in data if isinstance(data[c].dtype, pd.CategoricalDtype)]
    assert factors


def test_the_list_names_them_all():
    assert blm.list_datasets() == sorted(SHAPES)


def test_factor_levels_that_are_numbers_are_in_numeric_order():
    assert blm.load_dataset("ergostool")["Subject"].cat.categories.tolist()[:2] == ["1", "2"]
    assert blm.load_dataset("oats")["Block"].cat.categories.tolist()[-1] == "VI"
    assert blm.load_dataset("insteval")["s"].cat.categories.tolist()[9] == "10"


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(blm.DataError, match="Did you mean 'penicillin'"):
        blm.load_dataset("penicilin")


def test_effects_of_the_bcg_trials_are_those_published():
    bcg = blm.load_dataset("bcg")  # metafor's table of log risk ratios and their variances
    yi = [-0.8893, -1.5854, -1.3481, -1.4416, -0.2175, -0.7861, -1.6209, 0.0120, -0.4694]
    yi += [-1.3713, -0.3394, 0.4459, -0.0173]
    vi = [0.3256, 0.1946, 0.4154, 0.0200, 0.0512, 0.0069, 0.2230, 0.0040, 0.0564, 0.0730, 0.0124]
    vi += [0.5325, 0.0714]
    np.testing.assert_allclose(bcg["yi"], yi, atol=5.1e-5)
    np.testing.assert_allclose(bcg["sei"] ** 2, vi, atol=5.1e-5)


def test_columns_made_from_others_are_as_described():
    cbpp, epilepsy = blm.load_dataset("cbpp"), blm.load_dataset("epilepsy")
    assert (cbpp["failures"] == cbpp["size"] - cbpp["incidence"]).all()
    np.testing.assert_allclose(epilepsy["lbase"], np.log(epilepsy["base"] / 4))
    np.testing.assert_allclose(epilepsy["lage"], np.log(epilepsy["age"]))
    assert (epilepsy["V4"] == (epilepsy["period"] == 4)).all()
    ticks = blm.load_dataset("grouseticks")
    height = ticks["HEIGHT"] - ticks["HEIGHT"].mean()
    np.testing.assert_allclose(ticks["cHEIGHT"], height / 100)


def test_wine_ratings_are_ordered_fifths_of_the_scale():
    wine = blm.load_dataset("wine")
    assert wine["rating"].cat.ordered
    assert wine["rating"].value_counts(sort=False).to_list() == [5, 22, 26, 12, 7]
    assert (wine["rating"].cat.codes == wine["response"] // 20).all()
    # every judge has every bottle once, a bottle is of one temperature and contact
    assert (wine.groupby(["judge", "bottle"], observed=True).size() == 1).all()
    assert wine.groupby(["bottle", "temp", "contact"], observed=True).ngroups == 8


def test_broods_are_in_one_location_and_chicks_have_a_level_each():
    ticks = blm.load_dataset("grouseticks")
    assert ticks.groupby("BROOD", observed=True)["LOCATION"].nunique().eq(1).all()
    assert ticks["INDEX"].is_unique
