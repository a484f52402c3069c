"""An effect of a response that is not Gaussian under other priors, beside integration on a grid."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import gammaln, logsumexp

import bayeslmm as blm
from bayeslmm.bayes.whitened_fitting import low_draws
from bayeslmm.errors import DataError, PriorError
from bayeslmm.reanalysis.posteriors import log_prior_density, posterior_under
from bayeslmm.reanalysis.power_scaling import log_prior_draws, power_scaling_tree
from bayeslmm.reanalysis.response_evidence import joint_draws
from bayeslmm.reanalysis.risks import rows_with_and_without
from bayeslmm.reanalysis.sources import source_and_likelihood

X = np.tile([-0.5, -0.5, 0.5, 0.5, 0.5, -0.5], 4)
G = np.repeat(list("abcd"), 6)
Y = {
    "bernoulli": np.array([0, 1, 1, 1, 0, 0, 0, 0, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 0, 1, 1, 0]),
    "poisson": np.array([0, 1, 3, 1, 2, 1, 1, 0, 0, 2, 1, 1, 2, 3, 4, 3, 6, 1, 0, 0, 1, 2, 1, 1]),
}
DATA = pd.DataFrame({"x": X, "g": G, **Y})
PRIORS = {
    "Intercept": blm.Prior("Normal", mu=0.3, sigma=1.5),
    "x": blm.Prior("Normal", mu=0.0, sigma=2.0),
    "sd": blm.Prior("HalfNormal", sigma=1.0),
}
OTHERS = [
    blm.Prior("Flat"),
    blm.Prior("Normal", mu=0.5, sigma=0.3),
    blm.Prior("StudentT", nu=3, mu=-0.5, sigma=0.4),
    blm.Prior("Laplace", mu=0, b=0.4),
    blm.Prior("Uniform", lower=0, upper=1),
]


def model(family="bernoulli", formula="x + (1 | g)", data=DATA, **priors):
    return blm.MixedModel(f"{family} ~ {formula}", data, family=family, priors=PRIORS | priors)


@cache
def likelihood_on_grid(family):
    """Values e of the coefficient of x and log p(y | e), all else integrated out."""
    e = np.arange(-80, 121) / 20 if family == "bernoulli" else np.arange(-40, 61) / 20
    b, s, u = np.linspace(-5.5, 5.5, 45), np.linspace(-7.0, 1.6, 40), np.linspace(-6, 6, 33)
    sd = np.exp(s)
    known = stats.norm(0.3, 1.5).logpdf(b)[:, None] + (stats.halfnorm.logpdf(sd) + s)[None]
    w = stats.norm.logpdf(u) + np.log(u[1] - u[0])
    base = b[:, None, None] + sd[None, :, None] * u

    def rows(y, eta):
        if family == "bernoulli":
            return y.sum() * eta - len(y) * np.logaddexp(0, eta)
        return y.sum() * eta - len(y) * np.exp(eta) - gammaln(y + 1).sum()

    out = []
    for value in e:
        total = known.copy()
        for level in "abcd":
            own = [(Y[family][(level == G) & (x == X)], base + value * x) for x in (-0.5, 0.5)]
            logs = sum(rows(*part) for part in own) + w
            top = logs.max(axis=2, keepdims=True)
            total += np.log(np.exp(logs - top).sum(axis=2)) + top[:, :, 0]
        out.append(logsumexp(total))
    return e, np.array(out) + np.log((b[1] - b[0]) * (s[1] - s[0]))


@cache
def sliced(family):
    return source_and_likelihood(model(family), "x", random_seed=3)


@pytest.mark.parametrize("family", ["bernoulli", "poisson"])
@pytest.mark.parametrize("prior", OTHERS, ids=lambda p: p.name)
def test_posteriors_are_those_of_integration(family, prior):
    """Places of 500 slices differ by a tenth of the posterior's sd (poisson) or less: 0.03 sd is
    six standard errors, and less than a factor of the prior or of a slice would make.
    """
    e, log_likelihood = likelihood_on_grid(family)
    logs = log_likelihood + log_prior_density(prior, e)
    p = np.exp(logs - logs.max())
    p *= np.where(np.isfinite(np.roll(logs, 1)) & np.isfinite(np.roll(logs, -1)), 1.0, 0.5)
    p /= p.sum()
    mean = p @ e
    sd = np.sqrt(p @ (e - mean) ** 2)
    found = posterior_under(sliced(family)[1], prior)
    assert found.mean == pytest.approx(mean, abs=0.03 * sd)
    assert found.sd == pytest.approx(sd, rel=0.03)
    below = np.cumsum(p) - 0.5 * p
    for x in (-0.5, 0.25, 0.75):
        assert found.cdf(x) == pytest.approx(np.interp(x, e, below), abs=0.02)
    if prior.is_proper:
        log_bf, error = found.log_bayes_factor(0.0)
        expected = np.log(p.sum()) + logsumexp(logs - np.interp(0.0, e, log_likelihood))
        step = np.log(e[1] - e[0])
        assert error < 0.03
        if prior.name != "Uniform":  # whose ends count half
            assert log_bf == pytest.approx(expected + step, abs=6 * error + 0.005)


def test_slices_between_nodes_are_the_exact_density():
    likelihood = sliced("poisson")[1]
    posterior_under(likelihood, blm.Prior("Normal", mu=-2.0, sigma=0.3))  # reaches far
    e = np.linspace(-3.0, 3.0, 7) + 0.137
    found = likelihood.on(e, slice(None))
    exact = np.array([likelihood.at(value) for value in e]).T
    # a log density: 0.002 is a fifth of a percent
    assert np.abs(found - exact)[exact > exact.max() - 15].max() < 0.002


def test_a_prior_far_away_is_drawn_again_and_moves_the_posterior():
    data = DATA.assign(poisson=DATA["poisson"] * 30)
    prior = blm.Prior("Normal", mu=-4.0, sigma=0.05)
    own = {"x": blm.Prior("Normal", mu=0.0, sigma=2.0)}
    result = blm.reanalyze(model("poisson", data=data, **own), "x", {"far": prior}, draws=2000)
    fit = model("poisson", data=data, x=prior).fit(draws=500, random_seed=2, progressbar=False)
    beta = fit.posterior["beta"].sel(coef="x").to_numpy()
    # 2,000 draws on one side and as good as none on the other
    assert result.posteriors["far"].mean == pytest.approx(beta.mean(), abs=0.15 * beta.std())
    assert result.posteriors["far"].sd == pytest.approx(beta.std(), rel=0.15)


def test_recoding_a_factor_and_moving_a_covariate_leave_the_posterior_alone():
    own = DATA.assign(z=np.sin(np.arange(24)), f=np.where(X > 0, "b", "a"))
    first = blm.MixedModel("bernoulli ~ f + z + (1 | g)", own, family="bernoulli")
    moved = own.assign(z=own["z"] * 3 + 10, f=np.where(X > 0, "b", "c"))
    second = blm.MixedModel("bernoulli ~ f + z + (1 | g)", moved, family="bernoulli")
    one, two = (
        source_and_likelihood(m, e, random_seed=1)[1]
        for m, e in ((first, "f[b]"), (second, {"f[c]": -1}))
    )
    for prior in OTHERS[:2]:
        a, b = posterior_under(one, prior), posterior_under(two, prior)
        assert a.mean == pytest.approx(b.mean, abs=0.03 * a.sd)
        assert a.sd == pytest.approx(b.sd, rel=0.03)


def test_the_table_is_of_ratios_beside_the_wald_row():
    m = model("poisson", x=blm.Prior("Flat"))
    result = blm.reanalyze(m, "x", mcid=1.25, draws=2000)
    assert result.scale.ratio
    assert result.scale.mcid == pytest.approx(np.log(1.25))
    assert result.risks.columns[0] == "mean_without"
    row, wald = result.table.loc["ML, Wald"], m.ml().fixef().loc["x"]
    assert row["estimate"] == pytest.approx(wald["rate_ratio"])
    assert row["lower"] == pytest.approx(wald["ratio_lower"])
    assert "weakly informative" not in result.table.index
    assert "Averages over rows and groups" in repr(result)


def test_risks_are_those_of_a_fit_under_the_prior():
    own = DATA.assign(f=np.where(X > 0, "b", "a"))
    prior = blm.Prior("Normal", mu=0.5, sigma=0.3)
    m = blm.MixedModel("bernoulli ~ f + (f | g)", own, family="bernoulli", priors={"f[b]": prior})
    risks = blm.reanalyze(m, "f[b]", {"own": prior}, draws=4000).risks.loc["own"]
    fit = m.fit(method="importance", draws=1000, random_seed=4, progressbar=False)
    contrasts = fit.average_contrasts("f").set_index("measure")
    means = fit.average_effects("f")["population_average"].to_numpy()
    sign = -1 if contrasts["contrast"].iloc[0] == "a - b" else 1
    # of some 1,000 independent draws with sds of 0.1 (means) and 0.08 (difference)
    assert risks["risk_without"] == pytest.approx(means[0], abs=0.02)
    assert risks["risk_with"] == pytest.approx(means[1], abs=0.02)
    difference = contrasts.loc["difference"]
    assert sign * risks["risk_difference"] == pytest.approx(
        difference["population_average"], abs=0.015
    )
    ends = np.sort(sign * difference[["population_average_lower", "population_average_upper"]])
    found = risks[["risk_difference_lower", "risk_difference_upper"]].to_numpy(dtype=float)
    assert np.allclose(found, ends.astype(float), atol=0.04)
    assert risks["risk_ratio"] == pytest.approx(
        contrasts.loc["ratio", "population_average"] ** sign, rel=0.05
    )


def test_rows_differ_by_the_effect_in_the_linear_predictor():
    own = pd.DataFrame({"y": [0, 1] * 6, "f": list("abc") * 4, "z": np.arange(12.0), "g": G[:12]})
    design = blm.MixedModel("y ~ f + z + (z | g)", own, family="bernoulli").design
    beta = np.array([0.3, -0.7, 1.1, 0.2])
    for row in ([0, 1, 0, 0], [0, -1, 1, 0], [0, 0, 0, 2], [0, -0.5, -0.5, 0]):
        rows, notes = rows_with_and_without(design, np.array(row, dtype=float))
        assert not notes
        assert np.allclose((rows.X[1] - rows.X[0]) @ beta, np.dot(row, beta))
        assert np.allclose(rows.Z[0][:, :, 1], rows.X[:, :, 3])
        assert rows.shares.sum() == pytest.approx(1.0)
    lone = rows_with_and_without(design, np.array([0, 1.0, 0, 0]))[0]
    assert (lone.X[:, :, 2] == 0).all()  # nobody has two levels
    for formula, row, said in (
        ("y ~ f * z + (1 | g)", [0, 0, 0, 1, 0, 0], "f:z stay"),
        ("y ~ z + I(z**2) + (1 | g)", [0, 1, 0], "stay as observed"),
        ("y ~ f + (0 + f | g)", [0, 1, 0], "not available"),
        ("y ~ f + (1 | g)", [1, 0, 0], "intercept alone"),
    ):
        design = blm.MixedModel(formula, own, family="bernoulli").design
        assert said in rows_with_and_without(design, np.array(row, dtype=float))[1][0]


def test_a_flat_prior_on_a_separated_effect_is_refused_or_left_out():
    data = DATA.assign(bernoulli=(X > 0).astype(int))
    result = blm.reanalyze(model(data=data), "x", draws=2000)
    assert "reference" not in result.table.index
    assert any("no reference row" in note and "separated" in note for note in result.notes)
    assert any("ML is not available" in note for note in result.notes)
    with pytest.raises(PriorError, match="separated"):
        blm.reanalyze(model(data=data), "x", {"mine": blm.Prior("Flat")}, draws=1000)


def test_an_ordinal_effect_has_odds_and_a_probability_of_higher_categories():
    data = DATA.assign(grade=np.minimum(DATA["poisson"], 2))
    m = blm.MixedModel("grade ~ x + (1 | g)", data, family="ordinal")
    result = blm.reanalyze(m, "x", "sceptical", draws=2000)
    assert result.scale.ratio
    risks = result.risks.loc["sceptical, weak"]
    assert 0 < risks["risk_without"] < risks["risk_with"] < 1
    assert risks["risk_ratio_lower"] < risks["risk_ratio"] < risks["risk_ratio_upper"]


def test_a_probit_effect_is_on_the_scale_of_the_link():
    data = DATA.assign(x=X + 0.5)
    m = blm.MixedModel("bernoulli ~ x + (1 | g)", data, family="bernoulli", link="probit")
    curve = blm.sensitivity(m, "x", scale=[0.3, 3.0], draws=1000)
    assert not curve.scale.ratio
    assert curve.scale.mcid == pytest.approx(0.5)  # a 0/1 column is not divided by its spread


def test_a_component_has_no_test_of_its_own():
    with pytest.raises(DataError, match="blm.bayes_factor"):
        blm.savage_dickey(model(), "sd(Intercept | g)")


def test_power_scaling_takes_the_likelihood_with_effects_integrated_out():
    fit = model().fit(method="importance", draws=250, random_seed=6, progressbar=False)
    tree, nodes = power_scaling_tree(fit), np.polynomial.hermite_e.hermegauss(60)
    draw = fit.posterior.isel(chain=0, draw=3)
    base, slope = (float(draw["beta"].sel(coef=name)) for name in ("Intercept", "x"))
    eta = (base + slope * X)[:, None] + float(draw["sd_g"].squeeze()) * nodes[0]
    y = Y["bernoulli"][:, None]
    rows = y * eta - np.logaddexp(0, eta)
    weight = np.log(nodes[1] / np.sqrt(2 * np.pi))
    total = sum(logsumexp(rows[level == G].sum(axis=0) + weight) for level in "abcd")
    found = float(tree["log_likelihood"]["y"].isel(chain=0, draw=3))
    assert found == pytest.approx(total, abs=1e-4)
    prior = log_prior_draws(fit)["x"][0, 3]
    assert prior == pytest.approx(stats.norm(0, 2).logpdf(slope))
    assert blm.power_scaling(fit).loc["x", "likelihood"] > 0.05


def test_power_scaling_knows_the_priors_of_a_familys_parameters():
    data = DATA.assign(grade=np.minimum(DATA["poisson"], 2), z=X + 2.0)
    m = blm.MixedModel("grade ~ z", data, family="ordinal")
    fit = m.fit(method="importance", draws=250, random_seed=7, progressbar=False)
    draw = fit.posterior.isel(chain=1, draw=5)
    thresholds = draw["threshold"].to_numpy() - 2.0 * float(draw["beta"].squeeze())
    expected = stats.logistic.logpdf(thresholds).sum()
    assert log_prior_draws(fit)["threshold"][1, 5] == pytest.approx(expected)
    crossed = blm.MixedModel(
        "bernoulli ~ x + (1 | g) + (1 | h)", DATA.assign(h=list("uvwx") * 6), family="bernoulli"
    )
    fit = crossed.fit(draws=50, chains=1, random_seed=8, progressbar=False)
    with pytest.raises(DataError, match='family="bernoulli" and several grouping factors'):
        blm.power_scaling(fit)


def test_slices_that_end_where_means_leave_their_range_add_up_to_the_posterior():
    """With an identity link; beside the draws themselves, of some 4,000 independent ones."""
    own = {"Intercept": blm.Prior("Normal", mu=1.5, sigma=1.0)}
    m = blm.MixedModel(
        "poisson ~ x + (1 | g)", DATA, family="poisson", link="identity", priors=PRIORS | own
    )
    source, likelihood = source_and_likelihood(m, "x", random_seed=1)
    coefficients = source.effect.under(source.effect.prior)
    drawn = joint_draws(m.design, m.priors, coefficients, keep=4000, draws=16_000, random_seed=3)
    e = low_draws(drawn.density, drawn.z)[0].beta[:, source.effect.at]
    found = posterior_under(likelihood, source.effect.prior)
    # six standard errors of these draws and of the places of 500 slices
    assert found.mean == pytest.approx(e.mean(), abs=0.15 * e.std())
    assert found.sd == pytest.approx(e.std(), rel=0.08)
    assert found.cdf(0.3) == pytest.approx((e < 0.3).mean(), abs=0.03)
    result = blm.reanalyze(m, "x", {"own": PRIORS["x"]}, draws=2000)
    row, risk = result.table.loc["own"], result.risks.loc["own"]
    assert not result.scale.ratio
    assert risk["difference"] == pytest.approx(row["estimate"], abs=0.01 * row["sd"])
    assert risk["difference_lower"] == pytest.approx(row["lower"], abs=0.05 * row["sd"])
