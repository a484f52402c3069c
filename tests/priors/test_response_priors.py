"""Default priors of other responses: what they are, and what they do not depend on."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import bayeslmm as blm
from bayeslmm.parts.families import links_of
from tests.formula.test_responses import RESPONSES, data

LOG = ["poisson", "negativebinomial", "gamma"]
NUMBERS = st.floats(0.01, 100)
_few = settings(max_examples=20, deadline=None)


def quietly(formula: str, family: str, frame: pd.DataFrame, **options) -> blm.MixedModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", blm.ModelWarning)
        return blm.MixedModel(formula, frame, family=family, **options)


def priors(formula: str, family: str, frame: pd.DataFrame | None = None, **options) -> blm.Priors:
    return quietly(formula, family, data() if frame is None else frame, **options).priors


def numbers(found: blm.Priors) -> dict[str, dict]:
    return {key: prior.parameters for key, prior in found.items()}


def of_predictor(found: blm.Priors, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of X beta under priors that are independent in combinations."""
    mean = np.array([found[key].parameters["mu"] for key in found.coefficients])
    sd = np.array([found[key].parameters["sigma"] for key in found.coefficients])
    columns = X @ np.linalg.inv(found.combinations())
    return columns @ mean, columns * sd**2 @ columns.T


def same_predictor(*models: blm.MixedModel) -> None:
    """Both have the same prior of the linear predictor; thresholds are meant at the means."""
    found = []
    for model in models:
        X = model.design.X
        X = X - X.mean(axis=0) if model.family == "ordinal" else X
        found.append(of_predictor(model.priors, X))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def same(one: dict[str, dict], other: dict[str, dict]) -> None:
    assert one.keys() == other.keys()
    for key in one:
        assert one[key] == pytest.approx(other[key], rel=1e-9, abs=1e-9), key


# ---- what they are


@pytest.mark.parametrize("family", RESPONSES)
def test_parameters_beside_the_predictor_have_their_kinds_and_are_shown(family):
    left = RESPONSES[family]
    found = priors(f"{left} ~ x + (x | g)", family)
    own = blm.MixedModel(f"{left} ~ x", data(), family=family).design.family.parameters
    assert [p.key for p in found.parameters][-len(own) :] == [p.key for p in own] or not own
    shown = found.components()
    for parameter in own:
        assert found.of(parameter.key) == [found[parameter.key]]
        assert f"  {parameter.key}" in repr(found)
        assert sum(p.key == parameter.key for p, _ in shown.values()) == parameter.size
    assert ("sigma" in found) == (family == "lognormal")


def test_defaults_of_parameters_are_those_documented():
    wanted = {
        ("negativebinomial", "alpha"): blm.Prior("InverseGamma", alpha=0.4, beta=0.3),
        ("gamma", "alpha"): blm.Prior("LogNormal", mu=2, sigma=2),
        ("beta", "kappa"): blm.Prior("LogNormal", mu=2, sigma=2),
        ("zero_inflated_poisson", "zi"): blm.Prior("Uniform", lower=0, upper=1),
        ("zero_inflated_negativebinomial", "zi"): blm.Prior("Uniform", lower=0, upper=1),
        ("zero_inflated_negativebinomial", "alpha"): blm.Prior("InverseGamma", alpha=0.4, beta=0.3),
    }
    for (family, key), prior in wanted.items():
        assert priors(f"{RESPONSES[family]} ~ x", family)[key] == prior
    sd = np.log(data()["positive"]).std()
    sigma = priors("positive ~ x", "lognormal")["sigma"]
    assert (sigma.name, sigma.parameters["nu"]) == ("HalfStudentT", 3)
    assert sigma.parameters["sigma"] == pytest.approx(sd)


