"""Golden numbers of one small model of every kind: what a change of structure must not change.

    uv run pytest -n 0 tests/test_golden.py
    BAYESLMM_GOLDEN_EXACT=1 uv run pytest -n 0 tests/test_golden.py
    uv run python tests/test_golden.py --write

``tests/data/golden.json`` holds REML and ML optima, log marginal posterior densities with their
gradients at fixed points, and same-seed draws, with all their digits.

The plain test holds on any machine. Libraries for linear algebra differ in the last bits from one
processor to another, an optimizer amplifies these a little and trajectories of NUTS by many
orders of magnitude: densities are compared to 1e-10, optima to 1e-6, importance draws by their
moments, and of NUTS draws only names and shapes.

``BAYESLMM_GOLDEN_EXACT=1`` demands that every number has the same bits, draws of NUTS included.
It means something on the machine and with the libraries that the file was written with (its entry
"written_with"): write it from the code before a change, then run it on the code after. Compiled
functions cached on disk do not notice a change in a function of another file that they call;
``find bayeslmm -name '*.nb[ic]' -delete`` before an exact run after one.

``--write`` is for code that is known to be right, in three cases: on another machine, to compare
exactly there (do not commit that file); after a change that is meant to change numbers, in a
commit of its own that says which and why; after a new model here. Never because the test fails.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import warnings
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.parts.patterns import correlation_matrices
from tests.conftest import correlation_matrix

GOLDEN = Path(__file__).parent / "data" / "golden.json"
EXACT = os.environ.get("BAYESLMM_GOLDEN_EXACT", "") not in ("", "0")
N_POINTS = 5


def density_of(model: blm.LMM):
    """Log density and gradient of the covariance parameters: call it, or ask for ``values``.

    The one place here that reaches into the package, for whoever moves what it imports.
    """
    from bayeslmm.bayes.marginal import marginal_density

    return marginal_density(model.design, model.priors, model.problem)


def first_points(model: blm.LMM, rng: np.random.RandomState) -> np.ndarray:
    """Points (N_POINTS, d) around where the data are, rounded: only for a new file."""
    center = density_of(model).starting_points((0.5,))[0]
    return np.round(center + 0.5 * rng.normal(size=(N_POINTS, len(center))), 3)


# -- the models


def _effects(rng, n_levels: int, sd: float, at: np.ndarray) -> np.ndarray:
    return sd * rng.normal(size=n_levels)[at]


def _crossed(n_g: int, n_h: int, n: int) -> pd.DataFrame:
    """Rows at random in a table of n_g x n_h crossed levels, of two residual variances."""
    rng = np.random.RandomState(1)  # the stream of a RandomState never changes
    data = pd.DataFrame({"g": rng.randint(0, n_g, n), "h": rng.randint(0, n_h, n)})
    data["x"] = np.round(rng.normal(size=n), 3)
    data["w"] = np.round(rng.uniform(0.5, 2, n), 2)
    data["f"] = np.where(rng.uniform(size=n) < 0.4, "A", "B")
    noise = rng.normal(size=n) * np.where(data["f"] == "A", 0.6, 1.5)
    y = 5 + data["x"] + _effects(rng, n_g, 1.0, data["g"]) + _effects(rng, n_h, 0.7, data["h"])
    data["y"] = np.round(y + noise, 3)
    return data.assign(g="g" + data["g"].astype(str), h="h" + data["h"].astype(str))


def _schools() -> pd.DataFrame:
    """12 schools of 3 classes of 12 pupils each, with slopes by school."""
    rng = np.random.RandomState(11)
    school, klass = np.arange(432) // 36, np.arange(432) // 12
    data = pd.DataFrame({"school": school, "klass": klass % 3})
    data["x"] = np.round(rng.normal(size=432), 3)
    data["f"] = np.where(rng.uniform(size=432) < 0.5, "A", "B")
    y = 2 + _effects(rng, 12, 1.0, school) + (1 + _effects(rng, 12, 0.5, school)) * data["x"]
    noise = rng.normal(size=432) * np.where(data["f"] == "A", 0.7, 1.2)
    data["y"] = np.round(y + _effects(rng, 36, 0.8, klass) + noise, 3)
    return data.assign(
        school="s" + data["school"].astype(str), klass="c" + data["klass"].astype(str)
    )


def _flock() -> tuple[pd.DataFrame, blm.RelationshipMatrix]:
    """120 records of 40 animals of a pedigree of 50, ten of them founders."""
    rng = np.random.RandomState(2)
    names = [f"a{i:02d}" for i in range(50)]
    parents = [(None, None)] * 10
    value = list(1.2 * rng.normal(size=10))
    for i in range(10, 50):
        # sires have even numbers, dams odd ones
        sire, dam = 2 * rng.randint(0, i // 2), 1 + 2 * rng.randint(0, i // 2)
        parents.append((names[sire], names[dam]))
        value.append(0.5 * (value[sire] + value[dam]) + 0.85 * rng.normal())
    at = rng.randint(10, 50, 120)
    data = pd.DataFrame({"id": np.array(names)[at], "x": np.round(rng.normal(size=120), 3)})
    y = 20 + 2 * data["x"] + np.array(value)[at] + rng.normal(size=120)
    data["y"] = np.round(y, 3)
    sires, dams = zip(*parents, strict=True)
    pedigree = pd.DataFrame({"id": names, "sire": sires, "dam": dams})
    return data, blm.pedigree_relationship(pedigree)


def _lines() -> tuple[pd.DataFrame, pd.DataFrame]:
    """90 plots of 45 lines in three fields, and the kinship of the lines from 60 markers."""
    rng = np.random.RandomState(3)
    names = [f"line{i:02d}" for i in range(45)]
    markers = rng.randint(0, 3, (45, 60)) - 1.0
    K = np.round(markers @ markers.T / 60 + 0.05 * np.eye(45), 6)
    effects = markers @ rng.normal(size=60) * 0.15
    at = np.arange(90) % 45
    data = pd.DataFrame(
        {"line": np.array(names)[at], "field": np.array(["p", "q", "r"])[rng.randint(0, 3, 90)]}
    )
    data["y"] = np.round(8 + effects[at] + 0.5 * (data["field"] == "q") + rng.normal(size=90), 3)
    return data, pd.DataFrame(K, index=names, columns=names)


def _sleepstudy(formula: str, **options) -> blm.LMM:
    return blm.LMM(formula, blm.load_dataset("sleepstudy"), **options)


def _orthodont(formula: str, **options) -> blm.LMM:
    return blm.LMM(formula, blm.load_dataset("orthodont"), **options)


def _head(**options) -> blm.LMM:
    """Crossed factors of which each level is eliminated by itself."""
    return blm.LMM("y ~ x + (1 | g) + (1 | h)", _crossed(36, 40, 400), **options)


def _tail(**options) -> blm.LMM:
    """Crossed factors with more levels, of which the second's remain as one dense matrix."""
    return blm.LMM("y ~ x + (1 | g) + (1 | h)", _crossed(60, 52, 600), **options)


