"""within(x, g) and between(x, g): group means of the fitted rows, in formulas and in new data."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.formula import build_design


@pytest.fixture
def classes() -> pd.DataFrame:
    """Four pupils in each of ten classes of three schools; the group effect reverses the slope."""
    rng = np.random.default_rng(8)
    g = np.repeat(np.arange(30), 6)
    mean = rng.normal(5, 2, 30)
    x = mean[g] + rng.normal(size=180)
    y = 3 - 1.0 * (x - mean[g]) + 2.0 * mean[g] + rng.normal(0, 0.5, 30)[g] + rng.normal(size=180)
    frame = pd.DataFrame({"y": y, "x": x, "g": g, "school": g % 3, "kid": g // 3})
    return frame.assign(f=np.tile(["a", "b"], 90), z=rng.normal(size=180))


def _column(design, name: str, X=None) -> np.ndarray:
    return (design.X if X is None else X)[:, design.coef_names.index(name)]


def test_halves_are_the_group_means_and_what_is_left(classes):
    design = build_design("y ~ within(x, g) + between(x, g) + (1 | g)", classes)
    means = classes.groupby("g")["x"].transform("mean")
    np.testing.assert_allclose(_column(design, "between(x, g)"), means, rtol=1e-14)
    np.testing.assert_allclose(_column(design, "within(x, g)"), classes.x - means, atol=1e-13)
    frame = blm.within_between(classes, "x", "g")
    np.testing.assert_allclose(frame["x_between"], means)
    np.testing.assert_allclose(frame["x_within"] + frame["x_between"], classes.x)


def test_means_are_those_of_the_rows_used(classes):
    classes.loc[[0, 7, 8], "y"] = np.nan
    design = build_design("y ~ between(x, g) + (1 | g)", classes)
    means = classes.dropna().groupby("g")["x"].transform("mean")
    np.testing.assert_allclose(_column(design, "between(x, g)"), means, rtol=1e-13)


def test_known_groups_keep_their_means_and_new_groups_have_their_own(classes):
    design = build_design("y ~ within(x, g) + between(x, g) + (1 | g)", classes)
    new = pd.DataFrame({"x": [1.0, 2.0, 4.0, 9.0], "g": [0, 77, 77, 88]})
    X = design.evaluate(new).X
    first = classes.loc[classes.g == 0, "x"].mean()
    np.testing.assert_allclose(_column(design, "between(x, g)", X), [first, 3, 3, 9])
    np.testing.assert_allclose(
        _column(design, "within(x, g)", X), [1 - first, -1, 1, 0], atol=1e-14
    )


def test_nested_groups_interactions_expressions_and_random_slopes(classes):
    formula = (
        "y ~ within(x, school:kid) * f + between(log(abs(x) + 1), g):z + I(between(x, g)**2) "
        "+ (within(x, g) | g)"
    )
    design = build_design(formula, classes)
    means = classes.groupby("g")["x"].transform("mean")  # school and kid together are g
    np.testing.assert_allclose(
        _column(design, "within(x, school:kid)"), classes.x - means, atol=1e-12
    )
    np.testing.assert_allclose(_column(design, "I(between(x, g) ** 2)"), means**2)
    logs = np.log(classes.x.abs() + 1).groupby(classes.g).transform("mean") * classes.z
    np.testing.assert_allclose(_column(design, "between(log(abs(x) + 1), g):z"), logs)
    np.testing.assert_allclose(design.blocks[0].Z[:, 1], classes.x - means, atol=1e-12)
    again = design.evaluate(classes.drop(columns="y"))
    np.testing.assert_allclose(again.X, design.X, atol=1e-12)
    np.testing.assert_allclose(again.Z[0], design.blocks[0].Z, atol=1e-12)


def test_a_column_named_like_the_call_stands_for_it_in_new_data(classes):
    fit = blm.LMM("y ~ within(x, g) + between(x, g) + (1 | g)", classes).reml()
    at = pd.DataFrame({"within(x, g)": [0.0, 1.0], "between(x, g)": [5.0, 5.0]})
    values = fit.predict(at, random="population")["estimate"]
    assert values[1] - values[0] == pytest.approx(fit.fixef()["estimate"]["within(x, g)"])


def test_marginal_means_hold_both_halves_at_their_means(classes):
    fit = blm.LMM("y ~ within(x, g) + between(x, g) + f + (1 | g)", classes).reml()
    mean = fit.marginal_means("f")["estimate"].mean()
    assert mean == pytest.approx(fit.fitted("population").mean())


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("y ~ within(x)", "takes a covariate and a group"),
        ("y ~ between(x, g, f)", "takes a covariate and a group"),
        ("y ~ between(x, g=f)", "takes a covariate and a group"),
        ("y ~ within(x, log(g))", "must be a column g or a combination"),
        ("y ~ within(between(x, g), f)", "nested"),
        ("y ~ within(f, g)", "not one numeric column"),
        ("y ~ within(x, nope)", "no grouping column 'nope'"),
        ("y ~ within(nope, g)", "no column 'nope'"),
        ("within(x, g) ~ z", "response cannot be within"),
        ("y ~ x + (1 | within(x, g))", "cannot be the call"),
        ("y ~ np.within(x, g)", "calls np.within"),
        ("y ~ within(np.f2py.os.system('echo'), g)", "calls np.f2py.os.system"),
    ],
)
def test_calls_that_make_no_sense_are_refused(classes, formula, message):
    with pytest.raises(blm.BayesLMMError, match=message):
        build_design(formula, classes)


def test_a_covariate_without_variation_within_groups_is_named(classes):
    classes["age"] = classes["g"] * 1.1
    with pytest.warns(blm.ModelWarning, match="within\\(age, g\\)"):
        blm.LMM("y ~ within(age, g) + x + (1 | g)", classes)


def test_new_rows_without_a_group_are_refused(classes):
    design = build_design("y ~ within(x, g)", classes)
    with pytest.raises(blm.DataError, match="without a group"):
        design.evaluate(pd.DataFrame({"x": [1.0], "g": [np.nan]}))
    with pytest.raises(blm.FormulaError, match="no grouping column 'g'"):
        design.evaluate(pd.DataFrame({"x": [1.0]}))


def test_within_between_and_contextual_effects_where_the_naive_slope_misleads(classes):
    split = blm.LMM("y ~ within(x, g) + between(x, g) + (1 | g)", classes)
    naive = blm.LMM("y ~ x", classes).reml().fixef()
    aggregated = np.polyfit(classes.groupby("g")["x"].mean(), classes.groupby("g")["y"].mean(), 1)[
        0
    ]
    fit = split.reml()
    table = fit.fixef()
    assert naive["lower"]["x"] > 0  # the wrong sign, and sure of it
    assert aggregated > 1.5  # what holds for groups does not for their members
    # true values 1.0 and 2.0 lie within 5 standard errors, and opposite signs are clear
    assert abs(table["estimate"]["within(x, g)"] + 1) < 5 * table["se"]["within(x, g)"]
    assert table["upper"]["within(x, g)"] < -0.5
    assert table["lower"]["between(x, g)"] > 1.5
    contextual = fit.contextual_effect("x", "g").iloc[0]
    same = blm.LMM("y ~ x + between(x, g) + (1 | g)", classes).reml()
    assert contextual["estimate"] == pytest.approx(
        same.contextual_effect("x", "g")["estimate"].iloc[0], rel=1e-6
    )
    assert contextual["lower"] < 3 < contextual["upper"]
    post = split.fit(random_seed=4, progressbar=False)
    bayes = post.contextual_effect("x", "g").iloc[0]
    # 4,000 nearly independent draws: the mean is within 0.1 sd, which is 6 standard errors
    assert abs(bayes["mean"] - contextual["estimate"]) < 0.2 * bayes["sd"]
    with pytest.raises(ValueError, match="within\\(z, g\\)"):
        fit.contextual_effect("z", "g")


def test_a_loaded_fit_keeps_the_means(classes, tmp_path):
    classes.loc[3, "y"] = np.nan
    with pytest.warns(blm.DataWarning):
        model = blm.LMM("y ~ within(x, g) + between(x, g) + (within(x, g) | g)", classes)
    post = model.fit(draws=50, method="importance", random_seed=1)
    post.save(tmp_path / "fit.nc")
    loaded = blm.load(tmp_path / "fit.nc")
    new = classes.iloc[[0, 9]].assign(x=3.0)
    pd.testing.assert_frame_equal(loaded.predict(new), post.predict(new))


def test_a_frame_split_leaves_missing_values_missing():
    data = {"x": [1.0, None, 3.0, 8.0], "a": ["u", "u", "u", None], "b": [1, 1, 1, 1]}
    frame = blm.within_between(pd.DataFrame(data), "x", "a:b")
    assert frame["x_between"].tolist()[:3:2] == [2.0, 2.0]
    assert frame.iloc[[1, 3]].isna().all(axis=None)
    with pytest.raises(blm.DataError, match="not numeric"):
        blm.within_between(data, "a", "b")
