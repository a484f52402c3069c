"""Reanalysis from a published estimate and its interval alone."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError
from bayeslmm.reanalysis.integrated import normal_likelihood, t_likelihood
from bayeslmm.reanalysis.posteriors import posterior_under
from bayeslmm.reanalysis.prior_sets import DEFAULT_RATIO, EffectScale, prior_set
from bayeslmm.reanalysis.reanalyze import Reanalysis, default_note

__all__ = ["reanalyze_estimate"]

#: Published intervals are rounded: how far their middle may be from the estimate, as a share of
#: their width.
_OFF_CENTER = 0.1


def reanalyze_estimate(
    estimate: float,
    se: float | None = None,
    *,
    interval: tuple[float, float] | None = None,
    interval_level: float = 0.95,
    df: float | None = None,
    scale: str = "identity",
    priors="standard",
    mcid: float | None = None,
    rope=None,
    direction: str = "higher is better",
    level: float = 0.95,
    name: str = "effect",
) -> Reanalysis:
    """A published estimate under a set of priors.

    With a normal likelihood and a normal prior in closed form: the posterior precision is the sum
    of both precisions. With degrees of freedom the likelihood is Student's t, a scale mixture of
    normals, integrated numerically; so are priors that are not normal.

    Parameters
    ----------
    estimate : float
        As published; for a ratio the ratio itself.
    se : float, optional
        Its standard error (of the *log* ratio for a ratio).
    interval : (float, float), optional
        Its confidence interval, in place of ``se``; for a ratio the interval of the ratio.
    interval_level : float
        Level of that interval.
    df : float, optional
        Degrees of freedom of the published t test and interval.
    scale : {"identity", "ratio"}
        ``"ratio"`` for odds, risk, rate and hazard ratios: all is done on the log scale.
    priors : str or dict of str to Prior
        As in :func:`bayeslmm.reanalyze`; on a ratio scale, priors on the log ratio.
    mcid : float, optional
        Minimal important difference; a ratio (0.8 and 1.25 mean the same) on a ratio scale. By
        default twice the standard error, or a ratio of 1.5.
    rope, direction, level
        As in :func:`bayeslmm.reanalyze`; a ratio's region is given in ratios.
    name : str
        What to call the effect.

    Returns
    -------
    Reanalysis

    Raises
    ------
    ValueError
        If neither or both of ``se`` and ``interval`` are given, or a number makes no sense.
    DataError
        If the interval does not contain the estimate, or is not centered around it.

    References
    ----------
    - Zampieri, Casey, Shankar-Hari, Harrell and Harhay (2021), American Journal of Respiratory and
      Critical Care Medicine 203(5); https://doi.org/10.1164/rccm.202006-2381CP
    - Spiegelhalter, Freedman and Parmar (1994), Journal of the Royal Statistical Society A 157(3);
      https://doi.org/10.2307/2983527

    Examples
    --------
    A hazard ratio of 0.79 (0.68 to 0.92):

    >>> import bayeslmm as blm
    >>> result = blm.reanalyze_estimate(
    ...     0.79, interval=(0.68, 0.92), scale="ratio", direction="lower is better"
    ... )
    >>> result.table.loc["sceptical, strong", "p_benefit"].round(3)
    np.float64(0.998)
    """
    from bayeslmm.results.tables import check_level

    check_level(level)
    check_level(interval_level)
    if scale not in ("identity", "ratio"):
        raise ValueError(f'scale must be "identity" or "ratio", not {scale!r}.')
    ratio = scale == "ratio"
    center = _number("estimate", estimate)
    if ratio:
        if center <= 0:
            raise ValueError(f"A ratio is positive, not {estimate!r}.")
        center = float(np.log(center))
    if df is not None and not _number("df", df) > 0:
        raise ValueError(f"df must be positive, not {df!r}.")
    spread = _standard_error(center, se, interval, interval_level, df, ratio)
    default = float(np.log(DEFAULT_RATIO)) if ratio else 2.0 * spread
    effect_scale = EffectScale.of(mcid, rope, direction, default, ratio)
    if df is not None and np.isfinite(df):
        likelihood, method = t_likelihood(center, spread, df), "quadrature"
    else:
        likelihood, method = normal_likelihood(center, spread), "closed form"
    chosen = prior_set(priors, effect_scale)
    posteriors = {key: posterior_under(likelihood, prior) for key, prior in chosen.items()}
    factors = pd.DataFrame(
        {
            "bf10": [
                np.exp(p.log_bayes_factor()[0]) if p.prior.is_proper else np.nan
                for p in posteriors.values()
            ],
            "relative_error": 0.0,
            "method": method,
        },
        index=list(posteriors),
    )
    notes = tuple(default_note(effect_scale, priors))
    published = _published_row(center, spread, df, level, ratio)
    return Reanalysis(name, effect_scale, chosen, posteriors, factors, published, level, notes)


def _number(name: str, value) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if isinstance(value, bool | str) or np.isnan(number):
        raise ValueError(f"{name} must be a number, not {value!r}.")
    return number


def _quantile(level: float, df: float | None) -> float:
    from scipy.special import ndtri, stdtrit

    p = 0.5 + level / 2
    return float(ndtri(p) if df is None or not np.isfinite(df) else stdtrit(df, p))


def _standard_error(center, se, interval, interval_level, df, ratio: bool) -> float:
    if (se is None) == (interval is None):
        raise ValueError("Give either se or interval.")
    if se is not None:
        se = _number("se", se)
        if not (se > 0 and np.isfinite(se)):
            raise ValueError(f"se must be positive, not {se!r}.")
        return se
    try:
        low, high = (_number("interval", value) for value in interval)
    except (TypeError, ValueError):
        raise ValueError(f"interval must be (lower, upper), not {interval!r}.") from None
    if ratio:
        if low <= 0:
            raise ValueError(f"The interval of a ratio is positive, not {interval!r}.")
        low, high = np.log(low), np.log(high)
    if not low < center < high:
        raise DataError(
            f"The interval {tuple(interval)} does not contain the estimate"
            + (" (are both of them ratios?)." if ratio else ".")
        )
    if abs(center - 0.5 * (low + high)) > _OFF_CENTER * (high - low):
        other = "identity" if ratio else "ratio"
        raise DataError(
            f"The interval {tuple(interval)} is not centered around the estimate on this scale. Is "
            f'it of another kind (scale="{other}"?), or of another estimate? With se= it is not '
            "needed."
        )
    return float((high - low) / (2 * _quantile(interval_level, df)))


def _published_row(center, spread, df, level: float, ratio: bool) -> pd.DataFrame:
    from scipy.special import ndtr, stdtr

    half = _quantile(level, df) * spread
    unit = np.exp if ratio else float
    z = -abs(center) / spread
    finite = df is not None and np.isfinite(df)
    row = {
        "estimate": float(unit(center)),
        "sd": spread,
        "lower": float(unit(center - half)),
        "upper": float(unit(center + half)),
        "df": df if df is not None else np.inf,
        "p": float(2 * (stdtr(df, z) if finite else ndtr(z))),
    }
    return pd.DataFrame([row], index=["as published"])
