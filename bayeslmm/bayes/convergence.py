"""Effective sample sizes and r-hat of draws.

Rank-normalized, of split chains (Vehtari, Gelman, Simpson, Carpenter and Bürkner 2021, Bayesian
Analysis 16(2)): the numbers of ArviZ, whose import takes longer than a small model is sampled.
"""

from __future__ import annotations

import numpy as np

__all__ = ["convergence"]

_TAILS = (0.05, 0.95)


def convergence(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bulk and tail effective sample size and r-hat, each shape (k,), NaN where constant.

    Parameters
    ----------
    draws : ndarray, shape (chains, draws, k)

    Notes
    -----
    R-hat (the larger of that of the ranks and of the ranks of distances from the median) is NaN of
    a single chain, all three of fewer than four draws.
    """
    k = draws.shape[-1]
    bulk, tail, r_hat = np.full(k, np.nan), np.full(k, np.nan), np.full(k, np.nan)
    if draws.shape[1] < 4:
        return bulk, tail, r_hat
    for i in np.flatnonzero(np.ptp(draws, axis=(0, 1)) > 0):
        x = draws[..., i]
        halves = _split(x)
        scores = _normal_scores(halves)
        bulk[i] = _effective_size(scores)
        limits = np.quantile(x, _TAILS)
        tail[i] = min(_effective_size(_split(x <= limit).astype(float)) for limit in limits)
        if len(x) > 1:
            folded = _normal_scores(np.abs(halves - np.median(halves)))
            r_hat[i] = max(_r_hat(scores), _r_hat(folded))
    return bulk, tail, r_hat


def _split(x: np.ndarray) -> np.ndarray:
    """Each chain in halves; the middle one of an odd number of draws is left out."""
    half = x.shape[1] // 2
    return np.concatenate([x[:, :half], x[:, -half:]])


def _normal_scores(x: np.ndarray) -> np.ndarray:
    """Normal quantiles of the ranks; equal values share their mean rank."""
    from scipy.special import ndtri

    _, which, counts = np.unique(x, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    return ndtri((ranks - 0.375) / (x.size + 0.25))[which].reshape(x.shape)


def _r_hat(x: np.ndarray) -> float:
    n = x.shape[1]
    between, within = n * np.var(x.mean(axis=1), ddof=1), np.var(x, axis=1, ddof=1).mean()
    with np.errstate(divide="ignore", invalid="ignore"):  # infinite where no chain moves
        return float(np.sqrt((between / within + n - 1) / n))


def _effective_size(x: np.ndarray) -> float:
    """Effective number of draws behind the mean, shape (chains, n) (Geyer 1992, section 3.3).

    Sums of two neighboring autocorrelations are taken up to the first that is not positive, and
    may not increase.
    """
    n = x.shape[1]
    if np.ptp(x) == 0:
        return float(x.size)
    covariances = _autocovariances(x)
    within = covariances[0] * n / (n - 1)
    total = covariances[0] + (np.var(x.mean(axis=1), ddof=1) if len(x) > 1 else 0.0)
    rho = 1.0 - (within - covariances) / total
    rho[0] = 1.0
    n_pairs = max((n - 3) // 2, 0) + 1
    pairs = rho[: 2 * n_pairs].reshape(-1, 2).sum(axis=1)
    stops = np.flatnonzero(~(pairs > 0))
    last = stops[0] if len(stops) else n_pairs - 1
    tau = 2.0 * np.minimum.accumulate(pairs[:last]).sum() - 1.0 + max(rho[2 * last], 0.0)
    return float(x.size / max(tau, 1.0 / np.log10(x.size)))


def _autocovariances(x: np.ndarray) -> np.ndarray:
    """Autocovariances at every lag, their mean over chains, shape (n,)."""
    n = x.shape[1]
    length = 1 << (2 * n - 1).bit_length()  # no lag wraps around
    spectrum = np.fft.rfft(x - x.mean(axis=1, keepdims=True), length)
    power = (spectrum.real**2 + spectrum.imag**2).mean(axis=0)
    return np.fft.irfft(power, length)[:n] / n
