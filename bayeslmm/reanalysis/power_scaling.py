"""Power-scaling: which priors, and how strongly, does each estimate depend on?

Kallioinen, Paananen, Buerkner and Vehtari (2024), Statistics and Computing 34, 57: raise a prior or
the likelihood to a power slightly off one, and measure how far each posterior margin moves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.bayes.coefficients import fixed_prior
from bayeslmm.bayes.draws import coefficient_draws, component_draws, prior_covariance_draws
from bayeslmm.bayes.laplace_posterior import heavy_effects, samples_effects
from bayeslmm.bayes.residual_draws import residual_parameters
from bayeslmm.errors import DataError, PriorError
from bayeslmm.gaussian import (
    FixedPrior,
)
from bayeslmm.laplace.groups import MOST_EFFECTS
from bayeslmm.parts.parameters import coef_key, corr_key, sd_key
from bayeslmm.parts.scales import constrain, scale_terms, scales, supported_scale, unconstrain
from bayeslmm.priors.residual_priors import CORR_KEY, log_scale_keys, scalar_key, scale_keys
from bayeslmm.priors.table import Priors
from bayeslmm.reanalysis.given_theta import coefficient_moments
from bayeslmm.reanalysis.posteriors import log_prior_density
from bayeslmm.reanalysis.theta import fitted_factors
from bayeslmm.results.left_out import log_likelihoods
from bayeslmm.results.response_left_out import LeavingOut

if TYPE_CHECKING:
    import xarray as xr

    from bayeslmm.protocols import PosteriorResult

__all__ = ["log_prior_draws", "log_scale_prior", "power_scaling", "power_scaling_tree"]

#: Above this a margin depends on what was scaled (Kallioinen et al., section 3).
THRESHOLD = 0.05


def power_scaling(fit: PosteriorResult) -> pd.DataFrame:
    """Sensitivity of every coefficient and component to every prior and to the likelihood.

    Parameters
    ----------
    fit : PosteriorResult

    Returns
    -------
    pandas.DataFrame
        One row per parameter. Columns ``prior`` (all of them together) and ``likelihood``:
        derivative of the distance between posterior margins; ``diagnosis``, where a prior matters
        (above 0.05); then one column per prior.

    Raises
    ------
    PriorError
        If a prior's density is not known here.
    DataError
        If the response is not Gaussian or residuals are Student-t, and there are several grouping
        factors, or one with more than three effects; if effects are Student-t.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> model = blm.LMM("Yield ~ 1 + (1 | Batch)", blm.load_dataset("dyestuff"))
    >>> table = blm.power_scaling(model.fit(method="importance", random_seed=1))
    >>> table.columns.tolist()[:3]
    ['prior', 'likelihood', 'diagnosis']
    """
    import arviz_stats

    from bayeslmm.results.support import refuse_unless_derived

    design = fit.model.design
    refuse_unless_derived(
        fit.model, "Power-scaling", related=True, residuals=True, families=True,
        heavy_tails=not design.modeled,
    )  # fmt: skip
    if heavy_effects(design, fit.priors):
        raise DataError(
            'Power-scaling is not available with random="student": it takes the likelihood with '
            "the random effects integrated out, by quadrature, and that is for normal ones. Fit "
            "the model again under other priors, or see blm.sensitivity for one coefficient."
        )
    tree = power_scaling_tree(fit)
    names = tree["posterior"].attrs["parameters"].split("\n")

    def values(group: str, variables: list[str] | None) -> np.ndarray:
        if variables and _is_constant(tree["log_prior"][variables[0]].to_numpy()):
            return np.zeros(len(names))  # flat, or uniform: its power is itself
        found = arviz_stats.psense(tree, group=group, group_var_names=variables)
        return np.array([float(found[f"p{i}"]) for i in range(len(names))])

    keys = list(fit.priors)
    columns = {"prior": values("prior", None), "likelihood": values("likelihood", None)}
    table = pd.DataFrame(columns, index=pd.Index(names, name="parameter"))
    table["diagnosis"] = [_diagnosis(*row) for row in table.to_numpy()]
    for at, key in enumerate(keys):
        if fit.priors[key].name == "Fixed":  # what is known has no prior to scale
            continue
        table[key] = values("prior", [f"prior{at}"])
    return table


def _is_constant(values: np.ndarray) -> bool:
    return bool(np.ptp(values) <= 1e-9 * max(1.0, float(np.abs(values).max())))


def _diagnosis(prior: float, likelihood: float) -> str:
    if not prior >= THRESHOLD:
        return "-"
    if likelihood >= THRESHOLD:
        return "prior and data disagree, or the prior is informative"
    return "strong prior or weak data"


def power_scaling_tree(fit: PosteriorResult) -> xr.DataTree:
    """What ``arviz_stats.psense`` takes: groups posterior, log_prior and log_likelihood.

    The log-likelihood is log p(y | coefficients, components), random effects integrated out: their
    distribution is part of the model, and its parameters have the priors. Where the response is not
    Gaussian, by adaptive quadrature (:mod:`bayeslmm.laplace.groups`).
    """
    import xarray as xr

    design, posterior = fit.model.design, fit.posterior
    coefs, beta = coefficient_draws(design, posterior)
    components, rest = component_draws(design, fit.names, posterior)
    names = [*(coef_key(name) for name in coefs), *components]
    draws = np.concatenate([beta, rest], axis=-1)
    dims = ("chain", "draw")
    groups = {
        "posterior": xr.Dataset(
            {f"p{i}": (dims, draws[:, :, i]) for i in range(len(names))},
            attrs={"parameters": "\n".join(names)},
        ),
        "log_prior": xr.Dataset(
            {f"prior{i}": (dims, value) for i, value in enumerate(log_prior_draws(fit).values())}
        ),
        "log_likelihood": xr.Dataset({"y": (dims, _total_log_likelihood(fit))}),
    }
    return xr.DataTree.from_dict(groups)


def log_prior_draws(fit: PosteriorResult) -> dict[str, np.ndarray]:
    """Log density of every prior at every draw, shapes (chains, draws), by the prior's key.

    Raises
    ------
    PriorError
        If a prior's density is not known here.
    """
    design, priors, posterior = fit.model.design, fit.priors, fit.posterior
    if (together := priors.shrinkage) is not None:
        raise PriorError(
            f"Power-scaling is about priors of single parameters, and {together.prior!r} is one of "
            f"{len(together.names)} coefficients together: fit the model under another one."
        )
    out: dict[str, np.ndarray] = {}
    coefs, beta = coefficient_draws(design, posterior)
    combinations = beta @ priors.combinations().T
    for j, name in enumerate(coefs):
        out[coef_key(name)] = log_prior_density(priors[coef_key(name)], combinations[:, :, j])
    effects = zip(
        design.blocks,
        prior_covariance_draws(design, fit.names, posterior, priors),
        strict=True,
    )
    for block, Sigma in effects:
        sd = np.sqrt(np.diagonal(Sigma, axis1=-2, axis2=-1))
        for j, effect in enumerate(block.effects):
            key = sd_key(effect, block.name)
            out[key] = log_scale_prior(key, priors[key], sd[:, :, j])
        if block.correlated_pairs():
            key = corr_key(block.name)
            corr = Sigma / (sd[..., :, None] * sd[..., None, :])
            out[key] = _log_lkj(corr, block, priors[key])
    own = _log_response_priors if samples_effects(design, priors) else _log_residual_priors
    out |= own(design, priors, posterior)
    return {key: out[key] for key in priors}


def _log_residual_priors(design, priors: Priors, posterior) -> dict[str, np.ndarray]:
    """Log densities of the priors of residual standard deviations and correlations."""
    eta, c = residual_parameters(design, posterior)
    own = scale_keys(design)
    out = {
        key: log_scale_prior(key, priors[key], np.exp(eta[:, :, i])) for i, key in enumerate(own)
    }
    for i, key in enumerate(log_scale_keys(design), start=len(own)):
        out[key] = log_prior_density(priors[key], eta[:, :, i])
    if scalar := scalar_key(design):
        out[scalar] = _log_supported(priors[scalar], c[:, :, 0])
    if CORR_KEY in priors:
        R = c.reshape(*c.shape[:2], *2 * [len(design.stated_residual.times)])
        out[CORR_KEY] = (priors[CORR_KEY].parameters["eta"] - 1.0) * np.linalg.slogdet(R)[1]
    return out


def _log_response_priors(design, priors: Priors, posterior) -> dict[str, np.ndarray]:
    """Log densities of the priors of a family's parameters."""
    out = {}
    for own in design.family.parameters:
        at = posterior[own.key].to_numpy().reshape(*_shape(posterior), own.size)
        if own.transform == "ordered":  # thresholds are meant at the means of the predictors
            at = at - (coefficient_draws(design, posterior)[1] @ priors.means)[..., None]
        out[own.key] = _log_supported(priors[own.key], at).sum(axis=-1)
    return out


