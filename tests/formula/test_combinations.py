"""Groups of several columns are those of their joined labels, however many columns there are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.formula import build_design
from bayeslmm.formula.combinations import (
    combination_codes,
    component_codes,
    find_combinations,
)

#: Columns and levels of each: within 64 bits; 6 columns of 3000 levels beyond; 65 bits of 2.
SHAPES = [(2, 40), (3, 9), (6, 3000), (65, 2), (130, 3)]


def _frame(columns: int, levels: int, n: int = 3000) -> pd.DataFrame:
    rng = np.random.default_rng(columns)
    half = {f"c{i}": rng.integers(0, levels, n // 2) for i in range(columns)}
    frame = pd.concat([pd.DataFrame(half)] * 2, ignore_index=True)
    return frame.assign(y=rng.normal(size=n))


@pytest.mark.parametrize(("columns", "levels"), SHAPES)
def test_codes_are_found_again_and_taken_apart(columns, levels):
    frame = _frame(columns, levels).drop(columns="y")
    codes = [frame[name].to_numpy() for name in frame]
    sizes = (levels,) * columns
    tables, found = combination_codes(codes, sizes)
    wanted = frame.groupby(list(frame), sort=True).ngroup().to_numpy()
    np.testing.assert_array_equal(found, wanted)  # in the order of the columns' codes
    np.testing.assert_array_equal(find_combinations(codes, sizes, tables), found)
    for column, parts in zip(codes, component_codes(sizes, tables), strict=True):
        np.testing.assert_array_equal(parts[found], column)
    strange = [c.copy() for c in codes]
    strange[0][0] = -1
    strange[-1][1] = (strange[-1][1] + 1) % levels
    known = {tuple(row) for row in frame.to_numpy().tolist()}
    again = find_combinations(strange, sizes, tables)
    assert again[0] == -1
    assert (again[1] >= 0) == (tuple(c[1] for c in strange) in known)
    np.testing.assert_array_equal(again[2:], found[2:])


@pytest.mark.parametrize(("columns", "levels"), [(3, 9), (6, 3000), (65, 2)])
def test_every_row_has_the_label_of_its_own_group(columns, levels):
    frame = _frame(columns, levels)
    names = [name for name in frame if name != "y"]
    formula = f"y ~ 1 + (1 | {':'.join(names)})"
    joined = frame[names].astype(str).agg(":".join, axis=1).to_numpy()
    for data in (frame, blm.scan(frame, batch_rows=700)):
        block = blm.LMM(formula, data).design.blocks[0]
        assert set(block.levels) == set(joined)
        codes, labels = block.factor.find(frame.iloc[::7])
        np.testing.assert_array_equal(np.asarray(block.levels)[codes], joined[::7])
        assert labels == joined[::7].tolist()
    block = build_design(formula, frame).blocks[0]
    np.testing.assert_array_equal(np.asarray(block.levels)[block.codes], joined)
    more = block.factor.with_rows(frame.iloc[:5].assign(c0=levels + 7))
    np.testing.assert_array_equal(np.asarray(more.levels)[more.codes[: len(frame)]], joined)
    assert {label.split(":")[0] for label in np.asarray(more.levels)[more.codes[-5:]]} == {
        str(levels + 7)
    }


def test_a_column_called_as_a_combination_is_told_from_it():
    frame = _frame(2, 4).assign(**{"c0:c1": np.arange(3000) % 7})
    for data in (frame, blm.scan(frame)):
        with pytest.raises(blm.FormulaError, match="both called 'c0:c1'"):
            blm.LMM("y ~ 1 + (1 | c0:c1) + (1 | `c0:c1`)", data)


def test_an_estimate_does_not_depend_on_how_groups_are_named():
    rng = np.random.default_rng(0)
    bits = np.repeat(rng.integers(0, 2, (40, 65)), 10, axis=0)
    bits[:, 0] = np.arange(400) // 10 % 2  # the first column tells half of the groups apart
    frame = pd.DataFrame(bits, columns=[f"c{i}" for i in range(65)])
    frame["id"] = frame.astype(str).agg(":".join, axis=1)
    frame["y"] = rng.normal(0, 5, 40)[np.arange(400) // 10] + rng.normal(size=400)
    apart = blm.LMM(f"y ~ 1 + (1 | {':'.join(frame.columns[:65])})", frame).reml()
    joined = blm.LMM("y ~ 1 + (1 | id)", frame).reml()
    assert apart.loglik == pytest.approx(joined.loglik, abs=1e-9)
