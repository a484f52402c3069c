"""Rows of a grouping factor, before they are reduced to cross-products."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FactorRows:
    """All random-effect terms on one grouping factor, row by row.

    Attributes
    ----------
    codes : (n,) int array
        Level of the factor in each row, 0 <= code < n_levels.
    Z : (n, q) float array
        Model matrix of the left side of the bar: what multiplies that level's effects.  The
        n x (J q) matrix of the textbooks is never built.
    n_levels : int
        J, the number of levels.  Levels without rows are allowed.

    Raises
    ------
    ValueError
        If shapes disagree, codes are out of range or not integers, or Z is not finite.
    """

    codes: np.ndarray
    Z: np.ndarray
    n_levels: int

    def __post_init__(self) -> None:
        codes = np.asarray(self.codes)
        if codes.ndim != 1 or codes.dtype.kind not in "iu":
            raise ValueError("codes must be a one-dimensional array of integers")
        Z = np.asarray(self.Z, dtype=np.float64)
        if Z.ndim == 1:
            Z = Z[:, None]
        if Z.ndim != 2 or Z.shape[0] != len(codes) or Z.shape[1] < 1:
            raise ValueError(f"Z has shape {Z.shape}, expected ({len(codes)}, q) with q >= 1")
        if len(codes) and (codes.min() < 0 or codes.max() >= self.n_levels):
            raise ValueError(f"codes must lie in 0..{self.n_levels - 1}")
        if not np.all(np.isfinite(Z)):
            raise ValueError("the covariates of a random-effect term must be finite")
        object.__setattr__(self, "codes", np.ascontiguousarray(codes, dtype=np.int64))
        object.__setattr__(self, "Z", np.ascontiguousarray(Z))
        object.__setattr__(self, "n_levels", int(self.n_levels))

    @property
    def q(self) -> int:
        """Number of random-effect columns."""
        return self.Z.shape[1]

    def mapped(self, K: np.ndarray | None) -> FactorRows:
        """The same factor with the columns Z K; itself without K."""
        return self if K is None else FactorRows(self.codes, self.Z @ K, self.n_levels)

    def take(self, rows: np.ndarray) -> FactorRows:
        """The same factor on a subset of the rows; the levels stay."""
        return FactorRows(self.codes[rows], self.Z[rows], self.n_levels)
