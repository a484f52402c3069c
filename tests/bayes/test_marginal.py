"""The marginal density is that of the hierarchical model, exactly, with its exact gradient."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
from scipy import stats

import bayeslmm as blm
from bayeslmm.addresses import Table
from bayeslmm.bayes.marginal import marginal_density, marginal_obstacle
from bayeslmm.gaussian import prepare
from bayeslmm.parts.correlations import (
    correlation_layout,
    correlations_from_factors,
    factors_from_correlations,
    lkj_exponents,
    log_lkj,
    pullback_to_correlations,
)
from bayeslmm.parts.parameters import coef_key
from bayeslmm.parts.patterns import CovariancePattern
from bayeslmm.parts.scales import scale_terms, scales, unconstrain
from tests.bayes.test_hierarchical import _log_density, _own_factors, _random_point, _value
from tests.conftest import dataset, quietly

FLAT = {"beta": blm.Prior("Flat"), "Intercept": blm.Prior("Flat")}
MIXED = {
    "Intercept": blm.Prior("Flat"),
    "Days": blm.Prior("Normal", mu=3, tau=0.25),
    "sd(Intercept | Subject)": blm.Prior("Gamma", mu=20, sigma=15),
    "sd(Days | Subject)": blm.Prior("Uniform", lower=0.5, upper=40),
    "corr(Subject)": blm.Prior("LKJ", eta=0.7),
    "sigma": blm.Prior("InverseGamma", alpha=3, beta=50),
}
MODELS = {
    "correlated": ("Reaction ~ Days + (Days | Subject)", "sleepstudy", {}),
    "independent": ("Reaction ~ Days + (Days || Subject)", "sleepstudy", {}),
    "crossed": ("diameter ~ 1 + (1 | plate) + (1 | sample)", "penicillin", {}),
    "nested": ("strength ~ 1 + (1 | batch/cask)", "pastes", {}),
    "factor slopes": ("score ~ Machine + (Machine | Worker)", "machines", {}),
    "two terms": ("score ~ Machine + (1 | Worker) + (0 + Machine | Worker)", "machines", {}),
    "no intercept": ("score ~ 0 + Machine + (1 | Worker)", "machines", {}),
    "flat": ("Reaction ~ Days + (Days | Subject)", "sleepstudy", {"priors": FLAT}),
    "mixed priors": ("Reaction ~ Days + (Days | Subject)", "sleepstudy", {"priors": MIXED}),
    "pooled": ("Reaction ~ Days", "sleepstudy", {}),
    "weights and offset": (
        "Reaction ~ Days + offset(Days * 3) + (Days | Subject)",
        "sleepstudy",
        {"weights": np.linspace(0.4, 3, 180)},
    ),
}


def _model(key):
    formula, name, options = MODELS[key]
    return quietly(formula, dataset(name), **options)


def _density(lmm, route="auto"):
    problem = prepare(lmm.problem.cp, lmm.problem.patterns, route=route)
    return marginal_density(lmm.design, lmm.priors, problem)


def _near(density, seed=0):
    rng = np.random.default_rng(seed)
    return density.starting_points((0.5,))[0] + 0.4 * rng.normal(size=density.n_dim)


def _prior_of_coefficients(lmm):
    """Means and precisions of the coefficients with the intercept at the predictors' means."""
    chosen = [lmm.priors[coef_key(name)] for name in lmm.design.coef_names]
    mean = [p.parameters.get("mu", 0.0) for p in chosen]
    precision = [
        0.0 if p.name == "Flat" else p.parameters.get("tau", p.parameters.get("sigma", 1.0) ** -2.0)
        for p in chosen
    ]
    return np.array(mean), np.array(precision)


def _log_conditional(lmm, factors, sigma, centered, z):
    """log p(beta centered, z | theta, y), dense; z in the order of the blocks, level by level."""
    design = lmm.design
    w = np.ones(design.n_rows) if design.weights is None else design.weights
    columns = [design.X @ np.linalg.inv(lmm.priors.combinations())]
    for block, F in zip(design.blocks, factors, strict=True):
        Z = np.zeros((design.n_rows, block.n_levels, block.n_effects))
        Z[np.arange(design.n_rows), block.codes] = block.Z @ F
        columns.append(Z.reshape(design.n_rows, -1))
    C = np.concatenate(columns, axis=1)
    mean, precision = _prior_of_coefficients(lmm)
    prior = np.concatenate((precision, np.ones(C.shape[1] - len(mean))))
    Q = (C.T * w) @ C / sigma**2 + np.diag(prior)
    right = (C.T * w) @ (design.y - design.offset) / sigma**2
    right[: len(mean)] += precision * mean
    point = np.concatenate((centered, z))
    gap = point - np.linalg.solve(Q, right)
    log_det = np.linalg.slogdet(Q)[1]
    return 0.5 * (log_det - len(gap) * np.log(2 * np.pi) - gap @ Q @ gap)