def _pedigree() -> blm.LMM:
    data, A = _flock()
    return blm.LMM("y ~ x + (1 | id)", data, relationship={"id": A})


def _kinship() -> blm.LMM:
    data, K = _lines()
    return blm.LMM("y ~ field + (1 | line)", data, relationship={"line": K})


#: Residual structures are evaluated block by block or, where only variances differ and a group
#: has more than 30 rows, from cross-products of cells.
MODELS: dict[str, Callable[[], blm.LMM]] = {
    "shared core": lambda: _sleepstudy("Reaction ~ Days + (Days | Subject)"),
    "nested": lambda: blm.LMM("strength ~ 1 + (1 | batch / cask)", blm.load_dataset("pastes")),
    "crossed": _head,
    "crossed, dense tail": lambda: _tail(weights="w"),
    "pedigree": _pedigree,
    "kinship": _kinship,
    "ar1": lambda: _sleepstudy("Reaction ~ Days + (1 | Subject)", residual="ar1(Days | Subject)"),
    "car1": lambda: _sleepstudy("Reaction ~ Days", residual="car1(Days | Subject)"),
    "cs, log-linear sigma": lambda: _orthodont(
        "distance ~ age * Sex", residual="cs(Subject)", sigma="~ age"
    ),
    "unstructured": lambda: _orthodont(
        "distance ~ age * Sex", residual="unstructured(age | Subject)"
    ),
    "sigma, blocks": lambda: _orthodont("distance ~ age * Sex + (age | Subject)", sigma="~ Sex"),
    "sigma cells, nested": lambda: blm.LMM(
        "y ~ x + (x | school) + (1 | school:klass)", _schools(), sigma="~ f"
    ),
    "sigma cells, crossed": lambda: _head(sigma="~ f"),
    "sigma cells, dense tail": lambda: _tail(sigma="~ f"),
}


