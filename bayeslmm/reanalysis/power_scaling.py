"""Power-scaling: which priors, and how strongly, does each estimate depend on?

Kallioinen, Paananen, Buerkner and Vehtari (2024), Statistics and Computing 34, 57: raise a prior or
the likelihood to a power slightly off one, and measure how far each posterior margin moves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.bayes.coefficients import fixed_prior
from bayeslmm.bayes.draws import coefficient_draws, component_draws
from bayeslmm.bayes.laplace_posterior import heavy_effects, samples_effects
from bayeslmm.bayes.log_prior import log_prior_draws as _log_prior_draws
from bayeslmm.errors import DataError
from bayeslmm.gaussian import (
    FixedPrior,
)
from bayeslmm.laplace.groups import MOST_EFFECTS
from bayeslmm.parts.parameters import coef_key
from bayeslmm.priors.table import Priors
from bayeslmm.reanalysis.given_theta import coefficient_moments
from bayeslmm.reanalysis.theta import fitted_factors
from bayeslmm.results.left_out import log_likelihoods
from bayeslmm.results.printing import returns_table
from bayeslmm.results.response_left_out import LeavingOut

if TYPE_CHECKING:
    import xarray as xr

    from bayeslmm.protocols import PosteriorResult

__all__ = ["log_prior_draws", "power_scaling", "power_scaling_tree"]

#: Above this a margin depends on what was scaled (Kallioinen et al., section 3).
THRESHOLD = 0.05


@returns_table
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

    References
    ----------
    Kallioinen, Paananen, Buerkner and Vehtari (2024), Statistics and Computing 34, 57;
    https://doi.org/10.1007/s11222-023-10366-5

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
    return _log_prior_draws(fit.model.design, fit.names, fit.priors, fit.posterior)


def _shape(posterior) -> tuple[int, int]:
    return posterior.sizes["chain"], posterior.sizes["draw"]


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
