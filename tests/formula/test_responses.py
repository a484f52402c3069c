"""Left sides of formulas: trials, events, ordered categories, and what a family can have."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bayeslmm as blm
from bayeslmm.formula import parse_formula
from bayeslmm.formula.extension import add_rows
from bayeslmm.parts.families import FAMILIES, family_of, links_of


def data(n: int = 80) -> pd.DataFrame:
    """Rows labelled r0, r1, ..., with responses of every kind."""
    rng = np.random.default_rng(11)
    frame = pd.DataFrame({"x": rng.normal(5, 2, n), "f": np.resize(list("pqr"), n)})
    frame["g"] = np.resize(np.arange(8), n)
    frame["m"] = rng.integers(2, 12, n)
    frame["s"] = rng.binomial(frame["m"], 0.3)
    frame["failures"] = frame["m"] - frame["s"]
    frame["event"] = np.resize([0, 1, 1], n)
    frame["truth"] = frame["event"] == 1
    frame["word"] = np.where(frame["truth"], "yes", "no")
    frame["status"] = pd.Categorical(
        np.where(frame["truth"], "ill", "well"), ["well", "ill", "unknown"]
    )
    frame["count"] = rng.poisson(3, n)
    frame["time"] = rng.uniform(1, 4, n)
    frame["positive"] = rng.gamma(2, size=n)
    frame["share"] = rng.uniform(0.05, 0.95, n)
    frame["pain"] = pd.Categorical(
        np.resize(["none", "mild", "bad"], n), ["none", "mild", "bad"], ordered=True
    )
    frame["rating"] = np.resize([1, 2, 3, 5], n)
    return frame.set_axis([f"r{i}" for i in range(n)])


#: A response for every family.
RESPONSES = {
    "bernoulli": "event",
    "binomial": "s of m",
    "poisson": "count",
    "negativebinomial": "count",
    "gamma": "positive",
    "beta": "share",
    "lognormal": "positive",
    "ordinal": "pain",
    "zero_inflated_poisson": "count",
    "zero_inflated_negativebinomial": "count",
}


def model(formula: str, family: str, frame: pd.DataFrame | None = None, **options):
    return blm.MixedModel(formula, data() if frame is None else frame, family=family, **options)


def test_every_family_has_a_response_here():
    assert set(RESPONSES) == set(FAMILIES) - {"gaussian", "student"}


@pytest.mark.parametrize("family", RESPONSES)
def test_a_family_takes_its_response_and_any_of_its_links(family):
    for link in links_of(family):
        made = model(f"{RESPONSES[family]} ~ x + f + (1 | g)", family, link=link)
        assert (made.family, made.link) == (family, link)
        assert made.design.family == family_of(family, link, len(made.design.categories) or None)
        assert f"{family}, {'its logarithm' if family == 'lognormal' else link}" in repr(made)
    assert model(f"{RESPONSES[family]} ~ x", family).link == links_of(family)[0]


def test_the_class_has_both_names():
    assert blm.LMM is blm.MixedModel
    assert blm.LMM("count ~ x", data()).design.family.gaussian


@pytest.mark.parametrize(
    "left",
    ["s of m", "p(s, m)", "proportion(s, m)", "prop( s , m )", "(s) of (m)", "s of `m`",
     "s of I(s + failures)", "I(m - failures) of m"],
)  # fmt: skip
def test_successes_of_trials_are_written_in_any_of_these_ways(left):
    design = model(f"{left} ~ x + (1 | g)", "binomial").design
    frame = data()
    np.testing.assert_array_equal(design.y, frame["s"])
    np.testing.assert_array_equal(design.trials, frame["m"])
    assert design.coef_names == ("Intercept", "x")


def test_one_number_of_trials_may_stand_for_all_rows():
    design = model("s of 12 ~ x", "binomial").design
    np.testing.assert_array_equal(design.trials, 12.0)
    assert "trials: 12" in repr(model("s of 12 ~ x", "binomial"))


def test_trials_may_be_among_the_predictors():
    assert "m" in model("s of m ~ m", "binomial").design.coef_names


@pytest.mark.parametrize("name", ["of", "p", "prop"])
def test_a_column_may_be_called_as_the_words_of_a_proportion_are(name):
    frame = data().rename(columns={"s": name})
    np.testing.assert_array_equal(model(f"{name} ~ x", "poisson", frame).design.y, data()["s"])
    np.testing.assert_array_equal(
        model(f"{name} of m ~ x", "binomial", frame).design.trials > 1, True
    )
    assert blm.LMM(f"I({name} + 1) ~ {name}", frame.assign(y=1.0)).design.trials is None


@pytest.mark.parametrize("left", ["s of", "of m", "p(s, )", "p(, m)"])
def test_half_a_proportion_is_refused(left):
    with pytest.raises(blm.FormulaError):
        model(f"{left} ~ x", "binomial")


def test_the_parts_of_a_formula_keep_the_trials():
    parsed = parse_formula("`s` of m ~ x + (1 | g)")
    assert (parsed.response, parsed.trials, parsed.fixed) == ("`s`", "m", "x")
    assert parse_formula("p(s, m) ~ x").trials == "m"
    assert parse_formula("y ~ x").trials is None


@pytest.mark.parametrize("family", ["gaussian", "student", "poisson", "bernoulli"])
def test_trials_need_the_binomial_family(family):
    with pytest.raises(blm.FormulaError, match='use family="binomial"'):
        model("s of m ~ x", family)


@pytest.mark.parametrize("family", ["bernoulli", "binomial"])
@pytest.mark.parametrize(
    ("left", "categories"),
    [("event", ()), ("truth", ("False", "True")), ("word", ("no", "yes")),
     ("status", ("well", "ill")), ("I(event > 0)", ())],
)  # fmt: skip
def test_an_event_is_a_number_true_or_the_second_category(family, left, categories):
    made = model(f"{left} ~ x + (1 | g)", family)
    np.testing.assert_array_equal(made.design.y, data()["event"])
    assert made.design.categories == categories
    if categories:
        assert f"the event is {categories[1]}, not {categories[0]}" in repr(made)
    trials = made.design.trials
    assert trials is None if family == "bernoulli" else (trials == 1).all()


def test_three_categories_are_no_event():
    with pytest.raises(blm.DataError, match=r"'pain' has 3 categories \(none, mild, bad\)"):
        model("pain ~ x", "bernoulli")


@pytest.mark.parametrize("family", sorted(set(RESPONSES) - {"bernoulli", "binomial", "ordinal"}))
def test_a_family_of_numbers_refuses_words(family):
    with pytest.raises(blm.DataError, match="'word' is not numeric"):
        model("word ~ x", family)


def test_a_linear_model_of_words_names_the_families_that_take_them():
    with pytest.raises(blm.DataError, match='family="bernoulli"'):
        blm.LMM("word ~ x", data())


OUTSIDE = [
    ("bernoulli", "event", 2), ("bernoulli", "event", 0.5), ("binomial", "s of m", 99),
    ("binomial", "s of m", -1), ("binomial", "s of m", 0.5), ("binomial", "event", 2),
    ("poisson", "count", -1), ("poisson", "count", 2.5), ("negativebinomial", "count", 0.1),
    ("zero_inflated_poisson", "count", -2), ("zero_inflated_negativebinomial", "count", 1.5),
    ("gamma", "positive", 0), ("gamma", "positive", -3), ("lognormal", "positive", 0),
    ("beta", "share", 0), ("beta", "share", 1), ("beta", "share", 1.2),
]  # fmt: skip


@pytest.mark.parametrize(("family", "left", "value"), OUTSIDE)
def test_a_value_outside_the_support_is_named_with_its_row(family, left, value):
    frame, column = data(), left.split()[0]
    frame[column] = frame[column].astype(float)
    frame.loc["r7", column] = value
    with pytest.raises(blm.DataError, match=rf"'{column}' is {value:g}\b.* in row 'r7'") as info:
        model(f"{left} ~ x + (1 | g)", family, frame)
    assert f'family="{family}"' in str(info.value)


@settings(max_examples=30, deadline=None)
@given(row=st.integers(0, 79), left_out=st.sets(st.integers(0, 79), max_size=20))
def test_the_row_named_is_that_of_the_data_whatever_is_missing(row, left_out):
    frame = data()
    frame["count"] = frame["count"].astype(float)
    frame.iloc[sorted(left_out - {row}), frame.columns.get_loc("x")] = np.nan
    frame.loc[f"r{row}", "count"] = -4
    with pytest.raises(blm.DataError, match=rf"is -4 in row 'r{row}',"):
        model("count ~ x", "poisson", frame)


@pytest.mark.parametrize("value", [0, 2.5, -1])
def test_trials_are_whole_and_at_least_one(value):
    frame = data().astype({"m": float})
    frame.loc["r3", "m"] = value
    with pytest.raises(blm.DataError, match=rf"trials 'm' is {value:g} in row 'r3'"):
        model("s of m ~ x", "binomial", frame)


@pytest.mark.parametrize(
    ("family", "left", "change"),
    [("bernoulli", "event", {"event": 0}), ("bernoulli", "word", {"word": "no"}),
     ("binomial", "s of m", {"s": 0}), ("binomial", "s of m", {"s": "m"}),
     ("poisson", "count", {"count": 0}), ("gamma", "positive", {"positive": 2.0}),
     ("beta", "share", {"share": 0.5}), ("ordinal", "pain", {"pain": "bad"})],
)  # fmt: skip
def test_a_response_that_says_nothing_is_refused(family, left, change):
    frame = data()
    frame = frame.assign(**{k: frame["m"] if v == "m" else v for k, v in change.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", blm.DataWarning)
        with pytest.raises(blm.DataError, match="nothing to model"):
            model(f"{left} ~ x", family, frame)


def test_counts_that_do_not_vary_say_how_large_they_are():
    frame = data().assign(count=3)
    assert model("count ~ x + offset(log(time))", "poisson", frame).design.sd_y > 0


@pytest.mark.parametrize("column", ["s", "m"])
def test_rows_without_response_or_trials_are_left_out_and_counted(column):
    frame = data().astype({"s": float, "m": float})
    frame.loc[["r1", "r5"], column] = np.nan
    with pytest.warns(blm.DataWarning, match=rf"2 of 80 rows left out: .*{column} \(2\)"):
        design = model("s of m ~ x + (1 | g)", "binomial", frame).design
    kept = frame.drop(index=["r1", "r5"])
    np.testing.assert_array_equal(design.y, kept["s"])
    np.testing.assert_array_equal(design.trials, kept["m"])


def test_ordered_categories_are_numbers_from_zero_beside_no_intercept():
    design = model("pain ~ x + f + (1 | g)", "ordinal").design
    np.testing.assert_array_equal(design.y, data()["pain"].cat.codes)
    assert design.categories == ("none", "mild", "bad")
    assert design.family.n_phi == 2
    beside = model("count ~ x + f + (1 | g)", "poisson").design
    assert design.coef_names == beside.coef_names[1:]
    np.testing.assert_array_equal(design.X, beside.X[:, 1:])
    new = data().iloc[5:9]
    np.testing.assert_array_equal(design.evaluate(new).X, beside.evaluate(new).X[:, 1:])
    for term, other in zip(design.terms, beside.terms[1:], strict=True):
        assert design.coef_names[term.columns] == beside.coef_names[other.columns]


def test_ordered_categories_need_no_coefficients():
    made = model("pain ~ 1 + (1 | g)", "ordinal")
    assert made.design.X.shape == (80, 0)
    assert made.aliased == ()


@pytest.mark.parametrize("right", ["0 + f", "f - 1", "x + 0"])
def test_ordered_categories_without_an_intercept_are_refused(right):
    with pytest.raises(blm.FormulaError, match="thresholds"):
        model(f"pain ~ {right}", "ordinal")


def test_thresholds_stand_for_the_constant():
    with pytest.warns(blm.ModelWarning, match="rank deficient: seven"):
        assert model("pain ~ x + seven", "ordinal", data().assign(seven=7.0)).aliased == ("seven",)


def test_numbers_are_ordered_by_size_and_text_by_the_numbers_in_it():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        design = model("rating ~ x", "ordinal").design
    assert design.categories == ("1", "2", "3", "5")
    np.testing.assert_array_equal(design.y, np.resize([0, 1, 2, 3], 80))
    frame = data().assign(grade=np.resize(["step 10", "step 2", "step 1"], 80))
    with pytest.warns(blm.DataWarning, match="step 1 < step 2 < step 10"):
        design = model("grade ~ x", "ordinal", frame).design
    np.testing.assert_array_equal(design.y, np.resize([2, 1, 0], 80))


def test_a_category_without_rows_is_none():
    frame = data()
    frame["pain"] = frame["pain"].cat.add_categories("terrible")
    assert model("pain ~ x", "ordinal", frame).design.categories == ("none", "mild", "bad")


def test_a_continuous_response_is_not_cut_into_hundreds_of_categories():
    frame = pd.concat([data()] * 2, ignore_index=True).assign(y=np.arange(160))
    with pytest.raises(blm.DataError, match="160 different values"):
        model("y ~ x", "ordinal", frame)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"residual": "ar1(x | g)"}, "residual="),
        ({"sigma": "~ f"}, "sigma="),
        ({"relationship": {"g": np.eye(8)}}, "relationship="),
    ],
)
@pytest.mark.parametrize("family", RESPONSES)
def test_options_of_gaussian_models_are_refused_by_name(family, options, named):
    with pytest.raises(blm.DataError, match=f'{named}.*family="{family}"'):
        model(f"{RESPONSES[family]} ~ x + (1 | g)", family, **options)


@pytest.mark.parametrize(
    ("family", "link"), [("poisson", "logit"), ("ordinal", "log"), ("gaussian", "log")]
)
def test_a_link_that_a_family_does_not_have_is_refused_with_those_it_has(family, link):
    with pytest.raises(ValueError, match=links_of(family)[0]):
        model(f"{RESPONSES.get(family, 'count')} ~ x", family, link=link)


def test_rows_in_batches_are_refused(tmp_path):
    path = tmp_path / "rows.parquet"
    data().to_parquet(path)
    with pytest.raises(blm.DataError, match='family="poisson" needs every row'):
        model("count ~ x", "poisson", blm.scan(path, batch_rows=20))
    with pytest.raises(blm.FormulaError, match='use family="binomial"'):
        model("s of m ~ x", "gaussian", blm.scan(path, batch_rows=20))
    small = model("s of m ~ x", "binomial", path)
    np.testing.assert_array_equal(small.design.trials, data()["m"])


def test_student_residuals_keep_their_family_in_batches(tmp_path):
    path = tmp_path / "rows.parquet"
    data().to_parquet(path)
    made = model("count ~ x", "student", blm.scan(path, batch_rows=20))
    assert made.design.family.name == "student"


@pytest.mark.parametrize("family", RESPONSES)
def test_there_is_no_reml_and_it_says_why(family):
    with pytest.raises(blm.DataError, match=rf'no REML for family="{family}".*model\.ml\(\)'):
        model(f"{RESPONSES[family]} ~ x + (1 | g)", family).reml()


def test_another_response_is_held_to_the_support():
    made = model("s of m ~ x", "binomial")
    assert made.with_response(data()["failures"]).design.y.sum() == data()["failures"].sum()
    with pytest.raises(blm.DataError, match="is more than there are trials"):
        made.with_response(data()["m"] + 1)


@pytest.mark.parametrize("family", RESPONSES)
def test_rows_that_are_added_have_response_trials_and_categories(family):
    whole = data()
    left = RESPONSES[family]
    design = model(f"{left} ~ x + f + (1 | g)", family, whole.iloc[:60]).design
    more, all_of_them = (
        add_rows(design, whole.iloc[60:]),
        model(f"{left} ~ x + f + (1 | g)", family),
    )
    np.testing.assert_array_equal(more.y, all_of_them.design.y)
    np.testing.assert_array_equal(more.X, all_of_them.design.X)
    if design.trials is not None:
        np.testing.assert_array_equal(more.trials, all_of_them.design.trials)


def test_rows_that_are_added_are_held_to_the_fit():
    design = model("pain ~ x", "ordinal").design
    new = data().iloc[:2].assign(pain="awful")
    with pytest.raises(blm.DataError, match="awful"):
        add_rows(design, new)
    design = model("s of m ~ x", "binomial").design
    with pytest.raises(blm.DataError, match="is 50 of .* in row 'r1'"):
        add_rows(design, data().iloc[1:3].assign(s=50))


@pytest.mark.parametrize(
    ("family", "left", "message"),
    [("bernoulli", "event", "says next to nothing"), ("ordinal", "pain", "says next to nothing"),
     ("gamma", "positive", "and alpha can hardly"), ("lognormal", "positive", "and sigma cannot")],
)  # fmt: skip
def test_an_effect_of_every_row_is_warned_about(family, left, message):
    with pytest.warns(blm.ModelWarning, match=message):
        model(f"{left} ~ x + (1 | row)", family, data().assign(row=np.arange(80)))


@pytest.mark.parametrize(("family", "left"), [("poisson", "count"), ("binomial", "s of m")])
def test_an_effect_of_every_row_is_overdispersion_of_counts(family, left):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(f"{left} ~ x + (1 | row)", family, data().assign(row=np.arange(80)))


def test_r_users_are_told_how_to_write_trials():
    with pytest.raises(blm.FormulaError, match="successes of trials"):
        model("cbind(s, failures) ~ x", "binomial")


# ---- known standard errors


def test_a_known_standard_error_is_a_column_or_a_call_after_a_bar():
    parsed = parse_formula("log(y) | se(s) ~ x + (x | g)")
    assert (parsed.response, parsed.se, parsed.trials) == ("log ( y )", "s", None)
    assert [str(bar) for bar in parsed.bars] == ["(x | g)"]
    assert parse_formula("y | se(`a b`, sigma = FALSE) ~ 1").se == "`a b`"
    assert parse_formula("y ~ (1 | g)").se is None
    design = blm.LMM("positive | se(I(time / 2)) ~ time", data()).design
    np.testing.assert_allclose(design.weights, 4 / data()["time"] ** 2)
    assert design.se_name == "I(time / 2)"


@pytest.mark.parametrize(
    ("left", "match"),
    [
        ("y | s", "after '|' is the known standard error"),
        ("y | weights(w)", "Weights are weights="),
        ("y | se(s) + weights(w)", "after '|' is the known standard error"),
        ("y | se(s) | se(t)", "after '|' is the known standard error"),
        ("y | se()", "after '|' is the known standard error"),
        ("| se(s)", "after '|' is the known standard error"),
        ("(y | se(s))", "after '|' is the known standard error"),
        ("y | se(s, t)", "takes one column or one call"),
        ("y | se(s, sigma=x)", "takes one column or one call"),
        ("y | se(s, sigma=TRUE)", r"number.* the rows, and write y . se\(s\) ~ ... \+ \(1 . row\)"),
        ("y | se(s, sigma=True)", "a level per row is the same model"),
    ],
)
def test_what_stands_after_the_bar_is_a_standard_error_and_nothing_else(left, match):
    with pytest.raises(blm.FormulaError, match=match.replace("'|'", "'[|]'")):
        parse_formula(f"{left} ~ x")


def test_a_standard_error_learned_from_the_fitted_rows_has_no_value_in_new_ones():
    design = blm.LMM("positive | se(exp(scale(time))) ~ x", data()).design
    with pytest.raises(blm.FormulaError, match="standard error .* depends on all fitted rows"):
        add_rows(design, data().iloc[:2])


def test_added_rows_bring_their_standard_errors():
    design = blm.LMM("positive | se(time) ~ x + (1 | g)", data()).design
    more = add_rows(design, data().iloc[:3].assign(time=0.5))
    np.testing.assert_array_equal(more.weights[-3:], 4.0)
    with pytest.raises(blm.DataError, match="'time' is 0 in row 'r1'"):
        add_rows(design, data().iloc[1:3].assign(time=0.0))
