"""Exponentials of coefficients: odds ratios, rate ratios, ratios of means, hazard ratios."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayeslmm.parts.families import Family
from bayeslmm.results.tables import interval_bounds

__all__ = ["on_predictor_scale", "ratios_of_draws", "with_ratios"]

_LIMITS = ("ratio_lower", "ratio_upper")


def ratios_of_draws(
    family: Family, draws: np.ndarray, level: float, interval: str
) -> dict[str, np.ndarray]:
    """Columns of posterior medians and limits of exponentials, none where they are no ratios.

    Parameters
    ----------
    draws : (chains, draws, k) array
        Of coefficients, or of differences of the linear predictor.
    """
    if family.ratio is None:
        return {}
    with np.errstate(over="ignore"):
        ratios = np.exp(draws)
        lower, upper = interval_bounds(ratios, level, interval)
    return {family.ratio: np.median(ratios, axis=(0, 1)), _LIMITS[0]: lower, _LIMITS[1]: upper}


def with_ratios(family: Family, table: pd.DataFrame) -> pd.DataFrame:
    """A table of estimates with the exponentials of these and of their limits."""
    if family.ratio is None:
        return table
    named = zip((family.ratio, *_LIMITS), ("estimate", "lower", "upper"), strict=True)
    with np.errstate(over="ignore"):
        return table.assign(**{name: np.exp(table[of]) for name, of in named})


def on_predictor_scale(family: Family, table: pd.DataFrame) -> pd.DataFrame:
    """The table, which says in ``attrs["scale"]`` that it is of the linear predictor."""
    if not family.gaussian:
        of = "logarithm" if family.name == "lognormal" else family.link.name
        table.attrs["scale"] = f"linear predictor ({of})"
    return table
