"""Tables of random effects of which only summaries were kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.bayes.draws import long_labels
from bayeslmm.bayes.tree import SUMMARY_GROUP
from bayeslmm.results.tables import check_level

if TYPE_CHECKING:
    from bayeslmm.protocols import PosteriorResult

__all__ = ["summarized_effects"]


def summarized_effects(
    fit: PosteriorResult, factor: str | None, level: float, interval: str
) -> pd.DataFrame:
    """Random effects of every level from stored summaries; see ``PosteriorFit.ranef``.

    Raises
    ------
    ValueError
        If the limits of such an interval were not kept.
    KeyError
        If there is no such grouping factor.
    """
    check_level(level, interval)
    design, kept = fit.model.design, fit.idata[SUMMARY_GROUP]
    quantiles = kept["quantile"].to_numpy()
    ends = [(1 - level) / 2, (1 + level) / 2]
    at = [int(np.abs(quantiles - end).argmin()) for end in ends]
    if interval != "eti" or np.abs(quantiles[at] - ends).max() > 1e-9:
        raise ValueError(
            "Only summaries of random effects were kept: intervals are equal-tailed with level "
            "0.5, 0.8, 0.9, 0.95 or 0.99."
        )
    blocks = design.blocks if factor is None else [design.block(factor)]
    tables = []
    for block in blocks:
        b = fit.names.factor(block.name).b
        table = long_labels(block.name, block.levels, block.effects)
        table["mean"] = kept[f"{b}_mean"].to_numpy().ravel()
        table["sd"] = kept[f"{b}_sd"].to_numpy().ravel()
        limits = kept[f"{b}_quantile"].to_numpy()
        table["lower"], table["upper"] = (limits[i].ravel() for i in at)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)
