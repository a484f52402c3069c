"""The PyMC model of responses that are not Gaussian has the density of families and priors."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from arviz_stats.base import array_stats
from scipy import integrate, special, stats

import bayeslmm as blm
from bayeslmm.bayes.draws import component_draws
from bayeslmm.bayes.names import model_names
from bayeslmm.bayes.predictive import posterior_predictive
from bayeslmm.bayes.responses import phi_draws
from bayeslmm.bayes.tree import linear_predictor, log_likelihood, posterior_dataset, posterior_tree
from bayeslmm.parts.families import FAMILIES, family_of, links_of
from tests.bayes.test_hierarchical import _log_density, _own_factors, _random_point, _value

NAMES = [name for name in FAMILIES if not family_of(name).gaussian]
MODELS = [(name, None) for name in NAMES] + [
    ("bernoulli", "probit"),
    ("binomial", "cloglog"),
    ("beta", "probit"),
    ("ordinal", "probit"),
    ("ordinal", "cloglog"),
]
LINKED = [(name, link) for name in NAMES for link in links_of(name)]
PHI = {
    "negativebinomial": [1.7],
    "gamma": [2.3],
    "beta": [6.0],
    "lognormal": [0.6],
    "gaussian": [0.6],
    "student": [0.6, 4.0],
    "ordinal": [-1.1, 0.2, 0.9],
    "zero_inflated_poisson": [0.3],
    "zero_inflated_negativebinomial": [1.7, 0.3],
}
TRIALS = 7


def _family(name, link=None):
    return family_of(name, link, n_categories=4 if name == "ordinal" else None)


def _responses(family, eta, rng):
    """Drawn ones, and trials where there are any."""
    trials = np.full(len(eta), float(TRIALS)) if family.name == "binomial" else np.ones(len(eta))
    y = family.draw(rng, eta, np.array(PHI.get(family.name, [])), trials)
    return (np.clip(y, 1e-6, 1 - 1e-6) if family.name == "beta" else y), trials


def _model(name, link=None, *, weights=True, seed=5, n=60, **options):
    """Two factors, slopes of one of them; offset, weights and trials."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "x": rng.normal(1.0, 2.0, n),
            "e": rng.normal(0.0, 0.2, n),
            "g": np.repeat([f"g{i}" for i in range(6)], n // 6),
            "h": np.tile([f"h{i}" for i in range(5)], n // 5),
            "w": rng.uniform(0.5, 3.0, n),
        }
    )
    eta = 0.3 * frame["x"].to_numpy() + frame["e"].to_numpy()
    frame["y"], frame["m"] = _responses(_family(name, link), eta, rng)
    response = "y of m" if name == "binomial" else "y"
    return blm.MixedModel(
        f"{response} ~ x + offset(e) + (x | g) + (1 | h)",
        frame,
        family=name,
        link=link,
        weights="w" if weights else None,
        **options,
    )


def _phi(model, pymc_model, point):
    parts = [_value(pymc_model, own.key, point) for own in model.design.family.parameters]
    return np.concatenate([np.empty(0), *(np.ravel(part) for part in parts)])


def _log_likelihood(model, pymc_model, point):
    """From the family's own log density."""
    design = model.design
    eta = design.offset + design.X @ _value(pymc_model, "beta", point)
    for block, factor in zip(design.blocks, model.names.factors, strict=True):
        b = _value(pymc_model, factor.b, point)
        eta = eta + (block.Z * b[block.codes]).sum(axis=1)
    trials = 1.0 if design.trials is None else design.trials
    weights = 1.0 if design.weights is None else design.weights
    phi = _phi(model, pymc_model, point)
    return (weights * design.family.log_density(design.y, eta, phi, trials)).sum()


def _log_prior(prior, value):
    p = prior.parameters
    made = {
        "Normal": lambda: stats.norm(p["mu"], p["sigma"]).logpdf(value),
        "HalfStudentT": lambda: np.log(2) + stats.t(p["nu"], scale=p["sigma"]).logpdf(value),
        "InverseGamma": lambda: stats.invgamma(p["alpha"], scale=p["beta"]).logpdf(value),
        "LogNormal": lambda: stats.lognorm(p["sigma"], scale=np.exp(p["mu"])).logpdf(value),
        "Uniform": lambda: stats.uniform(p["lower"], p["upper"] - p["lower"]).logpdf(value),
        "Logistic": lambda: stats.logistic(p["mu"], p["s"]).logpdf(value),
        "GumbelMin": lambda: stats.gumbel_l(p["mu"], p["beta"]).logpdf(value),
    }
    return float(np.sum(made[prior.name]()))


