"""Bad input gives a clear error of ours or a visible warning, never a wrong number."""

from __future__ import annotations

import io
import re
import warnings

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.formula import build_design
from bayeslmm.formula.checks import check_design

FORMULAS = [
    ("", "empty"),
    ("   ", "empty"),
    (None, "must be a string"),
    ("y", 'no "~"'),
    ("~ x", "no response"),
    ("y ~", "nothing on the right"),
    ("y ~ x ~ z", "more than one '~'"),
    ("y ~ x + (1 | nope)", "no grouping factor 'nope'"),
    ("y ~ xx + (1 | g)", "no column 'xx'.*Did you mean 'x'"),
    ("Y ~ x + (1 | g)", "no column 'Y'.*Did you mean 'y'"),
    ("y ~ x + 1 | g", "no parentheses"),
    ("y ~ 1|g", "no parentheses.*\\(1 \\| g\\)"),
    ("y ~ x (x | g)", "'\\+' missing"),
    ("y ~ (1 | g) (1 | item)", "'\\+' missing"),
    ("y ~ x - (1 | g)", "cannot be subtracted"),
    ("y ~ x * (1 | g)", "does not stand on its own"),
    ("y ~ (1 | g | h)", "more than one bar"),
    ("y ~ ( | g)", "no effects"),
    ("y ~ (1 | )", "no grouping factor"),
    ("y ~ (0 | g)", "no effects left"),
    ("y ~ (1 | factor(g))", "write the column itself"),
    ("y ~ (1 | log(g))", "cannot be the call"),
    ("y ~ (1 | g + )", "found nothing"),
    ("y ~ (1 | 3)", "found '3'"),
    ("y ~ x + (1 | g) + (1 | g)", "written twice"),
    ("y ~ x + (1 | g) + (x | g)", "in two random terms"),
    ("y ~ x**2 + (1 | g)", "I\\(x\\*\\*2\\)"),
    ("y ~ x^2 + (1 | g)", "I\\(x\\*\\*2\\)"),
    ("y ~ x < 3", "inside I"),
    ("y ~ x % 2", "np.mod"),
    ("y ~ 2 * x", "not a term"),
    ("y ~ x*1e-3", "Cannot read|not a term"),
    ("y ~ 1.5e3 + x", "Cannot read|not a term"),
    ("y ~ x x", "Cannot read 'x'"),
    ("y ~ x)", "Unexpected '\\)'"),
    ("y ~ (x", "not closed"),
    ("y ~ log(x", "not closed"),
    ("y ~ `x", "backquote"),
    ("y ~ 'x", "quoted string|not closed"),
    ("y ~ _x", "backquotes"),
    ("y ~ x + + z", "Two signs"),
    ("y ~ x +", "missing after"),
    ("y ~ .", "name the columns"),
    ("y ~ np.log(x).sum()", "Cannot read"),
    ("y ~ nothere(x)", "calls nothere"),
    ("y ~ as.factor(x)", "C\\(x\\)"),
    ("y ~ factor(f)", "C\\(f\\)"),
    ("y ~ np.mean(x)", "calls np.mean"),
    ("y ~ np.f2py.os.system('echo hacked')", "calls np.f2py.os.system"),
    ("y ~ os.system('echo hacked')", "calls os.system"),
    ("y ~ __import__('os')", "Cannot read|calls"),
    ("y ~ eval('1')", "calls eval"),
    ("y ~ x + (np.f2py.os.system('echo hacked') | g)", "calls np.f2py.os.system"),
    ("np.f2py.os.system('echo hacked') ~ x", "calls np.f2py.os.system"),
    ("y + x ~ z", "one column or one call"),
    ("pi ~ x", "is a constant"),
    ("f ~ x + (1 | g)", "not numeric"),
    ("flag ~ x + (1 | g)", "not numeric"),
    ("cbind(y, x) ~ z", "one response at a time"),
    ("y ~ log(x) + (1 | g)", "not finite"),
    ("log(x) ~ z + (1 | g)", "not finite"),
    ("y ~ when + (1 | g)", "dates or times"),
    ("y ~ mixed + (1 | g)", "mixes values"),
    ("y ~ infinite + (1 | g)", "infinite"),
    ("infinite ~ x + (1 | g)", "infinite"),
    ("y ~ x + (1 | one)", "single level"),
    ("constant ~ x + (1 | g)", "constant"),
    ("y ~ allmissing + (1 | g)", "No row has all"),
    ("y ~ Intercept + (1 | g)", "Intercept"),
    ("y ~ poly(f, 2)", "cannot be evaluated"),
    ("y ~ bs(x)", "'df' or 'knots'"),
    ("y ~ x + (offset(x) | g)", "offset"),
    ("y ~ C(f, Treatment('zzz')) + (1 | g)", "cannot be evaluated"),
    ("y ~ x + one + (1 | g)", "single level"),
    ("y ~ x:offset(z) + (1 | g)", "interaction"),
    ("y ~ x - offset(z) + (1 | g)", "cannot be subtracted"),
    ("y ~ log(z, z) + (1 | g)", "takes 1 argument"),
    ("y ~ poly(x, 2, raw=TRUE)", "True, False and None"),
    ("y ~ huge + (1 | g)", "beyond 2\\^63"),
    ("y ~ x + (nothing | g)", "zero in every row"),
]


