"""Sources that give Arrow batches: Parquet and CSV files, pyarrow, polars, DuckDB.

Text becomes a pandas categorical batch by batch (a dictionary lookup instead of an object per
row); numbers become numpy columns. Columns that are not asked for are not read.
"""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from bayeslmm.errors import DataError, DataWarning
from bayeslmm.files import no_file
from bayeslmm.sources.base import Source
from bayeslmm.sources.dialect import TextOptions, dialects_of, notices, undecodable
from bayeslmm.sources.excel import warn_stripped

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ArrowSource", "DatasetSource", "FileSource", "find_files"]

#: Bytes of Arrow data a batch holds, about; what is made of it takes a few times as much.
BATCH_BYTES = 24e6
_MOST_ROWS, _FEWEST_ROWS = 1 << 19, 1 << 12
#: Floats hold all integers up to here.
_EXACT = 2**53
_SUFFIXES = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv"}
#: Files that are text where somebody names them; in a directory they may be anything.
_TEXT = {".txt", ".dat", ".asc", ""}


def default_batch_rows(n_columns: int) -> int:
    """Rows of a batch of about :data:`BATCH_BYTES`."""
    rows = int(BATCH_BYTES / (8 * max(n_columns, 1)))
    return min(max(rows, _FEWEST_ROWS), _MOST_ROWS)


class ArrowSource(Source):
    """Anything that can give a reader of Arrow record batches again and again.

    Parameters
    ----------
    name : str
    schema : pyarrow.Schema
    reader : callable
        Columns and rows per batch to an iterable of record batches.
    batch_rows : int, optional
    n_rows : int, optional
        Where known.
    """

    def __init__(
        self,
        name: str,
        schema: pa.Schema,
        reader: Callable[[list[str], int], Iterator],
        batch_rows: int | None = None,
        n_rows: int | None = None,
    ):
        self.name, self.batch_rows = name, batch_rows
        self._set_schema(schema)
        self._reader, self._n_rows = reader, n_rows

    def _set_schema(self, schema: pa.Schema) -> None:
        self.columns = tuple(schema.names)
        self.text = text_columns(schema)

    def n_rows(self) -> int | None:
        return self._n_rows

    def frames(self, columns: list[str]) -> Iterator[pd.DataFrame]:
        yield from self._sliced(self._reader, columns)

    def _sliced(self, read: Callable, columns: list[str]) -> Iterator[pd.DataFrame]:
        size = self.batch_rows or default_batch_rows(len(columns))
        for batch in read(columns, size):
            for start in range(0, batch.num_rows, size):
                yield to_frame(batch.slice(start, size))


def text_columns(schema: pa.Schema) -> frozenset[str]:
    """Columns whose levels are sorted: strings, and dictionaries without an order of their own.

    A dictionary's order means something where it says so, or where pandas wrote it (categories
    have an order there); elsewhere it is the order of first appearance.
    """
    import pyarrow as pa

    from_pandas = b"pandas" in (schema.metadata or {})
    names = []
    for field in schema:
        kind = field.type
        if pa.types.is_dictionary(kind):
            if not (kind.ordered or from_pandas):
                names.append(field.name)
        elif is_text(kind):
            names.append(field.name)
    return frozenset(names)


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is text."""
    import pyarrow as pa

    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or (hasattr(pa.types, "is_string_view") and pa.types.is_string_view(kind))
    )


def to_frame(batch: pa.RecordBatch | pa.Table) -> pd.DataFrame:
    """A batch as a pandas frame of numpy columns and categoricals."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if is_text(column.type):
            if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
                column = column.cast(pa.large_string())
            column = pc.dictionary_encode(column)
        elif pa.types.is_decimal(column.type):
            column = column.cast(pa.float64())
        if isinstance(column, pa.ChunkedArray):
            column = column.unify_dictionaries().combine_chunks()
        if isinstance(column, pa.DictionaryArray):
            columns[name] = _categorical(column)
        elif pa.types.is_integer(column.type) and column.null_count:
            columns[name] = _integers_with_gaps(column)
        else:
            columns[name] = column.to_pandas()
    return pd.DataFrame(columns, index=pd.RangeIndex(batch.num_rows), copy=False)


