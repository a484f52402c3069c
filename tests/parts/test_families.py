"""Families of responses: densities, derivatives, moments and draws against scipy and identities."""

from __future__ import annotations

from decimal import Decimal, localcontext
from itertools import product

import numpy as np
import pytest
from scipy import special, stats

from bayeslmm.parts.families import FAMILIES, LINKS, family_of, links_of
from bayeslmm.parts.families.special import log_gamma, log_rising

PHI = {
    "negativebinomial": [1.7],
    "gamma": [2.3],
    "beta": [4.0],
    "lognormal": [0.7],
    "ordinal": [-1.0, 0.2, 1.5],
    "gaussian": [0.6],
    "student": [0.6, 5.0],
    "zero_inflated_poisson": [0.3],
    "zero_inflated_negativebinomial": [1.7, 0.3],
}
CASES = [(name, link) for name in FAMILIES for link in links_of(name)]
TRIALS = {"binomial": 7.0}
RESIDUALS = ("gaussian", "student")


def made(name, link):
    n_categories = 4 if name == "ordinal" else None
    return family_of(name, link, n_categories), np.array(PHI.get(name, [])), TRIALS.get(name, 1.0)


def etas(name, link, n, rng, spread=1.5):
    """Linear predictors inside the domain of a link."""
    if name == "beta":  # draws nearer to 1 than numbers are would be rounded
        return rng.normal(size=n) * 0.4 - 0.2
    if name in ("lognormal", *RESIDUALS) or link not in ("identity", "inverse", "log"):
        return rng.normal(size=n) * spread
    if link == "log":
        return -rng.exponential(size=n) - 0.05 if "b" in name[:2] else rng.normal(size=n) * spread
    return rng.uniform(0.05, 0.95, n) * (1.0 if name[0] == "b" else 5.0)


def rows(name, link, n=300, seed=1):
    """Family, phi and n rows of (y, eta, trials)."""
    family, phi, trials = made(name, link)
    rng = np.random.default_rng(seed)
    eta = etas(name, link, n, rng)
    trials = np.full(n, trials) if name != "binomial" else rng.integers(1, 9, n).astype(float)
    if name in RESIDUALS:  # precisions
        trials = rng.uniform(0.5, 2.0, n)
    return family, phi, family.draw(rng, eta, phi, trials), eta, trials


def scipy_log_density(name, y, mu, eta, phi, trials):
    match name:
        case "bernoulli" | "binomial":
            return stats.binom.logpmf(y, trials, mu)
        case "poisson":
            return stats.poisson.logpmf(y, mu)
        case "negativebinomial":
            return stats.nbinom.logpmf(y, phi[0], phi[0] / (phi[0] + mu))
        case "gamma":
            return stats.gamma.logpdf(y, phi[0], scale=mu / phi[0])
        case "beta":
            return stats.beta.logpdf(y, mu * phi[0], (1.0 - mu) * phi[0])
        case "lognormal":
            return stats.lognorm.logpdf(y, phi[0], scale=np.exp(eta))
        case "gaussian":
            return stats.norm.logpdf(y, eta, phi[0] / np.sqrt(trials))
        case "student":
            return stats.t.logpdf(y, phi[1], eta, phi[0] / np.sqrt(trials))
    counts = name.removeprefix("zero_inflated_")
    l0 = scipy_log_density(counts, y, mu, eta, phi[:-1], trials)
    zi = phi[-1]
    return np.where(y == 0.0, np.log(zi + (1.0 - zi) * np.exp(l0)), np.log1p(-zi) + l0)


def derivative(f, x, h):
    """Central differences with two steps of extrapolation: an error of order h^6."""
    d = [(f(x + s) - f(x - s)) / (2.0 * s) for s in (h, 0.5 * h, 0.25 * h)]
    one, two = (4.0 * d[1] - d[0]) / 3.0, (4.0 * d[2] - d[1]) / 3.0
    return (16.0 * two - one) / 15.0