@pytest.mark.parametrize("family", RESPONSES)
def test_coefficients_and_effects_are_in_units_of_the_predictor(family):
    frame = data()
    for link in links_of(family):
        found = priors(f"{RESPONSES[family]} ~ x + (x | g)", family, link=link)
        y = frame["s"] / frame["m"] if family == "binomial" else frame.get(RESPONSES[family])
        y = np.log(y) if family == "lognormal" else y
        unit = {"identity": lambda y=y: y.std(), "inverse": lambda y=y: 1 / y.mean()}
        s = unit.get(link, lambda: 1.0)()
        if (family, link) == ("binomial", "identity"):  # of the shares, rows counted by trials
            p = np.average(y, weights=frame["m"])
            assert 0.8 < s / np.sqrt(np.average((y - p) ** 2)) < 1.25
        assert found["x"].parameters["sigma"] == pytest.approx(2.5 * s / frame["x"].std())
        intercept = found["sd(Intercept | g)"].parameters["sigma"]
        assert intercept == pytest.approx(s)
        slope = found["sd(x | g)"].parameters["sigma"]
        assert slope == pytest.approx(s / frame["x"].std())
        if family != "ordinal":
            assert found["Intercept"].parameters["sigma"] == pytest.approx(2.5 * s)
        assert f"defaults: {s:.4g} (" in repr(found)


@pytest.mark.parametrize("family", sorted(set(RESPONSES) - {"ordinal", "lognormal"}))
@pytest.mark.parametrize("offset", ["", " + offset(time / 10)"])
def test_the_intercept_is_where_the_means_of_all_rows_add_up_to_the_responses(family, offset):
    frame = data()
    for link in links_of(family):
        model = blm.MixedModel(f"{RESPONSES[family]} ~ x{offset}", frame, family=family, link=link)
        design = model.design
        center = model.priors["Intercept"].parameters["mu"]
        m = 1.0 if design.trials is None else design.trials
        total = np.sum(m * design.family.link.inverse(center + design.offset))
        n = np.sum(m * np.ones(80))
        binary = family in ("bernoulli", "binomial")
        wanted = n * (design.y.sum() + 0.5) / (n + 1) if binary else design.y.sum()
        assert total == pytest.approx(wanted, rel=1e-9)


def test_the_center_of_counts_is_their_rate():
    found = priors("count ~ x + offset(log(time))", "poisson")
    frame = data()
    rate = np.log(frame["count"].sum() / frame["time"].sum())
    assert found["Intercept"].parameters["mu"] == pytest.approx(rate)


def test_case_weights_count_rows_as_often_as_they_say():
    frame = data().assign(w=np.resize([1, 2, 5], 80))
    whole = frame.loc[np.repeat(frame.index, frame["w"])]
    for family in ("bernoulli", "poisson", "gamma", "lognormal"):
        once = priors(f"{RESPONSES[family]} ~ 1", family, frame, weights="w")
        often = priors(f"{RESPONSES[family]} ~ 1", family, whole)
        mu = once["Intercept"].parameters["mu"]
        assert mu == pytest.approx(often["Intercept"].parameters["mu"])


LATENT = {"Logistic": stats.logistic, "Normal": stats.norm, "GumbelMin": stats.gumbel_l}


@pytest.mark.parametrize("link", links_of("ordinal"))
def test_thresholds_make_every_set_of_category_probabilities_equally_likely(link):
    model = blm.MixedModel("rating ~ x", data(), family="ordinal", link=link)
    prior = model.priors["threshold"]
    c = np.linspace(-4, 3, 30)
    # P(y <= k) = F(c_k) is uniform where c_k has the distribution function F
    location = LATENT[prior.name](*prior.parameters.values())
    np.testing.assert_allclose(location.cdf(c), model.design.family.link.inverse(c), rtol=1e-9)
    labels = [c.label for p, c in model.priors.components().values() if p.kind == "threshold"]
    assert labels == ["1|2", "2|3", "3|5"]
    assert "equally likely" in repr(model.priors)


# ---- what they do not depend on


