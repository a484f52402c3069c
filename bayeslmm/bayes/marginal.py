"""The posterior of the covariance parameters alone, fixed and random effects integrated out.

log p(x | y) up to log p(y), x the covariance parameters theta in unconstrained coordinates
(:mod:`bayeslmm.bayes.kernels.coordinates`):

    log p(y | theta) + log p(theta) + log |d theta / d x|.

It equals the joint log density of the hierarchical model less log p(beta, b | theta, y), constants
and Jacobians included. beta is integrated under normal or flat priors, which are conjugate; under
others it is among the coordinates, or scales are given which it is normal (:mod:`.coefficients`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from time import thread_time
from types import ModuleType

import numpy as np

from bayeslmm.addresses import Table
from bayeslmm.bayes.coefficients import (
    INTEGRATED,
    coef_keys,
    coefficient_scalars,
    fixed_prior,
    normal_guess,
    unknown_coefficient,
)
from bayeslmm.bayes.conditional import GivenCovariances
from bayeslmm.bayes.kernels.coordinates import (
    CovariancePrior,
    add_likelihood,
    is_finite,
    natural,
    naturals,
)
from bayeslmm.bayes.kernels.shrinkage import (
    CoefficientScalars,
    add_coefficients,
    coefficient_prior,
    log_scales,
)
from bayeslmm.bayes.kernels.tables import N_PLACE, c_density, kernels_of, place
from bayeslmm.compiling import expect, interpreting, ran_interpreted, steady, undecided
from bayeslmm.formula import Design
from bayeslmm.formula.residual import ResidualDesign
from bayeslmm.gaussian import FixedPrior, Problem, rotated_for_draws
from bayeslmm.gaussian._coefficients import CoefficientPrior
from bayeslmm.gaussian.shared import SharedSystem, as_system
from bayeslmm.gaussian.system import System, Theta
from bayeslmm.gaussian.threads import alone
from bayeslmm.parts.correlations import (
    CorrelationLayout,
    correlation_layout,
    correlations_from_factors,
    lkj_exponents,
)
from bayeslmm.parts.parameters import corr_key, nu_key, sd_key
from bayeslmm.parts.scales import (
    Scales,
    center_and_spread,
    scale_terms,
    scales,
    standardized,
    supported_scale,
    unconstrain,
)
from bayeslmm.priors.effect_maps import EffectMaps
from bayeslmm.priors.residual_priors import (
    CORR_KEY,
    log_scale_keys,
    residual_obstacle,
    scale_keys,
)
from bayeslmm.priors.table import Priors

__all__ = [
    "MarginalDensity",
    "correlation_shapes",
    "foresee",
    "marginal_density",
    "marginal_obstacle",
    "modeled_obstacle",
    "sampled_obstacle",
    "sd_keys",
]

#: Partial correlations are kept from +-1 by this many units of their atanh.
_LARGEST_ATANH = 18.0


def foresee(density: Callable, n: float, x: np.ndarray) -> None:
    """Compile first where that is quicker than n evaluations like that at x by Python."""
    if undecided():
        times = []
        for _ in range(3):
            start = thread_time()
            density(x)
            times.append(thread_time() - start)
        expect(min(times) * n)


@dataclass(frozen=True)
class MarginalDensity:
    """Log posterior density of the covariance parameters in unconstrained coordinates.

    A standard deviation is exp(x), shifted or squeezed into the prior's support where that is not
    the positive numbers, or |unit sinh(x)| (see :mod:`bayeslmm.bayes.signed`).

    Attributes
    ----------
    system : System
        Evaluates theta, in the effects computed with.
    fixed : FixedPrior
        Of the coefficients.
    prior : CovariancePrior
        Of the covariance parameters, and what x stands for.
    residual : ResidualDesign or None
        Names of the residuals' variables; None where sigma is the only one.
    maps : EffectMaps
        From the effects computed with, which the priors are about, to those of the formula.
    guess : FixedPrior or None
        A normal prior where searches begin, where some coefficients are not integrated out.
    alone : bool
        Whether one thread at a time evaluates it, the main one or another: with very many levels an
        evaluation may then use several threads.
    """

    system: System
    fixed: FixedPrior
    prior: CovariancePrior
    residual: ResidualDesign | None = None
    maps: EffectMaps = EffectMaps()
    guess: FixedPrior | None = None
    alone: bool = False

    @property
    def scales(self) -> Scales:
        """Priors of the scalars, those of the random effects first."""
        return self.prior.scales

    @property
    def correlations(self) -> CorrelationLayout:
        """Of the random effects."""
        return self.prior.effects

    @property
    def first_correlation(self) -> int:
        """Where the correlations begin in x, those of the random effects first."""
        return len(self.scales.code)

    @property
    def n_dim(self) -> int:
        """Length of x."""
        return self.first_coefficient + len(self.prior.coefficients.scales.code)

    @property
    def first_coefficient(self) -> int:
        """Where what is not integrated out of the coefficients begins in x."""
        return self.first_correlation + len(self.prior.exponent)

    @cached_property
    def _root(self) -> CoefficientPrior:
        """Prior of the coefficients in the coordinates computed with."""
        return self.system.prior(self.fixed)

    @cached_property
    def _likelihood(self) -> tuple | None:
        return self.system.kernel_arguments(self._root)

    @property
    def _kernels(self) -> ModuleType:
        return kernels_of(self.system.engine)

    @property
    def _one_call(self) -> bool:
        """Whether one compiled call evaluates it; else evaluations go through the system."""
        return not (interpreting() or self._likelihood is None or self.system.many_levels)

    @property
    def compiled(self) -> ModuleType | None:
        """Module with the C function, see :mod:`bayeslmm.bayes.compiled`.

        None with a dense tail, where an evaluation may use several threads, or where kernels are
        interpreted.
        """
        without = interpreting() or self._likelihood is None or self.alone
        return None if without else self._kernels

    @property
    def records(self) -> tuple:
        """What compiled densities read."""
        return self.prior, self._likelihood

    @cached_property
    def table(self) -> Table:
        """Of one point and its gradient."""
        return self._table_of(True)

    @cached_property
    def _table_of_value(self) -> Table:
        return self._table_of(False)

    def _table_of(self, want_gradient: bool) -> Table:
        table = Table(*self.records, *place(1, want_gradient))
        if len(table.entries) != 3 * (self._kernels.N_ARRAYS + N_PLACE):
            raise RuntimeError("the table of arrays does not match the compiled code")
        return table

    @property
    def draws_with_value(self) -> bool:
        """Whether a value and a draw are best made from one factorization (a dense tail)."""
        return bool(self.system.draws_with_value)

    @property
    def is_cheap(self) -> bool:
        """Whether an evaluation takes a millisecond or less."""
        return self.system.cheap

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Log density and its gradient; nan where the factorization fails."""
        return self._evaluate(x, True)

    def value(self, x: np.ndarray) -> float:
        """Log density without the gradient."""
        return self._evaluate(x, False)[0]

    @contextmanager
    def steady(self, evaluations: float, design: Design, seed: int | None) -> Iterator[None]:
        """Compile first where that is quicker; then kernels run one way until the draws are made.

        Parameters
        ----------
        evaluations : float
            So many are to come.
        design : Design
            Whose density this is.
        seed : int or None
            The same for the same data means the same draws.
        """
        data = design.y.tobytes() if design.rows_in_memory else b""
        key = seed, design.n_rows, self.n_dim, hash(data)
        if not ran_interpreted(key):
            foresee(self, evaluations, self.starting_points((0.5,))[0])
        with steady(key):
            yield

    def values(self, X: np.ndarray) -> np.ndarray:
        """Log density at each row of X, shape (n, n_dim)."""
        X = np.ascontiguousarray(X, dtype=float)
        if len(X):
            foresee(self, len(X), X[0])
        if self._likelihood is not None and not interpreting():
            table, (*_, task) = self._table_of_value, place(len(X), False)
            values, entries = np.empty(len(X)), table.entries.copy()
            entries[-3] = task.ctypes.data
            call = c_density(self.system.engine)
            call(X.shape[1], X.ctypes.data, None, values.ctypes.data, entries.ctypes.data)
            return values
        return np.array([self.value(x) for x in X])

    def _evaluate(self, x: np.ndarray, want_gradient: bool) -> tuple[float, np.ndarray]:
        x = np.ascontiguousarray(x, dtype=float)
        if self._one_call:
            table = self.table if want_gradient else self._table_of_value
            both = np.full(1 + len(x), np.nan)
            to = both.ctypes.data
            c_density(self.system.engine)(len(x), x.ctypes.data, to + 8, to, table.address)
            return both[0], both[1:]
        at, nothing = natural(x, self.prior), np.full(len(x), np.nan)
        if not is_finite(at):
            return np.nan, nothing
        given = coefficient_prior(self._root, self.prior.coefficients, at)
        with alone() if self.alone else nullcontext():
            found = self.system.evaluate(Theta(at.F, at.eta, at.c), given, False, want_gradient)
        if not np.isfinite(found.value):
            return np.nan, nothing
        if want_gradient:
            add_coefficients(at, self._root, self.prior.coefficients, found.slopes, found.d_eta)
            add_likelihood(at, x, self.prior, *self._sizes, found.d_Sigma, found.d_eta, found.d_c)
        return at.value + found.value, at.gradient

    @cached_property
    def _sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """Effects of each grouping factor, and starts of its flat factor."""
        q = np.array([pattern.q for pattern in self.system.patterns], dtype=np.int64)
        return q, np.asarray(self.system.layout.f_ptr)

    def value_and_draw(
        self, x: np.ndarray, normals: np.ndarray
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """Log density and an exact draw of (beta, b) given x, from one factorization.

        As :meth:`bayeslmm.gaussian.system.System.value_and_draw`.
        """
        at = natural(np.ascontiguousarray(x, dtype=float), self.prior)
        F = at.F if is_finite(at) else np.full_like(at.F, np.nan)
        theta = Theta(F, at.eta, at.c)
        given = coefficient_prior(self._root, self.prior.coefficients, at)
        log_y, fixed, effects = self.system.value_and_draw(theta, given, normals)
        return at.value + log_y, fixed, effects

    def computed(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """As :meth:`constrained`, of the effects computed with."""
        X = np.ascontiguousarray(np.atleast_2d(X), dtype=float)
        return naturals(X, self.prior)

    def constrained(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Standard deviations (n, m), flat factors (n, f), eta (n, s) and c (n, k) at rows of X.

        Of the effects in the formula's columns.
        """
        sds, F, eta, c = self.computed(X)
        return *self.maps.flat_to_formula(sds, F, self.system.split), eta, c

    def natural(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Flat factors (n, f), eta (n, s) and c (n, k) at rows of X, in the formula's columns."""
        return self.constrained(X)[1:]

    def position(
        self,
        F: np.ndarray,
        eta: np.ndarray,
        c: np.ndarray,
        beta: np.ndarray | None = None,
        scalars: np.ndarray | None = None,
    ) -> np.ndarray:
        """x (d,) of covariance parameters in the formula's columns: see :meth:`natural`.

        Where some coefficients are not integrated out it takes ``beta`` (p,), and ``scalars`` where
        scales of coefficients are among the coordinates.
        """
        own = self.maps.from_formula([L[0] for L in self.system.split(F[None])])
        F = np.concatenate([np.zeros(0), *(L.ravel() for L in own)])
        return self._position(F, eta, c, beta, scalars)

    def _position(self, F, eta, c, beta=None, scalars=None) -> np.ndarray:
        """As :meth:`position`, of the effects computed with."""
        sd, u = correlations_from_factors(self.correlations, F)
        n_log, times = self.prior.n_log, self.prior.times
        own = np.concatenate([sd, np.exp(eta[:n_log]), eta[n_log:]])
        if T := times.n_effects:
            root = np.ascontiguousarray(np.linalg.cholesky(c.reshape(T, T)).ravel())
            u = np.concatenate([u, correlations_from_factors(times, root)[1]])
        else:
            own = np.concatenate([own, self.system.structure.scalars(c)])
        at = unconstrain(self.scales, own)
        last = self._coefficient_position(beta, scalars)
        return np.concatenate([at, np.clip(u, -_LARGEST_ATANH, _LARGEST_ATANH), last])

    def _coefficient_position(
        self, beta: np.ndarray | None, scalars: np.ndarray | None
    ) -> np.ndarray:
        """The last coordinates; scalars are at the medians of their priors where none are given."""
        sc, lifted = self.prior.coefficients.scales, self.fixed.lifted
        if lifted is None:
            return np.zeros(0)
        if beta is None:
            raise ValueError("a position takes coefficients under these priors")
        n = len(lifted.rows)
        rest = center_and_spread(sc)[0][n:] if scalars is None else scalars
        return unconstrain(sc, np.concatenate([lifted.numbers(beta), rest]))

    def starting_points(self, shares: tuple[float, ...]) -> list[np.ndarray]:
        """Starting points of a search, one per share that makes a difference.

        Parameters
        ----------
        shares : tuple of float
            Of the response's variance that random effects make up, where there are no rows to
            start from.
        """
        thetas = _starts(self.system, shares if self.correlations.n_effects else shares[:1])
        guess = self.guess
        betas = [None if guess is None else self.system.solve(at, guess).beta for at in thetas]
        return [
            self._position(at.F, at.eta, at.c, beta) for at, beta in zip(thetas, betas, strict=True)
        ]

    def spread(self) -> np.ndarray:
        """Rough posterior variances of the coordinates: J levels say about 2 J on the log of an sd.

        The first step of a search that starts from the identity is wrong by orders of magnitude
        where there are thousands of levels.
        """
        lay, system = self.correlations, self.system
        levels = [n_levels for n_levels, q in system.effect_shapes for _ in range(q)]
        sds = 1.0 / (1.0 + np.array(levels, dtype=float))
        corr = np.empty(len(self.prior.exponent))
        for i in range(lay.n_effects):
            corr[lay.number[lay.row_ptr[i] : lay.row_ptr[i + 1]]] = sds[i]
        if self.prior.times.n_effects:
            corr[lay.n_correlations :] = 1.0 / (1.0 + len(np.unique(system.group)))
        found = np.full(self.n_dim, 1.0 / (1.0 + system.n))
        found[: len(sds)] = sds
        found[self.first_correlation : self.first_coefficient] = corr
        rows = system.rows_of_scales()
        found[len(sds) : len(sds) + len(rows)] = 1.0 / (1.0 + rows)
        found[self.first_coefficient :] = 1.0
        return found

    def with_model(self, problem: Problem | System, fixed: FixedPrior) -> MarginalDensity:
        """The same priors on the covariance parameters for other data and prior on beta.

        Parameters
        ----------
        problem : Problem or System
            In the formula's columns.
        fixed : FixedPrior
        """
        return replace(self, system=as_system(self.maps.applied(problem)), fixed=fixed)

    def given(self, x: np.ndarray) -> GivenCovariances:
        """How the rest of a posterior is drawn at rows of x (n, d)."""
        sds, F, eta, c = self.computed(x)
        given = self._priors_at(x) if self.n_dim > self.first_coefficient else None
        return GivenCovariances.of(
            self.system, self.fixed, sds, Theta(F, eta, c), self.residual, self.maps, given
        )

    def scalars(self, x: np.ndarray) -> np.ndarray:
        """Numbers (n, e) of the last coordinates at rows of x: pins, then scalars of scales."""
        rows = np.ascontiguousarray(x[:, self.first_coefficient :])
        sc = self.prior.coefficients.scales
        return np.array([scale_terms(sc, row)[2] for row in rows]).reshape(rows.shape)

    def fixed_at(self, x: np.ndarray) -> Callable[[int], FixedPrior]:
        """Prior of the coefficients in the formula's columns at row i of x, as a function of i."""
        if self.fixed.lifted is None:
            return lambda i: self.fixed
        own, scalars, eta = self.prior.coefficients, self.scalars(x), self.computed(x)[2]
        n = own.n_pins

        def at_row(i: int) -> FixedPrior:
            if not own.kind:
                return self.fixed.at(scalars[i], np.ones(0))
            log_s = log_scales(own.kind, own.log_unit + float(eta[i, 0]), scalars[i, n:].copy())
            return self.fixed.at(scalars[i, :n], np.exp(log_s))

        return at_row

    def _priors_at(self, x: np.ndarray) -> Callable[[int], CoefficientPrior]:
        """Prior of the coefficients at row i of x, as a function of i."""

        def at_row(i: int) -> CoefficientPrior:
            at = natural(np.ascontiguousarray(x[i], dtype=float), self.prior)
            return coefficient_prior(self._root, self.prior.coefficients, at)

        return at_row


def marginal_density(
    design: Design, priors: Priors, problem: Problem | System, *, rotate: bool = False
) -> MarginalDensity:
    """The density of a model; its priors must pass :func:`marginal_obstacle`.

    Parameters
    ----------
    design : Design
    priors : Priors
    problem : Problem or System
        Of the design, the offset subtracted from the response. In the formula's columns.
    rotate : bool
        Whether thousands of evaluations are to come, which repay a rotation of related levels.
    """
    maps = priors.effect_maps()
    problem = maps.applied(problem, design)
    system = as_system(rotated_for_draws(problem) if rotate else problem)
    random = sd_keys(design)
    own = [*scale_keys(design), *log_scale_keys(design)]
    keys = [*random, *own, *system.structure.scalar_keys]
    layout, times = correlation_layout(system.patterns), system.structure.layout
    exponent, constant = lkj_exponents(layout, correlation_shapes(design, priors))
    if times.n_effects:
        eta = float(priors[CORR_KEY].parameters["eta"])
        more, extra = lkj_exponents(times, np.full(times.n_correlations, eta))
        exponent, constant = np.concatenate([exponent, more]), constant + extra
    prior = CovariancePrior(
        layout,
        times,
        scales([priors[key] for key in keys]),
        exponent,
        constant,
        system.structure.code,
        len(own),
        len(scale_keys(design)),
        coefficient_scalars(design, priors),
    )
    fixed = fixed_prior(design, priors)
    if fixed.lifted is None:
        return MarginalDensity(system, fixed, prior, design.residual, maps)
    guess = normal_guess(design, priors)
    fixed, coefficients = _standardized(system, fixed, prior.coefficients, guess)
    prior = prior._replace(coefficients=coefficients)
    return MarginalDensity(system, fixed, prior, design.residual, maps, guess)


def _standardized(
    system: System, fixed: FixedPrior, own: CoefficientScalars, guess: FixedPrior
) -> tuple[FixedPrior, CoefficientScalars]:
    """Pins that may be any number in units of about their posterior standard deviations.

    Searches and samplers begin with steps of about one.
    """
    lifted, sc, n = fixed.lifted, own.scales, own.n_pins
    found = system.solve(_starts(system, (0.5,))[0], guess)
    free = np.isinf(sc.lower[:n]) & np.isinf(sc.upper[:n])
    variance = np.einsum("ij,jk,ik->i", lifted.rows, found.vcov, lifted.rows)
    center = np.where(free, lifted.numbers(found.beta), 0.0)
    unit = np.sqrt(np.where(free & (variance > 0), variance, 1.0))
    more = len(sc.code) - n
    sc = standardized(sc, np.append(center, np.zeros(more)), np.append(unit, np.ones(more)))
    return replace(fixed, lifted=lifted.standardized(center, unit)), own._replace(scales=sc)


def _starts(system: System, shares: tuple[float, ...]) -> list[Theta]:
    """See :meth:`MarginalDensity.starting_points`."""
    from bayeslmm.likelihood.coordinates import Coordinates

    if isinstance(system, SharedSystem):
        return system.starts(shares)
    coordinates = Coordinates(system)
    return [coordinates.theta(x) for x in coordinates.starts()]


def marginal_obstacle(design: Design, priors: Priors) -> str | None:
    """Why the marginal density is not available for these priors; None where it is."""
    if text := sampled_obstacle(design, priors):
        return text
    unknown = unknown_coefficient(design, priors)
    if text := residual_obstacle(design, priors):
        return text
    for key in [*([unknown] if unknown else []), *sorted(sd_keys(design))]:
        if key == unknown or not supported_scale(priors[key]):
            return (
                f"the prior of {key} is {priors[key]!r}, which the marginal density does not know"
            )
    return None


def fixed_obstacle(design: Design, priors: Priors) -> str | None:
    """Why beta cannot be integrated out given the covariance parameters; None where it can."""
    if text := sampled_obstacle(design, priors):
        return text
    for key in coef_keys(design):
        if priors[key].name not in INTEGRATED:
            return (
                f"the prior of {key} is {priors[key]!r}, and coefficients are integrated out "
                "exactly under normal and flat priors only"
            )
    return None


def modeled_obstacle(design: Design) -> str | None:
    """That covariates have values that are unknowns of the model; None where none has."""
    if not design.modeled:
        return None
    names = ", ".join(covariate.name for covariate in design.modeled)
    return f"unknown values of {names} are part of the model and have to be sampled"


def sampled_obstacle(design: Design, priors: Priors) -> str | None:
    """Why nothing can be integrated out; None where something can."""
    if text := modeled_obstacle(design):
        return text
    if "nu" in priors:
        return (
            'residuals are Student-t (family="student"), so nothing can be integrated out exactly'
        )
    for block in design.blocks:
        if nu_key(block.name) in priors:
            return (
                'random effects are Student-t (random="student"), so they cannot be integrated '
                "out exactly"
            )
    return None


def sd_keys(design: Design) -> list[str]:
    """Keys of the random effects' standard deviations, factor after factor."""
    return [sd_key(e, block.name) for block in design.blocks for e in block.effects]


def correlation_shapes(design: Design, priors: Priors) -> np.ndarray:
    """Shape of the LKJ prior of every free correlation."""
    etas = [
        np.full(
            len(block.correlated_pairs()), float(priors[corr_key(block.name)].parameters["eta"])
        )
        for block in design.blocks
        if block.correlated_pairs()
    ]
    return np.concatenate([np.zeros(0), *etas])
