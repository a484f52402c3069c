"""Which combinations of the coefficients the data say something about.

Where columns of X are aliased, x'beta is estimable if x is a combination of the rows of X; any
other x'beta depends on which of the columns were left out (Searle 1971, Linear Models, chapter 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.likelihood.columnspace import column_space

if TYPE_CHECKING:
    import pandas as pd

    from bayeslmm.protocols import Model

__all__ = ["inestimable_text", "undetermined"]

_SHOWN = 5


def undetermined(model: Model, rows: np.ndarray) -> np.ndarray:
    """Which combinations depend on which aliased coefficients.

    Parameters
    ----------
    model : Model
    rows : (k, p) array

    Returns
    -------
    (k, a) bool array, a the number of ``model.aliased``
    """
    names = model.design.coef_names
    aliased = [names.index(name) for name in model.aliased]
    if not aliased:
        return np.zeros((len(rows), 0), dtype=bool)
    kept = np.setdiff1d(np.arange(len(names)), aliased)
    return column_space(model.design.X_reduced, kept).undetermined(rows)


def inestimable_text(model: Model, found: np.ndarray, index: pd.Index | Sequence) -> str | None:
    """The rows that are not estimable and the columns that leave them so; None if there are none.

    Parameters
    ----------
    found : (k, a) bool array
        Of :func:`undetermined`.
    index : sequence of length k
        Labels of the rows.
    """
    rows, columns = np.flatnonzero(found.any(axis=1)).tolist(), np.flatnonzero(found.any(axis=0))
    if not len(rows):
        return None
    which = f"Row {index[rows[0]]} is"
    if len(rows) > 1:
        which = f"{len(rows)} of {len(found)} rows ({_joined([index[i] for i in rows])}) are"
    names = _joined([model.aliased[j] for j in columns])
    return f"{which} not estimable: the data do not determine {names} there"


def _joined(labels: list) -> str:
    return ", ".join(map(str, labels[:_SHOWN])) + (", ..." if len(labels) > _SHOWN else "")
