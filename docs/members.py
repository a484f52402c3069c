"""The members of public classes, in the groups in which the reference shows them."""

from __future__ import annotations

import importlib
import inspect
from functools import cached_property

import bayeslmm

__all__ = ["GROUPS", "classes", "grouped", "members", "pages"]

#: What functions and fits give, by the module below bayeslmm.
_RESULTS = (
    "bayes.fitting.FitInfo",
    "results.printing.Table",
    "results.refits.Refits",
    "results.conditioning.Conditioning",
    "reanalysis.reanalyze.Reanalysis",
    "reanalysis.sensitivity.Sensitivity",
    "reanalysis.assurance.Assurance",
    "reanalysis.bayes_factors.BayesFactor",
    "reanalysis.bridge.Evidence",
    "bayes.calibration.Calibration",
    "formula.missingness.Missingness",
    "formula.design.Design",
    "sources.base.Source",
)

#: Pages of the guide that a class refers to.
_GUIDES = {
    "LMM": "getting-started formulas families priors residual-structures kinship scale",
    "PosteriorFit": "posterior questions prediction variance-explained checking plots",
    "LikelihoodFit": "likelihood questions prediction variance-explained checking plots",
    "Prior": "priors",
    "Priors": "priors",
    "RelationshipMatrix": "kinship",
    "Simulation": "datasets",
    "FitInfo": "posterior fast-engine",
    "Table": "getting-started",
    "Refits": "likelihood",
    "Conditioning": "prediction",
    "Reanalysis": "reanalysis",
    "Sensitivity": "reanalysis",
    "Assurance": "reanalysis",
    "BayesFactor": "bayes-factors",
    "Evidence": "bayes-factors",
    "Calibration": "checking",
    "Missingness": "real-data",
    "Design": "formulas",
    "Source": "scale",
}

#: Groups of the members of models and fits; a title may have members in every class.
GROUPS = {
    "Fitting": "fit reml ml refit refit_many with_response condition_on",
    "The model": "equation link unidentified pymc_model prior_predictive",
    "Tables of estimates": (
        "summary describe fixef coef ranef varcomp components covariances vcov confint anova "
        "imputed"
    ),
    "Draws": "idata posterior",
    "Effects and questions": (
        "predictions comparisons slopes marginal_means pairwise contrast hypothesis "
        "average_effects average_contrasts contextual_effect to_marginaleffects"
    ),
    "Variance explained": (
        "r2 icc variance_shares heritability repeatability reliability heterogeneity "
        "implied_covariance implied_correlation"
    ),
    "Prediction": "predict fitted residuals simulate posterior_predictive",
    "Checks": (
        "check influence singular singular_components predictive_check loo loo_pit "
        "quantile_residuals outlier_weights"
    ),
    "Criteria": "deviance aic bic n_parameters",
    "Plots": (
        "plot_data plot_prior_predictive plot_trajectories plot_average_effects plot_predictions "
        "plot_comparisons plot_slopes plot_shrinkage plot_ranef plot_variance plot_forest "
        "plot_implied_covariance plot_residuals plot_influence plot_compare plot_prior_posterior "
        "plot_ppc plot_loo_pit plot_rank plot_trace"
    ),
    "Files": "save report",
    "For programs": (
        "design names kept problem cross_products with_design inference column_space "
        "conditional_covariances predictor_variance residual_variance residual_noise whiten "
        "reestimates"
    ),
}


def classes() -> dict[str, type]:
    """Every class with a page of its own, by the name it is documented under; no errors."""
    named = {f"bayeslmm.{name}": getattr(bayeslmm, name) for name in bayeslmm.__all__}
    for place in _RESULTS:
        module, _, name = f"bayeslmm.{place}".rpartition(".")
        named[f"bayeslmm.{place}"] = getattr(importlib.import_module(module), name)
    return {
        name: cls
        for name, cls in named.items()
        if inspect.isclass(cls) and not issubclass(cls, Exception)
    }


def pages() -> dict[str, dict]:
    """What the template of a class's page shows, as plain values."""
    found = {}
    for place, cls in classes().items():
        name = place.rpartition(".")[2]
        owner = "LMM" if cls is bayeslmm.LMM else name
        groups = grouped(cls)
        found[place] = {
            "title": name,
            "owner": owner,
            "guides": [f"docs/{page}" for page in _GUIDES[owner].split()],
            "groups": groups,
            "properties": [
                member
                for _, group in groups
                for member in group
                if not callable(getattr(cls, member))
            ],
        }
    return found


def members(cls: type) -> list[str]:
    """Public methods and properties that classes of the package define, in the source's order."""
    found: dict[str, None] = {}
    for owner in cls.__mro__:
        if not owner.__module__.startswith("bayeslmm."):
            continue
        for name, value in vars(owner).items():
            kinds = (property, cached_property, classmethod, staticmethod)
            if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, kinds)):
                found.setdefault(name)
    return list(found)


def grouped(cls: type) -> list[tuple[str, list[str]]]:
    """Titles and members of a class; one title where nothing has a group."""
    names = members(cls)
    known = {title: text.split() for title, text in GROUPS.items()}
    groups = [(title, [name for name in text if name in names]) for title, text in known.items()]
    placed = {name for _, group in groups for name in group}
    if set(names) <= placed:
        return [(title, group) for title, group in groups if group]
    return [("Methods and properties", names)]
