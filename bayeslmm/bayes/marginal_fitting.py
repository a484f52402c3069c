"""Posteriors by way of the marginal density: Hamiltonian Monte Carlo, then exact draws."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bayeslmm.bayes.fitting import FitInfo, assemble
from bayeslmm.bayes.marginal import MarginalDensity, marginal_density
from bayeslmm.bayes.mode import Mode, find_mode
from bayeslmm.bayes.names import ModelNames
from bayeslmm.bayes.nuts import MARGINAL_TUNE, nuts_options, processors, sample_density
from bayeslmm.bayes.sampling import check_sampler_arguments
from bayeslmm.bayes.trajectories import SURROGATE_TUNE, Trajectories, sample_trajectories
from bayeslmm.formula import Design
from bayeslmm.gaussian import (
    Problem,
    draws_to_user,
    single_threaded_blas,
)
from bayeslmm.priors.table import Priors

if TYPE_CHECKING:
    import xarray as xr

    from bayeslmm.bayes.residual_density import ResidualDensity

__all__ = ["CovarianceDraws", "fit_marginal", "sample_covariances"]

#: Draws of (beta, b) are made along with those of the covariance parameters up to this many bytes.
_ALONG = 2e9


class CovarianceDraws(NamedTuple):
    """Draws of the covariance parameters, and how they came about.

    Attributes
    ----------
    x : (chains, draws, d) array
        In log coordinates.
    stats : xarray.Dataset
    tune : int
        Draws of warm-up per chain.
    sampler : str
        In words.
    trajectories : Trajectories or None
        With (beta, b) where they were drawn along.
    """

    x: np.ndarray
    stats: xr.Dataset
    tune: int
    sampler: str = "NUTS"
    trajectories: Trajectories | None = None


def sample_covariances(
    density: MarginalDensity,
    mode: Mode,
    *,
    tune: int | None,
    options: dict[str, Any],
    draw_rest: bool,
    **settings: Any,
) -> CovarianceDraws:
    """By NUTS, or where evaluations are expensive by trajectories of a surrogate.

    Whoever gives an option of NUTS gets NUTS.

    Parameters
    ----------
    density, mode
        In log coordinates.
    tune : int or None
        None for the sampler's own default.
    options : dict
        ``target_accept``, ``max_treedepth``.
    draw_rest : bool
        Draw (beta, b) too where the same factorization serves both.
    settings
        ``draws``, ``chains``, ``cores``, ``random_seed``, ``progressbar``.
    """
    if density.draws_with_value and not options:
        warm_up = SURROGATE_TUNE if tune is None else tune
        found = sample_trajectories(density, mode, tune=warm_up, draw_rest=draw_rest, **settings)
        if found is not None:
            sampler = f"HMC on a surrogate, {found.acceptance:.0%} accepted by the exact density"
            return CovarianceDraws(found.x, found.stats, warm_up, sampler, found)
    warm_up = MARGINAL_TUNE if tune is None else tune
    density = _of_a_single_chain(density) if settings["chains"] == 1 else density
    x, stats = sample_density(density, mode, tune=warm_up, options=options, **settings)
    return CovarianceDraws(x, stats, warm_up)


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
    """Draws of the covariance parameters, then exact ones of beta and b.

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
    check_sampler_arguments(draws, MARGINAL_TUNE if tune is None else tune, chains)
    nuts_options(options)
    start = time.perf_counter()
    density = marginal_density(design, priors, problem, rotate=True)
    size = 8 * chains * draws * sum(block.n_levels * block.n_effects for block in design.blocks)
    with single_threaded_blas():
        sampled = sample_covariances(
            density, find_mode(density), tune=tune, options=options,
            draw_rest=random_effects == "draws" or size < _ALONG,
            draws=draws, chains=chains, cores=cores, random_seed=random_seed,
            progressbar=progressbar,
        )  # fmt: skip
        rest, drawn = sampled.trajectories, None
        if rest is not None and rest.effects is not None:
            drawn = draws_to_user(density.model.problem, rest.fixed, rest.effects)
        given = {} if drawn is None else {"drawn": drawn}
        values = density.posterior_values(
            design, names, sampled.x, random_seed=random_seed, cores=cores or processors(),
            random_effects=random_effects, **given,
        )  # fmt: skip
    info = FitInfo(
        method="nuts",
        parameterization="marginal",
        reason=reason,
        draws=draws,
        tune=sampled.tune,
        chains=chains,
        random_seed=random_seed,
        seconds=time.perf_counter() - start,
        sampler=sampled.sampler,
    )
    return assemble(design, names, values, sampled.stats, info)


def _of_a_single_chain(density: MarginalDensity | ResidualDensity):
    """With very many levels, a density whose evaluations use the processors a chain leaves idle.

    The number of chains decides and not that of processors, so that draws are the same everywhere.
    """
    if isinstance(density, MarginalDensity) and density.model.problem.many_levels:
        return replace(density, alone=True)
    return density
