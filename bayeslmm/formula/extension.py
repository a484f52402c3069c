"""A design with rows added: of known groups or of new ones, seen through the fit's eyes.

Stateful transforms, contrasts and levels of predictors stay
those of the rows the design was made from.
"""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import replace

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError, FormulaError
from bayeslmm.formula.columns import as_frame, find_column, missing_in, plain_column
from bayeslmm.formula.design import Design
from bayeslmm.formula.functions import STATEFUL, allowed_calls
from bayeslmm.formula.random import GroupingFactor, RandomBlock
from bayeslmm.formula.residual import ResidualDesign, ResidualRows
from bayeslmm.formula.responses import new_response, row_trials, standard_errors
from bayeslmm.formula.syntaxtree import parse_part, variables_in
from bayeslmm.formula.table import PlainTable

__all__ = ["add_rows", "joined_residuals", "new_trials", "new_weights", "row_weights"]


def add_rows(design: Design, data) -> Design:
    """The design of the rows used and those of `data`, which follow them.

    Parameters
    ----------
    design : Design
    data : data frame
        Response, predictors, grouping columns and, where the model has them, weights or standard
        errors. Levels of grouping factors may be new.

    Returns
    -------
    Design

    Raises
    ------
    FormulaError
        If a column is missing, or the response is a transform learned from the fitted rows.
    DataError
        If a value is missing, a predictor has a level that was not in the fit, or a weight is
        not positive.
    """
    if design.group_means or design.modeled:
        raise FormulaError(
            "Rows cannot be added to a design with within(), between() or unknown values of "
            "covariates: they would change what these are. Fit the model to all rows."
        )
    frame = as_frame(data)
    y, trials = _response(design, frame)
    residual = _residual(design, frame)
    weights = design.weights
    if weights is not None:
        weights = np.concatenate([weights, new_weights(design, frame)])
    new = design.evaluate(frame)
    n = design.n_rows
    return replace(
        design,
        y=np.concatenate([design.y, y]),
        trials=None if trials is None else np.concatenate([design.trials, trials]),
        fixed=replace(design.fixed, values=np.vstack([design.X, new.X])),
        offset=np.concatenate([design.offset, new.offset]),
        residual=residual,
        weights=weights,
        blocks=tuple(
            _more_rows(block, Z, frame) for block, Z in zip(design.blocks, new.Z, strict=True)
        ),
        rows=np.concatenate([design.rows, design.missing.n_rows + np.arange(len(y))]),
        index=design.index.append(frame.index),
        table=PlainTable.of(_columns(design, frame, n + len(y))),
    )


def _response(design: Design, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray | None]:
    """Response of new rows, and its trials."""
    parsed = design.formula
    texts = [parsed.response, *([parsed.trials] if parsed.trials else [])]
    for text in texts:
        _refuse_stateful(text, "response")
    why = (
        " of the new rows has missing values: only rows with a response say something about a "
        "group. Remove the others."
    )
    rows, allowed = _plain_rows(design, frame, texts, why)
    y, trials = new_response(design, rows, frame.index, allowed)
    if not np.all(np.isfinite(y)):
        raise DataError(f"The response {parsed.response!r} of the new rows is not finite.")
    return y, trials


def _refuse_stateful(text: str, what: str) -> None:
    called = [name for name in STATEFUL if re.search(rf"(?<![\w.]){name}\s*\(", text)]
    if called:
        raise FormulaError(
            f"The {what} {text!r} depends on all fitted rows through {called[0]}(), so new "
            f"rows have no {what} on its scale. Transform the column before fitting."
        )


def new_trials(design: Design, newdata) -> np.ndarray | None:
    """Trials (m,) of new rows, None where the model has none.

    Raises
    ------
    FormulaError
        If the column is not there.
    DataError
        If a value is missing or no number of trials.
    """
    if design.trials is None:
        return None
    text, frame = design.formula.trials, as_frame(newdata)
    why = " has missing values: new counts need their numbers of trials."
    rows, allowed = _plain_rows(design, frame, [] if text is None else [text], why)
    return row_trials(design, rows, frame.index, allowed)


def _plain_rows(
    design: Design, frame: pd.DataFrame, texts: list[str], why: str, what: str = "response"
) -> tuple[PlainTable, Set[str]]:
    """The columns of new rows that some text names, and what it may call."""
    allowed = allowed_calls(design.namespace)
    known = set(design.table.columns)
    trees = [parse_part(text, allowed, known, what) for text in texts if not text.isdigit()]
    names = [n for n in dict.fromkeys(n for t in trees for n in variables_in(t)) if n in known]
    plain = {}
    for name in names:
        column = find_column(frame, name, f"{what} column")
        if missing_in(column).any():
            raise DataError(f"The {what} column {name!r}{why}")
        categories = design._categories(name)
        plain[name] = plain_column(column, name, categories, numeric=categories is None)
    return PlainTable(plain, len(frame)), allowed


