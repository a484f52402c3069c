"""From the shell to tables, files, predictions and comparisons; and a file as people send it."""

from __future__ import annotations

import html
import json
import os
from io import StringIO

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from tests.test_cli import call
from tutorials.messy_file import WRONG, clean, write

FORMULA = "`Schmerz NRS` ~ Tag * Gruppe + (1 | Patient)"

#: What a shell makes of "~" where it stands alone.
HOME = os.path.expanduser("~")
QUOTED = "in quotes, so that the shell passes it as one argument: clean.csv 'Alter ~ Tag + Gruppe'."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("messy")
    write(made)
    return made


@pytest.fixture
def shell(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    return lambda *arguments: call(monkeypatch, capsys, *arguments)


def test_every_stumble_of_a_messy_file_is_one_sentence(shell):
    fit = ("fit", "studie.csv")
    code, _, errors = shell(*fit, "Schmerz NRS ~ Tag", "--reml", "--encoding", "cp1252")
    assert code == 2
    assert "`Schmerz NRS`. In the shell write the formula in single quotes" in errors
    code, _, errors = shell(*fit, " ~ Tag + (1 | Patient)", "--reml")
    assert code == 2
    assert errors.count("single quotes") == 1
    code, _, errors = shell(*fit, FORMULA, "--reml")
    assert code == 2
    assert "'Körpertherapie' then): say encoding=\"cp1252\", in the shell --encoding" in errors
    wrong = ["--encoding", "cp1252", "--reference", "Gruppe=Plazebo"]
    code, _, errors = shell(*fit, FORMULA, "--reml", *wrong)
    assert code == 2
    assert "Did you mean 'Placebo'" in errors
    with_age = "`Schmerz NRS` ~ Alter + (1 | Patient)"
    code, _, errors = shell(*fit, with_age, "--reml", "--encoding", "cp1252")
    assert "What is not: '-'" in errors
    assert "in the shell --na '-'" in errors
    dates = "`Schmerz NRS` ~ Datum + (1 | Patient)"
    code, _, errors = shell(*fit, dates, "--reml", "--encoding", "cp1252")
    assert "dayfirst=True" in errors


def test_a_messy_file_gives_the_fit_of_the_clean_frame(shell):
    """Of Excel's copy without the 999, the same numbers as of the frame."""
    options = ["--reference", "Gruppe=Placebo", "--reml", "--ddf", "kr", "--format", "json"]
    model = blm.LMM(FORMULA, clean().drop(WRONG), reference={"Gruppe": "Placebo"})
    expected = model.reml().fixef("kenward-roger")
    code, shown, errors = shell("fit", "studie.xlsx", FORMULA, *options)
    assert code == 0, errors
    assert "blanks at its ends, such as 'P00 '" in errors
    found = pd.DataFrame(json.loads(shown)["coefficients"]).set_index("coefficient")
    assert found.index.tolist()[2] == "Gruppe[Körpertherapie]"
    pd.testing.assert_frame_equal(
        found, pd.DataFrame(expected), rtol=1e-9, check_names=False, check_index_type=False
    )


COMMON = ["--encoding", "cp1252", "--reference", "Gruppe=Placebo", "--no-progress"]
QUICK = ["--method", "importance", "--draws", "100", "--seed", "1"]


def test_a_number_that_stands_for_a_missing_value_is_one_however_it_is_written(shell):
    """Of the CSV file, where it is 999,0, the same numbers as of Excel's copy without the row."""
    options = ["--reference", "Gruppe=Placebo", "--reml", "--format", "csv"]
    written = ["--encoding", "cp1252", "--na", "999"]
    code, shown, errors = shell("fit", "studie.csv", FORMULA, *options, *written)
    assert code == 0, errors
    assert "1 of 173 rows left out" in errors
    found = pd.read_csv(StringIO(shown)).set_index("name")["estimate"]
    expected = blm.LMM(FORMULA, clean().drop(WRONG), reference={"Gruppe": "Placebo"}).reml()
    for name, value in expected.fixef()["estimate"].items():
        assert found[name] == pytest.approx(value, rel=1e-6)


def test_a_fit_in_a_file_predicts_the_rows_of_another(shell, folder):
    outputs = ["--output", "fit.nc", "--output", "fit.md"]
    code, _, errors = shell("fit", "studie.csv", FORMULA, *COMMON, "--na", "999", *QUICK, *outputs)
    assert code == 0, errors
    assert "separated by ';', decimals by ','" in errors
    assert "| sd(Intercept \\| Patient) |" in (folder / "fit.md").read_text("utf-8")
    code, shown, errors = shell("predict", "fit.nc", "clean.csv", "--format", "csv")
    assert code == 0, errors
    rows = pd.read_csv(StringIO(shown))
    predicted = blm.load("fit.nc").predict(clean())
    np.testing.assert_allclose(rows[["mean", "upper"]], predicted[["mean", "upper"]], rtol=1e-9)
    assert rows["Patient"].tolist() == clean()["Patient"].tolist()


@pytest.mark.slow
def test_heavy_tails_let_a_wrong_number_count_little(shell):
    """The slopes with the 999 are those of the clean rows."""
    few = ["--family", "student", "--draws", "100", "--chains", "2", "--seed", "1"]
    code, _, errors = shell("fit", "studie.csv", FORMULA, *COMMON, *few, "--output", "fit.csv")
    assert code == 0, errors
    table = pd.read_csv("fit.csv").set_index("name")
    exact = blm.LMM(FORMULA, clean().drop(WRONG), reference={"Gruppe": "Placebo"}).reml().fixef()
    for name in ("Tag", "Tag:Gruppe[Körpertherapie]"):
        assert abs(table.loc[name, "mean"] - exact.loc[name, "estimate"]) < exact.loc[name, "se"]


@pytest.mark.slow
def test_a_messy_file_becomes_a_report(shell, folder):
    effect = ["--effect", "Tag:Gruppe[Körpertherapie]"]
    code, _, errors = shell(
        "report", "studie.csv", FORMULA, *COMMON, "--na", "999", *QUICK, *effect
    )
    assert code == 0, errors
    page = html.unescape((folder / "report.html").read_text("utf-8"))
    assert "blm.scan('studie.csv', encoding='cp1252', na=['999'])" in page
    assert "reference={'Gruppe': 'Placebo'}" in page


def test_the_python_of_a_report_reads_the_file_as_the_shell_did(folder, monkeypatch):
    from bayeslmm.cli.data import source_code

    monkeypatch.chdir(folder)
    given = {"data": ["studie.csv"], "encoding": "cp1252", "sep": None, "na": ["-"]}
    code = source_code(given)
    assert code == "blm.scan('studie.csv', encoding='cp1252', na=['-'])"
    with pytest.warns(blm.DataWarning, match="separated by ';'"):
        source = eval(code, {"blm": blm})
    assert len(source.load(["Tag"])[0]) == len(clean())
    assert not source.in_batches  # so that every family can be fitted
    assert source_code({"data": ["studie.xlsx"]}) == "'studie.xlsx'"


def test_fits_in_files_are_compared(shell, folder):
    for name, formula in {"a": "Alter ~ 1", "b": "Alter ~ Tag"}.items():
        few = ["--method", "importance", "--draws", "100", "--seed", "1", "--output", f"{name}.nc"]
        code, _, errors = shell("fit", "clean.csv", formula, *few)
        assert code == 0, errors
    code, printed, errors = shell("compare", "a.nc", "b.nc", "--output", "compared.json")
    assert code == 0, errors
    assert (printed, errors) == ("", "Wrote compared.json.\n")
    found = json.loads((folder / "compared.json").read_text())
    assert {row["name"] for row in found} == {"a", "b"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "a.html"], "the ending says what is written"),
        (["--output", "a.nc", "--reml"], "writes posterior fits"),
        (["--format", "xml"], "--format must be one of"),
        (["--method", "mcmc"], "--method must be one of"),
        (["--parameterization", "magic"], "--parameterization must be one of"),
        (["--ddf", "kr"], "--ddf goes with --reml"),
        (["--ddf", "magic", "--reml"], "ddf must be one of"),
        (["--ddf", "kr", "--ml"], "kenward-roger adjusts a REML fit"),
        (["--ddf", "kr", "--ml", "--family", "poisson"], "is for Gaussian responses"),
        (["--ddf", "satterthwaite", "--ml", "--family", "bernoulli"], "is for Gaussian responses"),
        (["--family", "normal"], "family must be one of"),
        (["--reference", "Gruppe"], "write COLUMN=LEVEL"),
        (["--sep", ";;"], "must be one sign"),
    ],
)
def test_options_are_refused_before_anything_is_fitted(shell, monkeypatch, arguments, message):
    monkeypatch.setattr(blm.LMM, "fit", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(blm.LMM, "reml", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(blm.LMM, "ml", lambda *_, **__: 1 / 0)
    code, _, errors = shell("fit", "clean.csv", "Alter ~ Tag", *arguments)
    assert code == 2
    assert message in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "no.nc", "clean.csv"], "There is no file 'no.nc'"),
        (["fit", "claen.csv", "Alter ~ Tag"], "no file 'claen.csv'. Did you mean 'clean.csv'?"),
        (["fit", "Alter ~ Tag", "clean.csv"], "formula: clean.csv 'Alter ~ Tag'."),
        (["report", "Alter ~ Tag", "clean.csv"], "The data come first, then the formula"),
        (["fit", "clean.csv", "Alter", "~", "Tag", "+", "Gruppe"], QUOTED),
        (["fit", "clean.csv", "Alter", HOME, "Tag", "+", "Gruppe"], QUOTED),
        (["fit", "clean.csv", "Alter~Tag", "+", "Gruppe"], "clean.csv 'Alter~Tag + Gruppe'."),
        (["predict", "no.nc", "clean.csv", "--output", "p.nc"], "not to .nc"),
        (["predict", "no.nc", "clean.csv", "--kind", "odd"], "--kind must be one of"),
        (["predict", "no.nc", "clean.csv", "--residuals", "odd"], "--residuals must be one of"),
        (["compare", "a.nc"], "two or more"),
        (["fit", "sleepstudy", "Reaction ~ Days", "--sep", ";"], "--sep is for files"),
    ],
)
def test_commands_on_files_refuse_in_one_line(shell, arguments, message):
    code, _, errors = shell(*arguments)
    assert code == 2
    assert message in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    ("formula", "gap"),
    [
        (" ~ week", True), ("y ~ ", True), ("y ~  + week", True), ("y ~ week * ", True),
        ("y ~ week + (1 | )", True), ("y ~ ( | g)", True), ("y ~ log( + 1)", True),
        ("y ~  - 1 + x", True), (" of n ~ x", True),
        ("y ~ x + (x || g)", False), ("y ~ -1 + x", False), ("y ~ I(x**2) - 1", False),
        ("y ~ C(a, Treatment('a +| b')) + (1 | g/h)", False), ("`a +| b` ~ x:z", False),
        ("p(y, n) ~ x + (0 + x | a:b)", False), ("y ~ (a + b)^2", False),
    ],
)  # fmt: skip
def test_a_formula_with_an_empty_place_is_told_from_others(formula, gap):
    from bayeslmm.cli.checks import refuse_gaps

    if gap:
        with pytest.raises(blm.FormulaError, match="empty place"):
            refuse_gaps(formula)
    else:
        refuse_gaps(formula)
