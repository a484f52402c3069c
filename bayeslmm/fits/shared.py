"""What both fits say in the same words: functions of ``results.estimates.Estimates``.

A likelihood fit gives its estimates, a posterior a mean over its draws. A result of both stands
here, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

__all__ = ["SharedResults"]


class SharedResults:
    """Methods of :class:`bayeslmm.LikelihoodFit` and :class:`bayeslmm.PosteriorFit`."""

    def equation(self: Any, form: str = "conditional", format: str = "latex") -> str:
        """The model as an equation; see :meth:`bayeslmm.LMM.equation`.

        Parameters
        ----------
        form : {"conditional", "marginal"}
            Given the groups' own effects, or with them integrated out.
        format : {"latex", "text"}

        Returns
        -------
        str

        Examples
        --------
        >>> print(fit.equation(format="text"))
        Reaction[i] = beta0 + beta1 Days[i] + b0[Subject[i]] + b1[Subject[i]] Days[i] + error[i]
        (b0[j], b1[j]) ~ Normal(0, Sigma),  j = 1, ..., 18 (Subject)
        Sigma[1,1] = tau0^2
        Sigma[2,2] = tau1^2
        Sigma[1,2] = rho01 tau0 tau1
        error[i] ~ Normal(0, sigma^2)
        """
        return self.model.equation(form, format)

    def implied_covariance(self: Any, data=None) -> pd.DataFrame:
        """Marginal covariance of a group's responses, in squared units of the response.

        Of a posterior its mean; with Student-t residuals or effects, whose variances have no
        posterior mean, the one at the posterior medians of the variances, infinite where the
        median of nu is 2 or less.

        Parameters
        ----------
        data : data frame, optional
            The covariates (and times) of the group's rows; by default those of the first group.

        Returns
        -------
        pandas.DataFrame, shape (m, m)
            The m rows of the group as rows and columns.

        Examples
        --------
        >>> fit.implied_covariance().shape, post.implied_covariance().shape
        ((10, 10), (10, 10))
        """
        from bayeslmm.results.implied import implied_table

        return implied_table(self, data, correlation=False)

    def implied_correlation(self: Any, data=None) -> pd.DataFrame:
        """Marginal correlation of a group's responses; as :meth:`implied_covariance`.

        Parameters
        ----------
        data : data frame, optional
            As in :meth:`implied_covariance`.

        Returns
        -------
        pandas.DataFrame, shape (m, m)

        Examples
        --------
        >>> fit.implied_correlation().iloc[0, [0, 1, 9]].round(2).tolist()
        [1.0, 0.48, 0.3]
        """
        from bayeslmm.results.implied import implied_table

        return implied_table(self, data, correlation=True)

    def average_effects(
        self: Any,
        terms: str | list[str] | None = None,
        *,
        newdata=None,
        at: Mapping[str, Any] | None = None,
        level: float = 0.95,
        interval: str = "eti",
    ) -> pd.DataFrame:
        """Means of the average group and of the population of groups, side by side.

        The average group has random effects of 0, and its mean is g^-1(x'beta). The population's
        is the mean over all groups, E g^-1(x'beta + z'b) with b from its estimated distribution:
        what a share or a mean of many new groups would be. The two are the same where the
        response is Gaussian; with the logit link the population's is nearer one half.

        Parameters
        ----------
        terms : str or list of str, optional
            Columns whose levels are wanted, other factors averaged over with equal weights on the
            scale of the response. By default every combination of all factors' levels.
        newdata : data frame, optional
            Rows to take in place of a grid; grouping columns are not needed.
        at : dict, optional
            A value of numeric columns, or several; by default their means.
        level, interval
            As in the posterior's ``summary``.

        Returns
        -------
        pandas.DataFrame
            The labels; ``average_group`` and ``population_average``, each with columns ending in
            ``_lower`` and ``_upper``; of an ordinal response one row per ``category``. Of a
            posterior means over its draws; of a likelihood fit estimates and intervals by the
            delta method on the scale of the link. Means of counts of trials are per trial.

        Raises
        ------
        ValueError
            If a column is not in the formula.
        DataError
            If the link has no mean over normal effects, as the inverse.

        References
        ----------
        Zeger, Liang and Albert (1988), Biometrics 44(4); https://doi.org/10.2307/2531734

        Examples
        --------
        >>> fit.average_effects(at={"Days": [0, 9]}).round(1).iloc[:, :3]
           Days  average_group  average_group_lower
        0     0          251.4                238.0
        1     9          345.6                316.9
        """
        from bayeslmm.results.average_effects import average_effects_table

        return average_effects_table(self, terms, newdata, at, level, interval)

    def average_contrasts(
        self: Any,
        terms: str | list[str] | None = None,
        *,
        newdata=None,
        at: Mapping[str, Any] | None = None,
        level: float = 0.95,
        interval: str = "eti",
    ) -> pd.DataFrame:
        """Differences and ratios of all pairs of means of :meth:`average_effects`.

        Always the first minus (over) the second of two, in the order of levels or of what `at`
        gives, as ``contrast`` spells it: ``"a - b"``, as pairs of emmeans. ``avg_comparisons`` of
        marginaleffects has b - a.

        With probabilities, the risk difference, the risk ratio and the odds ratio: of the average
        group, and of the population, whose odds ratio is nearer 1 than that of any one group.

        Parameters
        ----------
        terms, newdata, at, level, interval
            As in :meth:`average_effects`.

        Returns
        -------
        pandas.DataFrame
            ``contrast measure`` (``difference``, ``ratio``, ``odds_ratio``) and the columns of
            :meth:`average_effects`; of a posterior means of differences, medians of ratios.

        Raises
        ------
        ValueError
            If there is only one mean.

        Examples
        --------
        >>> fit.average_contrasts(at={"Days": [9, 0]}).round(1).iloc[:, :3]
          contrast     measure  average_group
        0    9 - 0  difference           94.2
        """
        from bayeslmm.results.average_effects import average_contrasts_table

        return average_contrasts_table(self, terms, newdata, at, level, interval)

    def check(self: Any) -> pd.DataFrame:
        """What to look at before the fit is trusted, and what to do about it.

        Values far outside of the bulk of their column; groups that carry the fit (see
        :meth:`influence`); of a posterior predictive checks that fail, and priors that the data
        contradict; of a likelihood fit what a boundary hints at. :meth:`describe` says the same.

        Returns
        -------
        pandas.DataFrame
            Columns ``check``, ``finding``, ``what to do``; no rows where nothing was found.

        Examples
        --------
        >>> len(fit.check())
        0
        """
        from bayeslmm.fits.checks import findings_of
        from bayeslmm.results.findings import findings_table

        return findings_table(findings_of(self))

    def influence(self: Any, factor: str | None = None) -> pd.DataFrame:
        """How far the coefficients move when each level of a factor is left out.

        Exact at the fit's covariance parameters, which are not estimated anew: Cook's distance of
        groups (Cook 1977; Demidenko and Stukel 2005). Of a posterior at the means of covariances
        and log standard deviations, under the normal priors of the coefficients (others taken as
        normal with their center and spread).

        Parameters
        ----------
        factor : str, optional
            Grouping factor; by default the first.

        Returns
        -------
        pandas.DataFrame
            One row per level: ``rows``; ``cooks_distance``, (b - b_(-j))' V^-1 (b - b_(-j)) / p
            with V the covariance of the p coefficients, infinite where the other levels do not
            determine them; ``p``, the chance of such a move under the model (chi-squared);
            ``se_ratio``, the largest factor by which a standard error grows; and per coefficient
            ``dfbetas ...``, b - b_(-j) in standard errors of b.

        Raises
        ------
        KeyError
            If there is no such grouping factor.
        DataError
            If the response is not Gaussian, a distribution is Student-t, covariates are modeled,
            rows are not in memory, or there is no grouping factor or no coefficient.

        References
        ----------
        - Cook (1977), Technometrics 19(1); https://doi.org/10.1080/00401706.1977.10489493
        - Demidenko and Stukel (2005), Statistics in Medicine 24(6)

        Examples
        --------
        >>> fit.influence()["cooks_distance"].idxmax()
        '309'
        """
        from bayeslmm.results.influence import influence_table

        return influence_table(self, factor)

    def reliability(
        self: Any, factor: str | None = None, *, level: float = 0.95, interval: str = "eti"
    ) -> pd.DataFrame:
        """Reliability of every level's predicted effects, 1 - Var(b_j | y) / Var(b_j).

        The share of an effect's variance that the rows of its level tell, the others' being
        shrunk away: with a random intercept tau^2 / (tau^2 + sigma^2 / n_j) (Raudenbush and Bryk
        2002, chapter 3). Coefficients and variance parameters are taken as known.

        Parameters
        ----------
        factor : str, optional
            One grouping factor; by default all.
        level, interval
            Of a posterior's intervals, as in its ``summary``.

        Returns
        -------
        pandas.DataFrame
            Columns ``group level effect`` and ``estimate``, of a posterior ``mean sd lower upper``
            over its draws and perhaps ``ess_bulk ess_tail r_hat``.

        Raises
        ------
        KeyError
            If there is no such grouping factor.
        DataError
            With Student-t distributions or modeled covariates, where there is no closed form.

        References
        ----------
        Raudenbush and Bryk (2002), Hierarchical Linear Models, 2nd edition, chapter 3

        Examples
        --------
        >>> fit.reliability().head(2).round(3)
             group level     effect  estimate
        0  Subject   308  Intercept     0.762
        1  Subject   308       Days     0.849
        """
        from bayeslmm.results.reliability import reliability_table

        return reliability_table(self, factor, level, interval)
