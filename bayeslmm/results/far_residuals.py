"""Rows that the fitted model does not explain, though their values are usual ones of the column.

A residual divided by its standard deviation is how far a row lies from its prediction by the other
rows at the same covariance parameters, in standard deviations of that difference (Cook and Weisberg
1982, Residuals and Influence in Regression, section 2.2; with random effects Haslett and Hayes
1998, JRSS B 60(1)). Far is counted in robust standard deviations of all rows, so that the far rows
do not hide each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.errors import listed
from bayeslmm.protocols import is_posterior
from bayeslmm.results.findings import Finding

if TYPE_CHECKING:
    from bayeslmm.protocols import LikelihoodResult, PosteriorResult

__all__ = ["residual_findings", "studentized_residuals"]

#: Robust standard deviations from which a residual is far, times 1 + 10 / n: of ten thousand normal
#: ones the largest is beyond 4.9 in one of a hundred samples.
_FAR, _UNCERTAIN = 8.0, 10.0
#: Rows and most of their names: predictions of more take long.
_FEWEST_ROWS, _QUICK, _NAMED = 12, 20_000, 3
#: Share of the variance of a residual below which a row all but determines its own prediction.
_DETERMINED = 1e-6
_NORMAL_MEDIAN = 0.6745


def studentized_residuals(fit: PosteriorResult | LikelihoodResult) -> np.ndarray:
    """Conditional residuals (n,) in their own standard deviations, given covariance parameters.

    Of rows that determine their own prediction 0. At the posterior means for a posterior.
    """
    raw = fit.residuals().to_numpy()
    normalized = fit.residuals(kind="normalized").to_numpy()
    error = fit.predict()["sd" if is_posterior(fit) else "se"].to_numpy()
    unit = np.divide(raw, normalized, out=np.ones_like(raw), where=normalized != 0)
    rest = 1.0 - (error / unit) ** 2
    usable = rest > _DETERMINED
    return np.where(usable, normalized / np.sqrt(np.where(usable, rest, 1.0)), 0.0)


def residual_findings(fit: PosteriorResult | LikelihoodResult) -> list[Finding]:
    """Rows of Gaussian responses far from what the others predict for them."""
    design = fit.model.design
    usual = design.family.name == "gaussian" and design.residual is None and not design.modeled
    n = design.n_rows
    if not usual or not design.rows_in_memory or not _FEWEST_ROWS <= n <= _QUICK:
        return []
    distance = np.abs(studentized_residuals(fit))
    robust = np.median(distance[distance > 0]) / _NORMAL_MEDIAN if distance.any() else np.inf
    rows = np.flatnonzero(distance > _FAR * (1.0 + _UNCERTAIN / n) * robust)
    if not len(rows):
        return []
    rows = rows[np.argsort(-distance[rows])]
    labels = [design.index[row] for row in rows]
    what = f"Row {labels[0]} is" if len(rows) == 1 else f"Rows {listed(labels, _NAMED)} are"
    times = np.max(distance) / robust
    return [
        Finding(
            "residuals",
            f"{what} far from what the other rows predict: up to {times:.0f} standard deviations, "
            "though no value is far from all others of its column.",
            'Check the value where it was recorded; if it is true, family="student" lets it count '
            "less.",
        )
    ]
