"""What is asked of a sampler."""

from __future__ import annotations

import difflib
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bayeslmm.errors import SamplingError

__all__ = ["PYMC_TUNE", "Sampling", "quiet_pymc"]

#: What options are called here, and in other packages.
_CALLED = {
    "random_seed": ("seed", "random_state", "rng", "rng_seed"),
    "draws": ("iter", "iterations", "samples", "n_draws", "n_samples", "num_draws", "num_samples",
              "iter_sampling", "ndraws", "n_iter"),
    "tune": ("warmup", "warm_up", "burnin", "burn_in", "n_tune", "n_warmup", "num_warmup",
             "iter_warmup", "tuning"),
    "chains": ("n_chains", "num_chains", "nchains"),
    "cores": ("n_cores", "n_jobs", "parallel_chains", "threads", "num_workers", "workers"),
    "progressbar": ("progress_bar", "progress", "verbose", "show_progress"),
    "target_accept": ("adapt_delta", "target_acceptance", "delta"),
    "max_treedepth": ("max_tree_depth", "treedepth"),
    "parameterization": (),
    "method": (),
    "random_effects": (),
}  # fmt: skip
_HERE = {other: name for name, others in _CALLED.items() for other in others}
#: Above this share of letters in common a name is a slip of the pen.
_ALIKE = 0.8


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
        If draws, tune or chains is not a whole number in range, or an option is another word for
        one of fit(), as `seed`.
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
        for name in self.options:
            if name not in _CALLED:
                _refuse_other_word(name)
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


def _refuse_other_word(name: str) -> None:
    meant = _HERE.get(name.lower())
    if meant is None:
        close = difflib.get_close_matches(name.lower(), _CALLED, n=1, cutoff=_ALIKE)
        if not close:
            return
        meant = close[0]
    text = f"fit() has no option {name!r}: it is called {meant!r} here"
    if name in ("iter", "iterations", "n_iter"):
        text += ", without the warm-up draws, which are 'tune'"
    raise SamplingError(f"{text}.")


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
