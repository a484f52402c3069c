"""The response as its family needs it: numbers, trials, categories, and their support."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError, DataWarning, FormulaError, listed
from bayeslmm.formula.design import Design
from bayeslmm.formula.labels import stray_words, time_order
from bayeslmm.formula.matrices import response_column, response_matrix
from bayeslmm.formula.syntax import ParsedFormula
from bayeslmm.formula.table import PlainTable
from bayeslmm.parts.families import Family, family_of

__all__ = [
    "Response",
    "check_support",
    "new_response",
    "read_response",
    "refuse_constant",
    "refuse_trials",
    "row_trials",
    "standard_errors",
]

#: More categories than this are a number that was meant to be modeled as one.
_MOST_CATEGORIES = 100

#: What to do about a response outside the support of a family.
_ADVICE = {
    "bernoulli": "Code the event 1 and its absence 0, or give two categories; for counts of trials "
    'use family="binomial" and write "successes of trials ~ ...".',
    "binomial": 'Write counts and trials: "successes of trials ~ ...".',
    "poisson": 'A rate is a count and its exposure: "count ~ ... + offset(log(exposure))".',
    "gamma": "Zeros need a model of their own: whether there is anything, and how much.",
    "beta": 'Counts of trials are family="binomial"; exact zeros and ones need a model of their '
    "own.",
}
_ADVICE |= {"lognormal": _ADVICE["gamma"], "negativebinomial": _ADVICE["poisson"]}


@dataclass(frozen=True)
class Response:
    """The left side of a formula, evaluated.

    Attributes
    ----------
    name : str
    y : ndarray, shape (n,)
        0/1, counts, numbers of categories from 0, or the values themselves.
    family : Family
    trials : ndarray, shape (n,), or None
        Of a binomial response.
    categories : tuple of str
        Labels of an ordinal response; of a response of two categories, the second the event.
    """

    name: str
    y: np.ndarray = field(repr=False)
    family: Family
    trials: np.ndarray | None = field(repr=False, default=None)
    categories: tuple[str, ...] = ()


def read_response(
    parsed: ParsedFormula,
    table: PlainTable,
    raw: Mapping[str, pd.Series],
    index: pd.Index,
    family: Family,
    options: Mapping[str, Any],
) -> Response:
    """Evaluate the response of a formula on the used rows.

    Parameters
    ----------
    parsed : ParsedFormula
    table : PlainTable
        The used rows, plain.
    raw : mapping of str to pandas.Series
        The columns as they came, for the order of categories.
    index : pandas.Index
        Labels of the used rows, for messages.
    family : Family
        The number of categories of an ordinal one is found here.
    options : mapping
        ``namespace`` and ``allowed`` of :func:`bayeslmm.formula.matrices.model_matrix`.

    Raises
    ------
    FormulaError
        If it is more than one column or call, or has trials that its family does not.
    DataError
        If a value is outside the support of the family (the row is named), or it is constant.

    Warns
    -----
    DataWarning
        If the order of ordered categories is that of their names.
    """
    refuse_trials(parsed, family.name)
    if family.gaussian:
        name, y, _ = response_matrix(parsed.response, table, **options)
        refuse_constant(name, float(y.min()), float(y.max()), len(y))
        return Response(name, y, family)
    name, column = response_column(parsed.response, table, **options)
    categories: tuple[str, ...] = ()
    if family.name == "ordinal":
        y, categories = _ordered(column, name)
        if name in raw:
            _warn_of_order(name, categories, raw[name])
        family = family_of(family.name, family.link.name, len(categories))
    elif family.name in ("bernoulli", "binomial") and parsed.trials is None:
        y, categories = _events(column, name)
    else:
        y = _numbers(column, name, family.name)
    trials = None
    if family.name == "binomial":
        trials = _trials(parsed.trials, table, index, options)
    response = Response(name, y, family, trials, categories)
    check_support(family, y, trials, name, index)
    _refuse_useless(response)
    return response


def new_response(
    design: Design, table: PlainTable, index: pd.Index, allowed: Set[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Response and trials of new rows, in the terms of a design.

    Parameters
    ----------
    design : Design
    table : PlainTable
        The columns of the response, plain.
    index : pandas.Index
        Labels of the new rows, for messages.
    allowed : set of str
        Names that may be called.

    Returns
    -------
    y : ndarray, shape (m,)
    trials : ndarray, shape (m,), or None

    Raises
    ------
    DataError
        If a category was not in the fit, or a value is outside the support of the family.
    """
    parsed = design.formula
    options: dict[str, Any] = {"namespace": design.namespace, "allowed": allowed}
    if design.family.gaussian:
        return response_matrix(parsed.response, table, **options)[1], None
    name, column = response_column(parsed.response, table, **options)
    if design.categories:
        labels = [_label(value) for value in column.tolist()]
        if new := [label for label in labels if label not in design.categories]:
            raise DataError(
                f"The response {name!r} has a category not seen when the model was fitted: "
                f"{new[0]!r}. Known categories: {listed(design.categories)}."
            )
        y = np.array([design.categories.index(label) for label in labels], dtype=float)
    else:
        y = _numbers(column, name, design.family.name)
    trials = row_trials(design, table, index, allowed)
    check_support(design.family, y, trials, name, index)
    return y, trials


