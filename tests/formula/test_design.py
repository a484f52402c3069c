"""The design a formula makes: rows, columns, levels, column spaces, new data."""

from __future__ import annotations

import itertools
import time
import tracemalloc
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bayeslmm.formula import build_design
from bayeslmm.formula.design import Design
from tests.conftest import dataset, reference_designs


@pytest.mark.parametrize("reference", reference_designs(), ids=lambda r: r["name"])
def test_reference_formula_has_the_rows_coefficients_levels_and_effects_of_lme4(reference):
    design = build_design(reference["formula"], dataset(reference["data"]))
    assert design.n_rows == reference["nobs"]
    assert len(design.coef_names) == reference["n_coef"]
    levels = {frozenset(b.factor.columns): b.n_levels for b in design.blocks}
    effects = {frozenset(b.factor.columns): b.n_effects for b in design.blocks}
    assert levels == {frozenset(k.split(":")): v for k, v in reference["ngroups"].items()}
    assert effects == {frozenset(k.split(":")): v for k, v in reference["effects"].items()}
    assert np.linalg.matrix_rank(design.X) == reference["n_coef"]


def _r_treatment_matrix(frame: pd.DataFrame, names: list[str]) -> np.ndarray:
    """R's model matrix from the names R gives its columns."""
    columns = []
    for name in names:
        column = np.ones(len(frame))
        for part in [] if name == "(Intercept)" else name.split(":"):
            source = next(c for c in frame.columns if part == c or _is_level_of(frame, part, c))
            if part == source:
                column = column * frame[source].to_numpy(float)
            else:
                column = column * (frame[source].astype(str) == part[len(source) :]).to_numpy()
        columns.append(column)
    return np.column_stack(columns)


def _is_level_of(frame: pd.DataFrame, part: str, column: str) -> bool:
    return part.startswith(column) and part[len(column) :] in set(frame[column].astype(str))


@pytest.mark.parametrize("reference", reference_designs(), ids=lambda r: r["name"])
def test_reference_formula_spans_the_same_space_as_r(reference):
    frame = dataset(reference["data"])
    ours = build_design(reference["formula"], frame).X
    theirs = _r_treatment_matrix(frame, reference["coef"])
    p = reference["n_coef"]
    assert np.linalg.matrix_rank(np.column_stack([ours, theirs])) == p


FACTORS, NUMBERS = ("f", "g", "h"), ("x", "z")


def _factorial_frame() -> pd.DataFrame:
    rng = np.random.default_rng(11)
    rows = list(itertools.product("abc", "uv", "pqr")) * 4
    frame = pd.DataFrame(rows, columns=list(FACTORS))
    for name in (*NUMBERS, "y"):
        frame[name] = rng.normal(size=len(frame))
    frame["id"] = rng.integers(0, 9, len(frame))
    return frame


FRAME = _factorial_frame()


def _full_dummies(term: str) -> np.ndarray:
    product = np.ones((len(FRAME), 1))
    for name in term.split(":"):
        if name in FACTORS:
            block = pd.get_dummies(FRAME[name]).to_numpy(float)
        else:
            block = FRAME[[name]].to_numpy()
        product = np.einsum("ni,nj->nij", product, block).reshape(len(FRAME), -1)
    return product


terms = st.lists(
    st.lists(st.sampled_from(FACTORS + NUMBERS), min_size=1, max_size=3, unique=True).map(":".join),
    min_size=1,
    max_size=4,
)


@settings(max_examples=150, deadline=None)
@given(terms=terms, intercept=st.booleans())
def test_any_formula_spans_what_it_says_without_redundant_columns(terms, intercept):
    # formulae 0.9 and R both miss this in cases such as 1 + f:g:h
    text = " + ".join([str(int(intercept)), *terms])
    X = build_design(f"y ~ {text}", FRAME).X
    space = np.column_stack([_full_dummies(term) for term in terms])
    if intercept:
        space = np.column_stack([np.ones(len(FRAME)), space])
    rank = np.linalg.matrix_rank(space)
    assert X.shape[1] == rank
    assert np.linalg.matrix_rank(np.column_stack([X, space])) == rank


def _sorted_columns(matrix: np.ndarray) -> np.ndarray:
    return matrix[:, np.lexsort(matrix[::-1])]


