"""What a user writes for linear combinations of coefficients, as a matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from bayeslmm.errors import listed

__all__ = ["contextual_contrast", "contrast_matrix"]


def contrast_matrix(L, names: Sequence[str]) -> tuple[np.ndarray, list]:
    """Matrix and row labels.

    Parameters
    ----------
    L : dict, dict of dicts, DataFrame or array
        See :meth:`bayeslmm.fits.likelihood.LikelihoodFit.contrast`.
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
                f"There is no coefficient {unknown[0]!r}. Coefficients: {listed(names)}."
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
            f"A contrast has one column per coefficient ({len(names)}: {listed(names)}), not "
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


def contextual_contrast(coef_names: tuple[str, ...], x: str, g: str) -> dict[str, dict]:
    """Between minus within: the contrast of :meth:`bayeslmm.LikelihoodFit.contextual_effect`.

    With a plain `x` in the model next to between(x, g), the coefficient of between(x, g) is that
    difference already.

    Raises
    ------
    ValueError
        If the model has no between(x, g), or neither within(x, g) nor x.
    """
    squeezed = {"".join(name.split()): name for name in coef_names}

    def find(name: str) -> str | None:
        return squeezed.get("".join(name.split()))

    between, within, plain = find(f"between({x}, {g})"), find(f"within({x}, {g})"), find(x)
    if between is None or (within is None and plain is None):
        raise ValueError(
            f"A contextual effect needs the coefficients of within({x}, {g}) and "
            f"between({x}, {g}); the model has: {listed(coef_names) or 'none'}."
        )
    weights = {between: 1.0} if within is None else {between: 1.0, within: -1.0}
    if within is not None and plain is not None:
        raise ValueError(
            f"within({x}, {g}), between({x}, {g}) and {x} are in the model together: they are "
            "linearly dependent, so their difference is not defined. Leave one out."
        )
    return {f"contextual({x}, {g})": weights}
