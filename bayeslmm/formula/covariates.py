"""Covariates with unknown values: those missing, and those read with error.

They become unknowns of the model instead of costing it their rows. What it needs to know of each
is how the linear predictor depends on it: column j of X is X[i, j] + (x_i - fill) slope[i, j]
where the value of row i is unknown, and likewise for Z. Anything that is not a straight line in x
is refused; a covariate of two values is one always.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError, FormulaError, listed
from bayeslmm.formula.expressions import (
    MEASURED,
    Call,
    Name,
    Node,
    Operation,
    Sign,
    children,
    printed,
    walk,
)
from bayeslmm.formula.functions import STATEFUL
from bayeslmm.formula.matrices import ModelMatrix, mentions, model_matrix
from bayeslmm.formula.random import RandomBlock, grouping_factor
from bayeslmm.formula.syntaxtree import parse_part
from bayeslmm.formula.table import PlainTable
from bayeslmm.formula.unknown_columns import UnknownColumn

__all__ = [
    "CovariateModel",
    "ModeledCovariate",
    "missing_option",
    "modeled_covariates",
    "reading_sd",
]

#: Calls that are straight lines in a straight line and learn nothing that matters from what is
#: filled in.
_LINES = ("I", "center", MEASURED)


@dataclass(frozen=True)
class CovariateModel:
    """The regression that says what a covariate may be: x_u = W_u alpha + c_g(u) + sd e_u.

    A unit u is a row, or a group where the covariate is constant within groups. Readings are
    x_u + error_u e'_u with known standard deviations error_u; e, e' and c / sd_c are standard
    normal. Of a covariate with two values, P(x_u = 1) = 1 / (1 + exp(-W_u alpha)).

    Attributes
    ----------
    reading : ndarray, shape (U,)
        Observed values of the units, nan where missing; 0 and 1 where there are two values.
    error : ndarray, shape (U,)
        Standard deviation of the reading, 0 where it is exact or missing.
    unknown : ndarray of int, shape (U,)
        Which unknown the value of the unit is, -1 where the reading is exact.
    W : ndarray, shape (U, k)
        Model matrix, its columns but the intercept less ``means``.
    names : tuple of str
        Of the columns of W.
    means : ndarray, shape (k,)
        What was subtracted, 0 for the intercept.
    factor : str or None
        Grouping factor with a random intercept.
    codes : ndarray of int, shape (U,)
        Level of the factor of every unit; empty without.
    levels : tuple
        Labels of its levels.
    text : str or None
        The formula as given; None is ``"x ~ 1"``.
    """

    reading: np.ndarray = field(repr=False)
    error: np.ndarray = field(repr=False)
    unknown: np.ndarray = field(repr=False)
    W: np.ndarray = field(repr=False)
    names: tuple[str, ...]
    means: np.ndarray = field(repr=False)
    factor: str | None = None
    codes: np.ndarray = field(repr=False, default_factory=lambda: np.zeros(0, dtype=np.int64))
    levels: tuple = field(repr=False, default=())
    text: str | None = None


@dataclass(frozen=True)
class ModeledCovariate:
    """A covariate with unknown values, and how the model matrices depend on them.

    Attributes
    ----------
    name : str
    rows : ndarray of int, shape (m,)
        Positions, among the rows used, of the unknown values.
    unit : ndarray of int, shape (m,)
        Which unknown each of them is: rows of one group share it where the covariate is constant
        within groups.
    fill : ndarray, shape (m,)
        What stands in the matrices: the mean of the observed values, or the reading.
    X_slope : ndarray, shape (m, p)
        Change of the columns per unit of x; from the first value to the second of two.
    Z_slopes : tuple of ndarray, shape (m, q_k)
    model : CovariateModel
    values : tuple or None
        The two values of a covariate that has no others, of which x = 0 and x = 1 stand for the
        first and the second; None of a normal covariate.
    measured : bool
        Whether it was written ``me(x, sd)``.
    """

    name: str
    rows: np.ndarray = field(repr=False)
    unit: np.ndarray = field(repr=False)
    fill: np.ndarray = field(repr=False)
    X_slope: np.ndarray = field(repr=False)
    Z_slopes: tuple[np.ndarray, ...] = field(repr=False)
    model: CovariateModel
    values: tuple | None = None
    measured: bool = False

    @property
    def n_unknown(self) -> int:
        """Number of unknown values."""
        return int(self.unit.max()) + 1

    @property
    def missing_rows(self) -> np.ndarray:
        """Those of ``rows`` that have no reading either."""
        return self.rows[~self.has_reading[self.unit]]

    @property
    def has_reading(self) -> np.ndarray:
        """Of each unknown, whether it was read with an error; missing ones were not."""
        own = self.model.unknown >= 0
        found = np.empty(self.n_unknown, dtype=bool)
        found[self.model.unknown[own]] = ~np.isnan(self.model.reading[own])
        return found

    @property
    def observed(self) -> np.ndarray:
        """The observed values, one per unit."""
        return self.model.reading[~np.isnan(self.model.reading)]


def missing_option(modeled: tuple[ModeledCovariate, ...]) -> str | dict[str, str]:
    """What ``missing=`` gives these covariates from rows that are all used."""
    texts = {one.name: one.model.text for one in modeled if one.model.text is not None}
    if texts:
        return texts
    return "model" if any(len(one.missing_rows) for one in modeled) else "drop"


def reading_sd(design: Any, name: str) -> str:
    """What the formula calls the standard deviation of the readings of ``me(x, sd)``."""
    written = [*design.coef_names, *(effect for block in design.blocks for effect in block.effects)]
    start = f"{MEASURED}({name}, "
    parts = (part for column in written for part in column.split(":"))
    return next(part for part in parts if part.startswith(start))[len(start) : -1]


def modeled_covariates(
    columns: tuple[UnknownColumn, ...],
    table: PlainTable,
    fixed: ModelMatrix,
    blocks: tuple[RandomBlock, ...],
    options: Mapping[str, Any],
) -> tuple[ModeledCovariate, ...]:
    """How the matrices depend on each unknown value, and what it may be.

    Parameters
    ----------
    columns : tuple of UnknownColumn
    table : PlainTable
        Plain columns, filled.
    options : mapping
        ``namespace`` and ``allowed`` of :func:`bayeslmm.formula.matrices.model_matrix`.

    Raises
    ------
    FormulaError
        If the model is not linear in an unknown value, or multiplies two of them, or the
        regression of one has no intercept.
    DataError
        If a predictor of that regression is not constant where the covariate is, or constant
        everywhere.
    """
    matrices = [fixed, *(matrix for block in blocks for matrix in block._matrices)]
    for matrix in matrices:
        _refuse_products(matrix, [one.name for one in columns])
    found = []
    for one in columns:
        if not one.unknown.any():
            continue
        for matrix in matrices:
            _refuse_transforms(matrix, one, set(table.frame.columns), options["allowed"])
        slopes = [_slope(matrix, table.frame, one) for matrix in matrices]
        model, unit = _covariate_model(one, table, blocks, options)
        rows = np.flatnonzero(one.unknown)
        found.append(
            ModeledCovariate(
                one.name, rows, model.unknown[unit[rows]], one.codes()[rows], slopes[0],
                _by_block(slopes[1:], blocks), model, one.values, one.measured,
            )
        )  # fmt: skip
    return tuple(found)


def _refuse_products(matrix: ModelMatrix, names: list[str]) -> None:
    for term in matrix.terms:
        both = [n for n in names if any(mentions(c, n) for c in term.components)]
        if len(both) > 1:
            raise FormulaError(
                f"{term.name!r} depends on the unknown values of both {both[0]!r} and "
                f"{both[1]!r}, and only one of them can be modeled in a term."
            )


def _refuse_transforms(matrix: ModelMatrix, one: UnknownColumn, present, allowed) -> None:
    """Only x itself and lines in it; of two values what is made of each of them alone.

    What the filled values would be learned from, and curves and steps in a number, are refused:
    values at a few points cannot tell a line from a line with a kink elsewhere.
    """
    waiting = [parse_part(matrix.text, allowed, present, "formula")]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, Call):
            waiting.extend(children(node))
            continue
        if not _has(node, one.name) or _is_line(node, one.name):
            continue
        outer = (*_LINES, "C") if one.values is not None else _LINES
        learned = any(isinstance(n, Call) and n.function in STATEFUL for n in walk(node))
        if node.function not in outer or learned:
            raise FormulaError(
                f"{printed(node)!r} cannot be modeled while {one.name!r} has unknown values. Make "
                "the transformed column part of the data, or drop the rows."
            )
        if one.values is None:
            raise _not_linear(printed(node), one)


def _has(node: Node, name: str) -> bool:
    return any(isinstance(part, Name) and part.name == name for part in walk(node))


def _is_line(node: Node, name: str) -> bool:
    """Whether arithmetic is a straight line in a column, as it is written."""
    match node:
        case Call(function, (argument, *_), ()) if function in _LINES:
            return _is_line(argument, name)
        case Sign(_, operand):
            return _is_line(operand, name)
        case Operation(operators, operands) if set(operators) <= {"+", "-"}:
            return all(_is_line(operand, name) for operand in operands)
        case Operation(operators, operands) if set(operators) <= {"*", "/"}:
            own = [k for k, operand in enumerate(operands) if _has(operand, name)]
            divides = any(k > 0 and operators[k - 1] == "/" for k in own)
            return not own or (len(own) == 1 and not divides and _is_line(operands[own[0]], name))
    return isinstance(node, Name) or not _has(node, name)


def _not_linear(text: str, one: UnknownColumn) -> FormulaError:
    return FormulaError(
        f"{text!r} is not linear in {one.name!r}, which has unknown values. Leave the term out, or "
        "drop the rows."
    )


def _slope(matrix: ModelMatrix, frame: pd.DataFrame, one: UnknownColumn) -> np.ndarray:
    """Change of each column per unit of x, rows with an unknown value only."""
    part = frame.loc[one.unknown].reset_index(drop=True)
    factors = part.select_dtypes("category").columns
    # formulae wants every level of an ordered column among its rows
    part = part.assign(**{c: part[c].cat.as_unordered() for c in factors})
    if one.values is not None:
        ends = [
            matrix.evaluate(part.assign(**{one.name: one.at(code, len(part))}))[0]
            for code in (0, 1)
        ]
        return ends[1] - ends[0]
    values = one.column.to_numpy(float)
    step = float(np.std(values[~one.missing]))
    zero, first, second = (
        matrix.evaluate(part.assign(**{one.name: values[one.unknown] + k * step}))[0]
        for k in (0, 1, 2)
    )
    bend = np.abs(second - 2 * first + zero)
    scale = np.abs(zero) + np.abs(first) + np.abs(second)
    if np.any(bend > 1e-8 * scale):
        at = int(np.argmax(np.any(bend > 1e-8 * scale, axis=0)))
        raise _not_linear(matrix.names[at], one)
    slope = (first - zero) / step
    return np.where(np.abs(first - zero) > 1e-12 * scale, slope, 0.0)


def _by_block(slopes: list[np.ndarray], blocks) -> tuple[np.ndarray, ...]:
    out, at = [], 0
    for block in blocks:
        width = len(block._matrices)
        out.append(np.column_stack(slopes[at : at + width]))
        at += width
    return tuple(out)


def _covariate_model(
    one: UnknownColumn, table: PlainTable, blocks, options: Mapping[str, Any]
) -> tuple[CovariateModel, np.ndarray]:
    """The regression of a covariate over its units, and the unit of every row (n,)."""
    codes, factor = _units(one, blocks)
    _, first, unit = np.unique(codes, return_index=True, return_inverse=True)
    reading = np.where(one.missing, np.nan, one.codes())[first]
    open_ = one.unknown[first]
    unknown = np.where(open_, np.cumsum(open_) - 1, -1)
    W, names, means = _predictors(one, table, unit, first, factor, options)
    model = CovariateModel(reading, one.error[first], unknown, W, names, means)
    if one.formula is None:
        return model, unit
    text, group = one.formula.text, one.formula.group
    if not group:
        return replace(model, text=text), unit
    if one.values is not None:
        raise FormulaError(
            f"{text!r} has a random intercept, and {one.name!r} has two values: those are "
            "modeled by coefficients only. Leave it out."
        )
    levels = grouping_factor(group, table)
    _refuse_varying(levels.codes[:, None], (levels.name,), one, unit, first, factor)
    used, codes = np.unique(levels.codes[first], return_inverse=True)
    if len(used) == len(first):
        raise DataError(
            f"{text!r}: every level of {levels.name!r} has one value of {one.name!r}, so that "
            "their standard deviations cannot be told apart. Leave the random intercept out."
        )
    labels = tuple(levels.levels[level] for level in used)
    return (
        replace(model, text=text, factor=levels.name, codes=codes, levels=labels),
        unit,
    )


def _predictors(
    one: UnknownColumn, table: PlainTable, unit: np.ndarray, first: np.ndarray, factor, options
) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
    """W (U, k), its columns' names, and what was subtracted from them."""
    if one.formula is None:
        return np.ones((len(first), 1)), ("Intercept",), np.zeros(1)
    whole = table.frame.iloc[first].reset_index(drop=True)
    what = f"formula of {one.name!r}"
    matrix = model_matrix(one.formula.fixed, PlainTable.of(whole), what=what, **options)
    text = one.formula.text
    if matrix.offset is not None:
        raise FormulaError(f"{text!r}: offset() has no place in the regression of a covariate.")
    if matrix.names[:1] != ("Intercept",):
        raise FormulaError(
            f"{text!r}: the regression of a covariate needs its intercept. Leave out 0 + or - 1."
        )
    if factor is not None:
        rows, _ = matrix.evaluate(table.frame)
        _refuse_varying(rows, matrix.names, one, unit, first, factor)
    means = np.append(0.0, matrix.values[:, 1:].mean(axis=0))
    W = matrix.values - means
    size = np.abs(matrix.values).max(axis=0)
    for name, spread, largest in zip(matrix.names[1:], W[:, 1:].std(axis=0), size[1:], strict=True):
        if not spread > 1e-12 * largest:
            raise DataError(
                f"{text!r}: {name!r} is the same wherever {one.name!r} has a value of its own, "
                "and says nothing about it. Leave it out."
            )
    return W, matrix.names, means


