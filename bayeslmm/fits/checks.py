"""What to look at before a model's data or a fit are trusted, gathered from every check."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.errors import BayesLMMError, DataWarning
from bayeslmm.protocols import is_posterior
from bayeslmm.results.far_residuals import residual_findings
from bayeslmm.results.far_values import far_findings
from bayeslmm.results.findings import Finding
from bayeslmm.results.influence import influence_findings
from bayeslmm.results.predictive_check import predictive_findings

if TYPE_CHECKING:
    from bayeslmm.protocols import LikelihoodResult, Model, PosteriorResult

__all__ = ["findings_of", "fit_findings", "model_findings", "said", "warn_of_data"]

#: Standard errors by which pairs of a group disagree more than independent rows would.
_APART = 2.5


def model_findings(model: Model) -> list[Finding]:
    """Of the data, before any fit."""
    return far_findings(model.design)


def warn_of_data(model: Model, stacklevel: int) -> None:
    """Warn of what is gross in the data; see :func:`bayeslmm.results.far_values.far_findings`."""
    for finding in model_findings(model):
        if finding.gross:
            warnings.warn(str(finding), DataWarning, stacklevel=stacklevel + 1)


def fit_findings(fit: PosteriorResult | LikelihoodResult) -> list[Finding]:
    """Of the data and of the fit."""
    from bayeslmm.reanalysis.conflicts import conflicting_priors

    found = model_findings(fit.model)
    found = [*(found or residual_findings(fit)), *influence_findings(fit)]  # a far value is one row
    if not is_posterior(fit):
        return found + _boundary(fit)
    if fit.model.design.rows_in_memory:
        found += predictive_findings(fit)
    return found + conflicting_priors(fit.model)


def said(findings: list[Finding]) -> list[str]:
    """Lines for a description."""
    return [f"Check ({finding.check}): {finding}" for finding in findings]


def _boundary(fit: LikelihoodResult) -> list[Finding]:
    """What a singular fit hints at."""
    found = []
    if fit.singular:
        parts = [b for b in fit.design.blocks if any(len(part) > 1 for part in b.pattern)]
        remedy = "Leave out the effect that vanished, or say that its variance was estimated as 0"
        if parts:
            remedy = (
                f"Write (... || {parts[0].name}), without correlations, or fewer effects; or use "
                "fit(), whose priors keep the correlations off the boundary"
            )
        text = "; ".join(fit.singular_components)
        found.append(Finding("boundary", f"{text[0].upper()}{text[1:]}.", f"{remedy}."))
    return found + _repelled(fit)


def _repelled(fit: LikelihoodResult) -> list[Finding]:
    """Groups whose rows are less alike than rows of different groups.

    The sum over pairs of rows of a group of products of least-squares residuals, beside its mean
    and standard deviation where rows are independent.
    """
    design = fit.design
    usual = design.family.gaussian and design.residual is None and design.weights is None
    if not usual or not design.rows_in_memory or len(design.blocks) != 1 or not fit.singular:
        return []
    block = design.blocks[0]
    if tuple(block.effects) != ("Intercept",) or block.relationship is not None:
        return []
    Q = np.linalg.qr(design.X[:, fit.kept])[0]
    y = design.y - design.offset
    r, J = y - Q @ (Q.T @ y), block.n_levels
    counts = np.bincount(block.codes, minlength=J)
    sigma2 = r @ r / max(design.n_rows - Q.shape[1], 1)
    pairs = np.sum(np.bincount(block.codes, r, minlength=J) ** 2) - r @ r
    sums = [np.bincount(block.codes, q, minlength=J) for q in Q.T]
    mean = -sigma2 * (np.sum(np.square(sums)) - np.sum(Q**2))
    sd = sigma2 * np.sqrt(2.0 * np.sum(counts * (counts - 1.0)))
    if sd == 0 or pairs - mean > -_APART * sd:
        return []
    return [
        Finding(
            "boundary",
            f"Rows of a level of {block.name} are less alike than rows of different levels: their "
            "correlation is negative, which a random intercept cannot be.",
            f'Leave (1 | {block.name}) out and use residual="cs({block.name})", whose correlation '
            "may be negative.",
        )
    ]


def findings_of(fit) -> list[Finding]:
    """Those of a fit, computed once; a check that cannot be made finds nothing."""
    if "_findings" not in fit.__dict__:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                fit.__dict__["_findings"] = fit_findings(fit)
            except BayesLMMError:
                fit.__dict__["_findings"] = model_findings(fit.model)
    return fit.__dict__["_findings"]
