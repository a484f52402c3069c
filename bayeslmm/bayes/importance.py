"""A posterior in the time of a point estimate: importance sampling around the mode.

Proposals come from a split multivariate t distribution (Geweke 1989, Econometrica 57(6), section
5): the curvature at the mode gives the axes, and each axis has a scale of its own on either side,
read off the density, because the posterior of a log standard deviation is skewed. Weights are
Pareto-smoothed (Vehtari, Simpson, Gelman, Yao & Gabry 2024, J. Mach. Learn. Res. 25(72)); their
shape k-hat says whether they can be trusted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import lgamma, log, pi
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.bayes.conditional import posterior_values
from bayeslmm.bayes.fitting import FitInfo, assemble
from bayeslmm.bayes.marginal import MarginalDensity, marginal_density
from bayeslmm.bayes.mode import MODE_EVALUATIONS, Mode, find_mode
from bayeslmm.bayes.names import ModelNames
from bayeslmm.bayes.nuts import processors
from bayeslmm.bayes.sampling import Sampling
from bayeslmm.bayes.shrinkage import scale_draws
from bayeslmm.errors import SamplingError
from bayeslmm.formula import Design
from bayeslmm.gaussian import Problem, single_threaded_blas
from bayeslmm.priors.table import Priors

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "ImportanceSample",
    "check_k_hat",
    "evaluate_all",
    "fit_importance",
    "importance_info",
    "importance_sample",
    "no_stats",
    "split_t",
    "weighted_sample",
]

#: Above this k-hat the weights' mean does not settle at any affordable number of draws.
MAX_K_HAT = 0.7

#: One round of adaptation is tried above this k-hat.
_ADAPT_ABOVE = 0.5

#: Degrees of freedom: heavy tails are needed where a standard deviation may be near zero.
_DF = 5.0

#: Distances along each axis, in curvature standard deviations, at which scales are read off: near
#: the center so that the proposal is as wide as the density, farther out so that it stays above.
_NEAR, _FAR = np.array([1.0, 2.0]), np.array([3.0, 4.0, 6.0, 8.0])
_NARROWEST, _WIDEST = 0.5, 5.0

#: Draws of (beta, b) per random stream: the result does not depend on the number of threads.
_DRAWS_PER_STREAM = 20


@dataclass(frozen=True)
class SplitT:
    """x = center + axes e, e_i = |t_i| right_i or -|t_i| left_i, t spherical Student t.

    Attributes
    ----------
    center : (d,) array
    axes : (d, d) array
    left, right : (d,) arrays
        Scales on either side of each axis.
    df : float
    """

    center: np.ndarray
    axes: np.ndarray
    left: np.ndarray
    right: np.ndarray
    df: float

    def draw(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """n draws (n, d) and their log densities (n,)."""
        d = len(self.center)
        t = np.abs(rng.standard_normal((n, d)))
        t /= np.sqrt(rng.chisquare(self.df, n) / self.df)[:, None]
        # sides in proportion to their scales: the density is then continuous at the center
        up = rng.random((n, d)) < self.right / (self.left + self.right)
        x = self.center + np.where(up, t * self.right, -t * self.left) @ self.axes.T
        half = 0.5 * (self.df + d)
        constant = lgamma(half) - lgamma(0.5 * self.df) - 0.5 * d * log(self.df * pi)
        constant += d * log(2.0) - np.log(self.left + self.right).sum()
        constant -= np.linalg.slogdet(self.axes)[1]
        return x, constant - half * np.log1p((t**2).sum(axis=1) / self.df)


@dataclass(frozen=True)
class ImportanceSample:
    """Proposals with their weights.

    Attributes
    ----------
    x : (n, d) array
    log_weights : (n,) array
        Pareto-smoothed, normalized to sum to one.
    k_hat : float
    log_evidence, log_evidence_error : float
        Log of the mean unnormalized weight, and its Monte Carlo standard error.
    fixed, effects : (n, p) and (n, N) arrays or None
        An exact draw of (beta, b) at each x, in the coordinates computed with.
    """

    x: np.ndarray
    log_weights: np.ndarray
    k_hat: float
    log_evidence: float
    log_evidence_error: float
    fixed: np.ndarray | None = None
    effects: np.ndarray | None = None

    @property
    def effective_draws(self) -> float:
        """1 / sum of squared weights."""
        return float(np.exp(-_log_sum(2 * self.log_weights)))

    def resample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Rows of n draws with equal weights, systematically (least noise), in random order."""
        cumulative = np.cumsum(np.exp(self.log_weights))
        at = (rng.random() + np.arange(n)) / n * cumulative[-1]
        return rng.permutation(np.searchsorted(cumulative, at))


