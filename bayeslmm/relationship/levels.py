"""Relationships matched to the levels of grouping factors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.errors import DataError, FormulaError, suggestion
from bayeslmm.formula import Design
from bayeslmm.relationship.matrix import RelationshipMatrix, as_relationship

if TYPE_CHECKING:
    from bayeslmm.formula.random import RandomBlock

__all__ = ["related_design", "relationships_of"]


def related_design(design: Design, relationship: Mapping[str, object] | None) -> Design:
    """The design with a relationship on some of its grouping factors.

    Individuals of the relationship without rows become levels without rows, after the others.

    Parameters
    ----------
    relationship : mapping of factor's name to what ``as_relationship`` takes

    Raises
    ------
    FormulaError
        If there is no such grouping factor.
    DataError
        If a level is missing from the relationship, or the matrix is not positive semidefinite.
    """
    if relationship is None:
        return design
    if not isinstance(relationship, Mapping):
        raise DataError('relationship must be a dict such as {"id": A}, by grouping factor.')
    names = [block.name for block in design.blocks]
    for name in relationship:
        if name not in names:
            raise FormulaError(
                f"relationship: there is no grouping factor {name!r} in the formula."
                f"{suggestion(str(name), names, 1)} It has: {', '.join(names) or 'none'}."
            )
    blocks = tuple(
        _related_block(block, as_relationship(relationship[block.name], block.name))
        if block.name in relationship
        else block
        for block in design.blocks
    )
    return replace(design, blocks=blocks)


def relationships_of(design: Design) -> dict[str, RelationshipMatrix]:
    """The relationships of a design, labelled, as they were given."""
    return {
        block.name: RelationshipMatrix(
            block.levels, block.relationship.covariance, precision=block.relationship.precision
        )
        for block in design.blocks
        if block.relationship is not None
    }


def _related_block(block: RandomBlock, matrix: RelationshipMatrix) -> RandomBlock:
    """The block with all individuals as levels and the matrix in their order."""
    from bayeslmm.gaussian.related.relationship import NotPositiveError, Relationship

    factor = block.factor
    if len(factor.columns) != 1:
        raise DataError(
            f"relationship: {factor.name!r} is made of several columns. Make it a column of the "
            "data, with the labels of the relationship."
        )
    at = _positions(factor.levels, matrix, factor.name)
    rest = np.setdiff1d(np.arange(len(matrix)), at)
    order = np.concatenate((at, rest))
    levels = (*factor.levels, *(matrix.labels[i] for i in rest))
    covariance, precision = matrix.covariance, matrix.precision
    if covariance is not None:
        covariance = covariance[np.ix_(order, order)]
    elif precision is not None:
        precision = precision[order][:, order].tocsr()
    numeric = Relationship(covariance, precision)
    try:
        diagonal = numeric.diagonal
        if covariance is not None:
            _check_covariance(covariance)
    except NotPositiveError as err:
        raise DataError(
            f"relationship of {factor.name!r}: {err}{_smallest(matrix)}. A covariance between "
            "individuals must be positive semidefinite; a matrix rounded to few digits often is "
            "not: give more digits, or add a small number to its diagonal."
        ) from None
    if not np.all(diagonal[: len(at)] > 0):
        who = levels[int(np.argmin(diagonal[: len(at)]))]
        raise DataError(
            f"relationship of {factor.name!r}: {who!r} has rows in the data and no variance."
        )
    extended = replace(factor, levels=levels, _component_levels=(levels,))
    return replace(block, factor=extended, relationship=numeric)


def _positions(levels: tuple, matrix: RelationshipMatrix, name: str) -> np.ndarray:
    """Row of every level in the matrix; 1 and "1" match where only one of them is there."""
    found = {label: i for i, label in enumerate(matrix.labels)}
    text: dict[str, int] = {}
    for i, label in enumerate(matrix.labels):
        text.setdefault(str(label), i)
    at = [found.get(level, text.get(str(level), -1)) for level in levels]
    missing = [level for level, i in zip(levels, at, strict=True) if i < 0]
    if missing:
        shown = ", ".join(map(repr, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise DataError(
            f"relationship of {name!r}: {len(missing)} level(s) of the data are not in it: "
            f"{shown}. Add them (an individual without known relatives is a founder), or leave "
            "their rows out."
        )
    if len(set(at)) < len(at):
        raise DataError(f"relationship of {name!r}: two levels of the data have the same label.")
    return np.array(at, dtype=np.int64)


def _check_covariance(A: np.ndarray) -> None:
    from bayeslmm.gaussian import single_threaded_blas
    from bayeslmm.gaussian.related.relationship import semidefinite_root

    with single_threaded_blas():
        semidefinite_root(A)


def _smallest(matrix: RelationshipMatrix) -> str:
    """Smallest eigenvalue, in words, where it can be had."""
    if matrix.covariance is None or len(matrix) > 3000:
        return ""
    value = float(np.linalg.eigvalsh(matrix.covariance)[0])
    return f" (smallest eigenvalue {value:.3g})"
