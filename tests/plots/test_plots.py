"""What is drawn is what the fit's tables say."""

from __future__ import annotations

import warnings
from functools import cache

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from scipy import stats

import bayeslmm as blm
from bayeslmm.plots.estimates import fitted_values
from bayeslmm.plots.prior_posterior import prior_density
from bayeslmm.plots.ranef import caterpillar
from bayeslmm.plots.residuals import normal_quantiles
from bayeslmm.plots.shrinkage import shrinkage
from bayeslmm.plots.style import CYCLE, DATA, GROUP
from tests.conftest import dataset

matplotlib.use("Agg")
pytestmark = pytest.mark.filterwarnings("error")

SLOPES = ("sleepstudy", "Reaction ~ Days + (Days | Subject)")
INTERCEPT = ("machines", "score ~ Machine + (1 | Worker)")
NESTED = ("machines", "score ~ Machine + (1 | Worker) + (1 | Worker:Machine)")
CROSSED = ("penicillin", "diameter ~ 1 + (1 | plate) + (1 | sample)")
MODELS = {"slopes": SLOPES, "intercept": INTERCEPT, "crossed": CROSSED}


@cache
def model_of(name: str, formula: str) -> blm.LMM:
    return blm.LMM(formula, dataset(name))


@cache
def reml_of(name: str, formula: str) -> blm.LikelihoodFit:
    return model_of(name, formula).reml()


@cache
def posterior_of(name: str, formula: str) -> blm.PosteriorFit:
    model = model_of(name, formula)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", blm.SamplingWarning)  # few draws, on purpose
        return model.fit(method="importance", draws=250, random_seed=1, progressbar=False)


FITS = {"reml": reml_of, "posterior": posterior_of}
either = pytest.mark.parametrize("kind", FITS)


@pytest.fixture(autouse=True)
def _nothing_left_behind():
    before = dict(matplotlib.rcParams)
    yield
    plt.close("all")
    assert dict(matplotlib.rcParams) == before


def drawn(ax) -> None:
    """Lay the figure out and draw it: warnings and errors come out here."""
    ax.get_figure().canvas.draw()


def colored(ax, color: str) -> list:
    return [line for line in ax.lines if to_hex(line.get_color()) == to_hex(color)]


def group_lines(ax) -> dict:
    return {line.get_label()[1:]: line for line in ax.lines if line.get_color() == GROUP}


def middle(table: pd.DataFrame) -> pd.Series:
    return table["mean"] if "mean" in table else table["estimate"]


@either
def test_the_fan_has_the_data_every_subjects_line_and_the_population(kind):
    fit = FITS[kind](*SLOPES)
    ax = fit.plot_trajectories()
    drawn(ax)
    data = dataset("sleepstudy")
    points = colored(ax, DATA)[0]
    np.testing.assert_array_equal(points.get_xdata(), data["Days"])
    np.testing.assert_array_equal(points.get_ydata(), data["Reaction"])
    coef = fit.coef().assign(value=lambda t: middle(t))
    lines = coef.pivot(index="level", columns="effect", values="value")
    shown = group_lines(ax)
    assert sorted(shown) == sorted(lines.index)
    for subject, line in shown.items():
        intercept, slope = lines.loc[subject, ["Intercept", "Days"]]
        np.testing.assert_allclose(line.get_ydata(), intercept + slope * line.get_xdata())
    population = [line for line in ax.lines if line.get_label() == "population"][0]
    days = population.get_xdata()
    table = fit.predict(pd.DataFrame({"Days": days}), random="population")
    np.testing.assert_allclose(population.get_ydata(), middle(table))
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(table["lower"].min())
    assert band[:, 1].max() == pytest.approx(table["upper"].max())
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Days", "Reaction")
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["data", "Subject lines", "population (95 %)"]


@either
def test_a_factor_on_the_axis_takes_along_the_effects_that_it_determines(kind):
    fit = FITS[kind](*NESTED)
    ax = fit.plot_trajectories()
    drawn(ax)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["A", "B", "C"]
    rows = dataset("machines").drop_duplicates(["Worker", "Machine"])
    rows = rows.assign(value=middle(fit.predict(rows)))
    for worker, line in group_lines(ax).items():
        expected = rows[rows["Worker"] == worker].sort_values("Machine")["value"]
        np.testing.assert_allclose(line.get_ydata(), expected)


