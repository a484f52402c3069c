"""The data before any fit: each group's observations joined by a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.errors import PlotError
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
from bayeslmm.plots.style import THIN, fading, one_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayeslmm.model import LMM

__all__ = ["plot_data"]


def plot_data(
    model: LMM,
    x: str | None = None,
    *,
    factor: str | None = None,
    by: str | None = None,
    groups=None,
    panels: bool = False,
    ax: Axes | None = None,
) -> Axes | np.ndarray:
    """The data before any fit: every group's observations joined by a line.

    Over a factor the line joins the group's means, and points are side by side.

    Parameters
    ----------
    model : LMM
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
    >>> len(model.plot_data().lines)
    6
    """
    if panels and ax is not None:
        raise PlotError("panels=True makes a figure of its own: leave ax out.")
    scene = build_scene(model, x, factor, by, groups, panels)
    if not panels:
        axes = one_axes(ax)
        rows, _ = shown_rows(scene, scene.codes)
        if scene.block is None or scene.x.levels is not None:
            draw_points(axes, scene, rows, fading(len(rows)))
        for code in scene.codes:
            _joined(axes, scene, code, fading(6 * len(scene.codes)))
        finish(axes, scene, scene.note)
        if scene.by is not None:
            color_legend(axes, scene)
        return axes
    axes = panel_axes(scene)
    for code, panel in zip(scene.codes, axes, strict=True):
        if scene.x.levels is not None:
            draw_points(panel, scene, shown_rows(scene, np.array([code]))[0], 0.8)
        _joined(panel, scene, code, 0.9)
    finish_panels(axes, scene, scene.note)
    return axes


def _joined(ax: Axes, scene: Scene, code: int, alpha: float) -> None:
    """One group's observations joined; over a factor, its mean at each level."""
    rows = np.flatnonzero(scene.block.codes == code)
    for split in scene.split:
        mine = rows
        if split is not None:
            mine = rows[(scene.design.columns[scene.by].iloc[rows] == split).to_numpy()]
        at = scene.x.position(scene.design.columns[scene.x.name].iloc[mine])
        y = scene.design.y[mine]
        if scene.x.levels is None:
            order = np.argsort(at, kind="stable")
        else:
            means = pd.Series(y).groupby(at).mean()
            at, y = means.index.to_numpy(), means.to_numpy()
            order = np.arange(len(at))
        ax.plot(
            at[order],
            y[order],
            ".-",
            color=scene.color(split),
            alpha=alpha,
            linewidth=THIN,
            markersize=4,
            label=f"_{scene.block.levels[code]}",
        )
