"""What a fit estimated: the one record that results of both fits are functions of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.bayes.draws import coefficient_draws, covariance_draws
from bayeslmm.bayes.residual_draws import residual_parameters
from bayeslmm.gaussian.system import Theta
from bayeslmm.parts.patterns import lower_factor
from bayeslmm.protocols import is_posterior

if TYPE_CHECKING:
    import xarray as xr

    from bayeslmm.protocols import LikelihoodResult, PosteriorResult

__all__ = ["Estimates", "estimates_of", "likelihood_estimates", "posterior_estimates"]


@dataclass(frozen=True)
class Estimates:
    """Parameters of a fit; the leading dimensions are draws, and there are none in a likelihood
    fit.

    Attributes
    ----------
    beta : (..., p) array
        Coefficients, 0 where aliased.
    Sigmas : list of (..., q_k, q_k) arrays
        Covariance matrices of the effects; scale matrices of Student-t ones.
    eta : (..., s) array
        Log residual standard deviations, or scales, and log-linear coefficients.
    c : (..., k) array
        Numbers of the residual correlation structure.
    """

    beta: np.ndarray
    Sigmas: list[np.ndarray]
    eta: np.ndarray
    c: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the draws: (chains, draws), or nothing."""
        return self.eta.shape[:-1]

    def flat(self) -> Estimates:
        """The same with one leading dimension: draw after draw, or one row."""
        count = int(np.prod(self.shape, dtype=int))

        def rows(values: np.ndarray) -> np.ndarray:
            return np.ascontiguousarray(values.reshape(count, *values.shape[len(self.shape) :]))

        Sigmas = [rows(Sigma) for Sigma in self.Sigmas]
        return Estimates(rows(self.beta), Sigmas, rows(self.eta), rows(self.c))

    def part(self, chosen) -> Estimates:
        """Some of the rows of :meth:`flat`."""
        Sigmas = [Sigma[chosen] for Sigma in self.Sigmas]
        return Estimates(self.beta[chosen], Sigmas, self.eta[chosen], self.c[chosen])

    def theta(self) -> Theta:
        """Covariance parameters of the m draws, with one leading dimension."""
        flat = self.flat()
        parts = [np.zeros((len(flat.eta), 0))]
        parts += [np.array([lower_factor(S).ravel() for S in Sigma]) for Sigma in flat.Sigmas]
        F = np.ascontiguousarray(np.concatenate(parts, axis=1))
        return Theta(F, flat.eta, flat.c)


def estimates_of(fit: PosteriorResult | LikelihoodResult) -> Estimates:
    """Of either fit."""
    return posterior_estimates(fit) if is_posterior(fit) else likelihood_estimates(fit)


def likelihood_estimates(fit: LikelihoodResult, solution=None) -> Estimates:
    """Of a solution, by default that of the fit."""
    solution = fit._solution if solution is None else solution
    beta = np.zeros(len(fit.design.coef_names))
    beta[fit.kept] = solution.beta
    eta, c = fit._engine.residual_parameters(solution)
    return Estimates(beta, solution.Sigmas, eta, c)


def posterior_estimates(fit: PosteriorResult, posterior: xr.Dataset | None = None) -> Estimates:
    """Of draws, by default all of those of the fit."""
    design, posterior = fit.model.design, fit.posterior if posterior is None else posterior
    return Estimates(
        coefficient_draws(design, posterior)[1],
        covariance_draws(design, fit.names, posterior),
        *residual_parameters(design, posterior),
    )
