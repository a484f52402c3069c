"""Variance components that the covariance of the data does not determine, by name."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.errors import DataError, ModelWarning, listed
from bayeslmm.parts.parameters import pair_key, sd_key

if TYPE_CHECKING:
    from bayeslmm.formula import Design
    from bayeslmm.formula.random import RandomBlock
    from bayeslmm.protocols import Model

__all__ = ["aliased_coefficients", "unidentified_components", "warn_unidentified"]

#: A column of which other columns leave less than this share of its length deserves a warning.
_HARDLY_LEFT = 1e-5


def unidentified_components(model: Model) -> tuple[tuple[str, ...], ...]:
    """Names of the components that change where the covariance of the data does not.

    Returns
    -------
    tuple of tuples of str
        One per direction: effects that repeat one another, as ``(1 | g) + (0 + f | g)``, or
        that never meet within a level, as ``(0 + f | g)`` where f is constant in every g.
    """
    from bayeslmm.assembly import covariance_patterns
    from bayeslmm.gaussian import single_threaded_blas, unidentified_directions

    design = model.design
    plain = [k for k, block in enumerate(design.blocks) if _levels_are_unrelated(block)]
    alone = len(plain) == 1 and design.blocks[plain[0]].n_effects == 1
    if not plain or alone or design.modeled:
        return ()
    sigma = design.residual is None and design.family.gaussian and not sigma_is_known(model)
    with single_threaded_blas():
        found = unidentified_directions(
            model.cross_products, covariance_patterns(design), plain, sigma=sigma
        )
    return tuple(_names(design, changes, residual) for changes, residual in found)


def sigma_is_known(model: Model) -> bool:
    """Whether sigma is one parameter, with a fixed value."""
    return "sigma" in model.priors.fixed()


def _levels_are_unrelated(block: RandomBlock) -> bool:
    return block.relationship is None or block.relationship.trivial


def _names(design: Design, changes: list[np.ndarray], residual: float) -> tuple[str, ...]:
    names = []
    for block, change in zip(design.blocks, changes, strict=True):
        moved = np.abs(change) > 1e-4
        own = np.diag(moved)
        names += [sd_key(e, block.name) for e, m in zip(block.effects, own, strict=True) if m]
        names += [
            pair_key(block.effects[i], block.effects[j], block.name)
            for i, j in block.correlated_pairs()
            if own[i] or own[j] or moved[i, j]
        ]
    return (*names, "sigma") if abs(residual) > 1e-4 else tuple(names)


def warn_unidentified(model: Model) -> None:
    """Say which effects repeat others, but for those the checks of the design have named.

    Warns
    -----
    ModelWarning
    """
    told = set()
    for names in model.unidentified:
        if names in told or "sigma" in names or _same_groups(model.design, names):
            continue
        told.add(names)
        warnings.warn(
            f"The data do not determine {', '.join(names)}: other values of these give the "
            "responses the same covariance, because random effects repeat one another, or never "
            "meet within a level. Leave out a term, or a correlation. A likelihood fit has no "
            "standard errors for these; in a posterior the priors decide.",
            ModelWarning,
            stacklevel=3,
        )


def _same_groups(design: Design, names: tuple[str, ...]) -> bool:
    """Whether the components are one effect of factors that have the same groups."""
    parts = [
        (effect, block.n_levels)
        for block in design.blocks
        for effect in block.effects
        if sd_key(effect, block.name) in names
    ]
    return len(parts) > 1 and len(set(parts)) == 1


def aliased_coefficients(model: Model) -> tuple[str, ...]:
    """Coefficients whose columns are combinations of earlier ones, with a warning.

    Raises
    ------
    DataError
        If there are no more rows than coefficients, aliased ones not counted.
    """
    from bayeslmm.gaussian import single_threaded_blas
    from bayeslmm.gaussian.aliasing import (
        plainly_independent,
        remaining_shares,
        remaining_shares_of_products,
    )

    design = model.design
    products_say = design.rows_in_memory and design.residual is None and design.weights is None
    products_say = products_say and design.intercept_column == 0 < design.n_rows - design.X.shape[1]
    with single_threaded_blas():
        if products_say and plainly_independent(model.cross_products):
            return ()
        if design.rows_in_memory:
            columns = design.columns_of_location
            shares = remaining_shares(columns)[columns.shape[1] - len(design.coef_names) :]
        else:
            shares = remaining_shares_of_products(design.cross_products)
    names, n, rank = design.coef_names, design.n_rows, int(np.count_nonzero(shares))
    if n <= rank:
        aliased = f" ({len(names) - rank} more are aliased)" if rank < len(names) else ""
        raise DataError(
            f"{rank} coefficients{aliased} and {n} rows: there must be more rows than "
            "coefficients. Leave terms out."
        )
    found = tuple(name for name, share in zip(names, shares, strict=True) if share == 0)
    if found:
        warnings.warn(
            f"The model matrix is rank deficient: {listed(found)} can be written as a "
            "combination of the columns before. The data say nothing about such a coefficient "
            "alone: in the posterior its prior decides, REML leaves it out.",
            ModelWarning,
            stacklevel=3,
        )
    for name, share in zip(names, shares, strict=True):
        if 0 < share < _HARDLY_LEFT:
            warnings.warn(
                f"The column of {name} is nearly a combination of the columns before it: "
                f"{share:.0e} of its length is left. The data say little about these coefficients "
                "one by one, and standard errors of their combinations lose digits. Leave one "
                "out, or make the difference between the columns a column of its own (for "
                "powers: poly(), or center() the covariate).",
                ModelWarning,
                stacklevel=3,
            )
    return found