def _same_up_to_column_order(a: Design, b: Design) -> bool:
    if sorted(map(sorted, (n.split(":") for n in a.coef_names))) != sorted(
        map(sorted, (n.split(":") for n in b.coef_names))
    ):
        return False
    blocks = {frozenset(block.factor.columns): block for block in b.blocks}
    same = np.array_equal(_sorted_columns(a.X), _sorted_columns(b.X))
    for block in a.blocks:
        other = blocks[frozenset(block.factor.columns)]
        same &= sorted(block.effects) == sorted(other.effects)
        same &= np.array_equal(_sorted_columns(block.Z), _sorted_columns(other.Z))
        same &= np.array_equal(block.codes, other.codes)
    return bool(same)


random_terms = st.lists(
    st.sampled_from(
        ["(1 | id)", "(x | f:g)", "(0 + z | id)", "(x || h)", "(1 | f)", "(f | id2)", "(1 | g/h)"]
    ),
    max_size=3,
    unique=True,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(fixed=terms, random=random_terms, data=st.data())
def test_the_order_of_terms_does_not_matter(fixed, random, data):
    frame = FRAME.assign(id2=np.arange(len(FRAME)) % 7)
    parts = list(dict.fromkeys([*fixed, *random]))
    shuffled = data.draw(st.permutations(parts))
    a = build_design("y ~ " + " + ".join(parts), frame)
    b = build_design("y ~ " + " + ".join(shuffled), frame)
    assert _same_up_to_column_order(a, b)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_permuting_the_rows_of_the_data_permutes_the_rows_of_the_design(seed):
    formula = "log(z**2 + 1) ~ scale(x) * f + g:h + (x | id) + (1 | f/g)"
    order = np.random.default_rng(seed).permutation(len(FRAME))
    a, b = build_design(formula, FRAME), build_design(formula, FRAME.iloc[order])
    assert a.coef_names == b.coef_names
    np.testing.assert_allclose(a.X[order], b.X, atol=1e-12)
    np.testing.assert_array_equal(a.y[order], b.y)
    for one, two in zip(a.blocks, b.blocks, strict=True):
        assert one.levels == two.levels
        np.testing.assert_array_equal(one.codes[order], two.codes)
        np.testing.assert_allclose(one.Z[order], two.Z, atol=1e-12)


def test_a_million_rows_and_a_hundred_thousand_levels_become_a_design_in_seconds():
    rng = np.random.default_rng(0)
    n, levels = 1_000_000, 100_000
    frame = pd.DataFrame(
        {"y": rng.normal(size=n), "x": rng.normal(size=n), "g": rng.integers(0, levels, n)}
    )
    tracemalloc.start()
    start = time.perf_counter()
    design = build_design("y ~ x + (x | g)", frame)
    seconds = time.perf_counter() - start
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert design.blocks[0].n_levels > 99_000
    assert peak < 1.0e9  # a dense Z would be 1.6e12 bytes
    assert seconds < 60  # about 1 s without the tracing


def test_double_bar_makes_every_column_independent(toy):
    design = build_design("y ~ x + (x + f || g)", toy)
    block = design.blocks[0]
    assert block.effects == ("Intercept", "f[b]", "f[c]", "x") or "x" in block.effects
    assert all(len(part) == 1 for part in block.pattern)
    assert block.n_effects == 4


def test_terms_on_one_factor_are_one_block_with_block_diagonal_covariance(toy):
    design = build_design("y ~ x + (1 | g) + (0 + x | g) + (0 + f | g)", toy)
    (block,) = design.blocks
    assert block.pattern == ((0,), (1,), (2, 3, 4))
    assert block.effects == ("Intercept", "x", "f[a]", "f[b]", "f[c]")


@pytest.mark.parametrize(
    ("formula", "factors"),
    [
        ("y ~ 1 + (1 | f/h)", [("f",), ("f", "h")]),
        ("y ~ 1 + (1 | f/h/item)", [("f",), ("f", "h"), ("f", "h", "item")]),
        ("y ~ 1 + (1 | f:h)", [("f", "h")]),
        ("y ~ 1 + (1 | f) + (1 | h)", [("f",), ("h",)]),
        ("y ~ 1 + (1 | f + h)", [("f",), ("h",)]),
        ("y ~ 1 + (1 | f*h)", [("f",), ("h",), ("f", "h")]),
        ("y ~ 1 + (1 | h/(f + item))", [("h",), ("h", "f"), ("h", "item")]),
        ("y ~ 1 + ((1 | f))", [("f",)]),
    ],
)
def test_grouping_factors_of_nested_and_crossed_terms(toy, formula, factors):
    assert [block.factor.columns for block in build_design(formula, toy).blocks] == factors


def test_only_observed_combinations_are_levels(toy):
    toy.loc[(toy.f == "a") & (toy.h == "u"), "h"] = "v"
    block = build_design("y ~ 1 + (1 | f:h)", toy).blocks[0]
    assert block.levels == ("a:v", "b:u", "b:v", "c:u", "c:v")


def test_reversed_interaction_is_the_same_factor(toy):
    (block,) = build_design("y ~ 1 + (1 | f:h) + (0 + x | h:f)", toy).blocks
    assert block.effects == ("Intercept", "x")


@pytest.mark.parametrize("kind", ["int", "str", "category", "bool", "float", "Int64", "string"])
def test_grouping_column_of_any_type(toy, kind):
    values = toy["g"] % 2 if kind == "bool" else toy["g"]
    toy["k"] = values.astype(kind)
    block = build_design("y ~ x + (1 | k)", toy).blocks[0]
    assert block.n_levels == (2 if kind == "bool" else 12)
    counts = np.bincount(block.codes)
    assert np.all(counts == counts[0])


def test_categorical_levels_keep_the_users_order_and_lose_unused_ones(toy):
    toy["f"] = pd.Categorical(toy["f"], categories=["c", "zzz", "a", "b"])
    design = build_design("y ~ f + (1 | g)", toy)
    assert design.coef_names == ("Intercept", "f[a]", "f[b]")


_BS_BY_H = [f"bs(x, df = 3)[{i}]:h[{level}]" for i in range(3) for level in "uv"]


@pytest.mark.parametrize(
    ("formula", "names"),
    [
        ("y ~ I(x**2)", ["Intercept", "I(x ** 2)"]),
        ("y ~ I(x^2)", ["Intercept", "I(x ** 2)"]),
        ("y ~ (f + h)^2", ["Intercept", "f[b]", "f[c]", "h[v]", "f[b]:h[v]", "f[c]:h[v]"]),
        ("y ~ poly(x, 2)", ["Intercept", "poly(x, 2)[0]", "poly(x, 2)[1]"]),
        ("y ~ bs(x, df=4)", ["Intercept", *(f"bs(x, df = 4)[{i}]" for i in range(4))]),
        ("y ~ np.log(z) + center(x)", ["Intercept", "np.log(z)", "center(x)"]),
        ('y ~ C(f, Treatment("b"))', None),
        ("y ~ C(f, Sum)", ["Intercept", "C(f, Sum)[a]", "C(f, Sum)[b]"]),
        ("y ~ 0 + f", ["f[a]", "f[b]", "f[c]"]),
        ("y ~ f - 1", ["f[a]", "f[b]", "f[c]"]),
        ("y ~ f*x - f:x", ["Intercept", "f[b]", "f[c]", "x"]),
        ("y ~ 1", ["Intercept"]),
        ("y ~ scale(x) + scale(np.log(z))", ["Intercept", "scale(x)", "scale(np.log(z))"]),
        ("y ~ bs(x, df=3):h", ["Intercept", *_BS_BY_H]),
        ("y ~ (x + z)/h", ["Intercept", "x", "z", "x:z:h[u]", "x:z:h[v]"]),
        ("y ~ (0 + x):f", ["Intercept", "x:f[a]", "x:f[b]", "x:f[c]"]),
        ("y ~ x + 0 + z", ["x", "z"]),
        ("y ~ -1 + x", ["x"]),
        ("y ~ (x + f + h)**3 - x:f:h", None),
        ("log(y) ~ x", ["Intercept", "x"]),
    ],
)
def test_functions_and_interactions(toy, formula, names):
    design = build_design(formula + " + (1 | g)", toy)
    if names is None and "**3" in formula:
        assert len(design.coef_names) == 1 + 1 + 2 + 1 + 2 + 1 + 2
    elif names is None:
        assert [name[-3:] for name in design.coef_names[1:]] == ["[a]", "[c]"]
    else:
        assert [n.replace(" ", "") for n in design.coef_names] == [
            n.replace(" ", "") for n in names
        ]


def test_offset_is_taken_out_of_the_model_matrix(toy):
    design = build_design("y ~ x + offset(np.log(z)) + offset(x) + (1 | g)", toy)
    assert design.coef_names == ("Intercept", "x")
    np.testing.assert_allclose(design.offset, np.log(toy["z"]) + toy["x"])


def test_new_rows_are_treated_as_the_fitted_ones_were(toy):
    formula = (
        "y ~ scale(x) + poly(z, 2) + bs(z, df=5) + C(f, Treatment('b')) * center(x) + h:f "
        "+ (scale(x) | g) + (0 + f || h:item) + offset(z)"
    )
    design = build_design(formula, toy)
    again = design.evaluate(toy.drop(columns="y"))
    np.testing.assert_allclose(again.X, design.X, atol=1e-12)
    np.testing.assert_allclose(again.offset, design.offset)
    for block, Z, codes in zip(design.blocks, again.Z, again.codes, strict=True):
        np.testing.assert_allclose(Z, block.Z, atol=1e-12)
        np.testing.assert_array_equal(codes, block.codes)
    few = design.evaluate(toy.iloc[[7, 3]])
    np.testing.assert_allclose(few.X, design.X[[7, 3]], atol=1e-12)


def test_a_new_level_of_a_grouping_factor_has_code_minus_one(toy):
    design = build_design("y ~ x + (1 | g) + (1 | f:h)", toy)
    new = toy.iloc[:3].copy()
    new["g"] = [0, 99, 3]
    new["f"] = ["a", "q", "b"]
    rows = design.evaluate(new)
    assert rows.codes[0].tolist() == [0, -1, 3]
    assert rows.codes[1][1] == -1
    assert rows.labels[0] == [0, 99, 3]


@pytest.mark.parametrize("dtype", ["float", "Float64", "float32[pyarrow]", "object"])
def test_number_columns_of_any_type_give_the_same_design(toy, dtype):
    pytest.importorskip("pyarrow")
    other = toy.assign(x=toy["x"].astype("float32").astype(dtype))
    expected = build_design("y ~ x + (x | g)", toy.assign(x=toy["x"].astype("float32")))
    design = build_design("y ~ x + (x | g)", other)
    np.testing.assert_allclose(design.X, expected.X, rtol=1e-7)


def test_names_with_spaces_and_unicode_work_in_backquotes(toy):
    toy = toy.rename(columns={"x": "Zeit in Std.", "g": "Prüfling"})
    design = build_design("y ~ `Zeit in Std.` + (`Zeit in Std.` | Prüfling)", toy)
    assert design.coef_names == ("Intercept", "Zeit in Std.")
    assert design.blocks[0].name == "Prüfling"


def test_rows_with_missing_values_are_dropped_and_counted(toy):
    toy.loc[[0, 5], "x"] = np.nan
    toy.loc[[5, 9], "f"] = None
    toy["unused"] = np.nan
    design = build_design("y ~ x + f + (1 | g)", toy)
    assert design.n_rows == 93
    assert design.missing.n_dropped == 3
    assert {k: v for k, v in design.missing.by_column.items() if v} == {"x": 2, "f": 2}
    assert design.rows.tolist() == [i for i in range(96) if i not in (0, 5, 9)]


def test_levels_that_lose_all_rows_are_named(toy):
    toy.loc[toy.g == 4, "y"] = np.nan
    design = build_design("y ~ x + (1 | g)", toy)
    assert design.missing.levels_lost == {"g": [4]}
    assert design.blocks[0].n_levels == 11


def test_weights_by_name_or_by_value_are_the_same_and_zero_weights_drop_rows(toy):
    toy["w"] = np.where(toy.index % 10 == 0, 0.0, 2.0)
    by_name = build_design("y ~ x + (1 | g)", toy, weights="w")
    by_value = build_design("y ~ x + (1 | g)", toy, weights=toy["w"].to_numpy())
    assert by_name.n_rows == by_value.n_rows == 86
    assert by_name.missing.n_zero_weight == 10
    np.testing.assert_array_equal(by_name.weights, np.full(86, 2.0))


def test_duplicated_index_labels_do_no_harm(toy):
    toy.index = [0] * len(toy)
    design = build_design("y ~ x + (x | g)", toy)
    assert design.n_rows == len(toy)


def test_a_users_function_is_used_from_the_namespace_only(toy):
    def halved(values):
        return values / 2

    design = build_design("y ~ halved(x) + (1 | g)", toy, namespace={"halved": halved})
    np.testing.assert_allclose(design.X[:, 1], toy["x"] / 2)


def test_formula_handling_raises_no_warning(toy):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_design("y ~ x * f + log(z) + (x | g) + (1 | h/item)", toy)
