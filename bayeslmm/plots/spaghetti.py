"""The data before any fit: each group's observations joined by a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.errors import PlotError
from bayeslmm.plots.estimates import block_of, sampled
from bayeslmm.plots.reference import predictors
from bayeslmm.plots.scene import (
    Scene,
    build_scene,
    color_legend,
    draw_points,
    finish,
    finish_panels,
    panel_axes,
    shown_rows,
)
from bayeslmm.plots.style import DATA, GROUP, POPULATION, THICK, THIN, caption, fading, one_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayeslmm.protocols import Model

__all__ = ["plot_data"]

_MOST_STRIPS = 50
#: Bins of a number over which shares of yes are drawn, at most.
_BINS = 6


def plot_data(
    model: Model,
    x: str | None = None,
    *,
    factor: str | None = None,
    by: str | None = None,
    groups=None,
    panels: bool = False,
    ax: Axes | None = None,
) -> Axes | np.ndarray:
    """The data before any fit: every group's observations joined by a line.

    Over a factor the line joins the group's means, and points are side by side. Counts of trials
    are shares. Where the response has two values, lines over a number join the group's shares in up
    to six bins with about as many rows each, and a thick line those of all rows. Where the
    formula has no predictor each group has its own place on the horizontal axis, in the order of
    the means, up to 50 groups.

    Parameters
    ----------
    model : Model
    x, factor, by, groups, panels, ax
        As in :func:`bayeslmm.plots.plot_trajectories`.

    Returns
    -------
    Axes, or an array of them with `panels`

    Raises
    ------
    PlotError
        As :func:`bayeslmm.plots.plot_trajectories`.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> model = blm.LMM("score ~ Machine + (1 | Worker)", blm.load_dataset("machines"))
    >>> ax = model.plot_data()
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('Machine', 'score')
    """
    if panels and ax is not None:
        raise PlotError("panels=True makes a figure of its own: leave ax out.")
    if x is None and not panels and model.design.blocks and not predictors(model.design):
        return _strips(model, factor, groups, one_axes(ax))
    scene = build_scene(model, x, factor, by, groups, panels)
    bins = _bins(scene)
    note = scene.note
    if bins is not None:
        said = f"shares in {bins.max() + 1} bins of {scene.x.name}"
        note = said if note is None else f"{said}; {note}"
    if not panels:
        axes = one_axes(ax)
        rows, _ = shown_rows(scene, scene.codes)
        if scene.block is None or scene.x.levels is not None:
            draw_points(axes, scene, rows, fading(len(rows)))
        alpha = fading(6 * len(scene.codes)) * (1.0 if bins is None else 0.4)
        for code in scene.codes:
            _joined(axes, scene, code, bins, alpha)
        if bins is not None:
            for split in scene.split:
                rows = scene.of_split(np.arange(scene.design.n_rows), split)
                at, shares = _means(scene, rows, bins)
                color = POPULATION if split is None else scene.color(split)
                axes.plot(at, shares, "o-", color=color, linewidth=THICK, label="_all")
        finish(axes, scene, note)
        if scene.by is not None:
            color_legend(axes, scene)
        return axes
    grid = panel_axes(scene)
    for code, panel in zip(scene.codes, grid, strict=True):
        if scene.x.levels is not None:
            draw_points(panel, scene, shown_rows(scene, np.array([code]))[0], 0.8)
        _joined(panel, scene, code, bins, 0.9)
    finish_panels(grid, scene, note)
    return grid


def _strips(model: Model, factor: str | None, groups, ax: Axes) -> Axes:
    """The responses of each group above its label, and their mean."""
    design = model.design
    block = block_of(design, factor)
    codes, note = sampled(block, groups, _MOST_STRIPS)
    means = np.bincount(block.codes, design.y) / np.bincount(block.codes)
    codes = codes[np.argsort(means[codes], kind="stable")]
    place = np.full(block.n_levels, -1)
    place[codes] = np.arange(len(codes))
    rows = np.flatnonzero(place[block.codes] >= 0)
    at = place[block.codes[rows]]
    ax.plot(at, design.y[rows], ".", color=DATA, markersize=5, alpha=fading(len(rows)))
    ax.plot(np.arange(len(codes)), means[codes], "_", color=GROUP, markersize=10, label="mean")
    ax.set_xticks(np.arange(len(codes)), [str(block.levels[c]) for c in codes])
    longest = max(len(str(block.levels[c])) for c in codes)
    if longest * len(codes) > 45:
        ax.tick_params(axis="x", labelrotation=90, labelsize="small")
    ax.set(xlabel=block.name, ylabel=design.response)
    caption(ax, note)
    return ax


def _bins(scene: Scene) -> np.ndarray | None:
    """The bin of x of each row where the response has two values and x is a number."""
    two = scene.design.trials is None and len(np.unique(scene.design.y)) == 2
    if scene.block is None or scene.x.levels is not None or not two:
        return None
    at = scene.x.position(scene.design.predictors[scene.x.name])
    if len(np.unique(at)) <= _BINS:
        return np.unique(at, return_inverse=True)[1]
    inner = np.unique(np.quantile(at, np.arange(1, _BINS) / _BINS))
    return np.unique(np.searchsorted(inner, at, side="right"), return_inverse=True)[1]


def _means(scene: Scene, rows: np.ndarray, bins) -> tuple[np.ndarray, np.ndarray]:
    """Mean of x and of the response in each bin that has some of the rows."""
    at = scene.x.position(scene.design.predictors[scene.x.name].iloc[rows])
    means = pd.DataFrame({"x": at, "y": scene.y[rows]}).groupby(bins[rows]).mean()
    return means["x"].to_numpy(), means["y"].to_numpy()


def _joined(ax: Axes, scene: Scene, code: int, bins, alpha: float) -> None:
    """One group's observations joined; over a factor or bins, its mean at each."""
    assert scene.block is not None  # lines are of groups
    rows = np.flatnonzero(scene.block.codes == code)
    for split in scene.split:
        mine = scene.of_split(rows, split)
        at = scene.x.position(scene.design.predictors[scene.x.name].iloc[mine])
        y = scene.y[mine]
        if bins is not None:
            at, y = _means(scene, mine, bins)
        elif scene.x.levels is not None:
            means = pd.Series(y).groupby(at).mean()
            at, y = means.index.to_numpy(), means.to_numpy()
        else:
            order = np.argsort(at, kind="stable")
            at, y = at[order], y[order]
        ax.plot(
            at,
            y,
            ".-",
            color=scene.color(split),
            alpha=alpha,
            linewidth=THIN,
            markersize=4,
            label=f"_{scene.block.levels[code]}",
        )
