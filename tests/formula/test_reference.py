"""The level of a factor that the others are compared with."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.errors import DataError, FormulaError

_RNG = np.random.default_rng(3)
DATA = pd.DataFrame({"g": np.repeat(np.arange(12), 5), "x": _RNG.normal(size=60)})
DATA["arm"] = np.array(["drug", "none", "placebo"])[DATA["g"] % 3]
DATA["dose"] = DATA["g"] % 2
DATA["y"] = DATA["x"] + (DATA["arm"] == "drug") + _RNG.normal(size=60)
FORMULA = "y ~ x * arm + (1 | g)"


def ordered() -> pd.DataFrame:
    levels = ["placebo", "drug", "none"]
    return DATA.assign(arm=pd.Categorical(DATA["arm"], levels))


@pytest.mark.parametrize("batches", [False, True])
def test_a_reference_level_is_what_categories_with_that_one_first_are(batches):
    data = blm.scan(DATA, batch_rows=20) if batches else DATA
    model = blm.LMM(FORMULA, data, reference={"arm": "placebo"})
    assert model.design.coef_names == blm.LMM(FORMULA, ordered()).design.coef_names
    found, expected = model.reml(), blm.LMM(FORMULA, ordered()).reml()
    np.testing.assert_allclose(found.fixef()["estimate"], expected.fixef()["estimate"], rtol=1e-6)
    new = pd.DataFrame({"x": [0.5, 0.5], "arm": ["placebo", "drug"]})
    np.testing.assert_allclose(
        found.predict(new, random="population")["estimate"],
        expected.predict(new, random="population")["estimate"],
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    ("reference", "error", "message"),
    [
        ({"arm": "plazebo"}, DataError, "no level 'plazebo'. Did you mean 'placebo'.*drug, none"),
        ({"arn": "placebo"}, FormulaError, "'arn', which is not in the formula. Did you mean 'arm"),
        ({"dose": 1}, FormulaError, "not in the formula"),
        ({"x": 1}, DataError, "'x' is no factor"),
        ({"y": 1}, FormulaError, "'y' is the response"),
    ],
)
@pytest.mark.parametrize("batches", [False, True])
def test_a_reference_level_that_is_none_is_refused(reference, error, message, batches):
    data = blm.scan(DATA, batch_rows=20) if batches else DATA
    with pytest.raises(error, match=message):
        blm.LMM(FORMULA, data, reference=reference)


def test_a_level_whose_rows_are_left_out_is_no_reference():
    gaps = DATA.assign(x=DATA["x"].where(DATA["arm"] != "placebo"))
    with pytest.raises(DataError, match="no level 'placebo'"):
        blm.LMM(FORMULA, gaps, reference={"arm": "placebo"})


def test_values_that_are_unknown_have_no_other_reference():
    data = DATA.assign(arm=np.where(DATA["g"] % 2, "a", "b")).astype({"arm": object})
    data.loc[3, "arm"] = None
    with pytest.raises(DataError, match="'arm' has unknown values"):
        blm.LMM(FORMULA, data, missing="model", reference={"arm": "b"})
