"""Pictures of predictions, comparisons and slopes show the numbers of the tables."""

from __future__ import annotations

from functools import cache

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex

import bayeslmm as blm
from bayeslmm.plots.style import CYCLE, GROUP
from tests.conftest import dataset
from tests.plots.test_plots import FITS, INTERCEPT, SLOPES, colored, drawn, either, middle

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@cache
def contraception() -> blm.LikelihoodFit:
    data = dataset("contraception").iloc[::6]
    return blm.MixedModel("use ~ age * urban + (1 | district)", data, family="bernoulli").ml()


def ends(ax, color: str = GROUP, upright: bool = True) -> np.ndarray:
    """Lower and upper ends of the intervals of a color, shape (n, 2)."""
    (lines,) = [
        c
        for c in ax.collections
        if isinstance(c, LineCollection) and to_hex(c.get_color()[0]) == to_hex(color)
    ]
    return np.array([segment[:, int(upright)] for segment in lines.get_segments()])


@either
def test_predictions_over_a_number_are_a_line_with_a_band(kind):
    fit = FITS[kind](*SLOPES)
    ax = fit.plot_predictions("Days", level=0.8)
    drawn(ax)
    (line,) = colored(ax, GROUP)
    np.testing.assert_allclose(line.get_xdata(), np.linspace(0, 9, 50))
    table = fit.predictions(by="Days", at={"Days": line.get_xdata()}, weights="equal", level=0.8)
    np.testing.assert_allclose(line.get_ydata(), middle(table))
    (band,) = ax.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (table["lower"].min(), table["upper"].max())
    assert ax.get_title("left") == "average group; 80 % intervals"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Days", "mean of Reaction")


@either
def test_predictions_of_levels_are_points_with_intervals(kind):
    fit = FITS[kind](*INTERCEPT)
    ax = fit.plot_predictions("Machine")
    drawn(ax)
    table = fit.predictions(by="Machine", weights="equal")
    np.testing.assert_allclose(colored(ax, GROUP)[0].get_ydata(), middle(table))
    np.testing.assert_allclose(ends(ax), table[["lower", "upper"]])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["A", "B", "C"]


@either
def test_slopes_of_groups_are_sorted(kind):
    fit = FITS[kind](*SLOPES)
    ax = fit.plot_slopes("Days", by="Subject", groups=9)
    drawn(ax)
    table = fit.slopes("Days", by="Subject")
    table = table.set_index("Subject").loc[[t.get_text() for t in ax.get_yticklabels()]]
    assert len(table) == 9
    assert middle(table).is_monotonic_increasing
    np.testing.assert_allclose(colored(ax, GROUP)[0].get_xdata(), middle(table))
    np.testing.assert_allclose(ends(ax, upright=False), table[["lower", "upper"]])
    note = ax.get_title("left").replace("\n", " ")
    assert "9 of 18 levels" in note
    assert "own effects" in note


@either
@pytest.mark.parametrize("measure", ["difference", "ratio"])
def test_comparisons_are_one_below_the_other_beside_no_effect(kind, measure):
    fit = FITS[kind](*INTERCEPT)
    ax = fit.plot_comparisons(method="pairwise", measure=measure)
    drawn(ax)
    table = fit.comparisons(method="pairwise", measure=measure)
    ratio = measure == "ratio"
    center = table["median"] if "median" in table else middle(table)
    np.testing.assert_allclose(colored(ax, GROUP)[0].get_xdata(), center)
    np.testing.assert_allclose(ends(ax, upright=False), table[["lower", "upper"]])
    assert [label.get_text() for label in ax.get_yticklabels()] == table["contrast"].tolist()
    assert ax.lines[0].get_xdata() == [float(ratio)] * 2
    assert ax.get_xscale() == ("log" if ratio else "linear")


