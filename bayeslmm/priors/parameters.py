"""The parameters of a model, with what their priors may be."""

from __future__ import annotations

import numpy as np

from bayeslmm.errors import PriorError
from bayeslmm.formula import Design
from bayeslmm.formula.covariates import ModeledCovariate
from bayeslmm.formula.random import RandomBlock
from bayeslmm.formula.statistics import spread
from bayeslmm.parts.parameters import (
    Component,
    Parameter,
    coef_key,
    corr_key,
    covariate_effect_key,
    covariate_key,
    covariate_slope_key,
    nu_key,
    pair_key,
    sd_key,
)
from bayeslmm.parts.prior import KNOWN, POSITIVE, SHRINKAGE, Prior, reaches_below_zero
from bayeslmm.priors.defaults import Defaults, response_spread
from bayeslmm.priors.residual_priors import residual_parameters
from bayeslmm.priors.responses import response_parameters

__all__ = ["check_prior", "component_names", "parameters_of"]

_POSITIVE = (0.0, np.inf)
#: Kinds of shape parameters of responses, which go to infinity where there is no overdispersion.
_SHAPES = ("alpha", "kappa")
#: Degrees of freedom of a Student-t distribution: Juarez and Steel (2010), Journal of Business
#: and Economic Statistics 28(1), section 2.
_NU = {"alpha": 2, "beta": 0.1}
#: Log-odds of a covariate of two values: nearly uniform for its share. Slopes have 2.5 over the
#: spread of their column, the scale of Gelman, Jakulin, Pittau and Su (2008, Annals of Applied
#: Statistics 2(4)).
_LOG_ODDS = {"mu": 0, "sigma": 1.5}


def parameters_of(
    design: Design, defaults: Defaults, *, family: str = "gaussian", random: str = "gaussian"
) -> list[Parameter]:
    """All parameters of a model, in the order in which they are printed.

    Parameters
    ----------
    design : Design
    defaults : Defaults
        Of the design.
    family, random : {"gaussian", "student"}
        Distribution of the residuals and of the random effects.
    """
    scaled = {key: Prior.from_dict(r) for key, r in defaults.given(lambda key: False).items()}
    found = []
    for name in design.coef_names:
        key, kind = coef_key(name), "intercept" if name == "Intercept" else "beta"
        shown = (Component(key, key),)
        found.append(Parameter(key, kind, scaled[key], components=shown))
    for block in design.blocks:
        found += _of_block(block, scaled, random)
    if design.family.gaussian:
        found += residual_parameters(design, response_spread(design))
    else:
        found += response_parameters(design)
    for covariate in design.modeled:
        found += _of_covariate(covariate)
    if family == "student":
        found.append(_degrees_of_freedom("nu"))
    return found


def _of_block(block: RandomBlock, scaled: dict[str, Prior], random: str) -> list[Parameter]:
    found, factor = [], block.name
    for effect in block.effects:
        key = sd_key(effect, factor)
        own = (Component(key, f"{effect} | {factor}"),)
        found.append(Parameter(key, "sd", scaled[key], _POSITIVE, factor, own))
    if pairs := block.correlated_pairs():
        sizes = {i: len(part) for part in block.pattern for i in part}
        shown = tuple(
            Component(pair_key(one, two, factor), f"{one}, {two} | {factor}", sizes[i])
            for i, j in pairs
            for one, two in [(block.effects[i], block.effects[j])]
        )
        lkj = Prior("LKJ", eta=2)
        found.append(Parameter(corr_key(factor), "corr", lkj, (-1.0, 1.0), factor, shown))
    if random == "student":
        found.append(_degrees_of_freedom("effects_nu", factor))
    return found


def _degrees_of_freedom(kind: str, factor: str | None = None) -> Parameter:
    key = nu_key(factor)
    return Parameter(key, kind, Prior("Gamma", **_NU), _POSITIVE, factor, (Component(key, key),))


def _of_covariate(covariate: ModeledCovariate) -> list[Parameter]:
    """Parameters of the regression of a covariate, in the order of the columns of its matrix."""
    observed, name, model = covariate.observed, covariate.name, covariate.model
    if covariate.values is not None:
        mean, unit = Prior("Normal", **_LOG_ODDS), 1.0
    else:
        size = np.max(np.abs(observed))
        unit = float(spread(np.std(observed, ddof=1), size))
        mean = Prior("Normal", mu=float(np.mean(observed)), sigma=2.5 * unit)
    found = [Parameter(covariate_key("mean", name), "covariate_mean", mean, factor=name)]
    for column, values in zip(model.names[1:], model.W.T[1:], strict=True):
        scale = 2.5 * unit / float(np.std(values, ddof=1))
        key, slope = covariate_slope_key(name, column), Prior("Normal", mu=0, sigma=scale)
        found.append(Parameter(key, "covariate_slope", slope, factor=name))
    positive = [(covariate_key("sd", name), "covariate_sd")] if covariate.values is None else []
    if model.factor is not None:
        positive.append((covariate_effect_key(name, model.factor), "covariate_effect_sd"))
    prior = Prior("HalfStudentT", nu=3, sigma=unit)
    return found + [Parameter(key, kind, prior, _POSITIVE, name) for key, kind in positive]


