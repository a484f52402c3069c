"""Data a command names: sets of the package and files, and the Python that reads them."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from typing import Any

__all__ = ["read_data", "read_frame", "source_code"]

#: Options of a command that say how a file is written, as :func:`bayeslmm.scan` has them.
_WRITTEN = ("sep", "decimal", "encoding", "na", "sheet")


def read_data(given: Mapping[str, Any], key: str = "data"):
    """A data set by name, or files, which are read where the formula is known.

    Parameters
    ----------
    given : mapping of str to object
        Arguments and options of the command.
    key : str
        Which of them names the data: a list of paths, patterns and directories, or one name.

    Raises
    ------
    DataError
        If there is neither, or a file cannot be read.
    """
    from bayeslmm import DataError, list_datasets, load_dataset, scan
    from bayeslmm.files import no_file

    sources = given[key]
    source = sources[0]
    batch_rows, checkpoint = given.get("batch_rows"), given.get("checkpoint")
    batches = batch_rows is not None or checkpoint is not None
    written = _written(given)
    if len(sources) == 1 and not os.path.exists(source) and not glob.has_magic(source):
        if os.path.splitext(source)[1] and source.lower() not in list_datasets():
            raise DataError(no_file(source))
        if batches or written:
            named = "--batch-rows and --checkpoint" if batches else f"--{next(iter(written))}"
            raise DataError(f"{named} {'are' if batches else 'is'} for files.")
        return load_dataset(source)  # says which data sets there are, if it is none
    made = scan(
        sources,
        batch_rows=batch_rows,
        checkpoint=checkpoint,
        progressbar=given.get("progress", False),
        **written,
    )
    made.in_batches = batches
    return made


def _written(given: Mapping[str, Any]) -> dict[str, Any]:
    """How files are written, where it is said."""
    return {name: given[name] for name in _WRITTEN if given.get(name)}


def read_frame(given: Mapping[str, Any], key: str):
    """All columns of small data, as a data frame.

    Raises
    ------
    DataError
        If the data cannot be read, or are too large to be held.
    """
    from bayeslmm import DataError
    from bayeslmm.sources.base import Source
    from bayeslmm.sources.recognize import load_small

    source = read_data(given, key)
    if not isinstance(source, Source):
        return source
    frame = load_small(source, list(source.columns), given=None)
    if frame is None:
        raise DataError(f"{source.name!r} is too large to be held. Give it in parts.")
    return frame


def source_code(given: Mapping[str, Any]) -> str:
    """Python that reads what :func:`read_data` reads."""
    from bayeslmm import list_datasets

    (source, *others) = given["data"]
    if source.lower() in list_datasets() and not os.path.exists(source):
        return f"blm.load_dataset({source.lower()!r})"
    files = repr([source, *others] if others else source)
    written = "".join(f", {name}={value!r}" for name, value in _written(given).items())
    return f"blm.scan({files}{written})" if written else files
