"""The ``xarray.DataTree`` every posterior is delivered in, whatever made it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeslmm.bayes.covariates import covariate_coords, covariate_dims, missing_part
from bayeslmm.bayes.draws import effect_array
from bayeslmm.bayes.effect_summaries import PROBABILITIES, EffectSummary
from bayeslmm.bayes.names import ModelNames
from bayeslmm.bayes.residual_draws import correlated, row_scales
from bayeslmm.bayes.residuals import log_density, residual_nu
from bayeslmm.bayes.responses import response_coords, response_dims, response_log_density
from bayeslmm.formula import Design
from bayeslmm.parts.patterns import pair_labels

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "SUMMARY_GROUP",
    "arranged",
    "linear_predictor",
    "log_likelihood",
    "posterior_dataset",
    "posterior_layout",
    "posterior_tree",
    "summary_node",
]

#: Group of the tree with summaries of random effects, where their draws were not kept.
SUMMARY_GROUP = "random_effects"


def posterior_dataset(
    design: Design, names: ModelNames, values: dict[str, np.ndarray]
) -> xr.Dataset:
    """Draws with the dimensions and coordinates of the design.

    Parameters
    ----------
    values : dict of ndarray
        Per variable, shape (chains, draws, ...).

    Returns
    -------
    xarray.Dataset
        ``beta`` (coef), ``sigma`` or the parameters of the family, and per factor g ``sd_g``
        (g_effect), ``corr_g`` (g_effect_pair) and ``b_g`` (g, g_effect), after chain and draw.
    """
    import xarray as xr

    dims, coords = posterior_layout(design, names)
    variables = {
        name: (("chain", "draw", *dims[name]), values[name]) for name in arranged(values, names)
    }
    first = next(iter(values.values()))
    used = {dim for name in values for dim in dims[name]}
    return xr.Dataset(
        variables,
        coords={
            "chain": np.arange(first.shape[0]),
            "draw": np.arange(first.shape[1]),
            **{dim: labels for dim, labels in coords.items() if dim in used},
        },
    )


def arranged(variables: Iterable[str], names: ModelNames) -> list[str]:
    """Names of variables with ``sd_g`` after ``b_g``, whose dimensions are (g, g_effect).

    ArviZ (1.3) makes tables of a dataset in the order in which dimensions first occur, and labels
    rows in the order of each variable's own: with ``sd_g`` first ``b_g`` has rows of other levels.
    """
    last = {factor.sd for factor in names.factors} | {factor.corr for factor in names.factors}
    return sorted(variables, key=lambda name: name in last)


def posterior_layout(
    design: Design, names: ModelNames
) -> tuple[dict[str, tuple[str, ...]], dict[str, np.ndarray]]:
    """Dimensions, after chain and draw, of the variables a posterior may have, and their labels."""
    dims: dict[str, tuple[str, ...]] = {"beta": ("coef",), "nu": (), **response_dims(design)}
    coords: dict[str, np.ndarray] = {"coef": _labels(design.coef_names), **response_coords(design)}
    for block, factor in zip(design.blocks, names.factors, strict=True):
        dims[factor.sd] = (factor.effect_dim,)
        dims[factor.nu] = ()
        dims[factor.corr] = (factor.pair_dim,)
        dims[factor.b] = (factor.dim, factor.effect_dim)
        coords[factor.dim] = _labels(block.levels)
        coords[factor.effect_dim] = _labels(block.effects)
        coords[factor.pair_dim] = _labels(
            tuple(pair_labels(block.effects, block.correlated_pairs()))
        )
    for covariate in design.modeled:
        dims |= covariate_dims(covariate)
        coords |= {k: _labels(tuple(v)) for k, v in covariate_coords(covariate).items()}
    return dims, coords


def posterior_tree(
    design: Design,
    names: ModelNames,
    posterior: xr.Dataset,
    sample_stats: xr.Dataset,
    attrs: dict[str, str | int | float],
    *,
    max_log_likelihood: float = 1e7,
) -> xr.DataTree:
    """Assemble the tree.

    Parameters
    ----------
    posterior, sample_stats : xarray.Dataset
    attrs : dict
        Attributes of the posterior group (text and numbers).
    max_log_likelihood : float
        The pointwise log-likelihood (given b) is stored where rows times draws stay below
        this; ``az.loo`` then works on the tree as it is.

    Returns
    -------
    xarray.DataTree
        Groups posterior, sample_stats and, where the rows are in memory, observed_data,
        constant_data and, if it is small enough, log_likelihood.
    """
    import xarray as xr

    groups = {"posterior": posterior.assign_attrs(attrs), "sample_stats": sample_stats}
    if not design.rows_in_memory:
        return xr.DataTree.from_dict(groups)
    obs = {"obs": np.arange(design.n_rows)}
    groups["observed_data"] = xr.Dataset({names.response: (("obs",), design.y)}, coords=obs)
    constant = xr.Dataset(
        {"X": (("obs", "coef"), design.X), "offset": (("obs",), design.offset)},
        coords={**obs, "coef": _labels(design.coef_names)},
    )
    if design.weights is not None:
        constant["weights"] = (("obs",), design.weights)
    if design.trials is not None:
        constant["trials"] = (("obs",), design.trials)
    groups["constant_data"] = constant
    size = design.n_rows * posterior.sizes["chain"] * posterior.sizes["draw"]
    drawn = all(factor.b in posterior for factor in names.factors)
    if size <= max_log_likelihood and drawn and not correlated(design):
        groups["log_likelihood"] = log_likelihood(design, names, posterior)
    return xr.DataTree.from_dict(groups)


def summary_node(
    design: Design, names: ModelNames, summaries: dict[str, EffectSummary]
) -> xr.DataTree:
    """Summaries of random effects as a group of the tree.

    Variables ``b_g_mean``, ``b_g_sd`` (g, g_effect) and ``b_g_quantile`` (quantile, g, g_effect).
    """
    import xarray as xr

    variables: dict[str, Any] = {}
    coords: dict[str, Any] = {"quantile": np.array(PROBABILITIES)}
    for block, factor in zip(design.blocks, names.factors, strict=True):
        summary, dims = summaries[factor.b], (factor.dim, factor.effect_dim)
        coords[factor.dim] = _labels(block.levels)
        coords[factor.effect_dim] = _labels(block.effects)
        variables[f"{factor.b}_mean"] = (dims, summary.mean)
        variables[f"{factor.b}_sd"] = (dims, summary.sd)
        variables[f"{factor.b}_quantile"] = (("quantile", *dims), summary.quantiles)
    return xr.DataTree(xr.Dataset(variables, coords=coords))


def linear_predictor(design: Design, names: ModelNames, posterior: xr.Dataset) -> np.ndarray:
    """x'beta + z'b + offset for each draw, shape (chains, draws, n)."""
    chains, draws = posterior.sizes["chain"], posterior.sizes["draw"]
    mean = np.broadcast_to(design.offset, (chains, draws, design.n_rows)).copy()
    if design.coef_names:
        mean += posterior["beta"].to_numpy() @ design.X.T
    for block, factor in zip(design.blocks, names.factors, strict=True):
        b = effect_array(posterior, factor.b)
        for j in range(block.n_effects):
            for total, one in zip(mean, b, strict=True):  # a chain at a time: rows times draws
                total += one[:, block.codes, j] * block.Z[:, j]
    if design.modeled:
        mean += missing_part(design, names, posterior)
    return mean


def log_likelihood(design: Design, names: ModelNames, posterior: xr.Dataset) -> xr.Dataset:
    """log p(y_i | beta, b, sigma or phi), the conditional one that Bambi and brms give.

    Of rows that are independent given b; rows with correlated residuals are not.
    """
    import xarray as xr

    eta = linear_predictor(design, names, posterior)
    if design.family.gaussian:
        scale = row_scales(design, posterior, weights=design.weights)
        values = log_density(design.y - eta, scale, residual_nu(posterior))
    else:
        values = response_log_density(design, posterior, eta)
    coords = {
        "chain": posterior["chain"],
        "draw": posterior["draw"],
        "obs": np.arange(design.n_rows),
    }
    return xr.Dataset(
        {names.response: (("chain", "draw", "obs"), values)},
        coords=coords,
        attrs={"of": "rows given the random effects (conditional); post.loo() integrates them out"},
    )


def _labels(labels: tuple) -> np.ndarray:
    """Coordinate values: numbers stay numbers, anything else becomes text."""
    if all(isinstance(label, int) and not isinstance(label, bool) for label in labels):
        return np.array(labels, dtype=np.int64)
    if all(isinstance(label, float) for label in labels):
        return np.array(labels, dtype=float)
    return np.array([str(label) for label in labels])
