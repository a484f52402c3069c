"""The symbols of an equation, in LaTeX and in plain text."""

from __future__ import annotations

from abc import ABC, abstractmethod

from bayeslmm.formula import Design
from bayeslmm.formula.random import GroupingFactor, RandomBlock

__all__ = ["Line"]

_TERMS_PER_LINE = 6

#: Left side, relation, terms that are added.
type Line = tuple[str, str, list[str]]
type Writer = _Latex | _Text


class _Writer(ABC):
    """Symbols shared by both formats: which numbers coefficients and effects have."""

    other: str
    zero: str
    distinct: str
    dots: str
    at_most: str

    def __init__(self, design: Design, family: str, random: str):
        self.design, self.family, self.random = design, family, random
        first = 0 if design.has_intercept else 1
        self.coefficient_numbers = [j + first for j in range(len(design.coef_names))]
        self.effect_numbers = [_numbers(design, block, first) for block in design.blocks]
        self.many = len(design.blocks) > 1

    @abstractmethod
    def named_matrix(self, k: int, block: RandomBlock, several: bool) -> str:
        """The matrix A of a factor, with its number or name where there are several."""

    def relationship(self, k: int, block: RandomBlock) -> str:
        """The matrix A of a factor; named where several factors have one."""
        several = sum(b.relationship is not None for b in self.design.blocks) > 1
        return self.named_matrix(k, block, several)

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
    dots = r"\ldots"
    distinct = r",\quad i' \neq i"
    at_most = r"\leq"

    def name(self, text: str) -> str:
        return rf"\text{{{''.join(_ESCAPES.get(c, c) for c in text)}}}"

    def value(self, name: str, row: str) -> str:
        return rf"{self.name(name)}_{{{row}}}"

    def group(self, block: RandomBlock | GroupingFactor, row: str) -> str:
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

    def greek(self, name: str) -> str:
        return rf"\{name}"

    def indexed(self, name: str, indices: list[str]) -> str:
        symbol = name if len(name) == 1 else rf"\{name}"
        return rf"{symbol}_{{{r',\,'.join(indices)}}}"

    def cell(self, name: str, row: str) -> str:
        return rf"{self.name(name)}[{row}]"

    def squared(self, what: str) -> str:
        return f"{what}^2"

    def power(self, base: str, exponent: str) -> str:
        return rf"{base}^{{{exponent}}}"

    def exponential(self, what: str) -> str:
        return rf"\exp({what})"

    def log(self, what: str) -> str:
        return rf"\log\,{what}"

    def root(self, what: str) -> str:
        return rf"\sqrt{{{what}}}"

    def student(self, nu: str, mean: str, scale: str) -> str:
        return rf"t_{{{nu}}}({mean},\, {scale})"

    def gamma(self, shape: str, rate: str) -> str:
        return self.function("Gamma", shape, rate)

    def function(self, name: str, *arguments: str) -> str:
        return rf"\text{{{name}}}({r',\, '.join(arguments)})"

    def ratio(self, one: str, other: str) -> str:
        return rf"\frac{{{one}}}{{{other}}}"

    def probability(self, event: str) -> str:
        return rf"\text{{P}}({event})"

    def indicator(self, event: str) -> str:
        return rf"\text{{1}}\{{{event}\}}"

    def counted(self, index: str, n: int) -> str:
        return rf",\quad {index} = 1, \ldots, {n}"

    def tail(self, block: RandomBlock) -> str:
        return rf"\nu_{{{self.name(block.name)}}}"

    def tail_ratio(self, nu: str) -> str:
        return rf"\frac{{{nu}}}{{{nu} - 2}}"

    def multiplier(self, block: RandomBlock, level: str) -> str:
        return rf"u_{{{self.name(block.name)},\,{level}}}"

    def named_matrix(self, k: int, block: RandomBlock, several: bool) -> str:
        return rf"A^{{({k + 1})}}" if several else "A"

    def related(self, k: int, block: RandomBlock, one: str, two: str) -> str:
        inside = rf"{self.group(block, one)},\,{self.group(block, two)}"
        return rf"{self.relationship(k, block)}_{{{inside}}}"

    def related_levels(self, k: int, block: RandomBlock) -> str:
        return (
            rf",\quad {self.relationship(k, block)}: {self.name('relationship of ' + block.name)}"
        )

    def kronecker(self, one: str, other: str) -> str:
        return rf"{one} \otimes {other}"

    def corr(self, one: str, other: str) -> str:
        return rf"\text{{Corr}}({one},\, {other})"

    def mean(self, what: str) -> str:
        return rf"\text{{E}}({what})"

    def var(self, what: str) -> str:
        return rf"\text{{Var}}({what})"

    def cov(self, one: str, other: str) -> str:
        return rf"\text{{Cov}}({one},\, {other})"

    def same_group(self, block: RandomBlock | GroupingFactor) -> str:
        return self.indicator(rf"{self.group(block, 'i')} = {self.group(block, self.other)}")

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
    dots = "..."
    at_most = "<="

    def name(self, text: str) -> str:
        return text

    distinct = ",  i' != i"

    def value(self, name: str, row: str) -> str:
        return f"{name}[{row}]"

    def group(self, block: RandomBlock | GroupingFactor, row: str) -> str:
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

    def greek(self, name: str) -> str:
        return name

    def indexed(self, name: str, indices: list[str]) -> str:
        return f"{name}[{', '.join(indices)}]"

    cell = value

    def squared(self, what: str) -> str:
        return f"{what}^2"

    def power(self, base: str, exponent: str) -> str:
        return f"{base}^{exponent}"

    def exponential(self, what: str) -> str:
        return f"exp({what})"

    def log(self, what: str) -> str:
        return f"log({what})"

    def root(self, what: str) -> str:
        return f"sqrt({what})"

    def student(self, nu: str, mean: str, scale: str) -> str:
        return f"StudentT({nu}, {mean}, {scale})"

    def gamma(self, shape: str, rate: str) -> str:
        return self.function("Gamma", shape, rate)

    def function(self, name: str, *arguments: str) -> str:
        return f"{name}({', '.join(arguments)})"

    def ratio(self, one: str, other: str) -> str:
        return f"{one} / {other}"

    def probability(self, event: str) -> str:
        return f"P({event})"

    def indicator(self, event: str) -> str:
        return f"1{{{event}}}"

    def counted(self, index: str, n: int) -> str:
        return f",  {index} = 1, ..., {n}"

    def tail(self, block: RandomBlock) -> str:
        return f"nu_{block.name}"

    def tail_ratio(self, nu: str) -> str:
        return f"{nu}/({nu} - 2)"

    def multiplier(self, block: RandomBlock, level: str) -> str:
        return f"u_{block.name}[{level}]"

    def named_matrix(self, k: int, block: RandomBlock, several: bool) -> str:
        return f"A_{block.name}" if several else "A"

    def related(self, k: int, block: RandomBlock, one: str, two: str) -> str:
        inside = f"{self.group(block, one)}, {self.group(block, two)}"
        return f"{self.relationship(k, block)}[{inside}]"

    def related_levels(self, k: int, block: RandomBlock) -> str:
        return f",  {self.relationship(k, block)}: relationship of {block.name}"

    def kronecker(self, one: str, other: str) -> str:
        return f"{one} (x) {other}"

    def corr(self, one: str, other: str) -> str:
        return f"Corr({one}, {other})"

    def mean(self, what: str) -> str:
        return f"E({what})"

    def var(self, what: str) -> str:
        return f"Var({what})"

    def cov(self, one: str, other: str) -> str:
        return f"Cov({one}, {other})"

    def same_group(self, block: RandomBlock | GroupingFactor) -> str:
        return self.indicator(f"{self.group(block, 'i')} = {self.group(block, self.other)}")

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
