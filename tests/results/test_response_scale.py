"""What a likelihood fit says of a response that is not Gaussian."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.optimize import minimize
from scipy.special import betaln, expit

import bayeslmm as blm
from bayeslmm.errors import DataError
from bayeslmm.parts.families import family_of

FORMULA = "incidence of size ~ period + (1 | herd)"


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return blm.load_dataset("cbpp")


@pytest.fixture(scope="module")
def fit(data):
    return blm.MixedModel(FORMULA, data, family="binomial").ml()


def _laplace_deviance(data):
    """Minus twice Laplace's log-likelihood at (sd, coefficients), written from its definition."""
    y, n = (data[name].to_numpy(float) for name in ("incidence", "size"))
    X = np.column_stack([np.ones(len(y)), *(data["period"].astype(str) == k for k in "234")])
    herd = np.unique(data["herd"], return_inverse=True)[1]
    constants = -(np.log(n + 1) + betaln(y + 1, n - y + 1)).sum()

    def deviance(v):
        sd, u = v[0], np.zeros(herd.max() + 1)
        for _ in range(30):
            eta = X @ v[1:] + sd * u[herd]
            p = expit(eta)
            curvature = 1 + np.bincount(herd, sd**2 * n * p * (1 - p))
            step = (np.bincount(herd, sd * (y - n * p)) - u) / curvature
            u = u + step
        assert abs(step).max() < 1e-12
        conditional = constants + (y * eta - n * np.logaddexp(0, eta)).sum()
        return -2 * conditional + u @ u + np.log(curvature).sum()

    return deviance


def test_at_profile_limits_the_likelihood_ratio_is_the_quantile(fit, data):
    """The other parameters at the optimum of another program."""
    found = fit.confint(progressbar=False)[["lower", "upper"]].to_numpy()
    deviance = _laplace_deviance(data)
    best = np.array([fit.varcomp()["estimate"].iloc[0], *fit.fixef()["estimate"]])
    for parameter, limits in zip((1, 2, 3, 4, 0), found, strict=True):
        for limit in limits:
            held = minimize(
                lambda free, j=parameter, x=limit: deviance(np.insert(free, j, x)),
                np.delete(best, parameter),
                options={"gtol": 1e-5},
            )
            assert held.fun - deviance(best) == pytest.approx(stats.chi2.ppf(0.95, 1), abs=1e-6)


def test_lower_profile_limits_are_those_of_glmmtmb(fit):
    """Numbers and tolerance of tests/testthat/test-glmmTMB.R in bbolker/broom.mixed."""
    found = fit.confint(progressbar=False)["lower"].iloc[:4]
    glmmtmb = [-1.9012409337, -1.61676924, -1.8010155, -2.50085]
    np.testing.assert_allclose(found, glmmtmb, rtol=1e-4)


def test_profiles_end_where_the_deviance_has_risen_by_the_quantile(data):
    """The deviance with a component held, by a search that knows nothing of profiles."""
    two = data.assign(x=np.random.default_rng(1).normal(size=len(data)))
    model = blm.MixedModel("incidence of size ~ period + (x | herd)", two, family="binomial")
    with pytest.warns():
        fit = model.ml()
    engine, solution = fit._engine, fit._solution
    names = [component.name for component in engine.components]
    for name, value in (("sd(x | herd)", 0.4), ("corr(Intercept, x | herd)", 0.3)):
        component = engine.components[names.index(name)]
        held = engine.component_profile(solution, component)(value)

        def deviance(v, component=component, value=value):
            a, b, c = v[:3]
            size = np.hypot(b, c)
            if component.kind == "sd":
                b, c = value * np.tanh(b), value * np.sqrt(1 - np.tanh(b) ** 2)
            else:
                b, c = size * value, size * np.sqrt(1 - value**2)
            theta = np.array([a, b, c, *v[3:]])
            return -2 * engine.solution(theta, False).loglik

        start = np.array([0.6, 0.1, 0.3, *solution.beta])
        options = {"maxiter": 4000, "xatol": 1e-5, "fatol": 1e-7, "maxfev": 8000}
        found = minimize(deviance, start, method="Nelder-Mead", options=options)
        assert held == pytest.approx(found.fun, abs=2e-3)
        assert held <= found.fun + 1e-5


