"""What a package index shows."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RELATIVE_LINK = re.compile(r"\]\((?!https?://|#)[^)]*\)")


def test_readme_on_a_package_index_has_no_link_that_leads_nowhere():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    hook = settings["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    assert [fragment["path"] for fragment in hook["fragments"]] == ["README.md"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = text
    for rule in hook["substitutions"]:  # as the plugin applies them when a wheel is built
        shown = re.sub(rule["pattern"], rule["replacement"], shown)
    assert RELATIVE_LINK.search(text)  # there are links to turn into words
    assert RELATIVE_LINK.findall(shown) == []
    assert "tutorials (seventeen notebooks" in shown
    assert "".join(re.findall("```.*?```", text, re.S)) == "".join(
        re.findall("```.*?```", shown, re.S)
    )
