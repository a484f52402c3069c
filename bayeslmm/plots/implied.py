"""The covariance that random effects imply among the responses of one group."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from bayeslmm.errors import PlotError
from bayeslmm.formula import Design
from bayeslmm.formula.columns import as_frame
from bayeslmm.parts.structures import STRUCTURES
from bayeslmm.plots.estimates import pick
from bayeslmm.plots.reference import held_values, is_factor, predictors
from bayeslmm.plots.style import GROUP, THIN, caption, fading, grid_of_axes
from bayeslmm.results.implied import first_group

if TYPE_CHECKING:
    from bayeslmm.protocols import LikelihoodResult, PosteriorResult

__all__ = ["plot_implied_covariance"]

_MOST_ROWS, _MOST_TICKS, _MOST_CURVES = 200, 12, 15
#: Beyond so many distinct values of x, as of visits at irregular times, a grid of fewer is drawn.
_MOST_VALUES, _GRID = 20, 10


def plot_implied_covariance(
    fit: PosteriorResult | LikelihoodResult,
    data=None,
    *,
    x: str | None = None,
    at: Iterable[float] | None = None,
    correlation: bool = False,
) -> np.ndarray:
    """Heat map of a group's covariance, and correlation against the distance in x.

    A random intercept has the same correlation at every distance; a slope makes it depend on
    where the pair stands, so that each row of the group has a curve of its own.

    Parameters
    ----------
    fit : PosteriorResult or LikelihoodFit
    data : data frame, optional
        Covariates of the group's rows; by default those of the first group, and at most 200 of
        them. Where x has more than 20 distinct values, as with visits at irregular times, the
        rows are instead at most 10 round values over its range, as of `at`.
    x : str, optional
        Predictor that orders the rows, or the time of the residual structure; by default the
        time, the first number with a random slope, the first number, or the first factor.
        Correlation is drawn against distance if it is a number.
    at : iterable of float, optional
        Values of x to draw. The rows are of one group (the first level of every grouping factor)
        and of weight 1; other predictors are held, numbers at their mean and factors at their
        most frequent level.
    correlation : bool
        Draw correlations in the heat map instead of covariances.

    Returns
    -------
    ndarray of Axes
        Heat map and, where x is a number, correlation against its distance.

    Raises
    ------
    PlotError
        If x is not a predictor, responses are independent, or `at` is not of two finite
        numbers or more, is given with `data`, or x is no number.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> data = blm.load_dataset("sleepstudy")
    >>> fit = blm.LMM("Reaction ~ Days + (Days | Subject)", data).reml()
    >>> len(fit.plot_implied_covariance())
    2
    >>> ax = fit.plot_implied_covariance(at=[0, 2.5, 5])
    """
    design = fit.model.design
    if not design.blocks and (design.residual is None or design.residual.factor is None):
        raise PlotError("Without random effects responses are independent: nothing to draw.")
    time = _residual_time(design)
    name = _ordering(design, x, time)
    numeric = name is not None and not is_factor(design, name)
    values = _values_drawn(design, data, at, name if numeric else None, time)
    if values is None or name is None:
        rows, label, note = _rows(design, data, name)
        start = "row"
        text = None if name is None else _written(rows[name])
    else:
        rows, note = _rows_at(design, name, values, grid=at is None)
        label, start = name, "value"
        text = [f"{value:.6g}" for value in values]
    # without data the fit knows the rows' weights, which new rows do not have
    of_the_fit = data is None and values is None and design.weights is not None
    given = None if of_the_fit else rows
    covariance = _square(fit.implied_covariance(given), rows, given)
    together = _square(fit.implied_correlation(given), rows, given)
    axes = grid_of_axes(2 if numeric else 1, columns=2, panel=(4.6, 3.8))
    _heat_map(axes[0], together if correlation else covariance, correlation, text)
    axes[0].set(xlabel=label, ylabel=label)
    caption(axes[0], note)
    if numeric:
        _against_distance(axes[1], together, rows[name].to_numpy(dtype=float), start)
        axes[1].set(xlabel=f"distance in {name}", ylabel="correlation")
    return axes


def _square(table: pd.DataFrame, rows: pd.DataFrame, given) -> np.ndarray:
    values = table.to_numpy()
    return values if given is not None else values[np.ix_(rows["_row"], rows["_row"])]


def _residual_time(design: Design) -> str | None:
    """Column of the times of correlated residuals, where they are numbers."""
    name = None if design.residual is None else design.residual.syntax.time
    return None if name is None or is_factor(design, name) else name


def _ordering(design: Design, x: str | None, time: str | None) -> str | None:
    names = predictors(design)
    if time is not None and time not in names:
        names = [*names, time]
    if x is not None:
        return pick("predictor", [x], names)[0]
    numeric = [name for name in names if not is_factor(design, name)]
    sloped = [name for name in _sloped(design) if name in numeric]
    return next(iter([*([] if time is None else [time]), *sloped, *numeric, *names]), None)


def _sloped(design: Design) -> list[str]:
    return [name for block in design.blocks for name in design.effect_columns(block)]


def _values_drawn(design: Design, data, at, name: str | None, time: str | None):
    """Values of a number to draw: those asked for, a grid where there are many; None for rows."""
    if at is not None:
        if data is not None:
            raise PlotError("Give at= or data=, not both: data= has the rows themselves.")
        if name is None:
            raise PlotError("at= are values of a number. Give x=, a predictor that is a number.")
        if time not in (None, name):
            raise PlotError(
                f"At every value of {name!r} rows would be at the same {time!r}, the time of the "
                f"residual structure. Give values of it, x={time!r}, or data= with rows."
            )
        values = np.unique(np.asarray(list(at), dtype=float))
        if len(values) < 2 or not np.isfinite(values).all():
            raise PlotError(f"at= takes two different finite numbers or more, not {at!r}.")
        return values
    if data is not None or name is None:
        return None
    column = design.predictors[name].dropna().to_numpy()
    # rows of several factors stay rows where x does not move the covariance
    moves = name == time or (time is None and (name in _sloped(design) or len(design.blocks) == 1))
    kind = None if name != time else STRUCTURES[design.stated_residual.kind].times
    if not moves or kind == "labels" or len(np.unique(column)) <= _MOST_VALUES:
        return None
    low, high = float(column.min()), float(column.max())
    whole = kind == "whole" or column.dtype.kind in "iu"
    locator = MaxNLocator(_GRID - 1, steps=[1, 2, 2.5, 5, 10], integer=whole)
    ticks = np.asarray(locator.tick_values(low, high))
    return ticks[(ticks >= low) & (ticks <= high)]


def _rows_at(
    design: Design, name: str, values: np.ndarray, *, grid: bool
) -> tuple[pd.DataFrame, str]:
    """Rows of one group at values of a number, and a note that says so."""
    others = [n for n in predictors(design) if n != name]
    first = design.predictors.iloc[[0]]
    rows = first.loc[first.index.repeat(len(values))].reset_index(drop=True)
    held = {n: pd.Series(v, rows.index) for n, v in held_values(design, others).items()}
    rows = rows.assign(**held, **{name: values})
    note = f"one group at {'a grid of' if grid else 'given values of'} {name}"
    return rows, note if design.weights is None else f"{note}, weight 1"


def _written(values: pd.Series) -> list[str]:
    """Labels with the digits that tell values apart, of a hundredth of their range at most."""
    if values.dtype.kind != "f":
        return [str(value) for value in values]
    distinct = np.unique(values)
    gap = max(np.diff(distinct).min(), np.ptp(distinct) / 100) if len(distinct) > 1 else 1.0
    digits = max(0, -math.floor(math.log10(gap) + 1e-9))
    return [f"{value:.{digits}f}" for value in values]


def _rows(design: Design, data, name: str | None) -> tuple[pd.DataFrame, str, str | None]:
    """The group's rows in order, what to call them, and a note on which they are."""
    note = None
    if data is None:
        found, note = first_group(design)
        rows = design.predictors.iloc[found].assign(_row=np.arange(len(found)))
    else:
        rows = as_frame(data)
        if name is not None and name not in rows.columns:
            raise PlotError(f"The data have no column {name!r} to order the rows by.")
    if name is not None:
        rows = rows.sort_values(name, kind="stable")
    if len(rows) > _MOST_ROWS:
        at = np.linspace(0, len(rows) - 1, _MOST_ROWS).astype(int)
        text = f"{_MOST_ROWS} of {len(rows)} rows"
        note = text if note is None else f"{note}, {text}"
        rows = rows.iloc[at]
    return rows.reset_index(drop=True), "row" if name is None else name, note


