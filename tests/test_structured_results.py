"""Results beside residual structures, relationships and heavy tails, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import bayeslmm as blm
from bayeslmm.bayes.draws import coefficient_draws
from bayeslmm.bayes.predictive import posterior_predictive
from bayeslmm.results.loo_pit import _predictives, _refitted
from tests.reanalysis.test_structures import KINDS, S0, dense, fitted, relationship, rows

X = np.column_stack([np.ones(32), rows()["x"]])


@pytest.mark.parametrize("kind", list(KINDS))
def test_loo_pit_is_the_conditional_normal_distribution(kind):
    """Of every row given the others, coefficients and effects integrated out in K = V + X S0 X'."""
    fit, y = fitted(kind), rows()["y"].to_numpy()
    means, variances = _predictives(fit, fit.posterior.isel(chain=[0], draw=slice(3)), False)
    for d in range(3):
        K = dense(kind, fit, d) + X @ S0 @ X.T
        for i in range(32):
            rest = np.delete(np.arange(32), i)
            gain = np.linalg.solve(K[np.ix_(rest, rest)], K[rest, i])
            assert means[d, i] == pytest.approx(gain @ y[rest], abs=1e-8)
            assert variances[d, i] == pytest.approx(K[i, i] - gain @ K[rest, i], rel=1e-8)
    tree = fit.loo_pit(exact=False, progressbar=False, random_seed=1)
    pit = tree["loo_pit"]["y"].to_numpy()
    assert np.all((pit > 0) & (pit < 1))
    rough = stats.norm.cdf((y - means) / np.sqrt(variances)).mean(axis=0)
    assert np.corrcoef(pit, rough)[0, 1] > 0.9


def test_loo_pit_refits_rows_beside_a_residual_structure():
    """The exact transform from importance draws without the row agrees with the smoothed one."""
    fit = fitted("ar1")
    smoothed = fit.loo_pit(exact=False, progressbar=False)["loo_pit"]["y"].to_numpy()
    for row in (0, 7):
        assert _refitted(fit, row, -1.0) == pytest.approx(smoothed[row], abs=0.03)


def repeated(fit, d: int, n: int):
    """One draw of a posterior, n times over."""
    return fit.posterior.isel(chain=[0], draw=np.full(n, d)).assign_coords(draw=np.arange(n))


@pytest.mark.parametrize("kind", list(KINDS))
def test_replicated_groups_have_the_covariance_written_out(kind):
    """New groups: effects (related as the fitted ones) and residuals at the groups' own times."""
    fit, n = fitted(kind), 20_000
    found = posterior_predictive(
        fit.model.design, fit.names, repeated(fit, 3, n), groups="new", random_seed=2
    )["y"].to_numpy()[0]
    beta = coefficient_draws(fit.model.design, fit.posterior)[1][0, 3]
    V, gap = dense(kind, fit, 3), found - X @ beta
    size = np.sqrt(np.outer(np.diag(V), np.diag(V)))
    assert np.abs(gap.mean(axis=0) / np.sqrt(np.diag(V))).max() < 5 / np.sqrt(n)
    assert np.abs((gap.T @ gap / n - V) / size).max() < 6 * np.sqrt(2 / n)
    table = fit.predictive_check(groups="new", draws=50, random_seed=1)
    assert table["p"].between(0, 1).all()


def test_replicated_groups_with_heavy_tails():
    """Fourth moments are far above those of the normal where nu is small."""
    data = rows()
    fit = blm.LMM("y ~ x + (1 | g)", data, family="student", random="student").fit(
        draws=20, tune=50, chains=2, random_seed=1, progressbar=False
    )
    n = 40_000
    draw = repeated(fit, 3, n)
    ones = np.ones((1, n))
    draw = draw.assign(
        nu=draw["nu"].copy(data=8.0 * ones), nu_g=draw["nu_g"].copy(data=10.0 * ones)
    )
    found = posterior_predictive(fit.model.design, fit.names, draw, groups="new", random_seed=2)
    beta = coefficient_draws(fit.model.design, fit.posterior)[1][0, 3]
    gap = found["y"].to_numpy()[0] - X @ beta
    sigma, sd = float(draw["sigma"][0, 0]), float(draw["sd_g"].to_numpy().ravel()[0])
    noise, effect = sigma**2 * 8 / 6, sd**2 * 10 / 8
    same = np.equal.outer(data["g"].to_numpy(), data["g"].to_numpy())
    V = noise * np.eye(32) + effect * same
    assert np.abs(gap.T @ gap / n - V).max() < 0.05 * V.max()


def test_a_relationship_is_in_the_test():
    assert np.linalg.cond(relationship()) > 2