@pytest.mark.parametrize(("name", "link"), [case for case in CASES if case[0] != "ordinal"])
def test_log_densities_are_scipys(name, link):
    family, phi, y, eta, trials = rows(name, link)
    expected = scipy_log_density(name, y, family.link.inverse(eta), eta, phi, trials)
    found = family.log_density(y, eta, phi, trials)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("link", links_of("ordinal"))
def test_log_probabilities_of_categories_are_differences_of_the_latent_distribution(link):
    family, phi, y, eta, _ = rows("ordinal", link)
    latent = {"logit": stats.logistic, "probit": stats.norm, "cloglog": stats.gumbel_l}[link]
    edges = np.concatenate([[-np.inf], phi, [np.inf]])
    k = y.astype(int)
    expected = latent.cdf(edges[k + 1] - eta) - latent.cdf(edges[k] - eta)
    np.testing.assert_allclose(np.exp(family.log_density(y, eta, phi)), expected, rtol=1e-10)


@pytest.mark.parametrize(("name", "link"), CASES)
def test_slopes_are_derivatives_of_the_log_density(name, link):
    family, phi, y, eta, trials = rows(name, link)
    room = np.minimum(np.abs(eta), np.abs(1.0 - eta)) if link in ("identity", "inverse") else 1.0
    room = np.abs(eta) if link == "log" and name[0] == "b" else room
    h = 0.02 * (np.minimum(room, 1.0) if name != "lognormal" else 1.0)
    found = family.slopes(y, eta, phi, trials)
    for k in range(3):
        expected = derivative(lambda e, k=k: family.slopes(y, e, phi, trials)[k], eta, h)
        scale = 1.0 + np.abs(expected) + np.abs(found[k]) / h
        assert np.max(np.abs(found[k + 1] - expected) / scale) < 2e-9


@pytest.mark.parametrize(("name", "link"), [case for case in CASES if case[0] in PHI])
def test_phi_slopes_are_derivatives_in_every_parameter(name, link):
    family, phi, y, eta, trials = rows(name, link)
    found = family.phi_slopes(y, eta, phi, trials)
    assert found.shape == (family.n_phi, 3, len(y))
    for j in range(family.n_phi):
        unit = np.eye(family.n_phi)[j]
        for k in range(3):

            def at(step, unit=unit, k=k):
                return family.slopes(y, eta, phi + step * unit, trials)[k]

            expected = derivative(at, 0.0, 0.02)
            scale = 1.0 + np.abs(expected) + np.abs(at(0.0))
            assert np.max(np.abs(found[j, k] - expected) / scale) < 2e-9


@pytest.mark.parametrize(("name", "link"), CASES)
def test_many_parameters_at_once_are_those_one_by_one(name, link):
    family, phi, y, eta, trials = rows(name, link, n=20)
    etas = np.stack([eta, 0.9 * eta, 0.8 * eta])
    phis = np.stack([phi, phi * 1.1, phi * 0.9])[:, None]
    for k in range(3):
        one = family.slopes(y, etas[k], phis[k, 0], trials)
        for many, alone in zip(family.slopes(y, etas, phis, trials), one, strict=True):
            np.testing.assert_array_equal(many[k], alone)
        many = family.log_density(y, etas, phis, trials)
        np.testing.assert_array_equal(many[k], one[0])
        alone = family.phi_slopes(y, etas[k], phis[k, 0], trials)
        np.testing.assert_array_equal(family.phi_slopes(y, etas, phis, trials)[:, :, k], alone)
        for method in ("mean", "variance", "information", "null_variance"):
            many = getattr(family, method)(etas, phis)
            np.testing.assert_allclose(many[k], getattr(family, method)(etas[k], phis[k, 0]))
    rng = np.random.default_rng(2)
    assert family.draw(rng, etas, phis, trials).shape == etas.shape
    # one predictor with many parameters, and the other way round
    np.testing.assert_array_equal(
        family.log_density(y, eta, phis, trials), family.slopes(y, eta, phis, trials)[0]
    )
    np.testing.assert_array_equal(
        family.log_density(y, etas[:, None], phi, trials)[1, 0],
        family.log_density(y, etas[1], phi, trials),
    )


