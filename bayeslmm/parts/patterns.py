"""Which random effects of a grouping factor are correlated, and the parameters that says.

The relative covariance factor of grouping factor k is a q x q lower triangular matrix L_k with
Sigma_k = sigma^2 L_k L_k'.  Its free entries, column by column within each block of correlated
columns, are lme4's theta (Bates et al. 2015, J. Stat. Softw. 67(1), section 2.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class CovariancePattern:
    """Partition of the q columns of one grouping factor into correlated blocks.

    Attributes
    ----------
    q : int
        Number of random-effect columns on the factor.
    blocks : tuple of tuple of int
        Partition of ``range(q)``.  Columns in the same tuple share one full covariance matrix;
        columns in different tuples are independent.  Columns of a block need not be adjacent, but
        are listed in increasing order, so that L_k is lower triangular.

    Raises
    ------
    ValueError
        If ``blocks`` is not a partition of ``range(q)`` into increasing tuples.
    """

    q: int
    blocks: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        blocks = tuple(tuple(int(c) for c in block) for block in self.blocks)
        object.__setattr__(self, "blocks", blocks)
        if self.q < 1 or any(not block for block in blocks):
            raise ValueError("a covariance pattern needs at least one column and no empty block")
        if sorted(c for block in blocks for c in block) != list(range(self.q)):
            raise ValueError(f"blocks {blocks} are not a partition of range({self.q})")
        if any(list(block) != sorted(block) for block in blocks):
            raise ValueError(f"columns within a block must increase: {blocks}")

    @classmethod
    def full(cls, q: int) -> CovariancePattern:
        """All q columns correlated: ``(x | g)``."""
        return cls(q, (tuple(range(q)),))

    @classmethod
    def diagonal(cls, q: int) -> CovariancePattern:
        """No correlations: ``(x || g)`` with numeric x."""
        return cls(q, tuple((c,) for c in range(q)))

    @cached_property
    def entries(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of every free entry of L_k (and of Sigma_k), in lme4's order."""
        pairs = [
            (block[i], block[j])
            for block in self.blocks
            for j in range(len(block))
            for i in range(j, len(block))
        ]
        rows, columns = zip(*pairs, strict=True)
        return np.array(rows, dtype=np.int64), np.array(columns, dtype=np.int64)

    @property
    def n_parameters(self) -> int:
        """Number of free entries."""
        return len(self.entries[0])

    @cached_property
    def mask(self) -> np.ndarray:
        """(q, q) boolean, True where two columns are in the same block."""
        label = np.empty(self.q, dtype=np.int64)
        for number, block in enumerate(self.blocks):
            label[list(block)] = number
        return label[:, None] == label[None, :]

    def unpack(self, theta: np.ndarray) -> np.ndarray:
        """(q, q) lower triangular L_k from its free entries."""
        factor = np.zeros((self.q, self.q))
        factor[self.entries] = theta
        return factor

    def pack(self, factor: np.ndarray) -> np.ndarray:
        """Free entries of L_k, of Sigma_k, or of any (q, q) matrix, in lme4's order."""
        return np.asarray(factor, dtype=float)[self.entries]


def n_parameters(patterns: Sequence[CovariancePattern]) -> int:
    """Length of theta for a list of grouping factors."""
    return sum(pattern.n_parameters for pattern in patterns)


def unpack_theta(patterns: Sequence[CovariancePattern], theta: np.ndarray) -> list[np.ndarray]:
    """Lower triangular L_k, one (q_k, q_k) array per factor.

    Raises
    ------
    ValueError
        If ``theta`` has the wrong length.
    """
    theta = np.asarray(theta, dtype=float).ravel()
    if len(theta) != n_parameters(patterns):
        raise ValueError(f"theta has {len(theta)} entries, the model {n_parameters(patterns)}")
    factors, start = [], 0
    for pattern in patterns:
        stop = start + pattern.n_parameters
        factors.append(pattern.unpack(theta[start:stop]))
        start = stop
    return factors


