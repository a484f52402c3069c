"""Variance components that the covariance of the data does not determine, by name."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.errors import ModelWarning

if TYPE_CHECKING:
    from bayeslmm.formula import Design
    from bayeslmm.formula.random import RandomBlock
    from bayeslmm.model import LMM

__all__ = ["unidentified_components", "warn_unidentified"]


def unidentified_components(model: LMM) -> tuple[tuple[str, ...], ...]:
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
    sigma = design.residual is None and not sigma_is_known(model)
    with single_threaded_blas():
        found = unidentified_directions(
            model.cross_products, covariance_patterns(design), plain, sigma=sigma
        )
    return tuple(_names(design, changes, residual) for changes, residual in found)


def sigma_is_known(model: LMM) -> bool:
    """Whether sigma is one parameter, with a fixed value."""
    return "sigma" in model.priors and model.priors["sigma"].name == "Fixed"


def _levels_are_unrelated(block: RandomBlock) -> bool:
    return block.relationship is None or block.relationship.trivial


def _names(design: Design, changes: list[np.ndarray], residual: float) -> tuple[str, ...]:
    names = []
    for block, change in zip(design.blocks, changes, strict=True):
        moved = np.abs(change) > 1e-4
        own = np.diag(moved)
        names += [f"sd({e} | {block.name})" for e, m in zip(block.effects, own, strict=True) if m]
        names += [
            f"corr({block.effects[i]}, {block.effects[j]} | {block.name})"
            for i, j in block.correlated_pairs()
            if own[i] or own[j] or moved[i, j]
        ]
    return (*names, "sigma") if abs(residual) > 1e-4 else tuple(names)


def warn_unidentified(model: LMM) -> None:
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
        if f"sd({effect} | {block.name})" in names
    ]
    return len(parts) > 1 and len(set(parts)) == 1
