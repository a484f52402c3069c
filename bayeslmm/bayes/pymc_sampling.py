"""NUTS on PyMC models: on C functions kept on disk, or by ``pm.sample``."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.bayes.graph_density import graph_density
from bayeslmm.bayes.nuts import (
    NUTS_OPTIONS,
    STOPPED,
    drawn,
    failures,
    kept_stats,
    sampler_arguments,
)
from bayeslmm.bayes.sampling import PYMC_TUNE, Sampling, quiet_pymc
from bayeslmm.errors import SamplingError

if TYPE_CHECKING:
    import pymc as pm
    import xarray as xr

__all__ = ["sample_model"]

#: Acceptance rate aimed at where none is asked for: that of ``pm.sample``.
_TARGET_ACCEPT = 0.8


def sample_model(
    model: pm.Model, variables: list[str], sampling: Sampling
) -> tuple[dict[str, np.ndarray], xr.Dataset]:
    """Draws of a model's variables.

    Parameters
    ----------
    model : pymc.Model
    variables : list of str
        Variables to keep.
    sampling : Sampling
        With options beyond ``target_accept`` and ``max_treedepth``, ``pm.sample`` makes the draws,
        and is passed all of them.

    Returns
    -------
    draws : dict of ndarray, shape (chains, draws, ...)
    sample_stats : xarray.Dataset
        With dimensions (chain, draw).

    Raises
    ------
    SamplingError
        If the sampler fails or is interrupted before every chain has its draws.
    """
    quiet_pymc()
    with _quiet(sampling.progressbar), failures():
        plain = NUTS_OPTIONS.issuperset(sampling.options)
        ready = graph_density(model, variables) if plain else None
        if ready is None:
            return _by_pymc(model, variables, sampling)
        tune = sampling.warm_up(PYMC_TUNE)
        arguments = sampler_arguments(sampling, tune=tune, accept=_TARGET_ACCEPT)
        kept, stats = drawn(ready, **arguments)
        draws = ready.split(kept)
        _refuse_incomplete(draws, sampling)
        return draws, kept_stats(stats)


def _by_pymc(
    model: pm.Model, variables: list[str], sampling: Sampling
) -> tuple[dict[str, np.ndarray], xr.Dataset]:
    import pymc as pm

    try:
        tree = pm.sample(
            draws=sampling.draws,
            tune=sampling.warm_up(PYMC_TUNE),
            chains=sampling.chains,
            cores=sampling.cores,
            random_seed=sampling.random_seed,
            progressbar=sampling.progressbar,
            model=model,
            var_names=variables,
            compute_convergence_checks=False,
            **sampling.options,
        )
    except TypeError as err:
        raise SamplingError(f"A sampler option was not understood: {err}") from err
    sampled = tree["posterior"].to_dataset()[variables].transpose("chain", "draw", ...)
    draws = {name: sampled[name].to_numpy() for name in variables}
    _refuse_incomplete(draws, sampling)
    stats = tree["sample_stats"].to_dataset()
    kept = [name for name in _KEPT_STATS if name in stats and set(stats[name].dims) == _SAMPLE]
    return draws, stats[kept]


#: What NUTS of ``pm.sample`` reports per draw that is kept with the fit.
_KEPT_STATS = (
    "diverging",
    "energy",
    "lp",
    "logp",
    "n_steps",
    "tree_depth",
    "depth",
    "step_size",
    "acceptance_rate",
    "mean_tree_accept",
)
_SAMPLE = {"chain", "draw"}


@contextmanager
def _quiet(progressbar: bool) -> Iterator[None]:
    """Without remarks of PyMC and PyTensor on how they compile."""
    logger = logging.getLogger("pymc")
    level = logger.level
    if not progressbar:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="pytensor")
            yield
    finally:
        logger.setLevel(level)


def _refuse_incomplete(draws: dict[str, np.ndarray], sampling: Sampling) -> None:
    """An interrupted run comes back padded with NaN, or shorter."""
    first = next(iter(draws.values()))
    complete = first.shape[:2] == (sampling.chains, sampling.draws)
    if not complete or np.isnan(first).any():
        raise SamplingError(STOPPED)
