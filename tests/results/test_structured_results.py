"""Results beside residual structures, relationships and heavy tails, against numpy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bayeslmm as blm
from bayeslmm.bayes.draws import coefficient_draws
from bayeslmm.bayes.predictive import posterior_predictive
from bayeslmm.results.estimates import posterior_estimates
from bayeslmm.results.left_out import row_predictives
from bayeslmm.results.loo_pit import _refitted
from tests.reanalysis.test_structures import (
    KINDS,
    PRIORS,
    S0,
    covariance,
    dense,
    fitted,
    relationship,
    rows,
)

X = np.column_stack([np.ones(32), rows()["x"]])


@pytest.mark.parametrize("kind", list(KINDS))
def test_loo_pit_is_the_conditional_normal_distribution(kind):
    """Of every row given the others, coefficients and effects integrated out in K = V + X S0 X'."""
    fit, y = fitted(kind), rows()["y"].to_numpy()
    theta = posterior_estimates(fit, fit.posterior.isel(chain=[0])).theta()
    means, variances = row_predictives(fit, theta)
    for d in range(3):
        K = dense(kind, fit, d) + X @ S0 @ X.T
        for i in range(32):
            rest = np.delete(np.arange(32), i)
            gain = np.linalg.solve(K[np.ix_(rest, rest)], K[rest, i])
            assert means[d, i] == pytest.approx(gain @ y[rest], abs=1e-8)
            assert variances[d, i] == pytest.approx(K[i, i] - gain @ K[rest, i], rel=1e-8)
    tree = fit.loo_pit(exact=False, progressbar=False, random_seed=1)
    pit = tree["loo_pit"]["y"].to_numpy()
    assert np.all((pit > 0) & (pit < 1))
    rough = stats.norm.cdf((y - means) / np.sqrt(variances)).mean(axis=0)
    assert np.corrcoef(pit, rough)[0, 1] > 0.97


def test_loo_pit_refits_rows_beside_a_residual_structure():
    """The exact transform from importance draws without the row agrees with the smoothed one."""
    fit = fitted("ar1")
    smoothed = fit.loo_pit(exact=False, progressbar=False)["loo_pit"]["y"].to_numpy()
    for row in (0, 7):
        assert _refitted(fit, row, -1.0) == pytest.approx(smoothed[row], abs=0.03)


def repeated(fit, d: int, n: int):
    """One draw of a posterior, n times over."""
    return fit.posterior.isel(chain=[0], draw=np.full(n, d)).assign_coords(draw=np.arange(n))


@pytest.mark.parametrize("kind", list(KINDS))
def test_replicated_groups_have_the_covariance_written_out(kind):
    """New groups: effects (related as the fitted ones) and residuals at the groups' own times."""
    fit, n = fitted(kind), 20_000
    found = posterior_predictive(
        fit.model.design, fit.names, repeated(fit, 3, n), groups="new", random_seed=2
    )["y"].to_numpy()[0]
    beta = coefficient_draws(fit.model.design, fit.posterior)[1][0, 3]
    V, gap = dense(kind, fit, 3), found - X @ beta
    size = np.sqrt(np.outer(np.diag(V), np.diag(V)))
    assert np.abs(gap.mean(axis=0) / np.sqrt(np.diag(V))).max() < 5 / np.sqrt(n)
    assert np.abs((gap.T @ gap / n - V) / size).max() < 6 * np.sqrt(2 / n)
    table = fit.predictive_check(groups="new", draws=50, random_seed=1)
    assert table["p"].between(0, 1).all()


def test_replicated_groups_with_heavy_tails():
    """Fourth moments are far above those of the normal where nu is small."""
    data = rows()
    fit = blm.LMM("y ~ x + (1 | g)", data, family="student", random="student").fit(
        draws=20, tune=50, chains=2, random_seed=1, progressbar=False
    )
    n = 40_000
    draw = repeated(fit, 3, n)
    ones = np.ones((1, n))
    draw = draw.assign(
        nu=draw["nu"].copy(data=8.0 * ones), nu_g=draw["nu_g"].copy(data=10.0 * ones)
    )
    found = posterior_predictive(fit.model.design, fit.names, draw, groups="new", random_seed=2)
    beta = coefficient_draws(fit.model.design, fit.posterior)[1][0, 3]
    gap = found["y"].to_numpy()[0] - X @ beta
    sigma, sd = float(draw["sigma"][0, 0]), float(draw["sd_g"].to_numpy().ravel()[0])
    noise, effect = sigma**2 * 8 / 6, sd**2 * 10 / 8
    same = np.equal.outer(data["g"].to_numpy(), data["g"].to_numpy())
    V = noise * np.eye(32) + effect * same
    assert np.abs(gap.T @ gap / n - V).max() < 0.05 * V.max()


def test_a_relationship_is_in_the_test():
    assert np.linalg.cond(relationship()) > 2


