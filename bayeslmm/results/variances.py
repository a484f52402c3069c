"""Variance components and random effects of a likelihood fit, as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import ndtri

from bayeslmm.bayes.draws import long_labels

if TYPE_CHECKING:
    from bayeslmm.protocols import LikelihoodResult

__all__ = [
    "effects_table",
    "level_coefficients_table",
    "variance_table",
]


def variance_table(fit: LikelihoodResult, level: float) -> pd.DataFrame:
    """Estimates, standard errors and Wald intervals of the variance components.

    Both are left out where a component is at its boundary or near it, or is not determined.
    """
    components, engine = fit._engine.components, fit._engine
    values, jacobian = engine.values(fit._solution), engine.jacobian(fit._solution)
    variance = np.einsum("ki,ij,kj->k", jacobian, fit._curvature.covariance, jacobian)
    se = np.sqrt(np.where(variance > 0, variance, np.nan))
    undetermined = fit._curvature.undetermined(jacobian) | engine.at_limit(fit._solution)
    names = [component.name for component in components]
    undetermined |= np.isin(names, [name for one in fit.model.unidentified for name in one])
    z = ndtri(0.5 + level / 2)
    rows = []
    for component, value, error, left_out in zip(components, values, se, undetermined, strict=True):
        if left_out or component.within_reach(value, error):
            rows.append((value, np.nan, np.nan, np.nan))
            continue
        center, half = component.unbounded(value), z * error * component.slope(value)
        limits = component.bounded(center - half), component.bounded(center + half)
        rows.append((value, error, *limits))
    return pd.DataFrame(
        rows,
        columns=["estimate", "se", "lower", "upper"],
        index=pd.Index(names, name="component"),
    )


def effects_table(fit: LikelihoodResult, factor: str | None, level: float) -> pd.DataFrame:
    """Conditional modes and conditional standard deviations."""
    z = ndtri(0.5 + level / 2)
    tables = []
    for position, block in enumerate(fit.design.blocks):
        if factor is not None and block is not fit.design.block(factor):
            continue
        b = fit._solution.b[position]
        variances = np.einsum("jaa->ja", fit._effect_covariances[position])
        sd = np.sqrt(np.maximum(variances, 0.0))
        table = long_labels(block.name, block.levels, block.effects)
        table["estimate"], table["sd"] = b.ravel(), sd.ravel()
        table["lower"] = table["estimate"] - z * table["sd"]
        table["upper"] = table["estimate"] + z * table["sd"]
        tables.append(table)
    return _joined(fit, factor, tables, ["estimate", "sd", "lower", "upper"])


def level_coefficients_table(fit: LikelihoodResult, factor: str | None) -> pd.DataFrame:
    """Fixed plus random effect of every level."""
    design = fit.design
    beta = dict.fromkeys(design.coef_names, np.nan)
    beta |= dict(zip([design.coef_names[j] for j in fit.kept], fit._solution.beta, strict=True))
    tables = []
    for position, block in enumerate(design.blocks):
        if factor is not None and block is not design.block(factor):
            continue
        wanted = [*beta, *(effect for effect in block.effects if effect not in beta)]
        values = np.tile([beta.get(name, 0.0) for name in wanted], (block.n_levels, 1))
        for j, effect in enumerate(block.effects):
            values[:, wanted.index(effect)] += fit._solution.b[position][:, j]
        table = long_labels(block.name, block.levels, wanted)
        table["estimate"] = values.ravel()
        tables.append(table)
    return _joined(fit, factor, tables, ["estimate"])


def _joined(fit: LikelihoodResult, factor, tables: list, columns: list[str]) -> pd.DataFrame:
    if factor is not None:
        fit.design.block(factor)  # an unknown factor is named
    if not tables:
        return pd.DataFrame(columns=["group", "level", "effect", *columns])
    return pd.concat(tables, ignore_index=True)
