"""The marginal posterior density of models with structured residuals.

As :mod:`bayeslmm.bayes.marginal`, with more coordinates: the log of every residual standard
deviation, the coefficients of a log-linear one as they are, rho or the range mapped from their
prior's support to the line, and atanh of the partial correlations of an unstructured matrix. beta
and b are integrated out block by block.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from bayeslmm.bayes.conditional import GivenCovariances
from bayeslmm.compiling import kernel
from bayeslmm.formula import Design
from bayeslmm.formula.residual import ResidualDesign
from bayeslmm.gaussian import FixedPrior
from bayeslmm.gaussian.blocks._kernel import evaluate
from bayeslmm.gaussian.blocks.problem import BlockProblem
from bayeslmm.gaussian.cells.problem import CellProblem
from bayeslmm.gaussian.system import StructuredProblem, Theta
from bayeslmm.likelihood.coordinates import Coordinates
from bayeslmm.parts.correlations import (
    CorrelationLayout,
    correlation_layout,
    correlations_from_factors,
    factors_from_correlations,
    lkj_exponents,
    log_lkj,
    pullback_from_covariances,
    pullback_to_correlations,
)
from bayeslmm.parts.scales import Scales, scale_terms, scales, unconstrain
from bayeslmm.priors.effect_maps import EffectMaps
from bayeslmm.priors.residual_priors import CORR_KEY, log_scale_keys, scalar_key, scale_keys
from bayeslmm.priors.table import Priors

__all__ = ["ResidualDensity", "residual_density"]

_FEW_ROWS = 5_000


@kernel
def _natural(x, cor, times, sc, n_log, n_scales):
    """Log priors of the scalars with their gradient, scalars and slopes, flat factors of effects
    and of residual correlations, eta and c.
    """
    m, k = cor.diagonal.shape[0], sc.code.shape[0]
    r = cor.number.shape[0]
    value, gradient, scalar, slope = scale_terms(sc, x[:k])
    F = factors_from_correlations(cor, scalar[:m], x[k : k + r])
    eta = scalar[m : m + n_scales].copy()
    for i in range(n_log):
        eta[i] = np.log(eta[i])
    T = times.diagonal.shape[0]
    L = factors_from_correlations(times, np.ones(T), x[k + r :])
    if T == 0:
        return value, gradient, scalar, slope, F, L, eta, scalar[m + n_scales :].copy()
    c = np.zeros(T * T)
    for i in range(T):
        for j in range(T):
            for a in range(min(i, j) + 1):
                c[i * T + j] += L[i * T + a] * L[j * T + a]
    return value, gradient, scalar, slope, F, L, eta, c


@kernel
def density_blocks(
    x, cor, times, sc, n_log, exponent, constant, n_scales, lay, data, n, root, target, log_det,
    want_gradient,
):  # fmt: skip
    """Log density and gradient in one compiled call; nan where V is not positive definite."""
    m, k = cor.diagonal.shape[0], sc.code.shape[0]
    r, T = cor.number.shape[0], times.diagonal.shape[0]
    out = np.full(x.shape[0], np.nan)
    value, gradient, scalar, slope, F, L, eta, c = _natural(x, cor, times, sc, n_log, n_scales)
    finite = np.isfinite(value) and np.all(np.isfinite(F)) and np.all(np.isfinite(c))
    if not (finite and np.all(np.isfinite(eta)) and np.all(np.isfinite(L))):
        return np.nan, out
    log_corr, d_corr = log_lkj(x[k:], exponent, constant)
    log_y, d_Sigma, d_eta, d_c = evaluate(
        lay, data, n, F, eta, c, root, target, log_det, False, want_gradient
    )
    total = value + log_corr + log_y
    if not want_gradient or not np.isfinite(total):
        return total, out
    d_sd, d_u = pullback_from_covariances(
        cor, lay.q, lay.f_ptr, scalar[:m], slope[:m], x[k : k + r], F, d_Sigma
    )
    out[:k] = gradient
    out[:m] += d_sd
    for i in range(n_scales):
        chain = slope[m + i] / scalar[m + i] if i < n_log else slope[m + i]
        out[m + i] += d_eta[i] * chain
    out[k:] = d_corr
    out[k : k + r] += d_u
    if T == 0:
        for i in range(c.shape[0]):
            out[m + n_scales + i] += d_c[i] * slope[m + n_scales + i]
        return total, out
    H = np.zeros(T * T)
    for i in range(T):
        for a in range(i + 1):
            for j in range(a, T):
                H[i * T + a] += (d_c[i * T + j] + d_c[j * T + i]) * L[j * T + a]
    out[k + r :] += pullback_to_correlations(times, np.ones(T), x[k + r :], H)[1]
    return total, out


@kernel
def densities_blocks(X, arguments):
    """Log density at each row of X; ``arguments`` are those of :func:`density_blocks`."""
    out = np.empty(X.shape[0])
    for i in range(X.shape[0]):
        out[i] = density_blocks(X[i], *arguments, False)[0]
    return out


@dataclass(frozen=True)
class ResidualDensity:
    """Log posterior density of the covariance parameters in unconstrained coordinates.

    x holds: standard deviations of the random effects (in logs, or as
    :mod:`bayeslmm.bayes.signed` has them); residual standard deviations (or log-linear
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
    residual : ResidualDesign
        Names of the residuals' variables.
    maps : EffectMaps
        From the effects computed with, which the priors are about, to those of the formula.
    """

    problem: BlockProblem
    prior: FixedPrior
    correlations: CorrelationLayout
    scales: Scales
    n_log: int
    exponent: np.ndarray
    constant: float
    residual: ResidualDesign
    maps: EffectMaps = EffectMaps()

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
    def first_correlation(self) -> int:
        """Where the random effects' correlations begin in x."""
        return self.n_scalars

    #: Values and draws are made one after the other.
    draws_with_value = False
    #: Module with the C function, see :mod:`bayeslmm.bayes.compiled`.
    compiled = "bayeslmm.bayes.compiled_residual"

    def spread(self) -> np.ndarray:
        """Rough posterior variances of the coordinates, to start a search with."""
        from bayeslmm.bayes.marginal import level_spread

        problem = self.problem
        levels = [f.n_levels for f in problem.factors for _ in range(f.q)]
        sds, corr = level_spread(self.correlations, levels)
        rows = (problem.scale != 0).sum(axis=0)
        rest = np.full(self.n_scalars - len(sds) - len(rows), 1.0 / (1.0 + problem.n))
        n_groups = len(np.unique(problem.group))
        times = np.full(len(self.exponent) - len(corr), 1.0 / (1.0 + n_groups))
        return np.concatenate([sds, 1.0 / (1.0 + rows), rest, corr, times])

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
        return densities_blocks(np.ascontiguousarray(X, dtype=float), self.kernel())

    @cached_property
    def _time_correlations(self) -> CorrelationLayout:
        """Layout of the residual correlations; without any where they are not free."""
        return self.problem.structure.layout

    def kernel(self) -> tuple:
        """What :func:`density_blocks` takes after x, but for the last argument."""
        return self._kernel_arguments

    @cached_property
    def _kernel_arguments(self) -> tuple:
        problem = self.problem
        priors = (self.correlations, self._time_correlations, self.scales, self.n_log)
        correlation = (self.exponent, self.constant, problem.scale.shape[1])
        return (*priors, *correlation, problem.layout, problem.data, problem.n, *self._root)

    def _evaluate(self, x: np.ndarray, want_gradient: bool):
        return density_blocks(x, *self._kernel_arguments, want_gradient)

    def constrained(self, X: np.ndarray):
        """As :meth:`computed`, of the effects in the formula's columns."""
        sds, F, eta, c = self.computed(X)
        return *self.to_formula(sds, F), eta, c

    def to_formula(self, sds: np.ndarray, F: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Standard deviations and flat factors in the formula's columns."""
        return self.maps.flat_to_formula(sds, F, self.problem.split)

    def computed(self, X: np.ndarray):
        """sds (n, m), flat factors (n, f), eta (n, s) and c (n, k) at rows of X.

        Of the effects computed with.
        """
        m, arguments = self.correlations.n_effects, self._kernel_arguments[:7]
        rows = [
            _natural(np.ascontiguousarray(x, dtype=float), *arguments[:4], arguments[6])
            for x in np.atleast_2d(X)
        ]
        return (
            np.array([row[2][:m] for row in rows]),
            *(np.array([row[at] for row in rows]) for at in (4, 6, 7)),
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

    def given(self, x: np.ndarray) -> GivenCovariances:
        """How the rest of a posterior is drawn at rows of x (n, d)."""
        sds, F, eta, c = self.computed(x)
        return GivenCovariances.structured(
            self.problem, self.prior, sds, Theta(F, eta, c), self.residual, self.maps
        )

    def with_model(self, problem: StructuredProblem, prior: FixedPrior) -> ResidualDensity:
        """As :meth:`MarginalDensity.with_model`."""
        return replace(self, problem=self.maps.applied(problem), prior=prior)

    def natural(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Flat factors (n, f), eta (n, s) and c (n, k) at rows of X, in the formula's columns."""
        return self.constrained(X)[1:]

    def position(self, F: np.ndarray, eta: np.ndarray, c: np.ndarray) -> np.ndarray:
        """x (d,) of covariance parameters in the formula's columns: see :meth:`natural`."""
        own = self.maps.from_formula([L[0] for L in self.problem.split(F[None])])
        flat = np.concatenate([np.zeros(0), *(L.ravel() for L in own)])
        sd, u = correlations_from_factors(self.correlations, flat)
        sizes = np.concatenate([np.exp(eta[: self.n_log]), eta[self.n_log :]])
        times = self.problem.structure.n_times
        scalars = np.concatenate([sd, sizes, np.zeros(0) if times else c])
        parts = [unconstrain(self.scales, scalars), np.clip(u, -18.0, 18.0)]
        if times:
            root = np.ascontiguousarray(np.linalg.cholesky(c.reshape(times, times)).ravel())
            v = correlations_from_factors(self._time_correlations, root)[1]
            parts.append(np.clip(v, -18.0, 18.0))
        return np.concatenate(parts)


def residual_density(
    design: Design, priors: Priors, problem: StructuredProblem, maps: EffectMaps
) -> ResidualDensity:
    """The density of a model with structured residuals."""
    from bayeslmm.bayes.marginal import _etas, fixed_prior

    random = [f"sd({e} | {block.name})" for block in design.blocks for e in block.effects]
    scalar = scalar_key(design)
    own = [*scale_keys(design), *log_scale_keys(design), *([scalar] if scalar else [])]
    layout = correlation_layout(problem.patterns)
    exponent, constant = lkj_exponents(layout, _etas(design, priors))
    if design.stated_residual.times:
        eta = float(priors[CORR_KEY].parameters["eta"])
        part = problem.structure.layout
        more, extra = lkj_exponents(part, np.full(part.n_correlations, eta))
        exponent, constant = np.concatenate([exponent, more]), constant + extra
    made = ResidualDensity
    if isinstance(problem, CellProblem):
        from bayeslmm.bayes.cell_density import CellDensity as made
    return made(
        problem,
        fixed_prior(design, priors),
        layout,
        scales([priors[key] for key in [*random, *own]]),
        len(scale_keys(design)),
        exponent,
        constant,
        design.residual,
        maps,
    )
