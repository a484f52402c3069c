"""Forest plot of the coefficients.

ArviZ's own ``az.plot_forest(post.idata, var_names="beta")`` works on a posterior; this one draws
both kinds of fit alike, takes an axes, and leaves the intercept out, whose size would squeeze
the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.errors import PlotError
from bayeslmm.plots.estimates import center, pick, scale_of, units
from bayeslmm.plots.style import GROUP, MUTED, caption, intervals, stack, stacked_axes

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
) -> Axes | np.ndarray:
    """Coefficients with a wide and a narrow interval, those of one unit on one axis.

    Differences between levels of factors are in units of the response (of the linear predictor
    where that is not Gaussian) and share an axis; the coefficients of each number, in these per
    unit of it, have their own.

    Parameters
    ----------
    fit : PosteriorResult or LikelihoodFit
    coefficients : str or list of str, optional
        Which; by default all but the intercept (and that where it is the only one).
    level, inner : float
        Levels of the thin and the thick interval.
    ax : matplotlib Axes, optional
        For coefficients of one unit.

    Returns
    -------
    Axes, or ndarray of Axes
        Several, one below the other, where the coefficients have several units.

    Raises
    ------
    PlotError
        If there is no such coefficient, or one axes is given for several units.

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
    design = fit.model.design
    unit_of = units([design])
    groups: dict[str, list[str]] = {}
    for name in chosen:
        groups.setdefault(unit_of.get(name, ""), []).append(name)
    if ax is not None and len(groups) > 1:
        raise PlotError(
            f"The coefficients have {len(groups)} units, an axis for each: leave out ax, or name "
            f"those of one, such as coefficients={next(iter(groups.values()))}."
        )
    wide, narrow = fit.fixef(level=level), fit.fixef(level=inner)
    sizes = [len(group) for group in groups.values()]
    axes = [ax] if ax is not None else stacked_axes(sizes)
    for panel, (unit, group) in zip(axes, groups.items(), strict=True):
        at = stack(panel, group)
        panel.axvline(0, color=MUTED, linewidth=0.8, linestyle=":")
        rows = wide.loc[group]
        intervals(panel, at, center(rows).to_numpy(), rows["lower"], rows["upper"], size=5)
        panel.hlines(at, narrow["lower"][group], narrow["upper"][group], color=GROUP, linewidth=3.5)
        panel.set_xlabel(scale_of(design, unit))
    caption(axes[0], f"coefficients, {100 * inner:g} % and {100 * level:g} % intervals")
    return axes[0] if len(axes) == 1 else np.array(axes, dtype=object)
