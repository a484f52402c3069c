"""The model: a formula, data and priors; the one door to every fit."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeslmm.bayes.names import ModelNames, model_names
from bayeslmm.bayes.priors import Prior, Priors
from bayeslmm.errors import DataWarning, ModelWarning, SamplingError, SamplingWarning
from bayeslmm.formula import Design, build_design
from bayeslmm.formula.checks import check_design

if TYPE_CHECKING:
    import pymc as pm
    import xarray as xr

    from bayeslmm.gaussian import CovariancePattern, CrossProducts, FactorRows, Problem
    from bayeslmm.results.posterior import PosteriorFit

__all__ = ["LMM"]

_PARAMETERIZATIONS = ("auto", "noncentered", "centered")
_METHODS = ("nuts",)


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
        from bayeslmm.gaussian import CrossProducts

        design = self.design
        return CrossProducts.from_rows(
            design.y - design.offset, design.X, factor_rows(design), weights=design.weights
        )

    @cached_property
    def problem(self) -> Problem:
        """The cross-products laid out for evaluation at many covariance parameters."""
        from bayeslmm.gaussian import prepare

        return prepare(self.cross_products, covariance_patterns(self.design))

    def pymc_model(self, parameterization: str = "noncentered") -> pm.Model:
        """The hierarchical PyMC model the formula stands for.

        Parameters
        ----------
        parameterization : {"noncentered", "centered"}
            Whether random effects are scaled standard normals or drawn from their
            distribution directly.

        Returns
        -------
        pymc.Model
            With coords and dims; take it further with ``pm.sample``,
            ``pm.model_to_graphviz`` or a ``pm.Potential``.

        Raises
        ------
        ValueError
            If there is no such parameterization.
        """
        from bayeslmm.bayes.hierarchical import hierarchical_model
        from bayeslmm.bayes.sampling import quiet_pymc

        _one_of("parameterization", parameterization, _PARAMETERIZATIONS[1:])
        quiet_pymc()
        return hierarchical_model(
            self.design, self.priors, self.names, centered=parameterization == "centered"
        )

    def fit(
        self,
        draws: int = 1000,
        tune: int = 1000,
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
            Draws kept and warm-up draws, per chain.
        chains : int
            Independent chains.
        cores : int, optional
            Chains run side by side; by default as many as there are processors.
        random_seed : int, optional
            The same seed gives the same draws; without one a seed is drawn and recorded.
        parameterization : {"auto", "noncentered", "centered"}
            ``"auto"`` is ``"noncentered"``.
        method : {"nuts"}
        progressbar : bool
        **sampler_options
            Passed to ``pm.sample``, such as ``target_accept=0.95`` or
            ``nuts_sampler="pymc"``.

        Returns
        -------
        PosteriorFit

        Raises
        ------
        SamplingError
            If the sampler cannot run or is stopped early.
        ValueError
            If an option has no such value.

        Warns
        -----
        SamplingWarning
            On divergences, r-hat above 1.01, or effective sample sizes below 100 per chain.
        """
        from bayeslmm.bayes.fitting import fit_hierarchical
        from bayeslmm.results.posterior import PosteriorFit

        _one_of("method", method, _METHODS)
        _one_of("parameterization", parameterization, _PARAMETERIZATIONS)
        seed = _seed(random_seed)
        idata, info = fit_hierarchical(
            self.design,
            self.priors,
            self.names,
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

    def __repr__(self) -> str:
        return f"{describe_design(self.design)}\n{self.priors!r}"


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
    from bayeslmm.gaussian import aliased_columns

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


def _seed(random_seed: int | None) -> int:
    """The seed given, or one drawn, so that every fit can be repeated."""
    if random_seed is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(random_seed, bool) or not isinstance(random_seed, int | np.integer):
        raise SamplingError(f"random_seed must be a whole number, not {random_seed!r}.")
    if random_seed < 0:
        raise SamplingError("random_seed must not be negative.")
    return int(random_seed)
