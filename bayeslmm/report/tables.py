"""Data frames as plain rows of text for the template."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

__all__ = ["Table", "table"]


@dataclass(frozen=True)
class Table:
    """Column heads and rows of text; the first cell of a row is its name.

    Attributes
    ----------
    head : list of str
    rows : list of list of str
    caption : str
    """

    head: list[str]
    rows: list[list[str]]
    caption: str = ""


def table(frame: pd.DataFrame, caption: str = "", first: str = "") -> Table:
    """A frame with its index, numbers to four significant digits."""
    head = [first or str(frame.index.name or "")]
    head += [" ".join(map(str, c)) if isinstance(c, tuple) else str(c) for c in frame.columns]
    rows = [
        [str(name), *(_cell(column, value) for column, value in zip(head[1:], row, strict=True))]
        for name, row in zip(frame.index, frame.to_numpy(dtype=object), strict=True)
    ]
    return Table(head, rows, caption)


def _cell(column: str, value) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value}"
    if not isinstance(value, float | np.floating):
        return str(value)
    if np.isnan(value):
        return "–"
    last = column.split()[-1]
    if last == "p" or last.startswith("p_"):
        return "<0.0001" if value < 1e-4 else f"{value:.4f}"
    if last.startswith("ess"):
        return f"{value:.0f}"
    if last == "r_hat":
        return f"{value:.3f}"
    return f"{value:.4g}"
