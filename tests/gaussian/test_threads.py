"""Levels shared out to threads: the same digits, whoever works on which."""

from __future__ import annotations

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from bayeslmm.gaussian import (
    CrossProducts,
    FactorRows,
    log_marginal_flat,
    prepare,
    profiled_criterion_and_gradient,
    threads,
    with_prior,
)
from bayeslmm.gaussian._criteria import marginal_head, profiled_head
from bayeslmm.parts.patterns import CovariancePattern


def _problem(q, levels=12_000, p=3):
    rng = np.random.default_rng(q)
    codes = np.concatenate((np.arange(levels), rng.integers(0, levels, 2 * levels)))
    n = len(codes)
    Z = np.column_stack([np.ones(n), rng.normal(size=n)])[:, :q]
    X = np.column_stack([np.ones(n), rng.normal(size=(n, p - 1))])
    y = rng.normal(size=n) + rng.normal(size=levels)[codes]
    cp = CrossProducts.from_rows(y, X, [FactorRows(codes, Z, levels)])
    return prepare(cp, [CovariancePattern(q, [tuple(range(q))])])


PROBLEMS = {q: _problem(q, 24_000 // q) for q in (1, 2)}
FACTORS = {1: np.array([0.7]), 2: np.array([0.8, 0.0, -0.3, 0.5])}


@pytest.mark.parametrize("q", [1, 2])
@pytest.mark.parametrize("gradient", [False, True])
def test_sums_do_not_depend_on_the_number_of_threads(q, gradient):
    levels = PROBLEMS[q].values.levels
    one = threads.level_sums(levels, q, 4, FACTORS[q], gradient, threads=1)
    for n in (2, 3, 7, 1000):
        many = threads.level_sums(levels, q, 4, FACTORS[q], gradient, threads=n)
        rows = (one[:, : 1 + 16], many[:, : 1 + 16])
        # upper triangles are not written
        lower = np.concatenate(([True], np.tril(np.ones((4, 4), dtype=bool)).ravel()))
        np.testing.assert_array_equal(rows[0][:, lower], rows[1][:, lower])
        if gradient:
            at = 17 + q * q
            np.testing.assert_array_equal(one[:, 17:at], many[:, 17:at])
            lower = np.tril(np.ones((4 * q, 4 * q), dtype=bool)).ravel()
            np.testing.assert_array_equal(one[:, at:][:, lower], many[:, at:][:, lower])


@pytest.mark.parametrize("q", [1, 2])
def test_values_on_many_threads_are_those_of_one_and_of_the_single_call(q, monkeypatch):
    problem, L = PROBLEMS[q], FACTORS[q]
    assert problem.many_levels
    model, cp = with_prior(problem), problem.cp
    theta = np.array([0.8, -0.3, 0.5]) if q == 2 else np.array([0.7])
    found = []
    for n in (1, 2, 5):
        monkeypatch.setattr(threads, "_threads", lambda n=n: n)
        found.append(
            (profiled_criterion_and_gradient(problem, theta), log_marginal_flat(model, L, 0.7))
        )
    for profiled, marginal in found[1:]:
        assert profiled[0] == found[0][0][0]
        np.testing.assert_array_equal(profiled[1], found[0][0][1])
        assert marginal[0] == found[0][1][0]
        np.testing.assert_array_equal(marginal[1], found[0][1][1])
        assert marginal[2] == found[0][1][2]
    alone = profiled_head(
        problem.layout, problem.values, theta, problem.theta_index, cp.n, cp.sum_log_weights,
        True, True,
    )  # fmt: skip
    assert alone[0] == pytest.approx(found[0][0][0], rel=1e-13)
    np.testing.assert_allclose(alone[1], found[0][0][1], rtol=1e-11)
    # and the general elimination, which knows nothing of chunks
    slow = problem.values._replace(levels=np.empty((0, 0)))
    general = marginal_head(problem.layout, slow, L, 0.7, *model.kernel_arguments()[2:], True)
    assert general[0] == pytest.approx(found[0][1][0], rel=1e-12)
    np.testing.assert_allclose(general[1], found[0][1][1], rtol=1e-9)
    assert general[2] == pytest.approx(found[0][1][2], rel=1e-9)


def test_only_the_main_thread_or_one_that_is_alone_uses_several(monkeypatch):
    from numba import config

    monkeypatch.setattr(config, "NUMBA_NUM_THREADS", 3)
    assert threads._threads() == 3
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(threads._threads).result() == 1

        def allowed():
            with threads.alone():
                return threads._threads()

        assert pool.submit(allowed).result() == 3
        assert pool.submit(threads._threads).result() == 1


def test_threads_side_by_side_may_all_share_the_pool():
    problem = PROBLEMS[2]
    expected = log_marginal_flat(with_prior(problem), FACTORS[2], 0.7)
    results, barrier = [], threading.Barrier(4)

    def evaluate():
        barrier.wait(timeout=60)
        with threads.alone():
            for _ in range(20):
                results.append(log_marginal_flat(with_prior(problem), FACTORS[2], 0.7))

    running = [threading.Thread(target=evaluate) for _ in range(4)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(timeout=120)
    assert len(results) == 80
    assert all(r[0] == expected[0] and np.array_equal(r[1], expected[1]) for r in results)


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="processes are not forked here"
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_evaluates_too():
    problem = replace(PROBLEMS[1])
    levels, L = problem.values.levels, FACTORS[1]
    expected = threads.level_sums(levels, 1, 4, L, False, threads=3)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    def work():
        queue.put(threads.level_sums(levels, 1, 4, L, False, threads=3)[:, 0])

    child = context.Process(target=work)
    child.start()
    child.join(timeout=60)
    assert child.exitcode == 0
    np.testing.assert_array_equal(queue.get(), expected[:, 0])
