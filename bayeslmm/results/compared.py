"""Variables that are compared: which there are, and the pairs of their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError, listed
from bayeslmm.results.asked import Asked
from bayeslmm.results.marginal_means import METHODS, pairs_of
from bayeslmm.results.reference_grid import grid_values, has_levels

__all__ = ["Moved", "compared_column", "compared_variables", "is_number", "named_values"]


@dataclass(frozen=True)
class Moved:
    """A number's own value and so much more."""

    by: float


def compared_variables(fit: Any, variables: Any) -> list[str]:
    """Names of columns of the formula.

    Raises
    ------
    ValueError
    """
    known = fit.model.design._predictor_columns(random=True)
    if variables is None and not known:
        raise ValueError("The formula has no columns to compare.")
    variables = known if variables is None else variables
    names = list(variables) if pd.api.types.is_list_like(variables) else [variables]
    if not names:
        raise ValueError("No column is named: leave variables= out for all, or name one.")
    for name in names:
        if name not in known:
            raise ValueError(
                f"{name!r} is not a column of the formula. Columns: {listed(known) or 'none'}."
            )
    return names


def compared_column(fit: Any, name: str) -> pd.Series:
    """Values of a variable in the rows of the fit, of which there must be some."""
    column = fit.model.design.predictors[name]
    if not len(column):
        raise DataError(
            f"The rows of {name!r} are not kept: comparisons({{{name!r}: (a, b)}}) of two values, "
            "with newdata or weights."
        )
    return column


def is_number(fit: Any, name: str) -> bool:
    """Whether the formula takes a variable as a number, not as a factor."""
    return not has_levels(fit.model.design, name)


def named_values(fit: Any, variables: Any, method: str, asked: Asked) -> dict[str, tuple]:
    """For each variable its values, which pairs of them are compared, and the labels of these."""
    given = dict(variables) if isinstance(variables, Mapping) else {}
    return {
        name: _values(fit, name, given.get(name, method))
        for name in compared_variables(fit, list(given) if given else variables)
    }


def _values(fit: Any, name: str, what: Any) -> tuple[list, list[tuple[int, int]], list[str]]:
    number = is_number(fit, name)
    if isinstance(what, tuple | list) and len(what) == 2:
        low, high = what
        return [low, high], [(1, 0)], [f"{high} - {low}"]
    values = fit.model.design.predictors[name]
    zero_one = number and len(values) > 0 and set(values.unique().tolist()) <= {0, 1}
    if number and not zero_one:
        if what == "reference":
            what = 1
        if isinstance(what, str):
            return _spread(name, compared_column(fit, name).to_numpy(dtype=float), what)
        if isinstance(what, bool) or not isinstance(what, int | float | np.number):
            raise ValueError(f"{name!r}: give a step, two values (a, b), or a name, not {what!r}.")
        return [Moved(0.0), Moved(float(what))], [(1, 0)], [f"+{what:g}"]
    if what not in METHODS:
        raise ValueError(
            f"Levels of {name!r} are compared by one of {listed(METHODS)}, or two of them (a, b); "
            f"not {what!r}."
        )
    levels = grid_values(fit.model.design, name, wanted=True)
    pairs = [*pairs_of(range(len(levels)), what)]
    if what == "pairwise":  # the later minus the earlier, as all comparisons here
        pairs = [(j, i) for i, j in pairs]
    if not pairs:
        raise ValueError(f"{name!r} has one level: nothing to compare.")
    return levels, pairs, [f"{levels[i]} - {levels[j]}" for i, j in pairs]


def _spread(name: str, x: np.ndarray, what: str) -> tuple[list, list[tuple[int, int]], list[str]]:
    """Two values of a number by a name."""
    if what in ("sd", "2sd"):
        half = x.std(ddof=1) * (0.5 if what == "sd" else 1.0)
        return [Moved(-half), Moved(half)], [(1, 0)], [f"(x + {what}/2) - (x - {what}/2)"]
    if what == "iqr":
        low, high = np.quantile(x, [0.25, 0.75])
        return [low, high], [(1, 0)], ["Q3 - Q1"]
    if what == "minmax":
        return [x.min(), x.max()], [(1, 0)], ["max - min"]
    raise ValueError(
        f"{name!r} is a number: compare a step such as 1, two values (a, b), "
        f"'sd', '2sd', 'iqr' or 'minmax'; not {what!r}."
    )
