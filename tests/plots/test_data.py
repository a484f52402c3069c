"""Pictures of the data whose response is not a number on a line."""

from __future__ import annotations

from functools import cache

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import pytest

import bayeslmm as blm


@cache
def model_of(name: str, formula: str, family: str):
    return blm.MixedModel(formula, blm.load_dataset(name), family=family)


def test_yes_or_no_over_a_number_is_drawn_as_shares_in_bins_of_about_as_many_rows():
    model = model_of("contraception", "use ~ age + urban + (1 | district)", "bernoulli")
    ax = model.plot_data()
    ax.get_figure().canvas.draw()
    assert ax.get_title(loc="left") == "shares in 6 bins of age"
    data = blm.load_dataset("contraception")
    *groups, everybody = ax.lines
    assert len(groups) == data["district"].nunique()
    yes = data["use"].to_numpy() == 1
    edges = np.unique(np.quantile(data["age"], np.arange(1, 6) / 6))
    bins = np.searchsorted(edges, data["age"], side="right")
    np.testing.assert_allclose(everybody.get_ydata(), [yes[bins == b].mean() for b in range(6)])
    sizes = np.bincount(bins)
    assert sizes.min() > 0.5 * sizes.max()
    first = yes[(data["district"] == data["district"].iloc[0]).to_numpy() & (bins == 0)]
    line = next(g for g in groups if g.get_label() == f"_{data['district'].iloc[0]}")
    assert line.get_ydata()[0] == pytest.approx(first.mean())
    by_urban = model.plot_data(by="urban", groups=3)
    assert len(by_urban.lines) >= 3 * 2 + 2
    assert len(model.plot_data(panels=True, groups=4)) == 4


def test_counts_of_trials_are_drawn_as_shares():
    model = model_of("cbpp", "incidence of size ~ period + (1 | herd)", "binomial")
    ax = model.plot_data()
    data = blm.load_dataset("cbpp")
    assert ax.get_ylabel() == "share of incidence"
    drawn = np.sort(ax.lines[0].get_ydata())
    np.testing.assert_allclose(drawn, np.sort(data["incidence"] / data["size"]))


def test_ordered_categories_have_their_names_on_the_axis():
    model = model_of("wine", "rating ~ temp + contact + (1 | judge)", "ordinal")
    ax = model.plot_data()
    assert [t.get_text() for t in ax.get_yticklabels()] == list(model.design.categories)
    assert list(model.design.categories) == ["1", "2", "3", "4", "5"]
