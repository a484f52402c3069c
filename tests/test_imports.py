"""`import bayeslmm` stays light, and so do fits from the shell."""

from __future__ import annotations

import subprocess
import sys

import pytest

import bayeslmm


def _loaded_after(code: str) -> set[str]:
    script = f"{code}; import sys; print(' '.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def test_importing_the_package_imports_no_heavy_dependency():
    heavy = {"pymc", "pytensor", "arviz", "pandas", "numba", "scipy", "matplotlib", "formulae"}
    assert not heavy & _loaded_after("import bayeslmm")


def test_every_public_name_can_be_reached():
    for name in bayeslmm.__all__:
        assert getattr(bayeslmm, name) is not None
    assert set(bayeslmm.__all__) == set(dir(bayeslmm))
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        bayeslmm.nope


def test_a_reml_fit_imports_neither_pymc_nor_arviz_nor_matplotlib():
    code = (
        "import bayeslmm as blm; data = blm.load_dataset('sleepstudy');"
        "blm.LMM('Reaction ~ Days + (Days | Subject)', data).reml().summary()"
    )
    loaded = _loaded_after(code)
    heavy = {"pymc", "pytensor", "arviz", "arviz_stats", "nutpie", "scipy.stats", "matplotlib"}
    assert not heavy & loaded


@pytest.mark.parametrize("options", [["--reml"], ["--draws=20", "--tune=50", "--seed=1"]])
def test_a_fit_of_a_small_csv_from_the_shell_imports_what_it_needs(tmp_path, options):
    path = tmp_path / "sleep.csv"
    bayeslmm.load_dataset("sleepstudy").to_csv(path, index=False)
    arguments = ["fit", str(path), "Reaction ~ Days + (Days | Subject)", *options]
    code = (
        f"import contextlib, io, sys; sys.argv[1:] = {arguments}\n"
        "from bayeslmm.cli import main\n"
        "shown = io.StringIO()\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(shown):\n"
        "    main()\n"
        "assert 'Subject' in shown.getvalue()\n"
        "pass"
    )
    unneeded = ("pymc", "pytensor", "arviz.", "arviz_plots", "matplotlib", "pyarrow.")
    # pandas imports pyarrow where it is installed, and its CSV reader types all files alike
    needed = {"pyarrow.csv", "pyarrow._csv", "pyarrow.pandas_compat", "pyarrow.vendored.version"}
    loaded = _loaded_after(code) - _loaded_after("import pandas") - needed
    assert [name for name in loaded if name.startswith(unneeded)] == []


def test_the_package_is_a_command_as_the_script_is():
    module = subprocess.run(
        [sys.executable, "-m", "bayeslmm", "--help"], capture_output=True, text=True, check=True
    )
    script = subprocess.run(
        [sys.executable, "-c", "from bayeslmm.cli import main; main()", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    usage, options = module.stdout.split("[OPTIONS]")
    assert usage.split() == ["Usage:", "python", "-m", "bayeslmm"]
    assert options.split() == script.stdout.split("[OPTIONS]")[1].split()
