"""Analysis-of-variance tables of a likelihood fit."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.errors import ModelWarning
from bayeslmm.formula import Design
from bayeslmm.formula.sumcoding import sum_coded
from bayeslmm.likelihood.hypotheses import (
    in_own_coefficients,
    marginal_hypotheses,
    sequential_hypotheses,
    sum_coded_hypotheses,
)
from bayeslmm.likelihood.inference import f_probability

if TYPE_CHECKING:
    from bayeslmm.results.likelihood import LikelihoodFit

__all__ = ["anova_table"]


def anova_table(fit: LikelihoodFit, type: int, ddf: str) -> pd.DataFrame:
    """One row per fixed term but the intercept; see ``LikelihoodFit.anova``.

    Raises
    ------
    ValueError
        If `type` is not 1, 2 or 3.
    """
    if type not in (1, 2, 3) or isinstance(type, bool):
        raise ValueError(f"type must be 1, 2 or 3, not {type!r}.")
    design, kept = fit.design, fit.kept
    columns = ["numdf", "dendf", "F", "p"]
    if not any(term.name != "Intercept" for term in design.terms):
        return pd.DataFrame(columns=columns, index=pd.Index([], name="term"), dtype=float)
    hypotheses = term_hypotheses(design, kept, type)
    inference = fit.inference(ddf)
    rows, untestable = {}, []
    for term, L in zip(design.terms, hypotheses, strict=True):
        if term.name == "Intercept":
            continue
        if L is None or len(L) == 0:
            untestable.append(term.name)
            rows[term.name] = (np.nan, np.nan, np.nan, np.nan)
            continue
        statistic, numerator, denominator = inference.f_test(L, fit._solution.beta)
        p = f_probability(statistic, numerator, denominator)
        rows[term.name] = (numerator, denominator, statistic, p)
    if untestable:
        warnings.warn(
            f"No type {type} test of {', '.join(untestable)}: some cells have no rows, or its "
            "columns are aliased.",
            ModelWarning,
            stacklevel=3,
        )
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    table.index.name = "term"
    return table


def term_hypotheses(design: Design, kept: np.ndarray, type: int) -> list[np.ndarray | None]:
    """Hypothesis matrix of each term, on the columns that are kept."""
    X = design.X_reduced[:, kept]
    columns = [
        np.flatnonzero((kept >= term.columns.start) & (kept < term.columns.stop))
        for term in design.terms
    ]
    if type == 1:
        return list(sequential_hypotheses(X, columns))
    if type == 2:
        return list(marginal_hypotheses(X, columns, _containments(design)))
    X_sum, owner = sum_coded(design)
    found = sum_coded_hypotheses(X, X_sum, owner, len(design.terms))
    hypotheses: list[np.ndarray | None] = []
    for L, own, term in zip(found, columns, design.terms, strict=True):
        # a term with an aliased column has lost part of its hypothesis
        complete = len(own) == term.columns.stop - term.columns.start
        hypotheses.append(None if L is None or not complete else in_own_coefficients(L, own))
    return hypotheses


def _containments(design: Design) -> list[list[int]]:
    """Per term, the terms that have its factors and more, and the same covariates."""
    parts = [
        (frozenset(t.categorical), frozenset(t.components) - frozenset(t.categorical))
        for t in design.terms
    ]
    return [
        [
            j
            for j, (factors, covariates) in enumerate(parts)
            if j != i and parts[i][0] < factors and covariates == parts[i][1]
        ]
        for i in range(len(parts))
    ]
