"""Means of the average group and of the population of groups."""

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad

import bayeslmm as blm
from bayeslmm.errors import DataError
from bayeslmm.parts.families import family_of
from bayeslmm.results.population_average import (
    effect_variances,
    population_mean,
    population_probabilities,
)
from tests.conftest import correlation_matrix

N_GROUPS = 1_000_000
LINKS = [("bernoulli", "logit"), ("bernoulli", "probit"), ("bernoulli", "cloglog"),
         ("poisson", "log")]  # fmt: skip


def simulated_effects(rng) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """A factor with a slope and one without: Sigmas, covariates of a row, z'b of new groups."""
    Sigmas = [np.array([[0.8, -0.3], [-0.3, 0.5]]), np.array([[0.6]])]
    Z = [np.array([[1.0, 1.4]]), np.array([[1.0]])]
    b = [rng.multivariate_normal(np.zeros(len(S)), S, size=N_GROUPS) for S in Sigmas]
    return Sigmas, Z, sum(effects @ z[0] for effects, z in zip(b, Z, strict=True))


@pytest.mark.parametrize(("name", "link"), LINKS)
@pytest.mark.parametrize("eta", [-2.0, 0.7])
def test_a_population_average_is_the_mean_of_a_million_new_groups(name, link, eta):
    family, rng = family_of(name, link), np.random.default_rng(11)
    Sigmas, Z, added = simulated_effects(rng)
    means = family.mean(eta + added)
    found = population_mean(family, np.array([eta]), effect_variances(Sigmas, Z))
    # 5 standard errors: a right program fails once in two million
    assert abs(found[0] - means.mean()) < 5 * means.std() / np.sqrt(N_GROUPS)
    assert abs(family.mean(eta) - means.mean()) > 20 * means.std() / np.sqrt(N_GROUPS)


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog"])
def test_category_probabilities_are_the_means_of_a_million_new_groups(link):
    family, rng = family_of("ordinal", link, 4), np.random.default_rng(3)
    Sigmas, Z, added = simulated_effects(rng)
    phi = np.array([-1.0, 0.4, 1.9])
    each = family.probabilities(0.5 + added, phi)
    found = population_probabilities(family, np.array([0.5]), effect_variances(Sigmas, Z), phi)[0]
    assert found.sum() == pytest.approx(1.0, abs=1e-12)
    assert np.all(np.abs(found - each.mean(axis=0)) < 5 * each.std(axis=0) / np.sqrt(N_GROUPS))


@pytest.mark.parametrize("link", ["logit", "cloglog"])
@pytest.mark.parametrize("sd", [0.0, 0.2, 1.0, 4.0, 20.0])
def test_quadrature_is_as_good_as_adaptive_integration_for_any_sd(link, sd):
    family = family_of("bernoulli", link)

    def density(u, eta):
        return family.mean(eta + sd * u) * np.exp(-0.5 * u**2) / np.sqrt(2.0 * np.pi)

    ends = np.linspace(-9.0, 9.0, 41)
    for eta in (-6.0, -0.5, 3.0):
        pieces = zip(ends[:-1], ends[1:], strict=True)
        exact = sum(quad(density, a, b, (eta,), epsabs=1e-15, epsrel=1e-12)[0] for a, b in pieces)
        assert population_mean(family, eta, sd**2) == pytest.approx(exact, rel=1e-9)


def test_closed_forms_keep_their_places():
    v, eta = 0.7, -0.4
    lognormal, zi = family_of("lognormal"), family_of("zero_inflated_poisson")
    expected = np.exp(eta + 0.5 * v + 0.5 * 0.3**2)
    assert population_mean(lognormal, eta, v, [0.3]) == pytest.approx(expected, rel=1e-14)
    expected = 0.75 * np.exp(eta + 0.5 * v)
    assert population_mean(zi, eta, v, [0.25]) == pytest.approx(expected, rel=1e-14)
    assert population_mean(family_of("poisson", "identity"), 2.0, v) == 2.0


