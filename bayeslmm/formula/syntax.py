"""Formula text to response, fixed part and random terms ("bars").

formulae makes the tokens. The bars are split off here, because formulae does not know ``||``,
forgets which terms were written together (and so which effects are correlated), and reads
``x + 1 | g`` without parentheses as if the bar were not there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bayeslmm.errors import FormulaError, shortened
from bayeslmm.formula.grouping import grouping_factors

__all__ = ["Bar", "ParsedFormula", "parse_formula", "scan", "text_of"]

_OPEN = {"LEFT_PAREN", "LEFT_BRACE", "LEFT_BRACKET"}
_CLOSE = {"RIGHT_PAREN", "RIGHT_BRACE", "RIGHT_BRACKET"}
#: Brackets inside one another.
_DEEPEST = 25


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
    """

    text: str
    response: str
    fixed: str
    bars: tuple[Bar, ...]


def scan(text: str, *, what: str = "formula") -> list:
    """Tokens of `text`, without the end marker.

    ``^`` is read as ``**``, as R users write it.

    Raises
    ------
    FormulaError
        If a character, quote or bracket cannot be read.
    """
    from formulae.scanner import ScanError, Scanner

    text = _caret_to_power(text)
    _check_backquotes(text)
    try:
        tokens = Scanner(text).scan(add_intercept=False)[:-1]
    except ScanError as err:
        if "more than one '~'" in str(err):
            raise FormulaError(f"There is more than one '~' in the {what} {text!r}.") from None
        hint = ""
        if "Unexpected character: _" in str(err):
            hint = " A name that starts with an underscore goes in backquotes: `_x`."
        elif "Unterminated string" in str(err):
            hint = " A quoted string is not closed."
        raise FormulaError(f"Cannot read the {what} {text!r}: {err}.{hint}") from None
    except ValueError:  # characters such as a raised 2 are digits of no number
        raise FormulaError(
            f"Cannot read the {what} {shortened(text)!r}: it has a number that cannot be read. "
            "Write a power as I(x**2), and numbers with the digits 0 to 9."
        ) from None
    _check_balance(tokens, text, what)
    return tokens


def text_of(tokens: list) -> str:
    """Formula text of a run of tokens."""
    return " ".join(token.lexeme for token in tokens)


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
    if any(token.kind == "PIPE" for token in left):
        raise FormulaError(f"A random term cannot stand on the left of '~': {text_of(left)!r}.")
    fixed, bars = _split_bars(right)
    return ParsedFormula(formula, text_of(left), fixed, tuple(bars))


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
        depth += (token.kind in _OPEN) - (token.kind in _CLOSE)
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
        depth += (token.kind in _OPEN) - (token.kind in _CLOSE)
        if token.kind == "PIPE":
            depths.append(depth)
    return depths


def _strip_parentheses(tokens: list) -> list | None:
    """What is inside if one pair of parentheses (or several) encloses all tokens, else None."""
    if len(tokens) < 2 or tokens[0].kind != "LEFT_PAREN" or tokens[-1].kind != "RIGHT_PAREN":
        return None
    depth = 0
    for i, token in enumerate(tokens):
        depth += (token.kind in _OPEN) - (token.kind in _CLOSE)
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


def _caret_to_power(text: str) -> str:
    """R's ``^`` as ``**``, outside quotes and backquotes."""
    out, quote = [], None
    for char in text:
        if quote:
            quote = None if char == quote else quote
        elif char in "'\"`":
            quote = char
        out.append("**" if char == "^" and quote is None else char)
    return "".join(out)


def _check_backquotes(text: str) -> None:
    if text.count("`") % 2:
        raise FormulaError(f"A backquote is not closed in {text!r}.")


def _check_balance(tokens: list, text: str, what: str) -> None:
    pairs = {"RIGHT_PAREN": "LEFT_PAREN", "RIGHT_BRACE": "LEFT_BRACE"}
    pairs["RIGHT_BRACKET"] = "LEFT_BRACKET"
    stack = []
    for token in tokens:
        if token.kind in _OPEN:
            stack.append(token.kind)
        elif token.kind in _CLOSE and (not stack or stack.pop() != pairs[token.kind]):
            raise FormulaError(f"Unexpected '{token.lexeme}' in the {what} {text!r}.")
        if len(stack) > _DEEPEST:
            raise FormulaError(
                f"The {what} {shortened(text)!r} has more than {_DEEPEST} brackets inside one "
                "another. Leave out those that change nothing, or make a column of the data."
            )
    if stack:
        raise FormulaError(f"A bracket is not closed in the {what} {text!r}.")
