"""The rows a line is drawn through: which x, and what the other predictors are held at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayeslmm.errors import PlotError
from bayeslmm.formula import Design
from bayeslmm.formula.matrices import mentions
from bayeslmm.formula.random import RandomBlock
from bayeslmm.plots.estimates import pick

__all__ = ["Horizontal", "held_values", "horizontal", "predictors", "varies_within"]

_POINTS = 40
_MOST_LEVELS = 30


@dataclass(frozen=True)
class Horizontal:
    """The predictor on the horizontal axis.

    Attributes
    ----------
    name : str
    levels : list or None
        Its levels where it is a factor, drawn at 0, 1, 2, ...
    """

    name: str
    levels: list | None

    def position(self, values) -> np.ndarray:
        """Where values stand on the axis."""
        if self.levels is None:
            return np.asarray(values, dtype=float)
        order = {level: i for i, level in enumerate(self.levels)}
        return np.array([order[value] for value in values], dtype=float)

    def grid(self, values) -> np.ndarray:
        """Values to draw a line through, within the range of those given."""
        if self.levels is not None:
            present = set(values)
            return np.array([v for v in self.levels if v in present], dtype=object)
        low, high = float(np.min(values)), float(np.max(values))
        return np.linspace(low, high, _POINTS) if high > low else np.array([low])

    def label(self, ax) -> None:
        """Name and, for a factor, levels on the axis."""
        ax.set_xlabel(self.name)
        if self.levels is not None:
            crowded = sum(len(str(level)) for level in self.levels) > 45
            ax.set_xticks(range(len(self.levels)), [str(level) for level in self.levels])
            ax.tick_params(axis="x", labelrotation=90 if crowded else 0)
            ax.set_xlim(-0.5, len(self.levels) - 0.5)


def predictors(design: Design) -> list[str]:
    """Columns that the fixed and the random part use, grouping factors aside."""
    return design._predictor_columns(random=True)


def horizontal(design: Design, block: RandomBlock | None, x: str | None) -> Horizontal:
    """The predictor asked for; by default the first number with a random slope, the first
    number, or the first factor.

    Raises
    ------
    PlotError
        If there is no such predictor, or none at all.
    """
    names = predictors(design)
    if x is not None:
        name = pick("predictor", [x], names)[0]
    else:
        sloped = design.effect_columns(block) if block is not None else []
        numeric = [n for n in names if not is_factor(design, n)]
        ranked = [n for n in numeric if n in sloped] + numeric + names
        if not ranked:
            raise PlotError(
                "The formula has no predictor to draw the response against. plot_ranef() and "
                "plot_shrinkage() draw the groups themselves."
            )
        name = ranked[0]
    levels = level_values(design, name) if is_factor(design, name) else None
    if levels is not None and len(levels) > _MOST_LEVELS:
        raise PlotError(f"{name!r} has {len(levels)} levels: too many for one axis. Give x=.")
    return Horizontal(name, levels)


def has_levels(column: pd.Series) -> bool:
    """Whether a plain column has categories, or true and false."""
    return isinstance(column.dtype, pd.CategoricalDtype) or column.dtype == bool


def is_factor(design: Design, name: str) -> bool:
    """Whether a column is a factor, by itself or because the formula says ``C(name)``."""
    if has_levels(design.predictors[name]):
        return True
    matrices = [design.fixed, *(m for block in design.blocks for m in block._matrices)]
    parts = [part for m in matrices for term in m.terms for part in term.categorical]
    return any(mentions(part, name) for part in parts)


def level_values(design: Design, name: str) -> list:
    """Levels of a factor in their order."""
    column = design.predictors[name]
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.categories.tolist()
    return np.unique(column.to_numpy()).tolist()


def held_values(design: Design, names: list[str]) -> dict:
    """What other predictors are held at: numbers at their mean, factors at their most frequent
    level.
    """
    held = {}
    for name in names:
        column = design.predictors[name]
        if is_factor(design, name):
            held[name] = column.value_counts().index[0]
        else:
            held[name] = float(column.mean())
    return held


def varies_within(design: Design, name: str, codes: np.ndarray) -> bool:
    """Whether a column takes several values within a group."""
    values = pd.factorize(design.predictors[name].to_numpy())[0]
    first = np.zeros(codes.max() + 1, dtype=values.dtype)
    first[codes[::-1]] = values[::-1]
    return bool(np.any(values != first[codes]))
