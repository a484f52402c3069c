"""What is integrated out of the coefficients, and what is sampled along with theta.

Under a normal or a flat prior a coefficient is integrated out. Of one with any other prior the
value is a coordinate (a pin). Under a shrinkage prior (horseshoe, R2D2) coefficients are normal
given scales, and these are coordinates. See :mod:`bayeslmm.bayes.kernels.shrinkage`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bayeslmm.bayes.kernels.shrinkage import HORSESHOE, R2D2, CoefficientScalars
from bayeslmm.formula import Design
from bayeslmm.gaussian import FixedPrior
from bayeslmm.parts.parameters import coef_key
from bayeslmm.parts.prior import SHRINKAGE, Prior
from bayeslmm.parts.scales import center_and_spread, on_coefficients, scales
from bayeslmm.priors.table import Priors

__all__ = [
    "coef_keys",
    "coefficient_priors",
    "coefficient_scalars",
    "fixed_prior",
    "normal_guess",
    "pins",
    "unknown_coefficient",
]

#: Priors under which coefficients are integrated out.
INTEGRATED = ("Normal", "Flat")


def coef_keys(design: Design) -> Sequence[str]:
    """Keys of the coefficients."""
    return [coef_key(name) for name in design.coef_names]


def _chosen(design: Design, priors: Priors) -> list[Prior]:
    return [priors[key] for key in coef_keys(design)]


def pins(design: Design, priors: Priors) -> np.ndarray:
    """(p,) bool: coefficients whose values are sampled."""
    known = (*INTEGRATED, *SHRINKAGE)
    return np.array([prior.name not in known for prior in _chosen(design, priors)], dtype=bool)


def unknown_coefficient(design: Design, priors: Priors) -> str | None:
    """Key of a coefficient whose prior the compiled densities do not know."""
    for key, pinned in zip(coef_keys(design), pins(design, priors), strict=True):
        if pinned and not on_coefficients(priors[key]):
            return key
    return None


def fixed_prior(design: Design, priors: Priors) -> FixedPrior:
    """Priors on the combinations of beta that :class:`Priors` are about."""
    A = priors.combinations()
    mean, sd = coefficient_priors(design, priors)
    pinned, together = pins(design, priors), priors.shrinkage
    if not pinned.any() and together is None:
        return FixedPrior.on_combinations(A, mean, sd)
    scaled = np.zeros(len(A), dtype=bool)
    if together is not None:
        scaled, sd[together.mask] = together.mask, 1.0 / together.spread
    return FixedPrior.with_pins(A, mean, sd, pinned, scaled)


def normal_guess(design: Design, priors: Priors) -> FixedPrior:
    """Normal priors on all coefficients, as wide as their own: where searches begin."""
    mean, sd = coefficient_priors(design, priors)
    if (together := priors.shrinkage) is not None:
        sd[together.mask] = together.unit / together.spread
    pinned = np.flatnonzero(pins(design, priors))
    own = scales([_chosen(design, priors)[j] for j in pinned])
    mean[pinned], sd[pinned] = center_and_spread(own)
    return FixedPrior.on_combinations(priors.combinations(), mean, sd)


def coefficient_priors(design: Design, priors: Priors) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations (infinite where flat) of the coefficients' normal priors.

    What is not normal has mean zero and an infinite standard deviation.
    """
    chosen = _chosen(design, priors)
    normal = [prior.name == "Normal" for prior in chosen]
    pairs = list(zip(chosen, normal, strict=True))
    mean = np.array([p.parameters.get("mu", 0.0) if own else 0.0 for p, own in pairs], dtype=float)
    sd = np.array([_normal_sd(p) if own else np.inf for p, own in pairs], dtype=float)
    return mean, sd


def _normal_sd(prior: Prior) -> float:
    if "tau" in prior.parameters:
        return prior.parameters["tau"] ** -0.5
    return prior.parameters.get("sigma", 1.0)


def coefficient_scalars(design: Design, priors: Priors) -> CoefficientScalars:
    """Coordinates of the coefficients that are not integrated out, with their priors."""
    pinned, together = pins(design, priors), priors.shrinkage
    own = [p for p, pin in zip(_chosen(design, priors), pinned, strict=True) if pin]
    if together is None:
        return CoefficientScalars(scales(own), len(own), 0, 0.0)
    kind = HORSESHOE if together.is_horseshoe else R2D2
    sc = scales([*own, *together.scalars])
    return CoefficientScalars(sc, len(own), kind, float(np.log(together.tau_0)))
