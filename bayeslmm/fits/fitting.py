"""From a model to its REML or maximum likelihood fit."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.errors import DataError, ModelWarning, PriorError
from bayeslmm.fits.likelihood import LikelihoodFit
from bayeslmm.formula import Design
from bayeslmm.gaussian import CrossProducts, Problem, single_threaded_blas
from bayeslmm.likelihood.optimize import optimize
from bayeslmm.likelihood.unbounded import refuse_unbounded
from bayeslmm.priors.table import Priors
from bayeslmm.results.identification import sigma_is_known

if TYPE_CHECKING:
    import xarray as xr

    from bayeslmm.protocols import Model

__all__ = ["likelihood_fit"]

#: A residual standard deviation this small beside the response's is rounding error.
_PERFECT = 1e-7


def likelihood_fit(model: Model, *, reml: bool) -> LikelihoodFit:
    """Fit `model`; see :meth:`bayeslmm.LMM.reml`."""
    design = model.design
    _refuse_other_families(model)
    if design.residual is not None:
        from bayeslmm.fits.residual_likelihood import residual_likelihood_fit

        return residual_likelihood_fit(model, reml=reml)
    if known_sigma(model.priors) is None:
        _refuse_unidentified(design)
    with single_threaded_blas():
        problem = _problem(model)
        _refuse_perfect(design, _ols_sigma(problem.cp))
        optimum = optimize(problem, reml=reml)
        refuse_unbounded(problem, optimum.theta, reml=reml)
    if not np.isfinite(optimum.criterion):
        raise DataError(
            "The likelihood cannot be evaluated. Check the scale of the columns and whether "
            "the model fits perfectly."
        )
    fit = LikelihoodFit(model, problem, optimum, reml=reml)
    if problem.known_sigma is None:
        _refuse_perfect(design, fit.sigma)
    if not fit.converged:
        _warn(f"The optimizer did not converge: {optimum.message}. Do not trust the estimates.")
    if fit.singular:
        _warn("Singular fit: " + "; ".join(fit.singular_components) + ".")
    return fit


def _problem(model: Model) -> Problem:
    """The model's prepared problem, without aliased columns, with sigma where it is known."""
    return replace(_estimable_problem(model), known_sigma=known_sigma(model.priors))


def known_sigma(priors: Priors) -> float | None:
    """The value sigma is fixed at; None where it is estimated.

    Raises
    ------
    PriorError
        If another parameter is fixed, which no likelihood fit here can do.
    """
    others = [key for key, prior in priors.items() if prior.name == "Fixed" and key != "sigma"]
    if others:
        raise PriorError(
            f"{others[0]} has a fixed value, but REML and maximum likelihood know a fixed sigma "
            "only. Use model.fit()."
        )
    prior = priors["sigma"]
    return float(prior.parameters["value"]) if prior.name == "Fixed" else None


def _estimable_problem(model: Model) -> Problem:
    if not model.aliased:
        return model.problem
    from bayeslmm.assembly import prepared_problem, reduce_rows

    design = model.design
    kept = [j for j, name in enumerate(design.coef_names) if name not in model.aliased]
    return prepared_problem(design, reduce_rows(design, columns=kept))


def _refuse_other_families(model: Model) -> None:
    if model.design.modeled:
        raise DataError(
            'missing="model" needs model.fit(): REML and maximum likelihood know no missing '
            'values. Use missing="drop" for them.'
        )
    for name in ("family", "random"):
        if (family := getattr(model, name)) != "gaussian":
            raise DataError(
                f"REML and maximum likelihood are for Gaussian models, and this one has "
                f'{name}="{family}". Use model.fit(), or make a Gaussian model.'
            )


def _refuse_unidentified(design: Design) -> None:
    varying = design.statistics.weights_vary
    for block in design.blocks:
        if block.relationship is not None and not block.relationship.trivial:
            continue
        total = block.n_levels * block.n_effects
        if total >= design.n_rows and not varying:
            raise DataError(
                f"{block.name!r} has {total} random effects for {design.n_rows} rows, so that "
                "their variances and sigma cannot be told apart by likelihood. Leave an effect "
                "out, or use model.fit(), where the priors decide."
            )


def _ols_sigma(cp: CrossProducts) -> float:
    """Residual standard deviation of least squares, from the cross-products."""
    p = cp.p
    scale = np.sqrt(np.where(np.diag(cp.gram) > 0, np.diag(cp.gram), 1.0))
    scale[p] = 1.0
    gram = cp.gram / np.outer(scale, scale)
    X = np.column_stack([gram[:, :p], gram[:, p + 1]])[[*range(p), p + 1]]
    y = gram[[*range(p), p + 1], p]
    explained = y @ np.linalg.lstsq(X, y, rcond=1e-12)[0] if len(y) else 0.0
    return float(np.sqrt(max(gram[p, p] - explained, 0.0) / max(cp.n, 1)))


def refuse_perfect_model(model: Model) -> None:
    """Refuse a response that the coefficients alone reproduce: its likelihood has no maximum.

    With sigma going to 0 the likelihood grows without bound, and the posterior is improper
    unless the prior keeps sigma away from 0.

    Raises
    ------
    DataError
    """
    if not sigma_is_known(model):
        with single_threaded_blas():
            _refuse_perfect(model.design, _ols_sigma(model.cross_products))


def refuse_perfect_posterior(model: Model, idata: xr.DataTree) -> None:
    """Refuse draws in which sigma has collapsed: random effects reproduce the response.

    Raises
    ------
    DataError
    """
    if not sigma_is_known(model):
        _refuse_perfect(model.design, float(idata["posterior"]["sigma"].median()))


def _refuse_perfect(design: Design, sigma: float) -> None:
    spread = design.statistics.sd_y
    if sigma <= _PERFECT * spread:
        raise DataError(
            f"The model fits {design.response!r} perfectly, up to rounding: the residual standard "
            f"deviation ({sigma:.1e}) is negligible beside that of the response ({spread:.1e}), so "
            "there is no error to estimate anything from."
        )


def _warn(text: str) -> None:
    warnings.warn(text, ModelWarning, stacklevel=4)
