"""Pedigrees: textbook matrices, any order of rows, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bayeslmm as blm

#: R. A. Mrode (2005), Linear Models for the Prediction of Animal Breeding Values, 2nd ed., CABI,
#: table 2.1 and example 2.1 (A), example 2.3 (A^-1 with inbreeding).
MRODE = {
    "calf": [3, 4, 5, 6],
    "sire": [1, 1, 4, 5],
    "dam": [2, None, 3, 2],
}
MRODE_A = [
    [1.00, 0.00, 0.5000, 0.5000, 0.5000, 0.2500],
    [0.00, 1.00, 0.5000, 0.0000, 0.2500, 0.6250],
    [0.50, 0.50, 1.0000, 0.2500, 0.6250, 0.5625],
    [0.50, 0.00, 0.2500, 1.0000, 0.6250, 0.3125],
    [0.50, 0.25, 0.6250, 0.6250, 1.1250, 0.6875],
    [0.25, 0.625, 0.5625, 0.3125, 0.6875, 1.1250],
]
MRODE_INVERSE = [
    [1.833, 0.500, -1.000, -0.667, 0.000, 0.000],
    [0.500, 2.033, -1.000, 0.000, 0.533, -1.067],
    [-1.000, -1.000, 2.500, 0.500, -1.000, 0.000],
    [-0.667, 0.000, 0.500, 1.833, -1.000, 0.000],
    [0.000, 0.533, -1.000, -1.000, 2.533, -1.067],
    [0.000, -1.067, 0.000, 0.000, -1.067, 2.133],
]


def tabular(sire: np.ndarray, dam: np.ndarray) -> np.ndarray:
    """A by the recursive (tabular) method, parents first, -1 unknown."""
    n = len(sire)
    A = np.zeros((n, n))
    for i in range(n):
        for parent in (sire[i], dam[i]):
            if parent >= 0:
                A[i, :i] += 0.5 * A[parent, :i]
        A[:i, i] = A[i, :i]
        A[i, i] = 1 + (0.5 * A[sire[i], dam[i]] if min(sire[i], dam[i]) >= 0 else 0.0)
    return A


def random_pedigree(rng, n: int, founders: int) -> tuple[np.ndarray, np.ndarray]:
    """Even numbers are sires, odd ones dams; some parents unknown."""
    sire, dam = np.full(n, -1), np.full(n, -1)
    for i in range(founders, n):
        if rng.random() < 0.9:
            sire[i] = 2 * rng.integers(0, (i + 1) // 2)
        if rng.random() < 0.9:
            dam[i] = 2 * rng.integers(0, i // 2) + 1
    return sire, dam


def test_mrodes_example_has_his_matrices():
    A = blm.pedigree_relationship(MRODE, id="calf")
    order = [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(A.to_frame().loc[order, order], MRODE_A, atol=1e-12)
    inverse = A.precision_frame().loc[order, order]
    np.testing.assert_allclose(inverse, MRODE_INVERSE, atol=5e-4)  # printed to three digits
    np.testing.assert_allclose(inverse @ A.to_frame().loc[order, order], np.eye(6), atol=1e-12)
    np.testing.assert_allclose(A.inbreeding[order], [0, 0, 0, 0, 0.125, 0.125], atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 60), st.integers(2, 6), st.integers(0, 2**31 - 1))
def test_any_pedigree_in_any_order_gives_the_tabular_matrix(n, founders, seed):
    rng = np.random.default_rng(seed)
    sire, dam = random_pedigree(rng, n, min(founders, n))
    frame = pd.DataFrame({"id": np.arange(n) + 1, "sire": sire + 1, "dam": dam + 1})
    shuffled = frame.iloc[rng.permutation(n)]
    A = blm.pedigree_relationship(shuffled)
    order = list(frame["id"])
    expected = tabular(sire, dam)
    np.testing.assert_allclose(A.to_frame().loc[order, order], expected, atol=1e-10)
    np.testing.assert_allclose(A.inbreeding[order], np.diag(expected) - 1, atol=1e-12)


def test_unknown_parents_can_be_written_in_several_ways():
    reference = blm.pedigree_relationship({"id": ["c"], "sire": ["a"], "dam": [None]})
    for unknown in (np.nan, "0", "", "."):
        A = blm.pedigree_relationship({"id": ["c"], "sire": ["a"], "dam": [unknown]})
        pd.testing.assert_frame_equal(A.to_frame(), reference.to_frame())
    numbers = blm.pedigree_relationship({"id": [3, 4], "sire": [1.0, np.nan], "dam": [2.0, 0]})
    assert set(numbers.labels) == {1, 2, 3, 4}


def test_full_sibs_of_the_same_parents_share_their_inbreeding():
    A = blm.pedigree_relationship(
        {"id": [3, 4, 5, 6, 7], "sire": [1, 1, 3, 3, 3], "dam": [2, 2, 4, 4, 4]}
    )
    np.testing.assert_allclose(A.inbreeding[[5, 6, 7]], 0.25)


def test_selfing_is_allowed_on_request():
    plants = {"id": [2, 3], "sire": [1, 2], "dam": [1, 2]}
    with pytest.raises(blm.DataError, match="monoecious=True"):
        blm.pedigree_relationship(plants)
    A = blm.pedigree_relationship(plants, monoecious=True)
    np.testing.assert_allclose(A.inbreeding[[1, 2, 3]], [0, 0.5, 0.75])


@pytest.mark.parametrize(
    ("pedigree", "message"),
    [
        ({"id": [1, 2], "sire": [2, 1], "dam": [0, 0]}, "1 descends from 2 descends from 1"),
        ({"id": [1, 1], "sire": [0, 0], "dam": [0, 0]}, "1 has two rows"),
        ({"id": [1, 2], "sire": [1, 0], "dam": [0, 0]}, "1 is its own sire"),
        ({"id": [1, 2], "sire": [0, 0], "dam": [0, 2]}, "2 is its own dam"),
        ({"id": [3, 4], "sire": [1, 2], "dam": [2, 5]}, "2 is a sire and a dam"),
        ({"id": [3, 4], "sire": [1, "3"], "dam": [2, 5]}, "as a number and as text"),
        ({"id": [3, None], "sire": [1, 1], "dam": [2, 2]}, "no label in row 1"),
        ({"animal": [3], "sire": [1], "dam": [2]}, "no column 'id'"),
    ],
)
def test_an_impossible_pedigree_is_refused_by_name(pedigree, message):
    with pytest.raises(blm.DataError, match=message):
        blm.pedigree_relationship(pedigree)


def test_a_large_pedigree_needs_no_dense_matrix():
    rng = np.random.default_rng(2)
    sire, dam = random_pedigree(rng, 20_000, 500)
    A = blm.pedigree_relationship({"id": np.arange(20_000) + 1, "sire": sire + 1, "dam": dam + 1})
    assert A.precision.nnz < 9 * 20_000  # three entries per parent and animal at most
    with pytest.raises(blm.DataError, match="does not fit in memory"):
        A.to_frame()
