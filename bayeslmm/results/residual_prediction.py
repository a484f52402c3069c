"""Predictions of a likelihood fit with structured residuals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import ndtri

from bayeslmm.results.prediction import (
    check_prediction,
    prediction_rows,
    row_weights,
    scale_rows,
)

if TYPE_CHECKING:
    from bayeslmm.results.residual_likelihood import ResidualLikelihoodFit

__all__ = ["block_prediction"]


def block_prediction(
    fit: ResidualLikelihoodFit, newdata, random: str, kind: str, level: float
) -> pd.DataFrame:
    """Predictions at the estimated variances, with the coefficients' uncertainty."""
    check_prediction(random, kind)
    design, problem, theta = fit.design, fit._problem, fit._theta
    rows, index = prediction_rows(design, newdata, random)
    X = rows.X[:, fit.kept]
    estimate = X @ fit._solution.beta + rows.offset
    if random == "conditional" and rows.Z:
        for Z, codes, b in zip(rows.Z, rows.codes, fit._solution.b, strict=True):
            estimate = estimate + np.einsum("iq,iq->i", Z, b[codes])
        variance = problem.predictor_variance(theta, X, rows.Z, rows.codes)
    else:
        variance = fit._solution.variances(X)
        if random == "new":
            for Z, Sigma in zip(rows.Z, fit._solution.Sigmas, strict=True):
                variance = variance + np.einsum("ia,ab,ib->i", Z, Sigma, Z)
    if kind == "response":
        own = np.exp(2.0 * scale_rows(design, newdata) @ theta.eta)
        variance = variance + own / row_weights(design, newdata, len(X))
    se = np.sqrt(np.maximum(variance, 0.0))
    half = ndtri(0.5 + level / 2) * se
    return pd.DataFrame(
        {"estimate": estimate, "se": se, "lower": estimate - half, "upper": estimate + half},
        index=index,
    )
