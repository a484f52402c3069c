"""Designs with another number of groups, made from the rows of one that is there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bayeslmm.errors import DataError
from bayeslmm.formula import Design
from bayeslmm.gaussian import FactorRows

__all__ = ["Rows", "resize"]


@dataclass(frozen=True)
class Rows:
    """What a simulation needs of a design.

    Attributes
    ----------
    X : (n, p) array
    factors : list of FactorRows
    weights : (n,) array or None
    """

    X: np.ndarray
    factors: list[FactorRows]
    weights: np.ndarray | None

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.X)


def resize(design: Design, factor: str, n_levels: int, row: np.ndarray) -> Rows:
    """The rows of ``n_levels`` groups like those of the design.

    Groups are taken evenly from all that there are, ordered by their mean of the effect's columns,
    so that arms keep their proportions; with more groups than there are, each is used several
    times, as a new group. Levels of a factor nested in the groups are new ones in every copy;
    crossed factors keep their levels.

    Parameters
    ----------
    design : Design
    factor : str
    n_levels : int
    row : (p,) array
        Weights of the effect.

    Raises
    ------
    DataError
        If there are fewer than 2 groups.
    """
    if n_levels < 2:
        raise DataError(f"At least 2 groups are needed, not {n_levels}.")
    block = design.block(factor)
    order = np.argsort(block.codes, kind="stable")
    counts = np.bincount(block.codes, minlength=block.n_levels)
    members = np.split(order, np.cumsum(counts)[:-1])
    score = np.array([(design.X[rows] @ row).mean() for rows in members])
    ranked = np.argsort(score, kind="stable")
    at = np.floor((np.arange(n_levels) + 0.5) * block.n_levels / n_levels).astype(int)
    chosen = [members[level] for level in ranked[at]]
    rows = np.concatenate(chosen)
    copy = np.repeat(np.arange(n_levels), [len(part) for part in chosen])
    factors = []
    for other in design.blocks:
        codes = other.codes[rows]
        if other.name == block.name:
            codes = copy
        elif _nested(other.codes, block.codes):
            codes = np.unique(np.column_stack([copy, codes]), axis=0, return_inverse=True)[1]
        else:
            codes = np.unique(codes, return_inverse=True)[1]
        codes = np.asarray(codes).ravel()
        factors.append(FactorRows(codes, other.Z[rows], int(codes.max()) + 1))
    weights = None if design.weights is None else design.weights[rows]
    return Rows(design.X[rows], factors, weights)


def _nested(inner: np.ndarray, outer: np.ndarray) -> bool:
    """Whether every level of ``inner`` lies within one level of ``outer``."""
    pairs = np.unique(np.column_stack([inner, outer]), axis=0)
    return len(pairs) == len(np.unique(inner))
