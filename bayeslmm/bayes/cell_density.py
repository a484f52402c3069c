"""The marginal posterior density where residuals are independent with a variance per cell.

As :mod:`bayeslmm.bayes.residual_density`, from the cells' cross-products: no evaluation sees the
rows, and random effects may be crossed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bayeslmm.bayes.residual_density import ResidualDensity
from bayeslmm.compiling import kernel
from bayeslmm.gaussian import MarginalModel, with_prior
from bayeslmm.gaussian.cells._kernel import evaluate_head
from bayeslmm.gaussian.cells.problem import CellProblem
from bayeslmm.gaussian.system import Theta
from bayeslmm.parts.correlations import (
    factors_from_correlations,
    log_lkj,
    pullback_from_covariances,
)
from bayeslmm.parts.scales import scale_terms

__all__ = ["CellDensity"]

#: Up to this many numbers in the cross-products an evaluation is cheap.
_FEW_NUMBERS = 20_000


@kernel
def _prior_part(x, cor, sc, n_log, exponent, constant):
    """Log priors with Jacobians and their gradient, scalars, slopes, flat factors and eta."""
    m, k = cor.diagonal.shape[0], sc.code.shape[0]
    value, d_scalars, scalar, slope = scale_terms(sc, x[:k])
    log_corr, d_corr = log_lkj(x[k:], exponent, constant)
    gradient = np.empty(x.shape[0])
    gradient[:k] = d_scalars
    gradient[k:] = d_corr
    eta = scalar[m:].copy()
    eta[:n_log] = np.log(eta[:n_log])
    F = factors_from_correlations(cor, scalar[:m], x[k:])
    return value + log_corr, gradient, scalar, slope, F, eta


@kernel
def _add_likelihood_gradient(gradient, x, cor, n_log, q, start, scalar, slope, F, D, d_eta):
    """Chain rule from dl/dSigma_k (flat) and dl/deta, added to ``gradient`` in place."""
    m, k = cor.diagonal.shape[0], scalar.shape[0]
    d_sd, d_u = pullback_from_covariances(cor, q, start, scalar[:m], slope[:m], x[k:], F, D)
    gradient[:m] += d_sd
    for i in range(d_eta.shape[0]):
        chain = slope[m + i] / scalar[m + i] if i < n_log else slope[m + i]
        gradient[m + i] += d_eta[i] * chain
    gradient[k:] += d_u


@kernel
def density_cells(x, prior, likelihood, want_gradient):
    """Log density and gradient in one compiled call; without a dense tail.

    ``prior`` and ``likelihood`` are those of :meth:`CellDensity.kernel`.
    """
    cor, sc, n_log, exponent, constant = prior
    cells, lay, root, target, log_det = likelihood
    value, gradient, scalar, slope, F, eta = _prior_part(x, cor, sc, n_log, exponent, constant)
    if not (np.isfinite(value) and np.all(np.isfinite(F)) and np.all(np.isfinite(eta))):
        return np.nan, np.full(x.shape[0], np.nan)
    log_y, D, d_eta = evaluate_head(cells, lay, F, eta, root, target, log_det, False, want_gradient)
    if not np.isfinite(log_y):
        return np.nan, np.full(x.shape[0], np.nan)
    if want_gradient:
        _add_likelihood_gradient(
            gradient, x, cor, n_log, lay.factor_q, lay.f_ptr, scalar, slope, F, D, d_eta
        )
    return value + log_y, gradient


@kernel
def densities_cells(X, prior, likelihood):
    """Log density at each row of X."""
    out = np.empty(X.shape[0])
    for i in range(X.shape[0]):
        out[i] = density_cells(X[i], prior, likelihood, False)[0]
    return out


@dataclass(frozen=True)
class CellDensity(ResidualDensity):
    """Log posterior density of the covariance parameters in unconstrained coordinates.

    Attributes
    ----------
    problem : CellProblem
    """

    problem: CellProblem

    @property
    def is_cheap(self) -> bool:
        """Whether an evaluation takes a millisecond or less."""
        products = self.problem.products
        return len(products.index) + products.starts[-1] <= _FEW_NUMBERS

    @property
    def draws_with_value(self) -> bool:
        """Whether a value and a draw are best made from one factorization (a dense tail)."""
        return not self.problem.whole.head_only

    @cached_property
    def model(self) -> MarginalModel:
        """The problem with the prior of the coefficients."""
        return with_prior(self.problem, self.prior)

    def value_and_draw(self, x: np.ndarray, normals: np.ndarray):
        """Log density and an exact draw of (beta, b) given x, as computed with."""
        x = np.ascontiguousarray(x, dtype=float)
        value, _, _, _, F, eta = _prior_part(x, *self._prior_arguments)
        log_y, *drawn = self.problem.value_and_draw(Theta(F, eta, np.zeros(0)), self._root, normals)
        return value + log_y, *drawn

    @property
    def _prior_arguments(self) -> tuple:
        return self.correlations, self.scales, self.n_log, self.exponent, self.constant

    @property
    def compiled(self) -> str | None:
        """Module with the C function, see :mod:`bayeslmm.bayes.compiled`; not with a dense tail."""
        return "bayeslmm.bayes.compiled_cells" if self.problem.whole.head_only else None

    def kernel(self) -> tuple:
        """What :func:`density_cells` takes after x, but for the last argument."""
        return self._prior_arguments, (self.problem.products, self.problem.layout, *self._root)

    def values(self, X: np.ndarray) -> np.ndarray:
        """Log density at each row of X."""
        if not self.problem.whole.head_only:
            return np.array([self.value(x) for x in X])
        return densities_cells(np.ascontiguousarray(X, dtype=float), *self.kernel())

    def _evaluate(self, x: np.ndarray, want_gradient: bool):
        if self.problem.whole.head_only:
            return density_cells(x, *self.kernel(), want_gradient)
        value, gradient, scalar, slope, F, eta = _prior_part(x, *self._prior_arguments)
        if not (np.isfinite(value) and np.all(np.isfinite(F)) and np.all(np.isfinite(eta))):
            return np.nan, np.full(len(x), np.nan)
        theta = Theta(F, eta, np.zeros(0))
        log_y, D, d_eta, _ = self.problem.evaluate(theta, self._root, False, want_gradient)
        if not np.isfinite(log_y):
            return np.nan, np.full(len(x), np.nan)
        if want_gradient:
            lay = self.problem.layout
            _add_likelihood_gradient(
                gradient, x, self.correlations, self.n_log, lay.factor_q, lay.f_ptr, scalar,
                slope, F, D, d_eta,
            )  # fmt: skip
        return value + log_y, gradient

    def computed(self, X: np.ndarray):
        """sds (n, m), flat factors (n, f), eta (n, s) and c (n, 0) at rows of X."""
        m = self.correlations.n_effects
        rows = [
            _prior_part(np.ascontiguousarray(x, dtype=float), *self._prior_arguments)
            for x in np.atleast_2d(X)
        ]
        return (
            np.array([row[2][:m] for row in rows]),
            np.array([row[4] for row in rows]),
            np.array([row[5] for row in rows]),
            np.zeros((len(rows), 0)),
        )
