"""From a model to its REML or maximum likelihood fit."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.errors import DataError, ModelWarning, listed
from bayeslmm.fits.checks import warn_of_data
from bayeslmm.fits.likelihood import LikelihoodFit
from bayeslmm.formula import Design
from bayeslmm.gaussian import single_threaded_blas
from bayeslmm.likelihood.absolute import AbsoluteLikelihood
from bayeslmm.likelihood.laplace import ResponseLikelihood
from bayeslmm.likelihood.laplace_error import NODES, laplace_error
from bayeslmm.likelihood.profiled import ProfiledLikelihood, least_squares_sigma
from bayeslmm.likelihood.thresholds import PERFECT
from bayeslmm.results.identification import sigma_is_known

if TYPE_CHECKING:
    import xarray as xr

    from bayeslmm.protocols import Model

__all__ = ["likelihood_fit"]

#: Standard errors by which quadrature may move an estimate of Laplace's approximation. A parameter
#: has more than half of one where 300 groups of 4 coin tosses have their sd 11 % too low.
_POOR = 0.5


def likelihood_fit(model: Model, *, reml: bool, n_quadrature: int = 1) -> LikelihoodFit:
    """Fit `model`; see :meth:`bayeslmm.LMM.reml` and :meth:`bayeslmm.LMM.ml`."""
    design = model.design
    if design.modeled:
        _refuse_unknowns(design)
    if not design.family.gaussian:
        if model.random != "gaussian":
            raise DataError(
                "Maximum likelihood is for normal random effects, and this model has "
                f'random="{model.random}". Use model.fit(), or leave it out.'
            )
        return _response_fit(model, n_quadrature)
    if n_quadrature != 1:
        raise ValueError(
            "n_quadrature is for responses that are not Gaussian: the likelihood of this model has "
            "a closed form."
        )
    _refuse_other_families(model)
    kind = ProfiledLikelihood if design.residual is None else AbsoluteLikelihood
    with single_threaded_blas():
        engine = kind.of(model)
        _refuse_perfect(design, engine.least_squares_sigma)
        optimum = engine.optimize(reml=reml)
        if not np.isfinite(optimum.criterion):
            raise DataError(
                "The likelihood cannot be evaluated. Check the scale of the columns and whether "
                "the model fits perfectly."
            )
        fit = LikelihoodFit(model, engine, optimum, reml=reml)
        engine.refuse_unbounded(fit._solution)
    if engine.known_sigma is None:
        _refuse_perfect(design, fit.sigma)
    _warn_of(fit)
    return fit


def _response_fit(model: Model, n_quadrature: int) -> LikelihoodFit:
    with single_threaded_blas():
        engine = ResponseLikelihood.of(model, n_quadrature)
        optimum = engine.optimize(reml=False)
        if not np.isfinite(optimum.criterion):
            raise DataError(
                "The likelihood cannot be evaluated. Check the scale of the columns, and whether "
                "the link keeps the mean where the response has it."
            )
        fit = LikelihoodFit(model, engine, optimum, reml=False)
    _warn_of(fit)
    error = laplace_error(fit._solution) if fit.converged and not fit.singular else 0.0
    if error > _POOR:
        factor = model.design.blocks[0]
        nodes = NODES[factor.n_effects]
        _warn(
            f"Laplace's approximation is poor here: by quadrature over the effects of "
            f"{factor.name!r} an estimate would move by about {error:.1f} standard errors. Use "
            f"ml(n_quadrature={nodes}), or fit(), which is exact."
        )
    return fit


def _warn_of(fit: LikelihoodFit) -> None:
    warn_of_data(fit.model, stacklevel=4)
    if not fit.converged:
        text = f"The optimizer did not converge: {fit.optimum.message}."
        _warn(f"{text} Do not trust the estimates.")
    if fit.singular:
        where = "At a boundary" if fit._engine.limits(fit._solution) else "Singular fit"
        _warn(f"{where}: " + "; ".join(fit.singular_components) + ".")


def _refuse_unknowns(design: Design) -> None:
    """Refuse covariates of which the likelihood would need values that are not known."""
    measured = [covariate.name for covariate in design.modeled if covariate.measured]
    missing = [c.name for c in design.modeled if not c.measured]
    if measured:
        raise DataError(
            f"Measurement error (of {listed(measured)}) needs model.fit(): REML and maximum "
            "likelihood take readings for the truth. Write the column without me() for that."
        )
    raise DataError(
        f"Missing values that are modeled (of {listed(missing)}) need model.fit(): REML and "
        'maximum likelihood know no missing values. Use missing="drop" for them.'
    )


def _refuse_other_families(model: Model) -> None:
    for name in ("family", "random"):
        if (family := getattr(model, name)) != "gaussian":
            raise DataError(
                f"REML and maximum likelihood are for Gaussian models, and this one has "
                f'{name}="{family}". Use model.fit(), or make a Gaussian model.'
            )


def refuse_perfect_model(model: Model) -> None:
    """Refuse a response that the coefficients alone reproduce: its likelihood has no maximum.

    With sigma going to 0 the likelihood grows without bound, and the posterior is improper
    unless the prior keeps sigma away from 0.

    Raises
    ------
    DataError
    """
    if model.design.family.gaussian and not sigma_is_known(model):
        with single_threaded_blas():
            _refuse_perfect(model.design, least_squares_sigma(model.cross_products))


def refuse_perfect_posterior(model: Model, idata: xr.DataTree) -> None:
    """Refuse draws in which sigma has collapsed: random effects reproduce the response.

    Raises
    ------
    DataError
    """
    if model.design.family.gaussian and not sigma_is_known(model):
        _refuse_perfect(model.design, float(idata["posterior"]["sigma"].median()))


def _refuse_perfect(design: Design, sigma: float) -> None:
    spread = design.sd_y
    if sigma <= PERFECT * spread:
        raise DataError(
            f"The model fits {design.response!r} perfectly, up to rounding: the residual standard "
            f"deviation ({sigma:.1e}) is negligible beside that of the response ({spread:.1e}), so "
            "there is no error to estimate anything from."
        )


def _warn(text: str) -> None:
    warnings.warn(text, ModelWarning, stacklevel=5)
