"""More rows after the fit: a new group with data of its own, in closed form."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.bayes.coefficients import coefficient_priors
from bayeslmm.gaussian import single_threaded_blas, solve
from tests.conftest import correlation_matrix, dataset, quietly

FORMULA = "Reaction ~ Days + (Days | Subject)"
SUBJECTS = (308, 309, 310, 330, 331, 332, 333, 334)


def _reml(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", blm.ModelWarning)
        return model.reml()


@cache
def _data() -> tuple[pd.DataFrame, pd.DataFrame]:
    data = dataset("sleepstudy")
    data = data.assign(Subject=data["Subject"].astype(int))
    fitted = data[data["Subject"].isin(SUBJECTS)]
    new = data[(data["Subject"] == 337) & (data["Days"] < 5)]
    return fitted, new


@cache
def _posterior():
    return quietly(FORMULA, _data()[0]).fit(random_seed=5, progressbar=False)


@pytest.mark.parametrize(
    ("formula", "name", "column"),
    [
        (FORMULA, "sleepstudy", "Subject"),
        ("Reaction ~ Days + (Days || Subject)", "sleepstudy", "Subject"),
        ("score ~ Machine + (1 | Worker/Machine)", "machines", "Worker"),
        ("diameter ~ 1 + (1 | plate) + (1 | sample)", "penicillin", "plate"),
    ],
)
def test_reml_predictions_equal_a_fit_that_contained_the_group(formula, name, column):
    data = dataset(name)
    last = data[column].unique()[-2]  # not the last in order: levels are found by label
    without, new = data[data[column] != last], data[data[column] == last]
    fit = _reml(quietly(formula, without))
    whole = quietly(formula, data)
    expected = solve(whole.problem, fit.theta)
    table = fit.ranef(given=new)
    for block, b in zip(whole.design.blocks, expected.b, strict=True):
        ours = table[table["group"] == block.name].set_index(["level", "effect"])["estimate"]
        for j, level in enumerate(block.levels):
            for a, effect in enumerate(block.effects):
                assert ours[level, effect] == pytest.approx(b[j, a], abs=1e-6)
    population = fit.predict(new, given=new, random="population")["estimate"]
    rows = whole.design.evaluate(new).X
    np.testing.assert_allclose(population, rows @ expected.beta, rtol=1e-8)
    # and it is narrower than for a group of which nothing is known
    known = fit.predict(new, given=new)["se"]
    unknown = fit.predict(new, random="new")["se"]
    assert (known < unknown).all()


def _dense_moments(fit, design, Sigma, sigma):
    """E and Var of (beta, b of the last group) given theta: one normal distribution, whole."""
    X, block = design.X, design.blocks[0]
    A = np.linalg.inv(fit.priors.combinations())
    mean, sd = coefficient_priors(fit.model.design, fit.priors)
    m0, S0 = A @ mean, A @ np.diag(sd**2) @ A.T
    same = block.codes[:, None] == block.codes
    K = X @ S0 @ X.T + same * (block.Z @ Sigma @ block.Z.T) + sigma**2 * np.eye(len(X))
    last = block.codes == block.n_levels - 1
    cross = np.vstack([S0 @ X.T, Sigma @ (block.Z * last[:, None]).T])
    prior = np.block([[S0, np.zeros((2, 2))], [np.zeros((2, 2)), Sigma]])
    gain = np.linalg.solve(K, cross.T).T
    return np.concatenate([m0, [0, 0]]) + gain @ (design.y - X @ m0), prior - gain @ cross.T


def test_posterior_given_a_new_group_equals_the_dense_normal_distribution():
    fit, new = _posterior(), _data()[1]
    told = fit.condition_on(new, random_seed=1)
    assert told.conditioning.n_rows == 5
    post = told.posterior
    np.testing.assert_array_equal(post["sigma"], fit.posterior["sigma"])
    np.testing.assert_allclose(post["sd_Subject"], fit.posterior["sd_Subject"])
    draws = np.concatenate(
        [post["beta"].to_numpy(), post["b_Subject"].sel(Subject=337).to_numpy()], axis=-1
    ).reshape(-1, 4)
    sd, corr = post["sd_Subject"].to_numpy(), correlation_matrix(post["corr_Subject"])
    Sigmas = (corr * sd[..., :, None] * sd[..., None, :]).reshape(-1, 2, 2)
    sigma = post["sigma"].to_numpy().ravel()
    standardized = np.empty((1000, 4))
    with single_threaded_blas():
        for i in range(1000):
            at = 4 * i
            mean, covariance = _dense_moments(fit, told.model.design, Sigmas[at], sigma[at])
            L = np.linalg.cholesky(covariance)
            standardized[i] = np.linalg.solve(L, draws[at] - mean)
    # independent standard normals: 4 means, 10 second moments; 5.5 standard errors of each
    np.testing.assert_allclose(standardized.mean(axis=0), 0, atol=5.5 / np.sqrt(1000))
    second = standardized.T @ standardized / 1000
    np.testing.assert_allclose(second, np.eye(4), atol=5.5 * np.sqrt(2 / 1000))


def test_reweighted_draws_are_the_posterior_of_all_rows():
    fit, new = _posterior(), _data()[1]
    told = fit.condition_on(new, reweight=True, random_seed=2)
    assert told.conditioning.k_hat < 0.7
    full = told.model.fit(random_seed=6, progressbar=False)
    assert full.priors == fit.priors
    ours, theirs = told.summary(), full.summary()
    size = min(told.conditioning.effective_draws, 2000)
    gap = (ours["mean"] - theirs["mean"]) / theirs["sd"]
    # two means with at least `size` and 2,000 effective draws; 6 standard errors
    assert np.abs(gap).max() < 6 * np.sqrt(1 / size + 1 / 2000)
    np.testing.assert_allclose(ours["sd"], theirs["sd"], rtol=0.2)
    kept = fit.condition_on(new, random_seed=2)
    one, two = (f.predict(new)["mean"] for f in (kept, full))
    assert np.abs(one - two).max() < 3  # theta moved little: milliseconds, sd about 15


def test_predictions_given_rows_use_them():
    fit, new = _posterior(), _data()[1]
    later = pd.DataFrame({"Days": [9.0], "Subject": [337]})
    told = fit.predict(later, given=new, random_seed=3)
    unknown = fit.predict(later, random="new", random_seed=3)
    assert told["sd"].iloc[0] < 0.8 * unknown["sd"].iloc[0]
    again = fit.condition_on(new, random_seed=3).predict(later)
    pd.testing.assert_frame_equal(told, again)
    # more rows of a group that is known: its effects move toward them, nobody else's by much
    more = pd.DataFrame({"Days": [0.0, 9.0], "Subject": [308, 308], "Reaction": [400.0, 600.0]})
    moved = fit.condition_on(more, random_seed=3)
    assert moved.model.design.blocks[0].n_levels == 8
    at = pd.DataFrame({"Days": [9.0], "Subject": [308]})
    assert moved.predict(at)["mean"].iloc[0] > fit.predict(at)["mean"].iloc[0] + 5


def test_transforms_and_levels_stay_those_of_the_fit():
    fitted, new = _data()
    plain = _posterior()
    scaled = quietly("Reaction ~ scale(Days) + (1 | Subject)", fitted)
    fit = scaled.fit(draws=50, chains=2, random_seed=1, progressbar=False)
    told = fit.condition_on(new, random_seed=1)
    np.testing.assert_allclose(told.model.design.X[-5:], scaled.design.evaluate(new).X)
    assert told.model.priors.to_dict() == scaled.priors.to_dict()
    text = plain.condition_on(new.assign(Subject="new one"), random_seed=1)
    assert text.model.design.blocks[0].levels[-1] == "new one"
    later = pd.DataFrame({"Days": [7.0], "Subject": ["new one"]})
    assert np.isfinite(text.predict(later)["mean"].iloc[0])


def test_factors_keep_their_levels_and_can_be_predicted_from():
    data = dataset("machines").copy()
    data["kind"] = pd.Categorical(data["Machine"].astype("category").cat.codes + 1)
    fit = quietly("score ~ kind + (1 | Worker)", data).fit(
        method="importance", draws=100, random_seed=1, progressbar=False
    )
    new = data.head(4).assign(Worker="new")
    told = fit.condition_on(new, random_seed=1)
    assert told.model.design.columns["kind"].cat.categories.tolist() == [1, 2, 3]
    again = told.condition_on(data.tail(4).assign(Worker="other"), random_seed=2)
    for one in (told, again):
        later = pd.DataFrame({"kind": [1, 3], "Worker": ["new", "new"]})
        assert np.isfinite(one.predict(later)["mean"]).all()
    assert again.conditioning.n_rows == 8
    with pytest.raises(blm.SamplingError, match="at once"):
        told.condition_on(data.tail(4).assign(Worker="other"), reweight=True)
    means = again.marginal_means("kind")
    assert len(means) == 3


def test_weights_and_offsets_of_new_rows_count(toy):
    toy = toy.assign(w=1.0 + np.arange(96) % 3)
    fit = _reml(quietly("y ~ x + offset(z) + (1 | g)", toy, weights="w"))
    new = toy.iloc[:6].assign(g=99)
    whole = quietly("y ~ x + offset(z) + (1 | g)", pd.concat([toy, new]), weights="w")
    expected = solve(whole.problem, fit.theta).b[0][-1, 0]
    table = fit.ranef(given=new)
    assert table["estimate"].iloc[-1] == pytest.approx(expected, rel=1e-6)
    with pytest.raises(blm.DataError, match="column 'w'"):
        fit.predict(new, given=new.drop(columns="w"))
    with pytest.raises(blm.DataError, match="positive"):
        fit.predict(new, given=new.assign(w=-1.0))


def test_rows_that_cannot_be_used_are_refused():
    fit, new = _posterior(), _data()[1]
    for call in (fit.condition_on, lambda rows: fit.predict(rows, given=rows)):
        with pytest.raises(blm.FormulaError, match="'Reaction'"):
            call(new.drop(columns="Reaction"))
        with pytest.raises(blm.FormulaError, match="'Days'"):
            call(new.drop(columns="Days"))
        with pytest.raises(blm.DataError, match="missing"):
            call(new.assign(Reaction=np.nan))
        with pytest.raises(blm.DataError, match="missing"):
            call(new.assign(Days=np.nan))
        with pytest.raises(blm.DataError, match="missing"):
            call(new.assign(Subject=None))
    machines = dataset("machines")
    reml = _reml(quietly("score ~ Machine + (1 | Worker)", machines))
    with pytest.raises(blm.DataError, match="'Z'"):
        reml.predict(given=machines.head(2).assign(Machine="Z"))
    scaled = _reml(quietly("scale(Reaction) ~ Days + (1 | Subject)", _data()[0]))
    with pytest.raises(blm.FormulaError, match=r"scale\(\)"):
        scaled.predict(new, given=new)
    odd = fit.priors.copy()
    odd["Days"] = blm.Prior("StudentT", nu=3, mu=0, sigma=1)
    with pytest.raises(blm.SamplingError, match="closed form"):
        blm.PosteriorFit(fit.model, odd, fit.idata, fit.info).condition_on(new)


def test_a_fit_with_old_variance_parameters_is_not_compared_or_saved(tmp_path):
    fit, new = _posterior(), _data()[1]
    told = fit.condition_on(new, random_seed=1)
    with pytest.raises(blm.SamplingError, match="reweight=True"):
        told.loo()
    with pytest.raises(blm.FileFormatError, match="condition again"):
        told.save(tmp_path / "fit.nc")
    assert "5 rows added" in repr(told)
    for slope, match in ((50, "effective draws"), (500, "k-hat"), (5000, "k-hat nan")):
        far = new.assign(Reaction=new["Reaction"] + slope * (new["Days"] - 2))
        with pytest.warns(blm.SamplingWarning, match=match):
            fit.condition_on(far, reweight=True, random_seed=1)


def test_the_same_seed_gives_the_same_draws():
    fit, new = _posterior(), _data()[1]
    one, two = (fit.condition_on(new, reweight=True, random_seed=9) for _ in range(2))
    np.testing.assert_array_equal(one.posterior["b_Subject"], two.posterior["b_Subject"])
    other = fit.condition_on(new, random_seed=8).posterior["b_Subject"]
    assert not np.array_equal(one.posterior["b_Subject"], other)


def test_a_model_beyond_the_derivation_is_refused():
    fit, new = _posterior(), _data()[1]
    for name, value in (("family", "student"), ("random", "student")):
        model = fit.model.with_design(fit.model.design)
        setattr(model, name, value)
        other = blm.PosteriorFit(model, fit.priors, fit.idata, fit.info)
        with pytest.raises(blm.DataError, match="Student-t"):
            other.loo_pit()
        tails = blm.LMM(model.design.formula.text, _data()[0], **{name: value})
        told = blm.PosteriorFit(tails, tails.priors, fit.idata, fit.info)
        with pytest.raises(blm.SamplingError, match="Student-t"):
            told.condition_on(new)
