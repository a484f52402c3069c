"""Separation: coefficients that the likelihood sends to infinity.

A direction d of the coefficients in which no row's probability falls and some row's rises forever
leaves the likelihood without a maximum (Albert & Anderson 1984, Biometrika 71(1)). Whether there
is one is a linear program (Konis 2007, Linear programming algorithms for detecting separated data
in binary logistic regression models, Oxford): maximize the sum of s_i x_i'd under s_i x_i'd >= 0,
s_i the sign in which row i rises, x_i'd = 0 for rows with a maximum of their own, |d| <= 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.errors import DataError, listed

if TYPE_CHECKING:
    from bayeslmm.laplace.system import ResponseSystem

__all__ = ["refuse_separated", "separating_direction"]

#: An entry of a direction, of columns of unit size, that is not zero.
_MOVES = 1e-7
#: Links with a limit at both ends, and at the lower end alone.
_BOTH_ENDS, _COUNTS = ("logit", "probit", "cloglog"), ("log",)


def refuse_separated(system: ResponseSystem, names: Sequence[str], response: str) -> None:
    """Refuse data whose likelihood has no maximum in the coefficients.

    Parameters
    ----------
    system : ResponseSystem
    names : sequence of str
        Of the coefficients.
    response : str

    Raises
    ------
    DataError
        Naming the coefficients.
    """
    if not system.p or _surely_overlaps(system):
        return
    direction = separating_direction(system)
    if direction is None:
        return
    moving = [
        f"{name} goes to {'plus' if d > 0 else 'minus'} infinity"
        for name, d in zip(names, direction, strict=True)
        if d != 0
    ]
    if not moving:
        return
    raise DataError(
        f"The predictors separate the values of {response!r}: the likelihood grows forever as "
        f"{listed(moving)}, so that there are no maximum likelihood estimates. A group of rows "
        "with one outcome only is often why. Use model.fit(), whose priors keep coefficients "
        "finite, drop the term, or merge its categories."
    )


def _surely_overlaps(system: ResponseSystem) -> bool:
    """Whether the model without effects has a maximum, by its score.

    Along a separating direction whose largest |x_i'd| is 1, the score is at least the smallest
    slope of a row that rises, and at most the score's size where X has orthonormal columns under
    the weights times the root of the weights' sum.
    """
    if system.family.name == "ordinal":
        return False
    signs = _signs(system)
    if not np.any(signs):
        return True
    phi, beta = system.no_effects
    slopes = system.slopes(system.offset + system.X @ beta, phi)
    w = -slopes[2]
    if not np.all(w > 0):
        return False
    root = np.sqrt(w)
    Q = np.linalg.qr(root[:, None] * system.X)[0]
    score = np.linalg.norm(Q.T @ (slopes[1] / root))
    return bool(score * np.sqrt(w.sum()) < np.abs(slopes[1][signs != 0]).min())


def separating_direction(system: ResponseSystem) -> np.ndarray | None:
    """Signs (p,) of the coefficients that go to infinity together; None where none does.

    Parameters
    ----------
    system : ResponseSystem
    """
    from scipy.optimize import linprog

    size = np.sqrt(np.mean(system.X**2, axis=0))
    X = system.X / np.where(size > 0, size, 1.0)
    if system.family.name == "ordinal":
        rising, fixed = _ordinal_rows(X, system.y.astype(int), system.family.n_phi), X[:0]
    else:
        signs = _signs(system)
        rising, fixed = (signs[:, None] * X)[signs != 0], X[signs == 0]
    if not len(rising):
        return None
    rising, fixed = np.unique(rising, axis=0), np.unique(fixed, axis=0)
    width = rising.shape[1]
    found = linprog(
        -rising.sum(axis=0),
        A_ub=-rising,
        b_ub=np.zeros(len(rising)),
        A_eq=fixed if len(fixed) else None,
        b_eq=np.zeros(len(fixed)) if len(fixed) else None,
        bounds=[(-1.0, 1.0)] * width,
        method="highs",
    )
    if found.x is None or -found.fun <= _MOVES:
        return None
    d = found.x[: system.p]
    return np.where(np.abs(d) > _MOVES, np.sign(d), 0.0)


def _signs(system: ResponseSystem) -> np.ndarray:
    """(n,) 1, -1 or 0 for a row that rises forever with its linear predictor, falls, or neither."""
    family, y, link = system.family, system.y, system.family.link.name
    if family.name in ("bernoulli", "binomial") and link in _BOTH_ENDS:
        return (y == system.trials).astype(float) - (y == 0)
    counts = "poisson" in family.name or "negativebinomial" in family.name
    if counts and link in _COUNTS:
        return -(y == 0).astype(float)
    return np.zeros(len(y))


def _ordinal_rows(X: np.ndarray, y: np.ndarray, n_thresholds: int) -> np.ndarray:
    """Rows (..., p + n_thresholds) that may not fall: from the threshold above a category to the
    linear predictor, and from there to the threshold below.
    """
    thresholds = np.eye(n_thresholds)
    low, high = y < n_thresholds, y > 0
    above = np.hstack([-X[low], thresholds[y[low]]])
    below = np.hstack([X[high], -thresholds[y[high] - 1]])
    return np.vstack([above, below])
