"""``boundary`` and the choice between starts, compiled, for the profiled criterion.

The same rules with the same thresholds; where one of them is not met, the search says that it is
not sure, and the caller searches again in ``optimize``.
"""

from __future__ import annotations

import numpy as np

from bayeslmm.compiling import kernel
from bayeslmm.likelihood._descent import (
    COVARIANCES,
    ESTIMATES,
    descend,
    eigen,
    slope_at,
    taken,
    value_at,
)
from bayeslmm.likelihood.thresholds import (
    CLEARLY_WORSE,
    FLAT,
    MAX_ROUNDS,
    MOST_PARAMETERS,
    NEARLY_ZERO,
    SAME,
    SMALL,
    ZERO_ROW,
)

#: Where the criterion falls by more than this as a parameter changes by its own size, the search
#: has stopped on the way: parameters are enormous beside their natural scale.
_STEEP = 0.05

#: Standard deviations of effects, in residual ones, whose squares leave too few digits to tell one
#: end of a search from another.
_LARGE = 1e4


@kernel
def _scaled_factor(c, theta, first, q):
    """Factor of the block whose entries begin at ``first``, rows in units of the residuals."""
    F = np.zeros((q, q))
    at = first
    for j in range(q):
        for i in range(j, q):
            F[i, j] = theta[at] / (c.unit[at] * c.size[at])
            at += 1
    return F


@kernel
def _set_factor(c, theta, first, F):
    """Entries of theta from a scaled factor."""
    at = first
    for j in range(F.shape[0]):
        for i in range(j, F.shape[0]):
            theta[at] = F[i, j] * (c.unit[at] * c.size[at])
            at += 1


@kernel
def _squared(F):
    """F F'."""
    q = F.shape[0]
    out = np.empty((q, q))
    for i in range(q):
        for j in range(q):
            total = 0.0
            for k in range(min(i, j) + 1):
                total += F[i, k] * F[j, k]
            out[i, j] = total
    return out


@kernel
def _lower_factor(Sigma):
    """As ``patterns.lower_factor``: pivots that vanish give a column of zeros."""
    q = Sigma.shape[0]
    L = np.zeros((q, q))
    for j in range(q):
        pivot = Sigma[j, j]
        for k in range(j):
            pivot -= L[j, k] * L[j, k]
        if pivot <= 1.4210854715202004e-14 * Sigma[j, j]:
            continue
        L[j, j] = np.sqrt(pivot)
        for i in range(j + 1, q):
            total = Sigma[i, j]
            for k in range(j):
                total -= L[i, k] * L[j, k]
            L[i, j] = total / L[j, j]
    return L


@kernel
def _without_small(c, theta, limit, out):
    """theta with small eigenvalues at zero, into ``out``; the smallest, infinite if none is."""
    for i in range(theta.shape[0]):
        out[i] = theta[i]
    smallest = np.inf
    first = 0
    for b in range(c.block_q.shape[0]):
        q = c.block_q[b]
        values, V = eigen(_squared(_scaled_factor(c, theta, first, q)))
        least = max(limit, min(limit, NEARLY_ZERO) * values[q - 1])
        if values[0] < least:
            smallest = min(smallest, values[0] / max(1.0, values[q - 1]))
            kept = np.zeros((q, q))
            for k in range(q):
                if values[k] < least:
                    continue
                for i in range(q):
                    for j in range(q):
                        kept[i, j] += values[k] * V[i, k] * V[j, k]
            _set_factor(c, out, first, _lower_factor(kept))
        first += q * (q + 1) // 2
    return smallest


