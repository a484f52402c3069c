"""Checks of responses that are not Gaussian."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

import bayeslmm as blm
from bayeslmm.errors import DataError, PlotError
from bayeslmm.parts.families import family_of
from bayeslmm.results.response_checks import (
    binned_residuals,
    category_counts,
    quantile_residuals,
    rootogram,
)


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(2)
    data = pd.DataFrame({"g": np.repeat(np.arange(20), 10)})
    data["y"] = rng.poisson(np.exp(0.5 + rng.normal(0, 0.5, 20)[data.g]))
    model = blm.MixedModel("y ~ 1 + (1 | g)", data, family="poisson")
    return model.fit(draws=250, random_seed=1, progressbar=False)


@pytest.fixture(scope="module")
def shares():
    model = blm.MixedModel(
        "incidence of size ~ period + (1 | herd)", blm.load_dataset("cbpp"), family="binomial"
    )
    return model.fit(draws=500, random_seed=1, progressbar=False)


def test_a_rootogram_counts_rows_and_replicates():
    y = np.array([0, 0, 1, 3])
    replicated = np.array([[0, 1, 1, 2], [0, 0, 0, 0], [2, 2, 1, 0]])
    table = rootogram(y, replicated)
    assert table["first"].tolist() == table["last"].tolist() == [0, 1, 2, 3]
    assert table["observed"].tolist() == [2, 1, 0, 1]
    np.testing.assert_allclose(table["expected"], [2.0, 1.0, 1.0, 0.0])
    np.testing.assert_allclose(
        table["lower"], np.quantile([[1, 2, 1, 0], [4, 0, 0, 0], [1, 1, 2, 0]], 0.025, axis=0)
    )


def test_a_rootogram_of_large_counts_has_few_bars_and_every_row():
    rng = np.random.default_rng(1)
    y, replicated = rng.poisson(150, 300), rng.poisson(150, (50, 300))
    table = rootogram(y, replicated)
    assert len(table) <= 41
    assert table["observed"].sum() == 300
    assert table["expected"].sum() == pytest.approx(300)
    inside = (y >= table["first"][20]) & (y <= table["last"][20])
    assert table["observed"][20] == inside.sum()


def test_categories_are_counted():
    data = blm.load_dataset("wine")
    design = blm.MixedModel("rating ~ temp + (1 | judge)", data, family="ordinal").design
    table = category_counts(design, np.tile(design.y, (3, 1)))
    expected = data["rating"].value_counts().sort_index().tolist()
    for column in ("observed", "expected", "lower", "upper"):
        assert table[column].tolist() == expected


def test_binned_residuals_are_means_per_trial(shares):
    design = shares.model.design
    mean = np.linspace(0.05, 0.4, design.n_rows)
    table = binned_residuals(design, mean, np.tile(design.y, (3, 1)), bins=4)
    first = slice(0, 14)
    expected = (design.y - design.trials * mean)[first].sum() / design.trials[first].sum()
    assert table["residual"][0] == pytest.approx(expected)
    assert table["lower"][0] == pytest.approx(expected)
    assert table["n"].sum() == design.n_rows


@pytest.mark.parametrize(
    ("name", "phi"),
    [
        ("bernoulli", {}),
        ("binomial", {}),
        ("poisson", {}),
        ("negativebinomial", {"alpha": 1.5}),
        ("gamma", {"alpha": 2.0}),
        ("beta", {"kappa": 5.0}),
        ("lognormal", {"sigma": 0.7}),
        ("zero_inflated_poisson", {"zi": 0.3}),
    ],
)
def test_quantile_residuals_of_the_true_model_are_standard_normal(name, phi):
    """At the parameters that made the data; a right program fails once in a million seeds."""
    rng = np.random.default_rng(7)
    n = 2000
    data = pd.DataFrame({"x": rng.normal(size=n), "size": 6})
    family = family_of(name)
    eta = -0.3 + 0.8 * data["x"].to_numpy()
    data["y"] = family.draw(
        rng, eta, np.array(list(phi.values())), 6.0 if name == "binomial" else 1.0
    )
    left = "y of size" if name == "binomial" else "y"
    model = blm.MixedModel(f"{left} ~ x", data, family=name)
    variables = {"beta": (("chain", "draw", "coef"), [[[-0.3, 0.8]]])}
    variables |= {key: (("chain", "draw"), [[value]]) for key, value in phi.items()}

    class Truth:
        conditioning = None
        names = model.names
        posterior = xr.Dataset(variables)

    Truth.model = model
    residuals = quantile_residuals(Truth(), random_seed=3)
    assert stats.kstest(residuals, "norm").pvalue > 1e-6
    # and of a wrong one they are not
    Truth.posterior = Truth.posterior.assign(beta=Truth.posterior["beta"] + 0.5)
    assert stats.kstest(quantile_residuals(Truth(), random_seed=3), "norm").pvalue < 1e-6


def test_quantile_residuals_are_refused_where_the_response_is_gaussian():
    fit = blm.LMM("Yield ~ 1 + (1 | Batch)", blm.load_dataset("dyestuff"))
    with pytest.raises(DataError, match="Gaussian"):
        fit.fit(method="importance", random_seed=1, progressbar=False).quantile_residuals()


def test_statistics_suit_counts(counts):
    table = counts.predictive_check(random_seed=1)
    y = counts.model.design.y
    assert table.loc["share of zeros", "observed"] == np.mean(y == 0)
    assert table.loc["variance / mean", "observed"] == pytest.approx(y.var(ddof=1) / y.mean())
    assert table["p"].between(0.001, 0.999).all()


def test_statistics_suit_counts_of_trials(shares):
    table = shares.predictive_check(random_seed=1)
    data = shares.model.design
    assert table.loc["share", "observed"] == pytest.approx(data.y.sum() / data.trials.sum())
    herd = pd.Series(data.y).groupby(data.blocks[0].codes).sum()
    size = pd.Series(data.trials).groupby(data.blocks[0].codes).sum()
    assert table.loc["sd of shares | herd", "observed"] == pytest.approx((herd / size).std())


def test_each_family_has_its_picture(counts, shares):
    labels = [fit.plot_ppc(random_seed=1)[0].get_ylabel() for fit in (counts, shares)]
    assert labels == ["root of frequency", "mean residual"]
    for fit in (counts, shares):
        assert fit.plot_ppc("quantile")[0].get_ylabel() == "quantile residual"
        assert fit.plot_residuals()[1].get_ylabel() == "quantile residual"
        assert fit.model.ml().plot_residuals()[1].get_ylabel() == "quantile residual"
        assert len(fit.plot_loo_pit(random_seed=1)) == 1
    with pytest.raises(PlotError, match="is for categories"):
        counts.plot_ppc("bars")
    with pytest.raises(PlotError, match='by= goes with kind="dist"'):
        counts.plot_ppc("rootogram", by="g")
    plt.close("all")


def test_bars_of_a_rootogram_hang_from_what_is_expected(counts):
    ax = counts.plot_ppc(random_seed=1)[0]
    tops = [patch.get_y() for patch in ax.patches]
    line = ax.lines[0].get_ydata()
    np.testing.assert_allclose(tops, line)
    heights = np.array([patch.get_height() for patch in ax.patches])
    assert np.sum(heights**2) == pytest.approx(counts.model.design.n_rows)
    plt.close("all")


def test_a_rootogram_has_room_around_bars_band_and_marks(counts):
    ax = counts.plot_ppc("rootogram", random_seed=1)[0]
    ax.figure.canvas.draw()
    frame = ax.get_window_extent()
    band, line = ax.collections[0], ax.lines[0]
    drawn = [patch.get_window_extent() for patch in ax.patches] + [band.get_window_extent()]
    drawn.append(line.get_window_extent().padded(line.get_markersize()))
    for box in drawn:
        assert frame.y0 < box.y0 <= box.y1 < frame.y1
    plt.close("all")
