"""Fits of responses that are not Gaussian: saved, copied, reported, and asked for everything."""

from __future__ import annotations

import pickle
import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm

SMALL = {"draws": 100, "chains": 2, "random_seed": 1, "progressbar": False}
MODELS = {
    "binomial": ("k of m ~ x + (1 | g)", "cloglog"),
    "bernoulli": ("event ~ x + (1 | g)", "probit"),
    "ordinal": ("grade ~ x + (1 | g)", "logit"),
    "negativebinomial": ("k ~ x + offset(z) + (1 | g)", "log"),
}


@cache
def _data() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    data = pd.DataFrame({"g": [f"s{i}" for i in np.repeat(np.arange(10), 6)]})
    data["x"], data["z"] = rng.normal(size=60), rng.normal(size=60)
    data["m"] = rng.integers(3, 9, 60)
    data["k"] = rng.binomial(data["m"], 0.4)
    data["event"] = np.where(rng.random(60) < 0.4, "yes", "no")
    data["grade"] = pd.Categorical(
        np.array(["low", "mid", "top"])[rng.integers(0, 3, 60)], ["low", "mid", "top"], ordered=True
    )
    data.loc[7, "x"] = np.nan
    return data


@cache
def _fit(family: str) -> blm.PosteriorFit:
    formula, link = MODELS[family]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return blm.MixedModel(formula, _data(), family=family, link=link).fit(**SMALL)


@cache
def _ml(family: str) -> blm.LikelihoodFit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _fit(family).model.ml()


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("way", ["file", "pickle"])
def test_a_fit_comes_back_as_it_was(family, way, tmp_path):
    fit = _fit(family)
    if way == "file":
        fit.save(tmp_path / "fit.nc")
        back = blm.load(tmp_path / "fit.nc")
    else:
        back = pickle.loads(pickle.dumps(fit))
    one, other = fit.model, back.model
    assert (other.family, other.link) == (one.family, one.link)
    assert other.design.categories == one.design.categories
    np.testing.assert_array_equal(other.design.y, one.design.y)
    if one.design.trials is not None:
        np.testing.assert_array_equal(other.design.trials, one.design.trials)
    assert other.design.missing.n_rows == 60
    assert repr(other) == repr(one)
    assert repr(back) == repr(fit)
    pd.testing.assert_frame_equal(back.summary(), fit.summary())
    new = _data().iloc[:4]
    pd.testing.assert_frame_equal(back.predict(new), fit.predict(new))


