"""The Bayesian fit: draws, the model they came from, and the tables they give."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.bayes.draws import (
    coefficient_draws,
    component_draws,
    effect_draws,
    level_coefficient_draws,
)
from bayeslmm.bayes.fitting import FitInfo
from bayeslmm.bayes.names import ModelNames, model_names
from bayeslmm.bayes.priors import Priors
from bayeslmm.results.tables import check_level, summarize_draws

if TYPE_CHECKING:
    import xarray as xr

    from bayeslmm.model import LMM

__all__ = ["PosteriorFit"]


class PosteriorFit:
    """Posterior of a linear mixed model.

    Made by :meth:`bayeslmm.LMM.fit` and :func:`bayeslmm.load`.

    Attributes
    ----------
    model : LMM
        The model, able to predict and to be fitted again.
    priors : Priors
        The priors this posterior was made with.
    idata : xarray.DataTree
        Groups posterior, sample_stats, observed_data, constant_data and others; what ArviZ
        takes.
    info : FitInfo
    """

    def __init__(self, model: LMM, priors: Priors, idata: xr.DataTree, info: FitInfo):
        self.model, self.priors, self.idata, self.info = model, priors, idata, info

    @property
    def names(self) -> ModelNames:
        """Names of variables and dimensions in :attr:`idata`."""
        return model_names(self.model.design)

    @property
    def posterior(self) -> xr.Dataset:
        """The posterior group."""
        return self.idata["posterior"].to_dataset()

    def summary(self, *, level: float = 0.95, interval: str = "eti") -> pd.DataFrame:
        """Coefficients and variance components in one table.

        Parameters
        ----------
        level : float
            Probability inside the intervals.
        interval : {"eti", "hdi"}
            Equal-tailed or highest-density intervals.

        Returns
        -------
        pandas.DataFrame
            Columns ``mean sd lower upper ess_bulk ess_tail r_hat``, in the response's units
            (a coefficient: response units per unit of its column).

        Raises
        ------
        ValueError
            If `level` or `interval` is not valid.
        """
        return pd.concat(
            [
                self.fixef(level=level, interval=interval),
                self.varcomp(level=level, interval=interval),
            ]
        )

    def fixef(self, *, level: float = 0.95, interval: str = "eti") -> pd.DataFrame:
        """Coefficients (fixed effects); columns as in :meth:`summary`."""
        return self._table(
            coefficient_draws(self.model.design, self.posterior), "coefficient", level, interval
        )

    def varcomp(self, *, level: float = 0.95, interval: str = "eti") -> pd.DataFrame:
        """Standard deviations and correlations of the random effects, and sigma.

        Columns as in :meth:`summary`; standard deviations in the units of the response (per
        unit of the covariate for slopes).
        """
        return self._table(
            component_draws(self.model.design, self.names, self.posterior),
            "component",
            level,
            interval,
        )

    def ranef(
        self,
        factor: str | None = None,
        *,
        level: float = 0.95,
        interval: str = "eti",
        diagnostics: bool | None = None,
    ) -> pd.DataFrame:
        """Random effects of every level, long.

        Parameters
        ----------
        factor : str, optional
            One grouping factor; by default all of them.
        level, interval
            As in :meth:`summary`.
        diagnostics : bool, optional
            Whether to add effective sample sizes and r-hat; by default up to 2,000 effects.

        Returns
        -------
        pandas.DataFrame
            Columns ``group level effect mean sd lower upper`` and perhaps ``ess_bulk ess_tail
            r_hat``.

        Raises
        ------
        KeyError
            If there is no such grouping factor.
        """
        return self._long(effect_draws, factor, level, interval, diagnostics)

    def coef(
        self,
        factor: str | None = None,
        *,
        level: float = 0.95,
        interval: str = "eti",
        diagnostics: bool | None = None,
    ) -> pd.DataFrame:
        """Coefficients of every level: fixed plus random effect; columns as in :meth:`ranef`."""
        return self._long(level_coefficient_draws, factor, level, interval, diagnostics)

    def posterior_predictive(
        self, *, draws: int | None = None, random_seed: int | None = None
    ) -> xr.DataTree:
        """Replicated responses for the same rows and the same groups.

        Adds the group ``posterior_predictive`` to :attr:`idata` and returns the tree.

        Parameters
        ----------
        draws : int, optional
            Draws per chain to use, evenly spaced; by default all, or as many as keep the
            result below 100 million values.
        random_seed : int, optional

        Returns
        -------
        xarray.DataTree
        """
        from bayeslmm.bayes.predictive import posterior_predictive

        group = posterior_predictive(
            self.model.design, self.names, self.posterior, draws=draws, random_seed=random_seed
        )
        self.idata["posterior_predictive"] = _as_node(group)
        return self.idata

    def save(self, path: str | os.PathLike) -> None:
        """Write fit and model to one NetCDF file; see :func:`bayeslmm.load`.

        Parameters
        ----------
        path : path
            Overwritten if it exists.

        Raises
        ------
        FileFormatError
            If the file cannot be written.
        """
        from bayeslmm.storage import save_fit

        save_fit(self, path)

    def describe(self, *, level: float = 0.95) -> str:
        """How the posterior was made, and its tables, as text."""
        info, design = self.info, self.model.design
        lines = [
            f"Posterior of {design.formula.text}",
            f"{design.n_rows} rows; {info.chains} chains x {info.draws} draws after {info.tune} "
            f"warm-up, {info.method.upper()}, {info.parameterization} ({info.reason}); "
            f"{info.seconds:.1f} s; seed {info.random_seed}",
        ]
        if text := design.missing.describe():
            lines.append(f"Note: {text}.")
        lines += ["", _shown(self.fixef(level=level)), "", _shown(self.varcomp(level=level))]
        lines += ["", *(f"Warning: {problem}" for problem in info.problems)]
        return "\n".join(lines).rstrip()

    def __repr__(self) -> str:
        return self.describe()

    def _table(self, named_draws, label: str, level: float, interval: str) -> pd.DataFrame:
        check_level(level, interval)
        names, draws = named_draws
        index = pd.Index(names, name=label, dtype=object)
        return summarize_draws(draws, index, level=level, interval=interval)

    def _long(
        self, draws_of: Callable, factor: str | None, level: float, interval: str, diagnostics
    ) -> pd.DataFrame:
        check_level(level, interval)
        design = self.model.design
        factors = [block.name for block in design.blocks] if factor is None else [factor]
        tables = []
        for name in factors:
            labels, draws = draws_of(design, self.names, self.posterior, name)
            table = summarize_draws(
                draws, labels.index, level=level, interval=interval, diagnostics=diagnostics
            )
            tables.append(pd.concat([labels, table], axis=1))
        if not tables:
            return pd.DataFrame(
                columns=["group", "level", "effect", "mean", "sd", "lower", "upper"]
            )
        return pd.concat(tables, ignore_index=True)


def _as_node(dataset: xr.Dataset) -> xr.DataTree:
    import xarray as xr

    return xr.DataTree(dataset)


def _shown(table: pd.DataFrame) -> str:
    """A table with 4 significant digits and whole effective sample sizes."""
    shown = table.copy()
    for column in table.columns:
        digits = "{:.0f}" if column.startswith("ess") else "{:.4g}"
        digits = "{:.3f}" if column == "r_hat" else digits
        shown[column] = [
            "-" if np.isnan(value) else digits.format(value) for value in table[column]
        ]
    return shown.to_string()
