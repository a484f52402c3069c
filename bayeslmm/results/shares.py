"""Shares of variance: R2 and intraclass correlation.

Nakagawa and Schielzeth (2013), Methods in Ecology and Evolution 4(2), eq. 26-30, with Johnson's
(2014, same journal 5(9), eq. 10) mean variance of the random effects where slopes vary:
sum_k tr(Sigma_k sum_j Z_j'Z_j) / n. Rows are not needed, only cross-products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bayeslmm.model import LMM

__all__ = ["VarianceParts", "icc_values", "r2_values", "variance_parts"]


@dataclass(frozen=True)
class VarianceParts:
    """Variances of the parts of the linear predictor, one value per draw.

    Attributes
    ----------
    fixed : (...) array
        Sample variance (divisor n - 1) of x'beta over the rows.
    random : (..., K) array
        Mean variance of each grouping factor's effects over the rows.
    residual : (...) array
        sigma^2, times the mean of 1/w where there are weights.
    """

    fixed: np.ndarray
    random: np.ndarray
    residual: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """Sum of all parts."""
        return self.fixed + self.random.sum(axis=-1) + self.residual


def variance_parts(
    model: LMM, beta: np.ndarray, Sigmas: list[np.ndarray], sigma: np.ndarray
) -> VarianceParts:
    """Variance parts of each draw.

    Parameters
    ----------
    model : LMM
    beta : (..., p) array
    Sigmas : list of (..., q_k, q_k) arrays
    sigma : (...) array
    """
    design, cp = model.design, model.cross_products
    n, p = cp.n, cp.p
    plain = cp.gram_unweighted
    moment = plain[:p, :p] - np.outer(plain[:p, -1], plain[:p, -1]) / n
    fixed = np.einsum("...a,ab,...b->...", beta, moment / max(n - 1, 1), beta)
    random = [
        np.einsum("...ab,ab->...", Sigma, factor.zz_unweighted / n)
        for Sigma, factor in zip(Sigmas, cp.factors, strict=True)
    ]
    stacked = np.stack(random, axis=-1) if random else np.zeros((*np.shape(sigma), 0))
    scale = design.statistics.mean_inverse_weight
    return VarianceParts(np.maximum(fixed, 0.0), stacked, scale * np.asarray(sigma) ** 2)


def r2_values(parts: VarianceParts) -> dict[str, np.ndarray]:
    """Marginal R2 (fixed part) and conditional R2 (fixed and random parts)."""
    explained = parts.fixed + parts.random.sum(axis=-1)
    return {"marginal": parts.fixed / parts.total, "conditional": explained / parts.total}


def icc_values(parts: VarianceParts, factors: list[str]) -> dict[str, np.ndarray]:
    """Intraclass correlations: adjusted, unadjusted, and adjusted by grouping factor."""
    random = parts.random.sum(axis=-1)
    within = random + parts.residual
    values = {"adjusted": random / within, "unadjusted": random / parts.total}
    for k, name in enumerate(factors):
        values[name] = parts.random[..., k] / within
    return values
