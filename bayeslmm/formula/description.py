"""A design in a few lines of text."""

from __future__ import annotations

import numpy as np

from bayeslmm.formula.design import Design

__all__ = ["describe_design"]


def describe_design(design: Design) -> str:
    """The model in a few lines: formula, rows, coefficients, grouping factors."""
    dropped = design.missing.describe() or "none left out"
    lines = [
        f"Linear mixed model: {design.formula.text}",
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
    if design.residual is not None:
        lines.append(f"Residuals: {design.residual.describe()}")
    if statistics.has_offset:
        lines.append("Offset: yes")
    if design.weights_name is not None:
        lines.append(f"Weights: {design.weights_name}")
    return "\n".join(lines)
