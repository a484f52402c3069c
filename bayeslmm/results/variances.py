"""Variance components and random effects of a likelihood fit, as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import ndtri

from bayeslmm.bayes.draws import long_labels
from bayeslmm.formula import Design
from bayeslmm.likelihood.satterthwaite import theta_scales
from bayeslmm.parts.patterns import unpack_theta

if TYPE_CHECKING:
    from bayeslmm.protocols import LikelihoodResult

__all__ = [
    "component_values",
    "effects_table",
    "level_coefficients_table",
    "variance_table",
]


def component_values(design: Design, Sigmas: list[np.ndarray], sigma: float) -> np.ndarray:
    """Standard deviations and correlations per factor, and sigma last.

    A correlation with an effect that does not vary is NaN.
    """
    values: list[float] = []
    for block, Sigma in zip(design.blocks, Sigmas, strict=True):
        sd = np.sqrt(np.diag(Sigma))
        values.extend(sd)
        for i, j in block.correlated_pairs():
            product = sd[i] * sd[j]
            values.append(np.clip(Sigma[i, j] / product, -1, 1) if product > 0 else np.nan)
    return np.array([*values, sigma])


def variance_table(fit: LikelihoodResult, level: float) -> pd.DataFrame:
    """Estimates, standard errors and Wald intervals of the variance components.

    Both are left out where a component is at its boundary or near it, or is not determined.
    """
    estimate = fit.components()
    covariance = fit._curvature.covariance
    jacobian = _jacobian(fit)
    variance = np.einsum("ki,ij,kj->k", jacobian, covariance, jacobian)
    se = np.sqrt(np.where(variance > 0, variance, np.nan))
    values = estimate.to_numpy()
    is_corr = np.array([name.startswith("corr(") for name in estimate.index])
    # on the scales of the intervals, log and Fisher's z, a standard error of more than 1 puts the
    # boundary within reach: the interval would span orders of magnitude
    with np.errstate(invalid="ignore"):
        boundary = np.where(is_corr, ~(se < 1 - values**2), ~(se < values))
    boundary |= fit._curvature.undetermined(jacobian)
    boundary |= estimate.index.isin([name for names in fit.model.unidentified for name in names])
    se[boundary] = np.nan
    z = ndtri(0.5 + level / 2)
    lower, upper = np.full(len(values), np.nan), np.full(len(values), np.nan)
    for k in np.flatnonzero(~boundary & np.isfinite(se)):
        if is_corr[k]:
            center, half = np.arctanh(values[k]), z * se[k] / (1 - values[k] ** 2)
            lower[k], upper[k] = np.tanh([center - half, center + half])
        else:
            factor = np.exp(z * se[k] / values[k])
            lower[k], upper[k] = values[k] / factor, values[k] * factor
    table = pd.DataFrame(
        {"estimate": values, "se": se, "lower": lower, "upper": upper}, index=estimate.index
    )
    table.index.name = "component"
    return table


def _jacobian(fit: LikelihoodResult) -> np.ndarray:
    """Derivative of the components in (theta, sigma), by central differences."""
    patterns, design = fit._problem.patterns, fit.design
    point = np.append(fit.theta, fit.sigma)

    def components(x: np.ndarray) -> np.ndarray:
        Sigmas = [x[-1] ** 2 * L @ L.T for L in unpack_theta(patterns, x[:-1])]
        return component_values(design, Sigmas, x[-1])

    columns = []
    steps = 1e-6 * np.append(theta_scales(fit._problem, fit.theta), fit.sigma)
    for i, step in enumerate(steps):
        up, down = point.copy(), point.copy()
        up[i] += step
        down[i] -= step
        columns.append((components(up) - components(down)) / (2 * step))
    return np.nan_to_num(np.column_stack(columns))


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
