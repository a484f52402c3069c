"""Columns of X that are linear combinations of the columns before them.

As in R's ``lm`` and lme4: the first columns are kept, later ones are aliased, judged by how much
of a column is left when it is projected off the columns kept so far (LINPACK's dqrdc2).
"""

from __future__ import annotations

import numpy as np

from .coordinates import ones_in_span
from .crossproducts import CrossProducts


def aliased_columns(X: np.ndarray, tol: float = 1e-7) -> np.ndarray:
    """Indices of aliased columns, from the rows.

    Parameters
    ----------
    X : (n, p) array
    tol : float
        A column is aliased if less than this share of its length is left (R's default).

    Returns
    -------
    int array, increasing
    """
    X = np.asarray(X, dtype=float)
    n, p = X.shape
    basis = np.empty((n, min(n, p)))
    rank, aliased = 0, []
    for c in range(p):
        column = X[:, c].copy()
        length = np.linalg.norm(column)
        for _ in range(2):  # projecting twice is as good as Householder
            column -= basis[:, :rank] @ (basis[:, :rank].T @ column)
        left = np.linalg.norm(column)
        if rank == min(n, p) or not left > tol * length:
            aliased.append(c)
            continue
        basis[:, rank] = column / left
        rank += 1
    return np.array(aliased, dtype=np.int64)


def detect_aliased(cp: CrossProducts, tol: float = 1e-6) -> np.ndarray:
    """Indices of aliased columns, from the shifted cross-products.

    Cross-products square the condition number, so the tolerance cannot be R's 1e-7; on the other
    hand a covariate far from zero is not mistaken for the intercept, because it is shifted.
    Columns that carry the ones (the intercept) are taken first.

    Returns
    -------
    int array, increasing
    """
    p = cp.p
    a = ones_in_span(cp)
    support = np.flatnonzero(a) if a is not None else np.zeros(0, dtype=np.int64)
    source = cp if a is not None else cp.shifted_to(type(cp.shift)(np.zeros(p), 0.0))
    order = np.concatenate((support, np.setdiff1d(np.arange(p), support)))
    left = source.gram[:p, :p][np.ix_(order, order)].copy()
    length = np.diag(left).copy()
    aliased = []
    for j in range(p):
        if not left[j, j] > tol**2 * length[j]:
            aliased.append(order[j])
            continue
        rest = slice(j + 1, None)
        left[rest, rest] -= np.outer(left[rest, j], left[j, rest]) / left[j, j]
    return np.sort(np.array(aliased, dtype=np.int64))
