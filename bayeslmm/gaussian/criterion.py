"""Profiled maximum likelihood and REML: criterion, gradient, solution.

Bates, Maechler, Bolker & Walker (2015), J. Stat. Softw. 67(1), sections 3.4-3.6, with prior
weights as lme4 has them: the values are lme4's, constants included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bayeslmm.parts.patterns import unpack_theta

from . import _criteria
from .factor import Elimination, eliminate
from .problem import Problem
from .threads import level_sums


@dataclass(frozen=True)
class Solution:
    """Estimates at one theta.

    Attributes
    ----------
    theta : (r,) array
    beta : (p,) array
    sigma : float
        Residual standard deviation (REML or ML).
    vcov : (p, p) array
        sigma^2 (X'V^-1X)^-1.
    b : list of (J_k, q_k) arrays
        Conditional modes.
    loglik : float
    reml : bool
    Ls : list of (q_k, q_k) arrays
        Relative factors: Sigma_k = sigma^2 L_k L_k'.
    root : (p, p) array, optional
        W with vcov = W W'.
    """

    theta: np.ndarray
    beta: np.ndarray
    sigma: float
    vcov: np.ndarray
    b: list[np.ndarray]
    loglik: float
    reml: bool
    Ls: list[np.ndarray]
    root: np.ndarray | None = None

    def variances(self, rows: np.ndarray) -> np.ndarray:
        """Variance of the estimate of each combination, (k,).

        Parameters
        ----------
        rows : (k, p) array
        """
        if self.root is None:
            return np.einsum("ka,ab,kb->k", rows, self.vcov, rows)
        return np.sum((rows @ self.root) ** 2, axis=1)

    @property
    def Sigmas(self) -> list[np.ndarray]:
        """Covariance matrix of the effects of each factor."""
        return [self.sigma**2 * L @ L.T for L in self.Ls]


def profiled_criterion(problem: Problem, theta: np.ndarray, reml: bool = True) -> float:
    """-2 log-likelihood with beta and sigma profiled out (REML: restricted).

    nan where the fixed-effects matrix is rank deficient, so that an optimizer steps back.
    """
    return _evaluate(problem, theta, reml, False)[0]


def profiled_criterion_and_gradient(
    problem: Problem, theta: np.ndarray, reml: bool = True
) -> tuple[float, np.ndarray]:
    """The profiled criterion and its exact gradient in theta, valid for singular L_k too.

    With d the criterion, sigma = 1 in T_j = Z_j'V^-1Z_j, U = Z_j'V^-1X, u = Z_j'V^-1(y - X beta):
    dd/dSigma_k = sum_j [T_j - U (X'V^-1X)^-1 U' (REML) - (df/pwrss) u u'], dd/dL = 2 dd/dSigma L.
    """
    return _evaluate(problem, theta, reml, True)


def _evaluate(problem: Problem, theta, reml, want_gradient):
    theta = np.ascontiguousarray(theta, dtype=np.float64)
    if theta.shape != problem.theta_index.shape:
        raise ValueError(f"theta has shape {theta.shape}, expected {problem.theta_index.shape}")
    cp = problem.cp
    if problem.head_only and problem.known_sigma is None:
        if problem.many_levels:
            F = _criteria.theta_to_factors(theta, problem.theta_index, problem.layout.f_ptr[-1])
            if _criteria.use_levels(problem.layout, problem.values, F, want_gradient):
                sums = level_sums(
                    problem.values.levels, problem.patterns[0].q, cp.p + 1, F, want_gradient
                )
                return _criteria.profiled_levels(
                    problem.layout, problem.values, sums, F, problem.theta_index, cp.n,
                    cp.sum_log_weights, reml, want_gradient,
                )  # fmt: skip
        return _criteria.profiled_head(
            problem.layout, problem.values, theta, problem.theta_index, cp.n,
            cp.sum_log_weights, reml, want_gradient,
        )  # fmt: skip
    lay = problem.layout
    F = _criteria.theta_to_factors(theta, problem.theta_index, lay.f_ptr[-1])
    state = eliminate(problem, F)
    value, _, _, _, omega = _statistics(problem, state, reml)
    if not want_gradient:
        return value, None
    if not np.isfinite(state.log_det):
        return value, np.full(len(theta), np.nan)
    T, Q = state.derivative_sums(omega)
    return value, _criteria.gradient_to_theta(
        lay.f_ptr, lay.factor_q, T - Q, F, problem.theta_index
    )


def profiled_covariance_gradient(
    problem: Problem, theta: np.ndarray, reml: bool = True
) -> list[np.ndarray]:
    """Derivative of the profiled criterion in each *relative* covariance matrix L_k L_k'.

    At a zero variance this is what tells a boundary optimum (positive semidefinite: the criterion
    rises in every direction inward) from a wall that is not there; the gradient in theta
    vanishes there whatever happens.

    Returns
    -------
    list of symmetric (q_k, q_k) arrays, zero outside the pattern.
    """
    state = factorize(problem, unpack_theta(problem.patterns, theta))
    omega = _statistics(problem, state, reml)[4]
    T, Q = state.derivative_sums(omega)
    return problem.split(T - Q)


def _statistics(problem: Problem, state: Elimination, reml: bool) -> tuple:
    """-2 log-likelihood, gamma, pwrss, (X'V^-1X)^-1 and omega, at the known sigma if there is one.

    With sigma known, df (1 + log(2 pi pwrss / df)) becomes df log(2 pi sigma^2) + pwrss / sigma^2,
    and the weight df / pwrss of the residuals in the derivative 1 / sigma^2.
    """
    cp = problem.cp
    value, gamma, pwrss, inverse, omega = _criteria.profile_statistics(
        state.S, state.log_det, cp.n, cp.sum_log_weights, reml
    )
    if problem.known_sigma is None:
        return value, gamma, pwrss, inverse, omega
    s2, df = problem.known_sigma**2, cp.n - cp.p if reml else cp.n
    value += df * np.log(s2 / (pwrss / df)) - df + pwrss / s2
    combination = np.append(-gamma, 1.0)
    omega = omega + (1 / s2 - df / pwrss) * np.outer(combination, combination)
    return value, gamma, pwrss, inverse, omega


def factorize(problem: Problem, Ls) -> Elimination:
    """Factorization at *relative* factors L_k (Sigma_k = sigma^2 L_k L_k')."""
    return eliminate(problem, problem.flat(Ls))


def solve(problem: Problem, theta: np.ndarray, reml: bool = True) -> Solution:
    """beta, sigma, their covariance and the conditional modes at ``theta``.

    Raises
    ------
    ValueError
        If X'V^-1X is singular; drop aliased columns first (see ``aliasing``).
    """
    theta = np.asarray(theta, dtype=float)
    Ls = unpack_theta(problem.patterns, theta)
    state = factorize(problem, Ls)
    cp = problem.cp
    value, gamma, pwrss, inverse, _ = _statistics(problem, state, reml)
    if np.isnan(value):
        raise ValueError("the fixed-effects columns are linearly dependent")
    sigma2 = pwrss / (cp.n - cp.p if reml else cp.n)
    if problem.known_sigma is not None:
        sigma2 = problem.known_sigma**2
    effects = state.b @ np.append(-gamma, 1.0)
    coordinates = problem.coordinates
    return Solution(
        theta=theta,
        beta=coordinates.to_user(gamma),
        sigma=float(np.sqrt(sigma2)),
        vcov=sigma2 * coordinates.covariance_to_user(inverse),
        b=problem.effects(effects),
        loglik=-0.5 * value,
        reml=reml,
        Ls=Ls,
        root=coordinates.root_to_user(sigma2 * inverse),
    )