def support(family, eta, phi, trials):
    """Values of a discrete response that have all but 1e-13 of the probability."""
    if family.name == "ordinal":
        return np.arange(len(phi) + 1.0)
    if family.name in ("bernoulli", "binomial"):
        return np.arange(trials + 1.0)
    return np.arange(2000.0)


def expectation(family, g, eta, phi, trials):
    """E g(Y) by a sum, or the integral over the logit, log or arsinh of y."""
    if family.discrete:
        y = support(family, eta, phi, trials)
        return np.sum(np.exp(family.log_density(y, eta, phi, trials)) * g(y))

    # the trapezoidal rule over the whole line converges exponentially
    t = np.linspace(-40.0, 40.0, 4001)
    if family.name in RESIDUALS:
        y, weight = np.sinh(t), 0.02 * np.cosh(t)
        return np.sum(np.exp(family.log_density(y, eta, phi, trials)) * weight * g(y))
    y = special.expit(t) if family.name == "beta" else np.exp(t)
    jacobian = y * special.expit(-t) if family.name == "beta" else y
    inside = (y > 1e-15) & (y < 1.0 - 1e-15) if family.name == "beta" else y > 0.0
    y, weight = y[inside], (jacobian * 0.02)[inside]
    return np.sum(np.exp(family.log_density(y, eta, phi)) * weight * g(y))


@pytest.mark.parametrize(("name", "link"), CASES)
def test_probabilities_sum_to_one_and_moments_are_those_of_the_sum(name, link):
    family, phi, trials = made(name, link)
    for eta in etas(name, link, 3, np.random.default_rng(4), spread=0.7):
        total = expectation(family, np.ones_like, eta, phi, trials)
        mean = expectation(family, lambda y: y, eta, phi, trials)
        square = expectation(family, lambda y, mean=mean: (y - mean) ** 2, eta, phi, trials)
        assert total == pytest.approx(1.0, abs=1e-9)
        assert family.mean(eta, phi) * trials == pytest.approx(mean, rel=1e-8)
        assert family.variance(eta, phi, trials) == pytest.approx(square, rel=1e-7)


@pytest.mark.parametrize(("name", "link"), CASES)
def test_the_score_has_mean_zero_and_the_information_as_its_variance(name, link):
    family, phi, trials = made(name, link)
    for eta in etas(name, link, 3, np.random.default_rng(5), spread=0.7):

        def slope(k, eta=eta):
            return expectation(
                family, lambda y: family.slopes(y, eta, phi, trials)[k], eta, phi, trials
            )

        information = family.information(eta, phi, trials)
        assert slope(1) == pytest.approx(0.0, abs=1e-7 * (1.0 + information))
        assert -slope(2) == pytest.approx(information, rel=1e-7)


@pytest.mark.parametrize(("name", "link"), CASES)
def test_distribution_functions_add_up_densities(name, link):
    family, phi, trials = made(name, link)
    for eta in etas(name, link, 3, np.random.default_rng(6), spread=0.7):
        if family.discrete:
            y = support(family, eta, phi, trials)[:50]
            p = np.exp(family.log_density(y, eta, phi, trials))
            np.testing.assert_allclose(family.cdf(y, eta, phi, trials), np.cumsum(p), atol=1e-11)
            below = family.cdf_below(y, eta, phi, trials)
            np.testing.assert_allclose(below, np.cumsum(p) - p, atol=1e-11)
            assert family.cdf(-1.0, eta, phi, trials) == 0.0
        else:
            y = np.array([0.2, 0.4, 0.7])
            slope = derivative(lambda at, eta=eta: family.cdf(at, eta, phi), y, 0.01)
            np.testing.assert_allclose(slope, np.exp(family.log_density(y, eta, phi)), rtol=1e-6)
            np.testing.assert_array_equal(family.cdf_below(y, eta, phi), family.cdf(y, eta, phi))


