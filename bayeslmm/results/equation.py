"""The model as an equation, in LaTeX or plain text, with the user's names.

Conditional: the response given the groups' own effects, and the distribution of these. Marginal:
mean, variance and covariance of the responses with the effects integrated out.
"""

from __future__ import annotations

from collections.abc import Iterator

from bayeslmm.formula import Design
from bayeslmm.formula.random import RandomBlock

__all__ = ["equation"]

_FORMS = ("conditional", "marginal")
_FORMATS = ("latex", "text")
_TERMS_PER_LINE = 6


def equation(design: Design, form: str = "conditional", format: str = "latex") -> str:
    """The equation of a design.

    Parameters
    ----------
    design : Design
    form : {"conditional", "marginal"}
    format : {"latex", "text"}
        LaTeX is one ``aligned`` environment (amsmath), to stand between ``$$`` or in an
        ``equation``.

    Raises
    ------
    ValueError
        If there is no such form or format.
    """
    for name, value, allowed in (("form", form, _FORMS), ("format", format, _FORMATS)):
        if value not in allowed:
            raise ValueError(
                f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}."
            )
    writer = _Latex(design) if format == "latex" else _Text(design)
    lines = _conditional(writer) if form == "conditional" else _marginal(writer)
    return writer.joined(list(lines))


type Line = tuple[str, str, list[str]]


def _conditional(w: _Writer) -> Iterator[Line]:
    """(left side, relation, terms that are added) of each line."""
    terms = _fixed_terms(w)
    for k, block in enumerate(w.design.blocks):
        for a, effect in enumerate(block.effects):
            terms.append(w.times(w.effect(k, a, w.group(block, "i")), _covariate(w, effect, "i")))
    yield w.value(w.design.response, "i"), "=", [*terms, w.error("i")]
    for k, block in enumerate(w.design.blocks):
        for part in block.pattern:
            if len(part) == 1:
                where, spread = w.effect(k, part[0], "j"), w.variance(k, part[0])
                yield where, "~", [w.normal("0", spread) + w.levels(block)]
            else:
                effects = [w.effect(k, a, "j") for a in part]
                yield (
                    w.vector(effects),
                    "~",
                    [w.normal(w.zero, w.matrix(k, block, part)) + w.levels(block)],
                )
        yield from _covariance_lines(w, k, block)
    yield w.error("i"), "~", [w.normal("0", w.residual_variance("i"))]


def _marginal(w: _Writer) -> Iterator[Line]:
    response = w.design.response
    yield w.mean(w.value(response, "i")), "=", _fixed_terms(w) or ["0"]
    own, shared = [], []
    for k, block in enumerate(w.design.blocks):
        parts = [_covariance(w, k, block, part, "i", "i") for part in block.pattern]
        own += parts
        parts = [_covariance(w, k, block, part, "i", w.other) for part in block.pattern]
        shared.append(w.times(w.same_group(block), w.sum(parts)))
    yield w.var(w.value(response, "i")), "=", [*own, w.residual_variance("i")]
    pair = w.cov(w.value(response, "i"), w.value(response, w.other))
    shared = shared or ["0"]
    shared[-1] += w.distinct
    yield pair, "=", shared
    for k, block in enumerate(w.design.blocks):
        for part in block.pattern:
            if len(part) > 1:
                columns = [_covariate(w, block.effects[a], "i") or "1" for a in part]
                yield w.covariates(k, block, part, "i"), "=", [w.vector(columns)]
        yield from _covariance_lines(w, k, block)


def _fixed_terms(w: _Writer) -> list[str]:
    terms = []
    for j, name in enumerate(w.design.coef_names):
        terms.append(w.times(w.coefficient(j), _covariate(w, name, "i")))
    for piece in w.design.fixed.offset_names:
        terms.append(w.value(piece, "i"))
    return terms


def _covariate(w: _Writer, name: str, row: str) -> str:
    return "" if name == "Intercept" else w.value(name, row)


def _covariance(w: _Writer, k: int, block: RandomBlock, part, one: str, other: str) -> str:
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


def _covariance_lines(w: _Writer, k: int, block: RandomBlock) -> Iterator[Line]:
    for part in block.pattern:
        for i, a in enumerate(part):
            if len(part) > 1:
                yield w.entry(k, block, part, i, i), "=", [w.variance(k, a)]
        for i, a in enumerate(part):
            for j, b in list(enumerate(part))[i + 1 :]:
                yield w.entry(k, block, part, i, j), "=", [w.covariance(k, a, b)]


