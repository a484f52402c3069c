"""Checks on a part of a formula that has been read, before anything is evaluated.

A formula is code: every call is held to the table of functions that formulas may call. What
reads as something no user intends, such as ``x**2`` outside a call, is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from functools import lru_cache

from bayeslmm.errors import FormulaError
from bayeslmm.formula.expressions import (
    Call,
    Constant,
    Group,
    GroupMean,
    Name,
    Node,
    Operation,
    Sum,
    children,
    is_measured,
    printed,
    source,
    walk,
)
from bayeslmm.formula.functions import unknown_call_message
from bayeslmm.formula.reading import read_terms
from bayeslmm.formula.tokens import scan

__all__ = ["columns_as_terms", "parse_part", "refuse_two_of_one_name", "variables_in"]

#: Names that say how C(x, ...) codes a factor.
_CODINGS = ("Sum", "Treatment")


def parse_part(text: str, allowed: Set[str], columns: Set[str], what: str) -> Node:
    """Tree of a right-hand side (or of a bar's left side), checked.

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

    Raises
    ------
    FormulaError
        If anything is left over, not allowed, or means something else than it looks.
    """
    return _parsed(text, frozenset(allowed), frozenset(columns), what)


@lru_cache(maxsize=128)
def _parsed(text: str, allowed: frozenset[str], columns: frozenset[str], what: str) -> Node:
    tokens = scan(text, what=what)
    for at, token in enumerate(tokens):
        if token.kind == "MODULO":
            raise FormulaError(
                "'%' has no meaning in a formula. Write np.mod(x, k) for a remainder, and a:b or "
                "b/a for %in%."
            )
        if token.kind == "PERIOD" and (at == 0 or tokens[at - 1].kind != "RIGHT_PAREN"):
            raise FormulaError("'.' (all other columns) is not supported: name the columns.")
    tree = read_terms(tokens, text, what)
    for node in walk(tree):
        if isinstance(node, Call):
            _check_call(node, text, allowed, columns)
        elif isinstance(node, GroupMean) and any(
            isinstance(inner, GroupMean) for inner in walk(node.covariate)
        ):
            raise FormulaError(f"within() and between() cannot be nested in each other: '{text}'.")
    _check_terms(tree, text)
    calls = {printed(node) for node in walk(tree) if isinstance(node, Call)}
    return _told_apart(tree, calls) if calls & columns else tree


def _told_apart(node: Node, calls: Set[str]) -> Node:
    """The tree with columns called as one of its calls, such as `exp(x)`, shown in backquotes."""
    match node:
        case Name(name) if name in calls:
            return Name(name, quoted=True)
        case Sum(parts):
            return Sum(tuple((sign, _told_apart(part, calls)) for sign, part in parts))
        case Operation(operators, operands):
            return Operation(operators, tuple(_told_apart(o, calls) for o in operands))
        case Group(inside):
            return Group(_told_apart(inside, calls))
    return node


def _check_call(node: Call, text: str, allowed: Set[str], columns: Set[str]) -> None:
    name = node.function
    if name in allowed:
        return
    if name in columns:
        raise FormulaError(
            f"'{name} (' in '{text}' reads as a call of {name}, which is a column. "
            f"An operator is missing: {name} + (...)."
        )
    first = _shown(node.arguments[0]) if node.arguments else "x"
    raise FormulaError(unknown_call_message(name, first, set(allowed)))


def _check_terms(tree: Node, text: str) -> None:
    """Check the nodes that stand for terms, not for arithmetic."""
    waiting = [tree]
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, Constant):
            if node.value not in (0, 1) or isinstance(node.value, bool | float):
                raise FormulaError(
                    f"The constant {node.value!r} in '{text}' is not a term. Only 0 and 1 "
                    "stand on their own; arithmetic goes inside I(...), such as I(2 * x)."
                )
        elif isinstance(node, Operation) and node.operators[0] == "**":
            _check_power(node, text)
            waiting.append(node.operands[0])
        elif isinstance(node, Operation | Sum | Group):
            waiting.extend(children(node))


def _check_power(node: Operation, text: str) -> None:
    base = node.operands[0]
    while isinstance(base, Group):
        base = base.inside
    if not isinstance(base, Operation | Sum):
        name = _shown(base)
        raise FormulaError(
            f"'{name}**' in '{text}' does not square {name}: in a formula a power "
            f"means interactions, as in (a + b)**2. Write I({name}**2) for the square."
        )
    for order in node.operands[1:]:
        value = order.value if isinstance(order, Constant) else None
        if type(value) is not int or value < 1:
            raise FormulaError(f"A power in '{text}' must be a whole number, 1 or more.")


def _shown(node: Node) -> str:
    if isinstance(node, Call):
        return f"{node.function}(...)"
    return node.name if isinstance(node, Name) else "x"


def variables_in(tree: Node) -> list[str]:
    """Names in a tree that are columns or constants, in order, each once.

    A call of within() or between() is the name of its own column; the errors in me(x, sd) are
    none, for they are of the readings and not of x.
    """
    found: dict[str, None] = {}
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Name):
            found.setdefault(node.name)
        elif isinstance(node, GroupMean):
            found.setdefault(source(node))
        elif is_measured(node):
            waiting.extend(node.arguments[:1])
        else:
            waiting.extend(reversed([n for n in children(node) if not _is_coding(node, n)]))
    return list(found)


def columns_as_terms(tree: Node) -> set[str]:
    """Names that are terms, or factors of terms, as they stand: not inside a call."""
    found, waiting = set(), [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Name):
            found.add(node.name)
        elif isinstance(node, Sum | Operation | Group):
            waiting.extend(children(node))
    return found


def _is_coding(call: Node, argument: Node) -> bool:
    """Whether an argument is the name of a coding, as in C(x, Sum), not of a column."""
    within = isinstance(call, Call) and call.function == "C" and call.arguments[:1] != (argument,)
    return within and isinstance(argument, Name) and argument.name in _CODINGS


def refuse_two_of_one_name(trees: Iterable[Node]) -> None:
    """Refuse a column and a call (or two of them) that tables would print alike.

    Raises
    ------
    FormulaError
    """
    known: dict[str, str] = {}
    for node in (node for tree in trees for node in walk(tree)):
        if isinstance(node, Name | Call | GroupMean):
            name, exact = printed(node), source(node)
            if known.setdefault(name, exact) != exact:
                raise FormulaError(
                    f"The formula has both {known[name]} and {exact}, and tables would call both "
                    f"{name!r}. Rename the column."
                )
