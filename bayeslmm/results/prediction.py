"""Predictions for fitted or new rows: for known groups, the population, or new groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.bayes.residuals import effect_multipliers
from bayeslmm.errors import DataError
from bayeslmm.formula import Design
from bayeslmm.formula.columns import as_frame
from bayeslmm.formula.design import NewRows

if TYPE_CHECKING:
    from bayeslmm.results.likelihood import LikelihoodFit

__all__ = [
    "likelihood_prediction",
    "prediction_draws",
    "prediction_rows",
    "row_weights",
    "scale_rows",
]

_RANDOM = ("conditional", "population", "new")
_KIND = ("mean", "response")


def check_prediction(random: str, kind: str) -> None:
    """Refuse unknown choices.

    Raises
    ------
    ValueError
    """
    for name, value, allowed in (("random", random, _RANDOM), ("kind", kind, _KIND)):
        if value not in allowed:
            raise ValueError(
                f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}."
            )


def prediction_rows(design: Design, newdata, random: str) -> tuple[NewRows, pd.Index]:
    """The rows to predict, in the terms of the design, and their index labels.

    Raises
    ------
    DataError
        If a group is not among those fitted and its own effects are asked for.
    """
    if newdata is None:
        Z = tuple(block.Z for block in design.blocks)
        codes = tuple(block.codes for block in design.blocks)
        labels = tuple([block.levels[c] for c in block.codes] for block in design.blocks)
        return NewRows(design.X, design.offset, Z, codes, labels), design.index
    frame = as_frame(newdata)
    rows = design.evaluate(frame, random=random != "population")
    if random == "conditional":
        for block, codes, labels in zip(design.blocks, rows.codes, rows.labels, strict=True):
            unseen = list(dict.fromkeys(np.array(labels, dtype=object)[codes < 0]))
            if unseen:
                shown = ", ".join(map(repr, unseen[:5])) + (", ..." if len(unseen) > 5 else "")
                raise DataError(
                    f"Level(s) {shown} of {block.name!r} are not in the fit, so they have no "
                    'effects of their own. Use random="new" for groups not seen yet, or '
                    'random="population" for the average group.'
                )
    return rows, frame.index


def row_weights(design: Design, newdata, n: int) -> np.ndarray:
    """Prior weights of the rows: the fitted ones, the same column of new data, or 1."""
    if design.weights is None:
        return np.ones(n)
    if newdata is None:
        return design.weights
    frame = as_frame(newdata)
    if design.weights_name in frame.columns:
        weights = frame[design.weights_name].to_numpy(dtype=float)
        if np.all(np.isfinite(weights)) and np.all(weights > 0):
            return weights
    raise DataError(
        f"The model has weights: new responses need positive weights in a column "
        f"{design.weights_name!r}."
    )


def scale_rows(design: Design, newdata) -> np.ndarray:
    """Rows of the residual scale matrix, log sd = scale eta, of new rows or of those fitted."""
    if newdata is None:
        return design.residual.rows.scale
    return design.evaluate_residuals(newdata, scale_only=True).scale


def prediction_draws(
    design: Design,
    rows: NewRows,
    beta: np.ndarray,
    effects: list[np.ndarray],
    roots: list[np.ndarray],
    random: str,
    rng: np.random.Generator,
    tails: list | None = None,
) -> np.ndarray:
    """Draws of the linear predictor.

    Parameters
    ----------
    beta : (m, p) array
    effects : list of (m, J_k, q_k) arrays
        Effects of the fitted levels.
    roots : list of (m, q_k, q_k) arrays
        Factors of the covariance matrices, for new groups; rows with the same label share
        their effects.
    tails : list of array or None
        Degrees of freedom of each factor's Student-t effects, None where they are normal.

    Returns
    -------
    (m, rows) array
    """
    total = beta @ rows.X.T + rows.offset
    if random == "population":
        return total
    for k, Z in enumerate(rows.Z):
        if random == "conditional":
            codes, b = rows.codes[k], effects[k]
        else:
            codes, levels = pd.factorize(np.array([str(v) for v in rows.labels[k]], dtype=object))
            z = rng.standard_normal((len(beta), len(levels), Z.shape[1]))
            b = np.einsum("mab,mjb->mja", roots[k], z)
            b = b * effect_multipliers(rng, tails[k] if tails else None, len(levels))
        for a in range(Z.shape[1]):
            total += b[:, codes, a] * Z[:, a]
    return total


def likelihood_prediction(
    fit: LikelihoodFit, newdata, random: str, kind: str, level: float
) -> pd.DataFrame:
    """Predictions at the estimated variances, with the coefficients' uncertainty.

    The variance parameters are taken as known (plug-in), as in lme4; see
    ``LikelihoodFit.predict``.
    """
    from scipy.special import ndtri

    from bayeslmm.gaussian import FactorRows, row_moments, with_prior

    check_prediction(random, kind)
    design = fit.design
    rows, index = prediction_rows(design, newdata, random)
    X = rows.X[:, fit.kept]
    estimate = X @ fit._solution.beta + rows.offset
    variance = fit._solution.variances(X)
    if random == "new":
        for Z, Sigma in zip(rows.Z, fit._solution.Sigmas, strict=True):
            variance = variance + np.einsum("ia,ab,ib->i", Z, Sigma, Z)
    elif random == "conditional" and rows.Z:
        factors = [
            FactorRows(codes, Z, block.n_levels)
            for codes, Z, block in zip(rows.codes, rows.Z, design.blocks, strict=True)
        ]
        absolute = [fit.sigma * L for L in fit._solution.Ls]
        for Z, codes, b in zip(rows.Z, rows.codes, fit._solution.b, strict=True):
            estimate = estimate + np.einsum("iq,iq->i", Z, b[codes])
        try:
            flat = with_prior(fit._problem)
            variance = row_moments(flat, absolute, fit.sigma, X, factors).variance
        except ValueError:  # levels that never met in the data
            variance = _drawn_variance(fit, absolute, rows)
    if kind == "response":
        variance = variance + fit.sigma**2 / row_weights(design, newdata, len(X))
    se = np.sqrt(np.maximum(variance, 0.0))
    half = ndtri(0.5 + level / 2) * se
    return pd.DataFrame(
        {"estimate": estimate, "se": se, "lower": estimate - half, "upper": estimate + half},
        index=index,
    )


def _drawn_variance(fit: LikelihoodFit, absolute: list, rows: NewRows) -> np.ndarray:
    """Variance of x'beta + z'b from 4,000 exact draws, for levels without a common row."""
    from bayeslmm.gaussian import draw_conditional, with_prior

    model = with_prior(fit._problem)
    rng = np.random.default_rng(0)
    normals = rng.standard_normal((4000, model.n_normals))
    beta, effects = draw_conditional(model, absolute, fit.sigma, normals)
    kept = NewRows(rows.X[:, fit.kept], rows.offset, rows.Z, rows.codes, rows.labels)
    draws = prediction_draws(fit.design, kept, beta, effects, [], "conditional", rng)
    return draws.var(axis=0, ddof=1)
