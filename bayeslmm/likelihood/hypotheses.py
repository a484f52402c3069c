"""Hypothesis matrices of an analysis of variance: types I, II and III, as in lmerTest.

Each is a matrix L with one row per degree of freedom; the term is tested by L beta = 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["marginal_hypotheses", "sequential_hypotheses", "sum_coded_hypotheses"]


def sequential_hypotheses(X: np.ndarray, terms: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Type I: each term after those before it.

    Parameters
    ----------
    X : (n, p) array
        Of full column rank.
    terms : sequence of int arrays
        Columns of each term, in order; together all columns.

    Returns
    -------
    list of (k, p) arrays
        Rows of the triangular factor of X'X with unit diagonals (forward Doolittle): what
        is left of a term's columns after the earlier ones, in terms of beta.
    """
    order = np.concatenate([np.asarray(t, dtype=int) for t in terms])
    R = np.linalg.qr(X[:, order], mode="r")
    unit = R / np.diag(R)[:, None]
    L = np.zeros_like(unit)
    L[:, order] = unit
    out, start = [], 0
    for columns in terms:
        out.append(L[start : start + len(columns)])
        start += len(columns)
    return out


def marginal_hypotheses(
    X: np.ndarray, terms: Sequence[np.ndarray], contained_in: Sequence[Sequence[int]]
) -> list[np.ndarray]:
    """Type II: each term after all terms that do not contain it.

    Parameters
    ----------
    X : (n, p) array
    terms : sequence of int arrays
    contained_in : sequence of sequence of int
        Per term, the positions of the terms that contain it.

    Returns
    -------
    list of (k, p) arrays
    """
    out = []
    for at, columns in enumerate(terms):
        if not contained_in[at]:  # after all others: its own coefficients
            out.append(np.eye(X.shape[1])[columns])
            continue
        before = [t for j, t in enumerate(terms) if j != at and j not in contained_in[at]]
        after = [t for j, t in enumerate(terms) if j in contained_in[at]]
        hypotheses = sequential_hypotheses(X, [*before, columns, *after])
        out.append(hypotheses[len(before)])
    return out


def in_own_coefficients(L: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The same hypothesis with rows that pick out the term's own coefficients one by one.

    Satterthwaite's degrees of freedom of an F test depend on the basis of the rows (the
    eigenvectors of L C L' do); this is the basis lmerTest uses.

    Parameters
    ----------
    L : (k, p) array
    columns : int array
        The term's columns.
    """
    own = L[:, columns]
    if own.shape[0] != own.shape[1] or np.linalg.cond(own) > 1e8:
        return L
    return np.linalg.solve(own, L)


def sum_coded_hypotheses(
    X: np.ndarray, X_sum: np.ndarray, owner: np.ndarray, n_terms: int
) -> list[np.ndarray | None]:
    """Type III: each term's effects under sum-to-zero contrasts are zero.

    Parameters
    ----------
    X : (n, p) array
        The model matrix of the fit, of full column rank.
    X_sum : (n, s) array
        The same space in sum-to-zero columns; rank deficient where cells are empty.
    owner : (s,) int array
        Term of each of its columns.
    n_terms : int

    Returns
    -------
    list of (k, p) arrays or None
        None where the hypothesis cannot be tested because of empty cells.
    """
    scale = np.linalg.norm(X_sum, axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    U, d, Vt = np.linalg.svd(X_sum / scale, full_matrices=False)
    rank = int((d > 1e-9 * d[0]).sum())
    null = Vt[rank:]
    to_sum = (Vt[:rank].T / d[:rank]) @ (U[:, :rank].T @ X) / scale[:, None]
    out: list[np.ndarray | None] = []
    for term in range(n_terms):
        mine = owner == term
        testable = rank == X_sum.shape[1] or np.max(np.abs(null[:, mine]), initial=0.0) < 1e-8
        out.append(to_sum[mine] if testable else None)
    return out
