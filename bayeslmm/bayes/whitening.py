"""The joint posterior of a response that is not Gaussian, in coordinates where it is near normal.

At the mode of Laplace's approximation of the posterior of the parameters (covariances, the
family's own, coefficients) its curvature is the metric of the parameters, and the effects follow
them as :mod:`bayeslmm.bayes.kernels.joint` says. Nothing is approximated: the joint density is
exact in any coordinates, and these only make chains move far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from bayeslmm.addresses import Table
from bayeslmm.assembly import response_system
from bayeslmm.bayes.coefficients import coef_keys
from bayeslmm.bayes.kernels._following import follow, lower_solve, products, scale
from bayeslmm.bayes.kernels._walls import Walls
from bayeslmm.bayes.kernels.coordinates import CovariancePrior, add_likelihood, is_finite, natural
from bayeslmm.bayes.kernels.joint import (
    JointArguments,
    Levels,
    Rows,
    Whitening,
    family_parameters,
    ordered_pullback,
    whitened,
    whitened_along,
    whitened_many,
)
from bayeslmm.bayes.kernels.shrinkage import CoefficientScalars
from bayeslmm.bayes.marginal import correlation_shapes, modeled_obstacle, sd_keys
from bayeslmm.bayes.mode import Mode, find_mode
from bayeslmm.bayes.signed import signed_mode
from bayeslmm.errors import SamplingError
from bayeslmm.formula import Design
from bayeslmm.gaussian.crossproducts import CrossProducts
from bayeslmm.gaussian.problem import Problem, prepare
from bayeslmm.gaussian.symbolic import Symbolic, analyze, in_order
from bayeslmm.laplace.system import ResponseSystem
from bayeslmm.laplace.transforms import is_ordered, unbounded
from bayeslmm.parts.correlations import CorrelationLayout, correlation_layout, lkj_exponents
from bayeslmm.parts.parameters import nu_key
from bayeslmm.parts.prior import Prior
from bayeslmm.parts.scales import (
    LINE_FAMILIES,
    Scales,
    scale_terms,
    scales,
    supported_scale,
    unconstrain,
)
from bayeslmm.parts.structures import Structure
from bayeslmm.priors.responses import response_unit
from bayeslmm.priors.table import Priors

if TYPE_CHECKING:
    from scipy.sparse import csc_matrix

__all__ = [
    "LaplacePosterior",
    "WhitenedPosterior",
    "heavy_effects",
    "laplace_posterior",
    "samples_effects",
    "whitened_obstacle",
    "whitened_posterior",
]

#: Standard deviations of the effects where a search starts, in units of the linear predictor.
_STARTS = (0.5, 0.05)
#: Degrees of freedom of effects there: the center of their usual prior.
_TYPICAL_NU = 20.0


#: Effects follow all others where that takes so many multiplications per row at most.
_WORTH = 15.0

#: Where intercepts begin to bend away from an end of the linear predictor, in standard deviations
#: that they have at the mode.
_BEND = 1.0


class LowParameters(NamedTuple):
    """Parameters in natural units: flat factors, the family's, coefficients, and degrees of
    freedom of effects.
    """

    F: np.ndarray
    phi: np.ndarray
    beta: np.ndarray
    nu: np.ndarray


@dataclass(frozen=True)
class LaplacePosterior:
    """Laplace's approximation of the log posterior density of the parameters, effects integrated
    out: what a mode search and its curvature take.

    Attributes
    ----------
    system : ResponseSystem
        In the columns that the priors are about.
    prior : CovariancePrior
        Of the covariances.
    phi, coefficients : Scales
    tails : Scales
        Of the degrees of freedom of Student-t effects, which this approximation takes for normal
        ones of the same scale: it is about where, and how widely, the exact density is.
    combinations : (p, p) array
        What the priors of coefficients are about, as combinations of the formula's.
    ordered : bool
        Whether the family's parameters are thresholds.
    unit : float
        Of the linear predictor.
    """

    system: ResponseSystem
    prior: CovariancePrior
    phi: Scales
    coefficients: Scales
    tails: Scales
    combinations: np.ndarray
    ordered: bool = False
    unit: float = 1.0
    _near: dict = field(default_factory=dict, repr=False)

    #: What :func:`bayeslmm.bayes.signed.signed_mode` asks of a density.
    residual: ClassVar[None] = None

    @property
    def scales(self) -> Scales:
        """Priors of the standard deviations."""
        return self.prior.scales

    @property
    def correlations(self) -> CorrelationLayout:
        """Of the random effects."""
        return self.prior.effects

    @property
    def n_covariances(self) -> int:
        """Coordinates of the covariances."""
        return len(self.prior.scales.code) + len(self.prior.exponent)

    @property
    def n_dim(self) -> int:
        """Coordinates in all."""
        own = self.phi, self.tails, self.coefficients
        return self.n_covariances + sum(len(part.code) for part in own)

    def _parts(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        x = np.ascontiguousarray(x, dtype=float)
        first = self.n_covariances
        second = first + len(self.phi.code)
        third = second + len(self.tails.code)
        return x[:first], x[first:second], x[second:third], x[third:]

    def natural(self, x: np.ndarray) -> LowParameters:
        """Parameters in natural units."""
        covariances, phi, nu, beta = self._parts(x)
        return LowParameters(
            natural(covariances, self.prior).F,
            family_parameters(phi, self.phi, int(self.ordered))[2],
            scale_terms(self.coefficients, beta)[2],
            scale_terms(self.tails, nu)[2],
        )

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Log density and its gradient; nan where it cannot be evaluated."""
        return self._evaluate(x, True)

    def value(self, x: np.ndarray) -> float:
        """Log density."""
        return self._evaluate(x, False)[0]

    def _evaluate(self, x: np.ndarray, gradient: bool) -> tuple[float, np.ndarray]:
        parts, nothing = self._parts(x), np.full(self.n_dim, np.nan)
        at = natural(parts[0], self.prior)
        log_phi, d_phi, phi, slope = family_parameters(parts[1], self.phi, int(self.ordered))
        log_nu, d_nu, _, _ = scale_terms(self.tails, parts[2])
        log_beta, d_beta, beta, slope_beta = scale_terms(self.coefficients, parts[3])
        if not (is_finite(at) and np.all(np.isfinite(phi))):
            return np.nan, nothing
        found, mode = self.system.evaluate(
            at.F, phi, beta, gradient=gradient, start=self._near.get("start")
        )
        if mode is None or not np.isfinite(found.value):
            return np.nan, nothing
        if gradient:
            self._near["start"] = mode.b, mode.U
        value = found.value + at.value + log_phi + log_nu + log_beta
        if not gradient:
            return value, nothing
        layout = self.system.layout
        q = np.array([p.q for p in self.system.patterns], dtype=np.int64)
        empty = np.zeros(0)
        add_likelihood(at, parts[0], self.prior, q, layout.f_ptr, found.d_Sigma, empty, empty)
        in_x = ordered_pullback(found.d_phi, slope) if self.ordered else found.d_phi * slope
        return value, np.concatenate(
            [at.gradient, d_phi + in_x, d_nu, d_beta + found.d_beta * slope_beta]
        )

    def coordinates_of_phi(self, phi: np.ndarray) -> np.ndarray:
        """Coordinates of the family's parameters (n_phi,)."""
        if self.ordered:
            return unbounded(self.system.family, phi)
        return unconstrain(self.phi, phi)

    def starting_points(self, shares: tuple[float, ...]) -> list[np.ndarray]:
        """Where a search begins: coefficients of the model without effects, small and large sds.

        Parameters
        ----------
        shares : tuple of float
            Not used: these are standard deviations in units of the linear predictor.
        """
        return [self._start(sd) for sd in _STARTS]

    def _start(self, sd: float) -> np.ndarray:
        scales = self.prior.scales
        sizes = [np.sqrt((f.Z**2).mean(axis=0)) for f in self.system.factors]
        sds = self.unit * sd / np.concatenate([np.ones(0), *sizes])
        phi, beta = self.system.no_effects
        return np.concatenate(
            [
                unconstrain(scales, np.where(sds > 0, sds, sd)),
                np.zeros(len(self.prior.exponent)),
                self.coordinates_of_phi(phi),
                unconstrain(self.tails, np.full(len(self.tails.code), _TYPICAL_NU)),
                unconstrain(self.coefficients, beta),
            ]
        )

    def spread(self) -> np.ndarray:
        """Rough posterior variances of the coordinates."""
        system = self.system
        levels = [n_levels for n_levels, q in system.effect_shapes for _ in range(q)]
        sds = 1.0 / (1.0 + np.array(levels, dtype=float))
        phi, beta = system.no_effects
        w = np.maximum(-system.slopes(system.offset + system.X @ beta, phi)[2], 0.0)
        size = np.einsum("ij,i,ij->j", system.X, w, system.X)
        return np.concatenate(
            [
                sds,
                np.full(len(self.prior.exponent), np.mean(sds) if len(sds) else 1.0),
                np.full(len(self.phi.code), 1.0 / (1.0 + np.sqrt(system.n))),
                np.full(len(self.tails.code), 0.5),
                1.0 / (1.0 + size),
            ]
        )


