"""Predictions and residuals of posteriors of responses that are not Gaussian."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.bayes.draws import covariance_draws
from bayeslmm.bayes.responses import phi_draws
from bayeslmm.errors import DataError
from bayeslmm.formula.extension import new_trials
from bayeslmm.results.population_average import (
    effect_variances,
    population_mean,
    population_probabilities,
    refuse_without_mean,
)
from bayeslmm.results.posterior_prediction import PosteriorPrediction
from bayeslmm.results.prediction import check_prediction, effect_rows
from bayeslmm.results.response_scale import (
    check_residuals,
    deviance_residuals,
    randomized_quantiles,
)
from bayeslmm.results.support import refuse_heavy_averages
from bayeslmm.results.tables import blocks_of

if TYPE_CHECKING:
    from bayeslmm.protocols import PosteriorResult

__all__ = ["ResponsePrediction", "posterior_prediction", "posterior_residuals"]

_KINDS = ("mean", "link", "response", "probabilities")


def posterior_prediction(
    fit: PosteriorResult,
    newdata=None,
    random: str = "conditional",
    kind: str = "mean",
    random_seed: int | None = None,
    allow_new_levels: bool = False,
    residuals: str = "new",
) -> PosteriorPrediction:
    """What :meth:`bayeslmm.PosteriorFit.predict` is asked for, of any family."""
    of = PosteriorPrediction if fit.model.design.family.gaussian else ResponsePrediction
    return of(fit, newdata, random, kind, random_seed, allow_new_levels, residuals)


class ResponsePrediction(PosteriorPrediction):
    """Predictions of a response that is not Gaussian, from draws of its linear predictor.

    ``block(part)`` has one column per row, with ``kind="probabilities"`` one per row and category,
    categories innermost.
    """

    def __init__(self, fit, newdata, random, kind, random_seed, allow_new_levels, residuals="new"):
        design = fit.model.design
        check_prediction(random, kind, _KINDS)
        if kind == "probabilities" and design.family.name != "ordinal":
            raise DataError(
                f'kind="probabilities" is of the categories of family="ordinal". With family='
                f'"{design.family.name}" kind="mean" is the mean response, per trial.'
            )
        within = "population" if random == "marginal" else random
        super().__init__(fit, newdata, within, "link", random_seed, allow_new_levels, residuals)
        self._kind, self._family, self._trials = kind, design.family, None
        self._phi = phi_draws(design, fit.posterior)[:, :, None]
        if kind == "response":
            trials = design.trials if newdata is None else new_trials(design, newdata)
            self._trials = np.ones(len(self.index)) if trials is None else trials
        self._streams = np.random.SeedSequence(random_seed)
        self._marginal = random == "marginal"
        if self._marginal:
            refuse_heavy_averages(fit.model)
            refuse_without_mean(design.family)
            self._Sigmas = covariance_draws(design, fit.names, fit.posterior)
            self._Z = effect_rows(design, newdata)

    def predictor(self, part: slice) -> np.ndarray:
        """Draws (chains, draws, rows) of the linear predictor of some of the rows."""
        return super().block(part)

    def block(self, part: slice) -> np.ndarray:
        eta, family, phi = self.predictor(part), self._family, self._phi
        if self._kind == "link":
            return eta
        if self._kind == "response":
            return self._responses(eta, part)
        variance = None
        if self._marginal:
            variance = effect_variances(self._Sigmas, [Z[part] for Z in self._Z])
            variance = np.broadcast_to(variance, eta.shape)
        if self._kind == "mean":
            if variance is None:
                return family.mean(eta, phi)
            return population_mean(family, eta, variance, phi)
        if variance is None:
            values = family.probabilities(eta, phi)
        else:
            values = population_probabilities(family, eta, variance, phi)
        return values.reshape(*self.shape, -1)

    def _responses(self, eta: np.ndarray, part: slice) -> np.ndarray:
        """New responses; each row has a stream of its own, whatever the size of the blocks."""
        assert self._trials is not None
        phi, out = self._phi[:, :, 0], np.empty(eta.shape)
        for at in range(eta.shape[-1]):
            row = part.start + at
            stream = np.random.SeedSequence(self._streams.entropy, spawn_key=(row,))
            rng = np.random.default_rng(stream)
            out[..., at] = self._family.draw(rng, eta[..., at], phi, self._trials[row])
        return out

    def draws(self) -> np.ndarray:
        """All draws (chains, draws, rows), of probabilities (chains, draws, rows, categories)."""
        if self._kind != "probabilities":
            return super().draws()
        k = len(self._fit.model.design.categories)
        out = np.empty((*self.shape, len(self.index), k))
        for part in blocks_of(len(self.index), self._width * k):
            out[..., part, :] = self.block(part).reshape(*self.shape, -1, k)
        return out

    def probabilities(self) -> pd.DataFrame:
        """Posterior mean of the probability of each category, one column each."""
        categories = self._fit.model.design.categories
        found = np.empty((len(self.index), len(categories)))
        for part in blocks_of(len(self.index), self._width * len(categories)):
            mean = self.block(part).mean(axis=(0, 1))
            found[part] = mean.reshape(-1, len(categories))
        return pd.DataFrame(found, index=self.index, columns=list(categories))


def posterior_residuals(
    fit: PosteriorResult, random: str, kind: str, random_seed: int | None
) -> np.ndarray:
    """Residuals (n,) of a response that is not Gaussian; see ``PosteriorFit.residuals``.

    Raises
    ------
    ValueError
        If there is no such kind, or not of means averaged over groups.
    DataError
        If an ordinal response has none of the kind.
    """
    design, family = fit.model.design, fit.model.design.family
    check_residuals(design, kind)
    if random == "marginal" and kind != "raw":
        raise ValueError(
            f'kind="{kind}" rests on the distribution of a response given its group: '
            'random="conditional", "population" or "new".'
        )
    trials = np.ones(design.n_rows) if design.trials is None else design.trials
    if random == "marginal":
        found = posterior_prediction(fit, None, random, "mean", random_seed)
        return design.y - trials * found.means()
    found = ResponsePrediction(fit, None, random, "link", random_seed, False)
    if kind == "deviance":
        phi = phi_draws(design, fit.posterior).mean(axis=(0, 1))
        return deviance_residuals(design, found.means(), phi)
    one, other = np.empty(design.n_rows), np.empty(design.n_rows)
    phi = phi_draws(design, fit.posterior)[:, :, None]
    for part, eta in found.blocks():
        y, m = design.y[part], trials[part]
        if kind == "quantile":
            one[part] = family.cdf_below(y, eta, phi, m).mean(axis=(0, 1))
            other[part] = family.cdf(y, eta, phi, m).mean(axis=(0, 1))
        else:
            one[part] = y - m * family.mean(eta, phi).mean(axis=(0, 1))
            other[part] = family.variance(eta, phi, m).mean(axis=(0, 1))
    if kind == "quantile":
        return randomized_quantiles(one, other, random_seed)
    weights = 1.0 if design.weights is None else design.weights
    return one if kind == "raw" else one * np.sqrt(weights / other)
