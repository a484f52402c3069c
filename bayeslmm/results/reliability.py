"""Reliability of the levels' predicted effects.

lambda = 1 - Var(b_j | y) / Var(b_j), the share of an effect's variance that the rows of its level
tell: the squared correlation of the effect with its prediction, and the factor by which the
prediction is shrunk. For a random intercept alone, lambda_j = tau^2 / (tau^2 + sigma^2 / n_j)
(Raudenbush and Bryk 2002, Hierarchical Linear Models, 2nd edition, chapter 3; Snijders and Bosker
2012, Multilevel Analysis, 2nd edition, sections 3.5 and 4.8). Coefficients and variance parameters
are taken as known, in a posterior draw by draw.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.bayes.draws import long_labels
from bayeslmm.gaussian import single_threaded_blas
from bayeslmm.gaussian.shared import as_system
from bayeslmm.protocols import is_posterior
from bayeslmm.results.estimates import Estimates, estimates_of
from bayeslmm.results.support import refuse_unless_derived
from bayeslmm.results.tables import check_level, summarize_draws

if TYPE_CHECKING:
    from bayeslmm.formula.random import RandomBlock
    from bayeslmm.protocols import LikelihoodResult, Model, PosteriorResult

__all__ = ["reliabilities", "reliability_table"]


def reliability_table(
    fit: PosteriorResult | LikelihoodResult, factor: str | None, level: float, interval: str
) -> pd.DataFrame:
    """See ``reliability`` of both fits."""
    check_level(level, interval)
    model = fit.model
    refuse_unless_derived(model, "The reliability of effects", related=True, residuals=True)
    estimates = estimates_of(fit)
    blocks = model.design.blocks
    chosen = [k for k, b in enumerate(blocks) if factor in (None, b.name)]
    if factor is not None:
        model.design.block(factor)  # an unknown factor is named
    if not chosen:
        return pd.DataFrame(columns=["group", "level", "effect", "estimate"])
    labels = pd.concat(
        [long_labels(blocks[k].name, blocks[k].levels, blocks[k].effects) for k in chosen],
        ignore_index=True,
    )
    values = np.array(list(reliabilities(model, estimates, chosen)))
    if not is_posterior(fit):
        return labels.assign(estimate=values[0])
    draws = values.reshape(*estimates.shape, -1)
    table = summarize_draws(draws, labels.index, level=level, interval=interval)
    return pd.concat([labels, table], axis=1)


def reliabilities(model: Model, estimates: Estimates, chosen: list[int]) -> Iterator[np.ndarray]:
    """Of every level and effect of the chosen factors, levels outermost; draw after draw.

    An effect whose variance is zero has reliability 0, the limit.
    """
    system, flat = as_system(model.problem), estimates.flat()
    with single_threaded_blas():
        for d, theta in enumerate(estimates.theta().rows()):
            left = system.effect_covariances(theta)
            yield np.concatenate(
                [_shares(model.design.blocks[k], left[k], flat.Sigmas[k][d]) for k in chosen]
            )


def _shares(block: RandomBlock, left: np.ndarray, Sigma: np.ndarray) -> np.ndarray:
    """1 - Var(b_j | y) / Var(b_j), (J * q,); between 0 and 1 but for rounding."""
    own = np.ones(block.n_levels) if block.relationship is None else block.relationship.diagonal
    whole = own[:, None] * np.diag(Sigma)
    share = np.divide(np.einsum("jaa->ja", left), whole, out=np.ones_like(whole), where=whole > 0)
    return np.clip(1.0 - share, 0.0, 1.0).ravel()
