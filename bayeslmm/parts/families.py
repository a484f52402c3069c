"""Distributions of the response and of random effects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy import special

from bayeslmm.errors import one_of

__all__ = ["FAMILIES", "Family", "FamilyParameter", "Link", "describe_families", "family_of"]

FAMILIES = (
    "gaussian",
    "student",
    "bernoulli",
    "binomial",
    "poisson",
    "negativebinomial",
    "gamma",
    "beta",
    "lognormal",
    "ordinal",
    "zero_inflated_poisson",
    "zero_inflated_negativebinomial",
)


@dataclass(frozen=True)
class Link:
    """g(mu) = eta."""

    name: str
    link: Callable = field(compare=False)
    inverse: Callable = field(compare=False)
    latent: str | None = None


@dataclass(frozen=True)
class FamilyParameter:
    """A parameter beside the linear predictor."""

    key: str
    size: int = 1
    support: tuple[float, float] = (0.0, np.inf)
    transform: str = "log"


@dataclass(frozen=True)
class Family:
    """Distribution of the response given the linear predictor."""

    name: str
    link: Link
    parameters: tuple[FamilyParameter, ...] = ()
    gaussian: bool = False
    discrete: bool = False

    def check(self, y: np.ndarray, trials: np.ndarray | None) -> tuple[int, str] | None:
        """The first row outside the support, and what is asked of it; None where there is none."""
        why, wrong = _outside(self.name, y, trials)
        return (int(np.flatnonzero(wrong)[0]), why) if wrong.any() else None


def _outside(name: str, y: np.ndarray, trials: np.ndarray | None) -> tuple[str, np.ndarray]:
    if name == "bernoulli":
        return "must be 0 or 1", (y != 0) & (y != 1)
    if name == "binomial":
        return (
            "must be a whole number from 0 to the number of trials",
            (y < 0) | (y > trials) | (y != np.floor(y)),
        )
    if name in ("poisson", "negativebinomial") or name.startswith("zero_inflated"):
        return "must be a whole number, 0 or more", (y < 0) | (y != np.floor(y))
    if name in ("gamma", "lognormal"):
        return "must be above 0", y <= 0
    if name == "beta":
        return "must be between 0 and 1, and neither of them", (y <= 0) | (y >= 1)
    return "", np.zeros(len(y), dtype=bool)


_LINKS = {
    "identity": Link("identity", lambda mu: mu, lambda eta: eta),
    "log": Link("log", np.log, np.exp),
    "inverse": Link("inverse", lambda mu: 1 / mu, lambda eta: 1 / eta),
    "logit": Link("logit", special.logit, special.expit, "logistic"),
    "probit": Link("probit", special.ndtri, special.ndtr, "normal"),
    "cloglog": Link(
        "cloglog",
        lambda mu: np.log(-np.log1p(-mu)),
        lambda eta: -np.expm1(-np.exp(eta)),
        "gumbel",
    ),
}
_BINARY = ("logit", "probit", "cloglog", "identity", "log")
_LINKS_OF = {
    "gaussian": ("identity",),
    "student": ("identity",),
    "bernoulli": _BINARY,
    "binomial": _BINARY,
    "poisson": ("log", "identity"),
    "negativebinomial": ("log", "identity"),
    "gamma": ("log", "inverse", "identity"),
    "beta": ("logit", "probit", "cloglog"),
    "lognormal": ("identity",),
    "ordinal": ("logit", "probit", "cloglog"),
    "zero_inflated_poisson": ("log",),
    "zero_inflated_negativebinomial": ("log",),
}
_ALPHA, _ZI = FamilyParameter("alpha"), FamilyParameter("zi", 1, (0.0, 1.0), "logit")
_PARAMETERS = {
    "negativebinomial": (_ALPHA,),
    "gamma": (_ALPHA,),
    "beta": (FamilyParameter("kappa"),),
    "lognormal": (FamilyParameter("sigma"),),
    "zero_inflated_poisson": (_ZI,),
    "zero_inflated_negativebinomial": (_ALPHA, _ZI),
}


def family_of(name: str, link: str | None = None, n_categories: int | None = None) -> Family:
    """A family by its name."""
    one_of("family", name, FAMILIES)
    links = _LINKS_OF[name]
    if link is not None:
        one_of(f'link of family="{name}"', link, links)
    parameters = _PARAMETERS.get(name, ())
    if name == "ordinal":
        size = (n_categories or 2) - 1
        parameters = (FamilyParameter("threshold", size, (-np.inf, np.inf), "ordered"),)
    return Family(
        name,
        _LINKS[link or links[0]],
        parameters,
        gaussian=name in ("gaussian", "student"),
        discrete=name not in ("gaussian", "student", "gamma", "beta", "lognormal"),
    )


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
