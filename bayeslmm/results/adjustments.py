"""p values and intervals of several comparisons, adjusted for their number."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq

from bayeslmm.likelihood.inference import t_quantile
from bayeslmm.results.studentized_range import studentized_range_ppf, studentized_range_sf

__all__ = ["ADJUSTMENTS", "adjusted", "correlation_of"]

ADJUSTMENTS = ("holm", "bonferroni", "fdr", "tukey", "dunnett")
#: Nodes over the estimated standard deviation, its tails left out, points of the integral over
#: the comparisons, and where normals end.
_NODES, _TAIL, _POINTS, _FAR = 40, 1e-9, 20_000, 8.0


def adjusted(
    table: pd.DataFrame, adjust: str | None, level: float, pairs: np.ndarray, correlation
) -> pd.DataFrame:
    """A family of comparisons with adjusted p values.

    Parameters
    ----------
    table : pandas.DataFrame
        Columns ``estimate se df t p lower upper``.
    adjust : {"holm", "bonferroni", "fdr", "tukey", "dunnett", None}
        Holm (1979, Scandinavian Journal of Statistics 6); Bonferroni; the false discovery rate
        of Benjamini and Hochberg (1995, Journal of the Royal Statistical Society B 57); Tukey's
        studentized range; or the largest of the correlated t statistics (Dunnett 1955, Journal of
        the American Statistical Association 50). Bonferroni, Tukey and Dunnett widen the
        intervals to match. The family is the comparisons that can be made: those that are NaN are
        not counted, nor means that none of the others compares.
    level : float
    pairs : (k, 2) int array
        Which means are compared.
    correlation : callable
        Gives the correlations (k, k) of the estimates.

    Raises
    ------
    ValueError
        If there is no such adjustment.
    """
    if adjust is None:
        return table
    if adjust not in ADJUSTMENTS:
        raise ValueError(
            f"adjust must be one of {', '.join(map(repr, ADJUSTMENTS))} or None, not {adjust!r}."
        )
    table, exists = table.copy(), table["p"].notna().to_numpy()
    p, n = table["p"].to_numpy()[exists], int(exists.sum())
    if n == 0:
        return table
    t, df = np.abs(table["t"].to_numpy()[exists]), table["df"].to_numpy()[exists]
    half = None
    if adjust == "holm":
        order = np.argsort(p)
        steps = np.maximum.accumulate(p[order] * np.arange(n, 0, -1))
        p = np.minimum(steps, 1.0)[np.argsort(order)]
    elif adjust == "bonferroni":
        p, half = np.minimum(n * p, 1.0), t_quantile(1 - (1 - level) / (2 * n), df)
    elif adjust == "fdr":
        from scipy.stats import false_discovery_control

        p = false_discovery_control(p)
    elif adjust == "tukey":
        compared = max(len(np.unique(pairs[exists])), 2)
        p = studentized_range_sf(np.sqrt(2) * t, compared, df)
        half = studentized_range_ppf(level, compared, df) / np.sqrt(2)
    else:
        inside = _normal_inside(correlation()[np.ix_(exists, exists)])
        beyond = [1 - _largest_below(v, inside, f) for v, f in zip(t, df, strict=True)]
        p = np.clip(beyond, p, np.minimum(n * p, 1.0))  # which lose digits near 0
        half = np.array([_largest_quantile(level, inside, f, n) for f in df])
    table.loc[exists, "p"] = p
    if half is not None:
        found = table.loc[exists]
        table.loc[exists, "lower"] = found["estimate"] - half * found["se"]
        table.loc[exists, "upper"] = found["estimate"] + half * found["se"]
    return table


def correlation_of(L: np.ndarray, vcov: np.ndarray) -> np.ndarray:
    """Correlations (k, k) of combinations L (k, p) of estimates with covariance vcov (p, p)."""
    covariance = L @ vcov @ L.T
    sd = np.sqrt(np.diag(covariance))
    with np.errstate(divide="ignore", invalid="ignore"):
        return covariance / np.outer(sd, sd)


def _normal_inside(correlation: np.ndarray) -> CubicSpline:
    """P(max |z_i| < u) of correlated standard normals, as a function of u; error about 1e-6."""
    from scipy.stats import multivariate_normal

    normal = multivariate_normal(cov=correlation, allow_singular=True, maxpts=_POINTS)
    u = np.linspace(0.0, _FAR, 81)
    bounds = u[1:, None] * np.ones(len(correlation))
    inside = [normal.cdf(b, lower_limit=-b, rng=np.random.default_rng(1)) for b in bounds]
    return CubicSpline(u, [0.0, *inside])


def _largest_below(c: float, inside: CubicSpline, df: float) -> float:
    """P(max |t_i| < c) of t statistics that share their estimated standard deviation s.

    Given s they are normal: the mean over s of P(max |z_i| < c s).
    """
    from scipy.stats import chi

    s, weights = np.ones(1), np.ones(1)
    if np.isfinite(df):
        low, high = chi.ppf(_TAIL, df), chi.isf(_TAIL, df)
        nodes, weights = np.polynomial.legendre.leggauss(_NODES)
        s = low + 0.5 * (high - low) * (nodes + 1)
        weights = weights * chi.pdf(s, df)
        s, weights = s / np.sqrt(df), weights / weights.sum()
    return float(np.clip(weights @ inside(np.minimum(c * s, _FAR)), 0.0, 1.0))


def _largest_quantile(level: float, inside: CubicSpline, df: float, n: int) -> float:
    """The c with P(max |t_i| < c) = level, between those of one and of n independent ones."""
    ends = (0.5 + level / 2, 1 - (1 - level) / (2 * n))
    low, high = (float(t_quantile(end, np.array(df))) for end in ends)
    if n == 1:
        return low
    return float(
        brentq(lambda c: _largest_below(c, inside, df) - level, low - 0.01, high + 0.01, xtol=1e-7)
    )
