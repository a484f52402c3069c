"""What pictures of responses that are not Gaussian show, as numbers.

Rootograms (Kleiber and Zeileis 2016, The American Statistician 70(3)), binned residuals (Gelman and
Hill 2007, Data Analysis Using Regression and Multilevel/Hierarchical Models, section 5.6),
randomized quantile residuals (Dunn and Smyth 1996, J. Comput. Graph. Stat. 5(3)), all with what
data replicated from the model show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.bayes.responses import phi_draws
from bayeslmm.bayes.tree import linear_predictor
from bayeslmm.errors import DataError
from bayeslmm.protocols import is_posterior
from bayeslmm.results.response_scale import randomized_quantiles

if TYPE_CHECKING:
    from bayeslmm.formula import Design
    from bayeslmm.protocols import LikelihoodResult, PosteriorResult

__all__ = [
    "binned_residuals",
    "category_counts",
    "fitted_means",
    "is_count",
    "quantile_residuals",
    "rootogram",
]

#: Bars of a rootogram, and draws that distribution functions and means are averaged over.
_MOST_BARS, _DRAWS = 40, 1000


def is_count(design: Design) -> bool:
    """Whether the response is a count without a number of trials."""
    return design.family.name.endswith(("poisson", "negativebinomial"))


def rootogram(y: np.ndarray, replicated: np.ndarray, *, level: float = 0.95) -> pd.DataFrame:
    """How often counts are observed, and how often they are in replicated data.

    Parameters
    ----------
    y : (n,) array
    replicated : (m, n) array
    level : float
        Of the predictive interval.

    Returns
    -------
    pandas.DataFrame
        Columns ``first last observed expected lower upper``: rows with counts from first to last,
        observed and of replicated data the mean and the limits. One count per row where 40 do;
        the last row has all higher counts.
    """
    top = int(np.quantile(replicated, 0.999))
    top = max(top, int(y.max()))
    width = 1 + top // _MOST_BARS
    first = np.arange(0, top + 1, width)
    observed = _counts(y[None], first)[0]
    table = pd.DataFrame({"first": first, "last": first + width - 1, "observed": observed})
    return _with_replicates(table, _counts(replicated, first), level)


def category_counts(design: Design, replicated: np.ndarray, *, level: float = 0.95) -> pd.DataFrame:
    """How often each category is observed, and how often it is in replicated data.

    Parameters
    ----------
    design : Design
        Of an ordinal response or one of 0 and 1.
    replicated : (m, n) array
    level : float

    Returns
    -------
    pandas.DataFrame
        Columns ``category observed expected lower upper``.
    """
    names = [str(c) for c in design.categories] or ["0", "1"]
    first = np.arange(len(names))
    table = pd.DataFrame({"category": names, "observed": _counts(design.y[None], first)[0]})
    return _with_replicates(table, _counts(replicated, first), level)


def _counts(values: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Rows in each class of each data set, (m, classes)."""
    at = np.searchsorted(first, values, side="right") - 1
    at = at + len(first) * np.arange(len(values))[:, None]
    return np.bincount(at.ravel(), minlength=len(values) * len(first)).reshape(len(values), -1)


def _with_replicates(table: pd.DataFrame, counts: np.ndarray, level: float) -> pd.DataFrame:
    ends = np.quantile(counts, [0.5 - 0.5 * level, 0.5 + 0.5 * level], axis=0)
    return table.assign(expected=counts.mean(axis=0), lower=ends[0], upper=ends[1])


def binned_residuals(
    design: Design, mean: np.ndarray, replicated: np.ndarray, *, bins: int | None = None
) -> pd.DataFrame:
    """Mean residuals of rows with like fitted values, and those of replicated data.

    Parameters
    ----------
    design : Design
    mean : (n,) array
        Fitted means, of binomial counts per trial.
    replicated : (m, n) array
    bins : int, optional
        By default the root of the number of rows from 100 rows on, 10 of fewer.

    Returns
    -------
    pandas.DataFrame
        Columns ``fitted residual lower upper n``: of every bin the mean fitted value, the mean
        residual (per trial), 95 % of those of replicated data, and the rows.
    """
    n = len(mean)
    if bins is None:
        bins = int(np.sqrt(n)) if n >= 100 else min(10, max(n // 2, 1))
    trials = np.ones(n) if design.trials is None else design.trials
    order = np.argsort(mean, kind="stable")
    starts = np.unique(np.linspace(0, n, bins + 1).astype(int)[:-1])
    size = np.add.reduceat(trials[order], starts)

    def means(y: np.ndarray) -> np.ndarray:
        return np.add.reduceat((y - trials * mean)[:, order], starts, axis=1) / size

    lower, upper = np.quantile(means(replicated), [0.025, 0.975], axis=0)
    return pd.DataFrame(
        {
            "fitted": np.add.reduceat((trials * mean)[order], starts) / size,
            "residual": means(design.y[None])[0],
            "lower": lower,
            "upper": upper,
            "n": np.diff(np.append(starts, n)),
        }
    )


def quantile_residuals(
    fit: PosteriorResult | LikelihoodResult,
    *,
    draws: int | None = None,
    random_seed: int | None = 0,
) -> np.ndarray:
    """Normal quantiles of the distribution function of every row at its response.

    A standard normal sample where the model is true. Of a posterior, the distribution function is
    the mean over draws, given the random effects; of a discrete response, a uniform number between
    P(Y < y) and P(Y <= y) takes its place. Rows have been used to fit the model, which makes their
    residuals a little smaller than new rows' would be; ``loo_pit`` leaves each row out.

    Parameters
    ----------
    fit : PosteriorFit or LikelihoodFit
        Of a response that is not Gaussian.
    draws : int, optional
        Of a posterior, in all; 1,000 where there are as many.
    random_seed : int, optional

    Returns
    -------
    (n,) array

    Raises
    ------
    DataError
        If the response is Gaussian.
    """
    design = fit.model.design
    if design.family.gaussian:
        raise DataError("Quantile residuals of a Gaussian response are its residuals.")
    upper, lower = np.zeros((2, design.n_rows))
    parts = _predictors(fit, _DRAWS if draws is None else draws)
    trials = 1.0 if design.trials is None else design.trials
    for eta, phi in parts:
        reached = design.family.cdf(design.y, eta, phi, trials)
        upper += reached
        if design.family.discrete:
            reached = reached - np.exp(design.family.log_density(design.y, eta, phi, trials))
        lower += np.maximum(reached, 0.0)
    return randomized_quantiles(lower / len(parts), upper / len(parts), random_seed)


def fitted_means(fit: PosteriorResult | LikelihoodResult) -> np.ndarray:
    """Means of the rows given the random effects, (n,), of binomial counts per trial."""
    family = fit.model.design.family
    parts = _predictors(fit, _DRAWS)
    return sum(family.mean(eta, phi) for eta, phi in parts) / len(parts)


def _predictors(fit, draws: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Linear predictors (n,) and phi of some draws, or at the estimates."""
    design = fit.model.design
    if not is_posterior(fit):
        return [(fit.fitted(kind="link").to_numpy(), fit._solution.phi)]
    posterior = fit.posterior
    chains, available = posterior.sizes["chain"], posterior.sizes["draw"]
    count = min(available, max(1, draws // chains))
    posterior = posterior.isel(draw=np.linspace(0, available - 1, count).astype(int))
    eta = linear_predictor(design, fit.names, posterior).reshape(chains * count, -1)
    return list(zip(eta, phi_draws(design, posterior).reshape(len(eta), -1), strict=True))
