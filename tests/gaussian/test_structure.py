"""Symbolic analysis, patterns, aliasing, threads."""

import subprocess
import sys

import numpy as np
import pytest

from bayeslmm.gaussian import (
    CrossProducts,
    FactorRows,
    aliased_columns,
    analyze,
    prepare,
    profiled_criterion_and_gradient,
    single_threaded_blas,
)
from bayeslmm.parts.patterns import (
    CovariancePattern,
    pack_theta,
    unpack_theta,
)

from .gaussian_helpers import aliased_in, random_design


def products(*factors):
    n = len(factors[0][0])
    rng = np.random.default_rng(0)
    rows = [FactorRows(codes, np.ones((n, 1)), J) for codes, J in factors]
    return CrossProducts.from_rows(rng.normal(size=n), np.ones((n, 1)), rows)


def test_nested_factors_have_no_dense_tail_and_no_fill():
    inner = np.arange(2000) // 2
    cp = products((inner, 1000), (inner // 5, 200), (inner // 50, 20))
    layout = analyze(cp).layout
    assert layout.sizes[3] == 0
    assert np.diff(layout.pcol_ptr).max() <= 2


def test_crossed_factors_eliminate_the_larger_one_and_end_in_a_dense_tail():
    rng = np.random.default_rng(0)
    cp = products((rng.integers(0, 400, 5000), 400), (rng.integers(0, 120, 5000), 120))
    symbolic = analyze(cp)
    assert symbolic.layout.sizes[0] == 400
    assert 0 < symbolic.layout.sizes[3] <= 120


def test_dense_cooccurrence_uses_one_rank_k_update():
    subject, item = (v.ravel() for v in np.meshgrid(np.arange(90), np.arange(60), indexing="ij"))
    assert analyze(products((subject, 90), (item, 60))).dense_head


@pytest.mark.parametrize("nested", [True, False])
def test_large_partly_sparse_models_agree_with_the_dense_route(nested):
    rng = np.random.default_rng(2)
    n = 4000
    inner = rng.integers(0, 300, n)
    outer = inner // 10 if nested else rng.integers(0, 30, n)
    item = (inner + rng.integers(0, 3, n)) % 150  # few partners each: a sparse head, then a tail
    Z = np.column_stack([np.ones(n), rng.normal(size=n)])
    factors = [
        FactorRows(inner, Z, 300),
        FactorRows(outer, np.ones((n, 1)), 30),
        FactorRows(item, Z, 150),
    ]
    patterns = [CovariancePattern.full(2), CovariancePattern.full(1), CovariancePattern.diagonal(2)]
    cp = CrossProducts.from_rows(rng.normal(size=n), Z, factors)
    theta = np.array([0.5, 0.2, 0.3, 0.4, 0.6, 0.1])
    dense = profiled_criterion_and_gradient(prepare(cp, patterns, route="dense"), theta)
    for route in ("auto", "blocked", "syrk", "sparse"):
        value, gradient = profiled_criterion_and_gradient(prepare(cp, patterns, route=route), theta)
        assert value == pytest.approx(dense[0], rel=1e-12)
        np.testing.assert_allclose(gradient, dense[1], rtol=1e-8, atol=1e-8)


def test_theta_is_in_column_order_within_blocks():
    pattern = CovariancePattern(3, ((0, 2), (1,)))
    L = pattern.unpack(np.array([1.0, 2.0, 3.0, 4.0]))
    np.testing.assert_array_equal(L, [[1, 0, 0], [0, 4, 0], [2, 0, 3]])
    np.testing.assert_array_equal(pattern.pack(L), [1, 2, 3, 4])
    patterns = [pattern, CovariancePattern.full(2)]
    theta = np.arange(7.0)
    np.testing.assert_array_equal(pack_theta(patterns, unpack_theta(patterns, theta)), theta)


@pytest.mark.parametrize("blocks", [((0, 1),), ((0, 1), (1, 2)), ((1, 0), (2,)), ((0, 1, 2), ())])
def test_what_is_not_a_partition_is_refused(blocks):
    with pytest.raises(ValueError, match="partition|increase|empty"):
        CovariancePattern(3, blocks)


@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e8])
def test_later_columns_are_aliased_whatever_their_units(scale):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 2)) * [1.0, 1000.0] + [1e4, 0.0]
    X = np.column_stack(
        [np.ones(50), x, x @ [1.0, 2.0] * scale, x[:, 0] * 3 + 1, rng.normal(size=50)]
    )
    np.testing.assert_array_equal(aliased_columns(X), [3, 4])
    cp = CrossProducts.from_rows(rng.normal(size=50), X, [])
    np.testing.assert_array_equal(aliased_in(cp), [3, 4])


def test_a_full_set_of_indicators_aliases_the_last_one():
    cell = np.arange(60) % 3
    X = np.column_stack([np.ones(60), np.eye(3)[cell]])
    np.testing.assert_array_equal(aliased_columns(X), [3])
    np.testing.assert_array_equal(aliased_in(CrossProducts.from_rows(np.arange(60.0), X, [])), [3])


def test_blas_limit_is_reentrant():
    from threadpoolctl import threadpool_info

    def threads():
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    before = threads()
    with single_threaded_blas():
        with single_threaded_blas():
            assert set(threads()) == {1}
        assert set(threads()) == {1}
    assert threads() == before


def test_importing_the_core_loads_no_compiler():
    code = (
        "import sys, bayeslmm.gaussian; sys.exit('numba' in sys.modules or 'scipy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_wrong_inputs_to_a_prepared_problem_are_refused():
    design = random_design(0, 1, [2], "crossed")
    problem = prepare(design.cp, design.patterns)
    with pytest.raises(ValueError, match="theta"):
        profiled_criterion_and_gradient(problem, np.zeros(7))
    with pytest.raises(ValueError, match="triangular"):
        problem.flat([np.ones((2, 2))])
    with pytest.raises(ValueError, match="pattern"):
        prepare(design.cp, [CovariancePattern.full(1)])
    with pytest.raises(ValueError, match="route"):
        analyze(design.cp, "fast")
