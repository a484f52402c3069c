"""Curves of groups, of the average group and of the population, on the scale of the response."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.bayes.responses import phi_draws
from bayeslmm.plots.estimates import is_posterior, pick
from bayeslmm.plots.scene import Scene, build_scene, group_lines, notes
from bayeslmm.plots.style import (
    ALONE,
    BAND,
    GROUP,
    POPULATION,
    THICK,
    THIN,
    caption,
    fading,
    legend_below,
    one_axes,
)
from bayeslmm.plots.trajectories import evaluated_lines, line_predictor, point_estimates

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayeslmm.formula import Design
    from bayeslmm.protocols import LikelihoodResult, PosteriorResult

__all__ = ["mean_label", "plot_average_effects"]


def plot_average_effects(
    fit: PosteriorResult | LikelihoodResult,
    x: str | None = None,
    *,
    factor: str | None = None,
    groups=None,
    category: str | None = None,
    level: float = 0.95,
    ax: Axes | None = None,
) -> Axes:
    """Curves of groups, and means of the average group and of the population with bands.

    With another link than the identity the curve of the population is not that of the average
    group: it is the mean of the groups' curves, and flatter with the logit link. Predictors that
    are on no axis are held as in :func:`bayeslmm.plots.plot_trajectories`; curves of groups are
    at point estimates, random effects of other grouping factors left out.

    Parameters
    ----------
    fit : PosteriorResult or LikelihoodFit
    x, factor, groups
        As in :func:`bayeslmm.plots.plot_trajectories`.
    category : str, optional
        Of an ordinal response, whose probability is drawn; the highest by default.
    level : float
        Probability inside the bands.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    PlotError
        If a name is not a predictor, a factor, a level or a category.
    """
    scene = build_scene(fit.model, x, factor, None, groups, False)
    design, ax = scene.design, one_axes(ax)
    at = _category(design, category)
    lines = group_lines(scene)
    beta, b = point_estimates(fit)
    drawn = []
    for line, rows in zip(lines, evaluated_lines(fit, scene, lines), strict=True):
        eta = line_predictor(rows, scene, beta, b)[0]
        drawn += ax.plot(
            scene.x.position(line.frame[scene.x.name]),
            _mean(fit, eta, at),
            color=GROUP,
            linewidth=THIN,
            alpha=fading(3 * len(lines)),
            marker="o" if len(line.frame) == 1 else None,
            markersize=3,
        )
    handles, labels = _averages(fit, scene, level, at, ax)
    if drawn and scene.block is not None:
        handles, labels = [*drawn[:1], *handles], [f"each {scene.block.name}", *labels]
    scene.x.label(ax)
    ax.set_ylabel(mean_label(design, at))
    caption(ax, notes(scene, scene.note))
    legend_below(ax, handles, labels)
    return ax


def _averages(fit, scene: Scene, level: float, at: int | None, ax: Axes) -> tuple[list, list]:
    """Both means with their bands; what a legend shows, and its labels."""
    design = scene.design
    grid = scene.x.grid(design.predictors[scene.x.name].to_numpy())
    frame = pd.DataFrame({scene.x.name: grid}).assign(**scene.held)
    table = fit.average_effects(newdata=frame, level=level)
    if at is not None:
        table = table.iloc[at :: len(design.categories)]
    position, handles = scene.x.position(grid), []
    looks = {"average_group": (POPULATION, "-"), "population_average": (ALONE, "--")}
    for name, (color, style) in looks.items():
        (curve,) = ax.plot(
            position,
            table[name],
            color=color,
            linestyle=style,
            linewidth=THICK,
            zorder=4,
            marker=None if scene.x.levels is None else "o",
        )
        band = ax.fill_between(
            position,
            table[f"{name}_lower"],
            table[f"{name}_upper"],
            color=color,
            alpha=BAND,
            linewidth=0,
            zorder=3,
        )
        handles.append((curve, band))
    return handles, ["average group", f"population average ({100 * level:g} %)"]


def _category(design: Design, category: str | None) -> int | None:
    """Position of the category that is drawn; None where the response has none."""
    if design.family.name != "ordinal":
        return None
    known = list(design.categories)
    return len(known) - 1 if category is None else known.index(pick("category", category, known)[0])


def _mean(fit, eta: np.ndarray, at: int | None) -> np.ndarray:
    """Means of a line, or probabilities of a category, at point estimates."""
    family = fit.model.design.family
    if family.gaussian:
        return eta
    if is_posterior(fit):
        phi = phi_draws(fit.model.design, fit.posterior).mean(axis=(0, 1))
    else:
        phi = fit._solution.phi
    return family.mean(eta, phi) if at is None else family.probabilities(eta, phi)[..., at]


def mean_label(design: Design, at: int | None) -> str:
    """The label of the vertical axis."""
    if at is not None:
        return f"probability of {design.response} = {design.categories[at]}"
    if design.family.name in ("bernoulli", "binomial"):
        event = f" = {design.categories[1]}" if design.categories else ""
        return f"probability of {design.response}{event}"
    return f"mean of {design.response}"
