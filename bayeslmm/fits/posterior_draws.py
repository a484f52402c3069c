"""What every part of a posterior fit has: draws, and the model they came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bayeslmm.bayes.fitting import FitInfo
from bayeslmm.bayes.names import ModelNames, model_names
from bayeslmm.priors.table import Priors

if TYPE_CHECKING:
    import xarray as xr

    from bayeslmm.protocols import Model
    from bayeslmm.results.conditioning import Conditioning

__all__ = ["PosteriorDraws"]


class PosteriorDraws:
    """The draws of a posterior; see :class:`bayeslmm.PosteriorFit` for the attributes."""

    def __init__(
        self,
        model: Model,
        priors: Priors,
        idata: xr.DataTree,
        info: FitInfo,
        conditioning: Conditioning | None = None,
    ):
        self.model, self.priors, self.idata, self.info = model, priors, idata, info
        self.conditioning = conditioning

    @property
    def names(self) -> ModelNames:
        """Names of variables and dimensions in :attr:`idata`."""
        return model_names(self.model.design)

    @property
    def posterior(self) -> xr.Dataset:
        """The posterior group."""
        return self.idata["posterior"].to_dataset()
