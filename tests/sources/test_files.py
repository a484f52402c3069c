"""Files: damage is named, an interrupted pass goes on, and sums can be kept."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.archive import _checksum
from bayeslmm.errors import DataError, FileFormatError
from bayeslmm.gaussian import CrossProducts
from bayeslmm.sources.arrow import FileSource
from tests.sources.source_helpers import crossed_data
from tests.sources.test_equality import CROSSED, assert_same_model, model

DATA = crossed_data()


def write_parts(folder, count: int = 6):
    folder.mkdir()
    for at, rows in enumerate(np.array_split(np.arange(len(DATA)), count)):
        DATA.iloc[rows].to_parquet(folder / f"part{at}.parquet")
    return folder


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_parquet_file_is_named(tmp_path, keep):
    folder = write_parts(tmp_path / "data")
    damaged = folder / "part3.parquet"
    content = damaged.read_bytes()
    damaged.write_bytes(content[: int(keep * len(content))])
    for source in (folder, blm.scan(folder, batch_rows=100)):
        with pytest.raises(DataError, match=r"part3\.parquet"):
            model(CROSSED, source)


def test_a_file_with_damaged_pages_is_named(tmp_path):
    folder = write_parts(tmp_path / "data")
    damaged = folder / "part2.parquet"
    content = bytearray(damaged.read_bytes())
    content[40 : len(content) // 2] = bytes(len(content) // 2 - 40)
    damaged.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"part2\.parquet"):
        model(CROSSED, blm.scan(folder, batch_rows=100))


def test_a_file_without_a_column_is_named(tmp_path):
    folder = write_parts(tmp_path / "data")
    DATA.drop(columns="z").to_parquet(folder / "part1.parquet")
    with pytest.raises(DataError, match=r"part1\.parquet.*'z'"):
        model(CROSSED, blm.scan(folder))


def test_csv_columns_are_typed_by_all_rows(tmp_path):
    """Integers first and decimals, text or nothing later: as pandas reads the whole file."""
    n = 4000
    rng = np.random.default_rng(0)
    data = pd.DataFrame(
        {
            "y": rng.normal(size=n),
            "x": [str(v) for v in range(n - 1)] + ["0.5"],
            "g": [str(v % 7) for v in range(n - 100)] + [f"late {v % 3}" for v in range(100)],
            "day": [f"2020-01-{1 + v % 9:02}" for v in range(n)],
            "unused": "long text " * 600,
        }
    )
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    data.to_csv(first, index=False)
    data.assign(x="7", g="2").to_csv(second, index=False)
    whole = pd.concat([pd.read_csv(first), pd.read_csv(second)])
    whole["g"] = whole["g"].astype(str)
    formula = "y ~ x + (1 | g) + (1 | day)"
    streamed = model(formula, blm.scan([first, second], batch_rows=1000))
    assert_same_model(model(formula, whole), streamed)


def differing_parts(case: str) -> list[pd.DataFrame]:
    """Three parts of one table, the second of another make."""
    rows = np.array_split(np.arange(len(CLEAN)), 3)
    parts = [CLEAN.iloc[part].reset_index(drop=True) for part in rows]
    changed = parts[1]
    if case == "other order":
        changed = changed[changed.columns[::-1]]
    elif case == "integers":
        changed = changed.assign(x=changed["x"].round().astype(int))
    elif case == "floats":
        changed = changed.assign(g=changed["g"].astype(float))
    elif case == "nothing in x":
        changed = changed.assign(x=None)
    elif case == "nothing in f":
        changed = changed.assign(f=None)
    elif case == "no rows":
        changed = changed.iloc[:0]
    elif case == "long labels":
        parts[0] = parts[0].assign(g=parts[0]["g"] + 10**17)
        changed = changed.assign(g=(changed["g"] + 10**17).astype("Int64"))
        changed.loc[3, "g"] = pd.NA
    parts[1] = changed
    return parts


CLEAN = DATA.dropna()[["y", "x", "f", "g"]].reset_index(drop=True)
CASES = [
    "other order", "integers", "floats", "nothing in x", "nothing in f", "no rows", "long labels",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["parquet", "csv"])
@pytest.mark.parametrize("case", CASES)
def test_files_that_differ_give_the_fit_of_their_rows(tmp_path, case, kind):
    parts = differing_parts(case)
    for i, part in enumerate(parts):
        if kind == "csv":
            part.to_csv(tmp_path / f"part{i}.csv", index=False)
        else:
            part.to_parquet(tmp_path / f"part{i}.parquet")
    whole = pd.concat([part for part in parts if len(part)], ignore_index=True)
    whole["x"] = whole["x"].astype(float)
    whole["g"] = whole["g"].astype("Int64")
    expected = model("y ~ x + f + (x | g)", whole)
    for source in (tmp_path, blm.scan(tmp_path, batch_rows=100)):
        assert_same_model(expected, model("y ~ x + f + (x | g)", source))


def test_a_csv_file_without_a_column_or_with_another_kind_is_named(tmp_path):
    for i, part in enumerate(differing_parts("")):
        part.to_csv(tmp_path / f"part{i}.csv", index=False)
    CLEAN.drop(columns="f").to_csv(tmp_path / "part1.csv", index=False)
    with pytest.raises(DataError, match=r"part1\.csv' has no column 'f'"):
        model("y ~ x + f + (x | g)", tmp_path)
    CLEAN.assign(f=1).to_csv(tmp_path / "part1.csv", index=False)
    CLEAN.assign(f=CLEAN["x"] > 100).to_csv(tmp_path / "part0.csv", index=False)
    with pytest.raises(DataError, match=r"True and False in some files.*part1\.csv"):
        model("y ~ x + f + (x | g)", tmp_path)


def test_two_names_of_the_same_groups_are_warned_about_in_batches_too(tmp_path):
    CLEAN.assign(same=CLEAN["g"].astype(str)).to_parquet(tmp_path / "data.parquet")
    with pytest.warns(blm.ModelWarning, match="'g' and 'same' have the same groups"):
        blm.LMM("y ~ x + (1 | g) + (1 | same)", blm.scan(tmp_path, batch_rows=99))


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_files_without_rows_say_so(tmp_path, kind):
    path = tmp_path / f"none.{kind}"
    CLEAN.iloc[:0].to_csv(path, index=False) if kind == "csv" else CLEAN.iloc[:0].to_parquet(path)
    for source in (path, blm.scan(path)):
        with pytest.raises(DataError, match="no rows"):
            model("y ~ x + (1 | g)", source)


@pytest.mark.parametrize("column", ["x", "y"])
def test_a_bad_value_in_a_late_file_is_shown(tmp_path, column):
    parts = differing_parts("")
    parts[2] = parts[2].assign(**{column: [*map(str, parts[2][column][:-1]), "1O1.3"]})
    for i, part in enumerate(parts):
        part.round(0).to_csv(tmp_path / f"part{i}.csv", index=False)
    for source in (tmp_path, blm.scan(tmp_path, batch_rows=200)):
        with (
            pytest.warns(blm.ModelWarning, match="'1O1.3'")
            if column == "x"
            else (pytest.raises(DataError, match="'y' is not numeric.*'1O1.3'"))
        ):
            blm.LMM(f"{'y' if column == 'y' else 'g'} ~ x + (1 | f)", source)


def test_an_interrupted_pass_goes_on_from_the_finished_files(tmp_path, monkeypatch):
    folder, kept = write_parts(tmp_path / "data"), tmp_path / "sums"
    reference = model(CROSSED, DATA)
    read: list[str] = []
    original = FileSource.file_frames

    def counted(self, file, columns):
        read.append(file)
        if len(read) == stop_at:
            raise KeyboardInterrupt
        return original(self, file, columns)

    monkeypatch.setattr(FileSource, "file_frames", counted)
    stop_at = 9  # in the last of the passes: six files are surveyed first, then levels of C(k)
    with pytest.raises(KeyboardInterrupt):
        model("y ~ x + (1 | g)", blm.scan(folder, checkpoint=kept))
    assert len(list(kept.glob("*.npz"))) == 8
    stop_at, before = -1, len(read)
    resumed = model("y ~ x + (1 | g)", blm.scan(folder, checkpoint=kept))
    assert len(read) - before == 4
    assert_same_model(model("y ~ x + (1 | g)", DATA), resumed)
    before = len(read)
    again = model("y ~ x + (1 | g)", blm.scan(folder, checkpoint=kept))
    assert len(read) == before
    assert_same_model(again, resumed)
    assert_same_model(reference, model(CROSSED, blm.scan(folder, checkpoint=kept)))


def test_sums_of_a_changed_file_or_damaged_sums_are_not_used(tmp_path):
    folder, kept = write_parts(tmp_path / "data"), tmp_path / "sums"
    formula = "y ~ x + (1 + z | s)"
    model(formula, blm.scan(folder, checkpoint=kept))
    changed = DATA.copy()
    rows = np.array_split(np.arange(len(DATA)), 6)[2]
    changed.loc[rows, "y"] += 5.0
    changed.iloc[rows].to_parquet(folder / "part2.parquet")
    for file in sorted(kept.glob("part4*.npz")):
        file.write_bytes(file.read_bytes()[:-200])
    assert_same_model(model(formula, changed), model(formula, blm.scan(folder, checkpoint=kept)))


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_fitted_values_of_a_file_that_changed_since_are_refused_before_the_first(tmp_path, kind):
    path = tmp_path / f"data.{kind}"

    def write(frame):
        frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)

    write(CLEAN)
    fit = model("y ~ x + f + (1 | g)", blm.scan(path, batch_rows=200)).reml()
    before = pd.concat(blm.fitted_batches(fit))
    write(CLEAN.sample(frac=1.0, random_state=1))  # the same rows in another order
    after = pd.concat(blm.fitted_batches(fit))
    np.testing.assert_allclose(np.sort(after["fitted"]), np.sort(before["fitted"]), rtol=1e-12)
    swapped = CLEAN["y"].to_numpy().copy()
    swapped[[3, 900]] = swapped[[900, 3]]
    changes = [
        CLEAN.assign(y=swapped),
        CLEAN.assign(x=CLEAN["x"].where(CLEAN.index != 700, CLEAN["x"] * (1 + 1e-12))),
        CLEAN.assign(f=CLEAN["f"].where(CLEAN.index != 3, "a" if CLEAN["f"][3] != "a" else "b")),
        CLEAN.iloc[1:],
        pd.concat([CLEAN, CLEAN.iloc[:1]]),
    ]
    for changed in changes:
        write(changed)
        with pytest.raises(DataError, match="changed since"):
            next(blm.fitted_batches(fit))
    write(CLEAN)
    assert len(pd.concat(blm.fitted_batches(fit))) == len(CLEAN)


@pytest.mark.parametrize("formula", [CROSSED, "np.log(y) ~ scale(x) + (1 | g/h)"])
def test_fitted_values_of_a_frame_that_changed_since_end_in_an_error(formula):
    data = DATA.copy()
    fit = model(formula, blm.scan(data, batch_rows=400), weights="w").reml()
    assert len(list(blm.fitted_batches(fit))) == 4
    for column in ("y", "x", "w"):
        data.loc[1, column] += 0.5
        with pytest.raises(DataError, match="changed since"):
            list(blm.fitted_batches(fit))
        data.loc[1, column] = DATA.loc[1, column]
    assert len(list(blm.fitted_batches(fit))) == 4


def test_cross_products_survive_a_file(tmp_path):
    cp = model(CROSSED, DATA, weights="w").cross_products
    path = tmp_path / "sums.npz"
    cp.save(path)
    back = CrossProducts.load(path)
    np.testing.assert_array_equal(back.gram, cp.gram)
    np.testing.assert_array_equal(back.pairs[0, 1].values, cp.pairs[0, 1].values)
    assert back.shift.same_as(cp.shift)
    assert (back.n, back.n_dropped, back.sum_log_weights) == (cp.n, 0, cp.sum_log_weights)
    double = back + cp
    assert double.n == 2 * cp.n


def test_damaged_or_foreign_files_of_cross_products_are_refused(tmp_path):
    path = tmp_path / "sums.npz"
    model("y ~ x + (1 | g)", DATA).cross_products.save(path)
    content = path.read_bytes()
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 0xFF
    for wrong in (content[: len(content) // 2], bytes(damaged), b"", b"text"):
        path.write_bytes(wrong)
        with pytest.raises(FileFormatError, match=r"sums\.npz"):
            CrossProducts.load(path)
    with pytest.raises(FileFormatError, match="no file"):
        CrossProducts.load(tmp_path / "absent.npz")
    np.savez(path, record=np.array('{"kind": "other"}'), checksum=np.array("0"))
    with pytest.raises(FileFormatError):
        CrossProducts.load(path)
    np.savez(path, record=np.array([object()], dtype=object), checksum=np.array("0"))
    with pytest.raises(FileFormatError):
        CrossProducts.load(path)


def _rewritten(path, change) -> None:
    """An archive whose record is another, with a right checksum."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    record, _ = json.loads(str(arrays.pop("record"))), arrays.pop("checksum")
    record = change(record, arrays) or record
    text = record if isinstance(record, str) else json.dumps(record)
    checksum = _checksum(text, arrays)
    np.savez(path, record=np.array(text), checksum=np.array(checksum), **arrays)


