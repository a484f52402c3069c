"""Arithmetic inside calls is Python's: any expression against Python's own reading of its text."""

from __future__ import annotations

import ast
import math
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import bayeslmm as blm
from bayeslmm.formula import build_design

ROWS = 12
_rng = np.random.default_rng(3)
FRAME = pd.DataFrame(
    {
        "x": _rng.normal(size=ROWS).round(3),
        "z": _rng.uniform(0.5, 3.0, ROWS).round(3),
        "k": np.tile([-2, -1, 1, 2, 3, 4], 2),
        "b": np.arange(ROWS) % 3 == 0,
        "y": _rng.normal(size=ROWS),
    }
)
#: What Python needs to evaluate the same text row by row; np.maximum is its max there.
FUNCTIONS = {"exp": math.exp, "abs": abs, "np": type("np", (), {"maximum": max, "sqrt": math.sqrt})}


def _python(text: str) -> np.ndarray:
    """Python's value of each row, of Python's own numbers."""
    rows = [{name: value.item() for name, value in row.items()} for row in _rows()]
    return np.array([float(eval(text, {**FUNCTIONS, **row})) for row in rows])


def _rows():
    return [{name: FRAME[name].to_numpy()[i] for name in FRAME} for i in range(ROWS)]


def _has_a_column(text: str) -> bool:
    return re.search(r"\b[xzkb]\b", text) is not None


def _column(text: str) -> np.ndarray:
    return build_design(f"y ~ 0 + {text}", FRAME).X[:, 0]


_LEAVES = ["x", "z", "k", "b", "2", "3", "0.5", "1"]
_LEVELS = [[" + ", " - ", "*", " / "], ["**", "**", "*"], [" < ", " <= ", " == ", " > "]]
_FORMS = ["-{}", "+{}", "({})", "abs({})", "np.maximum({}, {})"]


@st.composite
def expressions(draw, depth=3):
    """Text of an expression, with too few and too many parentheses."""
    if depth == 0 or draw(st.integers(0, 4)) == 0:
        return draw(st.sampled_from(_LEAVES))
    inner = expressions(depth - 1)
    if draw(st.booleans()):
        form = draw(st.sampled_from(_FORMS))
        return form.format(*(draw(inner) for _ in range(form.count("{}"))))
    text, symbols = draw(inner), draw(st.sampled_from(_LEVELS))
    for _ in range(draw(st.integers(1, 3))):
        text += draw(st.sampled_from(symbols)) + draw(inner)
    return text


# the same examples each time: where large numbers cancel, powers of libm and numpy may differ
_relaxed = settings(derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@settings(_relaxed, max_examples=200)
@given(text=expressions())
def test_any_expression_has_the_values_python_gives_its_text(text):
    assume(_has_a_column(text))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            wanted = _python(text)
        except (ZeroDivisionError, OverflowError, TypeError):  # complex numbers have no float()
            wanted = None
        found, error = None, ""
        try:
            found = _column(f"I({text})")
        except blm.BayesLMMError as refused:
            error = str(refused)
    if found is None:
        # whole numbers that a column cannot hold, or an inner part that is no real number
        excused = "beyond 2^63" in error or ("**" in text and "finite" in error)
        assert wanted is None or excused, error
    elif wanted is not None:
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)
    # where Python has no number of an inner part, numpy may still have one of the whole


@settings(_relaxed, max_examples=80)
@given(one=expressions(), other=expressions())
def test_terms_are_the_same_where_python_reads_the_same_tree(one, other):
    assume(_has_a_column(one) and _has_a_column(other))
    try:
        build_design(f"y ~ 0 + I({one})", FRAME)
        build_design(f"y ~ 0 + I({other})", FRAME)
    except blm.BayesLMMError:
        return
    same = ast.dump(ast.parse(one, mode="eval")) == ast.dump(ast.parse(other, mode="eval"))
    names = build_design(f"y ~ 0 + I({one}) + I({other})", FRAME).coef_names
    assert len(names) == (1 if same else 2)
    # the printed name reads as what it names
    for name, text in zip(names, (one, other), strict=False):
        tree = ast.dump(ast.parse(name[2:-1], mode="eval"))
        assert tree == ast.dump(ast.parse(text, mode="eval"))


