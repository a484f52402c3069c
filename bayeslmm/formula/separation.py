"""Separation: directions of the coefficients in which a likelihood never falls off.

Where a combination of predictors tells successes from failures without error, the likelihood grows
for ever along it: a maximum is at infinity, and a flat prior leaves no proper posterior (Albert and
Anderson 1984, Biometrika 71(1)). So it is with counts of zero, and with the first and the last of
ordered categories. Found by linear programming (Konis 2007, PhD thesis, University of Oxford).
"""

from __future__ import annotations

import numpy as np

from bayeslmm.formula.design import Design

__all__ = ["pushes", "separating_direction"]

#: A direction moves rows by this much of its size at least.
_MOVES = 1e-7
_UP, _DOWN = 1.0, -1.0


def pushes(design: Design) -> tuple[np.ndarray, np.ndarray]:
    """Whether the likelihood of each row stays above zero as its predictor goes up, or down.

    Returns
    -------
    up, down : ndarray of bool, shape (n,)
    """
    name, link, y = design.family.name, design.family.link.name, design.y
    up = down = np.zeros(len(y), dtype=bool)
    if link in ("identity", "inverse"):  # a bounded predictor, or densities that vanish
        return up, down
    if name in ("bernoulli", "binomial"):
        trials = 1.0 if design.trials is None else design.trials
        return (up if link == "log" else y == trials), y == 0
    if name == "ordinal":
        return y == len(design.categories) - 1, y == 0
    if design.family.discrete:  # an extra zero needs no small mean
        return (y == 0 if name.startswith("zero_inflated") else up), y == 0
    return up, down


def separating_direction(design: Design, columns: np.ndarray | None = None) -> np.ndarray | None:
    """A direction along which the likelihood of no row vanishes, and some row moves.

    Parameters
    ----------
    design : Design
        Random effects are not looked at; thresholds move together.
    columns : ndarray, shape (n, k), optional
        Of the coefficients that may move; all by default.

    Returns
    -------
    ndarray, shape (k,), or None
        Signed by the way of the predictor; None where there is no such direction.
    """
    from scipy.optimize import linprog

    X = design.columns_of_location if columns is None else columns
    up, down = pushes(design)
    if not X.shape[1] or not (up.any() or down.any()):
        return None
    size = np.abs(X).max(axis=0)
    X = X / np.where(size > 0, size, 1.0)
    one_sided = up != down
    free = _null_space(X[~(up | down)])
    toward = np.unique(np.where(up, _UP, _DOWN)[one_sided, None] * X[one_sided], axis=0) @ free
    if not toward.size:
        return None
    found = linprog(
        -toward.sum(axis=0), A_ub=-toward, b_ub=np.zeros(len(toward)), bounds=(-1.0, 1.0)
    )
    if found.x is None or (toward @ found.x).max() <= _MOVES:
        return None
    direction = free @ found.x
    direction = np.where(np.abs(direction) > _MOVES, direction, 0.0)
    direction = direction / np.where(size > 0, size, 1.0)
    return direction[X.shape[1] - len(design.coef_names) :] if columns is None else direction


def _null_space(rows: np.ndarray) -> np.ndarray:
    """Orthonormal directions (p, k) that move none of the rows."""
    p = rows.shape[1]
    if not len(rows):
        return np.eye(p)
    root = np.linalg.qr(rows, mode="r")
    _, sizes, V = np.linalg.svd(root)
    rank = int(np.sum(sizes > _MOVES * max(sizes.max(initial=0.0), 1.0)))
    return V[rank:].T
