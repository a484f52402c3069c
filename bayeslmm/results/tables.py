"""Posterior draws to tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bayeslmm.bayes.diagnostics import convergence

__all__ = ["check_level", "format_table", "interval_bounds", "summarize_draws"]

#: Beyond this many quantities convergence diagnostics are left out unless asked for.
MAX_DIAGNOSED = 2000


def check_level(level: float, interval: str = "eti") -> None:
    """Refuse a level outside (0, 1) or an unknown kind of interval.

    Raises
    ------
    ValueError
    """
    if not (isinstance(level, int | float) and 0 < level < 1):
        raise ValueError(f"level must be between 0 and 1, such as 0.95, not {level!r}.")
    if interval not in ("eti", "hdi"):
        raise ValueError(
            f'interval must be "eti" (equal-tailed) or "hdi" (highest density), not {interval!r}.'
        )


def interval_bounds(
    draws: np.ndarray, level: float = 0.95, interval: str = "eti"
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper limits over the first two axes (chain, draw).

    Parameters
    ----------
    draws : ndarray, shape (chains, draws, ...)
    level : float
    interval : {"eti", "hdi"}

    Returns
    -------
    lower, upper : ndarray, shape (...)
    """
    check_level(level, interval)
    if interval == "eti":
        tail = (1 - level) / 2
        lower, upper = np.quantile(draws, [tail, 1 - tail], axis=(0, 1))
        return lower, upper
    from arviz_stats.base import array_stats

    bounds = array_stats.hdi(draws, prob=level, axis=(0, 1))
    return bounds[..., 0], bounds[..., 1]


def summarize_draws(
    draws: np.ndarray,
    names: Sequence | pd.Index,
    *,
    level: float = 0.95,
    interval: str = "eti",
    diagnostics: bool | None = None,
) -> pd.DataFrame:
    """One row per quantity: mean, sd, interval, effective sample sizes, r-hat.

    Parameters
    ----------
    draws : ndarray, shape (chains, draws, k)
    names : sequence of length k
        Index of the table.
    level : float
        Probability inside the interval.
    interval : {"eti", "hdi"}
        Equal-tailed, or highest density.
    diagnostics : bool, optional
        Whether to add ``ess_bulk``, ``ess_tail`` and ``r_hat`` (Vehtari et al. 2021, Bayesian
        Analysis 16(2)); by default up to 2,000 quantities.

    Returns
    -------
    pandas.DataFrame
        Columns ``mean sd lower upper`` and perhaps ``ess_bulk ess_tail r_hat``; a quantity
        that does not vary has no diagnostics (NaN).
    """
    if diagnostics is None:
        diagnostics = draws.shape[-1] <= MAX_DIAGNOSED
    lower, upper = interval_bounds(draws, level, interval)
    table = pd.DataFrame(
        {
            "mean": draws.mean(axis=(0, 1)),
            "sd": draws.std(axis=(0, 1), ddof=1),
            "lower": lower,
            "upper": upper,
        },
        index=names,
    )
    if diagnostics:
        bulk, tail, r_hat = convergence(draws)
        table["ess_bulk"], table["ess_tail"], table["r_hat"] = bulk, tail, r_hat
    return table


def format_table(table: pd.DataFrame) -> str:
    """A table with four significant digits, small p values and whole sample sizes."""
    shown = table.copy().astype(object)
    for column in table.columns:
        values = table[column].to_numpy(dtype=float)
        shown[column] = [_format(column, value) for value in values]
    return shown.to_string()


def _format(column: str, value: float) -> str:
    if np.isnan(value):
        return "-"
    if column == "p":
        return "<0.0001" if value < 1e-4 else f"{value:.4f}"
    if column.startswith("ess"):
        return f"{value:.0f}"
    return f"{value:.3f}" if column == "r_hat" else f"{value:.4g}"
