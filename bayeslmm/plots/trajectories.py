"""The fan: data, the population's line and the lines of the groups."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.errors import PlotError
from bayeslmm.formula.design import NewRows
from bayeslmm.plots.estimates import center, coefficients, effects, is_posterior
from bayeslmm.plots.scene import (
    Line,
    Scene,
    build_scene,
    color_legend,
    draw_points,
    finish,
    finish_panels,
    group_lines,
    included_factors,
    notes,
    panel_axes,
    shown_rows,
)
from bayeslmm.plots.style import BAND, POPULATION, THICK, THIN, fading, legend_below, one_axes
from bayeslmm.results.estimability import undetermined
from bayeslmm.results.support import refuse_families

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayeslmm.protocols import LikelihoodResult, PosteriorResult

__all__ = ["evaluated_lines", "line_predictor", "plot_trajectories", "point_estimates"]

_DRAWS = 1000


def plot_trajectories(
    fit: PosteriorResult | LikelihoodResult,
    x: str | None = None,
    *,
    factor: str | None = None,
    by: str | None = None,
    groups=None,
    panels: bool = False,
    level: float = 0.95,
    ax: Axes | None = None,
) -> Axes | np.ndarray:
    """Data, population line with its band, and the groups' own lines.

    Predictors that are on no axis are held at their mean or most frequent level (the caption
    says at what); those that are constant within a group are held at the group's value for its
    line. Random effects of other grouping factors are left out (the average level), unless
    group and x, a factor, together determine their level, as with ``Worker:Machine`` over
    ``Machine``. Lines of a likelihood fit leave out points that aliased columns leave
    undetermined.

    Parameters
    ----------
    fit : PosteriorResult or LikelihoodFit
    x : str, optional
        Predictor on the horizontal axis; by default the first number with a random slope, the
        first number, or the first factor of the formula.
    factor : str, optional
        Grouping factor whose levels are drawn; by default the first.
    by : str, optional
        A factor of the formula: one color and one population line per level.
    groups : int or list, optional
        How many levels, or which; by default up to 200 (20 with `panels`), beyond that a sample
        that is always the same one.
    panels : bool
        One small axes per group instead of one for all. Group lines then have bands: of the
        posterior, or, for a likelihood fit whose lines take in every grouping factor, of the
        prediction.
    level : float
        Probability inside the bands.
    ax : matplotlib Axes, optional
        For the fan.

    Returns
    -------
    Axes, or an array of them with `panels`

    Raises
    ------
    PlotError
        If a name is not a predictor, a factor or a level, or the formula has no predictor.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> data = blm.load_dataset("sleepstudy")
    >>> fit = blm.LMM("Reaction ~ Days + (Days | Subject)", data).reml()
    >>> fit.plot_trajectories().get_xlabel()
    'Days'
    """
    refuse_families(fit.model, "plot_trajectories")
    if panels and ax is not None:
        raise PlotError("panels=True makes a figure of its own: leave ax out.")
    scene = build_scene(fit.model, x, factor, by, groups, panels)
    if panels:
        return _small_multiples(fit, scene, level)
    return _fan(fit, scene, level, one_axes(ax))


def _fan(fit, scene: Scene, level: float, ax: Axes) -> Axes:
    rows, thinned = shown_rows(scene, scene.codes)
    points = draw_points(ax, scene, rows, fading(len(rows)))
    lines = group_lines(scene)
    drawn, (beta, b) = [], point_estimates(fit)
    for line, there in zip(lines, evaluated_lines(fit, scene, lines), strict=True):
        assert scene.block is not None  # lines are of groups
        drawn += ax.plot(
            scene.x.position(line.frame[scene.x.name]),
            line_predictor(there, scene, beta, b)[0],
            color=scene.color(line.split),
            linewidth=THIN,
            alpha=fading(3 * len(lines)),
            marker="o" if len(line.frame) == 1 else None,
            markersize=3,
            label=f"_{scene.block.levels[line.code]}",
        )
    population = _population(fit, scene, level, ax)
    finish(ax, scene, notes(scene, scene.note, thinned, what="population line"))
    if scene.by is not None:
        color_legend(ax, scene)
        return ax
    handles = [points, *drawn[:1], population]
    labels = ["data", *([f"{scene.block.name} lines"] if drawn and scene.block else [])]
    legend_below(ax, handles, [*labels, f"population ({100 * level:g} %)"])
    return ax


def _small_multiples(fit, scene: Scene, level: float) -> np.ndarray:
    axes = panel_axes(scene)
    panel_of = dict(zip(scene.codes.tolist(), axes, strict=True))
    for code, panel in panel_of.items():
        draw_points(panel, scene, shown_rows(scene, np.array([code]))[0], 0.8)
    lines = group_lines(scene)
    bands = _bands(fit, scene, lines, level)
    beta, b = point_estimates(fit)
    for line, rows, band in zip(lines, evaluated_lines(fit, scene, lines), bands, strict=True):
        panel, color = panel_of[line.code], scene.color(line.split)
        at = scene.x.position(line.frame[scene.x.name])
        marker = "o" if len(at) == 1 else None
        panel.plot(
            at, line_predictor(rows, scene, beta, b)[0], color=color, linewidth=1.6, marker=marker
        )
        if band is not None:
            panel.fill_between(at, *band, color=color, alpha=BAND, linewidth=0)
        population = rows.offset + rows.X @ beta[0]
        panel.plot(at, population, color=POPULATION, linewidth=THIN, linestyle="--")
    shown = notes(scene, scene.note, what="population line")
    finish_panels(axes, scene, "; ".join(t for t in (shown, "dashed: population") if t))
    return axes


def _population(fit, scene: Scene, level: float, ax: Axes):
    """Population lines with bands; returns what a legend shows."""
    design, handle = scene.design, None
    for split in scene.split:
        mine = scene.of_split(np.arange(design.n_rows), split)
        values = design.predictors[scene.x.name].to_numpy()[mine]
        frame = pd.DataFrame({scene.x.name: scene.x.grid(values)}).assign(**scene.held)
        if split is not None:
            frame[scene.by] = split
        table = fit.predict(frame, random="population", level=level)
        at = scene.x.position(frame[scene.x.name])
        color = POPULATION if scene.by is None else scene.color(split)
        (curve,) = ax.plot(
            at,
            center(table),
            color=color,
            linewidth=THICK,
            zorder=4,
            marker=None if scene.x.levels is None else "o",
            label="population" if split is None else str(split),
        )
        band = ax.fill_between(
            at, table["lower"], table["upper"], color=color, alpha=BAND, linewidth=0, zorder=3
        )
        handle = handle or (curve, band)
    return handle


def point_estimates(fit) -> tuple[np.ndarray, list[np.ndarray]]:
    """Coefficients and effects as a single draw."""
    return coefficients(fit)[None], [b[None] for b in effects(fit)]


def evaluated_lines(fit, scene: Scene, lines: list[Line]) -> list[NewRows]:
    """The rows of every line in the terms of the design, evaluated together.

    The offset is NaN where the mean of a likelihood fit is not estimable.
    """
    if not lines:
        return []
    rows = scene.design.evaluate(pd.concat([line.frame for line in lines], ignore_index=True))
    if not is_posterior(fit):
        shown = ~undetermined(fit.model, rows.X).any(axis=1)
        rows = replace(rows, offset=np.where(shown, rows.offset, np.nan))
    ends = np.cumsum([len(line.frame) for line in lines])
    return [
        NewRows(
            rows.X[a:b],
            rows.offset[a:b],
            tuple(Z[a:b] for Z in rows.Z),
            tuple(codes[a:b] for codes in rows.codes),
        )
        for a, b in zip([0, *ends[:-1]], ends, strict=True)
    ]


def _bands(fit, scene: Scene, lines: list[Line], level: float) -> list:
    """Limits of every line, shape (2, points); None where there are none to be had."""
    if not is_posterior(fit):
        if len(included_factors(scene)) < len(scene.design.blocks):
            return [None] * len(lines)
        rows = pd.concat([line.frame for line in lines], ignore_index=True)
        table = fit.predict(rows, random="conditional", level=level)
        limits = table[["lower", "upper"]].to_numpy().T
        return np.split(limits, np.cumsum([len(line.frame) for line in lines])[:-1], axis=1)
    posterior = fit.posterior.stack(sample=("chain", "draw"))
    at = np.linspace(0, posterior.sizes["sample"] - 1, _DRAWS).astype(int)
    thin = posterior.isel(sample=np.unique(at)).transpose("sample", ...)
    beta = thin["beta"].to_numpy() if "beta" in thin else np.zeros((thin.sizes["sample"], 0))
    b = [thin[factor.b].to_numpy() for factor in fit.names.factors]
    tail = (1 - level) / 2
    return [
        np.quantile(line_predictor(rows, scene, beta, b), [tail, 1 - tail], axis=0)
        for rows in evaluated_lines(fit, scene, lines)
    ]


def line_predictor(
    rows: NewRows, scene: Scene, beta: np.ndarray, b: list[np.ndarray]
) -> np.ndarray:
    """offset + x'beta + z'b of the factors that are drawn, shape (draws, points)."""
    values = rows.offset + beta @ rows.X.T
    for k in included_factors(scene):
        values = values + np.einsum("siq,iq->si", b[k][:, rows.codes[k]], rows.Z[k])
    return values