def test_crossed_factors_that_are_not_drawn_count_as_average(toy):
    toy["y"] += toy["g"] + 3 * np.sin(toy["g"]) * toy["x"] + 2 * np.cos(3 * toy["item"])
    fit = blm.LMM("y ~ x + f + (x | g) + (1 | item)", toy).reml()
    ax = fit.plot_trajectories(factor="g", groups=[3])
    assert "f = a" in ax.get_title(loc="left")
    line = group_lines(ax)["3"]
    coef = fit.coef("g").query("level == 3").set_index("effect")["estimate"]
    np.testing.assert_allclose(line.get_ydata(), coef["Intercept"] + coef["x"] * line.get_xdata())
    mine = toy.loc[toy["g"] == 3, "x"]
    assert line.get_xdata()[[0, -1]] == pytest.approx([mine.min(), mine.max()])


def test_by_gives_each_level_a_color_and_a_population_line(toy):
    fit = blm.LMM("y ~ x * h + (1 | g)", toy.assign(y=toy["y"] + toy["g"])).reml()
    ax = fit.plot_trajectories(by="h")
    drawn(ax)
    for level, color in zip("uv", CYCLE, strict=False):
        line = next(c for c in colored(ax, color) if c.get_label() == level)
        rows = pd.DataFrame({"x": line.get_xdata(), "h": level})
        expected = fit.predict(rows, random="population")["estimate"]
        np.testing.assert_allclose(line.get_ydata(), expected)
    assert ax.get_legend().get_title().get_text() == "h"
    axes = fit.plot_trajectories(by="h", panels=True, groups=4)
    drawn(axes[0])
    assert len(axes) == 4


@either
def test_small_multiples_have_one_panel_per_group_with_its_line_and_band(kind):
    fit = FITS[kind](*SLOPES)
    axes = fit.plot_trajectories(panels=True)
    drawn(axes[0])
    data = dataset("sleepstudy")
    assert [ax.get_title() for ax in axes] == list(data["Subject"].cat.categories)
    rows = data[data["Subject"] == "308"]
    table = fit.predict(rows)
    line = colored(axes[0], GROUP)[0]
    assert line.get_ydata()[[0, -1]] == pytest.approx(middle(table).iloc[[0, -1]].to_numpy())
    vertices = axes[0].collections[0].get_paths()[0].vertices
    at_end = vertices[vertices[:, 0] == 9, 1]
    limits = table.iloc[-1][["lower", "upper"]].to_numpy()
    # the posterior's band is made from the same 1,000 draws, REML's is the same formula
    assert [at_end.min(), at_end.max()] == pytest.approx(limits, rel=1e-6)
    points = colored(axes[0], DATA)[0]
    np.testing.assert_array_equal(points.get_ydata(), rows["Reaction"])


def test_thousands_of_groups_are_sampled_and_the_caption_says_so():
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(1500), 4)
    x = rng.normal(size=len(g))
    y = rng.normal(size=1500)[g] + x + rng.normal(size=len(g))
    fit = blm.LMM("y ~ x + (1 | g)", {"y": y, "x": x, "g": g}).reml()
    ax = fit.plot_trajectories()
    drawn(ax)
    assert len(group_lines(ax)) == 200
    assert ax.get_title(loc="left") == "a sample of 200 of 1,500 levels of g"
    again = group_lines(fit.plot_trajectories())
    assert set(again) == set(group_lines(ax))
    ax = fit.plot_shrinkage()
    assert len(colored(ax, GROUP)[0].get_xdata()) == 50
    assert ax.get_title(loc="left") == "a sample of 50 of 1,500 levels of g"
    (ax,) = fit.plot_ranef()
    values = colored(ax, GROUP)[0].get_xdata()
    modes = fit.ranef()["estimate"]
    assert (values[0], values[-1], len(values)) == (modes.min(), modes.max(), 50)
    assert ax.get_title(loc="left") == "50 of 1,500 levels, evenly by rank"
    drawn(fit.plot_residuals()[0])


@either
def test_shrinkage_goes_from_least_squares_per_subject_to_the_fit(kind):
    fit = FITS[kind](*SLOPES)
    data, found = dataset("sleepstudy"), shrinkage(fit)
    for j, (_, rows) in enumerate(data.groupby("Subject", observed=True)):
        slope, intercept = np.polyfit(rows["Days"], rows["Reaction"], 1)
        assert found.alone[j] == pytest.approx([intercept, slope])
    coef = middle(fit.coef()).to_numpy().reshape(18, 2)
    np.testing.assert_allclose(found.partial, coef)
    slope, intercept = np.polyfit(data["Days"], data["Reaction"], 1)
    assert found.pooled == pytest.approx([intercept, slope])
    assert found.population == pytest.approx(middle(fit.fixef()).to_numpy())
    ax = fit.plot_shrinkage()
    drawn(ax)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Intercept", "Days")
    assert len(ax.texts) == 18  # the arrows
    ends = np.array([arrow.xy for arrow in ax.texts])
    starts = np.array([arrow.xyann for arrow in ax.texts])
    np.testing.assert_allclose(ends, coef)
    np.testing.assert_allclose(starts, found.alone)
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["each group alone", "mixed model", "complete pooling", "population"]


