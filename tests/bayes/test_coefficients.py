"""Coefficients under priors that are neither normal nor flat, in the marginal density."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import bayeslmm as blm
from bayeslmm.bayes.marginal import marginal_density, marginal_obstacle
from bayeslmm.parts.parameters import coef_key
from bayeslmm.parts.scales import scale_terms, scales, unconstrain
from tests.bayes.test_hierarchical import _log_density, _own_factors, _random_point, _value
from tests.bayes.test_marginal import assert_the_gradient_is_exact
from tests.conftest import dataset, quietly

HEAVY = {
    "Intercept": blm.Prior("Cauchy", alpha=280, beta=30),
    "Days": blm.Prior("StudentT", nu=3, mu=2, sigma=5),
}
MACHINES = {
    "Machine[B]": blm.Prior("Laplace", mu=1, b=4),
    "Machine[C]": blm.Prior("Logistic", mu=5, s=3),
}
SLEEP = ("Reaction ~ Days + (1 | Subject)", "sleepstudy")
MODELS = {
    "both": (*SLEEP, {"priors": HEAVY}),
    "slope alone": (*SLEEP, {"priors": {"Days": HEAVY["Days"]}}),
    "intercept alone": (*SLEEP, {"priors": {"Intercept": HEAVY["Intercept"]}}),
    "one of a factor": (
        "score ~ Machine + (1 | Worker)",
        "machines",
        {"priors": {"Machine[C]": MACHINES["Machine[C]"], "Intercept": blm.Prior("Flat")}},
    ),
    "crossed": (
        "score ~ Machine + (1 | Worker) + (1 | Worker:Machine)",
        "machines",
        {"priors": MACHINES},
    ),
    "pooled": ("Reaction ~ Days", "sleepstudy", {"priors": HEAVY}),
    "bounded": (
        *SLEEP,
        {
            "priors": {
                "Intercept": blm.Prior("Uniform", lower=200, upper=400),
                "Days": blm.Prior("Gamma", alpha=2, beta=0.2),
            }
        },
    ),
    "skewed and bounded above": (
        *SLEEP,
        {
            "priors": {
                "Intercept": blm.Prior("TruncatedNormal", mu=300, sigma=50, upper=420),
                "Days": blm.Prior("SkewNormal", mu=5, sigma=8, alpha=3),
            }
        },
    ),
    "unequal variances": (*SLEEP, {"priors": HEAVY, "sigma": "~ half"}),
    "ar1": (*SLEEP, {"priors": HEAVY, "residual": "ar1(Days | Subject)"}),
    "ar1 and crossed": (
        "Reaction ~ Days + (1 | Subject) + (1 | half)",
        "sleepstudy",
        {"priors": HEAVY, "residual": "ar1(Days | Subject)"},
    ),
}
STRUCTURED = ("unequal variances", "ar1", "ar1 and crossed")

every = pytest.mark.parametrize("key", MODELS)


@cache
def _model(key):
    formula, name, options = MODELS[key]
    data = dataset(name)
    if name == "sleepstudy":
        data = data.assign(half=np.where(data["Days"] < 5, "first", "second"))
    return quietly(formula, data, **options)


def _density(key):
    model = _model(key)
    return marginal_density(model.design, model.priors, model.problem)


def _near(density, seed=0):
    rng = np.random.default_rng(seed)
    return density.starting_points((0.5,))[0] + 0.4 * rng.normal(size=density.n_dim)


@every
def test_the_gradient_is_exact(key):
    density = _density(key)
    assert_the_gradient_is_exact(density, _near(density, 4))


@every
def test_the_compiled_density_is_that_of_the_system(key):
    density = _density(key)
    X = np.array([_near(density, seed) for seed in range(3)])
    one_by_one = [float(density.value(x)) for x in X]
    np.testing.assert_allclose(density.values(X), one_by_one, rtol=1e-13)


def _priors(model):
    return [model.priors[coef_key(name)] for name in model.design.coef_names]


def _left(model, A, sigma, beta, z, point):
    """log p(what is integrated out | what is sampled, y), dense."""
    design = model.design
    factors = [found[2] for found in _own_factors(model, model.pymc_model(), point)]
    columns = [design.X @ np.linalg.inv(A)]
    for block, F in zip(design.blocks, factors, strict=True):
        Z = np.zeros((design.n_rows, block.n_levels, block.n_effects))
        Z[np.arange(design.n_rows), block.codes] = block.Z @ F
        columns.append(Z.reshape(design.n_rows, -1))
    C = np.hstack(columns)
    chosen = _priors(model)
    normal = np.array([prior.name in ("Normal", "Flat") for prior in chosen])
    mean = np.array([prior.parameters.get("mu", 0.0) for prior in chosen])
    precision = [p.parameters["sigma"] ** -2.0 if p.name == "Normal" else 0.0 for p in chosen]
    everything = np.concatenate([beta, z])
    free = np.concatenate([normal, np.ones(len(z), dtype=bool)])
    prior = np.concatenate([precision, np.ones(len(z))])
    centers = np.concatenate([mean, np.zeros(len(z))])
    rest = design.y - design.offset - C[:, ~free] @ everything[~free]
    Q = C[:, free].T @ C[:, free] / sigma**2 + np.diag(prior[free])
    right = C[:, free].T @ rest / sigma**2 + (prior * centers)[free]
    gap = everything[free] - np.linalg.solve(Q, right)
    return 0.5 * (np.linalg.slogdet(Q)[1] - len(gap) * np.log(2 * np.pi) - gap @ Q @ gap)


@pytest.mark.parametrize("key", [key for key in MODELS if key not in STRUCTURED])
def test_it_is_the_joint_density_of_the_pymc_model_less_what_is_integrated_out(key):
    model, density = _model(key), _density(key)
    A = model.priors.combinations()
    joint = model.pymc_model()
    point = _random_point(joint)
    beta = A @ np.asarray(_value(joint, "beta", point))
    z = [np.asarray(point[names.z]).ravel() for names in model.names.factors]
    sds = [found[0] for found in _own_factors(model, joint, point)]
    sigma = float(_value(joint, "sigma", point))
    own = density.prior.coefficients
    numbers = density.fixed.lifted.numbers(np.linalg.solve(A, beta))
    x = np.concatenate(
        [
            unconstrain(density.scales, np.concatenate([*sds, [sigma]])),
            unconstrain(own.scales, numbers),
        ]
    )
    left = _left(model, A, sigma, beta, np.concatenate([np.zeros(0), *z]), point)
    slopes = [
        scale_terms(density.scales, x[: density.first_correlation])[3],
        scale_terms(own.scales, x[density.first_coefficient :])[3],
    ]
    pinned = np.array([p.name not in ("Normal", "Flat") for p in _priors(model)])
    units = np.abs(A[pinned]).max(axis=1) / np.abs(density.fixed.lifted.rows).max(axis=1)
    jacobian = np.log(np.abs(np.concatenate([*slopes, units]))).sum()
    joint_density = float(_log_density(joint, point, jacobian=False))
    assert density.value(x) - jacobian == pytest.approx(joint_density - left, rel=1e-8)


NEW_FAMILIES = [
    blm.Prior("StudentT", nu=3, mu=1, sigma=2),
    blm.Prior("Cauchy", alpha=1, beta=2),
    blm.Prior("Laplace", mu=1, b=2),
    blm.Prior("Logistic", mu=1, s=2),
    blm.Prior("SkewNormal", mu=1, sigma=2, alpha=-3),
    blm.Prior("SkewNormal", mu=1, tau=2, alpha=5),
    blm.Prior("Uniform", lower=-3, upper=6),
    blm.Prior("TruncatedNormal", mu=1, sigma=2, upper=5),
    blm.Prior("TruncatedNormal", mu=9, sigma=2, lower=-4, upper=5),
    blm.Prior("TruncatedNormal", mu=1, sigma=2, lower=-4),
    blm.Prior("TruncatedNormal", mu=1, sigma=2),
]


@pytest.mark.parametrize("prior", NEW_FAMILIES, ids=repr)
def test_families_have_pymcs_densities_and_exact_gradients_in_any_unit(prior):
    import pymc as pm

    from bayeslmm.parts.scales import standardized

    sc = scales([prior])
    bounded = np.isfinite(sc.lower[0]) or np.isfinite(sc.upper[0])
    center, unit = (0.0, 1.0) if bounded else (0.7, 3.0)
    sc = standardized(sc, np.array([center]), np.array([unit]))
    for s in (-2.6, 0.31, 4.4):
        x = unconstrain(sc, [(s - center) / unit])
        value, gradient, at, slope = scale_terms(sc, x)
        assert center + unit * at[0] == pytest.approx(s, rel=1e-12)
        parameters = {k: np.array(v, dtype=float) for k, v in prior.parameters.items()}
        distribution = getattr(pm, prior.name).dist(**parameters)
        expected = float(pm.logp(distribution, np.array(s)).eval(mode="FAST_COMPILE"))
        log_slope = np.log(unit * abs(slope[0]))
        # PyMC keeps constants such as log 2 in single precision: 6e-8 of them
        assert value - log_slope == pytest.approx(expected, rel=1e-7, abs=1e-7)
        step = np.array([1e-5])
        difference = scale_terms(sc, x + step)[0] - scale_terms(sc, x - step)[0]
        assert gradient[0] == pytest.approx(difference / 2e-5, rel=1e-6, abs=1e-8)


def test_priors_that_no_compiled_density_knows_go_through_pymc():
    model = quietly(*(lambda f, n: (f, dataset(n)))(*SLEEP))
    model.priors["Days"] = blm.Prior("Moyal", mu=1, sigma=3)
    assert "Moyal" in marginal_obstacle(model.design, model.priors)


@cache
def _tiny():
    """Eight rows, a column that repeats another, and heavy-tailed priors on both."""
    import pandas as pd

    rng = np.random.default_rng(3)
    x = rng.normal(size=8)
    y = 1.0 + 0.8 * x + 0.5 * rng.normal(size=8)
    data = pd.DataFrame({"y": y, "x": x, "twice": 2.0 * x})
    priors = {
        "Intercept": blm.Prior("Normal", mu=0, sigma=2),
        "x": blm.Prior("StudentT", nu=3, mu=0, sigma=0.5),
        "twice": blm.Prior("Laplace", mu=0, b=0.3),
        "sigma": blm.Prior("HalfNormal", sigma=1),
    }
    return quietly("y ~ x + twice", data, priors=priors)


def _brute_force(model):
    """Means and sds of (x, twice) over a grid of everything, the intercept integrated in closed
    form.
    """
    from scipy import stats

    data = model.design
    slopes = np.linspace(-6, 8, 281)
    halves = np.linspace(-5, 5, 201)
    weights = np.zeros((len(slopes), len(halves)))
    x, n, y = data.X[:, 1], data.n_rows, data.y
    center = x.mean()
    for sigma in np.exp(np.linspace(-3, 1.5, 60)):
        slope = slopes[:, None] + 2.0 * halves
        gap = y - slope[..., None] * (x - center)
        log_p = -0.5 * ((gap - gap.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1) / sigma**2
        log_p = log_p - (n - 1) * np.log(sigma)
        log_p += stats.norm(0, np.sqrt(4 + sigma**2 / n)).logpdf(gap.mean(axis=-1))
        log_p += stats.halfnorm(scale=1).logpdf(sigma) + np.log(sigma)
        weights += np.exp(log_p)
    weights *= stats.t(3, 0, 0.5).pdf(slopes)[:, None] * stats.laplace(0, 0.3).pdf(halves)
    weights /= weights.sum()
    means = np.array([weights.sum(axis=1) @ slopes, weights.sum(axis=0) @ halves])
    squares = np.array([weights.sum(axis=1) @ slopes**2, weights.sum(axis=0) @ halves**2])
    return means, np.sqrt(squares - means**2)


@pytest.mark.parametrize("method", ["nuts", "importance"])
def test_the_posterior_of_columns_that_priors_alone_tell_apart_is_that_of_brute_force(method):
    model = _tiny()
    fit = model.fit(method=method, draws=4000, chains=4, random_seed=2, progressbar=False)
    assert fit.info.parameterization == "marginal"
    draws = fit.posterior["beta"].to_numpy().reshape(-1, 3)[:, 1:]
    means, sds = _brute_force(model)
    # of 16,000 draws some 2,000 are effective: five standard errors of a mean are 0.11 sds, and
    # six of an sd with tails as heavy as these 0.15
    np.testing.assert_allclose(draws.mean(axis=0), means, atol=0.12 * sds.max())
    np.testing.assert_allclose(draws.std(axis=0), sds, rtol=0.15)
