"""A posterior by NUTS: right numbers, right shape, repeatable, saved and loaded whole."""

from __future__ import annotations

import json

import arviz as az
import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import bayeslmm as blm
from tests.conftest import dataset, quietly, sleepstudy_fit

# rstanarm 4 x 1000 draws on the same model (its priors are on the same scale); posterior sd
# of each, so that a bound can be put in standard errors.
STAN = {"Intercept": (251.7, 7.4), "Days": (10.5, 1.7), "sigma": (25.9, 1.6)}


def test_posterior_of_sleepstudy_is_that_of_stan(sleepstudy_posterior):
    table = sleepstudy_posterior.summary()
    for name, (mean, sd) in STAN.items():
        # 5 Monte Carlo standard errors of ours and of theirs (about 1500 effective draws
        # each), and the last digit of the published mean
        tolerance = 5 * np.hypot(sd / np.sqrt(table.loc[name, "ess_bulk"]), sd / np.sqrt(1500))
        assert table.loc[name, "mean"] == pytest.approx(mean, abs=tolerance + 0.05)


def test_sampling_of_sleepstudy_converges(sleepstudy_posterior):
    table = sleepstudy_posterior.summary()
    # 600 effective draws in 4 chains: r-hat - 1 is about 0.005, and above 0.05 once in a million
    assert (table["r_hat"] < 1.05).all()
    assert int(sleepstudy_posterior.idata["sample_stats"]["diverging"].sum()) == 0
    # the remark on r-hat begins at 1.01, which one chain in ten of this length exceeds
    assert all("r-hat" in problem for problem in sleepstudy_posterior.info.problems)


def test_tables_have_the_documented_names(sleepstudy_posterior):
    columns = ["mean", "sd", "lower", "upper", "ess_bulk", "ess_tail", "r_hat"]
    assert sleepstudy_posterior.fixef().index.tolist() == ["Intercept", "Days"]
    assert sleepstudy_posterior.varcomp().index.tolist() == [
        "sd(Intercept | Subject)",
        "sd(Days | Subject)",
        "corr(Intercept, Days | Subject)",
        "sigma",
    ]
    assert sleepstudy_posterior.summary().columns.tolist() == columns
    ranef = sleepstudy_posterior.ranef()
    assert ranef.columns.tolist() == ["group", "level", "effect", *columns]
    assert len(ranef) == 36
    assert ranef["level"].iloc[0] == "308"


def test_coef_is_fixed_plus_random(sleepstudy_posterior):
    key = ["level", "effect"]
    fixed = sleepstudy_posterior.fixef()["mean"]
    ranef = sleepstudy_posterior.ranef().set_index(key)["mean"]
    coef = sleepstudy_posterior.coef().set_index(key)["mean"]
    for level, effect in coef.index:
        assert coef[(level, effect)] == pytest.approx(fixed[effect] + ranef[(level, effect)])


def test_intervals_are_quantiles_and_follow_their_level(sleepstudy_posterior):
    draws = sleepstudy_posterior.posterior["beta"].sel(coef="Days").to_numpy().ravel()
    row = sleepstudy_posterior.fixef(level=0.8).loc["Days"]
    np.testing.assert_allclose([row["lower"], row["upper"]], np.quantile(draws, [0.1, 0.9]))
    hdi = sleepstudy_posterior.fixef(level=0.8, interval="hdi").loc["Days"]
    assert hdi["upper"] - hdi["lower"] <= row["upper"] - row["lower"]
    assert np.mean((draws >= hdi["lower"]) & (draws <= hdi["upper"])) == pytest.approx(
        0.8, abs=0.01
    )


@pytest.mark.parametrize("options", [{"level": 95}, {"level": 0}, {"interval": "wide"}])
def test_a_wrong_level_or_interval_is_refused(sleepstudy_posterior, options):
    for table in ("summary", "fixef", "varcomp", "ranef", "coef"):
        with pytest.raises(ValueError, match="level|interval"):
            getattr(sleepstudy_posterior, table)(**options)


def test_an_unknown_grouping_factor_lists_those_there_are(sleepstudy_posterior):
    with pytest.raises(KeyError, match="Subject"):
        sleepstudy_posterior.ranef("subject")