def _log_priors(model, pymc_model, point, parameterization):
    """Of everything that is not observed, in natural units."""
    priors, design = model.priors, model.design
    beta = _value(pymc_model, "beta", point)
    keys = list(priors.coefficients)
    total = sum(
        _log_prior(priors[key], value)
        for key, value in zip(keys, priors.combinations() @ beta, strict=True)
    )
    for own in design.family.parameters:
        value = _value(pymc_model, own.key, point)
        if own.key == "threshold":
            value = value - design.X.mean(axis=0) @ beta
            total += special.gammaln(own.size + 1)
        total += _log_prior(priors[own.key], value)
    factors = _own_factors(model, pymc_model, point)
    for block, names, (sd, F, root) in zip(
        design.blocks, model.names.factors, factors, strict=True
    ):
        total += sum(
            _log_prior(prior, value)
            for prior, value in zip(priors.of("sd", block.name), sd, strict=True)
        )
        if block.correlated_pairs():  # LKJ(2) of one correlation
            rho = (F @ F.T)[0, 1] / (sd[0] * sd[1])
            total += np.log(0.75 * (1 - rho**2))
        if parameterization == "noncentered":
            total += stats.norm.logpdf(point[names.z]).sum()
        else:
            b = _value(pymc_model, names.b, point)
            normal = stats.multivariate_normal(np.zeros(len(sd)), root @ root.T)
            total += normal.logpdf(b).sum()
    return total


@pytest.mark.parametrize(
    ("name", "link", "parameterization"),
    [
        *((name, link, "noncentered") for name, link in MODELS),
        # effects know nothing of the family
        *((name, None, "centered") for name in ("binomial", "ordinal")),
    ],
)
def test_the_density_is_that_of_the_family_and_of_the_priors(name, link, parameterization):
    model = _model(name, link)
    pymc_model = model.pymc_model(parameterization)
    for seed in (1, 2):
        point = _random_point(pymc_model, seed=seed)
        likelihood = _log_likelihood(model, pymc_model, point)
        observed = _log_density(pymc_model, point, vars=pymc_model.observed_RVs)
        assert float(observed) == pytest.approx(likelihood, rel=1e-10)
        priors = _log_priors(model, pymc_model, point, parameterization)
        whole = _log_density(pymc_model, point, jacobian=False)
        assert float(whole) == pytest.approx(likelihood + priors, rel=1e-10)


def _densities(family, y, eta, phi, trials):
    """PyMC's log densities and their derivatives in eta and in phi."""
    import pytensor
    import pytensor.tensor as pt

    from bayeslmm.bayes.response_densities import RESPONSE_DENSITIES

    predictor, own = pt.dvector(), [pt.dscalar() for _ in phi]
    density = RESPONSE_DENSITIES[family.name]
    value = density(pt.as_tensor(y), predictor, family.link.name, own, pt.as_tensor(trials))
    gradients = pytensor.grad(value.sum(), [predictor, *own], disconnected_inputs="ignore")
    function = pytensor.function([predictor, *own], [value, *gradients], mode="FAST_COMPILE")
    return function(eta, *phi)


def _inside(family, rng, n):
    """Linear predictors that are those of a mean."""
    eta = rng.normal(0.0, 2.0, n)
    if family.link.name == "identity" and family.name in ("bernoulli", "binomial"):
        return special.expit(eta)
    if family.link.name == "log" and family.name in ("bernoulli", "binomial"):
        return -np.exp(eta)
    positive = family.link.name == "inverse" or (
        family.link.name == "identity" and family.name != "lognormal"
    )
    return np.exp(0.5 * eta) if positive else eta


