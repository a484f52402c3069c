"""The algebra of terms: ``+ - : * / **`` and parentheses, as in R.

A term is a set of components (columns or calls) that are multiplied; the empty term is the
intercept. Components are told apart by their text. (formulae's own algebra compares calls in
a way that fails on ``scale(x) + scale(np.log(x))``, and nests ``(a + b)/c`` otherwise than R.)
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

from bayeslmm.errors import FormulaError

__all__ = ["expand_terms"]

#: A term: text of each component to its node in the syntax tree, in the order written.
Node = Any
TermNodes = dict[str, Node]


def expand_terms(tree: Node, text: str) -> list[TermNodes]:
    """Terms of a checked right-hand side with its implicit intercept, each once.

    Parameters
    ----------
    tree : formulae.expr.Expr
    text : str
        For messages.

    Returns
    -------
    list of dict
        Terms by degree (the intercept first), otherwise in the order written.

    Raises
    ------
    FormulaError
        If an operator is applied to something it has no meaning for.
    """
    expander = _Expander(text)
    terms = _union([{}], [])
    for sign, part in expander.signed_parts(tree):
        found, intercept = expander.part(part)
        if sign > 0:
            if intercept is False:
                terms = _without(terms, [{}])
            terms = _union(terms, found)
        elif intercept is False:  # minus 0 puts the intercept back
            terms = _union(terms, [{}])
        elif any(name.startswith("offset(") for term in found for name in term):
            raise FormulaError(f"offset() cannot be subtracted in '{text}': use offset(-x).")
        else:
            terms = _without(terms, found)
    return sorted(terms, key=len)


class _Expander:
    def __init__(self, text: str):
        self.text = text

    def signed_parts(self, node: Node) -> list[tuple[int, Node]]:
        """The summands of the top level with their signs."""
        from formulae import expr

        if isinstance(node, expr.Binary) and node.operator.kind in ("PLUS", "MINUS"):
            sign = 1 if node.operator.kind == "PLUS" else -1
            return [*self.signed_parts(node.left), (sign, node.right)]
        if isinstance(node, expr.Unary) and node.operator.kind == "MINUS":
            return [(-1, node.right)]
        if isinstance(node, expr.Unary):
            return self.signed_parts(node.right)
        return [(1, node)]

    def part(self, node: Node) -> tuple[list[TermNodes], bool | None]:
        """Terms of a summand, and whether it says anything of the intercept (0: False)."""
        from formulae import expr

        if isinstance(node, expr.Literal):
            return ([{}], True) if node.value == 1 else ([], False)
        if isinstance(node, expr.Grouping):
            terms: list[TermNodes] = []
            removed = None
            for sign, inner in self.signed_parts(node.expression):
                found, intercept = self.part(inner)
                removed = False if intercept is False and sign > 0 else removed
                removed = False if sign < 0 and found == [{}] else removed
                terms = _union(terms, found) if sign > 0 else _without(terms, found)
            return terms, removed
        return self.product(node), None

    def product(self, node: Node) -> list[TermNodes]:
        from formulae import expr

        if isinstance(node, expr.Binary):
            return self.binary(node)
        if isinstance(node, expr.Variable):
            return [{node.name.lexeme: node}]
        if isinstance(node, expr.QuotedName):
            return [{node.expression.lexeme[1:-1]: node}]
        if isinstance(node, expr.Call):
            from formulae.terms.call_resolver import CallResolver

            return [{str(CallResolver(node).resolve()): node}]
        if isinstance(node, expr.Grouping | expr.Literal):
            return self.part(node)[0]
        raise FormulaError(f"Cannot make terms of '{self.text}'.")

    def binary(self, node: Node) -> list[TermNodes]:
        kind = node.operator.kind
        if kind in ("PLUS", "MINUS"):
            raise FormulaError(f"Put sums inside products in parentheses in '{self.text}'.")
        left = self.product(node.left)
        if kind == "STAR_STAR":
            return _power(left, node.right.value)
        right = self.product(node.right)
        if kind == "COLON":
            return _cross(left, right)
        if kind == "STAR":
            return _union(left, right, _cross(left, right))
        if kind == "SLASH":  # (a + b)/c is a + b + a:b:c
            return _union(left, _cross([_joined(left)], right))
        raise FormulaError(f"'{node.operator.lexeme}' has no meaning in '{self.text}'.")


def _joined(terms: list[TermNodes]) -> TermNodes:
    return {name: node for term in terms for name, node in term.items()}


def _cross(left: list[TermNodes], right: list[TermNodes]) -> list[TermNodes]:
    return _union([{**a, **b} for a in left for b in right])


def _power(terms: list[TermNodes], order: int) -> list[TermNodes]:
    products = [
        _joined(list(chosen))
        for size in range(1, order + 1)
        for chosen in combinations(terms, size)
    ]
    return _union(products)


def _union(*lists: list[TermNodes]) -> list[TermNodes]:
    """In order, each set of components once (``b:a`` is ``a:b``)."""
    found: dict[frozenset, TermNodes] = {}
    for term in (term for terms in lists for term in terms):
        found.setdefault(frozenset(term), term)
    return list(found.values())


def _without(terms: list[TermNodes], removed: list[TermNodes]) -> list[TermNodes]:
    gone = {frozenset(term) for term in removed}
    return [term for term in terms if frozenset(term) not in gone]
