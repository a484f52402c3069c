"""Where the likelihood of an effect comes from: a model, sampled for it, or the draws of a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bayeslmm.protocols import is_posterior
from bayeslmm.reanalysis.integrated import EffectLikelihood, EffectSource, effect_source
from bayeslmm.reanalysis.response_source import ResponseSource, response_source
from bayeslmm.reanalysis.theta import fitted_factors
from bayeslmm.results.support import refuse_unless_derived

if TYPE_CHECKING:
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

    Where the response is not Gaussian, a model or the model of a fit is sampled under its own
    priors.
    """
    base: Any = getattr(model_or_fit, "model", model_or_fit)
    if hasattr(base, "design") and not base.design.family.gaussian:
        refuse_unless_derived(base, "Reanalysis of an effect", families=True)
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


def _own_prior_is_normal(source: EffectSource) -> bool:
    from bayeslmm.bayes.marginal import fixed_obstacle

    return fixed_obstacle(source.model.design, source.priors) is None
