"""Data whose likelihood has no maximum are refused, with the coefficients that go to infinity."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm

ROWS = pd.DataFrame({"x": np.arange(24.0), "z": np.resize([0.0, 1, -1, 2, 0], 24)})
ROWS["g"] = np.resize(np.arange(4), 24)


@pytest.mark.parametrize(
    ("family", "y", "formula", "moving"),
    [
        ("bernoulli", ROWS["x"] > 11, "y ~ z + x + (1 | g)", "x towards plus"),
        ("bernoulli", ROWS["x"] < 11, "y ~ z + x + (1 | g)", "x towards minus"),
        ("poisson", np.maximum(ROWS["x"] - 12, 0), "y ~ I(x < 12) + z + (1 | g)", "minus infinity"),
        ("ordinal", ROWS["x"] // 8, "y ~ z + x + (1 | g)", "x towards plus"),
    ],
)
def test_what_goes_to_infinity_is_named(family, y, formula, moving):
    model = blm.MixedModel(formula, ROWS.assign(y=y), family=family)
    with pytest.raises(blm.DataError, match=f"separate the values of 'y'.*{moving}"):
        model.ml()


@pytest.mark.filterwarnings("ignore:Singular fit")
@pytest.mark.parametrize("family", ["bernoulli", "poisson", "ordinal"])
def test_data_that_overlap_have_a_maximum(family):
    rng = np.random.default_rng(3)
    y = rng.permutation(np.resize([0, 1, 2, 1] if family != "bernoulli" else [0, 1], 24))
    fit = blm.MixedModel("y ~ z + x + (1 | g)", ROWS.assign(y=y), family=family).ml()
    assert np.isfinite(fit.loglik)
