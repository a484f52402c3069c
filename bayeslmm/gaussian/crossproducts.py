"""Cross-products of [Z X y 1]: all that the Gaussian likelihood needs of the data.

With weights W, everything in Bates et al. (2015, J. Stat. Softw. 67(1), section 3) and in the
marginal likelihood with a normal prior on beta is a function of the products of the columns
[Z X y 1] under W.  They are sums over rows, so they add and subtract: chunks of a file, partitions
of a cluster, a group left out.

y and the covariates are accumulated after subtracting a constant (`Shift`), which always is along
the carried column of ones; a response of 1e9 plus noise keeps the digits of the noise. Covariates
that are nearly collinear are orthogonalized before they are squared (``orthogonal``): squares
lose twice the digits that the columns have in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from . import _accumulate
from .orthogonal import selected, well_conditioned
from .rows import FactorRows
from .shift import MixedShift, Shift

_CHUNK = 1 << 16


@dataclass(frozen=True)
class FactorProducts:
    """Products of one grouping factor, level by level.

    Attributes
    ----------
    zz : (J, q, q) array
        Z_j'WZ_j.
    zr : (J, q, p + 2) array
        Z_j'W [X y 1], X and y shifted.
    counts : (J,) int array
        Rows of each level.
    zz_unweighted : (q, q) array
        sum_j Z_j'Z_j without weights (Johnson's term of the conditional R2).
    """

    zz: np.ndarray
    zr: np.ndarray
    counts: np.ndarray
    zz_unweighted: np.ndarray

    @property
    def n_levels(self) -> int:
        """J."""
        return self.zz.shape[0]

    @property
    def q(self) -> int:
        """Random-effect columns."""
        return self.zz.shape[1]

    @property
    def column_scales(self) -> np.ndarray:
        """Root mean square of each column of Z over its rows, weights included; 1 for zeros."""
        scale = np.sqrt(np.einsum("jaa->a", self.zz) / max(float(self.counts.sum()), 1.0))
        return np.where(scale > 0, scale, 1.0)


@dataclass(frozen=True)
class PairProducts:
    """Blocks Z_kj'WZ_lm of two factors for the pairs of levels (j, m) that share a row.

    Attributes
    ----------
    rows, columns : (nnz,) int arrays
        Levels of the first and of the second factor, sorted by row, then column.
    values : (nnz, q_k, q_l) array
    counts : (nnz,) int array
        Rows in each pair.
    """

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class CrossProducts:
    """Weighted cross-products of [Z X y 1]; see the module's docstring.

    Attributes
    ----------
    factors : tuple of FactorProducts
        One per grouping factor, in the caller's order.
    pairs : dict
        (k, l) with k < l -> PairProducts.
    gram, gram_unweighted : (p + 2, p + 2) arrays
        [X y 1]'W[X y 1] with and without W, X and y shifted.
    shift : Shift
    n : int
        Rows used, those of positive weight.
    n_dropped : int
        Rows left out because their weight is zero.
    sum_log_weights : float
        sum log w_i over the rows used.
    """

    factors: tuple[FactorProducts, ...]
    pairs: dict[tuple[int, int], PairProducts]
    gram: np.ndarray
    gram_unweighted: np.ndarray
    shift: Shift
    n: int
    n_dropped: int
    sum_log_weights: float

    @property
    def p(self) -> int:
        """Number of fixed-effect columns."""
        return self.gram.shape[0] - 2

    @classmethod
    def from_rows(
        cls,
        y: np.ndarray,
        X: np.ndarray,
        factors: Sequence[FactorRows],
        weights: np.ndarray | None = None,
        shift: Shift | None = None,
    ) -> CrossProducts:
        """Reduce rows to cross-products: one pass, and one more where columns are nearly collinear.

        Parameters
        ----------
        y : (n,) array
        X : (n, p) array
        factors : sequence of FactorRows
        weights : (n,) array, optional
            Prior weights w_i, Var(eps_i) = sigma^2 / w_i.  Rows with w_i = 0 are dropped and
            counted.
        shift : Shift, optional
            The columns to square; by default the data's own means are subtracted, and nearly
            collinear columns orthogonalized.

        Raises
        ------
        ValueError
            On disagreeing shapes, non-finite values, negative or missing weights.
        """
        rows = _checked(y, X, factors, weights)
        if shift is None:
            return well_conditioned(lambda s: _reduced(rows, s), Shift.pilot(*rows[:2]))
        if np.shape(shift.X) != (rows[1].shape[1],):
            raise ValueError("the shift has another number of columns than X")
        return _reduced(rows, shift)

    @classmethod
    def of_effects(cls, factors: Sequence[FactorRows], precisions: np.ndarray) -> CrossProducts:
        """Products of the columns of Z alone; y is zero.

        Parameters
        ----------
        factors : sequence of FactorRows
        precisions : (n,) array
            In place of weights; they may be negative.
        """
        n = len(precisions)
        levels = [_empty_factor(f.n_levels, f.q, 0) for f in factors]
        R = np.zeros((n, 2))
        for f, out in zip(factors, levels, strict=True):
            _accumulate.accumulate_factor(
                f.codes, f.Z, R, precisions, out.zz, out.zr, out.counts, out.zz_unweighted
            )
        pairs, gram = _pair_products(factors, precisions), np.zeros((2, 2))
        return finished(levels, pairs, gram, gram, Shift(np.zeros(0), 0.0), n, 0, 0.0)

    def save(self, path) -> None:
        """Write to one npz file, with a version and a checksum.

        Parameters
        ----------
        path : path
            Overwritten if it exists; it is there whole or not at all.

        Raises
        ------
        FileFormatError
            If it cannot be written.
        """
        from bayeslmm.archive import write_archive

        write_archive(path, self, "cross-products")

    @classmethod
    def load(cls, path) -> CrossProducts:
        """Read what :meth:`save` wrote; no code in the file is run.

        Raises
        ------
        FileFormatError
            If there is no such file, or it is damaged, of another kind or of a newer version.
        """
        from bayeslmm.archive import read_archive
        from bayeslmm.errors import FileFormatError

        parts = (CrossProducts, FactorProducts, PairProducts, Shift, MixedShift)
        read = read_archive(path, "cross-products", {kind.__name__: kind for kind in parts})
        if not is_consistent(read):
            raise FileFormatError(f"{str(path)!r} holds cross-products that do not fit together.")
        return read

    def with_columns(self, columns: np.ndarray) -> CrossProducts:
        """The same rows with only these columns of X.

        Parameters
        ----------
        columns : int array
        """
        kept = np.asarray(columns, dtype=np.int64)
        M = np.zeros((self.p + 2, len(kept) + 2))
        M[:-2, :-2], T = selected(self, kept)
        M[-2, -2] = M[-1, -1] = 1.0
        return self.combined(M, Shift(self.shift.X[kept], self.shift.y).mixed(T))

    def with_effects(self, matrices: Sequence[np.ndarray | None]) -> CrossProducts:
        """The same rows with other columns for the effects: Z_k K_k in place of Z_k.

        Parameters
        ----------
        matrices : sequence of (q_k, q_k) array or None
            K_k; None leaves a factor as it is.
        """
        Ks = [np.eye(f.q) if K is None else K for f, K in zip(self.factors, matrices, strict=True)]
        return replace(
            self,
            factors=tuple(
                replace(
                    f,
                    zz=np.ascontiguousarray(K.T @ f.zz @ K),
                    zr=np.ascontiguousarray(K.T @ f.zr),
                    zz_unweighted=K.T @ f.zz_unweighted @ K,
                )
                for f, K in zip(self.factors, Ks, strict=True)
            ),
            pairs={
                (k, m): replace(pair, values=np.ascontiguousarray(Ks[k].T @ pair.values @ Ks[m]))
                for (k, m), pair in self.pairs.items()
            },
        )

    def shifted_to(self, shift: Shift) -> CrossProducts:
        """The same data in other columns (exact algebra along the ones column)."""
        if shift.same_as(self.shift):
            return self
        # [(X - new) S, y - new, 1] = [(X - old) T, y - old, 1] M
        M = np.eye(self.p + 2)
        if self.shift.T is not shift.T:
            M[:-2, :-2] = self.shift.unmixing @ shift.mixing
        M[-1, :-2] = (self.shift.X - shift.X) @ shift.mixing
        M[-1, -2] = self.shift.y - shift.y
        return self.combined(M, shift)

    def combined(self, M: np.ndarray, shift: Shift) -> CrossProducts:
        """Products of [Z, R M] for the columns R = [X y 1] as they are squared here.

        Parameters
        ----------
        M : (p + 2, k + 2) array
        shift : Shift
            What makes the columns R M of the rows.
        """
        return replace(
            self,
            factors=tuple(replace(f, zr=np.ascontiguousarray(f.zr @ M)) for f in self.factors),
            gram=M.T @ self.gram @ M,
            gram_unweighted=M.T @ self.gram_unweighted @ M,
            shift=shift,
        )

    def __add__(self, other: CrossProducts) -> CrossProducts:
        """Cross-products of both sets of rows.

        Raises
        ------
        ValueError
            If columns, factors or levels disagree.
        """
        return self._with_rows_of(_aligned(self, other), 1)

    def __sub__(self, other: CrossProducts) -> CrossProducts:
        """Cross-products with the rows of ``other`` left out.

        The pattern of co-occurrence of ``self`` is kept (emptied pairs hold exact zeros), so one
        symbolic analysis serves the data with and without any group.

        Raises
        ------
        ValueError
            If columns, factors or levels disagree, or ``other`` has rows that ``self`` has not.
        """
        other = _aligned(self, other)
        if other.n > self.n:
            raise ValueError("cannot take away more rows than there are")
        return self._with_rows_of(other, -1)

    def _with_rows_of(self, other: CrossProducts, sign: int) -> CrossProducts:
        """With the rows of products in the same columns added (1) or taken away (-1)."""
        pairs = {k: _combine_pairs(p, other.pairs[k], sign) for k, p in self.pairs.items()}
        return replace(
            self,
            factors=tuple(_combine_factors(a, b, sign) for a, b in _zip_factors(self, other)),
            pairs=pairs,
            gram=self.gram + sign * other.gram,
            gram_unweighted=self.gram_unweighted + sign * other.gram_unweighted,
            n=self.n + sign * other.n,
            n_dropped=self.n_dropped + sign * other.n_dropped,
            sum_log_weights=self.sum_log_weights + sign * other.sum_log_weights,
        )


def is_consistent(cp: CrossProducts) -> bool:
    """Whether shapes and levels fit together: the kernels rely on it without looking.

    Parameters
    ----------
    cp : object
        From a file, so its attributes may be anything.
    """
    try:
        return _fits_together(cp)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return False


def _fits_together(cp: CrossProducts) -> bool:
    size = cp.gram.shape[0]
    expected: list[tuple[np.ndarray, tuple[int, ...]]]
    expected = [(cp.gram, (size, size)), (cp.gram_unweighted, (size, size))]
    expected.append((cp.shift.X, (size - 2,)))
    if cp.shift.T is not None:
        expected.append((cp.shift.T, (size - 2, size - 2)))
    for f in cp.factors:
        J, q, _ = f.zz.shape
        expected += [(f.zz, (J, q, q)), (f.zr, (J, q, size)), (f.zz_unweighted, (q, q))]
        if f.counts.shape != (J,) or f.counts.dtype.kind != "i":
            return False
    number = len(cp.factors)
    if set(cp.pairs) != {(k, m) for k in range(number) for m in range(k + 1, number)}:
        return False
    for (k, m), pair in cp.pairs.items():
        a, b = cp.factors[k], cp.factors[m]
        expected.append((pair.values, (len(pair.rows), a.q, b.q)))
        for levels, J in ((pair.rows, a.n_levels), (pair.columns, b.n_levels)):
            if levels.dtype.kind != "i" or levels.shape != pair.counts.shape or levels.ndim != 1:
                return False
            if np.any((levels < 0) | (levels >= J)):
                return False
    numbers = (cp.n, cp.n_dropped, cp.sum_log_weights, cp.shift.y)
    return (
        type(cp) is CrossProducts
        and all(np.isscalar(number) and np.isreal(number) for number in numbers)
        and all(array.shape == shape and array.dtype.kind == "f" for array, shape in expected)
    )


def _checked(y, X, factors, weights):
    """Contiguous finite arrays, zero-weight rows removed."""
    y = np.ascontiguousarray(y, dtype=np.float64)
    X = np.asarray(X, dtype=np.float64)
    if y.ndim != 1 or X.ndim != 2 or X.shape[0] != len(y):
        raise ValueError(f"y has shape {y.shape} and X {X.shape}; expected (n,) and (n, p)")
    if any(len(f.codes) != len(y) for f in factors):
        raise ValueError("every grouping factor needs one code per row")
    if not np.all(np.isfinite(y)) or not np.all(np.isfinite(X)):
        raise ValueError("y and X must be finite")
    if weights is None:
        return y, np.ascontiguousarray(X), None, tuple(factors), 0
    weights = np.ascontiguousarray(weights, dtype=np.float64)
    if weights.shape != y.shape:
        raise ValueError(f"weights have shape {weights.shape}, y has {y.shape}")
    if not np.all(np.isfinite(weights)) or np.any(weights < 0):
        raise ValueError("weights must be finite and not negative")
    keep = weights > 0
    n_dropped = int(len(y) - keep.sum())
    if n_dropped:
        y, X, weights = y[keep], X[keep], weights[keep]
        factors = [f.take(keep) for f in factors]
    return y, np.ascontiguousarray(X), weights, tuple(factors), n_dropped


def _reduced(rows: tuple, shift: Shift) -> CrossProducts:
    """Cross-products of checked rows in the columns of ``shift``."""
    y, X, weights, factors, n_dropped = rows
    p = X.shape[1]
    unweighted = weights is None
    w = np.ones(len(y)) if unweighted else weights
    levels = [_empty_factor(f.n_levels, f.q, p) for f in factors]
    gram, plain = np.zeros((p + 2, p + 2)), np.zeros((p + 2, p + 2))
    accumulate(y, X, factors, None if unweighted else w, shift, levels, gram, plain)
    pairs, sum_log = _pair_products(factors, w), 0.0 if unweighted else float(np.log(w).sum())
    return finished(levels, pairs, gram, plain, shift, len(y), n_dropped, sum_log)


def finished(levels, pairs, gram, plain, *rest) -> CrossProducts:
    """Cross-products of sums of which lower triangles are made; ``rest`` from the shift on."""
    for out in levels:
        _accumulate.mirror_lower(out.zz)
        _accumulate.mirror_lower(out.zz_unweighted[None])
    gram, plain = 0.5 * (gram + gram.T), 0.5 * (plain + plain.T)
    return CrossProducts(tuple(levels), pairs, gram, plain, *rest)


def accumulate(y, X, factors, weights, shift: Shift, levels, gram, plain) -> None:
    """Add the products of rows to those of each factor and to the Gram matrices, in place."""
    w = np.ones(len(y)) if weights is None else weights
    for start in range(0, len(y), _CHUNK):
        rows = slice(start, start + _CHUNK)
        with np.errstate(over="ignore", invalid="ignore"):  # too large: refused where it is known
            R = shift.applied(y[rows], X[rows])
            product = R.T @ R
            plain += product
            gram += product if weights is None else (R * w[rows, None]).T @ R
        for f, out in zip(factors, levels, strict=True):
            _accumulate.accumulate_factor(
                f.codes[rows], f.Z[rows], R, w[rows], out.zz, out.zr, out.counts,
                out.zz_unweighted,
            )  # fmt: skip


def _empty_factor(n_levels: int, q: int, p: int) -> FactorProducts:
    return FactorProducts(
        np.zeros((n_levels, q, q)),
        np.zeros((n_levels, q, p + 2)),
        np.zeros(n_levels, dtype=np.int64),
        np.zeros((q, q)),
    )


def _pair_products(factors: Sequence[FactorRows], w: np.ndarray) -> dict:
    """Blocks of every two factors; the rows are visited level by level of the first."""
    pairs = {}
    for k in range(len(factors) - 1):
        f = factors[k]
        start, order = _accumulate.rows_by_level(f.codes, f.n_levels)
        for m in range(k + 1, len(factors)):
            g = factors[m]
            rows, columns, row_pair = _accumulate.cooccurrences(
                f.codes, g.codes, start, order, g.n_levels
            )
            values = np.zeros((len(rows), f.q, g.q))
            counts = np.zeros(len(rows), dtype=np.int64)
            _accumulate.accumulate_pair(row_pair, f.Z, g.Z, w, values, counts)
            pairs[k, m] = PairProducts(rows, columns, values, counts)
    return pairs


def _zip_factors(a: CrossProducts, b: CrossProducts):
    return zip(a.factors, b.factors, strict=True)


def _aligned(a: CrossProducts, b: CrossProducts) -> CrossProducts:
    """``b`` in the shift of ``a``, after checking that they describe the same columns."""
    if not isinstance(b, CrossProducts):
        raise TypeError("only CrossProducts can be added to or taken from CrossProducts")
    same = a.p == b.p and len(a.factors) == len(b.factors)
    if not same or any(f.zz.shape != g.zz.shape for f, g in _zip_factors(a, b)):
        raise ValueError("cross-products of different columns, factors or levels")
    return b.shifted_to(a.shift)


def _combine_factors(a: FactorProducts, b: FactorProducts, sign: int) -> FactorProducts:
    counts = a.counts + sign * b.counts
    if np.any(counts < 0):
        raise ValueError("cannot take away rows that are not there")
    zz, zr = a.zz + sign * b.zz, a.zr + sign * b.zr
    if sign < 0:  # an emptied level is exactly empty, not rounding errors of empty
        zz[counts == 0] = 0.0
        zr[counts == 0] = 0.0
    return FactorProducts(zz, zr, counts, a.zz_unweighted + sign * b.zz_unweighted)


def _combine_pairs(a: PairProducts, b: PairProducts, sign: int) -> PairProducts:
    if len(b.rows) == 0:
        return a
    span = int(max(a.columns.max(initial=0), b.columns.max(initial=0))) + 1
    key_a, key_b = a.rows * span + a.columns, b.rows * span + b.columns
    if sign < 0:
        keys = key_a
        at_b = np.searchsorted(keys, key_b)
        if np.any(at_b >= len(keys)) or np.any(keys[np.minimum(at_b, len(keys) - 1)] != key_b):
            raise ValueError("cannot take away rows that are not there")
    else:
        keys = np.union1d(key_a, key_b)
        at_b = np.searchsorted(keys, key_b)
    at_a = np.searchsorted(keys, key_a)
    values = np.zeros((len(keys), *a.values.shape[1:]))
    counts = np.zeros(len(keys), dtype=np.int64)
    values[at_a], counts[at_a] = a.values, a.counts
    values[at_b] += sign * b.values
    counts[at_b] += sign * b.counts
    if sign < 0:
        values[counts == 0] = 0.0
    return PairProducts(keys // span, keys % span, values, counts)


def same_effects(a: CrossProducts, b: CrossProducts) -> bool:
    """Whether all products among random-effects columns are equal: another response at most."""
    return all(
        np.array_equal(f.zz, g.zz) for f, g in zip(a.factors, b.factors, strict=True)
    ) and all(
        np.array_equal(getattr(pair, name), getattr(b.pairs[key], name))
        for key, pair in a.pairs.items()
        for name in ("rows", "columns", "values")
    )
