"""The reference names what is public; docs/build.py checks the built site."""

from __future__ import annotations

import importlib.util
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


def test_groups_name_only_what_is_there(reference):
    members = {
        m for name in ("LMM", "PosteriorFit", "LikelihoodFit") for m in dir(getattr(blm, name))
    }
    named = {member for text in reference.GROUPS.values() for member in text.split()}
    assert named <= members
