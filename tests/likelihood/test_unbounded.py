"""Likelihoods without a maximum are refused; those with one are not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from tests.conftest import dataset
from tests.likelihood.test_boundary import quiet_fit


def crossed(rng, n: int = 12) -> pd.DataFrame:
    data = pd.DataFrame(rng.normal(size=(n, 4)), columns=["x0", "x1", "x2", "x3"])
    data = data.assign(g=np.arange(n) // 2, i=rng.permutation(np.arange(n) % 4))
    return data.assign(y=rng.normal(size=n) + rng.normal(size=n // 2)[data["g"]])


def dense_rank(data: pd.DataFrame, formula: str) -> int:
    columns = [pd.get_dummies(data[f]).to_numpy(float) for f in "gi" if f"| {f})" in formula]
    X = data[[x for x in ("x0", "x1", "x2", "x3") if x in formula]].to_numpy()
    return np.linalg.matrix_rank(np.column_stack([np.ones(len(data)), X, *columns]))


def test_ml_is_refused_exactly_where_coefficients_and_effects_span_all_rows():
    kinds = set()
    for seed in range(12):
        data = crossed(np.random.default_rng(seed))
        for formula in (
            "y ~ x0 + (1 | g) + (1 | i)",
            "y ~ x0 + x1 + x2 + (1 | g) + (1 | i)",
            "y ~ x0 + x1 + x2 + x3 + (1 | g) + (1 | i)",
        ):
            spans = dense_rank(data, formula) == len(data)
            kinds.add(spans)
            if spans:
                with pytest.raises(blm.DataError, match="likelihood has no maximum"):
                    quiet_fit(formula, data, reml=False)
            else:
                assert quiet_fit(formula, data, reml=False).converged
    assert kinds == {True, False}


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_reml_of_a_saturated_model_stays_and_its_ml_profile_is_refused(scale):
    rng = np.random.default_rng(0)
    g = np.arange(12) // 2
    data = pd.DataFrame({f"x{k}": rng.normal(size=12) for k in range(6)} | {"g": g})
    data["y"] = scale * (rng.normal(size=6)[g] + rng.normal(size=12))
    formula = "y ~ x0 + x1 + x2 + x3 + x4 + x5 + (1 | g)"
    fit = quiet_fit(formula, data)
    assert fit.converged
    assert fit.sigma > 0.1 * scale
    with pytest.raises(blm.DataError, match="fit by reml"):
        quiet_fit(formula, data, reml=False)
    with pytest.raises(blm.DataError, match="no maximum"):
        fit.confint(parameters=["sigma"], progressbar=False)


def test_a_cell_whose_rows_are_reproduced_has_no_ml_fit():
    rng = np.random.default_rng(1)
    for few, refused in ((2, True), (3, True), (6, False)):
        data = pd.DataFrame(rng.normal(size=(24, 3)), columns=["y", "x0", "x1"])
        data["arm"] = np.where(np.arange(24) < few, "a", "b")
        assert quiet_fit("y ~ x0 + x1", data, sigma="~ arm").converged
        if refused:
            with pytest.raises(blm.DataError, match=r"sigma\[arm=a\].*no maximum"):
                quiet_fit("y ~ x0 + x1", data, reml=False, sigma="~ arm")
        else:
            assert quiet_fit("y ~ x0 + x1", data, reml=False, sigma="~ arm").converged
    # a random effect takes part: 5 rows of 4 groups, and an intercept
    data = pd.DataFrame(rng.normal(size=(26, 2)), columns=["y", "x"])
    data["arm"] = np.where(np.arange(26) < 5, "a", "b")
    data["g"] = np.r_[[0, 0, 1, 2, 3], np.arange(21) % 7]
    assert quiet_fit("y ~ x + (1 | g)", data, sigma="~ arm").converged
    with pytest.raises(blm.DataError, match="no maximum"):
        quiet_fit("y ~ x + (1 | g)", data, reml=False, sigma="~ arm")


def test_a_few_extreme_rows_of_a_log_linear_sigma_have_no_ml_fit():
    rng = np.random.default_rng(6)
    data = pd.DataFrame(rng.normal(size=(24, 2)), columns=["y", "x"])
    for few, refused in ((2, True), (4, False)):
        # a numeric dummy is a cell, and two coefficients fit two rows
        rare = data.assign(z=1.0 * (np.arange(24) < few))
        assert quiet_fit("y ~ x", rare, sigma="~ z").converged
        if refused:
            with pytest.raises(blm.DataError, match=r"log_sigma\[z\].*no maximum"):
                quiet_fit("y ~ x", rare, reml=False, sigma="~ z")
        else:
            assert quiet_fit("y ~ x", rare, reml=False, sigma="~ z").converged
    assert quiet_fit("y ~ x", data, reml=False, sigma="~ x").converged


def visits(rng, complete: int, T: int = 3) -> pd.DataFrame:
    """`complete` groups seen at all times, and 12 that miss one each."""
    rows = [(g, t) for g in range(complete + 12) for t in range(T) if g < complete or t != g % T]
    data = pd.DataFrame(rows, columns=["g", "t"])
    return data.assign(y=2 * rng.normal(size=complete + 12)[data["g"]] + rng.normal(size=len(data)))


@pytest.mark.parametrize("reml", [True, False])
def test_an_unstructured_covariance_needs_complete_groups(reml):
    # some combination v of three times is the same in two complete groups, or in three when the
    # mean is free; in four it is not, and groups that miss a time do not see v
    rng = np.random.default_rng(2)
    for complete in (1, 2, 3):
        with pytest.raises(blm.DataError, match="no maximum.*singular"):
            quiet_fit("y ~ 1", visits(rng, complete), reml, residual="unstructured(t | g)")
    for complete in (0, 5, 9):
        fit = quiet_fit("y ~ 1", visits(rng, complete), reml, residual="unstructured(t | g)")
        assert fit.converged
        assert not fit.singular


def test_one_largest_group_lets_compound_symmetry_collapse_under_ml_only():
    # at rho = -1/(m - 1) the sum of a group of m is constant, and a mean makes one sum fit
    rng = np.random.default_rng(4)
    data = pd.DataFrame({"g": np.repeat(np.arange(10), [4, *[3] * 9])})
    data["y"] = rng.normal(size=len(data))
    assert quiet_fit("y ~ 1", data, residual="cs(g)").converged
    with pytest.raises(blm.DataError, match="no maximum"):
        quiet_fit("y ~ 1", data, reml=False, residual="cs(g)")
    more = pd.concat([data, pd.DataFrame({"g": [11] * 4, "y": rng.normal(size=4)})])
    assert quiet_fit("y ~ 1", more, reml=False, residual="cs(g)").converged


@pytest.mark.parametrize(
    ("name", "formula", "options"),
    [
        ("machines", "score ~ Machine + (Machine | Worker)", {}),
        ("pastes", "strength ~ 1 + (1 | batch/cask)", {}),
        ("cake", "angle ~ recipe * temperature + (1 | recipe:replicate)", {}),
        ("ergostool", "effort ~ Type + (1 | Subject)", {"sigma": "~ Type"}),
        ("orthodont", "distance ~ C(age) * Sex", {"residual": "unstructured(age | Subject)"}),
        ("beatblues", "bdi ~ C(month) * drug", {"residual": "unstructured(month | subject)"}),
        ("sleepstudy", "Reaction ~ Days", {"residual": "unstructured(Days | Subject)"}),
        ("oats", "yield ~ C(nitro)", {"residual": "unstructured(nitro | Block:Variety)"}),
    ],
)
def test_ordinary_designs_are_not_refused(name, formula, options):
    for reml in (True, False):
        assert quiet_fit(formula, dataset(name), reml, **options).converged
