"""Optimum, intervals, tests, simulation: claims that do not need another program."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import bayeslmm as blm
from bayeslmm.assembly import covariance_patterns, factor_rows
from bayeslmm.gaussian import CrossProducts, prepare, profiled_criterion
from bayeslmm.likelihood.optimize import optimize
from bayeslmm.parts.patterns import pack_theta
from tests.conftest import dataset, quietly


def _fit(formula, data, reml=True, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", blm.ModelWarning)
        model = quietly(formula, data, **options)
        return model.reml() if reml else model.ml()


def _psycholinguistics(seed: int, subjects=12, items=10, weak=0.0) -> pd.DataFrame:
    """Crossed subjects and items, both with slopes; `weak` scales the slopes' variances."""
    rng = np.random.default_rng(seed)
    s, i = np.meshgrid(np.arange(subjects), np.arange(items), indexing="ij")
    frame = pd.DataFrame({"s": s.ravel(), "i": i.ravel()})
    frame["x"] = np.where((frame.s + frame.i) % 2, 0.5, -0.5)
    a = rng.multivariate_normal([0, 0], [[1, -0.5 * weak], [-0.5 * weak, weak**2]], subjects)
    b = rng.multivariate_normal([0, 0], [[0.5, 0.3 * weak], [0.3 * weak, weak**2]], items)
    effect = a[frame.s, 0] + b[frame.i, 0] + (a[frame.s, 1] + b[frame.i, 1]) * frame.x
    return frame.assign(y=3 + 0.4 * frame.x + effect + rng.normal(size=len(frame)))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), weak=st.sampled_from([0.0, 0.2, 0.8]))
def test_no_other_start_leads_to_a_better_optimum(seed, weak):
    # crossed slopes, where bounded optimizers stop at a wall that is not there
    problem = quietly("y ~ x + (x | s) + (x | i)", _psycholinguistics(seed, weak=weak)).problem
    best = optimize(problem)
    rng = np.random.default_rng(seed)
    for _ in range(4):
        identity = pack_theta(problem.patterns, [np.eye(2), np.eye(2)])
        start = identity * rng.uniform(0.05, 3) + 0.7 * rng.normal(size=6)
        other = optimize(problem, start=start)
        assert best.criterion <= other.criterion + 1e-5
    for _ in range(20):
        near = best.theta + 10 ** rng.uniform(-4, 0) * rng.normal(size=6)
        assert best.criterion <= profiled_criterion(problem, near) + 1e-7


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_fit_does_not_depend_on_units(seed):
    frame = _psycholinguistics(seed, weak=0.5)
    scaled = frame.assign(y=1e6 * frame.y - 3e7, x=1e-3 * frame.x)
    a, b = _fit("y ~ x + (x | s) + (1 | i)", frame), _fit("y ~ x + (x | s) + (1 | i)", scaled)
    # the criterion is flat to 1e-9 around its minimum, so components agree to its square root
    for name, factor in (("sd(Intercept | s)", 1e6), ("sd(x | s)", 1e9), ("sigma", 1e6)):
        assert b.components()[name] == pytest.approx(
            factor * a.components()[name], rel=1e-3, abs=1e-3 * factor
        )
    assert b.fixef("normal").loc["x", "estimate"] == pytest.approx(
        1e9 * a.fixef("normal").loc["x", "estimate"], rel=1e-4
    )


def test_any_split_of_the_rows_gives_the_same_fit():
    model = quietly("y ~ x + (x | s) + (x | i)", _psycholinguistics(3, weak=0.8))
    design = model.design
    rng = np.random.default_rng(1)
    part = rng.integers(0, 3, design.n_rows)
    total = None
    for k in range(3):
        rows = np.flatnonzero(part == k)
        cp = CrossProducts.from_rows(
            design.y[rows], design.X[rows], [f.take(rows) for f in factor_rows(design)]
        )
        total = cp if total is None else total + cp
    split = optimize(prepare(total, covariance_patterns(design)))
    whole = optimize(model.problem)
    assert split.criterion == pytest.approx(whole.criterion, rel=1e-10)
    np.testing.assert_allclose(split.theta, whole.theta, atol=1e-4)


