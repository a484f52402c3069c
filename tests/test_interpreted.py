"""Small models are fitted without a compiler, to the same numbers; larger ones compile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

from bayeslmm import background, compiling, precompiling

_FITS = """
import json, sys, warnings
import bayeslmm as blm
from bayeslmm import compiling
warnings.simplefilter("ignore")
def compiled():
    return sum(
        len(made.signatures)
        for name, module in list(sys.modules.items()) if name.startswith("bayeslmm")
        for made in vars(module).values() if isinstance(made, compiling._Compiled)
    )
found = {}
for data, formula in MODELS:
    model = blm.LMM(formula, blm.load_dataset(data))
    fit = model.reml()
    fit.describe()
    post = model.fit(random_seed=1, progressbar=False, METHOD)
    post.describe()
    found[formula] = [
        fit.loglik, *fit.fixef()["estimate"], *post.fixef()["mean"], *post.fixef()["sd"]
    ]
print(json.dumps({"found": found, "compiled": compiled(), "told": compiling.interpreting()}))
"""

MODELS = [
    ("sleepstudy", "Reaction ~ Days + (Days | Subject)"),
    ("penicillin", "diameter ~ 1 + (1 | plate) + (1 | sample)"),
]


def _run(code: str, **env: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **env}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr == ""
    return json.loads(done.stdout.splitlines()[-1])


def _fits(method: str, tmp_path, choice: str) -> dict:
    code = _FITS.replace("MODELS", repr(MODELS)).replace("METHOD", method)
    # a cache of its own: nothing compiled is there
    own = {"NUMBA_CACHE_DIR": str(tmp_path)} if choice == "later" else {}
    return _run(code, BAYESLMM_COMPILE=choice, **own)


@pytest.mark.parametrize(
    "method",
    [
        "method='importance', draws=500",
        pytest.param("method='nuts', draws=1000", marks=pytest.mark.slow),
    ],
)
def test_small_fits_compile_nothing_and_are_those_of_compiled_code(method, tmp_path):
    plain, other = _fits(method, tmp_path, "later"), _fits(method, tmp_path, "now")
    assert plain["compiled"] == 0
    assert plain["told"]
    assert other["compiled"] > 0
    for formula, values in plain["found"].items():
        expected = np.array(other["found"][formula])
        p = (len(values) - 1) // 3
        np.testing.assert_allclose(values[: 1 + p], expected[: 1 + p], rtol=1e-6)
        # means of at least 1,000 effective draws each: 6 standard errors of their difference
        mean, sd = slice(1 + p, 1 + 2 * p), slice(1 + 2 * p, None)
        assert np.all(np.abs(np.subtract(values[mean], expected[mean])) < 0.27 * expected[sd])
        np.testing.assert_allclose(values[sd], expected[sd], rtol=0.25)


@pytest.mark.slow
def test_every_engine_keeps_its_promises_with_interpreted_kernels(tmp_path):
    """Recorded densities and optima in their own tolerances, and what a system answers."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider",
         "tests/test_golden.py", "tests/gaussian/test_protocol.py",
         "-k", "test_protocol or densities or optima"],
        capture_output=True, text=True, cwd=str(_root()),
        env={**os.environ, "BAYESLMM_COMPILE": "never", "NUMBA_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert not list(tmp_path.rglob("*.nbi"))


def _root():
    from pathlib import Path

    return Path(__file__).parent.parent


_ENOUGH = """
import json
import bayeslmm as blm
from bayeslmm import compiling
model = blm.LMM("Reaction ~ 1 + (1 | Subject)", blm.load_dataset("sleepstudy"))
before = compiling.interpreting()
AFTERWARDS
fit = model.reml()
print(json.dumps({"before": before, "after": compiling.interpreting(), "loglik": fit.loglik}))
"""


def test_work_that_would_take_longer_than_compiling_compiles():
    code = _ENOUGH.replace("import compiling", "import compiling; compiling.complete = bool")
    little = _run(code.replace("AFTERWARDS", "compiling.expect(1.0)"), BAYESLMM_COMPILE="later")
    much = _run(code.replace("AFTERWARDS", "compiling.expect(60.0)"), BAYESLMM_COMPILE="later")
    assert little["before"]
    assert little["after"]
    assert not much["after"]
    np.testing.assert_allclose(much["loglik"], little["loglik"], rtol=1e-10)


def test_complete_caches_are_used_from_the_first_call(tmp_path):
    own = {"BAYESLMM_COMPILE": "later", "NUMBA_CACHE_DIR": str(tmp_path)}
    code = "from bayeslmm import compiling\ncompiling._nothing()\nprint(+compiling.interpreting())"
    assert _run(code, **own) == 1
    _run("from bayeslmm import compiling\ncompiling.mark_complete()\nprint(0)", **own)
    assert _run(code, **own) == 0
    for index in tmp_path.rglob("*.nbi"):  # deleted by hand
        index.unlink()
    assert _run(code, **own) == 1


_TWICE = """
import json, warnings
import numpy as np
import bayeslmm as blm
from bayeslmm import compiling
warnings.simplefilter("ignore")
compiling.complete = lambda: False
model = blm.LMM("Reaction ~ 1 + (1 | Subject)", blm.load_dataset("sleepstudy"))
how = {"draws": 100, "chains": 2, "random_seed": 3, "progressbar": False, "method": METHOD}
draws = [model.fit(**how).idata.posterior["sigma"].to_numpy()]
compiling.use_compiled()
for seed in (3, 4, 3):
    how["random_seed"] = seed
    draws.append(model.fit(**how).idata.posterior["sigma"].to_numpy())
print(json.dumps({
    "same": [bool(np.array_equal(draws[0], later)) for later in draws[1:]],
    "interpreting": compiling.interpreting(),
}))
"""


@pytest.mark.parametrize("method", ["nuts", pytest.param("importance", marks=pytest.mark.slow)])
def test_draws_of_a_seed_are_the_same_after_compilation(method):
    found = _run(_TWICE.replace("METHOD", repr(method)), BAYESLMM_COMPILE="later")
    assert found == {"same": [True, False, True], "interpreting": False}


# -- the process in the background


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Processes started, as if kernels were interpreted and caches were in a directory of ours."""
    calls = []
    monkeypatch.setattr(background, "interpreting", lambda: True)
    monkeypatch.setattr(background, "waits", lambda: False)
    monkeypatch.setattr(background, "complete", lambda: False)
    monkeypatch.setattr(background, "cache_directory", lambda: tmp_path / "cache")
    monkeypatch.setattr(
        background.subprocess, "Popen", lambda command, **how: calls.append((command, how))
    )
    return calls


def test_one_process_compiles_in_the_background_and_says_nothing(started, tmp_path):
    background.compile_in_background()
    background.compile_in_background()
    ((command, how),) = started
    assert command[-2:] == ["-m", precompiling.__name__]
    assert {how[name] for name in ("stdin", "stdout", "stderr")} == {subprocess.DEVNULL}
    background.finished()
    background.compile_in_background()
    assert len(started) == 2


def test_a_process_that_was_killed_is_not_waited_for(started, tmp_path):
    background.compile_in_background()
    long_ago = time.time() - 10 * background._STALE
    os.utime(tmp_path / "cache" / background._LOCK, (long_ago, long_ago))
    background.compile_in_background()
    assert len(started) == 2


@pytest.mark.parametrize("what", ["interpreting", "waits", "complete"])
def test_nothing_is_started_where_it_would_be_of_no_use(started, monkeypatch, what):
    monkeypatch.setattr(background, what, lambda: what != "interpreting")
    background.compile_in_background()
    assert started == []


def test_nothing_is_started_where_no_cache_can_be_written(started, monkeypatch):
    monkeypatch.setattr(background, "cache_directory", lambda: None)
    background.compile_in_background()
    assert started == []


def test_caches_are_complete_only_for_the_sources_they_were_made_from(monkeypatch, tmp_path):
    monkeypatch.setattr(compiling, "cache_directory", lambda: tmp_path)
    (tmp_path / f"{compiling._WITNESS}-1.nbi").touch()
    assert not compiling.complete()
    compiling.mark_complete()
    assert compiling.complete()
    monkeypatch.setattr(compiling, "fingerprint", lambda: "of other sources")
    assert not compiling.complete()


_TWINS = """
import json, sys
from bayeslmm.precompiling import compile_all
compile_all()
print(json.dumps(sorted({
    str(made.py_func)
    for name, module in list(sys.modules.items()) if name.startswith("bayeslmm")
    for made in vars(module).values()
    if hasattr(made, "py_func") and len(getattr(made, "signatures", ())) > 1
})))
"""


@pytest.mark.slow
def test_everything_is_compiled_by_one_command_and_once(tmp_path):
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "BAYESLMM_COMPILE": "later"}
    code = "from bayeslmm.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "compile"], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("Compiled in ")
    after = _run(_ENOUGH.replace("AFTERWARDS", ""), **env)
    assert not after["after"]
    assert _run(_TWINS, **env) == []
