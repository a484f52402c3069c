"""The covariance that the random effects imply among a group's responses.

Responses of one group have the covariance Z Sigma Z' + sigma^2 W^-1: compound symmetry for a
random intercept, and whatever the slopes make of it otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError
from bayeslmm.formula import Design
from bayeslmm.formula.columns import as_frame
from bayeslmm.formula.random import RandomBlock
from bayeslmm.parts.structures import correlations
from bayeslmm.protocols import is_posterior
from bayeslmm.results.estimates import Estimates, estimates_of
from bayeslmm.results.robust import is_robust, median_estimates
from bayeslmm.results.support import refuse_families

if TYPE_CHECKING:
    from bayeslmm.protocols import LikelihoodResult, PosteriorResult

__all__ = ["first_group", "implied_covariance", "implied_table"]

#: A group may have many rows: draws at a time.
_BLOCK = 500


def implied_table(
    fit: PosteriorResult | LikelihoodResult, data, *, correlation: bool
) -> pd.DataFrame:
    """Marginal covariance or correlation of a group's responses, over draws their mean.

    Where residuals or effects are Student-t the variances have no mean: the one at their medians.
    """
    refuse_families(fit.model, "The implied covariance")
    design, estimates = fit.model.design, estimates_of(fit)
    if is_posterior(fit) and is_robust(fit.names, fit.posterior):
        estimates = median_estimates(fit, estimates)
    flat, index = estimates.flat(), None
    total: np.ndarray | float = 0.0
    for start in range(0, len(flat.eta), _BLOCK):
        values, index = implied_covariance(design, flat.part(slice(start, start + _BLOCK)), data)
        if correlation:
            sd = np.sqrt(np.einsum("...ii->...i", values))
            values = values / (sd[..., :, None] * sd[..., None, :])
        total = total + values.sum(axis=0)
    return pd.DataFrame(total / len(flat.eta), index=index, columns=index)


def implied_covariance(
    design: Design, estimates: Estimates, data=None
) -> tuple[np.ndarray, pd.Index]:
    """Marginal covariance of responses, Z Sigma Z' + R.

    Parameters
    ----------
    design : Design
    estimates : Estimates
    data : data frame, optional
        Rows of the group, with the columns of times and of the standard deviations' formula;
        those of the first group by default. Where `data` lacks the columns of a grouping factor
        its rows are taken to share a level.

    Returns
    -------
    (..., m, m) array and the rows' index

    Raises
    ------
    DataError
        If there is no group to take.
    """
    residual = design.residual
    if data is None:
        rows, _ = first_group(design)
        index = design.index[rows]
        weights = np.ones(len(rows)) if design.weights is None else design.weights[rows]
        Z = [block.Z[rows] for block in design.blocks]
        same = [_shared(block, block.codes[rows]) for block in design.blocks]
        part = None if residual is None else residual.rows.take(rows)
    else:
        frame = as_frame(data)
        index, weights = frame.index, np.ones(len(frame))
        part = None if residual is None else design.evaluate_residuals(frame)
        if residual is not None and part is not None and residual.factor is not None:
            residual.refuse_duplicates(part, range(len(frame)))
        Z, same = _covariates(design, frame)
    if residual is None or part is None:
        total = np.exp(2.0 * estimates.eta)[..., None] * np.diag(1.0 / weights)
    else:
        C = correlations(residual.kind, estimates.c, part.group, part.time, len(residual.times))
        sd = np.exp(estimates.eta @ part.scale.T) / np.sqrt(weights)
        total = C * sd[..., :, None] * sd[..., None, :]
    for z, Sigma, mask in zip(Z, estimates.Sigmas, same, strict=True):
        total = total + mask * (z @ Sigma @ z.T)
    return total, index


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


def first_group(design: Design) -> tuple[np.ndarray, str]:
    """Rows of the first of the largest groups, and its name.

    Groups are those of correlated residuals or of the first factor, whichever are fewer.

    Raises
    ------
    DataError
        If responses are independent.
    """
    factors: list = list(design.blocks[:1])
    if design.residual is not None and design.residual.factor is not None:
        factors.insert(0, design.residual.factor)
    if not factors:
        raise DataError(
            "Without random effects or correlations responses are independent; give data=."
        )
    factor = min(factors, key=lambda own: int(own.codes.max()))
    return np.flatnonzero(factor.codes == 0), f"{factor.name} {factor.levels[0]}"