@pytest.mark.parametrize(("name", "link"), CASES)
def test_randomized_quantile_residuals_of_draws_are_uniform(name, link):
    """Kolmogorov and Smirnov's test of 20,000: a right program fails once in a million seeds."""
    family, phi, y, eta, trials = rows(name, link, n=20_000, seed=7)
    assert family.check(y, trials) is None
    low, high = family.cdf_below(y, eta, phi, trials), family.cdf(y, eta, phi, trials)
    u = low + np.random.default_rng(8).random(len(y)) * (high - low)
    assert stats.kstest(u, "uniform").pvalue > 1e-6
    # a linear predictor that is off is seen
    other = eta + 0.3 if link != "log" or name[0] != "b" else eta * 1.3
    if link in ("identity", "inverse") and name not in ("lognormal", *RESIDUALS):
        other = eta * 0.8
    low, high = family.cdf_below(y, other, phi, trials), family.cdf(y, other, phi, trials)
    u = low + np.random.default_rng(8).random(len(y)) * (high - low)
    assert stats.kstest(u, "uniform").pvalue < 1e-4


def test_the_categories_of_an_ordinal_response_have_their_probabilities():
    family, phi, _ = made("ordinal", "probit")
    p = family.probabilities(np.array([0.3, -2.0]), phi)
    assert p.shape == (2, 4)
    np.testing.assert_allclose(p.sum(axis=1), 1.0, rtol=1e-14)
    np.testing.assert_allclose(p[0, :2].sum(), stats.norm.cdf(0.2 - 0.3), rtol=1e-13)


@pytest.mark.parametrize("link", links_of("ordinal"))
def test_two_ordered_categories_are_a_bernoulli_response(link):
    """P(y = 0) = F(c - eta): with a latent distribution that is symmetric, p = F(eta - c)."""
    eta, c = np.linspace(-30.0, 30.0, 61), 0.4
    ordinal = family_of("ordinal", link, 2)
    bernoulli = family_of("bernoulli", link)
    for y in (0.0, 1.0):
        found = ordinal.slopes(y, eta, [c])
        # the event is the lower category, at c - eta
        expected = bernoulli.slopes(1.0 - y, c - eta)
        for k, sign in enumerate((1.0, -1.0, 1.0, -1.0)):
            np.testing.assert_allclose(found[k], sign * expected[k], rtol=1e-12)


@pytest.mark.parametrize(("link", "gap"), list(product(links_of("ordinal"), (1e-5, 1.0))))
def test_a_category_far_in_a_tail_or_narrow_has_finite_slopes(link, gap):
    family = family_of("ordinal", link, 3)
    for eta in (-35.0, -3.0, 0.0, 3.0, 35.0):
        l0, l1, l2, l3 = family.slopes(1.0, eta, [0.0, gap])
        assert np.all(np.isfinite([l0, l1, l2, l3]))
        expected = derivative(lambda e: family.log_density(1.0, e, [0.0, gap]), eta, 0.05)
        assert l1 == pytest.approx(expected, rel=1e-7, abs=1e-7)
        assert l2 < 0.0 or link == "cloglog"
        assert np.all(np.isfinite(family.phi_slopes(1.0, eta, [0.0, gap])))


def _normal_log_tail_slopes(t):
    """Derivatives of log(1 - Phi) at t > 0 with 60 digits, by the continued fraction."""
    with localcontext() as context:
        context.prec = 60
        t = Decimal(t)
        tail = Decimal(0)
        for k in range(4000, 1, -1):
            tail = k / (t + tail)
        h = t + 1 / (t + tail)
        g = h - t
        return tuple(float(of) for of in (-h, -h * g, -h * (g * g + h * g - 1)))


@pytest.mark.parametrize("t", [2.0, 4.9, 5.1, 8.0, 40.0, 300.0])
def test_probit_slopes_are_exact_far_in_the_tail(t):
    family = family_of("bernoulli", "probit")
    l0, *found = family.slopes(0.0, t)
    np.testing.assert_allclose(found, _normal_log_tail_slopes(t), rtol=2e-11)
    assert l0 == pytest.approx(special.log_ndtr(-t), rel=1e-14)
    mirrored = family.slopes(1.0, -t)[1:]
    np.testing.assert_allclose(mirrored, np.array(found) * [-1.0, 1.0, -1.0], rtol=1e-14)


