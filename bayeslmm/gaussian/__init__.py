"""The numerical core: Gaussian linear mixed models from cross-products.

Rows are reduced once (`CrossProducts.from_rows`), laid out once (`prepare`) and evaluated at many
covariance parameters: profiled ML and REML criteria, the likelihood with the fixed effects
integrated out, exact gradients, exact draws.  No n x n matrix anywhere.

Names are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module

_HOME = {
    "aliased_columns": "aliasing",
    "has_average_information": "average_information",
    "profiled_information": "average_information",
    "single_threaded_blas": "blas",
    "Solution": "criterion",
    "factorize": "criterion",
    "profiled_covariance_gradient": "criterion",
    "profiled_criterion": "criterion",
    "profiled_criterion_and_gradient": "criterion",
    "solve": "criterion",
    "CrossProducts": "crossproducts",
    "Shift": "shift",
    "TooManyEffectsError": "derivatives",
    "VarianceDerivatives": "derivatives",
    "variance_derivative_terms": "derivatives",
    "ConditionalMoments": "marginal",
    "FixedPrior": "marginal",
    "MarginalModel": "marginal",
    "combination_moments": "marginal",
    "conditional_moments": "marginal",
    "draw_conditional_many": "marginal",
    "effect_covariances": "marginal",
    "log_marginal": "marginal",
    "draws_to_user": "marginal",
    "log_marginal_and_draw": "marginal",
    "log_marginal_flat": "marginal",
    "log_marginals": "marginal",
    "with_prior": "marginal",
    "Relationship": "related.relationship",
    "draw_levels": "related.relationship",
    "Problem": "problem",
    "prepare": "problem",
    "rotated_for_draws": "related.rotation",
    "unidentified_directions": "identifiability",
    "FactorRows": "rows",
    "RunningProducts": "running",
    "analyze": "symbolic",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
