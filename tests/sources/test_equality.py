"""The same fit from whatever the rows come from, in whatever order and batches.

Estimates of the optimizer agree to the digits the criterion determines them to: the criterion is
flat at its optimum, so that rounding differences of 1e-13 in the cross-products may move theta by
1e-7. Cross-products, log-likelihoods and everything at a fixed theta are held to 1e-8.
"""

from __future__ import annotations

import warnings

import formulae.transforms
import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.errors import DataError, FormulaError
from bayeslmm.gaussian import CrossProducts, profiled_criterion
from tests.sources.source_helpers import crossed_data

DATA = crossed_data()
CROSSED = "y ~ x*f + C(k) + (1 + z | g) + (1 | s)"
FORMULAS = [
    CROSSED,
    "y ~ scale(x):h + poly(z, 2) + (1 | g/h)",
    "np.log(y) ~ 0 + f + center(scale(x)) + offset(z/100) + (0 + h || s)",
    "y ~ 1 + (1 | g:s)",
    "y ~ bs(x, df=5) + bs(np.log(z), df=6)",
]


def model(formula, data, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return blm.LMM(formula, data, **options)


def described(m) -> list[str]:
    """The model in words, but for the levels left-out rows belong to, in the order of the rows."""
    lines = repr(m).split("Priors")[0].splitlines()
    return [line.split("; they")[0].split("; no rows")[0].rstrip(")") for line in lines]


def assert_same_model(a, b):
    """Design, priors, cross-products and likelihood of two models agree."""
    assert a.design.coef_names == b.design.coef_names
    assert a.aliased == b.aliased
    assert [k.levels for k in a.design.blocks] == [k.levels for k in b.design.blocks]
    assert described(a) == described(b)
    for key, prior in a.priors.items():
        other = b.priors[key]
        assert prior.name == other.name
        for name, value in prior.parameters.items():
            assert other.parameters[name] == pytest.approx(value, rel=1e-9, abs=1e-9)
    one, two = a.cross_products, b.cross_products.shifted_to(a.cross_products.shift)
    assert (one.n, one.p) == (two.n, two.p)
    scale = np.sqrt(np.outer(np.diag(one.gram), np.diag(one.gram))) + 1e-300
    np.testing.assert_allclose(one.gram / scale, two.gram / scale, atol=1e-10)
    for f, h in zip(one.factors, two.factors, strict=True):
        np.testing.assert_array_equal(f.counts, h.counts)
        np.testing.assert_allclose(f.zz, h.zz, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(f.zr, h.zr, rtol=1e-9, atol=1e-7)
    theta = np.linspace(0.4, 0.9, a.problem.n_parameters)
    for reml in (True, False):
        assert profiled_criterion(a.problem, theta, reml) == pytest.approx(
            profiled_criterion(b.problem, theta, reml), abs=1e-8
        )


def sources(tmp_path, data):
    """Every form of the same rows."""
    import duckdb
    import polars as pl
    import pyarrow as pa
    import pyarrow.dataset as ds

    one, many, csv = tmp_path / "one.parquet", tmp_path / "many", tmp_path / "data.csv"
    many.mkdir()
    data.to_parquet(one)
    for at, rows in enumerate(np.array_split(np.arange(len(data)), 50)):
        data.iloc[rows].to_parquet(many / f"part{at:02}.parquet")
    data.to_csv(csv, index=False)
    relation = duckdb.from_arrow(pa.Table.from_pandas(data, preserve_index=False))
    return {
        "pandas": data,
        "polars": pl.from_pandas(data),
        "lazy polars": pl.scan_parquet(one),
        "arrow table": pa.Table.from_pandas(data),
        "arrow dataset": ds.dataset(many),
        "parquet": str(one),
        "50 parquet files": str(many / "*.parquet"),
        "directory": many,
        "csv": csv,
        "duckdb": relation,
    }


def test_the_same_model_from_every_source(tmp_path):
    reference = model(CROSSED, DATA)
    shuffled = DATA.sample(frac=1, random_state=3)
    for name, source in sources(tmp_path, shuffled).items():
        small, large = model(CROSSED, source), model(CROSSED, blm.scan(source, batch_rows=433))
        assert small.design.rows_in_memory, name
        assert not large.design.rows_in_memory, name
        assert_same_model(reference, small)
        assert_same_model(reference, large)


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("weights", [None, "w"])
def test_any_batch_size_and_row_order_give_the_same_model(formula, weights):
    reference = model(formula, DATA, weights=weights)
    for seed, size in enumerate((97, 10_000) if weights is None else (433,)):
        rows = DATA.sample(frac=1, random_state=seed)
        source = blm.scan(rows, batch_rows=size)
        assert_same_model(reference, model(formula, source, weights=weights))


def test_a_row_at_a_time_gives_the_same_model():
    rows = DATA.iloc[:100]
    a, b = model(CROSSED, rows), model(CROSSED, blm.scan(rows, batch_rows=1))
    assert_same_model(a, b)


def test_everything_a_likelihood_fit_says_without_rows_is_the_same():
    a, b = model(CROSSED, DATA), model(CROSSED, blm.scan(DATA, batch_rows=300))
    one, two = a.reml(), b.reml()
    assert one.loglik == pytest.approx(two.loglik, abs=1e-8)
    for table in (
        lambda fit: fit.fixef(ddf="satterthwaite"),
        lambda fit: fit.fixef(ddf="kenward-roger"),
        lambda fit: fit.varcomp(),
        lambda fit: fit.r2(),
        lambda fit: fit.icc(),
        lambda fit: fit.ranef().set_index(["group", "level", "effect"]),
        lambda fit: fit.anova(type=1),
        lambda fit: fit.anova(type=2),
        lambda fit: fit.anova(type=3),
        lambda fit: fit.confint(method="wald"),
        lambda fit: fit.marginal_means("f").set_index("f"),
        lambda fit: fit.pairwise("k").set_index("contrast"),
        lambda fit: fit.predict(DATA.dropna().head(20)),
        lambda fit: fit.predict(DATA.dropna().head(20), random="population"),
    ):
        x, y = table(one), table(two)
        assert list(x.index) == list(y.index)
        # theta agrees to about 1e-7 (see the module's docstring), degrees of freedom to 1e-5
        np.testing.assert_allclose(np.asarray(x, float), np.asarray(y, float), rtol=2e-5, atol=1e-7)
    pd.testing.assert_frame_equal(
        blm.compare_estimates(one, two)["REML 1"], blm.compare_estimates(one)["REML"]
    )


def test_the_same_seed_gives_the_same_posterior_from_batches():
    a = model("y ~ x + (1 + z | g)", DATA)
    b = model("y ~ x + (1 + z | g)", blm.scan(DATA, batch_rows=400))
    options = {"draws": 200, "chains": 2, "random_seed": 4, "progressbar": False}
    one, two = (m.fit(method="importance", **options) for m in (a, b))
    # the proposal hangs on the mode, which agrees to 1e-6 or so
    np.testing.assert_allclose(one.summary()["mean"], two.summary()["mean"], rtol=1e-4, atol=1e-4)
    assert set(two.idata.children) == {"posterior", "sample_stats", "log_prior"}
    assert len(two.ranef()) == len(one.ranef())
    newdata = DATA.dropna().head(5)
    np.testing.assert_allclose(
        one.predict(newdata)["mean"], two.predict(newdata)["mean"], rtol=1e-6
    )


def test_fitted_values_and_residuals_come_in_batches():
    reference = model(CROSSED, DATA).reml()
    fit = model(CROSSED, blm.scan(DATA, batch_rows=211)).reml()
    for random in ("conditional", "population"):
        streamed = pd.concat(blm.fitted_batches(fit, random)).set_index("row")
        expected = reference.fitted(random)
        np.testing.assert_array_equal(streamed.index, expected.index)
        np.testing.assert_allclose(streamed["fitted"], expected, atol=1e-5)
        np.testing.assert_allclose(streamed["residual"], reference.residuals(random), atol=1e-5)
    with pytest.raises(DataError, match="in memory"):
        next(blm.fitted_batches(reference))


def test_what_needs_rows_says_so():
    fit = model(CROSSED, blm.scan(DATA, batch_rows=211)).reml()
    for needs_rows in (
        fit.fitted,
        fit.residuals,
        fit.predict,
        lambda: fit.simulate(3),
        lambda: fit.confint(method="bootstrap", n_sims=50),
        fit.implied_covariance,
        fit.model.pymc_model,
    ):
        with pytest.raises(DataError, match="read in batches"):
            needs_rows()


def test_missing_values_and_weights_are_treated_as_in_memory():
    data = DATA.assign(w=np.where(np.arange(len(DATA)) % 9 == 0, 0.0, DATA["w"]))
    data.loc[data["g"] == 7, "x"] = np.nan
    a = model("y ~ x + (1 | g)", data, weights="w").design.missing
    b = model("y ~ x + (1 | g)", blm.scan(data, batch_rows=100), weights="w").design.missing
    assert dict(a.by_column) == dict(b.by_column)
    assert dict(a.levels_lost) == dict(b.levels_lost)
    assert (a.n_dropped, a.n_zero_weight) == (b.n_dropped, b.n_zero_weight)
    with pytest.raises(DataError, match="missing values: "):
        blm.LMM("y ~ x + (1 | g)", blm.scan(data), missing="raise")


def test_categories_keep_their_order_in_batches():
    data = DATA.assign(f=pd.Categorical(DATA["f"], ["c", "b", "a", "never"]))
    for rows in (data, data.iloc[::-1]):
        a, b = (
            model("y ~ f + (1 | g)", rows),
            model("y ~ f + (1 | g)", blm.scan(rows, batch_rows=7)),
        )
        assert a.design.coef_names == ("Intercept", "f[b]", "f[a]")
        assert_same_model(a, b)


@pytest.mark.parametrize(
    ("formula", "error", "text"),
    [
        ("y ~ xx + (1 | g)", FormulaError, "no column 'xx'"),
        pytest.param(
            "y ~ cr(x, df=4) + (1 | g)",
            FormulaError,
            "all values of its column",
            marks=pytest.mark.skipif(
                "cr" not in formulae.transforms.TRANSFORMS, reason="formulae before 0.9"
            ),
        ),
        ("y ~ x + (1 | nope)", FormulaError, "nope"),
        ("y ~ within(x, g) + (1 | g)", FormulaError, "means of groups"),
        ("f ~ x + (1 | g)", DataError, "not numeric"),
        ("y ~ np.log(x - 200) + (1 | g)", DataError, "not finite"),
    ],
)
def test_bad_formulas_are_refused_as_in_memory(formula, error, text):
    with pytest.raises(error, match=text):
        model(formula, blm.scan(DATA, batch_rows=100))


def test_a_function_of_the_whole_column_is_refused():
    def centered(x):
        return x - np.mean(x)

    with pytest.raises(FormulaError, match="other rows"):
        model("y ~ c(x) + (1 | g)", blm.scan(DATA), namespace={"c": centered})
    double = model("y ~ c(x) + (1 | g)", blm.scan(DATA), namespace={"c": lambda x: 2 * x})
    assert double.design.coef_names == ("Intercept", "c(x)")


def test_a_column_that_changes_its_kind_is_named():
    pieces = pd.DataFrame({"y": [1.0, 2, 3, 4], "g": pd.Series(["a", "b", 3, 4], dtype=object)})
    with pytest.raises(DataError, match="'g'"):
        model("y ~ 1 + (1 | g)", blm.scan(pieces, batch_rows=2))


def test_weights_of_a_source_are_a_column():
    with pytest.raises(DataError, match="column's name"):
        model("y ~ x + (1 | g)", blm.scan(DATA), weights=np.ones(len(DATA)))


def test_other_objects_are_refused():
    with pytest.raises(DataError, match="Parquet"):
        blm.scan(3)
    with pytest.raises(DataError, match="batch_rows"):
        blm.scan(DATA, batch_rows=0)
    with pytest.raises(DataError, match="checkpoint"):
        blm.scan(DATA, checkpoint="somewhere")
    with pytest.raises(DataError, match="No file matches"):
        blm.scan("no/such/*.parquet")


@pytest.mark.parametrize("formula", [CROSSED, FORMULAS[2], "y ~ bs(x, df=5) + poly(z, 2):f"])
def test_a_saved_fit_of_batches_is_the_same_without_its_source(formula, tmp_path):
    fit = model(formula, blm.scan(DATA, batch_rows=400), weights="w").fit(
        method="importance", draws=60, chains=2, random_seed=2, progressbar=False
    )
    fit.save(tmp_path / "fit.nc")
    back = blm.load(tmp_path / "fit.nc")
    assert repr(back.model) == repr(fit.model)
    assert_same_model(fit.model, back.model)
    pd.testing.assert_frame_equal(fit.summary(), back.summary())
    newdata = DATA.dropna().head(8)
    pd.testing.assert_frame_equal(
        fit.predict(newdata, random="population"), back.predict(newdata, random="population")
    )
    assert fit.r2().equals(back.r2())
    with pytest.raises(DataError, match="no rows"):
        next(blm.fitted_batches(back))


@pytest.mark.parametrize("hidden", [False, True])
def test_nearly_collinear_columns_in_batches_are_as_accurate_as_in_memory(hidden, tmp_path):
    """Hidden: the sample that is looked at first, evenly spaced rows, does not tell."""
    rng = np.random.default_rng(5)
    n = 30_000
    x = rng.normal(size=n)
    if hidden:
        x.reshape(-1, 5000)[:, np.linspace(0, 4999, 200).astype(int)] = 0.0
    x2 = x + np.where(x == 0, 0.0, 1e-6 * rng.normal(size=n))
    g = np.arange(n) % 20
    y = 1 + x + 1e5 * (x2 - x) + rng.normal(size=20)[g] + rng.normal(size=n)
    frame = pd.DataFrame({"y": y, "x": x, "x2": x2, "g": g.astype(str)})
    frame.to_parquet(tmp_path / "rows.parquet")
    fits = [
        model("y ~ x + x2 + (1 | g)", rows).reml()
        for rows in (frame, blm.scan(tmp_path / "rows.parquet", batch_rows=5000))
    ]
    assert fits[1].model.cross_products.shift.T is not None
    a, b = (fit.fixef() for fit in fits)
    np.testing.assert_allclose(a["estimate"], b["estimate"], rtol=1e-6)
    np.testing.assert_allclose(a["se"], b["se"], rtol=1e-6)
    path = tmp_path / "sums.npz"
    fits[1].model.cross_products.save(path)
    back = CrossProducts.load(path)
    assert back.shift.same_as(fits[1].model.cross_products.shift)
    assert not back.shift.same_as(back.shift.mixed(None))