@pytest.fixture
def bad(toy) -> pd.DataFrame:
    toy["one"] = "only"
    toy["flag"] = toy["x"] > 0
    toy["constant"] = 3.25
    toy["allmissing"] = np.nan
    toy["when"] = pd.Timestamp("2026-01-01") + pd.to_timedelta(np.arange(len(toy)), unit="D")
    toy["mixed"] = [1, "two"] * (len(toy) // 2)
    toy["infinite"] = np.where(np.arange(len(toy)) == 7, np.inf, toy["x"])
    toy["Intercept"] = toy["x"]
    toy["huge"] = np.arange(len(toy), dtype="uint64") + np.uint64(2**63)
    toy["nothing"] = 0.0
    return toy


@pytest.mark.parametrize(("formula", "message"), FORMULAS, ids=[str(f[0]) for f in FORMULAS])
def test_a_bad_formula_or_column_is_refused_in_words(bad, formula, message):
    with pytest.raises(blm.BayesLMMError, match=message) as info:
        check_design(build_design(formula, bad))
    assert "\n" not in str(info.value)


def test_there_are_enough_bad_inputs():
    assert len(FORMULAS) >= 25


def test_no_calling_frame_is_searched_for_functions(toy):
    def secret(values):
        return values

    assert secret(1) == 1
    with pytest.raises(blm.FormulaError, match="calls secret"):
        build_design("y ~ secret(x) + (1 | g)", toy)


@pytest.mark.parametrize("data", [None, 3, "text", [1, 2], pd.DataFrame({"y": []})])
def test_data_that_is_no_frame_is_refused(data):
    with pytest.raises(blm.DataError):
        blm.LMM("y ~ x", data)


def test_two_columns_of_one_name_are_refused(toy):
    frame = pd.concat([toy, toy[["x"]]], axis=1)
    with pytest.raises(blm.DataError, match="2 columns called 'x'"):
        blm.LMM("y ~ x + (1 | g)", frame)


def test_more_coefficients_than_rows_is_refused(toy):
    with pytest.raises(blm.DataError, match="more rows than coefficients"):
        blm.LMM("y ~ poly(x, 5)", toy.iloc[:5])


def test_one_row_per_level_is_warned_about(toy):
    toy["row"] = np.arange(len(toy))
    with pytest.warns(blm.ModelWarning, match="one row"):
        blm.LMM("y ~ x + (1 | row)", toy)


def test_more_random_effects_than_rows_is_warned_about(toy):
    with pytest.warns(blm.ModelWarning, match="random effects"):
        blm.LMM("y ~ x + (x * z + f * x | f:h:item)", toy)


def test_rank_deficient_columns_are_named(toy):
    toy["x2"] = 2 * toy["x"] + 1
    with pytest.warns(blm.ModelWarning, match="rank deficient: x2"):
        model = blm.LMM("y ~ x + x2 + (1 | g)", toy)
    assert model.aliased == ("x2",)


def test_a_slope_far_from_zero_is_warned_about(toy):
    toy["year"] = 2000 + toy["x"]
    with pytest.warns(blm.ModelWarning, match="center\\(year\\)"):
        blm.LMM("y ~ year + (year | g)", toy)


def test_dependent_covariates_of_random_effects_are_named(toy):
    toy["three"] = 3.0
    with pytest.warns(blm.ModelWarning, match="Intercept, three of 'g' are linearly dependent"):
        blm.LMM("y ~ x + (three | g)", toy)


def test_large_unsigned_labels_stay_apart(toy):
    toy["id"] = (2**60 + toy["g"] * 50).astype("uint64")
    assert build_design("y ~ x + (1 | id)", toy).blocks[0].n_levels == 12


def test_new_data_of_another_type_is_refused_or_understood(toy):
    design = build_design("y ~ x + (1 | g)", toy)
    with pytest.raises(blm.DataError, match="'x' was numeric"):
        design.evaluate(pd.DataFrame({"x": ["a"], "g": [1]}))
    text = design.evaluate(pd.DataFrame({"x": [1.0, 2.0], "g": ["1", "11"]}))
    assert text.codes[0].tolist() == [1, 11]


def test_dropped_rows_are_never_silent(toy):
    toy.loc[:4, "x"] = np.nan
    with pytest.warns(blm.DataWarning, match="5 of 96 rows left out: missing values in x"):
        blm.LMM("y ~ x + (1 | g)", toy)
    with pytest.raises(blm.DataError, match="5 of 96 rows have missing values: x"):
        blm.LMM("y ~ x + (1 | g)", toy, missing="raise")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("nope", "no weights column"),
        ([1.0, 2.0], "2 values"),
        (-np.ones(96), "not negative"),
        (np.full(96, np.inf), "finite"),
        (["a"] * 96, "numbers"),
        (np.zeros(96), "weight 0"),
    ],
)
def test_bad_weights_are_refused(toy, weights, message):
    with pytest.raises(blm.BayesLMMError, match=message):
        blm.LMM("y ~ x + (1 | g)", toy, weights=weights)


