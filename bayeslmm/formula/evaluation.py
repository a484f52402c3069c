"""Trees of calls and arithmetic as formulae evaluates them, on rows of a frame.

formulae's transforms, codings and kinds of terms are used as they are. Arithmetic is ours: it has
the structure the formula has, and numbers that computers do not have are errors.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np

from bayeslmm.errors import DataError, FormulaError
from bayeslmm.formula.expressions import Call, Constant, Name, Node, Operation, Sign, printed

__all__ = ["component_of"]

_COMPARISONS: dict[str, Callable] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
}
_ARITHMETIC: dict[str, Callable] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "**": operator.pow,
}
#: Of whole numbers numpy gives whole numbers: a power wraps around at 2^63, 1/2 is 0.
_IN_FLOATING_POINT = {
    f"{module}.{name}" for module in ("np", "numpy") for name in ("power", "square", "reciprocal")
}
#: Bits of the largest whole number that floating point can stand for.
_MOST_BITS = 1024
#: The option (and its position) that says how many columns a transform makes.
_WIDTHS = {
    "bs": (("df", 1), ("degree", 3)),
    "cr": (("df", 1),),
    "cc": (("df", 2),),
    "poly": (("degree", 1),),
}
_MOST_COLUMNS = 1000


def component_of(node: Node):
    """formulae's component of a term for a tree, ready to be evaluated."""
    from formulae.terms import Call as FormulaeCall
    from formulae.terms import Variable

    if isinstance(node, Call):
        return FormulaeCall(_lazy(node))
    if isinstance(node, Name) and node.quoted:  # a name of its own, as only a call has one
        return FormulaeCall(FunctionCall(printed(node), "I", [Column(node.name)], {}))
    return Variable(printed(node))


def _lazy(node: Node):
    match node:
        case Call("me", arguments, _):  # new data need not have the errors of their readings
            return FunctionCall(printed(node), "I", [_lazy(arguments[0])], {})
        case Call(function, arguments, options):
            named = {name: _lazy(value) for name, value in options}
            return FunctionCall(printed(node), function, [_lazy(a) for a in arguments], named)
        case Sign(sign, operand):
            return Arithmetic(printed(node), (sign,), [_lazy(operand)])
        case Operation(operators, operands):
            return Arithmetic(printed(node), operators, [_lazy(o) for o in operands])
        case Constant(value, _):
            return Value(printed(node), value)
    return Column(printed(node))


class Column:
    """A column of the frame, or a constant of the namespace."""

    def __init__(self, name: str):
        self.name = name

    def __str__(self) -> str:
        return self.name

    def eval(self, frame, env):
        """Its values."""
        try:
            return frame[self.name]
        except KeyError:
            return env.namespace[self.name]


class Value:
    """A constant."""

    def __init__(self, text: str, value: Any):
        self.text, self.value = text, value

    def __str__(self) -> str:
        return self.text

    def eval(self, frame, env):
        """The constant."""
        return self.value


class FunctionCall:
    """A call; a stateful transform keeps what it learned.

    Attributes
    ----------
    callee : str
    args : list
    kwargs : dict of str
    stateful_transform : object or None
    """

    def __init__(self, text: str, callee: str, args: list, kwargs: dict[str, Any]):
        self.text, self.callee, self.args, self.kwargs = text, callee, args, kwargs
        self.stateful_transform = None

    def __str__(self) -> str:
        return self.text

    def __deepcopy__(self, memo) -> FunctionCall:  # few frames for each of the nested calls
        kwargs = {name: deepcopy(value, memo) for name, value in self.kwargs.items()}
        args = [deepcopy(arg, memo) for arg in self.args]
        copy = FunctionCall(self.text, self.callee, args, kwargs)
        copy.stateful_transform = deepcopy(self.stateful_transform, memo)
        return copy

    def eval(self, frame, env):
        """What the function returns."""
        from formulae.terms.call_resolver import get_function_from_module

        function = get_function_from_module(self.callee, env)
        if getattr(function, "__stateful_transform__", False) and self.stateful_transform is None:
            self._refuse_width(frame, env)
            self.stateful_transform = function()
        function = self.stateful_transform or function
        args = [arg.eval(frame, env) for arg in self.args]
        if self.callee in _IN_FLOATING_POINT:
            args = [_float(arg) for arg in args]
        return function(*args, **{name: arg.eval(frame, env) for name, arg in self.kwargs.items()})

    def _refuse_width(self, frame, env) -> None:
        for name, position in _WIDTHS.get(self.callee, ()):
            given = self.kwargs.get(name, *self.args[position : position + 1])
            wanted = given.eval(frame, env) if given is not None else None
            if isinstance(wanted, int | float) and wanted > _MOST_COLUMNS:
                raise FormulaError(
                    f"'{self}' asks for {wanted:,} columns; a formula's function makes at most "
                    f"{_MOST_COLUMNS:,}. Take a smaller {name}."
                )