@kernel
def _ranks(c, theta, ranks):
    """Rank of every block's correlations, among the effects that vary; whether one is lacking."""
    first = 0
    singular = False
    for b in range(c.block_q.shape[0]):
        q = c.block_q[b]
        F = _scaled_factor(c, theta, first, q)
        n = 0
        for i in range(q):
            size = 0.0
            for k in range(q):
                size += F[i, k] * F[i, k]
            size = np.sqrt(size)
            if size > ZERO_ROW:
                for k in range(q):
                    F[n, k] = F[i, k] / size
                n += 1
        gram = np.zeros((n, n))
        for i in range(n):
            for j in range(n):
                for k in range(q):
                    gram[i, j] += F[i, k] * F[j, k]
        ranks[b] = 0
        values, _ = eigen(gram)
        for i in range(n):
            if values[i] > 1e-12:
                ranks[b] += 1
        singular = singular or ranks[b] < q
        first += q * (q + 1) // 2
    return singular


@kernel
def _covariance_slopes(c, f, theta):
    """Derivatives in the entries of the relative covariance matrices, flat."""
    c.counted[0] += 1
    f(c.table, theta, c.room, COVARIANCES)
    return taken(c.room, c.room.shape[0])


@kernel
def _block_slopes(c, flat, first, q):
    """Those of a scaled block, (q, q)."""
    D = np.empty((q, q))
    unit = np.empty(q)
    for i in range(q):
        unit[i] = c.unit[first + i] * c.size[first + i]  # the first column has every row
    at = first
    for j in range(q):
        for i in range(j, q):
            D[i, j] = flat[c.theta_index[at]] * unit[i] * unit[j]
            D[j, i] = D[i, j]
            at += 1
    return D


@kernel
def _free(c, theta):
    """Positions that are not in a column of zeros, and their number."""
    out = np.empty(theta.shape[0], np.int64)
    n, at = 0, 0
    for b in range(c.block_q.shape[0]):
        q = c.block_q[b]
        for j in range(q):
            used = False
            for i in range(q - j):
                used = used or theta[at + i] != 0.0
            for _ in range(q - j):
                if used:
                    out[n] = at
                    n += 1
                at += 1
    return out, n


@kernel
def _newton_step(H, gradient):
    """-H^-1 gradient without flat directions, and whether there is one."""
    n = H.shape[0]
    step = np.zeros(n)
    for i in range(n):
        for j in range(n):
            if not np.isfinite(H[i, j]):
                return step, False
    values, V = eigen(H)
    flat = 1e-9 * max(abs(values[0]), abs(values[n - 1]))
    if values[0] < -flat or flat == 0.0:
        return step, False
    for k in range(n):
        if values[k] > flat:
            total = 0.0
            for i in range(n):
                total += V[i, k] * gradient[i]
            for i in range(n):
                step[i] -= V[i, k] * total / values[k]
    return step, True


@kernel
def _polish(c, f, theta, value):
    """Newton's steps on the gradient; diagonals of the factors made nonnegative."""
    free, n = _free(c, theta)
    if n == 0 or n > MOST_PARAMETERS:
        return theta, value
    unit, gradient, new = np.empty(n), np.empty(n), np.empty(n)
    H, half = np.empty((n, n)), np.empty((n, n))
    _, slope = slope_at(c, f, theta)
    for row in range(n):
        unit[row] = c.unit[free[row]]
        gradient[row] = slope[free[row]] * unit[row]
    for _ in range(20):
        for row in range(n):
            near = taken(theta, theta.shape[0])
            h = 1e-6 * unit[row] + 1e-4 * abs(theta[free[row]])
            near[free[row]] += h
            _, slope = slope_at(c, f, near)
            for k in range(n):
                H[row, k] = (slope[free[k]] * unit[k] - gradient[k]) / h * unit[row]
        for i in range(n):
            for j in range(n):
                half[i, j] = 0.5 * (H[i, j] + H[j, i])
        step, good = _newton_step(half, gradient)
        if not good:
            break
        near = taken(theta, theta.shape[0])
        for k in range(n):
            near[free[k]] += unit[k] * step[k]
        near_value, slope = slope_at(c, f, near)
        before, after = 0.0, 0.0
        for k in range(n):
            new[k] = slope[free[k]] * unit[k]
            before += gradient[k] * gradient[k]
            after += new[k] * new[k]
        if not (
            np.sqrt(after) < 0.9 * np.sqrt(before)
            and near_value <= value + SAME * (1.0 + abs(value))
        ):
            break
        theta, value = near, near_value
        for k in range(n):
            gradient[k] = new[k]
    out = np.empty(theta.shape[0])
    _without_small(c, theta, ZERO_ROW * ZERO_ROW, out)
    at = 0
    for b in range(c.block_q.shape[0]):
        q = c.block_q[b]
        for j in range(q):
            if out[at] < 0.0:
                for i in range(q - j):
                    out[at + i] = -out[at + i]
            at += q - j
    return out, value


