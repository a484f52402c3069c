"""The command line: tables on success, one line and an exit code on failure."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings

import pytest

import bayeslmm as blm
from bayeslmm.cli.values import parse_priors, read_priors
from tests.conftest import dataset


def run(*arguments: str, cwd=None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", "from bayeslmm.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
        timeout=300,
    )


def test_fit_prints_model_and_tables_and_writes_a_file(tmp_path):
    data, output = tmp_path / "yield.csv", tmp_path / "fit.nc"
    dataset("dyestuff").to_csv(data, index=False)
    result = run(
        *("fit", str(data), "Yield ~ 1 + (1 | Batch)", "--draws", "300", "--tune", "300"),
        *("--seed", "3", "--prior", "sigma=HalfNormal(sigma=80)", "--output", str(output)),
    )
    assert result.returncode == 0, result.stderr
    for text in ("Linear mixed model", "HalfNormal(sigma=80)", "sd(Intercept | Batch)", "r_hat"):
        assert text in result.stdout
    assert blm.load(output).info.random_seed == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit", "sleepstudy", "Reaction ~ Dayz"), "no column 'Dayz'"),
        (("fit", "slepstudy", "Reaction ~ Days"), "Did you mean 'sleepstudy'"),
        (("fit", "nothing.csv", "y ~ x"), "no file 'nothing.csv'"),
        (("fit", "sleepstudy", "Reaction ~ Days + 1 | Subject"), "no parentheses"),
        (("fit", "sleepstudy", "Reaction ~ Days", "--prior", "Days=3"), "Cannot read the prior"),
        (("fit", "sleepstudy", "Reaction ~ Days", "--level", "95"), "between 0 and 1"),
        (("fit", "sleepstudy", "Reaction ~ Days", "--output", "no/such/x.nc"), "no folder"),
        (("datasets", "nope"), "no data set"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(monkeypatch, capsys, arguments, message):
    code, _, errors = call(monkeypatch, capsys, *arguments)
    assert code == 2
    assert message in errors
    assert len(errors.strip().splitlines()) == 1
    assert "Traceback" not in errors


def test_a_broken_file_is_named(tmp_path):
    """In a process of its own, as a shell sees it."""
    (tmp_path / "bad.parquet").write_text("not parquet")
    result = run("fit", str(tmp_path / "bad.parquet"), "y ~ x")
    assert result.returncode == 2
    assert "bad.parquet" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.stderr


def test_version_and_data_sets_are_listed(monkeypatch, capsys):
    assert blm.__version__ in call(monkeypatch, capsys, "--version")[1]
    listed = call(monkeypatch, capsys, "datasets")[1]
    assert all(name in listed for name in blm.list_datasets())


COMMANDS = [
    ("datasets",),
    ("datasets", "sleepstudy"),
    ("--version",),
    ("--help",),
    ("fit", "--help"),
    (),
    ("fit", "dyestuff", "Yield ~ 1 + (1 | Batch)", "--reml"),
]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_output_that_cannot_be_written_is_one_line_and_exit_code_two(arguments):
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-c", "from bayeslmm.cli import main; main()", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert result.returncode == 2
    assert result.stderr.splitlines() == ["Error: Cannot read or write: No space left on device."]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
def test_errors_that_cannot_be_written_leave_the_exit_code():
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-c", "from bayeslmm.cli import main; main()", "fit", "nope", "y ~ x"],
            stdout=full,
            stderr=full,
        )
    assert result.returncode == 2


_WITH_A_LIMIT = """
import resource
resource.setrlimit(resource.RLIMIT_AS, ({0} * 10**6, resource.RLIM_INFINITY))
from bayeslmm.cli import main
main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is one of Linux")
@pytest.mark.parametrize("megabytes", [400, 800])
def test_a_limit_of_memory_is_a_sentence(megabytes):
    """How far a process comes depends on the machine, the sentence does not."""
    result = subprocess.run(
        [sys.executable, "-c", _WITH_A_LIMIT.format(megabytes), *COMMANDS[-1]],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "Traceback" not in result.stderr
    assert result.returncode == 0 or "memory" in result.stderr.lower()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "not enough memory"),
        (OSError(12, "Cannot allocate memory"), "not enough memory"),
        (ImportError("x.so: failed to map segment from shared object"), "not enough memory"),
        (RuntimeError("can't start new thread"), "not enough memory"),
        (OSError(28, "No space left on device", "a.nc"), "a.nc"),
        (AttributeError("no such thing"), "AttributeError: no such thing"),
    ],
)
@pytest.mark.parametrize("command", ["fit", "report", "datasets"])
def test_any_error_is_a_sentence(monkeypatch, capsys, command, error, words):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr("bayeslmm.cli.fitting.read_data", fails)
    monkeypatch.setattr("bayeslmm.datasets.list_datasets", fails)
    arguments = () if command == "datasets" else ("dyestuff", "Yield ~ 1 + (1 | Batch)")
    code, _, errors = call(monkeypatch, capsys, command, *arguments)
    assert code == 2
    assert words in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("command", ["fit", "report"])
