"""REML: bayeslmm against lme4 and statsmodels, all in one run.

    uv run --with statsmodels python benchmarks/reml.py [--models sleepstudy chem97_slopes ...]

Each program fits the same model to the same data in a warm process; medians over repetitions and
ratios to bayeslmm are printed and, with --write, put into docs/benchmarks-reml.md. lme4 takes part
where Rscript with lme4 is on the path (Debian: r-cran-lme4). Peak memory is that of a fresh
process that fits the model once.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

import bayeslmm as blm

MODELS = {
    "sleepstudy": ("sleepstudy", "Reaction ~ Days + (Days | Subject)", 30),
    "penicillin": ("penicillin", "diameter ~ 1 + (1 | plate) + (1 | sample)", 30),
    "machines": ("machines", "score ~ Machine + (Machine | Worker)", 30),
    "mathachieve": ("mathachieve", "MathAch ~ SES * MEANSES + (SES | School)", 15),
    "chem97_nested": (
        "chem97",
        "score ~ gcsecnt + gender + age + (1 | lea) + (1 | school)",
        7,
    ),
    "chem97_slopes": ("chem97", "score ~ gcsecnt + gender + age + (gcsecnt | school)", 7),
    "crossed_slopes": (
        "psycholinguistics",
        "y ~ x + (x | subject) + (x | item)",
        7,
    ),
    "insteval": ("insteval", "y ~ service + (1 | s) + (1 | d) + (1 | dept)", 5),
    "insteval_cells": ("insteval", "y ~ service + (1 | s) + (1 | d) + (1 | dept:service)", 5),
}
STATSMODELS = {
    "sleepstudy": ("Subject", "~Days"),
    "mathachieve": ("School", "~SES"),
    "chem97_slopes": ("school", "~gcsecnt"),
}


def psycholinguistics() -> pd.DataFrame:
    """Simulated: 80 subjects by 80 items, half of the cells, small slope variances."""
    rng = np.random.default_rng(1)
    s, i = np.meshgrid(np.arange(80), np.arange(80), indexing="ij")
    frame = pd.DataFrame({"subject": s.ravel(), "item": i.ravel()})
    frame = frame.sample(frac=0.45, random_state=1).reset_index(drop=True)
    frame["x"] = rng.choice([-0.5, 0.5], len(frame))
    a = rng.multivariate_normal([0, 0], [[1.0, 0.05], [0.05, 0.04]], 80)
    b = rng.multivariate_normal([0, 0], [[0.5, 0.02], [0.02, 0.02]], 80)
    frame["y"] = (
        6
        + 0.2 * frame.x
        + a[frame.subject, 0]
        + a[frame.subject, 1] * frame.x
        + b[frame.item, 0]
        + b[frame.item, 1] * frame.x
        + 1.5 * rng.normal(size=len(frame))
    )
    for name in ("subject", "item"):
        frame[name] = pd.Categorical("n" + frame[name].astype(str))
    return frame


def load(name: str) -> pd.DataFrame:
    return psycholinguistics() if name == "psycholinguistics" else blm.load_dataset(name)


def median_seconds(run, repetitions: int) -> tuple[float, object]:
    result = run()
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


def ours(key: str, data: pd.DataFrame) -> dict:
    _, formula, repetitions = MODELS[key]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seconds, fit = median_seconds(lambda: blm.LMM(formula, data).reml(), repetitions)
    return {"seconds": seconds, "loglik": fit.loglik, "evaluations": fit.n_evaluations}


def statsmodels_fit(key: str, data: pd.DataFrame) -> dict | None:
    if key not in STATSMODELS:
        return None
    try:
        import statsmodels.formula.api as smf
    except ImportError:
        return None
    group, slopes = STATSMODELS[key]
    fixed = MODELS[key][1].split(" + (")[0]
    repetitions = 3 if key != "chem97_slopes" else 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = data.assign(**{group: data[group].astype(str)})

        def run():
            return smf.mixedlm(fixed, plain, groups=plain[group], re_formula=slopes).fit(reml=True)

        seconds, fit = median_seconds(run, repetitions)
    return {"seconds": seconds, "loglik": float(fit.llf)}


R_SCRIPT = """
suppressMessages({library(lme4); library(jsonlite)})
args <- commandArgs(trailingOnly = TRUE)
spec <- fromJSON(args[1]); d <- read.csv(spec$data)
for (f in spec$factors) d[[f]] <- factor(d[[f]])
fm <- as.formula(spec$formula)
m <- suppressMessages(suppressWarnings(lmer(fm, d)))
t <- sapply(seq_len(spec$repetitions), function(i)
  system.time(suppressMessages(suppressWarnings(lmer(fm, d))))[["elapsed"]])
