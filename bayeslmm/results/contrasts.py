"""What a user writes for linear combinations of coefficients, as a matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

__all__ = ["contrast_matrix"]


def contrast_matrix(L, names: Sequence[str]) -> tuple[np.ndarray, list]:
    """Matrix and row labels.

    Parameters
    ----------
    L : dict, dict of dicts, DataFrame or array
        See :meth:`bayeslmm.results.likelihood.LikelihoodFit.contrast`.
    names : sequence of str
        The coefficients.

    Returns
    -------
    (k, p) array, list of length k

    Raises
    ------
    ValueError
        If a name is unknown, a value is not finite, or the shape does not fit.
    """
    if isinstance(L, Mapping):
        rows = L if all(isinstance(v, Mapping) for v in L.values()) and L else {"contrast": L}
        columns = dict.fromkeys(name for row in rows.values() for name in row)
        L = pd.DataFrame(
            {name: [row.get(name, 0.0) for row in rows.values()] for name in columns},
            index=list(rows),
            dtype=object,
        )
    if isinstance(L, pd.DataFrame):
        unknown = [column for column in L.columns if column not in names]
        if unknown:
            raise ValueError(
                f"There is no coefficient {unknown[0]!r}. Coefficients: {', '.join(names)}."
            )
        values = np.zeros((len(L), len(names)))
        for column in L.columns:
            values[:, list(names).index(column)] = _numbers(L[column])
        index = L.index.tolist()
    else:
        values = np.atleast_2d(_numbers(L))
        index = list(range(len(values)))
    if values.ndim != 2 or values.shape[1] != len(names):
        raise ValueError(
            f"A contrast has one column per coefficient ({len(names)}: {', '.join(names)}), not "
            f"{values.shape[-1]}."
        )
    if not np.all(np.isfinite(values)):
        raise ValueError("A contrast has values that are not finite.")
    return values, index


def _numbers(values) -> np.ndarray:
    try:
        return np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise ValueError("A contrast has a coefficient's weight that is not a number.") from None
