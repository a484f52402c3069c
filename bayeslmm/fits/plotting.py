"""What models and fits show; the pictures themselves are in :mod:`bayeslmm.plots`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from bayeslmm.errors import one_of
from bayeslmm.formula.description import describe_design
from bayeslmm.parts.families import describe_families
from bayeslmm.results.printing import Shown, returns_table

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pymc as pm
    import xarray as xr
    from matplotlib.axes import Axes

    from bayeslmm.protocols import Model as _Model
else:  # its properties are attributes here
    _Model = object

__all__ = ["FitPlots", "ModelViews", "PosteriorPlots"]


class ModelViews(Shown, _Model):
    """What a model shows before any fit."""

    def _parts(self) -> list[str | pd.DataFrame]:
        priors = self.priors
        shown = priors.shown()
        table = pd.DataFrame(
            {"prior": [f"{priors[key]!r}" for key in shown]}, pd.Index(shown, name="parameter")
        )
        text = [describe_design(self.design), *describe_families(self.family, self.random)]
        return ["\n".join(text), table, *priors.notes()]

    def pymc_model(self, parameterization: str = "noncentered") -> pm.Model:
        """The hierarchical PyMC model the formula stands for.

        Parameters
        ----------
        parameterization : {"noncentered", "centered", "marginal"}
            Whether random effects are scaled standard normals, drawn from their distribution
            directly, or, where the response is Gaussian, integrated out exactly together with the
            coefficients: standard deviations, correlations and sigma, with any prior, are left.

        Returns
        -------
        pymc.Model
            With coords and dims; take it further with ``pm.sample``,
            ``pm.model_to_graphviz`` or a ``pm.Potential``.

        Raises
        ------
        ValueError
            If there is no such parameterization.
        PriorError
            If a coefficient's prior is neither normal nor flat and the model marginal.
        DataError
            If the model is marginal and the response not Gaussian.

        Examples
        --------
        >>> model.pymc_model().named_vars["b_Subject"].ndim
        2
        """
        from bayeslmm.bayes.hierarchical import hierarchical_model
        from bayeslmm.bayes.sampling import quiet_pymc

        one_of("parameterization", parameterization, ("noncentered", "centered", "marginal"))
        quiet_pymc()
        if parameterization == "marginal":
            from bayeslmm.bayes.marginal_model import marginal_model

            return marginal_model(self.design, self.priors, self.names, self.problem)
        return hierarchical_model(
            self.design, self.priors, self.names, centered=parameterization == "centered"
        )

    def prior_predictive(self, draws: int = 500, random_seed: int | None = None) -> xr.DataTree:
        """Parameters and responses drawn from the priors alone.

        Parameters
        ----------
        draws : int
        random_seed : int, optional

        Returns
        -------
        xarray.DataTree
            Groups prior, prior_predictive and observed_data.

        Raises
        ------
        PriorError
            If a prior is flat.
        """
        from bayeslmm.bayes.hierarchical import posterior_variables
        from bayeslmm.bayes.predictive import prior_predictive

        return prior_predictive(
            self.design,
            self.pymc_model(),
            self.priors,
            self.names,
            posterior_variables(self.design, self.names, self.priors),
            draws=draws,
            random_seed=random_seed,
        )

    def equation(self, form: str = "conditional", format: str = "latex") -> str:
        """The model as an equation, with the data's names.

        Parameters
        ----------
        form : {"conditional", "marginal"}
            Given the groups' own effects, or with them integrated out.
        format : {"latex", "text"}
            LaTeX is one ``aligned`` environment of amsmath.

        Returns
        -------
        str

        Raises
        ------
        ValueError
            If there is no such form or format.
        DataError
            If the form is marginal and the response not Gaussian: it has no closed form.

        Examples
        --------
        >>> import bayeslmm as blm
        >>> model = blm.LMM("Yield ~ 1 + (1 | Batch)", blm.load_dataset("dyestuff"))
        >>> print(model.equation(format="text"))
        Yield[i] = beta0 + b0[Batch[i]] + error[i]
        b0[j] ~ Normal(0, tau0^2),  j = 1, ..., 6 (Batch)
        error[i] ~ Normal(0, sigma^2)
        """
        from bayeslmm.results.equation import equation

        return equation(self.design, form, format, family=self.family, random=self.random)

    @returns_table
    def check(self) -> pd.DataFrame:
        """Values of the data far outside of all others of their column, and what to do.

        Returns
        -------
        pandas.DataFrame
            Columns ``check``, ``finding``, ``what to do``; no rows where nothing was found.

        Examples
        --------
        >>> len(model.check())
        0
        """
        from bayeslmm.fits.checks import model_findings
        from bayeslmm.results.findings import findings_table

        return findings_table(model_findings(self))

    def __repr__(self) -> str:
        from bayeslmm.fits.checks import model_findings, said
        from bayeslmm.formula.description import describe_design
        from bayeslmm.parts.families import describe_families

        families = describe_families(self.family, self.random)
        found = said(model_findings(self))
        return "\n".join([describe_design(self.design), *families, repr(self.priors), *found])

    def plot_data(self, x: str | None = None, **options):
        """The data before any fit, group by group; see :func:`bayeslmm.plots.plot_data`.

        Options: ``factor by groups panels ax``. Returns matplotlib axes.

        Examples
        --------
        >>> model.plot_data().get_xlabel()
        'Days'
        """
        from bayeslmm.plots import plot_data

        return plot_data(self, x, **options)

    def plot_prior_predictive(self, kind: str = "dist", **options):
        """Data drawn from the priors alone; see
        :func:`bayeslmm.plots.plot_prior_predictive`.

        Options: ``stat draws random_seed`` and ArviZ's. Returns an array of matplotlib axes.
        """
        from bayeslmm.plots import plot_prior_predictive

        return plot_prior_predictive(self, kind, **options)


class FitPlots:
    """Plots that both fits have. Each returns matplotlib axes and shows nothing by itself."""

    def plot_average_effects(self: Any, x: str | None = None, **options) -> Axes:
        """Curves of groups, the average group and the population, on the scale of the response.

        Options: ``factor groups category level ax``; see
        :func:`bayeslmm.plots.plot_average_effects`.

        Examples
        --------
        >>> ax = fit.plot_average_effects()
        """
        from bayeslmm.plots import plot_average_effects

        return plot_average_effects(self, x, **options)

    def plot_predictions(
        self: Any, x: str, by: str | list[str] | None = None, **options
    ) -> Axes | np.ndarray:
        """Average predictions over a column: lines with bands, or points with intervals.

        Options: ``groups ax`` and those of ``predictions``: ``at newdata weights random kind ddf
        level interval random_seed``; see :func:`bayeslmm.plots.plot_predictions`.

        Examples
        --------
        >>> ax = fit.plot_predictions("Days")
        """
        from bayeslmm.plots import plot_predictions

        return plot_predictions(self, x, by, **options)

    def plot_comparisons(
        self: Any, variables: Any = None, by: str | list[str] | None = None, **options
    ) -> Axes | np.ndarray:
        """Comparisons of means with intervals: differences, or ratios on a logarithmic axis.

        Options: ``groups ax`` and those of ``comparisons``: ``measure method at newdata weights
        random kind ddf level interval random_seed``; see
        :func:`bayeslmm.plots.plot_comparisons`.

        Examples
        --------
        >>> ax = fit.plot_comparisons({"Days": (0, 9)})
        """
        from bayeslmm.plots import plot_comparisons

        return plot_comparisons(self, variables, by, **options)

    def plot_slopes(
        self: Any, variables: str | list[str], by: str | list[str] | None = None, **options
    ) -> Axes | np.ndarray:
        """Average slopes of numbers with intervals; of groups sorted.

        Options: ``groups ax`` and those of ``slopes``: ``at newdata weights random kind ddf level
        interval random_seed``; see :func:`bayeslmm.plots.plot_slopes`.

        Examples
        --------
        >>> ax = fit.plot_slopes("Days", by="Subject")
        """
        from bayeslmm.plots import plot_slopes

        return plot_slopes(self, variables, by, **options)

    def plot_trajectories(self: Any, x: str | None = None, **options) -> Axes | np.ndarray:
        """Data, population line with its band, group lines: the fan.

        Options: ``factor by groups panels level ax``; see
        :func:`bayeslmm.plots.plot_trajectories`.

        Examples
        --------
        >>> ax = fit.plot_trajectories()
        """
        from bayeslmm.plots import plot_trajectories

        return plot_trajectories(self, x, **options)

    def plot_shrinkage(self: Any, factor: str | None = None, **options) -> Axes:
        """Arrows from each group's own estimate to the mixed model's.

        Options: ``effects groups ax``; see :func:`bayeslmm.plots.plot_shrinkage`.

        Examples
        --------
        >>> ax = fit.plot_shrinkage()
        """
        from bayeslmm.plots import plot_shrinkage

        return plot_shrinkage(self, factor, **options)

    def plot_influence(self: Any, factor: str | None = None, **options) -> Axes:
        """Cook's distance of every level of a factor, the largest named.

        Options: ``named ax``; see :func:`bayeslmm.plots.plot_influence`.

        Examples
        --------
        >>> ax = fit.plot_influence()
        """
        from bayeslmm.plots import plot_influence

        return plot_influence(self, factor, **options)

    def plot_ranef(self: Any, factor: str | None = None, **options) -> np.ndarray:
        """Random effects with intervals, sorted (caterpillar plot).

        Options: ``effects level groups``; see :func:`bayeslmm.plots.plot_ranef`.

        Examples
        --------
        >>> ax = fit.plot_ranef()
        """
        from bayeslmm.plots import plot_ranef

        return plot_ranef(self, factor, **options)

    def plot_variance(self: Any, *, level: float = 0.95) -> np.ndarray:
        """Variance components and shares of variance; see
        :func:`bayeslmm.plots.plot_variance`.

        Examples
        --------
        >>> ax = fit.plot_variance()
        """
        from bayeslmm.plots import plot_variance

        return plot_variance(self, level=level)

    def plot_forest(
        self: Any, coefficients: str | list[str] | None = None, **options
    ) -> Axes | np.ndarray:
        """Coefficients with intervals, those of one unit on one axis.

        Options: ``level inner ax``; see :func:`bayeslmm.plots.plot_forest`.

        Examples
        --------
        >>> ax = fit.plot_forest()
        """
        from bayeslmm.plots import plot_forest

        return plot_forest(self, coefficients, **options)

    def plot_implied_covariance(self: Any, data=None, **options) -> np.ndarray:
        """Covariance of a group's responses as a heat map, correlation against distance.

        Options: ``x at correlation``; see :func:`bayeslmm.plots.plot_implied_covariance`.

        Examples
        --------
        >>> ax = fit.plot_implied_covariance()
        """
        from bayeslmm.plots import plot_implied_covariance

        return plot_implied_covariance(self, data, **options)

    def plot_residuals(self: Any) -> np.ndarray:
        """Residuals against fitted values, normal quantiles of residuals and random effects;
        see :func:`bayeslmm.plots.plot_residuals`.

        Examples
        --------
        >>> ax = fit.plot_residuals()
        """
        from bayeslmm.plots import plot_residuals

        return plot_residuals(self)

    def plot_compare(self: Any, *others, **options) -> np.ndarray:
        """This fit's estimates beside those of others.

        Options: ``names parameters level``; see :func:`bayeslmm.plots.plot_compare`.

        Examples
        --------
        >>> ax = post.plot_compare(model.reml())
        """
        from bayeslmm.plots import plot_compare

        return plot_compare(self, *others, **options)


class PosteriorPlots(FitPlots):
    """Plots of a posterior."""

    def plot_prior_posterior(
        self: Any, parameters: str | list[str] | None = None, **options
    ) -> np.ndarray:
        """Prior densities over posterior draws.

        Options: ``whole_prior``; see :func:`bayeslmm.plots.plot_prior_posterior`.

        Examples
        --------
        >>> ax = post.plot_prior_posterior()
        """
        from bayeslmm.plots import plot_prior_posterior

        return plot_prior_posterior(self, parameters, **options)

    def plot_ppc(self: Any, kind: str | None = None, **options) -> np.ndarray:
        """Replicated data against those observed, or a statistic of each (``kind="stat"``).

        Kinds ``"rootogram"``, ``"binned"``, ``"bars"`` and ``"quantile"`` are for responses that
        are not Gaussian.

        Options: ``stat by groups random_seed`` and ArviZ's; see
        :func:`bayeslmm.plots.plot_ppc`.

        Examples
        --------
        >>> ax = post.plot_ppc()
        """
        from bayeslmm.plots import plot_ppc

        return plot_ppc(self, kind, **options)

    def plot_loo_pit(self: Any, **options) -> np.ndarray:
        """Probability integral transforms of rows left out; see
        :func:`bayeslmm.plots.plot_loo_pit`.

        Examples
        --------
        >>> ax = post.plot_loo_pit()
        """
        from bayeslmm.plots import plot_loo_pit

        return plot_loo_pit(self, **options)

    def plot_rank(self: Any, parameters: str | list[str] | None = None, **options) -> np.ndarray:
        """Ranks of each chain's draws; see :func:`bayeslmm.plots.plot_rank`.

        Examples
        --------
        >>> ax = post.plot_rank()
        """
        from bayeslmm.plots import plot_rank

        return plot_rank(self, parameters, **options)

    def plot_trace(self: Any, parameters: str | list[str] | None = None, **options) -> np.ndarray:
        """Draws in their order, chain by chain; see :func:`bayeslmm.plots.plot_trace`.

        Examples
        --------
        >>> ax = post.plot_trace()
        """
        from bayeslmm.plots import plot_trace

        return plot_trace(self, parameters, **options)
