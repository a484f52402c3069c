"""The reference names what is public; docs/build.py checks the built site."""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path

import pytest

import bayeslmm as blm
from bayeslmm import plots

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("members", DOCS / "members.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _listed() -> dict[str, bool]:
    """Names of docs/api.md, and whether each has the page of a class."""
    found = {}
    for block in re.findall(r"```\{eval-rst\}\n(.*?)```", (DOCS / "api.md").read_text(), re.S):
        found |= dict.fromkeys(re.findall(r"^   ([\w.]+)$", block, re.M), "class.rst" in block)
    return found


def test_every_public_name_is_in_the_reference():
    assert set(blm.__all__) - {"__version__"} <= set(_listed())
    assert set(plots.__all__) <= set(_listed())


def test_every_class_of_the_reference_has_the_page_with_its_methods(reference):
    listed = {f"bayeslmm.{name}" for name, is_class in _listed().items() if is_class}
    assert set(reference.classes()) == listed
    template = (DOCS / "_templates" / "class.rst").read_text()
    assert "automethod" in template
    assert "autosummary" in template
    # where autosummary looks for it: a relative path would be one below the repository
    assert 'HERE / "_templates"' in (DOCS / "conf.py").read_text()


@pytest.mark.parametrize("name", ["LMM", "PosteriorFit", "LikelihoodFit"])
def test_every_method_of_models_and_fits_has_a_group(reference, name):
    cls = getattr(blm, name)
    groups = dict(reference.grouped(cls))
    assert len(groups) > 4, "a member is in no group of docs/members.py"
    shown = [member for group in groups.values() for member in group]
    assert sorted(shown) == sorted(reference.members(cls))
    public = {m for m in dir(cls) if not m.startswith("_") and callable(getattr(cls, m))}
    assert public <= set(shown)


def _lacks(function, own: str) -> list[str]:
    """What the docstring of a method does not say: a parameter, or what comes back."""
    text = inspect.getdoc(function)
    parameters = [
        name
        for name in list(inspect.signature(function).parameters)[1:]  # after self, or the fit
        if not name.startswith("_")
    ]
    part = re.search(r"Parameters\n-+\n(.*?)(?=\n\n\w[\w ]*\n-+|\Z)", text, re.S)
    named = [line for line in part[1].splitlines() if not line.startswith(" ")] if part else []
    words = set(re.findall(r"\w+", " ".join(line.partition(" : ")[0] for line in named)))
    lacking = [f"{own}: {name}" for name in parameters if name not in words]
    return lacking + ([] if "Returns\n---" in text else [f"{own}: what it returns"])


def test_every_method_says_its_parameters_and_what_it_returns(reference):
    lacking = []
    for cls in (blm.LMM, blm.PosteriorFit, blm.LikelihoodFit):
        groups = dict(reference.grouped(cls))
        for title in set(groups) - {"Plots", "For programs"}:
            found = [(name, getattr(cls, name)) for name in groups[title]]
            for name, method in found:
                if callable(method) and name != "save":  # which returns nothing
                    lacking += _lacks(method, f"{cls.__name__}.{name}")
    for name in plots.__all__:
        lacking += _lacks(getattr(plots, name), name)
    assert lacking == []


def test_groups_name_only_what_is_there(reference):
    members = {
        m for name in ("LMM", "PosteriorFit", "LikelihoodFit") for m in dir(getattr(blm, name))
    }
    named = {member for text in reference.GROUPS.values() for member in text.split()}
    assert named <= members
