"""Checks of data and fits: what they find, and that ordinary data are left in peace."""

import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.results.far_residuals import residual_findings, studentized_residuals
from bayeslmm.results.far_values import far_values


def pain(value=None) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    g, day = np.repeat(np.arange(12), 6), np.tile(np.arange(6), 12)
    score = 5 + rng.normal(size=12)[g] + 0.2 * day + rng.normal(size=72)
    data = pd.DataFrame({"pain": np.clip(np.round(score), 0, 10), "day": day, "g": g.astype(str)})
    if value is not None:
        data.loc[17, "pain"] = value
    return data


@cache
def wrong_posterior():
    model = blm.LMM("pain ~ day + (1 | g)", pain(999))
    with pytest.warns(blm.DataWarning, match="'pain' has the value 999 .row 17."):
        return model.fit(method="importance", draws=250, random_seed=1)


@pytest.mark.parametrize("value", [999, 99, -9, -99, 9999])
def test_codes_of_missing_values_among_scores_are_named_as_such(value):
    found = blm.LMM("pain ~ day + (1 | g)", pain(value)).check()
    assert f"the value {value} (row 17)" in found["finding"].item()
    assert "usual code" in found["finding"].item()
    assert "replace" in found["what to do"].item()


def test_a_far_value_that_is_no_code_leads_to_student_residuals():
    row = blm.LMM("pain ~ day + (1 | g)", pain(55)).check().loc[0]
    assert "value 55 (row 17)" in row["finding"]
    assert "code" not in row["finding"]
    assert 'family="student"' in row["what to do"]


def test_a_far_predictor_is_named_without_advice_on_the_response():
    data = pain()
    data.loc[3, "day"] = 400
    row = blm.LMM("pain ~ day + (1 | g)", data).check().loc[0]
    assert "'day' has the value 400 (row 3)" in row["finding"]
    assert "student" not in row["what to do"]


def test_reml_warns_of_a_gross_value_and_describes_it():
    with pytest.warns(blm.DataWarning, match="recode as missing"):
        fit = blm.LMM("pain ~ day + (1 | g)", pain(999)).reml()
    assert "'pain' has the value 999" in fit.describe()
    assert "'pain' has the value 999" in repr(fit.model)
    assert set(fit.check()["check"]) == {"far values", "influence"}


def test_a_posterior_names_the_value_the_group_and_the_checks_that_fail():
    post = wrong_posterior()
    assert set(post.check()["check"]) == {"far values", "influence", "predictive check"}
    assert "The data's max is 999" in post.describe()
    assert "g 2 is unlike" in post.describe()


def test_nothing_is_said_of_scores_without_a_wrong_value():
    with warnings.catch_warnings():
        warnings.simplefilter("error", blm.DataWarning)
        fit = blm.LMM("pain ~ day + (1 | g)", pain()).reml()
    assert fit.check().empty
    assert "Check" not in fit.describe()


def growth(seed: int, children: int, visits: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    g, age = np.repeat(np.arange(children), visits), np.tile(np.arange(visits), children)
    height = 100 + 15 * rng.normal(size=children)[g] + 4 * age + rng.normal(size=len(g))
    index = [f"{child}/{visit}" for child, visit in zip(g, age, strict=True)]
    return pd.DataFrame({"height": height, "age": age, "g": g.astype(str)}, index=index)


def test_a_value_usual_for_the_column_and_not_for_its_group_is_named():
    data = growth(1, 20, 5)
    data.loc["7/2", "height"] += 20
    model = blm.LMM("height ~ age + (1 | g)", data)
    with warnings.catch_warnings():
        warnings.simplefilter("error", blm.DataWarning)
        fits = [model.reml(), model.fit(method="importance", draws=250, random_seed=1)]
    for fit in fits:
        found = fit.check().set_index("check").loc["residuals"]
        assert found["finding"].startswith("Row 7/2 is far from what the other rows predict: up to")
        assert "Row 7/2" in fit.describe()
        assert "student" in found["what to do"]


def test_studentized_residuals_are_rows_beside_their_prediction_by_the_others():
    data = growth(2, 8, 4)[:-3].assign(w=np.linspace(0.5, 2, 29))
    for formula, weights in (("height ~ age + (age | g)", None), ("height ~ age + (1 | g)", "w")):
        fit = blm.LMM(formula, data, weights=weights).reml()
        design, V = fit.design, np.zeros((29, 29))
        for block in design.blocks:
            same = block.codes[:, None] == block.codes
            V += same * (block.Z @ fit.covariances["g"].to_numpy() @ block.Z.T)
        V += np.diag(fit.sigma**2 / (data["w"].to_numpy() if weights else np.ones(29)))
        W, X = np.linalg.inv(V), design.X
        P = W - W @ X @ np.linalg.solve(X.T @ W @ X, X.T @ W)
        want = P @ design.y / np.sqrt(np.diagonal(P))
        np.testing.assert_allclose(studentized_residuals(fit), want, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("children", "visits"), [(6, 5), (15, 2), (60, 4)])
def test_normal_residuals_are_left_in_peace(children, visits):
    # a largest residual of 8 standard deviations has a probability below 1e-12
    for seed in range(20):
        fit = blm.LMM("height ~ age + (1 | g)", growth(seed, children, visits)).reml()
        assert residual_findings(fit) == []


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: rng.normal(50, 10, 200),
        lambda rng: rng.standard_t(5, 200),
        lambda rng: rng.lognormal(0, 1.5, 200),
        lambda rng: rng.exponential(size=200),
        lambda rng: rng.poisson(0.2, 200),
        lambda rng: rng.negative_binomial(0.3, 0.05, 200),
        lambda rng: np.where(rng.random(200) < 0.7, 0, rng.integers(1, 11, 200)),
        lambda rng: rng.integers(18, 100, 200),
    ],
)
def test_clean_columns_have_no_far_values(draw):
    # of 100 columns at most about 0.2 are named; 9 and more: less than once in a million runs
    rng = np.random.default_rng(11)
    assert sum(bool(far_values(draw(rng).astype(float))) for _ in range(100)) < 9


