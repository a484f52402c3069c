"""Log densities of the priors at the draws of a posterior."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.bayes.draws import coefficient_draws, prior_covariance_draws
from bayeslmm.bayes.laplace_posterior import samples_effects
from bayeslmm.bayes.names import ModelNames
from bayeslmm.bayes.residual_draws import residual_parameters
from bayeslmm.errors import PriorError
from bayeslmm.formula import Design
from bayeslmm.parts.parameters import coef_key, corr_key, nu_key, sd_key
from bayeslmm.parts.scales import log_densities, supported_scale
from bayeslmm.priors.residual_priors import CORR_KEY, log_scale_keys, scalar_key, scale_keys
from bayeslmm.priors.table import Priors

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["log_prior_draws", "log_scale_prior"]


def log_prior_draws(
    design: Design, names: ModelNames, priors: Priors, posterior: xr.Dataset
) -> dict[str, np.ndarray]:
    """Log density of every prior at every draw, shapes (chains, draws), by the prior's key.

    Of the parameters themselves, not of the coordinates that are sampled; of correlations up to a
    constant.

    Raises
    ------
    PriorError
        If a prior's density is not known here, or is one of several coefficients together.
    """
    if (together := priors.shrinkage) is not None:
        raise PriorError(
            f"Power-scaling is about priors of single parameters, and {together.prior!r} is one of "
            f"{len(together.names)} coefficients together: fit the model under another one."
        )
    out: dict[str, np.ndarray] = {}
    coefs, beta = coefficient_draws(design, posterior)
    combinations = beta @ priors.combinations().T
    for j, name in enumerate(coefs):
        out[coef_key(name)] = log_densities(priors[coef_key(name)], combinations[:, :, j])
    effects = zip(
        design.blocks, names.factors, prior_covariance_draws(design, names, posterior, priors),
        strict=True,
    )  # fmt: skip
    for block, factor, Sigma in effects:
        sd = np.sqrt(np.diagonal(Sigma, axis1=-2, axis2=-1))
        for j, effect in enumerate(block.effects):
            key = sd_key(effect, block.name)
            out[key] = log_scale_prior(key, priors[key], sd[:, :, j])
        if block.correlated_pairs():
            key = corr_key(block.name)
            corr = Sigma / (sd[..., :, None] * sd[..., None, :])
            out[key] = _log_lkj(corr, block, priors[key])
        if factor.nu in posterior:
            key = nu_key(block.name)
            out[key] = log_densities(priors[key], posterior[factor.nu].to_numpy())
    own = _log_response_priors if samples_effects(design, priors) else _log_residual_priors
    out |= own(design, priors, posterior)
    if absent := [key for key in priors if key not in out]:
        raise PriorError(f"The density of the prior of {absent[0]} is not known here.")
    return {key: out[key] for key in priors}


def _log_residual_priors(design, priors: Priors, posterior) -> dict[str, np.ndarray]:
    """Log densities of the priors of residual standard deviations and correlations."""
    eta, c = residual_parameters(design, posterior)
    own = scale_keys(design)
    out = {
        key: log_scale_prior(key, priors[key], np.exp(eta[:, :, i])) for i, key in enumerate(own)
    }
    for i, key in enumerate(log_scale_keys(design), start=len(own)):
        out[key] = log_densities(priors[key], eta[:, :, i])
    if scalar := scalar_key(design):
        out[scalar] = log_densities(priors[scalar], c[:, :, 0])
    if CORR_KEY in priors:
        R = c.reshape(*c.shape[:2], *2 * [len(design.stated_residual.times)])
        out[CORR_KEY] = (priors[CORR_KEY].parameters["eta"] - 1.0) * np.linalg.slogdet(R)[1]
    return out


def _log_response_priors(design, priors: Priors, posterior) -> dict[str, np.ndarray]:
    """Log densities of the priors of a family's parameters."""
    out = {}
    shape = posterior.sizes["chain"], posterior.sizes["draw"]
    for own in design.family.parameters:
        at = posterior[own.key].to_numpy().reshape(*shape, own.size)
        if own.transform == "ordered":  # thresholds are meant at the means of the predictors
            at = at - (coefficient_draws(design, posterior)[1] @ priors.means)[..., None]
        out[own.key] = log_densities(priors[own.key], at).sum(axis=-1)
    return out


def log_scale_prior(key: str, prior, sd: np.ndarray) -> np.ndarray:
    """Log prior density of a standard deviation (not of its logarithm)."""
    if not supported_scale(prior):
        raise PriorError(f"The density of the prior of {key}, {prior!r}, is not known here.")
    return log_densities(prior, sd)


def _log_lkj(corr: np.ndarray, block, prior) -> np.ndarray:
    """Log LKJ density of every correlated part, up to its constant."""
    total = np.zeros(corr.shape[:2])
    for part in block.pattern:
        if len(part) > 1:
            inner = corr[:, :, list(part)][:, :, :, list(part)]
            total += np.linalg.slogdet(inner)[1]
    return (prior.parameters["eta"] - 1.0) * total
