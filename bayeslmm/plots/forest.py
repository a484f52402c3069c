"""Forest plot of the coefficients.

ArviZ's own ``az.plot_forest(post.idata, var_names="beta")`` works on a posterior; this one draws
both kinds of fit alike, takes an axes, and leaves the intercept out, whose size would squeeze
the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.errors import PlotError
from bayeslmm.plots.estimates import center, pick
from bayeslmm.plots.style import GROUP, MUTED, intervals, one_axes, stack

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayeslmm.protocols import LikelihoodResult, PosteriorResult

__all__ = ["plot_forest"]


def plot_forest(
    fit: PosteriorResult | LikelihoodResult,
    coefficients: str | list[str] | None = None,
    *,
    level: float = 0.95,
    inner: float = 0.5,
    ax: Axes | None = None,
) -> Axes:
    """Coefficients with a wide and a narrow interval.

    Parameters
    ----------
    fit : PosteriorResult or LikelihoodFit
    coefficients : str or list of str, optional
        Which; by default all but the intercept (and that where it is the only one).
    level, inner : float
        Levels of the thin and the thick interval.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    PlotError
        If there is no such coefficient.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> fit = blm.LMM("score ~ Machine + (1 | Worker)", blm.load_dataset("machines")).reml()
    >>> [label.get_text() for label in fit.plot_forest().get_yticklabels()]
    ['Machine[B]', 'Machine[C]']
    """
    names = list(fit.model.design.coef_names)
    if not names:
        raise PlotError("The model has no coefficients to draw.")
    chosen = pick("coefficient", names if coefficients is None else coefficients, names)
    if coefficients is None and len(chosen) > 1:
        chosen = [name for name in chosen if name != "Intercept"]
    wide = fit.fixef(level=level).loc[chosen]
    narrow = fit.fixef(level=inner).loc[chosen]
    axes = one_axes(ax, (6.0, float(np.clip(1.2 + 0.3 * len(chosen), 2.0, 10.0))))
    at = stack(axes, chosen)
    axes.axvline(0, color=MUTED, linewidth=0.8, linestyle=":")
    intervals(axes, at, center(wide).to_numpy(), wide["lower"], wide["upper"], size=5)
    axes.hlines(at, narrow["lower"], narrow["upper"], color=GROUP, linewidth=3.5)
    axes.set_xlabel(f"coefficient, {100 * inner:g} % and {100 * level:g} % intervals")
    return axes