def row_trials(
    design: Design, table: PlainTable, index: pd.Index, allowed: Set[str]
) -> np.ndarray | None:
    """Trials of new rows, as :func:`new_response`."""
    if design.trials is None:
        return None
    options: dict[str, Any] = {"namespace": design.namespace, "allowed": allowed}
    return _trials(design.formula.trials, table, index, options)


def refuse_trials(parsed: ParsedFormula, family: str) -> None:
    """Refuse trials in a formula whose family has none.

    Raises
    ------
    FormulaError
    """
    if parsed.trials is not None and family != "binomial":
        raise FormulaError(
            f'The response "{parsed.response} of {parsed.trials}" is a count of trials, which '
            f'family="{family}" does not have: use family="binomial".'
        )


def standard_errors(
    text: str, table: PlainTable, index: Sequence, options: Mapping[str, Any]
) -> tuple[str, np.ndarray]:
    """Name and values (n,) of the known standard errors of rows.

    Parameters
    ----------
    text : str
        A column or a call.
    table : PlainTable
        Its columns, plain.
    index : sequence
        Labels of the rows, for messages.
    options : mapping
        As in :func:`read_response`.

    Raises
    ------
    DataError
        If they are not numbers, or one is not positive and finite (the row is named).
    """
    name, column = response_column(text, table, what="standard error", **options)
    if _is_categorical(column) or column.dtype == bool:
        raise DataError(
            f"The standard error {name!r} is not numeric: it must be a positive number per row."
        )
    values = column.to_numpy(dtype=float)
    wrong = np.flatnonzero(~((values > 0) & np.isfinite(values)))
    if len(wrong):
        row = wrong[0]
        raise DataError(
            f"The standard error {name!r} is {values[row]:g} in row {index[row]!r}: it must be "
            "positive and finite. It is the standard deviation of the row's estimate, not its "
            "variance: of a column of variances write se(sqrt(v))."
        )
    return name, values


def check_support(
    family: Family, y: np.ndarray, trials: np.ndarray | None, name: str, index: Sequence
) -> None:
    """Refuse values that a family does not have.

    Parameters
    ----------
    family : Family
    y, trials : ndarray, shape (n,)
    name : str
        Of the response.
    index : sequence
        Labels of the rows.

    Raises
    ------
    DataError
        Naming the first such row.
    """
    found = None if family.gaussian else family.check(y, trials)
    if found is None:
        return
    row, why = found
    of = "" if trials is None else f" of {trials[row]:g} trials"
    advice = _ADVICE.get(family.name.removeprefix("zero_inflated_"), "")
    raise DataError(
        f"The response {name!r} is {y[row]:g}{of} in row {index[row]!r}, which {why} "
        f'(family="{family.name}"). {advice}'.rstrip()
    )


def refuse_constant(response: str, low: float, high: float, n: int) -> None:
    """Refuse a response that does not vary, or a single row.

    Raises
    ------
    DataError
    """
    if n < 2:
        raise DataError(f"Only {n} row is usable; a model needs more.")
    if high - low <= 8 * np.finfo(float).eps * max(abs(low), abs(high)):
        raise DataError(
            f"The response {response!r} is constant ({low:g} in all {n} rows): there is nothing to "
            "model."
        )