def pack_theta(patterns: Sequence[CovariancePattern], Ls: Sequence[np.ndarray]) -> np.ndarray:
    """Inverse of :func:`unpack_theta`."""
    return np.concatenate([p.pack(L) for p, L in zip(patterns, Ls, strict=True)])


def flat_positions(patterns: Sequence[CovariancePattern]) -> np.ndarray:
    """Position of each entry of theta in the (q_k, q_k) factors, one flat buffer after another."""
    starts = np.cumsum([0, *(p.q**2 for p in patterns)])
    parts = [starts[k] + p.entries[0] * p.q + p.entries[1] for k, p in enumerate(patterns)]
    return np.concatenate([*parts, np.zeros(0, np.int64)])


def split_factors(F: np.ndarray, patterns: Sequence[CovariancePattern]) -> list[np.ndarray]:
    """(..., q_k, q_k) factors from flat ones (..., sum q_k^2)."""
    ends = np.cumsum([p.q**2 for p in patterns])
    return [
        F[..., end - p.q**2 : end].reshape(*F.shape[:-1], p.q, p.q)
        for p, end in zip(patterns, ends, strict=True)
    ]


def pair_labels(labels: Sequence, pairs: Sequence[tuple[int, int]]) -> list[str]:
    """Labels of pairs, as ``"Intercept, Days"``."""
    return [f"{labels[i]}, {labels[j]}" for i, j in pairs]


def pair_values(R: np.ndarray, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Entries (..., k) of symmetric matrices (..., q, q) at k pairs."""
    i, j = np.array(pairs, dtype=int).reshape(-1, 2).T
    return R[..., i, j]


def correlation_matrices(values: np.ndarray, pairs: Sequence, q: int) -> np.ndarray:
    """Correlation matrices (..., q, q) with the values (..., k) at k pairs and 0 elsewhere."""
    i, j = np.array(pairs, dtype=int).reshape(-1, 2).T
    R = np.broadcast_to(np.eye(q), (*values.shape[:-1], q, q)).copy()
    R[..., i, j] = R[..., j, i] = values
    return R


def lower_root(A: np.ndarray) -> np.ndarray:
    """Lower triangular L with L L' = A A' and no negative diagonal, (..., q, q)."""
    R = np.linalg.qr(np.swapaxes(A, -1, -2), mode="r")
    sign = np.where(np.diagonal(R, axis1=-2, axis2=-1) < 0, -1.0, 1.0)
    return np.swapaxes(R * sign[..., None], -1, -2)


def lower_factor(Sigma: np.ndarray, *, checked: bool = True) -> np.ndarray:
    """Lower triangular L with L L' = Sigma, for positive *semi*definite Sigma.

    Pivots that vanish relative to the diagonal give a zero column, so a singular covariance matrix
    from a fit at the boundary has a factor too.

    Parameters
    ----------
    Sigma : (q, q) array
    checked : bool
        False for a matrix that is known to be positive semidefinite: rounding may make a pivot
        more negative than looks like rounding where others before it nearly vanish.

    Raises
    ------
    ValueError
        If Sigma is not symmetric positive semidefinite up to rounding.
    """
    Sigma = np.asarray(Sigma, dtype=float)
    q = Sigma.shape[0]
    if Sigma.shape != (q, q) or not np.all(np.isfinite(Sigma)):
        raise ValueError("a covariance matrix must be square and finite")
    L = np.zeros((q, q))
    tolerance = 64 * np.finfo(float).eps
    for j in range(q):
        pivot = Sigma[j, j] - L[j, :j] @ L[j, :j]
        if checked and (pivot < -1e-10 * max(Sigma[j, j], 0.0) or Sigma[j, j] < 0):
            raise ValueError("the covariance matrix is not positive semidefinite")
        if pivot <= tolerance * Sigma[j, j]:
            continue
        L[j, j] = np.sqrt(pivot)
        L[j + 1 :, j] = (Sigma[j + 1 :, j] - L[j + 1 :, :j] @ L[j, :j]) / L[j, j]
    return L
