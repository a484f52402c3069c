"""Shrinkage: from each group alone to the mixed model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.errors import PlotError
from bayeslmm.formula import Design
from bayeslmm.formula.random import RandomBlock
from bayeslmm.plots.estimates import block_of, coefficients, effects, fitted_values, pick, sampled
from bayeslmm.plots.style import (
    ALONE,
    GROUP,
    MUTED,
    POPULATION,
    caption,
    fading,
    legend_below,
    one_axes,
)
from bayeslmm.results.support import refuse_families

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayeslmm.protocols import LikelihoodResult, PosteriorResult

__all__ = ["Shrinkage", "plot_shrinkage", "shrinkage"]

_MOST_ARROWS, _MOST_ROWS = 300, 50


@dataclass(frozen=True)
class Shrinkage:
    """Estimates of every group's coefficients under three amounts of pooling.

    Attributes
    ----------
    effects : tuple of str
        The q effects of the grouping factor.
    alone : ndarray, shape (levels, q)
        Least squares in the group alone (no pooling); NaN where its rows do not determine it.
    partial : ndarray, shape (levels, q)
        The mixed model's: fixed plus random effect.
    pooled : ndarray, shape (q,)
        Least squares without groups (complete pooling).
    population : ndarray, shape (q,)
        The mixed model's coefficients.
    """

    effects: tuple[str, ...]
    alone: np.ndarray
    partial: np.ndarray
    pooled: np.ndarray
    population: np.ndarray

    @property
    def undefined(self) -> np.ndarray:
        """Which groups have no estimate of their own, shape (levels,)."""
        return ~np.all(np.isfinite(self.alone), axis=1)


def shrinkage(fit: PosteriorResult | LikelihoodResult, factor: str | None = None) -> Shrinkage:
    """No pooling, partial pooling and complete pooling of a grouping factor's effects.

    The group's own estimate is the (weighted) least-squares fit of its rows on the columns of
    its effects, with the rest of the model held at its estimates: other coefficients, and
    other grouping factors unless they nest within this one. So what moves a group from its own
    estimate to the mixed model's is the pooling alone.

    Parameters
    ----------
    fit : PosteriorResult or LikelihoodFit
    factor : str, optional
        Grouping factor; by default the first.

    Returns
    -------
    Shrinkage

    Raises
    ------
    PlotError
        If there is no such factor, or covariates have unknown values.
    """
    design = fit.model.design
    block = block_of(design, factor)
    if design.modeled:
        raise PlotError(
            "Estimates of each group alone are least squares, which need every covariate, and "
            f"{design.modeled[0].name!r} has unknown values."
        )
    at = design.blocks.index(block)
    beta, b = coefficients(fit), effects(fit)
    index = [design.coef_names.index(e) if e in design.coef_names else -1 for e in block.effects]
    population = np.array([beta[j] if j >= 0 else 0.0 for j in index])
    rest = fitted_values(fit) - block.Z @ population
    rest -= np.einsum("nq,nq->n", block.Z, b[at][block.codes])
    for k, other in enumerate(design.blocks):
        if k != at and _nested_in(other, block):
            rest -= np.einsum("nq,nq->n", other.Z, b[k][other.codes])
    alone = _group_least_squares(design, block, design.y - rest)
    weight = np.ones(design.n_rows) if design.weights is None else np.sqrt(design.weights)
    ols = np.linalg.lstsq(
        design.X * weight[:, None], (design.y - design.offset) * weight, rcond=None
    )[0]
    pooled = np.array([ols[j] if j >= 0 else 0.0 for j in index])
    return Shrinkage(block.effects, alone, population + b[at], pooled, population)


def plot_shrinkage(
    fit: PosteriorResult | LikelihoodResult,
    factor: str | None = None,
    *,
    effects: str | list[str] | None = None,
    groups=None,
    ax: Axes | None = None,
) -> Axes:
    """Arrows from each group's own estimate to the mixed model's.

    Two effects are a picture in the plane, one effect has one row per group. Groups whose rows
    do not determine an estimate of their own are counted in the caption and left out.

    Parameters
    ----------
    fit : PosteriorResult or LikelihoodFit
    factor : str, optional
        Grouping factor; by default the first.
    effects : str or list of str, optional
        One or two of its effects; by default its first two.
    groups : int or list, optional
        How many levels, or which; by default up to 300 (50 for one effect), beyond that a sample
        that is always the same one.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    PlotError
        If there is no such factor, effect or level, or no group has an estimate of its own.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> data = blm.load_dataset("sleepstudy")
    >>> fit = blm.LMM("Reaction ~ Days + (Days | Subject)", data).reml()
    >>> ax = fit.plot_shrinkage()
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('Intercept', 'Days')
    """
    refuse_families(fit.model, "plot_shrinkage")
    block = block_of(fit.model.design, factor)
    chosen = pick("effect", block.effects[:2] if effects is None else effects, block.effects)
    if len(chosen) > 2:
        raise PlotError(f"One or two effects can be drawn, not {len(chosen)}.")
    found = shrinkage(fit, block.name)
    columns = [block.effects.index(name) for name in chosen]
    codes, note = sampled(block, groups, _MOST_ROWS if len(chosen) == 1 else _MOST_ARROWS)
    lost = found.undefined[codes]
    if lost.all():
        raise PlotError(
            f"No group has enough rows for an estimate of its own of {', '.join(block.effects)}."
        )
    if lost.any():
        text = f"{int(lost.sum())} without an estimate of their own left out"
        note = f"{note};\n{text}" if note else text
    codes = codes[~lost]
    if len(chosen) == 1:
        height = min(10.0, 1.8 + 0.17 * len(codes))
        axes = one_axes(ax, (6.4, max(height, 3.0)))
        _rows(axes, block, found, columns[0], codes)
    else:
        axes = one_axes(ax, (6.4, 5.0))
        _plane(axes, found, columns, codes)
    caption(axes, note)
    return axes


def _plane(ax: Axes, found: Shrinkage, columns: list[int], codes: np.ndarray) -> None:
    start, end = found.alone[np.ix_(codes, columns)], found.partial[np.ix_(codes, columns)]
    alpha = fading(len(codes))
    for a, b in zip(start, end, strict=True):
        _arrow(ax, a, b, alpha)
    ax.plot(*start.T, "o", color=ALONE, markersize=4, alpha=alpha, label="each group alone")
    ax.plot(*end.T, "o", color=GROUP, markersize=4, alpha=alpha, label="mixed model")
    _centers(ax, found.pooled[columns], found.population[columns])
    ax.set(xlabel=found.effects[columns[0]], ylabel=found.effects[columns[1]])
    legend_below(ax)


def _rows(ax: Axes, block: RandomBlock, found: Shrinkage, column: int, codes: np.ndarray) -> None:
    codes = codes[np.argsort(found.alone[codes, column], kind="stable")]
    start, end = found.alone[codes, column], found.partial[codes, column]
    at = np.arange(len(codes))
    for x0, x1, y in zip(start, end, at, strict=True):
        _arrow(ax, (x0, y), (x1, y), 0.9)
    ax.plot(start, at, "o", color=ALONE, markersize=4, label="each group alone")
    ax.plot(end, at, "o", color=GROUP, markersize=4, label="mixed model")
    ax.axvline(
        found.pooled[column], color=MUTED, linestyle=":", linewidth=1.2, label="complete pooling"
    )
    ax.axvline(found.population[column], color=POPULATION, linewidth=1.2, label="population")
    ax.set_yticks(at, [str(block.levels[c]) for c in codes])
    ax.tick_params(axis="y", labelsize="small", length=0)
    ax.set_ylim(-1, len(codes))
    ax.set(xlabel=found.effects[column], ylabel=block.name)
    legend_below(ax)


def _arrow(ax: Axes, start, end, alpha: float) -> None:
    ax.annotate(
        "",
        end,
        start,
        arrowprops={
            "arrowstyle": "->,head_length=0.25,head_width=0.12",
            "color": MUTED,
            "linewidth": 0.7,
            "alpha": alpha,
            "shrinkA": 0,
            "shrinkB": 2,
        },
    )


def _centers(ax: Axes, pooled: np.ndarray, population: np.ndarray) -> None:
    ax.plot(
        *pooled,
        "D",
        markersize=10,
        markerfacecolor="none",
        markeredgecolor=POPULATION,
        markeredgewidth=1.6,
        linestyle="none",
        label="complete pooling",
        zorder=5,
    )
    ax.plot(
        *population,
        "*",
        color=POPULATION,
        markersize=11,
        linestyle="none",
        label="population",
        zorder=6,
    )


def _nested_in(other: RandomBlock, block: RandomBlock) -> bool:
    """Whether every level of `other` lies within one level of `block`."""
    first = np.full(other.n_levels, -1)
    first[other.codes[::-1]] = block.codes[::-1]
    return bool(np.all(first[other.codes] == block.codes))


def _group_least_squares(design: Design, block: RandomBlock, y: np.ndarray) -> np.ndarray:
    """Weighted least squares of y on Z within each level, NaN where it is not determined.

    Columns are scaled to one on average, so that the smallest eigenvalue of Z'WZ says whether
    a group's rows determine its coefficients whatever the units.
    """
    J, q = block.n_levels, block.n_effects
    weights = np.ones(len(y)) if design.weights is None else design.weights
    scale = np.sqrt(np.mean(block.Z**2, axis=0))
    scale[scale == 0] = 1.0
    Z = block.Z / scale
    gram, moment = np.empty((J, q, q)), np.empty((J, q))
    for i in range(q):
        moment[:, i] = np.bincount(block.codes, weights * Z[:, i] * y, J)
        for j in range(q):
            gram[:, i, j] = np.bincount(block.codes, weights * Z[:, i] * Z[:, j], J)
    values = np.linalg.eigvalsh(gram)
    good = values[:, 0] > 1e-10 * np.maximum(values[:, -1], 1e-300)
    result = np.full((J, q), np.nan)
    result[good] = np.linalg.solve(gram[good], moment[good][..., None])[..., 0] / scale
    return result
