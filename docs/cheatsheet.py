"""Print docs/cheatsheet.md on one landscape A4 page: docs/_static/cheatsheet.pdf.

uv run python docs/cheatsheet.py    # needs chromium
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from jinja2 import Template
from latex2mathml.converter import convert
from markdown_it import MarkdownIt

HERE = Path(__file__).parent
PDF = HERE / "_static" / "cheatsheet.pdf"

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>bayeslmm: cheatsheet</title>
<style>
@page { size: A4 landscape; margin: 6mm 7mm; }
body { font: 6.9pt/1.22 "Liberation Sans", Arial, sans-serif; margin: 0; color: #111; }
h1 { font-size: 11pt; margin: 0 0 1mm; }
h1 small { font-weight: normal; font-size: 7pt; color: #444; margin-left: 3mm; }
h2 { font-size: 8pt; margin: 1.3mm 0 0.5mm; color: #0072B2; }
p { margin: 0.5mm 0; }
code { font: 6.3pt "DejaVu Sans Mono", monospace; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; border-bottom: 0.8pt solid #0072B2; }
th, td { padding: 0.3mm 1mm 0.3mm 0; vertical-align: top; }
tr:nth-child(even) td { background: #eef4f8; }
td:first-child, .models td:nth-child(4) { white-space: nowrap; padding-right: 2mm; }
.questions td:first-child { white-space: normal; width: 32%; }
.questions { display: grid; grid-template-columns: 1fr 1fr; gap: 4mm; }
</style></head><body>
<h1>bayeslmm: cheatsheet<small>{{ calls }}</small></h1>
<h2>Models</h2><p>{{ notation }}</p><div class="models">{{ models }}</div><p>{{ notes }}</p>
<h2>Questions</h2><div class="questions"><div>{{ left }}</div><div>{{ right }}</div></div>
</body></html>""")


def tables(text: str) -> list[list[str]]:
    """The tables of a page in Markdown, each as its lines."""
    found = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    return [block.splitlines() for block in found]


def html(text: str) -> str:
    """Markdown with formulas between dollars as HTML with MathML."""
    formulas = [convert(latex) for latex in re.findall(r"\$(.+?)\$", text)]
    made = MarkdownIt("commonmark").enable("table").render(re.sub(r"\$.+?\$", "FORMULA", text))
    made = re.sub(r"</?a\b[^>]*>", "", made)  # no links on paper
    for formula in formulas:
        made = made.replace("FORMULA", formula, 1)
    return re.sub(r"^<p>|</p>\n?$", "", made)


def page(text: str) -> str:
    """The cheatsheet as HTML for one sheet of paper."""
    models, questions = tables(text)
    notation = re.search(r"## Models\n\n(.*?)\n\n\|", text, re.DOTALL).group(1)
    notes = re.search(r"\n\n(\"Same\".*?)\n\n## Questions", text, re.DOTALL).group(1)
    notes = " ".join(s for s in re.split(r"(?<=\.)\s", notes) if "](" not in s)
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1).splitlines()
    calls = "; ".join(f"`{line.split('  #')[0].strip()}`" for line in code if "model" in line)
    head, rows = questions[:2], questions[2:]
    half = (len(rows) + 1) // 2
    return _PAGE.render(
        calls=html(calls),
        notation=html(notation),
        models=html("\n".join(models)),
        notes=html(notes),
        left=html("\n".join([*head, *rows[:half]])),
        right=html("\n".join([*head, *rows[half:]])),
    )


def main() -> None:
    """Write the PDF."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("chromium is needed to print the page.")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "cheatsheet.html"
        source.write_text(page((HERE / "cheatsheet.md").read_text("utf-8")), "utf-8")
        subprocess.run(
            # tags would be two thirds of the file
            [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer",
             "--disable-pdf-tagging",
             f"--user-data-dir={folder}/profile", f"--print-to-pdf={PDF}", source.as_uri()],
            check=True, capture_output=True,
        )  # fmt: skip
    print(f"{PDF}: {PDF.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