def test_a_response_of_1e9_plus_noise_keeps_its_digits(sleepstudy):
    shifted = sleepstudy.assign(Reaction=sleepstudy["Reaction"] + 1e9)
    a = _fit("Reaction ~ Days + (Days | Subject)", sleepstudy)
    b = _fit("Reaction ~ Days + (Days | Subject)", shifted)
    pd.testing.assert_series_equal(a.components(), b.components(), rtol=1e-5)
    fixed = b.fixef("normal")["estimate"]
    assert fixed["Intercept"] - 1e9 == pytest.approx(251.4051, abs=1e-3)
    assert fixed["Days"] == pytest.approx(10.467286, rel=1e-6)


def test_a_correlation_of_one_is_reported_in_words():
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(20), 6)
    x = np.tile(np.arange(6.0), 20)
    u = rng.normal(size=20)
    y = 1 + u[g] + (0.5 + 0.5 * u[g]) * x + 0.5 * rng.normal(size=120)
    with pytest.warns(blm.ModelWarning, match="corr\\(Intercept, x \\| g\\) is estimated as 1"):
        fit = blm.LMM("y ~ x + (x | g)", pd.DataFrame({"y": y, "x": x, "g": g})).reml()
    assert fit.components()["corr(Intercept, x | g)"] == pytest.approx(1.0, abs=1e-6)


def test_random_intercepts_reproduce_repeated_measures_anova():
    data = dataset("ergostool")
    F = _fit("effort ~ Type + (1 | Subject)", data).anova().loc["Type"]
    wide = data.pivot_table(index="Subject", columns="Type", values="effort", observed=True)
    values = wide.to_numpy()
    grand = values.mean()
    between = values.shape[0] * ((values.mean(0) - grand) ** 2).sum() / 3
    rest = values - values.mean(0) - values.mean(1, keepdims=True) + grand
    within = (rest**2).sum() / 24
    assert F["F"] == pytest.approx(between / within, rel=1e-6)
    assert F["dendf"] == pytest.approx(24, rel=1e-4)


def test_a_model_without_random_terms_is_ordinary_least_squares(sleepstudy):
    fit = _fit("Reaction ~ Days", sleepstudy)
    result = stats.linregress(sleepstudy["Days"], sleepstudy["Reaction"])
    row = fit.fixef().loc["Days"]
    assert row["estimate"] == pytest.approx(result.slope)
    assert row["se"] == pytest.approx(result.stderr)
    assert row["df"] == pytest.approx(178)
    assert row["p"] == pytest.approx(result.pvalue, rel=1e-6)


def test_aliased_columns_are_left_out_and_shown(sleepstudy):
    sleepstudy["Hours"] = 24 * sleepstudy["Days"]
    with pytest.warns(blm.ModelWarning, match="rank deficient: Hours"):
        model = blm.LMM("Reaction ~ Days + Hours + (Days | Subject)", sleepstudy)
    fit = model.reml()
    table = fit.fixef()
    assert table.loc["Hours"].isna().all()
    assert table.loc["Days", "estimate"] == pytest.approx(10.467286, rel=1e-5)
    assert fit.n_parameters == 6
    assert fit.coef().query("effect == 'Hours'")["estimate"].isna().all()


