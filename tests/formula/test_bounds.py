"""Formulas that would not end, or that recurse too deeply, end in a sentence."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.formula import build_design


def _many(n: int, sign: str, letter: str = "v") -> str:
    return sign.join(f"{letter}{i}" for i in range(n))


@pytest.fixture(scope="module")
def wide() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    data = pd.DataFrame(rng.normal(size=(96, 40)), columns=[f"v{i}" for i in range(40)])
    for i in range(30):
        data[f"f{i}"] = np.array(["u", "v"])[rng.integers(0, 2, 96)]
    return data.assign(y=rng.normal(size=96), g=np.arange(96) % 12)


ENDLESS = [
    ("y ~ I(v0 + 2**(2**(2**6)))", r"I\(v0 \+ 2 \*\* 2 \*\* 2 \*\* 6\).*beyond 2\^1024"),
    ("y ~ I(v0 * 9**9**9**9)", r"I\(v0 \* 9 .*beyond 2\^1024"),
    ("I(y * 10**10**10) ~ v0", r"10 \*\* 10 \*\* 10.*beyond 2\^1024"),
    ("y ~ I('a' * 1000000000)", "arithmetic with the text 'a'"),
    ("y ~ (v0 + v1 + v2)**0", "1 or more"),
    (f"y ~ ({_many(30, '+')})**1000000", "more than 10,000 terms"),
    (f"y ~ {_many(30, '*')}", r"v0 \* v1 .*more than 10,000 terms"),
    (f"y ~ 1 + ({_many(30, '*')} | g)", "more than 10,000 terms"),
    (f"y ~ {_many(12, '*')}", "4,096 terms, and there are 96 rows"),
    (f"y ~ 1 + (1 | {_many(30, '*', 'f')})", "grouping factors.*more than 100"),
    (f"y ~ {_many(30, ':', 'f')}", "has 30 factors"),
    (f"y ~ {':'.join(f'C(f{i})' for i in range(20))}", "has 20 factors"),
    ("y ~ bs(v0, df=1000000)", r"bs\(v0, df=1000000\).*1,000,000 columns"),
    ("y ~ bs(v0, 2**30)", r"bs\(v0, 2 \*\* 30\).*columns"),
    ("y ~ v0 + (poly(v1, 10**9) | g)", r"poly\(v1, 10 \*\* 9\).*columns"),
    (f"y ~ {'(' * 100}v0{')' * 100}", "more than 25 brackets"),
    (f"y ~ {'I(' * 100}v0{')' * 100}", "more than 25 brackets"),
    (f"y ~ I({'-' * 500}v0)", "nested too deeply"),
    (f"y ~ I(v0{'**1' * 300})", "nested too deeply"),
    ("y ~ v0 + ²", "number that cannot be read"),
    ("y ~ I(v0**²)", "number that cannot be read"),
    (f"y ~ I(1{'0' * 5000} * v0)", "number that cannot be read"),
    ("y ~ v0 + (y | g)", "response 'y' is among the predictors"),
    ("y ~ y", "response 'y' is among the predictors"),
    ("y ~ I(v0[a])", "picks a level"),
    ("y ~ `within(v0)`", "no column 'within\\(v0\\)'"),
    ("y ~ I(v0 * (-8)**0.5)", "complex"),
    ("y ~ C(y)", "coefficients and 96 rows"),
]


@pytest.mark.parametrize(("formula", "message"), ENDLESS, ids=[f[0][:40] for f in ENDLESS])
def test_what_cannot_be_computed_is_refused_before_it_is_tried(wide, formula, message):
    start = time.perf_counter()
    with pytest.raises(blm.BayesLMMError, match=message):
        blm.LMM(formula, wide)
    # endless ones took minutes to years; each takes some milliseconds now
    assert time.perf_counter() - start < 20


def test_a_formula_of_the_standard_deviation_is_bounded_too(wide):
    for terms, message in ((30, "more than 10,000 terms"), (12, "4,096 terms, and there are 96")):
        with pytest.raises(blm.BayesLMMError, match=message):
            build_design("y ~ v0", wide, sigma=f"~ {_many(terms, '*')}")


DEEP = [
    "(y) ~ v0",
    "((y)) ~ v0",
    f"y ~ {'(' * 25}v0{')' * 25}",
    f"y ~ v0 + I({' + '.join(['v1'] * 2000)})",
    f"y ~ v0 + I({' < '.join(['v1'] * 300)} < v2)",
    f"y ~ v0 + {'abs(' * 24}v1{')' * 24}",
    f"y ~ {' + '.join(['1'] * 3000)} + v0",
    "y ~ (v0 + v1)**1000000 - v1 - v0:v1",
    "y ~ log(Sum**2) + v0",
]


@pytest.mark.parametrize("formula", DEEP, ids=[f[:30] for f in DEEP])
def test_long_and_deep_formulas_are_read(wide, formula):
    design = build_design(formula, wide.assign(Sum=wide["v3"]))
    assert "v0" in design.coef_names
    np.testing.assert_array_equal(design.evaluate(wide.assign(Sum=wide["v3"])).X, design.X)


def test_six_hundred_covariates_are_no_recursion():
    rng = np.random.default_rng(0)
    data = pd.DataFrame(rng.normal(size=(700, 600)), columns=[f"v{i}" for i in range(600)])
    design = build_design(f"v0 ~ {' + '.join(f'v{i}' for i in range(1, 600))}", data)
    np.testing.assert_array_equal(design.X[:, 1:], data.iloc[:, 1:])
