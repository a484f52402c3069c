"""What a likelihood fit says of levels and rows: effects, fitted values, predictions."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bayeslmm.formula.extension import row_weights
from bayeslmm.results.conditional_residuals import are_conditional, kriged_residuals
from bayeslmm.results.prediction import check_prediction, likelihood_prediction, scale_rows
from bayeslmm.results.tables import check_level

if TYPE_CHECKING:
    from bayeslmm.protocols import LikelihoodResult as _Result
else:  # its properties are attributes here
    _Result = object

__all__ = ["LikelihoodPredictions"]


class LikelihoodPredictions(_Result):
    """Random effects, fitted values, residuals and predictions.

    A response that is predicted is taken as one of its own unless ``residuals="conditional"``: its
    residual has the standard deviation of its row and is not correlated with those of the fit.
    """

    def _given(self, rows) -> Any:
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

        References
        ----------
        - Henderson (1975), Biometrics 31(2); https://doi.org/10.2307/2529430
        - The modes: Bates, Maechler, Bolker and Walker (2015), Journal of Statistical Software
          67(1), section 3; https://doi.org/10.18637/jss.v067.i01

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

        Parameters
        ----------
        factor : str, optional
            One grouping factor; by default all of them.

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
        return self._engine.effect_covariances(self._solution)

    def fitted(
        self, random: str = "conditional", kind: str = "mean", residuals: str = "new"
    ) -> pd.Series:
        """Fitted values of the rows used, by their index in the data.

        Parameters
        ----------
        random : {"conditional", "population"}
            With the random effects of each row's groups, or without.
        kind : {"mean", "link"}
            Of the mean response (per trial; of ordered categories their number, from 0), or of the
            linear predictor. The same where the response is Gaussian.
        residuals : {"new", "conditional"}
            Where residuals are correlated, without them or with what those of the other rows of
            the row's group say of it; see :meth:`predict`.

        Returns
        -------
        pandas.Series, shape (n,)

        Examples
        --------
        >>> fit.fitted().head(2).round(1)
        0    253.7
        1    273.3
        Name: fitted, dtype: float64
        """
        if random not in ("conditional", "population"):
            raise ValueError(f'random must be "conditional" or "population", not {random!r}.')
        if kind not in ("mean", "link"):
            raise ValueError(f'kind must be "mean" or "link", not {kind!r}.')
        design = self.design
        values = design.offset + design.X[:, self.kept] @ self._solution.beta
        if random == "conditional":
            for block, b in zip(design.blocks, self._solution.b, strict=True):
                values = values + np.einsum("nq,nq->n", block.Z, b[block.codes])
        if kind == "mean" and not design.family.gaussian:
            from bayeslmm.results.response_scale import mean_of

            values = mean_of(self, values)
        if are_conditional(design, residuals, random):
            values = values + kriged_residuals(self, None).weights @ (design.y - values)
        return pd.Series(values, index=design.index, name="fitted")

    def residuals(
        self,
        random: str = "conditional",
        kind: str = "raw",
        *,
        random_seed: int | None = None,
    ) -> pd.Series:
        """Response minus :meth:`fitted`.

        Parameters
        ----------
        random : {"conditional", "population"}
        kind : {"raw", "normalized", "pearson", "deviance", "quantile"}
            Normalized residuals are whitened by the estimated residual covariance: independent
            with variance 1 if the model is right. They need ``random="conditional"``. For a
            response that is not Gaussian in their place Pearson residuals, over the standard
            deviation of their row, deviance residuals, the signed root of what the row lacks
            in twice the log-likelihood, and randomized quantile residuals, standard normal where
            the model holds (Dunn and Smyth 1996). Raw ones of a count of trials are counts.
        random_seed : int, optional
            Of quantile residuals of discrete responses.

        Returns
        -------
        pandas.Series, shape (n,)

        References
        ----------
        Dunn and Smyth (1996), Journal of Computational and Graphical Statistics 5(3);
        https://doi.org/10.1080/10618600.1996.10474708

        Examples
        --------
        >>> fit.residuals().head(2).round(1).tolist()
        [-4.1, -14.6]
        """
        if not self.design.family.gaussian:
            from bayeslmm.results.response_scale import response_residuals

            eta = self.fitted(random, "link").to_numpy()
            values = response_residuals(self, eta, kind, random_seed)
            return pd.Series(values, index=self.design.index, name="residual")
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
        values = np.asarray(z, dtype=float)
        return self._engine.residual_root(self._solution, values, inverse=False)

    def whiten(self, residuals: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`residual_noise`."""
        values = np.asarray(residuals, dtype=float)
        return self._engine.residual_root(self._solution, values, inverse=True)

    def predict(
        self,
        newdata=None,
        *,
        given=None,
        random: str = "conditional",
        allow_new_levels: bool = False,
        kind: str = "mean",
        residuals: str = "new",
        level: float = 0.95,
    ) -> pd.DataFrame:
        """Predictions with intervals, the variance parameters taken as known.

        Where the response is not Gaussian, mean responses of the average group and of the
        population have intervals in which all parameters are estimated; those of groups take
        variances as known, and estimate with coefficients and effects what else the mean depends
        on (thresholds of ordered categories, the share of further zeros).

        Parameters
        ----------
        newdata : data frame, optional
            The fitted rows by default.
        given : data frame, optional
            Rows with responses, of new or of known groups, that coefficients and effects are
            predicted from as well; the variance parameters stay.
        random : {"conditional", "population", "new", "marginal"}
            With each group's own effects; for the average group; for groups not seen yet; or
            averaged over the population of groups, which is the mean of the average group where
            the response is Gaussian and only there (see :meth:`average_effects`). Under "new"
            levels that are not in the fit have the variance of the population, levels that are
            keep their own effects; where `newdata` has no level that is not in the fit, its
            levels stand for new ones like them.
        allow_new_levels : bool
            Under "conditional": levels that are not in the fit have the variance of the
            population instead of being an error.
        kind : {"mean", "link", "response"}
            The mean response, or the linear predictor, which are the same where the response is
            Gaussian; or a new response. Means of a response that is not Gaussian are those of a
            row whose effects are the ones predicted, 0 for the population and for new groups: not
            averages over groups, which are those of ``random="marginal"``.
        residuals : {"new", "conditional"}
            Where residuals are correlated: new ones, as if a row's were not related to those of the
            fit; or those of the rows' own groups, predicted from the residuals of the group's
            observed rows (in `given` too). The mean is then that of the row's response given
            the group's, ``kind="response"`` adds what is left of the residual variance. A fitted
            row is predicted from the other rows of its group; a row of `newdata` at a time at
            which its group was observed is the observed one. The variance of the mean is that of
            the errors of coefficients, effects and observed residuals together. Goes with
            ``random="conditional"``.
        level : float

        Returns
        -------
        pandas.DataFrame
            Columns ``estimate se lower upper``, indexed as `newdata`; NaN where aliased columns
            leave a row's mean undetermined.

        Raises
        ------
        DataError
            If a predictor is missing or has a level that was not in the fit, or there are no
            correlated residuals to condition on.
        ValueError
            If there is no such choice.

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
        fit, averages = self._given(given), random in ("population", "marginal")
        check_prediction(random, kind)
        conditional = are_conditional(self.design, residuals, random)
        if averages and kind == "mean" and not self.design.family.gaussian:
            from bayeslmm.results.average_effects import average_prediction

            return average_prediction(fit, newdata, random, level)
        kriged = kriged_residuals(fit, newdata) if conditional else None
        return likelihood_prediction(fit, newdata, random, kind, level, allow_new_levels, kriged)

    def to_marginaleffects(self) -> Any:
        """The fit as a model that the Python package marginaleffects takes.

        For what that package has and :meth:`comparisons` has not. Its means are those of the
        average group, whose random effects are 0, its tests those of normal estimates; the
        variances of the effects count as known. Its steps of numbers are centered: ``{"x": 2}``
        compares x + 1 with x - 1, where :meth:`comparisons` compares x + 2 with x.

        Returns
        -------
        marginaleffects.classes.ModelAbstract
            For ``avg_predictions``, ``avg_comparisons``, ``avg_slopes`` and the like. They
            differentiate numerically; slopes of responses that are not Gaussian want
            ``eps_vcov=1e-4``, by default four per mille of their standard errors are noise.

        Raises
        ------
        DataError
            If the package is not installed (``bayeslmm[marginaleffects]``, 0.6 or newer), the
            mean depends on more than coefficients (ordinal, lognormal, zero-inflated), some
            coefficients are aliased, or the rows are not in memory.

        References
        ----------
        Arel-Bundock, Greifer and Heiss (2024), Journal of Statistical Software 111(9);
        https://doi.org/10.18637/jss.v111.i09

        Examples
        --------
        >>> from marginaleffects import avg_comparisons  # doctest: +SKIP
        >>> avg_comparisons(fit.to_marginaleffects(), variables={"Days": [0, 9]})  # doctest: +SKIP
        """
        from bayeslmm.results.marginaleffects_model import marginaleffects_model

        return marginaleffects_model(self)

    def predictor_variance(self, X: np.ndarray, Z, codes, shift=None, residual=None) -> np.ndarray:
        """Var(x'beta + z'b | y) of rows at the estimated variances, shape (m,).

        Parameters
        ----------
        X : (m, p) array
            Columns of the estimated coefficients.
        Z : sequence of (m, q_k) arrays
        codes : sequence of (m,) int arrays
            Levels, which need not have met in the data.
        shift : (m, n_phi) array, optional
            Of x'beta + z'b + shift'phi, phi the parameters of a response that is not Gaussian.
        residual : (sparse (m, n) array, (m,) array), optional
            Of x'beta + z'b + r where residuals are correlated: covariances of r with the residuals
            of the fit, and variances of r.
        """
        more = [part for part in (shift, residual) if part is not None]
        return self._engine.predictor_variance(self._solution, X, Z, codes, *more)

    def residual_variance(self, newdata, n: int) -> np.ndarray:
        """Residual variance of each of n new responses, or of those fitted (None).

        A new response is not correlated with those of the fit.
        """
        eta, _ = self._engine.residual_parameters(self._solution)
        own = np.exp(2.0 * scale_rows(self.design, newdata, n) @ eta)
        return own / row_weights(self.design, newdata, n)
