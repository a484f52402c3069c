"""Build the site into docs/_build/html; a warning is an error.

uv run --group docs python docs/build.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.cmd.build import main

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "_build"


def build() -> int:
    """The exit status of sphinx-build."""
    options = ["-b", "html", "-W", "--keep-going", "-q", "-c", str(ROOT / "docs")]
    return main([*options, "-d", str(TARGET / "doctrees"), str(ROOT), str(TARGET / "html")])


if __name__ == "__main__":
    sys.exit(build())
