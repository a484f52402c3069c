"""Cross-products of the effects' columns at many weights of the same rows.

Every step towards a mode has weights of its own. What does not change (which levels meet in a row,
where their blocks stand in elimination order) is found once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from bayeslmm.compiling import kernel
from bayeslmm.gaussian import _accumulate, _ordering
from bayeslmm.gaussian.problem import Problem
from bayeslmm.gaussian.rows import FactorRows

__all__ = ["EffectProducts"]


@dataclass(frozen=True)
class EffectProducts:
    """Z'WZ of the same rows at any W, laid out for elimination.

    Attributes
    ----------
    template : Problem
        At unit weights.
    factors : tuple of FactorRows
    """

    template: Problem
    factors: Sequence[FactorRows]

    def at(self, w: np.ndarray) -> Problem:
        """The Gaussian model of the effects alone with precisions w (n,), which may be negative."""
        values, layout = self.template.values, self.template.layout
        diag, panel = np.zeros(values.diag.shape), np.zeros(values.panel.shape)
        tail = np.zeros(values.tail.shape)
        for f, (blocks, late, columns) in zip(self.factors, self._places, strict=True):
            zz = np.zeros((f.n_levels, f.q, f.q))
            _accumulate_squares(f.codes, f.Z, w, zz)
            diag[blocks] = zz.reshape(f.n_levels, -1)
            if len(columns):
                tail[columns[:, :, None], columns[:, None, :]] = zz[late]
        symbolic = self.template.symbolic
        for (k, m), (rows, columns, row_pair) in self._pairs.items():
            f, g = self.factors[k], self.factors[m]
            products = np.zeros((len(rows), f.q, g.q))
            counts = np.zeros(len(rows), dtype=np.int64)
            _accumulate.accumulate_pair(row_pair, f.Z, g.Z, w, products, counts)
            _ordering.scatter_pairs(
                rows, columns, products, symbolic.base[k], symbolic.base[m], symbolic.position,
                layout, panel, tail,
            )  # fmt: skip
        return replace(self.template, values=values._replace(diag=diag, panel=panel, tail=tail))

    @cached_property
    def _places(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Of each factor: entries of its levels in ``diag``, which are in the tail, and where."""
        symbolic, layout = self.template.symbolic, self.template.layout
        n_head, head_columns = int(layout.sizes[1]), int(layout.sizes[2])
        found = []
        for k, f in enumerate(self.factors):
            nodes = symbolic.position[symbolic.base[k] : symbolic.base[k + 1]]
            late = np.flatnonzero(nodes >= n_head)
            blocks = layout.diag_ptr[nodes][:, None] + np.arange(f.q * f.q)
            found.append((blocks, late, symbolic.factor_columns(k)[late] - head_columns))
        return found

    @cached_property
    def _pairs(self) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Levels of every two factors that meet, and the pair of each row."""
        found = {}
        for k, f in enumerate(self.factors):
            start, order = _accumulate.rows_by_level(f.codes, f.n_levels)
            for m in range(k + 1, len(self.factors)):
                g = self.factors[m]
                found[k, m] = _accumulate.cooccurrences(f.codes, g.codes, start, order, g.n_levels)
        return found


@kernel
def _accumulate_squares(codes, Z, weights, zz):
    """Add w z z' of every row to the block of its level, in place."""
    n, q = Z.shape
    for i in range(n):
        j = codes[i]
        for a in range(q):
            wz = weights[i] * Z[i, a]
            for b in range(a):
                zz[j, a, b] += wz * Z[i, b]
                zz[j, b, a] += wz * Z[i, b]
            zz[j, a, a] += wz * Z[i, a]