@cache
def model(key: str) -> blm.LMM:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MODELS[key]()


# -- what is recorded


def _optimum(key: str, method: str) -> dict[str, np.ndarray]:
    """An optimum and all that is derived from it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = getattr(model(key), method)()
        table = fit.varcomp()
        wald = fit.fixef("satterthwaite")
        out = {
            "loglik": fit.loglik,
            "beta": wald["estimate"],
            "vcov": fit.vcov,
            "components": fit.components(),
            "se_of_components": table["se"],
            "satterthwaite_df": wald["df"],
        }
        if method == "reml":
            kenward_roger = fit.fixef("kenward-roger")
            out["kenward_roger_se"] = kenward_roger["se"]
            out["kenward_roger_df"] = kenward_roger["df"]
    return {name: np.asarray(value, dtype=float) for name, value in out.items()}


def _densities(key: str, points: np.ndarray) -> dict[str, np.ndarray]:
    """Log densities (n,), with a gradient and without, and gradients (n, d) at points (n, d)."""
    density = density_of(model(key))
    pairs = [density(x) for x in points]
    return {
        "log_density": np.array([value for value, _ in pairs]),
        "gradient": np.array([gradient for _, gradient in pairs]),
        "log_density_only": np.asarray(density.values(points)),
    }


@cache
def _draws(key: str, method: str, cores: int | None = None) -> dict[str, np.ndarray]:
    """Draws (chain, draw, ...) of every variable."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = model(key).fit(
            draws=50,
            tune=60,
            chains=2,
            random_seed=1,
            progressbar=False,
            method=method,
            cores=cores,
        )
    found = {str(name): np.asarray(values) for name, values in fit.posterior.data_vars.items()}
    for block, factor in zip(fit.model.design.blocks, fit.names.factors, strict=True):
        if factor.corr in found:  # the file has whole matrices
            pairs = block.correlated_pairs()
            found[factor.corr] = correlation_matrices(found[factor.corr], pairs, block.n_effects)
    if "corr_residual" in found:
        found["corr_residual"] = correlation_matrix(found["corr_residual"])
    return found


def _digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, dtype="<f8").tobytes()).hexdigest()


def _recorded_draws(draws: dict[str, np.ndarray]) -> dict[str, dict]:
    """First and last draw of each chain, moments of all draws, and a digest of them."""
    return {
        name: {
            "shape": list(values.shape),
            "first": values[:, 0].tolist(),
            "last": values[:, -1].tolist(),
            "mean": values.mean(axis=(0, 1)).tolist(),
            "sd": values.std(axis=(0, 1)).tolist(),
            "sha256": _digest(values),
        }
        for name, values in draws.items()
    }


