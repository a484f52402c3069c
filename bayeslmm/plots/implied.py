"""The covariance that random effects imply among the responses of one group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.errors import PlotError
from bayeslmm.formula import Design
from bayeslmm.formula.columns import as_frame
from bayeslmm.plots.estimates import pick
from bayeslmm.plots.reference import is_factor, predictors
from bayeslmm.plots.style import GROUP, THIN, caption, fading, grid_of_axes

if TYPE_CHECKING:
    from bayeslmm.protocols import LikelihoodResult, PosteriorResult

__all__ = ["plot_implied_covariance"]

_MOST_ROWS, _MOST_TICKS, _MOST_CURVES = 200, 12, 15


def plot_implied_covariance(
    fit: PosteriorResult | LikelihoodResult,
    data=None,
    *,
    x: str | None = None,
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
        them.
    x : str, optional
        Predictor that orders the rows; by default the first number with a random slope, the
        first number, or the first factor. Correlation is drawn against distance if it is a
        number.
    correlation : bool
        Draw correlations in the heat map instead of covariances.

    Returns
    -------
    ndarray of Axes
        Heat map and, where x is a number, correlation against its distance.

    Raises
    ------
    PlotError
        If x is not a predictor, or the model has no random effects.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> data = blm.load_dataset("sleepstudy")
    >>> fit = blm.LMM("Reaction ~ Days + (Days | Subject)", data).reml()
    >>> len(fit.plot_implied_covariance())
    2
    """
    design = fit.model.design
    if not design.blocks:
        raise PlotError("Without random effects responses are independent: nothing to draw.")
    name = _ordering(design, x)
    rows, label, note = _rows(design, data, name)
    text = None if name is None else [_written(value) for value in rows[name]]
    # without data the fit knows the rows' weights, which new rows do not have
    given = None if data is None and design.weights is not None else rows
    covariance = _square(fit.implied_covariance(given), rows, given)
    together = _square(fit.implied_correlation(given), rows, given)
    numeric = name is not None and not is_factor(design, name)
    axes = grid_of_axes(2 if numeric else 1, columns=2, panel=(4.6, 3.8))
    _heat_map(axes[0], together if correlation else covariance, correlation, text)
    axes[0].set(xlabel=label, ylabel=label)
    caption(axes[0], note)
    if numeric:
        _against_distance(axes[1], together, rows[name].to_numpy(dtype=float))
        axes[1].set(xlabel=f"distance in {name}", ylabel="correlation")
    return axes


def _square(table: pd.DataFrame, rows: pd.DataFrame, given) -> np.ndarray:
    values = table.to_numpy()
    return values if given is not None else values[np.ix_(rows["_row"], rows["_row"])]


def _ordering(design: Design, x: str | None) -> str | None:
    names = predictors(design)
    if x is not None:
        return pick("predictor", [x], names)[0]
    numeric = [name for name in names if not is_factor(design, name)]
    sloped = [n for block in design.blocks for n in design.effect_columns(block) if n in numeric]
    return next(iter([*sloped, *numeric, *names]), None)


def _written(value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _rows(design: Design, data, name: str | None) -> tuple[pd.DataFrame, str, str | None]:
    """The group's rows in order, what to call them, and a note on which they are."""
    note = None
    if data is None:
        block = design.blocks[0]
        rows = design.predictors[block.codes == 0]
        rows = rows.assign(_row=np.arange(len(rows)))
        note = f"{block.name} {block.levels[0]}"
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


def _against_distance(ax, together: np.ndarray, positions: np.ndarray) -> None:
    """One curve per row of a small group; a cloud of points for a large one."""
    n = len(positions)
    if n <= _MOST_CURVES:
        for i in range(n - 1):
            distance = positions[i + 1 :] - positions[i]
            ax.plot(
                distance, together[i, i + 1 :], ".-", color=GROUP, linewidth=THIN, markersize=5,
                alpha=0.35 + 0.6 * (1 - i / n),
            )  # fmt: skip
        caption(ax, "each curve starts at one row, the darkest at the first")
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
