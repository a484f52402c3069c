"""The right side of a bar: which columns make a grouping factor.

``a/b`` is ``a`` and ``a:b``; ``a:b`` is one factor whose levels are the observed
combinations; ``a + b`` repeats the effects for each factor, as in formulae.
"""

from __future__ import annotations

from bayeslmm.errors import FormulaError

__all__ = ["grouping_factors"]

#: Factors that the right side of one bar may stand for; a*b*... of 30 columns would be 2^30.
_MOST_FACTORS = 100
_AS_FACTOR = {"factor", "as.factor", "C", "S", "T"}


def grouping_factors(tokens: list, shown: str) -> list[tuple[str, ...]]:
    """Grouping factors named by the right side of a bar.

    Parameters
    ----------
    tokens : list
        Tokens right of the bar.
    shown : str
        The whole random term, for messages.

    Returns
    -------
    list of tuple of str
        Columns of each factor, in the order written.

    Raises
    ------
    FormulaError
        If something other than names, ``:``, ``/``, ``*``, ``+`` and parentheses is found.
    """
    reader = _Reader(tokens, shown)
    factors = reader.sum()
    if not reader.done:
        raise FormulaError(reader.complaint())
    return factors


class _Reader:
    """Recursive descent over ``+`` < ``* /`` < ``:`` < name or parentheses."""

    def __init__(self, tokens: list, shown: str):
        self.tokens, self.shown, self.at = tokens, shown, 0

    @property
    def done(self) -> bool:
        return self.at >= len(self.tokens)

    def accept(self, *kinds: str):
        if not self.done and self.tokens[self.at].kind in kinds:
            self.at += 1
            return self.tokens[self.at - 1]
        return None

    def complaint(self) -> str:
        found = "nothing" if self.done else f"'{self.tokens[self.at].lexeme}'"
        return (
            f"Cannot read the grouping factor of {self.shown}: found {found} where a column name "
            "was expected. A grouping factor is a column g, an interaction a:b or a nesting a/b; "
            "anything else is made a column of the data first."
        )

    def sum(self) -> list[tuple[str, ...]]:
        factors = self.product()
        while self.accept("PLUS"):
            factors = _union(factors, self.product())
        return factors

    def product(self) -> list[tuple[str, ...]]:
        factors = self.interaction()
        while operator := self.accept("SLASH", "STAR"):
            right = self.interaction()
            if operator.kind == "STAR":
                factors = _union(factors, right, self.cross(factors, right))
            else:  # (a + b)/c is a + b + a:b:c, as in R
                outer = tuple(dict.fromkeys(column for factor in factors for column in factor))
                factors = _union(factors, self.cross([outer], right))
        return factors

    def cross(self, left: list, right: list) -> list[tuple[str, ...]]:
        if len(left) * len(right) > _MOST_FACTORS:
            raise FormulaError(
                f"The grouping factors of {self.shown} are more than {_MOST_FACTORS}. Name the "
                "combinations that are wanted: (1 | a) + (1 | a:b)."
            )
        return _cross(left, right)

    def interaction(self) -> list[tuple[str, ...]]:
        factors = self.atom()
        while self.accept("COLON"):
            factors = self.cross(factors, self.atom())
        return factors

    def atom(self) -> list[tuple[str, ...]]:
        if self.accept("LEFT_PAREN"):
            factors = self.sum()
            if not self.accept("RIGHT_PAREN"):
                raise FormulaError(self.complaint())
            return factors
        token = self.accept("IDENTIFIER", "BQNAME")
        if token is None:
            raise FormulaError(self.complaint())
        name = token.lexeme.strip("`")
        if self.accept("LEFT_PAREN"):
            if name in _AS_FACTOR:
                raise FormulaError(
                    f"{self.shown}: write the column itself, without {name}(): a grouping factor "
                    "is always categorical."
                )
            raise FormulaError(
                f"{self.shown}: a grouping factor cannot be the call {name}(...). "
                "Make it a column of the data first."
            )
        return [(name,)]


def _cross(left: list, right: list) -> list[tuple[str, ...]]:
    return [tuple(dict.fromkeys(a + b)) for a in left for b in right]


def _union(*lists: list) -> list[tuple[str, ...]]:
    """In order, each set of columns once (``b:a`` is ``a:b``)."""
    found: dict[frozenset, tuple[str, ...]] = {}
    for factor in (factor for factors in lists for factor in factors):
        found.setdefault(frozenset(factor), factor)
    return list(found.values())
