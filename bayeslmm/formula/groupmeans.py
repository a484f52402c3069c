"""``within(x, g)`` and ``between(x, g)``: a covariate split at the means of its groups.

``between(x, g)`` is the mean of x over the fitted rows of the row's group, ``within(x, g)`` what
is left of x. The first has the effect of groups that differ in x, the second that of a row which
differs from its group (Neuhaus and Kalbfleisch 1998, Biometrics 54(2)).
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError
from bayeslmm.formula.columns import find_column, refuse_gaps
from bayeslmm.formula.groupcalls import written_call
from bayeslmm.formula.random import GroupingFactor, grouping_factor
from bayeslmm.formula.table import PlainTable

__all__ = ["GroupMean", "fit_group_mean", "split_at_means"]


@dataclass(frozen=True)
class GroupMean:
    """A fitted call: the means of the fitted groups, and how to treat new rows.

    Attributes
    ----------
    name : str
        The call's text, the name of its column.
    kind : {"within", "between"}
    factor : GroupingFactor
    means : ndarray, shape (levels,)
    values : ndarray, shape (n,)
        The column for the fitted rows.
    """

    name: str
    kind: str
    factor: GroupingFactor
    means: np.ndarray = field(repr=False)
    values: np.ndarray = field(repr=False)
    _covariate: Any = field(repr=False, default=None)

    def evaluate(self, plain: pd.DataFrame, data: pd.DataFrame) -> np.ndarray:
        """The column for new rows.

        Parameters
        ----------
        plain : pandas.DataFrame
            The covariate's columns, plain.
        data : pandas.DataFrame
            The new data, with the group's columns in any dtype. Groups of the fit keep their
            fitted means; the mean of another group is that of its own rows here.

        Raises
        ------
        DataError
            If a row has no group.
        """
        x = self._covariate.evaluate(plain)[0][:, 0]
        groups = pd.DataFrame({c: _known(data, c).to_numpy() for c in self.factor.columns})
        codes, labels = self.factor.find(groups)
        means = np.where(codes >= 0, self.means[codes], 0.0)
        new = codes < 0
        if new.any():
            keys, _ = pd.factorize(np.array([str(label) for label in labels], dtype=object)[new])
            means[new] = _means(x[new], keys)[keys]
        return _half(self.kind, x, means)


def fit_group_mean(
    name: str,
    frame: PlainTable,
    *,
    namespace: Mapping[str, Any],
    allowed: Set[str],
) -> GroupMean:
    """Means of the groups of the fitted rows.

    Parameters
    ----------
    name : str
        Text of the call.
    frame : PlainTable
        Plain columns.

    Raises
    ------
    DataError
        If the covariate is not one numeric column.
    """
    from bayeslmm.formula.matrices import model_matrix

    call = written_call(name)
    covariate = model_matrix(
        f"0 + {call.covariate}", frame, namespace=namespace, allowed=allowed, what=name
    )
    if covariate.values.shape[1] != 1 or covariate.terms[0].categorical:
        raise DataError(
            f"{name}: {call.covariate} is not one numeric column, so it has no group means. Make "
            "a 0/1 column of each category first."
        )
    factor = grouping_factor(call.groups, frame, at_least=1)
    x = covariate.values[:, 0]
    means = _means(x, factor.codes, len(factor.levels))
    values = _half(call.kind, x, means[factor.codes])
    return GroupMean(name, call.kind, factor, means, values, covariate)


def split_at_means(x: np.ndarray, factor: GroupingFactor) -> tuple[np.ndarray, np.ndarray]:
    """What is within and what is between the groups, each shape (n,)."""
    between = _means(x, factor.codes, len(factor.levels))[factor.codes]
    return _half("within", x, between), between


def _means(x: np.ndarray, codes: np.ndarray, n: int = 0) -> np.ndarray:
    """Means by code, computed around the overall mean so that a large one costs no digits."""
    middle = float(np.mean(x)) if len(x) else 0.0
    counts = np.bincount(codes, minlength=n)
    return middle + np.bincount(codes, weights=x - middle, minlength=n) / counts


def _half(kind: str, x: np.ndarray, means: np.ndarray) -> np.ndarray:
    if kind == "between":
        return means
    rest = x - means
    # where x is constant in its group what is left is rounding error, not a covariate
    size = max(np.max(np.abs(x), initial=0.0), np.max(np.abs(means), initial=0.0))
    return np.where(np.abs(rest) <= 8 * np.finfo(float).eps * size, 0.0, rest)


def _known(data: pd.DataFrame, name: str) -> pd.Series:
    column = find_column(data, name, "grouping column")
    return refuse_gaps(column, name, ": without a group there is no group mean.")
