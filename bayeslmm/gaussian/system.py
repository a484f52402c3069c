"""A Gaussian mixed model at covariance parameters theta: what every engine answers.

y = X beta + sum_k Z_k b_k + e with Var(b_k) = A_k (x) Sigma_k and Var(e) = R(eta, c), so that
V = Var(y) = sum_k Z_k (A_k (x) Sigma_k) Z_k' + R. :class:`System` is what likelihood and
posterior ask for. The engines differ in how they come by V^-1:

- :class:`bayeslmm.gaussian.shared.SharedSystem`: independent residuals of one variance, from
  cross-products; levels may be related (coupled or rotated);
- :class:`bayeslmm.gaussian.cells.problem.CellProblem`: independent residuals of unequal variances,
  from the cross-products of cells;
- :class:`bayeslmm.gaussian.blocks.problem.BlockProblem`: any residuals, from dense blocks of rows;
- :class:`bayeslmm.gaussian.woodbury.problem.WoodburySystem`: any residuals, from dense blocks of
  rows, the effects that join them apart; levels may be related;
- :class:`bayeslmm.gaussian.reference.DenseSystem`: anything, by n x n matrices, in numpy alone:
  the formulas, which the others are tested against.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from bayeslmm.gaussian._coefficients import CoefficientPrior
from bayeslmm.gaussian.coordinates import Coordinates
from bayeslmm.gaussian.marginal import FixedPrior
from bayeslmm.gaussian.rows import FactorRows
from bayeslmm.parts.patterns import CovariancePattern, split_factors
from bayeslmm.parts.structures import Structure

__all__ = ["Evaluation", "Moments", "RowInformation", "StructuredProblem", "System", "Theta"]


@dataclass(frozen=True)
class Theta:
    """Covariance parameters in natural units.

    Attributes
    ----------
    F : (sum q_k^2,) array
        Flat lower triangular factors, Sigma_k = F_k F_k'.
    eta : (s,) array
        Log residual standard deviations: log sd_i = scale_i eta.
    c : array
        Natural parameters of the correlation structure.
    """

    F: np.ndarray
    eta: np.ndarray
    c: np.ndarray

    def rows(self) -> Iterator[Theta]:
        """One by one, where the arrays have a leading dimension of draws."""
        yield from map(Theta, *map(np.ascontiguousarray, (self.F, self.eta, self.c)))


class Evaluation(NamedTuple):
    """A log-likelihood and its derivatives.

    Attributes
    ----------
    value : float
    d_Sigma : (sum q_k^2,) array
        Flat symmetric dl/dSigma_k, not masked by the pattern; dl/dF_k = 2 dl/dSigma_k F_k.
    d_eta : (s,) array
    d_c : array
        In every entry of c, whether or not entries depend on each other.
    slopes : array
        In the prior of the coefficients, see :class:`bayeslmm.gaussian._coefficients.Solved`.
    """

    value: float
    d_Sigma: np.ndarray
    d_eta: np.ndarray
    d_c: np.ndarray
    slopes: np.ndarray = np.empty(0)


@dataclass(frozen=True)
class Moments:
    """Coefficients and effects at given covariance parameters.

    Attributes
    ----------
    value : float
        Log-likelihood (restricted or marginal where beta is integrated out).
    beta : (p,) array
    vcov : (p, p) array
    b : list of (J_k, q_k) arrays
        Conditional means of the effects.
    root : (p, p) array or None
        W with vcov = W W', where that is positive definite.
    """

    value: float
    beta: np.ndarray
    vcov: np.ndarray
    b: list[np.ndarray]
    root: np.ndarray | None


@dataclass(frozen=True)
class RowInformation:
    """What single rows need, in the order of the data.

    Attributes
    ----------
    residual : (n,) array
        V^-1 (y - X beta^).
    columns : (n, p) array
        V^-1 X in the coordinates computed with.
    diagonal : (n,) array
        [V^-1]_ii.
    covariance : (p, p) array
        Of the coefficients, in the coordinates computed with.
    """

    residual: np.ndarray
    columns: np.ndarray
    diagonal: np.ndarray
    covariance: np.ndarray


class System(ABC):
    """Rows of a Gaussian mixed model, ready to be evaluated at many covariance parameters.

    Nothing in it changes. Residuals of one variance have eta = [log sigma] and an empty c.

    Attributes
    ----------
    n, p : int
    patterns : tuple of CovariancePattern
    factors : tuple of FactorRows
    structure : Structure
    coordinates : Coordinates
    rest : (n,) array
        Least-squares residuals, for starting values.
    group, time : (n,) arrays
        Residual groups and times.
    scale : (n, s) array
        log sd_i = scale_i eta.
    weights : (n,) array or None
    layout
        Positions; ``layout.f_ptr`` are the starts of the flat factors.
    """

    if TYPE_CHECKING:  # fields of some engines, properties of others

        @property
        def n(self) -> int: ...
        @property
        def p(self) -> int: ...
        @property
        def patterns(self) -> tuple[CovariancePattern, ...]: ...
        @property
        def factors(self) -> tuple[FactorRows, ...]: ...
        @property
        def structure(self) -> Structure: ...
        @property
        def coordinates(self) -> Coordinates: ...
        @property
        def rest(self) -> np.ndarray: ...
        @property
        def group(self) -> np.ndarray: ...
        @property
        def time(self) -> np.ndarray: ...
        @property
        def scale(self) -> np.ndarray: ...
        @property
        def weights(self) -> np.ndarray | None: ...
        @property
        def layout(self) -> Any: ...

    #: Module of :mod:`bayeslmm.bayes.kernels` that takes :meth:`kernel_arguments`.
    engine: ClassVar[str] = ""

    @property
    def draws_with_value(self) -> bool:
        """Whether :meth:`value_and_draw` is there, and the best way to have both."""
        return False

    @property
    def many_levels(self) -> bool:
        """Whether there are so many levels that an evaluation may use several threads."""
        return False

    @property
    def cheap(self) -> bool:
        """Whether an evaluation takes a millisecond or less."""
        return False

    def kernel_arguments(self, prior: CoefficientPrior) -> tuple | None:
        """The record of arrays that a compiled density takes; None where there is none.

        Parameters
        ----------
        prior : CoefficientPrior
            Of :meth:`prior`.
        """
        return None

    @property
    def effect_shapes(self) -> list[tuple[int, int]]:
        """Levels and effects of each grouping factor."""
        return [(f.n_levels, f.q) for f in self.factors]

    def rows_of_scales(self) -> np.ndarray:
        """Rows that each entry of eta is about, (s,)."""
        return (self.scale != 0).sum(axis=0)

    @property
    def spread(self) -> float:
        """Standard deviation of the least-squares residuals."""
        return float(np.sqrt(self.rest @ self.rest / max(self.n - self.p, 1)))

    def prior(self, prior: FixedPrior | CoefficientPrior | None) -> CoefficientPrior:
        """A prior on beta, flat by default, in the coordinates computed with."""
        if isinstance(prior, CoefficientPrior):
            return prior
        prior = FixedPrior.flat(self.p) if prior is None else prior
        return prior.computed(self.coordinates, self.lengths)

    @property
    def lengths(self) -> np.ndarray:
        """About the lengths (p,) of the columns computed with; no results depend on them."""
        return np.ones(self.p)

    def split(self, F: np.ndarray) -> list[np.ndarray]:
        """(..., q_k, q_k) factors from flat ones (..., sum q_k^2)."""
        return split_factors(F, self.patterns)

    def covariances(self, F: np.ndarray) -> list[np.ndarray]:
        """Sigma_k from flat factors."""
        return [L @ np.swapaxes(L, -1, -2) for L in self.split(F)]

    def row_variances(self, eta: np.ndarray) -> np.ndarray:
        """Residual variance of every row, shape (..., n)."""
        variance = np.exp(2.0 * (eta @ self.scale.T))
        return variance if self.weights is None else variance / self.weights

    def on_scale(self, values: np.ndarray) -> np.ndarray:
        """Least-squares coefficients of values (n,) on the columns of ``scale``."""
        return np.linalg.lstsq(self.scale, values, rcond=None)[0]

    @property
    @abstractmethod
    def n_normals(self) -> int:
        """Standard normals that one draw of (beta, b) takes."""

    @abstractmethod
    def evaluate(
        self, theta: Theta, prior: CoefficientPrior, ml: bool = False, gradient: bool = True
    ) -> Evaluation:
        """Log-likelihood and its derivatives in Sigma (flat), eta and c.

        The value is nan where V is not positive definite; derivatives mean nothing there, and
        without ``gradient``.

        Parameters
        ----------
        theta : Theta
        prior : CoefficientPrior
            Of :meth:`prior`. With a flat one this is the restricted likelihood.
        ml : bool
            The likelihood at the estimated beta, in place of integrating it out.
        gradient : bool
            Whether derivatives are wanted.
        """

    @abstractmethod
    def solve(self, theta: Theta, prior: FixedPrior | None = None, ml: bool = False) -> Moments:
        """Coefficients, their covariance and conditional means of the effects."""

    @abstractmethod
    def row_information(
        self, theta: Theta, prior: FixedPrior | None = None, rows=slice(None)
    ) -> RowInformation:
        """V^-1 of residuals and columns, and its diagonal; of some rows or of all."""

    @abstractmethod
    def effect_covariances(self, theta: Theta) -> list[np.ndarray]:
        """Covariance of the effects of every level given y, beta and theta, (J_k, q_k, q_k)."""

    @abstractmethod
    def predictor_variance(self, theta: Theta, X, Z: Sequence, codes: Sequence) -> np.ndarray:
        """Var(x'beta + z'b | y, theta) of rows whose levels are among those of the data.

        Parameters
        ----------
        X : (m, p) array
        Z : sequence of (m, q_k) arrays
        codes : sequence of (m,) int arrays
        """

    @abstractmethod
    def draw(self, F, eta, c, prior: FixedPrior | CoefficientPrior, normals: np.ndarray):
        """One exact draw of (beta, b) per row of F, eta, c and normals.

        Returns
        -------
        beta : (m, p) array
        b : list of (m, J_k, q_k) arrays
        """

    def value_and_draw(
        self, theta: Theta, prior: CoefficientPrior, normals: np.ndarray
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """Log-likelihood with beta integrated out and one draw, from the same factorization.

        Where :attr:`draws_with_value`.

        Parameters
        ----------
        theta : Theta
        prior : CoefficientPrior
            Of :meth:`prior`.
        normals : (n_normals,) array

        Returns
        -------
        value : float
        fixed, effects : (p,) and (n_normals - p,) arrays
            As computed with, see :meth:`drawn`; nan where the factorization fails.
        """
        raise NotImplementedError

    def drawn(self, fixed: np.ndarray, effects: np.ndarray):
        """beta (m, p) and b, (m, J_k, q_k) each, from m draws of :meth:`value_and_draw`."""
        raise NotImplementedError

    @abstractmethod
    def residual_root(self, theta: Theta) -> Callable:
        """A function of columns (n, ...) that multiplies by C or by C^-1, R = C C'.

        Called as ``apply(values, inverse=...)``.
        """

    @abstractmethod
    def with_response(self, y: np.ndarray, X: np.ndarray) -> System:
        """The same rows and levels with another response (less its offset)."""

    @abstractmethod
    def with_effects(self, matrices: Sequence[np.ndarray | None]) -> System:
        """The same rows with the columns Z_k K_k in place of Z_k; None leaves a factor as it is."""

    @abstractmethod
    def with_rows(self, keep: np.ndarray, y: np.ndarray, X: np.ndarray) -> System:
        """Some of the rows (y, X of all of them); levels, groups, times and limits stay."""


#: The name from when only models with structured residuals had such a class.
StructuredProblem = System
