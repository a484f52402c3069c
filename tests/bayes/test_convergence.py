"""Effective sample sizes and r-hat are ArviZ's."""

from __future__ import annotations

import numpy as np
import pytest
from arviz_stats.base import array_stats

from bayeslmm.bayes.convergence import convergence


def _autoregression(rho: float, chains: int, n: int, rng: np.random.Generator) -> np.ndarray:
    x = rng.normal(size=(chains, n))
    for t in range(1, n):
        x[:, t] = rho * x[:, t - 1] + np.sqrt(1 - rho**2) * x[:, t]
    return x


def _kinds_of_draws(chains: int, n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(chains * 1000 + n)
    shifted = rng.normal(size=(chains, n)) + np.arange(chains)[:, None]
    return {
        "independent": rng.normal(size=(chains, n)),
        "slow": _autoregression(0.95, chains, n, rng),
        "antithetic": _autoregression(-0.7, chains, n, rng),
        "apart": shifted,
        "one chain wider": rng.normal(size=(chains, n)) * np.r_[3.0, np.ones(chains - 1)][:, None],
        "heavy tails": rng.standard_cauchy(size=(chains, n)),
        "repeated": np.repeat(rng.normal(size=(chains, n // 2 + 1)), 2, axis=1)[:, :n],
        "whole numbers": rng.integers(0, 3, size=(chains, n)).astype(float),
        "trend": np.linspace(0, 1, n) + 0.1 * rng.normal(size=(chains, n)),
        "far from zero": 1e6 + rng.normal(size=(chains, n)),
    }


@pytest.mark.parametrize(("chains", "n"), [(4, 1000), (2, 401), (1, 300), (4, 25), (3, 7), (2, 4)])
def test_sizes_and_r_hat_are_those_of_arviz(chains, n):
    kinds = _kinds_of_draws(chains, n)
    draws = np.stack(list(kinds.values()), axis=-1)
    axes = {"chain_axis": 0, "draw_axis": 1}
    bulk, tail, r_hat = convergence(draws)
    expected = array_stats.ess(draws, **axes)
    np.testing.assert_allclose(bulk, expected, rtol=1e-8, err_msg=str(list(kinds)))
    expected = array_stats.ess(draws, method="tail", prob=(0.05, 0.95), **axes)
    np.testing.assert_allclose(tail, expected, rtol=1e-8, err_msg=str(list(kinds)))
    expected = array_stats.rhat(draws, **axes)
    np.testing.assert_allclose(r_hat, expected, rtol=1e-10, err_msg=str(list(kinds)))


def test_what_does_not_vary_has_no_diagnostics_and_neither_have_three_draws():
    draws = np.random.default_rng(1).normal(size=(4, 50, 3))
    draws[..., 1] = 2.0
    draws[0, 0, 2] = np.nan
    for found in convergence(draws):
        assert np.isfinite(found).tolist() == [True, False, False]
    for found in convergence(draws[:, :3]):
        assert np.isnan(found).all()
