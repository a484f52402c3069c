"""Large models: few evaluations, each of them expensive.

The search starts where the sums of squares of the levels say that the variances are, and goes on
by Newton's method with the average information in place of the second derivatives. Over the logs
of the diagonals of the factors that takes five evaluations where a quasi-Newton method takes
fifteen.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bayeslmm.gaussian import Problem, has_average_information
from bayeslmm.parts.patterns import pack_theta

__all__ = ["descent", "moment_start", "scoring_pays"]

#: Random effects from which on an evaluation takes longer than what is saved.
_MANY_EFFECTS = 1_000
#: The predicted fall of the criterion at which the search ends: a ten-thousandth of a standard
#: error from the optimum.
_CONVERGED = 1e-8
#: Log standard deviations move by at most this at a time.
_LONGEST = 2.0
_MOST_STEPS, _MOST_HALVINGS = 30, 8
#: A variance starts at no less than this share of the response's, and sigma^2 at no less than that.
_LEAST, _LEAST_RESIDUAL = 1e-3, 0.1


def scoring_pays(problem: Problem) -> bool:
    """Whether effects are many and levels share rows.

    Levels that share none are evaluated all at a time, which no other way is as quick as.
    """
    many = problem.symbolic.n_columns >= _MANY_EFFECTS and has_average_information(problem)
    return many and problem.values.levels.shape[1] == 0


def moment_start(problem: Problem) -> np.ndarray:
    """Factors of uncorrelated effects from sums of squares of the levels (MINQUE with V = I).

    Rao (1972), J. Am. Stat. Assoc. 67, 112-115: with r the residuals of least squares, r'Z_kZ_k'r
    of every column of effects and r'r are set equal to their expectations, in which the
    estimation of beta is left out.

    Returns
    -------
    (r,) array of diagonal relative factors, diagonals positive
    """
    cp, values, p = problem.cp, problem.values, problem.p
    beta = np.linalg.lstsq(values.gram[:p, :p], values.gram[:p, p], rcond=None)[0]
    combination = np.append(-beta, 1.0)
    total = combination @ values.gram @ combination
    r = values.rhs @ combination
    effects = [(k, a) for k, pattern in enumerate(problem.patterns) for a in range(pattern.q)]
    n = len(effects)
    expected, observed = np.zeros((n + 1, n + 1)), np.zeros(n + 1)
    for i, (k, a) in enumerate(effects):
        observed[i] = np.sum(r[problem.symbolic.factor_columns(k)[:, a]] ** 2)
        expected[i, n] = expected[n, i] = cp.factors[k].zz[:, a, a].sum()
        for j, (m, b) in enumerate(effects[: i + 1]):
            shared = cp.factors[k].zz[:, a, b] if k == m else cp.pairs[m, k].values[:, b, a]
            expected[i, j] = expected[j, i] = np.sum(shared**2)
    expected[n, n], observed[n] = problem.n, total
    sizes = np.concatenate([factor.column_scales for factor in cp.factors] + [np.ones(1)]) ** 2
    scaled = expected / np.outer(sizes, sizes)
    shares = np.linalg.lstsq(scaled, observed / sizes, rcond=None)[0] * problem.n / total
    shares = np.maximum(shares, np.append(np.full(n, _LEAST), _LEAST_RESIDUAL))
    sd = np.sqrt(shares[:-1] / shares[-1] / sizes[:-1])
    ends = np.cumsum([pattern.q for pattern in problem.patterns])[:-1]
    return pack_theta(problem.patterns, [np.diag(part) for part in np.split(sd, ends)])


def descent(
    evaluate: Callable, theta: np.ndarray, least: np.ndarray
) -> tuple[np.ndarray, float, bool]:
    """Newton's method over the logs of the diagonals of the factors, and their other entries.

    Parameters
    ----------
    evaluate : callable
        theta -> criterion, gradient, second derivatives (positive semidefinite).
    theta : (r,) array
        Where to start; diagonals positive.
    least : (r,) array
        Diagonals below this tend to zero, and the search ends: zero is infinitely far away. It is
        0 for other entries.

    Returns
    -------
    theta, the criterion, and whether that is an optimum.
    """
    diagonal = least > 0
    value, *slopes = evaluate(theta)
    for _ in range(_MOST_STEPS):
        step, fall = _step(np.where(diagonal, theta, 1.0), *slopes)
        if not fall > _CONVERGED or np.any(theta[diagonal] < least[diagonal]):
            return theta, value, 0 <= fall <= _CONVERGED
        longest = np.max(np.abs(step), where=diagonal, initial=0.0)
        step *= min(1.0, _LONGEST / longest)
        for _ in range(_MOST_HALVINGS):
            near = np.where(diagonal, theta * np.exp(step * diagonal), theta + step)
            near_value, *near_slopes = evaluate(near)
            if near_value < value:
                break
            step = step / 4
        else:
            return theta, value, False
        theta, value, slopes = near, near_value, near_slopes
    return theta, value, False


def _step(scale: np.ndarray, gradient: np.ndarray, H: np.ndarray) -> tuple[np.ndarray, float]:
    """Newton's step in units of ``scale``, and how much the criterion should fall, nan if none."""
    size = np.sqrt(np.diag(H))
    if not np.all(size > 0):
        return gradient, np.nan
    try:
        step = -np.linalg.solve(H / np.outer(size, size), gradient / size) / size
    except np.linalg.LinAlgError:
        return gradient, np.nan
    fall = -float(gradient @ step)
    return step / scale, fall if fall >= 0 else np.nan
