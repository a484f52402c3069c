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
from typing import NamedTuple

import numpy as np

from bayeslmm.addresses import Table
from bayeslmm.assembly import response_system
from bayeslmm.bayes.kernels.coordinates import CovariancePrior, add_likelihood, is_finite, natural
from bayeslmm.bayes.kernels.joint import (
    JointArguments,
    Levels,
    Rows,
    Whitening,
    family_parameters,
    ordered_pullback,
    whitened,
    whitened_many,
)
from bayeslmm.bayes.marginal import correlation_shapes
from bayeslmm.bayes.mode import Mode, find_mode
from bayeslmm.formula import Design
from bayeslmm.laplace.system import ResponseSystem
from bayeslmm.parts.correlations import correlation_layout, lkj_exponents
from bayeslmm.parts.parameters import coef_key, sd_key
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

__all__ = [
    "LaplacePosterior",
    "WhitenedPosterior",
    "laplace_posterior",
    "whitened_obstacle",
    "whitened_posterior",
]

#: Standard deviations of the effects where a search starts, in units of the linear predictor.
_STARTS = (0.5, 0.05)


class LowParameters(NamedTuple):
    """Parameters in natural units: flat factors, the family's, coefficients."""

    F: np.ndarray
    phi: np.ndarray
    beta: np.ndarray


