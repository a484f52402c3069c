"""Each correlation structure says the same to arrays, to tensors and to the compiled kernels."""

from __future__ import annotations

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from bayeslmm.parts.structures import (
    STRUCTURES,
    add_kernel_gradient,
    correlations,
    kernel_correlation,
    make_structure,
)

TIMES = np.array([0.0, 1.0, 2.0, 4.0])


def structure(kind: str):
    """The structure of two groups of five and four rows."""
    group, time = np.repeat([0, 1], [5, 4]), np.append(np.arange(5.0), TIMES)
    return make_structure(kind, group, time, 5 * (STRUCTURES[kind].times == "labels"), 5)


@pytest.mark.parametrize("kind", STRUCTURES)
def test_arrays_tensors_and_kernels_agree(kind):
    made = structure(kind)
    layout = np.array([made.code, made.n_times])
    rng = np.random.default_rng(3)
    for w in 0.7 * rng.normal(size=(6, made.n_free)):
        c = made.natural(w)
        C = correlations(kind, c, np.zeros(4), TIMES, made.n_times)
        np.testing.assert_allclose(np.diag(C), 1.0, rtol=1e-15)
        assert np.linalg.eigvalsh(C)[0] > 0
        entries = made.entries(c, made.n_times)
        symbol = pt.as_tensor_variable(entries).type("c")
        tensor = pt.as_tensor_variable(made.correlations(pt, symbol, TIMES))
        found = pytensor.function([symbol], tensor, mode="FAST_COMPILE", on_unused_input="ignore")
        np.testing.assert_allclose(found(entries), C, rtol=1e-14)
        for i, s in enumerate(TIMES):
            for j, t in enumerate(TIMES):
                if i == j:
                    continue
                assert kernel_correlation(layout, c, s, t) == pytest.approx(C[i, j], rel=1e-14)
                slope = np.zeros(len(c))
                add_kernel_gradient(layout, c, s, t, 2.0, slope)
                for k in range(len(c)):
                    step = c + 1e-30j * (np.arange(len(c)) == k)
                    moved = correlations(kind, step, np.zeros(4), TIMES, made.n_times)
                    assert slope[k] / 2.0 == pytest.approx(moved[i, j].imag / 1e-30, rel=1e-13)


@pytest.mark.parametrize("kind", STRUCTURES)
def test_the_pullback_is_that_of_finite_differences(kind):
    made, h = structure(kind), 1e-6
    rng = np.random.default_rng(4)
    w = 0.5 * rng.normal(size=made.n_free)
    d_c = rng.normal(size=len(made.natural(w)))
    if made.times == "labels":  # entries stand twice
        d_c = (d_c.reshape(5, 5) + d_c.reshape(5, 5).T).ravel()
    numeric = [
        d_c @ (made.natural(w + h * e) - made.natural(w - h * e)) / (2 * h)
        for e in np.eye(made.n_free)
    ]
    np.testing.assert_allclose(made.pullback(w, d_c), numeric, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("kind", STRUCTURES)
def test_components_and_priors_have_names(kind):
    made = STRUCTURES[kind]
    group, time = np.repeat([0, 1], [5, 4]), np.append(np.arange(5.0), TIMES)
    labels = tuple("abcde") if made.times == "labels" else ()
    c = structure(kind).natural(0.3 * np.ones(structure(kind).n_free))
    names = made.component_names(labels, group, time)
    assert len(names) == len(made.component_values(c, len(labels))) == structure(kind).n_free
    assert bool(made.default_priors(group, time, 5)) == (kind != "independent")
