"""Fits with residual structures: inference, predictions, simulation, files, and refusals."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bayeslmm as blm
from tests.bayes.test_residual_posterior import MODELS, frame, model
from tests.conftest import dataset, quietly
from tests.dense_residuals import dense_residual_covariance

pytestmark = pytest.mark.usefixtures("one_blas_thread")


def _quiet(run):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run()


@cache
def reml(key: str):
    return _quiet(model(key).reml)


@cache
def posterior(key: str):
    options = {"draws": 100, "chains": 2, "method": "importance"}
    return _quiet(lambda: model(key).fit(random_seed=3, progressbar=False, **options))


def _dense(fit):
    """V, X and y of a fit."""
    design, theta = fit.design, fit._engine.natural(fit._solution)
    V = dense_residual_covariance(design, theta.eta, theta.c)
    for block, Sigma in zip(design.blocks, fit._solution.Sigmas, strict=True):
        V = V + (block.codes[:, None] == block.codes) * (block.Z @ Sigma @ block.Z.T)
    return V, design.X, design.y - design.offset


# -- the ordinary model as a special case


def test_one_variance_and_no_correlation_is_the_ordinary_model():
    data = dataset("sleepstudy")
    formula = "Reaction ~ Days + (Days | Subject)"
    plain = blm.LMM(formula, data).reml()
    other = blm.LMM(formula, data, sigma="~ 1").reml()
    assert other.loglik == pytest.approx(plain.loglik, rel=1e-10)
    for table in ("varcomp", "ranef", "coef"):
        ours, theirs = getattr(other, table)(), getattr(plain, table)()
        numbers = ours.select_dtypes("number").columns
        np.testing.assert_allclose(ours[numbers], theirs[numbers], rtol=1e-4, atol=1e-4)
    for ddf in ("satterthwaite", "kenward-roger"):
        # a p-value of 1e-17 magnifies what is left of the optimum's tolerance
        np.testing.assert_allclose(other.fixef(ddf), plain.fixef(ddf), rtol=1e-4)
        np.testing.assert_allclose(other.anova(ddf=ddf), plain.anova(ddf=ddf), rtol=1e-4)
    for random in ("conditional", "population", "new"):
        ours, theirs = (f.predict(random=random, kind="response") for f in (other, plain))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    np.testing.assert_allclose(other.r2(), plain.r2(), rtol=1e-5)
    np.testing.assert_allclose(other.icc(), plain.icc(), rtol=1e-5)
    np.testing.assert_allclose(other.implied_covariance(), plain.implied_covariance(), rtol=1e-4)
    ours, theirs = (
        f.confint(parameters=["Days", "sigma", "sd(Days | Subject)"], progressbar=False)
        for f in (other, plain)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_compound_symmetry_is_a_random_intercept_where_rho_is_positive():
    data = dataset("orthodont")
    cs = blm.LMM("distance ~ age", data, residual="cs(Subject)").reml()
    plain = blm.LMM("distance ~ age + (1 | Subject)", data).reml()
    assert cs.loglik == pytest.approx(plain.loglik, rel=1e-9)
    np.testing.assert_allclose(cs.implied_covariance(), plain.implied_covariance(), rtol=1e-4)
    # linear in its parameters either way: the same adjustment and degrees of freedom
    np.testing.assert_allclose(
        cs.fixef("kenward-roger"), plain.fixef("kenward-roger"), rtol=1e-5, atol=1e-12
    )
    np.testing.assert_allclose(cs.fixef(), plain.fixef(), rtol=1e-4, atol=1e-12)


# -- estimates against dense formulas


@pytest.mark.parametrize("key", MODELS)
def test_estimates_are_generalized_least_squares(key):
    fit = reml(key)
    V, X, y = _dense(fit)
    X = X[:, fit.kept]
    inverse = np.linalg.inv(V)
    Phi = np.linalg.inv(X.T @ inverse @ X)
    beta = Phi @ X.T @ inverse @ y
    np.testing.assert_allclose(fit.fixef("normal")["estimate"], beta, rtol=1e-7)
    np.testing.assert_allclose(fit.vcov, Phi, rtol=1e-6, atol=1e-12)
    for block, Sigma in zip(fit.design.blocks, fit._solution.Sigmas, strict=True):
        table = fit.ranef(block.name)
        for level in (0, block.n_levels - 1):
            Z = block.Z * (block.codes == level)[:, None]
            mode = Sigma @ Z.T @ inverse @ (y - X @ beta)
            spread = Sigma - Sigma @ Z.T @ inverse @ Z @ Sigma
            q = block.n_effects
            rows = table.iloc[level * q : (level + 1) * q]
            np.testing.assert_allclose(rows["estimate"], mode, rtol=1e-6, atol=1e-9)
            sd = np.sqrt(np.maximum(np.diag(spread), 0))
            np.testing.assert_allclose(rows["sd"], sd, rtol=1e-6, atol=1e-6)
    white = fit.whiten(y - X @ beta)
    R = dense_residual_covariance(
        fit.design, fit._engine.natural(fit._solution).eta, fit._engine.natural(fit._solution).c
    )
    gap = y - X @ beta
    assert white @ white == pytest.approx(gap @ np.linalg.solve(R, gap), rel=1e-8)
    np.testing.assert_allclose(fit.residual_noise(white), gap, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("key", ["ar1, slopes, cells", "cells"])
def test_conditional_predictions_have_the_kriging_variance(key):
    fit = reml(key)
    V, X, _ = _dense(fit)
    X = X[:, fit.kept]
    inverse = np.linalg.inv(V)
    Phi = np.linalg.inv(X.T @ inverse @ X)
    C = np.zeros_like(V)
    for block, Sigma in zip(fit.design.blocks, fit._solution.Sigmas, strict=True):
        C += (block.codes[:, None] == block.codes) * (block.Z @ Sigma @ block.Z.T)
    rest = X - C @ inverse @ X
    expected = np.diag(C - C @ inverse @ C + rest @ Phi @ rest.T)
    found = fit.predict()["se"] ** 2
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(fit.predict()["estimate"], fit.fitted(), rtol=1e-12)
    new = fit.predict(frame().head(4), kind="response")
    own = fit.predict(kind="response").iloc[:4]
    if fit.design.weights is None:
        np.testing.assert_allclose(new, own, rtol=1e-9)


# -- Kenward-Roger against n x n matrices


def _brute_kenward_roger(fit, covariance, phi):
    """Adjusted covariance and df by Kenward and Roger (1997), dense, derivatives by differences."""
    V, X, _ = _dense(fit)
    X = X[:, fit.kept]
    np.testing.assert_allclose(covariance(phi), V, rtol=1e-8, atol=1e-10)
    r, steps = len(phi), 1e-4 * np.maximum(np.abs(phi), 0.1)
    eye = np.diag(steps)
    first = [(covariance(phi + e) - covariance(phi - e)) / (2 * e.sum()) for e in eye]
    inverse = np.linalg.inv(V)
    Phi = np.linalg.inv(X.T @ inverse @ X)
    G = inverse - inverse @ X @ Phi @ X.T @ inverse
    W = np.linalg.inv([[0.5 * np.trace(G @ A @ G @ B) for B in first] for A in first])
    P = [X.T @ inverse @ A @ inverse @ X for A in first]
    inner = np.zeros_like(Phi)
    for i in range(r):
        for j in range(r):
            Q = X.T @ inverse @ first[i] @ inverse @ first[j] @ inverse @ X
            a, b = eye[i], eye[j]
            D = covariance(phi + a + b) - covariance(phi + a - b) - covariance(phi - a + b)
            D = (D + covariance(phi - a - b)) / (4 * a.sum() * b.sum())
            R = X.T @ inverse @ D @ inverse @ X
            inner += W[i, j] * (Q - P[i] @ Phi @ P[j] - R / 4)
    return Phi + 2 * Phi @ inner @ Phi, W, P, Phi


def _natural(fit):
    """The parameters documented for Kenward-Roger, and V as a function of them."""
    design, theta, residual = fit.design, fit._engine.natural(fit._solution), fit.design.residual
    Sigmas = fit._solution.Sigmas
    lower = [pattern.entries for pattern in fit._problem.patterns]
    effects = [S[e] for S, e in zip(Sigmas, lower, strict=True)]
    sd = np.exp(theta.eta)
    T = len(residual.times)
    pairs = np.tril_indices(T)
    if T and residual.variance.kind == "cells":
        own = (theta.c.reshape(T, T) * np.outer(sd, sd))[pairs]
    elif residual.kind == "cs" and residual.variance.kind == "one":
        own = np.array([sd[0] ** 2, sd[0] ** 2 * theta.c[0]])
    elif residual.variance.kind == "log-linear":
        own = np.concatenate([theta.eta, theta.c])
    elif T:
        own = np.concatenate([sd**2, theta.c.reshape(T, T)[np.tril_indices(T, -1)]])
    else:
        own = np.concatenate([sd**2, theta.c])

    def covariance(phi):
        V, at = np.zeros((design.n_rows, design.n_rows)), 0
        for block, (a, b) in zip(design.blocks, lower, strict=True):
            S = np.zeros((block.n_effects, block.n_effects))
            S[a, b] = S[b, a] = phi[at : at + len(a)]
            at += len(a)
            V += (block.codes[:, None] == block.codes) * (block.Z @ S @ block.Z.T)
        part, s = phi[at:], len(theta.eta)
        if T and residual.variance.kind == "cells":
            S = np.zeros((T, T))
            S[pairs] = part
            S = S + np.tril(S, -1).T
            root = np.sqrt(np.diag(S))
            eta, c = np.log(root), (S / np.outer(root, root)).ravel()
        elif residual.kind == "cs" and residual.variance.kind == "one":
            eta, c = 0.5 * np.log(part[:1]), part[1:] / part[:1]
        else:
            log_linear = residual.variance.kind == "log-linear"
            eta = part[:s] if log_linear else 0.5 * np.log(part[:s])
            c = part[s:]
            if T:
                C = np.eye(T)
                C[np.tril_indices(T, -1)] = c
                c = (C + np.tril(C, -1).T).ravel()
        return V + dense_residual_covariance(design, eta, c)

    return np.concatenate([*effects, own]), covariance


@pytest.mark.parametrize("key", MODELS)
def test_kenward_roger_equals_n_by_n_matrices(key):
    fit = reml(key)
    phi, covariance = _natural(fit)
    adjusted, W, P, Phi = _brute_kenward_roger(fit, covariance, phi)
    found = _quiet(lambda: fit._kenward_roger)
    assert not fit.singular
    np.testing.assert_allclose(found.vcov, adjusted, rtol=1e-5, atol=1e-8 * abs(adjusted).max())
    for j in range(len(Phi)):
        # one coefficient: df = 2 / A2 with the exact moments of Kenward and Roger, section 3
        ell = np.eye(len(Phi))[j]
        Theta = np.outer(ell, ell) / (ell @ Phi @ ell)
        traces = np.array([np.trace(Theta @ Phi @ A @ Phi) for A in P])
        A = traces @ W @ traces  # A1 = A2 for one contrast
        expected = 2 / A
        assert found.df(ell)[0] == pytest.approx(expected, rel=1e-5)


def test_satterthwaite_does_not_depend_on_the_coordinates():
    """2 v^2 / Var(v) with derivatives in natural parameters equals that in unbounded ones."""
    fit = reml("unstructured")
    phi, covariance = _natural(fit)
    _, X, y = _dense(fit)

    def deviance(p):
        V = covariance(p)
        inverse = np.linalg.inv(V)
        A = X.T @ inverse @ X
        gap = y - X @ np.linalg.solve(A, X.T @ inverse @ y)
        return np.linalg.slogdet(V)[1] + np.linalg.slogdet(A)[1] + gap @ inverse @ gap

    def variance(p):
        return np.diag(np.linalg.inv(X.T @ np.linalg.inv(covariance(p)) @ X))

    eye = 1e-3 * np.eye(len(phi))
    H = [
        [
            (deviance(phi + a + b) - deviance(phi + a - b) - deviance(phi - a + b)
             + deviance(phi - a - b)) / 4e-6
            for b in eye
        ]
        for a in eye
    ]  # fmt: skip
    slopes = np.array([(variance(phi + a) - variance(phi - a)) / 2e-3 for a in eye])
    spread = np.einsum("ij,ik,kj->j", slopes, 2 * np.linalg.inv(H), slopes)
    np.testing.assert_allclose(fit.fixef()["df"], 2 * variance(phi) ** 2 / spread, rtol=1e-3)


# -- what else a fit says


@pytest.mark.parametrize("key", MODELS)
def test_every_method_of_a_likelihood_fit_works(key):
    fit = reml(key)
    assert np.isfinite(fit.loglik)
    assert set(fit.components().index) == set(fit.varcomp().index)
    table = fit.varcomp().dropna()
    assert ((table["lower"] < table["estimate"]) & (table["estimate"] < table["upper"])).all()
    assert fit.anova().shape == (1, 4)
    assert fit.residuals(kind="normalized").std() == pytest.approx(1.0, abs=0.5)
    for random in ("conditional", "population", "new"):
        assert (fit.predict(random=random, kind="response")["se"] > 0).all()
    V = fit.implied_covariance()
    assert np.linalg.eigvalsh(V.to_numpy())[0] > 0
    np.testing.assert_allclose(np.diag(fit.implied_correlation()), 1.0)
    assert 0 <= fit.r2()["marginal"] <= 1
    assert fit.confint("wald").shape[1] == 3
    text = _quiet(lambda: fit.describe("kenward-roger"))
    assert "REML fit" in text
    assert "Residuals:" in repr(model(key))


def test_simulated_responses_have_the_fitted_covariance():
    fit = reml("ar1, slopes, cells")
    V, _, _ = _dense(fit)
    draws = fit.simulate(4000, random_seed=1).to_numpy()
    found = np.cov(draws)
    # standard errors of a covariance from 4,000 draws; 1,500 entries: 6 of them are never exceeded
    error = np.sqrt((np.outer(np.diag(V), np.diag(V)) + V**2) / 4000)
    assert np.abs((found - V) / error).max() < 6.5


def test_refits_and_bootstrap_recover_the_estimates():
    fit = reml("ar1")
    again = fit.refit(fit.design.y)
    assert again.loglik == pytest.approx(fit.loglik, rel=1e-10)
    table = fit.confint("bootstrap", n_sims=20, random_seed=1, progressbar=False)
    assert list(table.index) == ["Intercept", "x", "sigma", "rho"]
    assert (table["lower"] < table["upper"]).all()


def test_profiles_of_two_kinds_agree():
    """A correlation held by putting its times first, and by a Lagrangian, has one interval."""
    from bayeslmm.likelihood.absolute_profile import constrained_deviance

    fit = _quiet(model("unstructured").ml)
    engine, component = fit._engine, fit._engine.components[-1]
    assert component.at == (2, 3)
    exact = engine.component_profile(fit._solution, component)
    general = constrained_deviance(engine, fit.theta, component, fit.sigma)
    for value in (0.2,):
        assert exact(value) == pytest.approx(general(value), abs=1e-5)


def test_likelihood_ratio_tests_know_what_is_nested():
    data = frame()
    plain = quietly("y ~ x", data, sigma="~ 1").reml()
    ar1, cs = reml("ar1"), quietly("y ~ x", data, residual="cs(g)").reml()
    full = quietly("y ~ x", data, residual="unstructured(t | g)").reml()
    table = blm.likelihood_ratio_test(plain, ar1)
    assert table["df"].iloc[1] == 1
    assert blm.likelihood_ratio_test(ar1, full)["df"].iloc[1] == 8
    table = blm.likelihood_ratio_test(
        plain, ar1, method="bootstrap", n_sims=5, random_seed=1, progressbar=False
    )
    assert 0 < table["p"].iloc[1] <= 1
    slopes = quietly("y ~ x + (1 | g)", data, residual="ar1(t | g)").reml()
    with pytest.raises(ValueError, match="not nested"):
        blm.likelihood_ratio_test(cs, slopes)


def test_estimates_far_from_zero_lose_no_digits():
    data = frame().assign(y=frame()["y"] + 1e9, x=frame()["x"] + 1e5)
    far = quietly("y ~ x", data, residual="ar1(t | g)").reml()
    assert far.loglik == pytest.approx(reml("ar1").loglik, rel=1e-5)
    assert far.components()["rho"] == pytest.approx(reml("ar1").components()["rho"], abs=1e-4)


def test_a_limit_that_is_reached_is_reported():
    rng = np.random.default_rng(0)
    e = rng.normal(size=(12, 2))
    data = pd.DataFrame({"g": np.repeat(np.arange(12), 2), "y": (e - e[:, ::-1]).ravel()})
    data["y"] += 1e-3 * rng.normal(size=24)
    with pytest.warns(blm.ModelWarning, match="lower limit -1"):
        fit = blm.LMM("y ~ 1", data, residual="cs(g)").reml()
    assert fit.singular
    assert np.isnan(fit.varcomp().loc["rho", "se"])


def test_a_vanishing_random_effect_beside_a_correlation_is_exactly_zero():
    rng = np.random.default_rng(3)
    data = pd.DataFrame({"g": np.repeat(np.arange(20), 6), "t": np.tile(np.arange(6), 20)})
    data["y"] = rng.normal(size=120) - data.groupby("g")["t"].transform("mean")
    data["y"] -= data.groupby("g")["y"].transform("mean")
    with pytest.warns(blm.ModelWarning, match="estimated as 0"):
        fit = blm.LMM("y ~ 1 + (1 | g)", data, residual="ar1(t | g)").reml()
    assert fit.components()["sd(Intercept | g)"] == 0


# -- posterior results


@pytest.mark.parametrize("key", ["ar1, slopes, cells", "cs", "unstructured"])
def test_every_method_of_a_posterior_works(key, tmp_path):
    post, lmm = posterior(key), model(key)
    assert set(post.varcomp().index) == set(reml(key).components().index)
    assert ("log_likelihood" in post.idata.children) == (lmm.design.residual.kind == "independent")
    tree = post.posterior_predictive(draws=20, random_seed=1)
    assert tree["posterior_predictive"]["y"].shape == (2, 20, lmm.design.n_rows)
    assert np.linalg.eigvalsh(post.implied_covariance().to_numpy())[0] > 0
    assert post.predict(random="population", kind="response", random_seed=1).shape[1] == 4
    assert np.isfinite(post.residuals(kind="normalized")).all()
    assert post.r2().loc["conditional", "mean"] <= 1
    if lmm.design.weights is None:
        post.save(tmp_path / "fit.nc")
        loaded = blm.load(tmp_path / "fit.nc")
        pd.testing.assert_frame_equal(loaded.varcomp(), post.varcomp())
        assert loaded.model.design.residual.describe() == lmm.design.residual.describe()
        assert loaded.model.reml().loglik == pytest.approx(reml(key).loglik, rel=1e-9)


@pytest.mark.parametrize("key", ["ar1, slopes, cells", "unstructured"])
def test_leave_one_out_is_the_dense_conditional_density(key):
    from bayeslmm.bayes.coefficients import fixed_prior
    from bayeslmm.results.estimates import posterior_estimates
    from bayeslmm.results.left_out import group_densities, row_densities

    post, lmm = posterior(key), model(key)
    design = lmm.design
    small = post.posterior.isel(chain=[0], draw=[0, 50])
    thetas = posterior_estimates(post, small).theta()
    rows = row_densities(post, thetas, False)
    units = [np.flatnonzero(design.residual.rows.group == g) for g in range(3)]
    groups = group_densities(post, thetas, units, False)
    prior = fixed_prior(design, post.priors)
    S0 = np.linalg.inv(prior.root.T @ prior.root)
    m0 = S0 @ prior.root.T @ prior.target
    for d, theta in enumerate(thetas.rows()):
        K = dense_residual_covariance(design, theta.eta, theta.c) + design.X @ S0 @ design.X.T
        for block, Sigma in zip(design.blocks, lmm.problem.covariances(theta.F), strict=True):
            K += (block.codes[:, None] == block.codes) * (block.Z @ Sigma @ block.Z.T)
        gap = design.y - design.offset - design.X @ m0
        for found, unit in [(rows[d, 5], np.array([5])), (groups[d, 2], units[2])]:
            rest = np.setdiff1d(np.arange(len(gap)), unit)
            A = np.linalg.solve(K[np.ix_(rest, rest)], K[np.ix_(rest, unit)])
            cov = K[np.ix_(unit, unit)] - K[np.ix_(unit, rest)] @ A
            expected = stats.multivariate_normal(gap[rest] @ A, cov).logpdf(gap[unit])
            assert found == pytest.approx(expected, rel=1e-6)


def test_loo_of_rows_and_groups_runs_and_the_conditional_one_is_refused():
    post = posterior("ar1, slopes, cells")
    rows = post.loo(draws=50, progressbar=False)
    groups = post.loo("g", draws=25, exact=False, progressbar=False)
    assert np.isfinite(rows.elpd)
    assert np.isfinite(groups.elpd)
    with pytest.raises(blm.SamplingError, match="not independent given"):
        post.loo(conditional=True)


def test_importance_sampling_agrees_with_nuts():
    lmm = model("ar1")
    nuts = _quiet(lambda: lmm.fit(random_seed=1, progressbar=False))
    other = _quiet(lambda: lmm.fit(method="importance", random_seed=2))
    a, b = nuts.varcomp(), other.varcomp()
    # Monte Carlo errors of means, with effective sizes of at least 1,000 each: 6 of them
    error = np.sqrt(a["sd"] ** 2 / 1000 + b["sd"] ** 2 / 1000)
    assert (np.abs(a["mean"] - b["mean"]) < 6 * error).all()
    assert np.isfinite(other.info.log_marginal_likelihood)


def test_posterior_predictive_noise_has_the_residual_covariance():
    from bayeslmm.bayes.residual_draws import residual_noise, whitened

    post = posterior("ar1, slopes, cells")
    one = post.posterior.isel(chain=[0], draw=[7])
    design = post.model.design
    draws = 3000
    repeated = one.isel(draw=np.zeros(draws, dtype=int))
    z = np.random.default_rng(1).standard_normal((1, draws, design.n_rows))
    noise = residual_noise(design, repeated, z)[0]
    from bayeslmm.bayes.residual_draws import residual_parameters

    eta, c = (part[0, 0] for part in residual_parameters(design, one))
    R = dense_residual_covariance(design, eta, c)
    error = np.sqrt((np.outer(np.diag(R), np.diag(R)) + R**2) / draws)
    assert np.abs((np.cov(noise.T) - R) / error).max() < 6.5  # as for simulate
    white = whitened(design, one, noise[0])
    assert white @ white == pytest.approx(noise[0] @ np.linalg.solve(R, noise[0]), rel=1e-8)


def test_draws_of_effects_have_their_conditional_moments():
    from bayeslmm.gaussian import FixedPrior

    fit = reml("ar1, slopes, cells")
    problem, theta = fit._problem, fit._engine.natural(fit._solution)
    m = 6000
    prior = FixedPrior.normal(np.zeros(problem.p), 4.0 * np.eye(problem.p))
    normals = np.random.default_rng(2).standard_normal((m, problem.n_normals))
    tiled = [np.tile(part, (m, 1)) for part in (theta.F, theta.eta, theta.c)]
    beta, effects = problem.draw(*tiled, prior, normals)
    V, X, y = _dense(fit)
    inverse = np.linalg.inv(V)
    P = np.linalg.inv(X.T @ inverse @ X + np.eye(problem.p) / 4.0)
    mean = P @ X.T @ inverse @ y
    # means of 6,000 independent draws, about 40 of them: 6 standard errors
    assert np.abs((beta.mean(0) - mean) / np.sqrt(np.diag(P) / m)).max() < 6
    block, Sigma = fit.design.blocks[0], fit._solution.Sigmas[0]
    for level in range(0, block.n_levels, 4):
        Z = block.Z * (block.codes == level)[:, None]
        A = Sigma @ Z.T @ inverse
        expected = A @ (y - X @ mean)
        cov = Sigma - A @ Z @ Sigma + A @ X @ P @ X.T @ A.T
        found = effects[0][:, level]
        sd = np.sqrt(np.maximum(np.diag(cov), 1e-12))
        assert np.abs((found.mean(0) - expected) / (sd / np.sqrt(m) + 1e-9)).max() < 6
        ratio = found.var(0) / np.maximum(np.diag(cov), 1e-12)
        assert np.abs(ratio - 1).max() < 6 * np.sqrt(2 / m) + 1e-6 / sd.min()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "method"),
    [
        ("ar1", "importance"), ("car1", "importance"), ("cs", "importance"),
        ("unstructured", "importance"), ("cells", "importance"), ("log-linear", "importance"),
        ("car1", "nuts"), ("unstructured", "nuts"),
    ],
)  # fmt: skip
def test_the_posterior_is_calibrated(key, method):
    lmm = quietly(MODELS[key][0], frame(), residual=MODELS[key][1], sigma=MODELS[key][2])
    result = blm.sbc(lmm, 150, method=method, random_seed=5, progressbar=False)
    # a right program has uniform p-values: the smallest of some 80 is below 1e-8 with
    # probability 8e-7
    assert result.uniformity()["p"].min() > 1e-8


# -- refusals


def _bad(error, match, formula="y ~ x", data=None, **options):
    with pytest.raises(error, match=match):
        quietly(formula, frame() if data is None else data, **options)


def test_structures_that_cannot_be_read_are_refused():
    _bad(blm.FormulaError, "Cannot read residual", residual="ar1")
    _bad(blm.FormulaError, "no residual structure 'arma'", residual="arma(t | g)")
    _bad(blm.FormulaError, "names no column of times", residual="ar1(g)")
    _bad(blm.FormulaError, "names no group", residual="ar1(t | )")
    _bad(blm.FormulaError, "must be one column", residual="ar1(t + x | g)")
    _bad(blm.FormulaError, "nope", residual="ar1(nope | g)")
    _bad(blm.FormulaError, "one-sided formula", sigma="f")
    _bad(blm.FormulaError, "random terms have no place", sigma="~ (1 | g)")
    _bad(blm.FormulaError, "keeps its intercept", sigma="~ 0 + x")


def test_times_that_do_not_fit_the_structure_are_refused():
    data = frame()
    _bad(blm.DataError, "whole-numbered", residual="ar1(s | g)")
    twice = pd.concat([data, data.head(1)])
    _bad(blm.DataError, "group 'g.*' has two rows at the same t", data=twice, residual="ar1(t | g)")
    text = data.assign(t=data["t"].astype(str))
    _bad(blm.DataError, "needs numbers", data=text, residual="car1(t | g)")
    alone = data.assign(g=np.arange(len(data)))
    _bad(blm.DataError, "single row", data=alone, residual="cs(g)")
    _bad(blm.DataError, "different times", residual="unstructured(s | g)", data=_many_times())
    even = data["g"].str[1:].astype(int) % 2 == 0
    apart = data[(even & (data["t"] != 0)) | (~even & (data["t"] != 3))]
    _bad(blm.DataError, "no group has rows at both", data=apart, residual="unstructured(t | g)")


def _many_times():
    return pd.DataFrame(
        {"g": np.repeat(np.arange(3), 60), "s": np.tile(np.arange(60), 3),
         "y": np.arange(180.0) % 7, "x": np.arange(180.0) % 5}
    )  # fmt: skip


def test_variances_that_are_not_determined_are_refused():
    data = frame().assign(one="a", k=1.5)
    _bad(blm.DataError, "single level", data=data, sigma="~ one")
    _bad(blm.DataError, "constant or linearly dependent", data=data, sigma="~ k")


def test_confounded_random_effects_are_refused_by_likelihood():
    lmm = quietly("y ~ x + (1 | g)", frame(), residual="cs(g)")
    with pytest.raises(blm.DataError, match="cannot tell them apart"):
        lmm.reml()


def test_a_block_too_large_is_refused_with_its_size():
    n = 3200
    data = pd.DataFrame({"g": np.arange(n) // 1600, "t": np.arange(n) % 1600})
    data["y"] = np.random.default_rng(0).normal(size=n)
    lmm = quietly("y ~ 1", data, residual="ar1(t | g)")
    with pytest.raises(blm.DataError, match="g join 1600 rows into one block"):
        lmm.reml()


def test_too_many_crossed_effects_are_refused_with_their_number():
    n = 24_000
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"g": np.arange(n) // 4, "t": np.arange(n) % 4})
    data["i"], data["y"] = rng.integers(0, 7000, n), rng.normal(size=n)
    lmm = quietly("y ~ 1 + (1 | i)", data, residual="ar1(t | g)")
    with pytest.raises(blm.DataError, match="i: [0-9]+ random effects that join groups"):
        lmm.reml()


def test_new_data_without_what_the_structure_needs_are_refused():
    fit = reml("ar1, slopes, cells")
    new = frame().head(3)
    with pytest.raises(blm.FormulaError, match="f"):
        fit.predict(new.drop(columns="f"), random="population", kind="response")
    with pytest.raises(blm.DataError, match="not seen when the model was fitted"):
        fit.predict(new.assign(f="zzz"), random="population", kind="response")
    post = posterior("unstructured")
    with pytest.raises(blm.DataError, match="Time 9"):
        post.implied_covariance(pd.DataFrame({"t": [0, 9], "x": [0.0, 1.0]}))


def test_priors_of_the_structure_are_listed_and_checked():
    lmm = quietly("y ~ x", frame(), residual="cs(g)", sigma="~ x")
    assert {"sigma", "rho", "log_sigma[x]"} <= set(lmm.priors)
    assert lmm.priors["rho"].parameters["lower"] == pytest.approx(-1 / 3)
    with pytest.raises(blm.PriorError, match="rho lies between -0.3333 and 1"):
        lmm.priors["rho"] = blm.Prior("Uniform", lower=-1, upper=1)
    with pytest.raises(blm.PriorError, match="rho lies between"):
        lmm.priors["rho"] = blm.Prior("Normal", mu=0, sigma=1)
    lmm.priors["rho"] = blm.Prior("TruncatedNormal", mu=0.5, sigma=0.2, lower=0, upper=1)
    cells = quietly("y ~ x", frame(), residual="unstructured(t | g)")
    cells.priors["sigma"] = blm.Prior("HalfNormal", sigma=3)
    assert cells.priors["sigma[t=2]"] == blm.Prior("HalfNormal", sigma=3)
    with pytest.raises(blm.PriorError, match="corr"):
        cells.priors["corr(residual)"] = blm.Prior("Normal", mu=0, sigma=1)
    assert "corr(residual)" in cells.priors
