"""The REML or maximum likelihood fit: estimates, tests, intervals, simulation."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError, ModelWarning
from bayeslmm.fits.plotting import FitPlots
from bayeslmm.formula import Design
from bayeslmm.gaussian import Problem, TooManyEffectsError, effect_covariances, solve
from bayeslmm.likelihood.columnspace import ColumnSpace, column_space
from bayeslmm.likelihood.inference import (
    Inference,
    KenwardRogerInference,
    NormalInference,
    SatterthwaiteInference,
    t_table,
)
from bayeslmm.likelihood.kenward_roger import kenward_roger
from bayeslmm.likelihood.optimize import Optimum
from bayeslmm.likelihood.satterthwaite import VarianceCurvature, variance_curvature
from bayeslmm.priors.table import component_names
from bayeslmm.results.contrasts import contextual_contrast, contrast_matrix
from bayeslmm.results.prediction import likelihood_prediction, row_weights
from bayeslmm.results.tables import check_level, format_table

if TYPE_CHECKING:
    from bayeslmm.protocols import LikelihoodResult, Model

__all__ = ["LikelihoodFit"]

_DDF = ("satterthwaite", "kenward-roger", "normal")


class LikelihoodFit(FitPlots):
    """A model fitted by REML or maximum likelihood.

    Made by :meth:`bayeslmm.LMM.reml` and :meth:`bayeslmm.LMM.ml`.

    Attributes
    ----------
    model : Model
    method : {"REML", "ML"}
    theta : ndarray
        Free entries of the relative covariance factors, in the order of the grouping factors
        in the formula (lme4 sorts the factors by their number of levels).
    sigma : float
        Residual standard deviation, in the response's units.
    loglik, deviance, aic, bic : float
        Log-likelihood (restricted for REML), -2 times it, and the criteria from it.
    converged, singular : bool
        Whether the optimizer converged; whether a covariance matrix is singular.
    n_evaluations : int
        Evaluations of the criterion.

    Examples
    --------
    The examples of the methods go on from here.

    >>> import bayeslmm as blm
    >>> data = blm.load_dataset("sleepstudy")
    >>> fit = blm.LMM("Reaction ~ Days + (Days | Subject)", data).reml()
    >>> fit.converged, fit.singular, round(fit.loglik, 3)
    (True, False, -871.814)
    """

    sigma: float
    loglik: float

    def __init__(self, model: Model, problem: Problem, optimum: Optimum, *, reml: bool):
        self.model, self.reml, self.optimum = model, reml, optimum
        self.method = "REML" if reml else "ML"
        self._problem = problem
        self._solution = solve(problem, optimum.theta, reml)
        self.theta, self.sigma = optimum.theta, self._solution.sigma
        self.loglik = -0.5 * optimum.criterion
        self.converged, self.n_evaluations = optimum.converged, optimum.n_evaluations

    @property
    def design(self) -> Design:
        """The model's design."""
        return self.model.design

    @cached_property
    def kept(self) -> np.ndarray:
        """Positions of the coefficients that are estimated (not aliased)."""
        names = self.design.coef_names
        return np.array([j for j, n in enumerate(names) if n not in self.model.aliased], dtype=int)

    @property
    def n_parameters(self) -> int:
        """Coefficients, covariance parameters and, unless it is known, sigma."""
        return self._problem.p + len(self.theta) + (self._problem.known_sigma is None)

    @property
    def deviance(self) -> float:
        """-2 log-likelihood (restricted for REML)."""
        return -2 * self.loglik

    @property
    def aic(self) -> float:
        """Akaike's information criterion."""
        return self.deviance + 2 * self.n_parameters

    @property
    def bic(self) -> float:
        """Schwarz's criterion, with the number of rows."""
        return self.deviance + np.log(self.design.n_rows) * self.n_parameters

    @property
    def singular(self) -> bool:
        """Whether a covariance matrix of random effects is singular."""
        return bool(self.singular_components)

    @cached_property
    def singular_components(self) -> list[str]:
        """In words, what vanished."""
        return describe_singularity(self.design, self._solution.Ls, self.optimum.rank)

    @property
    def vcov(self) -> pd.DataFrame:
        """Covariance matrix of the estimated coefficients (unadjusted)."""
        names = [self.design.coef_names[j] for j in self.kept]
        return pd.DataFrame(self._solution.vcov, index=names, columns=names)

    @property
    def covariances(self) -> dict[str, pd.DataFrame]:
        """Covariance matrix of the random effects of each grouping factor."""
        return {
            block.name: pd.DataFrame(Sigma, index=block.effects, columns=block.effects)
            for block, Sigma in zip(self.design.blocks, self._solution.Sigmas, strict=True)
        }

    def fixef(self, ddf: str = "satterthwaite", *, level: float = 0.95) -> pd.DataFrame:
        """Coefficients with tests and intervals.

        Parameters
        ----------
        ddf : {"satterthwaite", "kenward-roger", "normal"}
            Degrees of freedom of the t tests: Satterthwaite's (as lmerTest), Kenward and
            Roger's with their adjusted standard errors (as pbkrtest), or infinite.
        level : float
            Confidence level.

        Returns
        -------
        pandas.DataFrame
            Columns ``estimate se df t p lower upper``; NaN for an aliased coefficient.

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
        self, L, ddf: str = "satterthwaite", *, level: float = 0.95, _names: bool = False
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
            Columns ``estimate se df t p lower upper``.

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
        return frame

    def contextual_effect(
        self, x: str, g: str, ddf: str = "satterthwaite", *, level: float = 0.95
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

    def _t_frame(self, rows: np.ndarray, ddf: str, level: float, offset=0.0) -> pd.DataFrame:
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

    def inference(self, ddf: str = "satterthwaite") -> Inference:
        """The test machinery for one choice of degrees of freedom.

        Raises
        ------
        ValueError
            If there is no such choice.
        """
        if ddf == "satterthwaite":
            if self._curvature.flat or self.singular:
                _warn(
                    "The fit is at a boundary, where Satterthwaite's approximation depends on the "
                    "parametrization; degrees of freedom are those of lmerTest."
                )
            return SatterthwaiteInference(self._solution.vcov, self._curvature)
        if ddf == "kenward-roger":
            return self._kenward_roger
        if ddf == "normal":
            return NormalInference(self._solution.vcov)
        raise ValueError(f"ddf must be one of {', '.join(map(repr, _DDF))}, not {ddf!r}.")

    @cached_property
    def _curvature(self) -> VarianceCurvature:
        return variance_curvature(self._problem, self.theta, reml=self.reml)

    @cached_property
    def _kenward_roger(self) -> KenwardRogerInference:
        fit = self
        if self._problem.known_sigma is not None:
            raise ValueError(
                "Kenward and Roger's degrees of freedom are for an estimated sigma, and here it is "
                'known. Use ddf="satterthwaite" or "normal".'
            )
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
        factors = [fit.sigma * L for L in fit._solution.Ls]
        try:
            adjustment = kenward_roger(fit._problem, factors, fit.sigma)
        except TooManyEffectsError as err:
            raise DataError(
                f"Kenward-Roger needs a dense matrix over the related effects ({err}): use "
                'ddf="satterthwaite".'
            ) from None
        return KenwardRogerInference(adjustment)

    def varcomp(self, *, level: float = 0.95) -> pd.DataFrame:
        """Standard deviations and correlations of the random effects, and sigma.

        Parameters
        ----------
        level : float
            Level of the Wald intervals, made on the log scale for standard deviations and on
            Fisher's z scale for correlations.

        Returns
        -------
        pandas.DataFrame
            Columns ``estimate se lower upper``; standard errors by the delta method from the
            observed information. NaN where a component is at its boundary or near it (where a
            standard error reaches the boundary), or is not determined by the data;
            ``confint()`` has an interval there.

        Examples
        --------
        >>> fit.varcomp()["estimate"].round(2)
        component
        sd(Intercept | Subject)            24.74
        sd(Days | Subject)                  5.92
        corr(Intercept, Days | Subject)     0.07
        sigma                              25.59
        Name: estimate, dtype: float64
        """
        from bayeslmm.results.variances import variance_table

        check_level(level)
        return variance_table(self, level)

    def components(self) -> pd.Series:
        """Point estimates of :meth:`varcomp`."""
        from bayeslmm.results.variances import component_values

        names = [name for block in self.design.blocks for name in component_names(block)]
        values = component_values(self.design, self._solution.Sigmas, self.sigma)
        return pd.Series(values, index=[*names, "sigma"])

    def _given(self, rows) -> LikelihoodResult:
        from bayeslmm.results.conditioning import condition_likelihood

        return self if rows is None else condition_likelihood(self, rows)

    def ranef(self, factor: str | None = None, *, given=None, level: float = 0.95) -> pd.DataFrame:
        """Predicted random effects (conditional modes), long.

        Parameters
        ----------
        factor : str, optional
            One grouping factor; by default all.
        given : data frame, optional
            Further rows with responses, as in :meth:`predict`.
        level : float

        Returns
        -------
        pandas.DataFrame
            Columns ``group level effect estimate sd lower upper``: ``sd`` is the conditional
            standard deviation given the variance parameters and the coefficients, as in lme4.

        Raises
        ------
        KeyError
            If there is no such grouping factor.

        Examples
        --------
        >>> fit.ranef().head(2).round(1)
             group level     effect  estimate    sd  lower  upper
        0  Subject   308  Intercept       2.3  12.1  -21.4   25.9
        1  Subject   308       Days       9.2   2.3    4.7   13.7
        """
        from bayeslmm.results.variances import effects_table

        check_level(level)
        return effects_table(self._given(given), factor, level)

    def coef(self, factor: str | None = None) -> pd.DataFrame:
        """Coefficients of every level: fixed plus random effect.

        Returns
        -------
        pandas.DataFrame
            Columns ``group level effect estimate``.

        Examples
        --------
        >>> fit.coef().query("level == '308'").round(2)
             group level     effect  estimate
        0  Subject   308  Intercept    253.66
        1  Subject   308       Days     19.67
        """
        from bayeslmm.results.variances import level_coefficients_table

        return level_coefficients_table(self, factor)

    def conditional_covariances(self, factor: str) -> np.ndarray:
        """Conditional covariance of the effects of each level, shape (levels, q, q)."""
        position = [block.name for block in self.design.blocks].index(
            self.design.block(factor).name
        )
        return self._effect_covariances[position]

    @cached_property
    def _effect_covariances(self) -> list[np.ndarray]:
        factors = [self.sigma * L for L in self._solution.Ls]
        return effect_covariances(self._problem, factors, self.sigma)

    def fitted(self, random: str = "conditional") -> pd.Series:
        """Fitted values of the rows used, by their index in the data.

        Parameters
        ----------
        random : {"conditional", "population"}
            With the random effects of each row's groups, or without.

        Examples
        --------
        >>> fit.fitted().head(2).round(1)
        0    253.7
        1    273.3
        Name: fitted, dtype: float64
        """
        if random not in ("conditional", "population"):
            raise ValueError(f'random must be "conditional" or "population", not {random!r}.')
        design = self.design
        values = design.offset + design.X[:, self.kept] @ self._solution.beta
        if random == "conditional":
            for block, b in zip(design.blocks, self._solution.b, strict=True):
                values = values + np.einsum("nq,nq->n", block.Z, b[block.codes])
        return pd.Series(values, index=design.index, name="fitted")

    def residuals(self, random: str = "conditional", kind: str = "raw") -> pd.Series:
        """Response minus :meth:`fitted`.

        Parameters
        ----------
        random : {"conditional", "population"}
        kind : {"raw", "normalized"}
            Normalized residuals are whitened by the estimated residual covariance: independent
            with variance 1 if the model is right. They need ``random="conditional"``.

        Examples
        --------
        >>> fit.residuals().head(2).round(1).tolist()
        [-4.1, -14.6]
        """
        values = self.design.y - self.fitted(random).to_numpy()
        if kind not in ("raw", "normalized"):
            raise ValueError(f'kind must be "raw" or "normalized", not {kind!r}.')
        if kind == "normalized":
            if random != "conditional":
                raise ValueError('Normalized residuals are those of random="conditional".')
            values = self.whiten(values)
        return pd.Series(values, index=self.design.index, name="residual")

    def residual_noise(self, z: np.ndarray) -> np.ndarray:
        """Residuals (n,) of the fitted covariance from standard normals."""
        scale, weights = self.sigma, self.design.weights
        return scale * z if weights is None else scale * z / np.sqrt(weights)

    def whiten(self, residuals: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`residual_noise`."""
        weights = self.design.weights
        scaled = residuals if weights is None else residuals * np.sqrt(weights)
        return scaled / self.sigma

    def reestimate(self, y: np.ndarray, start: np.ndarray | None = None):
        """Estimates for another response of the same rows, without a new fit object."""
        from bayeslmm.results.intervals import reestimate

        return reestimate(self, y, start)

    def predict(
        self,
        newdata=None,
        *,
        given=None,
        random: str = "conditional",
        allow_new_levels: bool = False,
        kind: str = "mean",
        level: float = 0.95,
    ) -> pd.DataFrame:
        """Predictions with intervals, the variance parameters taken as known.

        Parameters
        ----------
        newdata : data frame, optional
            The fitted rows by default.
        given : data frame, optional
            Rows with responses, of new or of known groups, that coefficients and effects are
            predicted from as well; the variance parameters stay.
        random : {"conditional", "population", "new"}
            With each group's own effects; for the average group, which in a linear model is
            the marginal mean too; or for groups not seen yet. Under "new" levels that are not
            in the fit have the variance of the population, levels that are keep their own
            effects; where `newdata` has no level that is not in the fit, its levels stand for
            new ones like them.
        allow_new_levels : bool
            Under "conditional": levels that are not in the fit have the variance of the
            population instead of being an error.
        kind : {"mean", "response"}
            Uncertainty of the mean, or of a new response.
        level : float

        Returns
        -------
        pandas.DataFrame
            Columns ``estimate se lower upper``, indexed as `newdata`; NaN where aliased columns
            leave a row's mean undetermined.

        Raises
        ------
        DataError
            If a predictor is missing or has a level that was not in the fit.

        Warns
        -----
        ModelWarning
            If a row is not estimable.

        Examples
        --------
        >>> fit.predict({"Days": [0, 5]}, random="population").round(1)
           estimate   se  lower  upper
        0     251.4  6.8  238.0  264.8
        1     303.7  9.6  285.0  322.5
        """
        check_level(level)
        return likelihood_prediction(
            self._given(given), newdata, random, kind, level, allow_new_levels
        )

    def predictor_variance(self, X: np.ndarray, Z, codes) -> np.ndarray:
        """Var(x'beta + z'b | y) of rows at the estimated variances, shape (m,).

        Parameters
        ----------
        X : (m, p) array
            Columns of the estimated coefficients.
        Z : sequence of (m, q_k) arrays
        codes : sequence of (m,) int arrays
            Levels, which need not have met in the data.
        """
        from bayeslmm.gaussian import FactorRows, row_moments, with_prior

        factors = [
            FactorRows(c, z, block.n_levels)
            for c, z, block in zip(codes, Z, self.design.blocks, strict=True)
        ]
        absolute = [self.sigma * L for L in self._solution.Ls]
        return row_moments(with_prior(self._problem), absolute, self.sigma, X, factors).variance

    def residual_variance(self, newdata, n: int) -> np.ndarray:
        """Residual variance of each of n new responses, or of those fitted (None)."""
        return self.sigma**2 / row_weights(self.design, newdata, n)

    def r2(
        self,
        method: str = "nakagawa",
        *,
        n_sims: int = 0,
        level: float = 0.95,
        random_seed: int | None = None,
        progressbar: bool = True,
    ) -> pd.Series | pd.DataFrame:
        """Marginal and conditional R2 (Nakagawa and Schielzeth 2013; Johnson 2014).

        Parameters
        ----------
        method : {"nakagawa"}
        n_sims : int
            Simulations of a parametric bootstrap; 0 for estimates without intervals.
        level, random_seed, progressbar
            Of the bootstrap: percentile intervals.

        Returns
        -------
        pandas.Series, or DataFrame with columns ``estimate lower upper``

        Examples
        --------
        >>> fit.r2().round(3)
        r2
        marginal       0.279
        conditional    0.799
        Name: r2, dtype: float64
        """
        from bayeslmm.results.explained import likelihood_shares

        return likelihood_shares(
            self, "r2", method=method, level=level, n_sims=n_sims, random_seed=random_seed,
            progressbar=progressbar,
        )  # fmt: skip

    def icc(
        self,
        at=None,
        *,
        n_sims: int = 0,
        level: float = 0.95,
        random_seed: int | None = None,
        progressbar: bool = True,
    ) -> pd.Series | pd.DataFrame:
        """Intraclass correlation: adjusted, unadjusted, and adjusted by grouping factor.

        Parameters
        ----------
        at : dict or data frame, optional
            Values of the random effects' covariates, such as ``{"Days": [0, 5, 9]}``: with
            varying slopes it depends on them. A dict stands for all combinations. By default
            the average over the rows.
        n_sims, level, random_seed, progressbar
            As in :meth:`r2`.

        Examples
        --------
        >>> fit.icc().round(3)
        icc
        adjusted      0.722
        unadjusted    0.521
        Subject       0.722
        Name: icc, dtype: float64
        """
        from bayeslmm.results.explained import likelihood_shares

        return likelihood_shares(
            self, "icc", at=at, level=level, n_sims=n_sims, random_seed=random_seed,
            progressbar=progressbar,
        )  # fmt: skip

    def variance_shares(
        self,
        *,
        n_sims: int = 0,
        level: float = 0.95,
        random_seed: int | None = None,
        progressbar: bool = True,
    ) -> pd.DataFrame:
        """Share of each term in the variance, as :meth:`PosteriorFit.variance_shares`.

        Parameters
        ----------
        n_sims, level, random_seed, progressbar
            As in :meth:`r2`.

        Returns
        -------
        pandas.DataFrame
            Columns ``term kind estimate``, and ``lower upper`` from a bootstrap.

        Examples
        --------
        >>> fit.variance_shares().round(2)
                       term      kind  estimate
        0              Days     fixed      0.28
        1  (Days | Subject)    random      0.52
        2          residual  residual      0.20
        """
        from bayeslmm.results.explained import likelihood_shares

        return likelihood_shares(
            self, "term", level=level, n_sims=n_sims, random_seed=random_seed,
            progressbar=progressbar,
        )  # fmt: skip

    def heritability(
        self,
        factor: str | None = None,
        *,
        exclude: str | Iterable[str] = (),
        fixed: bool = False,
        level: float = 0.95,
        method: str = "delta",
        n_sims: int = 1000,
        random_seed: int | None = None,
        progressbar: bool = True,
    ) -> pd.Series:
        """Additive genetic variance over phenotypic variance, with an interval.

        Parameters
        ----------
        factor : str, optional
            The grouping factor with a relationship, where there are several.
        exclude : str or list of str
            Grouping factors whose variance is left out of the phenotypic variance, such as
            herds.
        fixed : bool
            Whether the variance of the fixed part is in the phenotypic variance.
        level : float
        method : {"delta", "bootstrap"}
            The delta method on the logit scale, or percentiles of a parametric bootstrap.
        n_sims, random_seed, progressbar
            For the bootstrap.

        Returns
        -------
        pandas.Series
            ``estimate se lower upper``.

        Raises
        ------
        DataError
            If no grouping factor has a relationship, or it is not clear which is meant.
        """
        from bayeslmm.results.heritability import heritability_share, likelihood_share

        check_level(level)
        return likelihood_share(
            self,
            heritability_share(self.design, factor, exclude, fixed),
            level=level,
            method=method,
            n_sims=n_sims,
            random_seed=random_seed,
            progressbar=progressbar,
        )

    def repeatability(
        self,
        factors: str | Iterable[str] | None = None,
        *,
        exclude: str | Iterable[str] = (),
        fixed: bool = False,
        level: float = 0.95,
        method: str = "delta",
        n_sims: int = 1000,
        random_seed: int | None = None,
        progressbar: bool = True,
    ) -> pd.Series:
        """Variance between individuals over phenotypic variance, with an interval.

        Parameters
        ----------
        factors : str or list of str, optional
            Grouping factors that are the individuals'; by default the related one and those
            with the same individuals as levels (a permanent environment).
        exclude, fixed, level, method, n_sims, random_seed, progressbar
            As in :meth:`heritability`.
        """
        from bayeslmm.results.heritability import likelihood_share, repeatability_share

        check_level(level)
        return likelihood_share(
            self,
            repeatability_share(self.design, factors, exclude, fixed),
            level=level,
            method=method,
            n_sims=n_sims,
            random_seed=random_seed,
            progressbar=progressbar,
        )

    def implied_covariance(self, data=None) -> pd.DataFrame:
        """Marginal covariance of a group's responses, in squared units of the response.

        Parameters
        ----------
        data : data frame, optional
            The covariates of the group's rows; by default those of the first group.

        Examples
        --------
        >>> fit.implied_covariance().shape
        (10, 10)
        """
        from bayeslmm.results.implied import implied_covariance

        values, index = implied_covariance(
            self.design, self._solution.Sigmas, np.asarray(self.sigma), data
        )
        return pd.DataFrame(values, index=index, columns=index)

    def implied_correlation(self, data=None) -> pd.DataFrame:
        """Marginal correlation of a group's responses; as :meth:`implied_covariance`.

        Examples
        --------
        >>> fit.implied_correlation().iloc[0, [0, 1, 9]].round(2).tolist()
        [1.0, 0.48, 0.3]
        """
        from bayeslmm.results.implied import as_correlation

        covariance = self.implied_covariance(data)
        return pd.DataFrame(
            as_correlation(covariance.to_numpy()), covariance.index, covariance.columns
        )

    def anova(self, type: int = 3, ddf: str = "satterthwaite") -> pd.DataFrame:
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

    def confint(
        self,
        method: str = "profile",
        *,
        level: float = 0.95,
        parameters: list[str] | None = None,
        n_sims: int = 1000,
        random_seed: int | None = None,
        progressbar: bool = True,
    ) -> pd.DataFrame:
        """Confidence intervals of coefficients and variance components.

        Parameters
        ----------
        method : {"profile", "wald", "bootstrap"}
            Profile likelihood (of the ML deviance, also for a REML fit, as lme4 does), Wald,
            or percentiles of a parametric bootstrap.
        level : float
        parameters : list of str, optional
            Rows wanted; by default all.
        n_sims, random_seed, progressbar
            For the bootstrap.

        Returns
        -------
        pandas.DataFrame
            Columns ``estimate lower upper``.

        Examples
        --------
        >>> fit.confint(method="wald").round(2).loc["Days"].tolist()
        [10.47, 7.44, 13.5]
        """
        from bayeslmm.results.intervals import confidence_intervals

        check_level(level)
        return confidence_intervals(
            self, method, level, parameters, n_sims, random_seed, progressbar
        )

    def marginal_means(
        self,
        terms: str | list[str],
        *,
        at: Mapping[str, float] | None = None,
        ddf: str = "satterthwaite",
        level: float = 0.95,
    ) -> pd.DataFrame:
        """Estimated marginal means of the levels of one or several factors.

        Parameters
        ----------
        terms : str or list of str
            Columns of the data that are factors in the model.
        at : dict, optional
            Values of numeric columns; by default their means.
        ddf, level
            As in :meth:`fixef`.

        Returns
        -------
        pandas.DataFrame
            The factors' levels and ``estimate se df t p lower upper``. The other factors are
            averaged over with equal weights (Searle, Speed and Milliken 1980, The American
            Statistician 34(4)).

        Examples
        --------
        >>> import bayeslmm as blm
        >>> data = blm.load_dataset("machines")
        >>> fit = blm.LMM("score ~ Machine + (1 | Worker)", data).reml()
        >>> fit.marginal_means("Machine")["estimate"].round(1).tolist()
        [52.4, 60.3, 66.3]
        """
        from bayeslmm.results.marginal_means import reference_rows

        labels, L, offset = reference_rows(self.design, terms, at)
        return pd.concat([labels, self._rows(L, ddf, level, offset)], axis=1)

    def pairwise(
        self,
        terms: str | list[str],
        *,
        adjust: str | None = "holm",
        at: Mapping[str, float] | None = None,
        ddf: str = "satterthwaite",
        level: float = 0.95,
    ) -> pd.DataFrame:
        """Differences of all pairs of marginal means.

        Parameters
        ----------
        adjust : {"holm", "tukey", None}
            Adjustment of p values for the number of pairs. Tukey's also widens the intervals.
        terms, at, ddf, level
            As in :meth:`marginal_means`.

        Returns
        -------
        pandas.DataFrame
            ``contrast estimate se df t p lower upper``.

        Examples
        --------
        >>> import bayeslmm as blm
        >>> data = blm.load_dataset("machines")
        >>> fit = blm.LMM("score ~ Machine + (1 | Worker)", data).reml()
        >>> fit.pairwise("Machine")["estimate"].round(1).tolist()
        [-8.0, -13.9, -5.9]
        """
        from bayeslmm.results.marginal_means import adjusted, pair_rows

        labels, L, offset, n_means = pair_rows(self.design, terms, at)
        table = pd.concat([labels, self._rows(L, ddf, level, offset)], axis=1)
        return adjusted(table, adjust, n_means, level)

    def _rows(self, L: np.ndarray, ddf: str, level: float, offset: np.ndarray) -> pd.DataFrame:
        check_level(level)
        frame = self._t_frame(L, ddf, level, offset)
        if not (estimable := self._estimable(L)).all():
            _warn("A mean that empty cells or aliased columns leave undetermined is NaN.")
            frame.loc[~estimable] = np.nan
        return frame

    def simulate(self, n_sims: int = 1, random_seed: int | None = None) -> pd.DataFrame:
        """Responses simulated from the fitted model, new random effects each time.

        Returns
        -------
        pandas.DataFrame
            One column per simulation, rows as used in the fit.

        Examples
        --------
        >>> fit.simulate(3, random_seed=1).shape
        (180, 3)
        """
        from bayeslmm.results.intervals import check_n_sims, simulate_responses

        check_n_sims(n_sims)
        values = simulate_responses(self, n_sims, np.random.default_rng(random_seed))
        return pd.DataFrame(values.T, index=self.design.index)

    def refit(self, y) -> LikelihoodFit:
        """The same model fitted to another response of the same rows.

        Parameters
        ----------
        y : array-like, shape (n,)
            One value per row used.

        Raises
        ------
        DataError
            If the length differs or a value is not finite.

        Examples
        --------
        >>> round(fit.refit(data["Reaction"] / 1000).sigma, 4)
        0.0256
        """
        try:
            values = np.asarray(y, dtype=float).ravel()
        except (TypeError, ValueError):
            raise DataError("refit needs numbers, one per row used.") from None
        if values.shape != self.design.y.shape or not np.all(np.isfinite(values)):
            raise DataError(f"refit needs {self.design.n_rows} finite numbers, one per row used.")
        model = self.model.with_response(values)
        return model.reml() if self.reml else model.ml()

    def summary(self, ddf: str = "satterthwaite", *, level: float = 0.95) -> pd.DataFrame:
        """Coefficients and variance components in one table.

        ``attrs["missing"]`` says which rows were left out.

        Examples
        --------
        >>> fit.summary().index[:2].tolist()
        ['Intercept', 'Days']
        """
        table = pd.concat([self.fixef(ddf, level=level), self.varcomp(level=level)])
        table.attrs["missing"] = self.design.missing.describe()
        return table

    def equation(self, form: str = "conditional", format: str = "latex") -> str:
        """The model as an equation; see :meth:`bayeslmm.LMM.equation`.

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

    def describe(self, ddf: str = "satterthwaite", *, level: float = 0.95) -> str:
        """Fit statistics and tables as text.

        Examples
        --------
        >>> fit.describe().splitlines()[0]
        'REML fit of Reaction ~ Days + (Days | Subject)'
        """
        design = self.design
        state = "converged" if self.converged else "NOT CONVERGED: " + self.optimum.message
        lines = [
            f"{self.method} fit of {design.formula.text}",
            f"{design.n_rows} rows; log-likelihood {self.loglik:.4f}; AIC {self.aic:.2f}; "
            f"BIC {self.bic:.2f}; {state} in {self.n_evaluations} evaluations",
        ]
        if text := design.missing.describe():
            lines.append(f"Note: {text}.")
        lines += [f"Singular: {text}." for text in self.singular_components]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ModelWarning)
            tables = [self.fixef(ddf, level=level), self.varcomp(level=level)]
        return "\n".join([*lines, "", format_table(tables[0]), "", format_table(tables[1])])

    def __repr__(self) -> str:
        return self.describe()


def describe_singularity(design: Design, Ls: list[np.ndarray], ranks) -> list[str]:
    """One sentence per covariance matrix that is singular.

    Parameters
    ----------
    Ls : list of (q_k, q_k) arrays
        Relative factors, judged on the scale of each effect's covariate.
    """
    sentences = []
    for at, (block, L, block_ranks) in enumerate(zip(design.blocks, Ls, ranks, strict=True)):
        scale = np.sqrt(np.diag(design.statistics.blocks[at].gram))
        Sigma = (L @ L.T) * np.outer(scale, scale)
        for part, rank in zip(block.pattern, block_ranks, strict=True):
            if rank == len(part):
                continue
            zero = [block.effects[i] for i in part if Sigma[i, i] <= 1e-12]
            if zero:
                names = ", ".join(f"sd({effect} | {block.name})" for effect in zero)
                sentences.append(f"{names} is estimated as 0")
            if rank < len(part) - len(zero):
                if len(part) - len(zero) == 2:
                    i, j = [i for i in part if block.effects[i] not in zero]
                    sign = "1" if Sigma[i, j] > 0 else "-1"
                    name = f"corr({block.effects[i]}, {block.effects[j]} | {block.name})"
                    sentences.append(f"{name} is estimated as {sign}")
                else:
                    sentences.append(
                        f"the {len(part)} effects of {block.name} vary in only {rank} dimension(s)"
                    )
    return sentences


def _warn(text: str) -> None:
    warnings.warn(text, ModelWarning, stacklevel=4)
