"""The picture of groups, the average group and the population."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.plots.style import ALONE, GROUP, POPULATION


@pytest.fixture(scope="module")
def fits():
    data = blm.load_dataset("contraception").iloc[::3]
    model = blm.MixedModel("use ~ age + (1 | district)", data, family="bernoulli")
    return {"ml": model.ml(), "posterior": model.fit(draws=100, random_seed=1, progressbar=False)}


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def of_color(ax, color: str) -> list:
    return [line for line in ax.lines if line.get_color() == color]


@pytest.mark.parametrize("kind", ["ml", "posterior"])
def test_every_group_and_both_means_are_drawn(fits, kind):
    fit = fits[kind]
    ax = fit.plot_average_effects("age")
    ax.get_figure().canvas.draw()
    assert len(of_color(ax, GROUP)) == fit.model.design.blocks[0].n_levels
    (average,), (population,) = of_color(ax, POPULATION), of_color(ax, ALONE)
    table = fit.average_effects(newdata=pd.DataFrame({"age": average.get_xdata()}))
    np.testing.assert_allclose(average.get_ydata(), table["average_group"])
    np.testing.assert_allclose(population.get_ydata(), table["population_average"])
    assert ax.get_ylabel() == "probability of use"


def test_a_group_s_curve_is_its_prediction(fits):
    fit = fits["ml"]
    level = fit.design.blocks[0].levels[4]
    ax = fit.plot_average_effects("age", groups=[level])
    (line,) = of_color(ax, GROUP)
    rows = pd.DataFrame({"age": line.get_xdata(), "district": level})
    np.testing.assert_allclose(line.get_ydata(), fit.predict(rows)["estimate"], rtol=1e-10)


def test_a_category_s_probability_is_drawn():
    wine = blm.load_dataset("wine")
    fit = blm.MixedModel("rating ~ temp + (1 | judge)", wine, family="ordinal").ml()
    ax = fit.plot_average_effects("temp", category="2")
    table = fit.average_effects("temp").query("category == '2'")
    np.testing.assert_allclose(
        of_color(ax, ALONE)[0].get_ydata(), table["population_average"], rtol=1e-10
    )
    assert ax.get_ylabel() == "probability of rating = 2"
    with pytest.raises(blm.PlotError, match="category 'good'"):
        fit.plot_average_effects("temp", category="good")
