"""Likelihoods without a maximum: rays along which they grow forever.

Where coefficients and random effects reproduce rows whatever their responses are, the likelihood
grows without bound as the standard deviation of these rows tends to 0, though the search may well
stop at a local maximum. Far out on a ray the deviance is a + b log t with a whole number b: two
evaluations tell its sign. Restricted likelihoods lose the coefficients' share of b.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np

from bayeslmm.errors import DataError
from bayeslmm.gaussian import Problem, profiled_criterion
from bayeslmm.gaussian.system import StructuredProblem, Theta
from bayeslmm.parts.patterns import pack_theta

__all__ = [
    "collapsing_cells",
    "collapsing_correlation",
    "collapsing_tail",
    "grows_as_sigma_vanishes",
    "refuse_unbounded",
]

#: Points of a ray, in units of where it starts.
_FAR, _FARTHER = 1e3, 1e4
#: b is a whole number, so this is far from 0 and from the next one.
_FALLS = -0.5 * np.log(_FARTHER / _FAR)
#: Subsets of more effects or cells than this are not gone through.
_MOST = 8
#: Ranks of more rows than this would take long.
_MOST_ROWS = 1000


def grows_as_sigma_vanishes(problem: Problem, theta: np.ndarray, *, reml: bool) -> bool:
    """Whether the likelihood grows, or at least does not fall, as sigma tends to 0.

    With maximum likelihood because [X Z], or [X Z] with some of the effects only, reproduces any
    response while Z alone does not; with either, because the optimum itself is there.

    Parameters
    ----------
    problem : Problem
    theta : (r,) array
        The optimum.
    reml : bool
    """
    if problem.known_sigma is not None or not problem.n_parameters:
        return False
    scales = [factor.column_scales for factor in problem.cp.factors]
    levels = [np.full(len(s), n) for s, n in zip(scales, problem.n_levels, strict=True)]
    if problem.n > problem.p + sum(int(n.sum()) for n in levels):
        return False
    at_optimum = profiled_criterion(problem, theta, reml)
    # a point at which nothing varies is as good as far away from itself
    if theta.any() and profiled_criterion(problem, _FAR * theta, reml) < at_optimum + 1e-6:
        return True
    if reml:
        return False

    def deviance(chosen: np.ndarray, far: float) -> float:
        ends = np.cumsum([len(s) for s in scales])[:-1]
        parts = np.split(chosen, ends)
        Ls = [np.diag(far * part / s) for part, s in zip(parts, scales, strict=True)]
        return profiled_criterion(problem, pack_theta(problem.patterns, Ls), reml)

    return any(
        deviance(chosen, _FARTHER) - deviance(chosen, _FAR) < _FALLS
        for chosen in _enough(np.concatenate(levels), problem.n - problem.p)
    )


def _subsets(n: int) -> Iterator[tuple[int, ...]]:
    """Subsets of n cells: all of them, or each cell and the whole where they are many."""
    for size in range(1, n + 1) if n <= _MOST else (1, n):
        yield from combinations(range(n), size)


def _enough(levels: np.ndarray, n: int) -> Iterator[np.ndarray]:
    """Indicators of the effects that have at least n levels together."""
    if len(levels) > _MOST:
        yield np.ones(len(levels))
        return
    for size in range(1, len(levels) + 1):
        for chosen in combinations(range(len(levels)), size):
            if levels[list(chosen)].sum() >= n:
                yield np.isin(np.arange(len(levels)), chosen).astype(float)


def collapsing_cells(
    problem: StructuredProblem, theta: Theta, X: np.ndarray, *, reml: bool
) -> np.ndarray | None:
    """Cells whose residual standard deviation can tend to 0 while the likelihood grows.

    Parameters
    ----------
    problem : StructuredProblem
        With a standard deviation per cell of rows.
    theta : Theta
        The optimum.
    X : (n, p) array
    reml : bool

    Returns
    -------
    int array, or None
    """
    deviance = _deviance(problem, reml)
    cells = problem.scale.shape[1]
    # of standard deviations that have collapsed already, no digits would be left further out
    collapsed = theta.eta < np.log(1e-3 * problem.spread)
    start = np.where(collapsed, np.log(0.1 * problem.spread), theta.eta)
    for subset in _subsets(cells):
        at = list(subset)
        if not reml and _reproduced(problem, X, problem.scale[:, at].any(axis=1)):
            return np.array(at)
        if collapsed[at].any() and _inner_minimum(problem, deviance, theta, at):
            continue
        for F in _factors(problem, theta):

            def along(far: float, F=F, at=at) -> float:
                eta = start.copy()
                eta[at] -= np.log(far)
                return deviance(Theta(F, eta, theta.c))

            if _falls(along):
                return np.array(at)
    return None


def collapsing_tail(problem: StructuredProblem, X: np.ndarray) -> int | None:
    """A column of a log-linear sigma whose extreme rows can be fitted perfectly, by likelihood.

    With log sd_i falling by z_i - c, the standard deviations of the rows with z > c tend to 0 and
    those of the others grow; log|V| falls where the mean of z is above c, and coefficients that
    reproduce the rows above c keep the residuals' part bounded.

    Returns
    -------
    int, the column of ``problem.scale``, or None
    """
    if np.abs(problem.scale @ problem.on_scale(np.ones(problem.n)) - 1).max() > 1e-8:
        return None
    for j, column in enumerate(problem.scale.T):
        for z in (column, -column):
            values = np.unique(z)[::-1]
            for c in values[1 : X.shape[1] + 1]:
                rows = z > c
                if z.mean() > c and _rank(X[rows].T) == rows.sum():
                    return j
    return None


def _reproduced(problem: StructuredProblem, X: np.ndarray, rows: np.ndarray) -> bool:
    """Whether coefficients and effects reproduce any responses of the rows, and effects do not.

    All effects, or some of them: a variance may be zero.
    """
    n, columns, levels = int(rows.sum()), [np.empty((int(rows.sum()), 0))], [0]
    if n > _MOST_ROWS:
        return False
    for factor in problem.factors:
        _, code = np.unique(factor.codes[rows], return_inverse=True)
        for z in factor.Z[rows].T:
            columns.append((code[:, None] == np.arange(code.max() + 1)) * z[:, None])
            levels.append(int(code.max()) + 1)
    for chosen in _enough(np.array(levels), n - X.shape[1]):
        Z = np.column_stack([c for c, keep in zip(columns, chosen, strict=True) if keep])
        if _rank(np.column_stack([X[rows], Z])) == n > _rank(Z):
            return True
    return False


def _rank(columns: np.ndarray) -> int:
    size = np.linalg.norm(columns, axis=0)
    columns = columns[:, size > 0] / size[size > 0]
    return int(np.linalg.matrix_rank(columns, tol=1e-8)) if columns.shape[1] else 0


def _factors(problem: StructuredProblem, theta: Theta) -> list[np.ndarray]:
    """Factors of the random effects: the optimum's, and none."""
    return [theta.F, np.zeros_like(theta.F)] if problem.patterns else [theta.F]


