"""REML and ML fits with residual structures equal nlme's.

Reference numbers: tests/data/nlme.R. nlme stops when its own criteria are met, at a point whose
log-likelihood is right to about 1e-8 and whose parameters are right to about 1e-4 relative, hence
1e-6 and 1e-3 here. Where ours is higher by more, nlme stopped early.
"""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm

pytestmark = pytest.mark.usefixtures("one_blas_thread")

DATA = Path(__file__).parent.parent / "data"
_FIXED = {
    "ovary": "follicles ~ s + c",
    "bodyweight": "weight ~ Time * Diet",
    "orthodont": "distance ~ age * Sex",
    "negative": "y ~ x",
}
#: nlme's model -> data, random terms, residual, sigma
MODELS = {
    "ovary gls ar1": ("ovary", "", "ar1(Count | Mare)", None),
    "ovary lme ar1": ("ovary", " + (1 | Mare)", "ar1(Count | Mare)", None),
    "ovary gls car1": ("ovary", "", "car1(Time | Mare)", None),
    "ovary lme diag ar1": ("ovary", " + (s || Mare)", "ar1(Count | Mare)", None),
    "ovary gls ar1 varident": ("ovary", "", "ar1(Count | Mare)", "~ Half"),
    "ovary lme varident": ("ovary", " + (1 | Mare)", None, "~ Half"),
    "bodyweight lme car1": ("bodyweight_missing", " + (1 | Rat)", "car1(Time | Rat)", None),
    "bodyweight lme varident": ("bodyweight", " + (Time | Rat)", None, "~ Diet"),
    "bodyweight gls car1": ("bodyweight", "", "car1(Time | Rat)", None),
    "orthodont gls cs": ("orthodont", "", "cs(Subject)", None),
    "orthodont gls cs varident": ("orthodont_missing", "", "cs(Subject)", "~ Sex"),
    "orthodont gls symm": ("orthodont_missing", "", "unstructured(age | Subject)", "~ 1"),
    "orthodont gls unstructured": ("orthodont_missing", "", "unstructured(age | Subject)", None),
    "orthodont gls varident": ("orthodont", "", None, "~ Sex"),
    "orthodont gls varexp": ("orthodont", "", "cs(Subject)", "~ age"),
    "negative gls cs": ("negative", "", "cs(g)", None),
}


@cache
def references() -> dict:
    return json.loads((DATA / "nlme.json").read_text())


@cache
def frame(name: str) -> pd.DataFrame:
    data = pd.read_csv(DATA / f"{name}.csv.gz")
    if "Diet" in data:
        data["Diet"] = data["Diet"].astype(str)
    if "Sex" in data:  # in R's order
        data["Sex"] = pd.Categorical(data["Sex"], ["Male", "Female"])
    return data


@cache
def model(key: str) -> blm.LMM:
    data, random, residual, sigma = MODELS[key]
    formula = _FIXED[data.split("_")[0]] + random
    return blm.LMM(formula, frame(data), residual=residual, sigma=sigma)


@cache
def fit(key: str, method: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", blm.ModelWarning)
        return model(key).reml() if method == "REML" else model(key).ml()


def _expected_components(key: str, reference: dict) -> dict[str, float]:
    """nlme's parameters under our names."""
    lmm = model(key)
    residual, design = lmm.design.residual, lmm.design
    found = {}
    for block in design.blocks:
        G = np.array(reference["random"], dtype=float).reshape(block.n_effects, -1)
        sd = np.sqrt(np.diag(G))
        for effect, value in zip(block.effects, sd, strict=True):
            found[f"sd({effect} | {block.name})"] = value
        for i, j in block.correlated_pairs():
            name = f"corr({block.effects[i]}, {block.effects[j]} | {block.name})"
            found[name] = G[i, j] / (sd[i] * sd[j])
    if residual.variance.kind == "cells":
        labels = [name[name.index("=") + 1 : -1] for name in residual.variance.names]
        ratios = reference["var"]
        if residual.kind == "unstructured":  # nlme numbers the visits
            labels = [str(residual.times.index(label) + 1) for label in labels]
        for name, label in zip(residual.variance.names, labels, strict=True):
            found[name] = reference["sigma"] * ratios[label]
    elif residual.variance.kind == "log-linear":  # nlme's sigma is at age 0, ours at the mean
        slope = list(reference["var"].values())[0] if isinstance(reference["var"], dict) else None
        slope = reference["var"][0] if slope is None else slope
        found["log_sigma[age]"] = slope
        found["sigma"] = reference["sigma"] * np.exp(slope * design.columns["age"].mean())
    else:
        found["sigma"] = reference["sigma"]
    if residual.kind in ("ar1", "cs"):
        found["rho"] = reference["corr"]
    if residual.kind == "car1":  # nlme's phi is the correlation at distance one
        found["range"] = -1.0 / np.log(reference["corr"])
    if residual.kind == "unstructured":
        names = [name for name in fit(key, "REML").components().index if name.startswith("corr(")]
        found |= dict(zip(names, reference["corr"], strict=True))
    return found


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("key", MODELS)
def test_the_fit_equals_nlmes(key, method):
    reference, found = references()[f"{key} {method}"], fit(key, method)
    assert found.converged
    assert found.loglik == pytest.approx(reference["loglik"], rel=1e-6)
    beta = found.fixef("normal")["estimate"].to_numpy()
    expected = np.array(list(reference["coef"].values()), dtype=float)
    se = found.fixef("normal")["se"].to_numpy()
    np.testing.assert_array_less(np.abs(beta - expected), 1e-3 * se)
    components = found.components()
    for name, value in _expected_components(key, reference).items():
        assert components[name] == pytest.approx(value, rel=1e-3), name
    assert len(components) == len(_expected_components(key, reference))
    if method == "REML":
        np.testing.assert_allclose(
            se, np.sqrt(np.diag(np.array(reference["vcov"], dtype=float))), rtol=1e-3
        )
