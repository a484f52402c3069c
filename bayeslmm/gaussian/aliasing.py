"""Columns of X that are linear combinations of the columns before them.

As in R's ``lm`` and lme4: the first columns are kept, later ones are aliased, judged by how much
of a column is left when it is projected off the columns kept so far (LINPACK's dqrdc2).  Unlike
there, what is left is compared with the column less its mean where there is an intercept: a year
or a time stamp is not aliased for being far from zero.
"""

from __future__ import annotations

import numpy as np

from .coordinates import ones_in_span, working_products
from .crossproducts import CrossProducts
from .orthogonal import POOR, column_lengths, gram_root

#: A column is aliased if less than this share of its length is left (R's default), ...
_SHARE = 1e-7
#: ... of its length before its mean is subtracted (what rounded data cannot tell), ...
_DIGITS = 1e-10
#: ... or of its length as it was squared: products resolve half as many digits as rows.
_SQUARED = 1e-6
#: A column that varies by more than this share of its length has digits to spare.
_FAR = 1e-8


def aliased_columns(X: np.ndarray) -> np.ndarray:
    """Indices of aliased columns, from the rows.

    Parameters
    ----------
    X : (n, p) array

    Returns
    -------
    int array, increasing
    """
    return np.flatnonzero(remaining_shares(X) == 0)


def remaining_shares(X: np.ndarray) -> np.ndarray:
    """Share of each column's length that the columns before it leave, from the rows.

    Parameters
    ----------
    X : (n, p) array

    Returns
    -------
    (p,) array, 0 for aliased columns.
    """
    X = np.asarray(X, dtype=float)
    length = np.linalg.norm(X, axis=0)
    return _shares(X, length, _DIGITS * length, np.ones(len(X)))


def plainly_independent(cp: CrossProducts) -> bool:
    """Whether products alone tell that no column is (nearly) a combination of those before it.

    For columns of which the first is the ones, and without weights: the others then are judged less
    their means. False says nothing.
    """
    gram = cp.gram[:-2, :-2]
    spread = np.sqrt(np.diag(gram))
    if cp.shift.T is not None or not np.all(spread > _FAR * column_lengths(cp)):
        return False
    try:
        left = np.diag(np.linalg.cholesky(gram / np.outer(spread, spread)))
    except np.linalg.LinAlgError:
        return False
    return bool(left.min() > POOR)


def remaining_shares_of_products(cp: CrossProducts) -> np.ndarray:
    """As :func:`remaining_shares`, from the cross-products.

    Columns that carry the ones (the intercept) are taken first.
    """
    p = cp.p
    a = ones_in_span(cp)
    support = np.flatnonzero(a) if a is not None else np.zeros(0, dtype=np.int64)
    order = np.concatenate((support, np.setdiff1d(np.arange(p), support)))
    working = working_products(cp)[0]
    gram = working.gram[:p, :p]
    length = column_lengths(cp)[order]
    rows = (gram_root(gram) @ working.shift.unmixing)[:, order]
    rows = np.where(length > 0, rows, 0.0)  # an empty cell's column is 0, not a rounding error
    squared = np.sqrt(np.diag(gram))[order]
    floor = np.maximum(_DIGITS * length, _SQUARED * squared)
    shares = np.empty(p)
    shares[order] = _shares(rows, np.linalg.norm(rows, axis=0), floor)
    return shares


def _shares(X, length, floor, ones=None) -> np.ndarray:
    """What columns leave of those after them, over their lengths; 0 below ``floor``.

    As soon as the columns carry the ``ones``, lengths are those of the columns less their means.
    """
    n, p = X.shape
    basis = np.empty((n, min(n, p)))
    rank, shares, carried = 0, np.zeros(p), False
    for c in range(p):
        column = X[:, c].copy()
        size = np.linalg.norm(column - column.mean()) if carried else length[c]
        for _ in range(2):  # projecting twice is as good as Householder
            column -= basis[:, :rank] @ (basis[:, :rank].T @ column)
        left = np.linalg.norm(column)
        if rank == min(n, p) or not left > max(_SHARE * size, floor[c]):
            continue
        basis[:, rank] = column / left
        if ones is not None and not carried:
            ones = ones - (basis[:, rank] @ ones) * basis[:, rank]
            carried = bool(ones @ ones < 1e-16 * n)
        rank += 1
        shares[c] = left / size
    return shares
