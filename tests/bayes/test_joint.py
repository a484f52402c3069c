"""The joint density in whitened coordinates is that of the PyMC model, with all its constants."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import bayeslmm as blm
from bayeslmm import compiling
from bayeslmm.bayes import whitening
from bayeslmm.bayes.covariates import covariate_names
from bayeslmm.bayes.kernels import joint
from bayeslmm.bayes.laplace_posterior import laplace_posterior
from bayeslmm.bayes.unknowns import covariate_values
from bayeslmm.bayes.whitened_fitting import joint_values
from bayeslmm.bayes.whitening import whitened_posterior
from tests.bayes.test_hierarchical import _log_density
from tests.bayes.test_response_model import LINKED, PHI, TRIALS, _family

#: Links whose linear predictor is that of a mean wherever it is.
SAFE = [
    (name, link)
    for name, link in LINKED
    if not (name in ("bernoulli", "binomial") and link in ("identity", "log"))
    and not (name != "lognormal" and link in ("identity", "inverse"))
]
STRUCTURES = {
    "one": "(1 | g)",
    "slopes": "(x | g)",
    "three": "(x + t | g)",
    "independent": "(x || g)",
    "nested": "(x | g) + (1 | g:h)",
    "crossed": "(1 | g) + (x | h)",
    "three factors": "(x | g) + (1 | h) + (1 | k)",
    "none": "",
}


def made(name, link=None, structure="slopes", *, effect=0.5, fixed="x + t", n=60, **options):
    """A model with offset, weights and trials."""
    rng = np.random.default_rng(4)
    frame = pd.DataFrame(
        {
            "x": rng.normal(1.0, 0.7, n),
            "t": rng.normal(0.0, 1.0, n),
            "e": rng.normal(0.0, 0.2, n),
            "w": rng.uniform(0.5, 2.5, n),
            "g": np.repeat([f"g{i}" for i in range(6)], n // 6),
            "h": np.tile([f"h{i}" for i in range(4)], n // 4),
            "k": rng.permutation(np.arange(n) % 3).astype(str),
        }
    )
    family = _family(name, link)
    eta = 0.3 * frame["x"].to_numpy() + frame["e"].to_numpy()
    eta = eta + effect * np.repeat(rng.normal(size=6), n // 6)
    trials = np.full(n, float(TRIALS)) if name == "binomial" else np.ones(n)
    frame["y"] = family.draw(rng, eta, np.array(PHI.get(name, [])), trials)
    if name == "beta":
        frame["y"] = frame["y"].clip(1e-6, 1 - 1e-6)
    frame["m"] = trials
    random = STRUCTURES[structure]
    return blm.MixedModel(
        f"{'y of m' if name == 'binomial' else 'y'} ~ {fixed} + offset(e)"
        + (f" + {random}" if random else ""),
        frame, family=name, link=link, weights="w", **options,
    )  # fmt: skip


def density_of(model, **options):
    return whitened_posterior(laplace_posterior(model.design, model.priors), **options)


def points(density, count=3, spread=0.7):
    return spread * np.random.default_rng(8).normal(size=(count, density.n_dim))


def differences(function, z, step=1e-3):
    """Derivatives of a function of rows, one column per coordinate, by five points."""
    shifts = step * np.array([-2.0, -1.0, 1.0, 2.0])
    at = z + shifts[:, None, None] * np.eye(len(z))
    values = np.array(function(at.reshape(-1, len(z))))
    values = values.reshape(4, len(z), -1)
    return np.einsum("s,sji->ij", np.array([1.0, -8.0, 8.0, -1.0]) / (12 * step), values)


def check_gradients(density):
    for z in points(density):
        value, gradient = density(z)
        numeric = differences(density.values, z)[0]
        scale = max(1.0, np.abs(gradient).max())
        np.testing.assert_allclose(gradient, numeric, atol=2e-8 * scale)
        assert density.values(z[None])[0] == pytest.approx(value, rel=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "link"), SAFE)
def test_gradients_are_those_of_the_density(name, link):
    check_gradients(density_of(made(name, link, "three factors")))


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("worth", [0.0, np.inf])
def test_gradients_hold_for_every_structure(structure, worth, monkeypatch):
    """Effects follow by all of their information, or by that of single levels and a dense rest."""
    monkeypatch.setattr(whitening, "_WORTH", worth)
    density = density_of(made("negativebinomial", structure=structure))
    levels = density.arguments.levels
    crossed = structure in ("nested", "crossed", "three factors")
    assert (len(levels.panel) > 0) == (crossed and worth > 0)
    assert (len(density.arguments.whitening.rest) > 0) == (crossed and worth == 0)
    check_gradients(density)


@pytest.mark.parametrize("structure", ["three", "crossed"])
def test_gradients_hold_where_standard_deviations_may_have_either_sign(structure):
    model = made("poisson", structure=structure, effect=0.0)
    density = density_of(model)
    assert np.any(density.arguments.covariances.scales.unit > 0)
    check_gradients(density)
    # on the other side of zero
    z, arguments = points(density, 1)[0], density.arguments
    low = arguments.whitening.center.copy()
    signed = np.flatnonzero(arguments.covariances.scales.unit > 0)
    low[signed] = [-0.7, 1e-9, -0.02][: len(signed)]
    z[: len(low)] = np.linalg.solve(arguments.whitening.scale, low - arguments.whitening.center)
    np.testing.assert_allclose(
        density(z)[1], differences(density.values, z)[0], rtol=1e-7, atol=1e-7
    )


def _naturals(model, density, Z):
    """Values of every variable at rows of Z."""
    found = joint_values(density, model.design, model.priors, model.names, Z[None])
    return {name: value[0] for name, value in found.items()}


def _free(model, density, Z):
    """What the PyMC model's priors are about at rows of Z, by name, and standardized effects."""
    sds, F, phi, beta, nu, unknown, effects = joint.natural_draws(Z, density.arguments)
    sds = np.abs(sds)
    own_columns = np.array_equal(model.priors.combinations(), np.eye(beta.shape[1]))
    values = {"beta" if own_columns else "beta_centered": beta} if beta.shape[1] else {}
    first = 0
    for own in model.design.family.parameters:
        key = "threshold_centered" if own.transform == "ordered" else own.key
        part = phi[:, first : first + own.size]
        values[key] = part if own.transform == "ordered" else part[:, 0]
        first += own.size
    first = 0
    maps = model.priors.effect_maps().matrices
    parts = zip(
        model.design.blocks, model.names.factors, density.laplace.system.split(F), maps, strict=True
    )
    for k, (block, factor, root, K) in enumerate(parts):
        q = block.n_effects
        sd = sds[:, first : first + q]
        values[factor.sd if K is None else f"{factor.sd}_centered"] = sd
        first += q
        Sigma = root @ root.transpose(0, 2, 1)
        for part in block.pattern:
            if len(part) > 1:
                at = np.ix_(range(len(Z)), part, part)
                corr = Sigma[at] / (sd[:, list(part), None] * sd[:, None, list(part)])
                values[f"chol_{factor.corr}"] = np.linalg.cholesky(corr)
        b = effects[:, density.symbolic.factor_columns(k)]
        # effects have this covariance whatever the signs of its factor
        positive = np.linalg.cholesky(Sigma)
        if nu.shape[1]:
            values[factor.nu] = nu[:, k]
        values[factor.z] = np.linalg.solve(positive[:, None], b[..., None])[..., 0]
    if model.design.modeled:
        own = covariate_values(model.design, density.laplace.unknown, unknown, unknown.x, (len(Z),))
        for covariate in model.design.modeled:
            names = covariate_names(covariate)
            if names.effect in own:
                own[f"{names.effect}_z"] = own.pop(names.effect) / own[names.effect_sd][:, None]
        values |= own
    return values