def _refuse_useless(response: Response) -> None:
    """Refuse a response at an end of its support in every row, and a constant continuous one."""
    y, name, trials = response.y, response.name, response.trials
    if not response.family.discrete or len(y) < 2:
        refuse_constant(name, float(y.min()), float(y.max()), len(y))
    if response.family.name in ("bernoulli", "ordinal"):
        refuse_constant(name, float(y.min()), float(y.max()), len(y))
    elif not y.any():
        raise DataError(
            f"The response {name!r} is 0 in all {len(y)} rows: there is nothing to model."
        )
    elif trials is not None and np.array_equal(y, trials):
        raise DataError(
            f"The response {name!r} equals its trials in all {len(y)} rows: there is nothing to "
            "model."
        )


def _is_categorical(column: pd.Series) -> bool:
    return isinstance(column.dtype, pd.CategoricalDtype)


def _numbers(column: pd.Series, name: str, family: str) -> np.ndarray:
    if _is_categorical(column) or column.dtype == bool:
        kind = "true/false" if column.dtype == bool else "text or categories"
        advice = ' Two categories are family="bernoulli", ordered ones family="ordinal".'
        raise DataError(
            f'The response {name!r} is not numeric ({kind}), and family="{family}" needs numbers.'
            f"{stray_words(column, advice)}"
        )
    return column.to_numpy(dtype=float)


def _events(column: pd.Series, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """0/1 of numbers, of true/false or of two categories; and their labels."""
    if column.dtype == bool:
        return column.to_numpy(dtype=float), ("False", "True")
    if not _is_categorical(column):
        return column.to_numpy(dtype=float), ()
    labels = tuple(str(label) for label in column.cat.categories)
    if len(labels) > 2:
        raise DataError(
            f"The response {name!r} has {len(labels)} categories ({listed(labels, 5)}), and an "
            'event has two. Make it true/false, such as data["event"] = data'
            f'[{name!r}] == {labels[-1]!r}, or use family="ordinal" if they are in an order.'
        )
    return column.cat.codes.to_numpy(dtype=float), labels


def _ordered(column: pd.Series, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Numbers of categories in their order, and labels."""
    levels = column.cat.categories.tolist() if _is_categorical(column) else None
    order = sorted(set(column.tolist())) if levels is None else time_order(levels)
    if len(order) > _MOST_CATEGORIES:
        raise DataError(
            f"The response {name!r} has {len(order)} different values, too many for ordered "
            f"categories (at most {_MOST_CATEGORIES}). Take it as a number with another family, or "
            "cut it into categories."
        )
    codes = pd.Index(order, dtype=object).get_indexer(pd.Index(column.astype(object)))
    return codes.astype(float), tuple(_label(level) for level in order)


def _label(level) -> str:
    whole = isinstance(level, float) and level.is_integer()
    return str(int(level)) if whole else str(level)


def _warn_of_order(name: str, categories: tuple[str, ...], column: pd.Series) -> None:
    """Say in which order text is taken as ordered categories.

    Warns
    -----
    DataWarning
    """
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype) or pd.api.types.is_numeric_dtype(dtype):
        return
    warnings.warn(
        f"The categories of {name!r} are text and taken in this order: "
        f"{' < '.join(categories)}. If that is not theirs, make them categories in their order: "
        f"pandas.Categorical(data[{name!r}], [...], ordered=True).",
        DataWarning,
        stacklevel=6,
    )


def _trials(text: str | None, table: PlainTable, index: pd.Index, options) -> np.ndarray:
    if text is None:
        return np.ones(len(table))
    if text.isdigit():
        trials = np.full(len(table), float(text))
    else:
        name, column = response_column(text, table, what="number of trials", **options)
        trials = _numbers(column, name, "binomial")
    wrong = np.flatnonzero((trials < 1) | (trials != np.floor(trials)))
    if len(wrong):
        row = wrong[0]
        raise DataError(
            f"The number of trials {text!r} is {trials[row]:g} in row {index[row]!r}: it must be a "
            "whole number, 1 or more. Leave out rows without trials."
        )
    return trials
