"""The posterior of models with a relationship: every route samples the same one."""

from __future__ import annotations

import numpy as np
import pytest

import bayeslmm as blm
from bayeslmm.bayes.marginal import marginal_density
from bayeslmm.parts.correlations import correlations_from_factors
from bayeslmm.parts.scales import unconstrain
from tests.bayes.test_hierarchical import _log_density, _own_factors, _random_point, _value
from tests.bayes.test_marginal import _log_jacobian, _prior_of_coefficients
from tests.conftest import quietly
from tests.relationship.test_model import clones, herd, once

FORMULAS = {
    "pedigree, slopes": ("y ~ x + (x | id) + (1 | pen)", "pedigree"),
    "uncorrelated": ("y ~ x + (x || id) + (1 | animal)", "pedigree"),
    "clones": ("y ~ x + (1 | id)", "clones"),
    "rotated": ("y ~ x + (1 | id)", "once"),
}


def _model(key: str) -> blm.LMM:
    formula, kind = FORMULAS[key]
    data, A = herd()
    matrix = {"pedigree": A, "clones": clones(), "once": A.to_frame()}[kind]
    return quietly(formula, once() if kind == "once" else data, relationship={"id": matrix})


def _root(block, parameterization: str) -> np.ndarray:
    if block.relationship is None:
        return np.eye(block.n_levels)
    if parameterization == "noncentered":
        return block.relationship.dense_root
    return np.linalg.cholesky(block.relationship.dense())


def _log_conditional(lmm, roots, factors, sigma, centered, z):
    """log p(beta centered, z | theta, y), dense; b = root z F'."""
    design = lmm.design
    columns = [design.X @ np.linalg.inv(lmm.priors.combinations())]
    for block, T, F in zip(design.blocks, roots, factors, strict=True):
        Z = np.einsum("nl,nq->nlq", T[block.codes], block.Z @ F)
        columns.append(Z.reshape(design.n_rows, -1))
    C = np.concatenate(columns, axis=1)
    mean, precision = _prior_of_coefficients(lmm)
    Q = C.T @ C / sigma**2 + np.diag(np.append(precision, np.ones(C.shape[1] - len(mean))))
    right = C.T @ design.y / sigma**2
    right[: len(mean)] += precision * mean
    gap = np.concatenate((centered, z)) - np.linalg.solve(Q, right)
    return 0.5 * (np.linalg.slogdet(Q)[1] - len(gap) * np.log(2 * np.pi) - gap @ Q @ gap)


def _compare(lmm, parameterization):
    """Joint log density less the conditional one, and the marginal one at the same point."""
    model = lmm.pymc_model(parameterization)
    density = marginal_density(lmm.design, lmm.priors, lmm.problem)
    point = _random_point(model)
    sds, factors, roots, z, jacobian = [], [], [], [], 0.0
    own = []
    for block, names, found in zip(
        lmm.design.blocks, lmm.names.factors, _own_factors(lmm, model, point), strict=True
    ):
        sd, F, T = found[0], found[2], _root(block, parameterization)
        own.append(found[1])
        if parameterization == "noncentered":
            z.append(np.asarray(point[names.z]).ravel())
        else:  # p(b) = p(z) / |T|^q |F|^J
            b = _value(model, names.b, point)
            z.append(np.linalg.solve(T, np.linalg.solve(F, b.T).T).ravel())
            jacobian += len(sd) * np.linalg.slogdet(T)[1] + len(T) * np.linalg.slogdet(F)[1]
        sds.append(sd)
        factors.append(F)
        roots.append(T)
    sigma = float(_value(model, "sigma", point))
    flat = np.concatenate([F.ravel() for F in own])
    _, u = correlations_from_factors(density.correlations, flat)
    start = 0
    for rv in model.free_RVs:
        if rv.name.startswith("chol_"):
            q = model.eval_rv_shapes()[rv.name][0]
            both = [_log_density(model, point, vars=[rv], jacobian=j) for j in (True, False)]
            size = q * (q - 1) // 2
            jacobian += _log_jacobian(q, u[start : start + size]) - float(both[0] - both[1])
            start += size
    at = unconstrain(density.scales, np.append(np.concatenate(sds), sigma))
    x = np.concatenate((at, u))
    centered = np.atleast_1d(point["beta_centered"])
    conditional = _log_conditional(lmm, roots, factors, sigma, centered, np.concatenate(z))
    return density.value(x), float(_log_density(model, point)) + jacobian - conditional


@pytest.mark.parametrize("key", FORMULAS)
def test_the_marginal_density_is_the_joint_less_the_conditional(key):
    value, expected = _compare(_model(key), "noncentered")
    assert value == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("key", ["pedigree, slopes", "uncorrelated"])
def test_the_centered_model_has_the_same_marginal(key):
    value, expected = _compare(_model(key), "centered")
    assert value == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("key", FORMULAS)
def test_the_gradient_of_the_marginal_density_is_exact(key):
    lmm = _model(key)
    density = marginal_density(lmm.design, lmm.priors, lmm.problem)
    rng = np.random.default_rng(1)
    x = density.starting_points((0.5,))[0] + 0.4 * rng.normal(size=density.n_dim)
    value, gradient = density(x)
    assert value == pytest.approx(density.value(x), rel=1e-12)
    steps = 1e-4 * np.eye(density.n_dim)
    near = np.array([density.value(x + s) - density.value(x - s) for s in steps])
    far = np.array([density.value(x + 2 * s) - density.value(x - 2 * s) for s in steps])
    # fourth-order differences: what is left is rounding, 1e-12 of the value over 1e-4
    np.testing.assert_allclose(gradient, (8 * near - far) / 1.2e-3, rtol=1e-6, atol=1e-6)


