"""The columns whose products are kept, as a map of the user's columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

#: So few columns are faster one by one: numpy goes along the rows.
_FEW = 16


@dataclass(frozen=True)
class Shift:
    """The columns that are squared: X - 1 x' and y - y0.

    Attributes
    ----------
    X : (p,) array
    y : float
    T : None
        Columns are not mixed; see :class:`MixedShift`.
    """

    X: np.ndarray
    y: float
    if TYPE_CHECKING:  # no field of this class, one of MixedShift

        @property
        def T(self) -> np.ndarray | None: ...
    else:
        T = None

    @classmethod
    def pilot(cls, y: np.ndarray, X: np.ndarray) -> Shift:
        """Means, except of constant and of -1/0/1 columns, which have no digits to lose."""
        x0 = np.zeros(X.shape[1])
        if len(y) == 0:
            return cls(x0, 0.0)
        for c, column in enumerate(X.T):
            low, high = column.min(), column.max()
            if low < high and (
                low < -1 or high > 1 or np.any((column != 0.0) & (np.abs(column) != 1.0))
            ):
                x0[c] = column.mean()
        return cls(x0, float(y.mean()))

    @property
    def mixing(self) -> np.ndarray:
        """T, written out."""
        return np.eye(len(self.X)) if self.T is None else self.T

    @property
    def unmixing(self) -> np.ndarray:
        """The inverse of T."""
        return np.eye(len(self.X)) if self.T is None else inverse_of_unit(self.T)

    def applied(self, y: np.ndarray, X: np.ndarray) -> np.ndarray:
        """[(X - 1 x') T, y - y0, 1], shape (n, p + 2)."""
        R = np.empty((len(y), X.shape[1] + 2))
        if X.shape[1] < _FEW:
            for c, shift in enumerate(self.X):
                np.subtract(X[:, c], shift, out=R[:, c])
        else:
            np.subtract(X, self.X, out=R[:, :-2])
        if self.T is not None:
            R[:, :-2] = R[:, :-2] @ self.T
        np.subtract(y, self.y, out=R[:, -2])
        R[:, -1] = 1.0
        return R

    def same_as(self, other: Shift) -> bool:
        """Whether both make the same columns."""
        same = self.y == other.y and np.array_equal(self.X, other.X)
        if self.T is None or other.T is None:
            return same and self.T is other.T
        return same and np.array_equal(self.T, other.T)

    def mixed(self, T: np.ndarray | None) -> Shift:
        """With T in place of this one's."""
        return Shift(self.X, self.y) if T is None else MixedShift(self.X, self.y, T)


@dataclass(frozen=True)
class MixedShift(Shift):
    """The columns that are squared: (X - 1 x') T and y - y0.

    A class of its own: what knows shifts only must not read it as one.

    Attributes
    ----------
    T : (p, p) array
        Unit upper triangular.
    """

    T: np.ndarray


def inverse_of_unit(T: np.ndarray) -> np.ndarray:
    """Inverse of a unit upper triangular matrix.

    Column by column: threads of a BLAS call would cost more than all of it.
    """
    inverse = np.eye(len(T))
    for j in range(1, len(T)):
        inverse[:j, j] = -(inverse[:j, :j] @ T[:j, j])
    return inverse
