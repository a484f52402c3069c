"""What is fixed while the variance parameters move: elimination order, fill, positions.

Levels of all grouping factors are the nodes of a graph; two are joined if they share a row.  The
factor with most random-effect columns is eliminated first, level by level.  What is left of nested
factors is a forest and stays sparse; what is left of crossed factors fills in.  So the nodes are
put in minimum-degree order, eliminated one by one while their panels are narrow (the *head*), and
the rest (the *tail*) is one dense matrix.  Either part may be empty: a single factor and nested
factors are all head, the plain dense route is all tail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from bayeslmm.compiling import Integers

from . import _ordering
from ._accumulate import rows_by_level
from .crossproducts import CrossProducts

#: A node whose panel covers a larger share of what is left than this starts the dense tail: there
#: the BLAS does a multiplication in about a fifteenth of the time of an indexed update.
DENSE_SHARE = 0.3

#: Above this fill of the leading panels a symmetric rank-k update beats scattering.
SYRK_FILL = 0.15

#: A tail of fewer columns than this is not worth a LAPACK call and is eliminated node by node.
SMALL_TAIL = 48

ROUTES = ("auto", "sparse", "blocked", "syrk", "dense")

#: Largest number of nodes for which minimum degree is sought with bit sets.
_MAX_BITSET_NODES = 20_000


class Layout(NamedTuple):
    """Positions of everything in elimination order; integer arrays for the kernels.

    Attributes
    ----------
    node_factor, node_q, node_level : (nodes,) factor, number of columns, level of each node
    node_col : (nodes + 1,) first column of each node
    diag_ptr : (nodes + 1,) start of the node's (q, q) diagonal block in a flat buffer
    panel_ptr : (head + 1,) start of the node's (q, width) panel
    pcol_ptr, pcol : columns of each panel, increasing
    hpat_ptr, hpat_node, hpat_off : head nodes in each panel, and their offset in it
    rel_ptr, rel : for each of those, positions of the panel's further columns in *its* panel
    tail_off : (head,) offset in the panel at which columns of the tail begin
    f_ptr : (factors + 1,) start of L_k in the flat buffer of relative factors
    factor_q : (factors,) q_k
    sizes : leading nodes, head nodes, head columns, tail columns
    """

    node_factor: Integers
    node_q: Integers
    node_level: Integers
    node_col: Integers
    diag_ptr: Integers
    panel_ptr: Integers
    pcol_ptr: Integers
    pcol: Integers
    hpat_ptr: Integers
    hpat_node: Integers
    hpat_off: Integers
    rel_ptr: Integers
    rel: Integers
    tail_off: Integers
    f_ptr: Integers
    factor_q: Integers
    sizes: Integers


class TailRows(NamedTuple):
    """The head nodes with an entry in each row of the tail.

    Attributes
    ----------
    ptr : (n_tail + 1,) int array
        Where the nodes of each row begin.
    nodes : int array
        Increasing in each row.
    columns : (len(pcol),) uint32 array
        Columns of the panels counted from the first of the tail (meaningless before it):
        unsigned, which spares kernels a test for negative ones.
    """

    ptr: np.ndarray
    nodes: np.ndarray
    columns: np.ndarray


@dataclass(frozen=True)
class Symbolic:
    """Symbolic analysis of one pattern of co-occurrence.

    Attributes
    ----------
    layout : Layout
    position : (nodes,) int array
        Place in the order of node ``base[k] + level``.
    base : (factors + 1,) int array
        First node of each factor.
    dense_head : bool
        The panels of the leading factor cover the whole tail and are one matrix.
    """

    layout: Layout
    position: np.ndarray
    base: np.ndarray
    dense_head: bool

    @property
    def n_columns(self) -> int:
        """Random effects in all."""
        return int(self.layout.node_col[-1])

    @cached_property
    def tail_rows(self) -> TailRows:
        """Which head nodes each row of the tail is joined to."""
        lay = self.layout
        columns = lay.pcol - lay.sizes[2]
        at = np.flatnonzero(columns >= 0)
        node = np.repeat(np.arange(lay.sizes[1]), np.diff(lay.pcol_ptr))[at]
        ptr, order = rows_by_level(columns[at], int(lay.sizes[3]))
        return TailRows(ptr, node[order], columns.astype(np.uint32))

    def factor_columns(self, k: int) -> np.ndarray:
        """(J_k, q_k) columns, in elimination order, of the effects of factor k."""
        nodes = self.position[self.base[k] : self.base[k + 1]]
        return self.layout.node_col[nodes][:, None] + np.arange(self.layout.factor_q[k])


def in_order(symbolic, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Rows in elimination order, (N, ...), of the levels' effects (J_k, q_k, ...).

    Parameters
    ----------
    symbolic : Symbolic
        Or that of coupled levels.
    """
    out = np.empty((symbolic.n_columns, *(parts[0].shape[2:] if len(parts) else ())))
    for k, own in enumerate(parts):
        out[symbolic.factor_columns(k)] = own
    return out


