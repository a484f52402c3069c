"""A covariance between individuals, with their labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeslmm.errors import DataError
from bayeslmm.formula.random import plain_label

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RelationshipMatrix", "as_relationship"]

#: Asymmetry up to this share of the largest element is rounding.
_ASYMMETRY = 1e-8
#: Individuals above which a dense matrix is not made on the way to a frame.
_MAX_DENSE = 10_000


class RelationshipMatrix:
    """Covariance A between individuals, or its sparse inverse; what ``relationship=`` takes.

    Parameters
    ----------
    labels : sequence
        One label per individual, all different.
    covariance : array-like of shape (m, m), optional
        A: symmetric, positive semidefinite. Singular ones (clones, identical twins) are allowed.
    precision : scipy sparse or array-like of shape (m, m), optional
        A^-1: symmetric, positive definite.
    inbreeding : array-like of shape (m,), optional
        Inbreeding coefficients, where the matrix comes from a pedigree.

    Attributes
    ----------
    labels : tuple
    covariance : ndarray or None
    precision : scipy.sparse.csr_array or None

    Raises
    ------
    DataError
        If the matrix is not square, symmetric, finite, of the labels' size, or labels repeat.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> twins = blm.RelationshipMatrix(["ann", "bea", "carl"], [[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    >>> twins
    RelationshipMatrix of 3 individuals (covariance)
    """

    def __init__(self, labels: Sequence, covariance=None, *, precision=None, inbreeding=None):
        from scipy import sparse

        if (covariance is None) == (precision is None):
            raise DataError("Give a covariance or a precision between individuals, one of them.")
        self.labels = tuple(plain_label(v) for v in labels)
        _check_labels(self.labels)
        self.covariance: np.ndarray | None = None
        self.precision: Any = None
        if precision is None:
            self.covariance = _symmetric(_numbers(covariance), len(self.labels))
        else:
            matrix = sparse.csr_array(
                precision if sparse.issparse(precision) else _numbers(precision)
            )
            matrix = _symmetric(matrix.astype(float), len(self.labels))
            matrix.eliminate_zeros()
            matrix.sort_indices()
            self.precision = matrix
        self._inbreeding = None if inbreeding is None else np.asarray(inbreeding, dtype=float)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        kind = "covariance" if self.precision is None else "sparse precision"
        return f"RelationshipMatrix of {len(self)} individuals ({kind})"

    @property
    def inbreeding(self) -> pd.Series:
        """Inbreeding coefficient of every individual: its diagonal element less one."""
        import pandas as pd

        values = self._inbreeding
        if values is None:
            values = self._numeric().diagonal - 1.0
        return pd.Series(values, index=list(self.labels), name="inbreeding")

    def to_frame(self) -> pd.DataFrame:
        """A as a labelled frame.

        Returns
        -------
        pandas.DataFrame, shape (m, m)

        Raises
        ------
        DataError
            If there are more than 10,000 individuals.
        """
        return self._frame(lambda: self._numeric().dense() + 0.0)  # no negative zeros

    def precision_frame(self) -> pd.DataFrame:
        """A^-1 as a labelled frame.

        Returns
        -------
        pandas.DataFrame, shape (m, m)

        Raises
        ------
        DataError
            If A is singular, or there are more than 10,000 individuals.
        """
        return self._frame(self._inverse)

    def _inverse(self) -> np.ndarray:
        if self.precision is not None:
            return self.precision.toarray()
        assert self.covariance is not None  # it has one of the two
        if np.linalg.matrix_rank(self.covariance, hermitian=True) < len(self):
            raise DataError("The relationship matrix is singular: it has no inverse.")
        return np.linalg.inv(self.covariance)

    def _frame(self, make: Callable[[], np.ndarray]) -> pd.DataFrame:
        import pandas as pd

        if len(self) > _MAX_DENSE:
            raise DataError(f"A dense matrix of {len(self)} individuals does not fit in memory.")
        return pd.DataFrame(make(), index=self.labels, columns=self.labels)

    def _numeric(self):
        from bayeslmm.gaussian.related.relationship import Relationship

        return Relationship(self.covariance, self.precision)


def as_relationship(value, factor: str) -> RelationshipMatrix:
    """What the user gave for one grouping factor as a RelationshipMatrix.

    Raises
    ------
    DataError
        If it is none of the kinds there are, or rows and columns have different labels.
    """
    import pandas as pd

    if isinstance(value, RelationshipMatrix):
        return value
    if isinstance(value, pd.DataFrame):
        rows, columns = list(value.index), list(value.columns)
        values = value.to_numpy()
    elif hasattr(value, "dims") and hasattr(value, "to_numpy"):  # an xarray.DataArray
        if len(value.dims) != 2 or any(dim not in value.coords for dim in value.dims):
            raise DataError(
                f"relationship of {factor!r}: a DataArray needs two dimensions, both with labels."
            )
        rows, columns = (value.coords[dim].to_numpy().tolist() for dim in value.dims)
        values = value.to_numpy()
    else:
        raise DataError(
            f"relationship of {factor!r}: give a labelled DataFrame or DataArray, "
            "blm.pedigree_relationship(...) or blm.RelationshipMatrix(labels, ...), not "
            f"{type(value).__name__}. Without labels nothing says which row is which individual."
        )
    rows, columns = [plain_label(v) for v in rows], [plain_label(v) for v in columns]
    try:
        _check_labels(tuple(rows))
        if rows != columns:
            if set(rows) != set(columns) or len(rows) != len(columns):
                raise DataError("rows and columns must have the same labels.")
            values = values[:, [columns.index(v) for v in rows]]
        return RelationshipMatrix(rows, values)
    except DataError as err:
        raise DataError(f"relationship of {factor!r}: {err}") from None


def _check_labels(labels: tuple) -> None:
    for label, count in Counter(labels).items():
        if count > 1:
            raise DataError(f"the label {label!r} occurs twice.")


def _numbers(matrix) -> np.ndarray:
    try:
        return np.array(matrix, dtype=float)
    except (TypeError, ValueError):
        raise DataError("the matrix must hold numbers.") from None


def _symmetric(matrix, size: int):
    """The matrix, exactly symmetric."""
    if matrix.ndim != 2 or matrix.shape != (size, size):
        raise DataError(f"the matrix has shape {matrix.shape}, but there are {size} labels.")
    data = matrix if isinstance(matrix, np.ndarray) else matrix.data
    if not np.all(np.isfinite(data)):
        raise DataError("the matrix has missing or infinite entries.")
    largest = float(np.max(np.abs(data), initial=0.0))
    gap = abs(matrix - matrix.T)
    gap = float(gap.max()) if min(gap.shape) else 0.0
    if gap > _ASYMMETRY * largest:
        raise DataError(f"the matrix is not symmetric (entries differ by up to {gap:.3g}).")
    return 0.5 * (matrix + matrix.T)
