"""One call from a design and priors to a tree of draws and the record of how it was made."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from bayeslmm.bayes.diagnostics import sampling_problems, weighting_problems
from bayeslmm.bayes.draws import coefficient_draws, component_draws
from bayeslmm.bayes.effect_summaries import EffectSummary
from bayeslmm.bayes.hierarchical import hierarchical_model, posterior_variables
from bayeslmm.bayes.names import ModelNames
from bayeslmm.bayes.pymc_sampling import sample_model
from bayeslmm.bayes.sampling import PYMC_TUNE, Sampling, quiet_pymc
from bayeslmm.bayes.shrinkage import scale_dataset, scale_variables
from bayeslmm.bayes.tree import SUMMARY_GROUP, posterior_dataset, posterior_tree, summary_node
from bayeslmm.errors import DataError
from bayeslmm.formula import Design
from bayeslmm.priors.table import Priors

if TYPE_CHECKING:
    import xarray as xr

    from bayeslmm.gaussian import Problem

__all__ = ["FitInfo", "assemble", "fit_hierarchical", "versions"]


@dataclass(frozen=True)
class FitInfo:
    """How a posterior was made.

    Attributes
    ----------
    method : str
        ``"nuts"`` or ``"importance"``.
    parameterization : str
        ``"marginal"``, ``"noncentered"`` or ``"centered"``.
    reason : str
        Why that one.
    draws, tune, chains : int
        Draws kept and warm-up draws per chain, number of chains. Importance sampling has no
        warm-up, and its chains are independent parts of one resample.
    random_seed : int
        The seed used, also where none was given.
    seconds : float
        Wall time.
    sampler : str
        What made the draws, in words.
    problems : tuple of str
        What the sampling warnings said.
    k_hat : float or None
        Pareto shape of the importance weights.
    effective_draws : float or None
        Effective number of independent draws behind the resampled ones.
    log_marginal_likelihood, log_marginal_likelihood_error : float or None
        log p(y) under the priors in force, and its Monte Carlo standard error; None where a
        prior is flat or the method gives none.
    """

    method: str
    parameterization: str
    reason: str
    draws: int
    tune: int
    chains: int
    random_seed: int
    seconds: float
    sampler: str = "NUTS"
    problems: tuple[str, ...] = field(default=())
    k_hat: float | None = None
    effective_draws: float | None = None
    log_marginal_likelihood: float | None = None
    log_marginal_likelihood_error: float | None = None

    @classmethod
    def of(cls, sampling: Sampling, start: float, **how: Any) -> Self:
        """The record of what was asked for and begun at `start`, a ``time.perf_counter()``."""
        return cls(
            draws=sampling.draws,
            chains=sampling.chains,
            random_seed=sampling.random_seed,
            seconds=time.perf_counter() - start,
            **how,
        )


def fit_hierarchical(
    design: Design,
    priors: Priors,
    names: ModelNames,
    problem: Callable[[], Problem],
    sampling: Sampling,
    *,
    parameterization: str,
    reason: str,
) -> tuple[xr.DataTree, FitInfo]:
    """NUTS on the hierarchical PyMC model, random effects and all.

    Parameters
    ----------
    problem : callable
        Not used: this model is evaluated row by row.
    sampling : Sampling
        Its options as :func:`bayeslmm.bayes.pymc_sampling.sample_model` takes them.
    parameterization : {"noncentered", "centered"}
    reason : str
        Why that one, for the record.

    Returns
    -------
    idata : xarray.DataTree
    info : FitInfo

    Raises
    ------
    SamplingError
        If the sampler cannot run or is stopped early.
    DataError
        If only summaries of the random effects are asked for.
    """
    if sampling.random_effects != "draws":
        raise DataError(
            'random_effects="summary" goes with the marginal posterior only, and this fit is '
            f"{parameterization} ({reason})."
        )
    start = time.perf_counter()
    quiet_pymc()
    centered = parameterization == "centered"
    model = hierarchical_model(design, priors, names, centered=centered)
    variables = posterior_variables(design, names, priors)
    values, stats = sample_model(model, variables, sampling)
    scales = {name: values.pop(name) for name in scale_variables(priors.shrinkage)}
    info = FitInfo.of(
        sampling,
        start,
        method="nuts",
        parameterization=parameterization,
        reason=reason,
        tune=sampling.warm_up(PYMC_TUNE),
    )
    return assemble(design, names, values, stats, info, scale_dataset(priors.shrinkage, scales))


def assemble(
    design: Design,
    names: ModelNames,
    values: Mapping[str, np.ndarray | EffectSummary],
    stats: xr.Dataset,
    info: FitInfo,
    more: xr.Dataset | None = None,
) -> tuple[xr.DataTree, FitInfo]:
    """The tree of a posterior, and its record with the problems found added.

    Parameters
    ----------
    values : dict of ndarray or EffectSummary
        Per variable, shape (chains, draws, ...).
    stats : xarray.Dataset
        What the sampler reports per draw.
    info : FitInfo
    more : xarray.Dataset, optional
        Draws of variables that not every model has.
    """
    summaries = {k: v for k, v in values.items() if isinstance(v, EffectSummary)}
    arrays = {k: v for k, v in values.items() if not isinstance(v, EffectSummary)}
    posterior = posterior_dataset(design, names, arrays)
    if more is not None:
        posterior = posterior.merge(more)
    if info.effective_draws is not None:
        problems = weighting_problems(info.effective_draws, info.chains)
    else:
        coefficients, beta = coefficient_draws(design, posterior)
        components, values_of = component_draws(design, names, posterior)
        problems = sampling_problems(
            [*coefficients, *components],
            np.concatenate((beta, values_of), axis=-1),
            stats,
            parameterization=info.parameterization,
        )
    info = replace(info, problems=(*info.problems, *problems))
    tree = posterior_tree(design, names, posterior, stats, _attrs(design, names, info))
    if summaries:
        tree[SUMMARY_GROUP] = summary_node(design, names, summaries)
    return tree, info


def versions() -> dict[str, str]:
    """Versions of the packages a posterior depends on."""
    packages = ("bayeslmm", "pymc", "nutpie", "arviz", "formulae", "numpy")
    return {name: _version(name) for name in packages}


@cache
def _version(name: str) -> str:
    """Reading a package's metadata takes milliseconds."""
    from importlib.metadata import version

    return version(name)


def _attrs(design: Design, names: ModelNames, info: FitInfo) -> dict[str, str | int | float]:
    """Attributes of the posterior group: text and numbers only, as NetCDF wants."""
    renamed = names.renamed()
    attrs: dict[str, str | int | float] = {
        "created_by": "bayeslmm",
        "bayeslmm_version": versions()["bayeslmm"],
        "formula": design.formula.text,
        "method": info.method,
        "parameterization": info.parameterization,
        "random_seed": info.random_seed,
        "sampling_time": info.seconds,
        "tuning_steps": info.tune,
    }
    if renamed:
        attrs["renamed_factors"] = "; ".join(f"{k} -> {v}" for k, v in renamed.items())
    return attrs
