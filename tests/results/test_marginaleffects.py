"""What marginaleffects makes of a likelihood fit is what the fit says itself."""

from __future__ import annotations

import sys
from importlib.metadata import version

import numpy as np
import pytest

import bayeslmm as blm
from bayeslmm.results.marginaleffects_model import _model_class
from tests.conftest import dataset


def gaussian() -> blm.LikelihoodFit:
    data = dataset("mathachieve").iloc[::8]
    return blm.LMM("MathAch ~ SES * Sex + Minority + (1 | School)", data).reml()


def bernoulli() -> blm.LikelihoodFit:
    data = dataset("contraception").iloc[::4]
    return blm.MixedModel(
        "use ~ age * urban + livch + offset(age / 10) + (1 | district)", data, family="bernoulli"
    ).ml()


@pytest.mark.filterwarnings("ignore:Column 'livch' is text")
@pytest.mark.parametrize(
    ("make", "number", "factor", "by"),
    [(gaussian, "SES", "Sex", "Minority"), (bernoulli, "age", "livch", "urban")],
)
def test_its_averages_comparisons_and_slopes_are_ours(make, number, factor, by):
    pytest.importorskip("marginaleffects")
    if int(version("polars").split(".")[0]) >= 2:
        pytest.skip("marginaleffects needs polars < 2")
    import marginaleffects as me

    fit = make()
    model, normal = fit.to_marginaleffects(), {"ddf": "normal"}
    ends = {number: [-1, 1]}
    precise = {"eps_vcov": 1e-4}  # of their numerical derivatives
    asked = [
        ([], me.avg_predictions(model), fit.predictions(**normal)),
        ([by], me.avg_predictions(model, by=by), fit.predictions(by, **normal)),
        (
            ["contrast"],
            me.avg_comparisons(model, variables=factor),
            fit.comparisons(factor, **normal),
        ),
        (
            [],
            me.avg_comparisons(model, variables=ends),
            fit.comparisons({number: (-1, 1)}, **normal),
        ),
        (
            [by],
            me.avg_slopes(model, variables=number, by=by, **precise),
            fit.slopes(number, by, **normal),
        ),
    ]
    for labels, theirs, ours in asked:
        for label in labels:
            assert theirs[label].to_list() == ours[label].astype(str).tolist()
        np.testing.assert_allclose(theirs["estimate"].to_numpy(), ours["estimate"], rtol=1e-7)
        # forward differences: about the root of the rounding error over their step
        np.testing.assert_allclose(theirs["std_error"].to_numpy(), ours["se"], rtol=1e-3)


def test_what_it_would_get_wrong_is_refused(monkeypatch):
    wine = blm.MixedModel("rating ~ temp + (1 | judge)", dataset("wine"), family="ordinal").ml()
    with pytest.raises(blm.DataError, match="depend on more than the coefficients"):
        wine.to_marginaleffects()
    machines = dataset("machines").assign(twice=lambda d: (d["Machine"] == "B") * 2.0)
    with pytest.warns(blm.ModelWarning):
        aliased = blm.LMM("score ~ Machine + twice + (1 | Worker)", machines).reml()
    with pytest.raises(blm.DataError, match="twice cannot be estimated apart"):
        aliased.to_marginaleffects()
    _model_class.cache_clear()
    monkeypatch.setitem(sys.modules, "marginaleffects.classes", None)
    fit = blm.LMM("score ~ Machine + (1 | Worker)", dataset("machines")).reml()
    with pytest.raises(blm.DataError, match=r"pip install 'bayeslmm\[marginaleffects\]'"):
        fit.to_marginaleffects()
