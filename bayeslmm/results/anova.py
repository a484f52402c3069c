"""Analysis-of-variance tables of a likelihood fit."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.errors import PACKAGE, ModelWarning
from bayeslmm.formula import Design
from bayeslmm.formula.cells import FixedCells, fixed_cells
from bayeslmm.gaussian import single_threaded_blas
from bayeslmm.likelihood.columnspace import ColumnSpace
from bayeslmm.likelihood.hypotheses import (
    after_all_others,
    after_some,
    annihilator,
    of_means,
    span,
)
from bayeslmm.likelihood.inference import f_probability

if TYPE_CHECKING:
    from bayeslmm.protocols import LikelihoodResult

__all__ = ["anova_table"]

_SEEN = 1e-6


def anova_table(fit: LikelihoodResult, type: int, ddf: str | None) -> pd.DataFrame:
    """One row per fixed term but the intercept; see ``LikelihoodFit.anova``.

    Raises
    ------
    ValueError
        If `type` is not 1, 2 or 3.
    """
    if type not in (1, 2, 3) or isinstance(type, bool):
        raise ValueError(f"type must be 1, 2 or 3, not {type!r}.")
    design = fit.design
    columns = ["numdf", "dendf", "F", "p"]
    if not any(term.name != "Intercept" for term in design.terms):
        return pd.DataFrame(columns=columns, index=pd.Index([], name="term"), dtype=float)
    with single_threaded_blas():
        hypotheses = term_hypotheses(design, fit.column_space, type)
    inference = fit.inference(ddf)
    rows: list = []
    names: list[str] = []
    nothing: list[str] = []
    empty: list[str] = []
    for term, L in zip(design.terms, hypotheses, strict=True):
        if not term.components:
            continue
        names.append(term.name)
        if L is None or len(L) == 0:
            (empty if L is None else nothing).append(term.name)
            rows.append((np.nan, np.nan, np.nan, np.nan))
            continue
        statistic, numerator, denominator = inference.f_test(L, fit._solution.beta)
        p = f_probability(statistic, numerator, denominator)
        rows.append((numerator, denominator, statistic, p))
    _tell_untested(type, nothing, empty)
    return pd.DataFrame(rows, columns=columns, index=pd.Index(names, name="term"))


def _tell_untested(type: int, nothing: list[str], empty: list[str]) -> None:
    reasons = []
    if empty:
        reasons.append(
            f"No type {type} test of {', '.join(empty)}: it compares means over cells some of "
            "which have no rows or are not estimable. Type 2 compares what was observed."
        )
    if nothing:
        reasons.append(
            f"No type {type} test of {', '.join(nothing)}: nothing of it is left beside the "
            "other terms, of which its columns are combinations."
        )
    if reasons:
        warnings.warn(" ".join(reasons), ModelWarning, skip_file_prefixes=PACKAGE)


def term_hypotheses(design: Design, columns: ColumnSpace, type: int) -> list[np.ndarray | None]:
    """Hypothesis matrix of each term, on the columns that are kept; None where cells lack."""
    cells = fixed_cells(design)
    spaces = [columns.coordinates(cells.space(at)) for at in range(len(cells.terms))]
    own = [
        np.flatnonzero(np.isin(columns.kept, cells.own_columns(at)))
        for at in range(len(cells.terms))
    ]
    if type == 1:
        return list(_sequential(columns, spaces, own))
    hypotheses: list[np.ndarray | None] = []
    for at in range(len(cells.terms)):
        above = cells.containing(at)
        others = [spaces[j] for j in range(len(spaces)) if j != at and j not in above]
        before = np.hstack([*others, np.empty((len(columns.R), 0))])
        if not above:
            hypotheses.append(after_all_others(columns, before, own[at]))
        elif type == 2:
            hypotheses.append(after_some(columns, span(before), spaces[at], own[at]))
        else:
            hypotheses.append(_of_equal_cells(design, cells, columns, at, own[at]))
    return hypotheses


def _sequential(columns: ColumnSpace, spaces: list[np.ndarray], own: list[np.ndarray]):
    before = np.empty((len(columns.R), 0))
    for H, mine in zip(spaces, own, strict=True):
        yield after_some(columns, before, H, mine)
        before = np.hstack([before, span(H, before)])


def _of_equal_cells(
    design: Design, cells: FixedCells, columns: ColumnSpace, at: int, own: np.ndarray
) -> np.ndarray | None:
    """Type III of a term that others contain: its means over their cells, equally weighted.

    Compared are means of the function that multiplies the term's covariates, by contrasts that
    sum to zero over all that terms not containing this one can tell apart.
    """
    term = cells.terms[at]

    def observed(factors: tuple[str, ...]) -> np.ndarray:
        return _observed(design, cells, columns, factors)

    found, rows = cells.mean_rows(at, observed)
    frame = pd.DataFrame(found, index=range(len(rows)))
    groups = [np.empty((len(rows), 0))]
    for other in cells.terms:
        if other.covariates == term.covariates and not term.factors <= other.factors:
            shared = sorted(other.factors & term.factors)
            number = frame.groupby(shared).ngroup() if shared else np.zeros(len(rows), dtype=int)
            groups.append(np.eye(np.max(number) + 1)[np.asarray(number)])
    contrasts = annihilator(np.hstack(groups))
    means = np.concatenate([rows[:, :, k] for k in range(rows.shape[2])])
    contrasts = np.kron(np.eye(rows.shape[2]), contrasts)
    return of_means(columns, means, contrasts, own)


def _observed(
    design: Design, cells: FixedCells, columns: ColumnSpace, factors: tuple[str, ...]
) -> np.ndarray:
    """Level codes (m, number of factors) of the combinations that have rows."""
    at = next(i for i, term in enumerate(cells.terms) if term.factors >= set(factors))
    directions = cells.indicators(at, factors)
    lengths = np.linalg.norm(
        columns.R @ columns.coordinates(directions.reshape(len(directions), -1)), axis=0
    )
    lengths = lengths.reshape(directions.shape[1:]).max(axis=1)
    seen = np.flatnonzero(lengths > _SEEN * lengths.max())
    shape = [cells.levels[name] for name in factors]
    return np.column_stack(np.unravel_index(seen, shape))
