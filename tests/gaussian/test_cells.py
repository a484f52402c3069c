"""Unequal residual variances from cross-products of cells: dense formulas, and dense blocks."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bayeslmm as blm
from bayeslmm.assembly import covariance_patterns, factor_rows, structured_problem
from bayeslmm.bayes.marginal import marginal_density
from bayeslmm.gaussian import CrossProducts, FixedPrior, analyze, draws_to_user
from bayeslmm.gaussian.blocks.problem import BlockProblem
from bayeslmm.gaussian.cells import derivatives as cell_derivatives
from bayeslmm.gaussian.cells import problem as cells
from bayeslmm.gaussian.cells.problem import CellProblem, prepare_cells
from bayeslmm.likelihood.absolute import absolute_curvature, absolute_kenward_roger
from bayeslmm.likelihood.coordinates import Coordinates
from bayeslmm.likelihood.optimize import AbsoluteSearch
from tests.conftest import quietly
from tests.dense_residuals import dense_residual_covariance

pytestmark = pytest.mark.usefixtures("one_blas_thread")

#: formula, sigma, whether weights
MODELS = {
    "crossed": ("y ~ x + (1 | g) + (1 | h)", "~ f", False),
    "crossed slopes": ("y ~ x + f + (x | g) + (1 | h) + (1 | k)", "~ f", True),
    "uncorrelated, no intercept": ("y ~ 0 + x + (x || g) + (0 + u | h)", "~ f * u", False),
    "nested": ("y ~ x + (1 | g / k)", "~ k", True),
    "one factor": ("y ~ x + (x | g)", "~ f", False),
    "by group": ("y ~ x + (1 | g)", "~ g", False),
    "no random effects": ("y ~ x", "~ f", True),
    "one variance": ("y ~ x + (1 | g) + (1 | h)", "~ 1", False),
    "log-linear": ("y ~ x + (1 | g) + (1 | h)", "~ x + f", True),
}


@cache
def frame() -> pd.DataFrame:
    """160 rows of 12 x 7 crossed levels, three cells, one of them of two rows."""
    rng = np.random.default_rng(11)
    n = 160
    data = pd.DataFrame({"g": rng.integers(0, 12, n), "h": rng.integers(0, 7, n)}).astype(str)
    data["k"] = rng.choice(list("pqr"), n)
    data["u"] = rng.choice(["s", "t"], n)
    data["x"] = rng.normal(size=n) + 2.0
    data["f"] = np.where(np.arange(n) % 3 == 0, "A", "B")
    data.loc[[20, 41], "f"] = "C"
    data["w"] = rng.choice([0.5, 1.0, 2.0], n)
    effects = {name: rng.normal(size=12) for name in ("g", "h")}
    data["y"] = 1e3 + data["x"] + 2.0 * (data["f"] == "B")
    for name, values in effects.items():
        data["y"] += values[data[name].astype(int)]
    data["y"] += rng.normal(size=n) * data["f"].map({"A": 0.5, "B": 2.0, "C": 1.0})
    return data


@cache
def model(key: str) -> blm.LMM:
    formula, sigma, weighted = MODELS[key]
    return quietly(formula, frame(), sigma=sigma, weights="w" if weighted else None)


@cache
def routes(key: str) -> tuple[CellProblem, BlockProblem]:
    design = model(key).design
    return structured_problem(design, route="cells"), structured_problem(design, route="blocks")


def point(problem, seed: int = 1):
    """Coordinates away from the start, and the parameters there."""
    coordinates = Coordinates(problem)
    x = coordinates.starts()[0]
    x = x + 0.4 * np.random.default_rng(seed).normal(size=len(x))
    return x, coordinates.theta(x)


def dense(lmm, problem, theta):
    """V, X and y."""
    design = lmm.design
    V = dense_residual_covariance(design, theta.eta, theta.c)
    for block, Sigma in zip(design.blocks, problem.covariances(theta.F), strict=True):
        V = V + (block.codes[:, None] == block.codes) * (block.Z @ Sigma @ block.Z.T)
    return V, design.X, design.y - design.offset


def log_likelihood(V, X, y, reml: bool) -> float:
    inverse = np.linalg.inv(V)
    A = X.T @ inverse @ X
    gap = y - X @ np.linalg.solve(A, X.T @ inverse @ y)
    total = np.linalg.slogdet(V)[1] + gap @ inverse @ gap
    total += (len(y) - reml * X.shape[1]) * np.log(2 * np.pi)
    return -0.5 * (total + reml * np.linalg.slogdet(A)[1])


# -- the likelihood


@pytest.mark.parametrize("key", MODELS)
def test_the_likelihood_is_the_dense_one(key):
    problem, _ = routes(key)
    x, theta = point(problem)
    V, X, y = dense(model(key), problem, theta)
    y = y - y.mean() * (not key.endswith("no intercept"))  # digits of the dense formula
    for ml in (False, True):
        found = problem.evaluate(theta, problem.prior(None), ml, False)[0]
        assert found == pytest.approx(log_likelihood(V, X, y, not ml), rel=1e-8)
    mean, S0 = np.ones(problem.p), np.diag(np.linspace(1.0, 3.0, problem.p)) ** 2
    _, X, y = dense(model(key), problem, theta)
    expected = stats.multivariate_normal(X @ mean, V + X @ S0 @ X.T).logpdf(y)
    prior = problem.prior(FixedPrior.normal(mean, S0))
    assert problem.evaluate(theta, prior)[0] == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("ml", [False, True])
@pytest.mark.parametrize("key", MODELS)
def test_the_gradient_is_exact(key, ml):
    problem, _ = routes(key)
    coordinates = Coordinates(problem)
    x, theta = point(problem)
    for given in (None, FixedPrior.normal(np.zeros(problem.p), np.eye(problem.p))):
        prior = problem.prior(given)
        gradient = coordinates.gradient(x, theta, *problem.evaluate(theta, prior, ml)[1:4])

        def value(at, prior=prior):
            return problem.evaluate(coordinates.theta(at), prior, ml, False)[0]

        # fourth-order central differences: truncation is far below the rounding of about 1e-8
        steps = 1e-3 * np.eye(len(x))
        close = np.array([value(x + s) - value(x - s) for s in steps])
        far = np.array([value(x + 2 * s) - value(x - 2 * s) for s in steps])
        expected = (8 * close - far) / 12e-3
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-7 * abs(expected).max())


@pytest.mark.parametrize("route", ["sparse", "blocked", "syrk", "dense"])
def test_every_elimination_gives_the_same(route):
    """The dense tail, scattered or by one update, is otherwise for larger data."""
    design = model("crossed slopes").design
    problem, _ = routes("crossed slopes")
    y, X, factors = design.y, design.X, factor_rows(design)
    symbolic = analyze(CrossProducts.from_rows(y, X, factors, weights=design.weights), route)
    other = prepare_cells(
        y, X, factors, covariance_patterns(design), problem.structure, problem.scale,
        design.weights, symbolic=symbolic,
    )  # fmt: skip
    assert other.whole.head_only == (route == "sparse")
    _, theta = point(problem)
    for ml in (False, True):
        for ours, theirs in zip(
            problem.evaluate(theta, problem.prior(None), ml),
            other.evaluate(theta, other.prior(None), ml),
            strict=True,
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(
        problem.effect_covariances(theta), other.effect_covariances(theta), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        absolute_kenward_roger(problem, theta).adjusted,
        absolute_kenward_roger(other, theta).adjusted,
        rtol=1e-8,
        atol=1e-12,
    )
    _draws_have_conditional_moments(model("crossed slopes"), other, theta)
    _a_value_with_a_draw_is_the_same(other, theta)


def _a_value_with_a_draw_is_the_same(problem, theta):
    prior = FixedPrior.normal(np.zeros(problem.p), np.eye(problem.p))
    z = np.random.default_rng(1).standard_normal((1, problem.n_normals))
    value, fixed, effects = problem.value_and_draw(theta, problem.prior(prior), z[0])
    assert value == pytest.approx(problem.evaluate(theta, problem.prior(prior))[0], rel=1e-12)
    beta, b = draws_to_user(problem, fixed[None], effects[None])
    expected, others = problem.draw(theta.F[None], theta.eta[None], theta.c[None], prior, z)
    np.testing.assert_allclose(beta, expected, rtol=1e-9)
    for ours, theirs in zip(b, others, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9)


# -- the same answers as dense blocks


@pytest.mark.parametrize("key", MODELS)
def test_it_says_what_dense_blocks_say(key):
    cell, block = routes(key)
    x, theta = point(cell)
    np.testing.assert_allclose(Coordinates(block).starts()[-1], Coordinates(cell).starts()[-1])
    prior = FixedPrior.normal(np.zeros(cell.p), 4 * np.eye(cell.p))
    for ml, given in ((False, None), (True, None), (False, prior)):
        ours = cell.evaluate(theta, cell.prior(given), ml)
        theirs = block.evaluate(theta, block.prior(given), ml)
        assert ours[0] == pytest.approx(theirs[0], rel=1e-11)
        for a, b in zip(ours[1:], theirs[1:], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-8)
        a, b = cell.solve(theta, given, ml), block.solve(theta, given, ml)
        np.testing.assert_allclose(a.beta, b.beta, rtol=1e-8)
        np.testing.assert_allclose(a.vcov, b.vcov, rtol=1e-7, atol=1e-12)
        for ours, theirs in zip(a.b, b.b, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)
    a, b = cell.row_information(theta, prior), block.row_information(theta, prior)
    np.testing.assert_allclose(a.residual, b.residual, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(a.diagonal, b.diagonal, rtol=1e-8)
    np.testing.assert_allclose(
        a.columns @ cell.coordinates.G, b.columns @ block.coordinates.G, rtol=1e-6, atol=1e-9
    )
    for ours, theirs in zip(
        cell.effect_covariances(theta), block.effect_covariances(theta), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(cell.row_variances(theta.eta), block.row_variances(theta.eta))
    z = np.arange(cell.n * 2.0).reshape(-1, 2)
    for inverse in (False, True):
        ours, theirs = (p.residual_root(theta)(z, inverse=inverse) for p in (cell, block))
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("key", ["crossed slopes", "nested", "by group"])
def test_predictions_have_the_kriging_variance_of_levels_that_never_met_too(key):
    cell, block = routes(key)
    _, theta = point(cell)
    X, Z = cell.R[:9, :-1] @ cell.coordinates.G, [f.Z[:9] for f in cell.factors]
    together = [f.codes[:9] for f in cell.factors]
    apart = [f.codes[[0] * 9] if k else f.codes[:9] for k, f in enumerate(cell.factors)]
    for codes in (together, apart):
        ours, theirs = (p.predictor_variance(theta, X, Z, codes) for p in (cell, block))
        np.testing.assert_allclose(ours, theirs, rtol=1e-8)


@pytest.mark.parametrize("small", [0, 200])
@pytest.mark.parametrize("key", MODELS)
def test_kenward_roger_is_that_of_dense_blocks(key, small, monkeypatch):
    """With one large dense component, and with many small ones."""
    monkeypatch.setattr(cell_derivatives, "_SMALL", small)
    cell, block = routes(key)
    _, theta = point(cell)
    log_linear = model(key).design.residual.variance.kind == "log-linear"
    ours, theirs = (absolute_kenward_roger(p, theta, log_linear=log_linear) for p in (cell, block))
    # derivatives of R are exact here, and differences there
    np.testing.assert_allclose(ours.vcov, theirs.vcov, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(ours.adjusted, theirs.adjusted, rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(ours.P, theirs.P, rtol=1e-6, atol=1e-7 * abs(theirs.P).max())
    np.testing.assert_allclose(ours.W, theirs.W, rtol=1e-6, atol=1e-7 * abs(theirs.W).max())


@pytest.mark.parametrize("key", ["crossed", "nested", "one factor", "by group", "log-linear"])
def test_the_optimum_is_that_of_dense_blocks(key):
    for reml in (True, False):
        cell, block = (AbsoluteSearch(p, reml).optimum() for p in routes(key))
        assert cell.criterion == pytest.approx(block.criterion, abs=1e-5)
    curvatures = [absolute_curvature(p, cell.theta, reml=False) for p in routes(key)]
    H = [c.hessian for c in curvatures]
    np.testing.assert_allclose(H[0], H[1], rtol=1e-4, atol=1e-4 * abs(H[1]).max())


@pytest.mark.parametrize("key", ["crossed slopes", "by group"])
def test_rows_left_out_are_as_if_they_had_never_been_there(key):
    cell, block = routes(key)
    design = model(key).design
    keep = np.setdiff1d(np.arange(cell.n), np.flatnonzero(design.blocks[0].codes == 2))
    _, theta = point(cell)
    values = [
        p.with_rows(keep, design.y, design.X).evaluate(theta, p.prior(None), gradient=False)[0]
        for p in (cell, block)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-9)
    other = design.y[::-1].copy()
    values = [
        p.with_response(other, design.X).evaluate(theta, p.prior(None), gradient=False)[0]
        for p in (cell, block)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-9)


# -- draws


def _draws_have_conditional_moments(lmm, problem, theta, m: int = 4000) -> None:
    prior = FixedPrior.normal(np.zeros(problem.p), 1e4 * np.eye(problem.p))
    normals = np.random.default_rng(2).standard_normal((m, problem.n_normals))
    tiled = [np.tile(part, (m, 1)) for part in (theta.F, theta.eta, theta.c)]
    beta, effects = problem.draw(*tiled, prior, normals)
    V, X, y = dense(lmm, problem, theta)
    inverse = np.linalg.inv(V)
    P = np.linalg.inv(X.T @ inverse @ X + np.eye(problem.p) / 1e4)
    mean = P @ X.T @ inverse @ y
    # some 200 means and variances of independent draws: 6.5 standard errors are never exceeded
    assert np.abs((beta.mean(0) - mean) / np.sqrt(np.diag(P) / m)).max() < 6.5
    assert np.abs(beta.var(0) / np.diag(P) - 1).max() < 6.5 * np.sqrt(2 / m)
    Sigmas = problem.covariances(theta.F)
    for block, Sigma, drawn in zip(lmm.design.blocks, Sigmas, effects, strict=True):
        for level in range(block.n_levels):
            Z = block.Z * (block.codes == level)[:, None]
            A = Sigma @ Z.T @ inverse
            sd = np.sqrt(np.diag(Sigma - A @ Z @ Sigma + A @ X @ P @ X.T @ A.T))
            gap = drawn[:, level].mean(0) - A @ (y - X @ mean)
            assert np.abs(gap / sd).max() < 6.5 / np.sqrt(m)
            assert np.abs(drawn[:, level].var(0) / sd**2 - 1).max() < 6.5 * np.sqrt(2 / m)
    # beta and the effects move together: Cov(beta, z'b) = -P X'V^-1 Z Sigma
    block, Sigma = lmm.design.blocks[0], Sigmas[0]
    Z = block.Z * (block.codes == 0)[:, None]
    expected = -(P @ X.T @ inverse @ Z @ Sigma)[:, 0]
    spread = effects[0][:, 0, 0].std() * beta.std(0)
    found = np.cov(beta.T, effects[0][:, 0, 0])[:-1, -1]
    assert np.abs((found - expected) / spread).max() < 6.5 * np.sqrt(2 / m)


@pytest.mark.parametrize("key", ["crossed", "one factor"])
def test_draws_have_their_conditional_moments(key):
    problem, _ = routes(key)
    _draws_have_conditional_moments(model(key), problem, point(problem)[1])


# -- fits


def test_the_route_is_chosen_by_the_size_of_the_blocks():
    small = quietly("y ~ x + (1 | g)", frame(), sigma="~ f").problem
    assert isinstance(small, BlockProblem)
    assert isinstance(model("crossed").problem, CellProblem)
    many = pd.concat([frame()] * 20)
    assert isinstance(quietly("y ~ x", many, sigma="~ f").problem, CellProblem)
    assert isinstance(quietly("y ~ x", many, residual="cs(w)").problem, BlockProblem)


_TRUTH = {"u": 0.5, "v": 1.0, "w": 2.0}


@cache
def many() -> blm.LMM:
    """One block of 6,000 rows; 150 x 60 levels, which leaves a dense tail."""
    rng = np.random.default_rng(4)
    n = 6000
    data = pd.DataFrame({"a": rng.integers(0, 150, n), "b": rng.integers(0, 60, n)})
    data["f"] = rng.choice(list("uvw"), n)
    data["y"] = rng.normal(size=150)[data["a"]] + 0.5 * rng.normal(size=60)[data["b"]]
    data["y"] += data["f"].map(_TRUTH) * rng.normal(size=n)
    return blm.LMM("y ~ 1 + (1 | a) + (1 | b)", data, sigma="~ f")


def test_crossed_factors_of_many_rows_are_fitted():
    lmm = many()
    assert not lmm.problem.whole.head_only
    fit = lmm.reml()
    table = fit.varcomp()
    truth = pd.Series({f"sigma[f={k}]": v for k, v in _TRUTH.items()})
    # six standard errors
    assert (np.abs(table["estimate"] - truth)[truth.index] < 6 * table["se"][truth.index]).all()
    plain = quietly("y ~ 1 + (1 | a) + (1 | b)", lmm.design.columns.assign(y=lmm.design.y))
    assert fit.loglik > plain.reml().loglik + 500
    # the expected information of n_c rows about log s_c is 2 n_c, less what effects take up
    counts = lmm.design.residual.rows.scale.sum(axis=0)
    relative = (table["se"] / table["estimate"])[truth.index].to_numpy()
    assert (relative > 0.97 / np.sqrt(2 * counts)).all()
    assert (relative < 1.2 / np.sqrt(2 * counts)).all()


def test_posteriors_of_many_rows_agree_with_the_fit():
    """Trajectories of a surrogate and importance draws, each with the draws of the effects."""
    fit = many().reml()
    modes = fit.ranef("a")
    for options in ({"progressbar": False, "draws": 150}, {"method": "importance", "draws": 100}):
        post = many().fit(chains=2, random_seed=1, **options)
        table = post.varcomp()
        # of 60 levels' sd the posterior mean lies 0.2 sds above the mode; the Monte Carlo error of
        # 100 effective draws is 0.1 sds, six of which are not exceeded
        gap = np.abs(table["mean"] - fit.components()) / table["sd"]
        assert gap.max() < 0.8
        off = (post.ranef("a")["mean"].to_numpy() - modes["estimate"]) / modes["sd"]
        # 150 means of 100 or more effective draws: 6 Monte Carlo errors
        assert np.abs(off).max() < 0.6


def test_standard_deviations_by_group_level_are_estimated():
    """50 levels with a standard deviation each, against one level at a time."""
    rng = np.random.default_rng(6)
    sd = np.exp(0.5 * rng.normal(size=50))
    data = pd.DataFrame({"g": np.repeat(np.arange(50), 60)}).assign(x=rng.normal(size=3000))
    data["y"] = (
        1 + data["x"] + rng.normal(size=50)[data["g"]] + sd[data["g"]] * rng.normal(size=3000)
    )
    data["g"] = data["g"].astype(str)
    fit = blm.LMM("y ~ x + (1 | g)", data, sigma="~ g").reml()
    assert isinstance(fit._problem, CellProblem)
    found = fit.components()[[f"sigma[g={g}]" for g in range(50)]]
    ratio = found.to_numpy() / sd
    # relative standard errors of 1 / sqrt(2 x 58): six of them, 50 times
    assert np.abs(ratio - 1).max() < 6 / np.sqrt(116)
    # given the group's mean and slope, the restricted likelihood of a level is nearly its own
    own = [
        np.sqrt(np.linalg.lstsq(np.c_[np.ones(60)], r, rcond=None)[1][0] / 59)
        for _, r in (data["y"] - fit.fixef()["estimate"]["x"] * data["x"]).groupby(
            data["g"].astype(int)
        )
    ]
    np.testing.assert_allclose(found, own, rtol=0.01)


def test_everything_a_crossed_fit_says_is_there():
    fit = quietly(*MODELS["crossed"][:1], frame(), sigma="~ f").reml()
    assert list(fit.components().index) == [
        "sd(Intercept | g)", "sd(Intercept | h)", "sigma[f=A]", "sigma[f=B]", "sigma[f=C]",
    ]  # fmt: skip
    for ddf in ("satterthwaite", "kenward-roger"):
        table = fit.fixef(ddf)
        assert table["df"].between(3, 200).all()
        assert fit.anova(ddf=ddf).shape[0] == 1
    for random in ("conditional", "population", "new"):
        assert (fit.predict(random=random, kind="response")["se"] > 0).all()
    assert len(fit.ranef("h")) == 7
    assert 0 < fit.r2()["marginal"] < fit.r2()["conditional"] < 1
    assert 0 < fit.icc().to_numpy().min() < 1
    V = fit.implied_covariance()
    assert np.linalg.eigvalsh(V.to_numpy())[0] > 0
    # two coefficients fit the two rows of the third cell: maximum likelihood has no maximum
    names = ["x", "sigma[f=A]", "sd(Intercept | g)"]
    with pytest.raises(blm.DataError, match=r"sigma\[f=C\].*no maximum"):
        fit.confint(parameters=names, progressbar=False)
    larger = frame().assign(f=frame()["f"].replace("C", "B"))
    profile = quietly(*MODELS["crossed"][:1], larger, sigma="~ f").reml().confint(
        parameters=names, progressbar=False
    )  # fmt: skip
    assert (profile["lower"] < profile["estimate"]).all()
    assert (profile["upper"] > profile["estimate"]).all()
    boot = fit.confint("bootstrap", n_sims=20, random_seed=1, progressbar=False)
    assert (boot["lower"] < boot["upper"]).all()
    again = fit.refit(fit.design.y)
    assert again.loglik == pytest.approx(fit.loglik, rel=1e-10)
    one = quietly(*MODELS["crossed"][:1], frame(), sigma="~ 1").reml()
    assert blm.likelihood_ratio_test(one, fit)["p"].iloc[1] < 1e-6


def test_a_crossed_posterior_samples_saves_and_is_checked(tmp_path):
    lmm = quietly("y ~ x + (x | g) + (1 | h)", frame(), sigma="~ u")
    post = lmm.fit(draws=400, chains=2, random_seed=2, progressbar=False)
    assert post.info.parameterization == "marginal"
    other = lmm.fit(draws=400, chains=2, method="importance", random_seed=3)
    a, b = post.varcomp(), other.varcomp()
    # Monte Carlo errors of means, with effective sizes of at least 150: 6 of them
    error = np.sqrt(a["sd"] ** 2 / 150 + b["sd"] ** 2 / 150)
    assert (np.abs(a["mean"] - b["mean"]) < 6 * error).all()
    assert set(post.idata["posterior"].data_vars) >= {"sigma", "sigma_by", "b_g", "b_h", "beta"}
    rows = post.loo(draws=50, progressbar=False)
    groups = post.loo("h", draws=25, exact=False, progressbar=False)
    assert np.isfinite(rows.elpd)
    assert np.isfinite(groups.elpd)
    assert np.isfinite(post.loo(conditional=True).elpd)
    assert post.predict(random="new", kind="response", random_seed=1).shape == (160, 4)
    assert np.isfinite(post.residuals(kind="normalized")).all()
    assert 0 < post.r2().loc["conditional", "mean"] < 1
    post.save(tmp_path / "fit.nc")
    loaded = blm.load(tmp_path / "fit.nc")
    pd.testing.assert_frame_equal(loaded.varcomp(), post.varcomp())
    assert isinstance(loaded.model.problem, CellProblem)


def test_leaving_a_row_or_a_group_out_is_the_dense_conditional_density():
    from bayeslmm.bayes.coefficients import fixed_prior
    from bayeslmm.results.estimates import posterior_estimates
    from bayeslmm.results.left_out import group_densities, row_densities

    lmm = model("crossed slopes")
    post = lmm.fit(draws=50, chains=2, method="importance", random_seed=3)
    thetas = posterior_estimates(post, post.posterior.isel(chain=[0], draw=[0, 20])).theta()
    units = [np.flatnonzero(lmm.design.blocks[1].codes == g) for g in range(3)]
    rows = row_densities(post, thetas, False)
    groups = group_densities(post, thetas, units, False)
    prior = fixed_prior(lmm.design, post.priors)
    S0 = np.linalg.inv(prior.root.T @ prior.root)
    for d, theta in enumerate(thetas.rows()):
        V, X, y = dense(lmm, lmm.problem, theta)
        K, gap = V + X @ S0 @ X.T, y - X @ S0 @ prior.root.T @ prior.target
        for found, unit in [(rows[d, 5], np.array([5])), (groups[d, 2], units[2])]:
            rest = np.setdiff1d(np.arange(len(gap)), unit)
            A = np.linalg.solve(K[np.ix_(rest, rest)], K[np.ix_(rest, unit)])
            cov = K[np.ix_(unit, unit)] - K[np.ix_(unit, rest)] @ A
            expected = stats.multivariate_normal(gap[rest] @ A, cov).logpdf(gap[unit])
            assert found == pytest.approx(expected, rel=1e-6)


def test_the_density_does_not_depend_on_the_route():
    """Priors and their Jacobians included, with correlations and log-linear coefficients."""
    for key in ("crossed slopes", "log-linear"):
        lmm = model(key)
        ours, theirs = (marginal_density(lmm.design, lmm.priors, p) for p in routes(key))
        x = ours.starting_points((0.5,))[0]
        x = x + 0.3 * np.random.default_rng(1).normal(size=len(x))
        a, b = ours(x), theirs(x)
        assert a[0] == pytest.approx(b[0], rel=1e-11)
        np.testing.assert_allclose(a[1], b[1], rtol=1e-7, atol=1e-8)
        for left, right in zip(ours.constrained(x), theirs.constrained(x), strict=True):
            np.testing.assert_allclose(left, right)
        far = x.copy()
        far[-3:] = 1e4
        assert not np.isfinite(ours(far)[0])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nuts", "importance"])
def test_a_posterior_with_cells_is_calibrated(method):
    rng = np.random.default_rng(3)
    data = pd.DataFrame({"g": np.arange(90) % 10, "h": rng.integers(0, 5, 90)}).astype(str)
    data = data.assign(x=rng.normal(size=90), f=rng.choice(["u", "v"], 90), y=rng.normal(size=90))
    lmm = quietly("y ~ x + (1 | g) + (1 | h)", data, sigma="~ f")
    assert isinstance(lmm.problem, CellProblem)
    result = blm.sbc(lmm, 100, method=method, random_seed=5, progressbar=False)
    # a right program has uniform p-values: the smallest of 12 is below 1e-8 with
    # probability 1.2e-7
    assert result.uniformity()["p"].min() > 1e-8


# -- what cannot be done


def test_a_cell_that_coefficients_reproduce_is_refused_by_likelihood():
    data = frame().assign(f=np.where(np.arange(160) == 7, "Z", frame()["f"]))
    lmm = quietly("y ~ f + (1 | g) + (1 | h)", data, sigma="~ f")
    for fit in (lmm.reml, lmm.ml):
        with pytest.raises(blm.DataError, match=r"sigma\[f=Z\]: its 1 row would be fitted"):
            fit()
    assert np.isfinite(lmm.fit(method="importance", draws=50, random_seed=1).loo().elpd)


def test_a_standard_deviation_that_vanishes_is_named():
    """A cell of one row whose random effect may be anything."""
    rng = np.random.default_rng(2)
    data = pd.DataFrame({"g": np.repeat(np.arange(20), 5)}).assign(f="u", x=0.0)
    data["y"] = 3 * rng.normal(size=20)[data["g"]] + rng.normal(size=100)
    data.loc[0, ["f", "y"]] = "v", data["y"][1:5].mean()
    with pytest.warns(blm.ModelWarning, match=r"sigma\[f=v\] tends to 0"):
        fit = blm.LMM("y ~ 1 + (1 | g)", data, sigma="~ f").reml()
    assert fit.singular
    assert np.isfinite(fit.loglik)


def test_too_many_products_are_refused_before_memory_is_full(monkeypatch):
    monkeypatch.setattr(cells, "MOST_ENTRIES", 1000)
    lmm = quietly("y ~ x + (1 | g) + (1 | h)", frame(), sigma="~ x")
    with pytest.raises(blm.DataError, match="160 cells of rows with .* too many for memory"):
        lmm.reml()


def test_parameters_beyond_floating_point_give_nan():
    problem, _ = routes("crossed")
    _, theta = point(problem)
    for eta in (np.full(3, -800.0), np.full(3, 800.0), np.array([0.0, np.nan, 0.0])):
        value, *slopes = problem.evaluate(type(theta)(theta.F, eta, theta.c), problem.prior(None))
        assert np.isnan(value)
        assert [len(part) for part in slopes] == [len(theta.F), 3, 0, 0]
