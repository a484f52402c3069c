"""NUTS on the marginal density, through nutpie.

The chain moves in z with x = mode + scale z, where the posterior is near a standard normal: the
curvature at the mode is the metric, so warm-up has little left to learn. A standard deviation whose
posterior reaches zero gets a coordinate of its own for that (:mod:`bayeslmm.bayes.signed`); draws
come back in the density's own coordinates.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeslmm.bayes.marginal import MarginalDensity, foresee
from bayeslmm.bayes.mode import Mode
from bayeslmm.bayes.sampling import Sampling
from bayeslmm.bayes.signed import fold, signed_mode
from bayeslmm.compiling import interpreting
from bayeslmm.errors import BayesLMMError, SamplingError

if TYPE_CHECKING:
    import xarray as xr

    from bayeslmm.bayes.compiled import CallbackDensity, CompiledDensity

__all__ = [
    "DRAW_EVALUATIONS",
    "MARGINAL_TUNE",
    "NUTS_OPTIONS",
    "STOPPED",
    "drawn",
    "failures",
    "kept_stats",
    "log_density",
    "nuts_options",
    "processors",
    "run_chains",
    "sample_density",
    "sampler_arguments",
]

#: Warm-up draws per chain where none are asked for, and the acceptance rate aimed at: a metric from
#: the curvature leaves little to learn, and long steps pay (sleepstudy, smallest effective sample
#: size per gradient: 0.25 at 0.7, 0.21 at 0.8, 0.14 at 0.9). Where a standard deviation reaches
#: zero the curvature changes more, and under a light-tailed prior some long steps diverge: 0.9.
MARGINAL_TUNE = 150
_TARGET_ACCEPT = 0.7
_TARGET_ACCEPT_NEAR_ZERO = 0.9

#: Evaluations that a draw usually takes.
DRAW_EVALUATIONS = 4

STOPPED = (
    "Sampling was stopped before every chain had its draws; nothing is returned. Ask for fewer "
    "draws, or let it finish."
)

_OPTIONS = {"target_accept": "target_accept", "max_treedepth": "maxdepth"}
NUTS_OPTIONS = frozenset(_OPTIONS)

#: Statistics kept, under PyMC's names.
_STATS = {
    "diverging": "diverging",
    "energy": "energy",
    "logp": "lp",
    "n_steps": "n_steps",
    "depth": "tree_depth",
    "step_size": "step_size",
    "mean_tree_accept": "acceptance_rate",
}


def nuts_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Sampler options under nutpie's names, defaults filled in.

    Raises
    ------
    SamplingError
        If an option does not exist here or its value is out of range.
    """
    unknown = [name for name in options if name not in _OPTIONS]
    if unknown:
        raise SamplingError(
            f"The marginal sampler has no option {unknown[0]!r}. Its options: "
            f'{", ".join(_OPTIONS)}. Options of pm.sample go with parameterization="noncentered".'
        )
    accept = options.get("target_accept", _TARGET_ACCEPT)
    if not (isinstance(accept, float) and 0 < accept < 1):
        raise SamplingError(f"target_accept must be a number between 0 and 1, not {accept!r}.")
    depth = options.get("max_treedepth", 10)
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
        raise SamplingError(f"max_treedepth must be a positive whole number, not {depth!r}.")
    chosen = {"target_accept": accept, "max_treedepth": depth}
    return {_OPTIONS[name]: value for name, value in chosen.items()}


def sample_density(
    density: MarginalDensity, mode: Mode, sampling: Sampling
) -> tuple[np.ndarray, xr.Dataset]:
    """Draws of the unconstrained covariance parameters.

    Parameters
    ----------
    density : MarginalDensity
        In log coordinates, as :func:`bayeslmm.bayes.marginal.marginal_density` makes it.
    mode : Mode
        Of that density.
    sampling : Sampling
        Its options are ``target_accept`` and ``max_treedepth``.

    Returns
    -------
    x : ndarray, shape (chains, draws, d)
        In log coordinates.
    sample_stats : xarray.Dataset
        ``lp`` is the log density of x up to log p(y); ``energy`` is that of the coordinates sampled
        in.

    Raises
    ------
    SamplingError
        If the sampler fails, or is stopped before every chain has its draws.
    """
    sampled, center = signed_mode(density, mode)
    accept = _TARGET_ACCEPT if sampled is density else _TARGET_ACCEPT_NEAR_ZERO
    tune = sampling.warm_up(MARGINAL_TUNE)
    foresee(density, DRAW_EVALUATIONS * sampling.chains * (sampling.draws + tune), mode.x)

    def ready(initial_point: Callable) -> CompiledDensity | None:
        from bayeslmm.bayes.compiled import compiled_density

        if sampled.compiled is None:
            return None
        return compiled_density(sampled, center, initial_point)

    z, stats = run_chains(
        sampled.n_dim, log_density(sampled, center), ready, sampling, tune=tune, accept=accept
    )
    x, log_jacobian = fold(sampled, center.x + z @ center.scale.T)
    kept = kept_stats(stats)
    if "lp" in kept:
        kept["lp"] = kept["lp"] + log_jacobian
    return x, kept


