"""The covariance that the random effects imply among a group's responses.

Responses of one group have the covariance Z Sigma Z' + sigma^2 W^-1: compound symmetry for a
random intercept, and whatever the slopes make of it otherwise.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError
from bayeslmm.formula import Design
from bayeslmm.formula.columns import as_frame
from bayeslmm.formula.random import RandomBlock
from bayeslmm.formula.residual import ResidualRows
from bayeslmm.parts.structures import correlations

__all__ = [
    "as_correlation",
    "implied_covariance",
    "implied_of_draws",
    "residual_implied_covariance",
]


def implied_covariance(
    design: Design, Sigmas: list[np.ndarray], sigma: float | np.ndarray, data=None
) -> tuple[np.ndarray, pd.Index]:
    """Marginal covariance of responses.

    Parameters
    ----------
    design : Design
    Sigmas : list of (..., q_k, q_k) arrays
        Covariance matrices of the effects, perhaps with leading dimensions for draws.
    sigma : (...) array
    data : data frame, optional
        Rows of the group; those of the first level of the first grouping factor by default.
        Where `data` lacks the columns of a grouping factor its rows are taken to share a level.

    Returns
    -------
    (..., m, m) array and the rows' index

    Raises
    ------
    DataError
        If there is no group to take.
    """
    if data is None:
        if not design.blocks:
            raise DataError("Without random effects responses are independent; give data=.")
        rows = np.flatnonzero(design.blocks[0].codes == 0)
        Z = [block.Z[rows] for block in design.blocks]
        same = [_shared(block, block.codes[rows]) for block in design.blocks]
        index = design.index[rows]
        weights = np.ones(len(rows)) if design.weights is None else design.weights[rows]
    else:
        frame = as_frame(data)
        Z, same = _covariates(design, frame)
        index, weights = frame.index, np.ones(len(frame))
    sigma = np.asarray(sigma, dtype=float)
    total = sigma[..., None, None] ** 2 * np.diag(1.0 / weights)
    for z, Sigma, mask in zip(Z, Sigmas, same, strict=True):
        total = total + mask * (z @ Sigma @ z.T)
    return total, index


def implied_of_draws(design: Design, posterior):
    """A function from covariance matrices of a slice of draws to the implied covariances."""
    from bayeslmm.bayes.residual_draws import residual_parameters

    eta, c = residual_parameters(design, posterior)
    count = eta.shape[0] * eta.shape[1]
    eta, c = (part.reshape(count, part.shape[-1]) for part in (eta, c))
    return lambda Sigmas, part, data: residual_implied_covariance(
        design, Sigmas, eta[part], c[part], data
    )


def as_correlation(covariance: np.ndarray) -> np.ndarray:
    """Correlations of (..., m, m) covariances."""
    sd = np.sqrt(np.einsum("...ii->...i", covariance))
    return covariance / (sd[..., :, None] * sd[..., None, :])


def _shared(block: RandomBlock, codes: np.ndarray) -> np.ndarray:
    """Covariance of the levels of rows, over Sigma: 0 or 1, or the relationship."""
    if block.relationship is not None:
        return block.relationship.between(codes)
    return codes[:, None] == codes


def _covariates(design: Design, frame: pd.DataFrame):
    """Z of each factor for new rows and which rows share a level."""
    Z = design.evaluate_effects(frame)
    same = []
    for block in design.blocks:
        columns = [c for c in block.factor.columns if c in frame.columns]
        if columns and block.relationship is not None:
            codes, labels = block.factor.find(frame[columns])
            key = pd.factorize(np.array([str(v) for v in labels], dtype=object))[0]
            known = codes >= 0  # others are taken as unrelated to everybody
            shared = (key[:, None] == key).astype(float)
            shared[np.ix_(known, known)] = block.relationship.between(codes[known])
            same.append(shared)
        elif columns:
            key = pd.factorize(pd.MultiIndex.from_frame(frame[columns].astype(str)))[0]
            same.append(key[:, None] == key)
        else:
            same.append(np.ones((len(frame), len(frame)), dtype=bool))
    return Z, same


def residual_implied_covariance(
    design: Design, Sigmas: list[np.ndarray], eta: np.ndarray, c: np.ndarray, data=None
) -> tuple[np.ndarray, pd.Index]:
    """Marginal covariance of responses, Z Sigma Z' + R.

    Parameters
    ----------
    design : Design
    Sigmas : list of (..., q_k, q_k) arrays
        Perhaps with leading dimensions for draws.
    eta : (..., s) array
    c : (..., k) array
        Natural parameters of the correlation structure.
    data : data frame, optional
        Rows of the group, with the columns of times and of the standard deviations' formula;
        those of the first group by default.

    Returns
    -------
    (..., m, m) array and the rows' index

    Raises
    ------
    DataError
        If there is no group to take.
    """
    if design.residual is None:
        return implied_covariance(design, Sigmas, np.exp(eta[..., 0]), data)
    if data is None:
        rows = _first_group(design)
        found = design.stated_residual.rows
        part = ResidualRows(found.group[rows], found.time[rows], found.scale[rows])
        index = design.index[rows]
        weights = np.ones(len(rows)) if design.weights is None else design.weights[rows]
        Z = [block.Z[rows] for block in design.blocks]
        same = [_shared(block, block.codes[rows]) for block in design.blocks]
        total = np.zeros((*eta.shape[:-1], len(rows), len(rows)))
        for z, Sigma, mask in zip(Z, Sigmas, same, strict=True):
            total = total + mask * (z @ Sigma @ z.T)
    else:
        frame = as_frame(data)
        part, weights = design.evaluate_residuals(frame), np.ones(len(frame))
        zero = np.zeros(eta.shape[:-1])
        total, index = implied_covariance(design, Sigmas, zero, frame)
    C = correlations(
        design.stated_residual.kind, c, part.group, part.time, len(design.stated_residual.times)
    )
    sd = np.exp(eta @ part.scale.T) / np.sqrt(weights)
    return total + C * sd[..., :, None] * sd[..., None, :], index


def _first_group(design: Design) -> np.ndarray:
    if design.stated_residual.factor is not None:
        codes = design.stated_residual.factor.codes
        if design.blocks:  # the larger of the two kinds of groups
            other = design.blocks[0].codes
            codes = min((codes, other), key=lambda v: int(v.max()))
        return np.flatnonzero(codes == 0)
    if design.blocks:
        return np.flatnonzero(design.blocks[0].codes == 0)
    raise DataError("Without random effects or correlations responses are independent; give data=.")