def test_one_effect_has_a_row_per_group_sorted_by_its_own_estimate():
    fit = reml_of(*INTERCEPT)
    ax = fit.plot_shrinkage()
    drawn(ax)
    data = dataset("machines")
    machine = pd.Series({"A": 0.0}).reindex(data["Machine"]).fillna(0).to_numpy()
    for name in "BC":
        machine = machine + fit.fixef().loc[f"Machine[{name}]", "estimate"] * (
            data["Machine"] == name
        )
    alone = (data["score"] - machine).groupby(data["Worker"], observed=True).mean().sort_values()
    assert [label.get_text() for label in ax.get_yticklabels()] == list(alone.index)
    np.testing.assert_allclose(ax.lines[0].get_xdata(), alone)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Intercept", "Worker")


def test_groups_without_an_estimate_of_their_own_are_counted_and_left_out(sleepstudy):
    keep = (sleepstudy["Subject"] != "308") | (sleepstudy["Days"] == 3)
    fit = blm.LMM(SLOPES[1], sleepstudy[keep]).reml()
    found = shrinkage(fit)
    assert found.undefined.tolist() == [True] + [False] * 17
    ax = fit.plot_shrinkage()
    assert len(ax.texts) == 17
    assert "1 without an estimate of their own left out" in ax.get_title(loc="left")
    with pytest.raises(blm.PlotError, match="No group has enough rows"):
        fit.plot_shrinkage(groups=["308"])


def test_shrinkage_holds_crossed_factors_at_their_estimates():
    fit = reml_of(*CROSSED)
    found, data = shrinkage(fit, "plate"), dataset("penicillin")
    sample = fit.ranef("sample").set_index("level")["estimate"]
    adjusted = data["diameter"] - sample.reindex(data["sample"]).to_numpy()
    alone = adjusted.groupby(data["plate"], observed=True).mean()
    np.testing.assert_allclose(found.alone[:, 0], alone)


@pytest.mark.parametrize("name", MODELS)
@either
def test_the_caterpillar_is_the_sorted_table_of_random_effects(name, kind):
    fit = FITS[kind](*MODELS[name])
    axes = fit.plot_ranef()
    drawn(axes[0])
    table = fit.ranef()
    panels = list(table.groupby(["group", "effect"], sort=False))
    assert len(axes) == len(panels)
    for ax, ((group, effect), rows) in zip(axes, panels, strict=True):
        rows = rows.iloc[np.argsort(middle(rows).to_numpy(), kind="stable")]
        np.testing.assert_allclose(colored(ax, GROUP)[0].get_xdata(), middle(rows))
        segments = np.array(ax.collections[0].get_segments())
        np.testing.assert_allclose(segments[:, :, 0], rows[["lower", "upper"]])
        assert [t.get_text() for t in ax.get_yticklabels()] == rows["level"].astype(str).tolist()
        assert (ax.get_xlabel(), ax.get_ylabel()) == (effect, group)


@pytest.mark.parametrize("name", MODELS)
@either
def test_variance_components_and_shares_are_those_of_the_tables(name, kind):
    fit = FITS[kind](*MODELS[name])
    axes = fit.plot_variance()
    drawn(axes[0])
    table = fit.varcomp()
    sds = table[~table.index.str.startswith(("corr", "sd(Days"))]
    np.testing.assert_allclose(colored(axes[0], GROUP)[0].get_xdata(), middle(sds))
    widths = [bar.get_width() for bar in axes[-1].patches]
    assert sum(widths) == pytest.approx(1)
    r2 = fit.r2() if kind == "reml" else fit.r2()["mean"]
    assert widths[0] == pytest.approx(r2["marginal"])
    assert 1 - widths[-1] == pytest.approx(r2["conditional"])
    if name == "slopes":
        labels = [[t.get_text() for t in ax.get_yticklabels()] for ax in axes[:-1]]
        assert [len(label) for label in labels] == [2, 1, 1]  # a scale has an axis of its own
        assert labels[1:] == [["Days | Subject"], ["Intercept, Days | Subject"]]
        assert axes[0].get_xlabel() == "standard deviation\nReaction"
        assert axes[1].get_xlabel() == "standard deviation\nReaction per Days"
        assert axes[2].get_xlabel() == "correlation"
    else:
        assert len(axes) == 2


