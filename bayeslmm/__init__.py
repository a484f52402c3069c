"""Linear mixed models: one formula, the full posterior and the REML fit.

>>> import bayeslmm as blm
>>> data = blm.load_dataset("sleepstudy")
>>> model = blm.LMM("Reaction ~ Days + (Days | Subject)", data)
>>> post = model.fit(random_seed=1)  # doctest: +SKIP
>>> post.summary()  # doctest: +SKIP
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

# Names are loaded when they are first used: `import bayeslmm` stays light, and pandas, PyMC
# and ArviZ are imported only by what needs them.
_HOMES = {
    "LMM": "bayeslmm.model",
    "Prior": "bayeslmm.parts.prior",
    "Priors": "bayeslmm.priors.table",
    "PosteriorFit": "bayeslmm.fits.posterior",
    "LikelihoodFit": "bayeslmm.fits.likelihood",
    "compare_estimates": "bayeslmm.results.comparison",
    "compare_models": "bayeslmm.fits.model_comparison",
    "likelihood_ratio_test": "bayeslmm.results.likelihood_ratio",
    "reanalyze": "bayeslmm.reanalysis.reanalyze",
    "reanalyze_estimate": "bayeslmm.reanalysis.published",
    "sensitivity": "bayeslmm.reanalysis.sensitivity",
    "assurance": "bayeslmm.reanalysis.assurance",
    "power_scaling": "bayeslmm.reanalysis.power_scaling",
    "bayes_factor": "bayeslmm.reanalysis.bayes_factors",
    "savage_dickey": "bayeslmm.reanalysis.bayes_factors",
    "log_marginal_likelihood": "bayeslmm.reanalysis.bayes_factors",
    "load": "bayeslmm.loading",
    "scan": "bayeslmm.sources.recognize",
    "fitted_batches": "bayeslmm.results.fitted_batches",
    "missingness": "bayeslmm.formula.missingness",
    "within_between": "bayeslmm.formula.preparation",
    "inverse_normal_transform": "bayeslmm.formula.preparation",
    "sbc": "bayeslmm.bayes.calibration",
    "RelationshipMatrix": "bayeslmm.relationship.matrix",
    "pedigree_relationship": "bayeslmm.relationship.pedigree",
    "load_dataset": "bayeslmm.datasets",
    "list_datasets": "bayeslmm.datasets",
    "simulate_lmm": "bayeslmm.datasets.simulation",
    "Simulation": "bayeslmm.datasets.simulation",
    "describe_dataset": "bayeslmm.datasets",
    "BayesLMMError": "bayeslmm.errors",
    "DataError": "bayeslmm.errors",
    "DataWarning": "bayeslmm.errors",
    "FileFormatError": "bayeslmm.errors",
    "FormulaError": "bayeslmm.errors",
    "ModelWarning": "bayeslmm.errors",
    "PlotError": "bayeslmm.errors",
    "PriorError": "bayeslmm.errors",
    "SamplingError": "bayeslmm.errors",
    "SamplingWarning": "bayeslmm.errors",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'bayeslmm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
