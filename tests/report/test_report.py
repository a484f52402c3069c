"""The report: one file, complete, and safe whatever the data are called."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import pytest

import bayeslmm as blm
from bayeslmm.report.content import _trajectories
from bayeslmm.report.mathematics import equation_rows
from bayeslmm.report.pictures import draw
from bayeslmm.report.reproduce import reproducing_code
from tests.conftest import dataset, quietly
from tutorials.messy_file import clean


class Page(HTMLParser):
    """Tags, and every address a browser would fetch."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.addresses, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for key, value in attrs:
            assert not key.startswith("on")
            if key in ("src", "href", "srcset", "data", "action"):
                self.addresses.append(value)

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())


@cache
def sleep_page() -> tuple[Page, str]:
    import tempfile
    from pathlib import Path

    model = blm.LMM("Reaction ~ Days + (Days | Subject)", dataset("sleepstudy"))
    fit = model.fit(method="importance", draws=250, random_seed=7)
    with tempfile.TemporaryDirectory() as folder:
        path = fit.report(
            Path(folder) / "r.html", effect="Days", mcid=5, direction="lower is better",
            question="Does a day cost time?", source="blm.load_dataset('sleepstudy')",
        )  # fmt: skip
        text = path.read_text()
    return Page(text), text


def test_the_report_needs_nothing_from_elsewhere():
    page, text = sleep_page()
    assert page.addresses
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert not {"script", "link rel=stylesheet", "iframe", "object"} & set(page.tags)
    assert "url(" not in text
    assert "@import" not in text
    assert 'name="viewport"' in text
    assert "@media print" in text


def test_the_report_has_every_section_and_pictures_that_were_drawn():
    page, _ = sleep_page()
    for title in (
        "Question and model", "Data", "Priors", "Diagnostics", "Coefficients",
        "Variance components", "Variance explained", "Groups", "Posterior predictive checks",
        "Reanalysis", "Sensitivity to the prior", "Bayes factors", "Power-scaling",
        "How to make this again",
    ):  # fmt: skip
        assert title in page.words
    assert "could not be drawn" not in page.words
    assert page.tags.count("img") >= 9
    assert "Does a day cost time?" in page.words
    assert "sceptical, strong" in page.words
    assert "Kenward-Roger" in page.words


def test_the_code_in_the_report_makes_the_same_fit_again():
    page, text = sleep_page()
    code = re.search(r"<pre><code>(.*?)</code></pre>", text, flags=re.DOTALL).group(1)
    import html

    code = html.unescape(code)
    assert "effect='Days'" in code
    kept = "\n".join(line for line in code.splitlines() if ".report(" not in line)
    space: dict = {}
    exec(compile(kept, "report", "exec"), space)
    again = space["post"].fixef().loc["Days", "mean"]
    assert f"{again:.4g} (" in page.words


def test_the_code_in_a_report_has_the_reference_levels():
    """Stated ones only; a grouping factor has none."""
    data = dataset("machines")
    formula = "score ~ Machine + (1 | Worker)"
    options = {"method": "importance", "draws": 50, "random_seed": 1}
    for reference in ({"Machine": "C"}, None):
        fit = blm.LMM(formula, data, reference=reference).fit(**options)
        code = reproducing_code(fit, "data")
        (line,) = (line for line in code.splitlines() if line.startswith("model = "))
        assert ("reference=" in line) == (reference is not None)
        space = {"blm": blm, "data": data}
        exec(line, space)
        assert space["model"].design.coef_names == fit.model.design.coef_names


def test_lines_of_a_report_are_split_by_the_factor_of_a_slope():
    data = clean()
    fit = blm.LMM("`Schmerz NRS` ~ Tag * Gruppe + (1 | Patient)", data).fit(
        method="importance", draws=50, random_seed=1
    )
    drawn = _trajectories(fit, "Tag:Gruppe[Placebo]")()
    axes = drawn if isinstance(drawn, plt.Axes) else drawn.ravel()[0]
    legends = [*axes.figure.legends, *([axes.get_legend()] if axes.get_legend() else [])]
    shown = {text.get_text() for legend in legends for text in legend.get_texts()}
    assert shown >= {"Placebo", "Körpertherapie"}
    plt.close("all")