def laplace_posterior(
    design: Design,
    priors: Priors,
    coefficients: tuple[np.ndarray, Sequence[Prior]] | None = None,
) -> LaplacePosterior:
    """Of a model whose priors pass :func:`whitened_obstacle`.

    Parameters
    ----------
    coefficients : (p, p) array and sequence of Prior, optional
        Combinations of the coefficients and independent priors of them, in place of those in
        ``priors``.
    """
    system = response_system(design)
    if coefficients is None:
        coefficients = priors.combinations(), [priors[key] for key in coef_keys(design)]
    A, columns = coefficients[0], system.X
    if design.family.name == "ordinal":  # thresholds are meant at the means of the predictors
        columns = columns - priors.means
    maps = priors.effect_maps().matrices
    system = replace(system, X=np.ascontiguousarray(columns @ np.linalg.inv(A)))
    system = system.with_effects(maps or (None,) * len(system.factors))
    layout = correlation_layout(system.patterns)
    exponent, constant = lkj_exponents(layout, correlation_shapes(design, priors))
    covariances = CovariancePrior(
        layout,
        correlation_layout(()),
        scales([priors[key] for key in sd_keys(design)]),
        exponent,
        constant,
        Structure().code,
        0,
        0,
        CoefficientScalars(scales([]), 0, 0, 0.0),
    )
    return LaplacePosterior(
        system,
        covariances,
        scales([priors[own.key] for own in design.family.parameters for _ in range(own.size)]),
        scales(coefficients[1]),
        scales([priors[key] for key in _tail_keys(design, priors)]),
        A,
        is_ordered(design.family),
        response_unit(design),
    )


