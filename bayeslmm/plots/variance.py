"""Variance components, and the share of the variance each part of the model has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.plots.estimates import center, is_posterior
from bayeslmm.plots.style import GROUP, MUTED, grid_of_axes, intervals, stack
from bayeslmm.results.explained import fitted_parts
from bayeslmm.results.tables import check_level, interval_bounds

if TYPE_CHECKING:
    from bayeslmm.protocols import LikelihoodResult, PosteriorResult

__all__ = ["plot_variance"]


def plot_variance(fit: PosteriorResult | LikelihoodResult, *, level: float = 0.95) -> np.ndarray:
    """Standard deviations, correlations and shares of variance.

    Parameters
    ----------
    fit : PosteriorResult or LikelihoodFit
    level : float
        Level of the intervals: posterior, or Wald intervals on the log and Fisher's z scale.
        A component at its boundary has none.

    Returns
    -------
    ndarray of Axes
        Standard deviations (in units of the response, for a slope per unit of its covariate),
        correlations if there are any, and the share of the variance of the response that the
        fixed part, each grouping factor and the residual have, averaged over the rows (Nakagawa
        and Schielzeth 2013; Johnson 2014); with intervals for a posterior.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> fit = blm.LMM("Yield ~ 1 + (1 | Batch)", blm.load_dataset("dyestuff")).reml()
    >>> len(fit.plot_variance())
    2
    """
    check_level(level)
    table = fit.varcomp(level=level)
    known = fit.model.priors.components()
    is_corr = np.array([known[name][0].kind == "corr" for name in table.index], dtype=bool)
    names, shares, lower, upper = _shares(fit, level)
    tallest = max(int(np.count_nonzero(~is_corr)), int(np.count_nonzero(is_corr)), len(names))
    height = float(np.clip(1.1 + 0.32 * tallest, 2.4, 9.0))
    axes = grid_of_axes(3 if is_corr.any() else 2, columns=3, panel=(4.3, height))
    for ax, rows, label in zip(
        axes, (~is_corr, is_corr), ("standard deviation", "correlation"), strict=False
    ):
        if not rows.any():
            continue
        part = table[rows]
        middle = center(part).to_numpy()
        at = stack(ax, [known[name][1].label for name in part.index], "small")
        intervals(ax, at, middle, part["lower"], part["upper"])
        ax.set_xlabel(label)
        if label == "correlation":
            ax.set_xlim(-1.05, 1.05)
            ax.axvline(0, color=MUTED, linewidth=0.8, linestyle=":")
        else:
            ax.set_xlim(left=0)
    ax = axes[-1]
    at = stack(ax, names, "small")
    ax.barh(at, shares, color=GROUP, alpha=0.45, height=0.6)
    if lower is not None:
        ax.hlines(at, lower, upper, color=GROUP, linewidth=1.6)
    ax.set(xlabel="share of variance", xlim=(0, 1))
    return axes


def _shares(fit, level: float):
    """Names, shares and limits (None for a likelihood fit) of the parts of the variance."""
    parts = fitted_parts(fit)
    names = ["fixed part", *(block.name for block in fit.model.design.blocks), "residual"]
    stacked = np.concatenate(
        [np.asarray(parts.fixed)[..., None], parts.random, np.asarray(parts.residual)[..., None]],
        axis=-1,
    )
    shares = stacked / stacked.sum(axis=-1, keepdims=True)
    if not is_posterior(fit):
        return names, shares, None, None
    return names, shares.mean(axis=(0, 1)), *interval_bounds(shares, level)