@pytest.mark.parametrize("family", ["gaussian", "binomial"])
def test_a_file_has_the_response_that_was_fitted(family, tmp_path):
    """Which with_response gave, and the columns do not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if family == "gaussian":
            model = blm.LMM("z ~ x + (1 | g)", _data())
        else:
            model = _fit("binomial").model
        other = model.with_response(np.minimum(model.design.y + 1.0, 3.0))
        fit = other.fit(**SMALL)
    fit.save(tmp_path / "fit.nc")
    back = blm.load(tmp_path / "fit.nc")
    np.testing.assert_array_equal(back.model.design.y, other.design.y)
    assert not np.array_equal(back.model.design.y, model.design.y)


def test_a_file_whose_draws_lack_a_parameter_of_the_family_is_refused(tmp_path):
    fit = _fit("negativebinomial")
    less = blm.PosteriorFit(fit.model, fit.priors, fit.idata.copy(), fit.info)
    less.idata["posterior"] = less.idata["posterior"].to_dataset().drop_vars("alpha")
    less.save(tmp_path / "fit.nc")
    with pytest.raises(blm.FileFormatError, match="no draws of 'alpha'"):
        blm.load(tmp_path / "fit.nc")


def test_a_fit_says_its_family_and_the_rows_left_out():
    text = _fit("bernoulli").describe()
    assert "family bernoulli, link probit" in text
    assert "59 rows" in text
    assert "Note: " in text


@pytest.mark.parametrize("family", MODELS)
def test_the_report_of_every_family_has_what_makes_sense(family, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        page = _fit(family).report(tmp_path / "report.html").read_text()
    for title in ("Data", "Priors", "Diagnostics", "Coefficients", "Variance components"):
        assert f">{title}</h2>" in page
    assert ">Power-scaling</h2>" in page
    assert ">Reanalysis</h2>" not in page
    assert "could not be drawn" not in page
    assert "Maximum likelihood, 95 % intervals" in page
    assert "linear mixed model" not in page
    assert f"through the {MODELS[family][1]} link" in page
    assert f"family=&#39;{family}&#39;" in page
    ratio = {"logit": "odds ratio", "log": "rate ratio", "cloglog": "hazard ratio"}
    for link, name in ratio.items():
        assert (f">{name}<" in page) == (link == MODELS[family][1])


def test_the_code_in_a_report_makes_the_model_again():
    from bayeslmm.report.content import Settings, reproducing_code

    fit = _fit("binomial")
    code = reproducing_code(fit, Settings(None, {}, "", 0.95, "frame"))
    scope = {"frame": _data(), "blm": blm}
    (line,) = (line for line in code.splitlines() if line.startswith("model = "))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(line.replace(", data", ", frame"), scope)
    assert repr(scope["model"]) == repr(fit.model)


POSTERIOR = {
    "condition_on": lambda f: f.condition_on(_data().iloc[:3]),
    "predict given": lambda f: f.predict(_data().iloc[:3], given=_data().iloc[:3]),
    "heritability": lambda f: f.heritability(),
    "repeatability": lambda f: f.repeatability("g"),
    "implied covariance": lambda f: f.implied_covariance(),
    "reliability": lambda f: f.reliability(),
    "trajectories": lambda f: f.plot_trajectories(),
    "shrinkage": lambda f: f.plot_shrinkage(),
    "marginal equation": lambda f: f.equation("marginal"),
    "assurance": lambda f: blm.assurance(
        f.model, "x", blm.Prior("Normal", mu=0, sigma=1), n_groups=10, n_sims=2
    ),
    "reml": lambda f: f.model.reml(),
    "marginal model": lambda f: f.model.pymc_model("marginal"),
    "summaries": lambda f: f.model.fit(**SMALL, random_effects="summary"),
}
LIKELIHOOD = {
    "Kenward-Roger": lambda f: f.fixef("kenward-roger"),
    "heritability": lambda f: f.heritability(),
    "repeatability": lambda f: f.repeatability("g"),
    "implied covariance": lambda f: f.implied_covariance(),
    "reliability": lambda f: f.reliability(),
    "predict given": lambda f: f.predict(_data().iloc[:3], given=_data().iloc[:3]),
}


@pytest.mark.parametrize("family", ["bernoulli", "ordinal", "negativebinomial"])
@pytest.mark.parametrize("what", POSTERIOR)
def test_what_a_posterior_has_no_formula_for_is_refused_by_name(family, what):
    with pytest.raises(blm.BayesLMMError, match=f'family="{family}"'):
        POSTERIOR[what](_fit(family))


@pytest.mark.parametrize("family", ["bernoulli", "ordinal", "negativebinomial"])
@pytest.mark.parametrize("what", LIKELIHOOD)
def test_what_a_likelihood_fit_has_no_formula_for_is_refused_by_name(family, what):
    with pytest.raises(blm.BayesLMMError, match=f'family="{family}"'):
        LIKELIHOOD[what](_ml(family))


@pytest.mark.parametrize("family", ["bernoulli", "ordinal", "negativebinomial"])
def test_refusals_say_what_to_use_in_place(family):
    with pytest.raises(blm.DataError, match="posterior_predictive"):
        POSTERIOR["assurance"](_fit(family))


def test_a_report_with_an_effect_has_its_ratios_and_averages(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = _fit("negativebinomial").report(tmp_path / "report.html", effect="x", mcid=1.3)
    page = found.read_text()
    assert ">Reanalysis</h2>" in page
    assert "Minimal important difference 1.3" in page
    assert "beside ML" in page
    assert "Averages over rows and groups" in page
    assert "mean_without" in page
    with pytest.raises(ValueError, match="1 means no difference"):
        _fit("negativebinomial").report(tmp_path / "report.html", effect="x", mcid=1.0)