def _shape(posterior) -> tuple[int, int]:
    return posterior.sizes["chain"], posterior.sizes["draw"]


def log_scale_prior(key: str, prior, sd: np.ndarray) -> np.ndarray:
    """Log prior density of a standard deviation (not of its logarithm)."""
    if not supported_scale(prior):
        raise PriorError(f"The density of the prior of {key}, {prior!r}, is not known here.")
    return _log_supported(prior, sd)


def _log_supported(prior, at: np.ndarray) -> np.ndarray:
    """Log density of a prior that the marginal density knows."""
    one = scales([prior])
    values = np.empty(at.size)
    for i, s in enumerate(at.ravel()):
        x = unconstrain(one, np.array([s]))
        values[i] = (
            scale_terms(one, x)[0] - constrain(one.lower[0], one.upper[0], one.unit[0], x[0])[2]
        )
    return values.reshape(at.shape)


def _log_lkj(corr: np.ndarray, block, prior) -> np.ndarray:
    """Log LKJ density of every correlated part, up to its constant."""
    total = np.zeros(corr.shape[:2])
    for part in block.pattern:
        if len(part) > 1:
            inner = corr[:, :, list(part)][:, :, :, list(part)]
            total += np.linalg.slogdet(inner)[1]
    return (prior.parameters["eta"] - 1.0) * total


