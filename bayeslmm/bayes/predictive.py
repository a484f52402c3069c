"""Data simulated from the model: before the data (prior) and after (posterior)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.bayes.draws import covariance_factors, effect_array
from bayeslmm.bayes.names import ModelNames
from bayeslmm.bayes.priors import Priors
from bayeslmm.bayes.residual_draws import residual_noise
from bayeslmm.bayes.residual_model import join_observed, observed_names
from bayeslmm.bayes.residuals import draw_noise, effect_multipliers, effect_nu, residual_nu
from bayeslmm.bayes.sampling import quiet_pymc
from bayeslmm.bayes.tree import linear_predictor
from bayeslmm.errors import PriorError
from bayeslmm.formula import Design

if TYPE_CHECKING:
    import pymc as pm
    import xarray as xr

__all__ = ["posterior_predictive", "prior_predictive"]

_MAX_VALUES = 1e8


def posterior_predictive(
    design: Design,
    names: ModelNames,
    posterior: xr.Dataset,
    *,
    groups: str = "same",
    draws: int | None = None,
    random_seed: int | None = None,
) -> xr.Dataset:
    """Replicated responses of the same rows.

    Parameters
    ----------
    groups : {"same", "new"}
        With the fitted groups' own effects, or with effects drawn from their distribution.
    draws : int, optional
        Draws per chain, evenly spaced.
    random_seed : int, optional

    Returns
    -------
    xarray.Dataset
        The response's name, dimensions (chain, draw, obs).
    """
    import xarray as xr

    if groups not in ("same", "new"):
        raise ValueError(f'groups must be "same" or "new", not {groups!r}.')
    available = posterior.sizes["draw"]
    if draws is None:
        room = int(_MAX_VALUES // (design.n_rows * posterior.sizes["chain"]))
        draws = max(1, min(available, room))
    if not 1 <= draws <= available:
        raise ValueError(f"draws must be between 1 and {available}, not {draws!r}.")
    if draws < available:
        posterior = posterior.isel(draw=np.linspace(0, available - 1, draws).astype(int))
    rng = np.random.default_rng(random_seed)
    if groups == "new":
        posterior = _new_effects(design, names, posterior, rng)
    mean = linear_predictor(design, names, posterior)
    values = mean + residual_noise(
        design, posterior, draw_noise(rng, mean.shape, residual_nu(posterior))
    )
    coords = {"chain": posterior["chain"], "draw": posterior["draw"]}
    return xr.Dataset(
        {names.response: (("chain", "draw", "obs"), values)},
        coords={**coords, "obs": np.arange(design.n_rows)},
    )


def _new_effects(
    design: Design, names: ModelNames, posterior: xr.Dataset, rng: np.random.Generator
) -> xr.Dataset:
    """The posterior with every group's effects drawn anew."""
    factors = covariance_factors(design, names, posterior)
    for block, factor, F in zip(design.blocks, names.factors, factors, strict=True):
        if block.relationship is None:
            z = rng.standard_normal((len(F), block.n_levels, block.n_effects))
        else:
            shape = (block.relationship.n_normals, len(F), block.n_effects)
            z = np.moveaxis(block.relationship.times_root(rng.standard_normal(shape)), 0, 1)
        b = np.einsum("mab,mjb->mja", F, z)
        effect_array(posterior, factor.b)  # refuses a fit that kept summaries only
        b = b * effect_multipliers(rng, effect_nu(posterior, factor), block.n_levels)
        old = posterior[factor.b]
        posterior = posterior.assign({factor.b: old.copy(data=b.reshape(old.shape))})
    return posterior


def prior_predictive(
    design: Design,
    model: pm.Model,
    priors: Priors,
    names: ModelNames,
    variables: list[str],
    *,
    draws: int,
    random_seed: int | None,
) -> xr.DataTree:
    """Parameters and responses drawn from the priors.

    Returns
    -------
    xarray.DataTree
        Groups prior, prior_predictive and observed_data.

    Raises
    ------
    PriorError
        If a prior is improper.
    """
    import xarray as xr

    improper = [key for key, prior in priors.items() if not prior.is_proper]
    if improper:
        raise PriorError(
            f"Nothing can be drawn from the flat prior of {improper[0]}: it does not integrate to "
            'one. Give it a proper prior, such as blm.Prior("Normal", mu=0, sigma=...).'
        )
    pm = quiet_pymc()
    observed = observed_names(design, names)
    log = logging.getLogger("pymc.sampling.forward")
    level = log.level
    log.setLevel(logging.WARNING)  # not the names of what it draws
    try:
        tree = pm.sample_prior_predictive(
            draws=draws, model=model, var_names=[*variables, *observed], random_seed=random_seed
        )
    finally:
        log.setLevel(level)
    groups = {
        "prior": tree["prior"].to_dataset()[variables],
        "prior_predictive": join_observed(design, names, tree["prior_predictive"].to_dataset()),
        "observed_data": join_observed(design, names, tree["observed_data"].to_dataset()),
    }
    return xr.DataTree.from_dict(groups)
