"""One call from a design and priors to a tree of draws and the record of how it was made."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeslmm.bayes.diagnostics import sampling_problems
from bayeslmm.bayes.draws import coefficient_draws, component_draws
from bayeslmm.bayes.hierarchical import hierarchical_model, posterior_variables
from bayeslmm.bayes.names import ModelNames
from bayeslmm.bayes.priors import Priors
from bayeslmm.bayes.sampling import check_sampler_arguments, quiet_pymc, sample_model
from bayeslmm.bayes.tree import posterior_dataset, posterior_tree
from bayeslmm.formula import Design

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["FitInfo", "fit_hierarchical", "versions"]


@dataclass(frozen=True)
class FitInfo:
    """How a posterior was made.

    Attributes
    ----------
    method : str
        ``"nuts"``.
    parameterization : str
        ``"noncentered"`` or ``"centered"``.
    reason : str
        Why that one.
    draws, tune, chains : int
    random_seed : int
        The seed used, also where none was given.
    seconds : float
        Wall time.
    problems : tuple of str
        What the sampling warnings said.
    """

    method: str
    parameterization: str
    reason: str
    draws: int
    tune: int
    chains: int
    random_seed: int
    seconds: float
    problems: tuple[str, ...] = field(default=())


def fit_hierarchical(
    design: Design,
    priors: Priors,
    names: ModelNames,
    *,
    parameterization: str,
    draws: int,
    tune: int,
    chains: int,
    cores: int | None,
    random_seed: int,
    progressbar: bool,
    options: dict[str, Any],
) -> tuple[xr.DataTree, FitInfo]:
    """NUTS on the hierarchical PyMC model, random effects and all.

    Parameters
    ----------
    parameterization : {"auto", "noncentered", "centered"}
    draws, tune, chains, cores, random_seed, progressbar
        As in :meth:`bayeslmm.LMM.fit`.
    options : dict
        Passed to ``pm.sample``.

    Returns
    -------
    idata : xarray.DataTree
    info : FitInfo

    Raises
    ------
    SamplingError
        If the sampler cannot run or is stopped early.
    """
    check_sampler_arguments(draws, tune, chains)
    start = time.perf_counter()
    quiet_pymc()
    centered = parameterization == "centered"
    model = hierarchical_model(design, priors, names, centered=centered)
    variables = posterior_variables(design, names)
    sampled, stats = sample_model(
        model,
        variables,
        draws=draws,
        tune=tune,
        chains=chains,
        cores=cores,
        random_seed=random_seed,
        progressbar=progressbar,
        options=options,
    )
    values = {name: sampled[name].transpose("chain", "draw", ...).to_numpy() for name in variables}
    posterior = posterior_dataset(design, names, values)
    labels, columns = zip(
        coefficient_draws(design, posterior),
        component_draws(design, names, posterior),
        strict=True,
    )
    problems = sampling_problems(
        [*labels[0], *labels[1]], np.concatenate(columns, axis=-1), stats, centered=centered
    )
    info = FitInfo(
        method="nuts",
        parameterization="centered" if centered else "noncentered",
        reason="asked for" if parameterization != "auto" else "the default",
        draws=draws,
        tune=tune,
        chains=chains,
        random_seed=random_seed,
        seconds=time.perf_counter() - start,
        problems=tuple(problems),
    )
    return posterior_tree(design, names, posterior, stats, _attrs(design, names, info)), info


def versions() -> dict[str, str]:
    """Versions of the packages a posterior depends on."""
    from importlib.metadata import version

    packages = ("bayeslmm", "pymc", "nutpie", "arviz", "formulae", "numpy")
    return {name: version(name) for name in packages}


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