def run_chains(
    size: int,
    evaluate: Callable,
    ready: Callable,
    sampling: Sampling,
    *,
    tune: int,
    accept: float,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """NUTS on a density that is near a standard normal.

    Parameters
    ----------
    size : int
        Dimensions.
    evaluate : callable
        z to (log density, gradient).
    ready : callable
        From what gives starting points to a :class:`bayeslmm.bayes.compiled.CompiledDensity`, or
        None where there is no C function.
    tune : int
        Draws of warm-up.
    accept : float
        Acceptance rate aimed at unless the options say otherwise.

    Returns
    -------
    z : ndarray, shape (chains, draws, size)
    stats : dict of ndarray, shape (chains, draws)

    Raises
    ------
    SamplingError
        If the sampler fails, or is stopped before every chain has its draws.
    """
    errors: list[Exception] = []
    arguments = sampler_arguments(sampling, tune=tune, accept=accept)
    if interpreting():
        arguments["cores"] = 1  # chains would only wait for each other's Python
    with failures():
        z, stats = _sample(size, _guarded(evaluate, size, errors), ready, **arguments)
    if errors:
        raise SamplingError(f"The posterior density failed: {errors[0]}") from errors[0]
    if z.shape[:2] != (sampling.chains, sampling.draws) or not np.all(np.isfinite(z)):
        raise SamplingError(STOPPED)
    return z, stats


def sampler_arguments(sampling: Sampling, *, tune: int, accept: float) -> dict[str, Any]:
    """What nutpie is asked for, under its names, as :func:`run_chains` says."""
    chains, cores = sampling.chains, sampling.cores
    return {
        "draws": sampling.draws,
        "tune": tune,
        "chains": chains,
        "cores": min(chains, processors() if cores is None else cores),
        "seed": sampling.random_seed % 2**63,
        "progress_bar": sampling.progressbar,
        **nuts_options({"target_accept": accept, **sampling.options}),
    }


@contextmanager
def failures() -> Iterator[None]:
    """Failures of a sampler as errors of ours."""
    try:
        yield
    except BayesLMMError:
        raise
    except (RuntimeError, ValueError, ArithmeticError) as err:
        text = str(err).split("Stack backtrace")[0].strip()
        raise SamplingError(
            f"NUTS could not run: {text}. Look at the priors (print(model.priors)) and the scale "
            "of the columns."
        ) from err


def _sample(size: int, logp: Callable, make_ready: Callable, **arguments: Any):
    """As a C function where that is possible, as a Python callback otherwise."""
    from bayeslmm.bayes import compiled

    def initial_point(seed) -> np.ndarray:
        return np.random.default_rng(seed).standard_normal(size)

    ready: CompiledDensity | CallbackDensity
    ready = callback = compiled.CallbackDensity(size, initial_point, logp)
    if not compiled.supported():
        return _through_nutpie(_public_model(callback), **arguments)
    ready = make_ready(initial_point) or callback
    return drawn(ready, **arguments)


def drawn(
    ready: CompiledDensity | CallbackDensity, **arguments: Any
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What is kept of draws, and statistics, as :func:`bayeslmm.bayes.compiled.sample` has them."""
    from bayeslmm.bayes import compiled

    if not (arguments["progress_bar"] and _in_notebook()):
        return compiled.sample(ready, **arguments)
    return _through_nutpie(compiled.compiled_model(ready), **arguments)


def _through_nutpie(model: Any, **arguments: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    import nutpie

    tree = nutpie.sample(model, save_warmup=False, **arguments)
    stats = tree["sample_stats"].to_dataset()
    z = tree["posterior"]["z"].transpose("chain", "draw", ...).to_numpy()
    kept = [name for name in _STATS if name in stats]
    return z, {name: stats[name].transpose("chain", "draw").to_numpy() for name in kept}


def _in_notebook() -> bool:
    """nutpie then shows a table of its own instead of a line in the terminal."""
    return "ipykernel" in sys.modules or "marimo" in sys.modules


def _guarded(evaluate: Callable, size: int, errors: list[Exception]) -> Callable:
    """z to (log density, gradient).

    An exception inside would end in a panic of the sampler: it is kept, and the point is
    divergent.
    """
    nothing = np.full(size, np.nan)

    def logp(z):
        try:
            return evaluate(z)
        except Exception as err:  # raised again after sampling
            errors.append(err)
            return np.nan, nothing

    return logp


def _public_model(callback: CallbackDensity):
    """nutpie's own model around a Python callback."""
    from nutpie.compiled_pyfunc import from_pyfunc

    from bayeslmm.bayes.compiled import keep_z

    return from_pyfunc(
        callback.size,
        lambda: callback.logp,
        keep_z,
        [np.dtype("float64")],
        [(callback.size,)],
        ["z"],
        coords=callback.coords,
        dims={"z": ("coordinate",)},
        make_initial_point_fn=callback.initial_point,
    )


def log_density(density: MarginalDensity, mode: Mode) -> Callable:
    """z to (log density of x, gradient in z)."""
    center, scale, transposed = mode.x, mode.scale, np.ascontiguousarray(mode.scale.T)

    def evaluate(z):
        value, gradient = density(center + scale @ z)
        return float(value), transposed @ gradient

    return evaluate


def kept_stats(stats: Mapping[str, np.ndarray]) -> xr.Dataset:
    """Statistics (chains, draws) of the sampler under PyMC's names."""
    import xarray as xr

    found = {new: (("chain", "draw"), stats[old]) for old, new in _STATS.items() if old in stats}
    chains, draws = next(iter(found.values()))[1].shape
    return xr.Dataset(found, coords={"chain": np.arange(chains), "draw": np.arange(draws)})


def processors() -> int:
    """Processors this process may use."""
    count = getattr(os, "process_cpu_count", os.cpu_count)()
    return count or 1