def _flat(values):
    """(n, d) matrix of what densities are about: factors of correlations below their diagonals."""
    columns = []
    for name, value in values.items():
        if name.startswith("chol_"):
            i, j = np.tril_indices(value.shape[-1], -1)
            value = value[:, i, j]
        columns.append(value.reshape(len(value), -1))
    return np.hstack(columns)


def _point(pymc_model, values):
    """Unconstrained values of PyMC."""
    point = {}
    for rv in pymc_model.free_RVs:
        transform, value = pymc_model.rvs_to_transforms[rv], values[rv.name][0]
        if transform is not None:
            value = transform.forward(value, *rv.owner.inputs).eval()
        point[pymc_model.rvs_to_values[rv].name] = value
    return point


def check_density(model, density, *, images=0):
    """Against PyMC's, in natural units, with the numeric Jacobian of the map from z.

    Each of the signed coordinates, ``images`` of them, has half of the density on either side.
    """
    z = points(density, 1)[0]
    values = _free(model, density, z[None])
    J = differences(lambda Z: _flat(_free(model, density, Z)), z)
    assert J.shape[0] == J.shape[1]
    log_det = np.linalg.slogdet(J)[1]
    pymc_model = model.pymc_model("noncentered")
    expected = float(_log_density(pymc_model, _point(pymc_model, values), jacobian=False))
    found = density(z)[0] + density.log_scale + images * np.log(2)
    size = max(abs(expected), abs(log_det), 10.0)
    assert found == pytest.approx(expected + log_det, abs=1e-9 * size)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "link"), SAFE)
