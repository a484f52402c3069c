"""Caterpillar plot: the random effects of every level, sorted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.errors import PlotError
from bayeslmm.plots.estimates import block_of, center, is_posterior, pick
from bayeslmm.plots.style import MUTED, caption, grid_of_axes, intervals

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from bayeslmm.protocols import LikelihoodResult, PosteriorResult

__all__ = ["caterpillar", "evenly_by_rank", "plot_ranef"]


def plot_ranef(
    fit: PosteriorResult | LikelihoodResult,
    factor: str | None = None,
    *,
    effects: str | list[str] | None = None,
    level: float = 0.95,
    groups: int = 50,
) -> np.ndarray:
    """Random effects with intervals, one panel per effect, each sorted by its estimate.

    Parameters
    ----------
    fit : PosteriorResult or LikelihoodFit
    factor : str, optional
        One grouping factor; by default all of them.
    effects : str or list of str, optional
        Some of its effects; by default all.
    level : float
        Probability inside the intervals: of the posterior, or given the variance components.
    groups : int
        Beyond this many levels, that many are drawn, evenly spaced in rank from the lowest
        to the highest; the caption says so.

    Returns
    -------
    ndarray of Axes
        One per effect, in the order of the grouping factors.

    Raises
    ------
    PlotError
        If there is no such factor or effect.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> fit = blm.LMM("Yield ~ 1 + (1 | Batch)", blm.load_dataset("dyestuff")).reml()
    >>> [ax.get_xlabel() for ax in fit.plot_ranef()]
    ['Intercept']
    """
    design = fit.model.design
    first = block_of(design, factor)
    blocks = design.blocks if factor is None else (first,)
    known = list(dict.fromkeys(e for block in blocks for e in block.effects))
    wanted = known if effects is None else pick("effect", effects, known)
    panels = [(block, e) for block in blocks for e in wanted if e in block.effects]
    tallest = max(min(block.n_levels, _checked(groups)) for block, _ in panels)
    height = float(np.clip(1.0 + 0.16 * tallest, 2.8, 9.0))
    axes = grid_of_axes(len(panels), columns=4, panel=(3.3, height))
    options = {"diagnostics": False} if is_posterior(fit) else {}
    tables = {block.name: fit.ranef(block.name, level=level, **options) for block in blocks}
    for ax, (block, effect) in zip(axes, panels, strict=True):
        table = tables[block.name]
        table = table[table["effect"] == effect]
        order, note = evenly_by_rank(center(table).to_numpy(), groups)
        shown = table.iloc[order]
        ax.axvline(0, color=MUTED, linewidth=0.8, linestyle=":")
        caterpillar(ax, shown["level"], center(shown), shown["lower"], shown["upper"])
        ax.set(xlabel=effect, ylabel=block.name)
        caption(ax, note)
    return axes


def _checked(groups: int) -> int:
    """A number of levels to draw.

    Raises
    ------
    PlotError
    """
    if isinstance(groups, bool) or not isinstance(groups, int | np.integer) or groups < 2:
        raise PlotError(f"groups must be a number of levels, at least 2, not {groups!r}.")
    return int(groups)


def evenly_by_rank(values: np.ndarray, groups: int) -> tuple[np.ndarray, str | None]:
    """Order of values from lowest to highest, of at most so many, and a note if not of all.

    Raises
    ------
    PlotError
        If the number is below 2.
    """
    order = np.argsort(values, kind="stable")
    if len(order) <= _checked(groups):
        return order, None
    order = order[np.linspace(0, len(order) - 1, groups).astype(int)]
    return order, f"{groups} of {len(values):,} levels, evenly by rank"


def caterpillar(ax: Axes, names: pd.Series, middle: pd.Series, lower, upper) -> None:
    """Points with intervals and their names, from below."""
    at = np.arange(len(names))
    intervals(ax, at, middle.to_numpy(), lower, upper, size=3)
    ax.set_yticks(at, [str(name) for name in names])
    ax.tick_params(axis="y", labelsize="small", length=0)
    ax.set_ylim(-1, len(names))