def analyze(cp: CrossProducts, route: str = "auto") -> Symbolic:
    """Symbolic analysis.

    Parameters
    ----------
    route : {"auto", "sparse", "blocked", "syrk", "dense"}
        "auto" chooses by structure.  "sparse" has no dense tail, "blocked" scatters into one,
        "syrk" eliminates the leading factor with dense panels, "dense" factorizes everything as
        one matrix; these are for tests and comparisons.

    Raises
    ------
    ValueError
        If the route is unknown.
    """
    if route not in ROUTES:
        raise ValueError(f"unknown route {route!r}")
    levels = np.array([f.n_levels for f in cp.factors], dtype=np.int64)
    factor_q = np.array([f.q for f in cp.factors], dtype=np.int64)
    base = np.concatenate(([0], np.cumsum(levels))).astype(np.int64)
    node_factor = np.repeat(np.arange(len(levels)), levels)
    lead, dense_head = int(np.argmax(levels * factor_q)) if len(levels) else 0, False
    if route == "dense" or len(levels) < 2:  # one matrix, or levels that meet no others
        order, head = np.arange(base[-1]), 0 if route == "dense" else int(base[-1])
        pat_ptr, pattern = np.zeros(head + 1, np.int64), np.zeros(0, np.int64)
    else:
        ptr, neighbors = _graph(cp, base)
        order, head, pat_ptr, pattern, dense_head = _eliminate(
            ptr, neighbors, node_factor, factor_q, lead, int(levels[lead]), route
        )
    n_lead = int(levels[lead]) if head else 0
    layout = _layout(order, node_factor, base, factor_q, n_lead, head, pat_ptr, pattern)
    position = np.empty(len(order), dtype=np.int64)
    position[order] = np.arange(len(order))
    return Symbolic(layout, position, base, dense_head)


def _graph(cp: CrossProducts, base: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Adjacency lists (pointers, neighbors) of the co-occurrence graph."""
    heads, tails = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for (k, m), pair in cp.pairs.items():
        heads += [pair.rows + base[k], pair.columns + base[m]]
        tails += [pair.columns + base[m], pair.rows + base[k]]
    source, target = np.concatenate(heads), np.concatenate(tails)
    ptr = np.concatenate(([0], np.cumsum(np.bincount(source, minlength=base[-1]))))
    return ptr.astype(np.int64), target[np.argsort(source, kind="stable")]


def _eliminate(ptr, neighbors, node_factor, factor_q, lead, n_lead, route):
    """Order, size of the head and its patterns."""
    is_lead = node_factor == lead
    node_q = factor_q[node_factor]
    rest = np.flatnonzero(~is_lead)
    if len(rest) <= _MAX_BITSET_NODES:
        rest = _ordering.minimum_degree(ptr, neighbors, is_lead, DENSE_SHARE)
    else:  # many levels: larger factors first, which is right where factors nest
        size = np.bincount(node_factor)[node_factor[rest]]
        rest = rest[np.lexsort((rest, -size))]
    order = np.concatenate((np.flatnonzero(is_lead), rest))
    max_head = n_lead if route == "syrk" else len(order)
    head, pat_ptr, pattern = _ordering.fill_patterns(
        ptr, neighbors, order, n_lead, node_q, DENSE_SHARE, max_head
    )
    n_tail = int(node_q[order[head:]].sum())
    if route in ("auto", "sparse") and n_tail and (n_tail <= SMALL_TAIL or route == "sparse"):
        head, pat_ptr, pattern = _ordering.fill_patterns(
            ptr, neighbors, order, n_lead, node_q, np.inf, max_head
        )
        n_tail = 0
    dense_head = route == "syrk" and n_tail > 0
    if route == "auto" and head == n_lead and n_tail:
        fill = node_q[order[pattern]].sum() / (n_lead * n_tail)
        dense_head = fill > SYRK_FILL
    if dense_head:
        n_rest = len(order) - n_lead
        pat_ptr = np.arange(n_lead + 1) * n_rest
        pattern = np.tile(np.arange(n_lead, len(order)), n_lead)
    return order, head, pat_ptr, pattern, dense_head


def _layout(order, node_factor, base, factor_q, n_lead, head, pat_ptr, pattern) -> Layout:
    """Assemble the position arrays."""
    factors = node_factor[order]
    node_q = factor_q[factors] if len(order) else np.zeros(0, np.int64)
    node_col = np.concatenate(([0], np.cumsum(node_q))).astype(np.int64)
    positions = _ordering.panel_positions(head, pat_ptr, pattern, node_q, node_col)
    pcol_ptr, pcol, hpat_ptr, hpat_node, hpat_off, rel_ptr, rel, tail_off = positions
    widths = np.diff(pcol_ptr)
    return Layout(
        node_factor=factors.astype(np.int64),
        node_q=node_q.astype(np.int64),
        node_level=(order - base[factors]).astype(np.int64),
        node_col=node_col,
        diag_ptr=np.concatenate(([0], np.cumsum(node_q**2))).astype(np.int64),
        panel_ptr=np.concatenate(([0], np.cumsum(widths * node_q[:head]))).astype(np.int64),
        pcol_ptr=pcol_ptr,
        pcol=pcol,
        hpat_ptr=hpat_ptr,
        hpat_node=hpat_node,
        hpat_off=hpat_off,
        rel_ptr=rel_ptr,
        rel=rel,
        tail_off=tail_off,
        f_ptr=np.concatenate(([0], np.cumsum(factor_q**2))).astype(np.int64),
        factor_q=factor_q,
        sizes=np.array([n_lead, head, node_col[head], node_col[-1] - node_col[head]], np.int64),
    )
