"""Stand-ins in numpy give what the kernels give."""

from __future__ import annotations

import numpy as np
import pytest

from bayeslmm.gaussian import FixedPrior, _criteria
from bayeslmm.gaussian.marginal import with_prior
from tests.conftest import dataset, quietly

MODELS = {
    "slopes": ("sleepstudy", "Reaction ~ Days + (Days | Subject)"),
    "intercepts": ("sleepstudy", "Reaction ~ Days + (1 | Subject)"),
    "three effects": ("machines", "score ~ Machine + (Machine | Worker)"),
    "crossed": ("penicillin", "diameter ~ 1 + (1 | plate) + (1 | sample)"),
    "nested": ("pastes", "strength ~ 1 + (1 | batch / cask)"),
    "crossed slopes": ("machines", "score ~ Machine + (Machine | Worker) + (1 | Worker:Machine)"),
    "160 levels": ("mathachieve", "MathAch ~ SES + (SES | School)"),
}


def _model(key: str, prior: bool = True):
    """Arguments of a marginal criterion, and its free factors at one."""
    name, formula = MODELS[key]
    problem = quietly(formula, dataset(name)).problem
    given = FixedPrior.normal(np.full(problem.p, 2.0), np.diag(np.full(problem.p, 1e4)))
    model = with_prior(problem, given if prior else None)
    F = np.zeros(problem.layout.f_ptr[-1])
    F[problem.theta_index] = 1.0
    return model.kernel_arguments(), F


def _factors(F: np.ndarray, size: float, seed: int) -> np.ndarray:
    return F * np.random.default_rng(seed).normal(1, 0.4, len(F)) * size


def _marginal(function, arguments, L, sigma):
    lay, val, n, weights, prior = arguments
    return function(lay, val, L, sigma, n, weights, prior, True)


@pytest.mark.parametrize("prior", [True, False])
@pytest.mark.parametrize("size", [0.0, 1e-6, 0.3, 40.0, 2e3])
@pytest.mark.parametrize("key", MODELS)
def test_value_and_slopes_are_those_of_the_kernel(key, size, prior):
    arguments, F = _model(key, prior)
    L, sigma = _factors(F, size, 3), 2.5
    found = _marginal(_criteria.marginal_head.plain, arguments, L, sigma)
    expected = _marginal(_criteria.marginal_head, arguments, L, sigma)
    np.testing.assert_allclose(
        found[0], expected[0], rtol=1e-9
    )  # squares of 2000 sds take 7 digits
    # slopes in the covariance matrices, in units of the data's information about them
    scale = np.abs(expected[1]).max() + 1e-12
    np.testing.assert_allclose(found[1], expected[1], atol=1e-8 * scale)
    np.testing.assert_allclose(found[2], expected[2], rtol=1e-8, atol=1e-8 * arguments.n)


@pytest.mark.parametrize("key", MODELS)
def test_draws_are_those_of_the_kernel(key):
    arguments, F = _model(key)
    lay, val, _, _, prior = arguments
    rng, m = np.random.default_rng(1), 7
    L = np.array([_factors(F, size, i) for i, size in enumerate([0.0, 0.01, 0.3, 1, 4, 20, 300])])
    sigma, p = rng.uniform(1, 3, m), val.gram.shape[0] - 1
    z = rng.standard_normal((m, p + len(val.rhs)))
    made = []
    for function in (_criteria.draws_head, _criteria.draws_head.plain):
        fixed, effects = np.empty((m, p)), np.empty((m, len(val.rhs)))
        function(lay, val, L, sigma, prior, z, fixed, effects)
        made.append(np.hstack([fixed, effects]))
    np.testing.assert_allclose(made[1], made[0], rtol=1e-6, atol=1e-7 * np.abs(made[0]).max())


def test_what_cannot_be_factorized_is_nan_of_itself_alone():
    arguments, F = _model("crossed")
    marginal, draws = _criteria.marginal_head.plain, _criteria.draws_head.plain
    lay, val, _, _, prior = arguments
    L, z = np.array([F, np.full_like(F, np.nan), F]), np.zeros((3, 1 + len(val.rhs)))
    fixed, effects = np.empty((3, 1)), np.empty((3, len(val.rhs)))
    with np.errstate(all="ignore"):
        draws(lay, val, L, np.ones(3), prior, z, fixed, effects)
        assert not np.isfinite(_marginal(marginal, arguments, L[1], 1.0)[0])
    assert np.isfinite(fixed[[0, 2]]).all()
    assert np.isnan(fixed[1]).all()


@pytest.mark.parametrize("reml", [True, False])
def test_profiled_statistics_are_those_of_the_kernel(reml):
    rows = np.random.default_rng(2).normal(size=(30, 5))
    S = rows.T @ rows
    found = _criteria.profile_statistics.plain(S, 3.0, 30, 0.5, reml)
    expected = _criteria.profile_statistics(S, 3.0, 30, 0.5, reml)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_columns_that_depend_on_each_other_give_nan():
    S = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 3.0]])
    assert np.isnan(_criteria.profile_statistics.plain(S, 0.0, 9, 0.0, True)[0])
