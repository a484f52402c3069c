"""From a model to its REML or maximum likelihood fit."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.errors import DataError, ModelWarning
from bayeslmm.formula import Design
from bayeslmm.gaussian import CrossProducts, Problem, prepare, single_threaded_blas
from bayeslmm.likelihood.optimize import optimize
from bayeslmm.results.likelihood import LikelihoodFit

if TYPE_CHECKING:
    from bayeslmm.model import LMM

__all__ = ["likelihood_fit"]

#: A residual standard deviation this small beside the response's is rounding error.
_PERFECT = 1e-7


def likelihood_fit(model: LMM, *, reml: bool) -> LikelihoodFit:
    """Fit `model`; see :meth:`bayeslmm.LMM.reml`."""
    design = model.design
    if design.residual is not None:
        from bayeslmm.results.residual_likelihood import residual_likelihood_fit

        return residual_likelihood_fit(model, reml=reml)
    _refuse_unidentified(design)
    with single_threaded_blas():
        problem = _problem(model)
        _refuse_perfect(design, _ols_sigma(problem.cp))
        optimum = optimize(problem, reml=reml)
    if not np.isfinite(optimum.criterion):
        raise DataError(
            "The likelihood cannot be evaluated. Check the scale of the columns and whether "
            "the model fits perfectly."
        )
    fit = LikelihoodFit(model, problem, optimum, reml=reml)
    _refuse_perfect(design, fit.sigma)
    if not fit.converged:
        _warn(f"The optimizer did not converge: {optimum.message}. Do not trust the estimates.")
    if fit.singular:
        _warn("Singular fit: " + "; ".join(fit.singular_components) + ".")
    return fit


def _problem(model: LMM) -> Problem:
    """The model's prepared problem, without aliased columns."""
    if not model.aliased:
        return model.problem
    from bayeslmm.model import covariance_patterns, reduce_rows

    design = model.design
    kept = [j for j, name in enumerate(design.coef_names) if name not in model.aliased]
    return prepare(reduce_rows(design, columns=kept), covariance_patterns(design))


def _refuse_unidentified(design: Design) -> None:
    varying = design.weights is not None and np.ptp(design.weights) > 0
    for block in design.blocks:
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
    gram = cp.gram
    X = np.column_stack([gram[:, :p], gram[:, p + 1]])[[*range(p), p + 1]]
    y = gram[[*range(p), p + 1], p]
    explained = y @ np.linalg.lstsq(X, y, rcond=1e-12)[0] if len(y) else 0.0
    return float(np.sqrt(max(gram[p, p] - explained, 0.0) / max(cp.n, 1)))


def _refuse_perfect(design: Design, sigma: float) -> None:
    spread = float(np.std(design.y - design.offset))
    if sigma <= _PERFECT * spread:
        raise DataError(
            f"The model fits {design.response!r} perfectly, up to rounding: the residual standard "
            f"deviation ({sigma:.1e}) is negligible beside that of the response ({spread:.1e}), so "
            "there is no error to estimate anything from."
        )


def _warn(text: str) -> None:
    warnings.warn(text, ModelWarning, stacklevel=4)