def _inner_minimum(problem, deviance, theta: Theta, at: list[int]) -> bool:
    """Whether smaller standard deviations than the optimum's are clearly worse."""
    if theta.eta[at].min() < np.log(1e-5 * problem.spread):  # rounding would make them so
        return False
    eta = theta.eta.copy()
    eta[at] -= np.log(10.0)
    return deviance(Theta(theta.F, eta, theta.c)) > deviance(theta) + 1.0


def collapsing_correlation(
    problem: StructuredProblem, theta: Theta, X: np.ndarray, y: np.ndarray, *, reml: bool
) -> bool:
    """Whether the likelihood grows as the residual correlation matrix becomes singular.

    Parameters
    ----------
    problem : StructuredProblem
        With correlated residuals.
    theta : Theta
        The optimum.
    X : (n, p) array
    y : (n,) array
        Less its offset.
    reml : bool
    """
    deviance = _deviance(problem, reml)
    structure = problem.structure
    if structure.n_times:
        rays = [_shrinking(theta, problem, v) for v in _null_directions(problem, structure, X, y)]
    elif structure.parameter == "range":
        rays = [lambda far: (theta.eta, theta.c * far)]
    elif structure.parameter:
        rays = [_toward(theta, bound) for bound in (structure.lower, structure.upper)]
    else:
        return False

    def falls_along(ray, F: np.ndarray) -> bool:
        return _falls(lambda far: deviance(Theta(F, *ray(far))), (1.0, 1e2, 1e4))

    return any(falls_along(ray, F) for ray in rays for F in _factors(problem, theta))


def _deviance(problem: StructuredProblem, reml: bool) -> Callable[[Theta], float]:
    flat = problem.prior(None)
    return lambda theta: -2.0 * problem.evaluate(theta, flat, not reml, False)[0]