class Arithmetic:
    """Operators of one precedence from left to right; a single argument has a sign."""

    def __init__(self, text: str, operators: tuple[str, ...], args: list):
        self.text, self.operators, self.args = text, operators, args

    def __str__(self) -> str:
        return self.text

    def __deepcopy__(self, memo) -> Arithmetic:
        args = [deepcopy(arg, memo) for arg in self.args]
        return Arithmetic(self.text, self.operators, args)

    @property
    def value(self):
        """The result of constants, which formulae asks a constant offset for."""
        return self.eval({}, None)

    def eval(self, frame, env):
        """The result, one value per row or a constant."""
        if self.operators[0] in _COMPARISONS:
            return self._compared([arg.eval(frame, env) for arg in self.args])
        result = self._number(self.args[0].eval(frame, env))
        if len(self.args) == 1:
            return -result if self.operators[0] == "-" else +result
        for symbol, arg in zip(self.operators, self.args[1:], strict=True):
            result = self._applied(symbol, result, self._number(arg.eval(frame, env)))
        return result

    def _compared(self, values: list):
        """``a < b < c`` holds where both comparisons do."""
        result = _COMPARISONS[self.operators[0]](values[0], values[1])
        for at, symbol in enumerate(self.operators[1:], start=1):
            result = result & _COMPARISONS[symbol](values[at], values[at + 1])
        return result

    def _number(self, value):
        """True and False are the numbers 1 and 0, for which numpy's sum would be "or"."""
        if isinstance(value, str):
            raise FormulaError(f"'{self}' is arithmetic with the text {value!r}.")
        if isinstance(value, bool | np.bool_):
            return int(value)
        return value.astype(np.int64) if _kind(value) == "b" else value

    def _applied(self, symbol: str, a, b):
        apply = _ARITHMETIC[symbol]
        if symbol == "**":
            a = self._base(a, b)
        result = apply(a, b)
        if symbol == "/" or _kind(result) not in ("i", "u"):
            return result
        with np.errstate(all="ignore"):  # whole numbers beyond 2^63 wrap around without a word
            if np.any(np.abs(np.asarray(apply(_float(a), _float(b)), dtype=float)) >= 2.0**63):
                raise DataError(
                    f"'{self}' goes beyond 2^63, where whole numbers wrap around. Make its columns "
                    "floating-point numbers (.astype(float)), or rescale them."
                )
        return result

    def _base(self, a, b):
        """The base of a power, in floating point where a whole one has no such power."""
        if isinstance(a, int) and isinstance(b, int):
            if b > 0 and (abs(a).bit_length() - 1) * b > _MOST_BITS:
                raise FormulaError(
                    f"'{self}' is beyond 2^{_MOST_BITS}, the largest number a computer "
                    "calculates with."
                )
        elif np.asarray(b).dtype.kind in "iu" and np.any(np.asarray(b) < 0):
            return _float(a)
        return a


def _kind(value) -> str:
    """Kind of an array's numbers; empty for a Python number, which has no fixed size."""
    return value.dtype.kind if hasattr(value, "dtype") else ""


def _float(value):
    return value.astype(float) if hasattr(value, "astype") else float(value)
