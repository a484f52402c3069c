"""Compiled densities of rows against the same formulas in numpy."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit
from scipy import special, stats

from bayeslmm.parts.families import (
    family_of,
    log_density_draws,
    log_density_rows,
    slope_draws,
    slope_rows,
)
from bayeslmm.parts.families.special import exp, expm1, log, log1p, log1p_unit, mills
from tests.parts.test_families import CASES, PHI, rows


def arguments(name, link, far=False):
    """Family and arguments of kernels, of rows far in both tails if asked."""
    family, phi, y, eta, trials = rows(name, link)
    if far and (link in ("logit", "probit", "cloglog") or (link == "log" and name[0] != "b")):
        reach = {"logit": 750.0, "probit": 45.0, "cloglog": 12.0, "log": 250.0}[link]
        eta = np.random.default_rng(3).uniform(-reach, reach, len(y))
    weights = np.random.default_rng(2).uniform(0.1, 2.0, len(y))
    return family, (family.code, y, trials, weights, eta, phi)


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize(("name", "link"), CASES)
def test_slopes_of_rows_are_those_of_the_family(name, link, far):
    family, given = arguments(name, link, far)
    _, y, trials, weights, eta, phi = given
    out = np.empty((len(y), 4))
    slope_rows(*given, out)
    l0, *slopes = family.slopes(y, eta, phi, trials)
    # each is a sum whose parts are as large as the log density and its constant
    expected = np.stack(np.broadcast_arrays(l0 - family.constant(y, trials), *slopes), axis=1)
    scale = weights[:, None] * (1.0 + np.abs(expected))
    scale[:, 0] += weights * np.abs(family.constant(y, trials))
    scale[:, 1:] += (weights * (np.abs(y) + trials))[:, None]
    np.testing.assert_array_less(np.abs(out - weights[:, None] * expected) / scale, 1e-12)


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize(("name", "link"), CASES)
def test_log_densities_of_rows_are_those_of_the_family(name, link, far):
    family, given = arguments(name, link, far)
    _, y, trials, weights, eta, phi = given
    score, d_phi = np.empty(len(y)), np.full(family.n_phi, np.nan)
    total = log_density_rows(*given, score, d_phi)
    l0, l1, *_ = family.slopes(y, eta, phi, trials)
    rest = family.constant(y, trials)
    size = weights @ (1.0 + np.abs(l0) + np.abs(rest))
    assert abs(total + weights @ rest - weights @ l0) < 1e-12 * size
    scale = weights * (1.0 + np.abs(l1) + np.abs(y) + trials)
    np.testing.assert_array_less(np.abs(score - weights * l1) / scale, 1e-12)
    of_rows = family.phi_slopes(y, eta, phi, trials)[:, 0]
    expected, size = of_rows @ weights, (1.0 + np.abs(of_rows)) @ weights
    np.testing.assert_array_less(np.abs(d_phi - expected) / size, 1e-12)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(("name", "link"), CASES)
def test_draws_have_what_each_of_them_has(name, link, compiled):
    family, (code, y, trials, weights, eta, phi) = arguments(name, link)
    n = len(y)
    weights[0], m = 0.0, 3
    etas, phis = (np.linspace(1.0, 0.9, m)[:, None] * of for of in (eta, phi))
    of_draws = code, y, trials, weights, etas, phis
    values, slopes, one = np.empty((m, n)), np.empty((m, n, 4)), np.empty((n, 4))
    for kernel, out in ((log_density_draws, values), (slope_draws, slopes)):
        with np.errstate(all="ignore"):
            (kernel if compiled else kernel.plain)(*of_draws, out)
    for d in range(m):
        slope_rows(code, y, trials, weights, etas[d], phis[d], one)
        np.testing.assert_allclose(slopes[d], one, rtol=1e-10, atol=1e-11)
        np.testing.assert_allclose(values[d, 1:], one[1:, 0], rtol=1e-10, atol=1e-11)
    np.testing.assert_array_equal(values[:, 0], 0.0)


@pytest.mark.parametrize(("name", "link"), CASES)
def test_what_stands_in_for_kernels_gives_the_same(name, link):
    family, given = arguments(name, link)
    n = len(given[1])
    for kernel, room in (
        (log_density_rows, lambda: (np.empty(n), np.full(family.n_phi, np.nan))),
        (slope_rows, lambda: (np.empty((n, 4)),)),
    ):
        one, other = room(), room()
        total, expected = kernel(*given, *one), kernel.plain(*given, *other)
        if total is not None:
            assert total == pytest.approx(expected, rel=1e-12)
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11)


def test_kernels_are_compiled_once_for_every_family():
    for kernel in (log_density_rows, slope_rows):
        for name in ("bernoulli", *PHI):
            family, given = arguments(name, None)
            n = len(given[1])
            more = (
                (np.empty((n, 4)),)
                if kernel is slope_rows
                else (np.empty(n), np.empty(len(given[-1])))
            )
            kernel(*given, *more)
        assert len(kernel.signatures) == 1


def test_sums_of_sufficient_statistics_are_exact_for_a_constant_predictor():
    """A hundred rows of one predictor: what a calculator gives."""
    y = np.repeat([0.0, 1.0], [70, 30])
    ones, score = np.ones(100), np.empty(100)
    code = family_of("bernoulli").code
    total = log_density_rows(
        code, y, ones, ones, np.full(100, 0.5), np.empty(0), score, np.empty(0)
    )
    assert total == pytest.approx(30 * 0.5 - 100 * np.log1p(np.exp(0.5)), rel=1e-14)
    assert score.sum() == pytest.approx(30 - 100 / (1 + np.exp(-0.5)), rel=1e-13)


def mills_ratio(t):
    return special.ndtr(-t) / stats.norm.pdf(t)


TINY = np.geomspace(1e-18, 1e-3, 999)
FUNCTIONS = {
    "exp": (exp, np.exp, np.linspace(-707.0, 689.0, 9999)),
    "expm1": (expm1, np.expm1, np.concatenate([TINY, -TINY, np.linspace(-9.0, 600.0, 999)])),
    "log": (log, np.log, np.append(np.geomspace(1e-300, 1e300, 9999), np.linspace(0.9, 1.1, 999))),
    "log1p": (log1p, np.log1p, np.concatenate([TINY, -TINY, np.linspace(-0.9, 1e3, 999)])),
    "log1p_unit": (log1p_unit, np.log1p, np.append(TINY, np.linspace(0.0, 1.0, 999))),
    "mills": (mills, mills_ratio, np.linspace(0.0, 5.0, 999)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled_functions_have_all_digits(name):
    function, reference, x = FUNCTIONS[name]

    @njit(error_model="numpy")
    def compiled(x, out):
        for i in range(len(x)):
            out[i] = function(x[i])

    out = np.empty(len(x))
    compiled(x, out)
    # the density of the reference has the rounding of t^2 / 2, up to 12.5
    np.testing.assert_allclose(out, reference(x), rtol=1e-14 if name == "mills" else 1e-15)
    np.testing.assert_allclose(out, function(x), rtol=1e-15)
    compiled(np.array([np.nan]), out)
    assert np.isnan(out[0])


def test_exponentials_stay_finite_and_normal():
    np.testing.assert_allclose(np.log(exp(np.array([1e4, -1e4]))), [690.0, -708.0])