class _Writer:
    """Symbols shared by both formats: which numbers coefficients and effects have."""

    other: str
    zero: str
    distinct: str

    def __init__(self, design: Design):
        self.design = design
        first = 0 if design.has_intercept else 1
        self.coefficient_numbers = [j + first for j in range(len(design.coef_names))]
        self.effect_numbers = [_numbers(design, block, first) for block in design.blocks]
        self.many = len(design.blocks) > 1

    def part_number(self, block: RandomBlock, part) -> int:
        """1, 2, ... where a factor has several correlated sub-blocks, otherwise 0."""
        large = [p for p in block.pattern if len(p) > 1]
        return large.index(part) + 1 if len(large) > 1 else 0


def _numbers(design: Design, block: RandomBlock, first: int) -> list[int]:
    """An effect has the number of its coefficient where every effect has one."""
    names = list(design.coef_names)
    if all(effect in names for effect in block.effects):
        return [names.index(effect) + first for effect in block.effects]
    start = 0 if "Intercept" in block.effects else 1
    return [start + a for a in range(block.n_effects)]


class _Latex(_Writer):
    """amsmath, nothing else; every line also parses as Matplotlib's mathtext."""

    other = "i'"
    zero = r"\mathbf{0}"
    distinct = r",\quad i' \neq i"

    def name(self, text: str) -> str:
        return rf"\text{{{''.join(_ESCAPES.get(c, c) for c in text)}}}"

    def value(self, name: str, row: str) -> str:
        return rf"{self.name(name)}_{{{row}}}"

    def group(self, block: RandomBlock, row: str) -> str:
        return rf"{self.name(block.name)}[{row}]"

    def coefficient(self, j: int) -> str:
        return rf"\beta_{{{self.coefficient_numbers[j]}}}"

    def _factor(self, k: int) -> str:
        return rf"^{{({k + 1})}}" if self.many else ""

    def effect(self, k: int, a: int, level: str) -> str:
        return rf"b{self._factor(k)}_{{{self.effect_numbers[k][a]},\,{level}}}"

    def _sd(self, k: int, a: int) -> str:
        return rf"\tau{self._factor(k)}_{{{self.effect_numbers[k][a]}}}"

    def variance(self, k: int, a: int) -> str:
        number = self.effect_numbers[k][a]
        if self.many:
            return rf"(\tau{self._factor(k)}_{{{number}}})^2"
        return rf"\tau_{{{number}}}^2"

    def covariance(self, k: int, a: int, b: int) -> str:
        numbers = f"{self.effect_numbers[k][a]},{self.effect_numbers[k][b]}"
        rho = rf"\rho{self._factor(k)}_{{{numbers}}}"
        return rf"{rho}\,{self._sd(k, a)}\,{self._sd(k, b)}"

    def _mark(self, k: int, block: RandomBlock, part) -> str:
        marks = [str(k + 1)] if self.many else []
        if number := self.part_number(block, part):
            marks.append(str(number))
        return rf"^{{({','.join(marks)})}}" if marks else ""

    def matrix(self, k: int, block: RandomBlock, part) -> str:
        return rf"\Sigma{self._mark(k, block, part)}"

    def entry(self, k: int, block: RandomBlock, part, i: int, j: int) -> str:
        return rf"\Sigma{self._mark(k, block, part)}_{{{i + 1}{j + 1}}}"

    def covariates(self, k: int, block: RandomBlock, part, row: str) -> str:
        return rf"\mathbf{{z}}{self._mark(k, block, part)}_{{{row}}}"

    def quadratic(self, z: str, matrix: str, other: str) -> str:
        return rf"({z})^{{\top}}\,{matrix}\,{other}"

    def vector(self, entries: list[str]) -> str:
        return rf"({r',\; '.join(entries)})^{{\top}}"

    def normal(self, mean: str, variance: str) -> str:
        return rf"\mathcal{{N}}({mean},\, {variance})"

    def levels(self, block: RandomBlock) -> str:
        return rf",\quad j = 1, \ldots, {block.n_levels} \;\; ({self.name(block.name)})"

    def error(self, row: str) -> str:
        return rf"\varepsilon_{{{row}}}"

    def residual_variance(self, row: str) -> str:
        if self.design.weights is None:
            return r"\sigma^2"
        return rf"\sigma^2 / {self.value(self.design.weights_name, row)}"

    def mean(self, what: str) -> str:
        return rf"\text{{E}}({what})"

    def var(self, what: str) -> str:
        return rf"\text{{Var}}({what})"

    def cov(self, one: str, other: str) -> str:
        return rf"\text{{Cov}}({one},\, {other})"

    def same_group(self, block: RandomBlock) -> str:
        inside = rf"{self.group(block, 'i')} = {self.group(block, self.other)}"
        return rf"\text{{1}}\{{{inside}\}}"

    def square(self, what: str) -> str:
        return rf"({what})^2"

    def times(self, one: str, other: str) -> str:
        return rf"{one}\, {other}" if other else one

    def sum(self, terms: list[str]) -> str:
        return terms[0] if len(terms) == 1 else rf"\left({' + '.join(terms)}\right)"

    def joined(self, lines: list[Line]) -> str:
        rows = []
        for left, relation, terms in lines:
            sign = r"\sim" if relation == "~" else "="
            pieces = [
                " + ".join(terms[s : s + _TERMS_PER_LINE])
                for s in range(0, len(terms), _TERMS_PER_LINE)
            ]
            rows.append(rf"{left} &{sign} {pieces[0]}")
            rows += [rf"&\quad + {piece}" for piece in pieces[1:]]
        body = " \\\\\n".join(rows)
        return f"\\begin{{aligned}}\n{body}\n\\end{{aligned}}"


