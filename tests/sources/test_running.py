"""Sums over batches in place, states of transforms, and plain files of both."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayeslmm.archive import read_archive, write_archive
from bayeslmm.errors import FileFormatError
from bayeslmm.gaussian import CrossProducts, FactorRows, RunningProducts, Shift
from bayeslmm.gaussian.orthogonal import gram_root
from bayeslmm.sources.design import NotHeld
from bayeslmm.sources.reduction import Moments
from bayeslmm.sources.states import _from_ordered_integers, _ordered_integers
from bayeslmm.sources.survey import Combinations, Distinct


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 60), st.integers(1, 7), st.booleans())
def test_running_products_are_those_of_all_rows(seed, n, n_batches, weighted):
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(n), rng.normal(50, 3, n)])
    y = rng.normal(1e3, 2, n)
    w = rng.uniform(0, 2, n) * (rng.random(n) > 0.2) if weighted else None
    factors = [
        FactorRows(rng.integers(0, 5, n), rng.normal(size=(n, 2)), 5),
        FactorRows(rng.integers(0, 4, n), np.ones((n, 1)), 4),
        FactorRows(rng.integers(0, 3, n), np.ones((n, 1)), 3),
    ]
    shift = Shift(np.array([0.0, 50.0]), 1000.0)
    whole = CrossProducts.from_rows(y, X, factors, weights=w, shift=shift)
    parts = [RunningProducts([(5, 2), (4, 1), (3, 1)], shift) for _ in range(2)]
    for at, rows in enumerate(np.array_split(rng.permutation(n), n_batches)):
        batch = [f.take(rows) for f in factors]
        parts[at % 2].add(y[rows], X[rows], batch, None if w is None else w[rows])
    total = parts[0].merge(parts[1]).finish()
    np.testing.assert_allclose(total.gram, whole.gram, atol=1e-9)
    np.testing.assert_allclose(total.gram_unweighted, whole.gram_unweighted, atol=1e-9)
    assert (total.n, total.n_dropped) == (whole.n, whole.n_dropped)
    assert total.sum_log_weights == pytest.approx(whole.sum_log_weights)
    for a, b in zip(total.factors, whole.factors, strict=True):
        np.testing.assert_allclose(a.zz, b.zz, atol=1e-10)
        np.testing.assert_allclose(a.zr, b.zr, atol=1e-9)
        np.testing.assert_array_equal(a.counts, b.counts)
    for key, pair in whole.pairs.items():
        np.testing.assert_array_equal(total.pairs[key].rows, pair.rows)
        np.testing.assert_array_equal(total.pairs[key].columns, pair.columns)
        np.testing.assert_allclose(total.pairs[key].values, pair.values, atol=1e-10)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_numbers_and_their_integers_have_one_order(values):
    x = np.sort(np.array(values))
    key = _ordered_integers(x)
    assert np.all(key[1:] >= key[:-1])
    np.testing.assert_array_equal(_from_ordered_integers(key), x)


@given(st.integers(0, 10_000))
def test_moments_of_batches_are_those_of_all_rows(seed):
    rng = np.random.default_rng(seed)
    columns = np.column_stack([rng.normal(1e6, 1, 50), np.full(50, 3.7), rng.integers(0, 2, 50)])
    a, b = Moments(columns[0]), Moments(columns[0])
    a.add(columns[:17])
    b.add(columns[17:])
    a.merge(b)
    np.testing.assert_allclose(a.mean, columns.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(a.sd[[0, 2]], columns[:, [0, 2]].std(axis=0, ddof=1), rtol=1e-9)
    assert a.sd[1] == 0.0


def test_distinct_values_and_combinations_survive_compaction():
    rng = np.random.default_rng(0)
    values, found = rng.integers(0, 300_000, 400_000), Distinct()
    pairs, joined = pd.DataFrame({"a": values % 700, "b": values % 300}), Combinations()
    for rows in np.array_split(np.arange(400_000), 40):
        found.add(values[rows])
        joined.add(pairs.iloc[rows])
    np.testing.assert_array_equal(np.sort(found.values()), np.unique(values))
    assert len(joined.values()) == len(pairs.drop_duplicates())


def test_a_root_of_a_gram_matrix_has_its_products():
    X = np.random.default_rng(0).normal(size=(20, 4)) * [1, 1e3, 1e-3, 1]
    X[:, 3] = X[:, 0]  # singular
    R = gram_root(X.T @ X)
    np.testing.assert_allclose(R.T @ R, X.T @ X, rtol=1e-10)


def test_rows_that_are_not_there_cannot_be_used_by_accident():
    missing = NotHeld("the response")
    for use in (
        lambda: np.asarray(missing),
        lambda: missing - 1.0,
        lambda: 2.0 * missing,
        lambda: len(missing),
        lambda: missing[0],
        lambda: missing.mean(),
        lambda: np.mean(missing),
        lambda: missing @ np.ones(3),
    ):
        with pytest.raises(ValueError, match="the response row by row"):
            use()


def test_archives_give_back_what_they_were_given(tmp_path):
    value = {
        ("a", 1): [1.5, None, True, "x"],
        "array": np.arange(6).reshape(2, 3),
        "flags": np.array([True, False]),
        "labels": np.array(["u", 3, None], dtype=object),
        "frame": pd.DataFrame({"n": [1.0, 2.0], "c": pd.Categorical(["b", "a"], ["b", "a"])}),
        "set": {1, 2},
        "tiny": float(np.nextafter(0.1, 1)),
    }
    write_archive(tmp_path / "x.npz", value, "test")
    back = read_archive(tmp_path / "x.npz", "test", {})
    assert back[("a", 1)] == value[("a", 1)]
    assert back["set"] == {1, 2}
    assert back["tiny"] == value["tiny"]
    np.testing.assert_array_equal(back["array"], value["array"])
    assert back["flags"].dtype == bool
    assert list(back["labels"]) == ["u", 3, None]
    pd.testing.assert_frame_equal(back["frame"], value["frame"], check_categorical=False)
    with pytest.raises(FileFormatError, match="not 'other'"):
        read_archive(tmp_path / "x.npz", "other", {})
    with pytest.raises(TypeError, match="not plain"):
        write_archive(tmp_path / "y.npz", object(), "test")
    assert not list(tmp_path.glob("*.part"))
    write_archive(tmp_path / "z.npz", Shift(np.zeros(2), 1.0), "test")
    with pytest.raises(FileFormatError, match="'Shift'"):
        read_archive(tmp_path / "z.npz", "test", {})
