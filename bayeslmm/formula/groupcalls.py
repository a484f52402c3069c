"""Calls of ``within(x, g)`` and ``between(x, g)``, which are columns of their own.

Each is computed in :mod:`bayeslmm.formula.groupmeans`, because formulae's stateful transforms see
one column at a time and no groups. Its text is the name of its column.
"""

from __future__ import annotations

from dataclasses import dataclass

from bayeslmm.errors import FormulaError
from bayeslmm.formula.expressions import GROUP_CALLS, GroupMean, source
from bayeslmm.formula.reading import read_arithmetic
from bayeslmm.formula.tokens import scan

__all__ = ["GroupCall", "group_call", "written_call"]


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
    try:
        node = read_arithmetic(scan(name), name, "column")
    except FormulaError:
        return None
    if not isinstance(node, GroupMean):
        return None
    return GroupCall(node.kind, source(node.covariate), node.groups)


def written_call(name: str) -> GroupCall:
    """The call that a column's name is known to stand for.

    Raises
    ------
    FormulaError
        If it stands for none.
    """
    call = group_call(name)
    if call is None:
        raise FormulaError(f"'{name}' is not a call of within() or between().")
    return call
