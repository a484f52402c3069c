"""Designs in which random ones found a fault, once it was mended."""

from __future__ import annotations

import pytest

from tests.fuzz.test_against_dense import violations_of

FOUND = {
    175: "year far from zero: a search in the columns of the formula stopped short",
    188: "the variances of components beside a residual correlation of exactly 1",
    266: "a relationship, and a covariate with another origin: a local maximum",
    280: "a covariate far from zero: a search that stopped short",
    302: "a maximum inside that is lower than the one at the boundary",
    307: "crossed factors: a search that stopped short",
    329: "a relationship between few levels: not converged",
}


@pytest.mark.parametrize("seed", FOUND)
def test_designs_in_which_a_fault_was_found_agree_with_dense_matrices(seed):
    assert violations_of(seed)[0] == []
