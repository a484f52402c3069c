"""Residual structures that likelihood does not determine, and standard deviations that vanish."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.errors import DataError
from bayeslmm.formula import Design
from bayeslmm.gaussian import single_threaded_blas
from bayeslmm.gaussian.system import StructuredProblem, Theta
from bayeslmm.likelihood.unbounded import (
    collapsing_cells,
    collapsing_correlation,
    collapsing_tail,
)

if TYPE_CHECKING:
    from bayeslmm.gaussian import Solution

__all__ = [
    "refuse_confounded",
    "refuse_determined_cells",
    "refuse_unbounded_structure",
    "vanishing_cells",
]

#: A standard deviation this small beside the residuals' is looked at.
_SMALL = 0.02
#: Change of the deviance that means that there is no difference.
_FLAT = 1e-3


def refuse_determined_cells(design: Design, kept: np.ndarray) -> None:
    """Refuse a cell whose rows the coefficients reproduce whatever the responses are.

    Such rows have leverage one under any weights, so the residuals of the cell are zero: its
    standard deviation is not in the restricted likelihood, and the likelihood grows without bound
    as it goes to 0.

    Raises
    ------
    DataError
    """
    variance, scale = design.stated_residual.variance, design.stated_residual.rows.scale
    if variance.kind != "cells" or not len(kept):
        return
    basis = np.linalg.qr(design.X[:, kept])[0]
    left = scale.T @ np.maximum(1.0 - np.einsum("ij,ij->i", basis, basis), 0.0)
    counts = scale.sum(axis=0)
    for name, count, degrees in zip(variance.names, counts, left, strict=True):
        if degrees < 1e-8 * count:
            rows = "1 row" if count == 1 else f"{int(count)} rows"
            raise DataError(
                f"{name}: its {rows} would be fitted perfectly by coefficients of their own, so "
                "nothing is said about their standard deviation. Join the cell with another, or "
                "leave the coefficient out."
            )


def vanishing_cells(
    design: Design, problem: StructuredProblem, theta: Theta, solution: Solution
) -> list[str]:
    """Names of standard deviations of cells without which the likelihood is no worse."""
    variance = design.stated_residual.variance
    if variance.kind != "cells":
        return []
    flat, found = problem.prior(None), []
    for c in np.flatnonzero(np.exp(theta.eta) < _SMALL * problem.spread):
        eta = theta.eta.copy()
        eta[c] -= np.log(10.0)
        smaller = Theta(theta.F, eta, theta.c)
        value = problem.evaluate(smaller, flat, not solution.reml, False)[0]
        if value > solution.loglik - _FLAT:
            found.append(variance.names[c])
    return found


def refuse_unbounded_structure(
    design: Design, problem: StructuredProblem, theta: Theta, kept: np.ndarray, *, reml: bool
) -> None:
    """Refuse a likelihood that grows forever as residual variances vanish.

    Raises
    ------
    DataError
    """
    end = "" if reml else " (reml() has one more often)"
    no_maximum = f"the {'restricted ' if reml else ''}likelihood has no maximum{end}"
    X, y = design.X[:, kept], design.y - design.offset
    residual = design.stated_residual
    with single_threaded_blas():
        if residual.variance.kind == "cells":
            cells = collapsing_cells(problem, theta, X, reml=reml)
            if cells is not None:
                names = ", ".join(residual.variance.names[c] for c in cells)
                raise DataError(
                    f"{names}: coefficients and random effects can fit these rows perfectly, so "
                    f"that {no_maximum}. Join the cells with others, leave terms out, or use "
                    "model.fit(), where the priors decide."
                )
        elif not reml and (column := collapsing_tail(problem, X)) is not None:
            raise DataError(
                f"{residual.variance.names[column]}: the coefficients can fit the rows at "
                f"one end of it perfectly, so that {no_maximum}. Leave terms out, or use "
                "model.fit(), where the priors decide."
            )
        if collapsing_correlation(problem, theta, X, y, reml=reml):
            few = "groups with the same times" if problem.structure.n_times else "groups"
            raise DataError(
                f"residual={residual.syntax.text!r}: there are too few {few} for so many "
                "coefficients and correlations. A combination of the residuals can be 0 in all of "
                f"them, so that {no_maximum}: it grows forever as the residual correlation matrix "
                "becomes singular. Use a structure with fewer correlations, leave coefficients "
                "out, or use model.fit(), where the priors decide."
            )


def refuse_confounded(design) -> None:
    """Refuse random effects that the residual structure already is.

    Raises
    ------
    DataError
        If a random intercept of the residual's own groups stands beside compound symmetry or an
        unstructured covariance, or any effect of time alone beside one with a variance per time.
    """
    residual = design.residual
    if residual.kind not in ("cs", "unstructured"):
        return
    per_time = residual.kind == "unstructured" and residual.variance.kind == "cells"
    for block in design.blocks:
        if frozenset(block.factor.columns) != frozenset(residual.factor.columns):
            continue
        for effect, column in zip(block.effects, block.Z.T, strict=True):
            if _constant(column, residual.rows.time if per_time else np.zeros(design.n_rows)):
                raise DataError(
                    f"residual={residual.syntax.text!r} already holds the covariance that the "
                    f"random effect {effect!r} of {block.name!r} gives: likelihood cannot tell "
                    "them apart. Leave one out."
                )


def _constant(values: np.ndarray, within: np.ndarray) -> bool:
    """Whether values are the same wherever `within` is."""
    order = np.argsort(within, kind="stable")
    same = np.diff(within[order]) == 0
    return bool(np.all(np.diff(values[order])[same] == 0))
