"""From a design to what evaluates it: the one place that looks at a design and chooses an engine.

Independent residuals of one variance are evaluated from cross-products (related levels from a
coupled or rotated system), unequal variances from cross-products cell by cell, and correlated
residuals from dense blocks of rows. Effects that would join these blocks into large ones, and
effects of related levels, are kept apart from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.compiling import expect
from bayeslmm.errors import DataError
from bayeslmm.formula import Design
from bayeslmm.gaussian import CrossProducts, FactorRows, Problem, prepare, single_threaded_blas
from bayeslmm.parts.patterns import CovariancePattern

if TYPE_CHECKING:
    from bayeslmm.gaussian.blocks.layout import Blocks
    from bayeslmm.gaussian.blocks.problem import BlockProblem
    from bayeslmm.gaussian.cells.problem import CellProblem
    from bayeslmm.gaussian.system import System
    from bayeslmm.gaussian.woodbury.problem import WoodburySystem
    from bayeslmm.gaussian.woodbury.split import Split
    from bayeslmm.laplace.system import ResponseSystem
    from bayeslmm.parts.structures import Structure

__all__ = [
    "covariance_patterns",
    "factor_rows",
    "prepared_problem",
    "reduce_rows",
    "residual_blocks",
    "response_system",
    "structured_problem",
    "system_of",
    "trials_and_weights",
]

#: Unequal variances of so few rows in a block, and in all, are evaluated block by block.
_SMALL_BLOCK, _FEW_ROWS = 30, 2000
#: Crossed effects are kept apart from the blocks where one matrix of all rows that they join takes
#: so many times the operations, and so many operations at least: one of 300 rows takes 4 ms, an
#: evaluation by parts 0.3 ms, but NUTS meets the density of blocks without Python.
_CHEAPER, _CHEAP = 10.0, 3e7
#: Seconds of a REML fit by interpreted kernels per row of a factor, per level and pair of levels
#: with a row in common, per related level, and per multiplication of a block's Cholesky factor.
_PER_ROW, _PER_PAIR, _PER_RELATED, _PER_PRODUCT = 1.5e-5, 6e-4, 3e-3, 3e-6
#: The same of a response that is not Gaussian, per row of a factor, and per level and pair.
_PER_RESPONSE, _PER_JOINED = 1e-4, 1.5e-3


def reduce_rows(design: Design, *, y=None, columns=slice(None)) -> CrossProducts:
    """Cross-products of a design's rows, the offset subtracted from the response.

    Parameters
    ----------
    design : Design
    y : ndarray, shape (n,), optional
        Another response of the same rows.
    columns : index
        Coefficients to keep, such as those that are not aliased.
    """
    if not design.rows_in_memory and y is None:
        return design.cross_products.with_columns(np.arange(len(design.coef_names))[columns])
    response = (design.y if y is None else y) - design.offset
    expect(_PER_ROW * design.n_rows * len(design.blocks))
    return CrossProducts.from_rows(
        response, design.X[:, columns], factor_rows(design), weights=design.weights
    )


def system_of(design: Design, *, columns=slice(None), whole: Problem | None = None) -> System:
    """What evaluates a design, whatever it is.

    Parameters
    ----------
    design : Design
    columns : index
        Coefficients to keep, such as those that are not aliased.
    whole : Problem, optional
        The cross-products of these columns, where they are laid out already.
    """
    if design.residual is not None:
        return structured_problem(design, columns=columns)
    from bayeslmm.gaussian.shared import SharedSystem

    if whole is None:
        whole = prepared_problem(design, reduce_rows(design, columns=columns))
    if not design.rows_in_memory:
        return SharedSystem(whole, None, None, ())
    y, X = design.y - design.offset, design.X[:, columns]
    return SharedSystem(whole, y, X, tuple(factor_rows(design)), design.weights)


def response_system(design: Design, *, columns=slice(None)) -> ResponseSystem:
    """The rows of a response that is not Gaussian, ready to be evaluated.

    Parameters
    ----------
    design : Design
    columns : index
        Coefficients to keep, such as those that are not aliased.
    """
    from bayeslmm.laplace.system import ResponseSystem

    trials, weights = trials_and_weights(design)
    levels = [block.n_levels for block in design.blocks]
    met = sum(min(design.n_rows, j * k) for j, k in combinations(levels, 2))
    joined = met + sum(levels) if met else 0
    expect(_PER_RESPONSE * design.n_rows * len(levels) + _PER_JOINED * joined)
    return ResponseSystem(
        # copies: an array that may not be written is another type to the compiler
        y=np.array(design.y, dtype=float),
        trials=trials,
        weights=weights,
        offset=np.array(design.offset, dtype=float),
        X=np.ascontiguousarray(design.X[:, columns]),
        factors=tuple(factor_rows(design)),
        family=design.family,
        patterns=tuple(covariance_patterns(design)),
    )


def trials_and_weights(design: Design) -> tuple[np.ndarray, np.ndarray]:
    """What a :class:`bayeslmm.parts.families.Family` takes for trials, and powers of its densities.

    Weights of residuals are their precisions, which are in place of trials there; a row of weight 0
    is left out.
    """
    ones = np.ones(design.n_rows)
    trials = ones if design.trials is None else np.array(design.trials, dtype=float)
    weights = ones if design.weights is None else np.array(design.weights, dtype=float)
    if not design.family.gaussian:
        return trials, weights
    return np.where(weights > 0.0, weights, 1.0), (weights > 0.0).astype(float)


def structured_problem(design: Design, *, columns=slice(None), route: str = "auto") -> System:
    """A design with structured residuals, laid out for evaluation.

    Parameters
    ----------
    design : Design
    columns : index
        Coefficients to keep.
    route : {"auto", "blocks", "cells", "woodbury"}
        Dense blocks of rows; cross-products cell by cell where residuals are independent; or blocks
        of rows and the effects that join them (crossed factors, related levels) apart.

    Raises
    ------
    DataError
        If random effects join too many rows into one block, and are too many to be apart.
    """
    factors = factor_rows(design)
    split = None
    if route == "auto":
        route, split = _route(design, factors)
    if route == "cells":
        return _cell_problem(design, factors, columns)
    if route == "woodbury":
        return _woodbury_problem(design, factors, columns, split or _split(design, factors))
    return _block_problem(design, factors, covariance_patterns(design), columns)


def _route(design: Design, factors: list[FactorRows]) -> tuple[str, Split | None]:
    """Blocks, cells or woodbury, and the split of the last."""
    from bayeslmm.gaussian.blocks.layout import largest_block
    from bayeslmm.gaussian.woodbury.split import split_cost

    residual, related = design.stated_residual, any(b.relationship for b in design.blocks)
    group = residual.rows.group
    if residual.kind == "independent" and not related:
        small = largest_block(group, factors) <= _SMALL_BLOCK and design.n_rows <= _FEW_ROWS
        return ("blocks" if small else "cells"), None
    together = np.inf if related else split_cost(group, factors, [False] * len(factors)).cost
    if together <= _CHEAP:
        return "blocks", None
    split = _split(design, factors)
    if not np.isfinite(split.cost):
        _refuse_size(design, split)
    if together <= _CHEAPER * split.cost:
        return "blocks", None
    return "woodbury", split


def _split(design: Design, factors: list[FactorRows]) -> Split:
    from bayeslmm.gaussian.woodbury.split import cheapest_split

    related = [block.relationship is not None for block in design.blocks]
    return cheapest_split(design.stated_residual.rows.group, factors, related)


def _refuse_size(design: Design, split: Split) -> None:
    from bayeslmm.gaussian.blocks.layout import LARGEST_BLOCK
    from bayeslmm.gaussian.woodbury.split import LARGEST_OUTER

    if split.largest > LARGEST_BLOCK:
        inside = [b.name for b, out in zip(design.blocks, split.is_outer, strict=True) if not out]
        joined = ", ".join(inside) or ":".join(design.stated_residual.syntax.groups)
        raise DataError(
            f"{joined} join {split.largest} rows into one block whose covariance would be a dense "
            f"{split.largest} x {split.largest} matrix (at most {LARGEST_BLOCK}). Correlated "
            "residuals need groups of fewer rows."
        )
    outside = [b.name for b, out in zip(design.blocks, split.is_outer, strict=True) if out]
    raise DataError(
        f"{', '.join(outside)}: {split.size} random effects that join groups of residuals, by "
        f"crossing or by a relationship, would be a dense {split.size} x {split.size} matrix (at "
        f"most {LARGEST_OUTER}) beside residual= or sigma=. Leave residual= and sigma= out, or "
        "make a factor a fixed effect."
    )


def _cell_problem(design: Design, factors: list[FactorRows], columns) -> CellProblem:
    from bayeslmm.gaussian.cells.problem import TooManyCellsError, prepare_cells

    try:
        with single_threaded_blas():
            return prepare_cells(
                design.y - design.offset,
                design.X[:, columns],
                factors,
                covariance_patterns(design),
                _structure(design),
                design.stated_residual.rows.scale,
                design.weights,
            )
    except TooManyCellsError as err:
        raise DataError(
            f'sigma="~ {design.stated_residual.syntax.sigma}": {err}, too many for memory. Use a '
            "formula with fewer different values, such as rounded ones."
        ) from None


def _block_problem(
    design: Design,
    factors: Sequence[FactorRows],
    patterns: Sequence[CovariancePattern],
    columns,
) -> BlockProblem:
    from bayeslmm.gaussian.blocks.problem import prepare_blocks

    rows = design.stated_residual.rows
    found = prepare_blocks(
        design.y - design.offset,
        design.X[:, columns],
        factors,
        patterns,
        _structure(design),
        rows.group,
        rows.time,
        rows.scale,
        design.weights,
    )
    expect(_PER_PRODUCT * float(np.sum(found.layout.m.astype(float) ** 3)))
    return found


def _woodbury_problem(
    design: Design, factors: list[FactorRows], columns, split: Split
) -> WoodburySystem:
    from bayeslmm.gaussian.woodbury.problem import prepare_woodbury

    patterns, is_outer = covariance_patterns(design), split.is_outer
    own_factors, own_patterns = (
        [part for part, out in zip(parts, is_outer, strict=True) if not out]
        for parts in (factors, patterns)
    )
    relationships = [block.relationship for block in design.blocks]
    with single_threaded_blas():
        inner = _block_problem(design, own_factors, own_patterns, columns)
        return prepare_woodbury(inner, factors, patterns, relationships, is_outer)


def _structure(design: Design) -> Structure:
    from bayeslmm.parts.structures import make_structure

    residual, rows = design.stated_residual, design.stated_residual.rows
    return make_structure(
        residual.kind, rows.group, rows.time, len(residual.times), residual.largest_group
    )


def residual_blocks(design: Design) -> Blocks:
    """Blocks of rows whose residuals are correlated, whatever random effects join them."""
    from bayeslmm.gaussian.blocks.problem import blocks_of

    rows = design.stated_residual.rows
    return blocks_of(_structure(design), rows.group, rows.time, rows.scale, design.weights, [])


def factor_rows(design: Design) -> list[FactorRows]:
    """Codes and covariates of each grouping factor, as the numerical core takes them."""
    return [FactorRows(block.codes, block.Z, block.n_levels) for block in design.blocks]


def covariance_patterns(design: Design) -> list[CovariancePattern]:
    """Which effects of each grouping factor are correlated."""
    return [CovariancePattern(block.n_effects, block.pattern) for block in design.blocks]


def prepared_problem(design: Design, cp: CrossProducts) -> Problem:
    """Cross-products of a design's rows laid out for evaluation."""
    patterns = covariance_patterns(design)
    relationships = [block.relationship for block in design.blocks]
    _foresee(cp, [relationship is not None for relationship in relationships])
    with single_threaded_blas():
        if all(relationship is None for relationship in relationships):
            return prepare(cp, patterns)
        from bayeslmm.gaussian.related.rotation import prepare_related

        return prepare_related(cp, patterns, relationships)


def _foresee(cp: CrossProducts, related: list[bool]) -> None:
    """Compile first where cross-products are too many to be worked on by Python."""
    if len(cp.factors) > 1 or any(f.q > 2 for f in cp.factors):
        levels = sum(f.n_levels for f in cp.factors)
        expect(_PER_PAIR * (levels + sum(len(pair.rows) for pair in cp.pairs.values())))
    for factor, is_related in zip(cp.factors, related, strict=True):
        if is_related:
            expect(_PER_RELATED * factor.n_levels)