def test_weights_are_precisions():
    # rows repeated w times and rows of weight w have the same coefficients
    frame = _psycholinguistics(5, weak=0.5)
    w = np.arange(len(frame)) % 3 + 1
    # with sigma^2 / w, a mean of w identical rows: coefficients equal those of the means
    rng = np.random.default_rng(2)
    noise = [rng.normal(size=k) for k in w]
    rows = frame.loc[frame.index.repeat(w)].reset_index(drop=True)
    rows["y"] = rows["y"] + np.concatenate(noise)
    means = frame.assign(y=frame["y"] + [e.mean() for e in noise])
    theta = np.array([0.8, 0.1, 0.4, 0.5])
    a = quietly("y ~ x + (x | s) + (1 | i)", rows).problem
    b = quietly("y ~ x + (x | s) + (1 | i)", means, weights=w.astype(float)).problem
    from bayeslmm.gaussian import solve

    np.testing.assert_allclose(solve(a, theta).beta, solve(b, theta).beta, rtol=1e-10)


def test_profile_intervals_are_those_of_lme4(sleepstudy):
    # confint(fm1, method = "profile") of lme4 1.1-31, oldNames = FALSE
    expected = {
        "sd(Intercept | Subject)": (14.3814, 37.7160),
        "corr(Intercept, Days | Subject)": (-0.4815, 0.6850),
        "sd(Days | Subject)": (3.8012, 8.7534),
        "sigma": (22.8983, 28.8580),
        "Intercept": (237.6807, 265.1295),
        "Days": (7.3587, 13.5759),
    }
    table = _fit("Reaction ~ Days + (Days | Subject)", sleepstudy).confint(progressbar=False)
    for name, limits in expected.items():
        np.testing.assert_allclose(table.loc[name, ["lower", "upper"]], limits, rtol=2e-4)


def test_profile_of_a_vanished_standard_deviation_starts_at_zero():
    fit = _fit("Yield ~ 1 + (1 | Batch)", dataset("dyestuff2"))
    table = fit.confint(progressbar=False)
    assert table.loc["sd(Intercept | Batch)", "lower"] == 0
    # lme4: .sig01 0 to 2.567, from the same deviance; ours is checked by its definition
    upper = table.loc["sd(Intercept | Batch)", "upper"]
    ml = _fit("Yield ~ 1 + (1 | Batch)", dataset("dyestuff2"), reml=False)
    y, g = fit.design.y, fit.design.blocks[0].codes
    Z = np.eye(6)[g]

    def deviance(log_sigma):
        V = np.exp(2 * log_sigma) * np.eye(30) + upper**2 * Z @ Z.T
        mean = np.full(30, y.mean())
        return -2 * stats.multivariate_normal(mean, V).logpdf(y)

    from scipy.optimize import minimize_scalar

    lowest = minimize_scalar(deviance, bounds=(0, 3), method="bounded").fun
    assert lowest - ml.deviance == pytest.approx(stats.chi2.ppf(0.95, 1), rel=1e-4)


def test_bootstrap_intervals_repeat_with_their_seed_and_surround_the_estimate(sleepstudy):
    fit = _fit("Reaction ~ Days + (1 | Subject)", sleepstudy)
    options = {"method": "bootstrap", "n_sims": 200, "random_seed": 5, "progressbar": False}
    a, b = fit.confint(**options), fit.confint(**options)
    pd.testing.assert_frame_equal(a, b)
    assert ((a["lower"] < a["estimate"]) & (a["estimate"] < a["upper"])).all()
    wald = fit.confint("wald")
    ratio = (a["upper"] - a["lower"]) / (wald["upper"] - wald["lower"])
    assert ratio.between(0.7, 1.4).all()


def test_confint_takes_some_parameters_and_refuses_unknown_ones(sleepstudy):
    fit = _fit("Reaction ~ Days + (1 | Subject)", sleepstudy)
    table = fit.confint(parameters=["Days", "sigma"], level=0.9, progressbar=False)
    assert table.index.tolist() == ["Days", "sigma"]
    with pytest.raises(ValueError, match="no parameter 'Dayz'"):
        fit.confint(parameters=["Dayz"])
    with pytest.raises(ValueError, match="method must be"):
        fit.confint("magic")


