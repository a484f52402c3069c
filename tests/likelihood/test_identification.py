"""Random effects that repeat one another are named, and have no standard errors."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from tests.conftest import dataset


def rows() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(20), 8)
    data = pd.DataFrame(
        {"g": g, "f": list("aabb") * 40, "year": np.tile(np.arange(2010, 2018), 20)}
    )
    data = data.assign(a=1.0 * (data["f"] == "a"), b=1.0 * (data["f"] == "b"), same=g)
    data = data.assign(h=rng.permutation(160) % 10, x=rng.normal(size=160))
    data = data.assign(arm=np.array(["p", "q"])[g % 2], w=rng.uniform(0.5, 2, 160))
    u = rng.normal(size=(20, 2))
    return data.assign(y=u[g, 0] + data["b"] * u[g, 1] + rng.normal(size=160))


ROWS = rows()


def model_and_warnings(formula: str, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = blm.LMM(formula, ROWS, **options)
    return model, [str(w.message) for w in caught if w.category is blm.ModelWarning]


def redundant(model) -> int:
    """Parameters of V less the rank of the matrices that they multiply, n x n."""
    design = model.design
    w = np.ones(design.n_rows) if design.weights is None else design.weights
    matrices = [] if design.residual is not None else [np.diag(1 / w)]
    for block in design.blocks:
        together = block.codes[:, None] == block.codes
        Z = block.Z / np.sqrt((block.Z**2).mean(axis=0))
        for part in block.pattern:
            # any basis of a correlated block will do; this one is far from dependent
            Q = np.linalg.qr(Z[:, part])[0] if len(part) > 1 else Z[:, part]
            for i in range(len(part)):
                for j in range(i + 1):
                    D = np.outer(Q[:, i], Q[:, j])
                    matrices.append(together * (D + D.T))
    flat = np.array([M.ravel() / max(np.linalg.norm(M), 1e-12) for M in matrices])
    return len(flat) - np.linalg.matrix_rank(flat, tol=1e-6)


REDUNDANT = [
    "(1 | g) + (0 + f | g)",
    "(1 | g) + (0 + a + b | g)",
    "(0 + f | g) + (1 | g:f)",
    "(0 + f || g) + (1 | g:f)",
    "(1 | g) + (1 | g:f) + (0 + f | g)",
    "(1 | g) + (0 + f | g) + (1 | h)",
    "(f | g) + (0 + f | g:f)",
    "(0 + arm | g)",
    "(1 + arm | g)",
]
SOUND = [
    "(1 | g) + (0 + a | g) + (0 + b | g)",
    "(1 | g) + (1 | g:f)",
    "(1 | g) + (0 + a | g)",
    "(1 | g) + (1 | h)",
    "(year | g)",
    "(year || g)",
    "(f | g) + (0 + x | g)",
    "(0 + arm || g)",
]


@pytest.mark.parametrize("options", [{}, {"weights": "w"}, {"sigma": "~ f"}])
@pytest.mark.parametrize("terms", REDUNDANT + SOUND)
def test_effects_are_named_exactly_where_the_covariance_has_fewer_dimensions(terms, options):
    model, said = model_and_warnings("y ~ f + " + terms, **options)
    assert len(model.unidentified) == redundant(model)
    assert bool(model.unidentified) == (terms in REDUNDANT)
    named = [text for text in said if "do not determine" in text]
    assert len(named) >= 1 if terms in REDUNDANT else not named


@pytest.mark.parametrize("terms", REDUNDANT)
def test_what_is_not_identified_has_no_standard_error(terms):
    model, _ = model_and_warnings("y ~ f + " + terms)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = model.reml()
        table = fit.varcomp()
    names = [name for one in model.unidentified for name in one]
    assert table.loc[names, ["se", "lower", "upper"]].isna().all(axis=None)
    assert np.isfinite(table.loc["sigma", "se"])
    assert fit.confint("wald").loc[names, ["lower", "upper"]].isna().all(axis=None)


def test_a_redundant_split_has_the_maximum_of_the_whole():
    split, _ = model_and_warnings("y ~ f + (1 | g) + (0 + f | g)")
    whole, said = model_and_warnings("y ~ f + (f | g)")
    assert split.reml().deviance == pytest.approx(whole.reml().deviance, abs=1e-6)
    assert not said
    assert whole.reml().varcomp()["se"].notna().all()


def test_the_warning_is_for_posterior_fits_too_and_only_once():
    with pytest.warns(blm.ModelWarning, match=r"sd\(Intercept \| g\), sd\(f\[a\] \| g\)") as caught:
        blm.LMM("y ~ f + (1 | g) + (0 + f | g)", ROWS)
    assert len(caught) == 1
    _, said = model_and_warnings("y ~ f + (1 | g) + (1 | same)")
    assert ["have the same groups" in text for text in said] == [True]


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("sleepstudy", "Reaction ~ Days + (Days | Subject)"),
        ("machines", "score ~ Machine + (Machine | Worker)"),
        ("machines", "score ~ Machine + (1 | Worker/Machine)"),
        ("pastes", "strength ~ 1 + (1 | batch/cask)"),
        ("oats", "yield ~ nitro + (1 | Block/Variety)"),
        ("mathachieve", "MathAch ~ SES + (SES | School)"),
        ("orthodont", "distance ~ age * Sex + (age || Subject)"),
    ],
)
def test_nothing_is_said_of_ordinary_designs(name, formula):
    with warnings.catch_warnings():
        warnings.simplefilter("error", blm.ModelWarning)
        assert blm.LMM(formula, dataset(name)).unidentified == ()


def test_batches_know_it_too():
    source = blm.scan(ROWS, batch_rows=70, progressbar=False)
    with pytest.warns(blm.ModelWarning, match="do not determine"):
        blm.LMM("y ~ f + (1 | g) + (0 + f | g)", source)
