"""The marginal posterior density of models with structured residuals.

As :mod:`bayeslmm.bayes.marginal`, with more coordinates: the log of every residual standard
deviation, the coefficients of a log-linear one as they are, rho or the range mapped from their
prior's support to the line, and atanh of the partial correlations of an unstructured matrix. beta
and b are integrated out block by block.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bayeslmm.bayes.names import ModelNames
from bayeslmm.bayes.priors import Priors
from bayeslmm.bayes.residual_priors import CORR_KEY, log_scale_keys, scalar_key, scale_keys
from bayeslmm.bayes.residuals import residual_values
from bayeslmm.bayes.scales import Scales, scale_terms, scales, unconstrain
from bayeslmm.formula import Design
from bayeslmm.gaussian import FixedPrior, single_threaded_blas
from bayeslmm.gaussian.correlations import (
    CorrelationLayout,
    correlation_layout,
    factors_from_correlations,
    lkj_exponents,
    log_lkj,
    pullback_to_correlations,
)
from bayeslmm.residual.coordinates import Coordinates
from bayeslmm.residual.problem import BlockProblem, Theta

__all__ = ["ResidualDensity", "residual_density"]

_NORMALS = 2_000_000
_FEW_ROWS = 5_000


@dataclass(frozen=True)
class ResidualDensity:
    """Log posterior density of the covariance parameters in unconstrained coordinates.

    x holds: standard deviations of the random effects; residual standard deviations (or log-linear
    coefficients); rho or the range; then atanh of the partial correlations of the random effects
    and of the residuals.

    Attributes
    ----------
    problem : BlockProblem
    prior : FixedPrior
        Of the coefficients.
    correlations : CorrelationLayout
        Of the random effects.
    scales : Scales
        Priors of all scalars.
    n_log : int
        How many residual scalars are standard deviations, the first of them.
    exponent : array
        Of each correlation's LKJ density.
    constant : float
    """

    problem: BlockProblem
    prior: FixedPrior
    correlations: CorrelationLayout
    scales: Scales
    n_log: int
    exponent: np.ndarray
    constant: float

    @cached_property
    def _root(self) -> tuple:
        return self.problem.prior(self.prior)

    @property
    def n_scalars(self) -> int:
        """Entries of x with a prior of their own."""
        return len(self.scales.code)

    @property
    def n_dim(self) -> int:
        """Length of x."""
        return self.n_scalars + len(self.exponent)

    @property
    def is_cheap(self) -> bool:
        """Whether an evaluation takes a millisecond or less."""
        return self.problem.n <= _FEW_ROWS

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Log density and its gradient; nan where V is not positive definite."""
        return self._evaluate(np.ascontiguousarray(x, dtype=float), True)

    def value(self, x: np.ndarray) -> float:
        """Log density without the gradient."""
        return self._evaluate(np.ascontiguousarray(x, dtype=float), False)[0]

    def values(self, X: np.ndarray) -> np.ndarray:
        """Log density at each row of X."""
        return np.array([self.value(x) for x in X])

    def _parts(self, x: np.ndarray):
        """Scalars, their slopes, correlations of effects and of residuals, natural parameters."""
        m, k = self.correlations.n_effects, self.n_scalars
        r, s = self.correlations.n_correlations, self.problem.scale.shape[1]
        value, gradient, scalar, slope = scale_terms(self.scales, x[:k])
        u, w = x[k : k + r], x[k + r :]
        F = factors_from_correlations(self.correlations, scalar[:m], u)
        eta = scalar[m : m + s].copy()
        eta[: self.n_log] = np.log(eta[: self.n_log])
        c = self.problem.structure.natural(w) if len(w) else scalar[m + s :]
        return value, gradient, scalar, slope, u, w, Theta(F, eta, np.ascontiguousarray(c))

    def _evaluate(self, x: np.ndarray, want_gradient: bool):
        problem, m, s = self.problem, self.correlations.n_effects, self.problem.scale.shape[1]
        with np.errstate(all="ignore"):
            value, gradient, scalar, slope, u, w, theta = self._parts(x)
        finite = all(np.all(np.isfinite(part)) for part in (theta.F, theta.eta, theta.c))
        if not (finite and np.isfinite(value)):
            return np.nan, np.full(len(x), np.nan)
        log_corr, d_corr = log_lkj(x[self.n_scalars :], self.exponent, self.constant)
        log_y, d_Sigma, d_eta, d_c = problem.evaluate(theta, self._root, False, want_gradient)
        total = float(value + log_corr + log_y)
        if not want_gradient:
            return total, np.zeros(0)
        G = [
            2.0 * D @ L for D, L in zip(problem.split(d_Sigma), problem.split(theta.F), strict=True)
        ]
        flat = np.concatenate([*(g.ravel() for g in G), np.zeros(0)])
        d_log_sd, d_u = pullback_to_correlations(self.correlations, scalar[:m], u, flat)
        gradient[:m] += d_log_sd * slope[:m] / scalar[:m]
        d_scale = d_eta * slope[m : m + s]
        d_scale[: self.n_log] /= scalar[m : m + self.n_log]
        gradient[m : m + s] += d_scale
        d_w = problem.structure.pullback(w, d_c) if len(w) else np.zeros(0)
        if not len(w):
            gradient[m + s :] += d_c * slope[m + s :]
        return total, np.concatenate([gradient, d_corr + np.concatenate([d_u, d_w])])

    def constrained(self, X: np.ndarray):
        """sds (n, m), flat factors (n, f), eta (n, s) and c (n, k) at rows of X."""
        rows = [self._parts(np.ascontiguousarray(x, dtype=float)) for x in np.atleast_2d(X)]
        m = self.correlations.n_effects
        return (
            np.array([row[2][:m] for row in rows]),
            np.array([row[6].F for row in rows]),
            np.array([row[6].eta for row in rows]),
            np.array([row[6].c for row in rows]),
        )

    def starting_points(self, shares: tuple[float, ...]) -> list[np.ndarray]:
        """Where random effects make up these shares of the residual variance."""
        coordinates = Coordinates(self.problem)
        m, s = self.correlations.n_effects, self.problem.scale.shape[1]
        r = self.correlations.n_correlations
        found = []
        for x in coordinates.starts():
            theta = coordinates.theta(x)
            sds = [np.sqrt(np.diag(S)) for S in self.problem.covariances(theta.F)]
            eta = theta.eta.copy()
            eta[: self.n_log] = np.exp(eta[: self.n_log])
            w = x[coordinates.n_effect_parameters + s :]
            scalar = np.concatenate([*sds, eta, theta.c if self.n_scalars > m + s else []])
            u = w if len(self.exponent) > r else np.zeros(0)
            found.append(np.concatenate([unconstrain(self.scales, scalar), np.zeros(r), u]))
        return found

    def posterior_values(
        self, design: Design, names: ModelNames, x: np.ndarray, *, random_seed: int, cores: int
    ) -> dict[str, np.ndarray]:
        """Every variable of a posterior from unconstrained draws (chains, draws, d).

        beta and b are drawn from their exact conditional distribution at each draw; the result
        depends on ``random_seed`` and not on ``cores``.
        """
        shape = x.shape[:2]
        sds, F, eta, c = self.constrained(x.reshape(-1, x.shape[-1]))
        beta, effects = self._conditional_draws(F, eta, c, random_seed, cores)
        values = {"beta": beta.reshape(*shape, -1)} if design.coef_names else {}
        values |= residual_values(design, eta, c, shape)
        start = 0
        for k, (block, factor) in enumerate(zip(design.blocks, names.factors, strict=True)):
            q = block.n_effects
            sd = sds[:, start : start + q]
            values[factor.sd] = sd.reshape(*shape, q)
            if block.correlated_pairs():
                L = self.problem.split(F)[k] / sd[:, :, None]
                R = np.clip(L @ L.transpose(0, 2, 1), -1.0, 1.0)
                R[:, np.arange(q), np.arange(q)] = 1.0
                values[factor.corr] = R.reshape(*shape, q, q)
            values[factor.b] = effects[k].reshape(*shape, block.n_levels, q)
            start += q
        return values

    def _conditional_draws(self, F, eta, c, random_seed: int, cores: int):
        n, problem = len(F), self.problem
        size = int(np.clip(_NORMALS // max(problem.n_normals, 1), 1, 250))
        starts = range(0, n, size)
        seeds = np.random.SeedSequence([random_seed, 1]).spawn(len(starts))

        def draw(start, seed):
            rows = slice(start, min(start + size, n))
            rng = np.random.default_rng(seed)
            normals = rng.standard_normal((rows.stop - rows.start, problem.n_normals))
            return problem.draw(F[rows], eta[rows], c[rows], self.prior, normals)

        with single_threaded_blas(), ThreadPoolExecutor(max(1, cores)) as pool:
            parts = list(pool.map(draw, starts, seeds))
        beta = np.concatenate([part[0] for part in parts])
        return beta, [
            np.concatenate([part[1][k] for part in parts]) for k in range(len(problem.factors))
        ]


def residual_density(design: Design, priors: Priors, problem: BlockProblem) -> ResidualDensity:
    """The density of a model with structured residuals."""
    from bayeslmm.bayes.marginal import _etas, fixed_prior

    random = [f"sd({e} | {block.name})" for block in design.blocks for e in block.effects]
    scalar = scalar_key(design)
    own = [*scale_keys(design), *log_scale_keys(design), *([scalar] if scalar else [])]
    layout = correlation_layout(problem.patterns)
    exponent, constant = lkj_exponents(layout, _etas(design, priors))
    if design.residual.times:
        eta = float(priors[CORR_KEY].parameters["eta"])
        part = problem.structure.layout
        more, extra = lkj_exponents(part, np.full(part.n_correlations, eta))
        exponent, constant = np.concatenate([exponent, more]), constant + extra
    return ResidualDensity(
        problem,
        fixed_prior(design, priors),
        layout,
        scales([priors[key] for key in [*random, *own]]),
        len(scale_keys(design)),
        exponent,
        constant,
    )
