"""How much studies differ: tau^2, I^2, H^2, Q and a new study's effect, in a meta-analysis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import chdtrc, stdtrit

from bayeslmm.errors import DataError
from bayeslmm.parts.parameters import sd_key
from bayeslmm.results.intervals import confidence_intervals

if TYPE_CHECKING:
    from bayeslmm.protocols import LikelihoodResult

__all__ = ["Studies", "heterogeneity_table", "studies_of"]


@dataclass(frozen=True)
class Studies:
    """k estimates that are independent given their means, with Var(y) = diag(variance + tau2).

    Attributes
    ----------
    y : (k,) array
        Less the offset.
    X : (k, p) array
        Columns of the estimated coefficients.
    variance : (k,) array
        Known sampling variances.
    tau2 : float
        Estimated variance between studies.
    component : str
        Name of its square root.
    """

    y: np.ndarray
    X: np.ndarray
    variance: np.ndarray
    tau2: float
    component: str

    @property
    def df(self) -> int:
        """k - p."""
        return len(self.y) - self.X.shape[1]


def studies_of(fit: LikelihoodResult, what: str) -> Studies:
    """The studies of a random-effects meta-analysis, one row each.

    Parameters
    ----------
    what : str
        What is asked for, for messages.

    Raises
    ------
    DataError
        If the model is another one.
    """
    design, sigma = fit.design, fit._engine.known_sigma
    needs = f"{what} is for a meta-analysis of one row per study, y | se(s) ~ ... + (1 | study)"
    if sigma is None:
        raise DataError(f"{needs}: here the residual standard deviation is estimated.")
    if len(design.blocks) != 1:
        factors = ", ".join(block.name for block in design.blocks) or "none"
        raise DataError(f"{needs}: here the grouping factors are {factors}.")
    block = design.blocks[0]
    if block.effects != ("Intercept",) or block.relationship is not None:
        raise DataError(f"{needs}: here {block.name!r} has other effects than independent means.")
    if block.n_levels < design.n_rows:
        raise DataError(
            f"{needs}: here {design.n_rows} rows are of {block.n_levels} levels of "
            f"{block.name!r}, which are not independent."
        )
    if design.n_rows <= len(fit.kept):
        raise DataError(f"{needs}: there are as many coefficients as studies.")
    weights = np.ones(design.n_rows) if design.weights is None else design.weights
    return Studies(
        design.y - design.offset,
        design.X[:, fit.kept],
        sigma**2 / weights,
        float(fit._solution.Sigmas[0][0, 0]),
        sd_key("Intercept", block.name),
    )


def heterogeneity_table(fit: LikelihoodResult, level: float) -> pd.DataFrame:
    """See ``LikelihoodFit.heterogeneity``."""
    studies = studies_of(fit, "heterogeneity()")
    w, df = 1.0 / studies.variance, studies.df
    WX = studies.X * w[:, None]
    inverse = np.linalg.inv(studies.X.T @ WX)
    residuals = studies.y - studies.X @ (inverse @ (WX.T @ studies.y))
    Q = float(np.sum(w * residuals**2))
    typical = df / float(w.sum() - np.trace(inverse @ (WX.T @ WX)))  # (k - p) / tr(P)
    limits = confidence_intervals(fit, "profile", level, [studies.component], 0, None, False)
    tau2 = np.array([studies.tau2, *limits[["lower", "upper"]].to_numpy()[0] ** 2])
    rows = {
        "tau2": [*tau2, np.nan, np.nan],
        "I2": [*(tau2 / (tau2 + typical)), np.nan, np.nan],
        "H2": [*(1.0 + tau2 / typical), np.nan, np.nan],
        "Q": [Q, np.nan, np.nan, df, float(chdtrc(df, Q))],
    }
    if studies.X.shape[1] == 1 and np.ptp(studies.X) == 0:
        mean, k = float(studies.X[0, 0] * fit._solution.beta[0]), len(studies.y)
        spread = np.sqrt(studies.tau2 + studies.X[0, 0] ** 2 * fit._solution.vcov[0, 0])
        half = float(stdtrit(k - 2, 0.5 + level / 2) * spread) if k > 2 else np.nan
        rows["new study"] = [mean, mean - half, mean + half, k - 2, np.nan]
    columns = ["estimate", "lower", "upper", "df", "p"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    return table.rename_axis("heterogeneity")
