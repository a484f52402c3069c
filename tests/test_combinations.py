"""Features against features: every pair is tried on a small model.

The outcome is the table in docs/limitations.md, written by

    uv run python tests/test_combinations.py --write

and compared with it here. A "no" has the text of the package's own error as its reason; any other
exception fails the test.
"""

from __future__ import annotations

import re
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm

PAGE = Path(__file__).parents[1] / "docs" / "limitations.md"
BEGIN, END = "<!-- combinations: begin -->", "<!-- combinations: end -->"

#: What a model may have, as options of ``LMM``.
FEATURES = {
    "relationship": "relationship",
    "ar1": "residual",
    "unstructured": "residual",
    "sigma formula": "sigma",
    "Student-t residuals": "family",
    "Student-t effects": "random",
    "missing covariates": "missing",
    "read in batches": "data",
    "0/1 response": "family",
    "ordered response": "family",
}
#: Ways to get a fit of the plain model.
FITS = ("importance", "REML", "summary of effects", "save and load")
#: Features that are families, and the response each has.
FAMILIES = {
    "Student-t residuals": ("student", "y"),
    "0/1 response": ("bernoulli", "event"),
    "ordered response": ("ordinal", "grade"),
}
#: Sampled through PyMC, which compiles for seconds.
SAMPLED = ("missing covariates",)


