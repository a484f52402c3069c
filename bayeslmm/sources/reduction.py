"""The last pass: cross-products and the statistics of the rows, batch by batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayeslmm.formula.statistics import BlockStatistics, RowStatistics
from bayeslmm.gaussian import CrossProducts, FactorRows, RunningProducts, Shift
from bayeslmm.gaussian._accumulate import accumulate_moments
from bayeslmm.gaussian.coordinates import ones_in_span
from bayeslmm.gaussian.orthogonal import gram_root
from bayeslmm.sources.rows import ModelRows, RowBatch

__all__ = ["MAX_DISTINCT", "Reduced", "ReductionPass", "RowHashPass", "row_hash", "row_statistics"]

#: Distinct values of a numeric predictor that are kept, for marginal means at each of them.
MAX_DISTINCT = 50
#: 2^64 divided by the golden ratio, odd (Knuth, The Art of Computer Programming 3, section 6.4).
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class Moments:
    """Count, range, sum and sum of squares of columns, about a pilot.

    Shifted data keep the digits of the variance where the mean is far from 0 (Chan, Golub and
    LeVeque 1983, The American Statistician 37(3)).
    """

    def __init__(self, pilot: np.ndarray):
        k = len(pilot)
        self.pilot, self.n = np.ascontiguousarray(pilot, dtype=float), 0
        self.low, self.high = np.full(k, np.inf), np.full(k, -np.inf)
        self.sum, self.squares = np.zeros(k), np.zeros(k)

    def add(self, columns: np.ndarray) -> None:
        """More rows, (m, k)."""
        self.n += len(columns)
        accumulate_moments(
            np.ascontiguousarray(columns), self.pilot, self.low, self.high, self.sum, self.squares
        )

    def merge(self, other: Moments) -> None:
        """The rows of both."""
        self.n += other.n
        self.low = np.minimum(self.low, other.low)
        self.high = np.maximum(self.high, other.high)
        self.sum += other.sum
        self.squares += other.squares

    @property
    def mean(self) -> np.ndarray:
        """Means."""
        mean = self.pilot + self.sum / self.n
        return np.where(self.low == self.high, self.low, mean)

    @property
    def sd(self) -> np.ndarray:
        """Standard deviations with the divisor n - 1; exactly 0 for constant columns."""
        squares = np.maximum(self.squares - self.sum**2 / self.n, 0.0)
        sd = np.sqrt(squares / max(self.n - 1, 1))
        return np.where(self.low == self.high, 0.0, sd)

    @property
    def size(self) -> np.ndarray:
        """Largest absolute values."""
        return np.maximum(np.abs(self.low), np.abs(self.high))


@dataclass
class Reduced:
    """State of the last pass.

    Attributes
    ----------
    products : RunningProducts
    X, response : Moments
        Columns of X; the response less its offset, and the response as it is.
    Z : list of Moments
    indicator : list of ndarray of bool
    weights, inverse_weights : float
        Sums.
    weight_range : tuple of float
    has_offset : bool
    numbers : Moments
        Numeric predictor columns.
    distinct : dict of str to set or None
        Their values, None once there are more than :data:`MAX_DISTINCT`.
    row_hash : int
        See :func:`row_hash`.
    """

    products: RunningProducts
    X: Moments
    response: Moments
    Z: list[Moments]
    indicator: list[np.ndarray]
    numbers: Moments
    distinct: dict[str, set | None]
    weights: float = 0.0
    inverse_weights: float = 0.0
    weight_range: tuple[float, float] = (np.inf, -np.inf)
    has_offset: bool = False
    row_hash: int = 0


def row_hash(rows: RowBatch) -> int:
    """A number that other rows do not have, whatever batches and order they come in.

    The sum, modulo 2^64, of a hash of each row's columns as they were read; so it adds over
    batches, exactly.
    """
    total = np.zeros(len(rows.plain), dtype=np.uint64)
    columns = [column for _, column in rows.plain.items()]
    for column in [*columns, *([] if rows.weights is None else [rows.weights])]:
        if isinstance(column.dtype, pd.CategoricalDtype):
            column = column.cat.codes
        values = np.asarray(column)
        kind = np.float64 if values.dtype.kind == "f" else np.int64
        total ^= np.ascontiguousarray(values, dtype=kind).view(np.uint64)
        total *= _MULTIPLIER
        total ^= total >> np.uint64(29)  # high bits come down, where the next product mixes them
    total *= _MULTIPLIER
    return int((total ^ (total >> np.uint64(32))).sum(dtype=np.uint64))


@dataclass(frozen=True)
class RowHashPass:
    """The :func:`row_hash` of all rows."""

    rows: ModelRows

    def start(self) -> int:
        return 0

    def add(self, state: int, frame: pd.DataFrame) -> int:
        rows = self.rows(frame)
        return state if rows is None else (state + row_hash(rows)) % 2**64

    def merge(self, a: int, b: int) -> int:
        return (a + b) % 2**64


@dataclass(frozen=True)
class ReductionPass:
    """The last pass.

    Attributes
    ----------
    rows : ModelRows
    n_levels : tuple of int
    shift : Shift
    z_pilots : tuple of ndarray
        Means of the covariates of the random effects in a sample.
    numbers : tuple of str
        Numeric predictor columns, with their means in a sample.
    number_pilots : ndarray
    """

    rows: ModelRows
    n_levels: tuple[int, ...]
    shift: Shift
    z_pilots: tuple[np.ndarray, ...]
    numbers: tuple[str, ...]
    number_pilots: np.ndarray

    def fingerprint(self) -> str:
        """The same for passes that give the same state."""
        return repr(("reduction", self.rows.fingerprint(), self.n_levels, self.numbers)) + "".join(
            array.tobytes().hex()
            for array in (
                self.shift.X,
                np.array(self.shift.y),
                self.shift.mixing,
                *self.z_pilots,
                self.number_pilots,
            )
        )

    def start(self) -> Reduced:
        sizes = [(J, len(z)) for J, z in zip(self.n_levels, self.z_pilots, strict=True)]
        return Reduced(
            products=RunningProducts(sizes, self.shift),
            X=Moments(self.shift.X),
            response=Moments(np.full(2, self.shift.y)),
            Z=[Moments(z) for z in self.z_pilots],
            indicator=[np.ones(len(z), dtype=bool) for z in self.z_pilots],
            numbers=Moments(self.number_pilots),
            distinct={name: set() for name in self.numbers},
        )

    def add(self, state: Reduced, frame: pd.DataFrame) -> Reduced:
        rows = self.rows(frame)
        if rows is None:
            return state
        with np.errstate(over="ignore", invalid="ignore"):  # refused once they are known
            return self._added(state, rows)

    def _added(self, state: Reduced, rows: RowBatch) -> Reduced:
        y = rows.y - rows.offset
        factors = [
            FactorRows(codes, Z, J)
            for codes, Z, J in zip(rows.codes, rows.Z, self.n_levels, strict=True)
        ]
        state.products.add(y, rows.X, factors, rows.weights)
        state.X.add(rows.X)
        state.response.add(np.column_stack([y, rows.y]))
        for k, Z in enumerate(rows.Z):
            state.Z[k].add(Z)
            if state.indicator[k].any():
                state.indicator[k] &= ((Z == 0.0) | (Z == 1.0)).all(axis=0)
        if rows.weights is not None:
            low, high = state.weight_range
            w = rows.weights
            state.weights += float(w.sum())
            state.inverse_weights += float((1.0 / w).sum())
            state.weight_range = (min(low, float(w.min())), max(high, float(w.max())))
        state.has_offset |= bool(np.any(rows.offset))
        state.row_hash = (state.row_hash + row_hash(rows)) % 2**64
        if self.numbers:
            state.numbers.add(rows.plain[list(self.numbers)].to_numpy(dtype=float))
        for name, seen in state.distinct.items():
            if seen is not None:
                state.distinct[name] = _few(seen, _distinct(rows.plain[name].to_numpy()))
        return state

    def merge(self, a: Reduced, b: Reduced) -> Reduced:
        a.products.merge(b.products)
        a.X.merge(b.X)
        a.response.merge(b.response)
        a.numbers.merge(b.numbers)
        for mine, theirs in zip(a.Z, b.Z, strict=True):
            mine.merge(theirs)
        a.indicator = [x & y for x, y in zip(a.indicator, b.indicator, strict=True)]
        a.weights += b.weights
        a.inverse_weights += b.inverse_weights
        low = min(a.weight_range[0], b.weight_range[0])
        a.weight_range = (low, max(a.weight_range[1], b.weight_range[1]))
        a.has_offset |= b.has_offset
        a.row_hash = (a.row_hash + b.row_hash) % 2**64
        a.distinct = {name: _few(a.distinct[name], b.distinct[name]) for name in a.distinct}
        return a


def _distinct(values: np.ndarray) -> set | None:
    """Distinct values, without looking at every row where there clearly are too many."""
    head = set(values[: 4 * MAX_DISTINCT].tolist())
    if len(head) > MAX_DISTINCT:
        return None
    found = pd.unique(values)
    return set(found.tolist()) if len(found) <= MAX_DISTINCT else None


def _few(a: set | None, b: set | None) -> set | None:
    if a is None or b is None:
        return None
    joined = a | b
    return joined if len(joined) <= MAX_DISTINCT else None


def row_statistics(state: Reduced, cp: CrossProducts) -> RowStatistics:
    """The statistics of all rows."""
    with np.errstate(over="ignore", invalid="ignore"):
        return _row_statistics(state, cp)


def _row_statistics(state: Reduced, cp: CrossProducts) -> RowStatistics:
    n, weighted = cp.n, state.weight_range[0] <= state.weight_range[1]
    blocks = tuple(
        BlockStatistics(
            counts=factor.counts,
            mean=z.mean,
            sd=z.sd,
            size=z.size,
            gram=factor.zz_unweighted / n,
            indicator=indicator,
        )
        for factor, z, indicator in zip(cp.factors, state.Z, state.indicator, strict=True)
    )
    return RowStatistics(
        n=n,
        mean_y=float(state.response.mean[0]),
        sd_y=float(state.response.sd[0]),
        mean=state.X.mean,
        sd=state.X.sd,
        size=state.X.size if cp.p else np.zeros(0),
        root=_covariance_root(cp, state.X.sd),
        ones=_ones(cp),
        mean_weight=state.weights / n if weighted else 1.0,
        mean_inverse_weight=state.inverse_weights / n if weighted else 1.0,
        weights_vary=weighted and state.weight_range[0] < state.weight_range[1],
        has_offset=state.has_offset,
        blocks=blocks,
    )


def _covariance_root(cp: CrossProducts, sd: np.ndarray) -> np.ndarray:
    """R with R'R the covariance matrix of the columns of X; zero for constant columns."""
    p = cp.p
    sums = cp.gram_unweighted[-1, :p]
    covariance = cp.gram_unweighted[:p, :p] - np.outer(sums, sums) / cp.n
    root = gram_root(covariance / max(cp.n - 1, 1)) @ cp.shift.unmixing
    return np.where(sd > 0, root, 0.0)


def _ones(cp: CrossProducts) -> np.ndarray | None:
    """a with X a = 1, shifted columns included, or None.

    Columns that were shifted carry the ones only in contrived designs; the unshifted ones are
    asked first, as the numerical core does.
    """
    a = ones_in_span(cp)
    if a is not None or cp.p == 0:
        return a
    plain = cp.shifted_to(Shift(np.zeros(cp.p), cp.shift.y))
    G, sums = plain.gram_unweighted[:-2, :-2], plain.gram_unweighted[-1, :-2]
    scale = np.sqrt(np.where(np.diag(G) > 0, np.diag(G), 1.0))
    a = np.linalg.lstsq(G / np.outer(scale, scale), sums / scale, rcond=1e-11)[0] / scale
    left = cp.n - 2 * sums @ a + a @ G @ a
    return a if abs(left) <= 1e-10 * cp.n else None
