"""Cross-products that take one batch of rows after another, in place.

The same sums as :meth:`CrossProducts.from_rows`; adding whole CrossProducts instead would cost
the number of levels per batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .crossproducts import (
    CrossProducts,
    PairProducts,
    Shift,
    _checked,
    _combine_pairs,
    _empty_factor,
    _pair_products,
    accumulate,
    finished,
)
from .rows import FactorRows

__all__ = ["RunningProducts"]


class RunningProducts:
    """Sums of products over the rows seen so far.

    Parameters
    ----------
    sizes : sequence of (int, int)
        Levels and effects of each grouping factor.
    shift : Shift
        The columns to square, the same in everything that is to be merged.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], shift: Shift):
        p = len(shift.X)
        self.shift = shift
        self.factors = [_empty_factor(n_levels, q, p) for n_levels, q in sizes]
        self.pairs: dict[tuple[int, int], list[PairProducts]] = {
            (k, m): [] for k in range(len(sizes)) for m in range(k + 1, len(sizes))
        }
        self.gram, self.plain = np.zeros((p + 2, p + 2)), np.zeros((p + 2, p + 2))
        self.n, self.n_dropped, self.sum_log_weights = 0, 0, 0.0

    def add(
        self,
        y: np.ndarray,
        X: np.ndarray,
        factors: Sequence[FactorRows],
        weights: np.ndarray | None = None,
    ) -> None:
        """Take in rows; arguments as in :meth:`CrossProducts.from_rows`.

        Raises
        ------
        ValueError
            As there.
        """
        y, X, weights, factors, n_dropped = _checked(y, X, factors, weights)
        unweighted = weights is None
        w = np.ones(len(y)) if unweighted else weights
        accumulate(y, X, factors, weights, self.shift, self.factors, self.gram, self.plain)
        for key, found in _pair_products(factors, w).items():
            self._add_pairs(key, found)
        self.n += len(y)
        self.n_dropped += n_dropped
        self.sum_log_weights += 0.0 if unweighted else float(np.log(w).sum())

    def _add_pairs(self, key: tuple[int, int], found: PairProducts) -> None:
        """Keep parts of at least doubling size, as in merge sort: log(batches) joins per pair."""
        parts = self.pairs[key]
        parts.append(found)
        while len(parts) > 1 and len(parts[-1].rows) * 2 > len(parts[-2].rows):
            last = parts.pop()
            parts[-1] = _combine_pairs(parts[-1], last, 1)

    def merge(self, other: RunningProducts) -> RunningProducts:
        """Take in another's rows.

        Raises
        ------
        ValueError
            If it is of another shift.
        """
        if not self.shift.same_as(other.shift):
            raise ValueError("running products of different shifts")
        for mine, theirs in zip(self.factors, other.factors, strict=True):
            for name in ("zz", "zr", "counts", "zz_unweighted"):
                np.add(getattr(mine, name), getattr(theirs, name), out=getattr(mine, name))
        for key, parts in other.pairs.items():
            for part in parts:
                self._add_pairs(key, part)
        self.gram += other.gram
        self.plain += other.plain
        self.n += other.n
        self.n_dropped += other.n_dropped
        self.sum_log_weights += other.sum_log_weights
        return self

    def finish(self) -> CrossProducts:
        """The cross-products; nothing may be added afterwards."""
        pairs = {}
        for (k, m), parts in self.pairs.items():
            total = _no_pairs(self.factors[k].q, self.factors[m].q)
            for part in reversed(parts):
                total = _combine_pairs(part, total, 1)
            pairs[k, m] = total
        return finished(
            self.factors, pairs, self.gram, self.plain, self.shift, self.n, self.n_dropped,
            self.sum_log_weights,
        )  # fmt: skip


def _no_pairs(q: int, r: int) -> PairProducts:
    none = np.zeros(0, dtype=np.int64)
    return PairProducts(none, none, np.zeros((0, q, r)), none)
