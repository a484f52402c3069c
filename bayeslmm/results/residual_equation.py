"""The parts of an equation beyond independent normal residuals and unrelated levels.

Residual standard deviations and correlations, relationships between levels, Student-t tails and
modeled covariates, in the symbols of either format of :mod:`bayeslmm.results.equation`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bayeslmm.formula.covariates import reading_sd
from bayeslmm.parts.structures import STRUCTURES

if TYPE_CHECKING:
    from bayeslmm.formula.random import RandomBlock
    from bayeslmm.results.equation_writers import Line, Writer

__all__ = [
    "correlation_lines",
    "covariate_lines",
    "related_line",
    "residual_covariance",
    "residual_variance",
    "scale_lines",
]


def residual_sd(w: Writer, row: str) -> str:
    """sigma, that of the row's cell, or that of the row."""
    residual = w.design.residual
    if residual is None or residual.variance.kind == "one":
        return w.greek("sigma")
    if residual.variance.kind == "cells":
        return w.indexed("sigma", [w.cell(name, row) for name in residual.variance.columns])
    return w.indexed("sigma", [row])


def residual_variance(w: Writer, row: str) -> str:
    """Squared standard deviation (or scale) of the row, over its weight; a known one by name."""
    if w.design.se_name is not None:
        return w.square(w.value(w.design.se_name, row))
    text = w.squared(residual_sd(w, row))
    if w.design.weights_name is None:
        return text
    return f"{text} / {w.value(w.design.weights_name, row)}"


def scale_lines(w: Writer) -> Iterator[Line]:
    """The log-linear formula of the standard deviation."""
    residual = w.design.residual
    if residual is None or residual.variance.kind != "log-linear":
        return
    terms = [w.log(w.greek("sigma"))]
    slopes = zip(residual.variance.slopes, residual.variance.means, strict=True)
    for k, (name, mean) in enumerate(slopes, start=1):
        inner = w.value(name, "i")
        sign = "-" if mean >= 0 else "+"
        terms.append(w.times(w.indexed("gamma", [str(k)]), f"({inner} {sign} {abs(mean):.4g})"))
    yield w.log(w.indexed("sigma", ["i"])), "=", terms


def residual_correlation(w: Writer) -> str:
    """Correlation of the residuals of two rows of one group."""
    residual = w.design.stated_residual
    one, two = (w.value(residual.syntax.time or "", row) for row in ("i", w.other))
    return STRUCTURES[residual.kind].formula(w, one, two)


def correlation_lines(w: Writer) -> Iterator[Line]:
    """Correlation of the errors of two rows."""
    residual = w.design.residual
    if residual is None or residual.factor is None:
        return
    value = w.times(w.same_group(residual.factor), residual_correlation(w))
    yield w.corr(w.error("i"), w.error(w.other)), "=", [value + w.distinct]


def residual_covariance(w: Writer) -> list[str]:
    """What correlated residuals add to the covariance of two responses."""
    residual = w.design.residual
    if residual is None or residual.factor is None:
        return []
    sds = w.times(residual_sd(w, "i"), residual_sd(w, w.other))
    if residual_sd(w, "i") == residual_sd(w, w.other):
        sds = w.squared(residual_sd(w, "i"))
    value = w.times(w.times(w.same_group(residual.factor), sds), residual_correlation(w))
    if w.design.weights_name is not None:
        one, two = (w.value(w.design.weights_name, row) for row in ("i", w.other))
        value += f" / {w.root(w.times(one, two))}"
    return [value]


def related_line(w: Writer, k: int, block: RandomBlock, part) -> Line:
    """All levels' effects at once: N(0, A (x) Sigma)."""
    ends = [[w.effect(k, a, level) for a in part] for level in ("1", str(block.n_levels))]
    vector = w.vector([*ends[0], w.dots, *ends[1]])
    A = w.relationship(k, block)
    if len(part) == 1:
        spread = w.times(w.variance(k, part[0]), A)
    else:
        spread = w.kronecker(A, w.matrix(k, block, part))
    return vector, "~", [w.normal(w.zero, spread) + w.related_levels(k, block)]


def covariate_lines(w: Writer) -> Iterator[Line]:
    """The distributions of covariates with unknown values, and of their readings."""
    for covariate in w.design.modeled:
        x, model = w.value(covariate.name, "i"), covariate.model
        own = w.name(covariate.name)
        terms = [w.indexed("mu", [own])]
        for k, (name, mean) in enumerate(zip(model.names[1:], model.means[1:], strict=True), 1):
            sign = "-" if mean >= 0 else "+"
            centered = f"({w.value(name, 'i')} {sign} {abs(mean):.4g})"
            terms.append(w.times(w.indexed("alpha", [own, str(k)]), centered))
        if model.factor is not None:
            terms.append(w.indexed("c", [own, w.cell(model.factor, "i")]))
        spread = w.squared(w.indexed("sigma", [own]))
        if covariate.values is not None:
            event = w.probability(f"{x} = {w.name(str(covariate.values[1]))}")
            yield w.function("logit", event), "=", terms
        else:
            yield x, "~", [w.normal(" + ".join(terms), spread)]
        if model.factor is not None:
            spread = w.squared(w.indexed("tau", [own]))
            label = f"{w.counted('j', len(model.levels))} ({w.name(model.factor)})"
            yield w.indexed("c", [own, "j"]), "~", [w.normal("0", spread) + label]
        if covariate.measured:
            sd = reading_sd(w.design, covariate.name)
            error = sd if _is_number(sd) else w.value(sd, "i")
            yield w.value(f"reading of {covariate.name}", "i"), "~", [w.normal(x, w.square(error))]


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or text[:1] == "."