@pytest.mark.parametrize("namespace", [{"np": 1}, {"scale": abs}, {"a.b": abs}, {3: abs}])
def test_bad_namespaces_are_refused(toy, namespace):
    with pytest.raises(blm.FormulaError, match="namespace"):
        blm.LMM("y ~ x", toy, namespace=namespace)


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ({"x": None}, "no column 'x'"),
        ({"g": None}, "no column 'g'"),
        ({"f": "zebra"}, "level\\(s\\) not seen.*'zebra'.*Known levels: a, b, c"),
        ({"x": np.nan}, "missing value"),
        ({"x": np.inf}, "infinite"),
    ],
)
def test_new_data_that_does_not_fit_the_model_is_refused(toy, new, message):
    design = build_design("y ~ x + f + (1 | g)", toy)
    frame = toy.iloc[:4].copy()
    for column, value in new.items():
        frame = frame.drop(columns=column) if value is None else frame.assign(**{column: value})
    with pytest.raises(blm.BayesLMMError, match=message):
        design.evaluate(frame)


@pytest.mark.parametrize("options", [{"family": "normal"}, {"missing": "ignore"}])
def test_unknown_options_list_what_there_is(toy, options):
    with pytest.raises(ValueError, match='gaussian|"drop"'):
        blm.LMM("y ~ x", toy, **options)


def _clinic() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    patient = np.repeat(np.arange(12), 4)
    return pd.DataFrame(
        {
            "patient": patient.astype(str),
            "site": np.array(["A", "B", "C"])[patient % 3],
            "week": np.tile(np.arange(4.0), 12),
            "pain score": rng.normal(size=48) + rng.normal(size=12)[patient],
        }
    )


def test_grouping_factors_with_the_same_groups_are_named():
    with pytest.warns(blm.ModelWarning, match="'patient' and 'patient:site' have the same groups"):
        blm.LMM("`pain score` ~ week + (1 | patient/site)", _clinic())


def test_a_grouping_factor_that_is_among_the_coefficients_is_named():
    with pytest.warns(blm.ModelWarning, match="levels of 'site' is among the coefficients"):
        blm.LMM("`pain score` ~ site + (1 | site/patient)", _clinic())


def test_nested_factors_as_they_should_be_are_not_remarked_on():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        blm.LMM("`pain score` ~ week + (1 | site/patient)", _clinic())


