"""The code in README and documentation runs, in the order in which it stands."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
import sys
import warnings
from functools import cache
from pathlib import Path

import pytest

import bayeslmm
import bayeslmm as blm

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": "",
    "docs/bridge.md": "",
    "docs/kinship.md": "",
    "docs/scale.md": "",
    "docs/residual-structures.md": "",
    "docs/variance-explained.md": "",
    "docs/prediction.md": "",
    "docs/questions.md": "",
    "docs/families.md": "import matplotlib\nmatplotlib.use('Agg')\n",
    "docs/checking.md": "import matplotlib\nmatplotlib.use('Agg')\n",
    "docs/likelihood.md": (
        "import bayeslmm as blm\n"
        "import pandas as pd\n"
        "data = blm.load_dataset('sleepstudy').assign(Machine='A')\n"
        "data.loc[::2, 'Machine'] = 'B'\n"
        "y = data['Reaction']\n"
    ),
    "docs/real-data.md": "",
    "docs/plots.md": "import matplotlib\nmatplotlib.use('Agg')\n",
    "docs/reanalysis.md": "import matplotlib\nmatplotlib.use('Agg')\n",
    "docs/bayes-factors.md": "",
    "docs/priors.md": (
        "import bayeslmm as blm\n"
        "data = blm.load_dataset('sleepstudy')\n"
        "formula = 'Reaction ~ Days + (Days | Subject)'\n"
        "model = blm.LMM(formula, data)\n"
    ),
}
# lines that stand for something the page leaves to the reader
_REPLACED = {
    "blm.LMM(formula, data, priors={": "blm.LMM(formula, data, priors={",
    "blm.likelihood_ratio_test(fit0, fit1)": "",
    'model = blm.LMM("Reaction ~ Days + (Days | Subject)", data)': (
        'model = blm.LMM("Reaction ~ Days + Machine + (Days | Subject)", data)'
    ),
}


def _code(page: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    return "\n".join(blocks)


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = PAGES[page] + _code(page)
    if page == "docs/likelihood.md":
        for old, new in _REPLACED.items():
            code = code.replace(old, new)
    assert "blm." in code
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(code, page, "exec"), {})
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def _modules() -> list[str]:
    found = pkgutil.walk_packages(bayeslmm.__path__, "bayeslmm.")
    return [m.name for m in found if not m.name.endswith("__main__")]


# modules whose methods' examples go on from the example of their class
_METHODS = ("bayeslmm.model", "bayeslmm.fits.")


@cache
def _example() -> dict[str, object]:
    data = blm.load_dataset("sleepstudy")
    model = blm.LMM("Reaction ~ Days + (Days | Subject)", data)
    post = model.fit(method="importance", draws=250, random_seed=1)
    return {"blm": blm, "data": data, "model": model, "fit": model.reml(), "post": post}


@pytest.mark.parametrize("name", ["bayeslmm", *_modules()])
def test_the_examples_in_docstrings_run(name, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    module = importlib.import_module(name)
    known = _example() if name.startswith(_METHODS) else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = doctest.testmod(
            module, extraglobs=known, optionflags=doctest.NORMALIZE_WHITESPACE
        )
    assert results.failed == 0


def test_every_public_name_has_an_example_and_every_method_a_docstring():
    for name in set(blm.__all__) - {"__version__"}:
        public = getattr(blm, name)
        text = inspect.getdoc(public)
        assert text, name
        if inspect.isclass(public) and issubclass(public, Exception):
            continue
        assert ">>>" in text, name
        if inspect.isclass(public):
            methods = inspect.getmembers(public, inspect.isfunction)
            bare = [m for m, f in methods if not m.startswith("_") and not inspect.getdoc(f)]
            assert bare == [], name


def test_the_page_of_data_sets_has_all_of_them_with_their_rows():
    page = (ROOT / "docs" / "datasets.md").read_text()
    listed = re.findall(r"^\| (\w+) \| ([\d,]+) \|", page, flags=re.MULTILINE)
    sizes = {name: int(rows.replace(",", "")) for name, rows in listed}
    assert sizes == {name: len(blm.load_dataset(name)) for name in blm.list_datasets()}


@pytest.mark.parametrize("page", ["docs/comparison.md", "docs/bridge.md", "docs/priors.md"])
def test_notes_of_a_page_are_used_and_name_an_address(page):
    text = (ROOT / page).read_text()
    notes = dict(re.findall(r"^\[\^([\w-]+)\]: (.*)$", text, flags=re.MULTILINE))
    used = re.findall(r"(?<=.)\[\^([\w-]+)\]", text)  # not at the start of a line
    assert set(used) == set(notes)
    addresses = re.findall(r"https?://[^)\s]+", text)
    assert addresses
    assert not [a for a in addresses if re.search(r"[?&]utm_|#:~:", a)]
    assert not [note for note, source in notes.items() if not re.search(r"\]\(\S+\)", source)]


def test_every_claim_about_another_package_has_a_source():
    text = (ROOT / "docs" / "comparison.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) > 25
    for row in rows:
        if row[0] != "bayeslmm":
            bare = [cell for cell in row[2:] if cell not in ("-", "not verified")]
            assert all("[^" in cell for cell in bare), row
