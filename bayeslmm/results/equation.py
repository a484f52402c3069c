"""The model as an equation, in LaTeX or plain text, with the user's names.

Conditional: the response given the groups' own effects, and the distribution of these. Marginal:
mean, variance and covariance of the responses with the effects integrated out.
"""

from __future__ import annotations

from collections.abc import Iterator

from bayeslmm.formula import Design
from bayeslmm.formula.covariates import reading_sd
from bayeslmm.formula.random import RandomBlock
from bayeslmm.results.equation_writers import Line, Writer, _Latex, _Text
from bayeslmm.results.residual_equation import (
    correlation_lines,
    covariate_lines,
    related_line,
    residual_covariance,
    residual_variance,
    scale_lines,
)
from bayeslmm.results.response_equation import refuse_marginal_form, response_lines

__all__ = ["equation"]

_FORMS = ("conditional", "marginal")
_FORMATS = ("latex", "text")


def equation(
    design: Design,
    form: str = "conditional",
    format: str = "latex",
    *,
    family: str = "gaussian",
    random: str = "gaussian",
) -> str:
    """The equation of a design.

    Parameters
    ----------
    design : Design
    form : {"conditional", "marginal"}
    format : {"latex", "text"}
        LaTeX is one ``aligned`` environment (amsmath), to stand between ``$$`` or in an
        ``equation``.
    family : str
        Distribution of the response.
    random : {"gaussian", "student"}
        Distribution of the random effects.

    Raises
    ------
    ValueError
        If there is no such form or format.
    DataError
        If the form is marginal and the response not Gaussian.
    """
    for name, value, allowed in (("form", form, _FORMS), ("format", format, _FORMATS)):
        if value not in allowed:
            raise ValueError(
                f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}."
            )
    if form == "marginal" and not design.family.gaussian:
        refuse_marginal_form(family)
    writer = (_Latex if format == "latex" else _Text)(design, family, random)
    lines = _conditional(writer) if form == "conditional" else _marginal(writer)
    return writer.joined(list(lines))


def _conditional(w: Writer) -> Iterator[Line]:
    """(left side, relation, terms that are added) of each line."""
    terms = _fixed_terms(w)
    for k, block in enumerate(w.design.blocks):
        for a, effect in enumerate(block.effects):
            terms.append(w.times(w.effect(k, a, w.group(block, "i")), _covariate(w, effect, "i")))
    gaussian = w.design.family.gaussian
    if gaussian:
        yield w.value(w.design.response, "i"), "=", [*terms, w.error("i")]
    else:
        yield from response_lines(w, terms)
    for k, block in enumerate(w.design.blocks):
        for part in block.pattern:
            yield _effects_line(w, k, block, part)
        yield from _covariance_lines(w, k, block)
        if w.random == "student":
            half = f"{w.tail(block)}/2"
            yield w.multiplier(block, "j"), "~", [w.gamma(half, half)]
    if not gaussian:
        yield from covariate_lines(w)
        return
    if w.family == "student":
        spread = w.student(w.greek("nu"), "0", residual_variance(w, "i"))
    else:
        spread = w.normal("0", residual_variance(w, "i"))
    yield w.error("i"), "~", [spread]
    yield from scale_lines(w)
    yield from correlation_lines(w)
    yield from covariate_lines(w)


def _effects_line(w: Writer, k: int, block: RandomBlock, part) -> Line:
    """Distribution of correlated effects of a level, or of all levels where they are related."""
    if block.relationship is not None:
        return related_line(w, k, block, part)
    over = f" / {w.multiplier(block, 'j')}" if w.random == "student" else ""
    if len(part) == 1:
        where, spread = w.effect(k, part[0], "j"), w.variance(k, part[0])
        return where, "~", [w.normal("0", spread + over) + w.levels(block)]
    spread = w.matrix(k, block, part) + over
    effects = [w.effect(k, a, "j") for a in part]
    return w.vector(effects), "~", [w.normal(w.zero, spread) + w.levels(block)]


def _marginal(w: Writer) -> Iterator[Line]:
    response = w.design.response
    yield w.mean(w.value(response, "i")), "=", _fixed_terms(w) or ["0"]
    own, shared = [], []
    for k, block in enumerate(w.design.blocks):
        parts = [_covariance(w, k, block, part, "i", "i") for part in block.pattern]
        related = block.relationship is not None
        if w.random == "student":
            parts = [w.times(w.tail_ratio(w.tail(block)), term) for term in parts]
        if related:
            parts = [w.times(w.related(k, block, "i", "i"), w.sum(parts))]
        own += parts
        parts = [_covariance(w, k, block, part, "i", w.other) for part in block.pattern]
        if w.random == "student":
            parts = [w.times(w.tail_ratio(w.tail(block)), term) for term in parts]
        same = w.related(k, block, "i", w.other) if related else w.same_group(block)
        shared.append(w.times(same, w.sum(parts)))
    noise = residual_variance(w, "i")
    if w.family == "student":
        noise = w.times(w.tail_ratio(w.greek("nu")), noise)
    yield w.var(w.value(response, "i")), "=", [*own, noise]
    pair = w.cov(w.value(response, "i"), w.value(response, w.other))
    shared = [*shared, *residual_covariance(w)] or ["0"]
    shared[-1] += w.distinct
    yield pair, "=", shared
    for k, block in enumerate(w.design.blocks):
        for part in block.pattern:
            if len(part) > 1:
                columns = [_covariate(w, block.effects[a], "i") or "1" for a in part]
                yield w.covariates(k, block, part, "i"), "=", [w.vector(columns)]
        yield from _covariance_lines(w, k, block)
    yield from scale_lines(w)
    yield from covariate_lines(w)


def _fixed_terms(w: Writer) -> list[str]:
    terms = []
    for j, name in enumerate(w.design.coef_names):
        terms.append(w.times(w.coefficient(j), _covariate(w, name, "i")))
    for piece in w.design.fixed.offset_names:
        terms.append(w.value(piece, "i"))
    return terms


def _covariate(w: Writer, name: str, row: str) -> str:
    for covariate in w.design.modeled:  # in the model it is the true value, not its reading
        if covariate.measured:
            reading = f"me({covariate.name}, {reading_sd(w.design, covariate.name)})"
            name = name.replace(reading, covariate.name)
    return "" if name == "Intercept" else w.value(name, row)


def _covariance(w: Writer, k: int, block: RandomBlock, part, one: str, other: str) -> str:
    """z_i'Sigma z_i' of correlated effects, tau^2 z_i z_i' of a single one."""
    if len(part) > 1:
        z = (w.covariates(k, block, part, row) for row in (one, other))
        return w.quadratic(next(z), w.matrix(k, block, part), next(z))
    effect = block.effects[part[0]]
    variance, first = w.variance(k, part[0]), _covariate(w, effect, one)
    if not first:
        return variance
    if one == other:
        return w.times(variance, w.square(first))
    return w.times(w.times(variance, first), _covariate(w, effect, other))


def _covariance_lines(w: Writer, k: int, block: RandomBlock) -> Iterator[Line]:
    for part in block.pattern:
        for i, a in enumerate(part):
            if len(part) > 1:
                yield w.entry(k, block, part, i, i), "=", [w.variance(k, a)]
        for i, a in enumerate(part):
            for j, b in list(enumerate(part))[i + 1 :]:
                yield w.entry(k, block, part, i, j), "=", [w.covariance(k, a, b)]
