"""Is a prior a distribution, and does an improper one leave a posterior that is?

A flat prior on coefficients gives a proper posterior where the data determine these coefficients.
A flat prior on standard deviations S gives one where the likelihood falls off faster than the
volume grows: far out it behaves as a power of the standard deviations, the rank of the columns
they scale, less what flat coefficients take, and that has to exceed the number of elements for
every subset of S. For one sd beside a flat intercept these are the three groups of Gelman (2006,
Bayesian Analysis 1(3), section 2.2); the general case is the power counting of Hobert and Casella
(1996, JASA 91(436), theorem 1).

Where the response is not Gaussian, a flat coefficient must not separate responses
(:mod:`bayeslmm.formula.separation`), and only levels whose rows hold their effect on both sides
count for its standard deviation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.errors import DataError, PriorError, listed
from bayeslmm.formula import Design, RandomBlock
from bayeslmm.formula.covariates import ModeledCovariate
from bayeslmm.formula.separation import pushes, separating_direction
from bayeslmm.gaussian import aliased_columns
from bayeslmm.parts.parameters import coef_key, sd_key

if TYPE_CHECKING:
    from bayeslmm.priors.table import Priors

__all__ = [
    "needed_unit",
    "refuse_improper_posterior",
    "separated",
    "undetermined",
]

#: Subsets of more flat standard deviations than this are not all looked at.
_MAX_SUBSETS = 10


def refuse_improper_posterior(design: Design, priors: Priors) -> None:
    """Refuse improper priors that the data do not make up for.

    Raises
    ------
    PriorError
        Naming the parameter and what is too few.
    DataError
        If predictors determine the observed values of a covariate.
    """
    for covariate in design.modeled:
        _refuse_determined(covariate)
    flat = [key for key, prior in priors.items() if not prior.is_proper]
    if not flat:
        return
    free = _free_directions(design, priors)
    if not design.family.gaussian:
        _refuse_separated(design, priors, free)
    scales = _scaled_columns(design, priors, free.shape[1])
    chosen = [key for key in flat if key in scales]
    sizes = range(1, len(chosen) + 1) if len(chosen) <= _MAX_SUBSETS else (1, len(chosen))
    for size in sizes:
        for subset in combinations(chosen, size):
            _refuse_too_few(subset, scales, free)
    for covariate in design.modeled:
        _refuse_flat_regression(covariate, priors, flat)


def _refuse_determined(covariate: ModeledCovariate) -> None:
    """Refuse a regression without residuals: as sd(x) goes to zero its likelihood has no bound."""
    model = covariate.model
    exact = ~np.isnan(model.reading) & (model.unknown < 0)
    if covariate.values is not None or not exact.any():
        return
    r, W = model.reading[exact], model.W[exact]
    left = np.column_stack([r, W])
    if model.factor is not None:
        codes = model.codes[exact]
        counts = np.maximum(np.bincount(codes), 1)
        means = [np.bincount(codes, column) / counts for column in left.T]
        left = left - np.stack(means, axis=1)[codes]
    fitted = left[:, 1:] @ np.linalg.lstsq(left[:, 1:], left[:, 0], rcond=None)[0]
    groups = 0 if model.factor is None else len(np.unique(model.codes[exact]))
    free = len(r) - groups - int(np.linalg.matrix_rank(left[:, 1:]))
    if free > 0 and np.std(left[:, 0] - fitted) <= 1e-10 * np.std(r):
        raise DataError(
            f"The observed values of {covariate.name!r} are determined by its predictors, so that "
            "nothing says how far the unknown ones may be from them. Compute these, or leave a "
            "predictor out."
        )


def _refuse_flat_regression(covariate: ModeledCovariate, priors: Priors, flat: list[str]) -> None:
    """Refuse flat priors in the regression of a covariate that its readings do not make up for."""
    own = [p for p in priors.parameters if p.factor == covariate.name and p.key in flat]
    own = [p for p in own if p.kind.startswith("covariate")]
    for parameter in own:
        if covariate.values is not None or parameter.kind == "covariate_effect_sd":
            raise PriorError(
                f"The flat prior of {parameter.key} may leave its posterior improper: predictors "
                f"that separate the values of {covariate.name!r}, or groups of one value, do not "
                "bound it. Use the default, or another proper prior."
            )
    scale = [p.key for p in own if p.kind == "covariate_sd"]
    kinds = ("covariate_mean", "covariate_slope")
    keys = [p.key for p in priors.parameters if p.kind in kinds and p.factor == covariate.name]
    W = covariate.model.W[~np.isnan(covariate.model.reading)]
    columns = W[:, [j for j, key in enumerate(keys) if key in flat]]
    rank = int(np.linalg.matrix_rank(columns)) if columns.size else 0
    if rank == columns.shape[1] and not (scale and len(W) - rank <= 1):
        return
    names = scale or [key for key in keys if key in flat]
    raise PriorError(
        f"The flat prior of {' and '.join(names)} leaves its posterior improper: "
        f"{len(W)} observed values are too few. "
        'Use a proper prior, such as blm.Prior("HalfStudentT", nu=3, sigma=...).'
    )


def _refuse_separated(design: Design, priors: Priors, free: np.ndarray) -> None:
    """Refuse flat coefficients that predict responses without error."""
    direction = separating_direction(free, *pushes(design.family, design.y, design.trials))
    if direction is None:
        return
    flat = [key for key in priors.coefficients if not priors[key].is_proper]
    names = listed(key for key, moves in zip(flat, direction, strict=True) if moves)
    raise PriorError(
        f"The flat prior of {names} leaves the posterior improper: along it predictors and "
        "responses are separated, so that the likelihood never falls off. Use a proper prior, "
        'such as blm.Prior("Normal", mu=0, sigma=...).'
    )


def undetermined(
    design: Design, priors: Priors, direction: np.ndarray, *, proper: bool = True
) -> bool:
    """Whether the data leave a direction of the coefficients open, beside flat ones.

    Parameters
    ----------
    direction : (p,) array
        A change of the coefficients that no proper prior of the others holds.
    proper : bool
        Whether a proper prior is given along it.
    """
    X = _informing_rows(design, priors, direction, proper=proper)
    column = X @ direction
    if np.linalg.norm(column) <= 1e-10 * np.linalg.norm(X * direction):
        return True
    free = _free_directions(design, priors)
    return free.shape[1] in aliased_columns(np.column_stack([free, column]))


def separated(design: Design, priors: Priors, direction: np.ndarray) -> bool:
    """Whether responses are separated along a direction of the coefficients, beside flat ones.

    A flat prior along it then leaves no proper posterior.

    Parameters
    ----------
    direction : (p,) array
        As of :func:`undetermined`.
    """
    column = (design.X * _used(design, priors, direction)[:, None]) @ direction
    columns = np.column_stack([_free_directions(design, priors), column])
    sides = pushes(design.family, design.y, design.trials)
    return separating_direction(columns, *sides) is not None


def needed_unit(design: Design, priors: Priors, units: list[np.ndarray]) -> int | None:
    """The first unit without whose rows a flat coefficient is not determined; None if none.

    Parameters
    ----------
    units : list of int arrays
        Rows of each.
    """
    free = _free_directions(design, priors)
    if not free.shape[1]:
        return None
    Q = np.linalg.qr(free)[0]
    for u, rows in enumerate(units):
        part = Q[rows]
        # the largest share of a direction that these rows hold is at most the trace
        if (part**2).sum() > 1 - 1e-9 and np.linalg.norm(part, 2) ** 2 > 1 - 1e-9:
            return u
    return None


def _free_directions(design: Design, priors: Priors) -> np.ndarray:
    """X v for every direction v of the coefficients that no proper prior holds, one a column.

    Raises
    ------
    PriorError
        If the data say nothing about one of them.
    """
    flat = [j for j, name in enumerate(design.coef_names) if not priors[coef_key(name)].is_proper]
    X = _informing_rows(design, priors)
    # the other combinations of the coefficients keep their priors, such as the intercept at the
    # means: a slope turns the line about them
    columns = X @ np.linalg.inv(priors.combinations())[:, flat]
    length = np.linalg.norm(X[:, flat], axis=0)
    columns[:, np.linalg.norm(columns, axis=0) <= 1e-10 * length] = 0.0
    for j in aliased_columns(columns):
        name = design.coef_names[flat[j]]
        raise PriorError(
            f"The prior of {coef_key(name)} is flat, and the data do not determine it: its column "
            "is constant or a combination of others, so that its posterior would be improper. "
            f'Give it a proper prior, such as blm.Prior("Normal", mu=0, sigma=...), or leave '
            f"{name} out."
        )
    return columns


def _informing_rows(
    design: Design, priors: Priors, *more: np.ndarray, proper: bool = True
) -> np.ndarray:
    """X with zeros in the rows that do not inform, or fewer rows with the same products."""
    if not design.rows_in_memory:
        return design.X_reduced
    return design.X * _used(design, priors, *more, proper=proper)[:, None]


def _used(design: Design, priors: Priors, *more: np.ndarray, proper: bool = True) -> np.ndarray:
    """(n,) 1 for rows that inform, 0 for those of no weight or with an unknown covariate.

    A covariate whose effects all have proper priors, and ``more`` directions of which do not
    change it, leaves every row to the others. Along ``more``, if its prior is ``proper``,
    readings with an error inform too: under a flat one their standard deviation may go to zero.
    """
    used = np.ones(design.n_rows)
    if design.weights is not None:
        used[design.weights <= 0] = 0.0
    if not design.modeled:
        return used
    flat = [j for j, name in enumerate(design.coef_names) if not priors[coef_key(name)].is_proper]
    directions = np.linalg.inv(priors.combinations())[:, flat]
    if not proper:
        directions = np.column_stack([directions, *more])
    for covariate in design.modeled:
        read = covariate.has_reading[covariate.unit]
        if np.any(covariate.X_slope @ directions):
            used[covariate.rows] = 0.0
        elif more and np.any(covariate.X_slope @ np.column_stack(more)):
            used[covariate.rows[~read]] = 0.0
        elif any(map(np.any, covariate.Z_slopes)):
            used[covariate.rows] = 0.0
    return used


def _scaled_columns(
    design: Design, priors: Priors, n_free: int
) -> dict[str, tuple[int, Callable[[], np.ndarray] | None]]:
    """By standard deviation: how fast the likelihood falls at least, and the columns it scales.

    The columns are None where the rows are not in memory.
    """
    found: dict[str, tuple[int, Callable[[], np.ndarray] | None]] = {}
    if not design.family.gaussian:
        bounds = [(b, e, effect) for b in design.blocks for e, effect in enumerate(b.effects)]
        found = {
            sd_key(effect, b.name): (_bounded_levels(design, priors, b, e) - n_free, None)
            for b, e, effect in bounds
        }
        return {**found, "sigma": (design.n_rows - n_free, None)}
    held = design.rows_in_memory
    used = _used(design, priors) if held else np.zeros(0)
    for block in design.blocks:
        for e, effect in enumerate(block.effects):
            key = sd_key(effect, block.name)
            if not held:
                found[key] = (block.n_levels - n_free, None)
                continue
            sizes = np.zeros(block.n_levels)
            np.maximum.at(sizes, block.codes, np.abs(block.Z[:, e]) * used)

            def columns(block=block, e=e):
                out = np.zeros((design.n_rows, block.n_levels))
                out[np.arange(design.n_rows), block.codes] = block.Z[:, e] * used
                return out

            found[key] = (int((sizes > 0).sum()) - n_free, columns)
    if design.residual is None or design.residual.variance.kind != "cells":
        whole = (lambda: np.diag(used)) if held else None
        found["sigma"] = (int(used.sum()) if held else design.n_rows) - n_free, whole
        return found
    for name, cell in zip(
        design.residual.variance.names, design.residual.rows.scale.T, strict=True
    ):
        at = np.flatnonzero(cell * used)
        found[name] = (len(at) - n_free, partial(_unit_columns, design.n_rows, at))
    return found


def _bounded_levels(design: Design, priors: Priors, block: RandomBlock, e: int) -> int:
    """Levels whose effect is held from above and from below by the likelihood of their rows.

    In the others, as in a group of successes alone, the likelihood stays above zero however large
    the standard deviation.
    """
    up, down = pushes(design.family, design.y, design.trials)
    z = block.Z[:, e] * (_used(design, priors) > 0)
    above = np.where(z > 0, ~up, ~down) & (z != 0)
    below = np.where(z > 0, ~down, ~up) & (z != 0)
    held = [np.bincount(block.codes[rows], minlength=block.n_levels) > 0 for rows in (above, below)]
    return int(np.sum(held[0] & held[1]))


def _unit_columns(n: int, at: np.ndarray) -> np.ndarray:
    return np.eye(n)[:, at]


def _refuse_too_few(subset: tuple[str, ...], scales: dict, free: np.ndarray) -> None:
    """Refuse flat priors on a set of standard deviations that the likelihood does not bound."""
    power = max(scales[key][0] for key in subset)
    if power > len(subset):
        return
    makers = [scales[key][1] for key in subset]
    if None not in makers and len(free):
        wide = np.column_stack([free, *(make() for make in makers)])
        power = int(np.linalg.matrix_rank(wide)) - free.shape[1]
    if power > len(subset):
        return
    names, beside = " and ".join(subset), " beside flat coefficients" if free.shape[1] else ""
    raise PriorError(
        f"The flat prior of {names} leaves the posterior improper: the data have only "
        f"{max(power, 0)} independent {'values' if power != 1 else 'value'} of what it scales"
        f"{beside}, and more than {len(subset)} are needed. Use a proper prior, such as "
        'blm.Prior("HalfStudentT", nu=3, sigma=...).'
    )
