"""From the tokens of a part of a formula to its tree.

Two languages meet in a formula. Among terms ``+ - * / : **`` and parentheses are R's algebra of
terms; inside a call they are arithmetic with Python's precedence: ``-x**2`` is -(x**2),
``x**3**2`` is x**9, and ``0 < x < 1`` holds where both comparisons do.
"""

from __future__ import annotations

from collections.abc import Callable

from bayeslmm.errors import FormulaError
from bayeslmm.formula.expressions import (
    GROUP_CALLS,
    Call,
    Constant,
    Group,
    GroupMean,
    Name,
    Node,
    Operation,
    Sign,
    Sum,
)

__all__ = ["read_arithmetic", "read_terms"]

_COMPARISONS = (
    "EQUAL_EQUAL",
    "BANG_EQUAL",
    "LESS_EQUAL",
    "LESS",
    "GREATER_EQUAL",
    "GREATER",
)
#: Brackets, signs and powers inside one another; each is some function calls of the reader.
_DEEPEST = 50


def read_terms(tokens: list, text: str, what: str) -> Node:
    """Tree of a right-hand side.

    Parameters
    ----------
    tokens : list
        As :func:`bayeslmm.formula.syntax.scan` gives them.
    text, what : str
        The part and what to call it, for messages.

    Raises
    ------
    FormulaError
        If it cannot be read to its end.
    """
    reader = _Reader(tokens, text, what)
    return reader.whole(reader.terms)


def read_arithmetic(tokens: list, text: str, what: str) -> Node:
    """Tree of an expression inside a call; see :func:`read_terms`."""
    reader = _Reader(tokens, text, what)
    return reader.whole(reader.arithmetic)


