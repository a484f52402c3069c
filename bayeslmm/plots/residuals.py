"""Residuals against fitted values, and normal quantiles of residuals and random effects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri

from bayeslmm.plots.estimates import effects, fitted_values
from bayeslmm.plots.style import ALONE, DATA, GROUP, MUTED, caption, fading, grid_of_axes
from bayeslmm.results.response_checks import quantile_residuals

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayeslmm.protocols import LikelihoodResult, PosteriorResult

__all__ = ["normal_quantiles", "plot_residuals"]

_MOST_POINTS, _MOST_QUANTILES = 5000, 1000


def plot_residuals(fit: PosteriorResult | LikelihoodResult) -> np.ndarray:
    """Residuals against fitted values; normal quantiles of residuals and of random effects.

    Residuals are conditional on the random effects, at posterior means or estimates, and
    times the root of the weight where there are weights. Beyond 5,000 rows they are counted in
    hexagons. The line through them is the mean in twenty slices of equal counts. Of a response
    that is not Gaussian they are randomized quantile residuals, standard normal where the model is
    true, against the linear predictor.

    Parameters
    ----------
    fit : PosteriorResult or LikelihoodFit

    Returns
    -------
    ndarray of Axes
        Residuals against fitted, quantiles of residuals, then of each random effect.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> fit = blm.LMM("Yield ~ 1 + (1 | Batch)", blm.load_dataset("dyestuff")).reml()
    >>> len(fit.plot_residuals())
    3
    """
    design = fit.model.design
    fitted = fitted_values(fit)
    residual, label = design.y - fitted, "residual"
    if not design.family.gaussian:
        residual, label = quantile_residuals(fit), "quantile residual"
    elif design.weights is not None:
        residual, label = residual * np.sqrt(design.weights), "weighted residual"
        if design.se_name is not None:
            label = "residual / standard error"
    panels = [(block, j) for block in design.blocks for j in range(block.n_effects)]
    count = 2 + len(panels)
    columns = 2 if count == 4 else 3  # wider, and a page would shrink its text
    axes = grid_of_axes(count, columns=columns, panel=(3.2, 3.0))
    _against_fitted(axes[0], fitted, residual, label)
    if not design.family.gaussian:
        axes[0].set_xlabel("linear predictor")
    _quantile_plot(axes[1], residual, DATA, label)
    b = effects(fit)
    for ax, (block, j) in zip(axes[2:], panels, strict=True):
        values = b[design.blocks.index(block)][:, j]
        _quantile_plot(ax, values, GROUP, f"{block.effects[j]} | {block.name}")
    return axes


def normal_quantiles(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normal quantiles and the sorted values; thousands are thinned in the middle.

    Parameters
    ----------
    values : ndarray, shape (n,)

    Returns
    -------
    theory, ordered : ndarray, shape (m,)
        Plotting positions (i - 0.5) / n.
    """
    n = len(values)
    theory, ordered = ndtri((np.arange(n) + 0.5) / n), np.sort(values)
    if n <= _MOST_QUANTILES:
        return theory, ordered
    even = np.linspace(theory[0], theory[-1], _MOST_QUANTILES - 200)
    keep = np.unique(
        np.concatenate([np.arange(100), np.searchsorted(theory, even), np.arange(n - 100, n)])
    )
    keep = keep[keep < n]
    return theory[keep], ordered[keep]


def _quantile_plot(ax: Axes, values: np.ndarray, color: str, label: str) -> None:
    theory, ordered = normal_quantiles(values)
    low, high = np.quantile(values, [0.25, 0.75])
    slope = (high - low) / (2 * ndtri(0.75))
    ends = theory[[0, -1]]
    ax.plot(ends, (low + high) / 2 + slope * ends, color=MUTED, linewidth=1, linestyle="--")
    ax.plot(theory, ordered, ".", color=color, markersize=5)
    ax.set(xlabel="normal quantile", ylabel=label)


def _against_fitted(ax: Axes, fitted: np.ndarray, residual: np.ndarray, label: str) -> None:
    if len(fitted) > _MOST_POINTS:
        ax.hexbin(fitted, residual, gridsize=45, cmap="Greys", bins="log", mincnt=1, linewidths=0)
        caption(ax, f"{len(fitted):,} rows counted in hexagons")
    else:
        ax.plot(fitted, residual, ".", color=DATA, markersize=5, alpha=fading(len(fitted)))
    ax.axhline(0, color=MUTED, linewidth=1, linestyle="--")
    count = min(20, len(fitted) // 8)
    if count >= 3:
        slices = np.array_split(np.argsort(fitted, kind="stable"), count)
        mean = [residual[s].mean() for s in slices]
        ax.plot([fitted[s].mean() for s in slices], mean, color=ALONE, linewidth=1.5)
    ax.set(xlabel="fitted", ylabel=label)
