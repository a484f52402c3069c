"""Variance explained, by a likelihood fit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pandas as pd

from bayeslmm.results.support import refuse_families
from bayeslmm.results.tables import check_level

if TYPE_CHECKING:
    from bayeslmm.protocols import LikelihoodResult as _Result
else:  # its properties are attributes here
    _Result = object

__all__ = ["LikelihoodShares"]


class LikelihoodShares(_Result):
    """Shares of the variance: R2, intraclass correlation, heritability, repeatability."""

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

        References
        ----------
        - Nakagawa and Schielzeth (2013), Methods in Ecology and Evolution 4(2), eq. 26-30;
          https://doi.org/10.1111/j.2041-210x.2012.00261.x
        - With random slopes: Johnson (2014), Methods in Ecology and Evolution 5(9), eq. 10;
          https://doi.org/10.1111/2041-210X.12225
        - Other responses: Nakagawa, Johnson and Schielzeth (2017), Journal of the Royal Society
          Interface 14, table 1; https://doi.org/10.1098/rsif.2017.0213

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

        Returns
        -------
        pandas.Series or pandas.DataFrame
            By ``adjusted``, ``unadjusted`` and grouping factor; a frame with `at` or with a
            bootstrap's intervals.

        References
        ----------
        - Nakagawa, Johnson and Schielzeth (2017), Journal of the Royal Society Interface 14, table
          1; https://doi.org/10.1098/rsif.2017.0213
        - With `at`: Goldstein, Browne and Rasbash (2002), Understanding Statistics 1(4), eq. 4;
          https://doi.org/10.1207/S15328031US0104_02

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

        References
        ----------
        With `fixed`: Wilson (2008), Journal of Evolutionary Biology 21(3);
        https://doi.org/10.1111/j.1420-9101.2008.01500.x
        """
        from bayeslmm.results.heritability import heritability_share, likelihood_share

        refuse_families(self.model, "Heritability")
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

        Returns
        -------
        pandas.Series
            ``estimate se lower upper``.

        References
        ----------
        Nakagawa and Schielzeth (2010), Biological Reviews 85(4);
        https://doi.org/10.1111/j.1469-185X.2010.00141.x

        Examples
        --------
        >>> fit.repeatability("Subject").round(2).tolist()
        [0.72, 0.07, 0.56, 0.84]
        """
        from bayeslmm.results.heritability import likelihood_share, repeatability_share

        refuse_families(self.model, "Repeatability")
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
