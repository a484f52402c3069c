"""The REML or ML fit of a model with correlated residuals or unequal residual variances."""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeslmm.errors import DataError, ModelWarning
from bayeslmm.fits.likelihood import LikelihoodFit, describe_singularity
from bayeslmm.formula.components import component_map, residual_component_names
from bayeslmm.gaussian import TooManyEffectsError, single_threaded_blas
from bayeslmm.gaussian.criterion import Solution
from bayeslmm.gaussian.system import StructuredProblem, Theta
from bayeslmm.likelihood.blockwise import (
    block_curvature,
    block_kenward_roger,
    optimize_blocks,
)
from bayeslmm.likelihood.coordinates import Coordinates
from bayeslmm.likelihood.inference import KenwardRogerInference
from bayeslmm.likelihood.optimize import Optimum
from bayeslmm.likelihood.satterthwaite import VarianceCurvature
from bayeslmm.likelihood.unbounded import (
    collapsing_cells,
    collapsing_correlation,
    collapsing_tail,
)
from bayeslmm.priors.table import component_names
from bayeslmm.results.cell_variances import refuse_determined_cells, vanishing
from bayeslmm.results.intervals import Estimates
from bayeslmm.results.prediction import row_weights, scale_rows
from bayeslmm.results.support import refuse_unless_derived
from bayeslmm.results.tables import check_level
from bayeslmm.results.variances import component_values

if TYPE_CHECKING:
    from bayeslmm.protocols import Model

__all__ = ["ResidualLikelihoodFit", "residual_likelihood_fit"]

_PERFECT = 1e-7


