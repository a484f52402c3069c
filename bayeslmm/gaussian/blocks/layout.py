"""Independent blocks of rows, sorted into patterns of equal design.

A block is the smallest set of rows that shares neither a residual group nor a level of a random
effect with any other row.  Blocks whose times, weights, variances and random-effect covariates are
the same have the same V: a trial with fixed visits has one pattern per set of visits attended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bayeslmm.gaussian.blocks._kernel import Layout, pattern_residual
from bayeslmm.gaussian.rows import FactorRows

__all__ = [
    "LARGEST_BLOCK",
    "Blocks",
    "block_codes",
    "largest_block",
    "make_blocks",
    "residual_root",
]

#: Rows of a block whose dense factorization is still affordable.
LARGEST_BLOCK = 1500


@dataclass(frozen=True)
class Blocks:
    """Blocks of rows by pattern.

    Attributes
    ----------
    layout : Layout
    order : (n,) int array
        Row of the data at each position: patterns, then rows of a block, then blocks.
    code : (n, K) int array
        Level of each factor at each position.
    effect_ptr : (K + 1,) int array
        Start of each factor's effects, level by level.
    """

    layout: Layout
    order: np.ndarray
    code: np.ndarray
    effect_ptr: np.ndarray

    def data(self, columns: np.ndarray) -> np.ndarray:
        """Columns (n, c) laid out for the kernels, flat."""
        return np.ascontiguousarray(columns[self.order], dtype=float).ravel()

    def rows(self, flat: np.ndarray, columns: int) -> np.ndarray:
        """Inverse of :meth:`data`: (n, c) in the order of the data."""
        out = np.empty((len(self.order), columns))
        out[self.order] = flat.reshape(-1, columns)
        return out


def block_codes(group: np.ndarray, factors: Sequence[FactorRows]) -> np.ndarray:
    """Connected component of each row."""
    n = len(group)
    if not factors:
        return np.unique(group, return_inverse=True)[1]
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    nodes, start = [], n
    for codes in (np.unique(group, return_inverse=True)[1], *(f.codes for f in factors)):
        nodes.append(codes + start)
        start += int(codes.max()) + 1
    columns = np.concatenate(nodes)
    rows = np.tile(np.arange(n), len(nodes))
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(start, start))
    labels = connected_components(graph, directed=False)[1][:n]
    return np.unique(labels, return_inverse=True)[1]


def largest_block(group: np.ndarray, factors: Sequence[FactorRows]) -> int:
    """Rows of the largest block."""
    return int(np.bincount(block_codes(group, factors)).max())


def make_blocks(
    group: np.ndarray,
    time: np.ndarray,
    scale: np.ndarray,
    weights: np.ndarray | None,
    factors: Sequence[FactorRows],
    kind: tuple[int, int],
    shift_times: bool,
) -> Blocks:
    """Sort rows into blocks and blocks into patterns.

    Parameters
    ----------
    group, time : (n,) arrays
        Residual groups and times.
    scale : (n, s) array
    weights : (n,) array, optional
    factors : sequence of FactorRows
    kind : tuple of int
        Code of the correlation structure and its number of times.
    shift_times : bool
        Whether only differences of times within a group matter.
    """
    n = len(group)
    block = block_codes(group, factors)
    rows = np.lexsort((np.arange(n), time, group, block))
    block, group, time = block[rows], group[rows], time[rows].astype(float)
    sizes = np.bincount(block)
    starts = np.concatenate(([0], np.cumsum(sizes)))[:-1]
    local_group = _local(block, group)
    if shift_times:
        first = np.concatenate(([True], np.diff(group) != 0))
        time = time - time[first][np.cumsum(first) - 1]
    root = np.ones(n) if weights is None else 1.0 / np.sqrt(weights[rows])
    levels = [_local(block, f.codes[rows]) for f in factors]
    Z = np.concatenate([np.zeros((n, 0)), *(f.Z[rows] for f in factors)], axis=1)
    features = np.column_stack([time, root, local_group, scale[rows], Z, *levels])
    parts, rows_of, size_of, copies = [], [], [], []
    for size in np.unique(sizes):
        at = starts[sizes == size][:, None] + np.arange(size)
        keys = np.ascontiguousarray(features[at].reshape(len(at), -1)) + 0.0
        label = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        for pattern, example in enumerate(label[1]):
            here = at[label[2].ravel() == pattern] if len(label[1]) > 1 else at
            parts.append(at[example])
            rows_of.append(rows[here].T.ravel())
            size_of.append(size)
            copies.append(len(here))
    pick = np.concatenate(parts)
    m, n_rep = np.array(size_of, dtype=np.int64), np.array(copies, dtype=np.int64)
    order = np.concatenate(rows_of)
    q = np.array([f.q for f in factors], dtype=np.int64)
    code = np.column_stack([np.zeros((n, 0), np.int64), *(f.codes[order] for f in factors)])
    columns = 1  # data_ptr is scaled by the number of columns in with_columns
    layout = Layout(
        m=m,
        n_rep=n_rep,
        row_ptr=_starts(m),
        data_ptr=_starts(m * n_rep * columns),
        v_ptr=_starts(m * m),
        time=np.ascontiguousarray(time[pick]),
        root=np.ascontiguousarray(root[pick]),
        group=np.ascontiguousarray(local_group[pick]),
        scale=np.ascontiguousarray(scale[rows][pick], dtype=float),
        Z=np.ascontiguousarray(Z[pick]),
        level=np.ascontiguousarray(
            np.column_stack([np.zeros((len(pick), 0), np.int64), *(v[pick] for v in levels)])
        ),
        q=q,
        z_ptr=_starts(q),
        f_ptr=_starts(q * q),
        kind=np.array(kind, dtype=np.int64),
        gram_ptr=np.zeros(len(m) + 1, dtype=np.int64),  # set in with_columns
    )
    effect_ptr = _starts(np.array([f.n_levels * f.q for f in factors], dtype=np.int64))
    return Blocks(layout, order, np.ascontiguousarray(code), effect_ptr)


def with_columns(blocks: Blocks, columns: int) -> Layout:
    """The layout for data of so many columns.

    Patterns of many blocks get room for sums of products: where these take less time than the rows
    and less than eight times their memory.
    """
    layout = blocks.layout
    m = layout.m
    sizes = (m * (m + 1) // 2) * (columns * (columns + 1) // 2)
    worth = m * columns <= layout.n_rep * np.minimum(m + columns, 32)
    return layout._replace(
        data_ptr=layout.data_ptr * columns, gram_ptr=_starts(np.where(worth, sizes, 0))
    )


def residual_root(blocks: Blocks, eta: np.ndarray, c: np.ndarray) -> Callable:
    """A function of columns (n, ...) that multiplies by C or by C^-1, R = C C' block by block.

    Called as ``apply(values, inverse=...)``.
    """
    layout, order = blocks.layout, blocks.order
    roots = [np.linalg.cholesky(pattern_residual(layout, k, eta, c)) for k in range(len(layout.m))]

    def apply(values: np.ndarray, *, inverse: bool) -> np.ndarray:
        from scipy.linalg import solve_triangular

        out, start = np.empty_like(values), 0
        for C, r in zip(roots, layout.n_rep, strict=True):
            stop = start + len(C) * r
            part = values[order[start:stop]].reshape(len(C), -1)
            part = solve_triangular(C, part, lower=True) if inverse else C @ part
            out[order[start:stop]] = part.reshape(len(C) * r, *values.shape[1:])
            start = stop
        return out

    return apply


def _local(block: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Codes counted from 0 within each block, in order of the code."""
    keys, inverse = np.unique(
        block.astype(np.int64) * (int(codes.max()) + 1) + codes, return_inverse=True
    )
    owner = keys // (int(codes.max()) + 1)
    first = np.searchsorted(owner, np.arange(int(block.max()) + 1))
    return (inverse - first[block]).astype(np.int64)


def _starts(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
