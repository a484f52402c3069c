"""Predictions level by level, at points that are not estimable, and in blocks of rows."""

from __future__ import annotations

import tracemalloc
import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import bayeslmm as blm
from bayeslmm.bayes.residuals import draw_noise, effect_multipliers
from bayeslmm.bayes.streams import RandomColumns
from bayeslmm.results import tables
from tests.conftest import quietly

CROSSED = "y ~ x + (x | school) + (1 | school:room) + (1 | item)"
#: formula, and what is special about the residuals
LIKELIHOODS = {
    "crossed and nested": (CROSSED, {}),
    "weights": ("y ~ x + (1 | school) + (1 | item)", {"weights": "w"}),
    "variances": ("y ~ x + (x | school) + (1 | item)", {"sigma": "~ f"}),
    "log-linear": ("y ~ x + (1 | school)", {"sigma": "~ x"}),
    "ar1": ("y ~ x + (x | school) + (1 | room)", {"residual": "ar1(t | school)"}),
}


@cache
def pupils() -> pd.DataFrame:
    """8 schools with 3 rooms each, 6 items; schools and items do not meet everywhere."""
    rng = np.random.default_rng(12)
    data = pd.DataFrame(
        [(s, r, i) for s in range(8) for r in "abc" for i in range(6) if (s + i) % 3],
        columns=["school", "room", "item"],
    )
    n = len(data)
    data["x"], data["w"] = rng.normal(size=n), rng.uniform(0.5, 2, n)
    data["f"], data["t"] = rng.choice(["u", "v"], n), data.groupby("school").cumcount()
    room = data.groupby(["school", "room"]).ngroup()
    data["y"] = (
        data["x"] * (1 + 0.8 * rng.normal(size=8))[data["school"]]
        + 2 * rng.normal(size=8)[data["school"]]
        + rng.normal(size=24)[room]
        + 1.5 * rng.normal(size=6)[data["item"]]
        + 0.5 * rng.normal(size=n)
    )
    return data


def mixed() -> pd.DataFrame:
    """Rows of known and of new levels in every combination; (0, 0) never met."""
    return pd.DataFrame(
        {
            "school": [3, 0, 3, 3, "new", "new", "other", 5],
            "room": ["a", "b", "z", "a", "a", "z", "a", "c"],
            "item": [1, 0, 2, "new", 2, "new", "other", "new"],
            "x": [0.5, -1.0, 2.0, 0.0, 1.0, -0.5, 0.3, 1.2],
            "f": list("uvuvuvuv"),
            "t": range(8),
            "w": 1.0,
        }
    )


@cache
def posterior() -> blm.PosteriorFit:
    model = quietly(CROSSED, pupils())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", blm.SamplingWarning)
        return model.fit(method="importance", draws=1000, random_seed=1, progressbar=False)


@cache
def small_posterior() -> blm.PosteriorFit:
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"g": np.repeat(np.arange(10), 8), "x": rng.normal(size=80)})
    data["y"] = data["x"] + rng.normal(size=10)[data["g"]] + rng.normal(size=80)
    model = quietly("y ~ x + (x | g)", data)
    return model.fit(method="importance", draws=250, random_seed=1, progressbar=False)


# -- level by level


