"""What priors, checks and descriptions need of a design's rows, in a few numbers per column.

A design whose rows are read in batches has no rows to look at; these numbers are what remains
of them (besides the cross-products), and a design in memory gives the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bayeslmm.formula.random import RandomBlock

__all__ = ["BlockStatistics", "RowStatistics", "statistics_of_block", "statistics_of_rows"]

#: Rows whose columns are brought to triangular form at a time.
_BLOCK = 1 << 16


@dataclass(frozen=True)
class BlockStatistics:
    """Covariates of one grouping factor.

    Attributes
    ----------
    counts : ndarray of int, shape (J,)
        Rows of each level.
    mean : ndarray, shape (q,)
    sd : ndarray, shape (q,)
        With the divisor n - 1; exactly 0 for a constant column.
    size : ndarray, shape (q,)
        Largest absolute value.
    gram : ndarray, shape (q, q)
        Mean of z z' over the rows.
    indicator : ndarray of bool, shape (q,)
        Whether every value is 0 or 1.
    """

    counts: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    size: np.ndarray
    gram: np.ndarray
    indicator: np.ndarray


@dataclass(frozen=True)
class RowStatistics:
    """Numbers about all rows of a design.

    Attributes
    ----------
    n : int
        Rows used.
    mean_y, sd_y : float
        Of the response less its offset; the divisor is n - 1.
    mean, sd, size : ndarray, shape (p,)
        Mean, standard deviation (divisor n - 1; exactly 0 for a constant column) and largest
        absolute value of the columns of X.
    ones : ndarray, shape (p,), or None
        Coefficients a with X a = 1, where there are any.
    mean_weight, mean_inverse_weight : float
        1 without weights.
    weights_vary : bool
    has_offset : bool
        Whether an offset other than 0 was subtracted.
    blocks : tuple of BlockStatistics
    root : ndarray, shape (p, p), or None
        R with R'R the covariance matrix (divisor n - 1) of the columns of X; None in files of
        version 0.1.0, whose priors do not need it.
    """

    n: int
    mean_y: float
    sd_y: float
    mean: np.ndarray
    sd: np.ndarray
    size: np.ndarray
    ones: np.ndarray | None
    mean_weight: float
    mean_inverse_weight: float
    weights_vary: bool
    has_offset: bool
    blocks: tuple[BlockStatistics, ...]
    root: np.ndarray | None = None

    @property
    def spread(self) -> np.ndarray:
        """Standard deviations of the columns of X, or their size where they do not vary."""
        return spread(self.sd, self.size)


def spread(sd: np.ndarray, size: np.ndarray) -> np.ndarray:
    """``sd``, where that is rounding error ``size``, and 1 for columns of zeros."""
    size = np.where(size > 0, size, 1.0)
    return np.where(sd > 1e-12 * size, sd, size)


def statistics_of_rows(
    y: np.ndarray,
    X: np.ndarray,
    offset: np.ndarray,
    w: np.ndarray | None,
    blocks: tuple[BlockStatistics, ...],
) -> RowStatistics:
    """The statistics of rows that are in memory.

    Parameters
    ----------
    y, offset, w : ndarray, shape (n,)
        `w` are the weights, None where there are none.
    X : ndarray, shape (n, p)
    blocks : tuple of BlockStatistics
    """
    y = y - offset
    n, p = X.shape
    ones = None
    if p:
        target = np.ones(n)
        solution = np.linalg.lstsq(X, target, rcond=None)[0]
        ones = solution if np.allclose(X @ solution, target, atol=1e-8) else None
    return RowStatistics(
        n=n,
        mean_y=float(np.mean(y)),
        sd_y=float(np.std(y, ddof=1)),
        mean=X.mean(axis=0),
        sd=_sd(X),
        size=np.abs(X).max(axis=0, initial=0.0),
        root=_root(X),
        ones=ones,
        mean_weight=1.0 if w is None else float(np.mean(w)),
        mean_inverse_weight=1.0 if w is None else float(np.mean(1.0 / w)),
        weights_vary=w is not None and bool(np.ptp(w) > 0),
        has_offset=bool(np.any(offset)),
        blocks=blocks,
    )


def statistics_of_block(block: RandomBlock) -> BlockStatistics:
    """The statistics of a grouping factor whose rows are in memory."""
    Z, columns = block.Z, np.ascontiguousarray(block.Z.T)
    return BlockStatistics(
        counts=np.bincount(block.codes, minlength=block.n_levels),
        mean=columns.mean(axis=1),
        sd=_sd(columns.T),
        size=np.abs(columns).max(axis=1),
        gram=Z.T @ Z / len(Z),
        indicator=((columns == 0.0) | (columns == 1.0)).all(axis=1),
    )


def _root(X: np.ndarray) -> np.ndarray:
    """Triangular root of the covariance matrix of the columns, in blocks of rows."""
    n, p = X.shape
    mean, root = X.mean(axis=0), np.zeros((p, p))
    constant = np.ptp(X, axis=0) == 0 if p else np.zeros(0, dtype=bool)
    for start in range(0, n, _BLOCK) if p else ():
        centered = np.where(constant, 0.0, X[start : start + _BLOCK] - mean)
        root = np.linalg.qr(np.vstack([root, centered]), mode="r")
    return root / np.sqrt(max(n - 1, 1))


def _sd(columns: np.ndarray) -> np.ndarray:
    """Standard deviation of each column; a constant one has none, whatever rounding says."""
    return np.array([np.std(c, ddof=1) if np.ptp(c) > 0 else 0.0 for c in columns.T])
