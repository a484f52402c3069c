"""How well a posterior predicts: replications, predictive checks, leave-one-out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from bayeslmm.fits.posterior_draws import PosteriorDraws

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["PosteriorChecks"]


class PosteriorChecks(PosteriorDraws):
    """Methods of :class:`bayeslmm.PosteriorFit` that hold the model against data."""

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
        import xarray as xr

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
        tree["posterior_predictive"] = xr.DataTree(group)
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
            sd of the groups' slopes for each numeric random slope. Counts have the share of
            zeros and variance / mean in place of sd and minimum, ordered categories the share of
            each; responses of 0 and 1 and counts of trials have shares of trials, of rows and of
            groups with none and with all.
        factor : str, optional
            Grouping factor of the codes; the first by default.
        groups : {"same", "new"} or list of str
            Replicate for the same groups or for new ones, which checks the distribution of the
            random effects as well (Gelman, Meng and Stern 1996); as in
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

        References
        ----------
        Gelman, Meng and Stern (1996), Statistica Sinica 6(4);
        https://www3.stat.sinica.edu.tw/statistica/j6n4/j6n41/j6n41.htm

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

    def quantile_residuals(
        self, *, draws: int | None = None, random_seed: int | None = 0
    ) -> pd.Series:
        """Randomized quantile residuals of a response that is not Gaussian.

        Standard normal where the model is true: normal quantiles of the distribution function of
        each row at its response, a mean over draws given the random effects, randomized between
        P(Y < y) and P(Y <= y) where the response is discrete (Dunn and Smyth 1996).

        Parameters
        ----------
        draws : int, optional
            In all; 1,000 by default.
        random_seed : int, optional
            Of the uniform numbers.

        Returns
        -------
        pandas.Series
            By the index of the rows in the data.

        Raises
        ------
        DataError
            If the response is Gaussian, which has ``residuals()``.

        Notes
        -----
        Rows have been used to fit the model, so their residuals are a little too small;
        :meth:`loo_pit` leaves each row out.

        References
        ----------
        Dunn and Smyth (1996), Journal of Computational and Graphical Statistics 5(3);
        https://doi.org/10.1080/10618600.1996.10474708
        """
        from bayeslmm.results.response_checks import quantile_residuals

        values = quantile_residuals(self, draws=draws, random_seed=random_seed)
        return pd.Series(values, index=self.model.design.index, name="quantile residual")

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
            one with coefficients and random effects integrated out (of a response that is not
            Gaussian: the random effects of one factor, those with most levels, by quadrature).
        draws : int, optional
            Draws per chain to use, evenly spaced; by default all that fit in memory.
        exact : bool
            Refit the units whose k-hat is above 0.7, with at most 1000 rows of a Gaussian
            response above 0.5. Nothing is refitted where densities are conditional.
        progressbar : bool

        Returns
        -------
        arviz ELPD object
            What ``az.compare`` and ``az.plot_khat`` take. Its ``p`` is the log score of the
            data seen minus that of the data left out. ``mcse`` and ``mcse_i`` are Monte Carlo
            standard errors of ``elpd`` and ``elpd_i``, ``n_eff_i`` the effective draws behind the
            units that were refitted. ``likelihood`` says whether it is
            ``"integrated"`` or ``"conditional"``; the latter is all there is for Student-t
            residuals or effects, whose fits also have ``outlier_weights``, and for other families
            where every factor has more than three effects. With several grouping factors it is
            ``"integrated over g"`` for those families: given the effects of the others.

        Raises
        ------
        ValueError
            If there is no such unit.
        SamplingError
            If effects of another factor belong to the groups left out of a response that is not
            Gaussian, or groups are left out and residuals or effects are Student-t.

        References
        ----------
        - Vehtari, Gelman and Gabry (2017), Statistics and Computing 27(5);
          https://doi.org/10.1007/s11222-016-9696-4
        - Pareto's k-hat, and Monte Carlo errors by eq. 7: Vehtari, Simpson, Gelman, Yao and Gabry
          (2024), Journal of Machine Learning Research 25(72);
          https://jmlr.org/papers/v25/19-556.html

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

    def loo_pit(
        self,
        *,
        draws: int | None = None,
        exact: bool = True,
        random_seed: int | None = None,
        progressbar: bool = True,
    ) -> xr.DataTree:
        """P(y <= y_i) without row i, coefficients and random effects integrated out.

        Uniform where the model is calibrated: of a discrete response, a uniform number between
        P(y < y_i) and P(y <= y_i).

        Parameters
        ----------
        draws, exact, progressbar
            As in :meth:`loo`.
        random_seed : int, optional
            Of the leave-one-out predictive draws, or of those uniform numbers.

        Returns
        -------
        xarray.DataTree
            Group loo_pit (exact given the draws, dimension obs), for
            ``az.plot_ecdf_pit(tree, group="loo_pit", sample_dims=["obs"])``; and what
            ``az.plot_loo_pit(tree)`` takes: log_likelihood and posterior_predictive are those
            of left-out rows. Responses that are not Gaussian have loo_pit_lower and
            loo_pit_upper, the two probabilities, in their place.

        Raises
        ------
        SamplingError
            If residuals or random effects are Student-t.

        References
        ----------
        - Discrete responses: Czado, Gneiting and Held (2009), Biometrics 65(4);
          https://doi.org/10.1111/j.1541-0420.2009.01191.x
        - Vehtari, Gelman and Gabry (2017), Statistics and Computing 27(5);
          https://doi.org/10.1007/s11222-016-9696-4

        Examples
        --------
        >>> pit = post.loo_pit()
        """
        from bayeslmm.results.loo_pit import loo_pit

        return loo_pit(
            self, draws=draws, exact=exact, random_seed=random_seed, progressbar=progressbar
        )
