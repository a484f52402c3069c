"""The command line: tables on success, one line and an exit code on failure."""

from __future__ import annotations

import subprocess
import sys

import pytest

import bayeslmm as blm
from bayeslmm.cli import parse_priors
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
def test_bad_input_is_one_line_and_exit_code_two(arguments, message):
    result = run(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.stderr


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "bad.parquet").write_text("not parquet")
    result = run("fit", str(tmp_path / "bad.parquet"), "y ~ x")
    assert result.returncode == 2
    assert "bad.parquet" in result.stderr


def test_version_and_data_sets_are_listed():
    assert blm.__version__ in run("--version").stdout
    listed = run("datasets").stdout
    assert all(name in listed for name in blm.list_datasets())


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
