"""Estimates of several fits beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.errors import PlotError
from bayeslmm.plots.estimates import pick
from bayeslmm.plots.style import CYCLE, grid_of_axes, intervals, stack
from bayeslmm.results.comparison import compare_estimates

if TYPE_CHECKING:
    from bayeslmm.protocols import LikelihoodResult, PosteriorResult

__all__ = ["plot_compare"]

_MOST = 24


def plot_compare(
    *fits: PosteriorResult | LikelihoodResult,
    names: list[str] | None = None,
    parameters: str | list[str] | None = None,
    level: float = 0.95,
) -> np.ndarray:
    """Several fits, parameter by parameter, each panel on a scale of its own.

    Parameters
    ----------
    *fits : PosteriorResult or LikelihoodFit
        Or one table made by :func:`bayeslmm.compare_estimates`.
    names : list of str, optional
        What to call each fit.
    parameters : str or list of str, optional
        Rows of the table to draw; by default all, up to 24.
    level : float
        Level of the intervals.

    Returns
    -------
    ndarray of Axes
        One per parameter.

    Raises
    ------
    PlotError
        If there is no such parameter.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> model = blm.LMM("Yield ~ 1 + (1 | Batch)", blm.load_dataset("dyestuff"))
    >>> [ax.get_title() for ax in model.reml().plot_compare(model.ml())]
    ['Intercept', 'sd(Intercept | Batch)', 'sigma']
    """
    if len(fits) == 1 and isinstance(fits[0], pd.DataFrame):
        table = fits[0]
        if table.columns.nlevels != 2:
            raise PlotError("plot_compare takes fits, or the table of compare_estimates.")
    else:
        table = compare_estimates(*fits, names=names, level=level)
    rows = [str(row) for row in table.index]
    chosen = rows[:_MOST] if parameters is None else pick("parameter", parameters, rows)
    labels = list(table.columns.unique(0))
    panel = (3.0, 0.85 + 0.22 * len(labels))
    axes = grid_of_axes(len(chosen), columns=3, panel=panel)
    for ax, name in zip(axes, chosen, strict=True):
        row = table.iloc[rows.index(name)]
        for position, label in enumerate(labels):
            values = row[label]
            middle = values["mean"] if "mean" in values.index else values["estimate"]
            limits = np.array([values["lower"]]), np.array([values["upper"]])
            color = CYCLE[position % len(CYCLE)]
            intervals(ax, np.array([position]), np.array([middle]), *limits, color=color, width=1.8)
        stack(ax, labels, "small")
        ax.tick_params(axis="x", labelsize="small")
        ax.locator_params(axis="x", nbins=5)
        ax.set_title(name, fontsize="small")
    if len(chosen) < len(rows) and parameters is None:
        figure = axes[0].get_figure()
        text = f"{len(chosen)} of {len(rows)} parameters; name others in parameters="
        figure.suptitle(text, fontsize="small", color="0.35")
    return axes
