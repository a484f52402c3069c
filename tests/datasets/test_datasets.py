"""Data sets: there, described, and as published."""

from __future__ import annotations

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
