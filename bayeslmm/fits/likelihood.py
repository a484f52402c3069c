"""The REML or maximum likelihood fit: estimates and what is made of them."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bayeslmm.errors import ModelWarning
from bayeslmm.fits.checks import findings_of, said
from bayeslmm.fits.effects import Effects
from bayeslmm.fits.likelihood_predictions import LikelihoodPredictions
from bayeslmm.fits.likelihood_shares import LikelihoodShares
from bayeslmm.fits.likelihood_simulation import LikelihoodSimulation
from bayeslmm.fits.likelihood_tests import LikelihoodTests
from bayeslmm.fits.plotting import FitPlots
from bayeslmm.fits.shared import SharedResults
from bayeslmm.likelihood.engine import LikelihoodEngine, estimated_coefficients
from bayeslmm.parts.parameters import pair_key, sd_key
from bayeslmm.results.printing import Shown, Table, joined, returns_tables
from bayeslmm.results.tables import check_level

if TYPE_CHECKING:
    from bayeslmm.formula import Design
    from bayeslmm.gaussian import Problem
    from bayeslmm.gaussian.system import StructuredProblem
    from bayeslmm.likelihood.optimize import Optimum
    from bayeslmm.protocols import Model

__all__ = ["LikelihoodFit"]


@returns_tables
class LikelihoodFit(
    FitPlots, Effects, SharedResults, LikelihoodTests, LikelihoodPredictions, LikelihoodSimulation,
    LikelihoodShares, Shown,
):  # fmt: skip
    """A model fitted by REML or maximum likelihood.

    Made by :meth:`bayeslmm.LMM.reml` and :meth:`bayeslmm.LMM.ml`.

    Attributes
    ----------
    model : Model
    method : {"REML", "ML"}
    theta : ndarray
        Free entries of the relative covariance factors, in the order of the grouping factors
        in the formula (lme4 sorts the factors by their number of levels). With correlated
        residuals or unequal variances unbounded coordinates: entries of the factors in units of
        the residual spread, log residual standard deviations, and the numbers of the
        correlation structure. Of a response that is not Gaussian entries of the factors, the
        family's parameters as unbounded numbers, and coefficients.
    sigma : float
        Residual standard deviation, in the response's units; where it is not the same for all
        rows the root of their mean variance, of weight 1 where there are weights. 1 where the
        response is not Gaussian.
    loglik, deviance, aic, bic : float
        Log-likelihood (restricted for REML), -2 times it, and the criteria from it.
    converged, singular : bool
        Whether the optimizer converged; whether a covariance matrix is singular.
    n_evaluations : int
        Evaluations of the criterion.

    References
    ----------
    - REML: Patterson and Thompson (1971), Biometrika 58(3);
      https://doi.org/10.1093/biomet/58.3.545
    - The criteria: Bates, Maechler, Bolker and Walker (2015), Journal of Statistical Software
      67(1), eq. 34 (ML) and 42 (REML); https://doi.org/10.18637/jss.v067.i01
    - Laplace's approximation and quadrature: Pinheiro and Chao (2006), Journal of Computational and
      Graphical Statistics 15(1); https://doi.org/10.1198/106186006X96962
    - Satterthwaite's degrees of freedom: Kuznetsova, Brockhoff and Christensen (2017), Journal of
      Statistical Software 82(13), section 2; https://doi.org/10.18637/jss.v082.i13
    - Of F tests: Fai and Cornelius (1996), Journal of Statistical Computation and Simulation 54(4);
      https://doi.org/10.1080/00949659608811740
    - Kenward and Roger (1997), Biometrics 53(3), eq. 4 and section 3;
      https://doi.org/10.2307/2533558
    - With the formulas of Halekoh and Hojsgaard (2014), Journal of Statistical Software 59(9),
      section 4; https://doi.org/10.18637/jss.v059.i09
    - Meta-analysis: Hartung and Knapp (2001), Statistics in Medicine 20(12);
      https://doi.org/10.1002/sim.791
    - Knapp and Hartung (2003), Statistics in Medicine 22(17); https://doi.org/10.1002/sim.1482
    - Heterogeneity: Higgins and Thompson (2002), Statistics in Medicine 21(11), eq. 9;
      https://doi.org/10.1002/sim.1186
    - Higgins, Thompson and Spiegelhalter (2009), Journal of the Royal Statistical Society A 172(1);
      https://doi.org/10.1111/j.1467-985X.2008.00552.x
    - Marginal means: Searle, Speed and Milliken (1980), The American Statistician 34(4);
      https://doi.org/10.1080/00031305.1980.10483031
    - Adjusted p values: Holm (1979), Scandinavian Journal of Statistics 6(2);
      https://www.jstor.org/stable/4615733
    - ``"fdr"``: Benjamini and Hochberg (1995), Journal of the Royal Statistical Society B 57(1);
      https://doi.org/10.1111/j.2517-6161.1995.tb02031.x
    - ``"tukey"``: Miller (1981), Simultaneous Statistical Inference, 2nd edition;
      https://doi.org/10.1007/978-1-4613-8122-8
    - Dunnett (1955), Journal of the American Statistical Association 50(272);
      https://doi.org/10.1080/01621459.1955.10501294

    Examples
    --------
    The examples of the methods go on from here.

    >>> import bayeslmm as blm
    >>> data = blm.load_dataset("sleepstudy")
    >>> fit = blm.LMM("Reaction ~ Days + (Days | Subject)", data).reml()
    >>> fit.converged, fit.singular, round(fit.loglik, 3)
    (True, False, -871.814)
    """

    model: Model
    reml: bool
    method: str
    theta: np.ndarray
    sigma: float
    loglik: float
    converged: bool
    optimum: Optimum
    _solution: Any
    _engine: Any

    def __init__(self, model: Model, engine: LikelihoodEngine, optimum: Optimum, *, reml: bool):
        self.model, self.reml, self.optimum = model, reml, optimum
        self.method = "REML" if reml else "ML"
        self._engine = engine
        self._solution = engine.solution(optimum.theta, reml)
        self.theta, self.sigma = optimum.theta, self._solution.sigma
        self.loglik = -0.5 * optimum.criterion
        self.converged, self.n_evaluations = optimum.converged, optimum.n_evaluations

    @property
    def _problem(self) -> Problem | StructuredProblem:
        return self._engine.problem

    @_problem.setter
    def _problem(self, problem: Problem | StructuredProblem) -> None:
        self._engine = replace(self._engine, design=self.design, problem=problem, kept=self.kept)

    @property
    def design(self) -> Design:
        """The model's design."""
        return self.model.design

    @cached_property
    def kept(self) -> np.ndarray:
        """Positions of the coefficients that are estimated (not aliased)."""
        return estimated_coefficients(self.model)

    @property
    def n_parameters(self) -> int:
        """Coefficients, covariance parameters and, where it is one more, sigma."""
        return self._problem.p + self._engine.n_variances

    @property
    def deviance(self) -> float:
        """-2 log-likelihood (restricted for REML)."""
        return -2 * self.loglik

    @property
    def aic(self) -> float:
        """Akaike's information criterion."""
        return self.deviance + 2 * self.n_parameters

    @property
    def bic(self) -> float:
        """Schwarz's criterion, with the number of rows."""
        return self.deviance + np.log(self.design.n_rows) * self.n_parameters

    @property
    def singular(self) -> bool:
        """Whether a covariance matrix of random effects is singular."""
        return bool(self.singular_components)

    @cached_property
    def singular_components(self) -> list[str]:
        """In words, what vanished or reached its limit."""
        found = describe_singularity(self.design, self._solution.Ls, self.optimum.rank)
        return [*found, *self._engine.limits(self._solution)]

    @property
    def vcov(self) -> pd.DataFrame:
        """Covariance matrix of the estimated coefficients (unadjusted)."""
        names = [self.design.coef_names[j] for j in self.kept]
        return pd.DataFrame(self._solution.vcov, index=names, columns=names)

    @property
    def covariances(self) -> dict[str, pd.DataFrame]:
        """Covariance matrix of the random effects of each grouping factor."""
        return {
            block.name: Table(Sigma, index=block.effects, columns=block.effects)
            for block, Sigma in zip(self.design.blocks, self._solution.Sigmas, strict=True)
        }

    def varcomp(self, *, level: float = 0.95) -> pd.DataFrame:
        """Standard deviations and correlations of the random effects, and sigma.

        Parameters
        ----------
        level : float
            Level of the Wald intervals, made on the log scale for standard deviations and on
            Fisher's z scale for correlations.

        Returns
        -------
        pandas.DataFrame
            Columns ``estimate se lower upper``; standard errors by the delta method from the
            observed information. NaN where a component is at its boundary or near it (where a
            standard error reaches the boundary), or is not determined by the data;
            ``confint()`` has an interval there.

        Examples
        --------
        >>> fit.varcomp()["estimate"].round(2)
        component
        sd(Intercept | Subject)            24.74
        sd(Days | Subject)                  5.92
        corr(Intercept, Days | Subject)     0.07
        sigma                              25.59
        Name: estimate, dtype: float64
        """
        from bayeslmm.results.variances import variance_table

        check_level(level)
        return variance_table(self, level)

    def components(self) -> pd.Series:
        """Point estimates of :meth:`varcomp`.

        Returns
        -------
        pandas.Series
            By the names of the components.

        Examples
        --------
        >>> fit.components().round(2).tolist()
        [24.74, 5.92, 0.07, 25.59]
        """
        names = [component.name for component in self._engine.components]
        return pd.Series(self._engine.values(self._solution), index=names)

    def summary(self, ddf: str | None = None, *, level: float = 0.95) -> pd.DataFrame:
        """Coefficients and variance components in one table.

        ``attrs["missing"]`` says which rows were left out.

        Parameters
        ----------
        ddf, level
            As in :meth:`fixef`.

        Returns
        -------
        pandas.DataFrame
            Columns of :meth:`fixef` up to ``upper``; components have those of :meth:`varcomp`
            and NaN in the others.

        Examples
        --------
        >>> fit.summary().index[:2].tolist()
        ['Intercept', 'Days']
        """
        fixef = self.fixef(ddf, level=level).loc[:, "estimate":"upper"]
        table = pd.concat([fixef, self.varcomp(level=level)])
        table.attrs["missing"] = self.design.missing.describe()
        return table

    def describe(self, ddf: str | None = None, *, level: float = 0.95) -> str:
        """Fit statistics and tables as text.

        Parameters
        ----------
        ddf, level
            As in :meth:`fixef`.

        Returns
        -------
        str

        Examples
        --------
        >>> fit.describe().splitlines()[0]
        'REML fit of Reaction ~ Days + (Days | Subject)'
        """
        return joined(self._parts(ddf, level))

    def _parts(self, ddf: str | None = None, level: float = 0.95) -> list[str | pd.DataFrame]:
        design = self.design
        state = "converged" if self.converged else "NOT CONVERGED: " + self.optimum.message
        lines = [
            f"{self.method} fit of {design.formula.text}",
            f"{design.n_rows} rows; log-likelihood {self.loglik:.4f}; AIC {self.aic:.2f}; "
            f"BIC {self.bic:.2f}; {state} in {self.n_evaluations} evaluations",
        ]
        lines += self._engine.describe()
        if text := design.missing.describe():
            lines.append(f"Note: {text}.")
        lines += [f"Singular: {text}." for text in self.singular_components]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ModelWarning)
            tables = [self.fixef(ddf, level=level), self.varcomp(level=level)]
        found = "\n".join(said(findings_of(self)))
        return ["\n".join(lines), *tables, *([found] if found else [])]