def test_names_from_the_data_cannot_become_markup(tmp_path):
    data = dataset("sleepstudy").rename(columns={"Days": "<b>d$_1<b>"})
    data["g$&\"'<i>"] = "<script>" + data["Subject"].astype(str)
    data.loc[3, "Reaction"] = None
    model = quietly("Reaction ~ `<b>d$_1<b>` + (1 | `g$&\"'<i>`)", data)
    fit = model.fit(method="importance", draws=100, random_seed=1)
    path = fit.report(tmp_path / "r.html", title="<script>alert(1)</script>", question="<u>?</u>")
    page = Page(path.read_text())
    assert not {"script", "b", "i", "u"} & set(page.tags)
    assert "<script>alert(1)</script>" in page.words
    assert "<b>d$_1<b>" in page.words
    assert "1 of 180 rows left out" in page.words
    assert "could not be drawn" not in page.words


def test_equations_become_mathml_with_escaped_names():
    rows = equation_rows(
        r"\begin{aligned} \text{a\_b \& <script>}_{i} &= \beta_{0} + \text{x\}}_{i} \\"
        r" \varepsilon_{i} &\sim \mathcal{N}(0,\, \sigma^2) \end{aligned}"
    )
    assert len(rows) == 2
    assert "a_b &amp; &lt;script&gt;" in rows[0][0]
    assert "x}" in rows[0][1]
    assert "aligned" not in "".join(rows[0] + rows[1])
    assert rows[1][1].startswith("<math")


def test_a_picture_that_fails_says_so_and_closes_its_figures():
    import matplotlib.pyplot as plt

    def broken():
        plt.figure()
        raise ZeroDivisionError("oops")

    before = plt.get_fignums()
    picture = draw(broken, "Caption")
    assert picture.uri == ""
    assert "oops" in picture.caption
    assert plt.get_fignums() == before


def test_bad_requests_are_refused_before_the_work(tmp_path):
    model = blm.LMM("Yield ~ 1 + (1 | Batch)", dataset("dyestuff"))
    fit = model.fit(method="importance", draws=100, random_seed=1)
    with pytest.raises(blm.FileFormatError, match="no folder"):
        fit.report(tmp_path / "no" / "r.html")
    with pytest.raises(ValueError, match="no coefficient 'Days'"):
        fit.report(tmp_path / "r.html", effect="Days")
    with pytest.raises(ValueError, match="direction must be"):
        fit.report(tmp_path / "r.html", direction="up")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_report_command_works_on_a_csv_file(tmp_path):
    dataset("dyestuff").to_csv(tmp_path / "dye stuff.csv", index=False)
    command = [sys.executable, "-c", "from bayeslmm.cli import main; main()", "report"]
    done = subprocess.run(
        [*command, "dye stuff.csv", "Yield ~ 1 + (1 | Batch)", "--effect", "Intercept",
         "--output", "out.html", "--seed", "1", "--draws", "250", "--mcid", "10"],
        capture_output=True, text=True, cwd=tmp_path, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = Page((tmp_path / "out.html").read_text())
    assert "data = 'dye stuff.csv'" in page.words  # LMM reads the path itself
    wrong = subprocess.run(
        [*command, "dye stuff.csv", "Yield ~ 1 + (1 | Batch)", "--effect", "Batch"],
        capture_output=True, text=True, cwd=tmp_path, check=False, timeout=300,
    )  # fmt: skip
    assert wrong.returncode == 2
    assert "no coefficient 'Batch'" in wrong.stderr


def test_the_report_says_what_was_checked_and_has_narrow_tables_and_a_dark_page():
    page, text = sleep_page()
    assert "Before trusting the fit" in page.words
    assert "Nothing was found" in page.words
    assert "No statistic of the data is outside" in page.words
    assert "REML, Kenward-Roger, 95 % intervals" in page.words
    assert "prefers-color-scheme: dark" in text
