"""Covariates with unknown values in models: priors, the PyMC model, tables, files, words."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bayeslmm as blm
from bayeslmm.bayes.fitting import FitInfo
from bayeslmm.bayes.hierarchical import posterior_variables
from bayeslmm.bayes.tree import (
    linear_predictor,
    posterior_dataset,
    posterior_layout,
    posterior_tree,
)
from bayeslmm.fits.posterior import PosteriorFit
from tests.conftest import quietly

MAPPING = {"age": "age ~ sex + (1 | site)", "x": "~ z * sex", "sick": "sick ~ z", "arm": "~ 1"}
FORMULA = "y ~ me(x, sd) * sex + age + sick + arm:z + (me(x, sd) | site)"


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    """60 rows at 6 sites: a reading, a number, true/false, text and numbers of two values."""
    rng = np.random.default_rng(21)
    n = 60
    data = pd.DataFrame(
        {
            "site": np.resize([f"s{i}" for i in range(6)], n),
            "y": rng.normal(size=n),
            "event": rng.integers(0, 2, n),
            "x": rng.normal(5, 2, n),
            "z": rng.normal(size=n),
            "sd": rng.uniform(0.2, 0.6, n),
            "age": rng.normal(50, 10, n),
            "sex": rng.choice(["f", "m"], n),
            "sick": pd.array(rng.random(n) < 0.4, dtype="boolean"),
            "arm": rng.choice(["old", "new"], n),
            "dose": rng.choice([1.0, 3.0], n),
        }
    )
    for at, name in enumerate(("age", "sick", "arm", "dose")):
        data[name] = data[name].where(np.arange(n) % 7 != at)
    data.loc[5, "x"] = np.nan
    return data


@pytest.fixture(scope="module")
def model(data) -> blm.LMM:
    return quietly(FORMULA, data, missing=MAPPING)


def _drawn(model: blm.LMM, seed: int = 1) -> PosteriorFit:
    """A fit with made-up draws of every variable."""
    rng = np.random.default_rng(seed)
    dims, coords = posterior_layout(model.design, model.names)
    values = {}
    for name in posterior_variables(model.design, model.names, model.priors):
        shape = (2, 50, *(len(coords[dim]) for dim in dims[name]))
        values[name] = np.abs(rng.normal(size=shape))
    for covariate in model.design.modeled:
        if covariate.values is not None:
            name = f"missing_{covariate.name}"
            values[name] = rng.integers(0, 2, values[name].shape).astype(float)
    posterior = posterior_dataset(model.design, model.names, values)
    stats_ = posterior[["sigma"]] if "sigma" in posterior else posterior[["beta"]]
    tree = posterior_tree(model.design, model.names, posterior, stats_, {})
    info = FitInfo("nuts", "whitened", "a test", 50, 10, 2, 1, 0.1)
    return PosteriorFit(model, model.priors, tree, info)


def test_defaults_are_on_the_scale_of_covariate_and_predictor(model, data):
    priors, by_name = model.priors, {c.name: c for c in model.design.modeled}
    s_age, s_x = data["age"].std(), data["x"].std()
    expected = {"mu": data["age"].mean(), "sigma": 2.5 * s_age}
    assert priors["mean(age)"].parameters == pytest.approx(expected)
    assert priors["sd(age)"].parameters == pytest.approx({"nu": 3, "sigma": s_age})
    assert priors["sd(age ~ 1 | site)"] == priors["sd(age)"]
    s_sex = (data["sex"] == "m").std()
    assert priors["age ~ sex[m]"].parameters["sigma"] == pytest.approx(2.5 * s_age / s_sex)
    assert priors["x ~ z"].parameters["sigma"] == pytest.approx(2.5 * s_x / data["z"].std())
    assert priors["mean(sick)"] == blm.Prior("Normal", mu=0, sigma=1.5)
    assert priors["sick ~ z"].parameters["sigma"] == pytest.approx(2.5 / data["z"].std())
    assert "sd(sick)" not in priors
    slopes = [p.key for p in priors.parameters if (p.kind, p.factor) == ("covariate_slope", "x")]
    assert slopes == [f"x ~ {name}" for name in by_name["x"].model.names[1:]]
    assert "sd(me(x, sd) | site)" in priors  # of random slopes, not of the regression of x


def test_priors_of_regressions_can_be_given(data):
    own = {"age ~ sex[m]": blm.Prior("Normal", mu=1, sigma=2), "sd(age~1|site)": _half(4)}
    model = quietly(FORMULA, data, missing=MAPPING, priors=own)
    assert model.priors.of("covariate_slope", "age") == [own["age ~ sex[m]"]]
    assert model.priors.of("covariate_effect_sd", "age") == [_half(4)]
    with pytest.raises(blm.PriorError, match="allows negative values"):
        model.priors["sd(age ~ 1 | site)"] = blm.Prior("Normal", mu=0, sigma=1)


def _half(sigma: float) -> blm.Prior:
    return blm.Prior("HalfNormal", sigma=sigma)


FLAT, HALF = blm.Prior("Flat"), blm.Prior("HalfFlat")


@pytest.mark.parametrize(
    ("priors", "named"),
    [
        ({"mean(sick)": FLAT}, r"mean\(sick\)"),
        ({"sick ~ z": FLAT}, "sick ~ z"),
        ({"sd(age ~ 1 | site)": HALF}, r"sd\(age ~ 1 \| site\)"),
        ({"me(x, sd)": FLAT}, r"me\(x, sd\)"),
        ({"age ~ sex[m]": FLAT, "mean(age)": FLAT, "sd(age)": HALF}, None),
        ({"Intercept": FLAT, "sigma": HALF}, None),
    ],
)
def test_flat_priors_are_refused_where_the_data_do_not_bound_them(data, priors, named):
    from bayeslmm.priors.propriety import refuse_improper_posterior

    formula = "y ~ me(x, sd) + age + sick"
    model = quietly(formula, data, missing=_mapping(formula), priors=priors)
    if named is None:
        refuse_improper_posterior(model.design, model.priors)
        return
    with pytest.raises(blm.PriorError, match=f"flat.*{named}|{named}.*flat"):
        refuse_improper_posterior(model.design, model.priors)


def _mapping(formula: str) -> dict[str, str]:
    return {name: text for name, text in MAPPING.items() if name in formula}


def test_a_flat_sd_needs_more_observed_values_than_flat_coefficients(data):
    from bayeslmm.priors.propriety import refuse_improper_posterior

    few = data.assign(age=data["age"].where(data.index.isin([1, 9, 12])))
    flat = {"mean(age)": FLAT, "age ~ z": FLAT, "sd(age)": HALF}
    model = quietly("y ~ age + z", few, missing={"age": "~ z"}, priors=flat)
    with pytest.raises(blm.PriorError, match=r"sd\(age\) leaves .* 3 observed values are too few"):
        refuse_improper_posterior(model.design, model.priors)


def test_the_pymc_model_has_regression_readings_and_random_intercepts(data):
    formula = "y ~ me(x, sd) * sex + age + (1 | site)"
    lmm = quietly(formula, data, missing=_mapping(formula))
    model = lmm.pymc_model()
    rng = np.random.default_rng(5)
    point = {
        name: value + 0.1 * rng.normal(size=np.shape(value))
        for name, value in model.initial_point(random_seed=1).items()
    }
    names = ["true_x", "true_x_reading", "missing_age", "missing_age_observed", "y"]
    logp = model.compile_logp(vars=[model[name] for name in names], sum=False, mode="FAST_COMPILE")
    true_x, reading, missing_age, observed_age, y = logp(point)
    age, x = sorted(lmm.design.modeled, key=lambda c: c.name)
    center = point["missing_age_mean"] + age.model.W[:, 1:] @ point["missing_age_slope"]
    effect = np.exp(point["missing_age_sd_site_log__"]) * point["missing_age_effect_z"]
    center = center + effect[age.model.codes]
    sd, gone = np.exp(point["missing_age_sd_log__"]), age.model.unknown >= 0
    expected = stats.norm.logpdf(age.model.reading[~gone], center[~gone], sd)
    np.testing.assert_allclose(observed_age, expected, rtol=1e-8)
    expected = stats.norm.logpdf(point["missing_age"], center[gone], sd)
    np.testing.assert_allclose(missing_age, expected, rtol=1e-8)
    center = point["true_x_mean"] + x.model.W[:, 1:] @ point["true_x_slope"]
    expected = stats.norm.logpdf(point["true_x"], center, np.exp(point["true_x_sd_log__"]))
    np.testing.assert_allclose(true_x, expected, rtol=1e-8)
    read = ~np.isnan(x.model.reading)
    expected = stats.norm.logpdf(x.model.reading[read], point["true_x"][read], x.model.error[read])
    np.testing.assert_allclose(reading, expected, rtol=1e-8)
    filled = data.assign(x=point["true_x"])
    filled.loc[age.rows, "age"] = point["missing_age"]
    plain = quietly(formula.replace("me(x, sd)", "x"), filled).design
    assert plain.coef_names[1] == "x"
    beta = np.linalg.solve(lmm.priors.combinations(), point["beta_centered"])
    b = np.exp(point["sd_site_log__"]) * point["z_site"][:, 0]
    mean = plain.X @ beta + b[plain.blocks[0].codes]
    expected = stats.norm.logpdf(data["y"], mean, np.exp(point["sigma_log__"]))
    np.testing.assert_allclose(y, expected, rtol=1e-7)


def test_two_values_have_no_pymc_model(model):
    with pytest.raises(blm.SamplingError, match="'sick' are one of two"):
        model.pymc_model()


def test_draws_of_unknown_values_enter_the_linear_predictor(model, data):
    fit = _drawn(model)
    found = linear_predictor(model.design, model.names, fit.posterior)[1, 7]
    draw = fit.posterior.isel(chain=1, draw=7)
    filled = data.assign(x=draw["true_x"].to_numpy(), sick=data["sick"].astype(object))
    for one in model.design.modeled:
        if not one.measured:
            drawn = draw[f"missing_{one.name}"].to_numpy()[one.unit]
            if one.values is not None:
                drawn = np.array(one.values, dtype=object)[drawn.astype(int)]
            filled.loc[one.rows, one.name] = drawn
    filled["sick"] = filled["sick"].astype(bool)
    plain = quietly(FORMULA.replace("me(x, sd)", "x"), filled).design
    effects = draw["b_site"].to_numpy()[plain.blocks[0].codes]
    expected = plain.X @ draw["beta"].to_numpy() + (plain.blocks[0].Z * effects).sum(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_imputed_values_are_in_the_words_and_units_of_the_data(data):
    model = quietly("y ~ me(x, sd) + arm + dose + sick", data, missing="model")
    fit = _drawn(model)
    table = fit.imputed().set_index("covariate")
    assert len(table.loc["x"]) == len(data)
    arm, dose, sick = (table.loc[name] for name in ("arm", "dose", "sick"))
    assert set(arm["value"]) == {"old"}
    assert arm["mean"].isna().all()
    share = fit.posterior["missing_arm"].mean(("chain", "draw"))
    np.testing.assert_allclose(arm["probability"], share)
    np.testing.assert_allclose(dose["mean"], 1 + 2 * dose["probability"])
    assert set(dose["value"]) == {3.0}
    np.testing.assert_allclose(sick["mean"], sick["probability"])
    assert table.loc["x", "probability"].isna().all()


def _same_designs(one, two) -> None:
    np.testing.assert_array_equal(one.X, two.X)
    assert [c.name for c in one.modeled] == [c.name for c in two.modeled]
    for a, b in zip(one.modeled, two.modeled, strict=True):
        assert (a.values, a.measured, a.model.text) == (b.values, b.measured, b.model.text)
        assert (a.model.names, a.model.factor) == (b.model.names, b.model.factor)
        assert a.model.levels == b.model.levels
        for name in ("rows", "unit", "fill", "X_slope"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        for name in ("reading", "error", "unknown", "W", "means", "codes"):
            np.testing.assert_array_equal(getattr(a.model, name), getattr(b.model, name))


@pytest.mark.parametrize(
    ("formula", "options"),
    [
        (FORMULA, {"missing": MAPPING}),
        ("y ~ me(x, 0.5) + z + (1 | site)", {}),
        ("event ~ me(x, sd) + sick + dose + (1 | site)", {"missing": "model"}),
        ("event ~ me(x, sd) + age + (1 | site)", {"missing": {"age": "~ bs(z, df=4)"}}),
    ],
)
def test_a_saved_model_has_the_same_unknowns(data, formula, options, tmp_path):
    family = "bernoulli" if formula.startswith("event") else "gaussian"
    model = quietly(formula, data, family=family, **options)
    fit = _drawn(model)
    fit.save(tmp_path / "fit.nc")
    loaded = blm.load(tmp_path / "fit.nc")
    _same_designs(model.design, loaded.model.design)
    pd.testing.assert_frame_equal(fit.imputed(), loaded.imputed())
    assert loaded.priors.to_dict() == fit.priors.to_dict()


def test_what_is_unknown_is_said(model):
    text = repr(model)
    assert "missing values are part of the model: x (1), age (9), sick (9), arm (9)" in text
    assert "Unknown: 9 missing values of age ~ sex + (1 | site)" in text
    assert "Unknown: 60 true values of x ~ z * sex" in text
    assert "Unknown: 9 missing values of sick ~ z, logit of True" in text
    equation = model.equation(format="text")
    for line in (
        "y[i] = beta0 + beta1 x[i]",
        "c[age, j] ~ Normal(0, tau[age]^2),  j = 1, ..., 6 (site)",
        "logit(P(sick[i] = True)) = mu[sick] + alpha[sick, 1] (z[i]",
        "logit(P(arm[i] = old)) = mu[arm]",
        "reading of x[i] ~ Normal(x[i], sd[i]^2)",
    ):
        assert line in equation


def test_likelihoods_and_closed_forms_are_refused(model, data):
    with pytest.raises(blm.DataError, match=r"Measurement error \(of x\) needs model.fit"):
        model.reml()
    counts = quietly("event ~ age + (1 | site)", data, missing="model", family="poisson")
    with pytest.raises(blm.DataError, match=r"modeled \(of age\) need model.fit"):
        counts.ml()
    with pytest.raises(blm.SamplingError, match="unknown values of age"):
        _drawn(counts).loo(unit="site")
    with pytest.raises(blm.PriorError, match="no covariates: unknown values of age"):
        blm.sbc(counts, n_sims=2)


def test_covariates_that_a_posterior_would_call_alike_are_refused(data):
    alike = data.assign(age_mean=data["age"] * 2)
    with pytest.raises(blm.DataError, match="'missing_age_mean'. Rename"):
        quietly("y ~ age + age_mean", alike, missing="model")


def test_the_command_line_takes_words_and_formulas(data, tmp_path):
    from bayeslmm.cli.checks import missing_by_column

    assert missing_by_column(["drop"]) == "drop"
    assert missing_by_column(["age ~ sex", "`my x` ~ 1"]) == {
        "age": "age ~ sex",
        "my x": "`my x` ~ 1",
    }
    with pytest.raises(ValueError, match="stands beside others"):
        missing_by_column(["model", "age ~ sex"])


def test_marginal_means_are_at_the_mean_of_all_rows():
    """Missing where z is high: the mean of the known values is not that of the covariate."""
    rng = np.random.default_rng(4)
    z, f = rng.normal(size=80), rng.choice(["a", "b"], 80)
    x = 2 * z + rng.normal(0, 0.3, 80)
    data = pd.DataFrame({"y": x + rng.normal(0, 0.3, 80), "x": x, "z": z, "f": f})
    data["g"] = np.arange(80) % 8
    data.loc[z > 0.3, "x"] = np.nan
    model = quietly("y ~ x + f + (1 | g)", data, missing={"x": "~ z"})
    post = model.fit(draws=300, tune=200, chains=2, random_seed=1, progressbar=False)
    beta = post.fixef()["mean"]
    means = post.marginal_means("f").set_index("f")["mean"]
    expected = beta["Intercept"] + beta["x"] * x.mean()
    assert means["a"] == pytest.approx(expected, abs=0.25)  # x is known to about 0.3 a row
    assert post.average_effects("f").set_index("f").loc["a", "average_group"] == pytest.approx(
        means["a"], abs=1e-6
    )
    own = post.marginal_means("f", at={"x": 0.0}).set_index("f")["mean"]
    assert own["a"] == pytest.approx(beta["Intercept"])


def test_the_prior_predictive_plot_is_of_the_response():
    import matplotlib

    matplotlib.use("Agg")
    rng = np.random.default_rng(4)
    data = pd.DataFrame({"y": rng.normal(size=30), "x": rng.normal(size=30)})
    data.loc[3, "x"] = np.nan
    axes = quietly("y ~ x", data, missing="model").plot_prior_predictive(draws=20, random_seed=1)
    assert len(axes) == 1


def test_advice_on_two_values_does_not_go_in_circles():
    rng = np.random.default_rng(4)
    data = pd.DataFrame({"y": rng.normal(size=30), "x": np.arange(30) % 2, "g": np.arange(30) % 5})
    data["x"] = data["x"].where(np.arange(30) != 3)
    model = quietly("y ~ x + (1 | g)", data, missing="model")
    model.priors["mean(x)"] = blm.Prior("Fixed", value=0.0)
    for way in ("auto", "whitened"):
        with pytest.raises(blm.SamplingError, match=r"the prior of mean\(x\) is Fixed") as error:
            model.fit(parameterization=way, progressbar=False)
        assert "parameterization=" not in str(error.value)
