"""What is asked of a sampler, and NUTS on PyMC models."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bayeslmm.errors import SamplingError

if TYPE_CHECKING:
    import pymc as pm
    import xarray as xr

__all__ = ["PYMC_TUNE", "Sampling", "quiet_pymc", "sample_model"]

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


@dataclass(frozen=True)
class Sampling:
    """How many draws to make, and how.

    Attributes
    ----------
    draws : int
        Draws kept per chain.
    tune : int or None
        Warm-up draws per chain; None for what suits the sampler.
    chains : int
    cores : int or None
        Chains run side by side, None for as many as there are processors; the draws do not
        depend on it.
    random_seed : int
    progressbar : bool
    random_effects : {"draws", "summary"}
        What to keep of the draws of b.
    options : dict
        What only the sampler itself understands.

    Raises
    ------
    SamplingError
        If draws, tune or chains is not a whole number in range.
    ValueError
        If there is no such way to keep random effects.
    """

    draws: int
    tune: int | None = None
    chains: int = 4
    cores: int | None = None
    random_seed: int = 0
    progressbar: bool = False
    random_effects: str = "draws"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for name, least in (("draws", 4), ("tune", 1), ("chains", 1)):
            value = getattr(self, name)
            if name == "tune" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise SamplingError(
                    f"{name} must be a whole number of at least {least}, not {value!r}."
                )
        if self.random_effects not in ("draws", "summary"):
            raise ValueError(
                f"random_effects must be one of 'draws', 'summary', not {self.random_effects!r}."
            )

    def warm_up(self, default: int) -> int:
        """Warm-up draws per chain: those asked for, or the sampler's own number."""
        return default if self.tune is None else self.tune


def quiet_pymc():
    """PyMC, imported without its remarks on how it was installed."""
    logging.getLogger("pytensor.tensor.blas").setLevel(logging.ERROR)
    logging.getLogger("pytensor.configdefaults").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pymc
    return pymc


#: Warm-up draws per chain where none are asked for: PyMC does not know the mode and its curvature.
PYMC_TUNE = 1000


def sample_model(
    model: pm.Model, variables: list[str], sampling: Sampling
) -> tuple[xr.Dataset, xr.Dataset]:
    """Run ``pm.sample`` and keep what every posterior has.

    Parameters
    ----------
    model : pymc.Model
    variables : list of str
        Variables to store.
    sampling : Sampling
        Its options are passed to ``pm.sample`` as they are.

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
    if not sampling.progressbar:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="pytensor")
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
    _refuse_incomplete(posterior, sampling.draws, sampling.chains)
    stats = tree["sample_stats"].to_dataset()
    kept = [name for name in _KEPT_STATS if name in stats and set(stats[name].dims) == _SAMPLE]
    return posterior, stats[kept]


_SAMPLE = {"chain", "draw"}


def _refuse_incomplete(posterior: xr.Dataset, draws: int, chains: int) -> None:
    """An interrupted run comes back padded with NaN, or shorter."""
    complete = posterior.sizes["draw"] == draws and posterior.sizes["chain"] == chains
    if not complete or bool(posterior[next(iter(posterior))].isnull().any()):
        raise SamplingError(
            "Sampling was stopped before every chain had its draws; nothing is returned. Ask for "
            "fewer draws, or let it finish."
        )
