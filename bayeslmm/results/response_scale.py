"""A likelihood fit of a response that is not Gaussian, on the scale of the response."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError

if TYPE_CHECKING:
    from bayeslmm.protocols import LikelihoodResult

__all__ = ["RESIDUALS", "mean_of", "on_mean_scale", "response_residuals", "trials_of"]

#: Kinds of residuals of a response that is not Gaussian.
RESIDUALS = ("raw", "pearson", "deviance")
#: Means closer to the ends of a link's range than this have an infinite linear predictor.
_END = 1e-300
#: Change of a linear predictor that slopes of means are taken over.
_STEP = 1e-5


def trials_of(fit: LikelihoodResult) -> np.ndarray:
    """Trials of the rows, 1 where there are none."""
    trials = fit.design.trials
    return np.ones(fit.design.n_rows) if trials is None else trials


def mean_of(fit: LikelihoodResult, eta: np.ndarray) -> np.ndarray:
    """Expected response at linear predictors: per trial, or the expected number of a category."""
    return np.asarray(fit.design.family.mean(eta, fit._solution.phi), dtype=float)


def on_mean_scale(fit: LikelihoodResult, table: pd.DataFrame) -> pd.DataFrame:
    """Predictions of the linear predictor as those of the mean.

    Limits are transformed, which keeps them inside the range of the mean; standard errors are by
    the delta method.
    """
    eta = table["estimate"].to_numpy()
    slope = (mean_of(fit, eta + _STEP) - mean_of(fit, eta - _STEP)) / (2.0 * _STEP)
    ends = np.sort([mean_of(fit, table[name].to_numpy()) for name in ("lower", "upper")], axis=0)
    return pd.DataFrame(
        {
            "estimate": mean_of(fit, eta),
            "se": np.abs(slope) * table["se"].to_numpy(),
            "lower": ends[0],
            "upper": ends[1],
        },
        index=table.index,
    )


def response_residuals(fit: LikelihoodResult, eta: np.ndarray, kind: str) -> np.ndarray:
    """Residuals (n,) at linear predictors.

    Parameters
    ----------
    kind : {"raw", "pearson", "deviance"}
        See ``LikelihoodFit.residuals``.

    Raises
    ------
    ValueError
        If there is no such kind.
    DataError
        If an ordinal response has none of the kind.
    """
    if kind not in RESIDUALS:
        raise ValueError(
            f"kind must be one of {', '.join(map(repr, RESIDUALS))} with "
            f'family="{fit.design.family.name}", not {kind!r}.'
        )
    design, family, phi = fit.design, fit.design.family, fit._solution.phi
    trials = trials_of(fit)
    raw = design.y - trials * mean_of(fit, eta)
    if kind == "raw":
        return raw
    weights = 1.0 if design.weights is None else design.weights
    if kind == "pearson":
        return raw * np.sqrt(weights / family.variance(eta, phi, trials))
    if family.name == "ordinal":
        raise DataError(
            "Ordered categories have no deviance residuals: no linear predictor makes a middle "
            'category certain. Use kind="pearson" or "raw".'
        )
    highest = family.log_density(design.y, _saturated(fit, trials), phi, trials)
    gap = highest - family.log_density(design.y, eta, phi, trials)
    return np.sign(raw) * np.sqrt(np.maximum(2.0 * weights * gap, 0.0))


def _saturated(fit: LikelihoodResult, trials: np.ndarray) -> np.ndarray:
    """Linear predictors whose means are the responses, as far as there are some."""
    family, own = fit.design.family, fit.design.y / trials
    if family.name == "lognormal":
        return np.log(own)
    highest = 1.0 - 1e-16 if family.name in ("bernoulli", "binomial", "beta") else np.inf
    return family.link.link(np.clip(own, _END, highest))
