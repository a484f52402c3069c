"""Values far outside of the bulk of their column: typing errors, codes of missing values, outliers.

A value's distance is counted from the median in robust standard deviations of its own side: the
larger of the distances to the quartile and to the 85 % quantile, each in units in which a normal
distribution has 1 (quartiles: Tukey 1977, Exploratory Data Analysis, section 2D; one side at a
time: Hubert and Vandervieren 2008, Computational Statistics & Data Analysis 52(12)). Columns
without negative values that are skewed to the right are judged by their logarithms.

Distance alone would name the ends of every heavy tail. A value is far only beyond a gap: several
times as far out as the farthest of the values that are left. Of Pareto tails with exponent a the
ratio of the largest value to the next exceeds r with probability r^-a whatever the number of rows
(Renyi's representation of order statistics): with the tails of t with 3 degrees of freedom 0.3 % of
columns have a gap of 7, at one of their ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.errors import listed
from bayeslmm.results.findings import Finding

if TYPE_CHECKING:
    from bayeslmm.formula import Design

__all__ = ["FarValues", "far_findings", "far_values"]

#: A value is far if it is more than the first number times as far out as the others, the distance
#: of which counts as the second at least, in robust standard deviations: of a column as it is, and
#: of logarithms, whose tails are about those of a normal distribution.
_PLAIN, _LOGARITHMS = (7.0, 2.0), (2.0, 3.0)
#: That is for many rows; with n it is 1 + 10 / n times as much, quantiles being less certain.
_UNCERTAIN = 10.0
#: And where logarithms are judged so many times as large as the others.
_TIMES = 4.0
#: Usual codes of a value that is missing, and the gap to the others from which they are taken for
#: one, in ranges of the others: of a negative code among values of which none is negative less.
_GAP_OF_CODES, _GAP_OF_NEGATIVE_CODES = 1.0, 0.3
_CODE_VALUES = frozenset(
    sign * int(str(digit) * length)
    for digit in (7, 8, 9)
    for length in (2, 3, 4, 5)
    for sign in (-1, 1)
) | {-9}
#: Shares of a column that may be far: beyond, they are another part of the data. At most 3 values
#: may be of short columns.
_SHARE, _SHARE_OF_CODES, _SOME = 0.02, 0.12, 3
_FEWEST_ROWS = 8
#: Ratio of the 85 % and 15 % quantiles' distances from the median from which a column is skewed.
_SKEWED = 2.0
#: Normal quantiles: 75 %, 85 %, 97.5 %.
_Z75, _Z85, _Z975 = 0.6745, 1.0364, 1.96


@dataclass(frozen=True)
class FarValues:
    """The values of one column beyond a gap, on one side.

    Attributes
    ----------
    rows : (k,) array of int
        Positions, in their order.
    code : bool
        Whether all of them are usual codes of a missing value.
    bulk : (float, float)
        Smallest and largest of the other values.
    """

    rows: np.ndarray
    code: bool
    bulk: tuple[float, float]


def far_values(values: np.ndarray) -> list[FarValues]:
    """Values of a column that are far outside of its bulk.

    Parameters
    ----------
    values : (n,) array
        NaN is left aside.

    Returns
    -------
    list of FarValues
        Empty where nothing is far, and of columns of fewer than 8 values or 3 different ones.

    Examples
    --------
    >>> import numpy as np
    >>> scores = np.array([3.0, 5, 4, 6, 999, 2, 5, 7, 4, 5])
    >>> far_values(scores)[0].rows
    array([4])
    """
    values = np.asarray(values, dtype=float)
    x = np.sort(values[np.isfinite(values)])
    if len(x) < _FEWEST_ROWS or 1 + np.count_nonzero(np.diff(x)) < 3:
        return []
    found = []
    if k := _beyond(-x[::-1], x[::-1]):
        rows = np.flatnonzero(values <= x[k - 1])
        found.append(FarValues(rows, bool(_codes(x[:k]).all()), (float(x[k]), float(x[-1]))))
    if k := _beyond(x, x):
        rows = np.flatnonzero(values >= x[-k])
        found.append(FarValues(rows, bool(_codes(x[-k:]).all()), (float(x[0]), float(x[-k - 1]))))
    return found


def _codes(values: np.ndarray) -> np.ndarray:
    return np.array([value in _CODE_VALUES for value in values.tolist()])


def _beyond(x: np.ndarray, values: np.ndarray) -> int:
    """How many of the last values of x, which ascends, are beyond a gap.

    Parameters
    ----------
    x : (n,) array
        The values, or with their signs changed to look at their other end.
    values : (n,) array
        In the same order, with their signs.
    """
    n = len(x)
    most = min(n // 6, max(_SOME, int(_SHARE_OF_CODES * n)))
    outer, inner = slice(n - most, n), slice(n - most - 1, n - 1)
    code = np.logical_and.accumulate(_codes(values[outer])[::-1])[::-1]
    negative = (values[outer] < 0) & (values[inner] >= 0)
    ranges = np.where(negative, _GAP_OF_NEGATIVE_CODES, _GAP_OF_CODES)
    far = code & (x[outer] - x[inner] > ranges * (x[inner] - x[0]))
    scaled = _distances(x)
    if scaled is not None:
        distance, (gap, floor), logarithms = scaled
        few = np.arange(most, 0, -1) <= max(_SOME, int(_SHARE * n))
        if logarithms:
            few &= x[outer] > _TIMES * x[inner]
        gap *= 1.0 + _UNCERTAIN / n
        far |= few & (distance[outer] > gap * np.maximum(distance[inner], floor))
    edges = np.flatnonzero(far)
    return most - int(edges[0]) if len(edges) else 0


def _distances(x: np.ndarray) -> tuple[np.ndarray, tuple[float, float], bool] | None:
    """Distances above the median in robust standard deviations, what is far, whether of
    logarithms; None where most values are the same.
    """
    at = np.floor(np.array([0.15, 0.25, 0.5, 0.75, 0.85, 0.975]) * (len(x) - 1)).astype(int)
    q15, q25, median, q75, q85, q975 = x[at]
    unit = max((q75 - median) / _Z75, (q85 - median) / _Z85)
    if x[0] < 0 or (unit > 0 and q85 - median <= _SKEWED * (median - q15)):
        unit = unit if unit > 0 else max((median - q25) / _Z75, (median - q15) / _Z85)
        return ((x - median) / unit, _PLAIN, False) if unit > 0 else None
    half = 0.0 if median > 0 else 0.5 * x[np.searchsorted(x, 0.0, side="right")]
    center, l75, l85, l975 = np.log(np.array([median, q75, q85, q975]) + half)
    unit = max((l75 - center) / _Z75, (l85 - center) / _Z85)
    unit = unit if unit > 0 else (l975 - center) / _Z975
    if unit <= 0:
        return None
    logs = np.zeros(len(x))
    above = x > median
    logs[above] = np.log(x[above] + half) - center
    return logs / unit, _LOGARITHMS, True


def far_findings(design: Design) -> list[Finding]:
    """Those of the response and of the numeric predictors of a design.

    Rows that were read in batches are not at hand, and nothing is found there.
    """
    if not design.rows_in_memory:
        return []
    grouping = {c for block in design.blocks for c in block.factor.columns}
    found = []
    for name in design.table.columns:
        column = design.table[name]
        if name in grouping or not pd.api.types.is_numeric_dtype(column.dtype):
            continue
        for far in far_values(column.to_numpy(dtype=float, na_value=np.nan)):
            found.append(_finding(design, name, column.to_numpy(), far))
    return found


def _finding(design: Design, name: str, values: np.ndarray, far: FarValues) -> Finding:
    shown = list(dict.fromkeys(f"{value:g}" for value in values[far.rows]))
    labels = [design.index[row] for row in far.rows]
    rows = f"row {labels[0]}" if len(labels) == 1 else f"rows {listed(labels, 5)}"
    of = "value" if len(labels) == 1 else "values"
    sentence = (
        f"{name!r} has the {of} {listed(shown, 5)} ({rows}), far outside of all others "
        f"({far.bulk[0]:g} to {far.bulk[1]:g})"
    )
    if far.code:
        return Finding(
            "far values",
            f"{sentence}; {'this is a usual code' if len(shown) == 1 else 'these are usual codes'}"
            " of a missing value.",
            f"If nothing was measured there, recode as missing: data[{name!r}] = "
            f"data[{name!r}].replace({_first(shown)}, float('nan')).",
            gross=True,
        )
    steps = "Check the value where it was recorded; recode as missing what cannot be true"
    heavy = name == design.response and design.family.name == "gaussian"
    if heavy:
        steps += '; if it is true, family="student" lets it count less'
    robust = name == design.response and design.family.name == "student"
    return Finding("far values", f"{sentence}.", f"{steps}.", gross=not robust)


def _first(shown: list[str]) -> str:
    return shown[0] if len(shown) == 1 else f"[{', '.join(shown)}]"
