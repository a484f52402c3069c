"""Seconds of REML with autocorrelated residuals beside crossed or related random effects.

    uv run python benchmarks/crossed.py [--rows 20000] [--items 200]

Subjects with ten rows each and AR(1) residuals answer items at random; animals with ten records
each have AR(1) residuals and a pedigree.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import pandas as pd

import bayeslmm as blm

VISITS = 10


def rows(n: int, n_items: int) -> pd.DataFrame:
    """Ten answers of each subject, to items drawn at random."""
    rng = np.random.default_rng(1)
    n_subjects = n // VISITS
    subject = np.repeat(np.arange(n_subjects), VISITS)
    t, item = np.tile(np.arange(VISITS), n_subjects), rng.integers(0, n_items, len(subject))
    noise = rng.normal(size=(n_subjects, VISITS))
    for visit in range(1, VISITS):
        noise[:, visit] = 0.5 * noise[:, visit - 1] + np.sqrt(0.75) * noise[:, visit]
    x = rng.normal(size=len(subject))
    effects = rng.normal(size=n_subjects)[subject] + 0.5 * rng.normal(size=n_items)[item]
    y = 1.0 + 0.3 * x + effects + noise.ravel()
    return pd.DataFrame({"subject": subject + 1, "t": t, "item": item, "x": x, "y": y})


def pedigree(n_animals: int) -> pd.DataFrame:
    """Founders, the first tenth, and offspring of earlier animals."""
    rng, founders = np.random.default_rng(2), max(2, n_animals // 10)
    parents = np.full((n_animals, 2), -1)
    for i in range(founders, n_animals):
        parents[i] = 2 * rng.integers(0, i // 2, 2) + [0, 1]
    sire, dam = (parents + 1).T  # 0 is unknown
    return pd.DataFrame({"id": np.arange(1, n_animals + 1), "sire": sire, "dam": dam})


def timed(name: str, formula: str, data: pd.DataFrame, **options) -> None:
    start = time.perf_counter()
    model = blm.LMM(formula, data, **options)
    made = time.perf_counter() - start
    fit = model.reml()
    seconds = time.perf_counter() - start - made
    found = type(model.problem).__name__
    print(f"{name:<44} {found:<16} {made:6.2f} s  reml {seconds:7.2f} s  {fit.n_evaluations}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--animals", type=int, default=500)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    small = rows(1000, 10)
    blm.LMM("y ~ x + (1 | item)", small, residual="ar1(t | subject)").reml()  # compiles
    data = rows(asked.rows, asked.items)
    ar1 = {"residual": "ar1(t | subject)"}
    timed("ar1 + subjects + items", "y ~ x + (1 | subject) + (1 | item)", data, **ar1)
    timed("ar1 + slopes of subjects + items", "y ~ x + (x | subject) + (1 | item)", data, **ar1)
    animals = pedigree(asked.animals)
    related = {"subject": blm.pedigree_relationship(animals)}
    recorded = rows(asked.animals * VISITS, asked.items)
    timed("ar1 + pedigree", "y ~ x + (1 | subject)", recorded, relationship=related, **ar1)


if __name__ == "__main__":
    main()
