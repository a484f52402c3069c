"""Default priors are those of the documentation; a user's priors win and are checked."""

from __future__ import annotations

import numpy as np
import pytest

import bayeslmm as blm
from bayeslmm.bayes.coefficients import fixed_prior
from tests.conftest import dataset, quietly


def _model(formula="Reaction ~ Days + (Days | Subject)", name="sleepstudy", **options):
    return quietly(formula, dataset(name), **options)


def test_defaults_are_on_the_scale_of_the_data():
    priors = _model().priors
    data = dataset("sleepstudy")
    sd_y, sd_x = data["Reaction"].std(), data["Days"].std()
    assert priors["Intercept"].parameters["mu"] == pytest.approx(data["Reaction"].mean())
    assert priors["Intercept"].parameters["sigma"] == pytest.approx(2.5 * sd_y)
    assert priors["Days"].name == "Normal"
    assert priors["Days"].parameters["mu"] == 0
    assert priors["Days"].parameters["sigma"] == pytest.approx(2.5 * sd_y / sd_x)
    assert priors["sigma"] == blm.Prior("HalfStudentT", nu=3, sigma=sd_y)
    assert priors["sd(Intercept | Subject)"] == blm.Prior("HalfStudentT", nu=3, sigma=sd_y)
    assert priors["sd(Days | Subject)"].parameters["sigma"] == pytest.approx(sd_y / sd_x)
    assert priors["corr(Subject)"] == blm.Prior("LKJ", eta=2)


def test_a_rare_dummy_slope_has_the_scale_of_the_response():
    priors = _model("score ~ Machine + (Machine | Worker)", "machines").priors
    sd_y = dataset("machines")["score"].std()
    assert priors["sd(Machine[B] | Worker)"].parameters["sigma"] == pytest.approx(sd_y)


def test_cell_means_are_centered_at_the_mean_of_the_response():
    model = _model("score ~ 0 + Machine + (1 | Worker)", "machines")
    mean = dataset("machines")["score"].mean()
    prior = fixed_prior(model.design, model.priors)
    np.testing.assert_allclose(np.linalg.solve(prior.root, prior.target), mean)
    assert _model("Reaction ~ 0 + Days").priors["Days"].parameters["mu"] == 0


def test_defaults_follow_the_units_of_response_and_covariate():
    data = dataset("sleepstudy")
    changed = data.assign(Reaction=data["Reaction"] * 1e6, Days=data["Days"] / 1e3)
    a = _model().priors
    b = blm.LMM("Reaction ~ Days + (Days | Subject)", changed).priors
    ratio = {"Intercept": 1e6, "Days": 1e9, "sd(Days | Subject)": 1e9, "sigma": 1e6}
    for key, factor in ratio.items():
        assert b[key].parameters["sigma"] == pytest.approx(factor * a[key].parameters["sigma"])


def test_the_scale_of_sigma_follows_the_weights():
    data = dataset("sleepstudy")
    one = quietly("Reaction ~ Days", data, weights=np.ones(180)).priors["sigma"]
    four = quietly("Reaction ~ Days", data, weights=np.full(180, 4.0)).priors["sigma"]
    assert four.parameters["sigma"] == pytest.approx(2 * one.parameters["sigma"])


def test_the_offset_is_subtracted_before_the_response_is_measured():
    data = dataset("sleepstudy").assign(known=1000.0)
    priors = blm.LMM("Reaction ~ Days + offset(known)", data).priors
    assert priors["Intercept"].parameters["mu"] == pytest.approx(data["Reaction"].mean() - 1000)


def test_a_component_wins_over_its_class_whatever_the_order():
    tight, wide = blm.Prior("Exponential", lam=1.0), blm.Prior("HalfNormal", sigma=9.0)
    for order in (("sd", "sd(Days | Subject)"), ("sd(Days | Subject)", "sd")):
        chosen = {"sd": wide, "sd(Days | Subject)": tight}
        priors = _model(priors={key: chosen[key] for key in order}).priors
        assert priors["sd(Days | Subject)"] == tight
        assert priors["sd(Intercept | Subject)"] == wide


def test_class_beta_leaves_the_intercept_alone():
    priors = _model(priors={"beta": blm.Prior("Normal", mu=0, sigma=1)}).priors
    assert priors["Days"].parameters["sigma"] == 1
    assert priors.is_default("Intercept")


def test_keys_may_be_spaced_differently_and_name_the_pair():
    priors = _model().priors
    priors["sd(Days|Subject)"] = blm.Prior("HalfNormal", sigma=3)
    priors["corr(Intercept, Days | Subject)"] = blm.Prior("LKJ", eta=1)
    assert priors["sd(Days | Subject)"].parameters == {"sigma": 3}
    assert priors["corr(Subject)"].parameters == {"eta": 1}


def test_priors_print_every_parameter_and_what_was_set():
    model = _model(priors={"Days": blm.Prior("Normal", mu=1, sigma=2)})
    text = repr(model.priors)
    for key in model.priors:
        assert key in text
    assert "Normal(mu=1, sigma=2)  (set)" in text
    assert text in repr(model)


def test_a_copy_is_independent():
    priors = _model().priors
    twin = priors.copy()
    twin["Days"] = blm.Prior("Flat")
    assert priors["Days"].name == "Normal"


