"""Default priors: the same model in other columns has the same posterior."""

import warnings

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.bayes.coefficients import fixed_prior
from bayeslmm.bayes.marginal import marginal_density
from bayeslmm.priors.defaults import coefficient_defaults

SHIFT, UNIT = 2013.0, 12.0


def data() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    n, groups = 120, 12
    g = np.tile(np.arange(groups), n // groups)
    t, z = rng.normal(size=n), rng.uniform(0, 3, n)
    arm = np.where(rng.random(n) < 0.4, "b", "a")
    dose = rng.choice(list("pqr"), n)
    y = 20 + 0.8 * t + (arm == "b") * (1.5 - 0.6 * t) + rng.normal(size=groups)[g] * (1 + 0.5 * t)
    frame = pd.DataFrame({"y": y + rng.normal(size=n), "g": g, "t": t, "z": z})
    frame["arm"], frame["dose"] = arm, dose
    frame["year"], frame["months"] = t + SHIFT, t * UNIT
    frame["past"], frame["zz"] = -t, (z - 700) / 3
    frame["treated"] = (arm == "b") * 1.0
    frame["half"] = frame["treated"] - 0.5
    frame["mra"] = pd.Categorical(arm, categories=["b", "a"])
    frame["eson"] = pd.Categorical(dose, categories=["r", "p", "q"])
    return frame


def quietly(formula: str, **options) -> blm.LMM:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", blm.ModelWarning)
        return blm.LMM(formula, data(), **options)


#: Two formulas of one model, and the unit of the second one's last random slope.
SAME = [
    ("y ~ arm * t + (1 | g)", "y ~ arm * year + (1 | g)", 1.0),
    ("y ~ arm * t + (1 | g)", "y ~ mra * months + (1 | g)", 1.0),
    ("y ~ t * z + (1 | g)", "y ~ year * zz + (1 | g)", 1.0),
    ("y ~ t + I(t**2) + (1 | g)", "y ~ year + I(year**2) + (1 | g)", 1.0),
    ("y ~ t + I(t**2) + (1 | g)", "y ~ poly(year, 2) + (1 | g)", 1.0),
    ("y ~ arm + t + (1 | g)", "y ~ 0 + arm + year + (1 | g)", 1.0),
    ("y ~ arm * t + (1 | g)", "y ~ 0 + arm + arm:year + (1 | g)", 1.0),
    ("y ~ dose * t + (1 | g)", "y ~ year * eson + (1 | g)", 1.0),
    ("y ~ dose * arm + (1 | g)", "y ~ 0 + dose:mra + (1 | g)", 1.0),
    ("y ~ treated * t + (1 | g)", "y ~ half * year + (1 | g)", 1.0),
    ("y ~ t + (t | g)", "y ~ year + (year | g)", 1.0),
    ("y ~ t + (t | g)", "y ~ past + (past | g)", -1.0),
    ("y ~ t + (t | g)", "y ~ months + (months | g)", 1.0 / UNIT),
    ("y ~ t * z + (t * z | g)", "y ~ year * z + (year * z | g)", 1.0),
    ("y ~ t + (t + I(t**2) | g)", "y ~ t + (year + I(year**2) | g)", 1.0),
    ("y ~ t + (arm * t | g)", "y ~ t + (arm * year | g)", 1.0),
    ("y ~ t + (0 + arm + arm:t | g)", "y ~ t + (0 + arm + arm:year | g)", 1.0),
    ("y ~ t + (treated | g)", "y ~ t + (half | g)", 1.0),
    ("y ~ t + (treated * arm | dose)", "y ~ t + (half * arm | dose)", 1.0),
    ("y ~ t + (t || g)", "y ~ year + (1 | g) + (0 + t | g)", 1.0),
]


@pytest.mark.parametrize(("one", "other", "unit"), SAME)
def test_the_same_model_in_other_columns_has_the_same_posterior(one, other, unit):
    models = [quietly(one), quietly(other)]
    densities = [marginal_density(m.design, m.priors, m.problem) for m in models]
    rng = np.random.default_rng(1)
    for x in rng.normal(0, 0.5, (6, densities[0].n_dim)):
        there = x.copy()
        m = densities[0].correlations.n_effects
        if unit != 1.0:
            there[m - 1] += np.log(abs(unit))
            first = densities[0].first_correlation
            there[first : first + 1] *= np.sign(unit)
        values = densities[0].value(x), densities[1].value(there)
        # the Jacobian of a log standard deviation is the same in any unit
        assert values[0] == pytest.approx(values[1], rel=1e-7, abs=1e-6)


@pytest.mark.parametrize(
    ("one", "other"),
    [SAME[0][:2], SAME[10][:2], SAME[15][:2]],
)
def test_draws_are_those_of_the_same_model_in_other_columns(one, other):
    """Where the columns span the same in the same order."""
    fits = [quietly(f).fit(method="importance", draws=400, random_seed=3) for f in (one, other)]
    tables = [fit.fitted()["mean"].to_numpy() for fit in fits]
    np.testing.assert_allclose(*tables, rtol=1e-5)


def test_what_a_structure_of_the_residuals_evaluates_is_invariant_too():
    for options in ({"sigma": "~ arm"}, {"residual": "cs(g)"}):
        models = [quietly(f"y ~ {x} * arm + ({x} | dose)", **options) for x in ("t", "year")]
        a, b = (marginal_density(m.design, m.priors, m.problem) for m in models)
        x = np.random.default_rng(2).normal(0, 0.3, a.n_dim)
        assert a.value(x) == pytest.approx(b.value(x), rel=1e-7)
        np.testing.assert_allclose(a(x)[1], b(x)[1], rtol=1e-4, atol=1e-5)


def test_standard_deviations_and_effects_are_reported_in_the_formulas_columns():
    a, b = (
        quietly(f"y ~ {x} + ({x} | g)").fit(method="importance", draws=400, random_seed=1)
        for x in ("t", "year")
    )
    S, T = (f.posterior for f in (a, b))
    slope = S["sd_g"].to_numpy()[..., 1]
    np.testing.assert_allclose(slope, T["sd_g"].to_numpy()[..., 1], rtol=1e-6)
    # b_0 at year 0 is b_0 at t = 0 less 2013 slopes
    there = T["b_g"].to_numpy() @ np.array([1.0, SHIFT])
    np.testing.assert_allclose(there, S["b_g"].to_numpy()[..., 0], atol=1e-4)
    cov = S["corr_g"].to_numpy()[..., 0] * S["sd_g"].to_numpy().prod(-1)
    variance = S["sd_g"].to_numpy()[..., 0] ** 2 - 2 * SHIFT * cov + (SHIFT * slope) ** 2
    np.testing.assert_allclose(T["sd_g"].to_numpy()[..., 0], np.sqrt(variance), rtol=1e-6)


def test_a_coefficient_that_is_set_has_just_that_prior():
    own = blm.Prior("Normal", mu=3, sigma=0.7)
    model = quietly("y ~ arm * year + (1 | g)", priors={"arm[b]:year": own})
    prior = fixed_prior(model.design, model.priors)
    precision = prior.root.T @ prior.root
    covariance = np.linalg.inv(precision)
    mean = np.linalg.solve(precision, prior.root.T @ prior.target)
    j = model.design.coef_names.index("arm[b]:year")
    assert mean[j] == pytest.approx(3)
    assert np.sqrt(covariance[j, j]) == pytest.approx(0.7, rel=1e-6)
    assert model.priors["arm[b]:year"] == own
    assert not model.priors.is_default("arm[b]:year")


def test_the_default_given_a_coefficient_of_zero_is_that_of_the_model_without_it():
    whole, part = (coefficient_defaults(quietly(f).design) for f in ("y ~ z + t", "y ~ z"))
    A, _, sd = whole.given(np.array([False, False, True]))
    B, _, small = part.given(np.array([False, False]))
    np.testing.assert_allclose(A[:2, :2], B)
    np.testing.assert_allclose(sd[:2], small)


def test_the_joint_default_has_the_covariance_of_the_columns_as_precision():
    model = quietly("y ~ arm * year + dose + (1 | g)")
    prior = fixed_prior(model.design, model.priors)
    X, y = model.design.X[:, 1:], model.design.y
    S = np.cov(X, rowvar=False) / (2.5 * np.std(y, ddof=1)) ** 2
    slopes = prior.root[1:, 1:]
    np.testing.assert_allclose(slopes.T @ slopes, S, rtol=1e-6, atol=1e-9 * S.max())


def test_a_prior_on_a_random_intercept_is_about_the_formulas_own():
    """At covariate zero, where the fixed slopes are the formula's too."""
    key = "sd(Intercept | g)"
    model = quietly("y ~ year + (year | g)", priors={key: blm.Prior("HalfNormal", sigma=5)})
    assert not model.priors.effect_maps().needed
    # the slope's default is what it was, the intercept's had become wide in these columns
    free = quietly("y ~ year + (year | g)")
    assert model.priors["sd(year | g)"] == free.priors["sd(year | g)"]
    free.priors["corr(g)"] = blm.Prior("LKJ", eta=1)
    assert free.priors[key].parameters["sigma"] > 1000
    free.priors["sd(year | g)"] = blm.Prior("HalfNormal", sigma=1)
    assert free.priors.is_default(key)


def test_a_prior_on_a_slopes_standard_deviation_leaves_the_intercepts_at_the_means():
    model = quietly(
        "y ~ year + (year | g)", priors={"sd(year | g)": blm.Prior("Exponential", lam=1)}
    )
    assert model.priors.effect_maps().needed


def test_printed_priors_say_what_they_are_about():
    text = repr(quietly("y ~ arm * year + (year | g)").priors)
    assert "Intercept: at the means of the predictors" in text
    assert (
        "arm[b], year: of the column, where later columns have the earlier ones taken out" in text
    )
    assert "sd(Intercept | g) and correlations: where year is at the mean" in text


def test_priors_of_a_file_are_those_that_were_saved(tmp_path):
    model = quietly("y ~ arm * year + (year | g)")
    fit = model.fit(method="importance", draws=100, random_seed=1)
    fit.save(tmp_path / "fit.nc")
    again = blm.load(tmp_path / "fit.nc").priors
    assert again.to_dict() == fit.priors.to_dict()
    assert again.defaults_to_dict() == fit.priors.defaults_to_dict()
    np.testing.assert_array_equal(again.combinations(), fit.priors.combinations())
    for K, L in zip(again.effect_maps().matrices, fit.priors.effect_maps().matrices, strict=True):
        np.testing.assert_array_equal(K, L)


def test_a_record_without_what_the_defaults_were_made_from_keeps_its_numbers():
    """Files of version 0.1.0: each coefficient by itself, effects in the formula's columns."""
    priors = quietly("y ~ arm * year + (year | g)").priors
    priors.restore(priors.to_dict())
    A = priors.combinations()
    np.testing.assert_array_equal(A[1:], np.eye(len(A))[1:])
    assert not priors.effect_maps().needed


def test_what_defaults_were_made_from_is_checked():
    priors, other = (quietly(f"y ~ {f} + (year | g)").priors for f in ("arm * year", "arm"))
    record = priors.defaults_to_dict()
    priors.copy().restore(priors.to_dict(), record)
    for damaged in (
        other.defaults_to_dict(),
        {**record, "effects": []},
        {**record, "coefficients": {**record["coefficients"], "scale": -1.0}},
        {**record, "coefficients": {**record["coefficients"], "root": "x"}},
        {**record, "effects": [{**record["effects"][0], "K": [[1.0]]}]},
        {"coefficients": record["coefficients"]},
    ):
        with pytest.raises(ValueError, match="default priors"):
            priors.copy().restore(priors.to_dict(), damaged)


@pytest.mark.parametrize(
    ("key", "prior", "conflict"),
    [
        ("t", blm.Prior("Normal", mu=0, sigma=0.001), True),
        ("t", blm.Prior("Normal", mu=0, sigma=2), False),
        ("t", blm.Prior("StudentT", nu=3, mu=0, sigma=0.5), False),
        ("sigma", blm.Prior("HalfNormal", sigma=0.05), True),
        ("sigma", blm.Prior("HalfNormal", sigma=3), False),
        ("sd(Intercept | g)", blm.Prior("InverseGamma", alpha=200, beta=4000), True),
        ("sd(Intercept | g)", blm.Prior("Gamma", alpha=2, beta=1), False),
    ],
)
def test_a_prior_that_the_data_contradict_is_named(key, prior, conflict):
    model = blm.LMM("y ~ t + (1 | g)", data(), priors={key: prior})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(draws=100, chains=2, random_seed=1, progressbar=False)
    found = [str(w.message) for w in caught if "disagree grossly" in str(w.message)]
    assert bool(found) == conflict
    assert all(key in text for text in found)
