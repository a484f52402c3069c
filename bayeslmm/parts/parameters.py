"""What a model estimates: names, kinds, where each parameter may lie, and its default prior."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from bayeslmm.parts.prior import Prior

__all__ = [
    "CLASSES",
    "Component",
    "Parameter",
    "coef_key",
    "corr_key",
    "covariate_effect_key",
    "covariate_key",
    "covariate_slope_key",
    "lag_key",
    "nu_key",
    "pair_key",
    "same_key",
    "sd_key",
]

#: Kinds of which all members can be given one prior together.
CLASSES = ("beta", "sd", "corr", "sigma", "nu")


class Component(NamedTuple):
    """One number of a parameter, as tables show it.

    Attributes
    ----------
    name : str
    label : str
        The name without the kind, for where an axis says the kind.
    size : int
        Of a correlation: of the matrix with the LKJ prior that it is in; 0 for others.
    """

    name: str
    label: str
    size: int = 0


@dataclass(frozen=True)
class Parameter:
    """What has one prior: a number, or the correlations of a grouping factor.

    Attributes
    ----------
    key : str
        What its prior is set by and what is printed; nothing is read from it.
    kind : str
        "intercept", "beta", "sd", "corr", "effects_nu", "sigma", "log_sigma", "covariate_mean",
        "covariate_slope", "covariate_sd", "covariate_effect_sd", "nu", what a family of responses
        calls its own ("alpha", "kappa", "zi", "threshold"), or a correlation structure: "rho",
        "range" ...
    default : Prior
    support : (float, float)
        Where it may lie; of each correlation for "corr".
    factor : str or None
        The grouping factor or the modeled covariate it belongs to.
    components : tuple of Component
        What tables show of it; nothing of a covariate.
    """

    key: str
    kind: str
    default: Prior
    support: tuple[float, float] = (-math.inf, math.inf)
    factor: str | None = None
    components: tuple[Component, ...] = ()


def coef_key(name: str) -> str:
    """Key of a coefficient's prior: its name, unless that means something else."""
    return f"beta({name})" if name in CLASSES else name


def same_key(one: str, other: str) -> bool:
    """Whether two keys are the same but for spaces."""
    return "".join(one.split()) == "".join(other.split())


def sd_key(effect: str, factor: str) -> str:
    """Key of a random effect's standard deviation."""
    return f"sd({effect} | {factor})"


def corr_key(factor: str) -> str:
    """Key of the correlations of a grouping factor, or of "residual"."""
    return f"corr({factor})"


def pair_key(one: str, two: str, factor: str | None = None) -> str:
    """Name of one correlation, of residuals at two times where there is no factor."""
    return f"corr({one}, {two})" if factor is None else f"corr({one}, {two} | {factor})"


def lag_key(lag: int) -> str:
    """Name of the correlation of residuals so many times apart."""
    return f"corr(lag {lag})"


def nu_key(factor: str | None = None) -> str:
    """Key of the degrees of freedom of a factor's effects, or of the residuals."""
    return "nu" if factor is None else f"nu({factor})"


def covariate_key(what: str, name: str) -> str:
    """Key of the "mean" or "sd" of a covariate with unknown values."""
    return f"{what}({name})"


def covariate_slope_key(name: str, column: str) -> str:
    """Key of the coefficient of a column in the regression of a covariate."""
    return f"{name} ~ {column}"


def covariate_effect_key(name: str, factor: str) -> str:
    """Key of the standard deviation of the random intercepts in that regression.

    Not ``sd(x | g)``, which is that of the slopes of x in the model of the response.
    """
    return f"sd({name} ~ 1 | {factor})"
