"""Pictures of data, models and fits; each returns matplotlib axes.

The fit classes have all of them as methods. Functions here take a fit of either kind unless
they say otherwise.
"""

from bayeslmm.plots.average_effects import plot_average_effects
from bayeslmm.plots.compare import plot_compare
from bayeslmm.plots.effects import plot_comparisons, plot_predictions, plot_slopes
from bayeslmm.plots.forest import plot_forest
from bayeslmm.plots.implied import plot_implied_covariance
from bayeslmm.plots.influence import plot_influence
from bayeslmm.plots.predictive import (
    plot_loo_pit,
    plot_ppc,
    plot_prior_predictive,
    plot_rank,
    plot_trace,
)
from bayeslmm.plots.prior_posterior import plot_prior_posterior
from bayeslmm.plots.ranef import plot_ranef
from bayeslmm.plots.residuals import plot_residuals
from bayeslmm.plots.shrinkage import plot_shrinkage
from bayeslmm.plots.spaghetti import plot_data
from bayeslmm.plots.trajectories import plot_trajectories
from bayeslmm.plots.variance import plot_variance

__all__ = [
    "plot_average_effects",
    "plot_compare",
    "plot_comparisons",
    "plot_data",
    "plot_forest",
    "plot_implied_covariance",
    "plot_influence",
    "plot_loo_pit",
    "plot_ppc",
    "plot_predictions",
    "plot_prior_posterior",
    "plot_prior_predictive",
    "plot_ranef",
    "plot_rank",
    "plot_residuals",
    "plot_shrinkage",
    "plot_slopes",
    "plot_trace",
    "plot_trajectories",
    "plot_variance",
]
