"""What a formula may call, and nothing else.

A formula is code: formulae resolves ``np.f2py.os.system("...")`` as happily as
``np.log(x)``. Every call in a formula is therefore looked up, by its exact name, in a fixed
table before anything is evaluated. Functions of the user's own are passed explicitly
(``LMM(..., namespace={"f": f})``) and are never taken from a calling frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from bayeslmm.errors import FormulaError, suggestion
from bayeslmm.formula.expressions import GROUP_CALLS, MEASURED

__all__ = ["STATEFUL", "base_namespace", "check_namespace", "evaluation_environment"]

# Transforms of formulae that remember what they learned from the fitted rows, so that new
# data are treated the same way.
STATEFUL = frozenset({"center", "scale", "standardize", "poly", "bs", "cr", "cc"})
_CODINGS = frozenset({"C", "S", "T", "Treatment", "Sum", "I", "offset"})

# Elementwise functions only: a function of the whole column (np.mean, rank) would be
# recomputed from new data and give other numbers there.
_ELEMENTWISE = [
    "abs",
    "absolute",
    "arccos",
    "arccosh",
    "arcsin",
    "arcsinh",
    "arctan",
    "arctan2",
    "arctanh",
    "cbrt",
    "ceil",
    "clip",
    "cos",
    "cosh",
    "deg2rad",
    "exp",
    "exp2",
    "expm1",
    "fabs",
    "floor",
    "hypot",
    "log",
    "log10",
    "log1p",
    "log2",
    "logaddexp",
    "maximum",
    "minimum",
    "mod",
    "power",
    "rad2deg",
    "reciprocal",
    "rint",
    "round",
    "sign",
    "sin",
    "sinh",
    "sqrt",
    "square",
    "tan",
    "tanh",
    "trunc",
    "where",
    "logical_and",
    "logical_not",
    "logical_or",
]
_BARE = [
    "abs",
    "exp",
    "log",
    "log10",
    "log1p",
    "log2",
    "sqrt",
    "sin",
    "cos",
    "tan",
    "expm1",
    "floor",
    "ceil",
    "round",
    "sign",
]

_R_HABITS = {
    "factor": "C({0})",
    "as.factor": "C({0})",
    "as.numeric": "{0}",
    "ns": "bs({0}, df=...)",
    "s": "bs({0}, df=...)",
    "relevel": 'C({0}, Treatment("level"))',
    "cbind": "successes of trials ~ ... for counts of trials, else one response at a time",
}


class _Elementwise:
    """A numpy function that takes its inputs only: one more would be numpy's `out`."""

    def __init__(self, name: str):
        self.name = name

    def __call__(self, *arguments):
        function = getattr(np, self.name)
        if len(arguments) != function.nin:
            raise TypeError(f"{self.name}() takes {function.nin} argument(s), not {len(arguments)}")
        return function(*arguments)

    def __reduce__(self):  # a process that is sent a model has the function already
        return _guarded, (self.name,)


@cache
def _guarded(name: str) -> Callable:
    function = getattr(np, name)
    return _Elementwise(name) if isinstance(function, np.ufunc) else function


@cache
def _names() -> dict[str, Any]:
    numpy = SimpleNamespace(**{name: _guarded(name) for name in _ELEMENTWISE})  # what is allowed
    return {name: _guarded(name) for name in _BARE} | {"np": numpy, "numpy": numpy, "pi": np.pi}


def base_namespace() -> dict[str, Any]:
    """Names every formula can use besides formulae's transforms."""
    return dict(_names())


@cache
def _calls() -> frozenset[str]:
    names = STATEFUL | _CODINGS | set(_BARE) | GROUP_CALLS | {MEASURED}
    return names | {f"{module}.{name}" for module in ("np", "numpy") for name in _ELEMENTWISE}


def allowed_calls(namespace: Mapping[str, Any]) -> Set[str]:
    """Exact names a formula may call."""
    return _calls() | {name for name, value in namespace.items() if callable(value)}


def check_namespace(namespace: Mapping[str, Any] | None) -> dict[str, Any]:
    """The user's own functions and constants, checked.

    Raises
    ------
    FormulaError
        If a key is not a plain name or would hide a name that formulas already have.
    """
    namespace = dict(namespace or {})
    for name in namespace:
        if not isinstance(name, str) or not name.isidentifier():
            raise FormulaError(f"namespace: {name!r} is not a plain Python name.")
        if name in STATEFUL | _CODINGS | set(_names()) | GROUP_CALLS | {MEASURED}:
            raise FormulaError(
                f"namespace: {name!r} would hide the function of that name that every formula "
                "has. Give yours another name."
            )
    return namespace


def evaluation_environment(namespace: Mapping[str, Any]):
    """formulae's environment holding our names and the user's, and no calling frame."""
    from formulae.environment import Environment

    return Environment([{**base_namespace(), **namespace}])


def unknown_call_message(name: str, first_argument: str, allowed: Set[str]) -> str:
    """What to say when a formula calls something that is not in the table."""
    if name in _R_HABITS:
        return f"There is no {name}() here; write {_R_HABITS[name].format(first_argument)}."
    return (
        f"The formula calls {name}(), which is not among the functions a formula may use: "
        f"{', '.join(sorted(n for n in allowed if '.' not in n))} and np.* (elementwise)."
        f"{suggestion(name, allowed, 3, quoted=False)} A function of your own is passed as "
        "LMM(..., namespace={...}) under a plain name, or its result is made a column of the "
        "data first."
    )
