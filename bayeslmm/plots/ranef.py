"""Caterpillar plot: the random effects of every level, sorted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.errors import PlotError
from bayeslmm.plots.estimates import block_of, center, is_posterior, pick
from bayeslmm.plots.style import MUTED, caption, grid_of_axes, intervals

if TYPE_CHECKING:
    from bayeslmm.protocols import LikelihoodResult, PosteriorResult

__all__ = ["plot_ranef"]


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
    if isinstance(groups, bool) or not isinstance(groups, int | np.integer) or groups < 2:
        raise PlotError(f"groups must be a number of levels, at least 2, not {groups!r}.")
    design = fit.model.design
    first = block_of(design, factor)
    blocks = design.blocks if factor is None else (first,)
    known = list(dict.fromkeys(e for block in blocks for e in block.effects))
    wanted = known if effects is None else pick("effect", effects, known)
    panels = [(block, e) for block in blocks for e in wanted if e in block.effects]
    tallest = max(min(block.n_levels, groups) for block, _ in panels)
    height = float(np.clip(1.0 + 0.16 * tallest, 2.8, 9.0))
    axes = grid_of_axes(len(panels), columns=4, panel=(3.3, height))
    options = {"diagnostics": False} if is_posterior(fit) else {}
    tables = {block.name: fit.ranef(block.name, level=level, **options) for block in blocks}
    for ax, (block, effect) in zip(axes, panels, strict=True):
        table = tables[block.name]
        table = table[table["effect"] == effect]
        order = np.argsort(center(table).to_numpy(), kind="stable")
        note = None
        if len(order) > groups:
            order = order[np.linspace(0, len(order) - 1, groups).astype(int)]
            note = f"{groups} of {block.n_levels:,} levels, evenly by rank"
        shown = table.iloc[order]
        at = np.arange(len(shown))
        ax.axvline(0, color=MUTED, linewidth=0.8, linestyle=":")
        intervals(ax, at, center(shown).to_numpy(), shown["lower"], shown["upper"], size=3)
        ax.set_yticks(at, [str(label) for label in shown["level"]])
        size = "small" if len(shown) <= 25 else "x-small"
        ax.tick_params(axis="y", labelsize=size, length=0)
        ax.set_ylim(-1, len(shown))
        ax.set(xlabel=effect, ylabel=block.name)
        caption(ax, note)
    return axes
