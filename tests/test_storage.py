"""Saved fits: there whole or not at all, damage noticed, nothing believed that is only declared."""

from __future__ import annotations

import copy
import gzip
import io
import json
import os
import subprocess
import sys
from functools import cache

import h5py
import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.files import is_intact, seal
from bayeslmm.gaussian import CrossProducts
from tests.conftest import DATA, quietly

EARLY = ("fit_0_1_0", "batches_0_1_0")


@pytest.fixture
def early(tmp_path):
    """Path of a file as the first version wrote it, without a checksum."""

    def path_of(name: str):
        path = tmp_path / f"{name}.nc"
        path.write_bytes(gzip.decompress((DATA / f"{name}.nc.gz").read_bytes()))
        return path

    return path_of


@pytest.fixture
def fit(early):
    return blm.load(early("fit_0_1_0"))


@pytest.fixture
def saved(fit, tmp_path):
    path = tmp_path / "saved.nc"
    fit.save(path)
    return path


@cache
def _record(content: bytes) -> str:
    with h5py.File(io.BytesIO(content)) as file:
        return file["bayeslmm/record"][()].decode()


def with_record(content: bytes, record: object, path) -> None:
    """A file with another record and a right checksum."""
    path.write_bytes(content)
    with h5py.File(path, "r+") as file:
        file["bayeslmm/record"][()] = record if isinstance(record, str) else json.dumps(record)
    with open(path, "r+b") as file:
        seal(file)


@pytest.mark.parametrize(
    ("name", "mean"), [("fit_0_1_0", 4.93830473012179), ("batches_0_1_0", 4.934730295967857)]
)
def test_files_of_the_first_version_load_and_have_a_checksum_once_saved_again(early, name, mean):
    path = early(name)
    with open(path, "rb") as file:
        assert is_intact(file) is None
    fit = blm.load(path)
    assert fit.fixef()["mean"].iloc[0] == mean
    fit.save(path)
    with open(path, "rb") as file:
        assert is_intact(file)
    again = blm.load(path)
    pd.testing.assert_frame_equal(again.summary(), fit.summary())
    assert again.idata.identical(fit.idata)
    assert repr(again.priors) == repr(fit.priors)


