"""The likelihood with fixed and random effects integrated out, and exact draws of both.

y | theta ~ N(X m0, V + X S0 X') for beta ~ N(m0, S0), with
V = sigma^2 W^-1 + sum_k Z_k (I (x) Sigma_k) Z_k'.
Covariance matrices are absolute here: Sigma_k = L_k L_k'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from . import _criteria
from ._coefficients import CoefficientPrior, draw_coefficients, marginal_statistics
from .coordinates import Coordinates
from .factor import Elimination, eliminate
from .problem import Problem, Values
from .symbolic import Layout
from .threads import level_sums


@dataclass(frozen=True)
class Lifted:
    """beta = known + basis delta, of which a prior is about delta.

    Attributes
    ----------
    known, basis : (p,), (p, f) arrays
    pins : (p, k) array
        What ``known`` gains per unit of k numbers that are not integrated out.
    rows, origin : (k, p), (k,) arrays
        These numbers are rows beta - origin.
    n_shrunk : int
        Last columns of the basis, whose lengths are not integrated out.
    """

    known: np.ndarray
    basis: np.ndarray
    pins: np.ndarray
    rows: np.ndarray
    origin: np.ndarray
    n_shrunk: int

    def numbers(self, beta: np.ndarray) -> np.ndarray:
        """The numbers (..., k) that are not integrated out, at coefficients (..., p)."""
        return beta @ self.rows.T - self.origin

    def standardized(self, center: np.ndarray, unit: np.ndarray) -> Lifted:
        """With (number - center) / unit for each of the k numbers."""
        known, pins = self.known + self.pins @ center, self.pins * unit
        rows, origin = self.rows / unit[:, None], (self.origin + center) / unit
        return replace(self, known=known, pins=pins, rows=rows, origin=origin)


@dataclass(frozen=True)
class FixedPrior:
    """Normal prior on linear combinations of beta: root beta - target ~ N(0, I).

    The root, not the precision: a prior on the intercept at the predictors' means stays exact
    when the columns are shifted by a million.

    Attributes
    ----------
    root : (r, p) array
        r <= p; the p - r directions it leaves alone are flat.
    target : (r,) array
    log_det : float
        log|root'root| of the proper part; 0 for a flat prior.
    lifted : Lifted or None
        Where root and target are not about beta itself.
    """

    root: np.ndarray
    target: np.ndarray
    log_det: float
    lifted: Lifted | None = None

    @property
    def p(self) -> int:
        """Coefficients."""
        return self.root.shape[1] if self.lifted is None else len(self.lifted.known)

    @classmethod
    def flat(cls, p: int) -> FixedPrior:
        """Density 1 in every direction."""
        return cls(np.zeros((0, p)), np.zeros(0), 0.0)

    @classmethod
    def normal(cls, mean: np.ndarray, covariance: np.ndarray) -> FixedPrior:
        """beta ~ N(mean, covariance); an infinite variance makes that coefficient's prior flat.

        Raises
        ------
        ValueError
            If shapes disagree, the finite part is not positive definite, or a flat coefficient is
            correlated.
        """
        mean = np.atleast_1d(np.asarray(mean, dtype=float))
        covariance = np.asarray(covariance, dtype=float)
        p = len(mean)
        if covariance.shape != (p, p):
            raise ValueError(f"covariance has shape {covariance.shape}, expected {(p, p)}")
        proper = np.isfinite(np.diag(covariance))
        off = covariance.copy()
        np.fill_diagonal(off, 0.0)
        if np.any(off[~proper] != 0):
            raise ValueError("a coefficient of infinite prior variance cannot be correlated")
        block = covariance[np.ix_(proper, proper)]
        try:
            C = np.linalg.cholesky(block)
        except np.linalg.LinAlgError:
            raise ValueError("the prior covariance of beta is not positive definite") from None
        root = np.zeros((len(block), p))
        root[:, proper] = np.linalg.solve(C, np.eye(len(block)))
        target = root[:, proper] @ mean[proper]
        return cls(root, target, float(-2.0 * np.log(np.diag(C)).sum()))

    @classmethod
    def on_combinations(cls, A: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> FixedPrior:
        """A beta ~ N(mean, diag(sd^2)), A square; an infinite sd makes that combination flat.

        With A = [[1, xbar'], [0, I]] the first combination is the intercept at the means.

        Raises
        ------
        ValueError
            If A is singular or an sd not positive.
        """
        A, mean, sd = (np.asarray(v, dtype=float) for v in (A, mean, sd))
        sign, log_det_A = np.linalg.slogdet(A) if A.size else (1.0, 0.0)
        if sign == 0 or A.shape != (len(mean), len(mean)) or np.any(~(sd > 0)):
            raise ValueError("A must be square and regular, and every sd positive")
        proper = np.isfinite(sd)
        root = A[proper] / sd[proper, None]
        log_det = 2.0 * (log_det_A - np.log(sd[proper]).sum()) if proper.any() else 0.0
        return cls(root, mean[proper] / sd[proper], float(log_det))

    @classmethod
    def with_pins(
        cls,
        A: np.ndarray,
        mean: np.ndarray,
        sd: np.ndarray,
        pinned: np.ndarray,
        shrunk: np.ndarray,
    ) -> FixedPrior:
        """As :meth:`on_combinations`, where some combinations are known and some are scaled.

        Parameters
        ----------
        A : (p, p) array
        mean, sd : (p,) arrays
            sd of a shrunk combination is that at a scale of one, and its mean is zero.
        pinned, shrunk : (p,) bool arrays
            Combinations that are given numbers, zero here, and those with scales of their own, one
            here. The other ones are normal or flat.
        """
        columns = np.linalg.inv(A)
        rest = np.flatnonzero(~pinned & ~shrunk)
        proper = np.flatnonzero(np.isfinite(sd[rest]))
        n_shrunk, size = int(shrunk.sum()), len(rest) + int(shrunk.sum())
        root, own = np.zeros((len(proper) + n_shrunk, size)), sd[rest[proper]]
        root[np.arange(len(proper)), proper] = 1.0 / own
        root[len(proper) :, len(rest) :] = np.eye(n_shrunk)
        target = np.concatenate([mean[rest[proper]] / own, np.zeros(n_shrunk)])
        basis = np.column_stack([columns[:, rest], columns[:, shrunk] * sd[shrunk]])
        k = int(pinned.sum())
        lifted = Lifted(
            np.zeros(len(A)), basis, columns[:, pinned], A[pinned], np.zeros(k), n_shrunk
        )
        return cls(root, target, float(-2.0 * np.log(own).sum()), lifted)

    def at(self, numbers: np.ndarray, scales: np.ndarray) -> FixedPrior:
        """With the numbers (k,) that are not integrated out and the scales of what is shrunk."""
        if self.lifted is None:
            return self
        own, basis = self.lifted, self.lifted.basis.copy()
        basis[:, basis.shape[1] - own.n_shrunk :] *= scales
        known = own.known + own.pins @ numbers
        return replace(self, lifted=replace(own, known=known, basis=basis))

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """beta (p,) from a proper prior.

        Raises
        ------
        ValueError
            If a direction is flat.
        """
        if self.root.shape[0] < self.root.shape[1]:
            raise ValueError("a flat prior has no draws")
        noise = self.target + rng.standard_normal(len(self.target))
        delta = np.linalg.solve(self.root, noise)
        return delta if self.lifted is None else self.lifted.known + self.lifted.basis @ delta

    def computed(self, coordinates: Coordinates, lengths: np.ndarray) -> CoefficientPrior:
        """The same prior in the coordinates computed with.

        Parameters
        ----------
        coordinates : Coordinates
        lengths : (p,) array
            About those of the columns computed with.
        """
        p, none = self.p, np.zeros(0, dtype=np.int64)
        if self.lifted is None:
            root = np.ascontiguousarray(self.root @ coordinates.G_inverse)
            target = self.target + root @ coordinates.offset
            return CoefficientPrior(
                root, target, self.log_det, np.zeros(0), np.zeros((0, 0)), np.zeros((p, 0)), none
            )
        own, root, log_det = self.lifted, self.root.copy(), self.log_det
        basis = coordinates.G @ own.basis
        n_rest = basis.shape[1] - own.n_shrunk
        # columns computed with are hardly correlated, as combinations of them may be
        R = np.linalg.qr(np.where(lengths > 0, lengths, 1.0)[:, None] * basis[:, :n_rest], "r")
        size = np.abs(np.diag(R))
        if len(size) == n_rest and np.all(size > 0):
            inverse = np.linalg.inv(R)
            basis[:, :n_rest] = basis[:, :n_rest] @ inverse
            root[:, :n_rest] = root[:, :n_rest] @ inverse
            log_det -= 2.0 * float(np.log(size).sum())
        shrunk = np.arange(n_rest, basis.shape[1], dtype=np.int64)
        return CoefficientPrior(
            root, self.target, log_det, coordinates.from_user(own.known),
            np.ascontiguousarray(basis), np.ascontiguousarray(coordinates.G @ own.pins), shrunk,
        )  # fmt: skip


class MarginalArguments(NamedTuple):
    """What ``_criteria.marginal_head`` takes beside theta.

    Attributes
    ----------
    layout : Layout
    values : Values
    n : int
        Rows.
    sum_log_weights : float
    prior : CoefficientPrior
    """

    layout: Layout
    values: Values
    n: int
    sum_log_weights: float
    prior: CoefficientPrior


@dataclass(frozen=True)
class MarginalModel:
    """A prepared problem with a prior on beta.

    Attributes
    ----------
    problem : Problem
    prior : CoefficientPrior
        In the coordinates computed with.
    """

    problem: Problem
    prior: CoefficientPrior

    @property
    def n_normals(self) -> int:
        """Standard normals that one draw of (beta, b) takes."""
        return self.problem.p + self.problem.symbolic.n_columns

    def kernel_arguments(self) -> MarginalArguments:
        """Arrays and numbers for ``_criteria.marginal_head``."""
        cp = self.problem.cp
        return MarginalArguments(
            self.problem.layout,
            self.problem.values,
            int(cp.n),
            float(cp.sum_log_weights),
            self.prior,
        )


def with_prior(problem: Problem, prior: FixedPrior | None = None) -> MarginalModel:
    """Attach a prior on beta (flat by default).

    Raises
    ------
    ValueError
        If the prior has another number of coefficients.
    """
    prior = FixedPrior.flat(problem.p) if prior is None else prior
    if prior.p != problem.p or len(prior.root) > problem.p:
        raise ValueError(f"the prior has {prior.p} coefficients, X {problem.p}")
    return MarginalModel(problem, prior.computed(problem.coordinates, problem.lengths))


def log_marginal(model: MarginalModel, Ls: Sequence[np.ndarray], sigma: float) -> float:
    """log p(y | theta) with beta and b integrated out, fully normalized.

    With a flat prior this is log of the integral of p(y | beta) d beta, which is lme4's REML
    log-likelihood at these parameters.  nan where the factorization fails.

    Parameters
    ----------
    Ls : sequence of (q_k, q_k) arrays
        Lower triangular, Sigma_k = L_k L_k' (absolute); singular ones allowed.
    sigma : float
        Residual standard deviation.
    """
    return log_marginal_flat(model, model.problem.flat(Ls), sigma, gradient=False)[0]


def log_marginal_flat(
    model: MarginalModel, L: np.ndarray, sigma: float, gradient: bool = True
) -> tuple[float, np.ndarray, float, np.ndarray]:
    """log p(y | theta), its derivative in each Sigma_k and in sigma^2, on flat buffers; slopes.

    dl/dSigma_k = 1/2 sum_j [u u' + U P^-1 U' - T], symmetric (q_k, q_k), as derivative in the
    matrix entries (dl = <dl/dSigma, dSigma>); dl/dL = 2 dl/dSigma L.  sigma^2 follows from
    homogeneity of V.  A buffer holds the full (q_k, q_k) matrices one after the other, row by row;
    derivatives are not masked by the pattern.
    """
    problem, prior = model.problem, model.prior
    cp = problem.cp
    if problem.many_levels:
        F = L / sigma
        if _criteria.use_levels(problem.layout, problem.values, F, gradient):
            sums = level_sums(problem.values.levels, problem.patterns[0].q, cp.p + 1, F, gradient)
            return _criteria.marginal_levels(
                problem.layout, problem.values, sums, L, float(sigma), cp.n, cp.sum_log_weights,
                prior, gradient,
            )  # fmt: skip
    if problem.head_only:
        return _criteria.marginal_head(
            problem.layout, problem.values, L, float(sigma), cp.n, cp.sum_log_weights,
            prior, gradient,
        )  # fmt: skip
    state = eliminate(problem, L / sigma)
    at = _statistics(model, state, sigma)
    if not gradient:
        return at.value, np.empty(0), 0.0, at.slopes
    if not np.isfinite(at.value):
        return np.nan, np.full(len(L), np.nan), np.nan, at.slopes
    T, Q = state.derivative_sums(at.omega)
    D, d_sigma2 = _criteria.marginal_gradient(problem.layout, T, Q, L, sigma**2, at.half)
    return at.value, D, d_sigma2, at.slopes


def log_marginals(model: MarginalModel, L: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """:func:`log_marginal` at each of m values of theta, (m,).

    Parameters
    ----------
    L : (m, sum q_k^2) array
        Absolute factors, flat as in :func:`log_marginal_flat`.
    sigma : (m,) array
    """
    pairs = zip(L, sigma, strict=True)
    return np.array([log_marginal_flat(model, F, float(s), gradient=False)[0] for F, s in pairs])


def _statistics(model: MarginalModel, state: Elimination, sigma: float):
    cp = model.problem.cp
    return marginal_statistics(
        state.S, state.log_det, cp.n, cp.sum_log_weights, float(sigma) ** 2, model.prior
    )


@dataclass(frozen=True)
class ConditionalMoments:
    """Mean and covariance of beta, and means of b, given theta (beta integrated out).

    Attributes
    ----------
    beta : (p,) array
    vcov : (p, p) array
    b : list of (J_k, q_k) arrays
    """

    beta: np.ndarray
    vcov: np.ndarray
    b: list[np.ndarray]


def conditional_moments(
    model: MarginalModel, Ls: Sequence[np.ndarray], sigma: float
) -> ConditionalMoments:
    """E[beta], Cov[beta] and E[b] given theta and y."""
    problem = model.problem
    state = eliminate(problem, problem.flat(Ls) / sigma)
    at = _statistics(model, state, sigma)
    gamma, inverse = at.gamma, at.covariance
    coordinates = problem.coordinates
    return ConditionalMoments(
        coordinates.to_user(gamma),
        coordinates.covariance_to_user(inverse),
        problem.effects(state.b @ np.append(-gamma, 1.0)),
    )


def combination_moments(
    model: MarginalModel, L: np.ndarray, sigma: np.ndarray, C: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of C beta given theta, for each of m values of theta.

    Parameters
    ----------
    L : (m, sum q_k^2) array
        Absolute factors, flat as in :func:`log_marginal_flat`.
    sigma : (m,) array
    C : (k, p) array

    Returns
    -------
    mean : (m, k) array
    covariance : (m, k, k) array
        nan where the factorization fails.
    """
    problem, prior = model.problem, model.prior
    coordinates = problem.coordinates
    working = np.ascontiguousarray(np.atleast_2d(C) @ coordinates.G_inverse)
    L = np.ascontiguousarray(L, dtype=float)
    sigma = np.ascontiguousarray(sigma, dtype=float)
    if problem.head_only:
        mean, covariance = _criteria.moments_head(
            problem.layout, problem.values, L, sigma, prior, working
        )
    else:
        mean = np.empty((len(L), len(working)))
        covariance = np.empty((len(L), len(working), len(working)))
        for d in range(len(L)):
            state = eliminate(problem, L[d] / sigma[d])
            at = _statistics(model, state, sigma[d])
            mean[d] = working @ at.gamma
            covariance[d] = working @ at.covariance @ working.T
    return mean - working @ coordinates.offset, covariance


def effect_covariances(
    problem: Problem,
    Ls: Sequence[np.ndarray],
    sigma: float,
    prior: FixedPrior | None = None,
) -> list[np.ndarray]:
    """Covariance matrices of the effects of every level given y and theta.

    Parameters
    ----------
    Ls, sigma
        Absolute factors, residual sd.
    prior : FixedPrior, optional
        Without it beta is taken as known, as in lme4's ``condVar``: sigma^2 times the diagonal
        blocks of Lambda M^-1 Lambda'.  With it beta's posterior uncertainty is added.

    Returns
    -------
    list of (J_k, q_k, q_k) arrays
    """
    state = eliminate(problem, problem.flat(Ls) / sigma)
    blocks = [sigma**2 * block for block in state.effect_covariances()]
    if prior is None:
        return blocks
    inverse = _statistics(with_prior(problem, prior), state, sigma).covariance
    slopes = problem.effects(state.b[:, :-1])
    return [
        block + np.einsum("jap,pr,jbr->jab", B, inverse, B)
        for block, B in zip(blocks, slopes, strict=True)
    ]


def draw_conditional_many(
    model: MarginalModel,
    Ls: Sequence[np.ndarray],
    sigma: np.ndarray,
    normals: np.ndarray,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """One exact draw of (beta, b) for each of m values of theta.

    beta ~ N(beta^, P^-1), then b level by level from N(K v, sigma^2 K) given the levels eliminated
    after it.

    Parameters
    ----------
    Ls : sequence of (m, q_k, q_k) arrays
        Absolute factors of each draw.
    sigma : (m,) array
    normals : (m, n_normals) array

    Returns
    -------
    beta : (m, p) array
    b : list of (m, J_k, q_k) arrays

    Notes
    -----
    Without a dense tail the loop is compiled and releases the GIL.
    """
    problem = model.problem
    normals = np.ascontiguousarray(np.atleast_2d(normals), dtype=float)
    if normals.shape[1] != model.n_normals:
        raise ValueError(f"{normals.shape[1]} normals per draw given, {model.n_normals} needed")
    sigma = np.ascontiguousarray(sigma, dtype=float)
    m = len(sigma)
    if len(normals) != m or any(len(L) != m for L in Ls):
        raise ValueError("Ls, sigma and normals must have one entry per draw")
    flat = np.concatenate([np.zeros((m, 0))] + [np.reshape(L, (m, -1)) for L in Ls], axis=1)
    fixed = np.empty((m, problem.p))
    effects = np.empty((m, problem.symbolic.n_columns))
    if problem.head_only:
        _criteria.draws_head(
            problem.layout, problem.values, np.ascontiguousarray(flat, dtype=float), sigma,
            model.prior, normals, fixed, effects,
        )  # fmt: skip
        return draws_to_user(problem, fixed, effects)
    for d in range(m):
        state = eliminate(problem, flat[d] / sigma[d])
        fixed[d], effects[d] = _draw_from(model, state, sigma[d], normals[d : d + 1])
    return draws_to_user(problem, fixed, effects)


def log_marginal_and_draw(
    model: MarginalModel, L: np.ndarray, sigma: float, normals: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """:func:`log_marginal` and one exact draw of (beta, b), from the same factorization.

    Parameters
    ----------
    L : flat absolute factors
    normals : (n_normals,) array

    Returns
    -------
    value : float
    fixed, effects : (p,) and (N,) arrays
        As computed with; :func:`draws_to_user` gives them in the caller's order. nan where the
        factorization fails.
    """
    problem = model.problem
    state = eliminate(problem, L / sigma)
    value = float(_statistics(model, state, sigma).value)
    if not np.isfinite(value):
        nothing = np.full(problem.symbolic.n_columns, np.nan)
        return np.nan, np.full(problem.p, np.nan), nothing
    fixed, effects = _draw_from(model, state, float(sigma), normals[None])
    return value, fixed[0], effects[0]


def _draw_from(model, state, sigma, normals):
    """(m, p) fixed and (m, N) random effects, in working coordinates and elimination order."""
    p = model.problem.p
    noise = np.ascontiguousarray(normals[:, :p].T)
    fixed = draw_coefficients(state.S, float(sigma) ** 2, model.prior, noise)
    effects = state.draw_effects(fixed, sigma, np.ascontiguousarray(normals[:, p:].T))
    return fixed.T, effects.T


def draws_to_user(
    problem: Problem, fixed: np.ndarray, effects: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """beta (m, p) and b, (m, J_k, q_k) each, from draws as computed with."""
    b = []
    for k, T in enumerate(problem.roots):
        columns = problem.symbolic.factor_columns(k)
        first, size = (int(columns.flat[0]), columns.size) if columns.size else (0, 0)
        if np.array_equal(columns.ravel(), np.arange(first, first + size)):
            b.append(effects[:, first : first + size].reshape(len(effects), *columns.shape))
        else:
            b.append(effects[:, columns])
        if T is not None:
            b[-1] = np.einsum("jl,mlq->mjq", T, b[-1], optimize=True)
    return problem.coordinates.to_user(fixed), b
