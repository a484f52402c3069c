"""Columns made of columns before a model sees them: group means, ranks as normal scores."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError
from bayeslmm.formula.columns import as_frame, find_column, missing_in, plain_column
from bayeslmm.formula.random import grouping_factor

__all__ = ["inverse_normal_transform", "within_between"]

_TIES = ("average", "min", "max", "first", "random")


def within_between(data, x: str, g: str | list[str]) -> pd.DataFrame:
    """A covariate split into its group means and what is left.

    In a formula write ``within(x, g)`` and ``between(x, g)`` instead: they treat new data as the
    fitted ones were, and take the means over the rows the model uses.

    Parameters
    ----------
    data : data frame
    x : str
        A numeric column.
    g : str or list of str
        Grouping column, a combination ``"a:b"``, or a list of columns.

    Returns
    -------
    pandas.DataFrame
        Columns ``{x}_within`` and ``{x}_between``, indexed as `data`; missing where `x` or the
        group is, which do not enter the means.

    Raises
    ------
    DataError
        If `x` is not numeric or has no values.

    References
    ----------
    Neuhaus and Kalbfleisch (1998), Biometrics 54(2); https://doi.org/10.2307/3109770

    Examples
    --------
    >>> import bayeslmm as blm
    >>> blm.within_between({"x": [1.0, 3.0, 5.0], "g": ["a", "a", "b"]}, "x", "g")
       x_within  x_between
    0      -1.0        2.0
    1       1.0        2.0
    2       0.0        5.0
    """
    from bayeslmm.formula.groupmeans import split_at_means

    frame = as_frame(data)
    groups = g if not isinstance(g, str) else ([g] if g in frame.columns else g.split(":"))
    raw = {name: find_column(frame, name.strip()) for name in [x, *groups]}
    keep = np.flatnonzero(~np.any([missing_in(column) for column in raw.values()], axis=0))
    if not len(keep):
        raise DataError(f"No row has both {x!r} and {g!r}.")
    plain = pd.DataFrame({k: plain_column(v.iloc[keep], k) for k, v in raw.items()})
    if isinstance(plain[x].dtype, pd.CategoricalDtype):
        raise DataError(f"Column {x!r} is not numeric, so it has no group means.")
    factor = grouping_factor(tuple(groups), plain, at_least=1)
    within, between = split_at_means(plain[x].to_numpy(float), factor)
    out = pd.DataFrame(np.nan, index=frame.index, columns=[f"{x}_within", f"{x}_between"])
    out.iloc[keep, 0], out.iloc[keep, 1] = within, between
    return out


def inverse_normal_transform(y, *, ties: str = "average", random_seed: int | None = None):
    """Ranks turned into normal scores, Phi^-1((r - 3/8) / (n + 1/4)).

    It takes away every outlier and the units with them (Blom 1958): coefficients are then in
    standard deviations of the scores, and a difference of means is one of ranks. Transforming the
    response does not make *residuals* normal where predictors matter; ``family="student"`` keeps
    the units.

    Parameters
    ----------
    y : array-like, shape (n,)
        Missing values stay missing and are not ranked.
    ties : {"average", "min", "max", "first", "random"}
        Rank of equal values: their average, lowest or highest rank, in the order of the rows,
        or in random order.
    random_seed : int, optional
        For random ties.

    Returns
    -------
    pandas.Series or ndarray
        As `y`.

    Raises
    ------
    DataError
        If `y` is not numeric, or has no values.
    ValueError
        If there is no such treatment of ties.

    References
    ----------
    Blom (1958), Statistical Estimates and Transformed Beta-Variables

    Examples
    --------
    >>> import bayeslmm as blm
    >>> blm.inverse_normal_transform([3.0, 100.0, 5.0]).round(3).tolist()
    [-0.869, 0.869, 0.0]
    """
    from scipy.special import ndtri

    if ties not in _TIES:
        raise ValueError(f"ties must be one of {', '.join(map(repr, _TIES))}, not {ties!r}.")
    if np.ndim(y) != 1:
        raise DataError(f"One column is needed, not an array of {np.ndim(y)} dimensions.")
    series = y if isinstance(y, pd.Series) else pd.Series(np.asarray(y))
    try:
        values = series.to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError):
        raise DataError("Only numbers can be ranked here.") from None
    present = np.flatnonzero(~np.isnan(values))
    if not len(present):
        raise DataError("There are no values to rank.")
    if ties == "random":
        present = np.random.default_rng(random_seed).permutation(present)
    method = "first" if ties == "random" else ties
    ranks = pd.Series(values[present]).rank(method=method).to_numpy()
    scores = np.full(len(values), np.nan)
    scores[present] = ndtri((ranks - 0.375) / (len(present) + 0.25))
    if isinstance(y, pd.Series):
        return pd.Series(scores, index=y.index, name=y.name)
    return scores
