"""Predictions from posterior draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.bayes.covariates import missing_part
from bayeslmm.bayes.draws import coefficient_draws, covariance_draws, effect_array
from bayeslmm.bayes.residual_draws import row_scales
from bayeslmm.bayes.residuals import draw_noise, effect_nu, residual_nu
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
            effect_array(posterior, factor.b).reshape(len(beta), block.n_levels, block.n_effects)
            for block, factor in zip(design.blocks, names.factors, strict=True)
        ]
    elif random == "new":
        for Sigma in covariance_draws(design, names, posterior):
            roots.append(_roots(Sigma.reshape(len(beta), *Sigma.shape[2:])))
    tails = [effect_nu(posterior, factor) for factor in names.factors]
    values = prediction_draws(design, rows, beta, effects, roots, random, rng, tails)
    if newdata is None and design.modeled:
        if random == "new" and any(np.any(Z) for c in design.modeled for Z in c.Z_slopes):
            raise ValueError(
                'random="new" for the fitted rows is not available where random slopes act on '
                "modeled missing values: give newdata."
            )
        part = missing_part(design, names, posterior, random=random == "conditional")
        values = values + part.reshape(values.shape)
    if kind == "response":
        weights = row_weights(design, newdata, values.shape[1])
        nu = residual_nu(posterior)
        nu = None if nu is None else nu.ravel()
        rows = None if design.residual is None else scale_rows(design, newdata)
        scale = row_scales(design, posterior, rows, weights)
        values = values + scale.reshape(len(values), -1) * draw_noise(rng, values.shape, nu)
    return values.reshape(*shape, -1), index


def _roots(Sigma: np.ndarray) -> np.ndarray:
    """Symmetric roots of (m, q, q) covariance matrices, singular ones included."""
    values, vectors = np.linalg.eigh(Sigma)
    return vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
