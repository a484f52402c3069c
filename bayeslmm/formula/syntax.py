"""Formula text to response, fixed part and random terms ("bars").

Which terms were written together, and so which effects are correlated, is kept: formulae forgets
it, does not know ``||``, and reads ``x + 1 | g`` without parentheses as if the bar were not there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

from bayeslmm.errors import FormulaError
from bayeslmm.formula.grouping import grouping_factors
from bayeslmm.formula.tokens import CLOSE, OPEN, scan, text_of

__all__ = ["Bar", "ParsedFormula", "parse_formula"]

#: Words for a proportion of trials, as in p(successes, trials).
_PROPORTIONS = ("p", "prop", "proportion")
#: What stands before a name in a sum or product; anything else makes ``of`` the word.
_SIGNS_BEFORE_A_NAME = ("PLUS", "MINUS", "STAR", "SLASH", "COLON", "STAR_STAR")


@dataclass(frozen=True)
class Bar:
    """One random term: ``(effects | factor)`` or ``(effects || factor)``.

    Attributes
    ----------
    effects : str
        Left side of the bar, in formula language, with its implicit intercept.
    columns : tuple of str
        Columns whose combinations are the levels of the grouping factor.
    correlated : bool
        False for ``||``: every column of the effects matrix is independent.
    """

    effects: str
    columns: tuple[str, ...]
    correlated: bool

    @property
    def factor(self) -> str:
        """Name of the grouping factor, ``a`` or ``a:b``."""
        return ":".join(self.columns)

    def __str__(self) -> str:
        return f"({self.effects} {'|' if self.correlated else '||'} {self.factor})"


@dataclass(frozen=True)
class ParsedFormula:
    """A formula taken apart.

    Attributes
    ----------
    text : str
        The formula as the user wrote it.
    response : str
        Left side of ``~``.
    fixed : str
        Right side without the random terms; ``"1"`` where nothing else is written.
    bars : tuple of Bar
        Random terms in the order written, nesting expanded.
    trials : str or None
        Of a response ``successes of trials`` or ``p(successes, trials)``: a column, a call or a
        whole number.
    se : str or None
        Of a response ``y | se(s)``: the known standard error of each row, a column or a call.
    """

    text: str
    response: str
    fixed: str
    bars: tuple[Bar, ...]
    trials: str | None = None
    se: str | None = None


def parse_formula(formula: str) -> ParsedFormula:
    """Split a formula into response, fixed part and random terms.

    Parameters
    ----------
    formula : str
        In lme4's language: ``"y ~ x + (x | g)"``.

    Returns
    -------
    ParsedFormula

    Raises
    ------
    FormulaError
        If the formula has no response, a random term stands without parentheses, or a
        part cannot be read. The message names the part and what to write instead.
    """
    if not isinstance(formula, str):
        raise FormulaError(f"The formula must be a string, not {type(formula).__name__}.")
    return _parsed(formula)


@lru_cache(maxsize=256)
def _parsed(formula: str) -> ParsedFormula:
    if not formula.strip():
        raise FormulaError('The formula is empty. Write one such as "y ~ x + (x | group)".')
    tokens = scan(formula)
    tildes = [i for i, token in enumerate(tokens) if token.kind == "TILDE"]
    if not tildes:
        raise FormulaError(
            f'The formula {formula!r} has no "~". Write "response ~ predictors + (1 | group)".'
        )
    left, right = tokens[: tildes[0]], tokens[tildes[0] + 1 :]
    if not left:
        raise FormulaError(f'The formula {formula!r} has no response on the left of "~".')
    if not right:
        raise FormulaError(
            f'The formula {formula!r} has nothing on the right of "~". '
            f'Write "{text_of(left)} ~ 1" for an intercept only.'
        )
    left, se = _split_standard_error(left)
    fixed, bars = _split_bars(right)
    response, trials = _split_trials(left)
    return ParsedFormula(formula, response, fixed, tuple(bars), trials, se)


def _split_standard_error(left: list) -> tuple[list, str | None]:
    """Response and known standard error of ``y | se(s)``, as brms writes it."""
    pipes = [i for i, token in enumerate(left) if token.kind == "PIPE"]
    if not pipes:
        return left, None
    response, told = left[: pipes[0]], left[pipes[0] + 1 :]
    call = _strip_parentheses(told[1:])
    if not response or min(_depths_of_pipes(left)) > 0 or text_of(told[:1]) != "se" or not call:
        raise FormulaError(
            f"A random term cannot stand on the left of '~': {text_of(left)!r}. What may stand "
            "there after '|' is the known standard error of each row: y | se(s) ~ .... Weights are "
            'weights="column"; counts of trials are written "successes of trials".'
        )
    depths = list(accumulate((token.kind in OPEN) - (token.kind in CLOSE) for token in call))
    ends = [i for i, token in enumerate(call) if token.kind == "COMMA" and depths[i] == 0]
    parts = [call[i + 1 : j] for i, j in pairwise([-1, *ends, len(call)])]
    option = "".join(token.lexeme for token in parts[-1]).upper()
    if len(parts) == 2 and option == "SIGMA=TRUE":
        raise FormulaError(
            f"se({text_of(call)}) asks for a residual standard deviation beside the known one. A "
            "factor with a level per row is the same model: make a column that numbers the rows, "
            f"and write {text_of(response)} | se({text_of(parts[0])}) ~ ... + (1 | row)."
        )
    if not parts[0] or len(parts) > 2 or (len(parts) == 2 and option != "SIGMA=FALSE"):
        raise FormulaError(
            f"se() takes one column or one call: {text_of(response)} | se(s) ~ ..., not "
            f"se({text_of(call)})."
        )
    return response, text_of(parts[0])


def _split_trials(left: list) -> tuple[str, str | None]:
    """Response and number of trials of ``a of b``, ``p(a, b)`` or ``proportion(a, b)``."""
    depths = list(accumulate((token.kind in OPEN) - (token.kind in CLOSE) for token in left))
    words = [token.lexeme if token.kind == "IDENTIFIER" else token.kind for token in left]
    if words[0] in _PROPORTIONS and words[1:2] == ["LEFT_PAREN"] and 0 not in depths[1:-1]:
        commas = [i for i, word in enumerate(words) if word == "COMMA" and depths[i] == 1]
        if len(commas) == 1 and depths[-1] == 0:
            parts = left[2 : commas[0]], left[commas[0] + 1 : -1]
            return _both_parts(left, *parts)
    for i, word in enumerate(words[1:], start=1):
        before = words[i - 1]
        if word == "of" and depths[i] == 0 and before not in _SIGNS_BEFORE_A_NAME:
            return _both_parts(left, left[:i], left[i + 1 :])
    return text_of(left), None


def _both_parts(left: list, response: list, trials: list) -> tuple[str, str]:
    if not response or not trials:
        raise FormulaError(
            f"The response '{text_of(left)}' lacks a part: write successes of trials ~ ..., or "
            "p(successes, trials) ~ ...."
        )
    return text_of(response), text_of(trials)


def _split_bars(tokens: list) -> tuple[str, list[Bar]]:
    """Fixed part and bars of a right-hand side."""
    fixed: list = []
    bars: list[Bar] = []
    for sign, term in _signed_terms(tokens):
        inner = _strip_parentheses(term)
        pipes = _depths_of_pipes(term)
        if not pipes:
            if sign is not None and (fixed or sign.kind == "MINUS"):
                fixed.append(sign)
            fixed.extend(term)
            continue
        if sign is not None and sign.kind == "MINUS":
            raise FormulaError(
                f"A random term cannot be subtracted: '- {text_of(term)}'. Leave it out instead."
            )
        if min(pipes) == 0:
            raise FormulaError(_bare_bar_message(term))
        if inner is None or min(_depths_of_pipes(inner)) != 0:
            raise FormulaError(_misplaced_bar_message(term))
        bars.extend(_bars_of(inner))
    return (text_of(fixed) or "1"), bars


def _signed_terms(tokens: list) -> list[tuple]:
    """Terms of a sum at depth 0 with the sign token before each (None for the first)."""
    terms: list[tuple] = []
    sign: Any = None
    current: list = []
    depth = 0
    for token in tokens:
        depth += (token.kind in OPEN) - (token.kind in CLOSE)
        if depth == 0 and token.kind in ("PLUS", "MINUS"):
            if current:
                terms.append((sign, current))
            elif sign is not None or (terms == [] and token.kind == "PLUS"):
                raise FormulaError(f"Two signs in a row, or a leading '+', in {text_of(tokens)!r}.")
            sign, current = token, []
        else:
            current.append(token)
    if not current:
        raise FormulaError(f"A term is missing after '{sign.lexeme}' in {text_of(tokens)!r}.")
    terms.append((sign, current))
    return terms


def _depths_of_pipes(tokens: list) -> list[int]:
    depths, depth = [], 0
    for token in tokens:
        depth += (token.kind in OPEN) - (token.kind in CLOSE)
        if token.kind == "PIPE":
            depths.append(depth)
    return depths


def _strip_parentheses(tokens: list) -> list | None:
    """What is inside if one pair of parentheses (or several) encloses all tokens, else None."""
    if len(tokens) < 2 or tokens[0].kind != "LEFT_PAREN" or tokens[-1].kind != "RIGHT_PAREN":
        return None
    depth = 0
    for i, token in enumerate(tokens):
        depth += (token.kind in OPEN) - (token.kind in CLOSE)
        if depth == 0 and i < len(tokens) - 1:
            return None
    inner = tokens[1:-1]
    return _strip_parentheses(inner) or inner


def _bars_of(tokens: list) -> list[Bar]:
    """Bars of the inside of a random term; ``a/b`` on the right makes more than one."""
    at = next(i for i, token in enumerate(tokens) if token.kind == "PIPE")
    left, right = tokens[:at], tokens[at + 1 :]
    correlated = not (right and right[0].kind == "PIPE")
    if not correlated:
        right = right[1:]
    shown = f"({text_of(tokens)})".replace("| |", "||")
    if any(token.kind == "PIPE" for token in right):
        raise FormulaError(f"The random term {shown} has more than one bar.")
    if not left:
        raise FormulaError(
            f"The random term {shown} has no effects. Write (1 | ...) for an intercept."
        )
    if not right:
        raise FormulaError(f"The random term {shown} has no grouping factor on the right.")
    effects = text_of(left)
    return [Bar(effects, columns, correlated) for columns in grouping_factors(right, shown)]


def _bare_bar_message(term: list) -> str:
    shown = text_of(term).replace("| |", "||")
    return (
        f"The random term '{shown}' has no parentheses, so it is not clear what belongs to it. "
        f"Write ({shown})."
    )


def _misplaced_bar_message(term: list) -> str:
    shown = text_of(term).replace("| |", "||")
    operands = {"RIGHT_PAREN", "IDENTIFIER", "NUMBER", "BQNAME"}
    for i in range(1, len(term)):
        opens_bar = term[i].kind == "LEFT_PAREN" and bool(_depths_of_pipes(term[i:]))
        if opens_bar and term[i - 1].kind in operands:
            return (
                f"There is a '+' missing before a random term in '{shown}'. "
                "Join terms with '+': x + (x | g) + (1 | h)."
            )
    return (
        f"The random term inside '{shown}' does not stand on its own. Random terms are added "
        "to the formula, each in its own parentheses: y ~ x + (x | g)."
    )
