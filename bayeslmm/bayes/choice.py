"""Which method and parameterization a fit uses, and why, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from bayeslmm.bayes.names import ModelNames
from bayeslmm.errors import DataError, SamplingError
from bayeslmm.formula import Design
from bayeslmm.priors.table import Priors

if TYPE_CHECKING:
    import xarray as xr

    from bayeslmm.bayes.fitting import FitInfo
    from bayeslmm.gaussian import Problem

__all__ = ["METHODS", "PARAMETERIZATIONS", "choose_parameterization", "fit_posterior"]

PARAMETERIZATIONS = ("auto", "marginal", "noncentered", "centered")
METHODS = ("nuts", "importance")

#: Options that only ``pm.sample`` understands; whoever gives one means that sampler.
_PM_SAMPLE_ONLY = {
    "nuts_sampler", "nuts_sampler_kwargs", "step", "init", "initvals", "jitter_max_retries",
    "nuts", "compile_kwargs", "backend", "callback", "trace", "n_init", "mp_ctx", "blas_cores",
}  # fmt: skip


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
    from bayeslmm.bayes.marginal import fixed_obstacle, marginal_obstacle

    if parameterization in ("noncentered", "centered"):
        if method == "importance":
            raise ValueError(
                'method="importance" works on the marginal posterior of the covariance parameters: '
                'leave parameterization at "auto" or "marginal".'
            )
        return parameterization, "asked for"
    if parameterization == "auto" and method == "nuts":
        given = sorted(_PM_SAMPLE_ONLY & options.keys())
        if given:
            return "noncentered", f"auto: {given[0]} is an option of pm.sample"
        if obstacle := marginal_obstacle(design, priors):
            return "noncentered", f"auto: {obstacle}"
        return "marginal", "auto: coefficients and random effects integrated out exactly"
    # which knows any prior on a standard deviation
    through_pymc = method == "nuts" and design.residual is None
    obstacle = (fixed_obstacle if through_pymc else marginal_obstacle)(design, priors)
    if obstacle:
        raise SamplingError(
            f"The marginal posterior is not available: {obstacle}. Use "
            'method="nuts" with parameterization="noncentered".'
        )
    return "marginal", "asked for" if parameterization == "marginal" else f"{method} needs it"


def fit_posterior(
    design: Design,
    priors: Priors,
    names: ModelNames,
    problem: Callable[[], Problem],
    *,
    method: str,
    parameterization: str,
    options: dict[str, Any],
    random_effects: str = "draws",
    **settings: Any,
) -> tuple[xr.DataTree, FitInfo]:
    """Draw from the posterior by the strategy that method, parameterization and priors name.

    Parameters
    ----------
    problem : callable
        Gives the prepared cross-products; called only where they are needed.
    random_effects : {"draws", "summary"}
        What to keep of the draws of b.
    settings
        ``draws``, ``tune``, ``chains``, ``cores``, ``random_seed``, ``progressbar``.

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
    chosen, reason = choose_parameterization(design, priors, parameterization, method, options)
    settings |= {"reason": reason, "options": options}
    if chosen != "marginal":
        if random_effects != "draws":
            raise DataError(
                'random_effects="summary" goes with the marginal posterior only, and this fit is '
                f"{chosen} ({reason})."
            )
        from bayeslmm.bayes.fitting import fit_hierarchical

        return fit_hierarchical(design, priors, names, parameterization=chosen, **settings)
    settings["random_effects"] = random_effects
    if method == "importance":
        from bayeslmm.bayes.importance import fit_importance

        return fit_importance(design, priors, names, problem(), **settings)
    if marginal_obstacle(design, priors):
        from bayeslmm.bayes.marginal_model import fit_marginal_model

        return fit_marginal_model(design, priors, names, problem(), **settings)
    from bayeslmm.bayes.marginal_fitting import fit_marginal

    return fit_marginal(design, priors, names, problem(), **settings)
