"""Models whose columns are nearly, or exactly, combinations of one another."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from tests.gaussian.test_orthogonal import rational_least_squares

N = 96


def data(gap: float) -> pd.DataFrame:
    """x2 is x but for gap z."""
    rng = np.random.default_rng(0)
    g = np.arange(N) % 12
    frame = pd.DataFrame(
        {
            "x": rng.normal(size=N) + 3,
            "g": [f"g{i}" for i in g],
            "h": [f"h{i}" for i in np.arange(N) // 16],
            "f": rng.choice(["a", "b"], N),
            "t": np.arange(N) // 12,
            "w": rng.uniform(0.3, 3.0, N),
        }
    )
    z = rng.normal(size=N)
    frame["x2"] = frame["x"] + gap * z
    frame["z"] = (frame["x2"] - frame["x"]) / gap  # without rounding
    frame["y"] = 1 + 2 * frame["x"] - 0.5 * z + rng.normal(size=12)[g] + rng.normal(size=N)
    return frame


def model(formula: str, frame, **options) -> blm.LMM:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return blm.LMM(formula, frame, **options)


MODELS = {
    "one factor": ("x + {} + (1 | g)", {}),
    "slopes": ("x + {} + (z | g)", {}),
    "crossed": ("x + {} + (1 | g) + (1 | h)", {}),
    "no intercept": ("0 + f + x + {} + (1 | g)", {}),
    "weights": ("x + {} + (1 | g)", {"weights": "w"}),
    "ar1": ("x + {}", {"residual": "ar1(t | g)"}),
    "two variances": ("x + {} + (1 | g)", {"sigma": "~ f"}),
}


@pytest.mark.parametrize("gap", [1e-4, 1e-6, 2e-7])
@pytest.mark.parametrize("key", MODELS)
def test_fits_are_those_of_the_columns_apart(key, gap):
    """Tolerances are the digits the optimum is found to."""
    right, options = MODELS[key]
    frame = data(gap)
    near, apart = (model("y ~ " + right.format(c), frame, **options).reml() for c in ("x2", "z"))
    assert near.loglik + np.log(gap) == pytest.approx(apart.loglik, abs=1e-6)
    np.testing.assert_allclose(
        near.varcomp()["estimate"], apart.varcomp()["estimate"], rtol=1e-5, atol=1e-6
    )
    for ddf in ("satterthwaite", "kenward-roger"):
        a, b = near.fixef(ddf=ddf).loc["x2"], apart.fixef(ddf=ddf).loc["z"]
        np.testing.assert_allclose(a[["estimate", "se"]] * gap, b[["estimate", "se"]], rtol=1e-6)
        assert a["df"] == pytest.approx(b["df"], rel=1e-5)
    for random in ("population", "conditional"):
        a, b = (fit.predict(random=random).to_numpy(dtype=float) for fit in (near, apart))
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # standard errors among them


@pytest.mark.parametrize("gap", [1e-4, 2e-7])
def test_least_squares_of_a_formula_is_that_of_exact_arithmetic(gap):
    frame = data(gap)
    fit = model("y ~ x + x2", frame).reml()
    expected = rational_least_squares(fit.design.X, frame["y"].to_numpy())
    np.testing.assert_allclose(fit.fixef()["estimate"], expected, rtol=1e-7)


def test_profile_intervals_and_r2_are_those_of_the_columns_apart():
    gap = 1e-6
    frame = data(gap)
    near, apart = (model(f"y ~ x + {c} + (1 | g)", frame).reml() for c in ("x2", "z"))
    np.testing.assert_allclose(
        near.confint(method="profile", parameters=["x2"]).loc["x2"] * gap,
        apart.confint(method="profile", parameters=["z"]).loc["z"],
        rtol=1e-5,
    )
    np.testing.assert_allclose(near.r2(), apart.r2(), rtol=1e-6)


@pytest.mark.parametrize("random", ["", " + (1 | g)"])
def test_raw_powers_of_years_are_as_accurate_as_centered_ones(random):
    rng = np.random.default_rng(1)
    year = np.repeat(np.arange(2010.0, 2020.0), 8)
    g = np.arange(80) % 8
    frame = pd.DataFrame({"year": year, "c": year - 2014.5, "g": [f"g{i}" for i in g]})
    frame["y"] = 0.4 * frame["c"] - 0.05 * frame["c"] ** 2 + rng.normal(size=8)[g]
    frame["y"] += rng.normal(size=80)
    raw = blm.LMM("y ~ year + I(year**2)" + random, frame).reml()
    centered = blm.LMM("y ~ c + I(c**2)" + random, frame).reml()
    assert raw.loglik == pytest.approx(centered.loglik, abs=1e-7)
    a, b = raw.fixef(), centered.fixef()
    np.testing.assert_allclose(a.loc["I(year ** 2)"], b.loc["I(c ** 2)"], rtol=1e-6)
    slope = a.loc["year", "estimate"] + 2 * 2014.5 * a.loc["I(year ** 2)", "estimate"]
    assert slope == pytest.approx(b.loc["c", "estimate"], rel=1e-6)


def test_nearly_collinear_columns_are_named():
    with pytest.warns(blm.ModelWarning, match="x2 is nearly a combination .* 1e-06 of its length"):
        made = blm.LMM("y ~ x + x2 + (1 | g)", data(1e-6))
    assert made.aliased == ()
    with pytest.warns(blm.ModelWarning, match="rank deficient: x2"):
        assert blm.LMM("y ~ x + x2 + (1 | g)", data(2e-8)).aliased == ("x2",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        blm.LMM("y ~ x + z + (1 | g)", data(1e-6))
        blm.LMM("y ~ x + x2 + (1 | g)", data(1e-3))


def test_nearly_dependent_covariates_of_random_effects_are_named():
    with pytest.warns(blm.ModelWarning, match="x, x2 of 'g' are nearly linearly dependent"):
        blm.LMM("y ~ x + z + (0 + x + x2 | g)", data(1e-4))
    with pytest.warns(blm.ModelWarning, match="x, x2 of 'g' are linearly dependent"):
        blm.LMM("y ~ x + z + (0 + x + x2 | g)", data(1e-6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        blm.LMM("y ~ x + z + (0 + x + x2 | g)", data(1e-2))


def few_cells() -> pd.DataFrame:
    """18 columns of a * b * c, 6 cells with rows, 18 rows."""
    rng = np.random.default_rng(0)
    cell, g = np.arange(18) % 6, np.arange(18) // 3
    return pd.DataFrame(
        {
            "y": rng.normal(size=18) + rng.normal(size=6)[g],
            "a": [f"a{i % 3}" for i in cell],
            "b": [f"b{i // 2}" for i in cell],
            "c": [f"c{i % 2}" for i in cell],
            "cell": [f"k{i}" for i in cell],
            "g": [f"g{i}" for i in g],
        }
    )


def test_aliased_columns_do_not_count_against_the_rows():
    frame = few_cells()
    with pytest.warns(blm.ModelWarning, match="rank deficient"):
        crossed = blm.LMM("y ~ a * b * c + (1 | g)", frame)
    assert len(crossed.design.coef_names) == 18
    assert len(crossed.aliased) == 12
    cells = blm.LMM("y ~ 0 + cell + (1 | g)", frame)
    fits = [m.ml() for m in (crossed, cells)]
    assert fits[0].loglik == pytest.approx(fits[1].loglik, abs=1e-8)
    np.testing.assert_allclose(fits[0].fitted(), fits[1].fitted(), atol=1e-6)
    assert fits[0].fixef()["estimate"].notna().sum() == 6
    reml = [m.reml() for m in (crossed, cells)]
    assert reml[0].sigma == pytest.approx(reml[1].sigma, rel=1e-6)
    post = crossed.fit(method="importance", draws=100, random_seed=1, progressbar=False)
    assert np.isfinite(post.fixef()["mean"]).all()


def test_as_many_estimable_coefficients_as_rows_are_refused():
    frame = few_cells().iloc[:6]
    with pytest.raises(blm.DataError, match=r"6 coefficients \(12 more are aliased\) and 6 rows"):
        blm.LMM("y ~ a * b * c", frame)