def _falls(along: Callable[[float], float], starts: tuple[float, ...] = (1.0,)) -> bool:
    with np.errstate(all="ignore"):
        return any(along(start * _FARTHER) - along(start * _FAR) < _FALLS for start in starts)


def _toward(theta: Theta, bound: float):
    return lambda far: (theta.eta, bound + (theta.c - bound) / far)


def _shrinking(theta: Theta, problem: StructuredProblem, v: np.ndarray):
    """Covariances whose eigenvalue of v is smaller and smaller, as (log sds, correlations)."""
    T = len(v)
    # from the middle: the optimum may be singular already, perhaps in another direction
    sd = np.clip(np.exp(theta.eta), 0.1 * problem.spread, 10 * problem.spread)
    R = 0.5 * (theta.c.reshape(T, T) + np.eye(T)) * np.outer(sd, sd)
    P = np.eye(T) - np.outer(v, v)

    def ray(far: float):
        S = P @ R @ P + problem.spread**2 / far * np.outer(v, v)
        root = np.sqrt(np.diag(S))
        return np.log(root), (S / np.outer(root, root)).ravel()

    return ray


def _null_directions(problem, structure, X, y) -> Iterator[np.ndarray]:
    """Combinations of times whose residuals vanish in all groups that are seen at all of them.

    Of the groups that are seen at given times, only those seen at all times with a weight are
    affected where the eigenvalue of the combination vanishes. They are few: no more than the
    times, or than times and coefficients together.
    """
    T, p = structure.n_times, X.shape[1]
    if problem.scale.shape[1] != T:
        return
    row = np.full((problem.group.max() + 1, T), -1)
    row[problem.group, problem.time.astype(int)] = np.arange(problem.n)
    seen = row >= 0
    patterns = np.unique(seen, axis=0)
    closed = {tuple(a & b) for a in patterns for b in patterns}
    for chosen in sorted(closed, key=sum):
        times = np.array(chosen)
        groups = seen[:, times].all(axis=1)
        size, count = int(times.sum()), int(groups.sum())
        if size < 2 or not 0 < count < size + p:
            continue
        rows = row[groups][:, times]
        for v in _vanishing(X[rows], y[rows]):
            full = np.zeros(T)
            full[times] = v
            yield full


def _vanishing(X: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """Unit vectors v with v'(y_g - X_g beta) = 0 for all g and some beta.

    Parameters
    ----------
    X : (m, T, p) array
    y : (m, T) array
    """
    from scipy.optimize import minimize

    m, T, p = X.shape
    # no beta needed: orthogonal to responses and columns
    columns = np.concatenate([y, np.swapaxes(X, 1, 2).reshape(m * p, T)])
    if (free := _null(columns)).shape[1]:
        yield free[:, -1]

    def residuals(v):
        v = v / np.linalg.norm(v)
        Xv, yv = np.einsum("t,mtp->mp", v, X), y @ v
        beta = np.linalg.lstsq(Xv, yv, rcond=1e-9)[0]
        return float(((yv - Xv @ beta) ** 2).sum()), beta

    scale = float((y**2).mean())
    rng = np.random.default_rng(0)
    for _ in range(8):
        v = rng.standard_normal((T,))
        if m >= T:  # the residuals have full rank but for some beta
            v = minimize(lambda v: residuals(v)[0] / scale, v, tol=1e-14).x
        for _ in range(50):  # v and beta in turn
            null = np.linalg.svd(y - X @ residuals(v)[1])[2][min(m, T - 1) :]
            v = null.T @ (null @ v) if len(null) > 1 else null[0]
        if residuals(v)[0] < 1e-16 * scale:
            yield v / np.linalg.norm(v)


def _null(rows: np.ndarray) -> np.ndarray:
    """Orthonormal columns that all rows are orthogonal to."""
    _, values, vectors = np.linalg.svd(rows)
    rank = int((values > 1e-9 * values[0]).sum())
    return vectors[rank:].T


def refuse_unbounded(problem: Problem, theta: np.ndarray, *, reml: bool) -> None:
    """Refuse a likelihood that grows, or stays, as sigma tends to 0.

    Raises
    ------
    DataError
    """
    if not grows_as_sigma_vanishes(problem, theta, reml=reml):
        return
    route = "" if reml else ", fit by reml() (its profiles need this likelihood too)"
    raise DataError(
        f"Coefficients and random effects together fit the {problem.n} rows perfectly, so that "
        f"the {'restricted ' if reml else ''}likelihood has no maximum: it does not fall as sigma "
        f"tends to 0. Leave terms out{route} or use model.fit(), where the priors decide."
    )
