"""The covariance among a group's responses, residual correlations and variances included."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError
from bayeslmm.formula import Design
from bayeslmm.formula.columns import as_frame
from bayeslmm.formula.residual import ResidualRows
from bayeslmm.parts.structures import correlations
from bayeslmm.results.implied import implied_covariance

__all__ = ["residual_implied_covariance"]


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
    if data is None:
        rows = _first_group(design)
        found = design.residual.rows
        part = ResidualRows(found.group[rows], found.time[rows], found.scale[rows])
        index = design.index[rows]
        weights = np.ones(len(rows)) if design.weights is None else design.weights[rows]
        Z = [block.Z[rows] for block in design.blocks]
        same = [block.codes[rows][:, None] == block.codes[rows] for block in design.blocks]
        total = np.zeros((*eta.shape[:-1], len(rows), len(rows)))
        for z, Sigma, mask in zip(Z, Sigmas, same, strict=True):
            total = total + mask * (z @ Sigma @ z.T)
    else:
        frame = as_frame(data)
        part, weights = design.evaluate_residuals(frame), np.ones(len(frame))
        zero = np.zeros(eta.shape[:-1])
        total, index = implied_covariance(design, Sigmas, zero, frame)
    C = correlations(design.residual.kind, c, part.group, part.time, len(design.residual.times))
    sd = np.exp(eta @ part.scale.T) / np.sqrt(weights)
    return total + C * sd[..., :, None] * sd[..., None, :], index


def _first_group(design: Design) -> np.ndarray:
    if design.residual.factor is not None:
        codes = design.residual.factor.codes
        if design.blocks:  # the larger of the two kinds of groups
            other = design.blocks[0].codes
            codes = min((codes, other), key=lambda v: int(v.max()))
        return np.flatnonzero(codes == 0)
    if design.blocks:
        return np.flatnonzero(design.blocks[0].codes == 0)
    raise DataError("Without random effects or correlations responses are independent; give data=.")
