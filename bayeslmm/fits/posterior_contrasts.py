"""Combinations of the coefficients of a posterior: contrasts, marginal means, their differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from bayeslmm.fits.posterior_draws import PosteriorDraws
from bayeslmm.results.contrasts import contextual_contrast, contrast_matrix
from bayeslmm.results.marginal_means import comparison_rows, marginal_rows
from bayeslmm.results.ratios import on_predictor_scale, ratios_of_draws
from bayeslmm.results.tables import apart, check_level, summarize_blocks

__all__ = ["PosteriorContrasts"]


class PosteriorContrasts(PosteriorDraws):
    """Methods of :class:`bayeslmm.PosteriorFit` that summarize combinations of coefficients."""

    def contrast(self, L, *, level: float = 0.95, interval: str = "eti") -> pd.DataFrame:
        """Linear combinations of the coefficients.

        Parameters
        ----------
        L : dict, DataFrame or array
            ``{"Days": 1, "Intercept": 2}`` is one combination, ``{"a": {...}, "b": {...}}`` are
            several; a frame has coefficients as columns; an array has one column per
            coefficient.
        level, interval
            As in :meth:`summary`.

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
        >>> post.contrast({"Intercept": 1, "Days": 5}).shape[0]
        1
        """
        rows, index = contrast_matrix(L, self.model.design.coef_names)
        check_level(level, interval)
        index = pd.Index(index, name="contrast", dtype=object)
        table = self._combined(
            rows, 0.0, index, level, interval, lambda draws: self._ratios(draws, level, interval)
        )
        return on_predictor_scale(self.model.design.family, table)

    def contextual_effect(
        self, x: str, g: str, *, level: float = 0.95, interval: str = "eti"
    ) -> pd.DataFrame:
        """What a group's mean of `x` adds beyond the row's own `x`: between minus within.

        Parameters
        ----------
        x, g
            As in :meth:`bayeslmm.LikelihoodFit.contextual_effect`.
        level, interval
            As in :meth:`summary`.

        Returns
        -------
        pandas.DataFrame
            One row, columns as of :meth:`contrast`.

        Raises
        ------
        ValueError
            If the model does not have the coefficients.
        """
        L = contextual_contrast(self.model.design.coef_names, x, g)
        return self.contrast(L, level=level, interval=interval)

    def marginal_means(
        self,
        terms: str | list[str],
        *,
        by: str | list[str] | None = None,
        at=None,
        weights: str = "equal",
        level: float = 0.95,
        interval: str = "eti",
    ) -> pd.DataFrame:
        """Marginal means of the levels of one or several factors, as posterior summaries.

        Means of the linear predictor; :meth:`predictions` has those of a response that is not
        Gaussian.

        Parameters
        ----------
        terms, by, at, weights
            As in :meth:`bayeslmm.LikelihoodFit.marginal_means`.
        level, interval
            As in :meth:`summary`.

        Returns
        -------
        pandas.DataFrame
            One row per level (or combination), columns as in :meth:`summary`.

        Examples
        --------
        >>> import bayeslmm as blm
        >>> data = blm.load_dataset("machines")
        >>> model = blm.LMM("score ~ Machine + (1 | Worker)", data)
        >>> post = model.fit(method="importance", draws=250, random_seed=1)
        >>> post.marginal_means("Machine").shape[0]
        3
        """
        check_level(level, interval)
        labels, rows, offset = marginal_rows(self, terms, by, at, weights)
        names = [" ".join(map(str, row)) for row in labels.itertuples(index=False)]
        table = self._combined(rows, offset, labels.index, level, interval, names=names)
        table = pd.concat([apart(labels, table), table], axis=1)
        return on_predictor_scale(self.model.design.family, table)

    def pairwise(
        self,
        terms: str | list[str],
        *,
        by: str | list[str] | None = None,
        method: str | None = None,
        reference: Any = None,
        at=None,
        weights: str = "equal",
        level: float = 0.95,
        interval: str = "eti",
    ) -> pd.DataFrame:
        """Differences of marginal means, with the probability of being positive.

        On the scale of the linear predictor, with ratios as in :meth:`fixef`;
        :meth:`comparisons` compares means of a response that is not Gaussian.

        Parameters
        ----------
        by, method, reference
            As in :meth:`bayeslmm.LikelihoodFit.pairwise`.
        terms, at, weights, level, interval
            As in :meth:`marginal_means`.

        Returns
        -------
        pandas.DataFrame
            One row per difference: columns as in :meth:`summary`, and ``p_positive``.

        Examples
        --------
        >>> import bayeslmm as blm
        >>> data = blm.load_dataset("machines")
        >>> model = blm.LMM("score ~ Machine + (1 | Worker)", data)
        >>> post = model.fit(method="importance", draws=250, random_seed=1)
        >>> post.pairwise("Machine").shape[0]
        3
        """
        check_level(level, interval)
        method = method or ("pairwise" if reference is None else "reference")
        found = comparison_rows(self, terms, by, at, weights, method, reference)
        labels = found.labels
        table = self._combined(
            found.L,
            found.offset,
            labels.index,
            level,
            interval,
            lambda draws: {
                "p_positive": (draws > 0).mean(axis=(0, 1)),
                **self._ratios(draws, level, interval),
            },
            names=labels["contrast"],
        )
        table = pd.concat([apart(labels, table), table], axis=1)
        return on_predictor_scale(self.model.design.family, table)

    def _combined(
        self,
        rows: np.ndarray,
        offset,
        index: pd.Index,
        level: float,
        interval: str,
        more=None,
        names=None,
    ) -> pd.DataFrame:
        """Summaries of linear combinations of the coefficients."""
        from bayeslmm.results.posterior_prediction import warn_of_priors_alone

        names = list(index if names is None else names)
        warn_of_priors_alone(self, rows, names)
        beta, offset = self.posterior["beta"].to_numpy(), np.broadcast_to(offset, len(rows))
        return summarize_blocks(
            lambda part: beta @ rows[part].T + offset[part],
            index,
            beta.shape[0] * beta.shape[1],
            level=level,
            interval=interval,
            more=more,
        )

    def _ratios(self, draws: np.ndarray, level: float, interval: str) -> dict[str, np.ndarray]:
        return ratios_of_draws(self.model.design.family, draws, level, interval)