def test_arviz_takes_the_tree_as_it_is(sleepstudy_posterior):
    tree = sleepstudy_posterior.idata
    summary = az.summary(tree, var_names=["beta", "sigma", "sd_Subject"])
    assert "beta[Days]" in summary.index
    loo = az.loo(tree)
    assert loo.n_data_points == 180
    assert -875 < loo.elpd < -845
    for group in ("posterior", "sample_stats", "observed_data", "constant_data"):
        assert group in tree.children


def test_log_likelihood_is_the_normal_density_at_each_draw(sleepstudy_posterior):
    post, design = sleepstudy_posterior.posterior, sleepstudy_posterior.model.design
    at = {"chain": 2, "draw": 17}
    beta, b = post["beta"].isel(at).to_numpy(), post["b_Subject"].isel(at).to_numpy()
    sigma = float(post["sigma"].isel(at))
    block = design.blocks[0]
    mean = design.X @ beta + (block.Z * b[block.codes]).sum(axis=1)
    expected = -0.5 * ((design.y - mean) / sigma) ** 2 - np.log(sigma * np.sqrt(2 * np.pi))
    stored = sleepstudy_posterior.idata["log_likelihood"]["Reaction"].isel(at)
    np.testing.assert_allclose(stored, expected, rtol=1e-12)


def test_posterior_predictive_has_the_mean_and_spread_of_the_model(sleepstudy_posterior):
    tree = sleepstudy_posterior.posterior_predictive(random_seed=4)
    draws = tree["posterior_predictive"]["Reaction"]
    assert draws.dims == ("chain", "draw", "obs")
    again = sleepstudy_posterior.posterior_predictive(random_seed=4)
    xr.testing.assert_identical(draws, again["posterior_predictive"]["Reaction"])
    sigma = sleepstudy_posterior.varcomp().loc["sigma", "mean"]
    fitted = sleepstudy_posterior.coef().set_index(["level", "effect"])["mean"]
    first = fitted[("308", "Intercept")] + 3 * fitted[("308", "Days")]
    values = draws.isel(obs=3).to_numpy()
    assert values.mean() == pytest.approx(first, abs=6 * values.std() / np.sqrt(1000))
    assert sigma < values.std() < 1.5 * sigma
    few = sleepstudy_posterior.posterior_predictive(draws=10, random_seed=4)
    assert few["posterior_predictive"].sizes["draw"] == 10
    with pytest.raises(ValueError, match="draws must be between"):
        sleepstudy_posterior.posterior_predictive(draws=100_000)


def _small(**options):
    model = quietly("Yield ~ 1 + (1 | Batch)", dataset("dyestuff"))
    arguments = {"draws": 100, "tune": 150, "chains": 2, "progressbar": False, "random_seed": 7}
    with pytest.warns() as caught:
        fit = model.fit(**{**arguments, **options})
    return fit, caught


def test_the_same_seed_gives_the_same_draws_and_another_does_not():
    one, _ = _small()
    two, _ = _small()
    other, _ = _small(random_seed=8)
    xr.testing.assert_identical(one.posterior["beta"], two.posterior["beta"])
    assert not np.array_equal(one.posterior["beta"], other.posterior["beta"])


def test_few_draws_are_warned_about_with_what_to_do():
    fit, caught = _small()
    messages = [str(w.message) for w in caught if w.category is blm.SamplingWarning]
    assert any("effective sample size" in m and "more draws" in m for m in messages)
    assert all(message in repr(fit) for message in messages)


def test_divergences_are_warned_about_with_what_to_do():
    _, caught = _small(parameterization="centered", target_accept=0.2, draws=400)
    messages = [str(w.message) for w in caught if w.category is blm.SamplingWarning]
    assert any("divergent" in m and "target_accept" in m and "noncentered" in m for m in messages)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"draws": 0}, blm.SamplingError),
        ({"tune": 0}, blm.SamplingError),
        ({"chains": 2.5}, blm.SamplingError),
        ({"random_seed": "x"}, blm.SamplingError),
        ({"random_seed": -1}, blm.SamplingError),
        ({"method": "magic"}, ValueError),
        ({"parameterization": "magic"}, ValueError),
        ({"no_such_option": 1}, blm.SamplingError),
    ],
)
def test_a_wrong_sampler_argument_is_refused(options, error):
    model = quietly("Yield ~ 1 + (1 | Batch)", dataset("dyestuff"))
    with pytest.raises(error):
        model.fit(progressbar=False, **options)