def split_t(density: MarginalDensity, mode: Mode, df: float = _DF) -> SplitT:
    """A proposal from the density's mode, curvature and skewness.

    Costs 12 evaluations of the density per dimension.

    Notes
    -----
    A Gaussian that falls by ``drop`` at distance s has scale s / sqrt(2 drop); along an axis
    through the center the t density falls by (df + d)/2 log(1 + s^2 / (df scale^2)), which is much
    less far out. The first is asked for near the center, the second in the tails: the Gaussian's
    scale there would be too wide by a half for a skewed density.
    """
    d = density.n_dim
    values, vectors = np.linalg.eigh(mode.scale @ mode.scale.T)
    axes = vectors * np.sqrt(values)
    distances = np.concatenate((_NEAR, _FAR))
    steps = np.concatenate((-distances, distances))
    points = mode.x + (steps[:, None, None] * axes.T[None]).reshape(-1, d)
    drop = (mode.log_density - density.values(points)).reshape(2, len(distances), d)
    near, far = drop[:, : len(_NEAR)], drop[:, len(_NEAR) :]
    with np.errstate(all="ignore"):
        near = _NEAR[:, None] / np.sqrt(2.0 * near)
        far = _FAR[:, None] / np.sqrt(df * np.expm1(2.0 * far / (df + d)))
    scale = np.concatenate((near, far), axis=1)
    scale = np.where(np.isnan(scale), _WIDEST, scale)
    left, right = np.clip(scale.max(axis=1), _NARROWEST, _WIDEST)
    return SplitT(mode.x, axes, left, right, df)


def importance_sample(
    density: MarginalDensity,
    mode: Mode,
    n: int,
    rng: np.random.Generator,
    cores: int = 1,
    draw_rest: bool = False,
) -> ImportanceSample:
    """n weighted draws; one round of adaptation where the first proposal is poor.

    Parameters
    ----------
    cores : int
        Threads that evaluate the density; the result does not depend on it.
    draw_rest : bool
        Draw (beta, b) with each proposal, from the factorization that gives its density. (x, beta,
        b) is then weighted as a whole, with the weight of x, because the rest comes from its exact
        conditional distribution.
    """
    evaluate = _evaluate_and_draw if draw_rest else evaluate_all
    first = weighted_sample(density, split_t(density, mode), n, rng, cores, evaluate)
    if first.k_hat <= _ADAPT_ABOVE:
        return first
    weights = np.exp(first.log_weights)
    center = weights @ first.x
    gap = first.x - center
    covariance = (gap.T * weights) @ gap
    if not np.isfinite(covariance).all() or np.linalg.eigvalsh(covariance)[0] <= 0:
        return first
    # the covariance of a t distribution is df / (df - 2) times its squared scale
    root = np.linalg.cholesky(covariance) * np.sqrt((_DF - 2) / _DF) * 1.1
    ones = np.ones(density.n_dim)
    second = weighted_sample(
        density, SplitT(center, root, ones, ones, _DF), n, rng, cores, evaluate
    )
    return second if second.k_hat < first.k_hat else first


