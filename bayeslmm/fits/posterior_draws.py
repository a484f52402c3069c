"""What every part of a posterior fit has: draws, and the model they came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bayeslmm.bayes.fitting import FitInfo
from bayeslmm.bayes.names import ModelNames, model_names
from bayeslmm.priors.table import Priors

if TYPE_CHECKING:
    import xarray as xr

    from bayeslmm.protocols import Model
    from bayeslmm.protocols import PosteriorResult as _Result
    from bayeslmm.results.conditioning import Conditioning
else:  # its properties are attributes here
    _Result = object

__all__ = ["PosteriorDraws"]


class PosteriorDraws(_Result):
    """The draws of a posterior; see :class:`bayeslmm.PosteriorFit` for the attributes."""

    model: Model
    priors: Priors
    info: FitInfo
    conditioning: Conditioning | None

    def __init__(
        self,
        model: Model,
        priors: Priors,
        idata: xr.DataTree,
        info: FitInfo,
        conditioning: Conditioning | None = None,
    ):
        self.model, self.priors, self.info = model, priors, info
        self._tree, self._is_complete = idata, False
        self.conditioning = conditioning

    @property
    def names(self) -> ModelNames:
        """Names of variables and dimensions in :attr:`idata`."""
        return model_names(self.model.design)

    @property
    def idata(self) -> xr.DataTree:
        """The tree that ArviZ takes; some of its groups are made when it is first asked for."""
        if not self._is_complete:
            from bayeslmm.bayes.added_groups import add_groups

            seed = self.info.random_seed
            add_groups(self.model.design, self.names, self.priors, self._tree, seed)
            self._is_complete = True
        return self._tree

    @property
    def posterior(self) -> xr.Dataset:
        """The posterior group."""
        return self._tree["posterior"].to_dataset()
