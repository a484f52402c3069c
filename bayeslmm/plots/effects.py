"""Pictures of predictions, comparisons and slopes: the tables of a fit, drawn.

The first column is on an axis, the next with few values is colors, and what else has several
values makes panels.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.ticker import LogFormatter

from bayeslmm.errors import PlotError, listed, one_of
from bayeslmm.formula.columns import as_frame
from bayeslmm.plots.average_effects import mean_label
from bayeslmm.plots.estimates import is_posterior, pick
from bayeslmm.plots.ranef import caterpillar, evenly_by_rank
from bayeslmm.plots.reference import Horizontal, is_factor
from bayeslmm.plots.style import (
    BAND,
    CYCLE,
    GROUP,
    MUTED,
    THICK,
    caption,
    grid_of_axes,
    intervals,
    legend_below,
    one_axes,
    stack,
)
from bayeslmm.results.asked import Asked, checked, own_groups
from bayeslmm.results.effects import comparisons_table, predictions_table, slopes_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayeslmm.protocols import LikelihoodResult, PosteriorResult

__all__ = ["plot_comparisons", "plot_predictions", "plot_slopes"]

_POINTS = 50
_FEW, _MOST_PANELS = 12, 20
_OPTIONS = tuple(field.name for field in fields(Asked) if field.name != "by")
#: Columns of tables that are drawn, beside labels.
_TAKEN = {"estimate", "mean", "median", "variable", "contrast", "lower", "upper"}
_WHOSE = {
    "population": "average group",
    "marginal": "averaged over the population of groups",
    "conditional": "groups with their own effects",
    "new": "a new group",
}


@dataclass(frozen=True)
class _View:
    """What is asked of a table, and how its rows are drawn.

    Attributes
    ----------
    asked : Asked
    axis : str
        Column on the axis that is not the estimates'.
    form : {"line", "points", "caterpillar", "list"}
        A line with a band over a number; upright intervals over few values; intervals of groups,
        sorted, or of other rows, one below the other.
    """

    asked: Asked
    axis: str
    form: str


def plot_predictions(
    fit: PosteriorResult | LikelihoodResult,
    x: str,
    by: str | list[str] | None = None,
    *,
    groups: int = 50,
    ax: Axes | None = None,
    **options: Any,
) -> Axes | np.ndarray:
    """Average predictions over a column, with intervals.

    Parameters
    ----------
    fit : PosteriorResult or LikelihoodFit
    x : str
        On the horizontal axis. A number has a line with a band over 50 points from its least to
        its greatest value, or over those of ``at``; a factor has points with intervals; groups are
        sorted down the vertical axis.
    by : str or list of str, optional
        Columns to split by, and likewise those with several values in ``at``: the first with at
        most 8 values is colors, others make panels. Categories of an ordinal response come first.
    groups : int
        Beyond this many levels of a grouping factor, that many are drawn, evenly spaced in rank.
    ax : matplotlib Axes, optional
    **options
        ``at newdata weights random kind ddf level interval random_seed`` as in
        ``fit.predictions``. ``weights`` is "equal" by default (numbers on no axis at their means,
        factors averaged over), or "data" for groups with their own effects.

    Returns
    -------
    Axes, or an array of them where there are panels

    Raises
    ------
    PlotError
        If there is no such column, or too many panels.
    ValueError, DataError
        As ``fit.predictions``.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> fit = blm.LMM("score ~ Machine + (1 | Worker)", blm.load_dataset("machines")).reml()
    >>> fit.plot_predictions("Machine").get_ylabel()
    'mean of score'
    """
    view = _view(fit, [x, *_names(by)], options, prediction=True)
    table = predictions_table(fit, view.asked)
    return _draw(fit, table, view, _what(fit, view.asked), groups=groups, ax=ax)


def plot_comparisons(
    fit: PosteriorResult | LikelihoodResult,
    variables: Any = None,
    by: str | list[str] | None = None,
    *,
    measure: str = "difference",
    method: str = "reference",
    groups: int = 50,
    ax: Axes | None = None,
    **options: Any,
) -> Axes | np.ndarray:
    """Comparisons of means with intervals: differences, or ratios on a logarithmic axis.

    Parameters
    ----------
    fit : PosteriorResult or LikelihoodFit
    variables, measure, method
        As in ``fit.comparisons``.
    by : str or list of str, optional
        The first column is on the horizontal axis: a factor or a number of at most 12 values has
        points, another number a line with a band (on a grid, ``weights="equal"``), groups are
        sorted down the vertical axis. Comparisons and further columns are colors and panels as in
        :func:`plot_predictions`. Without it comparisons are one below the other.
    groups, ax
        As in :func:`plot_predictions`.
    **options
        ``at newdata weights random kind ddf level interval random_seed`` as in
        ``fit.comparisons``.

    Returns
    -------
    Axes, or an array of them where there are panels

    Raises
    ------
    PlotError
        If there is no such column, or too many panels.
    ValueError, DataError
        As ``fit.comparisons``.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> fit = blm.LMM("score ~ Machine + (1 | Worker)", blm.load_dataset("machines")).reml()
    >>> [label.get_text() for label in fit.plot_comparisons().get_yticklabels()]
    ['B - A', 'C - A']
    """
    view = _view(fit, _names(by), options)
    table = comparisons_table(fit, variables, view.asked, measure, method)
    names, texts = table["variable"], table["contrast"]
    if names.nunique() > 1:
        table["contrast"] = names + ": " + texts
    label = {"odds_ratio": "odds ratio", "ratio": "ratio"}.get(measure, measure)
    label = f"{label}, {_what(fit, view.asked)}"
    if names.nunique() == 1:
        one = f" {texts.iloc[0]}" if texts.nunique() == 1 and view.axis else ""
        label = f"{label}:\n{names.iloc[0]}{one}"
    ratio = measure != "difference"
    if not view.axis:
        view = replace(view, axis="contrast")
    return _draw(fit, table, view, label, groups=groups, ax=ax, reference=float(ratio), ratio=ratio)


def plot_slopes(
    fit: PosteriorResult | LikelihoodResult,
    variables: str | list[str],
    by: str | list[str] | None = None,
    *,
    groups: int = 50,
    ax: Axes | None = None,
    **options: Any,
) -> Axes | np.ndarray:
    """Average slopes of numbers with intervals.

    Parameters
    ----------
    fit : PosteriorResult or LikelihoodFit
    variables : str or list of str
        Columns of numbers.
    by, groups, ax, **options
        As in :func:`plot_comparisons`.

    Returns
    -------
    Axes, or an array of them where there are panels

    Raises
    ------
    PlotError
        If there is no such column, or too many panels.
    ValueError, DataError
        As ``fit.slopes``.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> data = blm.load_dataset("sleepstudy")
    >>> fit = blm.LMM("Reaction ~ Days + (Days | Subject)", data).reml()
    >>> fit.plot_slopes("Days", by="Subject").get_ylabel()
    'Subject'
    """
    view = _view(fit, _names(by), options)
    table = slopes_table(fit, variables, view.asked)
    names = list(dict.fromkeys(table["variable"]))
    label = f"slope, {_what(fit, view.asked)}"
    if len(names) == 1:
        label += f"\nper unit of {names[0]}"
    if not view.axis:
        view = replace(view, axis="variable")
    return _draw(fit, table, view, label, groups=groups, ax=ax, reference=0.0)


def _names(by: str | list[str] | None) -> list[str]:
    return [by] if isinstance(by, str) else list(by or ())


def _view(fit: Any, columns: list[str], options: dict, *, prediction: bool = False) -> _View:
    """What the tables are asked for, and how the first column is drawn."""
    design, options = fit.model.design, dict(options)
    for name in options:
        one_of("An option of plots of effects", name, _OPTIONS)
    weights = options.pop("weights", None)
    asked = Asked(columns, weights=weights or "data", **options)
    columns, at = list(dict.fromkeys(columns)), dict(asked.at or {})
    if taken := _TAKEN & {*columns, *at}:
        raise PlotError(f"{listed(taken)} is a column of the table that is drawn: rename yours.")
    if not columns:
        return _View(checked(fit, asked), "", "list")
    own = asked.newdata is None
    frame, axis = design.predictors if own else as_frame(asked.newdata), columns[0]
    for name in columns:
        pick("column", [name], [*frame.columns, *at])
    split = [name for name in columns[1:] if name not in at and frame[name].nunique() > len(CYCLE)]
    if split:  # before a table is made that nobody sees
        _refuse_many(split, len(frame[split].drop_duplicates()))
    if axis in own_groups(design):
        return _View(checked(fit, asked), axis, "caterpillar")
    values = pd.Series(at[axis]) if axis in at else frame[axis]
    number = pd.api.types.is_numeric_dtype(values) and values.dtype != bool
    if axis in design.predictors.columns:
        number = number and not is_factor(design, axis)
    line = number and (prediction or values.nunique() > _FEW)
    if line and axis not in at:
        low, high = values.min(), values.max()
        if not low <= high:
            raise PlotError(f"The rows of {axis!r} are not kept: give its values, at=.")
        at[axis] = np.linspace(low, high, _POINTS) if high > low else [low]
        asked = replace(asked, at=at)
    conditional = checked(fit, replace(asked, weights="data")).random == "conditional"
    if weights is None and own and not conditional and (prediction or line):
        asked = replace(asked, weights="equal")
    return _View(checked(fit, asked), axis, "line" if line else "points")


def _what(fit: Any, asked: Asked) -> str:
    """What is averaged, for the label of an axis."""
    design = fit.model.design
    if asked.kind == "link" and not design.family.gaussian:
        return f"linear predictor of {design.response} ({fit.model.link})"
    if design.family.name == "ordinal":
        return f"probability of a category of {design.response}"
    return mean_label(design, None)


def _draw(
    fit: Any,
    table: pd.DataFrame,
    view: _View,
    label: str,
    *,
    groups: int,
    ax: Axes | None,
    reference: float | None = None,
    ratio: bool = False,
) -> Axes | np.ndarray:
    """Axes with the rows of a table."""
    middle = "estimate" if not is_posterior(fit) else "median" if ratio else "mean"
    labels = list(table.columns[: list(table.columns).index(middle)])
    # columns of the table alone need their names, not what is drawn of it: labels have their own
    table = table[[*labels, middle, "lower", "upper"]]
    renamed = {f"{name}_": name for name in [*view.asked.columns, *(view.asked.at or {})]}
    table = table.rename(columns={a: b for a, b in renamed.items() if b not in labels})
    labels = list(table.columns[: len(labels)])
    if fit.model.design.family.name == "ordinal" and view.asked.kind == "mean":
        labels = [labels[-1], *labels[:-1]]  # categories
    shown = [name for name in labels if name != "variable" or "contrast" not in labels]
    others = [name for name in shown if name != view.axis and table[name].nunique() > 1]
    color = None
    if view.form != "caterpillar":
        few = (name for name in others if table[name].nunique() <= len(CYCLE))
        color = next(few, None)
    split = [name for name in others if name != color]
    parts = [((), table)]
    if split:
        parts = list(table.groupby(split, sort=False, observed=True))
    axes = _axes(len(parts), view, table, ax, split)
    levels = [None] if color is None else list(dict.fromkeys(table[color]))
    rank = None
    for panel, (key, part) in zip(axes, parts, strict=True):
        along = panel.axhline if view.form in ("line", "points") else panel.axvline
        if reference is not None:
            along(reference, color=MUTED, linewidth=0.8, linestyle=":")
        if view.form == "caterpillar":
            order, rank = evenly_by_rank(part[middle].to_numpy(), groups)
            shown = part.iloc[order]
            caterpillar(panel, shown[view.axis], shown[middle], shown["lower"], shown["upper"])
            panel.set_ylabel(view.axis)
        else:
            _rows(panel, view, part.rename(columns={middle: "middle"}), color, levels)
        _scale(panel, view, label, ratio)
        if split:
            panel.set_title(", ".join(map(str, key)), fontsize="small")
    _finish(axes, _note(fit, table, view, rank, labels), color, levels, split)
    return axes if split else axes[0]


def _axes(n: int, view: _View, table: pd.DataFrame, ax: Axes | None, split: list) -> np.ndarray:
    rows = table[view.axis].nunique()
    tall = float(np.clip(1.2 + (0.3 if view.form == "list" else 0.16) * rows, 2.4, 9.0))
    upright = view.form in ("line", "points")
    if not split:
        return np.array([one_axes(ax, (6.4, 4.4 if upright else tall + 0.6))], dtype=object)
    if ax is not None:
        raise PlotError(f"There is a panel for each {' and '.join(split)}: leave ax out.")
    _refuse_many(split, n)
    columns, height = 4 if n > 6 else 3, 2.9 if upright else tall
    return grid_of_axes(n, columns=columns, panel=(2.9, height), share=upright)


def _refuse_many(split: list[str], n: int) -> None:
    """Refuse more panels than can be read.

    Raises
    ------
    PlotError
    """
    if n > _MOST_PANELS:
        raise PlotError(
            f"{' and '.join(split)} would make {n} panels; {_MOST_PANELS} are the most. Leave it "
            "out of by=, or put some of its values into at= or newdata."
        )


def _rows(panel: Axes, view: _View, part: pd.DataFrame, color: str | None, levels: list) -> None:
    """Lines with bands, or points with intervals, side by side where there are colors."""
    values = list(dict.fromkeys(part[view.axis]))
    number = all(isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in values)
    over = Horizontal(view.axis, None if number else values)
    if view.form == "list":
        stack(panel, [str(value) for value in values])
    else:
        over.label(panel)
    places = np.unique(over.position(values))
    step = float(np.min(np.diff(places))) if len(places) > 1 else 1.0
    for i, level in enumerate(levels):
        mine = part if color is None else part[part[color] == level]
        hue, name = (GROUP, None) if color is None else (CYCLE[i], str(level))
        at = over.position(mine[view.axis])
        if view.form == "line":
            marker = "o" if len(at) == 1 else None
            panel.plot(at, mine["middle"], color=hue, linewidth=THICK, marker=marker, label=name)
            panel.fill_between(at, mine["lower"], mine["upper"], color=hue, alpha=BAND, linewidth=0)
            continue
        at = at + step * min(0.15, 0.7 / len(levels)) * (i - (len(levels) - 1) / 2)
        intervals(
            panel,
            at,
            mine["middle"],
            mine["lower"],
            mine["upper"],
            color=hue,
            size=5,
            label=name,
            upright=view.form == "points",
        )


def _scale(panel: Axes, view: _View, label: str, ratio: bool) -> None:
    """The axis of the estimates."""
    upright = view.form in ("line", "points")
    axis = panel.yaxis if upright else panel.xaxis
    axis.set_label_text(label)
    if ratio:
        (panel.set_yscale if upright else panel.set_xscale)("log")
        axis.set_major_formatter(LogFormatter(labelOnlyBase=False))
        axis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1.5, 0.5)))


def _finish(axes: np.ndarray, note: str, color: str | None, levels: list, split: list[str]) -> None:
    """Caption and legend."""
    if not split:
        caption(axes[0], note)
        if color is not None:
            legend_below(axes[0], title=color)
        return
    figure = axes[0].figure
    if len({(panel.get_xlabel(), panel.get_ylabel()) for panel in axes}) == 1:
        figure.supxlabel(axes[0].get_xlabel(), fontsize="medium")
        figure.supylabel(axes[0].get_ylabel(), fontsize="medium")
        for panel in axes:
            panel.set(xlabel="", ylabel="")
    figure.suptitle(f"by {' and '.join(split)}; {note}", fontsize="small", color=MUTED)
    if color is not None:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            title=color,
            loc="outside right center",
            frameon=False,
            fontsize="small",
        )


def _note(fit: Any, table: pd.DataFrame, view: _View, rank: str | None, labels: list[str]) -> str:
    """Whose means these are, what they are averages over, and what the intervals are."""
    design, asked = fit.model.design, view.asked
    fixed = {name: value for name, value in (asked.at or {}).items() if name not in labels}
    compared = set(table["variable"]) if "variable" in table else set()
    parts = [_WHOSE[str(asked.random)]] if design.blocks else []
    if asked.newdata is not None:
        parts.append("averages over the rows of newdata")
    elif asked.weights == "data":
        parts.append("averages over the rows of the data")
    else:
        rest = [
            name
            for name in design._predictor_columns(random=asked.random == "marginal")
            if name not in labels and name not in fixed and name not in compared
        ]
        levels = [name for name in rest if is_factor(design, name)]
        means = [name for name in rest if name not in levels]
        if levels:
            parts.append(f"averages over {listed(levels, 6)} ({asked.weights} weights)")
        if means:
            parts.append(f"{listed(means, 6)} at the mean")
    parts += [f"{name} = {value}" for name, value in fixed.items()]
    parts += [rank] if rank else []
    return textwrap.fill("; ".join([*parts, f"{100 * asked.level:g} % intervals"]), 75)
