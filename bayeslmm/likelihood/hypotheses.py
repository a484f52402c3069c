"""Hypothesis matrices of an analysis of variance: types I, II and III.

Each is a matrix L with one row per degree of freedom; the term is tested by L beta = 0. A
hypothesis is about spaces of functions (what a term adds to others), so that it does not depend
on the columns that code them. Only the basis of its rows does: Satterthwaite's degrees of freedom
of an F test depend on it (on the eigenvectors of L C L'), and it is lmerTest's wherever a term's
columns are all its own; otherwise one that no coding enters.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import solve_triangular

from bayeslmm.likelihood.columnspace import ColumnSpace

__all__ = ["after_all_others", "after_some", "annihilator", "of_means", "span"]

_RANK = 1e-6


def span(H: np.ndarray, within: np.ndarray | None = None) -> np.ndarray:
    """Orthonormal basis (r, k) of the columns of H (r, m), or of what `within` lacks of them.

    Parameters
    ----------
    H : (r, m) array
        Directions in the coordinates of a :class:`ColumnSpace`.
    within : (r, b) array, optional
        Orthonormal basis of a space to leave out.
    """
    H = H[:, np.abs(H).max(axis=0, initial=0.0) > 0]
    if not H.size:
        return np.empty((len(H), 0))
    H = H / np.linalg.norm(H, axis=0)
    if within is not None:
        for _ in range(2):
            H = H - within @ (within.T @ H)
    U, d, _ = np.linalg.svd(H, full_matrices=False)
    return U[:, d > _RANK]


def after_some(
    columns: ColumnSpace, before: np.ndarray, H: np.ndarray, own: np.ndarray
) -> np.ndarray:
    """What a term adds to others is zero, whatever comes after: types I and II.

    Parameters
    ----------
    columns : ColumnSpace
    before : (r, b) array
        Orthonormal basis of the space of the others.
    H : (r, m) array
        The term's space.
    own : int array
        The term's columns among the kept ones.

    Returns
    -------
    (k, r) array
        Rows Q'X with Q a basis of the mean's part in H orthogonal to the others. Where the
        term's own columns are such a part they are those of the triangular factor of X'X with
        unit diagonals (forward Doolittle), as in lmerTest.
    """
    R, added = columns.R, span(H, before)
    k = added.shape[1]
    mine = np.eye(len(R))[:, own]
    as_columns = len(own) == k and span(mine, before).shape[1] == k
    part = R @ (mine if as_columns else added)
    Q = np.linalg.qr(R @ before)[0]
    for _ in range(2):
        part = part - Q @ (Q.T @ part)
    Q, T = np.linalg.qr(part)
    rows = (Q.T @ R) * columns.scale
    return rows / (np.diag(T) * columns.scale[own])[:, None] if as_columns else rows


def after_all_others(columns: ColumnSpace, others: np.ndarray, own: np.ndarray) -> np.ndarray:
    """What a term adds to all others is zero: types II and III of a term no other contains.

    Parameters
    ----------
    columns : ColumnSpace
    others : (r, m) array
        The spaces of the other terms. Kept columns that are not the term's own are in them.
    own : int array
        The term's columns among the kept ones.

    Returns
    -------
    (k, r) array
        The term's own coefficients, or the combinations of them that the others leave alone.
    """
    shared = span(others[own])
    if not shared.shape[1]:
        return np.eye(len(columns.R))[own]
    free = span(np.eye(len(own)), shared)
    rows = np.zeros((free.shape[1], len(columns.R)))
    rows[:, own] = free.T
    return _standard(columns, rows * columns.scale)


def of_means(
    columns: ColumnSpace, means: np.ndarray, contrasts: np.ndarray, own: np.ndarray
) -> np.ndarray | None:
    """Contrasts of means over equally weighted cells are zero: type III.

    Parameters
    ----------
    columns : ColumnSpace
    means : (m, p) array
        Coefficients' weights in each mean.
    contrasts : (m, c) array
    own : int array
        The term's columns among the kept ones.

    Returns
    -------
    (k, r) array, or None
        None where a contrast is not estimable, because cells are empty.
    """
    L = contrasts.T @ means
    L = L[np.abs(L).max(axis=1, initial=0.0) > 1e-12]
    if not columns.estimable(L).all():
        return None
    rows = span((L[:, columns.kept] / columns.scale).T).T * columns.scale
    square = rows[:, own] / columns.scale[own]
    if square.shape[0] == square.shape[1] and np.linalg.cond(square) < 1e8:
        return np.linalg.solve(rows[:, own], rows)
    return _standard(columns, rows)


def annihilator(indicators: np.ndarray) -> np.ndarray:
    """Orthonormal contrasts (m, c) that sum to zero over every group of the m cells.

    Parameters
    ----------
    indicators : (m, g) array
    """
    return span(np.eye(len(indicators)), span(indicators))


def _standard(columns: ColumnSpace, rows: np.ndarray) -> np.ndarray:
    """The same hypothesis with rows that are orthonormal in (X'X)^-1, whatever the coding."""
    whitened = solve_triangular(columns.R, (rows / columns.scale).T, trans="T")
    return (np.linalg.qr(whitened)[0].T @ columns.R) * columns.scale
