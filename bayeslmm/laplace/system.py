"""A mixed model of a response that is not Gaussian, by Laplace's approximation around its mode.

y_i ~ family(g^-1(eta_i), phi), eta = X beta + Z b + offset, b_kj ~ N(0, Sigma_k). Given beta, phi
and the covariances, the mode of b is found by penalized iteratively reweighted least squares
(Bates et al. 2015, J. Stat. Softw. 67(1), and their glmer; Pinheiro & Chao 2006, J. Comput. Graph.
Stat. 15(1)): each step is a Gaussian mixed model with the weights W = -l'' and the response
eta + l'/W, whose cross-products are eliminated by the Gaussian core. With b at its mode

    log p(y | beta, phi, Sigma) ~ sum_i l_i - b'Sigma^-1 b / 2 - log|I + Lambda'Z'W Z Lambda| / 2,

where W is the observed information, so that this is Laplace's approximation whatever the link
(Tierney & Kadane 1986, JASA 81(393)).

Derivatives. b and W move with the parameters. With h_i = z_i'Q z_i, Q = (Z'WZ + Sigma^-1)^-1, and
G_i = h_i l'''_i / 2, the derivative of the log-determinant in eta_i, the implicit function theorem
gives, for U = Z'l' and a = Z'V^-1 W^-1 G, V = W^-1 + Z Sigma Z',

    d/dSigma_k = sum_j [U_j U_j' - T_j + a_j U_j' + U_j a_j'] / 2,
    d/dbeta    = X'(l' + G - W Z q),   q = Q Z'G,
    d/dphi     = sum_i [dl_i + (z_i'q) dl'_i + h_i dl''_i / 2],

where T_j are the diagonal blocks of Z'V^-1 Z. U and a are what the Gaussian core gives for the
responses eta + l'/W and G/W, and none of it divides by a covariance that may be singular.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from bayeslmm.gaussian.crossproducts import CrossProducts
from bayeslmm.gaussian.factor import Elimination, eliminate
from bayeslmm.gaussian.leverage import effect_variance
from bayeslmm.gaussian.problem import Problem, prepare
from bayeslmm.gaussian.rows import FactorRows
from bayeslmm.gaussian.symbolic import in_order
from bayeslmm.laplace.products import EffectProducts
from bayeslmm.laplace.without_effects import fit_without_effects
from bayeslmm.parts.families import Family, slope_rows
from bayeslmm.parts.patterns import CovariancePattern, split_factors

__all__ = ["LaplaceEvaluation", "Mode", "ResponseSystem"]

#: Newton steps on b, halvings of one, and the gain in log density at which they have converged:
#: convergence is quadratic, so that the next step would gain less than rounding.
_STEPS, _HALVINGS, _GAIN = 100, 30, 1e-18
#: Smallest curvature of a row, relative to the largest: divided by, and multiplied again.
_FLAT = 1e-14


class LaplaceEvaluation(NamedTuple):
    """Laplace's approximation of a log-likelihood, and its derivatives.

    Attributes
    ----------
    value : float
        nan where it cannot be evaluated.
    d_Sigma : (sum q_k^2,) array
        Flat symmetric derivatives, as in :class:`bayeslmm.gaussian.system.Evaluation`.
    d_phi : (n_phi,) array
    d_beta : (p,) array
    """

    value: float
    d_Sigma: np.ndarray
    d_phi: np.ndarray
    d_beta: np.ndarray


class Mode(NamedTuple):
    """The most probable effects at given parameters.

    Attributes
    ----------
    eta : (n,) array
        Linear predictor.
    b, U : (N,) arrays
        Effects, and Sigma^-1 b = Z'l', in elimination order.
    slopes : (4, n) array
        Weighted log densities of the rows, less their constants, and three derivatives in eta.
    state : Elimination
        With the weights -l''.
    """

    eta: np.ndarray
    b: np.ndarray
    U: np.ndarray
    slopes: np.ndarray
    state: Elimination

    @property
    def log_joint(self) -> float:
        """log p(y, b), up to the normalizing constant of b and what depends on y alone."""
        return float(self.slopes[0].sum() - 0.5 * self.b @ self.U)


@dataclass(frozen=True)
class ResponseSystem:
    """Rows of a mixed model whose response is not Gaussian, ready to be evaluated.

    Attributes
    ----------
    y, trials, weights, offset : (n,) arrays
        Weights multiply log densities.
    X : (n, p) array
    factors : tuple of FactorRows
    family : Family
    patterns : tuple of CovariancePattern
    """

    y: np.ndarray
    trials: np.ndarray
    weights: np.ndarray
    offset: np.ndarray
    X: np.ndarray
    factors: tuple[FactorRows, ...]
    family: Family
    patterns: tuple[CovariancePattern, ...]

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.y)

    @property
    def p(self) -> int:
        """Coefficients."""
        return self.X.shape[1]

    @cached_property
    def template(self) -> Problem:
        """The Gaussian model of the effects alone with unit weights: positions and analysis."""
        return prepare(CrossProducts.of_effects(self.factors, np.ones(self.n)), self.patterns)

    @property
    def layout(self):
        """Positions in elimination order."""
        return self.template.layout

    @property
    def effect_shapes(self) -> list[tuple[int, int]]:
        """Levels and effects of each grouping factor."""
        return [(f.n_levels, f.q) for f in self.factors]

    def with_response(self, y: np.ndarray) -> ResponseSystem:
        """The same rows with another response."""
        return self._renewed(y=np.array(y, dtype=float))

    def with_coefficient_held(self, at: int, value: float) -> ResponseSystem:
        """The same rows without a column of X, its coefficient at a value."""
        X = np.ascontiguousarray(np.delete(self.X, at, axis=1))
        return self._renewed(offset=self.offset + value * self.X[:, at], X=X)

    def with_offset(self, offset: np.ndarray) -> ResponseSystem:
        """The same rows with another offset."""
        return self._renewed(offset=offset)

    def _renewed(self, **changes: Any) -> ResponseSystem:
        """With other numbers beside the same effects."""
        twin = replace(self, **changes)
        for name in ("template", "products"):
            if name in self.__dict__:
                twin.__dict__[name] = self.__dict__[name]
        return twin

    def with_effects(self, matrices: Sequence[np.ndarray | None]) -> ResponseSystem:
        """The same rows with the columns Z_k K_k in place of Z_k; None leaves a factor as it is."""
        if all(K is None for K in matrices):
            return self
        return replace(
            self, factors=tuple(f.mapped(K) for f, K in zip(self.factors, matrices, strict=True))
        )

    @cached_property
    def products(self) -> EffectProducts:
        """The Gaussian model of the effects at any weights."""
        return EffectProducts(self.template, self.factors)

    def split(self, F: np.ndarray) -> list[np.ndarray]:
        """(..., q_k, q_k) factors from flat ones (..., sum q_k^2)."""
        return split_factors(F, self.patterns)

    def slopes(self, eta: np.ndarray, phi: np.ndarray) -> np.ndarray:
        """Weighted log densities of the rows and three derivatives in eta, (4, n)."""
        out = np.empty((self.n, 4))
        with np.errstate(all="ignore"):
            slope_rows(self.family.code, self.y, self.trials, self.weights, eta, phi, out)
        found = np.ascontiguousarray(out.T)
        found[0] += self._constant
        return found

    def phi_slopes(self, eta: np.ndarray, phi: np.ndarray) -> np.ndarray:
        """Weighted derivatives in phi of log densities and their slopes, (n_phi, 3, n)."""
        return self.weights * self.family.phi_slopes(self.y, eta, phi, self.trials)

    @cached_property
    def _constant(self) -> np.ndarray:
        """Weighted part of the log densities that depends on the response alone."""
        return self.weights * self.family.constant(self.y, self.trials)

    @property
    def constant(self) -> float:
        """That part of all rows."""
        return float(self._constant.sum())

    def predictor(self, fixed: np.ndarray, b: np.ndarray) -> np.ndarray:
        """X beta + offset (n,) and the effects' part, b (N,) in elimination order."""
        return fixed + self.effects_part(b)

    def effects_part(self, b: np.ndarray) -> np.ndarray:
        """Z b of b (N,) in elimination order."""
        out = np.zeros(self.n)
        for f, own in zip(self.factors, self.template.effects(b), strict=True):
            out += np.einsum("ia,ia->i", f.Z, own[f.codes])
        return out

    def transposed_levels(self, values: np.ndarray) -> list[np.ndarray]:
        """Z_k' values (J_k, q_k) of each factor."""
        return [
            np.stack(
                [np.bincount(f.codes, values * f.Z[:, a], f.n_levels) for a in range(f.q)], axis=1
            )
            for f in self.factors
        ]

    def transposed(self, values: np.ndarray) -> np.ndarray:
        """Z' values (N,) in elimination order."""
        return in_order(self.template.symbolic, self.transposed_levels(values))

    @np.errstate(all="ignore")  # points far off on the way
    def mode(
        self, F: np.ndarray, phi: np.ndarray, beta: np.ndarray, start: np.ndarray | None = None
    ) -> Mode | None:
        """The most probable effects; None where the density is not finite, or has no mode.

        Parameters
        ----------
        F : (sum q_k^2,) array
            Flat lower triangular factors, Sigma_k = F_k F_k'.
        phi : (n_phi,) array
        beta : (p,) array
        start : (2, N) array, optional
            b and U of a mode near by.
        """
        fixed = self.offset + self.X @ beta
        N = self.template.symbolic.n_columns
        nothing = np.zeros(N), np.zeros(N)
        if start is not None and np.any(start[1]):
            # a start is one of this covariance only where U is Sigma^-1 b
            at = self._climb(fixed, F, phi, self._effects_of(F, start[1]), start[1])
            if at is not None:
                return at
        return self._climb(fixed, F, phi, *nothing)

    def _climb(self, fixed, F, phi, b: np.ndarray, U: np.ndarray) -> Mode | None:
        """The mode by Newton's steps from b and U = Sigma^-1 b; None where they cannot start."""
        eta = self.predictor(fixed, b)
        found = self.slopes(eta, phi)
        value = found[0].sum() - 0.5 * b @ U
        if not np.isfinite(value):
            return None
        # large counts: terms that cancel in the value have rounding errors of their size
        size = float(np.abs(self._constant).sum())
        for _ in range(_STEPS):
            state = self._factored(eta, found, phi, F, b)
            if state is None:
                return None
            new_b, new_U = state.b[:, 0], state.U[:, 0]
            step_b, step_U = new_b - b, new_U - U
            # gain of a full step by the quadratic model: half the Newton decrement squared
            score = self.transposed(found[1]) - U
            gain = 0.5 * float(step_b @ score)
            if gain <= _GAIN * (1.0 + abs(value) * 1e-6):
                return Mode(eta, b, U, found, state)
            share, step_eta = 1.0, self.effects_part(step_b)
            for _ in range(_HALVINGS):
                trial_b, trial_U = b + share * step_b, U + share * step_U
                trial_eta = eta + share * step_eta
                trial = self.slopes(trial_eta, phi)
                reached = trial[0].sum() - 0.5 * trial_b @ trial_U
                if reached >= value - 1e-12 * (abs(value) + size):
                    break
                share *= 0.5
            else:
                break
            b, U, eta, found, value = trial_b, trial_U, trial_eta, trial, reached
        return None

    @cached_property
    def no_effects(self) -> tuple[np.ndarray, np.ndarray]:
        """phi and beta of the model without random effects, about as likely as they get."""
        return fit_without_effects(self)

    def _effects_of(self, F: np.ndarray, U: np.ndarray) -> np.ndarray:
        """b = Sigma U."""
        parts = []
        for L, own in zip(self.template.split(F), self.template.per_level(U), strict=True):
            parts.append(own @ (L @ L.T))
        return in_order(self.template.symbolic, parts)

    def _factored(self, eta, slopes, phi, F, b) -> Elimination | None:
        """The Gaussian model of the working response, solved for the effects."""
        right = self.transposed(slopes[1])
        w = -slopes[2]
        floor = _FLAT * max(float(np.abs(w).max(initial=0.0)), 1e-300)
        state = self._solved(np.where(np.abs(w) < floor, floor, w), right, b, F)
        if state is None and not self.family.log_concave:
            w = self.family.step_weight(self.y, eta, phi, self.trials)
            w = self.weights * np.abs(w)
            state = self._solved(np.maximum(w, floor), right, b, F)
        return state

    def _solved(self, w, right, b, F) -> Elimination | None:
        """M^-1 of Z'W(Z b + l'/W), whose solution is the next b."""
        right = right + self.transposed(w * self.effects_part(b))
        state = _eliminated(self.products.at(w), right, F)
        return state if np.isfinite(state.log_det) else None

    def solve(self, at: Mode, right: np.ndarray) -> np.ndarray:
        """Q right of (N, k) right sides, Q = (Z'WZ + Sigma^-1)^-1 at a mode."""
        return _eliminated(at.state.problem, right, at.state.F).b

    def evaluate(
        self,
        F: np.ndarray,
        phi: np.ndarray,
        beta: np.ndarray,
        *,
        gradient: bool = True,
        start: np.ndarray | None = None,
    ) -> tuple[LaplaceEvaluation, Mode | None]:
        """Laplace's approximation at parameters, and the mode it is made around.

        Parameters
        ----------
        F, phi, beta, start
            As in :meth:`mode`.
        gradient : bool
            Whether derivatives are wanted; nan without.
        """
        nothing = [np.full(len(v), np.nan) for v in (F, phi, beta)]
        at = self.mode(F, phi, beta, start)
        if at is None:
            return LaplaceEvaluation(np.nan, *nothing), at
        value = at.log_joint - 0.5 * at.state.log_det
        if not gradient:
            return LaplaceEvaluation(value, *nothing), at
        return LaplaceEvaluation(value, *self._derivatives(at, F, phi)), at

    def _derivatives(self, at: Mode, F: np.ndarray, phi: np.ndarray):
        """In Sigma, phi and beta; see the module's docstring."""
        if not self.factors:
            d_phi = self.phi_slopes(at.eta, phi)[:, 0].sum(axis=1) if len(phi) else np.zeros(0)
            return np.zeros(0), d_phi, self.X.T @ at.slopes[1]
        h = effect_variance(at.state.problem, at.state, self.factors)
        G = 0.5 * h * at.slopes[3]
        other = _eliminated(at.state.problem, self.transposed(G), F)
        q, a = other.b[:, 0], other.U[:, 0]
        moved = self.effects_part(q)
        pair = replace(at.state, rhs=np.zeros((len(a), 2)))
        pair.__dict__["_effects"] = np.zeros((len(a), 2)), np.stack([at.U, a], axis=1)
        T, Q = pair.derivative_sums(np.array([[1.0, 1.0], [1.0, 0.0]]))
        d_beta = self.X.T @ (at.slopes[1] + G + at.slopes[2] * moved)
        d_phi = np.zeros(0)
        if len(phi):
            d = self.phi_slopes(at.eta, phi)
            d_phi = (d[:, 0] + moved * d[:, 1] + 0.5 * h * d[:, 2]).sum(axis=1)
        return 0.5 * (Q - T), d_phi, d_beta


def _eliminated(problem: Problem, right: np.ndarray, F: np.ndarray) -> Elimination:
    right = np.ascontiguousarray(right if right.ndim == 2 else right[:, None])
    k = right.shape[1]
    values = problem.values._replace(rhs=right, gram=np.zeros((k, k)), levels=np.empty((0, 0)))
    return eliminate(replace(problem, values=values), F)
