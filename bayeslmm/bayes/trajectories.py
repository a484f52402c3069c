"""Hamiltonian Monte Carlo with one exact evaluation per draw, where evaluations are expensive.

A leapfrog step whose force is any function of the position is reversible and preserves volume. So a
trajectory may follow the gradient of a surrogate (:mod:`bayeslmm.bayes.surrogate`), at no cost that
counts, and its end is accepted or refused by the exact density: the posterior is exact, however
good the surrogate is, and the surrogate costs acceptance only (Rasmussen 2003, Bayesian Statistics
7, 651-659; Neal 2011, Handbook of Markov Chain Monte Carlo, section 5.5.5 has the argument).

NUTS needs five or so values *and gradients* per draw of a model with a dense matrix; a gradient
costs twice a value there, and the exact draw of (beta, b) that belongs to a draw another
factorization. Here one factorization serves the acceptance and the draw of (beta, b).

In whitened coordinates a standard normal turns by its path length: a quarter turn ends at a point
independent of the start. Lengths vary around that, and one in ten is short, so that a chain in a
tail the surrogate does not know can leave it by small steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeslmm.bayes.marginal import MarginalDensity
from bayeslmm.bayes.mode import Mode
from bayeslmm.bayes.nuts import STOPPED, log_density, processors
from bayeslmm.bayes.sampling import Sampling
from bayeslmm.bayes.signed import fold, mirror, signed_mode
from bayeslmm.bayes.surrogate import Surrogate, fit_surrogate, follow, path_length
from bayeslmm.errors import SamplingError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["SURROGATE_TUNE", "Trajectories", "sample_trajectories"]

#: Draws thrown away per chain: draws are nearly independent, and starts come from a normal
#: approximation.
SURROGATE_TUNE = 30

#: Below this average acceptance another sampler does better.
_LEAST_ACCEPTANCE = 0.6

#: Attempts at a starting point of finite density.
_STARTS = 20


@dataclass(frozen=True)
class Trajectories:
    """Draws of the covariance parameters, and of the rest given them.

    Attributes
    ----------
    x : (chains, draws, d) array
        In log coordinates.
    fixed, effects : (chains x draws, p) and (chains x draws, N) arrays, or None
        Exact draws of (beta, b) given x, as computed with.
    stats : xarray.Dataset
    acceptance : float
        Average probability of acceptance.
    """

    x: np.ndarray
    fixed: np.ndarray | None
    effects: np.ndarray | None
    stats: xr.Dataset
    acceptance: float


def sample_trajectories(
    density: MarginalDensity, mode: Mode, sampling: Sampling, *, draw_rest: bool = True
) -> Trajectories | None:
    """Draws of the covariance parameters and, with the same factorizations, of (beta, b).

    Parameters
    ----------
    density : MarginalDensity
        In log coordinates, with a dense matrix in it (``density.draws_with_value``).
    mode : Mode
        Of that density.
    sampling : Sampling
        Without options.
    draw_rest : bool
        Draw (beta, b) too.

    Returns
    -------
    Trajectories or None
        None where no surrogate is good enough; NUTS then does better.

    Raises
    ------
    SamplingError
        If the density is not finite where chains start, or sampling is stopped.
    """
    sampled, center = signed_mode(density, mode)
    draws, tune, chains = sampling.draws, sampling.warm_up(SURROGATE_TUNE), sampling.chains
    cores = processors() if sampling.cores is None else sampling.cores
    surrogate = fit_surrogate(
        log_density(sampled, center),
        mirror(sampled, center),
        random_seed=sampling.random_seed,
        cores=cores,
    )
    if surrogate is None:
        return None
    stop = Event()
    streams = np.random.SeedSequence([sampling.random_seed, 4]).spawn(chains)
    with (
        _progress(chains * (draws + tune), sampling.progressbar) as advance,
        ThreadPoolExecutor(max(1, min(chains, cores))) as pool,
    ):
        running = [
            pool.submit(
                _chain, _Target(sampled, surrogate, draw_rest),
                np.random.Generator(np.random.SFC64(s)), draws, tune, stop, advance,
            )
            for s in streams
        ]  # fmt: skip
        try:
            wait(running)
        except KeyboardInterrupt:
            stop.set()
            raise SamplingError(STOPPED) from None
    z, values, fixed, effects, stats = (
        np.stack(parts) for parts in zip(*(chain.result() for chain in running), strict=True)
    )
    acceptance = float(stats[..., 1].mean())
    if acceptance < _LEAST_ACCEPTANCE:
        return None
    x, log_jacobian = fold(sampled, center.x + z @ center.scale.T)
    n = chains * draws
    return Trajectories(
        x,
        fixed.reshape(n, -1) if draw_rest else None,
        effects.reshape(n, -1) if draw_rest else None,
        _stats(values + log_jacobian, stats),
        acceptance,
    )


@dataclass(frozen=True)
class _Target:
    """The exact density in whitened coordinates, with its surrogate."""

    density: MarginalDensity
    surrogate: Surrogate
    draw_rest: bool

    def at(self, z: np.ndarray, rng: np.random.Generator, rest: bool):
        """Log density, and a draw of (fixed, effects) where asked for."""
        coordinates = self.surrogate.coordinates
        x = coordinates.center + coordinates.scale @ z
        if not (rest and self.draw_rest):
            return self.density.value(x), np.empty(0), np.empty(0)
        return self.density.value_and_draw(x, rng.standard_normal(self.density.system.n_normals))

    def start(self, rng: np.random.Generator):
        """A point of finite density and its value."""
        for _ in range(_STARTS):
            z = rng.standard_normal(self.density.n_dim)
            value = self.at(z, rng, False)[0]
            if np.isfinite(value):
                return z, value
        raise SamplingError(
            "The posterior density is not finite around its mode. Look at the priors "
            "(print(model.priors)) and the scale of the columns."
        )


def _chain(target: _Target, rng, draws: int, tune: int, stop: Event, advance):
    """z (draws, d), log densities, fixed, effects and (energy, acceptance, steps) of one chain."""
    z, value = target.start(rng)
    rest: Any = None
    d = len(z)
    kept_z, kept_values, kept_stats = np.empty((draws, d)), np.empty(draws), np.empty((draws, 3))
    fixed = effects = np.empty((draws, 0))
    for i in range(-tune, draws):
        if stop.is_set():
            break
        p = rng.standard_normal(d)
        new, momentum, n_steps = follow(target.surrogate, z, p, path_length(rng))
        found, *drawn = target.at(new, rng, i >= 0)
        gain = found - value + 0.5 * (p @ p - momentum @ momentum)
        rate = float(np.exp(min(gain, 0.0))) if np.isfinite(gain) else 0.0
        if rng.random() < rate:
            z, value, rest = new, found, drawn
        elif i >= 0 and rest is None:  # refused before anything was kept
            rest = target.at(z, rng, True)[1:]
        if i == 0 and target.draw_rest:
            fixed, effects = (np.empty((draws, len(part))) for part in rest)
        if i >= 0:
            kept_z[i], kept_values[i] = z, value
            kept_stats[i] = 0.5 * p @ p - value, rate, n_steps
            if target.draw_rest:
                fixed[i], effects[i] = rest
        else:
            rest = None
        advance()
    return kept_z, kept_values, fixed, effects, kept_stats


def _stats(lp: np.ndarray, stats: np.ndarray) -> xr.Dataset:
    import xarray as xr

    chains, draws = lp.shape
    dims = "chain", "draw"
    return xr.Dataset(
        {
            "lp": (dims, lp),
            "energy": (dims, stats[..., 0]),
            "acceptance_rate": (dims, stats[..., 1]),
            "n_steps": (dims, stats[..., 2].astype(np.int64)),
            "diverging": (dims, np.zeros(lp.shape, dtype=bool)),
        },
        coords={"chain": np.arange(chains), "draw": np.arange(draws)},
    )


@contextmanager
def _progress(total: int, show: bool) -> Iterator:
    """A bar on the error stream; gives what counts a draw of any chain."""
    if not show:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Sampling", total=total)
        yield lambda: bar.advance(task)