def test_logit_and_cloglog_are_exact_far_in_the_tails():
    logit = family_of("bernoulli", "logit")
    np.testing.assert_allclose(logit.slopes(1.0, -800.0), [-800.0, 1.0, 0.0, 0.0], atol=1e-300)
    np.testing.assert_allclose(logit.slopes(0.0, 800.0), [-800.0, -1.0, 0.0, 0.0], atol=1e-300)
    np.testing.assert_allclose(logit.slopes(1.0, 40.0)[0], -np.exp(-40.0), rtol=1e-13)
    cloglog = family_of("bernoulli", "cloglog")
    e = np.exp(-40.0)
    # log(1 - e^-z) = log z - z / 2 + z^2 / 24 - ..., z = e^eta
    expected = [-40.0, 1.0, -e / 2, -e / 2]
    np.testing.assert_allclose(cloglog.slopes(1.0, -40.0), expected, rtol=1e-13)
    # and -e^-z - ... above
    z = np.exp(3.0)
    assert cloglog.log_density(1.0, 3.0) == pytest.approx(np.log1p(-np.exp(-z)), rel=1e-12)
    assert cloglog.log_density(0.0, 5.0) == pytest.approx(-np.exp(5.0), rel=1e-14)


@pytest.mark.parametrize("eta", [-2.5, -2.30, -2.31, -1.0, 0.5, 2.0])
def test_cloglog_slopes_agree_where_series_and_formula_meet(eta):
    """The series ends at e^eta = 0.1."""
    family = family_of("bernoulli", "cloglog")
    found = family.slopes(1.0, eta)
    z = np.exp(eta)
    r = z / np.expm1(z)
    u = 1.0 - z - r
    np.testing.assert_allclose(found[0], np.log(-np.expm1(-z)), rtol=1e-13)
    np.testing.assert_allclose(found[1:], [r, r * u, r * u * u - r * (z + r * u)], rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "link", "largest"),
    [(name, link, 800.0 if link == "logit" else 600.0 if link == "log" else 40.0)
     for name, link in CASES if link in ("logit", "probit", "cloglog") or name[0] not in "b"
     if link not in ("identity", "inverse")],
)  # fmt: skip
def test_slopes_are_numbers_far_in_both_tails(name, link, largest):
    family, phi, y, _, trials = rows(name, link, n=50)
    for eta in (-largest, largest):
        found = np.stack(np.broadcast_arrays(*family.slopes(y, eta, phi, trials)))
        assert not np.any(np.isnan(found))
        assert np.all(np.isfinite(found[1:]) | (link == "cloglog"))
        assert not np.any(np.isnan(family.phi_slopes(y, eta, phi, trials)))


