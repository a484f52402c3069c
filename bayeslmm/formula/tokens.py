"""The words and signs of a formula."""

from __future__ import annotations

import re
from typing import NamedTuple

from bayeslmm.errors import FormulaError, shortened

__all__ = ["CLOSE", "OPEN", "Token", "scan", "text_of"]

#: Signs, those of two characters first. R's ``^`` is ``**``.
_SIGNS = {
    "**": "STAR_STAR",
    "//": "SLASH_SLASH",
    "!=": "BANG_EQUAL",
    "==": "EQUAL_EQUAL",
    "<=": "LESS_EQUAL",
    ">=": "GREATER_EQUAL",
    "^": "STAR_STAR",
    "(": "LEFT_PAREN",
    ")": "RIGHT_PAREN",
    "[": "LEFT_BRACKET",
    "]": "RIGHT_BRACKET",
    "{": "LEFT_BRACE",
    "}": "RIGHT_BRACE",
    ",": "COMMA",
    ".": "PERIOD",
    "+": "PLUS",
    "-": "MINUS",
    "/": "SLASH",
    "*": "STAR",
    "!": "BANG",
    "=": "EQUAL",
    "<": "LESS",
    ">": "GREATER",
    "%": "MODULO",
    "~": "TILDE",
    ":": "COLON",
    "|": "PIPE",
}
OPEN = {kind for kind in _SIGNS.values() if kind.startswith("LEFT_")}
CLOSE = {kind for kind in _SIGNS.values() if kind.startswith("RIGHT_")}
_LITERALS = {"True": True, "False": False, "None": None}
#: Brackets inside one another.
_DEEPEST = 25

_SIGN = "|".join(re.escape(sign) for sign in _SIGNS)
_TOKEN = re.compile(
    rf"""(?P<space>[ \t\r\n]+)
      | (?P<NUMBER>(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+(?!\w))?)
      | (?P<IDENTIFIER>[^\W\d_][\w.]*)
      | (?P<STRING>'[^']*'|"[^"]*")
      | (?P<BQNAME>`[^`]*`)
      | (?P<sign>{_SIGN})""",
    re.VERBOSE,
)
#: Digits of a number: more are no number a computer holds.
_LONGEST = 400


class Token(NamedTuple):
    """A word or sign.

    Attributes
    ----------
    kind : str
        ``"IDENTIFIER"``, ``"BQNAME"`` (a name in backquotes), ``"NUMBER"``, ``"STRING"``,
        ``"PYTHON_LITERAL"``, or the name of a sign.
    lexeme : str
        As written; ``"**"`` for ``^``.
    literal : object
        What a number, a string or a literal stands for.
    """

    kind: str
    lexeme: str
    literal: float | str | bool | None = None


def scan(text: str, *, what: str = "formula") -> list[Token]:
    """Tokens of `text`.

    Raises
    ------
    FormulaError
        If a character, quote or bracket cannot be read.
    """
    if text.count("`") % 2:
        raise FormulaError(f"A backquote is not closed in {text!r}.")
    tokens, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        # letters and digits in a wider sense, such as a raised 2, are neither
        if match is None or (match.lastgroup == "IDENTIFIER" and not text[at].isalpha()):
            raise _unreadable(text, at, what)
        if match.lastgroup == "NUMBER" and len(match[0]) > _LONGEST:
            raise _unreadable(text, at, what)
        at = match.end()
        if match.lastgroup != "space":
            tokens.append(_token(str(match.lastgroup), match[0]))
    if sum(token.kind == "TILDE" for token in tokens) > 1:
        raise FormulaError(f"There is more than one '~' in the {what} {text!r}.")
    _check_balance(tokens, text, what)
    return tokens


def text_of(tokens: list[Token]) -> str:
    """Formula text of a run of tokens."""
    return " ".join(token.lexeme for token in tokens)


def _token(kind: str, lexeme: str) -> Token:
    if kind == "sign":
        return Token(_SIGNS[lexeme], "**" if lexeme == "^" else lexeme)
    if kind == "NUMBER":
        return Token(kind, lexeme, int(lexeme) if lexeme.isdigit() else float(lexeme))
    if kind == "STRING":
        return Token(kind, lexeme, lexeme[1:-1])
    if lexeme in _LITERALS:
        return Token("PYTHON_LITERAL", lexeme, _LITERALS[lexeme])
    return Token(kind, lexeme)


def _unreadable(text: str, at: int, what: str) -> FormulaError:
    char = text[at]
    if char.isdigit() or char.isnumeric():
        return FormulaError(
            f"Cannot read the {what} {shortened(text)!r}: it has a number that cannot be read. "
            "Write a power as I(x**2), and numbers with the digits 0 to 9."
        )
    if char in "'\"":
        return FormulaError(f"Cannot read the {what} {text!r}: a quoted string is not closed.")
    hint = " A name that starts with an underscore goes in backquotes: `_x`." * (char == "_")
    return FormulaError(f"Cannot read the {what} {text!r}: unexpected character '{char}'.{hint}")


def _check_balance(tokens: list[Token], text: str, what: str) -> None:
    stack: list[str] = []
    for token in tokens:
        if token.kind in OPEN:
            stack.append(token.kind)
        elif token.kind in CLOSE and (
            not stack or stack.pop() != token.kind.replace("RIGHT", "LEFT")
        ):
            raise FormulaError(f"Unexpected '{token.lexeme}' in the {what} {text!r}.")
        if len(stack) > _DEEPEST:
            raise FormulaError(
                f"The {what} {shortened(text)!r} has more than {_DEEPEST} brackets inside one "
                "another. Leave out those that change nothing, or make a column of the data."
            )
    if stack:
        raise FormulaError(f"A bracket is not closed in the {what} {text!r}.")