def _total_log_likelihood(fit: PosteriorResult) -> np.ndarray:
    """log p(y | beta, theta) at every draw, random effects integrated out.

    By Bayes' rule at any normal prior on beta: log p(y | theta) + log p(beta | theta, y) less the
    log prior of beta; a flat one where the data determine beta.
    """
    model, design = fit.model, fit.model.design
    if samples_effects(design, fit.priors):
        return _response_log_likelihood(fit)
    theta = fitted_factors(fit)
    prior = FixedPrior.flat(len(design.coef_names))
    if model.aliased:
        prior = fixed_prior(design, Priors(design))
    p = len(design.coef_names)
    beta = coefficient_draws(design, fit.posterior)[1].reshape(-1, p)
    value = log_likelihoods(model.problem, prior, theta.theta)
    if p:
        mean, covariance = coefficient_moments(model.problem, prior, theta, np.eye(p))
        gap = (beta - mean)[:, :, None]
        distance = (gap * np.linalg.solve(covariance, gap)).sum(axis=(1, 2))
        value += -0.5 * (distance + np.linalg.slogdet(covariance)[1])
    value += 0.5 * ((beta @ prior.root.T - prior.target) ** 2).sum(axis=1)
    return value.reshape(fit.posterior["sigma"].shape)


def _response_log_likelihood(fit: PosteriorResult) -> np.ndarray:
    """As :func:`_total_log_likelihood`, of other responses and Student-t residuals."""
    design, posterior = fit.model.design, fit.posterior
    blocks = design.blocks
    if len(blocks) > 1 or any(block.n_effects > MOST_EFFECTS for block in blocks):
        raise DataError(
            f'Power-scaling is not available with family="{design.family.name}" and several '
            f"grouping factors, or more than {MOST_EFFECTS} effects of one: it takes the "
            "likelihood with the random effects integrated out, by quadrature. Fit the model "
            "again under other priors, or see blm.sensitivity for one coefficient."
        )
    leaving = LeavingOut.of(fit, 0 if blocks else None)
    found = leaving.by_groups(posterior) if blocks else leaving.by_rows(posterior).log_density
    return found.sum(axis=1).reshape(_shape(posterior))
