"""The model: a formula, data and priors; the one door to every fit."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeslmm.bayes.choice import METHODS, PARAMETERIZATIONS, fit_posterior
from bayeslmm.bayes.names import ModelNames, model_names
from bayeslmm.bayes.priors import Prior, Priors
from bayeslmm.errors import DataWarning, ModelWarning, SamplingError, SamplingWarning
from bayeslmm.formula import Design, build_design
from bayeslmm.formula.checks import check_design

if TYPE_CHECKING:
    import pymc as pm
    import xarray as xr

    from bayeslmm.gaussian import CovariancePattern, CrossProducts, FactorRows, Problem
    from bayeslmm.results.likelihood import LikelihoodFit
    from bayeslmm.results.posterior import PosteriorFit

__all__ = ["LMM"]


class LMM:
    """A linear mixed model.

    Parameters
    ----------
    formula : str
        In lme4's language: ``"Reaction ~ Days + (Days | Subject)"``.
    data : data frame
        One row per observation (pandas, polars, Arrow, or a dict of columns).
    priors : dict of str to Prior, optional
        By coefficient (``"Days"``), component (``"sd(Days | Subject)"``, ``"corr(Subject)"``,
        ``"sigma"``) or class (``"beta"``, ``"sd"``, ``"corr"``); the rest are defaults, see
        :attr:`priors`.
    weights : str or array-like, optional
        Prior weights, Var(eps_i) = sigma^2 / w_i: a column's name or one value per row.
    family : {"gaussian"}
        Distribution of the residuals.
    missing : {"drop", "raise"}
        Rows with a missing value in a used column are left out, with a warning that counts
        them, or refused.
    namespace : dict, optional
        Functions and constants of your own that the formula names.

    Attributes
    ----------
    design : Design
        Response, model matrices, grouping factors, rows left out.
    priors : Priors
        The priors in force; print them, or assign to change them.
    aliased : tuple of str
        Coefficients whose columns are combinations of the columns before them.

    Raises
    ------
    FormulaError
        If the formula cannot be read or names a column that is not there.
    DataError
        If the data cannot support the model.
    PriorError
        If a prior is keyed or parametrized wrongly.

    Examples
    --------
    >>> import bayeslmm as blm
    >>> model = blm.LMM("Reaction ~ Days + (Days | Subject)", blm.load_dataset("sleepstudy"))
    >>> model.design.coef_names
    ('Intercept', 'Days')
    """

    def __init__(
        self,
        formula: str,
        data,
        *,
        priors: Mapping[str, Prior] | None = None,
        weights=None,
        family: str = "gaussian",
        missing: str = "drop",
        namespace: Mapping[str, Any] | None = None,
    ):
        if family != "gaussian":
            raise ValueError(f'family must be "gaussian", not {family!r}: it is the only one.')
        self.design: Design = build_design(
            formula, data, weights=weights, missing=missing, namespace=namespace
        )
        self.family = family
        if text := self.design.missing.describe():
            warnings.warn(f"{text}.", DataWarning, stacklevel=2)
        check_design(self.design)
        self.aliased: tuple[str, ...] = _aliased(self.design)
        self.priors = Priors(self.design, priors)

    @property
    def names(self) -> ModelNames:
        """Names of variables and dimensions in a posterior of this model."""
        return model_names(self.design)

    @cached_property
    def cross_products(self) -> CrossProducts:
        """Products of [Z X y] with the offset subtracted: what every fit needs of the rows."""
        return reduce_rows(self.design)

    @cached_property
    def problem(self) -> Problem:
        """The cross-products laid out for evaluation at many covariance parameters."""
        from bayeslmm.gaussian import prepare

        return prepare(self.cross_products, covariance_patterns(self.design))

    def pymc_model(self, parameterization: str = "noncentered") -> pm.Model:
        """The hierarchical PyMC model the formula stands for.

        Parameters
        ----------
        parameterization : {"noncentered", "centered", "marginal"}
            Whether random effects are scaled standard normals, drawn from their distribution
            directly, or integrated out exactly together with the coefficients. The marginal
            model has the standard deviations, correlations and sigma as its variables and
            takes any prior on them.

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
        """
        from bayeslmm.bayes.hierarchical import hierarchical_model
        from bayeslmm.bayes.sampling import quiet_pymc

        _one_of("parameterization", parameterization, PARAMETERIZATIONS[1:])
        quiet_pymc()
        if parameterization == "marginal":
            from bayeslmm.bayes.marginal_model import marginal_model

            return marginal_model(self.design, self.priors, self.names, self.problem)
        return hierarchical_model(
            self.design, self.priors, self.names, centered=parameterization == "centered"
        )

    def fit(
        self,
        draws: int = 1000,
        tune: int | None = None,
        chains: int = 4,
        cores: int | None = None,
        random_seed: int | None = None,
        parameterization: str = "auto",
        method: str = "nuts",
        progressbar: bool = True,
        **sampler_options: Any,
    ) -> PosteriorFit:
        """Draw from the posterior.

        Parameters
        ----------
        draws, tune : int
            Draws kept and warm-up draws, per chain. By default 150 warm-up draws where the
            marginal posterior is sampled, which starts at its mode with its curvature, and 1000
            elsewhere.
        chains : int
            Independent chains.
        cores : int, optional
            Chains run side by side; by default as many as there are processors.
        random_seed : int, optional
            The same seed gives the same draws; without one a seed is drawn and recorded.
        parameterization : {"auto", "marginal", "noncentered", "centered"}
            ``"marginal"`` integrates coefficients and random effects out exactly, samples the
            covariance parameters and draws the rest given them; the other two sample everything
            together. ``"auto"`` is marginal where coefficients have normal or flat priors and
            standard deviations priors of the usual families, and noncentered otherwise; the
            result says which and why.
        method : {"nuts", "importance"}
            ``"importance"`` draws from a multivariate t distribution around the mode of the
            marginal posterior, reweights and resamples: as fast as a point estimate, checked by
            its Pareto k-hat, and with an estimate of the marginal likelihood.
        progressbar : bool
        **sampler_options
            ``target_accept`` (0.7 by default) and ``max_treedepth`` (10); with the hierarchical
            parameterizations anything ``pm.sample`` takes, such as ``nuts_sampler="pymc"``.

        Returns
        -------
        PosteriorFit

        Raises
        ------
        SamplingError
            If the sampler cannot run or is stopped early, or k-hat is above 0.7 in importance
            sampling.
        ValueError
            If an option has no such value.

        Warns
        -----
        SamplingWarning
            On divergences, r-hat above 1.01, or effective sample sizes below 100 per chain.
        """
        from bayeslmm.results.posterior import PosteriorFit

        _one_of("method", method, METHODS)
        _one_of("parameterization", parameterization, PARAMETERIZATIONS)
        seed = seed_of(random_seed)
        idata, info = fit_posterior(
            self.design,
            self.priors,
            self.names,
            lambda: self.problem,
            method=method,
            parameterization=parameterization,
            draws=draws,
            tune=tune,
            chains=chains,
            cores=cores,
            random_seed=seed,
            progressbar=progressbar,
            options=sampler_options,
        )
        for problem in info.problems:
            warnings.warn(problem, SamplingWarning, stacklevel=2)
        return PosteriorFit(self, self.priors.copy(), idata, info)

    def reml(self) -> LikelihoodFit:
        """Fit by restricted maximum likelihood.

        Returns
        -------
        LikelihoodFit

        Raises
        ------
        DataError
            If sigma and the random effects cannot be told apart, or the model fits perfectly.

        Warns
        -----
        ModelWarning
            If the fit is singular, with what vanished, or did not converge.

        Examples
        --------
        >>> import bayeslmm as blm
        >>> data = blm.load_dataset("sleepstudy")
        >>> fit = blm.LMM("Reaction ~ Days + (Days | Subject)", data).reml()
        >>> round(fit.loglik, 3)
        -871.814
        """
        from bayeslmm.results.fitting import likelihood_fit

        return likelihood_fit(self, reml=True)

    def ml(self) -> LikelihoodFit:
        """Fit by maximum likelihood; otherwise as :meth:`reml`."""
        from bayeslmm.results.fitting import likelihood_fit

        return likelihood_fit(self, reml=False)

    def with_response(self, y: np.ndarray) -> LMM:
        """The same model, priors included, for another response of the same rows.

        Parameters
        ----------
        y : ndarray, shape (n,)
        """
        return self.with_design(replace(self.design, y=np.asarray(y, dtype=float)))

    def with_design(self, design: Design) -> LMM:
        """The same model, priors included, for other rows of the same columns."""
        twin = copy(self)
        for name in ("cross_products", "problem"):
            twin.__dict__.pop(name, None)
        twin.design = design
        twin.priors = self.priors.copy()
        return twin

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
            self.pymc_model(),
            self.priors,
            self.names,
            posterior_variables(self.design, self.names),
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

        Raises
        ------
        ValueError
            If there is no such form or format.

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
        from bayeslmm.results.support import refuse_unless_derived

        refuse_unless_derived(self, "The equation")
        return equation(self.design, form, format)

    def plot_data(self, x: str | None = None, **options):
        """The data before any fit, group by group; see :func:`bayeslmm.plots.plot_data`.

        Options: ``factor by groups panels ax``. Returns matplotlib axes.
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

    def __repr__(self) -> str:
        return f"{describe_design(self.design)}\n{self.priors!r}"