def weighted_sample(density, proposal, n: int, rng, cores: int, evaluate) -> ImportanceSample:
    """n draws of a proposal, weighted by a density.

    Parameters
    ----------
    density : object
        What ``evaluate`` takes.
    proposal : object
        Its ``draw(n, rng)`` gives draws and their log densities.
    evaluate : callable
        As :func:`evaluate_all`.

    Raises
    ------
    SamplingError
        If almost no draw has a finite density.
    """
    from arviz_stats.base import array_stats

    x, log_q = proposal.draw(n, rng)
    values, fixed, effects = evaluate(density, x, cores, rng)
    raw = values - log_q
    raw = np.where(np.isfinite(raw), raw, -np.inf)
    if np.isfinite(raw).sum() < 10:
        raise SamplingError(
            "Importance sampling found almost no point of finite posterior density. Use "
            'method="nuts".'
        )
    top = raw.max()
    floor = np.maximum(raw, top - 700.0)  # the smoother wants finite numbers
    try:
        smoothed, k_hat = array_stats.psislw(-(floor - top))  # it takes negative log weights
    except ValueError:  # one draw has all the weight: there is no tail to fit
        smoothed, k_hat = floor - top, np.inf
    smoothed = np.asarray(smoothed) - _log_sum(np.asarray(smoothed))
    # psislw normalizes: the scale comes back from the weights it left alone, the lower ones
    below = np.argsort(floor)[: n // 2]
    offset = np.median((floor - smoothed)[below])
    relative = np.exp(smoothed) * n
    return ImportanceSample(
        x,
        smoothed,
        float(k_hat),
        float(offset - np.log(n)),
        float(np.std(relative) / np.sqrt(n)),
        fixed,
        effects,
    )


def _evaluate_and_draw(density: MarginalDensity, x, cores, rng):
    """Log densities (n,), fixed (n, p) and effects (n, N), each row from one factorization."""
    n, system = len(x), density.system
    values, fixed = np.empty(n), np.empty((n, system.p))
    effects = np.empty((n, system.n_normals - system.p))
    starts = range(0, n, _DRAWS_PER_STREAM)

    def run(start, stream):
        for i in range(start, min(start + _DRAWS_PER_STREAM, n)):
            normals = stream.standard_normal(system.n_normals)
            values[i], fixed[i], effects[i] = density.value_and_draw(x[i], normals)

    with ThreadPoolExecutor(max(1, cores)) as pool:
        list(pool.map(run, starts, rng.spawn(len(starts))))
    return values, fixed, effects


def evaluate_all(density: MarginalDensity, x, cores, rng):
    """Log densities (n,) alone."""
    parts = np.array_split(x, max(1, min(cores, len(x) // 50)))
    if len(parts) == 1:
        return density.values(x), None, None
    with ThreadPoolExecutor(len(parts)) as pool:
        return np.concatenate(list(pool.map(density.values, parts))), None, None


def _log_sum(values: np.ndarray) -> float:
    top = values.max()
    return float(top + np.log(np.exp(values - top).sum()))


def fit_importance(
    design: Design,
    priors: Priors,
    names: ModelNames,
    problem: Callable[[], Problem],
    sampling: Sampling,
    *,
    parameterization: str,
    reason: str,
) -> tuple[xr.DataTree, FitInfo]:
    """Importance sampling of the covariance parameters, then exact draws of beta and b.

    Parameters
    ----------
    sampling : Sampling
        chains x draws resampled draws. There is no warm-up, little to wait for, and no option.
    problem, parameterization, reason
        As in :func:`bayeslmm.bayes.marginal_fitting.fit_marginal`.

    Raises
    ------
    SamplingError
        If k-hat is above 0.7, or an option is given.
    """
    if options := sampling.options:
        raise SamplingError(f"Importance sampling has no option {next(iter(options))!r}.")
    start = time.perf_counter()
    draws, chains, random_seed = sampling.draws, sampling.chains, sampling.random_seed
    cores = processors() if sampling.cores is None else sampling.cores
    density = marginal_density(design, priors, problem(), rotate=True)
    rng = np.random.default_rng(np.random.SeedSequence([random_seed, 2]))
    # twice as many proposals as draws, so that few are repeated, unless each is expensive
    n = chains * draws * (2 if density.is_cheap else 1)
    ahead = MODE_EVALUATIONS + n
    with single_threaded_blas(), density.steady(ahead, design, random_seed):
        # where a dense factorization is most of the cost, one serves the weight and the draw
        sample = importance_sample(
            density, find_mode(density), n, rng, cores, draw_rest=density.draws_with_value
        )
        check_k_hat(sample.k_hat)
        rows = sample.resample(chains * draws, rng)
        drawn = None
        if sample.effects is not None:
            drawn = density.system.drawn(sample.fixed[rows], sample.effects[rows])
        values = posterior_values(
            density.given(sample.x[rows]), design, names, chains=chains,
            random_seed=random_seed, cores=cores, drawn=drawn,
            random_effects=sampling.random_effects,
        )  # fmt: skip
        more = scale_draws(priors.shrinkage, density, sample.x[rows], chains)
    info = importance_info(sampling, start, sample, priors, parameterization, reason)
    return assemble(design, names, values, no_stats(chains, draws), info, more)


def importance_info(
    sampling: Sampling,
    start: float,
    sample: ImportanceSample,
    priors: Priors,
    parameterization: str,
    reason: str,
) -> FitInfo:
    """The record of a fit by importance sampling, begun at `start`."""
    proper = all(prior.is_proper for prior in priors.values())
    return FitInfo.of(
        sampling,
        start,
        method="importance",
        parameterization=parameterization,
        reason=reason,
        tune=0,
        sampler="importance sampling",
        k_hat=sample.k_hat,
        effective_draws=min(sample.effective_draws, sampling.chains * sampling.draws),
        log_marginal_likelihood=sample.log_evidence if proper else None,
        log_marginal_likelihood_error=sample.log_evidence_error if proper else None,
    )


def check_k_hat(k_hat: float) -> None:
    """Refuse weights that cannot be trusted.

    Raises
    ------
    SamplingError
        If k-hat is above 0.7 or not a number.
    """
    if not k_hat <= MAX_K_HAT:
        raise SamplingError(
            f"The importance weights have k-hat {k_hat:.2f}, above {MAX_K_HAT}: the proposal "
            'misses part of the posterior, and the draws would mislead. Use method="nuts".'
        )


def no_stats(chains: int, draws: int) -> xr.Dataset:
    """Importance sampling has no divergences: zeros, so that every tree has the group."""
    import xarray as xr

    none = np.zeros((chains, draws), dtype=bool)
    return xr.Dataset(
        {"diverging": (("chain", "draw"), none)},
        coords={"chain": np.arange(chains), "draw": np.arange(draws)},
    )
