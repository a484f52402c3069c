"""The same numbers as lme4 1.1-31, lmerTest 3.1-3 and pbkrtest 0.5.2.

Tolerances: lme4 was run with bobyqa to rhoend 1e-9, so its optimum is known to about 1e-5 in the
relative covariance factor. Log-likelihoods are compared to 1e-6 relative, coefficients in their
standard errors and standard errors to 1e-5, standard deviations to 1e-4, degrees of freedom and
F to 1e-3.
"""

from __future__ import annotations

import json
import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from tests.conftest import DATA, dataset, quietly


@cache
def references() -> list[dict]:
    return json.loads((DATA / "lme4.json").read_text())


@cache
def fitted(name: str, kind: str):
    reference = next(r for r in references() if r["name"] == name)
    model = quietly(reference["formula"], dataset(reference["data"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", blm.ModelWarning)
        return model.reml() if kind == "reml" else model.ml()


CASES = [(r["name"], kind) for r in references() for kind in ("reml", "ml")]
REML = [r["name"] for r in references()]


def _reference(name: str, kind: str = "reml") -> dict:
    return next(r for r in references() if r["name"] == name)[kind]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_optimum_and_its_estimates(name, kind):
    fit, expected = fitted(name, kind), _reference(name, kind)
    assert fit.converged
    assert fit.singular == expected["singular"]
    assert fit.loglik >= expected["loglik"] - 1e-6 * abs(expected["loglik"])
    assert fit.loglik == pytest.approx(expected["loglik"], rel=1e-6)
    for name_ in ("deviance", "aic", "bic"):
        assert getattr(fit, name_) == pytest.approx(expected[name_], rel=1e-6)
    table = fit.fixef("normal")
    se = np.array(list(expected["se"].values()))
    error = (table["estimate"].to_numpy() - list(expected["coef"].values())) / se
    assert np.max(np.abs(error)) < 1e-5
    np.testing.assert_allclose(table["se"], se, rtol=1e-5)
    assert fit.sigma == pytest.approx(expected["sigma"], rel=1e-5)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_variance_components(name, kind):
    fit, expected = fitted(name, kind), _reference(name, kind)
    ours = sorted(fit.components()[[n for n in fit.components().index if n.startswith("sd")]])
    theirs = sorted(
        row["sdcor"] for row in expected["varcorr"] if not row["var2"] and row["grp"] != "Residual"
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-10)
    ours = sorted(fit.components()[[n for n in fit.components().index if n.startswith("corr")]])
    theirs = sorted(row["sdcor"] for row in expected["varcorr"] if row["var2"])
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", REML)
def test_satterthwaite_tests(name):
    fit, expected = fitted(name, "reml"), _reference(name)["satterthwaite"]
    table = fit.fixef()
    np.testing.assert_allclose(table["df"], np.atleast_1d(expected["df"]), rtol=1e-3)
    np.testing.assert_allclose(table["t"], np.atleast_1d(expected["t"]), rtol=1e-4)
    np.testing.assert_allclose(table["p"], np.atleast_1d(expected["p"]), rtol=1e-3)


@pytest.mark.parametrize("name", [n for n in REML if "kenward_roger" in _reference(n)])
def test_kenward_roger_tests(name):
    fit, expected = fitted(name, "reml"), _reference(name)["kenward_roger"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", blm.ModelWarning)
        table = fit.fixef("kenward-roger")
    for column in ("se", "df", "t", "p"):
        np.testing.assert_allclose(table[column], np.atleast_1d(expected[column]), rtol=1e-3)


def _has_terms(reference: dict, ddf: str) -> bool:
    return bool(np.size(reference["reml"].get(f"anova3_{ddf}", {}).get("F", [])))


F_TESTS = [
    (r["name"], ddf)
    for r in references()
    for ddf in ("satterthwaite", "kenward_roger")
    if _has_terms(r, ddf)
]


@pytest.mark.parametrize(("name", "ddf"), F_TESTS)
def test_type_three_f_tests(name, ddf):
    expected = _reference(name)[f"anova3_{ddf}"]
    table = fitted(name, "reml").anova(3, ddf.replace("_", "-"))
    theirs = pd.DataFrame({k: np.atleast_1d(v) for k, v in expected.items()}).set_index("term")
    theirs = theirs.loc[table.index]
    np.testing.assert_allclose(table["numdf"], theirs["numdf"])
    np.testing.assert_allclose(table["dendf"], theirs["dendf"], rtol=1e-3)
    np.testing.assert_allclose(table["F"], theirs["F"], rtol=1e-3)
    np.testing.assert_allclose(table["p"], theirs["p"], rtol=1e-3, atol=1e-14)


def test_a_model_with_only_an_intercept_has_no_term_to_test():
    assert fitted("dyestuff", "reml").anova().empty


def _our_level(level: str, theirs: str, ours: str) -> str:
    """lme4's label ``b1:a1`` of ``b:a`` as ours of ``a:b``."""
    parts = dict(zip(theirs.split(":"), level.split(":"), strict=True))
    return ":".join(parts[column] for column in ours.split(":"))


@pytest.mark.parametrize("name", [n for n in REML if "ranef" in _reference(n)])
def test_random_effects_and_their_conditional_variances(name):
    fit, expected = fitted(name, "reml"), _reference(name)
    blocks = {frozenset(b.factor.columns): b for b in fit.design.blocks}
    for theirs, record in expected["ranef"].items():
        block = blocks[frozenset(theirs.split(":"))]
        table = fit.ranef(block.name).set_index(["level", "effect"])
        scale = max(float(table["estimate"].abs().max()), 1e-12)
        levels = [_our_level(level, theirs, block.name) for level in np.atleast_1d(record["level"])]
        for (label, values), effect in zip(record["values"].items(), block.effects, strict=True):
            assert label.replace("(", "").replace(")", "")[:4] == effect[:4]
            ours = table.loc[[(level, effect) for level in levels], "estimate"]
            np.testing.assert_allclose(ours, values, atol=1e-4 * scale)
        if "condvar_first" not in record:
            continue
        position = block.levels.index(levels[0])
        np.testing.assert_allclose(
            fit.conditional_covariances(block.name)[position],
            record["condvar_first"],
            rtol=1e-3,
            atol=1e-4 * np.max(np.abs(record["condvar_first"])) + 1e-14,
        )


@pytest.mark.parametrize("name", [n for n in REML if "fitted_first10" in _reference(n)])
def test_fitted_values(name):
    fit, expected = fitted(name, "reml"), _reference(name)
    scale = float(np.std(fit.design.y))
    for key, random in (
        ("fitted_first10", "conditional"),
        ("fitted_population_first10", "population"),
    ):
        ours = fit.fitted(random).to_numpy()[:10]
        np.testing.assert_allclose(ours, expected[key], atol=1e-5 * scale)
    total = fit.fitted() + fit.residuals()
    np.testing.assert_allclose(total, fit.design.y)


def test_dyestuff2_is_singular_with_a_standard_deviation_of_exactly_zero():
    with pytest.warns(blm.ModelWarning, match="sd\\(Intercept \\| Batch\\) is estimated as 0"):
        fit = blm.LMM("Yield ~ 1 + (1 | Batch)", dataset("dyestuff2")).reml()
    assert fit.components()["sd(Intercept | Batch)"] == 0.0
    assert fit.singular
    assert "Singular" in repr(fit)
    with pytest.warns(blm.ModelWarning, match="boundary"):
        assert fit.fixef()["df"].iloc[0] == pytest.approx(29, rel=1e-6)
    assert (fit.ranef()["estimate"] == 0).all()


# An unbalanced design with two crossed factors, against lmerTest; ``f:h:x`` is left out of type
# II because lmerTest takes it to be contained in nothing and in f at once there.
UNBALANCED = json.loads((DATA / "unbalanced_lmertest.json").read_text())


@pytest.mark.parametrize(
    "reference", UNBALANCED, ids=lambda r: f"{r['formula']}{' weighted' * r['weighted']}"
)
def test_unbalanced_designs_weights_and_offsets(reference):
    data = pd.read_csv(DATA / "unbalanced.csv")
    formula, options = reference["formula"], {}
    if reference["weighted"]:
        formula, options = formula.replace("~", "~ offset(o) +"), {"weights": "w"}
    fit = blm.LMM(formula, data, **options).reml()
    assert fit.loglik == pytest.approx(reference["loglik"], rel=1e-8)
    assert fit.sigma == pytest.approx(reference["sigma"], rel=1e-5)
    table = fit.fixef()
    names = [n.replace("[", "").replace("]", "") for n in table.index]
    theirs = [
        n.replace("(Intercept)", "Intercept").replace("^", " ** ") for n in reference["names"]
    ]
    table = table.iloc[[names.index(n) for n in theirs]]
    for column, key in (("estimate", "coef"), ("se", "se"), ("df", "df")):
        np.testing.assert_allclose(table[column], reference[key], rtol=1e-4)
    if not reference["weighted"]:  # pbkrtest leaves the weights out of its residual term
        kr = fit.fixef("kenward-roger").iloc[[names.index(n) for n in theirs]]
        np.testing.assert_allclose(kr["se"], reference["krse"], rtol=1e-5)
        np.testing.assert_allclose(kr["df"], reference["krdf"], rtol=1e-4)
    for key, type_ in (("a1", 1), ("a2", 2), ("a3", 3)):
        expected = pd.DataFrame({k: np.atleast_1d(v) for k, v in reference[key].items()})
        expected["term"] = [t.replace("^", " ** ") for t in expected["term"]]
        expected = expected.set_index("term").drop("f:h:x" if key == "a2" else [], errors="ignore")
        ours = fit.anova(type_).loc[expected.index]
        np.testing.assert_allclose(ours["F"], expected["F"], rtol=1e-4)
        np.testing.assert_allclose(ours["dendf"], expected["dendf"], rtol=1e-3)
        np.testing.assert_allclose(ours["numdf"], expected["numdf"])
    if "emm" in reference:
        means = fit.marginal_means("f")
        np.testing.assert_allclose(means["se"], reference["emm"]["se"], rtol=1e-4)
        np.testing.assert_allclose(means["df"], reference["emm"]["df"], rtol=1e-3)
        if not reference["weighted"]:  # emmeans adds the mean offset
            np.testing.assert_allclose(means["estimate"], reference["emm"]["mean"], rtol=1e-6)
        pairs = fit.pairwise("f", adjust="tukey")
        np.testing.assert_allclose(pairs["estimate"], reference["pairs"]["est"], rtol=1e-4)
        np.testing.assert_allclose(pairs["p"], reference["pairs"]["p"], atol=1e-5)
