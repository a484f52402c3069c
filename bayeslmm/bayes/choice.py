"""Which method and parameterization a fit uses, and why, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from bayeslmm.bayes.names import ModelNames
from bayeslmm.errors import SamplingError
from bayeslmm.formula import Design
from bayeslmm.priors.table import Priors

if TYPE_CHECKING:
    import xarray as xr

    from bayeslmm.bayes.fitting import FitInfo
    from bayeslmm.bayes.sampling import Sampling
    from bayeslmm.gaussian import Problem

__all__ = ["METHODS", "PARAMETERIZATIONS", "choose_parameterization", "fit_posterior"]

PARAMETERIZATIONS = ("auto", "marginal", "whitened", "noncentered", "centered")
METHODS = ("nuts", "importance")

#: Options that only ``pm.sample`` understands; whoever gives one means that sampler.
_PM_SAMPLE_ONLY = {
    "nuts_sampler", "nuts_sampler_kwargs", "step", "init", "initvals", "jitter_max_retries",
    "nuts", "compile_kwargs", "backend", "callback", "trace", "n_init", "mp_ctx", "blas_cores",
}  # fmt: skip

#: Module and function that make the draws, by method, parameterization and who computes the
#: density. Imported when a fit is made: together they take a tenth of a second.
_STRATEGIES = {
    ("nuts", "marginal", "compiled"): ("marginal_fitting", "fit_marginal"),
    ("nuts", "marginal", "pymc"): ("marginal_model", "fit_marginal_model"),
    ("nuts", "noncentered", "pymc"): ("fitting", "fit_hierarchical"),
    ("nuts", "centered", "pymc"): ("fitting", "fit_hierarchical"),
    ("importance", "marginal", "compiled"): ("importance", "fit_importance"),
    ("nuts", "whitened", "compiled"): ("whitened_fitting", "fit_whitened"),
    ("importance", "whitened", "compiled"): ("whitened_fitting", "fit_whitened_importance"),
}


def choose_parameterization(
    design: Design,
    priors: Priors,
    parameterization: str,
    method: str,
    options: Mapping[str, Any],
) -> tuple[str, str]:
    """The parameterization to use, never "auto", and the reason.

    Parameters
    ----------
    parameterization, method : str
        As asked for.
    options : dict
        Sampler options given.

    Raises
    ------
    ValueError
        If a parameterization does not go with the method.
    SamplingError
        If what was asked for does not go with the priors.
    """
    from bayeslmm.bayes.laplace_posterior import samples_effects
    from bayeslmm.bayes.marginal import fixed_obstacle, marginal_obstacle

    if samples_effects(design, priors):
        return _choose_whitened(design, priors, parameterization, method, options)
    if parameterization == "whitened":
        raise SamplingError(
            'parameterization="whitened" is for responses that are not Gaussian and for Student-t '
            'residuals and effects: leave it at "auto".'
        )
    if parameterization in ("noncentered", "centered"):
        where = "on the marginal posterior of the covariance parameters"
        return _asked_of_pymc(parameterization, method, where, "marginal")
    if parameterization == "auto" and method == "nuts":
        if why := _needs_pymc(options, marginal_obstacle(design, priors)):
            return "noncentered", why
        return "marginal", "auto: coefficients and random effects integrated out exactly"
    obstacle = marginal_obstacle(design, priors)
    if obstacle and method == "nuts" and design.residual is None:
        # through PyMC, which knows any prior on a standard deviation
        obstacle = fixed_obstacle(design, priors)
    if obstacle:
        raise SamplingError(
            f"The marginal posterior is not available: {obstacle}. Use "
            'method="nuts" with parameterization="noncentered".'
        )
    return "marginal", "asked for" if parameterization == "marginal" else f"{method} needs it"


def _asked_of_pymc(parameterization: str, method: str, where: str, own: str) -> tuple[str, str]:
    if method == "importance":
        raise ValueError(
            f'method="importance" works {where}: leave parameterization at "auto" or "{own}".'
        )
    return parameterization, "asked for"


def _needs_pymc(options: Mapping[str, Any], obstacle: str | None) -> str | None:
    """Why NUTS has to go through PyMC, where it may choose; None where it need not."""
    if given := sorted(_PM_SAMPLE_ONLY & options.keys()):
        return f"auto: {given[0]} is an option of pm.sample"
    return f"auto: {obstacle}" if obstacle else None


def _choose_whitened(design, priors, parameterization, method, options) -> tuple[str, str]:
    """Of a model whose effects are sampled with everything else."""
    from bayeslmm.bayes.laplace_posterior import whitened_obstacle
    from bayeslmm.bayes.marginal import fixed_obstacle

    if parameterization == "marginal" and design.family.gaussian:
        raise SamplingError(
            f"The marginal posterior is not available: {fixed_obstacle(design, priors)}. Leave "
            'parameterization at "auto" or "whitened".'
        )
    if parameterization == "marginal":
        raise SamplingError(
            f'With family="{design.family.name}" coefficients and random effects cannot be '
            'integrated out in closed form: leave parameterization at "auto" or "whitened".'
        )
    if parameterization in ("noncentered", "centered"):
        return _asked_of_pymc(parameterization, method, "in whitened coordinates", "whitened")
    obstacle = whitened_obstacle(design, priors)
    if parameterization == "auto" and method == "nuts":
        if why := _needs_pymc(options, obstacle):
            return "noncentered", why
    elif obstacle:
        text = f"The compiled joint density is not available: {obstacle}."
        if all(covariate.values is None for covariate in design.modeled):  # which PyMC has
            text += ' Use method="nuts" with parameterization="noncentered".'
        raise SamplingError(text)
    if parameterization == "auto":
        return "whitened", "auto: parameters and effects in coordinates of the Laplace fit"
    return "whitened", "asked for"


def fit_posterior(
    design: Design,
    priors: Priors,
    names: ModelNames,
    problem: Callable[[], Problem],
    sampling: Sampling,
    *,
    method: str,
    parameterization: str,
) -> tuple[xr.DataTree, FitInfo]:
    """Draw from the posterior by the strategy that method, parameterization and priors name.

    Parameters
    ----------
    problem : callable
        Gives the prepared cross-products; called only where they are needed.
    sampling : Sampling
    method, parameterization : str
        As in :meth:`bayeslmm.LMM.fit`.

    Returns
    -------
    idata : xarray.DataTree
    info : FitInfo

    Raises
    ------
    PriorError
        If flat priors leave the posterior improper.
    """
    from bayeslmm.bayes.marginal import marginal_obstacle
    from bayeslmm.priors.propriety import refuse_improper_posterior

    refuse_improper_posterior(design, priors)
    options = sampling.options
    chosen, reason = choose_parameterization(design, priors, parameterization, method, options)
    through_pymc = (
        method == "nuts"
        and chosen != "whitened"
        and (chosen != "marginal" or bool(marginal_obstacle(design, priors)))
    )
    density = "pymc" if through_pymc else "compiled"
    module, function = _STRATEGIES[method, chosen, density]
    strategy = getattr(import_module(f"bayeslmm.bayes.{module}"), function)
    return strategy(
        design, priors, names, problem, sampling, parameterization=chosen, reason=reason
    )
