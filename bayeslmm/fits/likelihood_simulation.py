"""Simulation from a likelihood fit, and the intervals made by profiles and by simulation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError
from bayeslmm.likelihood.engine import Estimates, reestimates
from bayeslmm.results.tables import check_level

if TYPE_CHECKING:
    from bayeslmm.protocols import LikelihoodResult as _Result
    from bayeslmm.results.refits import Refits
else:  # its properties are attributes here
    _Result = object

__all__ = ["LikelihoodSimulation"]


class LikelihoodSimulation(_Result):
    """Intervals, simulated responses, and the model fitted to other responses."""

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

    def simulate(self, n_sims: int = 1, random_seed: int | None = None) -> pd.DataFrame:
        """Responses simulated from the fitted model, new random effects each time.

        Parameters
        ----------
        n_sims : int
            How many responses.
        random_seed : int, optional

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

    def refit(self, y) -> Self:
        """The same model fitted to another response of the same rows; see :meth:`refit_many`.

        Parameters
        ----------
        y : array-like, shape (n,)
            One value per row used.

        Returns
        -------
        LikelihoodFit

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

    def refit_many(self, Y, *, progressbar: bool = True) -> Refits:
        """Estimates of the same model for many other responses of the same rows.

        Thousands of times the numbers of :meth:`refit`, without its objects: where residuals are
        independent the searches are compiled, and threads share them out (``NUMBA_NUM_THREADS``
        limits their number, and no digit depends on it).

        Parameters
        ----------
        Y : array-like or DataFrame, shape (n, m)
            One response per column, rows as used in the fit: what :meth:`simulate` gives.
        progressbar : bool

        Returns
        -------
        Refits

        Raises
        ------
        DataError
            If the number of rows differs or a value is not finite.

        Examples
        --------
        >>> refits = fit.refit_many(fit.simulate(200, random_seed=1))
        >>> refits.coefficients.shape, int(refits.singular.sum())
        ((200, 2), 1)
        """
        from bayeslmm.results.refits import refit_many

        return refit_many(self, Y, progressbar)

    def reestimates(
        self, responses: Iterable[np.ndarray], start: np.ndarray | None = None
    ) -> Iterator[Estimates]:
        """Estimates for other responses (n,) of the same rows, one after the other."""
        return reestimates(self._engine, responses, reml=self.reml, start=start)
