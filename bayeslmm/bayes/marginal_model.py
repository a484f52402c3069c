"""The marginal posterior as an ordinary PyMC model: any prior on the covariance parameters."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.bayes.coefficients import fixed_prior
from bayeslmm.bayes.conditional import GivenCovariances, posterior_values
from bayeslmm.bayes.fitting import FitInfo, assemble
from bayeslmm.bayes.hierarchical import coords, flat_covariance_root
from bayeslmm.bayes.marginal import fixed_obstacle
from bayeslmm.bayes.names import ModelNames
from bayeslmm.bayes.nuts import processors
from bayeslmm.bayes.pymc_sampling import sample_model
from bayeslmm.bayes.residual_model import residual_parts
from bayeslmm.bayes.sampling import PYMC_TUNE, Sampling, quiet_pymc
from bayeslmm.errors import PriorError
from bayeslmm.formula import Design
from bayeslmm.gaussian import Problem, single_threaded_blas
from bayeslmm.gaussian.shared import as_system
from bayeslmm.gaussian.system import System, Theta
from bayeslmm.parts.patterns import correlation_matrices, lower_factor
from bayeslmm.priors.table import Priors

if TYPE_CHECKING:
    import pymc as pm
    import xarray as xr

__all__ = ["fit_marginal_model", "marginal_model"]


def marginal_model(
    design: Design, priors: Priors, names: ModelNames, problem: Problem | System
) -> pm.Model:
    """Covariance parameters alone; coefficients and effects integrated out.

    Parameters
    ----------
    problem : Problem or System
        Of the design.

    Returns
    -------
    pymc.Model
        The likelihood is the potential ``log_marginal``: log p(y | covariance parameters).

    Raises
    ------
    PriorError
        If a coefficient's prior is neither normal nor flat.
    """
    import pymc as pm
    import pytensor.tensor as pt

    from bayeslmm.bayes.marginal_op import log_marginal_likelihood

    if obstacle := fixed_obstacle(design, priors):
        raise PriorError(f"There is no marginal model: {obstacle}.")
    maps = priors.effect_maps()
    system = as_system(maps.applied(problem))
    with pm.Model(coords=coords(design, names)) as result:
        parts = [pt.zeros(0)]
        for block, factor, K in zip(design.blocks, names.factors, maps.matrices, strict=True):
            parts.append(flat_covariance_root(block, factor, priors, K))
        eta, c = residual_parts(design, priors)
        c = pt.zeros(0) if c is None else pt.atleast_1d(c).ravel()
        F = pt.concatenate(parts)
        log_y = log_marginal_likelihood(system, fixed_prior(design, priors), F, eta, c)
        pm.Potential("log_marginal", log_y)
    return result


def fit_marginal_model(
    design: Design,
    priors: Priors,
    names: ModelNames,
    problem: Callable[[], Problem],
    sampling: Sampling,
    *,
    parameterization: str,
    reason: str,
) -> tuple[xr.DataTree, FitInfo]:
    """NUTS on the marginal model, then exact draws of beta and b.

    For priors on standard deviations that the compiled density does not know. Arguments as in
    :func:`bayeslmm.bayes.marginal_fitting.fit_marginal`; options as in :func:`sample_model`.
    """
    start = time.perf_counter()
    quiet_pymc()
    chains, draws = sampling.chains, sampling.draws
    model = marginal_model(design, priors, names, problem())
    wanted = ["sigma"]
    for block, factor in zip(design.blocks, names.factors, strict=True):
        wanted += [factor.sd] + ([factor.corr] if block.correlated_pairs() else [])
    flat, stats = sample_model(model, wanted, sampling)
    flat = {name: array.reshape(chains * draws, *array.shape[2:]) for name, array in flat.items()}
    sds, factors = [np.empty((chains * draws, 0))], []
    for block, factor in zip(design.blocks, names.factors, strict=True):
        sd = flat[factor.sd]
        sds.append(sd)
        root = np.broadcast_to(np.eye(sd.shape[1]), (len(sd), sd.shape[1], sd.shape[1]))
        if factor.corr in flat:
            pairs = block.correlated_pairs()
            matrices = correlation_matrices(flat[factor.corr], pairs, block.n_effects)
            root = np.array([lower_factor(R) for R in matrices])
        factors.append(sd[:, :, None] * root)
    none = np.empty((chains * draws, 0))
    F = np.concatenate([none, *(L.reshape(len(L), -1) for L in factors)], axis=1)
    theta = Theta(F, np.log(flat["sigma"])[:, None], none)
    with single_threaded_blas():
        values = posterior_values(
            GivenCovariances.of(
                as_system(problem()),
                fixed_prior(design, priors),
                np.concatenate(sds, axis=1),
                theta,
                None,
            ),
            design,
            names,
            chains=chains,
            random_seed=sampling.random_seed,
            cores=sampling.cores or processors(),
            random_effects=sampling.random_effects,
        )
    info = FitInfo.of(
        sampling,
        start,
        method="nuts",
        parameterization=parameterization,
        reason=f"{reason}; sampled through PyMC",
        tune=sampling.warm_up(PYMC_TUNE),
    )
    return assemble(design, names, values, stats, info)
