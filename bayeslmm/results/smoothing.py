"""Pareto-smoothed importance weights, by ArviZ, also where many draws are equal."""

from __future__ import annotations

import numpy as np

__all__ = ["smoothed_weights"]


def smoothed_weights(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normalized weights and k-hat (Vehtari et al. 2024, J. Mach. Learn. Res. 25(72)).

    Parameters
    ----------
    log_weights : (units, draws) array
        Finite, up to a constant per unit.

    Returns
    -------
    weights : (units, draws) array
        Each row sums to one.
    k_hat : (units,) array
        nan where the largest weights are all equal, as with few resampled draws: then the
        weights are as they were.
    """
    from arviz_stats.base import array_stats

    log_weights = log_weights - log_weights.max(axis=-1, keepdims=True)
    try:
        smoothed, k_hat = array_stats.psislw(-log_weights)  # it takes negative log weights
        smoothed, k_hat = np.asarray(smoothed), np.atleast_1d(k_hat)
    except ValueError:
        smoothed, k_hat = log_weights.copy(), np.full(len(log_weights), np.nan)
        if len(log_weights) > 1:
            for i, row in enumerate(log_weights):
                smoothed[i], k_hat[i] = (part[0] for part in smoothed_weights(row[None]))
            return smoothed, k_hat
    weights = np.exp(smoothed - smoothed.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True), k_hat
