"""What results, plots and reports ask of a model and of a fit, whoever made it.

The rooms below ``fits/`` and ``model.py`` are functions of these; :class:`bayeslmm.LMM`,
:class:`bayeslmm.LikelihoodFit` and :class:`bayeslmm.PosteriorFit` are what a user gives them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import xarray as xr

    from bayeslmm.formula import Design
    from bayeslmm.gaussian import CrossProducts
    from bayeslmm.priors.table import Priors

__all__ = ["Fit", "LikelihoodResult", "Model", "PosteriorResult", "is_posterior"]


class Model(Protocol):
    """A formula with its data and priors: :class:`bayeslmm.LMM`."""

    design: Design
    priors: Priors
    family: str
    random: str
    aliased: tuple[str, ...]

    @property
    def names(self) -> Any:
        """Names of variables and dimensions in a posterior."""

    @property
    def cross_products(self) -> CrossProducts:
        """Products of [Z X y]."""

    @property
    def problem(self) -> Any:
        """The data laid out for evaluation."""

    @property
    def unidentified(self) -> tuple[tuple[str, ...], ...]:
        """Variance components that cannot be told apart."""

    def pymc_model(self, parameterization: str = ...) -> Any:
        """The hierarchical PyMC model."""

    def fit(self, *args: Any, **options: Any) -> Any:
        """Draw from the posterior."""

    def reml(self) -> Any:
        """Fit by restricted maximum likelihood."""

    def ml(self) -> Any:
        """Fit by maximum likelihood."""

    def with_response(self, y: np.ndarray) -> Any:
        """The same model of another response."""

    def with_design(self, design: Design) -> Any:
        """The same model for other rows."""


class Fit(Protocol):
    """What both fits have."""

    model: Any

    def fixef(self, *args: Any, **options: Any) -> pd.DataFrame:
        """Coefficients."""

    def varcomp(self, *, level: float = ...) -> pd.DataFrame:
        """Variance components."""


class LikelihoodResult(Fit, Protocol):
    """A REML or maximum likelihood fit: :class:`bayeslmm.LikelihoodFit`."""

    reml: bool
    method: str
    theta: np.ndarray
    sigma: float
    loglik: float
    converged: bool
    _problem: Any
    _solution: Any

    def __getattr__(self, name: str) -> Any:
        """Tables and predictions."""


class PosteriorResult(Fit, Protocol):
    """A posterior fit: :class:`bayeslmm.PosteriorFit`."""

    priors: Priors
    idata: xr.DataTree
    info: Any

    def __getattr__(self, name: str) -> Any:
        """Tables and predictions."""


def is_posterior(given: object) -> TypeGuard[PosteriorResult]:
    """Whether a posterior fit was given, rather than a model or a likelihood fit."""
    return hasattr(given, "idata")
