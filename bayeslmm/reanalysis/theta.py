"""Weighted draws of the covariance parameters under one prior, with their evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.bayes.importance import MAX_K_HAT, importance_sample
from bayeslmm.bayes.marginal import MarginalDensity
from bayeslmm.bayes.marginal_fitting import sample_covariances
from bayeslmm.bayes.mode import find_mode
from bayeslmm.bayes.nuts import processors
from bayeslmm.bayes.sampling import Sampling
from bayeslmm.bayes.shrinkage import drawn_scalars
from bayeslmm.gaussian import single_threaded_blas
from bayeslmm.reanalysis.bridge import Evidence, bridge_sampling
from bayeslmm.reanalysis.given_theta import ThetaDraws
from bayeslmm.results.estimates import posterior_estimates

if TYPE_CHECKING:
    from bayeslmm.protocols import PosteriorResult

__all__ = [
    "ThetaDraws",
    "draw_evidence",
    "draw_theta",
    "effective_resampled",
    "fitted_factors",
    "fitted_theta",
    "slowest",
    "smooth_weights",
]


def draw_theta(
    density: MarginalDensity,
    random_seed: int,
    draws: int = 4000,
    cores: int | None = None,
    first: np.ndarray | None = None,
) -> ThetaDraws:
    """Importance sampling, and NUTS with bridge sampling where its k-hat is above 0.7.

    Parameters
    ----------
    density : MarginalDensity
    random_seed : int
    draws : int
    cores : int, optional
    first : (d,) array, optional
        Where to start looking for the mode.

    Raises
    ------
    SamplingError
        If neither can sample the density.
    """
    return _drawn(density, random_seed, draws, cores, first)[0]


def draw_evidence(
    density: MarginalDensity, random_seed: int, draws: int = 4000, cores: int | None = None
) -> Evidence:
    """log p(y) by the draws of :func:`draw_theta`."""
    return _drawn(density, random_seed, draws, cores, None)[1]


def _drawn(
    density: MarginalDensity,
    random_seed: int,
    draws: int,
    cores: int | None,
    first: np.ndarray | None,
) -> tuple[ThetaDraws, Evidence]:
    cores = processors() if cores is None else cores
    rng = np.random.default_rng(np.random.SeedSequence([random_seed, 11]))
    with single_threaded_blas():
        mode = find_mode(density) if first is None else find_mode(density, (0.5,), first=first)
        sample = importance_sample(density, mode, draws, rng, cores)
        if sample.k_hat <= MAX_K_HAT:
            keep = sample.log_weights > sample.log_weights.max() - 40.0
            at = density.natural(sample.x[keep])
            evidence = Evidence(sample.log_evidence, sample.log_evidence_error, "importance")
            weights = sample.log_weights[keep]
            theta = ThetaDraws(*at, weights, sample.k_hat, 1.0, evidence, "importance")
            return theta, evidence
        x = sample_covariances(
            density,
            mode,
            Sampling(draws=max(draws // 4, 250), cores=cores, random_seed=random_seed),
            draw_rest=False,
        ).x
        at = density.natural(x.reshape(-1, x.shape[-1]))
        evidence = bridge_sampling(density, x, rng)
    n = len(at[0])
    equal = np.full(n, -np.log(n))
    return ThetaDraws(*at, equal, np.nan, n / slowest(x), evidence, "nuts"), evidence


def slowest(x: np.ndarray) -> float:
    """Smallest effective sample size over the coordinates of (chains, draws, d) draws."""
    from arviz_stats.base import array_stats

    ess = [float(array_stats.ess(x[:, :, i], method="mean")) for i in range(x.shape[2])]
    return float(np.clip(np.nanmin(ess), 1.0, x.shape[0] * x.shape[1]))


def fitted_factors(fit: PosteriorResult) -> ThetaDraws:
    """The draws a posterior fit already has, equally weighted."""
    found = posterior_estimates(fit)
    theta = found.theta()
    x = np.concatenate([found.eta, found.c, _log_sds(fit, fit.posterior)], axis=2)
    n = len(theta.eta)
    inefficiency = max(n / slowest(x), n / effective_resampled(fit))
    equal = np.full(n, -np.log(n))
    return ThetaDraws(
        theta.F, theta.eta, theta.c, equal, np.nan, inefficiency, None, fit.info.method
    )


def effective_resampled(fit: PosteriorResult) -> float:
    """Effective draws behind those a fit resampled by weight; infinite for draws of chains."""
    found = [fit.info.effective_draws]
    if fit.conditioning is not None:
        found.append(fit.conditioning.effective_draws)
    noise = sum(1.0 / n for n in found if n is not None)
    return 1.0 / noise if noise else np.inf


def _log_sds(fit: PosteriorResult, posterior) -> np.ndarray:
    parts = [np.log(np.maximum(posterior[f.sd].to_numpy(), 1e-300)) for f in fit.names.factors]
    shape = posterior["sigma"].shape
    return np.concatenate([np.zeros((*shape, 0)), *parts], axis=2)


def fitted_theta(fit: PosteriorResult, density: MarginalDensity) -> np.ndarray:
    """Unconstrained coordinates (chains, draws, d) of a posterior fit's draws."""
    theta = fitted_factors(fit)
    found = zip(theta.factors, theta.eta, theta.c, *_given(fit, density), strict=True)
    x = np.array([density.position(*at) for at in found])
    return x.reshape(*fit.posterior["sigma"].shape, -1)


def _given(fit: PosteriorResult, density: MarginalDensity) -> tuple:
    """beta and scalars of each draw, where the density is one of coefficients too."""
    posterior = fit.posterior
    n, lifted, together = posterior["sigma"].size, density.fixed.lifted, fit.priors.shrinkage
    if lifted is None:
        return [None] * n, [None] * n
    beta = posterior["beta"].to_numpy().reshape(n, -1)
    if together is None:
        return beta, np.zeros((n, 0))
    return beta, drawn_scalars(together, posterior, np.random.default_rng(0))


def smooth_weights(log_ratios: np.ndarray) -> tuple[np.ndarray, float]:
    """Pareto-smoothed, normalized log weights, and k-hat (Vehtari et al. 2024)."""
    from arviz_stats.base import array_stats

    raw = np.where(np.isfinite(log_ratios), log_ratios, -np.inf)
    top = raw.max()
    floor = np.maximum(raw, top - 700.0)
    if np.ptp(floor) < 1e-9:  # nothing to smooth
        return np.full(len(raw), -np.log(len(raw))), -np.inf
    smoothed, k_hat = array_stats.psislw(-(floor - top))
    smoothed = np.asarray(smoothed)
    return smoothed - np.logaddexp.reduce(smoothed), float(k_hat)