@cache
def rows() -> pd.DataFrame:
    """24 subjects at 6 sites, 4 visits each, correlated over time."""
    rng = np.random.default_rng(7)
    g, t = np.repeat(np.arange(24), 4), np.tile(np.arange(4), 24)
    data = pd.DataFrame({"g": [f"s{i:02d}" for i in g], "site": [f"c{i // 4}" for i in g], "t": t})
    data["arm"] = np.where(g % 2, "b", "a")
    data["x"] = rng.normal(size=96)
    noise = rng.normal(size=(24, 4))
    for visit in range(1, 4):
        noise[:, visit] = 0.5 * noise[:, visit - 1] + np.sqrt(0.75) * noise[:, visit]
    effects = rng.normal(0, 1.5, 24)[g] + rng.normal(0, 1, 6)[g // 4]
    data["y"] = 10 + data["x"] + 0.5 * (g % 2) + effects + noise.ravel()
    blurred = data["y"] + 4 * rng.logistic(size=96)  # so that groups are not separated
    data["event"], data["grade"] = blurred > 10, np.digitize(blurred, [7.0, 13.0])
    return data


def _families(features: frozenset[str]) -> tuple[dict[str, str], str]:
    """The option of the family, and the response."""
    chosen = [name for name in FAMILIES if name in features]
    family, response = FAMILIES[chosen[0]] if chosen else ("gaussian", "y")
    return ({"family": family} if chosen else {}), response


@cache
def _file() -> str:
    path = Path(tempfile.mkdtemp()) / "rows.parquet"
    rows().to_parquet(path)
    return str(path)


def _related(labels: list[str]) -> pd.DataFrame:
    """Pairs of half siblings."""
    A = np.eye(len(labels))
    A[np.arange(0, len(A), 2), np.arange(1, len(A), 2)] = 0.25
    return pd.DataFrame(np.maximum(A, A.T), labels, labels)


@cache
def model(features: frozenset[str]) -> blm.LMM:
    """The small model with some features; sites where the residuals take all of a subject."""
    factor = "site" if "unstructured" in features else "g"
    data, options = rows(), {}
    if "missing covariates" in features:
        data = data.assign(x=data["x"].where(np.arange(96) % 20 != 3))
        options["missing"] = "model"
    if "read in batches" in features:
        data = blm.scan(_file(), batch_rows=40, progressbar=False)
        data.in_batches = True
    if "relationship" in features:
        options["relationship"] = {factor: _related(sorted(set(rows()[factor])))}
    for kind in ("ar1", "unstructured"):
        if kind in features:
            options["residual"] = f"{kind}(t | g)"
    if "sigma formula" in features:
        options["sigma"] = "~ arm"
    family, response = _families(features)
    if "Student-t effects" in features:
        options["random"] = "student"
    return blm.LMM(f"{response} ~ x + arm + (1 | {factor})", data, **options, **family)


@cache
def fit(features: frozenset[str], way: str = "nuts"):
    """A fit of the small model; the error where it is refused."""
    options = {"draws": 60, "tune": 60, "chains": 2, "random_seed": 3, "progressbar": False}
    if set(SAMPLED) & features:
        options |= {"draws": 20, "tune": 20}
    if way == "REML":
        return model(features).reml()
    if way == "importance":
        options |= {"method": "importance", "draws": 500}
    if way == "summary of effects":
        options["random_effects"] = "summary"
    found = model(features).fit(**options)
    if way != "save and load":
        return found
    with tempfile.TemporaryDirectory() as folder:
        found.save(f"{folder}/fit.nc")
        return blm.load(f"{folder}/fit.nc")


def _new_group() -> pd.DataFrame:
    return pd.DataFrame(
        {"g": "new", "site": "new", "t": [0, 1, 2], "arm": "a", "x": [0.0, 1.0, 2.0]}
    )


def _shell(features: frozenset[str], way: str) -> None:
    """The model from the command line, with every option it needs."""
    from typer.testing import CliRunner

    from bayeslmm.cli import app

    options = {"importance": ["--method", "importance"], "REML": ["--reml"]}.get(way, [])
    if way == "summary of effects":
        options = ["--random-effects", "summary"]
    with tempfile.TemporaryDirectory() as folder:
        data = rows()
        factor = "site" if "unstructured" in features else "g"
        if "missing covariates" in features:
            data = data.assign(x=data["x"].where(np.arange(96) % 20 != 3))
            options += ["--missing", "model"]
        if "relationship" in features:
            related = _related(sorted(set(data[factor])))
            related.to_csv(f"{folder}/related.csv")
            options += ["--relationship", f"{factor}={folder}/related.csv"]
        for kind in ("ar1", "unstructured"):
            if kind in features:
                options += ["--residual", f"{kind}(t | g)"]
        if "sigma formula" in features:
            options += ["--sigma", "~ arm"]
        family, response = _families(features)
        if family:
            options += ["--family", family["family"]]
        if "Student-t effects" in features:
            options += ["--random", "student"]
        if "read in batches" in features:
            options += ["--batch-rows", "40"]
        if way == "save and load":
            options += ["--output", f"{folder}/fit.nc"]
        if way != "REML":
            count = {"importance": ["500"]}.get(way, ["10", "--tune", "20", "--chains", "2"])
            options += ["--seed", "3", "--draws", *count]
        data.to_csv(f"{folder}/rows.csv", index=False)
        text = f"{response} ~ x + arm + (1 | {factor})"
        run = CliRunner().invoke(
            app, ["fit", f"{folder}/rows.csv", text, "--no-progress", *options]
        )
    if run.exception is not None and run.exit_code != 0:
        if isinstance(run.exception, SystemExit):
            raise AssertionError(run.output)
        raise run.exception


def _report(found) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found.report(f"{folder}/report.html")


def _conditioned(found) -> None:
    """Rows of a new group; where levels are related, of one that is in the relationship."""
    new = _new_group()
    if any(block.relationship is not None for block in found.model.design.blocks):
        new = new.assign(g="s00", site="c0", t=[10, 11, 12])
    found.predict(new, given=new.iloc[:2].assign(y=10.0, event=True, grade=1))


#: What a fit is asked for; called with the fit.
RESULTS: dict[str, Callable] = {
    "Kenward-Roger": lambda f: f.fixef("kenward-roger"),
    "random effects": lambda f: f.ranef(),
    "LOO": lambda f: f.loo(progressbar=False, exact=False),
    "LOO by groups": lambda f: f.loo(f.model.design.blocks[0].name, progressbar=False, exact=False),
    "LOO-PIT": lambda f: f.loo_pit(progressbar=False, exact=False),
    "prediction for new groups": lambda f: f.predict(_new_group(), allow_new_levels=True),
    "replication for new groups": lambda f: f.predictive_check(
        groups="new", draws=10, random_seed=1
    ),
    "conditioning on more rows": _conditioned,
    "reanalysis of an effect": lambda f: blm.reanalyze(f, "arm[b]", random_seed=1),
    "Bayes factor of a coefficient": lambda f: blm.savage_dickey(
        f, "arm[b]", curve=False, random_seed=1
    ),
    "marginal likelihood": lambda f: blm.log_marginal_likelihood(f, random_seed=1),
    "power-scaling": lambda f: blm.power_scaling(f),
    "R2": lambda f: f.r2(),
    "equation": lambda f: f.equation(),
    "report": _report,
}


def tried(what: str, column: str) -> str:
    """ "yes", or why not."""
    features = frozenset(FEATURES) & {what, column}
    if len(features & set(FAMILIES)) > 1:  # a response has one
        return "-"
    ways = [way for way in FITS if way in (what, column)]
    if len(ways) == 2 and "save and load" in ways:  # the fit of the other kind, saved
        ways = sorted(ways, key=lambda way: way == "save and load")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if what == "command line":
                _shell(features, ways[0] if ways else "nuts")
            elif what in RESULTS:
                way = "REML" if what == "Kenward-Roger" else (ways[0] if ways else "nuts")
                RESULTS[what](fit(features, way))
            elif len(ways) == 2:
                return _two_ways(*ways)
            else:
                fit(features, ways[0] if ways else "nuts")
    except blm.BayesLMMError as err:
        return " ".join(str(err).split())
    except AttributeError as err:
        if "LikelihoodFit" not in str(err):
            raise
        return "A REML or ML fit is an estimate; this result is of a posterior's draws."
    return "yes"


def _two_ways(one: str, other: str) -> str:
    if one == other:
        return "-"
    options = {"importance": {"method": "importance"}}
    options["summary of effects"] = {"random_effects": "summary"}
    if "REML" in (one, other):
        if other == "save and load":
            return "A REML or ML fit has no draws to keep: fit it again, in milliseconds."
        return "Either an estimate or draws."
    found = model(frozenset()).fit(
        **options[one], **options.get(other, {}), draws=500, random_seed=3, progressbar=False
    )
    if other == "save and load":
        with tempfile.TemporaryDirectory() as folder:
            found.save(f"{folder}/fit.nc")
            blm.load(f"{folder}/fit.nc").summary()
    return "yes"


def cells(columns, *, sampled: bool | None = None) -> dict[tuple[str, str], str]:
    """Outcome of every pair of the table in these columns.

    Parameters
    ----------
    sampled : bool, optional
        Only pairs that are sampled through PyMC, or only the others.
    """
    found = {}
    for what in (*FEATURES, *FITS, *RESULTS, "command line"):
        for column in columns:
            names = [*FEATURES, *FITS]
            if what in names and names.index(what) <= names.index(column):
                continue  # the same pair stands below the diagonal
            if sampled is None or sampled == bool({what, column} & set(SAMPLED)):
                found[what, column] = tried(what, column)
    return found


def table(found: dict[tuple[str, str], str]) -> str:
    """Markdown: a row per feature or result, a column per feature, reasons below."""
    columns = [c for c in (*FEATURES, *FITS) if any(column == c for _, column in found)]
    reasons: list[str] = []
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for what in dict.fromkeys(row for row, _ in found):
        entries = []
        for column in columns:
            outcome = found.get((what, column), "")
            if outcome not in ("", "-", "yes"):
                if outcome not in reasons:
                    reasons.append(outcome)
                outcome = f"no ({reasons.index(outcome) + 1})"
            entries.append(outcome)
        lines.append(f"| {what} | " + " | ".join(entries) + " |")
    lines += ["", *(f"{i}. {reason}" for i, reason in enumerate(reasons, 1))]
    return "\n".join(lines)


def read_table(text: str) -> dict[tuple[str, str], str]:
    """The outcomes on a page, as :func:`table` wrote them."""
    lines = text[text.index(BEGIN) : text.index(END)].splitlines()
    grid = [[c.strip() for c in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    reasons = dict(m.groups() for line in lines if (m := re.match(r"(\d+)\. (.*)", line)))
    found = {}
    for what, *entries in grid[2:]:
        for column, entry in zip(grid[0][1:], entries, strict=True):
            number = re.fullmatch(r"no \((\d+)\)", entry)
            if entry:
                found[what, column] = reasons[number[1]] if number else entry
    return found


@pytest.mark.parametrize(
    ("columns", "sampled"),
    [
        *(
            pytest.param((column,), False, marks=pytest.mark.slow, id=column)
            for column in (*FEATURES, *FITS)
            if column not in SAMPLED
        ),
        pytest.param((*FEATURES, *FITS), True, marks=pytest.mark.slow, id="sampled"),
    ],
)
def test_the_table_on_the_page_is_what_happens(columns, sampled):
    page = {
        key: value
        for key, value in read_table(PAGE.read_text()).items()
        if key[1] in columns and bool(set(key) & set(SAMPLED)) == sampled
    }
    found = cells(columns, sampled=sampled)
    stale = [key for key in {**found, **page} if found.get(key) != page.get(key)]
    assert not stale, f"write the page again: {[(k, found.get(k), page.get(k)) for k in stale]}"
    assert all(len(value.split()) > 3 for value in found.values() if value not in ("yes", "-"))


if __name__ == "__main__":
    written = table(cells((*FEATURES, *FITS)))
    if "--write" in sys.argv:
        page = PAGE.read_text()
        start, stop = page.index(BEGIN) + len(BEGIN), page.index(END)
        PAGE.write_text(f"{page[:start]}\n{written}\n{page[stop:]}")
    else:
        print(written)
