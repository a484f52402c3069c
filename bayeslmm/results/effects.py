"""Effects on the scale of the question: averages of predictions, their comparisons and slopes.

All are transformed linear combinations of averages of means: with W the weights of rows in the
averages and D those of the averages in a comparison, h(D s(W mu)), where mu are the means of rows,
s is the scale on which is compared (logarithms for ratios) and h the way back. Where mu is linear
in the coefficients so is a difference, with the t tests of the model; elsewhere intervals of a
likelihood fit are by the delta method, those of a posterior are of its draws. The vocabulary is
that of Arel-Bundock, Greifer and Heiss (2024, Journal of Statistical Software 111(9)).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError, listed
from bayeslmm.parts.families import LINKS
from bayeslmm.results.asked import Asked, checked, is_linear
from bayeslmm.results.averages import EVENTS, interval_scale
from bayeslmm.results.combined_averages import Combination, combined_table
from bayeslmm.results.compared import (
    Moved,
    compared_column,
    compared_variables,
    is_number,
    named_values,
)
from bayeslmm.results.reference_grid import Averages, averages_of_data, averages_of_grid
from bayeslmm.results.tables import apart

__all__ = ["comparisons_table", "predictions_table", "slopes_table"]

_MEASURES = ("difference", "ratio", "odds_ratio")
#: Steps of slopes, as a share of the range of a column.
_STEP = 1e-4


def predictions_table(fit: Any, asked: Asked) -> pd.DataFrame:
    """See ``fits.effects.Effects.predictions``."""
    asked, averages = checked(fit, asked), _averages(fit, asked)
    linear, family = is_linear(fit, asked), fit.model.design.family
    scale = LINKS["identity"] if linear else interval_scale(family)
    D = np.eye(len(averages.members))
    return combined_table(fit, averages, Combination(D, scale, scale), averages.labels, asked)


def comparisons_table(
    fit: Any, variables: Any, asked: Asked, measure: str, method: str
) -> pd.DataFrame:
    """See ``fits.effects.Effects.comparisons``."""
    asked, family = checked(fit, asked), fit.model.design.family
    if measure not in _MEASURES:
        raise ValueError(f"measure must be one of {listed(_MEASURES)}, not {measure!r}.")
    if measure == "odds_ratio" and (family.name not in EVENTS or asked.kind == "link"):
        raise ValueError('measure="odds_ratio" compares probabilities: kind="mean" of events.')
    if measure == "ratio" and asked.kind == "link":
        raise ValueError('measure="ratio" compares means: kind="mean".')
    scales = {"difference": "identity", "ratio": "log", "odds_ratio": "logit"}
    backs = {"difference": "identity", "ratio": "log", "odds_ratio": "log"}
    tables = []
    for name, what in named_values(fit, variables, method, asked).items():
        values, pairs, labels = what
        averages = _averages_of_values(fit, asked, name, values)
        k = len(averages.labels)
        D = np.zeros((len(pairs) * k, len(values) * k))
        for r, (high, low) in enumerate(pairs):
            rows = np.arange(r * k, (r + 1) * k)
            D[rows, high * k + np.arange(k)] += 1.0
            D[rows, low * k + np.arange(k)] -= 1.0
        found = pd.concat([averages.labels] * len(pairs), ignore_index=True)
        found = apart(found, ("variable", "contrast"))
        found.insert(0, "variable", name)
        found.insert(1, "contrast", np.repeat(labels, k))
        combination = Combination(D, LINKS[scales[measure]], LINKS[backs[measure]])
        tables.append(combined_table(fit, averages, combination, found, asked))
    return pd.concat(tables, ignore_index=True)


def slopes_table(fit: Any, variables: Any, asked: Asked) -> pd.DataFrame:
    """See ``fits.effects.Effects.slopes``."""
    asked, tables = checked(fit, asked), []
    for name in compared_variables(fit, variables):
        column = compared_column(fit, name)
        if not is_number(fit, name):
            raise ValueError(
                f"{name!r} is no number in the formula: slopes are of numbers. Use comparisons()."
            )
        spread = float(np.ptp(column.to_numpy(dtype=float))) or 1.0
        step = _STEP * spread
        averages = _averages_of_values(fit, asked, name, [Moved(step), Moved(-step)])
        k = len(averages.labels)
        D = np.hstack([np.eye(k), -np.eye(k)]) / (2 * step)
        found = apart(averages.labels, ("variable",))
        found.insert(0, "variable", name)
        combination = Combination(D, LINKS["identity"], LINKS["identity"])
        tables.append(combined_table(fit, averages, combination, found, asked))
    return pd.concat(tables, ignore_index=True)


def _averages(fit: Any, asked: Asked, at: Mapping | None = None) -> Averages:
    at = {**(asked.at or {}), **(at or {})}
    if asked.on_grid:
        random = asked.random != "population"
        return averages_of_grid(fit, asked.columns, at, asked.weights, random=random)
    return averages_of_data(fit.model.design, asked.columns, at, asked.newdata)


def _averages_of_values(fit: Any, asked: Asked, name: str, values: list) -> Averages:
    """Averages for one value of a column after the other, of all labels each."""
    if name in asked.columns or name in (asked.at or {}):
        raise ValueError(f"{name!r} is compared and stands in by= or at=: leave it out of one.")
    design, means = fit.model.design, ["population"] + ["marginal"] * is_linear(fit, asked)
    if asked.random in means and name not in design._predictor_columns(random=False):
        raise ValueError(
            f"{name!r} is not a column of the fixed part: no mean over groups depends on it. For "
            'effects in each group, give by= a grouping column and random="conditional".'
        )
    if isinstance(values[0], Moved) or not asked.on_grid:
        part = _averages(fit, asked)
    parts = []
    for value in values:
        if isinstance(value, Moved):
            moved = part.frame[name].astype(float) + value.by
            parts.append(replace(part, frame=part.frame.assign(**{name: moved})))
        elif asked.on_grid:
            parts.append(_averages(fit, asked, {name: value}))
        else:
            parts.append(replace(part, frame=part.frame.assign(**{name: value})))
    start = np.cumsum([0, *(len(part.frame) for part in parts)])
    labels = parts[0].labels.reset_index(drop=True)
    if any(len(part.labels) != len(labels) for part in parts):
        raise DataError(
            f"Some levels of {name!r} do not occur with all of {listed(asked.columns)}: compare "
            "them with pairwise()."
        )
    return Averages(
        labels.drop(columns=[name], errors="ignore"),
        pd.concat([part.frame.astype({name: object}) for part in parts], ignore_index=True),
        [mine + s for part, s in zip(parts, start[:-1], strict=True) for mine in part.members],
        [w for part in parts for w in part.weights],
    )
