"""From a formula and a data frame to a :class:`Design`.

This room knows formulae and pandas; nothing in it knows a likelihood or a prior.
"""

from bayeslmm.formula.building import build_design
from bayeslmm.formula.design import Design
from bayeslmm.formula.missing import MissingRows
from bayeslmm.formula.random import RandomBlock
from bayeslmm.formula.syntax import Bar, ParsedFormula, parse_formula

__all__ = [
    "Bar",
    "Design",
    "MissingRows",
    "ParsedFormula",
    "RandomBlock",
    "build_design",
    "parse_formula",
]
