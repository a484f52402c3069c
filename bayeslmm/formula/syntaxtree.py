"""Checks on a parsed part of a formula, before anything is evaluated.

formulae's parser stops at the first token it does not expect and says nothing about the
rest, reads ``x (z)`` as a call, and gives ``x**2`` and ``x < 3`` outside a call a meaning
no user intends. Each of these is an error here.
"""

from __future__ import annotations

from collections.abc import Set

from bayeslmm.errors import FormulaError
from bayeslmm.formula.functions import unknown_call_message
from bayeslmm.formula.groupcalls import GROUP_CALLS, without_group_calls
from bayeslmm.formula.syntax import scan, text_of

__all__ = ["parse_part", "variables_in"]

_COMPARISONS = {
    "EQUAL_EQUAL",
    "BANG_EQUAL",
    "LESS_EQUAL",
    "LESS",
    "GREATER_EQUAL",
    "GREATER",
}
_OPERATORS = {"PLUS", "MINUS", "STAR", "SLASH", "COLON", "STAR_STAR"}


def parse_part(text: str, allowed: Set[str], columns: Set[str], what: str):
    """Syntax tree of a right-hand side (or of a bar's left side), checked.

    Parameters
    ----------
    text : str
        Formula text without ``~`` and without bars.
    allowed : set of str
        Names that may be called.
    columns : set of str
        Columns of the data, for better messages.
    what : str
        How to call the part in messages, such as ``"formula"``.

    Returns
    -------
    formulae.expr.Expr

    Raises
    ------
    FormulaError
        If anything is left over, not allowed, or means something else than it looks.
    """
    from formulae.parser import ParseError, Parser
    from formulae.token import Token

    tokens = scan(text, what=what)
    for at, token in enumerate(tokens):
        if token.kind == "MODULO":
            raise FormulaError(
                "'%' has no meaning in a formula. Write np.mod(x, k) for a remainder, and a:b or "
                "b/a for %in%."
            )
        if token.kind == "PERIOD" and (at == 0 or tokens[at - 1].kind != "RIGHT_PAREN"):
            raise FormulaError("'.' (all other columns) is not supported: name the columns.")
    parser = Parser([*tokens, Token("EOF", "")])
    try:
        tree = parser.parse()
    except ParseError as err:
        raise FormulaError(f"Cannot read '{text}' in the {what}: {err}.") from None
    if not parser.at_end():
        rest = text_of(parser.tokens[parser.current : -1])
        raise FormulaError(
            f"Cannot read '{rest}' in '{text}': what stands before it is complete. "
            "An operator may be missing, arithmetic belongs inside I(...), a method call or a "
            "number such as 1e-3 goes into a column of the data or as 0.001."
        )
    _check_formula(tree, _Context(allowed, columns, text))
    return without_group_calls(tree, text)


class _Context:
    def __init__(self, allowed: Set[str], columns: Set[str], text: str):
        self.allowed, self.columns, self.text = allowed, columns, text


def _check_formula(node, context: _Context) -> None:
    """Check a node that stands for terms, not for arithmetic."""
    from formulae import expr

    if isinstance(node, expr.Grouping):
        _check_formula(node.expression, context)
    elif isinstance(node, expr.Call):
        _check_call(node, context)
    elif isinstance(node, expr.Binary):
        _check_operator(node, context)
    elif isinstance(node, expr.Unary):
        _check_formula(node.right, context)
    elif isinstance(node, expr.Literal):
        if node.value not in (0, 1) or isinstance(node.value, bool | float):
            raise FormulaError(
                f"The constant {node.value!r} in '{context.text}' is not a term. Only 0 and 1 "
                "stand on their own; arithmetic goes inside I(...), such as I(2 * x)."
            )
    elif isinstance(node, expr.Variable):
        _check_variable(node, context)
    elif isinstance(node, expr.Assign):
        raise FormulaError(f"'=' has no meaning in '{context.text}'.")


def _check_variable(node, context: _Context) -> None:
    if node.level is not None:
        raise FormulaError(
            f"'{node.name.lexeme}[...]' picks a level of a response; among predictors write "
            f"I({node.name.lexeme} == ...) or make a column."
        )


