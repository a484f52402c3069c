"""Many fits of one design: all at once, and one by one as without the compiled search.

    uv run python benchmarks/refits.py [fits]

Processor seconds per thousand fits, medians of three rounds, both sides in each round, warm; and
what a profile and a simulated study of power take.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np

import bayeslmm as blm
from bayeslmm.likelihood.engine import one_by_one

MODELS = {
    "sleepstudy, slopes": ("sleepstudy", "Reaction ~ Days + (Days | Subject)"),
    "sleepstudy, intercepts": ("sleepstudy", "Reaction ~ Days + (1 | Subject)"),
    "pastes, nested": ("pastes", "strength ~ 1 + (1 | batch / cask)"),
    "penicillin, crossed": ("penicillin", "diameter ~ 1 + (1 | plate) + (1 | sample)"),
    "machines, 3 correlated": ("machines", "score ~ Machine + (Machine | Worker)"),
    "mathachieve, slopes": ("mathachieve", "MathAch ~ SES + (SES | School)"),
}


def seconds(work: Callable, *given) -> float:
    start = time.process_time()
    found = work(*given)
    if isinstance(found, Iterator):
        list(found)
    return time.process_time() - start


def compare(name: str, data: str, formula: str, m: int) -> None:
    fit = blm.LMM(formula, blm.load_dataset(data)).reml()
    Y = fit.simulate(m, random_seed=1).to_numpy().T.copy()
    few = Y[: max(20, m // 50)]
    for label, start in (("anywhere", None), ("the fit", fit.theta)):
        many = fit._engine.estimator(reml=True, start=start)
        alone = one_by_one(fit._engine, reml=True, start=start)
        found = [a.deviance for a in many(Y)][: len(few)]  # warm
        gap = np.abs(np.array(found) - [a.deviance for a in alone(few)]).max()
        rounds = np.array(
            [(seconds(many, Y) / m, seconds(alone, few) / len(few)) for _ in range(3)]
        )
        at_once, single = 1e3 * np.median(rounds, axis=0)
        print(
            f"{name:24} from {label:10} {at_once:8.3f} s {single:8.3f} s "
            f"{single / at_once:6.1f} times   deviances within {gap:.0e}"
        )


def main() -> None:
    warnings.simplefilter("ignore")
    m = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(f"{'':41} at once   one by one")
    for name, (data, formula) in MODELS.items():
        compare(name, data, formula, m)
    model = blm.LMM(MODELS["sleepstudy, slopes"][1], blm.load_dataset("sleepstudy"))
    fit = model.reml()
    prior = blm.Prior("Normal", mu=5, sigma=2)
    works = {
        "profile": lambda: fit.confint(progressbar=False),
        "bootstrap of 10,000": lambda: fit.confint(
            "bootstrap", n_sims=10_000, random_seed=1, progressbar=False
        ),
        "assurance, 4 x 100": lambda: blm.assurance(
            model, "Days", prior, [6, 12, 18, 24], n_sims=100, random_seed=1, progressbar=False
        ),
    }
    for label, work in works.items():
        work()
        start = time.perf_counter()
        used = np.median([seconds(work) for _ in range(3)])
        print(f"{label:24} {used:.2f} s of processor, {(time.perf_counter() - start) / 3:.2f} s")


if __name__ == "__main__":
    main()