def _log_jacobian(q, u):
    """log |d L / d u| of the strictly lower entries, by complex steps (exact to rounding)."""

    def lower(u):
        L = np.zeros((q, q), complex)
        z = np.zeros((q, q), complex)
        z.T[np.triu_indices(q, 1)] = np.tanh(u)  # column by column
        for i in range(q):
            left = 1.0 + 0j
            for j in range(i):
                L[i, j] = z[i, j] * np.sqrt(left)
                left = left * (1 - z[i, j] ** 2)
        return L[np.tril_indices(q, -1)]

    columns = [lower(u + 1e-30j * e).imag / 1e-30 for e in np.eye(len(u))]
    return np.linalg.slogdet(np.array(columns))[1] if len(u) else 0.0


@pytest.mark.parametrize("key", MODELS)
def test_it_is_the_joint_density_of_the_pymc_model_less_the_conditional(key):
    lmm = _model(key)
    model, density = lmm.pymc_model(), _density(lmm)
    point = _random_point(model)
    sds, factors, z, jacobian = [], [], [], 0.0
    own = []
    for found, names in zip(_own_factors(lmm, model, point), lmm.names.factors, strict=True):
        sds.append(found[0])
        own.append(found[1])
        factors.append(found[2])
        z.append(np.asarray(point[names.z]).ravel())
    sigma = float(_value(model, "sigma", point))
    flat = np.concatenate([np.zeros(0), *(F.ravel() for F in own)])
    sd, u = correlations_from_factors(density.correlations, flat)
    np.testing.assert_allclose(sd, np.concatenate([np.zeros(0), *sds]), rtol=1e-12)
    start = 0
    for rv in model.free_RVs:
        if rv.name.startswith("chol_"):
            q = model.eval_rv_shapes()[rv.name][0]
            both = [_log_density(model, point, vars=[rv], jacobian=j) for j in (True, False)]
            size = q * (q - 1) // 2
            jacobian += _log_jacobian(q, u[start : start + size]) - float(both[0] - both[1])
            start += size
    at = unconstrain(density.scales, np.append(sd, sigma))
    x = np.concatenate((at, u))
    names = [v.name for v in model.value_vars if v.name.startswith("beta")]
    centered = np.concatenate([np.zeros(0), *(np.atleast_1d(point[n]) for n in names)])
    conditional = _log_conditional(lmm, factors, sigma, centered, np.concatenate([np.zeros(0), *z]))
    expected = float(_log_density(model, point)) + jacobian - conditional
    assert density.value(x) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("key", ["correlated", "crossed", "two terms", "weights and offset"])
def test_it_is_the_dense_normal_density_with_beta_integrated_out(key):
    lmm = _model(key)
    density, design = _density(lmm), lmm.design
    x = _near(density)
    _, F, eta, _ = density.constrained(x)
    sigma = np.exp(eta[:, 0])
    w = np.ones(design.n_rows) if design.weights is None else design.weights
    V = np.diag(sigma[0] ** 2 / w)
    for block, L in zip(design.blocks, density.system.split(F), strict=True):
        Z = np.zeros((design.n_rows, block.n_levels, block.n_effects))
        Z[np.arange(design.n_rows), block.codes] = block.Z @ L[0]
        Z = Z.reshape(design.n_rows, -1)
        V += Z @ Z.T
    mean, precision = _prior_of_coefficients(lmm)
    X = design.X @ np.linalg.inv(lmm.priors.combinations())
    V += (X / precision) @ X.T
    log_y = stats.multivariate_normal(X @ mean, V).logpdf(design.y - design.offset)
    first = density.first_correlation
    log_prior = scale_terms(density.scales, x[:first])[0]
    log_prior += log_lkj(x[first:], density.prior.exponent, density.prior.constant)[0]
    assert density.value(x) == pytest.approx(log_y + log_prior, rel=1e-8)


