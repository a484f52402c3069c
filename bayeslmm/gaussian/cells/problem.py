"""Independent residuals with a variance per cell of rows, from cross-products cell by cell.

At residual standard deviations s_c the model is the ordinary one with weights 1 / s_c^2, and its
cross-products are sum_c s_c^-2 (those of cell c).  The same symbolic analysis serves all, so an
evaluation adds up once, eliminates once, and does not see the rows.  With w_c = s_c^-2 and
E_c = E[|y_c - X_c beta - Z_c b|^2] under the conditional distribution of (b, beta) given y (of b
given y and beta^ where beta is estimated by maximum likelihood),

    dl / dlog w_c = n_c / 2 - w_c E_c / 2,
    E_c = rss_c + tr(Cov(b, beta | y) [Z_c X_c]'[Z_c X_c]),

by Fisher's identity; the covariance is only needed where two columns meet in the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from bayeslmm.gaussian import _criteria
from bayeslmm.gaussian._coefficients import CoefficientPrior, draw_coefficients, statistics
from bayeslmm.gaussian.cells import _kernel as _cells
from bayeslmm.gaussian.cells._kernel import CellProducts
from bayeslmm.gaussian.coordinates import working_products
from bayeslmm.gaussian.crossproducts import CrossProducts
from bayeslmm.gaussian.factor import Elimination, eliminate
from bayeslmm.gaussian.marginal import FixedPrior, draws_to_user
from bayeslmm.gaussian.problem import Problem, Values, prepare
from bayeslmm.gaussian.rows import FactorRows
from bayeslmm.gaussian.shared import CrossProductSystem, Eliminated
from bayeslmm.gaussian.symbolic import Symbolic
from bayeslmm.gaussian.system import Evaluation, Theta
from bayeslmm.parts.patterns import CovariancePattern
from bayeslmm.parts.structures import Structure

__all__ = ["CellProblem", "CellProducts", "TooManyCellsError", "cell_codes", "prepare_cells"]

#: Most numbers in the cross-products of all cells, 16 bytes each.
MOST_ENTRIES = 250_000_000


#: Up to this many numbers in the cross-products an evaluation is cheap.
_FEW_NUMBERS = 20_000


class TooManyCellsError(ValueError):
    """The cross-products of all cells would not fit into memory."""


@dataclass(frozen=True)
class CellProblem(CrossProductSystem):
    """Cross-products of cells, ready to be evaluated at many covariance parameters.

    Attributes
    ----------
    whole : Problem
        Of all rows with one variance: analysis and positions.
    products : CellProducts
    cell : (n,) int array
        Cell of each row.
    R : (n, p + 1) array
        [X y] in the coordinates computed with.
    """

    whole: Problem
    products: CellProducts
    cell: np.ndarray
    R: np.ndarray
    factors: tuple[FactorRows, ...]
    structure: Structure
    rest: np.ndarray
    scale: np.ndarray
    weights: np.ndarray | None

    engine = "cells"

    @property
    def cheap(self) -> bool:
        """See :attr:`System.cheap`."""
        return len(self.products.index) + self.products.starts[-1] <= _FEW_NUMBERS

    def kernel_arguments(self, prior: CoefficientPrior) -> tuple | None:
        """See :meth:`System.kernel_arguments`; None with a dense tail."""
        if not self.whole.head_only:
            return None
        return _cells.CellArguments(self.products, self.layout, prior)

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.cell)

    @property
    def p(self) -> int:
        """Coefficients."""
        return self.R.shape[1] - 1

    @property
    def symbolic(self) -> Symbolic:
        """Elimination order."""
        return self.whole.symbolic

    @property
    def roots(self) -> tuple:
        """None for every factor: effects are computed as they are."""
        return self.whole.roots

    @property
    def contrasts(self) -> np.ndarray:
        """(cells, s): log standard deviations of the cells are contrasts @ eta."""
        return self.products.contrasts

    def on_scale(self, values: np.ndarray) -> np.ndarray:
        if self._one_each:
            totals = np.bincount(self.cell, values, minlength=len(self.contrasts))
            return totals / np.maximum(self.products.counts, 1.0)
        return super().on_scale(values)

    @cached_property
    def _one_each(self) -> bool:
        C = self.contrasts
        return C.shape[0] == C.shape[1] and np.array_equal(C, np.eye(len(C)))

    def row_variances(self, eta: np.ndarray) -> np.ndarray:
        variance = np.exp(2.0 * (eta @ self.contrasts.T))[..., self.cell]
        return variance if self.weights is None else variance / self.weights

    def cell_weights(self, eta: np.ndarray) -> np.ndarray:
        """w_c = s_c^-2."""
        return _cells.cell_weights(self.contrasts, np.ascontiguousarray(eta, dtype=float))[0]

    def _combined(self, w: np.ndarray) -> Values:
        return _cells.combined(self.products, self.layout, self.p + 1, w)

    def eliminated(self, F: np.ndarray, w: np.ndarray) -> tuple[Elimination, float]:
        """The elimination at absolute factors (sigma = 1) and weights, and log|V|."""
        problem = replace(self.whole, values=self._combined(w))
        state = eliminate(problem, np.ascontiguousarray(F, dtype=float))
        log_det_R = float(-self.products.counts @ np.log(w)) - self.products.sum_log_weights
        return state, state.log_det + log_det_R

    def eliminated_at(self, theta: Theta) -> Eliminated:
        """See :meth:`CrossProductSystem.eliminated_at`; weights are absolute."""
        state, log_det = self.eliminated(theta.F, self.cell_weights(theta.eta))
        return Eliminated(state, state.S, log_det, 1.0)

    def evaluate(
        self, theta: Theta, prior: CoefficientPrior, ml: bool = False, gradient: bool = True
    ) -> Evaluation:
        F = np.ascontiguousarray(theta.F, dtype=float)
        eta = np.ascontiguousarray(theta.eta, dtype=float)
        if self.whole.head_only:
            found = _cells.evaluate_head(self.products, self.layout, F, eta, prior, ml, gradient)
        else:
            found = self._evaluate_tail(F, eta, prior, ml, gradient)
        value, d_Sigma, d_eta, slopes = found
        return Evaluation(value, d_Sigma, d_eta, np.zeros(0), slopes)

    def _evaluate_tail(self, F, eta, prior, ml, gradient):
        none = np.full(len(F), np.nan), np.full(len(eta), np.nan), np.empty(0)
        w = self.cell_weights(eta)
        if not (np.all(np.isfinite(F)) and np.all(np.isfinite(w)) and np.all(w > 0)):
            return np.nan, *none
        state, log_det = self.eliminated(F, w)
        value, _, _, B, slopes = statistics(state.S, log_det, self.n, prior, ml)
        if not gradient or not np.isfinite(value):
            return value, *none
        omega = B @ B.T
        T, Q = state.derivative_sums(omega)
        moments = _cells.second_moments(
            self.layout, state.b, omega, *state._head_inverse, state.tail_covariance
        )
        d_eta = _cells.slope_in_eta(self.products, w, moments)
        return value, 0.5 * (Q - T), d_eta, slopes

    def draw(self, F, eta, c, prior: FixedPrior | CoefficientPrior, normals: np.ndarray):
        given = self.prior(prior)
        m, one = len(normals), np.ones(1)
        fixed = np.empty((m, self.p))
        effects = np.empty((m, self.whole.symbolic.n_columns))
        F = np.ascontiguousarray(F, dtype=float)
        for d in range(m):
            w = self.cell_weights(eta[d])
            if self.whole.head_only:
                here = slice(d, d + 1)
                _criteria.draws_head(
                    self.layout, self._combined(w), F[here], one,
                    given, normals[here], fixed[here], effects[here],
                )  # fmt: skip
                continue
            fixed[d], effects[d] = self._drawn(self.eliminated(F[d], w)[0], given, normals[d])
        return draws_to_user(self.whole, fixed, effects)

    def _drawn(self, state: Elimination, prior: CoefficientPrior, normals: np.ndarray):
        """One draw of (fixed, effects), as computed with."""
        z = np.ascontiguousarray(normals[:, None])
        fixed = draw_coefficients(state.S, 1.0, prior, z[: self.p])
        return fixed[:, 0], state.draw_effects(fixed, 1.0, z[self.p :])[:, 0]

    def value_and_draw(self, theta: Theta, prior: CoefficientPrior, normals: np.ndarray):
        """See :meth:`System.value_and_draw`."""
        w = self.cell_weights(theta.eta)
        nothing = np.full(self.p, np.nan), np.full(self.symbolic.n_columns, np.nan)
        if not (np.all(np.isfinite(theta.F)) and np.all(np.isfinite(w)) and np.all(w > 0)):
            return np.nan, *nothing
        state, log_det = self.eliminated(theta.F, w)
        value = float(statistics(state.S, log_det, self.n, prior, False)[0])
        if not np.isfinite(value):
            return np.nan, *nothing
        return value, *self._drawn(state, prior, normals)

    def with_response(self, y: np.ndarray, X: np.ndarray) -> CellProblem:
        return self._rebuilt(y, X, self.factors, self.scale, self.weights)

    def with_rows(self, keep: np.ndarray, y: np.ndarray, X: np.ndarray) -> CellProblem:
        factors = [factor.take(keep) for factor in self.factors]
        weights = None if self.weights is None else self.weights[keep]
        return self._rebuilt(y[keep], X[keep], factors, self.scale[keep], weights)

    def with_effects(self, matrices: Sequence[np.ndarray | None]) -> CellProblem:
        factors = tuple(f.mapped(K) for f, K in zip(self.factors, matrices, strict=True))
        whole = self.whole.with_effects(matrices)
        cell, contrasts = cell_codes(self.scale)
        products = _cell_products(whole, self.R, factors, cell, contrasts, self.weights)
        return replace(self, whole=whole, products=products, factors=factors)

    def _rebuilt(self, y, X, factors, scale, weights) -> CellProblem:
        return prepare_cells(
            y, X, factors, self.patterns, self.structure, scale, weights,
            symbolic=self.whole.symbolic,
        )  # fmt: skip


def cell_codes(scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cell of each row, (n,), and the cells' rows of the scale matrix, (cells, s).

    One column per cell is taken as it is, cells without rows included; otherwise rows that are
    equal form a cell.
    """
    at = scale.argmax(axis=1)
    if np.count_nonzero(scale) == len(scale) and np.all(scale[np.arange(len(scale)), at] == 1.0):
        return at, np.eye(scale.shape[1])
    contrasts, cell = np.unique(scale, axis=0, return_inverse=True)
    return cell.ravel(), np.ascontiguousarray(contrasts, dtype=float)