def test_a_threshold_is_profiled_as_it_is_named():
    wine = blm.load_dataset("wine")
    fit = blm.MixedModel("rating ~ temp + contact + (1 | judge)", wine, family="ordinal").ml()
    (name,) = [name for name in fit.components().index if re.match(r"threshold\[2\|3\]", name)]
    found = fit.confint(parameters=[name], progressbar=False).iloc[0]
    wald = fit.varcomp().loc[name]
    # nearly quadratic: the two kinds of interval agree in place and length
    assert found["lower"] == pytest.approx(wald["lower"], abs=0.5 * wald["se"])
    assert found["upper"] == pytest.approx(wald["upper"], abs=0.5 * wald["se"])
    deviance = fit._engine.component_profile(
        fit._solution, fit._engine.components[fit.components().index.get_loc(name)]
    )
    assert deviance(fit.components()[name]) == pytest.approx(fit.deviance, abs=1e-5)
    assert deviance(found["upper"]) - fit.deviance == pytest.approx(3.841459, abs=1e-4)


def test_tests_are_normal_ones(fit):
    table = fit.fixef()
    assert np.all(np.isinf(table["df"]))
    pd.testing.assert_frame_equal(table, fit.fixef("normal"))
    anova = fit.anova()
    L = np.eye(4)[1:]
    beta, V = fit._solution.beta, fit.vcov.to_numpy()
    chi2 = beta @ L.T @ np.linalg.solve(L @ V @ L.T, L @ beta)
    assert anova.loc["period", "F"] == pytest.approx(chi2 / 3, rel=1e-10)
    assert np.isinf(anova.loc["period", "dendf"])
    for ddf in ("satterthwaite", "kenward-roger"):
        with pytest.raises(DataError, match=f'ddf="{ddf}" is for Gaussian responses'):
            fit.fixef(ddf)


def test_predictions_of_the_mean_are_those_of_the_link_transformed(fit):
    link, mean = fit.predict(kind="link"), fit.predict()
    inverse = lambda eta: 1 / (1 + np.exp(-eta))  # noqa: E731
    for name in ("estimate", "lower", "upper"):
        np.testing.assert_allclose(mean[name], inverse(link[name]), rtol=1e-10)
    p = mean["estimate"]
    np.testing.assert_allclose(mean["se"], p * (1 - p) * link["se"], rtol=1e-6)
    np.testing.assert_allclose(fit.fitted(), p, rtol=1e-12)
    np.testing.assert_allclose(fit.fitted(kind="link"), link["estimate"], rtol=1e-12)
    population = fit.predict({"period": ["1", "2"]}, random="population", kind="link")
    rows = np.array([[1, 0, 0, 0], [1, 1, 0, 0]])
    wanted = np.sqrt(np.einsum("ia,ab,ib->i", rows, fit.vcov.to_numpy(), rows))
    np.testing.assert_allclose(population["se"], wanted, rtol=1e-9)
    new = fit.predict({"period": ["1"], "herd": ["none"]}, random="new", kind="link")
    total = wanted[0] ** 2 + fit.components().iloc[0] ** 2
    assert new["se"].iloc[0] == pytest.approx(np.sqrt(total), rel=1e-9)


def test_standard_errors_of_linear_predictors_are_those_of_the_joint_normal_approximation(fit):
    """The inverse of the joint information of coefficients and effects, theta held."""
    design = fit.design
    Z = (design.blocks[0].codes[:, None] == np.arange(design.blocks[0].n_levels)).astype(float)
    p = fit.fitted().to_numpy()
    w = design.trials * p * (1 - p)
    A = np.hstack([design.X, Z])
    H = A.T @ (w[:, None] * A)
    H[4:, 4:] += np.eye(Z.shape[1]) / fit.components().iloc[0] ** 2
    inverse = np.linalg.inv(H)
    given = np.linalg.inv(H[4:, 4:])
    np.testing.assert_allclose(fit.ranef()["sd"], np.sqrt(np.diag(given)), rtol=1e-9)
    # the coefficients' own covariance is of the whole likelihood, theta's uncertainty in it
    along = np.hstack([np.eye(4), -(H[:4, 4:] @ given)])
    V = along.T @ fit.vcov.to_numpy() @ along
    V[4:, 4:] += given
    wanted = np.sqrt(np.einsum("ia,ab,ib->i", A, V, A))
    np.testing.assert_allclose(fit.predict(kind="link")["se"], wanted, rtol=1e-8)
    assert np.all(np.abs(wanted / np.sqrt(np.einsum("ia,ab,ib->i", A, inverse, A)) - 1) < 0.1)


