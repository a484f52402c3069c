"""Posteriors by way of the marginal density: Hamiltonian Monte Carlo, then exact draws."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bayeslmm.bayes.conditional import posterior_values
from bayeslmm.bayes.fitting import FitInfo, assemble
from bayeslmm.bayes.marginal import MarginalDensity, marginal_density
from bayeslmm.bayes.mode import MODE_EVALUATIONS, Mode, find_mode
from bayeslmm.bayes.names import ModelNames
from bayeslmm.bayes.nuts import (
    DRAW_EVALUATIONS,
    MARGINAL_TUNE,
    nuts_options,
    processors,
    sample_density,
)
from bayeslmm.bayes.sampling import Sampling
from bayeslmm.bayes.shrinkage import scale_draws
from bayeslmm.bayes.trajectories import SURROGATE_TUNE, Trajectories, sample_trajectories
from bayeslmm.formula import Design
from bayeslmm.gaussian import Problem, single_threaded_blas
from bayeslmm.priors.table import Priors

if TYPE_CHECKING:
    import xarray as xr

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
    sampling: Sampling,
    *,
    draw_rest: bool,
) -> CovarianceDraws:
    """By NUTS, or where evaluations are expensive by trajectories of a surrogate.

    Whoever gives an option of NUTS gets NUTS.

    Parameters
    ----------
    density, mode
        In log coordinates.
    sampling : Sampling
        Its options are ``target_accept`` and ``max_treedepth``.
    draw_rest : bool
        Draw (beta, b) too where the same factorization serves both.
    """
    if density.draws_with_value and not sampling.options:
        found = sample_trajectories(density, mode, sampling, draw_rest=draw_rest)
        if found is not None:
            sampler = f"HMC on a surrogate, {found.acceptance:.0%} accepted by the exact density"
            tune = sampling.warm_up(SURROGATE_TUNE)
            return CovarianceDraws(found.x, found.stats, tune, sampler, found)
    density = _of_a_single_chain(density) if sampling.chains == 1 else density
    x, stats = sample_density(density, mode, sampling)
    return CovarianceDraws(x, stats, sampling.warm_up(MARGINAL_TUNE))


def fit_marginal(
    design: Design,
    priors: Priors,
    names: ModelNames,
    problem: Callable[[], Problem],
    sampling: Sampling,
    *,
    parameterization: str,
    reason: str,
) -> tuple[xr.DataTree, FitInfo]:
    """Draws of the covariance parameters, then exact ones of beta and b.

    Parameters
    ----------
    problem : callable
        Gives the prepared data of the design.
    sampling : Sampling
        Its options are ``target_accept`` and ``max_treedepth``.
    parameterization, reason : str
        "marginal" and why, for the record.

    Returns
    -------
    idata : xarray.DataTree
    info : FitInfo

    Raises
    ------
    SamplingError
        If the density is nowhere finite, or the sampler cannot run or is stopped early.
    """
    nuts_options(sampling.options)  # before the work that comes first
    start = time.perf_counter()
    density = marginal_density(design, priors, problem(), rotate=True)
    size = (
        8
        * sampling.chains
        * sampling.draws
        * sum(block.n_levels * block.n_effects for block in design.blocks)
    )
    per_chain = sampling.draws + sampling.warm_up(MARGINAL_TUNE)
    ahead = MODE_EVALUATIONS + DRAW_EVALUATIONS * sampling.chains * per_chain
    with single_threaded_blas(), density.steady(ahead, design, sampling.random_seed):
        sampled = sample_covariances(
            density,
            find_mode(density),
            sampling,
            draw_rest=sampling.random_effects == "draws" or size < _ALONG,
        )
        rest, drawn = sampled.trajectories, None
        if rest is not None and rest.effects is not None:
            drawn = density.system.drawn(rest.fixed, rest.effects)
        flat = sampled.x.reshape(-1, sampled.x.shape[-1])
        values = posterior_values(
            density.given(flat),
            design,
            names,
            chains=len(sampled.x),
            random_seed=sampling.random_seed,
            cores=sampling.cores or processors(),
            random_effects=sampling.random_effects,
            drawn=drawn,
        )
        more = scale_draws(priors.shrinkage, density, flat, len(sampled.x))
    info = FitInfo.of(
        sampling,
        start,
        method="nuts",
        parameterization=parameterization,
        reason=reason,
        tune=sampled.tune,
        sampler=sampled.sampler,
    )
    return assemble(design, names, values, sampled.stats, info, more)


def _of_a_single_chain(density: MarginalDensity) -> MarginalDensity:
    """With very many levels, a density whose evaluations use the processors a chain leaves idle.

    The number of chains decides and not that of processors, so that draws are the same everywhere.
    """
    return replace(density, alone=True) if density.system.many_levels else density
