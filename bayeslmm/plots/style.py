"""What all plots share: colors, line widths, figures, and the note above an axes.

Colors are those of Okabe and Ito (2008, "Color Universal Design"), which readers with any common
kind of color blindness can tell apart. Nothing here touches matplotlib's global settings.
"""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.transforms import ScaledTranslation

__all__ = [
    "ALONE",
    "BAND",
    "CYCLE",
    "DATA",
    "GROUP",
    "MUTED",
    "POPULATION",
    "PRIOR",
    "THICK",
    "THIN",
    "caption",
    "fading",
    "grid_of_axes",
    "intervals",
    "legend_below",
    "one_axes",
    "stack",
    "stacked_axes",
]

GROUP = "#0072B2"  # groups, the posterior
ALONE = "#D55E00"  # each group alone
PRIOR = "#E69F00"  # priors
POPULATION = "#000000"
DATA = "0.55"
MUTED = "0.35"
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
THIN, THICK = 0.8, 2.4
BAND = 0.2  # opacity of a band of uncertainty


def one_axes(ax: Axes | None, size: tuple[float, float] = (6.4, 4.4)) -> Axes:
    """The axes given, or those of a new figure of `size` inches."""
    if ax is not None:
        return ax
    return plt.subplots(figsize=size, layout="constrained")[1]


def grid_of_axes(
    n: int, *, columns: int, panel: tuple[float, float], share: bool = False
) -> np.ndarray:
    """`n` axes of a new figure, `columns` side by side; those left over are hidden.

    Returns
    -------
    ndarray of Axes, shape (n,)
    """
    columns = max(1, min(columns, n))
    rows = math.ceil(n / columns)
    size = (panel[0] * columns, panel[1] * rows)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=size,
        layout="constrained",
        squeeze=False,
        sharex=share,
        sharey=share,
    )
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(w_pad=0.08, h_pad=0.08, wspace=0.03)
    flat = axes.ravel()
    for spare in flat[n:]:
        spare.set_visible(False)
    if share and rows > 1:  # tick labels under the last panel of a column that ends early
        for last in flat[n - columns : n]:
            last.tick_params(labelbottom=True)
    return flat[:n]


def stacked_axes(rows: list[int]) -> list[Axes]:
    """Axes of a new figure one below the other, as tall as so many named rows need."""
    heights = [0.6 + 0.3 * n for n in rows]
    axes = plt.subplots(
        len(rows),
        1,
        figsize=(6.4, max(2.0, 0.4 + sum(heights))),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )[1]
    return list(axes[:, 0])


def caption(ax: Axes, text: str | None) -> None:
    """A note above the axes, such as how many groups are shown."""
    if text:
        ax.set_title(text, fontsize="small", color=MUTED, loc="left")


def fading(n: int) -> float:
    """Opacity of one of `n` overlapping marks."""
    return float(np.clip(12 / math.sqrt(max(n, 1)), 0.12, 0.85))


def whole_figure(ax: Axes) -> Figure:
    """The figure that holds the axes, subfigures aside."""
    figure = ax.get_figure(root=True)
    assert figure is not None  # axes that were removed from theirs have none
    return figure


def legend_below(ax: Axes, handles=None, labels=None, *, title: str | None = None, columns=4):
    """A legend under the horizontal axis' label: never over the data, whatever the size."""
    figure = whole_figure(ax)
    down = ScaledTranslation(0, -0.5, figure.dpi_scale_trans)
    if handles is None:
        handles, labels = ax.get_legend_handles_labels()
    room = ax.get_position().width * figure.get_size_inches()[0]
    widths = [0.07 * len(label) + 0.55 for label in labels]  # inches: text, mark and gap
    columns = min(columns, len(labels))
    if columns < len(labels) or sum(widths) > 1.3 * room:
        columns = int(np.clip(1.25 * room // max(widths), 1, columns))
    legend = ax.legend(
        handles,
        labels,
        title=title,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        bbox_transform=ax.transAxes + down,
        ncols=columns,
        frameon=False,
        fontsize="small",
        title_fontsize="small",
        columnspacing=1.2,
        handletextpad=0.5,
        borderaxespad=0.0,
    )
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)
    return legend


def stack(ax: Axes, names: list[str], size: str = "medium") -> np.ndarray:
    """Names down the vertical axis, the first on top; their places, shape (len(names),)."""
    at = np.arange(len(names))
    ax.set_yticks(at, names)
    ax.tick_params(axis="y", length=0, labelsize=size)
    ax.set_ylim(len(names) - 0.4, -0.6)
    return at


def intervals(
    ax: Axes,
    at: np.ndarray,
    middle: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    *,
    color: str = GROUP,
    width: float = 1.2,
    size: float = 4.0,
    label: str | None = None,
    upright: bool = False,
) -> None:
    """Points with intervals at heights `at`, or upright at places; a missing limit draws none."""
    lower, upper = np.asarray(lower, dtype=float), np.asarray(upper, dtype=float)
    known = np.isfinite(lower) & np.isfinite(upper)
    lines = ax.vlines if upright else ax.hlines
    lines(np.asarray(at)[known], lower[known], upper[known], color=color, linewidth=width)
    places = (at, middle) if upright else (middle, at)
    ax.plot(*places, "o", color=color, markersize=size, label=label)
