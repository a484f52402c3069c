"""A progress bar for long work, shown where somebody is looking."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from importlib.util import find_spec

__all__ = ["progress", "watched"]

#: Seconds before a bar over rows appears: what is done sooner needs none.
_PATIENCE = 2.0


def _somebody_looks() -> bool:
    if "ipykernel" in sys.modules:  # where a bar without ipywidgets is a warning and no bar
        return find_spec("ipywidgets") is not None
    return sys.stderr.isatty()


def progress[T](
    items: Iterable[T], label: str, *, show: bool = True, total: int | None = None
) -> Iterator[T]:
    """Iterate with a progress bar on a terminal or in a notebook.

    Parameters
    ----------
    items : iterable
    label : str
    show : bool
    total : int, optional
        How many there are, where they do not say themselves.
    """
    if not (show and _somebody_looks()):
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(items, description=label, total=total, console=console, transient=True)


def watched[T: Sized](
    batches: Iterable[T], label: str, total: int | None, *, show: bool = True
) -> Iterator[T]:
    """Iterate over batches of rows, with a bar once it has taken two seconds.

    Parameters
    ----------
    batches : iterable
    label : str
    total : int or None
        Rows in all, where that is known.
    show : bool
    """
    if not (show and _somebody_looks()):
        yield from batches
        return
    start, rows, bar, task = time.monotonic(), 0, None, None
    try:
        for batch in batches:
            yield batch
            rows += len(batch)
            if bar is None and time.monotonic() - start > _PATIENCE:
                bar = _bar()
                bar.start()
                task = bar.add_task(label, total=total)
            if bar is not None:
                bar.update(task, completed=rows)
    finally:
        if bar is not None:
            bar.stop()


def _bar():
    """A bar with the number of rows so far."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"), BarColumn(),
        TextColumn("{task.completed:,} rows"), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