def _heat_map(ax, values: np.ndarray, correlation: bool, text) -> None:
    largest = 1.0 if correlation else float(np.abs(values).max())
    signed = bool(values.min() < 0)
    image = ax.imshow(
        values,
        cmap="RdBu" if signed else "Blues",
        vmin=-largest if signed else 0.0,
        vmax=largest,
        interpolation="nearest",
    )
    label = "correlation" if correlation else "covariance"
    ax.get_figure().colorbar(image, ax=ax, label=label, shrink=0.9)
    n = len(values)
    at = np.arange(n) if n <= _MOST_TICKS else np.linspace(0, n - 1, 6).astype(int)
    shown = [str(i + 1) if text is None else text[i] for i in at]
    ax.set_xticks(at, shown)
    ax.set_yticks(at, shown)
    ax.tick_params(labelsize="small")


def _against_distance(ax, together: np.ndarray, positions: np.ndarray, start: str) -> None:
    """One curve per row of a small group; a cloud of points for a large one."""
    n = len(positions)
    if n <= _MOST_CURVES:
        for i in range(n - 1):
            distance = positions[i + 1 :] - positions[i]
            ax.plot(
                distance, together[i, i + 1 :], ".-", color=GROUP, linewidth=THIN, markersize=5,
                alpha=0.35 + 0.6 * (1 - i / n),
            )  # fmt: skip
        caption(ax, f"each curve starts at one {start}, the darkest at the first")
    else:
        one, other = np.triu_indices(n, 1)
        ax.plot(
            positions[other] - positions[one],
            together[one, other],
            ".",
            color=GROUP,
            markersize=3,
            alpha=fading(len(one)),
        )
    low = min(0.0, float(together.min()))
    ax.set_ylim(1.1 * low if low < 0 else 0.0, 1.0)
