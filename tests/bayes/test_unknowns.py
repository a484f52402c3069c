"""Unknown values of covariates in the joint density: exact, whatever their regressions are."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bayeslmm as blm
from bayeslmm.bayes.kernels import joint
from tests.bayes.test_joint import _naturals, check_density, check_gradients, density_of, points
from tests.conftest import quietly

#: Formula and missing= of models with every kind of unknown value that PyMC has too.
NORMAL = {
    "rows and groups": ("y ~ x * f + age + (x | g)", "model"),
    "regressions": ("y ~ x * f + age + (1 | g)", {"x": "x ~ z + f", "age": "~ 1"}),
    "grouped": ("y ~ x + (1 | g) + (1 | h)", {"x": "x ~ z + (1 | h)"}),
    "measured": ("y ~ me(x, s) * z + (1 | g)", {"x": "~ z + (1 | h)"}),
    "measured slopes": ("y ~ me(x, s) + (me(x, s) || g)", "model"),
    "no effects": ("y ~ x + z", "model"),
}


def frame(n: int = 60, *, event: bool = False) -> pd.DataFrame:
    """Rows of ten groups with missing values of rows, of groups, and of two values."""
    rng = np.random.default_rng(5)
    g = np.repeat(np.arange(10), n // 10)
    x, z, age = rng.normal(2, 1, n), rng.normal(size=n), rng.normal(50, 10, 10)[g]
    f = rng.choice(["a", "b"], n)
    eta = 1 + x + 0.05 * age + (f == "b") * x + rng.normal(0, 1, 10)[g]
    y = eta + rng.normal(0, 0.5, n)
    sick, arm = rng.integers(0, 2, n).astype(float), rng.choice(["new", "old"], n)
    data = pd.DataFrame(
        {
            "y": (y > np.median(y)).astype(int) if event else y,
            "x": np.where(rng.random(n) < 0.2, np.nan, x),
            "s": rng.uniform(0.2, 0.8, n),
            "z": z,
            "age": np.where(np.isin(g, [2, 7]), np.nan, age),
            "f": f,
            "g": g.astype(str),
            "h": rng.integers(0, 5, n).astype(str),
            "sick": np.where(np.arange(n) % 20 == 3, np.nan, sick),
            "arm": pd.Series(arm).where(np.arange(n) % 20 != 3 + (np.arange(n) > 30)),
        }
    )
    return data


@pytest.mark.parametrize("case", NORMAL)
def test_gradients_with_unknown_values_are_those_of_the_density(case):
    formula, missing = NORMAL[case]
    check_gradients(density_of(quietly(formula, frame(), missing=missing)))


@pytest.mark.parametrize("case", ["measured", pytest.param("grouped", marks=pytest.mark.slow)])
def test_the_density_with_unknown_values_is_that_of_the_hierarchical_model(case):
    formula, missing = NORMAL[case]
    model = quietly(formula, frame(), missing=missing)
    check_density(model, density_of(model, signed=False))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("rows and groups", {"family": "student"}),
        ("regressions", {}),
        ("measured slopes", {}),
        ("no effects", {}),
    ],
)
def test_the_density_holds_for_every_kind_of_unknown_value(case, options):
    formula, missing = NORMAL[case]
    model = quietly(formula, frame(), missing=missing, **options)
    check_density(model, density_of(model, signed=False))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bernoulli", "poisson", "ordinal"])
def test_the_density_holds_for_other_responses(family):
    model = blm.MixedModel(
        "y ~ x * f + age + (x | g)", frame(event=True), family=family, missing="model"
    )
    density = density_of(model, signed=False)
    check_gradients(density)
    check_density(model, density)


@pytest.mark.parametrize(
    ("family", "random"), [("gaussian", "(sick | g)"), ("bernoulli", "(1 | g)")]
)
def test_values_of_two_are_summed_over(family, random):
    """Against the sum over all combinations of six unknown values at once."""
    with pytest.warns(blm.DataWarning, match="part of the model"):
        model = blm.MixedModel(
            f"y ~ sick * z + arm + {random}", frame(event=family == "bernoulli"), family=family,
            missing={"sick": "sick ~ z", "arm": "~ f"},
        )  # fmt: skip
    density, design = density_of(model, signed=False), model.design
    check_gradients(density)
    assert max(len(part) for part in density.laplace.unknown.together) == 2
    Z = points(density, 2)
    empty = density.arguments._replace(
        sums=density.arguments.sums._replace(weights=np.zeros_like(density.arguments.sums.weights)),
        constant=0.0,
    )
    found = density.values(Z) - replace(density, arguments=empty).values(Z)
    values = _naturals(model, density, Z)
    phi = values["sigma"][:, None] if family == "gaussian" else np.zeros((2, 0))
    states = np.array(list(product([0.0, 1.0], repeat=sum(c.n_unknown for c in design.modeled))))
    chances = joint.state_chances(Z, density.arguments)
    for d in range(2):
        expected = _over_states(design, values, phi[d], d, states)
        total = np.logaddexp.reduce(expected)
        assert found[d] == pytest.approx(total, rel=1e-10)
        # the unknowns of the first component: sums of the states in which they have their values
        part = density.laplace.unknown.together[0]
        own = (states[:, part] @ 2 ** np.arange(len(part))).astype(int)
        shares = np.bincount(own, np.exp(expected - total))
        np.testing.assert_allclose(chances[d, : len(shares)], shares, rtol=1e-8)


def _over_states(design, values, phi, d, states):
    """Log density of rows and states for every state, at draw d."""
    block, out = design.blocks[0], []
    b = values["b_g"][d][block.codes]
    for state in states:
        X, Z, log_prior, first = design.X.copy(), block.Z.copy(), 0.0, 0
        for covariate in design.modeled:
            x = state[first : first + covariate.n_unknown]
            first += covariate.n_unknown
            moved = (x[covariate.unit] - covariate.fill)[:, None]
            X[covariate.rows] += moved * covariate.X_slope
            Z[covariate.rows] += moved * covariate.Z_slopes[0]
            name = f"missing_{covariate.name}"
            alpha = np.append(values[f"{name}_mean"][d], values[f"{name}_slope"][d])
            own = covariate.model.unknown >= 0
            logit = (covariate.model.W @ alpha)[own]
            x = x[covariate.model.unknown[own]]
            log_prior += (x * logit - np.logaddexp(0, logit)).sum()
        eta = design.offset + X @ values["beta"][d] + (Z * b).sum(axis=1)
        rows = design.family.log_density(design.y, eta, phi, 1.0)
        out.append(rows.sum() + log_prior)
    return np.array(out)


def test_a_posterior_with_unknown_values_is_quick_and_draws_them():
    data = frame()
    model = quietly("y ~ x * f + age + sick + (x | g)", data, missing="model")
    post = model.fit(draws=300, tune=200, chains=2, random_seed=3, progressbar=False)
    assert post.info.parameterization == "whitened"
    assert int(post.idata.sample_stats["diverging"].sum()) <= 2
    assert set(np.unique(post.idata.posterior["missing_sick"])) == {0.0, 1.0}
    again = model.fit(draws=300, tune=200, chains=2, random_seed=3, progressbar=False)
    for name in ("missing_sick", "missing_x", "beta"):
        np.testing.assert_array_equal(post.idata.posterior[name], again.idata.posterior[name])


def test_unknown_values_have_their_exact_distribution_given_the_rest():
    """One row, whose value is unknown: its posterior given what has been drawn is normal."""
    data = frame().drop(columns=["age", "sick", "arm"])
    data["x"] = data["x"].fillna(1.0)
    data.loc[4, "x"] = np.nan
    model = quietly("y ~ x + z + (1 | g)", data, missing="model")
    tree = model.fit(random_seed=1, progressbar=False).idata
    post = tree["posterior"].to_dataset().stack(s=("chain", "draw"))
    beta, b = post["beta"].to_numpy().T, post["b_g"].to_numpy()[0, 0]
    gamma, sigma = beta[:, 1], post["sigma"].to_numpy()
    mean, sd = post["missing_x_mean"].to_numpy(), post["missing_x_sd"].to_numpy()
    rest = data["y"][4] - beta[:, 0] - beta[:, 2] * data["z"][4] - b
    precision = sd**-2 + (gamma / sigma) ** 2
    center = (mean / sd**2 + gamma * rest / sigma**2) / precision
    z = (post["missing_x"].to_numpy()[0] - center) * np.sqrt(precision)
    # standard normals; 4,000 draws that are nearly independent in this coordinate
    assert stats.kstest(z[::2], "norm").pvalue > 1e-6


def test_large_counts_beside_unknown_values_leave_weights_of_their_size():
    """A full Newton step from the mean leads to means that are larger by any factor."""
    rng = np.random.default_rng(3)
    x, g = rng.normal(size=80), np.repeat(np.arange(8), 10)
    y = rng.poisson(np.exp(1 + 2 * x + 0.3 * rng.normal(size=8)[g]))
    unknown = np.argsort(y)[-3:]
    data = pd.DataFrame({"y": y, "x": np.where(np.isin(np.arange(80), unknown), np.nan, x), "g": g})
    with pytest.warns(blm.DataWarning, match="part of the model"):
        model = blm.MixedModel("y ~ x + (1 | g)", data, family="poisson", missing="model")
    found = density_of(model).arguments.unknowns
    np.testing.assert_allclose(found.weight, y[np.sort(unknown)], rtol=0.5)


def test_observed_values_that_their_predictors_determine_are_refused():
    data = frame()
    data["x"] = np.where(data["x"].isna(), np.nan, 2 * data["z"] + 10)
    model = quietly("y ~ x + (1 | g)", data, missing={"x": "~ z"})
    with pytest.raises(blm.DataError, match="'x' are determined by its predictors"):
        model.fit(draws=10, tune=10, chains=1, progressbar=False)