def test_odds_ratios_by_a_factor_are_on_a_logarithmic_axis():
    fit = contraception()
    ax = fit.plot_comparisons({"age": (-5, 5)}, by="urban", measure="odds_ratio")
    table = fit.comparisons({"age": (-5, 5)}, by="urban", measure="odds_ratio")
    np.testing.assert_allclose(ends(ax), table[["lower", "upper"]])
    assert ax.get_yscale() == "log"
    assert ax.get_ylabel() == "odds ratio, probability of use:\nage 5 - -5"


def test_a_comparison_over_a_number_is_a_line_on_the_balanced_grid():
    fit = contraception()
    ax = fit.plot_comparisons("urban", by="age")
    drawn(ax)
    (line,) = colored(ax, GROUP)
    ages = line.get_xdata()
    table = fit.comparisons("urban", by="age", at={"age": ages}, weights="equal")
    np.testing.assert_allclose(line.get_ydata(), table["estimate"])
    age = dataset("contraception")["age"].iloc[::6]
    assert (ages[0], ages[-1], len(ages)) == (age.min(), age.max(), 50)
    assert ax.get_title("left") == "average group; 95 % intervals"  # urban is compared


def test_first_other_column_is_colors_and_the_next_panels():
    fit = contraception()
    at = {"age": [-10, 0, 10]}
    ax = fit.plot_predictions("urban", by="age", at=at)
    table = fit.predictions(by=["urban", "age"], at=at, weights="equal")
    for color, age in zip(CYCLE, at["age"], strict=False):
        mine = table[table["age"] == age]
        np.testing.assert_allclose(ends(ax, color), mine[["lower", "upper"]])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["-10", "0", "10"]
    wine = blm.MixedModel(
        "rating ~ temp + contact + (1 | judge)", dataset("wine"), family="ordinal"
    )
    fit = wine.ml()
    panels = fit.plot_predictions("temp", by="contact")
    drawn(panels[0])
    assert [panel.get_title() for panel in panels] == ["no", "yes"]  # categories are colors
    table = fit.predictions(by=["temp", "contact"], weights="equal").query(
        "contact == 'yes' and category == '2'"
    )
    np.testing.assert_allclose(ends(panels[1], CYCLE[1]), table[["lower", "upper"]])


def test_lines_of_groups_have_a_panel_each():
    fit = FITS["reml"](*SLOPES)
    panels = fit.plot_predictions("Days", by="Subject", at={"Days": [0, 9]})
    table = fit.predictions(by="Subject", at={"Days": [0, 9]})
    for panel, (_, rows) in zip(panels, table.groupby("Subject", sort=False), strict=True):
        np.testing.assert_allclose(panel.lines[0].get_ydata(), rows["estimate"])


def test_what_cannot_be_drawn_is_refused_by_name():
    fit = FITS["reml"](*SLOPES)
    with pytest.raises(blm.PlotError, match="no column 'Day'.*Did you mean 'Days'"):
        fit.plot_predictions("Day")
    with pytest.raises(blm.PlotError, match="panel for each Subject: leave ax out"):
        fit.plot_predictions("Days", by="Subject", ax=plt.subplots()[1])
    data = dataset("contraception").iloc[::6]
    many = blm.MixedModel("use ~ age + (1 | district)", data, family="bernoulli").ml()
    with pytest.raises(blm.PlotError, match="would make .* panels; 20 are the most"):
        many.plot_predictions("age", by="district", kind="link")
    with pytest.raises(blm.PlotError, match="at least 2"):
        fit.plot_slopes("Days", by="Subject", groups=1)
    random_only = blm.LMM("Reaction ~ 1 + (Days | Subject)", dataset("sleepstudy")).reml()
    with pytest.raises(ValueError, match="'Days' is not a column of the fixed part"):
        random_only.plot_comparisons({"Days": 1}, weights="equal")
    renamed = dataset("machines").rename(columns={"Machine": "mean"})
    clash = blm.LMM("score ~ mean + (1 | Worker)", renamed).reml()
    with pytest.raises(blm.PlotError, match="mean is a column of the table"):
        clash.plot_predictions("mean")