def _integers_with_gaps(column: pa.Array):
    """Integers some of which are missing: numpy's floats, but exact where those would not be."""
    floats = column.to_pandas()
    if not floats.abs().max() > _EXACT:
        return floats
    values = column.fill_null(0).to_numpy(zero_copy_only=False)
    return pd.arrays.IntegerArray(values, column.is_null().to_numpy(zero_copy_only=False))


def _categorical(column: pa.DictionaryArray) -> pd.Categorical:
    import pyarrow as pa

    indices = column.indices.cast(pa.int64())  # polars has unsigned ones, which hold no -1
    codes = indices.fill_null(-1).to_numpy(zero_copy_only=False)
    labels = column.dictionary.to_pylist()
    return pd.Categorical.from_codes(codes, pd.Index(labels, dtype=object), column.type.ordered)


class DatasetSource(ArrowSource):
    """A pyarrow dataset of the user's."""

    def __init__(self, dataset, batch_rows: int | None = None):
        super().__init__("a pyarrow dataset", dataset.schema, self._scanned, batch_rows)
        self._dataset = dataset

    def _scanned(self, columns, size):
        return self._dataset.scanner(
            columns=columns, batch_size=size, batch_readahead=2, fragment_readahead=1
        ).to_batches()

    def n_rows(self) -> int | None:
        return self._dataset.count_rows()


