"""Tables of a command: printed in a format, written to files that say theirs by their endings."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FORMATS", "check_folder", "check_outputs", "formatted", "show", "write_tables"]

FORMATS = ("table", "csv", "json", "markdown")
_ENDINGS = {".csv": "csv", ".json": "json", ".md": "markdown", ".txt": "table"}


def check_outputs(outputs: Sequence[str] | None, *, fit: str | None = None) -> list[str]:
    """Refuse files that cannot be written; those that are given, each once.

    Parameters
    ----------
    outputs : sequence of str, optional
    fit : str, optional
        Why no fit (a ``.nc`` file) is written, where that is so.

    Raises
    ------
    FileFormatError
        If an ending is not known, or a folder is not there or cannot be written to.
    """
    from bayeslmm import FileFormatError

    found = list(dict.fromkeys(outputs or []))
    for output in found:
        check_folder(output)
        ending = os.path.splitext(output)[1].lower()
        if ending == ".nc" and fit is not None:
            raise FileFormatError(fit)
        if ending != ".nc" and ending not in _ENDINGS:
            raise FileFormatError(
                f"--output {output!r}: the ending says what is written. "
                + ("" if fit else ".nc is the fit; ")
                + "tables are .csv, .json, .md (markdown) or .txt."
            )
    return found


def check_folder(output: str) -> None:
    """Refuse a file whose folder is not there or cannot be written to.

    Raises
    ------
    FileFormatError
    """
    from bayeslmm import FileFormatError

    folder = os.path.dirname(os.path.abspath(output))
    if not os.path.isdir(folder):
        raise FileFormatError(f"There is no folder {folder!r} to write {output!r} to.")
    if os.path.isdir(output):
        raise FileFormatError(f"{output!r} is a folder. Name a file to write to.")
    if not os.access(folder, os.W_OK):
        raise FileFormatError(f"The folder {folder!r} cannot be written to.")


def formatted(tables: Mapping[str, pd.DataFrame], format: str, text: str) -> str:
    """Tables as text of a format.

    Parameters
    ----------
    tables : mapping of str to pandas.DataFrame
        By what they are of; several become one of CSV, with that as its first column.
    format : {"table", "csv", "json", "markdown"}
        Numbers of CSV and JSON have all their digits.
    text : str
        What ``"table"`` is.
    """
    if format == "table":
        return text
    named = {part: _with_names(table) for part, table in tables.items()}
    if format == "csv":
        import pandas as pd

        many = len(named) > 1
        if many:  # one column of names
            named = {p: t.rename(columns={t.columns[0]: "name"}) for p, t in named.items()}
        parts = [t.assign(part=p)[["part", *t]] if many else t for p, t in named.items()]
        return pd.concat(parts, ignore_index=True).to_csv(index=False)
    if format == "json":
        records = {
            part: json.loads(table.to_json(orient="records", double_precision=15))
            for part, table in named.items()
        }
        return json.dumps(records if len(records) > 1 else next(iter(records.values())), indent=1)
    return "\n".join(_markdown(table) for table in named.values())


def _with_names(table: pd.DataFrame) -> pd.DataFrame:
    """The index as a first column, where it says something."""
    import pandas as pd

    if isinstance(table.index, pd.RangeIndex):
        return table
    return table.rename_axis(table.index.name or "name").reset_index()


def _markdown(table: pd.DataFrame) -> str:
    text = table.to_csv(index=False, float_format="%.4g", na_rep="-")
    rows = [[cell.replace("|", "\\|") for cell in row] for row in csv.reader(text.splitlines())]
    rows.insert(1, ["---"] * len(rows[0]))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def show(text: str, format: str) -> None:
    """Print what is no table: beside it, or where that is for another program, as a message."""
    typer.echo(text, err=format != "table")


def write_tables(outputs: Sequence[str], tables: Mapping[str, pd.DataFrame], text: str) -> None:
    """Write tables to the files whose endings are those of tables."""
    for output in outputs:
        if format := _ENDINGS.get(os.path.splitext(output)[1].lower()):
            with open(output, "w", encoding="utf-8", newline="") as file:
                file.write(formatted(tables, format, text).rstrip("\n") + "\n")
            typer.echo(f"Wrote {output}.", err=True)
