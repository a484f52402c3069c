"""What is said of covariates with unknown values: their regressions, and readings with error.

``missing={"age": "age ~ sex + (1 | site)"}`` is the regression of a covariate, ``me(x, sd)`` in the
formula of the model a reading of x with a known standard deviation, as brms writes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass

from bayeslmm.errors import DataError, FormulaError
from bayeslmm.formula.expressions import (
    Call,
    Constant,
    GroupMean,
    Name,
    Node,
    children,
    is_measured,
    printed,
    walk,
)
from bayeslmm.formula.syntax import ParsedFormula, parse_formula
from bayeslmm.formula.syntaxtree import parse_part, variables_in

__all__ = ["CovariateFormula", "covariate_formulas", "measured_covariates", "plain_names"]

_WORDS = ("drop", "raise", "model")


@dataclass(frozen=True)
class CovariateFormula:
    """The regression of a covariate on columns that are observed in every row.

    Attributes
    ----------
    text : str
        As given.
    fixed : str
        Right side without the random intercept.
    group : tuple of str
        Columns of the factor of the random intercept; empty without one.
    """

    text: str
    fixed: str
    group: tuple[str, ...] = ()

    def columns(self, allowed: Set[str], present: Set[str], constants: Set[str]) -> list[str]:
        """Columns it uses.

        Raises
        ------
        FormulaError
            If it has calls that only the formula of the model can have.
        """
        tree = parse_part(self.fixed, allowed, present, "formula of a covariate")
        for node in walk(tree):
            if isinstance(node, GroupMean) or is_measured(node):
                raise FormulaError(
                    f"{self.text!r}: {printed(node)} has no place in the regression of a "
                    "covariate, whose predictors are columns observed in every row."
                )
        names = [n for n in variables_in(tree) if n in present or n not in constants]
        return list(dict.fromkeys([*names, *self.group]))


def covariate_formulas(missing: str | Mapping[str, str]) -> dict[str, CovariateFormula]:
    """The regressions that ``missing=`` gives, by covariate.

    Raises
    ------
    DataError
        If it is neither a mapping nor one of the words.
    FormulaError
        If a formula cannot be read, or has what the regression of a covariate cannot.
    """
    if isinstance(missing, Mapping):
        return {str(name): _read(str(name), text) for name, text in missing.items()}
    if missing not in _WORDS:
        raise DataError(
            'missing must be "drop", "raise", "model" or formulas by covariate, such as '
            f'{{"age": "age ~ sex"}}, not {missing!r}.'
        )
    return {}


def _read(name: str, text) -> CovariateFormula:
    if not isinstance(text, str):
        raise FormulaError(
            f'missing=: {name!r} needs a formula such as "{name} ~ 1", not {text!r}.'
        )
    where = f"missing={{{name!r}: {text!r}}}"
    try:
        parsed = parse_formula(f"`{name}` {text}" if text.lstrip().startswith("~") else text)
    except FormulaError as err:
        raise FormulaError(f"{where}: {err}") from None
    if parsed.response not in (name, f"`{name}`") or parsed.trials or parsed.se:
        raise FormulaError(
            f"{where}: the left side has to be the covariate itself: {name} ~ ..., or ~ ...."
        )
    if len(parsed.bars) > 1:
        raise FormulaError(
            f"{where}: a covariate has one random intercept at most, not "
            f"{' and '.join(map(str, parsed.bars))}."
        )
    group: tuple[str, ...] = ()
    for bar in parsed.bars:
        if bar.effects.strip() != "1":
            raise FormulaError(
                f"{where}: {bar} has random slopes. A covariate has a random intercept at most: "
                f"(1 | {bar.factor})."
            )
        group = bar.columns
    return CovariateFormula(text, parsed.fixed, group)


def measured_covariates(
    parsed: ParsedFormula,
    allowed: Set[str],
    present: Set[str],
    *,
    sigma: str | None = None,
    exact: Iterable[str] = (),
) -> dict[str, str | float]:
    """The standard deviation of the readings of every ``me(x, sd)``: a column or a number.

    Parameters
    ----------
    parsed : ParsedFormula
    allowed, present : set of str
        Names that may be called; columns of the data.
    sigma : str, optional
        Formula of the residual standard deviation.
    exact : iterable of str
        Columns that are used elsewhere, such as times of residuals.

    Raises
    ------
    FormulaError
        If a call is not of a column and its error, stands where there is no covariate, or its
        column is also used as if it were exact.
    """
    own = [parsed.fixed, *(bar.effects for bar in parsed.bars)]
    elsewhere = [t for t in (parsed.response, parsed.trials, parsed.se, sigma) if t is not None]
    elsewhere = [text for text in elsewhere if not text.isdigit()]
    trees = [parse_part(text, allowed, present, "formula") for text in own]
    found: dict[str, str | float] = {}
    for tree in trees:
        for call, nested in _measured_calls(tree):
            if nested:
                raise FormulaError(
                    f"{printed(call)} cannot stand inside another call: a term is me(x, sd) "
                    "itself, or an interaction with it."
                )
            name, error = _arguments(call)
            if found.setdefault(name, error) != error:
                raise FormulaError(
                    f"The formula has two standard deviations of the readings of {name!r}: "
                    f"{found[name]} and {error}."
                )
    others = [parse_part(text, allowed, present, "formula") for text in elsewhere]
    for tree in others:
        for call, _ in _measured_calls(tree):
            raise FormulaError(
                f"{printed(call)} is for covariates: it cannot stand in the response, its trials "
                "or standard errors, or in sigma=."
            )
    used = {name for tree in (*trees, *others) for name in plain_names(tree)} | set(exact)
    used |= {column for bar in parsed.bars for column in bar.columns}
    for name in found:
        if name in used:
            raise FormulaError(
                f"{name!r} is used both as me({name}, ...), whose true values are unknown, and as "
                f"it stands. Write me({name}, ...) everywhere, or nowhere."
            )
    return found


def plain_names(tree: Node) -> set[str]:
    """Names in a tree outside me(x, sd)."""
    found, waiting = set(), [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Name):
            found.add(node.name)
        elif isinstance(node, GroupMean):
            found |= set(node.groups)
        if not is_measured(node):
            waiting.extend(children(node))
    return found


def _measured_calls(tree: Node) -> Iterator[tuple[Call, bool]]:
    """Calls of me(), and whether each is inside another call."""
    inside = {
        id(inner)
        for node in walk(tree)
        if isinstance(node, Call | GroupMean)
        for child in children(node)
        for inner in walk(child)
    }
    for node in walk(tree):
        if isinstance(node, Call) and is_measured(node):
            yield node, id(node) in inside


def _arguments(call: Call) -> tuple[str, str | float]:
    """Column and error of me(x, sd)."""
    shown = printed(call)
    if len(call.arguments) != 2 or call.options:
        raise FormulaError(
            f"{shown}: me() takes a column and the standard deviation of its readings, me(x, sd)."
        )
    column, error = call.arguments
    if not isinstance(column, Name):
        raise FormulaError(
            f"{shown}: me() is of a column as it stands. Make {printed(column)} a column of the "
            "data, with the standard deviations it then has."
        )
    if isinstance(error, Name):
        if error.name == column.name:
            raise FormulaError(f"{shown}: the readings cannot be their own standard deviations.")
        return column.name, error.name
    value = error.value if isinstance(error, Constant) else None
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return column.name, float(value)
    raise FormulaError(
        f"{shown}: the standard deviation of the readings is a column or a positive number."
    )
