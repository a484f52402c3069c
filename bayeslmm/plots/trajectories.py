"""The fan: data, the population's line and the lines of the groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.errors import PlotError
from bayeslmm.formula import Design
from bayeslmm.formula.random import RandomBlock
from bayeslmm.plots.estimates import (
    block_of,
    coefficients,
    effects,
    is_posterior,
    pick,
    sampled,
)
from bayeslmm.plots.reference import (
    Horizontal,
    held_values,
    horizontal,
    is_factor,
    level_values,
    predictors,
    varies_within,
)
from bayeslmm.plots.style import (
    BAND,
    CYCLE,
    DATA,
    GROUP,
    POPULATION,
    THICK,
    THIN,
    caption,
    fading,
    grid_of_axes,
    legend_below,
    one_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayeslmm.model import LMM
    from bayeslmm.results.likelihood import LikelihoodFit
    from bayeslmm.results.posterior import PosteriorFit

__all__ = ["plot_data", "plot_trajectories"]

_MOST_LINES, _MOST_PANELS, _MOST_POINTS, _DRAWS = 200, 20, 4000, 1000


@dataclass(frozen=True)
class _Scene:
    """What is drawn: one grouping factor's levels over x, perhaps split by a factor."""

    design: Design
    block: RandomBlock | None
    x: Horizontal
    by: str | None
    split: list  # levels of `by`, or [None]
    codes: np.ndarray  # levels drawn
    held: dict
    note: str | None

    def color(self, level) -> str:
        return GROUP if self.by is None else CYCLE[self.split.index(level)]


