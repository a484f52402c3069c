"""Terms of columns as they stand, and the table they are made from."""

import formulae
import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.formula import build_design


@pytest.fixture
def rows():
    rng = np.random.default_rng(5)
    n = 60
    return pd.DataFrame(
        {
            "y": rng.normal(size=n),
            "x": rng.normal(size=n),
            "k": rng.integers(0, 9, n),
            "on": rng.random(n) < 0.5,
            "a": pd.Categorical(rng.choice(list("pqr"), n), ordered=True),
            "b": pd.Categorical(rng.choice(["u", "v"], n), ordered=True),
            "g": pd.Categorical(np.repeat(list("abcdef"), 10)),
        }
    )


@pytest.mark.parametrize(
    "right",
    ["x + k", "x * k", "a", "0 + a", "a * b", "x * a", "a * b * x", "on * a", "x:k", "0 + x:a"],
)
def test_plain_terms_have_the_columns_that_formulae_gives_them(rows, right):
    design = build_design(f"y ~ {right} + (1 | g)", rows)
    theirs = formulae.design_matrices(f"y ~ {right}", rows).common
    names = [name for term in theirs.terms.values() for name in term.labels]
    assert sorted(design.coef_names) == sorted(names)
    order = [names.index(name) for name in design.coef_names]
    np.testing.assert_array_equal(design.X, np.asarray(theirs)[:, order])


def test_products_of_whole_numbers_do_not_wrap_around(rows):
    rows["m"] = rows["k"] + 2**32
    rows["w"] = rows["k"] + 2**33
    X = build_design("y ~ 0 + m:w + (1 | g)", rows).X
    np.testing.assert_array_equal(X[:, 0], rows["m"].astype(float) * rows["w"].astype(float))


def test_new_rows_are_coded_as_those_of_the_fit(rows):
    design = build_design("y ~ x * a + on + (a | g)", rows)
    some = rows.iloc[[7, 3, 50]]
    again = design.evaluate(some)
    np.testing.assert_array_equal(again.X, design.X[[7, 3, 50]])
    np.testing.assert_array_equal(again.Z[0], design.blocks[0].Z[[7, 3, 50]])


def test_a_design_does_not_change_with_the_frame_it_was_made_from(rows):
    rows["w"] = 1.0
    design = build_design("y ~ x + k + a + (x | g)", rows, weights="w")
    before = [
        a.copy()
        for a in (design.y, design.X, design.weights, design.blocks[0].codes, design.blocks[0].Z)
    ]
    columns = design.columns.copy(deep=True)
    rows.loc[:, ["y", "x"]] = -7.0
    rows.loc[3, ["k", "a", "g", "w"]] = [5, "r", "f", 9.0]
    rows["g"].array[5] = "f"
    after = (design.y, design.X, design.weights, design.blocks[0].codes, design.blocks[0].Z)
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    pd.testing.assert_frame_equal(design.columns, columns)


def test_functions_of_the_user_get_named_columns(rows):
    seen = []

    def twice(column):
        seen.append(column.name)
        return 2 * column

    design = build_design("y ~ twice(x) + (1 | g)", rows, namespace={"twice": twice})
    assert set(seen) == {"x"}
    np.testing.assert_array_equal(design.X[:, 1], 2 * rows["x"])


def test_a_name_that_is_no_column_is_named_in_the_error(rows):
    with pytest.raises(blm.FormulaError, match=r"'pi' is not a column; a constant goes inside I"):
        build_design("y ~ x + pi + (1 | g)", rows)


def test_a_text_that_was_read_is_still_held_to_the_functions_and_columns_at_hand(rows):
    formula = "y ~ twice(x) + (1 | g)"
    build_design(formula, rows, namespace={"twice": lambda column: 2 * column})
    with pytest.raises(blm.FormulaError, match="calls twice"):
        build_design(formula, rows)
    assert build_design("y ~ exp(x) + (1 | g)", rows).coef_names[1] == "exp(x)"
    with pytest.raises(blm.FormulaError, match="which is a column"):
        build_design(formula, rows.assign(twice=1.0))
