"""One column of a data frame made fit for a model matrix.

Whatever dtype a column comes in (nullable, Arrow, object, categorical), it leaves as a plain
numpy number column or as an ordered categorical without unused levels, or an error names it.
"""

from __future__ import annotations

import numbers
import re
from collections.abc import Iterable

import numpy as np
import pandas as pd
from pandas.api import types

from bayeslmm.errors import DataError, FormulaError, listed, suggestion

__all__ = [
    "anywhere_missing",
    "as_frame",
    "find_column",
    "missing_in",
    "plain_column",
    "plain_values",
    "refuse_gaps",
    "weight_values",
]

_TOO_LARGE = (
    "Column {0!r} has integers beyond 2^63, which a number here cannot hold exactly. If they are "
    "labels, make them strings: .astype(str)."
)


def as_frame(data) -> pd.DataFrame:
    """`data` as a pandas frame (polars, Arrow tables and dicts of columns are converted).

    Raises
    ------
    DataError
        If it is none of these, or has no rows.
    """
    if isinstance(data, pd.DataFrame):
        frame = data
    elif hasattr(data, "to_pandas"):
        frame = _to_pandas(data)
    elif hasattr(data, "collect"):  # a lazy polars frame
        frame = _to_pandas(data.collect())
    elif isinstance(data, dict):
        try:
            frame = pd.DataFrame(data)
        except ValueError as err:
            raise DataError(
                f"The dict of columns is no table ({err}): give lists of equal length."
            ) from None
    else:
        raise DataError(
            f"The data must be a data frame (pandas, polars, Arrow) or a dict of columns, not "
            f"{type(data).__name__}."
        )
    if len(frame) == 0:
        raise DataError("The data frame has no rows.")
    return frame


def _to_pandas(data) -> pd.DataFrame:
    try:
        frame = data.to_pandas()
    except ImportError:  # polars needs pyarrow for it
        return pd.DataFrame(data.to_dict(as_series=False))
    for name in frame.columns[[dtype == "category" for dtype in frame.dtypes]]:
        if frame.columns.is_unique and _has_no_order(data, name):
            levels = frame[name].cat.categories
            frame[name] = frame[name].cat.reorder_categories(sorted(levels))
    return frame


def _has_no_order(data, name: str) -> bool:
    """Whether the categories of a polars or Arrow column come as they first appeared.

    A polars Enum, an ordered Arrow dictionary and one that pandas wrote have an order.
    """
    schema = getattr(data, "schema", None)
    if schema is None:  # neither of them
        return False
    if hasattr(schema, "metadata"):  # an Arrow table
        return not (schema.field(name).type.ordered or b"pandas" in (schema.metadata or {}))
    return type(schema[name]).__name__ == "Categorical"


def find_column(frame: pd.DataFrame, name: str, role: str = "column") -> pd.Series:
    """The column called `name`.

    Raises
    ------
    FormulaError
        If there is none (close matches are named), or more than one.
    """
    labels = frame.columns
    if labels.inferred_type == "string" and name in labels:  # many columns are not gone through
        found = [name]
    else:
        found = [column for column in labels if column == name]
    if not found:
        found = [column for column in frame.columns if str(column) == name]
    if not found:
        names = [str(column) for column in frame.columns]
        same = [n for n in names if n.lower() == name.lower()]
        hint = suggestion(name, names, 3) or "".join(f" Did you mean {n!r}?" for n in same[:1])
        if one := _unseparated(frame):
            hint = one
        if name in ("TRUE", "FALSE", "NULL", "NA"):
            hint = " Python writes True, False and None."
        shown = f"{name!r} in the data.{hint} Columns: {listed(names, 30)}"
        raise FormulaError(f"There is no {role} {shown}.")
    column = frame[found[0]]
    if isinstance(column, pd.DataFrame):
        raise DataError(f"The data have {column.shape[1]} columns called {name!r}. Rename them.")
    return column