def test_residuals_are_those_of_the_definitions(fit):
    y, m, p = fit.design.y, fit.design.trials, fit.fitted().to_numpy()
    np.testing.assert_allclose(fit.residuals(), y - m * p, rtol=1e-12)
    pearson = (y - m * p) / np.sqrt(m * p * (1 - p))
    np.testing.assert_allclose(fit.residuals(kind="pearson"), pearson, rtol=1e-10)
    with np.errstate(all="ignore"):
        terms = [np.where(k > 0, k * np.log(k / (m * q)), 0) for k, q in ((y, p), (m - y, 1 - p))]
    deviance = np.sign(y - m * p) * np.sqrt(2 * (terms[0] + terms[1]))
    np.testing.assert_allclose(fit.residuals(kind="deviance"), deviance, rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match='"?raw"?.*pearson.*deviance'):
        fit.residuals(kind="normalized")


@pytest.mark.parametrize("family", ["poisson", "gamma", "negativebinomial", "lognormal"])
def test_squared_deviance_residuals_are_what_rows_lack_in_likelihood(family):
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(10), 8)
    mu = np.exp(0.5 + rng.normal(0, 0.5, 10)[g])
    y = rng.gamma(3, mu / 3) if family in ("gamma", "lognormal") else rng.poisson(mu)
    fit = blm.MixedModel("y ~ 1 + (1 | g)", {"y": y, "g": g}, family=family).ml()
    design, phi = fit.design, fit._solution.phi
    eta = fit.fitted(kind="link").to_numpy()
    grid = np.linspace(-25, 6, 60001)[:, None]
    highest = design.family.log_density(design.y, grid, phi).max(axis=0)
    gap = highest - design.family.log_density(design.y, eta, phi)
    found = fit.residuals(kind="deviance") ** 2
    np.testing.assert_allclose(found, 2 * gap, rtol=1e-3, atol=1e-4)


def test_simulated_responses_have_the_mean_and_spread_of_the_model(fit):
    draws = fit.simulate(4000, random_seed=1).to_numpy()
    m, sd = fit.design.trials, fit.components().iloc[0]
    eta = fit.fitted("population", "link").to_numpy()
    z = np.random.default_rng(2).normal(size=(20_000, 1))
    p = 1 / (1 + np.exp(-(eta + sd * z)))
    error = np.sqrt(m**2 * p.var(axis=0) + m * (p * (1 - p)).mean(axis=0))
    # five standard errors of 4,000 draws, and 4 % for the 20,000 that the mean is made of
    gap = draws.mean(axis=1) - m * p.mean(axis=0)
    assert np.all(np.abs(gap) < 5 * error / np.sqrt(4000) * 1.1)
    np.testing.assert_allclose(draws.std(axis=1), error, rtol=0.1)


def test_a_bootstrap_and_refits_stay_in_the_support(fit):
    draws = fit.simulate(12, random_seed=3)
    refits = fit.refit_many(draws, progressbar=False)
    again = fit.refit(draws[0])
    np.testing.assert_allclose(refits.coefficients.iloc[0], again._solution.beta, atol=1e-4)
    np.testing.assert_allclose(
        refits.standard_errors.iloc[0], np.sqrt(np.diag(again.vcov)), rtol=1e-3
    )
    table = fit.confint("bootstrap", n_sims=20, random_seed=1, progressbar=False)
    assert np.all(table["lower"] < table["upper"])
    for refit in (fit.refit, lambda y: fit.refit_many(y.to_numpy()[:, None])):
        with pytest.raises(DataError, match="is -1 of"):
            refit(draws[0] * 0 - 1)


