"""Two checkouts of this package side by side: what a change costs or saves, in CPU seconds.

    uv run python benchmarks/house.py /path/to/before /path/to/after
    uv run python benchmarks/house.py before after --rounds 9 --only reml "fit ar1"

Both run under the interpreter and libraries of this environment. A round is one new process for
each checkout, in the order A B, then B A in the next; all that a process measures has run in it
once before (except the row "first"), and compiled code comes from the caches on disk, which one
process per checkout fills beforehand. The ratio is taken within a round, so that whatever else
the machine does hits both alike; the table has the medians over rounds and the smallest and
largest ratio. Give the same checkout twice to see the noise.

A density evaluation is a value with its gradient, called from Python; its table has microseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

#: data set, formula, options
MODELS: dict[str, tuple[str, str, dict[str, str]]] = {
    "sleepstudy": ("sleepstudy", "Reaction ~ Days + (Days | Subject)", {}),
    "penicillin": ("penicillin", "diameter ~ 1 + (1 | plate) + (1 | sample)", {}),
    "mathachieve": ("mathachieve", "MathAch ~ SES + (SES | School)", {}),
    "ar1": (
        "sleepstudy",
        "Reaction ~ Days + (1 | Subject)",
        {"residual": "ar1(Days | Subject)"},
    ),
    "cells": ("mathachieve", "MathAch ~ SES + (SES | School)", {"sigma": "~ Sex"}),
    "unstructured": (
        "orthodont",
        "distance ~ age * Sex",
        {"residual": "unstructured(age | Subject)"},
    ),
    "chem97": ("chem97", "score ~ gcsecnt + gender + age + (1 | lea) + (1 | school)", {}),
    "insteval": ("insteval", "y ~ service + (1 | s) + (1 | d) + (1 | dept:service)", {}),
}
LARGE = ("chem97", "insteval")
REML = ("sleepstudy", "penicillin", "mathachieve", "ar1", "cells", *LARGE)
FIT = ("sleepstudy", "penicillin", "ar1", "cells", "unstructured")
IMPORTANCE = ("sleepstudy",)

#: CPU seconds and repetitions after which a process stops to repeat one thing.
_LONG_ENOUGH, _OFTEN_ENOUGH = 1.0, 100


def density_of(model):
    """Log density and gradient of the covariance parameters, and a point of it.

    The one place that knows where a checkout keeps these: follow moves here.
    """
    from bayeslmm.bayes.marginal import marginal_density

    density = marginal_density(model.design, model.priors, model.problem)
    return density, density.starting_points((0.5,))[0]


def tasks() -> dict[str, tuple[Callable[[], object], int]]:
    """What is timed: a function, and how often one call of it does the thing."""
    import bayeslmm as blm

    load = cache(blm.load_dataset)

    def model(key: str) -> blm.LMM:
        name, formula, options = MODELS[key]
        return blm.LMM(formula, load(name), **options)

    def fit(key: str, method: str):
        return model(key).fit(random_seed=1, cores=1, progressbar=False, method=method)

    def evaluations(key: str):
        density, x = density_of(model(key))

        def run():
            for _ in range(1000):
                density(x)

        return run

    out: dict[str, tuple[Callable[[], object], int]] = {}
    out |= {f"reml {key}": (lambda key=key: model(key).reml(), 1) for key in REML}
    out |= {f"fit {key}": (lambda key=key: fit(key, "nuts"), 1) for key in FIT}
    out |= {f"importance {key}": (lambda key=key: fit(key, "importance"), 1) for key in IMPORTANCE}
    small = [key for key in MODELS if key not in LARGE]
    return out | {f"density {key}": (evaluations(key), 1000) for key in small}


def cpu_seconds() -> float:
    """Of this process with all its threads, and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def worker(checkout: str, only: list[str]) -> dict[str, float]:
    """Measure in this process: median CPU seconds of one of each thing."""
    import bayeslmm as blm

    if not Path(blm.__file__).is_relative_to(checkout):
        raise SystemExit(f"{blm.__file__} was imported, not the package in {checkout}")
    warnings.simplefilter("ignore")
    name, formula, options = MODELS["sleepstudy"]
    blm.LMM(formula, blm.load_dataset(name), **options).reml()
    out = {"first reml, imports included": cpu_seconds()}
    for what, (run, times) in tasks().items():
        if only and not any(text in what for text in only):
            continue
        run()
        found: list[float] = []
        while not found or (sum(found) < _LONG_ENOUGH and len(found) < _OFTEN_ENOUGH):
            start = cpu_seconds()
            run()
            found.append(cpu_seconds() - start)
        out[what] = statistics.median(found) / times
    return out


def measure(checkout: Path, only: list[str]) -> dict[str, float]:
    """One process of one checkout."""
    # compiled Python files may be written: without them every start compiles all imports
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    env |= {"PYTHONPATH": str(checkout), "BAYESLMM_COMPILE": "now"}
    command = [sys.executable, __file__, "--worker", str(checkout), "--only", *only]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=env, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(a: Path, b: Path, rounds: int, only: list[str]) -> None:
    """Print a table of both."""
    for checkout in dict.fromkeys((a, b)):
        measure(checkout, only)
    sides: tuple[list[dict], list[dict]] = ([], [])
    for number in range(rounds):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            sides[side].append(measure((a, b)[side], only))
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    print(f"A {a}\nB {b}\n{rounds} rounds, CPU time\n")
    print("| | A | B | B / A | from | to |\n|---|---|---|---|---|---|")
    for what in sides[0][0]:
        pairs = [(x[what], y[what]) for x, y in zip(*sides, strict=True)]
        ratios = [y / x for x, y in pairs]
        unit, scale = ("us", 1e6) if what.startswith("density") else ("ms", 1e3)
        of_a, of_b = (scale * statistics.median(v) for v in zip(*pairs, strict=True))
        print(
            f"| {what} | {of_a:.1f} {unit} | {of_b:.1f} {unit} | {statistics.median(ratios):.3f} "
            f"| {min(ratios):.3f} | {max(ratios):.3f} |"
        )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkouts", nargs="*", type=Path, help="two directories with bayeslmm/")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="*", default=[], help="rows whose name has one of these")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(worker(given.worker, given.only)))
        return
    if len(given.checkouts) != 2:
        parser.error("name two checkouts")
    a, b = (path.resolve() for path in given.checkouts)
    compare(a, b, given.rounds, given.only)


if __name__ == "__main__":
    main()
