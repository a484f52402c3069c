"""Laplace's approximation of the posterior of the parameters of a model whose effects are sampled.

Effects are integrated out around their mode (:mod:`bayeslmm.laplace.system`): what a mode search
and its curvature take. :mod:`bayeslmm.bayes.whitening` lays out the exact joint density by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

import numpy as np

from bayeslmm.assembly import response_system
from bayeslmm.bayes.coefficients import coef_keys
from bayeslmm.bayes.kernels.coordinates import CovariancePrior, add_likelihood, is_finite, natural
from bayeslmm.bayes.kernels.joint import family_parameters, ordered_pullback
from bayeslmm.bayes.kernels.shrinkage import CoefficientScalars
from bayeslmm.bayes.marginal import correlation_shapes, sd_keys
from bayeslmm.bayes.unknowns import UnknownValues, unknown_obstacle, unknown_values
from bayeslmm.formula import Design
from bayeslmm.laplace.system import ResponseSystem
from bayeslmm.laplace.transforms import is_ordered, unbounded
from bayeslmm.parts.correlations import CorrelationLayout, correlation_layout, lkj_exponents
from bayeslmm.parts.parameters import nu_key
from bayeslmm.parts.prior import Prior
from bayeslmm.parts.scales import (
    LINE_FAMILIES,
    Scales,
    scale_terms,
    scales,
    supported_scale,
    unconstrain,
)
from bayeslmm.parts.structures import Structure
from bayeslmm.priors.responses import response_unit
from bayeslmm.priors.table import Priors

__all__ = [
    "LaplacePosterior",
    "heavy_effects",
    "laplace_posterior",
    "sampled_because",
    "samples_effects",
    "whitened_obstacle",
]

#: Standard deviations of the effects where a search starts, in units of the linear predictor.
_STARTS = (0.5, 0.05)
#: Degrees of freedom of effects there: the center of their usual prior.
_TYPICAL_NU = 20.0


class LowParameters(NamedTuple):
    """Parameters in natural units: flat factors, the family's, coefficients, and degrees of
    freedom of effects.
    """

    F: np.ndarray
    phi: np.ndarray
    beta: np.ndarray
    nu: np.ndarray


@dataclass(frozen=True)
class LaplacePosterior:
    """Laplace's approximation of the log posterior density of the parameters, effects integrated
    out: what a mode search and its curvature take.

    Attributes
    ----------
    system : ResponseSystem
        In the columns that the priors are about.
    prior : CovariancePrior
        Of the covariances.
    phi, coefficients : Scales
    tails : Scales
        Of the degrees of freedom of Student-t effects, which this approximation takes for normal
        ones of the same scale: it is about where, and how widely, the exact density is.
    combinations : (p, p) array
        What the priors of coefficients are about, as combinations of the formula's.
    ordered : bool
        Whether the family's parameters are thresholds.
    unit : float
        Of the linear predictor.
    unknown : UnknownValues or None
        Of covariates, which this approximation takes to be what ``system`` has.
    """

    system: ResponseSystem
    prior: CovariancePrior
    phi: Scales
    coefficients: Scales
    tails: Scales
    combinations: np.ndarray
    ordered: bool = False
    unit: float = 1.0
    unknown: UnknownValues | None = None
    _near: dict = field(default_factory=dict, repr=False)

    #: What :func:`bayeslmm.bayes.signed.signed_mode` asks of a density.
    residual: ClassVar[None] = None

    @property
    def scales(self) -> Scales:
        """Priors of the standard deviations."""
        return self.prior.scales

    @property
    def correlations(self) -> CorrelationLayout:
        """Of the random effects."""
        return self.prior.effects

    @property
    def n_covariances(self) -> int:
        """Coordinates of the covariances."""
        return len(self.prior.scales.code) + len(self.prior.exponent)

    @property
    def n_dim(self) -> int:
        """Coordinates in all."""
        own = self.phi, self.tails, self.coefficients
        return self.n_covariances + sum(len(part.code) for part in own)

    def _parts(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        x = np.ascontiguousarray(x, dtype=float)
        first = self.n_covariances
        second = first + len(self.phi.code)
        third = second + len(self.tails.code)
        return x[:first], x[first:second], x[second:third], x[third:]

    def natural(self, x: np.ndarray) -> LowParameters:
        """Parameters in natural units."""
        covariances, phi, nu, beta = self._parts(x)
        return LowParameters(
            natural(covariances, self.prior).F,
            family_parameters(phi, self.phi, int(self.ordered))[2],
            scale_terms(self.coefficients, beta)[2],
            scale_terms(self.tails, nu)[2],
        )

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Log density and its gradient; nan where it cannot be evaluated."""
        return self._evaluate(x, True)

    def value(self, x: np.ndarray) -> float:
        """Log density."""
        return self._evaluate(x, False)[0]

    def _evaluate(self, x: np.ndarray, gradient: bool) -> tuple[float, np.ndarray]:
        parts, nothing = self._parts(x), np.full(self.n_dim, np.nan)
        at = natural(parts[0], self.prior)
        log_phi, d_phi, phi, slope = family_parameters(parts[1], self.phi, int(self.ordered))
        log_nu, d_nu, _, _ = scale_terms(self.tails, parts[2])
        log_beta, d_beta, beta, slope_beta = scale_terms(self.coefficients, parts[3])
        if not (is_finite(at) and np.all(np.isfinite(phi))):
            return np.nan, nothing
        found, mode = self.system.evaluate(
            at.F, phi, beta, gradient=gradient, start=self._near.get("start")
        )
        if mode is None or not np.isfinite(found.value):
            return np.nan, nothing
        if gradient:
            self._near["start"] = mode.b, mode.U
        value = found.value + at.value + log_phi + log_nu + log_beta
        if not gradient:
            return value, nothing
        layout = self.system.layout
        q = np.array([p.q for p in self.system.patterns], dtype=np.int64)
        empty = np.zeros(0)
        add_likelihood(at, parts[0], self.prior, q, layout.f_ptr, found.d_Sigma, empty, empty)
        in_x = ordered_pullback(found.d_phi, slope) if self.ordered else found.d_phi * slope
        return value, np.concatenate(
            [at.gradient, d_phi + in_x, d_nu, d_beta + found.d_beta * slope_beta]
        )

    def coordinates_of_phi(self, phi: np.ndarray) -> np.ndarray:
        """Coordinates of the family's parameters (n_phi,)."""
        if self.ordered:
            return unbounded(self.system.family, phi)
        return unconstrain(self.phi, phi)

    def starting_points(self, shares: tuple[float, ...]) -> list[np.ndarray]:
        """Where a search begins: coefficients of the model without effects, small and large sds.

        Parameters
        ----------
        shares : tuple of float
            Not used: these are standard deviations in units of the linear predictor.
        """
        return [self._start(sd) for sd in _STARTS]

    def _start(self, sd: float) -> np.ndarray:
        scales = self.prior.scales
        sizes = [np.sqrt((f.Z**2).mean(axis=0)) for f in self.system.factors]
        sds = self.unit * sd / np.concatenate([np.ones(0), *sizes])
        phi, beta = self.system.no_effects
        return np.concatenate(
            [
                unconstrain(scales, np.where(sds > 0, sds, sd)),
                np.zeros(len(self.prior.exponent)),
                self.coordinates_of_phi(phi),
                unconstrain(self.tails, np.full(len(self.tails.code), _TYPICAL_NU)),
                unconstrain(self.coefficients, beta),
            ]
        )

    def spread(self) -> np.ndarray:
        """Rough posterior variances of the coordinates."""
        system = self.system
        levels = [n_levels for n_levels, q in system.effect_shapes for _ in range(q)]
        sds = 1.0 / (1.0 + np.array(levels, dtype=float))
        phi, beta = system.no_effects
        w = np.maximum(-system.slopes(system.offset + system.X @ beta, phi)[2], 0.0)
        size = np.einsum("ij,i,ij->j", system.X, w, system.X)
        return np.concatenate(
            [
                sds,
                np.full(len(self.prior.exponent), np.mean(sds) if len(sds) else 1.0),
                np.full(len(self.phi.code), 1.0 / (1.0 + np.sqrt(system.n))),
                np.full(len(self.tails.code), 0.5),
                1.0 / (1.0 + size),
            ]
        )