def component_names(block: RandomBlock) -> list[str]:
    """Names of a block's variance components, standard deviations first."""
    effects = block.effects
    sds = [sd_key(effect, block.name) for effect in effects]
    return sds + [pair_key(effects[i], effects[j], block.name) for i, j in block.correlated_pairs()]


def check_prior(parameter: Parameter, prior: Prior) -> None:
    """Scales, shapes and degrees of freedom are positive, rho and zi have an interval, thresholds
    the whole line; correlations have LKJ priors, nothing else.

    Raises
    ------
    PriorError
        If the prior does not suit the parameter.
    """
    key, kind = parameter.key, parameter.kind
    if parameter.default.name == "Fixed" and prior != parameter.default:
        raise PriorError(
            f"{key} is known: the formula has standard errors, se(...). For a residual standard "
            "deviation beside them add a factor with a level per row, (1 | row)."
        )
    if kind != "corr" and np.all(np.isfinite(parameter.support)):
        return _check_interval(parameter, prior)
    if (kind == "corr") != (prior.name == "LKJ"):
        wanted = 'Prior("LKJ", eta=2)' if kind == "corr" else "another distribution than LKJ"
        raise PriorError(f"{key}: use {wanted}, not {prior!r}.")
    if prior.name in SHRINKAGE and kind != "beta":
        raise PriorError(
            f"{key}: {prior!r} is a prior of several coefficients together, the intercept not "
            'among them. Give it to the class "beta" or to coefficients by name.'
        )
    if kind == "threshold":
        return _check_threshold(key, prior)
    _refuse_unbounded(parameter, prior)
    if parameter.support != _POSITIVE or prior.name in POSITIVE:
        return None
    if prior.name == "Fixed":
        if not prior.parameters["value"] > 0:
            raise PriorError(f"{key} must be positive, so it cannot be fixed by {prior!r}.")
        return None
    if prior.parameters.get("lower", -1.0) >= 0:
        return None
    if prior.name in KNOWN or reaches_below_zero(prior):
        is_nu = kind in ("nu", "effects_nu")
        what = "the degrees of freedom" if is_nu else "a standard deviation"
        what = "a distance in time" if kind == "range" else what
        what = "a shape, which is positive" if kind in _SHAPES else what
        raise PriorError(
            f"{key} is {what}, and {prior!r} allows negative values. Use "
            "HalfNormal, HalfStudentT, Exponential, Gamma, LogNormal or Uniform(lower=0, ...)."
        )
    return None


def _refuse_unbounded(parameter: Parameter, prior: Prior) -> None:
    """Refuse a flat prior of what the likelihood need not bound."""
    key, kind = parameter.key, parameter.kind
    is_nu = kind in ("nu", "effects_nu")
    if prior.name == "HalfFlat" and kind in _SHAPES:
        raise PriorError(
            f"{key}: the likelihood need not bound it from above, so that a flat prior may leave "
            "the posterior improper. Use a proper prior, such as LogNormal or InverseGamma."
        )
    if prior.name == "HalfFlat" and (kind == "range" or is_nu):
        what = "degrees of freedom" if is_nu else "range"
        raise PriorError(
            f"{key}: the likelihood does not bound the {what}, so that a flat prior leaves the "
            "posterior improper. Use a proper prior, such as Gamma or HalfNormal."
        )


def _check_threshold(key: str, prior: Prior) -> None:
    if prior.name in POSITIVE or prior.name in ("Fixed", "Uniform") or not prior.is_proper:
        raise PriorError(
            f"{key}: thresholds lie anywhere on the line, and each needs a proper prior there, "
            f"such as Logistic, Normal or StudentT, not {prior!r}."
        )


def _check_interval(parameter: Parameter, prior: Prior) -> None:
    (low, high), bounds = parameter.support, prior.parameters
    inside = bounds.get("lower", -np.inf) >= low - 1e-9 and bounds.get("upper", np.inf) <= high
    if parameter.kind == "zi" and prior.name == "Beta":
        return
    if prior.name == "Uniform" and not bounds:
        inside = (low, high) == (0.0, 1.0)
    if prior.name not in ("Uniform", "TruncatedNormal") or not inside:
        raise PriorError(
            f'{parameter.key} lies between {low:.4g} and {high:.4g}: use blm.Prior("Uniform", '
            f'lower={low:.4g}, upper={high:.4g}) or blm.Prior("TruncatedNormal", mu=..., '
            f"sigma=..., lower=..., upper=...) within these bounds, not {prior!r}."
        )
