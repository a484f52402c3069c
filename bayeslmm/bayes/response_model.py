"""The response of the hierarchical PyMC model where it is not Gaussian.

y_i ~ family(g^-1(eta_i), phi), its log density multiplied by the weight of the row. Thresholds of
ordered categories are in increasing order, with the density (K - 1)! p(c_1) ... p(c_{K-1}) at the
means of the predictors: that of K - 1 independent draws from p, sorted.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from bayeslmm.bayes.names import ModelNames
from bayeslmm.bayes.responses import THRESHOLD_DIM, drawn
from bayeslmm.bayes.variables import exact, positive
from bayeslmm.formula import Design
from bayeslmm.parts.families import Family
from bayeslmm.parts.prior import Prior
from bayeslmm.priors.table import Priors

__all__ = ["family_response"]


def family_response(design: Design, priors: Priors, names: ModelNames, eta, beta) -> None:
    """Add the family's parameters and the observed response to the model in context.

    Parameters
    ----------
    eta : TensorVariable
        Linear predictor, (n,).
    beta : TensorVariable
        Coefficients, (p,).
    """
    import pymc as pm

    from bayeslmm.bayes.response_densities import RESPONSE_DENSITIES

    family, phi = design.family, []
    for own in family.parameters:
        if own.transform == "ordered":
            thresholds = _thresholds(design, priors, beta)
            phi += [thresholds[k] for k in range(own.size)]
        else:
            phi.append(positive(own.key, [priors[own.key]], dims=None))
    pm.CustomDist(
        names.response,
        eta,
        np.ones(()) if design.trials is None else design.trials,
        np.ones(()) if design.weights is None else design.weights,
        *phi,
        logp=partial(_log_density, RESPONSE_DENSITIES[family.name], family.link.name),
        random=partial(_draw, family),
        observed=pm.Data(names.data, design.y, dims="obs"),
        dims="obs",
        class_name=family.name,
    )


def _log_density(density, link: str, y, eta, trials, weights, *phi):
    return weights * density(y, eta, link, phi, trials)


def _draw(family: Family, eta, trials, weights, *phi, rng, size=None) -> np.ndarray:
    """Weights count how often a row is there: they do not change its distribution."""
    eta = np.asarray(eta) if size is None else np.broadcast_to(eta, size)
    own = [np.asarray(value)[..., None] for value in phi]
    stacked = np.concatenate(own, axis=-1) if own else np.empty(0)
    return drawn(family, rng, eta, stacked, trials)


def _thresholds(design: Design, priors: Priors, beta):
    """The thresholds where the predictors are zero, from those at their means."""
    import pymc as pm
    import pytensor.tensor as pt

    prior, size = priors["threshold"], len(design.categories) - 1
    at_means = pm.CustomDist(
        "threshold_centered",
        dist=lambda size_of_batch: pt.sort(_independent(prior, size)),
        logp=partial(_ordered_log_density, prior),
        support_point=lambda rv, batch: pt.as_tensor(_start(design)),
        ndim_supp=1,
        transform=pm.distributions.transforms.ordered,
        dims=THRESHOLD_DIM,
        class_name=f"ordered{prior.name}",
    )
    thresholds = at_means + pt.dot(priors.means, beta)
    return pm.Deterministic("threshold", thresholds, dims=THRESHOLD_DIM)


def _ordered_log_density(prior: Prior, value):
    import pymc as pm
    import pytensor.tensor as pt

    sign, base = _base(prior)
    each = pm.logp(base(), sign * value).sum(axis=-1) + pt.gammaln(value.shape[-1] + 1.0)
    in_order = pt.all(value[..., 1:] > value[..., :-1], axis=-1)
    return pt.switch(in_order, each, -np.inf)


def _independent(prior: Prior, size: int):
    sign, base = _base(prior)
    return sign * base(shape=size)


def _base(prior: Prior):
    """The distribution of PyMC, and the sign with which it is the prior."""
    import pymc as pm

    given = exact(prior)
    if prior.name == "GumbelMin":
        return -1.0, partial(pm.Gumbel.dist, mu=-given["mu"], beta=given["beta"])
    return 1.0, partial(getattr(pm, prior.name).dist, **given)


def _start(design: Design) -> np.ndarray:
    """Thresholds of the categories' shares, half a row added to each."""
    counts = np.bincount(design.y.astype(int), minlength=len(design.categories)) + 0.5
    return design.family.link.link(np.cumsum(counts)[:-1] / counts.sum())