@pytest.mark.parametrize(
    ("formula", "name"),
    [
        ("pain score ~ week + (1 | patient)", "pain score"),
        ("log(pain score) ~ week", "pain score"),
        ("week ~ site + study day * week", "study day"),
        ("week ~ site + (study day | patient)", "study day"),
    ],
)
def test_of_a_column_with_a_space_in_its_name_only_the_backquotes_are_said(formula, name):
    data = _clinic().assign(**{"study day": 1.0, "study": 2.0})
    with pytest.raises(blm.FormulaError) as raised:
        blm.LMM(formula, data)
    assert str(raised.value) == f"Names with spaces or signs go in backquotes: `{name}`."
    with pytest.raises(blm.FormulaError, match="what stands before it is complete"):
        blm.LMM(formula.replace(name, f"{name}s"), data.drop(columns=name))


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("patient;day;pain score\n7;0;3,5\n9;1;4,5\n", r'semicolons .*sep=";" and decimal=","\.'),
        ("patient;day;pain score\n7;0;3.5\n9;1;4.5\n", r'semicolons .*sep=";"\.'),
        ("patient;day\n7;Meier, H\n9;Huber, A\n", r'semicolons .*sep=";"\.'),
        ("patient\tday\n7\t0\n9\t1\n", r'tabs .*sep="\\t"\.'),
        ("patient|day\n7|0\n9|1\n", r'bars .*sep="\|"\.'),
        ("weight\n7\n9\n", None),
        ("weight;old,patient\n7,1\n9,2\n", None),
    ],
)
def test_a_frame_whose_columns_were_taken_for_one_is_told_how_to_read(text, read):
    frame = pd.read_csv(io.StringIO(text))
    with pytest.raises(blm.FormulaError, match="no column 'days' in the data") as raised:
        blm.LMM("days ~ 1", frame)
    assert ("one column" in str(raised.value)) == (read is not None)
    assert read is None or re.search(f"one column, with {read}", str(raised.value))


def test_a_formula_in_the_place_of_the_data_is_told_its_place():
    for first in (_clinic(), "trial.csv"):
        with pytest.raises(blm.FormulaError, match="formula comes first, then the data: blm.LMM"):
            blm.LMM(first, "week ~ site + (1 | patient)")
    with pytest.raises(blm.DataError, match="no file '~/trial.csv'"):  # a home
        blm.LMM("week ~ site", "~/trial.csv")


def test_a_file_of_a_like_name_is_named(tmp_path, monkeypatch):
    (tmp_path / "trial.csv").write_text("y,x\n1,2\n")
    monkeypatch.chdir(tmp_path)
    for name in ("trail.csv", str(tmp_path / "trail.csv")):
        with pytest.raises(blm.DataError) as raised:
            blm.LMM("y ~ x", name)
        assert str(raised.value) == f"There is no file {name!r}. Did you mean 'trial.csv'?"
    with pytest.raises(blm.DataError, match=r"no file 'elsewhere/trail.csv'\.$"):
        blm.LMM("y ~ x", "elsewhere/trail.csv")
    with pytest.raises(blm.FileFormatError, match="Did you mean 'trial.csv'"):
        blm.load("trial.cs")


@pytest.mark.parametrize("response", ["pain score", '"pain score"'])
def test_a_name_with_a_space_is_shown_in_backquotes(response):
    with pytest.raises(blm.FormulaError, match="backquotes: `pain score`"):
        blm.LMM(f"{response} ~ week + (1 | patient)", _clinic())


def test_a_stray_word_among_numbers_is_named():
    data = _clinic()
    data["y"] = data["pain score"].astype(str)
    data.loc[3, "y"] = "missed"
    with pytest.raises(blm.DataError, match="values that are not: 'missed'"):
        blm.LMM("y ~ week + (1 | patient)", data)


DATES = {
    "iso": "2020-01-{:02}", "with a time": "2020-01-{:02} 10:30", "slashes": "1/{}/20",
    "points": "{}.1.2020",
}  # fmt: skip