def assert_the_gradient_is_exact(density, x):
    value, gradient = density(x)
    assert value == pytest.approx(density.value(x), rel=1e-12)
    steps = 1e-4 * np.eye(density.n_dim)
    # fourth-order central differences: truncation is far below the rounding of about 1e-8
    near = np.array([density.value(x + s) - density.value(x - s) for s in steps])
    far = np.array([density.value(x + 2 * s) - density.value(x - 2 * s) for s in steps])
    expected = (8 * near - far) / 12e-4
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6 * abs(gradient).max())


@pytest.mark.parametrize("key", MODELS)
@pytest.mark.parametrize("route", ["auto", "dense"])
def test_the_gradient_is_exact(key, route):
    density = _density(_model(key), route)
    assert_the_gradient_is_exact(density, _near(density, 4))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
def test_a_copy_reads_its_own_arrays(copied):
    """The compiled density reads addresses, which must be those of the copy's arrays."""
    density = _density(_model("independent"))
    x = density.starting_points((0.5,))[0]
    expected = density(x)[0]
    other = copied(density)
    at = set(other.table.entries[::3]) & set(density.table.entries[::3])
    assert not at
    del density
    gc.collect()
    assert other(x)[0] == expected


def test_arrays_live_as_long_as_their_addresses_are_in_use():
    array = np.arange(3.0)
    alive = weakref.ref(array)
    entries = Table((array,)).entries
    del array
    gc.collect()
    assert alive() is not None
    assert entries.tolist() == [alive().ctypes.data, 3, 0]


def test_many_points_at_once_are_the_points_one_by_one():
    for route in ("auto", "dense"):
        density = _density(_model("crossed"), route)
        X = np.array([_near(density, seed) for seed in range(5)])
        np.testing.assert_allclose(density.values(X), [density.value(x) for x in X], rtol=1e-13)


FAMILIES = [
    blm.Prior("HalfFlat"),
    blm.Prior("HalfNormal", sigma=3),
    blm.Prior("HalfNormal", tau=0.3),
    blm.Prior("HalfStudentT", nu=4, sigma=2),
    blm.Prior("HalfStudentT", nu=4, lam=2),
    blm.Prior("HalfCauchy", beta=2.5),
    blm.Prior("Exponential", lam=0.4),
    blm.Prior("Exponential", scale=0.4),
    blm.Prior("Gamma", alpha=2.5, beta=1.5),
    blm.Prior("Gamma", mu=2.5, sigma=1.5),
    blm.Prior("InverseGamma", alpha=2.5, beta=1.5),
    blm.Prior("InverseGamma", mu=2.5, sigma=1.5),
    blm.Prior("LogNormal", mu=0.5, sigma=0.7),
    blm.Prior("LogNormal", mu=0.5, tau=0.7),
    blm.Prior("Weibull", alpha=1.7, beta=2.0),
    blm.Prior("Uniform", lower=0, upper=9),
    blm.Prior("TruncatedNormal", mu=1, sigma=2, lower=0),
    blm.Prior("TruncatedNormal", mu=-1, tau=0.5, lower=0.2, upper=5),
    blm.Prior("TruncatedNormal", mu=9, sigma=2, lower=0.2, upper=5),
]


@pytest.mark.parametrize("prior", FAMILIES, ids=repr)
def test_families_have_pymcs_densities_and_exact_gradients(prior):
    import pymc as pm

    sc = scales([prior])
    for s in (0.31, 1.7, 4.4):
        x = unconstrain(sc, [s])
        value, gradient, sd, slope = scale_terms(sc, x)
        assert sd[0] == pytest.approx(s, rel=1e-12)
        parameters = {k: np.array(v, dtype=float) for k, v in prior.parameters.items()}
        distribution = getattr(pm, prior.name).dist(**parameters)
        expected = float(pm.logp(distribution, np.array(s)).eval(mode="FAST_COMPILE"))
        # PyMC keeps constants such as log 2 in single precision: 6e-8 of them
        assert value - np.log(slope[0]) == pytest.approx(expected, rel=1e-7, abs=1e-7)
        step = np.array([1e-5])
        difference = scale_terms(sc, x + step)[0] - scale_terms(sc, x - step)[0]
        assert gradient[0] == pytest.approx(difference / 2e-5, rel=1e-7, abs=1e-8)
        change = (scale_terms(sc, x + step)[2] - scale_terms(sc, x - step)[2]) / 2e-5
        assert slope[0] == pytest.approx(change[0], rel=1e-7)