@kernel
def _raised(c, theta, first, Sigma, direction, t):
    """theta with t direction direction' added to a block's scaled covariance matrix."""
    q = Sigma.shape[0]
    S = np.empty((q, q))
    for i in range(q):
        for j in range(q):
            S[i, j] = Sigma[i, j] + t * direction[i] * direction[j]
    out = taken(theta, theta.shape[0])
    _set_factor(c, out, first, _lower_factor(S))
    return out


@kernel
def _slope_along(c, f, theta, first, direction):
    q = direction.shape[0]
    D = _block_slopes(c, _covariance_slopes(c, f, theta), first, q)
    total = 0.0
    for i in range(q):
        for j in range(q):
            total += direction[i] * D[i, j] * direction[j]
    return total


@kernel
def _release(c, f, theta, first, Sigma, direction):
    """The point along a direction inward where the slope turns."""
    low, high = 0.0, 1e-6
    while high < 1e3:
        at = _raised(c, theta, first, Sigma, direction, high)
        if _slope_along(c, f, at, first, direction) >= 0.0:
            break
        low, high = high, 10.0 * high
    if high >= 1e3 or low == 0.0:
        return _raised(c, theta, first, Sigma, direction, low if low > 0.0 else high)
    for _ in range(40):  # halving a ratio of 10 this often is exact enough by far
        if high - low <= 1e-3 * high:
            break
        middle = np.sqrt(low * high)
        at = _raised(c, theta, first, Sigma, direction, middle)
        if _slope_along(c, f, at, first, direction) >= 0.0:
            high = middle
        else:
            low = middle
    return _raised(c, theta, first, Sigma, direction, 0.5 * (low + high))


@kernel
def _inward(c, f, theta):
    """A better point off the boundary, and whether there is one."""
    if not _ranks(c, theta, np.empty(c.block_q.shape[0], np.int64)):
        return theta, False
    flat = _covariance_slopes(c, f, theta)
    steepest, where, at = 0.0, -1, 0
    direction, chosen = np.empty(0), np.empty((0, 0))
    for b in range(c.block_q.shape[0]):
        q = c.block_q[b]
        Sigma = _squared(_scaled_factor(c, theta, at, q))
        values, V = eigen(Sigma)
        n = 0
        while n < q and values[n] <= 1e-12 * max(1.0, values[q - 1]):
            n += 1
        if n > 0:
            D = _block_slopes(c, flat, at, q)
            inner = np.zeros((n, n))
            largest = 0.0
            for i in range(q):
                largest = max(largest, abs(D[i, i]))
                for j in range(q):
                    for k in range(n):
                        for m in range(n):
                            inner[k, m] += V[i, k] * D[i, j] * V[j, m]
            slopes, along = eigen(inner)
            share = slopes[0] / (1.0 + largest)
            if share < min(-FLAT, steepest):
                steepest, where, chosen = share, at, Sigma
                direction = np.zeros(q)
                for i in range(q):
                    for k in range(n):
                        direction[i] += V[i, k] * along[k, 0]
        at += q * (q + 1) // 2
    if where < 0:
        return theta, False
    return _release(c, f, theta, where, chosen, direction), True


