"""The search of ``optimize`` for the profiled criterion, compiled: descent and small matrices.

The same coordinates, starts and stopping rules, so that both end at the same optimum. Quasi-Newton
with the whole inverse Hessian (Nocedal and Wright 2006, Numerical Optimization, algorithm 6.1) in
place of limited memory: there are few covariance parameters.

The criterion (``_evaluation``) is called through a pointer: numba would otherwise compile all of
its elimination again into each of the functions here, which takes a minute.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bayeslmm.compiling import Doubles, Integers, kernel
from bayeslmm.gaussian._levels import dot
from bayeslmm.likelihood.thresholds import (
    MOST_ITERATIONS,
    SMALLEST_CHANGE,
    SMALLEST_SLOPE,
    TENDS_TO_ZERO,
)

#: A line search that takes more evaluations has failed.
_MOST_TRIALS = 30
#: Rounding of the criterion: a step may seem to rise by this share of it.
_ROUNDING = 1e-14


class Criterion(NamedTuple):
    """A criterion and the coordinates it is searched in.

    Free entries of a correlated block are its lower triangle column by column, block after block.

    Attributes
    ----------
    table : int array
        Addresses of an ``_evaluation.Profiled``.
    theta_index : (r,) int array
    unit : (r,) array
        Typical change of each entry.
    size : (r,) array
        Root of the number of levels behind each entry.
    block_q : (blocks,) int array
        Effects in each correlated block.
    room : array
        Where ``evaluate`` writes.
    counted : (1,) int array
        Evaluations so far.
    """

    table: Integers
    theta_index: Integers
    unit: Doubles
    size: Doubles
    block_q: Integers
    room: Doubles
    counted: Integers


#: What ``evaluate`` is asked for.
VALUE, GRADIENT, COVARIANCES, ESTIMATES = 0, 1, 2, 3


@kernel
def taken(x, n):
    """A copy of the first n numbers. (Slices would take numba a second to compile.)"""
    out = np.empty(n)
    for i in range(n):
        out[i] = x[i]
    return out


@kernel
def value_at(c, f, theta):
    """The criterion; infinite where it cannot be evaluated."""
    c.counted[0] += 1
    value = f(c.table, theta, c.room, VALUE)
    return value if np.isfinite(value) else np.inf


@kernel
def slope_at(c, f, theta):
    """The criterion and its gradient."""
    c.counted[0] += 1
    value = f(c.table, theta, c.room, GRADIENT)
    return value, taken(c.room, theta.shape[0])


@kernel
def _slope_in(c, f, z, exponential, theta, gradient):
    """The criterion at coordinates z, its gradient in z, and theta; infinite where it fails."""
    for i in range(z.shape[0]):
        if exponential:
            theta[i] = c.unit[i] * np.exp(min(max(z[i] / c.size[i], -40.0), 40.0))
        else:
            theta[i] = z[i] * c.unit[i]
    value, slope = slope_at(c, f, theta)
    finite = np.isfinite(value)
    for i in range(z.shape[0]):
        gradient[i] = slope[i] * (theta[i] / c.size[i] if exponential else c.unit[i])
        finite = finite and np.isfinite(gradient[i])
    return value if finite else np.inf


@kernel
def _between(low, f_low, d_low, high, f_high, d_high):
    """Where the cubic through two points with their slopes is lowest, well inside."""
    width = high - low
    if not np.isfinite(f_high):
        return low + 0.2 * width
    a = d_low + d_high - 3.0 * (f_high - f_low) / width
    root = a * a - d_low * d_high
    at = 0.5
    if root >= 0.0:
        root = np.sqrt(root)
        bottom = d_high - d_low + 2.0 * root
        if bottom != 0.0:
            at = 1.0 - (d_high + root - a) / bottom
    return low + min(max(at, 0.1), 0.9) * width


@kernel
def _steepest(gradient):
    """The largest slope."""
    out = 0.0
    for i in range(gradient.shape[0]):
        out = max(out, abs(gradient[i]))
    return out


@kernel
def _minimize(c, f, z, exponential):
    """Descent from z (in place); theta and the criterion there, infinite if that has none."""
    r = z.shape[0]
    theta, gradient = np.empty(r), np.empty(r)
    point, new_gradient, step, change = np.empty(r), np.empty(r), np.empty(r), np.empty(r)
    value = _slope_in(c, f, z, exponential, theta, gradient)
    H = np.zeros((r, r))
    fresh = True
    if not np.isfinite(value):
        return theta, value
    for _ in range(MOST_ITERATIONS):
        if _steepest(gradient) <= SMALLEST_SLOPE:
            break
        down = 0.0
        if not fresh:
            for i in range(r):
                step[i] = 0.0
                for j in range(r):
                    step[i] -= H[i, j] * gradient[j]
            down = dot(step, gradient)
        if not down < 0.0:
            fresh = True
            for i in range(r):
                step[i] = -gradient[i]
            down = dot(step, gradient)
        t = min(1.0, 1.0 / np.sqrt(-down)) if fresh else 1.0
        low, f_low, d_low = 0.0, value, down
        high, f_high, d_high = np.inf, np.inf, 0.0
        slack = _ROUNDING * (1.0 + abs(value))
        found = False
        new = value
        for _trial in range(_MOST_TRIALS):
            for i in range(r):
                point[i] = z[i] + t * step[i]
            new = _slope_in(c, f, point, exponential, theta, new_gradient)
            d = dot(new_gradient, step) if np.isfinite(new) else 0.0
            if not new <= value + 1e-4 * t * down + slack:
                high, f_high, d_high = t, new, d
            elif abs(d) <= -0.9 * down:
                found = True
                break
            elif d < 0.0:
                ahead = 4.0 * t
                if d > d_low:  # where the slope would vanish if it went on like this
                    ahead = min(max(t + (t - low) * d / (d_low - d), 1.5 * t), ahead)
                low, f_low, d_low = t, new, d
                if high == np.inf:
                    t = ahead
                    continue
            else:
                high, f_high, d_high = t, new, d
            t = _between(low, f_low, d_low, high, f_high, d_high)
        if not found:
            if fresh:
                break
            fresh = True
            continue
        for i in range(r):
            step[i] = point[i] - z[i]
            change[i] = new_gradient[i] - gradient[i]
            z[i] = point[i]
            gradient[i] = new_gradient[i]
        done = value - new <= SMALLEST_CHANGE * max(abs(value), abs(new), 1.0)
        value = new
        if done:
            break
        if _update(H, step, change, fresh):
            fresh = False
    if not fresh:  # one more step where the criterion is flat to rounding: digits of theta
        for i in range(r):
            point[i] = z[i]
            for j in range(r):
                point[i] -= H[i, j] * gradient[j]
        new = _slope_in(c, f, point, exponential, theta, new_gradient)
        slack = _ROUNDING * (1.0 + abs(value))
        if new <= value + slack and _steepest(new_gradient) < _steepest(gradient):
            return theta, new
    value = _slope_in(c, f, z, exponential, theta, gradient)
    return theta, value


@kernel
def _update(H, step, change, fresh):
    """The inverse Hessian after a step, by BFGS, and whether it could be made.

    The first is that of a multiple of the unit matrix of the right size.
    """
    r = step.shape[0]
    product, length = dot(step, change), dot(change, change)
    if not product > 2.3e-16 * length:
        return False
    if fresh:
        for i in range(r):
            for j in range(r):
                H[i, j] = product / length if i == j else 0.0
    moved = np.zeros(r)
    for i in range(r):
        for j in range(r):
            moved[i] += H[i, j] * change[j]
    inner = (1.0 + dot(change, moved) / product) / product
    for i in range(r):
        for j in range(r):
            both = moved[i] * step[j] + step[i] * moved[j]
            H[i, j] += inner * step[i] * step[j] - both / product
    return True


@kernel
def descend(c, f, start):
    """See ``optimize.ProfiledSearch.descend``: log standard deviations first, then entries of L."""
    r = start.shape[0]
    z, theta, value = np.empty(r), start, np.inf
    exponential = True
    for b in range(c.block_q.shape[0]):
        exponential = exponential and c.block_q[b] == 1
    for i in range(r):
        exponential = exponential and start[i] != 0.0
    while True:
        for i in range(r):
            z[i] = theta[i] / c.unit[i]
            if exponential:
                z[i] = np.log(abs(z[i])) * c.size[i]
        theta, value = _minimize(c, f, z, exponential)
        small = False
        for i in range(r):
            small = small or abs(theta[i]) < TENDS_TO_ZERO * c.unit[i]
        if not (exponential and small):
            return theta, value
        exponential = False


@kernel
def eigen(A):
    """Eigenvalues of a small symmetric matrix, increasing, and eigenvectors in columns.

    Jacobi's rotations (Golub and Van Loan 2013, Matrix Computations, section 8.5).
    """
    n = A.shape[0]
    D, V = np.empty((n, n)), np.empty((n, n))
    for i in range(n):
        for j in range(n):
            D[i, j] = A[i, j]
            V[i, j] = 1.0 if i == j else 0.0
    for _ in range(60):
        off, on = 0.0, 0.0
        for i in range(n):
            on += D[i, i] * D[i, i]
            for j in range(i):
                off += D[i, j] * D[i, j]
        if not off > 1e-36 * on:
            break
        for i in range(n):
            for j in range(i):
                if D[i, j] == 0.0:
                    continue
                ratio = (D[i, i] - D[j, j]) / (2.0 * D[i, j])
                t = 1.0 / (abs(ratio) + np.sqrt(ratio * ratio + 1.0))
                if ratio < 0.0:
                    t = -t
                cosine = 1.0 / np.sqrt(t * t + 1.0)
                sine = t * cosine
                for k in range(n):
                    a, b = D[k, j], D[k, i]
                    D[k, j], D[k, i] = cosine * a - sine * b, sine * a + cosine * b
                for k in range(n):
                    a, b = D[j, k], D[i, k]
                    D[j, k], D[i, k] = cosine * a - sine * b, sine * a + cosine * b
                    a, b = V[k, j], V[k, i]
                    V[k, j], V[k, i] = cosine * a - sine * b, sine * a + cosine * b
    values = np.empty(n)
    for i in range(n):
        values[i] = D[i, i]
    for i in range(n):  # few: by selection
        least = i
        for j in range(i + 1, n):
            if values[j] < values[least]:
                least = j
        if least != i:
            values[i], values[least] = values[least], values[i]
            for k in range(n):
                V[k, i], V[k, least] = V[k, least], V[k, i]
    return values, V
