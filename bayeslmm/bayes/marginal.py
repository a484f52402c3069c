"""The posterior of the covariance parameters alone, fixed and random effects integrated out.

log p(x | y) up to log p(y), x = (standard deviations of every effect of every grouping factor,
partial correlations, sigma), each unconstrained:

    log p(y | theta) + log p(theta) + log |d theta / d x|.

It equals the joint log density of the hierarchical model less log p(beta, b | theta, y), constants
and Jacobians included. beta is integrated under normal or flat priors, which are conjugate.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.bayes.conditional import GivenCovariances
from bayeslmm.compiling import kernel
from bayeslmm.formula import Design
from bayeslmm.gaussian import (
    FixedPrior,
    MarginalModel,
    Problem,
    log_marginal_and_draw,
    log_marginal_flat,
    rotated_for_draws,
    with_prior,
)
from bayeslmm.gaussian._criteria import marginal_head
from bayeslmm.gaussian.threads import alone
from bayeslmm.parts.correlations import (
    CorrelationLayout,
    correlation_layout,
    correlations_from_factors,
    factors_from_correlations,
    lkj_exponents,
    log_lkj,
    pullback_from_covariances,
)
from bayeslmm.parts.parameters import coef_key
from bayeslmm.parts.prior import Prior
from bayeslmm.parts.scales import Scales, scale_terms, scales, supported_scale, unconstrain
from bayeslmm.priors.effect_maps import EffectMaps
from bayeslmm.priors.residual_priors import residual_obstacle
from bayeslmm.priors.table import Priors

if TYPE_CHECKING:
    from bayeslmm.bayes.residual_density import ResidualDensity
    from bayeslmm.gaussian.system import StructuredProblem

__all__ = ["MarginalDensity", "fixed_prior", "marginal_density", "marginal_obstacle"]


#: Up to this many random effects a density evaluation is cheap.
_FEW_EFFECTS = 1000


@kernel
def _prior_part(x, cor, sc, exponent, constant):
    """Log priors with Jacobians, their gradient, sds (sigma last), slopes, flat factors."""
    m = cor.diagonal.shape[0]
    r = cor.number.shape[0]
    at = np.empty(m + 1)
    at[:m] = x[:m]
    at[m] = x[m + r]
    value, d_scales, sd, slope = scale_terms(sc, at)
    log_corr, d_corr = log_lkj(x[m : m + r], exponent, constant)
    gradient = np.empty(m + r + 1)
    gradient[:m] = d_scales[:m]
    gradient[m : m + r] = d_corr
    gradient[m + r] = d_scales[m]
    return value + log_corr, gradient, sd, slope, factors_from_correlations(cor, sd[:m], x[m:])


@kernel
def _add_likelihood_gradient(gradient, x, cor, q, start, sd, slope, F, D, d_sigma2):
    """Chain rule from dl/dSigma_k and dl/dsigma^2, added to ``gradient`` in place."""
    m = cor.diagonal.shape[0]
    r = cor.number.shape[0]
    d_sd, d_u = pullback_from_covariances(cor, q, start, sd[:m], slope[:m], x[m : m + r], F, D)
    gradient[:m] += d_sd
    gradient[m : m + r] += d_u
    gradient[m + r] += 2.0 * sd[m] * slope[m] * d_sigma2


@kernel
def density_head(x, cor, sc, exponent, constant, arguments, want_gradient):
    """Log density and gradient in one compiled call; without a dense tail.

    ``arguments`` are those of :meth:`bayeslmm.gaussian.MarginalModel.kernel_arguments`.
    """
    lay, val, n, sum_log_weights, root, target, log_det = arguments
    value, gradient, sd, slope, F = _prior_part(x, cor, sc, exponent, constant)
    log_y, D, d_sigma2 = marginal_head(
        lay, val, F, sd[-1], n, sum_log_weights, root, target, log_det, want_gradient
    )
    if want_gradient:
        _add_likelihood_gradient(
            gradient, x, cor, lay.factor_q, lay.f_ptr, sd, slope, F, D, d_sigma2
        )
    return value + log_y, gradient


@kernel
def densities_head(X, cor, sc, exponent, constant, arguments):
    """Log density at each row of X."""
    out = np.empty(X.shape[0])
    for i in range(X.shape[0]):
        out[i] = density_head(X[i], cor, sc, exponent, constant, arguments, False)[0]
    return out


@kernel
def constrained_rows(X, cor, sc):
    """Standard deviations (n, m), sigma last, and flat factors at each row of X."""
    m = cor.diagonal.shape[0]
    r = cor.number.shape[0]
    sds = np.empty((X.shape[0], m + 1))
    F = np.empty((X.shape[0], cor.buffer[0]))
    at = np.empty(m + 1)
    for i in range(X.shape[0]):
        at[:m] = X[i, :m]
        at[m] = X[i, m + r]
        sds[i] = scale_terms(sc, at)[2]
        F[i] = factors_from_correlations(cor, sds[i, :m], X[i, m:])
    return sds, F


@dataclass(frozen=True)
class MarginalDensity:
    """Log posterior density of the covariance parameters in unconstrained coordinates.

    The vector x holds, in this order, one number per standard deviation (all effects of the first
    grouping factor, then of the next), one per free correlation (atanh of its canonical partial
    correlation), and one for sigma. A standard deviation is exp(x), shifted or squeezed into the
    prior's support where that is not the positive numbers, or |unit sinh(x)| (see
    :mod:`bayeslmm.bayes.signed`).

    Attributes
    ----------
    model : MarginalModel
        Cross-products, and the prior on beta.
    correlations : CorrelationLayout
    scales : Scales
        Priors of the standard deviations, sigma last.
    exponent : (r,) array
        Of each free correlation's LKJ density.
    constant : float
        Log of the LKJ densities' constant.
    alone : bool
        Whether one thread at a time evaluates it, the main one or another: with very many levels an
        evaluation may then use several threads.
    maps : EffectMaps
        From the effects computed with, which the priors are about, to those of the formula.
    """

    model: MarginalModel
    correlations: CorrelationLayout
    scales: Scales
    exponent: np.ndarray
    constant: float
    alone: bool = False
    maps: EffectMaps = EffectMaps()

    @property
    def n_dim(self) -> int:
        """Length of x."""
        return self.correlations.n_effects + self.correlations.n_correlations + 1

    @property
    def first_correlation(self) -> int:
        """Where the random effects' correlations begin in x."""
        return self.correlations.n_effects

    @property
    def compiled(self) -> str | None:
        """Module with the C function, see :mod:`bayeslmm.bayes.compiled`.

        None with a dense tail, or where an evaluation may use several threads.
        """
        one_call = self.model.problem.head_only and not self.alone
        return "bayeslmm.bayes.compiled_marginal" if one_call else None

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Log density and its gradient; nan where the factorization fails."""
        return self._evaluate(x, True)

    def value(self, x: np.ndarray) -> float:
        """Log density without the gradient."""
        return self._evaluate(x, False)[0]

    def values(self, X: np.ndarray) -> np.ndarray:
        """Log density at each row of X, shape (n, n_dim)."""
        X = np.ascontiguousarray(X, dtype=float)
        if self.model.problem.head_only:
            return densities_head(X, *self._prior_arguments, self.model.kernel_arguments())
        return np.array([self.value(x) for x in X])

    def value_and_draw(
        self, x: np.ndarray, normals: np.ndarray
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """Log density and an exact draw of (beta, b) given x, from one factorization.

        As :func:`bayeslmm.gaussian.log_marginal_and_draw`.
        """
        x = np.ascontiguousarray(x, dtype=float)
        value, _, sd, _, F = _prior_part(x, *self._prior_arguments)
        if not np.all(np.isfinite(F)):
            F = np.full_like(F, np.nan)
        log_y, fixed, effects = log_marginal_and_draw(self.model, F, sd[-1], normals)
        return value + log_y, fixed, effects

    @property
    def _prior_arguments(self) -> tuple:
        return self.correlations, self.scales, self.exponent, self.constant

    def _evaluate(self, x, want_gradient):
        x = np.ascontiguousarray(x, dtype=float)
        problem = self.model.problem
        if problem.head_only and not problem.many_levels:
            arguments = self.model.kernel_arguments()
            return density_head(x, *self._prior_arguments, arguments, want_gradient)
        value, gradient, sd, slope, F = _prior_part(x, *self._prior_arguments)
        if not np.all(np.isfinite(F)):
            return np.nan, np.full(len(x), np.nan)
        with alone() if self.alone else nullcontext():
            log_y, D, d_sigma2 = log_marginal_flat(self.model, F, sd[-1], want_gradient)
        if want_gradient:
            lay = problem.layout
            _add_likelihood_gradient(
                gradient, x, self.correlations, lay.factor_q, lay.f_ptr, sd, slope, F, D, d_sigma2
            )
        return value + log_y, gradient

    def kernel(self) -> tuple:
        """What :func:`density_head` takes after x, but for the last argument."""
        return (*self._prior_arguments, self.model.kernel_arguments())

    def computed(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As :meth:`constrained`, of the effects computed with."""
        X = np.ascontiguousarray(np.atleast_2d(X), dtype=float)
        sds, F = constrained_rows(X, self.correlations, self.scales)
        return sds[:, :-1], F, np.ascontiguousarray(sds[:, -1])

    def constrained(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Standard deviations (n, m), flat factors (n, sum q_k^2) and sigma (n,) at rows of X.

        Of the effects in the formula's columns.
        """
        sds, F, sigma = self.computed(X)
        return *self.maps.flat_to_formula(sds, F, self.factors), sigma

    def factors(self, F: np.ndarray) -> list[np.ndarray]:
        """(n, q_k, q_k) factors of each grouping factor from flat ones (n, sum q_k^2)."""
        ptr = self.model.problem.layout.f_ptr
        return [
            F[:, ptr[k] : ptr[k + 1]].reshape(len(F), pattern.q, pattern.q)
            for k, pattern in enumerate(self.model.problem.patterns)
        ]

    def spread(self) -> np.ndarray:
        """Rough posterior variances of the coordinates: J levels say about 2 J on the log of an sd.

        The first step of a search that starts from the identity is wrong by orders of magnitude
        where there are thousands of levels.
        """
        lay, problem = self.correlations, self.model.problem
        levels = [f.n_levels for f in problem.cp.factors for _ in range(f.q)]
        sds, corr = level_spread(lay, levels)
        return np.concatenate((sds, corr, [1.0 / (1.0 + problem.n)]))

    @property
    def draws_with_value(self) -> bool:
        """Whether a value and a draw are best made from one factorization (a dense tail)."""
        return not self.model.problem.head_only

    @property
    def is_cheap(self) -> bool:
        """Whether an evaluation takes well below a millisecond."""
        problem = self.model.problem
        return problem.head_only and problem.symbolic.n_columns <= _FEW_EFFECTS

    def starting_points(self, shares: tuple[float, ...]) -> list[np.ndarray]:
        """Starting points of a search, one per share that makes a difference."""
        used = shares if self.correlations.n_effects else shares[:1]
        return [self.starting_point(share) for share in used]

    def with_model(self, problem: Problem, prior: FixedPrior) -> MarginalDensity:
        """The same priors on the covariance parameters for another problem and prior on beta.

        Parameters
        ----------
        problem : Problem
            In the formula's columns.
        prior : FixedPrior
        """
        return replace(self, model=with_prior(self.maps.applied(problem), prior))

    def natural(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Flat factors (n, f), log sigma (n, 1) and nothing (n, 0) at rows of X.

        In the formula's columns; the covariance parameters as every system takes them.
        """
        _, F, sigma = self.constrained(X)
        return F, np.log(sigma)[:, None], np.zeros((len(F), 0))

    def position(self, F: np.ndarray, eta: np.ndarray, c: np.ndarray) -> np.ndarray:
        """x (d,) of covariance parameters in the formula's columns: see :meth:`natural`."""
        own = self.maps.from_formula([L[0] for L in self.factors(F[None])])
        flat = np.concatenate([np.zeros(0), *(L.ravel() for L in own)])
        sd, u = correlations_from_factors(self.correlations, flat)
        at = unconstrain(self.scales, np.append(sd, np.exp(eta)))
        return np.concatenate([at[:-1], np.clip(u, -18.0, 18.0), at[-1:]])

    def given(self, x: np.ndarray) -> GivenCovariances:
        """How the rest of a posterior is drawn at rows of x (n, d)."""
        sds, F, sigma = self.computed(x)
        return GivenCovariances.of(self.model, sds, self.factors(F), sigma, self.maps)

    def starting_point(self, share: float) -> np.ndarray:
        """x where the random effects make up ``share`` of the response's variance, equally."""
        cp = self.model.problem.cp
        spread = cp.gram_unweighted[-2, -2] - cp.gram_unweighted[-1, -2] ** 2 / cp.n
        spread = np.sqrt(max(spread, 1e-300) / max(cp.n - 1, 1))
        sizes = [np.sqrt(np.diag(f.zz_unweighted) / cp.n) for f in cp.factors]
        columns = np.concatenate([np.zeros(0), *sizes])
        part = np.sqrt(share / max(len(columns), 1))
        sd = spread * part / np.where(columns > 0, columns, 1.0)
        weight = np.exp(cp.sum_log_weights / max(cp.n, 1))
        sigma = spread * np.sqrt((1 - share) * weight)
        at = unconstrain(self.scales, np.append(sd, sigma))
        return np.concatenate((at[:-1], np.zeros(self.correlations.n_correlations), at[-1:]))


def level_spread(lay: CorrelationLayout, levels: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Rough posterior variances of log sds and of partial correlations, from numbers of levels."""
    sds = 1.0 / (1.0 + np.array(levels, dtype=float))
    corr = np.empty(lay.n_correlations)
    for i in range(lay.n_effects):
        corr[lay.number[lay.row_ptr[i] : lay.row_ptr[i + 1]]] = sds[i]
    return sds, corr


def marginal_density(
    design: Design, priors: Priors, problem: Problem | StructuredProblem, *, rotate: bool = False
) -> MarginalDensity | ResidualDensity:
    """The density of a model; its priors must pass :func:`marginal_obstacle`.

    Parameters
    ----------
    design : Design
    priors : Priors
    problem : Problem or StructuredProblem
        Of the cross-products of the design, the offset subtracted from the response; its blocks
        or cells where residuals have a structure. In the formula's columns.
    rotate : bool
        Whether thousands of evaluations are to come, which repay a rotation of related levels.
    """
    maps = priors.effect_maps()
    problem = maps.applied(problem, design)
    if design.residual is not None:
        from bayeslmm.bayes.residual_density import residual_density

        return residual_density(design, priors, problem, maps)
    if rotate:
        problem = rotated_for_draws(problem)
    chosen = [
        priors[f"sd({effect} | {block.name})"]
        for block in design.blocks
        for effect in block.effects
    ]
    layout = correlation_layout(problem.patterns)
    exponent, constant = lkj_exponents(layout, _etas(design, priors))
    return MarginalDensity(
        with_prior(problem, fixed_prior(design, priors)),
        layout,
        scales([*chosen, priors["sigma"]]),
        exponent,
        constant,
        maps=maps,
    )


def marginal_obstacle(design: Design, priors: Priors) -> str | None:
    """Why the marginal density is not available for these priors; None where it is."""
    if text := fixed_obstacle(design, priors):
        return text
    chosen = {f"sd({e} | {block.name})" for block in design.blocks for e in block.effects}
    if design.residual is not None and (text := residual_obstacle(design, priors)):
        return text
    for key in (*(("sigma",) if design.residual is None else ()), *sorted(chosen)):
        if not supported_scale(priors[key]):
            return (
                f"the prior of {key} is {priors[key]!r}, which the marginal density does not know"
            )
    return None


def fixed_obstacle(design: Design, priors: Priors) -> str | None:
    """Why beta cannot be integrated out; None where it can."""
    if design.modeled:
        names = ", ".join(covariate.name for covariate in design.modeled)
        return f"missing values of {names} are part of the model and have to be sampled"
    if "nu" in priors:
        return (
            'residuals are Student-t (family="student"), so nothing can be integrated out exactly'
        )
    for block in design.blocks:
        if f"nu({block.name})" in priors:
            return (
                'random effects are Student-t (random="student"), so they cannot be integrated '
                "out exactly"
            )
    for key in _coef_keys(design):
        if priors[key].name not in ("Normal", "Flat"):
            return (
                f"the prior of {key} is {priors[key]!r}, and coefficients are integrated out "
                "exactly under normal and flat priors only"
            )
    return None


def fixed_prior(design: Design, priors: Priors) -> FixedPrior:
    """Normal and flat priors on the combinations of beta that :class:`Priors` are about."""
    return FixedPrior.on_combinations(priors.combinations(), *coefficient_priors(design, priors))


def coefficient_priors(design: Design, priors: Priors) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations (infinite where flat) of the coefficients' priors."""
    chosen = [priors[key] for key in _coef_keys(design)]
    mean = np.array([prior.parameters.get("mu", 0.0) for prior in chosen], dtype=float)
    sd = np.array([_normal_sd(prior) for prior in chosen], dtype=float)
    return mean, sd


def _normal_sd(prior: Prior) -> float:
    if prior.name == "Flat":
        return np.inf
    if "tau" in prior.parameters:
        return prior.parameters["tau"] ** -0.5
    return prior.parameters.get("sigma", 1.0)


def _coef_keys(design: Design) -> Sequence[str]:
    return [coef_key(name) for name in design.coef_names]


def _etas(design: Design, priors: Priors) -> np.ndarray:
    """Shape of the LKJ prior of every free correlation."""
    etas = [
        np.full(
            len(block.correlated_pairs()), float(priors[f"corr({block.name})"].parameters["eta"])
        )
        for block in design.blocks
        if block.correlated_pairs()
    ]
    return np.concatenate([np.zeros(0), *etas])
