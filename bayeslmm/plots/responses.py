"""Checks of responses that are not Gaussian: rootograms, binned and quantile residuals, bars."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri
from scipy.stats import beta

from bayeslmm.errors import PlotError
from bayeslmm.plots.style import ALONE, DATA, GROUP, MUTED, caption, grid_of_axes
from bayeslmm.results.response_checks import (
    binned_residuals,
    category_counts,
    fitted_means,
    is_count,
    quantile_residuals,
    rootogram,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayeslmm.formula import Design
    from bayeslmm.protocols import PosteriorResult

__all__ = ["RESPONSE_KINDS", "default_kind", "draw_response_check"]

#: Kinds of checks drawn here.
RESPONSE_KINDS = ("rootogram", "binned", "quantile", "bars")

_SHARES = ("bernoulli", "binomial")
_MOST_MARKS = 1000


def default_kind(design: Design) -> str:
    """What a predictive check shows if nothing is asked for."""
    if is_count(design):
        return "rootogram"
    if design.family.name in _SHARES:
        return "binned"
    return "bars" if design.family.name == "ordinal" else "dist"


def draw_response_check(
    fit: PosteriorResult, kind: str, replicated: np.ndarray, random_seed: int | None
) -> np.ndarray:
    """One of the kinds.

    Parameters
    ----------
    fit : PosteriorResult
    kind : str
    replicated : (m, n) array
    random_seed : int or None

    Returns
    -------
    ndarray of Axes, shape (1,)

    Raises
    ------
    PlotError
        If the kind is not one for the family.
    """
    design = fit.model.design
    _refuse_kind(design, kind)
    axes = grid_of_axes(1, columns=1, panel=(5.5, 3.6))
    ax = axes[0]
    if kind == "rootogram":
        _rootogram(ax, design, replicated)
    elif kind == "bars":
        _bars(ax, design, replicated)
    elif kind == "binned":
        _binned(ax, design, fitted_means(fit), replicated)
    else:
        _quantiles(ax, quantile_residuals(fit, random_seed=random_seed))
    return axes


def _refuse_kind(design: Design, kind: str) -> None:
    name = design.family.name
    suits: dict[str, tuple[Callable[[], bool], str]] = {
        "rootogram": (lambda: is_count(design), "counts"),
        "binned": (lambda: name in _SHARES, "responses of 0 and 1 and counts of trials"),
        "bars": (lambda: name in ("ordinal", "bernoulli"), "categories"),
        "quantile": (lambda: not design.family.gaussian, "responses that are not Gaussian"),
    }
    suitable, what = suits[kind]
    if not suitable():
        raise PlotError(
            f'kind="{kind}" is for {what}; family="{name}" has "{default_kind(design)}", "stat"'
            f"{'' if design.family.gaussian else ' and ' + chr(34) + 'quantile' + chr(34)}."
        )


def _rootogram(ax: Axes, design: Design, replicated: np.ndarray) -> None:
    """Bars hang from the expected frequencies: their feet are above 0 where there are too few."""
    table = rootogram(design.y, replicated)
    at = 0.5 * (table["first"] + table["last"]).to_numpy()
    width = 0.9 * float((table["last"] - table["first"]).iloc[0] + 1)
    observed, expected = np.sqrt(table["observed"]), np.sqrt(table["expected"])
    ax.use_sticky_edges = False  # limits would end at the tops of bars, through the marks there
    ax.bar(at, -observed, bottom=expected, width=width, color=DATA, alpha=0.5, label="observed")
    ax.plot(at, expected, color=ALONE, marker="o", markersize=3, label="expected")
    feet = expected - np.sqrt(table["upper"]), expected - np.sqrt(table["lower"])
    ax.fill_between(
        at, *feet, step="mid", color=GROUP, alpha=0.35, linewidth=0, label="95 % of feet", zorder=3
    )
    ax.axhline(0.0, color=MUTED, linewidth=1, linestyle="--")
    ax.set(xlabel=design.response, ylabel="root of frequency")
    ax.legend(frameon=False, fontsize="small")


def _bars(ax: Axes, design: Design, replicated: np.ndarray) -> None:
    table = category_counts(design, replicated)
    at = np.arange(len(table))
    ax.bar(at, table["observed"], width=0.8, color=DATA, alpha=0.5, label="observed")
    gaps = table["expected"] - table["lower"], table["upper"] - table["expected"]
    ax.errorbar(
        at, table["expected"], yerr=np.array(gaps), fmt="o", color=GROUP, capsize=3,
        label="predicted, 95 %",
    )  # fmt: skip
    ax.set_xticks(at, table["category"])
    ax.set(xlabel=design.response, ylabel="rows")
    ax.legend(frameon=False, fontsize="small")


def _binned(ax: Axes, design: Design, mean: np.ndarray, replicated: np.ndarray) -> None:
    table = binned_residuals(design, mean, replicated)
    ax.fill_between(
        table["fitted"], table["lower"], table["upper"], color=GROUP, alpha=0.3, linewidth=0,
        label="95 % of replicates",
    )  # fmt: skip
    ax.plot(table["fitted"], table["residual"], "o", color=DATA, markersize=4, label="observed")
    ax.axhline(0.0, color=MUTED, linewidth=1, linestyle="--")
    ax.set(xlabel="fitted", ylabel="mean residual")
    ax.legend(frameon=False, fontsize="small")
    caption(ax, f"{len(table)} bins of {int(table['n'].median())} rows")


def _quantiles(ax: Axes, residual: np.ndarray) -> None:
    """Sorted residuals against normal quantiles, with 95 % limits of each order statistic."""
    n = len(residual)
    shown = np.unique(np.linspace(0, n - 1, min(n, _MOST_MARKS)).astype(int))
    theory = ndtri((shown + 0.5) / n)
    limits = [ndtri(beta.ppf(p, shown + 1, n - shown)) for p in (0.025, 0.975)]
    ax.fill_between(theory, *limits, color=GROUP, alpha=0.3, linewidth=0, label="95 % if true")
    ax.plot(theory, np.sort(residual)[shown], ".", color=DATA, markersize=5, label="rows")
    ends = theory[[0, -1]]
    ax.plot(ends, ends, color=MUTED, linewidth=1, linestyle="--")
    ax.set(xlabel="normal quantile", ylabel="quantile residual")
    ax.legend(frameon=False, fontsize="small")
