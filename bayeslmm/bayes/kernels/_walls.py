"""Effects kept where the linear predictor is that of a mean: (0, 1) of probabilities, and so on.

Where a link gives means at a part of the line only, such as the identity link of probabilities,
the density of a row ends at a wall, in many rows without falling before: a 0 is most likely right
there. A level's intercept u, in units of its standard deviation F, moves all rows of the level
alike, so that there is one distance m from the nearest row to the wall, and whatever the other
parameters are the wall is at one u. With a width k (in u) and r = m / (F k) the coordinate is bent:

    m = F k h(r),   h(r) = erfc(sqrt(pi) (1 - r) / 2)  where r < 1,   r elsewhere,

which is twice continuously differentiable and increases from 0, h'(r) = exp(-pi (1 - r)^2 / 4).
log h' belongs to the density of u; nothing is approximated, and a posterior that is cut off at the
wall becomes one with a normal tail. Nothing is divided by F but distances, which vanishing effects
leave where they are.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from bayeslmm.compiling import Doubles, kernel

__all__ = ["Walls", "pull_inside", "step_inside"]

_ROOT, _QUARTER = 0.5 * math.sqrt(math.pi), 0.25 * math.pi


class Walls(NamedTuple):
    """Where the linear predictor ends, and which effect bends away from there.

    Attributes
    ----------
    ends : (2,) array
        Of the range of the linear predictor, perhaps infinite.
    width : array
        k of each level of the first factor that has rows; empty where nothing is bent.
    effect : int
        Place of the intercept among the effects of a level.
    at : int
        Position of its standard deviation in the flat factors.
    """

    ends: Doubles
    width: Doubles
    effect: int
    at: int


@kernel
def step_inside(rows, walls, F, u, b, eta, r, nearest):
    """Log Jacobian; bends u, with b and eta, in place.

    Parameters
    ----------
    rows : Rows
    walls : Walls
    F : flat factors
    u, b : (N,) arrays
    eta : (n,) array
    r, nearest : (2, J) array and int array
        Receive the distance from either end, 1 where that is far, and the row it is of.
    """
    f, total = F[walls.at], 0.0
    size = abs(f)
    r[:], nearest[:] = 1.0, 0
    for j in range(walls.width.shape[0]):
        low, high = rows.starts[j], rows.starts[j + 1]
        at = rows.first[0, low] + walls.effect
        for side in range(2):
            wall, way = walls.ends[side], 1.0 - 2.0 * side
            if not np.isfinite(wall):
                continue
            distance, unit, row = np.inf, size * walls.width[j], low
            for i in range(low, high):
                own = way * (eta[i] - wall)
                if own < distance:
                    distance, row = own, i
            if distance >= unit:
                continue
            if unit == 0.0:
                return -np.inf
            x = distance / unit
            bent = math.erfc(_ROOT * (1.0 - x))
            for i in range(low, high):  # so that no rounding leads out again
                eta[i] = wall + way * ((way * (eta[i] - wall) - distance) + unit * bent)
            move = way * walls.width[j] * (bent - x)
            move = move if f > 0.0 else -move
            u[at] += move
            b[at] += f * move
            r[side, j], nearest[side, j] = x, row
            total -= _QUARTER * (1.0 - x) ** 2
    return total


@kernel
def pull_inside(rows, walls, F, d_u, r, nearest, score, d_F):
    """Derivatives back through :func:`step_inside`, that of the log Jacobian included.

    Parameters
    ----------
    rows, walls, F, r, nearest
        As :func:`step_inside` leaves them.
    d_u : (N,) array
        Derivatives of the density of effects in u, at u as it is left.
    score : (n,) array
        Derivatives in eta; become those in eta as it was.
    d_F : flat factors
        Added to: what F changes at given u and b.
    """
    f = F[walls.at]
    sign = 1.0 if f > 0.0 else -1.0
    for j in range(walls.width.shape[0]):
        low, high = rows.starts[j], rows.starts[j + 1]
        at, width = rows.first[0, low] + walls.effect, walls.width[j]
        for side in range(1, -1, -1):
            x, way = r[side, j], sign * (1.0 - 2.0 * side)
            if x >= 1.0:
                continue
            total, bend = 0.0, 1.0 - x
            for i in range(low, high):
                total += score[i]
            slope = math.exp(-_QUARTER * bend * bend) - 1.0
            d_x = way * (f * total + d_u[at]) * width * slope + 2.0 * _QUARTER * bend
            d_F[walls.at] += total * way * width * (math.erfc(_ROOT * bend) - x) - d_x * x / f
            score[nearest[side, j]] += way * d_x / (f * width)