_ESCAPES = {
    "_": r"\_",
    "%": r"\%",
    "#": r"\#",
    "$": r"\$",
    "&": r"\&",
    "{": r"\{",
    "}": r"\}",
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


class _Text(_Writer):
    """Plain text, letters and numbers only."""

    other = "i'"
    zero = "0"
    distinct = ",  i' != i"

    def value(self, name: str, row: str) -> str:
        return f"{name}[{row}]"

    def group(self, block: RandomBlock, row: str) -> str:
        return f"{block.name}[{row}]"

    def coefficient(self, j: int) -> str:
        return f"beta{self.coefficient_numbers[j]}"

    def _label(self, k: int, a: int) -> str:
        number = str(self.effect_numbers[k][a])
        return f"{number}_{self.design.blocks[k].name}" if self.many else number

    def effect(self, k: int, a: int, level: str) -> str:
        return f"b{self._label(k, a)}[{level}]"

    def variance(self, k: int, a: int) -> str:
        return f"tau{self._label(k, a)}^2"

    def covariance(self, k: int, a: int, b: int) -> str:
        numbers = f"{self.effect_numbers[k][a]}{self.effect_numbers[k][b]}"
        rho = f"rho{numbers}" + (f"_{self.design.blocks[k].name}" if self.many else "")
        return f"{rho} tau{self._label(k, a)} tau{self._label(k, b)}"

    def _mark(self, k: int, block: RandomBlock, part) -> str:
        number = self.part_number(block, part)
        return (f"_{block.name}" if self.many else "") + (f"_{number}" if number else "")

    def matrix(self, k: int, block: RandomBlock, part) -> str:
        return f"Sigma{self._mark(k, block, part)}"

    def entry(self, k: int, block: RandomBlock, part, i: int, j: int) -> str:
        return f"Sigma{self._mark(k, block, part)}[{i + 1},{j + 1}]"

    def covariates(self, k: int, block: RandomBlock, part, row: str) -> str:
        return f"z{self._mark(k, block, part)}[{row}]"

    def quadratic(self, z: str, matrix: str, other: str) -> str:
        return f"{z}' {matrix} {other}"

    def vector(self, entries: list[str]) -> str:
        return f"({', '.join(entries)})"

    def normal(self, mean: str, variance: str) -> str:
        return f"Normal({mean}, {variance})"

    def levels(self, block: RandomBlock) -> str:
        return f",  j = 1, ..., {block.n_levels} ({block.name})"

    def error(self, row: str) -> str:
        return f"error[{row}]"

    def residual_variance(self, row: str) -> str:
        if self.design.weights is None:
            return "sigma^2"
        return f"sigma^2 / {self.value(self.design.weights_name, row)}"

    def mean(self, what: str) -> str:
        return f"E({what})"

    def var(self, what: str) -> str:
        return f"Var({what})"

    def cov(self, one: str, other: str) -> str:
        return f"Cov({one}, {other})"

    def same_group(self, block: RandomBlock) -> str:
        return f"1{{{self.group(block, 'i')} = {self.group(block, self.other)}}}"

    def square(self, what: str) -> str:
        return f"{what}^2"

    def times(self, one: str, other: str) -> str:
        return f"{one} {other}" if other else one

    def sum(self, terms: list[str]) -> str:
        return terms[0] if len(terms) == 1 else f"({' + '.join(terms)})"

    def joined(self, lines: list[Line]) -> str:
        return "\n".join(
            f"{left} {relation} {' + '.join(terms)}" for left, relation, terms in lines
        )
