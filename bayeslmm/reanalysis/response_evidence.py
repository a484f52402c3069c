"""Log marginal likelihoods where effects are sampled: of responses that are not Gaussian, and of
Student-t residuals and effects.

Parameters and effects together, in coordinates where their joint posterior is near a standard
normal: importance sampling around its mode, or bridge sampling from chains where the weights cannot
be trusted. Both are of the exact joint density; the Laplace approximation is only where they start.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeslmm.bayes.importance import MAX_K_HAT
from bayeslmm.bayes.nuts import processors
from bayeslmm.bayes.sampling import Sampling
from bayeslmm.bayes.whitened_fitting import WHITENED_TUNE, whitened_chains, whitened_sample
from bayeslmm.bayes.whitening import laplace_posterior, whitened_obstacle, whitened_posterior
from bayeslmm.errors import PriorError
from bayeslmm.gaussian import single_threaded_blas
from bayeslmm.reanalysis.bridge import Evidence, bridge_sampling

if TYPE_CHECKING:
    from bayeslmm.protocols import PosteriorResult

__all__ = ["response_evidence"]


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
    design = fit.model.design
    if obstacle := whitened_obstacle(design, fit.priors):
        raise PriorError(f"The marginal likelihood is not available: {obstacle}.")
    rng = np.random.default_rng(np.random.SeedSequence([random_seed, 14]))
    with single_threaded_blas():
        density = whitened_posterior(laplace_posterior(design, fit.priors), signed=False)
        found = None
        if method == "importance":
            sample = whitened_sample(density, draws, rng, processors())
            if sample.k_hat <= MAX_K_HAT:
                found = Evidence(sample.log_evidence, sample.log_evidence_error, "importance")
        if found is None:
            # a bridge whose proposal is placed by half the draws needs some for every dimension
            per_chain = max(draws // 4, density.n_dim, 250)
            sampling = Sampling(draws=per_chain, random_seed=random_seed + 1)
            z, _ = whitened_chains(density, sampling, WHITENED_TUNE)
            joint: Any = density
            found = bridge_sampling(joint, z, rng)
    return replace(found, value=found.value + density.log_scale)
