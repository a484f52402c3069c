"""What the data say given the covariance parameters, whatever the residuals.

One set of functions for systems of cross-products, of cells and of blocks: the likelihood with
coefficients and effects integrated out, and the coefficients' exact normal distribution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.assembly import prepared_problem, reduce_rows, structured_problem
from bayeslmm.formula import Design
from bayeslmm.gaussian import (
    FixedPrior,
    combination_moments,
    single_threaded_blas,
    with_prior,
)
from bayeslmm.gaussian.system import StructuredProblem, Theta
from bayeslmm.reanalysis.bridge import Evidence

if TYPE_CHECKING:
    from bayeslmm.gaussian import Problem

__all__ = [
    "ThetaDraws",
    "coefficient_moments",
    "problem_of",
]


@dataclass(frozen=True)
class ThetaDraws:
    """Weighted draws of theta.

    Attributes
    ----------
    factors : (n, sum q_k^2) array
        Flat absolute factors.
    eta : (n, s) array
        Log residual standard deviations (and log-linear coefficients): log sigma where they are
        all the same.
    c : (n, k) array
        Parameters of the residual correlation.
    log_weights : (n,) array
        Normalized to sum to one.
    k_hat : float
        Pareto shape of the weights; nan for draws of a chain.
    inefficiency : float
        Draws per independent draw, beside what the weights cost.
    evidence : Evidence or None
        log p(y); None where it was not computed.
    method : str
    """

    factors: np.ndarray
    eta: np.ndarray
    c: np.ndarray
    log_weights: np.ndarray
    k_hat: float
    inefficiency: float
    evidence: Evidence | None
    method: str

    @property
    def theta(self) -> Theta:
        """The covariance parameters alone."""
        return Theta(self.factors, self.eta, self.c)

    @property
    def sigma(self) -> np.ndarray:
        """(n,) residual standard deviations, where there is one."""
        return np.exp(self.eta[:, 0])


def coefficient_moments(
    problem: Problem | StructuredProblem, prior: FixedPrior, theta: ThetaDraws, C: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean (m, k) and covariance (m, k, k) of C beta given y and each of m draws of theta.

    Parameters
    ----------
    problem : Problem or StructuredProblem
        In the formula's columns.
    prior : FixedPrior
    theta : ThetaDraws
    C : (k, p) array
    """
    C = np.atleast_2d(C)
    with single_threaded_blas():
        if not isinstance(problem, StructuredProblem):
            return combination_moments(with_prior(problem, prior), theta.factors, theta.sigma, C)
        mean = np.empty((len(theta.eta), len(C)))
        covariance = np.empty((len(theta.eta), len(C), len(C)))
        for d, at in enumerate(theta.theta.rows()):
            moments = problem.solve(at, prior)
            mean[d], covariance[d] = C @ moments.beta, C @ moments.vcov @ C.T
    return mean, covariance


def problem_of(design: Design, y: np.ndarray, X: np.ndarray) -> Problem | StructuredProblem:
    """The system of a design's rows and effects with another response and other columns.

    Parameters
    ----------
    y : (n,) array
        Less its offset.
    X : (n, p) array
    """
    twin = replace(design, y=y + design.offset, fixed=replace(design.fixed, values=X))
    if design.residual is not None:
        return structured_problem(twin)
    return prepared_problem(twin, reduce_rows(twin, y=twin.y))
