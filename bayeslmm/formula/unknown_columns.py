"""A column of which some values are missing, or read with error, before there are matrices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types

from bayeslmm.errors import DataError
from bayeslmm.formula.columns import missing_in, plain_column
from bayeslmm.formula.covariate_formulas import CovariateFormula

__all__ = ["UnknownColumn", "unknown_column"]


@dataclass(frozen=True)
class UnknownColumn:
    """A column of which some values are unknown, before there are matrices.

    Attributes
    ----------
    name : str
    column : pandas.Series
        Filled: with the mean of the observed values, or the more frequent one of two.
    missing : ndarray of bool, shape (n,)
        Where there is no value.
    error : ndarray, shape (n,)
        Standard deviation of the reading, 0 where it is exact or missing.
    values : tuple or None
        The two values of a column that has no others.
    measured : bool
        Whether it was written ``me(x, sd)``.
    formula : CovariateFormula or None
        Its regression, where one is given.
    """

    name: str
    column: pd.Series = field(repr=False)
    missing: np.ndarray = field(repr=False)
    error: np.ndarray = field(repr=False)
    values: tuple | None = None
    measured: bool = False
    formula: CovariateFormula | None = None

    @property
    def unknown(self) -> np.ndarray:
        """Where the value is not known exactly, shape (n,)."""
        return self.missing | (self.error > 0)

    def codes(self) -> np.ndarray:
        """Values as numbers, 0 and 1 where there are two, shape (n,)."""
        if self.values is None:
            return self.column.to_numpy(float)
        return (self.column == self.values[1]).to_numpy(float)

    def at(self, code: float, n: int) -> Any:
        """A column of n rows with the first (0) or the second (1) of two values."""
        if isinstance(self.column.dtype, pd.CategoricalDtype):
            levels = list(self.values or ())
            return pd.Categorical.from_codes(np.full(n, int(code)), levels)
        return np.full(n, (self.values or ())[int(code)])


def unknown_column(
    column: pd.Series, error: np.ndarray | None = None, formula: CovariateFormula | None = None
) -> UnknownColumn:
    """What is known of a column with unknown values.

    Parameters
    ----------
    column : pandas.Series
        In the rows used.
    error : ndarray, shape (n,), optional
        Standard deviations of the readings, of a measured covariate.
    formula : CovariateFormula, optional

    Raises
    ------
    DataError
        If the observed values are fewer than two, are all equal, or are more than two and no
        numbers.
    """
    name, missing = str(column.name), missing_in(column)
    measured, exact = error is not None, np.zeros(len(column))
    seen = plain_column(column[~missing], name) if not missing.all() else pd.Series([], dtype=float)
    numeric = types.is_numeric_dtype(seen.dtype) and not types.is_bool_dtype(seen.dtype)
    different = seen.drop_duplicates()
    if len(different) < 2:
        raise DataError(
            f"{name!r} has {len(seen)} observed value(s) that do not vary: nothing can be "
            "learned about the unknown ones."
        )
    if measured and not numeric:
        raise DataError(f"{name!r} is {column.dtype}: me() is of numbers.")
    if len(different) > 2 and not numeric:
        raise DataError(
            f"{name!r} has missing values and {len(different)} different others, and only numbers "
            "and columns of two values can be modeled. Drop its rows first, make its missing "
            "values a category, or make true/false columns of it."
        )
    if measured or len(different) > 2:
        values = column.to_numpy(dtype=float, na_value=np.nan)
        filled = pd.Series(np.where(missing, np.mean(seen), values), name=name)
        error = exact if error is None else np.where(missing, 0.0, error)
        return UnknownColumn(name, filled, missing, error, None, measured, formula)
    low, high = sorted(different.tolist()) if numeric else _two_levels(seen)
    common = high if (seen == high).sum() > (seen == low).sum() else low
    codes = np.full(len(column), float(common == high))
    codes[~missing] = (seen == high).to_numpy(float)
    if numeric:
        filled = pd.Series(np.where(codes == 1, float(high), float(low)), name=name)
        low, high = float(low), float(high)
    elif types.is_bool_dtype(seen.dtype):
        filled = pd.Series(codes == 1, name=name)
    else:
        made = pd.Categorical.from_codes(codes.astype(int), [low, high], ordered=True)
        filled = pd.Series(made, name=name)
    return UnknownColumn(name, filled, missing, exact, (low, high), False, formula)


def _two_levels(seen: pd.Series) -> tuple:
    if types.is_bool_dtype(seen.dtype):
        return False, True
    return tuple(seen.cat.categories.tolist())
