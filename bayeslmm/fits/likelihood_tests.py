"""Tests of a likelihood fit: coefficients, contrasts, terms and marginal means."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bayeslmm.errors import PACKAGE, DataError, ModelWarning
from bayeslmm.gaussian import TooManyEffectsError
from bayeslmm.likelihood.columnspace import ColumnSpace, column_space
from bayeslmm.likelihood.inference import (
    Inference,
    KenwardRogerInference,
    KnappHartungInference,
    NormalInference,
    SatterthwaiteInference,
    knapp_hartung,
    t_table,
)
from bayeslmm.results.contrasts import contextual_contrast, contrast_matrix
from bayeslmm.results.ratios import on_predictor_scale, with_ratios
from bayeslmm.results.tables import apart, check_level

if TYPE_CHECKING:
    from bayeslmm.likelihood.satterthwaite import VarianceCurvature
    from bayeslmm.protocols import LikelihoodResult as _Result
else:  # its properties are attributes here
    _Result = object

__all__ = ["LikelihoodTests"]

_DDF = ("satterthwaite", "kenward-roger", "knapp-hartung", "normal")
#: Short names of them, and how else they are written.
_SHORT = {"kr": "kenward-roger", "kh": "knapp-hartung", "z": "normal"}


def check_ddf(ddf: str | None) -> str | None:
    """The full name of a choice of degrees of freedom: ``"kr"``, ``"Kenward-Roger"``.

    Raises
    ------
    ValueError
        If there is no such choice.
    """
    if ddf is None or ddf in _DDF:
        return ddf
    written = str(ddf).lower().replace("_", "-").replace(" ", "-")
    name = _SHORT.get(written, written)
    if name not in _DDF:
        raise ValueError(
            f"ddf must be one of {', '.join(map(repr, _DDF))} ('kr', 'kh' and 'z' for short), not "
            f"{ddf!r}."
        )
    return name


class LikelihoodTests(_Result):
    """Tests and contrasts of the coefficients, with the degrees of freedom of the model."""

    def fixef(self, ddf: str | None = None, *, level: float = 0.95) -> pd.DataFrame:
        """Coefficients with tests and intervals.

        Parameters
        ----------
        ddf : {"satterthwaite", "kenward-roger", "knapp-hartung", "normal"}, optional
            Degrees of freedom of the t tests: Satterthwaite's (as lmerTest), which is the default,
            Kenward and Roger's with their adjusted standard errors (as pbkrtest), those of a
            meta-analysis, k studies less p coefficients, with the adjusted standard errors of
            Hartung and Knapp (2001) and Knapp and Hartung (2003), which may be smaller than the
            unadjusted ones; or infinite, the only choice where the response is not Gaussian.
        level : float
            Confidence level.

        Returns
        -------
        pandas.DataFrame
            Columns ``estimate se df t p lower upper``; NaN for an aliased coefficient. Where
            exponentials of coefficients are ratios, also these and their limits, such as
            ``odds_ratio ratio_lower ratio_upper``, named as by :meth:`PosteriorFit.fixef`.

        Raises
        ------
        ValueError
            If `ddf` or `level` is not valid.

        Examples
        --------
        >>> fit.fixef(ddf="kenward-roger")[["estimate", "se", "df"]].round(2)
                     estimate    se    df
        coefficient
        Intercept      251.41  6.82  17.0
        Days            10.47  1.55  17.0
        """
        return self.contrast(np.eye(self._problem.p), ddf=ddf, level=level, _names=True)

    def contrast(
        self, L, ddf: str | None = None, *, level: float = 0.95, _names: bool = False
    ) -> pd.DataFrame:
        """Linear combinations of the coefficients.

        Parameters
        ----------
        L : dict, DataFrame or array
            ``{"Days": 1, "Intercept": 2}`` is one combination, ``{"a": {...}, "b": {...}}`` are
            several; a frame has coefficients as columns; an array has one column per
            coefficient.
        ddf, level
            As in :meth:`fixef`.

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
        >>> fit.contrast({"Intercept": 1, "Days": 5})["estimate"].round(1).tolist()
        [303.7]
        """
        check_level(level)
        names = self.design.coef_names
        if _names:
            values, index = np.eye(len(names)), list(names)
        else:
            values, index = contrast_matrix(L, names)
        frame = self._t_frame(values, ddf, level)
        frame.index = pd.Index(index, dtype=object)
        frame.index.name = "coefficient" if _names else "contrast"
        if _names:
            frame.loc[list(self.model.aliased)] = np.nan
        elif not (estimable := self._estimable(values)).all():
            _warn("A combination that aliased columns leave undetermined is not estimable: NaN.")
            frame.loc[~estimable] = np.nan
        return on_predictor_scale(self.design.family, with_ratios(self.design.family, frame))

    def contextual_effect(
        self, x: str, g: str, ddf: str | None = None, *, level: float = 0.95
    ) -> pd.DataFrame:
        """What a group's mean of `x` adds beyond the row's own `x`: between minus within.

        Two rows with the same `x`, in groups whose means of `x` differ by one, differ by this
        much (Raudenbush and Bryk 2002, Hierarchical Linear Models, chapter 5). Where either
        coefficient has interactions, at 0 of the others.

        Parameters
        ----------
        x, g : str
            As in ``within(x, g)`` and ``between(x, g)``, both in the formula (or ``x`` itself in
            place of within).
        ddf, level
            As in :meth:`fixef`.

        Returns
        -------
        pandas.DataFrame
            One row, columns as of :meth:`contrast`.

        Raises
        ------
        ValueError
            If the model does not have the coefficients.

        Examples
        --------
        >>> import bayeslmm as blm
        >>> data = blm.load_dataset("mathachieve")
        >>> formula = "MathAch ~ within(SES, School) + between(SES, School) + (1 | School)"
        >>> fit = blm.LMM(formula, data).reml()
        >>> fit.contextual_effect("SES", "School")["estimate"].round(2).tolist()
        [3.68]
        """
        L = contextual_contrast(self.design.coef_names, x, g)
        return self.contrast(L, ddf, level=level)

    def _t_frame(self, rows: np.ndarray, ddf: str | None, level: float, offset=0.0) -> pd.DataFrame:
        table = t_table(rows[:, self.kept], self._solution.beta, self.inference(ddf), level, offset)
        return pd.DataFrame(table)

    @cached_property
    def column_space(self) -> ColumnSpace:
        """The space of the coefficients' columns, in terms of those that are kept."""
        return column_space(self.design.X_reduced, self.kept)

    def _estimable(self, rows: np.ndarray) -> np.ndarray:
        """Which combinations do not depend on how aliased columns are resolved, shape (k,)."""
        if not self.model.aliased:  # nothing to decompose
            return np.ones(len(rows), dtype=bool)
        return self.column_space.estimable(rows)

    def inference(self, ddf: str | None = None) -> Inference:
        """The test machinery for one choice of degrees of freedom.

        Raises
        ------
        ValueError
            If there is no such choice.
        DataError
            If it is one of a Gaussian response, and this is none.
        """
        gaussian = self.design.family.gaussian
        ddf = check_ddf(ddf)
        if ddf is None:
            ddf = "satterthwaite" if gaussian else "normal"
        if ddf != "normal" and not gaussian:
            raise DataError(
                f'ddf="{ddf}" is for Gaussian responses, whose variance is estimated apart from '
                f'their mean; with family="{self.design.family.name}" tests are normal ones: '
                'ddf="normal".'
            )
        if ddf == "satterthwaite":
            if self._curvature.flat or self.singular:
                _warn(
                    "The fit is at a boundary, where Satterthwaite's approximation depends on the "
                    "parametrization; degrees of freedom are those of lmerTest."
                )
            return SatterthwaiteInference(self._solution.vcov, self._curvature)
        if ddf == "kenward-roger":
            return self._kenward_roger
        if ddf == "knapp-hartung":
            return self._knapp_hartung
        return NormalInference(self._solution.vcov)

    @cached_property
    def _curvature(self) -> VarianceCurvature:
        return self._engine.curvature(self._solution)

    @cached_property
    def _kenward_roger(self) -> KenwardRogerInference:
        fit = self
        if not self.reml:
            _warn("Kenward-Roger needs REML: the model was refitted by REML for it.")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ModelWarning)
                fit = self.model.reml()
        if fit.singular:
            _warn(
                "The fit is at a boundary (" + "; ".join(fit.singular_components) + "), where the "
                "Kenward-Roger approximation is not justified."
            )
        try:
            adjustment = fit._engine.kenward_roger(fit._solution)
        except TooManyEffectsError as err:
            raise DataError(
                f"Kenward-Roger needs a dense matrix over the effects ({err}): use "
                'ddf="satterthwaite".'
            ) from None
        return KenwardRogerInference(adjustment)

    @cached_property
    def _knapp_hartung(self) -> KnappHartungInference:
        from bayeslmm.results.heterogeneity import studies_of

        studies = studies_of(self, 'ddf="knapp-hartung"')
        residuals = studies.y - studies.X @ self._solution.beta
        return knapp_hartung(self._solution.vcov, residuals, studies.variance + studies.tau2)

    def heterogeneity(self, *, level: float = 0.95) -> pd.DataFrame:
        """How much the effects of the studies of a meta-analysis differ.

        For one estimate with a known standard error per study, ``y | se(s) ~ ... + (1 | study)``.

        Parameters
        ----------
        level : float
            Level of the intervals.

        Returns
        -------
        pandas.DataFrame
            Columns ``estimate lower upper df p``. Rows: ``tau2``, the variance between studies,
            with its profile interval (of the ML deviance, also for a REML fit); ``I2`` and ``H2``,
            its share of, and ratio to, the variance of a typical study (Higgins and Thompson 2002,
            Statistics in Medicine 21(11), eq. 9; with moderators (k - p) / tr(P) as metafor), the
            limits those of tau2; ``Q``, the chi-squared statistic of equal effects; and, where
            there are no moderators, ``new study``: the mean with the prediction interval of
            another study's effect, t with k - 2 df (Higgins, Thompson and Spiegelhalter 2009,
            Journal of the Royal Statistical Society A 172(1)).

        Raises
        ------
        DataError
            If the model is another one.

        Examples
        --------
        >>> import bayeslmm as blm
        >>> meta = blm.LMM("yi | se(sei) ~ 1 + (1 | trial)", blm.load_dataset("bcg")).reml()
        >>> meta.heterogeneity()["estimate"].round(3).head(3).tolist()
        [0.313, 0.922, 12.856]
        """
        from bayeslmm.results.heterogeneity import heterogeneity_table

        check_level(level)
        return heterogeneity_table(self, level)

    def anova(self, type: int = 3, ddf: str | None = None) -> pd.DataFrame:
        """F tests of the fixed terms.

        Parameters
        ----------
        type : {1, 2, 3}
            Sequential; what a term adds to all that do not contain it; or comparing equally
            weighted cells, with continuous covariates at 0. As in lmerTest where no cell is
            empty; none depends on coding, or on which of dependent columns is aliased.
        ddf : str
            As in :meth:`fixef`.

        Returns
        -------
        pandas.DataFrame
            One row per term, columns ``numdf dendf F p``; NaN, with a warning, where empty cells
            or other terms leave nothing to test.

        Examples
        --------
        >>> fit.anova().round(3)
              numdf  dendf       F    p
        term
        Days    1.0   17.0  45.853  0.0
        """
        from bayeslmm.results.anova import anova_table

        return anova_table(self, type, ddf)

    def marginal_means(
        self,
        terms: str | list[str],
        *,
        by: str | list[str] | None = None,
        at: Mapping[str, Any] | None = None,
        weights: str = "equal",
        ddf: str | None = None,
        level: float = 0.95,
    ) -> pd.DataFrame:
        """Estimated marginal means of the levels of one or several factors.

        Parameters
        ----------
        terms : str or list of str
            Columns of the data that are factors in the model.
        by : str or list of str, optional
            Further columns, each combination of whose levels has means of its own.
        at : dict, optional
            Values of numeric columns; by default their means.
        weights : {"equal", "proportional", "outer", "cells", "flat"}
            Of the levels of factors that are averaged over, named as by emmeans: equal ones;
            frequencies of their combinations; products of frequencies of levels; frequencies of
            cells, combinations with the levels wanted; or equal ones of the cells that have data.
            Of factors that are nested in others the levels that exist count equally.
        ddf, level
            As in :meth:`fixef`.

        Returns
        -------
        pandas.DataFrame
            The factors' levels and ``estimate se df t p lower upper`` (Searle, Speed and Milliken
            1980, The American Statistician 34(4)). Means of the linear predictor:
            :meth:`predictions` has those of a response that is not Gaussian.

        Examples
        --------
        >>> import bayeslmm as blm
        >>> data = blm.load_dataset("machines")
        >>> fit = blm.LMM("score ~ Machine + (1 | Worker)", data).reml()
        >>> fit.marginal_means("Machine")["estimate"].round(1).tolist()
        [52.4, 60.3, 66.3]
        """
        from bayeslmm.results.marginal_means import marginal_rows

        labels, L, offset = marginal_rows(self, terms, by, at, weights)
        table = self._rows(L, ddf, level, offset)
        table = pd.concat([apart(labels, table), table], axis=1)
        return on_predictor_scale(self.design.family, table)

    def pairwise(
        self,
        terms: str | list[str],
        *,
        by: str | list[str] | None = None,
        method: str | None = None,
        reference: Any = None,
        adjust: str | None = "holm",
        at: Mapping[str, Any] | None = None,
        weights: str = "equal",
        ddf: str | None = None,
        level: float = 0.95,
    ) -> pd.DataFrame:
        """Differences of marginal means, of all pairs or with a reference level.

        Parameters
        ----------
        by : str or list of str, optional
            Means are compared within each combination of these columns' levels (simple effects),
            and p values adjusted within it.
        method : {"pairwise", "reference", "sequential"}, optional
            All pairs, the first minus the second (the default); each level minus the first (the
            default with ``adjust="dunnett"`` or a `reference`); or each minus the one before.
        reference : level, optional
            What stands for the first level, ``"placebo"``; of two terms ``"placebo male"``.
        adjust : {"holm", "bonferroni", "fdr", "tukey", "dunnett", None}
            Adjustment of p values for the number of comparisons. Bonferroni's, Tukey's (of all
            pairs) and Dunnett's also widen the intervals. Dunnett's is exact: the correlated t
            statistics are integrated, as by ``adjust="mvt"`` of emmeans.
        terms, at, weights, ddf, level
            As in :meth:`marginal_means`.

        Returns
        -------
        pandas.DataFrame
            ``contrast estimate se df t p lower upper``, on the scale of the linear predictor, and
            ratios as in :meth:`fixef`; :meth:`comparisons` compares means of a response that is
            not Gaussian.

        Raises
        ------
        ValueError
            If there is only one mean, or no such method, adjustment or reference.

        Examples
        --------
        >>> import bayeslmm as blm
        >>> data = blm.load_dataset("machines")
        >>> fit = blm.LMM("score ~ Machine + (1 | Worker)", data).reml()
        >>> fit.pairwise("Machine")["estimate"].round(1).tolist()
        [-8.0, -13.9, -5.9]
        """
        from bayeslmm.results.marginal_means import adjust_comparisons, comparison_rows

        default = "pairwise" if reference is None and adjust != "dunnett" else "reference"
        method = method or default
        found = comparison_rows(self, terms, by, at, weights, method, reference)
        table = self._rows(found.L, ddf, level, found.offset)
        vcov = self.inference(ddf).vcov
        table = adjust_comparisons(table, found, adjust, level, vcov, self.kept, method)
        table = pd.concat([apart(found.labels, table), table], axis=1)
        table = with_ratios(self.design.family, table)
        return on_predictor_scale(self.design.family, table)

    def _rows(
        self, L: np.ndarray, ddf: str | None, level: float, offset: np.ndarray
    ) -> pd.DataFrame:
        check_level(level)
        frame = self._t_frame(L, ddf, level, offset)
        if not (estimable := self._estimable(L)).all():
            _warn("A mean that empty cells or aliased columns leave undetermined is NaN.")
            frame.loc[~estimable] = np.nan
        return frame


def _warn(text: str) -> None:
    warnings.warn(text, ModelWarning, skip_file_prefixes=PACKAGE)
