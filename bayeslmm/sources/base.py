"""Data read in batches, and passes over them.

A pass is a sum: it starts from nothing, takes one batch after another into its state, and states
merge. Whatever holds the data (files, a database, a cluster) therefore only has to hand out
batches, and the order of batches changes nothing but the last digits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import pandas as pd

from bayeslmm.progress import watched

__all__ = ["LANES", "Pass", "Source", "run_over"]

#: States that are filled side by side. A fixed number, so that sums are made in the same order on
#: every machine: the same source gives the same digits.
LANES = 2


class Pass(Protocol):
    """One pass over the data; it is sent to workers, so it holds no rows and no open files."""

    def start(self) -> Any:
        """The state before any row."""

    def add(self, state: Any, frame: pd.DataFrame) -> Any:
        """The state with the rows of `frame` too; `state` may be changed in place."""

    def merge(self, a: Any, b: Any) -> Any:
        """The state of both sets of rows; `a` may be changed in place."""


class Source(ABC):
    """Rows that are read in batches.

    Attributes
    ----------
    name : str
        What it is, for messages.
    columns : tuple of str
        Names of all columns.
    text : frozenset of str
        Columns known to be text, whose levels are sorted whatever dictionary they come with.
    progressbar : bool
        Whether passes of more than two seconds show one, on a terminal or in a notebook.
    in_batches : bool
        Whether it is to be read in batches even if it is small.
    """

    name: str
    columns: tuple[str, ...]
    text: frozenset[str] = frozenset()
    progressbar: bool = True
    in_batches: bool = True

    @abstractmethod
    def frames(self, columns: list[str]) -> Iterator[pd.DataFrame]:
        """Batches with these columns only, in an order that is the same every time."""

    def n_rows(self) -> int | None:
        """Rows, where that is known without reading them."""
        return None

    def mark(self) -> Any:
        """What is another thing once the rows changed, where that is known without reading them."""
        return None

    def sample(self, columns: list[str]) -> pd.DataFrame:
        """A few rows."""
        for frame in self.frames(columns):
            if len(frame):
                return frame.iloc[:1000]
        return pd.DataFrame(columns=columns)

    def load(self, columns: list[str]) -> list[pd.DataFrame]:
        """All batches."""
        return list(self.watched(self.frames(columns)))

    def run(self, task: Pass, columns: list[str]) -> Any:
        """The state of a pass after all batches."""
        return run_over(task, self.watched(self.frames(columns)))

    def watched(self, frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        """Batches of the whole source, with a progress bar."""
        if not self.progressbar:
            return frames
        return watched(frames, f"Reading {self.name}", self.n_rows())

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name}>"


def run_over(task: Pass, frames: Iterator[pd.DataFrame]) -> Any:
    """Run a pass over batches, reading one while others are worked on."""
    states: list[Any] = [task.start() for _ in range(LANES)]
    busy: list[Future | None] = [None] * LANES
    with ThreadPoolExecutor(LANES) as pool:
        for number, frame in enumerate(frames):
            lane = number % LANES
            if (running := busy[lane]) is not None:
                states[lane] = running.result()
            busy[lane] = pool.submit(task.add, states[lane], frame)
        for lane, running in enumerate(busy):
            if running is not None:
                states[lane] = running.result()
    total = states[0]
    for state in states[1:]:
        total = task.merge(total, state)
    return total