@kernel
def _settled(c, f, start):
    """A descent, and what ``boundary.BoundarySearch.settle`` makes of its end."""
    first, first_value, point = start, np.inf, start
    reduced = np.empty(start.shape[0])
    trial, value = start, np.inf
    for rounds in range(MAX_ROUNDS + 2):
        trial, value = descend(c, f, point)
        if rounds == 0:
            first, first_value, point = trial, value, reduced
            smallest = _without_small(c, first, SMALL, reduced)
            worse = smallest > NEARLY_ZERO and (
                smallest == np.inf or value_at(c, f, reduced) > value + CLEARLY_WORSE
            )
            if worse:
                return first, first_value
            continue
        trial, value = _polish(c, f, trial, value)
        point, better = _inward(c, f, trial)
        if not better:
            break
    if value <= first_value + SAME * (1.0 + abs(first_value)):
        return trial, value
    return _polish(c, f, first, first_value)


@kernel
def search(c, f, starts, n_others, ranks):
    """See ``optimize.Search.optimum``: theta, the criterion, and whether it is sure of them.

    Parameters
    ----------
    starts : (k, r) array
    n_others : int
        How many of the starts after the first to try; -1 for all where the first end is singular.
    ranks : (blocks,) int array
        The rank of every block is written to it.
    """
    r = starts.shape[1]
    theta, value = np.zeros(r), np.inf
    start = np.empty(r)
    for k in range(starts.shape[0]):
        if k == 1 and (n_others == 0 or (n_others < 0 and not _ranks(c, theta, ranks))):
            break
        for i in range(r):
            start[i] = starts[k, i]
        other, other_value = _settled(c, f, start)
        if k == 0 or other_value < value - 1e-8 * (1.0 + abs(value)):
            theta, value = other, other_value
    end, slope = slope_at(c, f, theta)
    sure = np.isfinite(end) and np.isfinite(value)
    for i in range(r):
        sure = sure and abs(slope[i] * c.unit[i]) < 1e-3 * np.sqrt(1.0 + abs(end))
        sure = sure and abs(slope[i] * theta[i]) < _STEEP
        sure = sure and abs(theta[i]) < _LARGE * c.unit[i] * c.size[i]
    _ranks(c, theta, ranks)
    return theta, value, sure


@kernel
def search_many(
    c,
    f,
    own,
    right,
    gram,
    starts,
    n_others,
    begin,
    end,
    theta,
    value,
    sure,
    ranks,
    beta,
    inverse,
    pwrss,
):
    """:func:`search` for responses ``begin`` to ``end``, and the estimates at the optimum.

    Parameters
    ----------
    own : Values
        Those behind ``c``: the response's part of them is written.
    right : (m, N) array
        Z'W y of each response, in elimination order.
    gram : (m, p + 1) array
        [X y]'W y.
    theta, value, sure, ranks, beta, inverse, pwrss
        (m, ...) arrays that are written: what :func:`search` gives, and the estimates that
        :func:`_evaluation.evaluate` gives.
    """
    p = own.gram.shape[0] - 1
    J = own.levels.shape[1]
    q = right.shape[1] // J if J > 0 else 0
    for k in range(begin, end):
        for i in range(right.shape[1]):
            own.rhs[i, p] = right[k, i]
        for i in range(p + 1):
            own.gram[i, p] = gram[k, i]
            own.gram[p, i] = gram[k, i]
        for a in range(q):  # the row of the response among those of each effect
            for j in range(J):
                own.levels[q * (q + 1) // 2 + a * (p + 1) + p, j] = right[k, j * q + a]
        found, value[k], sure[k] = search(c, f, starts, n_others, ranks[k])
        f(c.table, found, c.room, ESTIMATES)
        pwrss[k] = c.room[0]
        for i in range(found.shape[0]):
            theta[k, i] = found[i]
        for i in range(p):
            beta[k, i] = c.room[1 + i]
            for j in range(p):
                inverse[k, i, j] = c.room[p + 1 + i * p + j]
