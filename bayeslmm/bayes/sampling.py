"""NUTS on the hierarchical PyMC model."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

from bayeslmm.errors import SamplingError

if TYPE_CHECKING:
    import pymc as pm
    import xarray as xr

__all__ = ["check_sampler_arguments", "quiet_pymc", "sample_model"]

#: What NUTS reports per draw that is kept with the fit.
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


def check_sampler_arguments(draws: int, tune: int, chains: int) -> None:
    """Refuse numbers no sampler can work with.

    Raises
    ------
    SamplingError
        If draws, tune or chains is not a whole number in range.
    """
    for name, value, least in (("draws", draws, 4), ("tune", tune, 1), ("chains", chains, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise SamplingError(
                f"{name} must be a whole number of at least {least}, not {value!r}."
            )


def quiet_pymc():
    """PyMC, imported without its remarks on how it was installed."""
    logging.getLogger("pytensor.tensor.blas").setLevel(logging.ERROR)
    logging.getLogger("pytensor.configdefaults").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pymc
    return pymc


def sample_model(
    model: pm.Model,
    variables: list[str],
    *,
    draws: int,
    tune: int,
    chains: int,
    cores: int | None,
    random_seed: int | None,
    progressbar: bool,
    options: dict[str, Any],
) -> tuple[xr.Dataset, xr.Dataset]:
    """Run ``pm.sample`` and keep what every posterior has.

    Parameters
    ----------
    model : pymc.Model
    variables : list of str
        Variables to store.
    draws, tune, chains : int
        Draws kept and warm-up draws per chain, number of chains.
    cores : int or None
        Chains run side by side.
    random_seed : int or None
    progressbar : bool
    options : dict
        Passed to ``pm.sample`` as they are.

    Returns
    -------
    posterior, sample_stats : xarray.Dataset
        With dimensions (chain, draw, ...).

    Raises
    ------
    SamplingError
        If the sampler fails or is interrupted before every chain has its draws.
    """
    pm = quiet_pymc()
    logger = logging.getLogger("pymc")
    level = logger.level
    if not progressbar:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="pytensor")
            tree = pm.sample(
                draws=draws,
                tune=tune,
                chains=chains,
                cores=cores,
                random_seed=random_seed,
                progressbar=progressbar,
                model=model,
                var_names=variables,
                compute_convergence_checks=False,
                **options,
            )
    except KeyboardInterrupt:
        raise
    except TypeError as err:
        raise SamplingError(f"A sampler option was not understood: {err}") from err
    except (RuntimeError, ValueError, ArithmeticError) as err:
        raise SamplingError(
            f"NUTS could not run: {err}. Look at the priors (print(model.priors)) and the scale of "
            "the columns."
        ) from err
    finally:
        logger.setLevel(level)
    posterior = tree["posterior"].to_dataset()[variables]
    _refuse_incomplete(posterior, draws, chains)
    stats = tree["sample_stats"].to_dataset()
    kept = [name for name in _KEPT_STATS if name in stats and set(stats[name].dims) == _SAMPLE]
    return posterior, stats[kept]


_SAMPLE = {"chain", "draw"}


def _refuse_incomplete(posterior: xr.Dataset, draws: int, chains: int) -> None:
    """An interrupted run comes back padded with NaN, or shorter."""
    complete = posterior.sizes["draw"] == draws and posterior.sizes["chain"] == chains
    if not complete or bool(posterior["sigma"].isnull().any()):
        raise SamplingError(
            "Sampling was stopped before every chain had its draws; nothing is returned. Ask for "
            "fewer draws, or let it finish."
        )
