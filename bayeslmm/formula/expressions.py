"""What the text of a formula says, as a tree.

Trees compare by structure. Their text has the parentheses that the structure needs and no
others, so that two trees have the same :func:`source` only if they are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeGuard

__all__ = [
    "GROUP_CALLS",
    "MEASURED",
    "Call",
    "Constant",
    "Group",
    "GroupMean",
    "Name",
    "Node",
    "Operation",
    "Sign",
    "Sum",
    "children",
    "is_measured",
    "printed",
    "source",
    "walk",
]

#: Calls that split a covariate at the means of its groups.
GROUP_CALLS = frozenset({"within", "between"})
#: Call that says a column is read with error, ``me(x, sd)``: it is x itself where it is evaluated.
MEASURED = "me"


@dataclass(frozen=True)
class Name:
    """A column or a constant of the namespace.

    `quoted`: tables show it in backquotes, because a call of the formula has the same text.
    """

    name: str
    quoted: bool = False


@dataclass(frozen=True)
class Constant:
    """A number, a text, True, False or None, and how it was written."""

    value: object
    written: str


@dataclass(frozen=True)
class Call:
    """A call, with its arguments by position and by name."""

    function: str
    arguments: tuple[Node, ...]
    options: tuple[tuple[str, Node], ...] = ()


@dataclass(frozen=True)
class GroupMean:
    """``within(x, g)`` or ``between(x, g)``: a column of its own, computed elsewhere."""

    kind: str
    covariate: Node
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Sign:
    """``-x`` or ``+x`` in arithmetic."""

    sign: str
    operand: Node


@dataclass(frozen=True)
class Operation:
    """Operators of one precedence, applied from left to right.

    ``a - b + c`` has three operands. A power has two; a comparison has as many as are chained.
    """

    operators: tuple[str, ...]
    operands: tuple[Node, ...]


@dataclass(frozen=True)
class Sum:
    """Terms that are added (1) or taken out (-1)."""

    parts: tuple[tuple[int, Node], ...]


@dataclass(frozen=True)
class Group:
    """Terms in parentheses. (In arithmetic parentheses are in the structure.)"""

    inside: Node


Node = Name | Constant | Call | GroupMean | Sign | Operation | Sum | Group

_COMPARISON, _SIGN, _POWER, _ATOM = 0, 4, 5, 6
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, ":": 3, "**": _POWER}


def is_measured(node: Node) -> TypeGuard[Call]:
    """Whether it is ``me(x, sd)``."""
    return isinstance(node, Call) and node.function == MEASURED


def source(node: Node) -> str:
    """Text that reads as this tree; names that need them are in backquotes."""
    return _text(node, True)


def printed(node: Node) -> str:
    """Text as tables show it: names as the data have them, texts as they were written."""
    return _text(node, False)


def walk(node: Node) -> Iterator[Node]:
    """A tree's nodes in the order written, each before what is inside it."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(reversed(children(node)))


def children(node: Node) -> list[Node]:
    """Nodes right inside a node."""
    match node:
        case Call(_, arguments, options):
            return [*arguments, *(value for _, value in options)]
        case GroupMean(_, covariate, _):
            return [covariate]
        case Sign(_, operand):
            return [operand]
        case Operation(_, operands):
            return list(operands)
        case Sum(parts):
            return [part for _, part in parts]
        case Group(inside):
            return [inside]
    return []


def _text(node: Node, exact: bool) -> str:
    match node:
        case Name(name, quoted):
            return f"`{name}`" if quoted or (exact and not _is_plain(name)) else name
        case Constant(value, written):
            # no text has a quote in it: any quote ends it
            return f"'{value}'" if exact and isinstance(value, str) else written
        case Call(function, arguments, options):
            inside = [_text(argument, exact) for argument in arguments]
            inside += [f"{name}={_text(value, exact)}" for name, value in options]
            return f"{function}({', '.join(inside)})"
        case GroupMean(kind, covariate, groups):  # its text is the name of its column
            names = ":".join(_text(Name(group), True) for group in groups)
            return f"{kind}({_text(covariate, True)}, {names})"
        case Sign(sign, operand):
            return sign + _inner(operand, _SIGN, exact)
        case Operation():
            return _operation_text(node, exact)
        case Sum(parts):
            signed = [("- " if sign < 0 else "+ ") + _text(part, exact) for sign, part in parts]
            return " ".join(signed).removeprefix("+ ")
        case Group(inside):
            return f"({_text(inside, exact)})"


def _operation_text(node: Operation, exact: bool) -> str:
    level = _level(node)
    # a - (b - c), (a < b) < c and (a ** b) ** c need theirs, (a - b) - c and a ** -b do not
    first = level if level not in (_COMPARISON, _POWER) else level + 1
    later = _SIGN if level == _POWER else level + 1
    text = _inner(node.operands[0], first, exact)
    for operator, operand in zip(node.operators, node.operands[1:], strict=True):
        space = "" if operator == ":" else " "
        text += space + operator + space + _inner(operand, later, exact)
    return text


def _inner(node: Node, least: int, exact: bool) -> str:
    text = _text(node, exact)
    return text if _level(node) >= least else f"({text})"


def _level(node: Node) -> int:
    match node:
        case Operation(operators, _):
            return _PRECEDENCE.get(operators[0], _COMPARISON)
        case Sign():
            return _SIGN
        case Sum():
            return 1
    return _ATOM


def _is_plain(name: str) -> bool:
    """Whether a name is read as one without backquotes."""
    letters = name.replace(".", "").replace("_", "")
    plain = name[:1].isalpha() and (letters.isalnum() or not letters)
    return plain and name not in ("True", "False", "None")
