"""What a posterior says of the distribution of the response: variables, components, log densities.

Of a Gaussian model that is its residuals (:mod:`bayeslmm.bayes.residual_draws`), of others the
parameters phi of the family. Every function takes any design.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.bayes.residual_draws import (
    RESIDUAL_NAMES,
    residual_component_draws,
    residual_coords,
    residual_dims,
)
from bayeslmm.formula import Design
from bayeslmm.parts.families import Family
from bayeslmm.priors.responses import response_parameters

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "THRESHOLD_DIM",
    "draw_responses",
    "drawn",
    "phi_draws",
    "response_component_draws",
    "response_coords",
    "response_dims",
    "response_log_density",
    "response_names",
    "response_variables",
]

#: Dimension of ``threshold``: xarray has no dimension with the name of a variable.
THRESHOLD_DIM = "threshold_between"


def response_dims(design: Design) -> dict[str, tuple[str, ...]]:
    """Variables of the response in a posterior, and their dimensions."""
    if design.family.gaussian:
        return residual_dims(design)
    return {
        own.key: (THRESHOLD_DIM,) if own.transform == "ordered" else ()
        for own in design.family.parameters
    }


def response_variables(design: Design) -> list[str]:
    """Variables of the response in a posterior."""
    return list(response_dims(design))


def response_coords(design: Design) -> dict[str, np.ndarray]:
    """Labels of their dimensions: the two categories between which a threshold is."""
    if design.family.gaussian:
        return residual_coords(design)
    if design.family.name != "ordinal":
        return {}
    return {THRESHOLD_DIM: np.array([c.label for c in response_parameters(design)[0].components])}


def response_names(design: Design) -> tuple[str, ...]:
    """Names no grouping factor may take beside those of every model."""
    if not design.family.gaussian:
        own = [p.key for p in design.family.parameters]
        return (*own, *(f"{key}_centered" for key in own), THRESHOLD_DIM)
    return () if design.residual is None else RESIDUAL_NAMES


def response_component_draws(design: Design, posterior: xr.Dataset) -> tuple[list[str], np.ndarray]:
    """Names and draws (chains, draws, k) of the components of the response."""
    if design.family.gaussian:
        return residual_component_draws(design, posterior)
    names = [c.name for parameter in response_parameters(design) for c in parameter.components]
    return names, phi_draws(design, posterior)


def phi_draws(design: Design, posterior: xr.Dataset) -> np.ndarray:
    """The family's parameters in its order, (chains, draws, n_phi)."""
    shape = (posterior.sizes["chain"], posterior.sizes["draw"])
    keys = [own.key for own in design.family.parameters]
    parts = [posterior[key].to_numpy().reshape(*shape, -1) for key in keys]
    return np.concatenate([np.empty((*shape, 0)), *parts], axis=-1)


def response_log_density(design: Design, posterior: xr.Dataset, eta: np.ndarray) -> np.ndarray:
    """Log densities of the rows times their weights, from eta (chains, draws, n)."""
    phi, values = phi_draws(design, posterior), np.empty(eta.shape)
    weights = 1.0 if design.weights is None else design.weights
    trials = 1.0 if design.trials is None else design.trials
    for out, one, own in zip(values, eta, phi, strict=True):  # a chain at a time
        out[:] = weights * design.family.log_density(design.y, one, own[:, None, :], trials)
    return values


def drawn(family: Family, rng: np.random.Generator, eta, phi, trials) -> np.ndarray:
    """Responses, nan where eta is not that of a mean."""
    if family.link.latent or family.name == "lognormal":
        return family.draw(rng, eta, phi, trials)
    outside = np.isneginf(family.log_density(1.0, eta, phi, trials))
    values = family.draw(rng, np.where(outside, family.link.link(0.5), eta), phi, trials)
    return np.where(outside, np.nan, values)


def draw_responses(
    design: Design, posterior: xr.Dataset, eta: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Replicated responses from eta (chains, draws, n); weights do not change them.

    They are nan where eta is outside what the link maps means to, as effects of new groups may be
    with an identity link.
    """
    phi, values = phi_draws(design, posterior), np.empty(eta.shape)
    trials = 1.0 if design.trials is None else design.trials
    for out, one, own in zip(values, eta, phi, strict=True):
        out[:] = drawn(design.family, rng, one, own[:, None, :], trials)
    return values
