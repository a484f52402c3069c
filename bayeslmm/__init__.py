"""Mixed models: one formula, the full posterior and the likelihood fit.

>>> import bayeslmm as blm
>>> data = blm.load_dataset("sleepstudy")
>>> model = blm.LMM("Reaction ~ Days + (Days | Subject)", data)
>>> post = model.fit(random_seed=1)  # doctest: +SKIP
>>> post.summary()  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bayeslmm.bayes.calibration import sbc as sbc
    from bayeslmm.datasets import describe_dataset as describe_dataset
    from bayeslmm.datasets import list_datasets as list_datasets
    from bayeslmm.datasets import load_dataset as load_dataset
    from bayeslmm.datasets.simulation import Simulation as Simulation
    from bayeslmm.datasets.simulation import simulate_item_responses as simulate_item_responses
    from bayeslmm.datasets.simulation import simulate_lmm as simulate_lmm
    from bayeslmm.errors import BayesLMMError as BayesLMMError
    from bayeslmm.errors import DataError as DataError
    from bayeslmm.errors import DataWarning as DataWarning
    from bayeslmm.errors import FileFormatError as FileFormatError
    from bayeslmm.errors import FormulaError as FormulaError
    from bayeslmm.errors import ModelWarning as ModelWarning
    from bayeslmm.errors import PlotError as PlotError
    from bayeslmm.errors import PriorError as PriorError
    from bayeslmm.errors import SamplingError as SamplingError
    from bayeslmm.errors import SamplingWarning as SamplingWarning
    from bayeslmm.fits.likelihood import LikelihoodFit as LikelihoodFit
    from bayeslmm.fits.model_comparison import compare_models as compare_models
    from bayeslmm.fits.posterior import PosteriorFit as PosteriorFit
    from bayeslmm.formula.missingness import missingness as missingness
    from bayeslmm.formula.preparation import inverse_normal_transform as inverse_normal_transform
    from bayeslmm.formula.preparation import within_between as within_between
    from bayeslmm.loading import load as load
    from bayeslmm.model import LMM as LMM
    from bayeslmm.model import MixedModel as MixedModel
    from bayeslmm.parts.prior import Prior as Prior
    from bayeslmm.priors.shrinkage import horseshoe as horseshoe
    from bayeslmm.priors.shrinkage import r2d2 as r2d2
    from bayeslmm.priors.table import Priors as Priors
    from bayeslmm.reanalysis.assurance import assurance as assurance
    from bayeslmm.reanalysis.bayes_factors import bayes_factor as bayes_factor
    from bayeslmm.reanalysis.bayes_factors import log_marginal_likelihood as log_marginal_likelihood
    from bayeslmm.reanalysis.bayes_factors import savage_dickey as savage_dickey
    from bayeslmm.reanalysis.power_scaling import power_scaling as power_scaling
    from bayeslmm.reanalysis.published import reanalyze_estimate as reanalyze_estimate
    from bayeslmm.reanalysis.reanalyze import reanalyze as reanalyze
    from bayeslmm.reanalysis.sensitivity import sensitivity as sensitivity
    from bayeslmm.relationship.matrix import RelationshipMatrix as RelationshipMatrix
    from bayeslmm.relationship.pedigree import pedigree_relationship as pedigree_relationship
    from bayeslmm.results.comparison import compare_estimates as compare_estimates
    from bayeslmm.results.fitted_batches import fitted_batches as fitted_batches
    from bayeslmm.results.likelihood_ratio import likelihood_ratio_test as likelihood_ratio_test
    from bayeslmm.sources.recognize import scan as scan

__version__ = "0.1.0"

# Names are loaded when they are first used: `import bayeslmm` stays light, and pandas, PyMC
# and ArviZ are imported only by what needs them.
_HOMES = {
    "LMM": "bayeslmm.model",
    "MixedModel": "bayeslmm.model",
    "Prior": "bayeslmm.parts.prior",
    "Priors": "bayeslmm.priors.table",
    "horseshoe": "bayeslmm.priors.shrinkage",
    "r2d2": "bayeslmm.priors.shrinkage",
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
    "simulate_item_responses": "bayeslmm.datasets.simulation",
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


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'bayeslmm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
