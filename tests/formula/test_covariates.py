"""Covariates with unknown values: how the matrices depend on them, and what may be said of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.formula import build_design
from bayeslmm.formula.covariates import missing_option
from tests.conftest import quietly


@pytest.fixture(scope="module")
def full() -> pd.DataFrame:
    """90 rows of 30 people at 6 sites, every column complete."""
    rng = np.random.default_rng(11)
    person = np.repeat(np.arange(30), 3)
    n = len(person)
    return pd.DataFrame(
        {
            "person": person,
            "site": np.array([f"s{p % 6}" for p in person]),
            "y": rng.normal(size=n),
            "count": rng.poisson(3, n),
            "x": rng.normal(5, 2, n),
            "z": rng.normal(size=n),
            "w": rng.uniform(1, 2, n),
            "age": rng.normal(50, 10, 30)[person],
            "sex": rng.choice(["f", "m"], 30)[person],
            "sick": rng.random(n) < 0.4,
            "dose": rng.choice([1.0, 3.0], n),
            "arm": rng.choice(["a", "b", "c"], n),
            "sd": rng.uniform(0.2, 0.6, n),
        }
    )


@pytest.fixture(scope="module")
def gaps(full) -> pd.DataFrame:
    """The same with values missing."""
    rng = np.random.default_rng(12)
    data = full.copy()
    for name in ("x", "dose"):
        data[name] = data[name].where(rng.random(len(data)) > 0.2)
    data["sick"] = data["sick"].astype("boolean").where(rng.random(len(data)) > 0.2)
    data["sex"] = data["sex"].where(~data["person"].isin([3, 7, 20]))
    data["age"] = data["age"].where(~data["person"].isin([2, 9]))
    data["hole"] = data["z"].where(np.arange(len(data)) != 5)
    return data


def design_of(formula, data, missing="model", **options):
    return build_design(formula, data, missing=missing, **options)


def at_truth(design, full: pd.DataFrame):
    """The matrices once every unknown has its true value."""
    X, Z = design.X.copy(), [block.Z.copy() for block in design.blocks]
    for covariate in design.modeled:
        true = full[covariate.name].iloc[design.rows[covariate.rows]]
        if covariate.values is not None:
            true = true == covariate.values[1]
        change = (true.to_numpy(float) - covariate.fill)[:, None]
        X[covariate.rows] += change * covariate.X_slope
        for own, slope in zip(Z, covariate.Z_slopes, strict=True):
            own[covariate.rows] += change * slope
    return X, Z


@pytest.mark.parametrize(
    "formula",
    [
        "y ~ x * arm + I(2 * x):z + (x | person) + (0 + arm:x | site)",
        "y ~ sex * z + (1 | person)",
        "y ~ 0 + sex + z + (sex || person)",
        "y ~ sick:z + C(arm):sick + (1 | person)",
        "y ~ C(sex, Sum) * z + C(sick) + (1 | person)",
        "y ~ dose * arm + C(dose) * z + (dose | site)",
        "y ~ x + age + sex + sick + dose + (sick | site) + (1 | person)",
        "count ~ x * arm + sex + (1 | person)",
    ],
)
def test_missing_values_enter_as_they_would_if_known(formula, full, gaps):
    design = design_of(formula, gaps)
    assert design.n_rows == len(full)
    assert design.modeled
    X, Z = at_truth(design, full)
    known = design_of(formula, full, missing="drop")
    assert not known.modeled
    np.testing.assert_allclose(X, known.X, atol=1e-10)
    for own, block in zip(Z, known.blocks, strict=True):
        np.testing.assert_allclose(own, block.Z, atol=1e-10)


@pytest.mark.parametrize("sd", ["sd", "0.5"])
def test_readings_enter_as_the_truth_would_if_known(sd, full):
    read = full.assign(x=full["x"] + np.random.default_rng(3).normal(0, full["sd"]))
    text = f"y ~ me(x, {sd}) * arm + z + (1 + me(x, {sd}) | site)"
    design = design_of(text, read, missing="drop")
    (x,) = design.modeled
    assert x.measured
    assert f"me(x, {sd}):arm[b]" in design.coef_names
    assert len(x.rows) == x.n_unknown == len(full)
    np.testing.assert_array_equal(x.fill, read["x"])
    np.testing.assert_array_equal(x.model.reading, read["x"])
    np.testing.assert_array_equal(x.model.error, full["sd"] if sd == "sd" else 0.5)
    X, (Z,) = at_truth(design, full)
    known = design_of(text.replace(f"me(x, {sd})", "x"), full, missing="drop")
    np.testing.assert_allclose(X, known.X, atol=1e-10)
    np.testing.assert_allclose(Z, known.blocks[0].Z, atol=1e-10)


def test_exact_readings_are_known_and_missing_ones_have_none(full, gaps):
    data = gaps.assign(sd=full["sd"].where(np.arange(len(full)) % 2 == 0, 0.0))
    data["sd"] = data["sd"].where(data["x"].notna())
    (x,) = design_of("y ~ me(x, sd) + (1 | site)", data).modeled
    gone, even = data["x"].isna().to_numpy(), np.arange(len(data)) % 2 == 0
    np.testing.assert_array_equal(x.rows, np.flatnonzero(gone | even))
    np.testing.assert_array_equal(np.isnan(x.model.reading), gone)
    np.testing.assert_array_equal(x.model.error > 0, even & ~gone)
    np.testing.assert_array_equal(x.missing_rows, np.flatnonzero(gone))
    np.testing.assert_array_equal(x.model.unknown[x.rows], np.arange(len(x.rows)))
    dropped = design_of("y ~ me(x, sd) + (1 | site)", data, missing="drop")
    assert dropped.n_rows == int((~gone).sum())
    assert not dropped.missing.modeled


def test_a_reading_of_a_group_is_one_unknown(full):
    data = full.assign(own=full.groupby("person")["sd"].transform("first"))
    (age,) = design_of("y ~ me(age, own) + (1 | person) + (1 | site)", data).modeled
    assert age.n_unknown == 30
    (age,) = design_of("y ~ me(age, sd) + (1 | person)", data).modeled
    assert age.n_unknown == len(data)  # other errors in a group: other readings


def test_a_value_of_the_coarsest_factor_that_has_one_is_shared(full):
    height = full["site"].str[1].astype(float).where(full["site"] != "s2")
    (found,) = design_of("y ~ h + (1 | person) + (1 | site)", full.assign(h=height)).modeled
    assert found.n_unknown == 1
    assert len(found.observed) == 5


def test_the_regression_is_of_centered_columns_over_units(full, gaps):
    mapping = {"age": "~ sex + I(edu ** 2) + (1 | site)", "x": "x ~ z * arm"}
    data = gaps.assign(edu=np.random.default_rng(1).normal(size=30)[full["person"]])
    data["sex"] = full["sex"]
    design = design_of("y ~ age + x + (1 | person)", data, mapping)
    assert {"sex", "edu", "z", "arm"} <= set(design.table.columns)
    age, x = sorted(design.modeled, key=lambda one: one.name)
    people = data.groupby("person").first()
    expected = np.column_stack([people["sex"] == "m", people["edu"] ** 2]).astype(float)
    means = expected.mean(axis=0)
    assert age.model.names == ("Intercept", "sex[m]", "I(edu ** 2)")
    np.testing.assert_allclose(age.model.means, [0, *means])
    np.testing.assert_allclose(age.model.W, np.column_stack([np.ones(30), expected - means]))
    assert age.model.factor == "site"
    labels = np.array(age.model.levels)[age.model.codes]
    np.testing.assert_array_equal(labels, people["site"])
    np.testing.assert_array_equal(np.flatnonzero(age.model.unknown >= 0), [2, 9])
    np.testing.assert_array_equal(age.model.reading, people["age"])
    assert len(x.model.names) == 6
    np.testing.assert_allclose(x.model.W[:, 1:].mean(axis=0), 0, atol=1e-12)


def test_a_mapping_keeps_the_rows_of_its_covariates_only(gaps):
    design = design_of("y ~ x + age + hole + (1 | site)", gaps, {"x": "~ z"})
    lost = gaps[["age", "hole"]].isna().any(axis=1)
    assert design.n_rows == int((~lost).sum())
    assert [one.name for one in design.modeled] == ["x"]
    assert design.missing.by_column["age"] == 6
    whole = design_of("y ~ z + (1 | site)", gaps, {"z": "~ arm + hole"})
    assert not whole.modeled  # nothing of it is missing
    assert whole.n_rows == len(gaps)
    assert missing_option(whole.modeled) == "drop"
    assert missing_option(design.modeled) == {"x": "~ z"}


def test_the_regression_of_a_measured_covariate_needs_no_missing_value(full):
    (x,) = design_of("y ~ me(x, sd) + (1 | site)", full, {"x": "x ~ z + (1 | person)"}).modeled
    assert x.model.names == ("Intercept", "z")
    assert (x.model.factor, len(x.model.levels)) == ("person", 30)
    (x,) = design_of("y ~ me(x, sd) + (1 | site)", full, "drop").modeled
    assert x.model.names == ("Intercept",)


def test_the_more_frequent_value_stands_in_the_matrices(full, gaps):
    design = design_of("y ~ sex + sick + dose + (1 | person)", gaps)
    for one in design.modeled:
        seen = gaps[one.name].dropna()
        low, high = sorted(seen.unique())
        assert one.values == (low, high)
        common = float((seen == high).sum() > (seen == low).sum())
        assert set(one.fill) == {common}
        at = one.model.unknown < 0
        assert set(one.model.reading[at]) == {0.0, 1.0}
    sex = next(one for one in design.modeled if one.name == "sex")
    assert sex.n_unknown == 3


def test_new_data_need_no_errors_of_readings(full):
    design = design_of("y ~ me(x, sd) * z + (1 | site)", full, "drop")
    new = full[["x", "z", "site"]].head(3)
    X = design.evaluate(new).X
    np.testing.assert_allclose(X, np.column_stack([np.ones(3), new.x, new.z, new.x * new.z]))


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"x": "age ~ z"}, "left side has to be the covariate itself"),
        ({"x": "x ~ z + (z | site)"}, r"\(z \| site\) has random slopes"),
        ({"x": "x ~ (1 | site) + (1 | person)"}, "one random intercept at most"),
        ({"x": "x ~ 0 + z"}, "needs its intercept"),
        ({"x": "x ~ y"}, "'y' is the response"),
        ({"x": "x ~ age", "age": "~ 1"}, "'age' has missing values that are modeled"),
        ({"x": "x ~ hole"}, "'hole' is missing in 1 of the rows used"),
        ({"x": "x ~ x"}, "'x' is unknown itself"),
        ({"x": "x ~ within(z, site)"}, "no place in the regression"),
        ({"x": "x ~ me(z, 1)"}, "no place in the regression"),
        ({"x": "x ~ offset(z)"}, "offset"),
        ({"x": "x ~ nowhere"}, "no column of 'x ~ nowhere', 'nowhere'"),
        ({"x": "x ~ one"}, "'one' is the same"),
        ({"x": "x ~ (1 | row)"}, "cannot be told apart"),
        ({"x": 3}, "needs a formula"),
        ({"x": "z"}, 'has no "~"'),
        ({"z": "z ~ arm"}, "not among the covariates"),
        ({"age": "age ~ z"}, "one value per level of 'person', and z varies"),
        ({"age": "age ~ (1 | arm)"}, "one value per level of 'person', and arm varies"),
        ({"sex": "sex ~ (1 | site)"}, "has two values"),
    ],
)
def test_regressions_that_cannot_be_are_refused(mapping, message, gaps):
    data = gaps.assign(one=1.0, row=np.arange(len(gaps)))
    with pytest.raises(blm.BayesLMMError, match=message):
        design_of("y ~ x + age + sex + (1 | person)", data, mapping)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("y ~ me(x, sd) + x", "used both as me"),
        ("y ~ me(x, sd) + (x | site)", "used both as me"),
        ("y ~ me(x, sd) + within(x, site)", "used both as me"),
        ("y ~ me(x, sd) + (1 | x)", "used both as me"),
        ("y ~ me(x, sd) + me(x, 0.1):z", "two standard deviations"),
        ("y ~ me(log(x), sd)", "a column as it stands"),
        ("y ~ log(me(x, sd))", "inside another call"),
        ("y ~ I(me(x, sd) * z)", "inside another call"),
        ("y ~ offset(me(x, sd))", "inside another call"),
        ("y ~ between(me(x, sd), site)", "inside another call"),
        ("me(y, sd) ~ x", "for covariates"),
        ("y | se(me(sd, 1)) ~ x", "for covariates"),
        ("y ~ me(x)", "takes a column and the standard deviation"),
        ("y ~ me(x, sd, 2)", "takes a column and the standard deviation"),
        ("y ~ me(x, sd=sd)", "takes a column and the standard deviation"),
        ("y ~ me(x, -1)", "a column or a positive number"),
        ("y ~ me(x, 0)", "a column or a positive number"),
        ("y ~ me(x, x)", "their own standard deviations"),
        ("y ~ me(x, nowhere)", "no column 'nowhere'"),
        ("y ~ me(x, low)", "'low', the standard deviation .* is -1 in row 4"),
        ("y ~ me(x, site)", "has to be numbers"),
        ("y ~ me(site, sd)", "me\\(\\) is of numbers"),
        ("y ~ me(x, sd):me(z, sd)", "unknown values of both"),
    ],
)
def test_readings_that_cannot_be_are_refused(formula, message, full):
    data = full.assign(low=np.where(np.arange(len(full)) == 4, -1.0, 0.3))
    with pytest.raises(blm.BayesLMMError, match=message):
        design_of(formula, data, "drop")


def test_a_measured_column_is_not_exact_in_the_residuals_either(full):
    for options in ({"sigma": "~ x"}, {"residual": "car1(x | person)"}):
        with pytest.raises(blm.FormulaError, match="used both as me"):
            design_of("y ~ me(x, sd) + (1 | site)", full, "drop", **options)


def test_a_missing_time_or_scale_of_residuals_costs_the_row(full):
    data = full.assign(x=full["x"].where(np.arange(len(full)) != 7))
    design = design_of("y ~ z + x + (1 | site)", data, sigma="~ x")
    assert design.n_rows == len(full) - 1
    assert not design.modeled


def test_two_values_are_refused_beside_what_has_no_sampler_of_them(full, gaps):
    with pytest.raises(blm.DataError, match="residual= or sigma= does not go together"):
        blm.LMM("y ~ sick + (1 | person)", gaps, missing="model", sigma="~ arm")
    related = pd.DataFrame(np.eye(30), index=range(30), columns=range(30))
    with pytest.raises(blm.DataError, match="relationship= does not go together"):
        blm.LMM("y ~ sick + (1 | person)", gaps, missing="model", relationship={"person": related})


def test_readings_are_refused_in_batches(full, tmp_path):
    full.to_parquet(tmp_path / "rows.parquet")
    source = blm.scan(tmp_path / "rows.parquet", batch_rows=20, progressbar=False)
    source.in_batches = True
    with pytest.raises(blm.FormulaError, match="rows read in batches"):
        blm.LMM("y ~ me(x, sd) + (1 | site)", source)


@pytest.mark.parametrize("missing", ["guess", None, 3])
def test_what_missing_may_be_is_said(missing, full):
    with pytest.raises(blm.DataError, match="formulas by covariate"):
        design_of("y ~ x", full, missing)


@pytest.mark.parametrize(
    "term",
    ["I((x > 0) * 1.0)", "I(abs(x))", "I(np.maximum(x, 9))", "I(1 / x)", "I(x * x)", "I(scale(x))"],
)
def test_kinks_and_steps_are_refused_wherever_they_are(term):
    data = pd.DataFrame({"x": np.append(np.linspace(5, 15, 29), np.nan), "g": np.arange(30) % 5})
    data["y"] = np.random.default_rng(1).normal(size=30)
    with pytest.raises(blm.FormulaError, match="'x'"):
        quietly(f"y ~ {term} + (1 | g)", data, missing="model")


def test_a_line_is_one_however_it_is_written():
    rng = np.random.default_rng(2)
    data = pd.DataFrame({"y": rng.normal(size=30), "g": np.arange(30) % 5, "z": np.arange(1, 31.0)})
    data["log"] = np.where(data["z"] == 4, np.nan, rng.normal(size=30))
    model = quietly("y ~ I((2 * log - 1) / z) + log(z) + (1 | g)", data, missing="model")
    np.testing.assert_allclose(model.design.modeled[0].X_slope, [[0.0, 2 / 4, 0.0]])
