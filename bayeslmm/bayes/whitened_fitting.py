"""Posteriors of responses that are not Gaussian: NUTS over everything, in whitened coordinates.

Or importance sampling: in these coordinates the posterior is near a standard normal, so that
normal draws, their parameters with heavier tails, and exact weights may do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bayeslmm.bayes.compiled import CompiledDensity
from bayeslmm.bayes.conditional import factor_values
from bayeslmm.bayes.fitting import FitInfo, assemble
from bayeslmm.bayes.importance import (
    ImportanceSample,
    SplitT,
    check_k_hat,
    evaluate_all,
    importance_info,
    no_stats,
    split_t,
    weighted_sample,
)
from bayeslmm.bayes.kernels import joint
from bayeslmm.bayes.laplace_posterior import (
    LaplacePosterior,
    laplace_posterior,
    sampled_because,
)
from bayeslmm.bayes.mode import Mode
from bayeslmm.bayes.names import ModelNames
from bayeslmm.bayes.nuts import kept_stats, nuts_options, processors, run_chains
from bayeslmm.bayes.sampling import Sampling
from bayeslmm.bayes.unknowns import covariate_values
from bayeslmm.bayes.whitening import WhitenedPosterior, whitened_posterior
from bayeslmm.compiling import expect, interpreting
from bayeslmm.errors import DataError, SamplingError
from bayeslmm.formula import Design
from bayeslmm.gaussian import single_threaded_blas
from bayeslmm.priors.table import Priors

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "WHITENED_TUNE",
    "LowDraws",
    "fit_whitened",
    "fit_whitened_importance",
    "in_formula",
    "joint_values",
    "low_draws",
    "whitened_chains",
    "whitened_sample",
]

#: Warm-up draws per chain where none are asked for, and the acceptance rate aimed at. Where the
#: range of the linear predictor ends the density does so too, or falls to nothing, and longer steps
#: jump across: with three groups of six rows 5 of 8000 diverge at 0.9 and 26 at 0.8, for a sixth
#: fewer effective draws per gradient.
WHITENED_TUNE = 300
_TARGET_ACCEPT, _TARGET_ACCEPT_AT_WALLS = 0.8, 0.9


def fit_whitened(
    design: Design,
    priors: Priors,
    names: ModelNames,
    problem: Callable,
    sampling: Sampling,
    *,
    parameterization: str,
    reason: str,
) -> tuple[xr.DataTree, FitInfo]:
    """NUTS over parameters and effects in coordinates whitened by Laplace's approximation.

    Parameters
    ----------
    problem : callable
        Not used: rows are evaluated.
    sampling : Sampling
        Its options are ``target_accept`` and ``max_treedepth``.
    parameterization, reason : str
        "whitened" and why, for the record.

    Returns
    -------
    idata : xarray.DataTree
    info : FitInfo

    Raises
    ------
    SamplingError
        If the density is nowhere finite, or the sampler cannot run or is stopped early.
    DataError
        If only summaries of the random effects are asked for.
    """
    nuts_options(sampling.options)  # before the work that comes first
    _refuse_summaries(design, sampling)
    start, tune = time.perf_counter(), sampling.warm_up(WHITENED_TUNE)
    expect(np.inf)  # rows are too many evaluations for Python
    with single_threaded_blas():
        density = whitened_posterior(laplace_posterior(design, priors))
        z, stats = whitened_chains(density, sampling, tune)
        values = joint_values(density, design, priors, names, z, sampling.random_seed)
    info = FitInfo.of(
        sampling,
        start,
        method="nuts",
        parameterization=parameterization,
        reason=reason,
        tune=tune,
    )
    return assemble(design, names, values, kept_stats(stats), info)


def whitened_chains(
    density: WhitenedPosterior, sampling: Sampling, tune: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """z (chains, draws, n_dim) by NUTS, and statistics; see :func:`bayeslmm.bayes.nuts.run_chains`.

    Parameters
    ----------
    tune : int
        Draws of warm-up.
    """
    ready = partial(_compiled, density)
    ends = density.arguments.walls.ends
    accept = _TARGET_ACCEPT_AT_WALLS if np.isfinite(ends).any() else _TARGET_ACCEPT
    return run_chains(density.n_dim, density, ready, sampling, tune=tune, accept=accept)


def _compiled(density: WhitenedPosterior, initial_point: Callable) -> CompiledDensity | None:
    """The density as a C function; None while kernels are interpreted."""
    if interpreting():
        return None
    from bayeslmm.bayes.kernels.whitened import logp

    return CompiledDensity(density.n_dim, initial_point, logp, density.table)


def _refuse_summaries(design: Design, sampling: Sampling) -> None:
    if sampling.random_effects != "draws":
        raise DataError(
            'random_effects="summary" is for Gaussian responses, whose effects are drawn after the '
            f"covariances; with {sampled_because(design)} they are part of the chain."
        )


@dataclass(frozen=True)
class _Along:
    """The joint density along the parameters, effects where the parameters put them."""

    joint: WhitenedPosterior

    @property
    def n_dim(self) -> int:
        return self.joint.n_low

    def values(self, x: np.ndarray) -> np.ndarray:
        """Log densities at rows of x (n, d)."""
        rest = np.zeros((len(x), self.joint.n_dim - self.n_dim))
        return self.joint.values(np.hstack([x, rest]))


@dataclass(frozen=True)
class _Proposal:
    """Parameters from a split t distribution, effects from standard normals."""

    parameters: SplitT
    n_effects: int

    def draw(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """n draws of z and their log densities."""
        low, log_q = self.parameters.draw(n, rng)
        v = rng.standard_normal((n, self.n_effects))
        log_q = log_q - 0.5 * (v**2).sum(axis=1) - 0.5 * self.n_effects * np.log(2 * np.pi)
        return np.hstack([low, v]), log_q


def whitened_sample(
    density: WhitenedPosterior, n: int, rng: np.random.Generator, cores: int = 1
) -> ImportanceSample:
    """n weighted draws of z, whose k-hat says whether they can be trusted."""
    d = density.n_low
    top = Mode(np.zeros(d), float(density.values(np.zeros((1, density.n_dim)))[0]), np.eye(d))
    along: Any = _Along(density)
    proposal = _Proposal(split_t(along, top), density.n_dim - d)
    return weighted_sample(density, proposal, n, rng, cores, evaluate_all)


def fit_whitened_importance(
    design: Design,
    priors: Priors,
    names: ModelNames,
    problem: Callable,
    sampling: Sampling,
    *,
    parameterization: str,
    reason: str,
) -> tuple[xr.DataTree, FitInfo]:
    """Importance sampling of parameters and effects together, around the Laplace approximation.

    Parameters
    ----------
    problem, sampling, parameterization, reason
        As in :func:`fit_whitened`; there is no option.

    Raises
    ------
    SamplingError
        If k-hat is above 0.7, or an option is given.
    DataError
        If only summaries of the random effects are asked for.
    """
    if options := sampling.options:
        raise SamplingError(f"Importance sampling has no option {next(iter(options))!r}.")
    _refuse_summaries(design, sampling)
    start = time.perf_counter()
    expect(np.inf)
    chains, draws = sampling.chains, sampling.draws
    cores = processors() if sampling.cores is None else sampling.cores
    rng = np.random.default_rng(np.random.SeedSequence([sampling.random_seed, 2]))
    with single_threaded_blas():
        density = whitened_posterior(laplace_posterior(design, priors), signed=False)
        sample = whitened_sample(density, 2 * chains * draws, rng, cores)
        check_k_hat(sample.k_hat)
        z = sample.x[sample.resample(chains * draws, rng)].reshape(chains, draws, -1)
        values = joint_values(density, design, priors, names, z, sampling.random_seed)
    sample = replace(sample, log_evidence=sample.log_evidence + density.log_scale)
    info = importance_info(sampling, start, sample, priors, parameterization, reason)
    return assemble(design, names, values, no_stats(chains, draws), info)


class LowDraws(NamedTuple):
    """n draws of the parameters: scalars of the effects, flat factors, phi, coefficients, degrees
    of freedom of effects, and what belongs to covariates with unknown values.
    """

    sds: np.ndarray
    F: np.ndarray
    phi: np.ndarray
    beta: np.ndarray
    nu: np.ndarray
    unknown: joint.UnknownDraws | None = None


def low_draws(density: WhitenedPosterior, z: np.ndarray) -> tuple[LowDraws, np.ndarray]:
    """The parameters at z (n, n_dim), and effects (n, N) in elimination order."""
    *low, effects = joint.natural_draws(np.ascontiguousarray(z), density.arguments)
    return LowDraws(*low), effects


def in_formula(
    laplace: LaplacePosterior, priors: Priors, draws: LowDraws
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Sequence[np.ndarray]]:
    """Coefficients, phi, standard deviations and factors of the formula's columns.

    Parameters
    ----------
    draws : LowDraws
        Of the columns that the priors are about.

    Returns
    -------
    beta : (n, p) array
    phi : (n, n_phi) array
    sds : (n, m) array
    factors : sequence of (n, q_k, q_k) arrays
    """
    beta = draws.beta @ np.linalg.inv(laplace.combinations).T
    phi = draws.phi
    if laplace.ordered:  # thresholds are meant at the means of the predictors
        phi = phi + (beta @ priors.means)[:, None]
    # a standard deviation near zero has a coordinate of either sign
    sds, factors = priors.effect_maps().to_formula(np.abs(draws.sds), laplace.system.split(draws.F))
    return beta, phi, sds, factors


def joint_values(
    density: WhitenedPosterior,
    design: Design,
    priors: Priors,
    names: ModelNames,
    z: np.ndarray,
    random_seed: int = 0,
) -> dict[str, np.ndarray]:
    """Every variable of a posterior, (chains, draws, ...), from z (chains, draws, n_dim).

    Unknown values of two are drawn given everything else.
    """
    shape, maps = z.shape[:2], priors.effect_maps()
    low, effects = low_draws(density, z.reshape(-1, z.shape[-1]))
    beta, phi, sds, factors = in_formula(density.laplace, priors, low)
    columns = (density.symbolic.factor_columns(k) for k in range(len(design.blocks)))
    b = maps.effects([effects[:, at] for at in columns])
    values = {"beta": beta.reshape(*shape, -1)} if design.coef_names else {}
    first = 0
    for own in design.family.parameters:
        part = phi[:, first : first + own.size]
        vector = own.transform == "ordered"
        values[own.key] = part.reshape(*shape, own.size) if vector else part.reshape(shape)
        first += own.size
    if low.nu.shape[1]:
        parts = zip(names.factors, low.nu.T, strict=True)
        values |= {factor.nu: nu.reshape(shape) for factor, nu in parts}
    if (unknown := density.laplace.unknown) is not None and low.unknown is not None:
        x = low.unknown.x
        if unknown.together:
            rng = np.random.default_rng(np.random.SeedSequence([random_seed, 3]))
            flat = np.ascontiguousarray(z.reshape(-1, z.shape[-1]))
            x = unknown.drawn(x, joint.state_chances(flat, density.arguments), rng)
        values |= covariate_values(design, unknown, low.unknown, x, shape)
    return values | factor_values(design, names, sds, factors, b, shape)
