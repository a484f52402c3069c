"""Posterior draws to tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pandas as pd

from bayeslmm.bayes.diagnostics import convergence

__all__ = [
    "apart",
    "block_size",
    "blocks_of",
    "check_level",
    "interval_bounds",
    "summarize_blocks",
    "summarize_draws",
]

#: Beyond this many quantities convergence diagnostics are left out unless asked for.
MAX_DIAGNOSED = 2000

#: Draws of quantities that are summarized together: 16 MB.
_TOGETHER = 2**21


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


def apart(labels: pd.DataFrame, taken: Iterable[str]) -> pd.DataFrame:
    """Labels beside other columns of a table: one with the name of these gets an underscore."""
    return labels.rename(columns={name: f"{name}_" for name in taken})


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
    return summarize_blocks(
        lambda part: draws[..., part],
        names,
        draws.shape[0] * draws.shape[1],
        level=level,
        interval=interval,
        diagnostics=diagnostics,
    )


def block_size(width: int) -> int:
    """How many quantities of `width` numbers each are made at a time."""
    return max(1, _TOGETHER // max(width, 1))


def blocks_of(n: int, width: int) -> Iterator[slice]:
    """Slices of n quantities, :func:`block_size` of them each."""
    size = block_size(width)
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def summarize_blocks(
    block: Callable[[slice], np.ndarray],
    names: Sequence | pd.Index,
    width: int,
    *,
    level: float = 0.95,
    interval: str = "eti",
    diagnostics: bool | None = None,
    more: Callable[[np.ndarray], dict[str, np.ndarray]] | None = None,
) -> pd.DataFrame:
    """As :func:`summarize_draws`, of draws that are made when they are summarized.

    Parameters
    ----------
    block : callable
        Gives the draws (chains, draws, len) of a slice of the quantities.
    width : int
        Numbers that one quantity takes while it is computed: at least its draws.
    more : callable, optional
        Further columns, from the draws of a block.
    """
    if diagnostics is None:
        diagnostics = len(names) <= MAX_DIAGNOSED
    diagnosed = ("ess_bulk", "ess_tail", "r_hat") if diagnostics else ()
    columns: dict[str, list] = {n: [] for n in ("mean", "sd", "lower", "upper", *diagnosed)}
    for part in blocks_of(len(names), width):
        draws = block(part)
        lower, upper = interval_bounds(draws, level, interval)
        found = {
            "mean": draws.mean(axis=(0, 1)),
            "sd": draws.std(axis=(0, 1), ddof=1),
            "lower": lower,
            "upper": upper,
        }
        if diagnostics:
            found |= dict(zip(diagnosed, convergence(draws), strict=True))
        for name, values in (found | (more(draws) if more else {})).items():
            columns.setdefault(name, []).append(values)
    return pd.DataFrame(
        {name: np.concatenate([np.zeros(0), *parts]) for name, parts in columns.items()},
        index=names,
    )
