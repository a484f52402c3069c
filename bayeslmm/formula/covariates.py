"""Numeric covariates with missing values that are modeled instead of dropping their rows.

The missing values become unknowns of the model. What it needs to know of each is how the linear
predictor depends on it: column j of X is X[i, j] + (x_i - fill) slope[i, j] where the value of
row i is missing, and likewise for Z. Anything that is not a straight line in x is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from pandas.api import types

from bayeslmm.errors import DataError, FormulaError
from bayeslmm.formula.columns import missing_in
from bayeslmm.formula.matrices import ModelMatrix
from bayeslmm.formula.random import RandomBlock

__all__ = [
    "CovariateModel",
    "ModeledCovariate",
    "fill_with_means",
    "modeled_covariates",
    "refuse_unmodeled",
]


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
    def observed(self) -> np.ndarray:
        """The observed values, one per unit."""
        return self.model.reading[~np.isnan(self.model.reading)]


def refuse_unmodeled(raw: Mapping[str, pd.Series], fixed_columns: set[str], keep) -> list[str]:
    """Names of the covariates to model: those with missing values in the rows `keep`.

    Parameters
    ----------
    raw : mapping of str to pandas.Series
        All used columns.
    fixed_columns : set of str
        Columns whose missing values cannot be modeled: within and between, offsets.

    Raises
    ------
    DataError
        If one of them is not numeric, or is needed where it cannot be modeled.
    """
    names = [name for name, column in raw.items() if missing_in(column.iloc[keep]).any()]
    for name in names:
        dtype = raw[name].dtype
        numeric = types.is_numeric_dtype(dtype) and not types.is_bool_dtype(dtype)
        if not numeric or types.is_complex_dtype(dtype):
            raise DataError(
                f'missing="model" gives numeric covariates a normal prior, and {name!r} is '
                f"{dtype}. Drop its rows first, or make its missing values a category."
            )
        if name in fixed_columns:
            raise DataError(
                f'missing="model" cannot model {name!r}: it is used in a group mean, an offset or '
                "the response. Impute it beforehand, or drop its rows."
            )
    return names


def fill_with_means(column: pd.Series) -> pd.Series:
    """A numeric column with its missing values replaced by the mean of the others.

    Raises
    ------
    DataError
        If fewer than two values are observed, or all are equal.
    """
    values = column.to_numpy(dtype=float, na_value=np.nan)
    seen = values[~np.isnan(values)]
    if len(seen) < 2 or np.ptp(seen) == 0:
        raise DataError(
            f"{column.name!r} has {len(seen)} observed value(s) that do not vary: nothing can be "
            "learned about the missing ones."
        )
    return pd.Series(np.where(np.isnan(values), np.mean(seen), values), name=column.name)


def modeled_covariates(
    missing: Mapping[str, np.ndarray],
    frame: pd.DataFrame,
    fixed: ModelMatrix,
    blocks: tuple[RandomBlock, ...],
) -> tuple[ModeledCovariate, ...]:
    """How the matrices depend on each missing value.

    Parameters
    ----------
    missing : mapping of str to ndarray of bool, shape (n,)
        Where each covariate is missing.
    frame : pandas.DataFrame
        Plain columns, filled.

    Raises
    ------
    FormulaError
        If the model is not linear in a missing value, or multiplies two of them.
    """
    matrices = [fixed, *(matrix for block in blocks for matrix in block._matrices)]
    found: list = []
    touched: dict = {}
    for name, mask in missing.items():
        for matrix in matrices:
            _refuse_transforms(matrix, name)
        slopes = [_slope(matrix, frame, name, mask) for matrix in matrices]
        for number, slope in enumerate(slopes):
            for j in np.flatnonzero(np.any(slope != 0, axis=0)):
                other = touched.setdefault((number, j), name)
                if other != name:
                    raise FormulaError(
                        f'missing="model": {matrices[number].names[j]!r} depends on the missing '
                        f"values of both {other!r} and {name!r}, which is more than it can do."
                    )
        rows, values = np.flatnonzero(mask), frame[name].to_numpy(float)
        unit, observed = _units(name, values, mask, blocks)
        found.append(
            ModeledCovariate(
                name, rows, unit, values[rows], slopes[0], _by_block(slopes[1:], blocks),
                _no_predictors(unit, observed),
            )
        )  # fmt: skip
    return tuple(found)


def _no_predictors(unit: np.ndarray, observed: np.ndarray) -> CovariateModel:
    """x ~ 1, observed units first."""
    n, m = len(observed), int(unit.max()) + 1
    return CovariateModel(
        np.append(observed, np.full(m, np.nan)),
        np.zeros(n + m),
        np.append(np.full(n, -1), np.arange(m)),
        np.ones((n + m, 1)),
        ("Intercept",),
        np.zeros(1),
    )


def _refuse_transforms(matrix: ModelMatrix, name: str) -> None:
    """Only x itself, I(...) and center(x): other transforms learn from the filled values."""
    for term in matrix.terms:
        for component in term.components:
            plain = component.startswith(("I(", "center(")) or "(" not in component
            if not plain and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", component):
                raise FormulaError(
                    f'missing="model" cannot handle {component!r} while {name!r} has missing '
                    "values. Make the transformed column part of the data, or drop the rows."
                )


def _slope(matrix: ModelMatrix, frame: pd.DataFrame, name: str, mask: np.ndarray) -> np.ndarray:
    """Change of each column per unit of x, rows with a missing value only."""
    values = frame[name].to_numpy(float)
    step = float(np.std(values[~mask]))
    part = frame.loc[mask].reset_index(drop=True)
    zero, one, two = (
        matrix.evaluate(part.assign(**{name: values[mask] + k * step}))[0] for k in (0, 1, 2)
    )
    bend = np.abs(two - 2 * one + zero)
    scale = np.abs(zero) + np.abs(one) + np.abs(two)
    if np.any(bend > 1e-8 * scale):
        at = int(np.argmax(np.any(bend > 1e-8 * scale, axis=0)))
        raise FormulaError(
            f'missing="model": {matrix.names[at]!r} is not linear in {name!r}, which has missing '
            "values. Leave the term out, or drop the rows."
        )
    slope = (one - zero) / step
    return np.where(np.abs(one - zero) > 1e-12 * scale, slope, 0.0)


def _by_block(slopes: list[np.ndarray], blocks) -> tuple[np.ndarray, ...]:
    out, at = [], 0
    for block in blocks:
        width = len(block._matrices)
        out.append(np.column_stack(slopes[at : at + width]))
        at += width
    return tuple(out)


def _units(name: str, values: np.ndarray, mask: np.ndarray, blocks):
    """Unknowns behind the missing rows, and the observed values, one per unit.

    A covariate that is constant within the groups of a factor has one value per group.
    """
    for block in blocks:
        codes = block.codes[~mask]
        counts = np.bincount(codes, minlength=block.n_levels)
        low, high = np.full(block.n_levels, np.inf), np.full(block.n_levels, -np.inf)
        np.minimum.at(low, codes, values[~mask])
        np.maximum.at(high, codes, values[~mask])
        seen = counts > 0
        if not np.any(counts > 1) or np.any(low[seen] != high[seen]):
            continue
        if seen[block.codes[mask]].any():
            raise DataError(
                f"{name!r} has one value per level of {block.name!r}, and is missing in rows whose "
                "level has its value in other rows. Fill those in first: "
                f"data.groupby({block.name!r})[{name!r}].transform('first')."
            )
        _, unit = np.unique(block.codes[mask], return_inverse=True)
        return unit, low[seen]
    return np.arange(int(mask.sum())), values[~mask]
