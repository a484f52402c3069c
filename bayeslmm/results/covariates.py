"""Values of the random effects' covariates at which a quantity is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np
import pandas as pd

from bayeslmm.formula import Design
from bayeslmm.formula.columns import as_frame

__all__ = ["effect_points"]

_MAX_POINTS = 100_000


def effect_points(design: Design, at) -> tuple[pd.DataFrame, tuple[np.ndarray, ...]]:
    """Labels of the points and the covariates Z of each grouping factor there.

    Parameters
    ----------
    design : Design
    at : mapping or data frame
        A mapping of columns to a value or values stands for all their combinations, a frame for
        its rows. All columns that the random effects use are needed.

    Returns
    -------
    points : pandas.DataFrame
        The columns used, one row per point.
    Z : tuple of (points, q_k) arrays

    Raises
    ------
    ValueError
        If the random effects use no column, or not those given.
    DataError
        If a value is missing, or is not a level of the fit.
    """
    used = dict.fromkeys(name for block in design.blocks for name in design.effect_columns(block))
    if not used:
        raise ValueError(
            "The random effects have no covariate, so their variance is the same everywhere; "
            "leave at= out."
        )
    if isinstance(at, Mapping):
        unknown = [name for name in at if name not in used]
        if unknown:
            raise ValueError(
                f"{unknown[0]!r} is not in the random effects, which use {', '.join(used)}."
            )
        frame = _combinations(at)
    else:
        frame = as_frame(at)
    absent = [name for name in used if name not in frame.columns]
    if absent:
        raise ValueError(f"at= needs a value of {', '.join(map(repr, absent))} as well.")
    points = frame[list(used)].reset_index(drop=True)
    return points, design.evaluate_effects(points)


def _combinations(at: Mapping) -> pd.DataFrame:
    values = {name: np.atleast_1d(np.asarray(value)).tolist() for name, value in at.items()}
    size = int(np.prod([len(v) for v in values.values()]))
    if not 0 < size <= _MAX_POINTS:
        raise ValueError(f"at= stands for {size} points; give between 1 and {_MAX_POINTS}.")
    return pd.DataFrame(list(product(*values.values())), columns=list(values))
