"""What a picture of trajectories shows: rows, lines, colors and captions."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.errors import PlotError
from bayeslmm.formula import Design
from bayeslmm.formula.random import RandomBlock
from bayeslmm.plots.estimates import block_of, pick, sampled
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
    CYCLE,
    DATA,
    GROUP,
    MUTED,
    THICK,
    caption,
    grid_of_axes,
    legend_below,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayeslmm.protocols import Model

__all__ = [
    "Line",
    "Scene",
    "build_scene",
    "color_legend",
    "draw_points",
    "finish",
    "finish_panels",
    "group_lines",
    "included_factors",
    "notes",
    "panel_axes",
    "shown_rows",
]

_MOST_LINES, _MOST_PANELS, _MOST_POINTS = 200, 20, 4000


@dataclass(frozen=True)
class Scene:
    """What is drawn: one grouping factor's levels over x, perhaps split by a factor."""

    design: Design
    block: RandomBlock | None
    x: Horizontal
    by: str | None
    split: list  # levels of `by`, or [None]
    codes: np.ndarray  # levels drawn
    held: dict
    note: str | None

    @cached_property
    def y(self) -> np.ndarray:
        """Responses as they are drawn: counts of trials as shares."""
        design = self.design
        return design.y if design.trials is None else design.y / design.trials

    @property
    def y_label(self) -> str:
        """What stands beside the vertical axis."""
        design = self.design
        return design.response if design.trials is None else f"share of {design.response}"

    def of_split(self, rows: np.ndarray, level) -> np.ndarray:
        """Those of some rows that have a level of `by`; all of them where there is none."""
        if level is None:
            return rows
        return rows[(self.design.predictors[self.by].iloc[rows] == level).to_numpy()]

    def color(self, level) -> str:
        """Color of a level of `by`."""
        return GROUP if self.by is None else CYCLE[self.split.index(level)]


@dataclass(frozen=True)
class Line:
    """One line of a group: its level, the level of `by`, and the rows it is drawn through."""

    code: int
    split: object
    frame: pd.DataFrame


def build_scene(model: Model, x, factor, by, groups, panels: bool) -> Scene:
    """Choose what to draw; arguments as in :func:`bayeslmm.plots.plot_trajectories`.

    Raises
    ------
    PlotError
        If a name or level is not there.
    """
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
    most = _MOST_PANELS if panels else _MOST_LINES
    codes, note = (np.array([], dtype=int), None) if block is None else sampled(block, groups, most)
    held = held_values(design, [n for n in names if n not in (over.name, by)])
    return Scene(design, block, over, by, split, codes, held, note)


def group_lines(scene: Scene) -> list[Line]:
    """The rows through which every group's line is drawn, within its own range of x."""
    design, block = scene.design, scene.block
    if block is None:
        return []
    own = [n for n in scene.held if not varies_within(design, n, block.codes)]
    order = np.argsort(block.codes, kind="stable")
    starts = np.searchsorted(block.codes[order], np.arange(block.n_levels + 1))
    copied = [n for n in design.columns.columns if n not in (scene.x.name, design.response)]
    lines = []
    for code in scene.codes:
        rows = order[starts[code] : starts[code + 1]]
        for split in scene.split:
            mine = scene.of_split(rows, split)
            if not len(mine):
                continue
            grid = scene.x.grid(design.predictors[scene.x.name].iloc[mine].to_numpy())
            first = design.predictors.iloc[mine[0]]
            values = {
                name: scene.held[name] if name in scene.held and name not in own else first[name]
                for name in copied
            }
            frame = pd.DataFrame(
                {scene.x.name: grid} | {k: [v] * len(grid) for k, v in values.items()}
            )
            lines.append(Line(int(code), split, frame))
    return lines


def included_factors(scene: Scene) -> list[int]:
    """Grouping factors whose level the group, x and by determine together.

    Not by x on a numeric axis: most points of a line are between the values that occur, where a
    level such as a subject's day is a new one.
    """
    assert scene.block is not None  # lines are of groups
    known = {*scene.block.factor.columns, scene.by}
    if scene.x.levels is not None:
        known.add(scene.x.name)
    blocks = enumerate(scene.design.blocks)
    return [k for k, block in blocks if set(block.factor.columns) <= known]


