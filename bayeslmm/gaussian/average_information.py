"""The average of observed and expected information of the covariance parameters.

Gilmour, Thompson & Cullis (1995), Biometrics 51, 1440-1450: with V_i = dV/dtheta_i and P of REML
(sigma = 1), the average of the second derivatives of the criterion and of their expectation needs
no trace,

    H_ij = (df/pwrss) [z_i'P z_j - (y'P z_i)(y'P z_j) / pwrss],   z_i = V_i P y,

sigma profiled out. The z_i are combinations of columns of Z, so that one more pass over the head
with Z'W z_i as right-hand sides gives them all.
"""

from __future__ import annotations

import numpy as np

from bayeslmm.parts.patterns import unpack_theta

from . import _criteria, _elimination, _lapack
from .criterion import _statistics
from .factor import Elimination, eliminate
from .problem import Problem, Values

__all__ = ["has_average_information", "profiled_information"]


def has_average_information(problem: Problem) -> bool:
    """Whether :func:`profiled_information` is there: levels are independent, sigma unknown."""
    plain = isinstance(problem.values, Values) and all(T is None for T in problem.roots)
    return plain and problem.known_sigma is None


def profiled_information(
    problem: Problem, theta: np.ndarray, reml: bool = True
) -> tuple[float, np.ndarray, np.ndarray]:
    """The profiled criterion, its gradient and the average information, all in theta.

    Parameters
    ----------
    problem : Problem
        See :func:`has_average_information`.
    theta : (r,) array

    Returns
    -------
    value, (r,) gradient, (r, r) positive semidefinite second derivatives; nan where the criterion
    has no value.
    """
    index = problem.theta_index
    F = _criteria.theta_to_factors(theta, index, problem.layout.f_ptr[-1])
    state = eliminate(problem, F)
    value, gamma, pwrss, inverse, omega = _statistics(problem, state, reml)
    if not np.isfinite(value):
        return value, np.full(len(theta), np.nan), np.full((len(theta), len(theta)), np.nan)
    T, Q = state.derivative_sums(omega)
    gradient = _criteria.gradient_to_theta(
        problem.layout.f_ptr, problem.layout.factor_q, T - Q, F, index
    )
    u = state.U @ np.append(-gamma, 1.0)
    B = _directions(problem, theta, u)
    between, within = _products(state, B)
    W = within - between @ inverse @ between.T
    q = B.T @ u / pwrss
    df = problem.n - problem.p if reml else problem.n
    return value, gradient, df * (W / pwrss - np.outer(q, q))


def _directions(problem: Problem, theta: np.ndarray, u: np.ndarray) -> np.ndarray:
    """(N, r) array B with z_i = Z B_i: (E_i L' + L E_i') u_j of every level, u = Z'Py."""
    B = np.zeros((len(u), len(theta)))
    i = 0
    for k, L in enumerate(unpack_theta(problem.patterns, theta)):
        columns = problem.symbolic.factor_columns(k)
        for a, b in zip(*problem.patterns[k].entries, strict=True):
            B[columns, i] = u[columns[:, a], None] * L[:, b]
            B[columns[:, a], i] += u[columns] @ L[:, b]
            i += 1
    return B


def _products(state: Elimination, B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """B'Z'V^-1X and B'Z'V^-1Z B."""
    problem, p = state.problem, state.problem.p
    lay, values, r = problem.layout, problem.values, B.shape[1]
    right = _level_products(problem, B)
    across = B.T @ values.rhs
    gram = np.block([[values.gram, across.T], [across, B.T @ right]])
    extended = values._replace(rhs=np.hstack([values.rhs, right]), gram=gram)
    *_, rhs, S = _elimination.eliminate_head(lay, extended, state.F)
    if len(state.tail_factor):
        scaled = _elimination.scale_rows(lay, rhs[int(lay.sizes[2]) :], state.F, True)
        S = S - scaled.T @ _lapack.cholesky_solve(state.tail_factor, scaled)
    return S[-r:, :p], S[-r:, -r:]


def _level_products(problem: Problem, B: np.ndarray) -> np.ndarray:
    """Z'WZ B for columns B of which each is of one factor, rows in elimination order."""
    out = np.zeros_like(B)
    cp, last = problem.cp, np.cumsum([pattern.n_parameters for pattern in problem.patterns])
    own = [range(end - p.n_parameters, end) for end, p in zip(last, problem.patterns, strict=True)]
    columns = [problem.symbolic.factor_columns(k) for k in range(len(own))]
    for k, factor in enumerate(cp.factors):
        out[columns[k], own[k][0] : own[k][-1] + 1] = (
            factor.zz @ B[columns[k], own[k][0] : own[k][-1] + 1]
        )
    for (k, m), pair in cp.pairs.items():
        for a, b in np.ndindex(pair.values.shape[1:]):
            values, i, j = (
                pair.values[:, a, b],
                columns[k][pair.rows, a],
                columns[m][pair.columns, b],
            )
            for c in own[m]:
                out[:, c] += np.bincount(i, values * B[j, c], len(B))
            for c in own[k]:
                out[:, c] += np.bincount(j, values * B[i, c], len(B))
    return out
