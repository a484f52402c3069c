"""Draws of named quantities out of a posterior."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.bayes.names import ModelNames
from bayeslmm.bayes.responses import response_component_draws
from bayeslmm.errors import SamplingError
from bayeslmm.formula import Design
from bayeslmm.parts.parameters import nu_key
from bayeslmm.parts.patterns import correlation_matrices
from bayeslmm.priors.parameters import component_names
from bayeslmm.priors.table import Priors

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "coefficient_draws",
    "component_draws",
    "covariance_draws",
    "covariance_factors",
    "effect_array",
    "effect_draws",
    "level_coefficient_draws",
    "long_labels",
    "prior_covariance_draws",
]


def coefficient_draws(design: Design, posterior: xr.Dataset) -> tuple[list[str], np.ndarray]:
    """Names and draws (chains, draws, p) of the coefficients."""
    if not design.coef_names:
        return [], np.empty((posterior.sizes["chain"], posterior.sizes["draw"], 0))
    return list(design.coef_names), posterior["beta"].to_numpy()


def component_draws(
    design: Design, names: ModelNames, posterior: xr.Dataset
) -> tuple[list[str], np.ndarray]:
    """Names and draws (chains, draws, k) of standard deviations, correlations, sigma, nu.

    The parameters of a family that is not Gaussian stand in place of sigma and nu.
    """
    labels, columns = [], []
    for block, factor in zip(design.blocks, names.factors, strict=True):
        labels += component_names(block)
        columns.append(posterior[factor.sd].to_numpy())
        if block.correlated_pairs():
            columns.append(posterior[factor.corr].to_numpy())
        if factor.nu in posterior:
            labels.append(nu_key(block.name))
            columns.append(posterior[factor.nu].to_numpy()[:, :, None])
    names_of_response, response = response_component_draws(design, posterior)
    labels += names_of_response
    columns.append(response)
    if "nu" in posterior:
        labels.append(nu_key())
        columns.append(posterior["nu"].to_numpy()[:, :, None])
    return labels, np.concatenate(columns, axis=-1)


def covariance_draws(design: Design, names: ModelNames, posterior: xr.Dataset) -> list[np.ndarray]:
    """Covariance matrices (chains, draws, q, q) of each grouping factor's effects."""
    matrices = []
    for block, factor in zip(design.blocks, names.factors, strict=True):
        sd = posterior[factor.sd].to_numpy()
        product = sd[..., :, None] * sd[..., None, :]
        pairs, values = block.correlated_pairs(), np.empty((*sd.shape[:2], 0))
        if pairs:
            values = posterior[factor.corr].to_numpy()
        matrices.append(product * correlation_matrices(values, pairs, block.n_effects))
    return matrices


def prior_covariance_draws(
    design: Design, names: ModelNames, posterior: xr.Dataset, priors: Priors
) -> list[np.ndarray]:
    """As :func:`covariance_draws`, of the effects that the priors are about."""
    maps = priors.effect_maps()
    if not maps.needed:
        return covariance_draws(design, names, posterior)
    shape = (posterior.sizes["chain"], posterior.sizes["draw"])
    factors = maps.from_formula(covariance_factors(design, names, posterior))
    return [(F @ np.swapaxes(F, 1, 2)).reshape(*shape, *F.shape[1:]) for F in factors]


def effect_array(posterior: xr.Dataset, variable: str) -> np.ndarray:
    """Draws (chains, draws, J, q) of one factor's effects.

    Raises
    ------
    SamplingError
        If only summaries of them were kept.
    """
    if variable not in posterior:
        raise SamplingError(
            f"This needs the draws of {variable!r}, and the fit kept only summaries of random "
            'effects (random_effects="summary"): ranef() has them, predict() works with '
            'random="population", and with "new" where no group keeps its own effects; fit() '
            "without that option keeps the draws."
        )
    return posterior[variable].to_numpy()


def covariance_factors(
    design: Design, names: ModelNames, posterior: xr.Dataset
) -> list[np.ndarray]:
    """Lower triangular factors (chains * draws, q, q) of :func:`covariance_draws`."""
    from bayeslmm.parts.patterns import lower_factor

    return [
        np.array([lower_factor(S, checked=False) for S in Sigma.reshape(-1, *Sigma.shape[2:])])
        for Sigma in covariance_draws(design, names, posterior)
    ]


def effect_draws(
    design: Design, names: ModelNames, posterior: xr.Dataset, factor: str
) -> tuple[pd.DataFrame, Callable[[slice], np.ndarray]]:
    """Effects of one factor, labels and draws as in :func:`level_coefficient_draws`."""
    block = design.block(factor)
    draws = effect_array(posterior, names.factor(factor).b)
    draws = draws.reshape(*draws.shape[:2], -1)
    return long_labels(factor, block.levels, block.effects), lambda part: draws[..., part]


def level_coefficient_draws(
    design: Design, names: ModelNames, posterior: xr.Dataset, factor: str
) -> tuple[pd.DataFrame, Callable[[slice], np.ndarray]]:
    """Coefficients of each level: fixed plus random, as lme4's ``coef``.

    An effect without a fixed counterpart of the same name counts from 0; a coefficient
    without a random effect is the same at every level.

    Returns
    -------
    labels : pandas.DataFrame
        Columns group, level and effect, one row per quantity.
    block : callable
        Draws (chains, draws, len) of a slice of the quantities: all of them, every level with
        every coefficient, may be far more than the posterior itself.
    """
    block = design.block(factor)
    b = effect_array(posterior, names.factor(factor).b)
    coefs, beta = coefficient_draws(design, posterior)
    wanted = [*coefs, *(effect for effect in block.effects if effect not in coefs)]
    fixed = np.array([coefs.index(n) if n in coefs else -1 for n in wanted])
    random = np.array([block.effects.index(n) if n in block.effects else -1 for n in wanted])

    def draws(part: slice) -> np.ndarray:
        levels, which = np.divmod(np.arange(part.start, part.stop), len(wanted))
        total = np.zeros((*b.shape[:2], len(which)))
        j, a = fixed[which], random[which]
        total[..., j >= 0] += beta[..., j[j >= 0]]
        total[..., a >= 0] += b[..., levels[a >= 0], a[a >= 0]]
        return total

    return long_labels(factor, block.levels, wanted), draws


def long_labels(factor: str, levels, effects) -> pd.DataFrame:
    """Columns group, level and effect of a long table, levels outermost."""
    levels, effects = list(levels), list(effects)
    return pd.DataFrame(
        {
            "group": factor,
            "level": np.repeat(np.array(levels, dtype=object), len(effects)),
            "effect": effects * len(levels),
        }
    ).infer_objects()