def test_simulated_responses_have_the_models_mean_and_covariance(sleepstudy):
    fit = _fit("Reaction ~ Days + (Days | Subject)", sleepstudy)
    draws = fit.simulate(4000, random_seed=1).to_numpy().T
    block = fit.design.blocks[0]
    rows = np.flatnonzero(block.codes == 0)
    Z = block.Z[rows]
    V = Z @ fit.covariances["Subject"].to_numpy() @ Z.T + fit.sigma**2 * np.eye(10)
    sample = np.cov(draws[:, rows].T)
    # entries of a covariance of 4000 draws have standard error about |V|max / sqrt(2000)
    assert np.max(np.abs(sample - V)) < 6 * V.max() / np.sqrt(2000)
    mean = draws.mean(axis=0) - fit.fitted("population").to_numpy()
    assert np.max(np.abs(mean)) < 6 * np.sqrt(V.max() / 4000)
    other = draws[:, rows[0]], draws[:, np.flatnonzero(block.codes == 1)[0]]
    assert abs(np.corrcoef(*other)[0, 1]) < 6 / np.sqrt(4000)


def test_refit_recovers_the_fit_of_the_new_response(sleepstudy):
    fit = _fit("Reaction ~ Days + (Days | Subject)", sleepstudy)
    again = fit.refit(2 * sleepstudy["Reaction"] + 1)
    assert again.sigma == pytest.approx(2 * fit.sigma, rel=1e-5)
    with pytest.raises(blm.DataError, match="180 finite numbers"):
        fit.refit([1, 2, 3])


def test_likelihood_ratio_test_against_a_boundary_uses_the_mixture(sleepstudy):
    small = _fit("Reaction ~ Days + (1 | Subject)", sleepstudy)
    large = _fit("Reaction ~ Days + (Days | Subject)", sleepstudy)
    row = blm.likelihood_ratio_test(large, small).iloc[1]
    statistic = small.deviance - large.deviance
    assert row["statistic"] == pytest.approx(statistic)
    expected = 0.5 * (stats.chi2.sf(statistic, 1) + stats.chi2.sf(statistic, 2))
    assert row["p"] == pytest.approx(expected)
    assert "mixture" in row["reference"]


def test_likelihood_ratio_test_of_fixed_effects_refits_by_ml_and_says_so(sleepstudy):
    small = _fit("Reaction ~ 1 + (Days | Subject)", sleepstudy)
    large = _fit("Reaction ~ Days + (Days | Subject)", sleepstudy)
    with pytest.warns(blm.ModelWarning, match="refitted by maximum likelihood"):
        row = blm.likelihood_ratio_test(small, large).iloc[1]
    assert row["statistic"] == pytest.approx(23.5365, abs=1e-3)
    assert row["reference"] == "chi2(1)"


def test_likelihood_ratio_test_refuses_what_is_not_nested(sleepstudy):
    a = _fit("Reaction ~ Days + (1 | Subject)", sleepstudy)
    b = _fit("Reaction ~ 1 + (Days | Subject)", sleepstudy)
    with pytest.raises(ValueError, match="not nested"):
        blm.likelihood_ratio_test(a, b)
    c = _fit("Reaction ~ Days + (Days | Subject)", sleepstudy.iloc[:170])
    with pytest.raises(ValueError, match="same response and rows"):
        blm.likelihood_ratio_test(a, c)
    with pytest.raises(ValueError, match="same number of parameters"):
        blm.likelihood_ratio_test(a, a)