def test_an_output_that_cannot_be_is_refused_before_the_work(
    monkeypatch, capsys, tmp_path, command
):
    code, _, errors = call(
        monkeypatch, capsys, command, "dyestuff", "Yield ~ 1", "--output", str(tmp_path)
    )
    assert code == 2
    assert "is a folder" in errors


def test_priors_are_read_without_evaluating_them():
    priors = parse_priors(
        ["Days=Normal(mu=-1.5, sigma=1e1)", "sd(Days | Subject)=Exponential(lam=0.1)"]
    )
    assert priors == {
        "Days": blm.Prior("Normal", mu=-1.5, sigma=10.0),
        "sd(Days | Subject)": blm.Prior("Exponential", lam=0.1),
    }
    for text in ("Days", "Days=Normal", "Days=Normal(3)", "Days=os.system('x')", "a=b=Normal()"):
        with pytest.raises(blm.PriorError):
            parse_priors([text])
    with pytest.raises(blm.PriorError):
        parse_priors(["Days=Normal(mu=__import__('os').getpid())"])


def call(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of the command line, in this process."""
    from bayeslmm import cli

    monkeypatch.setattr(sys, "argv", ["bayeslmm", *arguments])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    shown = capsys.readouterr()
    return stopped.value.code, shown.out, shown.err


SLEEP = "Reaction ~ Days + (Days | Subject)"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """sleepstudy as files of every kind."""
    folder = tmp_path_factory.mktemp("files")
    data = dataset("sleepstudy").assign(unused="x")
    data.to_parquet(folder / "all.parquet")
    data.to_csv(folder / "all.csv", index=False)
    data.to_csv(folder / "all.csv.gz", index=False)
    data.to_csv(folder / "all.tsv", index=False, sep="\t")
    data.to_csv(folder / "all.txt", index=False)
    data.to_csv(folder / "semicolon.csv", index=False, sep=";", decimal=",")
    data.to_csv(folder / "all.sav", index=False)
    for kind in ("csv", "parquet"):
        (folder / kind).mkdir()
    for i in range(3):
        data.iloc[i::3].to_csv(folder / "csv" / f"part{i}.csv", index=False)
        data.iloc[i::3].to_parquet(folder / "parquet" / f"part{i}.parquet")
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["all.parquet"], ["all.csv"], ["all.csv.gz"], ["all.tsv"], ["all.txt"],
        ["semicolon.csv"], ["all.txt", "--batch-rows", "50"],
        ["csv"], ["parquet/*.parquet"], ["csv/part0.csv", "csv/part1.csv", "csv/part2.csv"],
        ["parquet", "--batch-rows", "50"], ["csv", "--batch-rows", "7", "--no-progress"],
        ["all.csv", "--no-progress"], ["parquet/*.parquet", "--checkpoint", "sums"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_files_of_every_kind_give_the_same_fit(files, monkeypatch, capsys, arguments):
    monkeypatch.chdir(files)
    expected = call(monkeypatch, capsys, "fit", "sleepstudy", SLEEP, "--reml")
    paths = [a for a in arguments if not a.startswith("-")]
    last = next((i for i, a in enumerate(arguments) if a.startswith("-")), len(arguments))
    paths, options = arguments[:last], arguments[last:]
    found = call(monkeypatch, capsys, "fit", *paths, SLEEP, "--reml", *options)
    assert expected[0] == found[0] == 0, found[2]
    assert found[1] == expected[1]


def test_columns_that_are_not_used_are_not_read(files, monkeypatch, capsys):
    from bayeslmm.sources.arrow import FileSource

    asked = []
    original = FileSource._file_batches

    def noted(self, file, columns, size):
        asked.append(columns)
        return original(self, file, columns, size)

    monkeypatch.setattr(FileSource, "_file_batches", noted)
    code, _, _ = call(monkeypatch, capsys, "fit", str(files / "all.parquet"), SLEEP, "--reml")
    assert code == 0
    assert asked == [["Reaction", "Days", "Subject"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.csv"], "no file 'absent.csv'"),
        (["absent/*.csv"], "No file matches 'absent/[*].csv'"),
        (["csv/part0.csv", "parquet/part0.parquet"], "not all of one format"),
        (["all.sav"], "not known by its name"),
        (["sleepstudy", "--batch-rows", "9"], "are for files"),
        (["all.csv", "--random-effects", "none"], "random_effects must be one of"),
    ],
)
def test_files_that_cannot_be_read_are_refused_in_one_line(
    files, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(files)
    path, *options = arguments if not arguments[-1].endswith("parquet") else [arguments[0]]
    paths = arguments if arguments[-1].endswith("parquet") else [path]
    code, _, errors = call(monkeypatch, capsys, "fit", *paths, SLEEP, *options)
    assert code == 2
    assert re.search(message, errors)
    assert len(errors.strip().splitlines()) <= 2  # "Sampling ..." may come first


def test_random_effects_can_be_summarized(files, monkeypatch, capsys):
    output = files / "fit.nc"
    code, _, errors = call(
        monkeypatch, capsys, "fit", str(files / "parquet"), SLEEP, "--random-effects", "summary",
        "--batch-rows", "60", "--draws", "200", "--seed", "1", "--output", str(output),
    )  # fmt: skip
    assert code == 0, errors
    post = blm.load(output)
    assert "b_Subject" not in post.idata.posterior
    assert len(post.ranef()) == 36


def test_a_report_of_batches_says_what_it_leaves_out(files, monkeypatch, capsys, tmp_path):
    page, pattern = tmp_path / "report.html", str(files / "csv" / "*.csv")
    options = ["--batch-rows", "50", "--draws", "200", "--seed", "1", "--output", str(page)]
    code, _, errors = call(monkeypatch, capsys, "report", pattern, SLEEP, *options)
    assert code == 0, errors
    text = page.read_text("utf-8")
    assert "read in batches and not kept" in text
    assert "298.5" in text  # the mean response
    assert "csv/*.csv" in text
    code, _, errors = call(
        monkeypatch, capsys, "report", pattern, SLEEP, "--effect", "Days", *options
    )
    assert code == 2
    assert "needs the rows in memory" in errors
    assert "Sampling" not in errors


@pytest.fixture(scope="module")
def related(tmp_path_factory):
    """Records of animals, their pedigree and their relationship, as files."""
    import numpy as np
    import pandas as pd

    folder = tmp_path_factory.mktemp("related")
    sires = [None, None, None, None, "1", "1", "2", "2", "5", "5", "7", "7"]
    dams = [None, None, None, None, "3", "4", "3", "4", "6", "8", "6", "8"]
    pedigree = pd.DataFrame(
        {"id": [str(i + 1) for i in range(12)], "sire": sires, "dam": dams}, dtype=object
    )
    pedigree["sire"] = [s and {"5": "1", "7": "2"}.get(s, s) for s in pedigree["sire"]]
    pedigree["dam"] = [d and {"6": "3", "8": "4"}.get(d, d) for d in pedigree["dam"]]
    pedigree.to_csv(folder / "pedigree.csv", index=False)
    pedigree.set_axis(["animal", "pa", "ma"], axis=1).to_csv(folder / "other.csv", index=False)
    matrix = blm.pedigree_relationship(pedigree)
    dense = np.linalg.inv(matrix.precision.toarray())
    frame = pd.DataFrame(dense, list(matrix.labels), list(matrix.labels))
    frame.to_csv(folder / "matrix.csv")
    frame.to_parquet(folder / "matrix.parquet")
    rng = np.random.default_rng(4)
    rows = pd.DataFrame({"id": np.repeat(np.arange(1, 13), 6), "x": rng.normal(size=72)})
    rows["w"] = rng.uniform(1, 3, 72)
    rows["t"] = np.tile(np.arange(6), 12)
    rows["arm"] = np.where(rows["id"] % 2, "a", "b")
    effects = np.linalg.cholesky(dense) @ rng.normal(size=12)
    rows["y"] = rows["x"] + 2 * effects[rows["id"] - 1] + rng.normal(size=72)
    rows.to_csv(folder / "rows.csv", index=False)
    frame.iloc[:, ::-1].iloc[:-1].to_csv(folder / "lame.csv")
    words = frame.astype(object)
    words.iloc[0, 0] = "one"
    words.to_csv(folder / "words.csv")
    (folder / "priors.json").write_text('{"x": "Normal(mu=0, sigma=10)", "sigma": {"name": 3}}')
    return folder


ANIMALS = "y ~ x + arm + (1 | id)"


@pytest.mark.parametrize(
    "option", ["pedigree.csv", "other.csv:animal,pa,ma", "matrix.csv", "matrix.parquet"]
)
def test_relationships_are_read_from_files(related, monkeypatch, capsys, option):
    import pandas as pd

    monkeypatch.chdir(related)
    A = blm.pedigree_relationship(pd.read_csv("pedigree.csv"))
    expected = blm.LMM(ANIMALS, pd.read_csv("rows.csv"), relationship={"id": A}).reml()
    code, shown, errors = call(
        monkeypatch, capsys, "fit", "rows.csv", ANIMALS, "--reml", "--relationship", f"id={option}"
    )
    assert code == 0, errors
    assert expected.describe() in shown


def test_every_option_of_a_model_is_one_of_the_shell(related, monkeypatch, capsys):
    import pandas as pd

    monkeypatch.chdir(related)
    rows = pd.read_csv("rows.csv")
    given = ["--residual", "ar1(t | id)", "--sigma", "~ arm", "--weights", "w"]
    options = {"residual": "ar1(t | id)", "sigma": "~ arm", "weights": "w"}
    code, shown, errors = call(monkeypatch, capsys, "fit", "rows.csv", ANIMALS, "--reml", *given)
    assert code == 0, errors
    assert blm.LMM(ANIMALS, rows, **options).reml().describe() in shown
    made = []
    monkeypatch.setattr(blm, "LMM", lambda *_, **options: made.append(options) or 1 / 0)
    given = ["--family", "student", "--random", "student", "--missing", "model"]
    for command in ("fit", "report"):
        call(monkeypatch, capsys, command, "rows.csv", ANIMALS, *given)
        assert made[-1] == {
            "priors": {}, "weights": None, "relationship": None, "residual": None, "sigma": None,
            "family": "student", "link": None, "random": "student", "missing": "model",
            "reference": {},
        }  # fmt: skip


CBPP = "incidence of size ~ period + (1 | herd)"


def test_responses_that_are_not_gaussian_are_fitted_and_reported(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    family = ["--family", "binomial", "--link", "probit"]
    code, shown, errors = call(monkeypatch, capsys, "fit", "cbpp", CBPP, *family, "--ml")
    assert code == 0, errors
    model = blm.MixedModel(CBPP, dataset("cbpp"), family="binomial", link="probit")
    assert model.ml().describe() in shown
    assert "binomial, probit link; trials: 2 to 34" in shown
    nodes = ["--ml", "--n-quadrature", "9"]
    code, shown, errors = call(monkeypatch, capsys, "fit", "cbpp", CBPP, *family, *nodes)
    assert model.ml(9).describe() in shown, errors
    few = ["--draws", "100", "--chains", "2", "--seed", "1", "--no-progress"]
    code, shown, errors = call(
        monkeypatch, capsys, "fit", "cbpp", CBPP, *family, *few, "--output", "fit.nc"
    )
    assert code == 0, errors
    assert "family binomial, link probit" in shown
    assert blm.load("fit.nc").model.link == "probit"
    code, shown, errors = call(monkeypatch, capsys, "report", "cbpp", CBPP, *family, *few)
    assert code == 0, errors
    assert (tmp_path / "report.html").stat().st_size > 100_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--reml"], "There is no REML"),
        (["--link", "magic"], "has no link 'magic'"),
        (["--n-quadrature", "9"], "--n-quadrature goes with --ml"),
        (["--parameterization", "marginal"], "cannot be integrated out"),
    ],
)
def test_what_such_a_response_has_not_is_one_line(monkeypatch, capsys, options, message):
    code, _, errors = call(
        monkeypatch, capsys, "fit", "cbpp", CBPP, "--family", "binomial", *options
    )
    assert code == 2
    (line,) = (text for text in errors.splitlines() if text.startswith("Error:"))
    assert message in line


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.json", '{"Days": "Normal(mu=0, sigma=10)", "sd": {"name": "HalfNormal", "sigma": 5}}'),
        ("p.toml", 'Days = "Normal(mu=0, sigma=10)"\nsd = {name = "HalfNormal", sigma = 5}'),
    ],
)
def test_priors_are_read_from_a_file(tmp_path, monkeypatch, capsys, name, text):
    (tmp_path / name).write_text(text)
    read = read_priors(str(tmp_path / name))
    assert read == {
        "Days": blm.Prior("Normal", mu=0, sigma=10), "sd": blm.Prior("HalfNormal", sigma=5),
    }  # fmt: skip
    code, shown, errors = call(
        monkeypatch, capsys, "fit", "sleepstudy", SLEEP, "--priors", str(tmp_path / name),
        "--prior", "Days=Normal(mu=1, sigma=2)", "--draws", "100", "--seed", "1",
    )  # fmt: skip
    assert code == 0, errors
    assert "Normal(mu=1, sigma=2)" in shown
    assert "HalfNormal(sigma=5)" in shown
    assert "Normal(mu=0, sigma=10)" not in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--relationship", "pedigree.csv"], "write FACTOR=FILE"),
        (["--relationship", "id=absent.csv"], "--relationship 'id=absent.csv': there is no file"),
        (["--relationship", "id=rows.csv"], "neither a matrix"),
        (["--relationship", "id=lame.csv"], "neither a matrix"),
        (["--relationship", "id=words.csv"], "not numbers"),
        (["--relationship", "id=other.csv:animal,pa,mum"], "no column 'mum'"),
        (["--relationship", "sire=matrix.csv"], "no grouping factor 'sire'"),
        (["--priors", "absent.json"], "--priors: cannot read 'absent.json'"),
        (["--priors", "rows.csv"], "--priors: cannot read 'rows.csv'"),
        (["--priors", "priors.json"], "cannot read the prior of 'sigma'"),
        (["--residual", "ar2(t | id)"], "no residual structure 'ar2'"),
        (["--sigma", "arm"], "sigma must be a one-sided formula"),
        (["--family", "normal"], "family must be one of"),
        (["--family", "poisson", "--link", "logit"], "has no link 'logit'"),
        (["--random", "t"], "random must be one of"),
        (["--missing", "guess"], "missing must be"),
        (["--residual", "ar1(t | id)", "--batch-rows", "9"], "need every row"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "-",
)
def test_options_that_cannot_be_read_are_refused_in_one_line(
    related, monkeypatch, capsys, options, message
):
    monkeypatch.chdir(related)
    code, _, errors = call(monkeypatch, capsys, "fit", "rows.csv", ANIMALS, "--reml", *options)
    assert code == 2
    assert message in errors
    assert len(errors.strip().splitlines()) == 1