def prepare_cells(
    y: np.ndarray,
    X: np.ndarray,
    factors: Sequence[FactorRows],
    patterns: Sequence[CovariancePattern],
    structure: Structure,
    scale: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    symbolic: Symbolic | None = None,
) -> CellProblem:
    """Reduce rows to the cross-products of their cells.

    Parameters
    ----------
    y : (n,) array
        Response, less its offset.
    X : (n, p) array
    factors, patterns
        Grouping factors and their covariance patterns.
    structure : Structure
        Of independent residuals.
    scale : (n, s) array
        log sd_i = scale_i eta; equal rows form a cell.
    weights : (n,) array, optional
        Positive; Var(eps_i) = sd_i^2 / w_i.
    symbolic : Symbolic, optional
        Analysis of data whose co-occurrences include these.

    Raises
    ------
    TooManyCellsError
        If there are more than :data:`MOST_ENTRIES` cross-products in all.
    """
    y, X = np.asarray(y, dtype=float), np.asarray(X, dtype=float)
    cp = CrossProducts.from_rows(y, X, factors, weights=weights)
    whole = prepare(cp, patterns, symbolic=symbolic)
    R = np.ascontiguousarray(working_products(cp)[0].shift.applied(y, X)[:, :-1])
    cell, contrasts = cell_codes(scale)
    rest = R[:, -1] - R[:, :-1] @ np.linalg.lstsq(R[:, :-1], R[:, -1], rcond=None)[0]
    products = _cell_products(whole, R, tuple(factors), cell, contrasts, weights)
    return CellProblem(whole, products, cell, R, tuple(factors), structure, rest, scale, weights)


