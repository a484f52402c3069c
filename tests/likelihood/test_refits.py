"""Many responses at once are the same fits as one by one."""

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm.errors import DataError
from bayeslmm.likelihood import optimize, refits
from bayeslmm.likelihood.engine import reestimate
from bayeslmm.likelihood.optimize import ProfiledSearch, decorrelating
from bayeslmm.likelihood.profiled import ProfiledLikelihood

#: Deviances agree to the optimizers' tolerance, 1e-13 of some 2000, and rounding.
DEVIANCE = 1e-8
#: Parameters to its root and a little more, in residual standard deviations.
PARAMETERS = 1e-3


@pytest.fixture(autouse=True)
def compiled_for_few(monkeypatch):
    monkeypatch.setattr(refits, "MANY", 2)


def sleepstudy() -> pd.DataFrame:
    data = blm.load_dataset("sleepstudy").copy()
    rng = np.random.default_rng(0)
    data["w"] = rng.uniform(0.5, 2.0, len(data))
    data.loc[data.index[:5], "w"] = 0.0
    data["o"] = 100 * rng.normal(size=len(data))
    data["x"] = rng.normal(size=len(data))
    data["near"] = data["Days"] + 1e-5 * data["x"]
    data["g"] = rng.integers(0, 6, len(data)).astype(str)
    data["site"] = np.where(data["Subject"].astype(str) < "335", "a", "b")
    return data


FORMULAS = {
    "intercepts": "Reaction ~ Days + (1 | Subject)",
    "correlated slopes": "Reaction ~ Days + (Days | Subject)",
    "independent slopes": "Reaction ~ Days + (Days || Subject)",
    "three effects": "Reaction ~ Days + (Days + x | Subject)",
    "no intercept": "Reaction ~ 0 + Days + (Days | Subject)",
    "crossed": "Reaction ~ Days + (1 | Subject) + (1 | g)",
    "nested": "Reaction ~ Days + (1 | site / Subject)",
    "offset": "Reaction ~ Days + offset(o) + (1 | Subject)",
    "nearly collinear": "Reaction ~ Days + near + (Days | Subject)",
    "aliased": "Reaction ~ Days + I(2 * Days) + (Days | Subject)",
}


def fitted(formula: str, reml: bool = True, **options):
    model = blm.LMM(formula, sleepstudy(), **options)
    return model.reml() if reml else model.ml()


def responses(fit, m: int = 12) -> np.ndarray:
    """(n, 2 m): from the model, and of its coefficients with nothing but noise, so that half of
    the variances vanish; one far from the origin, one in other units.
    """
    simulated = fit.simulate(m, random_seed=1).to_numpy()
    mean = fit.fitted("population").to_numpy()[:, None]
    noise = np.random.default_rng(2).normal(size=(len(mean), m))
    Y = np.hstack([simulated, mean + fit.sigma * noise])
    if "0 +" not in fit.design.formula.text:
        Y[:, 1] += 1e6
    Y[:, 2] *= 1e-3
    return Y


def assert_same_fits(fit, Y: np.ndarray, start=None) -> list:
    many = list(fit.reestimates(iter(Y.T.copy()), start))
    one = [reestimate(fit._engine, y, reml=fit.reml, start=start) for y in Y.T]
    for found, expected in zip(many, one, strict=True):
        own, other = found.solution, expected.solution
        np.testing.assert_allclose(found.deviance, expected.deviance, atol=DEVIANCE, rtol=0)
        unit = [1 if c.is_correlation else other.sigma for c in fit._engine.components]
        np.testing.assert_allclose(
            found.components / unit, expected.components / unit, atol=PARAMETERS
        )
        se = np.sqrt(np.diag(other.vcov))
        np.testing.assert_allclose(own.beta / se, other.beta / se, atol=PARAMETERS, rtol=1e-9)
        np.testing.assert_allclose(np.sqrt(np.diag(own.vcov)), se, rtol=PARAMETERS)
        assert (found.singular, found.converged) == (expected.singular, expected.converged)
    return many


