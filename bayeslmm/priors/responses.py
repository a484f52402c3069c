"""What default priors need of a response that is not Gaussian, and priors of its parameters.

Defaults are those of the Gaussian model with another unit s of the linear predictor in place of
the standard deviation of the response, and with another center:

- s is 1 on a logit, probit, cloglog or log link, where a difference of 1 means a factor or a
  probability whatever the units of the response; the standard deviation of the response on an
  identity link, of its logarithm for lognormal responses; 1 / mean on an inverse link;
- the center is the linear predictor at which, without covariates, the means of all rows add up to
  the responses observed; for 0/1 and trials with half a success and half a failure added, so that
  it is finite and swaps its sign with them.
"""

from __future__ import annotations

import numpy as np

from bayeslmm.formula import Design
from bayeslmm.parts.parameters import Component, Parameter
from bayeslmm.parts.prior import Prior

__all__ = [
    "RESPONSE_KINDS",
    "response_center",
    "response_notes",
    "response_parameters",
    "response_unit",
]

_LOGNORMAL = Prior("LogNormal", mu=2, sigma=2)
#: Priors of the parameters beside the linear predictor, by key.
_DEFAULTS = {
    ("negativebinomial", "alpha"): Prior("InverseGamma", alpha=0.4, beta=0.3),
    ("gamma", "alpha"): _LOGNORMAL,
    ("beta", "kappa"): _LOGNORMAL,
    ("zero_inflated_poisson", "zi"): Prior("Uniform", lower=0, upper=1),
}
_DEFAULTS |= {
    ("zero_inflated_negativebinomial", "alpha"): _DEFAULTS["negativebinomial", "alpha"],
    ("zero_inflated_negativebinomial", "zi"): _DEFAULTS["zero_inflated_poisson", "zi"],
}
#: The distribution whose cdf the link of ordered categories is.
_LATENT = {
    "logit": Prior("Logistic", mu=0, s=1),
    "probit": Prior("Normal", mu=0, sigma=1),
    "cloglog": Prior("GumbelMin", mu=0, beta=1),
}
#: Kinds of parameters that only such responses have.
RESPONSE_KINDS = ("alpha", "kappa", "zi", "threshold")
#: Halvings of an interval that holds the center.
_HALVINGS = 100


def response_unit(design: Design) -> float:
    """Unit of the linear predictor, in which coefficients and effects have their defaults."""
    link = design.family.link.name
    if link == "inverse":
        return 1.0 / _mean(design)
    if link != "identity":
        return 1.0
    return _spread(design)


def response_center(design: Design) -> float:
    """The linear predictor at which the means of all rows add up to the responses observed."""
    if design.family.name == "ordinal":
        return 0.0
    link, mean = design.family.link, _mean(design)
    if link.name == "identity":
        weights = _counted(design)
        return mean - float(weights @ design.offset / weights.sum())
    center = float(link.link(mean))
    if not np.any(design.offset):
        return center
    weights = _counted(design)
    weights = weights / weights.sum()
    if link.name == "log":
        top = design.offset.max()
        return center - float(top + np.log(weights @ np.exp(design.offset - top)))
    return _balanced(design, center, weights, mean)


def _balanced(design: Design, center: float, weights: np.ndarray, mean: float) -> float:
    """Center by halving: between the centers with the largest and the smallest offset for all."""
    link, offset = design.family.link, design.offset
    low, high = center - offset.max(), center - offset.min()
    falls = link.name == "inverse"
    if falls:  # its means are positive
        low = max(low, -offset.min())
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        if (weights @ link.inverse(middle + offset) > mean) == falls:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def _values(design: Design) -> np.ndarray:
    """Responses in the unit of their mean: logarithms of lognormal ones, shares of trials."""
    if design.family.name == "lognormal":
        return np.log(design.y)
    return design.y if design.trials is None else design.y / design.trials


def _counted(design: Design) -> np.ndarray:
    """How often each row counts: its weight times its trials."""
    counted = np.ones(design.n_rows) if design.weights is None else design.weights
    return counted if design.trials is None else counted * design.trials


def _mean(design: Design) -> float:
    """Mean response; with half a success and half a failure added."""
    counted, values = _counted(design), _values(design)
    if design.family.name in ("bernoulli", "binomial"):
        return float((counted @ values + 0.5) / (counted.sum() + 1.0))
    return float(counted @ values / counted.sum())


def _spread(design: Design) -> float:
    """Standard deviation of the response less its offset, 1 where it does not vary."""
    values = _values(design) - design.offset
    weights = np.ones(len(values)) if design.weights is None else design.weights
    n = len(values)
    middle = weights @ values / weights.sum()
    sd = float(np.sqrt(weights @ (values - middle) ** 2 / weights.sum() * n / (n - 1)))
    return sd if sd > 1e-12 * np.abs(values).max() else 1.0


def response_parameters(design: Design) -> list[Parameter]:
    """The parameters beside the linear predictor, with their default priors.

    - alpha of negative binomials: InverseGamma(0.4, 0.3), which is near nothing for strong
      overdispersion and wide towards none;
    - alpha (shape) of gamma and kappa of beta responses: LogNormal(2, 2);
    - sigma of lognormal ones: HalfStudentT(3, sd(log y));
    - zi, the share of extra zeros: Uniform(0, 1);
    - thresholds: see :func:`response_notes`.
    """
    return [_parameter(design, own) for own in design.family.parameters]


def _parameter(design: Design, own) -> Parameter:
    family = design.family.name
    if own.key == "threshold":
        labels = design.categories
        shown = tuple(
            Component(f"threshold({one}|{two})", f"{one}|{two}")
            for one, two in zip(labels[:-1], labels[1:], strict=True)
        )
        return Parameter(
            own.key, own.key, _LATENT[design.family.link.name], own.support, components=shown
        )
    if own.key == "sigma":
        default = Prior("HalfStudentT", nu=3, sigma=_spread(design))
    else:
        default = _DEFAULTS[family, own.key]
    return Parameter(
        own.key, own.key, default, own.support, components=(Component(own.key, own.key),)
    )


def response_notes(design: Design) -> list[str]:
    """Lines that say what the defaults of such a model are about."""
    family, link = design.family, design.family.link.name
    if design.se_name is not None:
        return [f"sigma is known: rows have the standard errors {design.se_name}"]
    if family.gaussian:
        return []
    unit = response_unit(design)
    why = {
        "identity": "standard deviation of the response",
        "inverse": "1 / mean response",
    }.get(link, f"{link} link")
    if family.name == "lognormal":
        why = "standard deviation of the logarithm of the response"
    lines = [f"Unit of the linear predictor in the defaults: {unit:.4g} ({why})"]
    if family.name == "ordinal":
        lines.append(
            "threshold: of each of the thresholds at the means of the predictors, given that they "
            "are in order (by default every set of category probabilities is equally likely there)"
        )
    return lines