def told(kind: str) -> pd.DataFrame:
    """More rows: of a group there was, at another time, and of one that is new or not."""
    late = 7.0 if kind != "unstructured" else 2.0
    groups = ["g1", "g1"] if kind == "relationship" else ["g0", "new"]
    if kind == "unstructured":
        groups = ["new", "other"]
    return pd.DataFrame(
        {"y": [2.0, -1.5], "x": [0.3, -0.8], "g": groups, "t": [late, 1.0], "arm": ["b", "a"]}
    )


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_fit_told_of_more_rows_has_the_conditional_distribution(kind, monkeypatch):
    """Coefficients given all rows and each draw of theta, and p(y_new | y, theta)."""
    from bayeslmm.results import conditioning
    from tests.reanalysis import test_structures as written

    fit, new = fitted(kind), told(kind)
    if kind == "relationship":
        new["t"] = [5.0, 6.0]
    wider = fit.condition_on(new, random_seed=3)
    data = pd.concat([rows(), new], ignore_index=True)
    full, y = np.column_stack([np.ones(34), data["x"]]), data["y"].to_numpy()
    center = rows()["x"].mean()
    monkeypatch.setattr(written, "rows", lambda: data)
    ratios = conditioning._log_ratios(fit, wider.model)
    beta, z = coefficient_draws(wider.model.design, wider.posterior)[1].reshape(-1, 2), []
    chosen = range(0, 1000, 4)
    for d in chosen:
        V = dense(kind, fit, d, center)
        K = V + full @ S0 @ full.T
        gain = S0 @ full.T @ np.linalg.inv(K)
        root = np.linalg.cholesky(S0 - gain @ full @ S0)
        z.append(np.linalg.solve(root, beta[d] - gain @ y))
        if d < 20:
            own = [stats.multivariate_normal(cov=K[:n, :n]).logpdf(y[:n]) for n in (34, 32)]
            assert ratios[d] == pytest.approx(own[0] - own[1], abs=1e-7)
    z = np.array(z)
    assert np.abs(z.mean(axis=0)).max() < 4.5 / np.sqrt(len(z))
    assert np.abs(np.cov(z.T) - np.eye(2)).max() < 5 * np.sqrt(2 / len(z))
    assert fit.condition_on(new, reweight=True, random_seed=3).conditioning.reweighted
    if fit.names.factors:
        assert wider.posterior[fit.names.factors[0].b].shape[2] == (
            8 if kind != "log-linear" else 9
        )


def test_an_individual_without_a_relationship_is_refused():
    with pytest.raises(blm.DataError, match="not in the relationship"):
        fitted("relationship").condition_on(told("ar1"))


def test_a_time_that_is_there_already_is_refused():
    with pytest.raises(blm.DataError, match="two rows at the same t"):
        fitted("ar1").condition_on(told("ar1").assign(g="g0", t=2.0).iloc[:1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("structure", "more"),
    [
        ({"residual": "ar1(t | g)"}, {"missing": "model"}),
        ({"residual": "ar1(t | g)"}, {"random": "student"}),
        ({"sigma": "~ arm"}, {"missing": "model", "random": "student"}),
        ({"relationship": {"g": relationship()}}, {"missing": "model"}),
    ],
    ids=["ar1 missing", "ar1 student", "cells both", "related missing"],
)
def test_the_sampled_model_has_the_density_written_out(structure, more):
    """Of the responses given effects, missing values and components drawn from the model."""
    data = rows().assign(x=rows()["x"].where(np.arange(32) % 11 != 4))
    data = rows() if "missing" not in more else data
    model = blm.LMM("y ~ x + (1 | g)", data, priors=PRIORS, **structure, **more)
    pm_model = model.pymc_model()
    point = pm_model.initial_point(random_seed=4)
    for name in point:
        point[name] = point[name] + np.linspace(0.1, 0.4, np.size(point[name])).reshape(
            np.shape(point[name])
        )
    names = ["beta", "b_g", *(["missing_x"] if "missing" in more else [])]
    names += ["sigma_by" if "sigma" in structure else "sigma"]
    names += ["rho"] if "residual" in structure else []
    wanted = [pm_model[name] for name in names]
    at_values = pm_model.compile_fn(
        pm_model.replace_rvs_by_values(wanted),
        inputs=pm_model.value_vars,
        on_unused_input="ignore",
    )
    values = dict(zip(names, at_values(point), strict=True))
    x = data["x"].to_numpy().copy()
    if "missing" in more:
        x[np.isnan(x)] = values["missing_x"]
    at = np.array([int(g[1:]) for g in data["g"]])
    mean = values["beta"][0] + values["beta"][1] * x + np.asarray(values["b_g"])[at, 0]
    if "sigma" in structure:
        V = np.diag(values["sigma_by"][(data["arm"] == "b").to_numpy().astype(int)] ** 2)
    elif "residual" in structure:
        V = covariance("ar1", sigma=float(values["sigma"]), rho=float(values["rho"]))
    else:
        V = float(values["sigma"]) ** 2 * np.eye(32)
    observed = [v for v in pm_model.observed_RVs if v.name.startswith("y")]
    found = float(pm_model.compile_logp(vars=observed)(point))
    assert found == pytest.approx(stats.multivariate_normal(mean, V).logpdf(data["y"]), rel=1e-9)
