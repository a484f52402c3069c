"""Data simulated from the model: before the data (prior) and after (posterior)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.bayes.draws import covariance_factors, effect_array
from bayeslmm.bayes.names import ModelNames
from bayeslmm.bayes.residual_draws import residual_noise
from bayeslmm.bayes.residual_model import join_observed, observed_names
from bayeslmm.bayes.residuals import draw_noise, effect_multipliers, effect_nu, residual_nu
from bayeslmm.bayes.responses import draw_responses
from bayeslmm.bayes.sampling import quiet_pymc
from bayeslmm.bayes.tree import linear_predictor
from bayeslmm.errors import PriorError
from bayeslmm.formula import Design
from bayeslmm.priors.table import Priors

if TYPE_CHECKING:
    import pymc as pm
    import xarray as xr

__all__ = ["factors_anew", "posterior_predictive", "prior_predictive"]

_MAX_VALUES = 1e8


def posterior_predictive(
    design: Design,
    names: ModelNames,
    posterior: xr.Dataset,
    *,
    groups: str | Sequence[str] = "same",
    draws: int | None = None,
    random_seed: int | None = None,
) -> xr.Dataset:
    """Replicated responses of the same rows.

    Parameters
    ----------
    groups : {"same", "new"} or list of str
        With the fitted groups' own effects, or with effects drawn from their distribution: of all
        grouping factors, or of those named.
    draws : int, optional
        Draws per chain, evenly spaced.
    random_seed : int, optional

    Returns
    -------
    xarray.Dataset
        The response's name, dimensions (chain, draw, obs).
    """
    import xarray as xr

    anew = factors_anew(design, groups)
    available = posterior.sizes["draw"]
    if draws is None:
        room = int(_MAX_VALUES // (design.n_rows * posterior.sizes["chain"]))
        draws = max(1, min(available, room))
    if not 1 <= draws <= available:
        raise ValueError(f"draws must be between 1 and {available}, not {draws!r}.")
    if draws < available:
        posterior = posterior.isel(draw=np.linspace(0, available - 1, draws).astype(int))
    rng = np.random.default_rng(random_seed)
    if anew:
        posterior = _new_effects(design, names, posterior, rng, anew)
    shape = (posterior.sizes["chain"], posterior.sizes["draw"], design.n_rows)
    if design.family.gaussian:
        z = draw_noise(rng, shape, residual_nu(posterior))
        values = residual_noise(design, posterior, z)
        del z  # rows times draws, as what follows
        values += linear_predictor(design, names, posterior)
    else:
        values = draw_responses(design, posterior, linear_predictor(design, names, posterior), rng)
    coords = {"chain": posterior["chain"], "draw": posterior["draw"]}
    return xr.Dataset(
        {names.response: (("chain", "draw", "obs"), values)},
        coords={**coords, "obs": np.arange(design.n_rows)},
    )


def factors_anew(design: Design, groups: str | Sequence[str]) -> list[str]:
    """Names of the grouping factors whose levels are new in a replication.

    Raises
    ------
    ValueError
        If `groups` is neither "same" nor "new" nor a list of grouping factors.
    """
    factors = [block.name for block in design.blocks]
    if isinstance(groups, str):
        if groups not in ("same", "new"):
            raise ValueError(
                'groups must be "same", "new" or a list of grouping factors '
                f"({', '.join(factors) or 'none here'}), not {groups!r}."
            )
        return factors if groups == "new" else []
    unknown = [name for name in groups if name not in factors]
    if unknown:
        raise ValueError(
            f"groups: there is no grouping factor {unknown[0]!r}; this model has: "
            f"{', '.join(factors) or 'none'}."
        )
    return list(groups)


def _new_effects(
    design: Design,
    names: ModelNames,
    posterior: xr.Dataset,
    rng: np.random.Generator,
    anew: Sequence[str],
) -> xr.Dataset:
    """The posterior with the effects of every level of some factors drawn anew."""
    factors = covariance_factors(design, names, posterior)
    for block, factor, F in zip(design.blocks, names.factors, factors, strict=True):
        if block.name not in anew:
            continue
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
            draws=draws,
            model=model,
            var_names=[*variables, *observed],
            random_seed=random_seed,
            # the same draws by numpy: compiling takes longer than thousands of them
            compile_kwargs={"mode": "FAST_COMPILE"},
        )
    finally:
        log.setLevel(level)
    groups = {
        "prior": tree["prior"].to_dataset()[variables],
        "prior_predictive": join_observed(design, names, tree["prior_predictive"].to_dataset()),
        "observed_data": join_observed(design, names, tree["observed_data"].to_dataset()),
    }
    return xr.DataTree.from_dict(groups)