def laplace_posterior(
    design: Design,
    priors: Priors,
    coefficients: tuple[np.ndarray, Sequence[Prior]] | None = None,
) -> LaplacePosterior:
    """Of a model whose priors pass :func:`whitened_obstacle`.

    Parameters
    ----------
    coefficients : (p, p) array and sequence of Prior, optional
        Combinations of the coefficients and independent priors of them, in place of those in
        ``priors``.
    """
    system = response_system(design)
    if coefficients is None:
        coefficients = priors.combinations(), [priors[key] for key in coef_keys(design)]
    A, columns = coefficients[0], system.X
    if design.family.name == "ordinal":  # thresholds are meant at the means of the predictors
        columns = columns - priors.means
    maps = priors.effect_maps().matrices or (None,) * len(system.factors)
    back = np.linalg.inv(A)
    system = replace(system, X=np.ascontiguousarray(columns @ back)).with_effects(maps)
    layout = correlation_layout(system.patterns)
    exponent, constant = lkj_exponents(layout, correlation_shapes(design, priors))
    covariances = CovariancePrior(
        layout,
        correlation_layout(()),
        scales([priors[key] for key in sd_keys(design)]),
        exponent,
        constant,
        Structure().code,
        0,
        0,
        CoefficientScalars(scales([]), 0, 0, 0.0),
    )
    return LaplacePosterior(
        system,
        covariances,
        scales([priors[own.key] for own in design.family.parameters for _ in range(own.size)]),
        scales(coefficients[1]),
        scales([priors[key] for key in _tail_keys(design, priors)]),
        A,
        is_ordered(design.family),
        response_unit(design),
        unknown_values(design, priors, back, maps),
    )