class ResidualLikelihoodFit(LikelihoodFit):
    """A likelihood fit whose residuals are correlated or have unequal variances.

    As :class:`LikelihoodFit`, with these differences. A response that is predicted is taken as one
    of its own: its residual has the standard deviation of its row and is not correlated with
    those of the fit.

    Attributes
    ----------
    theta : ndarray
        Unbounded coordinates: entries of the random effects' factors in units of the residual
        spread, log residual standard deviations, and the numbers of the correlation structure.
    sigma : float
        Root of the rows' mean residual variance, of weight 1 where there are weights: its square
        times the mean of 1/w is that mean.
    """

    def __init__(self, model: Model, problem: StructuredProblem, optimum: Optimum, *, reml: bool):
        self.model, self.reml, self.optimum = model, reml, optimum
        self.method = "REML" if reml else "ML"
        self._problem = problem
        self._coordinates = Coordinates(problem)
        self.theta = optimum.theta
        self._theta = self._coordinates.theta(optimum.theta)
        self._solution = _solution(problem, self._theta, optimum.theta, reml)
        self.sigma = self._solution.sigma
        self.loglik = -0.5 * optimum.criterion
        self.converged, self.n_evaluations = optimum.converged, optimum.n_evaluations

    @property
    def n_parameters(self) -> int:
        """Coefficients and covariance parameters."""
        return self._problem.p + len(self.theta)

    @cached_property
    def singular_components(self) -> list[str]:
        """In words, what vanished or reached its limit."""
        found = describe_singularity(self.design, self._solution.Ls, self.optimum.rank)
        found += [f"{name} tends to 0" for name in vanishing(self)]
        limit = self._problem.structure.boundary(self._theta.c)
        return [*found, limit] if limit else found

    @cached_property
    def _curvature(self) -> VarianceCurvature:
        return block_curvature(self._problem, self.theta, reml=self.reml)

    @cached_property
    def _kenward_roger(self) -> KenwardRogerInference:
        fit = self
        if not self.reml:
            _warn("Kenward-Roger needs REML: the model was refitted by REML for it.")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ModelWarning)
                fit = self.model.reml()
        if fit.singular:
            _warn(
                "The fit is at a boundary (" + "; ".join(fit.singular_components) + "), where the "
                "Kenward-Roger approximation is not justified."
            )
        log_linear = self.design.stated_residual.variance.kind == "log-linear"
        try:
            found = block_kenward_roger(fit._problem, fit._theta, log_linear=log_linear)
        except TooManyEffectsError as err:
            raise DataError(
                f"Kenward-Roger needs a dense matrix over the effects ({err}): use "
                'ddf="satterthwaite".'
            ) from None
        return KenwardRogerInference(found)

    def components(self) -> pd.Series:
        """Point estimates of :meth:`varcomp`."""
        return self._components_at(self._theta)

    def _components_at(self, theta: Theta) -> pd.Series:
        random = [name for block in self.design.blocks for name in component_names(block)]
        values = component_values(self.design, self._problem.covariances(theta.F), 1.0)[:-1]
        residual = component_map(self.design.stated_residual, theta.eta, theta.c)
        names = [*random, *residual_component_names(self.design.stated_residual)]
        return pd.Series(np.concatenate([values, residual]), index=names)

    def varcomp(self, *, level: float = 0.95) -> pd.DataFrame:
        """Standard deviations and correlations of random effects and residuals.

        Parameters
        ----------
        level : float
            Level of the Wald intervals, made on the log scale for standard deviations and the
            range, on Fisher's z scale for correlations (on the logit scale between its limits
            for rho), and directly for log-linear coefficients.

        Returns
        -------
        pandas.DataFrame
            Columns ``estimate se lower upper``; standard errors by the delta method from the
            observed information. NaN where a component is at its boundary or near it (where a
            standard error reaches the boundary), or is not determined by the data;
            ``confint()`` has an interval there.
        """
        from bayeslmm.results.residual_tables import residual_variance_table

        check_level(level)
        return residual_variance_table(self, level)

    @cached_property
    def _effect_covariances(self) -> list[np.ndarray]:
        return self._problem.effect_covariances(self._theta)

    @cached_property
    def _residual_root(self):
        return self._problem.residual_root(self._theta)

    def residual_noise(self, z: np.ndarray) -> np.ndarray:
        """Residuals (n,) of the fitted covariance from standard normals."""
        return self._residual_root(np.asarray(z, dtype=float), inverse=False)

    def whiten(self, residuals: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`residual_noise`."""
        return self._residual_root(np.asarray(residuals, dtype=float), inverse=True)

    def reestimate(self, y: np.ndarray, start: np.ndarray | None = None) -> Estimates:
        """Estimates for another response of the same rows, without a new fit object."""
        design = self.design
        problem = self._problem.with_response(y - design.offset, design.X[:, self.kept])
        found = optimize_blocks(problem, reml=self.reml, start=start)
        theta = Coordinates(problem).theta(found.theta)
        solution = _solution(problem, theta, found.theta, self.reml)
        return Estimates(solution, self._components_at(theta).to_numpy(), found.criterion)

    def _given(self, rows) -> ResidualLikelihoodFit:
        if rows is not None:
            refuse_unless_derived(self.model, "Conditioning on more rows")
        return self

    def predictor_variance(self, X: np.ndarray, Z, codes) -> np.ndarray:
        """As :meth:`LikelihoodFit.predictor_variance`."""
        return self._problem.predictor_variance(self._theta, X, Z, codes)

    def residual_variance(self, newdata, n: int) -> np.ndarray:
        """As :meth:`LikelihoodFit.residual_variance`; not correlated with rows of the fit."""
        own = np.exp(2.0 * scale_rows(self.design, newdata) @ self._theta.eta)
        return own / row_weights(self.design, newdata, n)

    def implied_covariance(self, data=None) -> pd.DataFrame:
        """Marginal covariance of a group's responses, residual correlations included.

        Parameters
        ----------
        data : data frame, optional
            The covariates and times of the group's rows; by default those of the first group.
        """
        from bayeslmm.results.implied import residual_implied_covariance

        theta = self._theta
        values, index = residual_implied_covariance(
            self.design, self._solution.Sigmas, theta.eta, theta.c, data
        )
        return pd.DataFrame(values, index=index, columns=index)

    def confint(
        self,
        method: str = "profile",
        *,
        level: float = 0.95,
        parameters: list[str] | None = None,
        n_sims: int = 1000,
        random_seed: int | None = None,
        progressbar: bool = True,
    ) -> pd.DataFrame:
        """Confidence intervals; as :meth:`LikelihoodFit.confint`."""
        if method == "profile":
            from bayeslmm.results.residual_profile import profile_intervals

            check_level(level)
            return profile_intervals(self, level, parameters, progressbar)
        return super().confint(
            method,
            level=level,
            parameters=parameters,
            n_sims=n_sims,
            random_seed=random_seed,
            progressbar=progressbar,
        )


def _solution(problem: StructuredProblem, theta: Theta, x: np.ndarray, reml: bool) -> Solution:
    found = problem.solve(theta, ml=not reml)
    unit = 1.0 if problem.weights is None else np.mean(1.0 / problem.weights)
    sigma = float(np.sqrt(problem.row_variances(theta.eta).mean() / unit))
    return Solution(
        theta=x,
        beta=found.beta,
        sigma=sigma,
        vcov=found.vcov,
        b=found.b,
        loglik=found.value,
        reml=reml,
        Ls=[L / sigma for L in problem.split(theta.F)],
        root=found.root,
    )


def residual_likelihood_fit(model: Model, *, reml: bool) -> ResidualLikelihoodFit:
    """Fit a model with structured residuals; see :meth:`bayeslmm.LMM.reml`."""
    from bayeslmm.assembly import structured_problem

    design = model.design
    refuse_confounded(design)
    kept = [j for j, name in enumerate(design.coef_names) if name not in model.aliased]
    problem = model.problem if not model.aliased else structured_problem(design, columns=kept)
    spread = float(np.std(design.y - design.offset))
    if problem.spread <= _PERFECT * spread:
        raise DataError(
            f"The model fits {design.response!r} perfectly, up to rounding, so there is no error "
            "to estimate anything from."
        )
    refuse_determined_cells(design, kept)
    optimum = optimize_blocks(problem, reml=reml)
    if not np.isfinite(optimum.criterion):
        raise DataError(
            "The likelihood cannot be evaluated. Check the scale of the columns and whether the "
            "model fits perfectly."
        )
    fit = ResidualLikelihoodFit(model, problem, optimum, reml=reml)
    _refuse_unbounded(fit)
    if fit.sigma <= _PERFECT * spread:
        raise DataError(
            f"The residual standard deviation of {design.response!r} tends to 0: the random "
            "effects or coefficients explain the data perfectly."
        )
    if not fit.converged:
        _warn(f"The optimizer did not converge: {optimum.message}. Do not trust the estimates.")
    if fit.singular:
        _warn("At a boundary: " + "; ".join(fit.singular_components) + ".")
    return fit


def _refuse_unbounded(fit: ResidualLikelihoodFit) -> None:
    """Refuse a likelihood that grows forever as residual variances vanish.

    Raises
    ------
    DataError
    """
    design, problem, theta, reml = fit.design, fit._problem, fit._theta, fit.reml
    end = "" if reml else " (reml() has one more often)"
    no_maximum = f"the {'restricted ' if reml else ''}likelihood has no maximum{end}"
    X, y = design.X[:, fit.kept], design.y - design.offset
    with single_threaded_blas():
        if design.stated_residual.variance.kind == "cells":
            cells = collapsing_cells(problem, theta, X, reml=reml)
            if cells is not None:
                names = ", ".join(design.stated_residual.variance.names[c] for c in cells)
                raise DataError(
                    f"{names}: coefficients and random effects can fit these rows perfectly, so "
                    f"that {no_maximum}. Join the cells with others, leave terms out, or use "
                    "model.fit(), where the priors decide."
                )
        elif not reml and (column := collapsing_tail(problem, X)) is not None:
            raise DataError(
                f"{design.stated_residual.variance.names[column]}: the coefficients can fit the "
                f"rows at one end of it perfectly, so that {no_maximum}. Leave terms out, or use "
                "model.fit(), where the priors decide."
            )
        if collapsing_correlation(problem, theta, X, y, reml=reml):
            few = "groups with the same times" if problem.structure.n_times else "groups"
            raise DataError(
                f"residual={design.stated_residual.syntax.text!r}: there are too few {few} for so "
                "many coefficients and correlations. A combination of the residuals can be 0 in "
                f"all of them, so that {no_maximum}: it grows forever as the residual correlation "
                "matrix "
                "becomes singular. Use a structure with fewer correlations, leave coefficients "
                "out, or use model.fit(), where the priors decide."
            )


def refuse_confounded(design) -> None:
    """Refuse random effects that the residual structure already is.

    Raises
    ------
    DataError
        If a random intercept of the residual's own groups stands beside compound symmetry or an
        unstructured covariance, or any effect of time alone beside one with a variance per time.
    """
    residual = design.stated_residual
    if residual.kind not in ("cs", "unstructured"):
        return
    per_time = residual.kind == "unstructured" and residual.variance.kind == "cells"
    for block in design.blocks:
        if frozenset(block.factor.columns) != frozenset(residual.factor.columns):
            continue
        for effect, column in zip(block.effects, block.Z.T, strict=True):
            if _constant(column, residual.rows.time if per_time else np.zeros(design.n_rows)):
                raise DataError(
                    f"residual={residual.syntax.text!r} already holds the covariance that the "
                    f"random effect {effect!r} of {block.name!r} gives: likelihood cannot tell "
                    "them apart. Leave one out."
                )


def _constant(values: np.ndarray, within: np.ndarray) -> bool:
    """Whether values are the same wherever `within` is."""
    order = np.argsort(within, kind="stable")
    same = np.diff(within[order]) == 0
    return bool(np.all(np.diff(values[order])[same] == 0))


def _warn(text: str) -> None:
    warnings.warn(text, ModelWarning, stacklevel=4)
