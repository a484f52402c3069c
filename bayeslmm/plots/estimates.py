"""What plots ask of either fit, so that one function draws both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.bayes.tree import linear_predictor
from bayeslmm.errors import PlotError, listed, suggestion
from bayeslmm.formula import Design
from bayeslmm.formula.matrices import ModelMatrix
from bayeslmm.formula.random import RandomBlock
from bayeslmm.protocols import is_posterior

if TYPE_CHECKING:
    from bayeslmm.protocols import LikelihoodResult, PosteriorResult

__all__ = [
    "block_of",
    "center",
    "coefficients",
    "effects",
    "fitted_values",
    "how_many",
    "is_posterior",
    "pick",
    "sampled",
    "scale_of",
    "units",
]


def center(table: pd.DataFrame) -> pd.Series:
    """The point estimates of a table: posterior means, or estimates."""
    return table["mean"] if "mean" in table.columns else table["estimate"]


def coefficients(fit: PosteriorResult | LikelihoodResult) -> np.ndarray:
    """Point estimates of the coefficients, shape (p,); 0 where one is aliased."""
    design = fit.model.design
    beta = np.zeros(len(design.coef_names))
    if is_posterior(fit):
        if len(beta):
            beta[:] = fit.posterior["beta"].mean(("chain", "draw")).to_numpy()
        return beta
    beta[fit.kept] = fit._solution.beta
    return beta


def effects(fit: PosteriorResult | LikelihoodResult) -> list[np.ndarray]:
    """Point estimates of the random effects, one (levels, q) array per grouping factor."""
    if not is_posterior(fit):
        return list(fit._solution.b)
    posterior = fit.posterior
    return [posterior[f.b].mean(("chain", "draw")).to_numpy() for f in fit.names.factors]


def fitted_values(fit: PosteriorResult | LikelihoodResult) -> np.ndarray:
    """Linear predictor of the fitted rows at the point estimates, shape (n,).

    The predictor is linear, so this is its posterior mean too, without an array of draws by rows.
    """
    design = fit.model.design
    if design.modeled and is_posterior(fit):  # unknown covariates times coefficients are not linear
        return linear_predictor(design, fit.names, fit.posterior).mean(axis=(0, 1))
    values = design.offset + design.X @ coefficients(fit)
    for block, b in zip(design.blocks, effects(fit), strict=True):
        values = values + np.einsum("nq,nq->n", block.Z, b[block.codes])
    return values


def block_of(design: Design, factor: str | None) -> RandomBlock:
    """A grouping factor's block; the first one by default.

    Raises
    ------
    PlotError
        If there is no such factor, or none at all.
    """
    if not design.blocks:
        raise PlotError("The model has no random effects, so there are no groups to draw.")
    if factor is None:
        return design.blocks[0]
    pick("grouping factor", [factor], [block.name for block in design.blocks])
    return design.block(factor)


def pick(what: str, wanted: str | Iterable, available: Sequence) -> list:
    """Those of `available` that are asked for, in the order asked; numbers match their text.

    Raises
    ------
    PlotError
        If one is not available; close matches are named.
    """
    if isinstance(wanted, str) or not isinstance(wanted, Iterable):
        wanted = [wanted]
    by_text = {str(value): value for value in available}
    chosen = []
    for value in wanted:
        if str(value) not in by_text:
            hint, shown = suggestion(str(value), by_text), listed(by_text, 12) or "none"
            raise PlotError(f"There is no {what} {value!r} to draw.{hint} There are: {shown}.")
        chosen.append(by_text[str(value)])
    if not chosen:
        raise PlotError(f"No {what} was asked for: name at least one.")
    return list(dict.fromkeys(chosen))


def units(matrices: Iterable[ModelMatrix | Design]) -> dict[str, str]:
    """The numbers that each column is of, such as ``"Days"``; "" for intercepts and factors.

    Coefficients (and standard deviations of effects) of the same numbers have the same unit.
    """
    found: dict[str, str] = {}
    for matrix in matrices:
        names = matrix.coef_names if isinstance(matrix, Design) else matrix.names
        for term in matrix.terms:
            numbers = [part for part in term.components if part not in term.categorical]
            found |= dict.fromkeys(names[term.columns], " * ".join(numbers))
    return found


def scale_of(design: Design, unit: str) -> str:
    """The unit of a coefficient in words: "Reaction per Days"."""
    scale = design.response if design.family.gaussian else "linear predictor"
    return f"{scale} per {unit}" if unit else scale


def how_many(groups, most: int) -> int | None:
    """How many groups to draw; None where they are named.

    Raises
    ------
    PlotError
        If the number is not positive.
    """
    if groups is None:
        return most
    if isinstance(groups, bool) or not isinstance(groups, int | np.integer):
        return None
    if groups < 1:
        raise PlotError(f"groups must be a positive number or a list of levels, not {groups!r}.")
    return int(groups)


def sampled(block: RandomBlock, groups, most: int) -> tuple[np.ndarray, str | None]:
    """Codes of the levels to draw and, where not all are, a note that says so.

    Parameters
    ----------
    block : RandomBlock
    groups : int, sequence of levels, or None
        How many, which, or as many as `most`.
    most : int
        Beyond this many a sample is drawn, always the same one.

    Raises
    ------
    PlotError
        If a level is not there or the number is not positive.
    """
    count = how_many(groups, most)
    if count is None:
        chosen = pick(f"level of {block.name}", groups, block.levels)
        codes = np.array([block.levels.index(level) for level in chosen])
        if len(codes) == block.n_levels:
            return codes, None
        return codes, f"{len(codes)} of {block.n_levels:,} levels of {block.name}"
    if count >= block.n_levels:
        return np.arange(block.n_levels), None
    codes = np.sort(np.random.default_rng(0).choice(block.n_levels, count, replace=False))
    return codes, f"a sample of {count} of {block.n_levels:,} levels of {block.name}"
