"""Estimates of one model for many responses of the same rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError
from bayeslmm.formula.responses import check_support
from bayeslmm.likelihood.thresholds import PERFECT
from bayeslmm.progress import progress
from bayeslmm.results.printing import Table, format_table

if TYPE_CHECKING:
    from bayeslmm.protocols import LikelihoodResult

__all__ = ["Refits", "refit_many"]


@dataclass(frozen=True)
class Refits:
    """What ``LikelihoodFit.refit_many`` gives, a row per response.

    Attributes
    ----------
    coefficients : pandas.DataFrame, shape (m, p)
        NaN for aliased ones; indexed as the columns of the responses.
    standard_errors : pandas.DataFrame, shape (m, p)
        Unadjusted.
    components : pandas.DataFrame, shape (m, components)
        Standard deviations and correlations, named as by ``LikelihoodFit.components``; NaN for a
        correlation with an effect that does not vary.
    theta : ndarray, shape (m, r)
        As ``LikelihoodFit.theta``.
    loglik : ndarray, shape (m,)
        Log-likelihoods, restricted for REML.
    converged, singular : ndarray of bool, shape (m,)
        Where ``converged`` is False estimates are not to be trusted; a response that the model
        reproduces up to rounding, which ``refit`` refuses, is among them.
    """

    coefficients: pd.DataFrame
    standard_errors: pd.DataFrame
    components: pd.DataFrame
    theta: np.ndarray
    loglik: np.ndarray
    converged: np.ndarray
    singular: np.ndarray

    def __len__(self) -> int:
        return len(self.loglik)

    def __repr__(self) -> str:
        count = f"{len(self)} refits, {int(self.singular.sum())} singular"
        if not self.converged.all():
            count += f", {int((~self.converged).sum())} not converged"
        table = pd.concat([self.coefficients, self.components], axis=1).describe().T
        return f"{count}\n{format_table(table[['mean', 'std', 'min', 'max']])}"


def refit_many(fit: LikelihoodResult, Y, progressbar: bool) -> Refits:
    """See ``LikelihoodFit.refit_many``."""
    values, index = _responses(fit, Y)
    design, m = fit.design, len(values)
    names = design.coef_names
    beta, errors = np.full((m, len(names)), np.nan), np.full((m, len(names)), np.nan)
    components = np.empty((m, len(fit.components())))
    theta, loglik = np.empty((m, len(fit.theta))), np.empty(m)
    converged, singular = np.empty(m, dtype=bool), np.empty(m, dtype=bool)
    refits = fit.reestimates(iter(values))
    for i, found in enumerate(progress(refits, "Refits", show=progressbar, total=m)):
        solution = found.solution
        beta[i, fit.kept] = solution.beta
        errors[i, fit.kept] = np.sqrt(np.diagonal(solution.vcov))
        components[i], theta[i], loglik[i] = found.components, solution.theta, solution.loglik
        perfect = solution.sigma <= PERFECT * values[i].std(ddof=1)
        converged[i], singular[i] = found.converged and not perfect, found.singular
    return Refits(
        Table(beta, index=index, columns=names),
        Table(errors, index=index, columns=names),
        Table(components, index=index, columns=list(fit.components().index)),
        theta, loglik, converged, singular,
    )  # fmt: skip


def _responses(fit: LikelihoodResult, Y) -> tuple[np.ndarray, pd.Index]:
    """Responses (m, n), and what they are called."""
    index = Y.columns if isinstance(Y, pd.DataFrame) else None
    try:
        values = np.asarray(Y, dtype=float)
    except (TypeError, ValueError):
        raise DataError("refit_many needs numbers, one column per response.") from None
    n = fit.design.n_rows
    if values.ndim != 2 or len(values) != n or not np.all(np.isfinite(values)):
        raise DataError(
            f"refit_many needs finite numbers in {n} rows, one per row used, and a column per "
            f"response; this has shape {values.shape}."
        )
    values, design = np.ascontiguousarray(values.T), fit.design
    for y in values:
        check_support(design.family, y, design.trials, design.response, design.index)
    return values, pd.RangeIndex(len(values)) if index is None else index