def row_weights(design: Design, newdata, n: int) -> np.ndarray:
    """Prior weights of n rows: the fitted ones, the same column of new data, or 1."""
    if design.weights is None:
        return np.ones(n)
    if newdata is None:
        return design.weights
    return new_weights(design, newdata)


def new_weights(design: Design, newdata) -> np.ndarray:
    """Prior weights (m,) of new responses of a model that has weights.

    Raises
    ------
    FormulaError
        If a column of the standard errors is not there.
    DataError
        If the weights are not there or not positive, or a standard error is not.
    """
    frame, name = as_frame(newdata), design.weights_name
    if design.formula.se is not None:
        text, what = design.formula.se, "standard error"
        _refuse_stateful(text, what)
        why = " has missing values: new responses need their standard errors."
        rows, allowed = _plain_rows(design, frame, [text], why, what)
        options = {"namespace": design.namespace, "allowed": allowed}
        return standard_errors(text, rows, frame.index, options)[1] ** -2.0
    if name not in frame.columns:
        raise DataError(
            f"The model has weights: new responses need positive weights in a column {name!r}."
        )
    weights = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=float)
    if not (np.all(np.isfinite(weights)) and np.all(weights > 0)):
        raise DataError(f"The weights {name!r} of the new rows must be positive numbers.")
    return weights


def _more_rows(block: RandomBlock, Z: np.ndarray, frame: pd.DataFrame) -> RandomBlock:
    factor = _more_levels(block.factor, frame)
    if block.relationship is not None and len(factor.levels) > block.n_levels:
        label = factor.levels[block.n_levels]
        raise DataError(
            f"{label!r} is not in the relationship of {block.name!r}, so its covariance with the "
            "others is not known. Individuals without rows may be in the relationship that the "
            "model is made with."
        )
    return replace(block, factor=factor, Z=np.vstack([block.Z, Z]))


def _more_levels(factor: GroupingFactor, frame: pd.DataFrame) -> GroupingFactor:
    grouping = pd.DataFrame({c: find_column(frame, c).to_numpy() for c in factor.columns})
    return factor.with_rows(grouping)


def _residual(design: Design, frame: pd.DataFrame) -> ResidualDesign | None:
    """The residual structure with the new rows in groups there were or in new ones."""
    return (
        None
        if design.residual is None
        else design.residual.with_rows(*joined_residuals(design, frame))
    )


def joined_residuals(
    design: Design, frame: pd.DataFrame
) -> tuple[GroupingFactor | None, ResidualRows]:
    """Groups of residuals, times and scales of the rows used and of new ones, which follow.

    Raises
    ------
    FormulaError, DataError
        As :meth:`Design.evaluate_residuals`, and if a column of the groups is missing.
    """
    old, new = design.stated_residual.rows, design.evaluate_residuals(frame)
    factor = design.stated_residual.factor
    if factor is not None:
        factor = _more_levels(factor, frame)
    n = len(old.time) + len(new.time)
    rows = ResidualRows(
        np.arange(n) if factor is None else factor.codes,
        np.concatenate([old.time, new.time]),
        np.vstack([old.scale, new.scale]),
    )
    return factor, rows


def _columns(design: Design, frame: pd.DataFrame, n: int) -> pd.DataFrame:
    """The used columns of both; levels that are new come after those there were."""
    joined = {}
    for name, old in design.columns.items():
        new = plain_column(find_column(frame, name), name)
        values = np.concatenate([np.asarray(c, dtype=object) for c in (old, new)])
        if isinstance(old.dtype, pd.CategoricalDtype):
            known = {str(level): level for level in old.cat.categories}
            matched = [known.get(str(value), value) for value in values]
            levels = list(dict.fromkeys([*known.values(), *matched]))
            joined[name] = pd.Categorical(matched, categories=levels, ordered=True)
        elif isinstance(new.dtype, pd.CategoricalDtype):  # text labels after numbers
            joined[name] = pd.Categorical(list(map(str, values)), ordered=True)
        else:
            joined[name] = np.concatenate([old.to_numpy(), new.to_numpy()])
    return pd.DataFrame(joined, index=pd.RangeIndex(n))
