"""The model: a formula, data and priors; the one door to every fit."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeslmm.assembly import prepared_problem, reduce_rows, structured_problem
from bayeslmm.bayes.choice import METHODS, PARAMETERIZATIONS, fit_posterior
from bayeslmm.bayes.covariates import refuse_same_names
from bayeslmm.bayes.names import ModelNames, model_names
from bayeslmm.bayes.sampling import Sampling
from bayeslmm.bayes.streams import seed_of
from bayeslmm.errors import (
    DataError,
    DataWarning,
    ModelWarning,
    SamplingWarning,
    one_of,
)
from bayeslmm.fits.plotting import ModelViews
from bayeslmm.formula import Design
from bayeslmm.formula.checks import (
    check_design,
    refuse_beside_family,
    refuse_beside_residuals,
    refuse_beside_two_values,
    refuse_reml,
)
from bayeslmm.formula.responses import check_support
from bayeslmm.gaussian.blas import single_threaded_blas
from bayeslmm.parts.families import FAMILIES, family_of
from bayeslmm.parts.prior import Prior
from bayeslmm.priors.table import Priors, sigma_is_given
from bayeslmm.results.identification import aliased_coefficients, warn_unidentified
from bayeslmm.sources import design_of

if TYPE_CHECKING:
    from bayeslmm.fits.likelihood import LikelihoodFit
    from bayeslmm.fits.posterior import PosteriorFit
    from bayeslmm.gaussian import CrossProducts, Problem
    from bayeslmm.gaussian.system import StructuredProblem

__all__ = ["LMM", "MixedModel"]


class MixedModel(ModelViews):
    """A mixed model; ``LMM`` and ``MixedModel`` are two names of one class.

    Parameters
    ----------
    formula : str
        In lme4's language: ``"Reaction ~ Days + (Days | Subject)"``; counts of trials as
        ``"incidence of size ~ period + (1 | herd)"`` or ``"p(incidence, size) ~ ..."``; estimates
        with known standard errors as ``"effect | se(error) ~ 1 + (1 | study)"``.
    data : data frame or source
        One row per observation (pandas, polars, Arrow, or a dict of columns); or paths of Parquet
        or CSV files, a lazy polars, DuckDB or Dask frame or a pyarrow dataset, which are read in
        batches where they are large (see :func:`bayeslmm.scan`).
    priors : dict of str to Prior, optional
        By coefficient (``"Days"``), component (``"sd(Days | Subject)"``, ``"corr(Subject)"``,
        ``"sigma"``) or class (``"beta"``, ``"sd"``, ``"corr"``); the rest are defaults, see
        :attr:`priors`.
    weights : str or array-like, optional
        Prior weights, Var(eps_i) = sigma^2 / w_i: a column's name or one value per row. They
        multiply log densities of rows where the family is not Gaussian.
    relationship : dict of str to matrix, optional
        Known covariance A between the levels of a grouping factor, whose effects then are
        N(0, A (x) Sigma): a labelled covariance (DataFrame, DataArray),
        :func:`bayeslmm.pedigree_relationship` or :class:`bayeslmm.RelationshipMatrix`. Levels are
        matched by label; individuals without rows become levels without rows.
    residual : str, optional
        Correlation of the residuals within groups: ``"ar1(time | g)"``, ``"car1(time | g)"``
        (continuous time), ``"cs(g)"``, ``"toeplitz(time | g)"`` (a correlation per lag) or
        ``"unstructured(time | g)"`` (which has a variance per time unless `sigma` says
        otherwise).
    sigma : str, optional
        What the residual standard deviation depends on: ``"~ treatment"`` has one per level of
        a factor, ``"~ x"`` is log-linear in a number.
    family : str
        Distribution of the response: ``"gaussian"``, ``"student"`` (residuals with heavy tails),
        ``"bernoulli"`` (0/1, true/false, two categories), ``"binomial"``, ``"poisson"``,
        ``"negativebinomial"``, ``"gamma"``, ``"beta"``, ``"lognormal"``, ``"ordinal"``,
        ``"zero_inflated_poisson"`` or ``"zero_inflated_negativebinomial"``.
    link : str, optional
        Of its mean: ``"logit"``, ``"probit"``, ``"cloglog"``, ``"log"``, ``"identity"`` or
        ``"inverse"``, as the family has it; its usual one by default.
    random : {"gaussian", "student"}
        Distribution of the random effects. Student-t effects or residuals, with their degrees
        of freedom estimated, let outliers count less (posterior only).
    missing : {"drop", "raise", "model"} or dict of str to str
        Rows with a missing value in a used column are left out, with a warning that counts
        them, or refused; "model" samples missing covariates that are numbers or have two values
        (posterior only), ``{"age": "age ~ sex + (1 | site)"}`` those it names by regressions,
        which may also be of covariates read with known error, ``me(age, sd)`` in the formula.
    namespace : dict, optional
        Functions and constants of your own that the formula names.
    reference : dict of str to object, optional
        Level of a factor that the others are compared with, ``{"arm": "placebo"}``; by default
        the first of its categories, or in the alphabet.

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
        relationship: Mapping[str, Any] | None = None,
        residual: str | None = None,
        sigma: str | None = None,
        family: str = "gaussian",
        link: str | None = None,
        random: str = "gaussian",
        missing: str | Mapping[str, str] = "drop",
        namespace: Mapping[str, Any] | None = None,
        reference: Mapping[str, Any] | None = None,
    ):
        one_of("family", family, FAMILIES)
        one_of("random", random, ("gaussian", "student"))
        if not family_of(family, link).gaussian:
            refuse_beside_family(family, locals())
        if residual is not None or sigma is not None:
            refuse_beside_residuals(family)
        self.design: Design = design_of(
            data, formula, weights=weights, missing=missing, namespace=namespace,
            residual=residual, sigma=sigma, family=family, link=link, reference=reference,
        )  # fmt: skip
        refuse_beside_two_values(self.design, relationship)
        refuse_same_names(self.design)
        self.family, self.random = family, random
        if text := self.design.missing.describe():
            warnings.warn(text if text.endswith(".") else f"{text}.", DataWarning, stacklevel=2)
        if relationship is not None:
            from bayeslmm.relationship.levels import related_design

            if random == "student":
                raise DataError(
                    'A relationship between levels does not go together with random="student": '
                    "Student-t effects of related levels are more than one model (one tail for "
                    "all of them, or one for each before they are related). Leave one of them out."
                )
            self.design = related_design(self.design, relationship)
        with single_threaded_blas():
            known = self.design.se_name is not None or sigma_is_given(priors)
            check_design(self.design, sigma_known=known)
            self.aliased: tuple[str, ...] = aliased_coefficients(self)
            self.priors = Priors(self.design, priors, family=family, random=random)
            warn_unidentified(self)

    @property
    def link(self) -> str:
        """Name of the link: g(mean) is linear in coefficients and effects."""
        return self.design.family.link.name

    @property
    def names(self) -> ModelNames:
        """Names of variables and dimensions in a posterior of this model."""
        return model_names(self.design)

    @cached_property
    def cross_products(self) -> CrossProducts:
        """Products of [Z X y] with the offset subtracted: what every fit needs of the rows."""
        return reduce_rows(self.design)

    @cached_property
    def unidentified(self) -> tuple[tuple[str, ...], ...]:
        """Variance components that cannot be told apart, as ``(1 | g)`` from ``(0 + f | g)``.

        The covariance of the data stays the same while those of one tuple change.
        """
        from bayeslmm.results.identification import unidentified_components

        return unidentified_components(self)

    @cached_property
    def problem(self) -> Problem | StructuredProblem:
        """The data laid out for evaluation at many covariance parameters.

        Cross-products where residuals are independent (cell by cell where their variances
        differ), blocks of rows where they are correlated.
        """
        if not self.design.family.gaussian:
            raise DataError(f'family="{self.family}" has no Gaussian, closed marginal likelihood.')
        if self.design.residual is not None:
            return structured_problem(self.design)
        if self._like is not None:  # the same rows and levels with another response
            return self._like.renewed(self.cross_products)
        return prepared_problem(self.design, self.cross_products)

    _like: Problem | None = None

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
        random_effects: str = "draws",
        **sampler_options: Any,
    ) -> PosteriorFit:
        """Draw from the posterior.

        Parameters
        ----------
        draws, tune : int
            Draws kept and warm-up draws, per chain. By default 150 warm-up draws where the
            marginal posterior is sampled, which starts at its mode with its curvature (30 where
            trajectories follow a surrogate), 300 in whitened coordinates, and 1000 elsewhere.
        chains : int
            Independent chains.
        cores : int, optional
            Chains run side by side; by default as many as there are processors.
        random_seed : int, optional
            The same seed gives the same draws; without one a seed is drawn and recorded.
        parameterization : {"auto", "marginal", "whitened", "noncentered", "centered"}
            ``"marginal"`` (Gaussian responses) integrates coefficients and random effects out
            exactly; ``"whitened"`` (other responses, Student-t residuals and effects) samples
            everything in the coordinates of the Laplace approximation; the other two do so
            through PyMC, which knows any prior. ``"auto"`` takes the first that knows the priors;
            the result says which.
        method : {"nuts", "importance"}
            ``"importance"`` draws from a multivariate t distribution around the mode, reweights
            and resamples: as fast as a point estimate, checked by its Pareto k-hat, and with an
            estimate of the marginal likelihood.
        progressbar : bool
        random_effects : {"draws", "summary"}
            With very many effects, ``"summary"`` keeps the mean, standard deviation and quantiles
            of each instead of its draws (see ``ranef()``); the draws pass through a temporary file.
        **sampler_options
            ``target_accept`` (0.7 by default, 0.9 where a standard deviation may be zero) and
            ``max_treedepth`` (10), options of NUTS, which is then used whatever the model; with
            the hierarchical parameterizations anything ``pm.sample`` takes, such as
            ``nuts_sampler="pymc"``.

        Returns
        -------
        PosteriorFit

        Raises
        ------
        DataError
            If the model fits perfectly, so that sigma has no proper posterior.
        SamplingError
            If the sampler cannot run or is stopped early, or k-hat is above 0.7 in importance
            sampling.
        ValueError
            If an option has no such value.

        Warns
        -----
        DataWarning
            If values are far outside of all others of their column, see :meth:`check`.
        ModelWarning
            If a prior that was set and the data disagree grossly.
        SamplingWarning
            On divergences, r-hat above 1.01, or effective sample sizes below 100 per chain.

        Examples
        --------
        >>> post = model.fit(random_seed=1, progressbar=False)
        >>> post.fixef().round(-1)["mean"].tolist()
        [250.0, 10.0]
        """
        from bayeslmm.background import compile_in_background
        from bayeslmm.fits.checks import warn_of_data
        from bayeslmm.fits.fitting import refuse_perfect_model, refuse_perfect_posterior
        from bayeslmm.fits.posterior import PosteriorFit
        from bayeslmm.reanalysis.conflicts import conflicting_priors

        one_of("method", method, METHODS)
        one_of("parameterization", parameterization, PARAMETERIZATIONS)
        sampling = Sampling(
            draws=draws,
            tune=tune,
            chains=chains,
            cores=cores,
            random_seed=seed_of(random_seed),
            progressbar=progressbar,
            random_effects=random_effects,
            options=sampler_options,
        )
        refuse_perfect_model(self)
        idata, info = fit_posterior(
            self.design,
            self.priors,
            self.names,
            lambda: self.problem,
            sampling,
            method=method,
            parameterization=parameterization,
        )
        warn_of_data(self, stacklevel=2)
        for problem in info.problems:
            warnings.warn(problem, SamplingWarning, stacklevel=2)
        for conflict in conflicting_priors(self):
            warnings.warn(str(conflict), ModelWarning, stacklevel=2)
        refuse_perfect_posterior(self, idata)
        compile_in_background()
        return PosteriorFit(self, self.priors.copy(), idata, info)

    def reml(self) -> LikelihoodFit:
        """Fit by restricted maximum likelihood.

        Returns
        -------
        LikelihoodFit

        Raises
        ------
        DataError
            If sigma cannot be told apart or is 0, or there is none (families of other responses).

        Warns
        -----
        DataWarning, ModelWarning
            As :meth:`check` of the data; if the fit is singular or did not converge.

        Examples
        --------
        >>> round(fit.loglik, 3)
        -871.814
        """
        from bayeslmm.fits.fitting import likelihood_fit

        refuse_reml(self.design.family)
        return likelihood_fit(self, reml=True)

    def ml(self, n_quadrature: int = 1) -> LikelihoodFit:
        """Fit by maximum likelihood, of a response that is not Gaussian by Laplace's approximation
        or by `n_quadrature` nodes of adaptive Gauss-Hermite quadrature; otherwise :meth:`reml`.

        Parameters
        ----------
        n_quadrature : int
            Nodes per random effect; 1 is Laplace's approximation.

        Returns
        -------
        LikelihoodFit

        Examples
        --------
        >>> round(model.ml().loglik, 2)
        -875.97
        """
        from bayeslmm.fits.fitting import likelihood_fit

        return likelihood_fit(self, reml=False, n_quadrature=n_quadrature)

    def with_response(self, y: np.ndarray) -> MixedModel:
        """The same model, priors included, for another response of the same rows.

        Parameters
        ----------
        y : ndarray, shape (n,)
            As :attr:`Design.y`; refused outside the support of a family that is not Gaussian.

        Returns
        -------
        MixedModel

        Examples
        --------
        >>> model.with_response(data["Reaction"] / 1000).reml().sigma < 1
        True
        """
        design = replace(self.design, y=np.asarray(y, dtype=float))
        check_support(design.family, design.y, design.trials, design.response, design.index)
        twin = self.with_design(design)
        twin._like = self.__dict__.get("problem", self._like)
        return twin

    def with_design(self, design: Design) -> MixedModel:
        """The same model, priors included, for other rows of the same columns."""
        twin = copy(self)
        twin._like = None
        for name in ("cross_products", "problem", "unidentified"):
            twin.__dict__.pop(name, None)
        twin.design = design
        twin.priors = self.priors.copy()
        return twin


#: The class by its name for linear models.
LMM = MixedModel
