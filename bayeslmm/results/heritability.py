"""Heritability and repeatability: shares of the phenotypic variance.

The additive variance is that of the base population, sd(Intercept | id)^2 with id related by A; the
phenotypic variance adds those of the other random effects and of the residuals (Falconer and
Mackay 1996, Introduction to Quantitative Genetics, chapters 8 and 10).  Fixed effects are not in it
unless asked for (Wilson 2008, Journal of Evolutionary Biology 21, 647-650).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.errors import PACKAGE, DataError, ModelWarning
from bayeslmm.results.estimates import likelihood_estimates

if TYPE_CHECKING:
    from bayeslmm.formula import Design
    from bayeslmm.protocols import LikelihoodResult, Model

__all__ = ["Share", "heritability_share", "likelihood_share", "repeatability_share", "share_values"]

_METHODS = ("delta", "bootstrap")


@dataclass(frozen=True)
class Share:
    """Which variances are above and below the line of a share.

    Attributes
    ----------
    name : str
    above, below : tuple of int
        Positions of grouping factors.
    fixed : bool
        Whether the variance of the fixed part is below.
    """

    name: str
    above: tuple[int, ...]
    below: tuple[int, ...]
    fixed: bool


def heritability_share(
    design: Design, factor: str | None, exclude: str | Iterable[str], fixed: bool
) -> Share:
    """Heritability: the variance of one related factor over the phenotypic variance.

    Raises
    ------
    DataError
        If no grouping factor, or more than one, has a relationship and `factor` does not say
        which; or if it has none.
    KeyError
        If there is no such grouping factor.
    """
    related = [block.name for block in design.blocks if block.relationship is not None]
    if not related:
        raise DataError(
            "Heritability needs a grouping factor with a known relationship: blm.LMM(formula, "
            'data, relationship={"id": ...}).'
        )
    if factor is None:
        if len(related) > 1:
            raise DataError(
                f"{', '.join(related)} have a relationship: say which one, "
                f"heritability({related[0]!r})."
            )
        factor = related[0]
    design.block(factor)
    if factor not in related:
        raise DataError(
            f"{factor!r} has no relationship, so its variance is not additive genetic. With one: "
            f"{', '.join(related)}. repeatability() takes any grouping factor."
        )
    return _share(design, "heritability", [factor], exclude, fixed)


def repeatability_share(
    design: Design, factors: Iterable[str] | str | None, exclude: str | Iterable[str], fixed: bool
) -> Share:
    """Repeatability: all variance between individuals over the phenotypic variance.

    By default the individuals' factors are the related one and those whose levels are the same
    individuals, such as a permanent environment.

    Raises
    ------
    DataError
        If `factors` is not given and no grouping factor has a relationship.
    KeyError
        If there is no such grouping factor.
    """
    if factors is None:
        share = heritability_share(design, None, (), fixed)
        lead = design.blocks[share.above[0]]
        chosen = [
            block.name
            for block in design.blocks
            if block is lead or _same_individuals(lead.codes, block.codes)
        ]
    else:
        chosen = [factors] if isinstance(factors, str) else list(factors)
    return _share(design, "repeatability", chosen, exclude, fixed)


def share_values(
    model: Model, share: Share, Sigmas: list[np.ndarray], sigma: np.ndarray, beta: np.ndarray
) -> np.ndarray:
    """The share of each draw; leading dimensions of all arrays are draws.

    With random slopes a factor's variance is its mean over the rows, z'Sigma z.
    """
    design = model.design
    moments = [block.Z.T @ block.Z / design.n_rows for block in design.blocks]
    variances = [
        np.einsum("...ab,ab->...", Sigma, moment)
        for Sigma, moment in zip(Sigmas, moments, strict=True)
    ]
    scale = 1.0 if design.weights is None else float(np.mean(1.0 / design.weights))
    total = scale * np.asarray(sigma) ** 2
    for k in share.below:
        total = total + variances[k]
    if share.fixed:
        from bayeslmm.results.shares import variance_parts

        total = total + variance_parts(model, beta, Sigmas, sigma).fixed
    return sum(variances[k] for k in share.above) / total


def likelihood_share(
    fit: LikelihoodResult,
    share: Share,
    *,
    level: float,
    method: str,
    n_sims: int,
    random_seed: int | None,
    progressbar: bool,
) -> pd.Series:
    """Estimate, standard error and interval of a share in a likelihood fit.

    ``"delta"``: the delta method on the logit scale, from the observed information of the
    variance parameters. ``"bootstrap"``: percentiles over data simulated from the fit.

    Returns
    -------
    pandas.Series
        ``estimate se lower upper``; with the delta method no interval within a standard error
        of a boundary, and no standard error at it.

    Raises
    ------
    ValueError
        If there is no such method.
    """
    if method not in _METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, _METHODS))}, not {method!r}.")
    estimate = _of(fit, share, fit._solution.Sigmas, fit.sigma)
    if method == "bootstrap":
        se, lower, upper = _bootstrap(fit, share, level, n_sims, random_seed, progressbar)
    else:
        se, lower, upper = _delta(fit, share, estimate, level)
    return pd.Series(
        {"estimate": estimate, "se": se, "lower": lower, "upper": upper}, name=share.name
    )


def _share(design: Design, name: str, above, exclude, fixed: bool) -> Share:
    names = [block.name for block in design.blocks]
    exclude = [exclude] if isinstance(exclude, str) else list(exclude)
    for factor in (*above, *exclude):
        design.block(factor)  # an unknown factor is named
    both = set(above) & set(exclude)
    if both:
        raise DataError(f"{both.pop()!r} is in the numerator: it cannot be excluded.")
    return Share(
        name,
        tuple(names.index(factor) for factor in above),
        tuple(k for k, factor in enumerate(names) if factor not in exclude),
        bool(fixed),
    )


def _same_individuals(first: np.ndarray, second: np.ndarray) -> bool:
    """Two factors split the rows in the same way."""
    pairs = len(np.unique(first.astype(np.int64) * (second.max() + 1) + second))
    return pairs == len(np.unique(first)) == len(np.unique(second))


def _of(fit: LikelihoodResult, share: Share, Sigmas, sigma, beta=None) -> float:
    """The share at covariance parameters."""
    beta = likelihood_estimates(fit).beta if beta is None else beta
    return float(share_values(fit.model, share, Sigmas, np.asarray(sigma), beta))


def _delta(fit, share: Share, estimate: float, level: float):
    """Standard error, and the interval on the logit scale; coefficients taken as known."""
    from scipy.special import expit, logit, ndtri

    slope = fit._engine.slope(fit._solution, lambda Sigmas, sigma: _of(fit, share, Sigmas, sigma))
    variance = float(slope @ fit._curvature.covariance @ slope)
    se = np.sqrt(variance) if variance > 0 else np.nan
    if fit._curvature.undetermined(slope[None])[0]:
        se = np.nan
    half = se / (estimate * (1 - estimate)) if 1e-8 < estimate < 1 - 1e-8 else np.nan
    # more than 2 on the logit scale, as more than 1 in a log standard deviation: 0 is within reach
    if not half < 2:
        warnings.warn(
            f"The {share.name} is estimated at its boundary or near it, or is not determined by "
            'the data: the delta method has no interval there, method="bootstrap" has one.',
            ModelWarning,
            skip_file_prefixes=PACKAGE,
        )
        return (se if half >= 2 else np.nan), np.nan, np.nan
    half, center = ndtri(0.5 + level / 2) * half, logit(estimate)
    return float(se), float(expit(center - half)), float(expit(center + half))


def _refitted(fit, share: Share, solution) -> float:
    beta = likelihood_estimates(fit, solution).beta
    return _of(fit, share, solution.Sigmas, solution.sigma, beta)


def _bootstrap(fit, share: Share, level, n_sims, random_seed, progressbar):
    """Standard deviation and percentiles over simulated data."""
    from bayeslmm.results.intervals import bootstrap_refits

    refits = bootstrap_refits(fit, n_sims, random_seed, progressbar)
    values = np.array([_refitted(fit, share, refit.solution) for refit in refits])
    tail = (1 - level) / 2
    lower, upper = np.quantile(values, [tail, 1 - tail])
    return float(values.std(ddof=1)), float(lower), float(upper)
