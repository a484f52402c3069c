"""Kernels are compiled once each, and without a place for a cache too."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bayeslmm as blm
from bayeslmm.compiling import kernel, summing_kernel

_FITS = """
import json, sys, warnings
import bayeslmm as blm
warnings.simplefilter("ignore")
sleep = blm.load_dataset("sleepstudy")
found = []
for residual in (None, "ar1(Days | Subject)"):
    model = blm.LMM("Reaction ~ Days + (1 | Subject)", sleep, residual=residual)
    found.append(model.reml().loglik)
    for method in ("nuts", "importance"):
        model.fit(random_seed=1, progressbar=False, method=method)
penicillin = blm.load_dataset("penicillin")
crossed = blm.LMM("diameter ~ 1 + (1 | plate) + (1 | sample)", penicillin)
crossed.reml()
crossed.fit(random_seed=1, progressbar=False, method="importance")
twins = {
    f"{name}.{what}": len(made.signatures)
    for name, module in list(sys.modules.items()) if name.startswith("bayeslmm")
    for what, made in vars(module).items()
    if hasattr(made, "py_func") and hasattr(made, "signatures") and len(made.signatures) > 1
}
print(json.dumps({"loglik": found, "twins": twins}))
"""


@pytest.mark.parametrize("decorate", [kernel, summing_kernel])
def test_constants_of_a_caller_make_no_type_of_their_own(decorate):
    inner = decorate(lambda flag, n: n + 1 if flag else n)
    outer = decorate(lambda x: inner(True, 0) + inner(False, x) + inner(x > 1, 2))
    assert outer(3) == 1 + 3 + 3
    assert len(inner.signatures) == 1


def _run(code: str, cwd: Path | None = None, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd,
        env={**os.environ, **env},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_fits_compile_no_kernel_for_two_signatures():
    import json

    assert json.loads(_run(_FITS))["twins"] == {}


@pytest.mark.parametrize("choice", ["later", pytest.param("now", marks=pytest.mark.slow)])
def test_a_fit_works_where_no_cache_can_be_written(choice, tmp_path):
    """Neither beside the source nor at home; files stand where directories would be made."""
    source = Path(blm.__file__).parent
    copy = tmp_path / "bayeslmm"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for directory in [copy, *(d for d in copy.rglob("*") if d.is_dir())]:
        (directory / "__pycache__").write_text("")
    nowhere = tmp_path / "nowhere"
    nowhere.write_text("")
    code = (
        "import bayeslmm as blm\n"
        "sleep = blm.load_dataset('sleepstudy')\n"
        "model = blm.LMM('Reaction ~ Days + (Days | Subject)', sleep)\n"
        f"{'' if choice == 'now' else 'model.fit(random_seed=1, progressbar=False)'}\n"
        "print(blm.__file__, model.reml().loglik, sep='\\n')\n"
    )
    places = {name: str(nowhere) for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA")}
    env = {**places, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    env["BAYESLMM_COMPILE"] = choice
    used, loglik = _run(code, tmp_path, NUMBA_CACHE_DIR="", **env).splitlines()[-2:]
    assert Path(used).is_relative_to(tmp_path)
    expected = blm.LMM(
        "Reaction ~ Days + (Days | Subject)", blm.load_dataset("sleepstudy")
    ).reml().loglik  # fmt: skip
    np.testing.assert_allclose(float(loglik), expected, rtol=1e-10)
    assert not list(copy.rglob("*.nb[ic]"))