def samples_effects(design: Design, priors: Priors) -> bool:
    """Whether random effects are sampled with the parameters, as nothing integrates them out.

    So with every response that is not Gaussian, and with Student-t residuals and effects.
    """
    return not design.family.gaussian or "nu" in priors or heavy_effects(design, priors)


def heavy_effects(design: Design, priors: Priors) -> bool:
    """Whether random effects are Student-t."""
    return bool(_tail_keys(design, priors))


def whitened_obstacle(design: Design, priors: Priors) -> str | None:
    """Why the compiled joint density is not available for these priors; None where it is."""
    if text := _outside(design):
        return text
    coefficients = coef_keys(design)
    own = [parameter.key for parameter in design.family.parameters]
    for key in [*coefficients, *own, *_tail_keys(design, priors), *sd_keys(design)]:
        prior = priors[key]
        known = prior.name in LINE_FAMILIES or (key not in coefficients and supported_scale(prior))
        if not known:
            return f"the prior of {key} is {prior!r}, which the compiled density does not know"
    return None


def _outside(design: Design) -> str | None:
    """What of a linear model the joint density does not have; None where it has all."""
    if text := modeled_obstacle(design):
        return text
    if design.residual is not None:
        return "residuals are correlated or unequal"
    for block in design.blocks:
        if block.relationship is not None:
            return f"levels of {block.name} are related"
    if not design.rows_in_memory:
        return "it takes every row, and rows were read in batches"
    return None


def _tail_keys(design: Design, priors: Priors) -> list[str]:
    """Keys of the degrees of freedom of Student-t effects, factor after factor."""
    return [nu_key(block.name) for block in design.blocks if nu_key(block.name) in priors]


