"""Passes over files that can be interrupted: the state of each finished file is kept.

One file of state per data file and pass. A state counts only if pass, columns and data file (its
size and time of change) are those it was made for and its checksum is right; otherwise the data
file is read again. The first and the last pass are kept; rounds in between, where a formula needs
them, are repeated.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from bayeslmm.archive import read_archive, write_archive
from bayeslmm.errors import DataError
from bayeslmm.progress import progress
from bayeslmm.sources.base import run_over

__all__ = ["run_over_files"]

_KIND = "state of a pass over one file"


def run_over_files(source, task, columns: list[str]) -> Any:
    """As ``run``, with the state of each finished file kept in ``source.checkpoint``.

    Raises
    ------
    DataError
        If the directory cannot be used, or a data file cannot be read.
    """
    mark = task.fingerprint() if hasattr(task, "fingerprint") else None
    if mark is not None:
        try:
            Path(source.checkpoint).mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise DataError(f"Cannot keep sums in {source.checkpoint!r}: {err}.") from err
    total = task.start()
    for file in progress(source.files, f"Reading {source.name}", show=source.progressbar):
        total = task.merge(total, _state_of_file(source, task, columns, file, mark))
    return total


def _state_of_file(source, task, columns: list[str], file: str, mark: str | None) -> Any:
    kept = None if mark is None else _place(source, columns, file, mark)
    if kept is not None and kept.exists():
        try:
            state = read_archive(kept, _KIND, _classes())
            task.merge(task.start(), state)
            return state
        except Exception:  # damaged, or of another make: the data file is read again
            pass
    state = run_over(task, source.file_frames(file, columns))
    if kept is not None:
        write_archive(kept, state, _KIND)
    return state


def _place(source, columns: list[str], file: str, mark: str) -> Path:
    """Where the state of a data file is kept: another file or another pass is another place."""
    try:
        status = os.stat(file)
    except OSError as err:
        raise DataError(f"The file {file!r} cannot be read: {err}.") from err
    made_for = [
        os.path.abspath(file), status.st_size, status.st_mtime_ns, columns, source.batch_rows,
        sorted(f"{k}: {v}" for k, v in source._types.items()), mark,
        source.dialects[file] if source.format == "csv" else None,
    ]  # fmt: skip
    digest = hashlib.sha256(repr(made_for).encode()).hexdigest()[:24]
    return Path(source.checkpoint) / f"{Path(file).stem}-{digest}.npz"


def _classes() -> dict[str, type]:
    """The classes a state is made of."""
    from bayeslmm.gaussian import RunningProducts, Shift
    from bayeslmm.gaussian.crossproducts import FactorProducts, PairProducts
    from bayeslmm.sources.reduction import Moments, Reduced
    from bayeslmm.sources.survey import ColumnSummary, Combinations, Distinct, Survey

    allowed = (
        RunningProducts, Shift, FactorProducts, PairProducts, Moments, Reduced, ColumnSummary,
        Combinations, Distinct, Survey,
    )  # fmt: skip
    return {kind.__name__: kind for kind in allowed}
