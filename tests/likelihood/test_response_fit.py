"""Maximum likelihood of responses that are not Gaussian: references, recoveries, boundaries."""

import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.errors import DataError, ModelWarning

REFERENCES = {
    found["name"]: found
    for found in json.loads((Path(__file__).parents[1] / "data" / "glmer.json").read_text())
}
LAPLACE = [name for name, found in REFERENCES.items() if "lme4" in found["software"]]
EXACT = ["grouseticks_nb", "wine"]
BY_NODES = [name for name, found in REFERENCES.items() if "agq" in found]


def model_of(name: str) -> blm.MixedModel:
    found = REFERENCES[name]
    data = blm.load_dataset(found["data"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a level for each row is meant in grouseticks
        return blm.MixedModel(found["formula"], data, family=found["family"])


def sds(found: dict) -> dict[str, list[float]]:
    out: dict[str, list[float]] = {}
    for row in found["varcorr"]:
        if "var2" not in row:
            out.setdefault(row["grp"], []).append(row["sdcor"])
    return out


def check(fit, coef, se, within):
    beta = fit.fixef()["estimate"].to_numpy()
    se = np.array(list(se.values()))
    assert np.abs((beta - np.array(list(coef.values()))) / se).max() < within
    return fit.fixef()["se"].to_numpy() / se


@pytest.mark.parametrize("name", LAPLACE)
def test_laplace_fits_are_those_of_lme4_with_a_likelihood_a_little_higher(name):
    """lme4 ends its inner iterations early: glmmTMB has our digits on the same models."""
    found, fit = REFERENCES[name], model_of(name).ml()
    assert 0 <= fit.loglik - found["loglik"] < 1e-5 * abs(found["loglik"])
    assert fit.n_parameters == found["df"]
    assert fit.converged
    assert not fit.singular
    ratio = check(fit, found["coef"], found["se"], 2e-3)
    np.testing.assert_allclose(ratio, 1, atol=0.015)
    for group, wanted in sds(found).items():
        estimates = np.sqrt(np.diag(fit.covariances[group]))
        np.testing.assert_allclose(estimates, wanted, rtol=1e-3)


@pytest.mark.parametrize("name", EXACT)
def test_laplace_fits_have_the_digits_of_programs_that_end_late(name):
    found, fit = REFERENCES[name], model_of(name).ml()
    assert fit.loglik == pytest.approx(found["loglik"], rel=1e-7)
    ratio = check(fit, found["coef"], found["se"], 1e-3)
    np.testing.assert_allclose(ratio, 1, rtol=2e-3)
    for group, wanted in sds(found).items():
        np.testing.assert_allclose(np.sqrt(np.diag(fit.covariances[group])), wanted, rtol=1e-4)
    components = fit.components()
    if "alpha" in found:
        assert components["alpha"] == pytest.approx(found["alpha"], rel=1e-4)
    if "threshold" in found:
        thresholds = components[components.index.str.startswith("threshold")]
        np.testing.assert_allclose(thresholds, found["threshold"], atol=1e-4)


@pytest.mark.parametrize("name", BY_NODES)
def test_quadrature_fits_are_those_of_lme4_up_to_the_constants_of_the_response(name):
    found = REFERENCES[name]
    model = model_of(name)
    fit = model.ml(n_quadrature=25)
    agq = found["agq"]
    ratio = check(fit, agq["coef"], agq["se"], 1e-3)
    np.testing.assert_allclose(ratio, 1, rtol=1e-3)
    (group,) = fit.covariances
    assert np.sqrt(fit.covariances[group].iloc[0, 0]) == pytest.approx(agq["sd"], rel=1e-4)
    assert "25 nodes" in fit.describe()


def test_the_likelihood_of_the_optimum_is_stationary_in_steps_of_a_standard_error():
    fit = model_of("contraception_slopes").ml()
    engine, theta = fit._engine, fit.theta
    step = np.concatenate([np.full(3, 0.02), 0.02 * np.sqrt(np.diag(fit.vcov))])
    for direction in np.diag(step):
        for way in (1, -1):
            assert engine.solution(theta + way * direction, False).loglik < fit.loglik


def rows(family: str, seed: int = 3, n_groups: int = 60, per_group: int = 20) -> pd.DataFrame:
    """y ~ 0.2 + 0.5 x with a group's effect of sd 0.6."""
    from bayeslmm.parts.families import family_of

    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(n_groups), per_group)
    x = rng.normal(size=len(g))
    u = rng.normal(size=n_groups)
    eta = 0.2 + 0.5 * x + 0.6 * ((u - u.mean()) / u.std())[g]
    phi = {"ordinal": [-0.8, 0.4, 1.5], "zero_inflated_poisson": [0.2], "lognormal": [0.7]}
    made = family_of(family, None, 4)
    values = np.array(phi.get(family, [3.0, 0.2]))[: made.n_phi]
    trials = np.full(len(g), 5.0 if family == "binomial" else 1.0)
    y = made.draw(rng, eta - 0.2 * (family == "ordinal"), values, trials)
    data = pd.DataFrame({"y": y, "x": x, "g": g.astype(str), "size": 5})
    data.attrs["phi"] = values
    return data


FAMILIES = (
    "bernoulli", "binomial", "poisson", "negativebinomial", "gamma", "beta", "lognormal", "ordinal",
    "zero_inflated_poisson", "zero_inflated_negativebinomial",
)  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_recovers_what_data_were_made_with(family):
    data = rows(family)
    left = "y of size" if family == "binomial" else "y"
    fit = blm.MixedModel(f"{left} ~ x + (1 | g)", data, family=family).ml()
    assert fit.converged
    # five standard errors: one in a million for each of some 30 estimates
    slope = fit.fixef().loc["x"]
    assert abs(slope["estimate"] - 0.5) < 5 * slope["se"]
    assert 0.01 < slope["se"] < 0.1
    components = fit.varcomp()
    # effects have a sample standard deviation of 0.6 exactly
    assert abs(components["estimate"].iloc[0] - 0.6) < 5 * components["se"].iloc[0]
    for k, value in enumerate(data.attrs["phi"]):
        row = components.iloc[1 + k]
        assert abs(row["estimate"] - value) < 5 * row["se"], components.index[1 + k]
    assert np.all(components["lower"] < components["estimate"])


def test_a_lognormal_response_is_the_gaussian_model_of_its_logarithm():
    data = rows("lognormal")
    fit = blm.MixedModel("y ~ x + (x | g)", data, family="lognormal").ml()
    exact = blm.LMM("log(y) ~ x + (x | g)", data).ml()
    assert fit.loglik == pytest.approx(exact.loglik - np.log(data["y"]).sum(), rel=1e-9)
    np.testing.assert_allclose(fit.components(), exact.components(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(fit._solution.beta, exact._solution.beta, atol=1e-4)
    np.testing.assert_allclose(fit.ranef()["estimate"], exact.ranef()["estimate"], atol=1e-3)


def test_origin_and_unit_of_covariates_change_nothing():
    data = rows("poisson")
    fit = blm.MixedModel("y ~ x + (x | g)", data, family="poisson").ml()
    moved = data.assign(x=1000 + 10 * data["x"])
    other = blm.MixedModel("y ~ x + (x | g)", moved, family="poisson").ml()
    assert other.loglik == pytest.approx(fit.loglik, abs=1e-6)
    assert other.fixef()["estimate"]["x"] == pytest.approx(fit.fixef()["estimate"]["x"] / 10, 1e-4)
    assert other.fixef()["se"]["x"] == pytest.approx(fit.fixef()["se"]["x"] / 10, rel=1e-3)
    Sigma, A = fit.covariances["g"].to_numpy(), np.array([[1, -100.0], [0, 0.1]])
    np.testing.assert_allclose(other.covariances["g"], A @ Sigma @ A.T, rtol=2e-3)


def test_swapping_success_and_failure_changes_signs_alone():
    data = blm.load_dataset("cbpp")
    formula = "incidence of size ~ period + (1 | herd)"
    fit = blm.MixedModel(formula, data, family="binomial").ml()
    swapped = data.assign(incidence=data["size"] - data["incidence"])
    other = blm.MixedModel(formula, swapped, family="binomial").ml()
    assert other.loglik == pytest.approx(fit.loglik, abs=1e-7)
    np.testing.assert_allclose(other._solution.beta, -fit._solution.beta, atol=1e-5)


def test_weights_are_repeated_rows():
    data = rows("bernoulli", n_groups=20)
    counts = np.random.default_rng(5).integers(1, 4, len(data))
    repeated = data.loc[np.repeat(data.index, counts)].reset_index(drop=True)
    weighted = blm.MixedModel(
        "y ~ x + (1 | g)", data.assign(w=counts), weights="w", family="bernoulli"
    ).ml()
    plain = blm.MixedModel("y ~ x + (1 | g)", repeated, family="bernoulli").ml()
    assert weighted.loglik == pytest.approx(plain.loglik, abs=1e-7)
    np.testing.assert_allclose(weighted._solution.beta, plain._solution.beta, atol=1e-5)


def test_a_model_without_random_effects_is_the_generalized_linear_model():
    data = rows("poisson")
    fit = blm.MixedModel("y ~ x", data, family="poisson").ml()
    X = np.column_stack([np.ones(len(data)), data["x"]])
    beta = fit._solution.beta
    mu = np.exp(X @ beta)
    np.testing.assert_allclose(X.T @ (data["y"] - mu), 0, atol=1e-2)
    np.testing.assert_allclose(fit.vcov, np.linalg.inv(X.T @ (mu[:, None] * X)), rtol=1e-4)


@pytest.mark.parametrize("n_quadrature", [1, 7])
def test_effects_that_are_not_there_are_estimated_as_zero(n_quadrature):
    rng = np.random.default_rng(4)
    g = np.repeat(np.arange(20), 10)
    # every group has the same count of events: less variation than chance makes
    y = np.tile([0, 1, 0, 1, 1, 0, 1, 0, 0, 1], 20).astype(float)
    data = pd.DataFrame({"y": y, "g": g.astype(str), "x": rng.normal(size=200)})
    model = blm.MixedModel("y ~ x + (1 | g)", data, family="bernoulli")
    with pytest.warns(ModelWarning, match="sd.Intercept | g. is estimated as 0"):
        fit = model.ml(n_quadrature)
    assert fit.components().iloc[0] == 0.0
    plain = blm.MixedModel("y ~ x", data, family="bernoulli").ml()
    assert fit.loglik == pytest.approx(plain.loglik, abs=1e-9)
    np.testing.assert_allclose(fit.vcov, plain.vcov, rtol=1e-4)
    assert np.isnan(fit.varcomp()["se"].iloc[0])
    assert np.all(fit.ranef()["estimate"] == 0)
    upper = fit.confint(parameters=["sd(Intercept | g)"], progressbar=False).iloc[0]
    assert upper["lower"] == 0
    assert 0.05 < upper["upper"] < 1


def test_extra_zeros_that_are_not_there_are_a_limit():
    rng = np.random.default_rng(6)
    data = pd.DataFrame({"y": rng.binomial(6, 0.6, 300), "g": np.repeat(np.arange(30), 10)})
    model = blm.MixedModel("y ~ 1 + (1 | g)", data, family="zero_inflated_poisson")
    with pytest.warns(ModelWarning, match="zi tends to 0"):
        fit = model.ml()
    assert fit.components()["zi"] < 1e-5
    assert np.isnan(fit.varcomp().loc["zi", "se"])


def test_what_quadrature_is_not_for_is_refused_by_name():
    with pytest.raises(DataError, match="one grouping factor.*BROOD"):
        model_of("grouseticks").ml(n_quadrature=5)
    data = rows("poisson")
    data[["a", "b", "c"]] = np.random.default_rng(1).normal(size=(len(data), 3))
    model = blm.MixedModel("y ~ x + (a + b + c | g)", data, family="poisson")
    with pytest.raises(DataError, match="at most 3 random effects.*has 4"):
        model.ml(n_quadrature=5)
    with pytest.raises(ValueError, match="whole number from 1"):
        model.ml(n_quadrature=0)
    with pytest.raises(ValueError, match="closed form"):
        blm.LMM("x ~ a + (1 | g)", data).ml(n_quadrature=5)


def test_three_effects_by_quadrature_converge_as_nodes_grow():
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(15), 20)
    x, z = rng.normal(size=(2, 300))
    u = rng.normal(size=(15, 3))[g]
    y = rng.random(300) < 1 / (1 + np.exp(-u[:, 0] - u[:, 1] * x - u[:, 2] * z))
    data = pd.DataFrame({"y": y, "x": x, "z": z, "g": g.astype(str)})
    model = blm.MixedModel("y ~ x + (x + z || g)", data, family="bernoulli")
    logliks = [model.ml(n).loglik for n in (1, 4, 7)]
    assert abs(logliks[1] - logliks[0]) > 0.01
    assert abs(logliks[2] - logliks[1]) < 0.1 * abs(logliks[1] - logliks[0])


def test_counts_that_vary_no_more_than_chance_have_no_alpha():
    rng = np.random.default_rng(6)
    data = pd.DataFrame({"y": rng.binomial(6, 0.6, 300), "g": np.repeat(np.arange(30), 10)})
    model = blm.MixedModel("y ~ 1 + (1 | g)", data, family="negativebinomial")
    with pytest.warns(ModelWarning, match="alpha grows without bound"):
        fit = model.ml()
    poisson = blm.MixedModel("y ~ 1", data, family="poisson").ml()
    assert fit.loglik == pytest.approx(poisson.loglik, abs=1e-2)


def events(n_groups: int, per_group: int, intercept: float) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    g, x = np.repeat(np.arange(n_groups), per_group), rng.normal(size=n_groups * per_group)
    eta = intercept + 0.5 * x + rng.normal(size=n_groups)[g]
    return pd.DataFrame({"y": rng.random(len(g)) < 1 / (1 + np.exp(-eta)), "x": x, "g": g})


def test_a_poor_approximation_is_said_with_what_to_use_instead():
    rare = blm.MixedModel("y ~ x + (1 | g)", events(300, 4, -4.0), family="bernoulli")
    with pytest.warns(ModelWarning, match=r"of 'g' an estimate .* ml\(n_quadrature=15\)"):
        poor = rare.ml()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        better = rare.ml(n_quadrature=15)
        blm.MixedModel("y ~ x + (1 | g)", events(100, 10, 0.0), family="bernoulli").ml()
        model_of("contraception").ml()
    of = [fit.covariances["g"].to_numpy().item() for fit in (poor, better)]
    assert of[0] > 16 * of[1]  # standard deviations 5.8 and 1.4


def test_a_search_that_ends_where_the_link_does_names_the_row_and_its_level():
    """Without an event in a level its most probable risk is zero once effects may be large."""
    groups = np.repeat(np.arange(12), 20)
    events = np.repeat([0, 0, 8, 9, 10, 7, 6, 8, 9, 5, 10, 8], 20)
    frame = pd.DataFrame({"y": (np.tile(np.arange(20), 12) < events) * 1, "g": groups})
    frame.index = [f"r{i}" for i in range(240)]
    model = blm.MixedModel("y ~ 1 + (1 | g)", frame, family="bernoulli", link="identity")
    with pytest.warns(ModelWarning, match=r"row 'r\d+' of g [01] .*no means beyond 0.*model.fit"):
        fit = model.ml()
    assert not fit.converged
