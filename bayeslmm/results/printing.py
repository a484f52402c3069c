"""Tables as text and HTML: whole and rounded, with every digit kept underneath."""

from __future__ import annotations

import functools
import html
import inspect
import shutil
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["Shown", "Table", "format_table", "returns_table", "returns_tables"]

#: Columns beyond which a frame is data rather than a table, printed as pandas does.
_MOST_COLUMNS = 60

#: Names and words are shortened for a table to fit, but not to less than this.
_SHORTEST = 8

#: Decimals of columns that are compared by differences, or near a value that is known.
_DECIMALS = {"aic": 2, "bic": 2, "loglik": 2, "deviance": 2, "p": 4, "r_hat": 3}


class Table(pd.DataFrame):
    """A pandas data frame that prints whole and rounded.

    Numbers have four significant digits, p values below 0.0001 are ``<0.0001``, what is missing is
    ``-``. Columns that do not fit into ``pandas.options.display.width`` (80 characters) follow
    below, with the labels again; of more than ``pandas.options.display.max_rows`` rows the first
    and the last are shown, with their number. What :meth:`round` gives shows the digits that were
    asked for. The values themselves are not rounded, and everything else is pandas:
    ``pandas.DataFrame(table)`` is a plain frame.

    Examples
    --------
    >>> table = Table({"estimate": [251.40510485], "p": [1.2e-17]}, index=["Intercept"])
    >>> table
               estimate        p
    Intercept     251.4  <0.0001
    >>> table.round(2)["estimate"].item(), table["estimate"].item()
    (251.41, 251.40510485)
    """

    _metadata = ["_rounded"]  # pandas hands it on to selections
    #: Whether its numbers were rounded by who asked for it.
    _rounded = False

    @property
    def _constructor(self) -> type[Table]:
        return Table

    def round(self, *args, **options) -> Table:
        """As of pandas, and printed with these digits."""
        found = super().round(*args, **options)
        found._rounded = True
        return found

    def __repr__(self) -> str:
        if self.shape[1] > _MOST_COLUMNS:
            return repr(pd.DataFrame(self))
        most = pd.get_option("display.max_rows") or len(self)
        if len(self) <= most:
            return format_table(self)
        shown = _ends(self, most)
        blocks = [block.split("\n") for block in _blocks(shown)]
        for lines in blocks:
            lines.insert(-(len(shown) // 2), "..")
        return "\n\n".join([*map("\n".join, blocks), _size(self)])

    def _repr_html_(self) -> str | None:
        if self.shape[1] > _MOST_COLUMNS or not pd.get_option("display.notebook_repr_html"):
            return pd.DataFrame(self)._repr_html_()
        return _as_html(self)


class Shown:
    """What prints as :meth:`_parts` do, one below the other, and is HTML in a notebook."""

    def _parts(self) -> list[str | pd.DataFrame]:
        """Paragraphs and tables."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return joined(self._parts())

    def _repr_html_(self) -> str:
        parts = [
            _as_html(part) if isinstance(part, pd.DataFrame) else _paragraph(part)
            for part in self._parts()
        ]
        return f"<div>{''.join(parts)}</div>"


def joined(parts: list[str | pd.DataFrame]) -> str:
    """Paragraphs and tables as text, with an empty line between."""
    return "\n\n".join(format_table(p) if isinstance(p, pd.DataFrame) else p for p in parts)


def _paragraph(text: str) -> str:
    return f"<p>{'<br>'.join(html.escape(line) for line in text.split(chr(10)))}</p>"


def _as_html(table: pd.DataFrame) -> str:
    """A table in the colors of the page, names escaped."""
    most = pd.get_option("display.max_rows") or len(table)
    with pd.option_context("display.max_colwidth", None):
        found = _as_text(_ends(table, most)).to_html(notebook=True)
    return found if len(table) <= most else f"{found}{_paragraph(_size(table))}"


def returns_table[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    """Let a function that returns a data frame return it as a :class:`Table`.

    What is no frame (a series, draws) stays as it is. Warnings inside name the line of who called
    by the package's files (``errors.PACKAGE``), so that the call in between does not matter.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **options: P.kwargs) -> R:
        found: Any = function(*args, **options)
        return Table(found).__finalize__(found) if type(found) is pd.DataFrame else found

    return wrapped


def returns_tables[T: type](cls: T) -> T:
    """Let all public methods and properties annotated as data frames return a :class:`Table`."""
    for name in dir(cls):
        member = inspect.getattr_static(cls, name)
        function = member.fget if isinstance(member, property) else member
        if name.startswith("_") or not inspect.isfunction(function):
            continue
        if "DataFrame" in str(function.__annotations__.get("return")):
            table = returns_table(function)
            setattr(cls, name, property(table) if isinstance(member, property) else table)
    return cls


def format_table(table: pd.DataFrame) -> str:
    """All rows of a table as text, in blocks of columns that fit the width of the display.

    Parameters
    ----------
    table : pandas.DataFrame

    Returns
    -------
    str
        Lines of at most ``pandas.options.display.width`` characters, by default 80.
    """
    if not len(table) or not table.shape[1]:
        names = ", ".join(map(str, table.columns)) or "none"
        return textwrap.fill(f"{len(table)} rows. Columns: {names}", _display_width())
    return "\n\n".join(_blocks(table))


def _display_width() -> int:
    return pd.get_option("display.width") or shutil.get_terminal_size().columns


def _blocks(table: pd.DataFrame) -> list[str]:
    """Blocks of columns within the width of the display, with the longest words cut for it."""
    text, labels, width = _as_text(table), _n_labels(table), _display_width()
    longest, shown = _longest(text), text
    for length in (longest, *range(min(longest, width) - 4, _SHORTEST, -4)):
        shown = text if length == longest else _shortened(text, length)
        widths = _widths(shown)
        if sum(widths[: labels + 1]) + max(widths[labels + 1 :]) <= width:
            break
    return [
        shown.iloc[:, [*range(labels), *part]].to_string(max_colwidth=10**6)
        for part in _parts_within(widths[labels + 1 :], width - sum(widths[: labels + 1]), labels)
    ]


def _parts_within(widths: list[int], width: int, first: int) -> list[list[int]]:
    """Positions, from `first` on, of columns that fit side by side, at least one in each part."""
    parts: list[list[int]] = []
    left = 0
    for at, wide in enumerate(widths, first):
        if not parts or wide > left:
            parts.append([])
            left = width
        parts[-1].append(at)
        left -= wide
    return parts


def _widths(text: pd.DataFrame) -> list[int]:
    """Of the index, and of each column with the blanks pandas puts before names and cells."""
    columns = []
    for at, name in enumerate(text.columns):
        parts = name if isinstance(name, tuple) else (name,)
        cells = (2 + len(cell) for cell in text.iloc[:, at])
        columns.append(max([*(1 + len(str(part)) for part in parts), *cells]))
    first = text.iloc[:, :1].to_string(max_colwidth=10**6)
    return [max(map(len, first.split("\n"))) - columns[0], *columns]


def _n_labels(table: pd.DataFrame) -> int:
    """How many columns at the start say what a row is about; at least one does not."""
    for at, kind in enumerate(table.dtypes):
        if pd.api.types.is_float_dtype(kind):
            return at
    return 0


def _shortened(text: pd.DataFrame, length: int) -> pd.DataFrame:
    """With long names, labels and words cut in the middle: both ends tell them apart."""

    def cut(value):
        value = value if isinstance(value, str) else str(value)
        end = length // 3
        return value if len(value) <= length else f"{value[: length - end - 2]}..{value[-end:]}"

    return text.map(cut).rename(index=cut, columns=cut)


def _longest(text: pd.DataFrame) -> int:
    names = [*text.index, *text.columns, *text.to_numpy().ravel()]
    flat = [part for name in names for part in (name if isinstance(name, tuple) else (name,))]
    return max((len(str(part)) for part in flat), default=0)


def _ends(table: pd.DataFrame, most: int) -> pd.DataFrame:
    """The first and the last rows of a table that has more than `most`."""
    if len(table) <= most:
        return table
    half = max((pd.get_option("display.min_rows") or most) // 2, 1)
    return table.iloc[[*range(half), *range(len(table) - half, len(table))]]


def _size(table: pd.DataFrame) -> str:
    return f"[the first and last of {len(table):,} rows]"


def _as_text(table: pd.DataFrame) -> pd.DataFrame:
    """A plain frame of words."""
    rounded = isinstance(table, Table) and table._rounded
    cells = {}
    for at, column in enumerate(table.columns):
        values = table.iloc[:, at]
        name = str(column[-1] if isinstance(column, tuple) else column)
        if rounded and pd.api.types.is_float_dtype(values.dtype):
            cells[at] = _as_pandas(values)
        else:
            cells[at] = [_cell(name, value) for value in values]
    text = pd.DataFrame(cells, index=table.index, dtype=object)
    text.columns = table.columns
    return text


def _as_pandas(values: pd.Series) -> list[str]:
    """Numbers with the digits pandas shows."""
    return [line.strip() for line in values.to_string(index=False, header=False).split("\n")]


def _cell(column: str, value: Any) -> str:
    if value is None or value is pd.NA or value is pd.NaT:
        return "-"
    if not isinstance(value, float | np.floating):
        return str(value)
    number = float(value)
    if np.isnan(number):
        return "-"
    if column == "p" and number < 1e-4:
        return "<0.0001"
    if column in _DECIMALS:
        return f"{number:.{_DECIMALS[column]}f}"
    whole = column.startswith("ess") or 1e4 <= abs(number) < 1e7
    return f"{number:.0f}" if whole else f"{number:.4g}"