def shown_rows(scene: Scene, codes: np.ndarray) -> tuple[np.ndarray, str | None]:
    """Rows of the levels drawn, thinned beyond a few thousand, and a note if so."""
    if scene.block is None:
        rows = np.arange(scene.design.n_rows)
    else:
        rows = np.flatnonzero(np.isin(scene.block.codes, codes))
    if len(rows) <= _MOST_POINTS:
        return rows, None
    kept = np.sort(np.random.default_rng(0).choice(rows, _MOST_POINTS, replace=False))
    return kept, f"{_MOST_POINTS:,} of {len(rows):,} rows"


def draw_points(ax: Axes, scene: Scene, rows: np.ndarray, alpha: float):
    """The data of some rows as dots; returns what a legend shows."""
    at = np.zeros(scene.design.n_rows)
    at[rows] = scene.x.position(scene.design.predictors[scene.x.name].iloc[rows])
    if scene.x.levels is not None:  # a factor: side by side instead of on top of each other
        at[rows] += np.random.default_rng(1).uniform(-0.12, 0.12, len(rows))
    handle = None
    for split in scene.split:
        mine = scene.of_split(rows, split)
        color = DATA if split is None else scene.color(split)
        (handle,) = ax.plot(
            at[mine],
            scene.y[mine],
            ".",
            color=color,
            alpha=alpha if split is None else 0.6 * alpha,
            markersize=4,
            label="_data",
        )
    return handle


def panel_axes(scene: Scene) -> np.ndarray:
    """One small axes per level drawn, on common scales."""
    if scene.block is None:
        raise PlotError("The model has no random effects, so there are no groups to draw.")
    least = int(np.ceil(np.sqrt(len(scene.codes))))
    columns = min(range(least, least + 3), key=lambda k: -len(scene.codes) % k)
    axes = grid_of_axes(len(scene.codes), columns=columns, panel=(1.75, 1.6), share=True)
    for code, panel in zip(scene.codes, axes, strict=True):
        panel.set_title(str(scene.block.levels[code]), fontsize="small")
        panel.tick_params(labelsize="small")
    return axes


def finish(ax: Axes, scene: Scene, note: str | None) -> None:
    """Labels and caption of a single axes."""
    scene.x.label(ax)
    ax.set_ylabel(scene.y_label)
    _name_categories(ax, scene)
    caption(ax, note)


def _name_categories(ax: Axes, scene: Scene) -> None:
    """Categories by their names, not by the numbers they are counted by."""
    names = scene.design.categories
    if names and scene.design.trials is None:
        ax.set_yticks(np.arange(len(names)), names)


def finish_panels(axes: np.ndarray, scene: Scene, note: str | None) -> None:
    """Labels, caption and legend of small multiples."""
    figure = axes[0].figure
    scene.x.label(axes[0])
    _name_categories(axes[0], scene)
    for panel in axes:
        panel.set_xlabel("")
    figure.supxlabel(scene.x.name, fontsize="medium")
    figure.supylabel(scene.y_label, fontsize="medium")
    assert scene.block is not None  # there is a panel per group
    head = f"by {scene.block.name}" + (f"; {note}" if note else "")
    figure.suptitle(head, fontsize="small", color=MUTED)
    if scene.by is not None:
        handles = [axes[0].plot([], [], color=scene.color(s), label=str(s))[0] for s in scene.split]
        figure.legend(
            handles=handles,
            title=scene.by,
            loc="outside right center",
            frameon=False,
            fontsize="small",
        )


def notes(scene: Scene, *texts: str | None, what: str = "lines") -> str | None:
    """The caption: what was left out, and what other predictors are held at."""
    held = [
        f"{name} = {value:.3g}" if isinstance(value, float) else f"{name} = {value}"
        for name, value in scene.held.items()
    ]
    parts = [text for text in texts if text]
    if held:
        more = f" and {len(held) - 6} more held likewise" if len(held) > 6 else ""
        parts.append(textwrap.fill(f"{what} at " + ", ".join(held[:6]) + more, 75))
    return ";\n".join(parts) or None


def color_legend(ax: Axes, scene: Scene) -> None:
    """Which color is which level of `by`."""
    handles = [ax.plot([], [], color=scene.color(s), linewidth=THICK)[0] for s in scene.split]
    legend_below(ax, handles, [str(s) for s in scene.split], title=scene.by)
