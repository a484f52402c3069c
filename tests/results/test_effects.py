"""Marginal means, comparisons, slopes and predictions: of emmeans, of brute force, of draws."""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

import bayeslmm as blm
from bayeslmm.results.reference_grid import nested_factors

DATA = Path(__file__).parent.parent / "data"
#: 39 results of emmeans 1.8.4 of models fitted by lmerTest (lme4 1.1-31); Dunnett's p values and
#: limits are integrals of mvtnorm's, of the degrees of freedom as they are.
CASES = json.loads((DATA / "effects_emmeans.json").read_text())


@cache
def frame(name: str = "all") -> pd.DataFrame:
    data = pd.read_csv(DATA / "effects.csv")
    return data if name == "all" else data[~((data["dose"] == "d3") & (data["sex"] == "m"))]


@cache
def reml(formula: str, data: str = "all", weights: str | None = None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return blm.LMM(formula, frame(data), weights=weights).reml()


@cache
def events(method: str):
    model = blm.LMM("event ~ x + dose + (1 | g)", frame(), family="bernoulli")
    if method == "ml":
        return model.ml()
    return model.fit(draws=250, chains=2, random_seed=1, progressbar=False)


@cache
def slopes_posterior():
    model = blm.LMM("y ~ x * dose + sex + (x | g)", frame())
    return model.fit(method="importance", draws=250, random_seed=1, progressbar=False)


@pytest.mark.filterwarnings("ignore::bayeslmm.ModelWarning")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_values_are_those_of_emmeans(case):
    weights = "w" if case["name"] == "prior weights" else None
    fit = reml(case["formula"], case["data"], weights)
    table = getattr(fit, case["method"])(**case["args"])
    labels = pd.DataFrame(case["labels"]).astype(str)
    mine = [" ".join(row) for row in table[[*labels]].astype(str).itertuples(index=False)]
    theirs = [" ".join(row) for row in labels.itertuples(index=False)]
    assert sorted(mine) == sorted(theirs)
    order = [mine.index(row) for row in theirs]
    for column, values in case["values"].items():
        # lme4 stops its search at 1e-5 of an optimum
        np.testing.assert_allclose(
            table[column].to_numpy()[order], np.array(values, dtype=float), rtol=5e-5, atol=1e-5
        )


def test_levels_are_compared_with_the_reference_that_is_named():
    """As with the first, where a refit makes it the first; in each family of `by`."""
    fit = reml("y ~ x * dose + sex + (1 | g)")
    model = blm.LMM("y ~ x * dose + sex + (1 | g)", frame(), reference={"dose": "d2"})
    for options in ({}, {"adjust": "dunnett"}, {"by": "sex"}):
        found = fit.pairwise("dose", reference="d2", **options)
        other = model.reml().pairwise("dose", method="reference", **options)
        assert found["contrast"].unique().tolist() == ["d0 - d2", "d1 - d2", "d3 - d2"]
        pd.testing.assert_frame_equal(found, other, rtol=1e-4)
    pd.testing.assert_frame_equal(
        fit.pairwise("dose", reference="d0"), fit.pairwise("dose", method="reference")
    )
    both = fit.pairwise(["dose", "sex"], reference="d1 m")["contrast"]
    assert both.str.endswith(" - d1 m").all()
    assert len(both) == 7
    post = slopes_posterior()
    means = post.marginal_means("dose")["mean"].to_numpy()
    found = post.pairwise("dose", reference="d3")["mean"]
    np.testing.assert_allclose(found, means[:3] - means[3], rtol=1e-9)


def test_factors_are_nested_where_each_level_occurs_with_one_of_another():
    data = pd.DataFrame({"a": list("ppqq"), "b": list("uuvw"), "c": list("xyxy")})
    assert nested_factors(data) == {"b": ["a"]}
    assert nested_factors(data.assign(b="u")) == {}


def test_means_of_nested_factors_have_the_levels_that_exist():
    """In the grid of all combinations some would be of clinics in other regions: NaN."""
    table = reml("y ~ region * clinic + (1 | g)").marginal_means(["region", "clinic"])
    assert len(table) == 5
    assert table["estimate"].notna().all()


def test_comparisons_and_slopes_of_the_data_are_averages_by_hand():
    fit = reml("y ~ x * dose + (1 | g)")
    data, vcov = frame(), fit.vcov.to_numpy()

    def mean(rows: pd.DataFrame) -> np.ndarray:
        return fit.design.evaluate(rows, random=False).X.mean(axis=0)

    for dose in ("d1", "d2", "d3"):
        L = mean(data.assign(dose=dose)) - mean(data.assign(dose="d0"))
        table = fit.comparisons("dose").set_index("contrast").loc[f"{dose} - d0"]
        np.testing.assert_allclose(table["estimate"], L @ fit.fixef()["estimate"])
        np.testing.assert_allclose(table["se"], np.sqrt(L @ vcov @ L))
    by = fit.slopes("x", by="dose").set_index("dose")
    names = [*fit.design.coef_names]
    for dose in ("d0", "d2"):
        L = np.zeros(len(names))
        L[names.index("x")] = 1.0
        if dose != "d0":
            L[names.index(f"x:dose[{dose}]")] = 1.0
        exact = fit.contrast(L[None, :]).iloc[0]
        np.testing.assert_allclose(
            by.loc[dose, ["estimate", "se", "df", "p"]].to_numpy(dtype=float),
            exact[["estimate", "se", "df", "p"]].to_numpy(dtype=float),
            rtol=1e-6,
        )
    step = fit.comparisons({"x": 2.0}, by="sex", newdata=data)
    assert step["contrast"].tolist() == ["+2", "+2"]
    shares = pd.crosstab(data["sex"], data["dose"], normalize="index")
    slope = by["estimate"].reindex(shares.columns)
    np.testing.assert_allclose(step["estimate"], 2 * shares.to_numpy() @ slope, rtol=1e-6)
    assert fit.predictions()["estimate"].iloc[0] == pytest.approx(
        mean(data) @ fit.fixef()["estimate"]
    )


def test_slopes_of_groups_are_their_coefficients():
    fit = reml("y ~ x + (x | g)")
    table = fit.slopes("x", by="g").set_index("g")
    own = fit.coef("g")
    own = own[own["effect"] == "x"].set_index("level")["estimate"]
    np.testing.assert_allclose(table["estimate"], own.loc[table.index], rtol=1e-7)
    rows = pd.DataFrame({"x": [1.0, 0.0], "g": "g03"})
    X, Z = np.array([[0.0, 1.0]]), np.array([[0.0, 1.0]])
    code = np.array([fit.design.blocks[0].levels.index("g03")])
    variance = fit.predictor_variance(X, [Z], [code])
    assert table.loc["g03", "se"] == pytest.approx(np.sqrt(variance[0]), rel=1e-6)
    assert fit.comparisons({"x": (0, 1)}, newdata=rows, random="conditional")["estimate"].iloc[
        0
    ] == pytest.approx(table.loc["g03", "estimate"])
    new = fit.slopes("x", random="new").iloc[0]
    own = fit.fixef().loc["x"]
    tau = fit.covariances["g"].loc["x", "x"]
    assert new["se"] == pytest.approx(np.sqrt(own["se"] ** 2 + tau), rel=1e-6)


def test_posterior_effects_are_contrasts_of_draws():
    post, data = slopes_posterior(), frame()
    beta = post.posterior["beta"].to_numpy()

    def mean(rows: pd.DataFrame) -> np.ndarray:
        return beta @ post.model.design.evaluate(rows, random=False).X.mean(axis=0)

    draws = mean(data.assign(dose="d2")) - mean(data.assign(dose="d0"))
    table = post.comparisons("dose").set_index("contrast").loc["d2 - d0"]
    np.testing.assert_allclose(
        table[["mean", "sd", "p_positive"]].to_numpy(dtype=float),
        [draws.mean(), draws.std(ddof=1), (draws > 0).mean()],
    )
    np.testing.assert_allclose([table["lower"], table["upper"]], np.quantile(draws, [0.025, 0.975]))
    by_sex = post.predictions(by="sex").set_index("sex")
    draws = mean(data[data["sex"] == "m"])
    np.testing.assert_allclose(by_sex.loc["m", ["mean", "sd"]].to_numpy(dtype=float),
                               [draws.mean(), draws.std(ddof=1)])  # fmt: skip
    ratio = post.comparisons({"dose": ("d0", "d2")}, measure="ratio").iloc[0]
    draws = mean(data.assign(dose="d2")) / mean(data.assign(dose="d0"))
    np.testing.assert_allclose(ratio["median"], np.median(draws))
    pairs = post.pairwise("dose", by="sex")
    assert len(pairs) == 12
    assert list(pairs.columns[:2]) == ["sex", "contrast"]
    own = post.posterior[post.names.factors[0].b].to_numpy()
    level = post.model.design.blocks[0].levels.index("g03")
    here = data[data["g"] == "g03"]
    L = post.model.design.evaluate(here.assign(x=1.0), random=False).X.mean(axis=0)
    L = L - post.model.design.evaluate(here.assign(x=0.0), random=False).X.mean(axis=0)
    slope = beta @ L + own[:, :, level, 1]
    found = post.slopes("x", by="g").set_index("g").loc["g03"]
    np.testing.assert_allclose([found["mean"], found["sd"]], [slope.mean(), slope.std(ddof=1)],
                               rtol=1e-6)  # fmt: skip


def test_a_posterior_slope_of_a_new_group_varies_as_groups_do():
    post = slopes_posterior()
    new = post.slopes("x", random="new", random_seed=1).iloc[0]
    average = post.slopes("x").iloc[0]
    tau = float((post.posterior[post.names.factors[0].sd].to_numpy()[..., 1] ** 2).mean())
    # 1,000 draws of heavy-tailed variances: relative error of an sd below 0.2
    assert new["sd"] == pytest.approx(np.sqrt(average["sd"] ** 2 + tau), rel=0.2)
    again = post.slopes("x", random="new", random_seed=1).iloc[0]
    assert new["mean"] == again["mean"]


def test_risk_differences_of_the_data_are_averages_of_probabilities():
    fit, data = events("ml"), frame()
    beta = fit.fixef()["estimate"].to_numpy()

    def risk(at: np.ndarray, **values) -> float:
        return expit(fit.design.evaluate(data.assign(**values), random=False).X @ at).mean()

    def difference(at: np.ndarray) -> float:
        return risk(at, dose="d2") - risk(at, dose="d0")

    table = fit.comparisons("dose").set_index("contrast").loc["d2 - d0"]
    assert table["estimate"] == pytest.approx(difference(beta))
    step = 1e-5
    slope = [
        (difference(beta + step * e) - difference(beta - step * e)) / (2 * step)
        for e in np.eye(len(beta))
    ]
    assert table["se"] == pytest.approx(np.sqrt(slope @ fit.vcov.to_numpy() @ slope), rel=1e-3)
    odds = fit.comparisons({"dose": ("d0", "d2")}, measure="odds_ratio").iloc[0]
    one, other = risk(beta, dose="d2"), risk(beta, dose="d0")
    assert odds["estimate"] == pytest.approx(one / (1 - one) / (other / (1 - other)))
    rise = fit.slopes("x").iloc[0]
    at = expit(fit.design.evaluate(data, random=False).X @ beta)
    assert rise["estimate"] == pytest.approx(beta[1] * (at * (1 - at)).mean(), rel=1e-6)
    link = fit.slopes("x", kind="link").iloc[0]
    assert link["estimate"] == pytest.approx(beta[1])
    marginal = fit.predictions(random="marginal", weights="equal", at={"x": 5.0, "dose": "d1"})
    exact = fit.average_effects(at={"x": 5.0, "dose": "d1"})
    assert marginal["estimate"].iloc[0] == pytest.approx(exact["population_average"].iloc[0])


def test_posterior_risks_are_averages_of_draws_of_probabilities():
    post, data = events("nuts"), frame()
    beta = post.posterior["beta"].to_numpy()
    design = post.model.design

    def risk(rows: pd.DataFrame) -> np.ndarray:
        return expit(beta @ design.evaluate(rows, random=False).X.T).mean(axis=-1)

    draws = risk(data.assign(dose="d1")) / risk(data.assign(dose="d0"))
    table = post.comparisons({"dose": ("d0", "d1")}, measure="ratio").iloc[0]
    np.testing.assert_allclose(
        table[["median", "p_above_1"]].to_numpy(dtype=float),
        [np.median(draws), (draws > 1).mean()],
    )


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda f: f.comparisons("nothing"), "nothing"),
        (lambda f: f.comparisons("dose", by="dose"), "leave it out"),
        (lambda f: f.comparisons("dose", measure="odds_ratio"), "probabilities"),
        (lambda f: f.comparisons({"x": "many"}), "step"),
        (lambda f: f.slopes("dose"), "no number"),
        (lambda f: f.predictions(weights="some"), "weights"),
        (lambda f: f.predictions(by="nothing"), "nothing"),
        (lambda f: f.predictions(by=3), "by= is a name"),
        (lambda f: f.predictions(at="x"), "at= is a dict"),
        (lambda f: f.predictions(at={"g": "g01"}), "formula's predictors"),
        (lambda f: f.predictions(newdata=frame(), weights="equal"), "leave weights"),
        (lambda f: f.comparisons({}), "No column"),
        (lambda f: f.slopes([]), "No column"),
        (lambda f: f.predictions(random="some"), "random"),
        (lambda f: f.predictions(by="g", weights="equal"), "newdata"),
        (lambda f: f.pairwise("dose", method="some"), "method"),
        (lambda f: f.pairwise("dose", adjust="some"), "adjust"),
        (lambda f: f.pairwise("dose", adjust="tukey", method="reference"), "dunnett"),
        (lambda f: f.pairwise("dose", reference="d9"), "no level 'd9'.*Levels: d0, d1, d2, d3"),
        (lambda f: f.pairwise("dose", reference="d1", method="sequential"), "goes with method"),
        (lambda f: f.marginal_means("dose", weights="some"), "weights"),
        (lambda f: f.pairwise("dose", by="dose"), "leave it out"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(call, word):
    with pytest.raises((ValueError, blm.DataError), match=word):
        call(reml("y ~ x * dose + (1 | g)"))


def test_what_the_rows_do_not_tell_is_refused():
    data = frame().assign(male=frame()["sex"] == "m")
    fit = blm.LMM("y ~ male + x + (1 | g)", data).reml()
    with pytest.raises(blm.DataError, match="true or false"):
        fit.predictions(at={"male": 3})
    with pytest.raises(ValueError, match="no value"):
        fit.predictions(at={"x": []})
    with pytest.raises(blm.DataError, match="several levels of 'g'"):
        fit.predictions(random="conditional")
    with pytest.raises(ValueError, match="no columns"):
        reml("y ~ 1 + (1 | g)").comparisons()
    data.loc[::9, "x"] = np.nan
    model = blm.LMM("y ~ x + (1 | g)", data, missing="model")
    post = model.fit(draws=20, tune=50, chains=1, random_seed=1, progressbar=False)
    with pytest.raises(blm.DataError, match="unknown values of x"):
        post.predictions()


def test_a_variable_of_the_random_part_alone_is_compared_in_groups_only():
    fit = reml("y ~ dose + (x | g)")
    for effect in (fit.comparisons, fit.slopes):
        for weights in ("data", "equal"):
            with pytest.raises(ValueError, match="'x' is not a column of the fixed part"):
                effect("x", weights=weights)
    found = fit.slopes("x", by="g", random="conditional")
    own = fit.ranef().query("effect == 'x'").set_index("level")["estimate"]
    np.testing.assert_allclose(found["estimate"], own.loc[found["g"]], atol=1e-6)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        (pd.Categorical(["a", None, "b"]), "1 missing"),
        ([1.0, np.nan, 2.0], "1 missing"),
        (["a", 1, 2], "cannot be sorted"),
        ([[1], [2], [1]], "cannot be sorted"),
    ],
    ids=["category", "number", "mixed", "lists"],
)
def test_rows_of_no_group_of_by_are_refused(values, word):
    fit = reml("y ~ x * dose + (1 | g)")
    with pytest.raises(blm.DataError, match=f"'of'.*{word}"):
        fit.predictions(by="of", newdata=frame().head(3).assign(of=values))


