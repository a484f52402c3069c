"""Tutorials and their solutions run from top to bottom and are stored as they ran."""

from __future__ import annotations

import gc
import re
import runpy
import sys
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest

FOLDER = Path(__file__).parent.parent / "tutorials"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SOLUTIONS = sorted((FOLDER / "solutions").glob("*.ipynb"))


def _cells(path: Path, kind: str) -> list:
    notebook = nbformat.read(path, as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def test_there_are_tutorials():
    assert len(NOTEBOOKS) >= 17


@pytest.mark.parametrize("path", [*NOTEBOOKS, *SOLUTIONS], ids=lambda path: path.stem)
def test_a_notebook_is_stored_as_it_ran(path):
    code = _cells(path, "code")
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    assert [o for o in outputs if o.output_type in ("display_data", "execute_result")]
    assert [o for o in outputs if "image/png" in o.get("data", {})] or path in SOLUTIONS
    # nothing of the machine it was made on
    assert "/home/" not in path.read_text()
    assert "/tmp/" not in path.read_text()
    assert "/site-packages/" not in path.read_text()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_tutorial_has_exercises_with_solutions_and_reading(path):
    text = "\n".join(cell.source for cell in _cells(path, "markdown"))
    assert text.startswith("# ")
    assert "## Read" in text
    _, _, rest = text.partition("## Exercises")
    exercises = re.findall(r"^(\d+)\. ", rest.partition("## Read")[0], flags=re.MULTILINE)
    assert len(exercises) >= 2
    assert f"(solutions/{path.name})" in rest
    solved = "\n".join(cell.source for cell in _cells(FOLDER / "solutions" / path.name, "markdown"))
    assert f"(../{path.name})" in solved
    assert [n for n in exercises if not re.search(rf"^## (Exercise )?{n}\b", solved, re.M)] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [*NOTEBOOKS, *SOLUTIONS], ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_a_notebook_runs_from_top_to_bottom(path, monkeypatch):
    code = [cell.source for cell in _cells(path, "code")]
    if any(line.startswith(("!", "%")) for source in code for line in source.splitlines()):
        monkeypatch.syspath_prepend(str(FOLDER))
        from execute import execute

        execute(path)
        return
    # a kernel of its own for each would spend most of its time on imports
    monkeypatch.chdir(path.parent)
    plt.switch_backend("Agg")
    names = {"__name__": "__main__", "display": print}
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        for number, source in enumerate(code, 1):
            exec(compile(source, f"{path.name}, cell {number}", "exec"), names)
    plt.close("all")
    names.clear()  # a million rows, among others
    gc.collect()


@pytest.mark.slow
def test_the_explorer_runs(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["explorer.py"])
    runpy.run_path(str(FOLDER / "explorer.py"), run_name="__main__")
