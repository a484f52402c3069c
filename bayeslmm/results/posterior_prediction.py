"""Predictions from posterior draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.bayes.draws import coefficient_draws, covariance_draws
from bayeslmm.bayes.residual_draws import row_scales
from bayeslmm.results.prediction import (
    check_prediction,
    prediction_draws,
    prediction_rows,
    row_weights,
    scale_rows,
)

if TYPE_CHECKING:
    from bayeslmm.results.posterior import PosteriorFit

__all__ = ["posterior_prediction"]


def posterior_prediction(
    fit: PosteriorFit, newdata, random: str, kind: str, random_seed: int | None
) -> tuple[np.ndarray, pd.Index]:
    """Draws (chains, draws, rows) and the rows' index; see ``PosteriorFit.predict``."""
    check_prediction(random, kind)
    design, names, posterior = fit.model.design, fit.names, fit.posterior
    rows, index = prediction_rows(design, newdata, random)
    rng = np.random.default_rng(random_seed)
    shape = (posterior.sizes["chain"], posterior.sizes["draw"])
    beta = coefficient_draws(design, posterior)[1].reshape(shape[0] * shape[1], -1)
    effects, roots = [], []
    if random == "conditional":
        effects = [
            posterior[factor.b].to_numpy().reshape(len(beta), block.n_levels, block.n_effects)
            for block, factor in zip(design.blocks, names.factors, strict=True)
        ]
    elif random == "new":
        for Sigma in covariance_draws(design, names, posterior):
            roots.append(_roots(Sigma.reshape(len(beta), *Sigma.shape[2:])))
    values = prediction_draws(design, rows, beta, effects, roots, random, rng)
    if kind == "response":
        weights = row_weights(design, newdata, values.shape[1])
        rows = None if design.residual is None else scale_rows(design, newdata)
        scale = row_scales(design, posterior, rows, weights)
        values = values + scale.reshape(len(values), -1) * rng.standard_normal(values.shape)
    return values.reshape(*shape, -1), index


def _roots(Sigma: np.ndarray) -> np.ndarray:
    """Symmetric roots of (m, q, q) covariance matrices, singular ones included."""
    values, vectors = np.linalg.eigh(Sigma)
    return vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
