"""Where the likelihood of an effect comes from: a model, sampled for it, or the draws of a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bayeslmm.bayes.coefficients import pins
from bayeslmm.bayes.laplace_posterior import samples_effects, whitened_obstacle
from bayeslmm.protocols import is_posterior
from bayeslmm.reanalysis.effects import effect_row
from bayeslmm.reanalysis.integrated import EffectLikelihood, EffectSource, effect_source
from bayeslmm.reanalysis.response_source import ResponseSource, response_source
from bayeslmm.reanalysis.theta import fitted_factors

if TYPE_CHECKING:
    from bayeslmm.formula import Design
    from bayeslmm.priors.table import Priors
    from bayeslmm.protocols import Model, PosteriorResult

__all__ = ["source_and_likelihood"]


def source_and_likelihood(
    model_or_fit: Model | PosteriorResult,
    effect,
    *,
    random_seed: int,
    draws: int = 4000,
    cores: int | None = None,
) -> tuple[EffectSource | ResponseSource, EffectLikelihood]:
    """From a model (sampled under a flat prior on e) or from a fit (its own draws).

    Where random effects are sampled with the parameters, and beside coefficients whose values are
    sampled, a model or the model of a fit is sampled under its own priors.
    """
    base: Any = getattr(model_or_fit, "model", model_or_fit)
    if hasattr(base, "design") and _by_slices(base.design, model_or_fit.priors, effect):
        own = response_source(
            base, model_or_fit.priors, effect, random_seed=random_seed, draws=draws, cores=cores
        )
        return own, own.likelihood_under(own.effect.prior)
    if is_posterior(model_or_fit):
        fit = model_or_fit
        source = effect_source(
            fit.model, fit.priors, effect, random_seed=random_seed, draws=draws, cores=cores
        )
        old = fit.conditioning is not None and not fit.conditioning.reweighted
        if old or not _own_prior_is_normal(source):  # else its draws are of this posterior
            return source, source.likelihood()
        theta = fitted_factors(fit)
        return source, source.likelihood_at(theta, source.effect.mean, source.effect.sd)
    model = model_or_fit
    if not hasattr(model, "design"):
        raise TypeError(f"Give a model or a posterior fit, not {type(model).__name__}.")
    source = effect_source(
        model, model.priors, effect, random_seed=random_seed, draws=draws, cores=cores
    )
    return source, source.likelihood()


def _by_slices(design: Design, priors: Priors, effect) -> bool:
    """Whether slices of the joint density are taken: nothing is normal in closed form."""
    if samples_effects(design, priors):
        return True
    row = effect_row(design, effect)[1]
    alone = (row != 0) & (np.count_nonzero(row) == 1)
    beside = pins(design, priors) & ~alone
    return bool(beside.any()) and whitened_obstacle(design, priors) is None


def _own_prior_is_normal(source: EffectSource) -> bool:
    from bayeslmm.bayes.marginal import fixed_obstacle

    return fixed_obstacle(source.model.design, source.priors) is None
