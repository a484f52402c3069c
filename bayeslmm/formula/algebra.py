"""The algebra of terms: ``+ - : * / **`` and parentheses, as in R.

A term is a set of components (columns or calls) that are multiplied; the empty term is the
intercept. Components are told apart by their structure.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations

from bayeslmm.errors import FormulaError, shortened
from bayeslmm.formula.expressions import (
    Call,
    Constant,
    Group,
    Node,
    Operation,
    Sum,
    printed,
    source,
)

__all__ = ["expand_terms"]

#: A term: exact text of each component to its tree, in the order written.
TermNodes = dict[str, Node]

#: What a product or a power may stand for; a * b * ... of 30 columns would be 2^30 terms.
_MOST_TERMS = 10_000


def expand_terms(tree: Node, text: str) -> list[TermNodes]:
    """Terms of a checked right-hand side with its implicit intercept, each once.

    Parameters
    ----------
    tree : Node
    text : str
        For messages.

    Returns
    -------
    list of dict
        Terms by degree (the intercept first), otherwise in the order written.

    Raises
    ------
    FormulaError
        If an operator is applied to something it has no meaning for, or stands for too many
        terms.
    """
    return list(_expanded(tree, text))


@lru_cache(maxsize=128)
def _expanded(tree: Node, text: str) -> tuple[TermNodes, ...]:
    found: dict[frozenset, TermNodes] = {frozenset(): {}}
    for sign, part in _signed_parts(tree):
        terms, intercept = _part(part)
        if sign > 0:
            if intercept is False:
                found.pop(frozenset(), None)
            _add(found, terms)
        elif intercept is False:  # minus 0 puts the intercept back
            _add(found, [{}])
        elif any(_is_offset(node) for term in terms for node in term.values()):
            raise FormulaError(f"offset() cannot be subtracted in '{text}': use offset(-x).")
        else:
            for term in terms:
                found.pop(frozenset(term), None)
    return tuple(sorted(found.values(), key=len))


def _is_offset(node: Node) -> bool:
    return isinstance(node, Call) and node.function == "offset"


def _signed_parts(node: Node) -> tuple[tuple[int, Node], ...]:
    return node.parts if isinstance(node, Sum) else ((1, node),)


def _part(node: Node) -> tuple[list[TermNodes], bool | None]:
    """Terms of a summand, and whether it says anything of the intercept (0: False)."""
    if isinstance(node, Constant):
        return ([{}], True) if node.value == 1 else ([], False)
    if isinstance(node, Group):
        terms: dict[frozenset, TermNodes] = {}
        removed = None
        for sign, inner in _signed_parts(node.inside):
            found, intercept = _part(inner)
            removed = False if intercept is False and sign > 0 else removed
            removed = False if sign < 0 and found == [{}] else removed
            if sign > 0:
                _add(terms, found)
            else:
                for term in found:
                    terms.pop(frozenset(term), None)
        return list(terms.values()), removed
    return _product(node), None


def _product(node: Node) -> list[TermNodes]:
    if isinstance(node, Constant | Group):
        return _part(node)[0]
    if not isinstance(node, Operation):
        return [{source(node): node}]
    left = _product(node.operands[0])
    for operator, operand in zip(node.operators, node.operands[1:], strict=True):
        if operator == "**":
            # checked where the text was read
            assert isinstance(operand, Constant)
            assert isinstance(operand.value, int)
            left = _power(left, operand.value, node)
            continue
        right = _product(operand)
        if operator == ":":
            left = _cross(left, right, node)
        elif operator == "*":
            left = _union(left, right, _cross(left, right, node))
        else:  # (a + b)/c is a + b + a:b:c
            left = _union(left, _cross([_joined(left)], right, node))
    return left


def _joined(terms: list[TermNodes]) -> TermNodes:
    return {name: node for term in terms for name, node in term.items()}


def _cross(left: list[TermNodes], right: list[TermNodes], node: Node) -> list[TermNodes]:
    _bound(len(left) * len(right), node)
    return _union([{**a, **b} for a in left for b in right])


def _power(terms: list[TermNodes], order: int, node: Node) -> list[TermNodes]:
    products: dict[frozenset, TermNodes] = {}
    made = 0
    for size in range(1, min(order, len(terms)) + 1):
        for chosen in combinations(terms, size):
            made += 1
            _bound(made, node)
            product = _joined(list(chosen))
            products.setdefault(frozenset(product), product)
    return list(products.values())


def _bound(n_terms: int, node: Node) -> None:
    if n_terms > _MOST_TERMS:
        raise FormulaError(
            f"'{shortened(printed(node))}' stands for more than {_MOST_TERMS:,} terms. Name "
            "the interactions that are wanted: a + b + a:b, or (a + b + c)**2 for all of two."
        )


def _add(found: dict[frozenset, TermNodes], terms: list[TermNodes]) -> None:
    for term in terms:
        found.setdefault(frozenset(term), term)


def _union(*lists: list[TermNodes]) -> list[TermNodes]:
    """In order, each set of components once (``b:a`` is ``a:b``)."""
    found: dict[frozenset, TermNodes] = {}
    for terms in lists:
        _add(found, terms)
    return list(found.values())