def test_the_inverse_link_has_no_population_average():
    with pytest.raises(DataError, match="inverse link"):
        population_mean(family_of("gamma", "inverse"), 1.0, 0.1, [2.0])


@pytest.fixture(scope="module")
def model():
    data = blm.load_dataset("contraception").iloc[::3]
    return blm.MixedModel("use ~ age + urban + (urban | district)", data, family="bernoulli")


@pytest.fixture(scope="module")
def ml(model):
    return model.ml()


@pytest.fixture(scope="module")
def post(model):
    return model.fit(draws=250, random_seed=1, progressbar=False)


@pytest.fixture(scope="module")
def grid():
    return pd.DataFrame({"age": [-5.0, 0.0, 10.0], "urban": ["Y", "N", "Y"]})


def test_means_of_a_likelihood_fit_are_those_of_its_estimates(ml, grid):
    """Averages over simulated districts with the estimated covariance."""
    table = ml.average_effects(newdata=grid)
    design, solution = ml.design, ml._solution
    rows, Z = design.evaluate(grid, random=False), design.evaluate_effects(grid)[0]
    eta = rows.X @ solution.beta
    u = np.random.default_rng(5).multivariate_normal(np.zeros(2), solution.Sigmas[0], N_GROUPS)
    each = design.family.mean(eta + u @ Z.T)
    np.testing.assert_allclose(table["average_group"], design.family.mean(eta), rtol=1e-12)
    error = each.std(axis=0) / np.sqrt(N_GROUPS)
    assert np.all(np.abs(table["population_average"] - each.mean(axis=0)) < 5 * error)


def test_draws_of_a_posterior_are_averaged_one_by_one(post, grid):
    draws = post.predict(grid, random="marginal", draws=True).to_numpy()
    posterior, names = post.posterior, post.names.factors[0]
    rows, Z = (
        post.model.design.evaluate(grid, random=False),
        post.model.design.evaluate_effects(grid),
    )
    sd, corr = posterior[names.sd].to_numpy()[0, 7], correlation_matrix(posterior[names.corr][0, 7])
    Sigma = np.outer(sd, sd) * corr
    eta = rows.X @ posterior["beta"].to_numpy()[0, 7]
    variance = np.einsum("ia,ab,ib->i", Z[0], Sigma, Z[0])
    x, w = np.polynomial.hermite_e.hermegauss(80)
    nodes = post.model.design.family.mean(eta[:, None] + np.sqrt(variance)[:, None] * x)
    np.testing.assert_allclose(draws[0, 7], nodes @ w / w.sum(), rtol=1e-7)
    table = post.average_effects(newdata=grid)
    np.testing.assert_allclose(table["population_average"], draws.mean(axis=(0, 1)))
    limits = np.quantile(draws, [0.025, 0.975], axis=(0, 1))
    np.testing.assert_allclose(
        table[["population_average_lower", "population_average_upper"]].T, limits
    )


def test_both_fits_say_the_same_of_much_data(ml, post, grid):
    """Posterior means within half of a posterior sd of the estimates, intervals alike."""
    a, b = ml.average_effects(newdata=grid), post.average_effects(newdata=grid)
    for name in ("average_group", "population_average"):
        width = b[f"{name}_upper"] - b[f"{name}_lower"]
        assert np.all(np.abs(a[name] - b[name]) < width / 8)
        ratio = (a[f"{name}_upper"] - a[f"{name}_lower"]) / width
        assert ratio.between(0.75, 1.35).all()


def test_a_factor_is_averaged_over_on_the_scale_of_the_response(ml):
    cells = ml.average_effects(at={"age": [0.0, 10.0]})
    assert cells[["age", "urban"]].to_numpy().tolist() == [
        [0.0, "N"], [0.0, "Y"], [10.0, "N"], [10.0, "Y"]
    ]  # fmt: skip
    ages = ml.average_effects("age", at={"age": [0.0, 10.0]})
    for name in ("average_group", "population_average"):
        expected = cells.groupby("age")[name].mean()
        np.testing.assert_allclose(ages.set_index("age")[name], expected, rtol=1e-12)