def _flips(path, numbers: int, seed: int) -> list[str]:
    """What was wrong with what became of flipped bits: nothing is to be."""
    content = path.read_bytes()
    reference = blm.load(path)
    rng = np.random.default_rng(seed)
    # the record and the checksum are a small part of the file: half of the flips go there
    record = content.find(b'{"format"')
    assert record > 0
    everywhere = rng.integers(0, len(content), numbers // 2)
    there = record + rng.integers(0, 4000, numbers // 4)
    at_end = len(content) - 1 - rng.integers(0, 110, numbers - len(everywhere) - len(there))
    wrong = []
    for at in np.concatenate([everywhere, there, at_end]):
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            found = blm.load(path)
        except blm.FileFormatError:
            continue
        except Exception as err:
            wrong.append(f"byte {at}: {err!r}")
            continue
        if not found.idata.identical(reference.idata) or repr(found.model) != repr(reference.model):
            wrong.append(f"byte {at}: another fit")
    return wrong


def test_a_flipped_bit_is_noticed(saved):
    assert _flips(saved, 60, seed=1) == []


@pytest.mark.slow
def test_no_flipped_bit_of_500_gives_another_fit_or_a_foreign_error(saved):
    assert _flips(saved, 500, seed=2) == []


def test_a_file_that_was_cut_or_changed_is_refused(saved):
    content = saved.read_bytes()
    for length in (0, 1, 8, 100, len(content) // 2, len(content) - 200, len(content) - 20):
        saved.write_bytes(content[:length])
        with pytest.raises(blm.FileFormatError, match=r"saved\.nc"):
            blm.load(saved)
    saved.write_bytes(content)
    with h5py.File(saved, "r+") as file:
        file["posterior/beta"][0, 0, 0] += 1.0
    with pytest.raises(blm.FileFormatError, match="checksum"):
        blm.load(saved)


def _changes(record) -> list[tuple[str, object]]:
    """Records that cannot be, by name."""
    found: list[tuple[str, object]] = [(f"{value!r}", value) for value in (None, [], 3, "x", {})]

    def add(name, change):
        other = copy.deepcopy(record)
        change(other)
        found.append((name, other))

    for key in record:
        if key not in ("sealed",):
            add(f"no {key}", lambda r, key=key: r.pop(key))
        if key in ("versions", "design"):
            continue
        for value in (7.5, {"x": "y"}):
            add(f"{key} = {value!r}", lambda r, key=key, value=value: r.update({key: value}))
    for part in ("priors", "model_priors", "info"):
        for key in list(record[part])[::2]:
            add(f"no {part}/{key}", lambda r, part=part, key=key: r[part].pop(key))
            add(f"{part}/{key}", lambda r, part=part, key=key: r[part].update({key: [[]]}))
    add("a prior that is not", lambda r: r["priors"]["sigma"].update(name="os.system"))
    add("a negative scale", lambda r: r["priors"]["sigma"].update(sigma=-1.0))
    add("deep", lambda r: r.update(priors=json.loads('{"a":' * 500 + "1" + "}" * 500)))
    if "design" in record:
        for at, (name, _) in enumerate(record["design"]["dict"]):
            add(f"no design/{name}", lambda r, at=at: r["design"]["dict"].pop(at))
            add(f"design/{name}", lambda r, at=at: r["design"]["dict"][at].__setitem__(1, 7))
    else:
        add("a column twice", lambda r: r["columns"].append(r["columns"][0]))
        add("a level less", lambda r: r["columns"][2]["levels"].pop())
        add("another kind", lambda r: r["columns"][1].update(kind="category", levels=["a"]))
        add("a row label less", lambda r: r["index"].update(kind="labels", labels=["a"]))
        add("fewer rows", lambda r: r["missing"].update(n_rows=3))
        add("other coefficients", lambda r: r.update(formula="y ~ f + scale(x) + (1 | g)"))
        add("another effect", lambda r: r.update(formula="y ~ scale(x) + f + (x | g)"))
        add("other residuals", lambda r: r.update(residual={"residual": "cs(g)", "sigma": None}))
    return found


def _read_in_spite_of(name: str, early, tmp_path, every: int) -> list[str]:
    """Malformed records, with a right checksum, that are read or end in a foreign error."""
    path, other = early(name), tmp_path / "other.nc"
    blm.load(path).save(path)
    content = path.read_bytes()
    record = json.loads(_record(content))
    with_record(content, record, other)
    blm.load(other)
    texts = [("text", "{"), ("text", ""), ("text", "[" * 10**5)]
    wrong = []
    for what, changed in [*_changes(record)[::every], *texts]:
        with_record(content, changed, other)
        try:
            blm.load(other)
            wrong.append(f"{what} was read")
        except blm.FileFormatError:
            pass
        except Exception as err:
            wrong.append(f"{what}: {err!r}")
    return wrong


@pytest.mark.parametrize("name", EARLY)
def test_a_malformed_record_is_refused_whatever_the_checksum_says(early, name, tmp_path):
    assert _read_in_spite_of(name, early, tmp_path, every=5) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", EARLY)
def test_every_malformed_record_is_refused(early, name, tmp_path):
    assert _read_in_spite_of(name, early, tmp_path, every=1) == []


@pytest.mark.parametrize("batches", [False, True])
def test_splines_of_a_formulae_with_another_basis_are_refused(tmp_path, batches):
    data = blm.load_dataset("sleepstudy")
    source = blm.scan(data) if batches else data
    model = blm.LMM("Reaction ~ bs(Days, df=4) + (1 | Subject)", source)
    path = tmp_path / "spline.nc"
    model.fit(draws=500, method="importance", random_seed=1, progressbar=False).save(path)
    record = json.loads(_record(path.read_bytes()))
    assert blm.load(path).model.design.formula == model.design.formula
    others = "0.6.2" if record["versions"]["formulae"] >= "0.9" else "0.9.0"
    with_record(path.read_bytes(), record | {"versions": {"formulae": others}}, path)
    with pytest.raises(blm.FileFormatError, match=f"bs.. was made by formulae {others}"):
        blm.load(path)


def test_arrays_that_do_not_fit_the_record_are_refused(saved, tmp_path):
    content = saved.read_bytes()

    def drop(name):
        return lambda file: file.pop(name)

    def set_to(name, value):
        def change(file):
            file[name][...] = value

        return change

    changes = {
        "no draws": drop("posterior/beta"),
        "no posterior": drop("posterior"),
        "no rows": drop("bayeslmm/rows"),
        "no column": drop("bayeslmm/column_1"),
        "no weights": drop("bayeslmm/weights"),
        "a missing value": set_to("bayeslmm/column_1", np.nan),
        "a level that is not": set_to("bayeslmm/column_2", 17),
        "negative weights": set_to("bayeslmm/weights", -1.0),
        "rows that are not": set_to("bayeslmm/rows", 10**9),
        "other labels": set_to("posterior/coef", "x"),
    }
    for what, change in changes.items():
        path = tmp_path / "changed.nc"
        path.write_bytes(content)
        with h5py.File(path, "r+") as file:
            change(file)
        with open(path, "r+b") as file:
            seal(file)
        try:
            blm.load(path)
        except blm.FileFormatError:
            continue
        raise AssertionError(f"{what} was read")


def _posterior_of(kind: str, file: h5py.File, other) -> None:
    """Put something in the place of the draws that reading must not follow or believe."""
    group = file["posterior"]
    shape = group["beta"].shape
    scales = [group[name] for name in ("chain", "draw", "coef")]
    del group["beta"]
    if kind == "external link":
        group["beta"] = h5py.ExternalLink(str(other), "posterior/beta")
    elif kind == "soft link":
        group["beta"] = h5py.SoftLink("/posterior/sd_g")
    elif kind == "external storage":
        group.create_dataset("beta", shape, "f8", external=[(str(other), 0, 10**6)])
    elif kind == "virtual":
        layout = h5py.VirtualLayout(shape, "f8")
        layout[...] = h5py.VirtualSource(str(other), "posterior/beta", shape)
        group.create_virtual_dataset("beta", layout)
    elif kind == "huge":
        size = (2, 10, 10**12)
        group.create_dataset("beta", size, "f8", chunks=(1, 1, 10**4), compression="gzip")
    elif kind == "huge, in part there":
        made = group.create_dataset("beta", (2, 10, 10**12), "f8", chunks=True, compression=1)
        made[0, 0, :1000] = 1.0
    elif kind == "huge, not compressed":
        group.create_dataset("beta", (10**6, 10**6), "f8")
    elif kind == "compound":
        group["beta"] = np.zeros(shape, dtype=[("a", "f8"), ("b", "i4")])
    elif kind == "a circle":
        group["beta"] = group
    if kind in ("external storage", "virtual"):
        for dim, scale in enumerate(scales):
            group["beta"].dims[dim].attach_scale(scale)


@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize(
    "kind",
    [
        "external link",
        "soft link",
        "external storage",
        "virtual",
        "huge",
        "huge, in part there",
        "huge, not compressed",
        "compound",
        "a circle",
    ],
)
def test_other_files_are_not_read_and_sizes_not_believed(saved, early, tmp_path, kind, checksum):
    other = tmp_path / "other.nc"
    other.write_bytes(saved.read_bytes())
    path = saved if checksum else early("fit_0_1_0")
    with h5py.File(path, "r+") as file:
        _posterior_of(kind, file, other)
    if checksum:
        with open(path, "r+b") as file:
            seal(file)
    with pytest.raises(blm.FileFormatError, match=r"/posterior/beta|twice"):
        blm.load(path)


def test_a_saved_fit_is_read_by_others_too(saved, fit):
    import xarray as xr

    with xr.open_datatree(saved) as tree:
        np.testing.assert_array_equal(tree["posterior"]["beta"], fit.posterior["beta"])


@pytest.mark.parametrize("path", [None, 3, "", "a\0b", object()])
def test_what_is_not_a_path_is_refused(fit, path):
    cp = quietly("Yield ~ 1 + (1 | Batch)", blm.load_dataset("dyestuff")).cross_products
    for use in (fit.save, blm.load, cp.save, CrossProducts.load, fit.report):
        with pytest.raises(blm.FileFormatError):
            use(path)


def test_a_folder_or_a_device_is_not_overwritten(fit, tmp_path):
    for path in (tmp_path, "/dev/null"):
        with pytest.raises(blm.FileFormatError, match="not a file"):
            fit.save(path)
        with pytest.raises(blm.FileFormatError):
            blm.load(path)
    assert not os.path.isfile("/dev/null")


def test_saving_keeps_links_and_permissions_and_leaves_nothing_beside(fit, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    path, link = folder / "fit.nc", tmp_path / "link.nc"
    fit.save(path)
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    path.chmod(0o640)
    link.symlink_to(path)
    fit.save(link)
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert [file.name for file in folder.iterdir()] == ["fit.nc"]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_saving_that_is_stopped_leaves_the_old_file(fit, saved, monkeypatch):
    before = saved.read_bytes()

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("bayeslmm.storage.seal", stopped)
    with pytest.raises(KeyboardInterrupt):
        fit.save(saved)
    assert saved.read_bytes() == before
    assert sorted(file.name for file in saved.parent.iterdir()) == ["fit_0_1_0.nc", "saved.nc"]


_ON_A_FULL_DISK = """
import resource, sys, warnings
import bayeslmm as blm
from bayeslmm.gaussian import CrossProducts

fit, sums = blm.load(sys.argv[1]), CrossProducts.load(sys.argv[2])
writes = [lambda: fit.save(sys.argv[1]), lambda: sums.save(sys.argv[2])]
for limit in map(int, sys.argv[3:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for write in writes:
        try:
            write()
            print("written")
        except blm.FileFormatError as error:
            print("ours", error)
"""


def test_a_full_disk_is_an_error_of_ours_and_the_old_files_stay(saved, tmp_path):
    """The largest size a file may have stands for the room on the disk."""
    sums = tmp_path / "sums.npz"
    quietly("Yield ~ 1 + (1 | Batch)", blm.load_dataset("dyestuff")).cross_products.save(sums)
    before = saved.read_bytes(), sums.read_bytes()
    limits = [0, 1, 100, 1000, len(before[1]) - 1, len(before[0]) // 2, len(before[0]) - 1]
    done = subprocess.run(
        [sys.executable, "-c", _ON_A_FULL_DISK, str(saved), str(sums), *map(str, limits)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 14
    assert sum(line.startswith("ours Cannot write") for line in lines) == 7 + 5
    assert (saved.read_bytes(), sums.read_bytes()) == before
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "fit_0_1_0.nc",
        "saved.nc",
        "sums.npz",
    ]
