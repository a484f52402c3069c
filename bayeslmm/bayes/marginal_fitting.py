"""Posteriors by way of the marginal density: NUTS or importance sampling, then exact draws."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from bayeslmm.bayes.fitting import FitInfo, assemble
from bayeslmm.bayes.marginal import marginal_density
from bayeslmm.bayes.mode import find_mode
from bayeslmm.bayes.names import ModelNames
from bayeslmm.bayes.nuts import MARGINAL_TUNE, nuts_options, processors, sample_density
from bayeslmm.bayes.priors import Priors
from bayeslmm.bayes.sampling import check_sampler_arguments
from bayeslmm.formula import Design
from bayeslmm.gaussian import Problem, rotated_for_draws, single_threaded_blas

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["fit_marginal"]


def fit_marginal(
    design: Design,
    priors: Priors,
    names: ModelNames,
    problem: Problem,
    *,
    reason: str,
    draws: int,
    tune: int | None,
    chains: int,
    cores: int | None,
    random_seed: int,
    progressbar: bool,
    options: dict[str, Any],
    random_effects: str = "draws",
) -> tuple[xr.DataTree, FitInfo]:
    """NUTS on the covariance parameters, then exact draws of beta and b.

    Parameters
    ----------
    problem : Problem
        Cross-products of the design.
    reason : str
        Why this parameterization, for the record.
    draws, tune, chains, cores, random_seed, progressbar
        As in :meth:`bayeslmm.LMM.fit`.
    options : dict
        ``target_accept``, ``max_treedepth``.
    random_effects : {"draws", "summary"}

    Returns
    -------
    idata : xarray.DataTree
    info : FitInfo

    Raises
    ------
    SamplingError
        If the density is nowhere finite, or the sampler cannot run or is stopped early.
    """
    tune = MARGINAL_TUNE if tune is None else tune
    check_sampler_arguments(draws, tune, chains)
    nuts_options(options)
    start = time.perf_counter()
    density = marginal_density(design, priors, rotated_for_draws(problem))
    with single_threaded_blas():
        mode = find_mode(density)
        x, stats = sample_density(
            density,
            mode,
            draws=draws,
            tune=tune,
            chains=chains,
            cores=cores,
            random_seed=random_seed,
            progressbar=progressbar,
            options=options,
        )
        values = density.posterior_values(
            design,
            names,
            x,
            random_seed=random_seed,
            cores=cores or processors(),
            random_effects=random_effects,
        )
    info = FitInfo(
        method="nuts",
        parameterization="marginal",
        reason=reason,
        draws=draws,
        tune=tune,
        chains=chains,
        random_seed=random_seed,
        seconds=time.perf_counter() - start,
    )
    return assemble(design, names, values, stats, info)
