"""NUTS in whitened coordinates meets the density of the PyMC model, Jacobians apart."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from bayeslmm.bayes import whitening
from bayeslmm.bayes.kernels.joint import spread_out
from bayeslmm.bayes.laplace_posterior import laplace_posterior
from bayeslmm.bayes.whitened_fitting import joint_values
from bayeslmm.bayes.whitening import whitened_posterior
from bayeslmm.parts.patterns import correlation_matrices
from tests.bayes.test_hierarchical import _log_density
from tests.bayes.test_response_model import NAMES, _model

#: PyMC computes the log 2 of a half t distribution in single precision, 2e-9 for every sd.
_SINGLE = 1e-8


def _whitened(model, *, signed=False):
    return whitened_posterior(laplace_posterior(model.design, model.priors), signed=signed)


def _natural(model, density, z):
    """The posterior's variables at one z."""
    values = joint_values(density, model.design, model.priors, model.names, z[None, None])
    return {name: value[0, 0] for name, value in values.items()}


def _log_density_in_pymc(model, pymc_model, values):
    """Of the centered model, in natural units, at values of the posterior's variables."""
    import pytensor.tensor as pt

    design, priors, free = model.design, model.priors, dict(values)
    free["beta_centered"] = priors.combinations() @ values["beta"]
    if "threshold" in values:
        free["threshold_centered"] = values["threshold"] - priors.means @ values["beta"]
    maps = priors.effect_maps().matrices
    for block, names, K in zip(design.blocks, model.names.factors, maps, strict=True):
        sd = values[names.sd]
        corr = np.eye(len(sd))
        if pairs := block.correlated_pairs():
            corr = correlation_matrices(values[names.corr], pairs, len(sd))
        root = np.linalg.inv(np.eye(len(sd)) if K is None else K)
        own = root @ (sd[:, None] * corr * sd) @ root.T
        free[f"{names.sd}_centered"] = np.sqrt(np.diag(own))
        if block.correlated_pairs():
            scales = np.sqrt(np.diag(own))
            free[f"chol_{names.corr}"] = np.linalg.cholesky(own / np.outer(scales, scales))
    point = {}
    for variable in pymc_model.free_RVs:
        value = pymc_model.rvs_to_values[variable]
        transform = pymc_model.rvs_to_transforms[variable]
        x = np.asarray(free[variable.name])
        if transform is not None:
            x = transform.forward(pt.as_tensor(x), *variable.owner.inputs).eval()
        point[value.name] = x
    return float(_log_density(pymc_model, point, jacobian=False))


def _log_slopes(density, low):
    """log |d natural / d coordinates| of the parameters: sds, correlations, the family's own."""
    scales, total = density.laplace.scales, 0.0
    k, n_cov = len(scales.code), density.laplace.n_covariances
    for x, unit in zip(low[:k], scales.unit, strict=True):
        # |unit sinh x| has half the density on either side
        total += x if unit == 0 else np.log(unit * np.cosh(x) / 2)
    total += np.log1p(-(np.tanh(low[k:n_cov]) ** 2)).sum()
    phi = density.laplace.phi
    own = low[n_cov : n_cov + len(phi.code)]
    if density.laplace.ordered:
        return total + own[1:].sum()
    for x, upper in zip(own, phi.upper, strict=True):
        total += x if np.isinf(upper) else np.log(upper) - 2 * np.logaddexp(x / 2, -x / 2)
    return total


def _log_effect_slopes(model, density, z):
    """log |db / dv|: effects are linear in v, and v is in the last coordinates, given the rest."""
    d, N = density.laplace.n_dim, len(z) - density.laplace.n_dim
    Z = np.repeat(z[None], N + 1, axis=0)
    Z[np.arange(1, N + 1), d + np.arange(N)] += 1.0
    values = joint_values(density, model.design, model.priors, model.names, Z[None])
    parts = [values[names.b][0].reshape(N + 1, -1) for names in model.names.factors]
    b = np.concatenate(parts, axis=1)
    tail = np.diag(density.arguments.whitening.tail)
    return np.linalg.slogdet(b[1:] - b[0])[1] - np.log(np.abs(tail)).sum()


@pytest.mark.parametrize("name", NAMES)
def test_the_density_is_that_of_the_pymc_model(name, monkeypatch):
    """Effects that follow all others, and those that follow the parameters only."""
    model, rng = _model(name), np.random.default_rng(4)
    pymc_model = model.pymc_model("centered")
    for worth, spread in product((30.0, 0.0), (0.3, 1.0)):
        monkeypatch.setattr(whitening, "_WORTH", worth)
        density = _whitened(model)
        assert (len(density.arguments.levels.panel) > 0) == (worth > 0)
        z = spread * rng.standard_normal(density.n_dim)
        low, _ = spread_out(z, density.arguments.whitening)
        exact = _log_density_in_pymc(model, pymc_model, _natural(model, density, z))
        slopes = _log_slopes(density, low) + _log_effect_slopes(model, density, z)
        assert density(z)[0] == pytest.approx(exact + slopes, rel=1e-10, abs=_SINGLE)


def test_thresholds_are_meant_at_the_means_that_the_priors_know():
    """Priors stay what they are for other rows of the same columns."""
    model = _model("ordinal").with_design(_model("ordinal", seed=8).design)
    assert not np.allclose(model.priors.means, model.design.X.mean(axis=0))
    density, z = _whitened(model), np.zeros(_whitened(model).n_dim)
    low, _ = spread_out(z, density.arguments.whitening)
    exact = _log_density_in_pymc(model, model.pymc_model("centered"), _natural(model, density, z))
    slopes = _log_slopes(density, low) + _log_effect_slopes(model, density, z)
    assert density(z)[0] == pytest.approx(exact + slopes, rel=1e-10, abs=_SINGLE)


def test_signed_standard_deviations_have_half_the_density_on_either_side():
    model = _model("bernoulli", n=30)
    density, pymc_model = _whitened(model, signed=True), model.pymc_model("centered")
    unit = density.laplace.scales.unit
    assert np.any(unit > 0)
    rng, seen = np.random.default_rng(5), set()
    for _ in range(4):
        z = rng.standard_normal(density.n_dim)
        low, _ = spread_out(z, density.arguments.whitening)
        seen |= set(np.sign(low[: len(unit)][unit > 0]))
        exact = _log_density_in_pymc(model, pymc_model, _natural(model, density, z))
        slopes = _log_slopes(density, low) + _log_effect_slopes(model, density, z)
        assert density(z)[0] == pytest.approx(exact + slopes, rel=1e-10, abs=_SINGLE)
    assert seen == {-1.0, 1.0}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("worth", [30.0, 0.0])
def test_gradients_are_those_of_the_density(name, worth, monkeypatch):
    monkeypatch.setattr(whitening, "_WORTH", worth)
    density = _whitened(_model(name), signed=True)
    z, step = np.random.default_rng(7).standard_normal(density.n_dim), 1e-5
    moved = z + step * np.vstack([np.eye(len(z)), -np.eye(len(z))])
    up, down = np.split(density.values(moved), 2)
    np.testing.assert_allclose(density(z)[1], (up - down) / (2 * step), rtol=1e-6, atol=1e-6)
