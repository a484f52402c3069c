"""Named sets of priors on one effect: reference, sceptical, enthusiastic, pessimistic.

The attitudes and strengths are those of Zampieri et al. (2021), American Journal of Respiratory
and Critical Care Medicine 203(5), 543-552, after Spiegelhalter, Freedman and Parmar (1994), J. R.
Statist. Soc. A 157(3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bayeslmm.errors import PriorError
from bayeslmm.formula import Design
from bayeslmm.parts.families.family import LATENT_VARIANCE
from bayeslmm.parts.prior import Prior
from bayeslmm.priors.responses import response_unit

__all__ = ["RATIO_SCEPTICAL_SDS", "EffectScale", "default_mcid", "prior_set", "standard_priors"]

#: Probability on the wrong side that each strength leaves.
STRENGTHS = {"weak": 0.30, "moderate": 0.15, "strong": 0.05}

#: Standard deviations of Zampieri's neutral priors on a log ratio: strong has 95 % of its
#: probability between 0.67 and 1.5, moderate between 0.5 and 2, weak says next to nothing.
RATIO_SCEPTICAL_SDS = {"weak": 5.0, "moderate": 0.355, "strong": 0.205}

#: Minimal important ratio where none is given: a third less, or half as much again.
DEFAULT_RATIO = 1.5


@dataclass(frozen=True)
class EffectScale:
    """On what scale an effect matters, and which way is good.

    Attributes
    ----------
    mcid : float
        Minimal clinically important difference, positive, in the effect's units (log ratio for a
        ratio).
    given : bool
        Whether the user said so, or it is the documented default.
    sign : {1, -1}
        1 where higher is better.
    rope : tuple of float
        Region of practical equivalence.
    ratio : bool
        Whether the effect is the logarithm of a ratio.
    step : float
        What a published log ratio is multiplied by: 1 over the standard deviation of a numeric
        predictor.
    """

    mcid: float
    given: bool
    sign: int
    rope: tuple[float, float]
    ratio: bool = False
    step: float = 1.0

    @classmethod
    def in_design(cls, design: Design, row: np.ndarray, mcid, rope, direction: str) -> EffectScale:
        """Of a combination of the coefficients of a design, with :func:`default_mcid`."""
        default, ratio = default_mcid(design, row), design.family.ratio is not None
        step = _step(design, row) if ratio else 1.0
        return cls.of(mcid, rope, direction, default, ratio, step)

    @classmethod
    def of(
        cls, mcid, rope, direction: str, default: float, ratio: bool = False, step: float = 1.0
    ) -> EffectScale:
        """Check what the user gave.

        Raises
        ------
        ValueError
            If a value is not a positive number, the region is empty, or there is no such direction.
        """
        if direction not in ("lower is better", "higher is better"):
            raise ValueError(
                f'direction must be "lower is better" or "higher is better", not {direction!r}.'
            )
        sign = 1 if direction == "higher is better" else -1
        given = mcid is not None
        if given:
            mcid = _positive("mcid", mcid)
            if ratio:
                if mcid == 1:
                    raise ValueError("mcid is a ratio, and 1 means no difference.")
                mcid = abs(np.log(mcid))
        else:
            mcid = default
        return cls(float(mcid), given, sign, _region(rope, float(mcid), ratio), ratio, step)


def _region(rope, mcid: float, ratio: bool) -> tuple[float, float]:
    if rope is None:
        return -mcid, mcid
    try:
        pair = (float(rope[0]), float(rope[1])) if np.ndim(rope) else float(rope)
        if np.ndim(rope) and len(rope) != 2:
            raise ValueError
    except (TypeError, ValueError, IndexError):
        raise ValueError(f"rope must be a number or (lower, upper), not {rope!r}.") from None
    if isinstance(pair, float):
        pair = _positive("rope", pair)
        size = abs(np.log(pair)) if ratio else pair
        pair = (-size, size)
    elif ratio:
        pair = tuple(np.log(_positive("rope", value)) for value in pair)
    if not (np.all(np.isfinite(pair)) and pair[0] < pair[1]):
        raise ValueError(f"The region of practical equivalence {rope!r} is empty.")
    return float(pair[0]), float(pair[1])


def _positive(name: str, value) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if isinstance(value, bool | str) or not (np.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be a positive number, not {value!r}.")
    return number


def default_mcid(design: Design, row: np.ndarray) -> float:
    """Half a standard deviation of the response, per standard deviation of the predictor.

    Half a standard deviation is what patients tend to notice (Norman, Sloan and Wyrwich 2003,
    Medical Care 41(5)). A 0/1 column, and so a contrast of cells, is not divided by its spread.
    Where exponentials of coefficients are ratios it is the logarithm of 1.5; of the other links the
    standard deviation is that of the latent variable (probit: 1, complementary log-log: 1.28), or
    the unit of the linear predictor (identity: a standard deviation of the response, inverse: 1
    over its mean).

    Parameters
    ----------
    design : Design
    row : (p,) array
        Weights of the coefficients.
    """
    return _default_step(design) * _step(design, row)


def _default_step(design: Design) -> float:
    family = design.family
    if family.gaussian:
        return 0.5 * (float(np.std(design.y - design.offset, ddof=1)) or 1.0)
    if family.ratio is not None:
        return float(np.log(DEFAULT_RATIO))
    return 0.5 * LATENT_VARIANCE.get(family.link.name, response_unit(design) ** 2) ** 0.5


def _step(design: Design, row: np.ndarray) -> float:
    """Units of a combination per standard deviation of its predictors."""
    sizes = []
    for weight, column in zip(row, design.X.T, strict=True):
        if weight == 0:
            continue
        binary = np.isin(column, (-1.0, 0.0, 1.0)).all()
        spread = 1.0 if binary else float(np.std(column, ddof=1)) or 1.0
        sizes.append(abs(weight) / spread)
    return max(sizes)


def standard_priors(scale: EffectScale, weakly_informative: Prior | None = None) -> dict:
    """Reference, weakly informative, and three attitudes in three strengths.

    With d the minimal clinically important difference and z_p the normal quantile:

    - reference: flat;
    - weakly informative: the model's own prior on the effect, where it has a proper one;
    - sceptical: Normal(0, s), P(benefit beyond d) = 0.30, 0.15, 0.05 (weak, moderate, strong),
      so s = d / z_0.70, d / z_0.85, d / z_0.95; the last is Spiegelhalter's sceptic. On a ratio
      scale the published standard deviations 5, 0.355 and 0.205 of the log ratio (of a numeric
      predictor per standard deviation);
    - enthusiastic: Normal(d in the good direction, s), P(harm) = 0.30, 0.15, 0.05;
    - pessimistic: Normal(d in the bad direction, s), P(benefit) = 0.30, 0.15, 0.05.

    Parameters
    ----------
    scale : EffectScale
    weakly_informative : Prior, optional

    Returns
    -------
    dict of str to Prior
    """
    from scipy.special import ndtri

    priors = {"reference": Prior("Flat")}
    if weakly_informative is not None and weakly_informative.is_proper:
        priors["weakly informative"] = weakly_informative
    for attitude, center in (("sceptical", 0.0), ("enthusiastic", 1.0), ("pessimistic", -1.0)):
        for strength, wrong in STRENGTHS.items():
            sd = scale.mcid / -ndtri(wrong)
            if scale.ratio and attitude == "sceptical":
                sd = RATIO_SCEPTICAL_SDS[strength] * scale.step
            priors[f"{attitude}, {strength}"] = Prior(
                "Normal", mu=center * scale.sign * scale.mcid + 0.0, sigma=float(sd)
            )
    return priors


def prior_set(priors, scale: EffectScale, weakly_informative: Prior | None = None) -> dict:
    """The priors to use: a named set, or the user's own.

    Parameters
    ----------
    priors : str or dict of str to Prior
        ``"standard"``, one of ``"reference"``, ``"sceptical"``, ``"enthusiastic"``,
        ``"pessimistic"`` for that part of it, or a dict.

    Raises
    ------
    PriorError
        If there is no such set, or a value is not a prior.
    """
    standard = standard_priors(scale, weakly_informative)
    if isinstance(priors, str):
        chosen = {
            name: prior
            for name, prior in standard.items()
            if priors == "standard" or name.split(",")[0] == priors
        }
        if not chosen:
            sets = dict.fromkeys(name.split(",")[0] for name in standard)
            raise PriorError(
                f"There is no set of priors {priors!r}. Sets: standard, {', '.join(sets)}; or a "
                'dict such as {"mine": blm.Prior("Normal", mu=0, sigma=5)}.'
            )
        return chosen
    if not isinstance(priors, Mapping) or not priors:
        raise PriorError('priors must be "standard" or a dict of names to blm.Prior.')
    for name, prior in priors.items():
        if not isinstance(prior, Prior):
            raise PriorError(f'The prior {name!r} must be blm.Prior("Normal", ...), not {prior!r}.')
    return {str(name): prior for name, prior in priors.items()}