@pytest.mark.slow
def test_the_boundary_test_has_its_level_and_chi_squared_does_not():
    rng = np.random.default_rng(8)
    g = np.repeat(np.arange(30), 5)
    frame = pd.DataFrame({"y": rng.normal(size=150), "g": g})
    null = quietly("y ~ 1", frame)
    full = quietly("y ~ 1 + (1 | g)", frame)
    n, rejected = 1000, {"mixture": 0, "chi2": 0}
    for _ in range(n):
        y = rng.normal(size=150)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", blm.ModelWarning)
            fits = [m.with_response(y).reml() for m in (null, full)]
        for method in rejected:
            p = blm.likelihood_ratio_test(*fits, method=method)["p"].iloc[1]
            rejected[method] += p < 0.05
    # standard error 0.0069; five of them
    assert rejected["mixture"] / n == pytest.approx(0.05, abs=0.034)
    assert rejected["chi2"] < rejected["mixture"]


def test_contrasts_of_every_form_agree(sleepstudy):
    fit = _fit("Reaction ~ Days + (Days | Subject)", sleepstudy)
    by_dict = fit.contrast({"Intercept": 1, "Days": 5})
    by_array = fit.contrast([[1, 5]])
    by_frame = fit.contrast(pd.DataFrame({"Days": [5.0], "Intercept": [1.0]}))
    for other in (by_array, by_frame):
        np.testing.assert_allclose(by_dict.to_numpy(), other.to_numpy())
    several = fit.contrast({"day 5": {"Intercept": 1, "Days": 5}, "slope": {"Days": 1}})
    assert several.index.tolist() == ["day 5", "slope"]
    for bad in ({"Dayz": 1}, [[1, 2, 3]], [[np.nan, 1]]):
        with pytest.raises(ValueError, match="coefficient|finite"):
            fit.contrast(bad)


def test_marginal_means_average_over_the_other_factors(toy):
    fit = _fit("y ~ f * h + x + (1 | g)", toy)
    table = fit.marginal_means("f", at={"x": 0.5})
    beta = fit.fixef()["estimate"]
    expected = beta["Intercept"] + 0.5 * beta["x"] + 0.5 * beta["h[v]"]
    assert table.loc[0, "estimate"] == pytest.approx(expected)
    assert table["f"].tolist() == ["a", "b", "c"]
    both = fit.marginal_means(["f", "h"])
    assert len(both) == 6
    pairs = fit.pairwise("f", adjust=None)
    assert pairs["contrast"].tolist() == ["a - b", "a - c", "b - c"]
    difference = table.loc[0, "estimate"] - table.loc[1, "estimate"]
    assert pairs.loc[0, "estimate"] == pytest.approx(difference)
    holm = fit.pairwise("f", adjust="holm")
    assert (holm["p"] >= pairs["p"] - 1e-15).all()
    for arguments in (("q",), ("g",)):
        with pytest.raises(ValueError, match="not a column of the fixed part"):
            fit.marginal_means(*arguments)
    with pytest.raises(ValueError, match="adjust must be"):
        fit.pairwise("f", adjust="bonferoni")


def test_anova_says_where_cells_are_empty(toy):
    frame = toy[~((toy.f == "a") & (toy.h == "u"))]
    fit = _fit("y ~ f * h + (1 | g)", frame)
    with pytest.warns(blm.ModelWarning, match="No type 3 test of f, h: .* have no rows"):
        table = fit.anova()
    assert table.loc[["f", "h"]].isna().all(axis=None)
    # what is left of the highest interaction is tested
    assert table.loc["f:h", "numdf"] == 1
    with pytest.raises(ValueError, match="type must be"):
        fit.anova(4)
    with pytest.raises(ValueError, match="ddf must be.*'kr', 'kh' and 'z' for short"):
        fit.anova(3, "magic")


