"""Predictions of a posterior, and what they leave of the responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import pandas as pd

from bayeslmm.fits.posterior_draws import PosteriorDraws
from bayeslmm.results.tables import check_level

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["PosteriorPredictions"]


class PosteriorPredictions(PosteriorDraws):
    """Methods of :class:`bayeslmm.PosteriorFit` about single rows, old and new."""

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
        random : {"conditional", "population", "new", "marginal"}
            With each group's own effects; for the average group; for groups not seen yet; or
            averaged over the population of groups, which is the mean of the average group where
            the response is Gaussian and only there (see :meth:`average_effects`). Under "new"
            effects of levels that are not in the fit are drawn from the population (rows with
            the same label share them), levels that are in the fit keep their own; where
            `newdata` has no level that is not in the fit, its levels stand for new ones like
            them.
        allow_new_levels : bool
            Under "conditional": effects of levels that are not in the fit are drawn from the
            population instead of being an error.
        kind : {"mean", "link", "response", "probabilities"}
            The mean response (of counts of trials per trial, so a probability; of ordered
            categories their expected number, from 0); the linear predictor, which is the mean
            where the response is Gaussian; a new response (counts of trials need the trials of
            `newdata`); or the probability of every ordered category.
        residuals : {"new", "conditional"}
            Where residuals are correlated: new ones, as if a row's were not related to those of the
            fit; or those of the rows' own groups, predicted from the residuals of the group's
            observed rows (in `given` too). The mean is then that of the row's response given
            the group's, ``kind="response"`` adds what is left of the residual variance. A fitted
            row is predicted from the other rows of its group; a row of `newdata` at a time at
            which its group was observed is the observed one. Goes with ``random="conditional"``.
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
            Columns ``mean sd lower upper``, indexed as `newdata`; of probabilities one column
            per category, with posterior means (draws have a dimension ``category``).

        Raises
        ------
        DataError
            If a predictor is missing or has a level that was not in the fit, or the link has no
            average over groups, or there are no correlated residuals to condition on.
        ValueError
            If there is no such choice.

        Warns
        -----
        ModelWarning
            If aliased columns leave a row's mean undetermined: its prediction then rests on the
            priors of single coefficients.

        Examples
        --------
        >>> post.predict({"Days": [0, 5]}, random="population").round(-1)
            mean    sd  lower  upper
        0  250.0  10.0  240.0  270.0
        1  300.0  10.0  280.0  320.0
        """
        from bayeslmm.results.response_prediction import posterior_prediction

        check_level(level, interval)
        fit = self if given is None else self.condition_on(given, random_seed=random_seed)
        prediction = posterior_prediction(
            fit, newdata, random, kind, random_seed, allow_new_levels, residuals
        )
        if draws:
            import xarray as xr

            dims: tuple[str, ...] = ("chain", "draw", "row")
            coords = {}
            if kind == "probabilities":
                dims, coords["category"] = (*dims, "category"), list(fit.model.design.categories)
            return xr.DataArray(prediction.draws(), coords, dims, name="prediction")
        if kind == "probabilities":
            return prediction.probabilities()
        return prediction.table(level, interval)

    def condition_on(self, rows, *, reweight: bool = False, random_seed: int | None = None) -> Self:
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

        Parameters
        ----------
        random, **options
            As in :meth:`predict`.

        Returns
        -------
        pandas.DataFrame
            One row per row used, columns as of :meth:`predict`.

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
        """Response minus posterior mean of its mean.

        Parameters
        ----------
        random : {"conditional", "population", "new", "marginal"}
            As in :meth:`predict`.
        kind : {"raw", "normalized", "pearson", "deviance", "quantile"}
            Normalized residuals are whitened by the residual covariance at the posterior means
            of its parameters. They need ``random="conditional"``. For a response that is not
            Gaussian in their place Pearson residuals, over the root of the mean variance of
            their row; deviance residuals, at the posterior means of the linear predictor and
            the distribution's parameters; and randomized quantile residuals, standard normal
            where the model holds (Dunn and Smyth 1996), of the distribution functions averaged
            over the draws. Raw ones of a count of trials are counts.
        weights : bool
            Also the column ``weight`` of :meth:`outlier_weights`.
        random_seed : int, optional
            For new groups, and quantile residuals of discrete responses.

        Returns
        -------
        pandas.Series or pandas.DataFrame
            One value per row used; a frame with ``weights=True``.

        References
        ----------
        Dunn and Smyth (1996), Journal of Computational and Graphical Statistics 5(3);
        https://doi.org/10.1080/10618600.1996.10474708

        Examples
        --------
        >>> post.residuals().shape
        (180,)
        """
        from bayeslmm.bayes.residual_draws import whitened
        from bayeslmm.results.posterior_prediction import PosteriorPrediction

        if not self.model.design.family.gaussian:
            from bayeslmm.results.response_prediction import posterior_residuals

            values = posterior_residuals(self, random, kind, random_seed)
            return pd.Series(values, index=self.model.design.index, name="residual")
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
        average; an outlier has a weight near 0 and hardly moves the fit (Lange, Little and Taylor
        1989). The weights of a Gaussian model are all 1.

        Returns
        -------
        pandas.Series
            Indexed as the rows used.

        References
        ----------
        Lange, Little and Taylor (1989), Journal of the American Statistical Association 84(408),
        section 3; https://doi.org/10.1080/01621459.1989.10478852

        Examples
        --------
        >>> float(post.outlier_weights().min())
        1.0
        """
        from bayeslmm.results.robust import row_weights_of_outliers

        return row_weights_of_outliers(self)
