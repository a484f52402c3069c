"""Comparing models: only what is comparable is compared."""

from __future__ import annotations

import warnings
from functools import cache

import arviz as az
import numpy as np
import pytest

import bayeslmm as blm
from tests.conftest import dataset, quietly


@cache
def _fit(formula: str = "effort ~ Type + (1 | Subject)", rows: str = "all"):
    data = dataset("ergostool")
    data = {"all": data, "fewer": data.iloc[:-4], "turned": data.iloc[::-1]}[rows]
    return quietly(formula, data).fit(draws=300, chains=2, random_seed=11, progressbar=False)


def _small(**options):
    return _fit("effort ~ 1 + (1 | Subject)", **options)


def test_posteriors_are_compared_as_arviz_does():
    table = blm.compare_models({"type": _fit(), "none": _small()}, progressbar=False)
    loos = {"type": _fit().loo(progressbar=False), "none": _small().loo(progressbar=False)}
    expected = az.compare(loos, round_to="none")
    assert table.index.tolist() == ["type", "none"]
    np.testing.assert_allclose(table["elpd"].astype(float), expected["elpd"].astype(float))
    again = blm.compare_models({"type": loos["type"], "none": _small()}, progressbar=False)
    np.testing.assert_allclose(again["elpd"].astype(float), expected["elpd"].astype(float))
    groups = blm.compare_models({"a": _fit(), "b": _small()}, unit="Subject", progressbar=False)
    assert np.isfinite(groups["elpd"].astype(float)).all()


def test_what_differs_is_said():
    whole = _fit()
    with pytest.raises(ValueError, match="different rows \\(36 and 32\\)"):
        blm.compare_models({"a": whole, "b": _fit(rows="fewer")})
    with pytest.raises(ValueError, match="different order"):
        blm.compare_models({"a": whole, "b": _fit(rows="turned")})
    with pytest.raises(ValueError, match="different responses \\(effort and np.log"):
        blm.compare_models({"a": whole, "b": _fit("np.log(effort) ~ Type + (1 | Subject)")})
    by_row = whole.loo(progressbar=False)
    by_group = _small().loo("Subject", progressbar=False)
    with pytest.raises(ValueError, match="leaves out each Subject, not each observation"):
        blm.compare_models({"a": by_row, "b": by_group})
    with pytest.raises(ValueError, match="leaves out each observation, not each Subject"):
        blm.compare_models({"a": by_row, "b": _small()}, unit="Subject")
    given = _small().loo(conditional=True)
    with pytest.raises(ValueError, match="'b' is given the random effects"):
        blm.compare_models({"a": by_row, "b": given})
    with pytest.raises(ValueError, match="Give the fit"):
        blm.compare_models({"a": whole, "b": az.loo(whole.idata, pointwise=True)})
    with pytest.raises(ValueError, match="at least two"):
        blm.compare_models({"a": whole})


def test_likelihood_fits_are_compared_by_criteria():
    data = dataset("sleepstudy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", blm.ModelWarning)
        slopes = quietly("Reaction ~ Days + (Days | Subject)", data)
        plain = quietly("Reaction ~ Days + (1 | Subject)", data)
        flat = quietly("Reaction ~ 1 + (Days | Subject)", data)
        table = blm.compare_models({"plain": plain.ml(), "slopes": slopes.ml(), "flat": flat.ml()})
        assert table.index.tolist() == ["slopes", "flat", "plain"]
        # lme4's ML fits: AIC 1763.94, 1785.48 (flat), 1802.08
        assert table.loc["slopes", "aic"] == pytest.approx(1763.939, abs=1e-2)
        assert table.loc["plain", "aic"] == pytest.approx(1802.079, abs=1e-2)
        assert table.loc["slopes", ["df", "delta_aic"]].tolist() == [6, 0]
        assert blm.compare_models({"a": plain.reml(), "b": slopes.reml()}).index[0] == "b"
        expected = blm.compare_models({"a": plain.reml(), "b": slopes.reml()})
        hours = quietly("Reaction ~ Hours + (Hours | Subject)", data.assign(Hours=24 * data.Days))
        ours = blm.compare_models({"a": plain.reml(), "b": hours.reml()})
        np.testing.assert_allclose(ours, expected, rtol=1e-7, atol=1e-4)
        with pytest.raises(ValueError, match=r"different fixed effects.*model.ml\(\)"):
            blm.compare_models({"a": slopes.reml(), "b": flat.reml()})
        with pytest.raises(ValueError, match="REML fit and 'b' a ML fit"):
            blm.compare_models({"a": slopes.reml(), "b": slopes.ml()})
        with pytest.raises(ValueError, match="either, not both"):
            blm.compare_models({"a": slopes.reml(), "b": _fit()})
        with pytest.raises(ValueError, match="leave-one-out of posteriors"):
            blm.compare_models({"a": slopes.ml(), "b": plain.ml()}, unit="Subject")
        fewer = quietly("Reaction ~ Days + (1 | Subject)", data.iloc[:-1])
        with pytest.raises(ValueError, match="different rows"):
            blm.compare_models({"a": slopes.ml(), "b": fewer.ml()})
    with pytest.warns(blm.ModelWarning, match="that of 'b' is given for the columns of 'a'"):
        blm.compare_models({"a": plain.reml(), "b": hours.reml()})