def reduce_rows(design: Design, *, y=None, columns=slice(None)) -> CrossProducts:
    """Cross-products of a design's rows, the offset subtracted from the response.

    Parameters
    ----------
    design : Design
    y : ndarray, shape (n,), optional
        Another response of the same rows.
    columns : index
        Coefficients to keep, such as those that are not aliased.
    """
    from bayeslmm.gaussian import CrossProducts

    response = (design.y if y is None else y) - design.offset
    return CrossProducts.from_rows(
        response, design.X[:, columns], factor_rows(design), weights=design.weights
    )


def factor_rows(design: Design) -> list[FactorRows]:
    """Codes and covariates of each grouping factor, as the numerical core takes them."""
    from bayeslmm.gaussian import FactorRows

    return [FactorRows(block.codes, block.Z, block.n_levels) for block in design.blocks]


def covariance_patterns(design: Design) -> list[CovariancePattern]:
    """Which effects of each grouping factor are correlated."""
    from bayeslmm.gaussian import CovariancePattern

    return [CovariancePattern(block.n_effects, block.pattern) for block in design.blocks]


def describe_design(design: Design) -> str:
    """The model in a few lines: formula, rows, coefficients, grouping factors."""
    dropped = design.missing.describe() or "none left out"
    lines = [
        f"Linear mixed model: {design.formula.text}",
        f"Rows: {design.n_rows} used ({dropped})",
        f"Coefficients: {', '.join(design.coef_names) or 'none'}",
    ]
    if not design.blocks:
        lines.append("Random effects: none (complete pooling)")
    for block in design.blocks:
        counts = np.bincount(block.codes, minlength=block.n_levels)
        low, high = counts.min(), counts.max()
        rows = f"{low}" if low == high else f"{low} to {high}"
        parts = [
            " ~ ".join(block.effects[i] for i in part) + (" (correlated)" if len(part) > 1 else "")
            for part in block.pattern
        ]
        lines.append(
            f"Random effects by {block.name}: {block.n_levels} levels of {rows} rows; "
            f"{'; '.join(parts)}"
        )
    if np.any(design.offset):
        lines.append("Offset: yes")
    if design.weights is not None:
        lines.append(f"Weights: {design.weights_name}")
    return "\n".join(lines)


def _aliased(design: Design) -> tuple[str, ...]:
    """Coefficients whose columns are combinations of earlier ones, with a warning."""
    from bayeslmm.gaussian import aliased_columns, single_threaded_blas

    with single_threaded_blas():
        names = tuple(design.coef_names[i] for i in aliased_columns(design.X))
    if names:
        warnings.warn(
            f"The model matrix is rank deficient: {', '.join(names)} can be written as a "
            "combination of the columns before. The data say nothing about such a coefficient "
            "alone: in the posterior its prior decides, REML leaves it out.",
            ModelWarning,
            stacklevel=3,
        )
    return names


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}.")


def seed_of(random_seed: int | None) -> int:
    """The seed given, or one drawn, so that every fit can be repeated."""
    if random_seed is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(random_seed, bool) or not isinstance(random_seed, int | np.integer):
        raise SamplingError(f"random_seed must be a whole number, not {random_seed!r}.")
    if random_seed < 0:
        raise SamplingError("random_seed must not be negative.")
    return int(random_seed)