def _kriging(fit, new: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances from n x n matrices, a level that is not in the fit being a new one."""
    design, Sigmas = fit.design, fit._solution.Sigmas
    rows = design.evaluate(new)
    root = np.column_stack([fit.residual_noise(e) for e in np.eye(design.n_rows)])
    V, h = root @ root.T, np.zeros((len(new), design.n_rows))
    prior = np.zeros(len(new))
    for block, Sigma, Z, codes in zip(design.blocks, Sigmas, rows.Z, rows.codes, strict=True):
        V += (block.codes[:, None] == block.codes) * (block.Z @ Sigma @ block.Z.T)
        h += (codes[:, None] == block.codes) * (Z @ Sigma @ block.Z.T)
        prior += np.einsum("ia,ab,ib->i", Z, Sigma, Z)
    X, y = design.X, design.y - design.offset
    inverse = np.linalg.inv(V)
    vcov = np.linalg.inv(X.T @ inverse @ X)
    beta = vcov @ X.T @ inverse @ y
    spread = rows.X - h @ inverse @ X
    mean = rows.X @ beta + h @ inverse @ (y - X @ beta)
    variance = prior - np.einsum("ij,jk,ik->i", h, inverse, h)
    return mean, variance + np.einsum("ij,jk,ik->i", spread, vcov, spread)


@pytest.mark.parametrize("key", LIKELIHOODS)
def test_known_levels_keep_their_effects_beside_new_ones(key):
    formula, options = LIKELIHOODS[key]
    model = quietly(formula, pupils(), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", blm.ModelWarning)
        fit = model.reml()
    mean, variance = _kriging(fit, mixed())
    for options in ({"random": "new"}, {"allow_new_levels": True}):
        table = fit.predict(mixed(), **options)
        np.testing.assert_allclose(table["estimate"], mean, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(table["se"] ** 2, variance, rtol=1e-7)
    # a row does not depend on the other rows of the frame
    alone = pd.concat(
        [fit.predict(mixed().iloc[[i]], allow_new_levels=True) for i in range(len(mixed()))]
    )
    pd.testing.assert_frame_equal(alone, table, rtol=1e-9)
    response = fit.predict(mixed(), random="new", kind="response")["se"] ** 2
    np.testing.assert_allclose(
        response - variance, fit.residual_variance(mixed(), len(mixed())), rtol=1e-6
    )


def test_draws_of_known_levels_are_their_own_and_those_of_new_ones_the_population_s():
    fit, new = posterior(), mixed()
    draws = fit.predict(new, random="new", draws=True, random_seed=2).to_numpy().reshape(4000, -1)
    q, rows = fit.posterior, fit.model.design.evaluate(new)
    beta = q["beta"].to_numpy().reshape(4000, -1)
    sds = {
        "school": q["sd_school"].to_numpy().reshape(4000, 2),
        "room": q["sd_school:room"].to_numpy().reshape(4000),
        "item": q["sd_item"].to_numpy().reshape(4000),
    }
    corr = q["corr_school"].to_numpy().ravel()
    known, extra = beta @ rows.X.T, np.zeros((4000, len(new)))
    for k, name in enumerate(("b_school", "b_school:room", "b_item")):
        b = q[name].to_numpy().reshape(4000, *q[name].shape[2:])
        seen = rows.codes[k] >= 0
        known[:, seen] += np.einsum("miq,iq->mi", b[:, rows.codes[k][seen]], rows.Z[k][seen])
    x, s = new["x"].to_numpy(), sds["school"]
    slope = s[:, :1] ** 2 + 2 * x * (corr * s[:, 0] * s[:, 1])[:, None] + (x * s[:, 1:]) ** 2
    for k, variance in enumerate((slope, sds["room"][:, None] ** 2, sds["item"][:, None] ** 2)):
        extra += np.where(rows.codes[k] < 0, variance, 0.0)
    whole = (extra == 0).all(axis=0)
    assert whole.sum() == 2
    np.testing.assert_allclose(draws[:, whole], known[:, whole], atol=1e-12)
    # 4,000 standard normals in every other row; 5.5 standard errors of mean and second moment
    z = (draws - known)[:, ~whole] / np.sqrt(extra[:, ~whole])
    assert np.abs(z.mean(axis=0)).max() < 5.5 / np.sqrt(4000)
    assert np.abs((z**2).mean(axis=0) - 1).max() < 5.5 * np.sqrt(2 / 4000)
    again = fit.predict(new, allow_new_levels=True, draws=True, random_seed=2).to_numpy()
    np.testing.assert_array_equal(again.reshape(4000, -1), draws)
    # rows of one new item share its effect
    pair = pd.DataFrame({"school": [3, 3], "room": ["a", "b"], "item": ["new"] * 2, "x": 0.0})
    both = fit.predict(pair, random="new", draws=True, random_seed=2).to_numpy().reshape(4000, 2)
    own = fit.predict(pair.assign(item=1), draws=True).to_numpy().reshape(4000, 2)
    item = q["b_item"].to_numpy().reshape(4000, -1)[:, [1]]
    shared = both - own + item
    np.testing.assert_allclose(shared[:, 0], shared[:, 1], atol=1e-9)
    assert shared[:, 0].std() > 0.5


def test_new_groups_in_place_of_known_ones_are_asked_for_by_a_frame_without_new_levels():
    fit, known = posterior(), pupils().head(6)
    labels = {"school": "n" + known["school"].astype(str), "item": "n" + known["item"].astype(str)}
    options = {"random": "new", "random_seed": 4}
    pd.testing.assert_frame_equal(
        fit.predict(known, **options), fit.predict(known.assign(**labels), **options)
    )
    reml = quietly(CROSSED, pupils()).reml()
    pd.testing.assert_frame_equal(
        reml.predict(known, random="new"), reml.predict(known.assign(**labels), random="new")
    )
    pd.testing.assert_frame_equal(
        reml.predict(random="new").loc[known.index], reml.predict(known, random="new")
    )


def test_a_level_that_is_not_in_the_fit_is_an_error_that_names_the_ways_out():
    for fit in (posterior(), quietly(CROSSED, pupils()).reml()):
        with pytest.raises(blm.DataError, match=r"'new', 'other' of 'school'.*allow_new_levels"):
            fit.predict(mixed())


def test_rows_without_the_column_of_a_group_are_told_which_predictions_need_none():
    for fit in (posterior(), quietly(CROSSED, pupils()).reml()):
        rows = pupils().head(2).drop(columns="school")
        with pytest.raises(
            blm.FormulaError,
            match=r"no column 'school'.*\"new\" needs 'school': rows with the same label, any that "
            r'is not in the fit, such as \'new\', share.*random="population".* needs none',
        ):
            fit.predict(rows, random="new")
        with pytest.raises(blm.FormulaError, match="has the effects of its group.*population"):
            fit.predict(rows)
        assert len(fit.predict(rows.assign(school="new"), random="new")) == 2  # as it says
        assert len(fit.predict(rows, random="population")) == 2


def test_relatives_are_known_beside_somebody_who_is_not():
    pedigree = pd.DataFrame(
        {"id": list("abcdefgh"), "sire": [None, None, *"aaccee"], "dam": [None, None, *"bbbddd"]}
    )
    rng = np.random.default_rng(3)
    data = pd.DataFrame({"id": list("cdefg") * 6, "pen": np.repeat(list("pqrstu"), 5)})
    value = dict(zip("cdefg", 2 * rng.normal(size=5), strict=True))
    data["y"] = rng.normal(size=30) + data["id"].map(value) + rng.normal(size=6).repeat(5)
    A = blm.pedigree_relationship(pedigree)
    model = quietly("y ~ 1 + (1 | id) + (1 | pen)", data, relationship={"id": A})
    fit = model.reml()
    new = pd.DataFrame({"id": ["h", "nobody", "h"], "pen": ["p", "q", "new"]})
    table, sds = fit.predict(new, random="new"), fit.components()
    pen = fit.ranef("pen").set_index("level")["estimate"]
    effect = fit.ranef("id").set_index("level")["estimate"]["h"]
    intercept = fit.fixef("normal")["estimate"].iloc[0]
    expected = [intercept + effect + pen["p"], intercept + pen["q"], intercept + effect]
    np.testing.assert_allclose(table["estimate"], expected, rtol=1e-8)
    known = fit.predict(new.iloc[[0]])["se"].iloc[0]
    assert table["se"].iloc[0] == pytest.approx(known, rel=1e-9)
    assert table["se"].iloc[2] > sds["sd(Intercept | pen)"]  # the new pen's variance is in it
    assert table["se"].iloc[1] > sds["sd(Intercept | id)"]


def test_replications_can_have_new_levels_of_one_factor():
    fit = posterior()
    kept = fit.idata["posterior_predictive"]["y"].copy()
    tree = fit.posterior_predictive(["item"], random_seed=1)
    xr.testing.assert_identical(kept, fit.idata["posterior_predictive"]["y"])
    y = tree["posterior_predictive"]["y"].to_numpy().reshape(4000, -1)
    q, design = fit.posterior, fit.model.design
    own = fit.predict(draws=True).to_numpy().reshape(4000, -1)
    item = q["b_item"].to_numpy().reshape(4000, -1)[:, design.block("item").codes]
    left = y - (own - item)  # new items and residuals
    variance = (q["sd_item"].to_numpy().ravel() ** 2 + q["sigma"].to_numpy().ravel() ** 2)[:, None]
    z = left / np.sqrt(variance)
    # 4,000 standard normals for each of 96 rows; 6.5 standard errors
    assert np.abs(z.mean(axis=0)).max() < 6.5 / np.sqrt(4000)
    assert np.abs((z**2).mean(axis=0) - 1).max() < 6.5 * np.sqrt(2 / 4000)
    assert len(fit.predictive_check(groups=["item"], draws=20, random_seed=1)) > 4
    with pytest.raises(ValueError, match="no grouping factor 'items'.*item"):
        fit.posterior_predictive(["items"])


@pytest.mark.parametrize("panels", [False, True])
def test_lines_between_the_days_of_a_subject_have_the_subject_s_effect(panels):
    rng = np.random.default_rng(0)
    data = pd.DataFrame([(g, d) for g in range(8) for d in range(4)] * 2, columns=["g", "day"])
    data["y"] = 2 * rng.normal(size=8)[data["g"]] + 0.3 * data["day"] + rng.normal(size=64)
    fit = quietly("y ~ day + (1 | g) + (1 | g:day)", data).reml()
    axes = fit.plot_trajectories(panels=panels, groups=[0])
    lines = (axes[0] if panels else axes).lines
    beta = fit.fixef("normal")["estimate"]
    level = beta["Intercept"] + fit.ranef("g")["estimate"].iloc[0]
    expected = level + beta["day"] * np.linspace(0, 3, 40)
    found = [line for line in lines if len(line.get_xdata()) == 40]
    assert any(np.allclose(line.get_ydata(), expected) for line in found)


# -- points that are not estimable


@cache
def empty_cell() -> pd.DataFrame:
    """a = r never with b = v."""
    rng = np.random.default_rng(3)
    data = pd.DataFrame({"a": list("ppqqr") * 8, "b": list("uvuvu") * 8})
    data["g"] = np.repeat(np.arange(8), 5)
    data["t"] = np.tile(np.arange(5), 8)
    data["y"] = rng.normal(size=8)[data["g"]] + 2.0 * (data["b"] == "v") + rng.normal(size=40)
    return data


def cells() -> pd.DataFrame:
    frame = pd.DataFrame({"a": list("rqr"), "b": list("vvu"), "g": [0, 0, 1], "t": 9})
    return frame.set_axis(["nothing", "seen", "seen too"])


@pytest.mark.parametrize("random", ["conditional", "population", "new"])
@pytest.mark.parametrize("options", [{}, {"residual": "ar1(t | g)"}, {"sigma": "~ b"}])
def test_a_prediction_in_an_empty_cell_is_missing_whatever_the_order_of_levels(options, random):
    found = []
    for order in (list("uv"), list("vu")):
        for outer in (list("pqr"), list("rqp")):
            data = empty_cell().assign(
                a=pd.Categorical(empty_cell()["a"], categories=outer),
                b=pd.Categorical(empty_cell()["b"], categories=order),
            )
            fit = quietly("y ~ a * b + (1 | g)", data, **options).reml()
            with pytest.warns(blm.ModelWarning, match=r"Row nothing is not estimable.*a\["):
                table = fit.predict(cells(), random=random, kind="response")
            assert table.loc["nothing"].isna().all()
            assert table.drop("nothing").notna().all(axis=None)
            found.append(table.to_numpy()[1:])
            with warnings.catch_warnings():
                warnings.simplefilter("error", blm.ModelWarning)
                assert fit.predict(random=random).notna().all(axis=None)
    # four codings of one model; their optima agree to about seven digits
    np.testing.assert_allclose(found[1:], [found[0]] * 3, rtol=2e-4, atol=1e-5)


def test_rows_told_of_an_empty_cell_make_it_estimable():
    fit = quietly("y ~ a * b + (1 | g)", empty_cell()).reml()
    elsewhere, here = empty_cell().head(2), empty_cell().head(2).assign(a="r", b="v")
    with pytest.warns(blm.ModelWarning, match="not estimable"):
        assert fit.predict(cells(), given=elsewhere).loc["nothing"].isna().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error", blm.ModelWarning)
        told = fit.predict(cells(), given=here, random="population")
    # the fit to all rows at the same variances: by n x n matrices
    data = pd.concat([empty_cell(), here], ignore_index=True)
    design = quietly("y ~ a * b + (1 | g)", data).design
    same = design.blocks[0].codes[:, None] == design.blocks[0].codes
    V = fit._solution.Sigmas[0][0, 0] * same + fit.sigma**2 * np.eye(len(data))
    vcov = np.linalg.inv(design.X.T @ np.linalg.solve(V, design.X))
    x = design.evaluate(cells(), random=False).X
    beta = vcov @ design.X.T @ np.linalg.solve(V, design.y)
    np.testing.assert_allclose(told["estimate"], x @ beta, rtol=1e-8)
    np.testing.assert_allclose(told["se"] ** 2, np.einsum("ij,jk,ik->i", x, vcov, x), rtol=1e-8)


def test_posterior_results_that_rest_on_priors_alone_say_so():
    model = quietly("y ~ a * b + (1 | g)", empty_cell())
    fit = model.fit(method="importance", draws=50, random_seed=1, progressbar=False)
    calls = {
        "Row nothing": lambda: fit.predict(cells(), random="population"),
        "Row r v": lambda: fit.marginal_means(["a", "b"]),
        "rows": lambda: fit.pairwise(["a", "b"]),
        "Row v in r": lambda: fit.contrast({"v in r": {"b[v]": 1, "a[r]:b[v]": 1}}),
    }
    for row, call in calls.items():
        with pytest.warns(blm.ModelWarning, match=rf"{row}.*not estimable.*a\[r\]:b\[v\].*prior"):
            table = call()
        assert table[["mean", "sd"]].notna().all(axis=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error", blm.ModelWarning)
        fit.fitted()
        fit.predict(cells().drop("nothing"))
        fit.predict(cells(), given=empty_cell().head(2).assign(a="r", b="v"), random_seed=1)


def test_lines_leave_out_what_is_not_estimable():
    fit = quietly("y ~ a * b + (1 | g)", empty_cell()).reml()
    with pytest.warns(blm.ModelWarning, match="not estimable"):
        table = fit.predict(pd.DataFrame({"a": list("pqr"), "b": "v"}), random="population")
    assert table["estimate"].isna().tolist() == [False, False, True]
    data = empty_cell().assign(b=np.where(empty_cell()["a"] == "p", "v", empty_cell()["b"]))
    fit = quietly("y ~ a * b + (1 | g)", data).reml()  # the most frequent b is v, never with r
    with pytest.warns(blm.ModelWarning, match="not estimable"):
        ax = fit.plot_trajectories(x="a")
    lines = [line for line in ax.lines if line.get_label() in ("_0", "_1")]
    assert len(lines) == 2
    for line in lines:
        assert np.isnan(line.get_ydata()).tolist() == [False, False, True]


# -- many rows


@pytest.mark.parametrize("m", [1, 7])
def test_random_columns_are_those_of_the_whole_array(m, monkeypatch):
    monkeypatch.setattr("bayeslmm.bayes.streams._KEPT", 0)
    nu = np.random.default_rng(1).uniform(2, 9, m)
    samples = [
        lambda rng, part, shape: rng.standard_normal(shape),
        lambda rng, part, shape: draw_noise(rng, shape, nu[part]),
        lambda rng, part, shape: effect_multipliers(rng, nu[part], shape[1])[..., 0],
    ]
    for sample in samples:
        whole, blocks = np.random.default_rng(2), np.random.default_rng(2)
        expected = sample(whole, slice(None), (m, 23))
        columns = RandomColumns(blocks, sample, m, 23, 5)
        at = np.array([22, 0, 3, 4, 5, 17, 3])
        np.testing.assert_array_equal(columns.columns(at), expected[:, at])
        np.testing.assert_array_equal(columns.columns(np.arange(23)), expected)
        assert whole.standard_normal() == blocks.standard_normal()  # and what follows


@pytest.mark.parametrize("kind", ["mean", "response"])
@pytest.mark.parametrize("random", ["conditional", "population", "new"])
def test_numbers_do_not_depend_on_the_size_of_the_blocks(kind, random, monkeypatch):
    fit = posterior()
    rows = pd.concat([mixed()] * 3) if random == "new" else pupils().head(20)
    options = {"random": random, "kind": kind, "random_seed": 3}
    whole = fit.predict(rows, **options)
    draws = fit.predict(rows, draws=True, **options).to_numpy()
    np.testing.assert_allclose(whole["mean"], draws.mean(axis=(0, 1)), rtol=1e-12)
    np.testing.assert_allclose(whole["upper"], np.quantile(draws, 0.975, axis=(0, 1)))
    monkeypatch.setattr(tables, "_TOGETHER", 4000 * 6)
    monkeypatch.setattr("bayeslmm.bayes.streams._KEPT", 4000 * 6)
    pd.testing.assert_frame_equal(fit.predict(rows, **options), whole, rtol=1e-12)
    blocks = fit.predict(rows, draws=True, **options).to_numpy()
    np.testing.assert_allclose(blocks, draws, rtol=1e-12)


def test_tables_do_not_depend_on_the_size_of_the_blocks(monkeypatch):
    fit = posterior()
    calls = (fit.coef, fit.ranef, fit.summary, fit.fitted, fit.residuals)
    whole = [call() for call in calls]
    monkeypatch.setattr(tables, "_TOGETHER", 4000 * 5)
    for call, before in zip(calls, whole, strict=True):
        same = pd.testing.assert_series_equal if before.ndim == 1 else pd.testing.assert_frame_equal
        same(call(), before, rtol=1e-9)


def test_many_rows_are_predicted_without_an_array_of_all_their_draws(monkeypatch):
    monkeypatch.setattr(tables, "_TOGETHER", 2**18)
    monkeypatch.setattr("bayeslmm.bayes.streams._KEPT", 2**18)
    fit = small_posterior()
    rng = np.random.default_rng(4)
    known = pd.DataFrame({"x": rng.normal(size=4000), "g": rng.integers(0, 10, 4000)})
    new = known.assign(g=[f"n{i // 4}" for i in range(4000)])
    fit.predict(known.head(1))  # what is loaded once
    tracemalloc.start()
    for rows, options in ((known, {}), (new, {"random": "new", "kind": "response"})):
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        fit.predict(rows, random_seed=1, **options)
        # all draws are 32 MB; a block has 2 MB, and some copies
        assert tracemalloc.get_traced_memory()[1] - before < 12e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("random", "options"),
    [("(1 | g)", {}), ("", {}), ("", {"residual": "cs(g)"}), ("", {"sigma": "~ h"})],
)
def test_errors_of_the_population_keep_their_digits_far_from_zero(random, options):
    rng = np.random.default_rng(5)
    n = 90
    data = pd.DataFrame({"year": 2010 + rng.integers(0, 10, n), "g": np.arange(n) % 9})
    data["h"] = np.where(np.arange(n) % 2, "a", "b")
    data["y"] = 0.1 * (data["year"] - 2014) ** 2 + rng.normal(size=9)[data["g"]]
    data["y"] += rng.normal(size=n)
    points = pd.DataFrame({"year": [2010, 2014, 2019], "g": 0, "h": "a"})
    tables = []
    for columns in ("poly(year, 2)", "year + I(year**2)"):
        formula = " + ".join([f"y ~ {columns}", *([random] if random else [])])
        fit = quietly(formula, data, **options).reml()
        tables.append(fit.predict(points, random="population"))
    # X vcov X' of the raw powers differs by 4e-6; two optima of rho by 5e-7
    np.testing.assert_allclose(tables[1]["se"], tables[0]["se"], rtol=1e-6)
