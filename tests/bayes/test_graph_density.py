"""C functions of PyMC models: the model's density, made once for a structure whatever its data."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from numba import njit

from bayeslmm.bayes import graph_density as module
from bayeslmm.bayes.graph_density import graph_density
from bayeslmm.bayes.hierarchical import posterior_variables
from tests.conftest import dataset, quietly

FORMULA = "Reaction ~ Days + (Days | Subject)"
_DOUBLES = ctypes.POINTER(ctypes.c_double)


def _model(seed=None):
    """The data as they are, or other numbers in their place."""
    frame = dataset("sleepstudy").copy()  # others read the same one
    if seed is not None:
        rng = np.random.default_rng(seed)
        frame["Reaction"] = 100 + 30 * rng.normal(size=len(frame))
        frame["Days"] = rng.uniform(2, 5, size=len(frame))
        frame["Subject"] = rng.permutation(frame["Subject"].to_numpy())
    return quietly(FORMULA, frame)


def _functions(lmm):
    model = lmm.pymc_model("noncentered")
    wanted = posterior_variables(lmm.design, lmm.names, lmm.priors)
    return model, wanted, graph_density(model, wanted)


def _called(ready, x):
    """Value and gradient, and what is kept of a draw."""
    at, gradient, value, kept = x.copy(), np.empty_like(x), np.empty(1), np.empty(ready.stored)
    at_, gradient_, value_, kept_ = (
        a.ctypes.data_as(_DOUBLES) for a in (at, gradient, value, kept)
    )
    data = ready.table.entries.ctypes.data
    assert ready.logp.ctypes(len(x), at_, gradient_, value_, data) == 0
    assert ready.variables_of.ctypes(len(x), ready.stored, at_, kept_, data) == 0
    named = ready.split(kept[None, None])
    return value[0], gradient, {name: draws[0, 0] for name, draws in named.items()}


def _interpreted(model, wanted):
    """The same of a model's values, by Python and with its data in the graph."""
    outputs = [
        model.logp(),
        model.dlogp(),
        *model.replace_rvs_by_values([model[n] for n in wanted]),
    ]
    return model.compile_fn(
        outputs, inputs=model.value_vars, point_fn=False, mode="FAST_COMPILE",
        on_unused_input="ignore",
    )  # fmt: skip


def _parts(model, x):
    shapes = {name: value.shape for name, value in model.initial_point().items()}
    shapes = [shapes[value.name] for value in model.value_vars]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    return [part.reshape(s) for part, s in zip(np.split(x, ends[:-1]), shapes, strict=True)]


def test_functions_made_for_one_data_set_are_the_density_of_another():
    rng, made = np.random.default_rng(5), []
    for lmm in (_model(), _model(seed=1)):
        model, wanted, ready = _functions(lmm)
        interpreted = _interpreted(model, wanted)
        made.append((ready.logp, ready.variables_of))
        for _ in range(3):
            x = ready.initial_point(int(rng.integers(100))) + 0.3 * rng.normal(size=ready.size)
            value, gradient, kept = _called(ready, x)
            expected, slopes, *variables = interpreted(*_parts(model, x))
            assert value == pytest.approx(float(expected), rel=1e-11)
            np.testing.assert_allclose(gradient, slopes, rtol=1e-9, atol=1e-9)
            for name, variable in zip(wanted, variables, strict=True):
                np.testing.assert_allclose(kept[name], variable, rtol=1e-11, atol=1e-11)
    assert made[0] == made[1]


def test_another_structure_has_its_own_functions():
    graphs = []
    for formula in (FORMULA, FORMULA.replace("|", "||")):
        lmm = quietly(formula, dataset("sleepstudy"))
        model = lmm.pymc_model("noncentered")
        start = module._start(model)(0)
        shapes = [start[value.name].shape for value in model.value_vars]
        wanted = posterior_variables(lmm.design, lmm.names, lmm.priors)
        graphs.append(module._graph(model, wanted, shapes)[0])
    assert graphs[0].equals(graphs[0])
    assert not graphs[0].equals(graphs[1])


def test_draws_of_a_seed_do_not_depend_on_cores():
    lmm = _model()
    fits = [
        lmm.fit(
            parameterization="noncentered", draws=400, tune=300, chains=2, cores=cores,
            random_seed=3, progressbar=False,
        )
        for cores in (1, 2)
    ]  # fmt: skip
    one, two = (fit.idata["posterior"].to_dataset() for fit in fits)
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert {"lp", "diverging", "tree_depth"} <= set(fits[0].idata["sample_stats"].data_vars)


def test_versions_that_were_not_checked_are_sampled_by_pymc(monkeypatch):
    monkeypatch.setattr(module, "_SERIES", {"pymc": "5."})
    assert _functions(_model())[2] is None


def test_a_model_with_a_part_in_python_has_no_c_functions():
    lmm = quietly("score ~ Machine + (1 | Worker)", dataset("machines"), sigma="~ Machine")
    assert graph_density(lmm.pymc_model("marginal"), ["sigma"]) is None


def test_calls_of_more_arguments_than_python_writes_out_are_compiled():
    names = [f"a + {i}" for i in range(3 * module._TOGETHER + 5)]
    source = f"def call(a):\n    return inner(*{module._tuple(names)})"
    own = {"inner": njit(lambda *all_of_them: (len(all_of_them), all_of_them[-1]))}
    exec(source, own)
    assert njit(own["call"])(1) == (len(names), len(names))