@pytest.mark.parametrize("link", ["logit", "probit"])
def test_failures_are_successes_of_the_mirrored_predictor(link):
    family, _, y, eta, trials = rows("binomial", link)
    one = family.slopes(y, eta, (), trials)
    other = family.slopes(trials - y, -eta, (), trials)
    for k in range(4):
        np.testing.assert_allclose(one[k], (-1.0) ** k * other[k], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("link", links_of("poisson"))
def test_a_negative_binomial_of_large_alpha_is_poisson_with_exact_slopes(link):
    _, _, y, eta, _ = rows("poisson", link)
    poisson, negative = family_of("poisson", link), family_of("negativebinomial", link)
    mu, alpha = poisson.link.inverse(eta), 1e9
    for one, other in zip(poisson.slopes(y, eta), negative.slopes(y, eta, [alpha]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)
    # d l / d(1/alpha) at 0 is ((y - mu)^2 - y) / 2
    found = -(alpha**2) * negative.phi_slopes(y, eta, [alpha])[0, 0]
    scale = 1.0 + (y - mu) ** 2 + y
    # digits that are lost: alpha times 1e-16 of what is subtracted, 1e-7 of y and mu
    assert np.max(np.abs(found - 0.5 * ((y - mu) ** 2 - y)) / scale) < 2e-5


def test_zero_inflation_vanishes_with_its_probability():
    _, _, y, eta, _ = rows("poisson", "log")
    one = family_of("zero_inflated_poisson").slopes(y, eta, [1e-14])
    for found, expected in zip(one, family_of("poisson").slopes(y, eta), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "link"), CASES)
def test_log_concave_is_said_where_no_second_derivative_is_positive(name, link):
    family, phi, y, eta, trials = rows(name, link, n=20_000)
    eta = np.random.default_rng(9).permutation(eta) * 1.0
    l2 = np.broadcast_to(family.slopes(y, eta, phi, trials)[2], y.shape)
    scale = 1e-9 * (1.0 + np.abs(l2))
    assert np.all(l2 <= scale) if family.log_concave else np.any(l2 > scale)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("bernoulli", [-1.0, 2.0, 0.5, np.nan]),
        ("binomial", [-1.0, 4.0, 0.5, np.nan, np.inf]),
        ("poisson", [-1.0, 0.5, np.nan, np.inf]),
        ("negativebinomial", [-1.0, 0.5]),
        ("zero_inflated_poisson", [-1.0, 0.5]),
        ("gamma", [0.0, -1.0, np.nan, np.inf]),
        ("lognormal", [0.0, -1.0]),
        ("beta", [0.0, 1.0, 1.5, np.nan]),
        ("ordinal", [-1.0, 4.0, 0.5]),
    ],
)
def test_a_response_outside_the_support_is_named_by_its_row(name, wrong):
    family, _, _ = made(name, None)
    trials = np.full(3, 3.0) if name == "binomial" else None
    right = 0.5 if name == "beta" else 1.0
    for value in wrong:
        row, why = family.check(np.array([right, value, value]), trials)
        assert row == 1
        assert why.startswith("is ")
    assert family.check(np.full(3, right), trials) is None


@pytest.mark.parametrize(("name", "link"), CASES)
def test_iterations_may_start_anywhere_in_the_support(name, link):
    family, phi, y, _, trials = rows(name, link, n=200)
    eta = family.start(y, trials)
    assert eta.shape == y.shape
    assert np.all(np.isfinite(np.stack(np.broadcast_arrays(*family.slopes(y, eta, phi, trials)))))


def test_variances_on_the_link_scale_are_nakagawas():
    """Nakagawa, Johnson & Schielzeth (2017), tables 1 and 2."""
    eta, mu = np.log(3.0), 3.0
    assert family_of("binomial").null_variance(eta) == pytest.approx(np.pi**2 / 3)
    assert family_of("binomial", "probit").null_variance(eta) == 1.0
    assert family_of("ordinal", "cloglog").null_variance(eta) == pytest.approx(np.pi**2 / 6)
    p = special.expit(eta)
    assert family_of("binomial").null_variance(eta, (), "delta") == pytest.approx(1 / (p - p**2))
    expected = {
        "poisson": ((), 1 / mu),
        "negativebinomial": ([1.7], 1 / mu + 1 / 1.7),
        "gamma": ([1.7], 1 / 1.7),
    }
    for name, (phi, squared) in expected.items():
        family = family_of(name, "log")
        assert family.null_variance(eta, phi) == pytest.approx(np.log1p(squared))
        assert family.null_variance(eta, phi, "delta") == pytest.approx(squared)
        trigamma = special.polygamma(1, 1 / squared)
        assert family.null_variance(eta, phi, "trigamma") == pytest.approx(trigamma)
    assert family_of("lognormal").null_variance(eta, [0.7]) == pytest.approx(0.49)
    with pytest.raises(ValueError, match="'default', 'delta', 'trigamma'"):
        family_of("poisson").null_variance(eta, (), "observed")


