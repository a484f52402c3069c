"""A sheet of an Excel file as a data frame."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec

import pandas as pd

from bayeslmm.errors import DataError, DataWarning, listed, suggestion
from bayeslmm.sources.dialect import MISSING, bare_names, numbers_of

__all__ = ["is_excel", "read_sheet", "warn_stripped"]


def is_excel(path: str) -> bool:
    """Whether a file's name is one of Excel's."""
    return path.lower().endswith((".xlsx", ".xlsm", ".xls"))


def read_sheet(path: str, sheet: str | None = None, na: Sequence[str] = ()) -> pd.DataFrame:
    """Rows of a sheet, its first row as names of columns.

    Parameters
    ----------
    path : str
    sheet : str, optional
        Its name; by default the first, and a warning says which where there are others.
    na : sequence of str
        Values that stand for missing ones, besides the usual.

    Raises
    ------
    DataError
        If the package that reads such files is not installed, the file cannot be read, has no
        such sheet, or has names of columns that differ in blanks only.

    Warns
    -----
    DataWarning
        Which sheet was read, and text and names of columns whose blanks at their ends were taken
        away.
    """
    if path.lower().endswith(".xls"):
        raise DataError(f"{path!r} is of an old kind of Excel file. Save it as .xlsx or .csv.")
    if find_spec("openpyxl") is None:
        raise DataError(
            f"Reading {path!r} needs openpyxl: pip install 'bayeslmm[excel]'. Or save the sheet "
            "as CSV."
        )
    try:
        with pd.ExcelFile(path, engine="openpyxl") as book:
            sheets = [str(name) for name in book.sheet_names]
            chosen = sheets[0] if sheet is None else sheet
            if chosen not in sheets:
                raise DataError(
                    f"{path!r} has no sheet {chosen!r}.{suggestion(chosen, sheets)} Sheets: "
                    f"{listed(sheets, 20)}."
                )
            frame = pd.read_excel(book, sheet_name=chosen, na_values=list(na))
            head = pd.read_excel(book, sheet_name=chosen, header=None, nrows=1, dtype=object)
    except DataError:
        raise
    except Exception as err:
        raise DataError(f"Cannot read {path!r} as an Excel file: {err}") from None
    if sheet is None and len(sheets) > 1:
        warnings.warn(
            f"{path!r} has sheets {listed(sheets, 20)}: the first was read. sheet= (in the shell "
            "--sheet) names another.",
            DataWarning,
            stacklevel=3,
        )
    absent = [number for text in na for number in numbers_of(text, ".")]
    if absent:  # pandas looks for them among decimals, and not among whole numbers
        frame = frame.mask(frame.isin(absent))
    written = [str(c) for c in frame.columns]
    for at, name in enumerate(head.to_numpy().ravel()[: len(written)]):
        if isinstance(name, str) and written[:at].count(name):  # which pandas calls "name.1"
            written[at] = name
    names = bare_names(path, written)
    if padded := [one for one, name in zip(written, names, strict=True) if one != name]:
        warnings.warn(
            f"In {path!r} names of columns have blanks at their ends ({padded[0]!r}); it was read "
            "without them.",
            DataWarning,
            stacklevel=3,
        )
    return _stripped(frame.set_axis(names, axis=1), {*MISSING, *na})


def _stripped(frame: pd.DataFrame, missing: set[str]) -> pd.DataFrame:
    """Text without blanks at its ends, which may then be a missing value."""
    columns = {}
    for at, name in enumerate(frame.columns):
        column = frame.iloc[:, at]
        text = column.map(lambda value: isinstance(value, str)).to_numpy(bool)
        if text.any():
            bare = column[text].str.strip()
            absent = bare.isin(missing)
            if len(changed := column[text][(bare != column[text]) & ~absent]):
                warn_stripped(name, changed.iloc[0])
            column = column.astype(object)
            column[text] = bare.mask(absent)
            column = column.infer_objects()
        columns[at] = column
    return pd.DataFrame(columns).set_axis(frame.columns, axis=1)


def warn_stripped(column: str, example: str) -> None:
    """Say that blanks at the ends of a column's text were taken away."""
    warnings.warn(
        f"Column {column!r} has text with blanks at its ends, such as {example!r}, which were "
        f"taken away: it is the same as {example.strip()!r}.",
        DataWarning,
        stacklevel=3,
    )
