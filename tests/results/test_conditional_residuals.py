"""Predictions that know the residuals of the group, against dense joint covariances."""

from __future__ import annotations

import warnings
from functools import cache
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.bayes.draws import effect_array
from bayeslmm.formula.residual import ResidualRows
from bayeslmm.results import tables
from bayeslmm.results.conditional_residuals import ConditionalResiduals
from bayeslmm.results.estimates import posterior_estimates
from tests.bayes.test_residual_posterior import frame
from tests.conftest import dataset, quietly
from tests.dense_residuals import dense_residual_covariance
from tests.fits.test_correlated_residuals import posterior, reml
from tests.gaussian import test_woodbury as crossed

pytestmark = pytest.mark.usefixtures("one_blas_thread")

#: One per correlation structure, with effects, weights and unequal variances among them.
LIKELIHOOD = ["ar1", "ar1, slopes, cells", "car1", "cs", "unstructured, one sigma", "toeplitz"]
POSTERIOR = ["ar1, slopes, cells", "car1", "cs", "unstructured"]


def to_predict(key: str) -> pd.DataFrame:
    """Rows of known groups, at times observed or not, and of a new group; in no order."""
    rng = np.random.default_rng(4)
    t = [3, 0, 2, 1, 0, 3, 1, 2]
    g = ["g0", "g1", "g0", "g1", "new", "new", "g0", "g2"]
    if key.startswith(("ar1", "car1")):  # behind, before and far from all others
        t, g = [*t, 9, -2, 40], [*g, "g0", "g1", "g2"]
    new = pd.DataFrame({"g": g, "t": t}).assign(x=rng.normal(size=len(g)))
    new["s"] = new["t"] + rng.uniform(-0.3, 0.3, len(g))
    seen = frame().query("g == 'g3'").head(1)  # the time of an observed row, to the digit
    new = pd.concat([new, seen[["g", "t", "s", "x"]]], ignore_index=True)
    new["f"], new["h"] = rng.choice(["u", "v"], len(new)), "a"
    return new.assign(w=rng.choice([0.5, 1.0, 2.0], len(new)))


class Dense:
    """Observed rows and rows to predict as one normal distribution, written out."""

    def __init__(self, design, observed: pd.DataFrame, new: pd.DataFrame):
        self.design, self.n = design, len(observed)
        both = pd.concat([observed, new], ignore_index=True)
        rows, residual = design.evaluate(both), design.residual
        self.X, self.Z = rows.X, rows.Z
        self.levels = [
            pd.factorize(both[list(b.factor.columns)].astype(str).agg(":".join, axis=1))[0]
            for b in design.blocks
        ]
        group = pd.factorize(both[residual.syntax.groups[0]])[0]
        time = np.zeros(len(both)) if residual.kind == "cs" else both[residual.syntax.time]
        scale = design.evaluate_residuals(both, scale_only=True).scale
        self.residual = SimpleNamespace(
            rows=ResidualRows(group, np.asarray(time, dtype=float), scale),
            times=residual.times,
            kind=residual.kind,
        )
        self.weights = None if design.weights is None else both["w"].to_numpy()
        self.y = observed["y"].to_numpy()

    def R(self, eta, c) -> np.ndarray:
        return dense_residual_covariance(self, eta, c)

    def effects(self, Sigmas) -> np.ndarray:
        total = np.zeros((len(self.X),) * 2)
        for Z, code, Sigma in zip(self.Z, self.levels, Sigmas, strict=True):
            total += (code[:, None] == code) * (Z @ Sigma @ Z.T)
        return total


def kriged(dense: Dense, eta, c, Sigmas) -> np.ndarray:
    """Estimate, variance of the mean and of the response of every row, by universal kriging."""
    n, out = dense.n, []
    R, G = dense.R(eta, c), dense.effects(Sigmas)
    V, X = (R + G)[:n, :n], dense.X[:n]
    inverse = np.linalg.inv(V)
    Phi = np.linalg.inv(X.T @ inverse @ X)
    beta = Phi @ X.T @ inverse @ dense.y
    for i in range(n, len(dense.X)):
        h, x = (R + G)[:n, i], dense.X[i]
        gap = x - X.T @ inverse @ h
        total = (R + G)[i, i] - h @ inverse @ h + gap @ Phi @ gap
        own = R[i, i] - R[i, :n] @ np.linalg.solve(R[:n, :n], R[:n, i])
        out.append([x @ beta + h @ inverse @ (dense.y - X @ beta), total - own, total])
    return np.array(out)


