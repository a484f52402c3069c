"""What mixed models are for in data with gaps, and where they agree with the classical analysis."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bayeslmm as blm
from bayeslmm.formula import build_design
from tests.conftest import quietly


def test_a_random_intercept_reproduces_the_f_of_repeated_measures_anova():
    rng = np.random.default_rng(3)
    n, times = 14, 5
    table = 10 + rng.normal(0, 3, (n, 1)) + 0.6 * np.arange(times) + rng.normal(0, 1, (n, times))
    long = pd.DataFrame(
        {
            "y": table.ravel(),
            "subject": np.repeat(np.arange(n), times),
            "time": np.tile(np.arange(times), n).astype(str),
        }
    )
    rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    between_times = n * np.sum((table.mean(axis=0) - table.mean()) ** 2) / (times - 1)
    f = between_times / (np.sum(rest**2) / ((n - 1) * (times - 1)))
    fit = blm.LMM("y ~ time + (1 | subject)", long).reml()
    for ddf in ("satterthwaite", "kenward-roger"):
        row = fit.anova(ddf=ddf).loc["time"]
        assert row["F"] == pytest.approx(f, rel=1e-6)
        assert row["numdf"] == times - 1
        assert row["dendf"] == pytest.approx((n - 1) * (times - 1), rel=1e-5)
        assert row["p"] == pytest.approx(stats.f.sf(f, times - 1, (n - 1) * (times - 1)), rel=1e-4)


def _trial(rng: np.random.Generator, n: int = 60, times: int = 6) -> pd.DataFrame:
    """People who get worse by 1 a visit on average and leave after a bad visit."""
    slopes, level = 1 + rng.normal(0, 0.5, n), rng.normal(0, 2, n)
    y = level[:, None] + slopes[:, None] * np.arange(times) + rng.normal(0, 1.5, (n, times))
    leaves = rng.random((n, times)) < 1 / (1 + np.exp(-(y - 4) / 0.7))
    gone = np.cumsum(leaves, axis=1) - leaves > 0  # the visit after which one leaves is observed
    long = pd.DataFrame(
        {
            "y": y.ravel(),
            "time": np.tile(np.arange(times, dtype=float), n),
            "id": np.repeat(np.arange(n), times),
        }
    )
    return long[~gone.ravel()]


@pytest.mark.slow
def test_dropout_that_depends_on_the_observed_past_leaves_the_mixed_model_unbiased():
    rng = np.random.default_rng(20)
    n_sims, covered, left = 200, 0, []
    estimates = {"mixed model": [], "completers": [], "slope of each person": []}
    for _ in range(n_sims):
        data = _trial(rng)
        row = quietly("y ~ time + (time | id)", data).reml().fixef().loc["time"]
        covered += row["lower"] < 1 < row["upper"]
        estimates["mixed model"].append(row["estimate"])
        visits = data.groupby("id")["time"].transform("size")
        whole = data[visits == 6]
        estimates["completers"].append(np.polyfit(whole["time"], whole["y"], 1)[0])
        own = [np.polyfit(d["time"], d["y"], 1)[0] for _, d in data[visits > 1].groupby("id")]
        estimates["slope of each person"].append(np.mean(own))
        left.append(1 - len(whole) / 6 / 60)
    assert 0.3 < np.mean(left) < 0.9
    error = {k: np.mean(v) - 1 for k, v in estimates.items()}
    se = {k: np.std(v, ddof=1) / np.sqrt(n_sims) for k, v in estimates.items()}
    # 5 standard errors: once in 1.7 million for an unbiased method
    assert abs(error["mixed model"]) < 5 * se["mixed model"]
    assert error["completers"] < -10 * se["completers"]
    assert error["slope of each person"] > 10 * se["slope of each person"]
    # Standard errors are from the expected information, which is too optimistic under this kind of
    # drop-out (Kenward and Molenberghs 1998, Statistical Science 13(3)): 95 % intervals cover 0.906
    # of the time in 800 other simulations. Inside the central 1 - 1e-6 of binomials with 0.9 and
    # with 0.95.
    low, high = stats.binom(n_sims, 0.90).ppf(5e-7), stats.binom(n_sims, 0.95).isf(5e-7)
    print(f"errors {error}, coverage {covered / n_sims:.3f}")
    assert low <= covered <= high


SCALES = [1e-12, 1e12]


@pytest.fixture
def measured() -> pd.DataFrame:
    return _measured()


def _measured() -> pd.DataFrame:
    rng = np.random.default_rng(6)
    g = np.repeat(np.arange(12), 8)
    x = rng.normal(size=96)
    y = 10 + x + rng.normal(0, 2, 12)[g] + x * rng.normal(0, 1, 12)[g] + rng.normal(size=96)
    return pd.DataFrame({"y": y, "x": x, "g": g, "f": np.tile(["a", "b", "c"], 32)})


def _both(data: pd.DataFrame, formula: str = "y ~ x + (x | g)") -> tuple:
    model = quietly(formula, data)
    post = model.fit(draws=50, method="importance", random_seed=1)
    return model.reml().summary("normal"), post.summary()


@cache
def _plain(formula: str = "y ~ x + (x | g)") -> tuple:
    return _both(_measured(), formula)


@pytest.mark.parametrize("scale", SCALES)
def test_units_of_the_response_do_not_matter(measured, scale):
    scaled = _both(measured.assign(y=measured["y"] * scale))
    for ours, plain in zip(scaled, _plain(), strict=True):
        factor = np.where(ours.index.str.startswith("corr"), 1.0, scale)
        np.testing.assert_allclose(ours.iloc[:, 0], plain.iloc[:, 0] * factor, rtol=2e-5)
        column = "se" if "se" in ours else "sd"
        np.testing.assert_allclose(ours[column], plain[column] * factor, rtol=1e-3)


@pytest.mark.parametrize("scale", SCALES)
def test_units_of_a_covariate_do_not_matter(measured, scale):
    scaled = _both(measured.assign(x=measured["x"] * scale))
    for ours, plain in zip(scaled, _plain(), strict=True):
        is_slope = (ours.index == "x") | ours.index.str.startswith("sd(x")
        factor = np.where(is_slope, 1 / scale, 1.0)
        np.testing.assert_allclose(ours.iloc[:, 0], plain.iloc[:, 0] * factor, rtol=2e-5)


def test_a_response_of_a_billion_plus_noise_is_the_shifted_fit(measured):
    shifted = _both(measured.assign(y=measured["y"] + 1e9))
    for ours, plain in zip(shifted, _plain(), strict=True):
        shift = np.where(ours.index == "Intercept", 1e9, 0.0)
        # 1e9 + noise has seven decimals left
        np.testing.assert_allclose(ours.iloc[:, 0] - shift, plain.iloc[:, 0], atol=2e-5)


def _frames(data: pd.DataFrame) -> dict:
    pa, pl = pytest.importorskip("pyarrow"), pytest.importorskip("polars")
    return {
        "nullable": data.convert_dtypes(),
        "pyarrow": data.convert_dtypes(dtype_backend="pyarrow"),
        "strings": data.astype({"f": "string"}),
        "object": data.astype(object),
        "arrow table": pa.Table.from_pandas(data),
        "polars": pl.from_pandas(data),
        "lazy polars": pl.from_pandas(data).lazy(),
        "polars categories": pl.from_pandas(data).with_columns(pl.col("f").cast(pl.Categorical)),
        "dict": data.to_dict("list"),
        "duplicated index": data.set_axis([0] * len(data)),
    }


def test_any_frame_of_the_same_numbers_gives_the_same_fit(measured):
    formula = "y ~ x + f + (x | g)"
    expected = build_design(formula, measured)
    for kind, frame in _frames(measured).items():
        design = build_design(formula, frame)
        np.testing.assert_array_equal(design.X, expected.X, err_msg=kind)
        np.testing.assert_array_equal(design.y, expected.y, err_msg=kind)
        np.testing.assert_array_equal(design.blocks[0].codes, expected.blocks[0].codes)
        new = design.evaluate(frame)
        np.testing.assert_array_equal(new.codes[0], expected.blocks[0].codes, err_msg=kind)


def test_missing_values_are_found_in_any_frame(measured):
    gaps = measured.assign(x=measured["x"].where(measured["x"] < 1))
    expected = build_design("y ~ x + (1 | g)", gaps).rows
    for kind, frame in _frames(gaps).items():
        if kind != "duplicated index":
            np.testing.assert_array_equal(build_design("y ~ x + (1 | g)", frame).rows, expected)


@pytest.mark.parametrize(
    "name",
    [
        "sigma", "beta", "nu", "chain", "x/y", "a:b", "Größe π", "(1 | g)", "within",
    ],
)  # fmt: skip
@pytest.mark.parametrize("role", ["x", "g"])
def test_a_column_of_any_name_works_in_both_fits(measured, name, role, tmp_path):
    formula = {"x": f"y ~ `{name}` + (1 | g)", "g": f"y ~ x + (1 | `{name}`)"}[role]
    model = quietly(formula, measured.rename(columns={role: name}))
    reml, posterior = _plain("y ~ x + (1 | g)")
    np.testing.assert_allclose(model.reml().summary("normal")["estimate"], reml["estimate"])
    post = model.fit(draws=50, method="importance", random_seed=1)
    np.testing.assert_allclose(post.summary()["mean"], posterior["mean"])
    post.save(tmp_path / "fit.nc")
    pd.testing.assert_frame_equal(blm.load(tmp_path / "fit.nc").summary(), post.summary())


@pytest.mark.parametrize(
    "y",
    [
        lambda d: 2 + 3 * d["x"],
        pytest.param(lambda d: 2 + 3 * d["x"] + d["g"], marks=pytest.mark.slow),
        lambda d: 1e8 + 3 * d["x"],
        lambda d: 2 + 3 * d["x"] + 1e-9 * np.sin(np.arange(len(d))),
    ],
)
def test_a_perfect_fit_is_refused_by_both_fits(measured, y):
    model = quietly("y ~ x + (1 | g)", measured.assign(y=y(measured)))
    with pytest.raises(blm.DataError, match="perfectly"):
        model.reml()
    with pytest.raises(blm.DataError, match="perfectly"):
        model.fit(draws=50, random_seed=1, progressbar=False)


def test_a_design_of_sixty_random_effect_columns_is_made_and_its_size_warned_about(measured):
    names = [f"v{i}" for i in range(60)]
    data = measured.assign(**dict.fromkeys(names, 0.0)).copy()
    data[names] = np.random.default_rng(1).normal(size=(96, 60))
    with pytest.warns(blm.ModelWarning, match="720 random effects"):
        model = blm.LMM(f"y ~ 1 + ({' + '.join(names)} - 1 | g)", data)
    assert model.design.blocks[0].n_effects == 60
    with pytest.raises(blm.DataError, match="720 random effects for 96 rows"):
        model.reml()


@pytest.mark.slow
def test_sixty_random_effect_columns_are_fitted():
    rng = np.random.default_rng(2)
    names = [f"v{i}" for i in range(60)]
    data = pd.DataFrame(rng.normal(size=(1500, 60)), columns=names)
    data["g"] = np.arange(1500) % 15
    effects = rng.normal(size=(15, 60)) * (np.arange(60) < 3)
    data["y"] = (data[names].to_numpy() * effects[data["g"]]).sum(axis=1) + rng.normal(size=1500)
    fit = quietly(f"y ~ 1 + (0 + {' + '.join(names)} || g)", data)
    with pytest.warns(blm.ModelWarning, match="Singular"):
        components = fit.reml().components()
    assert components.iloc[:3].min() > 0.4
    assert components.iloc[3:60].max() < 0.3
    assert components["sigma"] == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    ("formula", "change", "message"),
    [
        ("y ~ x", lambda d: d.assign(y=d["y"] * 1e200), "other units"),
        ("y ~ x", lambda d: d.assign(y=d["y"] * 1e-200), "other units"),
        ("y ~ x + (x | g)", lambda d: d.assign(x=d["x"] * 1e160), "other units"),
        ("y ~ x + (x | g)", lambda d: d.assign(x=d["x"] * 1e60), "other units"),
        ("y ~ x", lambda d: d.assign(y=d["y"] * 1e90), "other units"),
        ("y ~ I(g**20) + x", lambda d: d.assign(g=d["g"] * 9), "beyond 2\\^63"),
        ("y ~ x + (1 | day)", lambda d: d.assign(day=pd.Timestamp("2026-01-01").date()), "dates"),
        ("y ~ day", lambda d: d.assign(day=pd.period_range("2000", periods=96, freq="M")), "dates"),
    ],
)
def test_numbers_a_computer_cannot_square_and_dates_are_refused(measured, formula, change, message):
    with pytest.raises(blm.DataError, match=message):
        blm.LMM(formula, change(measured))


@pytest.mark.parametrize("column", ["y", "x"])
@pytest.mark.parametrize("power", [-90, -45, 45, 90, 160, 300])
def test_columns_in_batches_that_are_too_large_or_small_are_refused_too(measured, column, power):
    data = measured.assign(**{column: measured[column] * 10.0**power})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(blm.DataError, match="other units"):
            blm.LMM("y ~ x + (x | g)", blm.scan(data, batch_rows=20))


@pytest.mark.parametrize("power", [-36, 36])
@pytest.mark.parametrize("column", ["y", "x"])
def test_every_table_is_right_in_units_as_large_or_small_as_are_taken(measured, column, power):
    plain = quietly("y ~ x + (1 | g)", measured).reml()
    data = measured.assign(**{column: measured[column] * 10.0**power})
    fit = quietly("y ~ x + (1 | g)", data).reml()
    scale = 10.0 ** (power if column == "y" else -power)
    for table in (
        lambda f: f.fixef(ddf="kenward-roger"),
        lambda f: f.fixef(),
        lambda f: f.confint(parameters=["x"]),
        lambda f: f.confint("wald", parameters=["x"]),
    ):
        one, two = table(plain).loc["x"], table(fit).loc["x"]
        units = [scale if name in _IN_UNITS else 1.0 for name in one.index]
        np.testing.assert_allclose(two / units, one, rtol=1e-5)


_IN_UNITS = ("estimate", "se", "lower", "upper")


def test_weights_of_another_index_are_refused(measured):
    with pytest.raises(blm.DataError, match="index"):
        blm.LMM("y ~ x", measured, weights=pd.Series(1.0, index=measured.index[::-1]))


def test_every_level_new_in_new_data(measured):
    fit = quietly("y ~ x + (1 | g)", measured).reml()
    new = measured.assign(g=measured["g"] + 100)
    with pytest.raises(blm.DataError, match='random="new"'):
        fit.predict(new)
    assert np.isfinite(fit.predict(new, random="new")).all(axis=None)
    np.testing.assert_allclose(
        fit.predict(new, random="population")["estimate"], fit.fitted("population")
    )


def test_weights_and_offset_go_through_every_path(measured):
    weights = np.linspace(0.2, 3, 96)
    formula = "y ~ x + offset(shift) + (1 | g)"
    data = measured.assign(shift=3 * measured["x"] + 5, w=weights)
    model = quietly(formula, data, weights="w")
    moved = quietly("y2 ~ x + (1 | g)", data.assign(y2=data["y"] - data["shift"]), weights="w")
    a, b = model.reml(), moved.reml()
    np.testing.assert_allclose(a.summary("normal"), b.summary("normal"), rtol=1e-6)
    np.testing.assert_allclose(a.fitted(), b.fitted() + data["shift"])
    np.testing.assert_allclose(
        a.predict(data, kind="response")["se"], b.predict(data, kind="response")["se"]
    )
    p = model.fit(draws=200, method="importance", random_seed=1)
    q = moved.fit(draws=200, method="importance", random_seed=1)
    np.testing.assert_allclose(p.summary()["mean"], q.summary()["mean"], rtol=1e-6)
    np.testing.assert_allclose(p.residuals(), q.residuals(), atol=1e-8)
    np.testing.assert_allclose(p.r2(), q.r2())
    for fit in (p, q):
        fit.posterior_predictive(random_seed=1)
    name = ("posterior_predictive", "log_likelihood")
    np.testing.assert_allclose(p.idata[name[1]]["y"], q.idata[name[1]]["y2"], atol=1e-8)
    noise = p.idata[name[0]]["y"] - p.predict(draws=True).to_numpy()
    sd = noise.std(("chain", "draw")).to_numpy() * np.sqrt(weights)
    # 800 draws a row: a standard deviation is known to 2.5 %, six of these are 15 %
    assert np.all(np.abs(sd / p.varcomp()["mean"]["sigma"] - 1) < 0.16)