def test_the_marginal_pymc_model_has_the_same_density():
    lmm = _model("pedigree, slopes")
    model = lmm.pymc_model("marginal")
    point = _random_point(model)
    other = {k: np.asarray(v) + 0.1 for k, v in point.items()}
    density = marginal_density(lmm.design, lmm.priors, lmm.problem)

    def partials(p):
        flat = np.concatenate([F.ravel() for _, F, _ in _own_factors(lmm, model, p)])
        return correlations_from_factors(density.correlations, flat)[1]

    def at(p):
        sds = np.concatenate([sd for sd, _, _ in _own_factors(lmm, model, p)])
        s = unconstrain(density.scales, np.append(sds, float(_value(model, "sigma", p))))
        return density.value(np.concatenate((s, partials(p))))

    # PyMC transforms the correlations otherwise: its Jacobian is taken out of both
    def without_jacobian(p):
        rv = next(rv for rv in model.free_RVs if rv.name.startswith("chol_"))
        both = [_log_density(model, p, vars=[rv], jacobian=j) for j in (True, False)]
        return (
            float(_log_density(model, p)) - float(both[0] - both[1]) + _log_jacobian(2, partials(p))
        )

    for p in (point, other):
        assert at(p) == pytest.approx(without_jacobian(p), rel=1e-8)


@pytest.fixture(scope="module")
def posterior():
    data, A = herd()
    lmm = quietly("y ~ x + (1 | id)", data, relationship={"id": A.to_frame()})
    return lmm.fit(draws=500, chains=2, random_seed=3, progressbar=False)


def test_the_posterior_agrees_with_importance_sampling(posterior):
    other = posterior.model.fit(
        method="importance", draws=1000, chains=4, random_seed=4, progressbar=False
    )
    one, two = posterior.varcomp(), other.varcomp()
    # Monte Carlo errors of both: about sd / sqrt(200) at worst; six of them
    np.testing.assert_allclose(
        one["mean"], two["mean"], atol=float((6 * one["sd"] / np.sqrt(200)).max())
    )


def test_everything_a_posterior_says_goes_along(posterior, tmp_path):
    lmm = posterior.model
    h2 = posterior.heritability()
    draws = posterior.heritability(draws=True)
    sd = posterior.posterior["sd_id"].to_numpy()[..., 0]
    sigma = posterior.posterior["sigma"].to_numpy()
    np.testing.assert_allclose(draws, sd**2 / (sd**2 + sigma**2))
    assert h2.loc["heritability", "mean"] == pytest.approx(float(draws.mean()))
    assert posterior.repeatability().loc["repeatability", "mean"] == h2["mean"].iloc[0]
    assert len(posterior.ranef("id")) == 70
    predicted = posterior.predict(lmm.design.columns.assign(id="a69"))
    assert np.isfinite(predicted["mean"]).all()
    assert posterior.loo(draws=30, progressbar=False).elpd < 0
    conditioned = posterior.condition_on(once().head(3), random_seed=1)
    assert np.isfinite(conditioned.fixef()["mean"]).all()
    path = tmp_path / "fit.nc"
    posterior.save(path)
    back = blm.load(path)
    assert back.model.problem.cp.n == lmm.problem.cp.n
    np.testing.assert_array_equal(back.heritability(draws=True), draws)
    assert back.model.reml().loglik == pytest.approx(lmm.reml().loglik, abs=1e-9)
    np.testing.assert_array_equal(
        back.model.design.blocks[0].relationship.covariance,
        lmm.design.blocks[0].relationship.covariance,
    )


def test_new_families_are_drawn_with_their_relationship(posterior):
    from bayeslmm.bayes.predictive import _new_effects

    lmm = posterior.model
    rng = np.random.default_rng(5)
    drawn = _new_effects(lmm.design, lmm.names, posterior.posterior, rng, ["id"])["b_id"].to_numpy()
    sd = posterior.posterior["sd_id"].to_numpy()
    unit = (drawn / sd[:, :, None])[..., 0].reshape(-1, 70)
    A = lmm.design.blocks[0].relationship.covariance
    # an entry's standard error is at most sqrt(2 / 3000) of the diagonal; seven
    bound = 7 * np.sqrt(2 / len(unit)) * np.max(np.diag(A))
    assert np.max(np.abs(unit.T @ unit / len(unit) - A)) < bound


def test_a_stored_precision_comes_back_exactly(tmp_path):
    lmm = _model("pedigree, slopes")
    fit = lmm.fit(method="importance", draws=100, chains=2, random_seed=3, progressbar=False)
    fit.save(tmp_path / "fit.nc")
    back = blm.load(tmp_path / "fit.nc").model.design.blocks[0].relationship
    assert abs(back.precision - lmm.design.blocks[0].relationship.precision).max() == 0.0


def test_a_singular_relationship_has_no_centered_model():
    with pytest.raises(blm.SamplingError, match="singular"):
        _model("clones").pymc_model("centered")


def test_a_large_pedigree_has_no_hierarchical_model(monkeypatch):
    from bayeslmm.bayes import hierarchical

    monkeypatch.setattr(hierarchical, "_MAX_DENSE_LEVELS", 10)
    with pytest.raises(blm.SamplingError, match='parameterization="marginal"'):
        _model("uncorrelated").pymc_model()


@pytest.mark.slow
@pytest.mark.parametrize("key", ["pedigree, slopes", "rotated"])
def test_calibration_of_related_levels_is_uniform(key):
    result = blm.sbc(_model(key), 100, random_seed=1, progressbar=False)
    # of at most 14 p-values of a right program the smallest is below 1e-8 once in 1e7 runs
    assert result.uniformity()["p"].min() > 1e-8
