"""Systems of independent residuals, from cross-products: one variance, and what cells share.

With independent residuals V^-1 = K - K Z Q Z'K, where K is the diagonal precision of the rows
and Q = Lambda M^-1 Lambda' the covariance of the effects given y and beta: rows need their own
columns and one elimination.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.gaussian._coefficients import CoefficientPrior, statistics
from bayeslmm.gaussian._criteria import marginal_gradient
from bayeslmm.gaussian.coordinates import Coordinates, working_products
from bayeslmm.gaussian.crossproducts import CrossProducts
from bayeslmm.gaussian.factor import Elimination, eliminate
from bayeslmm.gaussian.leverage import effect_variance
from bayeslmm.gaussian.marginal import (
    FixedPrior,
    MarginalModel,
    draw_conditional_many,
    draws_to_user,
    log_marginal_and_draw,
    log_marginal_flat,
)
from bayeslmm.gaussian.problem import Problem
from bayeslmm.gaussian.rows import FactorRows
from bayeslmm.gaussian.system import Evaluation, Moments, RowInformation, System, Theta
from bayeslmm.parts.patterns import CovariancePattern
from bayeslmm.parts.structures import Structure

__all__ = ["CrossProductSystem", "Eliminated", "SharedSystem", "as_system"]

#: Up to this many random effects an evaluation is cheap.
_FEW_EFFECTS = 1000


@dataclass(frozen=True)
class Eliminated:
    """Effects eliminated at one theta.

    Attributes
    ----------
    state : Elimination
        Relative to ``sigma``: Q is sigma^2 times what it computes.
    S : (p + 1, p + 1) array
        [X y]'V^-1[X y].
    log_det : float
        log|V|.
    sigma : float
    """

    state: Elimination
    S: np.ndarray
    log_det: float
    sigma: float


class CrossProductSystem(System):
    """Independent residuals: what only takes an elimination and the rows' own columns.

    Attributes
    ----------
    whole : Problem
        Cross-products of all rows: analysis, positions and coordinates.
    R : (n, p + 1) array
        [X y] in the coordinates computed with.
    """

    whole: Problem

    if TYPE_CHECKING:  # a field or computed when needed

        @property
        def R(self) -> np.ndarray: ...

    @abstractmethod
    def eliminated_at(self, theta: Theta) -> Eliminated:
        """Effects eliminated at theta."""

    @property
    def patterns(self) -> tuple[CovariancePattern, ...]:
        """Which effects of each factor are correlated."""
        return self.whole.patterns

    @property
    def coordinates(self) -> Coordinates:
        """Between the user's fixed effects and those computed with."""
        return self.whole.coordinates

    @property
    def lengths(self) -> np.ndarray:
        """See :attr:`System.lengths`."""
        return self.whole.lengths

    @property
    def layout(self):
        """Positions, as the kernels take them."""
        return self.whole.layout

    @cached_property
    def group(self) -> np.ndarray:
        """Every row is its own residual group."""
        return np.arange(self.n)

    @cached_property
    def time(self) -> np.ndarray:
        """No times."""
        return np.zeros(self.n)

    @property
    def n_normals(self) -> int:
        """Standard normals that one draw of (beta, b) takes."""
        return self.p + self.whole.symbolic.n_columns

    @property
    def draws_with_value(self) -> bool:
        """See :attr:`System.draws_with_value`: where there is a dense tail."""
        return not self.whole.head_only

    def drawn(self, fixed: np.ndarray, effects: np.ndarray):
        """See :meth:`System.drawn`."""
        return draws_to_user(self.whole, fixed, effects)

    def _statistics(self, at: Eliminated, prior: FixedPrior | None, ml: bool = False):
        return statistics(at.S, at.log_det, self.n, self.prior(prior), ml)

    def solve(self, theta: Theta, prior: FixedPrior | None = None, ml: bool = False) -> Moments:
        """See :meth:`System.solve`."""
        at = self.eliminated_at(theta)
        value, gamma, covariance, _, _ = self._statistics(at, prior, ml)
        return Moments(
            float(value),
            self.coordinates.to_user(gamma),
            self.coordinates.covariance_to_user(covariance),
            self.whole.effects(at.state.b @ np.append(-gamma, 1.0)),
            self.coordinates.root_to_user(covariance),
        )

    def row_information(
        self, theta: Theta, prior: FixedPrior | None = None, rows=slice(None)
    ) -> RowInformation:
        """See :meth:`System.row_information`."""
        at = self.eliminated_at(theta)
        _, gamma, covariance, _, _ = self._statistics(at, prior)
        precision = 1.0 / self.row_variances(theta.eta)[rows]
        whole = isinstance(rows, slice) and rows == slice(None)
        factors = self.factors if whole else [f.take(rows) for f in self.factors]
        solved = precision[:, None] * self._less_effects(at.state, self.R[rows], factors)
        diagonal = precision
        if factors:
            Q = at.sigma**2 * effect_variance(at.state.problem, at.state, factors)
            diagonal = precision - precision**2 * Q
        return RowInformation(solved @ np.append(-gamma, 1.0), solved[:, :-1], diagonal, covariance)

    def _less_effects(self, state: Elimination, R: np.ndarray, factors) -> np.ndarray:
        """R - Z Q Z'K [X y], the columns of Q Z'K [X y] being effects, (m, columns)."""
        out = R.copy()
        for f, b in zip(factors, self.whole.effects(state.b), strict=True):
            for a in range(f.q):
                out -= f.Z[:, a, None] * b[f.codes, a, : out.shape[1]]
        return out

    def effect_covariances(self, theta: Theta) -> list[np.ndarray]:
        """See :meth:`System.effect_covariances`."""
        at = self.eliminated_at(theta)
        return [at.sigma**2 * block for block in at.state.effect_covariances()]

    def predictor_variance(self, theta: Theta, X, Z: Sequence, codes: Sequence) -> np.ndarray:
        """See :meth:`System.predictor_variance`."""
        at = self.eliminated_at(theta)
        Phi = self._statistics(at, None)[2]
        factors = [
            FactorRows(code, z, f.n_levels)
            for code, z, f in zip(codes, Z, self.factors, strict=True)
        ]
        columns = np.asarray(X, dtype=float) @ self.coordinates.G_inverse
        spread = self._less_effects(at.state, columns, factors)
        variance = np.einsum("ij,jk,ik->i", spread, Phi, spread)
        if factors:
            variance += at.sigma**2 * effect_variance(at.state.problem, at.state, factors)
        return variance

    def residual_root(self, theta: Theta) -> Callable:
        """See :meth:`System.residual_root`."""
        sd = np.sqrt(self.row_variances(theta.eta))

        def apply(values: np.ndarray, *, inverse: bool) -> np.ndarray:
            by_row = sd.reshape(-1, *(1,) * (values.ndim - 1))
            return values / by_row if inverse else values * by_row

        return apply