def _unseparated(frame: pd.DataFrame) -> str:
    """How to read a file whose columns were taken for one, behind a blank, or nothing."""
    signs = {";": "semicolons", "\t": "tabs", "|": "bars"}
    found = [sign for sign in signs if sign in str(frame.columns[0])] if frame.shape[1] == 1 else []
    if not found:
        return ""
    sep = found[0]
    # before a decimal comma pandas has taken a row's text for its label
    rows = frame if isinstance(frame.index, pd.RangeIndex) else frame.reset_index()
    lines = [",".join(map(str, row)) for row in rows.head(100).itertuples(index=False)]
    number = re.compile(r"-?\d+,\d+")
    commas = any(number.fullmatch(cell) for line in lines for cell in line.split(sep))
    decimal = ' and decimal=","' if commas else ""
    shown = {"\t": '"\\t"'}.get(sep, f'"{sep}"')
    return (
        f" The data have one column, with {signs[sep]} in its name: read the file with "
        f"sep={shown}{decimal}."
    )


def missing_in(column: pd.Series) -> np.ndarray:
    """True where a value is missing, shape (n,)."""
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):  # as isna() does, in a fraction of the time
        return column.array.codes == -1
    if isinstance(dtype, np.dtype) and dtype.kind in "biuf":
        return np.isnan(column.to_numpy()) if dtype.kind == "f" else np.zeros(len(column), bool)
    return np.asarray(column.isna(), dtype=bool)


def anywhere_missing(columns: Iterable[pd.Series], weights, n: int) -> np.ndarray:
    """Rows (n,) with a missing value in one of the columns, or in the weights if there are some."""
    masks = [missing_in(column) for column in columns]
    masks += [] if weights is None else [missing_in(weights)]
    return np.logical_or.reduce([np.zeros(n, dtype=bool), *masks])


def weight_values(column: pd.Series) -> np.ndarray:
    """Prior weights as numbers, shape (n,); missing values stay missing.

    Raises
    ------
    DataError
        If they are not numbers, or negative or infinite.
    """
    try:
        values = column.to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError):
        raise DataError("weights must be numbers.") from None
    present = values[~np.isnan(values)]
    if np.any(np.isinf(present)) or np.any(present < 0):
        raise DataError(
            "weights must be finite and not negative; they are precisions: Var = sigma^2 / weight."
        )
    return values


def refuse_gaps(column: pd.Series, name: str, why: str) -> pd.Series:
    """The column of new data; refuses one with missing values.

    Raises
    ------
    DataError
    """
    absent = missing_in(column)
    if absent.any():
        raise DataError(
            f"Column {name!r} of the new data has {int(absent.sum())} missing value(s), the first "
            f"in row {int(np.flatnonzero(absent)[0])}{why}"
        )
    return column


def plain_column(
    column: pd.Series, name: str, categories: list | None = None, *, numeric: bool = False
) -> pd.Series:
    """As :func:`plain_values`, numbered from 0."""
    values = plain_values(column, name, categories, numeric=numeric)
    return pd.Series(values, name=name, copy=False)


def plain_values(
    column: pd.Series, name: str, categories: list | None = None, *, numeric: bool = False
) -> np.ndarray | pd.Categorical:
    """A column without missing values as plain numbers, booleans or ordered categories.

    Parameters
    ----------
    column : pandas.Series
        Without missing values.
    name : str
        For messages.
    categories : list, optional
        Levels fixed by an earlier fit; the column must have no others.
    numeric : bool
        Refuse anything but numbers: new data for a column that was numeric in the fit.

    Returns
    -------
    ndarray (int64, float64 or bool) or ordered Categorical
        A copy. The order of levels is
        that of a categorical's categories, otherwise sorted.

    Raises
    ------
    DataError
        If the values are dates, complex, infinite, of mixed types, or not a level seen before.
    """
    if categories is not None:
        return _known_levels(column, name, categories)
    if numeric and not _is_numeric(column):
        raise DataError(
            f"Column {name!r} was numeric when the model was fitted, and has "
            f"{column.dtype} values now."
        )
    dtype = column.dtype
    if isinstance(dtype, np.dtype) and dtype.kind in "if":  # the usual case first
        return _plain_numbers(column, name)
    if isinstance(dtype, pd.CategoricalDtype):
        return _used_levels(column.array)
    if types.is_bool_dtype(dtype):
        return column.to_numpy(dtype=bool, copy=True)
    if types.is_complex_dtype(dtype):
        raise DataError(f"Column {name!r} has complex numbers, which no model here can use.")
    if types.is_numeric_dtype(dtype):
        return _plain_numbers(column, name)
    if _is_time(dtype):
        raise DataError(
            f"Column {name!r} has dates or times. For a predictor turn it into a number, such as "
            f"days since the first visit: (data[{name!r}] - data[{name!r}].min()).dt.days; for a "
            "grouping factor into text: .astype(str)."
        )
    return _plain_objects(column, name)


