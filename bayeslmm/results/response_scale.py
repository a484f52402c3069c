"""A likelihood fit of a response that is not Gaussian, on the scale of the response."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError

if TYPE_CHECKING:
    from bayeslmm.formula import Design
    from bayeslmm.protocols import LikelihoodResult

__all__ = [
    "RESIDUALS",
    "check_residuals",
    "deviance_residuals",
    "mean_of",
    "mean_shift",
    "on_mean_scale",
    "randomized_quantiles",
    "response_residuals",
    "trials_of",
]

#: Kinds of residuals of a response that is not Gaussian.
RESIDUALS = ("raw", "pearson", "deviance", "quantile")
#: Means closer to the ends of a link's range than this have an infinite linear predictor.
_END = 1e-300
#: Distribution functions closer to 0 or 1 than this have residuals of about 7 and -7.
_FAR = 1e-12
#: Change of a linear predictor that slopes of means are taken over.
_STEP = 1e-5


def trials_of(fit: LikelihoodResult) -> np.ndarray:
    """Trials of the rows, 1 where there are none."""
    trials = fit.design.trials
    return np.ones(fit.design.n_rows) if trials is None else trials


def mean_of(fit: LikelihoodResult, eta: np.ndarray) -> np.ndarray:
    """Expected response at linear predictors: per trial, or the expected number of a category."""
    return np.asarray(fit.design.family.mean(eta, fit._solution.phi), dtype=float)


def mean_shift(fit: LikelihoodResult, eta: np.ndarray) -> np.ndarray | None:
    """The changes (m, n_phi) of linear predictors that move means as much as the parameters do.

    Of thresholds of ordered categories, shares of further zeros and the spread of lognormal
    measurements; None where means do not depend on the family's parameters.
    """
    family, phi = fit.design.family, fit._solution.phi
    moves = np.empty((len(eta), len(phi)))
    for k, step in enumerate(_STEP * np.minimum(1.0, np.abs(phi) + 1e-3)):
        ends = [family.mean(eta, phi + s * np.eye(len(phi))[k]) for s in (step, -step)]
        moves[:, k] = (ends[0] - ends[1]) / (2.0 * step)
    if not np.any(moves):
        return None
    slope = (mean_of(fit, eta + _STEP) - mean_of(fit, eta - _STEP)) / (2.0 * _STEP)
    return np.divide(moves, slope[:, None], out=np.zeros_like(moves), where=slope[:, None] != 0.0)


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


def response_residuals(
    fit: LikelihoodResult, eta: np.ndarray, kind: str, random_seed: int | None = None
) -> np.ndarray:
    """Residuals (n,) at linear predictors.

    Parameters
    ----------
    kind : {"raw", "pearson", "deviance", "quantile"}
        See ``LikelihoodFit.residuals``.
    random_seed : int, optional
        Of quantile residuals of a discrete response.

    Raises
    ------
    ValueError
        If there is no such kind.
    DataError
        If an ordinal response has none of the kind.
    """
    design, family, phi = fit.design, fit.design.family, fit._solution.phi
    check_residuals(design, kind)
    if kind == "deviance":
        return deviance_residuals(design, eta, phi)
    trials = trials_of(fit)
    if kind == "quantile":
        ends = family.cdf_below(design.y, eta, phi, trials), family.cdf(design.y, eta, phi, trials)
        return randomized_quantiles(*ends, random_seed)
    raw = design.y - trials * mean_of(fit, eta)
    if kind == "raw":
        return raw
    weights = 1.0 if design.weights is None else design.weights
    return raw * np.sqrt(weights / family.variance(eta, phi, trials))


def check_residuals(design: Design, kind: str) -> None:
    """Refuse kinds of residuals that there are not.

    Raises
    ------
    ValueError, DataError
    """
    if kind not in RESIDUALS:
        raise ValueError(
            f"kind must be one of {', '.join(map(repr, RESIDUALS))} with "
            f'family="{design.family.name}", not {kind!r}.'
        )
    if kind == "deviance" and design.family.name == "ordinal":
        raise DataError(
            "Ordered categories have no deviance residuals: no linear predictor makes a middle "
            'category certain. Use kind="quantile", "pearson" or "raw".'
        )


def deviance_residuals(design: Design, eta: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """Signed roots (n,) of what rows lack in twice the log-likelihood, at one value of each."""
    family, trials = design.family, 1.0 if design.trials is None else design.trials
    weights = 1.0 if design.weights is None else design.weights
    highest = family.log_density(design.y, _saturated(design), phi, trials)
    gap = highest - family.log_density(design.y, eta, phi, trials)
    raw = design.y - trials * family.mean(eta, phi)
    return np.sign(raw) * np.sqrt(np.maximum(2.0 * weights * gap, 0.0))


def randomized_quantiles(
    below: np.ndarray, up_to: np.ndarray, random_seed: int | None = None
) -> np.ndarray:
    """Standard normal residuals (n,), where the model holds (Dunn & Smyth 1996).

    Dunn and Smyth, Randomized quantile residuals, Journal of Computational and Graphical
    Statistics 5(3), 236-244.

    Parameters
    ----------
    below, up_to : (n,) array
        P(Y < y) and P(Y <= y), between which the place of a discrete response is drawn.
    random_seed : int, optional
    """
    from scipy.special import ndtri

    u = np.random.default_rng(random_seed).random(len(below))
    return ndtri(np.clip(below + u * (up_to - below), _FAR, 1.0 - _FAR))


def _saturated(design: Design) -> np.ndarray:
    """Linear predictors whose means are the responses, as far as there are some."""
    family, own = design.family, design.y / (1.0 if design.trials is None else design.trials)
    if family.name == "lognormal":
        return np.log(own)
    highest = 1.0 - 1e-16 if family.name in ("bernoulli", "binomial", "beta") else np.inf
    return family.link.link(np.clip(own, _END, highest))