class FileSource(ArrowSource):
    """Parquet or CSV files, read one after the other.

    Parameters
    ----------
    files : sequence of str
        All of one format.
    batch_rows : int, optional
    checkpoint : str, optional
        A directory in which the state of each finished file is kept, so that an interrupted pass
        goes on from there.
    options : TextOptions
        How CSV files are written, where it is known.

    Raises
    ------
    DataError
        If a file cannot be read, or lacks a column the others have.

    Warns
    -----
    DataWarning
        How CSV files are written where it was found out, and which columns have text with blanks
        at its ends, which are taken away.
    """

    def __init__(
        self,
        files: Sequence[str],
        batch_rows: int | None = None,
        checkpoint: str | None = None,
        options: TextOptions = TextOptions(),  # noqa: B008
    ):
        self.files = list(files)
        self.format = _format_of(self.files[0])
        self.checkpoint = checkpoint
        if any(_format_of(file) != self.format for file in self.files):
            raise DataError("The files are not all of one format. Give them in separate calls.")
        self._types: dict = {}  # of CSV columns that were found to be more than they seemed
        self._first_types: dict = {}
        self._stripped: set[str] = set()
        if self.format == "csv":
            self.dialects = dialects_of(self.files, options)
        elif options.given:
            raise DataError(
                "A separator, a decimal sign, an encoding and values for missing ones are of text "
                f"files, and {self.files[0]!r} is none."
            )
        shown = self.files[0] if len(self.files) == 1 else f"{len(self.files)} files"
        super().__init__(shown, self._schema(self.files[0]), self._batches, batch_rows)
        if self.format == "csv":
            for notice in notices(self.dialects.values()):
                warnings.warn(notice, DataWarning, stacklevel=5)

    def n_rows(self) -> int | None:
        if self.format != "parquet":
            return None
        return sum(self._parquet(file).metadata.num_rows for file in self.files)

    def mark(self) -> list:
        """Size and time of change of each file; None where there is none any more."""
        return [_size_and_time(file) for file in self.files]

    def size(self) -> int:
        """Bytes on disk."""
        return sum(os.path.getsize(file) for file in self.files)

    def _batches(self, columns: list[str], size: int) -> Iterator:
        for file in self.files:
            yield from self._file_batches(file, columns, size)

    def _file_batches(self, file: str, columns: list[str], size: int) -> Iterator:
        read = self._parquet_batches if self.format == "parquet" else self._csv_batches
        return read(file, columns, size)

    def file_frames(self, file: str, columns: list[str]) -> Iterator[pd.DataFrame]:
        """Batches of one file.

        Raises
        ------
        DataError
            If the file is damaged: it is named.
        """
        yield from self._sliced(partial(self._file_batches, file), columns)

    def load(self, columns):
        return self._knowing_types(lambda: super(FileSource, self).load(columns))

    def run(self, task, columns):
        from bayeslmm.sources.checkpoint import run_over_files

        if self.checkpoint is not None:
            return self._knowing_types(lambda: run_over_files(self, task, columns))
        return self._knowing_types(lambda: super(FileSource, self).run(task, columns))

    def _knowing_types(self, read: Callable):
        """What `read` gives, once the types of CSV columns are those of all rows."""
        while True:
            try:
                return read()
            except _WiderType as wider:  # start again, knowing better
                self._types[wider.column] = wider.kind
                self._set_schema(self._schema(self.files[0]))

    def _schema(self, file: str) -> pa.Schema:
        import pyarrow as pa

        if self.format == "parquet":
            return self._parquet(file).schema_arrow
        with _named(file), self._open_csv(file, None) as reader:
            schema = reader.schema
        for field in schema:  # a date is a label, as in pandas.read_csv
            if pa.types.is_temporal(field.type):
                self._types[field.name] = pa.string()
        for column, kind in self._types.items():
            if column in schema.names:
                schema = schema.set(schema.get_field_index(column), pa.field(column, kind))
        return schema

    def _parquet(self, file: str):
        import pyarrow.parquet as pq

        with _named(file):
            return pq.ParquetFile(file)

    def _parquet_batches(self, file: str, columns: list[str], size: int):
        with self._parquet(file) as parquet:
            absent = [c for c in columns if c not in parquet.schema_arrow.names]
            if absent:
                raise DataError(f"The file {file!r} has no column {absent[0]!r}.")
            batches = parquet.iter_batches(batch_size=size, columns=columns)
            while True:
                with _named(file):
                    batch = next(batches, None)
                if batch is None:
                    return
                yield batch.select(columns)

    def _open_csv(self, file: str, columns: list[str] | None):
        from pyarrow import csv

        dialect = self.dialects[file]
        options = csv.ConvertOptions(
            include_columns=columns,
            column_types={k: v for k, v in self._types.items() if not columns or k in columns},
            strings_can_be_null=True,
            null_values=dialect.missing,
            decimal_point=dialect.decimal,
        )
        names = dialect.header(file) if dialect.padded else []
        reading = csv.ReadOptions(
            block_size=1 << 23,
            encoding=dialect.encoding,
            column_names=names,
            skip_rows=1 if names else 0,
        )
        return csv.open_csv(
            file,
            read_options=reading,
            parse_options=csv.ParseOptions(delimiter=dialect.sep, newlines_in_values=True),
            convert_options=options,
        )

    def _csv_batches(self, file: str, columns: list[str], size: int):
        import pyarrow as pa

        try:
            with _named(file, (pa.ArrowInvalid, KeyError)), self._open_csv(file, columns) as reader:
                for field in reader.schema:
                    self._same_type(file, field)
                for batch in reader:
                    yield self._without_blanks(_with_gaps(batch, self.dialects[file].absent))
        except KeyError:
            with self._open_csv(file, None) as reader:
                absent = [c for c in columns if c not in reader.schema.names]
            raise DataError(f"The file {file!r} has no column {absent[0]!r}.") from None
        except pa.ArrowInvalid as err:
            self._widen(file, err)

    def _without_blanks(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Text without blanks at its ends; which columns have some is said once."""
        import pyarrow.compute as pc

        for at, name in enumerate(batch.schema.names):
            column = batch.column(at)
            if not is_text(column.type):
                continue
            bare = pc.utf8_trim_whitespace(column)
            changed = pc.not_equal(bare, column)
            if pc.any(changed).as_py():
                if name not in self._stripped:
                    warn_stripped(name, column.filter(changed)[0].as_py())
                    self._stripped.add(name)
                batch = batch.set_column(at, name, bare)
        return batch

    def _same_type(self, file: str, field: pa.Field) -> None:
        """Each file is typed by its own first rows: one type for a column in all of them.

        Raises
        ------
        DataError
            If some files have True and False where others have numbers, or text is not in UTF-8.
        """
        import pyarrow as pa

        if pa.types.is_binary(field.type):
            raise undecodable(file, self.dialects[file].encoding)
        seen = self._types.get(field.name)
        if seen is None and pa.types.is_temporal(field.type):
            raise _WiderType(field.name, pa.string())
        if seen is None:
            seen = self._first_types.setdefault(field.name, field.type)
        if seen != field.type:
            numbers = {pa.int64(), pa.float64(), pa.null()}
            both = {seen, field.type}
            if pa.bool_() in both and both & {pa.int64(), pa.float64()}:
                raise DataError(
                    f"Column {field.name!r} has True and False in some files and numbers in others "
                    f"({file!r}). Make it one of them in all."
                )
            if both == {pa.bool_(), pa.null()}:
                raise _WiderType(field.name, pa.bool_())
            kind = pa.float64() if both <= numbers else pa.string()
            if both == {pa.int64(), pa.null()}:
                kind = pa.int64()
            raise _WiderType(field.name, kind)

    def _widen(self, file: str, err: Exception) -> None:
        """A value does not fit the type guessed from the first rows: a wider one, or an error."""
        import re

        import pyarrow as pa

        if "UTF8" in str(err):
            raise undecodable(file, self.dialects[file].encoding) from err
        found = re.search(r"In CSV column #(\d+): .*?conversion error to (\w+)", str(err))
        if found is None:
            raise DataError(f"The file {file!r} cannot be read as CSV: {err}.") from err
        with self._open_csv(file, None) as reader:
            name = reader.schema.names[int(found.group(1))]
        kind = pa.float64() if found.group(2) in ("int64",) else pa.string()
        if self._types.get(name) == pa.string():
            raise DataError(f"The file {file!r} cannot be read as CSV: {err}.") from err
        raise _WiderType(name, kind)


def _with_gaps(batch: pa.RecordBatch, absent: Sequence[float]) -> pa.RecordBatch:
    """Numbers that stand for missing values as missing, 999 where a file has 999.0 too."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for at, field in enumerate(batch.schema if absent else ()):
        if pa.types.is_floating(field.type) or pa.types.is_integer(field.type):
            column = batch.column(at)
            gap = pc.is_in(column.cast(pa.float64(), safe=False), pa.array(absent, pa.float64()))
            filled = pc.if_else(gap, pa.scalar(None, field.type), column)
            batch = batch.set_column(at, field.name, filled)
    return batch


def _size_and_time(file: str) -> tuple[int, int] | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


class _WiderType(Exception):
    """A CSV column needs another type than its first rows suggested."""

    def __init__(self, column: str, kind):
        super().__init__(column)
        self.column, self.kind = column, kind


class _named:
    """Errors of the file reader retold with the file's name; `but` is let through."""

    def __init__(self, file: str, but: type[Exception] | tuple[type[Exception], ...] = ()):
        self.file, self.but = file, but

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        ours = (DataError, _WiderType, GeneratorExit)
        if error is None or not isinstance(error, Exception) or isinstance(error, ours):
            return False
        if isinstance(error, self.but):
            return False
        if isinstance(error, FileNotFoundError):
            raise DataError(no_file(self.file)) from error
        raise DataError(
            f"The file {self.file!r} cannot be read: it is damaged, incomplete or of another "
            f"format ({error}). Nothing of it was used."
        ) from error


def _format_of(file: str) -> str:
    suffixes = [s.lower() for s in Path(file).suffixes if s.lower() not in (".gz", ".bz2")]
    kind = suffixes[-1] if suffixes else ""
    if kind not in _SUFFIXES and kind not in _TEXT:
        raise DataError(
            f"The format of {file!r} is not known by its name: use .parquet, .csv, .tsv, .txt or "
            ".xlsx."
        )
    return _SUFFIXES.get(kind, "csv")


def find_files(path: str | os.PathLike) -> list[str]:
    """Files of a path, a pattern (``data/*.parquet``) or a directory, in sorted order.

    Raises
    ------
    DataError
        If there are none.
    """
    text = os.fspath(path)
    if os.path.isdir(text):
        found = [
            str(file)
            for file in sorted(Path(text).rglob("*"))
            if file.is_file() and {s.lower() for s in file.suffixes} & _SUFFIXES.keys()
        ]
    elif os.path.exists(text):
        found = [text]
    else:
        found = sorted(glob.glob(text, recursive=True))
    if not found:
        named = not (glob.has_magic(text) or os.path.isdir(text))
        raise DataError(no_file(text) if named else f"No file matches {text!r}.")
    return found