def test_kenward_roger_equals_its_definition_with_weights():
    # brute force with n x n matrices; weighted, so that no other program could be asked
    frame = _psycholinguistics(2, subjects=6, items=5, weak=0.8)
    w = np.linspace(0.5, 2, len(frame))
    fit = _fit("y ~ x + (x | s) + (1 | i)", frame, weights=w)
    design, n = fit.design, len(frame)
    X = design.X
    derivatives = []
    V = fit.sigma**2 * np.diag(1 / w)
    for block in design.blocks:
        same = block.codes[:, None] == block.codes[None, :]
        Sigma = fit.covariances[block.name].to_numpy()
        V += same * (block.Z @ Sigma @ block.Z.T)
        for a in range(block.n_effects):
            for b in range(a, block.n_effects):
                E = np.zeros((block.n_effects, block.n_effects))
                E[a, b] = E[b, a] = 1
                derivatives.append(same * (block.Z @ E @ block.Z.T))
    derivatives.append(np.diag(1 / w))
    Vi = np.linalg.inv(V)
    Phi = np.linalg.inv(X.T @ Vi @ X)
    R = Vi - Vi @ X @ Phi @ X.T @ Vi
    r = len(derivatives)
    information = np.array(
        [[0.5 * np.trace(R @ a @ R @ b) for b in derivatives] for a in derivatives]
    )
    W = np.linalg.inv(information)
    inner = np.zeros_like(Phi)
    for i in range(r):
        for j in range(r):
            Q = X.T @ Vi @ derivatives[i] @ Vi @ derivatives[j] @ Vi @ X
            P = [X.T @ Vi @ derivatives[k] @ Vi @ X for k in (i, j)]
            inner += W[i, j] * (Q - P[0] @ Phi @ P[1])
    adjusted = Phi + 2 * Phi @ inner @ Phi
    assert n == len(w)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", blm.ModelWarning)
        se = fit.fixef("kenward-roger")["se"]
    np.testing.assert_allclose(se, np.sqrt(np.diag(adjusted)), rtol=1e-6)


def test_what_likelihood_cannot_separate_is_refused(toy):
    toy["row"] = np.arange(len(toy))
    with pytest.raises(blm.DataError, match="cannot be told apart"):
        _fit("y ~ x + (1 | row)", toy)
    toy["exact"] = 3 + 2 * toy["x"]
    with pytest.raises(blm.DataError, match="perfectly"):
        _fit("exact ~ x + (1 | g)", toy)


def test_posterior_and_likelihood_answer_the_same_calls(sleepstudy_posterior):
    means = sleepstudy_posterior.contrast({"Intercept": 1, "Days": 5})
    draws = sleepstudy_posterior.posterior["beta"].to_numpy() @ [1, 5]
    assert means["mean"].iloc[0] == pytest.approx(draws.mean())
    assert means.loc[means.index[0], "upper"] == pytest.approx(np.quantile(draws, 0.975))


@pytest.mark.parametrize("factor", [1e-6, 1e3, 86400.0, 1e6])
def test_degrees_of_freedom_and_standard_errors_do_not_depend_on_units(sleepstudy, factor):
    a = _fit("Reaction ~ Days + (Days | Subject)", sleepstudy)
    for changed in (
        sleepstudy.assign(Days=sleepstudy["Days"] * factor),
        sleepstudy.assign(Reaction=sleepstudy["Reaction"] * factor),
    ):
        b = _fit("Reaction ~ Days + (Days | Subject)", changed)
        np.testing.assert_allclose(b.fixef()["df"], a.fixef()["df"], rtol=1e-4)
        ratio = [f.varcomp()["se"] / f.varcomp()["estimate"] for f in (a, b)]
        np.testing.assert_allclose(ratio[0], ratio[1], rtol=1e-3)


@pytest.mark.parametrize("spread", [1.0, 1e3, 1e5])
def test_degrees_of_freedom_survive_a_large_ratio_of_standard_deviations(spread):
    g = np.repeat(np.arange(20), 10)
    u = np.random.default_rng(3).normal(size=20)
    y = spread * u[g] + np.random.default_rng(4).normal(size=200)
    fit = _fit("y ~ 1 + (1 | g)", pd.DataFrame({"y": y, "g": g}))
    assert fit.fixef()["df"].iloc[0] == pytest.approx(19, rel=0.01)