def _refuse_varying(
    rows: np.ndarray, names: tuple[str, ...], one: UnknownColumn, unit, first, factor
) -> None:
    """Refuse predictors that vary where the covariate has one value."""
    if factor is None:
        return
    varies = np.any(np.abs(rows - rows[first][unit]) > 1e-10 * np.abs(rows).max(axis=0), axis=0)
    if varies.any():
        raise DataError(
            f"{one.name!r} has one value per level of {factor!r}, and "
            f"{listed(name for name, bad in zip(names, varies, strict=True) if bad)} varies within "
            f"levels: it cannot predict it. Take its mean over each level: "
            f"data.groupby({factor!r})[...].transform('mean')."
        )


def _units(one: UnknownColumn, blocks) -> tuple[np.ndarray, str | None]:
    """Which value of the covariate each row has (n,), and the factor in whose levels it is one.

    A covariate that is constant within the groups of a factor has one value per group; of several
    such factors the one with the fewest.
    """
    seen = ~one.missing
    known = np.column_stack([one.codes(), one.error])[seen]
    for block in sorted(blocks, key=lambda block: block.n_levels):
        codes = block.codes[seen]
        counts = np.bincount(codes, minlength=block.n_levels)
        low, high = (np.full((block.n_levels, 2), end) for end in (np.inf, -np.inf))
        np.minimum.at(low, codes, known)
        np.maximum.at(high, codes, known)
        there = counts > 0
        if not np.any(counts > 1) or np.any(low[there] != high[there]):
            continue
        if there[block.codes[one.missing]].any():
            raise DataError(
                f"{one.name!r} has one value per level of {block.name!r}, and is missing in rows "
                "whose level has its value in other rows. Fill those in first: "
                f"data.groupby({block.name!r})[{one.name!r}].transform('first')."
            )
        return block.codes, block.name
    return np.arange(len(one.missing)), None