@either
def test_the_forest_has_two_intervals_and_leaves_the_intercept_out(kind):
    fit = FITS[kind](*INTERCEPT)
    ax = fit.plot_forest(level=0.9)
    drawn(ax)
    table = fit.fixef(level=0.9).drop("Intercept")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["Machine[B]", "Machine[C]"]
    np.testing.assert_allclose(colored(ax, GROUP)[0].get_xdata(), middle(table))
    wide, narrow = (np.array(c.get_segments())[:, :, 0] for c in ax.collections)
    np.testing.assert_allclose(wide, table[["lower", "upper"]])
    np.testing.assert_allclose(narrow, fit.fixef(level=0.5).iloc[1:][["lower", "upper"]])
    assert [t.get_text() for t in fit.plot_forest("Intercept").get_yticklabels()] == ["Intercept"]


def test_coefficients_of_different_units_have_axes_of_their_own_in_the_forest():
    fit = blm.LMM("distance ~ age * Sex + (1 | Subject)", dataset("orthodont")).reml()
    axes = fit.plot_forest()
    drawn(axes[0])
    names = [[t.get_text() for t in ax.get_yticklabels()] for ax in axes]
    assert names == [["age", "age:Sex[Male]"], ["Sex[Male]"]]
    assert [ax.get_xlabel() for ax in axes] == ["distance per age", "distance"]
    table = fit.fixef().loc[["age", "age:Sex[Male]"], "estimate"]
    np.testing.assert_allclose(colored(axes[0], GROUP)[0].get_xdata(), table)
    given = plt.subplots()[1]
    with pytest.raises(blm.PlotError, match="2 units, an axis for each"):
        fit.plot_forest(ax=given)
    assert fit.plot_forest("Sex[Male]", ax=given) is given