@pytest.mark.parametrize(
    ("name", "formula", "row", "limits"),
    [  # lme4 1.1-31
        ("oats", "yield ~ nitro + (1 | Block/Variety)", "Block:Variety)", (6.08, 19.20)),
        ("machines", "score ~ Machine + (Machine | Worker)", "sigma", (0.776, 1.235)),
    ],
)
def test_profiles_reach_every_limit(name, formula, row, limits):
    table = _fit(formula, dataset(name)).confint(progressbar=False)
    assert np.isfinite(table).all().all()
    assert (table["lower"] < table["estimate"]).all()
    (found,) = [i for i in table.index if i.endswith(row)]
    np.testing.assert_allclose(table.loc[found, ["lower", "upper"]], limits, rtol=2e-3)


def test_reml_likelihood_ratio_does_not_depend_on_the_basis_of_the_fixed_effects(sleepstudy):
    data = sleepstudy.assign(Hours=24 * sleepstudy["Days"])
    small = _fit("Reaction ~ Days + (1 | Subject)", data)
    large = _fit("Reaction ~ Hours + (Hours | Subject)", data)
    with pytest.warns(blm.ModelWarning, match="given for the columns of"):
        table = blm.likelihood_ratio_test(small, large)
    assert table["statistic"].iloc[1] == pytest.approx(42.8368, abs=1e-3)
    same = _fit("Reaction ~ Days + (Days | Subject)", data)
    columns = ["loglik", "deviance", "aic", "bic", "statistic", "p"]
    for other in (large, _fit("Reaction ~ poly(Days, 1) + (Hours | Subject)", data)):
        with pytest.warns(blm.ModelWarning, match="given for the columns of"):
            table = blm.likelihood_ratio_test(other, small)
        expected = blm.likelihood_ratio_test(small, same)
        np.testing.assert_allclose(table[columns], expected[columns], rtol=1e-6)
        change = 2 * (table["loglik"].iloc[1] - table["loglik"].iloc[0])
        assert change == pytest.approx(table["statistic"].iloc[1])
    # a column that is aliased adds no parameter
    twice = _fit("Reaction ~ Days + Hours + (Days | Subject)", data)
    assert "mixture" in blm.likelihood_ratio_test(small, twice)["reference"].iloc[1]


def test_correlated_effects_are_not_nested_in_independent_ones(toy):
    small = _fit("y ~ x + (x | g)", toy)
    large = _fit("y ~ x + (x || g) + (x | item)", toy)
    with pytest.raises(ValueError, match="not nested"):
        blm.likelihood_ratio_test(small, large)


def test_marginal_means_include_the_offset_and_need_estimable_combinations(toy):
    plain = _fit("y ~ f + x + (1 | g)", toy)
    shifted = _fit("I(y + z) ~ f + x + offset(z) + (1 | g)", toy)
    difference = shifted.marginal_means("f")["estimate"] - plain.marginal_means("f")["estimate"]
    np.testing.assert_allclose(difference, toy["z"].mean(), rtol=1e-5)
    np.testing.assert_allclose(
        shifted.pairwise("f")["estimate"], plain.pairwise("f")["estimate"], rtol=1e-4
    )
    toy["x2"] = 2 * toy["x"]
    aliased = _fit("y ~ f + x + x2 + (1 | g)", toy)
    np.testing.assert_allclose(
        aliased.marginal_means("f")["estimate"], plain.marginal_means("f")["estimate"], rtol=1e-6
    )
    with pytest.warns(blm.ModelWarning, match="NaN"):
        assert aliased.marginal_means("f", at={"x": 3, "x2": 0})["estimate"].isna().all()


def test_a_model_without_fixed_terms_has_an_empty_anova(toy):
    fit = _fit("y ~ 0 + (1 | g)", toy)
    for type_ in (1, 2, 3):
        assert fit.anova(type_).empty