@pytest.mark.parametrize("family", RESPONSES)
@_few
@given(shift=st.floats(-50, 50), scale=NUMBERS, sign=st.sampled_from([-1.0, 1.0]))
def test_shift_and_scale_of_a_covariate_do_not_matter(family, shift, scale, sign):
    frame = data()
    frame["z"] = sign * scale * (frame["x"] + shift)
    formula = RESPONSES[family] + " ~ {0} + f + I({0}**2) + ({0} | g)"
    models = [quietly(formula.format(v), family, frame) for v in ("x", "z")]
    one, other = (m.priors for m in models)
    same_predictor(*models)
    own = [
        p.key for p in one.parameters if p.kind in ("alpha", "kappa", "zi", "threshold", "sigma")
    ]
    assert [one[key] for key in own] == [other[key] for key in own]
    assert one["sd(Intercept | g)"] == other["sd(Intercept | g)"]
    slopes = one["sd(x | g)"].parameters["sigma"], other["sd(z | g)"].parameters["sigma"]
    assert slopes[0] == pytest.approx(slopes[1] * scale, rel=1e-6)


@pytest.mark.parametrize("family", RESPONSES)
@_few
@given(order=st.permutations(["p", "q", "r"]), free=st.booleans())
def test_the_coding_of_a_factor_does_not_matter(family, order, free):
    frame = data()
    frame["h"] = pd.Categorical(frame["f"], order)
    left = RESPONSES[family]
    free = free and family != "ordinal"
    right = "0 + h + h:x" if free else "h * x"
    models = [blm.MixedModel(f"{left} ~ {r}", frame, family=family) for r in ("f * x", right)]
    same_predictor(*models)


@pytest.mark.parametrize("family", ["gamma"])
@_few
@given(unit=NUMBERS)
def test_units_of_the_response_move_the_intercept_alone_on_a_log_link(family, unit):
    frame = data()
    formula = f"{RESPONSES[family]} ~ x + (x | g)"
    one = numbers(priors(formula, family, frame))
    other = numbers(priors(formula, family, frame.assign(positive=frame["positive"] * unit)))
    other["Intercept"]["mu"] -= np.log(unit)
    same(one, other)


@_few
@given(unit=NUMBERS)
def test_units_of_the_response_move_the_intercept_alone_of_a_logarithm(unit):
    frame = data()
    one = numbers(priors("positive ~ x + (x | g)", "lognormal", frame))
    changed = frame.assign(positive=frame["positive"] * unit)
    other = numbers(priors("positive ~ x + (x | g)", "lognormal", changed))
    other["Intercept"]["mu"] -= np.log(unit)
    same(one, other)


@_few
@given(unit=NUMBERS, link=st.sampled_from(["identity", "inverse"]))
def test_other_links_follow_the_units_of_the_response(unit, link):
    frame = data()
    factor = unit if link == "identity" else 1 / unit
    changed = frame.assign(positive=frame["positive"] * unit)
    one, other = (
        numbers(priors("positive ~ x + (x | g)", "gamma", d, link=link)) for d in (frame, changed)
    )
    for key in ("Intercept", "x", "sd(Intercept | g)", "sd(x | g)"):
        one[key] = {k: v * (1 if k == "nu" else factor) for k, v in one[key].items()}
    same(one, other)


@pytest.mark.parametrize("family", ["poisson", "negativebinomial", "zero_inflated_poisson"])
@_few
@given(unit=NUMBERS)
def test_units_of_the_exposure_move_the_intercept_alone(family, unit):
    frame = data()
    formula = "count ~ x + offset(log(time)) + (x | g)"
    one = numbers(priors(formula, family, frame))
    other = numbers(priors(formula, family, frame.assign(time=frame["time"] * unit)))
    other["Intercept"]["mu"] += np.log(unit)
    same(one, other)


@_few
@given(link=st.sampled_from(["logit", "probit"]), offset=st.sampled_from(["", "time", "-time"]))
def test_swapping_success_and_failure_changes_the_sign_of_the_intercept(link, offset):
    frame = data()
    right = "x + (x | g)" + (f" + offset({offset})" if offset else "")
    swapped = right.replace("offset(", "offset(-")
    one = numbers(priors(f"s of m ~ {right}", "binomial", frame, link=link))
    other = numbers(priors(f"failures of m ~ {swapped}", "binomial", frame, link=link))
    other["Intercept"]["mu"] *= -1
    same(one, other)


def test_an_event_by_any_name_has_the_same_priors():
    events = [numbers(priors(f"{left} ~ x + (1 | g)", "bernoulli")) for left in
              ("event", "truth", "word", "status")]  # fmt: skip
    events.append(numbers(priors("event of 1 ~ x + (1 | g)", "binomial")))
    for other in events[1:]:
        same(events[0], other)


