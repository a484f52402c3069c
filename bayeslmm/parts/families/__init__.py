"""Distributions of responses, with their links, formulas and kernels.

``family_of("binomial", "probit")`` is a :class:`Family`. To add one: its log density with
derivatives in ``formulas``, a subclass of :class:`Family`, an entry in :data:`FAMILIES`.
"""

from __future__ import annotations

import math
from dataclasses import replace

from bayeslmm.parts.families.continuous import Beta, Gamma, LogNormal
from bayeslmm.parts.families.discrete import (
    Bernoulli,
    Binomial,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
)
from bayeslmm.parts.families.family import Family, FamilyParameter
from bayeslmm.parts.families.kernels import (
    log_density_draws,
    log_density_rows,
    slope_draws,
    slope_rows,
)
from bayeslmm.parts.families.links import LINKS, Link
from bayeslmm.parts.families.ordinal import Ordinal
from bayeslmm.parts.families.residual import Gaussian, StudentT

__all__ = [
    "FAMILIES",
    "LINEAR_FAMILIES",
    "LINKS",
    "Family",
    "FamilyParameter",
    "Link",
    "describe_families",
    "family_of",
    "links_of",
    "log_density_draws",
    "log_density_rows",
    "slope_draws",
    "slope_rows",
]

_SIGMA, _NU = FamilyParameter("sigma"), FamilyParameter("nu")
_ALPHA, _ZI = FamilyParameter("alpha"), FamilyParameter("zi", 1, (0.0, 1.0), "logit")

#: Class and parameters by the name a user writes.
_KNOWN: dict[str, tuple[type[Family], tuple[FamilyParameter, ...]]] = {
    "gaussian": (Gaussian, (_SIGMA,)),
    "student": (StudentT, (_SIGMA, _NU)),
    "bernoulli": (Bernoulli, ()),
    "binomial": (Binomial, ()),
    "poisson": (Poisson, ()),
    "negativebinomial": (NegativeBinomial, (_ALPHA,)),
    "gamma": (Gamma, (_ALPHA,)),
    "beta": (Beta, (FamilyParameter("kappa"),)),
    "lognormal": (LogNormal, (_SIGMA,)),
    "ordinal": (Ordinal, (FamilyParameter("threshold", 1, (-math.inf, math.inf), "ordered"),)),
    "zero_inflated_poisson": (ZeroInflatedPoisson, (_ZI,)),
    "zero_inflated_negativebinomial": (ZeroInflatedNegativeBinomial, (_ALPHA, _ZI)),
}

#: What a user may write.
FAMILIES = tuple(_KNOWN)
#: Of linear models: those of residuals, and of random effects.
LINEAR_FAMILIES = tuple(name for name, (made, _) in _KNOWN.items() if made.gaussian)


def links_of(name: str) -> tuple[str, ...]:
    """Links of a family, the default first.

    Raises
    ------
    ValueError
        If there is no such family.
    """
    return _class_of(name)[0].links


def family_of(name: str, link: str | None = None, n_categories: int | None = None) -> Family:
    """The family of a name and a link.

    Parameters
    ----------
    name : str
        One of :data:`FAMILIES`.
    link : str, optional
        One of :func:`links_of`; the first if omitted.
    n_categories : int, optional
        Of an ordinal response, 2 if omitted.

    Raises
    ------
    ValueError
        If there is no such family, or it has no such link.

    Examples
    --------
    >>> family_of("binomial", "probit").link.latent
    'normal'
    """
    made, parameters = _class_of(name)
    chosen = made.links[0] if link is None else link
    if chosen not in made.links:
        raise ValueError(f"Family {name!r} has no link {link!r}; it has {', '.join(made.links)}.")
    if n_categories is not None:
        parameters = tuple(
            replace(p, size=n_categories - 1) if p.transform == "ordered" else p for p in parameters
        )
    return made(name, LINKS[chosen], parameters)


def _class_of(name: str) -> tuple[type[Family], tuple[FamilyParameter, ...]]:
    if name not in _KNOWN:
        raise ValueError(f"Unknown family {name!r}: choose one of {', '.join(FAMILIES)}.")
    return _KNOWN[name]


def describe_families(family: str, random: str) -> list[str]:
    """Lines on what is not Gaussian.

    Parameters
    ----------
    family, random : str
        Of the residuals and of the random effects.
    """
    lines = ["Residuals: Student-t (sigma is their scale)"] if family == "student" else []
    if random == "student":
        lines.append("Random effects: Student-t (standard deviations are their scales)")
    return lines