@dataclass(frozen=True)
class SharedSystem(CrossProductSystem):
    """Residuals of one variance: the shared core, related levels included.

    Attributes
    ----------
    whole : Problem
    y : (n,) array or None
        Response, less its offset.
    X : (n, p) array or None
    factors : tuple of FactorRows
    weights : (n,) array or None
        Var(e_i) = sigma^2 / w_i.

    Notes
    -----
    Where rows are not in memory y and X are None and ``factors`` is empty: methods that return or
    take rows of the data then raise a ValueError, all others work.
    """

    whole: Problem
    y: np.ndarray | None
    X: np.ndarray | None
    factors: tuple[FactorRows, ...]
    weights: np.ndarray | None = None
    structure: Structure = Structure()

    @property
    def n(self) -> int:
        """Rows."""
        return self.whole.n

    @property
    def p(self) -> int:
        """Coefficients."""
        return self.whole.p

    engine = "shared"

    @property
    def cheap(self) -> bool:
        """See :attr:`System.cheap`."""
        return self.whole.head_only and self.whole.symbolic.n_columns <= _FEW_EFFECTS

    @property
    def many_levels(self) -> bool:
        """See :attr:`System.many_levels`."""
        return self.whole.many_levels

    def kernel_arguments(self, prior: CoefficientPrior) -> tuple | None:
        """See :meth:`System.kernel_arguments`; None with a dense tail."""
        model = MarginalModel(self.whole, prior)
        return model.kernel_arguments() if self.whole.head_only else None

    @property
    def effect_shapes(self) -> list[tuple[int, int]]:
        """See :attr:`System.effect_shapes`."""
        patterns = zip(self.whole.n_levels, self.whole.patterns, strict=True)
        return [(levels, pattern.q) for levels, pattern in patterns]

    def rows_of_scales(self) -> np.ndarray:
        """See :meth:`System.rows_of_scales`."""
        return np.array([self.n])

    @cached_property
    def scale(self) -> np.ndarray:
        """One standard deviation, (n, 1)."""
        return np.broadcast_to(1.0, (self.n, 1))

    @cached_property
    def R(self) -> np.ndarray:
        """[X y] in the coordinates computed with, (n, p + 1)."""
        if self.X is None or self.y is None:
            raise ValueError("the rows of the data are not in memory")
        shift = working_products(self.whole.products)[0].shift
        return np.ascontiguousarray(shift.applied(self.y, self.X)[:, :-1])

    @cached_property
    def rest(self) -> np.ndarray:
        """Least-squares residuals, (n,)."""
        X, y = self.R[:, :-1], self.R[:, -1]
        return y - X @ np.linalg.lstsq(X, y, rcond=None)[0]

    def eliminated_at(self, theta: Theta) -> Eliminated:
        """See :meth:`CrossProductSystem.eliminated_at`."""
        sigma = float(np.exp(theta.eta[0]))
        state = eliminate(self.whole, np.ascontiguousarray(theta.F, dtype=float) / sigma)
        log_det = 2.0 * self.n * theta.eta[0] + state.log_det - self.whole.cp.sum_log_weights
        return Eliminated(state, state.S / sigma**2, float(log_det), sigma)

    def evaluate(
        self, theta: Theta, prior: CoefficientPrior, ml: bool = False, gradient: bool = True
    ) -> Evaluation:
        """See :meth:`System.evaluate`."""
        if ml:
            return self._evaluate_ml(theta, prior, gradient)
        sigma = float(np.exp(theta.eta[0]))
        F = np.ascontiguousarray(theta.F, dtype=float)
        found = log_marginal_flat(MarginalModel(self.whole, prior), F, sigma, gradient)
        value, d_Sigma, d_sigma2, slopes = found
        d_eta = np.array([2.0 * sigma**2 * d_sigma2])
        return Evaluation(value, d_Sigma, d_eta, np.zeros(0), slopes)

    def value_and_draw(self, theta: Theta, prior: CoefficientPrior, normals: np.ndarray):
        """See :meth:`System.value_and_draw`."""
        sigma = float(np.exp(theta.eta[0]))
        return log_marginal_and_draw(MarginalModel(self.whole, prior), theta.F, sigma, normals)

    def starts(self, shares: Sequence[float]) -> list[Theta]:
        """Where the random effects make up these shares of the response's variance, equally."""
        cp = self.whole.cp
        spread = cp.gram_unweighted[-2, -2] - cp.gram_unweighted[-1, -2] ** 2 / cp.n
        spread = np.sqrt(max(spread, 1e-300) / max(cp.n - 1, 1))
        sizes = [np.sqrt(np.diag(f.zz_unweighted) / cp.n) for f in cp.factors]
        count = sum(len(size) for size in sizes)
        weight = np.exp(cp.sum_log_weights / max(cp.n, 1))
        found = []
        for share in shares:
            part = spread * np.sqrt(share / max(count, 1))
            Ls = [np.diag(part / np.where(size > 0, size, 1.0)).ravel() for size in sizes]
            eta = np.log(spread * np.sqrt((1 - share) * weight))
            found.append(Theta(np.concatenate([np.zeros(0), *Ls]), np.array([eta]), np.zeros(0)))
        return found

    def _evaluate_ml(self, theta: Theta, prior: CoefficientPrior, gradient: bool) -> Evaluation:
        at = self.eliminated_at(theta)
        value, beta, _, B, _ = statistics(at.S, at.log_det, self.n, prior, True)
        if not gradient or not np.isfinite(value):
            return Evaluation(value, np.full(len(theta.F), np.nan), np.full(1, np.nan), np.zeros(0))
        T, Q = at.state.derivative_sums(B @ B.T)
        gap = np.append(-beta, 1.0)
        half = 0.5 * (gap @ at.S @ gap - self.n)
        F = np.ascontiguousarray(theta.F, dtype=float)
        d_Sigma, d_sigma2 = marginal_gradient(self.layout, T, Q, F, at.sigma**2, half)
        return Evaluation(value, d_Sigma, np.array([2.0 * at.sigma**2 * d_sigma2]), np.zeros(0))

    def draw(self, F, eta, c, prior: FixedPrior | CoefficientPrior, normals: np.ndarray):
        """See :meth:`System.draw`."""
        model = MarginalModel(self.whole, self.prior(prior))
        return draw_conditional_many(model, self.split(F), np.exp(eta[:, 0]), normals)

    def with_response(self, y: np.ndarray, X: np.ndarray) -> SharedSystem:
        """See :meth:`System.with_response`."""
        return self._renewed(y, X, self.factors, self.weights)

    def with_rows(self, keep: np.ndarray, y: np.ndarray, X: np.ndarray) -> SharedSystem:
        """See :meth:`System.with_rows`."""
        factors = tuple(factor.take(keep) for factor in self.factors)
        weights = None if self.weights is None else self.weights[keep]
        return self._renewed(y[keep], X[keep], factors, weights)

    def with_effects(self, matrices: Sequence[np.ndarray | None]) -> SharedSystem:
        """See :meth:`System.with_effects`."""
        factors = tuple(f.mapped(K) for f, K in zip(self.factors, matrices, strict=True))
        return replace(self, whole=self.whole.with_effects(matrices), factors=factors)

    def _renewed(self, y, X, factors, weights) -> SharedSystem:
        if self.X is None:
            raise ValueError("the rows of the data are not in memory")
        cp = CrossProducts.from_rows(y, X, factors, weights)
        return SharedSystem(self.whole.renewed(cp), y, X, factors, weights)


def as_system(problem: Problem | System) -> System:
    """A system of cross-products alone, which evaluates, solves and draws as one with its rows."""
    return problem if isinstance(problem, System) else SharedSystem(problem, None, None, ())
