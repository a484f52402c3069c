"""Draws of the joint posterior where effects are sampled, and marginal likelihoods: of responses
that are not Gaussian, and of Student-t residuals and effects.

Parameters and effects together, in coordinates where their joint posterior is near a standard
normal: importance sampling around its mode, or chains and a bridge from them where the weights
cannot be trusted. Both are of the exact joint density; the Laplace approximation is only where they
start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeslmm.bayes.importance import MAX_K_HAT
from bayeslmm.bayes.laplace_posterior import laplace_posterior, whitened_obstacle
from bayeslmm.bayes.nuts import processors
from bayeslmm.bayes.sampling import Sampling
from bayeslmm.bayes.whitened_fitting import WHITENED_TUNE, whitened_chains, whitened_sample
from bayeslmm.bayes.whitening import WhitenedPosterior, whitened_posterior
from bayeslmm.compiling import expect
from bayeslmm.errors import PriorError
from bayeslmm.gaussian import single_threaded_blas
from bayeslmm.reanalysis.bridge import Evidence, bridge_sampling
from bayeslmm.reanalysis.theta import slowest

if TYPE_CHECKING:
    from bayeslmm.formula import Design
    from bayeslmm.parts.prior import Prior
    from bayeslmm.priors.table import Priors
    from bayeslmm.protocols import PosteriorResult

__all__ = ["JointDraws", "joint_draws", "response_evidence"]


@dataclass(frozen=True)
class JointDraws:
    """Equally weighted draws of parameters and effects.

    Attributes
    ----------
    density : WhitenedPosterior
    z : (n, n_dim) array
    effective : float
        Independent draws behind them.
    k_hat : float
        Pareto shape of the weights that they were resampled by; nan for draws of chains.
    evidence : Evidence
        log p(y).
    """

    density: WhitenedPosterior
    z: np.ndarray
    effective: float
    k_hat: float
    evidence: Evidence


def joint_draws(
    design: Design,
    priors: Priors,
    coefficients: tuple[np.ndarray, Sequence[Prior]] | None = None,
    *,
    keep: int,
    draws: int,
    random_seed: int,
    importance: bool = True,
    cores: int | None = None,
) -> JointDraws:
    """Importance sampling, and NUTS with a bridge where its k-hat is above 0.7.

    Parameters
    ----------
    coefficients : optional
        As of :func:`bayeslmm.bayes.whitening.laplace_posterior`.
    keep : int
        Draws to return.
    draws : int
        Draws to make.
    importance : bool
        Whether weights are tried at all.

    Raises
    ------
    PriorError
        If a prior is not one the compiled density knows.
    SamplingError
        If the density cannot be sampled, or the bridge does not settle.
    """
    if obstacle := whitened_obstacle(design, priors):
        raise PriorError(f"The joint density is not available: {obstacle}.")
    rng = np.random.default_rng(np.random.SeedSequence([random_seed, 14]))
    cores = processors() if cores is None else cores
    expect(np.inf)  # rows are too many evaluations for Python
    with single_threaded_blas():
        laplace = laplace_posterior(design, priors, coefficients)
        density = whitened_posterior(laplace, signed=False)
        if importance:
            sample = whitened_sample(density, draws, rng, cores)
            if sample.k_hat <= MAX_K_HAT:
                value = sample.log_evidence + density.log_scale
                found = Evidence(value, sample.log_evidence_error, "importance")
                z = sample.x[sample.resample(keep, rng)]
                return JointDraws(density, z, sample.effective_draws, sample.k_hat, found)
        # a bridge whose proposal is placed by half the draws needs some for every dimension
        per_chain = max(draws // 4, density.n_dim, 250)
        sampling = Sampling(draws=per_chain, random_seed=random_seed + 1, cores=cores)
        chains, _ = whitened_chains(density, sampling, WHITENED_TUNE)
        joint: Any = density
        found = bridge_sampling(joint, chains, rng)
    found = Evidence(found.value + density.log_scale, found.error, found.method)
    every = chains.reshape(-1, density.n_dim)
    at = np.linspace(0, len(every) - 1, keep).astype(int)
    effective = slowest(chains[:, :, : density.n_low])
    return JointDraws(density, every[at], effective, np.nan, found)


def response_evidence(
    fit: PosteriorResult, *, method: str, draws: int, random_seed: int
) -> Evidence:
    """log p(y) under the priors of a fit.

    Parameters
    ----------
    method : {"bridge", "importance"}
        Chains and a bridge from them; or importance sampling, and these where its k-hat is above
        0.7.
    draws : int
    random_seed : int

    Raises
    ------
    PriorError
        If a prior is not one the compiled density knows.
    SamplingError
        If the bridge does not settle.
    """
    return joint_draws(
        fit.model.design,
        fit.priors,
        keep=1,
        draws=draws,
        random_seed=random_seed,
        importance=method == "importance",
    ).evidence