def test_contrasts_are_those_of_the_means(ml, post, grid):
    for fit in (ml, post):
        means = fit.average_effects(newdata=grid.iloc[:2])
        table = fit.average_contrasts(newdata=grid.iloc[:2]).set_index("measure")
        assert table["contrast"].unique().tolist() == ["-5.0 Y - 0.0 N"]
        p, q = means["population_average"]
        found = table["population_average"]
        assert found["difference"] == pytest.approx(p - q, rel=1e-12)
        if fit is ml:
            assert found["ratio"] == pytest.approx(p / q, rel=1e-12)
            expected = p / (1 - p) / (q / (1 - q))
            assert found["odds_ratio"] == pytest.approx(expected, rel=1e-12)
    draws = post.predict(grid.iloc[:2], random="population", draws=True).to_numpy()
    odds = draws / (1 - draws)
    ratio = np.median(odds[..., 0] / odds[..., 1])
    assert table.loc["odds_ratio", "average_group"] == pytest.approx(ratio, rel=1e-10)


def test_predictions_of_averages_have_the_intervals_of_average_effects(ml, grid):
    for random, name in (("population", "average_group"), ("marginal", "population_average")):
        table, means = ml.predict(grid, random=random), ml.average_effects(newdata=grid)
        for column, of in (("estimate", name), ("lower", f"{name}_lower")):
            np.testing.assert_allclose(table[column], means[of], rtol=1e-12)
    link = ml.predict(grid, random="population", kind="link")
    limits = ml.design.family.mean(link[["lower", "upper"]].to_numpy())
    np.testing.assert_allclose(
        ml.predict(grid, random="population")[["lower", "upper"]], limits, rtol=1e-5
    )


def test_thresholds_are_not_taken_as_known():
    """At the reference levels a cumulative model's linear predictor is 0, without error."""
    wine = blm.load_dataset("wine")
    fit = blm.MixedModel("rating ~ temp + (1 | judge)", wine, family="ordinal").ml()
    cold = pd.DataFrame({"temp": ["cold"]})
    assert fit.predict(cold, random="population")["se"].item() > 0.05
    table = fit.average_effects(newdata=cold)
    assert table["category"].tolist() == list(fit.design.categories)
    assert table["population_average"].sum() == pytest.approx(1.0)
    assert np.all(table["average_group_upper"] - table["average_group_lower"] > 0.01)


def test_gaussian_means_are_the_same_for_group_and_population():
    data = blm.load_dataset("sleepstudy")
    fit = blm.LMM("Reaction ~ Days + (Days | Subject)", data).reml()
    table = fit.average_effects(at={"Days": [0, 9]})
    expected = fit.predict({"Days": [0, 9]}, random="population")
    np.testing.assert_allclose(table["average_group"], table["population_average"])
    np.testing.assert_allclose(table["average_group"], expected["estimate"])
    marginal = fit.predict({"Days": [0, 9]}, random="marginal")
    pd.testing.assert_frame_equal(marginal, expected)


def test_what_has_no_average_is_refused(ml, post):
    with pytest.raises(ValueError, match='random="population"'):
        post.predict(random="marginal", kind="link")
    with pytest.raises(ValueError, match='random="new"'):
        post.predict(random="marginal", kind="response")
    with pytest.raises(ValueError, match="leave terms and at out"):
        ml.average_effects("urban", newdata={"age": [0.0], "urban": ["Y"]})
    with pytest.raises(ValueError, match="'education' is not a column"):
        ml.average_effects("education")
    with pytest.raises(ValueError, match="1 means"):
        ml.average_contrasts(newdata={"age": [0.0], "urban": ["Y"]})
