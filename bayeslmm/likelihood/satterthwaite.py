"""Satterthwaite's degrees of freedom (Kuznetsova, Brockhoff and Christensen 2017, section 2).

J. Stat. Softw. 82(13). The variance parameters are lmerTest's (theta, sigma) with the observed
Hessian; at a boundary the answer depends on that choice, so it is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bayeslmm.gaussian import (
    Problem,
    factorize,
    profiled_criterion_and_gradient,
    single_threaded_blas,
    solve,
)
from bayeslmm.likelihood.kenward_roger import unit_rows
from bayeslmm.likelihood.optimize import central_differences
from bayeslmm.parts.patterns import unpack_theta

__all__ = [
    "VarianceCurvature",
    "pseudo_inverse",
    "satterthwaite_df",
    "satterthwaite_f_df",
    "theta_scales",
    "variance_curvature",
]


@dataclass(frozen=True)
class VarianceCurvature:
    """What Satterthwaite's approximation needs of the optimum.

    Attributes
    ----------
    covariance : (r + 1, r + 1) array
        Asymptotic covariance of (theta, sigma).
    jacobian : (r + 1, p, p) array
        Derivative of the coefficients' covariance matrix in (theta, sigma).
    hessian : (r + 1, r + 1) array
        Of the deviance in (theta, sigma).
    flat_directions : (r + 1, f) array
        Directions in which the deviance has no positive curvature; they are left out of the
        inverse. As long as a standard error would be if nothing else were estimated.
    """

    covariance: np.ndarray
    jacobian: np.ndarray
    hessian: np.ndarray
    flat_directions: np.ndarray

    @property
    def flat(self) -> int:
        """Number of the flat directions."""
        return self.flat_directions.shape[1]

    def undetermined(self, jacobian: np.ndarray) -> np.ndarray:
        """Which functions of the parameters change in a flat direction, shape (k,).

        Parameters
        ----------
        jacobian : (k, r + 1) array
        """
        curvature = np.abs(np.diag(self.hessian))  # 0 for a known sigma
        naive = np.sqrt(np.divide(1.0, curvature, out=0 * curvature, where=curvature > 0))
        size = np.linalg.norm(jacobian * naive, axis=1)
        return np.any(np.abs(jacobian @ self.flat_directions) > 0.01 * size[:, None], axis=1)


def variance_curvature(problem: Problem, theta: np.ndarray, *, reml: bool) -> VarianceCurvature:
    """Curvature of the deviance and slope of the coefficients' covariance at an optimum.

    With s^2(theta) the profiled residual variance, m = n - p (REML) or n its divisor and
    d(theta) the profiled deviance, the deviance in (theta, sigma) is
    d + m log(sigma^2 / s^2) + m s^2 / sigma^2 - m, so at sigma = s its Hessian is
    [[d'' + m h h', -2 m h / sigma], [., 4 m / sigma^2]] with h the gradient of log s^2. Only d''
    is differentiated numerically, by central differences of the exact gradient. A known sigma
    has no variance: its row and column are zero.

    Parameters
    ----------
    problem : Problem
    theta : (r,) array
        The optimum.
    reml : bool

    Returns
    -------
    VarianceCurvature
    """
    r, p, n = len(theta), problem.p, problem.n
    divisor = n - p if reml else n
    steps = 1e-3 * theta_scales(problem, theta)
    with single_threaded_blas():
        center = solve(problem, theta, reml)
        second = central_differences(
            lambda at: profiled_criterion_and_gradient(problem, at, reml)[1], theta, steps
        ).reshape(r, r)
        slope, unscaled = _first_derivatives(problem, center)
    sigma = center.sigma
    if problem.known_sigma is not None:
        covariance, flat = pseudo_inverse(0.5 * (second + second.T))
        flat = np.pad(flat, ((0, 1), (0, 0)))
        padded, jacobian = np.zeros((r + 1, r + 1)), np.zeros((r + 1, p, p))
        padded[:r, :r], jacobian[:r] = 2 * covariance, sigma**2 * unscaled
        hessian = np.pad(0.5 * (second + second.T), ((0, 1), (0, 1)))
        return VarianceCurvature(padded, jacobian, hessian, flat)
    hessian = np.empty((r + 1, r + 1))
    hessian[:r, :r] = 0.5 * (second + second.T) + divisor * np.outer(slope, slope)
    hessian[:r, r] = hessian[r, :r] = -2 * divisor * slope / sigma
    hessian[r, r] = 4 * divisor / sigma**2
    jacobian = np.concatenate([sigma**2 * unscaled, (2 / sigma) * center.vcov[None]])
    covariance, flat = pseudo_inverse(hessian)
    return VarianceCurvature(2 * covariance, jacobian, hessian, flat)


def _first_derivatives(problem: Problem, solution) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives in theta of log s^2 and of (X'V^-1X)^-1 (sigma = 1), exact.

    With U_j = Z_j'V^-1X, u_j = Z_j'V^-1(y - X beta) and D = d(LL')/dtheta_i: d pwrss = -sum_j
    u_j'D u_j and d(X'V^-1X) = -sum_j U_j'D U_j; pairs of related levels in place of single ones
    where levels are related.

    Returns
    -------
    (r,) and (r, p, p) arrays
    """
    state = factorize(problem, solution.Ls)
    scale = solution.sigma**2
    inverse = np.linalg.inv(state.S[:-1, :-1])
    divisor = problem.n - problem.p if solution.reml else problem.n
    combination = np.append(-problem.coordinates.from_user(solution.beta), 1.0)
    slopes, derivatives = [], []
    for pattern, L, related in zip(
        problem.patterns, solution.Ls, state.outer_products(), strict=True
    ):
        outer = np.einsum("abps,p,s->ab", related, combination, combination, optimize=True)
        X_part = related[:, :, :-1, :-1]
        for a, b in zip(*pattern.entries, strict=True):
            E = np.zeros_like(L)
            E[a, b] = 1.0
            D = E @ L.T + L @ E.T
            slopes.append(-np.sum(D * outer) / (divisor * scale))
            inner = np.einsum("ab,abij->ij", D, X_part)
            derivatives.append(problem.coordinates.covariance_to_user(inverse @ inner @ inverse))
    p = problem.p
    return np.array(slopes), np.array(derivatives).reshape(len(slopes), p, p)


def theta_scales(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """Natural size of each entry of theta, whatever the units of its covariate.

    The relative standard deviation of its effect, where that is not next to nothing; else a
    hundredth of the one at which effect and residual have the same size.
    """
    scales = []
    for pattern, L, factor in zip(
        problem.patterns, unpack_theta(problem.patterns, theta), problem.cp.factors, strict=True
    ):
        unit = 1e-2 / factor.column_scales
        scales.append(np.maximum(np.linalg.norm(L, axis=1), unit)[pattern.entries[0]])
    return np.concatenate([*scales, np.zeros(0)])


def satterthwaite_df(L: np.ndarray, vcov: np.ndarray, curvature: VarianceCurvature) -> np.ndarray:
    """Degrees of freedom of the t statistic of each row of `L`.

    2 (l'Cl)^2 / Var(l'Cl), the variance by the delta method.

    Parameters
    ----------
    L : (k, p) array
    vcov : (p, p) array

    Returns
    -------
    (k,) array
    """
    L = np.atleast_2d(L)
    variance = np.einsum("ka,ab,kb->k", L, vcov, L)
    slopes = np.einsum("ka,iab,kb->ki", L, curvature.jacobian, L)
    spread = np.einsum("ki,ij,kj->k", slopes, curvature.covariance, slopes)
    with np.errstate(divide="ignore", invalid="ignore"):
        return 2 * variance**2 / spread


def satterthwaite_f_df(
    L: np.ndarray, beta: np.ndarray, vcov: np.ndarray, curvature: VarianceCurvature
) -> tuple[float, float, float]:
    """F statistic of L beta = 0 with numerator and denominator degrees of freedom.

    The quadratic form is split into independent t statistics whose degrees of freedom are
    matched through the expectation of F (Fai and Cornelius 1996, Journal of Statistical
    Computation and Simulation 54(4)), as in lmerTest.

    Returns
    -------
    F, numerator, denominator : float
    """
    L = np.atleast_2d(L)
    values, vectors = np.linalg.eigh(L @ vcov @ L.T)
    kept = values > 1e-8 * max(values.max(initial=0.0), 0.0)
    if not kept.all():  # rows in very different units, or dependent ones: only the latter go
        L = unit_rows(L @ vcov @ L.T) @ L
        values, vectors = np.linalg.eigh(L @ vcov @ L.T)
        kept = values > 1e-8 * max(values.max(initial=0.0), 0.0)
    rows = vectors[:, kept].T @ L
    rank = int(kept.sum())
    if rank == 0:
        return np.nan, 0.0, np.nan
    t_squared = (rows @ beta) ** 2 / values[kept]
    df = satterthwaite_df(rows, vcov, curvature)
    statistic = float(t_squared.mean())
    if rank == 1:
        return statistic, 1.0, float(df[0])
    if np.all(np.abs(np.diff(df)) < 1e-8 * np.abs(df[0])):
        return statistic, float(rank), float(df.mean())
    if not np.all(df > 2):
        return statistic, float(rank), 2.0
    expectation = float(np.sum(df / (df - 2)))
    return statistic, float(rank), 2 * expectation / (expectation - rank)


def pseudo_inverse(hessian: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverse on the positive eigenvalues, and the directions of the others."""
    # equilibrated, so that "positive" does not depend on the units of theta and sigma
    scale = np.sqrt(np.maximum(np.abs(np.diag(hessian)), 1e-300))
    values, vectors = np.linalg.eigh(hessian / np.outer(scale, scale))
    good = values > 1e-8 * max(values[-1], 0.0) if len(values) else np.zeros(0, dtype=bool)
    inverse = (vectors[:, good] / values[good]) @ vectors[:, good].T
    return inverse / np.outer(scale, scale), vectors[:, ~good] / scale[:, None]
