"""Groups of a posterior's tree that are made when it is first asked for: ArviZ reads them."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.bayes.log_prior import log_prior_draws
from bayeslmm.bayes.names import ModelNames, storable
from bayeslmm.bayes.predictive import posterior_predictive
from bayeslmm.errors import BayesLMMError
from bayeslmm.formula import Design
from bayeslmm.parts.parameters import coef_key, corr_key, nu_key, sd_key
from bayeslmm.priors.table import Priors

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["ADDED", "MOST_VALUES", "add_groups", "log_prior"]

#: Attribute of a group of replicated responses that nobody asked for by itself.
ADDED = "made_with_idata"

#: Replicated responses are added up to this many numbers (rows times draws): 80 MB.
MOST_VALUES = 1e7


def add_groups(
    design: Design, names: ModelNames, priors: Priors, tree: xr.DataTree, random_seed: int
) -> None:
    """Add ``log_prior`` and, where it is small enough, ``posterior_predictive``.

    A group that cannot be made, as of a prior whose density is not known, is left out.
    """
    import xarray as xr

    posterior = tree["posterior"].to_dataset()
    if "log_prior" not in tree.children:
        with suppress(BayesLMMError):
            tree["log_prior"] = xr.DataTree(log_prior(design, names, priors, posterior))
    size = design.n_rows * posterior.sizes["chain"] * posterior.sizes["draw"]
    drawn = all(factor.b in posterior for factor in names.factors)
    wanted = design.rows_in_memory and drawn and size <= MOST_VALUES
    if wanted and "posterior_predictive" not in tree.children:
        group = posterior_predictive(design, names, posterior, random_seed=random_seed)
        tree["posterior_predictive"] = xr.DataTree(group.assign_attrs({ADDED: 1}))


def log_prior(
    design: Design, names: ModelNames, priors: Priors, posterior: xr.Dataset
) -> xr.Dataset:
    """Log prior densities of coefficients and parameters, by variable of the posterior.

    The distribution of the random effects is part of the model, not a prior, and is not in it.
    Flat priors and known values are 0 throughout.

    Returns
    -------
    xarray.Dataset
        ``beta`` (coef), ``sd_g`` (g_effect), one ``corr_g`` for all correlations of a factor, and
        one variable for every other prior, after chain and draw.

    Raises
    ------
    PriorError
        If a density is not known, or coefficients have a prior together.
    """
    import xarray as xr

    found, chains = log_prior_draws(design, names, priors, posterior), ("chain", "draw")
    variables: dict[str, tuple] = {}

    def stack(name: str, dim: str, keys: list[str]) -> None:
        values = np.stack([found.pop(key) for key in keys], axis=-1)
        variables[name] = ((*chains, dim), values, {})

    coords = {name: posterior[name] for name in chains}
    if design.coef_names:
        stack("beta", "coef", [coef_key(name) for name in design.coef_names])
        coords["coef"] = posterior["coef"]
    for block, factor in zip(design.blocks, names.factors, strict=True):
        stack(factor.sd, factor.effect_dim, [sd_key(e, block.name) for e in block.effects])
        coords[factor.effect_dim] = posterior[factor.effect_dim]
        for name, key in ((factor.corr, corr_key(block.name)), (factor.nu, nu_key(block.name))):
            if key in found:
                variables[name] = (chains, found.pop(key), {})
    variables |= {storable(key): (chains, values, {}) for key, values in found.items()}
    return xr.Dataset(variables, coords=coords)
