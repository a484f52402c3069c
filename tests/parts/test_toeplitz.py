"""A free correlation for every lag."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy import linalg, optimize, stats

import bayeslmm as blm
from bayeslmm.parts.structures import Toeplitz, make_structure
from tests.bayes.test_marginal import _log_density, _random_point, _value
from tests.bayes.test_residual_posterior import frame
from tests.conftest import quietly
from tests.dense_residuals import dense_residual_covariance

pytestmark = pytest.mark.usefixtures("one_blas_thread")


@cache
def model(formula: str = "y ~ x", sigma: str | None = None) -> blm.LMM:
    return quietly(formula, frame(), residual="toeplitz(t | g)", sigma=sigma)


def test_correlations_of_partial_ones_are_those_of_a_stationary_process():
    """An autoregression's partial autocorrelations vanish beyond its order."""
    made = make_structure("toeplitz", np.zeros(6, int), np.arange(6.0), 0, 6)
    np.testing.assert_allclose(
        made.natural(np.arctanh([0.6, 0, 0, 0, 0])), 0.6 ** np.arange(1, 6), rtol=1e-14
    )
    phi = np.array([0.5, 0.3])  # r1 = phi1 / (1 - phi2), r_k = phi1 r_{k-1} + phi2 r_{k-2}
    r = [1.0, phi[0] / (1 - phi[1])]
    for _ in range(4):
        r.append(phi[0] * r[-1] + phi[1] * r[-2])
    w = np.arctanh([r[1], phi[1], 0, 0, 0])
    np.testing.assert_allclose(made.natural(w), r[1:], rtol=1e-14)
    # the determinant of a Toeplitz correlation matrix is the product of (1 - partial_k^2)^(n - k)
    w = np.random.default_rng(1).normal(size=5)
    C = linalg.toeplitz(np.append(1.0, made.natural(w)))
    expected = np.sum(np.arange(5, 0, -1) * np.log1p(-(np.tanh(w) ** 2)))
    assert np.linalg.slogdet(C)[1] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("formula", "sigma"), [("y ~ x", None), ("y ~ x + (0 + x | g)", "~ f")])
def test_reml_is_the_maximum_of_the_dense_likelihood(formula, sigma):
    lmm = model(formula, sigma)
    fit, design = lmm.reml(), lmm.design
    X, y, s = design.X, design.y - design.offset, design.residual.variance.n

    def deviance(x):
        """-2 restricted log-likelihood at log sds, lag correlations and the effects' sd."""
        if np.linalg.eigvalsh(linalg.toeplitz(np.append(1.0, x[s : s + 3])))[0] <= 0:
            return np.inf
        V = dense_residual_covariance(design, x[:s], x[s : s + 3])
        for block in design.blocks:
            same = block.codes[:, None] == block.codes
            V = V + same * np.outer(block.Z, block.Z) * x[s + 3] ** 2
        inverse = np.linalg.inv(V)
        A = X.T @ inverse @ X
        e = y - X @ np.linalg.solve(A, X.T @ inverse @ y)
        value = np.linalg.slogdet(V)[1] + np.linalg.slogdet(A)[1] + e @ inverse @ e
        return value + (len(y) - X.shape[1]) * np.log(2 * np.pi)

    start = np.concatenate([np.full(s, np.log(y.std())), [0.2, 0.1, 0.0], 0.5 * np.ones(1)])
    start = start[: s + 3 + len(design.blocks)]
    options = {"maxiter": 20_000, "maxfev": 20_000, "xatol": 1e-9, "fatol": 1e-11}
    found = optimize.minimize(deviance, start, method="Nelder-Mead", options=options)
    found = optimize.minimize(deviance, found.x, method="Nelder-Mead", options=options)
    assert -2 * fit.loglik == pytest.approx(found.fun, abs=1e-7)
    components = fit.components()
    lags = [f"corr(lag {k})" for k in (1, 2, 3)]
    np.testing.assert_allclose(components[lags], found.x[s : s + 3], atol=1e-4)
    table = fit.varcomp() if sigma is None else fit.fixef("kenward-roger")
    assert np.isfinite(table.select_dtypes("number").to_numpy(dtype=float)).any()


def test_an_autoregression_is_a_toeplitz_structure():
    ar1 = quietly("y ~ x", frame(), residual="ar1(t | g)").reml()
    problem = model().problem
    theta = problem.structure.natural(np.arctanh([ar1.components()["rho"], 0.0, 0.0]))
    natural = ar1._engine.natural(ar1._solution)
    found = problem.evaluate(replace(natural, c=theta), problem.prior(None))
    assert found.value == pytest.approx(ar1.loglik, rel=1e-10)
    assert model().reml().loglik > ar1.loglik