@pytest.mark.parametrize("prior", FAMILIES[1:], ids=repr)
def test_families_integrate_to_one(prior):
    from scipy.integrate import quad

    sc = scales([prior])

    def density(x):
        return np.exp(scale_terms(sc, np.array([x]))[0])

    total = sum(quad(density, a, a + 5, epsabs=1e-13)[0] for a in range(-40, 40, 5))
    assert total == pytest.approx(1.0, abs=1e-9)


PATTERNS = [
    CovariancePattern.full(4),
    CovariancePattern(4, ((0, 2, 3), (1,))),
    CovariancePattern(3, ((0, 1), (2,))),
]


def test_correlations_make_rows_of_length_one_and_come_back():
    layout = correlation_layout(PATTERNS)
    rng = np.random.default_rng(2)
    sd, u = rng.uniform(0.5, 2, layout.n_effects), rng.normal(size=layout.n_correlations)
    F = factors_from_correlations(layout, sd, u)
    start, at = 0, 0
    for pattern in PATTERNS:
        L = F[start : start + pattern.q**2].reshape(pattern.q, pattern.q)
        np.testing.assert_allclose(np.sqrt((L**2).sum(axis=1)), sd[at : at + pattern.q])
        assert not np.any(L[~(pattern.mask & np.tri(pattern.q, dtype=bool))])
        start, at = start + pattern.q**2, at + pattern.q
    back = correlations_from_factors(layout, F)
    np.testing.assert_allclose(back[0], sd, rtol=1e-12)
    np.testing.assert_allclose(back[1], u, rtol=1e-10)


def test_the_pullback_through_correlations_is_exact():
    layout = correlation_layout(PATTERNS)
    rng = np.random.default_rng(3)
    sd, u = rng.uniform(0.5, 2, layout.n_effects), rng.normal(size=layout.n_correlations)
    G = rng.normal(size=int(layout.buffer[0]))

    def target(log_sd, u):
        return G @ factors_from_correlations(layout, np.exp(log_sd), u)

    d_sd, d_u = pullback_to_correlations(layout, sd, u, G)
    h = 1e-6
    for i, e in enumerate(h * np.eye(len(sd))):
        fd = (target(np.log(sd) + e, u) - target(np.log(sd) - e, u)) / (2 * h)
        assert d_sd[i] == pytest.approx(fd, rel=1e-7, abs=1e-8)
    for i, e in enumerate(h * np.eye(len(u))):
        fd = (target(np.log(sd), u + e) - target(np.log(sd), u - e)) / (2 * h)
        assert d_u[i] == pytest.approx(fd, rel=1e-7, abs=1e-8)


@pytest.mark.parametrize("eta", [0.5, 1.0, 2.0, 7.5])
def test_the_lkj_density_integrates_to_one(eta):
    from scipy.integrate import quad

    layout = correlation_layout([CovariancePattern.full(4)])
    exponent, constant = lkj_exponents(layout, np.full(6, eta))
    total = 1.0
    for i in range(6):  # the partial correlations are independent
        factor, _ = quad(lambda v, i=i: np.cosh(v) ** (-2 * exponent[i]), -60, 60, limit=200)
        total *= factor
    assert total * np.exp(constant) == pytest.approx(1.0, rel=1e-8)


def test_extreme_points_give_no_error():
    density = _density(_model("correlated"))
    for scale in (30.0, 300.0, 3000.0):
        for seed in range(5):
            x = scale * np.random.default_rng(seed).normal(size=density.n_dim)
            value, gradient = density(x)
            assert np.isscalar(value)
            assert gradient.shape == x.shape


def test_what_stands_in_the_way_is_said_in_words():
    lmm = _model("correlated")
    assert marginal_obstacle(lmm.design, lmm.priors) is None
    lmm.priors["Days"] = blm.Prior("Kumaraswamy", a=2, b=2)
    assert "Days is Kumaraswamy" in marginal_obstacle(lmm.design, lmm.priors)
    lmm = _model("correlated")
    lmm.priors["sigma"] = blm.Prior("Kumaraswamy", a=2, b=2)
    assert "sigma is Kumaraswamy" in marginal_obstacle(lmm.design, lmm.priors)
