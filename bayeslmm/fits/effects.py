"""Effects on the scale of the question, of both fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

__all__ = ["Effects"]


class Effects:
    """Predictions, comparisons, slopes and hypotheses of both fits."""

    def predictions(
        self: Any,
        by: str | list[str] | None = None,
        *,
        at: Mapping[str, Any] | None = None,
        newdata=None,
        weights: str = "data",
        random: str | None = None,
        kind: str = "mean",
        ddf: str | None = None,
        level: float = 0.95,
        interval: str = "eti",
        random_seed: int | None = None,
    ) -> pd.DataFrame:
        """Average predictions: of the data, of parts of them, or of a balanced grid.

        Parameters
        ----------
        by : str or list of str, optional
            Columns whose values each have an average. Without them there is one average of all
            fitted rows, or each row of `newdata` is one.
        at : dict, optional
            Values that all rows get in a column, as if they had them; each of several has averages
            of its own.
        newdata : data frame, optional
            Rows to average over in place of those fitted.
        weights : {"data", "equal", "proportional", "outer", "cells", "flat"}
            Rows of the data, each once; or of a grid of all factors' levels, numbers at their
            means, with weights as in :meth:`marginal_means`.
        random : {"population", "marginal", "conditional", "new"}, optional
            Of the average group, whose effects are 0; averaged over the population of groups,
            which differs where the response is not Gaussian; with each group's own effects, the
            default where `by` has a grouping factor; or of one new group, whose effects are
            uncertain.
        kind : {"mean", "link"}
            The mean response (of ordered categories the probability of each), or the linear
            predictor.
        ddf : str, optional
            Degrees of freedom of a likelihood fit, as in its ``fixef``.
        level, interval
            As in the posterior's ``summary``.
        random_seed : int, optional
            Of a posterior's new groups.

        Returns
        -------
        pandas.DataFrame
            The labels (one that is named as another column of the table ends with an underscore)
            and ``estimate se df t p lower upper`` of a likelihood fit (without ``df t p`` for
            means that are not linear in the coefficients, whose intervals are by the delta method
            on the scale of the link), ``mean sd lower upper`` and diagnostics of a posterior.

        Raises
        ------
        ValueError
            If a column is not there, or there is no such choice.
        DataError
            If a likelihood fit is asked for what only a posterior has.

        References
        ----------
        Arel-Bundock, Greifer and Heiss (2024), Journal of Statistical Software 111(9);
        https://doi.org/10.18637/jss.v111.i09

        Examples
        --------
        >>> fit.predictions(at={"Days": [0, 9]})["estimate"].round(1).tolist()
        [251.4, 345.6]
        """
        from bayeslmm.results.asked import Asked
        from bayeslmm.results.effects import predictions_table

        asked = Asked(by, at, newdata, weights, random, kind, level, interval, ddf, random_seed)
        return predictions_table(self, asked)

    def comparisons(  # noqa: PLR0913
        self: Any,
        variables: str | list[str] | Mapping[str, Any] | None = None,
        by: str | list[str] | None = None,
        *,
        measure: str = "difference",
        method: str = "reference",
        at: Mapping[str, Any] | None = None,
        newdata=None,
        weights: str = "data",
        random: str | None = None,
        kind: str = "mean",
        ddf: str | None = None,
        level: float = 0.95,
        interval: str = "eti",
        random_seed: int | None = None,
    ) -> pd.DataFrame:
        """What the mean changes by where one variable changes and the others stay.

        Averages of the rows with one value and with another of the variable are compared, as by
        ``avg_comparisons`` of marginaleffects: the later value minus (or over) the earlier. A step
        goes from each row's value up (the Python package centers it).

        Parameters
        ----------
        variables : str, list of str or dict, optional
            Columns; all of the formula by default. With a dict what is compared: for numbers a
            step, such as ``{"Days": 1}`` (the default), ``"sd"``, ``"2sd"``, ``"iqr"`` or
            ``"minmax"``; two values ``(a, b)`` of any column; for levels one of `method`.
        by : str or list of str, optional
            Columns whose values each have comparisons of their own.
        measure : {"difference", "ratio", "odds_ratio"}
            Of averages of means; the last of events' probabilities.
        method : {"reference", "pairwise", "sequential"}
            Levels are compared with the first; all pairs; or each with the one before.
        at, newdata, weights, random, kind, ddf, level, interval, random_seed
            As in :meth:`predictions`.

        Returns
        -------
        pandas.DataFrame
            ``variable contrast``, the labels, and columns as in :meth:`predictions`; of a
            posterior also ``p_positive``, for ratios ``median`` and ``p_above_1``.

        Raises
        ------
        ValueError, DataError
            As :meth:`predictions`; or if a mean that is 0 or less has no ratio.

        Examples
        --------
        >>> fit.comparisons({"Days": 2})["estimate"].round(1).tolist()
        [20.9]
        """
        from bayeslmm.results.asked import Asked
        from bayeslmm.results.effects import comparisons_table

        asked = Asked(by, at, newdata, weights, random, kind, level, interval, ddf, random_seed)
        return comparisons_table(self, variables, asked, measure, method)

    def slopes(  # noqa: PLR0913
        self: Any,
        variables: str | list[str],
        by: str | list[str] | None = None,
        *,
        at: Mapping[str, Any] | None = None,
        newdata=None,
        weights: str = "data",
        random: str | None = None,
        kind: str = "mean",
        ddf: str | None = None,
        level: float = 0.95,
        interval: str = "eti",
        random_seed: int | None = None,
    ) -> pd.DataFrame:
        """Average slopes: what the mean changes by per unit of a number, at the rows.

        Parameters
        ----------
        variables : str or list of str
            Columns of numbers.
        by : str or list of str, optional
            Columns whose values each have a slope: of a grouping factor the slopes of its groups.
        at, newdata, weights, random, kind, ddf, level, interval, random_seed
            As in :meth:`predictions`.

        Returns
        -------
        pandas.DataFrame
            ``variable``, the labels, and columns as in :meth:`comparisons`. Derivatives are
            symmetric differences over 1/5,000 of the column's range.

        Raises
        ------
        ValueError, DataError
            As :meth:`predictions`; or if a column is no number.

        Examples
        --------
        >>> fit.slopes("Days")[["estimate", "se", "df"]].round(2).iloc[0].tolist()
        [10.47, 1.55, 17.0]
        >>> fit.slopes("Days", by="Subject").head(2).round(1)[["Subject", "estimate", "se"]]
          Subject  estimate   se
        0     308      19.7  2.3
        1     309       1.8  2.3
        """
        from bayeslmm.results.asked import Asked
        from bayeslmm.results.effects import slopes_table

        asked = Asked(by, at, newdata, weights, random, kind, level, interval, ddf, random_seed)
        return slopes_table(self, variables, asked)

    def hypothesis(
        self: Any,
        hypotheses: str | list[str],
        *,
        ddf: str | None = None,
        adjust: str | None = None,
        level: float = 0.95,
        interval: str = "eti",
    ) -> pd.DataFrame:
        """Hypotheses on parameters as text, such as ``"Days > 5"`` or ``"arm[b] = arm[c]"``.

        Parameters
        ----------
        hypotheses : str or list of str
            Two expressions with ``<``, ``>`` or ``=`` between. In them coefficients, by name as in
            :meth:`fixef` (backquotes may be put around it), of a posterior also standard
            deviations and correlations as in :meth:`varcomp`, numbers, ``+ - * / **``, ``exp``,
            ``log`` and ``sqrt``.
        ddf : str, optional
            Of a likelihood fit, as in its :meth:`fixef`.
        adjust : {"holm", "bonferroni", "fdr", "dunnett"}, optional
            Of a likelihood fit, as in its :meth:`pairwise`.
        level, interval
            As in the posterior's ``summary``.

        Returns
        -------
        pandas.DataFrame
            One row per hypothesis, of the left side minus the right: ``hypothesis`` and of a
            likelihood fit ``estimate se df t p lower upper``, by the delta method where it is not
            linear; p is one-sided with a direction, small where the data speak for it. Of a
            posterior the columns of ``summary``, ``probability`` of a hypothesis with a direction,
            and ``bayes_factor`` for a linear one on coefficients: posterior odds over prior odds
            (at most what the number of draws can tell), or of ``=`` the Savage-Dickey ratio
            against the parameter being free (:func:`bayeslmm.savage_dickey`); NaN where the prior
            is improper, or there is no closed form of it.

        Raises
        ------
        ValueError
            If a hypothesis cannot be read, or names what is no parameter.

        References
        ----------
        Bayes factors of hypotheses with ``=``: Wagenmakers, Lodewyckx, Kuriyal and Grasman (2010),
        Cognitive Psychology 60(3); https://doi.org/10.1016/j.cogpsych.2009.12.001

        Examples
        --------
        >>> fit.hypothesis("Days > 5")[["estimate", "t", "p"]].round(4).iloc[0].tolist()
        [5.4673, 3.5369, 0.0013]
        """
        from bayeslmm.reanalysis.hypotheses import hypothesis_table

        return hypothesis_table(self, hypotheses, level, interval, ddf, adjust)