def test_the_pymc_model_is_the_dense_normal_density():
    lmm = model("y ~ x", "~ f")
    pymc_model = lmm.pymc_model()
    point = _random_point(pymc_model)
    design = lmm.design
    c = _value(pymc_model, "corr_lag", point)
    partial = _value(pymc_model, "partial", point)
    np.testing.assert_allclose(c, lmm.problem.structure.natural(np.arctanh(partial)), rtol=1e-12)
    eta = np.log(_value(pymc_model, "sigma_by", point))
    R = dense_residual_covariance(design, eta, c)
    observed = _log_density(pymc_model, point, vars=pymc_model.observed_RVs)
    names = [v.name for v in pymc_model.value_vars if v.name.startswith("beta")]
    centered = np.concatenate([np.atleast_1d(point[n]) for n in names])
    mean = design.X @ np.linalg.inv(lmm.priors.combinations()) @ centered
    expected = stats.multivariate_normal(mean + design.offset, R).logpdf(design.y)
    assert float(observed) == pytest.approx(expected, rel=1e-10)
    rv = pymc_model["partial"]
    prior = _log_density(pymc_model, point, vars=[rv], jacobian=False)
    assert float(prior) == pytest.approx(-3 * np.log(2.0))  # uniform on (-1, 1)


def test_what_it_refuses():
    data = frame().assign(t=2 * frame()["t"])
    with pytest.raises(blm.DataError, match="no two rows of a group are 1 apart"):
        blm.LMM("y ~ x", data, residual="toeplitz(t | g)")
    with pytest.raises(blm.DataError, match="whole-numbered"):
        blm.LMM("y ~ x", frame(), residual="toeplitz(s | g)")
    long = frame().assign(g="one", t=np.arange(len(frame())))
    with pytest.raises(blm.DataError, match="a correlation of its own"):
        blm.LMM("y ~ x", long, residual="toeplitz(t | g)")
    with pytest.raises(blm.PriorError, match="partial lies between -1 and 1"):
        blm.LMM(
            "y ~ x", frame(), residual="toeplitz(t | g)",
            priors={"partial": blm.Prior("Normal", mu=0, sigma=1)},
        )  # fmt: skip


def test_a_posterior_has_the_lags_correlations():
    lmm = model()
    options = {"draws": 150, "tune": 300, "chains": 2, "progressbar": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few draws
        fit = lmm.fit(random_seed=1, **options)
    c = fit.posterior["corr_lag"].to_numpy()
    assert fit.posterior["corr_lag"].dims == ("chain", "draw", "residual_lag")
    for r in c.reshape(-1, 3):
        assert np.linalg.eigvalsh(linalg.toeplitz(np.append(1.0, r)))[0] > 0
    lags = [f"corr(lag {k})" for k in (1, 2, 3)]
    table = fit.summary()
    np.testing.assert_allclose(table.loc[lags, "mean"], c.mean(axis=(0, 1)), rtol=1e-10)
    assert fit.info.parameterization == "marginal"
    # the likelihood's estimate lies within the posterior: five sds of it, whatever the draws
    gap = np.abs(lmm.reml().components()[lags] - table.loc[lags, "mean"])
    assert (gap < 5 * table.loc[lags, "sd"]).all()


def test_scalars_are_the_inverse_and_the_pullback_is_the_derivative():
    structure = Toeplitz(n_lags=6)
    rng = np.random.default_rng(1)
    w, d_c, step = rng.normal(size=6), rng.normal(size=6), 1e-6
    np.testing.assert_allclose(structure.scalars(structure.natural(w)), np.tanh(w), rtol=1e-12)
    numeric = [
        (structure.natural(w + e) - structure.natural(w - e)) @ d_c / (2 * step)
        for e in step * np.eye(6)
    ]
    np.testing.assert_allclose(structure.pullback(w, d_c), numeric, rtol=1e-6, atol=1e-8)


def test_a_posterior_is_saved_and_goes_on(tmp_path):
    fit = model().fit(method="importance", draws=400, random_seed=1)
    fit.save(tmp_path / "fit.nc")
    back = blm.load(tmp_path / "fit.nc")
    np.testing.assert_array_equal(back.posterior["corr_lag"], fit.posterior["corr_lag"])
    assert back.loo(progressbar=False).elpd == pytest.approx(fit.loo(progressbar=False).elpd)
    interval = model().reml().confint(method="profile").loc["corr(lag 1)"]
    assert -1 < interval["lower"] < interval["estimate"] < interval["upper"] < 1
