"""Separation: directions of the coefficients in which a likelihood never falls off.

Where a combination of predictors tells successes from failures without error, the likelihood grows
for ever along it: a maximum is at infinity, and a flat prior leaves no proper posterior (Albert and
Anderson 1984, Biometrika 71(1)). So it is with counts of zero, and with the first and the last of
ordered categories. Found by linear programming (Konis 2007, PhD thesis, University of Oxford).
"""

from __future__ import annotations

import numpy as np

from bayeslmm.parts.families import Family

__all__ = ["never_falling", "pushes", "separating_direction"]

#: A direction moves rows, of columns of unit size, by this much at least.
_MOVES = 1e-7


def pushes(
    family: Family, y: np.ndarray, trials: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Whether the likelihood of each row never falls as its predictor goes up, or goes down.

    Parameters
    ----------
    family : Family
    y, trials : ndarray, shape (n,)

    Returns
    -------
    up, down : ndarray of bool, shape (n,)
    """
    name, link, nowhere = family.name, family.link.name, np.zeros(len(y), dtype=bool)
    if link in ("identity", "inverse") or not family.discrete:
        return nowhere, nowhere  # the predictor is bounded, or the density vanishes
    if name in ("bernoulli", "binomial"):
        return nowhere if link == "log" else y == (1.0 if trials is None else trials), y == 0
    if name == "ordinal":
        return y == family.n_phi, y == 0
    return nowhere, y == 0


def separating_direction(X: np.ndarray, up: np.ndarray, down: np.ndarray) -> np.ndarray | None:
    """A direction along which the likelihood of no row ever falls, and some row's rises.

    Parameters
    ----------
    X : ndarray, shape (n, k)
    up, down : ndarray of bool, shape (n,)
        As of :func:`pushes`.

    Returns
    -------
    ndarray, shape (k,), or None
        None where there is no such direction.
    """
    sides = up | down
    return never_falling(np.where(up, 1.0, -1.0)[sides, None] * X[sides], X[~sides])


def never_falling(rising: np.ndarray, fixed: np.ndarray) -> np.ndarray | None:
    """A direction d with rising d >= 0, not all of them zero, and fixed d = 0.

    Parameters
    ----------
    rising, fixed : ndarrays, shape (m, k) and (l, k)

    Returns
    -------
    ndarray, shape (k,), or None
    """
    from scipy.optimize import linprog

    both = np.vstack([rising, fixed])
    size = np.abs(both).max(axis=0, initial=0.0)
    size = np.where(size > 0, size, 1.0)
    free = _null_space(fixed / size)
    toward = np.unique(rising / size, axis=0) @ free
    if not toward.size:
        return None
    found = linprog(
        -toward.sum(axis=0), A_ub=-toward, b_ub=np.zeros(len(toward)), bounds=(-1.0, 1.0)
    )
    if found.x is None or (toward @ found.x).max() <= _MOVES:
        return None
    direction = free @ found.x
    return np.where(np.abs(direction) > _MOVES, direction, 0.0) / size


def _null_space(rows: np.ndarray) -> np.ndarray:
    """Orthonormal directions (k, j) that move none of the rows (m, k)."""
    if not len(rows):
        return np.eye(rows.shape[1])
    _, sizes, V = np.linalg.svd(np.linalg.qr(rows, mode="r"))
    rank = int(np.sum(sizes > _MOVES * max(sizes.max(initial=0.0), 1.0)))
    return V[rank:].T
