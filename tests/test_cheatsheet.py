"""What stands on docs/cheatsheet.md: formulas that models accept, methods that exist."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.cli import app

DOCS = Path(__file__).parent.parent / "docs"


def _rows(heading: str) -> list[list[str]]:
    section = (
        (DOCS / "cheatsheet.md").read_text("utf-8").split(f"## {heading}\n")[1].split("## ")[0]
    )
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def _code(cell: str) -> list[str]:
    return [span.replace("\\|", "|") for span in re.findall(r"`([^`]+)`", cell)]


@cache
def _frame() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    n = 48
    data = pd.DataFrame({"g": np.repeat(np.arange(12), 4), "time": np.tile(np.arange(4), 12)})
    data["id"] = data["g"].astype(str)
    data["a"], data["b"] = data["g"] // 3, data["g"] % 3
    data["x"], data["z"], data["m"] = rng.normal(size=(3, n))
    data["arm"] = np.where(data["g"] % 2, "one", "two")
    data["y"] = data["x"] + rng.normal(size=12)[data["g"]] + rng.normal(size=n)
    data["event"] = (data["y"] > 0).astype(int)
    data["count"] = rng.poisson(3, n)
    data["t"], data["w"], data["sd"] = rng.uniform(1, 2, (3, n))
    data["rating"] = rng.integers(1, 4, n)
    data.loc[3, "m"] = np.nan
    return data


def _owner(name: str):
    return {
        "blm": blm,
        "model": blm.LMM("y ~ x + (1 | g)", _frame()),
        "post": blm.PosteriorFit,
        "reml": blm.LikelihoodFit,
        "ml": blm.LikelihoodFit,
    }[name]


@pytest.mark.parametrize("row", _rows("Models"), ids=lambda row: row[0])
def test_a_formula_of_the_cheatsheet_is_accepted_and_fitted_as_it_says(row):
    formula, *options = _code(row[1])
    related = blm.RelationshipMatrix([str(k) for k in range(12)], np.eye(12))
    keywords = eval(f"dict({', '.join(options)})", {"A": related})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = blm.LMM(formula, _frame(), **keywords)
        for method, call in {"REML": model.reml, "ML": model.ml}.items():
            if method in row[3].split(", "):
                assert np.isfinite(call().loglik)
            else:
                with pytest.raises(blm.BayesLMMError):
                    call()


@pytest.mark.parametrize("row", _rows("Questions"), ids=lambda row: row[0])
def test_a_call_of_the_cheatsheet_exists(row):
    calls = _code(row[1])
    assert calls
    for text in calls:
        if text.startswith("bayeslmm "):
            command = text.split()[1]
            assert command in {c.name or c.callback.__name__ for c in app.registered_commands}
            continue
        tree = ast.parse(text)
        if not any(isinstance(node, ast.Attribute) for node in ast.walk(tree)):
            continue  # another value of an argument of the call before it
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute):
                continue
            assert hasattr(_owner(node.value.id), node.attr), text
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = getattr(_owner(node.func.value.id), node.func.attr)
                known = inspect.signature(called).parameters
                free = any(p.kind is p.VAR_KEYWORD for p in known.values())
                assert free or {k.arg for k in node.keywords} <= set(known), text


def test_the_printed_cheatsheet_is_the_page(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    monkeypatch.delitem(sys.modules, "cheatsheet", raising=False)
    from cheatsheet import page

    made = page((DOCS / "cheatsheet.md").read_text("utf-8"))
    assert "FORMULA" not in made
    for row in _rows("Models") + _rows("Questions"):
        assert f"<td>{row[0]}</td>" in made
    printed = (DOCS / "_static" / "cheatsheet.pdf").read_bytes()
    assert b"/Count 1" in printed  # one page
    assert len(printed) < 200_000