def _check_operator(node, context: _Context) -> None:
    from formulae import expr

    kind = node.operator.kind
    if kind in _COMPARISONS:
        raise FormulaError(
            f"The comparison '{node.operator.lexeme}' in '{context.text}' belongs inside I(...), "
            "such as I(x < 3)."
        )
    if kind not in _OPERATORS:
        raise FormulaError(f"'{node.operator.lexeme}' has no meaning in '{context.text}'.")
    if kind == "STAR_STAR":
        base = node.left
        while isinstance(base, expr.Grouping):
            base = base.expression
        if not isinstance(base, expr.Binary):
            name = _shown(base)
            raise FormulaError(
                f"'{name}**' in '{context.text}' does not square {name}: in a formula a power "
                f"means interactions, as in (a + b)**2. Write I({name}**2) for the square."
            )
        if not (isinstance(node.right, expr.Literal) and isinstance(node.right.value, int)):
            raise FormulaError(f"A power in '{context.text}' must be a whole number.")
        _check_formula(node.left, context)
        return
    _check_formula(node.left, context)
    _check_formula(node.right, context)


def _shown(node) -> str:
    name = getattr(node, "name", None)
    if name is not None:
        return name.lexeme
    callee = getattr(node, "callee", None)
    return f"{_shown(callee)}(...)" if callee is not None else "x"


def _check_call(node, context: _Context) -> None:
    """Check a call and everything in its arguments."""
    from formulae import expr

    if not isinstance(node.callee, expr.Variable):
        raise FormulaError(
            f"There is an operator missing before '(' in '{context.text}'. Join terms with '+'."
        )
    name = node.callee.name.lexeme
    if name not in context.allowed:
        if name in context.columns:
            raise FormulaError(
                f"'{name} (' in '{context.text}' reads as a call of {name}, which is a column. "
                f"An operator is missing: {name} + (...)."
            )
        first = _shown(node.args[0]) if node.args else "x"
        raise FormulaError(unknown_call_message(name, first, set(context.allowed)))
    # the group of within(x, a:b) is no arithmetic; its own check comes later
    for argument in node.args[:1] if name in GROUP_CALLS else node.args:
        _check_arithmetic(argument, context)


def _check_arithmetic(node, context: _Context) -> None:
    """Inside a call anything goes but calls of what is not allowed."""
    from formulae import expr

    if isinstance(node, expr.Call):
        _check_call(node, context)
    elif isinstance(node, expr.Grouping):
        _check_arithmetic(node.expression, context)
    elif isinstance(node, expr.Binary):
        if node.operator.kind not in _COMPARISONS | _OPERATORS - {"COLON"}:
            raise FormulaError(
                f"'{node.operator.lexeme}' has no meaning inside a call in '{context.text}'."
            )
        _check_arithmetic(node.left, context)
        _check_arithmetic(node.right, context)
    elif isinstance(node, expr.Unary):
        _check_arithmetic(node.right, context)
    elif isinstance(node, expr.Assign):
        _check_arithmetic(node.value, context)


def variables_in(node) -> list[str]:
    """Names in a checked tree that are columns or constants, in order, each once.

    A call of within() or between() is the name of its own column.
    """
    from formulae import expr

    found: dict[str, None] = {}
    inside_call: set[str] = set()

    def visit(item) -> None:
        if isinstance(item, expr.Variable):
            if item.name.lexeme not in inside_call:
                found.setdefault(item.name.lexeme)
        elif isinstance(item, expr.QuotedName):
            found.setdefault(item.expression.lexeme[1:-1])
        elif isinstance(item, expr.Call):
            # C(x, Sum): the name of a coding, not of a column
            inside_call.update(("Sum", "Treatment"))
            for argument in item.args:
                visit(argument)
            inside_call.clear()
        elif isinstance(item, expr.Assign):
            visit(item.value)
        elif isinstance(item, expr.Binary):
            visit(item.left)
            visit(item.right)
        elif isinstance(item, expr.Grouping):
            visit(item.expression)
        elif isinstance(item, expr.Unary):
            visit(item.right)

    visit(node)
    return list(found)
