"""Cook's distance of every group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.plots.style import GROUP, MUTED, one_axes
from bayeslmm.results.influence import influence_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayeslmm.protocols import LikelihoodResult, PosteriorResult

__all__ = ["plot_influence"]


def plot_influence(
    fit: PosteriorResult | LikelihoodResult,
    factor: str | None = None,
    *,
    named: int = 5,
    ax: Axes | None = None,
) -> Axes:
    """Cook's distance of every level, in their order, the largest with their labels.

    Parameters
    ----------
    fit : PosteriorResult or LikelihoodFit
    factor : str, optional
        Grouping factor; by default the first.
    named : int
        How many levels are labelled.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
        Levels without which coefficients are not determined have no line but a cross at the top.

    Raises
    ------
    KeyError, DataError
        As ``fit.influence``.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> fit = blm.LMM("score ~ Machine + (1 | Worker)", blm.load_dataset("machines")).reml()
    >>> fit.plot_influence().get_ylabel()
    "Cook's distance"
    """
    table = influence_table(fit, factor)
    distance = table["cooks_distance"].to_numpy()
    known = np.isfinite(distance)
    axes, at = one_axes(ax, (6.4, 3.4)), np.arange(len(distance))
    axes.vlines(at[known], 0.0, distance[known], color=GROUP, linewidth=1.2)
    axes.plot(at[known], distance[known], "o", color=GROUP, markersize=4)
    top = float(np.max(distance[known], initial=0.1))
    height = np.where(known, distance, top)
    axes.plot(at[~known], height[~known], "x", color=GROUP)
    for j in np.argsort(height)[::-1][:named]:
        axes.annotate(
            str(table.index[j]), (at[j], height[j]), (0, 4), textcoords="offset points",
            ha="center", fontsize="small", color=MUTED,
        )  # fmt: skip
    axes.set(
        xlabel=str(table.index.name), ylabel="Cook's distance", xticks=[], ylim=(0, 1.15 * top)
    )
    return axes
