"""`import bayeslmm` stays light."""

from __future__ import annotations

import subprocess
import sys

import pytest

import bayeslmm


def _loaded_after(code: str) -> set[str]:
    script = f"{code}; import sys; print(' '.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def test_importing_the_package_imports_no_heavy_dependency():
    heavy = {"pymc", "pytensor", "arviz", "pandas", "numba", "scipy", "matplotlib", "formulae"}
    assert not heavy & _loaded_after("import bayeslmm")


def test_every_public_name_can_be_reached():
    for name in bayeslmm.__all__:
        assert getattr(bayeslmm, name) is not None
    assert set(bayeslmm.__all__) <= set(dir(bayeslmm))
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        bayeslmm.nope


def test_a_reml_fit_imports_neither_pymc_nor_arviz_nor_matplotlib():
    code = (
        "import bayeslmm as blm; data = blm.load_dataset('sleepstudy');"
        "blm.LMM('Reaction ~ Days + (Days | Subject)', data).reml().summary()"
    )
    loaded = _loaded_after(code)
    heavy = {"pymc", "pytensor", "arviz", "arviz_stats", "nutpie", "scipy.stats", "matplotlib"}
    assert not heavy & loaded
