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
from bayeslmm.results.contrasts import contrast_matrix
from bayeslmm.results.marginal_means import pair_rows, reference_rows
from bayeslmm.results.tables import check_level, format_table, summarize_draws

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

    def contrast(self, L, *, level: float = 0.95, interval: str = "eti") -> pd.DataFrame:
        """Linear combinations of the coefficients.

        Parameters
        ----------
        L : dict, DataFrame or array
            ``{"Days": 1, "Intercept": 2}`` is one combination, ``{"a": {...}, "b": {...}}`` are
            several; a frame has coefficients as columns; an array has one column per
            coefficient.
        level, interval
            As in :meth:`summary`.

        Raises
        ------
        ValueError
            If a name is not a coefficient, or the shape does not fit.
        """
        rows, index = contrast_matrix(L, self.model.design.coef_names)
        return self._table((index, self._combined(rows)), "contrast", level, interval)

    def marginal_means(
        self, terms: str | list[str], *, at=None, level: float = 0.95, interval: str = "eti"
    ) -> pd.DataFrame:
        """Marginal means of the levels of one or several factors, as posterior summaries.

        Parameters
        ----------
        terms, at
            As in :meth:`bayeslmm.LikelihoodFit.marginal_means`.
        level, interval
            As in :meth:`summary`.
        """
        check_level(level, interval)
        labels, rows, offset = reference_rows(self.model.design, terms, at)
        draws = self._combined(rows) + offset
        table = summarize_draws(draws, labels.index, level=level, interval=interval)
        return pd.concat([labels, table], axis=1)

    def pairwise(
        self, terms: str | list[str], *, at=None, level: float = 0.95, interval: str = "eti"
    ) -> pd.DataFrame:
        """Differences of all pairs of marginal means, with the probability of being positive.

        Parameters
        ----------
        terms, at, level, interval
            As in :meth:`marginal_means`.
        """
        check_level(level, interval)
        labels, rows, offset, _ = pair_rows(self.model.design, terms, at)
        draws = self._combined(rows) + offset
        table = summarize_draws(draws, labels.index, level=level, interval=interval)
        table["p_positive"] = (draws > 0).mean(axis=(0, 1))
        return pd.concat([labels, table], axis=1)

    def _combined(self, rows: np.ndarray) -> np.ndarray:
        """Draws (chains, draws, k) of linear combinations of the coefficients."""
        return self.posterior["beta"].to_numpy() @ rows.T

    def predict(
        self,
        newdata=None,
        *,
        random: str = "conditional",
        kind: str = "mean",
        level: float = 0.95,
        interval: str = "eti",
        draws: bool = False,
        random_seed: int | None = None,
    ) -> pd.DataFrame | xr.DataArray:
        """Predictions with intervals.

        Parameters
        ----------
        newdata : data frame, optional
            The fitted rows by default.
        random : {"conditional", "population", "new"}
            With each group's own effects; for the average group, which in a linear model is
            the marginal mean too; or for groups not seen yet, whose effects are drawn from
            the population (rows with the same label share them).
        kind : {"mean", "response"}
            The linear predictor, or a new response around it.
        level, interval
            As in :meth:`summary`.
        draws : bool
            Return all draws instead, dimensions (chain, draw, row).
        random_seed : int, optional
            For new groups and new responses.

        Returns
        -------
        pandas.DataFrame or xarray.DataArray
            Columns ``mean sd lower upper``, indexed as `newdata`.

        Raises
        ------
        DataError
            If a predictor is missing or has a level that was not in the fit.
        """
        from bayeslmm.results.posterior_prediction import posterior_prediction

        check_level(level, interval)
        values, index = posterior_prediction(self, newdata, random, kind, random_seed)
        if draws:
            import xarray as xr

            return xr.DataArray(values, dims=("chain", "draw", "row"), name="prediction")
        return summarize_draws(values, index, level=level, interval=interval, diagnostics=False)

    def fitted(self, random: str = "conditional", **options) -> pd.DataFrame:
        """Predictions for the fitted rows; options as in :meth:`predict`."""
        return self.predict(random=random, **options)

    def residuals(self, random: str = "conditional", kind: str = "raw") -> pd.Series:
        """Response minus posterior mean of the linear predictor.

        Parameters
        ----------
        random : str
            As in :meth:`predict`.
        kind : {"raw", "normalized"}
            Normalized residuals are whitened by the residual covariance at the posterior means
            of its parameters. They need ``random="conditional"``.
        """
        from bayeslmm.bayes.residuals import whitened

        if kind not in ("raw", "normalized"):
            raise ValueError(f'kind must be "raw" or "normalized", not {kind!r}.')
        if kind == "normalized" and random != "conditional":
            raise ValueError('Normalized residuals are those of random="conditional".')
        mean = self.predict(random=random, draws=True).mean(("chain", "draw")).to_numpy()
        design = self.model.design
        values = design.y - mean
        if kind == "normalized":
            values = whitened(design, self.posterior, values)
        return pd.Series(values, index=design.index, name="residual")

    def r2(self, *, level: float = 0.95, interval: str = "eti") -> pd.DataFrame:
        """Marginal and conditional R2 (Nakagawa and Schielzeth 2013; Johnson 2014)."""
        from bayeslmm.results.shares import r2_values

        return self._shares(r2_values(self._parts()), level, interval)

    def icc(self, *, level: float = 0.95, interval: str = "eti") -> pd.DataFrame:
        """Intraclass correlation: adjusted, unadjusted, and adjusted by grouping factor."""
        from bayeslmm.results.shares import icc_values

        factors = [block.name for block in self.model.design.blocks]
        return self._shares(icc_values(self._parts(), factors), level, interval)

    def _parts(self):
        from bayeslmm.bayes.draws import covariance_draws
        from bayeslmm.bayes.residuals import mean_sigma
        from bayeslmm.results.shares import variance_parts

        posterior, design = self.posterior, self.model.design
        Sigmas = covariance_draws(design, self.names, posterior)
        beta = coefficient_draws(design, posterior)[1]
        return variance_parts(self.model, beta, Sigmas, mean_sigma(design, posterior))

    def _shares(self, values, level: float, interval: str) -> pd.DataFrame:
        check_level(level, interval)
        stacked = np.stack(list(values.values()), axis=-1)
        return summarize_draws(stacked, list(values), level=level, interval=interval)

    def implied_covariance(self, data=None) -> pd.DataFrame:
        """Posterior mean of the marginal covariance of a group's responses.

        Parameters
        ----------
        data : data frame, optional
            The covariates of the group's rows; by default those of the first group.
        """
        return self._implied(data, correlation=False)

    def implied_correlation(self, data=None) -> pd.DataFrame:
        """Posterior mean of the marginal correlation of a group's responses."""
        return self._implied(data, correlation=True)

    def _implied(self, data, *, correlation: bool) -> pd.DataFrame:
        from bayeslmm.bayes.draws import covariance_draws
        from bayeslmm.results.implied import as_correlation, implied_of_draws

        posterior, design = self.posterior, self.model.design
        Sigmas = [
            S.reshape(-1, *S.shape[2:]) for S in covariance_draws(design, self.names, posterior)
        ]
        implied = implied_of_draws(design, posterior)
        count = posterior.sizes["chain"] * posterior.sizes["draw"]
        total, index = 0.0, None
        for start in range(0, count, 500):  # draws in blocks: a group may have many rows
            part = slice(start, start + 500)
            values, index = implied([S[part] for S in Sigmas], part, data)
            values = as_correlation(values) if correlation else values
            total = total + values.sum(axis=0)
        return pd.DataFrame(total / count, index=index, columns=index)

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

    def loo(
        self,
        unit: str = "observation",
        *,
        conditional: bool = False,
        draws: int | None = None,
        exact: bool = True,
        progressbar: bool = True,
    ):
        """Leave-one-out cross-validation.

        Parameters
        ----------
        unit : str
            ``"observation"``, or a grouping factor to leave out a group at a time.
        conditional : bool
            Use the likelihood given the random effects, as Bambi and brms do, instead of the
            one with coefficients and random effects integrated out.
        draws : int, optional
            Draws per chain to use, evenly spaced; by default all that fit in memory.
        exact : bool
            Refit the units whose k-hat is above 0.7.
        progressbar : bool

        Returns
        -------
        arviz ELPD object
            What ``az.compare`` and ``az.plot_khat`` take. Its ``p`` is the log score of the
            data seen minus that of the data left out.

        Raises
        ------
        ValueError
            If there is no such unit.
        SamplingError
            If the coefficients' priors are not normal or flat (then ``conditional=True``).
        """
        from bayeslmm.results.loo import leave_one_out

        return leave_one_out(
            self,
            unit=unit,
            conditional=conditional,
            draws=draws,
            exact=exact,
            progressbar=progressbar,
        )

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
            f"{design.n_rows} rows; {_how(info)}; {info.parameterization} ({info.reason}); "
            f"{info.seconds:.1f} s; seed {info.random_seed}",
        ]
        if text := design.missing.describe():
            lines.append(f"Note: {text}.")
        lines += [
            "",
            format_table(self.fixef(level=level)),
            "",
            format_table(self.varcomp(level=level)),
        ]
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


def _how(info: FitInfo) -> str:
    """The method, its size and what it says of itself."""
    if info.method == "importance":
        size = info.chains * info.draws
        text = (
            f"{size} draws by importance sampling, {info.effective_draws:.0f} effective, "
            f"k-hat {info.k_hat:.2f}"
        )
        if info.log_marginal_likelihood is not None:
            text += (
                f"; log marginal likelihood {info.log_marginal_likelihood:.2f} "
                f"(standard error {info.log_marginal_likelihood_error:.2g})"
            )
        return text
    return (
        f"{info.chains} chains x {info.draws} draws after {info.tune} warm-up, "
        f"{info.method.upper()}"
    )


def _as_node(dataset: xr.Dataset) -> xr.DataTree:
    import xarray as xr

    return xr.DataTree(dataset)