def _used_levels(values: pd.Categorical) -> pd.Categorical:
    used = np.zeros(len(values.categories), dtype=bool)
    used[values.codes] = True
    if not used.all():
        return values.remove_unused_categories().as_ordered()
    dtype = pd.CategoricalDtype(values.categories, ordered=True)
    return pd.Categorical.from_codes(values.codes.copy(), dtype=dtype, validate=False)


def _is_numeric(column: pd.Series) -> bool:
    if types.is_numeric_dtype(column.dtype):
        return True
    return column.dtype == object and all(
        isinstance(value, numbers.Number) for value in column.to_numpy()
    )


def _is_time(dtype) -> bool:
    if types.is_datetime64_any_dtype(dtype) or types.is_timedelta64_dtype(dtype):
        return True
    if isinstance(dtype, pd.PeriodDtype):
        return True
    kind = str(dtype)
    return any(word in kind for word in ("date32", "date64", "timestamp", "duration", "time64"))


def _plain_numbers(column: pd.Series, name: str) -> np.ndarray:
    if column.dtype != np.float64 and types.is_integer_dtype(column.dtype):
        unsigned = types.is_unsigned_integer_dtype(column.dtype)
        values = column.to_numpy(dtype=np.uint64 if unsigned else np.int64)
        if unsigned and values.max() > np.iinfo(np.int64).max:
            raise DataError(_TOO_LARGE.format(name))
        return values.astype(np.int64)
    values = column.to_numpy(dtype=float, copy=True)
    infinite = ~np.isfinite(values)
    if infinite.any():
        raise DataError(
            f"Column {name!r} has {int(infinite.sum())} infinite value(s), the first in row "
            f"{int(np.flatnonzero(infinite)[0])} of the rows used. Remove or correct them."
        )
    return values


def _plain_objects(column: pd.Series, name: str) -> np.ndarray | pd.Categorical:
    values = column.to_numpy(dtype=object)
    kinds = {type(value) for value in values}
    if all(issubclass(kind, str) for kind in kinds):
        codes, levels = pd.factorize(values, sort=True)
        levels = [str(level) for level in levels]
        return pd.Categorical.from_codes(codes, levels, ordered=True)
    if all(issubclass(kind, bool | np.bool_) for kind in kinds):
        return values.astype(bool)
    if not any(issubclass(kind, bool | np.bool_ | str) for kind in kinds):
        if all(issubclass(kind, numbers.Integral) for kind in kinds):
            try:
                return _plain_numbers(pd.Series(values.astype(np.int64)), name)
            except OverflowError:
                raise DataError(_TOO_LARGE.format(name)) from None
        try:
            return _plain_numbers(pd.Series(values.astype(float)), name)
        except (TypeError, ValueError):
            pass
    if any(hasattr(value, "year") for value in values[:1]):
        raise DataError(
            f"Column {name!r} has dates or times. For a predictor turn it into a number, such as "
            "days since the first visit; for a grouping factor into text: .astype(str)."
        )
    shown = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise DataError(
        f"Column {name!r} mixes values of different types ({shown}). Make it all numbers "
        "(pandas.to_numeric) or all strings (.astype(str))."
    )


def _known_levels(column: pd.Series, name: str, categories: list) -> pd.Categorical:
    values = column.astype(object).to_numpy()
    codes = pd.Index(categories, dtype=object).get_indexer(pd.Index(values, dtype=object))
    if (codes < 0).any():
        new = list(dict.fromkeys(values[codes < 0]))
        # 3 and 3.0 are the level "3", and "3" is the level 3, as for grouping factors
        known = {_as_text(level): i for i, level in enumerate(categories)}
        by_text = {value: known.get(_as_text(value), -1) for value in new}
        codes = np.array(
            [by_text[v] if c < 0 else c for v, c in zip(values, codes, strict=True)], dtype=int
        )
        if new := [value for value in new if by_text[value] < 0]:
            raise DataError(
                f"Column {name!r} has level(s) not seen when the model was fitted: "
                f"{listed(map(repr, new), 5)}. Known levels: {listed(categories)}."
            )
    # Not ordered: formulae checks that an ordered column has all of its levels.
    return pd.Categorical.from_codes(codes, categories)


def _as_text(value) -> str:
    """A label as text; a whole number without a point."""
    whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value)) if whole else str(value)