def _fields(record) -> dict:
    return record["tree"]["fields"]


def _pairs(record) -> dict:
    return _fields(record)["pairs"]["dict"][0][1]["fields"]


CHANGES = {
    "not JSON": lambda r, a: "{",
    "deep": lambda r, a: "[" * 10**5,
    "a list": lambda r, a: "[]",
    "no version": lambda r, a: r.pop("version") and None,
    "a version of text": lambda r, a: r.update(version="1"),
    "no tree": lambda r, a: r.pop("tree") and None,
    "a tree of text": lambda r, a: r.update(tree="x"),
    "another class": lambda r, a: r["tree"].update(object="Popen"),
    "a class inside": lambda r, a: r.update(tree=_fields(r)["shift"]),
    "no gram": lambda r, a: _fields(r).pop("gram") and None,
    "a gram of text": lambda r, a: _fields(r).update(gram="x"),
    "an array that is not": lambda r, a: _fields(r).update(gram={"array": "a99", "kind": "f"}),
    "a smaller gram": lambda r, a: a.update({_fields(r)["gram"]["array"]: np.zeros((2, 2))}),
    "integers": lambda r, a: a.update({_fields(r)["gram"]["array"]: np.zeros((4, 4), dtype=int)}),
    "n of text": lambda r, a: _fields(r).update(n="many"),
    "no factors": lambda r, a: _fields(r).update(factors={"tuple": []}),
    "levels beyond": lambda r, a: a[_pairs(r)["rows"]["array"]].fill(10**9),
    "levels below": lambda r, a: a[_pairs(r)["columns"]["array"]].fill(-1),
    "fewer pairs": lambda r, a: a.update({_pairs(r)["rows"]["array"]: np.zeros(1, dtype=np.int64)}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_malformed_cross_products_are_refused_whatever_the_checksum_says(tmp_path, change):
    path = tmp_path / "sums.npz"
    model("y ~ x + (1 | g) + (1 | s)", DATA).cross_products.save(path)
    _rewritten(path, lambda record, arrays: None)
    CrossProducts.load(path)
    _rewritten(path, CHANGES[change])
    with pytest.raises(FileFormatError, match=r"sums\.npz"):
        CrossProducts.load(path)


def test_sizes_in_an_archive_are_not_believed(tmp_path):
    path = tmp_path / "sums.npz"
    header = io.BytesIO()
    declared = {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
    np.lib.format.write_array_header_1_0(header, declared)
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(path, "w", compression) as members:
            members.writestr("record.npy", header.getvalue() + bytes(10**6))
        with pytest.raises(FileFormatError, match="larger than"):
            CrossProducts.load(path)


def test_flipped_bits_of_an_archive_are_noticed(tmp_path):
    path = tmp_path / "sums.npz"
    reference = model("y ~ x + (1 | g)", DATA).cross_products
    reference.save(path)
    content, rng, unnoticed = path.read_bytes(), np.random.default_rng(3), 0
    for at in rng.integers(0, len(content), 300):
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            found = CrossProducts.load(path)
        except FileFormatError:
            continue
        unnoticed += 1  # a date of the archive, say, which is not read
        np.testing.assert_array_equal(found.gram, reference.gram)
        np.testing.assert_array_equal(found.factors[0].zr, reference.factors[0].zr)
    assert unnoticed < 100


def test_sums_of_another_make_are_not_used(tmp_path):
    """A state with a right checksum that does not fit the pass: its data file is read again."""
    folder, kept = write_parts(tmp_path / "data"), tmp_path / "sums"
    expected = model("y ~ x + (1 | g)", blm.scan(folder, checkpoint=kept))
    for file in kept.glob("*.npz"):
        _rewritten(file, lambda record, arrays: record["tree"]["fields"].popitem() and None)
    again = model("y ~ x + (1 | g)", blm.scan(folder, checkpoint=kept))
    assert_same_model(expected, again)