@pytest.mark.parametrize("text", DATES.values(), ids=DATES)
@pytest.mark.parametrize("formula", ["y ~ day + (1 | g)", "y ~ x + (0 + day | g)", "y ~ x:day"])
def test_text_that_reads_as_dates_is_warned_about_as_a_predictor(toy, text, formula):
    data = toy.assign(day=[text.format(1 + i % 3) for i in range(len(toy))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        design = build_design(formula, data)
    with pytest.warns(blm.ModelWarning, match="'day' has text that reads as dates.* 3 levels"):
        check_design(design)


@pytest.mark.parametrize("formula", ["y ~ C(day) + (1 | g)", "y ~ x + (1 | day)", "y ~ code"])
def test_dates_that_are_meant_as_labels_are_not_warned_about(toy, formula):
    n = len(toy)
    days = [f"2020-01-0{1 + i % 3}" for i in range(n)]
    codes = [f"{i % 3}" for i in range(n)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_design(build_design(formula, toy.assign(day=days, code=codes)))
    assert not [w for w in caught if "reads as" in str(w.message) or "numbers" in str(w.message)]


def test_a_word_among_numbers_is_shown(toy):
    dose = [str(i % 5) for i in range(len(toy))]
    dose[7] = "3 mg"
    with pytest.warns(blm.ModelWarning, match="'dose' is text.*What is not: '3 mg'"):
        check_design(build_design("y ~ dose", toy.assign(dose=dose)))


@pytest.mark.parametrize(
    ("text", "recipe"),
    [
        ("2021-03-0{}", "data['day']);"),
        ("0{}.03.2021", "data['day'], dayfirst=True);"),
        ("0{}/03/2021", """data['day'], format="%d/%m/%Y" or "%m/...");"""),
    ],
)
def test_the_advice_for_dates_does_not_take_days_for_months(toy, text, recipe):
    data = toy.assign(day=[text.format(1 + i % 3) for i in range(len(toy))])
    with pytest.warns(blm.ModelWarning) as caught:
        check_design(build_design("y ~ day", data))
    assert recipe in str(caught[0].message)


def test_decimal_commas_are_named_wherever_numbers_are_needed(toy):
    commas = [f"{i % 5},5" for i in range(len(toy))]
    words = ["-" if i == 7 else text for i, text in enumerate(commas)]
    for column in (commas, words):
        data = toy.assign(pain=column)
        for family in ("gaussian", "poisson"):
            with pytest.raises(
                blm.DataError, match='decimal commas: read the file with decimal=","'
            ) as raised:
                build_design("pain ~ x", data, family=family)
            assert "bernoulli" not in str(raised.value)
    points = toy.assign(pain=[text.replace(",", ".") for text in commas])
    with pytest.raises(blm.DataError, match="reads as a number. A linear .* convert it"):
        build_design("pain ~ x", points)
    with pytest.raises(blm.DataError, match="values that are not: '-'.* na=.'-'.*--na '-'"):
        build_design("pain ~ x", data)
    with pytest.warns(blm.ModelWarning, match="'pain' is text.*What is not: '-'"):
        check_design(build_design("y ~ pain", data))


def test_commas_that_may_be_between_thousands_are_not_called_decimal(toy):
    data = toy.assign(pain=[f"1,{200 + i % 5}" for i in range(len(toy))])
    word = "between thousands, such as '1,200': take them out.*only if"
    with pytest.raises(blm.DataError, match=word):
        build_design("pain ~ x", data)
    with pytest.warns(blm.ModelWarning, match=word):
        check_design(build_design("y ~ pain", data))


def test_labels_that_floats_cannot_tell_apart_are_refused(toy):
    ids = 123456789012345678 + np.arange(len(toy)) % 4
    exact = build_design("y ~ x + (1 | id)", toy.assign(id=ids))
    assert exact.blocks[0].n_levels == 4
    with pytest.raises(blm.DataError, match=r"'id' has numbers beyond 2\^53"):
        build_design("y ~ x + (1 | id)", toy.assign(id=ids.astype(float)))


def test_levels_do_not_depend_on_which_comes_first(toy):
    """polars' Categorical and Arrow's dictionaries are in order of first appearance."""
    polars, pyarrow = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    f = np.array(["c", "b", "a"] * len(toy))[: len(toy)]
    frame = polars.DataFrame({"y": toy["y"].to_numpy(), "f": f})
    for dtype, first in ((polars.Categorical, "a"), (polars.Enum(["b", "c", "a"]), "b")):
        data = frame.with_columns(polars.col("f").cast(dtype))
        left = {"a", "b", "c"} - {first}
        for form in (data, data.lazy(), blm.scan(data, batch_rows=7)):
            assert set(blm.LMM("y ~ f", form).design.coef_names[1:]) == {f"f[{v}]" for v in left}
    table = pyarrow.table({"y": toy["y"].to_numpy(), "f": pyarrow.array(f).dictionary_encode()})
    assert blm.LMM("y ~ f", table).design.coef_names[1:] == ("f[b]", "f[c]")


def _cycled(values: list, n: int) -> list:
    return [values[i % len(values)] for i in range(n)]


NUMBERS = {
    "ages": [str(20 + i) for i in range(30)],
    "doses": ["0", "10", "25", "50"],
    "decimals": ["0.5", "1.0", "1.5"],
    "commas": ["0,5", "1,0", "1,5"],
    "years": [str(2010 + i) for i in range(10)],
}


@pytest.mark.parametrize("values", NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize("formula", ["y ~ dose + (1 | g)", "y ~ x + (0 + dose | g)"])
def test_text_that_is_all_numbers_is_warned_about(toy, values, formula):
    data = toy.assign(dose=_cycled(values, len(toy)))
    message = f"'dose' is text, and each of its {len(values)} different values is a number"
    with pytest.warns(blm.ModelWarning, match=message) as caught:
        check_design(build_design(formula, data))
    said = " ".join(str(w.message) for w in caught)
    assert ("decimal comma" in said) == ("," in values[0])
    with pytest.warns(blm.ModelWarning, match=message):
        blm.LMM("y ~ dose", blm.scan(data, batch_rows=40))


@pytest.mark.parametrize("formula", ["y ~ C(dose)", "y ~ dose"])
def test_numbers_that_are_meant_as_labels_are_not_warned_about(toy, formula):
    dose = _cycled(NUMBERS["ages"], len(toy))
    codes = _cycled(["1", "2", "3", "4"], len(toy))
    categories = dose if "C(" in formula else pd.Categorical(dose)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_design(build_design(formula, toy.assign(dose=categories)))
        check_design(build_design(formula, toy.assign(dose=codes)))


@pytest.mark.parametrize("change", ["{} ", " {}", "{}\u00a0", "{}\u200b", "s\u0327{}"])
@pytest.mark.parametrize("formula", ["y ~ x + (1 | id)", "y ~ id", "y ~ 1 + (1 | f:id)"])
def test_labels_that_look_alike_are_shown(toy, change, formula):
    label = "\u015f{}" if change.startswith("s") else "{}"  # one letter, or two that look like it
    ids = [(change if i % 24 == 3 else label).format(f"a{i % 4}") for i in range(len(toy))]
    data = toy.assign(id=ids)
    assert build_design("y ~ 1 + (1 | id)", data).blocks[0].n_levels == 5
    with pytest.warns(blm.ModelWarning, match="'id' has labels that differ only in spaces or inv"):
        check_design(build_design(formula, data))
    with pytest.warns(blm.ModelWarning, match="'id' has labels that differ only in spaces or inv"):
        blm.LMM(formula, blm.scan(data, batch_rows=40))


def test_labels_that_do_not_look_alike_are_not_remarked_on(toy):
    ids = _cycled(["a 1", "a1", "A1", "a-1"], len(toy))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_design(build_design("y ~ x + (1 | id)", toy.assign(id=ids)))


@pytest.mark.parametrize(
    ("fitted", "new"),
    [
        (["1", "2", "3"], [3, 1]),
        (["1", "2", "3"], [3.0, 1.0]),
        (pd.Categorical([1, 2, 3]), ["3", "1"]),
        (pd.Categorical([1.0, 2.0, 3.0]), ["3", "1"]),
    ],
)
def test_a_level_is_known_as_number_and_as_text(toy, fitted, new):
    values = pd.Series(fitted).iloc[np.arange(len(toy)) % 3].reset_index(drop=True)
    design = build_design("y ~ lot + (0 + lot | g)", toy.assign(lot=values))
    rows = design.evaluate(toy.iloc[:2].assign(lot=new))
    np.testing.assert_array_equal(rows.X[:, 1:], [[0, 1], [0, 0]])
    np.testing.assert_array_equal(rows.Z[0], [[0, 0, 1], [1, 0, 0]])
    with pytest.raises(blm.DataError, match="not seen when the model was fitted: '3 '"):
        design.evaluate(toy.iloc[:1].assign(lot="3 "))


def test_a_warning_of_many_names_shows_some_and_counts_all():
    rng = np.random.default_rng(0)
    day = [f"day {i // 2:03}" for i in range(300)]
    data = pd.DataFrame({"y": rng.normal(size=300), "day": day, "week": [f"w{d}" for d in day]})
    with pytest.warns(blm.ModelWarning, match=r"rank deficient.*\(149 in all\)") as caught:
        blm.LMM("y ~ day + week", data)
    assert max(len(str(w.message)) for w in caught) < 600