@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.filterwarnings("ignore::bayeslmm.errors.ModelWarning")
def test_refits_of_many_responses_are_those_one_by_one(name, reml):
    fit = fitted(FORMULAS[name], reml)
    many = assert_same_fits(fit, responses(fit))
    assert any(found.singular for found in many)
    assert all(not found.solution.b for found in many)  # none was left to the other search


@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
def test_a_search_that_starts_at_a_fit_ends_where_the_other_does(reml):
    fit = fitted(FORMULAS["correlated slopes"], reml)
    assert_same_fits(fit, responses(fit), fit.theta)


@pytest.mark.filterwarnings("ignore::bayeslmm.errors.DataWarning")
def test_refits_are_weighted():
    fit = fitted(FORMULAS["correlated slopes"], weights="w")
    assert_same_fits(fit, responses(fit))


def _kinship():
    rng = np.random.default_rng(3)
    names = [f"line{i:02d}" for i in range(30)]
    markers = rng.integers(0, 3, (30, 60)) - 1.0
    K = pd.DataFrame(markers @ markers.T / 60 + 0.05 * np.eye(30), index=names, columns=names)
    data = pd.DataFrame({"line": names * 3, "x": rng.normal(size=90)})
    effects = np.linalg.cholesky(K.to_numpy()) @ rng.normal(size=30)
    data["y"] = 3 + data["x"] + np.tile(effects, 3) + rng.normal(size=90)
    return blm.LMM("y ~ x + (1 | line)", data, relationship={"line": K})


