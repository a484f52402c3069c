"""The PyMC model says what the formula says: its log density is checked term by term."""

from __future__ import annotations

import numpy as np
import pytest
from pytensor.compile.mode import Mode
from pytensor.graph.traversal import explicit_graph_inputs
from scipy import stats

import bayeslmm as blm
from bayeslmm.parts.patterns import correlation_matrices
from tests.conftest import correlation_matrix, dataset, quietly

MODELS = {
    "correlated": ("Reaction ~ Days + (Days | Subject)", "sleepstudy"),
    "independent": ("Reaction ~ Days + (Days || Subject)", "sleepstudy"),
    "two terms": ("score ~ Machine + (1 | Worker) + (0 + Machine | Worker)", "machines"),
    "nested": ("strength ~ 1 + (1 | batch/cask)", "pastes"),
    "pooled": ("Reaction ~ Days", "sleepstudy"),
    "no intercept": ("score ~ 0 + Machine + (1 | Worker)", "machines"),
}


#: By Python, graphs as they are: rewriting them takes longer than what is evaluated once or twice.
AS_IT_IS = Mode("py", None)


def _value(model, name, point):
    """A variable's value at a point of the free variables."""
    if name in point:
        return np.asarray(point[name])

    def compiled():
        variables = [*model.free_RVs, *model.deterministics]
        found = _compiled(model, model.replace_rvs_by_values(variables))
        return [rv.name for rv in variables], found

    names, found = _once(model, "values", compiled)
    return np.asarray(found(point)[names.index(name)])


def _log_density(model, point, vars=None, **options):
    """A list of arrays where they are not summed."""
    names = None if vars is None else tuple(rv.name for rv in vars)

    def compiled():
        densities = model.logp(vars=vars, **options)
        return _compiled(model, densities if isinstance(densities, list) else [densities])

    found = _once(model, ("density", names, *sorted(options.items())), compiled)(point)
    return found if options.get("sum") is False else found[0]


def _evaluate(model, outputs, point):
    return _compiled(model, outputs)(point)


def _compiled(model, outputs):
    """A function of a point."""
    used = set(explicit_graph_inputs(outputs))
    inputs = [value for value in model.rvs_to_values.values() if value in used]
    function = model.compile_fn(outputs, inputs=inputs, point_fn=False, mode=AS_IT_IS)
    return lambda point: function(*(point[value.name] for value in inputs))


def _once(model, key, make):
    """What was made for a model, kept with it: compiling takes most of the time of these tests."""
    kept = vars(model).setdefault("_kept_by_tests", {})
    if key not in kept:
        kept[key] = make()
    return kept[key]


def _own_factors(lmm, model, point):
    """Per factor: sd and lower factor of the effects the priors are about, K times the factor."""
    parts = zip(
        lmm.design.blocks, lmm.names.factors, lmm.priors.effect_maps().matrices, strict=True
    )
    for block, names, K in parts:
        sd = _value(model, names.sd, point)
        corr = np.eye(len(sd))
        if pairs := block.correlated_pairs():
            corr = correlation_matrices(_value(model, names.corr, point), pairs, len(sd))
        if K is not None:
            Sigma = np.linalg.solve(K, np.linalg.solve(K, sd[:, None] * corr * sd).T)
            sd = _value(model, f"{names.sd}_centered", point)
            np.testing.assert_allclose(np.diag(Sigma), sd**2, rtol=1e-8)
            corr = Sigma / np.outer(sd, sd)
        F = sd[:, None] * np.linalg.cholesky(corr)
        yield sd, F, F if K is None else K @ F


def _random_point(model, seed=3):
    rng = np.random.default_rng(seed)
    start = _once(model, "start", model.initial_point)
    return {k: v + 0.3 * rng.normal(size=np.shape(v)) for k, v in start.items()}


@pytest.mark.parametrize("key", MODELS)
@pytest.mark.parametrize("parameterization", ["noncentered", "centered"])
def test_the_likelihood_is_the_normal_density_of_the_linear_predictor(key, parameterization):
    formula, name = MODELS[key]
    lmm = quietly(formula, dataset(name))
    design, names = lmm.design, lmm.names
    model = lmm.pymc_model(parameterization)
    point = _random_point(model)
    mean = design.offset + design.X @ _value(model, "beta", point)
    for block, factor in zip(design.blocks, names.factors, strict=True):
        b = _value(model, factor.b, point)
        mean = mean + (block.Z * b[block.codes]).sum(axis=1)
    expected = stats.norm.logpdf(design.y, mean, _value(model, "sigma", point)).sum()
    observed = _log_density(model, point, vars=model.observed_RVs)
    assert float(observed) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("key", ["correlated", "two terms"])
def test_random_effects_have_the_covariance_of_their_sds_and_correlations(key):
    formula, name = MODELS[key]
    lmm = quietly(formula, dataset(name))
    factor = lmm.names.factors[0]
    model = lmm.pymc_model("noncentered")
    point = _random_point(model)
    sd = _value(model, factor.sd, point)
    q, pairs = len(sd), lmm.design.blocks[0].correlated_pairs()
    corr = correlation_matrices(_value(model, factor.corr, point), pairs, q)
    columns = []
    for j in range(q):  # b is linear in z: feed unit vectors
        unit = {**point, factor.z: np.zeros_like(point[factor.z])}
        unit[factor.z][:, j] = 1.0
        columns.append(_value(model, factor.b, unit)[0])
    root = np.column_stack(columns)
    np.testing.assert_allclose(root @ root.T, corr * np.outer(sd, sd), rtol=1e-10, atol=1e-10)
    for i, j in np.argwhere(corr == 0):
        assert not any(i in part and j in part for part in lmm.design.blocks[0].pattern)