def test_the_packaged_data_have_no_far_values():
    found = []
    for name in blm.list_datasets():
        data = blm.load_dataset(name)
        for column in getattr(data, "columns", ()):
            if pd.api.types.is_numeric_dtype(data[column].dtype):
                found += far_values(data[column].to_numpy(dtype=float))
    assert not found


def by_hand(fit, codes, level):
    """Generalized least squares without a level, at the covariance parameters of the fit."""
    design, keep = fit.design, codes != level
    V = fit.sigma**2 * np.eye(design.n_rows)
    for block in design.blocks:
        Sigma = fit.covariances[block.name].to_numpy()
        same = block.codes[:, None] == block.codes
        V += same * (block.Z @ Sigma @ block.Z.T)
    X, W = design.X[keep], np.linalg.inv(V[np.ix_(keep, keep)])
    cov = np.linalg.inv(X.T @ W @ X)
    return cov @ X.T @ W @ design.y[keep], cov


@pytest.mark.parametrize(
    ("formula", "name", "factor"),
    [
        ("Reaction ~ Days + (Days | Subject)", "sleepstudy", "Subject"),
        ("strength ~ 1 + (1 | batch / cask)", "pastes", "batch"),
        ("diameter ~ 1 + (1 | plate) + (1 | sample)", "penicillin", "sample"),
    ],
)
def test_influence_is_generalized_least_squares_without_the_group(formula, name, factor):
    fit = blm.LMM(formula, blm.load_dataset(name)).reml()
    table, block = fit.influence(factor), fit.design.block(factor)
    beta, cov = fit.fixef("normal")["estimate"].to_numpy(), fit.vcov.to_numpy()
    for j in range(block.n_levels):
        without, spread = by_hand(fit, block.codes, j)
        moved = beta - without
        cook = moved @ np.linalg.solve(cov, moved) / len(beta)
        assert table["cooks_distance"].iloc[j] == pytest.approx(cook, rel=1e-6, abs=1e-10)
        dfbetas = table.filter(like="dfbetas").iloc[j].to_numpy()
        assert dfbetas == pytest.approx(moved / np.sqrt(np.diag(cov)), rel=1e-6, abs=1e-8)
        ratio = np.sqrt(np.max(np.diag(spread) / np.diag(cov)))
        assert table["se_ratio"].iloc[j] == pytest.approx(ratio, rel=1e-6)


def test_influence_with_correlated_residuals_is_that_of_the_fit_without_the_group():
    data = blm.load_dataset("orthodont")
    fit = blm.LMM("distance ~ age", data, residual="cs(Subject)").reml()
    other = blm.LMM("distance ~ age + (1 | Subject)", data).reml()
    with pytest.raises(blm.DataError, match="no grouping factor"):
        fit.influence()
    both = blm.LMM("distance ~ age + (1 | Subject)", data, residual="ar1(age | Subject)")
    table = both.reml().influence()
    assert len(table) == 27
    assert np.isfinite(table.to_numpy(dtype=float)).all()
    assert len(other.influence()) == 27


def test_a_coefficient_of_one_group_alone_rests_on_it():
    data = pain()
    data["only"] = (data["g"] == "5") * 1.0
    fit = blm.LMM("pain ~ day + only + (1 | g)", data).reml()
    assert np.isinf(fit.influence().loc["5", "cooks_distance"])
    assert "A coefficient rests on g 5" in fit.check()["finding"].str.cat()


def test_a_negative_intraclass_correlation_leads_to_compound_symmetry():
    rng = np.random.default_rng(5)
    e = rng.normal(size=(60, 4))
    e -= 0.8 * e.mean(axis=1, keepdims=True)
    data = pd.DataFrame({"y": e.ravel(), "g": np.repeat(np.arange(60), 4)})
    with pytest.warns(blm.ModelWarning):
        fit = blm.LMM("y ~ 1 + (1 | g)", data).reml()
    assert 'residual="cs(g)"' in fit.check()["what to do"].str.cat()


def test_influence_is_drawn_with_the_largest_groups_named():
    ax = blm.LMM("pain ~ day + (1 | g)", pain()).reml().plot_influence(named=2)
    assert len(ax.texts) == 2
