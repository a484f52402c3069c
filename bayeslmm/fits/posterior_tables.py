"""Tables of a posterior: coefficients, components, effects, unknown covariate values."""

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
from bayeslmm.fits.posterior_contrasts import PosteriorContrasts
from bayeslmm.results.ratios import on_predictor_scale
from bayeslmm.results.tables import check_level, summarize_blocks, summarize_draws

__all__ = ["PosteriorTables"]


class PosteriorTables(PosteriorContrasts):
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

        Parameters
        ----------
        level, interval
            As in :meth:`summary`.

        Returns
        -------
        pandas.DataFrame
            One row per coefficient, columns as in :meth:`summary`.

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

    def varcomp(self, *, level: float = 0.95, interval: str = "eti") -> pd.DataFrame:
        """Standard deviations and correlations of the random effects, and sigma.

        Columns as in :meth:`summary`; standard deviations in the units of the response (per
        unit of the covariate for slopes).

        Parameters
        ----------
        level, interval
            As in :meth:`summary`.

        Returns
        -------
        pandas.DataFrame
            One row per component.

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

        Parameters
        ----------
        factor, level, interval, diagnostics
            As in :meth:`ranef`.

        Returns
        -------
        pandas.DataFrame
            One row per level and effect.

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