def describe_singularity(design: Design, Ls: list[np.ndarray], ranks) -> list[str]:
    """One sentence per covariance matrix that is singular.

    Parameters
    ----------
    Ls : list of (q_k, q_k) arrays
        Relative factors, judged on the scale of each effect's covariate.
    """
    sentences = []
    for at, (block, L, block_ranks) in enumerate(zip(design.blocks, Ls, ranks, strict=True)):
        scale = np.sqrt(np.diag(design.block_statistics[at].gram))
        Sigma = (L @ L.T) * np.outer(scale, scale)
        for part, rank in zip(block.pattern, block_ranks, strict=True):
            if rank == len(part):
                continue
            zero = [block.effects[i] for i in part if Sigma[i, i] <= 1e-12]
            if zero:
                names = ", ".join(sd_key(effect, block.name) for effect in zero)
                sentences.append(f"{names} is estimated as 0")
            if rank < len(part) - len(zero):
                if len(part) - len(zero) == 2:
                    i, j = [i for i in part if block.effects[i] not in zero]
                    sign = "1" if Sigma[i, j] > 0 else "-1"
                    name = pair_key(block.effects[i], block.effects[j], block.name)
                    sentences.append(f"{name} is estimated as {sign}")
                else:
                    sentences.append(
                        f"the {len(part)} effects of {block.name} vary in only {rank} dimension(s)"
                    )
    return sentences
