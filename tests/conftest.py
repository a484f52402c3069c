"""What tests share."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

# compiled kernels throughout, whatever caches there are: test_interpreted.py is about the others
os.environ.setdefault("BAYESLMM_COMPILE", "now")
# a trace of the stack with every node of a graph is a tenth of the time of PyMC's models
os.environ.setdefault("PYTENSOR_FLAGS", "traceback__limit=0")

import bayeslmm as blm
import bayeslmm.likelihood.optimize
from bayeslmm.compiling import complete
from bayeslmm.gaussian import single_threaded_blas

# one search of single fits, whatever caches there are: ends agree to some six digits only
bayeslmm.likelihood.optimize.search_is_complete = lambda: False
# millions of objects live as long as the process: looking through them for cycles takes a fifth
gc.set_threshold(50_000, 20, 20)

DATA = Path(__file__).parent / "data"


def _whole(config: pytest.Config) -> bool:
    """Whether this process starts all tests, and not some of them or as a worker of another."""
    named = [Path(word.split("::")[0]).exists() for word in config.invocation_params.args]
    return not any(named) and not hasattr(config, "workerinput")


def pytest_report_header(config: pytest.Config) -> str | None:
    """How long everything takes."""
    if not _whole(config) or config.option.markexpr != "not slow":
        return None
    return "about ten minutes on two cores; two more the first time, to compile kernels"


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Kernels are compiled before workers would, each of them all of what it meets."""
    if not _whole(session.config) or complete("search") or session.config.option.collectonly:
        return
    halves = (("common",), ("responses", "others"))
    code = "from bayeslmm.precompiling import compile_all; compile_all(parts={})"
    started = [subprocess.Popen([sys.executable, "-c", code.format(parts)]) for parts in halves]
    for process in started:
        process.wait()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first: at the end a process would wait for the one that has such left.

    The half of the list that another process begins with compiles other kernels than ``bayes``.
    """

    def place(item: pytest.Item) -> int:
        room, *inside = item.path.relative_to(Path(__file__).parent).parts
        return 0 if room == "bayes" else 2 if inside else 1  # 1: of the whole package

    items.sort(key=place)


@cache
def dataset(name: str) -> pd.DataFrame:
    return blm.load_dataset(name)


@cache
def reference_designs() -> list[dict]:
    return json.loads((DATA / "designs.json").read_text())


@cache
def sleepstudy_fit(parameterization: str = "auto"):
    """One posterior for all tests that only read it."""
    model = blm.LMM("Reaction ~ Days + (Days | Subject)", dataset("sleepstudy"))
    return model.fit(
        draws=1000,
        tune=1000,
        chains=4,
        random_seed=20261122,
        parameterization=parameterization,
        progressbar=False,
    )


@pytest.fixture
def sleepstudy() -> pd.DataFrame:
    return dataset("sleepstudy").copy()


@pytest.fixture
def sleepstudy_posterior():
    return sleepstudy_fit()


@pytest.fixture
def toy() -> pd.DataFrame:
    """A small frame with two grouping columns, a number and two factors."""
    rng = np.random.default_rng(5)
    n = 96
    return pd.DataFrame(
        {
            "y": rng.normal(10, 2, n),
            "x": rng.normal(size=n),
            "z": rng.uniform(1, 3, n),
            "f": np.tile(["a", "b", "c"], n // 3),
            "h": np.repeat(["u", "v"], n // 2),
            "g": np.arange(n) % 12,
            "item": np.arange(n) // 12 % 8,
        }
    )


def correlation_matrix(values) -> np.ndarray:
    """Matrices (..., q, q) of correlations (..., q (q - 1) / 2) of every two."""
    values = np.asarray(values)
    q = int(np.sqrt(2 * values.shape[-1])) + 1
    R = np.broadcast_to(np.eye(q), (*values.shape[:-1], q, q)).copy()
    i, j = np.triu_indices(q, 1)
    R[..., i, j] = R[..., j, i] = values
    return R


def quietly(formula: str, data, **options) -> blm.LMM:
    """A model without the warnings about a weak design."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return blm.LMM(formula, data, **options)


@pytest.fixture
def one_blas_thread():
    """For files whose dense counterparts are small matrices."""
    with single_threaded_blas():
        yield
