"""The integrated likelihood of one effect, as a mixture of normals.

Given the covariance parameters theta the data say about e = c'beta, all else integrated out,
L(e | theta) ~ N(e; m(theta), v(theta)) exactly. So over draws of theta

    L(e) = p(y | e)  ~  sum_i a_i N(e; m_i, v_i),

and every prior on e meets the same one-dimensional function: with e ~ N(m, s^2) each draw is
reweighted by N(m_i; m, v_i + s^2) and its conditional posterior is normal. A published estimate
with its standard error is the case of one component (of a few hundred for a t distribution).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bayeslmm.bayes.marginal import MarginalDensity, marginal_density, marginal_obstacle
from bayeslmm.errors import DataError, PriorError
from bayeslmm.parts.prior import Prior
from bayeslmm.priors.propriety import refuse_improper_posterior, undetermined
from bayeslmm.priors.table import Priors
from bayeslmm.reanalysis.bridge import Evidence
from bayeslmm.reanalysis.effects import Effect, split_effect
from bayeslmm.reanalysis.given_theta import coefficient_moments, problem_of
from bayeslmm.reanalysis.theta import ThetaDraws, draw_evidence, draw_theta

if TYPE_CHECKING:
    from bayeslmm.protocols import Model

__all__ = [
    "EffectLikelihood",
    "EffectSource",
    "effect_source",
    "log_normal",
    "normal_likelihood",
    "nothing_said",
    "t_likelihood",
]


def log_normal(x, mean, variance):
    """Log density of N(mean, variance) at x."""
    return -0.5 * (np.log(2 * np.pi * variance) + (x - mean) ** 2 / variance)


@dataclass(frozen=True)
class EffectLikelihood:
    """L(e) as a weighted mixture of normals.

    Attributes
    ----------
    mean, variance : (n,) arrays
        m_i and v_i, in units of the effect and their square.
    log_weights : (n,) array
        Of the posterior under the base prior, normalized.
    base_mean, base_sd : float
        The normal prior on e under which the components were drawn; ``base_sd`` infinite: flat.
    inefficiency : float
        Components per independent one.
    exact : bool
        A published estimate: no Monte Carlo error.
    k_hat : float
    evidence : Evidence or None
        log p(y) under the base prior.
    method : str
    """

    mean: np.ndarray
    variance: np.ndarray
    log_weights: np.ndarray
    base_mean: float = 0.0
    base_sd: float = np.inf
    inefficiency: float = 1.0
    exact: bool = False
    k_hat: float = np.nan
    evidence: Evidence | None = None
    method: str = "closed form"

    #: Whether components are normal, so that a normal prior meets them in closed form.
    normal: ClassVar[bool] = True
    #: Fewer effective draws than this are drawn again, where they can be.
    enough: ClassVar[int] = 400

    @property
    def flat_log_weights(self) -> np.ndarray:
        """log a_i: weights under a flat prior on e, on the scale of :attr:`log_weights`."""
        if not np.isfinite(self.base_sd):
            return self.log_weights
        spread = self.variance + self.base_sd**2
        return self.log_weights - log_normal(self.mean, self.base_mean, spread)

    def at(self, value: float) -> np.ndarray:
        """Log densities (n,) of the components at one value."""
        return log_normal(value, self.mean, self.variance)

    def on(self, grid: np.ndarray, rows: slice) -> np.ndarray:
        """Log densities (n, m) of some components on a grid (m,)."""
        return log_normal(grid, self.mean[rows, None], self.variance[rows, None])

    def reach(self, prior: Prior) -> tuple[float, float]:
        """Between which values the components are more than nothing under a prior."""
        sd = np.sqrt(self.variance)
        heavy = self.log_weights > self.log_weights.max() - 25.0
        return (self.mean - 10 * sd)[heavy].min(), (self.mean + 10 * sd)[heavy].max()


def normal_likelihood(estimate: float, se: float) -> EffectLikelihood:
    """A published estimate with its standard error."""
    return EffectLikelihood(np.array([estimate]), np.array([se**2]), np.zeros(1), exact=True)


def t_likelihood(estimate: float, se: float, df: float, nodes: int = 600) -> EffectLikelihood:
    """(e - estimate) / se ~ t_df as a scale mixture of normals, by quadrature in log precision.

    The trapezoidal rule converges faster than any power of the step for this integrand, which is
    smooth and vanishes at both ends.
    """
    from scipy.stats import chi2

    low, high = np.log(chi2.ppf(1e-16, df) / df), np.log(chi2.isf(1e-16, df) / df)
    s = np.linspace(low - 2.0, high, nodes)
    log_weight = 0.5 * df * (s - np.exp(s))
    log_weight -= np.logaddexp.reduce(log_weight)
    return EffectLikelihood(
        np.full(nodes, float(estimate)), se**2 * np.exp(-s), log_weight, exact=True
    )


@dataclass(frozen=True)
class EffectSource:
    """A model whose effect can be sampled again under another base prior.

    Attributes
    ----------
    model : Model
    priors : Priors
    effect : Effect
    density : MarginalDensity or None
        Under the flat prior on e; None where a standard deviation's prior is not known to it.
    random_seed : int
    draws : int
    cores : int or None
    """

    model: Model
    priors: Priors
    effect: Effect
    density: MarginalDensity | None
    random_seed: int
    draws: int
    cores: int | None

    #: What is drawn, in words.
    drawn: ClassVar[str] = "the covariance parameters"

    @property
    def is_drawn_again(self) -> bool:
        """Whether they can be drawn under another prior."""
        return self.density is not None

    def likelihood(self, mean: float = 0.0, sd: float = np.inf) -> EffectLikelihood:
        """L(e) from draws of theta under e ~ N(mean, sd^2), by default a flat prior.

        Raises
        ------
        SamplingError
            If the covariance parameters cannot be sampled.
        """
        prior = self.effect.with_normal(mean, sd)
        density = self._known_density.with_model(self.model.problem, prior)
        theta = draw_theta(density, self.random_seed, self.draws, self.cores)
        return self.likelihood_at(theta, mean, sd)

    def likelihood_at(self, theta: ThetaDraws, mean: float, sd: float) -> EffectLikelihood:
        """L(e) from draws of theta under e ~ N(mean, sd^2)."""
        m, v = _moments(self.model.problem, theta, self.effect)
        return EffectLikelihood(
            m,
            v,
            theta.log_weights,
            mean,
            sd,
            theta.inefficiency,
            k_hat=theta.k_hat,
            evidence=theta.evidence,
            method=theta.method,
        )

    def null_evidence(self, value: float = 0.0) -> Evidence:
        """log p(y) with e fixed at ``value``, all other priors kept.

        Raises
        ------
        SamplingError
            If the covariance parameters cannot be sampled.
        """
        return draw_evidence(self.null_density(value), self.random_seed, self.draws, self.cores)

    def null_density(self, value: float = 0.0) -> MarginalDensity:
        """The density of the covariance parameters with e fixed at ``value``."""
        design, B = self.model.design, self.effect.basis_without()
        y = design.y - design.offset - design.X @ (value * self.effect.direction)
        problem = problem_of(design, y, design.X @ B)
        return self._known_density.with_model(problem, self.effect.pinned(B))

    def flat_obstacle(self) -> str | None:
        """Why a flat prior on the effect leaves its posterior improper: nothing does here."""
        return None

    def nuisance_priors(self) -> list[Prior]:
        """Priors of everything but the effect, where that is a lone coefficient."""
        trial = _with_flat(self.model, self.priors, self.effect)
        alone = np.count_nonzero(self.effect.row) == 1
        flat = [key for key in trial if not trial[key].is_proper]
        own = {key for key in flat if alone and self.priors[key] is not trial[key]}
        return [trial[key] for key in trial if key not in own]

    @property
    def _known_density(self) -> MarginalDensity:
        if self.density is None:
            obstacle = marginal_obstacle(self.model.design, self.priors)
            raise PriorError(
                f"The covariance parameters cannot be sampled again, because {obstacle}. Use a "
                "prior of the usual families."
            )
        return self.density


def effect_source(
    model: Model,
    priors: Priors,
    effect,
    *,
    random_seed: int = 0,
    draws: int = 4000,
    cores: int | None = None,
) -> EffectSource:
    """Prepare an effect of a model for reanalysis.

    Raises
    ------
    ValueError
        If there is no such effect.
    PriorError
        If another coefficient's prior is neither normal nor flat, or the posterior is improper.
    DataError
        If the data say nothing about the effect.
    """
    from bayeslmm.results.support import refuse_unless_derived

    refuse_unless_derived(model, "Reanalysis of an effect", related=True, residuals=True)
    refuse_improper_posterior(model.design, priors)
    split = split_effect(model.design, priors, effect)
    if np.isfinite(split.sd) and undetermined(model.design, priors, split.direction):
        raise nothing_said(split)
    trial = _with_flat(model, priors, split)
    density = None
    if marginal_obstacle(model.design, trial) is None:
        density = marginal_density(model.design, trial, model.problem)
    return EffectSource(model, priors, split, density, random_seed, draws, cores)


def _with_flat(model: Model, priors: Priors, effect: Effect) -> Priors:
    """Priors that the marginal density takes: the lone coefficient's own prior is not used."""
    from bayeslmm.parts.parameters import coef_key

    trial = priors.copy()
    if np.count_nonzero(effect.row) == 1:
        trial[coef_key(model.design.coef_names[int(np.argmax(effect.row != 0))])] = Prior("Flat")
    return trial


def _moments(problem, theta: ThetaDraws, effect: Effect) -> tuple[np.ndarray, np.ndarray]:
    mean, covariance = coefficient_moments(problem, effect.rest, theta, effect.row)
    m, v = mean[:, 0], covariance[:, 0, 0]
    if not (np.all(np.isfinite(m)) and np.all(v > 0)):
        raise nothing_said(effect)
    return m, v


def nothing_said(effect) -> DataError:
    """That no data are about an :class:`Effect` of theirs."""
    return DataError(
        f"The data say nothing about {effect.label} by itself: its columns are combinations "
        "of others. Choose another effect, or a contrast that the data determine."
    )
