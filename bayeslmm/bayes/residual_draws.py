"""What a posterior says of the residuals: variables, components, row standard deviations, noise.

Every function also takes a design without a residual structure, whose only residual variable is
``sigma``, so that callers need not ask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.formula import Design
from bayeslmm.formula.components import component_map, residual_component_names, scalar_name
from bayeslmm.formula.residual import ResidualDesign
from bayeslmm.parts.patterns import correlation_matrices, pair_labels, pair_values
from bayeslmm.parts.structures import STRUCTURES
from bayeslmm.parts.structures.unstructured import time_pairs

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "RESIDUAL_NAMES",
    "correlated",
    "mean_sigma",
    "residual_component_draws",
    "residual_coords",
    "residual_dims",
    "residual_noise",
    "residual_parameters",
    "residual_values",
    "residual_variables",
    "row_scales",
    "whitened",
]

#: Names no grouping factor may take where there is a residual structure.
RESIDUAL_NAMES = (
    "rho", "range", "sigma_by", "sigma_cell", "log_sigma", "sigma_coef", "corr_residual",
    "residual_time_pair",
    *(name for made in STRUCTURES.values() for name in made.vector or ()),
)  # fmt: skip


def correlated(design: Design) -> bool:
    """Whether residuals of different rows are correlated."""
    return design.residual is not None and design.residual.kind != "independent"


def residual_dims(design: Design) -> dict[str, tuple[str, ...]]:
    """Residual variables of a posterior and their dimensions."""
    dims: dict[str, tuple[str, ...]] = {"sigma": ()}
    residual = design.residual
    if residual is None:
        return dims
    if residual.variance.kind == "cells":
        dims["sigma_by"] = ("sigma_cell",)
    elif residual.variance.kind == "log-linear":
        dims["log_sigma"] = ("sigma_coef",)
    if name := scalar_name(residual):
        dims[name] = ()
    if residual.times:
        dims["corr_residual"] = ("residual_time_pair",)
    if vector := STRUCTURES[residual.kind].vector:
        dims[vector[0]] = vector[1:]
    return dims


def residual_variables(design: Design) -> list[str]:
    """Residual variables of a posterior."""
    return list(residual_dims(design))


def residual_coords(design: Design) -> dict[str, np.ndarray]:
    """Labels of their dimensions."""
    residual = design.residual
    if residual is None:
        return {}
    inner = [name[name.index("[") + 1 : -1] for name in residual.variance.names if "[" in name]
    found = {}
    if residual.variance.kind == "cells":
        found["sigma_cell"] = np.array(inner)
    elif residual.variance.kind == "log-linear":
        found["sigma_coef"] = np.array(inner)
    if residual.times:
        pairs = time_pairs(len(residual.times))
        found["residual_time_pair"] = np.array(pair_labels(residual.times, pairs))
    if vector := STRUCTURES[residual.kind].vector:
        count = len(residual_component_names(residual)) - residual.variance.n
        found[vector[1]] = np.arange(1, count + 1)
    return found


def residual_values(
    residual: ResidualDesign | None, eta: np.ndarray, c: np.ndarray
) -> dict[str, np.ndarray]:
    """Residual variables from natural parameters of n draws.

    Parameters
    ----------
    residual : ResidualDesign or None
        None where ``sigma`` is the only variable.
    eta : (n, s) array
        Log standard deviations, or log sigma and log-linear coefficients.
    c : (n, k) array

    Returns
    -------
    dict of (n, ...) arrays
        ``sigma`` is the root of the rows' mean residual variance where there are cells, and the
        standard deviation at the means of the columns of a log-linear formula.
    """
    values = {"sigma": np.exp(eta[:, 0])}
    if residual is None:
        return values
    kind = residual.variance.kind
    if kind == "cells":
        counts = residual.rows.scale.sum(axis=0)
        share = counts / counts.sum()
        values = {"sigma": np.sqrt(np.exp(2 * eta) @ share), "sigma_by": np.exp(eta)}
    if kind == "log-linear":
        values["log_sigma"] = eta[:, 1:]
    if name := scalar_name(residual):
        values[name] = c[:, 0]
    if T := len(residual.times):
        values["corr_residual"] = pair_values(c.reshape(-1, T, T), time_pairs(T))
    if vector := STRUCTURES[residual.kind].vector:
        values[vector[0]] = c
    return values


def residual_parameters(design: Design, posterior: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """eta (chains, draws, s) and c (chains, draws, k): inverse of :func:`residual_values`."""
    sigma = posterior["sigma"].to_numpy()
    residual = design.residual
    eta = np.log(sigma)[..., None]
    if residual is None:
        return eta, np.zeros((*sigma.shape, 0))
    if residual.variance.kind == "cells":
        eta = np.log(posterior["sigma_by"].to_numpy())
    elif residual.variance.kind == "log-linear":
        eta = np.concatenate([eta, posterior["log_sigma"].to_numpy()], axis=-1)
    c = np.zeros((*sigma.shape, 0))
    if name := scalar_name(residual):
        c = posterior[name].to_numpy()[..., None]
    if T := len(residual.times):
        R = correlation_matrices(posterior["corr_residual"].to_numpy(), time_pairs(T), T)
        c = R.reshape(*sigma.shape, -1)
    if vector := STRUCTURES[residual.kind].vector:
        c = posterior[vector[0]].to_numpy()
    return eta, c


def residual_component_draws(design: Design, posterior: xr.Dataset) -> tuple[list[str], np.ndarray]:
    """Names and draws (chains, draws, k) of the residual components, if they are not known."""
    if design.se_name is not None:
        return [], np.empty((*posterior["sigma"].shape, 0))
    if design.residual is None:
        return ["sigma"], posterior["sigma"].to_numpy()[..., None]
    values = component_map(design.residual, *residual_parameters(design, posterior))
    return residual_component_names(design.residual), values


def row_scales(
    design: Design, posterior: xr.Dataset, scale: np.ndarray | None = None, weights=None
) -> np.ndarray:
    """Residual standard deviation of every row, (chains, draws, n) or broadcastable to it.

    Parameters
    ----------
    scale : (n, s) array, optional
        Of other rows than those fitted.
    weights : (n,) array, optional
        Prior weights of the rows.
    """
    if design.residual is None:
        sd = posterior["sigma"].to_numpy()[:, :, None]
    else:
        eta, _ = residual_parameters(design, posterior)
        sd = np.exp(eta @ (design.residual.rows.scale if scale is None else scale).T)
    return sd if weights is None else sd / np.sqrt(weights)


def mean_sigma(design: Design, posterior: xr.Dataset) -> np.ndarray:
    """sigma (chains, draws) with sigma^2 mean(1/w) the rows' mean residual variance."""
    if design.residual is None:
        return posterior["sigma"].to_numpy()
    weights = np.ones(design.n_rows) if design.weights is None else design.weights
    out = np.empty((posterior.sizes["chain"], posterior.sizes["draw"]))
    block = max(1, int(5e6 // (design.n_rows * out.shape[0])))
    for start in range(0, out.shape[1], block):  # rows times draws, some draws at a time
        part = slice(start, start + block)
        sd = row_scales(design, posterior.isel(draw=part))
        out[:, part] = np.sqrt((sd**2 / weights).mean(axis=-1) / np.mean(1.0 / weights))
    return out


def residual_noise(design: Design, posterior: xr.Dataset, z: np.ndarray) -> np.ndarray:
    """Residuals with the covariance of each draw from standard normals (chains, draws, n)."""
    if not correlated(design):
        return row_scales(design, posterior, weights=design.weights) * z
    from bayeslmm.assembly import residual_blocks
    from bayeslmm.gaussian.blocks._effects import noise

    blocks = residual_blocks(design)
    eta, c = residual_parameters(design, posterior)
    flat = np.ascontiguousarray(z.reshape(-1, design.n_rows)[:, blocks.order])
    values = np.empty_like(flat)
    values[:, blocks.order] = noise(
        blocks.layout,
        np.ascontiguousarray(eta.reshape(len(flat), -1)),
        np.ascontiguousarray(c.reshape(len(flat), -1)),
        flat,
    )
    return values.reshape(z.shape)


def whitened(design: Design, posterior: xr.Dataset, residuals: np.ndarray) -> np.ndarray:
    """Residuals (n,) whitened by their covariance at the posterior means of its parameters."""
    eta, c = (part.mean(axis=(0, 1)) for part in residual_parameters(design, posterior))
    weights = np.ones(design.n_rows) if design.weights is None else design.weights
    if not correlated(design):
        scale = np.ones((design.n_rows, 1)) if design.residual is None else None
        scale = design.stated_residual.rows.scale if scale is None else scale
        return residuals * np.sqrt(weights) / np.exp(scale @ eta)
    from bayeslmm.assembly import residual_blocks
    from bayeslmm.gaussian.blocks.layout import residual_root

    return residual_root(residual_blocks(design), eta, c)(residuals, inverse=True)