def test_a_column_called_sigma_is_told_from_the_residual_sd():
    data = dataset("sleepstudy").rename(columns={"Days": "sigma"})
    priors = blm.LMM("Reaction ~ sigma + (1 | Subject)", data).priors
    assert priors["sigma"].name == "HalfStudentT"
    assert priors["beta(sigma)"].name == "Normal"


@pytest.mark.parametrize(
    ("priors", "message"),
    [
        ({"Dayz": blm.Prior("Normal")}, "no parameter 'Dayz'.*Did you mean 'Days'"),
        ({"sd(Days | Sub)": blm.Prior("HalfNormal")}, "no parameter.*sd\\(Days \\| Subject\\)"),
        ({"Days": 3}, "blm.Prior"),
        ({"sigma": blm.Prior("Normal", mu=0, sigma=1)}, "negative"),
        ({"sd": blm.Prior("StudentT", nu=3)}, "negative"),
        ({"sd": blm.Prior("Uniform", lower=-1, upper=1)}, "negative"),
        ({"sd": blm.Prior("AsymmetricLaplace", kappa=1, mu=0, b=1)}, "negative"),
        ({"corr": blm.Prior("Normal")}, "LKJ"),
        ({"Days": blm.Prior("LKJ", eta=1)}, "LKJ"),
        ([("Days", 1)], "dict"),
    ],
)
def test_a_wrong_key_or_support_is_refused(priors, message):
    with pytest.raises(blm.PriorError, match=message):
        _model(priors=priors)


def test_a_class_without_members_is_refused():
    with pytest.raises(blm.PriorError, match="no parameter of class 'corr'"):
        _model("Reaction ~ Days + (1 | Subject)", priors={"corr": blm.Prior("LKJ", eta=1)})


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("Nromal", {}, "no distribution 'Nromal'.*Did you mean Normal"),
        ("Poisson", {"mu": 3}, "not a continuous"),
        ("Normal", {"sd": 3}, "no parameter 'sd'.*mu, sigma"),
        ("Normal", {"sigma": -1}, "must be positive"),
        ("Normal", {"sigma": "big"}, "must be a number"),
        ("Normal", {"sigma": np.nan}, "must be a number"),
        ("Uniform", {"lower": 3, "upper": 1}, "below"),
        ("Exponential", {}, "needs the parameter lam or scale"),
        ("LKJ", {"eta": 0}, "positive"),
        (3, {}, "distribution's name"),
    ],
)
def test_a_wrong_distribution_or_parameter_is_refused(name, parameters, message):
    with pytest.raises(blm.PriorError, match=message):
        blm.Prior(name, **parameters)


def test_a_distribution_only_pymc_knows_is_accepted():
    prior = blm.Prior("Moyal", mu=0, sigma=1)
    assert prior.to_dict() == {"name": "Moyal", "mu": 0, "sigma": 1}
    assert blm.Prior.from_dict(prior.to_dict()) == prior


@pytest.mark.parametrize("name", ["rho", "range", "log_sigma[x]", "sd(x)", "corr(x)", "nu(x)"])
def test_a_column_called_like_a_component_is_a_coefficient(name):
    data = blm.load_dataset("sleepstudy").rename(columns={"Days": name})
    given = {name: blm.Prior("Normal", mu=0, sigma=5)}
    model = blm.LMM(f"Reaction ~ `{name}` + (1 | Subject)", data, priors=given)
    assert model.priors[name] == given[name]
    with pytest.raises(blm.PriorError, match="another distribution than LKJ"):
        model.priors[name] = blm.Prior("LKJ", eta=2)


def test_parameters_are_those_of_the_table_in_its_order():
    model = blm.LMM(
        "Reaction ~ Days + (Days | Subject)",
        blm.load_dataset("sleepstudy"),
        family="student",
        random="student",
    )
    priors = model.priors
    assert [p.key for p in priors.parameters] == list(priors)
    assert [p.kind for p in priors.parameters] == [
        "intercept", "beta", "sd", "sd", "corr", "effects_nu", "sigma", "nu",
    ]  # fmt: skip
    assert priors.of("sd", "Subject") == [
        priors["sd(Intercept | Subject)"],
        priors["sd(Days | Subject)"],
    ]
    assert list(priors.components()) == [
        "Intercept",
        "Days",
        "sd(Intercept | Subject)",
        "sd(Days | Subject)",
        "corr(Intercept, Days | Subject)",
        "nu(Subject)",
        "sigma",
        "nu",
    ]


def test_a_likelihood_fit_does_not_make_default_priors_and_later_they_are_the_same():
    model, other = _model(), _model()
    assert not model.priors.fixed()
    model.reml()
    assert "_entries" not in vars(model.priors)
    assert list(model.priors.items()) == list(other.priors.copy().items())


def test_a_fixed_prior_is_known_however_it_was_set():
    model = _model()
    model.priors["sigma"] = blm.Prior("Fixed", value=25.0)
    given = _model(priors={"sigma": blm.Prior("Fixed", value=25.0)})
    for fitted in (model, given):
        assert list(fitted.priors.fixed()) == ["sigma"]
        assert fitted.priors.copy().fixed() == fitted.priors.fixed()
        assert fitted.reml().sigma == 25.0
