"""Missing rows are never silent; patterns of missing occasions; missing covariates as unknowns."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bayeslmm as blm
from bayeslmm.formula import build_design
from tests.conftest import quietly


def test_model_and_summary_say_which_rows_are_left_out(sleepstudy):
    sleepstudy.loc[[3, 14, 15], "Days"] = np.nan
    sleepstudy.loc[5, "Reaction"] = np.nan
    with pytest.warns(blm.DataWarning, match="4 of 180 rows left out"):
        model = blm.LMM("Reaction ~ Days + (1 | Subject)", sleepstudy)
    text = (
        "4 of 180 rows left out: missing values in Reaction (1), Days (3); they belong to 2 "
        "level(s) of Subject: 308, 309"
    )
    fit = model.reml()
    for said in (repr(model), repr(fit), fit.summary().attrs["missing"]):
        assert text in said


def test_a_group_keeps_its_other_rows(sleepstudy):
    sleepstudy.loc[:8, "Reaction"] = np.nan
    model = quietly("Reaction ~ Days + (1 | Subject)", sleepstudy)
    assert model.design.blocks[0].n_levels == 18
    assert "no rows remain" not in model.design.missing.describe()


@pytest.fixture
def visits() -> pd.DataFrame:
    """Five people at times 1, 2, 3: complete, dropped out, in between, late, never seen."""
    seen = {"a": (1, 1, 1), "b": (1, 1, 0), "c": (1, 0, 1), "d": (0, 1, 1), "e": (0, 0, 0)}
    rows = [
        (p, t + 1, 1.0 if s else np.nan) for p, line in seen.items() for t, s in enumerate(line)
    ]
    return pd.DataFrame(rows, columns=["person", "time", "score"])


@pytest.mark.parametrize("absent", ["empty", "no row"])
def test_patterns_are_counted_whether_a_row_is_empty_or_absent(visits, absent):
    data = visits if absent == "empty" else visits.dropna()
    pattern = blm.missingness(data, "person", "time")
    expected = {"complete": 1, "drop-out": 1, "intermittent": 2}
    if absent == "empty":
        expected["never seen"] = 1
    assert pattern.table["groups"].to_dict() == expected
    assert pattern.groups["pattern"]["b"] == "drop-out"
    assert pattern.groups["last"]["b"] == 2
    assert pattern.table["missing"].sum() == (~pattern.observed).to_numpy().sum()
    assert pattern.by_time["dropped_out"][3] == 1
    assert pattern.observed.loc["c"].tolist() == [True, False, True]


def test_only_the_columns_asked_for_count(visits):
    visits["other"] = np.nan
    assert blm.missingness(visits, "person", "time", "score").table["groups"]["complete"] == 1
    assert blm.missingness(visits, "person", "time").table["groups"]["never seen"] == 5


def test_the_picture_has_a_cell_per_group_and_time(visits):
    import matplotlib

    matplotlib.use("Agg")
    ax = blm.missingness(visits, "person", "time").plot()
    mesh = ax.collections[0].get_array()
    assert np.asarray(mesh).size == 15
    assert int(np.asarray(mesh).sum()) == visits["score"].notna().sum()
    assert {t.get_text() for t in ax.texts} >= {"complete (1)", "drop-out (1)"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.assign(person=None), "missing values"),
        (lambda d: pd.concat([d, d.iloc[:1]]), "more than one row"),
        (lambda d: d.drop(columns="time"), "no column 'time'"),
    ],
)
def test_patterns_that_cannot_be_made_are_refused(visits, change, message):
    with pytest.raises(blm.BayesLMMError, match=message):
        blm.missingness(change(visits), "person", "time")


@pytest.mark.parametrize("ties", ["average", "min", "max", "first", "random"])
def test_normal_scores_are_bloms(ties):
    y = pd.Series([3.0, 1.0, np.nan, 1.0, 900.0], index=list("abcde"), name="y")
    z = blm.inverse_normal_transform(y, ties=ties, random_seed=1)
    assert z.index.equals(y.index)
    assert np.isnan(z["c"])
    assert z["e"] == pytest.approx(stats.norm.ppf((4 - 3 / 8) / 4.25))
    tied = {"average": [1.5, 1.5], "min": [1, 1], "max": [2, 2]}.get(ties, [1, 2])
    expected = stats.norm.ppf((np.array(tied) - 3 / 8) / 4.25)
    np.testing.assert_allclose(np.sort(z[["b", "d"]]), expected)


@pytest.mark.parametrize("values", [["a", "b"], [np.nan], np.ones((2, 2))])
def test_what_cannot_be_ranked_is_refused(values):
    with pytest.raises(blm.DataError):
        blm.inverse_normal_transform(values)
    with pytest.raises(ValueError, match="ties must be"):
        blm.inverse_normal_transform([1.0, 2.0], ties="dense")


def _with_gaps(seed: int = 3, share: float = 0.2) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Data with a covariate of rows and one of groups, and the same with values missing."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(20), 6)
    n = len(g)
    x, z, age = rng.normal(2, 1, n), rng.normal(size=n), rng.normal(50, 10, 20)[g]
    f = rng.choice(["a", "b"], n)
    y = 1 + 2 * x + 0.1 * age + (f == "b") * x + rng.normal(0, 1, 20)[g] + rng.normal(0, 0.5, n)
    full = pd.DataFrame({"y": y, "x": x, "z": z, "age": age, "f": f, "g": g})
    gaps = full.copy()
    gaps.loc[rng.random(n) < share, "x"] = np.nan
    gaps.loc[gaps.g.isin([3, 9]), "age"] = np.nan
    return full, gaps


def test_missing_covariates_enter_the_model_exactly_as_they_would_if_known():
    full, gaps = _with_gaps()
    design = quietly("y ~ x * f + age + center(x):z + (x | g)", gaps, missing="model").design
    assert design.n_rows == len(gaps)
    x, age = design.modeled
    assert age.n_unknown == 2  # one per group
    assert len(age.observed) == 18
    truth = full["x"].to_numpy()[x.rows] - x.fill
    known = full["age"].to_numpy()[age.rows] - age.fill
    X = design.X.copy()
    X[x.rows] += truth[:, None] * x.X_slope
    X[age.rows] += known[:, None] * age.X_slope
    Z = design.blocks[0].Z.copy()
    Z[x.rows] += truth[:, None] * x.Z_slopes[0]
    # center() subtracts the mean of the observed values in both
    shift = gaps["x"].mean() - full["x"].mean()
    other = quietly("y ~ x * f + age + center(x):z + (x | g)", full).design
    at = list(design.coef_names).index("center(x):z")
    expected = other.X.copy()
    expected[:, at] -= shift * full["z"]
    np.testing.assert_allclose(X, expected, atol=1e-10)
    np.testing.assert_allclose(Z, other.blocks[0].Z, atol=1e-12)


def test_the_pymc_model_gives_missing_values_their_prior_and_effect():
    full, gaps = _with_gaps()
    lmm = quietly("y ~ x * f + age + (x | g)", gaps, missing="model")
    model = lmm.pymc_model()
    point = model.initial_point(random_seed=1)
    rng = np.random.default_rng(5)
    point = {name: value + 0.1 * rng.normal(size=np.shape(value)) for name, value in point.items()}
    x, age = lmm.design.modeled
    filled = gaps.copy()
    filled.iloc[x.rows, 1] = point["missing_x"][x.unit]
    filled.iloc[age.rows, 3] = point["missing_age"][age.unit]
    plain = quietly("y ~ x * f + age + (x | g)", filled).design
    free, quick = model.continuous_value_vars, {"mode": "FAST_COMPILE"}
    outputs = model.replace_rvs_by_values([model["beta"], model["b_g"]])
    function = model.compile_fn(outputs, inputs=free, on_unused_input="ignore", **quick)
    beta, b = function(point)
    mean = plain.X @ beta + (plain.blocks[0].Z * b[plain.blocks[0].codes]).sum(axis=1)
    terms = model.compile_logp(vars=[model["y"]], sum=False, **quick)(point)[0]
    sigma = np.exp(point["sigma_log__"])
    np.testing.assert_allclose(terms, stats.norm.logpdf(full["y"], mean, sigma), rtol=1e-7)
    prior = model.compile_logp(vars=[model["missing_x"]], sum=False, **quick)(point)[0]
    sd = np.exp(point["missing_x_sd_log__"])
    expected = stats.norm.logpdf(point["missing_x"], point["missing_x_mean"], sd)
    np.testing.assert_allclose(prior, expected, rtol=1e-9)
    assert {"mean(x)", "sd(x)", "mean(age)", "sd(age)"} <= set(lmm.priors)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("y ~ x:z2 + (1 | g)", "both 'x' and 'z2'"),
        ("y ~ I(x**2) + (1 | g)", "not linear in 'x'"),
        ("y ~ scale(x) + (1 | g)", "'scale\\(x\\)' cannot be modeled"),
        ("y ~ np.exp(x) + (1 | g)", "'np.exp\\(x\\)' cannot be modeled"),
        ("y ~ bs(x, df=4) + (1 | g)", "'bs.*cannot be modeled"),
        ("y ~ within(x, g) + (1 | g)", "group mean"),
        ("y ~ z + offset(x) + (1 | g)", "offset"),
        ("y ~ three + (1 | g)", "'three' has missing values and 3 different others"),
        ("y ~ patchy + (1 | g)", "Fill those in first"),
        ("y ~ constant + (1 | g)", "do not vary"),
    ],
)
def test_what_cannot_be_modeled_is_refused(formula, message):
    gaps = _with_gaps()[1]
    keep = np.arange(len(gaps)) % 7 > 0
    gaps["z2"] = gaps["z"].where(keep)
    gaps["three"] = pd.Series(np.resize(["a", "b", "c"], len(gaps))).where(keep)
    gaps["patchy"] = (gaps["g"] * 1.5).where(keep)
    gaps["constant"] = pd.Series(4.0, index=gaps.index).where(keep)
    with pytest.raises(blm.BayesLMMError, match=message):
        build_design(formula, gaps, missing="model")


def test_a_missing_response_is_left_out_even_then():
    gaps = _with_gaps()[1]
    gaps.loc[0, "y"] = np.nan
    with pytest.warns(blm.DataWarning, match="1 of 120 rows left out.*part of the model: x"):
        model = blm.LMM("y ~ x + (1 | g)", gaps, missing="model")
    assert model.design.n_rows == 119
    with pytest.raises(blm.DataError, match="model.fit"):
        model.reml()


def test_modeled_values_cover_the_truth_and_sharpen_the_slope(tmp_path):
    full, gaps = _with_gaps(share=0.3)
    model = quietly("y ~ x * f + z + (1 | g)", gaps, missing="model")
    fit = model.fit(draws=500, tune=400, chains=2, random_seed=1, progressbar=False)
    assert fit.info.parameterization == "whitened"
    imputed = fit.imputed(level=0.9)
    truth = full["x"].to_numpy()[imputed["row"]]
    inside = int(((imputed["lower"] < truth) & (truth < imputed["upper"])).sum())
    # binomial with 0.9: outside its central 1 - 1e-6 range only once in a million
    low, high = stats.binom(len(truth), 0.9).interval(1 - 1e-6)
    assert low <= inside <= high
    assert np.corrcoef(truth, imputed["mean"])[0, 1] > 0.9
    complete = quietly("y ~ x * f + z + (1 | g)", full).reml().fixef()
    table = fit.fixef()
    for name in ("x", "x:f[b]"):
        gap = abs(table["mean"][name] - complete["estimate"][name])
        assert gap < 4 * table["sd"][name]
    assert fit.residuals().std() < 0.8
    with pytest.raises(blm.DataError, match="unknown values of covariates"):
        fit.r2()
    assert fit.loo().likelihood == "conditional"
    fit.save(tmp_path / "fit.nc")
    loaded = blm.load(tmp_path / "fit.nc")
    pd.testing.assert_series_equal(loaded.residuals(), fit.residuals())
    pd.testing.assert_frame_equal(loaded.imputed(), fit.imputed())
