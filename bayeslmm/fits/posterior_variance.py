"""Variance explained by a posterior's parts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pandas as pd

from bayeslmm.fits.posterior_draws import PosteriorDraws
from bayeslmm.results.support import refuse_families
from bayeslmm.results.tables import check_level, summarize_draws

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["PosteriorVariance"]


class PosteriorVariance(PosteriorDraws):
    """Methods of :class:`bayeslmm.PosteriorFit` about variances and their shares."""

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

        References
        ----------
        - Nakagawa and Schielzeth (2013), Methods in Ecology and Evolution 4(2), eq. 26-30;
          https://doi.org/10.1111/j.2041-210x.2012.00261.x
        - With random slopes: Johnson (2014), Methods in Ecology and Evolution 5(9), eq. 10;
          https://doi.org/10.1111/2041-210X.12225
        - Other responses: Nakagawa, Johnson and Schielzeth (2017), Journal of the Royal Society
          Interface 14, table 1; https://doi.org/10.1098/rsif.2017.0213
        - Gelman, Goodrich, Gabry and Vehtari (2019), The American Statistician 73(3), eq. 3;
          https://doi.org/10.1080/00031305.2018.1549100

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

        Returns
        -------
        pandas.DataFrame or xarray.Dataset
            Rows ``adjusted``, ``unadjusted`` and the grouping factors; with ``draws=True`` draws.

        References
        ----------
        - Nakagawa, Johnson and Schielzeth (2017), Journal of the Royal Society Interface 14, table
          1; https://doi.org/10.1098/rsif.2017.0213
        - With `at`: Goldstein, Browne and Rasbash (2002), Understanding Statistics 1(4), eq. 4;
          https://doi.org/10.1207/S15328031US0104_02

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

        Returns
        -------
        pandas.DataFrame or xarray.DataArray
            One row, columns as in :meth:`summary`; with ``draws=True`` the draws.

        Raises
        ------
        DataError
            If no grouping factor has a relationship, or it is not clear which is meant.

        References
        ----------
        With `fixed`: Wilson (2008), Journal of Evolutionary Biology 21(3);
        https://doi.org/10.1111/j.1420-9101.2008.01500.x
        """
        from bayeslmm.results.heritability import heritability_share

        refuse_families(self.model, "Heritability")
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

        Returns
        -------
        pandas.DataFrame or xarray.DataArray
            One row, columns as in :meth:`summary`; with ``draws=True`` the draws.

        References
        ----------
        Nakagawa and Schielzeth (2010), Biological Reviews 85(4);
        https://doi.org/10.1111/j.1469-185X.2010.00141.x

        Examples
        --------
        >>> post.repeatability("Subject").shape[0]
        1
        """
        from bayeslmm.results.heritability import repeatability_share

        refuse_families(self.model, "Repeatability")
        share = repeatability_share(self.model.design, factors, exclude, fixed)
        return self._share(share, level, interval, draws)

    def _share(self, share, level: float, interval: str, draws: bool):
        from bayeslmm.bayes.residual_draws import mean_sigma
        from bayeslmm.results.estimates import posterior_estimates
        from bayeslmm.results.heritability import share_values

        posterior, found = self.posterior, posterior_estimates(self)
        sigma = mean_sigma(self.model.design, posterior)
        values = share_values(self.model, share, found.Sigmas, sigma, found.beta)
        if not draws:
            check_level(level, interval)
            return summarize_draws(values[..., None], [share.name], level=level, interval=interval)
        import xarray as xr

        coords = {"chain": posterior["chain"], "draw": posterior["draw"]}
        return xr.DataArray(values, dims=("chain", "draw"), coords=coords, name=share.name)
