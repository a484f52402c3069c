"""Residual structures beside crossed and related effects: against the block engine and by parts."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.assembly import factor_rows, structured_problem
from bayeslmm.gaussian.blocks.problem import BlockProblem
from bayeslmm.gaussian.reference import DenseSystem
from bayeslmm.gaussian.system import Theta
from bayeslmm.gaussian.woodbury.problem import WoodburySystem
from bayeslmm.likelihood.absolute import (
    AbsoluteLikelihood,
    absolute_curvature,
    absolute_kenward_roger,
)
from bayeslmm.likelihood.block_derivatives import _natural_parameters
from bayeslmm.likelihood.coordinates import Coordinates
from bayeslmm.likelihood.woodbury_derivatives import woodbury_derivatives


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


def test_the_engine_is_chosen_by_what_an_evaluation_costs():
    many = rows(200, 4, 40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        crossed = blm.LMM("y ~ x + (1 | item)", many, residual="ar1(t | subject)")
        nested = blm.LMM("y ~ x + (x | subject)", many, residual="ar1(t | subject)")
    assert isinstance(crossed.problem, WoodburySystem)
    assert isinstance(nested.problem, BlockProblem)
    assert isinstance(model("ar1").problem, BlockProblem)  # 96 rows


def _pedigree(n: int) -> blm.RelationshipMatrix:
    parents = [(0, 0) if i < 6 else (1 + (i * 7) % (i // 2), 1 + i // 2 + i % 3) for i in range(n)]
    frame = pd.DataFrame(parents, columns=["sire", "dam"])
    frame["id"] = np.arange(1, n + 1)
    return blm.pedigree_relationship(frame.astype(str), monoecious=True)


@cache
def related(residual: str | None, sigma: str | None) -> blm.LMM:
    data = rows().assign(id=np.repeat(np.arange(5, 29), 4).astype(str))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return blm.LMM(
            "y ~ x + (1 | id)", data, residual=residual, sigma=sigma,
            relationship={"id": _pedigree(30)},
        )  # fmt: skip


def test_with_equal_variances_a_pedigree_beside_sigma_is_the_pedigree_alone():
    structured = related(None, "~ arm").problem
    plain = related(None, None).reml()
    natural = Theta(
        plain._solution.Ls[0].ravel() * plain.sigma, np.log([plain.sigma] * 2), np.zeros(0)
    )
    assert structured.solve(natural).value == pytest.approx(plain.loglik, rel=1e-10)
    found = structured.solve(natural)
    np.testing.assert_allclose(found.beta, plain._solution.beta, rtol=1e-8)
    np.testing.assert_allclose(found.b[0], plain._solution.b[0], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("residual", "sigma"), [("ar1(t | id)", None), (None, "~ arm"), ("cs(id)", "~ arm")]
)
def test_kenward_roger_terms_of_related_levels_are_the_definitions(residual, sigma):
    problem = related(residual, sigma).problem
    coordinates = Coordinates(problem)
    theta = coordinates.theta(coordinates.starts()[0])
    terms, _ = woodbury_derivatives(problem, theta, log_linear=False)
    known = related(residual, sigma).design.blocks[0].relationship
    system = DenseSystem(
        problem.columns[np.argsort(problem.blocks.order), -1],
        problem.columns[np.argsort(problem.blocks.order), :-1],
        problem.factors, problem.patterns, problem.structure, problem.group, problem.time,
        problem.scale, problem.weights, (known.dense(),),
    )  # fmt: skip
    F = np.ones_like(theta.F)
    Z = system.columns([f.Z for f in system.factors], [f.codes for f in system.factors], system.n)
    natural = _natural_parameters(problem, theta, False)
    D = [Z @ system.effect_covariance(F) @ Z.T]
    for step, e in zip(natural.steps, np.eye(len(natural.phi)), strict=True):
        up, down = (
            system.residual_covariance(*natural.to_theta(natural.phi + s * step * e))
            for s in (1.0, -1.0)
        )
        D.append((up - down) / (2 * step))
    V = Z @ system.effect_covariance(theta.F) @ Z.T
    W = np.linalg.inv(V + system.residual_covariance(theta.eta, theta.c))
    WD, X = [W @ d for d in D], system.X
    trace = [[np.trace(a @ b) for b in WD] for a in WD]
    np.testing.assert_allclose(terms.trace, trace, rtol=1e-6)
    np.testing.assert_allclose(terms.trace_first, [np.trace(a) for a in WD], rtol=1e-7)
    np.testing.assert_allclose(terms.information, X.T @ W @ X, rtol=1e-9, atol=1e-10)
    P = np.array([X.T @ a @ W @ X for a in WD])
    np.testing.assert_allclose(terms.P, P, rtol=1e-6, atol=1e-8 * np.abs(P).max())
    Q = np.array([[X.T @ a @ b @ W @ X for b in WD] for a in WD])
    np.testing.assert_allclose(terms.Q, Q, rtol=1e-6, atol=1e-8 * np.abs(Q).max())


def test_heritability_of_the_observed_variances():
    fit = related(None, "~ arm").reml()
    found = fit.heritability()
    part = fit.components()["sd(Intercept | id)"] ** 2
    assert part > 0
    assert found["estimate"] == pytest.approx(part / (part + fit.sigma**2), rel=1e-8)
    assert found["lower"] < found["estimate"] < found["upper"]


@pytest.mark.parametrize(("residual", "sigma"), [("ar1(t | id)", None), (None, "~ arm")])
def test_rows_given_move_a_likelihood_fit_as_the_joint_normal_says(residual, sigma):
    fit = related(residual, sigma).reml()
    new = pd.DataFrame({"id": "2", "t": [7, 8], "x": [0.0, 1.0], "y": [9.0, 8.0], "arm": "a"})
    twin = fit._given(new)
    design, rows_of = twin.design, twin.design.residual.rows
    problem = fit._problem
    dense = DenseSystem(
        design.y, design.X, tuple(factor_rows(design)), problem.patterns, problem.structure,
        rows_of.group, rows_of.time, rows_of.scale, None,
        (design.blocks[0].relationship.dense(),),
    )  # fmt: skip
    expected = dense.solve(fit._engine.natural(fit._solution))
    np.testing.assert_allclose(twin._solution.beta, expected.beta, rtol=1e-8)
    np.testing.assert_allclose(twin._solution.b[0], expected.b[0], rtol=1e-7, atol=1e-9)
    assert np.all(np.isfinite(fit.predict(new, given=new)["estimate"]))


def test_a_known_sigma_beside_a_structure_is_refused_by_likelihood():
    data = rows()
    lmm = blm.LMM(
        "y ~ x", data, residual="ar1(t | subject)", priors={"sigma": blm.Prior("Fixed", value=1.0)}
    )
    with pytest.raises(blm.PriorError, match="sigma has a fixed value"):
        lmm.reml()


def test_a_column_with_the_name_of_a_residual_parameter_is_refused():
    data = rows().rename(columns={"x": "rho"})
    with pytest.raises(blm.PriorError, match="rename the column"):
        blm.LMM("y ~ rho", data, residual="ar1(t | subject)")


def test_range_is_a_distance():
    with pytest.raises(blm.PriorError, match="range is a distance in time"):
        blm.LMM(
            "y ~ x", rows(), residual="car1(t | subject)",
            priors={"range": blm.Prior("Normal", mu=0, sigma=1)},
        )  # fmt: skip
