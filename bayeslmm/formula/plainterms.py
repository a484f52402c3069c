"""Terms of columns as they stand: the intercept, numbers, factors in treatment coding, products.

They look as formulae's terms do to whoever reads a model matrix; terms with calls in them are
formulae's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from bayeslmm.formula.table import PlainTable, factor_levels

__all__ = ["PlainColumn", "PlainTerm", "plain_term"]


class Treatment(NamedTuple):
    """Columns of a factor: a row per level."""

    matrix: np.ndarray
    labels: list[str]


class PlainColumn:
    """A column in a term.

    Attributes
    ----------
    name : str
    kind : {"numeric", "categoric"}
    levels : list or None
        Of a factor.
    contrast_matrix : Treatment or None
        Of a factor that is coded.
    """

    def __init__(
        self, name: str, levels: list | None = None, contrast_matrix: Treatment | None = None
    ):
        self.name, self.levels, self.contrast_matrix = name, levels, contrast_matrix
        self.kind = "numeric" if levels is None else "categoric"

    def coded(self, full: bool) -> PlainColumn:
        """A factor with a column per level if `full`, else without the first; numbers as is."""
        if self.levels is None:
            return self
        matrix, names = np.eye(len(self.levels)), list(map(str, self.levels))
        kept = slice(0 if full else 1, None)
        return PlainColumn(self.name, self.levels, Treatment(matrix[:, kept], names[kept]))

    @property
    def labels(self) -> list[str]:
        """Names of its columns."""
        if self.contrast_matrix is None:
            return [self.name]
        return [f"{self.name}[{label}]" for label in self.contrast_matrix.labels]

    def eval_new_data(self, frame: pd.DataFrame | PlainTable) -> np.ndarray:
        """Its values for the rows of `frame`: (n,) numbers or (n, k) columns of a factor.

        Raises
        ------
        ValueError
            If a level is not among those of the fit.
        """
        column = frame[self.name]
        if self.contrast_matrix is None:
            return column.to_numpy()
        return self.contrast_matrix.matrix[self._codes(column)]

    def _codes(self, column: pd.Series) -> np.ndarray:
        values, levels = column.array, self.levels or []
        if not isinstance(values, pd.Categorical) or list(values.categories) != levels:
            values = pd.Categorical(column, categories=levels)
        codes = np.asarray(values.codes)
        if codes.min(initial=0) < 0:
            new = ", ".join(sorted(map(str, set(column[codes < 0]))))
            raise ValueError(f"The levels ({new}) in '{self.name}' are not in the original data.")
        return codes


class PlainTerm:
    """A product of columns; the intercept has none.

    Attributes
    ----------
    name : str
    kind : {"intercept", "numeric", "categoric", "interaction"}
    components : list of PlainColumn
    data : ndarray or None
        Values for the rows of the fit, (n,) or (n, k).
    """

    def __init__(self, components: Sequence[PlainColumn], data: np.ndarray | None = None):
        self.components, self.data = list(components), data
        self.name = ":".join(column.name for column in components) or "Intercept"
        kinds = ["intercept", *(column.kind for column in components)]
        self.kind = kinds[-1] if len(components) < 2 else "interaction"

    @property
    def labels(self) -> list[str]:
        """Names of its columns, those of the last component running fastest."""
        if not self.components:
            return [self.name]
        return [":".join(names) for names in product(*(c.labels for c in self.components))]

    def coded(self, full: Mapping[str, bool], frame: pd.DataFrame | PlainTable) -> PlainTerm:
        """Evaluated with the numbers, and the factors among `full` coded as it says."""
        used = [c for c in self.components if c.kind == "numeric" or c.name in full]
        columns = [column.coded(full.get(column.name, False)) for column in used]
        coded = PlainTerm(columns)
        coded.data = coded.eval_new_data(frame)
        return coded

    def eval_new_data(self, frame: pd.DataFrame | PlainTable) -> np.ndarray:
        """Values for the rows of `frame`, (n,) or (n, k)."""
        if not self.components:
            return np.ones(len(frame))
        if len(self.components) == 1:
            return self.components[0].eval_new_data(frame)
        return reduce(_products, (column.eval_new_data(frame) for column in self.components))


def plain_term(names: Sequence[str], frame: pd.DataFrame | PlainTable) -> PlainTerm:
    """The term of these columns, its factors not coded yet.

    Raises
    ------
    KeyError
        If there is no such column.
    """
    return PlainTerm([PlainColumn(name, factor_levels(frame[name])) for name in names])


def _products(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Products of every column with every other, in floating point: whole numbers would wrap."""
    left, right = (np.atleast_2d(part.T).T.astype(float) for part in (left, right))
    n, width = len(left), left.shape[1] * right.shape[1]
    return (left[:, :, None] * right[:, None, :]).reshape(n, width)
