"""Dask frames: one task per partition and a tree of sums, on whatever scheduler the user has.

Nothing here knows of workers: Dask runs a lost partition's task again, and the sum is right.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from bayeslmm.sources.base import Source

__all__ = ["DaskSource"]

#: Sums merged by one task.
_FAN_IN = 8


class DaskSource(Source):
    """A Dask frame.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
    """

    def __init__(self, frame):
        self.frame = frame
        self.name = f"a Dask frame of {frame.npartitions} partitions"
        self.columns = tuple(str(c) for c in frame.columns)

    def frames(self, columns: list[str]) -> Iterator[pd.DataFrame]:
        for part in self.frame[self._own(columns)].partitions:
            yield _plain_index(part.compute(), columns)

    def run(self, task, columns: list[str]) -> Any:
        from dask import delayed

        add = delayed(_add, pure=False)
        merge = delayed(_merge, pure=False)
        shared = delayed(task)  # sent once, not with every partition
        layer = [add(shared, part, columns) for part in self.frame[self._own(columns)].to_delayed()]
        while len(layer) > 1:
            layer = [
                merge(shared, layer[at : at + _FAN_IN]) for at in range(0, len(layer), _FAN_IN)
            ]
        return layer[0].compute()

    def _own(self, columns: list[str]) -> list:
        """The frame's own labels of columns."""
        labels = {str(c): c for c in self.frame.columns}
        return [labels[name] for name in columns]


def _plain_index(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    frame = frame.reset_index(drop=True)
    frame.columns = columns
    return frame


def _add(task, part: pd.DataFrame, columns: list[str]) -> Any:
    return task.add(task.start(), _plain_index(part, columns))


def _merge(task, states: list) -> Any:
    # a state may be asked for again after a worker is lost, so none is changed in place
    total = task.start()
    for state in states:
        total = task.merge(total, state)
    return total
