"""Separation: coefficients that the likelihood sends to infinity, refused by name.

Which directions these are says :mod:`bayeslmm.formula.separation`; thresholds of ordered categories
are coefficients here, and may move.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.errors import DataError, listed
from bayeslmm.formula.separation import never_falling, pushes
from bayeslmm.formula.separation import separating_direction as direction_of

if TYPE_CHECKING:
    from bayeslmm.laplace.system import ResponseSystem

__all__ = ["refuse_separated", "separating_direction"]


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
    up, down = pushes(system.family, system.y, system.trials)
    if np.array_equal(up, down):
        return True
    phi, beta = system.no_effects
    slopes = system.slopes(system.offset + system.X @ beta, phi)
    w = -slopes[2]
    if not np.all(w > 0):
        return False
    root = np.sqrt(w)
    Q = np.linalg.qr(root[:, None] * system.X)[0]
    score = np.linalg.norm(Q.T @ (slopes[1] / root))
    return bool(score * np.sqrt(w.sum()) < np.abs(slopes[1][up != down]).min())


def separating_direction(system: ResponseSystem) -> np.ndarray | None:
    """Signs (p,) of the coefficients that go to infinity together; None where none does.

    Parameters
    ----------
    system : ResponseSystem
    """
    if system.family.name == "ordinal":
        rising = _ordinal_rows(system.X, system.y.astype(int), system.family.n_phi)
        direction = never_falling(rising, rising[:0])
    else:
        ways = pushes(system.family, system.y, system.trials)
        direction = direction_of(system.X, *ways)
    return None if direction is None else np.sign(direction[: system.p])


def _ordinal_rows(X: np.ndarray, y: np.ndarray, n_thresholds: int) -> np.ndarray:
    """Rows (..., p + n_thresholds) that may not fall: from the threshold above a category to the
    linear predictor, and from there to the threshold below.
    """
    thresholds = np.eye(n_thresholds)
    low, high = y < n_thresholds, y > 0
    above = np.hstack([-X[low], thresholds[y[low]]])
    below = np.hstack([X[high], -thresholds[y[high] - 1]])
    return np.vstack([above, below])
