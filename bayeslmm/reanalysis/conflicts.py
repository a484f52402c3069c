"""Priors that the likelihood contradicts, named after a fit.

A prior conflicts with the likelihood where its log density is far below its highest everywhere
within four standard errors of the REML estimate: by 8, as a normal density four standard deviations
from its mean (compare Evans and Moshonov 2006, Bayesian Analysis 1(4), section 2).
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.bayes.log_prior import log_scale_prior
from bayeslmm.errors import BayesLMMError, PriorError
from bayeslmm.parts.parameters import coef_key
from bayeslmm.parts.scales import draw_scales, scales, supported_scale
from bayeslmm.reanalysis.posteriors import log_prior_density, prior_quantiles
from bayeslmm.results.findings import Finding

if TYPE_CHECKING:
    from bayeslmm.parts.prior import Prior
    from bayeslmm.protocols import Model

__all__ = ["conflicting_priors"]

#: Distance of a normal prior in its standard deviations, and of the estimate in standard errors.
_FAR = 4.0
_NEVER = ("Flat", "HalfFlat", "LKJ")


def conflicting_priors(model: Model) -> list[Finding]:
    """A finding for every prior that the data contradict grossly.

    Only where a prior was set, or coefficients are measured from zero without a constant: the
    other defaults are too wide for that.

    Parameters
    ----------
    model : Model

    Returns
    -------
    list of Finding
        Empty also where there is no REML fit to compare with.
    """
    design, priors = model.design, model.priors
    asked = [k for k in priors if not priors.is_default(k) and priors[k].name not in _NEVER]
    from_zero = bool(design.coef_names) and design.statistics.ones is None
    if not asked and not from_zero:
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = model.reml()
            found = {**_coefficients(model, fit), **_components(model, fit)}
    except (BayesLMMError, ValueError, np.linalg.LinAlgError):
        return []
    return [
        Finding(
            "priors",
            f"The prior of {key}, {priors[key]!r}, and the data disagree grossly: the REML "
            f"estimate is {estimate:.4g} (standard error {se:.2g}). The posterior is a compromise "
            "that neither supports.",
            "Widen the prior, or look for a mistake in units, signs or data.",
            gross=True,
        )
        for key, (estimate, se) in found.items()
        if np.isfinite(se) and _contradicts(key, priors[key], estimate, se)
    ]


def _coefficients(model: Model, fit) -> dict[str, tuple[float, float]]:
    """Estimate and standard error of what each coefficient's prior is about."""
    names, found = model.design.coef_names, {}
    beta = fit.fixef("normal")["estimate"].reindex(names).to_numpy()
    V = fit.vcov.reindex(index=names, columns=names).to_numpy()
    for name, row in zip(names, model.priors.combinations(), strict=True):
        used = row != 0
        if np.all(np.isfinite(beta[used])):
            se = np.sqrt(row[used] @ V[np.ix_(used, used)] @ row[used])
            found[coef_key(name)] = float(row[used] @ beta[used]), float(se)
    return found


def _components(model: Model, fit) -> dict[str, tuple[float, float]]:
    """Estimates of the standard deviations that have a prior of the user's."""
    table, priors = fit.varcomp(), model.priors
    return {
        key: (float(table.loc[key, "estimate"]), float(table.loc[key, "se"]))
        for key in priors
        if key in table.index and not priors.is_default(key)
    }


def _contradicts(key: str, prior: Prior, estimate: float, se: float) -> bool:
    if prior.name in _NEVER:
        return False
    near = np.linspace(estimate - _FAR * se, estimate + _FAR * se, 81)
    if prior.name == "Fixed":
        return not near[0] <= prior.parameters["value"] <= near[-1]
    try:
        typical, best = _log_densities(key, prior, near)
    except PriorError:
        return False
    return bool(typical - best > 0.5 * _FAR**2)


def _log_densities(key: str, prior: Prior, near: np.ndarray) -> tuple[float, float]:
    """Highest log density over the prior's own quantiles, and over ``near``."""
    with np.errstate(all="ignore"):
        if supported_scale(prior):
            own = draw_scales(scales([prior]), 500, np.random.default_rng(0))[:, 0]
            values = [log_scale_prior(key, prior, part) for part in (own, near[near > 0])]
        else:
            values = [log_prior_density(prior, part) for part in (prior_quantiles(prior), near)]
    return float(np.max(values[0])), float(np.max(values[1], initial=-np.inf))