@pytest.mark.parametrize("name", LINKS)
def test_links_are_inverted_and_have_their_slopes(name):
    link = LINKS[name]
    mu = np.array([1e-12, 0.03, 0.5, 0.97])
    np.testing.assert_allclose(link.inverse(link.link(mu)), mu, rtol=1e-13)
    eta = np.array([0.3, 0.8, 1.7])
    np.testing.assert_allclose(
        link.inverse_slope(eta), derivative(link.inverse, eta, 0.01), rtol=1e-9
    )
    for eta in (-800.0, 800.0):
        assert not np.isnan(link.inverse(eta))
        assert not np.isnan(link.inverse_slope(eta))


def test_log_gamma_and_its_derivatives_are_scipys():
    x = np.concatenate([np.geomspace(1e-6, 1e8, 200), [1.0, 2.0, 7.999, 8.0, 8.001]])
    value, digamma, trigamma, tetragamma = log_gamma(x)
    scale = 1.0 + np.abs(special.gammaln(x))
    assert np.max(np.abs(value - special.gammaln(x)) / scale) < 5e-15
    scale = 1.0 + np.abs(special.digamma(x))
    assert np.max(np.abs(digamma - special.digamma(x)) / scale) < 5e-15
    np.testing.assert_allclose(trigamma, special.polygamma(1, x), rtol=1e-13)
    np.testing.assert_allclose(tetragamma, special.polygamma(2, x), rtol=1e-12)


@pytest.mark.parametrize("a", [1e-3, 0.7, 7.9, 8.1, 300.0, 1e6, 1e12])
def test_logs_of_rising_factorials_are_sums(a):
    for y in (0, 1, 2, 10, 1000):
        k = np.arange(y)
        value, slope = log_rising(float(y), a)
        terms = np.log1p(k / a)
        assert value == pytest.approx(np.sum(terms), rel=1e-13, abs=1e-15 * (1.0 + y))
        # each term is lost in 1e-16 of y / a
        expected = np.sum(-k / (a * (a + k)))
        assert slope == pytest.approx(expected, rel=1e-12, abs=2e-15 * y / a)


def test_unknown_families_and_links_list_what_there_is():
    with pytest.raises(ValueError, match="bernoulli, binomial"):
        family_of("cauchy")
    with pytest.raises(ValueError, match="log, identity"):
        family_of("poisson", "sqrt")
    assert family_of("gaussian").gaussian
    assert not family_of("poisson").gaussian


def test_parameters_have_keys_and_supports():
    keys = {name: [p.key for p in family_of(name).parameters] for name in FAMILIES}
    assert keys["zero_inflated_negativebinomial"] == ["alpha", "zi"]
    assert keys["beta"] == ["kappa"]
    assert keys["bernoulli"] == []
    threshold = family_of("ordinal", n_categories=5).parameters[0]
    assert (threshold.size, threshold.transform) == (4, "ordered")
    codes = [family_of(*case).code for case in CASES if case[0] != "bernoulli"]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("at_once", [8192, 40, 3])
def test_log_densities_of_many_draws_are_those_of_each(monkeypatch, at_once):
    """However many are evaluated at once: all, some that do not divide them, less than a row."""
    monkeypatch.setattr("bayeslmm.parts.families.family._AT_ONCE", at_once)
    family, rng = family_of("zero_inflated_negativebinomial"), np.random.default_rng(3)
    eta, y = rng.normal(size=(2, 5, 13)), rng.poisson(1.0, 13)
    phi = rng.uniform(0.2, 0.8, (2, 5, 1, 2))
    found = family.log_density(y, eta, phi)
    for i, j in np.ndindex(2, 5):
        expected = family.slopes(y, eta[i, j], phi[i, j])[0]
        np.testing.assert_allclose(found[i, j], expected, rtol=1e-12)
    shared = family.log_density(y, eta, phi[:1, :1])
    expected = family.slopes(y, eta[1, 4], phi[0, 0])[0]
    np.testing.assert_allclose(shared[1, 4], expected, rtol=1e-12)
