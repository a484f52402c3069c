"""The Bayesian fit: draws, the model they came from, and the tables they give."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
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
from bayeslmm.fits.plotting import PosteriorPlots
from bayeslmm.priors.table import Priors
from bayeslmm.results.contrasts import contextual_contrast, contrast_matrix
from bayeslmm.results.marginal_means import pair_rows, reference_rows
from bayeslmm.results.tables import (
    check_level,
    format_table,
    summarize_blocks,
    summarize_draws,
)

if TYPE_CHECKING:
    import xarray as xr

    from bayeslmm.protocols import Model
    from bayeslmm.results.conditioning import Conditioning

__all__ = ["PosteriorFit"]


class PosteriorFit(PosteriorPlots):
    """Posterior of a linear mixed model.

    Made by :meth:`bayeslmm.LMM.fit` and :func:`bayeslmm.load`.

    Attributes
    ----------
    model : Model
        The model, able to predict and to be fitted again.
    priors : Priors
        The priors this posterior was made with.
    idata : xarray.DataTree
        Groups posterior, sample_stats, observed_data, constant_data and others; what ArviZ
        takes.
    info : FitInfo
    conditioning : Conditioning or None
        What :meth:`condition_on` added.

    Examples
    --------
    The examples of the methods go on from here.

    >>> import bayeslmm as blm
    >>> data = blm.load_dataset("sleepstudy")
    >>> model = blm.LMM("Reaction ~ Days + (Days | Subject)", data)
    >>> post = model.fit(method="importance", draws=250, random_seed=1)
    >>> sorted(post.idata.children)[:3]
    ['constant_data', 'log_likelihood', 'observed_data']
    """

    conditioning: Conditioning | None = None

    def __init__(self, model: Model, priors: Priors, idata: xr.DataTree, info: FitInfo):
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
            (a coefficient: response units per unit of its column). ``attrs["missing"]`` says
            which rows were left out.

        Raises
        ------
        ValueError
            If `level` or `interval` is not valid.

        Examples
        --------
        >>> post.summary().index[:2].tolist()
        ['Intercept', 'Days']
        """
        table = pd.concat(
            [
                self.fixef(level=level, interval=interval),
                self.varcomp(level=level, interval=interval),
            ]
        )
        table.attrs["missing"] = self.model.design.missing.describe()
        return table

    def fixef(self, *, level: float = 0.95, interval: str = "eti") -> pd.DataFrame:
        """Coefficients (fixed effects); columns as in :meth:`summary`.

        Examples
        --------
        >>> post.fixef().index.tolist()
        ['Intercept', 'Days']
        """
        return self._table(
            coefficient_draws(self.model.design, self.posterior), "coefficient", level, interval
        )

    def varcomp(self, *, level: float = 0.95, interval: str = "eti") -> pd.DataFrame:
        """Standard deviations and correlations of the random effects, and sigma.

        Columns as in :meth:`summary`; standard deviations in the units of the response (per
        unit of the covariate for slopes).

        Examples
        --------
        >>> post.varcomp().index[:2].tolist()
        ['sd(Intercept | Subject)', 'sd(Days | Subject)']
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

        Examples
        --------
        >>> post.ranef().columns[:4].tolist()
        ['group', 'level', 'effect', 'mean']
        """
        from bayeslmm.bayes.tree import SUMMARY_GROUP

        if SUMMARY_GROUP in self.idata.children:
            from bayeslmm.results.effect_tables import summarized_effects

            return summarized_effects(self, factor, level, interval)
        return self._long(effect_draws, factor, level, interval, diagnostics)

    def coef(
        self,
        factor: str | None = None,
        *,
        level: float = 0.95,
        interval: str = "eti",
        diagnostics: bool | None = None,
    ) -> pd.DataFrame:
        """Coefficients of every level: fixed plus random effect; columns as in :meth:`ranef`.

        Examples
        --------
        >>> post.coef().shape
        (36, 10)
        """
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

        Examples
        --------
        >>> post.contrast({"Intercept": 1, "Days": 5}).shape[0]
        1
        """
        rows, index = contrast_matrix(L, self.model.design.coef_names)
        check_level(level, interval)
        index = pd.Index(index, name="contrast", dtype=object)
        return self._combined(rows, 0.0, index, level, interval)

    def contextual_effect(
        self, x: str, g: str, *, level: float = 0.95, interval: str = "eti"
    ) -> pd.DataFrame:
        """What a group's mean of `x` adds beyond the row's own `x`: between minus within.

        Parameters
        ----------
        x, g
            As in :meth:`bayeslmm.LikelihoodFit.contextual_effect`.
        level, interval
            As in :meth:`summary`.

        Raises
        ------
        ValueError
            If the model does not have the coefficients.
        """
        L = contextual_contrast(self.model.design.coef_names, x, g)
        return self.contrast(L, level=level, interval=interval)

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

        Examples
        --------
        >>> import bayeslmm as blm
        >>> data = blm.load_dataset("machines")
        >>> model = blm.LMM("score ~ Machine + (1 | Worker)", data)
        >>> post = model.fit(method="importance", draws=250, random_seed=1)
        >>> post.marginal_means("Machine").shape[0]
        3
        """
        check_level(level, interval)
        labels, rows, offset = reference_rows(self.model.design, terms, at)
        names = [" ".join(map(str, row)) for row in labels.itertuples(index=False)]
        table = self._combined(rows, offset, labels.index, level, interval, names=names)
        return pd.concat([labels, table], axis=1)

    def pairwise(
        self, terms: str | list[str], *, at=None, level: float = 0.95, interval: str = "eti"
    ) -> pd.DataFrame:
        """Differences of all pairs of marginal means, with the probability of being positive.

        Parameters
        ----------
        terms, at, level, interval
            As in :meth:`marginal_means`.

        Examples
        --------
        >>> import bayeslmm as blm
        >>> data = blm.load_dataset("machines")
        >>> model = blm.LMM("score ~ Machine + (1 | Worker)", data)
        >>> post = model.fit(method="importance", draws=250, random_seed=1)
        >>> post.pairwise("Machine").shape[0]
        3
        """
        check_level(level, interval)
        labels, rows, offset, _ = pair_rows(self.model.design, terms, at)
        table = self._combined(
            rows,
            offset,
            labels.index,
            level,
            interval,
            lambda draws: {"p_positive": (draws > 0).mean(axis=(0, 1))},
            names=labels["contrast"],
        )
        return pd.concat([labels, table], axis=1)

    def _combined(
        self,
        rows: np.ndarray,
        offset,
        index: pd.Index,
        level: float,
        interval: str,
        more=None,
        names=None,
    ) -> pd.DataFrame:
        """Summaries of linear combinations of the coefficients."""
        from bayeslmm.results.posterior_prediction import warn_of_priors_alone

        names = list(index if names is None else names)
        warn_of_priors_alone(self, rows, names, stacklevel=4)
        beta, offset = self.posterior["beta"].to_numpy(), np.broadcast_to(offset, len(rows))
        return summarize_blocks(
            lambda part: beta @ rows[part].T + offset[part],
            index,
            beta.shape[0] * beta.shape[1],
            level=level,
            interval=interval,
            more=more,
        )

    def predict(
        self,
        newdata=None,
        *,
        given=None,
        random: str = "conditional",
        allow_new_levels: bool = False,
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
        given : data frame, optional
            Rows with responses, of new or of known groups, that the predictions take into
            account as :meth:`condition_on` does.
        random : {"conditional", "population", "new"}
            With each group's own effects; for the average group, which in a linear model is
            the marginal mean too; or for groups not seen yet. Under "new" effects of levels
            that are not in the fit are drawn from the population (rows with the same label
            share them), levels that are in the fit keep their own; where `newdata` has no
            level that is not in the fit, its levels stand for new ones like them.
        allow_new_levels : bool
            Under "conditional": effects of levels that are not in the fit are drawn from the
            population instead of being an error.
        kind : {"mean", "response"}
            The linear predictor, or a new response around it.
        level, interval
            As in :meth:`summary`.
        draws : bool
            Return all draws instead, dimensions (chain, draw, row): 32 MB per 1,000 rows and
            4,000 draws. A table is made in blocks of rows.
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

        Warns
        -----
        ModelWarning
            If aliased columns leave a row's mean undetermined: its prediction then rests on the
            priors of single coefficients.

        Examples
        --------
        >>> post.predict({"Days": [0, 5]}, random="population").round(-1)
            mean    sd  lower  upper
        0  250.0  10.0  230.0  270.0
        1  300.0  10.0  280.0  320.0
        """
        from bayeslmm.results.posterior_prediction import PosteriorPrediction

        check_level(level, interval)
        fit = self if given is None else self.condition_on(given, random_seed=random_seed)
        prediction = PosteriorPrediction(fit, newdata, random, kind, random_seed, allow_new_levels)
        if draws:
            import xarray as xr

            dims = ("chain", "draw", "row")
            return xr.DataArray(prediction.draws(), dims=dims, name="prediction")
        return prediction.table(level, interval)

    def condition_on(
        self, rows, *, reweight: bool = False, random_seed: int | None = None
    ) -> PosteriorFit:
        """The posterior given more rows, such as a new group's first responses; no refit.

        Coefficients and random effects are drawn again, exactly, given all rows and each draw
        of the variance parameters.

        Parameters
        ----------
        rows : data frame
            Response, predictors, groups (and weights) of the rows to add. Groups may be new.
        reweight : bool
            Update the variance parameters too: their draws are reweighted by the density of
            the new responses and resampled. Otherwise they keep the draws of this fit.
        random_seed : int, optional

        Returns
        -------
        PosteriorFit
            With the groups and rows added; its ``conditioning`` says how many, and k-hat of
            the weights. ``.model.fit()`` is the full fit to all rows, same priors.

        Raises
        ------
        FormulaError, DataError
            If a column or value is missing, or a predictor has a level not in the fit.
        SamplingError
            If the coefficients' priors are not normal or flat.

        Warns
        -----
        SamplingWarning
            If k-hat of the weights is above 0.7.

        Examples
        --------
        >>> new = data[data["Subject"] == "308"].assign(Subject="somebody")
        >>> wider = post.condition_on(new, random_seed=1)
        >>> "somebody" in set(wider.ranef()["level"])
        True
        """
        from bayeslmm.results.conditioning import condition_posterior

        return condition_posterior(self, rows, reweight=reweight, random_seed=random_seed)

    def fitted(self, random: str = "conditional", **options) -> pd.DataFrame:
        """Predictions for the fitted rows; options as in :meth:`predict`.

        Examples
        --------
        >>> post.fitted().shape[0]
        180
        """
        return self.predict(random=random, **options)

    def residuals(
        self,
        random: str = "conditional",
        kind: str = "raw",
        *,
        weights: bool = False,
        random_seed: int | None = None,
    ) -> pd.Series | pd.DataFrame:
        """Response minus posterior mean of the linear predictor.

        Parameters
        ----------
        random : {"conditional", "population", "new"}
            As in :meth:`predict`.
        kind : {"raw", "normalized"}
            Normalized residuals are whitened by the residual covariance at the posterior means
            of its parameters. They need ``random="conditional"``.
        weights : bool
            Also the column ``weight`` of :meth:`outlier_weights`.
        random_seed : int, optional
            For new groups.

        Examples
        --------
        >>> post.residuals().shape
        (180,)
        """
        from bayeslmm.bayes.residual_draws import whitened
        from bayeslmm.results.posterior_prediction import PosteriorPrediction

        if kind not in ("raw", "normalized"):
            raise ValueError(f'kind must be "raw" or "normalized", not {kind!r}.')
        if kind == "normalized" and random != "conditional":
            raise ValueError('Normalized residuals are those of random="conditional".')
        mean = PosteriorPrediction(self, None, random, "mean", random_seed).means()
        design = self.model.design
        values = design.y - mean
        if kind == "normalized":
            values = whitened(design, self.posterior, values)
        residuals = pd.Series(values, index=design.index, name="residual")
        if not weights:
            return residuals
        return pd.DataFrame({"residual": residuals, "weight": self.outlier_weights().to_numpy()})

    def outlier_weights(self) -> pd.Series:
        """Weight of each row's residual in a Student-t model, as its posterior mean.

        A Student-t residual is a normal one with a precision multiplied by its own weight, 1 on
        average; an outlier has a weight near 0 and hardly moves the fit (Lange, Little and
        Taylor 1989, Journal of the American Statistical Association 84(408)). The weights of a
        Gaussian model are all 1.

        Returns
        -------
        pandas.Series
            Indexed as the rows used.

        Examples
        --------
        >>> float(post.outlier_weights().min())
        1.0
        """
        from bayeslmm.results.robust import row_weights_of_outliers

        return row_weights_of_outliers(self)

    def imputed(self, *, level: float = 0.95, interval: str = "eti") -> pd.DataFrame:
        """Posterior of the missing covariate values of a model with ``missing="model"``.

        Parameters
        ----------
        level, interval
            As in :meth:`summary`.

        Returns
        -------
        pandas.DataFrame
            Columns ``covariate row mean sd lower upper ...``, one row per missing value; ``row``
            is its index label in the data. Rows of one group share the value where a covariate
            is constant within groups.
        """
        from bayeslmm.bayes.covariates import covariate_names

        check_level(level, interval)
        tables = [pd.DataFrame(columns=["covariate", "row", "mean", "sd", "lower", "upper"])]
        for covariate in self.model.design.modeled:
            draws = self.posterior[covariate_names(covariate).missing].to_numpy()
            table = summarize_blocks(
                lambda part, draws=draws, unit=covariate.unit: draws[..., unit[part]],
                range(len(covariate.rows)),
                draws.shape[0] * draws.shape[1],
                level=level,
                interval=interval,
            )
            table.insert(0, "covariate", covariate.name)
            table.insert(1, "row", self.model.design.index[covariate.rows])
            tables.append(table)
        return pd.concat(tables[1:] or tables, ignore_index=True)

    def r2(
        self,
        method: str = "nakagawa",
        *,
        level: float = 0.95,
        interval: str = "eti",
        draws: bool = False,
    ) -> pd.DataFrame | xr.Dataset:
        """Marginal and conditional R2: without and with the random effects.

        Parameters
        ----------
        method : {"nakagawa", "gelman"}
            From the variance parameters, for groups like these (Nakagawa and Schielzeth 2013;
            Johnson 2014), or from the predictions for these rows and groups (Gelman, Goodrich,
            Gabry and Vehtari 2019).
        level, interval
            As in :meth:`summary`.
        draws : bool
            Return all draws instead, a Dataset that ArviZ takes.

        Returns
        -------
        pandas.DataFrame or xarray.Dataset

        Examples
        --------
        >>> post.r2().index.tolist()
        ['marginal', 'conditional']
        """
        from bayeslmm.results.explained import posterior_r2

        return posterior_r2(self, method, level=level, interval=interval, draws=draws)

    def icc(
        self, at=None, *, level: float = 0.95, interval: str = "eti", draws: bool = False
    ) -> pd.DataFrame | xr.Dataset:
        """Intraclass correlation: adjusted, unadjusted, and adjusted by grouping factor.

        Parameters
        ----------
        at : dict or data frame, optional
            Values of the random effects' covariates, such as ``{"Days": [0, 5, 9]}``: with
            varying slopes it depends on them. A dict stands for all combinations. By default
            the average over the rows.
        level, interval, draws
            As in :meth:`r2`.

        Examples
        --------
        >>> post.icc().index.tolist()
        ['adjusted', 'unadjusted', 'Subject']
        """
        from bayeslmm.results.explained import posterior_shares

        return posterior_shares(self, "icc", at=at, level=level, interval=interval, draws=draws)

    def variance_shares(
        self, *, level: float = 0.95, interval: str = "eti", draws: bool = False
    ) -> pd.DataFrame | xr.Dataset:
        """Share of each term in the variance; the shares add up to one.

        A fixed term's share is the covariance of its contribution with the whole fixed part
        (negative for a term that works against the others), a random term's its mean variance
        over the rows.

        Parameters
        ----------
        level, interval, draws
            As in :meth:`r2`.

        Returns
        -------
        pandas.DataFrame or xarray.Dataset
            Columns ``term kind`` and those of :meth:`summary`.

        Examples
        --------
        >>> post.variance_shares().index.tolist()
        [0, 1, 2]
        """
        from bayeslmm.results.explained import posterior_shares

        return posterior_shares(self, "term", level=level, interval=interval, draws=draws)

    def heritability(
        self,
        factor: str | None = None,
        *,
        exclude: str | Iterable[str] = (),
        fixed: bool = False,
        level: float = 0.95,
        interval: str = "eti",
        draws: bool = False,
    ) -> pd.DataFrame | xr.DataArray:
        """Additive genetic variance over phenotypic variance.

        Parameters
        ----------
        factor : str, optional
            The grouping factor with a relationship, where there are several.
        exclude : str or list of str
            Grouping factors whose variance is left out of the phenotypic variance, such as
            herds.
        fixed : bool
            Whether the variance of the fixed part is in the phenotypic variance.
        level, interval
            As in :meth:`summary`.
        draws : bool
            Return all draws instead, dimensions (chain, draw).

        Raises
        ------
        DataError
            If no grouping factor has a relationship, or it is not clear which is meant.
        """
        from bayeslmm.results.heritability import heritability_share

        share = heritability_share(self.model.design, factor, exclude, fixed)
        return self._share(share, level, interval, draws)

    def repeatability(
        self,
        factors: str | Iterable[str] | None = None,
        *,
        exclude: str | Iterable[str] = (),
        fixed: bool = False,
        level: float = 0.95,
        interval: str = "eti",
        draws: bool = False,
    ) -> pd.DataFrame | xr.DataArray:
        """Variance between individuals over phenotypic variance.

        Parameters
        ----------
        factors : str or list of str, optional
            Grouping factors that are the individuals'; by default the related one and those
            with the same individuals as levels (a permanent environment).
        exclude, fixed, level, interval, draws
            As in :meth:`heritability`.
        """
        from bayeslmm.results.heritability import repeatability_share

        share = repeatability_share(self.model.design, factors, exclude, fixed)
        return self._share(share, level, interval, draws)

    def _share(self, share, level: float, interval: str, draws: bool):
        from bayeslmm.bayes.draws import covariance_draws
        from bayeslmm.results.heritability import share_values

        posterior, design = self.posterior, self.model.design
        Sigmas = covariance_draws(design, self.names, posterior)
        beta = coefficient_draws(design, posterior)[1]
        sigma = posterior["sigma"].to_numpy()
        values = share_values(self.model, share, Sigmas, sigma, beta)
        if not draws:
            check_level(level, interval)
            return summarize_draws(values[..., None], [share.name], level=level, interval=interval)
        import xarray as xr

        coords = {"chain": posterior["chain"], "draw": posterior["draw"]}
        return xr.DataArray(values, dims=("chain", "draw"), coords=coords, name=share.name)

    def implied_covariance(self, data=None) -> pd.DataFrame:
        """Posterior mean of the marginal covariance of a group's responses.

        With Student-t residuals or effects, whose variances have no posterior mean, the one at
        the posterior medians of the variances, infinite where the median of nu is 2 or less.

        Parameters
        ----------
        data : data frame, optional
            The covariates of the group's rows; by default those of the first group.

        Examples
        --------
        >>> post.implied_covariance().shape
        (10, 10)
        """
        return self._implied(data, correlation=False)

    def implied_correlation(self, data=None) -> pd.DataFrame:
        """Posterior mean of the marginal correlation of a group's responses.

        Examples
        --------
        >>> post.implied_correlation().shape
        (10, 10)
        """
        return self._implied(data, correlation=True)

    def _implied(self, data, *, correlation: bool) -> pd.DataFrame:
        from bayeslmm.bayes.draws import covariance_draws
        from bayeslmm.results.implied import as_correlation, implied_covariance, implied_of_draws
        from bayeslmm.results.robust import is_robust, median_variances

        posterior, design = self.posterior, self.model.design
        matrices = covariance_draws(design, self.names, posterior)
        if is_robust(self.names, posterior):
            Sigmas, sigma = median_variances(self.names, posterior, matrices)
            values, index = implied_covariance(design, Sigmas, sigma, data)
            values = as_correlation(values) if correlation else values
            return pd.DataFrame(values, index=index, columns=index)
        Sigmas = [S.reshape(-1, *S.shape[2:]) for S in matrices]
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
        self,
        groups: str | list[str] = "same",
        *,
        draws: int | None = None,
        random_seed: int | None = None,
    ) -> xr.DataTree:
        """Replicated responses for the same rows.

        Parameters
        ----------
        groups : {"same", "new"} or list of str
            The fitted groups with their effects, or as many new ones like them. A list names
            the grouping factors whose levels are new: ``["item"]`` is the same subjects with
            other items.
        draws : int, optional
            Draws per chain to use, evenly spaced; by default all, or as many as keep the
            result below 100 million values.
        random_seed : int, optional

        Returns
        -------
        xarray.DataTree
            With the group ``posterior_predictive``. For the same groups it is :attr:`idata`, to
            which the group is added; otherwise a tree of its own.

        Raises
        ------
        ValueError
            If a name is not a grouping factor.

        Examples
        --------
        >>> tree = post.posterior_predictive(draws=20, random_seed=1)
        >>> dict(tree["posterior_predictive"].sizes)
        {'chain': 4, 'draw': 20, 'obs': 180}
        """
        from bayeslmm.bayes.predictive import posterior_predictive

        group = posterior_predictive(
            self.model.design,
            self.names,
            self.posterior,
            groups=groups,
            draws=draws,
            random_seed=random_seed,
        )
        tree = self.idata if groups == "same" else self.idata.copy()
        tree["posterior_predictive"] = _as_node(group)
        return tree

    def predictive_check(
        self,
        statistics=None,
        *,
        factor: str | None = None,
        groups: str | list[str] = "same",
        draws: int = 250,
        random_seed: int | None = None,
    ) -> pd.DataFrame:
        """Test statistics of the data beside those of replicated data.

        Parameters
        ----------
        statistics : dict of str to callable, optional
            Functions of (y, codes): responses and the number of each row's group. By default
            mean, sd, minimum, maximum, sd and range of the groups' means, sd within groups, and
            sd of the groups' slopes for each numeric random slope.
        factor : str, optional
            Grouping factor of the codes; the first by default.
        groups : {"same", "new"} or list of str
            Replicate for the same groups or for new ones, which checks the distribution of
            the random effects as well (Gelman, Meng and Stern 1996, Statistica Sinica 6); as in
            :meth:`posterior_predictive`.
        draws : int
            Replications per chain; at most as many as keep them below 20 million values.
        random_seed : int, optional

        Returns
        -------
        pandas.DataFrame
            Columns ``observed mean sd lower upper p``: lower and upper are 95 % limits of the
            replications, p their share above the observed value (ties count half).

        Raises
        ------
        KeyError
            If there is no such grouping factor.
        ValueError
            If a statistic is not a function, or does not give one finite number.

        Notes
        -----
        ``az.plot_ppc_tstat(post.posterior_predictive())`` draws statistics of y alone.

        Examples
        --------
        >>> post.predictive_check(random_seed=1).columns.tolist()
        ['observed', 'mean', 'sd', 'lower', 'upper', 'p']
        """
        from bayeslmm.results.predictive_check import predictive_check

        return predictive_check(
            self,
            statistics,
            factor=factor,
            groups=groups,
            draws=draws,
            random_seed=random_seed,
        )

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
            Refit the units whose k-hat is above 0.7, with at most 1000 rows above 0.5.
        progressbar : bool

        Returns
        -------
        arviz ELPD object
            What ``az.compare`` and ``az.plot_khat`` take. Its ``p`` is the log score of the
            data seen minus that of the data left out. ``mcse`` and ``mcse_i`` are Monte Carlo
            standard errors of ``elpd`` and ``elpd_i``, ``n_eff_i`` the effective draws behind the
            units that were refitted. ``likelihood`` says whether it is
            ``"integrated"`` or ``"conditional"``; the latter is all there is for Student-t
            residuals or effects, whose fits also have ``outlier_weights``.

        Raises
        ------
        ValueError
            If there is no such unit.
        SamplingError
            If the coefficients' priors are not normal or flat (then ``conditional=True``).

        Examples
        --------
        >>> loo = post.loo(progressbar=False)
        >>> round(float(loo.elpd), -1)
        -860.0
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

    def report(self, path: str | os.PathLike, *, effect=None, **options) -> os.PathLike:
        """Write one self-contained HTML file about this fit, to hand over.

        Model in words and mathematics, data and missingness, priors, diagnostics, estimates
        beside REML, pictures, predictive checks, versions, seed and the code that makes it again;
        with an effect also its reanalysis, sensitivity and Bayes factors.

        Parameters
        ----------
        path : path
            Overwritten if it exists.
        effect : str, dict or array, optional
            A coefficient or a contrast to reanalyze.
        **options
            ``title``, ``question`` (a sentence of your own), ``level``; ``mcid``, ``rope``,
            ``direction`` and ``priors`` as in :func:`bayeslmm.reanalyze`; ``source``, Python code
            that gives the data.

        Returns
        -------
        pathlib.Path

        Raises
        ------
        FileFormatError
            If the folder does not exist.
        ValueError
            If the effect or an option does not exist.
        """
        from bayeslmm.report.write import write_report

        return write_report(self, path, effect=effect, **options)

    def loo_pit(
        self,
        *,
        draws: int | None = None,
        exact: bool = True,
        random_seed: int | None = None,
        progressbar: bool = True,
    ) -> xr.DataTree:
        """P(y <= y_i) without row i, coefficients and random effects integrated out.

        Uniform where the model is calibrated.

        Parameters
        ----------
        draws, exact, progressbar
            As in :meth:`loo`.
        random_seed : int, optional
            Of the leave-one-out predictive draws.

        Returns
        -------
        xarray.DataTree
            Group loo_pit (exact given the draws, dimension obs), for
            ``az.plot_ecdf_pit(tree, group="loo_pit", sample_dims=["obs"])``; and what
            ``az.plot_loo_pit(tree)`` takes: log_likelihood and posterior_predictive are those
            of left-out rows.

        Raises
        ------
        SamplingError
            If the coefficients' priors are not normal or flat.

        Examples
        --------
        >>> pit = post.loo_pit()
        """
        from bayeslmm.results.loo_pit import loo_pit

        return loo_pit(
            self, draws=draws, exact=exact, random_seed=random_seed, progressbar=progressbar
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

        Examples
        --------
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "fit.nc"
        >>> post.save(path)
        >>> blm.load(path).fixef().equals(post.fixef())
        True
        """
        from bayeslmm.storage import save_fit

        save_fit(self, path)

    def equation(self, form: str = "conditional", format: str = "latex") -> str:
        """The model as an equation; see :meth:`bayeslmm.LMM.equation`.

        Examples
        --------
        >>> print(post.equation(form="marginal", format="text"))
        E(Reaction[i]) = beta0 + beta1 Days[i]
        Var(Reaction[i]) = z[i]' Sigma z[i] + sigma^2
        Cov(Reaction[i], Reaction[i']) = 1{Subject[i] = Subject[i']} z[i]' Sigma z[i'],  i' != i
        z[i] = (1, Days[i])
        Sigma[1,1] = tau0^2
        Sigma[2,2] = tau1^2
        Sigma[1,2] = rho01 tau0 tau1
        """
        return self.model.equation(form, format)

    def describe(self, *, level: float = 0.95) -> str:
        """How the posterior was made, and its tables, as text.

        Examples
        --------
        >>> post.describe().splitlines()[0]
        'Posterior of Reaction ~ Days + (Days | Subject)'
        """
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
        width = self.posterior.sizes["chain"] * self.posterior.sizes["draw"]
        for name in factors:
            labels, block = draws_of(design, self.names, self.posterior, name)
            table = summarize_blocks(
                block, labels.index, width, level=level, interval=interval, diagnostics=diagnostics
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
    return f"{info.chains} chains x {info.draws} draws after {info.tune} warm-up, {info.sampler}"


def _as_node(dataset: xr.Dataset) -> xr.DataTree:
    import xarray as xr

    return xr.DataTree(dataset)
