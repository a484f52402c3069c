"""The code in README and documentation runs, in the order in which it stands."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import pkgutil
import re
import shlex
import sys
import warnings
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest
from click import UsageError
from typer.main import get_command

import bayeslmm
import bayeslmm as blm
from bayeslmm.cli import app

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(?:py|python)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
CONTINUED = "The blocks of code on this page continue one another."
TEXTS = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
}
PAGES = [page for page, text in TEXTS.items() if BLOCK.search(text)]


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs_as_it_stands(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile("\n".join(BLOCK.findall(TEXTS[page])), page, "exec"), {})
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_whether_its_blocks_continue_one_another(page):
    blocks = BLOCK.findall(TEXTS[page])
    assert "import bayeslmm as blm" in blocks[0]
    alone = all("import bayeslmm as blm" in block for block in blocks)
    assert (CONTINUED in " ".join(TEXTS[page].split())) != alone


SHELL = [
    (page, line.removeprefix("pip install uv && ").removeprefix("uv run "))
    for page, text in TEXTS.items()
    for block in re.findall(r"^```(?:bash|sh|text|)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
    if line.removeprefix("pip install uv && ").removeprefix("uv run ").startswith("bayeslmm ")
]


def test_commands_of_the_pages_have_options_that_exist():
    command = get_command(app)
    assert len(SHELL) > 15
    for page, line in SHELL:
        name, *arguments = shlex.split(line, comments=True)[1:]
        if name.startswith("--"):
            continue  # options of bayeslmm itself end the program when they are read
        known = command.commands[name]
        try:
            known.make_context(name, arguments)
        except UsageError as error:
            pytest.fail(f"{page}: {line}: {error.format_message()}")


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


def _markdown() -> dict[str, str]:
    pages = {p: p.read_text() for p in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
    for path in sorted((ROOT / "tutorials").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        texts = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
        pages[path] = "\n\n".join(texts)
    return {str(path.relative_to(ROOT)): text for path, text in pages.items()}


#: A DOI may have brackets in pairs, as that of a paper in an Elsevier journal of 1973.
_LINK = r"\[([^\]]*)\]\(https?://(?:dx\.)?doi\.org/((?:[^()\s]|\([^()\s]*\))*)\)"
_DOI = re.compile(r"10\.\d{4,9}/[^\s\"<>]*[^\s\"<>.,;:]")


def _package_dois() -> list[tuple[str, str]]:
    """Those in the package, without the end of the sentence or bracket in which they stand."""
    found = []
    for path in sorted((ROOT / "bayeslmm").rglob("*.py")):
        for doi in re.findall(r"(?:\bdoi:|doi\.org/)(\S+)", path.read_text()):
            doi = doi.rstrip(".,;:")
            while doi.endswith(")") and doi.count(")") > doi.count("("):
                doi = doi[:-1].rstrip(".,;:")
            found.append((path.name, doi))
    return found


def test_every_doi_is_well_formed_and_its_link_leads_where_the_text_says():
    found = 0
    for name, text in _markdown().items():
        links = re.findall(_LINK, text)
        shown = [label[4:] for label, _ in links if label.startswith("doi:")]
        assert len(shown) == len(re.findall(r"\bdoi:", text, flags=re.IGNORECASE)), name
        for label, target in links:
            assert _DOI.fullmatch(unquote(target)), (name, target)
            assert not label.startswith("doi:") or label[4:] == unquote(target), (name, label)
        found += len(links)
    for path, doi in _package_dois():
        assert _DOI.fullmatch(doi), (path, doi)
        found += 1
    assert found > 100


def _bibliography() -> dict[str, str]:
    text = (ROOT / "docs" / "references.md").read_text()
    return dict(re.findall(r"^\(ref-([\w-]+)\)=\n(.+)$", text, flags=re.MULTILINE))


def test_a_doi_has_one_entry_and_every_entry_one_anchor_of_its_author_and_year():
    entries = _bibliography()
    text = (ROOT / "docs" / "references.md").read_text()
    assert len(entries) == text.count("\n(ref-") > 150
    dois = [doi.lower() for e in entries.values() for doi in re.findall(r"\[doi:([^\]]+)\]", e)]
    assert len(dois) == len(set(dois)) > 100
    for key, entry in entries.items():
        year = re.search(r"\((\d{4})\)\. ", entry)
        assert year, key
        assert key.endswith(year[1]), key
    names = [re.sub(r"[^\w ]", "", entry.split(",")[0]).lower() for entry in entries.values()]
    assert names == sorted(names)


def test_every_citation_that_is_a_link_leads_to_an_entry_of_its_year():
    entries, cited = _bibliography(), 0
    for name, text in _markdown().items():
        for label, key in re.findall(r"\[([^\]]+)\]\([^)]*\breferences\.md#ref-([^)]*)\)", text):
            assert key in entries, (name, label)
            author = re.findall(r"[^\W\d_]+", label)[0]
            assert entries[key].startswith(author), (name, label)
            years = re.findall(r"\b(?:19|20)\d\d\b(?!\.)", label)
            assert all(key.endswith(year) for year in years), (name, label)
            cited += 1
    assert cited > 80


def test_a_doi_in_the_package_is_that_of_an_entry():
    shown = [re.findall(r"\[doi:([^\]]+)\]", entry) for entry in _bibliography().values()]
    known = {doi for dois in shown for doi in dois}
    cited = _package_dois()
    assert len(cited) > 60
    assert not [(path, doi) for path, doi in cited if doi not in known]