def test_parameters_that_are_no_standard_deviations_have_axes_of_their_own():
    data = dataset("orthodont").assign(visit=lambda frame: frame["age"].astype(int) // 2)
    fit = blm.LMM("distance ~ age", data, residual="ar1(visit | Subject)", sigma="~ visit").reml()
    axes = fit.plot_variance()
    labels = [ax.get_xlabel() for ax in axes]
    assert labels == [
        "standard deviation\ndistance", "log_sigma", "correlation", "share of variance",
    ]  # fmt: skip
    assert [t.get_text() for t in axes[2].get_yticklabels()] == ["rho"]


def _smallest_text(axes) -> tuple[float, float]:
    """Points of the smallest text of a figure, and the figure's width in inches."""
    figure = np.ravel(axes)[0].get_figure(root=True)
    figure.canvas.draw()
    texts = [t for t in figure.findobj(matplotlib.text.Text) if t.get_text() and t.get_visible()]
    return min(t.get_fontsize() for t in texts), figure.get_figwidth()


PICTURES = "rank residuals variance forest ranef shrinkage implied_covariance ppc"


@pytest.mark.parametrize("name", PICTURES.split())
def test_text_of_a_picture_on_a_page_has_at_least_eight_points(name):
    post = posterior_of(*SLOPES)
    options = {"random_seed": 1} if name == "ppc" else {}
    points, width = _smallest_text(getattr(post, f"plot_{name}")(**options))
    assert points >= 8
    assert width <= 10.5  # a page shrinks what is wider


def test_names_of_many_levels_have_at_least_eight_points_and_room():
    ax = plt.subplots(figsize=(3.3, 9))[1]
    at = pd.Series(np.arange(50.0))
    caterpillar(ax, at.astype(int).astype(str), at, at - 1, at + 1)
    assert _smallest_text(ax)[0] >= 8
    boxes = [t.get_window_extent() for t in ax.get_yticklabels()]
    assert all(low.y1 <= high.y0 + 1 for low, high in zip(boxes, boxes[1:], strict=False))


@either
def test_the_heat_map_and_the_curves_are_the_implied_tables(kind):
    fit = FITS[kind](*SLOPES)
    axes = fit.plot_implied_covariance()
    drawn(axes[0])
    np.testing.assert_allclose(axes[0].images[0].get_array(), fit.implied_covariance())
    together = fit.implied_correlation().to_numpy()
    first = axes[1].lines[0]
    np.testing.assert_array_equal(first.get_xdata(), np.arange(1, 10))
    np.testing.assert_allclose(first.get_ydata(), together[0, 1:])
    assert axes[1].get_xlabel() == "distance in Days"
    times = pd.DataFrame({"Days": [0, 5, 2]})
    axes = fit.plot_implied_covariance(times, correlation=True)
    assert [t.get_text() for t in axes[0].get_xticklabels()] == ["0", "2", "5"]
    expected = fit.implied_correlation(times.sort_values("Days"))
    np.testing.assert_allclose(axes[0].images[0].get_array(), expected)


def test_implied_covariances_keep_the_weights_and_follow_a_factor(sleepstudy):
    sleepstudy["w"] = np.where(sleepstudy["Days"] > 4, 2.0, 1.0)
    shuffled = sleepstudy.sample(frac=1, random_state=1)
    fit = blm.LMM("Reaction ~ Days + (1 | Subject)", shuffled, weights="w").reml()
    diagonal = np.diag(fit.plot_implied_covariance()[0].images[0].get_array())
    residual = diagonal - fit.components()["sd(Intercept | Subject)"] ** 2
    np.testing.assert_allclose(residual, fit.sigma**2 / np.repeat([1.0, 2.0], 5))
    (ax,) = reml_of(*NESTED).plot_implied_covariance()
    assert [t.get_text() for t in ax.get_xticklabels()] == list("AAABBBCCC")


@cache
def irregular_visits() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    person = np.repeat(np.arange(25), 8)
    day = rng.uniform(0, 730, len(person))
    y = rng.normal(size=25)[person] + rng.normal(0, 0.003, 25)[person] * day
    near = np.exp(-np.abs(day[:, None] - day) / 200) * (person[:, None] == person)
    data = {"person": person, "day": day, "arm": person % 2, "y": y + rng.normal(size=len(day))}
    return pd.DataFrame(data).assign(drift=np.linalg.cholesky(near) @ rng.normal(size=len(day)))


def test_irregular_visits_are_drawn_at_a_grid_of_round_times_that_the_caption_names():
    data = irregular_visits()
    fit = blm.LMM("y ~ day * arm + (day | person)", data).reml()
    heat, curves = fit.plot_implied_covariance()
    drawn(heat)
    assert [t.get_text() for t in heat.get_xticklabels()] == [f"{v}" for v in range(100, 701, 100)]
    assert heat.get_title(loc="left") == "one group at a grid of day"
    assert "one value" in curves.get_title(loc="left")
    grid = pd.DataFrame({"day": np.arange(100.0, 701.0, 100.0)})
    np.testing.assert_allclose(heat.images[0].get_array(), fit.implied_covariance(grid))

    heat, curves = fit.plot_implied_covariance(at=[0.5, 90, 2.25], correlation=True)
    assert [t.get_text() for t in heat.get_yticklabels()] == ["0.5", "2.25", "90"]
    assert heat.get_title(loc="left") == "one group at given values of day"
    asked = fit.implied_correlation(pd.DataFrame({"day": [0.5, 2.25, 90]}))
    np.testing.assert_allclose(heat.images[0].get_array(), asked)


def test_correlated_residuals_alone_are_drawn_against_their_times():
    fit = blm.LMM("drift ~ arm", irregular_visits(), residual="car1(day | person)").reml()
    heat, curves = fit.plot_implied_covariance()
    assert heat.get_title(loc="left") == "one group at a grid of day"
    assert curves.get_xlabel() == "distance in day"
    with pytest.raises(blm.PlotError, match="x='day'"):
        fit.plot_implied_covariance(x="arm", at=[0, 1])
    drawn_first = np.asarray(curves.lines[0].get_ydata())
    np.testing.assert_allclose(
        drawn_first, np.exp(-np.arange(100, 601, 100) / fit.components()["range"])
    )


@pytest.mark.parametrize("name", MODELS)
@either
def test_residual_plots_show_residuals_and_random_effects(name, kind):
    fit = FITS[kind](*MODELS[name])
    axes = fit.plot_residuals()
    drawn(axes[0])
    design = fit.model.design
    assert len(axes) == 2 + sum(block.n_effects for block in design.blocks)
    residuals = fit.residuals().to_numpy()
    points = axes[0].lines[0]
    np.testing.assert_allclose(points.get_ydata(), residuals, atol=1e-8)
    np.testing.assert_allclose(points.get_xdata(), design.y - residuals)
    quantiles = axes[1].lines[1]
    np.testing.assert_allclose(quantiles.get_ydata(), np.sort(residuals), atol=1e-8)
    theory = stats.norm.ppf((np.arange(len(residuals)) + 0.5) / len(residuals))
    np.testing.assert_allclose(quantiles.get_xdata(), theory)
    modes = middle(fit.ranef()).to_numpy()[:: design.blocks[0].n_effects]
    first = modes[: design.blocks[0].n_levels]
    np.testing.assert_allclose(axes[2].lines[1].get_ydata(), np.sort(first))


def test_thinned_quantiles_keep_the_tails_and_lie_on_the_same_curve():
    values = np.random.default_rng(0).standard_t(4, size=20_000)
    theory, ordered = normal_quantiles(values)
    assert len(theory) <= 1000
    np.testing.assert_array_equal(ordered[:100], np.sort(values)[:100])
    np.testing.assert_array_equal(ordered[-100:], np.sort(values)[-100:])
    at = np.searchsorted(np.sort(values), ordered)
    np.testing.assert_allclose(theory, stats.norm.ppf((at + 0.5) / len(values)))


def test_comparison_panels_are_the_rows_of_the_table():
    reml, post = reml_of(*SLOPES), posterior_of(*SLOPES)
    axes = post.plot_compare(reml, level=0.9)
    drawn(axes[0])
    table = blm.compare_estimates(post, reml, level=0.9)
    assert [ax.get_title() for ax in axes] == list(table.index)
    for ax, (_, row) in zip(axes, table.iterrows(), strict=True):
        assert [t.get_text() for t in ax.get_yticklabels()] == ["posterior", "REML"]
        centers = [line.get_xdata()[0] for line in ax.lines]
        assert centers == [row["posterior", "mean"], row["REML", "estimate"]]
        limits = [c.get_segments()[0][:, 0].tolist() for c in ax.collections]
        expected = [[row[f, "lower"], row[f, "upper"]] for f in ("posterior", "REML")]
        np.testing.assert_allclose(limits, expected)
    assert len(post.plot_compare(reml, parameters=["Days"])) == 1


def test_prior_panels_have_the_draws_and_the_density():
    post = posterior_of(*SLOPES)
    axes = post.plot_prior_posterior()
    drawn(axes[0])
    names = list(post.summary().index[1:])
    at_means = [n for n in names if "Intercept" in n]
    titles = [f"{n}, at the covariates' means" if n in at_means else n for n in names]
    assert [ax.get_title() for ax in axes[1:]] == titles
    assert axes[0].get_title() == "Intercept at the predictors' means"
    beta = post.posterior["beta"].to_numpy()
    center = (beta[..., 0] + 4.5 * beta[..., 1]).ravel()
    edges = [axes[0].patches[0].get_x(), axes[0].patches[-1].get_x()]
    assert edges[0] == pytest.approx(center.min())
    assert edges[1] + axes[0].patches[-1].get_width() == pytest.approx(center.max())
    prior = post.priors["Days"].parameters
    line = axes[1].lines[0]
    expected = stats.norm(prior["mu"], prior["sigma"]).pdf(line.get_xdata())
    np.testing.assert_allclose(line.get_ydata(), expected)
    (wide,) = post.plot_prior_posterior("Days", whole_prior=True)
    assert wide.get_xlim()[1] > 0.9 * stats.norm(prior["mu"], prior["sigma"]).ppf(0.95)


@pytest.mark.parametrize(
    ("prior", "reference"),
    [
        (blm.Prior("HalfStudentT", nu=3, sigma=2), lambda x: 2 * stats.t(3, scale=2).pdf(x)),
        (blm.Prior("Exponential", lam=0.5), stats.expon(scale=2).pdf),
        (blm.Prior("Gamma", alpha=2, beta=3), stats.gamma(2, scale=1 / 3).pdf),
    ],
)
def test_prior_densities_are_those_of_scipy(prior, reference):
    grid = np.linspace(0.1, 5, 30)
    np.testing.assert_allclose(prior_density(prior, grid), reference(grid), rtol=1e-6)


def test_the_margin_of_an_lkj_prior_is_its_beta_and_flat_priors_have_no_line():
    grid = np.linspace(-1, 1, 2001)
    for eta, size in ((1.0, 2), (2.0, 2), (1.0, 3), (0.5, 5)):
        a = eta + size / 2 - 1
        expected = stats.beta(a, a, loc=-1, scale=2).pdf(grid)
        density = prior_density(blm.Prior("LKJ", eta=eta), grid, size)
        np.testing.assert_allclose(density, expected, atol=1e-12)
    assert prior_density(blm.Prior("Flat"), grid) is None


@pytest.mark.parametrize("name", MODELS)
def test_predictive_checks_show_replicates_and_the_data(name):
    post = posterior_of(*MODELS[name])
    design = post.model.design
    groups = [*post.idata.children]
    (ax,) = post.plot_ppc(random_seed=1)
    drawn(ax)
    assert ax.get_xlabel() == design.response
    assert len([line for line in ax.lines if len(line.get_xdata())]) == 51
    (ax,) = post.plot_ppc("stat", stat="max", random_seed=1)
    drawn(ax)
    assert ax.get_xlabel() == f"max of {design.response}"
    assert design.y.max() in np.asarray(ax.collections[0].get_offsets())[:, 0]
    assert [*post.idata.children] == groups


def test_predictive_checks_by_group_have_a_panel_per_level():
    post, data = posterior_of(*SLOPES), dataset("sleepstudy")
    axes = post.plot_ppc("stat", by="Subject", groups=["309", "308"], random_seed=1)
    drawn(axes[0])
    assert [ax.get_title() for ax in axes] == ["Subject 309", "Subject 308"]
    means = data.groupby("Subject", observed=True)["Reaction"].mean()
    for ax, subject in zip(axes, ("309", "308"), strict=True):
        assert ax.collections[0].get_offsets()[0, 0] == pytest.approx(means[subject])
    axes = post.plot_ppc(by="Subject", groups=5, random_seed=1)
    drawn(axes[0])
    assert len(axes) == 5
    (legend,) = axes[0].get_figure().legends
    assert legend.get_title().get_text() == "5 of 18 levels of Subject"


def test_loo_pit_ranks_and_traces_come_from_arviz_with_our_names():
    post = posterior_of(*SLOPES)
    (ax,) = post.plot_loo_pit(random_seed=1)
    drawn(ax)
    assert ax.get_xlabel() == "LOO-PIT"
    for plot in (post.plot_rank, post.plot_trace):
        axes = plot()
        drawn(axes[0])
        assert [ax.get_title() for ax in axes] == list(post.summary().index)
    (ax,) = post.plot_trace("Days")
    days = post.posterior["beta"].sel(coef="Days").to_numpy()
    np.testing.assert_allclose([line.get_ydata() for line in ax.lines], days)


def test_loo_pit_of_student_residuals_integrates_the_effects_out():
    data = pd.DataFrame({"y": [0.3, 1.1, -0.4, 6.0, -0.6, 0.2, -1.3, 0.1, 3.9, 4.8, 3.1, 4.4]})
    data["g"] = np.repeat(list("abc"), 4)
    model = blm.LMM("y ~ 1 + (1 | g)", data, family="student")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = model.fit(draws=50, chains=2, random_seed=1, progressbar=False)
    (ax,) = fit.plot_loo_pit(random_seed=1)
    pit = fit.loo_pit(draws=50, exact=False, random_seed=1, progressbar=False)["loo_pit"]["y"]
    x, height = ax.lines[-1].get_data()
    np.testing.assert_allclose(height, (pit.to_numpy()[:, None] <= x).mean(axis=0) - x)


def test_prior_predictive_checks_frame_the_data():
    model = model_of(*INTERCEPT)
    (ax,) = model.plot_prior_predictive(draws=30, random_seed=1)
    drawn(ax)
    low, high = ax.get_xlim()
    assert low <= model.design.y.min()
    assert high >= model.design.y.max()
    assert ax.get_xlabel() == "score"


def test_the_data_are_drawn_before_a_fit():
    ax = model_of(*SLOPES).plot_data()
    drawn(ax)
    data = dataset("sleepstudy")
    assert len(ax.lines) == 18
    for subject, line in group_lines(ax).items():
        expected = data.loc[data["Subject"] == subject, "Reaction"]
        np.testing.assert_array_equal(line.get_ydata(), expected)
    ax = model_of(*INTERCEPT).plot_data()
    means = dataset("machines").groupby(["Worker", "Machine"], observed=True)["score"].mean()
    for worker, line in group_lines(ax).items():
        np.testing.assert_allclose(line.get_ydata(), means[worker])
    assert len(model_of(*INTERCEPT).plot_data(panels=True)) == 6


def test_without_a_predictor_each_group_has_its_place_in_the_order_of_the_means():
    ax = model_of(*CROSSED).plot_data(factor="sample")
    drawn(ax)
    means = dataset("penicillin").groupby("sample", observed=True)["diameter"].mean().sort_values()
    assert [t.get_text() for t in ax.get_xticklabels()] == list(means.index)
    np.testing.assert_allclose(ax.lines[1].get_ydata(), means)
    assert len(ax.lines[0].get_xdata()) == 144
    assert len(model_of(*CROSSED).plot_data(groups=3).lines[1].get_xdata()) == 3


def test_long_captions_are_wrapped_and_shortened(toy):
    for j in range(9):
        toy[f"covariate{j}"] = np.random.default_rng(100 + j).normal(size=len(toy))
    formula = "y ~ x + " + " + ".join(f"covariate{j}" for j in range(9)) + " + (1 | g)"
    ax = blm.LMM(formula, toy.assign(y=toy["y"] + toy["g"])).reml().plot_trajectories()
    drawn(ax)
    lines = ax.get_title(loc="left").splitlines()
    assert max(map(len, lines)) <= 75
    assert "and 3 more held likewise" in " ".join(lines)
    figure = ax.get_figure()
    assert ax._left_title.get_window_extent().x1 < figure.bbox.x1


def test_without_groups_the_population_is_drawn_alone():
    model = blm.LMM("Reaction ~ Days", dataset("sleepstudy"))
    ax = model.reml().plot_trajectories()
    drawn(ax)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["data", "population (95 %)"]
    drawn(model.plot_data())
    with pytest.raises(blm.PlotError, match="no random effects"):
        model.reml().plot_ranef()


def test_transformed_predictors_are_drawn_as_curves_over_the_column(sleepstudy):
    fit = blm.LMM("np.log(Reaction) ~ poly(Days, 2) + (1 | Subject)", sleepstudy).reml()
    ax = fit.plot_trajectories()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Days", "np.log(Reaction)")
    line = [line for line in ax.lines if line.get_label() == "population"][0]
    assert np.ptp(np.diff(line.get_ydata())) > 1e-6
    fit = blm.LMM("Reaction ~ C(Days) + (1 | Subject)", sleepstudy).reml()
    ax = fit.plot_trajectories()
    assert [t.get_text() for t in ax.get_xticklabels()] == [str(day) for day in range(10)]
    table = fit.predict(pd.DataFrame({"Days": range(10)}), random="population")
    line = [line for line in ax.lines if line.get_label() == "population"][0]
    np.testing.assert_allclose(line.get_ydata(), table["estimate"])


def test_axes_given_are_drawn_on_and_no_figure_is_made():
    fit = reml_of(*SLOPES)
    plt.close("all")  # those of other tests
    figure, (left, right) = plt.subplots(1, 2, layout="constrained")
    assert fit.plot_trajectories(ax=left) is left
    assert fit.plot_shrinkage(ax=right) is right
    assert fit.plot_forest(ax=right) is right
    assert plt.get_fignums() == [figure.number]
    drawn(left)


@either
def test_fitted_values_of_the_point_estimates_are_those_of_the_fit(kind):
    fit = FITS[kind](*CROSSED)
    np.testing.assert_allclose(fitted_values(fit), fit.model.design.y - fit.residuals())


@pytest.mark.parametrize(
    ("plot", "message"),
    [
        (lambda f: f.plot_trajectories("Dyas"), "no predictor 'Dyas' .* mean 'Days'"),
        (lambda f: f.plot_trajectories(factor="School"), "no grouping factor 'School'.*Subject"),
        (lambda f: f.plot_trajectories(by="Days"), "no factor for by= 'Days'"),
        (lambda f: f.plot_trajectories(groups=["308", "999"]), "no level of Subject '999'"),
        (lambda f: f.plot_trajectories(groups=0), "groups must be a positive number"),
        (lambda f: f.plot_trajectories(groups=[]), "No level of Subject was asked for"),
        (lambda f: f.plot_shrinkage(effects="days"), "no effect 'days'.*mean 'Days'"),
        (lambda f: f.plot_shrinkage("Subj"), "no grouping factor 'Subj'"),
        (lambda f: f.plot_ranef(effects=["Day"]), "no effect 'Day'"),
        (lambda f: f.plot_ranef(groups=1), "groups must be a number"),
        (lambda f: f.plot_forest(["Days", "Nights"]), "no coefficient 'Nights'"),
        (lambda f: f.plot_implied_covariance(x="Subject"), "no predictor 'Subject'"),
        (lambda f: f.plot_implied_covariance(at=[3, 3.0]), "two different finite numbers"),
        (lambda f: f.plot_implied_covariance(dataset("sleepstudy"), at=[1, 2]), "not both"),
        (lambda f: f.plot_compare(f, parameters="tau"), "no parameter 'tau'"),
    ],
)
def test_unknown_names_are_refused_by_name(plot, message):
    with pytest.raises(blm.PlotError, match=message):
        plot(reml_of(*SLOPES))
    assert not plt.get_fignums()


@pytest.mark.parametrize(
    ("plot", "message"),
    [
        (lambda f: f.plot_prior_posterior("sd(Days)"), r"no parameter 'sd\(Days\)'"),
        (lambda f: f.plot_ppc("density"), 'kind must be "dist" or "stat"'),
        (lambda f: f.plot_ppc("stat", stat="kurtosis"), "no statistic 'kurtosis'"),
        (lambda f: f.plot_ppc("stat", stat=1.5), "no statistic 1.5"),
        (lambda f: f.plot_ppc("stat", stat=np.mean, by="Subject"), "not a function"),
        (lambda f: f.plot_ppc(by="Item"), "no factor for by= 'Item'"),
        (lambda f: f.plot_ppc(by="Subject", groups=["1"]), "no level of Subject '1'"),
        (lambda f: f.plot_trace("gamma"), "no parameter 'gamma'"),
    ],
)
def test_unknown_names_are_refused_by_name_for_a_posterior(plot, message):
    with pytest.raises(blm.PlotError, match=message):
        plot(posterior_of(*SLOPES))
    assert not plt.get_fignums()


def test_a_formula_without_predictors_says_what_to_draw_instead():
    with pytest.raises(blm.PlotError, match=r"plot_ranef\(\)"):
        reml_of(*CROSSED).plot_trajectories()
