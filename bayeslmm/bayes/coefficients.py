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
    "shrunk",
    "unknown_coefficient",
]

#: Priors under which coefficients are integrated out.
INTEGRATED = ("Normal", "Flat")


def coef_keys(design: Design) -> Sequence[str]:
    """Keys of the coefficients."""
    return [coef_key(name) for name in design.coef_names]


def _chosen(design: Design, priors: Priors) -> list[Prior]:
    return [priors[key] for key in coef_keys(design)]


def shrunk(design: Design, priors: Priors) -> np.ndarray:
    """(p,) bool: coefficients that share a shrinkage prior."""
    return np.array([prior.name in SHRINKAGE for prior in _chosen(design, priors)], dtype=bool)


def pins(design: Design, priors: Priors) -> np.ndarray:
    """(p,) bool: coefficients whose values are sampled."""
    known = (*INTEGRATED, *SHRINKAGE)
    return np.array([prior.name not in known for prior in _chosen(design, priors)], dtype=bool)


def unknown_coefficient(design: Design, priors: Priors) -> str | None:
    """Key of a coefficient whose prior the compiled densities do not know."""
    keys, chosen = coef_keys(design), _chosen(design, priors)
    known = (*INTEGRATED, *SHRINKAGE)
    for key, prior in zip(keys, chosen, strict=True):
        if prior.name not in known and not on_coefficients(prior):
            return key
    return None


def fixed_prior(design: Design, priors: Priors) -> FixedPrior:
    """Priors on the combinations of beta that :class:`Priors` are about."""
    A = priors.combinations()
    mean, sd = coefficient_priors(design, priors)
    pinned, together = pins(design, priors), shrunk(design, priors)
    if not (pinned.any() or together.any()):
        return FixedPrior.on_combinations(A, mean, sd)
    sd = np.where(together, 1.0 / priors.column_spread, sd)
    return FixedPrior.with_pins(A, mean, sd, pinned, together)


def normal_guess(design: Design, priors: Priors) -> FixedPrior:
    """Normal priors on all coefficients, as wide as their own: where searches begin."""
    mean, sd = coefficient_priors(design, priors)
    together = shrunk(design, priors)
    sd[together] = priors.response_spread / priors.column_spread[together]
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
    chosen, pinned, together = _chosen(design, priors), pins(design, priors), None
    own = [prior for prior, pin in zip(chosen, pinned, strict=True) if pin]
    for prior in chosen:
        together = prior if prior.name in SHRINKAGE else together
    kind, log_unit, times_sigma, more = 0, 0.0, 0, []
    if together is not None:
        size = int(shrunk(design, priors).sum())
        kind, log_unit, times_sigma, more = _shrinkage(together, size, design.n_rows, priors)
    return CoefficientScalars(scales(own + more), len(own), kind, log_unit, times_sigma)


def _shrinkage(prior: Prior, size: int, n_rows: int, priors: Priors):
    """Kind, log of the unit, whether sigma is in it, and priors of the scalars."""
    at = prior.parameters
    if prior.name == "R2D2":
        mean, precision = at["mean"], at["precision"]
        share = Prior("Beta", alpha=mean * precision, beta=(1.0 - mean) * precision)
        parts = [Prior("Gamma", alpha=at["concentration"], beta=1.0)] * size
        return R2D2, 0.0, 1, [share, *parts]
    half, unit = 0.5 * at["df_slab"], at["slab"] * priors.response_spread
    return (
        HORSESHOE,
        float(np.log(global_scale(prior, size, n_rows))),
        1,
        [
            Prior("HalfStudentT", nu=at["df_global"], sigma=1.0),
            Prior("InverseGamma", alpha=half, beta=half * unit**2),
            *[Prior("HalfStudentT", nu=at["df"], sigma=1.0)] * size,
        ],
    )


def global_scale(prior: Prior, size: int, n_rows: int) -> float:
    """tau_0 / sigma of a horseshoe (Piironen and Vehtari 2017, eq. 3.12)."""
    if "scale" in prior.parameters:
        return float(prior.parameters["scale"])
    expected = prior.parameters["expected"]
    return float(expected / (size - expected) / np.sqrt(n_rows))