def test_saving_and_loading_gives_back_fit_and_model(tmp_path):
    fit = sleepstudy_fit()
    path = tmp_path / "fit.nc"
    fit.save(path)
    back = blm.load(path)
    pd.testing.assert_frame_equal(back.summary(), fit.summary())
    pd.testing.assert_frame_equal(back.ranef(), fit.ranef())
    assert back.info == fit.info
    assert repr(back.priors) == repr(fit.priors)
    assert repr(back.model) == repr(fit.model)
    np.testing.assert_array_equal(back.model.design.X, fit.model.design.X)
    new = dataset("sleepstudy").iloc[[5, 50]]
    np.testing.assert_array_equal(
        back.model.design.evaluate(new).X, fit.model.design.evaluate(new).X
    )
    assert az.loo(back.idata).elpd == pytest.approx(az.loo(fit.idata).elpd)


def test_everything_about_a_model_survives_a_file(tmp_path, toy):
    toy["w"] = np.linspace(1, 2, len(toy))
    toy["f"] = pd.Categorical(toy["f"], categories=["c", "b", "a"])
    toy["k"] = toy["x"] > 0
    toy.index = [f"row {i}" for i in range(len(toy))]
    toy.loc["row 4", "x"] = np.nan
    model = quietly(
        "y ~ scale(x) * f + offset(z) + (x || g) + (1 | h:item) + (1 | k)",
        toy,
        weights="w",
        priors={"sd": blm.Prior("Exponential", lam=1.0)},
    )
    with pytest.warns(blm.SamplingWarning):
        fit = model.fit(draws=20, tune=50, chains=2, random_seed=1, progressbar=False)
    fit.save(tmp_path / "a.nc")
    back = blm.load(tmp_path / "a.nc")
    a, b = fit.model.design, back.model.design
    for name in ("X", "y", "offset", "weights", "rows"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for one, two in zip(a.blocks, b.blocks, strict=True):
        assert one.levels == two.levels
        assert one.pattern == two.pattern
        np.testing.assert_array_equal(one.Z, two.Z)
        np.testing.assert_array_equal(one.codes, two.codes)
    assert a.index.tolist() == b.index.tolist()
    assert repr(fit.model) == repr(back.model)
    assert back.model.priors["sd(x | g)"] == blm.Prior("Exponential", lam=1.0)
    xr.testing.assert_equal(fit.posterior, back.posterior)


def _rewrite_formula(path, formula):
    with xr.open_datatree(path, engine="h5netcdf") as file:
        tree = file.load()
    record = json.loads(str(tree["bayeslmm"]["record"].to_numpy()))
    record["formula"] = formula
    del record["sealed"]  # as an early version would have written it
    group = tree["bayeslmm"].to_dataset().assign(record=json.dumps(record))
    tree["bayeslmm"] = xr.DataTree(group)
    tree.to_netcdf(path, engine="h5netcdf")


@pytest.mark.parametrize(
    "formula",
    [
        "Yield ~ np.f2py.os.system('touch {path}') + (1 | Batch)",
        "Yield ~ I(os.system('touch {path}')) + (1 | Batch)",
        "Yield ~ 1 + (np.f2py.os.system('touch {path}') | Batch)",
        "secret(Yield) ~ 1 + (1 | Batch)",
    ],
)
def test_a_formula_in_a_file_cannot_run_code(tmp_path, formula):
    fit, _ = _small()
    path, proof = tmp_path / "fit.nc", tmp_path / "hacked"
    fit.save(path)
    _rewrite_formula(path, formula.format(path=proof))

    def secret(values):
        proof.touch()
        return values

    assert secret is not None
    with pytest.raises(blm.FileFormatError, match="calls|may call|function"):
        blm.load(path)
    assert not proof.exists()


@pytest.mark.parametrize(
    "formula",
    [
        "Yield ~ I(Batch + 2**(2**(2**6))) + (1 | Batch)",
        "Yield ~ bs(Yield, df=1000000) + (1 | Batch)",
        f"Yield ~ {'(' * 3000}1{')' * 3000} + (1 | Batch)",
        f"Yield ~ 1 + (1 | {'*'.join(f'Batch{i}' for i in range(30))})",
        "Yield ~ ² + (1 | Batch)",
    ],
    ids=["power", "spline", "brackets", "factors", "digit"],
)
def test_a_formula_in_a_file_cannot_run_without_end(tmp_path, formula):
    fit, _ = _small()
    path = tmp_path / "fit.nc"
    fit.save(path)
    _rewrite_formula(path, formula)
    with pytest.raises(blm.BayesLMMError):
        blm.load(path)


def test_a_model_with_a_users_function_loads_only_with_it(tmp_path):
    namespace = {"halved": lambda values: values / 2}
    model = quietly("halved(Yield) ~ 1 + (1 | Batch)", dataset("dyestuff"), namespace=namespace)
    with pytest.warns(blm.SamplingWarning):
        fit = model.fit(draws=20, tune=50, chains=2, random_seed=1, progressbar=False)
    fit.save(tmp_path / "a.nc")
    with pytest.raises(blm.FileFormatError, match="halved"):
        blm.load(tmp_path / "a.nc")
    back = blm.load(tmp_path / "a.nc", namespace=namespace)
    np.testing.assert_array_equal(back.model.design.y, model.design.y)


def test_what_is_not_a_saved_fit_is_refused(tmp_path):
    with pytest.raises(blm.FileFormatError, match="no file"):
        blm.load(tmp_path / "nothing.nc")
    (tmp_path / "text.nc").write_text("not a file of ours")
    with pytest.raises(blm.FileFormatError, match="not a fit saved by bayeslmm"):
        blm.load(tmp_path / "text.nc")
    with h5py.File(tmp_path / "other.nc", "w") as file:
        file["x"] = np.arange(3)
    with pytest.raises(blm.FileFormatError, match="not a fit saved by bayeslmm"):
        blm.load(tmp_path / "other.nc")
    fit, _ = _small()
    with pytest.raises(blm.FileFormatError, match="Cannot write"):
        fit.save(tmp_path / "no" / "such" / "folder.nc")


def test_prior_predictive_draws_from_the_priors(toy):
    model = blm.LMM(
        "y ~ x + (1 | g)",
        toy,
        priors={
            "Intercept": blm.Prior("Normal", mu=50, sigma=0.01),
            "x": blm.Prior("Normal", mu=3, sigma=0.01),
            "sd": blm.Prior("HalfNormal", sigma=0.01),
            "sigma": blm.Prior("HalfNormal", sigma=0.01),
        },
    )
    tree = model.prior_predictive(draws=50, random_seed=1)
    values = tree["prior_predictive"]["y"].to_numpy()
    expected = 50 + 3 * (toy["x"] - toy["x"].mean())
    np.testing.assert_allclose(values.mean(axis=(0, 1)), expected, atol=0.1)
    model.priors["x"] = blm.Prior("Flat")
    with pytest.raises(blm.PriorError, match="flat prior of x"):
        model.prior_predictive()


def test_a_model_without_random_terms_is_least_squares_with_priors():
    data = dataset("sleepstudy")
    model = blm.LMM("Reaction ~ Days", data)
    fit = model.fit(draws=500, tune=500, chains=2, random_seed=1, progressbar=False)
    slope, intercept = np.polyfit(data["Days"], data["Reaction"], 1)
    table = fit.fixef()
    error = table["sd"] / np.sqrt(table["ess_bulk"])
    assert abs(table.loc["Days", "mean"] - slope) < 6 * error["Days"] + 0.01
    assert abs(table.loc["Intercept", "mean"] - intercept) < 6 * error["Intercept"] + 0.1
    assert fit.ranef().empty
