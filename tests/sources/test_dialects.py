"""Text files as people have them: read rightly, or refused with the option that says more."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.errors import DataError, DataWarning

_RNG = np.random.default_rng(7)
DATA = pd.DataFrame(
    {
        "patient": np.repeat([f"P{i:02d}" for i in range(12)], 4),
        "pain score": _RNG.normal(5, 1, 48).round(1),
        "week": np.tile([0, 1, 2, 4], 12),
        "arm": np.repeat(["Körner", "placebo"], 24),
    }
)
FORMULA = "`pain score` ~ week + arm + (1 | patient)"


def estimates(source, **options) -> np.ndarray:
    """Coefficients of the fit of a file, or of a frame."""
    if not isinstance(source, pd.DataFrame):
        source = blm.scan(source, **options)
        source.in_batches = False
    return blm.LMM(FORMULA, source).reml().summary()["estimate"].to_numpy()


CLEAN = estimates(DATA)


@pytest.mark.parametrize(
    ("name", "written", "options", "said"),
    [
        ("a.csv", {"sep": ";", "decimal": ","}, {}, "separated by ';', decimals by ','"),
        ("a.csv", {"sep": ";"}, {}, "columns are separated by ';'; it"),
        ("a.csv.gz", {"sep": "|"}, {}, "separated by '|'"),
        ("a.tsv", {"sep": "\t", "decimal": ","}, {}, "decimals by ','"),
        ("a.txt", {"sep": "\t", "encoding": "utf-16"}, {}, "separated by tab, its encoding is utf"),
        ("a.csv", {"encoding": "utf-8-sig"}, {}, ""),
        ("a.csv", {"sep": ";", "decimal": ","}, {"sep": ";", "decimal": ","}, ""),
        ("a.txt", {"sep": "\t"}, {"sep": "tab"}, ""),
        ("a.csv", {"encoding": "cp1252"}, {"encoding": "cp1252"}, ""),
        ("a.csv", {"sep": ":", "decimal": ","}, {"sep": ":"}, "decimals by ','"),
        ("a.csv", {"decimal": ","}, {"decimal": ","}, ""),  # 3,5 in quotes
    ],
)
def test_a_file_of_another_dialect_gives_the_same_fit_and_says_what_was_found(
    tmp_path, name, written, options, said
):
    DATA.to_csv(tmp_path / name, index=False, **written)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found = estimates(tmp_path / name, **options)
    texts = [str(w.message) for w in seen]
    assert [said in text for text in texts] == ([True] if said else []), texts
    np.testing.assert_allclose(found, CLEAN, rtol=1e-9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("y;x;g\n1,234;2;a\n2,345;3;b\n", "such as '1,234', which may be decimals or thousands"),
        ("y;x;g\n1.234;2;a\n2.345;3;b\n", "such as '1.234', which may be decimals or thousands"),
        ("y;x;g\n1,5;2.5;a\n2,5;3.5;b\n", "such as '2.5' and '1,5', both signs"),
        ("y;x|g\n1;2|a\n2;3|b\n", "separated by ';' or by '|'"),
    ],
)
def test_a_file_that_can_be_read_in_two_ways_is_refused_with_the_option(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError) as raised:
        blm.scan(tmp_path / "a.csv")
    assert message in str(raised.value)
    assert "--decimal" in str(raised.value) or "--sep" in str(raised.value)


def test_what_may_be_thousands_is_read_as_it_is_said(tmp_path):
    (tmp_path / "a.csv").write_text("y;x\n1,234;2\n2,345;3\n1,500;4\n")
    source = blm.scan(tmp_path / "a.csv", sep=";", decimal=",")
    assert next(source.frames(["y"]))["y"].tolist() == [1.234, 2.345, 1.5]


def test_numbers_of_the_other_sign_far_down_are_text_not_other_numbers(tmp_path):
    rows = ["y;g", *(f"{i},5;a" for i in range(300_000)), "7.25;a"]
    (tmp_path / "a.csv").write_text("\n".join(rows))
    with pytest.warns(DataWarning, match="decimals by ','"):
        source = blm.scan(tmp_path / "a.csv")
    last = source.load(["y"])[-1]["y"]
    assert str(last.iloc[-1]) == "7.25"
    assert isinstance(last.dtype, pd.CategoricalDtype)


@pytest.mark.parametrize("late", [False, True])
def test_another_encoding_is_refused_with_its_name_and_a_word_read_so(tmp_path, late):
    header, rows = DATA.to_csv(index=False).split("\n", 1)
    plain = rows.replace("ö", "o") * (8_000 if late else 0)
    (tmp_path / "a.csv").write_text(f"{header}\n{plain}{rows}", encoding="cp1252")
    with pytest.raises(DataError, match='not in UTF-8.*encoding="cp1252".*--encoding cp1252') as e:
        estimates(tmp_path / "a.csv")
    assert late or "it reads 'Körner' then" in str(e.value)


def test_a_header_of_another_encoding_is_refused(tmp_path):
    DATA.rename(columns={"week": "Wöche"}).to_csv(tmp_path / "a.csv", encoding="cp1252")
    with pytest.raises(DataError, match="reads 'Wöche' then"):
        blm.scan(tmp_path / "a.csv")


def padded() -> pd.DataFrame:
    """Patients with blanks behind their labels, here and there."""
    rows = DATA.copy()
    rows["patient"] = [p + " " * (i % 3) for i, p in enumerate(rows["patient"])]
    return rows


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
def test_blanks_at_the_ends_of_text_are_no_part_of_a_label_and_that_is_said(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    padded().to_csv(path, index=False) if kind == "csv" else padded().to_excel(path, index=False)
    with pytest.warns(DataWarning, match="'patient' has text with blanks.*'P00 '.*same as 'P00'"):
        np.testing.assert_allclose(estimates(path), CLEAN, rtol=1e-9)


@pytest.mark.parametrize("kind", ["csv", "xlsx", "german"])
def test_blanks_at_the_ends_of_names_are_no_part_of_them_and_that_is_said(tmp_path, kind):
    path = tmp_path / ("a.xlsx" if kind == "xlsx" else "a.csv")
    rows = DATA.rename(columns={"week": " week", "arm": "arm "})
    if kind == "xlsx":
        rows.to_excel(path, index=False)
    else:
        options = {"sep": ";", "decimal": ","} if kind == "german" else {}
        rows.to_csv(path, index=False, encoding="utf-8-sig", **options)
    with pytest.warns(DataWarning, match="names of columns have blanks at their ends .' week'"):
        np.testing.assert_allclose(estimates(path), CLEAN, rtol=1e-9)


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
def test_names_that_differ_only_in_blanks_are_refused(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    rows = DATA.assign(**{"week ": 1})
    rows.to_csv(path, index=False) if kind == "csv" else rows.to_excel(path, index=False)
    with pytest.raises(DataError, match="columns 'week' that differ only in blanks"):
        blm.scan(path)


def test_two_columns_of_one_name_are_two_in_a_sheet_too(tmp_path):
    twice = pd.concat([DATA, DATA["week"] + 1], axis=1)
    twice.to_csv(tmp_path / "a.csv", index=False)
    twice.to_excel(tmp_path / "a.xlsx", index=False)
    for data in (twice, tmp_path / "a.csv", tmp_path / "a.xlsx"):
        with pytest.raises(DataError, match="2 columns called 'week'"):
            estimates(data)


def test_each_of_several_files_is_read_by_its_own_header(tmp_path):
    """In the second the columns have another order."""
    half = DATA.rename(columns={"week": " week"})
    half[:24].to_csv(tmp_path / "a.csv", index=False)
    half[24:][half.columns[::-1]].to_csv(tmp_path / "b.csv", index=False)
    with pytest.warns(DataWarning, match="blanks at their ends"):
        found = estimates([tmp_path / "a.csv", tmp_path / "b.csv"])
    np.testing.assert_allclose(found, CLEAN, rtol=1e-9)


@pytest.mark.parametrize("order", [("a.csv", "b.csv"), ("b.csv", "a.csv")])
def test_each_of_several_files_is_read_in_its_own_dialect(tmp_path, order):
    DATA[:24].to_csv(tmp_path / "a.csv", index=False, sep=";", decimal=",")
    DATA[24:].to_csv(tmp_path / "b.csv", index=False)
    with pytest.warns(DataWarning, match=r"a\.csv' columns are separated by ';', decimals by ','"):
        found = estimates([tmp_path / name for name in order])
    np.testing.assert_allclose(found, CLEAN, rtol=1e-9)


def test_what_a_file_leaves_open_is_as_in_the_first(tmp_path):
    """Whether 1,234 is a number of three decimals is known from the files before it."""
    DATA[:24].to_csv(tmp_path / "a.csv", index=False, sep=";", decimal=",")
    open_file = DATA[24:].assign(**{"pain score": "1,234"})
    open_file.to_csv(tmp_path / "b.csv", index=False, sep=";")
    told = pd.concat([DATA[:24], DATA[24:].assign(**{"pain score": 1.234})])
    with pytest.warns(DataWarning, match=r"a\.csv'"):
        found = estimates([tmp_path / "a.csv", tmp_path / "b.csv"])
    np.testing.assert_allclose(found, estimates(told), rtol=1e-9)
    with pytest.raises(DataError, match="decimals or thousands"):
        estimates([tmp_path / "b.csv", tmp_path / "a.csv"])


def test_labels_of_a_frame_that_differ_in_blanks_stay_apart_and_are_warned_about():
    with pytest.warns(blm.ModelWarning, match="differ only in spaces.*'P00' and 'P00 '"):
        model = blm.LMM(FORMULA, padded())
    assert model.design.blocks[0].n_levels == 36


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
def test_signs_for_missing_values_are_missing_values(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    rows = DATA.astype(object)
    for at, sign in enumerate(["-", "#N/A", "NA", "", " ", "NA "]):
        rows.loc[at, "week"] = sign
        rows.loc[47 - at, "arm"] = sign
    rows.to_csv(path, index=False) if kind == "csv" else rows.to_excel(path, index=False)
    expected = DATA.iloc[6:42]
    with pytest.warns(DataWarning, match="12 of 48 rows left out"):
        found = estimates(path, na=["-"])
    np.testing.assert_allclose(found, estimates(expected), rtol=1e-9)


@pytest.mark.parametrize("kind", ["csv", "german", "xlsx"])
def test_a_number_for_missing_values_is_found_however_it_is_written(tmp_path, kind):
    """999 in a column of decimals and in one of whole numbers."""
    path = tmp_path / ("a.xlsx" if kind == "xlsx" else "a.csv")
    rows = DATA.assign(whole=np.arange(len(DATA)), part=np.arange(len(DATA)) + 0.5)
    rows.loc[3, "whole"] = rows.loc[4, "part"] = 999
    written = {"sep": ";", "decimal": ","} if kind == "german" else {}
    rows.to_excel(path, index=False) if kind == "xlsx" else rows.to_csv(
        path, index=False, **written
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        source = blm.scan(path, na=["999"])
    (found,) = source.load(["whole", "part"])
    np.testing.assert_array_equal(np.flatnonzero(found["whole"].isna()), [3])
    np.testing.assert_array_equal(np.flatnonzero(found["part"].isna()), [4])
    assert found["whole"].sum() == rows["whole"].sum() - 999
    assert found["part"].sum() == rows["part"].sum() - 999


def test_a_sheet_is_chosen_by_its_name(tmp_path):
    path = tmp_path / "a.xlsx"
    with pd.ExcelWriter(path) as book:
        pd.DataFrame({"note": ["x"]}).to_excel(book, sheet_name="Notes", index=False)
        DATA.to_excel(book, sheet_name="Data", index=False)
    np.testing.assert_allclose(estimates(path, sheet="Data"), CLEAN, rtol=1e-9)
    with pytest.warns(DataWarning, match="sheets Notes, Data: the first was read.*--sheet"):
        blm.scan(path)
    with pytest.raises(DataError, match="no sheet 'Dat'. Did you mean 'Data'"):
        blm.scan(path, sheet="Dat")


def test_an_excel_file_without_its_reader_says_what_to_install(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "openpyxl", None)
    (tmp_path / "a.xlsx").write_bytes(b"")
    with pytest.raises(DataError, match=r"pip install 'bayeslmm\[excel\]'"):
        blm.scan(tmp_path / "a.xlsx")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.csv", {"sep": ";;"}, "must be one sign"),
        ("a.csv", {"decimal": ";"}, "decimal must be"),
        ("a.csv", {"encoding": "ansi-latin"}, "no encoding 'ansi-latin'. Usual ones"),
        ("a.csv", {"sheet": "A"}, "A sheet is of an Excel file"),
        ("a.parquet", {"sep": ";"}, "of text files"),
        ("a.xlsx", {"sep": ";"}, "of text files"),
        ("a.xls", {}, "old kind"),
        ("bad.xlsx", {}, "Cannot read .*bad.xlsx' as an Excel file"),
        ("no.xlsx", {}, "There is no file"),
        ("a.sav", {}, "not known by its name"),
    ],
)
def test_options_that_do_not_fit_the_file_are_refused(tmp_path, name, options, message):
    path = tmp_path / name
    if name == "a.parquet":
        DATA.to_parquet(path)
    elif name == "a.xlsx":
        DATA.to_excel(path, index=False)
    elif name != "no.xlsx":
        DATA.to_csv(path, index=False)
    with pytest.raises(DataError, match=message):
        blm.scan(path, **options)


def test_options_of_files_are_refused_beside_a_frame():
    with pytest.raises(DataError, match="are for files"):
        blm.scan(DATA, sep=";")
