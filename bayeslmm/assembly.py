"""From a design to what evaluates it: the one place that looks at a design and chooses an engine.

Independent residuals of one variance are evaluated from cross-products (related levels from a
coupled or rotated system), unequal variances from cross-products cell by cell, and correlated
residuals from dense blocks of rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.errors import DataError
from bayeslmm.formula import Design
from bayeslmm.gaussian import CrossProducts, FactorRows, Problem, prepare, single_threaded_blas
from bayeslmm.parts.patterns import CovariancePattern

if TYPE_CHECKING:
    from bayeslmm.gaussian.blocks.layout import Blocks
    from bayeslmm.gaussian.blocks.problem import BlockProblem
    from bayeslmm.gaussian.cells.problem import CellProblem
    from bayeslmm.gaussian.system import System

__all__ = [
    "covariance_patterns",
    "factor_rows",
    "prepared_problem",
    "reduce_rows",
    "residual_blocks",
    "structured_problem",
    "system_of",
]

#: Unequal variances of so few rows in a block, and in all, are evaluated block by block.
_SMALL_BLOCK, _FEW_ROWS = 30, 2000


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


def structured_problem(design: Design, *, columns=slice(None), route: str = "auto") -> System:
    """A design with structured residuals, laid out for evaluation.

    Parameters
    ----------
    design : Design
    columns : index
        Coefficients to keep.
    route : {"auto", "blocks", "cells"}
        Dense blocks of rows, or cross-products cell by cell where residuals are independent.

    Raises
    ------
    DataError
        If random effects join too many rows into one block, and there are no cells.
    """
    from bayeslmm.gaussian.blocks.layout import LARGEST_BLOCK, largest_block

    residual, factors = design.stated_residual, factor_rows(design)
    size = largest_block(residual.rows.group, factors)
    if route == "auto":
        small = size <= _SMALL_BLOCK and design.n_rows <= _FEW_ROWS
        route = "cells" if residual.kind == "independent" and not small else "blocks"
    if route == "cells":
        return _cell_problem(design, factors, columns)
    if size > LARGEST_BLOCK:
        joined = ", ".join(block.name for block in design.blocks) or ":".join(
            residual.syntax.groups
        )
        raise DataError(
            f"{joined} join {size} rows into one block whose covariance would be a dense "
            f"{size} x {size} matrix (at most {LARGEST_BLOCK}). Beside correlated residuals, group "
            "random effects by the residual's own groups or by few rows above them: leave out "
            "crossed factors, or make them fixed effects."
        )
    return _block_problem(design, factors, columns)


def _cell_problem(design: Design, factors: list[FactorRows], columns) -> CellProblem:
    from bayeslmm.gaussian.cells.problem import TooManyCellsError, prepare_cells
    from bayeslmm.parts.structures import make_structure

    rows = design.stated_residual.rows
    try:
        with single_threaded_blas():
            return prepare_cells(
                design.y - design.offset,
                design.X[:, columns],
                factors,
                covariance_patterns(design),
                make_structure("independent", rows.group, rows.time, 0, 1),
                rows.scale,
                design.weights,
            )
    except TooManyCellsError as err:
        raise DataError(
            f'sigma="~ {design.stated_residual.syntax.sigma}": {err}, too many for memory. Use a '
            "formula with fewer different values, such as rounded ones."
        ) from None


def _block_problem(design: Design, factors: list[FactorRows], columns) -> BlockProblem:
    from bayeslmm.gaussian.blocks.problem import prepare_blocks
    from bayeslmm.parts.structures import make_structure

    residual, rows = design.stated_residual, design.stated_residual.rows
    structure = make_structure(
        residual.kind, rows.group, rows.time, len(residual.times), residual.largest_group
    )
    return prepare_blocks(
        design.y - design.offset,
        design.X[:, columns],
        factors,
        covariance_patterns(design),
        structure,
        rows.group,
        rows.time,
        rows.scale,
        design.weights,
    )


def residual_blocks(design: Design) -> Blocks:
    """Blocks of rows whose residuals are correlated, whatever random effects join them."""
    from bayeslmm.gaussian.blocks.layout import make_blocks
    from bayeslmm.parts.structures import STRUCTURES

    residual, rows = design.stated_residual, design.stated_residual.rows
    made = STRUCTURES[residual.kind]
    return make_blocks(
        rows.group,
        rows.time if made.uses_time else np.zeros(design.n_rows),
        rows.scale,
        design.weights,
        [],
        (made.code, len(residual.times)),
        shift_times=made.uses_time and not residual.times,
    )


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
    with single_threaded_blas():
        if all(relationship is None for relationship in relationships):
            return prepare(cp, patterns)
        from bayeslmm.gaussian.related.rotation import prepare_related

        return prepare_related(cp, patterns, relationships)
