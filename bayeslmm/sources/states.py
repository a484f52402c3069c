"""What stateful transforms learn from all rows, learned batch by batch.

``center``, ``scale``, ``poly`` and ``bs`` remember numbers of the fitted rows: means, standard
deviations, the recurrence of orthogonal polynomials, quantiles. Each is found exactly, in as many
rounds over the data as it takes; transforms at the same depth share their rounds, and one inside
another goes first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError, FormulaError
from bayeslmm.formula.functions import STATEFUL

__all__ = ["StateRound", "learn_states", "stateful_calls"]


def stateful_calls(matrices: list) -> dict[str, list]:
    """Text of each stateful call to its copies, inner calls first.

    A call is copied for every block of columns it occurs in, and each copy has a state.

    Parameters
    ----------
    matrices : list of ModelMatrix

    Returns
    -------
    dict of str to list of (formulae LazyCall, environment)
    """
    found: dict[str, list] = {}
    for matrix in matrices:
        for piece in matrix._pieces:
            for component in getattr(piece, "components", []):
                if hasattr(component, "call"):
                    _collect(component.call, component.env, found)
    return found


def _collect(node, env, found: dict[str, list]) -> None:
    for child in (*getattr(node, "args", ()), *getattr(node, "kwargs", {}).values()):
        _collect(child, env, found)
    if getattr(node, "stateful_transform", None) is not None:
        found.setdefault(str(node), []).append((node, env))


def argument(node):
    """The lazy expression of the column a stateful call transforms."""
    return node.args[0] if node.args else node.kwargs["x"]


def option(node, env, name: str, position: int, default):
    """The value of an option of a call, which the formula gives as a constant."""
    if name in node.kwargs:
        return node.kwargs[name].eval({}, env)
    if len(node.args) > position:
        return node.args[position].eval({}, env)
    return default


def learner(node, env, pilot: float):
    """The learner of a call's state.

    Raises
    ------
    FormulaError
        If the state of this transform cannot be learned in batches.
    """
    name = node.callee
    if name == "center":
        return Center(pilot)
    if name in ("scale", "standardize"):
        return Scale(pilot)
    if name == "poly":
        return Poly(node, env)
    if name == "bs":
        return Spline(node, env)
    raise FormulaError(
        f"'{node}' needs all values of its column at once, and the data are read in batches. Use "
        "bs(), poly(), scale() or center(), or make its columns in the data first. "
        f"(Stateful functions: {', '.join(sorted(STATEFUL))}.)"
    )


class Center:
    """Mean of a column; the sum is taken about a pilot value."""

    def __init__(self, pilot: float):
        self.pilot = pilot
        self.n, self.mean = 0.0, 0.0

    def measure(self, x: np.ndarray) -> np.ndarray:
        """Sums over a batch."""
        gap = x - self.pilot
        return np.array([len(x), gap.sum(), gap @ gap])

    def learn(self, total: np.ndarray) -> bool:
        """Take in the sums over all rows; whether that was the last round."""
        self.n, s, ss = total
        self.mean = self.pilot + s / self.n
        self.variance = max(ss - s * s / self.n, 0.0) / self.n
        return True

    def install(self, transform) -> None:
        """Give a formulae transform the state."""
        transform.mean, transform.params_set = self.mean, True


class Scale(Center):
    """Mean and standard deviation (divisor n, as formulae)."""

    def install(self, transform) -> None:
        super().install(transform)
        transform.std = float(np.sqrt(self.variance))


class Poly:
    """Recurrence of the orthogonal polynomials (Stieltjes), one degree per round."""

    def __init__(self, node, env):
        self.degree = option(node, env, "degree", 1, 1)
        self.raw = bool(option(node, env, "raw", 2, False))
        self.alpha: dict[int, float] = {}
        self.norms2: dict[int, float] = {}

    def measure(self, x: np.ndarray) -> np.ndarray:
        if self.raw:
            return np.zeros(2)
        x = np.asarray(x, dtype=float)
        before, now = np.zeros(len(x)), np.ones(len(x))
        for k in range(len(self.alpha)):
            after = (x - self.alpha[k]) * now
            if k:
                after -= self.norms2[k] / self.norms2[k - 1] * before
            before, now = now, after
        square = now * now
        return np.array([square.sum(), x @ square])

    def learn(self, total: np.ndarray) -> bool:
        if self.raw:
            return True
        k = len(self.alpha)
        self.norms2[k] = float(total[0])
        if not total[0] > 0:
            raise DataError(f"poly() of degree {self.degree}: too few different values.")
        self.alpha[k] = float(total[1] / total[0])
        return k == self.degree

    def install(self, transform) -> None:
        transform.degree, transform.raw = self.degree, self.raw
        transform.alpha = {k: v for k, v in self.alpha.items() if k < self.degree}
        transform.norms2 = dict(self.norms2)


#: Bits of a number settled per round of the search for a quantile.
_BITS = 16


class Spline:
    """Knots of a B-spline basis at exact quantiles, and the means of its columns.

    Order statistics are found digit by digit: numbers are mapped to integers of the same order,
    and each round counts the next 16 bits among those that share the bits found so far.
    """

    def __init__(self, node, env):
        names = ("df", "knots", "degree", "intercept", "lower_bound", "upper_bound", "center")
        defaults = (None, None, 3, None, None, None, True)
        self.given = {
            name: option(node, env, name, at + 1, default)
            for at, (name, default) in enumerate(zip(names, defaults, strict=True))
        }
        self.center = bool(self.given["center"])
        if self.given["intercept"] is not None:
            self.center = not self.given["intercept"]
        self.stage = "count"
        self.prefixes: list[int] = []
        self.transform = None

    def measure(self, x: np.ndarray):
        x = np.asarray(x, dtype=float)
        if self.stage == "count":
            return _Extent(len(x), x.min(), x.max())
        if self.stage == "means":
            return self.transform._eval_basis(x).sum(axis=0)
        key = _ordered_integers(x)
        shift = np.uint64(64 - _BITS * (self.round + 1))
        counts = np.zeros((len(self.ranks), 1 << _BITS), dtype=np.int64)
        digit = (key >> shift) & np.uint64((1 << _BITS) - 1)
        high = key >> (shift + np.uint64(_BITS)) if self.round else np.zeros(len(key), np.uint64)
        for at, prefix in enumerate(self.prefixes):
            mine = digit[high == np.uint64(prefix)]
            counts[at] = np.bincount(mine.astype(np.int64), minlength=1 << _BITS)
        return counts

    def learn(self, total) -> bool:
        if self.stage == "count":
            return self._plan(total)
        if self.stage == "means":
            self.means = total / self.n
            return True
        for at, rank in enumerate(self.left):
            below = np.cumsum(total[at])
            digit = int(np.searchsorted(below, rank, side="right"))
            self.left[at] = rank - (int(below[digit - 1]) if digit else 0)
            self.prefixes[at] = (self.prefixes[at] << _BITS) | digit
        self.round += 1
        if self.round * _BITS < 64:
            return False
        values = _from_ordered_integers(np.array(self.prefixes, dtype=np.uint64))
        found = dict(zip(self.ranks, values, strict=True))
        return self._set_knots([_between(found, h) for h in self.heights])

    def _plan(self, extent: _Extent) -> bool:
        """Which order statistics are needed, once the number of rows is known."""
        self.n, self.low, self.high = extent.n, extent.low, extent.high
        df, degree = self.given["df"], self.given["degree"]
        if self.given["knots"] is not None or df is None:
            return self._set_knots(None)
        n_knots = df - degree - 1 + int(self.center)
        if n_knots <= 0:
            return self._set_knots(None)
        self.heights = np.linspace(0, 1, n_knots + 2)[1:-1] * (self.n - 1)
        ends = {int(np.floor(h)) for h in self.heights} | {int(np.ceil(h)) for h in self.heights}
        self.ranks = sorted(ends)
        self.left = list(self.ranks)
        self.prefixes = [0] * len(self.ranks)
        self.stage, self.round = "digits", 0
        return False

    def _set_knots(self, quantiles: list[float] | None) -> bool:
        """Let formulae check and lay out the knots, on the two ends of the data."""
        from formulae.transforms import BSpline

        given, ends = self.given, np.array([self.low, self.high], dtype=float)
        self.transform = BSpline()
        # formulae before 0.9 drops the first column instead of centering, and takes no means
        self.drops = not hasattr(self.transform, "_centering_matrix")
        knots = given["knots"] if quantiles is None else quantiles
        df = given["df"] if quantiles is None else None
        full = not self.center if self.drops else False
        self.transform._initialize(
            ends, df, knots, given["degree"], full, given["lower_bound"], given["upper_bound"]
        )
        self.stage = "means"
        return self.drops or not self.center

    def install(self, transform) -> None:
        made = self.transform
        transform._degree, transform._knots = made._degree, made._knots
        transform.params_set = True
        if self.drops:
            transform._intercept = not self.center
            return
        transform._center = self.center
        transform._centering_matrix = None
        if self.center:
            from formulae.utils import get_centering_matrix

            transform._centering_matrix = get_centering_matrix(self.means[None, :])


@dataclass(frozen=True)
class _Extent:
    """Count and range; they add."""

    n: int
    low: float
    high: float

    def __add__(self, other: _Extent) -> _Extent:
        return _Extent(self.n + other.n, min(self.low, other.low), max(self.high, other.high))


def _between(found: dict[int, float], h: float) -> float:
    """Linear interpolation between the two order statistics around `h`."""
    low, high = found[int(np.floor(h))], found[int(np.ceil(h))]
    return float(np.quantile(np.array([low, high]), h - np.floor(h)))


def _ordered_integers(x: np.ndarray) -> np.ndarray:
    """Unsigned integers in the order of the numbers (IEEE 754: flip the sign, or all bits)."""
    bits = np.ascontiguousarray(x + 0.0).view(np.uint64)  # -0.0 is 0.0
    top = np.uint64(1) << np.uint64(63)
    return np.where(bits & top, ~bits, bits | top)


def _from_ordered_integers(key: np.ndarray) -> np.ndarray:
    top = np.uint64(1) << np.uint64(63)
    return np.where(key & top, key & ~top, ~key).view(np.float64)


@dataclass(frozen=True)
class StateRound:
    """One round over the data for all learners that are at work.

    Attributes
    ----------
    plain : callable
        A frame as read to plain used rows.
    learners : dict of str
        By text of the call.
    calls : dict of str to (call, environment)
    """

    plain: Any
    learners: dict[str, Any]
    calls: dict[str, tuple]

    def start(self) -> dict[str, Any]:
        return {}

    def add(self, state: dict[str, Any], frame: pd.DataFrame) -> dict[str, Any]:
        rows = self.plain(frame)[0]
        if not len(rows):
            return state
        for text, work in self.learners.items():
            node, env = self.calls[text]
            with np.errstate(all="ignore"):
                x = np.asarray(argument(node).eval(rows, env))
            if x.dtype.kind not in "ifub" or x.ndim != 1:
                raise FormulaError(f"'{text}' needs one column of numbers.")
            x = x.astype(float)
            if not np.all(np.isfinite(x)):
                raise DataError(f"The argument of '{text}' is not finite in every row.")
            measured = work.measure(x)
            state[text] = measured if text not in state else state[text] + measured
        return state

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        for text, measured in b.items():
            a[text] = measured if text not in a else a[text] + measured
        return a


def learn_states(source, columns: list[str], plain, sample: pd.DataFrame, matrices: list) -> None:
    """Give every stateful transform in the matrices the state of all rows.

    Parameters
    ----------
    source : Source
    columns : list of str
        To read.
    plain : callable
        A frame as read to (plain used rows, weights).
    sample : pandas.DataFrame
        Plain rows for pilot values.
    matrices : list of ModelMatrix
        Their transforms are changed in place.
    """
    copies = stateful_calls(matrices)
    waiting = dict(copies)
    while waiting:
        # a call waits for those inside it; `copies` has inner calls first
        ready = [t for t in waiting if not _inner(copies[t][0][0]) & waiting.keys()]
        calls = {text: copies[text][0] for text in ready}
        learners = {
            text: learner(node, env, _pilot(node, env, sample))
            for text, (node, env) in calls.items()
        }
        active = dict(learners)
        while active:
            totals = source.run(StateRound(plain, active, calls), columns)
            active = {t: work for t, work in active.items() if not work.learn(totals[t])}
        for text in ready:
            for node, _ in copies[text]:
                learners[text].install(node.stateful_transform)
            del waiting[text]


def _pilot(node, env, sample: pd.DataFrame) -> float:
    """A value near the middle of the column, to take sums about."""
    with np.errstate(all="ignore"):
        x = np.asarray(argument(node).eval(sample, env), dtype=float)
    x = x[np.isfinite(x)]
    return float(x.mean()) if len(x) else 0.0


def _inner(node) -> set[str]:
    """Texts of the stateful calls inside a call."""
    found: dict[str, list] = {}
    for child in (*node.args, *node.kwargs.values()):
        _collect(child, None, found)
    return set(found)
