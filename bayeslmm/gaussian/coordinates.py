"""From shifted columns back to the user's coefficients, without losing what the shift saved.

Cross-products are kept of X - 1 x0' and y - y0.  When the column of ones is in the span of the
columns, 1 = X_c a, both shifts are a mere change of coordinates of the fixed effects,

    y - X beta = (y - y0) - (X - 1 x0') gamma,     gamma = beta + a (x0'beta - y0),

and everything is computed in gamma.  Without an intercept the shift is undone in the products.
Columns that were mixed as well, (X - 1 x0') T, have T^-1 gamma for gamma.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .shift import Shift

if TYPE_CHECKING:
    from .crossproducts import CrossProducts


@dataclass(frozen=True)
class Coordinates:
    """The affine map gamma = G beta + g between user and computing coordinates.

    Attributes
    ----------
    G, G_inverse : (p, p) arrays
        |det G| = 1.
    offset : (p,) array
        g.
    """

    G: np.ndarray
    G_inverse: np.ndarray
    offset: np.ndarray

    @classmethod
    def identity(cls, p: int) -> Coordinates:
        """Coefficients as they are computed with."""
        return cls(np.eye(p), np.eye(p), np.zeros(p))

    def to_user(self, gamma: np.ndarray) -> np.ndarray:
        """beta from gamma; leading axes of ``gamma`` are draws."""
        return (gamma - self.offset) @ self.G_inverse.T

    def from_user(self, beta: np.ndarray) -> np.ndarray:
        """gamma from beta; leading axes of ``beta`` are draws."""
        return beta @ self.G.T + self.offset

    def covariance_to_user(self, covariance: np.ndarray) -> np.ndarray:
        """Cov(beta) from Cov(gamma)."""
        return self.G_inverse @ covariance @ self.G_inverse.T

    def root_to_user(self, covariance: np.ndarray) -> np.ndarray | None:
        """W with Cov(beta) = W W', from Cov(gamma); None where that is not positive definite.

        |c'W|^2 keeps the digits that c'Cov(beta)c loses where columns are nearly collinear.
        """
        if not (np.all(np.isfinite(covariance)) and np.all(np.diag(covariance) > 0)):
            return None
        sd = np.sqrt(np.diag(covariance))
        try:
            root = np.linalg.cholesky(covariance / np.outer(sd, sd))
        except np.linalg.LinAlgError:
            return None
        return self.G_inverse @ (sd[:, None] * root)

    def information_to_user(self, information: np.ndarray) -> np.ndarray:
        """X'AX in user columns from the shifted columns (last two axes)."""
        return self.G.T @ information @ self.G


def ones_in_span(cp: CrossProducts) -> np.ndarray | None:
    """Coefficients a with (X - 1 x0') a = 1, or None.

    The support of ``a`` is on columns that were not shifted (an intercept, or the indicators of
    a full set of cells), so that G has determinant one.
    """
    p = cp.p
    total = cp.gram[-1, -1]
    if p == 0 or total <= 0:
        return None
    G = unmixed_gram(cp)
    unshifted = np.flatnonzero(cp.shift.X == 0)
    diagonal, sums = G.diagonal()[unshifted], G[-1, unshifted]
    constant = unshifted[(sums**2 >= (1 - 1e-13) * diagonal * total) & (sums != 0)]
    if len(constant):
        a = np.zeros(p)
        a[constant[0]] = _snap(total / G[-1, constant[0]])
        return a
    if not len(unshifted):
        return None
    scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    scaled = G[np.ix_(unshifted, unshifted)] * scale * scale[:, None]
    solution = np.linalg.lstsq(scaled, sums * scale, rcond=1e-11)[0] * scale
    full = np.append(np.zeros(p + 1), -1.0)
    full[unshifted] = _snap(solution)
    return full[:p] if abs(full @ G @ full) <= 1e-12 * total else None


def _snap(a: np.ndarray) -> np.ndarray:
    """Whole numbers where rounding has blurred them: the shift is multiplied by these."""
    return np.where(np.abs(a - np.round(a)) < 1e-9, np.round(a), a)


def working_products(cp: CrossProducts) -> tuple[CrossProducts, Coordinates]:
    """Cross-products to compute with, and the way back to the user's coefficients."""
    p, T, inverse = cp.p, cp.shift.mixing, cp.shift.unmixing
    a = ones_in_span(cp)
    if a is None:
        plain = cp.shifted_to(Shift(np.zeros(p), 0.0).mixed(cp.shift.T))
        return plain, Coordinates(inverse, T, np.zeros(p))
    # x0'a = 0 because a is supported on unshifted columns: the inverse is the opposite shift.
    shear = np.outer(a, cp.shift.X)
    G, G_inverse = np.eye(p) + shear, np.eye(p) - shear
    if cp.shift.T is None:
        return cp, Coordinates(G, G_inverse, -cp.shift.y * a)
    return cp, Coordinates(inverse @ G, G_inverse @ T, -cp.shift.y * (inverse @ a))


def unmixed_gram(cp: CrossProducts) -> np.ndarray:
    """[X y 1]'W[X y 1] with X and y shifted and no more, (p + 2, p + 2)."""
    if cp.shift.T is None:
        return cp.gram
    M = np.eye(cp.p + 2)
    M[:-2, :-2] = cp.shift.unmixing
    return M.T @ cp.gram @ M
