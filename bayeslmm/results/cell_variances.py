"""Residual standard deviations of cells that the data do not determine, or that vanish."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.errors import DataError
from bayeslmm.formula import Design
from bayeslmm.gaussian.system import Theta

if TYPE_CHECKING:
    from bayeslmm.protocols import StructuredResult

__all__ = ["refuse_determined_cells", "vanishing"]

#: A standard deviation this small beside the residuals' is looked at.
_SMALL = 0.02
#: Change of the deviance that means that there is no difference.
_FLAT = 1e-3


def refuse_determined_cells(design: Design, kept: list[int]) -> None:
    """Refuse a cell whose rows the coefficients reproduce whatever the responses are.

    Such rows have leverage one under any weights, so the residuals of the cell are zero: its
    standard deviation is not in the restricted likelihood, and the likelihood grows without bound
    as it goes to 0.

    Raises
    ------
    DataError
    """
    variance, scale = design.stated_residual.variance, design.stated_residual.rows.scale
    if variance.kind != "cells" or not kept:
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


def vanishing(fit: StructuredResult) -> list[str]:
    """Names of standard deviations of cells without which the likelihood is no worse."""
    variance, problem = fit.design.stated_residual.variance, fit._problem
    if variance.kind != "cells":
        return []
    theta, flat, found = fit._theta, problem.prior(None), []
    for c in np.flatnonzero(np.exp(theta.eta) < _SMALL * problem.spread):
        eta = theta.eta.copy()
        eta[c] -= np.log(10.0)
        smaller = Theta(theta.F, eta, theta.c)
        if problem.evaluate(smaller, flat, not fit.reml, False)[0] > fit.loglik - _FLAT:
            found.append(variance.names[c])
    return found
