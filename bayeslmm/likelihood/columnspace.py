"""What the estimated columns of a model matrix say, and what aliased ones leave undetermined."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

__all__ = ["ColumnSpace", "column_space"]

#: Relative to what they are compared with: a root of cross-products has 8 digits.
_GAP, _NOISE = 1e-7, 1e-6


@dataclass(frozen=True)
class ColumnSpace:
    """The space of the columns of X in terms of those that are kept.

    Attributes
    ----------
    kept : (r,) int array
        Linearly independent columns that span the space.
    aliased : (p - r,) int array
        The others.
    R : (r, r) array
        Triangular factor of X[:, kept] / scale.
    scale : (r,) array
        Lengths of the kept columns.
    weights : (r, p - r) array
        X[:, aliased] = X[:, kept] @ weights.
    lengths : (p,) array
        Lengths of all columns.
    """

    kept: np.ndarray
    aliased: np.ndarray
    R: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    lengths: np.ndarray

    @property
    def log_volume(self) -> float:
        """Half the log-determinant of X'X, of the kept columns."""
        return float(np.log(np.abs(np.diag(self.R)) * self.scale).sum())

    def undetermined(self, rows: np.ndarray) -> np.ndarray:
        """Which combinations of the p coefficients depend on how which aliases are resolved.

        A combination is estimable if it vanishes wherever X does: c_j = sum_k w_kj c_k for each
        aliased column j (Searle 1971, Linear Models, section 5.4).

        Parameters
        ----------
        rows : (k, p) array

        Returns
        -------
        (k, p - r) bool array
        """
        rows = np.atleast_2d(rows)
        kept, aliased = rows[:, self.kept], rows[:, self.aliased]
        gap = np.abs(aliased - kept @ self.weights)
        # weights are known up to rounding, which is relative to the columns' lengths
        rounding = np.abs(self.weights) + self.lengths[self.aliased] / self.scale[:, None]
        return gap > _GAP * (np.abs(aliased) + np.abs(kept) @ rounding)

    def estimable(self, rows: np.ndarray) -> np.ndarray:
        """Which combinations do not depend on how aliases are resolved, shape (k,)."""
        return ~self.undetermined(rows).any(axis=1)

    def coordinates(self, directions: np.ndarray) -> np.ndarray:
        """X times `directions` (p, m) as combinations of the kept columns, in their lengths.

        Returns
        -------
        (r, m) array
            Exactly zero where a direction vanishes up to rounding.
        """
        found = directions[self.kept] + self.weights @ directions[self.aliased]
        found = found * self.scale[:, None]
        size = self.lengths @ np.abs(directions)
        return np.where(np.abs(found) > _NOISE * size, found, 0.0)


def column_space(X: np.ndarray, kept: np.ndarray) -> ColumnSpace:
    """The space of the columns of X, of which `kept` are independent and span it.

    Parameters
    ----------
    X : (n, p) array
    kept : int array
    """
    kept = np.asarray(kept, dtype=int)
    aliased = np.setdiff1d(np.arange(X.shape[1]), kept)
    lengths = np.linalg.norm(X, axis=0)
    scale = lengths[kept]
    unit = np.where(lengths[aliased] > 0, lengths[aliased], 1.0)
    columns = np.hstack([X[:, kept] / scale, X[:, aliased] / unit])
    R = np.linalg.qr(columns, mode="r")
    r = len(kept)
    weights = solve_triangular(R[:r, :r], R[:r, r:]) * unit / scale[:, None]
    return ColumnSpace(kept, aliased, R[:r, :r], scale, weights, lengths)