def _compare(fit, new, observed, dense, **options):
    theta = fit._engine.natural(fit._solution)
    expected = kriged(dense, theta.eta, theta.c, fit._solution.Sigmas)
    for kind, column in (("mean", 1), ("response", 2)):
        table = fit.predict(
            new, kind=kind, residuals="conditional", allow_new_levels=True, **options
        )
        np.testing.assert_allclose(table["estimate"], expected[:, 0], rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(table["se"] ** 2, expected[:, column], rtol=1e-8, atol=1e-8)
    assert list(table.index) == list(new.index)


@pytest.mark.parametrize("key", LIKELIHOOD)
def test_likelihood_predictions_are_those_of_the_joint_normal_distribution(key):
    fit, new = reml(key), to_predict(key)
    _compare(fit, new, frame(), Dense(fit.design, frame(), new))


def test_rows_of_a_group_that_have_different_levels_of_a_crossed_factor():
    """In dense blocks and where the crossed effects are outside of these."""
    fit, rng = crossed.model("ar1").reml(), np.random.default_rng(2)
    new = crossed.rows().iloc[[5, 40, 41, 90]].assign(t=[7, 9, 4, -1], x=rng.normal(size=4))
    new["item"] = ["i001", "i003", "i000", "i002"]
    dense = Dense(fit.design, crossed.rows(), new)
    _compare(fit, new, crossed.rows(), dense)
    for key, problem in zip(("blocks", "woodbury"), crossed.routes("ar1")[::-1], strict=True):
        twin = type(fit).__new__(type(fit))
        twin.__dict__.update(fit.__dict__)
        twin._problem = problem
        assert key in type(problem).__module__
        _compare(twin, new, crossed.rows(), dense)


@pytest.mark.parametrize("key", ["ar1, slopes, cells", "cs"])
def test_fitted_rows_are_predicted_from_the_others_of_their_group(key):
    """The row in the place of its own replication, of which the others say the same."""
    fit, data = reml(key), frame()
    theta = fit._engine.natural(fit._solution)
    dense = Dense(fit.design, data, data.head(0))
    R, G = dense.R(theta.eta, theta.c), dense.effects(fit._solution.Sigmas)
    e, X = data["y"].to_numpy() - fit.fitted().to_numpy(), dense.X
    inverse = np.linalg.inv(R + G)
    Phi = np.linalg.inv(X.T @ inverse @ X)
    found = {k: fit.predict(residuals="conditional", kind=k) for k in ("mean", "response")}
    for i in range(0, len(data), 7):
        rest = np.delete(np.arange(len(data)), i)
        k = np.zeros(len(data))
        k[rest] = np.linalg.solve(R[np.ix_(rest, rest)], R[rest, i])
        h = G[i] + R @ k
        gap = X[i] - X.T @ inverse @ h
        mean = G[i, i] + k @ R @ k - h @ inverse @ h + gap @ Phi @ gap
        estimate = fit.fitted().iloc[i] + k @ e
        assert found["mean"]["estimate"].iloc[i] == pytest.approx(estimate, rel=1e-8)
        assert found["mean"]["se"].iloc[i] ** 2 == pytest.approx(mean, rel=1e-8)
        own = R[i, i] - k @ R[:, i]
        assert found["response"]["se"].iloc[i] ** 2 == pytest.approx(mean + own, rel=1e-8)
    fitted = fit.fitted(residuals="conditional")
    np.testing.assert_allclose(fitted, found["mean"]["estimate"], rtol=1e-12)


@cache
def toeplitz_posterior():
    """A few draws, whatever their distribution."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", blm.SamplingWarning)
        return quietly("y ~ x", frame(), residual="toeplitz(t | g)").fit(
            draws=10, tune=20, chains=1, random_seed=1, progressbar=False
        )


@pytest.mark.parametrize("key", [*POSTERIOR, "toeplitz"])
def test_every_draw_of_a_posterior_has_the_conditional_mean(key):
    fit = toeplitz_posterior() if key == "toeplitz" else posterior(key)
    new, data, design = to_predict(key), frame(), fit.model.design
    dense, n = Dense(design, data, new), len(data)
    found = fit.predict(
        new, residuals="conditional", allow_new_levels=True, draws=True, random_seed=1
    )
    found = found.to_numpy().reshape(-1, len(new))
    at = posterior_estimates(fit).flat()
    e = data["y"].to_numpy() - fit.predict(draws=True).to_numpy().reshape(len(found), n)
    known = [
        i for i in range(len(new)) if not design.blocks or new["g"].iloc[i] != "new"
    ]  # others have effects of their own
    old = [effect_array(fit.posterior, f.b) for f in fit.names.factors]
    old = [b.reshape(len(found), *b.shape[2:]) for b in old]
    for d in range(0, len(found), len(found) // 5):
        R = dense.R(at.eta[d], at.c[d])
        gain = np.linalg.solve(R[:n, :n], R[:n, n:]).T
        expected = dense.X[n:] @ at.beta[d] + gain @ e[d]
        for block, b, Z in zip(design.blocks, old, dense.Z, strict=True):
            code = [list(block.levels).index(g) if g != "new" else 0 for g in new["g"]]
            expected += np.einsum("iq,iq->i", Z[n:], b[d][code])
        np.testing.assert_allclose(found[d, known], expected[known], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("key", LIKELIHOOD)
def test_draws_have_the_joint_covariance_given_the_past(key):
    """Unit vectors in place of standard normals: the root of the covariance, column by column."""
    fit, new = reml(key), to_predict(key)
    theta = fit._engine.natural(fit._solution)
    r, n = len(new), fit.design.n_rows
    eta, c = np.tile(theta.eta, (r, 1)), np.tile(theta.c, (r, 1))
    rows = ConditionalResiduals(fit.design, new, eta, c)
    root = rows.draws(
        np.arange(r), lambda old: np.zeros((r, len(old))), lambda at: np.eye(r)[:, at]
    )
    R = Dense(fit.design, frame(), new).R(theta.eta, theta.c)
    expected = R[n:, n:] - R[n:, :n] @ np.linalg.solve(R[:n, :n], R[:n, n:])
    np.testing.assert_allclose(root.T @ root, expected, atol=1e-8)
    if key != "cs":  # the last row is one of the fit's, at another weight
        assert np.all(root[:, -1] == 0.0)
    some = rows.draws(
        np.array([2, 8]), lambda old: np.zeros((r, len(old))), lambda at: np.eye(r)[:, at]
    )
    np.testing.assert_allclose(some, root[:, [2, 8]], rtol=1e-12)


def test_rows_given_are_in_the_past():
    fit, new = reml("ar1"), to_predict("ar1")
    first = new.query("g == 'new'").assign(y=[6.0, 7.0])
    later = new.assign(t=new["t"] + 4)
    data = pd.concat([frame(), first], ignore_index=True)
    told = fit.predict(later, given=first, residuals="conditional")
    theta = fit._engine.natural(fit._solution)
    expected = kriged(Dense(fit.design, data, later), theta.eta, theta.c, [])
    np.testing.assert_allclose(told["estimate"], expected[:, 0], rtol=1e-8)
    np.testing.assert_allclose(told["se"] ** 2, expected[:, 1], rtol=1e-8, atol=1e-8)
    post = posterior("ar1")
    options = {"given": first, "random_seed": 1, "residuals": "conditional"}
    near, far = (post.predict(new.tail(1).assign(g="new", t=t), **options) for t in (4, 400))
    plain = post.predict(new.tail(1).assign(g="new", t=4), given=first, random_seed=1)
    assert near["mean"].iloc[0] > plain["mean"].iloc[0] + 0.2  # it has been high
    np.testing.assert_allclose(far["mean"], plain["mean"], rtol=1e-8)


def test_a_missing_response_is_predicted_from_its_neighbors():
    data = frame().assign(y=frame()["y"].mask(frame()["g"].isin(["g0", "g1"]) & (frame()["t"] > 1)))
    with pytest.warns(blm.DataWarning, match="missing"):
        fit = blm.LMM("y ~ x", data, residual="ar1(t | g)").reml()
    gaps, seen = data[data["y"].isna()], data[data["y"].notna()]
    assert len(gaps) > 1
    _compare(fit, gaps, seen, Dense(fit.design, seen, gaps))


def test_the_same_seed_gives_the_same_numbers_in_blocks_of_any_size(monkeypatch):
    fit, new = posterior("ar1, slopes, cells"), to_predict("ar1, slopes, cells")
    options = {"residuals": "conditional", "allow_new_levels": True, "kind": "response"}
    whole = fit.predict(new, random_seed=3, draws=True, **options)
    table = fit.predict(new, random_seed=3, **options)
    np.testing.assert_allclose(table["mean"], whole.mean(("chain", "draw")), rtol=1e-12)
    other = fit.predict(new, random_seed=4, draws=True, **options)
    assert not np.allclose(whole, other)
    monkeypatch.setattr(tables, "_TOGETHER", 200 * 3)
    again = fit.predict(new, random_seed=3, draws=True, **options)
    np.testing.assert_allclose(again, whole, rtol=1e-9)
    # a new residual is the default, and what it always was
    default = fit.predict(new, allow_new_levels=True, kind="response", random_seed=3)
    options["residuals"] = "new"
    pd.testing.assert_frame_equal(fit.predict(new, random_seed=3, **options), default)
    assert (default["sd"] > table["sd"]).iloc[-1]


def test_what_there_is_no_past_of_is_refused():
    fit, post, new = reml("ar1"), posterior("ar1"), to_predict("ar1")
    for one in (fit, post):
        with pytest.raises(ValueError, match="residuals must be one of 'new', 'conditional'"):
            one.predict(new, residuals="known")
        for random in ("population", "new"):
            with pytest.raises(ValueError, match=f"not by random='{random}'"):
                one.predict(new, residuals="conditional", random=random)
        with pytest.raises(blm.FormulaError, match="'g'"):
            one.predict(new.drop(columns="g"), residuals="conditional")
        with pytest.raises(blm.DataError, match="whole-numbered times"):
            one.predict(new.assign(t=0.5), residuals="conditional")
        with pytest.raises(blm.DataError, match="'t'"):
            one.predict(new.assign(t=np.nan), residuals="conditional")
    with pytest.raises(ValueError, match="not by random='population'"):
        fit.fitted("population", residuals="conditional")
    with pytest.raises(blm.DataError, match="column 'w'"):
        reml("ar1, slopes, cells").predict(new.head(2).drop(columns="w"), residuals="conditional")
    with pytest.raises(blm.DataError, match="40 apart; the fit has correlations up to lag 3"):
        reml("toeplitz").predict(new.head(1).assign(t=40), residuals="conditional")
    with pytest.raises(blm.DataError, match="Time 7 of 't' is not in the fit"):
        reml("unstructured").predict(new.head(1).assign(t=7), residuals="conditional")
    with pytest.raises(blm.DataError, match="whole-numbered times"):
        reml("toeplitz").implied_covariance(frame().head(2).assign(g="g0", t=[0.5, 1.0]))


@pytest.mark.parametrize(
    ("formula", "options"),
    [
        ("y ~ x + (1 | g)", {}),
        ("y ~ x", {"sigma": "~ f"}),
        ("b ~ x + (1 | g)", {"family": "bernoulli"}),
    ],
)
def test_a_model_without_correlated_residuals_has_nothing_to_condition_on(formula, options):
    data = frame().assign(b=(frame()["y"] > 4).astype(int))
    fit = quietly(formula, data, **options).ml()
    for call in (fit.predict, fit.fitted):
        with pytest.raises(blm.DataError, match="nothing to condition on"):
            call(residuals="conditional")


def test_negative_correlations_of_every_two_rows_bound_the_size_of_a_group():
    rng = np.random.default_rng(1)
    e = rng.normal(size=(20, 3))
    data = pd.DataFrame({"y": (e - 0.9 * e.mean(axis=1, keepdims=True)).ravel()})
    data["g"] = np.repeat(np.arange(20), 3)
    fit = quietly("y ~ 1", data, residual="cs(g)").reml()
    assert fit.components()["rho"] < -1 / 3
    assert np.isfinite(fit.fitted(residuals="conditional")).all()
    with pytest.raises(blm.DataError, match="4 rows of a group.*positive definite"):
        fit.predict(pd.DataFrame({"g": [0]}), residuals="conditional")


def test_an_interval_of_a_forecast_covers_what_came():
    """Last measurements of orthodont, 27 of them, from a fit that has not seen them."""
    data = dataset("orthodont")
    first, last = data[data["age"] < 14], data[data["age"] == 14]
    fit = quietly("distance ~ age", first, residual="car1(age | Subject)").reml()
    found = {
        residuals: fit.predict(last, kind="response", residuals=residuals)
        for residuals in ("new", "conditional")
    }
    error = {k: np.sqrt(((t["estimate"] - last["distance"]) ** 2).mean()) for k, t in found.items()}
    assert error["conditional"] < 0.8 * error["new"]
    assert (found["conditional"]["se"] < found["new"]["se"]).all()


def test_a_single_series_may_be_named_by_two_columns():
    rng = np.random.default_rng(4)
    data = pd.DataFrame({"t": np.arange(12), "a": "p", "b": 1, "y": rng.normal(size=12).cumsum()})
    new = data.head(2).assign(t=[12, 14])
    one, two = (
        blm.LMM("y ~ 1", data, residual=f"ar1(t | {group})").reml() for group in ("a", "a:b")
    )
    for options in ({"residuals": "conditional"}, {"given": data.tail(3).assign(t=[20, 21, 22])}):
        pd.testing.assert_frame_equal(one.predict(new, **options), two.predict(new, **options))