def record(key: str, number: int) -> dict:
    """Everything about a model, as JSON keeps it (repr of a float has all its digits)."""
    points = first_points(model(key), np.random.RandomState(100 + number))
    return {
        "reml": {k: v.tolist() for k, v in _optimum(key, "reml").items()},
        "ml": {k: v.tolist() for k, v in _optimum(key, "ml").items()},
        "points": points.tolist(),
        "densities": {k: v.tolist() for k, v in _densities(key, points).items()},
        "nuts": _recorded_draws(_draws(key, "nuts")),
        "importance": _recorded_draws(_draws(key, "importance")),
    }


@cache
def golden() -> dict:
    return json.loads(GOLDEN.read_text())["models"]


# -- the tests


def _same(found, expected, rtol: float, what: str, atol: float = 0.0) -> None:
    found, expected = np.asarray(found, dtype=float), np.asarray(expected, dtype=float)
    assert found.shape == expected.shape, what
    if EXACT:
        assert np.array_equal(found, expected, equal_nan=True), (
            f"{what}: {found} is not bit for bit {expected}"
        )
    else:
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol, err_msg=what)


@pytest.mark.parametrize("method", ["reml", "ml"])
@pytest.mark.parametrize("key", MODELS)
def test_optima_are_those_recorded(key, method):
    expected = golden()[key][method]
    found = _optimum(key, method)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        scale = np.abs(np.asarray(expected[name], dtype=float)).max() if name == "vcov" else 0.0
        _same(value, expected[name], 1e-6, f"{key}, {method}, {name}", atol=1e-6 * scale)


@pytest.mark.parametrize("key", MODELS)
def test_densities_are_those_recorded(key):
    expected = golden()[key]["densities"]
    found = _densities(key, np.array(golden()[key]["points"]))
    for name, value in found.items():
        # entries of a gradient that nearly cancel keep the rounding of the large ones
        scale = np.abs(expected[name]).max() if name == "gradient" else 0.0
        _same(value, expected[name], 1e-10, f"{key}, {name}", atol=1e-10 * scale)


@pytest.mark.parametrize("method", ["nuts", "importance"])
@pytest.mark.parametrize("key", MODELS)
def test_draws_of_the_same_seed_are_those_recorded(key, method):
    expected = golden()[key][method]
    found = _recorded_draws(_draws(key, method))
    assert {k: v["shape"] for k, v in found.items()} == {k: v["shape"] for k, v in expected.items()}
    for name, value in found.items():
        what, old = f"{key}, {method}, {name}", expected[name]
        if EXACT:
            for which in ("first", "last"):
                _same(value[which], old[which], 0.0, f"{what}, {which}")
            assert value["sha256"] == old["sha256"], f"{what}: draws in between differ"
        elif method == "importance":
            _same_moments(value, old, what)


def _same_moments(found: dict, old: dict, what: str) -> None:
    # Resampling is discrete: where rounding moves a weight across a limit, other draws are
    # picked. Means of 100 independent draws differ by 0.14 standard deviations (one standard
    # error); 0.8 are more than five of them, and log ratios of sds of 0.8 more than seven.
    sd = np.asarray(old["sd"])
    gap = np.abs(np.subtract(found["mean"], old["mean"]))
    assert np.all(gap <= 0.8 * sd), what
    moving = sd > 0
    ratio = np.asarray(found["sd"])[moving] / sd[moving]
    assert np.all(np.abs(np.log(ratio)) < 0.8), what


# -- writing


def _written_with() -> dict[str, str]:
    packages = ("numpy", "scipy", "numba", "nutpie", "pymc")
    return {
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="remake tests/data/golden.json")
    if not parser.parse_args().write:
        parser.error("nothing to do without --write; read the docstring first")
    models = {key: record(key, number) for number, key in enumerate(MODELS)}
    # a line for each model: a diff says which ones changed
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(kept)}" for key, kept in models.items())
    head = json.dumps(_written_with())
    GOLDEN.write_text(f'{{"written_with": {head},\n"models": {{\n{lines}\n}}}}\n')
    print(f"{GOLDEN.name}: {len(models)} models, {GOLDEN.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