@pytest.mark.parametrize(("name", "link"), LINKED)
def test_log_densities_and_slopes_are_those_of_the_families(name, link):
    family, rng = _family(name, link), np.random.default_rng(3)
    eta, phi = _inside(family, rng, 400), PHI.get(name, [])
    y, trials = _responses(family, eta, rng)
    value, slope, *in_phi = _densities(family, y, eta, phi, trials)
    expected = family.slopes(y, eta, np.array(phi), trials)
    np.testing.assert_allclose(value, expected[0], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(slope, expected[1], rtol=1e-8, atol=1e-9)
    own = family.phi_slopes(y, eta, np.array(phi), trials)[:, 0]
    np.testing.assert_allclose(in_phi, own.sum(axis=-1), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("name", "link"), LINKED)
def test_far_out_in_a_tail_log_densities_and_gradients_stay_numbers(name, link):
    family, phi = _family(name, link), PHI.get(name, [])
    eta = np.array([-800.0, -40.0, -30.0, -8.0, 8.0, 30.0, 40.0, 800.0])
    ys = {"gamma": [0.5], "beta": [0.2], "lognormal": [0.5], "ordinal": [0.0, 1.0, 3.0]}
    y, eta = (each.ravel() for each in np.meshgrid(ys.get(name, [0.0, 1.0]), eta))
    value, *gradients = _densities(family, y, eta, phi, np.ones(len(eta)))
    assert not np.isnan(value).any()
    assert not any(np.isnan(gradient).any() for gradient in gradients)
    near = np.abs(eta) <= 40
    expected = family.log_density(y, eta, np.array(phi))
    np.testing.assert_allclose(value[near], expected[near], rtol=1e-10, atol=1e-15)
    if link in ("logit", "probit", "cloglog"):
        assert np.isfinite(value).all()


@pytest.mark.parametrize("alpha", [1e2, 1e6, 1e12])
def test_without_overdispersion_a_negative_binomial_is_poisson(alpha):
    y, eta = np.arange(30.0), np.full(30, 2.0)
    value = _densities(_family("negativebinomial"), y, eta, [alpha], np.ones(30))[0]
    # log density less Poisson's is (y - (y - mu)^2) / (2 alpha), and terms of 1 / alpha^2
    mu = np.exp(2.0)
    first = (y - (y - mu) ** 2) / (2 * alpha)
    np.testing.assert_allclose(
        value - stats.poisson.logpmf(y, mu), -first, atol=4e4 / alpha**2 + 1e-12
    )


def test_thresholds_have_ordered_independent_priors_at_the_means_of_the_predictors():
    model = _model("ordinal")
    model.priors["threshold"] = blm.Prior("StudentT", nu=4, mu=1, sigma=2)
    pymc_model = model.pymc_model()
    centered = pymc_model["threshold_centered"]
    point = _random_point(pymc_model)
    value = _value(pymc_model, "threshold_centered", point)
    assert np.all(np.diff(value) > 0)
    density = _log_density(pymc_model, point, vars=[centered], jacobian=False)
    each = stats.t(4, loc=1, scale=2).logpdf(value).sum()
    assert float(density) == pytest.approx(each + np.log(6), rel=1e-12)
    moved = _value(pymc_model, "threshold", point) - value
    beta = _value(pymc_model, "beta", point)
    np.testing.assert_allclose(moved, model.design.X.mean(axis=0) @ beta)


def test_thresholds_out_of_order_have_no_density():
    import pymc as pm

    with _model("ordinal").pymc_model() as pymc_model:
        density = pm.logp(pymc_model["threshold_centered"], np.array([0.0, -1.0, 2.0]))
    assert density.eval(mode="FAST_COMPILE") == -np.inf


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog"])
def test_by_default_category_probabilities_are_uniform_on_the_simplex(link):
    """The cumulative ones are then uniform order statistics: means k / K, known variances."""
    n, rng = 1500, np.random.default_rng(6)
    frame = pd.DataFrame({"y": rng.integers(0, 4, 40), "x": rng.normal(3.0, 2.0, 40)})
    model = blm.MixedModel("y ~ x", frame, family="ordinal", link=link)
    prior = model.prior_predictive(draws=n, random_seed=4)["prior"]
    threshold, beta = prior["threshold"].to_numpy()[0], prior["beta"].to_numpy()[0]
    at_means = threshold - beta * frame["x"].mean()
    assert np.all(np.diff(at_means, axis=1) > 0)
    below = _family("ordinal", link).link.inverse(at_means)
    k = np.arange(1, 4)
    variance = k * (4 - k) / (16 * 5)
    assert np.all(np.abs(below.mean(axis=0) - k / 4) < 5.5 * np.sqrt(variance / n))
    # variances of draws with a fourth moment below that of a normal
    assert np.all(np.abs(below.var(axis=0) / variance - 1) < 5.5 * np.sqrt(2 / n))


@pytest.mark.parametrize("name", NAMES)
def test_responses_of_the_prior_are_inside_the_support(name):
    y, trials = _responses(_family(name), np.zeros(40), np.random.default_rng(1))
    frame = pd.DataFrame({"y": y, "m": trials, "x": np.linspace(-1, 2, 40)})
    response = "y of m" if name == "binomial" else "y"
    model = blm.MixedModel(f"{response} ~ x", frame, family=name)
    tree = model.prior_predictive(draws=40, random_seed=2)
    y = tree["prior_predictive"]["y"]
    assert y.dims == ("chain", "draw", "obs")
    family, trials = model.design.family, model.design.trials
    for draw in y.to_numpy()[0]:
        # a beta of a tiny kappa is 0 or 1, a gamma of a tiny alpha 0, to the last bit
        inside = (
            draw
            if family.discrete
            else np.clip(draw, 1e-300, 1 - 1e-16 if name == "beta" else None)
        )
        assert family.check(inside, trials) is None
    assert [own.key in tree["prior"] for own in family.parameters] == [True] * len(
        family.parameters
    )


def test_responses_of_the_prior_have_the_mean_of_their_predictor():
    fixed = {
        "beta": blm.Prior("Normal", mu=0, sigma=1e-3),
        "sd": blm.Prior("HalfNormal", sigma=1e-3),
    }
    fixed["Intercept"] = blm.Prior("Normal", mu=0.5, sigma=1e-3)
    model = _model("binomial", "probit", priors=fixed)
    n = 500
    y = model.prior_predictive(draws=n, random_seed=2)["prior_predictive"]["y"].to_numpy()[0]
    p = stats.norm.cdf(0.5 + model.design.offset)
    error = np.sqrt(TRIALS * p * (1 - p) / n)
    assert np.all(np.abs(y.mean(axis=0) - TRIALS * p) < 5.5 * error)


@pytest.mark.parametrize(
    ("name", "taken"),
    [("negativebinomial", "alpha"), ("ordinal", "threshold"), ("ordinal", "threshold_between")],
)
def test_a_factor_with_the_name_of_a_parameter_gets_another_dimension(name, taken):
    model = _model(name)
    frame = pd.DataFrame({"y": model.design.y, taken: np.repeat(list("abcdef"), 10)})
    other = blm.MixedModel(f"y ~ 1 + (1 | {taken})", frame, family=name)
    assert model_names(other.design).factors[0].dim == f"{taken}_"
    other.pymc_model()


def _posterior(model, seed=0, chains=2, draws=3):
    """A posterior with arbitrary values."""
    rng, design = np.random.default_rng(seed), model.design
    pymc_model = model.pymc_model()
    values = {}
    points = [_random_point(pymc_model, seed=s) for s in rng.integers(0, 1000, chains * draws)]
    wanted = ["beta", *(own.key for own in design.family.parameters)]
    for factor in model.names.factors:
        wanted += [factor.sd, factor.b]
    wanted.append(model.names.factors[0].corr)
    for name in wanted:
        found = np.array([_value(pymc_model, name, point) for point in points])
        values[name] = found.reshape(chains, draws, *found.shape[1:])
    likelihood = [_log_likelihood(model, pymc_model, point) for point in points]
    return posterior_dataset(design, model.names, values), np.reshape(likelihood, (chains, draws))


@pytest.mark.parametrize("name", ["binomial", "ordinal", "zero_inflated_negativebinomial"])
def test_a_posterior_has_the_parameters_of_its_family(name):
    model = _model(name)
    design, names = model.design, model.names
    posterior, total = _posterior(model)
    labels, components = component_draws(design, names, posterior)
    assert labels == [key for key in model.priors.components() if key not in design.coef_names]
    n_phi = design.family.n_phi
    np.testing.assert_array_equal(
        components[..., len(labels) - n_phi :], phi_draws(design, posterior)
    )
    if name == "ordinal":
        assert posterior["threshold"].dims == ("chain", "draw", "threshold_between")
        assert posterior["threshold_between"].to_numpy().tolist() == ["0|1", "1|2", "2|3"]
    rows = log_likelihood(design, names, posterior)["y"]
    np.testing.assert_allclose(rows.sum("obs"), total, rtol=1e-10)
    tree = posterior_tree(design, names, posterior, posterior[[]], {})
    assert ("trials" in tree["constant_data"]) == (name == "binomial")


def test_replicated_responses_have_the_distribution_of_their_draw():
    model = _model("ordinal", weights=False)
    posterior, _ = _posterior(model, chains=1, draws=1)
    n = 3000
    many = posterior.isel(draw=np.zeros(n, dtype=int)).assign_coords(draw=np.arange(n))
    y = posterior_predictive(model.design, model.names, many, random_seed=3)["y"].to_numpy()[0]
    eta = linear_predictor(model.design, model.names, posterior)[0, 0]
    expected = model.design.family.probabilities(eta, phi_draws(model.design, posterior)[0, 0])
    for k in range(4):
        error = np.sqrt(expected[:, k] * (1 - expected[:, k]) / n)
        assert np.all(np.abs((y == k).mean(axis=0) - expected[:, k]) < 5.5 * error + 3 / n)


def test_predictors_outside_the_link_have_no_responses():
    rng = np.random.default_rng(2)
    frame = pd.DataFrame({"y": rng.integers(0, 2, 30).astype(float)})
    priors = {"Intercept": blm.Prior("Normal", mu=0.5, sigma=1)}
    model = blm.MixedModel("y ~ 1", frame, family="bernoulli", link="identity", priors=priors)
    tree = model.prior_predictive(draws=100, random_seed=3)
    p, y = tree["prior"]["beta"].to_numpy()[0], tree["prior_predictive"]["y"].to_numpy()[0]
    outside = np.broadcast_to((p <= 0) | (p >= 1), y.shape)
    assert 0 < outside.mean() < 1
    np.testing.assert_array_equal(np.isnan(y), outside)


def test_other_parameterizations_are_no_pymc_models_of_such_a_response():
    model = _model("poisson")
    with pytest.raises(blm.DataError, match="no Gaussian, closed marginal likelihood"):
        model.pymc_model("marginal")
    with pytest.raises(ValueError, match="'noncentered', 'centered', 'marginal'"):
        model.pymc_model("whitened")


@pytest.mark.slow
def test_nuts_draws_from_the_posterior_that_integration_gives():
    """Poisson counts of three groups: intercept and sd on a grid, effects by quadrature."""
    y = np.array([[1.0, 3, 2], [4, 6, 3], [0, 1, 2]])
    frame = pd.DataFrame({"y": y.ravel(), "g": np.repeat(list("abc"), 3)})
    priors = {
        "Intercept": blm.Prior("Normal", mu=1, sigma=0.5),
        "sd(Intercept | g)": blm.Prior("HalfNormal", sigma=0.5),
    }
    model = blm.MixedModel("y ~ 1 + (1 | g)", frame, family="poisson", priors=priors)
    fit = model.fit(
        parameterization="noncentered", draws=4000, tune=1500, chains=4, random_seed=3,
        progressbar=False, target_accept=0.95,
    )  # fmt: skip
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    intercept, sd = np.linspace(-1.5, 3.5, 201), np.linspace(1e-4, 3, 201)
    a, s = np.meshgrid(intercept, sd, indexing="ij")
    eta = a[..., None] + s[..., None] * nodes
    density = stats.norm(1, 0.5).pdf(a) * stats.norm(0, 0.5).pdf(s)
    for group in y:
        density = density * (np.exp(group.sum() * eta - 3 * np.exp(eta)) @ weights)
    total = integrate.simpson(integrate.simpson(density, x=sd), x=intercept)
    post = fit.idata["posterior"]
    draws = {"a": post["beta"].to_numpy()[..., 0], "s": post["sd_g"].to_numpy()[..., 0]}
    for key, grid in (("a", a), ("s", s)):
        for power in (1, 2):
            values = draws[key] ** power
            exact = (
                integrate.simpson(integrate.simpson(density * grid**power, x=sd), x=intercept)
                / total
            )
            error = values.std() / np.sqrt(array_stats.ess(values, chain_axis=0, draw_axis=1))
            # standard errors of four means, known to some percent: 6 of them, once in 10^8
            assert abs(values.mean() - exact) < 6 * error
