"""Combinations of the levels of several columns, numbered without overflow.

The codes of a row's levels are the digits of one number. Where that number would leave 64 bits,
the numbers that occur so far are replaced by their ranks, and digits are added to those.
"""

from __future__ import annotations

import numpy as np

__all__ = ["combination_codes", "component_codes", "find_combinations"]

_LARGEST = 2**62


def combination_codes(
    columns: list[np.ndarray], sizes: tuple[int, ...]
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Number the combinations that occur, in the order of their codes.

    Parameters
    ----------
    columns : list of ndarray of int, shape (n,)
        Code of each row in each column, at least 0.
    sizes : tuple of int
        Number of codes of each column.

    Returns
    -------
    tables : tuple of ndarray of int64
        Sorted numbers that occur, one array per run of columns; the last has one entry per
        combination.
    codes : ndarray of int, shape (n,)
    """
    tables: list[np.ndarray] = []
    key, radix = np.asarray(columns[0], dtype=np.int64), sizes[0]
    for codes, size in zip(columns[1:], sizes[1:], strict=True):
        if radix * size > _LARGEST:
            table, key = np.unique(key, return_inverse=True)
            tables.append(table)
            radix = len(table)
        key, radix = key * size + codes, radix * size
    table, key = np.unique(key, return_inverse=True)
    return (*tables, table), key


def find_combinations(
    columns: list[np.ndarray], sizes: tuple[int, ...], tables: tuple[np.ndarray, ...]
) -> np.ndarray:
    """Number of each row's combination; -1 where it, or a code of it, did not occur.

    Parameters
    ----------
    columns : list of ndarray of int, shape (m,)
        Codes; -1 where there is none.
    sizes, tables
        As :func:`combination_codes` took and gave them.
    """
    unseen = np.any([codes < 0 for codes in columns], axis=0)
    key = np.zeros(len(unseen), dtype=np.int64)
    for number, run in enumerate(_runs(sizes, tables)):
        for column in run:
            key = key * sizes[column] + np.maximum(columns[column], 0)
        table = tables[number]
        at = np.minimum(np.searchsorted(table, key), len(table) - 1)
        unseen |= table[at] != key
        key = at.astype(np.int64)
    return np.where(unseen, -1, key)


def component_codes(sizes: tuple[int, ...], tables: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    """Code of each combination in each column."""
    found = [np.empty(0, np.int64)] * len(sizes)
    key = tables[-1]
    runs = _runs(sizes, tables)
    for number in reversed(range(len(runs))):
        for column in reversed(runs[number]):
            found[column], key = key % sizes[column], key // sizes[column]
        if number:
            key = tables[number - 1][key]
    return found


def _runs(sizes: tuple[int, ...], tables: tuple[np.ndarray, ...]) -> list[list[int]]:
    """Columns whose codes are digits of the same number."""
    runs, radix = [[0]], sizes[0]
    for column, size in enumerate(sizes[1:], start=1):
        if radix * size > _LARGEST:
            radix = len(tables[len(runs) - 1])
            runs.append([])
        runs[-1].append(column)
        radix *= size
    return runs
