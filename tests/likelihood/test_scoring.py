"""Search of large models: where it starts, how it goes on, that it ends where others do."""

import numpy as np
import pytest

from bayeslmm.gaussian import (
    CrossProducts,
    FactorRows,
    prepare,
    profiled_criterion_and_gradient,
)
from bayeslmm.likelihood import optimize as search
from bayeslmm.likelihood.optimize import optimize
from bayeslmm.likelihood.scoring import descent, moment_start, scoring_pays
from bayeslmm.parts.patterns import CovariancePattern, pack_theta


def problem(patterns, sds, *, seed=0, n=9_000, nested=False, weighted=False):
    """1,000 levels of the first factor and 150 of the second, which crosses it or contains it."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 1_000, n)
    second = first % 150 if nested else rng.integers(0, 150, n)
    x = rng.normal(size=n)
    Z = np.column_stack([np.ones(n), x])
    w = rng.uniform(0.5, 2.0, n) if weighted else np.ones(n)
    y = x + rng.normal(size=n) / np.sqrt(w)
    rows = []
    for codes, J, pattern, sd in zip((first, second), (1_000, 150), patterns, sds, strict=True):
        columns = Z[:, : pattern.q]
        y += np.sum(columns * (rng.normal(size=(J, pattern.q)) * sd)[codes], axis=1)
        rows.append(FactorRows(codes, columns, J))
    cp = CrossProducts.from_rows(y, Z, rows, w if weighted else None)
    return prepare(cp, patterns)


SCALAR, FULL, APART = (
    CovariancePattern.full(1),
    CovariancePattern.full(2),
    CovariancePattern.diagonal(2),
)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("patterns", [(SCALAR, SCALAR), (APART, SCALAR), (FULL, SCALAR)])
def test_large_models_reach_the_same_optimum_in_half_the_evaluations(
    monkeypatch, patterns, nested, weighted, reml
):
    model = problem(patterns, (0.6, 0.4), nested=nested, weighted=weighted)
    assert scoring_pays(model)
    found = optimize(model, reml=reml)
    monkeypatch.setattr(search, "scoring_pays", lambda _: False)
    expected = optimize(model, reml=reml)
    assert found.converged
    assert found.criterion == pytest.approx(expected.criterion, rel=1e-11)
    np.testing.assert_allclose(found.theta, expected.theta, rtol=2e-4, atol=2e-4)
    assert 2 * found.n_evaluations <= expected.n_evaluations


def test_a_search_from_afar_ends_at_the_same_optimum():
    model = problem((SCALAR, SCALAR), (0.6, 0.4))
    expected = optimize(model)
    for start in ([8.0, 0.02], [0.02, 8.0], [5.0, 5.0]):
        found = optimize(model, start=np.array(start))
        assert found.criterion == pytest.approx(expected.criterion, rel=1e-11)


def test_a_variance_of_zero_is_found_to_be_zero(monkeypatch):
    model = problem((SCALAR, SCALAR), (0.6, 0.0), seed=3)
    found = optimize(model)
    monkeypatch.setattr(search, "scoring_pays", lambda _: False)
    expected = optimize(model)
    assert expected.theta[1] == 0.0
    assert found.theta[1] == 0.0
    assert found.theta[0] == pytest.approx(expected.theta[0], rel=1e-4)
    assert found.criterion == pytest.approx(expected.criterion, rel=1e-11)


def test_the_start_is_near_the_truth_whether_levels_cross_or_nest():
    for nested in (True, False):
        start = moment_start(problem((FULL, SCALAR), (0.8, 0.6), nested=nested))
        # off by at most 0.08 for other seeds; the outer levels alone would say 0.9 where they nest
        np.testing.assert_allclose(start, [0.8, 0.0, 0.8, 0.6], atol=0.15)
        assert start[1] == 0.0


def test_a_step_that_raises_the_criterion_is_shortened():
    model = problem((SCALAR, SCALAR), (0.6, 0.4))
    values = []

    def evaluate(theta):
        value, gradient = profiled_criterion_and_gradient(model, theta)
        values.append(value)
        return value, gradient, np.diag([300.0, 100.0])  # much too flat

    start = pack_theta(model.patterns, [np.array([[1.5]]), np.array([[0.2]])])
    theta, value, _ = descent(evaluate, start, np.full(2, 1e-4))
    assert np.any(np.diff(values) > 0)
    assert value < values[0]
    assert value == profiled_criterion_and_gradient(model, theta)[0]