@dataclass(frozen=True)
class WhitenedPosterior:
    """The joint posterior in z.

    Attributes
    ----------
    laplace : LaplacePosterior
    mode : Mode
        Of ``laplace``.
    arguments : JointArguments
    symbolic : Symbolic
        Order of the effects.
    """

    laplace: LaplacePosterior
    mode: Mode
    arguments: JointArguments
    symbolic: Symbolic

    @property
    def n_dim(self) -> int:
        """Length of z."""
        return self.laplace.n_dim + len(self.arguments.levels.r)

    @cached_property
    def table(self) -> Table:
        """What the C function reads."""
        return Table(self.arguments)

    @cached_property
    def log_scale(self) -> float:
        """log |d(parameters, v)/dz|."""
        tail = np.diag(self.arguments.whitening.tail)
        return self.mode.log_det + float(np.log(np.abs(tail)).sum())

    def __call__(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        """Log density of parameters and v at z, and its gradient in z."""
        out = np.empty(self.n_dim)
        return whitened(np.ascontiguousarray(z), self.arguments, out), out

    def values(self, Z: np.ndarray) -> np.ndarray:
        """Log density at each row of Z, shape (n, n_dim)."""
        return whitened_many(np.ascontiguousarray(Z, dtype=float), self.arguments)

    def along(self, Z: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log density at each row of Z, and its derivative in the direction u (n_dim,)."""
        return whitened_along(np.ascontiguousarray(Z, dtype=float), u, self.arguments)


def whitened_posterior(laplace: LaplacePosterior, *, signed: bool = True) -> WhitenedPosterior:
    """Find the mode and lay the joint density out around it.

    Parameters
    ----------
    signed : bool
        Whether standard deviations near zero get a coordinate of either sign, in which every
        posterior is covered twice (:mod:`bayeslmm.bayes.signed`).

    Raises
    ------
    SamplingError
        If the density is not finite anywhere it was tried.
    """
    search: Any = laplace
    mode = find_mode(search)
    if signed:
        search, mode = signed_mode(search, mode)
        laplace = search
    system, at = laplace.system, laplace.natural(mode.x)
    found = system.mode(at.F, at.phi, at.beta)
    if found is None:
        raise SamplingError("The effects have no most probable values at the posterior mode.")
    w = np.maximum(-found.slopes[2], 0.0)
    problem = _information(system, w)
    layout = problem.layout
    diag, panel = problem.values.diag, problem.values.panel
    b, U = (in_order(problem.symbolic, system.template.effects(part)) for part in found[1:3])
    r, N = products(layout, diag, panel, b) + U, len(b)
    C, R, work = np.empty(len(diag)), np.empty(len(panel)), np.empty((3, N))
    follow(layout, diag, panel, r, at.F, np.zeros(N), C, R, *work)
    drift = np.zeros((N, 0)) if _in_blocks(system, layout) else _drift(system, problem.symbolic, w)
    arguments = JointArguments(
        rows=_rows(system, problem.symbolic),
        levels=Levels(layout, diag, panel, r, drift, at.beta),
        covariances=laplace.prior,
        phi=laplace.phi,
        coefficients=laplace.coefficients,
        tails=laplace.tails,
        ordered=int(laplace.ordered),
        constant=system.constant,
        walls=_walls(system, problem.symbolic, C),
        whitening=_whitening(system, problem.symbolic, w, at.F, C, R, mode),
    )
    return WhitenedPosterior(laplace, mode, arguments, problem.symbolic)


def _information(system: ResponseSystem, w: np.ndarray) -> Problem:
    """Z'WZ, or its blocks of single levels where factorizing it again and again is too much."""
    products = CrossProducts.of_effects(system.factors, w)
    symbolic = analyze(products, "sparse")
    layout = symbolic.layout
    widths = np.diff(layout.pcol_ptr) + layout.node_q
    if float(layout.node_q @ widths**2) > _WORTH * system.n:
        symbolic = analyze(replace(products, pairs={}), "sparse")
        products = replace(products, pairs={})
    return prepare(products, system.patterns, symbolic=symbolic)


def _largest_first(system: ResponseSystem) -> list[int]:
    """Factors by the number of their effects."""
    sizes = [n_levels * q for n_levels, q in system.effect_shapes]
    return sorted(range(len(sizes)), key=lambda k: -sizes[k])


def _walls(system: ResponseSystem, symbolic: Symbolic, C: np.ndarray) -> Walls:
    """Of the first factor's intercepts, where they are correlated with nothing in their level."""
    ends = np.array(system.family.predictor_range)
    none = Walls(ends, np.zeros(0), 0, 0)
    if not system.factors or not np.any(np.isfinite(ends)):
        return none
    k, layout = _largest_first(system)[0], symbolic.layout
    f, pattern = system.factors[k], system.patterns[k]
    for effect in range(f.q):
        if np.all(f.Z[:, effect] == 1.0) and (effect,) in pattern.blocks:
            nodes = symbolic.position[symbolic.base[k] + np.unique(f.codes)]
            own = effect * (f.q + 1)
            width = _BEND / C[layout.diag_ptr[nodes] + own]
            return Walls(ends, width, effect, int(layout.f_ptr[k]) + own)
    return none


def _rows(system: ResponseSystem, symbolic: Symbolic) -> Rows:
    """Rows in the order of the factor with most effects, which comes first."""
    n, factors = system.n, _largest_first(system)
    order, starts = np.arange(n), np.zeros(0, dtype=np.int64)
    if factors:
        codes = system.factors[factors[0]].codes
        order = np.argsort(codes, kind="stable")
        starts = np.append(np.unique(codes[order], return_index=True)[1], n).astype(np.int64)
    own = [system.factors[k].take(order) for k in factors]
    first = [symbolic.factor_columns(k)[f.codes, 0] for k, f in zip(factors, own, strict=True)]
    y, trials, weights, offset = (
        np.ascontiguousarray(part[order])
        for part in (system.y, system.trials, system.weights, system.offset)
    )
    return Rows(
        system.family.code,
        y,
        trials,
        weights,
        offset,
        np.ascontiguousarray(system.X[order].T),
        np.ascontiguousarray(np.vstack([np.zeros((0, n)), *(f.Z.T for f in own)])),
        np.array(first, dtype=np.int64).reshape(len(own), n),
        np.array([f.q for f in own], dtype=np.int64),
        starts,
    )


def _in_blocks(system: ResponseSystem, layout) -> bool:
    """Whether L is block diagonal, so that levels of different factors are dependent in v."""
    return len(system.factors) > 1 and not len(layout.pcol)


def _drift(system: ResponseSystem, symbolic: Symbolic, w: np.ndarray) -> np.ndarray:
    """Z'WX (N, p), effects in elimination order."""
    columns = [in_order(symbolic, system.transposed_levels(w * x)) for x in system.X.T]
    return np.ascontiguousarray(np.reshape(columns, (system.p, symbolic.n_columns)).T)


def _whitening(system, symbolic, w, F, C, R, mode) -> Whitening:
    """What makes the Hessian in v, L^-1 (I + Lambda'Z'WZ Lambda) L^-T, the identity."""
    from scipy.linalg import solve_triangular
    from scipy.sparse import csr_matrix, diags

    N, layout = symbolic.n_columns, symbolic.layout
    head, rest = np.arange(N), np.zeros(0, dtype=np.int64)
    B, T, along = csr_matrix((N, 0)), np.zeros((0, 0)), np.zeros((N, 0))
    if _in_blocks(system, layout):
        G = _predictor_slopes(system, symbolic, F, C)
        largest = int(np.argmax([n_levels * q for n_levels, q in system.effect_shapes]))
        head = np.sort(symbolic.factor_columns(largest).ravel())
        rest = np.setdiff1d(np.arange(N), head)
        weighted = diags(w) @ G[:, rest]
        B = (G[:, head].T @ weighted).tocsr()
        B.sort_indices()
        H = (G[:, rest].T @ weighted).toarray()
        node = np.repeat(np.arange(len(layout.node_q)), layout.node_q)[rest]
        same = node[:, None] == node
        H[same] = np.eye(len(rest))[same]
        root = np.linalg.cholesky(H - (B.T @ B).toarray())
        T = solve_triangular(root, np.eye(len(root)), lower=True).T
        cross = _drift(system, symbolic, w)
        for c in range(system.p):  # L^-1 Lambda'Z'WX
            scaled = np.empty(N)
            scale(layout, F, np.ascontiguousarray(cross[:, c]), scaled, True)
            lower_solve(layout, C, R, scaled)
            cross[:, c] = scaled
        low = T @ (T.T @ (cross[rest] - B.T @ cross[head]))
        along = np.empty((N, system.p))
        along[rest], along[head] = -low, B @ low - cross[head]
    return Whitening(
        mode.x, mode.scale, along, head, rest, np.ascontiguousarray(T),
        B.indptr.astype(np.int64), B.indices.astype(np.int64), B.data.astype(float),
    )  # fmt: skip


def _predictor_slopes(system, symbolic, F, C) -> csc_matrix:
    """d eta / dv = Z Lambda L^-T where L is block diagonal, (n, N) sparse."""
    from scipy.sparse import csc_matrix

    rows, columns, values = [], [], []
    ptr = symbolic.layout.diag_ptr
    for k, (f, L) in enumerate(zip(system.factors, system.split(F), strict=True)):
        nodes = symbolic.position[symbolic.base[k] : symbolic.base[k + 1]]
        roots = np.tril(C[ptr[nodes][:, None] + np.arange(f.q**2)].reshape(-1, f.q, f.q))
        J = L @ np.linalg.inv(roots).transpose(0, 2, 1)
        values.append(np.einsum("ia,iab->ib", f.Z, J[f.codes]).ravel())
        columns.append(symbolic.factor_columns(k)[f.codes].ravel())
        rows.append(np.repeat(np.arange(system.n), f.q))
    parts = (np.concatenate(part) for part in (values, rows, columns))
    data, i, j = parts
    return csc_matrix((data, (i, j)), (system.n, symbolic.n_columns))
