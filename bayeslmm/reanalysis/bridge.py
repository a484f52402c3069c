"""Log marginal likelihoods by bridge sampling on the covariance parameters.

Coefficients and random effects are integrated out exactly, so the bridge spans only the standard
deviations, correlations and sigma, in unconstrained coordinates. The optimal bridge function is
that of Meng and Wong (1996, Statistica Sinica 6), the posterior is centered, scaled and made
symmetric first (Warp-III: Meng and Schilling 2002, J. Comp. Graph. Stat. 11(3)), and the error is
Fruehwirth-Schnatter's (2004, Econometrics Journal 7(1)) with the autocorrelation of the draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bayeslmm.bayes.marginal import MarginalDensity
from bayeslmm.errors import SamplingError

__all__ = ["Evidence", "bridge_sampling", "optimal_bridge"]

_MAX_ROUNDS = 500


@dataclass(frozen=True)
class Evidence:
    """A log marginal likelihood.

    Attributes
    ----------
    value : float
        log p(y).
    error : float
        Its Monte Carlo standard error, which is the relative error of p(y).
    method : str
        ``"bridge"`` or ``"importance"``.
    """

    value: float
    error: float
    method: str


def bridge_sampling(density: MarginalDensity, x: np.ndarray, rng: np.random.Generator) -> Evidence:
    """log of the integral of the density, from draws of it.

    Parameters
    ----------
    density : MarginalDensity
    x : (chains, draws, d) array
        Posterior draws. The first half of each chain places the proposal, the second half is
        bridged to it, so that the two are independent.
    rng : numpy.random.Generator

    Raises
    ------
    SamplingError
        If there are fewer than 40 draws, or the iteration does not settle.
    """
    half = x.shape[1] // 2
    d = x.shape[2]
    placing, bridged = x[:, :half].reshape(-1, d), x[:, half:]
    if len(placing) < max(20, 2 * d):
        raise SamplingError("Bridge sampling needs more posterior draws: a few hundred at least.")
    center = placing.mean(axis=0)
    covariance = np.atleast_2d(np.cov(placing, rowvar=False))
    try:
        root = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        raise SamplingError(
            "The posterior draws of the covariance parameters do not vary in every direction; "
            "no proposal can be placed around them."
        ) from None
    flat = bridged.reshape(-1, d)
    z_posterior = np.linalg.solve(root, (flat - center).T).T
    z_proposal = rng.standard_normal((len(flat), d))
    gains = []
    for z in (z_posterior, z_proposal):
        # symmetrized about the center: |root| [q(c + R z) + q(c - R z)] / 2
        both = np.logaddexp(
            _finite(density.values(center + z @ root.T)),
            _finite(density.values(center - z @ root.T)),
        )
        log_q = both - np.log(2.0) + np.log(np.diag(root)).sum()
        log_g = -0.5 * (z**2).sum(axis=1) - 0.5 * d * np.log(2 * np.pi)
        gains.append(log_q - log_g)
    value, error = optimal_bridge(gains[0].reshape(bridged.shape[:2]), gains[1])
    return Evidence(value, error, "bridge")


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, -1e300)


def optimal_bridge(posterior: np.ndarray, proposal: np.ndarray) -> tuple[float, float]:
    """Log of the normalizing constant of q, and its relative error.

    Parameters
    ----------
    posterior : (chains, draws) array
        log q - log g at draws of q.
    proposal : (m,) array
        log q - log g at independent draws of g.

    Raises
    ------
    SamplingError
        If the iteration does not settle.
    """
    from arviz_stats.base import array_stats

    at_q, at_g = posterior.ravel(), proposal
    n, m = len(at_q), len(at_g)
    s1, s2 = n / (n + m), m / (n + m)
    shift = float(np.median(at_q))
    at_q, at_g = at_q - shift, at_g - shift
    log_r = 0.0
    for _ in range(_MAX_ROUNDS):
        top = np.exp(at_g - np.logaddexp(np.log(s1) + at_g, np.log(s2) + log_r)).mean()
        low = np.exp(-np.logaddexp(np.log(s1) + at_q, np.log(s2) + log_r)).mean()
        new = float(np.log(top) - np.log(low))
        if not np.isfinite(new):
            break
        change, log_r = abs(new - log_r), new
        if change < 1e-10:
            f1 = np.exp(at_g - log_r - np.logaddexp(np.log(s1) + at_g - log_r, np.log(s2)))
            f2 = np.exp(-np.logaddexp(np.log(s1) + at_q - log_r, np.log(s2)))
            chains = f2.reshape(posterior.shape)
            effective = float(array_stats.ess(chains, method="mean")) if np.ptp(f2) > 0 else n
            effective = float(np.clip(effective, 1.0, n)) if np.isfinite(effective) else 1.0
            squared = np.var(f1) / (m * f1.mean() ** 2)
            squared += np.var(f2) / (effective * f2.mean() ** 2)
            return log_r + shift, float(np.sqrt(squared))
    raise SamplingError(
        "The bridge between posterior and proposal did not settle: they hardly overlap. Ask for "
        "more draws."
    )
