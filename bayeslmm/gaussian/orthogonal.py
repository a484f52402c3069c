"""Nearly collinear columns, orthogonalized before they are squared.

Squares and products resolve what is left of a column beside the columns before it only down to
the square root of the machine's precision, rows down to the precision itself.  So where little is
left, the products of the columns tell how to orthogonalize them, roughly, and the rows are
squared again as (X - 1 x0') T with T unit upper triangular: what is left then has all its digits
(Cholesky QR with the factor applied to the rows; Yamamoto et al. 2015, Electron. Trans. Numer.
Anal. 44, 306-326).  T is a change of coordinates of determinant one, undone exactly (see
``coordinates``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .coordinates import unmixed_gram, working_products
from .shift import Shift, inverse_of_unit

if TYPE_CHECKING:
    from .crossproducts import CrossProducts

#: A smaller share of a column's length left beside the columns before it (R^2 of 0.999) is poor.
POOR = 0.03
#: What is left of a squared column below this share is rounding error of the products ...
_UNRESOLVED = 1e-13
#: ... and of a column itself, rounding error of the rows.
_ROUNDING = 1e-11
#: Passes over the rows beyond the first; nearly always one is enough.
_ROUNDS = 3


def well_conditioned(reduce: Callable[[Shift], CrossProducts], shift: Shift) -> CrossProducts:
    """Products of the rows in columns that are not nearly collinear.

    Columns that are combinations of others up to rounding error stay as they are.

    Parameters
    ----------
    reduce : callable
        The products of the rows in the columns of a shift: one pass over the rows.
    shift : Shift
        To begin with.
    """
    plain = cp = reduce(shift)
    if not np.all(np.isfinite(cp.gram)):  # columns too large to be squared, which are refused later
        return plain
    needed = np.zeros(cp.p, dtype=bool)
    for _ in range(_ROUNDS):
        better, poor = _orthogonalized(cp)
        if better is None:
            break
        needed |= poor
        cp = reduce(better)
    rounding = _rounding_only(cp)
    if not np.any(needed & ~rounding):
        return plain
    if not np.any(needed & rounding):
        return cp
    T = cp.shift.mixing.copy()
    T[:, rounding] = np.eye(cp.p)[:, rounding]
    return reduce(cp.shift.mixed(T))


def selected(cp: CrossProducts, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """M (p, k) and T (k, k) with (X - 1 x0') T' M = (X - 1 x0')[:, kept] T, T' that of ``cp``.

    The columns kept are orthogonalized anew: one that is left out may have been what others are
    nearly equal to.
    """
    if cp.shift.T is None:
        return np.eye(cp.p)[:, kept], None
    B = cp.shift.unmixing[:, kept]
    R = np.linalg.qr(np.sqrt(np.diag(cp.gram)[:-2])[:, None] * B, mode="r")
    pivots = np.diag(R)[:, None]
    above = np.divide(R, pivots, out=np.zeros_like(R), where=pivots != 0)
    T = inverse_of_unit(np.triu(above, 1) + np.eye(len(kept)))
    return B @ T, T


def with_coefficient_fixed(cp: CrossProducts, column: int, value: float) -> CrossProducts:
    """Products of [Z, X without a column, y less value times this column, 1].

    Where columns were orthogonalized, y also loses a combination of the columns that stay, which
    only moves their coefficients: beside a nearly equal column the value may be huge, and the
    response must not be.
    """
    kept = np.delete(np.arange(cp.p), column)
    M = np.zeros((cp.p + 2, cp.p + 1))
    M[:-2, :-2], T = selected(cp, kept)
    M[-2, -2] = M[-1, -1] = 1.0
    fixed = -value * cp.shift.unmixing[:, column]
    if T is not None:
        D = np.sqrt(np.diag(cp.gram)[:-2])
        columns = D[:, None] * M[:-2, :-2]
        size = np.linalg.norm(columns, axis=0)
        size[size == 0] = 1.0
        found = np.linalg.lstsq(columns / size, D * fixed, rcond=None)[0]
        fixed = fixed - M[:-2, :-2] @ (found / size)
    M[:-2, -2] = fixed
    y0 = cp.shift.y - value * cp.shift.X[column]
    return cp.combined(M, Shift(cp.shift.X[kept], y0).mixed(T))


def gram_root(gram: np.ndarray) -> np.ndarray:
    """A square R with R'R = gram, gram positive semidefinite."""
    scale = np.sqrt(np.where(np.diag(gram) > 0, np.diag(gram), 1.0))
    values, vectors = np.linalg.eigh(gram / np.outer(scale, scale))
    return np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T * scale


def column_lengths(cp: CrossProducts) -> np.ndarray:
    """Lengths of the columns of X themselves, neither shifted nor mixed, (p,)."""
    G, x0 = unmixed_gram(cp), cp.shift.X
    return np.sqrt(np.maximum(np.diag(G)[:-2] + 2 * x0 * G[-1, :-2] + x0**2 * G[-1, -1], 0.0))


def _rounding_only(cp: CrossProducts) -> np.ndarray:
    """Which columns, as they are squared, are no more than rounding error, (p,)."""
    return np.sqrt(np.maximum(np.diag(cp.gram)[:-2], 0.0)) <= _ROUNDING * column_lengths(cp)


def _orthogonalized(cp: CrossProducts) -> tuple[Shift | None, np.ndarray]:
    """A shift with the columns that have little left orthogonalized, and which these are.

    None where there is nothing to do.
    """
    working = working_products(cp)[0]
    gram = working.gram[:-2, :-2]
    scale = np.sqrt(np.where(np.diag(gram) > 0, np.diag(gram), 1.0))
    poor = np.zeros(cp.p, dtype=bool)
    left = gram / np.outer(scale, scale)
    try:
        if np.diag(np.linalg.cholesky(left)).min(initial=1.0) >= POOR:
            return None, poor
    except np.linalg.LinAlgError:
        pass
    ignored = _rounding_only(cp)
    C = np.eye(cp.p)
    for j in np.flatnonzero(~ignored):
        poor[j] = left[j, j] < POOR**2
        if left[j, j] > _UNRESOLVED:  # the rest of this column is taken out of those after it
            rest = j + 1 + np.flatnonzero(~ignored[j + 1 :])
            share = left[j, rest] / left[j, j]
            C[:, rest] -= np.outer(C[:, j], share)
            left[rest[:, None], rest] -= np.outer(left[rest, j], share)
    if not poor.any():
        return None, poor
    C *= scale / scale[:, None]
    return Shift(working.shift.X, cp.shift.y).mixed(working.shift.mixing @ C), poor