def test_values_of_at_come_in_any_collection():
    fit, want = reml("y ~ x * dose + (1 | g)"), [0, 1]
    for values in (range(2), {0, 1}, pd.Index([0, 1]), np.array([0, 1])):
        assert fit.predictions(at={"x": values})["x"].tolist() == want


def test_columns_named_as_those_of_tables_keep_their_labels():
    data = frame().rename(columns={"x": "t", "dose": "contrast", "sex": "variable"})
    fit = blm.LMM("y ~ t + contrast * variable + (1 | g)", data).reml()
    means = fit.predictions(by="t")
    assert np.array_equal(means["t_"], np.unique(data["t"]))
    np.testing.assert_allclose(means["t"], means["estimate"] / means["se"])
    table = fit.comparisons("contrast", by="variable")
    assert set(table["variable"]) == {"contrast"}
    assert set(table["variable_"]) == set(data["variable"])
    pairs = fit.pairwise("variable", by="contrast")
    assert pairs["contrast_"].tolist() == sorted(set(data["contrast"]))
    assert set(pairs["contrast"]) == {"f - m"}


def test_a_grid_needs_no_column_of_the_random_effects_alone():
    fit = reml("y ~ dose + (0 + x | g)")
    np.testing.assert_allclose(
        fit.predictions(by="dose", weights="equal")["estimate"],
        fit.marginal_means("dose")["estimate"],
    )
    new = fit.predictions(by="dose", weights="equal", random="new", at={"x": 2.0})
    sd = float(np.sqrt(fit.predictions(by="dose", weights="equal")["se"].iloc[0] ** 2
                       + 4 * fit._solution.Sigmas[0][0, 0]))  # fmt: skip
    assert new["se"].iloc[0] == pytest.approx(sd)


