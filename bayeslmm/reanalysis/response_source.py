"""An effect of a model whose random effects are sampled, as a coordinate of its own.

So with responses that are not Gaussian and with Student-t residuals and effects, and beside
coefficients whose priors are not normal.

The priors are independent ones of combinations A beta. The effect e = c'beta replaces one of them
and the others are chosen so that all are independent again: given normal priors of the combinations
that e is made of, what is left of these after e is a rotation. Then the prior on e is one of the
factors of the joint density, which can be any other, and e one of the coordinates it is sampled in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bayeslmm.bayes.coefficients import coef_keys
from bayeslmm.bayes.laplace_posterior import whitened_obstacle
from bayeslmm.bayes.marginal import modeled_obstacle
from bayeslmm.errors import PriorError
from bayeslmm.formula import Design
from bayeslmm.parts.prior import Prior
from bayeslmm.parts.scales import LINE_FAMILIES
from bayeslmm.priors.propriety import refuse_improper_posterior, separated, undetermined
from bayeslmm.priors.table import Priors
from bayeslmm.reanalysis.bridge import Evidence
from bayeslmm.reanalysis.effects import effect_row, reflection
from bayeslmm.reanalysis.integrated import nothing_said
from bayeslmm.reanalysis.posteriors import normal_parameters
from bayeslmm.reanalysis.response_evidence import JointDraws, joint_draws
from bayeslmm.reanalysis.slices import SliceLikelihood

if TYPE_CHECKING:
    from bayeslmm.protocols import Model

__all__ = ["ResponseEffect", "ResponseSource", "response_source"]

#: Slices of the joint density that stand for the posterior of all but the effect.
_SLICES = 500


@dataclass(frozen=True)
class ResponseEffect:
    """e = row'beta as one of p combinations of the coefficients with independent priors.

    Attributes
    ----------
    label : str
    row : (p,) array
    combinations : (p, p) array
        ``row`` is its row ``at``.
    priors : tuple of Prior
        Of the combinations.
    at : int
    """

    label: str
    row: np.ndarray
    combinations: np.ndarray
    priors: tuple[Prior, ...]
    at: int

    @property
    def prior(self) -> Prior:
        """Of the effect."""
        return self.priors[self.at]

    @property
    def mean(self) -> float:
        """Of a normal prior of the effect."""
        return (normal_parameters(self.prior) or (0.0, np.inf))[0]

    @property
    def sd(self) -> float:
        """Of a normal prior of the effect; infinite where it is another."""
        return (normal_parameters(self.prior) or (0.0, np.inf))[1]

    @property
    def direction(self) -> np.ndarray:
        """Change of beta (p,) that moves e by one and leaves the other combinations alone."""
        return np.linalg.inv(self.combinations)[:, self.at]

    def under(self, prior: Prior) -> tuple[np.ndarray, tuple[Prior, ...]]:
        """Combinations and priors, with another one of the effect."""
        own = list(self.priors)
        own[self.at] = prior
        return self.combinations, tuple(own)


def response_effect(design: Design, priors: Priors, effect) -> ResponseEffect:
    """Make an effect one of the combinations that have independent priors.

    Parameters
    ----------
    effect : str, dict or array
        See :func:`bayeslmm.reanalysis.effects.effect_row`.

    Raises
    ------
    ValueError
        If there is no such effect.
    PriorError
        If it is made of several combinations of which one has neither a normal nor a flat prior.
    """
    label, row = effect_row(design, effect)
    A, keys = priors.combinations().copy(), list(coef_keys(design))
    own = [priors[key] for key in keys]
    weights = np.linalg.solve(A.T, row)  # c'beta = weights'(A beta)
    weights[np.abs(weights) <= 1e-12 * np.abs(weights).max()] = 0.0
    used = np.flatnonzero(weights)
    if len(used) == 1 and weights[used[0]] == 1:
        at = int(used[0])
        if own[at].name not in LINE_FAMILIES or own[at].name == "Beta":
            own[at] = Prior("Flat")  # not known to the density: taken as any other is
        return ResponseEffect(label, row, A, tuple(own), at)
    normal: dict[int, tuple[float, float]] = {}
    for j in used.tolist():
        if (found := normal_parameters(own[j])) is None:
            raise PriorError(
                f"The prior of {keys[j]} is {own[j]!r}; the coefficients that {label} is made of "
                "need normal or flat priors, so that its own prior can be taken out of theirs"
                + (f" (or set a prior on {label} itself)." if np.count_nonzero(row) == 1 else ".")
            )
        normal[j] = found
    flat = [j for j in normal if not np.isfinite(normal[j][1])]
    at = max(flat or normal, key=lambda j: abs(weights[j]))
    if not flat:
        _rotate(A, own, weights, [at, *(j for j in normal if j != at)], normal)
    A[at] = row
    if flat:
        own[at] = Prior("Flat")
    return ResponseEffect(label, row, A, tuple(own), at)


def _rotate(A: np.ndarray, own: list[Prior], weights: np.ndarray, used: list[int], normal) -> None:
    """Independent combinations of which the first is the effect, in place."""
    mean, sd = np.array([normal[j] for j in used]).T
    w = weights[used] * sd
    own_sd = float(np.linalg.norm(w))
    H = reflection(w / own_sd)[1:] / sd
    own[used[0]] = Prior("Normal", mu=float(weights[used] @ mean), sigma=own_sd)
    for j, h, center in zip(used[1:], H @ A[used], H @ mean, strict=True):
        A[j] = h
        own[j] = Prior("Normal", mu=float(center), sigma=1.0)


@dataclass(frozen=True)
class ResponseSource:
    """A model whose effect can be sampled under any prior; as
    :class:`bayeslmm.reanalysis.integrated.EffectSource`.

    Attributes
    ----------
    model : Model
    priors : Priors
    effect : ResponseEffect
    random_seed, draws : int
    cores : int or None
    """

    model: Model
    priors: Priors
    effect: ResponseEffect
    random_seed: int
    draws: int
    cores: int | None

    #: What is drawn, in words.
    drawn: ClassVar[str] = "parameters and random effects"

    #: Whether it can be drawn under another prior.
    is_drawn_again: ClassVar[bool] = True

    def likelihood(self, mean: float = 0.0, sd: float = np.inf) -> SliceLikelihood:
        """L(e) from draws under e ~ N(mean, sd^2), by default a flat prior.

        Raises
        ------
        PriorError
            If the prior is flat, and the data leave the effect open on one side.
        SamplingError
            If the joint density cannot be sampled.
        """
        if np.isfinite(sd):
            return self.likelihood_under(Prior("Normal", mu=float(mean), sigma=float(sd)))
        if obstacle := self.flat_obstacle():
            raise PriorError(f"{obstacle} Use a proper prior on it.")
        return self.likelihood_under(Prior("Flat"))

    def likelihood_under(self, prior: Prior) -> SliceLikelihood:
        """L(e) from draws under a prior that the joint density knows."""
        found = self._drawn(prior, _SLICES)
        return SliceLikelihood.of(found, self.effect.at, prior, self.cores)

    def null_evidence(self, value: float = 0.0) -> Evidence:
        """log p(y) with e fixed at ``value``, all other priors kept.

        Raises
        ------
        SamplingError
            If the joint density cannot be sampled.
        """
        return self._drawn(Prior("Fixed", value=float(value)), 1).evidence

    def _drawn(self, prior: Prior, keep: int) -> JointDraws:
        return joint_draws(
            self.model.design,
            self._known_priors,
            self.effect.under(prior),
            keep=keep,
            draws=self.draws,
            random_seed=self.random_seed,
            cores=self.cores,
        )

    @property
    def _known_priors(self) -> Priors:
        """Without a prior of the effect that the joint density does not know."""
        return _known(self.model.design, self.priors, self.effect)

    def flat_obstacle(self) -> str | None:
        """Why a flat prior on the effect leaves its posterior improper; None where it does not."""
        if self.effect.prior.is_proper and separated(
            self.model.design, self._known_priors, self.effect.direction
        ):
            return (
                f"Under a flat prior the posterior of {self.effect.label} is improper: predictors "
                "and responses are separated along it, so that the likelihood never falls off."
            )
        return None

    def nuisance_priors(self) -> list[Prior]:
        """Priors of everything but the effect."""
        coefficients = set(coef_keys(self.model.design))
        rest = [self.priors[key] for key in self.priors if key not in coefficients]
        return rest + [p for j, p in enumerate(self.effect.priors) if j != self.effect.at]


def _known(design: Design, priors: Priors, effect: ResponseEffect) -> Priors:
    if np.count_nonzero(effect.row) > 1:
        return priors
    key = coef_keys(design)[int(np.argmax(effect.row != 0))]
    if priors[key].name in LINE_FAMILIES:
        return priors
    trial = priors.copy()
    trial[key] = Prior("Flat")
    return trial


def response_source(
    model: Model, priors: Priors, effect, *, random_seed: int, draws: int, cores: int | None
) -> ResponseSource:
    """Prepare an effect for reanalysis by slices of the joint density.

    Raises
    ------
    ValueError
        If there is no such effect.
    PriorError
        If the priors do not fit, the posterior is improper, or there is no joint density.
    DataError
        If the data say nothing about the effect.
    """
    design = model.design
    found = response_effect(design, priors, effect)
    known = _known(design, priors, found)
    if obstacle := modeled_obstacle(design) or whitened_obstacle(design, known):
        raise PriorError(
            f"Reanalysis of an effect is not available here, as {obstacle}: it takes slices of the "
            "compiled joint density. Fit the model under each prior and compare the fits."
        )
    refuse_improper_posterior(design, known)
    if found.prior.is_proper and undetermined(design, priors, found.direction):
        raise nothing_said(found)
    return ResponseSource(model, priors, found, random_seed, draws, cores)
