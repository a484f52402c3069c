"""Build the site into docs/_build/html; a warning is an error, and so is a link that leads nowhere.

uv run --group docs python docs/build.py
"""

from __future__ import annotations

import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from members import classes, members
from sphinx.cmd.build import main

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "_build"
FRONT = "docs/index.html"
_ENTRY = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>bayeslmm</title>
<meta http-equiv="refresh" content="0; url={FRONT}">
<link rel="canonical" href="{FRONT}">
</head>
<body><p>The documentation of bayeslmm begins at <a href="{FRONT}">its front page</a>.</p></body>
</html>
"""


def build() -> int:
    """The exit status of sphinx-build."""
    shutil.rmtree(ROOT / "docs" / "api", ignore_errors=True)  # pages of names that are gone
    options = ["-E", "-b", "html", "-W", "--keep-going", "-q", "-c", str(ROOT / "docs")]
    status = main([*options, "-d", str(TARGET / "doctrees"), str(ROOT), str(TARGET / "html")])
    html = TARGET / "html"
    (html / "index.html").write_text(_ENTRY, encoding="utf-8")
    # from the text of a module back to its page: wrong where a module is known by two names
    for path in (html / "_modules").rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        back = re.sub(r'<a class="viewcode-back"[^>]*>\[docs\]</a>', "", text)
        path.write_text(back, encoding="utf-8")
    return status


class Page(HTMLParser):
    """Anchors, links, pictures and unresolved references of a built page."""

    def __init__(self, path: Path):
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.files: list[str] = []
        self.unresolved: list[str] = []
        self._in_link = self._in_reference = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
            self._in_link = True
        elif "src" in found:
            self.files.append(found["src"])
        elif tag == "link" and found.get("rel") != "search":
            self.files.append(found.get("href", ""))
        elif tag == "code":
            self._in_reference = "xref" in found.get("class", "") and not self._in_link

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self._in_link = False
        elif tag == "code":
            self._in_reference = False

    def handle_data(self, data: str) -> None:
        if self._in_reference and data.startswith("bayeslmm."):
            self.unresolved.append(data)


def check(site: Path) -> list[str]:
    """What is wrong with a built site, a sentence each: links, pictures, missing methods."""
    pages = {
        path: Page(path) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts
    }
    found = []
    for path, page in pages.items():
        name = path.relative_to(site)
        found += [f"{name}: the reference {text} leads nowhere" for text in page.unresolved]
        found += [f"{name}: {wrong}" for wrong in _wrong_targets(path, page, pages)]
    for name in (Path("index.html"), Path("search.html"), Path("searchindex.js"), Path(FRONT)):
        if not (site / name).is_file():
            found.append(f"{name}: there is no such file")
    return found + _missing_members(site, pages)


def _wrong_targets(path: Path, page: Page, pages: dict[Path, Page]):
    """What is wrong with the links and files of one page."""
    for link in [*page.links, *page.files]:
        parts = urlsplit(link)
        if parts.scheme == "data" or parts.scheme == "mailto":
            continue
        if parts.scheme or parts.netloc:
            yield from _wrong_address(link)
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if not target.is_file():
            yield f"{link} leads to no file"
            continue
        anchors = pages[target].anchors if target in pages else {unquote(parts.fragment)}
        if parts.fragment and unquote(parts.fragment) not in anchors:
            yield f"{link} leads to a place that is not on its page"


def _wrong_address(link: str):
    """What is wrong with an address outside of the site, as far as its form tells."""
    parts = urlsplit(link)
    if parts.scheme not in ("http", "https") or "." not in parts.netloc or re.search(r"\s", link):
        yield f"{link} is not an address"
    elif parts.netloc.endswith("doi.org") and not re.fullmatch(
        r"https://doi\.org/10\.\d{4,9}/\S+[^\s.,;]", link
    ):
        yield f"{link} is not a DOI: https://doi.org/10.NNNN/..."


def _missing_members(site: Path, pages: dict[Path, Page]):
    """Members of public classes that the class's page neither describes nor links to."""
    found = []
    for place, cls in classes().items():
        path = site / "docs" / "api" / f"{place}.html"
        if path not in pages:
            found.append(f"{path.relative_to(site)}: {place} has no page")
            continue
        page = pages[path]
        known = page.anchors | {urlsplit(link).fragment for link in page.links}
        owner = place.replace("MixedModel", "LMM")
        found += [
            f"{path.relative_to(site)}: {name} is missing"
            for name in (f"{owner}.{member}" for member in members(cls))
            if name not in known
        ]
    return found


if __name__ == "__main__":
    status = build()
    wrong = check(TARGET / "html")
    print("\n".join(wrong), file=sys.stderr)
    sys.exit(status or bool(wrong))
