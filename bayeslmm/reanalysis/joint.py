"""Does a whole fixed term belong in the model? All of its coefficients against zero at once.

Given the covariance parameters theta the coefficients C beta are multivariate normal before and
after the data, so that the Savage-Dickey ratio is a ratio of two normal densities at zero, the
posterior one averaged over draws of theta (Wagenmakers, Lodewyckx, Kuriyal and Grasman 2010,
Cognitive Psychology 60(3)). The null model keeps the prior of the other coefficients given C beta =
0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bayeslmm.bayes.coefficients import fixed_prior
from bayeslmm.bayes.marginal import MarginalDensity, fixed_obstacle
from bayeslmm.errors import DataError, PriorError
from bayeslmm.formula import Design
from bayeslmm.gaussian import (
    FixedPrior,
)
from bayeslmm.protocols import Model
from bayeslmm.reanalysis.given_theta import coefficient_moments, problem_of
from bayeslmm.reanalysis.theta import ThetaDraws, draw_evidence

__all__ = ["JointTest", "term_columns"]


def term_columns(design: Design, name: str) -> np.ndarray | None:
    """Columns of a fixed term; None where there is no such term."""
    squeezed = "".join(name.split())
    for term in design.terms:
        if "".join(term.name.split()) == squeezed and term.name != "Intercept":
            return np.arange(len(design.coef_names))[term.columns]
    return None


@dataclass(frozen=True)
class JointTest:
    """Coefficients of one term against zero.

    Attributes
    ----------
    model : LMM
    density : MarginalDensity
        Of the model, under the prior that is tested.
    prior : FixedPrior
        Of all coefficients.
    columns : (k,) int array
    mean : (k,) array
    root : (k, k) array
        Prior mean of the coefficients, and the Cholesky factor of their prior covariance.
    rest : FixedPrior
        Of the other coefficients given that these are zero.
    """

    model: Model
    density: MarginalDensity
    prior: FixedPrior
    columns: np.ndarray
    mean: np.ndarray
    root: np.ndarray
    rest: FixedPrior

    @classmethod
    def of(cls, model, priors, density: MarginalDensity, columns: np.ndarray) -> JointTest:
        """Split the prior on beta into that of the term and that of the rest given zero.

        Raises
        ------
        PriorError
            If the prior of a coefficient of the term is flat.
        """
        if obstacle := fixed_obstacle(model.design, priors):
            raise PriorError(f"Several coefficients cannot be tested together: {obstacle}.")
        prior = fixed_prior(model.design, priors)
        inverse = np.linalg.pinv(prior.root)
        G = inverse[columns]  # C beta = G (z + target), z standard normal
        C = np.eye(prior.root.shape[1])[columns]
        if np.abs(G @ prior.root - C).max() > 1e-8:
            raise PriorError(
                "The prior of a coefficient of this term is flat, and a Bayes factor needs a "
                'proper one. Give prior=, such as blm.Prior("Normal", mu=0, sigma=...).'
            )
        root = np.linalg.cholesky(G @ G.T)
        Q = np.linalg.qr(G.T, mode="complete")[0][:, len(columns) :].T
        others = np.delete(np.arange(prior.root.shape[1]), columns)
        rest = FixedPrior(
            np.ascontiguousarray((Q @ prior.root)[:, others]),
            Q @ prior.target,
            prior.log_det + 2.0 * float(np.log(np.diag(root)).sum()),
        )
        return cls(model, density, prior, columns, G @ prior.target, root, rest)

    def log_bayes_factor(self, theta: ThetaDraws) -> tuple[float, float]:
        """log BF10 by the averaged density at zero, and its Monte Carlo error.

        Raises
        ------
        DataError
            If the data do not determine the coefficients.
        """
        C = np.eye(len(self.model.design.coef_names))[self.columns]
        mean, covariance = coefficient_moments(self.model.problem, self.prior, theta, C)
        try:
            roots = np.linalg.cholesky(covariance)
        except np.linalg.LinAlgError:
            raise DataError("The coefficients of this term are combinations of others.") from None
        z = np.linalg.solve(roots, mean[:, :, None])[:, :, 0]
        terms = _log_standard(z) - np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(axis=1)
        log_density = float(np.logaddexp.reduce(terms + theta.log_weights))
        z0 = np.linalg.solve(self.root, self.mean)
        at_prior = float(_log_standard(z0[None])[0] - np.log(np.diag(self.root)).sum())
        relative = np.exp(terms - log_density) - 1.0
        spread = np.linalg.norm(np.exp(theta.log_weights) * relative)
        return at_prior - log_density, float(spread * np.sqrt(theta.inefficiency))

    def log_evidences_ratio(self, random_seed: int, draws: int) -> tuple[float, float]:
        """log BF10 from both marginal likelihoods, each model sampled by itself."""
        pair = [
            draw_evidence(density, random_seed, draws)
            for density in (self.density, self.null_density())
        ]
        return pair[0].value - pair[1].value, float(np.hypot(pair[0].error, pair[1].error))

    def null_density(self) -> MarginalDensity:
        """The density of the covariance parameters without the term."""
        design = self.model.design
        X = np.delete(design.X, self.columns, axis=1)
        problem = problem_of(design, design.y - design.offset, X)
        return self.density.with_model(problem, self.rest)


def _log_standard(z: np.ndarray) -> np.ndarray:
    return -0.5 * (z**2).sum(axis=1) - 0.5 * z.shape[1] * np.log(2 * np.pi)