def test_likelihood_ratios_are_of_one_family_and_one_approximation(fit, data):
    null = blm.MixedModel("incidence of size ~ 1 + (1 | herd)", data, family="binomial").ml()
    table = blm.likelihood_ratio_test(null, fit)
    assert table["statistic"].iloc[1] == pytest.approx(2 * (fit.loglik - null.loglik), rel=1e-10)
    assert table["df"].iloc[1] == 3
    probit = blm.MixedModel(FORMULA, data, family="binomial", link="probit").ml()
    with pytest.raises(ValueError, match="different families or links"):
        blm.likelihood_ratio_test(null, probit)
    nodes = blm.MixedModel(FORMULA, data, family="binomial").ml(n_quadrature=5)
    with pytest.raises(ValueError, match="not approximated alike"):
        blm.likelihood_ratio_test(null, nodes)


@pytest.mark.parametrize(
    "what",
    [
        lambda fit: fit.implied_covariance(),
        lambda fit: fit.reliability(),
        lambda fit: fit.heritability(),
        lambda fit: fit.repeatability(),
        lambda fit: fit.plot_trajectories(),
        lambda fit: fit.plot_shrinkage(),
        lambda fit: fit.predict(given=pd.DataFrame({"herd": ["1"]})),
        lambda fit: fit.predict(kind="response"),
        lambda fit: fit.model.reml(),
    ],
)
def test_what_is_not_there_is_refused_by_the_name_of_the_family(fit, what):
    with pytest.raises(DataError, match='family="binomial"'):
        what(fit)


def test_residual_variances_are_refused(fit):
    for ask in (fit.whiten, fit.residual_noise):
        with pytest.raises(DataError, match="not defined for a response that is not Gaussian"):
            ask(fit.design.y)


@pytest.mark.parametrize("family", ["ordinal", "zero_inflated_poisson", "lognormal"])
def test_means_of_groups_have_the_uncertainty_of_what_they_depend_on(family):
    """By differences: modes found again at each coefficient and parameter of the family moved."""
    rng = np.random.default_rng(4)
    group, x = np.repeat(np.arange(15), 8), rng.normal(size=120)
    eta = 0.4 + 0.6 * x + rng.normal(0.0, 0.7, 15)[group]
    phi = {"ordinal": [-0.6, 0.8], "zero_inflated_poisson": [0.3], "lognormal": [0.5]}[family]
    own = family_of(family, n_categories=3 if family == "ordinal" else None)
    y = np.asarray(own.draw(rng, eta, np.array(phi)))
    if family == "ordinal":
        y = pd.Categorical.from_codes(y.astype(int), ["a", "b", "c"], ordered=True)
    data = pd.DataFrame({"y": y, "x": x, "g": group})
    fit = blm.MixedModel("y ~ x + (1 | g)", data, family=family).ml()
    engine, solution = fit._engine, fit._solution
    F, phi, beta = engine.parts(solution.theta)

    def means(v):
        b, p = np.split(v, [len(beta)])
        return own.mean(engine.problem.mode(F, p, b).eta, p)

    at, h = np.concatenate([beta, phi]), 1e-4
    slopes = np.array([(means(at + d) - means(at - d)) / (2 * h) for d in h * np.eye(len(at))])
    joint = engine.slope_of_all(solution, lambda b, _, p: np.concatenate([b, p]))
    covariance = joint.T @ solution.curvature.covariance @ joint
    eta = solution.mode.eta
    along = (own.mean(eta + h, phi) - own.mean(eta - h, phi)) / (2 * h)
    given = along**2 * fit.conditional_covariances("g")[fit.design.blocks[0].codes, 0, 0]
    expected = np.sqrt(given + np.einsum("ai,ab,bi->i", slopes, covariance, slopes))
    table = fit.predict()
    np.testing.assert_allclose(table["se"], expected, rtol=1e-5)
    known = np.abs(along) * fit.predict(kind="link")["se"]
    assert np.max(np.abs(known / expected - 1.0)) > 1e-3
    assert ((table["lower"] < table["estimate"]) & (table["estimate"] < table["upper"])).all()