def test_the_density_is_that_of_the_hierarchical_model(name, link):
    model = made(name, link, "three factors", fixed="x")
    check_density(model, density_of(model, signed=False))


@pytest.mark.slow
@pytest.mark.parametrize("structure", ["three", "independent", "nested", "crossed", "none"])
@pytest.mark.parametrize("worth", [0.0, np.inf])
def test_the_density_holds_for_every_structure(structure, worth, monkeypatch):
    monkeypatch.setattr(whitening, "_WORTH", worth)
    model = made("gamma", structure=structure)
    check_density(model, density_of(model, signed=False))


def test_signed_coordinates_share_the_density_between_their_images():
    model = made("poisson", structure="crossed", effect=0.0)
    density = density_of(model)
    images = int((density.arguments.covariances.scales.unit > 0).sum())
    assert images > 0
    check_density(model, density, images=images)


def test_draws_are_the_values_the_density_is_evaluated_at():
    """Rows' log densities at the draws, and priors of what was drawn, make the density up."""
    model = made("ordinal", structure="nested")
    density = density_of(model, signed=False)
    Z = points(density, 2)
    values, design = _naturals(model, density, Z), model.design
    eta = design.offset + values["beta"] @ design.X.T
    for block, factor in zip(design.blocks, model.names.factors, strict=True):
        eta = eta + np.einsum("nia,ia->ni", values[factor.b][:, block.codes], block.Z)
    rows = design.family.log_density(design.y, eta, values["threshold"][:, None], 1.0)
    likelihood = (design.weights * rows).sum(axis=1)
    # less the response: the same model, every row weighing next to nothing
    arguments = density.arguments
    empty = arguments._replace(
        sums=arguments.sums._replace(weights=np.zeros(design.n_rows)), constant=0.0
    )
    prior = replace(density, arguments=empty).values(Z)
    np.testing.assert_allclose(density.values(Z), likelihood + prior, rtol=1e-10)


def test_huge_counts_with_slopes_leave_the_coordinates_near_normal():
    """Effects known to a thousandth of their spread make up for every move of the others."""
    rng = np.random.default_rng(2)
    g, x = np.repeat(np.arange(20), 10), rng.normal(size=200)
    eta = 14 + 0.3 * x + rng.normal(size=20)[g] + 0.3 * rng.normal(size=20)[g] * x
    frame = pd.DataFrame({"y": rng.poisson(np.exp(eta)), "x": x, "g": g.astype(str)})
    density = density_of(blm.MixedModel("y ~ x + (x | g)", frame, family="poisson"))
    for z in points(density, 20, spread=1.0):
        assert np.abs(density(z)[1] + z).max() < 4.0


def test_interpreted_kernels_give_the_same_density(monkeypatch):
    """Families of no, one and two parameters, and of thresholds.

    test_family_kernels.py has the rows of every family and link.
    """
    names = ("poisson", "gamma", "zero_inflated_negativebinomial", "ordinal")

    def densities():
        for name in names:
            density = density_of(made(name, structure="crossed", n=24))
            for z in points(density, 1):
                assert compiling.interpreting() == compiling.waits()
                value, gradient = density(z)
                yield [value, *gradient]

    compiled, before = list(densities()), compiling.interpreting()
    monkeypatch.setattr(compiling, "_CHOSEN", "never")
    compiling._switch(True)
    try:
        interpreted = list(densities())
    finally:
        compiling._switch(before)
    for found, expected in zip(interpreted, compiled, strict=True):
        scale = np.abs(expected).max()
        # modes found two ways differ by rounding
        np.testing.assert_allclose(found, expected, atol=1e-6 * scale)