X, Z, K, B = (FRAME[name].to_numpy() for name in ("x", "z", "k", "b"))


@pytest.mark.parametrize(
    ("text", "wanted", "name"),
    [
        ("I(-x**2)", -(X**2), "I(-x ** 2)"),
        ("I((-x)**2)", X**2, "I((-x) ** 2)"),
        ("exp(-x^2)", np.exp(-(X**2)), "exp(-x ** 2)"),
        ("I(x**3**2)", X**9, "I(x ** 3 ** 2)"),
        ("I((x**3)**2)", X**6, "I((x ** 3) ** 2)"),
        ("I(2**-k)", 2.0**-K, "I(2 ** -k)"),
        ("I(k**-1)", 1 / K, "I(k ** -1)"),
        ("I(0 < x < 1)", (X > 0) & (X < 1), "I(0 < x < 1)"),
        ("I((0 < x) < 1)", X <= 0, "I((0 < x) < 1)"),
        ("I(z / (x * z))", 1 / X, "I(z / (x * z))"),
        ("I(x - (z - k))", X - (Z - K), "I(x - (z - k))"),
        ("I((x - z) - k)", X - Z - K, "I(x - z - k)"),
        ("{-x**2}", -(X**2), "I(-x ** 2)"),
        ("I((x > 0) + b)", (X > 0).astype(int) + B, "I((x > 0) + b)"),
        ("I(-b)", -1.0 * B, "I(-b)"),
        ("np.reciprocal(k)", 1 / K, "np.reciprocal(k)"),
        ("np.square(k)", K**2, "np.square(k)"),
        ("I(x * 2**100 / 2**100)", X, "I(x * 2 ** 100 / 2 ** 100)"),
    ],
)
def test_precedence_and_names(text, wanted, name):
    design = build_design(f"y ~ 0 + {text}", FRAME)
    np.testing.assert_allclose(design.X[:, 0], wanted, rtol=1e-12, atol=1e-15)
    assert design.coef_names == (name,)
    np.testing.assert_array_equal(design.evaluate(FRAME).X, design.X)


def test_terms_that_were_printed_alike_are_both_there():
    design = build_design("y ~ 0 + I((x + z)*x) + I(x + z*x) + I(x + (z*x))", FRAME)
    assert design.coef_names == ("I((x + z) * x)", "I(x + z * x)")
    np.testing.assert_allclose(design.X, np.column_stack([(X + Z) * X, X + Z * X]))


def test_a_column_called_as_a_call_is_told_from_it():
    data = FRAME.assign(**{"exp(x)": Z})
    design = build_design("y ~ 0 + exp(x) + `exp(x)`", data)
    assert design.coef_names == ("exp(x)", "`exp(x)`")
    np.testing.assert_allclose(design.X, np.column_stack([np.exp(X), Z]))
    np.testing.assert_array_equal(design.evaluate(data).X, design.X)
    assert build_design("y ~ `exp(x)`", data).coef_names == ("Intercept", "exp(x)")
    for formula in ("y ~ exp(x) + (0 + `exp(x)` | k)", "y ~ exp(x) + log(`exp(x)`)"):
        with pytest.raises(blm.FormulaError, match="both exp\\(x\\) and `exp\\(x\\)`"):
            build_design(formula, data)


def test_a_column_called_as_an_interaction_is_told_from_it():
    with pytest.raises(blm.FormulaError, match="both called x:z"):
        build_design("y ~ x:z + `x:z`", FRAME.assign(**{"x:z": Z}))


def test_all_variables_of_an_offset_count_as_used_by_it():
    data = FRAME.assign(w=np.where(np.arange(ROWS) == 4, np.nan, Z))
    with pytest.raises(blm.BayesLMMError, match="'w'"):
        build_design("y ~ x + offset(log(z) + w)", data, missing="model")


@pytest.mark.parametrize("text", ["log(k**40)", "scale(k * 10**18 * 10)", "I(k**62 * 0.5)"])
def test_whole_numbers_never_wrap_around_inside_a_call(text):
    with pytest.raises(blm.DataError, match=r"beyond 2\^63"):
        _column(text)
