"""Posteriors and Bayes factors under many priors from as few samplings as will do."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np

from bayeslmm.bayes.importance import MAX_K_HAT
from bayeslmm.errors import PriorError, SamplingWarning
from bayeslmm.parts.prior import Prior
from bayeslmm.reanalysis.bridge import Evidence
from bayeslmm.reanalysis.integrated import EffectLikelihood, EffectSource
from bayeslmm.reanalysis.posteriors import EffectPosterior, normal_parameters, posterior_under
from bayeslmm.reanalysis.response_source import ResponseSource

__all__ = ["Reweighter"]

#: A Savage-Dickey ratio with a larger relative Monte Carlo error is replaced by a ratio of two
#: marginal likelihoods.
BF_ERROR = 0.05


@dataclass
class Reweighter:
    """Draws of theta under one or several base priors, and what follows for any other.

    Attributes
    ----------
    source : EffectSource or ResponseSource
    likelihoods : list of EffectLikelihood
        Grows where reweighting is refused.
    notes : list of str
        What was done beyond reweighting.
    """

    source: EffectSource | ResponseSource
    likelihoods: list[EffectLikelihood]
    notes: list[str] = field(default_factory=list)
    _null: Evidence | None = None

    def posterior(self, prior: Prior, name: str | None = None) -> EffectPosterior:
        """The posterior under a prior, from the draws that are nearest to it.

        Raises
        ------
        PriorError
            If the prior is flat and the posterior then improper.

        Warns
        -----
        SamplingWarning
            If k-hat stays above 0.7 after drawing again.
        """
        if not prior.is_proper and (obstacle := self.source.flat_obstacle()):
            raise PriorError(f"{obstacle} Use a proper prior on it.")
        best = self._best(prior, self.likelihoods)
        if _good(best):
            return best
        label = name or repr(prior)
        if not self.source.is_drawn_again:
            if best.k_hat > MAX_K_HAT:
                self._warn(label, best.k_hat, "the covariance parameters cannot be drawn again")
            return best
        again = posterior_under(self._drawn_near(prior, best), prior)
        self.notes.append(
            f"{label}: reweighting left {best.effective_draws:.0f} effective draws (k-hat "
            f"{best.k_hat:.2f}), so {self.source.drawn} were drawn again under this prior."
        )
        if again.k_hat > MAX_K_HAT:
            self._warn(label, again.k_hat, "prior and data are very far apart")
        return again

    def _best(self, prior: Prior, likelihoods: list[EffectLikelihood]) -> EffectPosterior:
        found = []
        for likelihood in likelihoods:
            found.append(posterior_under(likelihood, prior))
            if _good(found[-1]):
                return found[-1]
        return min(found, key=lambda posterior: posterior.k_hat)

    def _drawn_near(self, prior: Prior, first: EffectPosterior) -> EffectLikelihood:
        """Draws under the prior itself or, where it is not normal, under a wide normal one."""
        base = normal_parameters(prior) or (first.mean, 3.0 * max(first.sd, 1e-12))
        self.likelihoods.append(self.source.likelihood(*base))
        return self.likelihoods[-1]

    @staticmethod
    def _warn(label: str, k_hat: float, why: str) -> None:
        warnings.warn(
            f"The posterior under {label} is unreliable: k-hat {k_hat:.2f}, and {why}.",
            SamplingWarning,
            stacklevel=4,
        )

    def log_bayes_factor(
        self, posterior: EffectPosterior, value: float = 0.0
    ) -> tuple[float, float, str]:
        """log BF10 against e = value, its Monte Carlo error, and the method.

        Savage-Dickey where the draws reach ``value``; otherwise the marginal likelihoods of both
        models, the null sampled by itself.
        """
        if not posterior.prior.is_proper:
            return np.nan, np.nan, "improper prior"
        log_bf, error = posterior.log_bayes_factor(value)
        poor = error > BF_ERROR or posterior.null_k_hat(value) > MAX_K_HAT
        if not poor or not self.source.is_drawn_again or not self._has_evidence():
            return log_bf, error, "Savage-Dickey"
        top, noise = self.log_evidence(posterior)
        null = self._null_evidence(value)
        return top - null.value, float(np.hypot(noise, null.error)), "marginal likelihoods"

    def _has_evidence(self) -> bool:
        """Flat priors on what both models share cancel only within one set of draws."""
        names = self.source.nuisance_priors()
        return all(prior.is_proper for prior in names)

    def _null_evidence(self, value: float) -> Evidence:
        if self._null is None:
            self._null = self.source.null_evidence(value)
            self.notes.append(
                "The point null is far from the draws: it was sampled by itself, and Bayes "
                "factors that need it are ratios of two marginal likelihoods."
            )
        return self._null

    def log_evidence(self, posterior: EffectPosterior) -> tuple[float, float]:
        """log p(y) under a posterior's prior, and its Monte Carlo error."""
        if posterior.likelihood.evidence is None:
            able = [item for item in self.likelihoods if item.evidence is not None]
            if not able:
                able = [self.source.likelihood()]
                self.likelihoods += able
            fresh = self._best(posterior.prior, able)
            if not _good(fresh):
                fresh = posterior_under(self._drawn_near(posterior.prior, fresh), posterior.prior)
            posterior = fresh
        ratio, noise = posterior.log_evidence_ratio()
        base = posterior.likelihood.evidence
        assert base is not None  # of likelihoods that have one
        return base.value + ratio, float(np.hypot(base.error, noise))


def _good(posterior: EffectPosterior) -> bool:
    """Whether reweighting is trusted; draws that were not reweighted are taken as they are."""
    if posterior.log_weights is posterior.likelihood.log_weights:
        return True
    return (
        not posterior.k_hat > MAX_K_HAT and posterior.effective_draws >= posterior.likelihood.enough
    )