def plot_trajectories(
    fit: PosteriorFit | LikelihoodFit,
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
    group and x together determine their level, as with ``Worker:Machine`` over ``Machine``.

    Parameters
    ----------
    fit : PosteriorFit or LikelihoodFit
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
        posterior, or, for a likelihood fit with one grouping factor, of the prediction.
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
    if panels and ax is not None:
        raise PlotError("panels=True makes a figure of its own: leave ax out.")
    scene = _scene(fit.model, x, factor, by, groups, _MOST_PANELS if panels else _MOST_LINES)
    if panels:
        return _small_multiples(fit, scene, level)
    return _fan(fit, scene, level, one_axes(ax))


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
        As in :func:`plot_trajectories`.

    Returns
    -------
    Axes, or an array of them with `panels`

    Raises
    ------
    PlotError
        As :func:`plot_trajectories`.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> model = blm.LMM("score ~ Machine + (1 | Worker)", blm.load_dataset("machines"))
    >>> len(model.plot_data().lines)
    6
    """
    if panels and ax is not None:
        raise PlotError("panels=True makes a figure of its own: leave ax out.")
    scene = _scene(model, x, factor, by, groups, _MOST_PANELS if panels else _MOST_LINES)
    if not panels:
        axes = one_axes(ax)
        rows, thinned = _shown_rows(scene, scene.codes)
        if scene.block is None or scene.x.levels is not None:
            _points(axes, scene, rows, fading(len(rows)))
        for code in scene.codes:
            _spaghetti(axes, scene, code, fading(6 * len(scene.codes)))
        _finish(axes, scene, scene.note)
        if scene.by is not None:
            _color_legend(axes, scene)
        return axes
    axes = _panel_axes(scene)
    for code, panel in zip(scene.codes, axes, strict=True):
        if scene.x.levels is not None:
            _points(panel, scene, _shown_rows(scene, np.array([code]))[0], 0.8)
        _spaghetti(panel, scene, code, 0.9)
    _finish_panels(axes, scene, scene.note)
    return axes


def _scene(model: LMM, x, factor, by, groups, most: int) -> _Scene:
    design = model.design
    block = block_of(design, factor) if design.blocks or factor is not None else None
    names = predictors(design)
    over = horizontal(design, block, x)
    split: list = [None]
    if by is not None:
        grouping = [c for b in design.blocks for c in b.factor.columns]
        pick("factor for by=", [by], [n for n in names if is_factor(design, n)])
        split = level_values(design, by)
        if by == over.name:
            raise PlotError(f"by={by!r} is already the horizontal axis.")
        if len(split) > len(CYCLE):
            hint = " It is a grouping factor: use factor=." if by in grouping else ""
            raise PlotError(
                f"by={by!r} has {len(split)} levels; {len(CYCLE)} colors are all.{hint}"
            )
    codes, note = (np.array([], dtype=int), None) if block is None else sampled(block, groups, most)
    held = held_values(design, [n for n in names if n not in (over.name, by)])
    return _Scene(design, block, over, by, split, codes, held, note)


def _fan(fit, scene: _Scene, level: float, ax: Axes) -> Axes:
    block = scene.block
    rows, thinned = _shown_rows(scene, scene.codes)
    points = _points(ax, scene, rows, fading(len(rows)) if block is not None else 0.4)
    lines, keep = [], {}
    for code, split, frame in _group_frames(scene):
        curve = _group_curve(fit, scene, frame, keep)
        marker = "o" if len(frame) == 1 else None
        lines += ax.plot(
            scene.x.position(frame[scene.x.name]),
            curve,
            color=scene.color(split),
            linewidth=THIN,
            alpha=fading(3 * len(scene.codes)),
            marker=marker,
            markersize=3,
            label=f"_{code}",
        )
    population = _population(fit, scene, level, ax)
    _finish(ax, scene, _notes(scene, scene.note, thinned))
    if scene.by is None:
        handles = [points, *lines[:1], population]
        labels = ["data", *([f"{block.name} lines"] if lines else [])]
        labels.append(f"population ({100 * level:g} %)")
        legend_below(ax, handles, labels)
    else:
        _color_legend(ax, scene)
    return ax


def _small_multiples(fit, scene: _Scene, level: float) -> np.ndarray:
    if scene.block is None:
        raise PlotError("The model has no random effects, so there are no groups to draw.")
    axes = _panel_axes(scene)
    panel_of = dict(zip(scene.codes, axes, strict=True))
    keep: dict = {}
    for code, panel in panel_of.items():
        rows, _ = _shown_rows(scene, np.array([code]))
        _points(panel, scene, rows, 0.8)
    for code, split, frame in _group_frames(scene):
        panel, at = panel_of[code], scene.x.position(frame[scene.x.name])
        color = scene.color(split)
        curve = _group_curve(fit, scene, frame, keep)
        panel.plot(at, curve, color=color, linewidth=1.6, marker="o" if len(at) == 1 else None)
        bounds = _group_band(fit, scene, frame, level, keep)
        if bounds is not None:
            panel.fill_between(at, *bounds, color=color, alpha=BAND, linewidth=0)
        flat = fit.predict(frame, random="population", level=level)
        line = flat["mean"] if "mean" in flat.columns else flat["estimate"]
        panel.plot(at, line, color=POPULATION, linewidth=THIN, linestyle="--")
    shown = _notes(scene, scene.note, None)
    _finish_panels(axes, scene, "; ".join(t for t in (shown, "dashed: population") if t))
    return axes


def _population(fit, scene: _Scene, level: float, ax: Axes):
    """Population lines with bands; returns what a legend shows."""
    design, handle = scene.design, None
    for split in scene.split:
        values = design.columns[scene.x.name].to_numpy()
        if split is not None:
            values = values[(design.columns[scene.by] == split).to_numpy()]
        frame = pd.DataFrame({scene.x.name: scene.x.grid(values)}).assign(**scene.held)
        if split is not None:
            frame[scene.by] = split
        table = fit.predict(frame, random="population", level=level)
        at = scene.x.position(frame[scene.x.name])
        color = POPULATION if scene.by is None else scene.color(split)
        line = table["mean"] if "mean" in table.columns else table["estimate"]
        (curve,) = ax.plot(
            at,
            line,
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


def _group_frames(scene: _Scene):
    """(code, level of by, rows to draw a line through) for every line."""
    design, block = scene.design, scene.block
    if block is None:
        return
    own = [n for n in scene.held if not varies_within(design, n, block.codes)]
    order = np.argsort(block.codes, kind="stable")
    starts = np.searchsorted(block.codes[order], np.arange(block.n_levels + 1))
    for code in scene.codes:
        rows = order[starts[code] : starts[code + 1]]
        columns = design.columns.iloc[rows]
        for split in scene.split:
            part = columns if split is None else columns[(columns[scene.by] == split).to_numpy()]
            if not len(part):
                continue
            grid = scene.x.grid(part[scene.x.name].to_numpy())
            frame = pd.DataFrame({scene.x.name: grid})
            first = part.iloc[0]
            for name in design.columns.columns:
                if name == scene.x.name or name == design.response:
                    continue
                fixed = scene.held.get(name) if name not in own else None
                frame[name] = first[name] if fixed is None else fixed
            yield code, split, frame


def _included(scene: _Scene) -> list[int]:
    """Grouping factors whose level the group, x and by determine together."""
    known = {*scene.block.factor.columns, scene.x.name, scene.by}
    blocks = enumerate(scene.design.blocks)
    return [k for k, block in blocks if set(block.factor.columns) <= known]


def _group_curve(fit, scene: _Scene, frame: pd.DataFrame, keep: dict) -> np.ndarray:
    """Point estimates of one group's line; NaN where a combination was not seen."""
    if "point" not in keep:
        keep["point"] = coefficients(fit), effects(fit)
    beta, b = keep["point"]
    rows = scene.design.evaluate(frame)
    values = rows.offset + rows.X @ beta
    for k in _included(scene):
        term = np.einsum("iq,iq->i", rows.Z[k], b[k][rows.codes[k]])
        values = values + np.where(rows.codes[k] < 0, np.nan, term)
    return values


def _group_band(fit, scene: _Scene, frame: pd.DataFrame, level: float, keep: dict):
    """Lower and upper limits of one group's line, or None where there are none to be had."""
    if not is_posterior(fit):
        if len(_included(scene)) < len(scene.design.blocks):
            return None
        table = fit.predict(frame, random="conditional", level=level)
        return table["lower"], table["upper"]
    if "draws" not in keep:
        posterior = fit.posterior.stack(sample=("chain", "draw"))
        count = posterior.sizes["sample"]
        at = np.unique(np.linspace(0, count - 1, min(count, _DRAWS)).astype(int))
        thin = posterior.isel(sample=at).transpose("sample", ...)
        keep["draws"] = thin
    thin, rows = keep["draws"], scene.design.evaluate(frame)
    values = np.tile(rows.offset, (thin.sizes["sample"], 1))
    if rows.X.shape[1]:
        values = values + thin["beta"].to_numpy() @ rows.X.T
    for k in _included(scene):
        b = thin[fit.names.factors[k].b].to_numpy()[:, rows.codes[k]]
        term = np.einsum("siq,iq->si", b, rows.Z[k])
        values = values + np.where(rows.codes[k] < 0, np.nan, term)
    tail = (1 - level) / 2
    return np.quantile(values, [tail, 1 - tail], axis=0)


def _shown_rows(scene: _Scene, codes: np.ndarray) -> tuple[np.ndarray, str | None]:
    """Rows of the levels drawn, thinned beyond a few thousand, and a note if so."""
    if scene.block is None:
        rows = np.arange(scene.design.n_rows)
    else:
        rows = np.flatnonzero(np.isin(scene.block.codes, codes))
    if len(rows) <= _MOST_POINTS:
        return rows, None
    kept = np.sort(np.random.default_rng(0).choice(rows, _MOST_POINTS, replace=False))
    return kept, f"{_MOST_POINTS:,} of their {len(rows):,} rows"


def _points(ax: Axes, scene: _Scene, rows: np.ndarray, alpha: float):
    columns = scene.design.columns.iloc[rows]
    at = scene.x.position(columns[scene.x.name])
    if scene.x.levels is not None:  # a factor: side by side instead of on top of each other
        at = at + np.random.default_rng(1).uniform(-0.12, 0.12, len(at))
    handle = None
    for split in scene.split:
        mine = (
            np.ones(len(rows), bool) if split is None else (columns[scene.by] == split).to_numpy()
        )
        color = DATA if split is None else scene.color(split)
        (handle,) = ax.plot(
            at[mine],
            scene.design.y[rows][mine],
            ".",
            color=color,
            alpha=alpha if split is None else 0.6 * alpha,
            markersize=4,
            label="_data",
        )
    return handle


def _spaghetti(ax: Axes, scene: _Scene, code: int, alpha: float) -> None:
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


def _panel_axes(scene: _Scene) -> np.ndarray:
    if scene.block is None:
        raise PlotError("The model has no random effects, so there are no groups to draw.")
    columns = int(np.ceil(np.sqrt(1.4 * len(scene.codes))))
    axes = grid_of_axes(len(scene.codes), columns=columns, panel=(1.75, 1.6), share=True)
    for code, panel in zip(scene.codes, axes, strict=True):
        panel.set_title(str(scene.block.levels[code]), fontsize="small")
        panel.tick_params(labelsize="small")
    return axes


def _finish(ax: Axes, scene: _Scene, note: str | None) -> None:
    scene.x.label(ax)
    ax.set_ylabel(scene.design.response)
    caption(ax, note)


def _finish_panels(axes: np.ndarray, scene: _Scene, note: str | None) -> None:
    figure = axes[0].figure
    scene.x.label(axes[0])
    for panel in axes:
        panel.set_xlabel("")
    figure.supxlabel(scene.x.name, fontsize="medium")
    figure.supylabel(scene.design.response, fontsize="medium")
    head = f"by {scene.block.name}" + (f"; {note}" if note else "")
    figure.suptitle(head, fontsize="small", color="0.35")
    if scene.by is not None:
        handles = [axes[0].plot([], [], color=scene.color(s), label=str(s))[0] for s in scene.split]
        figure.legend(
            handles=handles,
            title=scene.by,
            loc="outside right center",
            frameon=False,
            fontsize="small",
        )


def _notes(scene: _Scene, *texts: str | None) -> str | None:
    held = [
        f"{name} = {value:.3g}" if isinstance(value, float) else f"{name} = {value}"
        for name, value in scene.held.items()
    ]
    parts = [text for text in texts if text]
    if held:
        parts.append("lines at " + ", ".join(held))
    return ";\n".join(parts) or None


def _color_legend(ax: Axes, scene: _Scene) -> None:
    handles = [ax.plot([], [], color=scene.color(s), linewidth=THICK)[0] for s in scene.split]
    legend_below(ax, handles, [str(s) for s in scene.split], title=scene.by)
