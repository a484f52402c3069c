"""A design in a few lines of text."""

from __future__ import annotations

import numpy as np

from bayeslmm.formula.design import Design

__all__ = ["describe_design", "describe_response"]


def describe_design(design: Design) -> str:
    """The model in a few lines: formula, rows, coefficients, grouping factors."""
    dropped = design.missing.describe() or "none left out"
    lines = [
        f"{'Linear mixed model' if design.family.gaussian else 'Mixed model'}: "
        f"{design.formula.text}",
        *([] if design.family.gaussian else [describe_response(design)]),
        f"Rows: {design.n_rows} used ({dropped})",
        f"Coefficients: {', '.join(design.coef_names) or 'none'}",
    ]
    if not design.blocks:
        lines.append("Random effects: none (complete pooling)")
    statistics = design.statistics
    for block, covariates in zip(design.blocks, statistics.blocks, strict=True):
        low, high = covariates.counts.min(), covariates.counts.max()
        rows = f"{low}" if low == high else f"{low} to {high}"
        parts = [
            " ~ ".join(block.effects[i] for i in part) + (" (correlated)" if len(part) > 1 else "")
            for part in block.pattern
        ]
        lines.append(
            f"Random effects by {block.name}: {block.n_levels} levels of {rows} rows; "
            f"{'; '.join(parts)}"
        )
        if block.relationship is not None:
            kind = "covariance" if block.relationship.precision is None else "precision"
            without = int(np.sum(covariates.counts == 0))
            lines.append(
                f"  levels related by a known {kind}"
                + (f", {without} of them without rows" if without else "")
            )
    for covariate in design.modeled:
        model, kind = covariate.model, "true" if covariate.measured else "missing"
        text = model.text or f"{covariate.name} ~ 1"
        text = f"{covariate.name} {text}" if text.lstrip().startswith("~") else text
        logit = "" if covariate.values is None else f", logit of {covariate.values[1]}"
        lines.append(f"Unknown: {covariate.n_unknown} {kind} values of {text}{logit}")
    if design.residual is not None:
        lines.append(f"Residuals: {design.residual.describe()}")
    if statistics.has_offset:
        lines.append("Offset: yes")
    if design.se_name is not None:
        lines.append(f"Standard errors of the rows, known: {design.se_name}")
    if design.weights_name is not None:
        lines.append(f"Weights: {design.weights_name}")
    return "\n".join(lines)


def describe_response(design: Design) -> str:
    """Family, link, trials and categories of a response that is not Gaussian, in a line."""
    family, categories, trials = design.family, design.categories, design.trials
    link = f"{family.link.name} link"
    if family.name == "lognormal":
        link = "its logarithm is normal"
    parts = [f"{family.name}, {link}"]
    if family.name == "ordinal":
        parts.append(f"{len(categories)} categories: {' < '.join(categories)}")
    elif categories:
        parts.append(f"the event is {categories[1]}, not {categories[0]}")
    if trials is not None:
        low, high = trials.min(), trials.max()
        parts.append(f"trials: {low:g}" + (f" to {high:g}" if high > low else ""))
    return f"Response: {design.response}; {'; '.join(parts)}"
