"""Tables of a posterior: coefficients, components, effects, and combinations of coefficients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from bayeslmm.bayes.draws import (
    coefficient_draws,
    component_draws,
    effect_draws,
    level_coefficient_draws,
)
from bayeslmm.fits.posterior_draws import PosteriorDraws
from bayeslmm.results.contrasts import contextual_contrast, contrast_matrix
from bayeslmm.results.marginal_means import comparison_rows, marginal_rows
from bayeslmm.results.ratios import on_predictor_scale, ratios_of_draws
from bayeslmm.results.tables import apart, check_level, summarize_blocks, summarize_draws

__all__ = ["PosteriorTables"]


class PosteriorTables(PosteriorDraws):
    """Methods of :class:`bayeslmm.PosteriorFit` that summarize draws."""

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

        References
        ----------
        Effective sample sizes and r-hat: Vehtari, Gelman, Simpson, Carpenter and Buerkner (2021),
        Bayesian Analysis 16(2); https://doi.org/10.1214/20-BA1221

        Examples
        --------
        >>> post.summary().index[:2].tolist()
        ['Intercept', 'Days']
        """
        coefficients = coefficient_draws(self.model.design, self.posterior)
        table = pd.concat(
            [
                self._table(coefficients, "coefficient", level, interval),
                self.varcomp(level=level, interval=interval),
            ]
        )
        table.attrs["missing"] = self.model.design.missing.describe()
        return table

    def fixef(self, *, level: float = 0.95, interval: str = "eti") -> pd.DataFrame:
        """Coefficients (fixed effects); columns as in :meth:`summary`.

        Where their exponentials are ratios, as of odds with the logit link, also their posterior
        medians and intervals: ``odds_ratio`` (of ordered categories: of the odds of a higher one),
        ``rate_ratio`` (log link of counts), ``risk_ratio`` (log link of 0/1 and trials), ``ratio``
        (of means) or ``hazard_ratio`` (complementary log-log), ``ratio_lower`` and
        ``ratio_upper``. That of the intercept is no ratio but the odds, rate or mean itself.

        Examples
        --------
        >>> post.fixef().index.tolist()
        ['Intercept', 'Days']
        """
        check_level(level, interval)
        names, draws = coefficient_draws(self.model.design, self.posterior)
        table = summarize_blocks(
            lambda part: draws[..., part],
            pd.Index(names, name="coefficient", dtype=object),
            draws.shape[0] * draws.shape[1],
            level=level,
            interval=interval,
            more=lambda part: self._ratios(part, level, interval),
        )
        return on_predictor_scale(self.model.design.family, table)

    def _ratios(self, draws: np.ndarray, level: float, interval: str) -> dict[str, np.ndarray]:
        return ratios_of_draws(self.model.design.family, draws, level, interval)

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

    def imputed(self, *, level: float = 0.95, interval: str = "eti") -> pd.DataFrame:
        """Posterior of the unknown covariate values: missing ones, and true ones of readings.

        Parameters
        ----------
        level, interval
            As in :meth:`summary`.

        Returns
        -------
        pandas.DataFrame
            Columns ``covariate row mean sd lower upper ...``, one row per unknown value; ``row``
            is its index label in the data. Rows of one group share the value where a covariate
            is constant within groups. Of a covariate with two values ``probability`` is that of
            the second one, which ``value`` names; its mean is there only if they are numbers.
        """
        from bayeslmm.bayes.covariates import covariate_names

        check_level(level, interval)
        tables = [pd.DataFrame(columns=["covariate", "row", "mean", "sd", "lower", "upper"])]
        for covariate in self.model.design.modeled:
            draws = self.posterior[covariate_names(covariate).missing].to_numpy()
            with np.errstate(invalid="ignore"):  # r-hat of two values of even odds has no spread
                table = summarize_blocks(
                    partial(_rows_of, _in_units(draws, covariate.values), covariate.unit),
                    range(len(covariate.rows)),
                    draws.shape[0] * draws.shape[1],
                    level=level,
                    interval=interval,
                )
            table.insert(0, "covariate", covariate.name)
            table.insert(1, "row", self.model.design.index[covariate.rows])
            if covariate.values is not None:
                table["value"] = [covariate.values[1]] * len(table)
                table["probability"] = draws.mean(axis=(0, 1))[covariate.unit]
                if _are_words(covariate.values):
                    table[["mean", "sd", "lower", "upper"]] = np.nan
            tables.append(table)
        return pd.concat(tables[1:] or tables, ignore_index=True)

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

        Returns
        -------
        pandas.DataFrame
            Columns as in :meth:`fixef`, on the scale of the linear predictor, which
            ``attrs["scale"]`` names where the response is not Gaussian.

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
        table = self._combined(
            rows, 0.0, index, level, interval, lambda draws: self._ratios(draws, level, interval)
        )
        return on_predictor_scale(self.model.design.family, table)

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
        self,
        terms: str | list[str],
        *,
        by: str | list[str] | None = None,
        at=None,
        weights: str = "equal",
        level: float = 0.95,
        interval: str = "eti",
    ) -> pd.DataFrame:
        """Marginal means of the levels of one or several factors, as posterior summaries.

        Means of the linear predictor; :meth:`predictions` has those of a response that is not
        Gaussian.

        Parameters
        ----------
        terms, by, at, weights
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
        labels, rows, offset = marginal_rows(self, terms, by, at, weights)
        names = [" ".join(map(str, row)) for row in labels.itertuples(index=False)]
        table = self._combined(rows, offset, labels.index, level, interval, names=names)
        table = pd.concat([apart(labels, table), table], axis=1)
        return on_predictor_scale(self.model.design.family, table)

    def pairwise(
        self,
        terms: str | list[str],
        *,
        by: str | list[str] | None = None,
        method: str = "pairwise",
        at=None,
        weights: str = "equal",
        level: float = 0.95,
        interval: str = "eti",
    ) -> pd.DataFrame:
        """Differences of marginal means, with the probability of being positive.

        On the scale of the linear predictor, with ratios as in :meth:`fixef`;
        :meth:`comparisons` compares means of a response that is not Gaussian.

        Parameters
        ----------
        by, method
            As in :meth:`bayeslmm.LikelihoodFit.pairwise`.
        terms, at, weights, level, interval
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
        found = comparison_rows(self, terms, by, at, weights, method)
        labels = found.labels
        table = self._combined(
            found.L,
            found.offset,
            labels.index,
            level,
            interval,
            lambda draws: {
                "p_positive": (draws > 0).mean(axis=(0, 1)),
                **self._ratios(draws, level, interval),
            },
            names=labels["contrast"],
        )
        table = pd.concat([apart(labels, table), table], axis=1)
        return on_predictor_scale(self.model.design.family, table)

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
        warn_of_priors_alone(self, rows, names)
        beta, offset = self.posterior["beta"].to_numpy(), np.broadcast_to(offset, len(rows))
        return summarize_blocks(
            lambda part: beta @ rows[part].T + offset[part],
            index,
            beta.shape[0] * beta.shape[1],
            level=level,
            interval=interval,
            more=more,
        )

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


def _in_units(draws: np.ndarray, values: tuple | None) -> np.ndarray:
    """Draws of 0 and 1 as the two numbers they stand for, if they do."""
    if values is None or _are_words(values):
        return draws
    return np.where(draws == 1, float(values[1]), float(values[0]))


def _are_words(values: tuple) -> bool:
    return any(isinstance(value, str) for value in values)


def _rows_of(draws: np.ndarray, unit: np.ndarray, part: slice) -> np.ndarray:
    """Draws of some rows, each of which has the value of its unit."""
    return draws[..., unit[part]]
