"""Parametric bootstrap of a likelihood fit: the same model fitted to data simulated from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.gaussian import single_threaded_blas
from bayeslmm.results.intervals import bootstrap_refits, check_n_sims

if TYPE_CHECKING:
    from bayeslmm.gaussian import Solution
    from bayeslmm.protocols import LikelihoodResult

__all__ = ["bootstrap_statistics"]


def bootstrap_statistics(
    fit: LikelihoodResult,
    statistic: Callable[[Solution], np.ndarray],
    *,
    n_sims: int,
    random_seed: int | None,
    progressbar: bool = True,
) -> np.ndarray:
    """A statistic of the fits to simulated responses, shape (n_sims, ...).

    Parameters
    ----------
    fit : LikelihoodResult
    statistic : callable
        Of a fit's solution.
    n_sims : int
    random_seed : int, optional
    progressbar : bool

    Raises
    ------
    ValueError
        If `n_sims` is not a whole number of at least 2.
    """
    check_n_sims(n_sims, least=2)
    seeds = np.random.SeedSequence(random_seed).spawn(n_sims)
    own = map(np.random.default_rng, seeds)
    with single_threaded_blas():
        refits = bootstrap_refits(fit, n_sims, random_seed, progressbar, own)
        return np.array([statistic(refit.solution) for refit in refits])
