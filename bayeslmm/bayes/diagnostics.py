"""Whether the draws can be trusted, in words that say what to try."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.bayes.convergence import convergence

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["sampling_problems", "weighting_problems"]

_ESS_PER_CHAIN = 100
_R_HAT = 1.01


def sampling_problems(
    names: list[str],
    draws: np.ndarray,
    sample_stats: xr.Dataset,
    *,
    parameterization: str = "noncentered",
) -> list[str]:
    """Sentences on what went wrong, empty where nothing did.

    Parameters
    ----------
    names : list of str
        Names of the coefficients and variance components.
    draws : ndarray, shape (chains, draws, k)
    sample_stats : xarray.Dataset
    parameterization : str
        The one used, which decides what else to try.

    Notes
    -----
    Thresholds: r-hat above 1.01 and bulk or tail effective sample size below 100 per chain
    (Vehtari et al. 2021, Bayesian Analysis 16(2), section 4).
    """
    problems = []
    if "diverging" in sample_stats:
        n = int(sample_stats["diverging"].sum())
        if n:
            other = {"noncentered": "centered", "centered": "noncentered"}.get(parameterization)
            instead = f'parameterization="{other}", ' if other else ""
            problems.append(
                f"{n} divergent transition(s): part of the posterior was not explored. Try "
                f"target_accept=0.95 or higher, {instead}or a more informative prior on the "
                "standard deviations."
            )
    bulk, tail, r_hat = convergence(draws)
    if np.nanmax(r_hat, initial=0.0) > _R_HAT:
        worst = int(np.nanargmax(r_hat))
        problems.append(
            f"r-hat is {r_hat[worst]:.3f} for {names[worst]} (above {_R_HAT}): the chains do not "
            "agree. Try more warm-up and draws (tune=2000, draws=2000)."
        )
    floor = _ESS_PER_CHAIN * draws.shape[0]
    for kind, ess in (("bulk", bulk), ("tail", tail)):
        if np.nanmin(ess, initial=np.inf) < floor:
            worst = int(np.nanargmin(ess))
            problems.append(
                f"The effective sample size ({kind}) of {names[worst]} is {ess[worst]:.0f} "
                f"(below {floor}): its summaries are noisy. Ask for more draws."
            )
    return problems


def weighting_problems(effective_draws: float, chains: int) -> list[str]:
    """As :func:`sampling_problems`, for resampled independent draws.

    Their chains are parts of one resample: r-hat and autocorrelations would only show noise, and
    repeated draws would count as new ones. What counts is 1 / sum of squared weights.
    """
    floor = _ESS_PER_CHAIN * chains
    if effective_draws >= floor:
        return []
    return [
        f"Only {effective_draws:.0f} effective draws are behind the resampled ones (below "
        f'{floor}): summaries are noisy. Ask for more draws, or use method="nuts".'
    ]
