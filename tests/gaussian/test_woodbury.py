"""Residual structures beside crossed and related effects: against the block engine and by parts."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.assembly import structured_problem
from bayeslmm.gaussian.blocks.problem import BlockProblem
from bayeslmm.gaussian.system import Theta
from bayeslmm.gaussian.woodbury.problem import WoodburySystem
from bayeslmm.likelihood.absolute import (
    AbsoluteLikelihood,
    absolute_curvature,
    absolute_kenward_roger,
)
from bayeslmm.likelihood.coordinates import Coordinates


@cache
def rows(n_subjects: int = 24, visits: int = 4, n_items: int = 6) -> pd.DataFrame:
    """Subjects who meet some of the items, one per visit."""
    rng = np.random.default_rng(3)
    n = n_subjects * visits
    subject, t = np.repeat(np.arange(n_subjects), visits), np.tile(np.arange(visits), n_subjects)
    item, x = rng.integers(0, n_items, n), rng.normal(size=n)
    noise = rng.normal(size=(n_subjects, visits))
    for visit in range(1, visits):
        noise[:, visit] = 0.6 * noise[:, visit - 1] + 0.8 * noise[:, visit]
    y = 4 + x + rng.normal(size=n_subjects)[subject] + rng.normal(size=n_items)[item]
    arm = np.where(subject % 2, "b", "a")
    data = pd.DataFrame({"x": x, "t": t, "arm": arm, "y": y + noise.ravel()})
    data["subject"], data["item"] = [f"s{i:03d}" for i in subject], [f"i{i:03d}" for i in item]
    return data


#: formula, options
DESIGNS = {
    "ar1": ("y ~ x + (1 | subject) + (1 | item)", {"residual": "ar1(t | subject)"}),
    "unstructured": ("y ~ x + arm + (1 | item)", {"residual": "unstructured(t | subject)"}),
    "cs": ("y ~ x + (1 | item)", {"residual": "cs(subject)"}),
    "slopes": ("y ~ x + (x | subject) + (1 | item)", {"residual": "ar1(t | subject)"}),
    "sigma": (
        "y ~ x + (1 | item)",
        {"residual": "toeplitz(t | subject)", "sigma": "~ arm"},
    ),
}

designs = pytest.mark.parametrize("key", DESIGNS)


@cache
def model(key: str) -> blm.LMM:
    formula, options = DESIGNS[key]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return blm.LMM(formula, rows(), **options)


@cache
def routes(key: str) -> tuple[WoodburySystem, BlockProblem]:
    design = model(key).design
    problems = tuple(structured_problem(design, route=route) for route in ("woodbury", "blocks"))
    assert isinstance(problems[0], WoodburySystem)
    assert isinstance(problems[1], BlockProblem)
    return problems


def engine(key: str, problem) -> AbsoluteLikelihood:
    design = model(key).design
    return AbsoluteLikelihood(design, problem, np.arange(len(design.coef_names)))


@designs
@pytest.mark.parametrize("reml", [True, False])
def test_the_optimum_is_that_of_dense_blocks(key, reml):
    ours, theirs = (engine(key, p).optimize(reml=reml) for p in routes(key))
    assert ours.criterion == pytest.approx(theirs.criterion, rel=1e-8)
    solutions = [
        engine(key, p).solution(found.theta, reml)
        for p, found in zip(routes(key), (ours, theirs), strict=True)
    ]
    np.testing.assert_allclose(solutions[0].beta, solutions[1].beta, rtol=1e-4, atol=1e-5)


def _near(key: str) -> np.ndarray:
    coordinates = Coordinates(routes(key)[1])
    x = coordinates.starts()[0]
    return x + 0.1 * np.random.default_rng(4).normal(size=len(x))


@designs
def test_degrees_of_freedom_are_those_of_dense_blocks(key):
    x = _near(key)
    theta = Coordinates(routes(key)[1]).theta(x)
    ours, theirs = (absolute_kenward_roger(p, theta) for p in routes(key))
    np.testing.assert_allclose(ours.adjusted, theirs.adjusted, rtol=1e-6, atol=1e-10)
    L = np.eye(len(model(key).design.coef_names))
    np.testing.assert_allclose(ours.df(L), theirs.df(L), rtol=1e-5)
    ours, theirs = (absolute_curvature(p, x, reml=True) for p in routes(key))
    scale = np.abs(theirs.hessian).max()
    np.testing.assert_allclose(ours.hessian, theirs.hessian, rtol=1e-5, atol=1e-7 * scale)


@designs
def test_log_linear_and_vanished_effects(key):
    theta = Coordinates(routes(key)[1]).theta(_near(key))
    for F in (theta.F, np.zeros_like(theta.F)):
        at = Theta(F, theta.eta, theta.c)
        ours, theirs = (absolute_kenward_roger(p, at, log_linear=True) for p in routes(key))
        np.testing.assert_allclose(ours.adjusted, theirs.adjusted, rtol=1e-6, atol=1e-10)
