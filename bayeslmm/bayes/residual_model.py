"""The residual part of the hierarchical PyMC model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bayeslmm.bayes.names import ModelNames
from bayeslmm.bayes.variables import positive, stacked
from bayeslmm.formula import Design
from bayeslmm.parts.structures import STRUCTURES
from bayeslmm.priors.residual_priors import log_scale_keys, scale_keys
from bayeslmm.priors.table import Priors

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["join_observed", "observed_names", "residual_parts", "structured_response"]


def _groups_by_size(design: Design) -> dict[int, np.ndarray]:
    """Rows (groups, m) of the residual groups of each size, in time order."""
    rows = design.stated_residual.rows
    order = np.lexsort((rows.time, rows.group))
    counts = np.bincount(rows.group)
    starts = np.concatenate(([0], np.cumsum(counts)))[:-1]
    return {
        int(m): order[starts[counts == m][:, None] + np.arange(m)]
        for m in np.unique(counts[counts > 0])
    }


def observed_names(design: Design, names: ModelNames) -> list[str]:
    """Observed variables: one per size of the groups where residuals are correlated."""
    if design.residual is None or design.stated_residual.kind == "independent":
        return [names.response]
    sizes = list(_groups_by_size(design))
    return [names.response] if len(sizes) == 1 else [f"{names.response}_{m}" for m in sizes]


def join_observed(design: Design, names: ModelNames, data: xr.Dataset) -> xr.Dataset:
    """One variable with dimension obs from those of :func:`observed_names`."""
    import xarray as xr

    found = observed_names(design, names)
    if design.residual is None or design.stated_residual.kind == "independent":
        return data
    leading = [dim for dim in ("chain", "draw") if dim in data.dims]
    values = np.empty((*(data.sizes[d] for d in leading), design.n_rows))
    for name, rows in zip(found, _groups_by_size(design).values(), strict=True):
        part = data[name].transpose(*leading, ...).to_numpy()
        values[..., rows.ravel()] = part.reshape(*part.shape[: len(leading)], -1)
    coords: dict[str, Any] = {dim: data[dim] for dim in leading}
    coords["obs"] = np.arange(design.n_rows)
    return xr.Dataset({names.response: ((*leading, "obs"), values)}, coords=coords)


def residual_parts(design: Design, priors: Priors):
    """Random variables of the residual structure: eta and the natural parameters c."""
    import pymc as pm
    import pytensor.tensor as pt

    chosen = [priors[key] for key in scale_keys(design)]
    if design.residual is None:
        return pt.log(positive("sigma", chosen, dims=None))[None], None
    residual, kind = design.residual, design.residual.variance.kind
    if kind == "cells":
        by = stacked("sigma_by", chosen, dims="sigma_cell")
        counts = residual.rows.scale.sum(axis=0)
        pm.Deterministic("sigma", pt.sqrt(pt.dot(by**2, counts / counts.sum())))
        eta = pt.log(by)
    else:
        sigma = positive("sigma", chosen, dims=None)
        eta = pt.log(sigma)[None]
    if kind == "log-linear":
        slopes = [priors[key] for key in log_scale_keys(design)]
        eta = pt.concatenate([eta, stacked("log_sigma", slopes, dims="sigma_coef")])
    made = STRUCTURES[residual.kind]
    return eta, made.random_variables(pm, pt, priors, residual.rows)


def structured_response(design: Design, priors: Priors, names: ModelNames, mu) -> None:
    """Add the residual parameters and the observed response to the model in context."""
    import pymc as pm
    import pytensor.tensor as pt

    residual = design.stated_residual
    eta, c = residual_parts(design, priors)
    sd = pt.exp(pt.dot(residual.rows.scale, eta))
    if design.weights is not None:
        sd = sd / np.sqrt(design.weights)
    if residual.kind == "independent":
        y = pm.Data(names.data, design.y, dims="obs")
        pm.Normal(names.response, mu=mu, sigma=sd, observed=y, dims="obs")
        return
    time, made = residual.rows.time, STRUCTURES[residual.kind]
    weights = np.ones(design.n_rows) if design.weights is None else design.weights
    groups = _groups_by_size(design)
    for name, rows in zip(observed_names(design, names), groups.values(), strict=True):
        gaps = time[rows] if made.uses_time else np.zeros(rows.shape)
        if made.times != "labels":
            gaps = gaps - gaps[:, :1]
        features = np.concatenate(
            [gaps, weights[rows], residual.rows.scale[rows].reshape(len(rows), -1)], axis=1
        )
        _, first, pattern = np.unique(features, axis=0, return_index=True, return_inverse=True)
        part, at = sd[rows[first]], time[rows[first]]
        correlation = made.correlations(pt, c, at)
        chol = pt.linalg.cholesky(part[:, :, None] * part[:, None, :] * correlation)
        data = names.data + name[len(names.response) :]
        y = pm.Data(data, design.y[rows])
        pm.MvNormal(name, mu=mu[rows], chol=chol[pattern.ravel()], observed=y)