def test_centered_effects_have_the_multivariate_normal_density():
    lmm = quietly(*(lambda f, n: (f, dataset(n)))(*MODELS["correlated"]))
    model = lmm.pymc_model("centered")
    point = _random_point(model)
    sd = _value(model, "sd_Subject", point)
    corr = correlation_matrix(_value(model, "corr_Subject", point))
    expected = stats.multivariate_normal([0, 0], corr * np.outer(sd, sd)).logpdf(point["b_Subject"])
    actual = _log_density(model, point, vars=[model["b_Subject"]], sum=False)
    np.testing.assert_allclose(actual[0], expected, rtol=1e-9)


def test_the_intercept_prior_sits_at_the_means_of_the_predictors():
    lmm = quietly("Reaction ~ Days + (1 | Subject)", dataset("sleepstudy"))
    model = lmm.pymc_model()
    point = _random_point(model)
    centered, beta = point["beta_centered"], _value(model, "beta", point)
    assert beta[1] == pytest.approx(centered[1])
    assert beta[0] + 4.5 * beta[1] == pytest.approx(centered[0])


def test_names_dims_and_coords_are_those_documented():
    lmm = quietly("Reaction ~ Days + (Days | Subject)", dataset("sleepstudy"))
    model = lmm.pymc_model()
    dims = model.named_vars_to_dims
    assert dims["beta"] == ("coef",)
    assert dims["sd_Subject"] == ("Subject_effect",)
    assert dims["corr_Subject"] == ("Subject_effect_pair",)
    assert dims["b_Subject"] == ("Subject", "Subject_effect")
    assert model.coords["coef"] == ("Intercept", "Days")
    assert model.coords["Subject"][:2] == ("308", "309")
    assert [rv.name for rv in model.observed_RVs] == ["Reaction"]


@pytest.mark.parametrize("factor", ["beta", "sigma", "chain", "draw", "sample", "coef", "obs"])
def test_a_factor_with_a_reserved_name_gets_another_dimension(factor, toy):
    frame = toy.rename(columns={"g": factor})
    lmm = blm.LMM(f"y ~ x + (x | {factor})", frame)
    assert lmm.names.factors[0].dim == f"{factor}_"
    assert lmm.names.renamed() == {factor: f"{factor}_"}
    lmm.pymc_model()


def test_names_never_collide(toy):
    frame = toy.rename(columns={"g": "a", "item": "a_effect", "y": "sd_a", "f": "km/h"})
    lmm = blm.LMM("sd_a ~ x + (x | a) + (1 | a_effect) + (1 | `km/h`)", frame)
    names = lmm.names
    every = [names.response] + [
        name
        for f in names.factors
        for name in (f.dim, f.effect_dim, f.pair_dim, f.sd, f.corr, f.b, f.z)
    ]
    assert len(set(every)) == len(every)
    assert not any("/" in name for name in every)
    lmm.pymc_model()


def test_priors_of_different_families_in_one_block_are_used():
    lmm = quietly(
        "score ~ Machine + (Machine | Worker)",
        dataset("machines"),
        priors={
            "Machine[B]": blm.Prior("StudentT", nu=4, mu=1, sigma=2),
            "sd(Machine[B] | Worker)": blm.Prior("Exponential", lam=0.5),
            "sigma": blm.Prior("HalfNormal", sigma=7),
        },
    )
    model = lmm.pymc_model()
    point = _random_point(model)
    logps = _log_density(model, point, jacobian=False, sum=False)
    by_name = dict(zip([rv.name for rv in model.basic_RVs], logps, strict=True))
    sd = _value(model, "sd_Worker_centered", point)
    assert by_name["sd_Worker_centered_1"].sum() == pytest.approx(
        stats.expon.logpdf(sd[1], scale=2)
    )
    centered = _value(model, "beta_centered", point)
    assert by_name["beta_centered_1"].sum() == pytest.approx(
        stats.t.logpdf(centered[1], 4, loc=1, scale=2)
    )


def test_weights_divide_the_residual_variance():
    data = dataset("sleepstudy")
    weights = np.linspace(0.5, 4, len(data))
    lmm = quietly("Reaction ~ Days", data, weights=weights)
    model = lmm.pymc_model()
    point = _random_point(model)
    mean = lmm.design.X @ _value(model, "beta", point)
    scale = _value(model, "sigma", point) / np.sqrt(weights)
    expected = stats.norm.logpdf(data["Reaction"], mean, scale).sum()
    observed = _log_density(model, point, vars=model.observed_RVs)
    assert float(observed) == pytest.approx(expected, rel=1e-10)


def test_an_unknown_parameterization_lists_what_there_is():
    lmm = quietly("Reaction ~ Days", dataset("sleepstudy"))
    with pytest.raises(ValueError, match="'noncentered', 'centered'"):
        lmm.pymc_model("sideways")
