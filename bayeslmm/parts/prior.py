"""A prior distribution by its PyMC name: its parameters, and whether they make a distribution."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from bayeslmm.errors import PriorError, suggestion

__all__ = [
    "KNOWN",
    "POSITIVE",
    "SHRINKAGE",
    "Prior",
    "reaches_below_zero",
    "refuse_no_distribution",
]

#: Distributions that are used most, with their parameters (PyMC's names). Others are looked
#: up in PyMC itself, which takes seconds to import.
KNOWN = {
    "Normal": ("mu", "sigma", "tau"),
    "StudentT": ("nu", "mu", "sigma", "lam"),
    "Cauchy": ("alpha", "beta"),
    "Laplace": ("mu", "b"),
    "Logistic": ("mu", "s"),
    "GumbelMin": ("mu", "beta"),
    "SkewNormal": ("mu", "sigma", "alpha", "tau"),
    "Flat": (),
    "HalfFlat": (),
    "HalfNormal": ("sigma", "tau"),
    "HalfStudentT": ("nu", "sigma", "lam"),
    "HalfCauchy": ("beta",),
    "Exponential": ("lam", "scale"),
    "Gamma": ("alpha", "beta", "mu", "sigma"),
    "InverseGamma": ("alpha", "beta", "mu", "sigma"),
    "LogNormal": ("mu", "sigma", "tau"),
    "Weibull": ("alpha", "beta"),
    "Beta": ("alpha", "beta", "mu", "sigma"),
    "Uniform": ("lower", "upper"),
    "TruncatedNormal": ("mu", "sigma", "lower", "upper", "tau"),
    "LKJ": ("eta",),
    "Fixed": ("value",),
    "Horseshoe": ("expected", "scale", "df", "df_global", "slab", "df_slab"),
    "R2D2": ("mean", "precision", "concentration"),
}
#: Priors of a set of coefficients together, with their parameters' defaults.
SHRINKAGE: dict[str, dict[str, float]] = {
    "Horseshoe": {"df": 1, "df_global": 1, "slab": 2, "df_slab": 4},
    "R2D2": {"mean": 0.5, "precision": 2, "concentration": 0.5},
}
POSITIVE = {
    "HalfFlat",
    "HalfNormal",
    "HalfStudentT",
    "HalfCauchy",
    "Exponential",
    "Gamma",
    "InverseGamma",
    "LogNormal",
    "Weibull",
    "Beta",
}
_IMPROPER = {"Flat", "HalfFlat"}
#: Parameters without a default in PyMC: one of each group must be given.
_REQUIRED = {
    "StudentT": (("nu",),),
    "HalfStudentT": (("nu",),),
    "Cauchy": (("alpha",), ("beta",)),
    "HalfCauchy": (("beta",),),
    "Laplace": (("mu",), ("b",)),
    "Exponential": (("lam", "scale"),),
    "Gamma": (("alpha", "mu"), ("beta", "sigma")),
    "InverseGamma": (("alpha", "mu"), ("beta", "sigma")),
    "Beta": (("alpha", "mu"), ("beta", "sigma")),
    "GumbelMin": (("mu",), ("beta",)),
    "Weibull": (("alpha",), ("beta",)),
    "LKJ": (("eta",),),
    "Fixed": (("value",),),
    "Horseshoe": (("expected", "scale"),),
}
_ALIASES = {"Lognormal": "LogNormal"}
#: Parameters that have to be positive, by family.
_POSITIVE_PARAMETERS = {
    "Normal": ("sigma", "tau"),
    "StudentT": ("nu", "sigma", "lam"),
    "Cauchy": ("beta",),
    "Laplace": ("b",),
    "Logistic": ("s",),
    "GumbelMin": ("beta",),
    "SkewNormal": ("sigma", "tau"),
    "HalfNormal": ("sigma", "tau"),
    "HalfStudentT": ("nu", "sigma", "lam"),
    "HalfCauchy": ("beta",),
    "Exponential": ("lam", "scale"),
    "Gamma": ("alpha", "beta", "mu", "sigma"),
    "InverseGamma": ("alpha", "beta", "mu", "sigma"),
    "Beta": ("alpha", "beta", "mu", "sigma"),
    "LogNormal": ("sigma", "tau"),
    "Weibull": ("alpha", "beta"),
    "TruncatedNormal": ("sigma", "tau"),
    "LKJ": ("eta",),
    **{name: KNOWN[name] for name in SHRINKAGE},
}
#: Families that are written with alpha and beta or with mu and sigma.
_TWO_WAYS = {"Gamma", "InverseGamma", "Beta"}
#: Two ways to say one scale.
_ONE_SCALE = (("sigma", "tau"), ("sigma", "lam"), ("lam", "scale"), ("expected", "scale"))
_BOUNDS = {"Uniform": (0.0, 1.0), "TruncatedNormal": (-math.inf, math.inf)}

#: PyTensor's mode for what is evaluated once: compiling would take seconds.
_UNCOMPILED = "FAST_COMPILE"


class Prior:
    """A prior distribution by its PyMC name.

    Parameters
    ----------
    name : str
        A PyMC distribution, ``"LKJ"`` for correlations, ``"Fixed"`` for a parameter whose value
        is known (``blm.Prior("Fixed", value=1)`` on sigma: known sampling variances), or
        ``"GumbelMin"`` for thresholds (minus it has PyMC's ``"Gumbel"`` with -mu: its cdf is
        the inverse of the cloglog link).
    **parameters : float
        Its parameters, under PyMC's names.

    Raises
    ------
    PriorError
        If there is no such distribution, or it has no such parameter, a value is not a finite
        number, or with these values it is no distribution of one number.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> blm.Prior("Normal", mu=0, sigma=10)
    Normal(mu=0, sigma=10)
    """

    __slots__ = ("name", "parameters")

    def __init__(self, name: str, **parameters: float):
        name = _ALIASES.get(name, name)
        allowed = _parameters_of(name)
        if allowed is not None:
            wrong = [key for key in parameters if key not in allowed]
            if wrong:
                raise PriorError(
                    f"{name} has no parameter {wrong[0]!r}. Its parameters: "
                    f"{', '.join(allowed) or 'none'}."
                )
        for key, value in parameters.items():
            if not _is_number(value):
                raise PriorError(
                    f"{name}: {key} must be a number, not {value!r}. (A prior on a prior's "
                    "parameter is not supported; take model.pymc_model() further in PyMC.)"
                )
        self.name = name
        self.parameters = {key: _plain(value) for key, value in parameters.items()}
        self.parameters = {**SHRINKAGE.get(name, {}), **self.parameters}
        _check_values(self)

    def __repr__(self) -> str:
        inside = ", ".join(f"{key}={value:.4g}" for key, value in self.parameters.items())
        return f"{self.name}({inside})"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Prior)
            and self.name == other.name
            and self.parameters == other.parameters
        )

    def __hash__(self) -> int:
        return hash((self.name, tuple(sorted(self.parameters.items()))))

    @property
    def is_proper(self) -> bool:
        """Whether it integrates to one."""
        return self.name not in _IMPROPER

    def to_dict(self) -> dict[str, Any]:
        """As plain data for a file.

        Returns
        -------
        dict

        Examples
        --------
        >>> Prior("Normal", mu=0, sigma=10).to_dict()["name"]
        'Normal'
        """
        return {"name": self.name, **self.parameters}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Prior:
        """From :meth:`to_dict`.

        Parameters
        ----------
        record : dict

        Returns
        -------
        Prior
        """
        record = dict(record)
        return cls(record.pop("name"), **record)


def _parameters_of(name: str) -> tuple[str, ...] | None:
    """Parameter names, or None where PyMC knows the distribution but we do not."""
    if not isinstance(name, str):
        raise PriorError(f"A prior starts with a distribution's name, not {name!r}.")
    if name in KNOWN:
        return KNOWN[name]
    import pymc as pm

    found = getattr(pm, name, None)
    if isinstance(found, type) and issubclass(found, pm.Distribution):
        if not issubclass(found, pm.Continuous):
            raise PriorError(f"{name} is not a continuous univariate distribution.")
        return None
    hint = suggestion(name, KNOWN, 3, quoted=False)
    raise PriorError(
        f"PyMC has no distribution {name!r}.{hint} Most used: {', '.join(KNOWN)} (LKJ for "
        "correlations)."
    )


def _is_number(value) -> bool:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return False
    return math.isfinite(number) and not isinstance(value, bool | str)


def _plain(value) -> float:
    return int(value) if isinstance(value, int | np.integer) else float(value)


def _check_values(prior: Prior) -> None:
    for group in _REQUIRED.get(prior.name, ()):
        if not prior.parameters.keys() & set(group):
            raise PriorError(f"{prior.name} needs the parameter {' or '.join(group)}.")
    refuse_no_distribution(prior, known=prior.name in KNOWN)


def refuse_no_distribution(prior: Prior, *, known: bool) -> None:
    """Refuse parameters with which the family is no distribution on the real line.

    Parameters
    ----------
    prior : Prior
    known : bool
        Whether the family is one of those named here; PyMC is asked about others.

    Raises
    ------
    PriorError
    """
    if not known:
        _ask_pymc(prior)
        return
    given = prior.parameters
    for key in _POSITIVE_PARAMETERS.get(prior.name, ()):
        if key in given and not given[key] > 0:
            raise PriorError(
                f"{prior!r} is not a distribution: {key} must be positive"
                + (" (1 is uniform over correlation matrices)." if key == "eta" else ".")
            )
    if prior.name == "R2D2" and not given["mean"] < 1:
        raise PriorError(f"{prior!r}: the mean of R2 lies between 0 and 1.")
    if prior.name in _TWO_WAYS and set(given) not in ({"alpha", "beta"}, {"mu", "sigma"}):
        raise PriorError(f"{prior!r}: give alpha and beta, or mu and sigma, and nothing else.")
    for pair in _ONE_SCALE:
        if set(pair) <= given.keys():
            raise PriorError(f"{prior!r}: give {' or '.join(pair)}, not both.")
    if prior.name in _BOUNDS:
        default = _BOUNDS[prior.name]
        lower, upper = given.get("lower", default[0]), given.get("upper", default[1])
        if not lower < upper:
            raise PriorError(
                f"{prior!r}: lower must be below upper"
                + (f" ({upper:g} by default)." if "upper" not in given else ".")
            )


def _ask_pymc(prior: Prior) -> None:
    import pymc as pm
    from pymc.distributions.distribution import support_point

    family = getattr(pm, prior.name)
    operator = getattr(family, "rv_op", None)
    if not hasattr(operator, "ndim_supp"):
        operator = getattr(family, "rv_type", None)
    if getattr(operator, "ndim_supp", 0):
        raise PriorError(
            f"{prior.name} is a distribution of several numbers at once, and every parameter here "
            "is one number. Correlations have LKJ priors."
        )
    try:
        distribution = family.dist(**prior.parameters)
        # the density first: it checks the parameters, without which a draw may take for ever
        middle = pm.logp(distribution, support_point(distribution)).eval(mode=_UNCOMPILED)
        draws = pm.draw(distribution, 50, random_seed=1, mode=_UNCOMPILED)
        heights = pm.logp(distribution, draws).eval(mode=_UNCOMPILED)
    except Exception as err:  # whatever PyMC and PyTensor raise
        reason = str(err).strip().splitlines()
        raise PriorError(
            f"{prior!r} is not a distribution: {reason[0] if reason else type(err).__name__}"
        ) from None
    if np.isnan(middle) or not (np.isfinite(draws).all() and np.isfinite(heights).all()):
        raise PriorError(
            f"{prior!r} is not a distribution: its draws or its density are not finite."
        )


def reaches_below_zero(prior: Prior) -> bool:
    """Whether a family that PyMC alone knows has density or draws below zero."""
    import pymc as pm

    distribution = getattr(pm, prior.name).dist(**prior.parameters)
    draws = pm.draw(distribution, 1000, random_seed=1, mode=_UNCOMPILED)
    points = -np.geomspace(1e-6, 1e6, 200) * max(float(np.median(np.abs(draws))), 1e-12)
    heights = pm.logp(distribution, points).eval(mode=_UNCOMPILED)
    return bool(np.any(draws < 0) or np.isfinite(heights).any())