def samples_effects(design: Design, priors: Priors) -> bool:
    """Whether random effects are sampled with the parameters, as nothing integrates them out.

    So with every response that is not Gaussian, with Student-t residuals and effects, and with
    unknown values of covariates unless residuals have a structure or levels are related.
    """
    if not design.family.gaussian or "nu" in priors or heavy_effects(design, priors):
        return True
    return bool(design.modeled) and _outside(design) is None


def sampled_because(design: Design) -> str:
    """The feature of a model of :func:`samples_effects` that makes it one, in words."""
    if design.modeled:
        return "unknown values of covariates"
    name = design.family.name
    return 'random="student"' if name == "gaussian" else f'family="{name}"'


def heavy_effects(design: Design, priors: Priors) -> bool:
    """Whether random effects are Student-t."""
    return bool(_tail_keys(design, priors))


def whitened_obstacle(design: Design, priors: Priors) -> str | None:
    """Why the compiled joint density is not available for these priors; None where it is."""
    if text := _outside(design) or unknown_obstacle(design, priors):
        return text
    coefficients = coef_keys(design)
    own = [parameter.key for parameter in design.family.parameters]
    for key in [*coefficients, *own, *_tail_keys(design, priors), *sd_keys(design)]:
        prior = priors[key]
        known = prior.name in LINE_FAMILIES or (key not in coefficients and supported_scale(prior))
        if not known:
            return f"the prior of {key} is {prior!r}, which the compiled density does not know"
    return None


def _outside(design: Design) -> str | None:
    """What of a linear model the joint density does not have; None where it has all."""
    if design.residual is not None:
        return "residuals are correlated or unequal"
    for block in design.blocks:
        if block.relationship is not None:
            return f"levels of {block.name} are related"
    if not design.rows_in_memory:
        return "it takes every row, and rows were read in batches"
    return None


def _tail_keys(design: Design, priors: Priors) -> list[str]:
    """Keys of the degrees of freedom of Student-t effects, factor after factor."""
    return [nu_key(block.name) for block in design.blocks if nu_key(block.name) in priors]
