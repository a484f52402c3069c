"""Variance components, and the share of the variance each part of the model has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.parts.parameters import sd_key
from bayeslmm.plots.estimates import center, is_posterior, scale_of, units
from bayeslmm.plots.style import GROUP, MUTED, grid_of_axes, intervals, stack
from bayeslmm.results.explained import fitted_parts
from bayeslmm.results.tables import check_level, interval_bounds

if TYPE_CHECKING:
    from bayeslmm.protocols import LikelihoodResult, PosteriorResult

__all__ = ["plot_variance"]

_CORRELATION = "correlation"


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
        Standard deviations in units of the response (of the linear predictor where that is not
        Gaussian), those of slopes per unit of their covariate, correlations, and other parameters,
        each kind on an axis of its own; and the share of the variance of the response that the
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
    scales = _scales(fit)
    labels = np.array([scales[name] for name in table.index], dtype=object)
    panels = list(dict.fromkeys(labels))
    names, shares, lower, upper = _shares(fit, level)
    tallest = max(*(int(np.count_nonzero(labels == label)) for label in panels), len(names))
    height = float(np.clip(1.3 + 0.32 * tallest, 2.5, 9.0))
    axes = grid_of_axes(len(panels) + 1, columns=2, panel=(4.8, height))
    for ax, label in zip(axes, panels, strict=False):
        part = table[labels == label]
        at = stack(ax, [known[name][1].label for name in part.index], "small")
        intervals(ax, at, center(part).to_numpy(), part["lower"], part["upper"])
        ax.set_xlabel(label)
        if label == _CORRELATION:
            ax.set_xlim(-1.05, 1.05)
            ax.axvline(0, color=MUTED, linewidth=0.8, linestyle=":")
        elif all(known[name][0].support[0] >= 0 for name in part.index):
            ax.set_xlim(left=0)
    ax = axes[-1]
    at = stack(ax, names, "small")
    ax.barh(at, shares, color=GROUP, alpha=0.45, height=0.6)
    if lower is not None:
        ax.hlines(at, lower, upper, color=GROUP, linewidth=1.6)
    ax.set(xlabel="share of variance", xlim=(0, 1))
    return axes


def _scales(fit: PosteriorResult | LikelihoodResult) -> dict[str, str]:
    """What the axis of every component says: those of one text share an axis."""
    design = fit.model.design
    unit_of = {
        sd_key(effect, block.name): unit
        for block in design.blocks
        for effect, unit in units(block._matrices).items()
    }
    found = {}
    for name, (parameter, _) in fit.model.priors.components().items():
        low, high = parameter.support
        if parameter.kind == "corr" or (-1 <= low < 0 and high <= 1):
            found[name] = _CORRELATION
        elif parameter.kind in ("sd", "sigma"):
            scale = scale_of(design, unit_of.get(parameter.key, ""))
            found[name] = f"standard deviation\n{scale}"
        else:
            found[name] = parameter.kind
    return found


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
