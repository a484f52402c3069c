"""Bayes factors are calibrated where both models are equally likely before.

2 x 2 within-subject and within-item designs with crossed subjects and items, the case in which
Schad and Vasishth (arXiv 2406.08022) find Bayes factors of other packages biased. A varies in its
effect over subjects and items, B and the interaction do not.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from tests.conftest import quietly

FORMULA = "y ~ A + B + AB + (1 + A || subj) + (1 + A || item)"
COEFS = ("A", "B", "AB")


def design(n_subj=10, n_item=8) -> pd.DataFrame:
    """Every subject sees every item once, conditions in a Latin square."""
    subj, item = (v.ravel() for v in np.meshgrid(np.arange(n_subj), np.arange(n_item)))
    cell = (subj + item) % 4
    A, B = np.where(cell < 2, 0.5, -0.5), np.where(cell % 2 == 0, 0.5, -0.5)
    return pd.DataFrame({"A": A, "B": B, "AB": 2 * A * B, "subj": subj, "item": item})


def the_model() -> blm.LMM:
    data = design().assign(y=np.random.default_rng(0).standard_normal(80))
    priors = {
        "Intercept": blm.Prior("Normal", mu=0, sigma=1),
        "beta": blm.Prior("Normal", mu=0, sigma=0.6),
        "sd": blm.Prior("HalfNormal", sigma=0.5),
        "sigma": blm.Prior("HalfNormal", sigma=1),
    }
    return quietly(FORMULA, data, priors=priors)


def simulate(rng: np.random.Generator, tested: str, present: bool) -> np.ndarray:
    """A response from the priors, written out here and not taken from the package."""
    data = design()
    M = np.column_stack([np.ones(len(data)), *(data[c] for c in COEFS)])
    beta = np.array([rng.normal(0, 1), *rng.normal(0, 0.6, 3)])
    if not present:
        beta[1 + COEFS.index(tested)] = 0.0
    y = M @ beta + abs(rng.normal(0, 1)) * rng.standard_normal(len(data))
    for group in ("subj", "item"):
        codes = data[group].to_numpy()
        b = rng.standard_normal((codes.max() + 1, 2)) * np.abs(rng.normal(0, 0.5, 2))
        y += (M[:, :2] * b[codes]).sum(axis=1)
    return y


def run(n: int, seed: int) -> pd.DataFrame:
    model = the_model()

    def one(sim: int) -> tuple[str, bool, float]:
        rng = np.random.default_rng([seed, sim])
        tested, present = ("A", "AB")[sim % 2], bool(rng.random() < 0.5)
        twin = model.with_response(simulate(rng, tested, present))
        found = blm.savage_dickey(twin, tested, curve=False, draws=1000, random_seed=sim)
        return tested, present, found.posterior_probability()

    with ThreadPoolExecutor(2) as pool:
        return pd.DataFrame(list(pool.map(one, range(n))), columns=["tested", "present", "p"])


def deviations(results: pd.DataFrame) -> tuple[float, float]:
    """z statistics of the mean, and of the slope on the log odds, if p is calibrated."""
    p = results["p"].clip(1e-12, 1 - 1e-12).to_numpy()
    gap, variance = results["present"].to_numpy() - p, p * (1 - p)
    odds = np.clip(np.log(p / (1 - p)), -6, 6)
    mean = gap.sum() / np.sqrt(variance.sum())
    slope = (gap * odds).sum() / np.sqrt((variance * odds**2).sum())
    return float(mean), float(slope)


@pytest.mark.slow
def test_posterior_probabilities_of_models_are_calibrated_with_crossed_subjects_and_items():
    """A calibrated program has |z| > 5 less than once in a million runs; with 320 data sets
    evidence overstated by a factor of 3, or log Bayes factors 2.5 times too large, have |z| > 5.
    """
    results = run(320, 20261122)
    mean, slope = deviations(results)
    assert abs(mean) < 5
    assert abs(slope) < 5
    p = results["p"].clip(1e-12, 1 - 1e-12)
    logit = np.log(p / (1 - p))
    for wrong in (logit + np.log(3), logit - np.log(3), 2.5 * logit):
        z = deviations(results.assign(p=1 / (1 + np.exp(-wrong))))
        assert max(map(abs, z)) > 5  # the test would notice