peak <- sum(gc()[, 6])
cat(toJSON(list(seconds = median(t), loglik = as.numeric(logLik(m)), version =
  as.character(packageVersion("lme4")), peak_mb = peak), auto_unbox = TRUE, digits = 12))
"""


def lme4_fit(key: str, data: pd.DataFrame) -> dict | None:
    if shutil.which("Rscript") is None:
        return None
    _, formula, repetitions = MODELS[key]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        data.to_csv(path / "data.csv", index=False)
        factors = [c for c in data if isinstance(data[c].dtype, pd.CategoricalDtype)]
        spec = {
            "data": str(path / "data.csv"),
            "formula": formula,
            "factors": factors,
            "repetitions": min(repetitions, 10),
        }
        (path / "spec.json").write_text(json.dumps(spec))
        (path / "fit.R").write_text(R_SCRIPT)
        result = subprocess.run(
            ["Rscript", str(path / "fit.R"), str(path / "spec.json")],
            capture_output=True,
            text=True,
            check=False,
        )
    if result.returncode:
        print(result.stderr.strip().splitlines()[-1:], file=sys.stderr)
        return None
    return json.loads(result.stdout)


def peak_megabytes(key: str) -> float:
    """Peak resident memory of a fresh process that loads the data and fits once."""
    dataset, formula, _ = MODELS[key]
    if dataset == "psycholinguistics":
        return float("nan")
    code = (
        "import warnings; warnings.simplefilter('ignore'); import bayeslmm as blm;"
        f"blm.LMM({formula!r}, blm.load_dataset({dataset!r})).reml();"
        # not getrusage: its peak would include this process, from which the new one is forked
        "line = next(x for x in open('/proc/self/status') if x.startswith('VmHWM'));"
        "print(int(line.split()[1]) / 1024)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return float(result.stdout)


def lme4_peak_megabytes(key: str, data: pd.DataFrame) -> float:
    """Peak resident memory of a fresh R process that reads the data and fits once."""
    if shutil.which("Rscript") is None or shutil.which("/usr/bin/time") is None:
        return float("nan")
    _, formula, _ = MODELS[key]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data.csv"
        data.to_csv(file, index=False)
        factors = [c for c in data if isinstance(data[c].dtype, pd.CategoricalDtype)]
        code = (
            f"suppressMessages(library(lme4)); d <- read.csv('{file}');"
            f"for (f in c({','.join(repr(f) for f in factors)})) d[[f]] <- factor(d[[f]]);"
            f"m <- suppressMessages(suppressWarnings(lmer({formula}, d)))"
        )
        result = subprocess.run(
            ["/usr/bin/time", "-f", "%M", "Rscript", "-e", code],
            capture_output=True,
            text=True,
            check=False,
        )
    return float(result.stderr.strip().splitlines()[-1]) / 1024


def rows(keys: list[str], memory: bool) -> list[str]:
    lines = [
        "| model | rows | bayeslmm | lme4 | ratio | statsmodels | ratio "
        "| log-likelihood, ours - lme4 | peak MB, ours / lme4 |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for key in keys:
        data = load(MODELS[key][0])
        a, b, c = ours(key, data), lme4_fit(key, data), statsmodels_fit(key, data)
        peaks = "-"
        if memory:
            peaks = f"{peak_megabytes(key):.0f} / {lme4_peak_megabytes(key, data):.0f}"
        cells = [
            key,
            f"{len(data)}",
            f"{1e3 * a['seconds']:.1f} ms",
            f"{1e3 * b['seconds']:.0f} ms" if b else "-",
            f"{b['seconds'] / a['seconds']:.1f}" if b else "-",
            f"{1e3 * c['seconds']:.0f} ms" if c else "-",
            f"{c['seconds'] / a['seconds']:.0f}" if c else "-",
            f"{a['loglik'] - b['loglik']:+.1e}" if b else "-",
            peaks,
        ]
        lines.append("| " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--memory", action="store_true", help="measure peak memory too")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks-reml.md")
    arguments = parser.parse_args()
    lines = rows(arguments.models, arguments.memory)
    if arguments.write:
        packages = ", ".join(f"{p} {version(p)}" for p in ("bayeslmm", "numpy", "scipy", "numba"))
        head = [
            "# REML benchmarks",
            "",
            "Formula and data frame to fitted model in a warm process, medians; made by "
            "`benchmarks/reml.py`. lme4 uses its default optimizer.",
            "",
            f"{platform.machine()}, Python {platform.python_version()}, {packages}.",
            "",
        ]
        path = Path(__file__).parent.parent / "docs" / "benchmarks-reml.md"
        path.write_text("\n".join([*head, *lines]) + "\n")


if __name__ == "__main__":
    main()
