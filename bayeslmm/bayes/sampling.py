"""What is asked of a sampler."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bayeslmm.errors import SamplingError

__all__ = ["PYMC_TUNE", "Sampling", "quiet_pymc"]


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
