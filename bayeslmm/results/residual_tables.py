"""Variance components of a fit with structured residuals, with Wald intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import ndtri

if TYPE_CHECKING:
    from bayeslmm.protocols import StructuredResult

__all__ = ["residual_variance_table", "transform_of"]


def transform_of(name: str, fit: StructuredResult):
    """Map to an unbounded scale, its inverse, and its derivative."""
    structure = fit._problem.structure
    if name.startswith("log_sigma["):
        return (lambda v: v), (lambda t: t), (lambda v: 1.0)
    if name.startswith("corr("):
        return np.arctanh, np.tanh, (lambda v: 1.0 / (1.0 - v**2))
    if name == "rho":
        low, width = structure.lower, structure.upper - structure.lower

        def logit(v):
            share = (v - low) / width
            return np.log(share) - np.log1p(-share)

        return (
            logit,
            (lambda t: low + width / (1.0 + np.exp(-t))),
            (lambda v: width / ((v - low) * (low + width - v))),
        )
    return np.log, np.exp, (lambda v: 1.0 / v)


def residual_variance_table(fit: StructuredResult, level: float) -> pd.DataFrame:
    """Estimates, standard errors and Wald intervals of all components."""
    estimate = fit.components()
    jacobian = np.nan_to_num(_jacobian(fit))
    variance = np.einsum("ki,ij,kj->k", jacobian, fit._curvature.covariance, jacobian)
    se = np.sqrt(np.where(variance > 0, variance, np.nan))
    z = ndtri(0.5 + level / 2)
    undetermined = fit._curvature.undetermined(jacobian)
    undetermined |= estimate.index.isin([name for one in fit.model.unidentified for name in one])
    rows = []
    limit = fit._problem.structure.boundary(fit._theta.c)
    for k, (name, value) in enumerate(estimate.items()):
        forward, back, slope = transform_of(name, fit)
        at_limit = limit is not None and name in ("rho", "range")
        if at_limit or undetermined[k] or not _inside(name, value, se[k], slope):
            rows.append((value, np.nan, np.nan, np.nan))
            continue
        center, half = forward(value), z * se[k] * slope(value)
        rows.append((value, se[k], back(center - half), back(center + half)))
    table = pd.DataFrame(rows, columns=["estimate", "se", "lower", "upper"], index=estimate.index)
    table.index.name = "component"
    return table


def _inside(name: str, value: float, se: float, slope) -> bool:
    """Whether the boundary is out of reach: see :func:`bayeslmm.results.variances.variance_table`.

    The logit of rho is twice Fisher's z.
    """
    if name.startswith("log_sigma["):
        return bool(np.isfinite(se))
    if not np.isfinite(value) or (value <= 0 and name.startswith(("sd(", "sigma"))):
        return False
    with np.errstate(divide="ignore", invalid="ignore"):
        # of numpy, whose division by zero is infinite: a correlation may be exactly 1
        return bool(se * slope(np.float64(value)) < (2.0 if name == "rho" else 1.0))


def _jacobian(fit: StructuredResult) -> np.ndarray:
    """Derivative of the components in the coordinates, by central differences."""
    step, columns = 1e-6, []
    for e in step * np.eye(len(fit.theta)):
        up, down = (
            fit._components_at(fit._coordinates.theta(fit.theta + s * e)).to_numpy()
            for s in (1.0, -1.0)
        )
        columns.append((up - down) / (2 * step))
    return np.column_stack(columns)
