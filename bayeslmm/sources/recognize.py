"""Which source an object is: files, frames, databases, clusters."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd

from bayeslmm.errors import DataError
from bayeslmm.files import no_file
from bayeslmm.sources.base import Source
from bayeslmm.sources.dialect import TextOptions
from bayeslmm.sources.excel import is_excel, read_sheet

__all__ = ["IN_MEMORY_BYTES", "is_source", "load_small", "scan"]

#: What is smaller than this when its used columns are in memory is simply loaded.
IN_MEMORY_BYTES = 256e6


def scan(
    data: Any,
    *,
    batch_rows: int | None = None,
    checkpoint: str | os.PathLike | None = None,
    progressbar: bool = True,
    sep: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    na: Sequence[str] = (),
    sheet: str | None = None,
) -> Source:
    """Data to be read in batches, however small they are.

    ``LMM(formula, data)`` takes a path, a pyarrow dataset, a polars or DuckDB query or a Dask frame
    as it is, and loads what is small; this says to read in batches, and how.

    Parameters
    ----------
    data : path, pattern or list of paths, frame, query or dataset
        Parquet or CSV files (``"data/*.parquet"``, a directory), a pandas, polars (eager or lazy)
        or Dask frame, a pyarrow table or dataset, a DuckDB relation.
    batch_rows : int, optional
        Rows per batch; by default about 24 MB of used columns. Dask frames have their partitions.
    checkpoint : path, optional
        With files, a directory in which the sums of each finished file are kept: a pass that was
        interrupted goes on from there. It is left to you to remove.
    progressbar : bool
        Passes of more than two seconds show one on a terminal or in a notebook. (With Dask use
        Dask's own.)
    sep, decimal, encoding : str, optional
        How CSV files are written. What is not given is found out where it can be read in one way
        only (a header with semicolons and no commas; numbers such as ``3,5``), and said. Where
        one of these, `na` or `sheet` is given, and neither `batch_rows` nor `checkpoint`, small
        files are loaded.
    na : sequence of str
        Values of CSV and Excel files that stand for missing ones, besides the usual (empty,
        ``NA``, ``#N/A``, ...); numbers however they are written, ``"999"`` for 999.0 too.
    sheet : str, optional
        Of an Excel file; by default the first.

    Returns
    -------
    Source
        To be given to :class:`bayeslmm.LMM` as its data.

    Raises
    ------
    DataError
        If it is nothing of the kind, files cannot be read, or how they are written is not clear.

    Warns
    -----
    DataWarning
        How a file is written where that was found out; text with blanks at its ends, which are
        taken away.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> source = blm.scan(blm.load_dataset("sleepstudy"), batch_rows=50)
    >>> model = blm.LMM("Reaction ~ Days + (Days | Subject)", source)
    >>> round(model.reml().loglik, 3)
    -871.814
    """
    if batch_rows is not None and (not isinstance(batch_rows, int) or batch_rows < 1):
        raise DataError(f"batch_rows must be a whole number above 0, not {batch_rows!r}.")
    options = TextOptions(sep, decimal, encoding, tuple(na))
    if isinstance(data, str | os.PathLike | list | tuple):
        source: Source | None = _files(data, batch_rows, checkpoint, options, sheet)
        if source is not None and (options.given or sheet is not None):
            source.in_batches = batch_rows is not None or checkpoint is not None
    else:
        if options.given or sheet is not None:
            raise DataError("sep, decimal, encoding, na and sheet are for files.")
        source = data if isinstance(data, Source) else _source_of(data, batch_rows)
    if source is None:
        raise DataError(
            "The data must be a data frame (pandas, polars, Arrow, Dask), a DuckDB relation, a "
            f"pyarrow dataset, or paths of Parquet or CSV files, not {type(data).__name__}."
        )
    if checkpoint is not None and not hasattr(source, "checkpoint"):
        raise DataError("checkpoint= keeps the sums of finished files: give paths of files.")
    source.progressbar = source.progressbar and progressbar
    return source


def is_source(data: Any) -> bool:
    """Whether `data` is something that is, or may have to be, read in batches."""
    if isinstance(data, Source | str | os.PathLike):
        return True
    if isinstance(data, list | tuple):
        return bool(data) and all(isinstance(item, str | os.PathLike) for item in data)
    kind = type(data)
    package = kind.__module__.partition(".")[0]
    named = (package, kind.__name__)
    return named in _LAZY or (package == "pyarrow" and "Dataset" in kind.__name__)


#: Objects that stand for data elsewhere.
_LAZY = {
    ("polars", "LazyFrame"),
    ("duckdb", "DuckDBPyRelation"),
    ("_duckdb", "DuckDBPyRelation"),
    ("dask", "DataFrame"),
    ("dask_expr", "DataFrame"),
}


def load_small(source: Source, columns: list[str], given: Any) -> pd.DataFrame | None:
    """The used columns in memory where they are small and batches were not asked for.

    Parameters
    ----------
    given : object
        What the user gave: a :class:`Source` is read in batches unless it says otherwise.
    """
    if given is source and source.in_batches:
        return None
    n = source.n_rows()
    if n is None and hasattr(source, "size"):  # CSV: a number takes about 8 bytes there too
        n = source.size() / (8 * max(len(columns), 1))
    if n is None or 8.0 * n * max(len(columns), 1) > IN_MEMORY_BYTES:
        return None
    frames = source.load(columns)
    if not frames:
        raise DataError("The data have no rows.")
    return _joined(frames, columns, source.text)


def _joined(frames: list[pd.DataFrame], columns: list[str], text: frozenset) -> pd.DataFrame:
    """Batches as one frame; text as objects, so that levels are sorted."""
    parts = {}
    for name in columns:
        pieces = [frame[name] for frame in frames]
        if isinstance(pieces[0].dtype, pd.CategoricalDtype) if pieces else False:
            same = all(piece.dtype == pieces[0].dtype for piece in pieces)
            if name in text or not same:
                pieces = [piece.astype(object) for piece in pieces]
        parts[name] = pd.concat(pieces, ignore_index=True)
    return pd.DataFrame(parts)


class FrameSource(Source):
    """A pandas frame in slices."""

    def __init__(self, frame: pd.DataFrame, batch_rows: int | None):
        self.frame, self.batch_rows = frame, batch_rows
        self.name = "a data frame"
        self.columns = tuple(str(c) for c in frame.columns)

    def n_rows(self) -> int:
        return len(self.frame)

    def frames(self, columns: list[str]) -> Iterator[pd.DataFrame]:
        from bayeslmm.formula.columns import find_column
        from bayeslmm.sources.arrow import default_batch_rows

        size = self.batch_rows or default_batch_rows(len(columns))
        used = pd.DataFrame({name: find_column(self.frame, name) for name in columns})
        for start in range(0, len(used), size):
            yield used.iloc[start : start + size].reset_index(drop=True)


def _source_of(data: Any, batch_rows) -> Source | None:
    if isinstance(data, pd.DataFrame):
        return FrameSource(data, batch_rows)
    if isinstance(data, dict):
        from bayeslmm.formula.columns import as_frame

        return FrameSource(as_frame(data), batch_rows)
    package = type(data).__module__.partition(".")[0]
    if package in ("dask", "dask_expr"):
        from bayeslmm.sources.daskframe import DaskSource

        return DaskSource(data)
    if package in ("duckdb", "_duckdb"):
        return _duckdb(data, batch_rows)
    if package == "polars":
        return _polars(data, batch_rows)
    if package == "pyarrow":
        return _pyarrow(data, batch_rows)
    if hasattr(data, "__arrow_c_stream__"):
        pyarrow = _import("pyarrow", "parquet")
        return _pyarrow(pyarrow.table(data), batch_rows)
    return None


def _files(data, batch_rows, checkpoint, options: TextOptions, sheet) -> Source:
    paths = [data] if isinstance(data, str | os.PathLike) else list(data)
    if not paths or not all(isinstance(path, str | os.PathLike) for path in paths):
        raise DataError("A list as data must be one of paths.")
    if any(is_excel(os.fspath(path)) for path in paths):
        return _excel([os.fspath(path) for path in paths], batch_rows, options, sheet)
    if sheet is not None:
        raise DataError(f"A sheet is of an Excel file, and {os.fspath(paths[0])!r} is none.")
    _import("pyarrow", "parquet")
    from bayeslmm.sources.arrow import FileSource, find_files

    files = [file for path in paths for file in find_files(path)]
    kept = None if checkpoint is None else os.fspath(checkpoint)
    return FileSource(files, batch_rows, kept, options)


def _excel(paths: list[str], batch_rows, options: TextOptions, sheet) -> Source:
    if len(paths) > 1:
        raise DataError("Excel files are read one at a time.")
    if replace(options, na=()).given:
        raise DataError("A separator, a decimal sign and an encoding are of text files.")
    if not os.path.isfile(paths[0]):
        raise DataError(no_file(paths[0]))
    source = FrameSource(read_sheet(paths[0], sheet, options.na), batch_rows)
    source.name = paths[0]
    return source


def _pyarrow(data, batch_rows) -> Source | None:
    import pyarrow as pa

    from bayeslmm.sources.arrow import ArrowSource, DatasetSource

    if isinstance(data, pa.RecordBatch):
        data = pa.Table.from_batches([data])
    if isinstance(data, pa.Table):
        reader = partial(_batches_of_table, data)
        return ArrowSource("an Arrow table", data.schema, reader, batch_rows, data.num_rows)
    if hasattr(data, "scanner"):
        return DatasetSource(data, batch_rows)
    return None


def _batches_of_table(table, columns, size):
    return table.select(columns).to_batches(max_chunksize=size)


def _polars(data, batch_rows) -> Source | None:
    polars = _import("polars", "polars")
    _import("pyarrow", "polars")
    from bayeslmm.sources.arrow import ArrowSource

    if isinstance(data, polars.DataFrame):
        return _pyarrow(data.to_arrow(), batch_rows)
    if not isinstance(data, polars.LazyFrame):
        return None
    schema = data.head(0).collect().to_arrow().schema
    n = int(data.select(polars.len()).collect().item())
    reader = partial(_batches_of_query, data)
    return ArrowSource("a polars query", schema, reader, batch_rows, n)


def _batches_of_query(query, columns, size):
    for batch in query.select(columns).collect_batches(chunk_size=size, maintain_order=True):
        yield from batch.to_arrow().to_batches(max_chunksize=size)


class _Relation:
    """Batches of a DuckDB relation, whose connection stays in its process."""

    def __init__(self, relation=None):
        self.relation = relation

    def __call__(self, columns, size):
        if self.relation is None:
            raise DataError(
                "The rows are in a DuckDB relation of another process. Make the model here, or "
                "from a Parquet file."
            )
        quoted = ", ".join('"' + name.replace('"', '""') + '"' for name in columns)
        return self.relation.project(quoted).to_arrow_reader(size)

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        return _Relation, ()


def _duckdb(data, batch_rows) -> Source:
    _import("pyarrow", "duckdb")
    from bayeslmm.sources.arrow import ArrowSource

    schema = data.limit(0).to_arrow_table().schema
    n = int(data.aggregate("count(*)").fetchall()[0][0])
    return ArrowSource("a DuckDB relation", schema, _Relation(data), batch_rows, n)


def _import(package: str, extra: str):
    """A package that is not installed by default.

    Raises
    ------
    DataError
        If it is not there, with what to install.
    """
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as err:
        raise DataError(
            f"Reading these data needs {package}: pip install 'bayeslmm[{extra}]'."
        ) from err