def _pedigree():
    rng = np.random.default_rng(4)
    names = [f"a{i:02d}" for i in range(40)]
    sires = [None] * 8 + [names[2 * rng.integers(0, i // 2)] for i in range(8, 40)]
    dams = [None] * 8 + [names[1 + 2 * rng.integers(0, i // 2)] for i in range(8, 40)]
    pedigree = pd.DataFrame({"id": names, "sire": sires, "dam": dams})
    data = pd.DataFrame({"id": np.array(names)[rng.integers(8, 40, 100)]})
    data["y"] = 20 + rng.normal(size=100)
    return blm.LMM(
        "y ~ 1 + (1 | id)", data, relationship={"id": blm.pedigree_relationship(pedigree)}
    )


def _known_sigma():
    priors = {"sigma": blm.Prior("Fixed", value=25.0)}
    return blm.LMM(FORMULAS["correlated slopes"], sleepstudy(), priors=priors)


OTHERS = {
    "kinship": _kinship,
    "pedigree": _pedigree,
    "known sigma": _known_sigma,
    "ar1": lambda: blm.LMM(
        "Reaction ~ Days + (1 | Subject)", sleepstudy(), residual="ar1(Days | Subject)"
    ),
    "sigma": lambda: blm.LMM("Reaction ~ Days + (1 | Subject)", sleepstudy(), sigma="~ site"),
    "no random effects": lambda: blm.LMM("Reaction ~ Days", sleepstudy()),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.filterwarnings("ignore::bayeslmm.errors.ModelWarning")
def test_models_of_every_engine_are_refitted(name):
    fit = OTHERS[name]().reml()
    assert_same_fits(fit, fit.simulate(4, random_seed=1).to_numpy())


def test_no_digit_depends_on_the_number_of_threads():
    fit = fitted(FORMULAS["correlated slopes"])
    many = fit._engine.estimator(reml=True).many
    one, other = (many.fits(responses(fit).T.copy(), threads) for threads in (1, 2))
    for name in ("theta", "value", "ranks", "beta", "inverse", "pwrss"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_a_search_that_is_not_sure_is_left_to_the_other():
    """An intercept a million residual standard deviations from 0, as a random effect."""
    fit = fitted(FORMULAS["no intercept"])
    Y = fit.simulate(4, random_seed=1).to_numpy().copy()
    Y[:, 1] += 1e6
    many = assert_same_fits(fit, Y)
    assert [bool(found.solution.b) for found in many] == [False, True, False, False]


def test_refit_many_takes_what_simulate_gives():
    fit = fitted(FORMULAS["correlated slopes"])
    Y = fit.simulate(3, random_seed=1).set_axis(["a", "b", "c"], axis=1)
    found = fit.refit_many(Y)
    assert list(found.coefficients.index) == ["a", "b", "c"]
    for name in Y:
        one = fit.refit(Y[name])
        expected = one.fixef("normal")
        np.testing.assert_allclose(found.coefficients.loc[name], expected["estimate"], rtol=1e-5)
        np.testing.assert_allclose(found.standard_errors.loc[name], expected["se"], rtol=1e-5)
        np.testing.assert_allclose(found.components.loc[name], one.components(), atol=1e-4)
    one = fit.refit(Y["b"])
    np.testing.assert_allclose(found.loglik[1], one.loglik, rtol=1e-12)
    np.testing.assert_allclose(found.theta[1], one.theta, atol=1e-4)
    assert len(found) == 3
    assert found.converged.all()
    assert "3 refits" in repr(found)


def test_a_response_that_the_model_reproduces_has_not_converged():
    fit = fitted(FORMULAS["correlated slopes"])
    days = fit.design.X[:, 1]
    Y = np.column_stack([fit.simulate(1, random_seed=1), 2 * days, np.full(len(days), 3.0)])
    assert fit.refit_many(Y).converged.tolist() == [True, False, False]


@pytest.mark.parametrize("Y", [np.zeros(180), np.zeros((3, 180)), np.full((180, 2), np.nan), "y"])
def test_responses_of_another_shape_are_refused(Y):
    with pytest.raises(DataError, match="refit_many needs"):
        fitted(FORMULAS["intercepts"]).refit_many(Y)


def test_a_bootstrap_simulates_what_it_did_before_batches():
    """Response after response from one stream of random numbers."""
    fit = fitted(FORMULAS["intercepts"])
    lower = fit.confint("bootstrap", n_sims=20, random_seed=5, progressbar=False)["lower"]
    Y = fit.simulate(20, random_seed=5).to_numpy()
    sigma = [reestimate(fit._engine, y, reml=True, start=fit.theta).components[-1] for y in Y.T]
    np.testing.assert_allclose(lower["sigma"], np.quantile(sigma, 0.025), rtol=1e-5)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("key", FORMULAS)
def test_the_compiled_search_of_one_fit_ends_where_the_other_does(key, reml):
    engine = ProfiledLikelihood.of(blm.LMM(FORMULAS[key], sleepstudy()))
    for y in (engine.design.y, np.random.default_rng(4).normal(size=len(engine.design.y))):
        problem = engine.with_response(y).problem
        if Ks := decorrelating(problem):
            problem = problem.with_effects(Ks)
        search = ProfiledSearch(problem, reml)
        found, expected = search.by_compiled(None), ProfiledSearch(problem, reml).optimum()
        assert found is not None
        np.testing.assert_allclose(found.criterion, expected.criterion, atol=DEVIANCE)
        assert found.rank == expected.rank
        assert found.n_evaluations > len(found.theta)


@pytest.mark.parametrize(("complete", "interpreted"), [(True, False), (True, True), (False, False)])
def test_one_fit_uses_the_compiled_search_where_it_is_at_hand(monkeypatch, complete, interpreted):
    monkeypatch.setattr(optimize, "search_is_complete", lambda: complete)
    monkeypatch.setattr(optimize, "interpreting", lambda: interpreted)
    asked = []
    monkeypatch.setattr(ProfiledSearch, "by_compiled", lambda self, start: asked.append(start))
    assert fitted(FORMULAS["intercepts"]).converged
    assert bool(asked) == (complete and not interpreted)