def test_the_order_of_the_categories_turned_round_has_the_same_priors():
    frame = data()
    frame["relief"] = frame["pain"].cat.reorder_categories(["bad", "mild", "none"])
    same(
        *(numbers(priors(f"{left} ~ x + (x | g)", "ordinal", frame)) for left in ("pain", "relief"))
    )


# ---- what a user may say


@pytest.mark.parametrize(
    ("family", "key", "prior"),
    [
        ("negativebinomial", "alpha", blm.Prior("Gamma", alpha=2, beta=1)),
        ("gamma", "alpha", blm.Prior("Exponential", lam=0.1)),
        ("beta", "kappa", blm.Prior("HalfNormal", sigma=50)),
        ("zero_inflated_poisson", "zi", blm.Prior("Beta", alpha=1, beta=9)),
        ("zero_inflated_poisson", "zi", blm.Prior("Uniform", lower=0, upper=0.3)),
        ("ordinal", "threshold", blm.Prior("Normal", mu=0, sigma=3)),
        ("ordinal", "threshold", blm.Prior("StudentT", nu=4, mu=0, sigma=2)),
        ("lognormal", "sigma", blm.Prior("Exponential", lam=1)),
        ("poisson", "beta", blm.Prior("Normal", mu=0, sigma=1)),
        ("poisson", "sd", blm.Prior("HalfNormal", sigma=1)),
    ],
)
def test_priors_of_a_user_win(family, key, prior):
    formula = f"{RESPONSES[family]} ~ x + (1 | g)"
    found = priors(formula, family, priors={key: prior})
    assert prior in found.values()
    assert "(set)" in repr(found)


@pytest.mark.parametrize(
    ("family", "key", "prior", "message"),
    [
        ("negativebinomial", "alpha", blm.Prior("Normal", mu=0, sigma=1), "is a shape"),
        ("negativebinomial", "alpha", blm.Prior("HalfFlat"), "improper"),
        ("beta", "kappa", blm.Prior("HalfFlat"), "improper"),
        ("zero_inflated_poisson", "zi", blm.Prior("Normal", mu=0, sigma=1), "between 0 and 1"),
        ("zero_inflated_poisson", "zi", blm.Prior("Uniform", lower=0, upper=2), "between 0 and 1"),
        ("ordinal", "threshold", blm.Prior("HalfNormal", sigma=1), "anywhere on the line"),
        ("ordinal", "threshold", blm.Prior("Flat"), "proper prior"),
        ("ordinal", "threshold", blm.Prior("LKJ", eta=2), "LKJ"),
        ("ordinal", "Intercept", blm.Prior("Normal", mu=0, sigma=1), "no parameter 'Intercept'"),
        ("poisson", "sigma", blm.Prior("HalfNormal", sigma=1), "no parameter of class 'sigma'"),
    ],
)
def test_priors_that_do_not_suit_a_parameter_are_refused(family, key, prior, message):
    with pytest.raises(blm.PriorError, match=message):
        priors(f"{RESPONSES[family]} ~ x + (1 | g)", family, priors={key: prior})


@pytest.mark.parametrize(
    ("family", "name"), [("gamma", "alpha"), ("beta", "kappa"), ("ordinal", "threshold")]
)
def test_a_column_called_as_a_parameter_is_refused(family, name):
    frame = data().rename(columns={"x": name})
    with pytest.raises(blm.PriorError, match=f"'{name}' is both .* parameter of the response"):
        priors(f"{RESPONSES[family]} ~ {name}", family, frame)


def test_copies_and_plain_data_keep_the_priors():
    model = blm.MixedModel("count ~ x + (1 | g)", data(), family="negativebinomial")
    model.priors["alpha"] = blm.Prior("Exponential", lam=1)
    twin = model.priors.copy()
    assert repr(twin) == repr(model.priors)
    other = blm.MixedModel("count ~ x + (1 | g)", data(), family="negativebinomial").priors
    other.restore(model.priors.to_dict(), model.priors.defaults_to_dict())
    assert repr(other) == repr(model.priors)