@dataclass(frozen=True)
class LaplacePosterior:
    """Laplace's approximation of the log posterior density of the parameters, effects integrated
    out: what a mode search and its curvature take.

    Attributes
    ----------
    system : ResponseSystem
        In the columns that the priors are about.
    covariances : CovariancePrior
    phi, coefficients : Scales
    ordered : bool
        Whether the family's parameters are thresholds.
    unit : float
        Of the linear predictor.
    """

    system: ResponseSystem
    covariances: CovariancePrior
    phi: Scales
    coefficients: Scales
    ordered: bool = False
    unit: float = 1.0
    _near: dict = field(default_factory=dict, repr=False)

    @property
    def n_covariances(self) -> int:
        """Coordinates of the covariances."""
        return len(self.covariances.scales.code) + len(self.covariances.exponent)

    @property
    def n_dim(self) -> int:
        """Coordinates in all."""
        return self.n_covariances + len(self.phi.code) + len(self.coefficients.code)

    def _parts(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x = np.ascontiguousarray(x, dtype=float)
        first = self.n_covariances
        second = first + len(self.phi.code)
        return x[:first], x[first:second], x[second:]

    def natural(self, x: np.ndarray) -> LowParameters:
        """Parameters in natural units."""
        covariances, phi, beta = self._parts(x)
        return LowParameters(
            natural(covariances, self.covariances).F,
            family_parameters(phi, self.phi, int(self.ordered))[2],
            scale_terms(self.coefficients, beta)[2],
        )

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Log density and its gradient; nan where it cannot be evaluated."""
        return self._evaluate(x, True)

    def value(self, x: np.ndarray) -> float:
        """Log density."""
        return self._evaluate(x, False)[0]

    def _evaluate(self, x: np.ndarray, gradient: bool) -> tuple[float, np.ndarray]:
        parts, nothing = self._parts(x), np.full(self.n_dim, np.nan)
        at = natural(parts[0], self.covariances)
        log_phi, d_phi, phi, slope = family_parameters(parts[1], self.phi, int(self.ordered))
        log_beta, d_beta, beta, slope_beta = scale_terms(self.coefficients, parts[2])
        if not (is_finite(at) and np.all(np.isfinite(phi))):
            return np.nan, nothing
        found, mode = self.system.evaluate(
            at.F, phi, beta, gradient=gradient, start=self._near.get("start")
        )
        if not np.isfinite(found.value):
            return np.nan, nothing
        if gradient:
            self._near["start"] = mode.b, mode.U
        value = found.value + at.value + log_phi + log_beta
        if not gradient:
            return value, nothing
        layout = self.system.layout
        q = np.array([p.q for p in self.system.patterns], dtype=np.int64)
        empty = np.zeros(0)
        add_likelihood(at, parts[0], self.covariances, q, layout.f_ptr, found.d_Sigma, empty, empty)
        in_x = (
            ordered_pullback(found.d_phi, slope) if self.ordered else found.d_phi * slope
        )
        return value, np.concatenate(
            [at.gradient, d_phi + in_x, d_beta + found.d_beta * slope_beta]
        )

    def starting_points(self, shares: tuple[float, ...]) -> list[np.ndarray]:
        """Where a search begins: coefficients of the model without effects, small and large sds.

        Parameters
        ----------
        shares : tuple of float
            Not used: these are standard deviations in units of the linear predictor.
        """
        return [self._start(sd) for sd in _STARTS]

    def _start(self, sd: float) -> np.ndarray:
        scales = self.covariances.scales
        sizes = [np.sqrt((f.Z**2).mean(axis=0)) for f in self.system.factors]
        sds = self.unit * sd / np.concatenate([np.ones(0), *sizes])
        phi, beta = self.system.no_effects
        if self.ordered:
            phi = np.append(phi[:1], np.log(np.diff(phi)))
        else:
            phi = unconstrain(self.phi, phi)
        return np.concatenate(
            [
                unconstrain(scales, np.where(sds > 0, sds, sd)),
                np.zeros(len(self.covariances.exponent)),
                phi,
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
                np.full(len(self.covariances.exponent), np.mean(sds) if len(sds) else 1.0),
                np.full(len(self.phi.code), 1.0 / (1.0 + np.sqrt(system.n))),
                1.0 / (1.0 + size),
            ]
        )


def laplace_posterior(design: Design, priors: Priors) -> LaplacePosterior:
    """Of a model whose priors pass :func:`whitened_obstacle`."""
    system = response_system(design)
    A, columns = priors.combinations(), system.X
    if design.family.name == "ordinal":  # thresholds are meant at the means of the predictors
        columns = columns - columns.mean(axis=0)
    maps = priors.effect_maps().matrices
    system = replace(system, X=np.ascontiguousarray(columns @ np.linalg.inv(A)))
    system = system.with_effects(maps or (None,) * len(system.factors))
    layout = correlation_layout(system.patterns)
    exponent, constant = lkj_exponents(layout, correlation_shapes(design, priors))
    sds = [sd_key(e, block.name) for block in design.blocks for e in block.effects]
    covariances = CovariancePrior(
        layout,
        correlation_layout(()),
        scales([priors[key] for key in sds]),
        exponent,
        constant,
        Structure().code,
        0,
        0,
    )
    return LaplacePosterior(
        system,
        covariances,
        scales([priors[own.key] for own in design.family.parameters for _ in range(own.size)]),
        scales([priors[coef_key(name)] for name in design.coef_names]),
        any(own.transform == "ordered" for own in design.family.parameters),
        response_unit(design),
    )


def whitened_obstacle(design: Design, priors: Priors) -> str | None:
    """Why the compiled joint density is not available for these priors; None where it is."""
    coefficients = [coef_key(name) for name in design.coef_names]
    own = [parameter.key for parameter in design.family.parameters]
    sds = [sd_key(e, block.name) for block in design.blocks for e in block.effects]
    for key in [*coefficients, *own, *sds]:
        prior = priors[key]
        known = prior.name in LINE_FAMILIES or (key not in coefficients and supported_scale(prior))
        if not known:
            return f"the prior of {key} is {prior!r}, which the compiled density does not know"
    return None


@dataclass(frozen=True)
class WhitenedPosterior:
    """The joint posterior in z.

    Attributes
    ----------
    laplace : LaplacePosterior
    mode : Mode
        Of ``laplace``.
    arguments : JointArguments
    order : tuple of int
        The design's factors in the order computed with.
    """

    laplace: LaplacePosterior
    mode: Mode
    arguments: JointArguments
    order: tuple[int, ...]

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


def whitened_posterior(laplace: LaplacePosterior, mode: Mode | None = None) -> WhitenedPosterior:
    """Find the mode and lay the joint density out around it.

    Raises
    ------
    SamplingError
        If the density is not finite anywhere it was tried.
    """
    mode = find_mode(laplace) if mode is None else mode
    system, at = laplace.system, laplace.natural(mode.x)
    found = system.mode(at.F, at.phi, at.beta)
    sizes = [n_levels * q for n_levels, q in system.effect_shapes]
    order = sorted(range(len(sizes)), key=lambda k: -sizes[k])
    levels, maps = _levels(system, found, at.F, order)
    arguments = JointArguments(
        rows=_rows(system, order),
        levels=levels,
        covariances=laplace.covariances,
        phi=laplace.phi,
        coefficients=laplace.coefficients,
        ordered=int(laplace.ordered),
        constant=system.constant,
        whitening=_whitening(system, found, levels, maps, order, mode),
    )
    return WhitenedPosterior(laplace, mode, arguments, tuple(order))


def _rows(system: ResponseSystem, order: Sequence[int]) -> Rows:
    factors = [system.factors[k] for k in order]
    n = system.n
    return Rows(
        system.family.code, system.y, system.trials, system.weights, system.offset,
        np.ascontiguousarray(system.X),
        np.ascontiguousarray(np.hstack([np.zeros((n, 0)), *(f.Z for f in factors)])),
        np.ascontiguousarray(
            np.stack([f.codes for f in factors], axis=1) if factors else np.zeros((n, 0)),
            dtype=np.int64,
        ),
    )  # fmt: skip


def _levels(system, found, F, order) -> tuple[Levels, list[np.ndarray]]:
    """Information of every level, and J = db/dv (J_k, q_k, q_k) at the mode."""
    w = np.maximum(-found.slopes[2], 0.0)
    P, r, maps = [], [], []
    b, U = (system.template.effects(part) for part in (found.b, found.U))
    roots = system.template.split(F)
    for k in order:
        f, L = system.factors[k], roots[k]
        own = np.zeros((f.n_levels, f.q, f.q))
        np.add.at(own, f.codes, w[:, None, None] * f.Z[:, :, None] * f.Z[:, None, :])
        P.append(own.ravel())
        r.append((np.einsum("jab,jb->ja", own, b[k]) + U[k]).ravel())
        C = np.linalg.cholesky(np.eye(f.q) + L.T @ own @ L)
        maps.append(L @ np.linalg.inv(C).transpose(0, 2, 1))
    qs = [system.factors[k].q for k in order]
    starts = np.asarray(system.layout.f_ptr)
    none = np.zeros(0)
    return Levels(
        np.array(qs, dtype=np.int64),
        np.cumsum([0, *qs]).astype(np.int64),
        np.cumsum([0, *(len(part) for part in r)]).astype(np.int64),
        np.cumsum([0, *(len(part) for part in P)]).astype(np.int64),
        np.array([*(starts[k] for k in order), 0], dtype=np.int64),
        np.concatenate([none, *P]),
        np.concatenate([none, *r]),
    ), maps


def _whitening(system, found, levels, maps, order, mode) -> Whitening:
    """What makes the Hessian in v the identity; H_vv has unit blocks on its diagonal."""
    from scipy.linalg import solve_triangular
    from scipy.sparse import csr_matrix

    w = np.maximum(-found.slopes[2], 0.0)
    columns, starts = [], levels.b
    for k, J in zip(order, maps, strict=True):
        f = system.factors[k]
        columns.append(np.einsum("ia,iab->ib", f.Z, J[f.codes]))  # d eta / dv of the row's level
    N, n = int(starts[-1]), system.n
    head = int(starts[1]) if len(order) else 0

    def sparse(number: int):
        q = columns[number].shape[1]
        at = order[number]
        index = system.factors[at].codes[:, None] * q + np.arange(q)
        shape = (n, int(starts[number + 1] - starts[number]))
        rows = np.repeat(np.arange(n), q)
        return csr_matrix((columns[number].ravel(), (rows, index.ravel())), shape)

    parts = [sparse(number) for number in range(len(order))]
    weighted = w[:, None] * system.X
    cross = np.vstack([np.zeros((0, system.p)), *(part.T @ weighted for part in parts)])
    B, T = csr_matrix((head, 0)), np.zeros((0, 0))
    if len(order) > 1:
        from scipy.sparse import diags, hstack

        tail = hstack(parts[1:]).tocsr()
        B = (parts[0].T @ diags(w) @ tail).tocsr()
        H = (tail.T @ diags(w) @ tail).toarray()
        for number in range(1, len(order)):  # diagonal blocks are the identity
            q = int(levels.q[number])
            for j in range(int(starts[number]) - head, int(starts[number + 1]) - head, q):
                H[j : j + q, j : j + q] = np.eye(q)
        B.sort_indices()
        root = np.linalg.cholesky(H - (B.T @ B).toarray())
        T = solve_triangular(root, np.eye(len(root)), lower=True).T
    # -H_vv^-1 H_vbeta by the same blocks
    low = T @ (T.T @ (cross[head:] - B.T @ cross[:head]))
    along = -np.vstack([cross[:head] - B @ low, low])
    return Whitening(
        mode.x, mode.scale, np.ascontiguousarray(along), np.ascontiguousarray(T),
        B.indptr.astype(np.int64), B.indices.astype(np.int64), B.data.astype(float),
    )  # fmt: skip