def test_a_fit_in_batches_answers_on_a_grid(tmp_path):
    frame().to_csv(tmp_path / "rows.csv", index=False)
    source = blm.scan(tmp_path / "rows.csv", batch_rows=50, progressbar=False)
    fit, rows = blm.LMM("y ~ x + dose + (1 | g)", source).reml(), reml("y ~ x + dose + (1 | g)")
    for call in (
        lambda f: f.comparisons("dose", weights="equal"),
        lambda f: f.comparisons({"x": 1}, weights="equal"),
        lambda f: f.pairwise("dose"),
    ):
        np.testing.assert_allclose(call(fit)["estimate"], call(rows)["estimate"], rtol=1e-6)
    with pytest.raises(blm.DataError, match="rows are not kept"):
        fit.marginal_means("dose", weights="cells")
    with pytest.raises(blm.DataError, match="no rows to average"):
        fit.predictions()


def test_effects_of_several_levels_that_cancel_are_still_of_several_levels():
    """x - 5 times the slope of one group, 5 - x times that of another: not 0."""
    fit = reml("y ~ x + (x | g)")
    rows = pd.DataFrame({"x": [6.0, 4.0], "g": ["g01", "g02"], "of": "both"})
    with pytest.raises(blm.DataError, match="several levels of 'g'"):
        fit.comparisons({"x": 1}, by="of", newdata=rows, random="conditional")
    with pytest.raises(blm.DataError, match="not in the fit"):
        fit.predictions(newdata=rows.assign(g="nobody"), random="conditional")
