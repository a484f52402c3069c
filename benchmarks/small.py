"""Small models, formula and frame to estimates: bayeslmm beside another package, in one run.

The other is glmm or lme-python (both written in Rust).

    uv run python benchmarks/small.py [--python PYTHON] [--package glmm] [--models sleepstudy ...]

The other package works in an environment of its own, whose interpreter ``--python`` names:

    uv venv /tmp/glmm && uv pip install --python /tmp/glmm/bin/python glmm lme-python pandas pyarrow

Without one bayeslmm is timed alone. Processor time of a warm process in milliseconds, medians;
rounds alternate between the two, so that what else the machine does meets both alike. ``frame``
is ``LMM(...)`` alone. glmm also finds standard errors and degrees of freedom, which bayeslmm
makes when they are asked for; the column "no s.e." has glmm without these. lme-python has standard
errors, and degrees of freedom when they are asked for.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pandas as pd

import bayeslmm as blm

MODELS = {
    "sleepstudy": ("Reaction ~ Days + (Days | Subject)", 30),
    "penicillin": ("diameter ~ 1 + (1 | plate) + (1 | sample)", 30),
    "mathachieve": ("MathAch ~ SES * MEANSES + (SES | School)", 30),
    "chem97": ("score ~ gcsecnt + gender + age + (1 | lea) + (1 | school)", 7),
    "insteval": ("y ~ service + (1 | s) + (1 | d) + (1 | dept)", 2),
}

#: What the other interpreter runs: frames are read once, then a line of JSON for each line asked.
OTHER = """
import json, sys, time, warnings
from importlib.metadata import version
import pandas as pd
package = sys.argv[1]
if package == "glmm":
    import glmm
else:
    import lme_python, polars
warnings.simplefilter("ignore")
frames = {}
print(json.dumps(version(package)), flush=True)
for line in sys.stdin:
    path, factors, formula, options = json.loads(line)
    if path not in frames:
        frames[path] = pd.read_csv(path, dtype=dict.fromkeys(factors, str))
        if package == "glmm":
            for name in factors:
                frames[path][name] = pd.Categorical(frames[path][name])
        else:
            frames[path] = polars.from_pandas(frames[path])
    start = time.process_time()
    if package == "glmm":
        loglik = glmm.fit(frames[path], formula, **options).loglik
    else:
        loglik = lme_python.lmer(formula, data=frames[path], reml=True).log_likelihood
    print(json.dumps([1e3 * (time.process_time() - start), loglik]), flush=True)
"""
#: How each package is asked: as it comes and, where it can, without standard errors.
OPTIONS = {"glmm": [{}, {"wald_se": "rx", "satterthwaite": False}], "lme-python": [{}]}


class Other:
    """Another package in its own environment."""

    def __init__(self, python: str, package: str, directory: str):
        self.directory, pipe = Path(directory), subprocess.PIPE
        self.options = OPTIONS[package]
        command = [python, "-c", OTHER, package]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.version = self._answer()

    def timer(self, name: str, frame: pd.DataFrame, formula: str, options: dict) -> Callable:
        """A function of nothing: milliseconds and the log-likelihood of a fit."""
        path = self.directory / f"{name}.csv"
        if not path.exists():
            frame.to_csv(path, index=False)
        factors = [n for n, kind in frame.dtypes.items() if isinstance(kind, pd.CategoricalDtype)]

        def fit() -> tuple[float, float]:
            request = json.dumps([str(path), factors, formula, options])
            self.process.stdin.write(f"{request}\n")
            self.process.stdin.flush()
            return tuple(self._answer())

        return fit

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the other interpreter stopped; is the package installed there?")
        return json.loads(line)


def timed(formula: str, frame: pd.DataFrame) -> tuple[float, float, float]:
    """Milliseconds of a model and of it with its fit, and the log-likelihood."""
    start = time.process_time()
    model = blm.LMM(formula, frame)
    made = time.process_time()
    fit = model.reml()
    return 1e3 * (made - start), 1e3 * (time.process_time() - start), fit.loglik


def compare(name: str, rounds: int | None, other: Other | None) -> str:
    """A line of the table."""
    formula, usual = MODELS[name]
    frame = blm.load_dataset(name)
    others = []
    if other is not None:
        others = [other.timer(name, frame, formula, how) for how in other.options]
    for warm in [lambda: timed(formula, frame), *others]:
        warm()
    ours, theirs = [], [[] for _ in others]
    for _ in range(rounds or usual):
        ours.append(timed(formula, frame))
        for found, fit in zip(theirs, others, strict=True):
            found.append(fit())
    made, whole = (statistics.median(row[i] for row in ours) for i in (0, 1))
    cells = [f"{name:12s}", f"{made:9.2f}", f"{whole:9.2f}"]
    for found in theirs:
        cells.append(f"{statistics.median(row[0] for row in found):9.2f}")
    if theirs:
        cells.append(f"{whole / statistics.median(row[0] for row in theirs[0]):7.1f}")
    cells += [f"{found[0][-1]:14.4f}" for found in [ours, *theirs[:1]]]
    return " ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--python", help="interpreter of an environment with the other package")
    parser.add_argument("--package", default="glmm", choices=list(OPTIONS))
    parser.add_argument("--rounds", type=int, help="by default 30, fewer for large models")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as directory:
        other = Other(options.python, options.package, directory) if options.python else None
        beside = f"{options.package} {other.version}" if other else "nothing beside it"
        print(f"bayeslmm {version('bayeslmm')}, {beside}")
        print("CPU ms           frame     whole", end="")
        names = [
            f"{name:>9s}" for name in (options.package, "no s.e.")[: len(OPTIONS[options.package])]
        ]
        print("", *names, "  ratio" if other else "", "log-likelihoods")
        for name in options.models:
            print(compare(name, options.rounds, other), flush=True)
        if other is not None:
            other.process.stdin.close()
            other.process.wait()


if __name__ == "__main__":
    main()
