"""Calls of ``within(x, g)`` and ``between(x, g)`` in a syntax tree.

Each is taken out and becomes the name of a column of its own, computed in
:mod:`bayeslmm.formula.groupmeans`, because formulae's stateful transforms see one column at a time
and no groups.
"""

from __future__ import annotations

from dataclasses import dataclass

from bayeslmm.errors import FormulaError

__all__ = ["GROUP_CALLS", "GroupCall", "group_call", "without_group_calls"]

#: Names of the calls that are handled here.
GROUP_CALLS = frozenset({"within", "between"})


@dataclass(frozen=True)
class GroupCall:
    """A call as written: which half, of what, by which columns."""

    kind: str
    covariate: str
    groups: tuple[str, ...]


def group_call(name: str) -> GroupCall | None:
    """The call that a column's name stands for; None for an ordinary name."""
    if not name.endswith(")") or name.split("(")[0] not in GROUP_CALLS:
        return None
    from formulae.parser import Parser
    from formulae.token import Token

    from bayeslmm.formula.syntax import scan

    node = Parser([*scan(name), Token("EOF", "")]).parse()
    kind, covariate = node.callee.name.lexeme, _text(node.args[0])
    return GroupCall(kind, covariate, tuple(dict.fromkeys(_group_columns(node.args[1]))))


def without_group_calls(node, text: str):
    """The tree with every call of within() and between() replaced by the name of its column.

    Raises
    ------
    FormulaError
        If a call has not two arguments, a covariate and a group, or is inside another.
    """
    from formulae import expr
    from formulae.token import Token

    if isinstance(node, expr.Call):
        name = node.callee.name.lexeme
        if name not in GROUP_CALLS:
            return expr.Call(node.callee, [without_group_calls(a, text) for a in node.args])
        _check_call(node, name, text)
        return expr.QuotedName(Token("BQNAME", f"`{_text(node)}`"))
    if isinstance(node, expr.Binary):
        left, right = (without_group_calls(part, text) for part in (node.left, node.right))
        return expr.Binary(left, node.operator, right)
    if isinstance(node, expr.Unary):
        return expr.Unary(node.operator, without_group_calls(node.right, text))
    if isinstance(node, expr.Grouping):
        return expr.Grouping(without_group_calls(node.expression, text))
    if isinstance(node, expr.Assign):
        return expr.Assign(node.name, without_group_calls(node.value, text))
    return node


def _check_call(node, name: str, text: str) -> None:
    from formulae import expr

    if len(node.args) != 2 or any(isinstance(a, expr.Assign) for a in node.args):
        raise FormulaError(f"{name}() in '{text}' takes a covariate and a group: {name}(x, g).")
    if _group_columns(node.args[1]) is None:
        raise FormulaError(
            f"The group in {name}(...) in '{text}' must be a column g or a combination a:b."
        )
    if any(call in GROUP_CALLS for call in _calls(node.args[0])):
        raise FormulaError(f"within() and between() cannot be nested in each other: '{text}'.")


def _group_columns(node) -> list[str] | None:
    """Columns of ``g`` or ``a:b``; None for anything else."""
    from formulae import expr

    if isinstance(node, expr.Variable) and node.level is None:
        return [node.name.lexeme]
    if isinstance(node, expr.QuotedName):
        return [node.expression.lexeme[1:-1]]
    if isinstance(node, expr.Grouping):
        return _group_columns(node.expression)
    if isinstance(node, expr.Binary) and node.operator.kind == "COLON":
        left, right = _group_columns(node.left), _group_columns(node.right)
        return None if left is None or right is None else left + right
    return None


def _calls(node) -> list[str]:
    """Names called anywhere in an expression."""
    from formulae import expr

    if isinstance(node, expr.Call):
        inner = [name for argument in node.args for name in _calls(argument)]
        return [node.callee.name.lexeme, *inner]
    parts = [getattr(node, a, None) for a in ("left", "right", "expression", "value")]
    return [name for part in parts if hasattr(part, "accept") for name in _calls(part)]


def _text(node) -> str:
    """Formula text of an expression, which parses to the same expression."""
    from formulae import expr

    if isinstance(node, expr.Variable):
        return node.name.lexeme
    if isinstance(node, expr.QuotedName):
        return node.expression.lexeme
    if isinstance(node, expr.Literal):
        return str(node.value) if node.lexeme is None else node.lexeme
    if isinstance(node, expr.Grouping):
        return f"({_text(node.expression)})"
    if isinstance(node, expr.Call):
        return f"{node.callee.name.lexeme}({', '.join(map(_text, node.args))})"
    if isinstance(node, expr.Unary):
        return f"{node.operator.lexeme}{_text(node.right)}"
    if isinstance(node, expr.Assign):
        return f"{_text(node.name)}={_text(node.value)}"
    space = "" if node.operator.kind == "COLON" else " "
    return f"{_text(node.left)}{space}{node.operator.lexeme}{space}{_text(node.right)}"