class _Reader:
    """Recursive descent; one method per precedence."""

    def __init__(self, tokens: list, text: str, what: str):
        self.tokens, self.text, self.what = tokens, text, what
        self.at, self.depth = 0, 0

    def whole(self, read: Callable[[], Node]) -> Node:
        tree = read()
        if self.at < len(self.tokens):
            self.refuse_rest()
        return tree

    # ---- tokens

    def next_is(self, *kinds: str) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at].kind in kinds

    def accept(self, *kinds: str):
        if self.next_is(*kinds):
            self.at += 1
            return self.tokens[self.at - 1]
        return None

    def deeper(self, read: Callable[[], Node]) -> Node:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise FormulaError(
                f"The {self.what} {self.text[:60]!r}... is nested too deeply to be read. Make a "
                "part of it a column of the data."
            )
        tree = read()
        self.depth -= 1
        return tree

    def chain(self, kinds: tuple[str, ...], operand: Callable[[], Node]) -> Node:
        operators, operands = [], [operand()]
        while token := self.accept(*kinds):
            operators.append(token.lexeme)
            operands.append(operand())
        return Operation(tuple(operators), tuple(operands)) if operators else operands[0]

    # ---- terms

    def terms(self) -> Node:
        parts: list = []
        sign = self.accept("PLUS", "MINUS")
        while sign or not parts:
            parts.append((-1 if sign and sign.kind == "MINUS" else 1, self.product()))
            sign = self.accept("PLUS", "MINUS")
        if self.next_is(*_COMPARISONS):
            raise FormulaError(
                f"The comparison '{self.tokens[self.at].lexeme}' in '{self.text}' belongs inside "
                "I(...), such as I(x < 3)."
            )
        if self.next_is("EQUAL"):
            raise FormulaError(f"'=' has no meaning in '{self.text}'.")
        return parts[0][1] if len(parts) == 1 and parts[0][0] > 0 else Sum(tuple(parts))

    def product(self) -> Node:
        return self.chain(("STAR", "SLASH"), self.interaction)

    def interaction(self) -> Node:
        return self.chain(("COLON",), self.power_of_terms)

    def power_of_terms(self) -> Node:
        return self.chain(("STAR_STAR",), self.component)

    def component(self) -> Node:
        if self.accept("LEFT_PAREN"):
            node: Node = Group(self.deeper(self.terms))
            self.close("RIGHT_PAREN")
        else:
            node = self.value()
        if self.next_is("LEFT_PAREN"):
            raise FormulaError(
                f"There is an operator missing before '(' in '{self.text}'. Join terms with '+'."
            )
        return node

    # ---- arithmetic

    def arithmetic(self) -> Node:
        return self.chain(_COMPARISONS, self.addition)

    def addition(self) -> Node:
        return _flat(self.chain(("PLUS", "MINUS"), self.multiplication))

    def multiplication(self) -> Node:
        return _flat(self.chain(("STAR", "SLASH"), self.signed))

    def signed(self) -> Node:
        if token := self.accept("PLUS", "MINUS"):
            return Sign(token.lexeme, self.deeper(self.signed))
        return self.power()

    def power(self) -> Node:
        if self.accept("LEFT_PAREN"):
            base = self.deeper(self.arithmetic)
            self.close("RIGHT_PAREN")
        else:
            base = self.value()
        if self.next_is("LEFT_PAREN"):
            raise FormulaError(f"There is an operator missing before '(' in '{self.text}'.")
        if self.next_is("COLON"):
            raise FormulaError(f"':' has no meaning inside a call in '{self.text}'.")
        if self.accept("STAR_STAR"):
            return Operation(("**",), (base, self.deeper(self.signed)))
        return base

    # ---- both

    def value(self) -> Node:
        if token := self.accept("IDENTIFIER"):
            return self.call(token.lexeme) if self.next_is("LEFT_PAREN") else self.name(token)
        if token := self.accept("BQNAME"):
            return Name(token.lexeme[1:-1])
        if token := self.accept("STRING"):
            return Constant(token.literal, token.lexeme)
        if token := self.accept("NUMBER", "PYTHON_LITERAL"):
            return Constant(token.literal, str(token.literal))
        if self.accept("LEFT_BRACE"):  # {x + 1} is I(x + 1)
            inside = self.deeper(self.arithmetic)
            self.close("RIGHT_BRACE")
            return Call("I", (inside,))
        found = f"'{self.tokens[self.at].lexeme}'" if self.at < len(self.tokens) else "nothing"
        raise FormulaError(
            f"Cannot read '{self.text}' in the {self.what}: found {found} where a name, a number "
            "or a call was expected."
        )

    def name(self, token) -> Name:
        if self.next_is("LEFT_BRACKET"):
            raise FormulaError(
                f"'{token.lexeme}[...]' picks a level of a response; among predictors write "
                f"I({token.lexeme} == ...) or make a column."
            )
        return Name(token.lexeme)

    def close(self, kind: str) -> None:
        if not self.accept(kind):
            self.refuse_rest()

    def call(self, function: str) -> Node:
        return self.deeper(lambda: self.call_inside(function))

    def call_inside(self, function: str) -> Node:
        self.accept("LEFT_PAREN")
        if function in GROUP_CALLS:
            return self.group_mean(function)
        arguments: list[Node] = []
        options: list[tuple[str, Node]] = []
        while not self.next_is("RIGHT_PAREN"):
            following = self.tokens[self.at + 1 : self.at + 2]
            if self.next_is("IDENTIFIER") and following and following[0].kind == "EQUAL":
                name = self.accept("IDENTIFIER").lexeme
                self.accept("EQUAL")
                options.append((name, self.arithmetic()))
            else:
                arguments.append(self.arithmetic())
            if not self.accept("COMMA"):
                break
        self.close("RIGHT_PAREN")
        if options and len({name for name, _ in options}) < len(options):
            raise FormulaError(f"An option of {function}() is given twice in '{self.text}'.")
        return Call(function, tuple(arguments), tuple(options))

    def group_mean(self, kind: str) -> Node:
        two = FormulaError(
            f"{kind}() in '{self.text}' takes a covariate and a group: {kind}(x, g)."
        )
        if self.next_is("RIGHT_PAREN"):
            raise two
        covariate = self.arithmetic()
        if not self.accept("COMMA"):
            raise two
        following = self.tokens[self.at + 1 : self.at + 2]
        if following and following[0].kind == "EQUAL":
            raise two
        groups = self.group_columns()
        if self.next_is("COMMA"):
            raise two
        if groups is None or not self.accept("RIGHT_PAREN"):
            raise FormulaError(
                f"The group in {kind}(...) in '{self.text}' must be a column g or a combination "
                "a:b."
            )
        return GroupMean(kind, covariate, tuple(dict.fromkeys(groups)))

    def group_columns(self) -> list[str] | None:
        """Columns of ``g`` or ``a:b``; None for anything else."""
        columns: list[str] = []
        while True:
            token = self.accept("IDENTIFIER", "BQNAME")
            if token is None:
                return None
            columns.append(token.lexeme.strip("`"))
            if not self.accept("COLON"):
                return columns

    def refuse_rest(self) -> None:
        rest = " ".join(token.lexeme for token in self.tokens[self.at :])
        raise FormulaError(
            f"Cannot read '{rest}' in '{self.text}': what stands before it is complete. "
            "An operator may be missing, arithmetic belongs inside I(...), a method call or a "
            "number such as 1e-3 goes into a column of the data or as 0.001."
        )


def _flat(node: Node) -> Node:
    """``(a - b) + c`` is ``a - b + c``: parentheses that change nothing leave no trace."""
    if not isinstance(node, Operation):
        return node
    first = node.operands[0]
    if isinstance(first, Operation):
        symbols = {node.operators[0], first.operators[0]}
        if symbols <= {"+", "-"} or symbols <= {"*", "/"}:
            return Operation(first.operators + node.operators, first.operands + node.operands[1:])
    return node