def _cell_products(whole: Problem, R, factors, cell, contrasts, weights) -> CellProducts:
    n, n_cells, symbolic = len(R), len(contrasts), whole.symbolic
    nodes = np.zeros((n, len(factors)), dtype=np.int64)
    for k, f in enumerate(factors):
        nodes[:, k] = symbolic.position[symbolic.base[k] + f.codes]
    Z = np.concatenate([np.zeros((n, 0)), *(f.Z for f in factors)], axis=1)
    counts = np.bincount(cell, minlength=n_cells)
    arguments = (
        symbolic.layout, nodes, np.ascontiguousarray(Z),
        np.concatenate(([0], np.cumsum([f.q for f in factors]))).astype(np.int64),
        np.ascontiguousarray(R), np.ones(n) if weights is None else np.asarray(weights, float),
        np.argsort(cell, kind="stable"), np.concatenate(([0], np.cumsum(counts))),
    )  # fmt: skip
    ptr = _cells.count_entries(*arguments)
    if ptr[-1] > MOST_ENTRIES:
        raise TooManyCellsError(f"{n_cells} cells of rows with {ptr[-1]} cross-products in all")
    index, data = _cells.accumulate(*arguments, ptr)
    starts = _cells.section_starts(symbolic.layout, R.shape[1])
    sum_log = float(whole.cp.sum_log_weights)
    return CellProducts(ptr, index, data, starts, counts.astype(float), contrasts, sum_log)
