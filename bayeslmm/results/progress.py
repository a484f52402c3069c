"""A progress bar for long work, shown where somebody is looking."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

__all__ = ["progress"]


def progress[T](items: Iterable[T], label: str, *, show: bool = True) -> Iterator[T]:
    """Iterate with a progress bar on a terminal or in a notebook."""
    if not (show and (sys.stderr.isatty() or "ipykernel" in sys.modules)):
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, description=label, console=Console(stderr=True), transient=True)
